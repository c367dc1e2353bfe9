//! A node that comes back with an empty disk: `accord rejoin` (docs/adr/0012).
//!
//! Raft counts on a voter's memory. A replica that has lost it may have acknowledged entries and
//! given votes that it knows nothing of, so it must do nothing that could contradict them:
//!
//! 1. **Inquiring.** It takes part in nothing until every other voter has told its term. The highest
//!    of them, M, is at least every term in which a vote that it gave still counts, or entries that it
//!    acknowledged were made. It saves a vote for itself in M, which refuses every candidate of M and
//!    every leader below M, and which the leader of M, if there is one, outranks.
//! 2. **Catching up.** It follows leaders, and its acknowledgements count, since it holds what it
//!    acknowledges. It neither votes nor campaigns until it has twice, one after the other, reached
//!    the index up to which a leader confirmed the log: then it holds whatever could have been
//!    committed with its forgotten acknowledgements.
//! 3. **Recovered**, by a durable mark: an ordinary voter.
//!
//! [`rules`] holds the decisions, `model` checks them, `run` carries them out.

pub(crate) mod command;
#[cfg(test)]
mod model;
mod rules;
mod run;

use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use accord_storage as storage;
use accord_storage::GroupId;
use accord_storage::Store;
use tokio::time::Instant;

use crate::group::DIRECTORY;
use crate::shared::Shared;

pub(crate) use run::promise;
pub(crate) use run::run;

/// When the directory was made anew by `accord rejoin`: Unix milliseconds, 8 bytes little-endian.
const REJOIN_FACT: &str = "rejoin";
/// Groups from this number on were created after the directory had recovered here.
const SPARED_FACT: &str = "rejoin spares groups from";
/// Every group that this node replicates has recovered.
const COMPLETE_FACT: &str = "rejoin complete";

/// What `spared_from` says while the directory has not recovered.
const NONE_SPARED: u64 = u64::MAX;

/// How far this node's recovery is. A node that never rejoined is through with it from the start.
pub(crate) struct Recovery {
    incarnation: u64,
    spared_from: AtomicU64,
    complete: AtomicBool,
    /// Groups that are known to be waiting or under way.
    groups_left: AtomicU64,
    /// When the log says again what is waited for.
    say_at: Mutex<Option<Instant>>,
}

impl Recovery {
    /// # Errors
    /// If the store cannot be read.
    pub(crate) fn load(store: &Store) -> Result<Recovery, storage::Error> {
        let number = |name| -> Result<Option<u64>, storage::Error> {
            let bytes = store.fact(name)?;
            Ok(bytes
                .and_then(|bytes| bytes.try_into().ok())
                .map(u64::from_le_bytes))
        };
        let incarnation = number(REJOIN_FACT)?.unwrap_or(0);
        let complete = incarnation == 0 || store.fact(COMPLETE_FACT)?.is_some();
        Ok(Recovery {
            incarnation,
            spared_from: AtomicU64::new(number(SPARED_FACT)?.unwrap_or(NONE_SPARED)),
            complete: AtomicBool::new(complete),
            groups_left: AtomicU64::new(u64::from(!complete)),
            say_at: Mutex::new(None),
        })
    }

    /// Of this node's storage: 0 if it is the first, else when it was made.
    pub(crate) fn incarnation(&self) -> u64 {
        self.incarnation
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.complete.load(Ordering::Acquire)
    }

    /// Whether this node may have forgotten something of the group, unless the group's own mark says
    /// that it has recovered. A group that was created after the directory had recovered here was
    /// created after the loss.
    pub(crate) fn concerns(&self, group: GroupId) -> bool {
        let spared_from = self.spared_from.load(Ordering::Acquire);
        !self.is_complete()
            && if group == DIRECTORY {
                spared_from == NONE_SPARED
            } else {
                group.0 < spared_from
            }
    }

    /// Groups that have not recovered, as far as they are known.
    pub(crate) fn groups_left(&self) -> u64 {
        self.groups_left.load(Ordering::Relaxed)
    }
}

/// Whether a group recovered in an earlier life of this process. If its mark cannot be read it counts
/// as recovering, which is safe.
pub(crate) fn is_marked(shared: &Shared, id: GroupId) -> bool {
    shared.recovery.concerns(id) && matches!(shared.store.fact(&mark_of(id)), Ok(Some(_)))
}

/// Marks a group as recovered.
pub(crate) fn mark_of(group: GroupId) -> String {
    format!("rejoin recovered group {group}")
}
