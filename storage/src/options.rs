//! How a store is opened.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::edge;

/// Memory for blocks read from disk, indexes and filters included.
pub const BLOCK_CACHE_BYTES: usize = 64 << 20;
/// Enough for minutes of writing between flushes, and replayed in about a second.
pub const WAL_BYTES_MAX: u64 = 128 << 20;
/// RocksDB must be able to flush and compact after the node stops accepting.
pub const FREE_BYTES_MIN: u64 = 1 << 30;
/// Above this the disk is slower than the callers, who should hold back.
pub const QUEUE_BYTES_MAX: usize = 32 << 20;
/// How the process ends when the disk fails: EX_SOFTWARE of sysexits.h.
pub const EXIT_CODE_FATAL: i32 = 70;

/// How a store is opened.
#[derive(Clone)]
pub struct Options {
    /// The directory of this node, created when missing.
    pub dir: PathBuf,
    /// Must match the name the directory was made with.
    pub cluster: String,
    /// Must match the node id the directory was made with.
    pub node: u64,
    /// Memory for the block cache, shared by everything.
    pub block_cache_bytes: usize,
    /// Flushes are forced when the write-ahead log grows past this.
    pub wal_bytes_max: u64,
    /// [`Store::has_room`](crate::Store::has_room) is false below this.
    pub free_bytes_min: u64,
    /// [`Store::pressure`](crate::Store::pressure) is true above this.
    pub queue_bytes_max: usize,
    /// Called at most once, when a write or an fsync fails, or stored data does
    /// not read back. What is on disk is then unknown, so the default ends the process with [`EXIT_CODE_FATAL`].
    pub on_fatal: Arc<dyn Fn(&str) + Send + Sync>,
}

impl Options {
    /// The defaults for node `node` of `cluster` in `dir`.
    pub fn new(dir: impl Into<PathBuf>, cluster: impl Into<String>, node: u64) -> Self {
        Self {
            dir: dir.into(),
            cluster: cluster.into(),
            node,
            block_cache_bytes: BLOCK_CACHE_BYTES,
            wal_bytes_max: WAL_BYTES_MAX,
            free_bytes_min: FREE_BYTES_MIN,
            queue_bytes_max: QUEUE_BYTES_MAX,
            on_fatal: Arc::new(|reason| {
                tracing::error!(reason, "the store failed; the process ends");
                edge::end_process(reason);
            }),
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("dir", &self.dir)
            .field("cluster", &self.cluster)
            .field("node", &self.node)
            .field("block_cache_bytes", &self.block_cache_bytes)
            .field("wal_bytes_max", &self.wal_bytes_max)
            .field("free_bytes_min", &self.free_bytes_min)
            .field("queue_bytes_max", &self.queue_bytes_max)
            .finish_non_exhaustive()
    }
}
