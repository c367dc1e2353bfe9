//! Every value of the disk format, each with a version byte in front.
//!
//! Decoding never panics: bytes that came from a disk get an error.

use bytes::Bytes;

use crate::codec::{self, BorrowDecode, Encode};
use crate::layout::{IndexSegment, Layout, Segment};
use crate::types::{Entry, LogId, Vote};

const ENTRY_VERSION: u8 = 1;
const ENTRY_HEADER_BYTES: usize = 1 + 8;
const META_VERSION: u8 = 1;
const VOTE_VERSION: u8 = 1;
const MARK_VERSION: u8 = 1;
/// Of a due time in a row, and of its place in the index, whose key says all.
pub const DUE_VERSION: u8 = 1;

/// What a group keeps besides its vote, its entries and its rows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Meta {
    pub layout: Layout,
    pub purged: Option<LogId>,
    /// A generation that an unfinished install may have written under.
    pub staged: Option<u32>,
}

#[derive(Encode, BorrowDecode)]
struct MetaV1 {
    log: Vec<(u64, u32)>,
    index: Vec<(Option<Vec<u8>>, u32)>,
    state_generation: u32,
    next_generation: u32,
    purged: Option<(u64, u64)>,
    staged: Option<u32>,
}

#[derive(Encode, BorrowDecode)]
struct VoteV1 {
    term: u64,
    node: u64,
    committed: bool,
}

#[derive(Encode, BorrowDecode)]
struct MarkV1 {
    term: u64,
    index: u64,
}

/// Replaces `out` by the record of an entry: the version, the term as eight
/// little-endian bytes, the payload as it is. The index is in the key.
pub fn encode_entry(term: u64, payload: &[u8], out: &mut Vec<u8>) {
    out.clear();
    out.reserve(ENTRY_HEADER_BYTES + payload.len());
    out.push(ENTRY_VERSION);
    out.extend_from_slice(&term.to_le_bytes());
    out.extend_from_slice(payload);
}

/// The entry at `index` from its record. The payload shares `record`'s memory.
pub fn decode_entry(index: u64, record: Bytes) -> Result<Entry, String> {
    let term = entry_term(&record)?;
    Ok(Entry {
        log_id: LogId { term, index },
        payload: record.slice(ENTRY_HEADER_BYTES..),
    })
}

/// The term of an entry from its record.
pub fn entry_term(record: &[u8]) -> Result<u64, String> {
    let rest = versioned(record, ENTRY_VERSION)?;
    let term: &[u8; 8] = rest.first_chunk().ok_or("an entry ends within its term")?;
    Ok(u64::from_le_bytes(*term))
}

pub fn encode_meta(meta: &Meta) -> Vec<u8> {
    let layout = &meta.layout;
    let record = MetaV1 {
        log: layout.log.iter().map(|s| (s.first, s.generation)).collect(),
        index: layout
            .index
            .iter()
            .map(|s| (s.after.clone(), s.generation))
            .collect(),
        state_generation: layout.state_generation,
        next_generation: layout.next_generation,
        purged: meta.purged.map(|id| (id.term, id.index)),
        staged: meta.staged,
    };
    encode(META_VERSION, &record)
}

pub fn decode_meta(bytes: &[u8]) -> Result<Meta, String> {
    let record: MetaV1 = codec::decode_all(versioned(bytes, META_VERSION)?)?;
    let log: Vec<Segment> = record
        .log
        .into_iter()
        .map(|(first, generation)| Segment { first, generation })
        .collect();
    let index: Vec<IndexSegment> = record
        .index
        .into_iter()
        .map(|(after, generation)| IndexSegment { after, generation })
        .collect();
    let ascending = log.windows(2).all(|pair| pair[0].first < pair[1].first)
        && index.windows(2).all(|pair| pair[0].after < pair[1].after);
    if log.is_empty() || !ascending || index.first().is_none_or(|s| s.after.is_some()) {
        return Err("its segments are not in order".into());
    }
    Ok(Meta {
        layout: Layout {
            log,
            index,
            state_generation: record.state_generation,
            next_generation: record.next_generation,
        },
        purged: record.purged.map(|(term, index)| LogId { term, index }),
        staged: record.staged,
    })
}

pub fn encode_vote(vote: Vote) -> Vec<u8> {
    let record = VoteV1 {
        term: vote.term,
        node: vote.node,
        committed: vote.committed,
    };
    encode(VOTE_VERSION, &record)
}

pub fn decode_vote(bytes: &[u8]) -> Result<Vote, String> {
    let record: VoteV1 = codec::decode_all(versioned(bytes, VOTE_VERSION)?)?;
    Ok(Vote {
        term: record.term,
        node: record.node,
        committed: record.committed,
    })
}

/// The record of when a group is due, Unix milliseconds.
pub fn encode_due(due_ms: u64) -> Vec<u8> {
    encode(DUE_VERSION, &due_ms)
}

pub fn decode_due(bytes: &[u8]) -> Result<u64, String> {
    codec::decode_all(versioned(bytes, DUE_VERSION)?)
}

/// The record of how far a group has applied its log.
pub fn encode_mark(mark: LogId) -> Vec<u8> {
    let record = MarkV1 {
        term: mark.term,
        index: mark.index,
    };
    encode(MARK_VERSION, &record)
}

pub fn decode_mark(bytes: &[u8]) -> Result<LogId, String> {
    let record: MarkV1 = codec::decode_all(versioned(bytes, MARK_VERSION)?)?;
    Ok(LogId {
        term: record.term,
        index: record.index,
    })
}

fn encode<T: Encode>(version: u8, record: &T) -> Vec<u8> {
    let mut bytes = vec![version];
    codec::encode(record, &mut bytes);
    bytes
}

fn versioned(bytes: &[u8], expected: u8) -> Result<&[u8], String> {
    match bytes.split_first() {
        Some((version, rest)) if *version == expected => Ok(rest),
        Some((version, _)) => Err(format!("it has version {version}, not {expected}")),
        None => Err("it is empty".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn some_meta() -> Meta {
        Meta {
            layout: Layout {
                log: vec![
                    Segment {
                        first: 0,
                        generation: 0,
                    },
                    Segment {
                        first: 300,
                        generation: 2,
                    },
                ],
                index: vec![
                    IndexSegment {
                        after: None,
                        generation: 0,
                    },
                    IndexSegment {
                        after: Some(vec![9]),
                        generation: 2,
                    },
                ],
                state_generation: 2,
                next_generation: 4,
            },
            purged: Some(LogId {
                term: 3,
                index: 299,
            }),
            staged: Some(3),
        }
    }

    #[test]
    fn the_format_is_what_is_on_disks_today() {
        let mut entry = Vec::new();
        encode_entry(0x0102, b"xyz", &mut entry);
        assert_eq!(entry, b"\x01\x02\x01\0\0\0\0\0\0xyz");
        let vote = Vote {
            term: 300,
            node: 2,
            committed: true,
        };
        assert_eq!(encode_vote(vote), [1, 251, 44, 1, 2, 1]);
        assert_eq!(encode_mark(LogId { term: 5, index: 6 }), [1, 5, 6]);
        assert_eq!(encode_due(300), [1, 251, 44, 1]);
        assert_eq!(
            encode_meta(&some_meta()),
            [
                1, // version
                2, 0, 0, 251, 44, 1, 2, // log: (0, 0), (300, 2)
                2, 0, 0, 1, 1, 9, 2, // index: (none, 0), ([9], 2)
                2, 4, // generations
                1, 3, 251, 43, 1, // purged 299@3
                1, 3, // staged
            ]
        );
    }

    #[test]
    fn another_version_and_an_order_that_cannot_be_are_refused() {
        assert!(decode_vote(&[2, 1, 1, 1]).is_err());
        assert!(decode_mark(&[]).is_err());
        assert!(decode_entry(1, Bytes::from_static(&[1, 2, 3])).is_err());
        let mut meta = some_meta();
        meta.layout.log.swap(0, 1);
        assert!(decode_meta(&encode_meta(&meta)).is_err());
        meta.layout.log.clear();
        assert!(decode_meta(&encode_meta(&meta)).is_err());
    }

    fn log_ids() -> impl Strategy<Value = LogId> {
        any::<(u64, u64)>().prop_map(|(term, index)| LogId { term, index })
    }

    prop_compose! {
        fn metas()(
            firsts in prop::collection::btree_map(any::<u64>(), any::<u32>(), 1..70),
            afters in prop::collection::btree_map(any::<Vec<u8>>(), any::<u32>(), 0..20),
            state_generation: u32,
            next_generation: u32,
            purged in prop::option::of(log_ids()),
            staged: Option<u32>,
        ) -> Meta {
            let log = firsts.into_iter().map(|(first, generation)| Segment { first, generation });
            let head = IndexSegment { after: None, generation: 0 };
            let rest = afters
                .into_iter()
                .map(|(after, generation)| IndexSegment { after: Some(after), generation });
            let layout = Layout {
                log: log.collect(),
                index: std::iter::once(head).chain(rest).collect(),
                state_generation,
                next_generation,
            };
            Meta { layout, purged, staged }
        }
    }

    proptest! {
        #[test]
        fn records_come_back_as_they_went(
            id in log_ids(), node: u64, committed: bool, payload: Vec<u8>, meta in metas()
        ) {
            let mut record = Vec::new();
            encode_entry(id.term, &payload, &mut record);
            let entry = Entry { log_id: id, payload: payload.into() };
            prop_assert_eq!(entry_term(&record), Ok(id.term));
            prop_assert_eq!(decode_entry(id.index, record.into()), Ok(entry));
            let vote = Vote { term: id.term, node, committed };
            prop_assert_eq!(decode_vote(&encode_vote(vote)), Ok(vote));
            prop_assert_eq!(decode_mark(&encode_mark(id)), Ok(id));
            prop_assert_eq!(decode_due(&encode_due(node)), Ok(node));
            prop_assert_eq!(decode_meta(&encode_meta(&meta)), Ok(meta));
        }

        #[test]
        fn no_bytes_make_decoding_panic(bytes: Vec<u8>) {
            for front in [&[][..], &[1]] {
                let bytes = [front, &bytes].concat();
                let _ = decode_meta(&bytes);
                let _ = decode_vote(&bytes);
                let _ = decode_mark(&bytes);
                let _ = decode_entry(0, bytes.into());
            }
        }
    }
}
