//! Moments that periodic work shares, so that a node with nothing to do wakes up once for all of it.
//!
//! Four links, a sweep and a few tasks more, each with a timer of its own, woke an idle node 35 times a
//! second, two thirds of them for tokio's timer wheel alone, which moves far timers nearer; and waking is
//! nearly all that an idle node costs.

use std::time::Duration;

use tokio::time::Instant;

/// Counts beats of any length from one moment.
#[derive(Debug, Clone, Copy)]
pub struct Beat {
    start: Instant,
}

impl Beat {
    pub(crate) fn new(start: Instant) -> Self {
        Self { start }
    }

    pub(crate) fn start(&self) -> Instant {
        self.start
    }

    /// The last beat of this length that is not after `at`; `at` itself where there is none.
    pub(crate) fn last(&self, length: Duration, at: Instant) -> Instant {
        let since = nanos(at.saturating_duration_since(self.start));
        let into = since.checked_rem(nanos(length)).unwrap_or_default();
        at - Duration::from_nanos(into)
    }

    /// The first beat of this length after `at`.
    pub(crate) fn next(&self, length: Duration, at: Instant) -> Instant {
        self.last(length, at + length)
    }
}

/// 584 years at the most.
fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn beats_are_those_of_everyone(length in 1_u64..2_000, at in 0_u64..100_000, after in 0_u64..100_000) {
            let start = Instant::now();
            let beat = Beat::new(start);
            let length = Duration::from_millis(length);
            let at = start + Duration::from_millis(at);
            let (last, next) = (beat.last(length, at), beat.next(length, at));
            prop_assert!(last <= at && at < next && next - last == length);
            let later = start + Duration::from_millis(after);
            let apart = beat.next(length, later).max(next) - beat.next(length, later).min(next);
            prop_assert_eq!(apart.as_nanos() % length.as_nanos(), 0);
        }
    }

    #[test]
    fn before_the_first_beat_and_without_a_length_every_moment_is_one() {
        let start = Instant::now() + Duration::from_secs(5);
        let beat = Beat::new(start);
        let before = start - Duration::from_millis(1_300);
        assert_eq!(beat.last(Duration::from_secs(1), before), before);
        assert_eq!(beat.next(Duration::ZERO, start), start);
    }
}
