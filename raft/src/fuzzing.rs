//! Entries for the fuzz targets: each takes any bytes, as they could come from a peer or from the
//! log, and asserts more than that nothing panics. Compiled for tests, which feed them the kept
//! corpus, and with the feature `fuzzing`.

use bytes::Bytes;

pub use crate::consensus::fuzzing::peer_body;
pub use crate::transport::fuzzing::peer_frame;
pub use crate::transport::fuzzing::peer_hello;

use crate::machine::Batch;
use crate::machine::COMMANDS_PER_BATCH_MAX;
use crate::machine::Kind;
use crate::machine::encode_part;
use crate::machine::testing::Replicas;

/// Times that a batch is applied: what is no repetition the first time is one the second.
const ROUNDS: usize = 2;

/// The payload of a log entry; the first byte says of which group.
pub fn machine_batch(bytes: &[u8]) {
    let Some((kind, payload)) = bytes.split_first() else {
        return;
    };
    let kind = match kind % 2 {
        0 => Kind::Channel,
        _ => Kind::Directory,
    };
    let payload = Bytes::copy_from_slice(payload);
    let slots = Batch::read(&payload).ok().map(|batch| {
        let slots = batch.parts().iter().map(|part| part.slots()).sum();
        assert_eq!(batch.slots(), slots);
        assert!(slots <= COMMANDS_PER_BATCH_MAX);
        commands_settle(&batch);
        slots
    });
    // Replicas that lived differently agree on every row and outcome.
    let mut replicas = Replicas::new(kind);
    for _ in 0..ROUNDS {
        let applied = replicas.apply(&payload);
        // A payload that is no batch at all has one outcome: malformed.
        assert_eq!(applied.outcomes.len(), slots.unwrap_or(1));
        replicas.join();
    }
    replicas.catch_up();
}

/// Commands that were read can be written and read again, and are the same.
fn commands_settle(batch: &Batch<'_>) {
    use crate::machine::channel;
    for part in batch.parts() {
        let Some(header) = part.header() else {
            continue;
        };
        let Some(commands) = part.commands::<channel::Command<'_>>() else {
            continue;
        };
        let again = encode_part(header.session, header.first, &commands);
        let again = again.expect("a part that was read is within the bounds");
        let whole = Batch::concat(batch.timestamp_ms(), &[again]).expect("it fits alone");
        let again = Batch::read(&whole).expect("it was just written");
        assert_eq!(again.parts()[0].commands(), Some(commands));
    }
}

/// What was read, written and read again is the same, though the bytes read first need not be what
/// is written: numbers may be longer than they must.
pub(crate) fn settles<T, E: std::fmt::Debug>(
    bytes: &[u8],
    decode: impl Fn(&[u8]) -> Result<T, E>,
    encode: impl Fn(T) -> Bytes,
) {
    let Ok(value) = decode(bytes) else {
        return;
    };
    let canonical = encode(value);
    let again = decode(&canonical).expect("what was written can be read");
    assert_eq!(encode(again), canonical);
}

#[cfg(test)]
#[path = "../../fuzz/corpus.rs"]
pub(crate) mod corpus;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::channel;
    use crate::machine::directory;

    #[test]
    fn the_corpus_passes() {
        corpus::feed("machine_batch", machine_batch);
        corpus::feed("peer_body", peer_body);
        corpus::feed("peer_frame", peer_frame);
        corpus::feed("peer_hello", peer_hello);
    }

    #[test]
    #[ignore = "writes fuzz/corpus: cargo test -p accord-raft write_seeds -- --ignored"]
    fn write_seeds() {
        crate::consensus::fuzzing::write_seeds();
        crate::transport::fuzzing::write_seeds();
        let post = |body, key| {
            channel::Command::Post(channel::Post {
                id: [7; 16],
                username: "ada",
                body,
                key,
                expected_head: None,
                reply_to: Some([1; 16]),
            })
        };
        let posts = [
            post("hello", Some("k")),
            post("again", Some("k")),
            post("", None),
        ];
        // As a node names its sessions: a time, a waking and a random number.
        let session = |node| crate::machine::SessionId {
            node,
            sequence: 1_700_000_000_000 << 64 | 7 << 32 | 0x0102_0304,
        };
        let part = encode_part(session(3), 1, &posts).unwrap();
        let batch = Batch::concat(1_700_000_000_000, &[part.clone(), part]).unwrap();
        let directory = [
            directory::Command::SetNodes {
                replication: 3,
                nodes: vec![(1, None), (2, Some("a")), (3, Some("b"))],
            },
            directory::Command::CreateServer {
                id: [2; 16],
                name: "server",
            },
            directory::Command::CreateChannel {
                id: [3; 16],
                server: [2; 16],
                name: "channel",
            },
        ];
        let part = encode_part(session(4), 1, &directory).unwrap();
        let nodes = Batch::concat(1_700_000_000_000, &[part]).unwrap();
        let of_kind = |kind: u8, batch: &[u8]| [&[kind][..], batch].concat();
        corpus::keep(
            "machine_batch",
            &[
                ("channel", of_kind(0, &batch)),
                ("directory", of_kind(1, &nodes)),
            ],
        );
    }
}
