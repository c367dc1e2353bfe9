//! The one place that names bincode.
//!
//! Every decode has a limit: without one, a few hostile bytes that announce a
//! huge length make the process allocate until it dies. The settings are part
//! of the disk format and of the snapshot format.

use bincode::config::{Configuration, Limit, LittleEndian, Varint};

/// No record and no item of a snapshot is larger: twice the largest entry that
/// the mailbox of a group makes would still fit many times.
pub const ITEM_BYTES_MAX: usize = 64 << 20;

pub use bincode::{BorrowDecode, Encode};

const CONFIG: Configuration<LittleEndian, Varint, Limit<ITEM_BYTES_MAX>> =
    bincode::config::standard().with_limit::<ITEM_BYTES_MAX>();

/// Appends the encoding of `value`.
pub fn encode<T: Encode>(value: &T, out: &mut Vec<u8>) {
    bincode::encode_into_std_write(value, out, CONFIG)
        .expect("a Vec takes every byte, and our types have no value that cannot be encoded");
}

/// Decodes one value from the front of `bytes` and returns what follows it.
pub fn decode<'a, T: BorrowDecode<'a, ()>>(bytes: &'a [u8]) -> Result<(T, &'a [u8]), String> {
    let (value, used) = bincode::borrow_decode_from_slice(bytes, CONFIG)
        .map_err(|error| format!("it cannot be decoded: {error}"))?;
    Ok((value, bytes.get(used..).unwrap_or_default()))
}

/// Decodes one value that must use all of `bytes`.
pub fn decode_all<'a, T: BorrowDecode<'a, ()>>(bytes: &'a [u8]) -> Result<T, String> {
    match decode(bytes)? {
        (value, []) => Ok(value),
        (_, rest) => Err(format!("{} bytes follow its end", rest.len())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_announced_length_beyond_the_limit_is_an_error() {
        // 253 announces a u64: the length of a Vec, 2^63 here.
        let hostile = [253, 0, 0, 0, 0, 0, 0, 0, 0x80];
        assert!(decode::<Vec<u8>>(&hostile).is_err());
        assert!(decode::<&[u8]>(&hostile).is_err());
    }

    #[test]
    fn a_rest_is_returned_or_refused() {
        let mut bytes = Vec::new();
        encode(&7u32, &mut bytes);
        assert_eq!(decode_all::<u32>(&bytes), Ok(7));
        bytes.push(1);
        assert_eq!(decode::<u32>(&bytes), Ok((7, &[1][..])));
        assert!(decode_all::<u32>(&bytes).is_err());
    }
}
