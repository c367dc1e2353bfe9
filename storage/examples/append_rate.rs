//! Measures appends: `cargo run --release -p accord-storage --example append_rate [directory]`.
//!
//! Prints entries per second and fsyncs per entry for a lone writer that awaits
//! every batch, and for 100 groups that each await theirs.

use std::io::Write;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use accord_storage::{Entry, Group, GroupId, LogId, Options, Store};

const PAYLOAD_BYTES: usize = 128;
const TIME: Duration = Duration::from_secs(3);
const GROUPS: u64 = 100;

fn main() -> std::io::Result<()> {
    let dir = std::env::args_os()
        .nth(1)
        .unwrap_or_else(|| "target/append_rate".into());
    let store = Store::open(Options::new(dir, "measure", 1)).map_err(std::io::Error::other)?;
    let mut out = std::io::stdout().lock();
    for batch in [1, 64, 256] {
        let report = measure(&store, 1, batch)?;
        writeln!(out, "one group, batches of {batch}: {report}")?;
    }
    for batch in [1, 64] {
        let report = measure(&store, GROUPS, batch)?;
        writeln!(out, "{GROUPS} groups, batches of {batch}: {report}")?;
    }
    Ok(())
}

/// Every group awaits its batch before it appends the next.
fn measure(store: &Store, groups: u64, batch: u64) -> std::io::Result<String> {
    let before = store.stats();
    let groups = (1..=groups)
        .map(|id| store.group(GroupId(id)))
        .collect::<Result<Vec<_>, _>>()
        .map_err(std::io::Error::other)?;
    let (sender, receiver) = mpsc::sync_channel(GROUPS as usize);
    let append = |which: usize, group: &Group| {
        let sender = sender.clone();
        // The receiver outlives all appends but the last few.
        group.append(
            entries(group, batch),
            Box::new(move |_| {
                let _ = sender.send(which);
            }),
        );
    };
    let started = Instant::now();
    for (which, group) in groups.iter().enumerate() {
        append(which, group);
    }
    let mut done = 0;
    while started.elapsed() < TIME {
        let which = receiver.recv().map_err(std::io::Error::other)?;
        done += batch;
        append(which, &groups[which]);
    }
    let seconds = started.elapsed().as_secs_f64();
    let after = store.stats();
    let fsyncs = after.fsyncs - before.fsyncs;
    let micros = after.fsync_latency.sum_micros - before.fsync_latency.sum_micros;
    Ok(format!(
        "{:.0} entries/s, {:.4} fsyncs per entry, {} us per synced batch",
        done as f64 / seconds,
        fsyncs as f64 / (after.entries - before.entries) as f64,
        micros / fsyncs.max(1),
    ))
}

fn entries(group: &Group, count: u64) -> Vec<Entry> {
    let next = group.log_state().last.map_or(0, |last| last.index + 1);
    (next..next + count)
        .map(|index| Entry {
            log_id: LogId { term: 1, index },
            payload: vec![index as u8; PAYLOAD_BYTES].into(),
        })
        .collect()
}
