//! P13: one key is one message and one answer.
//!
//! All attempts of a user with one key on one channel: those that are acknowledged tell the same
//! message; only one of their bodies is in F; 422 is the answer to another body only; and once one
//! is acknowledged, its repetition is not refused for a condition. Holds for as many messages as
//! the contract remembers keys. O(appends log n).

use std::collections::BTreeMap;

use super::KEYS_REMEMBERED;
use super::facts::{Append, Channel, Facts};
use super::report::{Anomaly, Property, Report};
use crate::history::{Nanos, Outcome};

/// The key was used with another body.
const OTHER_BODY: u16 = 422;
/// The condition does not hold.
const PRECONDITION_FAILED: u16 = 412;

pub fn check(facts: &Facts<'_>, report: &mut Report) {
    for channel in facts.channels.values() {
        let mut keys: BTreeMap<(&str, &str), Vec<&Append<'_>>> = BTreeMap::new();
        for append in &channel.appends {
            if let Some(key) = append.key {
                keys.entry((append.user, key)).or_default().push(append);
            }
        }
        let places = Bodies::new(channel);
        for ((user, key), attempts) in keys {
            let mut add = |what, operations: &[&Append<'_>]| {
                report.add(anomaly(channel, user, key, what, operations));
            };
            one_answer(&attempts, &mut add);
            one_message(&attempts, &places, &mut add);
            refusals(&attempts, &mut add);
        }
    }
}

fn one_answer(attempts: &[&Append<'_>], add: &mut impl FnMut(String, &[&Append<'_>])) {
    let mut acknowledged = attempts
        .iter()
        .filter_map(|append| Some((append, append.ok?.1)));
    let Some((first, answer)) = acknowledged.next() else {
        return;
    };
    for (other, other_answer) in acknowledged {
        let apart = answer.seq.abs_diff(other_answer.seq);
        if answer != other_answer && apart <= KEYS_REMEMBERED as u64 {
            let what = format!(
                "was answered with seq {} ({}, {:?}) and with seq {} ({}, {:?})",
                answer.seq,
                answer.id,
                answer.body,
                other_answer.seq,
                other_answer.id,
                other_answer.body
            );
            add(what, &[first, other]);
        }
    }
}

fn one_message(
    attempts: &[&Append<'_>],
    places: &Bodies<'_>,
    add: &mut impl FnMut(String, &[&Append<'_>]),
) {
    let mut held: Option<(usize, &Append<'_>)> = None;
    for append in attempts {
        if held.is_some_and(|(_, other)| other.body == append.body) {
            continue;
        }
        let Some(place) = places.place(append) else {
            continue;
        };
        match held {
            Some((former, other)) if place.abs_diff(former) <= KEYS_REMEMBERED => {
                let what = format!(
                    "is in F as {:?} at seq {} and as {:?} at seq {}",
                    other.body,
                    former + 1,
                    append.body,
                    place + 1
                );
                return add(what, &[other, append]);
            }
            Some(_) => {}
            None => held = Some((place, append)),
        }
    }
}

fn refusals(attempts: &[&Append<'_>], add: &mut impl FnMut(String, &[&Append<'_>])) {
    let first_ok = attempts
        .iter()
        .filter_map(|append| Some((append.ok?.0, append)))
        .min_by_key(|(returned, _)| *returned);
    let uses = FirstUses::new(attempts);
    for append in attempts {
        let Outcome::Fail { status, .. } = append.operation.outcome else {
            continue;
        };
        match status {
            Some(OTHER_BODY) => {
                let until = append.operation.returned.unwrap_or(Nanos::MAX);
                if !uses.other_than(append.body, until) {
                    let what = "was refused as used with another body, and it was not".to_owned();
                    add(what, &[append]);
                }
            }
            Some(PRECONDITION_FAILED) => {
                if let Some((returned, ok)) = first_ok
                    && returned < append.operation.invoked
                    && ok.body == append.body
                {
                    let what = "was acknowledged, and its repetition refused".to_owned();
                    add(what, &[ok, append]);
                }
            }
            _ => {}
        }
    }
}

/// When a key may first have been used with a body, and when first with a different one.
struct FirstUses<'h> {
    first: Option<(&'h str, Nanos)>,
    other: Option<Nanos>,
}

impl<'h> FirstUses<'h> {
    /// Of attempts in order of invocation.
    fn new(attempts: &[&Append<'h>]) -> FirstUses<'h> {
        let mut uses = attempts
            .iter()
            .filter(|append| !matches!(append.operation.outcome, Outcome::Fail { .. }))
            .map(|append| (append.body, append.operation.invoked));
        let first = uses.next();
        let other = uses.find(|(body, _)| first.is_some_and(|(one, _)| one != *body));
        FirstUses {
            first,
            other: other.map(|(_, at)| at),
        }
    }

    /// Whether a body other than this one may have taken the key before `until`.
    fn other_than(&self, body: &str, until: Nanos) -> bool {
        let at = match self.first {
            Some((first, _)) if first == body => self.other,
            first => first.map(|(_, at)| at),
        };
        at.is_some_and(|at| at < until)
    }
}

fn anomaly(
    channel: &Channel<'_>,
    user: &str,
    key: &str,
    what: String,
    operations: &[&Append<'_>],
) -> Anomaly {
    let operations = operations.iter().map(|append| append.operation);
    let from = operations.clone().map(|it| it.invoked).min().unwrap_or(0);
    let to = operations.clone().filter_map(|it| it.returned).max();
    Anomaly::new(Property::P13, format!("the key {key:?} of {user:?} {what}"))
        .channel(channel.ix)
        .at(from, to.unwrap_or(from))
        .operations(operations.map(|it| it.id))
}

/// Where bodies stand in F.
struct Bodies<'h> {
    places: std::collections::HashMap<(&'h str, &'h str), usize>,
}

impl<'h> Bodies<'h> {
    fn new(channel: &Channel<'h>) -> Bodies<'h> {
        let log = channel.log().unwrap_or_default().iter().enumerate();
        Bodies {
            places: log
                .map(|(place, seen)| ((seen.user.as_str(), seen.body.as_str()), place))
                .collect(),
        }
    }

    fn place(&self, append: &Append<'_>) -> Option<usize> {
        self.places.get(&(append.user, append.body)).copied()
    }
}
