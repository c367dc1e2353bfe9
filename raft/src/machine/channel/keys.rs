//! Every key of a channel's rows.
//!
//! | table | key | value |
//! |---|---|---|
//! | State | `01` | head |
//! | State | `02` node u64 BE | its newest session, see `session.rs` |
//! | State | `03` scope (16 bytes) | remembered idempotency key |
//! | State | `04` seq u64 BE | its scope and timestamp: keys in order of age |
//! | State | `04` seq u64 BE, id (16 bytes) | the same, of a message scheduled when the head was at seq |
//! | State | `05` due_ms u64 BE, id (16 bytes) | a version: scheduled messages in order of time |
//! | State | `06` id (16 bytes) | scheduled message |
//! | State | `07` seq u64 BE | job of the command with that seq |
//! | Index | first seq u64 BE | index row |
//!
//! Keys in `Table::State` that begin with `00` are left to the shell.
//!
//! Invariant: big-endian numbers, so that key order is the order of seq.

use std::ops::Bound;

const HEAD_TAG: u8 = 0x01;
const REMEMBERED_TAG: u8 = 0x03;
const EXPIRY_TAG: u8 = 0x04;
const PLACE_TAG: u8 = 0x05;
const SCHEDULED_TAG: u8 = 0x06;
const JOB_TAG: u8 = 0x07;

/// A user's idempotency key, hashed.
pub(super) type Scope = [u8; 16];

pub(super) fn head() -> Vec<u8> {
    vec![HEAD_TAG]
}

pub(super) fn remembered(scope: &Scope) -> Vec<u8> {
    tagged(REMEMBERED_TAG, scope)
}

pub(super) fn expiry(seq: u64) -> Vec<u8> {
    tagged(EXPIRY_TAG, &seq.to_be_bytes())
}

/// The same for the key of a scheduled message, which has no seq of its own yet.
pub(super) fn expiry_of_scheduled(seq: u64, id: &[u8; 16]) -> Vec<u8> {
    numbered(EXPIRY_TAG, seq, id)
}

/// The seq of an expiry key of either kind.
pub(super) fn parse_expiry(key: &[u8]) -> Option<u64> {
    let (seq, id) = parse_number(EXPIRY_TAG, key)?;
    matches!(id.len(), 0 | 16).then_some(seq)
}

pub(super) fn place(due_ms: u64, id: &[u8; 16]) -> Vec<u8> {
    numbered(PLACE_TAG, due_ms, id)
}

pub(super) fn parse_place(key: &[u8]) -> Option<(u64, [u8; 16])> {
    let (due_ms, id) = parse_number(PLACE_TAG, key)?;
    Some((due_ms, id.try_into().ok()?))
}

/// The range of all places.
pub(super) const ALL_PLACES: (Bound<&[u8]>, Bound<&[u8]>) = (
    Bound::Included(&[PLACE_TAG]),
    Bound::Excluded(&[PLACE_TAG + 1]),
);

pub(super) fn scheduled(id: &[u8; 16]) -> Vec<u8> {
    tagged(SCHEDULED_TAG, id)
}

pub(super) fn job(seq: u64) -> Vec<u8> {
    numbered(JOB_TAG, seq, &[])
}

pub(super) fn parse_job(key: &[u8]) -> Option<u64> {
    let (seq, rest) = parse_number(JOB_TAG, key)?;
    rest.is_empty().then_some(seq)
}

/// The range of all jobs.
pub(super) const ALL_JOBS: (Bound<&[u8]>, Bound<&[u8]>) =
    (Bound::Included(&[JOB_TAG]), Bound::Excluded(&[JOB_TAG + 1]));

#[cfg(feature = "planted-bugs")]
pub(crate) fn is_remembered_key(key: &[u8]) -> bool {
    matches!(key.first(), Some(&(REMEMBERED_TAG | EXPIRY_TAG)))
}

/// The range of all expiry keys.
pub(super) const ALL_EXPIRY: (Bound<&[u8]>, Bound<&[u8]>) = (
    Bound::Included(&[EXPIRY_TAG]),
    Bound::Excluded(&[EXPIRY_TAG + 1]),
);

pub(super) fn index(first_seq: u64) -> Vec<u8> {
    first_seq.to_be_bytes().to_vec()
}

pub(super) fn parse_index(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(key.try_into().ok()?))
}

fn numbered(tag: u8, number: u64, rest: &[u8]) -> Vec<u8> {
    let mut key = tagged(tag, &number.to_be_bytes());
    key.extend_from_slice(rest);
    key
}

fn parse_number(tag: u8, key: &[u8]) -> Option<(u64, &[u8])> {
    let (found, rest) = key.split_first()?;
    let (number, rest) = rest.split_first_chunk()?;
    (*found == tag).then_some((u64::from_be_bytes(*number), rest))
}

fn tagged(tag: u8, rest: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + rest.len());
    key.push(tag);
    key.extend_from_slice(rest);
    key
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn golden() {
        assert_eq!(head(), [1]);
        assert_eq!(remembered(&[9; 16])[..3], [3, 9, 9]);
        assert_eq!(remembered(&[9; 16]).len(), 17);
        assert_eq!(expiry(0x0102), [4, 0, 0, 0, 0, 0, 0, 1, 2]);
        let with_id = |start: [u8; 9]| [&start[..], &[9; 16]].concat();
        assert_eq!(
            expiry_of_scheduled(0x0102, &[9; 16]),
            with_id([4, 0, 0, 0, 0, 0, 0, 1, 2])
        );
        assert_eq!(
            place(0x0102, &[9; 16]),
            with_id([5, 0, 0, 0, 0, 0, 0, 1, 2])
        );
        assert_eq!(scheduled(&[9; 16]), [&[6][..], &[9; 16]].concat());
        assert_eq!(job(0x0102), [7, 0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(index(0x0102), [0, 0, 0, 0, 0, 0, 1, 2]);
    }

    proptest! {
        #[test]
        fn round_trip_in_order(a: u64, b: u64, id: [u8; 16], bytes in proptest::collection::vec(any::<u8>(), 0..27)) {
            prop_assert_eq!(parse_expiry(&expiry(a)), Some(a));
            prop_assert_eq!(parse_index(&index(a)), Some(a));
            prop_assert_eq!(expiry(a).cmp(&expiry(b)), a.cmp(&b));
            prop_assert_eq!(index(a).cmp(&index(b)), a.cmp(&b));
            prop_assert_eq!(parse_expiry(&expiry_of_scheduled(a, &id)), Some(a));
            prop_assert_eq!(parse_place(&place(a, &id)), Some((a, id)));
            prop_assert_eq!(parse_job(&job(a)), Some(a));
            prop_assert_eq!(place(a, &id).cmp(&place(b, &id)), a.cmp(&b));
            prop_assert_eq!(job(a).cmp(&job(b)), a.cmp(&b));
            if let Some(seq) = parse_expiry(&bytes) {
                prop_assert!(bytes.starts_with(&expiry(seq)));
            }
            if let Some((due_ms, id)) = parse_place(&bytes) {
                prop_assert_eq!(place(due_ms, &id), &*bytes);
            }
            if let Some(seq) = parse_job(&bytes) {
                prop_assert_eq!(job(seq), &*bytes);
            }
            if let Some(seq) = parse_index(&bytes) {
                prop_assert_eq!(index(seq), bytes);
            }
        }
    }
}
