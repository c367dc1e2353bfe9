//! The rows of a group together with changes that are not written yet.
//!
//! Invariants: reading through an overlay gives what reading the rows below
//! would give after the changes were written. Changes come out in key order,
//! one for each key, so that equal histories give equal writes.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::Bound;

use accord_storage::{Order, Table, Write};

use super::{Row, View, ViewError};

/// Changes to one table: the new value, or `None` for a deleted row.
type Changes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// A view over another view, with changes on top.
pub struct Overlay<'a> {
    below: &'a dyn View,
    state: Changes,
    index: Changes,
}

impl<'a> Overlay<'a> {
    /// No changes yet.
    #[must_use]
    pub fn new(below: &'a dyn View) -> Self {
        Self {
            below,
            state: Changes::new(),
            index: Changes::new(),
        }
    }

    /// Sets a row.
    pub fn put(&mut self, table: Table, key: Vec<u8>, value: Vec<u8>) {
        self.changes_mut(table).insert(key, Some(value));
    }

    /// Deletes a row, if it exists.
    pub fn delete(&mut self, table: Table, key: Vec<u8>) {
        self.changes_mut(table).insert(key, None);
    }

    /// Whether nothing was changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.state.is_empty() && self.index.is_empty()
    }

    /// The changes for storage: one for each key, State before Index, each in
    /// key order.
    #[must_use]
    pub fn into_writes(self) -> Vec<Write> {
        let mut writes = Vec::with_capacity(self.state.len() + self.index.len());
        for (table, changes) in [(Table::State, self.state), (Table::Index, self.index)] {
            writes.extend(changes.into_iter().map(|(key, value)| match value {
                Some(value) => Write::Put { table, key, value },
                None => Write::Delete { table, key },
            }));
        }
        writes
    }

    fn changes(&self, table: Table) -> &Changes {
        match table {
            Table::State => &self.state,
            Table::Index => &self.index,
        }
    }

    fn changes_mut(&mut self, table: Table) -> &mut Changes {
        match table {
            Table::State => &mut self.state,
            Table::Index => &mut self.index,
        }
    }
}

impl View for Overlay<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, ViewError> {
        match self.changes(table).get(key) {
            Some(changed) => Ok(changed.clone()),
            None => self.below.get(table, key),
        }
    }

    fn scan(
        &self,
        table: Table,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        order: Order,
        limit: usize,
    ) -> Result<Vec<Row>, ViewError> {
        if limit == 0 || is_empty_range(from, to) {
            return Ok(Vec::new());
        }
        let changes = self.changes(table).range::<[u8], _>((from, to));
        let changes: Vec<_> = match order {
            Order::Ascending => changes.collect(),
            Order::Descending => changes.rev().collect(),
        };
        // Each change hides at most one row below, so this many rows below are
        // enough to find `limit` that are not hidden.
        let below = limit.saturating_add(changes.len());
        let below = self.below.scan(table, from, to, order, below)?;
        Ok(merge(below, changes, order, limit))
    }
}

/// Merges two sorted runs; on an equal key the change wins.
fn merge(
    below: Vec<Row>,
    changes: Vec<(&Vec<u8>, &Option<Vec<u8>>)>,
    order: Order,
    limit: usize,
) -> Vec<Row> {
    let mut below = below.into_iter().peekable();
    let mut changes = changes.into_iter().peekable();
    let mut rows = Vec::new();
    while rows.len() < limit {
        let first = match (below.peek(), changes.peek()) {
            (None, None) => break,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((row, _)), Some((change, _))) => match order {
                Order::Ascending => row.cmp(change),
                Order::Descending => change.cmp(&row),
            },
        };
        if first == Ordering::Less {
            rows.extend(below.next());
            continue;
        }
        if first == Ordering::Equal {
            below.next();
        }
        if let Some((key, Some(value))) = changes.next() {
            rows.push((key.clone(), value.clone()));
        }
    }
    rows
}

/// Whether no key can be in the range. `BTreeMap::range` panics on some of
/// these.
pub(super) fn is_empty_range(from: Bound<&[u8]>, to: Bound<&[u8]>) -> bool {
    match (from, to) {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        (Bound::Included(from), Bound::Included(to)) => from > to,
        (
            Bound::Included(from) | Bound::Excluded(from),
            Bound::Included(to) | Bound::Excluded(to),
        ) => from >= to,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::testing::Rows;
    use proptest::prelude::*;

    fn bound() -> impl Strategy<Value = Bound<Vec<u8>>> {
        let key = proptest::collection::vec(0..4_u8, 0..3);
        prop_oneof![
            Just(Bound::Unbounded),
            key.clone().prop_map(Bound::Included),
            key.prop_map(Bound::Excluded),
        ]
    }

    proptest! {
        /// An overlay reads like the rows after its writes.
        #[test]
        fn reads_like_the_rows_after_its_writes(
            base in proptest::collection::vec((any::<bool>(), proptest::collection::vec(0..4_u8, 0..3)), 0..20),
            changes in proptest::collection::vec(
                (any::<bool>(), any::<bool>(), proptest::collection::vec(0..4_u8, 0..3)), 0..20),
            from in bound(), to in bound(), descending in any::<bool>(), limit in 0..12_usize,
        ) {
            let table = |index| if index { Table::Index } else { Table::State };
            let mut rows = Rows::default();
            for (index, key) in base {
                rows.apply(vec![Write::Put { table: table(index), key, value: vec![0] }]);
            }
            let below = rows.clone();
            let mut overlay = Overlay::new(&below);
            for (put, index, key) in changes {
                if put {
                    overlay.put(table(index), key, vec![1]);
                } else {
                    overlay.delete(table(index), key);
                }
            }
            let order = if descending { Order::Descending } else { Order::Ascending };
            let (from, to) = (from.as_ref().map(Vec::as_slice), to.as_ref().map(Vec::as_slice));
            let read: Vec<_> = [Table::State, Table::Index]
                .map(|table| overlay.scan(table, from, to, order, limit).unwrap())
                .into();
            let gets: Vec<_> = (0..4_u8).map(|k| overlay.get(Table::State, &[k]).unwrap()).collect();
            rows.apply(overlay.into_writes());
            let expected: Vec<_> = [Table::State, Table::Index]
                .map(|table| rows.scan(table, from, to, order, limit).unwrap())
                .into();
            prop_assert_eq!(read, expected);
            let expected: Vec<_> = (0..4_u8).map(|k| rows.get(Table::State, &[k]).unwrap()).collect();
            prop_assert_eq!(gets, expected);
        }
    }
}
