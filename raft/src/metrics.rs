//! The counters of this crate's parts, gathered for the edge's `/metrics`.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use accord_storage::LatencyHistogram;

use crate::api::Metrics;
use crate::group::Group;
use crate::shared::Shared;
use crate::transport::Reason;

const MICROS_PER_SECOND: f64 = 1_000_000.0;

#[expect(clippy::cast_precision_loss, reason = "Prometheus values are floats")]
pub(crate) fn gather(shared: &Arc<Shared>, open: &[Arc<Group>]) -> Metrics {
    let store = shared.store.stats();
    let links = shared
        .transport()
        .map(|transport| transport.stats())
        .unwrap_or_default();
    let leading = open
        .iter()
        .filter(|group| group.status().leader == Some(shared.node()))
        .count();
    let steady = open
        .iter()
        .filter_map(|group| group.open_replica())
        .filter(|replica| replica.consensus.is_steady())
        .count();
    let mut values = Vec::new();
    let mut put =
        |name, help, counter, value: u64| values.push((name, help, counter, value as f64));
    put(
        "storage_batches_total",
        "Batches written to the store.",
        true,
        store.batches,
    );
    put(
        "storage_fsyncs_total",
        "Batches that were synced to the disk.",
        true,
        store.fsyncs,
    );
    put(
        "storage_entries_total",
        "Raft log entries written.",
        true,
        store.entries,
    );
    put(
        "storage_written_bytes_total",
        "Bytes handed to the store.",
        true,
        store.bytes_written,
    );
    put(
        "storage_queue_length",
        "Writes that wait or are being written.",
        false,
        store.queue_length as u64,
    );
    put(
        "storage_queue_bytes",
        "Bytes of those writes.",
        false,
        store.queue_bytes as u64,
    );
    put(
        "storage_wal_bytes",
        "Size of the write-ahead log.",
        false,
        store.wal_bytes,
    );
    put(
        "storage_disk_bytes",
        "Size of all files of the store.",
        false,
        store.disk_bytes,
    );
    put(
        "storage_free_bytes",
        "Free bytes of the file system.",
        false,
        store.free_bytes,
    );
    put(
        "groups_open",
        "Raft groups with an open replica.",
        false,
        open.len() as u64,
    );
    put(
        "groups_steady",
        "Raft groups with an open replica that replicates without openraft.",
        false,
        steady as u64,
    );
    put(
        "groups_woken_total",
        "Replicas that were opened.",
        true,
        shared.wakes.load(Ordering::Relaxed),
    );
    put(
        "groups_slept_total",
        "Replicas that were closed because nobody used them.",
        true,
        shared.sleeps.load(Ordering::Relaxed),
    );
    let (deliveries, late_ms) = shared.timers.deliveries();
    put(
        "scheduled_delivered_total",
        "Scheduled messages that this node has delivered.",
        true,
        deliveries,
    );
    put(
        "groups_leading",
        "Raft groups that this node leads.",
        false,
        leading as u64,
    );
    put(
        "groups_recovering",
        "Raft groups that have not recovered after this node lost its disk.",
        false,
        if shared.recovery.is_complete() {
            0
        } else {
            shared.recovery.groups_left()
        },
    );
    put(
        "peer_frames_in_total",
        "Frames received from peers.",
        true,
        links.frames_in,
    );
    put(
        "peer_frames_out_total",
        "Frames sent to peers.",
        true,
        links.frames_out,
    );
    put(
        "peer_received_bytes_total",
        "Bytes received from peers.",
        true,
        links.bytes_in,
    );
    put(
        "peer_sent_bytes_total",
        "Bytes sent to peers.",
        true,
        links.bytes_out,
    );
    put(
        "peer_connects_total",
        "Connections to peers that came up.",
        true,
        links.connects,
    );
    put(
        "peer_reconnects_total",
        "Connections that replaced a lost one.",
        true,
        links.reconnects,
    );
    let refused = Reason::ALL
        .iter()
        .map(|reason| (reason.name(), links.refused.of(*reason)));
    values.push((
        "scheduled_lateness_seconds_total",
        "How late the delivered messages were, all together, by this node's clock.",
        true,
        late_ms as f64 / 1_000.0,
    ));
    Metrics {
        values,
        peer_refused: refused.collect(),
        fsync_seconds: histogram(&store.fsync_latency),
    }
}

/// Cumulative, as Prometheus wants it; the last bucket has no bound.
#[expect(clippy::cast_precision_loss, reason = "Prometheus values are floats")]
fn histogram(latency: &LatencyHistogram) -> (Vec<(f64, u64)>, f64) {
    let mut sum = 0;
    let buckets = latency.counts.iter().enumerate().map(|(bucket, count)| {
        sum += count;
        let upper = LatencyHistogram::upper_micros(bucket);
        (
            upper.map_or(f64::INFINITY, |micros| micros as f64 / MICROS_PER_SECOND),
            sum,
        )
    });
    (
        buckets.collect(),
        latency.sum_micros as f64 / MICROS_PER_SECOND,
    )
}
