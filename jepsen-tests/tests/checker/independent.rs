//! Our verdict on short histories agrees with that of a checker which we did not write:
//! `LinearizabilityTester` of stateright, which searches for an order of all operations.
//!
//! It knows nothing of F, so the final log is one more read, after everything. Operations of
//! unknown outcome are never told to have returned: the tester may place them anywhere after their
//! invocation, or nowhere.

use std::collections::BTreeSet;

use accord_jepsen::Rng;
use accord_jepsen::checker::{Property, check};
use accord_jepsen::history::{Action, History, Outcome, Seen, Value};
use proptest::prelude::*;
use stateright::semantics::{ConsistencyTester, LinearizabilityTester, SequentialSpec};

use crate::sketch::*;

/// The reference: an append answers with its seq, a read with all that is there.
#[derive(Clone, Debug, Default)]
struct Log {
    bodies: Vec<String>,
}

#[derive(Clone, Debug)]
enum Asked {
    Append(String),
    Read,
}

#[derive(Clone, Debug, PartialEq)]
enum Told {
    At(u64),
    All(Vec<String>),
}

impl SequentialSpec for Log {
    type Op = Asked;
    type Ret = Told;

    fn invoke(&mut self, asked: &Asked) -> Told {
        match asked {
            Asked::Append(body) => {
                self.bodies.push(body.clone());
                Told::At(self.bodies.len() as u64)
            }
            Asked::Read => Told::All(self.bodies.clone()),
        }
    }
}

fn bodies(messages: &[Seen]) -> Vec<String> {
    messages.iter().map(|seen| seen.body.clone()).collect()
}

/// The tester's verdict. Every operation is a thread of its own.
fn linearizable(history: &History) -> bool {
    let mut steps = Vec::new();
    for operation in &history.operations {
        let asked = match &operation.action {
            Action::Append { body, .. } => Asked::Append(body.clone()),
            _ => Asked::Read,
        };
        let told = match &operation.outcome {
            Outcome::Ok {
                value: Value::Appended(seen),
            } => Some(Told::At(seen.seq)),
            Outcome::Ok {
                value: Value::Read { messages, .. },
            } => Some(Told::All(bodies(messages))),
            // What failed did not happen.
            Outcome::Fail { .. } => continue,
            _ => None,
        };
        steps.push((operation.invoked, operation.id, Ok(asked)));
        if let (Some(told), Some(returned)) = (told, operation.returned) {
            steps.push((returned, operation.id, Err(told)));
        }
    }
    steps.sort_by_key(|step| step.0);
    let mut tester = LinearizabilityTester::new(Log::default());
    for (_, thread, step) in steps {
        match step {
            Ok(asked) => tester.on_invoke(thread, asked).map(drop),
            Err(told) => tester.on_return(thread, told).map(drop),
        }
        .expect("each thread has one operation");
    }
    let last = u64::MAX;
    let log = &history.ending.as_ref().expect("these histories end").logs[0].messages;
    tester
        .on_invret(last, Asked::Read, Told::All(bodies(log)))
        .expect("nothing of this thread is under way");
    tester.is_consistent()
}

/// Whether we find none of the properties broken that make up linearizability.
fn ours(history: &History) -> (bool, String) {
    let mut told = Vec::new();
    for anomaly in check(history).anomalies {
        if anomaly.property <= Property::P7 {
            told.push(anomaly.to_string());
        }
    }
    (told.is_empty(), told.join("\n"))
}

/// The other checker knows of no timestamps, so they are not to matter.
fn timeless(seq: u64, body: &str) -> Seen {
    Seen {
        timestamp: 0,
        ..message(seq, body)
    }
}

/// A short history. Its operations took effect one after the other in one log, each at a moment
/// between its invocation and its end; `spoil` then says how many things are changed.
fn short(seed: u64, spoil: u64) -> History {
    let rng = &mut Rng::new(seed);
    let count = 2 + rng.below(6);
    let mut log: Vec<Seen> = Vec::new();
    let mut history = holding(&[]);
    for number in 0..count {
        // Effects are a hundred apart. No two times are ever equal.
        let effect = 10_000 + number * 100;
        let around = |rng: &mut Rng| 1 + number + 10 * rng.below(30);
        let times = (effect - around(rng), effect + around(rng) + 10);
        let body = format!("b{number}");
        match rng.below(8) {
            0 => {
                history.append(times, &body, fail(503));
            }
            1 => {
                history.append(times, &body, info());
            }
            2 => {
                log.push(timeless(log.len() as u64 + 1, &body));
                history.append(times, &body, info());
            }
            3..6 => {
                log.push(timeless(log.len() as u64 + 1, &body));
                history.appended(times, &log[log.len() - 1]);
            }
            _ => {
                history.read(times, true, &log);
            }
        }
    }
    for _ in 0..spoil {
        spoil_one(&mut history, &mut log, rng);
    }
    for final_log in &mut history.ending.as_mut().expect("these histories end").logs {
        final_log.messages = log.clone();
    }
    history
}

fn spoil_one(history: &mut History, log: &mut Vec<Seen>, rng: &mut Rng) {
    let which = rng.below(history.operations.len() as u64) as usize;
    let operation = &mut history.operations[which];
    match rng.below(7) {
        // Another time; whether that matters depends on the others.
        0..3 => {
            let length = operation.returned.expect("all of these return") - operation.invoked;
            let shift = 1_000 * rng.below(2) + 100 * rng.below(5);
            operation.invoked -= shift;
            operation.returned = Some(operation.invoked + length);
        }
        3 => operation.returned = Some(operation.invoked + 1),
        4 => match &mut operation.outcome {
            Outcome::Ok {
                value: Value::Appended(seen),
            } => seen.seq = 1 + rng.below(4),
            Outcome::Ok {
                value: Value::Read { messages, head },
            } => {
                messages.pop();
                *head = messages.len() as u64;
            }
            outcome => *outcome = info(),
        },
        5 if log.len() >= 2 => {
            let first = rng.below(log.len() as u64 - 1) as usize;
            log.swap(first, first + 1);
            for (seen, seq) in log.iter_mut().zip(1..) {
                seen.seq = seq;
            }
        }
        _ => drop(log.pop()),
    }
}

/// Whether all times differ, so that "before" is the same for both checkers.
fn distinct(history: &History) -> bool {
    let times = history
        .operations
        .iter()
        .flat_map(|it| [Some(it.invoked), it.returned]);
    let times: Vec<u64> = times.flatten().collect();
    times.iter().collect::<BTreeSet<_>>().len() == times.len()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    #[test]
    fn both_checkers_agree(seed in any::<u64>(), spoil in 0_u64..4) {
        let history = short(seed, spoil);
        if distinct(&history) {
            let (ours, told) = ours(&history);
            prop_assert_eq!(linearizable(&history), ours, "{}\n{:#?}", told, history);
        }
    }
}

/// The comparison would prove little if nearly all histories were of one sort.
#[test]
fn both_verdicts_are_common() {
    let mut verdicts = [0, 0];
    for seed in 0..1_000 {
        let history = short(seed, seed % 4);
        if distinct(&history) {
            verdicts[usize::from(ours(&history).0)] += 1;
        }
    }
    assert!(verdicts.iter().all(|count| *count > 200), "{verdicts:?}");
}
