//! One group as one node sees it: its replica if it has one, and its lane in any case.
//!
//! A group is awake here from the first time anybody asks for it until it is retired
//! ([`crate::hibernation`]). Its replica is opened on demand, by a client's request or a peer's
//! message, and never twice.

pub(crate) mod lane;
pub(crate) mod openings;
pub(crate) mod outbox;
pub(crate) mod reads;
pub(crate) mod registry;
pub(crate) mod submit;
pub(crate) mod tap;

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::Weak;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

use accord_storage::GroupId;
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;
use tokio::sync::OnceCell;
use tokio::sync::mpsc;

use crate::api::Channel;
use crate::api::Consistency;
use crate::api::GroupStatus;
use crate::api::ReadError;
use crate::consensus::AppendRequest;
use crate::consensus::Commits;
use crate::consensus::Consensus;
use crate::consensus::OVERDUE_AFTER;
use crate::consensus::Opening;
use crate::consensus::SteadyRequest;
use crate::failover;
use crate::failover::Line;
use crate::machine::Kind;
use crate::peers;
use crate::recovery;
use crate::rows::GroupRows;
use crate::shared::Shared;
use crate::transport::Call;
use crate::transport::NodeId;
use crate::transport::Reply;
use lane::LaneHandle;
use reads::SharedRounds;
use registry::Closing;
use tap::Tap;
use uuid::Uuid;

/// The group of servers, channels and nodes.
pub(crate) const DIRECTORY: GroupId = GroupId(0);

/// Append requests that may wait for a group to open or to take them. The leader has at most 32
/// under way, and a new leader as many again.
const APPENDS_WAITING_MAX: usize = 256;
/// How long a peer's message waits for the directory's word of a channel that nothing is known of
/// here.
const HEARD_OF_WITHIN: Duration = Duration::from_secs(1);
/// How long a leader may take to have openraft take over.
const ROUSE_DEADLINE: Duration = Duration::from_secs(1);
/// Pause before another try to find the leader for a read.
const READ_RETRY_PAUSE: Duration = Duration::from_millis(20);

/// What a leader sends a follower.
pub(crate) enum Append {
    /// openraft's request.
    Elective(AppendRequest),
    Steady(SteadyRequest),
}

impl Append {
    /// It says nothing but that there is a leader, or what is committed.
    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Append::Elective(request) => request.entries.is_empty(),
            Append::Steady(request) => request.is_empty(),
        }
    }
}

pub(crate) struct Group {
    pub(crate) id: GroupId,
    pub(crate) shared: Arc<Shared>,
    /// What the directory says of it; set once somebody on this node has read it there.
    record: OnceLock<Arc<Channel>>,
    /// The channel of `record`, as which a replica delivers from the first entry that it applies.
    channel: Arc<OnceLock<Uuid>>,
    replica: OnceCell<Arc<Replica>>,
    /// Whether it has its memory, as far as its own mark says; see [`Group::is_recovering`].
    recovered: AtomicBool,
    lane: LaneHandle,
    appends: OnceLock<mpsc::Sender<(Append, Reply)>>,
    /// Append requests that are not answered yet.
    appends_waiting: Arc<AtomicUsize>,
    /// Whether this node stands for election.
    standing: AtomicBool,
    /// The same group's last waking on this node, while it is still closing.
    before: Option<Closing>,
    /// Somebody is finding out whether its leader still leads.
    doubting: AtomicBool,
    /// Nobody can get hold of it any more.
    retired: AtomicBool,
    /// When it was last of use to anybody, in milliseconds of [`Shared::now_ms`]; 0 if it never was
    /// since it is awake: what a leader says without entries, or a look at it, is no use.
    used_ms: AtomicU64,
    /// When its leader was last heard, or it woke.
    heard_ms: AtomicU64,
}

/// This node's copy of a group.
pub(crate) struct Replica {
    pub(crate) consensus: Consensus,
    pub(crate) tap: Arc<Tap>,
    pub(crate) rows: GroupRows,
    /// Confirmations for reads on this node, wherever the leader is.
    reads: SharedRounds,
    /// Confirmations by this replica as leader, for all nodes.
    confirmations: SharedRounds,
}

impl Group {
    /// `before` is closing still; `recovered` as [`recovery::is_marked`] says.
    pub(crate) fn new(
        id: GroupId,
        shared: Arc<Shared>,
        before: Option<Closing>,
        recovered: bool,
    ) -> Arc<Group> {
        let now_ms = shared.now_ms();
        Arc::new_cyclic(|weak: &Weak<Group>| Group {
            id,
            record: OnceLock::new(),
            channel: Arc::default(),
            replica: OnceCell::new(),
            recovered: AtomicBool::new(recovered),
            lane: lane::start(Weak::clone(weak), &shared),
            appends: OnceLock::new(),
            appends_waiting: Arc::default(),
            standing: AtomicBool::new(false),
            before,
            doubting: AtomicBool::new(false),
            retired: AtomicBool::new(false),
            used_ms: AtomicU64::new(0),
            heard_ms: AtomicU64::new(now_ms),
            shared,
        })
    }

    pub(crate) fn lane(&self) -> &LaneHandle {
        &self.lane
    }

    /// Notes what the directory says of the group.
    pub(crate) fn set_record(&self, record: &Arc<Channel>) {
        self.channel.get_or_init(|| Uuid::from_bytes(record.id));
        self.record.get_or_init(|| Arc::clone(record));
    }

    /// Whether this node's replica may have forgotten votes and acknowledgements: it must neither
    /// vote nor campaign, nor found itself.
    pub(crate) fn is_recovering(&self) -> bool {
        !self.recovered.load(Ordering::Acquire) && self.shared.recovery.concerns(self.id)
    }

    pub(crate) fn set_recovered(&self) {
        self.recovered.store(true, Ordering::Release);
    }

    /// What the directory says of it, if that is known here.
    pub(crate) fn record(&self) -> Option<&Arc<Channel>> {
        self.record.get()
    }

    pub(crate) fn has_record(&self) -> bool {
        self.record.get().is_some()
    }

    /// The nodes that hold replicas, the preferred leader first; `None` while this node does not
    /// know.
    pub(crate) fn replicas(&self) -> Option<Vec<NodeId>> {
        if self.id == DIRECTORY {
            return Some(self.shared.nodes());
        }
        if let Some(record) = self.record.get() {
            return Some(record.replicas.clone());
        }
        self.replica.get().map(|replica| replica.consensus.voters())
    }

    /// Whether this node holds a replica, as far as it knows.
    pub(crate) fn is_here(&self) -> bool {
        let this_node = self.shared.node();
        self.replicas()
            .is_some_and(|replicas| replicas.contains(&this_node))
    }

    /// Whether this node's replica can answer for the group. While it recovers the others do.
    pub(crate) fn serves_here(&self) -> bool {
        self.is_here() && !self.is_recovering()
    }

    /// The replicas whose nodes are up, in turn: the first campaigns first, and knows most likely
    /// who leads.
    pub(crate) fn up(&self, turn: usize) -> Option<NodeId> {
        let replicas = self.replicas()?.into_iter();
        let serves = |node: &NodeId| *node != self.shared.node() || !self.is_recovering();
        let up = replicas.filter(|node| self.shared.is_up(*node) && serves(node));
        let up: Vec<_> = up.collect();
        up.get(turn % up.len().max(1)).copied()
    }

    /// The replica, if it is open already.
    pub(crate) fn open_replica(&self) -> Option<Arc<Replica>> {
        self.replica.get().cloned()
    }

    /// Opens the replica in the background if this node holds one and it is not open yet.
    pub(crate) fn wake(self: &Arc<Self>) {
        if self.replica.get().is_none() && self.serves_here() {
            let group = Arc::clone(self);
            tokio::spawn(async move { group.replica().await.map(drop) });
        }
    }

    /// Whether it would have to be opened here while too many others are in line for that.
    pub(crate) fn has_to_wait(&self) -> bool {
        self.replica.get().is_none() && self.serves_here() && self.shared.openings.are_crowded()
    }

    /// The replica, opened if need be.
    ///
    /// # Errors
    /// `Stopping`, `Recovering` before a replica without a memory knows what it has promised, `NoLeader`
    /// if it holds nothing and the directory's word does not come, or `Storage` if the group's state
    /// cannot be read.
    pub(crate) async fn replica(self: &Arc<Self>) -> Result<Arc<Replica>, ReadError> {
        if let Some(replica) = self.replica.get() {
            return Ok(Arc::clone(replica));
        }
        if self.is_recovering() {
            return Err(ReadError::Recovering);
        }
        self.open_replica_once().await
    }

    /// As [`Group::replica`], for whoever sees to its recovery: it finds out what it has promised first.
    ///
    /// # Errors
    /// `Stopping`, `Recovering` if not all others say so, or `Storage` if the group's state cannot be
    /// read.
    pub(crate) async fn open_replica_once(self: &Arc<Self>) -> Result<Arc<Replica>, ReadError> {
        if let Some(replica) = self.replica.get() {
            return Ok(Arc::clone(replica));
        }
        // On a task of its own: whoever asks may go away, and a half-opened replica would block the
        // next try.
        let group = Arc::clone(self);
        let opening = tokio::spawn(async move {
            let mut fresh = false;
            let open = || {
                fresh = true;
                group.open()
            };
            let replica = group.replica.get_or_try_init(open).await.cloned();
            if fresh {
                match &replica {
                    Ok(replica) => group.begin(replica),
                    Err(ReadError::Stopping | ReadError::NoLeader | ReadError::Recovering) => {}
                    Err(error) => {
                        tracing::error!(group = group.id.0, %error, "a replica could not be opened")
                    }
                }
            }
            replica
        });
        opening.await.unwrap_or(Err(ReadError::Stopping))
    }

    /// What a replica needs once everybody can find it.
    fn begin(self: &Arc<Self>, replica: &Arc<Replica>) {
        self.shared.follow_leadership(self, replica);
        self.lane.look();
        if !self.is_led_steadily(replica) {
            tokio::spawn(failover::waken(Arc::clone(self), Line::Asked));
        }
    }

    /// Whether the replica leads, or follows a leader that can be reached, without openraft. If that
    /// leader does not lead any more, whoever wants something of it finds out.
    fn is_led_steadily(&self, replica: &Replica) -> bool {
        let leader = replica.consensus.leader().likely();
        replica.consensus.is_steady() && leader.is_some_and(|leader| self.shared.is_up(leader))
    }

    async fn open(self: &Arc<Self>) -> Result<Arc<Replica>, ReadError> {
        let shared = &self.shared;
        if let Some(before) = self.before.clone() {
            before.ended().await;
        }
        self.heard_of().await?;
        let turn = shared.openings.turn().await;
        if shared.is_stopping() {
            return Err(ReadError::Stopping);
        }
        let stored = shared.store.group(self.id).map_err(storage_error)?;
        let recovering = self.is_recovering();
        let may_resume = shared.groups.take_led(self.id);
        if recovering && stored.vote().is_none() {
            recovery::promise(self, &stored).await?;
        }
        let heads = shared.feeds.heads(self.id).unwrap_or_default();
        // It applies before anybody can find it here, and so delivers from the beginning.
        let tap = Arc::new(Tap::new(
            Arc::clone(&shared.delivery),
            Arc::clone(&self.channel),
            heads,
            (self.id, Arc::clone(&shared.timers)),
        ));
        let links = Arc::clone(shared);
        let consensus = Consensus::open(
            &shared.consensus,
            if self.id == DIRECTORY {
                Kind::Directory
            } else {
                Kind::Channel
            },
            stored.clone(),
            Arc::clone(&tap) as Arc<dyn Commits>,
            Opening {
                may_campaign: !recovering,
                may_resume,
                replicas: match self.id == DIRECTORY {
                    true => None,
                    false => self.replicas().filter(|_| self.serves_here()),
                },
                turn,
            },
            move |node| links.peer(node),
        )
        .await
        .map_err(|error| ReadError::Storage(error.to_string()))?;
        tap.begin(consensus.progress().borrow().head);
        let replica = Arc::new(Replica {
            consensus,
            tap,
            rows: GroupRows::new(stored),
            reads: SharedRounds::default(),
            confirmations: SharedRounds::default(),
        });
        self.found_directory(&replica).await;
        shared.wakes.fetch_add(1, Ordering::Relaxed);
        Ok(replica)
    }

    /// Waits until the directory's word of the channel has come, if there is nothing else here yet that
    /// a replica could begin with: a peer may have heard it sooner, and its messages with it.
    async fn heard_of(self: &Arc<Self>) -> Result<(), ReadError> {
        let shared = &self.shared;
        shared.learn(self);
        if self.id == DIRECTORY || self.has_record() {
            return Ok(());
        }
        let standing = shared.store.standing(self.id).map_err(storage_error)?;
        if standing.last.is_some() {
            return Ok(());
        }
        let Some(directory) = shared.directory().open_replica() else {
            return Err(ReadError::NoLeader);
        };
        let mut progress = directory.consensus.progress();
        let mut stopping = shared.stopping.subscribe();
        let heard = async {
            // Once more first: it may have come before anybody listened.
            loop {
                shared.learn(self);
                if self.has_record() || progress.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            _ = tokio::time::timeout(HEARD_OF_WITHIN, heard) => {}
            _ = stopping.wait_for(|stopping| *stopping) => return Err(ReadError::Stopping),
        }
        match self.has_record() {
            true => Ok(()),
            false => Err(ReadError::NoLeader),
        }
    }

    /// Gives the directory its first membership, if it holds nothing: the same on all replicas.
    pub(crate) async fn found_directory(&self, replica: &Replica) {
        if self.id == DIRECTORY && !self.is_recovering() && replica.consensus.group().is_pristine()
        {
            // Fails if a leader's first entry has just come, which does as well.
            let _ = replica.consensus.initialize(&self.shared.nodes()).await;
        }
    }

    /// Hands an append request to the replica, in order of calls.
    pub(crate) fn append(self: &Arc<Self>, request: Append, reply: Reply) {
        self.note_heard();
        if !request.is_empty() {
            self.touch();
        }
        let queue = self.appends.get_or_init(|| {
            let (sender, receiver) = mpsc::channel(APPENDS_WAITING_MAX);
            tokio::spawn(serve_appends(Arc::downgrade(self), receiver));
            sender
        });
        self.appends_waiting.fetch_add(1, Ordering::AcqRel);
        if let Err(error) = queue.try_send((request, reply)) {
            self.appends_waiting.fetch_sub(1, Ordering::AcqRel);
            let (_, reply) = error.into_inner();
            reply.refuse("too many append requests wait for this group");
        }
    }

    /// Somebody uses the group now.
    pub(crate) fn touch(&self) {
        self.used_ms.store(self.shared.now_ms(), Ordering::Relaxed);
    }

    /// Somebody used it at another node, so long ago.
    pub(crate) fn used_elsewhere(&self, unused_ms: u64) {
        let used_ms = self.shared.now_ms().saturating_sub(unused_ms);
        self.used_ms.fetch_max(used_ms, Ordering::Relaxed);
    }

    pub(crate) fn note_heard(&self) {
        self.heard_ms.store(self.shared.now_ms(), Ordering::Relaxed);
    }

    pub(crate) fn used_ms(&self) -> u64 {
        self.used_ms.load(Ordering::Relaxed)
    }

    pub(crate) fn heard_ms(&self) -> u64 {
        self.heard_ms.load(Ordering::Relaxed)
    }

    /// Nothing waits in it. Somebody may still be about to use it, unless nobody holds it.
    pub(crate) fn is_quiet(&self) -> bool {
        self.lane.is_empty() && self.appends_waiting.load(Ordering::Acquire) == 0
    }

    pub(crate) fn set_retired(&self) {
        self.retired.store(true, Ordering::Release);
    }

    pub(crate) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }

    pub(crate) fn before(&self) -> Option<Closing> {
        self.before.clone()
    }

    /// Makes the replica on this node show what `consistency` asks for.
    ///
    /// # Errors
    /// `NoLeader` in time, `Busy`, `Stopping` or `Storage`.
    pub(crate) async fn caught_up(
        self: &Arc<Self>,
        consistency: Consistency,
    ) -> Result<Arc<Replica>, ReadError> {
        let timeout = self.shared.options.timing.request_timeout;
        let caught_up = tokio::time::timeout(timeout, self.catch_up(consistency));
        caught_up.await.unwrap_or(Err(ReadError::NoLeader))
    }

    async fn catch_up(
        self: &Arc<Self>,
        consistency: Consistency,
    ) -> Result<Arc<Replica>, ReadError> {
        self.touch();
        let replica = self.replica().await?;
        let mut wanted = replica.consensus.computed_next().load(Ordering::Acquire);
        if consistency == Consistency::Linearizable {
            let group = Arc::clone(self);
            let rounds = Arc::clone(&replica);
            let run = || async move {
                rounds.reads.run(|| group.read_index()).await;
            };
            let index = replica.reads.index(run).await?;
            wanted = wanted.max(index + 1);
        }
        let mut progress = replica.consensus.progress();
        let mut stopping = self.shared.stopping.subscribe();
        let mut overdue_after = OVERDUE_AFTER;
        loop {
            let reached = progress.wait_for(|progress| progress.applied_next >= wanted);
            tokio::select! {
                reached = reached => match reached {
                    Ok(_) => return Ok(replica),
                    Err(_) => return Err(ReadError::Stopping),
                },
                _ = stopping.wait_for(|stopping| *stopping) => return Err(ReadError::Stopping),
                () = overdue(overdue_after) => {}
            }
            // Where it replicates without openraft it hears of what went missing on the way only so.
            // What was computed here has arrived: only its rows are late.
            if replica.consensus.computed_next().load(Ordering::Acquire) < wanted {
                self.rouse_leader(&replica).await;
            }
            overdue_after *= 4;
        }
    }

    /// Whoever this replica takes for the leader has refused something. A replica that follows steadily
    /// has no timer that would tell it that its leader does not lead any more.
    pub(crate) fn doubt_leader(self: &Arc<Self>) {
        if let Some(replica) = self.open_replica()
            && replica.consensus.is_steady()
            && !replica.consensus.is_in_office()
            && !self.doubting.swap(true, Ordering::AcqRel)
        {
            replica.consensus.doubt();
            let group = Arc::clone(self);
            tokio::spawn(async move {
                failover::waken(Arc::clone(&group), Line::Asked).await;
                group.doubting.store(false, Ordering::Release);
            });
        }
    }

    /// Has every follower brought level: by what is on its way already, or by openraft, which takes over
    /// at the leader then. False if the leader did not say so.
    pub(crate) async fn rouse_leader(&self, replica: &Replica) -> bool {
        match replica.consensus.leader().likely() {
            Some(leader) if leader == self.shared.node() => {
                replica.consensus.rouse_if_overdue().await.is_ok()
            }
            Some(leader) => match self.ask(leader, peers::Kind::Rouse, ROUSE_DEADLINE) {
                Some(call) => call.await.is_ok(),
                None => false,
            },
            None => false,
        }
    }

    /// Asks the leader, wherever it is, until it answers or the time is up.
    async fn read_index(self: &Arc<Self>) -> Result<u64, ReadError> {
        let deadline = tokio::time::Instant::now() + self.shared.options.timing.request_timeout;
        loop {
            if let Some(index) = self.try_read_index().await {
                return Ok(index);
            }
            self.doubt_leader();
            if self.shared.is_stopping() {
                return Err(ReadError::Stopping);
            }
            if tokio::time::Instant::now() >= deadline {
                return Err(ReadError::NoLeader);
            }
            pause().await;
        }
    }

    async fn try_read_index(self: &Arc<Self>) -> Option<u64> {
        let replica = self.replica.get()?;
        let leader = replica.consensus.leader().likely()?;
        if leader == self.shared.node() {
            return self.confirm().await.ok();
        }
        let call = self.ask(leader, peers::Kind::ReadIndex, peers::APPEND_DEADLINE)?;
        peers::number(&call.await.ok()?)
    }

    /// Asks another node about this group, of kinds whose request says no more than which group it is
    /// about. `None` if there is no such node.
    pub(crate) fn ask(&self, node: NodeId, kind: peers::Kind, deadline: Duration) -> Option<Call> {
        let body = Bytes::copy_from_slice(&self.id.0.to_le_bytes());
        let peer = self.shared.peer(node)?;
        Some(peer.call(kind.byte(), body, deadline))
    }

    /// As leader: confirms it by a quorum, and says up to where a read must see the log.
    ///
    /// # Errors
    /// `NoLeader` if this node does not lead.
    pub(crate) async fn confirm(self: &Arc<Self>) -> Result<u64, ReadError> {
        self.touch();
        let replica = self.replica().await?;
        #[cfg(feature = "planted-bugs")]
        if crate::planted::lease_read() && replica.consensus.read_point().is_some() {
            // What is in the log and not committed would keep the read waiting, and hide the bug.
            let next = replica.consensus.computed_next().load(Ordering::Acquire);
            return Ok(next.saturating_sub(1));
        }
        let (group, rounds) = (Arc::clone(self), Arc::clone(&replica));
        let run = || async move {
            let confirmations = &rounds.confirmations;
            confirmations.run(|| reads::confirmed_index(&group)).await;
        };
        replica.confirmations.index(run).await
    }

    /// Says that this node stands for election, until the answer is dropped.
    pub(crate) fn stand(self: &Arc<Self>) -> Standing {
        let standing = Standing(Arc::clone(self));
        standing.step_forward();
        standing
    }

    pub(crate) fn is_standing(&self) -> bool {
        self.standing.load(Ordering::Relaxed)
    }

    pub(crate) fn status(&self) -> GroupStatus {
        self.open_replica()
            .map_or_else(GroupStatus::default, |replica| {
                let view = replica.consensus.leader();
                let log = replica.consensus.group().log_state();
                // Who replicates steadily has no heartbeats, and need not have heard its leader yet.
                let presumed = view.likely().filter(|_| self.is_led_steadily(&replica));
                GroupStatus {
                    leader: view.leader.or(presumed),
                    term: view.term,
                    applied: replica.consensus.group().applied().map_or(0, |id| id.index),
                    last: log.last.map_or(0, |id| id.index),
                    last_term: log.last.map_or(0, |id| id.term),
                }
            })
    }
}

/// A candidacy that other candidates can see.
pub(crate) struct Standing(Arc<Group>);

impl Standing {
    pub(crate) fn step_forward(&self) {
        self.0.standing.store(true, Ordering::Relaxed);
    }

    /// This node cannot win for now; the others need not wait for it.
    pub(crate) fn step_back(&self) {
        self.0.standing.store(false, Ordering::Relaxed);
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        self.step_back();
    }
}

/// Gives a group's append requests to its replica in order, answering each when it is on the disk.
///
/// It holds the group only while it opens it: a group that somebody holds is never retired.
async fn serve_appends(group: Weak<Group>, mut requests: mpsc::Receiver<(Append, Reply)>) {
    let (replica, waiting, mut stopping) = loop {
        let Some(group) = group.upgrade() else {
            return;
        };
        let error = match group.replica().await {
            Ok(replica) => {
                let waiting = Arc::clone(&group.appends_waiting);
                break (replica, waiting, group.shared.stopping.subscribe());
            }
            Err(_) if group.shared.is_stopping() => return,
            Err(error) => error,
        };
        let waiting = Arc::clone(&group.appends_waiting);
        drop(group);
        let Some((_, reply)) = requests.recv().await else {
            return;
        };
        reply.refuse(&error.to_string());
        waiting.fetch_sub(1, Ordering::AcqRel);
    };
    let mut under_way = FuturesOrdered::new();
    loop {
        tokio::select! {
            biased;
            _ = stopping.wait_for(|stopping| *stopping) => return,
            request = requests.recv(), if under_way.len() < APPENDS_WAITING_MAX => match request {
                Some((Append::Elective(request), reply)) => {
                    let replica = Arc::clone(&replica);
                    let answer = async move { replica.consensus.on_append(request).await };
                    under_way.push_back(async move { (answer.await, reply) }.boxed());
                }
                Some((Append::Steady(request), reply)) => {
                    let answer = replica.consensus.on_steady(request);
                    under_way.push_back(async move { (answer.await, reply) }.boxed());
                }
                None => return,
            },
            Some((answer, reply)) = under_way.next(), if !under_way.is_empty() => {
                match answer {
                    Ok(body) => reply.ok(body),
                    Err(why) => reply.refuse(&why),
                }
                waiting.fetch_sub(1, Ordering::AcqRel);
            }
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "who leads may change without a sign here"
)]
async fn pause() {
    tokio::time::sleep(READ_RETRY_PAUSE).await;
}

#[expect(
    clippy::disallowed_methods,
    reason = "there is no event for an entry that does not come"
)]
async fn overdue(after: Duration) {
    tokio::time::sleep(after).await;
}

pub(crate) fn storage_error(error: impl std::fmt::Display) -> ReadError {
    ReadError::Storage(error.to_string())
}
