//! What can go wrong, told apart by what the caller can do about it.

use std::path::PathBuf;

use thiserror::Error;

use crate::types::GroupId;

/// Why an operation on an open store failed.
///
/// It is `Clone` because one failed batch answers many callers.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Error {
    /// A write or an fsync failed. Nothing is known about what reached the
    /// disk, so the store refuses everything from then on.
    #[error("the store has failed and accepts nothing more: {0}")]
    Failed(String),
    /// The store was closed before this call.
    #[error("the store is closed")]
    Closed,
    /// RocksDB could not read.
    #[error("reading the store failed: {0}")]
    Read(String),
    /// Something is missing, or cannot be decoded, that must be there.
    #[error("group {group} is damaged at index {index}: {detail}")]
    Corrupt {
        group: GroupId,
        /// The log index where it was noticed; 0 when it was not in the log.
        index: u64,
        detail: String,
    },
    /// The group already has a handle. Two owners would undo each other.
    #[error("group {0} is already open")]
    GroupOpen(GroupId),
    /// A snapshot is already being installed in this group.
    #[error("group {0} is already installing a snapshot")]
    Installing(GroupId),
    /// A piece of a snapshot is malformed, out of order or does not fit here.
    #[error("a snapshot chunk was refused: {0}")]
    Chunk(String),
    /// The caller broke a rule of this interface. Nothing was changed.
    #[error("misuse of the store: {0}")]
    Misuse(String),
}

/// Why a store could not be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    #[error("{} is in use by another process (or an earlier store that is still open)", dir.display())]
    Locked { dir: PathBuf },
    #[error("{} cannot be used: {source}", path.display())]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{} belongs to cluster \"{found}\", not to \"{wanted}\"", dir.display())]
    OtherCluster {
        dir: PathBuf,
        found: String,
        wanted: String,
    },
    #[error("{} belongs to node {found}, not to node {wanted}", dir.display())]
    OtherNode {
        dir: PathBuf,
        found: u64,
        wanted: u64,
    },
    #[error("{} has disk format {found}; this program reads format {supported}", dir.display())]
    OtherFormat {
        dir: PathBuf,
        found: u32,
        supported: u32,
    },
    #[error(
        "{} is damaged: {detail}. Acknowledged messages may be missing from it, so it must not \
         serve. While the other nodes run, `accord rejoin --config FILE --node ID` sets the directory \
         aside and prepares an empty one; `accord serve` then brings it up to date from the other \
         replicas", file.display()
    )]
    Damaged {
        /// The damaged file, or the directory when RocksDB names no file.
        file: PathBuf,
        detail: String,
    },
    #[error("RocksDB cannot open {}: {detail}", dir.display())]
    Engine { dir: PathBuf, detail: String },
}
