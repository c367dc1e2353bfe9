//! `accord-jepsen`: the fault-test suite's command line.
//!
//! Exit codes: 0 passed, 1 a promise was broken, 2 nothing was proven or the command line is wrong.

mod cli {
    pub mod channels;
    pub mod timers;
}

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use accord_jepsen::checker;
use accord_jepsen::history::jsonl;
use accord_jepsen::nemesis::FaultKind;
use accord_jepsen::report;
use accord_jepsen::run::settings::{COMMANDS_DEFAULT, NETWORKS, Nemesis, RATE_DEFAULT, Settings};
use accord_jepsen::run::{Say, Verdict, artifacts, campaign, episode, gap};
use accord_jepsen::workload::{Workload, names};
use accord_jepsen::world::NetworkKind;
use clap::{Args, Parser, Subcommand};
use cli::channels::Channels;
use cli::timers::Timers;

/// Nodes of a run: a majority of one proves nothing, and more than seven fit no test machine.
const NODES_MAX: u64 = 7;

#[derive(Debug, Parser)]
#[command(
    name = "accord-jepsen",
    version,
    about = "Runs real Accord clusters under load and faults, and checks what clients saw"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// One episode
    Run {
        #[command(flatten)]
        options: RunOptions,
        /// How long load and faults last
        #[arg(long, default_value = "60s", value_parser = names::duration)]
        time: Duration,
        /// Nodes of the cluster
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=NODES_MAX))]
        nodes: u64,
    },
    /// Episodes one after the other, each with a size, a load and faults of its own
    Campaign {
        #[command(flatten)]
        options: RunOptions,
        /// How long in all; the last episode ends after it
        #[arg(long, default_value = "1h", value_parser = names::duration)]
        time: Duration,
    },
    /// Check a history that was kept
    Check {
        /// A history.jsonl
        file: PathBuf,
        /// Draw its anomalies into this directory
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// List the faults, and which cannot be injected here and why (starts a cluster to find out)
    Faults {
        #[command(flatten)]
        binary: Binary,
        /// best, namespaces, proxy or plain
        #[arg(long, default_value = "best", value_parser = network)]
        network: NetworkKind,
    },
    /// Measure how long channels cannot be written to after their leader was killed
    Gap {
        /// Channels that are open
        #[arg(long, default_value_t = 1)]
        channels: usize,
        /// How often a leader is killed
        #[arg(long, default_value_t = 10)]
        kills: u32,
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(3..=NODES_MAX))]
        nodes: u64,
        /// Which channels are sampled; chosen if it is not given
        #[arg(long)]
        seed: Option<u64>,
        #[command(flatten)]
        binary: Binary,
    },
    /// Measure what many channels cost: made, asleep, woken, with sockets, after the loss of a node
    Channels(Box<Channels>),
    /// Measure how punctual scheduled messages are over many sleeping channels
    Timers(Timers),
}

#[derive(Debug, Args)]
struct RunOptions {
    /// Repeats the choices of an earlier run; chosen if it is not given
    #[arg(long)]
    seed: Option<u64>,
    /// Names of faults with commas between them, or all, or none
    #[arg(long, default_value = "all", value_parser = nemesis)]
    nemesis: Nemesis,
    /// Names of workloads with commas between them, or all, which is all but commands
    #[arg(long, default_value = "all", value_parser = workloads)]
    workload: Workloads,
    /// best, namespaces, proxy or plain
    #[arg(long, default_value = "best", value_parser = network)]
    network: NetworkKind,
    /// Appends per second of all clients together
    #[arg(long, default_value_t = RATE_DEFAULT, value_parser = rate)]
    rate: f64,
    /// Channels of the run [default: as many as the seed chooses]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    channels: Option<u64>,
    /// Commands of the workload of that name
    #[arg(long, default_value_t = COMMANDS_DEFAULT)]
    commands: u64,
    /// Milliseconds after which an idle channel falls asleep [default: the product's]
    #[arg(long)]
    idle_ms: Option<u64>,
    /// Keep history, logs and data of what passed, too
    #[arg(long)]
    keep: bool,
    /// Where to keep them
    #[arg(long, default_value = "jepsen-out")]
    out: PathBuf,
    /// KEY=VALUE for the nodes' environment; may be repeated
    #[arg(long = "env", value_parser = environment)]
    environment: Vec<(String, String)>,
    #[command(flatten)]
    binary: Binary,
}

#[derive(Debug, Args)]
struct Binary {
    /// The accord to test [default: the one beside this program]
    #[arg(long, env = "ACCORD_BIN")]
    binary: Option<PathBuf>,
}

/// clap would take a bare list for an argument that may be repeated.
#[derive(Debug, Clone)]
struct Workloads(Vec<Workload>);

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("no runtime: {error}");
            return ExitCode::from(2);
        }
    };
    let outcome = runtime.block_on(async {
        tokio::select! {
            outcome = Box::pin(perform(cli.command)) => outcome,
            // Dropping the run ends its nodes and undoes what was done to the machine.
            _ = tokio::signal::ctrl_c() => Err("interrupted".to_owned()),
        }
    });
    match outcome {
        Ok(verdict) => ExitCode::from(verdict.exit_code()),
        Err(error) => {
            eprintln!("accord-jepsen: {error}");
            ExitCode::from(Verdict::Unknown.exit_code())
        }
    }
}

async fn perform(command: Command) -> Result<Verdict, String> {
    match command {
        Command::Run {
            options,
            time,
            nodes,
        } => run(options.settings(time, nodes)?).await,
        Command::Campaign { options, time } => {
            let settings = options.settings(time, 3)?;
            let ended = Box::pin(campaign::run(&settings, time, SAY)).await;
            let campaign = ended.map_err(|error| error.to_string())?;
            for line in report::campaign_lines(&campaign.totals) {
                SAY(&line);
            }
            let file = settings.out.join("campaign.json");
            SAY(&format!(
                "campaign {}: {} (figures in {})",
                settings.seed,
                campaign.verdict,
                file.display()
            ));
            Ok(campaign.verdict)
        }
        Command::Channels(channels) => cli::channels::perform(*channels).await,
        Command::Timers(timers) => cli::timers::perform(timers).await,
        Command::Check { file, out } => check(&file, out.as_deref()),
        Command::Faults { binary, network } => faults(binary.found()?, network).await,
        Command::Gap {
            channels,
            kills,
            nodes,
            seed,
            binary,
        } => {
            let settings = gap::GapSettings {
                channels: channels.max(1),
                kills: kills.max(1),
                nodes,
                seed: seed.unwrap_or_else(new_seed),
                binary: Some(binary.found()?),
            };
            let measured = Box::pin(gap::run(&settings, SAY)).await;
            let gaps = measured.map_err(|error| error.to_string())?;
            SAY(gap::DEFINITION);
            SAY(&format!(
                "{} channels ({} sampled), {} kills, {} gaps: p50 {} ms, p99 {} ms, longest {} ms; never: {}",
                gaps.channels,
                gaps.sampled,
                gaps.kills,
                gaps.gap.count,
                gaps.gap.p50_ms,
                gaps.gap.p99_ms,
                gaps.gap.max_ms,
                gaps.never
            ));
            Ok(match gaps.never {
                0 => Verdict::Passed,
                _ => Verdict::Failed,
            })
        }
    }
}

async fn run(settings: Settings) -> Result<Verdict, String> {
    SAY(&format!("seed {}: {}", settings.seed, settings.replay()));
    let ended = Box::pin(episode::run(&settings, SAY)).await;
    let episode = ended.map_err(|error| format!("{error}\nagain: {}", settings.replay()))?;
    for line in report::lines(&episode.history, &episode.report) {
        SAY(&line);
    }
    for odd in &episode.oddities.first {
        SAY(&format!("BROKEN contract: {odd}"));
    }
    for reason in &episode.reasons {
        SAY(&format!("not proven: {reason}"));
    }
    if let Some(kept) = &episode.kept {
        SAY(&format!("kept in {}", kept.display()));
    }
    SAY(&format!("seed {}: {}", settings.seed, episode.verdict));
    if episode.verdict != Verdict::Passed {
        SAY(&format!("again: {}", settings.replay()));
    }
    Ok(episode.verdict)
}

fn check(file: &Path, out: Option<&Path>) -> Result<Verdict, String> {
    let opened = File::open(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let history = jsonl::read(BufReader::new(opened))
        .map_err(|error| format!("{}: {error}", file.display()))?;
    let report = checker::check(&history);
    for line in report::lines(&history, &report) {
        SAY(&line);
    }
    if let Some(directory) = out {
        let drawn = artifacts::draw(directory, &history, &report);
        for picture in drawn.map_err(|error| format!("{}: {error}", directory.display()))? {
            SAY(&format!("drawn: {}", picture.display()));
        }
    }
    let verdict = match (report.is_clean(), report.unchecked.is_empty()) {
        (false, _) => Verdict::Failed,
        (true, true) => Verdict::Passed,
        (true, false) => Verdict::Unknown,
    };
    SAY(&format!("{}: {verdict}", file.display()));
    Ok(verdict)
}

async fn faults(binary: PathBuf, network: NetworkKind) -> Result<Verdict, String> {
    let settings = Settings {
        binary: Some(binary),
        ..Settings::new(0)
    };
    let asked = Box::pin(campaign::cannot_inject(&settings, network)).await;
    let cannot = asked.map_err(|error| error.to_string())?;
    for kind in FaultKind::ALL {
        match cannot.iter().find(|(other, _)| *other == kind) {
            Some((_, why)) => SAY(&format!("{kind}: not here: {why}")),
            None => SAY(&kind.to_string()),
        }
    }
    Ok(Verdict::Passed)
}

impl RunOptions {
    fn settings(self, time: Duration, nodes: u64) -> Result<Settings, String> {
        Ok(Settings {
            nodes,
            nemesis: self.nemesis,
            time,
            workloads: self.workload.0,
            network: self.network,
            rate: self.rate,
            channels_asked: self.channels,
            commands: self.commands,
            idle_ms: self.idle_ms,
            keep: self.keep,
            out: self.out,
            binary: Some(self.binary.found()?),
            environment: self.environment,
            ..Settings::new(self.seed.unwrap_or_else(new_seed))
        })
    }
}

impl Binary {
    /// The one that was named, or the one that was built together with this program.
    fn found(self) -> Result<PathBuf, String> {
        let beside = || Some(std::env::current_exe().ok()?.with_file_name("accord"));
        let binary = self.binary.or_else(beside).filter(|path| path.is_file());
        binary.ok_or_else(|| "no accord to test: build it, or name it with --binary".to_owned())
    }
}

fn nemesis(text: &str) -> Result<Nemesis, names::UnknownName> {
    match text {
        "all" => Ok(Nemesis::All),
        _ => names::some_of(text, "fault", &FaultKind::ALL).map(Nemesis::These),
    }
}

fn workloads(text: &str) -> Result<Workloads, names::UnknownName> {
    match text {
        "all" => Ok(Workloads(Workload::USUAL.to_vec())),
        _ => names::some_of(text, "workload", &Workload::ALL).map(Workloads),
    }
}

fn network(text: &str) -> Result<NetworkKind, names::UnknownName> {
    let all = NETWORKS.map(|(name, _)| name);
    let name = names::one_of(text, "network", &all)?;
    let found = NETWORKS.iter().find(|(known, _)| *known == name);
    Ok(found.expect("the name was found among these").1)
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate > 0.0 && rate <= 100_000.0 => Ok(rate),
        _ => Err("a rate is a number above 0 and at most 100000".to_owned()),
    }
}

fn environment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE".to_owned()),
    }
}

/// Short enough to be typed again.
fn new_seed() -> u64 {
    accord_jepsen::Rng::fresh().below(1_000_000_000)
}

#[expect(clippy::print_stdout, reason = "this is the command line's output")]
const SAY: Say<'static> = &|line| println!("{line}");

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn unknown_names_and_loose_durations_are_refused() {
        let refused = |words: &[&str]| {
            let words = ["accord-jepsen"].iter().chain(words);
            Cli::try_parse_from(words).unwrap_err().to_string()
        };
        assert!(refused(&["run", "--nemesis", "kil"]).contains("kill_leader"));
        assert!(refused(&["run", "--workload", "x"]).contains("conditional"));
        assert!(refused(&["run", "--network", "x"]).contains("namespaces"));
        assert!(refused(&["run", "--time", "60"]).contains("unit"));
        assert!(refused(&["run", "--rate", "0"]).contains("above 0"));
        assert!(refused(&["run", "--nodes", "0"]).contains("1..=7"));
        assert!(refused(&["run", "--env", "x"]).contains("KEY=VALUE"));
    }

    #[test]
    fn a_run_is_what_was_asked_for() {
        let cli = Cli::try_parse_from([
            "accord-jepsen",
            "run",
            "--seed",
            "7",
            "--nemesis",
            "kill,pause",
            "--time",
            "10s",
            "--workload",
            "append",
            "--binary",
            "/bin/sh",
        ]);
        let Command::Run {
            options,
            time,
            nodes,
        } = cli.unwrap().command
        else {
            panic!("it is a run");
        };
        let settings = options.settings(time, nodes).unwrap();
        assert_eq!(settings.seed, 7);
        assert_eq!(
            settings.nemesis,
            Nemesis::These(vec![FaultKind::Kill, FaultKind::Pause])
        );
        assert_eq!(settings.workloads, [Workload::Append]);
        assert_eq!(settings.time, Duration::from_secs(10));
    }
}
