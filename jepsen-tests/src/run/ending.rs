//! After the load: heal, and look at every node.
//!
//! What is waited for has a bound, and what did not come within it stands in the [`Ending`] as
//! absent. Nothing here judges; that is the checker's part.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use serde::Deserialize;
use tokio::time::Instant;

use super::Say;
use crate::api::Api;
use crate::history::{ChannelIx, Ending, FinalLog, Nanos, Outcome, Range, Seen, Value};
use crate::http::Http;
use crate::rng::Rng;
use crate::wait::wait_until;
use crate::wire::Message;
use crate::workload::context::{Context, NodeAddress};
use crate::workload::rest::{PAGE_MAX, Post, Rest, seen};
use crate::workload::retries::may_be_cured;

/// The promise: after healing, ready and writable within this.
pub const READY_WITHIN: Duration = Duration::from_secs(30);
/// How much longer is waited, so that the history can tell late from never.
const GRACE: Duration = Duration::from_secs(30);
/// For every node to show what every other node shows.
const LEVEL_WITHIN: Duration = Duration::from_secs(30);
/// For all replicas of a channel to have applied the same entries.
const HASHES_WITHIN: Duration = Duration::from_secs(15);
/// For subscribers to get what is in the channels.
const STREAMS_WITHIN: Duration = Duration::from_secs(30);
/// Between two attempts at a write that is refused.
const ATTEMPT_PAUSE: Duration = Duration::from_millis(100);
/// Reading a whole log.
const LOG_WITHIN: Duration = Duration::from_secs(60);

/// Looks at every node after `heal` was called at `healed`, and tells subscribers nothing: they
/// are expected to get there by themselves.
pub async fn look(context: &Arc<Context>, healed: Nanos, seed: u64, say: Say<'_>) -> Ending {
    let ready = join_all(context.nodes.iter().map(|node| ready_at(context, *node))).await;
    for (node, at) in &ready {
        match at {
            Some(at) => say(&format!(
                "node {node} ready {} ms after healing",
                ms(*at, healed)
            )),
            None => say(&format!("node {node} is NOT READY after healing")),
        }
    }
    let writes = context
        .channel_ixs()
        .map(|channel| first_write(Arc::clone(context), channel, seed));
    let written = join_all(writes).await;
    let writable: Vec<(ChannelIx, Option<Nanos>)> = written
        .iter()
        .map(|(channel, at, _)| (*channel, *at))
        .collect();
    if let Some(last) = writable.iter().filter_map(|(_, at)| *at).max() {
        say(&format!(
            "all channels that are writable were so {} ms after healing",
            ms(last, healed)
        ));
    }
    let heads: BTreeMap<ChannelIx, u64> = written
        .iter()
        .map(|(channel, _, head)| (*channel, *head))
        .collect();
    let level = wait_level(context, &heads).await;
    if !level {
        say("some node does not show all that another one acknowledged");
    }
    let streams_reached = wait_streams(context, &heads).await;
    if !streams_reached {
        say("some subscriber has not reached the head");
    }
    let mut logs = Vec::new();
    let mut replicas = Vec::new();
    let looks = context.channel_ixs().map(|channel| async move {
        let holders = replicas_of(context, channel).await;
        let hashes = state_hashes(context, channel, &holders).await;
        (channel, holders, hashes)
    });
    for (channel, holders, hashes) in join_all(looks).await {
        replicas.push((channel, holders));
        let reads = context
            .nodes
            .iter()
            .map(|node| whole_log(context, *node, channel));
        for (node, messages) in context.nodes.iter().zip(join_all(reads).await) {
            let Some(messages) = messages else {
                say(&format!(
                    "the log of channel {} on node {} could not be read",
                    channel.0, node.id
                ));
                continue;
            };
            logs.push(FinalLog {
                channel,
                node: node.id,
                messages,
                state_hash: hashes.get(&node.id).cloned(),
            });
        }
    }
    Ending {
        healed,
        ready,
        writable,
        replicas,
        logs,
    }
}

async fn ready_at(context: &Context, node: NodeAddress) -> (u64, Option<Nanos>) {
    let api = Api::new(Http::new(), node.id, node.api);
    let ready = wait_until("readiness", READY_WITHIN + GRACE, || async {
        match api.get("/readyz").await {
            Ok(response) if response.status == 200 => Ok(()),
            Ok(response) => Err(format!("/readyz answers {}", response.status)),
            Err(error) => Err(error.to_string()),
        }
    });
    (node.id, ready.await.ok().map(|()| context.clock.now()))
}

/// One write per channel, repeated with its key until it is acknowledged; when it was, and its
/// seq.
async fn first_write(
    context: Arc<Context>,
    channel: ChannelIx,
    seed: u64,
) -> (ChannelIx, Option<Nanos>, u64) {
    let mut rng = Rng::new(seed ^ u64::from(channel.0));
    let mut rest = Rest::new(Arc::clone(&context));
    let post = Post {
        channel,
        user: "ending".to_owned(),
        body: format!("the end of channel {}", channel.0),
        key: Some(format!("ending-{}", channel.0)),
        if_head: None,
    };
    let until = Instant::now() + READY_WITHIN + GRACE;
    while Instant::now() < until {
        let node = context.pick_node(&mut rng);
        match rest.append(node, &post).await {
            Outcome::Ok {
                value: Value::Appended(seen),
            } => return (channel, Some(context.clock.now()), seen.seq),
            outcome if may_be_cured(&outcome) => {
                tokio::time::sleep_until(Instant::now() + ATTEMPT_PAUSE).await;
            }
            _ => break,
        }
    }
    (channel, None, 0)
}

/// Whether every node's own state reached every head. These reads are operations of sessions, as
/// every stale read is.
async fn wait_level(context: &Arc<Context>, heads: &BTreeMap<ChannelIx, u64>) -> bool {
    let waits = context.nodes.iter().map(|node| async {
        let mut rest = Rest::new(Arc::clone(context));
        let until = Instant::now() + LEVEL_WITHIN;
        for (channel, head) in heads {
            loop {
                let newest = Range::Latest { limit: 1 };
                let outcome = rest.read(*node, *channel, false, newest).await;
                if let Outcome::Ok {
                    value: Value::Read { head: shown, .. },
                } = outcome
                    && shown >= *head
                {
                    break;
                }
                if Instant::now() > until {
                    return false;
                }
                tokio::time::sleep_until(Instant::now() + ATTEMPT_PAUSE).await;
            }
        }
        true
    });
    join_all(waits).await.into_iter().all(|level| level)
}

/// Whether every subscriber that ever got something got the last message of its channel.
async fn wait_streams(context: &Context, heads: &BTreeMap<ChannelIx, u64>) -> bool {
    wait_until("the subscribers", STREAMS_WITHIN, || async {
        let behind = context
            .subscribers_reached()
            .into_values()
            .filter(|(channel, seq)| heads.get(channel).is_some_and(|head| seq < head))
            .count();
        match behind {
            0 => Ok(()),
            _ => Err(format!("{behind} are behind")),
        }
    })
    .await
    .is_ok()
}

/// The nodes that hold a replica; none if no node can say.
async fn replicas_of(context: &Context, channel: ChannelIx) -> Vec<u64> {
    for node in &context.nodes {
        let api = Api::new(Http::new(), node.id, node.api);
        if let Ok(view) = api.channel_view(&context.channel(channel).channel).await {
            return view.replicas;
        }
    }
    Vec::new()
}

/// Every message that a node's own state holds, oldest first; none if it cannot be read.
async fn whole_log(context: &Context, node: NodeAddress, channel: ChannelIx) -> Option<Vec<Seen>> {
    let api = Api::new(Http::new(), node.id, node.api);
    let reading = async {
        let mut log: Vec<Seen> = Vec::new();
        loop {
            let after = log.last().map_or(0, |last| last.seq);
            let query = format!("after={after}&limit={PAGE_MAX}&consistency=stale");
            match api.messages(context.channel(channel), &query).await {
                Ok(page) => {
                    let last = page.len() < PAGE_MAX as usize;
                    // Whatever the seqs are: the checker is to see what the node shows. Only one
                    // that does not grow would be read for ever.
                    let grows = page
                        .last()
                        .is_some_and(|message: &Message| message.seq > after);
                    log.extend(page.into_iter().map(seen));
                    if last || !grows {
                        return log;
                    }
                }
                Err(_) => tokio::time::sleep_until(Instant::now() + ATTEMPT_PAUSE).await,
            }
        }
    };
    tokio::time::timeout(LOG_WITHIN, reading).await.ok()
}

/// What `GET /api/cluster/channels/{id}?hash=true` says of this node's replica.
#[derive(Debug, Deserialize)]
struct ReplicaView {
    applied: Option<u64>,
    state_hash: Option<String>,
}

/// The state hash of every node that holds a replica, once all have one of the same log index, or
/// as they are when that does not come about.
async fn state_hashes(
    context: &Context,
    channel: ChannelIx,
    holders: &[u64],
) -> BTreeMap<u64, (u64, String)> {
    let target = format!(
        "/api/cluster/channels/{}?hash=true",
        context.channel(channel).channel
    );
    let apis: Vec<Api> = context
        .nodes
        .iter()
        .map(|node| Api::new(Http::new(), node.id, node.api))
        .collect();
    let until = Instant::now() + HASHES_WITHIN;
    loop {
        let asked = apis.iter().map(|api| async {
            let response = api.get(&target).await.ok()?;
            let view: ReplicaView = response.json().ok()?;
            Some((api.node(), (view.applied?, view.state_hash?)))
        });
        let hashes: BTreeMap<u64, (u64, String)> =
            join_all(asked).await.into_iter().flatten().collect();
        let mut indexes: Vec<u64> = hashes.values().map(|(applied, _)| *applied).collect();
        indexes.dedup();
        let complete = holders.iter().all(|node| hashes.contains_key(node));
        if (complete && indexes.len() <= 1) || Instant::now() > until {
            return hashes;
        }
        tokio::time::sleep_until(Instant::now() + ATTEMPT_PAUSE).await;
    }
}

fn ms(at: Nanos, since: Nanos) -> u64 {
    at.saturating_sub(since) / 1_000_000
}
