//! A leader whose follower has lost its log (docs/adr/0012), told of it more than once.
//!
//! The leader is openraft with this crate's configuration, log store and state machine. A follower is
//! a list of what it holds, and an answer of it can be kept on its way for as long as a test likes.
//! No timer ends within a test: who leads, and when a heartbeat is sent, is said.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use accord_storage as storage;
use accord_storage::GroupId;
use accord_storage::Options;
use accord_storage::Store;
use openraft::EntryPayload;
use openraft::Raft;
use openraft::RaftNetworkFactory;
use openraft::ServerState;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::RPCError;
use openraft::errors::ReplicationClosed;
use openraft::errors::StreamingError;
use openraft::errors::Unreachable;
use openraft::impls::EmptyNode;
use openraft::network::RPCOption;
use openraft::network::v2::RaftNetworkV2;
use openraft::raft::AppendEntriesRequest;
use openraft::raft::AppendEntriesResponse;
use openraft::raft::SnapshotResponse;
use openraft::raft::VoteRequest;
use openraft::raft::VoteResponse;
use openraft::type_config::alias::SnapshotOf;
use tokio::sync::watch;

use super::ConsensusOptions;
use super::engine::config;
use super::log_store::LogStore;
use super::log_store::completion;
use super::snapshot::SnapshotData;
use super::state_machine::Applier;
use super::state_machine::Nobody;
use super::types;
use super::types::Entry;
use super::types::LogId;
use super::types::Membership;
use super::types::TypeConfig;
use super::types::Vote;
use super::types::stored_entry;
use crate::machine::Kind;
use crate::transport::NodeId;

const LEADER: NodeId = 1;
const SECOND: NodeId = 2;
const THIRD: NodeId = 3;
/// Longer than any test.
const NEVER: Duration = Duration::from_secs(3_600);
/// Entries from before the leader is elected: more than it compares with one request.
const ENTRIES: u64 = 20;

type Request = AppendEntriesRequest<TypeConfig>;
type Answer = AppendEntriesResponse<TypeConfig>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    Heartbeat,
    /// To take entries.
    Entries,
    /// On the way of entries, to hear what is committed.
    Commit,
}

/// Whether the answer to a request is kept on its way; it may lose something just before it takes it.
type Keeps = Box<dyn Fn(&mut Memory, Asked) -> bool + Send + Sync>;

/// What a follower holds, and what it was asked.
#[derive(Default)]
struct Memory {
    log: Vec<LogId>,
    /// It answers nothing any more.
    is_silent: bool,
    /// Until it says yes.
    keeps: Option<Keeps>,
    is_kept: bool,
    /// Requests with entries that it has taken.
    taken: u64,
    /// Those among them that brought what it held already.
    repeated: u64,
    /// What the last heartbeat takes it to hold.
    believed: Option<LogId>,
    heartbeats: u64,
}

impl Memory {
    /// Answers as Raft says, from what it holds at this moment, and says whether the answer is kept.
    fn take(&mut self, request: &Request, asked: Asked) -> (Answer, bool) {
        if asked == Asked::Heartbeat {
            self.believed = request.prev_log_id;
            self.heartbeats += 1;
        }
        let keeps = self.keeps.take();
        let is_kept = keeps.as_ref().is_some_and(|keeps| keeps(self, asked));
        self.is_kept |= is_kept;
        self.keeps = keeps.filter(|_| !is_kept);
        let next = request.prev_log_id.map_or(0, |prev| prev.index() + 1);
        let next = usize::try_from(next).unwrap();
        if request.prev_log_id.is_some() && self.log.get(next - 1) != request.prev_log_id.as_ref() {
            return (Answer::Conflict, is_kept);
        }
        if !request.entries.is_empty() {
            self.taken += 1;
            self.repeated += u64::from(next < self.log.len());
            self.log.truncate(next);
            self.log
                .extend(request.entries.iter().map(|entry| entry.log_id));
        }
        (Answer::Success, is_kept)
    }
}

#[derive(Clone)]
struct Follower(Arc<watch::Sender<Memory>>);

impl Follower {
    fn new(log: Vec<LogId>) -> Self {
        let memory = Memory {
            log,
            ..Memory::default()
        };
        Follower(Arc::new(watch::Sender::new(memory)))
    }

    fn change<R>(&self, change: impl FnOnce(&mut Memory) -> R) -> R {
        let mut result = None;
        self.0.send_modify(|memory| result = Some(change(memory)));
        result.expect("it was just changed")
    }

    async fn until(&self, done: impl FnMut(&Memory) -> bool) {
        let mut memory = self.0.subscribe();
        memory.wait_for(done).await.expect("it lives as long");
    }
}

/// One of the leader's ways to a follower: that of entries, or that of heartbeats.
struct Client {
    follower: Follower,
    is_of_entries: bool,
}

impl RaftNetworkV2<TypeConfig> for Client {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        request: Request,
        _option: RPCOption,
    ) -> Result<Answer, RPCError<TypeConfig>> {
        // It begins with entries, since there are some that the leader does not know to be there.
        self.is_of_entries |= !request.entries.is_empty();
        let asked = match (self.is_of_entries, request.entries.is_empty()) {
            (_, false) => Asked::Entries,
            (true, true) => Asked::Commit,
            (false, true) => Asked::Heartbeat,
        };
        let take = |memory: &mut Memory| memory.take(&request, asked);
        let (answer, is_kept) = self.follower.change(take);
        self.follower
            .until(|memory| !(memory.is_silent || is_kept && memory.is_kept))
            .await;
        Ok(answer)
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        Ok(VoteResponse::new(request.vote, None, true))
    }

    async fn full_snapshot(
        &mut self,
        _vote: Vote,
        _snapshot: SnapshotOf<TypeConfig, SnapshotData>,
        _cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let nothing = anyerror::AnyError::error("nothing is purged here");
        Err(Unreachable::new(&nothing).into())
    }
}

struct Followers(BTreeMap<NodeId, Follower>);

impl RaftNetworkFactory<TypeConfig> for Followers {
    type Network = Client;

    async fn new_client(&mut self, target: NodeId, _node: &EmptyNode) -> Client {
        Client {
            follower: self.0[&target].clone(),
            is_of_entries: false,
        }
    }
}

/// A leader in its first moments, and two followers that hold whatever it held before.
struct Cluster {
    raft: Raft<TypeConfig, Applier>,
    second: Follower,
    third: Follower,
    /// It closes behind its last handle.
    _store: Store,
    _dir: tempfile::TempDir,
}

impl Cluster {
    /// `keeps` is the third's.
    async fn start(keeps: Option<Keeps>) -> Cluster {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Options::new(dir.path(), "forgetful", LEADER)).unwrap();
        let group = store.group(GroupId(7)).unwrap();
        let before = entries();
        let log: Vec<LogId> = before.iter().map(|entry| entry.log_id).collect();
        let (done, written) = completion();
        let vote = storage::Vote {
            term: 1,
            node: SECOND,
            committed: true,
        };
        group.save_vote(vote, Box::new(|_| {}));
        group.append(before.into_iter().map(stored_entry).collect(), done);
        written.wait().await.unwrap();
        let (second, third) = (Follower::new(log.clone()), Follower::new(log));
        third.change(|memory| memory.keeps = keeps);
        let followers = [(SECOND, second.clone()), (THIRD, third.clone())];
        let options = ConsensusOptions {
            node: LEADER,
            election_timeout: NEVER * 2,
            heartbeat: NEVER,
            snapshot_after_entries: 10_000,
            snapshot_keep_entries: 10_000,
        };
        let applier = Applier::load(
            Kind::Channel,
            group.clone(),
            Arc::new(Nobody),
            Arc::default(),
        );
        let raft = Raft::new(
            LEADER,
            Arc::new(config(&options, 7).unwrap()),
            Followers(followers.into()),
            LogStore::new(group),
            applier.unwrap(),
        );
        let raft = raft.await.unwrap();
        raft.trigger().elect(false).await.unwrap();
        let mut metrics = raft.server_metrics();
        while metrics.borrow_watched().state != ServerState::Leader {
            metrics.changed().await.unwrap();
        }
        Cluster {
            raft,
            second,
            third,
            _store: store,
            _dir: dir,
        }
    }

    async fn write(&self) -> LogId {
        let written = self.raft.write_blank().await;
        written.expect("the leader goes on").log_id
    }

    /// Sends heartbeats until the third says so. The leader takes what it was told in an order of its
    /// own, so one may say what the one before it said.
    async fn heartbeats_until(&self, done: impl Fn(&Memory) -> bool) {
        while !done(&self.third.0.borrow()) {
            let heartbeats = self.third.0.borrow().heartbeats;
            let sent = self.raft.trigger().heartbeat().await;
            sent.expect("the leader goes on");
            self.until(|third| third.heartbeats > heartbeats).await;
        }
    }

    /// Waits for the third, unless the leader ends before.
    async fn until(&self, done: impl FnMut(&Memory) -> bool) {
        let mut metrics = self.raft.server_metrics();
        let ended = async { while metrics.changed().await.is_ok() {} };
        tokio::select! {
            () = self.third.until(done) => {}
            () = ended => panic!("the leader has ended"),
        }
    }

    /// A write that is committed with the third's help, so that whatever the leader counts is there.
    async fn write_with_the_third(&self) {
        self.second.change(|memory| memory.is_silent = true);
        let last = self.write().await;
        let memory = self.third.0.borrow();
        assert_eq!(memory.log.last(), Some(&last));
        assert_eq!(memory.log.len() as u64, last.index() + 1, "it holds all");
    }
}

fn entries() -> Vec<Entry> {
    let voters = BTreeSet::from([LEADER, SECOND, THIRD]);
    let membership = Membership::new(vec![voters.clone()], voters).unwrap();
    let first = EntryPayload::Membership(membership);
    let blanks = (1..ENTRIES).map(|_| EntryPayload::Blank);
    let payloads = std::iter::once(first).chain(blanks);
    let entry = |(index, payload)| Entry {
        log_id: types::log_id(storage::LogId { term: 1, index }),
        payload,
    };
    (0..).zip(payloads).map(entry).collect()
}

/// The answer to a heartbeat says what the answer to an append request has said already, and is read
/// when the follower holds everything again.
#[tokio::test]
async fn a_loss_that_is_told_again_after_it_was_mended_does_not_stop_the_leader() {
    let cluster = Cluster::start(None).await;
    let last = cluster.write().await;
    let loses_all: Keeps = Box::new(move |third, asked| {
        let comes = asked == Asked::Heartbeat && third.believed == Some(last);
        if comes {
            third.log.clear();
        }
        comes
    });
    cluster.third.change(|third| third.keeps = Some(loses_all));
    cluster.heartbeats_until(|third| third.is_kept).await;
    cluster.write_with_the_third().await;
    let repeated = cluster.third.0.borrow().repeated;
    cluster.third.change(|third| third.is_kept = false);
    // It believes the answer, and looks once more from where on the two logs differ.
    cluster.until(|third| third.repeated > repeated).await;
    cluster.write_with_the_third().await;
}

/// A follower takes entries, loses them with all others, and says so to a heartbeat; the answer that
/// it had taken them is read after that.
#[tokio::test]
async fn a_loss_that_an_older_answer_denies_is_found_again_and_does_not_stop_the_leader() {
    // The second request with entries goes out when the answer to the first has been read.
    let keeps: Keeps = Box::new(|third, asked| asked == Asked::Entries && third.taken == 1);
    let cluster = Cluster::start(Some(keeps)).await;
    cluster.until(|third| third.is_kept).await;
    let heartbeats = cluster.third.change(|third| {
        third.log.clear();
        third.heartbeats
    });
    // What a heartbeat says shows whether the leader has read the answer to one before.
    cluster
        .heartbeats_until(|third| third.heartbeats > heartbeats && third.believed.is_none())
        .await;
    cluster.third.change(|third| third.is_kept = false);
    cluster.write_with_the_third().await;
}
