//! Where the parts of one group lie. Pure.
//!
//! Rows and entries are kept under *generations*, so that a snapshot can be
//! staged beside what is being served and switched to at once. A log is a list
//! of segments: segment `i` holds the entries from its first index to just
//! before the first index of segment `i + 1`. The index table is cut the same
//! way by keys: segment `i` holds the keys above its `after` up to and
//! including the `after` of segment `i + 1`.
//!
//! Invariants: both lists are never empty and strictly ascending; the first
//! index segment begins before all keys; everything above the purge mark lies
//! in the last log segment; no generation is used again.

use std::ops::Range;

/// A longer list asks for a full snapshot next time, which leaves one segment.
pub const SEGMENTS_MAX: usize = 64;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    pub first: u64,
    pub generation: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexSegment {
    /// Keys up to and including this one lie in earlier segments.
    pub after: Option<Vec<u8>>,
    pub generation: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    pub log: Vec<Segment>,
    pub index: Vec<IndexSegment>,
    pub state_generation: u32,
    /// The next generation to hand out; all below may have been used.
    pub next_generation: u32,
}

/// What the rows staged under one generation will become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Staged {
    pub generation: u32,
    /// The first log index that was staged.
    pub first: u64,
    /// The last log index that was staged.
    pub last: u64,
    /// Index rows above this key were staged.
    pub index_after: Option<Vec<u8>>,
}

/// Rows that no segment refers to any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Garbage {
    /// Entries of `generation` from `first` to just before `end`, or to its end.
    Log {
        generation: u32,
        first: u64,
        end: Option<u64>,
    },
    /// Index rows of `generation` above `after`.
    Index {
        generation: u32,
        after: Option<Vec<u8>>,
    },
    /// All state rows of `generation`.
    State { generation: u32 },
}

impl Default for Layout {
    fn default() -> Self {
        Self {
            log: vec![Segment {
                first: 0,
                generation: 0,
            }],
            index: vec![IndexSegment {
                after: None,
                generation: 0,
            }],
            state_generation: 0,
            next_generation: 1,
        }
    }
}

impl Layout {
    /// The first index that the log ever held here.
    pub fn first(&self) -> u64 {
        self.log.first().map_or(0, |segment| segment.first)
    }

    /// The segment that appends go to.
    pub fn last_segment(&self) -> &Segment {
        self.log.last().expect("the list is never empty")
    }

    /// The generation that holds entry `index`, if the log reaches so far back.
    pub fn log_generation(&self, index: u64) -> Option<u32> {
        Some(self.log_run(index)?.0)
    }

    /// The generation of entry `index` and the end of its segment, exclusive.
    pub fn log_run(&self, index: u64) -> Option<(u32, u64)> {
        let after = self.log.partition_point(|segment| segment.first <= index);
        let end = self.log.get(after).map_or(u64::MAX, |next| next.first);
        Some((self.log.get(after.checked_sub(1)?)?.generation, end))
    }

    /// The generation that holds index row `key`.
    pub fn index_generation(&self, key: &[u8]) -> u32 {
        let after = self
            .index
            .partition_point(|segment| segment.after.as_deref().is_none_or(|after| after < key));
        self.index[after.saturating_sub(1)].generation
    }

    /// The key up to which, inclusively, index segment `position` reaches.
    pub fn index_end(&self, position: usize) -> Option<&[u8]> {
        self.index.get(position + 1)?.after.as_deref()
    }

    /// Whether the next snapshot should be full, to leave one segment.
    pub fn is_fragmented(&self) -> bool {
        self.log.len() > SEGMENTS_MAX || self.index.len() > SEGMENTS_MAX
    }

    /// An empty log that was never purged begins wherever its first entry is.
    pub fn restart_log(&mut self, first: u64) {
        let generation = self.last_segment().generation;
        self.log = vec![Segment { first, generation }];
    }

    /// The layout after `staged` became part of it, and what it leaves behind.
    /// With `keep_tail`, the entries above `staged.last` stay part of the log.
    pub fn install(&self, staged: &Staged, keep_tail: bool) -> (Layout, Vec<Garbage>) {
        let mut garbage = Vec::new();
        let kept_from = keep_tail.then(|| staged.last.saturating_add(1));
        let log = self.install_log(staged, kept_from, &mut garbage);
        let index = self.install_index(staged, &mut garbage);
        garbage.push(Garbage::State {
            generation: self.state_generation,
        });
        let layout = Layout {
            log,
            index,
            state_generation: staged.generation,
            next_generation: self
                .next_generation
                .max(staged.generation.saturating_add(1)),
        };
        (layout, garbage)
    }

    fn install_log(
        &self,
        staged: &Staged,
        kept_from: Option<u64>,
        garbage: &mut Vec<Garbage>,
    ) -> Vec<Segment> {
        let cut: Vec<Segment> = self
            .log
            .iter()
            .filter(|segment| segment.first < staged.first)
            .cloned()
            .collect();
        let ends = self.log.iter().skip(1).map(|next| Some(next.first));
        for (segment, end) in self.log.iter().zip(ends.chain([kept_from])) {
            let first = segment.first.max(staged.first);
            if end.is_none_or(|end| first < end) {
                garbage.push(Garbage::Log {
                    generation: segment.generation,
                    first,
                    end,
                });
            }
        }
        let tail = kept_from.map(|first| Segment {
            first,
            generation: self.last_segment().generation,
        });
        let middle = Segment {
            first: staged.first,
            generation: staged.generation,
        };
        cut.into_iter().chain([middle]).chain(tail).collect()
    }

    fn install_index(&self, staged: &Staged, garbage: &mut Vec<Garbage>) -> Vec<IndexSegment> {
        let begins_below = |segment: &&IndexSegment| match (&segment.after, &staged.index_after) {
            (_, None) => false,
            (None, Some(_)) => true,
            (Some(after), Some(cut)) => after < cut,
        };
        let mut index: Vec<IndexSegment> =
            self.index.iter().filter(begins_below).cloned().collect();
        for segment in &self.index {
            garbage.push(Garbage::Index {
                generation: segment.generation,
                after: staged.index_after.clone(),
            });
        }
        index.push(IndexSegment {
            after: staged.index_after.clone(),
            generation: staged.generation,
        });
        index
    }
}

/// The part of `wanted` that a log between a purge mark and its end holds.
pub fn held(wanted: Range<u64>, first: u64, end: u64) -> Range<u64> {
    let start = wanted.start.max(first);
    start..wanted.end.min(end).max(start)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn staged(generation: u32, first: u64, last: u64, index_after: Option<&[u8]>) -> Staged {
        Staged {
            generation,
            first,
            last,
            index_after: index_after.map(<[u8]>::to_vec),
        }
    }

    #[test]
    fn an_incremental_snapshot_goes_between_the_history_and_the_tail() {
        let (layout, garbage) = Layout::default().install(&staged(1, 5, 9, Some(b"k")), true);
        let log: Vec<_> = layout.log.iter().map(|s| (s.first, s.generation)).collect();
        assert_eq!(log, [(0, 0), (5, 1), (10, 0)]);
        assert_eq!(layout.state_generation, 1);
        assert_eq!(layout.next_generation, 2);
        assert_eq!(layout.index_generation(b"k"), 0);
        assert_eq!(layout.index_generation(b"l"), 1);
        assert_eq!(
            garbage,
            [
                Garbage::Log {
                    generation: 0,
                    first: 5,
                    end: Some(10)
                },
                Garbage::Index {
                    generation: 0,
                    after: Some(b"k".to_vec())
                },
                Garbage::State { generation: 0 },
            ]
        );
    }

    #[test]
    fn a_full_snapshot_leaves_one_segment() {
        let (first, _) = Layout::default().install(&staged(1, 5, 9, Some(b"k")), true);
        let (full, garbage) = first.install(&staged(2, 0, 20, None), false);
        assert_eq!(full.log.len(), 1);
        assert_eq!(full.index.len(), 1);
        assert_eq!(full.log_generation(0), Some(2));
        assert_eq!(full.log_generation(u64::MAX), Some(2));
        let logs = garbage
            .iter()
            .filter(|part| matches!(part, Garbage::Log { .. }))
            .count();
        assert_eq!(logs, 3);
    }

    #[test]
    fn a_fragmented_layout_says_so() {
        let mut layout = Layout::default();
        for round in 1..=SEGMENTS_MAX as u64 {
            let key = round.to_be_bytes();
            assert!(!layout.is_fragmented());
            let next = layout.next_generation;
            (layout, _) =
                layout.install(&staged(next, round * 10, round * 10 + 9, Some(&key)), false);
        }
        assert!(layout.is_fragmented());
    }

    #[test]
    fn a_wanted_range_is_cut_to_what_is_held() {
        assert_eq!(held(0..10, 3, 8), 3..8);
        assert_eq!(held(4..6, 3, 8), 4..6);
        assert!(held(9..12, 3, 8).is_empty());
        assert!(held(0..2, 3, 8).is_empty());
        #[allow(clippy::reversed_empty_ranges, reason = "a caller may ask for it")]
        let reversed = held(7..5, 3, 8);
        assert!(reversed.is_empty());
    }

    /// A step of a group's life: what it applied, what came, what was kept.
    fn steps() -> impl Strategy<Value = Vec<(u64, u64, bool, bool)>> {
        prop::collection::vec((0..10u64, 1..10u64, any::<bool>(), any::<bool>()), 0..80)
    }

    proptest! {
        /// Follows every entry and index row by the generation that holds it,
        /// and checks that garbage and what is referred to never overlap.
        #[test]
        fn installs_keep_every_entry_where_the_layout_says(steps in steps()) {
            let mut layout = Layout::default();
            let mut owner: Vec<u32> = Vec::new();
            for (appended, ahead, keep_tail, full) in steps {
                let applied = owner.len() as u64;
                let generation = layout.next_generation;
                let last = applied + ahead;
                let (first, cut) = if full || applied == 0 {
                    (0, None)
                } else {
                    (applied, Some((applied - 1).to_be_bytes()))
                };
                let old_generation = layout.last_segment().generation;
                let staged = staged(generation, first, last, cut.as_ref().map(|c| &c[..]));
                let (next, garbage) = layout.install(&staged, keep_tail);
                owner.truncate(first as usize);
                owner.resize(last as usize + 1, generation);
                let tail = if keep_tail { old_generation } else { generation };
                owner.resize(owner.len() + appended as usize, tail);
                for (index, expected) in (0u64..).zip(&owner) {
                    prop_assert_eq!(next.log_generation(index), Some(*expected));
                    let (run, end) = next.log_run(index).expect("it is held");
                    prop_assert_eq!(run, *expected);
                    prop_assert!(end > index);
                    for part in &garbage {
                        if let Garbage::Log { generation, first, end } = part {
                            let dead = index >= *first && end.is_none_or(|end| index < end);
                            prop_assert!(!(dead && generation == expected));
                        }
                    }
                }
                for pair in next.log.windows(2) {
                    prop_assert!(pair[0].first < pair[1].first);
                }
                prop_assert_eq!(&next.index[0].after, &None);
                for pair in next.index.windows(2) {
                    prop_assert!(pair[0].after < pair[1].after);
                }
                for segment in &next.index {
                    for part in &garbage {
                        if let Garbage::Index { generation, after } = part {
                            prop_assert!(*generation != segment.generation || segment.after < *after);
                        }
                    }
                }
                prop_assert!(next.next_generation > generation);
                layout = next;
            }
        }
    }
}
