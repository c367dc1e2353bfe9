//! One node's process: started, signalled, watched; its output in a file.
//!
//! The standard library's `Child` is used, not tokio's, because a cluster that
//! tests share outlives the runtime of the test that started it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::guard::Guard;

/// How much of a log an error message carries.
const LOG_TAIL_BYTES: u64 = 4096;

/// A process that ended after SIGTERM.
#[derive(Debug, Clone, Copy)]
pub struct Stopped {
    pub status: ExitStatus,
    /// From the signal to the end.
    pub took: Duration,
}

/// How a node is started.
#[derive(Debug, Clone)]
pub struct Launch {
    pub binary: PathBuf,
    /// A command that runs the rest of its arguments in its own place (`nsenter --net=…`); empty
    /// for none. It must not fork: signals go to the process that we started.
    pub prefix: Vec<String>,
    pub config: PathBuf,
    pub node: u64,
    /// Output is appended to it.
    pub log: PathBuf,
    pub environment: Vec<(String, String)>,
}

impl Launch {
    /// `binary SUBCOMMAND --config … --node …`, behind the prefix.
    pub fn command(&self, subcommand: &str) -> Command {
        let mut words = self.prefix.iter();
        let mut command = match words.next() {
            Some(first) => {
                let mut command = Command::new(first);
                command.args(words).arg(&self.binary);
                command
            }
            None => Command::new(&self.binary),
        };
        command
            .arg(subcommand)
            .arg("--config")
            .arg(&self.config)
            .arg("--node")
            .arg(self.node.to_string())
            .envs(self.environment.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::null());
        command
    }
}

#[derive(Debug)]
pub struct NodeProcess {
    child: Child,
    ended: Option<ExitStatus>,
}

impl NodeProcess {
    /// Starts `serve` inside the guarded group.
    pub fn start(launch: &Launch, guard: &Guard) -> io::Result<Self> {
        let output = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&launch.log)?;
        let mut command = launch.command("serve");
        command.stdout(output.try_clone()?).stderr(output);
        guard.adopt(&mut command)?;
        let child = command.spawn()?;
        Ok(Self { child, ended: None })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The exit status, once the process has ended.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait()?;
        }
        Ok(self.ended)
    }

    /// SIGKILL, and waits until the process is gone. Works on a paused process.
    pub fn kill(&mut self) -> io::Result<()> {
        if self.ended()?.is_none() {
            self.child.kill()?;
            self.ended = Some(self.child.wait()?);
        }
        Ok(())
    }

    pub fn terminate(&mut self) -> io::Result<()> {
        self.signal(Signal::TERM)
    }

    pub fn pause(&mut self) -> io::Result<()> {
        self.signal(Signal::STOP)
    }

    pub fn resume(&mut self) -> io::Result<()> {
        self.signal(Signal::CONT)
    }

    /// Nothing is ever sent to a process that has been awaited: its id may
    /// belong to somebody else by now.
    fn signal(&mut self, signal: Signal) -> io::Result<()> {
        if let Some(status) = self.ended()? {
            return Err(io::Error::other(format!(
                "the process has already ended: {status}"
            )));
        }
        let pid = i32::try_from(self.child.id())
            .ok()
            .and_then(Pid::from_raw)
            .ok_or_else(|| io::Error::other("the process has no usable id"))?;
        Ok(kill_process(pid, signal)?)
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            eprintln!("a node could not be killed: {error}");
        }
    }
}

/// The whole log; what is not UTF-8 is replaced, since a person reads it.
pub fn read_log(path: &Path) -> String {
    match std::fs::read(path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => format!("(no log at {}: {error})", path.display()),
    }
}

/// The end of the log, for error messages.
pub fn log_tail(path: &Path) -> String {
    let read = || -> io::Result<String> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().unwrap_or_else(|error| format!("(no log at {}: {error})", path.display()))
}
