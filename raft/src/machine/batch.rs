//! Batches: the payload of one log entry, made of parts.
//!
//! The leader of a group joins encoded parts by copying their bytes once; the
//! machines read them borrowed, so that a body is never copied again.
//!
//! ```text
//! batch  version u8 | timestamp_ms u64 LE | part count u16 LE | (length u32 LE | part)*
//! ```
//!
//! Invariants: every length and count has a bound, checked when writing and
//! again when reading. The outcomes of a batch, and the bitmap in an index row,
//! count the same slots. Nothing here panics on any bytes.

use bytes::{BufMut, Bytes, BytesMut};

use super::part::{BatchError, Part, PartRef, split};

/// Most parts in a batch.
pub const PARTS_MAX: usize = 4096;
/// Most bytes in a batch with its header: one append and one frame to each
/// follower, so it also bounds how long others wait behind it.
pub const BATCH_BYTES_MAX: usize = 4 << 20;
/// Most commands in a batch, over all its parts. Bounds the outcomes that one
/// entry can produce, also when a part lies about its count.
pub const COMMANDS_PER_BATCH_MAX: usize = 65_536;
/// Bytes in front of a batch's first part.
pub const BATCH_HEADER_BYTES: usize = 1 + 8 + 2;
/// Bytes in front of each part of a batch.
pub const PART_LENGTH_BYTES: usize = 4;

const BATCH_VERSION: u8 = 1;

/// Gathers encoded parts into a batch, within all bounds.
#[derive(Debug, Default)]
pub struct BatchBuilder {
    parts: Vec<Bytes>,
    parts_bytes: usize,
    commands: usize,
}

impl BatchBuilder {
    /// Begins a batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a part. Any part that [`Part::peek`] accepts fits into an empty
    /// batch.
    ///
    /// # Errors
    /// [`BatchError::Full`] when it belongs into the next batch, otherwise what
    /// [`Part::peek`] says about it. Either way this batch stays as it was.
    pub fn push(&mut self, part: Bytes) -> Result<(), BatchError> {
        let commands = usize::from(Part::peek(&part)?.count);
        let bytes = PART_LENGTH_BYTES + part.len();
        let full = self.parts.len() == PARTS_MAX
            || self.commands + commands > COMMANDS_PER_BATCH_MAX
            || self.bytes_len() + bytes > BATCH_BYTES_MAX;
        if full {
            return Err(BatchError::Full);
        }
        self.parts.push(part);
        self.parts_bytes += bytes;
        self.commands += commands;
        Ok(())
    }

    /// How many parts it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.parts.len()
    }

    /// Whether it holds no part.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// How many commands its parts hold.
    #[must_use]
    pub fn commands(&self) -> usize {
        self.commands
    }

    /// Encoded size so far, with the header.
    #[must_use]
    pub fn bytes_len(&self) -> usize {
        BATCH_HEADER_BYTES + self.parts_bytes
    }

    /// The payload of a log entry, stamped with the leader's time.
    ///
    /// # Errors
    /// [`BatchError::Empty`] without a part.
    pub fn finish(self, timestamp_ms: u64) -> Result<Bytes, BatchError> {
        if self.parts.is_empty() {
            return Err(BatchError::Empty);
        }
        let count = u16::try_from(self.parts.len()).expect("PARTS_MAX fits 16 bits");
        let mut batch = BytesMut::with_capacity(self.bytes_len());
        batch.put_u8(BATCH_VERSION);
        batch.put_u64_le(timestamp_ms);
        batch.put_u16_le(count);
        for part in &self.parts {
            batch.put_u32_le(u32::try_from(part.len()).expect("PART_BYTES_MAX fits 32 bits"));
            batch.extend_from_slice(part);
        }
        Ok(batch.freeze())
    }
}

/// A batch being read: where its parts are, without their commands.
#[derive(Debug)]
pub struct Batch<'a> {
    timestamp_ms: u64,
    slots: usize,
    parts: Vec<PartRef<'a>>,
}

impl Batch<'_> {
    /// Joins encoded parts into the payload of a log entry.
    ///
    /// # Errors
    /// [`BatchError::Empty`] for none, [`BatchError::Full`] for more than a
    /// batch may hold, or what [`Part::peek`] says about one of them.
    pub fn concat(timestamp_ms: u64, parts: &[Bytes]) -> Result<Bytes, BatchError> {
        let mut batch = BatchBuilder::new();
        for part in parts {
            batch.push(part.clone())?;
        }
        batch.finish(timestamp_ms)
    }
}

impl<'a> Batch<'a> {
    /// Reads the frame of a batch: all of its lengths, none of its commands.
    ///
    /// A part inside whose header is not readable does not spoil the others; it
    /// stands for one slot.
    ///
    /// # Errors
    /// [`BatchError::Malformed`] for anything that [`Batch::concat`] could not
    /// have written, other than such a part.
    pub fn read(payload: &'a [u8]) -> Result<Self, BatchError> {
        Self::read_frame(payload).ok_or(BatchError::Malformed)
    }

    /// When the leader made it, Unix milliseconds by the leader's clock, which
    /// may have gone back.
    #[must_use]
    pub fn timestamp_ms(&self) -> u64 {
        self.timestamp_ms
    }

    /// Its parts, in order.
    #[must_use]
    pub fn parts(&self) -> &[PartRef<'a>] {
        &self.parts
    }

    /// How many outcomes it will have: the slots of all parts.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.slots
    }

    fn read_frame(payload: &'a [u8]) -> Option<Self> {
        if payload.len() > BATCH_BYTES_MAX {
            return None;
        }
        let (version, rest) = split::<1>(payload)?;
        let (timestamp_ms, rest) = split::<8>(rest)?;
        let (count, mut rest) = split::<2>(rest)?;
        let count = usize::from(u16::from_le_bytes(count));
        if version != [BATCH_VERSION] || !(1..=PARTS_MAX).contains(&count) {
            return None;
        }
        let mut parts = Vec::with_capacity(count);
        let mut slots = 0;
        for _ in 0..count {
            let (length, after) = split::<PART_LENGTH_BYTES>(rest)?;
            let length = usize::try_from(u32::from_le_bytes(length)).ok()?;
            let (part, after) = after.split_at_checked(length)?;
            let part = PartRef::read(part);
            slots += part.slots();
            parts.push(part);
            rest = after;
        }
        (rest.is_empty() && slots <= COMMANDS_PER_BATCH_MAX).then(|| Self {
            timestamp_ms: u64::from_le_bytes(timestamp_ms),
            slots,
            parts,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::{COMMANDS_PER_PART_MAX, PART_BYTES_MAX, PartBuilder, encode_part};
    use crate::machine::{EncodedCommand, PART_HEADER_BYTES, SessionId};
    use proptest::prelude::*;

    const SESSION: SessionId = SessionId {
        node: 7,
        sequence: 1,
    };

    #[test]
    fn golden() {
        let part = encode_part(SESSION, 1, &["a"]).unwrap();
        let batch = Batch::concat(0x0102, &[part.clone(), part.clone()]).unwrap();
        let header = [1, 2, 1, 0, 0, 0, 0, 0, 0, 2, 0];
        let length = [37, 0, 0, 0];
        let expected: [&[u8]; 5] = [&header, &length, &part, &length, &part];
        assert_eq!(batch, expected.concat());
        assert_eq!(header.len(), BATCH_HEADER_BYTES);
        assert_eq!(length.len(), PART_LENGTH_BYTES);
    }

    /// A part of exactly this many bytes.
    fn part_of(bytes: usize) -> Bytes {
        let text = "x".repeat(bytes - PART_HEADER_BYTES - 5);
        let mut part = PartBuilder::new(SESSION, 1);
        part.push(&EncodedCommand::new(&text)).unwrap();
        let part = part.finish().unwrap();
        assert_eq!(part.len(), bytes);
        part
    }

    #[test]
    fn bounds_on_bytes() {
        let mut batch = BatchBuilder::new();
        for _ in 0..3 {
            batch.push(part_of(PART_BYTES_MAX)).unwrap();
        }
        assert_eq!(batch.push(part_of(PART_BYTES_MAX)), Err(BatchError::Full));
        let room = BATCH_BYTES_MAX - batch.bytes_len() - PART_LENGTH_BYTES;
        batch.push(part_of(room)).unwrap();
        assert_eq!(batch.bytes_len(), BATCH_BYTES_MAX);
        let batch = batch.finish(0).unwrap();
        assert_eq!(Batch::read(&batch).unwrap().parts().len(), 4);
        let longer = [&batch[..], &[0]].concat();
        assert!(Batch::read(&longer).is_err());
    }

    #[test]
    fn bounds_on_counts() {
        assert_eq!(Batch::concat(0, &[]), Err(BatchError::Empty));
        let one = encode_part(SESSION, 1, &[0_u8]).unwrap();
        let most = vec![one.clone(); PARTS_MAX];
        assert_eq!(
            Batch::read(&Batch::concat(0, &most).unwrap())
                .unwrap()
                .slots(),
            PARTS_MAX
        );
        assert_eq!(
            Batch::concat(0, &[&most[..], &[one]].concat()),
            Err(BatchError::Full)
        );

        let full = encode_part(SESSION, 1, &vec![0_u8; COMMANDS_PER_PART_MAX]).unwrap();
        let most = vec![full.clone(); COMMANDS_PER_BATCH_MAX / COMMANDS_PER_PART_MAX];
        let batch = Batch::concat(0, &most).unwrap();
        assert_eq!(Batch::read(&batch).unwrap().slots(), COMMANDS_PER_BATCH_MAX);
        assert_eq!(
            Batch::concat(0, &[&most[..], &[full]].concat()),
            Err(BatchError::Full)
        );
        assert_eq!(
            Batch::concat(0, &[Bytes::from_static(b"?")]),
            Err(BatchError::Malformed)
        );
    }

    #[test]
    fn headers_that_lie_cannot_claim_more_than_a_batch() {
        // Full parts by their headers, but without any commands in them.
        let full = encode_part(SESSION, 1, &vec![0_u8; COMMANDS_PER_PART_MAX]).unwrap();
        let lie = full.slice(..PART_HEADER_BYTES);
        let most = vec![lie.clone(); COMMANDS_PER_BATCH_MAX / COMMANDS_PER_PART_MAX];
        let batch = Batch::concat(0, &most).unwrap();
        assert_eq!(Batch::read(&batch).unwrap().slots(), COMMANDS_PER_BATCH_MAX);
        let mut more = batch.to_vec();
        more[9] += 1;
        more.extend_from_slice(&(lie.len() as u32).to_le_bytes());
        more.extend_from_slice(&lie);
        assert!(Batch::read(&more).is_err());
    }

    proptest! {
        #[test]
        fn round_trip(timestamp_ms: u64, parts in proptest::collection::vec(
            (1..=u128::MAX, 1..1000_u64, proptest::collection::vec(any::<u64>(), 1..5)), 1..10)
        ) {
            let encoded: Vec<_> = parts
                .iter()
                .map(|(sequence, first, commands)| {
                    let session = SessionId { node: 7, sequence: *sequence };
                    encode_part(session, *first, commands).unwrap()
                })
                .collect();
            let payload = Batch::concat(timestamp_ms, &encoded).unwrap();
            let batch = Batch::read(&payload).unwrap();
            prop_assert_eq!(batch.timestamp_ms(), timestamp_ms);
            prop_assert_eq!(batch.parts().len(), parts.len());
            prop_assert_eq!(batch.slots(), parts.iter().map(|part| part.2.len()).sum::<usize>());
            for (read, (part, (_, _, commands))) in batch.parts().iter().zip(encoded.iter().zip(&parts)) {
                prop_assert_eq!(read.header(), Some(Part::peek(part).unwrap()));
                prop_assert_eq!(&read.commands::<u64>().unwrap(), commands);
            }
            // Any cut spoils it.
            for end in 0..payload.len() {
                prop_assert!(Batch::read(&payload[..end]).is_err());
            }
        }

        #[test]
        fn any_bytes_read_or_fail(
            bytes in proptest::collection::vec(any::<u8>(), 0..80),
            parts in 0..4_u8,
        ) {
            let _ = Batch::read(&bytes);
            let framed = [&[BATCH_VERSION, 0, 0, 0, 0, 0, 0, 0, 0, parts, 0][..], &bytes].concat();
            let _ = Batch::read(&framed);
        }
    }
}
