//! What many channels cost: making them, keeping them asleep, waking them, losing a node.
//!
//! A measurement, not a test: a cluster of real processes, this program as its only client, and
//! figures of what both saw. Each step begins with a wait until the channels sleep, and says so when
//! they do not.

mod bench;
mod catalogue;
pub mod charts;
mod client;
pub mod figures;
mod idle;
mod kill;
mod picks;
mod prepare;
mod schedule;
mod sockets;
pub mod spread;
pub mod table;
mod usage;
mod wake;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::Say;
use crate::{ClusterError, Rng};
use bench::Bench;
use catalogue::Catalogue;
use figures::{Figures, Moment, VERSION};
use picks::Picks;

/// A part of the measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Idle,
    Restart,
    Wake,
    Saturate,
    Sockets,
    Kill,
}

impl Step {
    /// In the order in which they are done.
    pub const ALL: [Step; 6] = [
        Self::Idle,
        // Before the steps that leave memory behind, since it tells what a socket takes.
        Self::Sockets,
        Self::Wake,
        Self::Saturate,
        Self::Kill,
        Self::Restart,
    ];
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Idle => "idle",
            Self::Restart => "restart",
            Self::Wake => "wake",
            Self::Saturate => "saturate",
            Self::Sockets => "sockets",
            Self::Kill => "kill",
        })
    }
}

/// Where the nodes' data lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// In a new directory under the temporary one, which goes at the end unless it is kept.
    New { keep: bool },
    /// Here; it stays unless it is to be removed.
    Given { directory: PathBuf, remove: bool },
}

/// Which halves of the work are done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    PrepareOnly,
    MeasureOnly,
    Both,
}

#[derive(Debug, Clone)]
pub struct Settings {
    pub channels: u64,
    pub servers: u64,
    pub messages_each: u64,
    pub message_bytes: usize,
    /// Of the channels, how many get messages: 0 to 1.
    pub share: f64,
    /// Requests at a time while channels are made and filled.
    pub at_once: usize,
    pub nodes: u64,
    pub seed: u64,
    pub binary: PathBuf,
    pub environment: Vec<(String, String)>,
    pub data: Data,
    pub mode: Mode,
    pub steps: Vec<Step>,
    /// How long to wait for all channels to sleep.
    pub sleep_within: Duration,
    /// How long the idle cluster is watched.
    pub idle_time: Duration,
    pub wake_per_s: f64,
    pub saturate_per_s: f64,
    /// Of each of the two.
    pub wake_time: Duration,
    pub sockets: u64,
    /// Channels that are written to each second while a node is killed.
    pub active: u64,
}

impl Settings {
    /// What the command line does unless it is told otherwise.
    pub fn new(channels: u64, seed: u64, binary: PathBuf) -> Self {
        Self {
            channels,
            servers: 10,
            messages_each: 10,
            message_bytes: 128,
            share: 1.0,
            at_once: 64,
            nodes: 3,
            seed,
            binary,
            environment: Vec::new(),
            data: Data::New { keep: false },
            mode: Mode::Both,
            steps: Step::ALL.to_vec(),
            sleep_within: Duration::from_secs(120),
            idle_time: Duration::from_secs(60),
            wake_per_s: 200.0,
            saturate_per_s: 2_000.0,
            wake_time: Duration::from_secs(30),
            sockets: 10_000,
            active: 1_000,
        }
    }

    fn does(&self, step: Step) -> bool {
        self.mode != Mode::PrepareOnly && self.steps.contains(&step)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error("{what}: {source}")]
    Io {
        what: String,
        #[source]
        source: io::Error,
    },
    #[error("{what} failed: {why}")]
    Request { what: String, why: String },
    /// What was asked for cannot be done here.
    #[error("{0}")]
    Unfit(String),
}

impl BenchError {
    fn io(path: &Path, source: io::Error) -> Self {
        Self::io_of(&path.display().to_string(), source)
    }

    fn io_of(what: &str, source: io::Error) -> Self {
        Self::Io {
            what: what.to_owned(),
            source,
        }
    }

    fn request(what: &str, why: &dyn fmt::Display) -> Self {
        Self::Request {
            what: what.to_owned(),
            why: why.to_string(),
        }
    }
}

/// Prepares, measures, or both. What is measured comes back; nothing does from a mere preparation.
pub async fn run(settings: &Settings, say: Say<'_>) -> Result<Option<Figures>, BenchError> {
    let place = Place::of(&settings.data)?;
    let directory = &place.directory;
    let mut catalogue = match Catalogue::load(directory)? {
        Some(catalogue) => fitting(catalogue, settings, directory)?,
        None if settings.mode == Mode::MeasureOnly => {
            let why = format!("nothing was prepared in {}", directory.display());
            return Err(BenchError::Unfit(why));
        }
        None => Catalogue::new(directory, settings.nodes, settings.seed),
    };
    if settings.does(Step::Sockets) {
        let channels = match settings.mode {
            Mode::MeasureOnly => catalogue.count(),
            Mode::PrepareOnly | Mode::Both => catalogue.count().max(settings.channels),
        };
        sockets::check_open_files(settings.sockets.min(channels), settings.nodes)?;
    }
    let started_on_them =
        settings.mode == Mode::MeasureOnly || catalogue.count() >= settings.channels;
    let bench = Bench::start(settings, directory).await?;
    if settings.mode != Mode::MeasureOnly {
        prepare::fill(&bench, &mut catalogue, settings, say).await?;
    }
    let measured = match settings.mode {
        Mode::PrepareOnly => None,
        Mode::MeasureOnly | Mode::Both => {
            let measuring = measure(&bench, &catalogue, settings, started_on_them, say);
            Some(Box::pin(measuring).await?)
        }
    };
    // Not killed: the next start on this directory is to be that of a cluster that was stopped.
    bench.stop().await?;
    if place.stays {
        say(&format!("data kept in {}", directory.display()));
    }
    Ok(measured)
}

/// Refuses to mix what was prepared with what does not go with it.
fn fitting(
    catalogue: Catalogue,
    settings: &Settings,
    directory: &Path,
) -> Result<Catalogue, BenchError> {
    let nodes = catalogue.prepared.nodes;
    if nodes == settings.nodes {
        return Ok(catalogue);
    }
    let directory = directory.display();
    let why =
        format!("{directory} was prepared by a cluster of {nodes} nodes: use --nodes {nodes}");
    Err(BenchError::Unfit(why))
}

async fn measure(
    bench: &Bench,
    catalogue: &Catalogue,
    settings: &Settings,
    started_on_them: bool,
    say: Say<'_>,
) -> Result<Figures, BenchError> {
    let mut rng = Rng::new(settings.seed);
    let mut picks = Picks::new(catalogue.count(), &mut rng)?;
    let mut figures = Figures {
        version: VERSION,
        measured_at_s: 0,
        seed: settings.seed,
        nodes: settings.nodes,
        cores: std::thread::available_parallelism().map_or(0, |cores| cores.get() as u64),
        channels: catalogue.count(),
        stages: catalogue.prepared.stages.clone(),
        started_on_them,
        idle: None,
        restart: None,
        wake: None,
        saturation: None,
        sockets: None,
        kill: None,
        moments: Vec::new(),
    };
    for step in Step::ALL.into_iter().filter(|step| settings.does(*step)) {
        say(&format!("{step}: waiting until all channels sleep"));
        let sleep = bench.sleep(0, say).await?;
        match step {
            Step::Idle => {
                let idle = idle::idle(bench, sleep, settings.idle_time, say).await?;
                figures.idle = Some(idle);
            }
            Step::Restart => figures.restart = Some(idle::restart(bench, &mut rng, say).await?),
            Step::Wake | Step::Saturate => {
                let plan = wake::Plan::new(step, settings, sleep);
                let woken = wake::wake(bench, catalogue, plan, &mut picks, &mut rng, say);
                let woken = Some(Box::pin(woken).await?);
                match step {
                    Step::Wake => figures.wake = woken,
                    _ => figures.saturation = woken,
                }
            }
            Step::Sockets => {
                let attached =
                    sockets::sockets(bench, catalogue, settings, sleep, &mut picks, &mut rng, say);
                figures.sockets = Some(Box::pin(attached).await?);
            }
            Step::Kill => {
                let killed = kill::kill(bench, catalogue, settings, &mut picks, &mut rng, say);
                figures.kill = Some(Box::pin(killed).await?);
            }
        }
        figures.moments.push(moment(bench, step).await?);
    }
    figures.measured_at_s = now_s();
    Ok(figures)
}

async fn moment(bench: &Bench, step: Step) -> Result<Moment, BenchError> {
    let open = bench.open().await?;
    Ok(Moment {
        after: step.to_string(),
        asleep: open.iter().all(|open| *open == 0),
        resident_bytes: bench.resident_bytes()?,
    })
}

#[expect(
    clippy::disallowed_methods,
    reason = "readers of the file want to know the day; nothing depends on it"
)]
fn now_s() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// The data directory; it goes with this, unless it stays.
struct Place {
    directory: PathBuf,
    stays: bool,
}

impl Place {
    fn of(data: &Data) -> Result<Self, BenchError> {
        match data {
            Data::New { keep } => {
                let made = tempfile::Builder::new()
                    .prefix("accord-channels-")
                    .tempdir();
                let made = made.map_err(|error| BenchError::io_of("a data directory", error))?;
                Ok(Self {
                    directory: made.keep(),
                    stays: *keep,
                })
            }
            Data::Given { directory, remove } => {
                let made =
                    std::fs::create_dir_all(directory).and_then(|()| directory.canonicalize());
                Ok(Self {
                    directory: made.map_err(|error| BenchError::io(directory, error))?,
                    stays: !remove,
                })
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.stays
            && let Err(error) = std::fs::remove_dir_all(&self.directory)
        {
            eprintln!("{} could not be removed: {error}", self.directory.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_goes_or_stays_as_it_was_asked() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("data");
        for remove in [false, true] {
            let data = Data::Given {
                directory: directory.clone(),
                remove,
            };
            let place = Place::of(&data).unwrap();
            assert!(place.directory.is_dir());
            drop(place);
            assert_eq!(directory.exists(), !remove);
        }
        let place = Place::of(&Data::New { keep: false }).unwrap();
        let made = place.directory.clone();
        assert!(made.is_dir());
        drop(place);
        assert!(!made.exists());
    }

    #[test]
    fn another_number_of_nodes_does_not_fit() {
        let settings = Settings::new(10, 1, PathBuf::from("accord"));
        let directory = Path::new("/d");
        let fits = |nodes| fitting(Catalogue::new(directory, nodes, 1), &settings, directory);
        assert!(fits(3).is_ok());
        let error = fits(5).unwrap_err().to_string();
        assert!(error.contains("--nodes 5"), "{error}");
    }
}
