//! Finding messages again: from a seq to its index row, from an index row and
//! its log entry to the messages.
//!
//! Invariant: [`committed`] gives exactly what applying the entry gave. What
//! was accepted is a matter of the state at that time, so the row records it.

use std::ops::Bound;

use accord_storage::{Order, Table};
use bincode::{Decode, Encode};
use bytes::Bytes;

use super::command::{Command, Content};
use super::{Committed, Head, Message, is_accepted, keys, message};
use crate::machine::batch::Batch;
use crate::machine::{DecodeError, MachineError, Outcome, Row, View, codec};

const INDEX_VERSION: u8 = 1;

/// Where the messages of one batch are. Its key is the seq of the first.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct IndexRow {
    /// Index of the log entry that holds them.
    pub log_index: u64,
    /// When, for all of them, Unix milliseconds of the channel's clock.
    pub timestamp_ms: u64,
    /// How many there are, at least 1.
    pub count: u32,
    /// Which of the entry's commands they are.
    pub accepted: Accepted,
}

/// Which command slots of a batch became messages.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Accepted {
    /// All, as nearly always.
    All,
    /// Those whose bit is set; slot 0 is the lowest bit of the first byte.
    Some(Vec<u8>),
}

impl Accepted {
    fn has(&self, slot: usize) -> bool {
        match self {
            Self::All => true,
            Self::Some(bits) => bits
                .get(slot / 8)
                .is_some_and(|byte| byte >> (slot % 8) & 1 == 1),
        }
    }
}

impl IndexRow {
    /// The row of a batch with these outcomes.
    pub(super) fn new(log_index: u64, timestamp_ms: u64, outcomes: &[Outcome]) -> Self {
        let count = outcomes
            .iter()
            .filter(|outcome| is_accepted(outcome))
            .count();
        let accepted = if count == outcomes.len() {
            Accepted::All
        } else {
            let mut bits = vec![0_u8; outcomes.len().div_ceil(8)];
            for (slot, outcome) in outcomes.iter().enumerate() {
                bits[slot / 8] |= u8::from(is_accepted(outcome)) << (slot % 8);
            }
            Accepted::Some(bits)
        };
        Self {
            log_index,
            timestamp_ms,
            count: u32::try_from(count).expect("COMMANDS_PER_BATCH_MAX fits 32 bits"),
            accepted,
        }
    }

    /// Seq of the last message, if `first_seq` is that of the first.
    #[must_use]
    pub fn last_seq(&self, first_seq: u64) -> u64 {
        first_seq.saturating_add(u64::from(self.count).saturating_sub(1))
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        codec::encode_record(INDEX_VERSION, self)
    }

    pub(super) fn decode(row: &[u8]) -> Result<Self, DecodeError> {
        codec::decode_record(INDEX_VERSION, row)
    }
}

/// The index row whose batch holds the message `seq`, with the seq of its first
/// message. None if there is no such message.
///
/// # Errors
/// When the rows cannot be read.
pub fn index_at(view: &dyn View, seq: u64) -> Result<Option<(u64, IndexRow)>, MachineError> {
    let found = index_up_to(view, seq, 1)?.pop();
    Ok(found.filter(|(first_seq, row)| row.last_seq(*first_seq) >= seq))
}

/// At most `limit` index rows, the one that holds `seq` first, then later ones.
///
/// # Errors
/// When the rows cannot be read.
pub fn index_from(
    view: &dyn View,
    seq: u64,
    limit: usize,
) -> Result<Vec<(u64, IndexRow)>, MachineError> {
    // One seek back, for `seq` may be in the middle of a batch.
    let first = index_at(view, seq)?.map_or(seq, |(first_seq, _)| first_seq);
    let from = keys::index(first);
    let (from, to) = (Bound::Included(&*from), Bound::Unbounded);
    decode_rows(view.scan(Table::Index, from, to, Order::Ascending, limit)?)
}

/// At most `limit` index rows, newest first, beginning with the one that holds
/// `seq` or, past the head, with the last one.
///
/// # Errors
/// When the rows cannot be read.
pub fn index_up_to(
    view: &dyn View,
    seq: u64,
    limit: usize,
) -> Result<Vec<(u64, IndexRow)>, MachineError> {
    let to = keys::index(seq);
    let (from, to) = (Bound::Unbounded, Bound::Included(&*to));
    decode_rows(view.scan(Table::Index, from, to, Order::Descending, limit)?)
}

/// The messages of a batch again, from its index row and the payload of the
/// log entry that the row names.
///
/// # Errors
/// When the payload does not hold them: the log or the row is damaged.
pub fn committed(
    first_seq: u64,
    row: &IndexRow,
    payload: &Bytes,
) -> Result<Committed, MachineError> {
    let messages = read_messages(first_seq, row, payload);
    let messages = messages.filter(|found| found.len() as u64 == u64::from(row.count));
    Ok(Committed {
        first_seq,
        timestamp_ms: row.timestamp_ms,
        messages: messages.ok_or(MachineError::Entry {
            log_index: row.log_index,
        })?,
    })
}

fn read_messages(first_seq: u64, row: &IndexRow, payload: &Bytes) -> Option<Vec<Message>> {
    let batch = Batch::read(payload).ok()?;
    let mut messages = Vec::with_capacity(batch.slots());
    let mut head = Head {
        seq: first_seq.checked_sub(1)?,
        clock_ms: row.timestamp_ms,
        ..Head::default()
    };
    let mut first_slot = 0;
    for part in batch.parts() {
        let slots = first_slot..first_slot + part.slots();
        first_slot = slots.end;
        // A part may be a repetition or undecodable as a whole.
        if !slots.clone().any(|slot| row.accepted.has(slot)) {
            continue;
        }
        for (slot, command) in slots.zip(part.commands::<Command<'_>>()?) {
            if row.accepted.has(slot) {
                messages.push(next_message(payload, &mut head, &command.content()?)?);
            }
        }
    }
    Some(messages)
}

fn next_message(payload: &Bytes, head: &mut Head, content: &Content<'_>) -> Option<Message> {
    head.seq = head.seq.checked_add(1)?;
    Some(message(payload, head, content))
}

fn decode_rows(rows: Vec<Row>) -> Result<Vec<(u64, IndexRow)>, MachineError> {
    let damaged = MachineError::Row("index of messages");
    let decoded: Option<Vec<_>> = rows
        .into_iter()
        .map(|(key, value)| Some((keys::parse_index(&key)?, IndexRow::decode(&value).ok()?)))
        .collect();
    decoded.ok_or(damaged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ACCEPTED: Outcome = Outcome::Posted {
        seq: 1,
        timestamp_ms: 1,
        id: [0; 16],
        repeated: false,
    };

    #[test]
    fn golden() {
        let row = IndexRow::new(300, 5, &[ACCEPTED, ACCEPTED]);
        assert_eq!(row.encode(), [1, 251, 44, 1, 5, 2, 0]);
        let mut outcomes = vec![Outcome::KeyReused; 9];
        outcomes[1] = ACCEPTED;
        outcomes[8] = ACCEPTED;
        let row = IndexRow::new(300, 5, &outcomes);
        assert_eq!(row.encode(), [1, 251, 44, 1, 5, 2, 1, 2, 2, 1]);
    }

    proptest! {
        #[test]
        fn round_trip(log_index: u64, timestamp_ms: u64, accepted in proptest::collection::vec(any::<bool>(), 1..70)) {
            let outcomes: Vec<_> = accepted
                .iter()
                .map(|accepted| if *accepted { ACCEPTED } else { Outcome::Repeated })
                .collect();
            let row = IndexRow::new(log_index, timestamp_ms, &outcomes);
            prop_assert_eq!(&IndexRow::decode(&row.encode()).unwrap(), &row);
            for (slot, accepted) in accepted.iter().enumerate() {
                prop_assert_eq!(row.accepted.has(slot), *accepted);
            }
        }

        #[test]
        fn any_bytes_decode_or_fail(
            row in proptest::collection::vec(any::<u8>(), 0..40),
            payload in proptest::collection::vec(any::<u8>(), 0..80),
            first_seq: u64,
        ) {
            let payload = Bytes::from(payload);
            if let Ok(row) = IndexRow::decode(&row) {
                let _ = committed(first_seq, &row, &payload);
            }
            let all = IndexRow { log_index: 1, timestamp_ms: 1, count: 1, accepted: Accepted::All };
            prop_assert!(committed(first_seq, &all, &payload).is_err());
        }
    }
}
