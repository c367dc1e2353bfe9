//! Strikes with the steps of a plan, each at its time.

use std::future::Future;
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};
use tokio::time::timeout;

use crate::history::clock::RunClock;
use crate::history::{Bite, FaultRecord};
use crate::wait::moment;
use crate::world::World;

use super::strike::{Leader, Rest, Strike, StrikeError, Struck};
use super::{FaultKind, Step, clients, clocks, disks, networks, processes};

/// Strikes with every step at its time, and undoes each. One record for each step, in the order of
/// their beginnings.
///
/// `leader_of` says which node leads what the run is about, as far as it knows;
/// [`World::leader`] serves. `rest` has its clients rest, or work again.
///
/// Undoing may take longer than the plan: a damaged node has to catch up. A strike that is not over
/// at `until`, a time since the run's beginning as those of the steps, is broken off and undone,
/// and its record says so. When all of this is dropped early, [`World::heal`] undoes what is still
/// on.
pub async fn run<L, F>(
    world: &World,
    steps: &[Step],
    clock: &RunClock,
    until: Duration,
    leader_of: L,
    rest: impl Fn(bool) + Sync,
) -> Vec<FaultRecord>
where
    L: Fn() -> F + Sync,
    F: Future<Output = Option<u64>> + Send,
{
    let leader = || -> BoxFuture<'_, Option<u64>> { Box::pin(leader_of()) };
    let strikes = steps
        .iter()
        .map(|step| run_step(world, *step, clock, until, &leader, &rest));
    let mut records = join_all(strikes).await;
    records.sort_by_key(|record| record.began);
    records
}

async fn run_step<'a>(
    world: &'a World,
    step: Step,
    clock: &'a RunClock,
    until: Duration,
    leader: &'a Leader<'a>,
    rest: &'a Rest<'a>,
) -> FaultRecord {
    moment(till(step.at, clock)).await;
    let mut strike = Strike::new(world, step, clock, leader, rest);
    let result = match world.cannot().iter().find(|(kind, _)| *kind == step.kind) {
        Some((_, why)) => Err(StrikeError(why.clone())),
        None => {
            let striking = Box::pin(strike_with(&mut strike));
            let ended = timeout(till(until, clock), striking).await;
            ended.unwrap_or_else(|_| Err(StrikeError("it did not end in time".to_owned())))
        }
    };
    let touched = strike.touched();
    let undone = strike.undo_rest();
    let (detail, nodes, mut bite) = match result {
        Ok(Struck {
            detail,
            nodes,
            bite,
        }) => (detail, nodes, bite),
        Err(StrikeError(why)) => (
            "it could not be done as planned".to_owned(),
            touched,
            Bite::No { evidence: why },
        ),
    };
    // Whoever runs a real cluster has a supervisor that starts what ended by itself.
    let raised = match (undone, world.raise_ended()) {
        (Err(why), _) => vec![format!("undoing it FAILED: {why}")],
        (Ok(()), Err(why)) => vec![format!("a node could not be started: {why}")],
        (Ok(()), Ok(raised)) => raised,
    };
    let (Bite::Yes { evidence } | Bite::No { evidence }) = &mut bite;
    for said in raised {
        evidence.push_str("; ");
        evidence.push_str(&said);
    }
    FaultRecord {
        kind: step.kind.to_string(),
        detail,
        nodes,
        began: strike.began(),
        ended: Some(clock.now()),
        bite,
    }
}

fn till(time: Duration, clock: &RunClock) -> Duration {
    time.saturating_sub(Duration::from_nanos(clock.now()))
}

async fn strike_with(strike: &mut Strike<'_>) -> Result<Struck, StrikeError> {
    use FaultKind as F;
    match strike.step.kind {
        F::Kill | F::KillLeader | F::KillMajority | F::KillAll => processes::kill(strike).await,
        F::Pause | F::PauseLeader | F::PauseMajority => processes::pause(strike).await,
        F::PartitionLeader
        | F::PartitionOne
        | F::PartitionRing
        | F::PartitionBridge
        | F::PartitionOneWay => networks::partition(strike).await,
        F::PartitionFlapping => networks::flap(strike).await,
        F::Loss | F::Delay => networks::worsen(strike).await,
        F::ClockJump => clocks::jump(strike).await,
        F::ClockSkew => clocks::skew(strike).await,
        F::PowerLoss | F::PowerLossMajority | F::PowerLossAll => disks::power_loss(strike).await,
        F::Nats => disks::nats(strike).await,
        F::CorruptWal | F::CorruptSst | F::CorruptManifest | F::CutWal => {
            disks::corrupt(strike).await
        }
        F::DiskFull => disks::fill(strike).await,
        F::SlowDisk => disks::slow(strike).await,
        F::FsyncError => disks::fail_sync(strike).await,
        F::Lull => clients::lull(strike).await,
    }
}
