//! What became of a command, for the two machines alike.
//!
//! Outcomes travel from the replica that applied a command to the node whose
//! client asked for it.
//!
//! Invariant: the encoding carries a version; a list decodes to what was
//! encoded, and any other bytes to an error.

use bincode::{Decode, Encode};
use bytes::Bytes;

use super::codec::{self, DecodeError};
use super::directory::{Channel, Server};

/// 2 says which session is the newest.
const OUTCOMES_VERSION: u8 = 2;

/// What became of one command. New kinds are added at the end, because the
/// position is what is encoded.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Outcome {
    /// The message is in the channel.
    Posted {
        /// Its place in the channel, from 1.
        seq: u64,
        /// When, in Unix milliseconds of the channel's clock.
        timestamp_ms: u64,
        /// Its id: that of the first post if this one repeats it.
        id: [u8; 16],
        /// Whether an earlier post with the same key put it there.
        repeated: bool,
    },
    /// Not posted: the head of the channel is not the expected one.
    HeadMismatch {
        /// Seq of the last message, 0 in an empty channel.
        head: u64,
    },
    /// Not posted: the user's key is taken by a different message.
    KeyReused,
    /// The server, whether it was made now or before by the same id.
    ServerCreated(Server),
    /// The channel, whether it was made now or before by the same id.
    ChannelCreated(Channel),
    /// No channel was made: its server does not exist.
    NoSuchServer,
    /// No channel was made: the directory knows of no nodes yet, see
    /// `SetNodes`.
    NoNodes,
    /// The command took effect, or there was nothing to do.
    Done,
    /// The command was taken earlier; its outcome was told then and is not
    /// remembered.
    Repeated,
    /// Not taken: commands of the session before this one are missing.
    OutOfTurn {
        /// Counter of the command that the session must send next.
        next: u64,
    },
    /// Not taken: the session is not open, or a newer one of the same node is,
    /// and then nothing of this one is ever taken any more. Open a new one, above
    /// the newest, from counter 1.
    SessionUnknown {
        /// Sequence of the newest session of that node, 0 if there is none.
        newest: u128,
    },
    /// Refused: it could not be decoded, or passes a bound. A part is decoded
    /// whole or not at all. The command's turn in its session is used up, so
    /// that one bad part cannot block the session for ever; unless the session
    /// would be that of one node too many, and is not opened.
    Malformed,
    /// The message is down for later, or was.
    Scheduled {
        /// Its id: that of the first one if this one repeats it.
        id: [u8; 16],
        /// When it is due, in Unix milliseconds of the channel's clock.
        due_ms: u64,
        /// Whether an earlier command had put it there.
        repeated: bool,
    },
    /// Nothing was done: there is no such job or scheduled message, or no longer.
    NotFound,
    /// Nothing was done: the job has ended, or another attempt has begun.
    Superseded,
    /// Not delivered: it is not time yet.
    NotDue,
    /// Not posted: as many jobs have not ended as there may be.
    TooManyJobs,
    /// Not scheduled: as many messages wait as may.
    TooManyScheduled,
}

/// Encodes outcomes, at most those of one part
/// ([`COMMANDS_PER_PART_MAX`](super::COMMANDS_PER_PART_MAX)), for another node.
#[must_use]
pub fn encode_outcomes(outcomes: &[Outcome]) -> Bytes {
    codec::encode_record(OUTCOMES_VERSION, &outcomes).into()
}

/// Decodes what [`encode_outcomes`] made.
///
/// # Errors
/// When the bytes are anything else.
pub fn decode_outcomes(bytes: &[u8]) -> Result<Vec<Outcome>, DecodeError> {
    codec::decode_record(OUTCOMES_VERSION, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::COMMANDS_PER_PART_MAX;
    use crate::machine::directory::{NAME_BYTES_MAX, REPLICATION_MAX};
    use proptest::prelude::*;

    fn outcome() -> impl Strategy<Value = Outcome> {
        let server = (any::<[u8; 16]>(), ".{0,20}").prop_map(|(id, name)| Server { id, name });
        let channel = (
            any::<[u8; 16]>(),
            any::<[u8; 16]>(),
            ".{0,20}",
            any::<u64>(),
            proptest::collection::vec(any::<u64>(), 0..4),
            any::<u64>(),
        );
        let channel = channel.prop_map(|(id, server, name, group, replicas, created_ms)| Channel {
            id,
            server,
            name,
            group,
            replicas,
            created_ms,
        });
        let posted = (any::<u64>(), any::<u64>(), any::<[u8; 16]>(), any::<bool>());
        prop_oneof![
            posted.prop_map(|(seq, timestamp_ms, id, repeated)| Outcome::Posted {
                seq,
                timestamp_ms,
                id,
                repeated
            }),
            any::<u64>().prop_map(|head| Outcome::HeadMismatch { head }),
            Just(Outcome::KeyReused),
            server.prop_map(Outcome::ServerCreated),
            channel.prop_map(Outcome::ChannelCreated),
            Just(Outcome::NoSuchServer),
            Just(Outcome::NoNodes),
            Just(Outcome::Done),
            Just(Outcome::Repeated),
            any::<u64>().prop_map(|next| Outcome::OutOfTurn { next }),
            any::<u128>().prop_map(|newest| Outcome::SessionUnknown { newest }),
            Just(Outcome::Malformed),
            (any::<u64>(), any::<[u8; 16]>(), any::<bool>()).prop_map(|(due_ms, id, repeated)| {
                Outcome::Scheduled {
                    id,
                    due_ms,
                    repeated,
                }
            }),
            Just(Outcome::NotFound),
            Just(Outcome::Superseded),
            Just(Outcome::NotDue),
            Just(Outcome::TooManyJobs),
            Just(Outcome::TooManyScheduled),
        ]
    }

    #[test]
    fn golden() {
        let check = |outcome: Outcome, expected: &[u8]| {
            let expected = [&[2, 1][..], expected].concat();
            assert_eq!(
                encode_outcomes(std::slice::from_ref(&outcome)),
                expected,
                "{outcome:?}"
            );
        };
        let id = [7; 16];
        let posted = Outcome::Posted {
            seq: 1,
            timestamp_ms: 300,
            id,
            repeated: true,
        };
        check(posted, &[&[0, 1, 251, 44, 1][..], &id, &[1]].concat());
        check(Outcome::HeadMismatch { head: 5 }, &[1, 5]);
        check(Outcome::KeyReused, &[2]);
        let server = Server {
            id,
            name: "ab".to_owned(),
        };
        check(
            Outcome::ServerCreated(server),
            &[&[3][..], &id, b"\x02ab"].concat(),
        );
        let channel = Channel {
            id,
            server: [8; 16],
            name: "c".to_owned(),
            group: 4,
            replicas: vec![1, 2],
            created_ms: 5,
        };
        check(
            Outcome::ChannelCreated(channel),
            &[&[4][..], &id, &[8; 16], b"\x01c", &[4, 2, 1, 2, 5]].concat(),
        );
        check(Outcome::NoSuchServer, &[5]);
        check(Outcome::NoNodes, &[6]);
        check(Outcome::Done, &[7]);
        check(Outcome::Repeated, &[8]);
        check(Outcome::OutOfTurn { next: 2 }, &[9, 2]);
        check(Outcome::SessionUnknown { newest: 300 }, &[10, 251, 44, 1]);
        check(Outcome::Malformed, &[11]);
        let scheduled = Outcome::Scheduled {
            id,
            due_ms: 300,
            repeated: true,
        };
        check(scheduled, &[&[12][..], &id, &[251, 44, 1, 1]].concat());
        check(Outcome::NotFound, &[13]);
        check(Outcome::Superseded, &[14]);
        check(Outcome::NotDue, &[15]);
        check(Outcome::TooManyJobs, &[16]);
        check(Outcome::TooManyScheduled, &[17]);
    }

    #[test]
    fn the_largest_outcomes_of_a_part_fit() {
        let channel = Channel {
            id: [1; 16],
            server: [1; 16],
            name: "x".repeat(NAME_BYTES_MAX),
            group: u64::MAX,
            replicas: vec![u64::MAX; REPLICATION_MAX as usize],
            created_ms: u64::MAX,
        };
        let outcomes = vec![Outcome::ChannelCreated(channel); COMMANDS_PER_PART_MAX];
        assert_eq!(
            decode_outcomes(&encode_outcomes(&outcomes)).unwrap(),
            outcomes
        );
    }

    proptest! {
        #[test]
        fn round_trip(outcomes in proptest::collection::vec(outcome(), 0..20)) {
            let encoded = encode_outcomes(&outcomes);
            prop_assert_eq!(&decode_outcomes(&encoded).unwrap(), &outcomes);
            let longer = [&encoded[..], &[0]].concat();
            prop_assert!(decode_outcomes(&longer).is_err());
            prop_assert!(decode_outcomes(&encoded[..encoded.len() - 1]).is_err());
        }

        #[test]
        fn any_bytes_decode_or_fail(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = decode_outcomes(&bytes);
            let _ = decode_outcomes(&[&[OUTCOMES_VERSION][..], &bytes].concat());
        }
    }
}
