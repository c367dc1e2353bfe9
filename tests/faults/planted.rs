//! The fault tests can see: a planted bug (docs/architecture.md) fails an episode, and fails it by a
//! property that says what is wrong. A checker that finds nothing here would prove nothing elsewhere.

use std::path::PathBuf;
use std::time::Duration;

use accord_jepsen::checker::Property;
use accord_jepsen::nemesis::FaultKind;
use accord_jepsen::run::Verdict;
use accord_jepsen::run::episode;
use accord_jepsen::run::settings::{Nemesis, Settings};
use accord_jepsen::world::NetworkKind;

use super::{EPISODE_WITHIN, TURN};

/// Seeds that are tried until the bug is seen. Whether it can be depends on what clients do in the
/// moment of a fault, which no seed decides.
const TRIES: usize = 4;

#[test]
fn planted_loss_of_the_window_in_a_snapshot_is_caught() {
    use Property::{P2, P3, P13, P14};
    let kinds = [FaultKind::Kill, FaultKind::KillLeader];
    caught(
        "dedup_forgotten_on_snapshot",
        93,
        &kinds,
        &[P2, P3, P13, P14],
    );
}

#[test]
fn planted_holes_in_resumed_streams_are_caught() {
    let kinds = [FaultKind::Kill];
    caught(
        "stream_off_by_one",
        111,
        &kinds,
        &[Property::P10, Property::P11],
    );
}

/// Runs episodes until one fails by one of `expected`.
fn caught(bug: &str, seed: u64, kinds: &[FaultKind], expected: &[Property]) {
    let _turn = TURN
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut seen = Vec::new();
    // Snapshots every 40 entries, so that a node which was away needs one.
    let snapshots = |seed: &u64| Settings::new(*seed).raft().snapshot_after_entries == Some(40);
    for seed in (seed..).filter(snapshots).take(TRIES) {
        let settings = Settings {
            nemesis: Nemesis::These(kinds.to_vec()),
            time: Duration::from_secs(15),
            network: NetworkKind::Best,
            rate: 100.0,
            out: std::env::temp_dir().join("accord-planted"),
            binary: option_env!("CARGO_BIN_EXE_accord").map(PathBuf::from),
            environment: vec![("ACCORD_PLANTED".to_owned(), bug.to_owned())],
            ..Settings::new(seed)
        };
        let say = |line: &str| eprintln!("{line}");
        let running = Box::pin(episode::run(&settings, &say));
        let ended = runtime.block_on(async { tokio::time::timeout(EPISODE_WITHIN, running).await });
        let episode = ended
            .expect("an episode ends")
            .unwrap_or_else(|error| panic!("{error}\nagain: {}", settings.replay()));
        if let Some((kind, why)) = episode.cannot.first() {
            eprintln!("not tested on this machine: {kind}: {why}");
            return;
        }
        let found =
            |property: &&Property| episode.report.counts.get(property).is_some_and(|n| *n > 0);
        if episode.verdict == Verdict::Failed && expected.iter().any(|property| found(&property)) {
            return;
        }
        seen.push(episode.report.counts);
    }
    panic!("{bug} went unnoticed under {TRIES} seeds: {seen:?}");
}
