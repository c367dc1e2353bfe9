//! One group's Raft replica, behind our own types.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
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
use openraft::errors::ClientWriteError;
use openraft::metrics::RaftServerMetrics;
use openraft::raft::AppendEntriesRequest;
use openraft::raft::ClientWriteResult;
use openraft::raft::TransferLeaderRequest;
use openraft::raft::linearizable_read::LinearizerOption;
use openraft::type_config::alias::WatchReceiverOf;
use tokio::sync::watch;

use super::log_store::LogStore;
use super::log_store::completion;
use super::network::Network;
use super::snapshot::SnapshotData;
use super::state_machine::Applier;
use super::state_machine::Commits;
use super::state_machine::Progress;
use super::types;
use super::types::BatchBytes;
use super::types::Callback;
use super::types::TypeConfig;
use super::wire;
use crate::edge;
use crate::machine::Kind;
use crate::machine::Outcome;
use crate::transport::NodeId;
use crate::transport::Peer;

/// Messages queued for one group's Raft task: proposals are bounded by the lane and append requests
/// by the leader's pipeline, so a queue this long is never full in a healthy group.
const QUEUE_MAX: u64 = 4_096;
/// Log entries in one append request; its bytes are bounded as well.
const ENTRIES_PER_REQUEST_MAX: u64 = 300;

/// How long one try takes at having a quorum confirm a leader that was just opened.
const RESUME_WAIT_MAX: Duration = Duration::from_secs(2);

/// How a replica behaves.
#[derive(Clone, Debug)]
pub(crate) struct ConsensusOptions {
    pub(crate) node: NodeId,
    pub(crate) election_timeout: Duration,
    pub(crate) heartbeat: Duration,
    pub(crate) snapshot_after_entries: u64,
    pub(crate) snapshot_keep_entries: u64,
}

/// What a replica may do when it is opened.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opening {
    /// Unless it may, it campaigns only after [`Consensus::allow_elections`].
    pub(crate) may_campaign: bool,
    /// It goes on as the leader of its term. Only if it closed as that in this very process, and so
    /// with its whole log: after a crash its followers may hold entries that its own disk lost, and it
    /// would give their places to others.
    pub(crate) may_resume: bool,
}

/// Which leader a replica follows, and where its log ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) term: u64,
    pub(crate) leader: NodeId,
    pub(crate) last: storage::LogId,
}

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

/// What a proposed batch came to: one list of outcomes for each part.
pub(crate) type Proposal = Result<Vec<Vec<Outcome>>, ProposeError>;

/// Why a batch was not applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProposeError {
    /// Certainly not in the log: this replica does not lead.
    NotLeader { leader: Option<NodeId> },
    /// It may be in another leader's log, or not.
    Unknown,
}

/// A running replica.
pub(crate) struct Consensus {
    raft: Raft<TypeConfig, Applier>,
    group: storage::Group,
    progress: watch::Receiver<Progress>,
    computed_next: Arc<AtomicU64>,
    knowledge: Arc<Knowledge>,
    incoming: Mutex<Option<IncomingSnapshot>>,
}

/// A snapshot on its way in. A newer one replaces it.
struct IncomingSnapshot {
    transfer: u64,
    next: u64,
    install: storage::Install,
}

impl Consensus {
    /// Opens the replica.
    ///
    /// # Errors
    /// If the group's state cannot be read.
    pub(crate) async fn open(
        options: &ConsensusOptions,
        kind: Kind,
        group: storage::Group,
        commits: Arc<dyn Commits>,
        opening: Opening,
        peer: impl Fn(NodeId) -> Option<Peer> + Send + Sync + 'static,
    ) -> io::Result<Consensus> {
        let mut config = config(options, group.id().0)?;
        config.enable_elect = opening.may_campaign;
        let restores = opening.may_resume || edge::restores_leaders();
        config.enable_leader_restore = Some(restores);
        let vote = group.vote();
        let resumes =
            restores && vote.is_some_and(|vote| vote.committed && vote.node == options.node);
        let knowledge = Arc::new(Knowledge {
            node: options.node,
            opened: vote,
            heard: watch::Sender::new(false),
            resumes: AtomicBool::new(resumes),
        });
        let applier = Applier::load(kind, group.clone(), commits)?;
        let progress = applier.progress();
        let computed_next = applier.computed_next();
        let network = Network::new(group.id().0, peer);
        let log = LogStore::new(group.clone());
        let raft = Raft::new(options.node, Arc::new(config), network, log, applier)
            .await
            .map_err(io::Error::other)?;
        Ok(Consensus {
            raft,
            group,
            progress,
            computed_next,
            knowledge,
            incoming: Mutex::new(None),
        })
    }

    /// Writes the first membership into an empty replica. Every replica may do so by itself: the
    /// entry is the same on all.
    ///
    /// # Errors
    /// If the replica has stopped, or holds something already.
    pub(crate) async fn initialize(&self, voters: &[NodeId]) -> io::Result<()> {
        let voters: BTreeSet<NodeId> = voters.iter().copied().collect();
        self.raft.initialize(voters).await.map_err(io::Error::other)
    }

    pub(crate) fn leader(&self) -> LeaderView {
        self.knowledge
            .leader(&self.raft.server_metrics().borrow_watched())
    }

    /// Resolves at the next change of what [`Consensus::leader`] may answer; false once stopped.
    pub(crate) fn leader_changes(&self) -> LeaderChanges {
        LeaderChanges {
            metrics: self.raft.server_metrics(),
            heard: self.knowledge.heard.subscribe(),
            knowledge: Arc::clone(&self.knowledge),
        }
    }

    /// Whether it has a membership.
    pub(crate) fn is_founded(&self) -> bool {
        self.raft.voter_ids().next().is_some()
    }

    pub(crate) fn voters(&self) -> Vec<NodeId> {
        self.raft.voter_ids().collect()
    }

    pub(crate) fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }

    pub(crate) fn computed_next(&self) -> &AtomicU64 {
        &self.computed_next
    }

    pub(crate) fn group(&self) -> &storage::Group {
        &self.group
    }

    /// It leads by a vote from before it was closed, and nobody has confirmed that since. Its writes
    /// would be refused, since its lease has run out.
    pub(crate) fn resumes(&self) -> bool {
        self.knowledge
            .resumes(&self.raft.server_metrics().borrow_watched())
    }

    /// Has a quorum confirm that it still leads; false if that was not to be had.
    pub(crate) async fn resume(&self) -> bool {
        // What counts is that openraft hears from a quorum; the index is of no use.
        let option =
            LinearizerOption::from(ReadPolicy::ReadIndex).with_wait_timeout(RESUME_WAIT_MAX);
        let confirmed = self.raft.get_read_log_id(option).await.is_ok();
        if confirmed {
            self.knowledge.resumes.store(false, Ordering::Release);
            self.knowledge.heard.send_modify(|_| {});
        }
        confirmed
    }

    /// Whether it leads, confirmed or not.
    pub(crate) fn is_in_office(&self) -> bool {
        self.raft.server_metrics().borrow_watched().state == ServerState::Leader
    }

    /// Where it stands: what two replicas that agree on are level.
    pub(crate) fn place(&self) -> Option<Place> {
        let vote = self.group.vote()?;
        let last = self.group.log_state().last?;
        Some(Place {
            term: vote.term,
            leader: vote.node,
            last,
        })
    }

    /// Whether all of its log is applied.
    pub(crate) fn is_settled(&self) -> bool {
        self.group.log_state().last == self.group.applied()
    }

    /// Tells the followers at once what is committed.
    pub(crate) async fn heartbeat(&self) {
        // A stopped replica has nothing to tell.
        let _ = self.raft.trigger().heartbeat().await;
    }

    /// Enqueues a batch; `done` is called with what it came to, from whichever task knows it.
    pub(crate) async fn propose(&self, batch: Bytes, done: impl FnOnce(Proposal) + Send + 'static) {
        // The callback is dropped without a call if the replica stops; the guard answers then.
        let guard = Answer(Some(Box::new(done)));
        let responder = Callback::new(move |result: ClientWriteResult<TypeConfig>| {
            guard.give(proposal(result))
        });
        // A stopped replica drops the responder, which answers.
        let _ = self
            .raft
            .client_write_ff(BatchBytes(batch), Some(responder))
            .await;
    }

    /// The term that this replica leads, and the end of its log: once that is applied, a read sees all
    /// that was committed when this was called, in this term or an earlier one, if nobody led a later
    /// term by then. `None` while it does not lead.
    ///
    /// Not the commit index: where the leader's own disk is the slowest, followers learn that an entry
    /// is committed, and show it, before the leader has it itself.
    pub(crate) fn read_point(&self) -> Option<(u64, u64)> {
        let leader = self.leader();
        let last = self.group.log_state().last?;
        let leads = leader.leader == Some(self.knowledge.node) && last.term == leader.term;
        leads.then_some((leader.term, last.index))
    }

    /// Campaigns at once. Without a pre-vote only where a majority sees the leader dead: its lease
    /// protects nobody then.
    pub(crate) async fn campaign(&self, pre_vote: bool) {
        // A stopped replica needs no leader.
        let _ = self.raft.trigger().elect(pre_vote).await;
    }

    /// From now on it campaigns when it hears of no leader for long.
    pub(crate) fn allow_elections(&self) {
        self.raft.runtime_config().elect(true);
    }

    /// The highest term that is known here, on the disk.
    pub(crate) fn term(&self) -> u64 {
        self.group.vote().map_or(0, |vote| vote.term)
    }

    pub(crate) async fn transfer_leader(&self, to: NodeId) {
        let _ = self.raft.trigger().transfer_leader(to).await;
    }

    pub(crate) async fn stop(&self) {
        // An error means that its task has ended already.
        let _ = self.raft.shutdown().await;
        self.group.drained().await;
    }

    /// # Errors
    /// If the request is malformed or the replica has stopped.
    pub(crate) async fn on_append(
        &self,
        request: AppendEntriesRequest<TypeConfig>,
    ) -> Result<Bytes, String> {
        // An append request comes from a leader.
        self.knowledge
            .heard
            .send_if_modified(|heard| !std::mem::replace(heard, true));
        let answer = self
            .raft
            .append_entries(request)
            .await
            .map_err(|error| error.to_string())?;
        Ok(wire::encode_appended(&answer))
    }

    /// `leader_dead`: this node sees the process of the leader that it last knew dead, so that
    /// leader's lease protects nobody.
    ///
    /// # Errors
    /// If the request is malformed or the replica has stopped.
    pub(crate) async fn on_vote(&self, body: &[u8], leader_dead: bool) -> Result<Bytes, String> {
        let (_, mut request) =
            wire::decode_vote_request(body).map_err(|error| error.to_string())?;
        request.leadership_transfer |= leader_dead;
        let answer = self
            .raft
            .vote(request)
            .await
            .map_err(|error| error.to_string())?;
        Ok(wire::encode_vote_response(&answer))
    }

    /// # Errors
    /// If the request is malformed or the replica has stopped.
    pub(crate) async fn on_pre_vote(&self, body: &[u8]) -> Result<Bytes, String> {
        let (_, request) = wire::decode_vote_request(body).map_err(|error| error.to_string())?;
        let answer = self
            .raft
            .pre_vote(request)
            .await
            .map_err(|error| error.to_string())?;
        Ok(wire::encode_vote_response(&answer))
    }

    /// # Errors
    /// If the request is malformed, or refused by Raft's rules.
    pub(crate) async fn on_transfer_leader(&self, body: &[u8]) -> Result<Bytes, String> {
        let wire: wire::Transfer = wire::decode(body).map_err(|error| error.to_string())?;
        let request =
            TransferLeaderRequest::new(wire.from.into(), wire.to, wire.last.map(Into::into));
        match self.raft.handle_transfer_leader(request).await {
            Ok(Ok(())) => Ok(Bytes::new()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Gets ready for a snapshot and tells what is here already.
    ///
    /// # Errors
    /// If the store cannot stage one.
    pub(crate) fn on_snapshot_begin(&self, body: &[u8]) -> Result<Bytes, String> {
        let begin: wire::SnapshotBegin = wire::decode(body).map_err(|error| error.to_string())?;
        let sender: types::Vote = begin.vote.into();
        let known = self.group.vote().map_or(0, |vote| vote.term);
        if types::stored_vote(&sender).term < known {
            return Err("this snapshot's sender does not lead any more".into());
        }
        let mut incoming = self.incoming.lock().unwrap_or_else(PoisonError::into_inner);
        // The rows staged by an older transfer go before new ones are staged.
        drop(incoming.take());
        let install = self.group.install().map_err(|error| error.to_string())?;
        let have = self.group.have().map_err(|error| error.to_string())?;
        let transfer = edge::random();
        *incoming = Some(IncomingSnapshot {
            transfer,
            next: 0,
            install,
        });
        Ok(wire::encode(&wire::SnapshotHave {
            transfer,
            applied_index: have.applied_index,
            index_after: have.index_after,
        }))
    }

    /// # Errors
    /// If the chunk is not the next of the transfer, or is malformed.
    pub(crate) async fn on_snapshot_chunk(&self, body: Bytes) -> Result<Bytes, String> {
        let (header, chunk): (wire::SnapshotChunk, Bytes) =
            wire::decode_parts(body).map_err(|error| error.to_string())?;
        let (done, written) = completion();
        {
            let mut incoming = self.incoming.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(current) = incoming
                .as_mut()
                .filter(|current| current.transfer == header.transfer)
            else {
                return Err("this snapshot's transfer was replaced by another".into());
            };
            if current.next != header.number {
                return Err(format!(
                    "chunk {} came instead of {}",
                    header.number, current.next
                ));
            }
            current.install.chunk(&chunk, done);
            current.next += 1;
        }
        if let Err(error) = written.wait().await {
            // What is staged is incomplete now.
            let mut incoming = self.incoming.lock().unwrap_or_else(PoisonError::into_inner);
            incoming.take_if(|current| current.transfer == header.transfer);
            return Err(error.to_string());
        }
        Ok(Bytes::new())
    }

    /// # Errors
    /// If the transfer is incomplete, or the replica has stopped.
    pub(crate) async fn on_snapshot_end(&self, body: &[u8]) -> Result<Bytes, String> {
        let end: wire::SnapshotEnd = wire::decode(body).map_err(|error| error.to_string())?;
        let staged = {
            let mut incoming = self.incoming.lock().unwrap_or_else(PoisonError::into_inner);
            match incoming.take() {
                Some(current) if current.transfer == end.transfer && current.next == end.chunks => {
                    current.install
                }
                Some(other) => {
                    *incoming = Some(other);
                    return Err("this snapshot's transfer is not complete here".into());
                }
                None => return Err("this snapshot's transfer was not begun here".into()),
            }
        };
        let meta = super::snapshot::meta(end.last.map(Into::into), &end.membership)
            .map_err(|error| error.to_string())?;
        let last = meta.last_log_id.as_ref().map(types::stored_log_id);
        let vote = types::stored_vote(&end.vote.into());
        if last.is_none()
            || staged.covers() != last
            || last.is_some_and(|last| last.term > vote.term)
        {
            return Err("this snapshot does not end where its sender says".into());
        }
        let snapshot = openraft::type_config::alias::SnapshotOf::<TypeConfig, SnapshotData> {
            meta,
            snapshot: SnapshotData::Staged(staged),
        };
        let answer = self
            .raft
            .install_full_snapshot(end.vote.into(), snapshot)
            .await
            .map_err(|error| error.to_string())?;
        Ok(wire::encode(&wire::WireVote::from(&answer.vote)))
    }
}

/// See [`Consensus::leader_changes`].
pub(crate) struct LeaderChanges {
    metrics: WatchReceiverOf<TypeConfig, RaftServerMetrics<TypeConfig>>,
    heard: watch::Receiver<bool>,
    knowledge: Arc<Knowledge>,
}

impl LeaderChanges {
    pub(crate) async fn changed(&mut self) -> bool {
        tokio::select! {
            changed = self.metrics.changed() => changed.is_ok(),
            Ok(()) = self.heard.changed() => true,
        }
    }

    pub(crate) fn leader(&self) -> LeaderView {
        self.knowledge.leader(&self.metrics.borrow_watched())
    }
}

/// Tells a leader that is there from one that is only remembered: a replica that is opened takes the
/// leader of the vote on its disk for the current one, itself included, dead or alive.
struct Knowledge {
    node: NodeId,
    opened: Option<storage::Vote>,
    heard: watch::Sender<bool>,
    /// See [`Consensus::resumes`].
    resumes: AtomicBool,
}

impl Knowledge {
    fn resumes(&self, metrics: &RaftServerMetrics<TypeConfig>) -> bool {
        // There is no vote in the first metrics of a replica; a later term ends it.
        let term = types::stored_vote(&metrics.vote).term;
        let opened = self.opened.map_or(0, |vote| vote.term);
        self.resumes.load(Ordering::Acquire) && term <= opened
    }

    fn leader(&self, metrics: &RaftServerMetrics<TypeConfig>) -> LeaderView {
        let vote = types::stored_vote(&metrics.vote);
        let resumes = self.resumes(metrics);
        let leads = metrics.state == ServerState::Leader && !resumes;
        let known = metrics
            .current_leader
            .filter(|leader| match *leader == self.node {
                true => leads,
                false => Some(vote) != self.opened || *self.heard.borrow(),
            });
        LeaderView {
            leader: known,
            remembered: metrics
                .current_leader
                .filter(|leader| resumes || *leader != self.node),
            // The first metrics know no vote.
            term: self.opened.map_or(0, |vote| vote.term).max(vote.term),
        }
    }
}

/// Calls back exactly once: with a result, or with "unknown" when dropped.
struct Answer(Option<Box<dyn FnOnce(Proposal) + Send>>);

impl Answer {
    fn give(mut self, proposal: Proposal) {
        if let Some(done) = self.0.take() {
            done(proposal);
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(done) = self.0.take() {
            done(Err(ProposeError::Unknown));
        }
    }
}

fn proposal(result: ClientWriteResult<TypeConfig>) -> Proposal {
    match result {
        Ok(response) => {
            let reply = response.data;
            Ok(reply
                .parts
                .iter()
                .map(|part| reply.outcomes[part.slots.clone()].to_vec())
                .collect())
        }
        // openraft gives this one only before the entry was appended.
        Err(ClientWriteError::ForwardToLeader(forward)) => Err(ProposeError::NotLeader {
            leader: forward.leader_id,
        }),
        Err(
            ClientWriteError::LogEntryDiscarded(_)
            | ClientWriteError::ChangeMembershipError(_)
            | ClientWriteError::PreconditionFailed(_),
        ) => Err(ProposeError::Unknown),
    }
}

fn config(options: &ConsensusOptions, group: u64) -> io::Result<Config> {
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
