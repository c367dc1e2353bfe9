//! RocksDB as this store uses it: three column families, batches, reads.
//!
//! Nothing else in the repository calls RocksDB (`wal` knows its file format). Settings that guard data are
//! deliberate: recovery refuses any damage in the write-ahead log instead of
//! dropping what follows it, and every block that is read is checked.

use std::path::Path;

use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB,
    DBCompressionType, DBPinnableSlice, DBRawIterator, DBRecoveryMode, LogLevel, ReadOptions,
    SliceTransform, WriteOptions,
};

use crate::alarm::Alarm;
use crate::error::{Error, OpenError};
use crate::keys;
use crate::options::Options;
use crate::records;
use crate::wal;

pub use crate::step::{Family, Step};

/// Files kept open; each costs a descriptor that sockets need too.
const OPEN_FILES_MAX: i32 = 512;
/// RocksDB's own diary: enough to explain the last starts.
const DIARY_BYTES_MAX: usize = 4 << 20;
const DIARY_FILES_MAX: usize = 4;
/// Unflushed rows and entries in memory, all families together.
const WRITE_BUFFERS_BYTES_MAX: usize = 96 << 20;
const LOG_BUFFER_BYTES: usize = 32 << 20;
const ROWS_BUFFER_BYTES: usize = 16 << 20;
const FACTS_BUFFER_BYTES: usize = 1 << 20;
const BUFFERS_PER_FAMILY_MAX: i32 = 3;
const BACKGROUND_JOBS_MAX: i32 = 2;
/// Written-out files reach the disk in steps of this, not in one burst at the end.
const BYTES_PER_SYNC: u64 = 1 << 20;
const BLOCK_BYTES: usize = 16 << 10;
/// Indexes and filters are cut into pieces of this, and only the tops are always at hand. In one
/// piece those of a large file are most of a cache shard, and push each other out: with 100,000
/// groups, two thirds of all processor time went into reading and checking them again and again.
const METADATA_BLOCK_BYTES: usize = 4 << 10;
/// One miss in a hundred reads a block in vain.
const FILTER_BITS_PER_KEY: f64 = 10.0;

const LOG: &str = "log";
const ROWS: &str = "rows";

/// A consistent view of the moment it was taken.
pub type View<'a> = rocksdb::SnapshotWithThreadMode<'a, DB>;

/// Changes that take effect together.
pub type Batch = rocksdb::WriteBatch;

/// A key and its value under a cursor.
pub type Item<'a> = (&'a [u8], &'a [u8]);

pub struct Engine {
    db: DB,
    alarm: Alarm,
}

impl Engine {
    /// Opens the database in `dir`, which is made when missing. A record that a
    /// crash left unfinished is cut off; any other flaw is refused.
    pub fn open(dir: &Path, options: &Options, alarm: &Alarm) -> Result<Self, OpenError> {
        let foreign = wal::foreign_record(dir).map_err(|source| OpenError::Io {
            path: dir.to_path_buf(),
            source,
        })?;
        if let Some((file, what)) = foreign {
            return Err(OpenError::Damaged {
                file,
                detail: what.into(),
            });
        }
        let first = match Self::open_strictly(dir, options, alarm) {
            Err(error @ OpenError::Damaged { .. }) => error,
            opened_or_refused => return opened_or_refused,
        };
        match wal::mend(dir) {
            Ok(true) => Self::open_strictly(dir, options, alarm),
            Ok(false) => Err(first),
            Err(error) => {
                tracing::error!(%error, "the write-ahead log cannot be examined");
                Err(first)
            }
        }
    }

    fn open_strictly(dir: &Path, options: &Options, alarm: &Alarm) -> Result<Self, OpenError> {
        let cache = Cache::new_lru_cache(options.block_cache_bytes);
        let families = [
            ColumnFamilyDescriptor::new(
                rocksdb::DEFAULT_COLUMN_FAMILY_NAME,
                family_options(&cache, FACTS_BUFFER_BYTES, false),
            ),
            ColumnFamilyDescriptor::new(LOG, log_options(&cache)),
            ColumnFamilyDescriptor::new(ROWS, family_options(&cache, ROWS_BUFFER_BYTES, true)),
        ];
        DB::open_cf_descriptors(&database_options(options), dir, families)
            .map(|db| Self {
                db,
                alarm: alarm.clone(),
            })
            .map_err(|error| explain(dir, error.into_string()))
    }

    /// How many steps were ever written, those of all batches together: it
    /// never goes back as long as nothing is lost.
    pub fn sequence(&self) -> u64 {
        self.db.latest_sequence_number()
    }

    pub fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let found = self.db.get_cf(self.family(family), key);
        found.map_err(|error| self.alarm.read_error(error))
    }

    pub fn get_pinned(
        &self,
        family: Family,
        key: &[u8],
    ) -> Result<Option<DBPinnableSlice<'_>>, Error> {
        let found = self.db.get_pinned_cf(self.family(family), key);
        found.map_err(|error| self.alarm.read_error(error))
    }

    /// An iterator over the keys from `lower` to just before `upper`, which
    /// must begin with the same group. It sees what was written before now.
    pub fn iterate(&self, family: Family, lower: Vec<u8>, upper: Vec<u8>) -> Rows<'_> {
        let mut options = ReadOptions::default();
        let is_empty = lower >= upper;
        options.set_iterate_range(lower..upper);
        Rows {
            inner: self.db.raw_iterator_cf_opt(self.family(family), options),
            is_empty,
            alarm: self.alarm.clone(),
        }
    }

    pub fn view(&self) -> View<'_> {
        self.db.snapshot()
    }

    /// Reads `key` as of `view`.
    pub fn get_at(
        &self,
        view: &View<'_>,
        family: Family,
        key: &[u8],
    ) -> Result<Option<Vec<u8>>, Error> {
        let found = view.get_cf(self.family(family), key);
        found.map_err(|error| self.alarm.read_error(error))
    }

    /// Like [`iterate`](Self::iterate), as of `view` and for one long pass,
    /// which shall not push what others use out of the cache.
    pub fn iterate_at<'a>(
        &self,
        view: &'a View<'_>,
        family: Family,
        lower: Vec<u8>,
        upper: Vec<u8>,
    ) -> Rows<'a> {
        let mut options = ReadOptions::default();
        let is_empty = lower >= upper;
        options.set_iterate_range(lower..upper);
        options.fill_cache(false);
        Rows {
            inner: view.raw_iterator_cf_opt(self.family(family), options),
            is_empty,
            alarm: self.alarm.clone(),
        }
    }

    /// Adds `step` to `batch`. `scratch` is reused memory.
    pub fn add(&self, batch: &mut Batch, step: &Step, scratch: &mut Vec<u8>) {
        match step {
            Step::Put { family, key, value } => batch.put_cf(self.family(*family), key, value),
            Step::Entry { key, term, payload } => {
                records::encode_entry(*term, payload, scratch);
                #[cfg(feature = "planted-bugs")]
                if crate::planted::applied_before_log() {
                    return self.write_without_log(key, scratch);
                }
                batch.put_cf(self.family(Family::Log), key, scratch);
            }
            Step::Delete { family, key } => batch.delete_cf(self.family(*family), key),
            Step::DeleteRange { family, from, to } if from < to => {
                batch.delete_range_cf(self.family(*family), from, to);
            }
            Step::DeleteRange { .. } => {}
        }
    }

    #[cfg(feature = "planted-bugs")]
    fn write_without_log(&self, key: &[u8], record: &[u8]) {
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        self.db
            .put_cf_opt(self.family(Family::Log), key, record, &options)
            .expect("memory takes it");
    }

    /// Writes `batch`; with `sync` it is on the disk when this returns.
    pub fn write(&self, batch: Batch, sync: bool) -> Result<(), String> {
        let mut options = WriteOptions::default();
        options.set_sync(sync);
        self.db
            .write_opt(batch, &options)
            .map_err(rocksdb::Error::into_string)
    }

    /// Writes a few steps at once and brings them to the disk.
    pub fn write_steps(&self, steps: &[Step]) -> Result<(), String> {
        let mut batch = Batch::default();
        let mut scratch = Vec::new();
        for step in steps {
            self.add(&mut batch, step, &mut scratch);
        }
        self.write(batch, true)
    }

    /// Brings everything written so far to the disk.
    pub fn sync(&self) -> Result<(), String> {
        self.db.flush_wal(true).map_err(rocksdb::Error::into_string)
    }

    /// Failed flushes and compactions since the database was opened.
    pub fn background_errors(&self) -> u64 {
        self.db
            .property_int_value(rocksdb::properties::BACKGROUND_ERRORS)
            .ok()
            .flatten()
            .unwrap_or(0)
    }

    fn family(&self, family: Family) -> &ColumnFamily {
        let name = match family {
            Family::Facts => rocksdb::DEFAULT_COLUMN_FAMILY_NAME,
            Family::Log => LOG,
            Family::Rows => ROWS,
        };
        self.db
            .cf_handle(name)
            .expect("all families are opened with the database")
    }
}

/// A cursor over a range of keys. It must be placed before it is read.
pub struct Rows<'a> {
    inner: DBRawIterator<'a>,
    is_empty: bool,
    alarm: Alarm,
}

impl Rows<'_> {
    pub fn seek_to_first(&mut self) {
        self.inner.seek_to_first();
    }

    pub fn seek_to_last(&mut self) {
        self.inner.seek_to_last();
    }

    pub fn step(&mut self, forward: bool) {
        if forward {
            self.inner.next();
        } else {
            self.inner.prev();
        }
    }

    /// The key and value under the cursor; none at the end of the range.
    pub fn item(&self) -> Result<Option<Item<'_>>, Error> {
        if self.is_empty {
            return Ok(None);
        }
        match self.inner.item() {
            Some(item) => Ok(Some(item)),
            None => match self.inner.status() {
                Ok(()) => Ok(None),
                Err(error) => Err(self.alarm.read_error(error)),
            },
        }
    }
}

fn database_options(options: &Options) -> rocksdb::Options {
    let mut database = rocksdb::Options::default();
    database.create_if_missing(true);
    database.create_missing_column_families(true);
    database.set_wal_recovery_mode(DBRecoveryMode::AbsoluteConsistency);
    database.set_track_and_verify_wals_in_manifest(true);
    database.set_paranoid_checks(true);
    database.set_max_total_wal_size(options.wal_bytes_max);
    database.set_db_write_buffer_size(WRITE_BUFFERS_BYTES_MAX);
    database.set_max_open_files(OPEN_FILES_MAX);
    database.set_max_background_jobs(BACKGROUND_JOBS_MAX);
    database.set_bytes_per_sync(BYTES_PER_SYNC);
    database.set_avoid_unnecessary_blocking_io(true);
    database.set_log_level(LogLevel::Info);
    database.set_max_log_file_size(DIARY_BYTES_MAX);
    database.set_keep_log_file_num(DIARY_FILES_MAX);
    database.set_stats_dump_period_sec(0);
    // One thread writes, so nothing is lost, and hints are used for every write: `near_last_of_group`.
    database.set_allow_concurrent_memtable_write(false);
    database
}

/// Entries are large and soon superseded in the upper levels: compressing them
/// pays only where they come to rest.
fn log_options(cache: &Cache) -> rocksdb::Options {
    let mut options = family_options(cache, LOG_BUFFER_BYTES, true);
    options.set_compression_type(DBCompressionType::None);
    options.set_bottommost_compression_type(DBCompressionType::Lz4);
    options
}

fn family_options(cache: &Cache, buffer_bytes: usize, by_group: bool) -> rocksdb::Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_block_size(BLOCK_BYTES);
    table.set_cache_index_and_filter_blocks(true);
    table.set_cache_index_and_filter_blocks_with_high_priority(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    table.set_bloom_filter(FILTER_BITS_PER_KEY, false);
    table.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    table.set_partition_filters(true);
    table.set_metadata_block_size(METADATA_BLOCK_BYTES);
    table.set_pin_top_level_index_and_filter(true);
    let mut options = if by_group {
        near_last_of_group(rocksdb::Options::default())
    } else {
        rocksdb::Options::default()
    };
    options.set_block_based_table_factory(&table);
    options.set_write_buffer_size(buffer_bytes);
    options.set_max_write_buffer_number(BUFFERS_PER_FAMILY_MAX);
    options.set_compression_type(DBCompressionType::Lz4);
    if by_group {
        // A seek within a group then skips the files that do not hold it.
        options.set_prefix_extractor(SliceTransform::create_fixed_prefix(keys::GROUP_BYTES));
    }
    options
}

/// Lets the search for a key's place in a memtable begin where the last key of the same group was put,
/// which is close by: without it that search is 15 % of what many busy groups cost (docs/performance.md).
/// It takes about 250 bytes for each group in a memtable. The binding has no call of its own for it.
fn near_last_of_group(mut options: rocksdb::Options) -> rocksdb::Options {
    let hint = format!(
        "memtable_insert_with_hint_prefix_extractor=fixed:{}",
        keys::GROUP_BYTES
    );
    options
        .get_options_from_string(hint)
        .expect("RocksDB 11 knows the option")
}

impl Alarm {
    /// RocksDB fails a read only where the disk fails or a checksum does.
    fn read_error(&self, error: rocksdb::Error) -> Error {
        let error = Error::Read(error.into_string());
        self.check(&error);
        error
    }
}

/// Tells damage from other reasons, and finds out which file it is in.
fn explain(dir: &Path, detail: String) -> OpenError {
    let is_damage = detail.starts_with("Corruption")
        || detail.contains("No such file")
        || detail.contains("does not exist");
    if !is_damage {
        return OpenError::Engine {
            dir: dir.to_path_buf(),
            detail,
        };
    }
    let file = named_file(&detail).or_else(|| named_file(&last_drop(dir)?));
    OpenError::Damaged {
        file: file.map_or_else(|| dir.to_path_buf(), |name| dir.join(name)),
        detail,
    }
}

/// The last word of `text` that looks like a database file, without its folder.
fn named_file(text: &str) -> Option<String> {
    text.split(|c: char| c.is_whitespace() || "'\"(),:;".contains(c))
        .filter_map(|word| word.rsplit('/').next())
        .map(|name| name.trim_end_matches('.'))
        .rfind(|name| {
            let numbered = name.split('.').next().unwrap_or_default();
            let is_table = name.ends_with(".sst") || name.ends_with(".log");
            (is_table && numbered.bytes().all(|b| b.is_ascii_digit()) && !numbered.is_empty())
                || name.starts_with("MANIFEST-")
                || *name == "CURRENT"
        })
        .map(str::to_owned)
}

/// What RocksDB wrote in its diary about dropping part of a write-ahead log:
/// the error that it returns does not always name the file.
fn last_drop(dir: &Path) -> Option<String> {
    let diary = std::fs::read(dir.join("LOG")).ok()?;
    String::from_utf8_lossy(&diary)
        .lines()
        .rfind(|line| line.contains(".log") && line.contains("dropping"))
        .and_then(|line| line.split("dropping").next().map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_file_is_found_in_a_message() {
        let found = |text| named_file(text);
        assert_eq!(
            found("Corruption: block checksum mismatch in /data/db/000012.sst offset 0"),
            Some("000012.sst".into())
        );
        assert_eq!(
            found("Corruption: /data/db/MANIFEST-000004 may be corrupted."),
            Some("MANIFEST-000004".into())
        );
        assert_eq!(found("/data/db/000007.log: "), Some("000007.log".into()));
        assert_eq!(found("Corruption: checksum mismatch"), None);
        assert_eq!(found("see ./what.log and .sst"), None);
    }
}
