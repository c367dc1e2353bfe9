//! P12: after healing every stream reaches the head.
//!
//! A stream that is still open when the run ends owes every message of F that was acknowledged
//! before the stream ended, and all of F if its end has no time. So does the last stream of a
//! subscriber that was cut off after healing and did not get back. O((streams + appends) log n).

use std::collections::HashMap;

use super::facts::{Channel, Facts};
use super::p10_stream::SentLater;
use super::report::{Anomaly, Property, Report};
use crate::history::{Nanos, Stream, StreamEnd};

pub fn check(facts: &Facts<'_>, report: &mut Report) {
    let Some(ending) = &facts.history.ending else {
        return;
    };
    for (channel, _, _) in facts.with_log() {
        let sent = SentLater::new(channel);
        let mut last: HashMap<u32, u64> = HashMap::new();
        for stream in &channel.streams {
            last.insert(stream.subscriber, stream.id);
        }
        for stream in &channel.streams {
            let owes = match stream.end {
                StreamEnd::Open => true,
                StreamEnd::Left => false,
                StreamEnd::Closed { .. } | StreamEnd::Broken { .. } => {
                    last[&stream.subscriber] == stream.id
                        && stream.ended.is_some_and(|at| at >= ending.healed)
                }
            };
            if owes {
                reaches(channel, stream, &sent, ending.healed, report);
            }
        }
    }
}

fn reaches(
    channel: &Channel<'_>,
    stream: &Stream,
    sent: &SentLater,
    healed: Nanos,
    report: &mut Report,
) {
    let head = channel.log().map_or(0, |log| log.len() as u64);
    let owed = match stream.ended {
        None => head,
        Some(ended) => channel.seen.before(ended).map_or(0, |sight| sight.point),
    };
    let events = stream.events.last().map(|event| event.seen.seq);
    let reached = match events.or(stream.after).or(stream.hello) {
        Some(seq) => seq,
        // Live and silent: it owes what was sent once it was connected, and nothing older.
        None => match stream.connected.and_then(|at| sent.lowest_after(at)) {
            Some(missed) => missed - 1,
            None => return,
        },
    };
    if reached >= owed {
        return;
    }
    let what = format!(
        "stream {} on node {} got no further than seq {reached}, and the head is {owed}",
        stream.id, stream.node
    );
    report.add(
        Anomaly::new(Property::P12, what)
            .channel(channel.ix)
            .at(healed, stream.ended.unwrap_or(healed))
            .streams([stream.id]),
    );
}
