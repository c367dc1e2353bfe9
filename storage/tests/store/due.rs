//! When groups are due: in order of time, and in step with their rows whatever happens in between.

use accord_storage::{DUE_KEY, DueChange, Group, GroupId, Have, LogId, Store, Table};
use proptest::prelude::*;

use crate::support::{entries, entry, fine, id, open, wait};

/// Applies one entry more, which moves the group's due time.
fn apply(group: &Group, was: Option<u64>, is: Option<u64>) {
    let index = group.log_state().last.map_or(0, |last| last.index + 1);
    group.append(vec![entry(1, index, b"x")], fine());
    wait(|done| group.apply_with_due(id(1, index), Vec::new(), DueChange { was, is }, done))
        .unwrap();
}

fn all(store: &Store) -> Vec<(u64, u64)> {
    let found = store.due(None, u64::MAX, usize::MAX).unwrap();
    found
        .into_iter()
        .map(|(due, group)| (due, group.0))
        .collect()
}

#[test]
fn groups_are_found_in_the_order_of_time_page_by_page() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let groups = [1, 2, 3].map(|id| store.group(GroupId(id)).unwrap());
    apply(&groups[0], None, Some(300));
    apply(&groups[1], None, Some(100));
    apply(&groups[2], None, Some(100));
    assert_eq!(all(&store), [(100, 2), (100, 3), (300, 1)]);
    assert_eq!(store.due(None, 99, 9).unwrap(), []);
    assert_eq!(store.due(None, 100, 9).unwrap().len(), 2);
    let first = store.due(None, 300, 1).unwrap();
    assert_eq!(first, [(100, GroupId(2))]);
    let rest = store.due(Some(first[0]), 300, 9).unwrap();
    assert_eq!(rest, [(100, GroupId(3)), (300, GroupId(1))]);

    apply(&groups[2], Some(100), Some(400));
    apply(&groups[1], Some(100), None);
    apply(&groups[0], Some(300), Some(300));
    assert_eq!(all(&store), [(300, 1), (400, 3)]);
    drop((groups, store));
    let store = open(dir.path());
    assert_eq!(all(&store), [(300, 1), (400, 3)], "a start changes nothing");
    assert_eq!(store.fact("due/").unwrap(), None, "facts lie elsewhere");
}

#[test]
fn a_vote_is_read_without_opening_its_group() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    assert_eq!(store.vote(GroupId(1)).unwrap(), None);
    let group = store.group(GroupId(1)).unwrap();
    let vote = accord_storage::Vote {
        term: 3,
        node: 2,
        committed: true,
    };
    wait(|done| group.save_vote(vote, done)).unwrap();
    assert_eq!(store.vote(GroupId(1)).unwrap(), Some(vote));
    drop(group);
    assert_eq!(store.vote(GroupId(1)).unwrap(), Some(vote));
}

/// What happens to one of two replicas of a group.
#[derive(Debug, Clone)]
enum Step {
    /// The first one applies an entry that makes it due then.
    Apply(Option<u64>),
    /// The second one installs a snapshot of the first.
    Install,
    /// It is dropped half received.
    Abandon,
    /// The second one applies the entries that it lacks.
    Follow,
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => proptest::option::of(0..6_u64).prop_map(Step::Apply),
        2 => Just(Step::Install),
        1 => Just(Step::Abandon),
        2 => Just(Step::Follow),
        1 => Just(Step::Reopen),
    ];
    proptest::collection::vec(step, 1..14)
}

/// Two nodes with a replica each, and what their log says of due times.
struct Pair {
    dirs: [tempfile::TempDir; 2],
    stores: Vec<Store>,
    groups: Vec<Group>,
    /// What each entry makes the group due at.
    history: Vec<Option<u64>>,
    applied: [usize; 2],
}

const GROUP: GroupId = GroupId(7);

impl Pair {
    fn new() -> Self {
        let mut pair = Self {
            dirs: [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()],
            stores: Vec::new(),
            groups: Vec::new(),
            history: Vec::new(),
            applied: [0; 2],
        };
        pair.open();
        pair
    }

    fn open(&mut self) {
        self.groups.clear();
        self.stores.clear();
        self.stores = self.dirs.iter().map(|dir| open(dir.path())).collect();
        let groups = self.stores.iter().map(|store| store.group(GROUP).unwrap());
        self.groups = groups.collect();
    }

    fn due(&self, replica: usize) -> Option<u64> {
        let last = self.applied[replica].checked_sub(1)?;
        self.history[last]
    }

    fn apply_next(&mut self, replica: usize) {
        let (at, was) = (self.applied[replica], self.due(replica));
        let group = &self.groups[replica];
        let log_id = id(1, at as u64);
        if group.log_state().last.is_none_or(|last| last < log_id) {
            group.append(entries(1, at as u64..at as u64 + 1), fine());
        }
        let due = DueChange {
            was,
            is: self.history[at],
        };
        wait(|done| group.apply_with_due(log_id, Vec::new(), due, done)).unwrap();
        self.applied[replica] += 1;
    }

    /// Sends the second replica what it lacks; all of it, or all but the end.
    fn send(&mut self, whole: bool) {
        if self.applied[0] <= self.applied[1] {
            return;
        }
        let view = self.groups[0].snapshot().unwrap();
        let have = match self.applied[1] {
            0 => Have::default(),
            _ => self.groups[1].have().unwrap(),
        };
        let chunks: Vec<_> = view.chunks(have, 200).map(Result::unwrap).collect();
        let mut install = self.groups[1].install().unwrap();
        let sent = chunks.len() - usize::from(!whole);
        for chunk in &chunks[..sent] {
            wait(|done| install.chunk(chunk, done)).unwrap();
        }
        if whole {
            let covered: LogId = install.covers().unwrap();
            let before = self.due(1);
            wait(|done| install.finish(covered, before, done)).unwrap();
            self.applied[1] = self.applied[0];
        }
    }

    fn check(&self) -> Result<(), TestCaseError> {
        for replica in 0..2 {
            let expected: Vec<_> = self
                .due(replica)
                .map(|due| (due, GROUP.0))
                .into_iter()
                .collect();
            prop_assert_eq!(all(&self.stores[replica]), expected, "replica {}", replica);
            let row = self.groups[replica].get(Table::State, DUE_KEY).unwrap();
            prop_assert_eq!(row.is_some(), self.due(replica).is_some());
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// However a replica came to its rows, the index says of it what they say.
    #[test]
    fn the_index_is_in_step_with_the_rows(steps in steps()) {
        let mut pair = Pair::new();
        for step in steps {
            match step {
                Step::Apply(due) => {
                    pair.history.push(due);
                    pair.apply_next(0);
                }
                Step::Install => pair.send(true),
                Step::Abandon => pair.send(false),
                Step::Follow => while pair.applied[1] < pair.applied[0] {
                    pair.apply_next(1);
                },
                Step::Reopen => pair.open(),
            }
            pair.check()?;
        }
    }
}
