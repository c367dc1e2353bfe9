//! One group's Raft replica, behind our own types.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use accord_storage as storage;
use bytes::Bytes;
use openraft::Raft;
use openraft::errors::ClientWriteError;
use openraft::raft::AppendEntriesRequest;
use openraft::raft::ClientWriteResult;
use openraft::raft::TransferLeaderRequest;
use tokio::sync::SemaphorePermit;
use tokio::sync::watch;

use super::engine::Engine;
use super::leadership::LeaderChanges;
use super::leadership::LeaderView;
use super::log_store::completion;
use super::snapshot::SnapshotData;
use super::state_machine::Applier;
use super::state_machine::Commits;
use super::state_machine::Progress;
use super::steady::Answer;
use super::steady::Ballot;
use super::steady::SteadyRequest;
use super::types;
use super::types::BatchBytes;
use super::types::Callback;
use super::types::TypeConfig;
use super::wire;
use crate::edge;
use crate::machine::Kind;
use crate::machine::Outcome;
use crate::machine::Outlook;
use crate::transport::NodeId;
use crate::transport::Peer;

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
pub(crate) struct Opening<'a> {
    /// Unless it may, it campaigns only after [`Consensus::allow_elections`].
    pub(crate) may_campaign: bool,
    /// It goes on as the leader of its term. Only if it closed as that in this very process, and so
    /// with its whole log: after a crash its followers may hold entries that its own disk lost, and it
    /// would give their places to others.
    pub(crate) may_resume: bool,
    /// The replicas that the directory gave the group. One that holds nothing is founded with them:
    /// the first leads its first term.
    pub(crate) replicas: Option<Vec<NodeId>>,
    /// Given back once it is open, or waits for others.
    pub(crate) turn: SemaphorePermit<'a>,
}

/// Which leader a replica follows, and where its log ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) term: u64,
    pub(crate) leader: NodeId,
    pub(crate) last: storage::LogId,
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
        opening: Opening<'_>,
        peer: impl Fn(NodeId) -> Option<Peer> + Send + Sync + 'static,
    ) -> io::Result<Consensus> {
        let engine = Engine::open(options, kind, group, commits, opening, Arc::new(peer)).await?;
        Ok(Consensus {
            engine,
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

    /// As [`Consensus::rouse`], because somebody lacks entries that should be on their way. As long as
    /// they are, they only take long; if they do not arrive, whoever sent them has openraft take over.
    ///
    /// # Errors
    /// As [`Consensus::rouse`].
    pub(crate) async fn rouse_if_overdue(&self) -> io::Result<()> {
        match self.engine.leading() {
            Some(steady) if steady.is_replicating() => Ok(()),
            _ => self.rouse().await,
        }
    }

    /// Whether it replicates without openraft.
    pub(crate) fn is_steady(&self) -> bool {
        self.engine.steady().is_some()
    }

    /// As a steady leader, the voters that it does not send entries to.
    pub(crate) fn left_out(&self) -> Vec<NodeId> {
        let steady = self.engine.leading();
        steady.map(|steady| steady.left_out()).unwrap_or_default()
    }

    /// Writes the first membership into an empty replica of the directory. Every replica may do so by
    /// itself: the entry is the same on all. (A channel's is founded when it is opened.)
    ///
    /// # Errors
    /// If the replica has stopped, or holds something already.
    pub(crate) async fn initialize(&self, voters: &[NodeId]) -> io::Result<()> {
        let voters: BTreeSet<NodeId> = voters.iter().copied().collect();
        let raft = self.raft().await?;
        raft.initialize(voters).await.map_err(io::Error::other)
    }

    pub(crate) fn leader(&self) -> LeaderView {
        self.engine.leader()
    }

    /// Resolves at the next change of what [`Consensus::leader`] may answer; false once stopped.
    pub(crate) fn leader_changes(&self) -> LeaderChanges {
        LeaderChanges::new(self.engine.raft.subscribe(), &self.engine.knowledge)
    }

    /// The leader of its vote does not lead any more, or so it seems: it counts as remembered again.
    pub(crate) fn doubt(&self) {
        if self.is_steady() {
            self.engine.knowledge.set_heard(false);
        }
    }

    /// The leader of its vote has been heard: it leads still.
    pub(crate) fn note_heard(&self) {
        self.engine.knowledge.set_heard(true);
    }

    pub(crate) fn voters(&self) -> Vec<NodeId> {
        self.engine.voters()
    }

    pub(crate) fn progress(&self) -> watch::Receiver<Progress> {
        self.engine.published.progress()
    }

    pub(crate) fn computed_next(&self) -> &AtomicU64 {
        self.engine.published.computed_next()
    }

    /// What the group has yet to do, by rows that can be read here.
    pub(crate) fn outlook(&self) -> Outlook {
        self.engine.published.outlook()
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
        self.engine.is_in_office()
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
        self.engine
            .steady()
            .is_some_and(|steady| steady.is_at_rest())
    }

    /// Tells the followers at once what is committed.
    pub(crate) async fn heartbeat(&self) {
        let raft = self.engine.raft.borrow().clone();
        if let Some(raft) = raft {
            // A stopped replica has nothing to tell.
            let _ = raft.trigger().heartbeat().await;
        }
    }

    /// Whether a batch should be proposed now. A steady leader waits for a follower that does not keep
    /// up, since nobody else bounds what is on its way to it.
    pub(crate) fn has_room(&self) -> bool {
        let leading = self.engine.leading();
        leading.is_none_or(|steady| !steady.is_crowded())
    }

    /// Resolves when there is room, or the follower has taken so long that openraft takes over, which
    /// lets it lag behind.
    pub(crate) async fn ready(&self) {
        let Some(steady) = self.engine.leading() else {
            return;
        };
        if !steady.relieved().await {
            let group = self.group().id().0;
            tracing::debug!(group, "a follower does not keep up with a steady leader");
            // At once, so that nobody waits for it any more.
            steady.end();
            Arc::clone(&self.engine).take_over();
        }
    }

    /// Enqueues a batch; `done` is called with what it came to, from whichever task knows it. It is
    /// refused while openraft takes over: that may take longer than those who wait for an answer do.
    pub(crate) async fn propose(&self, batch: Bytes, done: impl FnOnce(Proposal) + Send + 'static) {
        // The callback is dropped without a call if the replica stops; the guard answers then.
        let mut batch = batch;
        let mut guard = Answer::new(done);
        if let Some(steady) = self.engine.leading() {
            match steady.propose(batch, guard) {
                Ok(replication) => return Arc::clone(&self.engine).replicate(replication),
                Err((back, answer)) => (batch, guard) = (back, answer),
            }
        }
        let raft = self.engine.raft.borrow().clone();
        let Some(raft) = raft else {
            Arc::clone(&self.engine).take_over();
            return guard.give(Err(ProposeError::NotLeader { leader: None }));
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
        // A leader that has been elected knows what is committed once an entry of its own term is. One
        // that replicates steadily began with all of its log applied.
        let knows = self.is_steady() || last.term == leader.term;
        let leads = leader.leader == Some(self.engine.options.node) && knows;
        leads.then_some((leader.term, last.index))
    }

    /// Takes the place of a leader that a majority sees `dead`, without openraft: true if that is
    /// done. It is not where the replicas have anything to decide.
    pub(crate) async fn succeed(&self, dead: NodeId) -> bool {
        self.engine.succeed(dead).await
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
        self.engine.allow_elections();
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
        let steady = self.engine.steady();
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

    /// Gives a candidate this follower's vote for a later term; the answer is due when this resolves.
    /// `is_dead`: whether this node sees the process of a node dead.
    ///
    /// # Errors
    /// If that is not for steady replication to do.
    pub(crate) async fn on_ballot(
        &self,
        ballot: Ballot,
        is_dead: impl FnOnce(NodeId) -> bool,
    ) -> Result<Bytes, String> {
        let Some(written) = self.engine.grant(&ballot, is_dead) else {
            return Err("this replica would have to vote by openraft".into());
        };
        match written.wait().await {
            Ok(()) => Ok(Bytes::new()),
            Err(error) => Err(error.to_string()),
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use accord_storage::GroupId;
    use accord_storage::Options;
    use accord_storage::Store;
    use futures_util::FutureExt;
    use tokio::sync::Semaphore;

    use super::*;
    use crate::consensus::state_machine::Nobody;

    const NODE: NodeId = 1;

    #[tokio::test]
    async fn whoever_proposes_does_not_wait_until_openraft_has_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Options::new(dir.path(), "steady", NODE)).unwrap();
        let group = store.group(GroupId(7)).unwrap();
        let options = ConsensusOptions {
            node: NODE,
            election_timeout: Duration::from_secs(10),
            heartbeat: Duration::from_secs(1),
            snapshot_after_entries: 1_000,
            snapshot_keep_entries: 1_000,
        };
        let turns = Semaphore::new(1);
        let opening = Opening {
            may_campaign: true,
            may_resume: false,
            replicas: Some(vec![NODE, 2, 3]),
            turn: turns.acquire().await.unwrap(),
        };
        let (kind, commits) = (Kind::Channel, Arc::new(Nobody));
        let opened = Consensus::open(&options, kind, group, commits, opening, |_| None).await;
        let consensus = opened.unwrap();
        assert!(consensus.is_steady() && consensus.has_room());
        consensus.engine.steady().unwrap().end();
        let (sender, answer) = mpsc::sync_channel(1);
        let done = move |proposal| sender.send(proposal).unwrap();
        let proposed = consensus.propose(Bytes::from_static(&[1]), done);
        assert!(proposed.now_or_never().is_some(), "it does not wait");
        let refused = ProposeError::NotLeader { leader: None };
        assert_eq!(answer.try_recv().unwrap().unwrap_err(), refused);
        let mut raft = consensus.engine.raft.subscribe();
        raft.wait_for(Option::is_some).await.unwrap();
        assert!(!consensus.is_steady());
        consensus.stop().await;
    }
}
