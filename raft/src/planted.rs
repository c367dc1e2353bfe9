//! Bugs planted on purpose, to show that the fault tests catch them. Compiled
//! only with the feature `planted-bugs`, which no build for use has.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use accord_storage as storage;

use crate::group::DIRECTORY;
use crate::machine::channel;

const DEDUP_FORGOTTEN_ON_SNAPSHOT: &str = "dedup_forgotten_on_snapshot";
const LEASE_READ: &str = "lease_read";

static LEASE_READS: AtomicBool = AtomicBool::new(false);

/// The names of all bugs of this crate and those below it.
pub fn names() -> impl Iterator<Item = &'static str> {
    [DEDUP_FORGOTTEN_ON_SNAPSHOT, LEASE_READ]
        .into_iter()
        .chain(storage::planted::NAMES)
}

/// Plants the bug `name`, for the whole process. False when there is none of that name.
pub fn plant(name: &str) -> bool {
    match name {
        DEDUP_FORGOTTEN_ON_SNAPSHOT => storage::planted::forget_when_installing(|group, key| {
            group != DIRECTORY && channel::is_remembered_key(key)
        }),
        LEASE_READ => LEASE_READS.store(true, Ordering::SeqCst),
        other => return storage::planted::plant(other),
    }
    true
}

/// A leader answers reads from its own state, as if its lease never ended.
pub(crate) fn lease_read() -> bool {
    LEASE_READS.load(Ordering::Relaxed)
}
