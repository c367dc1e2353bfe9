//! The edges as a simulation has them: a writer that is a task, an fsync that takes simulated time.

use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};

use tokio::sync::watch;

use crate::core::Core;
use crate::engine::Batch;
use crate::error::{Error, OpenError};
use crate::queue::{Op, Taken};
use crate::sim;
use crate::store::Store;
use crate::writer;

/// What the writer waits for while nothing is queued.
pub type Arrived = tokio::sync::Notify;

/// The disk itself knows which store it belongs to.
pub struct Lock;

/// Always granted: a simulated machine runs one process at a time.
pub fn claim(_: &Path, _: &Path) -> Result<Lock, OpenError> {
    Ok(Lock)
}

pub fn lock(_: &Path) -> Result<Lock, OpenError> {
    Ok(Lock)
}

/// A simulation has one process for all nodes: the panic ends it, with the reason.
pub fn end_process(reason: &str) {
    panic!("a store ends its process: {reason}");
}

/// The writer's task.
pub struct Threads {
    ended: watch::Receiver<bool>,
}

impl Threads {
    pub fn start(core: &Arc<Core>, _: PathBuf, _: u64) -> Result<Self, std::io::Error> {
        let (end, ended) = watch::channel(false);
        let core = core.clone();
        tokio::spawn(async move {
            run(&core).await;
            end.send_replace(true);
        });
        Ok(Self { ended })
    }

    /// Nothing to wait for: the task ends by itself once the queue is closed and empty.
    pub fn join(&self) {}

    pub fn ended(&self) -> watch::Receiver<bool> {
        self.ended.clone()
    }
}

async fn run(core: &Core) {
    let mut scratch = Vec::new();
    while let Some(taken) = core.queue.next().await {
        // A crash during the fsync may leave the batch on the disk although nobody was told.
        core.engine.begin(batch_of(core, &taken, &mut scratch));
        if taken.ops.iter().any(|op| op.sync) {
            sim::fsync_time(core.engine.disk()).await;
        }
        if !writer::step(core, taken, &mut scratch) {
            return;
        }
    }
    writer::finish(core);
}

fn batch_of(core: &Core, taken: &Taken, scratch: &mut Vec<u8>) -> Batch {
    let mut batch = Batch::default();
    for step in taken.ops.iter().flat_map(|op| &op.steps) {
        core.engine.add(&mut batch, step, scratch);
    }
    batch
}

/// Writes `op` past the queue: the caller must not wait for a task of its own thread.
pub fn write_through(
    core: &Core,
    op: Op,
    _: &mpsc::Receiver<Result<(), Error>>,
) -> Result<(), Error> {
    core.queue.check()?;
    core.engine.write_steps(&op.steps).map_err(Error::Failed)
}

/// Shuts `store` down and drops it.
pub async fn close(store: Store, shut_down: fn(&Store) -> Result<(), Error>) -> Result<(), Error> {
    let mut ended = store.threads().ended();
    let result = shut_down(&store);
    // A writer that is gone has ended too.
    let _ = ended.wait_for(|ended| *ended).await;
    result
}

pub fn fill_random(bytes: &mut [u8]) -> Result<(), String> {
    for byte in bytes {
        *byte = sim::random().to_le_bytes()[0];
    }
    Ok(())
}
