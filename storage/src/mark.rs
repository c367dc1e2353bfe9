//! How much this store has acknowledged, kept in a file of its own.
//!
//! A write-ahead log that somebody cut off between two records looks whole, and
//! one that was cut within its last record looks like the trace of a crash. So
//! the sequence number that RocksDB had reached at the last completed fsync is
//! kept beside it: a database that opens with a lower one has lost
//! acknowledged writes.
//!
//! Invariants: the mark is written only after the fsync of what it counts, so
//! it never claims more than was on the disk; it is written before anybody is
//! told of those writes. It is brought to the disk by the watcher, about once a
//! second: a power loss may leave an older mark, which claims less.
//!
//! Two slots are written in turn, each with its own checksum, so that one that
//! is torn leaves the other. They lie in different sectors.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// The file, below the node's directory.
pub const NAME: &str = "acknowledged";

/// Sequence number u64, CRC-32 u32 over [`DOMAIN`] and it; both big-endian.
const SLOT_BYTES: usize = 12;
/// Slots begin this far apart: a disk writes a sector wholly or not at all, and
/// no sector is larger.
const SLOT_SPACING: u64 = 4096;
const FILE_BYTES: usize = SLOT_SPACING as usize + SLOT_BYTES;
/// Makes a checksum of other bytes, zeros above all, no checksum of a slot.
const DOMAIN: &[u8] = b"accord acknowledged 1";

/// The mark of an open store. One thread writes it, another syncs it.
pub struct Mark {
    file: File,
    /// Times it was written: the lowest bit says which slot is next.
    turns: AtomicU64,
    /// As many of them were on the disk when it was last synced.
    synced: AtomicU64,
}

/// What the file in a directory says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// There is none.
    Missing,
    /// It holds no slot that was ever written.
    Unreadable,
    /// Everything up to this sequence number was acknowledged.
    Upto(u64),
}

/// Reads the mark in `dir`.
///
/// # Errors
/// When there is a file that cannot be read.
pub fn find(dir: &Path) -> io::Result<Found> {
    match fs::read(dir.join(NAME)) {
        Ok(bytes) => Ok(decode(&bytes).map_or(Found::Unreadable, Found::Upto)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Found::Missing),
        Err(error) => Err(error),
    }
}

/// Makes the mark of a new store: nothing is acknowledged. It and its name are
/// on the disk when this returns, so that a store with data always has one.
///
/// # Errors
/// When the disk does not take it.
pub fn create(dir: &Path) -> io::Result<()> {
    let mut bytes = [0; FILE_BYTES];
    bytes[..SLOT_BYTES].copy_from_slice(&encode(0));
    fs::write(dir.join(NAME), bytes)?;
    File::open(dir.join(NAME))?.sync_all()?;
    File::open(dir)?.sync_all()
}

impl Mark {
    /// Opens the mark in `dir` at `sequence`, which is on the disk and not below
    /// what it says.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn open(dir: &Path, sequence: u64) -> io::Result<Self> {
        let mark = Self {
            file: File::options().write(true).open(dir.join(NAME))?,
            turns: AtomicU64::new(0),
            synced: AtomicU64::new(0),
        };
        // Both, so that the next write may begin with either.
        mark.write(sequence)?;
        mark.write(sequence)?;
        mark.sync()?;
        Ok(mark)
    }

    /// Says that everything up to `sequence` is on the disk. Only one thread at
    /// a time may call it. It takes about a microsecond: no fsync.
    ///
    /// # Errors
    /// When the disk does not take it; nothing may be acknowledged then.
    pub fn write(&self, sequence: u64) -> io::Result<()> {
        let turn = self.turns.load(Ordering::Relaxed);
        let at = turn % 2 * SLOT_SPACING;
        self.file.write_all_at(&encode(sequence), at)?;
        self.turns.store(turn + 1, Ordering::Release);
        Ok(())
    }

    /// Brings the mark to the disk if it was written since the last time.
    ///
    /// # Errors
    /// When the disk does not take it; a second try may falsely succeed.
    pub fn sync(&self) -> io::Result<()> {
        let turns = self.turns.load(Ordering::Acquire);
        if self.synced.load(Ordering::Relaxed) != turns {
            self.file.sync_data()?;
            self.synced.store(turns, Ordering::Relaxed);
        }
        Ok(())
    }
}

pub fn encode(sequence: u64) -> [u8; SLOT_BYTES] {
    let mut slot = [0; SLOT_BYTES];
    slot[..8].copy_from_slice(&sequence.to_be_bytes());
    slot[8..].copy_from_slice(&checksum(sequence).to_be_bytes());
    slot
}

/// The higher of the slots that are whole.
pub fn decode(bytes: &[u8]) -> Option<u64> {
    let slots = [Some(bytes), bytes.get(SLOT_SPACING as usize..)];
    slots.into_iter().flatten().filter_map(decode_slot).max()
}

fn decode_slot(bytes: &[u8]) -> Option<u64> {
    let (sequence, rest) = bytes.split_first_chunk()?;
    let sequence = u64::from_be_bytes(*sequence);
    (*rest.first_chunk()? == checksum(sequence).to_be_bytes()).then_some(sequence)
}

fn checksum(sequence: u64) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(DOMAIN);
    hasher.update(&sequence.to_be_bytes());
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn golden() {
        // The checksum is from another program (Python's zlib).
        assert_eq!(encode(0x0102), [0, 0, 0, 0, 0, 0, 1, 2, 168, 178, 200, 111]);
    }

    #[test]
    fn the_newest_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(find(dir.path()).unwrap(), Found::Missing);
        create(dir.path()).unwrap();
        assert_eq!(find(dir.path()).unwrap(), Found::Upto(0));
        let mark = Mark::open(dir.path(), 5).unwrap();
        for sequence in [6, 7, 100] {
            mark.write(sequence).unwrap();
            assert_eq!(find(dir.path()).unwrap(), Found::Upto(sequence));
        }
        mark.sync().unwrap();
        assert_eq!(mark.synced.load(Ordering::Relaxed), 5);
    }

    #[test]
    fn a_torn_slot_leaves_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        create(dir.path()).unwrap();
        let mark = Mark::open(dir.path(), 5).unwrap();
        mark.write(6).unwrap();
        mark.write(7).unwrap();
        let path = dir.path().join(NAME);
        let whole = fs::read(&path).unwrap();
        for at in 0..SLOT_BYTES {
            let mut torn = whole.clone();
            torn[SLOT_SPACING as usize + at] ^= 1;
            fs::write(&path, &torn).unwrap();
            assert_eq!(find(dir.path()).unwrap(), Found::Upto(6), "byte {at}");
            torn[at] ^= 1;
            fs::write(&path, &torn).unwrap();
            assert_eq!(find(dir.path()).unwrap(), Found::Unreadable, "byte {at}");
        }
        fs::write(&path, [0; FILE_BYTES]).unwrap();
        assert_eq!(find(dir.path()).unwrap(), Found::Unreadable);
        fs::write(&path, b"").unwrap();
        assert_eq!(find(dir.path()).unwrap(), Found::Unreadable);
    }

    proptest! {
        #[test]
        fn a_slot_round_trips_and_shows_any_flipped_bit(sequence: u64, bit in 0..SLOT_BYTES * 8) {
            let mut slot = encode(sequence);
            prop_assert_eq!(decode_slot(&slot), Some(sequence));
            slot[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(decode_slot(&slot), None);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..5_000)) {
            let _ = decode(&bytes);
        }
    }
}
