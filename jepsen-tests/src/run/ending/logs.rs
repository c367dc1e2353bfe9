//! What every node holds of a channel in the end: the hash of its state, and its whole log.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, timeout, timeout_at};

use super::ATTEMPT_PAUSE;
use crate::client::api::Api;
use crate::client::http::Http;
use crate::client::wire::Message;
use crate::history::{ChannelIx, Seen};
use crate::workload::context::{Context, NodeAddress};
use crate::workload::rest::{PAGE_MAX, seen};

/// Reading a whole log.
pub const LOG_WITHIN: Duration = Duration::from_secs(60);
/// The status of a channel that a node does not know.
const NOT_FOUND: u16 = 404;

/// State hashes by node, each with the log index that it is of.
pub type Hashes = BTreeMap<u64, (u64, String)>;

/// The nodes that hold a replica of a channel (none if no node can say), and the hashes of their
/// states, once all have one of the same log index, or as they are when that does not come about.
pub async fn replicas(
    context: &Context,
    channel: ChannelIx,
    within: Duration,
) -> (Vec<u64>, Hashes) {
    let until = Instant::now() + within;
    let apis = apis(context);
    let id = &context.channel(channel).channel;
    let holders = timeout_at(until, Box::pin(holders(&apis, id))).await;
    let holders = holders.unwrap_or_default();
    loop {
        let asked = apis.iter().map(|api| state_hash(api, id, within));
        let hashes: Hashes = join_all(asked).await.into_iter().flatten().collect();
        let mut indexes: Vec<u64> = hashes.values().map(|(applied, _)| *applied).collect();
        indexes.dedup();
        let complete = holders.iter().all(|node| hashes.contains_key(node));
        if (complete && indexes.len() <= 1) || Instant::now() > until {
            return (holders, hashes);
        }
        tokio::time::sleep_until(Instant::now() + ATTEMPT_PAUSE).await;
    }
}

async fn holders(apis: &[Api], channel: &str) -> Vec<u64> {
    for api in apis {
        if let Ok(view) = api.channel_view(channel).await {
            return view.replicas;
        }
    }
    Vec::new()
}

async fn state_hash(api: &Api, channel: &str, within: Duration) -> Option<(u64, (u64, String))> {
    let asked = timeout(within, Box::pin(api.channel_hash(channel))).await;
    let view = asked.ok()?.ok()?;
    Some((api.node(), (view.applied, view.state_hash?)))
}

/// Every message that a node's own state holds, oldest first; none if it cannot be read.
pub async fn whole_log(
    context: &Context,
    node: NodeAddress,
    channel: ChannelIx,
    page_within: Duration,
) -> Option<Vec<Seen>> {
    let api = Api::new(Http::new(), node.id, node.api);
    let reading = async {
        let mut log: Vec<Seen> = Vec::new();
        loop {
            let after = log.last().map_or(0, |last| last.seq);
            let page = page_after(context, &api, channel, after, page_within).await?;
            let last = page.len() < PAGE_MAX as usize;
            // Whatever the seqs are: the checker is to see what the node shows. Only one that does
            // not grow would be read for ever.
            let grows = page.last().is_some_and(|message| message.seq > after);
            log.extend(page.into_iter().map(seen));
            if last || !grows {
                return Some(log);
            }
        }
    };
    timeout(LOG_WITHIN, Box::pin(reading)).await.ok().flatten()
}

/// The page behind `after`. A node that to the last does not know the channel shows nothing of it,
/// which is an answer: it may have lost all that it was told.
async fn page_after(
    context: &Context,
    api: &Api,
    channel: ChannelIx,
    after: u64,
    within: Duration,
) -> Option<Vec<Message>> {
    let query = format!("after={after}&limit={PAGE_MAX}&consistency=stale");
    let until = Instant::now() + within;
    let mut is_unknown = false;
    loop {
        let asking = Box::pin(api.messages(context.channel(channel), &query));
        match timeout_at(until, asking).await {
            Ok(Ok(page)) => return Some(page),
            Ok(Err(error)) => is_unknown = error.status() == Some(NOT_FOUND),
            Err(_) => return is_unknown.then(Vec::new),
        }
        tokio::time::sleep_until(Instant::now() + ATTEMPT_PAUSE).await;
    }
}

fn apis(context: &Context) -> Vec<Api> {
    let nodes = context.nodes.iter();
    nodes
        .map(|node| Api::new(Http::new(), node.id, node.api))
        .collect()
}
