//! Histories of a system that cannot be wrong: one log per channel, in one place.
//!
//! Clients of all kinds take turns at random. Each operation takes effect, if it does, at one
//! moment between its invocation and its end, and one of unknown outcome at any time after its
//! invocation. Nodes follow the logs at their own pace, and forget what they applied when power
//! fails. Only what such a system shows is in these histories, and everything it can show is meant
//! to turn up in some.

use std::collections::{BTreeMap, HashMap};

use accord_jepsen::Rng;
use accord_jepsen::history::{
    Action, Bite, ChannelIx, Ending, FaultRecord, FinalLog, History, Listed, Nanos, Operation,
    Outcome, Range, Seen, Stream, StreamEnd, StreamEvent, Value, Via,
};

use crate::sketch::{fail, info, ok};

const CHANNELS: usize = 2;
const CLIENTS: usize = 6;
const SUBSCRIBERS: usize = 4;
const NODES: usize = 3;
const STEPS: usize = 900;

/// A history of some hundred operations; the same seed gives the same one.
pub fn run(seed: u64) -> History {
    let mut system = System::new(seed);
    for _ in 0..STEPS {
        system.step();
    }
    system.end()
}

struct System {
    rng: Rng,
    now: Nanos,
    history: History,
    logs: Vec<Vec<Seen>>,
    /// What each node has applied of each channel.
    applied: Vec<Vec<usize>>,
    /// Answers by channel, user and key.
    keys: HashMap<(u32, String, String), Seen>,
    servers: Vec<Listed>,
    clients: Vec<Client>,
    /// Operations that nobody waits for any more and that may still take effect.
    stray: Vec<usize>,
    /// The open stream of each subscriber, and how far it got on each channel.
    subscribers: Vec<Subscriber>,
    processes: u32,
    bodies: u64,
    clock: u64,
}

#[derive(Default)]
struct Client {
    process: u32,
    /// The operation under way, and what it came to once it took effect.
    pending: Option<(usize, Option<Outcome>)>,
    /// The last append that had a key.
    last: Option<Action>,
}

#[derive(Default)]
struct Subscriber {
    open: Option<(usize, usize)>,
    seen: BTreeMap<u32, u64>,
}

impl System {
    fn new(seed: u64) -> System {
        System {
            rng: Rng::new(seed),
            now: 0,
            history: History {
                seed,
                nodes: (1..=NODES as u64).collect(),
                channels: (0..CHANNELS).map(|ix| format!("server/{ix}")).collect(),
                ..History::default()
            },
            logs: vec![Vec::new(); CHANNELS],
            applied: vec![vec![0; CHANNELS]; NODES],
            keys: HashMap::new(),
            servers: vec![Listed {
                id: "server".into(),
                name: "server".into(),
            }],
            clients: (0..CLIENTS as u32)
                .map(|process| Client {
                    process,
                    ..Client::default()
                })
                .collect(),
            stray: Vec::new(),
            subscribers: (0..SUBSCRIBERS).map(|_| Subscriber::default()).collect(),
            processes: CLIENTS as u32,
            bodies: 0,
            clock: 1_700_000_000_000,
        }
    }

    fn below(&mut self, bound: usize) -> usize {
        self.rng.below(bound as u64) as usize
    }

    fn one_in(&mut self, many: usize) -> bool {
        self.below(many) == 0
    }

    fn step(&mut self) {
        self.now += 1 + self.rng.below(20);
        match self.below(20) {
            0..12 => self.client(),
            12..16 => self.subscriber(),
            16..19 => self.apply(),
            _ if self.one_in(8) => self.power_loss(),
            _ => self.late_effect(),
        }
    }

    fn apply(&mut self) {
        let (node, channel) = (self.below(NODES), self.below(CHANNELS));
        let behind = self.logs[channel].len() - self.applied[node][channel];
        self.applied[node][channel] += self.below(behind + 1);
    }

    fn power_loss(&mut self) {
        let node = self.below(NODES);
        let began = self.now;
        self.now += 10;
        for channel in 0..CHANNELS {
            self.applied[node][channel] = self.below(self.applied[node][channel] + 1);
        }
        for subscriber in 0..SUBSCRIBERS {
            let open = self.subscribers[subscriber].open;
            if open.is_some_and(|(_, at)| at == node) {
                let why = "reset".to_owned();
                self.close(subscriber, StreamEnd::Broken { why });
            }
        }
        self.now += 10;
        self.history.faults.push(FaultRecord {
            kind: "power_loss".into(),
            detail: String::new(),
            nodes: vec![node as u64 + 1],
            began,
            ended: Some(self.now),
            bite: Bite::Yes {
                evidence: String::new(),
            },
        });
    }

    fn late_effect(&mut self) {
        if !self.stray.is_empty() {
            let place = self.below(self.stray.len());
            let operation = self.stray.swap_remove(place);
            self.effect(operation);
        }
    }

    fn client(&mut self) {
        let client = self.below(CLIENTS);
        match self.clients[client].pending.take() {
            None => self.invoke(client),
            Some((operation, None)) => match self.below(8) {
                0 => self.give_up(client, operation, true),
                1 => self.complete(operation, fail(503)),
                _ => {
                    let outcome = self.effect(operation);
                    self.clients[client].pending = Some((operation, Some(outcome)));
                }
            },
            Some((operation, Some(outcome))) => match self.below(8) {
                0 => self.give_up(client, operation, false),
                _ => self.complete(operation, outcome),
            },
        }
    }

    fn invoke(&mut self, client: usize) {
        let action = self.action(client);
        let node = self.below(NODES) as u64 + 1;
        let operation = self.history.operations.len();
        self.history.operations.push(Operation {
            id: operation as u64,
            process: self.clients[client].process,
            node,
            invoked: self.now,
            returned: None,
            action,
            outcome: info(),
        });
        self.clients[client].pending = Some((operation, None));
    }

    fn action(&mut self, client: usize) -> Action {
        let channel = ChannelIx(self.below(CHANNELS) as u32);
        let head = self.logs[channel.0 as usize].len();
        match self.below(20) {
            0..7 => self.append(client, channel, None),
            7..9 => {
                let if_head = head + self.below(2);
                self.append(client, channel, Some(if_head as u64))
            }
            9..11 => match self.clients[client].last.clone() {
                Some(again) => again,
                None => self.append(client, channel, None),
            },
            11..18 => {
                let limit = 1 + self.rng.below(30) as u32;
                let seq = self.rng.below(head as u64 + 2);
                Action::Read {
                    channel,
                    linearizable: self.one_in(2),
                    range: match self.below(4) {
                        0 => Range::After { seq, limit },
                        1 => Range::Before { seq, limit },
                        2 => Range::Latest { limit: 1_000 },
                        _ => Range::Latest { limit },
                    },
                }
            }
            18 => Action::CreateServer {
                name: format!("name {}", self.history.operations.len()),
            },
            _ => Action::ListServers,
        }
    }

    fn append(&mut self, client: usize, channel: ChannelIx, if_head: Option<u64>) -> Action {
        self.bodies += 1;
        let keyed = self.one_in(2);
        let action = Action::Append {
            channel,
            user: format!("user {client}"),
            body: format!("body {}", self.bodies),
            key: keyed.then(|| format!("key {}", self.bodies)),
            if_head,
            via: Via::Rest,
        };
        if keyed {
            self.clients[client].last = Some(action.clone());
        }
        action
    }

    /// What the operation does now, and its answer.
    fn effect(&mut self, operation: usize) -> Outcome {
        let Operation { action, node, .. } = self.history.operations[operation].clone();
        match action {
            Action::Append {
                channel,
                user,
                body,
                key,
                if_head,
                ..
            } => {
                let place = key.map(|key| (channel.0, user.clone(), key));
                if let Some(answer) = place.as_ref().and_then(|place| self.keys.get(place)) {
                    return match answer.body == body {
                        true => ok(Value::Appended(answer.clone())),
                        false => fail(422),
                    };
                }
                let head = self.logs[channel.0 as usize].len() as u64;
                if if_head.is_some_and(|expected| expected != head) {
                    return fail(412);
                }
                self.clock += self.rng.below(3);
                let seen = Seen {
                    seq: head + 1,
                    id: format!("id {} {}", channel.0, head + 1),
                    user,
                    body,
                    timestamp: self.clock,
                    reply: None,
                };
                self.logs[channel.0 as usize].push(seen.clone());
                if let Some(place) = place {
                    self.keys.insert(place, seen.clone());
                }
                ok(Value::Appended(seen))
            }
            Action::Read {
                channel,
                linearizable,
                range,
            } => {
                let channel = channel.0 as usize;
                let applied = &mut self.applied[node as usize - 1][channel];
                if linearizable {
                    *applied = self.logs[channel].len();
                }
                let log = &self.logs[channel][..*applied];
                let kept = |seen: &&Seen| match range {
                    Range::Latest { .. } => true,
                    Range::After { seq, .. } => seen.seq > seq,
                    Range::Before { seq, .. } => seen.seq < seq,
                };
                let mut messages: Vec<Seen> = log.iter().filter(kept).cloned().collect();
                match range {
                    Range::After { limit, .. } => messages.truncate(limit as usize),
                    Range::Latest { limit } | Range::Before { limit, .. } => {
                        let extra = messages.len().saturating_sub(limit as usize);
                        messages.drain(..extra);
                    }
                }
                ok(Value::Read {
                    messages,
                    head: log.len() as u64,
                })
            }
            Action::CreateServer { name } => {
                let id = format!("id of {name}");
                self.servers.push(Listed {
                    id: id.clone(),
                    name,
                });
                ok(Value::Created(id))
            }
            Action::ListServers => ok(Value::Listed(self.servers.clone())),
            Action::CreateChannel { .. } | Action::ListChannels { .. } => fail(503),
        }
    }

    fn complete(&mut self, operation: usize, outcome: Outcome) {
        let operation = &mut self.history.operations[operation];
        operation.returned = Some(self.now);
        operation.outcome = outcome;
    }

    /// The client goes on as another process; what it asked for may happen later.
    fn give_up(&mut self, client: usize, operation: usize, may_happen: bool) {
        if self.one_in(2) {
            self.complete(operation, info());
        }
        if may_happen {
            self.stray.push(operation);
        }
        self.clients[client].process = self.processes;
        self.processes += 1;
    }

    fn subscriber(&mut self) {
        let subscriber = self.below(SUBSCRIBERS);
        let open = self.subscribers[subscriber].open;
        match open {
            None => self.open(subscriber),
            Some(_) if self.one_in(25) => self.close(subscriber, StreamEnd::Left),
            Some((stream, node)) => self.deliver(subscriber, stream, node, false),
        }
    }

    fn open(&mut self, subscriber: usize) {
        let (node, channel) = (self.below(NODES), self.below(CHANNELS));
        let ix = ChannelIx(channel as u32);
        let seen = self.subscribers[subscriber].seen.get(&ix.0).copied();
        let resumes = !self.one_in(4);
        let after = seen.filter(|_| resumes);
        let rich = self.one_in(2);
        let opened = self.now;
        self.now += 1;
        let head = self.logs[channel].len() as u64;
        self.now += 1;
        let stream = self.history.streams.len();
        self.history.streams.push(Stream {
            id: stream as u64,
            subscriber: subscriber as u32,
            node: node as u64 + 1,
            channel: ix,
            via: if rich {
                Via::RichSocket
            } else {
                Via::PlainSocket
            },
            after,
            opened,
            connected: Some(self.now),
            hello: rich.then_some(head),
            events: Vec::new(),
            ended: None,
            end: StreamEnd::Open,
        });
        let cursor = after.unwrap_or(head);
        self.subscribers[subscriber].seen.insert(ix.0, cursor);
        self.subscribers[subscriber].open = Some((stream, node));
    }

    fn close(&mut self, subscriber: usize, end: StreamEnd) {
        if let Some((stream, _)) = self.subscribers[subscriber].open.take() {
            let stream = &mut self.history.streams[stream];
            (stream.ended, stream.end) = (Some(self.now), end);
        }
    }

    fn deliver(&mut self, subscriber: usize, stream: usize, node: usize, all: bool) {
        let ix = self.history.streams[stream].channel.0;
        let channel = ix as usize;
        let cursor = self.subscribers[subscriber].seen[&ix] as usize;
        let news = self.applied[node][channel].saturating_sub(cursor);
        let count = if all { news } else { self.below(news + 1) };
        for seen in &self.logs[channel][cursor..cursor + count] {
            self.now += 1;
            let event = StreamEvent {
                at: self.now,
                seen: seen.clone(),
            };
            self.history.streams[stream].events.push(event);
        }
        let reached = (cursor + count) as u64;
        self.subscribers[subscriber].seen.insert(ix, reached);
    }

    fn end(mut self) -> History {
        let healed = self.now;
        for channel in 0..CHANNELS {
            self.now += 10;
            let action = self.append(0, ChannelIx(channel as u32), None);
            let operation = self.history.operations.len();
            self.history.operations.push(Operation {
                id: operation as u64,
                process: self.processes,
                node: 1,
                invoked: self.now,
                returned: None,
                action,
                outcome: info(),
            });
            let outcome = self.effect(operation);
            self.now += 10;
            self.complete(operation, outcome);
        }
        for node in 0..NODES {
            self.applied[node] = self.logs.iter().map(Vec::len).collect();
        }
        for subscriber in 0..SUBSCRIBERS {
            if let Some((stream, node)) = self.subscribers[subscriber].open {
                self.deliver(subscriber, stream, node, true);
            }
        }
        let nodes = &self.history.nodes;
        let channels = || (0..CHANNELS as u32).map(ChannelIx);
        let log = |channel: ChannelIx, node: u64| FinalLog {
            channel,
            node,
            messages: self.logs[channel.0 as usize].clone(),
            state_hash: Some((5, format!("hash of {}", channel.0))),
        };
        self.history.ending = Some(Ending {
            healed,
            ready: nodes.iter().map(|node| (*node, Some(healed))).collect(),
            writable: channels()
                .map(|channel| (channel, Some(self.now)))
                .collect(),
            replicas: channels().map(|channel| (channel, nodes.clone())).collect(),
            logs: channels()
                .flat_map(|channel| nodes.iter().map(move |node| (channel, *node)))
                .map(|(channel, node)| log(channel, node))
                .collect(),
        });
        self.history
    }
}
