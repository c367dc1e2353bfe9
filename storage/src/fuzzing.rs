//! Entries for the fuzz targets: each takes any bytes, as they could come from
//! a disk or a peer, and asserts more than that nothing panics. Compiled for
//! tests, which feed them the kept corpus, and with the feature `fuzzing`.

use bytes::Bytes;

use crate::chunk::{self, Builder, Item, Progress};
use crate::types::GroupId;
use crate::{keys, mark, records, wal};

/// A snapshot's chunk as it came, and as if its checksum were right.
pub fn snapshot_chunk(bytes: &[u8]) {
    let _ = Progress::default().accept(bytes);
    let sealed = chunk::sealed(bytes);
    let Ok((_, items)) = chunk::parse(&sealed) else {
        return;
    };
    assert!(items.len() <= bytes.len(), "items out of nothing");
    let canonical = built(&items);
    let (_, again) = chunk::parse(&canonical).expect("what was read can be written and read again");
    assert_eq!(again, items);
    let mut progress = Progress::default();
    if progress.accept(&canonical).is_ok() && progress.complete().is_ok() {
        let more = Progress::clone(&progress).accept(&canonical);
        assert!(more.is_err(), "a snapshot ends once");
    }
}

fn built(items: &[Item<'_>]) -> Bytes {
    let mut builder = Builder::new(0, usize::MAX);
    for item in items {
        assert!(builder.add(item), "there is no bound");
    }
    builder.finish()
}

/// A value of the database; the first byte says of which kind.
pub fn stored_record(bytes: &[u8]) {
    let Some((kind, record)) = bytes.split_first() else {
        return;
    };
    match kind % 5 {
        0 => {
            let Ok(entry) = records::decode_entry(7, Bytes::copy_from_slice(record)) else {
                return;
            };
            let mut canonical = Vec::new();
            records::encode_entry(entry.log_id.term, &entry.payload, &mut canonical);
            assert_eq!(canonical, record);
        }
        1 => settles(record, records::decode_meta, records::encode_meta),
        2 => settles(record, records::decode_vote, |vote| {
            records::encode_vote(*vote)
        }),
        3 => settles(record, records::decode_mark, |mark| {
            records::encode_mark(*mark)
        }),
        _ => {
            let slot = |bytes: &[u8]| mark::decode(bytes).ok_or(());
            settles(record, slot, |sequence| mark::encode(*sequence).to_vec());
        }
    }
}

/// What was read, written and read again is the same, though the bytes read
/// first need not be what is written: numbers may be longer than they must.
fn settles<T: PartialEq + std::fmt::Debug, E: std::fmt::Debug>(
    bytes: &[u8],
    decode: impl Fn(&[u8]) -> Result<T, E>,
    encode: impl Fn(&T) -> Vec<u8>,
) {
    let Ok(value) = decode(bytes) else {
        return;
    };
    let again = decode(&encode(&value)).expect("what was written can be read");
    assert_eq!(again, value);
}

/// A key of the database.
pub fn stored_key(key: &[u8]) {
    if let Some(index) = keys::entry_index(key) {
        let (group, rest) = key.split_first_chunk().expect("an entry's key is longer");
        let generation = rest.first_chunk().expect("an entry's key is longer");
        let group = GroupId(u64::from_be_bytes(*group));
        let generation = u32::from_be_bytes(*generation);
        assert_eq!(keys::entry(group, generation, index)[..], *key);
    }
    if let Some(row) = keys::row_key(key) {
        assert!(key.ends_with(row));
    }
    assert!(*keys::after(key) > *key);
}

/// The end of a write-ahead log.
pub fn wal_ending(bytes: &[u8]) {
    if let Some(whole) = wal::whole_before_cut(bytes) {
        assert!(whole < bytes.len());
        // What is left after the mending is whole: it is mended once.
        assert_eq!(wal::whole_before_cut(&bytes[..whole]), None);
    }
}

#[cfg(test)]
#[path = "../../fuzz/corpus.rs"]
mod corpus;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::{Begin, Counts};
    use crate::records::Meta;
    use crate::types::{LogId, Table, Vote};

    #[test]
    fn the_corpus_passes() {
        corpus::feed("snapshot_chunk", snapshot_chunk);
        corpus::feed("stored_record", stored_record);
        corpus::feed("stored_key", stored_key);
        corpus::feed("wal_ending", wal_ending);
    }

    #[test]
    #[ignore = "writes fuzz/corpus: cargo test -p accord-storage write_seeds -- --ignored"]
    fn write_seeds() {
        let mut record = Vec::new();
        records::encode_entry(2, b"payload", &mut record);
        let whole = built(&[
            Item::Begin(Begin {
                applied: (2, 5),
                first: 5,
                index_after: Some(b"k"),
            }),
            Item::Entry {
                index: 5,
                record: &record,
            },
            Item::State {
                key: b"a",
                value: b"b",
            },
            Item::Index {
                key: b"l",
                value: b"m",
            },
            Item::End(Counts {
                entries: 1,
                state: 1,
                index: 1,
            }),
        ]);
        let begin = built(&[Item::Begin(Begin {
            applied: (1, 9),
            first: 10,
            index_after: None,
        })]);
        corpus::keep(
            "snapshot_chunk",
            &[("whole", whole.to_vec()), ("begin", begin.to_vec())],
        );
        let id = LogId {
            term: 3,
            index: 400,
        };
        let meta = Meta {
            purged: Some(id),
            staged: Some(2),
            ..Meta::default()
        };
        let vote = Vote {
            term: 300,
            node: 2,
            committed: true,
        };
        let of_kind = |kind: u8, record: Vec<u8>| [&[kind][..], &record].concat();
        corpus::keep(
            "stored_record",
            &[
                ("entry", of_kind(0, record)),
                ("meta", of_kind(1, records::encode_meta(&meta))),
                ("vote", of_kind(2, records::encode_vote(vote))),
                ("mark", of_kind(3, records::encode_mark(id))),
                ("acknowledged", of_kind(4, mark::encode(70_000).to_vec())),
            ],
        );
        let group = GroupId(7);
        corpus::keep(
            "stored_key",
            &[
                ("entry", keys::entry(group, 1, 300).to_vec()),
                ("row", keys::row(group, Table::State, 1, b"key")),
                ("meta", keys::meta(group).to_vec()),
            ],
        );
        let log = wal::some_log(&[b"first", &[0; 40], b"the last record"]);
        corpus::keep(
            "wal_ending",
            &[("cut", log[..log.len() - 4].to_vec()), ("whole", log)],
        );
    }
}
