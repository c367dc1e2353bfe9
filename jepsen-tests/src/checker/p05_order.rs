//! P5: what was sent after something was seen comes after it.
//!
//! If X (an acknowledgement, a read, an event of a stream) showed a channel up to some seq and
//! returned before the first attempt at message Y was invoked, then Y's seq is greater. This holds
//! for Y of unknown outcome too, once it is in F.
//!
//! Conditional appends are part of the order: a message sent with `If-Match: n` has seq n + 1, and
//! a refusal of the condition is wrong if the head was n all the while.
//!
//! O((messages + appends) log n), by looking each invocation up among the points seen so far.

use super::facts::{Append, Channel, Facts, Source};
use super::report::{Anomaly, Property, Report};
use crate::history::{Outcome, Seen};

/// The status of a condition that does not hold.
const PRECONDITION_FAILED: u16 = 412;

pub fn check(facts: &Facts<'_>, report: &mut Report) {
    for channel in facts.channels.values() {
        match channel.log() {
            Some(log) => {
                after_what_was_seen(channel, log, report);
                conditions(channel, log, report);
                refusals(channel, log, report);
            }
            None => acknowledged_only(channel, report),
        }
    }
}

fn after_what_was_seen(channel: &Channel<'_>, log: &[Seen], report: &mut Report) {
    for ((seen, sent), seq) in log.iter().zip(&channel.sent).zip(1..) {
        let Some(sent) = sent else {
            continue;
        };
        late(channel, &seen.body, seq, sent.at, sent.operation, report);
    }
}

/// Without F, acknowledgements tell the places. An attempt with a key may have been answered with
/// the message of an earlier one, so the first attempt at the body counts.
fn acknowledged_only(channel: &Channel<'_>, report: &mut Report) {
    for append in &channel.appends {
        let Some((_, seen)) = append.ok else {
            continue;
        };
        if let Some(first) = channel.senders(append.user, append.body).next() {
            let first = first.operation;
            late(
                channel,
                append.body,
                seen.seq,
                first.invoked,
                first.id,
                report,
            );
        }
    }
}

fn late(
    channel: &Channel<'_>,
    body: &str,
    seq: u64,
    sent: u64,
    operation: u64,
    report: &mut Report,
) {
    let Some(sight) = channel.seen.before(sent).filter(|sight| sight.point >= seq) else {
        return;
    };
    let what = format!(
        "{body:?} has seq {seq}, and seq {} had been seen before it was sent",
        sight.point
    );
    let anomaly = Anomaly::new(Property::P5, what)
        .channel(channel.ix)
        .at(sight.at, sent);
    report.add(match sight.source {
        Source::Operation(id) => anomaly.operations([id, operation]),
        Source::Stream(id) => anomaly.operations([operation]).streams([id]),
    });
}

fn conditions(channel: &Channel<'_>, log: &[Seen], report: &mut Report) {
    for (seen, head) in log.iter().zip(0..) {
        let mut senders = channel.senders(&seen.user, &seen.body).peekable();
        let Some(first) = senders.peek().map(|append| append.operation) else {
            continue;
        };
        let mut ids = Vec::new();
        let fits = senders.any(|append| {
            ids.push(append.operation.id);
            append.if_head.is_none_or(|expected| expected == head)
        });
        if !fits {
            let what = format!(
                "{:?} was sent for another head and stands after seq {head}",
                seen.body
            );
            report.add(
                Anomaly::new(Property::P5, what)
                    .channel(channel.ix)
                    .during(first)
                    .operations(ids),
            );
        }
    }
}

fn refusals(channel: &Channel<'_>, log: &[Seen], report: &mut Report) {
    for append in &channel.appends {
        let Some((expected, returned)) = refused(append) else {
            continue;
        };
        let invoked = append.operation.invoked;
        let was_there = match expected {
            0 => true,
            _ => channel
                .seen
                .before(invoked)
                .is_some_and(|it| it.point == expected),
        };
        // The next message cannot have been there before it was sent.
        let next = usize::try_from(expected)
            .ok()
            .map(|place| channel.sent.get(place));
        let still_there = match next {
            Some(Some(Some(sent))) => sent.at > returned,
            Some(Some(None)) => false,
            Some(None) | None => expected == log.len() as u64,
        };
        if was_there && still_there {
            let what = format!(
                "{:?} was refused because the head was not {expected}, and it was",
                append.body
            );
            report.add(
                Anomaly::new(Property::P5, what)
                    .channel(channel.ix)
                    .at(invoked, returned)
                    .operations([append.operation.id]),
            );
        }
    }
}

/// The head that was asked for, and when it was refused.
fn refused(append: &Append<'_>) -> Option<(u64, u64)> {
    match append.operation.outcome {
        Outcome::Fail {
            status: Some(PRECONDITION_FAILED),
            ..
        } => Some((append.if_head?, append.operation.returned?)),
        _ => None,
    }
}
