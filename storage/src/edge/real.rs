//! The edges as the product has them.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};

use tokio::sync::oneshot;

use crate::core::Core;
use crate::error::{Error, OpenError};
use crate::options::EXIT_CODE_FATAL;
use crate::queue::Op;
use crate::space;
use crate::store::Store;
use crate::writer;

/// What the writer waits for while nothing is queued.
pub type Arrived = std::sync::Condvar;

const LOCK: &str = "lock";

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

/// The writer and the watcher of the disk's space.
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
        let watching = core.clone();
        let watcher = spawn("storage-space", move || {
            space::run(&watching, &database, free_bytes_min);
        });
        match watcher {
            Ok(watcher) => Ok(Self(Mutex::new(vec![writer, watcher]))),
            Err(error) => {
                core.queue.close();
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
    std::process::exit(EXIT_CODE_FATAL);
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
