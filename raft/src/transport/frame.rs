//! The frames of an agreed connection: `[len u32][type u8][id u64][tag u8][body]`, little-endian.
//!
//! `len` counts what follows it. `id` pairs an answer with its request; `tag` is a request's kind or
//! an answer's status. Pure: bytes in, frames out. A frame that breaks a rule is an error as soon as
//! the bytes that break it are there, and the connection that it came on is not usable after that.

use bytes::{Buf, Bytes, BytesMut};

/// Largest `len`: what one frame can make the other end hold in memory at once.
pub const FRAME_BYTES_MAX: usize = 8 << 20;
/// Largest body of a request or an answer, in bytes.
pub const BODY_BYTES_MAX: usize = FRAME_BYTES_MAX - (HEADER_BYTES - LEN_BYTES);

pub(super) const HEADER_BYTES: usize = 14;
const LEN_BYTES: usize = 4;

const REQUEST: u8 = 1;
const ANSWER: u8 = 2;
const PING: u8 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FrameType {
    Request,
    Answer,
    /// The nodes that the sender sees; keeps the link from looking silent.
    Ping,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) frame_type: FrameType,
    pub(super) id: u64,
    pub(super) tag: u8,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) header: Header,
    pub(super) body: Bytes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FrameError {
    #[error("a frame of {0} bytes is over the bound of {FRAME_BYTES_MAX}")]
    Oversize(usize),
    #[error("a frame of {0} bytes is too short to be one")]
    Undersize(usize),
    #[error("a frame of the unknown type {0}")]
    UnknownType(u8),
    #[error("a frame that does not belong on this side of a connection")]
    Misplaced,
    #[error("a ping that is not a list of nodes")]
    BadPing,
}

impl Header {
    /// The first bytes of a frame with a body of this length, which must be at most
    /// [`BODY_BYTES_MAX`].
    pub(super) fn encode(self, body_bytes: usize) -> [u8; HEADER_BYTES] {
        assert!(body_bytes <= BODY_BYTES_MAX, "callers refuse larger bodies");
        let len =
            u32::try_from(HEADER_BYTES - LEN_BYTES + body_bytes).expect("8 MiB fit in 32 bits");
        let mut bytes = [0; HEADER_BYTES];
        bytes[..4].copy_from_slice(&len.to_le_bytes());
        bytes[4] = match self.frame_type {
            FrameType::Request => REQUEST,
            FrameType::Answer => ANSWER,
            FrameType::Ping => PING,
        };
        bytes[5..13].copy_from_slice(&self.id.to_le_bytes());
        bytes[13] = self.tag;
        bytes
    }
}

/// Takes the first frame out of `buffer` if it is there as a whole; its body shares the buffer.
pub(super) fn decode(buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
    let Some(len) = announced(buffer)? else {
        return Ok(None);
    };
    let Some(frame_type) = frame_type(buffer)? else {
        return Ok(None);
    };
    if buffer.len() < LEN_BYTES + len {
        return Ok(None);
    }
    let mut bytes = buffer.split_to(LEN_BYTES + len).freeze();
    bytes.advance(LEN_BYTES + 1);
    let id = bytes.get_u64_le();
    let tag = bytes.get_u8();
    Ok(Some(Frame {
        header: Header {
            frame_type,
            id,
            tag,
        },
        body: bytes,
    }))
}

/// How many bytes are missing from the frame at the front of `buffer`; 0 if that is not known yet.
pub(super) fn missing(buffer: &BytesMut) -> usize {
    let len = announced(buffer).ok().flatten().unwrap_or(0);
    (LEN_BYTES + len).saturating_sub(buffer.len())
}

fn announced(buffer: &BytesMut) -> Result<Option<usize>, FrameError> {
    let Some(bytes) = buffer.first_chunk::<LEN_BYTES>() else {
        return Ok(None);
    };
    let len = usize::try_from(u32::from_le_bytes(*bytes)).unwrap_or(usize::MAX);
    match len {
        len if len > FRAME_BYTES_MAX => Err(FrameError::Oversize(len)),
        len if len < HEADER_BYTES - LEN_BYTES => Err(FrameError::Undersize(len)),
        len => Ok(Some(len)),
    }
}

fn frame_type(buffer: &BytesMut) -> Result<Option<FrameType>, FrameError> {
    match buffer.get(LEN_BYTES) {
        None => Ok(None),
        Some(&REQUEST) => Ok(Some(FrameType::Request)),
        Some(&ANSWER) => Ok(Some(FrameType::Answer)),
        Some(&PING) => Ok(Some(FrameType::Ping)),
        Some(&other) => Err(FrameError::UnknownType(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encoded(frame: &Frame) -> Vec<u8> {
        let mut bytes = frame.header.encode(frame.body.len()).to_vec();
        bytes.extend_from_slice(&frame.body);
        bytes
    }

    fn any_frame() -> impl Strategy<Value = Frame> {
        let types = prop_oneof![
            Just(FrameType::Request),
            Just(FrameType::Answer),
            Just(FrameType::Ping)
        ];
        let body = prop::collection::vec(any::<u8>(), 0..200);
        (types, any::<u64>(), any::<u8>(), body).prop_map(|(frame_type, id, tag, body)| Frame {
            header: Header {
                frame_type,
                id,
                tag,
            },
            body: body.into(),
        })
    }

    /// Feeds the pieces as a socket would, and decodes whatever is complete after each.
    fn decode_pieces<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Result<Vec<Frame>, FrameError> {
        let (mut buffer, mut frames) = (BytesMut::new(), Vec::new());
        for piece in pieces {
            buffer.extend_from_slice(piece);
            while let Some(frame) = decode(&mut buffer)? {
                frames.push(frame);
            }
        }
        Ok(frames)
    }

    #[test]
    fn golden_bytes() {
        let header = Header {
            frame_type: FrameType::Request,
            id: 0x0102_0304_0506_0708,
            tag: 9,
        };
        let frame = Frame {
            header,
            body: Bytes::from_static(b"hi"),
        };
        assert_eq!(
            encoded(&frame),
            [12, 0, 0, 0, 1, 8, 7, 6, 5, 4, 3, 2, 1, 9, b'h', b'i']
        );
    }

    #[test]
    fn breaks_are_noticed_at_the_first_bytes_that_show_them() {
        let check =
            |bytes: &[u8], expected| assert_eq!(decode(&mut BytesMut::from(bytes)), expected);
        check(&[9, 0, 0, 0], Err(FrameError::Undersize(9)));
        check(
            &[1, 0, 0x80, 0],
            Err(FrameError::Oversize(FRAME_BYTES_MAX + 1)),
        );
        check(&[0, 0, 0x80, 0], Ok(None));
        check(&[10, 0, 0, 0, 4], Err(FrameError::UnknownType(4)));
        check(&[10, 0, 0, 0, 0], Err(FrameError::UnknownType(0)));
    }

    proptest! {
        #[test]
        fn splits_do_not_matter(
            frames in prop::collection::vec(any_frame(), 0..8),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
        ) {
            let bytes: Vec<u8> = frames.iter().flat_map(encoded).collect();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]);
            prop_assert_eq!(decode_pieces(pieces), Ok(frames.clone()));
            prop_assert_eq!(decode_pieces(bytes.chunks(1)), Ok(frames));
        }

        #[test]
        fn any_bytes_end_well(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let whole = decode_pieces(std::iter::once(bytes.as_slice()));
            let single = decode_pieces(bytes.chunks(1));
            prop_assert_eq!(whole, single);
            missing(&BytesMut::from(bytes.as_slice()));
        }

        #[test]
        fn missing_is_what_completes_the_frame(frame in any_frame(), cut in any::<prop::sample::Index>()) {
            let bytes = encoded(&frame);
            let cut = cut.index(bytes.len() - LEN_BYTES + 1) + LEN_BYTES;
            prop_assert_eq!(missing(&BytesMut::from(&bytes[..cut])), bytes.len() - cut);
        }
    }
}
