//! What a run says: lines for a terminal, pictures for a failure.

pub mod chart;
mod svg;
pub mod timeline;

use crate::checker::{Anomaly, Report};
use crate::history::{Bite, History};
use crate::run::totals::{Percentiles, Totals};
use timeline::Mark;

/// Anomalies that are told in words, and drawn; more of them seldom tell more.
pub const ANOMALIES_TOLD_MAX: usize = 12;

/// The picture's subject, of an anomaly.
pub fn mark(anomaly: &Anomaly) -> Mark {
    Mark {
        title: format!("{}: {}", anomaly.property, anomaly.property.statement()),
        what: anomaly.what.clone(),
        at: anomaly.at,
        channel: anomaly.channel,
        operations: anomaly.operations.clone(),
        streams: anomaly.streams.clone(),
    }
}

/// A few lines about one history.
pub fn lines(history: &History, report: &Report) -> Vec<String> {
    let figures = &report.figures;
    let mut lines = Vec::new();
    let (mut ok, mut fail, mut info) = (0, 0, 0);
    for counts in figures.operations.values() {
        ok += counts.ok;
        fail += counts.fail;
        info += counts.info;
    }
    lines.push(format!(
        "operations: {ok} ok, {fail} fail, {info} unknown; {} appends acknowledged, {} messages",
        figures.appended_ok, figures.messages
    ));
    lines.push(format!(
        "streams: {} with {} messages; state hashes compared: {}",
        figures.streams, figures.stream_events, figures.state_hashes_compared
    ));
    for fault in &history.faults {
        let seconds = |at: u64| at as f64 / 1e9;
        let until = fault.ended.map_or_else(
            || "the end".to_owned(),
            |at| format!("{:.1} s", seconds(at)),
        );
        let (bit, evidence) = match &fault.bite {
            Bite::Yes { evidence } => ("bit", evidence),
            Bite::No { evidence } => ("DID NOT BITE", evidence),
        };
        lines.push(format!(
            "fault {} of {:?}, {:.1} s to {until}: {}; {bit}: {evidence}",
            fault.kind,
            fault.nodes,
            seconds(fault.began),
            fault.detail
        ));
    }
    let ms = |ns: u64| ns / 1_000_000;
    lines.push(format!(
        "recovery: p50 {} ms, p99 {} ms, longest {} ms of {}; longest write gap {} ms",
        ms(figures.recovery.p50),
        ms(figures.recovery.p99),
        ms(figures.recovery.max),
        figures.recovery.count,
        figures
            .write_gap_longest
            .as_ref()
            .map_or(0, |gap| ms(gap.length())),
    ));
    for (property, count) in &report.counts {
        lines.push(format!(
            "BROKEN {property} ({}): {count} times",
            property.statement()
        ));
    }
    for anomaly in report.anomalies.iter().take(ANOMALIES_TOLD_MAX) {
        lines.push(format!("  {anomaly}"));
    }
    for (property, why) in &report.unchecked {
        lines.push(format!("not checked: {property}: {why}"));
    }
    lines
}

/// A few lines about a campaign.
pub fn campaign_lines(totals: &Totals) -> Vec<String> {
    let mut lines = vec![
        format!(
            "episodes: {} ({} passed, {} failed, {} unknown)",
            totals.episodes, totals.passed, totals.failed, totals.unknown
        ),
        format!(
            "operations: {} ok, {} fail, {} unknown; {} appends acknowledged",
            totals.operations_ok,
            totals.operations_fail,
            totals.operations_info,
            totals.appends_acknowledged
        ),
        format!("power cuts: {}", totals.power_cuts),
        format!("recovery: {}", spread(&totals.recovery)),
        format!(
            "longest write gap: {} ms, during {}",
            totals.write_gap_longest_ms,
            if totals.write_gap_longest_during.is_empty() {
                "no fault".to_owned()
            } else {
                totals.write_gap_longest_during.join(", ")
            }
        ),
    ];
    for (kind, counts) in &totals.faults {
        let recovery = totals
            .recovery_by_fault
            .get(kind)
            .map_or_else(String::new, |it| format!("; recovery {}", spread(it)));
        lines.push(format!(
            "fault {kind}: bit {}, did not bite {}{recovery}",
            counts.bit, counts.missed
        ));
    }
    for (property, count) in &totals.anomalies {
        lines.push(format!("BROKEN {property}: {count} times"));
    }
    lines
}

fn spread(times: &Percentiles) -> String {
    format!(
        "p50 {} ms, p99 {} ms, longest {} ms of {}",
        times.p50_ms, times.p99_ms, times.max_ms, times.count
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::FaultRecord;

    #[test]
    fn a_fault_that_did_not_bite_stands_out() {
        let history = History {
            faults: vec![FaultRecord {
                kind: "pause".to_owned(),
                detail: "node 2".to_owned(),
                nodes: vec![2],
                began: 1_500_000_000,
                ended: None,
                bite: Bite::No {
                    evidence: "it was dead".to_owned(),
                },
            }],
            ..History::default()
        };
        let lines = lines(&history, &Report::default());
        let told = lines
            .iter()
            .find(|line| line.starts_with("fault pause"))
            .unwrap();
        assert_eq!(
            told,
            "fault pause of [2], 1.5 s to the end: node 2; DID NOT BITE: it was dead"
        );
    }

    #[test]
    fn a_campaign_tells_what_was_broken() {
        let mut totals = Totals::default();
        totals.anomalies.insert("P3".to_owned(), 2);
        assert!(campaign_lines(&totals).contains(&"BROKEN P3: 2 times".to_owned()));
    }
}
