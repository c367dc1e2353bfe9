//! Snapshots between two stores.

use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use accord_storage::{Error, Group, GroupId, Have, Install, LogId, Order, Store, Table, Write};
use bytes::Bytes;
use tempfile::TempDir;

use crate::support::{entries, fine, id, open, wait};

const GROUP: GroupId = GroupId(3);

struct Place {
    group: Group,
    store: Store,
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let group = store.group(GROUP).unwrap();
        Self { group, store, dir }
    }

    /// Ends and opens again.
    fn reopened(self) -> Self {
        let Self { group, store, dir } = self;
        drop((group, store));
        let store = open(dir.path());
        let group = store.group(GROUP).unwrap();
        Self { group, store, dir }
    }

    /// Appends entries and applies them, one index row each and a head row.
    fn grow(&self, term: u64, indexes: std::ops::Range<u64>) {
        self.group.append(entries(term, indexes.clone()), fine());
        for index in indexes {
            wait(|done| self.group.apply(id(term, index), rows(index), done)).unwrap();
        }
    }

    /// Everything a reader can see of the applied state.
    fn seen(&self) -> Seen {
        let all = Bound::Unbounded;
        let scan = |table| {
            self.group
                .scan(table, all, all, Order::Ascending, usize::MAX)
                .unwrap()
        };
        let last = self.group.applied().map_or(0, |applied| applied.index + 1);
        Seen {
            applied: self.group.applied(),
            state: scan(Table::State),
            index: scan(Table::Index),
            history: (0..last)
                .map(|index| self.group.history(index).unwrap().unwrap())
                .collect(),
        }
    }
}

#[derive(Debug, PartialEq)]
struct Seen {
    applied: Option<LogId>,
    state: Vec<(Vec<u8>, Vec<u8>)>,
    index: Vec<(Vec<u8>, Vec<u8>)>,
    history: Vec<accord_storage::Entry>,
}

fn rows(index: u64) -> Vec<Write> {
    let put = |table, key: &[u8]| Write::Put {
        table,
        key: key.to_vec(),
        value: index.to_be_bytes().to_vec(),
    };
    vec![
        put(Table::State, b"head"),
        put(Table::State, &[index as u8 % 5]),
        put(Table::Index, &index.to_be_bytes()),
    ]
}

fn chunks(from: &Place, have: Have) -> Vec<Bytes> {
    let snapshot = from.group.snapshot().unwrap();
    snapshot.chunks(have, 200).map(Result::unwrap).collect()
}

fn stage(install: &mut Install, chunks: &[Bytes]) {
    for chunk in chunks {
        wait(|done| install.chunk(chunk, done)).unwrap();
    }
}

fn copy(from: &Place, to: &Place) -> usize {
    let have = to.group.have().unwrap();
    let chunks = chunks(from, have);
    let mut install = to.group.install().unwrap();
    stage(&mut install, &chunks);
    let applied = from.group.applied().unwrap();
    wait(|done| install.finish(applied, None, done)).unwrap();
    chunks.iter().map(Bytes::len).sum()
}

#[test]
fn a_full_snapshot_makes_an_empty_replica_equal() {
    let (leader, follower) = (Place::new(), Place::new());
    leader.grow(1, 0..30);
    leader.grow(2, 30..50);
    copy(&leader, &follower);
    assert_eq!(follower.seen(), leader.seen());
    let state = follower.group.log_state();
    assert_eq!(
        (state.purged, state.last),
        (Some(id(2, 49)), Some(id(2, 49)))
    );
    assert_eq!(follower.group.entries(0..99, usize::MAX).unwrap(), []);
    let follower = follower.reopened();
    assert_eq!(follower.seen(), leader.seen());
    follower.grow(2, 50..52);
    leader.grow(2, 50..52);
    assert_eq!(follower.seen(), leader.seen());
}

#[test]
fn an_incremental_snapshot_sends_what_is_missing() {
    let (leader, mut follower) = (Place::new(), Place::new());
    leader.grow(1, 0..200);
    let full = copy(&leader, &follower);
    for round in 0..3 {
        let begin = 200 + round * 10;
        leader.grow(1, begin..begin + 10);
        let more = copy(&leader, &follower);
        assert!(more * 5 < full, "{more} of {full} bytes");
        assert_eq!(follower.seen(), leader.seen());
        follower = follower.reopened();
        assert_eq!(follower.seen(), leader.seen());
    }
    // The receiver of many parts can send them on.
    let third = Place::new();
    copy(&follower, &third);
    assert_eq!(third.seen(), leader.seen());
}

#[test]
fn a_tail_that_agrees_survives_and_one_that_does_not_is_dropped() {
    let leader = Place::new();
    leader.grow(1, 0..10);
    let agreeing = Place::new();
    agreeing.grow(1, 0..3);
    agreeing.group.append(entries(1, 3..15), fine());
    copy(&leader, &agreeing);
    for place in [&agreeing, &agreeing] {
        assert_eq!(
            place.group.entries(0..99, usize::MAX).unwrap(),
            entries(1, 10..15)
        );
        assert_eq!(place.group.log_state().last, Some(id(1, 14)));
        assert_eq!(place.seen(), leader.seen());
    }
    let agreeing = agreeing.reopened();
    assert_eq!(
        agreeing.group.entries(0..99, usize::MAX).unwrap(),
        entries(1, 10..15)
    );
    agreeing.group.truncate_after(Some(id(1, 11)), fine());
    agreeing.group.append(entries(2, 12..13), fine());
    let agreeing = agreeing.reopened();
    assert_eq!(agreeing.group.log_state().last, Some(id(2, 12)));
    let other = Place::new();
    other.grow(1, 0..3);
    other.group.append(entries(2, 3..15), fine());
    copy(&leader, &other);
    assert_eq!(other.group.log_state().last, Some(id(1, 9)));
    assert_eq!(other.seen(), leader.seen());
    let other = other.reopened();
    assert_eq!(other.seen(), leader.seen());
    assert_eq!(other.group.history(10).unwrap(), None);
    other.grow(3, 10..12);
    assert_eq!(
        other.group.entries(0..99, usize::MAX).unwrap(),
        entries(3, 10..12)
    );
}

#[test]
fn an_abandoned_install_leaves_nothing_behind() {
    let (leader, mut follower) = (Place::new(), Place::new());
    follower.grow(1, 0..5);
    leader.grow(1, 0..60);
    let before = follower.seen();
    let have = follower.group.have().unwrap();
    let chunks = chunks(&leader, have.clone());
    assert!(chunks.len() > 10);
    for kept in [1, chunks.len() / 2, chunks.len()] {
        let mut install = follower.group.install().unwrap();
        assert_eq!(
            follower.group.install().err(),
            Some(Error::Installing(GROUP)),
            "one at a time"
        );
        stage(&mut install, &chunks[..kept]);
        drop(install);
        assert_eq!(follower.seen(), before);
        assert_eq!(follower.group.have().unwrap(), have);
        // The same with an end in between, as if the process had died.
        let mut install = follower.group.install().unwrap();
        stage(&mut install, &chunks[..kept]);
        std::mem::forget(install);
        let Place { group, store, dir } = follower;
        // The forgotten install holds the store: only a copy can be opened.
        let copy = tempfile::tempdir().unwrap();
        copy_files(dir.path(), copy.path());
        drop((group, store));
        let store = open(copy.path());
        let group = store.group(GROUP).unwrap();
        follower = Place {
            group,
            store,
            dir: copy,
        };
        assert_eq!(follower.seen(), before);
        assert_eq!(follower.group.have().unwrap(), have);
    }
    copy(&leader, &follower);
    assert_eq!(follower.seen(), leader.seen());
}

fn copy_files(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to.join("db")).unwrap();
    // First, since the store goes on: it must not be ahead of the rest.
    std::fs::copy(from.join("acknowledged"), to.join("acknowledged")).unwrap();
    for file in std::fs::read_dir(from.join("db")).unwrap() {
        let path = file.unwrap().path();
        std::fs::copy(&path, to.join("db").join(path.file_name().unwrap())).unwrap();
    }
}

#[test]
fn a_snapshot_is_of_one_moment() {
    let (leader, follower) = (Place::new(), Place::new());
    leader.grow(1, 0..20);
    let before = leader.seen();
    let snapshot = leader.group.snapshot().unwrap();
    leader.grow(1, 20..40);
    leader.group.purge(id(1, 39), fine());
    assert_eq!(snapshot.applied(), Some(id(1, 19)));
    let mut install = follower.group.install().unwrap();
    for chunk in snapshot.chunks(Have::default(), 500) {
        wait(|done| install.chunk(&chunk.unwrap(), done)).unwrap();
    }
    wait(|done| install.finish(id(1, 19), None, done)).unwrap();
    assert_eq!(follower.seen(), before);
}

#[test]
fn wrong_chunks_are_refused_and_the_right_one_may_follow() {
    let (leader, follower) = (Place::new(), Place::new());
    leader.grow(1, 0..20);
    let chunks = chunks(&leader, Have::default());
    let mut install = follower.group.install().unwrap();
    for (position, chunk) in chunks.iter().enumerate() {
        let mut broken = chunk.to_vec();
        broken[position % chunk.len()] ^= 1;
        let next = chunks.get(position + 1);
        for wrong in [Some(&Bytes::from(broken)), Some(&Bytes::new()), next]
            .into_iter()
            .flatten()
        {
            let refused = wait(|done| install.chunk(wrong, done));
            assert!(matches!(refused, Err(Error::Chunk(_))), "{refused:?}");
        }
        wait(|done| install.chunk(chunk, done)).unwrap();
    }
    wait(|done| install.finish(id(1, 19), None, done)).unwrap();
    assert_eq!(follower.seen(), leader.seen());
}

#[test]
fn an_unfinished_or_misnamed_snapshot_is_not_switched_to() {
    let (leader, follower) = (Place::new(), Place::new());
    leader.grow(1, 0..20);
    let chunks = chunks(&leader, Have::default());
    for (staged, applied) in [(chunks.len() - 1, id(1, 19)), (chunks.len(), id(1, 18))] {
        let mut install = follower.group.install().unwrap();
        stage(&mut install, &chunks[..staged]);
        let refused = wait(|done| install.finish(applied, None, done));
        assert!(matches!(refused, Err(Error::Chunk(_))), "{refused:?}");
        assert!(follower.group.is_pristine());
    }
}

#[test]
fn a_snapshot_for_another_replica_is_refused() {
    let (leader, follower) = (Place::new(), Place::new());
    leader.grow(1, 0..20);
    follower.grow(1, 0..5);
    for have in [
        Have {
            applied_index: Some(9),
            index_after: None,
        },
        Have {
            applied_index: Some(4),
            index_after: Some(9u64.to_be_bytes().to_vec()),
        },
    ] {
        let mut install = follower.group.install().unwrap();
        let refused = wait(|done| install.chunk(&chunks(&leader, have)[0], done));
        assert!(matches!(refused, Err(Error::Chunk(_))), "{refused:?}");
    }
}

#[test]
fn a_snapshot_of_what_is_applied_already_changes_nothing() {
    let (leader, follower) = (Place::new(), Place::new());
    leader.grow(1, 0..10);
    let have = follower.group.have().unwrap();
    let late = chunks(&leader, have);
    follower.grow(1, 0..12);
    let before = follower.seen();
    let mut install = follower.group.install().unwrap();
    stage(&mut install, &late);
    wait(|done| install.finish(id(1, 9), None, done)).unwrap();
    assert_eq!(follower.seen(), before);
    assert_eq!(follower.group.log_state().purged, None);
    leader.grow(1, 10..11);
    copy(&leader, &follower);
    assert_eq!(follower.seen(), before);
}

#[test]
fn applying_goes_on_during_an_install() {
    let (leader, follower) = (Place::new(), Place::new());
    follower.grow(1, 0..5);
    leader.grow(1, 0..30);
    let have = follower.group.have().unwrap();
    let chunks = chunks(&leader, have);
    let mut install = follower.group.install().unwrap();
    let half = chunks.len() / 2;
    stage(&mut install, &chunks[..half]);
    follower.grow(1, 5..10);
    stage(&mut install, &chunks[half..]);
    wait(|done| install.finish(id(1, 29), None, done)).unwrap();
    assert_eq!(follower.seen(), leader.seen());
    let follower = follower.reopened();
    assert_eq!(follower.seen(), leader.seen());
}

#[test]
fn many_snapshots_end_in_a_full_one() {
    let (leader, follower) = (Place::new(), Place::new());
    let mut was_full = 0;
    for round in 0..70 {
        leader.grow(1, round * 2..round * 2 + 2);
        was_full += usize::from(follower.group.have().unwrap() == Have::default());
        copy(&leader, &follower);
        assert_eq!(follower.group.applied(), leader.group.applied());
    }
    assert_eq!(was_full, 2, "the first, and one after 64 parts");
    assert_eq!(follower.seen(), leader.seen());
    let follower = follower.reopened();
    assert_eq!(follower.seen(), leader.seen());
}

#[test]
fn readers_never_see_a_mixture() {
    let (leader, follower) = (Place::new(), Place::new());
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let reader = || {
            let all = Bound::Unbounded;
            let mut reads = 0u64;
            while !stop.load(Ordering::Relaxed) {
                let group = &follower.group;
                let state = group
                    .scan(Table::State, all, all, Order::Ascending, usize::MAX)
                    .unwrap();
                assert!(state.is_empty() || state.len() == 30, "{}", state.len());
                let one = state.first().map(|(_, value)| value.clone());
                assert!(state.iter().all(|(_, value)| Some(value) == one.as_ref()));
                if let Some(applied) = group.applied() {
                    for index in 0..=applied.index {
                        assert!(group.history(index).unwrap().is_some(), "{index}");
                    }
                    assert!(group.get(Table::State, &[7]).unwrap().is_some());
                }
                reads += 1;
            }
            reads
        };
        let readers = [scope.spawn(reader), scope.spawn(reader)];
        for round in 0..40u64 {
            leader.group.append(entries(1, round..round + 1), fine());
            let writes = (0..30u8)
                .map(|key| Write::Put {
                    table: Table::State,
                    key: vec![key],
                    value: round.to_be_bytes().to_vec(),
                })
                .collect();
            wait(|done| leader.group.apply(id(1, round), writes, done)).unwrap();
            copy(&leader, &follower);
        }
        stop.store(true, Ordering::Relaxed);
        for reader in readers {
            assert!(reader.join().unwrap() > 0);
        }
    });
}
