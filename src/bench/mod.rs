//! `accord bench`: what a cluster does in a second, how long it takes over a message, and what that
//! costs, seen from outside through its sockets.
//!
//! Every message carries who sent it, its number and when it was due, so each socket also checks that
//! nothing is missing, repeated or out of order, and that all receivers saw one order. A figure of a
//! run in which that failed is not a figure: the exit status is then 1.
//!
//! `cases` says what is measured and `rounds` runs it; `load` makes one load, `worker` is a thread of
//! it and `connection` a socket; `cluster` is what is measured, `figures` and `table` are what is told
//! about it.

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
mod rounds;
mod stamp;
mod table;
mod tally;
#[cfg(test)]
mod tests;
mod usage;
mod wire;
mod worker;
mod workload;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;

use cases::Case;
use progress::Progress;
use rounds::Bench;
use workload::BODY_BYTES;
use workload::BODY_BYTES_MAX;
use workload::BODY_BYTES_MIN;
use workload::Pace;

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
    /// m: c, with a node killed three times that leads some of the channels (own cluster only).
    #[arg(value_name = "CASE", verbatim_doc_comment, value_parser = letter)]
    cases: Vec<char>,
    /// A running cluster's nodes, http://HOST:PORT, with commas [default: a cluster of its own]
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    urls: Vec<String>,
    /// Processes of the nodes of that cluster, whose processor time and memory are told
    #[arg(long, value_name = "PID", value_delimiter = ',', requires = "urls")]
    pids: Vec<u32>,
    /// How often each case is run, each time on a new cluster if it is its own; k and m are run once
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
    #[error(
        "cases k and m kill nodes, and only those of a cluster of their own: leave --urls away"
    )]
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
    let mut bench = Bench::new(options, Progress::new(estimate(&cases, options)));
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
