//! The bytes of a snapshot on their way between nodes. Pure.
//!
//! A snapshot is a sequence of chunks. Each stands for itself: a version, its
//! place in the sequence, a checksum, then whole items. The items of all
//! chunks are, in this order: one `Begin`, the entries in order of index, the
//! state rows and the index rows in order of key, one `End` with their counts.
//! [`Progress`] follows that order on the receiving side and refuses anything
//! else before a byte of it is stored.

use bytes::Bytes;

use crate::codec::{self, BorrowDecode, Encode, ITEM_BYTES_MAX};
use crate::group::KEY_BYTES_MAX;
use crate::layout::Staged;
use crate::records;
use crate::types::LogId;

const VERSION: u8 = 1;
/// Version, sequence number, checksum.
const HEADER_BYTES: usize = 1 + 4 + 4;
/// A chunk holds at least one item, however large.
pub const CHUNK_BYTES_MAX: usize = ITEM_BYTES_MAX + HEADER_BYTES + 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, BorrowDecode)]
pub enum Item<'a> {
    Begin(Begin<'a>),
    Entry { index: u64, record: &'a [u8] },
    State { key: &'a [u8], value: &'a [u8] },
    Index { key: &'a [u8], value: &'a [u8] },
    End(Counts),
}

/// What a snapshot consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, BorrowDecode)]
pub struct Begin<'a> {
    /// Term and index of the last entry that it covers.
    pub applied: (u64, u64),
    /// The index of the first entry that is sent.
    pub first: u64,
    /// Index rows above this key are sent.
    pub index_after: Option<&'a [u8]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Encode, BorrowDecode)]
pub struct Counts {
    pub entries: u64,
    pub state: u64,
    pub index: u64,
}

/// Puts a chunk together.
pub struct Builder {
    bytes: Vec<u8>,
    bytes_max: usize,
}

impl Builder {
    pub fn new(sequence: u32, bytes_max: usize) -> Self {
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(&sequence.to_le_bytes());
        bytes.resize(HEADER_BYTES, 0);
        Self { bytes, bytes_max }
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.len() == HEADER_BYTES
    }

    /// Adds `item` unless the chunk would grow beyond its bound; one that is
    /// alone is always taken.
    pub fn add(&mut self, item: &Item<'_>) -> bool {
        let before = self.bytes.len();
        let was_empty = self.is_empty();
        codec::encode(item, &mut self.bytes);
        let fits = was_empty || self.bytes.len() <= self.bytes_max;
        if !fits {
            self.bytes.truncate(before);
        }
        fits
    }

    pub fn finish(mut self) -> Bytes {
        let checksum = checksum(&self.bytes).to_le_bytes();
        self.bytes[HEADER_BYTES - 4..HEADER_BYTES].copy_from_slice(&checksum);
        self.bytes.into()
    }
}

/// The sequence number and the items of a chunk.
pub fn parse(chunk: &[u8]) -> Result<(u32, Vec<Item<'_>>), String> {
    if chunk.len() > CHUNK_BYTES_MAX {
        return Err(format!(
            "{} bytes are more than {CHUNK_BYTES_MAX}",
            chunk.len()
        ));
    }
    let Some((header, mut body)) = chunk.split_first_chunk::<HEADER_BYTES>() else {
        return Err("it is shorter than its header".into());
    };
    let [version, a, b, c, d, sum @ ..] = *header;
    if version != VERSION {
        return Err(format!("it has version {version}, not {VERSION}"));
    }
    if u32::from_le_bytes(sum) != checksum(chunk) {
        return Err("its checksum does not match".into());
    }
    let mut items = Vec::new();
    while !body.is_empty() {
        let (item, rest) = codec::decode(body)?;
        items.push(item);
        body = rest;
    }
    Ok((u32::from_le_bytes([a, b, c, d]), items))
}

/// `bytes` with the header that they need to be parsed: fuzzing gets behind the
/// checksum with it.
#[cfg(any(test, feature = "fuzzing"))]
pub fn sealed(bytes: &[u8]) -> Vec<u8> {
    let mut chunk = bytes.to_vec();
    if chunk.len() >= HEADER_BYTES {
        chunk[0] = VERSION;
        let sum = checksum(&chunk).to_le_bytes();
        chunk[HEADER_BYTES - 4..HEADER_BYTES].copy_from_slice(&sum);
    }
    chunk
}

/// Covers everything but itself.
fn checksum(chunk: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&chunk[..HEADER_BYTES - 4]);
    hasher.update(&chunk[HEADER_BYTES..]);
    hasher.finalize()
}

/// How far the receiving side is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Progress {
    next_sequence: u32,
    begun: Option<Begun>,
    counts: Counts,
    last_state: Option<Vec<u8>>,
    last_index: Option<Vec<u8>>,
    last_term: u64,
    ended: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begun {
    pub applied: LogId,
    pub first: u64,
    pub index_after: Option<Vec<u8>>,
}

impl Begun {
    /// What was staged under `generation` when the snapshot is complete.
    pub fn staged(&self, generation: u32) -> Staged {
        Staged {
            generation,
            first: self.first,
            last: self.applied.index,
            index_after: self.index_after.clone(),
        }
    }
}

impl Progress {
    /// Takes the next chunk. After an error, drop the changed value and go on
    /// with the one before.
    pub fn accept<'a>(&mut self, chunk: &'a [u8]) -> Result<Vec<Item<'a>>, String> {
        let (sequence, items) = parse(chunk)?;
        if sequence != self.next_sequence {
            return Err(format!(
                "it is number {sequence}, but number {} is next",
                self.next_sequence
            ));
        }
        self.next_sequence = sequence.checked_add(1).ok_or("there are too many")?;
        for item in &items {
            self.follow(item)?;
        }
        Ok(items)
    }

    pub fn begun(&self) -> Option<&Begun> {
        self.begun.as_ref()
    }

    /// What the snapshot covers, once all of it has come.
    pub fn complete(&self) -> Result<&Begun, String> {
        self.begun
            .as_ref()
            .filter(|_| self.ended)
            .ok_or_else(|| "its end is missing".into())
    }

    fn follow(&mut self, item: &Item<'_>) -> Result<(), String> {
        if self.ended {
            return Err("something follows the end".into());
        }
        match (item, &self.begun) {
            (Item::Begin(begin), None) => self.begun = Some(begin_of(begin)?),
            (Item::Begin(_), Some(_)) => return Err("it begins twice".into()),
            (_, None) => return Err("its beginning is missing".into()),
            (Item::Entry { index, record }, Some(begun)) => {
                let expected = begun.first.checked_add(self.counts.entries);
                if expected != Some(*index) || *index > begun.applied.index {
                    return Err(format!("entry {index} is out of order"));
                }
                let term = records::entry_term(record)?;
                if term < self.last_term || term > begun.applied.term {
                    return Err(format!("the term of entry {index} is out of order"));
                }
                self.last_term = term;
                self.counts.entries += 1;
            }
            (Item::State { key, .. }, Some(_)) => {
                ascend(&mut self.last_state, key)?;
                self.counts.state += 1;
            }
            (Item::Index { key, .. }, Some(begun)) => {
                if begun
                    .index_after
                    .as_deref()
                    .is_some_and(|after| *key <= after)
                {
                    return Err("an index row is not above the promised key".into());
                }
                ascend(&mut self.last_index, key)?;
                self.counts.index += 1;
            }
            (Item::End(counts), Some(begun)) => {
                let promised = begun.applied.index.checked_add(1);
                if *counts != self.counts
                    || begun.first.checked_add(counts.entries) != promised
                    || (counts.entries > 0 && self.last_term != begun.applied.term)
                {
                    return Err("it is not whole".into());
                }
                self.ended = true;
            }
        }
        Ok(())
    }
}

fn begin_of(begin: &Begin<'_>) -> Result<Begun, String> {
    let (term, index) = begin.applied;
    let next = index
        .checked_add(1)
        .ok_or("it ends at an impossible index")?;
    if begin.first > next {
        return Err("it begins behind its end".into());
    }
    if begin
        .index_after
        .is_some_and(|key| key.len() > KEY_BYTES_MAX)
    {
        return Err("it promises too long a key".into());
    }
    Ok(Begun {
        applied: LogId { term, index },
        first: begin.first,
        index_after: begin.index_after.map(<[u8]>::to_vec),
    })
}

fn ascend(last: &mut Option<Vec<u8>>, key: &[u8]) -> Result<(), String> {
    if key.len() > KEY_BYTES_MAX {
        return Err("a key is too long".into());
    }
    if last.as_deref().is_some_and(|last| key <= last) {
        return Err("its rows are not in order".into());
    }
    *last = Some(key.to_vec());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn chunk(sequence: u32, items: &[Item<'_>]) -> Bytes {
        let mut builder = Builder::new(sequence, usize::MAX);
        for item in items {
            assert!(builder.add(item));
        }
        builder.finish()
    }

    const BEGIN: Item<'_> = Item::Begin(Begin {
        applied: (2, 6),
        first: 5,
        index_after: Some(b"k"),
    });
    const END: Item<'_> = Item::End(Counts {
        entries: 2,
        state: 1,
        index: 1,
    });

    fn entry(index: u64, term: u8) -> Vec<u8> {
        let mut record = Vec::new();
        records::encode_entry(u64::from(term), &index.to_le_bytes(), &mut record);
        record
    }

    #[test]
    fn the_format_is_what_nodes_speak_today() {
        let bytes = chunk(
            7,
            &[
                BEGIN,
                Item::Entry {
                    index: 5,
                    record: b"r",
                },
                Item::State {
                    key: b"a",
                    value: b"b",
                },
                Item::Index {
                    key: b"l",
                    value: b"m",
                },
                END,
            ],
        );
        assert_eq!(bytes[..5], [1, 7, 0, 0, 0]);
        assert_eq!(
            bytes[9..],
            [
                0, 2, 6, 5, 1, 1, b'k', 1, 5, 1, b'r', 2, 1, b'a', 1, b'b', 3, 1, b'l', 1, b'm', 4,
                2, 1, 1
            ]
        );
        assert_eq!(bytes[5..9], checksum(&bytes).to_le_bytes());
    }

    #[test]
    fn a_whole_snapshot_is_followed_to_its_end() {
        let (first, second) = (entry(5, 1), entry(6, 2));
        let chunks = [
            chunk(
                0,
                &[
                    BEGIN,
                    Item::Entry {
                        index: 5,
                        record: &first,
                    },
                ],
            ),
            chunk(
                1,
                &[
                    Item::Entry {
                        index: 6,
                        record: &second,
                    },
                    Item::State {
                        key: b"a",
                        value: b"",
                    },
                    Item::Index {
                        key: b"l",
                        value: b"",
                    },
                    END,
                ],
            ),
        ];
        let mut progress = Progress::default();
        for chunk in &chunks {
            assert!(progress.complete().is_err());
            progress.accept(chunk).expect("it is in order");
        }
        let begun = progress.complete().expect("it has ended");
        assert_eq!(begun.staged(3).first, 5);
        assert_eq!(begun.staged(3).last, 6);
        assert!(progress.clone().accept(&chunks[1]).is_err(), "a repetition");
        assert!(
            progress.accept(&chunk(2, &[END])).is_err(),
            "an end after the end"
        );
    }

    #[test]
    fn what_is_out_of_order_is_refused() {
        let wrong_term = entry(5, 9);
        let cases: &[(&str, &[Item<'_>])] = &[
            ("no beginning", &[END]),
            ("two beginnings", &[BEGIN, BEGIN]),
            ("not whole", &[BEGIN, END]),
            (
                "a term above the snapshot's",
                &[
                    BEGIN,
                    Item::Entry {
                        index: 5,
                        record: &wrong_term,
                    },
                ],
            ),
            (
                "a gap",
                &[
                    BEGIN,
                    Item::Entry {
                        index: 6,
                        record: &wrong_term,
                    },
                ],
            ),
            (
                "an index row that is held already",
                &[
                    BEGIN,
                    Item::Index {
                        key: b"k",
                        value: b"",
                    },
                ],
            ),
            (
                "a key twice",
                &[
                    BEGIN,
                    Item::State {
                        key: b"a",
                        value: b"",
                    },
                    Item::State {
                        key: b"a",
                        value: b"",
                    },
                ],
            ),
        ];
        for (what, items) in cases {
            let refused = Progress::default().accept(&chunk(0, items)).is_err();
            assert!(refused, "{what}");
        }
        assert!(Progress::default().accept(&chunk(1, &[BEGIN])).is_err());
    }

    #[test]
    fn a_chunk_is_bounded_but_never_empty() {
        let mut builder = Builder::new(0, 40);
        let item = Item::State {
            key: b"0123456789",
            value: b"0123456789",
        };
        assert!(builder.add(&item));
        assert!(!builder.add(&item));
        let bytes = builder.finish();
        assert!(bytes.len() <= 40);
        assert_eq!(parse(&bytes).map(|(_, items)| items.len()), Ok(1));
    }

    proptest! {
        #[test]
        fn items_come_back_as_they_went(
            sequence: u32,
            rows in prop::collection::vec((any::<u8>(), any::<Vec<u8>>(), any::<Vec<u8>>()), 0..20),
        ) {
            let items: Vec<Item<'_>> = rows
                .iter()
                .map(|(kind, key, value)| match kind % 3 {
                    0 => Item::State { key, value },
                    1 => Item::Index { key, value },
                    _ => Item::Entry { index: key.len() as u64, record: value },
                })
                .collect();
            let bytes = chunk(sequence, &items);
            prop_assert_eq!(parse(&bytes), Ok((sequence, items)));
        }

        #[test]
        fn any_flipped_bit_is_noticed(at: prop::sample::Index, bit in 0..8u8) {
            let mut bytes = chunk(0, &[BEGIN, END]).to_vec();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(parse(&bytes).is_err());
        }

        #[test]
        fn no_bytes_make_it_panic(body: Vec<u8>) {
            let _ = parse(&body);
            let mut bytes = vec![VERSION, 0, 0, 0, 0, 0, 0, 0, 0];
            bytes.extend_from_slice(&body);
            let sum = checksum(&bytes).to_le_bytes();
            bytes[5..9].copy_from_slice(&sum);
            let _ = Progress::default().accept(&bytes);
        }
    }
}
