//! Latencies, summed up. Pure.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Of many times: how many there are, and the smallest times that 50 and 99 percent do not exceed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    pub count: u64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
}

impl Spread {
    pub fn of(times: impl IntoIterator<Item = Duration>) -> Self {
        let mut times: Vec<Duration> = times.into_iter().collect();
        times.sort_unstable();
        let at = |percent: usize| {
            let place = (times.len() * percent).div_ceil(100).max(1) - 1;
            times.get(place).copied().map_or(0.0, ms)
        };
        Self {
            count: times.len() as u64,
            p50_ms: at(50),
            p99_ms: at(99),
            max_ms: times.last().copied().map_or(0.0, ms),
        }
    }
}

/// In whole microseconds: more digits would be noise, and make the files longer.
pub fn ms(time: Duration) -> f64 {
    time.as_micros() as f64 / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_times_that_were_seen() {
        let times = (1..=200).rev().map(Duration::from_millis);
        let expected = Spread {
            count: 200,
            p50_ms: 100.0,
            p99_ms: 198.0,
            max_ms: 200.0,
        };
        assert_eq!(Spread::of(times), expected);
    }

    #[test]
    fn few_times_and_none_are_no_special_case() {
        assert_eq!(Spread::of([]), Spread::default());
        let one = Spread::of([Duration::from_nanos(1_234_567)]);
        assert_eq!((one.count, one.p50_ms, one.p99_ms), (1, 1.234, 1.234));
        let two = Spread::of([Duration::from_millis(9), Duration::from_millis(1)]);
        assert_eq!((two.p50_ms, two.p99_ms, two.max_ms), (1.0, 9.0, 9.0));
    }
}
