//! What the tests of the store share.

use std::path::Path;
use std::sync::mpsc;

use accord_storage::{Done, Entry, Error, Group, LogId, Options, Store};

pub const CLUSTER: &str = "test";
pub const NODE: u64 = 1;

/// Options for tests: a failure panics instead of ending the process.
pub fn options(dir: &Path) -> Options {
    let mut options = Options::new(dir, CLUSTER, NODE);
    options.block_cache_bytes = 4 << 20;
    options.on_fatal = std::sync::Arc::new(|reason| panic!("the store failed: {reason}"));
    options
}

pub fn open(dir: &Path) -> Store {
    Store::open(options(dir)).unwrap()
}

/// Starts a write and waits until it is done.
pub fn wait(write: impl FnOnce(Done)) -> Result<(), Error> {
    let (sender, receiver) = mpsc::sync_channel(1);
    write(Box::new(move |result| sender.send(result).unwrap()));
    receiver.recv().unwrap()
}

/// A `Done` for writes that must succeed, but that nobody waits for.
pub fn fine() -> Done {
    Box::new(|result| result.unwrap())
}

pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(future)
}

pub fn drain(group: &Group) {
    block_on(group.drained());
}

pub fn id(term: u64, index: u64) -> LogId {
    LogId { term, index }
}

pub fn entry(term: u64, index: u64, payload: &[u8]) -> Entry {
    Entry {
        log_id: id(term, index),
        payload: payload.to_vec().into(),
    }
}

/// Entries of one term whose payloads tell them apart.
pub fn entries(term: u64, indexes: std::ops::Range<u64>) -> Vec<Entry> {
    indexes
        .map(|index| entry(term, index, format!("{term}/{index}").as_bytes()))
        .collect()
}
