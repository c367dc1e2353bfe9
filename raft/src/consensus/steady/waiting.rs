//! The entries that a replica holds in memory until they are committed and applied. Pure.

use std::collections::VecDeque;

use accord_storage as storage;

use super::Answer;

/// Most of them. A leader has at most a few batches under way, so that more means that something is
/// wrong.
pub(super) const ENTRIES_MAX: usize = 1_024;
/// Most bytes of them: the largest batches that a leader has under way at a time are half as many,
/// and those that a follower may owe it answers to are fewer still.
pub(super) const BYTES_MAX: usize = 32 * 1024 * 1024;

pub(super) struct Pending {
    pub(super) entry: storage::Entry,
    pub(super) answer: Option<Answer>,
}

/// Those after the last one that was applied, in their order.
#[derive(Default)]
pub(super) struct Waiting {
    entries: VecDeque<Pending>,
    bytes: usize,
}

impl Waiting {
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether so many more entries of so many bytes may wait.
    pub(super) fn has_room(&self, entries: usize, bytes: usize) -> bool {
        self.entries.len() + entries <= ENTRIES_MAX && self.bytes + bytes <= BYTES_MAX
    }

    pub(super) fn push(&mut self, entry: storage::Entry) {
        self.bytes += entry.payload.len();
        self.entries.push_back(Pending {
            entry,
            answer: None,
        });
    }

    /// Somebody waits for what the last one comes to.
    pub(super) fn answer_last(&mut self, answer: Answer) {
        if let Some(pending) = self.entries.back_mut() {
            pending.answer = Some(answer);
        }
    }

    /// The first ones up to index `upto`, at most so many.
    pub(super) fn take(&mut self, upto: u64, most: usize) -> impl Iterator<Item = Pending> + '_ {
        let is_due = |pending: &&Pending| pending.entry.log_id.index <= upto;
        let due = self.entries.iter().take(most).take_while(is_due);
        let (count, bytes) = due.fold((0, 0), |(count, bytes), pending| {
            (count + 1, bytes + pending.entry.payload.len())
        });
        self.bytes -= bytes;
        self.entries.drain(..count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, bytes: usize) -> storage::Entry {
        storage::Entry {
            log_id: storage::LogId { term: 1, index },
            payload: vec![0; bytes].into(),
        }
    }

    fn taken(waiting: &mut Waiting, upto: u64, most: usize) -> Vec<u64> {
        let taken = waiting.take(upto, most);
        taken.map(|pending| pending.entry.log_id.index).collect()
    }

    #[test]
    fn so_many_bytes_and_entries_wait_and_no_more() {
        let mut waiting = Waiting::default();
        assert!(waiting.has_room(ENTRIES_MAX, BYTES_MAX));
        assert!(!waiting.has_room(ENTRIES_MAX + 1, 0));
        assert!(!waiting.has_room(1, BYTES_MAX + 1));
        for index in 5..9 {
            waiting.push(entry(index, BYTES_MAX / 4));
        }
        assert!(!waiting.has_room(1, 1));
        assert!(waiting.has_room(0, 0), "the word of what is committed");
        assert_eq!(taken(&mut waiting, 4, 9), []);
        assert_eq!(taken(&mut waiting, 9, 1), [5]);
        assert!(waiting.has_room(1, BYTES_MAX / 4));
        assert_eq!(taken(&mut waiting, 7, 9), [6, 7]);
        assert_eq!(taken(&mut waiting, 8, 9), [8]);
        assert!(waiting.is_empty() && waiting.has_room(ENTRIES_MAX, BYTES_MAX));
    }
}
