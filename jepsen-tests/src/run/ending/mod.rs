//! After the load: heal, and look at every node.
//!
//! What is waited for has a bound, and what did not come within it stands in the [`Ending`] as
//! absent. Nothing here judges; that is the checker's part.

mod logs;
mod patience;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join, join_all};
use tokio::time::Instant;

use super::Say;
use crate::client::api::Api;
use crate::client::http::Http;
use crate::history::{ChannelIx, Ending, FinalLog, Nanos, Outcome, Range, Value};
use crate::rng::Rng;
use crate::wait::wait_until;
use crate::workload::commands;
use crate::workload::context::{Context, NodeAddress};
use crate::workload::rest::{Post, Rest};
use crate::workload::retries::may_be_cured;
use crate::world::World;
use logs::Hashes;
use patience::Patience;

/// The promise: after healing, ready and writable within this.
pub const READY_WITHIN: Duration = Duration::from_secs(30);
/// How much longer is waited, so that the history can tell late from never.
const GRACE: Duration = Duration::from_secs(30);
/// Between two attempts at what is refused.
const ATTEMPT_PAUSE: Duration = Duration::from_millis(100);

/// Looks at every node after `heal` was called at `healed`, and tells subscribers nothing: they
/// are expected to get there by themselves.
pub async fn look(
    world: &World,
    context: &Arc<Context>,
    healed: Nanos,
    seed: u64,
    say: Say<'_>,
) -> Ending {
    let ready = join_all(
        context
            .nodes
            .iter()
            .map(|node| ready_at(world, context, *node)),
    );
    let writes = context
        .channel_ixs()
        .map(|channel| first_write(world, context, channel, seed));
    let (ready, written) = join(ready, join_all(writes)).await;
    say_who_is_ready(&ready, healed, say);
    let writable: Vec<(ChannelIx, Option<Nanos>)> = written
        .iter()
        .map(|(channel, at, _)| (*channel, *at))
        .collect();
    if let Some(last) = writable.iter().filter_map(|(_, at)| *at).max() {
        let ms = ms(last, healed);
        say(&format!(
            "all channels that are writable were so {ms} ms after healing"
        ));
    }
    let heads: BTreeMap<ChannelIx, u64> = written
        .iter()
        .map(|(channel, _, head)| (*channel, *head))
        .collect();
    let all_ready = ready.iter().all(|(_, at)| at.is_some());
    let all_writable = writable.iter().all(|(_, at)| at.is_some());
    let patience = Patience::WHOLE.after(all_ready && all_writable);
    let (heads, patience) = wait_for_replies(context, heads, patience, say).await;
    let patience = wait_for_all_to_show(context, &heads, patience, say).await;
    let states = context.channel_ixs().map(|channel| async move {
        let (holders, hashes) = logs::replicas(context, channel, patience.hashes).await;
        (channel, holders, hashes)
    });
    let states = join_all(states).await;
    let logs = final_logs(context, &states, patience, say).await;
    Ending {
        healed,
        ready,
        writable,
        replicas: states
            .into_iter()
            .map(|(channel, holders, _)| (channel, holders))
            .collect(),
        logs,
    }
}

fn say_who_is_ready(ready: &[(u64, Option<Nanos>)], healed: Nanos, say: Say<'_>) {
    for (node, at) in ready {
        match at {
            Some(at) => say(&format!(
                "node {node} ready {} ms after healing",
                ms(*at, healed)
            )),
            None => say(&format!("node {node} is NOT READY after healing")),
        }
    }
}

/// Waits for the agent's replies, if it was asked anything. Where the channels end then, and the
/// patience that is left.
async fn wait_for_replies(
    context: &Context,
    mut heads: BTreeMap<ChannelIx, u64>,
    patience: Patience,
    say: Say<'_>,
) -> (BTreeMap<ChannelIx, u64>, Patience) {
    if context.commands == 0 {
        return (heads, patience);
    }
    let waits = heads.keys().map(|channel| async {
        let head = commands::answered(context, *channel, patience.replies).await;
        (*channel, head)
    });
    let answered = join_all(waits).await;
    let all = answered.iter().all(|(_, head)| head.is_some());
    if !all {
        say("some command has no reply");
    }
    let reached = answered.into_iter();
    heads.extend(reached.filter_map(|(channel, head)| Some((channel, head?))));
    (heads, patience.after(all))
}

/// Waits for nodes and subscribers to show what is in the channels; the patience that is left.
async fn wait_for_all_to_show(
    context: &Arc<Context>,
    heads: &BTreeMap<ChannelIx, u64>,
    patience: Patience,
    say: Say<'_>,
) -> Patience {
    let level = wait_level(context, heads, patience.level).await;
    if !level {
        say("some node does not show all that another one acknowledged");
    }
    let patience = patience.after(level);
    let reached = wait_streams(context, heads, patience.streams).await;
    if !reached {
        say("some subscriber has not reached the head");
    }
    patience.after(reached)
}

/// Reads every channel's log on every node, all at the same time.
async fn final_logs(
    context: &Context,
    states: &[(ChannelIx, Vec<u64>, Hashes)],
    patience: Patience,
    say: Say<'_>,
) -> Vec<FinalLog> {
    let reads = states.iter().flat_map(|(channel, _, hashes)| {
        context.nodes.iter().map(move |node| async move {
            let log = logs::whole_log(context, *node, *channel, patience.page).await;
            (*channel, node.id, log, hashes.get(&node.id))
        })
    });
    let mut logs = Vec::new();
    for (channel, node, messages, hash) in join_all(reads).await {
        match messages {
            Some(messages) => logs.push(FinalLog {
                channel,
                node,
                messages,
                state_hash: hash.cloned(),
            }),
            None => say(&format!(
                "the log of channel {} on node {node} could not be read",
                channel.0
            )),
        }
    }
    logs
}

/// When the node was ready.
async fn ready_at(world: &World, context: &Context, node: NodeAddress) -> (u64, Option<Nanos>) {
    let api = Api::new(Http::new(), node.id, node.api);
    let ready = wait_until("readiness", READY_WITHIN + GRACE, || async {
        match api.get("/readyz").await {
            Ok(response) if response.status == 200 => Ok(true),
            _ if !world.cluster().is_running(node.id) || is_lost(world) => Ok(false),
            Ok(response) => Err(format!("/readyz answers {}", response.status)),
            Err(error) => Err(error.to_string()),
        }
    });
    let is_ready = ready.await.unwrap_or(false);
    (node.id, is_ready.then(|| context.clock.now()))
}

/// Whether so many processes have ended since the healing that there is no majority: nobody starts
/// them again.
fn is_lost(world: &World) -> bool {
    let nodes = world.cluster().ids();
    let running = nodes
        .iter()
        .filter(|node| world.cluster().is_running(**node));
    running.count() <= nodes.len() / 2
}

/// One write per channel, repeated with its key until it is acknowledged; when it was, and its
/// seq.
async fn first_write(
    world: &World,
    context: &Arc<Context>,
    channel: ChannelIx,
    seed: u64,
) -> (ChannelIx, Option<Nanos>, u64) {
    let mut rng = Rng::new(seed ^ u64::from(channel.0));
    let mut rest = Rest::new(Arc::clone(context));
    let post = Post {
        channel,
        user: "ending".to_owned(),
        body: format!("the end of channel {}", channel.0),
        key: Some(format!("ending-{}", channel.0)),
        if_head: None,
    };
    let until = Instant::now() + READY_WITHIN + GRACE;
    while Instant::now() < until && !is_lost(world) {
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
async fn wait_level(
    context: &Arc<Context>,
    heads: &BTreeMap<ChannelIx, u64>,
    within: Duration,
) -> bool {
    let waits = context.nodes.iter().map(|node| async {
        let mut rest = Rest::new(Arc::clone(context));
        let until = Instant::now() + within;
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
async fn wait_streams(
    context: &Context,
    heads: &BTreeMap<ChannelIx, u64>,
    within: Duration,
) -> bool {
    wait_until("the subscribers", within, || async {
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

fn ms(at: Nanos, since: Nanos) -> u64 {
    at.saturating_sub(since) / 1_000_000
}
