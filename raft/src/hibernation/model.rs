//! Three nodes and one group under random events, with messages that are lost or late, and followers
//! that are cut off. Checked: the policy closes nothing that is in use, here or at another node that
//! can be asked, a leader closes only where its followers are level or noted as missing, and whatever
//! was lost, all are level and asleep in the end.

use std::time::Duration;

use proptest::prelude::*;

use super::Awake;
use super::Decision;
use super::Facts;
use super::Role;
use super::Rules;
use super::decide;
use super::pressed_ms;

const RULES: Rules = Rules {
    idle: Duration::from_millis(1_000),
    elective: Duration::from_millis(1_000),
    idle_pressed: Duration::from_millis(250),
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
    Write {
        node: usize,
        heard: [bool; 3],
    },
    /// A client reads what a node has.
    Use {
        node: usize,
    },
    /// Somebody holds the group for a while.
    Hold {
        node: usize,
        ms: u64,
    },
    /// Nothing reaches a follower, or comes from it.
    Cut {
        follower: usize,
    },
    Join,
    /// Time passes; which of the messages between nodes arrive.
    Pass {
        ticks: u64,
        arrives: bool,
    },
    /// The leader dies, and is back at once, asleep.
    Die,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (0..3_usize, any::<[bool; 3]>()).prop_map(|(node, heard)| Event::Write { node, heard }),
        (0..3_usize).prop_map(|node| Event::Use { node }),
        (1..3_usize).prop_map(|follower| Event::Cut { follower }),
        Just(Event::Join),
        (0..3_usize, 0..2_000_u64).prop_map(|(node, ms)| Event::Hold { node, ms }),
        (1..60_u64, any::<bool>()).prop_map(|(ticks, arrives)| Event::Pass { ticks, arrives }),
        Just(Event::Die),
    ]
}

#[derive(Clone, Copy, Default)]
struct Node {
    awake: bool,
    /// When somebody used it here, or elsewhere, as far as it knows.
    used_ms: u64,
    /// When somebody used it here, since it is awake: what was before is forgotten.
    used_here_ms: u64,
    heard_ms: u64,
    held_until_ms: u64,
    last: u64,
}

/// Node 0 leads.
#[derive(Default)]
struct World {
    now_ms: u64,
    nodes: [Node; 3],
    cut: Option<usize>,
    /// The follower that the leader has closed without.
    missing: Option<usize>,
}

impl World {
    fn wake(&mut self, node: usize) {
        let now_ms = self.now_ms;
        let node = &mut self.nodes[node];
        if !node.awake {
            *node = Node {
                awake: true,
                heard_ms: now_ms,
                held_until_ms: node.held_until_ms,
                last: node.last,
                ..Node::default()
            };
        }
    }

    fn is_up(&self, node: usize) -> bool {
        self.cut != Some(node)
    }

    fn read(&mut self, node: usize) {
        self.wake(node);
        let now_ms = self.now_ms;
        let node = &mut self.nodes[node];
        (node.used_ms, node.used_here_ms) = (now_ms, now_ms);
    }

    fn write(&mut self, node: usize, heard: [bool; 3]) {
        self.read(node);
        if !self.is_up(node) {
            return;
        }
        self.read(0);
        self.nodes[0].last += 1;
        for follower in [1, 2] {
            if heard[follower] {
                self.hear(follower);
            }
        }
    }

    /// A follower gets all that the leader has.
    fn hear(&mut self, follower: usize) {
        if !self.is_up(follower) {
            return;
        }
        self.wake(follower);
        let last = self.nodes[0].last;
        let now_ms = self.now_ms;
        let follower = &mut self.nodes[follower];
        follower.heard_ms = now_ms;
        if follower.last < last {
            (follower.last, follower.used_ms) = (last, now_ms);
        }
    }

    /// The link is back: the leader wakes if it knows or finds that the follower has missed anything.
    fn join(&mut self) {
        let Some(follower) = self.cut.take() else {
            return;
        };
        let asked = self.missing == Some(follower) || self.nodes[0].awake;
        self.missing = self.missing.filter(|missing| *missing != follower);
        if asked && self.nodes[follower].last != self.nodes[0].last {
            self.wake(0);
            self.hear(follower);
        }
    }

    fn facts(&self, at: usize, level: bool) -> Facts {
        let node = &self.nodes[at];
        let since = |ms: u64| Duration::from_millis(self.now_ms - ms);
        let silent = since(node.heard_ms);
        Facts {
            idle: since(node.used_ms),
            quiet: node.held_until_ms <= self.now_ms,
            pressed: false,
            role: match at {
                0 => Role::Leader {
                    settled: true,
                    level,
                },
                _ if self.is_up(at) => Role::Follower { silent },
                _ => Role::Leaderless { silent },
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
            let facts = self.facts(at, false);
            match decide(&RULES, &facts) {
                Decision::Stay => {}
                Decision::Ask => {
                    prop_assert_eq!(at, 0);
                    if arrives {
                        self.ask()?;
                    }
                }
                Decision::Close => {
                    prop_assert!(facts.quiet && at != 0);
                    let heard = facts
                        .idle
                        .min(Duration::from_millis(self.now_ms - self.nodes[at].heard_ms));
                    prop_assert!(heard >= RULES.idle_pressed);
                    self.nodes[at].awake = false;
                }
            }
        }
        Ok(())
    }

    /// The leader asks its followers, and closes if they are all level and nobody uses the group.
    fn ask(&mut self) -> Result<(), TestCaseError> {
        let asked: Vec<usize> = [1, 2]
            .into_iter()
            .filter(|node| self.is_up(*node))
            .collect();
        let last = self.nodes[0].last;
        for node in &asked {
            let node = self.nodes[*node];
            if !node.awake || node.last != last {
                return Ok(());
            }
            // A group that sleeps was not used since it was closed.
            self.nodes[0].used_ms = self.nodes[0].used_ms.max(node.used_ms);
        }
        let facts = self.facts(0, true);
        if decide(&RULES, &facts) != Decision::Close {
            return Ok(());
        }
        prop_assert!(facts.quiet);
        for node in asked.iter().chain(&[0]).map(|node| &self.nodes[*node]) {
            prop_assert_eq!(node.last, last);
            let unused = Duration::from_millis(self.now_ms - node.used_here_ms);
            prop_assert!(unused >= RULES.idle, "used {unused:?} ago");
        }
        self.nodes[0].awake = false;
        self.missing = self.cut;
        for follower in asked {
            // The word to rest.
            let rests = self.facts(follower, false).quiet;
            self.nodes[follower].awake &= !rests;
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
                Event::Use { node } => world.read(node),
                Event::Cut { follower } => {
                    world.join();
                    world.cut = Some(follower);
                }
                Event::Join => world.join(),
                Event::Hold { node, ms } => {
                    world.wake(node);
                    world.nodes[node].held_until_ms = world.now_ms + ms;
                }
                Event::Pass { ticks, arrives } => {
                    for _ in 0..ticks {
                        world.tick(arrives)?;
                    }
                }
                // What it remembers dies with it; whoever has sockets asks it how far it is.
                Event::Die => {
                    world.nodes[0].awake = false;
                    world.missing = world.cut;
                    for follower in [1, 2] {
                        if world.is_up(follower) && world.nodes[follower].last != world.nodes[0].last {
                            world.wake(0);
                            world.hear(follower);
                        }
                    }
                }
            }
        }
        // Nothing happens any more, but that the link comes back.
        world.join();
        for _ in 0..(QUIET_MS / TICK_MS) {
            world.tick(true)?;
        }
        prop_assert!(world.nodes.iter().all(|node| !node.awake));
        prop_assert!(world.nodes.iter().all(|node| node.last == world.nodes[0].last));
    }
}

#[test]
fn a_replica_that_knows_no_leader_outwaits_an_election() {
    let decision = |idle_ms, silent_ms| {
        let facts = Facts {
            idle: Duration::from_millis(idle_ms),
            quiet: true,
            pressed: true,
            role: Role::Leaderless {
                silent: Duration::from_millis(silent_ms),
            },
        };
        decide(&RULES, &facts)
    };
    assert_eq!(decision(2_999, 9_999), Decision::Stay);
    // Nobody has used it since it was opened for a vote.
    assert_eq!(decision(9_999, 2_999), Decision::Stay);
    assert_eq!(decision(3_000, 3_000), Decision::Close);
}

/// It would otherwise wait for its idle time, past its election timeout, and wake everybody.
#[test]
fn a_follower_whose_leader_closed_follows_it_soon() {
    let decision = |idle_ms, silent_ms| {
        let facts = Facts {
            idle: Duration::from_millis(idle_ms),
            quiet: true,
            pressed: false,
            role: Role::Follower {
                silent: Duration::from_millis(silent_ms),
            },
        };
        decide(&RULES, &facts)
    };
    assert_eq!(decision(9_999, 299), Decision::Stay);
    assert_eq!(decision(249, 300), Decision::Stay);
    assert_eq!(decision(250, 300), Decision::Close);
}

#[test]
fn under_pressure_what_is_used_all_the_time_stays_awake() {
    let decision = |idle_ms, quiet| {
        let facts = Facts {
            idle: Duration::from_millis(idle_ms),
            quiet,
            pressed: true,
            role: Role::Leader {
                settled: true,
                level: true,
            },
        };
        decide(&RULES, &facts)
    };
    assert_eq!(decision(250, true), Decision::Close);
    assert_eq!(decision(249, true), Decision::Stay);
    assert_eq!(decision(9_999, false), Decision::Stay);
}

#[test]
fn pressure_closes_what_was_not_used_for_the_longest_time() {
    let awake = |own: u64, others: u64| -> Vec<Awake> {
        let group = |used_ms, closes_here| Awake {
            used_ms,
            closes_here,
        };
        let own = (0..own).map(|number| group(1_000 + number, true));
        own.chain((0..others).map(|_| group(1, false))).collect()
    };
    let pressed = |awake: &[Awake]| {
        let before_ms = pressed_ms(awake, 30, 3);
        let own = awake.iter().filter(|group| group.closes_here);
        own.filter(|group| group.used_ms < before_ms).count()
    };
    assert_eq!(pressed(&awake(30, 0)), 0);
    assert_eq!(pressed(&awake(37, 0)), 7);
    assert_eq!(pressed(&awake(20, 20)), 10, "all count");
    assert_eq!(pressed(&awake(20, 1_000)), 10, "others press only so far");
    assert_eq!(pressed(&awake(10, 1_000)), 0);
    assert_eq!(pressed_ms(&awake(37, 0), 30, 3), 1_007, "the oldest");
}
