//! What the disk does by itself: without it a latency of commits says little, and on virtual disks
//! it moves by a factor of two within a day.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Instant;

use rustix::fs::fstatfs;

use super::histogram::Histogram;

/// Writes that are timed, and the size of each.
const WRITES: u32 = 200;
const WRITE_BYTES: usize = 512;
/// What Linux calls a file system in memory.
const TMPFS_MAGIC: u64 = 0x0102_1994;

#[derive(Clone, Copy, Debug)]
pub struct Disk {
    pub fdatasync_p50_ms: f64,
    pub fdatasync_p99_ms: f64,
    /// Nothing there reaches a disk.
    pub is_memory: bool,
}

/// Appends to a new file in `dir`, syncing after each write, and removes it.
pub fn measure(dir: &Path) -> io::Result<Disk> {
    let path = dir.join("fdatasync");
    let file = File::create(&path)?;
    let block = [b'.'; WRITE_BYTES];
    let mut took = Histogram::default();
    for write in 0..WRITES {
        let began = Instant::now();
        file.write_all_at(&block, u64::from(write) * WRITE_BYTES as u64)?;
        file.sync_data()?;
        took.record(u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX));
    }
    let kind = fstatfs(&file)?.f_type;
    std::fs::remove_file(&path)?;
    Ok(Disk {
        fdatasync_p50_ms: took.quantile_ms(0.5).unwrap_or(0.0),
        fdatasync_p99_ms: took.quantile_ms(0.99).unwrap_or(0.0),
        is_memory: kind as u64 == TMPFS_MAGIC,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_gone_afterwards() {
        let dir = tempfile::tempdir().unwrap();
        let disk = measure(dir.path()).unwrap();
        assert!(disk.fdatasync_p50_ms <= disk.fdatasync_p99_ms);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
