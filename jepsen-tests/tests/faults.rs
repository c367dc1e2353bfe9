//! Every fault against a real cluster of three nodes, with its evidence.
//!
//! The product is the binary that `ACCORD_BIN` names, or the one that cargo built beside this test;
//! without either, without root or without gcc, the test says what it could not try.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use accord_jepsen::history::clock::RunClock;
use accord_jepsen::history::{Bite, FaultRecord};
use accord_jepsen::nemesis::{self, FaultKind, Lane, Step};
use accord_jepsen::wait::wait_until;
use accord_jepsen::world::{NetworkKind, World, WorldOptions};
use accord_jepsen::{Api, ChannelRef, RaftOptions};

const LONG: Duration = Duration::from_secs(60);
/// For a strike that waits for a node to catch up.
const LONGEST: Duration = Duration::from_secs(600);

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

fn options(binary: PathBuf, network: NetworkKind) -> WorldOptions {
    WorldOptions {
        binary: Some(binary),
        network,
        raft: RaftOptions {
            election_timeout_ms: Some(1_000),
            heartbeat_ms: Some(300),
            ..RaftOptions::default()
        },
        ..WorldOptions::new(3)
    }
}

/// Clients that write all the time, one per node, until they are dropped.
struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    channel: ChannelRef,
}

impl Load {
    async fn start(world: &World) -> Self {
        let channel = world
            .cluster()
            .api(1)
            .new_channel()
            .await
            .expect("a new cluster takes a channel");
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(AtomicU64::new(0));
        for api in world.cluster().apis(&world.cluster().ids()) {
            let load = (
                channel.clone(),
                Arc::clone(&stop),
                Arc::clone(&acknowledged),
            );
            tokio::spawn(writing(api, load.0, load.1, load.2));
        }
        Self {
            stop,
            acknowledged,
            channel,
        }
    }

    /// Waits until clients write again.
    async fn goes_on(&self) {
        let before = self.acknowledged.load(Ordering::Relaxed);
        wait_until("acknowledged writes", LONG, || async {
            match self.acknowledged.load(Ordering::Relaxed) - before {
                0 => Err("none".to_owned()),
                _ => Ok(()),
            }
        })
        .await
        .expect("clients write again");
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

async fn writing(
    api: Api,
    channel: ChannelRef,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
) {
    while !stop.load(Ordering::Relaxed) {
        let post = Box::pin(api.post(&channel, "load", "a message of some length"));
        match tokio::time::timeout(Duration::from_secs(2), post).await {
            Ok(Ok(_)) => {
                acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            // The node is down, or its disk is full: there will be another moment.
            _ => accord_jepsen::wait::moment(Duration::from_millis(20)).await,
        }
    }
}

async fn strike(world: &World, load: &Load, kind: FaultKind, seed: u64) -> FaultRecord {
    let lasts = match kind {
        FaultKind::Nats => 3_000,
        _ => 1_500,
    };
    let step = Step {
        at: Duration::ZERO,
        lasts: Duration::from_millis(lasts),
        kind,
        seed,
    };
    let clock = RunClock::start();
    let channel = load.channel.channel.clone();
    let leader = || world.leader(Some(&channel));
    let mut records = nemesis::run(world, &[step], &clock, LONGEST, leader, |_| {}).await;
    assert_eq!(records.len(), 1);
    records.remove(0)
}

/// Strikes with each kind that the world can do; afterwards writes go on and all nodes get ready.
async fn each_bites(world: &World, kinds: &[FaultKind]) {
    for (kind, why) in world.cannot() {
        if kinds.contains(&kind) {
            eprintln!("not tested: {kind}: {why}");
        }
    }
    let cannot: Vec<FaultKind> = world.cannot().into_iter().map(|(kind, _)| kind).collect();
    let load = Load::start(world).await;
    load.goes_on().await;
    let mut failed = Vec::new();
    for kind in kinds.iter().filter(|kind| !cannot.contains(kind)) {
        let record = strike(world, &load, *kind, 11).await;
        eprintln!("{record:?}");
        if !took_effect(*kind, &record.bite) {
            failed.push(record.clone());
        }
        assert_eq!(record.kind, kind.name());
        assert!(record.ended.is_some_and(|ended| ended > record.began));
        world
            .cluster()
            .wait_all_ready()
            .await
            .expect("all nodes are ready after a fault");
        load.goes_on().await;
    }
    drop(load);
    world.heal().await.expect("a world heals");
    world.heal().await.expect("a healed world heals");
    let ready = world.cluster().wait_all_ready().await;
    ready.expect("all nodes are ready after healing");
    assert!(failed.is_empty(), "{failed:#?}");
}

/// Whether the fault was seen, and the product did what it must.
fn took_effect(kind: FaultKind, bite: &Bite) -> bool {
    match bite {
        Bite::Yes { evidence } => {
            let broken = ["NOT END", "NOT READY", "BY ITSELF", "FAILED"];
            !broken.iter().any(|word| evidence.contains(word))
        }
        // One bit of a table may be one that nobody reads.
        Bite::No { evidence } => kind == FaultKind::CorruptSst && evidence.contains("RAN ON"),
    }
}

fn of_lane(lane: Lane) -> Vec<FaultKind> {
    FaultKind::ALL
        .into_iter()
        .filter(|kind| kind.lane() == lane)
        .collect()
}

#[tokio::test]
async fn faults_of_processes_and_disks_bite() {
    let Some(binary) = binary() else { return };
    let world = World::start(options(binary, NetworkKind::Plain))
        .await
        .unwrap();
    each_bites(&world, &of_lane(Lane::Nodes)).await;
}

#[tokio::test]
async fn faults_of_packets_and_clocks_bite() {
    let Some(binary) = binary() else { return };
    let world = World::start(options(binary, NetworkKind::Best))
        .await
        .unwrap();
    eprintln!("the network is {:?}", world.network_kind());
    each_bites(&world, &of_lane(Lane::Network)).await;
    each_bites(&world, &of_lane(Lane::Clocks)).await;
}

#[tokio::test]
async fn faults_of_connections_bite() {
    let Some(binary) = binary() else { return };
    let options = WorldOptions {
        own_disks: false,
        shim: false,
        ..options(binary, NetworkKind::Proxy)
    };
    let world = World::start(options).await.unwrap();
    let lacks = |kind| world.cannot().iter().any(|(cannot, _)| *cannot == kind);
    assert!(lacks(FaultKind::PowerLoss) && lacks(FaultKind::ClockJump));
    each_bites(&world, &of_lane(Lane::Network)).await;
}

#[tokio::test]
async fn a_plan_runs_with_all_lanes_at_once_and_healing_ends_it() {
    let Some(binary) = binary() else { return };
    let world = World::start(options(binary, NetworkKind::Best))
        .await
        .unwrap();
    let load = Load::start(&world).await;
    load.goes_on().await;
    let kinds = [
        FaultKind::Kill,
        FaultKind::Pause,
        FaultKind::PowerLossAll,
        FaultKind::PartitionLeader,
        FaultKind::Loss,
        FaultKind::ClockJump,
    ];
    let steps = nemesis::plan(&kinds, Duration::from_secs(12), 5);
    let clock = RunClock::start();
    let channel = load.channel.channel.clone();
    let leader = || world.leader(Some(&channel));
    let records = nemesis::run(&world, &steps, &clock, LONGEST, leader, |_| {}).await;
    assert_eq!(records.len(), steps.len());
    for record in &records {
        eprintln!("{record:?}");
    }
    // A nemesis that is cut off in the middle leaves everything broken; healing ends that.
    let whole: Vec<Step> = [FaultKind::KillAll, FaultKind::PartitionOne]
        .map(|kind| Step {
            at: Duration::ZERO,
            lasts: LONG,
            kind,
            seed: 1,
        })
        .to_vec();
    let endless = nemesis::run(&world, &whole, &clock, LONGEST, || async { None }, |_| {});
    let cut_off = tokio::time::timeout(Duration::from_secs(2), Box::pin(endless)).await;
    assert!(cut_off.is_err());
    assert!(
        world
            .cluster()
            .ids()
            .iter()
            .all(|node| !world.cluster().is_running(*node))
    );
    world.heal().await.unwrap();
    world.cluster().wait_all_ready().await.unwrap();
    load.goes_on().await;
}

#[tokio::test]
async fn a_strike_that_does_not_end_in_time_is_broken_off_and_told_of() {
    let Some(binary) = binary() else { return };
    let options = WorldOptions {
        own_disks: false,
        shim: false,
        ..options(binary, NetworkKind::Plain)
    };
    let world = World::start(options).await.unwrap();
    let step = |kind, lasts| Step {
        at: Duration::ZERO,
        lasts,
        kind,
        seed: 1,
    };
    let steps = [
        step(FaultKind::Pause, Duration::from_millis(1)),
        step(FaultKind::PauseMajority, LONG),
    ];
    let until = Duration::from_secs(8);
    let clock = RunClock::start();
    let striking = nemesis::run(&world, &steps, &clock, until, || async { None }, |_| {});
    let records = Box::pin(striking).await;
    let of = |kind: FaultKind| records.iter().find(|record| record.kind == kind.name());
    let in_time = of(FaultKind::Pause).expect("a record of the strike that ended");
    assert!(matches!(in_time.bite, Bite::Yes { .. }), "{in_time:?}");
    let late = of(FaultKind::PauseMajority).expect("a record of the strike that did not");
    assert!(
        matches!(&late.bite, Bite::No { evidence } if evidence.contains("did not end in time")),
        "{late:?}"
    );
    assert_eq!(late.nodes.len(), 2);
    let ready = world.cluster().wait_all_ready().await;
    ready.expect("what was paused goes on");
}
