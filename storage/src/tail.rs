//! The most recent entries of one log, in memory. Pure.
//!
//! Invariants: the entries are consecutive and end with the last entry of the
//! log, or there are none; an entry that may not have been written yet is
//! always held, so whatever is *not* here can be read from the disk and no
//! queued write concerns it. Written entries are kept within
//! [`ENTRIES_MAX`] and [`BYTES_MAX`].

use std::collections::VecDeque;
use std::ops::Range;

use crate::types::Entry;

/// Enough for followers that lag by a few batches, and for apply.
pub const ENTRIES_MAX: usize = 1_024;
/// Open groups are many, so what each keeps in memory must stay small.
pub const BYTES_MAX: usize = 1 << 20;

#[derive(Debug, Default)]
pub struct Tail {
    held: VecDeque<Held>,
    bytes: usize,
}

#[derive(Debug)]
struct Held {
    entry: Entry,
    /// The place of its write in the queue: written once the writer is past it.
    ticket: u64,
}

impl Tail {
    /// The index of the first entry held.
    pub fn first(&self) -> Option<u64> {
        Some(self.held.front()?.entry.log_id.index)
    }

    pub fn get(&self, index: u64) -> Option<&Entry> {
        let position = usize::try_from(index.checked_sub(self.first()?)?).ok()?;
        self.held.get(position).map(|held| &held.entry)
    }

    /// Adds what was just queued with `ticket`. It must follow the last entry.
    pub fn append(&mut self, entries: Vec<Entry>, ticket: u64) {
        for entry in entries {
            self.bytes += entry.payload.len();
            self.held.push_back(Held { entry, ticket });
        }
    }

    /// Removes the entries above `index`.
    pub fn truncate_after(&mut self, index: u64) {
        while self
            .held
            .back()
            .is_some_and(|held| held.entry.log_id.index > index)
        {
            let held = self.held.pop_back();
            self.bytes -= held.map_or(0, |held| held.entry.payload.len());
        }
    }

    pub fn clear(&mut self) {
        self.held.clear();
        self.bytes = 0;
    }

    /// Forgets the oldest entries beyond the bounds, if the writer, which is
    /// done with every ticket up to `written`, has written them.
    pub fn trim(&mut self, written: u64) {
        while let Some(front) = self.held.front() {
            let within = self.held.len() <= ENTRIES_MAX && self.bytes <= BYTES_MAX;
            if within || front.ticket > written {
                return;
            }
            self.bytes -= front.entry.payload.len();
            self.held.pop_front();
        }
    }

    /// The held entries of `range`, at least one if there is one, until their
    /// payloads would exceed `bytes_max`.
    pub fn range(&self, range: Range<u64>, bytes_max: usize) -> Vec<Entry> {
        let Some(first) = self.first() else {
            return Vec::new();
        };
        let position = |index: u64| {
            usize::try_from(index.saturating_sub(first))
                .map_or(self.held.len(), |position| position.min(self.held.len()))
        };
        let (start, end) = (position(range.start), position(range.end));
        let mut budget = Budget::new(bytes_max);
        self.held
            .range(start..end.max(start))
            .map(|held| &held.entry)
            .take_while(|entry| budget.admits(entry.payload.len()))
            .cloned()
            .collect()
    }
}

/// Counts bytes up to a bound. The first item is always admitted, so that a
/// reader makes progress whatever the bound.
#[derive(Debug)]
pub struct Budget {
    left: usize,
    first: bool,
}

impl Budget {
    pub fn new(bytes_max: usize) -> Self {
        Self {
            left: bytes_max,
            first: true,
        }
    }

    /// Whether an item of `bytes` still fits. Ask for none after a refusal.
    pub fn admits(&mut self, bytes: usize) -> bool {
        let admitted = self.first || bytes <= self.left;
        self.first = false;
        self.left = self.left.saturating_sub(bytes);
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::LogId;

    fn entries(range: Range<u64>, bytes: usize) -> Vec<Entry> {
        range
            .map(|index| Entry {
                log_id: LogId { term: 1, index },
                payload: vec![0; bytes].into(),
            })
            .collect()
    }

    fn indexes(found: &[Entry]) -> Vec<u64> {
        found.iter().map(|entry| entry.log_id.index).collect()
    }

    #[test]
    fn what_is_not_written_stays_whatever_the_bounds() {
        let mut tail = Tail::default();
        tail.append(entries(0..10, BYTES_MAX), 1);
        tail.append(entries(10..12, BYTES_MAX), 2);
        tail.trim(0);
        assert_eq!(tail.first(), Some(0));
        tail.trim(1);
        assert_eq!(tail.first(), Some(10));
        tail.trim(2);
        assert_eq!(tail.first(), Some(11));
    }

    #[test]
    fn the_number_of_entries_is_bounded_too() {
        let mut tail = Tail::default();
        tail.append(entries(0..ENTRIES_MAX as u64 + 5, 0), 1);
        tail.trim(1);
        assert_eq!(tail.first(), Some(5));
    }

    #[test]
    fn an_index_that_comes_again_is_judged_by_its_own_write() {
        let mut tail = Tail::default();
        tail.append(entries(0..2, BYTES_MAX), 1);
        tail.truncate_after(0);
        tail.append(entries(1..3, BYTES_MAX), 3);
        tail.trim(1);
        assert_eq!(tail.first(), Some(1), "entry 1 is queued again");
    }

    #[test]
    fn a_range_is_cut_to_what_is_held_and_to_the_bytes() {
        let mut tail = Tail::default();
        tail.append(entries(5..10, 10), 1);
        assert_eq!(indexes(&tail.range(0..100, 1_000)), [5, 6, 7, 8, 9]);
        assert_eq!(indexes(&tail.range(6..9, 20)), [6, 7]);
        assert_eq!(indexes(&tail.range(6..9, 0)), [6]);
        assert!(tail.range(10..20, 100).is_empty());
        assert!(tail.range(0..5, 100).is_empty());
        assert_eq!(tail.get(9).map(|entry| entry.log_id.index), Some(9));
        assert!(tail.get(4).is_none());
        assert!(tail.get(10).is_none());
    }

    #[test]
    fn bytes_are_counted_through_every_change() {
        let mut tail = Tail::default();
        tail.append(entries(0..8, 3), 1);
        tail.truncate_after(3);
        assert_eq!(tail.bytes, 12);
        tail.truncate_after(100);
        assert_eq!(tail.bytes, 12);
        tail.clear();
        assert_eq!(tail.bytes, 0);
    }
}
