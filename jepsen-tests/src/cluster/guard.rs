//! A process group in which the nodes live, and which dies with us.
//!
//! A tiny shell leads the group and waits on a pipe that only we hold. When we
//! end, for whatever reason (return, panic, SIGKILL), the kernel closes the
//! pipe, the shell wakes up and kills its whole group: itself and every node.
//! That needs neither `unsafe` (as PR_SET_PDEATHSIG does) nor a thread that
//! must live as long as the nodes.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

/// Waits for the end of its input, then kills its process group.
const SCRIPT: &str = "read _line; kill -KILL 0";

#[derive(Debug)]
pub struct Guard {
    shell: Child,
}

impl Guard {
    pub fn start() -> io::Result<Self> {
        let shell = Command::new("sh")
            .args(["-c", SCRIPT])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        Ok(Self { shell })
    }

    /// Makes `command` start inside the guarded group.
    pub fn adopt(&self, command: &mut Command) -> io::Result<()> {
        let group = i32::try_from(self.shell.id()).map_err(io::Error::other)?;
        command.process_group(group);
        Ok(())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // Closing the pipe is the signal; the shell kills itself with the rest.
        drop(self.shell.stdin.take());
        if let Err(error) = self.shell.wait() {
            eprintln!("the guard of a cluster could not be awaited: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    #[test]
    fn what_lives_in_the_group_dies_with_the_guard() {
        let guard = Guard::start().unwrap();
        let mut command = Command::new("sleep");
        command.arg("600");
        guard.adopt(&mut command).unwrap();
        let mut sleeper = command.spawn().unwrap();
        assert!(sleeper.try_wait().unwrap().is_none());
        drop(guard);
        assert_eq!(sleeper.wait().unwrap().signal(), Some(9));
    }
}
