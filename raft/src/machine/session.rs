//! Each session's commands exactly once and in order.
//!
//! A session is one node's outbox for one group, from its opening until the
//! node opens the next: the group's next waking there, or the next start of the
//! process. It counts its commands from 1 and sends them again until it is
//! answered, so the same command may be in the log twice, or after one that was
//! lost. The machine remembers, in one row for each node, which session is that
//! node's newest and how far it is (Raft dissertation 6.3): what was taken
//! before is not taken again, what comes too early is not taken yet.
//!
//! Invariants:
//! - A command acts at most once, and only if all before it in the session had
//!   their turn. No row is ever forgotten, so this holds however late a part
//!   comes and whatever other nodes do meanwhile.
//! - Once a session of a node has acted, no older one of that node acts any
//!   more. So a node that opens a new session settles what the old one left.
//! - There is at most one row for each node, and for [`NODES_MAX`] nodes at
//!   most: a part that comes from one more is refused, for there is no such
//!   node.
//! - The sessions in memory are those in the rows after each batch.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use accord_storage::{Order, Table};
use bincode::{BorrowDecode, Decode, Encode};

use super::batch::Batch;
use super::directory::NODES_MAX;
use super::part::{PartHeader, PartRef};
use super::{Applied, MachineError, Outcome, Overlay, PartOutcomes, View, codec};

/// First byte of a session's key in `Table::State`, of both machines.
const SESSION_TAG: u8 = 0x02;
/// 2 has one row for each node.
const SESSION_VERSION: u8 = 2;

/// How far a node's newest session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
struct Session {
    /// Which of the node's sessions, from 1.
    sequence: u128,
    /// Counter of the last command that had its turn, from 1.
    last: u64,
}

impl Session {
    /// Whether a part can have led to it.
    fn is_possible(&self) -> bool {
        // One after the last can be counted.
        self.sequence > 0 && (1..u64::MAX).contains(&self.last)
    }
}

/// The newest session of each node, by its number.
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
    /// Older than the node's newest session, or not open yet.
    Unknown {
        newest: u128,
    },
    /// There are more nodes than there can be.
    Refused,
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
            NODES_MAX + 1,
        )?;
        if rows.len() > NODES_MAX {
            return Err(MachineError::Row("session"));
        }
        let mut sessions = BTreeMap::new();
        for (key, value) in rows {
            let node = parse_key(&key).ok_or(MachineError::Row("session"))?;
            let session: Session =
                codec::decode_record(SESSION_VERSION, &value).map_err(damaged)?;
            if !session.is_possible() {
                return Err(MachineError::Row("session"));
            }
            sessions.insert(node, session);
        }
        Ok(Self(sessions))
    }

    /// Takes all parts of a batch, each as far as its session allows, and lets
    /// `act` decide about the commands whose turn it is.
    pub(super) fn take<'a, C: BorrowDecode<'a, ()>>(
        &mut self,
        overlay: &mut Overlay<'_>,
        batch: &Batch<'a>,
        mut act: impl FnMut(&mut Overlay<'_>, C) -> Result<Outcome, MachineError>,
    ) -> Result<Applied, MachineError> {
        let mut outcomes = Vec::with_capacity(batch.slots());
        let mut parts = Vec::with_capacity(batch.parts().len());
        let mut moved = BTreeSet::new();
        for part in batch.parts() {
            let from = outcomes.len();
            let to = from + part.slots();
            match part.header().map(|header| self.turn(&mut moved, header)) {
                None => outcomes.push(Outcome::Malformed),
                Some(Turn::Refused) => outcomes.resize(to, Outcome::Malformed),
                Some(Turn::Unknown { newest }) => {
                    outcomes.resize(to, Outcome::SessionUnknown { newest });
                }
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
        self.write(overlay, &moved);
        Ok(Applied {
            outcomes,
            parts,
            committed: None,
            cancelled: Vec::new(),
        })
    }

    /// Decides about a part and moves its session forward, which is noted in
    /// `moved`.
    fn turn(&mut self, moved: &mut BTreeSet<u64>, part: PartHeader) -> Turn {
        let (node, sequence) = (part.session.node, part.session.sequence);
        let known = self.0.get(&node).copied();
        // No session has the sequence 0.
        let newest = known.map_or(0, |known| known.sequence);
        if sequence < newest || (sequence > newest && part.first != 1) {
            return Turn::Unknown { newest };
        }
        if known.is_none() && self.0.len() == NODES_MAX {
            return Turn::Refused;
        }
        let done = match known {
            Some(known) if known.sequence == sequence => known.last,
            Some(_) | None => 0,
        };
        let next = done + 1;
        if part.first > next {
            return Turn::Early { next };
        }
        let last = done.max(part.last());
        if last > done {
            self.0.insert(node, Session { sequence, last });
            moved.insert(node);
        }
        let repeated = (next - part.first).min(part.count.into());
        Turn::Due {
            repeated: usize::try_from(repeated).expect("at most the count of a part"),
        }
    }

    /// Writes the sessions that a batch moved, each once.
    fn write(&self, overlay: &mut Overlay<'_>, moved: &BTreeSet<u64>) {
        for node in moved {
            let session = self.0.get(node).expect("what moved is there");
            let value = codec::encode_record(SESSION_VERSION, session);
            overlay.put(Table::State, key(*node), value);
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

fn key(node: u64) -> Vec<u8> {
    let mut key = vec![SESSION_TAG];
    key.extend_from_slice(&node.to_be_bytes());
    key
}

fn parse_key(key: &[u8]) -> Option<u64> {
    let (tag, node) = key.split_first()?;
    (*tag == SESSION_TAG).then_some(())?;
    Some(u64::from_be_bytes(node.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::testing::Rows;
    use crate::machine::{SessionId, encode_part};
    use proptest::prelude::*;

    /// A machine whose commands are numbers and whose outcome tells them.
    fn take(sessions: &mut Sessions, rows: &mut Rows, parts: &[bytes::Bytes]) -> Vec<Outcome> {
        let payload = Batch::concat(0, parts).unwrap();
        let batch = Batch::read(&payload).unwrap();
        let below = rows.clone();
        let mut overlay = Overlay::new(&below);
        let applied = sessions
            .take(&mut overlay, &batch, |_, head: u64| {
                Ok(Outcome::HeadMismatch { head })
            })
            .unwrap();
        rows.apply(overlay.into_writes());
        applied.outcomes
    }

    fn part(node: u64, sequence: u128, counters: std::ops::RangeInclusive<u64>) -> bytes::Bytes {
        let first = *counters.start();
        let session = SessionId { node, sequence };
        encode_part(session, first, &counters.collect::<Vec<u64>>()).unwrap()
    }

    const fn acted(head: u64) -> Outcome {
        Outcome::HeadMismatch { head }
    }

    const fn unknown(newest: u128) -> Outcome {
        Outcome::SessionUnknown { newest }
    }

    #[test]
    fn in_order_and_once() {
        let (mut sessions, mut rows) = (Sessions::default(), Rows::default());
        let mut check = |parts: &[bytes::Bytes], expected: &[Outcome]| {
            assert_eq!(take(&mut sessions, &mut rows, parts), expected);
            sessions = Sessions::load(&rows).unwrap();
        };
        use Outcome::{OutOfTurn, Repeated};
        check(&[part(7, 1, 2..=2)], &[unknown(0)]);
        check(&[part(7, 1, 1..=2)], &[acted(1), acted(2)]);
        check(&[part(7, 1, 2..=3)], &[Repeated, acted(3)]);
        check(&[part(7, 1, 1..=2)], &[Repeated, Repeated]);
        let early = OutOfTurn { next: 4 };
        check(&[part(7, 1, 5..=6)], &[early.clone(), early.clone()]);
        check(
            &[part(7, 1, 5..=5), part(8, 1, 1..=1), part(7, 1, 4..=5)],
            &[early, acted(1), acted(4), acted(5)],
        );
    }

    #[test]
    fn a_newer_session_of_the_node_takes_the_place_of_the_older() {
        let (mut sessions, mut rows) = (Sessions::default(), Rows::default());
        let mut check = |parts: &[bytes::Bytes], expected: &[Outcome]| {
            assert_eq!(take(&mut sessions, &mut rows, parts), expected);
            sessions = Sessions::load(&rows).unwrap();
        };
        check(
            &[part(7, 5, 1..=2), part(8, 1, 1..=1)],
            &[acted(1), acted(2), acted(1)],
        );
        // Only from its beginning.
        check(&[part(7, 6, 2..=2)], &[unknown(5)]);
        check(&[part(7, 5, 3..=3)], &[acted(3)]);
        check(
            &[part(7, 9, 1..=1), part(7, 5, 4..=4), part(7, 9, 2..=2)],
            &[acted(1), unknown(9), acted(2)],
        );
        // Nothing that an older one sends is of any effect, and it hears of the newest.
        for sequence in 1..9 {
            check(
                &[part(7, sequence, 1..=2), part(7, sequence, 4..=4)],
                &[unknown(9), unknown(9), unknown(9)],
            );
        }
        check(&[part(8, 1, 1..=2)], &[Outcome::Repeated, acted(2)]);
        assert_eq!(rows.state.len(), 2, "one row for each node");
    }

    #[test]
    fn a_first_part_sent_again_after_any_number_of_wakings_elsewhere_acts_once() {
        let (mut sessions, mut rows) = (Sessions::default(), Rows::default());
        let first = [part(7, 5, 1..=2)];
        assert_eq!(take(&mut sessions, &mut rows, &first), [acted(1), acted(2)]);
        for waking in 0..1_000 {
            for other in [3, 9] {
                take(&mut sessions, &mut rows, &[part(other, 10 + waking, 1..=1)]);
            }
        }
        let again = take(&mut sessions, &mut rows, &first);
        assert_eq!(again, [Outcome::Repeated, Outcome::Repeated]);
        assert_eq!(rows.state.len(), 3, "wakings leave nothing behind");
    }

    #[test]
    fn golden_row() {
        let (mut sessions, mut rows) = (Sessions::default(), Rows::default());
        take(&mut sessions, &mut rows, &[part(0x0102, 300, 1..=3)]);
        let rows: Vec<_> = rows.state.into_iter().collect();
        assert_eq!(
            rows,
            [(vec![2, 0, 0, 0, 0, 0, 0, 1, 2], vec![2, 251, 44, 1, 3])]
        );
    }

    #[test]
    fn no_more_nodes_than_there_can_be() {
        let (mut sessions, mut rows) = (Sessions::default(), Rows::default());
        let most = NODES_MAX as u64;
        let parts: Vec<_> = (0..most).map(|node| part(node, 1, 1..=1)).collect();
        take(&mut sessions, &mut rows, &parts);
        let more = [
            part(most, 1, 1..=2),
            part(most, 1, 3..=3),
            part(most, 7, 1..=1),
        ];
        let (malformed, unknown) = (Outcome::Malformed, unknown(0));
        assert_eq!(
            take(&mut sessions, &mut rows, &more),
            [malformed.clone(), malformed.clone(), unknown, malformed]
        );
        assert_eq!(rows.state.len(), NODES_MAX);
        // The others go on, and open new sessions.
        let others = [part(0, 1, 2..=2), part(1, 2, 1..=1)];
        assert_eq!(
            take(&mut sessions, &mut rows, &others),
            [acted(2), acted(1)]
        );
        assert!(Sessions::load(&rows).is_ok());
        rows.state.insert(key(most), rows.state[&key(0)].clone());
        assert!(Sessions::load(&rows).is_err());
    }

    #[test]
    fn undecodable_commands_use_up_their_turn() {
        let (mut sessions, mut rows) = (Sessions::default(), Rows::default());
        let mut bad = part(7, 1, 1..=2).to_vec();
        bad.push(0);
        assert_eq!(
            take(&mut sessions, &mut rows, &[bad.into()]),
            [Outcome::Malformed, Outcome::Malformed]
        );
        assert_eq!(
            take(&mut sessions, &mut rows, &[part(7, 1, 3..=3)]),
            [acted(3)]
        );
    }

    #[test]
    fn the_last_numbers_that_there_are() {
        let (mut sessions, mut rows) = (Sessions::default(), Rows::default());
        let last = u64::MAX - 1;
        let row = codec::encode_record(
            SESSION_VERSION,
            &Session {
                sequence: u128::MAX,
                last,
            },
        );
        rows.state.insert(key(u64::MAX), row);
        sessions.0 = Sessions::load(&rows).unwrap().0;
        let again = [part(u64::MAX, u128::MAX, last..=last)];
        assert_eq!(take(&mut sessions, &mut rows, &again), [Outcome::Repeated]);
    }

    #[test]
    fn damaged_rows_are_errors() {
        let of =
            |sequence, last| codec::encode_record(SESSION_VERSION, &Session { sequence, last });
        for (key, value) in [
            (vec![SESSION_TAG, 1], of(1, 1)),
            (key(1), vec![]),
            (key(1), vec![1, 1, 1]),
            (key(1), vec![2, 1]),
            (key(1), vec![2, 1, 1, 1]),
            (key(1), of(0, 1)),
            (key(1), of(1, 0)),
            (key(1), of(1, u64::MAX)),
        ] {
            let mut rows = Rows::default();
            rows.state.insert(key, value.clone());
            assert!(Sessions::load(&rows).is_err(), "{value:?}");
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

        #[test]
        fn rows_round_trip(sequence: u128, last: u64) {
            let session = Session { sequence, last };
            let row = codec::encode_record(SESSION_VERSION, &session);
            prop_assert_eq!(codec::decode_record::<Session>(SESSION_VERSION, &row), Ok(session));
        }

        /// Whatever order the parts of several sessions of several nodes come in,
        /// and however often: no command acts twice, what acted of a session is a
        /// gapless run from its beginning, nothing acts after something of a newer
        /// session of the same node has, and forgetting the memory after each
        /// batch changes nothing.
        #[test]
        fn a_part_never_acts_twice(
            batches in proptest::collection::vec(
                proptest::collection::vec((0..3_u64, 1..4_u128, 1..12_u64, 0..4_u64), 1..4), 1..60),
        ) {
            let (mut kept, mut kept_rows) = (Sessions::default(), Rows::default());
            let mut rows = Rows::default();
            // What acted last, by node.
            let mut done: BTreeMap<u64, (u128, u64)> = BTreeMap::new();
            for parts in batches {
                let encoded: Vec<_> = parts
                    .iter()
                    .map(|(node, sequence, first, more)| part(*node, *sequence, *first..=first + more))
                    .collect();
                let outcomes = take(&mut kept, &mut kept_rows, &encoded);
                let mut loaded = Sessions::load(&rows).unwrap();
                prop_assert_eq!(&take(&mut loaded, &mut rows, &encoded), &outcomes);
                prop_assert_eq!(&rows, &kept_rows);
                let mut outcomes = outcomes.into_iter();
                for (node, sequence, first, more) in parts {
                    for counter in first..=first + more {
                        let outcome = outcomes.next().unwrap();
                        let before = done.get(&node).copied().unwrap_or((0, 0));
                        if outcome == acted(counter) {
                            // Rising in both, so never twice.
                            if before.0 == sequence {
                                prop_assert_eq!(counter, before.1 + 1);
                            } else {
                                prop_assert!(sequence > before.0 && counter == 1);
                            }
                            done.insert(node, (sequence, counter));
                            continue;
                        }
                        let expected = if sequence != before.0 {
                            // A newer one would have acted if this were its beginning.
                            prop_assert!(sequence < before.0 || first > 1);
                            unknown(before.0)
                        } else if first > before.1 + 1 {
                            Outcome::OutOfTurn { next: before.1 + 1 }
                        } else {
                            prop_assert!(counter <= before.1);
                            Outcome::Repeated
                        };
                        prop_assert_eq!(outcome, expected);
                    }
                }
                prop_assert_eq!(rows.state.len(), done.len());
            }
        }
    }
}
