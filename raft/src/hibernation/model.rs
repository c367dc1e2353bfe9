//! Three nodes and one group under random events, with messages that are lost or late. Checked: the
//! policy closes nothing that is in use, a leader closes only where its followers are level, and
//! whatever was lost, all sleep in the end.

use std::time::Duration;

use proptest::prelude::*;

use super::Decision;
use super::Facts;
use super::Role;
use super::Rules;
use super::decide;

const RULES: Rules = Rules {
    idle: Duration::from_millis(1_000),
    elective: Duration::from_millis(1_000),
    silence: Duration::from_millis(300),
    leaderless: Duration::from_millis(2_000),
};
const HEARTBEAT_MS: u64 = 200;
const TICK_MS: u64 = 50;
/// Longer than idle, a heartbeat, and a silence.
const QUIET_MS: u64 = 5_000;

#[derive(Clone, Debug)]
enum Event {
    /// A client writes through a node; whether the followers hear of it at once.
    Write { node: usize, heard: [bool; 3] },
    /// Somebody holds the group for a while.
    Hold { node: usize, ms: u64 },
    /// Time passes; which of the messages between nodes arrive.
    Pass { ticks: u64, arrives: bool },
    /// The leader dies, and is back at once, asleep.
    Die,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (0..3_usize, any::<[bool; 3]>()).prop_map(|(node, heard)| Event::Write { node, heard }),
        (0..3_usize, 0..2_000_u64).prop_map(|(node, ms)| Event::Hold { node, ms }),
        (1..60_u64, any::<bool>()).prop_map(|(ticks, arrives)| Event::Pass { ticks, arrives }),
        Just(Event::Die),
    ]
}

#[derive(Clone, Copy, Default)]
struct Node {
    awake: bool,
    used_ms: u64,
    heard_ms: u64,
    held_until_ms: u64,
    last: u64,
    level: Option<u64>,
}

/// Node 0 leads.
#[derive(Default)]
struct World {
    now_ms: u64,
    nodes: [Node; 3],
}

impl World {
    fn wake(&mut self, node: usize) {
        let now_ms = self.now_ms;
        let node = &mut self.nodes[node];
        if !node.awake {
            (node.awake, node.used_ms, node.heard_ms) = (true, now_ms, now_ms);
            node.level = None;
        }
    }

    fn write(&mut self, node: usize, heard: [bool; 3]) {
        self.wake(node);
        self.nodes[node].used_ms = self.now_ms;
        self.wake(0);
        let now_ms = self.now_ms;
        let last = self.nodes[0].last + 1;
        (self.nodes[0].last, self.nodes[0].used_ms) = (last, now_ms);
        for follower in [1, 2] {
            if heard[follower] {
                self.hear(follower);
            }
        }
    }

    /// A follower gets all that the leader has.
    fn hear(&mut self, follower: usize) {
        self.wake(follower);
        let last = self.nodes[0].last;
        let now_ms = self.now_ms;
        let follower = &mut self.nodes[follower];
        follower.heard_ms = now_ms;
        if follower.last < last {
            (follower.last, follower.used_ms) = (last, now_ms);
        }
    }

    fn facts(&self, at: usize) -> Facts {
        let node = &self.nodes[at];
        let since = |ms: u64| Duration::from_millis(self.now_ms - ms);
        Facts {
            idle: since(node.used_ms),
            quiet: node.held_until_ms <= self.now_ms,
            pressed: false,
            role: match at {
                0 => Role::Leader {
                    settled: true,
                    level: node.level == Some(node.last),
                },
                _ => Role::Follower {
                    silent: since(node.heard_ms),
                },
            },
        }
    }

    fn tick(&mut self, arrives: bool) -> Result<(), TestCaseError> {
        self.now_ms += TICK_MS;
        if self.nodes[0].awake && self.now_ms.is_multiple_of(HEARTBEAT_MS) && arrives {
            self.hear(1);
            self.hear(2);
        }
        for at in 0..3 {
            if !self.nodes[at].awake {
                continue;
            }
            let facts = self.facts(at);
            match decide(&RULES, &facts) {
                Decision::Stay => {}
                Decision::Ask => {
                    let last = self.nodes[0].last;
                    let level = |node: &Node| node.awake && node.last == last;
                    if arrives && self.nodes[1..].iter().all(level) {
                        self.nodes[0].level = Some(last);
                    }
                }
                Decision::Close => {
                    prop_assert!(facts.quiet && facts.idle >= RULES.idle);
                    self.nodes[at].awake = false;
                    if at == 0 {
                        let last = self.nodes[0].last;
                        prop_assert!(self.nodes.iter().all(|node| node.last == last));
                        for follower in [1, 2] {
                            // The word to rest.
                            let rests = arrives && self.facts(follower).quiet;
                            self.nodes[follower].awake &= !rests;
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

proptest! {
    #[test]
    fn what_is_in_use_stays_awake_and_all_else_sleeps(
        events in proptest::collection::vec(event(), 1..40),
    ) {
        let mut world = World::default();
        for event in events {
            match event {
                Event::Write { node, heard } => world.write(node, heard),
                Event::Hold { node, ms } => {
                    world.wake(node);
                    world.nodes[node].held_until_ms = world.now_ms + ms;
                }
                Event::Pass { ticks, arrives } => {
                    for _ in 0..ticks {
                        world.tick(arrives)?;
                    }
                }
                Event::Die => world.nodes[0].awake = false,
            }
        }
        // A write after a death finds the leader again; then nothing happens any more.
        world.write(0, [true; 3]);
        for _ in 0..(QUIET_MS / TICK_MS) {
            world.tick(true)?;
        }
        prop_assert!(world.nodes.iter().all(|node| !node.awake));
        prop_assert!(world.nodes.iter().all(|node| node.last == world.nodes[0].last));
    }
}

#[test]
fn a_replica_that_knows_no_leader_outwaits_an_election() {
    let facts = |idle_ms| Facts {
        idle: Duration::from_millis(idle_ms),
        quiet: true,
        pressed: true,
        role: Role::Leaderless,
    };
    assert_eq!(decide(&RULES, &facts(2_999)), Decision::Stay);
    assert_eq!(decide(&RULES, &facts(3_000)), Decision::Close);
}

#[test]
fn under_pressure_what_is_quiet_closes_at_once() {
    let role = Role::Leader {
        settled: true,
        level: true,
    };
    let facts = |quiet| Facts {
        idle: Duration::ZERO,
        quiet,
        pressed: true,
        role,
    };
    assert_eq!(decide(&RULES, &facts(true)), Decision::Close);
    assert_eq!(decide(&RULES, &facts(false)), Decision::Stay);
}
