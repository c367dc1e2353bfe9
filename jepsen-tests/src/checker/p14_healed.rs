//! P14: after healing every node is ready and every channel writable within 30 s, and all replicas
//! agree on the hash of their state.
//!
//! Hashes are of the same state only at the same log index, so only those are compared; a replica
//! that gives none, or a node that does not give its log, has not healed. O(nodes × channels).

use std::collections::{BTreeMap, BTreeSet};

use super::facts::Facts;
use super::report::{Anomaly, Property, Report};
use crate::history::{ChannelIx, Ending, Nanos};

/// How long a healed cluster may take to be ready and to accept writes.
const HEALED_WITHIN: Nanos = 30_000_000_000;

pub fn check(facts: &Facts<'_>, report: &mut Report) {
    let Some(ending) = &facts.history.ending else {
        return;
    };
    for node in &facts.history.nodes {
        let ready = ending.ready.iter().find(|(one, _)| one == node);
        let ready = ready.and_then(|(_, at)| *at);
        if let Some(late) = late(ending.healed, ready) {
            report.add(late.told(format!("node {node} was not ready within 30 s of healing")));
        }
    }
    let written: BTreeMap<ChannelIx, Option<Nanos>> = ending.writable.iter().copied().collect();
    let replicas: BTreeMap<ChannelIx, &[u64]> = ending
        .replicas
        .iter()
        .map(|(channel, nodes)| (*channel, &nodes[..]))
        .collect();
    let hashes = Hashes::new(ending);
    for ix in (0..).take(facts.history.channels.len()).map(ChannelIx) {
        if let Some(late) = late(ending.healed, written.get(&ix).copied().flatten()) {
            let what = "no write was acknowledged within 30 s of healing".to_owned();
            report.add(late.told(what).channel(ix));
        }
        for node in &facts.history.nodes {
            if !hashes.logs.contains(&(ix, *node)) {
                let what = format!("node {node} did not give its final log");
                report.add(Anomaly::new(Property::P14, what).channel(ix));
            }
        }
        agree(ix, replicas.get(&ix).copied(), &hashes, report);
    }
}

/// What did not come in time.
struct Late {
    healed: Nanos,
    came: Nanos,
}

impl Late {
    fn told(self, what: String) -> Anomaly {
        Anomaly::new(Property::P14, what).at(self.healed, self.came)
    }
}

fn late(healed: Nanos, came: Option<Nanos>) -> Option<Late> {
    let limit = healed.saturating_add(HEALED_WITHIN);
    match came {
        Some(came) if came <= limit => None,
        Some(came) => Some(Late { healed, came }),
        None => Some(Late {
            healed,
            came: limit,
        }),
    }
}

/// The final logs that were read, and the hashes with them.
struct Hashes<'h> {
    logs: BTreeSet<(ChannelIx, u64)>,
    /// By channel and node: log index and hash.
    given: BTreeMap<(ChannelIx, u64), (u64, &'h str)>,
}

impl<'h> Hashes<'h> {
    fn new(ending: &'h Ending) -> Hashes<'h> {
        let logs = ending.logs.iter();
        Hashes {
            logs: logs.clone().map(|log| (log.channel, log.node)).collect(),
            given: logs
                .filter_map(|log| {
                    let (index, hash) = log.state_hash.as_ref()?;
                    Some(((log.channel, log.node), (*index, hash.as_str())))
                })
                .collect(),
        }
    }
}

fn agree(ix: ChannelIx, replicas: Option<&[u64]>, hashes: &Hashes<'_>, report: &mut Report) {
    let Some(replicas) = replicas else {
        let why = format!("the ending does not say who replicates channel {}", ix.0);
        return report.unchecked.push((Property::P14, why));
    };
    let mut first: BTreeMap<u64, (u64, &str)> = BTreeMap::new();
    let mut compared = 0;
    for node in replicas {
        let Some((index, hash)) = hashes.given.get(&(ix, *node)) else {
            let what = format!("node {node} replicates the channel and gave no state hash");
            report.add(Anomaly::new(Property::P14, what).channel(ix));
            continue;
        };
        match first.get(index) {
            None => {
                first.insert(*index, (*node, hash));
            }
            Some((other, other_hash)) => {
                compared += 1;
                if hash != other_hash {
                    let what = format!(
                        "at log index {index} node {other} has state {other_hash} and node \
                         {node} has {hash}"
                    );
                    report.add(Anomaly::new(Property::P14, what).channel(ix));
                }
            }
        }
    }
    report.figures.state_hashes_compared += compared;
    if compared == 0 && first.len() > 1 {
        let why = format!(
            "no two replicas of channel {} told of the same log index",
            ix.0
        );
        report.unchecked.push((Property::P14, why));
    }
}
