//! One run: a cluster of some shape, faults for a while, then peace, in which everything must come
//! right again.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::time::Instant;

use accord_storage::sim::random;

use crate::check::Coverage;
use crate::nemesis::Nemesis;
use crate::world::Naps;
use crate::world::Shape;
use crate::world::World;

/// How long things go wrong, in simulated milliseconds.
const TROUBLE_MS: u64 = 30_000;
/// How long a healed cluster may take to serve again and to become even.
const RECOVERY_MS_MAX: u64 = 60_000;
/// How long what was left to do may take: the furthest time ahead, an attempt or two, and the pause of
/// whoever looks again.
const SERVED_MS_MAX: u64 = 120_000;
/// Writes that must succeed once everything is healed.
const WRITES_AFTER: u64 = 20;

/// What a run came to.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// The hash of everything that happened, and how many events that were.
    pub trace: (u64, u64),
    pub coverage: Coverage,
    pub faults: u64,
    pub lost_batches: u64,
    pub naps: Naps,
    pub simulated_ms: u64,
    pub real_ms: u64,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Coverage {
            acknowledged,
            unknown,
            refused,
            reads,
            leaders,
            entries,
            snapshots,
            digests,
            scheduled,
            replies,
        } = self.coverage;
        write!(
            f,
            "{acknowledged} writes acknowledged, {unknown} unknown, {refused} refused; {reads} reads; \
             {entries} entries; {leaders} leaders; {snapshots} snapshots; {digests} states compared; {scheduled} messages scheduled, {replies} commands answered; \
             {} faults; {} batches lost; {} replicas woken, {} put to sleep; {} events, trace {:016x}; {} ms in {} ms",
            self.faults,
            self.lost_batches,
            self.naps.wakes,
            self.naps.sleeps,
            self.trace.1,
            self.trace.0,
            self.simulated_ms,
            self.real_ms
        )
    }
}

/// The cluster of a seed: small ones and larger ones, quick timers and the product's own.
pub fn shape(seed: u64) -> Shape {
    let nodes = if seed % 4 == 3 { 5 } else { 3 };
    let is_quick = seed.is_multiple_of(2);
    Shape {
        seed,
        nodes,
        replication: 3,
        channels: 2,
        clients_per_node: 2,
        latency_ms_max: [2, 10, 40][usize::try_from(seed % 3).unwrap_or(0)],
        election_timeout_ms: if is_quick { 600 } else { 6_000 },
        heartbeat_ms: if is_quick { 200 } else { 2_000 },
        snapshot_after_entries: [40, 200, 10_000][usize::try_from(seed / 3 % 3).unwrap_or(0)],
        // So short that groups fall asleep between two requests, or so long that they never do.
        idle_ms: [100, 400, 10_000, 600_000][usize::try_from(seed / 9 % 4).unwrap_or(0)],
        // In some lives so seldom that whole groups are idle between two requests of anybody.
        think_ms_max: [120, 120, 6_000][usize::try_from(seed % 3).unwrap_or(0)],
    }
}

/// Runs `seed`.
///
/// # Errors
/// What was violated, with the command that shows it again.
pub fn run(seed: u64) -> Result<Outcome, String> {
    let result = catch_unwind(AssertUnwindSafe(|| storm(shape(seed))));
    let outcome = result.unwrap_or_else(|_| Err("a node panicked; see above".into()));
    outcome.map_err(|what| {
        format!(
            "seed {seed}: {what}\nagain: make sim SEEDS={seed}..{} (ACCORD_SIM_TRACE=1 shows every event)",
            seed + 1
        )
    })
}

fn storm(shape: Shape) -> Result<Outcome, String> {
    let begun = Instant::now();
    let mut world = World::new(shape);
    let mut nemesis = Nemesis::default();
    world.until("the channels exist", RECOVERY_MS_MAX, |world| {
        world.common.channels.borrow().len() >= shape.channels
    })?;
    let end = world.now_ms() + TROUBLE_MS;
    while world.now_ms() < end {
        nemesis.act(&mut world);
        world.step()?;
    }
    nemesis.heal(&mut world);
    let all = world.ids();
    if shape.seed.is_multiple_of(2) {
        // What was missed comes without anybody asking for it.
        world.quieten(&all);
        world.until("all are even by themselves", RECOVERY_MS_MAX, |world| {
            world.is_even()
        })?;
        world.quieten(&[]);
    }
    let written = world.common.checker.borrow().coverage.acknowledged;
    world.until("clients can write again", RECOVERY_MS_MAX, |world| {
        world.common.checker.borrow().coverage.acknowledged >= written + WRITES_AFTER
    })?;
    world.quieten(&all);
    world.until("all that is due is done", SERVED_MS_MAX, |world| {
        world.common.checker.borrow().unserved().is_none()
    })?;
    world.until("all replicas are even", RECOVERY_MS_MAX, |world| {
        world.is_even()
    })?;
    let checker = &world.common.checker;
    checker.borrow_mut().finish(&world.common.nodes.borrow());
    if let Some(first) = checker.borrow().violations().first() {
        return Err(first.clone());
    }
    let checker = checker.borrow();
    let (hash, events) = checker.trace.sum();
    Ok(Outcome {
        // The dice are part of it: a run that threw them once more is another run.
        trace: (hash ^ random(), events),
        coverage: checker.coverage,
        faults: nemesis.faults,
        naps: world.naps(),
        lost_batches: world.disks.values().map(|disk| disk.lost()).sum(),
        simulated_ms: world.now_ms(),
        real_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
    })
}
