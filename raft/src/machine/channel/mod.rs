//! The machine of one channel: a gapless sequence of messages.
//!
//! Bodies stay in the log, where the entry that brought them is; the rows say
//! which entry holds which messages. `Table::Index` has one [`IndexRow`] for
//! each batch that brought messages, `Table::State` the head, the sessions, the
//! idempotency keys that are remembered, and the agenda: jobs and messages for
//! later.
//!
//! Invariants:
//! - The messages of a channel have seq 1, 2, 3 … in log order, without gaps,
//!   and timestamps that never decrease; all messages of a batch have the same.
//! - A refusal uses no seq.
//! - [`committed`] gives from an index row and its entry exactly the messages
//!   that applying that entry gave.

mod agenda;
mod command;
mod decide;
mod history;
mod keys;
#[cfg(test)]
mod tests;
mod window;

use accord_storage::Table;
use bincode::{Decode, Encode};
use bytes::Bytes;

use super::batch::Batch;
use super::session::Sessions;
use super::text::Text;
use super::{Applied, DecodeError, MachineError, Outcome, Overlay, View, codec};

use agenda::Agenda;
use command::Content;

pub use agenda::{
    CallRow, JOBS_ENDED_AGE_MS_MAX, JOBS_ENDED_MAX, JOBS_LIVE_MAX, JOBS_OUTWARD_MAX, JobRow,
    Outlook, REASON_BYTES_MAX, SCHEDULED_MAX, ScheduledRow, Stage, first_scheduled, job, jobs,
    scheduled, scheduled_after, scheduled_until,
};
pub use command::{Call, Claim, Command, Deliver, Post, Reply, Schedule};
pub use history::{Accepted, IndexRow, committed, index_at, index_from, index_up_to};
#[cfg(feature = "planted-bugs")]
pub(crate) use keys::is_remembered_key;
pub use window::{KEY_AGE_MS_MAX, KEY_MESSAGES_MAX};

const HEAD_VERSION: u8 = 1;
/// Counts jobs and scheduled messages as well.
const BUSY_HEAD_VERSION: u8 = 2;

/// Where the channel stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Head {
    /// Seq of the last message, 0 before the first.
    pub seq: u64,
    /// Latest time stamped so far, Unix milliseconds.
    pub clock_ms: u64,
    /// Not after the oldest key that has rows: seq and timestamp of its message.
    /// Saves looking for keys to forget when there are none.
    oldest_key: Option<(u64, u64)>,
    /// Jobs that have rows, ended ones too.
    jobs: u32,
    /// Messages that are scheduled.
    scheduled: u32,
}

/// A head without jobs and scheduled messages, as the oldest rows have it.
#[derive(Encode, Decode)]
struct PlainHead {
    seq: u64,
    clock_ms: u64,
    oldest_key: Option<(u64, u64)>,
}

impl Head {
    fn encode(&self) -> Vec<u8> {
        let plain = PlainHead {
            seq: self.seq,
            clock_ms: self.clock_ms,
            oldest_key: self.oldest_key,
        };
        match (self.jobs, self.scheduled) {
            (0, 0) => codec::encode_record(HEAD_VERSION, &plain),
            counts => codec::encode_record(BUSY_HEAD_VERSION, &(plain, counts)),
        }
    }

    fn decode(row: &[u8]) -> Result<Self, DecodeError> {
        let (plain, (jobs, scheduled)): (PlainHead, _) = match row.first() {
            Some(&BUSY_HEAD_VERSION) => codec::decode_record(BUSY_HEAD_VERSION, row)?,
            _ => (codec::decode_record(HEAD_VERSION, row)?, (0, 0)),
        };
        Ok(Self {
            seq: plain.seq,
            clock_ms: plain.clock_ms,
            oldest_key: plain.oldest_key,
            jobs,
            scheduled,
        })
    }
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
    agenda: Agenda,
}

impl ChannelMachine {
    /// Begins from the rows of a channel, also from none.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn load(view: &dyn View) -> Result<Self, MachineError> {
        let head = head(view)?;
        Ok(Self {
            head,
            sessions: Sessions::load(view)?,
            agenda: Agenda::load(view, &head)?,
        })
    }

    /// Where the channel stands after what was applied.
    #[must_use]
    pub fn head(&self) -> Head {
        self.head
    }

    /// What the channel has yet to do.
    #[must_use]
    pub fn outlook(&self) -> Outlook {
        self.agenda.outlook()
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
        let (head, agenda) = (&mut self.head, &mut self.agenda);
        head.clock_ms = head.clock_ms.max(batch.timestamp_ms());
        let first_seq = head.seq + 1;
        let mut messages = Vec::with_capacity(batch.slots());
        let mut keys_added = 0;
        let mut cancelled = Vec::new();
        let mut applied = self.sessions.take(overlay, &batch, |overlay, command| {
            keys_added += usize::from(has_key(&command));
            if let Command::Cancel { job } = &command
                && agenda.jobs.is_live(job)
            {
                cancelled.push(*job);
            }
            let outcome = decide::decide(overlay, head, agenda, &command)?;
            if is_accepted(&outcome)
                && let Some(content) = command.content()
            {
                messages.push(message(payload, head, &content));
            }
            Ok(outcome)
        })?;
        applied.cancelled = cancelled;
        window::forget(overlay, head, keys_added)?;
        agenda.jobs.forget(overlay, head.clock_ms);
        (head.jobs, head.scheduled) = (agenda.jobs.len(), agenda.scheduled.len());
        overlay.put(Table::State, keys::head(), head.encode());
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
        Some(row) => Head::decode(&row).map_err(|_| MachineError::Row("channel head")),
        None => Ok(Head::default()),
    }
}

/// Whether a command comes with an idempotency key.
fn has_key(command: &Command<'_>) -> bool {
    match command {
        Command::Post(post) | Command::Call(post, _) => post.key.is_some(),
        Command::Schedule(schedule) => schedule.post.key.is_some(),
        Command::Deliver(_)
        | Command::Unschedule { .. }
        | Command::Claim(_)
        | Command::Reply(_)
        | Command::Retry { .. }
        | Command::Fail { .. }
        | Command::Cancel { .. } => false,
    }
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
fn message(payload: &Bytes, head: &Head, content: &Content<'_>) -> Message {
    Message {
        seq: head.seq,
        id: content.id,
        timestamp_ms: head.clock_ms,
        username: Text::within(payload, content.username),
        body: Text::within(payload, content.body),
        reply_to: content.reply_to,
        agent: content.agent.map(|agent| Text::within(payload, agent)),
    }
}
