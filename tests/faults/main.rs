//! The fault tests that every change has to pass: a few short episodes with fixed seeds.
//!
//! Each starts a cluster of its own, loads it, breaks it, heals it, and checks what clients saw
//! (docs/fault-tests.md). An episode must not fail. One whose fault did not bite proves nothing
//! about that fault, so it is tried again under a few seeds before that counts as a failure. Faults
//! that cannot be injected on this machine are told and left out.
//!
//! `ACCORD_BIN` tests another binary.

// Tests may unwrap: a panic is how they fail.
#![allow(clippy::unwrap_used, clippy::large_futures)]

mod doze;
mod minority;
#[cfg(feature = "planted-bugs")]
mod planted;

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use accord_jepsen::nemesis::FaultKind;
use accord_jepsen::run::Verdict;
use accord_jepsen::run::episode;
use accord_jepsen::run::settings::{DOZE_MS, Nemesis, Settings};
use accord_jepsen::workload::Workload;
use accord_jepsen::world::NetworkKind;

/// Seeds that are tried until the faults bite.
const TRIES: u64 = 3;
/// Appends per second.
const RATE: f64 = 60.0;
/// So few that a channel is idle now and then.
const DOZING_RATE: f64 = 12.0;
/// A bound on one episode with all its waits.
const EPISODE_WITHIN: Duration = Duration::from_secs(240);

/// Episodes follow each other: two at once would measure each other's load, and they share the
/// machine's loop devices and namespaces.
static TURN: Mutex<()> = Mutex::new(());

#[test]
fn nothing_is_broken_while_nothing_is() {
    survives(11, &[], NetworkKind::Plain, 10);
}

#[test]
fn killed_and_paused_nodes() {
    use FaultKind::{KillAll, KillLeader, Pause};
    survives(21, &[KillLeader, KillAll, Pause], NetworkKind::Plain, 20);
}

#[test]
fn broken_links() {
    use FaultKind::{Loss, PartitionFlapping, PartitionLeader, PartitionOneWay};
    let kinds = [PartitionLeader, PartitionOneWay, PartitionFlapping, Loss];
    survives(31, &kinds, NetworkKind::Best, 25);
}

#[test]
fn broken_links_through_proxies() {
    use FaultKind::{PartitionLeader, PartitionOne};
    survives(41, &[PartitionLeader, PartitionOne], NetworkKind::Proxy, 15);
}

#[test]
fn power_lost() {
    use FaultKind::{Nats, PowerLoss, PowerLossAll, PowerLossMajority};
    let kinds = [PowerLoss, PowerLossMajority, PowerLossAll, Nats];
    survives(51, &kinds, NetworkKind::Best, 30);
}

/// Groups open and close all the time.
#[test]
fn channels_that_doze() {
    use FaultKind::{KillLeader, PartitionOne, Pause, PowerLossAll};
    let kinds = [KillLeader, Pause, PartitionOne, PowerLossAll];
    let settings = Settings {
        idle_ms: Some(DOZE_MS),
        // Not those that read all the time.
        workloads: vec![
            Workload::Append,
            Workload::Sockets,
            Workload::Streams,
            Workload::Retries,
        ],
        rate: DOZING_RATE,
        ..Settings::new(71)
    };
    let slept = survives_as(&settings, &kinds, NetworkKind::Best, 30);
    assert!(slept > 0.0, "no channel dozed");
}

/// All groups close again and again, and are asked for while they do. Not while all nodes are down,
/// when nothing can be seen to close.
#[test]
fn channels_that_are_made_to_close() {
    use FaultKind::{KillLeader, Lull, PartitionOne, PauseLeader};
    let kinds = [Lull, KillLeader, PauseLeader, PartitionOne];
    survives(81, &kinds, NetworkKind::Best, 25);
}

/// Every command to an agent has one reply, though the agent's server lets half of the calls fail.
#[test]
fn commands_while_nodes_are_killed_and_paused() {
    use FaultKind::{Kill, KillLeader, PauseLeader};
    let settings = Settings {
        workloads: vec![Workload::Commands, Workload::Append, Workload::Streams],
        commands: 60,
        channels_asked: Some(12),
        rate: 20.0,
        ..Settings::new(91)
    };
    let kinds = [Kill, KillLeader, PauseLeader];
    survives_as(&settings, &kinds, NetworkKind::Plain, 20);
}

#[test]
fn disks_and_clocks() {
    use FaultKind::{ClockJump, ClockSkew, CorruptWal, FsyncError};
    let kinds = [CorruptWal, FsyncError, ClockJump, ClockSkew];
    survives(61, &kinds, NetworkKind::Plain, 30);
}

fn survives(seed: u64, kinds: &[FaultKind], network: NetworkKind, seconds: u64) {
    let settings = Settings {
        rate: RATE,
        ..Settings::new(seed)
    };
    survives_as(&settings, kinds, network, seconds);
}

/// Runs an episode of these faults, as far as they can be injected here. Answers how many replicas
/// were closed because nobody used them.
fn survives_as(
    asked_for: &Settings,
    kinds: &[FaultKind],
    network: NetworkKind,
    seconds: u64,
) -> f64 {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut asked = kinds.to_vec();
    let mut reasons = Vec::new();
    for attempt in 0..TRIES {
        let settings = Settings {
            nemesis: Nemesis::These(asked.clone()),
            time: Duration::from_secs(seconds),
            network,
            out: std::env::temp_dir().join("accord-faults"),
            binary: binary(),
            seed: asked_for.seed + attempt,
            ..asked_for.clone()
        };
        let say = |line: &str| eprintln!("{line}");
        let running = Box::pin(episode::run(&settings, &say));
        let ended = runtime.block_on(async { tokio::time::timeout(EPISODE_WITHIN, running).await });
        let episode = match ended {
            Ok(Ok(episode)) => episode,
            Ok(Err(error)) => panic!("{error}\nagain: {}", settings.replay()),
            Err(_) => panic!(
                "no end within {EPISODE_WITHIN:?}\nagain: {}",
                settings.replay()
            ),
        };
        assert!(
            episode.verdict != Verdict::Failed,
            "{:#?}\n{:#?}\nkept in {:?}\nagain: {}",
            episode.report.anomalies,
            episode.oddities,
            episode.kept,
            settings.replay()
        );
        for (kind, why) in &episode.cannot {
            eprintln!("not tested on this machine: {kind}: {why}");
        }
        let impossible = |kind: &FaultKind| episode.cannot.iter().any(|(other, _)| other == kind);
        let had_impossible = asked.iter().any(impossible);
        asked.retain(|kind| !impossible(kind));
        let left: Vec<String> = episode
            .reasons
            .into_iter()
            .filter(|reason| !reason.contains("cannot be injected here"))
            .collect();
        if left.is_empty() {
            assert!(
                episode.verdict == Verdict::Passed || had_impossible,
                "a verdict of unknown needs a reason"
            );
            return episode.slept;
        }
        reasons = left;
    }
    panic!("proven nothing under {TRIES} seeds: {reasons:#?}");
}

fn binary() -> Option<PathBuf> {
    let built = option_env!("CARGO_BIN_EXE_accord").map(PathBuf::from);
    std::env::var_os("ACCORD_BIN").map(PathBuf::from).or(built)
}
