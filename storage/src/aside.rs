//! Takes a node's directory out of use, so that the node can begin with an empty
//! one.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::edge;
use crate::error::OpenError;

/// What became of the files of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Aside {
    /// There were none.
    Nothing,
    /// They are here now.
    Moved(PathBuf),
    Deleted,
}

/// Begins the name of what was set aside.
const PREFIX: &str = "damaged-";

/// Moves what is in `dir` to `<dir>.damaged-<stamp>`, or deletes it. A
/// directory that cannot be renamed, because a file system is mounted on it,
/// stays, and its contents move into `damaged-<stamp>` below it, which a store
/// does not look at.
///
/// # Errors
/// [`OpenError::Locked`] while a process uses the directory, or what the
/// system says. Nothing of the old files is lost then.
pub fn set_aside(dir: &Path, stamp: u64, delete: bool) -> Result<Aside, OpenError> {
    let io = |path: &Path| {
        let path = path.to_path_buf();
        move |source| OpenError::Io { path, source }
    };
    if !dir.exists() || contents(dir).map_err(io(dir))?.is_empty() {
        return Ok(Aside::Nothing);
    }
    // Held until the files are where no process looks for them.
    let _lock = edge::lock(dir)?;
    if delete {
        for path in contents(dir).map_err(io(dir))? {
            remove(&path).map_err(io(&path))?;
        }
        sync(dir).map_err(io(dir))?;
        return Ok(Aside::Deleted);
    }
    let mut name = dir.file_name().map(OsString::from).unwrap_or_default();
    name.push(format!(".{PREFIX}{stamp}"));
    let beside = dir.with_file_name(name);
    if fs::rename(dir, &beside).is_ok() {
        if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            sync(parent).map_err(io(parent))?;
        }
        return Ok(Aside::Moved(beside));
    }
    let below = dir.join(format!("{PREFIX}{stamp}"));
    let files = contents(dir).map_err(io(dir))?;
    fs::create_dir(&below).map_err(io(&below))?;
    for path in files {
        let to = below.join(path.file_name().unwrap_or_default());
        fs::rename(&path, &to).map_err(io(&path))?;
    }
    sync(dir).map_err(io(dir))?;
    Ok(Aside::Moved(below))
}

/// What a store may have put there: everything but what was set aside before
/// and what the file system itself keeps.
fn contents(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let ours = !name.to_string_lossy().starts_with(PREFIX) && name != "lost+found";
        if ours {
            found.push(entry.path());
        }
    }
    Ok(found)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path)?.is_dir() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    }
}

fn sync(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Options;
    use crate::store::Store;

    fn filled(dir: &Path) {
        drop(Store::open(Options::new(dir, "test", 1)).unwrap());
        assert!(dir.join("db").exists());
    }

    #[test]
    fn files_are_moved_beside_the_directory_or_deleted() {
        let base = tempfile::tempdir().unwrap();
        let dir = base.path().join("node-1");
        assert_eq!(set_aside(&dir, 7, false).unwrap(), Aside::Nothing);
        filled(&dir);
        let moved = base.path().join("node-1.damaged-7");
        assert_eq!(
            set_aside(&dir, 7, false).unwrap(),
            Aside::Moved(moved.clone())
        );
        assert!(moved.join("db").exists() && !dir.exists());
        filled(&dir);
        assert_eq!(set_aside(&dir, 8, true).unwrap(), Aside::Deleted);
        assert_eq!(contents(&dir).unwrap(), Vec::<PathBuf>::new());
    }

    #[test]
    fn a_directory_in_use_is_left_alone() {
        let base = tempfile::tempdir().unwrap();
        let store = Store::open(Options::new(base.path(), "test", 1)).unwrap();
        let refused = set_aside(base.path(), 7, true).unwrap_err();
        assert!(matches!(refused, OpenError::Locked { .. }), "{refused}");
        drop(store);
        assert!(base.path().join("db").exists());
    }

    /// Where the rename fails, as on a mount point: here the name beside it is taken by a file.
    #[test]
    fn what_cannot_be_renamed_is_emptied_into_a_folder_that_the_store_ignores() {
        let base = tempfile::tempdir().unwrap();
        let dir = base.path().join("node-1");
        filled(&dir);
        fs::write(base.path().join("node-1.damaged-7"), b"in the way").unwrap();
        let below = dir.join("damaged-7");
        assert_eq!(
            set_aside(&dir, 7, false).unwrap(),
            Aside::Moved(below.clone())
        );
        assert!(below.join("db").exists() && !dir.join("db").exists());
        assert_eq!(set_aside(&dir, 8, true).unwrap(), Aside::Nothing);
        filled(&dir);
        assert!(below.join("db").exists());
    }
}
