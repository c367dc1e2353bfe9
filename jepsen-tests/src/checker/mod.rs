//! Decides whether a history keeps the promises.
//!
//! One file for each property, P1 to P16; [`Property::statement`] says them in words. `F` is the
//! final log of a channel, as read from every node after healing.
//!
//! Invariants:
//! - the checker is a pure function of the history: no clock, no randomness, no I/O, so that a
//!   kept history gives the same report to anybody at any time;
//! - it reports what no correct system can show, and nothing else. Where the history leaves room
//!   (an operation of unknown outcome, two things at the same time) the room is the system's;
//! - what could not be checked is said in [`Report::unchecked`], never passed over;
//! - O(n log n) in operations, events and messages. A million operations with 1.3 million events
//!   and 670,000 messages on each of three nodes took ten seconds of processor time, unoptimised.

mod facts;
mod figures;
mod p01_kept;
mod p02_place;
mod p03_unique;
mod p04_genuine;
mod p05_order;
mod p06_stretch;
mod p07_recent;
mod p08_session;
mod p09_own_writes;
mod p10_stream;
mod p11_resume;
mod p12_caught_up;
mod p13_key;
mod p14_healed;
mod p15_answered;
mod p16_asked;
mod report;

pub use figures::{Counts, FaultCounts, Figures, Gap, Spread};
pub use report::{ANOMALIES_KEPT_MAX, Anomaly, Property, Report, WITNESSES_MAX};

use crate::history::History;
use facts::Facts;

/// A key is remembered for as many messages of its channel, by the contract. (Or 24 hours, which
/// no run lasts.)
const KEYS_REMEMBERED: usize = 100_000;

/// What needs F to be checked in full.
const NEEDS_LOG: [Property; 12] = [
    Property::P1,
    Property::P2,
    Property::P3,
    Property::P4,
    Property::P5,
    Property::P6,
    Property::P10,
    Property::P12,
    Property::P13,
    Property::P14,
    Property::P15,
    Property::P16,
];

/// Checks every property and counts the figures.
pub fn check(history: &History) -> Report {
    let facts = Facts::new(history);
    let mut report = Report {
        figures: figures::count(&facts),
        ..Report::default()
    };
    note_missing_logs(&facts, &mut report);
    p01_kept::check(&facts, &mut report);
    p02_place::check(&facts, &mut report);
    p03_unique::check(&facts, &mut report);
    p04_genuine::check(&facts, &mut report);
    p05_order::check(&facts, &mut report);
    p06_stretch::check(&facts, &mut report);
    p07_recent::check(&facts, &mut report);
    p08_session::check(&facts, &mut report);
    p09_own_writes::check(&facts, &mut report);
    p10_stream::check(&facts, &mut report);
    p11_resume::check(&facts, &mut report);
    p12_caught_up::check(&facts, &mut report);
    p13_key::check(&facts, &mut report);
    p14_healed::check(&facts, &mut report);
    p15_answered::check(&facts, &mut report);
    p16_asked::check(&facts, &mut report);
    report
}

fn note_missing_logs(facts: &Facts<'_>, report: &mut Report) {
    let missing = facts
        .channels
        .values()
        .filter(|channel| channel.logs.is_empty())
        .count();
    let why = match &facts.history.ending {
        None => "the run ended before the final logs were read".to_owned(),
        Some(_) if missing > 0 => format!("{missing} channels have no final log"),
        Some(_) => return,
    };
    for property in NEEDS_LOG {
        report.unchecked.push((property, why.clone()));
    }
}
