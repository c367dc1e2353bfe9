//! Closes a group that was retired.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::consensus;
use crate::group::registry::Retired;
use crate::shared::Shared;

/// What becomes of the Raft log of a replica that closes. Messages stay in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Log {
    Kept,
    /// Purged up to its last entry. All replicas are level there, so a leader that wakes finds where
    /// its followers stand with the first request instead of searching for it. It asks with an entry
    /// in its hand: without any it would send a snapshot.
    Purged,
}

/// Resolves when the group can be opened again.
pub(super) async fn close(shared: Arc<Shared>, retired: Retired, log: Log) {
    let (group, closed) = retired.into_parts();
    let id = group.id;
    if let Some(before) = group.before() {
        before.ended().await;
    }
    let replica = group.open_replica();
    // Its lane and whatever else works for it end with it.
    drop(group);
    if let Some(replica) = replica {
        let led = replica.consensus.is_in_office();
        let stored = replica.consensus.group().clone();
        replica.consensus.stop().await;
        drop(replica);
        if led {
            shared.groups.note_led(id);
        }
        if log == Log::Purged
            && let Some(last) = stored.log_state().last
            && let Some(before_last) = last.index.checked_sub(1)
        {
            consensus::purge(&stored, before_last);
        }
        stored.released().await;
        shared.sleeps.fetch_add(1, Ordering::Relaxed);
    }
    shared.groups.closed(id, closed);
}
