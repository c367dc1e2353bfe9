//! What was measured, as it is written down: one JSON object per line and run, so that runs of
//! several sizes stand in one file.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::BenchError;
use super::catalogue::Stage;
use super::spread::Spread;

pub const VERSION: u32 = 1;

/// One run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    pub version: u32,
    /// Unix time, of the end.
    pub measured_at_s: u64,
    pub seed: u64,
    pub nodes: u64,
    /// Of the machine that they and the load program share.
    pub cores: u64,
    pub channels: u64,
    /// How they were made.
    pub stages: Vec<Stage>,
    /// The nodes were started on channels that were there already: none was ever awake in them when
    /// measuring began.
    pub started_on_them: bool,
    pub idle: Option<Idle>,
    pub restart: Option<Restart>,
    pub wake: Option<Wake>,
    pub saturation: Option<Wake>,
    pub sockets: Option<Sockets>,
    pub kill: Option<Kill>,
    /// Memory at the end of each step, after the wait for sleep.
    pub moments: Vec<Moment>,
}

/// How a wait for sleep ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sleep {
    pub reached: bool,
    pub waited_ms: u64,
    /// Channels open at its end on each node that runs; the directory is not counted.
    pub open: Vec<u64>,
}

/// A cluster that nobody asks for anything.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Idle {
    pub sleep: Sleep,
    pub seconds: f64,
    /// Of one core, all nodes together.
    pub cpu_percent: f64,
    /// The same of everything that ran on the machine: much more means that others disturbed.
    pub machine_cpu_percent: f64,
    pub nodes: Vec<IdleNode>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IdleNode {
    pub node: u64,
    pub resident_bytes: u64,
    pub anonymous_bytes: u64,
    pub threads: u64,
    pub cpu_percent: f64,
    /// To other nodes. None if the node does not count them.
    pub peer_bytes_per_s: Option<f64>,
    pub disk_bytes: u64,
}

/// A node that is stopped by SIGTERM and started again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Restart {
    pub node: u64,
    pub stop_ms: f64,
    /// From the start of the process to 200 on `/readyz`.
    pub ready_ms: f64,
    /// Right then.
    pub resident_bytes: u64,
}

/// What became of the requests of one load.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcomes {
    pub asked: u64,
    pub acknowledged: u64,
    /// The others, by what happened.
    pub errors: BTreeMap<String, u64>,
    pub error_first: Option<String>,
    /// Of the acknowledged, from when each was due.
    pub latency: Spread,
}

/// First writes to sleeping channels, at a fixed rate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Wake {
    pub sleep_before: Sleep,
    pub per_s: f64,
    /// From the first that was due to the last answer.
    pub seconds: f64,
    /// Less than was wished for, because there are no more channels.
    pub shortened: bool,
    pub outcomes: Outcomes,
    /// Acknowledged at the asked rate, nearly without errors.
    pub sustained: bool,
    /// Of one core: all nodes together, and the load program.
    pub nodes_cpu_percent: f64,
    pub client_cpu_percent: f64,
}

/// Sockets on sleeping channels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sockets {
    pub asked: u64,
    pub attached: u64,
    pub errors: BTreeMap<String, u64>,
    pub error_first: Option<String>,
    pub attach_seconds: f64,
    pub sleep_before: Sleep,
    pub sleep_after: Sleep,
    /// Of all nodes together, after minus before, by socket.
    pub bytes_per_socket: f64,
    /// Posts of messages through nodes other than the socket's.
    pub posts: Outcomes,
    pub received: u64,
    /// From when the post was due to the frame on the socket.
    pub receipt: Spread,
    /// Sockets that ended before the end.
    pub ended: u64,
}

/// A node that is killed while some channels are written to and the others sleep.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Kill {
    pub node: u64,
    /// Channels that are written to each second.
    pub active: u64,
    pub sleep_before: Sleep,
    /// Of the active ones, those that it led: from the kill to the first acknowledgement of a write
    /// that was invoked after it.
    pub active_gap: Spread,
    pub active_never: u64,
    /// From the kill until all others show the node as down.
    pub noticed_ms: f64,
    /// First writes, after that, to sleeping channels that it led.
    pub sleeping: Outcomes,
    /// Sleeping channels of which no node knew a leader when it was asked; if there are such, they
    /// are written to as well, whoever led them.
    pub leaders_unknown: u64,
    /// Writes to active channels that others led, from the kill on.
    pub others: Outcomes,
    /// From the start of the killed node's new process to 200 on `/readyz`.
    pub ready_ms: f64,
}

/// Memory of the nodes after a step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Moment {
    pub after: String,
    pub asleep: bool,
    pub resident_bytes: Vec<u64>,
}

impl Figures {
    /// Adds a line to the file.
    pub fn append_to(&self, file: &Path) -> Result<(), BenchError> {
        let written = || -> io::Result<()> {
            if let Some(directory) = file.parent() {
                fs::create_dir_all(directory)?;
            }
            let line = serde_json::to_string(self)? + "\n";
            let mut file = OpenOptions::new().create(true).append(true).open(file)?;
            file.write_all(line.as_bytes())
        };
        written().map_err(|error| BenchError::io(file, error))
    }

    /// Every run of a file.
    pub fn read_from(file: &Path) -> Result<Vec<Self>, BenchError> {
        let text = fs::read_to_string(file).map_err(|error| BenchError::io(file, error))?;
        let lines = text.lines().enumerate();
        let runs = lines.filter(|(_, line)| !line.trim().is_empty());
        runs.map(|(place, line)| {
            Self::parse(line).map_err(|why| {
                BenchError::Unfit(format!("{}, line {}: {why}", file.display(), place + 1))
            })
        })
        .collect()
    }

    fn parse(line: &str) -> Result<Self, String> {
        let figures: Self = serde_json::from_str(line).map_err(|error| error.to_string())?;
        match figures.version {
            VERSION => Ok(figures),
            other => Err(format!("version {other} is not known")),
        }
    }
}

/// Made-up figures for the tests of what shows them.
#[cfg(test)]
pub fn example(channels: u64) -> Figures {
    let spread = |p50: f64| Spread {
        count: 100,
        p50_ms: p50,
        p99_ms: 3.0 * p50,
        max_ms: 9.0 * p50,
    };
    let sleep = |open: u64| Sleep {
        reached: open == 0,
        waited_ms: 10_000,
        open: vec![open; 3],
    };
    let outcomes = Outcomes {
        asked: 101,
        acknowledged: 100,
        errors: BTreeMap::from([("503".to_owned(), 1)]),
        error_first: Some("refused with 503: busy".to_owned()),
        latency: spread(1.5),
    };
    let wake = |per_s: f64| Wake {
        sleep_before: sleep(0),
        per_s,
        seconds: 30.0,
        shortened: false,
        outcomes: outcomes.clone(),
        sustained: true,
        nodes_cpu_percent: 120.0,
        client_cpu_percent: 12.0,
    };
    Figures {
        version: VERSION,
        measured_at_s: 1_700_000_000,
        seed: 7,
        nodes: 3,
        cores: 2,
        channels,
        stages: vec![Stage {
            from: 0,
            to: channels,
            messages: 10 * channels,
            message_bytes: 128,
            create_seconds: channels as f64 / 1_000.0,
            write_seconds: channels as f64 / 300.0,
            repeated: 0,
        }],
        started_on_them: true,
        idle: Some(Idle {
            sleep: sleep(0),
            seconds: 60.0,
            cpu_percent: 1.25,
            machine_cpu_percent: 2.0,
            nodes: (1..=3)
                .map(|node| IdleNode {
                    node,
                    resident_bytes: (50 + node) << 20,
                    anonymous_bytes: 20 << 20,
                    threads: 12,
                    cpu_percent: 0.4,
                    peer_bytes_per_s: Some(300.0),
                    disk_bytes: channels << 10,
                })
                .collect(),
        }),
        restart: Some(Restart {
            node: 2,
            stop_ms: 900.0,
            ready_ms: 750.0,
            resident_bytes: 60 << 20,
        }),
        wake: Some(wake(200.0)),
        saturation: Some(wake(2_000.0)),
        sockets: Some(Sockets {
            asked: 10_000,
            attached: 10_000,
            errors: BTreeMap::new(),
            error_first: None,
            attach_seconds: 4.0,
            sleep_before: sleep(0),
            sleep_after: sleep(0),
            bytes_per_socket: 9_000.0,
            posts: outcomes.clone(),
            received: 100,
            receipt: spread(2.0),
            ended: 0,
        }),
        kill: Some(Kill {
            node: 1,
            active: 1_000,
            sleep_before: sleep(1_000),
            active_gap: spread(200.0),
            active_never: 0,
            noticed_ms: 12.0,
            sleeping: outcomes.clone(),
            leaders_unknown: 0,
            others: outcomes,
            ready_ms: 1_500.0,
        }),
        moments: vec![Moment {
            after: "wake".to_owned(),
            asleep: true,
            resident_bytes: vec![70 << 20; 3],
        }],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_added_to_a_file_and_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("new/channels.jsonl");
        let runs = [example(1_000), example(1_000_000)];
        for run in &runs {
            run.append_to(&file).unwrap();
        }
        assert_eq!(Figures::read_from(&file).unwrap(), runs);
    }

    #[test]
    fn a_line_that_is_not_ours_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("channels.jsonl");
        example(1).append_to(&file).unwrap();
        let later = Figures {
            version: 99,
            ..example(2)
        };
        later.append_to(&file).unwrap();
        let error = Figures::read_from(&file).unwrap_err().to_string();
        assert!(error.contains("line 2: version 99"), "{error}");
    }
}
