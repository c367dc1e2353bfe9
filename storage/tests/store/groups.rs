//! One group: its vote, its log, its rows.

use std::ops::Bound;

use accord_storage::{
    Error, GroupId, KEY_BYTES_MAX, LogState, Order, Standing, Store, Table, Vote, Write,
};

use crate::support::{block_on, drain, entries, entry, fine, id, open, options, wait};

const GROUP: GroupId = GroupId(7);

fn put(table: Table, key: &[u8], value: &[u8]) -> Write {
    Write::Put {
        table,
        key: key.to_vec(),
        value: value.to_vec(),
    }
}

#[test]
fn a_new_group_is_pristine_until_it_votes() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let group = store.group(GROUP).unwrap();
    assert!(group.is_pristine());
    assert_eq!(group.log_state(), LogState::default());
    assert_eq!(group.applied(), None);
    let vote = Vote {
        term: 3,
        node: 2,
        committed: true,
    };
    wait(|done| group.save_vote(vote, done)).unwrap();
    assert!(!group.is_pristine());
    drop((group, store));
    let store = open(dir.path());
    let group = store.group(GROUP).unwrap();
    assert_eq!(group.vote(), Some(vote));
    assert!(!group.is_pristine());
}

#[test]
fn a_confirmed_vote_is_ordered_before_what_follows() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let group = store.group(GROUP).unwrap();
    group.confirm_vote();
    assert_eq!(group.vote(), None);
    let vote = |committed| Vote {
        term: 3,
        node: 2,
        committed,
    };
    wait(|done| group.save_vote(vote(false), done)).unwrap();
    group.confirm_vote();
    assert_eq!(group.vote(), Some(vote(true)));
    wait(|done| group.append(vec![entry(3, 0, b"x")], done)).unwrap();
    drop((group, store));
    let store = open(dir.path());
    assert_eq!(store.group(GROUP).unwrap().vote(), Some(vote(true)));
}

#[test]
fn a_group_is_founded_once_and_as_a_whole() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let vote = Vote {
        term: 1,
        node: 2,
        committed: true,
    };
    let first = || entry(0, 0, b"members");
    let rows = || vec![put(Table::State, b"members", b"1 2 3")];
    let check = |group: &accord_storage::Group| {
        assert!(!group.is_pristine());
        assert_eq!(group.vote(), Some(vote));
        assert_eq!(group.log_state().last, Some(id(0, 0)));
        assert_eq!(group.applied(), Some(id(0, 0)));
        assert_eq!(group.entries(0..1, usize::MAX).unwrap(), [first()]);
        let row = group.get(Table::State, b"members").unwrap();
        assert_eq!(row.as_deref(), Some(&b"1 2 3"[..]));
    };
    let group = store.group(GROUP).unwrap();
    let long = vec![put(Table::State, &[b'k'; KEY_BYTES_MAX + 1], b"")];
    let refused = wait(|done| group.found(vote, first(), long, done));
    assert!(matches!(refused, Err(Error::Misuse(_))));
    assert!(group.is_pristine(), "nothing of it is left");
    wait(|done| group.found(vote, first(), rows(), done)).unwrap();
    check(&group);
    let again = wait(|done| group.found(vote, first(), rows(), done));
    assert!(matches!(again, Err(Error::Misuse(_))));
    wait(|done| group.append(vec![entry(1, 1, b"x")], done)).unwrap();
    wait(|done| group.truncate_after(Some(id(0, 0)), done)).unwrap();
    drop((group, store));
    check(&open(dir.path()).group(GROUP).unwrap());

    let store = open(dir.path());
    let voted = store.group(GroupId(8)).unwrap();
    wait(|done| voted.save_vote(vote, done)).unwrap();
    let late = wait(|done| voted.found(vote, first(), rows(), done));
    assert!(matches!(late, Err(Error::Misuse(_))));
}

#[test]
fn an_entry_is_readable_before_it_is_done() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let group = store.group(GROUP).unwrap();
    group.append(entries(1, 0..100), fine());
    assert_eq!(
        group.entries(0..100, usize::MAX).unwrap(),
        entries(1, 0..100)
    );
    assert_eq!(group.log_state().last, Some(id(1, 99)));
    group.append(vec![entry(2, 100, b"x")], fine());
    assert_eq!(group.history(100).unwrap(), Some(entry(2, 100, b"x")));
    assert_eq!(group.history(101).unwrap(), None);
}

#[test]
fn reads_stop_at_the_bound_but_return_one() {
    let dir = tempfile::tempdir().unwrap();
    for reopened in [false, true] {
        let store = open(dir.path());
        let group = store.group(GROUP).unwrap();
        if !reopened {
            let all = (0..5).map(|index| entry(1, index, &[0; 100])).collect();
            wait(|done| group.append(all, done)).unwrap();
        }
        assert_eq!(group.entries(0..5, 0).unwrap().len(), 1);
        assert_eq!(group.entries(0..5, 250).unwrap().len(), 2);
        assert_eq!(group.entries(1..3, 1_000).unwrap().len(), 2);
        assert_eq!(group.entries(4..90, 1_000).unwrap().len(), 1);
        assert_eq!(group.entries(5..90, 1_000).unwrap().len(), 0);
    }
}

#[test]
fn entries_between_disk_and_tail_join_without_a_seam() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let group = store.group(GROUP).unwrap();
    // More than the tail keeps, so that the front is read from the disk.
    wait(|done| group.append(entries(1, 0..3_000), done)).unwrap();
    wait(|done| group.append(entries(1, 3_000..3_001), done)).unwrap();
    assert_eq!(
        group.entries(0..9_999, usize::MAX).unwrap(),
        entries(1, 0..3_001)
    );
    assert_eq!(
        group.entries(1_900..2_100, usize::MAX).unwrap(),
        entries(1, 1_900..2_100)
    );
}

#[test]
fn what_was_truncated_never_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let group = store.group(GROUP).unwrap();
    // Both kinds of deletion: few entries and many.
    for (from, count) in [(50, 10), (10, 500)] {
        wait(|done| group.append(entries(1, group_end(&group)..600), done)).unwrap();
        group.truncate_after(Some(id(1, from - 1)), fine());
        assert_eq!(group.log_state().last, Some(id(1, from - 1)));
        assert_eq!(group.entries(from..600, usize::MAX).unwrap(), []);
        group.append(entries(2, from..from + count), fine());
        group.truncate_after(Some(id(2, from)), fine());
        group.append(entries(3, from + 1..from + 3), fine());
        let mut expected = entries(2, from..from + 1);
        expected.extend(entries(3, from + 1..from + 3));
        assert_eq!(group.entries(from..600, usize::MAX).unwrap(), expected);
        drain(&group);
        assert_eq!(group.entries(from..600, usize::MAX).unwrap(), expected);
        group.truncate_after(Some(id(1, from - 1)), fine());
    }
    drop((group, store));
    let store = open(dir.path());
    let group = store.group(GROUP).unwrap();
    assert_eq!(group.log_state().last, Some(id(1, 9)));
    assert_eq!(
        group.entries(0..600, usize::MAX).unwrap(),
        entries(1, 0..10)
    );
    wait(|done| group.truncate_after(None, done)).unwrap();
    assert_eq!(group.log_state(), LogState::default());
}

fn group_end(group: &accord_storage::Group) -> u64 {
    group.log_state().last.map_or(0, |last| last.index + 1)
}

#[test]
fn a_log_that_does_not_follow_is_refused_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let group = store.group(GROUP).unwrap();
    wait(|done| group.append(entries(2, 0..3), done)).unwrap();
    for wrong in [entries(2, 4..5), entries(2, 2..3), entries(1, 3..4)] {
        let refused = wait(|done| group.append(wrong, done));
        assert!(matches!(refused, Err(Error::Misuse(_))), "{refused:?}");
    }
    let refused = wait(|done| group.truncate_after(Some(id(1, 1)), done));
    assert!(matches!(refused, Err(Error::Misuse(_))), "{refused:?}");
    assert_eq!(group.entries(0..9, usize::MAX).unwrap(), entries(2, 0..3));
}

#[test]
fn a_purge_hides_entries_from_the_log_but_not_from_history() {
    let dir = tempfile::tempdir().unwrap();
    for reopened in [false, true] {
        let store = open(dir.path());
        let group = store.group(GROUP).unwrap();
        if !reopened {
            group.append(entries(1, 0..10), fine());
            wait(|done| group.purge(id(1, 4), done)).unwrap();
            wait(|done| group.purge(id(1, 2), done)).unwrap();
        }
        assert_eq!(group.log_state().purged, Some(id(1, 4)));
        assert_eq!(group.entries(0..10, usize::MAX).unwrap(), entries(1, 5..10));
        assert_eq!(group.history(0).unwrap(), Some(entries(1, 0..1).remove(0)));
    }
    let store = open(dir.path());
    let group = store.group(GROUP).unwrap();
    group.truncate_after(None, fine());
    assert_eq!(
        group.log_state().last,
        Some(id(1, 4)),
        "purged entries stay"
    );
    group.append(entries(2, 5..6), fine());
    wait(|done| group.purge(id(3, 20), done)).unwrap();
    assert_eq!(group.log_state().last, Some(id(3, 20)), "beyond the end");
    group.append(entries(3, 21..22), fine());
    drop((group, store));
    let store = open(dir.path());
    let group = store.group(GROUP).unwrap();
    assert_eq!(
        group.entries(0..99, usize::MAX).unwrap(),
        entries(3, 21..22)
    );
    assert_eq!(group.log_state().purged, Some(id(3, 20)));
}

#[test]
fn an_empty_log_begins_where_its_first_entry_is() {
    let dir = tempfile::tempdir().unwrap();
    for reopened in [false, true] {
        let store = open(dir.path());
        let group = store.group(GROUP).unwrap();
        if !reopened {
            wait(|done| group.append(entries(1, 1..4), done)).unwrap();
        }
        assert_eq!(group.entries(0..9, usize::MAX).unwrap(), entries(1, 1..4));
        assert_eq!(group.history(0).unwrap(), None);
    }
}

#[test]
fn rows_change_together_with_the_applied_position() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let group = store.group(GROUP).unwrap();
    group.append(entries(1, 0..2), fine());
    let writes = vec![
        put(Table::State, b"a", b"1"),
        put(Table::State, b"b", b"2"),
        put(Table::Index, b"a", b"3"),
    ];
    wait(|done| group.apply(id(1, 0), writes, done)).unwrap();
    assert_eq!(group.applied(), Some(id(1, 0)));
    assert_eq!(group.get(Table::State, b"a").unwrap(), Some(b"1".to_vec()));
    assert_eq!(group.get(Table::Index, b"a").unwrap(), Some(b"3".to_vec()));
    assert_eq!(group.get(Table::Index, b"b").unwrap(), None);
    let delete = Write::Delete {
        table: Table::State,
        key: b"a".to_vec(),
    };
    wait(|done| group.apply(id(1, 1), vec![delete], done)).unwrap();
    assert_eq!(group.get(Table::State, b"a").unwrap(), None);
    let again = wait(|done| group.apply(id(1, 1), Vec::new(), done));
    assert!(matches!(again, Err(Error::Misuse(_))));
    let long = put(Table::State, &[0; accord_storage::KEY_BYTES_MAX + 1], b"");
    let refused = wait(|done| group.apply(id(1, 2), vec![long], done));
    assert!(matches!(refused, Err(Error::Misuse(_))));
    drop((group, store));
    let store = open(dir.path());
    let group = store.group(GROUP).unwrap();
    assert_eq!(group.applied(), Some(id(1, 1)));
    assert_eq!(group.get(Table::State, b"b").unwrap(), Some(b"2".to_vec()));
}

#[test]
fn where_a_group_stands_is_known_without_opening_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    assert_eq!(store.standing(GROUP).unwrap(), Standing::default());
    let group = store.group(GROUP).unwrap();
    group.append(entries(2, 0..5), fine());
    let queued = store.standing(GROUP).unwrap();
    assert_eq!((queued.last, queued.applied), (Some(id(2, 4)), None));
    wait(|done| group.apply(id(2, 3), Vec::new(), done)).unwrap();
    let ends = Standing {
        last: Some(id(2, 4)),
        applied: Some(id(2, 3)),
    };
    assert_eq!(store.standing(GROUP).unwrap(), ends);
    // Purged entries are still the end of the log.
    wait(|done| group.purge(id(2, 4), done)).unwrap();
    drop(group);
    assert_eq!(store.standing(GROUP).unwrap(), ends);
    assert_eq!(store.stats().groups_open, 0);
    drop(store);
    let store = open(dir.path());
    assert_eq!(store.standing(GROUP).unwrap(), ends);
    assert_eq!(store.standing(GroupId(8)).unwrap(), Standing::default());
}

#[test]
fn a_scan_stays_within_its_bounds_table_and_group() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let groups: Vec<_> = (6..9).map(|id| store.group(GroupId(id)).unwrap()).collect();
    for group in &groups {
        group.append(entries(1, 0..1), fine());
        let mut writes: Vec<_> = (0..10u8).map(|k| put(Table::State, &[k], &[k])).collect();
        writes.extend((20..25u8).map(|k| put(Table::Index, &[k], &[k])));
        wait(|done| group.apply(id(1, 0), writes, done)).unwrap();
    }
    let keys = |table, from, to, order, limit| -> Vec<u8> {
        let rows = groups[1].scan(table, from, to, order, limit).unwrap();
        rows.into_iter().map(|(key, _)| key[0]).collect()
    };
    let (up, down) = (Order::Ascending, Order::Descending);
    let all = Bound::Unbounded;
    let (three, six) = (&[3][..], &[6][..]);
    assert_eq!(
        keys(Table::State, all, all, up, 99),
        (0..10).collect::<Vec<_>>()
    );
    assert_eq!(keys(Table::State, all, all, down, 3), [9, 8, 7]);
    assert_eq!(keys(Table::Index, all, all, up, 2), [20, 21]);
    assert_eq!(keys(Table::Index, all, all, down, 99), [24, 23, 22, 21, 20]);
    assert_eq!(
        keys(
            Table::State,
            Bound::Included(three),
            Bound::Included(six),
            up,
            99
        ),
        [3, 4, 5, 6]
    );
    assert_eq!(
        keys(
            Table::State,
            Bound::Excluded(three),
            Bound::Excluded(six),
            down,
            99
        ),
        [5, 4]
    );
    assert_eq!(
        keys(
            Table::State,
            Bound::Included(six),
            Bound::Included(three),
            up,
            9
        ),
        []
    );
    assert_eq!(
        keys(
            Table::State,
            Bound::Excluded(six),
            Bound::Excluded(six),
            up,
            9
        ),
        []
    );
    assert_eq!(keys(Table::State, all, all, up, 0), []);
}

#[test]
fn a_group_has_one_owner_and_keeps_what_is_queued() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let group = store.group(GROUP).unwrap();
    assert_eq!(store.group(GROUP).err(), Some(Error::GroupOpen(GROUP)));
    let clone = group.clone();
    drop(group);
    assert_eq!(store.group(GROUP).err(), Some(Error::GroupOpen(GROUP)));
    drop(clone);
    // Opened while its writes wait, it must not read a disk that lags behind.
    for round in 0..200 {
        let group = store.group(GROUP).unwrap();
        assert_eq!(group_end(&group), round);
        let vote = group.vote().map_or(0, |vote| vote.term);
        assert_eq!(vote, round);
        group.append(entries(1, round..round + 1), fine());
        let vote = Vote {
            term: round + 1,
            node: 1,
            committed: false,
        };
        group.save_vote(vote, fine());
    }
    assert_eq!(store.stats().groups_open, 0);
}

#[test]
fn drained_waits_for_what_came_before() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let group = store.group(GROUP).unwrap();
    for index in 0..50 {
        group.append(entries(1, index..index + 1), fine());
        group.apply(id(1, index), Vec::new(), fine());
    }
    drain(&group);
    assert_eq!(group.applied(), Some(id(1, 49)));
    block_on(store.ready());
    assert!(!store.pressure());
    let stats = store.stats();
    assert_eq!(
        (stats.entries, stats.queue_length, stats.queue_bytes),
        (50, 0, 0)
    );
    assert!(stats.fsyncs <= stats.batches && stats.fsyncs <= 50);
    let counted: u64 = stats.fsync_latency.counts.iter().sum();
    assert_eq!(counted, stats.fsyncs);
    assert!(stats.free_bytes > 0);
}

#[test]
fn a_missing_entry_is_named() {
    // Two logs with a hole between them are made by purging beyond the end;
    // the hole is below the mark, so history has nothing there.
    let dir = tempfile::tempdir().unwrap();
    // What is missing would end the process.
    let mut options = options(dir.path());
    options.on_fatal = std::sync::Arc::new(|reason| assert!(reason.contains("is missing")));
    let store = Store::open(options).unwrap();
    let group = store.group(GROUP).unwrap();
    group.append(entries(1, 0..3), fine());
    group.purge(id(1, 9), fine());
    wait(|done| group.append(entries(1, 10..12), done)).unwrap();
    assert_eq!(group.history(5).unwrap(), None);
    wait(|done| group.apply(id(1, 11), Vec::new(), done)).unwrap();
    let mut chunks = group
        .snapshot()
        .unwrap()
        .chunks(accord_storage::Have::default(), 1 << 20);
    let error = chunks.next().unwrap().unwrap_err();
    assert!(
        matches!(
            error,
            Error::Corrupt {
                group: GROUP,
                index: 3,
                ..
            }
        ),
        "{error}"
    );
    assert!(chunks.next().is_none());
}
