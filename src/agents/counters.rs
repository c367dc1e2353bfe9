//! What is counted of each agent, for `/metrics`. There are as many as the configuration names.

use std::time::Duration;

use super::retry::FailureKind;
use crate::counters::Counter;

/// Upper bounds of the buckets of attempts' times, in seconds: from the built-in agent's
/// milliseconds to a large model's minutes.
pub const SECONDS_BOUNDS: [f64; 11] = [
    0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
];

/// All since the process started.
#[derive(Debug, Default)]
pub struct AgentCounters {
    /// Attempts that were begun.
    pub attempts: Counter,
    /// Attempts that ended with a reply in the channel.
    pub replies: Counter,
    /// Jobs that were given up.
    pub given_up: Counter,
    /// Attempts that failed, as [`FailureKind::NAMES`].
    pub failures: [Counter; FailureKind::NAMES.len()],
    /// Attempts that were cut short: cancelled, or this node led the channel no longer.
    pub stopped: Counter,
    /// Attempts that took this long or less, not cumulative; the last bucket has no bound.
    pub seconds: [Counter; SECONDS_BOUNDS.len() + 1],
    pub micros_sum: Counter,
}

impl AgentCounters {
    pub fn failed(&self, kind: FailureKind) {
        self.failures[kind.index()].one();
    }

    /// An attempt has ended, whatever came of it.
    pub fn took(&self, time: Duration) {
        let seconds = time.as_secs_f64();
        let bucket = SECONDS_BOUNDS.iter().position(|bound| seconds <= *bound);
        self.seconds[bucket.unwrap_or(SECONDS_BOUNDS.len())].one();
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.micros_sum.add(micros);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_fall_into_their_buckets() {
        let counters = AgentCounters::default();
        counters.took(Duration::from_millis(5));
        counters.took(Duration::from_secs(7));
        counters.took(Duration::from_secs(3_600));
        let counts: Vec<u64> = counters.seconds.iter().map(Counter::get).collect();
        assert_eq!(counts, [1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 1]);
        assert_eq!(counters.micros_sum.get(), 3_607_005_000);
    }
}
