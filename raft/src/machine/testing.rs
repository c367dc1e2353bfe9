//! Rows in memory and replicas that must agree, for tests of the machines.

use std::collections::BTreeMap;
use std::ops::Bound;

use accord_storage::{Order, Table, Write};
use bytes::Bytes;

#[cfg(test)]
use super::Outlook;
use super::overlay::is_empty_range;
use super::{Applied, Kind, Machine, Overlay, Row, View, ViewError, digest};

/// Both tables of a group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Rows {
    pub(crate) state: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(crate) index: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Rows {
    pub(crate) fn apply(&mut self, writes: Vec<Write>) {
        for write in writes {
            match write {
                Write::Put { table, key, value } => {
                    self.table_mut(table).insert(key, value);
                }
                Write::Delete { table, key } => {
                    self.table_mut(table).remove(&key);
                }
            }
        }
    }

    fn table(&self, table: Table) -> &BTreeMap<Vec<u8>, Vec<u8>> {
        match table {
            Table::State => &self.state,
            Table::Index => &self.index,
        }
    }

    fn table_mut(&mut self, table: Table) -> &mut BTreeMap<Vec<u8>, Vec<u8>> {
        match table {
            Table::State => &mut self.state,
            Table::Index => &mut self.index,
        }
    }
}

impl View for Rows {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, ViewError> {
        Ok(self.table(table).get(key).cloned())
    }

    fn scan(
        &self,
        table: Table,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        order: Order,
        limit: usize,
    ) -> Result<Vec<Row>, ViewError> {
        if is_empty_range(from, to) {
            return Ok(Vec::new());
        }
        let rows = self.table(table).range::<[u8], _>((from, to));
        let owned = |(key, value): (&Vec<u8>, &Vec<u8>)| (key.clone(), value.clone());
        Ok(match order {
            Order::Ascending => rows.take(limit).map(owned).collect(),
            Order::Descending => rows.rev().take(limit).map(owned).collect(),
        })
    }
}

/// Several replicas of a group that live differently and must agree: after
/// each batch on rows and outcomes, so on everything.
pub(crate) struct Replicas {
    kind: Kind,
    applied: u64,
    /// Never restarts, writes after each batch.
    steady: (Machine, Rows),
    /// Restarts after each batch.
    forgetful: Rows,
    /// Begins from a copy of the rows taken somewhere in between.
    joined: Option<(Machine, Rows)>,
    /// Applies several batches before it writes.
    lazy: (Machine, Rows),
    waiting: Vec<(u64, Bytes, Applied)>,
}

/// Batches that the lazy replica applies before it writes.
const LAZY_BATCHES: usize = 3;

impl Replicas {
    pub(crate) fn new(kind: Kind) -> Self {
        let fresh = || {
            let rows = Rows::default();
            (Machine::load(kind, &rows).unwrap(), rows)
        };
        Self {
            kind,
            applied: 0,
            steady: fresh(),
            forgetful: Rows::default(),
            joined: None,
            lazy: fresh(),
            waiting: Vec::new(),
        }
    }

    #[cfg(test)]
    pub(crate) fn rows(&self) -> &Rows {
        &self.steady.1
    }

    /// The log index of the last batch.
    #[cfg(test)]
    pub(crate) fn applied(&self) -> u64 {
        self.applied
    }

    #[cfg(test)]
    pub(crate) fn outlook(&self) -> Outlook {
        self.steady.0.outlook()
    }

    /// A replica begins now, from a snapshot.
    pub(crate) fn join(&mut self) {
        let rows = self.steady.1.clone();
        self.joined = Some((Machine::load(self.kind, &rows).unwrap(), rows));
    }

    pub(crate) fn apply(&mut self, payload: &Bytes) -> Applied {
        // Membership changes take log indexes in between.
        self.applied += 1 + self.applied % 2;
        let index = self.applied;
        let applied = apply(&mut self.steady, index, payload);

        let mut loaded = (
            Machine::load(self.kind, &self.forgetful).unwrap(),
            std::mem::take(&mut self.forgetful),
        );
        assert_eq!(apply(&mut loaded, index, payload), applied);
        let seen = |machine: &Machine| (machine.outlook().due_ms, machine.outlook().runs);
        assert_eq!(seen(&loaded.0), seen(&self.steady.0));
        self.forgetful = loaded.1;
        assert_eq!(self.forgetful, self.steady.1);

        if let Some(joined) = &mut self.joined {
            assert_eq!(apply(joined, index, payload), applied);
            assert_eq!(joined.1, self.steady.1);
            assert_eq!(digest(&joined.1).unwrap(), digest(&self.steady.1).unwrap());
        }

        self.waiting.push((index, payload.clone(), applied.clone()));
        if self.waiting.len() == LAZY_BATCHES {
            self.catch_up();
        }
        applied
    }

    /// Lets the lazy replica write.
    pub(crate) fn catch_up(&mut self) {
        let (machine, rows) = &mut self.lazy;
        let below = rows.clone();
        let mut overlay = Overlay::new(&below);
        for (index, payload, applied) in self.waiting.drain(..) {
            assert_eq!(
                machine.apply(&mut overlay, index, &payload).unwrap(),
                applied
            );
        }
        rows.apply(overlay.into_writes());
        assert_eq!(*rows, self.steady.1);
    }
}

fn apply((machine, rows): &mut (Machine, Rows), index: u64, payload: &Bytes) -> Applied {
    let mut overlay = Overlay::new(rows);
    let applied = machine.apply(&mut overlay, index, payload).unwrap();
    let writes = overlay.into_writes();
    rows.apply(writes);
    check_split(&applied);
    applied
}

/// The parts split the outcomes without gaps.
fn check_split(applied: &Applied) {
    let mut next = 0;
    for part in &applied.parts {
        assert_eq!(part.slots.start, next);
        assert!(!part.slots.is_empty());
        next = part.slots.end;
    }
    assert_eq!(next, applied.outcomes.len());
    assert_eq!(applied.by_part().count(), applied.parts.len());
}
