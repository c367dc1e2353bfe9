//! What /proc says about a process.

use std::time::Duration;

use crate::wait::{TimedOut, wait_until};

/// Time for every thread of a process to stop: one may be in the middle of a sync.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// The state letter of each thread, such as `S`, `D` or `T`; empty if there is no such process.
pub fn thread_states(pid: u32) -> Vec<char> {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    threads
        .flatten()
        .filter_map(|thread| std::fs::read_to_string(thread.path().join("stat")).ok())
        .filter_map(|stat| state_of(&stat))
        .collect()
}

/// Waits until every thread is stopped; how many there are.
pub async fn all_stopped(pid: u32) -> Result<usize, TimedOut> {
    wait_until("all threads to be stopped", STOP_WITHIN, || async {
        let states = thread_states(pid);
        if !states.is_empty() && states.iter().all(|state| *state == 'T') {
            Ok(states.len())
        } else {
            Err(format!("the states are {states:?}"))
        }
    })
    .await
}

/// The third field; the second is a name in parentheses that may itself hold some.
fn state_of(stat: &str) -> Option<char> {
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_hide_the_state() {
        assert_eq!(state_of("12 (a) b) R 1 2"), Some('R'));
        assert_eq!(state_of("nonsense"), None);
    }

    #[tokio::test]
    async fn a_stopped_process_is_seen_to_be_stopped() {
        let mut child = std::process::Command::new("sleep")
            .arg("600")
            .spawn()
            .unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
        assert_eq!(all_stopped(child.id()).await.unwrap(), 1);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(thread_states(child.id()).is_empty());
    }
}
