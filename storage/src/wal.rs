//! Tells a write-ahead log that a crash cut short from one that is damaged.
//!
//! RocksDB opens a log either strictly, refusing any flaw, or leniently,
//! dropping whatever follows the first one. Strictness is what we want: a
//! flipped bit must not silently shorten a log that was acknowledged. But a
//! process that is killed inside a `write`, or a machine that loses power with
//! unsynced data, leaves a last record that simply ends too early. That record
//! was never acknowledged, because an fsync returns only after all of it is
//! there; so it may be cut off, and the rest opened strictly.
//!
//! The proof that a record was *cut* and not changed: everything before it is
//! whole, the file ends inside it, and its checksum fits no shorter length (as
//! it would if only its length had been changed). Anything else is damage.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// RocksDB's log format: blocks of this size, no record crosses their ends.
const BLOCK_BYTES: usize = 32 << 10;
/// Checksum u32, length u16, kind u8, little-endian.
const HEADER_BYTES: usize = 4 + 2 + 1;
/// No record has it.
const NOTHING: u8 = 0;
const FULL: u8 = 1;
const FIRST: u8 = 2;
const MIDDLE: u8 = 3;
const LAST: u8 = 4;
/// The same four in a log file that is being reused.
const RECYCLED: std::ops::RangeInclusive<u8> = 5..=8;

/// How a log file ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// With a whole record.
    Whole,
    /// Inside a record that begins here.
    Cut { at: usize },
    /// A record is not what was written.
    Damaged,
}

/// Cuts the record off that a crash left unfinished at the end of the newest
/// log in `dir`. Returns whether there was one.
pub fn mend(dir: &Path) -> io::Result<bool> {
    let Some(path) = newest(dir)? else {
        return Ok(false);
    };
    let bytes = fs::read(&path)?;
    let Ending::Cut { at } = ending(&bytes) else {
        return Ok(false);
    };
    let file = File::options().write(true).open(&path)?;
    file.set_len(at as u64)?;
    file.sync_all()?;
    let cut = bytes.len() - at;
    tracing::warn!(file = %path.display(), cut, "removed a record that a crash left unfinished");
    Ok(true)
}

/// A log in `dir` with something in it that RocksDB 11.8 does not refuse although it was never
/// written, and what it is.
///
/// - A record that only reused log files have, which ours never are: a flipped bit that makes one of an
///   ordinary record sends RocksDB into an endless loop.
/// - Zeros in the place of a record: it skips the rest of the block, and whatever was acknowledged there.
///   Only the newest log may end with zeros, as some file systems leave it after a loss of power; whether
///   anything acknowledged was in their place is known by the mark (docs/adr/0014).
pub fn foreign_record(dir: &Path) -> io::Result<Option<(PathBuf, &'static str)>> {
    let newest = newest(dir)?;
    for file in fs::read_dir(dir)? {
        let path = file?.path();
        let is_log = path.extension().is_some_and(|extension| extension == "log");
        if !is_log {
            continue;
        }
        let may_end_early = newest.as_ref() == Some(&path);
        if let Some(what) = foreign(&fs::read(&path)?, may_end_early) {
            return Ok(Some((path, what)));
        }
    }
    Ok(None)
}

/// Follows the headers as far as they can be followed; what else is wrong with
/// the log, RocksDB finds.
fn foreign(bytes: &[u8], may_end_early: bool) -> Option<&'static str> {
    let mut at = 0;
    while at < bytes.len() {
        let left_in_block = BLOCK_BYTES - at % BLOCK_BYTES;
        if left_in_block < HEADER_BYTES {
            at += left_in_block;
            continue;
        }
        let (header, _) = bytes[at..].split_first_chunk::<HEADER_BYTES>()?;
        let [_, _, _, _, low, high, kind] = *header;
        if RECYCLED.contains(&kind) {
            return Some("a record is of a kind that was never written");
        }
        let length = usize::from(u16::from_le_bytes([low, high]));
        if kind == NOTHING && length == 0 {
            let is_end = bytes[at..].iter().all(|byte| *byte == 0);
            return (!may_end_early || !is_end)
                .then_some("there are zeros in the place of a record");
        }
        if HEADER_BYTES + length > left_in_block {
            return None;
        }
        at += HEADER_BYTES + length;
    }
    None
}

/// The last log that holds anything: a crash may leave an empty one behind it.
fn newest(dir: &Path) -> io::Result<Option<PathBuf>> {
    let mut found: Option<(u64, PathBuf)> = None;
    for file in fs::read_dir(dir)? {
        let file = file?;
        let path = file.path();
        let is_log = path.extension().is_some_and(|extension| extension == "log");
        let number = path
            .file_stem()
            .and_then(|stem| stem.to_str()?.parse().ok());
        if let Some(number) = number.filter(|_| is_log)
            && file.metadata()?.len() > 0
            && found.as_ref().is_none_or(|(highest, _)| number > *highest)
        {
            found = Some((number, path));
        }
    }
    Ok(found.map(|(_, path)| path))
}

fn ending(bytes: &[u8]) -> Ending {
    let mut at = 0;
    // Where the record begins whose first fragments were seen.
    let mut begun: Option<usize> = None;
    while at < bytes.len() {
        let left_in_block = BLOCK_BYTES - at % BLOCK_BYTES;
        let left = &bytes[at..bytes.len().min(at + left_in_block)];
        if left_in_block < HEADER_BYTES {
            // No header fits, so the writer fills with zeros.
            if left.iter().any(|byte| *byte != 0) {
                return Ending::Damaged;
            }
            at += left.len();
            continue;
        }
        let start = begun.unwrap_or(at);
        let Some((header, rest)) = left.split_first_chunk::<HEADER_BYTES>() else {
            return Ending::Cut { at: start };
        };
        let [a, b, c, d, low, high, kind] = *header;
        let checksum = u32::from_le_bytes([a, b, c, d]);
        let length = usize::from(u16::from_le_bytes([low, high]));
        let follows = match kind {
            FULL | FIRST => begun.is_none(),
            MIDDLE | LAST => begun.is_some(),
            _ => false,
        };
        if !follows || HEADER_BYTES + length > left_in_block {
            return Ending::Damaged;
        }
        let Some(payload) = rest.get(..length) else {
            let fits_shorter = fits_any_length(checksum, kind, rest);
            return if fits_shorter {
                Ending::Damaged
            } else {
                Ending::Cut { at: start }
            };
        };
        let crc = payload
            .iter()
            .fold(extend(!0, kind), |crc, byte| extend(crc, *byte));
        if mask(!crc) != checksum {
            return Ending::Damaged;
        }
        begun = matches!(kind, FIRST | MIDDLE).then_some(start);
        at += HEADER_BYTES + length;
    }
    match begun {
        Some(at) => Ending::Cut { at },
        None => Ending::Whole,
    }
}

/// How much of a log that ends inside a record is whole.
#[cfg(any(test, feature = "fuzzing"))]
pub fn whole_before_cut(bytes: &[u8]) -> Option<usize> {
    match ending(bytes) {
        Ending::Cut { at } => Some(at),
        Ending::Whole | Ending::Damaged => None,
    }
}

/// Whether `checksum` is that of a record that `bytes` hold wholly.
fn fits_any_length(checksum: u32, kind: u8, bytes: &[u8]) -> bool {
    let mut crc = extend(!0, kind);
    bytes.iter().any(|byte| {
        let fits = mask(!crc) == checksum;
        crc = extend(crc, *byte);
        fits
    }) || mask(!crc) == checksum
}

/// RocksDB stores checksums turned and shifted, so that a checksum of bytes
/// that hold checksums stays a good one.
fn mask(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// One byte of CRC-32C.
fn extend(crc: u32, byte: u8) -> u32 {
    const TABLE: [u32; 256] = table();
    TABLE[((crc ^ u32::from(byte)) & 0xff) as usize] ^ (crc >> 8)
}

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            let odd = crc & 1 == 1;
            crc >>= 1;
            if odd {
                crc ^= 0x82f6_3b78;
            }
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
}

#[cfg(test)]
pub use tests::some_log;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_record_of_a_reused_log_is_found_wherever_it_is() {
        let mut log = Vec::new();
        record(&mut log, FULL, &[1; 100]);
        record(&mut log, FULL, &[2; 100]);
        assert_eq!((foreign(&log, false), foreign(&[], false)), (None, None));
        for kind in RECYCLED {
            let mut changed = log.clone();
            changed[HEADER_BYTES + 100 + 6] = kind;
            assert!(foreign(&changed, true).is_some(), "{kind}");
        }
        // What cannot be followed is left to RocksDB.
        log[4] = 0xff;
        log[5] = 0xff;
        assert_eq!(
            (foreign(&log, true), foreign(&log[..9], true)),
            (None, None)
        );
    }

    #[test]
    fn zeros_are_an_end_only_where_a_log_may_end() {
        let log = some_log(&[&[1; 100], &[2; 40_000], &[3; 100]]);
        let first = HEADER_BYTES + 100;
        let mut tail = log.clone();
        tail.resize(log.len() + 5_000, 0);
        assert_eq!((foreign(&log, false), foreign(&tail, true)), (None, None));
        assert!(foreign(&tail, false).is_some(), "an older log");
        for zeros in [0..first, 0..BLOCK_BYTES, first..log.len() - 1] {
            let mut hole = log.clone();
            hole[zeros.clone()].fill(0);
            assert!(foreign(&hole, true).is_some(), "{zeros:?}");
        }
    }

    /// Why a store is refused whose newest log begins with a fact and was changed like this.
    fn refused(fact: &[u8], damage: impl FnOnce(&mut [u8])) -> String {
        let dir = tempfile::tempdir().unwrap();
        let options = || crate::options::Options::new(dir.path(), "test", 1);
        drop(crate::store::Store::open(options()).unwrap());
        let store = crate::store::Store::open(options()).unwrap();
        store.set_fact("one", fact).unwrap();
        store.set_fact("two", b"2").unwrap();
        drop(store);
        let path = newest(&dir.path().join("db")).unwrap().unwrap();
        let mut bytes = fs::read(&path).unwrap();
        damage(&mut bytes);
        fs::write(&path, bytes).unwrap();
        let refused = crate::store::Store::open(options()).err().unwrap();
        refused.to_string()
    }

    /// Without the check RocksDB skips what was there, and nobody hears of it.
    #[test]
    fn zeros_in_the_place_of_a_record_are_refused() {
        let refused = refused(&[1; 40_000], |log| log[..BLOCK_BYTES].fill(0));
        assert!(refused.contains("zeros"), "{refused}");
    }

    /// Without the check RocksDB would never come back from opening this.
    #[test]
    fn a_bit_that_makes_a_record_look_reused_is_refused() {
        let refused = refused(b"1", |log| log[6] ^= 4);
        assert!(refused.contains(".log is damaged"), "{refused}");
    }

    fn record(log: &mut Vec<u8>, kind: u8, payload: &[u8]) {
        let crc = payload
            .iter()
            .fold(extend(!0, kind), |crc, byte| extend(crc, *byte));
        log.extend_from_slice(&mask(!crc).to_le_bytes());
        log.extend_from_slice(&(payload.len() as u16).to_le_bytes());
        log.push(kind);
        log.extend_from_slice(payload);
    }

    /// Writes `payload` as RocksDB does, in fragments where a block ends.
    fn append(log: &mut Vec<u8>, payload: &[u8]) {
        let mut rest = payload;
        let mut is_first = true;
        loop {
            let left = BLOCK_BYTES - log.len() % BLOCK_BYTES;
            if left < HEADER_BYTES {
                log.resize(log.len() + left, 0);
                continue;
            }
            let (fragment, more) = rest.split_at(rest.len().min(left - HEADER_BYTES));
            let kind = match (is_first, more.is_empty()) {
                (true, true) => FULL,
                (true, false) => FIRST,
                (false, false) => MIDDLE,
                (false, true) => LAST,
            };
            record(log, kind, fragment);
            (rest, is_first) = (more, false);
            if rest.is_empty() {
                return;
            }
        }
    }

    pub fn some_log(records: &[&[u8]]) -> Vec<u8> {
        let mut log = Vec::new();
        for payload in records {
            append(&mut log, payload);
        }
        log
    }

    #[test]
    fn the_checksum_is_crc32c() {
        let crc = b"123456789".iter().fold(!0, |crc, byte| extend(crc, *byte));
        assert_eq!(!crc, 0xe306_9283);
    }

    #[test]
    fn a_log_of_rocksdb_is_whole_and_can_be_cut_anywhere() {
        let dir = tempfile::tempdir().unwrap();
        let db = rocksdb::DB::open_default(dir.path()).unwrap();
        let mut ends = vec![0];
        let path = newest(dir.path()).unwrap();
        assert!(path.is_none(), "an empty log is no log");
        for value in [1usize, 100, 40_000, 3, 70_000, 10] {
            db.put(b"key", vec![7; value]).unwrap();
            let path = newest(dir.path()).unwrap().unwrap();
            ends.push(fs::metadata(path).unwrap().len() as usize);
        }
        let bytes = fs::read(newest(dir.path()).unwrap().unwrap()).unwrap();
        assert_eq!(ending(&bytes), Ending::Whole);
        for len in (0..bytes.len()).step_by(97).chain(ends.iter().copied()) {
            let begin = *ends.iter().rfind(|end| **end <= len).unwrap();
            // The few zeros before a block's end belong to no record.
            let expected = if len == begin {
                Ending::Whole
            } else {
                Ending::Cut { at: begin }
            };
            let found = ending(&bytes[..len]);
            let is_filling = bytes[begin..len].iter().all(|byte| *byte == 0);
            assert!(found == expected || is_filling, "{found:?} at {len}");
        }
    }

    #[test]
    fn no_single_flipped_bit_is_taken_for_a_cut() {
        let mut log = Vec::new();
        append(&mut log, b"the first record");
        append(&mut log, b"");
        append(&mut log, &[0; 300]);
        append(&mut log, b"the last record");
        for bit in 0..log.len() * 8 {
            let mut flipped = log.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(ending(&flipped), Ending::Damaged, "bit {bit}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_cut_is_found_and_a_flipped_bit_never_mends(
            sizes in prop::collection::vec(0..50_000usize, 1..6),
            cut: prop::sample::Index,
            flip: prop::sample::Index,
            bit in 0..8u8,
        ) {
            let mut log = Vec::new();
            let mut begins = Vec::new();
            for size in &sizes {
                begins.push(log.len());
                let payload: Vec<u8> = (0..*size).map(|at| (at * size) as u8).collect();
                append(&mut log, &payload);
            }
            prop_assert_eq!(ending(&log), Ending::Whole);
            let last = *begins.last().expect("there is one");
            let len = last + cut.index(log.len() - last);
            let found = ending(&log[..len]);
            let is_cut = matches!(found, Ending::Cut { at } if at >= last && at <= len);
            prop_assert!(is_cut || log[last..len].iter().all(|byte| *byte == 0));
            let at = flip.index(log.len());
            log[at] ^= 1 << bit;
            prop_assert_eq!(ending(&log), Ending::Damaged);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _ = ending(&bytes);
        }
    }
}
