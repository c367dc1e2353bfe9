//! Who leads a group, as one replica of it knows.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use accord_storage as storage;
use openraft::Raft;
use openraft::ServerState;
use openraft::async_runtime::WatchReceiver;
use openraft::metrics::RaftServerMetrics;
use openraft::type_config::alias::WatchReceiverOf;
use tokio::sync::watch;

use super::state_machine::Applier;
use super::types;
use super::types::TypeConfig;
use crate::transport::NodeId;

/// Who leads, as this replica knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LeaderView {
    /// Known since this replica was opened: it leads itself, or has heard from the leader.
    pub(crate) leader: Option<NodeId>,
    /// Who led by the vote on the disk. It may have died since, or lead still. This replica itself
    /// while it waits for a quorum to confirm that it goes on.
    pub(crate) remembered: Option<NodeId>,
    pub(crate) term: u64,
}

impl LeaderView {
    /// Who most likely leads.
    pub(crate) fn likely(&self) -> Option<NodeId> {
        self.leader.or(self.remembered)
    }
}

/// See [`Consensus::leader_changes`](super::Consensus::leader_changes).
pub(crate) struct LeaderChanges {
    engine: watch::Receiver<Option<Raft<TypeConfig, Applier>>>,
    metrics: Option<WatchReceiverOf<TypeConfig, RaftServerMetrics<TypeConfig>>>,
    heard: watch::Receiver<bool>,
    knowledge: Arc<Knowledge>,
}

impl LeaderChanges {
    pub(super) fn new(
        engine: watch::Receiver<Option<Raft<TypeConfig, Applier>>>,
        knowledge: &Arc<Knowledge>,
    ) -> LeaderChanges {
        let metrics = engine.borrow().as_ref().map(Raft::server_metrics);
        LeaderChanges {
            engine,
            metrics,
            heard: knowledge.heard.subscribe(),
            knowledge: Arc::clone(knowledge),
        }
    }

    pub(crate) async fn changed(&mut self) -> bool {
        let metrics = async {
            match &mut self.metrics {
                Some(metrics) => metrics.changed().await.is_ok(),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            alive = metrics => alive,
            Ok(()) = self.heard.changed() => true,
            engine = self.engine.changed() => {
                let raft = self.engine.borrow_and_update();
                self.metrics = raft.as_ref().map(Raft::server_metrics);
                engine.is_ok()
            }
        }
    }

    pub(crate) fn leader(&self) -> LeaderView {
        match &self.metrics {
            Some(metrics) => self.knowledge.leader(&metrics.borrow_watched()),
            None => self.knowledge.leader_without_metrics(),
        }
    }
}

/// Tells a leader that is there from one that is only remembered: a replica that is opened takes the
/// leader of the vote on its disk for the current one, itself included, dead or alive.
pub(super) struct Knowledge {
    node: NodeId,
    /// The vote on the disk, as it was when openraft was started, or as it is while it is not.
    vote: Mutex<Option<storage::Vote>>,
    heard: watch::Sender<bool>,
    /// See [`Consensus::resumes`](super::Consensus::resumes).
    resumes: AtomicBool,
    /// The vote on the disk is that of a leader who leads without openraft.
    steady: AtomicBool,
}

impl Knowledge {
    /// `vote`: that on the disk. `resumes`: it is this node's own, which may go on by it.
    pub(super) fn new(
        node: NodeId,
        vote: Option<storage::Vote>,
        resumes: bool,
        steady: bool,
    ) -> Knowledge {
        Knowledge {
            node,
            vote: Mutex::new(vote),
            heard: watch::Sender::new(false),
            resumes: AtomicBool::new(resumes),
            steady: AtomicBool::new(steady),
        }
    }

    fn vote(&self) -> Option<storage::Vote> {
        *self.vote.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A candidate has this node's vote for a later term. If it is not the leader that this node had,
    /// it has yet to be heard.
    pub(super) fn pledge(&self, vote: storage::Vote) {
        let before = self.set_vote(vote);
        let goes_on = before.is_some_and(|before| before.node == vote.node);
        self.heard.send_modify(|heard| *heard &= goes_on);
    }

    /// This node leads without openraft, by this vote.
    pub(super) fn lead(&self, vote: storage::Vote) {
        self.set_vote(vote);
        self.resumes.store(true, Ordering::Release);
        self.heard.send_modify(|_| {});
    }

    fn set_vote(&self, vote: storage::Vote) -> Option<storage::Vote> {
        let mut known = self.vote.lock().unwrap_or_else(PoisonError::into_inner);
        known.replace(vote)
    }

    /// Whether the leader of the vote on the disk has been heard.
    pub(super) fn set_heard(&self, now: bool) {
        let set = |heard: &mut bool| std::mem::replace(heard, now) != now;
        self.heard.send_if_modified(set);
    }

    /// A quorum says that this node still leads.
    pub(super) fn confirm(&self) {
        self.resumes.store(false, Ordering::Release);
        self.heard.send_modify(|_| {});
    }

    /// It led steadily, and openraft is not there yet.
    pub(super) fn is_about_to_resume(&self) -> bool {
        !self.is_steady() && self.resumes.load(Ordering::Acquire)
    }

    pub(super) fn is_steady(&self) -> bool {
        self.steady.load(Ordering::Acquire)
    }

    pub(super) fn leave_steady(&self) {
        self.steady.store(false, Ordering::Release);
        self.heard.send_modify(|_| {});
    }

    /// As long as openraft does not run, or has not said anything yet.
    pub(super) fn leader_without_metrics(&self) -> LeaderView {
        let vote = self.vote();
        // Steady, it is given to nobody but the leader that this node had before.
        let leads = |vote: &storage::Vote| vote.committed || self.is_steady();
        let voted = vote.filter(leads).map(|vote| vote.node);
        let known = |leader: &NodeId| *leader == self.node || *self.heard.borrow();
        LeaderView {
            leader: voted.filter(|leader| self.is_steady() && known(leader)),
            remembered: voted
                .filter(|leader| *leader != self.node || self.resumes.load(Ordering::Acquire)),
            term: vote.map_or(0, |vote| vote.term),
        }
    }

    pub(super) fn resumes(&self, metrics: &RaftServerMetrics<TypeConfig>) -> bool {
        // There is no vote in the first metrics of a replica; a later term ends it.
        let term = types::stored_vote(&metrics.vote).term;
        let opened = self.vote().map_or(0, |vote| vote.term);
        self.resumes.load(Ordering::Acquire) && term <= opened
    }

    pub(super) fn leader(&self, metrics: &RaftServerMetrics<TypeConfig>) -> LeaderView {
        let vote = types::stored_vote(&metrics.vote);
        let opened = self.vote();
        let resumes = self.resumes(metrics);
        let leads = metrics.state == ServerState::Leader && !resumes;
        let known = metrics
            .current_leader
            .filter(|leader| match *leader == self.node {
                true => leads,
                false => Some(vote) != opened || *self.heard.borrow(),
            });
        LeaderView {
            leader: known,
            remembered: metrics
                .current_leader
                .filter(|leader| resumes || *leader != self.node),
            // The first metrics know no vote.
            term: opened.map_or(0, |vote| vote.term).max(vote.term),
        }
    }
}
