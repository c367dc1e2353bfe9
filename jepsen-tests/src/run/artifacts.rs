//! What is kept of an episode: history, pictures, logs, data, and how to run it again.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::checker::Report;
use crate::cluster::Cluster;
use crate::history::{History, edn, jsonl};
use crate::report::{self, ANOMALIES_TOLD_MAX, timeline};

/// A directory tree deeper than this is none that a node made.
const DEPTH_MAX: usize = 16;

/// Writes history, report and pictures to `directory`, which is made if need be.
pub fn keep_history(directory: &Path, history: &History, report: &Report) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    write_with(&directory.join("history.jsonl"), |out| {
        jsonl::write(history, out)
    })?;
    for (name, form) in [
        ("history.edn", edn::Form::Jepsen),
        ("history-elle.edn", edn::Form::Elle),
    ] {
        write_with(&directory.join(name), |out| edn::write(history, form, out))?;
    }
    write_with(&directory.join("report.json"), |out| {
        serde_json::to_writer_pretty(out, report).map_err(io::Error::other)
    })?;
    draw(directory, history, report).map(|_| ())
}

/// Draws the first anomalies; the files.
pub fn draw(directory: &Path, history: &History, report: &Report) -> io::Result<Vec<PathBuf>> {
    fs::create_dir_all(directory)?;
    let mut files = Vec::new();
    // Some of each property, rather than many of the first one.
    let mut chosen: Vec<(usize, &crate::checker::Anomaly)> = Vec::new();
    for anomaly in &report.anomalies {
        let before = report
            .anomalies
            .iter()
            .take_while(|other| !std::ptr::eq(*other, anomaly))
            .filter(|other| other.property == anomaly.property)
            .count();
        chosen.push((before, anomaly));
    }
    chosen.sort_by_key(|(before, _)| *before);
    for (number, (_, anomaly)) in chosen.into_iter().take(ANOMALIES_TOLD_MAX).enumerate() {
        let file = directory.join(format!(
            "anomaly-{:02}-{}.svg",
            number + 1,
            anomaly.property
        ));
        fs::write(&file, timeline::svg(history, &report::mark(anomaly)))?;
        files.push(file);
    }
    Ok(files)
}

/// Copies what the nodes wrote. They should not run any more.
pub fn keep_nodes(directory: &Path, cluster: &Cluster) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    for node in cluster.ids() {
        fs::write(
            directory.join(format!("node-{node}.log")),
            cluster.log(node),
        )?;
        copy_tree(
            cluster.data_dir(node),
            &directory.join(format!("data-{node}")),
            DEPTH_MAX,
        )?;
    }
    Ok(())
}

/// Replaces a file by one that is whole, whenever the program is interrupted.
pub fn replace(path: &Path, text: &str) -> io::Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, text)?;
    fs::rename(&new, path)
}

fn write_with(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> io::Result<()> {
    let mut out = BufWriter::new(File::create(path)?);
    write(&mut out)?;
    out.flush()
}

/// Directories and plain files; what cannot be read is left out, since what is kept after a fault
/// may be damaged.
fn copy_tree(from: &Path, to: &Path, depth_left: usize) -> io::Result<()> {
    let Ok(entries) = fs::read_dir(from) else {
        return Ok(());
    };
    if depth_left == 0 {
        return Ok(());
    }
    fs::create_dir_all(to)?;
    for entry in entries.flatten() {
        let target = to.join(entry.file_name());
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        if kind.is_dir() {
            copy_tree(&entry.path(), &target, depth_left - 1)?;
        } else if kind.is_file() {
            // The disk it comes from may be broken on purpose; the one it goes to is judged by the
            // writes around this one.
            let _ = fs::copy(entry.path(), target);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::{Anomaly, Property};

    #[test]
    fn a_tree_is_copied_and_what_is_missing_is_no_error() {
        let base = tempfile::tempdir().unwrap();
        let from = base.path().join("from");
        fs::create_dir_all(from.join("a/b")).unwrap();
        fs::write(from.join("a/b/c"), "x").unwrap();
        let to = base.path().join("to");
        copy_tree(&from, &to, 16).unwrap();
        assert_eq!(fs::read_to_string(to.join("a/b/c")).unwrap(), "x");
        copy_tree(&base.path().join("nowhere"), &to, 16).unwrap();
    }

    #[test]
    fn a_kept_history_is_read_back_and_every_property_is_drawn() {
        let base = tempfile::tempdir().unwrap();
        let anomaly = |property| Anomaly {
            property,
            what: "what".to_owned(),
            at: (1, 2),
            channel: None,
            operations: Vec::new(),
            streams: Vec::new(),
        };
        let mut anomalies: Vec<Anomaly> = (0..15).map(|_| anomaly(Property::P1)).collect();
        anomalies.push(anomaly(Property::P9));
        let report = Report {
            anomalies,
            ..Report::default()
        };
        let history = History {
            seed: 5,
            ..History::default()
        };
        keep_history(base.path(), &history, &report).unwrap();
        let file = io::BufReader::new(File::open(base.path().join("history.jsonl")).unwrap());
        assert_eq!(jsonl::read(file).unwrap(), history);
        assert!(base.path().join("anomaly-02-P9.svg").exists());
        assert!(base.path().join("anomaly-12-P1.svg").exists());
        assert!(!base.path().join("anomaly-13-P1.svg").exists());
    }

    #[test]
    fn a_file_is_replaced_whole() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("campaign.json");
        for text in ["one", "two"] {
            replace(&path, text).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }
}
