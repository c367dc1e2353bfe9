//! What runs a replica: steady replication while its term is settled, openraft for all else.

use std::io;
use std::sync::Arc;
use std::sync::Weak;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use accord_storage as storage;
use bytes::Bytes;
use openraft::Config;
use openraft::Raft;
use openraft::ReadPolicy;
use openraft::ServerState;
use openraft::SnapshotPolicy;
use openraft::async_runtime::WatchReceiver;
use openraft::metrics::RaftServerMetrics;
use openraft::raft::AppendEntriesResponse;
use openraft::raft::linearizable_read::LinearizerOption;
use tokio::sync::watch;

use super::ConsensusOptions;
use super::Opening;
use super::founding;
use super::leadership::Knowledge;
use super::leadership::LeaderView;
use super::log_store::LogStore;
use super::log_store::Written;
use super::network::Network;
use super::state_machine::Applier;
use super::state_machine::Commits;
use super::state_machine::Published;
use super::steady;
use super::steady::Ballot;
use super::steady::Beginning;
use super::steady::Keep;
use super::steady::Replication;
use super::steady::Steady;
use super::steady::SteadyRequest;
use super::steady::UNAPPLIED_BYTES_MAX;
use super::steady::UNAPPLIED_MAX;
use super::types;
use super::types::TypeConfig;
use crate::edge;
use crate::machine::Kind;
use crate::transport::NodeId;
use crate::transport::Peer;

/// Messages queued for one group's Raft task: proposals are bounded by the lane and append requests
/// by the leader's pipeline, so a queue this long is never full in a healthy group.
const QUEUE_MAX: u64 = 4_096;
/// Log entries in one append request; its bytes are bounded as well.
const ENTRIES_PER_REQUEST_MAX: u64 = 300;

/// How long one try takes at having a quorum confirm a leader that was just opened.
const RESUME_WAIT_MAX: Duration = Duration::from_secs(2);
/// Before the next one.
const RESUME_PAUSE: Duration = Duration::from_millis(250);

/// The way to another node, if there is one.
pub(super) type PeerOf = Arc<dyn Fn(NodeId) -> Option<Peer> + Send + Sync>;

/// What runs a replica, one of the two at a time: whoever takes over finds on the disk what the other
/// has told anybody.
pub(super) struct Engine {
    pub(super) options: ConsensusOptions,
    kind: Kind,
    pub(super) group: storage::Group,
    commits: Arc<dyn Commits>,
    pub(super) published: Arc<Published>,
    may_campaign: AtomicBool,
    restores: AtomicBool,
    peer: PeerOf,
    pub(super) knowledge: Arc<Knowledge>,
    voters: Vec<NodeId>,
    steady: Option<Arc<Steady>>,
    /// Held while this node asks for its leader's place: whoever wants the same waits for the answer.
    succeeding: tokio::sync::Mutex<()>,
    pub(super) raft: watch::Sender<Option<Raft<TypeConfig, Applier>>>,
    /// Held while openraft is started or stopped.
    stopped: tokio::sync::Mutex<bool>,
}

impl Engine {
    /// # Errors
    /// If the group's state cannot be read.
    pub(super) async fn open(
        options: &ConsensusOptions,
        kind: Kind,
        group: storage::Group,
        commits: Arc<dyn Commits>,
        opening: Opening<'_>,
        peer: PeerOf,
    ) -> io::Result<Arc<Engine>> {
        let begins = match opening.replicas.filter(|_| group.is_pristine()) {
            Some(replicas) => founding::found(options.node, &group, &replicas).await?,
            None => false,
        };
        let mut restores = begins || opening.may_resume || edge::restores_leaders();
        let published = Arc::new(Published::default());
        let applier = Applier::load(
            kind,
            group.clone(),
            Arc::clone(&commits),
            Arc::clone(&published),
        )?;
        let membership = applier.membership().membership();
        // Steady replication counts one majority, and two disjoint ones of a joint configuration decide.
        let is_single = types::is_single(membership);
        let voters: Vec<NodeId> = membership.voter_ids().collect();
        let mut turn = Some(opening.turn);
        let others = voters.iter().filter(|node| **node != options.node);
        let peers: Vec<Peer> = others.filter_map(|node| peer(*node)).collect();
        let leads = |vote: &storage::Vote| vote.node == options.node;
        let is_plain = kind == Kind::Channel && opening.may_campaign;
        let is_plain = is_plain && is_single && voters.contains(&options.node);
        let settled = |vote: &storage::Vote| is_plain && vote.committed;
        let mut level = None;
        if let Some(vote) = group.vote().filter(settled).filter(leads)
            && let Some(last) = group.log_state().last
            && group.applied() == Some(last)
            && let Some(term) = vote.term.checked_add(1)
            && !restores
        {
            let ballot = Ballot {
                candidate: options.node,
                term,
                last,
                commit: last,
            };
            // Those who are asked may need turns of their own, and wait for this node's answers.
            drop(turn.take());
            level = steady::hold(&group, ballot, voters.len(), &peers).await;
            // It has led that term since, in this very process, with its whole log.
            restores = level.is_some();
        }
        let vote = group.vote();
        let mut applier = Some(applier);
        let steady = match vote.filter(settled).filter(|vote| restores || !leads(vote)) {
            Some(vote) => begin_steady(options, &group, vote, &voters, peers, level, &mut applier)?,
            None => None,
        };
        let resumes = restores && vote.is_some_and(|vote| vote.committed && leads(&vote));
        let engine = Arc::new(Engine {
            options: options.clone(),
            kind,
            group,
            commits,
            published,
            may_campaign: AtomicBool::new(opening.may_campaign),
            restores: AtomicBool::new(restores),
            peer,
            knowledge: Arc::new(Knowledge::new(
                options.node,
                vote,
                resumes,
                steady.is_some(),
            )),
            voters,
            steady,
            succeeding: tokio::sync::Mutex::new(()),
            raft: watch::Sender::new(None),
            stopped: tokio::sync::Mutex::new(false),
        });
        if let Some(applier) = applier {
            engine.start(Some(applier)).await?;
        }
        drop(turn);
        Ok(engine)
    }

    /// What openraft says of itself, while it runs.
    fn metrics<T>(&self, look: impl FnOnce(&RaftServerMetrics<TypeConfig>) -> T) -> Option<T> {
        let raft = self.raft.borrow();
        let raft = raft.as_ref()?;
        Some(look(&raft.server_metrics().borrow_watched()))
    }

    /// Steady replication, until openraft takes over.
    pub(super) fn steady(&self) -> Option<&Arc<Steady>> {
        self.steady.as_ref().filter(|_| self.knowledge.is_steady())
    }

    /// The same, while this node leads by it.
    pub(super) fn leading(&self) -> Option<&Arc<Steady>> {
        self.steady().filter(|steady| steady.leads())
    }

    pub(super) fn leader(&self) -> LeaderView {
        self.metrics(|metrics| self.knowledge.leader(metrics))
            .unwrap_or_else(|| self.knowledge.leader_without_metrics())
    }

    pub(super) fn voters(&self) -> Vec<NodeId> {
        let raft = self.raft.borrow();
        let voters: Vec<_> = raft.iter().flat_map(Raft::voter_ids).collect();
        // openraft knows none until it has said its first word.
        match voters.is_empty() {
            true => self.voters.clone(),
            false => voters,
        }
    }

    pub(super) fn is_in_office(&self) -> bool {
        self.metrics(|metrics| metrics.state == ServerState::Leader)
            .unwrap_or_else(|| self.leading().is_some())
    }

    pub(super) fn allow_elections(&self) {
        self.may_campaign.store(true, Ordering::Release);
        if let Some(raft) = &*self.raft.borrow() {
            raft.runtime_config().elect(true);
        }
    }

    /// openraft's replica, started if this one was steady until now.
    pub(super) async fn raft(self: &Arc<Self>) -> io::Result<Raft<TypeConfig, Applier>> {
        if let Some(raft) = self.raft.borrow().clone() {
            return Ok(raft);
        }
        // On a task of its own: whoever asks may go away, and a replica must not be half started.
        let engine = Arc::clone(self);
        let started = tokio::spawn(async move { engine.start(None).await });
        started.await.map_err(io::Error::other)?
    }

    /// As [`Engine::raft`], without waiting for it.
    pub(super) fn take_over(self: Arc<Self>) {
        tokio::spawn(async move {
            if let Err(error) = self.start(None).await
                && !*self.stopped.lock().await
            {
                tracing::error!(group = self.group.id().0, %error, "a replica could not be opened");
            }
        });
    }

    async fn start(
        self: &Arc<Self>,
        applier: Option<Applier>,
    ) -> io::Result<Raft<TypeConfig, Applier>> {
        let stopped = self.stopped.lock().await;
        if let Some(raft) = self.raft.borrow().clone() {
            return Ok(raft);
        }
        if *stopped {
            return Err(io::Error::other("the replica has stopped"));
        }
        if let Some(steady) = &self.steady {
            steady.end();
            self.knowledge.leave_steady();
            // What was applied must be in the rows that are read next.
            self.group.drained().await;
        }
        let load = || {
            let (commits, published) = (Arc::clone(&self.commits), Arc::clone(&self.published));
            Applier::load(self.kind, self.group.clone(), commits, published)
        };
        let applier = applier.map_or_else(load, Ok)?;
        let mut config = config(&self.options, self.group.id().0)?;
        config.enable_elect = self.may_campaign.load(Ordering::Acquire);
        config.enable_leader_restore = Some(self.restores.load(Ordering::Acquire));
        let peer = Arc::clone(&self.peer);
        let network = Network::new(self.group.id().0, move |node| peer(node));
        let log = LogStore::new(self.group.clone());
        let raft = Raft::new(self.options.node, Arc::new(config), network, log, applier)
            .await
            .map_err(io::Error::other)?;
        self.raft.send_replace(Some(raft.clone()));
        if self.resumes() {
            tokio::spawn(resume(Arc::downgrade(self), raft.clone()));
        }
        drop(stopped);
        Ok(raft)
    }

    pub(super) async fn stop(&self) {
        let mut stopped = self.stopped.lock().await;
        *stopped = true;
        if let Some(steady) = &self.steady {
            steady.end();
        }
        let raft = self.raft.borrow().clone();
        if let Some(raft) = raft {
            // An error means that its task has ended already.
            let _ = raft.shutdown().await;
        }
        self.group.drained().await;
    }

    /// Has this node lead in the place of the steady leader that it follows. If the others do not
    /// agree, openraft takes over.
    pub(super) async fn succeed(self: &Arc<Self>, dead: NodeId) -> bool {
        let _succeeding = self.succeeding.lock().await;
        let Some(candidacy) = self.steady().and_then(|steady| steady.stand(dead)) else {
            return self.leading().is_some();
        };
        let term = candidacy.term();
        let Some(replication) = candidacy.campaign().await else {
            // It follows nobody now. One that has stopped need not.
            let _ = self.raft().await;
            return false;
        };
        // It leads that term in this very process, with its whole log.
        self.restores.store(true, Ordering::Release);
        self.knowledge.lead(storage::Vote {
            term,
            node: self.options.node,
            committed: true,
        });
        Arc::clone(self).replicate(replication);
        true
    }

    /// Sees a steady leader's entry through.
    pub(super) fn replicate(self: Arc<Self>, replication: Replication) {
        tokio::spawn(async move {
            if replication.run().await.is_err() {
                self.take_over();
            }
        });
    }

    /// See [`Steady::grant`].
    pub(super) fn grant(
        &self,
        ballot: &Ballot,
        is_dead: impl FnOnce(NodeId) -> bool,
    ) -> Option<Written> {
        let written = self.steady()?.grant(ballot, is_dead)?;
        self.knowledge.pledge(storage::Vote {
            term: ballot.term,
            node: ballot.candidate,
            committed: false,
        });
        Some(written)
    }

    /// A steady leader's request, taken by openraft.
    pub(super) async fn append(self: Arc<Self>, request: &SteadyRequest) -> Result<Bytes, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let elective = request.elective().map_err(|error| text(&error))?;
        let raft = self.raft().await.map_err(|error| text(&error))?;
        let answer = raft.append_entries(elective).await;
        match answer.map_err(|error| text(&error))? {
            AppendEntriesResponse::Success => Ok(Bytes::new()),
            _ => Err("this replica's log ends elsewhere".into()),
        }
    }

    pub(super) fn resumes(&self) -> bool {
        // While openraft is about to take over there are no metrics.
        self.metrics(|metrics| self.knowledge.resumes(metrics))
            .unwrap_or_else(|| self.knowledge.is_about_to_resume())
    }
}

/// Has a quorum confirm that a leader that openraft took over goes on, as often as it takes: until
/// then openraft refuses its writes, and while its heartbeats are heard nobody else stands.
async fn resume(engine: Weak<Engine>, raft: Raft<TypeConfig, Applier>) {
    loop {
        // What counts is that openraft hears from a quorum; the index is of no use.
        let option =
            LinearizerOption::from(ReadPolicy::ReadIndex).with_wait_timeout(RESUME_WAIT_MAX);
        let confirmed = raft.get_read_log_id(option).await.is_ok();
        let Some(engine) = engine.upgrade() else {
            return;
        };
        if confirmed {
            engine.knowledge.confirm();
            return;
        }
        if !engine.resumes() || *engine.stopped.lock().await {
            return;
        }
        drop(engine);
        pause(RESUME_PAUSE).await;
    }
}

#[expect(clippy::disallowed_methods, reason = "the others may not be there yet")]
async fn pause(duration: Duration) {
    tokio::time::sleep(duration).await;
}

/// Begins to replicate without openraft, if what is on the disk allows it: `applier` stays if not.
fn begin_steady(
    options: &ConsensusOptions,
    group: &storage::Group,
    vote: storage::Vote,
    voters: &[NodeId],
    peers: Vec<Peer>,
    level: Option<Vec<NodeId>>,
    applier: &mut Option<Applier>,
) -> io::Result<Option<Arc<Steady>>> {
    let (Some(last), Some(applied)) = (group.log_state().last, group.applied()) else {
        return Ok(None);
    };
    let leads = vote.node == options.node;
    let missing = last.index.saturating_sub(applied.index);
    if missing > UNAPPLIED_MAX || (leads && missing > 0) {
        return Ok(None);
    }
    let unapplied = group
        .entries(applied.index + 1..last.index + 1, UNAPPLIED_BYTES_MAX)
        .map_err(io::Error::other)?;
    let whole = unapplied.len() as u64 == missing
        && unapplied
            .iter()
            .all(|entry| types::is_plain(&entry.payload));
    let Some(applier) = applier.take_if(|_| whole) else {
        return Ok(None);
    };
    Ok(Some(Steady::begin(Beginning {
        group: group.clone(),
        node: options.node,
        term: vote.term,
        leader: vote.node,
        voters: voters.to_vec(),
        peers,
        level,
        applier,
        last,
        applied,
        unapplied,
        keep: Keep {
            entries: options.snapshot_keep_entries,
            slack: options.snapshot_after_entries,
        },
    })))
}

pub(super) fn config(options: &ConsensusOptions, group: u64) -> io::Result<Config> {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let config = Config {
        cluster_name: format!("group {group}"),
        heartbeat_interval: millis(options.heartbeat),
        election_timeout_min: millis(options.election_timeout),
        election_timeout_max: millis(options.election_timeout) * 2,
        enable_pre_vote: Some(true),
        // A replica that lost its disk comes back with a shorter log (docs/adr/0012). openraft offers
        // to allow that once, but answers to older requests may tell of it again: it would then count
        // entries that the replica no longer holds, or stop in a debug build. Going back is always
        // safe; that nobody forgets by mistake is what storage identities and marks are for.
        allow_log_reversion: Some(true),
        max_payload_entries: ENTRIES_PER_REQUEST_MAX,
        api_channel_size: Some(QUEUE_MAX),
        notification_channel_size: Some(QUEUE_MAX),
        snapshot_policy: SnapshotPolicy::LogsSinceLast(options.snapshot_after_entries),
        max_in_snapshot_log_to_keep: options.snapshot_keep_entries,
        replication_lag_threshold: options.snapshot_after_entries.saturating_mul(2),
        ..Config::default()
    };
    config.validate().map_err(io::Error::other)
}
