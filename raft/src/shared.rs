//! What all groups of a node share: its store, its links, its options, and each other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::OnceLock;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use accord_storage::GroupId;
use accord_storage::Store;
use tokio::sync::Semaphore;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::agenda::Timers;
use crate::api::Delivery;
use crate::api::Executor;
use crate::api::NodeOptions;
use crate::beat::Beat;
use crate::consensus::ConsensusOptions;
use crate::edge;
use crate::failover;
use crate::failover::Campaigns;
use crate::failover::Line;
use crate::feed::Feeds;
use crate::group::Group;
use crate::group::Replica;
use crate::group::openings::Openings;
use crate::group::registry::Closing;
use crate::group::registry::Registry;
use crate::hibernation::Absences;
use crate::recovery;
use crate::recovery::Recovery;
use crate::room::Shortage;
use crate::sequence::Sequences;
use crate::transport::NodeId;
use crate::transport::Peer;
use crate::transport::Transport;

/// States hashed at the same time: each reads a group's whole history.
const HASHES_AT_ONCE_MAX: usize = 2;

pub(crate) struct Shared {
    pub(crate) options: NodeOptions,
    pub(crate) consensus: ConsensusOptions,
    pub(crate) store: Store,
    pub(crate) delivery: Arc<dyn Delivery>,
    pub(crate) timers: Arc<Timers>,
    pub(crate) stopping: watch::Sender<bool>,
    pub(crate) draining: watch::Sender<bool>,
    /// Permits for elections that this node stands for.
    pub(crate) campaigns: Campaigns,
    pub(crate) recovery: Recovery,
    /// Of the sessions that this node opens, in all groups.
    pub(crate) sequences: Arc<Sequences>,
    pub(crate) shortage: Shortage,
    /// Hashing a state reads all of it, so few do so at a time.
    pub(crate) hashing: Arc<Semaphore>,
    pub(crate) openings: Openings,
    pub(crate) groups: Registry,
    pub(crate) absences: Absences,
    /// Feeds of other nodes that wait for news.
    pub(crate) feeds: Feeds,
    /// Highest heads that reads through this node answered from other nodes' replicas. One number for
    /// each channel that was read so, for as long as the process lives: a session on this node must
    /// never see a channel go back, however long the channel slept.
    heads_seen: Mutex<BTreeMap<GroupId, u64>>,
    /// Replicas opened and closed since the start.
    pub(crate) wakes: AtomicU64,
    pub(crate) sleeps: AtomicU64,
    transport: OnceLock<Transport>,
    /// Since when this node runs, and what its periodic work goes by.
    beat: Beat,
}

impl Shared {
    pub(crate) fn new(
        options: NodeOptions,
        store: Store,
        recovery: Recovery,
        sequences: Sequences,
        delivery: Arc<dyn Delivery>,
        executor: Arc<dyn Executor>,
    ) -> Arc<Shared> {
        let consensus = ConsensusOptions {
            node: options.node,
            election_timeout: options.timing.election_timeout,
            heartbeat: options.timing.heartbeat,
            snapshot_after_entries: options.snapshots.after_entries,
            snapshot_keep_entries: options.snapshots.keep_entries,
        };
        Arc::new(Shared {
            options,
            consensus,
            store,
            delivery,
            timers: Arc::new(Timers::new(executor)),
            stopping: watch::Sender::new(false),
            draining: watch::Sender::new(false),
            campaigns: Campaigns::new(),
            recovery,
            sequences: Arc::new(sequences),
            shortage: Shortage::default(),
            hashing: Arc::new(Semaphore::new(HASHES_AT_ONCE_MAX)),
            openings: Openings::new(),
            groups: Registry::default(),
            absences: Absences::default(),
            feeds: Feeds::default(),
            heads_seen: Mutex::default(),
            wakes: AtomicU64::new(0),
            sleeps: AtomicU64::new(0),
            transport: OnceLock::new(),
            beat: Beat::new(Instant::now()),
        })
    }

    /// Called once, when the links have been started.
    pub(crate) fn set_transport(&self, transport: Transport) {
        assert!(
            self.transport.set(transport).is_ok(),
            "a node has one transport"
        );
    }

    pub(crate) fn transport(&self) -> Option<&Transport> {
        self.transport.get()
    }

    pub(crate) fn node(&self) -> NodeId {
        self.options.node
    }

    /// All nodes, in the order of the configuration.
    pub(crate) fn nodes(&self) -> Vec<NodeId> {
        self.options
            .members
            .iter()
            .map(|member| member.node)
            .collect()
    }

    pub(crate) fn peer(&self, node: NodeId) -> Option<Peer> {
        self.transport()?.peer(node)
    }

    pub(crate) fn is_up(&self, node: NodeId) -> bool {
        node == self.node() || self.peer(node).is_some_and(|peer| peer.is_up())
    }

    pub(crate) fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    /// Whether this node takes no new work any more.
    pub(crate) fn is_draining(&self) -> bool {
        self.is_stopping() || *self.draining.borrow()
    }

    /// The group, made if nobody has asked for it before. Its replica is opened by whoever needs it.
    pub(crate) fn group(self: &Arc<Self>, id: GroupId) -> Arc<Group> {
        // Read before the lock is taken: it may come from the disk. A group that is awake knows.
        let recovered = self.recovery.concerns(id)
            && self.groups.look(id, |_| ()).is_none()
            && recovery::is_marked(self, id);
        let make = |before| Group::new(id, Arc::clone(self), before, recovered);
        self.groups.get(id, make)
    }

    /// All that are awake.
    pub(crate) fn groups(&self) -> Vec<Arc<Group>> {
        self.groups.all_awake()
    }

    /// Forgets all groups: the node is stopping.
    pub(crate) fn take_groups(&self) -> (Vec<Arc<Group>>, Vec<Closing>) {
        self.groups.take_all()
    }

    /// Milliseconds since the node started, by a clock that never jumps.
    pub(crate) fn now_ms(&self) -> u64 {
        u64::try_from(self.beat.start().elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(crate) fn beat(&self) -> Beat {
        self.beat
    }

    /// When periodic work that has just been done is to be done again: after about `length`, and at least
    /// half of it.
    pub(crate) fn next_beat(&self, length: Duration) -> Instant {
        self.beat.next(length, Instant::now() + length / 2)
    }

    pub(crate) fn head_seen(&self, group: GroupId) -> u64 {
        let heads = self.heads_seen.lock();
        let heads = heads.unwrap_or_else(PoisonError::into_inner);
        heads.get(&group).copied().unwrap_or(0)
    }

    pub(crate) fn see_head(&self, group: GroupId, head: u64) {
        let heads = self.heads_seen.lock();
        let mut heads = heads.unwrap_or_else(PoisonError::into_inner);
        let seen = heads.entry(group).or_default();
        *seen = head.max(*seen);
    }

    /// Logs when this node becomes the leader of a group, and ends the process if the replica fails.
    pub(crate) fn follow_leadership(self: &Arc<Self>, group: &Arc<Group>, replica: &Arc<Replica>) {
        let mut changes = replica.consensus.leader_changes();
        let (id, node, group) = (group.id, self.node(), Arc::downgrade(group));
        let shared = Arc::downgrade(self);
        tokio::spawn(async move {
            let mut led_term = None;
            let mut had_leader = false;
            loop {
                let view = changes.leader();
                // Candidates can depose each other's winner; somebody must begin again then.
                if had_leader
                    && view.leader.is_none()
                    && let Some(group) = group.upgrade()
                    && !group.is_standing()
                {
                    tokio::spawn(failover::waken(group, Line::Lost));
                }
                had_leader = view.leader.is_some();
                let leads = (view.leader == Some(node)).then_some(view.term);
                if leads.is_some() && leads != led_term {
                    tracing::debug!(group = id.0, term = view.term, "leads a group");
                    if let Some(shared) = shared.upgrade() {
                        shared.timers.look(id);
                    }
                }
                if view.leader.is_some_and(|leader| leader != node)
                    && let Some(shared) = shared.upgrade()
                {
                    shared.timers.lost(id);
                }
                led_term = leads;
                if !changes.changed().await {
                    let stopping = shared.upgrade().is_none_or(|shared| shared.is_stopping());
                    let closes = group.upgrade().is_none_or(|group| group.is_retired());
                    if !stopping && !closes {
                        // Its state or its log could not be read, or something in it is broken: what
                        // it would answer from here on cannot be trusted.
                        tracing::error!(group = id.0, "a replica has failed; this node stops");
                        edge::end_process(accord_storage::EXIT_CODE_FATAL);
                    }
                    return;
                }
                if group.strong_count() == 0 {
                    return;
                }
            }
        });
    }
}
