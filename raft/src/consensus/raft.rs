//! One group's Raft replica, behind our own types.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::Weak;
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
use openraft::raft::AppendEntriesResponse;
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
use super::state_machine::Published;
use super::steady::Answer;
use super::steady::Beginning;
use super::steady::Keep;
use super::steady::Steady;
use super::steady::SteadyRequest;
use super::steady::UNAPPLIED_MAX;
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
/// Before the next one.
const RESUME_PAUSE: Duration = Duration::from_millis(250);

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

/// A running replica: steady while its term is settled, openraft's for all else.
pub(crate) struct Consensus {
    engine: Arc<Engine>,
    knowledge: Arc<Knowledge>,
    incoming: Mutex<Option<IncomingSnapshot>>,
}

/// A snapshot on its way in. A newer one replaces it.
struct IncomingSnapshot {
    transfer: u64,
    next: u64,
    install: storage::Install,
}

type PeerOf = Arc<dyn Fn(NodeId) -> Option<Peer> + Send + Sync>;

/// What runs a replica, one of the two at a time: whoever takes over finds on the disk what the other
/// has told anybody.
struct Engine {
    options: ConsensusOptions,
    kind: Kind,
    group: storage::Group,
    commits: Arc<dyn Commits>,
    published: Arc<Published>,
    may_campaign: AtomicBool,
    restores: bool,
    peer: PeerOf,
    knowledge: Arc<Knowledge>,
    voters: Vec<NodeId>,
    steady: Option<Arc<Steady>>,
    raft: watch::Sender<Option<Raft<TypeConfig, Applier>>>,
    /// Held while openraft is started or stopped.
    stopped: tokio::sync::Mutex<bool>,
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
        let restores = opening.may_resume || edge::restores_leaders();
        let vote = group.vote();
        let published = Arc::new(Published::default());
        let applier = Applier::load(
            kind,
            group.clone(),
            Arc::clone(&commits),
            Arc::clone(&published),
        )?;
        let voters: Vec<NodeId> = applier.membership().voter_ids().collect();
        let settled = vote
            .filter(|_| kind == Kind::Channel && opening.may_campaign)
            .filter(|vote| vote.committed && voters.contains(&options.node))
            .filter(|vote| restores || vote.node != options.node);
        let peer: PeerOf = Arc::new(peer);
        let mut applier = Some(applier);
        let steady = match settled {
            Some(vote) => begin_steady(options, &group, vote, &voters, &mut applier, &peer)?,
            None => None,
        };
        let knowledge = Arc::new(Knowledge {
            node: options.node,
            opened: vote,
            heard: watch::Sender::new(false),
            resumes: AtomicBool::new(
                restores && vote.is_some_and(|vote| vote.committed && vote.node == options.node),
            ),
            steady: AtomicBool::new(steady.is_some()),
        });
        let engine = Arc::new(Engine {
            options: options.clone(),
            kind,
            group,
            commits,
            published,
            may_campaign: AtomicBool::new(opening.may_campaign),
            restores,
            peer,
            knowledge: Arc::clone(&knowledge),
            voters,
            steady,
            raft: watch::Sender::new(None),
            stopped: tokio::sync::Mutex::new(false),
        });
        if let Some(applier) = applier {
            engine.start(Some(applier)).await?;
        }
        Ok(Consensus {
            engine,
            knowledge,
            incoming: Mutex::new(None),
        })
    }

    /// openraft's replica, started if this one was steady until now.
    async fn raft(&self) -> io::Result<Raft<TypeConfig, Applier>> {
        self.engine.raft().await
    }

    /// Has openraft take over: something is amiss that only it can mend.
    ///
    /// # Errors
    /// If the replica has stopped, or its state cannot be read.
    pub(crate) async fn rouse(&self) -> io::Result<()> {
        self.raft().await.map(drop)
    }

    /// Whether it replicates without openraft.
    pub(crate) fn is_steady(&self) -> bool {
        self.knowledge.is_steady()
    }

    /// As a steady leader, the voters that it does not send entries to.
    pub(crate) fn left_out(&self) -> Vec<NodeId> {
        let steady = self.engine.leading();
        steady.map(|steady| steady.left_out()).unwrap_or_default()
    }

    /// Writes the first membership into an empty replica. Every replica may do so by itself: the
    /// entry is the same on all.
    ///
    /// # Errors
    /// If the replica has stopped, or holds something already.
    pub(crate) async fn initialize(&self, voters: &[NodeId]) -> io::Result<()> {
        let voters: BTreeSet<NodeId> = voters.iter().copied().collect();
        let raft = self.raft().await?;
        raft.initialize(voters).await.map_err(io::Error::other)
    }

    pub(crate) fn leader(&self) -> LeaderView {
        match &*self.engine.raft.borrow() {
            Some(raft) => self
                .knowledge
                .leader(&raft.server_metrics().borrow_watched()),
            None => self.knowledge.leader_without_metrics(),
        }
    }

    /// Resolves at the next change of what [`Consensus::leader`] may answer; false once stopped.
    pub(crate) fn leader_changes(&self) -> LeaderChanges {
        let engine = self.engine.raft.subscribe();
        let metrics = engine.borrow().as_ref().map(Raft::server_metrics);
        LeaderChanges {
            engine,
            metrics,
            heard: self.knowledge.heard.subscribe(),
            knowledge: Arc::clone(&self.knowledge),
        }
    }

    /// The leader of its vote does not lead any more, or so it seems: it counts as remembered again.
    pub(crate) fn doubt(&self) {
        if self.is_steady() {
            let forget = |heard: &mut bool| std::mem::replace(heard, false);
            self.knowledge.heard.send_if_modified(forget);
        }
    }

    /// The leader of its vote has been heard: it leads still.
    pub(crate) fn note_heard(&self) {
        let hear = |heard: &mut bool| !std::mem::replace(heard, true);
        self.knowledge.heard.send_if_modified(hear);
    }

    /// Whether it has a membership.
    pub(crate) fn is_founded(&self) -> bool {
        !self.voters().is_empty()
    }

    pub(crate) fn voters(&self) -> Vec<NodeId> {
        let raft = self.engine.raft.borrow();
        let voters: Vec<_> = raft.iter().flat_map(Raft::voter_ids).collect();
        // openraft knows none until it has said its first word.
        match voters.is_empty() {
            true => self.engine.voters.clone(),
            false => voters,
        }
    }

    pub(crate) fn progress(&self) -> watch::Receiver<Progress> {
        self.engine.published.progress()
    }

    pub(crate) fn computed_next(&self) -> &AtomicU64 {
        self.engine.published.computed_next()
    }

    pub(crate) fn group(&self) -> &storage::Group {
        &self.engine.group
    }

    /// It leads by a vote from before it was closed, and nobody has confirmed that since. Its writes
    /// would be refused, since its lease has run out. It sees to that by itself.
    pub(crate) fn resumes(&self) -> bool {
        self.engine.resumes()
    }

    /// Whether it leads, confirmed or not.
    pub(crate) fn is_in_office(&self) -> bool {
        let raft = self.engine.raft.borrow();
        let leads = |raft: &Raft<TypeConfig, Applier>| {
            raft.server_metrics().borrow_watched().state == ServerState::Leader
        };
        raft.as_ref()
            .map_or_else(|| self.engine.leading().is_some(), leads)
    }

    /// Where it stands: what two replicas that agree on are level.
    pub(crate) fn place(&self) -> Option<Place> {
        let vote = self.group().vote()?;
        let last = self.group().log_state().last?;
        Some(Place {
            term: vote.term,
            leader: vote.node,
            last,
        })
    }

    /// Whether all of its log is applied.
    pub(crate) fn is_settled(&self) -> bool {
        self.group().log_state().last == self.group().applied()
    }

    /// Whether it replicates without openraft, and nothing is under way.
    pub(crate) fn is_at_rest(&self) -> bool {
        let steady = self.engine.steady.as_ref().filter(|_| self.is_steady());
        steady.is_some_and(|steady| steady.is_at_rest())
    }

    /// Tells the followers at once what is committed.
    pub(crate) async fn heartbeat(&self) {
        let raft = self.engine.raft.borrow().clone();
        if let Some(raft) = raft {
            // A stopped replica has nothing to tell.
            let _ = raft.trigger().heartbeat().await;
        }
    }

    /// Enqueues a batch; `done` is called with what it came to, from whichever task knows it.
    pub(crate) async fn propose(&self, batch: Bytes, done: impl FnOnce(Proposal) + Send + 'static) {
        // The callback is dropped without a call if the replica stops; the guard answers then.
        let mut batch = batch;
        let mut guard = Answer::new(done);
        if let Some(steady) = self.engine.leading() {
            match steady.propose(batch, guard) {
                Ok(replication) => {
                    let engine = Arc::clone(&self.engine);
                    tokio::spawn(async move {
                        if replication.run().await.is_err() {
                            engine.take_over();
                        }
                    });
                    return;
                }
                Err((back, answer)) => (batch, guard) = (back, answer),
            }
        }
        let Ok(raft) = self.raft().await else {
            return;
        };
        let responder = Callback::new(move |result: ClientWriteResult<TypeConfig>| {
            guard.give(proposal(result))
        });
        // A stopped replica drops the responder, which answers.
        let _ = raft
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
        let last = self.group().log_state().last?;
        let leads = leader.leader == Some(self.knowledge.node) && last.term == leader.term;
        leads.then_some((leader.term, last.index))
    }

    /// Campaigns at once. Without a pre-vote only where a majority sees the leader dead: its lease
    /// protects nobody then.
    pub(crate) async fn campaign(&self, pre_vote: bool) {
        // A stopped replica needs no leader.
        if let Ok(raft) = self.raft().await {
            let _ = raft.trigger().elect(pre_vote).await;
        }
    }

    /// From now on it campaigns when it hears of no leader for long.
    pub(crate) fn allow_elections(&self) {
        self.engine.may_campaign.store(true, Ordering::Release);
        if let Some(raft) = &*self.engine.raft.borrow() {
            raft.runtime_config().elect(true);
        }
    }

    /// The highest term that is known here, on the disk.
    pub(crate) fn term(&self) -> u64 {
        self.group().vote().map_or(0, |vote| vote.term)
    }

    pub(crate) async fn transfer_leader(&self, to: NodeId) {
        if let Ok(raft) = self.raft().await {
            let _ = raft.trigger().transfer_leader(to).await;
        }
    }

    pub(crate) async fn stop(&self) {
        self.engine.stop().await;
    }

    /// # Errors
    /// If the request is malformed or the replica has stopped.
    pub(crate) async fn on_append(
        &self,
        request: AppendEntriesRequest<TypeConfig>,
    ) -> Result<Bytes, String> {
        // An append request comes from a leader.
        self.note_heard();
        let raft = self.raft().await.map_err(|error| error.to_string())?;
        let answer = raft
            .append_entries(request)
            .await
            .map_err(|error| error.to_string())?;
        Ok(wire::encode_appended(&answer))
    }

    /// Takes what a steady leader sends, in order of calls; the answer is due when it resolves.
    pub(crate) fn on_steady(
        &self,
        request: SteadyRequest,
    ) -> impl Future<Output = Result<Bytes, String>> + Send + use<> {
        let steady = self.engine.steady.as_ref();
        let taken = steady.and_then(|steady| steady.accept(&request));
        if taken.is_some() {
            self.note_heard();
        }
        let engine = Arc::clone(&self.engine);
        async move {
            match taken {
                Some(None) => Ok(Bytes::new()),
                Some(Some(written)) => match written.wait().await {
                    Ok(()) => Ok(Bytes::new()),
                    Err(error) => Err(error.to_string()),
                },
                None => engine.append(&request).await,
            }
        }
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
        let raft = self.raft().await.map_err(|error| error.to_string())?;
        let answer = raft
            .vote(request)
            .await
            .map_err(|error| error.to_string())?;
        Ok(wire::encode_vote_response(&answer))
    }

    /// # Errors
    /// If the request is malformed or the replica has stopped.
    pub(crate) async fn on_pre_vote(&self, body: &[u8]) -> Result<Bytes, String> {
        let (_, request) = wire::decode_vote_request(body).map_err(|error| error.to_string())?;
        let raft = self.raft().await.map_err(|error| error.to_string())?;
        let answer = raft
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
        let raft = self.raft().await.map_err(|error| error.to_string())?;
        match raft.handle_transfer_leader(request).await {
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
        let known = self.group().vote().map_or(0, |vote| vote.term);
        if types::stored_vote(&sender).term < known {
            return Err("this snapshot's sender does not lead any more".into());
        }
        let mut incoming = self.incoming.lock().unwrap_or_else(PoisonError::into_inner);
        // The rows staged by an older transfer go before new ones are staged.
        drop(incoming.take());
        let install = self.group().install().map_err(|error| error.to_string())?;
        let have = self.group().have().map_err(|error| error.to_string())?;
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
        let raft = self.raft().await.map_err(|error| error.to_string())?;
        let answer = raft
            .install_full_snapshot(end.vote.into(), snapshot)
            .await
            .map_err(|error| error.to_string())?;
        Ok(wire::encode(&wire::WireVote::from(&answer.vote)))
    }
}

impl Engine {
    /// Steady replication, while this node leads by it.
    fn leading(&self) -> Option<&Arc<Steady>> {
        let steady = self.steady.as_ref().filter(|steady| steady.leads());
        steady.filter(|_| self.knowledge.is_steady())
    }

    async fn raft(self: &Arc<Self>) -> io::Result<Raft<TypeConfig, Applier>> {
        if let Some(raft) = self.raft.borrow().clone() {
            return Ok(raft);
        }
        // On a task of its own: whoever asks may go away, and a replica must not be half started.
        let engine = Arc::clone(self);
        let started = tokio::spawn(async move { engine.start(None).await });
        started.await.map_err(io::Error::other)?
    }

    /// As [`Engine::raft`], without waiting for it.
    fn take_over(self: Arc<Self>) {
        tokio::spawn(async move {
            if let Err(error) = self.start(None).await {
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
        config.enable_leader_restore = Some(self.restores);
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

    async fn stop(&self) {
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

    /// A steady leader's request, taken by openraft.
    async fn append(self: Arc<Self>, request: &SteadyRequest) -> Result<Bytes, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let elective = request.elective().map_err(|error| text(&error))?;
        let raft = self.raft().await.map_err(|error| text(&error))?;
        let answer = raft.append_entries(elective).await;
        match answer.map_err(|error| text(&error))? {
            AppendEntriesResponse::Success => Ok(Bytes::new()),
            _ => Err("this replica's log ends elsewhere".into()),
        }
    }

    fn resumes(&self) -> bool {
        match &*self.raft.borrow() {
            Some(raft) => self
                .knowledge
                .resumes(&raft.server_metrics().borrow_watched()),
            // openraft is about to take over.
            None => !self.knowledge.is_steady() && self.knowledge.resumes.load(Ordering::Acquire),
        }
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
            engine.knowledge.resumes.store(false, Ordering::Release);
            engine.knowledge.heard.send_modify(|_| {});
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
    applier: &mut Option<Applier>,
    peer: &PeerOf,
) -> io::Result<Option<Arc<Steady>>> {
    let (Some(last), Some(applied)) = (group.log_state().last, group.applied()) else {
        return Ok(None);
    };
    let leads = vote.node == options.node;
    let missing = last.index.saturating_sub(applied.index);
    if missing > UNAPPLIED_MAX || (leads && (missing > 0 || last.term != vote.term)) {
        return Ok(None);
    }
    let unapplied = group
        .entries(applied.index + 1..last.index + 1, usize::MAX)
        .map_err(io::Error::other)?;
    let whole = unapplied.len() as u64 == missing
        && unapplied
            .iter()
            .all(|entry| types::is_plain(&entry.payload));
    let Some(applier) = applier.take_if(|_| whole) else {
        return Ok(None);
    };
    let others = voters.iter().filter(|node| **node != options.node);
    Ok(Some(Steady::begin(Beginning {
        group: group.clone(),
        node: options.node,
        term: vote.term,
        leader: vote.node,
        voters: voters.to_vec(),
        peers: others.filter_map(|node| peer(*node)).collect(),
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

/// See [`Consensus::leader_changes`].
pub(crate) struct LeaderChanges {
    engine: watch::Receiver<Option<Raft<TypeConfig, Applier>>>,
    metrics: Option<WatchReceiverOf<TypeConfig, RaftServerMetrics<TypeConfig>>>,
    heard: watch::Receiver<bool>,
    knowledge: Arc<Knowledge>,
}

impl LeaderChanges {
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
struct Knowledge {
    node: NodeId,
    opened: Option<storage::Vote>,
    heard: watch::Sender<bool>,
    /// See [`Consensus::resumes`].
    resumes: AtomicBool,
    /// The vote on the disk is that of a leader who leads without openraft.
    steady: AtomicBool,
}

impl Knowledge {
    fn is_steady(&self) -> bool {
        self.steady.load(Ordering::Acquire)
    }

    fn leave_steady(&self) {
        self.steady.store(false, Ordering::Release);
        self.heard.send_modify(|_| {});
    }

    /// As long as openraft does not run, or has not said anything yet.
    fn leader_without_metrics(&self) -> LeaderView {
        let vote = self.opened.filter(|vote| vote.committed);
        let voted = vote.map(|vote| vote.node);
        let known = |leader: &NodeId| *leader == self.node || *self.heard.borrow();
        LeaderView {
            leader: voted.filter(|leader| self.is_steady() && known(leader)),
            remembered: voted
                .filter(|leader| *leader != self.node || self.resumes.load(Ordering::Acquire)),
            term: self.opened.map_or(0, |vote| vote.term),
        }
    }

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

fn proposal(result: ClientWriteResult<TypeConfig>) -> Proposal {
    match result {
        Ok(response) => Ok(response.data.by_part()),
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
