//! Every key of a channel's rows.
//!
//! | table | key | value |
//! |---|---|---|
//! | State | `01` | head |
//! | State | `02` node u64 BE | its newest session, see `session.rs` |
//! | State | `03` scope (16 bytes) | remembered idempotency key |
//! | State | `04` seq u64 BE | its scope and timestamp: keys in order of age |
//! | Index | first seq u64 BE | index row |
//!
//! Keys in `Table::State` that begin with `00` are left to the shell.
//!
//! Invariant: big-endian numbers, so that key order is the order of seq.

use std::ops::Bound;

const HEAD_TAG: u8 = 0x01;
const REMEMBERED_TAG: u8 = 0x03;
const EXPIRY_TAG: u8 = 0x04;

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

pub(super) fn parse_expiry(key: &[u8]) -> Option<u64> {
    let (tag, seq) = key.split_first()?;
    (*tag == EXPIRY_TAG).then_some(())?;
    Some(u64::from_be_bytes(seq.try_into().ok()?))
}

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
        assert_eq!(index(0x0102), [0, 0, 0, 0, 0, 0, 1, 2]);
    }

    proptest! {
        #[test]
        fn round_trip_in_order(a: u64, b: u64, bytes in proptest::collection::vec(any::<u8>(), 0..12)) {
            prop_assert_eq!(parse_expiry(&expiry(a)), Some(a));
            prop_assert_eq!(parse_index(&index(a)), Some(a));
            prop_assert_eq!(expiry(a).cmp(&expiry(b)), a.cmp(&b));
            prop_assert_eq!(index(a).cmp(&index(b)), a.cmp(&b));
            if let Some(seq) = parse_expiry(&bytes) {
                prop_assert_eq!(expiry(seq), &*bytes);
            }
            if let Some(seq) = parse_index(&bytes) {
                prop_assert_eq!(index(seq), bytes);
            }
        }
    }
}
