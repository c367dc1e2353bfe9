//! Turns to open replicas: few at a time, and a line that is no longer than a client's patience.
//!
//! Without a bound on the line a node that is asked for more sleeping channels than it can open works
//! only for clients that have given up, and its followers' answers come so late that their leaders turn
//! to openraft, which costs several times as much (measured: at 2,000 wakings a second on two cores,
//! 1,800 are possible, and after half a minute none).

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use tokio::sync::Semaphore;
use tokio::sync::SemaphorePermit;

/// Replicas that are opened at the same time: each reads its state from the store.
const AT_ONCE_MAX: usize = 64;
/// With so many in line, clients that ask for another sleeping channel are refused. Two cores open them
/// in about two seconds, half of the time that a request may take. Peers are not refused: what they ask
/// for has been begun elsewhere.
const IN_LINE_MAX: usize = 4_096;

pub(crate) struct Openings {
    turns: Semaphore,
    in_line: AtomicUsize,
    in_line_max: usize,
}

impl Openings {
    pub(crate) fn new() -> Self {
        Openings::with(AT_ONCE_MAX, IN_LINE_MAX)
    }

    fn with(at_once_max: usize, in_line_max: usize) -> Self {
        Openings {
            turns: Semaphore::new(at_once_max),
            in_line: AtomicUsize::new(0),
            in_line_max,
        }
    }

    /// Waits for a turn.
    pub(crate) async fn turn(&self) -> SemaphorePermit<'_> {
        self.in_line.fetch_add(1, Ordering::Relaxed);
        let _place = Place(&self.in_line);
        let turn = self.turns.acquire().await;
        turn.expect("nobody closes the semaphore")
    }

    /// Whether so many wait that a client had better ask again later, or elsewhere.
    pub(crate) fn are_crowded(&self) -> bool {
        self.in_line.load(Ordering::Relaxed) >= self.in_line_max
    }
}

/// Ends with the wait, also if that is given up.
struct Place<'a>(&'a AtomicUsize);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn only_those_who_wait_are_in_line() {
        let openings = Openings::with(1, 2);
        let first = openings.turn().await;
        assert!(!openings.are_crowded());
        let mut one = Box::pin(openings.turn());
        let mut two = Box::pin(openings.turn());
        assert!(one.as_mut().now_or_never().is_none() && two.as_mut().now_or_never().is_none());
        assert!(openings.are_crowded());
        drop(two);
        assert!(!openings.are_crowded(), "whoever gives up is not in line");
        drop(first);
        let _second = one.await;
        assert_eq!(openings.in_line.load(Ordering::Relaxed), 0);
    }
}
