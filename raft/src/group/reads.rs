//! Linearizable reads without leases: the leader confirms that it still leads (ReadIndex, Raft
//! dissertation, section 6.4), and reads that wait at the same time share one confirmation.
//!
//! The confirmation is our own and not openraft's, which takes the answer to one append request for
//! the answer to later ones that end at the same entry, too. A leader that had been paused found old
//! answers in its sockets, and took itself for confirmed (docs/adr/0005).

use std::future::Future;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::oneshot;

use super::Group;
use crate::api::ReadError;
use crate::peers::Kind;
use crate::peers::number;

/// How long a voter may take to answer.
const CONFIRM_DEADLINE: Duration = Duration::from_secs(2);

/// The index that a read beginning now must see, if this node leads and a majority of the voters,
/// asked after that, knows of no later term: then nobody has led one yet.
///
/// # Errors
/// `NoLeader` if this node does not lead, or no majority says so.
pub(crate) async fn confirmed_index(group: &Group) -> Result<u64, ReadError> {
    let replica = group.open_replica().ok_or(ReadError::NoLeader)?;
    let (term, index) = replica.consensus.read_point().ok_or(ReadError::NoLeader)?;
    let voters = replica.consensus.voters();
    let others = voters.iter().filter(|node| **node != group.shared.node());
    let mut answers: FuturesUnordered<_> = others
        .filter_map(|node| group.ask(*node, Kind::Inquire, CONFIRM_DEADLINE))
        .collect();
    if voters.is_empty() {
        return Err(ReadError::NoLeader);
    }
    let mut missing = voters.len() / 2;
    while missing > 0 {
        match answers.next().await {
            // The highest term that the voter knows, on its disk or on the way there.
            Some(Ok(answer)) if number(&answer).is_some_and(|known| known <= term) => missing -= 1,
            Some(_) => {}
            None => return Err(ReadError::NoLeader),
        }
    }
    Ok(index)
}

/// Reads that may wait for one confirmation; more are refused.
const WAITING_MAX: usize = 65_536;

/// Gathers reads. A read joins a round that has not begun; one that has begun may have been
/// confirmed before the read did.
#[derive(Default)]
pub(crate) struct SharedRounds {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    waiting: Vec<oneshot::Sender<Result<u64, ReadError>>>,
    running: bool,
}

impl SharedRounds {
    /// The log index that a read beginning now must see. `round` is run by one task at a time for
    /// all who wait.
    ///
    /// # Errors
    /// What `round` answers, or `Busy`.
    pub(crate) async fn index<F, R>(&self, run: F) -> Result<u64, ReadError>
    where
        F: FnOnce() -> R,
        R: Future<Output = ()> + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        let starts = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            if state.waiting.len() >= WAITING_MAX {
                return Err(ReadError::Busy);
            }
            state.waiting.push(sender);
            !std::mem::replace(&mut state.running, true)
        };
        if starts {
            tokio::spawn(run());
        }
        receiver.await.unwrap_or(Err(ReadError::Stopping))
    }

    /// Runs rounds until nobody waits: the body of the task that [`SharedRounds::index`] starts.
    pub(crate) async fn run<R>(&self, mut round: impl FnMut() -> R)
    where
        R: Future<Output = Result<u64, ReadError>>,
    {
        loop {
            let waiting = {
                let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                if state.waiting.is_empty() {
                    state.running = false;
                    return;
                }
                std::mem::take(&mut state.waiting)
            };
            let result = round().await;
            for sender in waiting {
                // Whoever asked may have gone away.
                let _ = sender.send(result.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicU64;
    use std::sync::atomic::Ordering;

    use super::*;

    #[tokio::test]
    async fn reads_share_a_round_that_began_after_them() {
        let rounds = Arc::new(SharedRounds::default());
        let count = Arc::new(AtomicU64::new(0));
        let gate = Arc::new(tokio::sync::Semaphore::new(0));
        let read = || {
            let (rounds, count, gate) =
                (Arc::clone(&rounds), Arc::clone(&count), Arc::clone(&gate));
            async move {
                let task = {
                    let rounds = Arc::clone(&rounds);
                    async move {
                        rounds
                            .run(|| async {
                                gate.acquire().await.expect("never closed").forget();
                                Ok(count.fetch_add(1, Ordering::SeqCst))
                            })
                            .await;
                    }
                };
                rounds.index(|| task).await
            }
        };
        let first = tokio::spawn(read());
        while !rounds.state.lock().unwrap().running
            || !rounds.state.lock().unwrap().waiting.is_empty()
        {
            tokio::task::yield_now().await;
        }
        let others: Vec<_> = (0..100).map(|_| tokio::spawn(read())).collect();
        while rounds.state.lock().unwrap().waiting.len() < 100 {
            tokio::task::yield_now().await;
        }
        gate.add_permits(2);
        assert_eq!(first.await.unwrap(), Ok(0));
        for other in others {
            assert_eq!(other.await.unwrap(), Ok(1), "one round for all that waited");
        }
    }
}
