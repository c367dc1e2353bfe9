//! Ends the store when a write hangs.
//!
//! A disk that fails says so; one that hangs says nothing, and the node that waits for it goes on
//! telling its peers that it is alive. As a leader it would keep its groups from being led by anybody
//! who can write. So a write that takes too long is as bad as one that failed.
//!
//! It is counted in ticks, not read from a clock: while the whole process is stopped there are none,
//! and the pause is no fault of the disk.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::core::Core;

pub const TICK: Duration = Duration::from_secs(1);
/// So many ticks a batch may be under way, ten seconds. Disks that are merely busy, and volumes on a
/// network, come back within a few seconds; clients give up after about five, and until another node
/// leads they do so in vain.
const TICKS_MAX: u32 = 10;

/// Which batch the writer is at. Only the writer changes it.
#[derive(Debug, Default)]
pub struct Work {
    /// Rises by one when a batch begins and when it ends: odd while one is under way.
    turns: AtomicU64,
}

impl Work {
    pub fn begin(&self) {
        self.turns.fetch_add(1, Ordering::Relaxed);
    }

    pub fn end(&self) {
        self.turns.fetch_add(1, Ordering::Relaxed);
    }

    /// Names the batch that is under way.
    fn under_way(&self) -> Option<u64> {
        let turn = self.turns.load(Ordering::Relaxed);
        (!turn.is_multiple_of(2)).then_some(turn)
    }
}

/// Looks at the writer until the store is stopped, or a write hangs.
pub fn run(core: &Core, tick: Duration) {
    let mut watch = Watch::default();
    while !core.stop.wait(tick) {
        if watch.tick(core.work.under_way()) {
            core.fail(format!(
                "a write has not come back from the disk for {TICKS_MAX} seconds"
            ));
            return;
        }
    }
}

/// For how long the same batch has been under way.
#[derive(Default)]
struct Watch {
    batch: Option<u64>,
    ticks: u32,
}

impl Watch {
    /// Whether the batch has been under way for too long.
    fn tick(&mut self, under_way: Option<u64>) -> bool {
        match under_way == self.batch {
            true => self.ticks += 1,
            false => (self.batch, self.ticks) = (under_way, 0),
        }
        self.batch.is_some() && self.ticks >= TICKS_MAX
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::error::Error;
    use crate::options::Options;
    use crate::store::Store;
    use crate::types::{Entry, GroupId, LogId};

    #[test]
    fn only_one_and_the_same_batch_hangs() {
        let work = Work::default();
        let mut watch = Watch::default();
        let mut ticks = |count: u32| (0..count).any(|_| watch.tick(work.under_way()));
        assert!(!ticks(10 * TICKS_MAX), "nothing is under way");
        for _ in 0..10 {
            work.begin();
            assert!(!ticks(TICKS_MAX), "slow, but it ends");
            work.end();
        }
        work.begin();
        assert!(!ticks(TICKS_MAX));
        assert!(ticks(1));
    }

    #[test]
    fn a_write_that_hangs_ends_the_store() {
        let dir = tempfile::tempdir().unwrap();
        let mut options = Options::new(dir.path(), "test", 1);
        let told = Arc::new(Mutex::new(Vec::new()));
        let reasons = told.clone();
        options.on_fatal = Arc::new(move |reason| reasons.lock().unwrap().push(reason.to_owned()));
        let store = Store::open(options).unwrap();
        let group = store.group(GroupId(1)).unwrap();
        let (sender, receiver) = mpsc::sync_channel(2);
        let append = |index| {
            let sender = sender.clone();
            let entry = Entry {
                log_id: LogId { term: 1, index },
                payload: vec![0; 100].into(),
            };
            let done = Box::new(move |result| sender.send(result).unwrap());
            group.append(vec![entry], done);
        };
        let hang = store.core().hang.lock().unwrap();
        append(0);
        while store.core().work.under_way().is_none() {
            std::thread::yield_now();
        }
        append(1);
        run(store.core(), Duration::from_millis(1));
        let reasons = told.lock().unwrap().clone();
        assert!(
            matches!(&reasons[..], [reason] if reason.contains("has not come back")),
            "{reasons:?}"
        );
        // What waited behind it is refused at once, and nothing more is taken.
        assert!(matches!(receiver.recv().unwrap(), Err(Error::Failed(_))));
        append(2);
        assert!(matches!(receiver.recv().unwrap(), Err(Error::Failed(_))));
        drop(hang);
        // The batch itself did reach the disk in the end.
        assert_eq!(receiver.recv().unwrap(), Ok(()));
    }
}
