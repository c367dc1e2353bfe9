//! The sequences of this node's sessions: a later session has a higher one.
//!
//! A group remembers this node's newest session only ([`crate::machine`]), so a session that a start
//! of the process or a waking of the group opens must be above all that were opened before. A sequence
//! is, from its highest bits on,
//!
//! - the *start* (64 bits): the wall clock's milliseconds when the process began, but more than at
//!   its last start, whatever the clock says now. That number is kept on the disk.
//! - the *waking* (32 bits): counted in memory, for all groups alike.
//! - a *salt* (32 bits): random.
//!
//! A node whose disk was emptied (`accord rejoin`) and whose clock stands before its last start begins
//! too low. The groups refuse its sessions then and say which one they know, and the node begins anew
//! above that one, for all groups. It cannot know how many wakings its former life had counted in the
//! other groups, so it takes the next start, not the next waking. And should it still arrive at a
//! number that it had in its former life, the salt makes it another session, and not one in which
//! commands that were never taken pass for repeated.
//!
//! Invariants: [`Sequences::above`] never gives the same or a lower sequence than before; and in a
//! process that found its last start on the disk and has not begun anew, none that an earlier one gave.

use std::sync::Mutex;
use std::sync::PoisonError;

use accord_storage as storage;
use accord_storage::Store;

use crate::clock;
use crate::edge;

/// The start of the sequences that this process gives: 8 bytes little-endian.
const START_FACT: &str = "sessions start";

const START_SHIFT: u32 = 64;
const WAKING_SHIFT: u32 = 32;

pub(crate) struct Sequences(Mutex<Position>);

/// Where the next sequence is taken.
#[derive(Debug, Clone, Copy)]
struct Position {
    start: u64,
    waking: u32,
}

impl Sequences {
    /// Begins above what this store has seen. It waits for one fsync: what was given must stay
    /// given, and nothing is given before.
    ///
    /// # Errors
    /// If the store cannot be read or written, or does not hold a start where there must be one.
    pub(crate) fn begin(store: &Store) -> Result<Sequences, storage::Error> {
        let last = match store.fact(START_FACT)? {
            Some(bytes) => {
                let bytes = <[u8; 8]>::try_from(bytes).map_err(|bytes| {
                    let length = bytes.len();
                    storage::Error::Read(format!("the fact \"{START_FACT}\" has {length} bytes"))
                })?;
                Some(u64::from_le_bytes(bytes))
            }
            None => None,
        };
        let start = start(last, clock::now_ms());
        store.set_fact(START_FACT, &start.to_le_bytes())?;
        Ok(Sequences::from_start(start))
    }

    pub(crate) fn from_start(start: u64) -> Sequences {
        Sequences(Mutex::new(Position { start, waking: 0 }))
    }

    /// The next sequence, above all that were given and above `newest`, the newest session that a
    /// group knows of this node; 0 for none.
    pub(crate) fn above(&self, newest: u128) -> u128 {
        let mut at = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let given = *at;
        if given.lowest() <= newest {
            // At the end of all numbers there is nothing above. No honest node gets there; a session
            // that a group refuses then stays refused.
            let newest_start = u64::try_from(newest >> START_SHIFT).unwrap_or(u64::MAX);
            *at = given.begin_after(newest_start).unwrap_or(given);
        }
        let given = *at;
        *at = given.next();
        given.lowest() | u128::from(edge::random() >> WAKING_SHIFT)
    }
}

impl Position {
    /// The sequence here that has no salt.
    fn lowest(self) -> u128 {
        u128::from(self.start) << START_SHIFT | u128::from(self.waking) << WAKING_SHIFT
    }

    fn next(self) -> Position {
        match self.waking.checked_add(1) {
            Some(waking) => Position { waking, ..self },
            None => self.begin_after(self.start).unwrap_or(self),
        }
    }

    /// `None` if there is no start after this one.
    fn begin_after(self, start: u64) -> Option<Position> {
        let start = start.checked_add(1)?;
        Some(Position { start, waking: 0 })
    }
}

/// Where a process starts that began at `now_ms`, after one that started at `last`.
fn start(last: Option<u64>, now_ms: u64) -> u64 {
    // The first of all sessions has the sequence 1 at least.
    let lowest = last.map_or(1, |last| last.saturating_add(1));
    now_ms.max(lowest)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW_MS: u64 = 1_767_225_600_000;

    #[test]
    fn golden() {
        let sequences = Sequences::from_start(NOW_MS);
        for waking in 0..3 {
            let sequence = sequences.above(0);
            assert_eq!(sequence >> START_SHIFT, u128::from(NOW_MS));
            assert_eq!(sequence >> WAKING_SHIFT & u128::from(u32::MAX), waking);
        }
    }

    #[test]
    fn wakings_beyond_their_bits_take_the_next_start() {
        let waking = u32::MAX;
        let sequences = Sequences(Mutex::new(Position { start: 7, waking }));
        let (last, next) = (sequences.above(0), sequences.above(0));
        assert!(next > last);
        assert_eq!(next >> WAKING_SHIFT, 8 << WAKING_SHIFT);
    }

    #[test]
    fn a_node_without_a_memory_goes_above_what_a_group_knows() {
        let before = Sequences::from_start(NOW_MS + 5);
        let known = [before.above(0), before.above(0), before.above(0)];
        let after = Sequences::from_start(NOW_MS);
        let too_low = after.above(0);
        assert!(known.iter().all(|known| *known > too_low));
        // One group's word is enough, though others know later wakings of the same start.
        let high = after.above(known[0]);
        assert!(known.iter().all(|known| *known < high));
        assert!(after.above(0) > high, "for all groups");
        assert!(
            after.above(known[2]) > high,
            "an older word changes nothing"
        );
    }

    #[test]
    fn at_the_end_of_all_numbers_nothing_panics() {
        let sequences = Sequences::from_start(u64::MAX);
        sequences.above(u128::MAX);
        let waking = u32::MAX;
        let start = u64::MAX;
        let sequences = Sequences(Mutex::new(Position { start, waking }));
        assert!(sequences.above(0) > 0 && sequences.above(u128::MAX) > 0);
        // What some group claims cannot take the others' numbers away.
        let sequences = Sequences::from_start(NOW_MS);
        assert_eq!(
            sequences.above(u128::MAX) >> START_SHIFT,
            u128::from(NOW_MS)
        );
    }

    #[test]
    fn a_start_is_above_the_last_whatever_the_clock_says() {
        assert_eq!(start(None, NOW_MS), NOW_MS);
        assert_eq!(start(None, 0), 1);
        assert_eq!(start(Some(NOW_MS), NOW_MS + 9), NOW_MS + 9);
        assert_eq!(start(Some(NOW_MS), NOW_MS), NOW_MS + 1);
        assert_eq!(start(Some(NOW_MS), 12), NOW_MS + 1);
    }

    #[test]
    fn a_start_is_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Store::open(storage::Options::new(dir.path(), "sequence", 1)).unwrap();
        let far = NOW_MS * 2;
        let store = open();
        let first = Sequences::begin(&store).unwrap().above(0);
        let second = Sequences::begin(&store).unwrap().above(0);
        assert!(second >> START_SHIFT > first >> START_SHIFT);
        // The clock has gone back since.
        store.set_fact(START_FACT, &far.to_le_bytes()).unwrap();
        drop(store);
        let store = open();
        for start in far + 1..far + 4 {
            let sequence = Sequences::begin(&store).unwrap().above(0);
            assert_eq!(sequence >> START_SHIFT, u128::from(start));
        }
        store.set_fact(START_FACT, b"?").unwrap();
        assert!(Sequences::begin(&store).is_err());
    }

    proptest! {
        /// Over any number of lives of a process on one disk, with any clock, and whatever groups say.
        #[test]
        fn sequences_rise(
            lives in proptest::collection::vec(
                (0..NOW_MS * 2, proptest::collection::vec(any::<bool>(), 0..6)), 1..20),
        ) {
            let (mut stored, mut last) = (None, 0);
            for (now_ms, wakings) in lives {
                let began = start(stored, now_ms);
                stored = Some(began);
                let sequences = Sequences::from_start(began);
                for told in wakings {
                    let sequence = sequences.above(if told { last } else { 0 });
                    prop_assert!(sequence > last);
                    last = sequence;
                }
            }
        }

        #[test]
        fn a_word_of_any_group_is_passed(start in 1..=u64::MAX, newest in ..u128::MAX >> 1) {
            let sequences = Sequences::from_start(start);
            prop_assert!(sequences.above(newest) > newest);
        }
    }
}
