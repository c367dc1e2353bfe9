//! What all clients of a run share: where the nodes are, the channels, the clock and the record.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::Phase;
use crate::client::wire::ChannelRef;
use crate::history::{ChannelIx, Nanos, Recorder, RunClock};
use crate::rng::Rng;

/// How long clients prefer other nodes after one did not answer in time. Without it all of them
/// would soon wait for a paused node at once.
const SHUNNED: Duration = Duration::from_secs(3);
/// One pick in this many looks at no such preference, so that every node is asked at all times.
const STUBBORN_EVERY: u64 = 8;
/// Only one pick of a channel in this many considers the quiet one at all.
const QUIET_EVERY: u64 = 4;
/// Broken promises that are kept in words; all are counted.
const ODDITIES_MAX: usize = 20;

/// One node, as clients reach it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeAddress {
    pub id: u64,
    pub api: SocketAddr,
}

pub struct Context {
    pub recorder: Recorder,
    pub clock: RunClock,
    pub nodes: Vec<NodeAddress>,
    pub channels: Vec<ChannelRef>,
    pub phase: watch::Receiver<Phase>,
    /// How many commands the clients of that workload make together.
    pub commands: u64,
    /// Until when each node is avoided, in the order of `nodes`.
    shunned: Vec<AtomicU64>,
    /// The last seq that each subscriber got.
    reached: Mutex<BTreeMap<u32, (ChannelIx, u64)>>,
    oddities: Mutex<Oddities>,
}

/// Answers that break the contract by themselves, whatever the rest of the history says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Oddities {
    pub count: u64,
    /// The first of them.
    pub first: VecDeque<String>,
}

impl Context {
    pub fn new(
        recorder: Recorder,
        nodes: Vec<NodeAddress>,
        channels: Vec<ChannelRef>,
        phase: watch::Receiver<Phase>,
    ) -> Self {
        Self {
            shunned: nodes.iter().map(|_| AtomicU64::new(0)).collect(),
            clock: *recorder.clock(),
            recorder,
            nodes,
            channels,
            phase,
            commands: 0,
            reached: Mutex::new(BTreeMap::new()),
            oddities: Mutex::new(Oddities::default()),
        }
    }

    /// Notes how far a subscriber got.
    pub fn reached(&self, subscriber: u32, channel: ChannelIx, seq: u64) {
        let mut reached = self.reached.lock().unwrap_or_else(PoisonError::into_inner);
        reached.insert(subscriber, (channel, seq));
    }

    /// How far each subscriber got that got anything, and of which channel.
    pub fn subscribers_reached(&self) -> BTreeMap<u32, (ChannelIx, u64)> {
        let reached = self.reached.lock().unwrap_or_else(PoisonError::into_inner);
        reached.clone()
    }

    pub fn channel_ixs(&self) -> impl Iterator<Item = ChannelIx> + Clone + use<> {
        let count = u32::try_from(self.channels.len()).unwrap_or(u32::MAX);
        (0..count).map(ChannelIx)
    }

    /// Any channel, the quiet one seldom.
    pub fn pick_channel(&self, rng: &mut Rng) -> ChannelIx {
        let count = self.channels.len().max(1) as u64;
        let quiet = rng.below(QUIET_EVERY) == 0;
        let busy = if quiet { count } else { count.max(2) - 1 };
        ChannelIx(u32::try_from(rng.below(busy)).unwrap_or(0))
    }

    /// The last channel, to which few others write: a client that posts only if the head is still
    /// what it read would hardly ever succeed elsewhere.
    pub fn quiet_channel(&self) -> ChannelIx {
        ChannelIx(u32::try_from(self.channels.len().max(1) - 1).unwrap_or(0))
    }

    /// The ids that URLs need.
    pub fn channel(&self, ix: ChannelIx) -> &ChannelRef {
        &self.channels[ix.0 as usize]
    }

    /// Any node, rather one that answers.
    pub fn pick_node(&self, rng: &mut Rng) -> NodeAddress {
        self.pick_among(rng, |_| true)
    }

    /// Any node but this one, if there is another.
    pub fn pick_other(&self, rng: &mut Rng, not: u64) -> NodeAddress {
        self.pick_among(rng, |node| node.id != not)
    }

    fn pick_among(&self, rng: &mut Rng, wanted: impl Fn(&NodeAddress) -> bool) -> NodeAddress {
        let stubborn = rng.below(STUBBORN_EVERY) == 0;
        let draw = rng.next_u64();
        let now = self.clock.now();
        let answering = |place: usize| self.shunned[place].load(Ordering::Relaxed) <= now;
        let fitting = |strict: bool| -> Vec<NodeAddress> {
            let places = self.nodes.iter().enumerate();
            places
                .filter(|(place, node)| wanted(node) && (!strict || answering(*place)))
                .map(|(_, node)| *node)
                .collect()
        };
        let mut candidates = fitting(!stubborn);
        if candidates.is_empty() {
            candidates = fitting(false);
        }
        if candidates.is_empty() {
            candidates.clone_from(&self.nodes);
        }
        candidates[(draw % candidates.len() as u64) as usize]
    }

    /// Notes that a node did not answer in time.
    pub fn shun(&self, node: u64) {
        let until: Nanos = self.clock.now() + SHUNNED.as_nanos() as Nanos;
        if let Some(place) = self.nodes.iter().position(|other| other.id == node) {
            self.shunned[place].store(until, Ordering::Relaxed);
        }
    }

    /// Notes an answer that breaks the contract; the run cannot pass then.
    pub fn odd(&self, what: String) {
        let mut oddities = self.oddities.lock().unwrap_or_else(PoisonError::into_inner);
        oddities.count += 1;
        if oddities.first.len() < ODDITIES_MAX {
            oddities.first.push_back(what);
        }
    }

    pub fn oddities(&self) -> Oddities {
        let oddities = self.oddities.lock().unwrap_or_else(PoisonError::into_inner);
        oddities.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context() -> Context {
        let nodes = (1..=3)
            .map(|id| NodeAddress {
                id,
                api: SocketAddr::from(([127, 0, 0, 1], 1)),
            })
            .collect();
        let (_, phase) = watch::channel(Phase::Running);
        Context::new(Recorder::new(RunClock::start()), nodes, Vec::new(), phase)
    }

    #[test]
    fn a_silent_node_is_mostly_avoided_and_never_quite() {
        let context = context();
        context.shun(2);
        let mut rng = Rng::new(1);
        let asked = (0..3_000)
            .filter(|_| context.pick_node(&mut rng).id == 2)
            .count();
        assert!((30..300).contains(&asked), "{asked}");
    }

    #[test]
    fn when_all_are_silent_all_are_asked() {
        let context = context();
        for node in 1..=3 {
            context.shun(node);
        }
        let mut rng = Rng::new(1);
        let mut seen: Vec<u64> = (0..100)
            .map(|_| context.pick_other(&mut rng, 1).id)
            .collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen, [2, 3]);
    }

    #[test]
    fn the_quiet_channel_is_picked_seldom_and_every_channel_sometimes() {
        let channel = |number: u32| ChannelRef {
            server: "s".to_owned(),
            channel: number.to_string(),
        };
        let mut context = context();
        let mut rng = Rng::new(2);
        for count in [1, 2, 5] {
            context.channels = (0..count).map(channel).collect();
            let mut picks = vec![0; count as usize];
            for _ in 0..1_000 {
                picks[context.pick_channel(&mut rng).0 as usize] += 1;
            }
            assert!(picks.iter().all(|picked| *picked > 0), "{picks:?}");
            let quiet = picks[context.quiet_channel().0 as usize];
            assert!(count == 1 || quiet < 300, "{picks:?}");
        }
    }

    #[test]
    fn oddities_are_counted_beyond_those_kept() {
        let context = context();
        for number in 0..50 {
            context.odd(number.to_string());
        }
        let oddities = context.oddities();
        assert_eq!((oddities.count, oddities.first.len()), (50, ODDITIES_MAX));
    }
}
