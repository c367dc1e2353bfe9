//! Histories of a correct system are clean, and each way of spoiling one is caught.

use accord_jepsen::Rng;
use accord_jepsen::checker::{Property, check};
use accord_jepsen::history::{
    Action, ChannelIx, History, Listed, Nanos, Operation, Outcome, Seen, StreamEnd, Value,
};
use proptest::prelude::*;

use crate::simulated;
use crate::sketch::{broken, fail};

/// Changes a history so that no correct system can have shown it. Answers with the property that
/// is certainly broken then (others may be too), or none if the history has no place for it.
type Spoil = fn(&mut History, &mut Rng) -> Option<Property>;

const SPOILS: &[(&str, Spoil)] = &[
    (
        "lose an acknowledged message on one node",
        |history, rng| {
            let (channel, seq) = pick(rng, acknowledged(history))?.1;
            let node = 1 + rng.below(3);
            logs(history, channel, |of, log| {
                if of == node {
                    log.remove(seq as usize - 1);
                }
            });
            Some(Property::P1)
        },
    ),
    ("lose an acknowledged message everywhere", |history, rng| {
        let (channel, seq) = pick(rng, acknowledged(history))?.1;
        logs(history, channel, |_, log| {
            log.remove(seq as usize - 1);
            renumber(log);
        });
        Some(Property::P1)
    }),
    ("hold another order on one node", |history, rng| {
        let (channel, seq) = pick(rng, acknowledged(history))?.1;
        let node = 1 + rng.below(3);
        let mut done = false;
        logs(history, channel, |of, log| {
            if of == node && seq >= 2 {
                log.swap(seq as usize - 1, seq as usize - 2);
                renumber(log);
                done = true;
            }
        });
        done.then_some(Property::P2)
    }),
    ("swap two messages everywhere", |history, rng| {
        let (channel, seq) = pick(rng, acknowledged(history))?.1;
        logs(history, channel, |_, log| {
            if seq >= 2 {
                log.swap(seq as usize - 1, seq as usize - 2);
                renumber(log);
            }
        });
        (seq >= 2).then_some(Property::P2)
    }),
    ("change an acknowledged seq", |history, rng| {
        let place = pick(rng, acknowledged(history))?.0;
        let up = rng.below(2) == 0;
        let seen = acknowledgement(history, place);
        seen.seq = if up { seen.seq + 1 } else { seen.seq - 1 };
        Some(Property::P2)
    }),
    ("hold a message twice", |history, rng| {
        let (channel, seq) = pick(rng, acknowledged(history))?.1;
        logs(history, channel, |_, log| {
            let mut again = log[seq as usize - 1].clone();
            again.id.push_str(" again");
            log.push(again);
            renumber(log);
        });
        Some(Property::P3)
    }),
    ("hold what nobody sent", |history, rng| {
        let channel = pick(rng, acknowledged(history))?.1.0;
        logs(history, channel, |_, log| {
            let mut ghost = log[0].clone();
            ghost.id = "ghost".to_owned();
            ghost.body = "ghost".to_owned();
            log.push(ghost);
            renumber(log);
        });
        Some(Property::P4)
    }),
    ("say that what is there failed", |history, rng| {
        let (place, (channel, seq)) = pick(rng, acknowledged(history))?;
        let body = acknowledgement(history, place).body.clone();
        let same = |operation: &&mut Operation| matches!(&operation.action, Action::Append { body: other, .. } if *other == body);
        for operation in history.operations.iter_mut().filter(same) {
            operation.outcome = fail(503);
        }
        assert!(seq > 0 && (channel.0 as usize) < history.channels.len());
        Some(Property::P4)
    }),
    ("send a message after it was seen", |history, rng| {
        let (place, (channel, seq)) = pick(rng, acknowledged(history))?;
        // A later message is acknowledged, and only then the first attempt at this one begins.
        let later = acknowledged(history)
            .into_iter()
            .filter(|(other, (of, above))| *other != place && *of == channel && *above > seq);
        let at =
            pick(rng, later.collect()).and_then(|(later, _)| history.operations[later].returned)?;
        let body = acknowledgement(history, place).body.clone();
        for operation in &mut history.operations {
            match &operation.action {
                Action::Append { body: other, .. } if *other == body => {
                    operation.invoked = operation.invoked.max(at + 1);
                    operation.returned = operation.returned.map(|returned| returned.max(at + 2));
                }
                _ => {}
            }
        }
        Some(Property::P5)
    }),
    ("leave a message out of a read", |history, rng| {
        let (place, mut messages, head) = pick(rng, reads(history, |_| true))?;
        if messages.is_empty() {
            return None;
        }
        messages.remove(rng.below(messages.len() as u64) as usize);
        answer(history, place, messages, head);
        Some(Property::P6)
    }),
    (
        "show two messages of a read the wrong way round",
        |history, rng| {
            let (place, mut messages, head) = pick(rng, reads(history, |_| true))?;
            if messages.len() < 2 {
                return None;
            }
            let first = rng.below(messages.len() as u64 - 1) as usize;
            messages.swap(first, first + 1);
            answer(history, place, messages, head);
            Some(Property::P6)
        },
    ),
    (
        "answer a linearizable read from the past",
        |history, rng| {
            let known = |operation: &Operation| {
                let Action::Read {
                    channel,
                    linearizable: true,
                    ..
                } = operation.action
                else {
                    return None;
                };
                let before = |(place, (of, _)): &(usize, (ChannelIx, u64))| {
                    let returned = history.operations[*place].returned;
                    *of == channel && returned.is_some_and(|at| at < operation.invoked)
                };
                let seqs = acknowledged(history).into_iter().filter(before);
                seqs.map(|(_, (_, seq))| seq).max()
            };
            let candidates = reads(history, |operation| known(operation).is_some());
            let known: Vec<u64> = candidates
                .iter()
                .filter_map(|(place, _, _)| known(&history.operations[*place]))
                .collect();
            let (place, mut messages, _) = pick(rng, candidates.clone())?;
            let which = candidates.iter().position(|one| one.0 == place)?;
            let head = known[which] - 1;
            messages.retain(|seen| seen.seq <= head);
            answer(history, place, messages, head);
            Some(Property::P7)
        },
    ),
    ("leave a server out of a list", |history, rng| {
        let known = |operation: &Operation, one: &Listed| {
            history.operations.iter().any(|other| {
                let told = match &other.outcome {
                    Outcome::Ok {
                        value: Value::Created(id),
                    } => *id == one.id,
                    Outcome::Ok {
                        value: Value::Listed(listed),
                    } => listed.contains(one),
                    _ => false,
                };
                told && other.returned.is_some_and(|at| at < operation.invoked)
            })
        };
        let mut choices = Vec::new();
        for (place, operation) in history.operations.iter().enumerate() {
            if let Outcome::Ok {
                value: Value::Listed(listed),
            } = &operation.outcome
            {
                let fit = listed
                    .iter()
                    .enumerate()
                    .filter(|(_, one)| known(operation, one));
                choices.extend(fit.map(|(entry, _)| (place, entry)));
            }
        }
        let (place, entry) = pick(rng, choices)?;
        if let Outcome::Ok {
            value: Value::Listed(listed),
        } = &mut history.operations[place].outcome
        {
            listed.remove(entry);
        }
        Some(Property::P7)
    }),
    ("let a session on one node go back", |history, rng| {
        let stale = |operation: &Operation| {
            matches!(
                operation.action,
                Action::Read {
                    linearizable: false,
                    ..
                }
            )
        };
        let reads = reads(history, stale);
        let session = |place: usize| {
            let operation = &history.operations[place];
            let Action::Read { channel, .. } = operation.action else {
                return None;
            };
            Some((operation.process, operation.node, channel))
        };
        let pairs = reads.iter().flat_map(|former| {
            let later = reads
                .iter()
                .filter(|later| later.0 > former.0 && former.2 > 0);
            later.map(move |later| (former.clone(), later.clone()))
        });
        let quiet = |from: Nanos, to: Nanos| {
            history
                .faults
                .iter()
                .all(|it| it.began > to || it.ended.is_some_and(|end| end < from))
        };
        let fitting = pairs.filter(|(former, later)| {
            let (former, later) = (former.0, later.0);
            let next = reads
                .iter()
                .find(|read| read.0 > former && session(read.0) == session(former));
            next.is_some_and(|read| read.0 == later)
                && history.operations[later]
                    .returned
                    .is_some_and(|to| quiet(history.operations[former].invoked, to))
        });
        let (former, later) = pick(rng, fitting.collect())?;
        let head = former.2 - 1;
        let mut messages = later.1;
        messages.retain(|seen| seen.seq <= head);
        answer(history, later.0, messages, head);
        Some(Property::P8)
    }),
    ("leave an event out of a stream", |history, rng| {
        let place = pick(rng, streams(history, 3))?;
        let events = &mut history.streams[place].events;
        events.remove(1 + rng.below(events.len() as u64 - 2) as usize);
        Some(Property::P10)
    }),
    ("repeat an event of a stream", |history, rng| {
        let place = pick(rng, streams(history, 1))?;
        let events = &mut history.streams[place].events;
        let which = rng.below(events.len() as u64) as usize;
        events.insert(which, events[which].clone());
        Some(Property::P10)
    }),
    ("stream what is not in the log", |history, rng| {
        let place = pick(rng, streams(history, 1))?;
        let events = &mut history.streams[place].events;
        let which = rng.below(events.len() as u64) as usize;
        events[which].seen.body.push('!');
        Some(Property::P10)
    }),
    ("resume a stream too far on", |history, rng| {
        let resumed = |place: &usize| history.streams[*place].after.is_some();
        let place = pick(
            rng,
            streams(history, 2).into_iter().filter(resumed).collect(),
        )?;
        history.streams[place].events.remove(0);
        Some(Property::P11)
    }),
    ("begin a live stream too late", |history, rng| {
        let live = |place: &usize| {
            let stream = &history.streams[*place];
            stream.after.is_none() && stream.hello.is_some()
        };
        let place = pick(rng, streams(history, 2).into_iter().filter(live).collect())?;
        history.streams[place].events.remove(0);
        Some(Property::P10)
    }),
    ("stop a stream short of the head", |history, rng| {
        let open = |place: &usize| history.streams[*place].end == StreamEnd::Open;
        let place = pick(rng, streams(history, 2).into_iter().filter(open).collect())?;
        history.streams[place].events.pop();
        Some(Property::P12)
    }),
    ("answer a retry with another message", |history, rng| {
        let acknowledged = acknowledged(history);
        let key = |place: usize| match &history.operations[place].action {
            Action::Append {
                key: Some(key),
                user,
                ..
            } => Some((key.clone(), user.clone())),
            _ => None,
        };
        let twice = acknowledged.iter().filter(|(place, _)| {
            key(*place).is_some()
                && acknowledged
                    .iter()
                    .any(|(other, _)| other != place && key(*other) == key(*place))
        });
        let place = pick(rng, twice.copied().collect())?.0;
        let seen = acknowledgement(history, place);
        seen.id.push_str(" other");
        Some(Property::P13)
    }),
    ("let the replicas disagree", |history, rng| {
        let ending = history.ending.as_mut()?;
        let which = rng.below(ending.logs.len() as u64) as usize;
        ending.logs[which].state_hash = Some((5, "another".to_owned()));
        Some(Property::P14)
    }),
];

#[test]
fn the_correct_system_shows_what_it_should() {
    let histories: Vec<History> = (0..40).map(simulated::run).collect();
    let count = |fits: fn(&Operation) -> bool| {
        histories
            .iter()
            .flat_map(|it| &it.operations)
            .filter(|it| fits(it))
            .count()
    };
    assert!(
        count(|it| matches!(
            it.outcome,
            Outcome::Ok {
                value: Value::Appended(_)
            }
        )) > 1_000
    );
    assert!(
        count(|it| matches!(
            it.outcome,
            Outcome::Fail {
                status: Some(412),
                ..
            }
        )) > 20
    );
    assert!(count(|it| it.returned.is_none()) > 100);
    let streams = || histories.iter().flat_map(|it| &it.streams);
    assert!(
        streams()
            .filter(|it| it.after.is_some() && !it.events.is_empty())
            .count()
            > 100
    );
    assert!(
        streams()
            .filter(|it| matches!(it.end, StreamEnd::Broken { .. }))
            .count()
            > 20
    );
    // Some messages of unknown outcome are there, and some are not.
    let mut unknown = [0, 0];
    for history in &histories {
        let ending = history.ending.as_ref().expect("these histories end");
        for operation in &history.operations {
            if let (Action::Append { body, .. }, Outcome::Info { .. }) =
                (&operation.action, &operation.outcome)
            {
                let held = ending
                    .logs
                    .iter()
                    .any(|log| log.messages.iter().any(|it| it.body == *body));
                unknown[usize::from(held)] += 1;
            }
        }
    }
    assert!(unknown.iter().all(|count| *count > 20), "{unknown:?}");
}

#[test]
fn every_way_of_spoiling_finds_its_place() {
    for (name, spoil) in SPOILS {
        let fits = (0..40)
            .filter(|seed| spoil(&mut simulated::run(*seed), &mut Rng::new(*seed)).is_some());
        assert!(fits.count() >= 3, "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_correct_system_has_no_anomaly(seed in any::<u64>()) {
        let (found, told) = broken(&simulated::run(seed));
        prop_assert!(found.is_empty(), "{}", told);
    }

    #[test]
    fn a_spoilt_history_is_caught(
        seed in any::<u64>(),
        which in 0..SPOILS.len(),
        choice in any::<u64>(),
    ) {
        let mut history = simulated::run(seed);
        let (name, spoil) = SPOILS[which];
        if let Some(property) = spoil(&mut history, &mut Rng::new(choice)) {
            let report = check(&history);
            prop_assert!(
                report.counts.contains_key(&property),
                "{}: {:?} instead of {}", name, report.counts, property
            );
        }
    }
}

fn pick<T>(rng: &mut Rng, mut choices: Vec<T>) -> Option<T> {
    match choices.len() {
        0 => None,
        many => Some(choices.swap_remove(rng.below(many as u64) as usize)),
    }
}

/// Places of acknowledged appends, with channel and seq.
fn acknowledged(history: &History) -> Vec<(usize, (ChannelIx, u64))> {
    let operations = history.operations.iter().enumerate();
    operations
        .filter_map(
            |(place, operation)| match (&operation.action, &operation.outcome) {
                (
                    Action::Append { channel, .. },
                    Outcome::Ok {
                        value: Value::Appended(seen),
                    },
                ) => Some((place, (*channel, seen.seq))),
                _ => None,
            },
        )
        .collect()
}

fn acknowledgement(history: &mut History, place: usize) -> &mut Seen {
    match &mut history.operations[place].outcome {
        Outcome::Ok {
            value: Value::Appended(seen),
        } => seen,
        other => panic!("not an acknowledgement: {other:?}"),
    }
}

/// Places of answered reads that fit, with their messages and heads.
fn reads(history: &History, fits: impl Fn(&Operation) -> bool) -> Vec<(usize, Vec<Seen>, u64)> {
    let operations = history.operations.iter().enumerate();
    operations
        .filter(|(_, operation)| fits(operation))
        .filter_map(|(place, operation)| match &operation.outcome {
            Outcome::Ok {
                value: Value::Read { messages, head },
            } => Some((place, messages.clone(), *head)),
            _ => None,
        })
        .collect()
}

fn answer(history: &mut History, place: usize, messages: Vec<Seen>, head: u64) {
    history.operations[place].outcome = Outcome::Ok {
        value: Value::Read { messages, head },
    };
}

/// Places of streams with at least so many events.
fn streams(history: &History, events: usize) -> Vec<usize> {
    let streams = history.streams.iter().enumerate();
    streams
        .filter(|(_, stream)| stream.events.len() >= events)
        .map(|(place, _)| place)
        .collect()
}

fn logs(history: &mut History, channel: ChannelIx, mut change: impl FnMut(u64, &mut Vec<Seen>)) {
    let logs = history
        .ending
        .iter_mut()
        .flat_map(|ending| &mut ending.logs);
    for log in logs.filter(|log| log.channel == channel) {
        change(log.node, &mut log.messages);
    }
}

/// A log is well-formed after a change: only what was changed is wrong.
fn renumber(log: &mut [Seen]) {
    let mut latest = 0;
    for (seen, seq) in log.iter_mut().zip(1..) {
        seen.seq = seq;
        latest = seen.timestamp.max(latest);
        seen.timestamp = latest;
    }
}
