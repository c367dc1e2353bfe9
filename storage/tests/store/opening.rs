//! Opening, closing, and what is refused.

use std::fs;
use std::path::{Path, PathBuf};

use accord_storage::{Error, GroupId, OpenError, Options, Store};

use crate::copy::copy_of;
use crate::support::{CLUSTER, NODE, block_on, entries, fine, open, options, wait};

#[test]
fn a_directory_is_locked_while_it_is_open() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let refused = Store::open(options(dir.path())).err().unwrap();
    assert!(matches!(refused, OpenError::Locked { .. }), "{refused}");
    let clone = store.clone();
    drop(store);
    assert!(
        Store::open(options(dir.path())).is_err(),
        "a clone holds it"
    );
    block_on(clone.close()).unwrap();
    open(dir.path());
}

#[test]
fn another_cluster_or_node_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let identity = open(dir.path()).identity();
    let refused = Store::open(Options::new(dir.path(), "other", NODE))
        .err()
        .unwrap();
    assert!(
        matches!(refused, OpenError::OtherCluster { .. }),
        "{refused}"
    );
    assert!(refused.to_string().contains("\"test\"") && refused.to_string().contains("\"other\""));
    let refused = Store::open(Options::new(dir.path(), CLUSTER, 9))
        .err()
        .unwrap();
    assert!(
        matches!(
            refused,
            OpenError::OtherNode {
                found: NODE,
                wanted: 9,
                ..
            }
        ),
        "{refused}"
    );
    assert_eq!(open(dir.path()).identity(), identity);
    let other = tempfile::tempdir().unwrap();
    assert_ne!(open(other.path()).identity(), identity);
}

#[test]
fn facts_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    assert_eq!(store.fact("peer/2").unwrap(), None);
    store.set_fact("peer/2", b"identity").unwrap();
    assert!(matches!(
        store.set_fact("x", &[0; 1 << 17]),
        Err(Error::Misuse(_))
    ));
    drop(store);
    let store = open(dir.path());
    assert_eq!(store.fact("peer/2").unwrap(), Some(b"identity".to_vec()));
}

#[test]
fn a_closed_store_has_written_everything_and_takes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let group = store.group(GroupId(1)).unwrap();
    for index in 0..100 {
        group.append(entries(1, index..index + 1), fine());
    }
    block_on(store.close()).unwrap();
    let refused = wait(|done| group.append(entries(1, 100..101), done));
    assert_eq!(refused, Err(Error::Closed));
    block_on(group.drained());
    drop(group);
    let store = open(dir.path());
    let group = store.group(GroupId(1)).unwrap();
    assert_eq!(
        group.entries(0..200, usize::MAX).unwrap(),
        entries(1, 0..100)
    );
}

#[test]
fn a_full_disk_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path());
    assert!(open(dir.path()).has_room());
    options.free_bytes_min = u64::MAX;
    assert!(!Store::open(options).unwrap().has_room());
}

/// The newest file in the database whose name ends so.
fn newest(dir: &Path, ending: &str) -> PathBuf {
    let files = fs::read_dir(dir.join("db")).unwrap();
    files
        .map(|file| file.unwrap().path())
        .filter(|path| path.to_str().unwrap().ends_with(ending))
        .max()
        .unwrap()
}

fn flip_a_bit(file: &Path, position: usize) {
    let mut bytes = fs::read(file).unwrap();
    bytes[position] ^= 4;
    fs::write(file, bytes).unwrap();
}

fn refused_naming(dir: &Path, file: &Path) {
    let refused = Store::open(options(dir)).err().unwrap();
    let text = refused.to_string();
    let OpenError::Damaged { file: named, .. } = refused else {
        panic!("it was refused for another reason: {text}");
    };
    assert_eq!(named, file, "{text}");
    assert!(text.contains("accord rejoin"), "{text}");
}

#[test]
fn a_flipped_bit_in_the_log_is_refused_by_name() {
    // In the middle, in the last record, and in its very header.
    for place in [|len| len / 2, |len| len - 10, |len: usize| len - 100 - 40] {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let group = store.group(GroupId(1)).unwrap();
        for index in 0..500 {
            let payload = vec![index as u8; 100];
            wait(|done| group.append(vec![crate::support::entry(1, index, &payload)], done))
                .unwrap();
        }
        drop((group, store));
        let wal = newest(dir.path(), ".log");
        let len = fs::metadata(&wal).unwrap().len() as usize;
        assert!(len > 50_000, "{len}");
        flip_a_bit(&wal, place(len));
        refused_naming(dir.path(), &wal);
        assert!(Store::open(options(dir.path())).is_err(), "and again");
    }
}

/// A store whose log file ends with records of about 130 bytes, and the size
/// that its log file had after each of them.
fn with_records(dir: &Path, records: u64) -> Vec<u64> {
    let store = open(dir);
    let group = store.group(GroupId(1)).unwrap();
    let append = |index| {
        let entries = vec![crate::support::entry(1, index, &[index as u8; 100])];
        wait(|done| group.append(entries, done)).unwrap();
        fs::metadata(newest(dir, ".log")).unwrap().len()
    };
    (0..records).map(append).collect()
}

fn cut(file: &Path, len: u64) {
    let file = fs::File::options().write(true).open(file).unwrap();
    file.set_len(len).unwrap();
}

#[test]
fn an_unfinished_record_that_nobody_was_told_of_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let ends = with_records(dir.path(), 300);
    for torn in [1, 6, 60, 129] {
        let copy = copy_of(dir.path());
        let wal = newest(copy.path(), ".log");
        // The beginning of another record follows, as if its write was cut off.
        let mut bytes = fs::read(&wal).unwrap();
        let record = bytes[ends[297] as usize..ends[298] as usize].to_vec();
        bytes.extend_from_slice(&record[..torn]);
        fs::write(&wal, bytes).unwrap();
        let store = open(copy.path());
        let group = store.group(GroupId(1)).unwrap();
        assert_eq!(group.log_state().last, Some(crate::support::id(1, 299)));
        wait(|done| group.append(entries(1, 300..310), done)).unwrap();
        drop((group, store));
        let store = open(copy.path());
        let group = store.group(GroupId(1)).unwrap();
        assert_eq!(group.log_state().last, Some(crate::support::id(1, 309)));
    }
}

/// Asserts that the store is refused because acknowledged writes are missing.
fn refused_for_missing_writes(dir: &Path, case: &str) {
    let refused = Store::open(options(dir)).err();
    let refused = refused.unwrap_or_else(|| panic!("{case}: it was opened"));
    let text = refused.to_string();
    assert!(
        matches!(refused, OpenError::Damaged { .. }),
        "{case}: {text}"
    );
    assert!(text.contains("were acknowledged"), "{case}: {text}");
}

#[test]
fn an_acknowledged_end_that_is_cut_off_is_refused_at_every_byte() {
    let dir = tempfile::tempdir().unwrap();
    let ends = with_records(dir.path(), 40);
    // Within the last record, before it, and between earlier ones.
    let cuts = (ends[38] + 1..ends[39]).chain(ends[..39].iter().copied());
    for len in cuts {
        let copy = copy_of(dir.path());
        cut(&newest(copy.path(), ".log"), len);
        let case = format!("cut to {len} of {}", ends[39]);
        refused_for_missing_writes(copy.path(), &case);
        if len % 8 == 0 {
            refused_for_missing_writes(copy.path(), &format!("{case}, again"));
        }
    }
    let copy = copy_of(dir.path());
    fs::remove_file(newest(copy.path(), ".log")).unwrap();
    assert!(Store::open(options(copy.path())).is_err(), "the whole log");
    open(dir.path());
}

#[test]
fn a_manifest_that_is_cut_off_is_refused_unless_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    with_records(dir.path(), 40);
    // Opening again writes what the log held to a file that the manifest knows.
    drop(open(dir.path()));
    let manifest = |dir: &Path| {
        let files = fs::read_dir(dir.join("db")).unwrap();
        files
            .map(|file| file.unwrap().path())
            .find(|path| path.to_str().unwrap().contains("MANIFEST-"))
            .unwrap()
    };
    let whole = fs::metadata(manifest(dir.path())).unwrap().len();
    let (mut refused, mut by_the_mark) = (0, 0);
    // A few bytes apart: no record is as short, so each is cut or left out.
    for len in (0..=whole).rev().step_by(7) {
        let copy = copy_of(dir.path());
        cut(&manifest(copy.path()), len);
        match Store::open(options(copy.path())) {
            // The last records only say which logs are no longer needed.
            Ok(store) => {
                let group = store.group(GroupId(1)).unwrap();
                let kept = group.entries(0..40, usize::MAX).unwrap().len();
                assert_eq!(kept, 40, "cut to {len} of {whole}");
            }
            Err(OpenError::Damaged { detail, .. }) => {
                refused += 1;
                by_the_mark += usize::from(detail.contains("were acknowledged"));
            }
            Err(other) => panic!("cut to {len} of {whole}: {other}"),
        }
    }
    assert!(refused > whole / 14, "{refused} of {whole} bytes");
    assert!(by_the_mark > 0, "RocksDB itself notices every cut");
}

#[test]
fn a_store_without_a_readable_mark_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    with_records(dir.path(), 3);
    let copy = copy_of(dir.path());
    let mark = copy.path().join("acknowledged");
    let whole = fs::read(&mark).unwrap();
    fs::write(&mark, vec![0; whole.len()]).unwrap();
    refused_naming(copy.path(), &mark);
    fs::remove_file(&mark).unwrap();
    refused_naming(copy.path(), &mark);
    // An emptied database is no new one while the mark tells otherwise.
    fs::write(&mark, whole).unwrap();
    fs::remove_dir_all(copy.path().join("db")).unwrap();
    refused_for_missing_writes(copy.path(), "emptied");
}

#[test]
fn a_crash_while_a_directory_is_made_leaves_a_new_one() {
    let dir = tempfile::tempdir().unwrap();
    for left in [&b""[..], &[0; 5000]] {
        fs::write(dir.path().join("acknowledged"), left).unwrap();
        drop(open(dir.path()));
        fs::remove_dir_all(dir.path().join("db")).unwrap();
    }
}

#[test]
fn reopening_never_finds_fewer_writes_than_were_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    // Each kind of write, unsynced ones and range deletions included, flushed
    // by some openings and read from the log by others.
    for round in 0..20u64 {
        let mut options = options(dir.path());
        options.wal_bytes_max = 1 << 20;
        let store = Store::open(options).unwrap_or_else(|error| panic!("round {round}: {error}"));
        let group = store.group(GroupId(1 + round % 3)).unwrap();
        let begin = group.log_state().last.map_or(0, |last| last.index + 1);
        let payload = vec![1; if round % 4 == 0 { 20_000 } else { 10 }];
        for index in begin..begin + 100 {
            let entries = vec![crate::support::entry(1, index, &payload)];
            group.append(entries, fine());
            group.apply(crate::support::id(1, index), Vec::new(), fine());
        }
        let keep = crate::support::id(1, begin + 99);
        let extra = (begin + 100..begin + 200)
            .map(|index| crate::support::entry(1, index, b"extra"))
            .collect();
        group.append(extra, fine());
        group.truncate_after(Some(keep), fine());
        group.purge(crate::support::id(1, begin + 50), fine());
        if round % 2 == 0 {
            wait(|done| group.save_vote(vote(round), done)).unwrap();
        }
    }
}

fn vote(term: u64) -> accord_storage::Vote {
    accord_storage::Vote {
        term,
        node: NODE,
        committed: false,
    }
}

#[test]
fn a_missing_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let group = store.group(GroupId(1)).unwrap();
    wait(|done| group.append(entries(1, 0..50), done)).unwrap();
    drop((group, store));
    // Opening again writes what the log held to a file that the manifest knows.
    drop(open(dir.path()));
    fs::remove_file(newest(dir.path(), ".sst")).unwrap();
    let refused = Store::open(options(dir.path())).err().unwrap();
    assert!(matches!(refused, OpenError::Damaged { .. }), "{refused}");
}

#[test]
fn a_damaged_manifest_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let manifest = fs::read_dir(dir.path().join("db"))
        .unwrap()
        .map(|file| file.unwrap().path())
        .find(|path| path.to_str().unwrap().contains("MANIFEST-"))
        .unwrap();
    flip_a_bit(&manifest, 20);
    let refused = Store::open(options(dir.path())).err().unwrap();
    assert!(matches!(refused, OpenError::Damaged { .. }), "{refused}");
}
