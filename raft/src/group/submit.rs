//! The leader's answer to a part that another node sent.

use bytes::BufMut;
use bytes::Bytes;
use bytes::BytesMut;

use crate::machine::Outcome;
use crate::machine::decode_outcomes;
use crate::machine::encode_outcomes;
use crate::transport::NodeId;

const OUTCOMES: u8 = 0;
const NOT_LEADER: u8 = 1;
const UNKNOWN: u8 = 2;
const BUSY: u8 = 3;
const NO_ROOM: u8 = 4;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Submitted {
    Outcomes(Vec<Outcome>),
    /// Certainly not taken; who leads, if known.
    NotLeader(Option<NodeId>),
    /// It may be in a log.
    Unknown,
    /// Certainly not taken: too much waits there.
    Busy,
    /// Certainly not taken: the leader's disk is nearly full.
    NoRoom,
}

impl Submitted {
    pub(crate) fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::new();
        match self {
            Submitted::Outcomes(outcomes) => {
                bytes.put_u8(OUTCOMES);
                bytes.extend_from_slice(&encode_outcomes(outcomes));
            }
            Submitted::NotLeader(leader) => {
                bytes.put_u8(NOT_LEADER);
                if let Some(leader) = leader {
                    bytes.put_u64_le(*leader);
                }
            }
            Submitted::Unknown => bytes.put_u8(UNKNOWN),
            Submitted::Busy => bytes.put_u8(BUSY),
            Submitted::NoRoom => bytes.put_u8(NO_ROOM),
        }
        bytes.freeze()
    }

    /// `None` for bytes that are no answer.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Submitted> {
        let (kind, rest) = bytes.split_first()?;
        match (*kind, rest.len()) {
            (OUTCOMES, _) => decode_outcomes(rest).ok().map(Submitted::Outcomes),
            (NOT_LEADER, 0) => Some(Submitted::NotLeader(None)),
            (NOT_LEADER, 8) => {
                let leader = rest.try_into().ok().map(u64::from_le_bytes);
                Some(Submitted::NotLeader(leader))
            }
            (UNKNOWN, 0) => Some(Submitted::Unknown),
            (BUSY, 0) => Some(Submitted::Busy),
            (NO_ROOM, 0) => Some(Submitted::NoRoom),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_answer_survives_the_wire() {
        let answers = [
            Submitted::Outcomes(vec![Outcome::KeyReused, Outcome::HeadMismatch { head: 9 }]),
            Submitted::NotLeader(None),
            Submitted::NotLeader(Some(3)),
            Submitted::Unknown,
            Submitted::Busy,
            Submitted::NoRoom,
        ];
        for answer in answers {
            assert_eq!(Submitted::decode(&answer.encode()), Some(answer));
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = Submitted::decode(&bytes);
        }
    }
}
