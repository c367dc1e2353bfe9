//! `accord bench`: what a cluster does in a second, how long it takes over a message, and what that
//! costs, seen from outside through its sockets.
//!
//! Every message carries who sent it, its number and when it was due, so each socket also checks that
//! nothing is missing, repeated or out of order, and that all receivers saw one order. A figure of a
//! run in which that failed is not a figure: the exit status is then 1.
//!
//! `cases` says what is measured, `load` makes one load, `worker` is a thread of it and `connection` a
//! socket; `cluster` is what is measured, `figures` and `table` are what is told about it.

mod cases;
mod checks;
mod cluster;
mod connection;
mod disk;
mod figures;
mod histogram;
mod load;
mod plan;
mod progress;
mod stamp;
mod table;
mod tally;
#[cfg(test)]
mod tests;
mod usage;
mod wire;
mod worker;
mod workload;

use std::fs::OpenOptions;
use std::io;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;

use cases::Case;
use cases::Kind;
use checks::Faults;
use cluster::Cluster;
use disk::Disk;
use figures::Figures;
use figures::Values;
use load::Means;
use load::Outcome;
use plan::Seating;
use progress::Progress;
use workload::BODY_BYTES;
use workload::BODY_BYTES_MAX;
use workload::BODY_BYTES_MIN;
use workload::Crew;
use workload::Pace;
use workload::Workload;

use crate::dev::layout::LayoutError;

/// How long a cluster of our own takes to start and to stop, for the progress bar.
const CLUSTER_ESTIMATE: Duration = Duration::from_secs(4);

#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Cases to run, by letter; all that can be run, if none is named
    ///
    /// Of 128-byte messages, measured for 10 s after 2 s unless noted.
    /// a: one channel, one closed-loop sender: the latency of a commit.
    /// b: one channel, 64 closed-loop senders, all receive: fan-out at saturation.
    /// c: 20 channels of 50 users, 5 messages/s each, 30 s: everyday chat.
    /// d: one channel, 1,000 receivers, 10 messages/s, 15 s: wide fan-out.
    /// e: 100 channels, one closed-loop sender each: many groups at once.
    /// f: one channel, 4 publish-only senders, 64 in flight each: commits of one channel.
    /// g: 100 channels, one publish-only sender with 8 in flight each: commits of many.
    /// h: one channel, 64 receivers, 4 of them send 200 messages/s together.
    /// i: 20 quiet channels, 1 message/s each, 30 s alone and 30 s beside f: fairness.
    /// j: one channel, 6 receivers, 500 messages/s: receipt on another node.
    /// k: the channel's leader killed ten times under 1,000 messages/s: failover (own cluster only).
    /// l: one channel, 1,000 receivers, one sender with 64 in flight: wide fan-out at saturation.
    #[arg(value_name = "CASE", verbatim_doc_comment, value_parser = letter)]
    cases: Vec<char>,
    /// A running cluster's nodes, http://HOST:PORT, with commas [default: a cluster of its own]
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    urls: Vec<String>,
    /// Processes of the nodes of that cluster, whose processor time and memory are told
    #[arg(long, value_name = "PID", value_delimiter = ',', requires = "urls")]
    pids: Vec<u32>,
    /// How often each case is run, each time on a new cluster if it is its own; k is run once
    #[arg(long, value_name = "COUNT", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rounds: u32,
    /// Seconds measured, instead of those of each case
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: Option<u64>,
    /// Messages in flight, instead of those of each case whose senders are closed loops
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    window: Option<u32>,
    /// Bytes of a message
    #[arg(long, value_name = "COUNT", default_value_t = BODY_BYTES, value_parser = body_bytes)]
    bytes: usize,
    /// Threads that make the load; more than one where client cores come near to 1
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = threads)]
    threads: usize,
    /// Where the data of a cluster of its own lies meanwhile; on the disk that is to be measured
    #[arg(long, value_name = "DIR", conflicts_with = "urls")]
    data_dir: Option<PathBuf>,
    /// Add what was measured to this file: a line of JSON for each case and round, and a summary
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Why there are no figures; each is a sentence.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    #[error("{0} is not a node's address: http://HOST:PORT")]
    Url(String),
    #[error("case k kills nodes, and does that to a cluster of its own only: leave --urls away")]
    NotOwn,
    #[error("no six ports in a row are free on this machine")]
    Ports,
    #[error("cannot make {path}: {source}")]
    Directory { path: PathBuf, source: io::Error },
    #[error("{0}")]
    Layout(#[from] LayoutError),
    #[error("cannot start a node: {0}")]
    Start(io::Error),
    #[error("node {node} was waited for {what} in vain; it said:\n{lines}")]
    Node {
        node: u64,
        what: &'static str,
        lines: String,
    },
    #[error("the nodes did not find each other")]
    NotWhole,
    #[error("nobody leads the channel")]
    NoLeader,
    #[error("{node} does not do POST {path}: {why}")]
    Request {
        node: String,
        path: String,
        why: String,
    },
    #[error("the load cannot be made: {0}")]
    Load(io::Error),
    #[error("cannot write {path}: {source}")]
    Json { path: PathBuf, source: io::Error },
    #[error("cannot handle signals: {0}")]
    Signals(io::Error),
    #[error("interrupted")]
    Interrupted,
    #[error("checks failed: {0}")]
    Checks(String),
}

/// Measures, and prints what was found.
pub async fn run(options: Options) -> Result<(), BenchError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(BenchError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(BenchError::Signals)?;
    // Each user is an open file, and a thousand of them are more than the usual limit.
    crate::process::raise_open_files();
    tokio::select! {
        result = measure(&options) => result,
        _ = terminate.recv() => Err(BenchError::Interrupted),
        _ = interrupt.recv() => Err(BenchError::Interrupted),
    }
}

async fn measure(options: &Options) -> Result<(), BenchError> {
    let cases = chosen(options);
    if !options.urls.is_empty() && cases.iter().any(Case::kills) {
        return Err(BenchError::NotOwn);
    }
    let mut bench = Bench {
        options: options.clone(),
        progress: Progress::new(estimate(&cases, options)),
        all: Vec::new(),
        disks: Vec::new(),
    };
    for round in 1..=options.rounds {
        bench.round(round, &cases).await?;
    }
    bench.finish()
}

/// The cases that are asked for, with what is asked of them.
fn chosen(options: &Options) -> Vec<Case> {
    let mut cases = cases::named(&options.cases, options.urls.is_empty());
    for case in &mut cases {
        let load = case.loads();
        load.body_bytes = options.bytes;
        if let Some(seconds) = options.seconds {
            load.measured = Duration::from_secs(seconds);
        }
        for crew in &mut load.crews {
            if let (Pace::Closed { window }, Some(asked)) = (&mut crew.pace, options.window) {
                *window = asked;
            }
        }
    }
    cases
}

fn estimate(cases: &[Case], options: &Options) -> Duration {
    let rounds = |case: &Case| if case.kills() { 1 } else { options.rounds };
    let loads: Duration = cases
        .iter()
        .map(|case| case.estimate() * rounds(case))
        .sum();
    match options.urls.is_empty() {
        true => loads + CLUSTER_ESTIMATE * options.rounds,
        false => loads,
    }
}

/// A run and what it has found so far.
struct Bench {
    options: Options,
    progress: Progress,
    all: Vec<Figures>,
    disks: Vec<Disk>,
}

impl Bench {
    async fn round(&mut self, round: u32, cases: &[Case]) -> Result<(), BenchError> {
        let mut cluster = self.cluster(round).await?;
        for case in cases.iter().filter(|case| round == 1 || !case.kills()) {
            let rounds = self.options.rounds;
            let what = format!("round {round} of {rounds}, {}: {}", case.letter, case.about);
            self.progress.begin(what, case.estimate());
            let (values, faults) = self.case(case, &mut cluster).await?;
            let figures = Figures {
                case: case.letter,
                round,
                about: case.about,
                values,
                faults,
            };
            self.tell(&figures);
            self.write(&figures)?;
            self.all.push(figures);
        }
        cluster.stop().await;
        Ok(())
    }

    async fn cluster(&mut self, round: u32) -> Result<Cluster, BenchError> {
        if !self.options.urls.is_empty() {
            return Cluster::running(&self.options.urls, &self.options.pids);
        }
        let what = format!("round {round} of {}, a new cluster", self.options.rounds);
        self.progress.begin(what, CLUSTER_ESTIMATE);
        let dir = self.options.data_dir.clone();
        let cluster = Cluster::start(&dir.unwrap_or_else(std::env::temp_dir)).await?;
        if let Some(dir) = cluster.data_dir() {
            let disk = disk::measure(dir).map_err(BenchError::Load)?;
            if disk.is_memory {
                let dir = dir.display();
                self.progress.say(&format!(
                    "{dir} is in memory: syncing costs nothing there; --data-dir says where else"
                ));
            }
            self.disks.push(disk);
        }
        Ok(cluster)
    }

    async fn case(
        &self,
        case: &Case,
        cluster: &mut Cluster,
    ) -> Result<(Values, Faults), BenchError> {
        let has_pids = !cluster.pids.is_empty();
        match &case.kind {
            Kind::Load(load) => {
                let outcome = self.load(cluster, load, &load.crews, None).await?;
                let seconds = load.measured.as_secs_f64();
                let values = figures::of_load(&outcome, seconds, has_pids);
                Ok((values, outcome.tally.faults))
            }
            Kind::Beside(load) => {
                let alone = self.load(cluster, load, &load.crews[..1], None).await?;
                let beside = self.load(cluster, load, &load.crews, None).await?;
                let seconds = load.measured.as_secs_f64();
                let mut faults = alone.tally.faults;
                faults += beside.tally.faults;
                Ok((
                    figures::of_beside(&alone, &beside, seconds, has_pids),
                    faults,
                ))
            }
            Kind::Kill { load, times } => {
                let mut outcomes = Vec::new();
                let mut faults = Faults::default();
                for _ in 0..*times {
                    let outcome = self.kill(cluster, load).await?;
                    faults += outcome.tally.faults;
                    faults.unacked += u64::from(outcome.kill_to_ack_ms.is_none());
                    outcomes.push(outcome);
                }
                Ok((figures::of_kills(&outcomes), faults))
            }
        }
    }

    /// Loads the nodes other than the leader of the channel, and kills that one meanwhile.
    async fn kill(&self, cluster: &mut Cluster, load: &Workload) -> Result<Outcome, BenchError> {
        let rooms = cluster.rooms(&load.crews[0], 0).await?;
        let leader = cluster.leader(&rooms[0]).await?;
        let mut nodes = cluster.nodes.clone();
        nodes.remove(leader);
        let pid = cluster.pids[leader];
        let seating = Seating {
            workload: load.clone(),
            rooms,
            nodes,
        };
        let outcome = self.drive(seating, cluster, Some(pid)).await?;
        cluster.restart(leader).await?;
        Ok(outcome)
    }

    /// Loads all nodes with some of the crews.
    async fn load(
        &self,
        cluster: &Cluster,
        load: &Workload,
        crews: &[Crew],
        victim: Option<u32>,
    ) -> Result<Outcome, BenchError> {
        let mut rooms = Vec::new();
        for (index, crew) in crews.iter().enumerate() {
            rooms.extend(cluster.rooms(crew, index).await?);
        }
        let seating = Seating {
            workload: Workload {
                crews: crews.to_owned(),
                ..load.clone()
            },
            rooms,
            nodes: cluster.nodes.clone(),
        };
        self.drive(seating, cluster, victim).await
    }

    /// The load has threads of its own; this one goes on hearing what the nodes say.
    async fn drive(
        &self,
        seating: Seating,
        cluster: &Cluster,
        victim: Option<u32>,
    ) -> Result<Outcome, BenchError> {
        let progress = self.progress.clone();
        let means = Means {
            threads: self.options.threads,
            pids: cluster.pids.clone(),
            at_warm: Box::new(move |plan| {
                if let Some(pid) = victim {
                    plan.note_kill();
                    if let Err(error) = cluster::kill(pid) {
                        progress::note(&format!("cannot kill {pid}: {error}"));
                    }
                }
            }),
            show: Box::new(move |part| progress.show(part)),
        };
        let ran = tokio::task::spawn_blocking(move || load::run(seating, means)).await;
        ran.map_err(io::Error::other)
            .and_then(|outcome| outcome)
            .map_err(BenchError::Load)
    }

    fn tell(&self, figures: &Figures) {
        let number = |name: &str| figures.values.get(name);
        let mut line = format!("{} (round {})", figures.case, figures.round);
        for (name, what) in HEADLINES {
            if let Some(value) = number(name) {
                line.push_str(&format!("  {what} {}", table::number(value)));
            }
        }
        if figures.faults.total() > 0 {
            line.push_str(&format!("  CHECKS FAILED: {}", told(&figures.faults)));
        }
        self.progress.say(&line);
    }

    fn write<T: Serialize>(&self, value: &T) -> Result<(), BenchError> {
        let Some(path) = &self.options.json else {
            return Ok(());
        };
        let mut line = serde_json::to_string(value).expect("numbers and names have a JSON form");
        line.push('\n');
        let file = OpenOptions::new().create(true).append(true).open(path);
        let written = file.and_then(|mut file| file.write_all(line.as_bytes()));
        written.map_err(|source| BenchError::Json {
            path: path.clone(),
            source,
        })
    }

    fn finish(&self) -> Result<(), BenchError> {
        let mut faults = Faults::default();
        for figures in &self.all {
            faults += figures.faults;
        }
        let mut values = Values::default();
        if !self.disks.is_empty() {
            let mut p50: Vec<f64> = self.disks.iter().map(|d| d.fdatasync_p50_ms).collect();
            let mut p99: Vec<f64> = self.disks.iter().map(|d| d.fdatasync_p99_ms).collect();
            p50.sort_by(f64::total_cmp);
            p99.sort_by(f64::total_cmp);
            values.put("fdatasync_p50_ms", figures::median(&p50));
            values.put("fdatasync_p99_ms", figures::median(&p99));
        }
        self.progress.clear();
        let mut text = table::render(&self.all);
        if let (Some(p50), Some(p99)) = (
            values.get("fdatasync_p50_ms"),
            values.get("fdatasync_p99_ms"),
        ) {
            let (p50, p99) = (table::number(p50), table::number(p99));
            text.push_str(&format!(
                "fdatasync of 512 bytes before each round: p50 {p50} ms, p99 {p99} ms\n"
            ));
        }
        print(&text);
        self.write(&Summary {
            summary: table::summary(&self.all),
            version: env!("CARGO_PKG_VERSION"),
            rounds: self.options.rounds,
            bytes: self.options.bytes,
            threads: self.options.threads,
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            disk: values,
            faults,
        })?;
        match faults.total() {
            0 => Ok(()),
            _ => Err(BenchError::Checks(told(&faults))),
        }
    }
}

/// The last line of JSON of a run.
#[derive(Serialize)]
struct Summary<T> {
    summary: T,
    version: &'static str,
    rounds: u32,
    bytes: usize,
    threads: usize,
    cores: usize,
    disk: Values,
    faults: Faults,
}

/// What is said of a case as soon as it is over.
const HEADLINES: &[(&str, &str)] = &[
    ("acked_per_s", "acked/s"),
    ("deliveries_per_s", "deliveries/s"),
    ("ack_p50_ms", "ack p50 ms"),
    ("ack_p99_ms", "p99"),
    ("server_us_per_ack", "server µs/ack"),
    ("server_us_per_delivery", "µs/delivery"),
    ("quiet_alone_ack_p99_ms", "quiet alone p99 ms"),
    ("quiet_beside_ack_p99_ms", "beside"),
    ("loud_acked_per_s", "loud acked/s"),
    ("kill_to_ack_ms_median", "kill to next ack ms"),
    ("kill_to_ack_ms_most", "at most"),
    ("client_cores", "client cores"),
];

fn told(faults: &Faults) -> String {
    let value = serde_json::to_value(faults).expect("numbers have a JSON form");
    let fields = value.as_object().into_iter().flatten();
    let fields = fields.filter(|(_, count)| count.as_u64() != Some(0));
    let fields: Vec<String> = fields
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    fields.join(", ")
}

/// If nobody reads any more there is nobody to tell.
fn print(text: &str) {
    let mut out = io::stdout().lock();
    let _ = write!(out, "{text}");
    let _ = out.flush();
}

fn letter(text: &str) -> Result<char, String> {
    let known: String = cases::all().iter().map(|case| case.letter).collect();
    let mut letters = text.chars();
    match (letters.next(), letters.next()) {
        (Some(letter), None) if known.contains(letter) => Ok(letter),
        _ => Err(format!("the cases are {known}, one letter each")),
    }
}

fn body_bytes(text: &str) -> Result<usize, String> {
    let bytes = text.parse().ok();
    let bytes = bytes.filter(|bytes| (BODY_BYTES_MIN..=BODY_BYTES_MAX).contains(bytes));
    bytes.ok_or_else(|| format!("from {BODY_BYTES_MIN} to {BODY_BYTES_MAX}"))
}

fn threads(text: &str) -> Result<usize, String> {
    const THREADS_MAX: usize = 64;
    let threads = text.parse().ok();
    let threads = threads.filter(|threads| (1..=THREADS_MAX).contains(threads));
    threads.ok_or_else(|| format!("from 1 to {THREADS_MAX}"))
}
