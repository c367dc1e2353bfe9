//! Not a test but a measurement: `cargo test --release transport::tests::throughput -- --ignored
//! --nocapture`. Both nodes and the callers share one process, so a call's CPU time is that of both
//! ends together.

use std::sync::atomic::{AtomicU64, Ordering};

use super::*;

struct Echo;

impl Service for Echo {
    fn request(&self, _: NodeId, _: u8, body: Bytes, reply: Reply) {
        reply.ok(body);
    }

    fn admit(&self, _: NodeId, _: Disk) -> Result<(), String> {
        Ok(())
    }

    fn peer_up(&self, _: NodeId) {}
    fn peer_down(&self, _: NodeId) {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn calls_per_second() {
    let start = async |node, peer, addr: String| {
        let mut config = config(node, vec![PeerAddress { node: peer, addr }]);
        config.timing = Timing::default();
        Transport::start(config, Arc::new(Echo)).await.unwrap()
    };
    let other = start(2, 1, "127.0.0.1:1".to_owned()).await;
    let node = start(1, 2, other.local_addr().to_string()).await;
    let peer = node.peer(2).unwrap();
    until("the link is up", || peer.is_up()).await;
    for (tasks, depth) in [(1, 1), (64, 1), (1_024, 1), (16, 64)] {
        let calls = Arc::new(AtomicU64::new(0));
        let end = Instant::now() + Duration::from_secs(5);
        let (start, cpu) = (Instant::now(), cpu_ms());
        let mut callers = JoinSet::new();
        for _ in 0..tasks {
            let (peer, calls) = (peer.clone(), Arc::clone(&calls));
            callers.spawn(async move {
                let body = Bytes::from(vec![7; 200]);
                while Instant::now() < end {
                    let batch: Vec<Call> = (0..depth)
                        .map(|_| peer.call(1, body.clone(), LONG))
                        .collect();
                    for call in batch {
                        call.await.unwrap();
                    }
                    calls.fetch_add(depth, Ordering::Relaxed);
                }
            });
        }
        callers.join_all().await;
        let (calls, seconds) = (
            calls.load(Ordering::Relaxed) as f64,
            start.elapsed().as_secs_f64(),
        );
        let cpu_us = (cpu_ms() - cpu) as f64 * 1_000.0 / calls;
        println!(
            "{tasks} tasks with {depth} calls each: {:.0} calls/s, {:.1} us round trip, {cpu_us:.2} us CPU per call",
            calls / seconds,
            seconds / calls * (tasks * depth) as f64 * 1e6
        );
    }
    let (cpu, start) = (cpu_ms(), Instant::now());
    pause(Duration::from_secs(10)).await;
    println!(
        "idle: {} ms CPU in {:.0} s",
        cpu_ms() - cpu,
        start.elapsed().as_secs_f64()
    );
    node.stop().await;
    other.stop().await;
}

/// User and system time of this process; Linux counts it in hundredths of a second.
fn cpu_ms() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields = stat.rsplit(')').next().unwrap().split_whitespace();
    fields
        .skip(11)
        .take(2)
        .map(|ticks| ticks.parse::<u64>().unwrap() * 10)
        .sum()
}
