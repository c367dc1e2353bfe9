//! The one place of this crate that knows how values become bytes for disk and peers, state
//! machines apart.
//!
//! Decoding is always limited: without a limit nine hostile bytes make bincode allocate until the
//! process dies.

use bincode::Decode;
use bincode::Encode;
use bincode::config;

const CONFIG: config::Configuration = config::standard();

/// Bytes that are not what they should be.
#[derive(Debug, thiserror::Error)]
#[error("malformed record: {0}")]
pub(crate) struct Malformed(String);

pub(crate) fn encode<T: Encode>(value: &T) -> Vec<u8> {
    bincode::encode_to_vec(value, CONFIG).expect("encoding into memory has no way to fail")
}

/// Decodes all of `bytes`, allocating at most `LIMIT` bytes for what they claim to hold.
pub(crate) fn decode<T: Decode<()>, const LIMIT: usize>(bytes: &[u8]) -> Result<T, Malformed> {
    let (value, used) = bincode::decode_from_slice(bytes, CONFIG.with_limit::<LIMIT>())
        .map_err(|error| Malformed(error.to_string()))?;
    if used != bytes.len() {
        return Err(Malformed(format!("{} bytes too many", bytes.len() - used)));
    }
    Ok(value)
}
