//! The edges as a simulation has them: one thread, a simulated network, seeded dice.

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use uuid::Builder;
use uuid::Uuid;

pub(crate) use turmoil::net::TcpListener;
pub(crate) use turmoil::net::TcpStream;

use crate::clock;
use crate::sim;

/// Random bytes of a version 7 id.
const ID_RANDOM_BYTES: usize = 10;

pub(crate) fn random() -> u64 {
    accord_storage::sim::random()
}

pub(crate) fn fresh_id() -> Uuid {
    let bytes = [random().to_le_bytes(), random().to_le_bytes()].concat();
    let random = bytes
        .first_chunk::<ID_RANDOM_BYTES>()
        .expect("two numbers have sixteen bytes");
    Builder::from_unix_timestamp_millis(clock::now_ms(), random).into_uuid()
}

/// A simulated disk keeps nobody waiting.
pub(crate) fn blocking<R: Send + 'static>(
    work: impl FnOnce() -> R + Send + 'static,
) -> JoinHandle<R> {
    tokio::spawn(async move { work() })
}

pub(crate) fn feed<T: Send + 'static>(
    sender: mpsc::Sender<T>,
    items: impl Iterator<Item = T> + Send + 'static,
) {
    tokio::spawn(async move {
        for item in items {
            if sender.send(item).await.is_err() {
                return;
            }
        }
    });
}

/// A simulation has one process for all nodes, so it only hears of the wish to end one.
pub(crate) fn end_process(code: i32) {
    sim::report(format!("a node ends itself with exit code {code}"));
}

/// Only where a simulation shows why the product does not.
pub(crate) fn restores_leaders() -> bool {
    sim::restores_leaders()
}
