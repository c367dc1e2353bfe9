//! What every handle of one store shares.

#[cfg(test)]
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use crate::alarm::Alarm;
use crate::edge::Lock;
use crate::engine::Engine;
use crate::mark::Mark;
use crate::queue::Queue;
use crate::registry::Registry;
use crate::space::Stop;
use crate::stats::Counters;
use crate::watchdog::Work;
use crate::writer;

/// The parts of an open store. Fields are dropped in their order: the lock on
/// the directory is released only after RocksDB is closed.
pub struct Core {
    pub engine: Engine,
    pub mark: Mark,
    pub _lock: Lock,
    pub queue: Queue,
    pub counters: Counters,
    pub groups: Registry,
    pub has_room: AtomicBool,
    pub has_reserve: AtomicBool,
    pub stop: Stop,
    pub alarm: Alarm,
    /// What the writer is at.
    pub work: Work,
    /// Makes the next write fail, since a disk does not do so when asked.
    #[cfg(test)]
    pub fault: AtomicBool,
    /// While it is locked writes hang.
    #[cfg(test)]
    pub hang: Mutex<()>,
}

impl Core {
    /// Ends the store: says so once, then refuses everything that waits.
    pub fn fail(&self, reason: String) {
        tracing::error!(reason, "the store has failed");
        // Before anybody gets an error: where this ends the process, nobody is told anything that a
        // dying node cannot know.
        self.alarm.sound(&reason);
        let (ops, _) = self.queue.fail(reason);
        writer::refuse(self, ops);
    }

    #[cfg(test)]
    pub fn write_fault(&self) -> Result<(), String> {
        drop(self.hang.lock());
        if self.fault.load(std::sync::atomic::Ordering::SeqCst) {
            return Err("a planted fault".into());
        }
        Ok(())
    }

    #[cfg(not(test))]
    pub fn write_fault(&self) -> Result<(), String> {
        Ok(())
    }
}
