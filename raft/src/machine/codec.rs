//! The one place that calls bincode, always with a limit.
//!
//! Everything that is stored or sent as bincode goes through here, so that
//! a byte-compatible successor can replace the crate in one file. Integers are
//! little-endian and variable in length, strings and lists carry their length.
//!
//! Invariants: a decoder never allocates more than its limit for lengths that
//! the bytes merely claim, never panics, and refuses trailing bytes. A record
//! (a row, a list of outcomes) begins with a version byte.

use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use thiserror::Error;

use super::part::PART_BYTES_MAX;

/// Most bytes that a value may claim. More than a part, so that whatever came in
/// with a command can be stored and read again; eight times as much, so that
/// the outcomes of a full part fit even if each is a channel with a long name
/// (at most about 1 KiB each for 4,096 of them).
const CLAIM_BYTES_MAX: usize = 8 * PART_BYTES_MAX;

const CONFIG: Configuration<LittleEndian, Varint, Limit<CLAIM_BYTES_MAX>> =
    bincode::config::standard().with_limit::<CLAIM_BYTES_MAX>();

/// Bytes that are not what they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("these bytes cannot be decoded")]
pub struct DecodeError;

/// Encodes a value without a version byte.
pub(super) fn encode(value: &impl bincode::Encode) -> Vec<u8> {
    bincode::encode_to_vec(value, CONFIG).expect("our types always encode into memory")
}

/// Decodes the value at the beginning of `bytes`, borrowing from them, and says
/// how many bytes it took.
pub(super) fn decode_first<'a, T: bincode::BorrowDecode<'a, ()>>(
    bytes: &'a [u8],
) -> Result<(T, usize), DecodeError> {
    bincode::borrow_decode_from_slice(bytes, CONFIG).map_err(|_| DecodeError)
}

/// Encodes a record: the version byte, then the value.
pub(super) fn encode_record(version: u8, value: &impl bincode::Encode) -> Vec<u8> {
    let mut record = vec![version];
    bincode::encode_into_std_write(value, &mut record, CONFIG)
        .expect("our types always encode into memory");
    record
}

/// Decodes a record that must have this version and nothing after the value.
pub(super) fn decode_record<T: bincode::Decode<()>>(
    version: u8,
    record: &[u8],
) -> Result<T, DecodeError> {
    let (found, value) = record.split_first().ok_or(DecodeError)?;
    if *found != version {
        return Err(DecodeError);
    }
    let (decoded, used) = bincode::decode_from_slice(value, CONFIG).map_err(|_| DecodeError)?;
    if used != value.len() {
        return Err(DecodeError);
    }
    Ok(decoded)
}
