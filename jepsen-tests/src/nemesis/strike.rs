//! One step while it is carried out: what it chose, what it has done, and how to undo that.
//!
//! Whatever a strike does through these methods is undone at its end, however it ended.

use std::time::Duration;

use futures_util::future::BoxFuture;

use crate::history::clock::RunClock;
use crate::history::{Bite, Nanos};
use crate::rng::Rng;
use crate::wait::{TimedOut, moment};
use crate::world::rules::{Link, Rule, RuleId};
use crate::world::shim::Control;
use crate::world::{LOOK_MAX, World, WorldError};

use super::{FaultKind, Step};

/// Asks who leads what the run is about.
pub type Leader<'a> = dyn Fn() -> BoxFuture<'a, Option<u64>> + Sync + 'a;

/// Has clients rest, or work again.
pub type Rest<'a> = dyn Fn(bool) + Sync + 'a;

/// What a strike came to.
#[derive(Debug)]
pub struct Struck {
    pub detail: String,
    pub nodes: Vec<u64>,
    pub bite: Bite,
}

/// Why a strike could not be carried out.
#[derive(Debug)]
pub struct StrikeError(pub String);

impl From<WorldError> for StrikeError {
    fn from(error: WorldError) -> Self {
        Self(error.to_string())
    }
}

impl From<crate::cluster::ClusterError> for StrikeError {
    fn from(error: crate::cluster::ClusterError) -> Self {
        Self(error.to_string())
    }
}

impl From<std::io::Error> for StrikeError {
    fn from(error: std::io::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<TimedOut> for StrikeError {
    fn from(error: TimedOut) -> Self {
        Self(error.to_string())
    }
}

pub struct Strike<'a> {
    pub world: &'a World,
    pub step: Step,
    pub rng: Rng,
    clock: &'a RunClock,
    leader: &'a Leader<'a>,
    rest: &'a Rest<'a>,
    began: Nanos,
    /// What is on, to be undone.
    down: Vec<u64>,
    still: Vec<u64>,
    rules: Vec<RuleId>,
    clocks: Vec<u64>,
    syncs: Vec<u64>,
    disks: Vec<u64>,
    resting: bool,
}

impl<'a> Strike<'a> {
    pub fn new(
        world: &'a World,
        step: Step,
        clock: &'a RunClock,
        leader: &'a Leader<'a>,
        rest: &'a Rest<'a>,
    ) -> Self {
        Self {
            world,
            step,
            rng: Rng::new(step.seed),
            clock,
            leader,
            rest,
            began: clock.now(),
            down: Vec::new(),
            still: Vec::new(),
            rules: Vec::new(),
            clocks: Vec::new(),
            syncs: Vec::new(),
            disks: Vec::new(),
            resting: false,
        }
    }

    /// The fault takes effect now, not when the step was begun.
    pub fn begin(&mut self) {
        self.began = self.clock.now();
    }

    pub fn began(&self) -> Nanos {
        self.began
    }

    /// Lets the fault last until `length` after its beginning.
    pub async fn last(&self, length: Duration) {
        let passed = Duration::from_nanos(self.clock.now().saturating_sub(self.began));
        moment(length.saturating_sub(passed)).await;
    }

    pub fn ids(&self) -> Vec<u64> {
        self.world.cluster().ids()
    }

    /// The least number of nodes that is more than half.
    pub fn majority(&self) -> usize {
        self.ids().len() / 2 + 1
    }

    /// All nodes in a random order.
    pub fn shuffled(&mut self) -> Vec<u64> {
        let mut left = self.ids();
        let mut shuffled = Vec::with_capacity(left.len());
        while !left.is_empty() {
            let at = usize::try_from(self.rng.below(left.len() as u64)).expect("below a length");
            shuffled.push(left.swap_remove(at));
        }
        shuffled
    }

    pub async fn leader(&self) -> Result<u64, StrikeError> {
        let given = (self.leader)().await;
        let leader = match given {
            Some(leader) => Some(leader),
            None => self.world.leader(None).await,
        };
        leader.ok_or_else(|| StrikeError("nobody knew a leader to strike".to_owned()))
    }

    /// The nodes that the kind means.
    pub async fn victims(&mut self) -> Result<Vec<u64>, StrikeError> {
        use FaultKind as F;
        let shuffled = self.shuffled();
        let count = match self.step.kind {
            F::KillLeader | F::PauseLeader | F::PartitionLeader => {
                return Ok(vec![self.leader().await?]);
            }
            F::KillMajority | F::PauseMajority | F::PowerLossMajority => self.majority(),
            F::KillAll | F::PowerLossAll => shuffled.len(),
            _ => 1,
        };
        Ok(shuffled.into_iter().take(count).collect())
    }

    /// SIGKILL; down until `up`.
    pub fn take_down(&mut self, node: u64) -> Result<(), StrikeError> {
        self.down.push(node);
        Ok(self.world.hold_down(node)?)
    }

    /// The node is about to end by itself; it stays down until `up`.
    pub fn expect_end(&mut self, node: u64) {
        self.down.push(node);
        self.world.expect_end(node);
    }

    pub fn up(&mut self, node: u64) -> Result<(), StrikeError> {
        if let Some(at) = self.down.iter().position(|down| *down == node) {
            self.down.swap_remove(at);
            self.world.let_up(node)?;
        }
        Ok(())
    }

    /// SIGSTOP, until `go`.
    pub fn freeze(&mut self, node: u64) -> Result<(), StrikeError> {
        self.world.hold_still(node)?;
        self.still.push(node);
        Ok(())
    }

    pub fn go(&mut self, node: u64) -> Result<(), StrikeError> {
        if let Some(at) = self.still.iter().position(|still| *still == node) {
            self.still.swap_remove(at);
            self.world.let_go(node)?;
        }
        Ok(())
    }

    /// Clients rest until `work`.
    pub fn rest(&mut self) {
        self.resting = true;
        (self.rest)(true);
    }

    pub fn work(&mut self) {
        if std::mem::take(&mut self.resting) {
            (self.rest)(false);
        }
    }

    pub fn break_links(&mut self, rules: Vec<(Link, Rule)>) {
        self.rules.push(self.world.rules().add(rules));
    }

    pub fn mend_links(&mut self) {
        for rule in self.rules.drain(..) {
            self.world.rules().remove(rule);
        }
    }

    /// For this node's wall clock, which is set right at the end.
    pub fn clock_of(&mut self, node: u64) -> Result<&'a Control, StrikeError> {
        self.clocks.push(node);
        self.control(node)
    }

    /// For this node's syncs, which are as usual at the end.
    pub fn syncs_of(&mut self, node: u64) -> Result<&'a Control, StrikeError> {
        self.syncs.push(node);
        self.control(node)
    }

    /// This node's disk, which is mounted and emptied at the end.
    pub fn disk(&mut self, node: u64) -> Result<&'a crate::world::disk::Disk, StrikeError> {
        self.disks.push(node);
        let disk = self.world.disk(node);
        disk.ok_or_else(|| StrikeError("the node has no disk of its own".to_owned()))
    }

    /// Whether the node's API answers anything, within a moment.
    pub async fn answers(&self, node: u64) -> bool {
        let api = self.world.cluster().api(node);
        let look = tokio::time::timeout(LOOK_MAX, Box::pin(api.get("/livez"))).await;
        matches!(look, Ok(Ok(_)))
    }

    /// The nodes that the strike has something on, for the record of one that failed.
    pub fn touched(&self) -> Vec<u64> {
        let lists = [
            &self.down,
            &self.still,
            &self.clocks,
            &self.syncs,
            &self.disks,
        ];
        let mut nodes: Vec<u64> = lists.into_iter().flatten().copied().collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }

    /// Undoes what is still on. Goes on after an error, and gives back the first.
    pub fn undo_rest(&mut self) -> Result<(), String> {
        self.mend_links();
        self.work();
        let mut done = Ok(());
        let mut note = |result: Result<(), String>| {
            if done.is_ok() {
                done = result;
            }
        };
        if let Some(shim) = self.world.shim() {
            for node in &self.clocks {
                note(
                    shim.control(*node)
                        .reset_clock()
                        .map_err(|error| error.to_string()),
                );
            }
            for node in &self.syncs {
                note(
                    shim.control(*node)
                        .reset_disk()
                        .map_err(|error| error.to_string()),
                );
            }
        }
        for node in self.disks.clone() {
            if let Some(disk) = self.world.disk(node) {
                let revived = self
                    .world
                    .revive_disk(node, disk)
                    .and_then(|()| disk.empty());
                note(revived.map_err(|error| error.to_string()));
            }
        }
        for node in self.still.clone() {
            note(self.go(node).map_err(|StrikeError(why)| why));
        }
        for node in self.down.clone() {
            note(self.up(node).map_err(|StrikeError(why)| why));
        }
        done
    }

    fn control(&self, node: u64) -> Result<&'a Control, StrikeError> {
        let shim = self.world.shim();
        shim.map(|shim| shim.control(node))
            .ok_or_else(|| StrikeError("the library is not preloaded".to_owned()))
    }
}

/// A fault that was seen to take effect, or was not.
pub fn judged(bit: bool, evidence: String) -> Bite {
    if bit {
        Bite::Yes { evidence }
    } else {
        Bite::No { evidence }
    }
}

/// `1`, `1 and 2`, `1, 2 and 3`.
pub fn listed(nodes: &[u64]) -> String {
    let texts: Vec<String> = nodes.iter().map(u64::to_string).collect();
    match texts.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        _ => texts.join(""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_read_as_a_person_says_them() {
        assert_eq!(listed(&[3]), "3");
        assert_eq!(listed(&[3, 1]), "3 and 1");
        assert_eq!(listed(&[1, 2, 3]), "1, 2 and 3");
    }
}
