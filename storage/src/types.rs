//! The values that callers and the store exchange.
//!
//! All of them are opaque to what the bytes mean: the store knows groups, log
//! positions and rows, never messages.

use std::fmt;

use bytes::Bytes;

use crate::error::Error;

/// Names one replicated group on this node. Zero is the directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub u64);

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A position in a raft log. A term has one leader, so the pair is unique.
/// Ordered by term, then by index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId {
    pub term: u64,
    pub index: u64,
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.index, self.term)
    }
}

/// The vote that a replica must not forget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vote {
    pub term: u64,
    pub node: u64,
    /// Whether a quorum granted it, which makes `node` the leader of `term`.
    pub committed: bool,
}

/// One entry of a raft log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub log_id: LogId,
    pub payload: Bytes,
}

/// The ends of a raft log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogState {
    /// Everything up to here is no longer part of the raft log.
    pub purged: Option<LogId>,
    /// The last entry, or `purged` when no entry is left above it.
    pub last: Option<LogId>,
}

/// How far a group is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Standing {
    /// The last entry of its log, purged or not.
    pub last: Option<LogId>,
    /// The last entry whose rows are written.
    pub applied: Option<LogId>,
}

/// Which of a group's two tables a row belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Rows that change. A snapshot replaces them as a whole.
    State,
    /// Facts about committed history, appended in key order and never
    /// conflicting between replicas. A snapshot adds the ones that are missing.
    Index,
}

/// One change of a group's rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    Put {
        table: Table,
        /// At most [`KEY_BYTES_MAX`](crate::KEY_BYTES_MAX).
        key: Vec<u8>,
        value: Vec<u8>,
    },
    Delete {
        table: Table,
        key: Vec<u8>,
    },
}

/// The order in which a scan returns rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    Ascending,
    Descending,
}

/// Told once how a write ended.
///
/// It runs on the writer thread, or on the caller's thread when the write was
/// refused at once. Every other write waits behind it, so it must only notify.
pub type Done = Box<dyn FnOnce(Result<(), Error>) + Send>;

/// What a follower has, so that a sender can leave it out of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Have {
    /// Entries up to here are held and applied.
    pub applied_index: Option<u64>,
    /// The last key of [`Table::Index`] that is held; all before it are too.
    pub index_after: Option<Vec<u8>>,
}
