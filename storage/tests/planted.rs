//! The planted bugs of this crate are really there: `cargo test --features planted-bugs`.
#![cfg(feature = "planted-bugs")]
#![allow(clippy::unwrap_used)]

#[path = "store/copy.rs"]
mod copy;

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, mpsc};

use accord_storage::{Done, Entry, Error, Group, GroupId, LogId, Options, Store, planted};
use copy::copy_of;

/// A bug is planted for the whole process.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn plant(name: &str) -> MutexGuard<'static, ()> {
    let guard = ONE_AT_A_TIME
        .lock()
        .unwrap_or_else(|error| error.into_inner());
    assert!(planted::plant(name));
    guard
}

fn open(dir: &Path) -> (Store, Group) {
    let store = Store::open(Options::new(dir, "test", 1)).unwrap();
    let group = store.group(GroupId(1)).unwrap();
    (store, group)
}

fn wait(write: impl FnOnce(Done)) {
    let (sender, receiver) = mpsc::sync_channel(1);
    write(Box::new(move |result: Result<(), Error>| {
        sender.send(result).unwrap()
    }));
    receiver.recv().unwrap().unwrap();
}

fn append_and_apply(group: &Group, index: u64) {
    let log_id = LogId { term: 1, index };
    let payload = vec![7; 100].into();
    wait(|done| group.append(vec![Entry { log_id, payload }], done));
    wait(|done| group.apply(log_id, Vec::new(), done));
}

#[test]
fn an_unknown_bug_is_refused() {
    assert!(!planted::plant("none_of_ours"));
}

#[test]
fn ack_before_fsync_acknowledges_without_one() {
    let dir = tempfile::tempdir().unwrap();
    let (store, group) = open(dir.path());
    let synced = |store: &Store| store.stats().fsyncs;
    let before = synced(&store);
    let _planted = plant("ack_before_fsync");
    for index in 0..20 {
        append_and_apply(&group, index);
    }
    assert_eq!(synced(&store), before);
}

#[test]
fn applied_before_log_keeps_rows_without_their_entries() {
    let _planted = plant("applied_before_log");
    let dir = tempfile::tempdir().unwrap();
    let (_store, group) = open(dir.path());
    for index in 0..20 {
        append_and_apply(&group, index);
    }
    let killed = copy_of(dir.path());
    let mut options = Options::new(killed.path(), "test", 1);
    // It would end the process.
    options.on_fatal = Arc::new(|reason| assert!(reason.contains("is damaged")));
    let store = Store::open(options).unwrap();
    let refused = store.group(GroupId(1)).err().unwrap();
    let text = refused.to_string();
    assert!(text.contains("rows are applied up to 19@1"), "{text}");
}
