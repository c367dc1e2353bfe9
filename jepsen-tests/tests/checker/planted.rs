//! For each property the smallest history that breaks it and nothing else, beside the same history
//! unbroken.

use accord_jepsen::checker::{ANOMALIES_KEPT_MAX, Property, Property::*, check};
use accord_jepsen::history::{Action, ChannelIx, History, Outcome, Reply, Seen, StreamEnd, Value};

use crate::sketch::*;

/// A history that is as it should be, a change that breaks it, and what that breaks.
struct Case {
    name: &'static str,
    sound: fn() -> History,
    breaks: fn(&mut History),
    properties: &'static [Property],
}

#[test]
fn every_planted_anomaly_is_caught_and_nothing_else_is_reported() {
    let mut caught: Vec<Property> = Vec::new();
    for case in CASES {
        let mut history = (case.sound)();
        let (found, told) = broken(&history);
        assert!(found.is_empty(), "{}: the sound history: {told}", case.name);
        (case.breaks)(&mut history);
        let (found, told) = broken(&history);
        assert_eq!(found, case.properties, "{}: {told}", case.name);
        caught.extend(found);
    }
    for property in Property::ALL {
        assert!(caught.contains(&property), "no case breaks {property}");
    }
}

/// Three messages, sent one after the other and acknowledged.
fn three() -> History {
    let messages = [m(1), m(2), m(3)];
    let mut history = holding(&messages);
    for (seen, start) in messages.iter().zip([10, 30, 50]) {
        history.appended((start, start + 10), seen);
    }
    history
}

/// As [`three`], with an operation or stream after them.
fn and(change: fn(&mut History)) -> History {
    let mut history = three();
    change(&mut history);
    history
}

fn logs(history: &mut History, change: impl Fn(u64, &mut Vec<accord_jepsen::history::Seen>)) {
    for log in &mut history.ending.as_mut().expect("these histories end").logs {
        change(log.node, &mut log.messages);
    }
}

fn append(history: &mut History, place: usize) -> (&mut Option<String>, &mut Option<u64>) {
    match &mut history.operations[place].action {
        Action::Append { key, if_head, .. } => (key, if_head),
        other => panic!("not an append: {other:?}"),
    }
}

fn acknowledgement(history: &mut History, place: usize) -> &mut accord_jepsen::history::Seen {
    match &mut history.operations[place].outcome {
        Outcome::Ok {
            value: Value::Appended(seen),
        } => seen,
        other => panic!("not an acknowledgement: {other:?}"),
    }
}

/// As [`three`], and then a command with its reply.
fn answered() -> History {
    let command = message(4, "/ask why");
    let mut messages = vec![m(1), m(2), m(3), command.clone()];
    messages.push(reply(5, "ask", &command.id));
    let mut history = holding(&messages);
    for (seen, start) in messages[..4].iter().zip([10, 30, 50, 70]) {
        history.appended((start, start + 10), seen);
    }
    history
}

fn reply(seq: u64, agent: &str, to: &str) -> Seen {
    Seen {
        user: agent.to_owned(),
        reply: Some(Reply {
            agent: agent.to_owned(),
            to: Some(to.to_owned()),
        }),
        ..message(seq, &format!("answer {seq}"))
    }
}

/// A key sent twice, acknowledged twice with the same answer.
fn retried() -> History {
    and(|history| {
        history.appended((70, 80), &m(3));
        for place in [2, 3] {
            *append(history, place).0 = Some("key".to_owned());
        }
    })
}

fn listing() -> History {
    let mut history = holding(&[]);
    let create = |name: &str| Action::CreateServer { name: name.into() };
    let created = |name: &str| ok(Value::Created(format!("id of {name}")));
    history.operation((10, 20), create("one"), created("one"));
    history.operation((10, 20), create("two"), created("two"));
    history.operation((10, 20), create("bad"), fail(400));
    history.operation((10, 20), create("lost"), info());
    history.operation(
        (30, 40),
        Action::ListServers,
        ok(listed(&["one", "two", "lost"])),
    );
    history
}

fn relist(history: &mut History, names: &[&str]) {
    history.operations[4].outcome = ok(listed(names));
}

const CASES: &[Case] = &[
    Case {
        name: "an acknowledged message is lost everywhere",
        sound: three,
        breaks: |history| logs(history, |_, log| drop(log.pop())),
        properties: &[P1],
    },
    Case {
        name: "an acknowledged message is lost on one node, which then also differs",
        sound: three,
        breaks: |history| {
            logs(history, |node, log| {
                if node == 2 {
                    log.pop();
                }
            });
        },
        properties: &[P1, P2],
    },
    Case {
        name: "an acknowledgement has the wrong seq",
        sound: three,
        breaks: |history| acknowledgement(history, 1).seq = 9,
        properties: &[P2],
    },
    Case {
        name: "an acknowledgement has another timestamp",
        sound: three,
        breaks: |history| acknowledgement(history, 1).timestamp += 1,
        properties: &[P2],
    },
    Case {
        name: "an acknowledgement is of another message",
        sound: three,
        breaks: |history| *acknowledgement(history, 1) = m(3),
        properties: &[P2],
    },
    Case {
        name: "one node holds another message of the same senders",
        sound: || {
            let mut history = holding(&[m(1)]);
            history.append((10, 20), "m1", info());
            history.append((10, 20), "x", info());
            history
        },
        breaks: |history| {
            logs(history, |node, log| {
                if node == 3 {
                    log[0] = message(1, "x");
                }
            });
        },
        properties: &[P2],
    },
    Case {
        name: "time goes back",
        sound: || {
            let mut history = holding(&[m(1), m(2)]);
            history.append((10, 20), "m1", info());
            history.append((30, 40), "m2", info());
            history
        },
        breaks: |history| logs(history, |_, log| log[1].timestamp = log[0].timestamp - 1),
        properties: &[P2],
    },
    Case {
        name: "a seq is left out",
        sound: || {
            let mut history = holding(&[m(1), m(2)]);
            history.append((10, 20), "m1", info());
            history.append((30, 40), "m2", info());
            history
        },
        breaks: |history| logs(history, |_, log| log[1].seq = 3),
        properties: &[P2],
    },
    Case {
        name: "a message stands there twice",
        sound: three,
        breaks: |history| {
            logs(history, |_, log| {
                let mut again = message(4, "m3");
                again.id = "another id".to_owned();
                log.push(again);
            });
        },
        properties: &[P3],
    },
    Case {
        name: "an id is given twice",
        sound: || {
            let mut history = holding(&[m(1), m(2)]);
            history.append((10, 20), "m1", info());
            history.append((30, 40), "m2", info());
            history
        },
        breaks: |history| logs(history, |_, log| log[1].id = log[0].id.clone()),
        properties: &[P3],
    },
    Case {
        name: "a list names a server twice",
        sound: listing,
        breaks: |history| relist(history, &["one", "two", "one"]),
        properties: &[P3],
    },
    Case {
        name: "nobody sent it",
        sound: three,
        breaks: |history| logs(history, |_, log| log.push(message(4, "ghost"))),
        properties: &[P4],
    },
    Case {
        name: "it failed",
        sound: || {
            and(|history| {
                history.append((70, 80), "m4", fail(503));
            })
        },
        breaks: |history| logs(history, |_, log| log.push(m(4))),
        properties: &[P4],
    },
    Case {
        name: "a list names a server whose creation failed",
        sound: listing,
        breaks: |history| relist(history, &["one", "two", "bad"]),
        properties: &[P4],
    },
    Case {
        name: "a list names a server that nobody created",
        sound: listing,
        breaks: |history| relist(history, &["one", "two", "ghost"]),
        properties: &[P4],
    },
    Case {
        name: "a message stands before one that was acknowledged before it was sent",
        sound: || {
            let mut history = holding(&[m(1), m(2)]);
            history.appended((10, 20), &m(2));
            history.append((15, 40), "m1", info());
            history
        },
        breaks: |history| history.operations[1].invoked = 25,
        properties: &[P5],
    },
    Case {
        name: "a message was sent after a read that shows it",
        sound: || {
            let mut history = holding(&[m(1)]);
            history.append((10, 90), "m1", info());
            history.read((20, 30), true, &[m(1)]);
            history
        },
        breaks: |history| history.operations[0].invoked = 31,
        properties: &[P5],
    },
    Case {
        name: "a message was sent after a stream showed it",
        sound: || {
            let mut history = holding(&[m(1)]);
            history.append((10, 90), "m1", info());
            history.stream((20, 1), None, &[m(1)]);
            history
        },
        breaks: |history| history.operations[0].invoked = 22,
        properties: &[P5],
    },
    Case {
        name: "a condition did not hold",
        sound: || {
            and(|history| {
                *append(history, 1).1 = Some(1);
            })
        },
        breaks: |history| *append(history, 1).1 = Some(0),
        properties: &[P5],
    },
    Case {
        name: "a condition held and was refused",
        sound: || {
            and(|history| {
                history.append((45, 48), "no", fail(412));
                *append(history, 3).1 = Some(1);
            })
        },
        breaks: |history| *append(history, 3).1 = Some(2),
        properties: &[P5],
    },
    Case {
        name: "a read has a hole",
        sound: || {
            and(|history| {
                history.read((70, 80), true, &[m(1), m(2), m(3)]);
            })
        },
        breaks: |history| {
            history.operations[3].outcome = ok(Value::Read {
                messages: vec![m(1), m(3)],
                head: 3,
            });
        },
        properties: &[P6],
    },
    Case {
        name: "a stale read shows what is not there",
        sound: || {
            and(|history| {
                history.read((70, 80), false, &[m(1)]);
            })
        },
        breaks: |history| {
            history.operations[3].outcome = ok(Value::Read {
                messages: vec![message(1, "m2")],
                head: 1,
            });
        },
        properties: &[P6],
    },
    Case {
        name: "a read goes beyond the end",
        sound: || {
            and(|history| {
                history.read((70, 80), false, &[m(1), m(2), m(3)]);
            })
        },
        breaks: |history| {
            history.operations[3].outcome = ok(Value::Read {
                messages: vec![m(1), m(2), m(3), m(4)],
                head: 4,
            });
        },
        properties: &[P6],
    },
    Case {
        name: "a linearizable read misses an acknowledged message",
        sound: || {
            and(|history| {
                history.read((55, 80), true, &[m(1), m(2)]);
            })
        },
        breaks: |history| history.operations[3].invoked = 61,
        properties: &[P7],
    },
    Case {
        name: "a linearizable read misses what a stale read showed",
        sound: || {
            let mut history = holding(&[m(1)]);
            history.append((10, 20), "m1", info());
            history.read((30, 40), false, &[m(1)]);
            history.read((35, 60), true, &[]);
            history
        },
        breaks: |history| history.operations[2].invoked = 45,
        properties: &[P7],
    },
    Case {
        name: "a list misses a server",
        sound: listing,
        breaks: |history| relist(history, &["one", "lost"]),
        properties: &[P7],
    },
    Case {
        name: "a list misses a server that another list named",
        sound: || {
            let mut history = listing();
            let names = ["one", "two", "lost"];
            history.operation((50, 60), Action::ListServers, ok(listed(&names)));
            history
        },
        breaks: |history| history.operations[5].outcome = ok(listed(&["one", "two"])),
        properties: &[P7],
    },
    Case {
        name: "a channel that exists is not found",
        sound: || {
            and(|history| {
                history.append((70, 80), "no", fail(503));
            })
        },
        breaks: |history| history.operations[3].outcome = fail(404),
        properties: &[P7],
    },
    Case {
        name: "stale reads of one session go back",
        sound: || {
            and(|history| {
                history.read((70, 80), false, &[m(1), m(2)]).process = 9;
                history.read((90, 95), false, &[m(1), m(2), m(3)]).process = 9;
            })
        },
        breaks: |history| {
            history.operations[4].outcome = ok(Value::Read {
                messages: vec![m(1)],
                head: 1,
            });
        },
        properties: &[P8],
    },
    Case {
        name: "stale reads go back, and the node did not restart meanwhile",
        sound: || {
            and(|history| {
                history.read((70, 80), false, &[m(1), m(2)]).process = 9;
                history.read((90, 95), false, &[m(1)]).process = 9;
                history.faults.push(fault("kill", 82, 85));
            })
        },
        breaks: |history| history.faults[0].kind = "pause".to_owned(),
        properties: &[P8],
    },
    Case {
        name: "a subscriber comes back to the past",
        sound: || {
            and(|history| {
                history.stream((20, 15), None, &[m(2), m(3)]).subscriber = 4;
                let second = history.stream((70, 1), None, &[]);
                (second.subscriber, second.hello) = (4, Some(3));
            })
        },
        breaks: |history| history.streams[1].hello = Some(2),
        properties: &[P8],
    },
    Case {
        name: "a process does not read its own write, which P7 sees too",
        sound: || {
            and(|history| {
                history.read((55, 80), true, &[m(1), m(2)]).process = 2;
            })
        },
        breaks: |history| history.operations[3].invoked = 61,
        properties: &[P7, P9],
    },
    Case {
        name: "a stream leaves one out",
        sound: || {
            and(|history| {
                history.stream((5, 20), None, &[m(1), m(2), m(3)]);
            })
        },
        breaks: |history| drop(history.streams[0].events.remove(1)),
        properties: &[P10],
    },
    Case {
        name: "a stream repeats itself",
        sound: || {
            and(|history| {
                history.stream((5, 20), None, &[m(1), m(2)]);
            })
        },
        breaks: |history| history.streams[0].events[1].seen = m(1),
        properties: &[P10],
    },
    Case {
        name: "a stream shows what was not committed",
        sound: || {
            and(|history| {
                history.stream((5, 20), None, &[m(1), m(2)]);
            })
        },
        breaks: |history| history.streams[0].events[1].seen = message(2, "ghost"),
        properties: &[P10],
    },
    Case {
        name: "a live stream does not begin where its hello says",
        sound: || {
            and(|history| {
                history.stream((15, 20), None, &[m(2), m(3)]).hello = Some(1);
            })
        },
        breaks: |history| history.streams[0].hello = Some(0),
        properties: &[P10],
    },
    Case {
        name: "a live stream misses its beginning",
        sound: || {
            and(|history| {
                history.stream((35, 15), None, &[m(3)]);
            })
        },
        breaks: |history| history.streams[0].connected = Some(25),
        properties: &[P10],
    },
    Case {
        name: "a resumed stream leaves one out",
        sound: || {
            and(|history| {
                history.stream((15, 30), Some(1), &[m(2), m(3)]);
            })
        },
        breaks: |history| drop(history.streams[0].events.remove(0)),
        properties: &[P11],
    },
    Case {
        name: "history is said to be gone",
        sound: || {
            and(|history| {
                history.stream((35, 15), Some(1), &[]).end = StreamEnd::Closed {
                    code: Some(1001),
                    reason: String::new(),
                };
            })
        },
        breaks: |history| {
            history.streams[0].end = StreamEnd::Closed {
                code: Some(4410),
                reason: String::new(),
            };
        },
        properties: &[P11],
    },
    Case {
        name: "a stream does not reach the head",
        sound: || {
            and(|history| {
                history.stream((5, 20), None, &[m(1), m(2), m(3)]).end = StreamEnd::Open;
            })
        },
        breaks: |history| drop(history.streams[0].events.pop()),
        properties: &[P12],
    },
    Case {
        name: "a silent stream does not show what was sent after it was connected",
        sound: || {
            and(|history| {
                history.stream((62, 1), None, &[]).end = StreamEnd::Open;
            })
        },
        breaks: |history| history.streams[0].connected = Some(45),
        properties: &[P12],
    },
    Case {
        name: "a subscriber is cut off after healing and does not get back",
        sound: || {
            and(|history| {
                let stream = history.stream((5, 20), None, &[m(1), m(2)]);
                stream.ended = Some(HEALED - 1);
                stream.end = StreamEnd::Broken {
                    why: "reset".to_owned(),
                };
            })
        },
        breaks: |history| history.streams[0].ended = Some(HEALED + 1),
        properties: &[P12],
    },
    Case {
        name: "a retry is refused as used with another body",
        sound: retried,
        breaks: |history| history.operations[3].outcome = fail(422),
        properties: &[P13],
    },
    Case {
        name: "a retry is refused for its condition",
        sound: || {
            let mut history = retried();
            *append(&mut history, 2).1 = Some(2);
            *append(&mut history, 3).1 = Some(2);
            history
        },
        breaks: |history| history.operations[3].outcome = fail(412),
        properties: &[P13],
    },
    Case {
        name: "a key is forgotten: a second message and answer",
        sound: retried,
        breaks: |history| {
            let mut again = message(4, "m3");
            again.id = "another id".to_owned();
            logs(history, |_, log| log.push(again.clone()));
            *acknowledgement(history, 3) = again;
        },
        properties: &[P3, P13],
    },
    Case {
        name: "a key takes two bodies",
        sound: || {
            and(|history| {
                history.append((70, 80), "m4", fail(422));
                for place in [2, 3] {
                    *append(history, place).0 = Some("key".to_owned());
                }
            })
        },
        breaks: |history| {
            history.operations[3].outcome = info();
            logs(history, |_, log| log.push(m(4)));
        },
        properties: &[P13],
    },
    Case {
        name: "a node is not ready in time",
        sound: three,
        breaks: |history| {
            let ready = &mut history.ending.as_mut().expect("these histories end").ready[1].1;
            *ready = Some(HEALED + 30_000_000_001);
        },
        properties: &[P14],
    },
    Case {
        name: "a channel is never writable",
        sound: three,
        breaks: |history| {
            history
                .ending
                .as_mut()
                .expect("these histories end")
                .writable[0]
                .1 = None
        },
        properties: &[P14],
    },
    Case {
        name: "replicas disagree",
        sound: three,
        breaks: |history| {
            let log = &mut history.ending.as_mut().expect("these histories end").logs[2];
            log.state_hash = Some((7, "beef".to_owned()));
        },
        properties: &[P14],
    },
    Case {
        name: "a replica gives no hash",
        sound: three,
        breaks: |history| {
            history.ending.as_mut().expect("these histories end").logs[2].state_hash = None
        },
        properties: &[P14],
    },
    Case {
        name: "a command without a reply",
        sound: answered,
        breaks: |history| logs(history, |_, log| drop(log.pop())),
        properties: &[P15],
    },
    Case {
        name: "a command with two replies",
        sound: answered,
        breaks: |history| {
            logs(history, |_, log| {
                log.push(Seen {
                    id: "id of another".to_owned(),
                    ..reply(6, "ask", "id of /ask why")
                });
            });
        },
        properties: &[P15],
    },
    Case {
        name: "a command answered by another agent",
        sound: answered,
        breaks: |history| {
            logs(history, |_, log| {
                log[4] = reply(5, "other", "id of /ask why")
            })
        },
        properties: &[P15],
    },
    Case {
        name: "a reply before its command",
        sound: answered,
        breaks: |history| {
            logs(history, |_, log| {
                log.swap(3, 4);
                let at = [log[4].timestamp, log[3].timestamp];
                (log[3].seq, log[4].seq) = (4, 5);
                [log[3].timestamp, log[4].timestamp] = at;
            });
            let acknowledged = acknowledgement(history, 3);
            acknowledged.seq = 5;
            acknowledged.timestamp = 1_700_000_000_005;
        },
        properties: &[P15],
    },
    Case {
        name: "a reply to what is no command",
        sound: answered,
        breaks: |history| logs(history, |_, log| log.push(reply(6, "ask", "id of m1"))),
        properties: &[P16],
    },
    Case {
        name: "a reply to nothing",
        sound: answered,
        breaks: |history| {
            logs(history, |_, log| {
                let mut unasked = reply(6, "ask", "");
                unasked.reply.as_mut().expect("it is one").to = None;
                log.push(unasked);
            });
        },
        properties: &[P16],
    },
    Case {
        name: "a node gives no log",
        sound: || {
            let mut history = three();
            let ending = history.ending.as_mut().expect("these histories end");
            ending.replicas[0].1.pop();
            ending.logs[2].state_hash = None;
            history
        },
        breaks: |history| {
            drop(
                history
                    .ending
                    .as_mut()
                    .expect("these histories end")
                    .logs
                    .pop(),
            )
        },
        properties: &[P14],
    },
];

#[test]
fn what_was_not_read_is_not_passed() {
    let mut history = three();
    history.ending = None;
    let report = check(&history);
    assert!(report.is_clean());
    let unchecked: Vec<Property> = report
        .unchecked
        .iter()
        .map(|(property, _)| *property)
        .collect();
    for property in [P1, P2, P3, P4, P6, P10, P12, P14] {
        assert!(unchecked.contains(&property), "{property}");
    }
    // What acknowledgements and reads say about each other is judged all the same.
    history.read((70, 80), true, &[m(1), m(2)]);
    assert!(check(&history).counts.contains_key(&P7));
}

#[test]
fn hashes_of_different_indexes_prove_nothing() {
    let mut history = three();
    let logs = &mut history.ending.as_mut().expect("these histories end").logs;
    for (log, index) in logs.iter_mut().zip(10..) {
        log.state_hash = Some((index, format!("hash {index}")));
    }
    let report = check(&history);
    assert!(report.is_clean());
    assert_eq!(report.figures.state_hashes_compared, 0);
    assert_eq!(report.unchecked.len(), 1, "{:?}", report.unchecked);
}

#[test]
fn all_anomalies_are_counted_and_few_kept() {
    let mut history = holding(&[]);
    for number in 0..100 {
        history.appended((number * 10, number * 10 + 5), &m(number + 1));
    }
    let report = check(&history);
    assert_eq!(report.counts[&P1], 100);
    assert_eq!(report.anomalies.len(), ANOMALIES_KEPT_MAX);
    let first = &report.anomalies[0];
    assert_eq!((first.at, first.channel), ((0, 5), Some(CHANNEL)));
    assert_eq!(first.operations, [0]);
}

#[test]
fn an_odd_history_is_judged_without_panic() {
    let mut history = three();
    history.channels.clear();
    history.read((90, 10), true, &[m(3)]);
    history.append((5, 1), "x", ok(Value::Created("no".to_owned())));
    if let Action::Append { channel, .. } = &mut history.operations[4].action {
        *channel = ChannelIx(u32::MAX);
    }
    acknowledgement(&mut history, 0).seq = u64::MAX;
    history.stream((u64::MAX - 1, 0), Some(u64::MAX), &[m(u64::MAX >> 1), m(0)]);
    check(&history);
}

#[test]
fn figures_count_what_happened() {
    let mut history = three();
    history.append((100, 200), "m4", info());
    history.append((250, 260), "m5", fail(503));
    history.faults.push(fault("kill", 22, 25));
    history.faults.push(fault("pause", 300, 310));
    let figures = check(&history).figures;
    let appends = figures.operations["append"];
    assert_eq!((appends.ok, appends.fail, appends.info), (3, 1, 1));
    assert_eq!((figures.appended_ok, figures.messages), (3, 3));
    // Nobody tried between 60 and 100; from 100 on nobody succeeded, and the last gave up at 260.
    let gap = figures.write_gap_longest.unwrap();
    assert_eq!((gap.from, gap.to), (100, 260));
    // The kill ended at 25; the append of 30 was acknowledged at 40. No append came after the pause.
    assert_eq!((figures.recovery.count, figures.recovery.p50), (1, 15));
    assert_eq!(figures.recovery_by_fault["kill"].max, 15);
    assert_eq!(figures.faults["pause"].bit, 1);
    // No gap was open from 22 to 25.
    assert!(!figures.gap_by_fault.contains_key("kill"));
}
