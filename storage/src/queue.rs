//! The one queue of writes, first in, first out, over all groups.
//!
//! Invariants: tickets count the writes in the order in which they take
//! effect; every write that was accepted is answered exactly once; after a
//! failure or a close nothing is accepted. A push never blocks, since callers
//! are async tasks: the bound is [`Queue::pressure`], which asks producers to
//! hold back.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio::sync::Notify;

use crate::edge::Arrived;
use crate::engine::Step;
use crate::error::Error;
use crate::group::Shared;
use crate::layout::Layout;
use crate::types::{Done, LogId};

/// A batch is cut here: RocksDB holds it in memory twice while it writes.
const BATCH_BYTES_MAX: usize = 16 << 20;
/// So many times more than what makes producers hold back may wait of what leaders
/// elsewhere send, who do not see this queue: 128 MiB by default, the windows of
/// more leaders than are busy at a time, in memory that a node has.
const SWAMPED_TIMES: usize = 4;
/// What an operation costs besides its steps, about.
const OP_BYTES: usize = 128;

/// One write: its steps take effect together.
pub struct Op {
    /// Kept alive until the write is done: see [`crate::registry`].
    pub group: Option<Arc<Shared>>,
    pub steps: Vec<Step>,
    /// Whether it must be on the disk when `done` hears of it.
    pub sync: bool,
    /// What the group in memory learns once it is written.
    pub then: Then,
    pub done: Done,
}

/// What a group in memory learns when its write is done.
pub enum Then {
    Nothing,
    /// Entries were written and may leave memory.
    Appended,
    /// Rows were written up to here.
    Applied(LogId),
    /// Reads go by another layout from now on.
    Switched(Layout, LogId),
}

/// What the writer does next: a run of operations in their order.
pub struct Taken {
    pub ops: Vec<Op>,
    bytes: usize,
    last_ticket: u64,
}

pub struct Queue {
    waiting: Mutex<Waiting>,
    arrived: Arrived,
    /// All tickets up to this one are written.
    written: AtomicU64,
    length: AtomicUsize,
    bytes: AtomicUsize,
    bytes_max: usize,
    relieved: Notify,
    failed: OnceLock<String>,
}

#[derive(Default)]
struct Waiting {
    ops: VecDeque<Op>,
    taken: u64,
    closing: bool,
}

impl Waiting {
    /// Takes a run of operations that make one batch.
    fn cut(&mut self) -> Taken {
        let mut taken = Taken {
            ops: Vec::with_capacity(self.ops.len()),
            bytes: 0,
            last_ticket: 0,
        };
        while let Some(op) = self.ops.pop_front() {
            taken.bytes += bytes_of(&op);
            // A switch locks its group's readers out while it is written, so
            // nothing that could be large or of the same group follows it.
            let is_last = matches!(op.then, Then::Switched(..)) || taken.bytes >= BATCH_BYTES_MAX;
            taken.ops.push(op);
            self.taken += 1;
            if is_last {
                break;
            }
        }
        taken.last_ticket = self.taken;
        taken
    }
}

impl Queue {
    pub fn new(bytes_max: usize) -> Self {
        Self {
            waiting: Mutex::default(),
            arrived: Arrived::new(),
            written: AtomicU64::new(0),
            length: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            bytes_max,
            relieved: Notify::new(),
            failed: OnceLock::new(),
        }
    }

    /// Adds `op` and returns its ticket, or gives its `done` back.
    pub fn push(&self, op: Op) -> Result<u64, (Error, Done)> {
        let mut waiting = self.lock();
        if let Err(error) = self.check() {
            return Err((error, op.done));
        }
        if waiting.closing {
            return Err((Error::Closed, op.done));
        }
        self.length.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes_of(&op), Ordering::Relaxed);
        waiting.ops.push_back(op);
        let ticket = waiting.taken + waiting.ops.len() as u64;
        let was_empty = waiting.ops.len() == 1;
        drop(waiting);
        if was_empty {
            self.arrived.notify_one();
        }
        Ok(ticket)
    }

    /// Everything that waits, up to the bound of a batch; blocks while nothing
    /// does. None once the queue is closed and empty, or has failed.
    #[cfg(not(feature = "sim"))]
    pub fn take(&self) -> Option<Taken> {
        let mut waiting = self.lock();
        while waiting.ops.is_empty() {
            if waiting.closing || self.failed.get().is_some() {
                return None;
            }
            waiting = self
                .arrived
                .wait(waiting)
                .unwrap_or_else(PoisonError::into_inner);
        }
        Some(waiting.cut())
    }

    /// As `take`, for a writer that is a task.
    #[cfg(feature = "sim")]
    pub async fn next(&self) -> Option<Taken> {
        loop {
            {
                let mut waiting = self.lock();
                if !waiting.ops.is_empty() {
                    return Some(waiting.cut());
                }
                if waiting.closing || self.failed.get().is_some() {
                    return None;
                }
            }
            self.arrived.notified().await;
        }
    }

    /// Tells everyone that `taken` is written. Its operations are not answered
    /// here.
    pub fn written(&self, taken: &Taken) {
        self.written.store(taken.last_ticket, Ordering::Release);
        self.length.fetch_sub(taken.ops.len(), Ordering::Relaxed);
        self.bytes.fetch_sub(taken.bytes, Ordering::Relaxed);
        if !self.pressure() {
            self.relieved.notify_waiters();
        }
    }

    /// The ticket up to which everything is written.
    pub fn written_ticket(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    /// Refuses everything from now on. Returns what waited, to be answered, and
    /// whether this was the first failure.
    pub fn fail(&self, reason: String) -> (Vec<Op>, bool) {
        let mut waiting = self.lock();
        let is_first = self.failed.set(reason).is_ok();
        let ops = waiting.ops.drain(..).collect();
        drop(waiting);
        self.arrived.notify_one();
        self.relieved.notify_waiters();
        (ops, is_first)
    }

    /// Accepts nothing more. What waits is still written.
    pub fn close(&self) {
        self.lock().closing = true;
        self.arrived.notify_one();
        self.relieved.notify_waiters();
    }

    /// An error once the store has failed.
    pub fn check(&self) -> Result<(), Error> {
        match self.failed.get() {
            None => Ok(()),
            Some(reason) => Err(Error::Failed(reason.clone())),
        }
    }

    pub fn length(&self) -> usize {
        self.length.load(Ordering::Relaxed)
    }

    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Whether more waits than the disk keeps up with.
    pub fn pressure(&self) -> bool {
        self.bytes() > self.bytes_max
    }

    /// Whether so much waits that whoever sends more must be refused.
    pub fn is_swamped(&self) -> bool {
        self.bytes() > self.bytes_max.saturating_mul(SWAMPED_TIMES)
    }

    /// Resolves when there is no pressure, or nothing is accepted any more.
    pub async fn ready(&self) {
        loop {
            let relieved = self.relieved.notified();
            if !self.pressure() || self.failed.get().is_some() || self.lock().closing {
                return;
            }
            relieved.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing under this lock can leave it half changed.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn bytes_of(op: &Op) -> usize {
    OP_BYTES + op.steps.iter().map(Step::bytes).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    fn op(payload: usize) -> Op {
        Op {
            group: None,
            steps: vec![Step::Entry {
                key: [0; 20],
                term: 0,
                payload: vec![0; payload].into(),
            }],
            sync: true,
            then: Then::Nothing,
            done: Box::new(|_| ()),
        }
    }

    fn push(queue: &Queue, payload: usize) -> Result<u64, Error> {
        queue.push(op(payload)).map_err(|(error, _)| error)
    }

    #[test]
    fn tickets_follow_the_order_and_batches_are_cut() {
        let queue = Queue::new(1 << 20);
        assert_eq!(push(&queue, 1), Ok(1));
        assert_eq!(push(&queue, BATCH_BYTES_MAX), Ok(2));
        assert_eq!(push(&queue, 1), Ok(3));
        assert!(queue.pressure() && queue.is_swamped());
        let first = queue.take().expect("three wait");
        assert_eq!((first.ops.len(), first.last_ticket), (2, 2));
        assert_eq!(push(&queue, 1), Ok(4));
        queue.written(&first);
        assert_eq!(queue.written_ticket(), 2);
        assert!(!queue.pressure() && !queue.is_swamped());
        let second = queue.take().expect("two wait");
        assert_eq!((second.ops.len(), second.last_ticket), (2, 4));
        queue.written(&second);
        assert_eq!((queue.length(), queue.bytes()), (0, 0));
    }

    #[test]
    fn a_closed_queue_is_emptied_first() {
        let queue = Queue::new(1);
        assert_eq!(push(&queue, 1), Ok(1));
        queue.close();
        assert_eq!(push(&queue, 1), Err(Error::Closed));
        assert!(queue.take().is_some());
        assert!(queue.take().is_none());
    }

    #[test]
    fn a_failed_queue_gives_back_what_waits_once() {
        let queue = Queue::new(1);
        assert_eq!(push(&queue, 1), Ok(1));
        let (ops, is_first) = queue.fail("no disk".into());
        assert_eq!((ops.len(), is_first), (1, true));
        let (ops, is_first) = queue.fail("still none".into());
        assert_eq!((ops.len(), is_first), (0, false));
        assert_eq!(push(&queue, 1), Err(Error::Failed("no disk".into())));
        assert!(queue.take().is_none());
    }

    #[tokio::test]
    async fn ready_waits_for_relief() {
        let queue = Arc::new(Queue::new(100));
        push(&queue, 1_000).expect("it is open");
        let resolved = Arc::new(AtomicBool::new(false));
        let (waiter, flag) = (queue.clone(), resolved.clone());
        let task = tokio::spawn(async move {
            waiter.ready().await;
            flag.store(true, Ordering::SeqCst);
        });
        tokio::task::yield_now().await;
        assert!(!resolved.load(Ordering::SeqCst));
        let taken = queue.take().expect("one waits");
        queue.written(&taken);
        task.await.expect("it resolves");
    }
}
