//! Channels that nobody uses fall asleep, and nobody notices: neither those
//! who write to them, nor those who listen.

use std::time::Duration;

use accord_jepsen::{
    Api, ChannelRef, Cluster, ClusterOptions, ConnectOptions, Consistency, RaftOptions, wait_until,
};
use tokio::task::JoinSet;

use crate::support::{SOON, assert_gapless, options, run, started};
use crate::writer::{Writer, assert_kept, fill, read_whole, wait_level};

/// What stays awake: the directory.
const ALWAYS_OPEN: u64 = 1;

async fn sleepy_cluster(nodes: u64) -> Cluster {
    started(ClusterOptions {
        raft: RaftOptions {
            idle_ms: Some(300),
            ..RaftOptions::default()
        },
        ..options(nodes)
    })
    .await
}

/// Waits until these nodes keep no channel open.
async fn asleep(apis: &[Api]) {
    open_at_most(apis, 0).await;
}

async fn open_at_most(apis: &[Api], channels: u64) {
    for api in apis {
        wait_until("channels to sleep", SOON, || async {
            match api.cluster().await {
                Ok(view) if view.groups.open <= ALWAYS_OPEN + channels => Ok(()),
                Ok(view) => Err(format!("{} are open", view.groups.open)),
                Err(error) => Err(error.to_string()),
            }
        })
        .await
        .unwrap();
    }
}

async fn leader_from(api: &Api, channel: &ChannelRef) -> u64 {
    api.leader_of(channel, SOON).await.unwrap()
}

#[test]
fn a_channel_sleeps_on_all_nodes_and_wakes_through_any() {
    run(120, async {
        let cluster = sleepy_cluster(3).await;
        let apis = cluster.apis(&cluster.ids());
        let channel = apis[0].new_channel().await.unwrap();
        let mut count = fill(&apis[..1], &channel, "first", 3).await.len();
        let term = apis[0].channel_view(&channel.channel).await.unwrap().term;
        for round in 0..3 {
            for api in &apis {
                let name = format!("round {round} through {}", api.node());
                count += fill(std::slice::from_ref(api), &channel, &name, 3)
                    .await
                    .len();
                asleep(&apis).await;
            }
        }
        for api in &apis {
            let read = api.read_all(&channel, Consistency::Linearizable).await;
            assert_eq!(read.unwrap().len(), count);
            asleep(&apis).await;
        }
        // It went on as it was: nobody had to be elected again.
        let view = apis[0].channel_view(&channel.channel).await.unwrap();
        assert_eq!(view.term, term, "{view:?}");
    });
}

#[test]
fn a_key_is_remembered_while_the_channel_sleeps() {
    run(120, async {
        let cluster = sleepy_cluster(3).await;
        let apis = cluster.apis(&cluster.ids());
        let channel = apis[0].new_channel().await.unwrap();
        let first = apis[0].post_keyed(&channel, "ann", "once", "key").await;
        asleep(&apis).await;
        let again = apis[1].post_keyed(&channel, "ann", "once", "key").await;
        assert_eq!(again.unwrap().seq, first.unwrap().seq);
    });
}

#[test]
fn sockets_of_a_sleeping_channel_get_its_next_message() {
    run(120, async {
        let cluster = sleepy_cluster(3).await;
        let apis = cluster.apis(&cluster.ids());
        let channel = apis[0].new_channel().await.unwrap();
        let mut sockets = Vec::new();
        for api in &apis {
            sockets.push(api.connect(&channel, "listener").await.unwrap());
        }
        let mut sent = 0;
        for round in 0..4_usize {
            asleep(&apis).await;
            let through = &apis[round % apis.len()];
            sent += fill(
                std::slice::from_ref(through),
                &channel,
                &format!("{round}"),
                2,
            )
            .await
            .len();
        }
        for socket in &mut sockets {
            assert_gapless(&socket.messages(sent).await.unwrap(), 1);
        }
        // One that sends wakes it as well.
        asleep(&apis).await;
        sockets[1].send_text("awake?").await.unwrap();
        for socket in &mut sockets {
            assert_eq!(socket.message().await.unwrap().message, "awake?");
        }
    });
}

/// The feed of a node without a replica does not keep a channel awake.
#[test]
fn a_channel_sleeps_while_nodes_without_a_replica_follow_it() {
    run(180, async {
        let cluster = sleepy_cluster(5).await;
        let apis = cluster.apis(&cluster.ids());
        let channel = apis[0].new_channel().await.unwrap();
        let mut sockets = Vec::new();
        for api in &apis {
            sockets.push(api.connect(&channel, "listener").await.unwrap());
        }
        let mut sent = 0;
        for round in 0..4_usize {
            asleep(&apis).await;
            let through = &apis[round];
            sent += fill(
                std::slice::from_ref(through),
                &channel,
                &format!("{round}"),
                2,
            )
            .await
            .len();
        }
        for socket in &mut sockets {
            assert_gapless(&socket.messages(sent).await.unwrap(), 1);
        }
    });
}

#[test]
fn a_leader_that_dies_asleep_is_replaced_by_the_next_write() {
    run(180, async {
        let cluster = sleepy_cluster(3).await;
        let apis = cluster.apis(&cluster.ids());
        let channel = apis[0].new_channel().await.unwrap();
        let mut sent = fill(&apis, &channel, "before", 20).await.len();
        let leader = leader_from(&apis[0], &channel).await;
        asleep(&apis).await;
        cluster.kill(leader).unwrap();
        let others = cluster.apis(&cluster.others(leader));
        sent += fill(&others, &channel, "without", 20).await.len();
        asleep(&others).await;
        cluster.restart(leader).await.unwrap();
        let whole = read_whole(&cluster.api(leader), &channel).await;
        assert_eq!(whole.len(), sent);
        // What it missed while the channel slept comes to it without a write.
        asleep(&apis).await;
        wait_level(&cluster.api(leader), &channel, &whole).await;
    });
}

#[test]
fn all_nodes_restarted_while_channels_sleep_keep_everything() {
    run(180, async {
        let cluster = sleepy_cluster(3).await;
        let apis = cluster.apis(&cluster.ids());
        let mut channels = Vec::new();
        for _ in 0..8 {
            let channel = apis[0].new_channel().await.unwrap();
            let sent = fill(&apis, &channel, "before", 5).await.len();
            channels.push((channel, sent));
        }
        asleep(&apis).await;
        cluster.kill_all().unwrap();
        for node in cluster.ids() {
            cluster.start_node(node).unwrap();
        }
        cluster.wait_all_ready().await.unwrap();
        // A start opens the directory and nothing else.
        for api in &apis {
            let woken = api.metric("accord_groups_woken_total").await.unwrap();
            assert!((woken - 1.0).abs() < f64::EPSILON, "{woken} were opened");
        }
        for ((channel, before), api) in channels.iter().zip(apis.iter().cycle()) {
            let after = fill(std::slice::from_ref(api), channel, "after", 5).await;
            assert_eq!(read_whole(api, channel).await.len(), before + after.len());
        }
    });
}

/// A node that stood still while the others wrote and fell asleep: its sockets
/// get what they missed although nobody writes any more.
#[test]
fn a_node_that_missed_messages_gets_them_from_sleeping_channels() {
    run(180, async {
        let cluster = sleepy_cluster(3).await;
        let apis = cluster.apis(&cluster.ids());
        let channel = apis[0].new_channel().await.unwrap();
        let before = fill(&apis, &channel, "before", 4).await.len() as u64;
        let leader = leader_from(&apis[0], &channel).await;
        let away = cluster.others(leader)[0];
        let after = ConnectOptions::plain("listener").after(before);
        let mut socket = cluster
            .api(away)
            .connect_with(&channel, &after)
            .await
            .unwrap();
        asleep(&apis).await;
        cluster.pause(away).unwrap();
        let others = cluster.apis(&cluster.others(away));
        let missed = fill(&others, &channel, "without", 6).await.len();
        asleep(&others).await;
        cluster.resume(away).unwrap();
        assert_gapless(&socket.messages(missed).await.unwrap(), before + 1);
    });
}

/// Groups open and close all the time while their leaders die.
#[test]
fn nothing_is_lost_while_channels_doze_and_nodes_die() {
    run(300, async {
        let cluster = started(ClusterOptions {
            raft: RaftOptions {
                idle_ms: Some(100),
                ..RaftOptions::default()
            },
            ..options(3)
        })
        .await;
        let mut channels = Vec::new();
        for _ in 0..6 {
            channels.push(cluster.api(1).new_channel().await.unwrap());
        }
        for victim in cluster.ids() {
            let others = cluster.apis(&cluster.others(victim));
            let name = format!("without-{victim}");
            let start = |channel| Writer::start(others.clone(), channel, &name);
            let writers: Vec<Writer> = channels.iter().map(start).collect();
            for writer in &writers {
                writer.wait_more(5, SOON).await;
            }
            cluster.kill(victim).unwrap();
            for writer in &writers {
                writer.wait_more(5, SOON).await;
            }
            cluster.restart(victim).await.unwrap();
            for (channel, writer) in channels.iter().zip(writers) {
                let acked = writer.finish().await;
                let whole = read_whole(&cluster.api(victim), channel).await;
                assert_kept(&whole, &acked);
            }
        }
        for channel in &channels {
            let whole = read_whole(&cluster.api(1), channel).await;
            for node in cluster.ids() {
                wait_level(&cluster.api(node), channel, &whole).await;
            }
        }
    });
}

#[test]
fn only_so_many_channels_stay_awake() {
    const AWAKE_MAX: u64 = 10;
    run(180, async {
        let cluster = started(ClusterOptions {
            raft: RaftOptions {
                idle_ms: Some(60_000),
                channels_awake_max: Some(AWAKE_MAX),
                ..RaftOptions::default()
            },
            ..options(3)
        })
        .await;
        let apis = cluster.apis(&cluster.ids());
        let server = apis[0].create_server("many").await.unwrap();
        let mut posts = JoinSet::new();
        for number in 0..60_usize {
            let api = apis[number % 3].clone();
            let server = server.id.clone();
            posts.spawn(async move {
                let name = format!("channel {number}");
                let channel = api.create_channel(&server, &name).await.unwrap();
                let channel = ChannelRef {
                    server,
                    channel: channel.id,
                };
                api.post(&channel, "ann", "hello").await.unwrap();
                channel
            });
        }
        let channels = posts.join_all().await;
        open_at_most(&apis, AWAKE_MAX).await;
        for (channel, api) in channels.iter().zip(apis.iter().cycle()) {
            assert_eq!(read_whole(api, channel).await.len(), 1);
        }
    });
}

/// A node that leaves lets others lead what it led; what sleeps needs nothing.
#[test]
fn a_node_stops_at_once_although_it_led_sleeping_channels() {
    run(120, async {
        let cluster = sleepy_cluster(3).await;
        let apis = cluster.apis(&cluster.ids());
        let channel = apis[0].new_channel().await.unwrap();
        let mut sent = fill(&apis, &channel, "before", 10).await.len();
        let leader = leader_from(&apis[0], &channel).await;
        asleep(&apis).await;
        let stopped = cluster.stop(leader, Duration::from_secs(20)).await.unwrap();
        assert!(stopped.status.success());
        let others = cluster.apis(&cluster.others(leader));
        sent += fill(&others, &channel, "after", 10).await.len();
        assert_eq!(read_whole(&others[0], &channel).await.len(), sent);
    });
}
