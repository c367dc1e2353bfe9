//! The idempotency keys that are remembered.
//!
//! A key is remembered while its message is younger than a day by the channel's
//! clock *and* among the last 100,000 messages. Lookups decide by that rule and
//! not by whether a row is there, so it does not matter when rows are deleted.
//!
//! Invariants:
//! - Each remembered key has two rows: by scope, and by the seq of its message.
//!   Seq order is also the order of age, because the clock never goes back, so
//!   keys expire in the order of their expiry rows.
//! - A scheduled message has no seq of its own yet. Its key is remembered from
//!   when it was scheduled, with the seq of the head and its own id in the place.
//! - A batch deletes a bounded number of expired keys, and at least as many as
//!   it added, so that the rows stay as few as the window holds, or become so.

use std::ops::Bound;

use accord_storage::{Order, Table};
use bincode::{Decode, Encode};
use sha2::{Digest as _, Sha256};

use super::Head;
use super::command::{Post, Schedule};
use super::keys::{self, Scope};
use crate::machine::{MachineError, Outcome, Overlay, Row, View, codec};

/// A key is forgotten when its message is this old by the channel's clock.
pub const KEY_AGE_MS_MAX: u64 = 24 * 60 * 60 * 1000;
/// A key is forgotten when its message is not among the last so many.
pub const KEY_MESSAGES_MAX: u64 = 100_000;

/// Expired keys that a batch may delete although it added none.
const FORGET_MIN: usize = 64;
/// How many more for each key that it added: two, to catch up.
const FORGET_PER_ADDED: usize = 2;

const REMEMBERED_VERSION: u8 = 1;
/// Of a scheduled message: it has its time as well.
const SCHEDULED_VERSION: u8 = 2;
const EXPIRY_VERSION: u8 = 1;

/// What is remembered for a key: the answer, and what it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Remembered {
    pub(super) seq: u64,
    pub(super) timestamp_ms: u64,
    pub(super) id: [u8; 16],
    pub(super) fingerprint: Fingerprint,
    /// When it is due, if it was scheduled.
    pub(super) due_ms: Option<u64>,
}

/// What makes two commands with the same key the same, hashed.
pub(super) type Fingerprint = [u8; 16];

impl Remembered {
    /// The key of the row by which it expires.
    fn expiry_key(&self) -> Vec<u8> {
        match self.due_ms {
            None => keys::expiry(self.seq),
            Some(_) => keys::expiry_of_scheduled(self.seq, &self.id),
        }
    }

    fn encode(&self) -> Vec<u8> {
        let all = (self.seq, self.timestamp_ms, self.id, self.fingerprint);
        match self.due_ms {
            None => codec::encode_record(REMEMBERED_VERSION, &all),
            Some(due_ms) => codec::encode_record(SCHEDULED_VERSION, &(all, due_ms)),
        }
    }

    pub(super) fn decode(row: &[u8]) -> Result<Self, MachineError> {
        type All = (u64, u64, [u8; 16], Fingerprint);
        let damaged = |_| MachineError::Row("idempotency key");
        let (all, due_ms): (All, _) = match row.first() {
            Some(&SCHEDULED_VERSION) => {
                let (all, due_ms) =
                    codec::decode_record(SCHEDULED_VERSION, row).map_err(damaged)?;
                (all, Some(due_ms))
            }
            _ => {
                let all = codec::decode_record(REMEMBERED_VERSION, row).map_err(damaged)?;
                (all, None)
            }
        };
        let (seq, timestamp_ms, id, fingerprint) = all;
        Ok(Self {
            seq,
            timestamp_ms,
            id,
            fingerprint,
            due_ms,
        })
    }
}

/// What an expiry row says about the key of its message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub(super) struct Expiry {
    pub(super) timestamp_ms: u64,
    pub(super) scope: Scope,
}

/// The place of one user's key, and what the rows hold there.
pub(super) struct Slot {
    scope: Scope,
    /// Also when it has expired: then its rows must go.
    found: Option<Remembered>,
    is_live: bool,
}

impl Slot {
    pub(super) fn find(
        view: &dyn View,
        head: &Head,
        username: &str,
        key: &str,
    ) -> Result<Self, MachineError> {
        let scope = scope(username, key);
        let found = match view.get(Table::State, &keys::remembered(&scope))? {
            Some(row) => Some(Remembered::decode(&row)?),
            None => None,
        };
        let is_live = found.is_some_and(|found| is_live(head, found.seq, found.timestamp_ms));
        Ok(Self {
            scope,
            found,
            is_live,
        })
    }

    /// The answer to a command whose key is remembered.
    pub(super) fn answer(&self, fingerprint: Fingerprint) -> Option<Outcome> {
        let first = self.found.filter(|_| self.is_live)?;
        if first.fingerprint != fingerprint {
            return Some(Outcome::KeyReused);
        }
        Some(match first.due_ms {
            None => Outcome::Posted {
                seq: first.seq,
                timestamp_ms: first.timestamp_ms,
                id: first.id,
                repeated: true,
            },
            Some(due_ms) => Outcome::Scheduled {
                id: first.id,
                due_ms,
                repeated: true,
            },
        })
    }

    /// Remembers the key for the post that the head has just moved to, or for the message that was just
    /// scheduled for `due_ms`.
    pub(super) fn remember(
        &self,
        overlay: &mut Overlay<'_>,
        head: &mut Head,
        id: [u8; 16],
        fingerprint: Fingerprint,
        due_ms: Option<u64>,
    ) {
        if let Some(expired) = self.found {
            overlay.delete(Table::State, expired.expiry_key());
        }
        let remembered = Remembered {
            seq: head.seq,
            timestamp_ms: head.clock_ms,
            id,
            fingerprint,
            due_ms,
        };
        let expiry = Expiry {
            timestamp_ms: head.clock_ms,
            scope: self.scope,
        };
        overlay.put(
            Table::State,
            keys::remembered(&self.scope),
            remembered.encode(),
        );
        overlay.put(
            Table::State,
            remembered.expiry_key(),
            codec::encode_record(EXPIRY_VERSION, &expiry),
        );
        head.oldest_key.get_or_insert((head.seq, head.clock_ms));
    }
}

/// Deletes expired keys, oldest first, at the end of a batch with `added` keys.
pub(super) fn forget(
    overlay: &mut Overlay<'_>,
    head: &mut Head,
    added: usize,
) -> Result<(), MachineError> {
    // Reading begins at the oldest and not at the first possible key: storage
    // would have to step over what was deleted there before.
    let mut next = match head.oldest_key {
        Some((seq, timestamp_ms)) if !is_live(head, seq, timestamp_ms) => keys::expiry(seq),
        _ => return Ok(()),
    };
    let mut left = FORGET_MIN.max(added * FORGET_PER_ADDED);
    // In a steady stream of keys about as many expire as are added, so little
    // is read in vain; more only when there is more to catch up with.
    let mut page = added + 2;
    loop {
        let rows = expiries_from(overlay, &next, page)?;
        let is_last = rows.len() < page;
        for (key, seq, expiry) in rows {
            if left == 0 || is_live(head, seq, expiry.timestamp_ms) {
                head.oldest_key = Some((seq, expiry.timestamp_ms));
                return Ok(());
            }
            overlay.delete(Table::State, keys::remembered(&expiry.scope));
            // Nothing lies between a key and this one, and it is deleted itself.
            next.clone_from(&key);
            overlay.delete(Table::State, key);
            left -= 1;
        }
        if is_last {
            head.oldest_key = None;
            return Ok(());
        }
        page *= 2;
    }
}

fn expiries_from(
    view: &dyn View,
    from: &[u8],
    limit: usize,
) -> Result<Vec<(Vec<u8>, u64, Expiry)>, MachineError> {
    let (from, to) = (Bound::Included(from), keys::ALL_EXPIRY.1);
    let rows = view.scan(Table::State, from, to, Order::Ascending, limit)?;
    let decode = |(key, value): Row| {
        let seq = keys::parse_expiry(&key).ok_or(MachineError::Row("key expiry"))?;
        let expiry = decode_expiry(&value)?;
        Ok((key, seq, expiry))
    };
    rows.into_iter().map(decode).collect()
}

/// The rule: whether the key of this message is remembered.
fn is_live(head: &Head, seq: u64, timestamp_ms: u64) -> bool {
    head.clock_ms.saturating_sub(timestamp_ms) < KEY_AGE_MS_MAX
        && head.seq.saturating_sub(seq) < KEY_MESSAGES_MAX
}

/// A key belongs to its user. Hashed, so that rows are short whatever people
/// choose; the length keeps a name from running into the key.
fn scope(username: &str, key: &str) -> Scope {
    let mut hash = Sha256::new();
    hash.update((username.len() as u64).to_le_bytes());
    hash.update(username);
    hash.update(key);
    truncated(hash)
}

pub(super) fn fingerprint(post: &Post<'_>) -> Fingerprint {
    fingerprint_after(Sha256::new(), post)
}

/// No post has that of a scheduled one: they begin with other bytes.
pub(super) fn fingerprint_of_scheduled(schedule: &Schedule<'_>) -> Fingerprint {
    let mut hash = Sha256::new();
    hash.update([2]);
    hash.update(schedule.due_ms.to_le_bytes());
    fingerprint_after(hash, &schedule.post)
}

fn fingerprint_after(mut hash: Sha256, post: &Post<'_>) -> Fingerprint {
    match &post.reply_to {
        Some(id) => {
            hash.update([1]);
            hash.update(id);
        }
        None => hash.update([0]),
    }
    hash.update(post.body);
    truncated(hash)
}

fn truncated(hash: Sha256) -> [u8; 16] {
    let hash: [u8; 32] = hash.finalize().into();
    *hash.first_chunk().expect("16 of 32 bytes")
}

fn decode_expiry(row: &[u8]) -> Result<Expiry, MachineError> {
    codec::decode_record(EXPIRY_VERSION, row).map_err(|_| MachineError::Row("key expiry"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn golden() {
        let post = Post {
            id: [1; 16],
            username: "ada",
            body: "hello",
            key: Some("k"),
            expected_head: None,
            reply_to: None,
        };
        let hex = |bytes: [u8; 16]| bytes.map(|byte| format!("{byte:02x}")).concat();
        assert_eq!(hex(scope("ada", "k")), SCOPE);
        assert_eq!(hex(fingerprint(&post)), FINGERPRINT);
        let remembered = Remembered {
            seq: 5,
            timestamp_ms: 300,
            id: [1; 16],
            fingerprint: [2; 16],
            due_ms: None,
        };
        let row = remembered.encode();
        assert_eq!(row, [&[1, 5, 251, 44, 1][..], &[1; 16], &[2; 16]].concat());
        let scheduled = Remembered {
            due_ms: Some(300),
            ..remembered
        };
        let row = [&[2, 5, 251, 44, 1][..], &[1; 16], &[2; 16], &[251, 44, 1]];
        assert_eq!(scheduled.encode(), row.concat());
        let expiry = Expiry {
            timestamp_ms: 300,
            scope: [3; 16],
        };
        let row = codec::encode_record(EXPIRY_VERSION, &expiry);
        assert_eq!(row, [&[1, 251, 44, 1][..], &[3; 16]].concat());
    }

    // Computed once with another program (Python's hashlib).
    const SCOPE: &str = "967a5f8146ca523b819d244f91e5cc73";
    const FINGERPRINT: &str = "8a2a5c9b768827de5a9552c38a044c66";

    #[test]
    fn scope_and_fingerprint_keep_things_apart() {
        assert_ne!(scope("ab", "c"), scope("a", "bc"));
        assert_ne!(scope("a", "b"), scope("b", "b"));
        let mut post = Post {
            id: [1; 16],
            username: "ada",
            body: "hello",
            key: Some("k"),
            expected_head: None,
            reply_to: None,
        };
        let plain = fingerprint(&post);
        post.id = [2; 16];
        post.expected_head = Some(1);
        assert_eq!(fingerprint(&post), plain);
        let later = |due_ms| Schedule {
            post: post.clone(),
            due_ms,
            call: None,
        };
        assert_ne!(fingerprint_of_scheduled(&later(5)), plain);
        assert_ne!(
            fingerprint_of_scheduled(&later(5)),
            fingerprint_of_scheduled(&later(6))
        );
        post.reply_to = Some([0; 16]);
        assert_ne!(fingerprint(&post), plain);
    }

    #[test]
    fn live_while_younger_than_a_day_and_among_the_last() {
        let head = |seq, clock_ms| Head {
            seq,
            clock_ms,
            ..Head::default()
        };
        assert!(is_live(&head(100_004, 0), 5, 0));
        assert!(!is_live(&head(100_005, 0), 5, 0));
        assert!(is_live(&head(5, KEY_AGE_MS_MAX + 6), 5, 7));
        assert!(!is_live(&head(5, KEY_AGE_MS_MAX + 7), 5, 7));
    }

    proptest! {
        #[test]
        fn rows_round_trip(seq: u64, timestamp_ms: u64, id: [u8; 16], fingerprint: [u8; 16], due_ms: Option<u64>) {
            let remembered = Remembered { seq, timestamp_ms, id, fingerprint, due_ms };
            prop_assert_eq!(Remembered::decode(&remembered.encode()).unwrap(), remembered);
            let expiry = Expiry { timestamp_ms, scope: id };
            let row = codec::encode_record(EXPIRY_VERSION, &expiry);
            prop_assert_eq!(decode_expiry(&row).unwrap(), expiry);
        }

        #[test]
        fn any_bytes_decode_or_fail(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = Remembered::decode(&bytes);
            let _ = decode_expiry(&bytes);
        }
    }
}
