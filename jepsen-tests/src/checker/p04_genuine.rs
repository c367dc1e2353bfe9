//! P4: F holds nothing that nobody sent and nothing that failed; lists neither.
//!
//! A body whose attempt failed may be there if another attempt with its key may have sent it.
//! Servers and channels are known by their names, which are unique in a run; those of
//! `History::channels` existed before it. O(messages of the different final logs + attempts +
//! entries of lists).

use std::collections::{HashMap, HashSet};

use super::facts::{Append, Channel, Facts, Log};
use super::report::{Anomaly, Property, Report};
use crate::history::{Action, History, Listed, Operation, Outcome, Seen, Value};

pub fn check(facts: &Facts<'_>, report: &mut Report) {
    for (channel, logs, _) in facts.with_log() {
        for log in logs {
            for seen in log.messages {
                message(channel, log, seen, report);
            }
        }
    }
    lists(facts.history, report);
}

fn message(channel: &Channel<'_>, log: &Log<'_>, seen: &Seen, report: &mut Report) {
    // Nobody sends an agent's answers; what they answer is for P16.
    if seen.reply.is_some() || channel.senders(&seen.user, &seen.body).next().is_some() {
        return;
    }
    let failed: Vec<&Append<'_>> = channel.attempts(&seen.user, &seen.body).collect();
    let what = match failed.first().map(|append| &append.operation.outcome) {
        Some(Outcome::Fail { status, why }) => format!(
            "{:?} at seq {} on {} is from an append that failed ({}: {why})",
            seen.body,
            seen.seq,
            log.holders(),
            status.map_or("no status".to_owned(), |status| status.to_string()),
        ),
        _ => format!(
            "nobody sent {:?} of {:?}, which stands at seq {} on {}",
            seen.body,
            seen.user,
            seen.seq,
            log.holders()
        ),
    };
    let from = failed.first().map_or(0, |it| it.operation.invoked);
    let to = failed.iter().filter_map(|it| it.operation.returned).max();
    report.add(
        Anomaly::new(Property::P4, what)
            .channel(channel.ix)
            .at(from, to.unwrap_or(from))
            .operations(failed.iter().map(|it| it.operation.id)),
    );
}

/// How the creations of one name ended.
#[derive(Default)]
struct Creations<'h> {
    ids: Vec<&'h str>,
    unknown: bool,
    failed: Vec<u64>,
}

fn lists(history: &History, report: &mut Report) {
    let before = before_the_run(history);
    let mut creations: HashMap<(Option<&str>, &str), Creations<'_>> = HashMap::new();
    for operation in &history.operations {
        let name = match &operation.action {
            Action::CreateServer { name } => (None, name.as_str()),
            Action::CreateChannel { server, name } => (Some(server.as_str()), name.as_str()),
            Action::Append { .. }
            | Action::Read { .. }
            | Action::ListServers
            | Action::ListChannels { .. } => continue,
        };
        let known = creations.entry(name).or_default();
        match &operation.outcome {
            Outcome::Ok {
                value: Value::Created(id),
            } => known.ids.push(id),
            Outcome::Ok { .. } | Outcome::Info { .. } => known.unknown = true,
            Outcome::Fail { .. } => known.failed.push(operation.id),
        }
    }
    for operation in &history.operations {
        let scope = match &operation.action {
            Action::ListServers => None,
            Action::ListChannels { server } => Some(server.as_str()),
            Action::Append { .. }
            | Action::Read { .. }
            | Action::CreateServer { .. }
            | Action::CreateChannel { .. } => continue,
        };
        let Outcome::Ok {
            value: Value::Listed(listed),
        } = &operation.outcome
        else {
            continue;
        };
        for one in listed
            .iter()
            .filter(|one| !before.contains(one.id.as_str()))
        {
            entry(
                operation,
                one,
                creations.get(&(scope, one.name.as_str())),
                report,
            );
        }
    }
}

fn entry(
    operation: &Operation,
    one: &Listed,
    creations: Option<&Creations<'_>>,
    report: &mut Report,
) {
    let (why, failed) = match creations {
        Some(known) if known.unknown || known.ids.contains(&one.id.as_str()) => return,
        Some(known) if known.ids.is_empty() => ("whose creation failed", &known.failed[..]),
        Some(_) => ("whose creation was answered with another id", &[][..]),
        None => ("which nobody created", &[][..]),
    };
    let what = format!(
        "a list of node {} names {:?} ({}), {why}",
        operation.node, one.name, one.id
    );
    report.add(
        Anomaly::new(Property::P4, what)
            .during(operation)
            .operations(failed.iter().copied().chain([operation.id])),
    );
}

/// Ids of the servers and channels that the run began with.
fn before_the_run(history: &History) -> HashSet<&str> {
    let paths = history.channels.iter();
    paths.flat_map(|path| path.split('/')).collect()
}
