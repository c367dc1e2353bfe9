//! When a client's next operation is due: open loop, without drift.
//!
//! Each operation has its place on a grid that was fixed at the beginning. A slow answer delays the
//! operations behind it, and they are then made up for at once, so the mean rate holds; but no
//! more than `BACKLOG_MAX` of them, or a healed cluster would drown in what a long fault held up.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::{Phase, load_ended, rest_over};

/// The longest stretch of missed operations that is made up for.
const BACKLOG_MAX: Duration = Duration::from_secs(2);
/// A rate of zero would divide by zero; nothing in a run is slower than this.
const PER_SECOND_MIN: f64 = 0.01;

#[derive(Debug)]
pub struct Pace {
    every: Duration,
    next: Instant,
}

impl Pace {
    /// `per_second` operations, the first after `share` (0 to 1) of the interval, so that clients
    /// that start together do not act together.
    pub fn new(per_second: f64, share: f64, now: Instant) -> Self {
        let every = Duration::from_secs_f64(1.0 / per_second.max(PER_SECOND_MIN));
        Self {
            every,
            next: now + every.mul_f64(share.clamp(0.0, 1.0)),
        }
    }

    /// When the next operation is due; moves on to the one after it.
    fn take(&mut self, now: Instant) -> Instant {
        if now.duration_since(self.next) > BACKLOG_MAX {
            self.next = now - BACKLOG_MAX;
        }
        let due = self.next;
        self.next += self.every;
        due
    }

    /// When the next operation is due, without taking it.
    pub fn due(&self) -> Instant {
        self.next
    }

    /// Takes the operation that is due by `now`, if there is one.
    pub fn take_due(&mut self, now: Instant) -> bool {
        let is_due = self.next <= now;
        if is_due {
            self.take(now);
        }
        is_due
    }

    /// Waits for the next operation's time, and until clients need not rest; false when they are to
    /// stop instead.
    pub async fn wait(&mut self, phase: &mut watch::Receiver<Phase>) -> bool {
        let due = self.take(Instant::now());
        let mut resting = phase.clone();
        let turn = async {
            tokio::time::sleep_until(due).await;
            rest_over(&mut resting).await;
        };
        tokio::select! {
            biased;
            () = load_ended(phase) => false,
            () = turn => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: Instant, ms: u64) -> Instant {
        start + Duration::from_millis(ms)
    }

    #[test]
    fn operations_keep_to_their_grid_whatever_the_delay() {
        let start = Instant::now();
        let mut pace = Pace::new(10.0, 0.5, start);
        assert_eq!(pace.take(start), at(start, 50));
        // A late caller gets the places that it missed, and is back on the grid.
        assert_eq!(pace.take(at(start, 420)), at(start, 150));
        assert_eq!(pace.take(at(start, 421)), at(start, 250));
        assert_eq!(pace.take(at(start, 422)), at(start, 350));
        assert_eq!(pace.take(at(start, 423)), at(start, 450));
    }

    #[test]
    fn a_long_silence_is_not_made_up_for_in_full() {
        let start = Instant::now();
        let mut pace = Pace::new(10.0, 0.0, start);
        let late = at(start, 60_000);
        let mut at_once = 0;
        while pace.take_due(late) {
            at_once += 1;
            assert!(at_once < 100, "the backlog has no bound");
        }
        assert_eq!(at_once, 21, "two seconds' worth, and the one due now");
    }

    #[tokio::test]
    async fn the_end_of_the_load_ends_the_wait() {
        let (send, mut phase) = watch::channel(Phase::Running);
        let mut slow = Pace::new(0.01, 1.0, Instant::now());
        send.send(Phase::Settling).unwrap();
        assert!(!slow.wait(&mut phase).await);
        let mut gone = Pace::new(0.01, 1.0, Instant::now());
        drop(send);
        assert!(!gone.wait(&mut phase).await, "nobody is left to steer it");
    }
}
