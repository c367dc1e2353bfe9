//! Copies of stores, to be cut, flipped or opened as if their process had been killed.

use std::fs;
use std::path::Path;

/// A copy of a store's directory as it is now: of a closed store, or what a kill would leave.
pub fn copy_of(dir: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for folder in ["", "db"] {
        fs::create_dir_all(copy.path().join(folder)).unwrap();
        for file in fs::read_dir(dir.join(folder)).unwrap() {
            let path = file.unwrap().path();
            if path.is_file() {
                let name = Path::new(folder).join(path.file_name().unwrap());
                fs::copy(&path, copy.path().join(name)).unwrap();
            }
        }
    }
    copy
}
