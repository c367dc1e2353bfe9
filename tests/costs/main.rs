//! How often memory is asked for when a node writes the frames of committed messages for all its
//! sockets. Counted, not timed: the same on every machine, so a change in either direction is
//! somebody's doing and is written down here. What it takes to commit them is counted in
//! `raft/tests/costs.rs`, fsyncs and frames between nodes in `tests/it/costs.rs`.

// Tests may unwrap: a panic is how they fail.
#![allow(clippy::unwrap_used)]

#[allow(dead_code, reason = "the rest of it serves the node")]
#[path = "../../src/delivery/encode.rs"]
mod encode;

use accord_raft::machine::Committed;
use accord_raft::machine::Message;
use accord_raft::machine::Text;
use allocation_counter::measure;
use bytes::Bytes;

const BATCHES: u64 = 100;
const MESSAGES: u64 = 64;
const BODY_BYTES: usize = 128;

/// For 100 batches of 64 messages.
const EXPECTED: u64 = 400;

fn committed(first_seq: u64) -> Committed {
    let text = |text: String| Text::from_utf8(Bytes::from(text)).unwrap();
    let message = |seq: u64| Message {
        seq,
        id: u128::from(seq).to_be_bytes(),
        timestamp_ms: 1_700_000_000_000,
        username: text("user".to_owned()),
        body: text("x".repeat(BODY_BYTES)),
        reply_to: None,
    };
    Committed {
        first_seq,
        timestamp_ms: 1_700_000_000_000,
        messages: (first_seq..first_seq + MESSAGES).map(message).collect(),
    }
}

#[test]
fn allocations_of_the_frames_of_6400_messages_in_batches_of_64() {
    let mut counted = 0;
    for batch in 0..BATCHES {
        let committed = committed(batch * MESSAGES + 1);
        let mut frames = Vec::new();
        counted += measure(|| frames = encode::frames(&committed)).count_total;
        assert_eq!(frames.len() as u64, MESSAGES);
    }
    assert_eq!(counted, EXPECTED, "if it is what was meant, write it down");
}
