//! What goes wrong: crashes with and without a loss of power, partitions, slow disks and links, clocks
//! that jump. All of it falls as the seed says.

use accord_raft::NodeId;
use accord_storage::sim::Fsync;
use accord_storage::sim::Loss;
use accord_storage::sim::random;

use crate::world::World;
use crate::world::name;

/// Bounds of the pause between two faults, in milliseconds.
const PAUSE_MS: (u64, u64) = (100, 2_500);
/// Bounds of how long a fault lasts, in milliseconds.
const LASTS_MS: (u64, u64) = (20, 6_000);
/// A clock jumps by at most this, either way.
const JUMP_MS_MAX: i64 = 3_600_000;
/// An fsync of a slow disk takes from this on, in milliseconds.
const SLOW_MS: (u64, u64) = (100, 1_500);

/// Until when something is wrong, and what ends it.
struct Ongoing {
    until_ms: u64,
    fault: Fault,
}

#[derive(Debug, Clone)]
enum Fault {
    Down(NodeId),
    Cut(Vec<(NodeId, NodeId)>),
    OneWay(NodeId, NodeId),
    Held(Vec<(NodeId, NodeId)>),
    SlowDisk(NodeId),
}

#[derive(Default)]
pub struct Nemesis {
    ongoing: Vec<Ongoing>,
    next_ms: u64,
    /// How many faults there were.
    pub faults: u64,
}

impl Nemesis {
    /// Ends what is over and begins what is due.
    pub fn act(&mut self, world: &mut World) {
        let now = world.now_ms();
        let (over, ongoing) = std::mem::take(&mut self.ongoing)
            .into_iter()
            .partition(|ongoing| ongoing.until_ms <= now);
        self.ongoing = ongoing;
        for Ongoing { fault, .. } in over {
            end(world, &fault);
        }
        if now >= self.next_ms {
            self.next_ms = now + between(PAUSE_MS);
            if now > 0 {
                self.begin(world);
            }
        }
    }

    /// Ends everything.
    pub fn heal(&mut self, world: &mut World) {
        for Ongoing { fault, .. } in std::mem::take(&mut self.ongoing) {
            end(world, &fault);
        }
        for node in world.ids() {
            accord_raft::sim::set_clock(node, 0);
            world.restart(node);
        }
        world.note(format_args!("healed"));
    }

    fn begin(&mut self, world: &mut World) {
        self.faults += 1;
        let ids = world.ids();
        let one = pick(&ids);
        let until_ms = world.now_ms() + between(LASTS_MS);
        // Faults of the network do not overlap: turmoil's do not combine.
        let is_cut = self.ongoing.iter().any(|ongoing| {
            matches!(
                ongoing.fault,
                Fault::Cut(_) | Fault::OneWay(..) | Fault::Held(_)
            )
        });
        match random() % 14 {
            0..3 => self.down(world, one, until_ms),
            3 => {
                let leader = leader(world).unwrap_or(one);
                self.down(world, leader, until_ms);
            }
            4 => {
                let most = shuffled(&ids).into_iter().take(ids.len() / 2 + 1);
                for node in most {
                    self.down(world, node, until_ms);
                }
            }
            5 => {
                // All at once, as when a rack loses power; they come back one after the other.
                for node in ids {
                    let until_ms = world.now_ms() + between(LASTS_MS) / 4;
                    self.down(world, node, until_ms);
                }
            }
            6 => {
                world.ask_to_leave(one);
                // It is given the time to hand over; then it ends, ready or not.
                self.add(until_ms.max(world.now_ms() + 2_000), Fault::Down(one));
            }
            7 | 8 if !is_cut => {
                let size = 1 + below(ids.len() - 1);
                let side: Vec<NodeId> = shuffled(&ids).into_iter().take(size).collect();
                let pairs = crossing(&ids, &side);
                world.note(format_args!("cut {side:?}"));
                for (a, b) in &pairs {
                    world.sim.partition(name(*a), name(*b));
                }
                self.add(until_ms, Fault::Cut(pairs));
            }
            9 if !is_cut => {
                // A moment is enough to lose what was on its way, and with it the connection.
                let pairs = crossing(&ids, &[one]);
                world.note(format_args!("drop {one}"));
                for (a, b) in &pairs {
                    world.sim.partition(name(*a), name(*b));
                }
                self.add(world.now_ms() + 1 + random() % 20, Fault::Cut(pairs));
            }
            10 if !is_cut => {
                let other = pick(&ids);
                if one != other {
                    world.note(format_args!("one way {one} {other}"));
                    world.sim.partition_oneway(name(one), name(other));
                    self.add(until_ms, Fault::OneWay(one, other));
                }
            }
            11 if !is_cut => {
                let pairs = crossing(&ids, &[one]);
                world.note(format_args!("hold {one}"));
                for (a, b) in &pairs {
                    world.sim.hold(name(*a), name(*b));
                }
                self.add(until_ms, Fault::Held(pairs));
            }
            12 => {
                world.note(format_args!("slow disk {one}"));
                if let Some(disk) = world.disks.get(&one) {
                    disk.set_fsync(Fsync {
                        usual_ms_min: SLOW_MS.0,
                        usual_ms_max: SLOW_MS.0 + random() % (SLOW_MS.1 - SLOW_MS.0),
                        ..Fsync::default()
                    });
                }
                self.add(until_ms, Fault::SlowDisk(one));
            }
            _ => {
                let span = JUMP_MS_MAX.unsigned_abs() * 2 + 1;
                let ahead = i64::try_from(random() % span).unwrap_or(0) - JUMP_MS_MAX;
                world.note(format_args!("clock {one} {ahead}"));
                accord_raft::sim::set_clock(one, ahead);
            }
        }
    }

    fn down(&mut self, world: &mut World, node: NodeId, until_ms: u64) {
        if world.is_running(node) {
            let loss = match random() % 4 {
                0 => Loss::Nothing,
                1 => Loss::Unsynced,
                _ => Loss::SomeUnsynced,
            };
            world.crash(node, loss);
            self.add(until_ms, Fault::Down(node));
        }
    }

    fn add(&mut self, until_ms: u64, fault: Fault) {
        self.ongoing.push(Ongoing { until_ms, fault });
    }
}

fn end(world: &mut World, fault: &Fault) {
    world.note(format_args!("end of {fault:?}"));
    match fault {
        Fault::Down(node) => {
            // One that was asked to leave may still be there.
            world.crash(*node, Loss::Unsynced);
            world.restart(*node);
        }
        Fault::Cut(pairs) => {
            for (a, b) in pairs {
                world.sim.repair(name(*a), name(*b));
            }
        }
        Fault::OneWay(from, to) => world.sim.repair_oneway(name(*from), name(*to)),
        Fault::Held(pairs) => {
            for (a, b) in pairs {
                world.sim.release(name(*a), name(*b));
            }
        }
        Fault::SlowDisk(node) => {
            if let Some(disk) = world.disks.get(node) {
                disk.set_fsync(Fsync::default());
            }
        }
    }
}

/// The leader of some channel.
fn leader(world: &World) -> Option<NodeId> {
    let groups: Vec<u64> = {
        let channels = world.common.channels.borrow();
        channels.iter().map(|channel| channel.group).collect()
    };
    let group = groups.get(below(groups.len().max(1)))?;
    world.leader(*group)
}

/// The pairs of nodes of which one is in `side` and the other is not.
fn crossing(ids: &[NodeId], side: &[NodeId]) -> Vec<(NodeId, NodeId)> {
    let others = ids.iter().filter(|node| !side.contains(node));
    others
        .flat_map(|other| side.iter().map(|node| (*node, *other)))
        .collect()
}

fn pick(ids: &[NodeId]) -> NodeId {
    ids[below(ids.len())]
}

fn shuffled(ids: &[NodeId]) -> Vec<NodeId> {
    let mut ids = ids.to_vec();
    for last in (1..ids.len()).rev() {
        ids.swap(last, below(last + 1));
    }
    ids
}

fn between((min, max): (u64, u64)) -> u64 {
    min + random() % (max - min)
}

fn below(bound: usize) -> usize {
    usize::try_from(random() % bound as u64).unwrap_or(0)
}
