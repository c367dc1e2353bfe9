//! What a message costs each node in log entries, writes, fsyncs and frames. Counted, not timed: one
//! message after the other leaves nothing to be batched, so that the counts are those of the commit
//! path alone.
//!
//! What goes on besides (pings between nodes, an election on a machine that stalls) only ever adds to
//! them. So the bounds have to hold for one of several runs of messages, and for all nodes in it.

use accord_jepsen::{Api, ChannelRef, ClusterOptions, RaftOptions, wait_until};

use crate::support::{SOON, options, run, started};

/// Longer than a test: a channel that went to sleep would have to be woken.
const NEVER_MS: u64 = 600_000;
/// Until all replicas are open, connected and level.
const WARM_UP: u64 = 20;
/// In each run of messages, and how many runs there may be.
const MESSAGES: u32 = 100;
const RUNS: usize = 10;

/// On the leader: its own fsync, one write for the log and one for what was applied, a request to each
/// follower with the entry and one with the word that it is committed. One frame is for the pings.
const LEADER_MAX: Counts = Counts {
    entries: 1.0,
    fsyncs: 1.0,
    batches: 2.0,
    frames_out: 5.0,
};
/// On a follower: the same writes, and two answers.
const FOLLOWER_MAX: Counts = Counts {
    frames_out: 3.0,
    ..LEADER_MAX
};

/// Since the node started, or for each message.
#[derive(Debug, Clone, Copy)]
struct Counts {
    entries: f64,
    fsyncs: f64,
    batches: f64,
    frames_out: f64,
}

impl Counts {
    async fn of(api: &Api) -> Counts {
        let count = async |name: &str| api.metric(name).await.unwrap();
        Counts {
            entries: count("accord_storage_entries_total").await,
            fsyncs: count("accord_storage_fsyncs_total").await,
            batches: count("accord_storage_batches_total").await,
            frames_out: count("accord_peer_frames_out_total").await,
        }
    }

    /// For each of the messages since an earlier look.
    fn per_message(&self, before: &Counts) -> Counts {
        let per = |now: f64, before: f64| (now - before) / f64::from(MESSAGES);
        Counts {
            entries: per(self.entries, before.entries),
            fsyncs: per(self.fsyncs, before.fsyncs),
            batches: per(self.batches, before.batches),
            frames_out: per(self.frames_out, before.frames_out),
        }
    }

    fn within(&self, max: &Counts) -> bool {
        self.entries <= max.entries
            && self.fsyncs <= max.fsyncs
            && self.batches <= max.batches
            && self.frames_out <= max.frames_out
    }
}

/// Every node has applied what the leader has.
async fn level(apis: &[Api], channel: &ChannelRef, head: u64) {
    for api in apis {
        wait_until("a replica to be level", SOON, || async {
            match api.channel_view(&channel.channel).await {
                Ok(view) if view.head == head => Ok(()),
                Ok(view) => Err(format!("{view:?}")),
                Err(error) => Err(error.to_string()),
            }
        })
        .await
        .unwrap();
    }
}

#[test]
fn one_message_at_a_time_costs_one_entry_and_one_fsync_on_each_node() {
    run(120, async {
        let cluster = started(ClusterOptions {
            raft: RaftOptions {
                idle_ms: Some(NEVER_MS),
                ..RaftOptions::default()
            },
            ..options(3)
        })
        .await;
        let apis = cluster.apis(&cluster.ids());
        let channel = apis[0].new_channel().await.unwrap();
        for _ in 0..WARM_UP {
            apis[0].post(&channel, "ann", "warm").await.unwrap();
        }
        let mut head = WARM_UP;
        level(&apis, &channel, head).await;
        let mut found = Vec::new();
        for _ in 0..RUNS {
            let leader = apis[0].leader_of(&channel, SOON).await.unwrap();
            let through = apis.iter().find(|api| api.node() == leader).unwrap();
            let before = counts(&apis).await;
            for _ in 0..MESSAGES {
                through.post(&channel, "ann", "counted").await.unwrap();
            }
            head += u64::from(MESSAGES);
            level(&apis, &channel, head).await;
            let costs: Vec<Counts> = counts(&apis)
                .await
                .iter()
                .zip(&before)
                .map(|(now, before)| now.per_message(before))
                .collect();
            let holds = apis.iter().zip(&costs).all(|(api, cost)| {
                let max = if api.node() == leader {
                    LEADER_MAX
                } else {
                    FOLLOWER_MAX
                };
                cost.within(&max)
            });
            if holds {
                return;
            }
            found.push((leader, costs));
        }
        panic!("a message costs more on each occasion: {found:#?}");
    });
}

async fn counts(apis: &[Api]) -> Vec<Counts> {
    let mut counts = Vec::new();
    for api in apis {
        counts.push(Counts::of(api).await);
    }
    counts
}
