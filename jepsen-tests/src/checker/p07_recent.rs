//! P7: a linearizable read sees all that was seen before it began.
//!
//! For messages: its head is at least every point that an acknowledgement, a read of either kind
//! or an event of a stream showed before its invocation. For the directory: a list names every
//! server or channel whose creation was acknowledged, or that another list named, before; and
//! nothing that is known to exist is answered with 404.
//!
//! O((reads + entries of lists) log n).

use std::collections::{HashMap, HashSet};

use super::facts::{Channel, Facts, Source};
use super::report::{Anomaly, Property, Report};
use crate::history::{Action, History, Nanos, Operation, Outcome, Value};

const NOT_FOUND: u16 = 404;

pub fn check(facts: &Facts<'_>, report: &mut Report) {
    for channel in facts.channels.values() {
        messages(channel, report);
    }
    let directory = Directory::new(facts.history);
    for operation in &facts.history.operations {
        match (&operation.action, &operation.outcome) {
            (
                Action::ListServers | Action::ListChannels { .. },
                Outcome::Ok {
                    value: Value::Listed(_),
                },
            ) => directory.list(operation, report),
            (
                _,
                Outcome::Fail {
                    status: Some(NOT_FOUND),
                    ..
                },
            ) => directory.not_found(operation, report),
            _ => {}
        }
    }
}

fn messages(channel: &Channel<'_>, report: &mut Report) {
    for read in channel.reads.iter().filter(|read| read.linearizable) {
        let invoked = read.operation.invoked;
        let Some(sight) = channel.seen.before(invoked) else {
            continue;
        };
        if sight.point <= read.head {
            continue;
        }
        let what = format!(
            "a linearizable read on node {} ends at seq {}, and seq {} had been seen before it \
             began",
            read.operation.node, read.head, sight.point
        );
        let anomaly = Anomaly::new(Property::P7, what)
            .channel(channel.ix)
            .at(sight.at, read.returned);
        report.add(match sight.source {
            Source::Operation(id) => anomaly.operations([id, read.operation.id]),
            Source::Stream(id) => anomaly.operations([read.operation.id]).streams([id]),
        });
    }
}

/// What a list is of: all servers, or the channels of one.
type Scope<'h> = Option<&'h str>;

/// Something that exists.
#[derive(Clone, Copy)]
struct Known<'h> {
    since: Nanos,
    id: &'h str,
    /// The operation that told.
    told: u64,
}

struct Directory<'h> {
    history: &'h History,
    /// By the time since when it is known.
    entries: HashMap<Scope<'h>, Vec<Known<'h>>>,
    since: HashMap<&'h str, Nanos>,
}

impl<'h> Directory<'h> {
    fn new(history: &'h History) -> Directory<'h> {
        let mut first: HashMap<(Scope<'h>, &'h str), Known<'h>> = HashMap::new();
        let mut note = |scope, id, since, told| {
            let known = first
                .entry((scope, id))
                .or_insert(Known { since, id, told });
            if since < known.since {
                *known = Known { since, id, told };
            }
        };
        for operation in &history.operations {
            let (Outcome::Ok { value }, Some(returned)) = (&operation.outcome, operation.returned)
            else {
                continue;
            };
            match (&operation.action, value) {
                (Action::CreateServer { .. }, Value::Created(id)) => {
                    note(None, id, returned, operation.id);
                }
                (Action::CreateChannel { server, .. }, Value::Created(id)) => {
                    note(Some(server), id, returned, operation.id);
                }
                (Action::ListServers, Value::Listed(listed)) => {
                    for one in listed {
                        note(None, &one.id, returned, operation.id);
                    }
                }
                (Action::ListChannels { server }, Value::Listed(listed)) => {
                    for one in listed {
                        note(Some(server), &one.id, returned, operation.id);
                    }
                }
                _ => {}
            }
        }
        let mut entries: HashMap<Scope<'h>, Vec<Known<'h>>> = HashMap::new();
        let mut since = HashMap::new();
        for ((scope, id), known) in first {
            entries.entry(scope).or_default().push(known);
            since.insert(id, known.since);
        }
        for known in entries.values_mut() {
            known.sort_by_key(|one| (one.since, one.told, one.id));
        }
        Directory {
            history,
            entries,
            since,
        }
    }

    /// One anomaly for each list, of the first that it misses: so the walk is no longer than the
    /// list itself.
    fn list(&self, operation: &Operation, report: &mut Report) {
        let (scope, listed) = match (&operation.action, &operation.outcome) {
            (
                Action::ListServers,
                Outcome::Ok {
                    value: Value::Listed(listed),
                },
            ) => (None, listed),
            (
                Action::ListChannels { server },
                Outcome::Ok {
                    value: Value::Listed(listed),
                },
            ) => (Some(server.as_str()), listed),
            _ => return,
        };
        let known = self.entries.get(&scope).map_or(&[][..], Vec::as_slice);
        let ids: HashSet<&str> = listed.iter().map(|one| one.id.as_str()).collect();
        let before = known.iter().take_while(|one| one.since < operation.invoked);
        if let Some(missed) = before.into_iter().find(|one| !ids.contains(one.id)) {
            let what = format!(
                "a list of node {} lacks {}, which was known before it began",
                operation.node, missed.id
            );
            report.add(
                Anomaly::new(Property::P7, what)
                    .at(
                        missed.since,
                        operation.returned.unwrap_or(operation.invoked),
                    )
                    .operations([missed.told, operation.id]),
            );
        }
    }

    fn not_found(&self, operation: &Operation, report: &mut Report) {
        let (name, channel) = match &operation.action {
            Action::Append { channel, .. } | Action::Read { channel, .. } => {
                let name = self.history.channels.get(channel.0 as usize);
                // All channels that messages go to exist before the run.
                let Some(name) = name else {
                    return;
                };
                (name.as_str(), Some(*channel))
            }
            Action::CreateChannel { server, .. } | Action::ListChannels { server } => {
                let known = self.since.get(server.as_str());
                if known.is_none_or(|since| *since >= operation.invoked) {
                    return;
                }
                (server.as_str(), None)
            }
            Action::CreateServer { .. } | Action::ListServers => return,
        };
        let what = format!(
            "node {} answers that {name} does not exist, and it does",
            operation.node
        );
        let anomaly = Anomaly::new(Property::P7, what)
            .during(operation)
            .operations([operation.id]);
        report.add(match channel {
            Some(channel) => anomaly.channel(channel),
            None => anomaly,
        });
    }
}
