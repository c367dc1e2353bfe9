//! The sums of a campaign. Pure: figures of episodes in, sums out.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Verdict;
use crate::checker::{Counts, FaultCounts, Report};
use crate::history::{Bite, History, Nanos, Outcome};

/// Recovery times that are kept to take percentiles of; hours of faults give fewer.
const RECOVERIES_MAX: usize = 500_000;

/// What all episodes so far amount to.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Totals {
    pub episodes: u64,
    pub passed: u64,
    pub failed: u64,
    pub unknown: u64,
    /// By action.
    pub operations: BTreeMap<String, Counts>,
    pub operations_ok: u64,
    pub operations_fail: u64,
    pub operations_info: u64,
    pub appends_acknowledged: u64,
    /// Messages in the final logs.
    pub messages: u64,
    pub streams: u64,
    pub stream_events: u64,
    pub faults: BTreeMap<String, FaultCounts>,
    /// Nodes that lost their power, each counted every time.
    pub power_cuts: u64,
    /// Pairs of replicas whose state hashes were compared.
    pub state_hashes_compared: u64,
    pub recovery: Percentiles,
    pub recovery_by_fault: BTreeMap<String, Percentiles>,
    /// The longest time that a channel was written to and acknowledged nothing.
    pub write_gap_longest_ms: u64,
    /// The faults during it.
    pub write_gap_longest_during: Vec<String>,
    pub anomalies: BTreeMap<String, u64>,
    /// In milliseconds; not written out, but summed up in `recovery`.
    #[serde(skip)]
    samples: Vec<Sample>,
}

#[derive(Debug, Clone)]
struct Sample {
    fault: String,
    ms: u32,
}

/// Of recovery times: from a fault's end to the first acknowledgement on a channel of an append
/// that was invoked after it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Percentiles {
    pub count: u64,
    pub p50_ms: u64,
    pub p99_ms: u64,
    pub max_ms: u64,
}

impl Totals {
    pub fn add(&mut self, verdict: Verdict, history: &History, report: &Report) {
        self.episodes += 1;
        match verdict {
            Verdict::Passed => self.passed += 1,
            Verdict::Failed => self.failed += 1,
            Verdict::Unknown => self.unknown += 1,
        }
        let figures = &report.figures;
        for (action, counts) in &figures.operations {
            let sum = self.operations.entry(action.clone()).or_default();
            sum.ok += counts.ok;
            sum.fail += counts.fail;
            sum.info += counts.info;
            self.operations_ok += counts.ok;
            self.operations_fail += counts.fail;
            self.operations_info += counts.info;
        }
        self.appends_acknowledged += figures.appended_ok;
        self.messages += figures.messages;
        self.streams += figures.streams;
        self.stream_events += figures.stream_events;
        self.state_hashes_compared += figures.state_hashes_compared;
        for (kind, counts) in &figures.faults {
            let sum = self.faults.entry(kind.clone()).or_default();
            sum.bit += counts.bit;
            sum.missed += counts.missed;
        }
        self.power_cuts += power_cuts(history);
        for (property, count) in &report.counts {
            *self.anomalies.entry(property.to_string()).or_default() += count;
        }
        if let Some(gap) = &figures.write_gap_longest {
            let gap_ms = gap.length() / 1_000_000;
            if gap_ms > self.write_gap_longest_ms {
                self.write_gap_longest_ms = gap_ms;
                self.write_gap_longest_during = faults_during(history, gap.from, gap.to);
            }
        }
        let room = RECOVERIES_MAX.saturating_sub(self.samples.len());
        self.samples.extend(recoveries(history).take(room));
        self.sum_up();
    }

    /// An episode that could not be run to its end proves nothing.
    pub fn add_unjudged(&mut self) {
        self.episodes += 1;
        self.unknown += 1;
    }

    fn sum_up(&mut self) {
        self.recovery = percentiles(self.samples.iter().map(|sample| sample.ms).collect());
        let mut by_fault: BTreeMap<String, Vec<u32>> = BTreeMap::new();
        for sample in &self.samples {
            by_fault
                .entry(sample.fault.clone())
                .or_default()
                .push(sample.ms);
        }
        self.recovery_by_fault = by_fault
            .into_iter()
            .map(|(fault, times)| (fault, percentiles(times)))
            .collect();
    }

    /// What all episodes together prove: a kind of fault that never bit proves nothing.
    pub fn verdict(&self) -> Verdict {
        let toothless = self.faults.values().any(|counts| counts.bit == 0);
        if self.failed > 0 {
            Verdict::Failed
        } else if self.passed == 0 || toothless {
            Verdict::Unknown
        } else {
            Verdict::Passed
        }
    }
}

/// Nodes that lost power, by the records of faults that took effect.
fn power_cuts(history: &History) -> u64 {
    let cuts = history
        .faults
        .iter()
        .filter(|fault| matches!(fault.bite, Bite::Yes { .. }));
    cuts.map(|fault| match fault.kind.as_str() {
        // NATS's combination pauses two nodes and cuts the power of one.
        "nats" => 1,
        kind if kind.starts_with("power_loss") => fault.nodes.len() as u64,
        _ => 0,
    })
    .sum()
}

fn faults_during(history: &History, from: Nanos, to: Nanos) -> Vec<String> {
    let mut kinds: Vec<String> = history
        .faults
        .iter()
        .filter(|fault| fault.began <= to && fault.ended.is_none_or(|ended| ended >= from))
        .map(|fault| fault.kind.clone())
        .collect();
    kinds.sort();
    kinds.dedup();
    kinds
}

/// For each fault that bit and ended, and each channel: the time until an append that was invoked
/// after its end was acknowledged.
fn recoveries(history: &History) -> impl Iterator<Item = Sample> {
    use crate::history::Action;
    // Of each channel, invocations and returns of acknowledged appends; in order of invocation,
    // with the earliest return from there on.
    let mut channels: BTreeMap<u32, Vec<(Nanos, Nanos)>> = BTreeMap::new();
    for operation in &history.operations {
        if let (Action::Append { channel, .. }, Outcome::Ok { .. }, Some(returned)) =
            (&operation.action, &operation.outcome, operation.returned)
        {
            channels
                .entry(channel.0)
                .or_default()
                .push((operation.invoked, returned));
        }
    }
    for appends in channels.values_mut() {
        appends.sort_unstable();
        let mut earliest = Nanos::MAX;
        for (_, returned) in appends.iter_mut().rev() {
            earliest = earliest.min(*returned);
            *returned = earliest;
        }
    }
    let mut samples = Vec::new();
    for fault in &history.faults {
        let (Bite::Yes { .. }, Some(ended)) = (&fault.bite, fault.ended) else {
            continue;
        };
        for appends in channels.values() {
            let place = appends.partition_point(|(invoked, _)| *invoked < ended);
            if let Some((_, returned)) = appends.get(place) {
                let ms = (returned - ended) / 1_000_000;
                samples.push(Sample {
                    fault: fault.kind.clone(),
                    ms: u32::try_from(ms).unwrap_or(u32::MAX),
                });
            }
        }
    }
    samples.into_iter()
}

/// The smallest time that so many percent do not exceed.
pub fn percentiles(mut times: Vec<u32>) -> Percentiles {
    times.sort_unstable();
    let at = |percent: usize| -> u64 {
        let place = (times.len() * percent).div_ceil(100).max(1) - 1;
        times.get(place).copied().map_or(0, u64::from)
    };
    Percentiles {
        count: times.len() as u64,
        p50_ms: at(50),
        p99_ms: at(99),
        max_ms: times.last().copied().map_or(0, u64::from),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Action, ChannelIx, FaultRecord, Operation, Seen, Value, Via};

    const MS: Nanos = 1_000_000;

    fn append(id: u64, channel: u32, invoked_ms: u64, returned_ms: u64) -> Operation {
        Operation {
            id,
            process: 0,
            node: 1,
            invoked: invoked_ms * MS,
            returned: Some(returned_ms * MS),
            action: Action::Append {
                channel: ChannelIx(channel),
                user: "u".to_owned(),
                body: id.to_string(),
                key: None,
                if_head: None,
                via: Via::Rest,
            },
            outcome: Outcome::Ok {
                value: Value::Appended(Seen {
                    seq: id,
                    id: id.to_string(),
                    user: "u".to_owned(),
                    body: id.to_string(),
                    timestamp: 0,
                    reply: None,
                }),
            },
        }
    }

    fn fault(kind: &str, nodes: &[u64], ended_ms: u64, bit: bool) -> FaultRecord {
        let evidence = String::new();
        FaultRecord {
            kind: kind.to_owned(),
            detail: String::new(),
            nodes: nodes.to_vec(),
            began: 0,
            ended: Some(ended_ms * MS),
            bite: if bit {
                Bite::Yes { evidence }
            } else {
                Bite::No { evidence }
            },
        }
    }

    fn history() -> History {
        History {
            operations: vec![
                append(1, 0, 50, 400),
                // Invoked first, but a later one is acknowledged before it.
                append(2, 0, 110, 500),
                append(3, 0, 120, 130),
                append(4, 1, 150, 170),
            ],
            faults: vec![
                fault("power_loss_majority", &[1, 2], 100, true),
                fault("nats", &[1, 2, 3], 10_000, true),
                fault("power_loss", &[1], 100, false),
            ],
            ..History::default()
        }
    }

    #[test]
    fn recovery_is_measured_by_appends_invoked_after_the_end() {
        let mut samples: Vec<(String, u32)> = recoveries(&history())
            .map(|sample| (sample.fault, sample.ms))
            .collect();
        samples.sort();
        let name = "power_loss_majority".to_owned();
        assert_eq!(samples, [(name.clone(), 30), (name, 70)]);
    }

    #[test]
    fn power_cuts_count_nodes_that_were_cut() {
        assert_eq!(power_cuts(&history()), 3);
    }

    #[test]
    fn percentiles_are_times_that_occurred() {
        assert_eq!(percentiles(Vec::new()), Percentiles::default());
        let hundred = percentiles((1..=100).collect());
        assert_eq!(
            (hundred.p50_ms, hundred.p99_ms, hundred.max_ms),
            (50, 99, 100)
        );
        let one = percentiles(vec![7]);
        assert_eq!((one.count, one.p50_ms, one.p99_ms), (1, 7, 7));
    }

    #[test]
    fn a_campaign_sums_its_episodes_and_judges_them_together() {
        let mut report = Report::default();
        report.figures.appended_ok = 4;
        report.figures.operations.insert(
            "append".to_owned(),
            Counts {
                ok: 4,
                fail: 1,
                info: 2,
            },
        );
        let counts = FaultCounts { bit: 1, missed: 1 };
        report.figures.faults.insert("kill".to_owned(), counts);
        let mut totals = Totals::default();
        assert_eq!(totals.verdict(), Verdict::Unknown, "nothing was run");
        totals.add(Verdict::Passed, &history(), &report);
        totals.add(Verdict::Unknown, &history(), &report);
        assert_eq!(totals.verdict(), Verdict::Passed);
        assert_eq!((totals.appends_acknowledged, totals.power_cuts), (8, 6));
        assert_eq!((totals.operations_ok, totals.operations_info), (8, 4));
        assert_eq!(totals.recovery.count, 4);
        assert_eq!(totals.faults["kill"].missed, 2);

        let mut toothless = report.clone();
        let never = FaultCounts { bit: 0, missed: 3 };
        toothless.figures.faults.insert("pause".to_owned(), never);
        totals.add(Verdict::Unknown, &history(), &toothless);
        assert_eq!(totals.verdict(), Verdict::Unknown);
        totals.add(Verdict::Failed, &history(), &report);
        assert_eq!(totals.verdict(), Verdict::Failed);
    }
}
