//! What a node uses, as the operating system and its own counters say.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

pub use crate::client::api::metric;

/// Ticks per second in `/proc/PID/stat`: fixed by Linux towards user space.
const TICKS_PER_SECOND: f64 = 100.0;
/// A block as `stat` counts it.
const BLOCK_BYTES: u64 = 512;

/// Of `/proc/PID/status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    pub resident_bytes: u64,
    /// Of them, what is not a file's: heap and stacks.
    pub anonymous_bytes: u64,
    pub threads: u64,
}

impl Memory {
    pub fn of(pid: u32) -> io::Result<Self> {
        let path = format!("/proc/{pid}/status");
        let text = fs::read_to_string(&path)?;
        Self::parse(&text).ok_or_else(|| io::Error::other(format!("{path} is not understood")))
    }

    fn parse(status: &str) -> Option<Self> {
        let number = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            let digits = line.trim().trim_end_matches("kB").trim();
            digits.parse::<u64>().ok()
        };
        Some(Self {
            resident_bytes: number("VmRSS:")? * 1_024,
            anonymous_bytes: number("RssAnon:")? * 1_024,
            threads: number("Threads:")?,
        })
    }
}

/// Processor time of a process so far, in user and kernel.
pub fn cpu_time(pid: u32) -> io::Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path)?;
    let ticks = ticks_of(&text);
    let ticks = ticks.ok_or_else(|| io::Error::other(format!("{path} is not understood")))?;
    Ok(Duration::from_secs_f64(ticks as f64 / TICKS_PER_SECOND))
}

/// utime and stime. The second field is a name in parentheses that may itself hold some.
fn ticks_of(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// Processor time that all of the machine's processors have spent on something, so far.
pub fn machine_cpu_time() -> io::Result<Duration> {
    let text = fs::read_to_string("/proc/stat")?;
    let ticks = busy_ticks_of(&text);
    let ticks = ticks.ok_or_else(|| io::Error::other("/proc/stat is not understood"))?;
    Ok(Duration::from_secs_f64(ticks as f64 / TICKS_PER_SECOND))
}

/// user, nice, system, interrupts; not idle, not waiting for disks (fields 4 and 5), and not what
/// is contained in user (guests).
fn busy_ticks_of(stat: &str) -> Option<u64> {
    let fields = stat.lines().next()?.strip_prefix("cpu ")?;
    let fields: Result<Vec<u64>, _> = fields.split_ascii_whitespace().map(str::parse).collect();
    let fields = fields.ok()?;
    Some(fields.get(..3)?.iter().sum::<u64>() + fields.get(5..7)?.iter().sum::<u64>())
}

/// What a directory takes of its disk. Files that go while it is read are left out.
pub fn disk_bytes(directory: &Path) -> io::Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(directory)? {
        let found = entry.and_then(|entry| Ok((entry.path(), entry.metadata()?)));
        sum += match found {
            Ok((path, metadata)) if metadata.is_dir() => disk_bytes(&path)?,
            Ok((_, metadata)) => metadata.blocks() * BLOCK_BYTES,
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_is_understood() {
        let status = "Name:\tx\nVmRSS:\t    2048 kB\nRssAnon:\t     512 kB\nThreads:\t9\n";
        let expected = Memory {
            resident_bytes: 2 << 20,
            anonymous_bytes: 512 << 10,
            threads: 9,
        };
        assert_eq!(Memory::parse(status), Some(expected));
        assert_eq!(Memory::parse("Name:\tx\n"), None);
        let stat = "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 300 41 0 0";
        assert_eq!(ticks_of(stat), Some(341));
        assert_eq!(ticks_of("nonsense"), None);
        let machine = "cpu  1 2 4 800 900 8 16 700 0 0\ncpu0 1 2 4 8 9 8 6 7 0 0\n";
        assert_eq!(busy_ticks_of(machine), Some(31));
        assert_eq!(busy_ticks_of("cpu  1 2 4\n"), None);
    }

    #[test]
    fn this_process_is_seen() {
        let memory = Memory::of(std::process::id()).unwrap();
        assert!(memory.resident_bytes >= memory.anonymous_bytes);
        assert!(memory.threads > 0);
        cpu_time(std::process::id()).unwrap();
        machine_cpu_time().unwrap();
    }

    #[test]
    fn files_of_all_levels_count() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("inner")).unwrap();
        fs::write(directory.path().join("a"), vec![7; 10_000]).unwrap();
        fs::write(directory.path().join("inner/b"), vec![7; 10_000]).unwrap();
        // Some file systems give out space only when they flush.
        for file in ["a", "inner/b"] {
            let file = fs::File::open(directory.path().join(file)).unwrap();
            file.sync_all().unwrap();
        }
        assert!(disk_bytes(directory.path()).unwrap() >= 20_000);
        assert!(disk_bytes(&directory.path().join("c")).is_err());
    }

    #[test]
    fn a_metric_is_found_by_its_whole_name() {
        let text = "# HELP a_total x\na_total_more 5\na_total 12.5\n";
        assert_eq!(metric(text, "a_total"), Some(12.5));
        assert_eq!(metric(text, "a"), None);
    }
}
