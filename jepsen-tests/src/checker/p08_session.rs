//! P8: what one session sees on one node never goes back.
//!
//! A session is one process's stale reads of a channel on one node, or one subscriber's live
//! streams of it there, whose `hello` must not lie behind what an earlier stream showed. It ends
//! when the node's process does: a restarted node serves what its disk kept, and catches up; what
//! it promises a client that came back is P7 and P11. O(n log n).

use std::collections::HashMap;

use super::facts::{Channel, Facts};
use super::report::{Anomaly, Property, Report};
use crate::history::{FaultRecord, Nanos};

/// Parts of the names of faults that end a node's process.
const ENDS_PROCESS: [&str; 7] = [
    "kill",
    "power",
    "nats",
    "corrupt",
    "cut",
    "disk_full",
    "fsync",
];

pub fn check(facts: &Facts<'_>, report: &mut Report) {
    let restarts = Restarts::new(&facts.history.faults);
    for channel in facts.channels.values() {
        reads(channel, &restarts, report);
        streams(channel, &restarts, report);
    }
}

fn reads(channel: &Channel<'_>, restarts: &Restarts, report: &mut Report) {
    let mut sessions = HashMap::new();
    for read in channel.reads.iter().filter(|read| !read.linearizable) {
        let operation = read.operation;
        let former = sessions.insert((operation.process, operation.node), read);
        let Some(former) = former.filter(|former| former.head > read.head) else {
            continue;
        };
        let from = former.operation.invoked;
        if restarts.between(operation.node, from, read.returned) {
            continue;
        }
        let what = format!(
            "process {} read node {} up to seq {} and then up to {}",
            operation.process, operation.node, former.head, read.head
        );
        report.add(
            Anomaly::new(Property::P8, what)
                .channel(channel.ix)
                .at(from, read.returned)
                .operations([former.operation.id, operation.id]),
        );
    }
}

fn streams(channel: &Channel<'_>, restarts: &Restarts, report: &mut Report) {
    // The last that each subscriber saw on each node: seq, when, and on which stream.
    let mut sessions: HashMap<(u32, u64), (u64, Nanos, u64)> = HashMap::new();
    for stream in &channel.streams {
        let session = (stream.subscriber, stream.node);
        if let (Some(hello), Some((seq, at, former))) = (stream.hello, sessions.get(&session)) {
            let now = stream.connected.unwrap_or(stream.opened);
            // A stream may overlap the one before it; then there is no order between them.
            if hello < *seq && *at < stream.opened && !restarts.between(stream.node, *at, now) {
                let what = format!(
                    "subscriber {} saw seq {seq} on node {}, which then said hello with {hello}",
                    stream.subscriber, stream.node
                );
                report.add(
                    Anomaly::new(Property::P8, what)
                        .channel(channel.ix)
                        .at(*at, now)
                        .streams([*former, stream.id]),
                );
            }
        }
        if let Some(last) = stream.events.last() {
            sessions.insert(session, (last.seen.seq, last.at, stream.id));
        }
    }
}

/// When each node's process may have ended.
struct Restarts {
    /// For each node the beginnings of such faults, in order, each with the latest end so far.
    nodes: HashMap<u64, Vec<(Nanos, Nanos)>>,
}

impl Restarts {
    fn new(faults: &[FaultRecord]) -> Restarts {
        let mut nodes: HashMap<u64, Vec<(Nanos, Nanos)>> = HashMap::new();
        let ending =
            |fault: &&FaultRecord| ENDS_PROCESS.iter().any(|part| fault.kind.contains(part));
        for fault in faults.iter().filter(ending) {
            let ended = fault.ended.unwrap_or(Nanos::MAX);
            for node in &fault.nodes {
                nodes.entry(*node).or_default().push((fault.began, ended));
            }
        }
        for times in nodes.values_mut() {
            times.sort_unstable();
            let mut latest = 0;
            for (_, ended) in times {
                latest = latest.max(*ended);
                *ended = latest;
            }
        }
        Restarts { nodes }
    }

    /// Whether one of them falls into this time.
    fn between(&self, node: u64, from: Nanos, to: Nanos) -> bool {
        let times = self.nodes.get(&node).map_or(&[][..], Vec::as_slice);
        let begun = times.partition_point(|(began, _)| *began <= to);
        times[..begun]
            .last()
            .is_some_and(|(_, ended)| *ended >= from)
    }
}
