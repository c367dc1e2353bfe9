//! P16: every reply in F answers a command in F.
//!
//! An agent that speaks without having been asked would be a job without its message: the two are
//! made in one commit. O(messages of the different final logs).

use std::collections::HashSet;

use super::facts::Facts;
use super::report::{Anomaly, Property, Report};

pub fn check(facts: &Facts<'_>, report: &mut Report) {
    for (channel, logs, _) in facts.with_log() {
        for log in logs {
            let commands: HashSet<&str> = log
                .messages
                .iter()
                .filter(|seen| seen.command().is_some())
                .map(|seen| seen.id.as_str())
                .collect();
            for seen in log.messages {
                let Some(reply) = &seen.reply else {
                    continue;
                };
                if reply.to.as_deref().is_some_and(|to| commands.contains(to)) {
                    continue;
                }
                let what = format!(
                    "{:?} said {:?} at seq {} on {} in answer to {:?}, which is no command there",
                    reply.agent,
                    seen.body,
                    seen.seq,
                    log.holders(),
                    reply.to
                );
                report.add(Anomaly::new(Property::P16, what).channel(channel.ix));
            }
        }
    }
}
