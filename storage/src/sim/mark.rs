//! The acknowledged mark as a simulation has it: a number beside the disk.

use std::io;
use std::path::Path;

use crate::sim::{self, Disk};

/// The file that a real mark has.
pub const NAME: &str = "acknowledged";

pub struct Mark(Disk);

/// What the disk of a directory says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    Missing,
    #[expect(dead_code, reason = "a simulated mark is never damaged")]
    Unreadable,
    /// Everything up to this sequence number was acknowledged.
    Upto(u64),
}

pub fn find(dir: &Path) -> io::Result<Found> {
    Ok(disk(dir)?.mark().map_or(Found::Missing, Found::Upto))
}

/// Nothing is acknowledged.
pub fn create(dir: &Path) -> io::Result<()> {
    disk(dir)?.set_mark(0);
    Ok(())
}

impl Mark {
    pub fn open(dir: &Path, sequence: u64) -> io::Result<Self> {
        let mark = Self(disk(dir)?);
        mark.write(sequence)?;
        Ok(mark)
    }

    /// Says that everything up to `sequence` is on the disk.
    pub fn write(&self, sequence: u64) -> io::Result<()> {
        self.0.set_mark(sequence);
        Ok(())
    }

    pub fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

fn disk(dir: &Path) -> io::Result<Disk> {
    sim::mounted(dir).ok_or_else(|| io::ErrorKind::NotFound.into())
}
