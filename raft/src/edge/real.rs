//! The edges as the product has them.

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use uuid::Uuid;

pub(crate) use tokio::net::TcpListener;
pub(crate) use tokio::net::TcpStream;

/// Any number, for session ids and jitter.
pub(crate) fn random() -> u64 {
    rand::random()
}

/// An id that nobody else has, roughly in order of time.
pub(crate) fn fresh_id() -> Uuid {
    Uuid::now_v7()
}

/// Runs `work` where it may wait for a disk.
pub(crate) fn blocking<R: Send + 'static>(
    work: impl FnOnce() -> R + Send + 'static,
) -> JoinHandle<R> {
    tokio::task::spawn_blocking(work)
}

/// Sends what `items` yields, each of which may have to come from a disk, until nobody receives it.
pub(crate) fn feed<T: Send + 'static>(
    sender: mpsc::Sender<T>,
    items: impl Iterator<Item = T> + Send + 'static,
) {
    tokio::task::spawn_blocking(move || {
        for item in items {
            if sender.blocking_send(item).is_err() {
                return;
            }
        }
    });
}

pub(crate) fn end_process(code: i32) {
    std::process::exit(code);
}

/// Never: see [`Opening::may_resume`](crate::consensus::Opening::may_resume).
pub(crate) const fn restores_leaders() -> bool {
    false
}
