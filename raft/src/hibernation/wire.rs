//! Idle groups as nodes name them to each other.

use accord_storage::LogId;
use bincode::Decode;
use bincode::Encode;
use bytes::Bytes;

use crate::codec;
use crate::codec::Malformed;
use crate::consensus::Place;

/// Groups in one request.
pub(super) const IDLE_MAX: usize = 1_000;
/// Five numbers of at most nine bytes for each, and the count.
const BYTES_MAX: usize = IDLE_MAX * 45 + 16;

/// A group and where its leader stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct Idle {
    pub(super) group: u64,
    term: u64,
    leader: u64,
    last_term: u64,
    last_index: u64,
}

impl Idle {
    pub(super) fn new(group: u64, place: Place) -> Self {
        Idle {
            group,
            term: place.term,
            leader: place.leader,
            last_term: place.last.term,
            last_index: place.last.index,
        }
    }

    pub(super) fn place(&self) -> Place {
        Place {
            term: self.term,
            leader: self.leader,
            last: LogId {
                term: self.last_term,
                index: self.last_index,
            },
        }
    }
}

pub(super) fn encode(idle: &[Idle]) -> Bytes {
    codec::encode(&idle.to_vec()).into()
}

pub(super) fn decode(body: &[u8]) -> Result<Vec<Idle>, Malformed> {
    codec::decode::<_, BYTES_MAX>(body)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_full_request_survives_the_wire() {
        let place = Place {
            term: u64::MAX,
            leader: u64::MAX,
            last: LogId {
                term: u64::MAX,
                index: u64::MAX,
            },
        };
        let idle = vec![Idle::new(u64::MAX, place); IDLE_MAX];
        assert_eq!(decode(&encode(&idle)).unwrap(), idle);
        assert_eq!(idle[0].place(), place);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes);
        }
    }
}
