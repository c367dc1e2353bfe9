//! Watches the disk from a thread of its own, off the path of every write, and
//! brings the acknowledged mark to it.
//!
//! A full disk is worse than a refusal: RocksDB may not open again on one. So
//! the node must stop accepting while there is still room to flush and compact.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::core::Core;

const CHECK_EVERY: Duration = Duration::from_secs(1);
/// Walking the directory costs a system call per file, so it is done rarely.
const MEASURE_EVERY_CHECKS: u64 = 10;

/// Ends the watches at once, without waiting for their next check.
#[derive(Debug, Default)]
pub struct Stop {
    stopped: Mutex<bool>,
    changed: Condvar,
}

impl Stop {
    pub fn stop(&self) {
        *self.stopped.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    /// Waits for the next check; true when there shall be none.
    pub fn wait(&self, time: Duration) -> bool {
        let stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        let (stopped, _) = self
            .changed
            .wait_timeout_while(stopped, time, |stopped| !*stopped)
            .unwrap_or_else(PoisonError::into_inner);
        *stopped
    }
}

/// Checks until the store is stopped.
pub fn run(core: &Core, dir: &Path, free_bytes_min: u64) {
    for round in 1u64.. {
        if core.stop.wait(CHECK_EVERY) {
            return;
        }
        check(core, dir, free_bytes_min);
        if round.is_multiple_of(MEASURE_EVERY_CHECKS) {
            measure(core, dir);
        }
        if core.engine.background_errors() > 0 {
            core.fail("RocksDB could not write in the background; its LOG says why".into());
            return;
        }
        if let Err(error) = core.mark.sync() {
            core.fail(format!(
                "the fsync of the acknowledged mark failed: {error}"
            ));
            return;
        }
    }
}

/// Whether there is room enough, as of now.
pub fn check(core: &Core, dir: &Path, free_bytes_min: u64) {
    match rustix::fs::statvfs(dir) {
        Ok(disk) => {
            let free = disk.f_bavail.saturating_mul(disk.f_frsize);
            let has_room = free >= free_bytes_min;
            let has_reserve = free >= free_bytes_min / 2;
            core.counters.free_bytes.store(free, Ordering::Relaxed);
            if core.has_room.swap(has_room, Ordering::Relaxed) != has_room {
                tracing::warn!(free, free_bytes_min, has_room, "disk space");
            }
            if core.has_reserve.swap(has_reserve, Ordering::Relaxed) != has_reserve {
                tracing::warn!(free, has_reserve, "disk space for what others decide");
            }
        }
        Err(error) => tracing::warn!(%error, dir = %dir.display(), "free space is unknown"),
    }
}

/// Sums up the sizes of the store's files.
pub fn measure(core: &Core, dir: &Path) {
    let (mut all, mut wal) = (0, 0);
    let Ok(files) = std::fs::read_dir(dir) else {
        return;
    };
    for file in files.flatten() {
        // A file may vanish between the listing and the look at it.
        let bytes = file.metadata().map_or(0, |file| file.len());
        all += bytes;
        if file.path().extension().is_some_and(|name| name == "log") {
            wal += bytes;
        }
    }
    core.counters.disk_bytes.store(all, Ordering::Relaxed);
    core.counters.wal_bytes.store(wal, Ordering::Relaxed);
}
