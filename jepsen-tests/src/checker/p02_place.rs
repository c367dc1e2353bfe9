//! P2: an acknowledged seq is the place in F, and all nodes hold the same F.
//!
//! With it go two things that every log owes by the contract: seqs count 1, 2, 3 without a gap,
//! and timestamps never decrease. O(appends + messages of the different final logs).

use super::facts::{Channel, Facts, Log};
use super::report::{Anomaly, Property, Report};
use crate::history::Seen;

pub fn check(facts: &Facts<'_>, report: &mut Report) {
    for (channel, logs, truth) in facts.with_log() {
        for log in logs {
            well_formed(channel, log, report);
        }
        for log in &logs[1..] {
            same(channel, truth, &logs[0], log, report);
        }
        acknowledged(channel, &logs[0], report);
    }
}

/// One broken log has one anomaly: after a gap every seq is off.
fn well_formed(channel: &Channel<'_>, log: &Log<'_>, report: &mut Report) {
    let mut numbered = log.messages.iter().zip(1..);
    if let Some((seen, place)) = numbered.find(|(seen, place)| seen.seq != *place) {
        let what = format!(
            "place {place} of the final log of {} has seq {}",
            log.holders(),
            seen.seq
        );
        report.add(Anomaly::new(Property::P2, what).channel(channel.ix));
    }
    let mut pairs = log.messages.windows(2);
    if let Some([former, later]) = pairs.find(|pair| pair[0].timestamp > pair[1].timestamp) {
        let what = format!(
            "time goes back from {} to {} between seqs {} and {} on {}",
            former.timestamp,
            later.timestamp,
            former.seq,
            later.seq,
            log.holders()
        );
        report.add(Anomaly::new(Property::P2, what).channel(channel.ix));
    }
}

fn same(
    channel: &Channel<'_>,
    truth: &[Seen],
    first: &Log<'_>,
    log: &Log<'_>,
    report: &mut Report,
) {
    let differs = truth
        .iter()
        .zip(log.messages)
        .position(|(one, other)| one != other);
    let place = differs.unwrap_or(truth.len().min(log.messages.len()));
    let show = |messages: &[Seen]| {
        messages.get(place).map_or("nothing".to_owned(), |seen| {
            format!("{:?} ({})", seen.body, seen.id)
        })
    };
    let what = format!(
        "at seq {} {} hold {} and {} hold {}; they have {} and {} messages",
        place + 1,
        first.holders(),
        show(truth),
        log.holders(),
        show(log.messages),
        truth.len(),
        log.messages.len(),
    );
    report.add(Anomaly::new(Property::P2, what).channel(channel.ix));
}

fn acknowledged(channel: &Channel<'_>, log: &Log<'_>, report: &mut Report) {
    for append in &channel.appends {
        let Some((returned, seen)) = append.ok else {
            continue;
        };
        // One that is not there at all is for P1.
        let Some(place) = log.place(&seen.id) else {
            continue;
        };
        let held = &log.messages[place];
        let what = if seen.body != append.body || seen.user != append.user {
            format!(
                "{:?} of {:?} was sent, and the acknowledgement says {:?} of {:?}",
                append.body, append.user, seen.body, seen.user
            )
        } else if seen.seq != place as u64 + 1 {
            format!(
                "the append of {:?} was acknowledged with seq {}, and its place in F is {}",
                append.body,
                seen.seq,
                place + 1
            )
        } else if seen != held && seen.seq == held.seq {
            format!(
                "seq {} was acknowledged as {seen:?} and is {held:?} in F",
                seen.seq
            )
        } else {
            continue;
        };
        report.add(
            Anomaly::new(Property::P2, what)
                .channel(channel.ix)
                .at(append.operation.invoked, returned)
                .operations([append.operation.id]),
        );
    }
}
