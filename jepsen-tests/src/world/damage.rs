//! Damage to the files of a node that does not run: a flipped bit, a cut tail.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::rng::Rng;

/// Where the product keeps its database, below a node's data directory.
const DATABASE: &str = "db";

/// Which of a database's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Write-ahead log.
    Wal,
    Sst,
    Manifest,
}

impl Target {
    fn matches(self, name: &str) -> bool {
        match self {
            Self::Wal => name.ends_with(".log"),
            Self::Sst => name.ends_with(".sst"),
            Self::Manifest => name.starts_with("MANIFEST-"),
        }
    }

    /// What to damage instead when there is no such file yet: every database has a manifest.
    fn instead(self) -> [Self; 3] {
        match self {
            Self::Wal => [Self::Wal, Self::Manifest, Self::Sst],
            Self::Sst => [Self::Sst, Self::Wal, Self::Manifest],
            Self::Manifest => [Self::Manifest, Self::Wal, Self::Sst],
        }
    }
}

/// Flips one bit somewhere in one such file; what was done, for a reader.
pub fn flip(data_dir: &Path, target: Target, rng: &mut Rng) -> io::Result<String> {
    let (path, length) = choose(data_dir, target, rng)?;
    let file = OpenOptions::new().read(true).write(true).open(&path)?;
    let at = rng.below(length);
    let bit = rng.below(8);
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)?;
    byte[0] ^= 1 << bit;
    file.write_all_at(&byte, at)?;
    file.sync_all()?;
    Ok(format!(
        "bit {bit} of byte {at} of {length} flipped in {}",
        shown(&path)
    ))
}

/// Cuts the tail off one such file: a tenth to nine tenths of it.
pub fn cut(data_dir: &Path, target: Target, rng: &mut Rng) -> io::Result<String> {
    let (path, length) = choose(data_dir, target, rng)?;
    let left = length * (1 + rng.below(9)) / 10;
    let file = File::options().write(true).open(&path)?;
    file.set_len(left)?;
    file.sync_all()?;
    Ok(format!(
        "{} cut from {length} to {left} bytes",
        shown(&path)
    ))
}

/// A file that is not empty, and its length. Of several logs the newest: older ones may be obsolete,
/// and only wait to be deleted.
fn choose(data_dir: &Path, target: Target, rng: &mut Rng) -> io::Result<(PathBuf, u64)> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(data_dir.join(DATABASE))? {
        let entry = entry?;
        let length = entry.metadata()?.len();
        if length > 0 {
            let name = entry.file_name().to_string_lossy().into_owned();
            files.push((name, length, entry.path()));
        }
    }
    // Names carry numbers of a fixed width, so the newest comes last.
    files.sort();
    for kind in target.instead() {
        let mut fitting = files.iter().filter(|(name, _, _)| kind.matches(name));
        let chosen = if kind == Target::Sst {
            let all: Vec<_> = fitting.collect();
            (!all.is_empty()).then(|| *rng.pick(&all))
        } else {
            fitting.next_back()
        };
        if let Some((_, length, path)) = chosen {
            return Ok((path.clone(), *length));
        }
    }
    Err(io::Error::other("the node has no files to damage"))
}

fn shown(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database(files: &[(&str, usize)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        let db = directory.path().join(DATABASE);
        std::fs::create_dir(&db).unwrap();
        for (name, length) in files {
            std::fs::write(db.join(name), vec![0; *length]).unwrap();
        }
        directory
    }

    fn read(directory: &tempfile::TempDir, name: &str) -> Vec<u8> {
        std::fs::read(directory.path().join(DATABASE).join(name)).unwrap()
    }

    #[test]
    fn one_bit_of_the_newest_log_flips() {
        let data = database(&[("000004.log", 2000), ("000009.log", 900), ("LOG", 5000)]);
        let said = flip(data.path(), Target::Wal, &mut Rng::new(3)).unwrap();
        assert!(said.contains("000009.log"), "{said}");
        let ones: u32 = read(&data, "000009.log")
            .iter()
            .map(|byte| byte.count_ones())
            .sum();
        assert_eq!(ones, 1);
        assert_eq!(read(&data, "LOG"), vec![0; 5000]);
    }

    #[test]
    fn a_cut_leaves_the_beginning() {
        for seed in 0..50 {
            let data = database(&[("000004.log", 1000), ("000009.log", 0)]);
            cut(data.path(), Target::Wal, &mut Rng::new(seed)).unwrap();
            let left = read(&data, "000004.log").len();
            assert!((100..=900).contains(&left), "{left}");
        }
    }

    #[test]
    fn without_such_a_file_another_kind_is_damaged() {
        let data = database(&[("MANIFEST-000005", 100), ("000004.log", 0)]);
        let said = flip(data.path(), Target::Sst, &mut Rng::new(3)).unwrap();
        assert!(said.contains("MANIFEST-000005"), "{said}");
        let empty = database(&[]);
        assert!(flip(empty.path(), Target::Sst, &mut Rng::new(3)).is_err());
    }
}
