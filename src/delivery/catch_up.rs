//! Reading history for a connection that is behind what its tail keeps.

use std::sync::Arc;
use std::time::Duration;

use accord_raft::Channel;
use accord_raft::Consistency;
use accord_raft::Range;
use accord_raft::ReadError;
use accord_raft::machine::Message;
use futures_util::future::BoxFuture;

use crate::app::App;

/// Messages read from storage at a time, and bytes of them if each is as large as it may be.
const CATCH_UP_MESSAGES_MAX: usize = 128;
const CATCH_UP_BYTES_MAX: usize = 2 << 20;
/// Pause before history is asked for again when it could not be read.
const CATCH_UP_RETRY: Duration = Duration::from_millis(100);

/// A page of history on its way.
pub type PageRead = BoxFuture<'static, Result<Vec<Message>, ReadError>>;

/// Reads what follows `cursor`. Empty when it cannot be read for now: whoever asks asks
/// again, until there is a leader.
pub fn read_page(app: &App, channel: &Arc<Channel>, cursor: u64) -> PageRead {
    let node = app.node.clone();
    let channel = channel.clone();
    let fitting = CATCH_UP_BYTES_MAX / app.limits.message_bytes_max;
    let range = Range::After {
        seq: cursor,
        limit: fitting.clamp(1, CATCH_UP_MESSAGES_MAX),
    };
    Box::pin(async move {
        let mut page = node.messages(&channel, range, Consistency::Stale).await;
        if page.as_ref().is_ok_and(|page| page.messages.is_empty()) {
            // Whoever answered was behind what this node was told of; the leader is not.
            page = node
                .messages(&channel, range, Consistency::Linearizable)
                .await;
        }
        match page {
            Ok(page) if !page.messages.is_empty() => Ok(page.messages),
            Ok(_) | Err(ReadError::NoLeader | ReadError::Busy) => {
                #[expect(clippy::disallowed_methods, reason = "a refused read says no when")]
                tokio::time::sleep(CATCH_UP_RETRY).await;
                Ok(Vec::new())
            }
            Err(error) => Err(error),
        }
    })
}

/// The messages up to the first gap, of which there should be none.
pub fn gapless(messages: &[Message]) -> &[Message] {
    let gap = messages
        .windows(2)
        .position(|pair| pair[1].seq != pair[0].seq + 1);
    match gap {
        Some(index) => &messages[..=index],
        None => messages,
    }
}
