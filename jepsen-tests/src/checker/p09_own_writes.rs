//! P9: a linearizable read on any node sees the reader's own writes.
//!
//! Own are the appends of the same process, and of the users whose name the process sent with.
//! P7 says more, since it knows of everybody's writes; this one tells which reader was deceived.
//! O((appends + reads) log n).

use std::collections::{BTreeSet, HashMap};

use super::facts::{Channel, Facts, Frontier, Sight, Source};
use super::report::{Anomaly, Property, Report};

/// More names of one process than this are not looked at: what is checked stays true.
const USERS_PER_PROCESS_MAX: usize = 8;

#[derive(PartialEq, Eq, Hash)]
enum Writer<'h> {
    Process(u32),
    User(&'h str),
}

pub fn check(facts: &Facts<'_>, report: &mut Report) {
    let mut users: HashMap<u32, BTreeSet<&str>> = HashMap::new();
    for append in facts.channels.values().flat_map(|channel| &channel.appends) {
        let names = users.entry(append.operation.process).or_default();
        if names.len() < USERS_PER_PROCESS_MAX {
            names.insert(append.user);
        }
    }
    for channel in facts.channels.values() {
        reads(channel, &users, report);
    }
}

fn reads(channel: &Channel<'_>, users: &HashMap<u32, BTreeSet<&str>>, report: &mut Report) {
    let mut written: HashMap<Writer<'_>, Vec<Sight>> = HashMap::new();
    for append in &channel.appends {
        if let Some(sight) = channel.own(append) {
            let process = Writer::Process(append.operation.process);
            for writer in [process, Writer::User(append.user)] {
                written.entry(writer).or_default().push(sight);
            }
        }
    }
    let written: HashMap<Writer<'_>, Frontier> = written
        .into_iter()
        .map(|(writer, sights)| (writer, Frontier::new(sights)))
        .collect();
    for read in channel.reads.iter().filter(|read| read.linearizable) {
        let operation = read.operation;
        let names = users.get(&operation.process).into_iter().flatten();
        let own = std::iter::once(Writer::Process(operation.process))
            .chain(names.map(|user| Writer::User(user)))
            .filter_map(|writer| written.get(&writer)?.before(operation.invoked))
            .max_by_key(|sight| sight.point);
        let Some(sight) = own.filter(|sight| sight.point > read.head) else {
            continue;
        };
        let what = format!(
            "process {} wrote seq {} and then read node {} up to seq {} only",
            operation.process, sight.point, operation.node, read.head
        );
        let write = match sight.source {
            Source::Operation(id) => Some(id),
            Source::Stream(_) => None,
        };
        report.add(
            Anomaly::new(Property::P9, what)
                .channel(channel.ix)
                .at(sight.at, read.returned)
                .operations(write.into_iter().chain([operation.id])),
        );
    }
}
