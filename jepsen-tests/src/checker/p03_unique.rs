//! P3: F holds nothing twice; lists neither.
//!
//! An id is never given twice, and a body is in the log once, however often it was tried, while
//! the contract remembers its key. Agents may say the same again; how often they answer is for P15. O(messages of the different final logs + entries of lists).

use std::collections::{HashMap, HashSet};

use super::KEYS_REMEMBERED;
use super::facts::{Channel, Facts, Log};
use super::report::{Anomaly, Property, Report};
use crate::history::{Outcome, Value};

pub fn check(facts: &Facts<'_>, report: &mut Report) {
    for (channel, logs, _) in facts.with_log() {
        for log in logs {
            bodies(channel, log, report);
        }
    }
    lists(facts, report);
}

fn bodies(channel: &Channel<'_>, log: &Log<'_>, report: &mut Report) {
    let mut known = HashMap::with_capacity(log.messages.len());
    for (place, seen) in log.messages.iter().enumerate() {
        let twice_given = log.place(&seen.id).is_some_and(|first| first != place);
        let former = match seen.reply {
            Some(_) => None,
            None => known.insert((seen.user.as_str(), seen.body.as_str()), place),
        };
        let what = match former {
            Some(former) if place - former <= KEYS_REMEMBERED => format!(
                "{:?} stands at {} and again at {} on {}",
                seen.body,
                former + 1,
                place + 1,
                log.holders()
            ),
            _ if twice_given => format!(
                "the message at {} on {} has the id {} of an earlier one",
                place + 1,
                log.holders(),
                seen.id
            ),
            _ => continue,
        };
        let attempts: Vec<_> = channel.attempts(&seen.user, &seen.body).collect();
        let from = attempts.first().map_or(0, |it| it.operation.invoked);
        let to = attempts.iter().filter_map(|it| it.operation.returned).max();
        report.add(
            Anomaly::new(Property::P3, what)
                .channel(channel.ix)
                .at(from, to.unwrap_or(from))
                .operations(attempts.iter().map(|it| it.operation.id)),
        );
    }
}

fn lists(facts: &Facts<'_>, report: &mut Report) {
    for operation in &facts.history.operations {
        let Outcome::Ok {
            value: Value::Listed(listed),
        } = &operation.outcome
        else {
            continue;
        };
        let mut known = HashSet::with_capacity(listed.len());
        if let Some(twice) = listed.iter().find(|one| !known.insert(&one.id)) {
            let what = format!(
                "a list of node {} names {:?} ({}) twice",
                operation.node, twice.name, twice.id
            );
            report.add(
                Anomaly::new(Property::P3, what)
                    .during(operation)
                    .operations([operation.id]),
            );
        }
    }
}
