//! The machine of one channel: a gapless sequence of messages.
//!
//! Bodies stay in the log, where the entry that brought them is; the rows say
//! which entry holds which messages. `Table::Index` has one [`IndexRow`] for
//! each batch that brought messages, `Table::State` the head, the sessions, and
//! the idempotency keys that are remembered.
//!
//! Invariants:
//! - The messages of a channel have seq 1, 2, 3 … in log order, without gaps,
//!   and timestamps that never decrease; all messages of a batch have the same.
//! - A refusal uses no seq.
//! - [`committed`] gives from an index row and its entry exactly the messages
//!   that applying that entry gave.

mod history;
mod keys;
#[cfg(test)]
mod tests;
mod window;

use accord_storage::Table;
use bincode::{BorrowDecode, Decode, Encode};
use bytes::Bytes;

use super::batch::Batch;
use super::session::Sessions;
use super::text::Text;
use super::{Applied, MachineError, Outcome, Overlay, View, codec};

pub use history::{Accepted, IndexRow, committed, index_at, index_from, index_up_to};
#[cfg(feature = "planted-bugs")]
pub(crate) use keys::is_remembered_key;
pub use window::{KEY_AGE_MS_MAX, KEY_MESSAGES_MAX};

const HEAD_VERSION: u8 = 1;

/// What can be asked of a channel. New kinds are added at the end, because the
/// position is what is encoded.
#[derive(Debug, Clone, PartialEq, Eq, Encode, BorrowDecode)]
pub enum Command<'a> {
    /// Add a message.
    Post(Post<'a>),
}

/// A message to be added. The edge has checked its texts; the machine takes any.
#[derive(Debug, Clone, PartialEq, Eq, Encode, BorrowDecode)]
pub struct Post<'a> {
    /// The id that the message gets, minted by whoever asks.
    pub id: [u8; 16],
    /// Who writes it.
    pub username: &'a str,
    /// The message itself.
    pub body: &'a str,
    /// Do this once only: the same key from the same user gives the same
    /// message while the key is remembered.
    pub key: Option<&'a str>,
    /// Refuse unless the last message has this seq.
    pub expected_head: Option<u64>,
    /// Id of the message that this one answers.
    pub reply_to: Option<[u8; 16]>,
}

/// Where the channel stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Encode, Decode)]
pub struct Head {
    /// Seq of the last message, 0 before the first.
    pub seq: u64,
    /// Latest time stamped so far, Unix milliseconds.
    pub clock_ms: u64,
    /// Not after the oldest key that has rows: seq and timestamp of its message.
    /// Saves looking for keys to forget when there are none.
    oldest_key: Option<(u64, u64)>,
}

/// A message of the channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Its place in the channel, from 1.
    pub seq: u64,
    /// Its id.
    pub id: [u8; 16],
    /// When, Unix milliseconds of the channel's clock.
    pub timestamp_ms: u64,
    /// Who wrote it.
    pub username: Text,
    /// The message itself.
    pub body: Text,
    /// Id of the message that this one answers.
    pub reply_to: Option<[u8; 16]>,
    /// Which agent wrote it, if one did.
    pub agent: Option<Text>,
}

/// The messages that one batch added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// Seq of the first one.
    pub first_seq: u64,
    /// When, for all of them, Unix milliseconds of the channel's clock.
    pub timestamp_ms: u64,
    /// At least one, in order of seq.
    pub messages: Vec<Message>,
}

/// The state machine of a channel.
#[derive(Debug)]
pub struct ChannelMachine {
    head: Head,
    sessions: Sessions,
}

impl ChannelMachine {
    /// Begins from the rows of a channel, also from none.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn load(view: &dyn View) -> Result<Self, MachineError> {
        Ok(Self {
            head: head(view)?,
            sessions: Sessions::load(view)?,
        })
    }

    /// Where the channel stands after what was applied.
    #[must_use]
    pub fn head(&self) -> Head {
        self.head
    }

    /// Applies the next entry; see [`super::Machine::apply`].
    ///
    /// # Errors
    /// When this replica's rows cannot be read. The machine and the overlay are
    /// then of no use any more.
    pub fn apply(
        &mut self,
        overlay: &mut Overlay<'_>,
        log_index: u64,
        payload: &Bytes,
    ) -> Result<Applied, MachineError> {
        let Ok(batch) = Batch::read(payload) else {
            return Ok(Applied::malformed());
        };
        let head = &mut self.head;
        head.clock_ms = head.clock_ms.max(batch.timestamp_ms());
        let first_seq = head.seq + 1;
        let mut messages = Vec::with_capacity(batch.slots());
        let mut keys_added = 0;
        let mut applied = self.sessions.take(overlay, &batch, |overlay, command| {
            let Command::Post(post) = command;
            keys_added += usize::from(post.key.is_some());
            let outcome = decide(overlay, head, &post)?;
            if is_accepted(&outcome) {
                messages.push(message(payload, head, &post));
            }
            Ok(outcome)
        })?;
        window::forget(overlay, head, keys_added)?;
        let value = codec::encode_record(HEAD_VERSION, head);
        overlay.put(Table::State, keys::head(), value);
        if !messages.is_empty() {
            let row = IndexRow::new(log_index, head.clock_ms, &applied.outcomes);
            overlay.put(Table::Index, keys::index(first_seq), row.encode());
            applied.committed = Some(Committed {
                first_seq,
                timestamp_ms: head.clock_ms,
                messages,
            });
        }
        Ok(applied)
    }
}

/// Where the channel stands, read from its rows.
///
/// # Errors
/// When they cannot be read.
pub fn head(view: &dyn View) -> Result<Head, MachineError> {
    match view.get(Table::State, &keys::head())? {
        Some(row) => {
            codec::decode_record(HEAD_VERSION, &row).map_err(|_| MachineError::Row("channel head"))
        }
        None => Ok(Head::default()),
    }
}

/// Decides about a post and, if it is accepted, moves the head.
///
/// The key comes first: a post that is sent again must get the answer of the
/// first one, although the head has moved past what it expects.
fn decide(
    overlay: &mut Overlay<'_>,
    head: &mut Head,
    post: &Post<'_>,
) -> Result<Outcome, MachineError> {
    let keyed = match post.key {
        Some(key) => {
            let slot = window::Slot::find(overlay, head, post.username, key)?;
            if let Some(outcome) = slot.answer(post) {
                return Ok(outcome);
            }
            Some(slot)
        }
        None => None,
    };
    if post
        .expected_head
        .is_some_and(|expected| expected != head.seq)
    {
        return Ok(Outcome::HeadMismatch { head: head.seq });
    }
    head.seq += 1;
    if let Some(slot) = keyed {
        slot.remember(overlay, head, post);
    }
    Ok(Outcome::Posted {
        seq: head.seq,
        timestamp_ms: head.clock_ms,
        id: post.id,
        repeated: false,
    })
}

/// Whether a command became a message.
fn is_accepted(outcome: &Outcome) -> bool {
    matches!(
        outcome,
        Outcome::Posted {
            repeated: false,
            ..
        }
    )
}

/// The message that `head` has just moved to.
fn message(payload: &Bytes, head: &Head, post: &Post<'_>) -> Message {
    Message {
        seq: head.seq,
        id: post.id,
        timestamp_ms: head.clock_ms,
        username: Text::within(payload, post.username),
        body: Text::within(payload, post.body),
        reply_to: post.reply_to,
        agent: None,
    }
}
