//! Histories for the tests of the formats.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;

/// Any history at all, sensible or not.
pub fn history() -> impl Strategy<Value = History> {
    let head = (any::<u64>(), vec(any::<u64>(), 0..4), vec(text(), 0..4));
    let body = (
        vec(operation(), 0..8),
        vec(stream(), 0..4),
        vec(fault(), 0..4),
        option::of(ending()),
    );
    (head, body).prop_map(
        |((seed, nodes, channels), (operations, streams, faults, ending))| History {
            seed,
            nodes,
            channels,
            operations,
            streams,
            faults,
            ending,
        },
    )
}

/// One of each kind of record.
pub fn small() -> History {
    let seen = |seq| Seen {
        seq,
        id: format!("id-{seq}"),
        user: "ann".to_owned(),
        body: "said \"so\"".to_owned(),
        timestamp: 1_000 + seq,
        reply: None,
    };
    let channel = ChannelIx(0);
    History {
        seed: 7,
        nodes: vec![1, 2, 3],
        channels: vec!["s/c".to_owned()],
        operations: vec![
            Operation {
                id: 0,
                process: 0,
                node: 1,
                invoked: 10,
                returned: Some(40),
                action: Action::Append {
                    channel,
                    user: "ann".to_owned(),
                    body: "said \"so\"".to_owned(),
                    key: Some("k".to_owned()),
                    if_head: Some(0),
                    via: Via::Rest,
                },
                outcome: Outcome::Ok {
                    value: Value::Appended(seen(1)),
                },
            },
            Operation {
                id: 1,
                process: 1,
                node: 2,
                invoked: 45,
                returned: Some(47),
                action: Action::Read {
                    channel,
                    linearizable: true,
                    range: Range::Latest { limit: 50 },
                },
                outcome: Outcome::Ok {
                    value: Value::Read {
                        messages: vec![seen(1)],
                        head: 1,
                    },
                },
            },
        ],
        streams: vec![Stream {
            id: 0,
            subscriber: 0,
            node: 3,
            channel,
            via: Via::RichSocket,
            after: None,
            opened: 20,
            connected: Some(25),
            hello: Some(0),
            events: vec![StreamEvent {
                at: 50,
                seen: seen(1),
            }],
            ended: None,
            end: StreamEnd::Open,
        }],
        faults: vec![FaultRecord {
            kind: "kill".to_owned(),
            detail: "node 2".to_owned(),
            nodes: vec![2],
            began: 30,
            ended: Some(35),
            bite: Bite::Yes {
                evidence: "it was reaped".to_owned(),
            },
        }],
        ending: Some(Ending {
            healed: 60,
            ready: vec![(1, Some(61)), (2, None)],
            writable: vec![(channel, Some(62))],
            replicas: vec![(channel, vec![1, 2, 3])],
            logs: vec![FinalLog {
                channel,
                node: 1,
                messages: vec![seen(1)],
                state_hash: Some((4, "cafe".to_owned())),
            }],
        }),
    }
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z]{0,6}", any::<String>()]
}

fn channel() -> impl Strategy<Value = ChannelIx> {
    any::<u32>().prop_map(ChannelIx)
}

fn via() -> impl Strategy<Value = Via> {
    prop_oneof![
        Just(Via::Rest),
        Just(Via::PlainSocket),
        Just(Via::RichSocket)
    ]
}

fn seen() -> impl Strategy<Value = Seen> {
    let reply = (text(), prop::option::of(text())).prop_map(|(agent, to)| Reply { agent, to });
    let reply = prop::option::of(reply);
    (any::<u64>(), text(), text(), text(), any::<u64>(), reply).prop_map(
        |(seq, id, user, body, timestamp, reply)| Seen {
            seq,
            id,
            user,
            body,
            timestamp,
            reply,
        },
    )
}

fn range() -> impl Strategy<Value = Range> {
    let both = || (any::<u64>(), any::<u32>());
    prop_oneof![
        any::<u32>().prop_map(|limit| Range::Latest { limit }),
        both().prop_map(|(seq, limit)| Range::After { seq, limit }),
        both().prop_map(|(seq, limit)| Range::Before { seq, limit }),
    ]
}

fn action() -> impl Strategy<Value = Action> {
    let append = (
        channel(),
        text(),
        text(),
        option::of(text()),
        option::of(any::<u64>()),
        via(),
    );
    prop_oneof![
        append.prop_map(|(channel, user, body, key, if_head, via)| Action::Append {
            channel,
            user,
            body,
            key,
            if_head,
            via,
        }),
        (channel(), any::<bool>(), range()).prop_map(|(channel, linearizable, range)| {
            Action::Read {
                channel,
                linearizable,
                range,
            }
        }),
        text().prop_map(|name| Action::CreateServer { name }),
        (text(), text()).prop_map(|(server, name)| Action::CreateChannel { server, name }),
        Just(Action::ListServers),
        text().prop_map(|server| Action::ListChannels { server }),
    ]
}

fn outcome() -> impl Strategy<Value = Outcome> {
    let why = || (option::of(any::<u16>()), text());
    let listed = (text(), text()).prop_map(|(id, name)| Listed { id, name });
    prop_oneof![
        seen().prop_map(Value::Appended).prop_map(ok),
        (vec(seen(), 0..3), any::<u64>())
            .prop_map(|(messages, head)| ok(Value::Read { messages, head })),
        text().prop_map(Value::Created).prop_map(ok),
        vec(listed, 0..3).prop_map(Value::Listed).prop_map(ok),
        why().prop_map(|(status, why)| Outcome::Fail { status, why }),
        why().prop_map(|(status, why)| Outcome::Info { status, why }),
    ]
}

fn ok(value: Value) -> Outcome {
    Outcome::Ok { value }
}

fn operation() -> impl Strategy<Value = Operation> {
    let numbers = (any::<u64>(), any::<u32>(), any::<u64>());
    let times = (any::<u64>(), option::of(any::<u64>()));
    (numbers, times, action(), outcome()).prop_map(
        |((id, process, node), (invoked, returned), action, outcome)| Operation {
            id,
            process,
            node,
            invoked,
            returned,
            action,
            outcome,
        },
    )
}

fn stream() -> impl Strategy<Value = Stream> {
    let numbers = (any::<u64>(), any::<u32>(), any::<u64>(), channel(), via());
    let seqs = (option::of(any::<u64>()), option::of(any::<u64>()));
    let times = (
        any::<u64>(),
        option::of(any::<u64>()),
        option::of(any::<u64>()),
    );
    let event = (any::<u64>(), seen()).prop_map(|(at, seen)| StreamEvent { at, seen });
    let end = prop_oneof![
        Just(StreamEnd::Open),
        Just(StreamEnd::Left),
        (option::of(any::<u16>()), text())
            .prop_map(|(code, reason)| StreamEnd::Closed { code, reason }),
        text().prop_map(|why| StreamEnd::Broken { why }),
    ];
    (numbers, seqs, times, vec(event, 0..4), end).prop_map(
        |(numbers, (after, hello), (opened, connected, ended), events, end)| {
            let (id, subscriber, node, channel, via) = numbers;
            Stream {
                id,
                subscriber,
                node,
                channel,
                via,
                after,
                opened,
                connected,
                hello,
                events,
                ended,
                end,
            }
        },
    )
}

fn fault() -> impl Strategy<Value = FaultRecord> {
    let bite = prop_oneof![
        text().prop_map(|evidence| Bite::Yes { evidence }),
        text().prop_map(|evidence| Bite::No { evidence }),
    ];
    let times = (any::<u64>(), option::of(any::<u64>()));
    (text(), text(), vec(any::<u64>(), 0..3), times, bite).prop_map(
        |(kind, detail, nodes, (began, ended), bite)| FaultRecord {
            kind,
            detail,
            nodes,
            began,
            ended,
            bite,
        },
    )
}

fn ending() -> impl Strategy<Value = Ending> {
    let log = (
        channel(),
        any::<u64>(),
        vec(seen(), 0..3),
        option::of((any::<u64>(), text())),
    )
        .prop_map(|(channel, node, messages, state_hash)| FinalLog {
            channel,
            node,
            messages,
            state_hash,
        });
    (
        any::<u64>(),
        vec((any::<u64>(), option::of(any::<u64>())), 0..3),
        vec((channel(), option::of(any::<u64>())), 0..3),
        vec((channel(), vec(any::<u64>(), 0..3)), 0..3),
        vec(log, 0..3),
    )
        .prop_map(|(healed, ready, writable, replicas, logs)| Ending {
            healed,
            ready,
            writable,
            replicas,
            logs,
        })
}
