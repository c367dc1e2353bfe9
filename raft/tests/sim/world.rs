//! A cluster in one thread: the product's own nodes on simulated disks, time and network.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::SystemTime;

use accord_raft::Channel;
use accord_raft::Delivery;
use accord_raft::Executor;
use accord_raft::Hibernation;
use accord_raft::Member;
use accord_raft::Node;
use accord_raft::NodeId;
use accord_raft::NodeOptions;
use accord_raft::SnapshotPolicy;
use accord_raft::Timing;
use accord_raft::machine::Committed;
use accord_storage::GroupId;
use accord_storage::LogId;
use accord_storage::sim::Disk;
use accord_storage::sim::Loss;
use accord_storage::sim::mount;
use bytes::Bytes;
use tokio::sync::Notify;
use uuid::Uuid;

use crate::agents;
use crate::agents::Agent;
use crate::check::Checker;
use crate::check::Told;
use crate::clients;

const PORT: u16 = 7_000;
/// What one step of the simulation passes.
const STEP: Duration = Duration::from_millis(1);
/// Longer than any run.
const FOR_EVER: Duration = Duration::from_secs(24 * 3_600);
/// Segments that a simulated socket holds.
const SOCKET_SEGMENTS: usize = 1_024;
const CACHE_BYTES: usize = 1 << 20;
/// A multiple of the number of lists in which a tokio runtime keeps its tasks.
const TASK_LISTS: u64 = 64;

/// Tasks are numbered across all runtimes of the process, and the order in which a runtime drops them
/// follows their numbers. So one world lives at a time, and each begins at the same remainder.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// How a cluster is made.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub seed: u64,
    pub nodes: u64,
    pub replication: usize,
    pub channels: usize,
    pub clients_per_node: u64,
    pub latency_ms_max: u64,
    pub election_timeout_ms: u64,
    pub heartbeat_ms: u64,
    pub snapshot_after_entries: u64,
    pub idle_ms: u64,
    /// Longest pause between two requests of one client.
    pub think_ms_max: u64,
}

impl Shape {
    /// Whether groups fall asleep between two requests.
    pub fn dozes(&self) -> bool {
        self.idle_ms < self.think_ms_max / 2
    }
}

/// What hosts, clients and the test share.
pub struct Common {
    pub shape: Shape,
    pub checker: RefCell<Checker>,
    pub nodes: RefCell<BTreeMap<NodeId, Node>>,
    pub channels: RefCell<Vec<Arc<Channel>>>,
    /// Nodes whose clients do nothing new.
    quiet: RefCell<BTreeSet<NodeId>>,
    /// Nodes where somebody reads the channels all the time, as far as the node has them.
    watched: RefCell<BTreeSet<NodeId>>,
    /// Replicas that nodes opened and closed before they were restarted.
    before: RefCell<Naps>,
    told: Arc<Mutex<Vec<(NodeId, Uuid, Heard)>>>,
    followed: Arc<Mutex<Vec<Uuid>>>,
    leave: RefCell<BTreeMap<NodeId, Rc<Notify>>>,
}

/// How often replicas were opened, and closed because nobody used them.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Naps {
    pub wakes: u64,
    pub sleeps: u64,
}

impl Naps {
    fn of(node: &Node) -> Naps {
        let metrics = node.metrics().values;
        let count = |wanted| {
            let mut found = metrics.iter().filter(|(name, ..)| *name == wanted);
            found.next().map_or(0.0, |(_, _, _, value)| *value)
        };
        Naps {
            wakes: whole(count("groups_woken_total")),
            sleeps: whole(count("groups_slept_total")),
        }
    }

    pub fn and(self, other: Naps) -> Naps {
        Naps {
            wakes: self.wakes + other.wakes,
            sleeps: self.sleeps + other.sleeps,
        }
    }
}

/// A counter, which metrics hold as a float.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a counter is whole, positive, and small here"
)]
fn whole(count: f64) -> u64 {
    count as u64
}

enum Heard {
    Committed(Arc<Committed>),
    Skipped(u64),
}

impl Common {
    pub fn group_of(&self, channel: &Uuid) -> Option<u64> {
        let channels = self.channels.borrow();
        let found = channels
            .iter()
            .find(|known| known.id == channel.into_bytes());
        found.map(|channel| channel.group)
    }

    /// Whether the clients of `node` are to do nothing new.
    pub fn is_quiet(&self, node: NodeId) -> bool {
        self.quiet.borrow().contains(&node)
    }

    /// Whether somebody reads the channels through `node` all the time.
    pub fn is_watched(&self, node: NodeId) -> bool {
        self.watched.borrow().contains(&node)
    }

    /// A node is about to forget how often its replicas were opened and closed.
    fn keep_naps(&self, node: &Node) {
        let naps = Naps::of(node);
        let mut before = self.before.borrow_mut();
        *before = before.and(naps);
    }

    /// From now on `channel` is written to and checked.
    pub fn add_channel(&self, channel: Channel) {
        let mut followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        followed.push(Uuid::from_bytes(channel.id));
        drop(followed);
        self.checker
            .borrow_mut()
            .placed(channel.group, &channel.replicas);
        self.channels.borrow_mut().push(Arc::new(channel));
    }
}

/// Puts what a node tells its sockets aside until the step has ended.
struct Ear {
    node: NodeId,
    told: Arc<Mutex<Vec<(NodeId, Uuid, Heard)>>>,
    followed: Arc<Mutex<Vec<Uuid>>>,
}

impl Ear {
    fn hear(&self, channel: Uuid, heard: Heard) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.push((self.node, channel, heard));
    }
}

impl Delivery for Ear {
    fn committed(&self, channel: Uuid, batch: &Arc<Committed>) {
        self.hear(channel, Heard::Committed(Arc::clone(batch)));
    }

    fn skipped(&self, channel: Uuid, head: u64) {
        self.hear(channel, Heard::Skipped(head));
    }

    fn ephemeral(&self, _: Uuid, _: &Bytes) {}

    fn followed(&self) -> Vec<Uuid> {
        let followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        followed.clone()
    }
}

pub struct World {
    pub sim: turmoil::Sim<'static>,
    pub common: Rc<Common>,
    pub disks: BTreeMap<NodeId, Disk>,
    running: BTreeMap<NodeId, bool>,
    now_ms: u64,
    /// Dropped last.
    _alone: MutexGuard<'static, ()>,
}

pub fn name(node: NodeId) -> String {
    format!("n{node}")
}

impl World {
    pub fn new(shape: Shape) -> Self {
        // A world that failed has left nothing behind that matters to the next.
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        align_task_numbers();
        accord_raft::sim::begin(shape.seed);
        let ids: Vec<NodeId> = (1..=shape.nodes).collect();
        let common = Rc::new(Common {
            shape,
            checker: RefCell::new(Checker::new(&ids)),
            nodes: RefCell::default(),
            channels: RefCell::default(),
            quiet: RefCell::default(),
            watched: RefCell::default(),
            before: RefCell::default(),
            told: Arc::default(),
            followed: Arc::default(),
            leave: RefCell::default(),
        });
        let mut sim = turmoil::Builder::new()
            .rng_seed(shape.seed)
            .epoch(SystemTime::UNIX_EPOCH)
            .tick_duration(STEP)
            .simulation_duration(FOR_EVER)
            .min_message_latency(Duration::ZERO)
            .max_message_latency(Duration::from_millis(shape.latency_ms_max))
            .tcp_capacity(SOCKET_SEGMENTS)
            .enable_random_order()
            .build();
        let mut disks = BTreeMap::new();
        for node in ids.iter().copied() {
            let disk = Disk::default();
            mount(directory(node), &disk);
            disks.insert(node, disk);
            let common = Rc::clone(&common);
            sim.host(name(node), move || host(Rc::clone(&common), node));
        }
        World {
            sim,
            common,
            disks,
            running: ids.iter().map(|node| (*node, true)).collect(),
            now_ms: 0,
            _alone: alone,
        }
    }

    pub fn now_ms(&self) -> u64 {
        self.now_ms
    }

    pub fn ids(&self) -> Vec<NodeId> {
        self.disks.keys().copied().collect()
    }

    pub fn is_running(&self, node: NodeId) -> bool {
        self.running.get(&node).copied().unwrap_or(false)
    }

    /// Passes one step of time, and checks everything.
    ///
    /// # Errors
    /// The first violation.
    pub fn step(&mut self) -> Result<(), String> {
        self.common.checker.borrow_mut().trace.at(self.now_ms);
        if let Err(error) = self.sim.step() {
            return Err(format!("a node's software ended: {error}"));
        }
        self.now_ms += 1;
        let mut checker = self.common.checker.borrow_mut();
        checker.trace.at(self.now_ms);
        let told = std::mem::take(
            &mut *self
                .common
                .told
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
        for (node, channel, heard) in told {
            let Some(group) = self.common.group_of(&channel) else {
                continue;
            };
            checker.told(
                node,
                match heard {
                    Heard::Committed(batch) => Told::Committed { group, batch },
                    Heard::Skipped(head) => Told::Skipped { group, head },
                },
            );
        }
        checker.step(&self.common.nodes.borrow(), &self.disks);
        for report in accord_raft::sim::take_reports() {
            checker.violation(report);
        }
        match checker.violations().first() {
            None => Ok(()),
            Some(_) => Err(checker.violations().join("\n")),
        }
    }

    /// Steps until `done`.
    ///
    /// # Errors
    /// The first violation, or that it took longer than `ms_max`.
    pub fn until(
        &mut self,
        what: &str,
        ms_max: u64,
        mut done: impl FnMut(&World) -> bool,
    ) -> Result<(), String> {
        let end = self.now_ms + ms_max;
        while !done(self) {
            if self.now_ms >= end {
                let missing = self.unevenness().unwrap_or_default();
                return Err(format!("after {ms_max} ms still not: {what}; {missing}"));
            }
            self.step()?;
        }
        Ok(())
    }

    /// Ends a node in the middle of whatever it does.
    pub fn crash(&mut self, node: NodeId, loss: Loss) {
        if !self.is_running(node) {
            return;
        }
        let handle = self.common.nodes.borrow_mut().remove(&node);
        self.sim.crash(name(node));
        if let Some(handle) = handle {
            self.common.keep_naps(&handle);
            handle.abandon();
        }
        let lost = self.disks.get(&node).map_or(0, |disk| disk.crash(loss));
        self.running.insert(node, false);
        let mut checker = self.common.checker.borrow_mut();
        // What it said before is heard first.
        checker
            .trace
            .note(format_args!("crash {node} {loss:?} {lost}"));
        checker.crashed(node);
    }

    pub fn restart(&mut self, node: NodeId) {
        if !self.is_running(node) {
            self.note(format_args!("restart {node}"));
            self.sim.bounce(name(node));
            self.running.insert(node, true);
        }
    }

    /// Asks a node to hand its groups over and to stop; it is restarted like a crashed one.
    pub fn ask_to_leave(&self, node: NodeId) {
        self.note(format_args!("leave {node}"));
        if let Some(leave) = self.common.leave.borrow().get(&node) {
            leave.notify_one();
        }
    }

    pub fn note(&self, event: std::fmt::Arguments<'_>) {
        self.common.checker.borrow_mut().trace.note(event);
    }

    /// Who leads `group`, as far as the leader itself knows.
    pub fn leader(&self, group: u64) -> Option<NodeId> {
        self.leaders().get(&group).copied()
    }

    /// Who leads each group, as far as the leaders themselves know.
    pub fn leaders(&self) -> BTreeMap<u64, NodeId> {
        let mut leaders = BTreeMap::new();
        for (node, handle) in self.common.nodes.borrow().iter() {
            for probe in handle.probe() {
                if let Some(term) = probe.leads() {
                    let known = leaders.entry(probe.group()).or_default();
                    *known = (term, *node).max(*known);
                }
            }
        }
        let leaders = leaders.into_iter();
        leaders.map(|(group, (_, node))| (group, node)).collect()
    }

    /// Has the clients of these nodes do nothing new, and those of all others go on.
    pub fn quieten(&self, nodes: &[NodeId]) {
        self.common
            .quiet
            .replace(nodes.iter().copied().collect::<BTreeSet<_>>());
    }

    /// Has somebody read all channels through these nodes all the time.
    pub fn watch(&self, nodes: &[NodeId]) {
        self.common
            .watched
            .replace(nodes.iter().copied().collect::<BTreeSet<_>>());
    }

    /// How often replicas were opened and closed so far.
    pub fn naps(&self) -> Naps {
        let nodes = self.common.nodes.borrow();
        let now = nodes.values().map(Naps::of);
        now.fold(*self.common.before.borrow(), Naps::and)
    }

    /// Whether no node has a channel open.
    pub fn is_asleep(&self, nodes: &[NodeId]) -> bool {
        let running = self.common.nodes.borrow();
        let open = nodes
            .iter()
            .filter_map(|node| running.get(node))
            .flat_map(Node::probe);
        open.filter(|probe| probe.group() != 0).count() == 0
    }

    /// Whether every replica, open or asleep, has applied all that anybody has, and every node has
    /// told its sockets of it.
    pub fn is_even(&self) -> bool {
        self.unevenness().is_none()
    }

    /// What is missing where.
    pub fn unevenness(&self) -> Option<String> {
        let nodes = self.common.nodes.borrow();
        let checker = self.common.checker.borrow();
        if let Some(id) = self.disks.keys().find(|id| !nodes.contains_key(id)) {
            return Some(format!("node {id} does not run"));
        }
        for (group, length) in checker.lengths() {
            for node in checker.replicas(group) {
                let probes = nodes.get(&node).map(Node::probe).unwrap_or_default();
                let open = probes.iter().find(|probe| probe.group() == group);
                let applied = match open {
                    Some(probe) if probe.computed_next() < length => Some(probe.computed_next()),
                    Some(probe) => Some(next(probe.applied())),
                    // It sleeps, and what it would find is on the disk.
                    None => match self.disks[&node].held(GroupId(group)) {
                        Ok(held) => Some(next(held.applied)),
                        Err(error) => return Some(error),
                    },
                };
                if applied != Some(length) {
                    return Some(format!(
                        "node {node} has applied {applied:?} of {length} entries of group {group}, \
                         which is {}",
                        if open.is_some() { "open" } else { "asleep" }
                    ));
                }
            }
        }
        checker.untold()
    }
}

/// How many entries there are up to a position.
fn next(position: Option<LogId>) -> u64 {
    position.map_or(0, |position| position.index + 1)
}

/// Uses numbers of tasks up until the next is a multiple of [`TASK_LISTS`].
fn align_task_numbers() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime without drivers needs nothing of the system");
    loop {
        let number = runtime.spawn(async {}).id().to_string();
        let number: u64 = number.parse().expect("a task's number is one");
        if (number + 1).is_multiple_of(TASK_LISTS) {
            return;
        }
    }
}

fn directory(node: NodeId) -> String {
    format!("/simulated/{node}")
}

fn options(shape: Shape, node: NodeId) -> NodeOptions {
    let member = |node: NodeId| Member {
        node,
        peer: format!("{}:{PORT}", name(node)),
        zone: None,
    };
    NodeOptions {
        cluster: "simulated".into(),
        node,
        members: (1..=shape.nodes).map(member).collect(),
        replication: shape.replication,
        data_dir: directory(node).into(),
        listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT)),
        timing: Timing {
            election_timeout: Duration::from_millis(shape.election_timeout_ms),
            heartbeat: Duration::from_millis(shape.heartbeat_ms),
            ..Timing::default()
        },
        snapshots: SnapshotPolicy {
            after_entries: shape.snapshot_after_entries,
            keep_entries: shape.snapshot_after_entries / 4,
        },
        hibernation: Hibernation {
            idle: Duration::from_millis(shape.idle_ms),
            ..Hibernation::default()
        },
        block_cache_bytes: CACHE_BYTES,
        free_bytes_min: 0,
    }
}

/// What runs on a node's machine: the node, and the clients that talk to it. They end with it.
async fn host(common: Rc<Common>, id: NodeId) -> turmoil::Result {
    accord_raft::sim::runs_here(id);
    let ear = Ear {
        node: id,
        told: Arc::clone(&common.told),
        followed: Arc::clone(&common.followed),
    };
    let leave = Rc::new(Notify::new());
    common.leave.borrow_mut().insert(id, Rc::clone(&leave));
    let agent = Arc::new(Agent::default());
    let executor = Arc::clone(&agent) as Arc<dyn Executor>;
    let node = Node::start(options(common.shape, id), Arc::new(ear), executor).await?;
    common.nodes.borrow_mut().insert(id, node.clone());
    for client in 0..common.shape.clients_per_node {
        tokio::task::spawn_local(clients::run(Rc::clone(&common), node.clone(), client));
    }
    tokio::task::spawn_local(agents::run(node.clone(), agent));
    tokio::task::spawn_local(clients::listen(Rc::clone(&common), node.clone()));
    tokio::task::spawn_local(clients::watch(Rc::clone(&common), node.clone()));
    leave.notified().await;
    node.drain().await;
    common.keep_naps(&node);
    common.nodes.borrow_mut().remove(&id);
    node.stop().await;
    std::future::pending().await
}
