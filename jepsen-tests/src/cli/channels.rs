//! `accord-jepsen channels`: what many channels cost.

use std::path::PathBuf;
use std::time::Duration;

use accord_jepsen::run::Verdict;
use accord_jepsen::run::channels::figures::Figures;
use accord_jepsen::run::channels::{self, Data, Mode, Settings, Step, charts, table};
use accord_jepsen::workload::names;
use clap::{Args, Subcommand};

use crate::{Binary, NODES_MAX, SAY, environment, new_seed, rate};

/// A message body's greatest length unless the cluster file says otherwise.
const MESSAGE_BYTES_MAX: u64 = 16_384;

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Channels {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    options: Options,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Draw how what was measured grows with the number of channels, and print it as a table
    Chart {
        /// What --json wrote
        file: PathBuf,
        /// Where the pictures go
        #[arg(long, default_value = ".")]
        out: PathBuf,
    },
}

#[derive(Debug, Args)]
struct Options {
    /// How many; those that are in the data directory already count
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    channels: u64,
    /// Servers that they are spread over
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    servers: u64,
    /// Messages in each channel that gets any
    #[arg(long, default_value_t = 10)]
    messages: u64,
    /// Length of a message
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u64).range(1..=MESSAGE_BYTES_MAX))]
    bytes: u64,
    /// Part of the channels that get messages, from 0 to 1
    #[arg(long, default_value_t = 1.0, value_parser = share)]
    share: f64,
    /// Requests at a time while channels are made and filled
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    at_once: u64,
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(3..=NODES_MAX))]
    nodes: u64,
    /// Repeats the choices of an earlier run; chosen if it is not given
    #[arg(long)]
    seed: Option<u64>,
    /// Where the nodes' data lies, and stays [default: a new directory, which goes]
    #[arg(long)]
    data: Option<PathBuf>,
    /// Remove it at the end
    #[arg(long, requires = "data", conflicts_with = "prepare_only")]
    remove: bool,
    /// Keep the new directory
    #[arg(long, conflicts_with = "data")]
    keep: bool,
    /// Make the channels and measure nothing
    #[arg(long, requires = "data", conflicts_with = "measure_only")]
    prepare_only: bool,
    /// Measure the channels that are there and make none
    #[arg(long, requires = "data")]
    measure_only: bool,
    /// idle, sockets, wake, saturate, kill, restart, with commas between them, or all
    #[arg(long, default_value = "all", value_parser = steps)]
    steps: Steps,
    /// How long to wait for all channels to sleep before each step
    #[arg(long, default_value = "120s", value_parser = names::duration)]
    sleep_within: Duration,
    /// How long the idle cluster is watched
    #[arg(long, default_value = "60s", value_parser = names::duration)]
    idle_time: Duration,
    /// Channels that are woken each second
    #[arg(long, default_value_t = 200.0, value_parser = rate)]
    wake_rate: f64,
    /// The same, for the step that looks for the limit
    #[arg(long, default_value_t = 2_000.0, value_parser = rate)]
    saturate_rate: f64,
    /// How long channels are woken in each of the two
    #[arg(long, default_value = "30s", value_parser = names::duration)]
    wake_time: Duration,
    /// Sockets on as many channels
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    sockets: u64,
    /// Channels that are written to each second while a node is killed
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    active: u64,
    /// Add what was measured to this file, as a line of JSON
    #[arg(long)]
    json: Option<PathBuf>,
    /// KEY=VALUE for the nodes' environment; may be repeated
    #[arg(long = "env", value_parser = environment)]
    environment: Vec<(String, String)>,
    #[command(flatten)]
    binary: Binary,
}

/// clap would take a bare list for an argument that may be repeated.
#[derive(Debug, Clone)]
struct Steps(Vec<Step>);

pub async fn perform(channels: Channels) -> Result<Verdict, String> {
    match channels.command {
        Some(Command::Chart { file, out }) => chart(&file, &out),
        None => measure(channels.options).await,
    }
}

async fn measure(options: Options) -> Result<Verdict, String> {
    let json = options.json.clone();
    let settings = options.settings()?;
    SAY(&format!("seed {}", settings.seed));
    let ran = Box::pin(channels::run(&settings, SAY)).await;
    let Some(figures) = ran.map_err(|error| error.to_string())? else {
        return Ok(Verdict::Passed);
    };
    for line in table::lines(&figures) {
        SAY(&line);
    }
    if let Some(file) = json {
        let written = figures.append_to(&file);
        written.map_err(|error| error.to_string())?;
        SAY(&format!("added to {}", file.display()));
    }
    Ok(verdict(&figures))
}

/// A measurement has no wrong result, but a channel that never takes a write again is one, and so
/// is an acknowledged message that does not reach its subscriber.
fn verdict(figures: &Figures) -> Verdict {
    let never = figures.kill.as_ref().map_or(0, |kill| kill.active_never);
    let missing = figures.sockets.as_ref().map_or(0, |sockets| {
        sockets.posts.acknowledged.saturating_sub(sockets.received)
    });
    match never + missing {
        0 => Verdict::Passed,
        _ => Verdict::Failed,
    }
}

fn chart(file: &std::path::Path, out: &std::path::Path) -> Result<Verdict, String> {
    let runs = Figures::read_from(file).map_err(|error| error.to_string())?;
    let io = |error: std::io::Error| format!("{}: {error}", out.display());
    std::fs::create_dir_all(out).map_err(io)?;
    for (name, picture) in charts::charts(&runs) {
        std::fs::write(out.join(name), picture).map_err(io)?;
        SAY(&format!("drawn: {}", out.join(name).display()));
    }
    SAY(&table::markdown(&runs));
    Ok(Verdict::Passed)
}

impl Options {
    fn settings(self) -> Result<Settings, String> {
        let mode = match (self.prepare_only, self.measure_only) {
            (true, _) => Mode::PrepareOnly,
            (false, true) => Mode::MeasureOnly,
            (false, false) => Mode::Both,
        };
        let data = match self.data {
            Some(directory) => Data::Given {
                directory,
                remove: self.remove,
            },
            None => Data::New { keep: self.keep },
        };
        let size = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        Ok(Settings {
            channels: self.channels,
            servers: self.servers,
            messages_each: self.messages,
            message_bytes: size(self.bytes),
            share: self.share,
            at_once: size(self.at_once),
            nodes: self.nodes,
            seed: self.seed.unwrap_or_else(new_seed),
            binary: self.binary.found()?,
            environment: self.environment,
            data,
            mode,
            steps: self.steps.0,
            sleep_within: self.sleep_within,
            idle_time: self.idle_time,
            wake_per_s: self.wake_rate,
            saturate_per_s: self.saturate_rate,
            wake_time: self.wake_time,
            sockets: self.sockets,
            active: self.active,
        })
    }
}

fn steps(text: &str) -> Result<Steps, names::UnknownName> {
    names::some_of(text, "step", &Step::ALL).map(Steps)
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("a share is a number from 0 to 1".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        channels: Channels,
    }

    fn parsed(words: &[&str]) -> Result<Channels, String> {
        let words = ["channels", "--binary", "/bin/sh"].iter().chain(words);
        let cli = Cli::try_parse_from(words).map_err(|error| error.to_string())?;
        Ok(cli.channels)
    }

    fn settings(words: &[&str]) -> Settings {
        parsed(words).unwrap().options.settings().unwrap()
    }

    #[test]
    fn the_defaults_are_those_of_the_library() {
        let ours = settings(&["--seed", "7"]);
        let library = Settings::new(100_000, 7, PathBuf::from("/bin/sh"));
        assert_eq!(format!("{ours:?}"), format!("{library:?}"));
    }

    #[test]
    fn a_data_directory_is_prepared_or_measured() {
        let prepare = settings(&["--data", "/d", "--prepare-only"]);
        assert_eq!(prepare.mode, Mode::PrepareOnly);
        let measure = settings(&[
            "--data",
            "/d",
            "--measure-only",
            "--remove",
            "--steps",
            "kill",
        ]);
        let data = Data::Given {
            directory: PathBuf::from("/d"),
            remove: true,
        };
        assert_eq!((measure.mode, measure.data), (Mode::MeasureOnly, data));
        assert_eq!(measure.steps, [Step::Kill]);
        for odd in [
            &["--prepare-only"][..],
            &["--measure-only"],
            &["--data", "/d", "--prepare-only", "--measure-only"],
            &["--data", "/d", "--keep"],
            &["--remove"],
            &["--share", "1.1"],
            &["--steps", "sleep"],
            &["--nodes", "1"],
        ] {
            assert!(parsed(odd).is_err(), "{odd:?}");
        }
    }

    #[test]
    fn charts_are_drawn_from_a_file() {
        let words = ["channels", "chart", "f.jsonl", "--out", "docs"];
        let command = Cli::try_parse_from(words).unwrap().channels.command;
        assert!(
            matches!(command, Some(Command::Chart { out, .. }) if out == std::path::Path::new("docs"))
        );
    }
}
