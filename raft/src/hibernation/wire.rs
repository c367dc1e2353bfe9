//! Groups as nodes name them to each other to put them to sleep and to wake them.

use accord_storage::GroupId;
use accord_storage::LogId;
use accord_storage::Standing;
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
/// Groups in one request for how far they are: their records are read one by one, a millisecond for
/// some tens of them.
pub(super) const STANDINGS_MAX: usize = 4_096;
/// A number for each, and four in the answer.
const STANDINGS_BYTES_MAX: usize = STANDINGS_MAX * 36 + 16;

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

/// What a follower says of an idle group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct Levelness {
    /// It has all of its leader's log, and has applied it.
    pub(super) is_level: bool,
    /// How long nobody has used the group at this node.
    pub(super) unused_ms: u64,
}

pub(super) fn encode_levels(levels: &Vec<Levelness>) -> Bytes {
    codec::encode(levels).into()
}

pub(super) fn decode_levels(body: &[u8]) -> Result<Vec<Levelness>, Malformed> {
    codec::decode::<_, BYTES_MAX>(body)
}

pub(super) fn encode_groups(groups: impl Iterator<Item = GroupId>) -> Bytes {
    codec::encode(&groups.map(|group| group.0).collect::<Vec<_>>()).into()
}

pub(super) fn decode_groups(body: &[u8]) -> Result<Vec<GroupId>, Malformed> {
    let groups: Vec<u64> = codec::decode::<_, STANDINGS_BYTES_MAX>(body)?;
    Ok(groups.into_iter().map(GroupId).collect())
}

/// How far a group is: the term and the index, plus one, of two entries, both 0 for none.
#[derive(Encode, Decode)]
struct WireStanding {
    last: (u64, u64),
    applied: (u64, u64),
}

fn end(id: Option<LogId>) -> (u64, u64) {
    id.map_or((0, 0), |id| (id.term, id.index.saturating_add(1)))
}

fn log_id((term, next): (u64, u64)) -> Option<LogId> {
    let index = next.checked_sub(1)?;
    Some(LogId { term, index })
}

pub(super) fn encode_standings(standings: &[Standing]) -> Bytes {
    let wire = standings.iter().map(|standing| WireStanding {
        last: end(standing.last),
        applied: end(standing.applied),
    });
    codec::encode(&wire.collect::<Vec<_>>()).into()
}

pub(super) fn decode_standings(body: &[u8]) -> Result<Vec<Standing>, Malformed> {
    let wire: Vec<WireStanding> = codec::decode::<_, STANDINGS_BYTES_MAX>(body)?;
    let standings = wire.into_iter().map(|standing| Standing {
        last: log_id(standing.last),
        applied: log_id(standing.applied),
    });
    Ok(standings.collect())
}

/// For the fuzz targets: see [`crate::fuzzing`].
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing {
    use super::*;
    use crate::fuzzing::settles;

    pub(crate) fn idle(body: &[u8]) {
        settles(body, decode, |idle| encode(&idle));
    }

    pub(crate) fn levels(body: &[u8]) {
        settles(body, decode_levels, |levels| encode_levels(&levels));
    }

    pub(crate) fn groups(body: &[u8]) {
        settles(body, decode_groups, |groups| {
            encode_groups(groups.into_iter())
        });
    }

    pub(crate) fn standings(body: &[u8]) {
        settles(body, decode_standings, |standings| {
            encode_standings(&standings)
        });
    }

    /// One body of each, in the order in which they are above.
    #[cfg(test)]
    pub(crate) fn seeds() -> [Bytes; 4] {
        let id = |index| LogId { term: 3, index };
        let place = Place {
            term: 3,
            leader: 2,
            last: id(9),
        };
        let level = Levelness {
            is_level: true,
            unused_ms: 300,
        };
        let standing = Standing {
            last: Some(id(9)),
            applied: None,
        };
        [
            encode(&[Idle::new(7, place)]),
            encode_levels(&vec![level]),
            encode_groups([GroupId(7), GroupId(300)].into_iter()),
            encode_standings(&[standing, Standing::default()]),
        ]
    }
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

    #[test]
    fn full_answers_survive_the_wire() {
        let levelness = Levelness {
            is_level: true,
            unused_ms: u64::MAX,
        };
        let levels = vec![levelness; IDLE_MAX];
        assert_eq!(decode_levels(&encode_levels(&levels)).unwrap(), levels);
        let groups = vec![GroupId(u64::MAX); STANDINGS_MAX];
        let encoded = encode_groups(groups.iter().copied());
        assert_eq!(decode_groups(&encoded).unwrap(), groups);
        let id = LogId {
            term: u64::MAX,
            index: u64::MAX - 1,
        };
        let first = LogId { term: 0, index: 0 };
        let mut standings = vec![Standing::default(); STANDINGS_MAX];
        standings[0] = Standing {
            last: Some(id),
            applied: Some(first),
        };
        standings[1..].fill(Standing {
            last: Some(id),
            applied: Some(id),
        });
        standings[2] = Standing::default();
        let encoded = encode_standings(&standings);
        assert_eq!(decode_standings(&encoded).unwrap(), standings);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes);
            let _ = decode_levels(&bytes);
            let _ = decode_groups(&bytes);
            let _ = decode_standings(&bytes);
        }
    }
}
