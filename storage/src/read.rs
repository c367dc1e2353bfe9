//! Reading a group: its log, its history, its rows.

use std::ops::{Bound, Range};
use std::sync::PoisonError;

use bytes::Bytes;

use crate::engine::{Family, Rows};
use crate::error::Error;
use crate::group::{Group, Mem, Shared};
use crate::keys;
use crate::layout::{self, Layout};
use crate::records;
use crate::tail::Budget;
use crate::types::{Entry, Have, Order, Table};

/// A row as it is returned: its key and its value.
pub type Row = (Vec<u8>, Vec<u8>);

impl Group {
    /// The entries of `range` that are in the raft log, from the first of them,
    /// until their payloads would exceed `bytes_max`; at least one if there is
    /// one. Recent entries come from memory.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when an entry is missing between others.
    pub fn entries(&self, range: Range<u64>, bytes_max: usize) -> Result<Vec<Entry>, Error> {
        let shared = self.shared();
        shared.core.queue.check()?;
        let (from_disk, from_tail) = {
            let mem = shared.mem();
            let Some(held) = mem.held(range) else {
                return Ok(Vec::new());
            };
            let tail_first = mem.tail.first().unwrap_or(u64::MAX).max(held.start);
            let from_tail = mem.tail.range(tail_first..held.end, bytes_max);
            if tail_first == held.start {
                return Ok(from_tail);
            }
            // Made under the lock, the iterator sees exactly the disk that goes
            // with this memory: what is not in the tail is written, and no
            // deletion that is queued later can reach the iterator any more.
            let disk = held.start..held.end.min(tail_first);
            (shared.log_rows(&mem, disk), from_tail)
        };
        let (mut rows, disk) = from_disk;
        let mut budget = Budget::new(bytes_max);
        let mut found = Vec::new();
        rows.seek_to_first();
        for index in disk {
            let entry = shared.entry_under(&rows, index)?;
            if !budget.admits(entry.payload.len()) {
                return Ok(found);
            }
            found.push(entry);
            rows.step(true);
        }
        let more = from_tail
            .into_iter()
            .take_while(|entry| budget.admits(entry.payload.len()));
        found.extend(more);
        Ok(found)
    }

    /// The entry at `index`, purged or not; none when it was never held here or
    /// lies behind the end of the log. Above the applied position it may still
    /// be replaced.
    pub fn history(&self, index: u64) -> Result<Option<Entry>, Error> {
        let shared = self.shared();
        shared.core.queue.check()?;
        {
            let mem = shared.mem();
            if mem.last.is_none_or(|last| last.index < index) {
                return Ok(None);
            }
            if let Some(entry) = mem.tail.get(index) {
                return Ok(Some(entry.clone()));
            }
        }
        let layout = shared.layout.read().unwrap_or_else(PoisonError::into_inner);
        let Some(generation) = layout.log_generation(index) else {
            return Ok(None);
        };
        let key = keys::entry(shared.id, generation, index);
        match shared.core.engine.get(Family::Log, &key)? {
            None => Ok(None),
            Some(record) => shared.decode_entry(index, record.into()).map(Some),
        }
    }

    /// Reports that what is stored contradicts itself at `index` (0 when it is not
    /// in the log), which ends the process as any other damage does.
    pub fn damaged(&self, index: u64, detail: impl Into<String>) -> Error {
        self.shared().corrupt(index, detail.into())
    }

    /// The value of a row, as written.
    pub fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.shared().get(table, key)
    }

    /// At most `limit` rows between two bounds, as written, in key order or
    /// from the end.
    pub fn scan(
        &self,
        table: Table,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        order: Order,
        limit: usize,
    ) -> Result<Vec<Row>, Error> {
        let shared = self.shared();
        shared.core.queue.check()?;
        let mut parts = {
            // The iterators see the disk of this moment, so the layout may
            // switch as soon as they are made.
            let layout = shared.layout.read().unwrap_or_else(PoisonError::into_inner);
            shared.parts(&layout, table, from, to)
        };
        let forward = match order {
            Order::Ascending => true,
            Order::Descending => {
                parts.reverse();
                false
            }
        };
        let mut found = Vec::new();
        for mut rows in parts {
            if forward {
                rows.seek_to_first();
            } else {
                rows.seek_to_last();
            }
            while found.len() < limit
                && let Some((key, value)) = rows.item()?
            {
                let key = keys::row_key(key).unwrap_or_default();
                found.push((key.to_vec(), value.to_vec()));
                rows.step(forward);
            }
        }
        Ok(found)
    }

    /// What this replica has, for a sender of a snapshot to leave out. Nothing,
    /// when so many snapshots left their segments that a full one is due.
    pub fn have(&self) -> Result<Have, Error> {
        let shared = self.shared();
        let is_fragmented = shared
            .layout
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .is_fragmented();
        // Read before the rows: an index row that is applied meanwhile is
        // then more than was promised, never less.
        let Some(applied) = shared.applied().filter(|_| !is_fragmented) else {
            return Ok(Have::default());
        };
        let unbounded = Bound::Unbounded;
        let last = self.scan(Table::Index, unbounded, unbounded, Order::Descending, 1)?;
        Ok(Have {
            applied_index: Some(applied.index),
            index_after: last.into_iter().next().map(|(key, _)| key),
        })
    }
}

impl Mem {
    /// The part of `range` that the raft log holds, if any.
    fn held(&self, range: Range<u64>) -> Option<Range<u64>> {
        let first = self
            .meta
            .purged
            .map_or(0, |purged| purged.index.saturating_add(1))
            .max(self.meta.layout.last_segment().first);
        let end = self.last?.index.saturating_add(1);
        let held = layout::held(range, first, end);
        (!held.is_empty()).then_some(held)
    }
}

impl Shared {
    pub fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.core.queue.check()?;
        let layout = self.layout.read().unwrap_or_else(PoisonError::into_inner);
        let generation = match table {
            Table::State => layout.state_generation,
            Table::Index => layout.index_generation(key),
        };
        let key = keys::row(self.id, table, generation, key);
        self.core.engine.get(Family::Rows, &key)
    }

    /// A cursor over entries of the raft log, which lie in the last segment.
    fn log_rows(&self, mem: &Mem, range: Range<u64>) -> (Rows<'_>, Range<u64>) {
        let generation = mem.meta.layout.last_segment().generation;
        let key = |index| keys::entry(self.id, generation, index).to_vec();
        let rows = self
            .core
            .engine
            .iterate(Family::Log, key(range.start), key(range.end));
        (rows, range)
    }

    /// The entry under the cursor, which must be the one at `index`.
    fn entry_under(&self, rows: &Rows<'_>, index: u64) -> Result<Entry, Error> {
        match rows.item()? {
            Some((key, record)) if keys::entry_index(key) == Some(index) => {
                self.decode_entry(index, Bytes::copy_from_slice(record))
            }
            _ => Err(self.corrupt(index, "the entry is missing".into())),
        }
    }

    fn decode_entry(&self, index: u64, record: Bytes) -> Result<Entry, Error> {
        records::decode_entry(index, record).map_err(|detail| self.corrupt(index, detail))
    }

    fn corrupt(&self, index: u64, detail: String) -> Error {
        let error = Error::Corrupt {
            group: self.id,
            index,
            detail,
        };
        self.core.alarm.check(&error);
        error
    }

    /// Cursors that together cover a range of a table, in key order.
    fn parts(
        &self,
        layout: &Layout,
        table: Table,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
    ) -> Vec<Rows<'_>> {
        let part = |generation, from, to| {
            let (lower, upper) = self.bounds(table, generation, from, to);
            (lower < upper).then(|| self.core.engine.iterate(Family::Rows, lower, upper))
        };
        if table == Table::State {
            return part(layout.state_generation, from, to)
                .into_iter()
                .collect();
        }
        let segments = layout.index.iter().enumerate();
        segments
            .filter_map(|(position, segment)| {
                let after = segment.after.as_deref();
                let begin = after.map_or(Bound::Unbounded, Bound::Excluded);
                let end = layout
                    .index_end(position)
                    .map_or(Bound::Unbounded, Bound::Included);
                part(segment.generation, later(from, begin), earlier(to, end))
            })
            .collect()
    }

    /// The first key of a range of rows and the first one after it.
    fn bounds(
        &self,
        table: Table,
        generation: u32,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
    ) -> (Vec<u8>, Vec<u8>) {
        let row = |key| keys::row(self.id, table, generation, key);
        let lower = match from {
            Bound::Included(key) => row(key),
            Bound::Excluded(key) => keys::after(&row(key)),
            Bound::Unbounded => row(&[]),
        };
        let upper = match to {
            Bound::Included(key) => keys::after(&row(key)),
            Bound::Excluded(key) => row(key),
            Bound::Unbounded => keys::rows_end(self.id, table, generation),
        };
        (lower, upper)
    }
}

/// The lower bound that admits less.
fn later<'a>(a: Bound<&'a [u8]>, b: Bound<&'a [u8]>) -> Bound<&'a [u8]> {
    match (a, b) {
        (Bound::Unbounded, other) | (other, Bound::Unbounded) => other,
        (Bound::Included(x) | Bound::Excluded(x), Bound::Included(y) | Bound::Excluded(y)) => {
            let a_wins = x > y || (x == y && matches!(a, Bound::Excluded(_)));
            if a_wins { a } else { b }
        }
    }
}

/// The upper bound that admits less.
fn earlier<'a>(a: Bound<&'a [u8]>, b: Bound<&'a [u8]>) -> Bound<&'a [u8]> {
    match (a, b) {
        (Bound::Unbounded, other) | (other, Bound::Unbounded) => other,
        (Bound::Included(x) | Bound::Excluded(x), Bound::Included(y) | Bound::Excluded(y)) => {
            let a_wins = x < y || (x == y && matches!(a, Bound::Excluded(_)));
            if a_wins { a } else { b }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Step;
    use crate::options::Options;
    use crate::store::Store;
    use crate::types::{GroupId, LogId};

    /// The process goes on after damage was found.
    fn lasting(dir: &std::path::Path) -> Options {
        Options {
            on_fatal: std::sync::Arc::new(|_| ()),
            ..Options::new(dir, "test", 1)
        }
    }

    #[test]
    fn a_missing_or_unreadable_entry_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let id = GroupId(4);
        let open = || {
            let store = Store::open(lasting(dir.path())).unwrap();
            let group = store.group(id).unwrap();
            (store, group)
        };
        let (store, group) = open();
        let entries = (0..10).map(|index| Entry {
            log_id: LogId { term: 1, index },
            payload: Bytes::from_static(b"x"),
        });
        group.append(entries.collect(), Box::new(|_| ()));
        let (family, key) = (Family::Log, |index| keys::entry(id, 0, index).to_vec());
        drop((group, store));
        let (store, group) = open();
        let damage = [
            Step::Delete {
                family,
                key: key(5),
            },
            Step::Put {
                family,
                key: key(7),
                value: vec![9; 20],
            },
        ];
        group.shared().core.engine.write_steps(&damage).unwrap();
        let index_of = |result| match result {
            Err(Error::Corrupt { group, index, .. }) => (group, index),
            other => panic!("{other:?}"),
        };
        assert_eq!(index_of(group.entries(0..10, 1_000)), (id, 5));
        assert_eq!(index_of(group.entries(6..10, 1_000)), (id, 7));
        assert_eq!(group.entries(0..5, 1_000).unwrap().len(), 5);
        assert_eq!(group.history(5).unwrap(), None);
        drop((group, store));
    }

    #[test]
    fn a_log_that_ends_before_what_was_applied_is_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Options::new(dir.path(), "test", 1)).unwrap();
        let group = store.group(GroupId(4)).unwrap();
        let applied = LogId { term: 1, index: 3 };
        group.apply(applied, Vec::new(), Box::new(|_| ()));
        drop((group, store));
        let store = Store::open(lasting(dir.path())).unwrap();
        let refused = store.group(GroupId(4)).err().unwrap();
        assert!(
            matches!(refused, Error::Corrupt { index: 3, .. }),
            "{refused}"
        );
    }

    #[test]
    fn the_narrower_bound_wins() {
        let (a, b) = (&b"a"[..], &b"b"[..]);
        assert_eq!(
            later(Bound::Unbounded, Bound::Excluded(a)),
            Bound::Excluded(a)
        );
        assert_eq!(
            later(Bound::Included(a), Bound::Excluded(a)),
            Bound::Excluded(a)
        );
        assert_eq!(
            later(Bound::Included(b), Bound::Excluded(a)),
            Bound::Included(b)
        );
        assert_eq!(
            earlier(Bound::Included(b), Bound::Excluded(a)),
            Bound::Excluded(a)
        );
        assert_eq!(
            earlier(Bound::Excluded(a), Bound::Included(a)),
            Bound::Excluded(a)
        );
        assert_eq!(
            earlier(Bound::Included(a), Bound::Unbounded),
            Bound::Included(a)
        );
    }
}
