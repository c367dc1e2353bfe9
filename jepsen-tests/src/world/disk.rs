//! A disk of a node's own: an ext4 file system in a sparse file, mounted through a loop device.
//!
//! Power loss is the `GOINGDOWN` ioctl without a log flush: from that moment nothing reaches the
//! device, so what the kernel had in memory (data that nobody synced, and the journal's open
//! transaction) is lost, as it is when the power fails. What was synced is on the device. The
//! device itself does not lie: it is the host's page cache, and the host stays up.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{FallocateFlags, fallocate, statvfs};

use super::WorldError;
use super::command::{exists, run};
use super::ioctl::shut_down;

/// Written and synced: must survive.
const SYNCED: &str = "synced-marker";
/// Written and not synced just before the power fails: must not survive.
const UNSYNCED: &str = "unsynced-marker";
/// An empty file, made to see whether files can be made.
const PROBE: &str = "probe";
/// Takes the room of a full disk.
const FILLER: &str = "filler";

/// What a node's file system holds besides the data directory are our markers.
#[derive(Debug)]
pub struct Disk {
    device: String,
    mount: PathBuf,
    mounted: Mutex<bool>,
}

/// What was written before a power failure, to be looked for after it.
#[derive(Debug)]
pub struct PowerCut {
    synced: String,
    unsynced: String,
    /// The data that the node had written, synced or not.
    log_bytes_before: u64,
}

/// What was found of it.
#[derive(Debug, PartialEq, Eq)]
pub struct Aftermath {
    pub synced_kept: bool,
    pub unsynced_lost: bool,
    /// Bytes of write-ahead logs before and after: what the node itself lost.
    pub log_bytes: (u64, u64),
}

impl Aftermath {
    pub fn is_power_loss(&self) -> bool {
        self.synced_kept && self.unsynced_lost
    }
}

impl Disk {
    /// Why there can be none here.
    pub fn missing() -> Option<String> {
        if !rustix::process::geteuid().is_root() {
            return Some("file systems of their own need root".to_owned());
        }
        ["losetup", "mkfs.ext4", "mount", "umount"]
            .into_iter()
            .find(|tool| !exists(tool))
            .map(|tool| format!("there is no `{tool}`"))
    }

    /// Makes and mounts a new one in `home`, with `bytes` of room that take none until used.
    pub fn create(home: &Path, node: u64, bytes: u64) -> Result<Self, WorldError> {
        let image = home.join(format!("disk-{node}.ext4"));
        let mount = home.join(format!("disk-{node}"));
        File::create(&image)
            .and_then(|file| file.set_len(bytes))
            .and_then(|()| std::fs::create_dir(&mount))
            .map_err(|source| io_error("making a disk", source))?;
        let image = image.to_string_lossy().into_owned();
        run(&["mkfs.ext4", "-q", "-F", "-m", "0", &image])?;
        let device = run(&["losetup", "--find", "--show", &image])?;
        let disk = Self {
            device: device.trim().to_owned(),
            mount,
            mounted: Mutex::new(false),
        };
        disk.mount()?;
        Ok(disk)
    }

    /// A directory that the node makes itself: the file system's root holds more than its data.
    pub fn data_dir(&self) -> PathBuf {
        self.mount.join("data")
    }

    /// Mounting what is mounted is no error.
    pub fn mount(&self) -> Result<(), WorldError> {
        let mut mounted = self.mounted();
        if !*mounted {
            let options = ["mount", "-t", "ext4", "-o", "noatime"];
            let (device, point) = (&self.device, self.mount.to_string_lossy());
            run(&[&options[..], &[device, &point]].concat())?;
            *mounted = true;
        }
        Ok(())
    }

    pub fn unmount(&self) -> Result<(), WorldError> {
        let mut mounted = self.mounted();
        if *mounted {
            run(&["umount", &self.mount.to_string_lossy()])?;
            *mounted = false;
        }
        Ok(())
    }

    /// The power fails. Whoever uses the disk should be stopped before, so that nobody sees it.
    pub fn cut_power(&self, nonce: u64) -> Result<PowerCut, WorldError> {
        let cut = PowerCut {
            synced: format!("synced before power loss {nonce}"),
            unsynced: format!("not synced before power loss {nonce}"),
            log_bytes_before: log_bytes(&self.data_dir()),
        };
        self.write_markers(&cut)
            .and_then(|()| shut_down(File::open(&self.mount)?))
            .map_err(|source| io_error("cutting the power", source))?;
        Ok(cut)
    }

    /// Whether accesses fail, as they must between the loss of power and the next mount. A disk
    /// that is merely full is not dead.
    pub fn is_dead(&self) -> bool {
        if !*self.mounted() {
            return true;
        }
        match File::create(self.mount.join(PROBE)) {
            Ok(_) => false,
            Err(error) => error.kind() != io::ErrorKind::StorageFull,
        }
    }

    /// After the next mount.
    pub fn aftermath(&self, cut: &PowerCut) -> Aftermath {
        let read = |name: &str| std::fs::read_to_string(self.mount.join(name)).unwrap_or_default();
        Aftermath {
            synced_kept: read(SYNCED) == cut.synced,
            unsynced_lost: read(UNSYNCED) != cut.unsynced,
            log_bytes: (cut.log_bytes_before, log_bytes(&self.data_dir())),
        }
    }

    /// Takes room until no more than `free_bytes` are left; how much there is then.
    pub fn fill(&self, free_bytes: u64) -> Result<u64, WorldError> {
        let fill = || -> io::Result<u64> {
            let filler = File::create(self.mount.join(FILLER))?;
            let take = self.free_bytes()?.saturating_sub(free_bytes);
            fallocate(&filler, FallocateFlags::empty(), 0, take.max(1))?;
            self.free_bytes()
        };
        fill().map_err(|source| io_error("filling a disk", source))
    }

    /// Gives the room back; no error if none was taken.
    pub fn empty(&self) -> Result<(), WorldError> {
        match std::fs::remove_file(self.mount.join(FILLER)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(io_error("freeing a disk", error))
            }
            _ => Ok(()),
        }
    }

    pub fn free_bytes(&self) -> io::Result<u64> {
        let figures = statvfs(&self.mount)?;
        Ok(figures.f_bavail * figures.f_frsize)
    }

    fn write_markers(&self, cut: &PowerCut) -> io::Result<()> {
        let mut synced = File::create(self.mount.join(SYNCED))?;
        synced.write_all(cut.synced.as_bytes())?;
        synced.sync_all()?;
        File::open(&self.mount)?.sync_all()?;
        File::create(self.mount.join(UNSYNCED))?.write_all(cut.unsynced.as_bytes())
    }

    /// A panic while it is held leaves a flag that was true when it was set.
    fn mounted(&self) -> MutexGuard<'_, bool> {
        self.mounted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Err(error) = self.unmount() {
            eprintln!("a disk stays mounted: {error}");
        }
        if let Err(error) = run(&["losetup", "--detach", &self.device]) {
            eprintln!("a loop device stays: {error}");
        }
    }
}

/// The sizes of all write-ahead logs.
fn log_bytes(data_dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(data_dir.join("db")) else {
        return 0;
    };
    entries
        .flatten()
        .filter(|entry| entry.path().extension().is_some_and(|end| end == "log"))
        .filter_map(|entry| entry.metadata().ok())
        .map(|metadata| metadata.len())
        .sum()
}

fn io_error(what: &str, source: io::Error) -> WorldError {
    WorldError::Io {
        what: what.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_synced_is_gone_after_a_power_loss() {
        if let Some(why) = Disk::missing() {
            eprintln!("not tested here: {why}");
            return;
        }
        let home = tempfile::Builder::new()
            .prefix(&format!(
                "{}{}-",
                super::super::sweep::HOME_PREFIX,
                std::process::id()
            ))
            .tempdir()
            .unwrap();
        let disk = Disk::create(home.path(), 1, 64 << 20).unwrap();
        assert!(!disk.is_dead());
        for nonce in 0..3 {
            let cut = disk.cut_power(nonce).unwrap();
            assert!(disk.is_dead());
            disk.unmount().unwrap();
            disk.mount().unwrap();
            let aftermath = disk.aftermath(&cut);
            assert!(aftermath.is_power_loss(), "{aftermath:?}");
        }
        let before = disk.free_bytes().unwrap();
        assert!(disk.fill(1 << 20).unwrap() <= 1 << 20);
        disk.empty().unwrap();
        disk.empty().unwrap();
        assert!(disk.free_bytes().unwrap() > before / 2);
        let device = disk.device.clone();
        drop(disk);
        let listed = run(&[
            "losetup",
            "--list",
            "--noheadings",
            "--output",
            "NAME,BACK-FILE",
        ])
        .unwrap();
        let ours = home.path().to_string_lossy().into_owned();
        assert!(!listed.contains(&ours), "{device} stays: {listed}");
    }
}
