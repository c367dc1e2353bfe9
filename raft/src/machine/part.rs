//! Parts: what one session sends at once.
//!
//! A part is a header of fixed size and commands behind it, so that a leader
//! can judge and join parts without decoding a command.
//!
//! ```text
//! part   version u8 | session | first u64 LE | command count u16 LE | command*
//! session  node u64 LE | sequence u128 LE
//! ```
//!
//! Invariants: every part that can be built can be read, and the other way
//! round only parts within the bounds. How many commands ("slots") a part
//! stands for follows from its header alone, whether or not its commands can
//! be decoded. Nothing here panics on any bytes.

use bytes::{BufMut, Bytes, BytesMut};
use thiserror::Error;

use super::codec;

/// Most bytes in a part with its header: a frame on the peer link, and what
/// a leader must be able to take in at once from every node.
pub const PART_BYTES_MAX: usize = 1 << 20;
/// Most commands in a part.
pub const COMMANDS_PER_PART_MAX: usize = 4096;
/// Bytes in front of a part's commands.
pub const PART_HEADER_BYTES: usize = 1 + 8 + 16 + 8 + 2;

/// 2 names a session by node and sequence.
const PART_VERSION: u8 = 2;

/// Why a part or a batch could not be written or read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BatchError {
    /// Nothing was put in.
    #[error("there is nothing in it")]
    Empty,
    /// One more would pass a bound on counts or bytes; it fits into the next.
    #[error("it is full")]
    Full,
    /// This single command or part is larger than any part may be.
    #[error("a single command or part is too large")]
    TooLarge,
    /// The bytes are not a part or a batch of a version that we know.
    #[error("these bytes are not a part or batch of commands")]
    Malformed,
}

/// A command on its own, encoded once and ready to be put into parts, again
/// and again if it has to be sent again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedCommand(Bytes);

impl EncodedCommand {
    /// Encodes a command of one of the machines.
    #[must_use]
    pub fn new(command: &impl bincode::Encode) -> Self {
        Self(codec::encode(command).into())
    }

    /// Bytes that it adds to a part.
    #[must_use]
    pub fn bytes_len(&self) -> usize {
        self.0.len()
    }
}

/// Names a session of the whole cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionId {
    /// The node whose outbox it is.
    pub node: u64,
    /// Which of that node's sessions, from 1: a later one has a higher number.
    pub sequence: u128,
}

/// What a part says about itself without its commands being decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartHeader {
    /// The session that it comes from.
    pub session: SessionId,
    /// Counter of its first command in that session, from 1.
    pub first: u64,
    /// How many commands follow, 1 to [`COMMANDS_PER_PART_MAX`].
    pub count: u16,
}

impl PartHeader {
    /// Counter of the last command.
    #[must_use]
    pub fn last(&self) -> u64 {
        // Reading a header made sure that this does not overflow.
        self.first + u64::from(self.count) - 1
    }

    fn read(part: &[u8]) -> Result<(Self, &[u8]), BatchError> {
        if part.len() > PART_BYTES_MAX {
            return Err(BatchError::TooLarge);
        }
        let (version, rest) = split::<1>(part).ok_or(BatchError::Malformed)?;
        let (node, rest) = split::<8>(rest).ok_or(BatchError::Malformed)?;
        let (sequence, rest) = split::<16>(rest).ok_or(BatchError::Malformed)?;
        let (first, rest) = split::<8>(rest).ok_or(BatchError::Malformed)?;
        let (count, rest) = split::<2>(rest).ok_or(BatchError::Malformed)?;
        let header = Self {
            session: SessionId {
                node: u64::from_le_bytes(node),
                sequence: u128::from_le_bytes(sequence),
            },
            first: u64::from_le_bytes(first),
            count: u16::from_le_bytes(count),
        };
        let countable = header.session.sequence >= 1
            && (1..=COMMANDS_PER_PART_MAX).contains(&usize::from(header.count))
            && header.first >= 1
            && header.first.checked_add(u64::from(header.count)).is_some();
        if version != [PART_VERSION] || !countable {
            return Err(BatchError::Malformed);
        }
        Ok((header, rest))
    }
}

/// Reading encoded parts.
#[derive(Debug)]
pub struct Part;

impl Part {
    /// Reads the header only: a few loads, whatever the part holds.
    ///
    /// # Errors
    /// [`BatchError::TooLarge`] or [`BatchError::Malformed`].
    pub fn peek(part: &Bytes) -> Result<PartHeader, BatchError> {
        PartHeader::read(part).map(|(header, _)| header)
    }
}

/// Gathers commands of one session into a part.
#[derive(Debug)]
pub struct PartBuilder {
    header: PartHeader,
    commands: BytesMut,
}

impl PartBuilder {
    /// Begins a part whose first command is number `first` of `session`.
    #[must_use]
    pub fn new(session: SessionId, first: u64) -> Self {
        Self {
            header: PartHeader {
                session,
                first,
                count: 0,
            },
            commands: BytesMut::new(),
        }
    }

    /// Adds the next command.
    ///
    /// # Errors
    /// [`BatchError::Full`] when it belongs into the next part, and
    /// [`BatchError::TooLarge`] when no part can hold it. Either way this part
    /// stays as it was.
    pub fn push(&mut self, command: &EncodedCommand) -> Result<(), BatchError> {
        let room = PART_BYTES_MAX - PART_HEADER_BYTES;
        if command.0.len() > room {
            return Err(BatchError::TooLarge);
        }
        let full = usize::from(self.header.count) == COMMANDS_PER_PART_MAX
            || self.commands.len() + command.0.len() > room;
        if full {
            return Err(BatchError::Full);
        }
        self.commands.extend_from_slice(&command.0);
        self.header.count += 1;
        Ok(())
    }

    /// How many commands it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.header.count.into()
    }

    /// Whether it holds no command.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.header.count == 0
    }

    /// Encoded size so far, with the header.
    #[must_use]
    pub fn bytes_len(&self) -> usize {
        PART_HEADER_BYTES + self.commands.len()
    }

    /// The encoded part.
    ///
    /// # Errors
    /// [`BatchError::Empty`] without a command, [`BatchError::Malformed`] when
    /// `first` or the sequence was 0 or the counters would overflow: all of them
    /// are refused by every replica, so they are refused here already.
    pub fn finish(self) -> Result<Bytes, BatchError> {
        if self.is_empty() {
            return Err(BatchError::Empty);
        }
        let mut part = BytesMut::with_capacity(self.bytes_len());
        part.put_u8(PART_VERSION);
        part.put_u64_le(self.header.session.node);
        part.put_u128_le(self.header.session.sequence);
        part.put_u64_le(self.header.first);
        part.put_u16_le(self.header.count);
        part.extend_from_slice(&self.commands);
        PartHeader::read(&part)?;
        Ok(part.freeze())
    }
}

/// Encodes commands as one part; see [`PartBuilder`] for adding one by one.
///
/// # Errors
/// As [`PartBuilder::push`] and [`PartBuilder::finish`].
pub fn encode_part<C: bincode::Encode>(
    session: SessionId,
    first: u64,
    commands: &[C],
) -> Result<Bytes, BatchError> {
    let mut part = PartBuilder::new(session, first);
    for command in commands {
        part.push(&EncodedCommand::new(command))?;
    }
    part.finish()
}

/// One part of a batch being read.
#[derive(Debug, Clone, Copy)]
pub struct PartRef<'a> {
    header: Option<PartHeader>,
    commands: &'a [u8],
}

impl<'a> PartRef<'a> {
    /// The header, unless it cannot be read.
    #[must_use]
    pub fn header(&self) -> Option<PartHeader> {
        self.header
    }

    /// How many outcomes it will have: what its header says, or one.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.header.map_or(1, |header| header.count.into())
    }

    /// All its commands, borrowed from the entry, or nothing at all: a part is
    /// taken whole or not.
    #[must_use]
    pub fn commands<C: bincode::BorrowDecode<'a, ()>>(&self) -> Option<Vec<C>> {
        let header = self.header?;
        let mut rest = self.commands;
        // An honest command has at least one byte, so what is reserved here
        // cannot exceed what was received by more than a constant factor.
        let mut commands = Vec::with_capacity(usize::from(header.count).min(rest.len()));
        for _ in 0..header.count {
            let (command, used) = codec::decode_first(rest).ok()?;
            commands.push(command);
            rest = rest.get(used..)?;
        }
        rest.is_empty().then_some(commands)
    }

    pub(super) fn read(part: &'a [u8]) -> Self {
        match PartHeader::read(part) {
            Ok((header, commands)) => Self {
                header: Some(header),
                commands,
            },
            Err(_) => Self {
                header: None,
                commands: &[],
            },
        }
    }
}

/// The first `N` bytes and the rest, if there are as many.
pub(super) fn split<const N: usize>(bytes: &[u8]) -> Option<([u8; N], &[u8])> {
    bytes
        .split_first_chunk::<N>()
        .map(|(head, rest)| (*head, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SESSION: SessionId = SessionId {
        node: 1,
        sequence: 1,
    };

    /// A command of exactly this many encoded bytes.
    fn command(bytes: usize) -> EncodedCommand {
        EncodedCommand(vec![0; bytes].into())
    }

    #[test]
    fn golden() {
        let session = SessionId {
            node: 0x0102,
            sequence: 0x0304 << 64 | 5,
        };
        let part = encode_part(session, 3, &["a", "bc"]).unwrap();
        let node = [2, 1, 0, 0, 0, 0, 0, 0];
        let sequence = [5, 0, 0, 0, 0, 0, 0, 0, 4, 3, 0, 0, 0, 0, 0, 0];
        let rest = [3, 0, 0, 0, 0, 0, 0, 0, 2, 0];
        let header = [&[2], &node[..], &sequence, &rest].concat();
        assert_eq!(part, [&header[..], b"\x01a\x02bc"].concat());
        assert_eq!(header.len(), PART_HEADER_BYTES);
    }

    #[test]
    fn bounds() {
        let mut part = PartBuilder::new(SESSION, 1);
        assert_eq!(
            part.push(&command(PART_BYTES_MAX)),
            Err(BatchError::TooLarge)
        );
        assert!(part.is_empty());
        part.push(&command(PART_BYTES_MAX - PART_HEADER_BYTES))
            .unwrap();
        assert_eq!(part.push(&command(1)), Err(BatchError::Full));
        assert_eq!(part.bytes_len(), PART_BYTES_MAX);
        assert!(Part::peek(&part.finish().unwrap()).is_ok());

        let mut part = PartBuilder::new(SESSION, 1);
        for _ in 0..COMMANDS_PER_PART_MAX {
            part.push(&command(1)).unwrap();
        }
        assert_eq!(part.push(&command(1)), Err(BatchError::Full));
        assert_eq!(part.len(), COMMANDS_PER_PART_MAX);
        assert!(Part::peek(&part.finish().unwrap()).is_ok());

        let large = vec![0; PART_BYTES_MAX + 1];
        assert_eq!(Part::peek(&large.into()), Err(BatchError::TooLarge));
        assert_eq!(
            PartBuilder::new(SESSION, 1).finish(),
            Err(BatchError::Empty)
        );
    }

    #[test]
    fn counters_begin_at_one_and_do_not_overflow() {
        let malformed = Err(BatchError::Malformed);
        assert_eq!(encode_part(SESSION, 0, &["a"]), malformed);
        let none = SessionId {
            sequence: 0,
            ..SESSION
        };
        assert_eq!(encode_part(none, 1, &["a"]), malformed);
        assert_eq!(encode_part(SESSION, u64::MAX, &["a"]), malformed);
        assert_eq!(encode_part(SESSION, u64::MAX - 1, &["a", "b"]), malformed);
        let part = encode_part(SESSION, u64::MAX - 1, &["a"]).unwrap();
        assert_eq!(Part::peek(&part).unwrap().last(), u64::MAX - 1);
    }

    proptest! {
        #[test]
        fn round_trip(node: u64, sequence in 1..=u128::MAX, first in 1..u64::MAX / 2, texts in proptest::collection::vec(".{0,20}", 1..20)) {
            let session = SessionId { node, sequence };
            let part = encode_part(session, first, &texts).unwrap();
            let count = texts.len() as u16;
            prop_assert_eq!(Part::peek(&part), Ok(PartHeader { session, first, count }));
            let read = PartRef::read(&part);
            prop_assert_eq!(read.slots(), texts.len());
            prop_assert_eq!(read.commands::<&str>().unwrap(), texts);
            // Cut short or with something behind it, it is refused as a whole.
            prop_assert_eq!(PartRef::read(&part[..part.len() - 1]).commands::<&str>(), None);
            let longer = [&part[..], &[0]].concat();
            prop_assert_eq!(PartRef::read(&longer).commands::<&str>(), None);
        }

        #[test]
        fn any_bytes_read_or_fail(bytes in proptest::collection::vec(any::<u8>(), 0..60), keep: bool) {
            let mut bytes = bytes;
            if keep {
                bytes.splice(0..0, [PART_VERSION]);
            }
            let read = PartRef::read(&bytes);
            let _ = read.commands::<crate::machine::channel::Command<'_>>();
            let _ = read.commands::<crate::machine::directory::Command<'_>>();
            prop_assert_eq!(Part::peek(&bytes.clone().into()).ok(), read.header());
            prop_assert!(read.slots() >= 1);
        }
    }
}
