//! Messages for later.
//!
//! Each has two rows: what it says, by its id, and its place in the order of times. Its body is in a row
//! until it becomes a message, because nothing else leads back to the entry that brought it.
//!
//! Invariants: both rows or none; a message leaves the schedule once, delivered or cancelled, and no
//! sooner than its time by the channel's clock if it is delivered; at most [`SCHEDULED_MAX`] wait.

use std::collections::BTreeSet;
use std::ops::Bound;

use accord_storage::{Order, Table};
use bincode::{Decode, Encode};

use super::super::command::Schedule;
use super::super::keys;
use crate::machine::{MachineError, Outcome, Overlay, View, codec};

/// Scheduled messages of a channel; more are refused.
pub const SCHEDULED_MAX: usize = 1_000;

const SCHEDULED_VERSION: u8 = 1;
/// What is in a row whose key says everything.
const PLACE_VERSION: u8 = 1;

/// A message that is to come.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ScheduledRow {
    /// When, Unix milliseconds of the channel's clock.
    pub due_ms: u64,
    /// When it was scheduled.
    pub created_ms: u64,
    /// Who wrote it.
    pub username: String,
    /// The message itself.
    pub body: String,
    /// Id of the message that it answers.
    pub reply_to: Option<[u8; 16]>,
    /// It will be a command.
    pub call: Option<CallRow>,
}

/// Who is to do what a scheduled message says.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct CallRow {
    /// Name of the agent.
    pub agent: String,
    /// After so many attempts the executor gives up.
    pub attempts_max: u32,
    /// The agent asks somebody outside.
    pub is_outward: bool,
}

/// All scheduled messages, in the order of their times.
#[derive(Debug, Default)]
pub(in super::super) struct Schedules {
    places: BTreeSet<(u64, [u8; 16])>,
    revision: u64,
}

impl Schedules {
    pub(super) fn load(view: &dyn View, count: u32) -> Result<Self, MachineError> {
        let mut all = Self::default();
        if count > 0 {
            all.places.extend(places(view, None, SCHEDULED_MAX + 1)?);
        }
        match all.len() == count && all.places.len() <= SCHEDULED_MAX {
            true => Ok(all),
            false => Err(MachineError::Row("scheduled messages")),
        }
    }

    /// How many there are.
    pub(in super::super) fn len(&self) -> u32 {
        u32::try_from(self.places.len()).unwrap_or(u32::MAX)
    }

    pub(in super::super) fn is_full(&self) -> bool {
        self.places.len() >= SCHEDULED_MAX
    }

    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    pub(super) fn next_due(&self) -> Option<u64> {
        self.places.first().map(|(due_ms, _)| *due_ms)
    }

    /// Puts a message down; one with the same id stays as it is.
    pub(in super::super) fn add(
        &mut self,
        overlay: &mut Overlay<'_>,
        clock_ms: u64,
        schedule: &Schedule<'_>,
    ) -> Result<Outcome, MachineError> {
        let post = &schedule.post;
        let answer = |due_ms, repeated| Outcome::Scheduled {
            id: post.id,
            due_ms,
            repeated,
        };
        if let Some(row) = self.find(overlay, &post.id)? {
            return Ok(answer(row.due_ms, true));
        }
        let row = ScheduledRow {
            due_ms: schedule.due_ms,
            created_ms: clock_ms,
            username: post.username.to_owned(),
            body: post.body.to_owned(),
            reply_to: post.reply_to,
            call: schedule.call.map(|call| CallRow {
                agent: call.agent.to_owned(),
                attempts_max: call.attempts_max,
                is_outward: call.is_outward,
            }),
        };
        self.places.insert((row.due_ms, post.id));
        self.revision += 1;
        let place = keys::place(row.due_ms, &post.id);
        overlay.put(Table::State, place, vec![PLACE_VERSION]);
        overlay.put(
            Table::State,
            keys::scheduled(&post.id),
            codec::encode_record(SCHEDULED_VERSION, &row),
        );
        Ok(answer(row.due_ms, false))
    }

    /// What is scheduled under this id. Reads nothing if nothing is.
    pub(in super::super) fn find(
        &self,
        view: &dyn View,
        id: &[u8; 16],
    ) -> Result<Option<ScheduledRow>, MachineError> {
        match self.places.is_empty() {
            true => Ok(None),
            false => scheduled(view, id),
        }
    }

    /// Takes out what [`Schedules::find`] has found.
    pub(in super::super) fn remove(
        &mut self,
        overlay: &mut Overlay<'_>,
        id: &[u8; 16],
        row: &ScheduledRow,
    ) {
        self.places.remove(&(row.due_ms, *id));
        self.revision += 1;
        overlay.delete(Table::State, keys::place(row.due_ms, id));
        overlay.delete(Table::State, keys::scheduled(id));
    }
}

/// The scheduled message with this id.
///
/// # Errors
/// When the rows cannot be read.
pub fn scheduled(view: &dyn View, id: &[u8; 16]) -> Result<Option<ScheduledRow>, MachineError> {
    match view.get(Table::State, &keys::scheduled(id))? {
        Some(value) => decode(&value).map(Some),
        None => Ok(None),
    }
}

/// At most `limit` scheduled messages with their ids, in the order of their times, from the one after
/// `after`.
///
/// # Errors
/// When the rows cannot be read.
pub fn scheduled_after(
    view: &dyn View,
    after: Option<(u64, [u8; 16])>,
    limit: usize,
) -> Result<Vec<([u8; 16], ScheduledRow)>, MachineError> {
    let mut found = Vec::new();
    for (_, id) in places(view, after, limit)? {
        // Rows that are read one after the other: it may have been delivered in between.
        if let Some(row) = scheduled(view, &id)? {
            found.push((id, row));
        }
    }
    Ok(found)
}

/// At most `limit` scheduled messages that are due at `until_ms`, with their ids, in the order of their
/// times, from the one after `after`.
///
/// # Errors
/// When the rows cannot be read.
pub fn scheduled_until(
    view: &dyn View,
    after: Option<(u64, [u8; 16])>,
    until_ms: u64,
    limit: usize,
) -> Result<Vec<([u8; 16], ScheduledRow)>, MachineError> {
    let mut found = Vec::new();
    for (due_ms, id) in places(view, after, limit)? {
        if due_ms > until_ms {
            break;
        }
        if let Some(row) = scheduled(view, &id)? {
            found.push((id, row));
        }
    }
    Ok(found)
}

/// When the first scheduled message after `after` is due.
///
/// # Errors
/// When the rows cannot be read.
pub fn first_scheduled(
    view: &dyn View,
    after: Option<(u64, [u8; 16])>,
) -> Result<Option<u64>, MachineError> {
    let first = places(view, after, 1)?;
    Ok(first.first().map(|(due_ms, _)| *due_ms))
}

fn places(
    view: &dyn View,
    after: Option<(u64, [u8; 16])>,
    limit: usize,
) -> Result<Vec<(u64, [u8; 16])>, MachineError> {
    let from = after.map(|(due_ms, id)| keys::place(due_ms, &id));
    let (first, to) = keys::ALL_PLACES;
    let from = from.as_deref().map_or(first, Bound::Excluded);
    let rows = view.scan(Table::State, from, to, Order::Ascending, limit)?;
    let decode = |(key, value): (Vec<u8>, Vec<u8>)| match value == [PLACE_VERSION] {
        true => keys::parse_place(&key),
        false => None,
    };
    let places: Option<Vec<_>> = rows.into_iter().map(decode).collect();
    places.ok_or(MachineError::Row("place of a scheduled message"))
}

fn decode(value: &[u8]) -> Result<ScheduledRow, MachineError> {
    codec::decode_record(SCHEDULED_VERSION, value)
        .map_err(|_| MachineError::Row("scheduled message"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn row(call: Option<CallRow>) -> ScheduledRow {
        ScheduledRow {
            due_ms: 300,
            created_ms: 5,
            username: "ada".to_owned(),
            body: "hé".to_owned(),
            reply_to: Some([8; 16]),
            call,
        }
    }

    #[test]
    fn golden() {
        let common = [
            &[1, 251, 44, 1, 5][..],
            b"\x03ada\x03h\xc3\xa9\x01",
            &[8; 16],
        ]
        .concat();
        let encode = |call| codec::encode_record(SCHEDULED_VERSION, &row(call));
        assert_eq!(encode(None), [&common[..], &[0]].concat());
        let call = CallRow {
            agent: "ask".to_owned(),
            attempts_max: 8,
            is_outward: true,
        };
        assert_eq!(
            encode(Some(call)),
            [&common[..], b"\x01\x03ask\x08\x01"].concat()
        );
    }

    proptest! {
        #[test]
        fn rows_round_trip(due_ms: u64, created_ms: u64, body in ".{0,9}", call in proptest::option::of((".{0,9}", any::<u32>(), any::<bool>()))) {
            let call = call.map(|(agent, attempts_max, is_outward)| CallRow { agent, attempts_max, is_outward });
            let row = ScheduledRow { due_ms, created_ms, body, ..row(call) };
            let value = codec::encode_record(SCHEDULED_VERSION, &row);
            prop_assert_eq!(decode(&value).unwrap(), row);
            prop_assert!(decode(&value[..value.len() - 1]).is_err());
        }

        #[test]
        fn any_bytes_decode_or_fail(value in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = decode(&value);
        }
    }
}
