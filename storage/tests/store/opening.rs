//! Opening, closing, and what is refused.

use std::fs;
use std::path::{Path, PathBuf};

use accord_storage::{Error, GroupId, OpenError, Options, Store};

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
    assert!(
        text.contains("accord rejoin --config FILE --node ID"),
        "{text}"
    );
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

#[test]
fn a_record_that_a_crash_cut_short_is_removed() {
    for cut in [1, 60, 110] {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let group = store.group(GroupId(1)).unwrap();
        for index in 0..300 {
            let payload = vec![index as u8; 100];
            let entries = vec![crate::support::entry(1, index, &payload)];
            wait(|done| group.append(entries, done)).unwrap();
        }
        drop((group, store));
        let wal = newest(dir.path(), ".log");
        let file = fs::File::options().write(true).open(&wal).unwrap();
        file.set_len(file.metadata().unwrap().len() - cut).unwrap();
        let store = open(dir.path());
        let group = store.group(GroupId(1)).unwrap();
        assert_eq!(group.log_state().last, Some(crate::support::id(1, 298)));
        wait(|done| group.append(entries(1, 299..310), done)).unwrap();
        drop((group, store));
        let store = open(dir.path());
        let group = store.group(GroupId(1)).unwrap();
        assert_eq!(group.log_state().last, Some(crate::support::id(1, 309)));
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
