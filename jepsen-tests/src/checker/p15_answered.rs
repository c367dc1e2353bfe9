//! P15: every command in F has one reply, after it, by the agent that it calls.
//!
//! However often an attempt failed, and whoever led the channel meanwhile: an agent that gave up says
//! so in a reply too. Looked at after the run, when nothing is under way any more. O(messages of the
//! different final logs).

use std::collections::HashMap;

use super::facts::{Channel, Facts, Log};
use super::report::{Anomaly, Property, Report};
use crate::history::Seen;

pub fn check(facts: &Facts<'_>, report: &mut Report) {
    for (channel, logs, _) in facts.with_log() {
        for log in logs {
            answers(channel, log, report);
        }
    }
}

fn answers(channel: &Channel<'_>, log: &Log<'_>, report: &mut Report) {
    let mut replies: HashMap<&str, Vec<&Seen>> = HashMap::new();
    for seen in log.messages {
        if let Some(to) = seen.reply.as_ref().and_then(|reply| reply.to.as_deref()) {
            replies.entry(to).or_default().push(seen);
        }
    }
    for command in log.messages {
        let Some(agent) = command.command() else {
            continue;
        };
        let replies = replies
            .get(command.id.as_str())
            .map_or(&[][..], Vec::as_slice);
        let what = match replies {
            [] => "has no reply".to_owned(),
            [reply] if reply.seq < command.seq => {
                format!("has its reply at seq {}, before it", reply.seq)
            }
            [reply] => match &reply.reply {
                Some(by) if by.agent != agent => format!("was answered by {:?}", by.agent),
                _ => continue,
            },
            several => {
                let seqs: Vec<u64> = several.iter().map(|reply| reply.seq).collect();
                format!("has {} replies, at the seqs {seqs:?}", several.len())
            }
        };
        report.add(anomaly(channel, log, command, &what));
    }
}

fn anomaly(channel: &Channel<'_>, log: &Log<'_>, command: &Seen, what: &str) -> Anomaly {
    let attempts: Vec<_> = channel.attempts(&command.user, &command.body).collect();
    let from = attempts.first().map_or(0, |it| it.operation.invoked);
    let to = attempts.iter().filter_map(|it| it.operation.returned).max();
    let (body, seq) = (&command.body, command.seq);
    let what = format!(
        "the command {body:?} at seq {seq} on {} {what}",
        log.holders()
    );
    Anomaly::new(Property::P15, what)
        .channel(channel.ix)
        .at(from, to.unwrap_or(from))
        .operations(attempts.iter().map(|it| it.operation.id))
}
