//! Each session's commands exactly once and in order.
//!
//! A session is one node's outbox for one group. It counts its commands from 1
//! and sends them again until it is answered, so the same command may be in
//! the log twice, or after one that was lost. The machine remembers, in rows,
//! how far each session is (Raft dissertation 6.3): what was taken before is
//! not taken again, what comes too early is not taken yet.
//!
//! Invariants:
//! - A command acts at most once while its session is remembered, and only if
//!   all before it in the session had their turn.
//! - At most [`SESSIONS_MAX`] sessions are remembered; the one whose last part
//!   is oldest in the log is forgotten first, by log index and then by number,
//!   so that all replicas forget the same one. A forgotten session cannot act
//!   by accident: only counter 1 opens a session, and a session that was
//!   forgotten is past that unless it sends its very first part again.
//! - The sessions in memory are those in the rows after each batch.

use std::collections::BTreeMap;
use std::ops::Bound;

use accord_storage::{Order, Table};
use bincode::{BorrowDecode, Decode, Encode};

use super::batch::Batch;
use super::part::{PartHeader, PartRef};
use super::{Applied, MachineError, Outcome, Overlay, PartOutcomes, View, codec};

/// Most sessions remembered in a group: several for each node that posts, and
/// few enough to be read at once when the group is opened.
pub const SESSIONS_MAX: usize = 64;

/// First byte of a session's key in `Table::State`, of both machines.
const SESSION_TAG: u8 = 0x02;
const SESSION_VERSION: u8 = 1;

/// How far a session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
struct Session {
    /// Counter of the last command that had its turn, from 1.
    last: u64,
    /// Log index of the last batch with a part of this session.
    used: u64,
}

/// The sessions that are remembered.
#[derive(Debug, Default)]
pub(super) struct Sessions(BTreeMap<u64, Session>);

/// What a part may do.
enum Turn {
    /// The first `repeated` commands had their turn, the others have it now.
    Due {
        repeated: usize,
    },
    Early {
        next: u64,
    },
    Unknown,
}

impl Sessions {
    /// Reads them from the rows.
    pub(super) fn load(view: &dyn View) -> Result<Self, MachineError> {
        let damaged = |_| MachineError::Row("session");
        let from = [SESSION_TAG];
        let to = [SESSION_TAG + 1];
        // One more than there can be, so that too many are noticed.
        let rows = view.scan(
            Table::State,
            Bound::Included(&from),
            Bound::Excluded(&to),
            Order::Ascending,
            SESSIONS_MAX + 1,
        )?;
        if rows.len() > SESSIONS_MAX {
            return Err(MachineError::Row("session"));
        }
        let mut sessions = BTreeMap::new();
        for (key, value) in rows {
            let number = parse_key(&key).ok_or(MachineError::Row("session"))?;
            let session = codec::decode_record(SESSION_VERSION, &value).map_err(damaged)?;
            sessions.insert(number, session);
        }
        Ok(Self(sessions))
    }

    /// Takes all parts of a batch, each as far as its session allows, and lets
    /// `act` decide about the commands whose turn it is.
    pub(super) fn take<'a, C: BorrowDecode<'a, ()>>(
        &mut self,
        overlay: &mut Overlay<'_>,
        log_index: u64,
        batch: &Batch<'a>,
        mut act: impl FnMut(&mut Overlay<'_>, C) -> Result<Outcome, MachineError>,
    ) -> Result<Applied, MachineError> {
        let mut outcomes = Vec::with_capacity(batch.slots());
        let mut parts = Vec::with_capacity(batch.parts().len());
        for part in batch.parts() {
            let from = outcomes.len();
            let to = from + part.slots();
            match part
                .header()
                .map(|header| self.turn(overlay, log_index, header))
            {
                None => outcomes.push(Outcome::Malformed),
                Some(Turn::Unknown) => outcomes.resize(to, Outcome::SessionUnknown),
                Some(Turn::Early { next }) => outcomes.resize(to, Outcome::OutOfTurn { next }),
                Some(Turn::Due { repeated }) => {
                    outcomes.resize(from + repeated, Outcome::Repeated);
                    for command in due_commands(part, repeated) {
                        outcomes.push(act(overlay, command)?);
                    }
                    // Only if the part could not be decoded.
                    outcomes.resize(to, Outcome::Malformed);
                }
            }
            parts.push(PartOutcomes {
                header: part.header(),
                slots: from..to,
            });
        }
        self.write(overlay, log_index);
        Ok(Applied {
            outcomes,
            parts,
            committed: None,
        })
    }

    /// Decides about a part and moves its session forward.
    fn turn(&mut self, overlay: &mut Overlay<'_>, log_index: u64, part: PartHeader) -> Turn {
        let Some(session) = self.0.get_mut(&part.session) else {
            if part.first != 1 {
                return Turn::Unknown;
            }
            let session = Session {
                last: part.last(),
                used: log_index,
            };
            self.0.insert(part.session, session);
            self.forget_one(overlay, part.session);
            return Turn::Due { repeated: 0 };
        };
        session.used = log_index;
        let next = session.last + 1;
        if part.first > next {
            return Turn::Early { next };
        }
        let repeated = (next - part.first).min(part.count.into());
        session.last = session.last.max(part.last());
        Turn::Due {
            repeated: usize::try_from(repeated).expect("at most the count of a part"),
        }
    }

    /// Makes room after `newest` was added.
    fn forget_one(&mut self, overlay: &mut Overlay<'_>, newest: u64) {
        if self.0.len() <= SESSIONS_MAX {
            return;
        }
        let others = self.0.iter().filter(|(number, _)| **number != newest);
        let oldest = others.min_by_key(|(number, session)| (session.used, **number));
        if let Some(number) = oldest.map(|(number, _)| *number) {
            self.0.remove(&number);
            overlay.delete(Table::State, key(number));
        }
    }

    /// Writes the sessions that this batch touched, each once.
    fn write(&self, overlay: &mut Overlay<'_>, log_index: u64) {
        for (number, session) in &self.0 {
            if session.used == log_index {
                let value = codec::encode_record(SESSION_VERSION, session);
                overlay.put(Table::State, key(*number), value);
            }
        }
    }
}

/// The commands of a part after those that had their turn. None at all if one
/// of them cannot be decoded; none are decoded if none is due.
fn due_commands<'a, C: BorrowDecode<'a, ()>>(
    part: &PartRef<'a>,
    repeated: usize,
) -> impl Iterator<Item = C> + use<'a, C> {
    let due = repeated < part.slots();
    let commands = if due { part.commands() } else { None };
    commands.unwrap_or_default().into_iter().skip(repeated)
}

fn key(number: u64) -> Vec<u8> {
    let mut key = vec![SESSION_TAG];
    key.extend_from_slice(&number.to_be_bytes());
    key
}

fn parse_key(key: &[u8]) -> Option<u64> {
    let (tag, number) = key.split_first()?;
    (*tag == SESSION_TAG).then_some(())?;
    Some(u64::from_be_bytes(number.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::encode_part;
    use crate::machine::testing::Rows;
    use proptest::prelude::*;

    /// A machine whose commands are numbers and whose outcome tells them.
    fn take(
        sessions: &mut Sessions,
        rows: &mut Rows,
        index: u64,
        parts: &[bytes::Bytes],
    ) -> Vec<Outcome> {
        let payload = Batch::concat(0, parts).unwrap();
        let batch = Batch::read(&payload).unwrap();
        let below = rows.clone();
        let mut overlay = Overlay::new(&below);
        let applied = sessions
            .take(&mut overlay, index, &batch, |_, head: u64| {
                Ok(Outcome::HeadMismatch { head })
            })
            .unwrap();
        rows.apply(overlay.into_writes());
        applied.outcomes
    }

    fn part(session: u64, counters: std::ops::RangeInclusive<u64>) -> bytes::Bytes {
        let first = *counters.start();
        encode_part(session, first, &counters.collect::<Vec<u64>>()).unwrap()
    }

    const fn acted(head: u64) -> Outcome {
        Outcome::HeadMismatch { head }
    }

    #[test]
    fn in_order_and_once() {
        let (mut sessions, mut rows) = (Sessions::default(), Rows::default());
        let mut check = |index, parts: &[bytes::Bytes], expected: &[Outcome]| {
            assert_eq!(take(&mut sessions, &mut rows, index, parts), expected);
            sessions = Sessions::load(&rows).unwrap();
        };
        use Outcome::{OutOfTurn, Repeated, SessionUnknown};
        check(1, &[part(7, 2..=2)], &[SessionUnknown]);
        check(2, &[part(7, 1..=2)], &[acted(1), acted(2)]);
        check(3, &[part(7, 2..=3)], &[Repeated, acted(3)]);
        check(4, &[part(7, 1..=2)], &[Repeated, Repeated]);
        let early = OutOfTurn { next: 4 };
        check(5, &[part(7, 5..=6)], &[early.clone(), early.clone()]);
        check(
            6,
            &[part(7, 5..=5), part(8, 1..=1), part(7, 4..=5)],
            &[early, acted(1), acted(4), acted(5)],
        );
    }

    #[test]
    fn golden_row() {
        let (mut sessions, mut rows) = (Sessions::default(), Rows::default());
        take(&mut sessions, &mut rows, 300, &[part(0x0102, 1..=3)]);
        let rows: Vec<_> = rows.state.into_iter().collect();
        assert_eq!(
            rows,
            [(vec![2, 0, 0, 0, 0, 0, 0, 1, 2], vec![1, 3, 251, 44, 1])]
        );
    }

    #[test]
    fn the_session_used_longest_ago_is_forgotten() {
        let (mut sessions, mut rows) = (Sessions::default(), Rows::default());
        let most = SESSIONS_MAX as u64;
        for number in 1..=most {
            take(&mut sessions, &mut rows, number, &[part(number, 1..=1)]);
        }
        take(&mut sessions, &mut rows, most + 1, &[part(1, 2..=2)]);
        take(&mut sessions, &mut rows, most + 2, &[part(most + 1, 1..=1)]);
        assert_eq!(rows.state.len(), SESSIONS_MAX);
        let answers = take(
            &mut sessions,
            &mut rows,
            most + 3,
            &[part(1, 3..=3), part(2, 2..=2), part(3, 2..=2)],
        );
        assert_eq!(answers, [acted(3), Outcome::SessionUnknown, acted(2)]);
    }

    #[test]
    fn undecodable_commands_use_up_their_turn() {
        let (mut sessions, mut rows) = (Sessions::default(), Rows::default());
        let mut bad = part(7, 1..=2).to_vec();
        bad.push(0);
        assert_eq!(
            take(&mut sessions, &mut rows, 1, &[bad.into()]),
            [Outcome::Malformed, Outcome::Malformed]
        );
        assert_eq!(
            take(&mut sessions, &mut rows, 2, &[part(7, 3..=3)]),
            [acted(3)]
        );
    }

    #[test]
    fn damaged_rows_are_errors() {
        for (key, value) in [
            (vec![SESSION_TAG, 1], vec![1, 1, 1]),
            (key(1), vec![]),
            (key(1), vec![2, 1, 1]),
            (key(1), vec![1, 1, 1, 1]),
        ] {
            let mut rows = Rows::default();
            rows.state.insert(key, value);
            assert!(Sessions::load(&rows).is_err());
        }
    }

    proptest! {
        #[test]
        fn keys_round_trip(number: u64, bytes in proptest::collection::vec(any::<u8>(), 0..12)) {
            prop_assert_eq!(parse_key(&key(number)), Some(number));
            if let Some(number) = parse_key(&bytes) {
                prop_assert_eq!(key(number), bytes);
            }
        }

        /// Whatever is sent, what acted is a gapless run of each session's
        /// counters, and forgetting the memory after each batch changes nothing.
        #[test]
        fn what_acts_is_a_gapless_run(
            batches in proptest::collection::vec(
                proptest::collection::vec((0..3_u64, 1..12_u64, 0..4_u64), 1..4), 1..40),
        ) {
            let (mut kept, mut kept_rows) = (Sessions::default(), Rows::default());
            let mut rows = Rows::default();
            let mut done = [0_u64; 3];
            for (index, parts) in batches.iter().enumerate() {
                let index = index as u64 + 1;
                let encoded: Vec<_> = parts
                    .iter()
                    .map(|(session, first, more)| part(*session, *first..=first + more))
                    .collect();
                let outcomes = take(&mut kept, &mut kept_rows, index, &encoded);
                let mut loaded = Sessions::load(&rows).unwrap();
                prop_assert_eq!(&take(&mut loaded, &mut rows, index, &encoded), &outcomes);
                prop_assert_eq!(&rows, &kept_rows);
                let mut outcomes = outcomes.into_iter();
                for (session, first, more) in parts {
                    for counter in *first..=first + more {
                        let done = &mut done[*session as usize];
                        let expected = match counter {
                            _ if *done == 0 && *first != 1 => Outcome::SessionUnknown,
                            _ if *first > *done + 1 => Outcome::OutOfTurn { next: *done + 1 },
                            counter if counter <= *done => Outcome::Repeated,
                            counter => {
                                *done = counter;
                                acted(counter)
                            }
                        };
                        prop_assert_eq!(outcomes.next(), Some(expected));
                    }
                }
            }
        }
    }
}
