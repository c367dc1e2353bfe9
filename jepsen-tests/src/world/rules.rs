//! What is wrong with the links between nodes, and how often it showed.
//!
//! Several faults may be on at once: each adds its own rules, and a link suffers the worst of all
//! of them. A link is an ordered pair: what travels from the first node to the second.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::rng::Rng;

/// What travels from the first node to the second.
pub type Link = (u64, u64);

/// What one link suffers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rule {
    /// Nothing gets through. A proxy stalls, as TCP does while its segments are lost.
    pub cut: bool,
    /// A proxy ends connections and refuses new ones instead of stalling. Frames are just lost.
    pub reset: bool,
    pub loss_percent: u8,
    pub delay: Duration,
    /// Added to the delay, between nothing and this.
    pub jitter: Duration,
}

impl Rule {
    pub const CUT: Self = Self {
        cut: true,
        reset: false,
        loss_percent: 0,
        delay: Duration::ZERO,
        jitter: Duration::ZERO,
    };

    fn worst(self, other: Self) -> Self {
        Self {
            cut: self.cut || other.cut,
            reset: self.reset || other.reset,
            loss_percent: self.loss_percent.max(other.loss_percent),
            delay: self.delay.max(other.delay),
            jitter: self.jitter.max(other.jitter),
        }
    }

    /// What happens to the next frame or chunk.
    pub fn fate(self, rng: &mut Rng) -> Fate {
        if self.cut || self.reset {
            return Fate::Cut;
        }
        if rng.below(100) < u64::from(self.loss_percent) {
            return Fate::Lost;
        }
        let jitter_us = u64::try_from(self.jitter.as_micros()).unwrap_or(u64::MAX - 1);
        let late = self.delay + Duration::from_micros(rng.below(jitter_us + 1));
        if late.is_zero() {
            Fate::Passes
        } else {
            Fate::Late(late)
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Passes,
    Cut,
    Lost,
    Late(Duration),
}

/// How many frames (of a switch) or chunks (of a proxy) had which fate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub passed: u64,
    pub cut: u64,
    pub lost: u64,
    pub late: u64,
}

#[derive(Debug, Default)]
struct Counters {
    passed: AtomicU64,
    cut: AtomicU64,
    lost: AtomicU64,
    late: AtomicU64,
}

/// Names a fault's rules until it takes them away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RuleId(u64);

#[derive(Debug, Default)]
struct Active {
    next: u64,
    rules: BTreeMap<RuleId, Vec<(Link, Rule)>>,
}

/// The rules of all links among nodes 1 to `nodes`.
#[derive(Debug)]
pub struct Rules {
    nodes: u64,
    active: Mutex<Active>,
    counters: Vec<Counters>,
    /// Rises with every change, so that what was held back by a rule notices its end.
    version: watch::Sender<u64>,
}

impl Rules {
    pub fn new(nodes: u64) -> Self {
        Self {
            nodes,
            active: Mutex::default(),
            counters: (0..nodes * nodes).map(|_| Counters::default()).collect(),
            version: watch::Sender::new(0),
        }
    }

    pub fn add(&self, rules: Vec<(Link, Rule)>) -> RuleId {
        let id = {
            let mut active = self.active();
            active.next += 1;
            let id = RuleId(active.next);
            active.rules.insert(id, rules);
            id
        };
        self.version.send_modify(|version| *version += 1);
        id
    }

    /// Taking away what is gone already is no error.
    pub fn remove(&self, id: RuleId) {
        self.active().rules.remove(&id);
        self.version.send_modify(|version| *version += 1);
    }

    pub fn clear(&self) {
        self.active().rules.clear();
        self.version.send_modify(|version| *version += 1);
    }

    pub fn of(&self, link: Link) -> Rule {
        let active = self.active();
        active
            .rules
            .values()
            .flatten()
            .filter(|(of, _)| *of == link)
            .fold(Rule::default(), |worst, (_, rule)| worst.worst(*rule))
    }

    /// Tells of every change from now on.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    pub fn count(&self, link: Link, fate: Fate) {
        let Some(counters) = self.counters(link) else {
            return;
        };
        let counter = match fate {
            Fate::Passes => &counters.passed,
            Fate::Cut => &counters.cut,
            Fate::Lost => &counters.lost,
            Fate::Late(_) => &counters.late,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// The sum over these links, since the beginning.
    pub fn counts(&self, links: &[Link]) -> Counts {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        links.iter().filter_map(|link| self.counters(*link)).fold(
            Counts::default(),
            |sum, counters| Counts {
                passed: sum.passed + load(&counters.passed),
                cut: sum.cut + load(&counters.cut),
                lost: sum.lost + load(&counters.lost),
                late: sum.late + load(&counters.late),
            },
        )
    }

    /// Every ordered pair of different nodes.
    pub fn links(&self) -> Vec<Link> {
        let nodes = 1..=self.nodes;
        nodes
            .clone()
            .flat_map(|from| nodes.clone().map(move |to| (from, to)))
            .filter(|(from, to)| from != to)
            .collect()
    }

    fn counters(&self, (from, to): Link) -> Option<&Counters> {
        let known = |node: u64| (1..=self.nodes).contains(&node);
        if !known(from) || !known(to) {
            return None;
        }
        let place = (from - 1) * self.nodes + (to - 1);
        self.counters.get(usize::try_from(place).ok()?)
    }

    /// Each change of the rules is one call, so a panic leaves none half done.
    fn active(&self) -> MutexGuard<'_, Active> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loss(percent: u8) -> Rule {
        Rule {
            loss_percent: percent,
            ..Rule::default()
        }
    }

    #[test]
    fn a_link_suffers_the_worst_of_all_faults_until_each_ends() {
        let rules = Rules::new(3);
        let changes = rules.changes();
        let loss = rules.add(vec![((1, 2), loss(30)), ((2, 1), loss(10))]);
        let cut = rules.add(vec![((1, 2), Rule::CUT)]);
        assert!(rules.of((1, 2)).cut && rules.of((1, 2)).loss_percent == 30);
        assert!(!rules.of((2, 1)).cut);
        rules.remove(loss);
        assert_eq!(rules.of((1, 2)), Rule::CUT);
        rules.remove(cut);
        rules.remove(cut);
        assert_eq!(rules.of((1, 2)), Rule::default());
        assert!(changes.has_changed().unwrap());
        rules.add(vec![((3, 1), Rule::CUT)]);
        rules.clear();
        assert_eq!(rules.of((3, 1)), Rule::default());
    }

    #[test]
    fn fates_follow_the_rule() {
        let mut rng = Rng::new(5);
        assert_eq!(Rule::CUT.fate(&mut rng), Fate::Cut);
        assert_eq!(Rule::default().fate(&mut rng), Fate::Passes);
        let lost = (0..1000)
            .filter(|_| loss(30).fate(&mut rng) == Fate::Lost)
            .count();
        assert!((200..400).contains(&lost), "{lost}");
        let slow = Rule {
            delay: Duration::from_millis(20),
            jitter: Duration::from_millis(5),
            ..Rule::default()
        };
        for _ in 0..100 {
            let Fate::Late(late) = slow.fate(&mut rng) else {
                panic!("a delay that is not");
            };
            assert!((20..=25).contains(&late.as_millis()), "{late:?}");
        }
    }

    #[test]
    fn counts_are_kept_by_link() {
        let rules = Rules::new(2);
        rules.count((1, 2), Fate::Cut);
        rules.count((1, 2), Fate::Late(Duration::ZERO));
        rules.count((2, 1), Fate::Lost);
        rules.count((7, 1), Fate::Lost);
        assert_eq!(rules.links(), [(1, 2), (2, 1)]);
        let one = rules.counts(&[(1, 2)]);
        assert_eq!((one.cut, one.late, one.lost, one.passed), (1, 1, 0, 0));
        assert_eq!(rules.counts(&rules.links()).lost, 1);
    }
}
