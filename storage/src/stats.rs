//! Counters of a store, kept by atomics and read as one [`Stats`].

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Buckets double from 16 µs, so the last but one ends above half a second.
pub const LATENCY_BUCKETS: usize = 16;
const FIRST_BUCKET_MICROS: u64 = 16;

/// A reading of the counters. Counts are since the store was opened.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stats {
    /// Batches written to RocksDB.
    pub batches: u64,
    /// Batches among them that were synced.
    pub fsyncs: u64,
    /// Log entries written.
    pub entries: u64,
    /// Bytes handed to RocksDB in those batches.
    pub bytes_written: u64,
    /// Writes that wait or are being written.
    pub queue_length: usize,
    /// Bytes of those writes.
    pub queue_bytes: usize,
    /// How long synced batches took, from the call to its return.
    pub fsync_latency: LatencyHistogram,
    /// Bytes of the write-ahead log files, at most ten seconds old.
    pub wal_bytes: u64,
    /// Bytes of all files of the store, at most ten seconds old.
    pub disk_bytes: u64,
    /// Free bytes of the file system, at most a second old.
    pub free_bytes: u64,
    /// Groups that have a handle.
    pub groups_open: usize,
}

/// Counts of latencies in buckets whose bounds double.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LatencyHistogram {
    /// `counts[i]` took less than [`upper_micros`](Self::upper_micros) of `i`
    /// and no less than that of `i - 1`. The last bucket has no upper bound.
    pub counts: [u64; LATENCY_BUCKETS],
    /// Sum of all latencies in microseconds.
    pub sum_micros: u64,
}

impl LatencyHistogram {
    /// The upper bound of a bucket in microseconds; none for the last.
    pub fn upper_micros(bucket: usize) -> Option<u64> {
        (bucket + 1 < LATENCY_BUCKETS).then(|| FIRST_BUCKET_MICROS << bucket)
    }
}

/// The live counters behind [`Stats`].
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub batches: AtomicU64,
    pub fsyncs: AtomicU64,
    pub entries: AtomicU64,
    pub bytes_written: AtomicU64,
    pub wal_bytes: AtomicU64,
    pub disk_bytes: AtomicU64,
    pub free_bytes: AtomicU64,
    latency_counts: [AtomicU64; LATENCY_BUCKETS],
    latency_sum_micros: AtomicU64,
}

impl Counters {
    pub fn record_fsync(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.fsyncs.fetch_add(1, Ordering::Relaxed);
        self.latency_counts[bucket_of(micros)].fetch_add(1, Ordering::Relaxed);
        self.latency_sum_micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// What was counted; the queue and the groups count themselves.
    pub fn read(&self) -> Stats {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            batches: load(&self.batches),
            fsyncs: load(&self.fsyncs),
            entries: load(&self.entries),
            bytes_written: load(&self.bytes_written),
            fsync_latency: LatencyHistogram {
                counts: std::array::from_fn(|i| load(&self.latency_counts[i])),
                sum_micros: load(&self.latency_sum_micros),
            },
            wal_bytes: load(&self.wal_bytes),
            disk_bytes: load(&self.disk_bytes),
            free_bytes: load(&self.free_bytes),
            ..Stats::default()
        }
    }
}

fn bucket_of(micros: u64) -> usize {
    (0..LATENCY_BUCKETS)
        .find(|bucket| LatencyHistogram::upper_micros(*bucket).is_none_or(|upper| micros < upper))
        .unwrap_or(LATENCY_BUCKETS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_latency_falls_into_the_bucket_that_bounds_it() {
        assert_eq!(bucket_of(0), 0);
        assert_eq!(bucket_of(15), 0);
        assert_eq!(bucket_of(16), 1);
        assert_eq!(bucket_of(31), 1);
        assert_eq!(bucket_of(u64::MAX), LATENCY_BUCKETS - 1);
        for bucket in 0..LATENCY_BUCKETS - 1 {
            let upper = LatencyHistogram::upper_micros(bucket).expect("not the last");
            assert_eq!(bucket_of(upper - 1), bucket);
            assert_eq!(bucket_of(upper), bucket + 1);
        }
    }

    #[test]
    fn a_reading_holds_what_was_counted() {
        let counters = Counters::default();
        counters.record_fsync(Duration::from_micros(20));
        counters.record_fsync(Duration::from_secs(5));
        let stats = counters.read();
        assert_eq!(stats.fsyncs, 2);
        assert_eq!(stats.fsync_latency.counts[1], 1);
        assert_eq!(stats.fsync_latency.counts[LATENCY_BUCKETS - 1], 1);
        assert_eq!(stats.fsync_latency.sum_micros, 5_000_020);
    }
}
