//! Hand-made histories, with little said about what does not matter.

use accord_jepsen::checker::{Property, check};
use accord_jepsen::history::{
    Action, Bite, ChannelIx, Ending, FaultRecord, FinalLog, History, Listed, Nanos, Operation,
    Outcome, Range, Seen, Stream, StreamEnd, StreamEvent, Value, Via,
};

pub const CHANNEL: ChannelIx = ChannelIx(0);
pub const NODES: [u64; 3] = [1, 2, 3];
pub const HEALED: Nanos = 1_000_000;

/// The message that stands at `seq` under the body `m<seq>`.
pub fn m(seq: u64) -> Seen {
    message(seq, &format!("m{seq}"))
}

pub fn message(seq: u64, body: &str) -> Seen {
    Seen {
        seq,
        id: format!("id of {body}"),
        user: "ann".to_owned(),
        body: body.to_owned(),
        timestamp: 1_700_000_000_000 + seq,
        reply: None,
    }
}

/// A history of one channel in which three nodes hold these messages, and nothing was done.
pub fn holding(messages: &[Seen]) -> History {
    History {
        seed: 1,
        nodes: NODES.to_vec(),
        channels: vec!["server/channel".to_owned()],
        ending: Some(Ending {
            healed: HEALED,
            ready: NODES.map(|node| (node, Some(HEALED + 1))).to_vec(),
            writable: vec![(CHANNEL, Some(HEALED + 2))],
            replicas: vec![(CHANNEL, NODES.to_vec())],
            logs: NODES
                .map(|node| FinalLog {
                    channel: CHANNEL,
                    node,
                    messages: messages.to_vec(),
                    state_hash: Some((7, "cafe".to_owned())),
                })
                .to_vec(),
        }),
        ..History::default()
    }
}

/// What is added to a history; each returns the operation or stream for further changes.
pub trait Sketch {
    fn operation(
        &mut self,
        times: (Nanos, Nanos),
        action: Action,
        outcome: Outcome,
    ) -> &mut Operation;
    fn stream(&mut self, times: (Nanos, Nanos), after: Option<u64>, seen: &[Seen]) -> &mut Stream;

    fn append(&mut self, times: (Nanos, Nanos), body: &str, outcome: Outcome) -> &mut Operation {
        let action = Action::Append {
            channel: CHANNEL,
            user: "ann".to_owned(),
            body: body.to_owned(),
            key: None,
            if_head: None,
            via: Via::Rest,
        };
        self.operation(times, action, outcome)
    }

    /// An append that was acknowledged with this message.
    fn appended(&mut self, times: (Nanos, Nanos), seen: &Seen) -> &mut Operation {
        let outcome = ok(Value::Appended(seen.clone()));
        self.append(times, &seen.body, outcome)
    }

    /// A read of the newest hundred.
    fn read(&mut self, times: (Nanos, Nanos), linearizable: bool, seen: &[Seen]) -> &mut Operation {
        let action = Action::Read {
            channel: CHANNEL,
            linearizable,
            range: Range::Latest { limit: 100 },
        };
        let value = Value::Read {
            messages: seen.to_vec(),
            head: seen.last().map_or(0, |last| last.seq),
        };
        self.operation(times, action, ok(value))
    }
}

impl Sketch for History {
    fn operation(
        &mut self,
        (invoked, returned): (Nanos, Nanos),
        action: Action,
        outcome: Outcome,
    ) -> &mut Operation {
        let id = self.operations.len() as u64;
        self.operations.push(Operation {
            id,
            process: id as u32,
            node: 1,
            invoked,
            returned: Some(returned),
            action,
            outcome,
        });
        self.operations.last_mut().expect("one was pushed")
    }

    fn stream(
        &mut self,
        (opened, every): (Nanos, Nanos),
        after: Option<u64>,
        seen: &[Seen],
    ) -> &mut Stream {
        let id = self.streams.len() as u64;
        let times = (1..).map(|place| opened + place * every);
        self.streams.push(Stream {
            id,
            subscriber: id as u32,
            node: 1,
            channel: CHANNEL,
            via: Via::PlainSocket,
            after,
            opened,
            connected: Some(opened),
            hello: None,
            events: seen
                .iter()
                .zip(times)
                .map(|(seen, at)| StreamEvent {
                    at,
                    seen: seen.clone(),
                })
                .collect(),
            ended: None,
            end: StreamEnd::Left,
        });
        self.streams.last_mut().expect("one was pushed")
    }
}

pub fn ok(value: Value) -> Outcome {
    Outcome::Ok { value }
}

pub fn fail(status: u16) -> Outcome {
    Outcome::Fail {
        status: Some(status),
        why: "refused".to_owned(),
    }
}

pub fn info() -> Outcome {
    Outcome::Info {
        status: None,
        why: "late".to_owned(),
    }
}

pub fn listed(names: &[&str]) -> Value {
    let entry = |name: &&str| Listed {
        id: format!("id of {name}"),
        name: (*name).to_owned(),
    };
    Value::Listed(names.iter().map(entry).collect())
}

pub fn fault(kind: &str, began: Nanos, ended: Nanos) -> FaultRecord {
    FaultRecord {
        kind: kind.to_owned(),
        detail: String::new(),
        nodes: vec![1],
        began,
        ended: Some(ended),
        bite: Bite::Yes {
            evidence: "it was seen".to_owned(),
        },
    }
}

/// The properties that a history breaks, and what was said of them.
pub fn broken(history: &History) -> (Vec<Property>, String) {
    let report = check(history);
    assert!(report.unchecked.is_empty(), "{:?}", report.unchecked);
    let told: Vec<String> = report.anomalies.iter().map(ToString::to_string).collect();
    (report.counts.into_keys().collect(), told.join("\n"))
}
