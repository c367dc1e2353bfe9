//! The library that is preloaded into the nodes, and the orders to it.
//!
//! It bends the wall clock and breaks the disk from inside the process, by standing before a few
//! functions of the C library. libfaketime could bend clocks too, but it reads its orders when it
//! likes to (it caches them), cannot say what it did, and would be one more package to install;
//! here a counter in shared memory is the evidence. The library is C because it must be loadable
//! into any process and safe in any thread, and is built by gcc at run time, so that the workspace
//! needs no C compiler.
//!
//! The monotonic clock is left alone: setting a machine's wall clock does not move it either.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::WorldError;
use super::command::{exists, run};

const SOURCE: &str = include_str!("../../shim/accord_shim.c");

/// The layout of `struct control` in the C source.
const CONTROL_BYTES: u64 = 4096;
const MAGIC: u64 = u64::from_le_bytes(*b"ACCSHIM1");
const SYNC_DELAY_US: u64 = 8;
const FAIL_LEFT: u64 = 16;
const FAIL_ERRNO: u64 = 24;
const FAIL_OPS: u64 = 32;
const CLOCK_VERSION: u64 = 40;
const WALL_OFFSET_NS: u64 = 48;
const SYNCS_DELAYED: u64 = 72;
const ERRORS_INJECTED: u64 = 80;
const CLOCK_READS_SHIFTED: u64 = 88;

/// Which calls fail; a sum of these.
pub const OP_SYNC: u64 = 1;

/// The library, and each node's control file.
#[derive(Debug)]
pub struct Shim {
    library: PathBuf,
    controls: Vec<Control>,
}

/// The orders to one node's processes, one after the other.
#[derive(Debug)]
pub struct Control {
    path: PathBuf,
    file: File,
}

/// What the library did so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Done {
    pub syncs_delayed: u64,
    pub errors_injected: u64,
    pub clock_reads_shifted: u64,
}

impl Shim {
    /// Why there can be none here.
    pub fn missing() -> Option<String> {
        (!exists("gcc")).then(|| {
            "there is no `gcc` to build the library with that bends clocks and breaks disks"
                .to_owned()
        })
    }

    /// Builds the library in `home`, with a control file for each node there.
    pub fn build(home: &Path, nodes: u64) -> Result<Self, WorldError> {
        let io = |what: &str| {
            let what = what.to_owned();
            move |source| WorldError::Io { what, source }
        };
        let source = home.join("accord_shim.c");
        let library = home.join("accord_shim.so");
        std::fs::write(&source, SOURCE).map_err(io("writing the shim's source"))?;
        let (from, to) = (source.to_string_lossy(), library.to_string_lossy());
        let flags = ["-O2", "-fPIC", "-shared", "-Wall", "-Wextra"];
        run(&[
            &["gcc"],
            &flags[..],
            &["-o", &to, &from, "-ldl", "-lpthread"],
        ]
        .concat())?;
        let controls = (1..=nodes)
            .map(|node| Control::create(home.join(format!("control-{node}"))))
            .collect::<io::Result<Vec<_>>>()
            .map_err(io("making a control file"))?;
        Ok(Self { library, controls })
    }

    /// What a node's process needs in its environment.
    pub fn environment(&self, node: u64, data_dir: &Path) -> Vec<(String, String)> {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        vec![
            ("LD_PRELOAD".to_owned(), text(&self.library)),
            (
                "ACCORD_SHIM_CONTROL".to_owned(),
                text(&self.control(node).path),
            ),
            ("ACCORD_SHIM_DATA".to_owned(), text(data_dir)),
        ]
    }

    pub fn control(&self, node: u64) -> &Control {
        let at = usize::try_from(node - 1).expect("a node's place fits in memory");
        &self.controls[at]
    }

    /// No order stands any more.
    pub fn reset(&self) -> io::Result<()> {
        self.controls.iter().try_for_each(|control| {
            control.reset_disk()?;
            control.reset_clock()
        })
    }
}

impl Control {
    fn create(path: PathBuf) -> io::Result<Self> {
        let file = OpenOptions::new()
            .create_new(true)
            .read(true)
            .write(true)
            .open(&path)?;
        file.set_len(CONTROL_BYTES)?;
        let control = Self { path, file };
        control.set(0, MAGIC)?;
        Ok(control)
    }

    /// Syncs are neither late nor fail any more.
    pub fn reset_disk(&self) -> io::Result<()> {
        self.delay_syncs(Duration::ZERO)?;
        self.set(FAIL_LEFT, 0)
    }

    /// The clock is right again.
    pub fn reset_clock(&self) -> io::Result<()> {
        self.set_clock(0, 0, 0)
    }

    /// Every sync takes this much longer; zero ends it.
    pub fn delay_syncs(&self, delay: Duration) -> io::Result<()> {
        let delay_us = u64::try_from(delay.as_micros()).map_err(io::Error::other)?;
        self.set(SYNC_DELAY_US, delay_us)
    }

    /// The next `calls` calls of these operations fail with this error.
    pub fn fail(&self, operations: u64, calls: u64, errno: i32) -> io::Result<()> {
        self.set(FAIL_ERRNO, u64::from(errno.unsigned_abs()))?;
        self.set(FAIL_OPS, operations)?;
        self.set(FAIL_LEFT, calls)
    }

    /// The wall clock is wrong by `offset_ns`, and by `rate_ppm` more for each second after the
    /// true time `anchor_ns`. Zeros set it right.
    pub fn set_clock(&self, offset_ns: i64, rate_ppm: i64, anchor_ns: i64) -> io::Result<()> {
        let version = self.get(CLOCK_VERSION)?;
        self.set(CLOCK_VERSION, version + 1)?;
        let mut fields = [0; 24];
        for (at, value) in [offset_ns, rate_ppm, anchor_ns].into_iter().enumerate() {
            fields[at * 8..at * 8 + 8].copy_from_slice(&value.to_ne_bytes());
        }
        self.file.write_all_at(&fields, WALL_OFFSET_NS)?;
        self.set(CLOCK_VERSION, version + 2)
    }

    pub fn done(&self) -> io::Result<Done> {
        Ok(Done {
            syncs_delayed: self.get(SYNCS_DELAYED)?,
            errors_injected: self.get(ERRORS_INJECTED)?,
            clock_reads_shifted: self.get(CLOCK_READS_SHIFTED)?,
        })
    }

    /// Eight aligned bytes: the library sees all of them or none.
    fn set(&self, at: u64, value: u64) -> io::Result<()> {
        self.file.write_all_at(&value.to_ne_bytes(), at)
    }

    fn get(&self, at: u64) -> io::Result<u64> {
        let mut bytes = [0; 8];
        self.file.read_exact_at(&mut bytes, at)?;
        Ok(u64::from_ne_bytes(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    const HOUR_NS: i64 = 3_600_000_000_000;

    /// What a program prints that runs with the library, its data in the shim's home.
    fn under(shim: &Shim, home: &Path, program: &str, arguments: &[&str]) -> (bool, String) {
        let output = Command::new(program)
            .args(arguments)
            .envs(shim.environment(1, &home.join("data")))
            .current_dir(home)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.success(), text)
    }

    #[test]
    fn clocks_bend_and_syncs_fail_only_when_ordered_and_it_is_counted() {
        if let Some(why) = Shim::missing() {
            eprintln!("not tested here: {why}");
            return;
        }
        let home = tempfile::tempdir().unwrap();
        let home = home.path().canonicalize().unwrap();
        std::fs::create_dir(home.join("data")).unwrap();
        let shim = Shim::build(&home, 2).unwrap();
        let control = shim.control(1);
        let seconds = || -> i64 {
            under(&shim, &home, "date", &["+%s"])
                .1
                .trim()
                .parse()
                .unwrap()
        };
        let copies = |to: &str| {
            let to = format!("of={to}");
            under(&shim, &home, "dd", &["if=/dev/null", &to, "conv=fsync"]).0
        };

        let before = seconds();
        assert!(copies("data/file"));
        assert_eq!(control.done().unwrap(), Done::default());

        control.set_clock(HOUR_NS, 0, 0).unwrap();
        assert!((3600..3660).contains(&(seconds() - before)));
        control.set_clock(-HOUR_NS, 0, 0).unwrap();
        assert!((-3600..-3540).contains(&(seconds() - before)));
        // 10 % fast since ten hours ago: an hour ahead.
        let anchor = before * 1_000_000_000 - 10 * HOUR_NS;
        control.set_clock(0, 100_000, anchor).unwrap();
        assert!((3600..3660).contains(&(seconds() - before)));
        assert!(control.done().unwrap().clock_reads_shifted >= 3);

        control.fail(OP_SYNC, 1, 5).unwrap();
        assert!(copies("elsewhere"), "only data is failed");
        assert!(!copies("data/file"), "one sync fails");
        assert!(copies("data/file"), "and the next one does not");
        assert_eq!(control.done().unwrap().errors_injected, 1);
        control.delay_syncs(Duration::from_millis(1)).unwrap();
        assert!(copies("data/file"));
        assert_eq!(control.done().unwrap().syncs_delayed, 1);

        shim.reset().unwrap();
        assert!((0..60).contains(&(seconds() - before)));
        assert!(copies("data/file"));
        assert_eq!(shim.control(2).done().unwrap(), Done::default());
    }
}
