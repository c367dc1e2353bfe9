//! What channels cost that nobody uses, and how long a node takes to start with them.

use std::time::Duration;

use tokio::time::Instant;

use super::BenchError;
use super::bench::Bench;
use super::figures::{Idle, IdleNode, Restart, Sleep};
use super::spread::ms;
use super::usage;
use crate::Rng;
use crate::run::Say;

/// Counts what a node sends to the others.
const PEER_BYTES: &str = "accord_peer_sent_bytes_total";

/// Watches the cluster for `time` and does nothing meanwhile.
pub async fn idle(
    bench: &Bench,
    sleep: Sleep,
    time: Duration,
    say: Say<'_>,
) -> Result<Idle, BenchError> {
    say(&format!("idle: watching for {time:?}"));
    let peer_before = peer_bytes(bench).await?;
    let cpu_before = bench.cpu_times()?;
    let machine_before = machine_cpu_time()?;
    let started = Instant::now();
    tokio::time::sleep_until(started + time).await;
    let cpu_after = bench.cpu_times()?;
    let machine = machine_cpu_time()?.saturating_sub(machine_before);
    let seconds = started.elapsed().as_secs_f64();
    let peer_after = peer_bytes(bench).await?;

    let mut nodes = Vec::new();
    for (place, node) in bench.ids().into_iter().enumerate() {
        let memory = bench.memory(node)?;
        let cpu = cpu_after[place].saturating_sub(cpu_before[place]);
        let peer = peer_before[place].zip(peer_after[place]);
        let directory = bench.cluster().data_dir(node);
        let disk = usage::disk_bytes(directory);
        nodes.push(IdleNode {
            node,
            resident_bytes: memory.resident_bytes,
            anonymous_bytes: memory.anonymous_bytes,
            threads: memory.threads,
            cpu_percent: percent(cpu, seconds),
            peer_bytes_per_s: peer.map(|(before, after)| (after - before) / seconds),
            disk_bytes: disk.map_err(|error| BenchError::io(directory, error))?,
        });
    }
    Ok(Idle {
        sleep,
        seconds,
        cpu_percent: nodes.iter().map(|node| node.cpu_percent).sum(),
        machine_cpu_percent: percent(machine, seconds),
        nodes,
    })
}

/// Of one core.
pub fn percent(cpu: Duration, seconds: f64) -> f64 {
    100.0 * cpu.as_secs_f64() / seconds
}

fn machine_cpu_time() -> Result<Duration, BenchError> {
    let time = usage::machine_cpu_time();
    time.map_err(|error| BenchError::io_of("reading /proc", error))
}

async fn peer_bytes(bench: &Bench) -> Result<Vec<Option<f64>>, BenchError> {
    let mut bytes = Vec::new();
    for node in bench.ids() {
        let answer = bench.api(node).get("/metrics").await;
        let answer = answer.map_err(|error| BenchError::request("GET /metrics", &error))?;
        bytes.push(usage::metric(&answer.text(), PEER_BYTES));
    }
    Ok(bytes)
}

/// Stops one node by SIGTERM and starts it again.
pub async fn restart(bench: &Bench, rng: &mut Rng, say: Say<'_>) -> Result<Restart, BenchError> {
    let node = *rng.pick(&bench.ids());
    let stopped = bench.stop_node(node).await?;
    let ready = bench.start_node(node).await?;
    let restart = Restart {
        node,
        stop_ms: ms(stopped),
        ready_ms: ms(ready),
        resident_bytes: bench.memory(node)?.resident_bytes,
    };
    say(&format!(
        "restart: node {node} stopped in {:.0} ms, was ready {:.0} ms after its start",
        restart.stop_ms, restart.ready_ms
    ));
    Ok(restart)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_a_core_is_fifty_percent() {
        let half = percent(Duration::from_secs(30), 60.0);
        assert!((half - 50.0).abs() < f64::EPSILON);
    }
}
