//! Groups that sleep: what they miss comes to them, and what is in use does not sleep.

use accord_raft::NodeId;

use crate::run::shape;
use crate::world::Naps;
use crate::world::Shape;
use crate::world::World;
use crate::world::name;

/// Time for a small cluster to do something, in simulated milliseconds.
const WAIT_MS_MAX: u64 = 60_000;
/// Longer than a link takes to be lost, or to be made again.
const LINKS_MS: u64 = 5_000;
/// How long nobody may have noticed anything, or somebody reads.
const WHILE_MS: u64 = 20_000;
const SEEDS: std::ops::Range<u64> = 0..4;

/// Three nodes whose channels have messages and are asleep; nobody asks for anything.
fn sleepy(seed: u64) -> Result<World, String> {
    let mut world = World::new(Shape {
        nodes: 3,
        latency_ms_max: 5,
        idle_ms: 400,
        think_ms_max: 100,
        election_timeout_ms: 6_000,
        heartbeat_ms: 2_000,
        has_agenda: false,
        ..shape(seed)
    });
    write(&mut world, &[1, 2, 3], 20)?;
    sleep(&mut world, &[1, 2, 3])?;
    Ok(world)
}

/// Has clients write through these nodes until so many messages more are acknowledged.
fn write(world: &mut World, through: &[NodeId], count: u64) -> Result<(), String> {
    let others: Vec<NodeId> = world
        .ids()
        .into_iter()
        .filter(|node| !through.contains(node))
        .collect();
    world.quieten(&others);
    let acknowledged = |world: &World| world.common.checker.borrow().coverage.acknowledged;
    let before = acknowledged(world);
    world.until("messages are acknowledged", WAIT_MS_MAX, |world| {
        acknowledged(world) >= before + count
    })?;
    world.quieten(&world.ids());
    Ok(())
}

fn sleep(world: &mut World, nodes: &[NodeId]) -> Result<(), String> {
    world.until("these nodes' channels sleep", WAIT_MS_MAX, |world| {
        world.is_asleep(nodes)
    })
}

fn pass(world: &mut World, ms: u64) -> Result<(), String> {
    let end = world.now_ms() + ms;
    world.until("time passes", ms + 1, |world| world.now_ms() >= end)
}

fn cut_off(world: &World, node: NodeId) {
    for other in world.ids().into_iter().filter(|other| *other != node) {
        world.sim.partition(name(node), name(other));
    }
}

fn join(world: &World, node: NodeId) {
    for other in world.ids().into_iter().filter(|other| *other != node) {
        world.sim.repair(name(node), name(other));
    }
}

/// Packets are dropped, so the node that is cut off notices nothing but silence.
#[test]
fn what_a_node_missed_comes_although_nobody_asks() {
    for seed in SEEDS {
        for away in 1..=3 {
            assert_eq!(missed(seed, away), Ok(()), "seed {seed}, node {away}");
        }
    }
}

fn missed(seed: u64, away: NodeId) -> Result<(), String> {
    let mut world = sleepy(seed)?;
    let others: Vec<NodeId> = world.ids().into_iter().filter(|id| *id != away).collect();
    cut_off(&world, away);
    write(&mut world, &others, 12)?;
    sleep(&mut world, &others)?;
    join(&world, away);
    world.until("nothing is missing anywhere", WAIT_MS_MAX, World::is_even)?;
    sleep(&mut world, &[1, 2, 3])
}

#[test]
fn what_missed_nothing_sleeps_on_when_links_come_back() {
    for seed in SEEDS {
        assert_eq!(missed_nothing(seed), Ok(Naps::default()), "seed {seed}");
    }
}

/// How many replicas were opened and closed meanwhile.
fn missed_nothing(seed: u64) -> Result<Naps, String> {
    let mut world = sleepy(seed)?;
    let before = world.naps();
    for away in 1..=3 {
        cut_off(&world, away);
        pass(&mut world, LINKS_MS)?;
        join(&world, away);
        pass(&mut world, LINKS_MS)?;
    }
    let after = world.naps();
    Ok(Naps {
        wakes: after.wakes - before.wakes,
        sleeps: after.sleeps - before.sleeps,
    })
}

#[test]
fn what_is_read_on_any_node_stays_awake() {
    for seed in SEEDS {
        for reader in 1..=3 {
            assert_eq!(
                read_all_the_time(seed, reader),
                Ok(0),
                "seed {seed}, node {reader}"
            );
        }
    }
}

/// How often replicas were closed while somebody read on one node what that node has.
fn read_all_the_time(seed: u64, reader: NodeId) -> Result<u64, String> {
    let mut world = sleepy(seed)?;
    world.watch(&[reader]);
    pass(&mut world, LINKS_MS)?;
    let before = world.naps();
    pass(&mut world, WHILE_MS)?;
    Ok(world.naps().sleeps - before.sleeps)
}
