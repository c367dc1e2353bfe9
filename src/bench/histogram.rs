//! Latencies, counted in buckets of equal relative width: recording one is an addition, and a
//! histogram of a minute's work is as small as one of a second's.

/// Steps within each doubling, as a power of two: a bucket is less than 0.8 % wide.
const STEP_BITS: u32 = 7;
const STEPS: usize = 1 << STEP_BITS;
/// What takes longer is counted as taking this long: 137 s, more than any case waits.
const NANOS_MAX: u64 = (1 << VALUE_BITS) - 1;
const VALUE_BITS: u32 = 37;
const BUCKETS: usize = (VALUE_BITS - STEP_BITS + 1) as usize * STEPS;

#[derive(Clone, Debug)]
pub struct Histogram {
    buckets: Box<[u64]>,
    count: u64,
    max_ns: u64,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram {
            buckets: vec![0; BUCKETS].into(),
            count: 0,
            max_ns: 0,
        }
    }
}

impl Histogram {
    pub fn record(&mut self, nanos: u64) {
        let nanos = nanos.min(NANOS_MAX);
        self.buckets[bucket(nanos)] += 1;
        self.count += 1;
        self.max_ns = self.max_ns.max(nanos);
    }

    pub fn add(&mut self, other: &Histogram) {
        for (mine, others) in self.buckets.iter_mut().zip(&other.buckets) {
            *mine += others;
        }
        self.count += other.count;
        self.max_ns = self.max_ns.max(other.max_ns);
    }

    /// In milliseconds; nothing if nothing was recorded.
    pub fn max_ms(&self) -> Option<f64> {
        (self.count > 0).then(|| millis(self.max_ns))
    }

    /// The least latency, to within a bucket, that this part of all did not exceed.
    pub fn quantile_ms(&self, part: f64) -> Option<f64> {
        if self.count == 0 {
            return None;
        }
        let rank = ((part * self.count as f64).ceil() as u64).clamp(1, self.count);
        let mut seen = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Some(millis(upper(index).min(self.max_ns)));
            }
        }
        Some(millis(self.max_ns))
    }
}

fn bucket(nanos: u64) -> usize {
    if nanos < STEPS as u64 {
        return nanos as usize;
    }
    let shift = nanos.ilog2() - STEP_BITS;
    let step = (nanos >> shift) as usize - STEPS;
    (shift as usize + 1) * STEPS + step
}

/// The greatest value that belongs into a bucket.
fn upper(bucket: usize) -> u64 {
    let Some(shift) = (bucket / STEPS).checked_sub(1) else {
        return bucket as u64;
    };
    (((bucket % STEPS + STEPS + 1) as u64) << shift) - 1
}

fn millis(nanos: u64) -> f64 {
    nanos as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn quantiles() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile_ms(0.5), None);
        for millis in 1..=100 {
            histogram.record(millis * 1_000_000);
        }
        for (part, exact) in [(0.0, 1.0), (0.5, 50.0), (0.99, 99.0), (1.0, 100.0)] {
            let found = histogram.quantile_ms(part).unwrap();
            assert!((exact..=exact * 1.008).contains(&found), "{part}: {found}");
        }
        assert_eq!(histogram.max_ms(), Some(100.0));
        let mut sum = Histogram::default();
        sum.record(u64::MAX);
        sum.add(&histogram);
        assert_eq!(sum.count, 101);
        assert_eq!(sum.max_ms(), Some(millis(NANOS_MAX)));
    }

    proptest! {
        #[test]
        fn a_bucket_is_narrow_and_holds_its_values(nanos in 0..=NANOS_MAX) {
            let bucket = bucket(nanos);
            prop_assert!(bucket < BUCKETS);
            prop_assert!(upper(bucket) >= nanos);
            prop_assert!(upper(bucket) - nanos <= nanos / STEPS as u64);
            prop_assert!(bucket == 0 || upper(bucket - 1) < nanos);
        }
    }
}
