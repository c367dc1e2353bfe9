//! Bugs planted on purpose, to show that the fault tests catch them. Compiled
//! only with the feature `planted-bugs`, which no build for use has.
//!
//! Each function is asked at the one place where its bug would be; all answer
//! no until [`plant`] was called.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::chunk::Item;
use crate::types::GroupId;

/// The bugs of this crate.
const ACK_BEFORE_FSYNC: &str = "ack_before_fsync";
const APPLIED_BEFORE_LOG: &str = "applied_before_log";
pub const NAMES: [&str; 2] = [ACK_BEFORE_FSYNC, APPLIED_BEFORE_LOG];

/// Which of [`NAMES`] is planted, counted from 1; 0 for none.
static PLANTED: AtomicU8 = AtomicU8::new(0);
static FORGOTTEN: OnceLock<fn(GroupId, &[u8]) -> bool> = OnceLock::new();

/// Plants the bug `name`, for the whole process. False when this crate has none
/// of that name.
pub fn plant(name: &str) -> bool {
    let found = (1..).zip(NAMES).find(|(_, known)| *known == name);
    if let Some((number, _)) = found {
        PLANTED.store(number, Ordering::SeqCst);
    }
    found.is_some()
}

/// Leaves the state rows out of every snapshot that is installed whose keys
/// `forgotten` names: the bug is raft's, the place is here.
pub fn forget_when_installing(forgotten: fn(GroupId, &[u8]) -> bool) {
    FORGOTTEN.get_or_init(|| forgotten);
}

/// No write is brought to the disk before its callers are told.
pub(crate) fn ack_before_fsync() -> bool {
    is_planted(ACK_BEFORE_FSYNC)
}

/// Rows and applied marks are brought to the disk, and the log entries that
/// they come from are not: they stay in memory until RocksDB flushes.
pub(crate) fn applied_before_log() -> bool {
    is_planted(APPLIED_BEFORE_LOG)
}

/// The items of a snapshot that are installed.
pub(crate) fn without_forgotten(group: GroupId, mut items: Vec<Item<'_>>) -> Vec<Item<'_>> {
    items.retain(|item| match (item, FORGOTTEN.get()) {
        (Item::State { key, .. }, Some(forgotten)) => !forgotten(group, key),
        _ => true,
    });
    items
}

fn is_planted(name: &str) -> bool {
    let number = usize::from(PLANTED.load(Ordering::Relaxed));
    number
        .checked_sub(1)
        .is_some_and(|index| NAMES[index] == name)
}
