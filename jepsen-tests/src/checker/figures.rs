//! What a history amounts to in numbers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::facts::{Channel, Facts};
use crate::history::{Action, Bite, ChannelIx, FaultRecord, History, Nanos, Operation, Outcome};

/// The numbers of a run. All times are nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figures {
    /// By action: `append`, `append_if`, `read`, `read_stale`, `create_server`, `create_channel`,
    /// `list_servers`, `list_channels`.
    pub operations: BTreeMap<String, Counts>,
    /// Acknowledged appends; acknowledgements of retries count too.
    pub appended_ok: u64,
    /// Messages in the final logs of all channels, each counted once.
    pub messages: u64,
    pub streams: u64,
    pub stream_events: u64,
    /// For each channel that was sent to, the longest time without an acknowledgement while
    /// appends were being attempted.
    pub write_gaps: Vec<Gap>,
    /// The longest of `write_gaps`.
    pub write_gap_longest: Option<Gap>,
    /// From the end of a fault that bit to the first acknowledgement of an append invoked after
    /// it, for each such fault and each channel that was sent to again.
    pub recovery: Spread,
    /// The same by kind of fault.
    pub recovery_by_fault: BTreeMap<String, Spread>,
    /// The longest write gap of each channel that overlaps a fault that bit, by kind of fault.
    pub gap_by_fault: BTreeMap<String, Spread>,
    /// By kind.
    pub faults: BTreeMap<String, FaultCounts>,
    /// Pairs of replicas whose state hashes were of the same log index, so that P14 compared them.
    pub state_hashes_compared: u64,
}

/// How operations ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    pub ok: u64,
    pub fail: u64,
    /// Operations that never returned among them.
    pub info: u64,
}

/// A time without an acknowledged append.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    pub channel: ChannelIx,
    pub from: Nanos,
    pub to: Nanos,
}

impl Gap {
    pub fn length(&self) -> Nanos {
        self.to.saturating_sub(self.from)
    }
}

/// How a set of times is spread. A percentile is the smallest of the times that at least so many
/// percent of them do not exceed; all are zero where `count` is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spread {
    pub count: u64,
    pub p50: Nanos,
    pub p99: Nanos,
    pub max: Nanos,
}

/// Faults of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultCounts {
    /// Those that took effect.
    pub bit: u64,
    /// Those that did not.
    pub missed: u64,
}

impl Spread {
    pub fn of(mut times: Vec<Nanos>) -> Spread {
        times.sort_unstable();
        let percentile = |percent: usize| {
            let rank = (times.len() * percent).div_ceil(100).max(1);
            times.get(rank - 1).copied().unwrap_or(0)
        };
        Spread {
            count: times.len() as u64,
            p50: percentile(50),
            p99: percentile(99),
            max: times.last().copied().unwrap_or(0),
        }
    }
}

/// O(n log n), and for each fault O(channels × log n).
pub(super) fn count(facts: &Facts<'_>) -> Figures {
    let history = facts.history;
    let mut figures = Figures {
        streams: history.streams.len() as u64,
        stream_events: history
            .streams
            .iter()
            .map(|it| it.events.len() as u64)
            .sum(),
        messages: facts.with_log().map(|(_, _, log)| log.len() as u64).sum(),
        ..Figures::default()
    };
    for operation in &history.operations {
        figures.count(operation);
    }
    figures.write_gaps_and_recovery(facts);
    for fault in &history.faults {
        let counts = figures.faults.entry(fault.kind.clone()).or_default();
        match fault.bite {
            Bite::Yes { .. } => counts.bit += 1,
            Bite::No { .. } => counts.missed += 1,
        }
    }
    figures
}

impl Figures {
    fn count(&mut self, operation: &Operation) {
        let name = match &operation.action {
            Action::Append { if_head: None, .. } => "append",
            Action::Append {
                if_head: Some(_), ..
            } => "append_if",
            Action::Read {
                linearizable: true, ..
            } => "read",
            Action::Read {
                linearizable: false,
                ..
            } => "read_stale",
            Action::CreateServer { .. } => "create_server",
            Action::CreateChannel { .. } => "create_channel",
            Action::ListServers => "list_servers",
            Action::ListChannels { .. } => "list_channels",
        };
        let counts = self.operations.entry(name.to_owned()).or_default();
        match operation.outcome {
            Outcome::Ok { .. } => {
                counts.ok += 1;
                self.appended_ok += u64::from(name.starts_with("append"));
            }
            Outcome::Fail { .. } => counts.fail += 1,
            Outcome::Info { .. } => counts.info += 1,
        }
    }

    fn write_gaps_and_recovery(&mut self, facts: &Facts<'_>) {
        let mut recovery: BTreeMap<&str, Vec<Nanos>> = BTreeMap::new();
        let mut stalls: BTreeMap<&str, Vec<Nanos>> = BTreeMap::new();
        for channel in facts.channels.values() {
            let gaps = Gaps::new(channel);
            self.write_gaps.extend(gaps.longest(channel.ix));
            let acknowledged = Acknowledged::new(channel);
            for fault in bitten(facts.history) {
                let kind = fault.kind.as_str();
                if let Some(ended) = fault.ended
                    && let Some(at) = acknowledged.first_invoked_after(ended)
                {
                    recovery
                        .entry(kind)
                        .or_default()
                        .push(at.saturating_sub(ended));
                }
                let until = fault.ended.unwrap_or(Nanos::MAX);
                if let Some(stall) = gaps.longest_over(fault.began, until) {
                    stalls.entry(kind).or_default().push(stall);
                }
            }
        }
        self.write_gap_longest = self.write_gaps.iter().copied().max_by_key(Gap::length);
        self.recovery = Spread::of(recovery.values().flatten().copied().collect());
        let spreads = |times: BTreeMap<&str, Vec<Nanos>>| {
            let spread = |(kind, times): (&str, _)| (kind.to_owned(), Spread::of(times));
            times.into_iter().map(spread).collect()
        };
        self.recovery_by_fault = spreads(recovery);
        self.gap_by_fault = spreads(stalls);
    }
}

fn bitten(history: &History) -> impl Iterator<Item = &FaultRecord> {
    let faults = history.faults.iter();
    faults.filter(|fault| matches!(fault.bite, Bite::Yes { .. }))
}

/// The times between acknowledgements of a channel, without those in which nobody tried.
struct Gaps {
    /// Neither beginnings nor ends decrease.
    gaps: Vec<(Nanos, Nanos)>,
    /// `tallest[level][place]` is the longest of the 2^level gaps from `place` on.
    tallest: Vec<Vec<Nanos>>,
}

impl Gaps {
    /// A gap begins with the last acknowledgement, or with the next attempt if none was under way
    /// then; it ends with the next acknowledgement, or with the last attempt that ended. Attempts
    /// that never returned count at their invocation only.
    fn new(channel: &Channel<'_>) -> Gaps {
        #[derive(PartialEq, Eq, PartialOrd, Ord)]
        enum Step {
            Begun,
            Failed,
            Acknowledged,
        }
        let mut steps = Vec::new();
        for append in &channel.appends {
            let operation = append.operation;
            let Some(returned) = operation.returned else {
                continue;
            };
            steps.push((operation.invoked, Step::Begun));
            let end = match append.ok {
                Some(_) => Step::Acknowledged,
                None => Step::Failed,
            };
            steps.push((returned, end));
        }
        steps.sort_unstable();
        let mut gaps = Vec::new();
        let mut under_way = 0_u64;
        let mut since = None;
        let mut last = 0;
        for (at, step) in steps {
            last = at;
            if step == Step::Begun {
                under_way += 1;
                since.get_or_insert(at);
                continue;
            }
            under_way = under_way.saturating_sub(1);
            if step == Step::Acknowledged {
                if let Some(since) = since {
                    gaps.push((since, at));
                }
                since = (under_way > 0).then_some(at);
            }
        }
        if let Some(since) = since {
            gaps.push((since, last));
        }
        let mut tallest = vec![gaps.iter().map(|(from, to)| to - from).collect::<Vec<_>>()];
        let mut width = 1;
        while let Some(below) = tallest.last().filter(|below| below.len() > width) {
            let pairs = below.iter().zip(&below[width..]);
            let level = pairs.map(|(one, other)| *one.max(other)).collect();
            tallest.push(level);
            width *= 2;
        }
        Gaps { gaps, tallest }
    }

    fn longest(&self, channel: ChannelIx) -> Option<Gap> {
        let longest = self.gaps.iter().max_by_key(|(from, to)| to - from);
        longest.map(|&(from, to)| Gap { channel, from, to })
    }

    /// The longest gap that overlaps a time.
    fn longest_over(&self, from: Nanos, until: Nanos) -> Option<Nanos> {
        let first = self.gaps.partition_point(|(_, to)| *to < from);
        let end = self.gaps.partition_point(|(since, _)| *since <= until);
        let count = end.checked_sub(first).filter(|count| *count > 0)?;
        let level = count.ilog2() as usize;
        let gaps = &self.tallest[level];
        Some(gaps[first].max(gaps[end - (1 << level)]))
    }
}

/// When appends were acknowledged, by their invocation.
struct Acknowledged {
    /// Invocations in order, each with the earliest acknowledgement from there on.
    earliest: Vec<(Nanos, Nanos)>,
}

impl Acknowledged {
    fn new(channel: &Channel<'_>) -> Acknowledged {
        let appends = channel.appends.iter();
        let mut earliest: Vec<(Nanos, Nanos)> = appends
            .filter_map(|append| Some((append.operation.invoked, append.ok?.0)))
            .collect();
        let mut least = Nanos::MAX;
        for (_, returned) in earliest.iter_mut().rev() {
            least = least.min(*returned);
            *returned = least;
        }
        Acknowledged { earliest }
    }

    fn first_invoked_after(&self, time: Nanos) -> Option<Nanos> {
        let from = self
            .earliest
            .partition_point(|(invoked, _)| *invoked <= time);
        self.earliest.get(from).map(|(_, returned)| *returned)
    }
}
