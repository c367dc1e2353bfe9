//! Real ends of real processes: a kill, and a disk that takes no more.
//!
//! The test binary starts itself again as the process that ends: the ignored
//! tests here do nothing unless [`CHILD`] names a directory for them.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use accord_storage::{EXIT_CODE_FATAL, Error, Group, GroupId, Options, Store};

use crate::support::{CLUSTER, NODE, drain, entry, open, options, wait};

const CHILD: &str = "ACCORD_STORAGE_TEST_CHILD";
const GROUPS: [GroupId; 2] = [GroupId(1), GroupId(2)];

fn child_dir() -> Option<std::path::PathBuf> {
    std::env::var_os(CHILD).map(Into::into)
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").unwrap();
    out.flush().unwrap();
}

/// Payloads of many sizes, so that a kill finds the writer in different places.
fn payload(index: u64) -> Vec<u8> {
    let bytes = if index.is_multiple_of(7) { 200_000 } else { 50 };
    (0..bytes).map(|at| (at as u64 ^ index) as u8).collect()
}

fn start_child(test: &str, dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            test,
            "--ignored",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(CHILD, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
#[ignore = "started by the test below"]
fn child_that_appends_until_it_is_killed() {
    let Some(dir) = child_dir() else { return };
    let store = open(&dir);
    let groups = GROUPS.map(|id| store.group(id).unwrap());
    let begin = end(&groups[0]).min(end(&groups[1]));
    for index in begin..u64::MAX {
        for group in groups.iter().filter(|group| end(group) == index) {
            let line = format!("done {} {index}", group.id());
            let applied = group.clone();
            group.append(
                vec![entry(1, index, &payload(index))],
                Box::new(move |result| {
                    result.unwrap();
                    say(&line);
                }),
            );
            applied.apply(entry(1, index, b"").log_id, Vec::new(), Box::new(|_| ()));
        }
        if store.pressure() {
            drain(&groups[0]);
        }
    }
}

fn end(group: &Group) -> u64 {
    group.log_state().last.map_or(0, |last| last.index + 1)
}

#[test]
fn what_was_acknowledged_survives_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = [None; 2];
    // More in the long run: `ACCORD_STORAGE_KILLS=500 cargo test kill`.
    let kills = std::env::var("ACCORD_STORAGE_KILLS").map_or(5, |kills| kills.parse().unwrap());
    for round in 0..kills {
        let mut child = start_child("crash::child_that_appends_until_it_is_killed", dir.path());
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut heard = 0;
        let before = acknowledged[0].min(acknowledged[1]);
        for line in &mut lines {
            heard += usize::from(note(&line.unwrap(), &mut acknowledged));
            if heard > 20 + round * 13 % 60 {
                break;
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // What it said before it died, but we had not read yet.
        for line in lines {
            note(&line.unwrap(), &mut acknowledged);
        }
        let checked = before.unwrap_or(0);
        let store = Store::open(options(dir.path()))
            .unwrap_or_else(|error| panic!("after kill {round}: {error}"));
        for (id, acknowledged) in GROUPS.iter().zip(acknowledged) {
            let group = store.group(*id).unwrap();
            assert!(
                end(&group) > acknowledged.unwrap_or(0),
                "after kill {round}"
            );
            assert!(group.applied() <= group.log_state().last);
            // Earlier ones were looked at after earlier kills.
            for index in checked..end(&group) {
                let found = group.history(index).unwrap().unwrap();
                assert!(found.payload == payload(index), "entry {index}");
            }
        }
    }
}

/// Notes an acknowledgement; false for any other line.
fn note(line: &str, acknowledged: &mut [Option<u64>; 2]) -> bool {
    // The test harness writes in front of the first line.
    let Some((_, rest)) = line.split_once("done ") else {
        return false;
    };
    let mut words = rest.split_whitespace().map(str::parse);
    let (Some(Ok(group)), Some(Ok(index))) = (words.next(), words.next()) else {
        return false;
    };
    let group: u64 = group;
    let slot = &mut acknowledged[group as usize - 1];
    *slot = (*slot).max(Some(index));
    true
}

#[test]
#[ignore = "started by the test below"]
fn child_whose_disk_takes_no_more() {
    let Some(dir) = child_dir() else { return };
    let mut options = Options::new(&dir, CLUSTER, NODE);
    if std::env::var_os("EXIT").is_none() {
        options.on_fatal = Arc::new(|_| say("fatal"));
    }
    let store = Store::open(options).unwrap();
    let group = store.group(GROUPS[0]).unwrap();
    let mut index = 0;
    let error = loop {
        match wait(|done| group.append(vec![entry(1, index, &[1; 100_000])], done)) {
            Ok(()) => say(&format!("done 1 {index}")),
            Err(error) => break error,
        }
        index += 1;
    };
    assert!(matches!(error, Error::Failed(_)), "{error:?}");
    let later = wait(|done| group.append(vec![entry(1, index + 1, b"")], done));
    assert!(matches!(later, Err(Error::Failed(_))), "{later:?}");
    assert!(matches!(group.entries(0..1, 1), Err(Error::Failed(_))));
    assert!(matches!(store.set_fact("a", b""), Err(Error::Failed(_))));
    drain(&group);
    let closed = crate::support::block_on(store.close());
    assert!(matches!(closed, Err(Error::Failed(_))), "{closed:?}");
    say("refused");
}

/// Runs the child under a limit on file sizes, which makes a real write fail.
fn with_a_full_disk(dir: &Path, exit: bool) -> (Option<i32>, String) {
    let mut command = Command::new("sh");
    command
        .args(["-c", "trap '' XFSZ; ulimit -f 8000; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "crash::child_whose_disk_takes_no_more"])
        .args(["--ignored", "--nocapture"])
        .env(CHILD, dir);
    if exit {
        command.env("EXIT", "1");
    }
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let text = format!("{said}{}", String::from_utf8_lossy(&output.stderr));
    (output.status.code(), text)
}

#[test]
fn a_failed_write_is_fatal_once_and_for_all() {
    let dir = tempfile::tempdir().unwrap();
    let (code, said) = with_a_full_disk(dir.path(), false);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(said.matches("fatal").count(), 1, "{said}");
    assert!(said.contains("refused"), "{said}");
}

#[test]
fn by_default_a_failed_write_ends_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let (code, said) = with_a_full_disk(dir.path(), true);
    assert_eq!(code, Some(EXIT_CODE_FATAL), "{said}");
    assert!(said.contains("done 1 0"), "{said}");
}
