//! Closes a group that was retired.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use accord_storage as storage;

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
        if log == Log::Purged {
            purge(&stored);
        }
        stored.released().await;
        shared.sleeps.fetch_add(1, Ordering::Relaxed);
    }
    shared.groups.closed(id, closed);
}

/// Leaves the last entry. Nobody waits for it: it is in order before whatever the group writes next.
fn purge(stored: &storage::Group) {
    let Some(before_last) = stored
        .log_state()
        .last
        .and_then(|last| last.index.checked_sub(1))
    else {
        return;
    };
    // One that cannot be read is found when the group wakes, and ends the node there.
    let found = stored
        .entries(before_last..before_last + 1, 0)
        .unwrap_or_default();
    if let Some(entry) = found.first() {
        stored.purge(entry.log_id, Box::new(|_| {}));
    }
}
