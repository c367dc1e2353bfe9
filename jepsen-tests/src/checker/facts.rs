//! A history put in order once, so that every property is a walk over sorted data.
//!
//! `F`, the final log of a channel, is the log that most nodes hold; of equally many the longest.
//! That the others differ from it is for P2 to say. Invariant: a point in a [`Frontier`] is one
//! that F confirms, so one wrong answer is reported by the property that it breaks and does not
//! make right answers look wrong.
//!
//! Building takes O(n log n) in operations, events and messages.

use std::collections::{BTreeMap, HashMap};

use crate::history::{
    Action, ChannelIx, History, Nanos, Operation, Outcome, Range, Seen, Stream, Value,
};

pub struct Facts<'h> {
    pub history: &'h History,
    pub channels: BTreeMap<ChannelIx, Channel<'h>>,
}

/// What concerns one channel.
#[derive(Default)]
pub struct Channel<'h> {
    pub ix: ChannelIx,
    /// The different final logs; the first is F. Empty if the history has none.
    pub logs: Vec<Log<'h>>,
    /// In order of invocation, as are the others.
    pub appends: Vec<Append<'h>>,
    pub reads: Vec<Read<'h>>,
    pub streams: Vec<&'h Stream>,
    /// Places in `appends` of the attempts to send a body.
    attempts: HashMap<(&'h str, &'h str), Vec<usize>>,
    /// For each message of F, the first invocation that can have sent it; none if there is none.
    pub sent: Vec<Option<Sent>>,
    /// How far the channel was known to go, by acknowledgements, reads and streams.
    pub seen: Frontier,
}

/// A final log, and who holds it.
pub struct Log<'h> {
    pub nodes: Vec<u64>,
    pub messages: &'h [Seen],
    /// Places by id. The first, where an id occurs twice.
    places: HashMap<&'h str, usize>,
}

pub struct Append<'h> {
    pub operation: &'h Operation,
    pub user: &'h str,
    pub body: &'h str,
    pub key: Option<&'h str>,
    pub if_head: Option<u64>,
    /// The acknowledgement and when it came.
    pub ok: Option<(Nanos, &'h Seen)>,
}

/// A read that was answered.
pub struct Read<'h> {
    pub operation: &'h Operation,
    pub returned: Nanos,
    pub linearizable: bool,
    pub range: Range,
    pub messages: &'h [Seen],
    pub head: u64,
}

/// The earliest attempt at a message.
#[derive(Clone, Copy)]
pub struct Sent {
    pub at: Nanos,
    pub operation: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Operation(u64),
    Stream(u64),
}

/// Somebody saw a channel reach `point`.
#[derive(Debug, Clone, Copy)]
pub struct Sight {
    pub at: Nanos,
    pub point: u64,
    pub source: Source,
}

/// The highest point seen so far, at any time.
#[derive(Debug, Default)]
pub struct Frontier {
    /// Times and points both rise.
    steps: Vec<Sight>,
}

impl Frontier {
    pub fn new(mut sights: Vec<Sight>) -> Frontier {
        sights.sort_by_key(|sight| sight.at);
        let mut steps: Vec<Sight> = Vec::new();
        for sight in sights {
            if steps.last().is_none_or(|last| last.point < sight.point) {
                steps.push(sight);
            }
        }
        Frontier { steps }
    }

    /// The furthest that was seen before `time`. What was seen at that very moment is not before.
    pub fn before(&self, time: Nanos) -> Option<&Sight> {
        let until = self.steps.partition_point(|sight| sight.at < time);
        self.steps[..until].last()
    }
}

impl<'h> Facts<'h> {
    pub fn new(history: &'h History) -> Facts<'h> {
        let mut channels: BTreeMap<ChannelIx, Channel<'h>> = BTreeMap::new();
        for ix in (0..).take(history.channels.len()).map(ChannelIx) {
            channels.entry(ix).or_default();
        }
        for operation in &history.operations {
            match &operation.action {
                Action::Append {
                    channel,
                    user,
                    body,
                    key,
                    if_head,
                    ..
                } => channels.entry(*channel).or_default().appends.push(Append {
                    operation,
                    user,
                    body,
                    key: key.as_deref(),
                    if_head: *if_head,
                    ok: acknowledged(operation),
                }),
                Action::Read {
                    channel,
                    linearizable,
                    range,
                } => {
                    let channel = channels.entry(*channel).or_default();
                    channel.reads.extend(read(operation, *linearizable, *range));
                }
                Action::CreateServer { .. }
                | Action::CreateChannel { .. }
                | Action::ListServers
                | Action::ListChannels { .. } => {}
            }
        }
        for stream in &history.streams {
            channels
                .entry(stream.channel)
                .or_default()
                .streams
                .push(stream);
        }
        for log in history.ending.iter().flat_map(|ending| &ending.logs) {
            channels
                .entry(log.channel)
                .or_default()
                .hold(log.node, &log.messages);
        }
        for (ix, channel) in &mut channels {
            channel.ix = *ix;
            channel.settle();
        }
        Facts { history, channels }
    }

    /// Channels whose F is known.
    pub fn with_log(&self) -> impl Iterator<Item = (&Channel<'h>, &[Log<'h>], &'h [Seen])> {
        self.channels.values().filter_map(|channel| {
            let first = channel.logs.first()?;
            Some((channel, &channel.logs[..], first.messages))
        })
    }
}

fn acknowledged(operation: &Operation) -> Option<(Nanos, &Seen)> {
    match (&operation.outcome, operation.returned) {
        (
            Outcome::Ok {
                value: Value::Appended(seen),
            },
            Some(at),
        ) => Some((at, seen)),
        _ => None,
    }
}

fn read(operation: &Operation, linearizable: bool, range: Range) -> Option<Read<'_>> {
    match (&operation.outcome, operation.returned) {
        (
            Outcome::Ok {
                value: Value::Read { messages, head },
            },
            Some(returned),
        ) => Some(Read {
            operation,
            returned,
            linearizable,
            range,
            messages,
            head: *head,
        }),
        _ => None,
    }
}

impl<'h> Log<'h> {
    pub fn place(&self, id: &str) -> Option<usize> {
        self.places.get(id).copied()
    }

    /// The nodes in words.
    pub fn holders(&self) -> String {
        let nodes: Vec<String> = self.nodes.iter().map(u64::to_string).collect();
        match nodes.len() {
            1 => format!("node {}", nodes[0]),
            _ => format!("nodes {}", nodes.join(", ")),
        }
    }
}

impl<'h> Channel<'h> {
    /// F, if it is known.
    pub fn log(&self) -> Option<&'h [Seen]> {
        self.logs.first().map(|log| log.messages)
    }

    /// The attempts to send a body, in order of invocation.
    pub fn attempts<'a>(
        &'a self,
        user: &'a str,
        body: &'a str,
    ) -> impl Iterator<Item = &'a Append<'h>> {
        let places = self
            .attempts
            .get(&(user, body))
            .map_or(&[][..], Vec::as_slice);
        places.iter().map(|place| &self.appends[*place])
    }

    /// The attempts that may have sent it.
    pub fn senders<'a>(
        &'a self,
        user: &'a str,
        body: &'a str,
    ) -> impl Iterator<Item = &'a Append<'h>> {
        self.attempts(user, body)
            .filter(|append| !matches!(append.operation.outcome, Outcome::Fail { .. }))
    }

    fn hold(&mut self, node: u64, messages: &'h [Seen]) {
        match self.logs.iter_mut().find(|log| log.messages == messages) {
            Some(log) => log.nodes.push(node),
            None => self.logs.push(Log {
                nodes: vec![node],
                messages,
                places: HashMap::new(),
            }),
        }
    }

    fn settle(&mut self) {
        self.logs.sort_by_key(|log| {
            let held = log.nodes.len();
            std::cmp::Reverse((held, log.messages.len()))
        });
        for log in &mut self.logs {
            log.places.reserve(log.messages.len());
            for (place, seen) in log.messages.iter().enumerate() {
                log.places.entry(&seen.id).or_insert(place);
            }
        }
        self.appends.sort_by_key(|append| append.operation.invoked);
        self.reads.sort_by_key(|read| read.operation.invoked);
        self.streams.sort_by_key(|stream| stream.opened);
        for (place, append) in self.appends.iter().enumerate() {
            let same = self.attempts.entry((append.user, append.body));
            same.or_default().push(place);
        }
        let log = self.log().unwrap_or_default();
        self.sent = log
            .iter()
            .map(|seen| {
                let first = self.senders(&seen.user, &seen.body).next()?;
                Some(Sent {
                    at: first.operation.invoked,
                    operation: first.operation.id,
                })
            })
            .collect();
        self.seen = Frontier::new(self.sights());
    }

    fn sights(&self) -> Vec<Sight> {
        let appends = self.appends.iter().filter_map(|append| self.own(append));
        let reads = self.reads.iter().filter_map(|read| {
            let confirmed = self.log().is_none_or(|log| read.head <= log.len() as u64);
            confirmed.then_some(Sight {
                at: read.returned,
                point: read.head,
                source: Source::Operation(read.operation.id),
            })
        });
        let events = self.streams.iter().flat_map(|stream| {
            let confirmed = stream
                .events
                .iter()
                .filter(|event| self.confirms(&event.seen));
            confirmed.map(|event| Sight {
                at: event.at,
                point: event.seen.seq,
                source: Source::Stream(stream.id),
            })
        });
        appends.chain(reads).chain(events).collect()
    }

    /// What an acknowledgement tells of the channel, where F confirms it.
    pub fn own(&self, append: &Append<'h>) -> Option<Sight> {
        let (at, seen) = append.ok?;
        let answered = seen.body == append.body && self.confirms(seen);
        let point = answered.then_some(seen.seq)?;
        Some(Sight {
            at,
            point,
            source: Source::Operation(append.operation.id),
        })
    }

    /// Whether F holds this message at its seq, or F is not known.
    pub fn confirms(&self, seen: &Seen) -> bool {
        let Some(log) = self.log() else {
            return true;
        };
        at(log, seen.seq) == Some(seen)
    }
}

/// The message at a seq.
pub fn at(log: &[Seen], seq: u64) -> Option<&Seen> {
    let place = usize::try_from(seq.checked_sub(1)?).ok()?;
    log.get(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frontier_knows_only_what_came_before() {
        let sight = |at, point| Sight {
            at,
            point,
            source: Source::Stream(0),
        };
        let frontier = Frontier::new(vec![sight(5, 3), sight(2, 4), sight(9, 6), sight(9, 8)]);
        let before = |time| frontier.before(time).map(|sight| sight.point);
        assert_eq!(before(2), None);
        assert_eq!(before(3), Some(4));
        assert_eq!(
            before(9),
            Some(4),
            "a lower point does not hide a higher one"
        );
        assert_eq!(before(10), Some(8));
    }
}
