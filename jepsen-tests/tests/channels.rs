//! The measurement of many channels, with few: every step is done and its figures add up. How long
//! anything took is not looked at.
//!
//! The product is the binary that `ACCORD_BIN` names, or the one that cargo built beside this test;
//! without either, the test says that it could not try.

// Tests may unwrap: a panic is how they fail.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::time::Duration;

use accord_jepsen::run::channels::figures::{Figures, Outcomes};
use accord_jepsen::run::channels::{self, Data, Mode, Settings, Step};

const CHANNELS: u64 = 30;

/// The product, or none and a line that says so.
fn binary() -> Option<PathBuf> {
    let named = std::env::var_os("ACCORD_BIN").map(PathBuf::from);
    let built = || {
        let test = std::env::current_exe().ok()?;
        let built = test.parent()?.parent()?.join("accord");
        built.is_file().then_some(built)
    };
    let found = named.or_else(built);
    if found.is_none() {
        eprintln!("not tested: there is no binary; set ACCORD_BIN");
    }
    found
}

fn settings(binary: PathBuf, data: &std::path::Path, mode: Mode) -> Settings {
    Settings {
        servers: 3,
        messages_each: 2,
        share: 0.5,
        data: Data::Given {
            directory: data.to_owned(),
            remove: false,
        },
        mode,
        // Whether they sleep is not what is tested here.
        sleep_within: Duration::from_millis(100),
        idle_time: Duration::from_millis(200),
        wake_time: Duration::from_millis(500),
        sockets: 10,
        active: 8,
        ..Settings::new(CHANNELS, 7, binary)
    }
}

async fn run(settings: &Settings) -> Option<Figures> {
    let say = |line: &str| eprintln!("{line}");
    Box::pin(channels::run(settings, &say)).await.unwrap()
}

/// A machine that does much else at the same time may be too slow for some; none may be forgotten.
fn add_up(outcomes: &Outcomes) {
    let failed: u64 = outcomes.errors.values().sum();
    assert_eq!(outcomes.acknowledged + failed, outcomes.asked);
    assert_eq!(outcomes.latency.count, outcomes.acknowledged);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn channels_are_made_once_and_measured_often() {
    let Some(binary) = binary() else { return };
    let parent = tempfile::tempdir().unwrap();
    let data = parent.path().join("data");

    let prepare = Settings {
        channels: CHANNELS / 2,
        ..settings(binary.clone(), &data, Mode::PrepareOnly)
    };
    assert!(run(&prepare).await.is_none());

    // What is there is extended, and measured by the same processes.
    let extend = Settings {
        steps: vec![Step::Idle],
        ..settings(binary.clone(), &data, Mode::Both)
    };
    let figures = run(&extend).await.unwrap();
    let stages: Vec<(u64, u64)> = figures.stages.iter().map(|s| (s.from, s.to)).collect();
    assert_eq!(stages, [(0, CHANNELS / 2), (CHANNELS / 2, CHANNELS)]);
    let messages: u64 = figures.stages.iter().map(|stage| stage.messages).sum();
    assert!(messages > 0 && messages < 2 * CHANNELS, "{messages}");
    assert_eq!((figures.started_on_them, figures.moments.len()), (false, 1));

    let measure = settings(binary, &data, Mode::MeasureOnly);
    let figures = run(&measure).await.unwrap();
    assert_eq!(
        (figures.channels, figures.started_on_them),
        (CHANNELS, true)
    );
    every_step_was_done(&figures);

    let file = parent.path().join("channels.jsonl");
    figures.append_to(&file).unwrap();
    assert_eq!(Figures::read_from(&file).unwrap().len(), 1);
}

fn every_step_was_done(figures: &Figures) {
    let idle = figures.idle.as_ref().unwrap();
    assert_eq!(idle.nodes.len(), 3);
    for node in &idle.nodes {
        assert!(node.resident_bytes > 0 && node.threads > 0 && node.disk_bytes > 0);
        assert!(
            node.peer_bytes_per_s.is_some(),
            "the metric has another name"
        );
    }
    assert!(figures.restart.as_ref().unwrap().ready_ms > 0.0);

    let wake = figures.wake.as_ref().unwrap();
    let saturation = figures.saturation.as_ref().unwrap();
    for wake in [wake, saturation] {
        assert_eq!((wake.outcomes.asked, wake.shortened), (CHANNELS, true));
        add_up(&wake.outcomes);
    }

    let sockets = figures.sockets.as_ref().unwrap();
    assert_eq!((sockets.attached, sockets.ended), (10, 0));
    add_up(&sockets.posts);
    assert_eq!(sockets.posts.asked, 10);
    assert!(sockets.received >= sockets.posts.acknowledged);

    let kill = figures.kill.as_ref().unwrap();
    assert_eq!((kill.active, kill.active_never), (8, 0));
    assert!(kill.active_gap.count > 0, "it leads most of them");
    add_up(&kill.sleeping);
    assert!(kill.ready_ms > 0.0);

    let after: Vec<&str> = figures
        .moments
        .iter()
        .map(|moment| moment.after.as_str())
        .collect();
    let steps = Step::ALL.map(|step| step.to_string());
    assert_eq!(after, steps);
}
