//! The single thread that writes: group commit.
//!
//! It takes all that waits, writes it as one atomic batch with at most one
//! fsync, notes that in the acknowledged mark, and only then tells the callers.
//! While the disk works the next batch gathers; nothing ever waits on a timer. A
//! failed write ends everything: what reached the disk is unknown, and a second
//! fsync may falsely succeed. So does one that never comes back (`watchdog`).

use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::core::Core;
use crate::engine::{Batch, Step};
use crate::error::Error;
use crate::queue::{Op, Taken, Then};

/// Runs until the queue is closed and empty, or a write fails.
#[cfg(not(feature = "sim"))]
pub fn run(core: &Core) {
    let _guard = PanicGuard(core);
    let mut scratch = Vec::new();
    while let Some(taken) = core.queue.take() {
        if !step(core, taken, &mut scratch) {
            return;
        }
    }
    finish(core);
}

/// Writes `taken` and answers it; false when that failed, and with it the store.
pub fn step(core: &Core, taken: Taken, scratch: &mut Vec<u8>) -> bool {
    core.work.begin();
    let written = write(core, &taken, scratch);
    core.work.end();
    match written {
        Ok(()) => {
            complete(core, taken);
            true
        }
        Err(reason) => {
            core.fail(format!("a write failed: {reason}"));
            refuse(core, taken.ops);
            false
        }
    }
}

/// Brings what was written without an fsync to the disk, once nothing more can come.
pub fn finish(core: &Core) {
    if core.queue.check().is_ok()
        && let Err(reason) = bring_to_disk(core)
    {
        core.fail(format!("the last fsync failed: {reason}"));
    }
}

/// Brings to the disk what was written without an fsync of its own.
fn bring_to_disk(core: &Core) -> Result<(), String> {
    core.engine.sync()?;
    acknowledge(core)?;
    core.mark.sync().map_err(|error| error.to_string())
}

/// Notes how far the disk is, before any caller hears of it.
fn acknowledge(core: &Core) -> Result<(), String> {
    let written = core.mark.write(core.engine.sequence());
    written.map_err(|error| format!("the acknowledged mark: {error}"))
}

fn write(core: &Core, taken: &Taken, scratch: &mut Vec<u8>) -> Result<(), String> {
    let mut batch = Batch::default();
    let mut entries = 0;
    for step in taken.ops.iter().flat_map(|op| &op.steps) {
        entries += u64::from(matches!(step, Step::Entry { .. }));
        core.engine.add(&mut batch, step, scratch);
    }
    let sync = taken.ops.iter().any(|op| op.sync);
    #[cfg(feature = "planted-bugs")]
    let sync = sync && !crate::planted::ack_before_fsync();
    if batch.is_empty() && !sync {
        return Ok(());
    }
    // Readers of a group that switches must see the old rows by the old layout
    // or the new ones by the new layout, so they wait here for a moment.
    let switch = taken.ops.last().and_then(|op| match (&op.group, &op.then) {
        (Some(group), Then::Switched(layout, _)) => Some((group.layout_for_switch(), layout)),
        _ => None,
    });
    let bytes = batch.size_in_bytes() as u64;
    let started = Instant::now();
    core.write_fault()?;
    core.engine.write(batch, sync)?;
    if sync {
        acknowledge(core)?;
    }
    if let Some((mut current, next)) = switch {
        *current = next.clone();
    }
    let counters = &core.counters;
    counters.batches.fetch_add(1, Ordering::Relaxed);
    counters.entries.fetch_add(entries, Ordering::Relaxed);
    counters.bytes_written.fetch_add(bytes, Ordering::Relaxed);
    if sync {
        counters.record_fsync(started.elapsed());
    }
    Ok(())
}

fn complete(core: &Core, taken: Taken) {
    core.queue.written(&taken);
    for op in taken.ops {
        if let Some(group) = &op.group {
            match &op.then {
                Then::Nothing => {}
                Then::Appended => group.trim(),
                Then::Applied(applied) | Then::Switched(_, applied) => {
                    group.set_applied(*applied);
                }
            }
        }
        (op.done)(Ok(()));
    }
}

/// Answers operations that will never be written.
pub fn refuse(core: &Core, ops: Vec<Op>) {
    let error = core.queue.check().err().unwrap_or(Error::Closed);
    for op in ops {
        (op.done)(Err(error.clone()));
    }
}

#[cfg(not(feature = "sim"))]
/// A writer that died would leave every caller waiting for ever.
struct PanicGuard<'a>(&'a Core);

#[cfg(not(feature = "sim"))]
impl Drop for PanicGuard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail("the writer thread panicked".into());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::sync::{Arc, mpsc};

    use super::*;
    use crate::options::Options;
    use crate::store::Store;
    use crate::types::{Entry, GroupId, LogId};

    fn entry(index: u64) -> Vec<Entry> {
        vec![Entry {
            log_id: LogId { term: 1, index },
            payload: vec![0; 100].into(),
        }]
    }

    #[test]
    fn a_failure_answers_everyone_and_is_told_once() {
        let dir = tempfile::tempdir().unwrap();
        let told = Arc::new(AtomicUsize::new(0));
        let mut options = Options::new(dir.path(), "test", 1);
        let count = told.clone();
        options.on_fatal = Arc::new(move |reason| {
            assert!(reason.contains("planted"));
            count.fetch_add(1, Ordering::SeqCst);
        });
        let store = Store::open(options).unwrap();
        let group = store.group(GroupId(1)).unwrap();
        let (sender, receiver) = mpsc::sync_channel(200);
        let append = |index| {
            let sender = sender.clone();
            group.append(
                entry(index),
                Box::new(move |result| sender.send(result).unwrap()),
            );
        };
        append(0);
        assert_eq!(receiver.recv().unwrap(), Ok(()));
        store.plant_fault();
        (1..100).for_each(append);
        for _ in 1..100 {
            let result = receiver.recv().unwrap();
            assert!(matches!(result, Err(Error::Failed(_))), "{result:?}");
        }
        append(100);
        assert!(matches!(receiver.recv().unwrap(), Err(Error::Failed(_))));
        assert!(matches!(group.history(0), Err(Error::Failed(_))));
        assert_eq!(told.load(Ordering::SeqCst), 1);
        drop((group, store));
        let store = Store::open(Options::new(dir.path(), "test", 1)).unwrap();
        let group = store.group(GroupId(1)).unwrap();
        assert_eq!(group.entries(0..200, usize::MAX).unwrap(), entry(0));
    }

    #[test]
    fn a_done_may_drop_the_last_handle() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Options::new(dir.path(), "test", 1)).unwrap();
        let group = store.group(GroupId(1)).unwrap();
        let (sender, receiver) = mpsc::sync_channel(1);
        let writer = group.clone();
        writer.append(
            entry(0),
            Box::new(move |result| {
                drop((group, store));
                sender.send(result).unwrap();
            }),
        );
        assert_eq!(receiver.recv().unwrap(), Ok(()));
    }
}
