//! Power loss, damage, full disks, and syncs that are slow or fail.
//!
//! Each of these takes the world's disk turn, so that at any time the disks of a majority are
//! honest, however late a plan runs.

use std::time::{Duration, Instant};

use crate::history::Bite;
use crate::wait::wait_until;
use crate::world::damage::{self, Target};
use crate::world::disk::{Aftermath, PowerCut};
use crate::world::shim::OP_SYNC;
use crate::world::{DISK_FREE_BYTES_MIN, LOOK_MAX, proc};

use super::FaultKind;
use super::strike::{Strike, StrikeError, Struck, judged, listed};

/// How long a fault waits for the turn of another one.
const TURN_WITHIN: Duration = Duration::from_secs(30);
/// A damaged node must have refused by then, or be ready.
const REFUSAL_WITHIN: Duration = Duration::from_secs(30);
/// A fresh replica must have caught up by then.
const REJOIN_WITHIN: Duration = Duration::from_secs(120);
/// Between two looks for nodes that ended by themselves.
const RAISE_EVERY: Duration = Duration::from_secs(5);
/// The product looks at its disk every second.
const FULL_WITHIN: Duration = Duration::from_secs(10);
/// For the next sync after a failure was ordered, and for the end of the process after it.
const SYNC_WITHIN: Duration = Duration::from_secs(10);
/// A killed process may hold its files for a moment.
const UNMOUNT_WITHIN: Duration = Duration::from_secs(10);
const SLOW_SYNC_MS: (u64, u64) = (20, 400);
const EIO: i32 = 5;

/// One, a majority or all nodes lose their power.
pub async fn power_loss(strike: &mut Strike<'_>) -> Result<Struck, StrikeError> {
    let _turn = strike.world.disk_turn(TURN_WITHIN).await?;
    let victims = strike.victims().await?;
    strike.begin();
    let seen = cut_power(strike, &victims).await?;
    strike.last(strike.step.lasts).await;
    for node in &victims {
        strike.up(*node)?;
    }
    Ok(Struck {
        detail: format!("power loss of {}", listed(&victims)),
        nodes: victims,
        bite: seen,
    })
}

/// Pause A, write, power off B, pause C, resume A, restart B, resume C. A and C are as many nodes
/// as may be missing, B is one.
pub async fn nats(strike: &mut Strike<'_>) -> Result<Struck, StrikeError> {
    let _turn = strike.world.disk_turn(TURN_WITHIN).await?;
    let nodes = strike.shuffled();
    let missing = nodes.len() - strike.majority();
    if missing == 0 {
        return Err(StrikeError("it takes three nodes".to_owned()));
    }
    let (a, rest) = nodes.split_at(missing);
    let (b, rest) = rest.split_at(1);
    let c = &rest[..missing];
    let phase = strike.step.lasts / 3;
    strike.begin();
    freeze_all(strike, a).await?;
    strike.last(phase).await;
    let seen = cut_power(strike, b).await?;
    freeze_all(strike, c).await?;
    strike.last(phase * 2).await;
    for node in a {
        strike.go(*node)?;
    }
    for node in b {
        strike.up(*node)?;
    }
    strike.last(phase * 3).await;
    for node in c {
        strike.go(*node)?;
    }
    Ok(Struck {
        detail: format!(
            "{} paused, writes, power loss of {}, {} paused, {} resumed, {} restarted, {} resumed",
            listed(a),
            listed(b),
            listed(c),
            listed(a),
            listed(b),
            listed(c)
        ),
        bite: seen,
        nodes,
    })
}

/// A node's files are damaged while it is down. It must refuse to start; then it rejoins.
pub async fn corrupt(strike: &mut Strike<'_>) -> Result<Struck, StrikeError> {
    let _turn = strike.world.disk_turn(TURN_WITHIN).await?;
    let (world, cluster) = (strike.world, strike.world.cluster());
    let node = strike.shuffled()[0];
    strike.begin();
    strike.take_down(node)?;
    let data_dir = cluster.data_dir(node);
    world.mark_damaged(node);
    let damage = match strike.step.kind {
        FaultKind::CutWal => damage::cut(data_dir, Target::Wal, &mut strike.rng),
        FaultKind::CorruptSst => damage::flip(data_dir, Target::Sst, &mut strike.rng),
        FaultKind::CorruptManifest => damage::flip(data_dir, Target::Manifest, &mut strike.rng),
        _ => damage::flip(data_dir, Target::Wal, &mut strike.rng),
    }?;
    let seen = started_damaged(strike, node).await?;
    // From here on it is another replica, and whatever the damaged one would have done is over.
    cluster.kill(node)?;
    world.rejoin(node)?;
    strike.up(node)?;
    let outcome = rejoined(strike, node).await?;
    let bite = match seen {
        Ok(refusal) => Bite::Yes {
            evidence: format!("{refusal}; {outcome}"),
        },
        Err(unnoticed) => Bite::No {
            evidence: format!("{unnoticed}; {outcome}"),
        },
    };
    Ok(Struck {
        detail: format!("node {node}: {damage}"),
        nodes: vec![node],
        bite,
    })
}

/// A node's disk has less room than the node wants to keep.
pub async fn fill(strike: &mut Strike<'_>) -> Result<Struck, StrikeError> {
    let _turn = strike.world.disk_turn(TURN_WITHIN).await?;
    let node = strike.shuffled()[0];
    let channel = strike.world.probe_channel().await?;
    let api = strike.world.cluster().api(node);
    let disk = strike.disk(node)?;
    strike.begin();
    let left = disk.fill(DISK_FREE_BYTES_MIN / 2)?;
    let refused = wait_until("a write to be refused with 507", FULL_WITHIN, || async {
        match api.post(&channel, "nemesis", "is there room?").await {
            Ok(_) => Err("a write was taken".to_owned()),
            Err(error) if error.status() == Some(507) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    })
    .await;
    let read = api.messages(&channel, "consistency=stale").await;
    strike.last(strike.step.lasts).await;
    disk.empty()?;
    let refusal = match &refused {
        Ok(()) => "a write was refused with 507".to_owned(),
        Err(error) => error.to_string(),
    };
    let reading = match &read {
        Ok(_) => "a read was answered".to_owned(),
        Err(error) => format!("a read was not: {error}"),
    };
    Ok(Struck {
        detail: format!("the disk of node {node} was filled"),
        nodes: vec![node],
        bite: judged(
            left < DISK_FREE_BYTES_MIN && refused.is_ok(),
            format!("statvfs: {left} bytes free; {refusal}; {reading}"),
        ),
    })
}

/// A node's syncs take long.
pub async fn slow(strike: &mut Strike<'_>) -> Result<Struck, StrikeError> {
    let node = strike.shuffled()[0];
    let (least, most) = SLOW_SYNC_MS;
    let delay_ms = least + strike.rng.below(most - least + 1);
    let control = strike.syncs_of(node)?;
    let before = control.done()?.syncs_delayed;
    strike.begin();
    control.delay_syncs(Duration::from_millis(delay_ms))?;
    strike.last(strike.step.lasts).await;
    let late = control.done()?.syncs_delayed - before;
    control.reset_disk()?;
    Ok(Struck {
        detail: format!("every sync of node {node} took {delay_ms} ms longer"),
        nodes: vec![node],
        bite: judged(late > 0, format!("{late} syncs were late")),
    })
}

/// A sync of a node fails once; its process must end, since it cannot know what is on the disk.
pub async fn fail_sync(strike: &mut Strike<'_>) -> Result<Struck, StrikeError> {
    let _turn = strike.world.disk_turn(TURN_WITHIN).await?;
    let node = strike.shuffled()[0];
    let cluster = strike.world.cluster();
    let control = strike.syncs_of(node)?;
    let before = control.done()?.errors_injected;
    strike.begin();
    strike.expect_end(node);
    control.fail(OP_SYNC, 1, EIO)?;
    let failed = wait_until("a sync that fails", SYNC_WITHIN, || async {
        match control.done() {
            Ok(done) if done.errors_injected > before => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    control.reset_disk()?;
    failed?;
    let failing = Instant::now();
    let ended = cluster.wait_ended(node, failing, SYNC_WITHIN).await;
    cluster.kill(node)?;
    strike.last(strike.step.lasts).await;
    strike.up(node)?;
    let ending = match ended {
        Ok(ended) => format!("the process ended {:?} later, {}", ended.took, ended.status),
        Err(_) => format!("the process did NOT END within {SYNC_WITHIN:?}"),
    };
    Ok(Struck {
        detail: format!("one sync of node {node} failed with EIO"),
        nodes: vec![node],
        bite: judged(
            true,
            format!("the library counted the failed sync; {ending}"),
        ),
    })
}

async fn freeze_all(strike: &mut Strike<'_>, nodes: &[u64]) -> Result<(), StrikeError> {
    for node in nodes {
        strike.freeze(*node)?;
        proc::all_stopped(strike.world.cluster().pid(*node).unwrap_or_default()).await?;
    }
    Ok(())
}

/// Takes the power from these nodes at one moment, mounts their disks anew, and leaves them down.
async fn cut_power(strike: &mut Strike<'_>, nodes: &[u64]) -> Result<Bite, StrikeError> {
    let cluster = strike.world.cluster();
    let mut stopped = Vec::new();
    for node in nodes.iter().filter(|node| cluster.is_running(**node)) {
        cluster.pause(*node)?;
        stopped.push(*node);
    }
    for node in &stopped {
        proc::all_stopped(cluster.pid(*node).unwrap_or_default()).await?;
    }
    let mut cuts: Vec<(u64, PowerCut)> = Vec::new();
    for node in nodes {
        let nonce = strike.rng.next_u64();
        cuts.push((*node, strike.disk(*node)?.cut_power(nonce)?));
    }
    let mut lost = true;
    let mut seen = Vec::new();
    for (node, cut) in cuts {
        strike.take_down(node)?;
        let disk = strike.disk(node)?;
        lost &= disk.is_dead();
        wait_until("the disk to be free", UNMOUNT_WITHIN, || async {
            disk.unmount().map_err(|error| error.to_string())
        })
        .await?;
        disk.mount()?;
        let aftermath = disk.aftermath(&cut);
        lost &= aftermath.is_power_loss();
        seen.push(told(node, &aftermath));
    }
    Ok(judged(lost, seen.join("; ")))
}

fn told(node: u64, aftermath: &Aftermath) -> String {
    let is = |kept: bool| if kept { "still there" } else { "gone" };
    let (before, after) = aftermath.log_bytes;
    format!(
        "node {node}: what the harness had synced is {}, what it had not is {}; the write-ahead \
         logs had {before} bytes and have {after}",
        is(aftermath.synced_kept),
        is(!aftermath.unsynced_lost)
    )
}

/// Waits until a node that rejoins is ready. It needs all others for that, so those that ended by
/// themselves are started.
async fn rejoined(strike: &Strike<'_>, node: u64) -> Result<String, StrikeError> {
    let started = Instant::now();
    let mut seen = Vec::new();
    while started.elapsed() < REJOIN_WITHIN {
        if strike.world.caught_up(node, RAISE_EVERY).await {
            seen.push(format!(
                "it rejoined and was ready after {:?}",
                started.elapsed()
            ));
            return Ok(seen.join("; "));
        }
        seen.extend(strike.world.raise_ended()?);
    }
    seen.push(format!(
        "it rejoined and was NOT READY within {REJOIN_WITHIN:?}"
    ));
    Ok(seen.join("; "))
}

/// Starts a damaged node and watches it. `Ok` says how it refused, `Err` that it did not.
async fn started_damaged(
    strike: &Strike<'_>,
    node: u64,
) -> Result<Result<String, String>, StrikeError> {
    let cluster = strike.world.cluster();
    let said_before = cluster.log(node).len();
    let started = Instant::now();
    cluster.start_node(node)?;
    let api = cluster.api(node);
    // It ends, or it is ready, whichever comes first; a node that is neither goes on being watched.
    let _ = wait_until(
        "a damaged node to end or be ready",
        REFUSAL_WITHIN,
        || async {
            if !cluster.is_running(node) {
                return Ok(());
            }
            match tokio::time::timeout(LOOK_MAX, Box::pin(api.get("/readyz"))).await {
                Ok(Ok(response)) if response.status == 200 => Ok(()),
                other => Err(format!("{other:?}")),
            }
        },
    )
    .await;
    // A block of a table may be read only later.
    let ended = cluster.wait_ended(node, started, strike.step.lasts).await;
    let log = cluster.log(node);
    let said = log.get(said_before..).unwrap_or_default();
    let names_damage = ["damage", "corrupt"]
        .iter()
        .any(|word| said.to_lowercase().contains(word));
    Ok(match ended {
        Ok(ended) if !ended.status.success() && names_damage => Ok(format!(
            "the node ended {:?} after its start, {}, and its log names the damage",
            ended.took, ended.status
        )),
        Ok(ended) => Err(format!(
            "the node ended, {}, and its log does not name damage",
            ended.status
        )),
        Err(_) => Err(
            "the node RAN ON: the damage may lie where nothing was read, or went unnoticed"
                .to_owned(),
        ),
    })
}
