//! Every key of the directory's rows, all in `Table::State`.
//!
//! | key | value |
//! |---|---|
//! | `01` | head |
//! | `02` node u64 BE | its newest session, see `session.rs` |
//! | `10` ordinal u64 BE | server |
//! | `11` server (16 bytes) | its ordinal |
//! | `12` server (16 bytes), ordinal u64 BE | channel |
//! | `13` channel (16 bytes) | its [`Place`] |
//! | `14` group u64 BE | the [`Place`] of its channel |
//! | `15` node u64 BE | node |
//!
//! Keys that begin with `00` are left to the shell.
//!
//! Invariant: big-endian numbers, so that lists are in order of creation and
//! nodes in order of number.

use std::ops::Bound;

use bincode::{Decode, Encode};

const HEAD_TAG: u8 = 0x01;
const SERVER_TAG: u8 = 0x10;
const SERVER_ID_TAG: u8 = 0x11;
const CHANNEL_TAG: u8 = 0x12;
const CHANNEL_ID_TAG: u8 = 0x13;
const GROUP_TAG: u8 = 0x14;
const NODE_TAG: u8 = 0x15;

/// Where the record of a channel is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub(super) struct Place {
    pub(super) server: [u8; 16],
    pub(super) ordinal: u64,
}

/// A range of keys that owns its ends.
pub(super) struct KeyRange {
    from: Bound<Vec<u8>>,
    to: Bound<Vec<u8>>,
}

impl KeyRange {
    pub(super) fn bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
        let (from, to) = (self.from.as_ref(), self.to.as_ref());
        (from.map(Vec::as_slice), to.map(Vec::as_slice))
    }
}

pub(super) fn head() -> Vec<u8> {
    vec![HEAD_TAG]
}

pub(super) fn server(ordinal: u64) -> Vec<u8> {
    key(SERVER_TAG, &[&ordinal.to_be_bytes()])
}

pub(super) fn parse_server(key: &[u8]) -> Option<u64> {
    number_after(&[SERVER_TAG], key)
}

/// The servers after an ordinal, or all.
pub(super) fn servers_after(after: Option<u64>) -> KeyRange {
    range_after(key(SERVER_TAG, &[]), after)
}

pub(super) fn server_id(id: &[u8; 16]) -> Vec<u8> {
    key(SERVER_ID_TAG, &[id])
}

pub(super) fn channel(place: &Place) -> Vec<u8> {
    key(CHANNEL_TAG, &[&place.server, &place.ordinal.to_be_bytes()])
}

/// The ordinal of a channel of this server.
pub(super) fn parse_channel(server: &[u8; 16], channel: &[u8]) -> Option<u64> {
    number_after(&key(CHANNEL_TAG, &[server]), channel)
}

/// The channels of a server after an ordinal, or all.
pub(super) fn channels_after(server: &[u8; 16], after: Option<u64>) -> KeyRange {
    range_after(key(CHANNEL_TAG, &[server]), after)
}

pub(super) fn channel_id(id: &[u8; 16]) -> Vec<u8> {
    key(CHANNEL_ID_TAG, &[id])
}

pub(super) fn group(group: u64) -> Vec<u8> {
    key(GROUP_TAG, &[&group.to_be_bytes()])
}

pub(super) fn node(id: u64) -> Vec<u8> {
    key(NODE_TAG, &[&id.to_be_bytes()])
}

pub(super) fn parse_node(key: &[u8]) -> Option<u64> {
    number_after(&[NODE_TAG], key)
}

pub(super) fn nodes() -> KeyRange {
    range_after(key(NODE_TAG, &[]), None)
}

fn key(tag: u8, rest: &[&[u8]]) -> Vec<u8> {
    let mut key = vec![tag];
    for part in rest {
        key.extend_from_slice(part);
    }
    key
}

/// The keys of a prefix and a number greater than `after`.
fn range_after(prefix: Vec<u8>, after: Option<u64>) -> KeyRange {
    let with = |number: u64| [&prefix[..], &number.to_be_bytes()].concat();
    KeyRange {
        from: match after {
            Some(after) => Bound::Excluded(with(after)),
            None => Bound::Included(with(0)),
        },
        to: Bound::Included(with(u64::MAX)),
    }
}

fn number_after(prefix: &[u8], key: &[u8]) -> Option<u64> {
    let number = key.strip_prefix(prefix)?;
    Some(u64::from_be_bytes(number.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn golden() {
        let number = [0, 0, 0, 0, 0, 0, 1, 2];
        let id = [7; 16];
        let place = Place {
            server: id,
            ordinal: 0x0102,
        };
        assert_eq!(head(), [0x01]);
        assert_eq!(server(0x0102), [&[0x10][..], &number].concat());
        assert_eq!(server_id(&id), [&[0x11][..], &id].concat());
        assert_eq!(channel(&place), [&[0x12][..], &id, &number].concat());
        assert_eq!(channel_id(&id), [&[0x13][..], &id].concat());
        assert_eq!(group(0x0102), [&[0x14][..], &number].concat());
        assert_eq!(node(0x0102), [&[0x15][..], &number].concat());
    }

    proptest! {
        #[test]
        fn round_trip_in_order(a: u64, b: u64, id: [u8; 16], other: [u8; 16], bytes in proptest::collection::vec(any::<u8>(), 0..30)) {
            let place = |ordinal| Place { server: id, ordinal };
            prop_assert_eq!(parse_server(&server(a)), Some(a));
            prop_assert_eq!(parse_node(&node(a)), Some(a));
            prop_assert_eq!(parse_channel(&id, &channel(&place(a))), Some(a));
            prop_assert_eq!(parse_channel(&other, &channel(&place(a))).is_some(), id == other);
            prop_assert_eq!(server(a).cmp(&server(b)), a.cmp(&b));
            prop_assert_eq!(node(a).cmp(&node(b)), a.cmp(&b));
            prop_assert_eq!(channel(&place(a)).cmp(&channel(&place(b))), a.cmp(&b));
            for parsed in [parse_server(&bytes), parse_node(&bytes), parse_channel(&id, &bytes)] {
                prop_assert!(parsed.is_none() || bytes.len() >= 9);
            }
        }
    }
}
