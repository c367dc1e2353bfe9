//! Durable storage for all groups of one node.
//!
//! One RocksDB holds everything, so one write-ahead log and one fsync serve
//! every group. The invariants that this crate keeps:
//!
//! - A write is acknowledged (`done`) only when it is as durable as it asked
//!   to be; all writes of all groups take effect in the order of the calls.
//! - An appended entry is readable when [`Group::append`] returns.
//! - Applied rows and the applied position change together, and are never
//!   ahead of the log on disk.
//! - A snapshot is installed wholly or not at all.
//! - A directory that lost acknowledged writes is noticed when it is opened.
//! - After a failed write nothing is accepted, and a damaged directory is
//!   refused by name, never served from what is left of it.
//!
//! What the bytes of entries and rows mean is not known here. RocksDB is named
//! nowhere else.

mod alarm;
mod aside;
mod chunk;
mod codec;
mod core;
mod due;
mod edge;
#[cfg(not(feature = "sim"))]
mod engine;
#[cfg(feature = "sim")]
#[path = "sim/engine.rs"]
mod engine;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod group;
mod install;
mod keys;
mod layout;
#[cfg(not(feature = "sim"))]
mod mark;
#[cfg(feature = "sim")]
#[path = "sim/mark.rs"]
mod mark;
mod options;
#[cfg(feature = "planted-bugs")]
pub mod planted;
mod queue;
mod read;
mod records;
mod registry;
#[cfg(feature = "sim")]
pub mod sim;
mod snapshot;
#[cfg_attr(
    feature = "sim",
    expect(dead_code, reason = "a simulated disk has no files and is never full")
)]
mod space;
mod stats;
mod step;
mod store;
mod tail;
mod types;
#[cfg(not(feature = "sim"))]
mod wal;
#[cfg_attr(
    feature = "sim",
    expect(dead_code, reason = "a simulated disk is slow, but never hangs")
)]
mod watchdog;
mod writer;

pub use aside::{Aside, set_aside};
pub use due::{DUE_KEY, DueChange};
pub use error::{Error, OpenError};
pub use group::{Group, KEY_BYTES_MAX};
pub use install::Install;
pub use options::{EXIT_CODE_FATAL, Options};
pub use read::Row;
pub use snapshot::{Chunks, Snapshot};
pub use stats::{LATENCY_BUCKETS, LatencyHistogram, Stats};
pub use store::Store;
pub use types::{Done, Entry, GroupId, Have, LogId, LogState, Order, Standing, Table, Vote, Write};
