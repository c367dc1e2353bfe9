//! P11: a stream resumed after seq n, on any node, goes on with n + 1, or says that history is
//! gone, and then it is.
//!
//! O(streams).

use super::facts::{Channel, Facts};
use super::report::{Anomaly, Property, Report};
use crate::history::{Stream, StreamEnd};

/// Close code: what comes after the resumption point is no longer kept.
const GONE: u16 = 4410;
/// Close code: there is no such channel.
const NO_CHANNEL: u16 = 4404;

pub fn check(facts: &Facts<'_>, report: &mut Report) {
    for channel in facts.channels.values() {
        for stream in &channel.streams {
            if let Some(what) = wrong(channel, stream) {
                let last = stream.events.first().map(|event| event.at);
                let until = last.or(stream.ended).unwrap_or(stream.opened);
                let what = format!("stream {} on node {} {what}", stream.id, stream.node);
                report.add(
                    Anomaly::new(Property::P11, what)
                        .channel(channel.ix)
                        .at(stream.opened, until)
                        .streams([stream.id]),
                );
            }
        }
    }
}

fn wrong(channel: &Channel<'_>, stream: &Stream) -> Option<String> {
    let next = stream.after.map(|after| after.saturating_add(1));
    if let (Some(next), Some(first)) = (next, stream.events.first()) {
        let seq = first.seen.seq;
        if seq != next {
            return Some(format!("was to go on with seq {next} and began with {seq}"));
        }
    }
    match stream.end {
        StreamEnd::Closed {
            code: Some(GONE), ..
        } => {
            let oldest = channel.log()?.first().map_or(1, |seen| seen.seq);
            let at = stream
                .events
                .last()
                .map(|event| event.seen.seq.saturating_add(1));
            let wanted = at.or(next).unwrap_or(oldest);
            (oldest <= wanted)
                .then(|| format!("was told that seq {wanted} is gone, and F begins with {oldest}"))
        }
        StreamEnd::Closed {
            code: Some(NO_CHANNEL),
            ..
        } => Some("was told that its channel does not exist, and it does".to_owned()),
        StreamEnd::Open | StreamEnd::Left | StreamEnd::Closed { .. } | StreamEnd::Broken { .. } => {
            None
        }
    }
}
