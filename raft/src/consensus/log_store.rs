//! openraft's log store over one group of the node's shared store.
//!
//! All writes of a group go through the store's one FIFO, so a later write is never durable before
//! an earlier one, votes included.

use std::fmt::Debug;
use std::io;
use std::ops::Bound;
use std::ops::RangeBounds;

use accord_storage as storage;
use openraft::LogState;
use openraft::RaftLogReader;
use openraft::storage::IOFlushed;
use openraft::storage::RaftLogStorage;
use tokio::sync::oneshot;

use super::types;
use super::types::Entry;
use super::types::LogId;
use super::types::TypeConfig;
use super::types::Vote;

/// Bytes of entries that one append request to a follower carries at most, unless a single entry is
/// larger: enough to fill a link, small enough not to delay votes and heartbeats behind it.
const REQUEST_BYTES_MAX: usize = 1024 * 1024;

#[derive(Clone)]
pub(crate) struct LogStore {
    group: storage::Group,
}

impl LogStore {
    pub(crate) fn new(group: storage::Group) -> Self {
        LogStore { group }
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let start = match range.start_bound() {
            Bound::Included(index) => *index,
            Bound::Excluded(index) => index + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(index) => index + 1,
            Bound::Excluded(index) => *index,
            Bound::Unbounded => u64::MAX,
        };
        self.read(start, end, usize::MAX)
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, io::Error> {
        let entries = self.read(start, end, REQUEST_BYTES_MAX)?;
        // A replication stream may be behind a purge. Entries that do not begin where it asked would
        // leave a hole in what it sends; none at all make it ask the follower where it stands.
        match entries.first() {
            Some(first) if first.log_id.index() != start => Ok(Vec::new()),
            _ => Ok(entries),
        }
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.group.vote().map(types::vote))
    }
}

impl LogStore {
    fn read(&self, start: u64, end: u64, bytes_max: usize) -> Result<Vec<Entry>, io::Error> {
        let stored = self
            .group
            .entries(start..end, bytes_max)
            .map_err(io::Error::other)?;
        stored.into_iter().map(types::entry).collect()
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let state = self.group.log_state();
        Ok(LogState {
            last_purged_log_id: state.purged.map(types::log_id),
            last_log_id: state.last.map(types::log_id),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let (done, written) = completion();
        self.group.save_vote(types::stored_vote(vote), done);
        written.wait().await
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: IOFlushed<TypeConfig>,
    ) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let entries = entries.into_iter().map(types::stored_entry).collect();
        let done = Box::new(move |result: Result<(), storage::Error>| {
            callback.io_completed(result.map_err(io::Error::other));
        });
        self.group.append(entries, done);
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let (done, written) = completion();
        let last = last_log_id.as_ref().map(types::stored_log_id);
        self.group.truncate_after(last, done);
        written.wait().await
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        let (done, written) = completion();
        self.group.purge(types::stored_log_id(&log_id), done);
        written.wait().await
    }
}

/// Purges a log up to the entry with this index. Nobody waits for it: it is in order before whatever
/// the group writes next.
pub(crate) fn purge(group: &storage::Group, upto: u64) {
    // One that cannot be read is found when it is needed, and ends the node there.
    let found = group.entries(upto..upto + 1, 0).unwrap_or_default();
    if let Some(entry) = found.first() {
        group.purge(entry.log_id, Box::new(|_| {}));
    }
}

/// The other end of a [`storage::Done`].
pub(crate) struct Written(oneshot::Receiver<Result<(), storage::Error>>);

pub(crate) fn completion() -> (storage::Done, Written) {
    let (sender, receiver) = oneshot::channel();
    let done = Box::new(move |result| {
        // The waiter may have gone away; the write stands all the same.
        let _ = sender.send(result);
    });
    (done, Written(receiver))
}

impl Written {
    /// # Errors
    /// If the write failed, or the store stopped before it was made.
    pub(crate) async fn wait(self) -> io::Result<()> {
        self.ended().await.map_err(io::Error::other)
    }

    /// As [`Written::wait`], in the store's own words.
    ///
    /// # Errors
    /// `Closed` if the store stopped before the write was made.
    pub(crate) async fn ended(self) -> Result<(), storage::Error> {
        self.0.await.unwrap_or(Err(storage::Error::Closed))
    }
}
