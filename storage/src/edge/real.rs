//! The edges as the product has them.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::core::Core;
use crate::error::{Error, OpenError};
use crate::options::EXIT_CODE_FATAL;
use crate::queue::Op;
use crate::space;
use crate::store::Store;
use crate::watchdog;
use crate::writer;

/// What the writer waits for while nothing is queued.
pub type Arrived = std::sync::Condvar;

const LOCK: &str = "lock";
/// How long a process that has decided to end may take, a compaction that has to end first included.
/// Until then its peers hear that it is alive.
const END_WITHIN: Duration = Duration::from_secs(5);

/// The exclusive lock on the directory.
pub struct Lock(File);

impl Drop for Lock {
    /// Closing the file is not enough: a child process that another thread is just starting holds a
    /// copy of it until it runs its own program.
    fn drop(&mut self) {
        if let Err(error) = self.0.unlock() {
            tracing::warn!(%error, "the directory's lock could not be released");
        }
    }
}

/// Makes the directories of a store, and sees to it that no other store writes there.
pub fn claim(dir: &Path, database: &Path) -> Result<Lock, OpenError> {
    let io = |source| OpenError::Io {
        path: dir.to_path_buf(),
        source,
    };
    fs::create_dir_all(database).map_err(io)?;
    let lock = lock(dir)?;
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(io)?;
    Ok(lock)
}

/// Only one store may write here. The lock ends with the process.
pub fn lock(dir: &Path) -> Result<Lock, OpenError> {
    let path = dir.join(LOCK);
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path);
    let locked = file.map(|file| file.try_lock().map(|()| file));
    match locked {
        Ok(Ok(file)) => Ok(Lock(file)),
        Ok(Err(TryLockError::WouldBlock)) => Err(OpenError::Locked {
            dir: dir.to_path_buf(),
        }),
        Ok(Err(TryLockError::Error(source))) | Err(source) => Err(OpenError::Io { path, source }),
    }
}

/// The writer, the watcher of the disk's space, and the watchdog of the writer.
pub struct Threads(Mutex<Vec<JoinHandle<()>>>);

impl Threads {
    pub fn start(
        core: &Arc<Core>,
        database: PathBuf,
        free_bytes_min: u64,
    ) -> Result<Self, std::io::Error> {
        space::check(core, &database, free_bytes_min);
        space::measure(core, &database);
        let writing = core.clone();
        let writer = spawn("storage-writer", move || writer::run(&writing))?;
        let (watching, guarding) = (core.clone(), core.clone());
        let watcher = spawn("storage-space", move || {
            space::run(&watching, &database, free_bytes_min);
        });
        let watchdog = spawn("storage-watchdog", move || {
            watchdog::run(&guarding, watchdog::TICK);
        });
        match (watcher, watchdog) {
            (Ok(watcher), Ok(watchdog)) => Ok(Self(Mutex::new(vec![writer, watcher, watchdog]))),
            (Err(error), _) | (_, Err(error)) => {
                core.queue.close();
                core.stop.stop();
                Err(error)
            }
        }
    }

    /// Waits until they have ended, which they were told to before.
    pub fn join(&self) {
        let mut threads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for joined in threads.drain(..) {
            // A `Done` may hold the last handle: its thread cannot join itself,
            // and ends right after.
            if joined.thread().id() != thread::current().id() && joined.join().is_err() {
                tracing::error!("a storage thread panicked");
            }
        }
    }
}

/// Queues `op` and blocks until it is answered by way of `answer`.
pub fn write_through(
    core: &Core,
    op: Op,
    answer: &mpsc::Receiver<Result<(), Error>>,
) -> Result<(), Error> {
    core.queue.push(op).map_err(|(error, _)| error)?;
    answer.recv().unwrap_or(Err(Error::Closed))
}

/// Shuts `store` down and drops it.
pub async fn close(store: Store, shut_down: fn(&Store) -> Result<(), Error>) -> Result<(), Error> {
    let (sender, receiver) = oneshot::channel();
    // Joining threads and closing RocksDB block, so a thread does that.
    let closing = spawn("storage-close", move || {
        let result = shut_down(&store);
        drop(store);
        drop(sender.send(result));
    });
    closing.map_err(|error| Error::Failed(format!("no thread to close with: {error}")))?;
    receiver.await.unwrap_or(Err(Error::Closed))
}

/// What is on disk is unknown: the process ends.
pub fn end_process(_: &str) {
    // RocksDB joins its own threads on the way out, and one of them may hang with the disk. Without
    // the thread that sees to it this end may take for ever, too.
    drop(spawn("storage-end", end_by_force));
    std::process::exit(EXIT_CODE_FATAL);
}

#[expect(
    clippy::disallowed_methods,
    reason = "nothing tells an end that is slow from one that never comes"
)]
fn end_by_force() {
    thread::sleep(END_WITHIN);
    std::process::abort();
}

pub fn fill_random(bytes: &mut [u8]) -> Result<(), String> {
    getrandom::fill(bytes).map_err(|error| error.to_string())
}

fn spawn(
    name: &str,
    run: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>, std::io::Error> {
    thread::Builder::new().name(name.into()).spawn(run)
}
