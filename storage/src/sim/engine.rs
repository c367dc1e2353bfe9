//! The database as a simulation has it: ordered maps over a [`Disk`], in the place of RocksDB.
//!
//! A batch becomes visible when its write is done, as in RocksDB, and it survives a crash once a
//! synced write covers it.

use std::marker::PhantomData;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use crate::alarm::Alarm;
use crate::error::{Error, OpenError};
use crate::options::Options;
use crate::records;
use crate::sim::{self, Disk, Maps};

pub use crate::step::{Family, Step};

/// A key and its value under a cursor.
pub type Item<'a> = (&'a [u8], &'a [u8]);

/// A consistent view of the moment it was taken.
pub struct View<'a> {
    maps: Arc<Maps>,
    engine: PhantomData<&'a Engine>,
}

/// Changes that take effect together.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    pub(crate) changes: Vec<Change>,
    bytes: usize,
}

#[derive(Debug, Clone)]
pub(crate) enum Change {
    Put(Family, Bytes, Bytes),
    Delete(Family, Bytes),
    DeleteRange(Family, Bytes, Bytes),
}

impl Batch {
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    pub fn size_in_bytes(&self) -> usize {
        self.bytes
    }
}

pub struct Engine {
    disk: Disk,
    /// Which use of the disk this is: an engine from before a crash can no longer touch it.
    use_number: u64,
}

impl Engine {
    /// Opens the disk that is mounted in the place of `dir`'s parent.
    pub fn open(dir: &Path, _: &Options, _: &Alarm) -> Result<Self, OpenError> {
        let disk = dir.parent().and_then(sim::mounted);
        let disk = disk.ok_or_else(|| OpenError::Engine {
            dir: dir.to_path_buf(),
            detail: "no simulated disk is mounted there".into(),
        })?;
        let use_number = disk.begin_use();
        Ok(Self { disk, use_number })
    }

    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    /// How many steps were ever written; it never goes back as long as nothing is lost.
    pub fn sequence(&self) -> u64 {
        self.disk.sequence()
    }

    pub fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.get_pinned(family, key)?.map(Into::into))
    }

    pub fn get_pinned(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, Error> {
        Ok(self.disk.visible().get(family, key))
    }

    /// A cursor over the keys from `lower` to just before `upper`.
    pub fn iterate(&self, family: Family, lower: Vec<u8>, upper: Vec<u8>) -> Rows<'_> {
        Rows::new(self.disk.visible(), family, lower, upper)
    }

    pub fn view(&self) -> View<'_> {
        View {
            maps: self.disk.visible(),
            engine: PhantomData,
        }
    }

    /// Reads `key` as of `view`.
    pub fn get_at(
        &self,
        view: &View<'_>,
        family: Family,
        key: &[u8],
    ) -> Result<Option<Vec<u8>>, Error> {
        Ok(view.maps.get(family, key).map(Into::into))
    }

    /// Like [`iterate`](Self::iterate), as of `view`.
    pub fn iterate_at<'a>(
        &self,
        view: &'a View<'_>,
        family: Family,
        lower: Vec<u8>,
        upper: Vec<u8>,
    ) -> Rows<'a> {
        Rows::new(view.maps.clone(), family, lower, upper)
    }

    /// Adds `step` to `batch`. `scratch` is reused memory.
    pub fn add(&self, batch: &mut Batch, step: &Step, scratch: &mut Vec<u8>) {
        batch.bytes += step.bytes();
        batch.changes.push(match step {
            Step::Put { family, key, value } => {
                Change::Put(*family, Bytes::copy_from_slice(key), value.clone().into())
            }
            Step::Entry { key, term, payload } => {
                records::encode_entry(*term, payload, scratch);
                let record = Bytes::copy_from_slice(scratch);
                Change::Put(Family::Log, Bytes::copy_from_slice(key), record)
            }
            Step::Delete { family, key } => Change::Delete(*family, Bytes::copy_from_slice(key)),
            Step::DeleteRange { family, from, to } => {
                Change::DeleteRange(*family, from.clone().into(), to.clone().into())
            }
        });
    }

    /// The writer is about to write `batch`: a crash from here on may keep it.
    pub fn begin(&self, batch: Batch) {
        self.disk.begin_write(self.use_number, batch);
    }

    /// Writes `batch`; with `sync` it is on the disk when this returns.
    pub fn write(&self, batch: Batch, sync: bool) -> Result<(), String> {
        self.disk.write(self.use_number, batch, sync)
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
        self.write(Batch::default(), true)
    }

    pub fn background_errors(&self) -> u64 {
        0
    }
}

/// A cursor over a range of keys. It must be placed before it is read.
pub struct Rows<'a> {
    maps: Arc<Maps>,
    family: Family,
    lower: Vec<u8>,
    upper: Vec<u8>,
    at: Option<Bytes>,
    view: PhantomData<&'a Engine>,
}

impl Rows<'_> {
    fn new(maps: Arc<Maps>, family: Family, lower: Vec<u8>, upper: Vec<u8>) -> Self {
        Rows {
            maps,
            family,
            lower,
            upper,
            at: None,
            view: PhantomData,
        }
    }

    pub fn seek_to_first(&mut self) {
        self.at = self.first(Bound::Included(&self.lower), Bound::Excluded(&self.upper));
    }

    pub fn seek_to_last(&mut self) {
        self.at = self.last(Bound::Included(&self.lower), Bound::Excluded(&self.upper));
    }

    pub fn step(&mut self, forward: bool) {
        let Some(at) = self.at.take() else {
            return;
        };
        self.at = if forward {
            self.first(Bound::Excluded(&at), Bound::Excluded(&self.upper))
        } else {
            self.last(Bound::Included(&self.lower), Bound::Excluded(&at))
        };
    }

    /// The key and value under the cursor; none at the end of the range.
    pub fn item(&self) -> Result<Option<Item<'_>>, Error> {
        let item = self
            .at
            .as_ref()
            .and_then(|at| self.maps.family(self.family).get_key_value(at));
        Ok(item.map(|(key, value)| (&key[..], &value[..])))
    }

    fn first(&self, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Option<Bytes> {
        let mut range = self.maps.range(self.family, from, to)?;
        range.next().map(|(key, _)| key.clone())
    }

    fn last(&self, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Option<Bytes> {
        let mut range = self.maps.range(self.family, from, to)?;
        range.next_back().map(|(key, _)| key.clone())
    }
}
