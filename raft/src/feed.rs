//! How a node that holds no replica of a channel hears of its messages: it asks a node that does for
//! what comes after the last one it had, and is answered as soon as there is something.
//!
//! The cursor lives here, so another replica can go on where one failed, and nothing is missed or
//! seen twice.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use accord_storage::GroupId;
use tokio::sync::oneshot;
use tokio::sync::watch;
use tokio::time::Instant;
use uuid::Uuid;

use crate::api::Channel;
use crate::machine::Committed;
use crate::machine::Message;
use crate::peers::Kind;
use crate::remote;
use crate::remote::FeedRequest;
use crate::service::FEED_WAIT_MAX;
use crate::shared::Shared;

/// Pause before another replica is asked after one has failed.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// How long a channel's head is kept for feeds after the last one asked: several times as long as a
/// feed waits, so that one that asks again finds it.
const HEAD_KEPT: Duration = Duration::from_secs(60);

/// The heads of channels that feeds of other nodes wait for. They outlive the replicas, so that a
/// channel may sleep while it is followed: a feed that asks for what comes after the head need not
/// wake it.
#[derive(Default)]
pub(crate) struct Feeds {
    followed: Mutex<BTreeMap<GroupId, Followed>>,
}

struct Followed {
    heads: Arc<watch::Sender<u64>>,
    asked: Instant,
}

impl Feeds {
    /// Where the head of `group` is published, if a feed follows it.
    pub(crate) fn heads(&self, group: GroupId) -> Option<Arc<watch::Sender<u64>>> {
        let followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        followed.get(&group).map(|it| Arc::clone(&it.heads))
    }

    /// A feed follows `group`, whose replica publishes its head to `heads`.
    pub(crate) fn follow(&self, group: GroupId, heads: &Arc<watch::Sender<u64>>) {
        let mut followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        let it = Followed {
            heads: Arc::clone(heads),
            asked: Instant::now(),
        };
        followed.insert(group, it);
    }

    /// Forgets channels that no feed has asked for in a while.
    pub(crate) fn prune(&self) {
        let mut followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        followed.retain(|_, it| it.asked.elapsed() < HEAD_KEPT);
    }
}

/// Delivers everything after `after` until `hold` is dropped or the node stops.
pub(crate) async fn run(
    shared: Arc<Shared>,
    channel: Arc<Channel>,
    mut after: u64,
    hold: oneshot::Receiver<()>,
) {
    let mut stopping = shared.stopping.subscribe();
    let follow = async {
        let mut turn = 0;
        loop {
            match ask(&shared, &channel, after, turn).await {
                Some(messages) if !messages.is_empty() => {
                    match deliver(&shared, &channel, after, messages) {
                        Some(last) => after = last,
                        None => pause().await,
                    }
                }
                // Nothing new there for a while: another replica may know more.
                Some(_) => turn += 1,
                None => {
                    turn += 1;
                    pause().await;
                }
            }
        }
    };
    tokio::select! {
        () = follow => {}
        _ = hold => {}
        _ = stopping.wait_for(|stopping| *stopping) => {}
    }
}

async fn ask(shared: &Shared, channel: &Channel, after: u64, turn: usize) -> Option<Vec<Message>> {
    let up: Vec<_> = channel
        .replicas
        .iter()
        .copied()
        .filter(|node| shared.is_up(*node))
        .collect();
    // Not the preferred leader first: it has enough to do.
    let node = up.get((up.len().saturating_sub(1) + turn) % up.len().max(1))?;
    let request = FeedRequest {
        group: channel.group,
        after,
        wait_ms: u32::try_from(FEED_WAIT_MAX.as_millis()).unwrap_or(u32::MAX),
    };
    let deadline = FEED_WAIT_MAX + Duration::from_secs(5);
    let call = shared
        .peer(*node)?
        .call(Kind::Feed.byte(), request.encode(), deadline);
    let answer = call.await.ok()?;
    remote::decode_answer(&answer)
        .ok()
        .map(|found| found.messages)
}

/// Answers the new cursor. What is not the next in order is not delivered, but asked for again.
fn deliver(shared: &Shared, channel: &Channel, after: u64, messages: Vec<Message>) -> Option<u64> {
    let first = messages.first()?;
    let gapless = messages
        .iter()
        .zip(after + 1..)
        .all(|(message, seq)| message.seq == seq);
    if !gapless {
        tracing::error!(channel = %Uuid::from_bytes(channel.id), after, "a feed had a gap");
        return None;
    }
    let last = after + messages.len() as u64;
    let batch = Committed {
        first_seq: first.seq,
        timestamp_ms: first.timestamp_ms,
        messages,
    };
    shared
        .delivery
        .committed(Uuid::from_bytes(channel.id), &Arc::new(batch));
    Some(last)
}

#[expect(
    clippy::disallowed_methods,
    reason = "a replica that fails is not asked again at once"
)]
async fn pause() {
    tokio::time::sleep(RETRY_PAUSE).await;
}
