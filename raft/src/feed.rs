//! How a node that holds no replica of a channel hears of its messages: it asks a node that does for
//! what comes after the last one it had, and is answered as soon as there is something.
//!
//! The cursor lives here, so another replica can go on where one failed, and nothing is missed or
//! seen twice.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
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
