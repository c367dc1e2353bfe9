//! Random lives of two groups in one store, against a model in memory.
//!
//! A leader's history is a pure function of the index: its entries, and the
//! rows that follow from applying them. A group holds a part of it, perhaps
//! followed by entries of a leader that lost. What a group shows is compared
//! after every step, while writes are still queued, and again once drained.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};

use accord_storage::{Entry, Group, GroupId, LogId, Order, Store, Table, Vote, Write};
use proptest::prelude::*;
use tempfile::TempDir;

use crate::support::{drain, entry, fine, open};

#[derive(Debug, Clone)]
enum Step {
    Append {
        count: u64,
        lost: bool,
    },
    Truncate {
        back: u64,
    },
    Purge {
        ahead: u64,
    },
    Apply {
        count: u64,
    },
    Vote {
        term: u64,
    },
    Install {
        ahead: u64,
        abandon: bool,
        chunk_bytes: usize,
    },
    Drain,
    ReopenGroup,
    ReopenStore,
}

fn steps() -> impl Strategy<Value = Vec<(usize, Step)>> {
    let step = prop_oneof![
        8 => (1..12u64, prop::bool::weighted(0.3)).prop_map(|(count, lost)| Step::Append { count, lost }),
        1 => (1_000..1_500u64).prop_map(|count| Step::Append { count, lost: false }),
        4 => (0..15u64).prop_map(|back| Step::Truncate { back }),
        2 => (0..10u64).prop_map(|ahead| Step::Purge { ahead }),
        6 => (1..10u64).prop_map(|count| Step::Apply { count }),
        2 => any::<u64>().prop_map(|term| Step::Vote { term }),
        4 => (0..20u64, prop::bool::weighted(0.3), 50..2_000usize).prop_map(
            |(ahead, abandon, chunk_bytes)| Step::Install { ahead, abandon, chunk_bytes }
        ),
        2 => Just(Step::Drain),
        2 => Just(Step::ReopenGroup),
        2 => Just(Step::ReopenStore),
    ];
    prop::collection::vec((0..2usize, step), 1..60)
}

/// The entry that the leader has at `index`. Its terms are even.
fn true_entry(index: u64) -> Entry {
    entry(
        2 + index / 10 * 2,
        index,
        format!("true {index}").as_bytes(),
    )
}

/// An entry that a leader appended who lost.
fn lost_entry(index: u64) -> Entry {
    entry(
        3 + index / 10 * 2,
        index,
        format!("lost {index}").as_bytes(),
    )
}

/// What applying the leader's entry at `index` changes.
fn true_writes(index: u64) -> Vec<Write> {
    let key = vec![index as u8 % 7];
    let value = index.to_be_bytes().to_vec();
    let state = if index.is_multiple_of(5) {
        Write::Delete {
            table: Table::State,
            key,
        }
    } else {
        Write::Put {
            table: Table::State,
            key,
            value: value.clone(),
        }
    };
    let row = Write::Put {
        table: Table::Index,
        key: value.clone(),
        value,
    };
    let rows = [state, row];
    // Some entries have no index row, as blank ones do.
    rows.into_iter()
        .take(1 + usize::from(!index.is_multiple_of(3)))
        .collect()
}

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// The rows after applying the leader's entries before `end`.
fn true_rows(end: u64) -> (Rows, Rows) {
    let (mut state, mut index) = (Rows::new(), Rows::new());
    for write in (0..end).flat_map(true_writes) {
        match write {
            Write::Put {
                table: Table::State,
                key,
                value,
            } => drop(state.insert(key, value)),
            Write::Put {
                table: Table::Index,
                key,
                value,
            } => drop(index.insert(key, value)),
            Write::Delete { key, .. } => drop(state.remove(&key)),
        }
    }
    (state, index)
}

#[derive(Debug, Default)]
struct Model {
    vote: Option<Vote>,
    /// From index 0 on, purged ones included.
    log: Vec<Entry>,
    purged: Option<LogId>,
    /// How many entries are applied.
    applied: u64,
}

impl Model {
    fn end(&self) -> u64 {
        self.log.len() as u64
    }

    fn is_true(&self) -> bool {
        self.log
            .last()
            .is_none_or(|last| *last == true_entry(last.log_id.index))
    }

    fn true_end(&self) -> u64 {
        let agrees = |entry: &&Entry| **entry == true_entry(entry.log_id.index);
        self.log.iter().take_while(agrees).count() as u64
    }
}

struct World {
    dir: TempDir,
    store: Option<Store>,
    groups: [Option<Group>; 2],
    models: [Model; 2],
    source: Source,
}

const IDS: [GroupId; 2] = [GroupId(41), GroupId(42)];

/// The leader, in a store that all cases share.
struct Source {
    group: Group,
    applied: u64,
}

impl Source {
    fn new(store: &Store) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = GroupId(NEXT.fetch_add(1, Ordering::Relaxed));
        Self {
            group: store.group(id).unwrap(),
            applied: 0,
        }
    }

    fn grow(&mut self, end: u64) {
        if end > self.applied {
            let entries = (self.applied..end).map(true_entry).collect();
            self.group.append(entries, fine());
        }
        for index in self.applied..end {
            let applied = true_entry(index).log_id;
            self.group.apply(applied, true_writes(index), fine());
        }
        drain(&self.group);
        self.applied = self.applied.max(end);
    }
}

impl World {
    fn new(source: Source) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let groups = IDS.map(|id| Some(store.group(id).unwrap()));
        Self {
            dir,
            store: Some(store),
            groups,
            models: Default::default(),
            source,
        }
    }

    fn run(&mut self, which: usize, step: &Step) {
        let model = &mut self.models[which];
        let group = self.groups[which].clone().unwrap();
        match *step {
            Step::Append { count, lost } => {
                let lost = lost || !model.is_true();
                let make = if lost { lost_entry } else { true_entry };
                let entries: Vec<_> = (model.end()..model.end() + count).map(make).collect();
                model.log.extend(entries.iter().cloned());
                group.append(entries, fine());
            }
            Step::Truncate { back } => {
                let keep = model.end().saturating_sub(back).max(model.applied);
                model.log.truncate(keep as usize);
                let last = model.log.last().map(|entry| entry.log_id);
                group.truncate_after(last, fine());
            }
            Step::Purge { ahead } => {
                let begin = model.purged.map_or(0, |purged| purged.index + 1);
                let upto = (begin + ahead).min(model.applied);
                if let Some(index) = upto.checked_sub(1) {
                    let upto = model.log[index as usize].log_id;
                    model.purged = model.purged.max(Some(upto));
                    group.purge(upto, fine());
                }
            }
            Step::Apply { count } => {
                let end = (model.applied + count).min(model.true_end());
                for index in model.applied..end {
                    group.apply(true_entry(index).log_id, true_writes(index), fine());
                }
                model.applied = end;
            }
            Step::Vote { term } => {
                let vote = Vote {
                    term,
                    node: which as u64,
                    committed: term.is_multiple_of(2),
                };
                model.vote = Some(vote);
                group.save_vote(vote, fine());
            }
            Step::Install {
                ahead,
                abandon,
                chunk_bytes,
            } => {
                // Applies may still be queued: then less is promised.
                let have = group.have().unwrap();
                self.source.grow(model.applied + ahead);
                let snapshot = self.source.group.snapshot().unwrap();
                let Some(covered) = snapshot.applied() else {
                    return;
                };
                let mut install = group.install().unwrap();
                let chunks: Vec<_> = snapshot
                    .chunks(have, chunk_bytes)
                    .map(Result::unwrap)
                    .collect();
                let staged = if abandon {
                    chunks.len() / 2
                } else {
                    chunks.len()
                };
                for chunk in &chunks[..staged] {
                    install.chunk(chunk, fine());
                }
                if abandon {
                    return;
                }
                install.finish(covered, None, fine());
                if covered.index < model.applied {
                    return;
                }
                let agrees = model.true_end() > covered.index;
                let tail = if agrees {
                    model.log.split_off(covered.index as usize + 1)
                } else {
                    Vec::new()
                };
                model.log = (0..=covered.index).map(true_entry).chain(tail).collect();
                model.applied = covered.index + 1;
                model.purged = Some(covered);
            }
            Step::Drain => drain(&group),
            Step::ReopenGroup => {
                drop(group);
                self.groups[which] = None;
                let store = self.store.as_ref().unwrap();
                self.groups[which] = Some(store.group(IDS[which]).unwrap());
            }
            Step::ReopenStore => {
                drop(group);
                self.groups = [None, None];
                self.store = None;
                let store = open(self.dir.path());
                self.groups = IDS.map(|id| Some(store.group(id).unwrap()));
                self.store = Some(store);
            }
        }
    }

    /// What must hold at once, whatever is queued.
    fn check_queued(&self) {
        for (model, group) in self.models.iter().zip(&self.groups) {
            let group = group.as_ref().unwrap();
            assert_eq!(group.vote(), model.vote);
            let state = group.log_state();
            assert_eq!(state.purged, model.purged);
            assert_eq!(state.last, model.log.last().map(|entry| entry.log_id));
            let begin = model.purged.map_or(0, |purged| purged.index + 1);
            let held = &model.log[begin as usize..];
            assert_eq!(group.entries(0..u64::MAX, usize::MAX).unwrap(), held);
            let middle = begin + held.len() as u64 / 2;
            let some = group.entries(middle..middle + 3, 20).unwrap();
            assert_eq!(some.is_empty(), held.is_empty());
            assert_eq!(some[..], model.log[middle as usize..][..some.len()]);
        }
    }

    /// What must hold once everything is written.
    fn check_written(&self) {
        for (model, group) in self.models.iter().zip(&self.groups) {
            let group = group.as_ref().unwrap();
            drain(group);
            assert_eq!(
                group.applied().map_or(0, |applied| applied.index + 1),
                model.applied
            );
            let (state, index) = true_rows(model.applied);
            check_rows(group, Table::State, &state);
            check_rows(group, Table::Index, &index);
            for (position, entry) in (0u64..).zip(&model.log) {
                assert_eq!(group.history(position).unwrap().as_ref(), Some(entry));
            }
            assert_eq!(group.history(model.end()).unwrap(), None);
            let pristine = model.vote.is_none() && model.log.is_empty();
            assert_eq!(group.is_pristine(), pristine);
        }
    }
}

fn check_rows(group: &Group, table: Table, expected: &Rows) {
    let all = Bound::Unbounded;
    let forward = group
        .scan(table, all, all, Order::Ascending, usize::MAX)
        .unwrap();
    let expected: Vec<_> = expected.clone().into_iter().collect();
    assert_eq!(forward, expected);
    let mut backward = group
        .scan(table, all, all, Order::Descending, usize::MAX)
        .unwrap();
    backward.reverse();
    assert_eq!(backward, expected);
    for (key, value) in &expected {
        assert_eq!(group.get(table, key).unwrap().as_ref(), Some(value));
    }
    if let Some((middle, _)) = expected.get(expected.len() / 2) {
        let from = Bound::Excluded(&middle[..]);
        let rest = group.scan(table, from, all, Order::Ascending, 4).unwrap();
        let above: Vec<_> = expected
            .iter()
            .filter(|(key, _)| key > middle)
            .take(4)
            .cloned()
            .collect();
        assert_eq!(rest, above);
    }
}

#[test]
fn two_groups_do_what_the_model_does() {
    let dir = tempfile::tempdir().unwrap();
    let sources = open(dir.path());
    let config = ProptestConfig {
        cases: 24,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    proptest!(config, |(steps in steps())| {
        let mut world = World::new(Source::new(&sources));
        for (position, (which, step)) in steps.iter().enumerate() {
            world.run(*which, step);
            world.check_queued();
            if position % 8 == 0 {
                world.check_written();
            }
        }
        world.check_written();
        world.run(0, &Step::ReopenStore);
        world.check_queued();
        world.check_written();
    });
}
