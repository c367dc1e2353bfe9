//! Every key of the disk format.
//!
//! Numbers are big-endian, so that the order of the bytes is the order of the
//! numbers and everything of one group lies together. Each key of `log` and
//! `rows` begins with the group: the first [`GROUP_BYTES`] are the prefix that
//! RocksDB's filters and iterators are built for.
//!
//! | family    | key                                         | value                     |
//! |-----------|---------------------------------------------|---------------------------|
//! | `default` | `format`, `cluster`, `node`, `identity`     | facts of the directory    |
//! | `default` | `due/` due_ms u64, group u64                | a version: see [`crate::due`] |
//! | `default` | `fact/` name                                | a fact set by the node    |
//! | `log`     | group u64, generation u32, index u64        | [`crate::records`] entry  |
//! | `rows`    | group u64, 1                                | meta                      |
//! | `rows`    | group u64, 2                                | vote                      |
//! | `rows`    | group u64, 3                                | applied mark              |
//! | `rows`    | group u64, 16, state generation u32, bytes  | a row of `Table::State`   |
//! | `rows`    | group u64, 17, index generation u32, bytes  | a row of `Table::Index`   |

use crate::types::{GroupId, Table};

/// The version of everything on this page, written when a directory is made.
/// 2 has the acknowledged mark beside the database.
pub const FORMAT: u32 = 2;

pub const FORMAT_FACT: &[u8] = b"format";
pub const CLUSTER_FACT: &[u8] = b"cluster";
pub const NODE_FACT: &[u8] = b"node";
pub const IDENTITY_FACT: &[u8] = b"identity";
const FACT_PREFIX: &[u8] = b"fact/";
const DUE_PREFIX: &[u8; 4] = b"due/";

/// Length of the group at the front of keys of `log` and `rows`.
pub const GROUP_BYTES: usize = 8;
const ENTRY_BYTES: usize = GROUP_BYTES + 4 + 8;
const DUE_BYTES: usize = 4 + 8 + 8;
const ROW_PREFIX_BYTES: usize = GROUP_BYTES + 1 + 4;

const META: u8 = 1;
const VOTE: u8 = 2;
const APPLIED: u8 = 3;
const STATE: u8 = 16;
const INDEX: u8 = 17;

pub fn fact(name: &str) -> Vec<u8> {
    [FACT_PREFIX, name.as_bytes()].concat()
}

pub fn due(due_ms: u64, group: GroupId) -> [u8; DUE_BYTES] {
    let mut key = [0; DUE_BYTES];
    key[..4].copy_from_slice(DUE_PREFIX);
    key[4..12].copy_from_slice(&due_ms.to_be_bytes());
    key[12..].copy_from_slice(&group.0.to_be_bytes());
    key
}

/// The time and the group of a key made by [`due`]; none for any other bytes.
pub fn parse_due(key: &[u8]) -> Option<(u64, GroupId)> {
    let rest = key.strip_prefix(DUE_PREFIX)?;
    let (due_ms, group) = rest.split_first_chunk()?;
    let group = u64::from_be_bytes(group.try_into().ok()?);
    Some((u64::from_be_bytes(*due_ms), GroupId(group)))
}

pub fn entry(group: GroupId, generation: u32, index: u64) -> [u8; ENTRY_BYTES] {
    let mut key = [0; ENTRY_BYTES];
    key[..8].copy_from_slice(&group.0.to_be_bytes());
    key[8..12].copy_from_slice(&generation.to_be_bytes());
    key[12..].copy_from_slice(&index.to_be_bytes());
    key
}

/// The log index of a key made by [`entry`]; none for any other bytes.
pub fn entry_index(key: &[u8]) -> Option<u64> {
    let index: &[u8; 8] = key.last_chunk()?;
    (key.len() == ENTRY_BYTES).then(|| u64::from_be_bytes(*index))
}

/// The first key after all entries of a generation.
pub fn generation_end(group: GroupId, generation: u32) -> Vec<u8> {
    successor(&entry(group, generation, 0)[..12])
}

pub fn meta(group: GroupId) -> [u8; GROUP_BYTES + 1] {
    of_kind(group, META)
}

pub fn vote(group: GroupId) -> [u8; GROUP_BYTES + 1] {
    of_kind(group, VOTE)
}

pub fn applied(group: GroupId) -> [u8; GROUP_BYTES + 1] {
    of_kind(group, APPLIED)
}

pub fn row(group: GroupId, table: Table, generation: u32, key: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(ROW_PREFIX_BYTES + key.len());
    bytes.extend_from_slice(&group.0.to_be_bytes());
    bytes.push(match table {
        Table::State => STATE,
        Table::Index => INDEX,
    });
    bytes.extend_from_slice(&generation.to_be_bytes());
    bytes.extend_from_slice(key);
    bytes
}

/// The first key after all rows of a table's generation.
pub fn rows_end(group: GroupId, table: Table, generation: u32) -> Vec<u8> {
    successor(&row(group, table, generation, &[]))
}

/// The caller's part of a key made by [`row`]; none for any other bytes.
pub fn row_key(key: &[u8]) -> Option<&[u8]> {
    key.get(ROW_PREFIX_BYTES..)
}

/// The smallest key above `key`.
pub fn after(key: &[u8]) -> Vec<u8> {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    next
}

fn of_kind(group: GroupId, kind: u8) -> [u8; GROUP_BYTES + 1] {
    let mut key = [kind; GROUP_BYTES + 1];
    key[..GROUP_BYTES].copy_from_slice(&group.0.to_be_bytes());
    key
}

/// The smallest key above all keys that begin with `prefix`. Group and kind
/// bring every prefix below all ones, except for the last log generation of
/// group `u64::MAX`, which no directory will ever number.
fn successor(prefix: &[u8]) -> Vec<u8> {
    let mut next = prefix.to_vec();
    while let Some(last) = next.pop() {
        if last < u8::MAX {
            next.push(last + 1);
            return next;
        }
    }
    vec![u8::MAX; ENTRY_BYTES + 1]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GROUP: GroupId = GroupId(0x0102_0304_0506_0708);
    const GROUP_HEX: [u8; 8] = [1, 2, 3, 4, 5, 6, 7, 8];

    #[test]
    fn the_format_is_what_is_on_disks_today() {
        let with = |rest: &[u8]| [&GROUP_HEX[..], rest].concat();
        assert_eq!(fact("peer/2"), b"fact/peer/2");
        let due_then = [&b"due/\0\0\0\0\0\0\x01\x02"[..], &GROUP_HEX].concat();
        assert_eq!(due(0x0102, GROUP).to_vec(), due_then);
        assert_eq!(
            entry(GROUP, 9, 0x0a0b).to_vec(),
            with(&[0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0x0a, 0x0b])
        );
        assert_eq!(meta(GROUP).to_vec(), with(&[1]));
        assert_eq!(vote(GROUP).to_vec(), with(&[2]));
        assert_eq!(applied(GROUP).to_vec(), with(&[3]));
        assert_eq!(
            row(GROUP, Table::State, 7, b"k"),
            with(&[16, 0, 0, 0, 7, b'k'])
        );
        assert_eq!(
            row(GROUP, Table::Index, 7, b"k"),
            with(&[17, 0, 0, 0, 7, b'k'])
        );
        assert_eq!(rows_end(GROUP, Table::State, 7), with(&[16, 0, 0, 0, 8]));
        assert_eq!(
            rows_end(GROUP, Table::State, u32::MAX),
            with(&[17]),
            "the last generation ends where the next table begins"
        );
        assert_eq!(generation_end(GROUP, 9), with(&[0, 0, 0, 10]));
    }

    proptest! {
        #[test]
        fn entries_sort_by_group_generation_index(
            a in any::<(u64, u32, u64)>(), b in any::<(u64, u32, u64)>()
        ) {
            let key = |(group, generation, index)| entry(GroupId(group), generation, index);
            prop_assert_eq!(key(a).cmp(&key(b)), a.cmp(&b));
            prop_assert_eq!(entry_index(&key(a)), Some(a.2));
        }

        #[test]
        fn due_times_sort_by_time_and_then_group(a in any::<(u64, u64)>(), b in any::<(u64, u64)>()) {
            let key = |(due_ms, group)| due(due_ms, GroupId(group));
            prop_assert_eq!(key(a).cmp(&key(b)), a.cmp(&b));
            prop_assert_eq!(parse_due(&key(a)), Some((a.0, GroupId(a.1))));
            // Facts of the node lie elsewhere.
            prop_assert!(key(a).as_slice() < FACT_PREFIX);
        }

        #[test]
        fn an_entry_lies_before_the_end_of_its_generation(
            group in 0..u64::MAX, generation: u32, index: u64
        ) {
            let group = GroupId(group);
            let end = generation_end(group, generation);
            prop_assert!(entry(group, generation, index).as_slice() < end.as_slice());
            if let Some(next) = generation.checked_add(1) {
                prop_assert!(end.as_slice() <= entry(group, next, 0).as_slice());
            }
        }

        #[test]
        fn rows_keep_the_order_of_their_keys_within_a_table(
            group: u64, generation: u32, a: Vec<u8>, b: Vec<u8>
        ) {
            let group = GroupId(group);
            for table in [Table::State, Table::Index] {
                let (row_a, row_b) = (row(group, table, generation, &a), row(group, table, generation, &b));
                prop_assert_eq!(row_a.cmp(&row_b), a.cmp(&b));
                prop_assert_eq!(row_key(&row_a), Some(&a[..]));
                prop_assert!(row_a < rows_end(group, table, generation));
                prop_assert!(row_a.starts_with(&group.0.to_be_bytes()));
            }
            prop_assert!(row(group, Table::State, u32::MAX, &a) < row(group, Table::Index, 0, &b));
        }

        #[test]
        fn nothing_lies_between_a_key_and_the_one_after(key: Vec<u8>, other: Vec<u8>) {
            let next = after(&key);
            prop_assert!(key < next);
            prop_assert!(other <= key || other >= next);
        }

        #[test]
        fn foreign_bytes_are_no_entry_key(bytes: Vec<u8>) {
            prop_assert_eq!(entry_index(&bytes).is_some(), bytes.len() == ENTRY_BYTES);
            prop_assert_eq!(parse_due(&bytes), None);
        }
    }
}
