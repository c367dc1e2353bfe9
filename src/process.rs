//! What the operating system knows of a process: memory, time, open files.
//!
//! Read from `/proc` when `/metrics` asks, and by `accord bench` of the nodes that it measures;
//! anything that cannot be read is left out, so that the node also runs where there is no `/proc`.

use std::fs;

use rustix::process::Resource;
use rustix::process::Rlimit;
use rustix::process::getrlimit;
use rustix::process::setrlimit;

/// Ticks per second in `/proc/self/stat`: fixed by Linux towards user space, whatever the kernel's
/// own rate.
const TICKS_PER_SECOND: f64 = 100.0;

/// A moment's facts, in base units.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub struct Usage {
    pub resident_bytes: Option<u64>,
    pub cpu_seconds: Option<f64>,
    pub open_fds: Option<u64>,
    pub max_fds: Option<u64>,
}

impl Usage {
    /// Of this process.
    pub fn read() -> Usage {
        Usage {
            open_fds: fs::read_dir("/proc/self/fd")
                .ok()
                .map(|entries| entries.count() as u64),
            max_fds: getrlimit(Resource::Nofile).current,
            ..Usage::of("self")
        }
    }

    /// Memory and time of the process with this id, all its threads together.
    pub fn of(process: &str) -> Usage {
        let status = fs::read_to_string(format!("/proc/{process}/status")).ok();
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok();
        Usage {
            resident_bytes: status.as_deref().and_then(resident_bytes),
            cpu_seconds: stat.as_deref().and_then(cpu_seconds),
            open_fds: None,
            max_fds: None,
        }
    }
}

/// Raises the soft limit of open files to the hard one: each socket is a file, and the usual soft
/// limit of 1,024 is far below what one node is meant to hold. Returns the limit that then holds.
pub fn raise_open_files() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if limit.current != limit.maximum && setrlimit(Resource::Nofile, raised).is_err() {
        return limit.current;
    }
    limit.maximum
}

fn resident_bytes(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1_024)
}

fn cpu_seconds(stat: &str) -> Option<f64> {
    // The second field is the program's name in parentheses and may hold anything, so counting
    // begins after the last one.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((user + system) as f64 / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_is_understood() {
        let status = "Name:\taccord\nVmPeak:\t  9 kB\nVmRSS:\t    1234 kB\nThreads:\t3\n";
        assert_eq!(resident_bytes(status), Some(1_234 * 1_024));
        assert_eq!(resident_bytes("VmRSS: many kB"), None);
        let stat = "42 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(cpu_seconds("42 (accord"), None);
    }

    #[test]
    fn this_process_has_memory_and_files() {
        let usage = Usage::read();
        assert!(usage.resident_bytes.unwrap() > 0);
        assert!(usage.open_fds.unwrap() > 0);
    }
}
