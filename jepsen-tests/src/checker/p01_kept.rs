//! P1: every acknowledged append is in F on every node.
//!
//! O(appends × different final logs); there are as many logs as nodes only if they all differ,
//! which P2 reports.

use super::facts::Facts;
use super::report::{Anomaly, Property, Report};

pub fn check(facts: &Facts<'_>, report: &mut Report) {
    for (channel, logs, _) in facts.with_log() {
        for append in &channel.appends {
            let Some((returned, seen)) = append.ok else {
                continue;
            };
            for log in logs.iter().filter(|log| log.place(&seen.id).is_none()) {
                let what = format!(
                    "the append of {:?} was acknowledged with seq {} and id {}, and {} lost it",
                    append.body,
                    seen.seq,
                    seen.id,
                    log.holders()
                );
                report.add(
                    Anomaly::new(Property::P1, what)
                        .channel(channel.ix)
                        .at(append.operation.invoked, returned)
                        .operations([append.operation.id]),
                );
            }
        }
    }
}
