//! P10: a stream is gapless, ordered, without repeats, and all in F.
//!
//! A live stream begins right after the seq of its `hello`; one without `hello` may begin
//! anywhere, but not after a message that was sent once it was connected. Where a resumed stream
//! begins is for P11. Each stream has at most one anomaly of each kind: after a gap everything is
//! off. O((events + messages) log n).

use super::facts::{Channel, Facts, at};
use super::report::{Anomaly, Property, Report};
use crate::history::{Nanos, Stream};

pub fn check(facts: &Facts<'_>, report: &mut Report) {
    for channel in facts.channels.values() {
        let sent = SentLater::new(channel);
        for stream in &channel.streams {
            start(channel, stream, &sent, report);
            steps(channel, stream, report);
            committed(channel, stream, report);
        }
    }
}

fn start(channel: &Channel<'_>, stream: &Stream, sent: &SentLater, report: &mut Report) {
    let (None, Some(first)) = (stream.after, stream.events.first()) else {
        return;
    };
    let seq = first.seen.seq;
    let what = match stream.hello {
        Some(hello) if seq != hello.saturating_add(1) => {
            format!("it said hello with {hello} and began with seq {seq}")
        }
        Some(_) => return,
        None => match stream.connected.and_then(|at| sent.lowest_after(at)) {
            Some(owed) if seq > owed => {
                format!("it began with seq {seq}, and seq {owed} was sent after it was connected")
            }
            _ => return,
        },
    };
    report.add(broken(channel, stream, first.at, what));
}

fn steps(channel: &Channel<'_>, stream: &Stream, report: &mut Report) {
    let mut pairs = stream.events.windows(2);
    let follows = |pair: &[_; 2]| pair[1] == u64::saturating_add(pair[0], 1);
    let found = pairs.find_map(|pair| {
        let seqs = [pair[0].seen.seq, pair[1].seen.seq];
        (!follows(&seqs)).then_some((seqs, pair[1].at))
    });
    if let Some(([former, seq], time)) = found {
        let what = format!("seq {seq} came after seq {former}");
        report.add(broken(channel, stream, time, what));
    }
}

fn committed(channel: &Channel<'_>, stream: &Stream, report: &mut Report) {
    let Some(log) = channel.log() else {
        return;
    };
    let foreign = stream
        .events
        .iter()
        .find(|event| !channel.confirms(&event.seen));
    if let Some(event) = foreign {
        let seen = &event.seen;
        let held = at(log, seen.seq).map_or("nothing".to_owned(), |held| {
            format!("{:?} ({})", held.body, held.id)
        });
        let what = format!(
            "it showed {:?} ({}) at seq {}, where F has {held}",
            seen.body, seen.id, seen.seq
        );
        report.add(broken(channel, stream, event.at, what));
    }
}

fn broken(channel: &Channel<'_>, stream: &Stream, time: Nanos, what: String) -> Anomaly {
    let what = format!("stream {} on node {}: {what}", stream.id, stream.node);
    Anomaly::new(Property::P10, what)
        .channel(channel.ix)
        .at(stream.opened, time)
        .streams([stream.id])
}

/// The lowest seq among the messages that were first sent after some time.
pub struct SentLater {
    /// Times of first invocations in order, each with the lowest seq from there on.
    lowest: Vec<(Nanos, u64)>,
}

impl SentLater {
    pub fn new(channel: &Channel<'_>) -> SentLater {
        let sent = channel.sent.iter().zip(1..);
        let mut lowest: Vec<(Nanos, u64)> = sent
            .filter_map(|(sent, seq)| Some((sent.as_ref()?.at, seq)))
            .collect();
        lowest.sort_unstable();
        let mut least = u64::MAX;
        for (_, seq) in lowest.iter_mut().rev() {
            least = least.min(*seq);
            *seq = least;
        }
        SentLater { lowest }
    }

    pub fn lowest_after(&self, time: Nanos) -> Option<u64> {
        let from = self.lowest.partition_point(|(at, _)| *at <= time);
        self.lowest.get(from).map(|(_, seq)| *seq)
    }
}
