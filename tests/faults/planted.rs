//! The fault tests can see: a planted bug (docs/architecture.md) fails an episode, and fails it by a
//! property that says what is wrong. A checker that finds nothing here would prove nothing elsewhere.

use std::path::PathBuf;
use std::sync::PoisonError;
use std::time::Duration;

use accord_jepsen::checker::Property;
use accord_jepsen::nemesis::{self, FaultKind};
use accord_jepsen::run::Verdict;
use accord_jepsen::run::episode::{self, Episode};
use accord_jepsen::run::settings::{Nemesis, Settings};
use accord_jepsen::world::NetworkKind;

use super::{EPISODE_WITHIN, TURN};

/// Seeds that are tried until the bug is seen. Whether it can be depends on what clients do in the
/// moment of a fault, which no seed decides.
const TRIES: usize = 4;
/// A leader that is cut off for less is hardly replaced before it is back: silence is noticed after
/// a second, and an election takes its time.
const CUT_OFF_MIN: Duration = Duration::from_secs(4);
/// A node that is away for less misses too little to need a snapshot.
const AWAY_MIN: Duration = Duration::from_secs(4);

#[test]
fn planted_loss_of_the_window_in_a_snapshot_is_caught() {
    use Property::{P2, P3, P13, P14};
    Trial {
        bug: "dedup_forgotten_on_snapshot",
        kinds: &[FaultKind::Kill, FaultKind::KillLeader],
        seed: 93,
        seconds: 15,
        expected: &[P2, P3, P13, P14],
    }
    .is_failed(snapshots_often);
}

#[test]
fn planted_holes_in_resumed_streams_are_caught() {
    // Messages come from memory, and pages from storage only where a snapshot has made a gap.
    Trial {
        bug: "stream_off_by_one",
        kinds: &[FaultKind::Kill],
        seed: 111,
        seconds: 15,
        expected: &[Property::P10, Property::P11],
    }
    .is_failed(|settings| snapshots_often(settings) && one_lasts(settings, AWAY_MIN));
}

#[test]
fn planted_acknowledgement_before_the_fsync_is_caught() {
    Trial {
        bug: "ack_before_fsync",
        kinds: &[FaultKind::PowerLossAll],
        seed: 121,
        seconds: 4,
        expected: &[Property::P1],
    }
    .is_failed(|_| true);
}

#[test]
fn planted_rows_without_log_entries_are_caught() {
    Trial {
        bug: "applied_before_log",
        kinds: &[FaultKind::Kill],
        seed: 131,
        seconds: 3,
        expected: &[Property::P14],
    }
    .is_failed(|_| true);
}

#[test]
fn planted_reads_under_an_endless_lease_are_caught() {
    Trial {
        bug: "lease_read",
        kinds: &[FaultKind::PartitionLeader],
        seed: 141,
        seconds: 8,
        expected: &[Property::P7],
    }
    .is_failed(|settings| one_lasts(settings, CUT_OFF_MIN));
}

/// Whether a node that was away is likely to get a snapshot.
fn snapshots_often(settings: &Settings) -> bool {
    settings.raft().snapshot_after_entries == Some(40)
}

/// Whether some fault of the episode is at least so long.
fn one_lasts(settings: &Settings, least: Duration) -> bool {
    let Nemesis::These(kinds) = &settings.nemesis else {
        return false;
    };
    let steps = nemesis::plan(kinds, settings.time, settings.seed);
    steps.iter().any(|step| step.lasts >= least)
}

/// A planted bug, and the episodes that are to show it.
struct Trial<'t> {
    bug: &'t str,
    kinds: &'t [FaultKind],
    /// The first seed that is tried.
    seed: u64,
    seconds: u64,
    /// The properties that say what is wrong.
    expected: &'t [Property],
}

impl Trial<'_> {
    /// Runs episodes that are `fit` to show the bug until one fails by an expected property.
    fn is_failed(&self, fit: impl Fn(&Settings) -> bool) {
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .unwrap();
        let mut seen = Vec::new();
        let episodes = (self.seed..).map(|seed| self.settings(seed)).filter(fit);
        for settings in episodes.take(TRIES) {
            let episode = runtime.block_on(ended(&settings));
            if let Some((kind, why)) = episode.cannot.first() {
                eprintln!("not tested on this machine: {kind}: {why}");
                return;
            }
            let counts = episode.report.counts;
            eprintln!("{}: {:?} by {counts:?}", self.bug, episode.verdict);
            let found = |property| counts.get(property).is_some_and(|count| *count > 0);
            if episode.verdict == Verdict::Failed && self.expected.iter().any(found) {
                return;
            }
            seen.push(counts);
        }
        panic!("{} went unnoticed under {TRIES} seeds: {seen:?}", self.bug);
    }

    fn settings(&self, seed: u64) -> Settings {
        Settings {
            nemesis: Nemesis::These(self.kinds.to_vec()),
            time: Duration::from_secs(self.seconds),
            network: NetworkKind::Best,
            rate: 100.0,
            out: std::env::temp_dir().join("accord-planted"),
            binary: option_env!("CARGO_BIN_EXE_accord").map(PathBuf::from),
            environment: vec![("ACCORD_PLANTED".to_owned(), self.bug.to_owned())],
            ..Settings::new(seed)
        }
    }
}

async fn ended(settings: &Settings) -> Episode {
    let say = |line: &str| eprintln!("{line}");
    let running = Box::pin(episode::run(settings, &say));
    tokio::time::timeout(EPISODE_WITHIN, running)
        .await
        .expect("an episode ends")
        .unwrap_or_else(|error| panic!("{error}\nagain: {}", settings.replay()))
}
