//! Removes what harnesses left behind that were killed: network namespaces, mounts, loop devices
//! and directories. All carry the id of their process in their names; those of processes that live
//! are left alone.

use std::path::{Path, PathBuf};

use super::command::run;
use super::namespaces::NAME_PREFIX;

/// Begins the names of worlds' directories; the process's id and a dash follow.
pub const HOME_PREFIX: &str = "accord-world-";
/// A file that says that a directory was kept on purpose.
pub const KEPT: &str = "kept";

/// Never fails: what cannot be removed is reported and stays.
pub fn sweep() {
    // Before their namespaces, with which they may or may not go.
    for link in abandoned_in(Path::new("/sys/class/net"), NAME_PREFIX, 'x') {
        report(run(&["ip", "link", "del", &link]).map(|_| ()));
    }
    for name in abandoned_in(Path::new("/run/netns"), NAME_PREFIX, 'x') {
        report(run(&["ip", "netns", "del", &name]).map(|_| ()));
    }
    for name in abandoned_in(&std::env::temp_dir(), HOME_PREFIX, '-') {
        let home = std::env::temp_dir().join(name);
        unmount_below(&home);
        if !home.join(KEPT).exists()
            && let Err(error) = std::fs::remove_dir_all(&home)
        {
            eprintln!("{} could not be removed: {error}", home.display());
        }
    }
}

/// Unmounts every file system below a directory, and frees the loop devices of images there.
pub fn unmount_below(home: &Path) {
    for point in mounted_below(home) {
        report(run(&["umount", &point.to_string_lossy()]).map(|_| ()));
    }
    if let Ok(listed) = run(&[
        "losetup",
        "--list",
        "--noheadings",
        "--output",
        "NAME,BACK-FILE",
    ]) {
        for device in devices_below(&listed, home) {
            report(run(&["losetup", "--detach", &device]).map(|_| ()));
        }
    }
}

/// Directory entries of processes that have ended.
fn abandoned_in(directory: &Path, prefix: &str, end: char) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return Vec::new();
    };
    entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| {
            owner(name, prefix, end).is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
        })
        .collect()
}

fn owner(name: &str, prefix: &str, end: char) -> Option<u32> {
    name.strip_prefix(prefix)?.split_once(end)?.0.parse().ok()
}

fn mounted_below(home: &Path) -> Vec<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .map(PathBuf::from)
        .filter(|point| point.starts_with(home))
        .collect()
}

/// From `losetup`'s lines of a device and the path of its file.
fn devices_below(listed: &str, home: &Path) -> Vec<String> {
    listed
        .lines()
        .filter_map(|line| line.trim().split_once(char::is_whitespace))
        .filter(|(_, file)| Path::new(file.trim()).starts_with(home))
        .map(|(device, _)| device.to_owned())
        .collect()
}

fn report(result: Result<(), super::WorldError>) {
    if let Err(error) = result {
        eprintln!("something of an earlier world stays: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_carries_the_id_of_a_dead_process_is_abandoned() {
        let directory = tempfile::tempdir().unwrap();
        let dead = {
            let mut child = std::process::Command::new("true").spawn().unwrap();
            child.wait().unwrap();
            child.id()
        };
        let living = std::process::id();
        for name in [format!("aw{dead}x0n1"), format!("aw{living}x0n1")] {
            std::fs::write(directory.path().join(name), "").unwrap();
        }
        for name in ["aw", "awkward", "other", "aw12"] {
            std::fs::write(directory.path().join(name), "").unwrap();
        }
        let found = abandoned_in(directory.path(), "aw", 'x');
        assert_eq!(found, [format!("aw{dead}x0n1")]);
    }

    #[test]
    fn what_a_killed_harness_left_is_removed() {
        use super::super::disk::Disk;
        use super::super::namespaces::Namespaces;
        let missing = Disk::missing().or_else(Namespaces::missing);
        if let Some(why) = missing {
            eprintln!("not tested here: {why}");
            return;
        }
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        let dead = child.id();
        let namespace = format!("{NAME_PREFIX}{dead}x0n1");
        run(&["ip", "netns", "add", &namespace]).unwrap();
        let link = format!("{NAME_PREFIX}{dead}x0h1");
        run(&["ip", "link", "add", &link, "type", "veth"]).unwrap();
        let home = std::env::temp_dir().join(format!("{HOME_PREFIX}{dead}-left"));
        std::fs::create_dir(&home).unwrap();
        std::mem::forget(Disk::create(&home, 1, 64 << 20).unwrap());
        assert!(!mounted_below(&home).is_empty());
        sweep();
        assert!(mounted_below(&home).is_empty());
        assert!(!home.exists());
        assert!(!Path::new("/run/netns").join(&namespace).exists());
        assert!(!Path::new("/sys/class/net").join(&link).exists());
        let columns = ["--list", "--noheadings", "--output", "NAME,BACK-FILE"];
        let listed = run(&[&["losetup"], &columns[..]].concat()).unwrap();
        assert!(devices_below(&listed, &home).is_empty(), "{listed}");
    }

    #[test]
    fn devices_are_told_by_their_files() {
        let listed = "/dev/loop1 /tmp/a/disk-1\n/dev/loop12  /tmp/ab/disk (deleted)\n";
        assert_eq!(devices_below(listed, Path::new("/tmp/a")), ["/dev/loop1"]);
        assert_eq!(devices_below(listed, Path::new("/tmp/ab")), ["/dev/loop12"]);
    }
}
