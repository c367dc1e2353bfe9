//! How often memory is asked for on a message's way from a node's part to the rows of a replica.
//! Counted, not timed: the same on every machine, so a change in either direction is somebody's doing
//! and is written down here.

// Tests may unwrap: a panic is how they fail.
#![allow(clippy::unwrap_used)]

#[path = "../benches/machine/rows.rs"]
mod rows;

use allocation_counter::measure;

use rows::{Channel, POSTS};

/// Batches that are counted, after as many that are not.
const BATCHES: u64 = 100;

#[derive(Debug, PartialEq, Eq)]
struct Allocations {
    encode: u64,
    apply: u64,
}

/// For 100 batches of 64 messages.
const EXPECTED: Allocations = Allocations {
    encode: 7_500,
    apply: 2_200,
};

#[test]
fn allocations_of_6400_messages_in_batches_of_64() {
    let mut channel = Channel::new();
    let mut counted = Allocations {
        encode: 0,
        apply: 0,
    };
    for batch in 0..2 * BATCHES {
        let mut payload = None;
        let mut applied = None;
        let commands = channel.commands();
        let encode = measure(|| payload = Some(channel.encode(&commands)));
        drop(commands);
        let payload = payload.unwrap();
        let apply = measure(|| applied = Some(channel.apply(&payload)));
        let (applied, writes) = applied.unwrap();
        assert_eq!(applied.outcomes.len() as u64, POSTS);
        channel.keep(&applied, writes);
        if batch >= BATCHES {
            counted.encode += encode.count_total;
            counted.apply += apply.count_total;
        }
    }
    assert_eq!(counted, EXPECTED, "if it is what was meant, write it down");
}
