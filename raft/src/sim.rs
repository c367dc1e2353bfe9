//! What a simulation of nodes needs of this crate: the wall clock of each node, a look inside, and the
//! one setting that the product never has.
//!
//! Everything here belongs to the thread that simulates, as in `accord_storage::sim`.

use std::cell::Cell;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use accord_storage::Entry;
use accord_storage::LogId;
use tokio::runtime::Handle;
use tokio::runtime::Id;

use crate::Node;
use crate::group::Replica;
use crate::machine;
use crate::transport::NodeId;

/// Where every simulated wall clock begins: 2026-01-01.
const EPOCH_MS: u64 = 1_767_225_600_000;

#[derive(Default)]
struct Clocks {
    /// Which node runs on a runtime; a restarted node has a new one.
    nodes: BTreeMap<String, NodeId>,
    /// How far a node's wall clock is ahead of the simulation's time, in milliseconds.
    ahead_ms: BTreeMap<NodeId, i64>,
}

thread_local! {
    static CLOCKS: RefCell<Clocks> = RefCell::default();
    static REPORTS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    static LEADER_RESTORE: Cell<bool> = const { Cell::new(false) };
}

/// Begins a simulation on this thread, `accord_storage::sim::begin` included.
pub fn begin(seed: u64) {
    accord_storage::sim::begin(seed);
    CLOCKS.set(Clocks::default());
    REPORTS.take();
    LEADER_RESTORE.set(false);
}

/// Says that the runtime which this is called on is `node`'s.
pub fn runs_here(node: NodeId) {
    let runtime = name(Handle::current().id());
    CLOCKS.with_borrow_mut(|clocks| {
        clocks.nodes.retain(|_, other| *other != node);
        clocks.nodes.insert(runtime, node)
    });
}

/// Sets how far `node`'s wall clock is ahead of the simulation's time, in milliseconds.
pub fn set_clock(node: NodeId, ahead_ms: i64) {
    CLOCKS.with_borrow_mut(|clocks| clocks.ahead_ms.insert(node, ahead_ms));
}

/// A restarted leader goes on as leader of its term, which the product never allows.
pub fn restore_leaders() {
    LEADER_RESTORE.set(true);
}

/// What went wrong inside the nodes since the last call: a wish to end the process.
pub fn take_reports() -> Vec<String> {
    REPORTS.take()
}

pub(crate) fn report(what: String) {
    REPORTS.with_borrow_mut(|reports| reports.push(what));
}

pub(crate) fn restores_leaders() -> bool {
    LEADER_RESTORE.get()
}

/// Unix time in milliseconds, as no clock has gone wrong.
pub fn true_ms() -> u64 {
    let elapsed = turmoil::sim_elapsed().unwrap_or_default();
    EPOCH_MS.saturating_add(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX))
}

/// Unix time in milliseconds by the clock of the node on whose runtime this is called.
pub(crate) fn wall_ms() -> u64 {
    let runtime = Handle::try_current().map(|handle| name(handle.id()));
    let ahead_ms = CLOCKS.with_borrow(|clocks| {
        let node = runtime.ok().and_then(|id| clocks.nodes.get(&id))?;
        clocks.ahead_ms.get(node).copied()
    });
    true_ms().saturating_add_signed(ahead_ms.unwrap_or(0))
}

/// Runtimes have no order, so they go by name.
fn name(runtime: Id) -> String {
    runtime.to_string()
}

/// One open replica of a node, as a checker sees it between two steps of the simulation.
pub struct Probe {
    group: u64,
    node: NodeId,
    replica: Arc<Replica>,
}

impl Node {
    /// All replicas that are open on this node.
    pub fn probe(&self) -> Vec<Probe> {
        let groups = self.shared().groups().into_iter();
        let probe = |group: Arc<crate::group::Group>| {
            Some(Probe {
                group: group.id.0,
                node: self.id(),
                replica: group.open_replica()?,
            })
        };
        groups.filter_map(probe).collect()
    }

    /// Forgets everything, as a process that ended has: the parts of a node refer to each other, and a
    /// simulation ends many.
    pub fn abandon(&self) {
        drop(self.shared().take_groups());
    }
}

impl Probe {
    pub fn group(&self) -> u64 {
        self.group
    }

    /// The term that this replica leads, if it does.
    pub fn leads(&self) -> Option<u64> {
        let view = self.replica.consensus.leader();
        (view.leader == Some(self.node)).then_some(view.term)
    }

    /// Entries below this index are committed as far as this replica knows, and their outcomes told.
    pub fn computed_next(&self) -> u64 {
        self.replica
            .consensus
            .computed_next()
            .load(Ordering::Acquire)
    }

    /// How far its rows can be read.
    pub fn applied(&self) -> Option<LogId> {
        self.replica.consensus.group().applied()
    }

    /// The entry at `index`, purged or not.
    ///
    /// # Errors
    /// Why it could not be read.
    pub fn entry(&self, index: u64) -> Result<Option<Entry>, String> {
        let group = self.replica.consensus.group();
        group.history(index).map_err(|error| error.to_string())
    }

    /// A hash of its rows as of [`Probe::applied`].
    ///
    /// # Errors
    /// Why they could not be read.
    pub fn digest(&self) -> Result<[u8; 32], String> {
        machine::digest(&self.replica.rows).map_err(|error| error.to_string())
    }

    /// Newest seq that was delivered here.
    pub fn head(&self) -> u64 {
        self.replica.tap.head()
    }

    pub fn voters(&self) -> Vec<NodeId> {
        self.replica.consensus.voters()
    }
}
