//! Steady replication: what Raft does in a term whose leader is settled, without the tasks, timers
//! and heartbeats that an election needs (docs/adr/0017).
//!
//! ```text
//! leader:    propose ─▶ append, send to followers ─▶ a majority holds it ─▶ apply ─▶ tell what is committed
//! follower:  accept  ─▶ append where it follows ───▶ answer when it is on the disk; apply what is committed
//! ```
//!
//! Only those transitions are here that Raft allows on the strength of what is on the disk: a leader
//! of a term appends to its log in that term, a follower that has that leader's vote takes entries
//! that follow its last one, and where all logs end alike a follower may follow another leader, or
//! become it (`ballot.rs`). For everything else the replica turns to openraft, which reads the same
//! disk: another vote or term, a gap, a follower that does not answer. It goes on until the group
//! sleeps the next time.

mod ballot;
mod tally;
#[cfg(test)]
mod tests;
mod waiting;
mod window;
mod wire;

use std::io;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use accord_storage as storage;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio::time::timeout_at;

use super::Proposal;
use super::log_store::Written;
use super::log_store::completion;
use super::log_store::purge;
use super::state_machine::Applier;
use super::state_machine::ENTRIES_PER_WRITE_MAX;
use super::state_machine::Tell;
use super::types;
use super::types::Reply;
use crate::edge;
use crate::peers::APPEND_DEADLINE;
use crate::peers::Kind;
use crate::transport::CallError;
use crate::transport::NodeId;
use crate::transport::Peer;
use tally::Tally;
use waiting::Waiting;
use window::CROWDED_MAX;
use window::Window;

pub(super) use ballot::hold;
pub(crate) use wire::Ballot;
pub(crate) use wire::SteadyRequest;
pub(crate) use wire::decode;
#[cfg(any(test, feature = "fuzzing"))]
pub(super) use wire::encode;

/// Calls back exactly once: with a result, or with "unknown" when dropped.
pub(super) struct Answer(Option<Box<dyn FnOnce(Proposal) + Send>>);

impl Answer {
    pub(super) fn new(done: impl FnOnce(Proposal) + Send + 'static) -> Self {
        Answer(Some(Box::new(done)))
    }

    pub(super) fn give(mut self, proposal: Proposal) {
        if let Some(done) = self.0.take() {
            done(proposal);
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(done) = self.0.take() {
            done(Err(super::ProposeError::Unknown));
        }
    }
}

impl Tell for Answer {
    fn tell(self, reply: Reply) {
        self.give(Ok(reply.by_part()));
    }
}

/// How a replica of a settled term begins.
pub(super) struct Beginning {
    pub(super) group: storage::Group,
    pub(super) node: NodeId,
    pub(super) term: u64,
    pub(super) leader: NodeId,
    pub(super) voters: Vec<NodeId>,
    /// The way to each of the others.
    pub(super) peers: Vec<Peer>,
    /// Those of them that have just said that they are level; any that is up may be, if none have been
    /// asked.
    pub(super) level: Option<Vec<NodeId>>,
    pub(super) applier: Applier,
    /// The end of the log, and up to where it is applied.
    pub(super) last: storage::LogId,
    pub(super) applied: storage::LogId,
    /// What lies between the two.
    pub(super) unapplied: Vec<storage::Entry>,
    pub(super) keep: Keep,
}

/// How much of its log a replica keeps that it has applied.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keep {
    pub(super) entries: u64,
    /// It purges when there are this many more.
    pub(super) slack: u64,
}

pub(super) struct Steady {
    group: storage::Group,
    node: NodeId,
    voters: Vec<NodeId>,
    peers: Vec<Peer>,
    keep: Keep,
    /// Whether this node is the leader. Once it is, it stays that until this ends.
    leads: AtomicBool,
    state: Mutex<State>,
    /// As leader: since when a follower owes more answers than it may.
    crowded: watch::Sender<Option<Instant>>,
    ended: watch::Sender<bool>,
}

struct State {
    ended: bool,
    term: u64,
    /// None while this node stands for election.
    leader: Option<NodeId>,
    /// As follower: the leader has this node's vote for the term, and has not said that it won.
    pledged: bool,
    /// The end of the log, what is queued included.
    last: storage::LogId,
    committed: storage::LogId,
    waiting: Waiting,
    applier: Applier,
    /// Rows are on their way to the store; the next stretch must be able to read them.
    applying: bool,
    tally: Tally,
    followers: Vec<Follower>,
    /// Those that could not be reached when this began. They miss what is appended now.
    left_out: Vec<Peer>,
    /// Requests that have not been answered by everybody.
    under_way: usize,
}

struct Follower {
    peer: Peer,
    /// What it has been told is committed.
    told: u64,
    window: Window,
}

/// A proposal on its way; somebody has to run it.
pub(super) struct Replication {
    steady: Arc<Steady>,
    events: FuturesUnordered<BoxFuture<'static, Event>>,
}

enum Event {
    /// Entries up to this one are on this node's disk, or are not.
    Written(u64, Result<(), storage::Error>),
    /// A follower has taken what it was sent, and has it on its disk, or has not taken it.
    Answered(Sent, Result<(), CallError>),
}

/// A request to a follower.
struct Sent {
    node: NodeId,
    bytes: usize,
    /// The last entry in it; none if it only said what is committed.
    upto: Option<u64>,
}

/// What has to be seen to by an election, or by openraft's way of catching up.
#[derive(Debug)]
pub(super) struct Trouble;

impl Steady {
    pub(super) fn begin(beginning: Beginning) -> Arc<Steady> {
        let leads = beginning.leader == beginning.node;
        let mut waiting = Waiting::default();
        for entry in beginning.unapplied {
            waiting.push(entry);
        }
        let steady = Arc::new(Steady {
            node: beginning.node,
            keep: beginning.keep,
            leads: AtomicBool::new(false),
            state: Mutex::new(State {
                ended: false,
                term: beginning.term,
                leader: Some(beginning.leader),
                pledged: false,
                last: beginning.last,
                committed: beginning.applied,
                waiting,
                applier: beginning.applier,
                applying: false,
                tally: Tally::new(&beginning.voters, beginning.applied.index),
                followers: Vec::new(),
                left_out: Vec::new(),
                under_way: 0,
            }),
            crowded: watch::Sender::new(None),
            ended: watch::Sender::new(false),
            group: beginning.group,
            voters: beginning.voters,
            peers: beginning.peers,
        });
        if leads {
            steady.lead(&mut steady.state(), beginning.level.as_deref());
        }
        steady
    }

    pub(super) fn leads(&self) -> bool {
        self.leads.load(Ordering::Acquire)
    }

    /// From now on it leads its term. Its followers are the `level` voters that are up, or, where none
    /// have been asked, all that are.
    fn lead(&self, state: &mut State, level: Option<&[NodeId]>) {
        let told = state.committed.index;
        let takes_part =
            |peer: &&Peer| peer.is_up() && level.is_none_or(|level| level.contains(&peer.node()));
        let (followers, left_out): (Vec<_>, Vec<_>) = self.peers.iter().partition(takes_part);
        let follower = |peer: &Peer| Follower {
            peer: peer.clone(),
            told,
            window: Window::default(),
        };
        state.leader = Some(self.node);
        state.tally = Tally::new(&self.voters, told);
        state.followers = followers.into_iter().map(follower).collect();
        state.left_out = left_out.into_iter().cloned().collect();
        self.leads.store(true, Ordering::Release);
    }

    /// Ends it: nothing is appended or applied any more. What was proposed and is not applied is
    /// answered with "unknown".
    pub(super) fn end(&self) {
        let waiting = {
            let mut state = self.state();
            state.ended = true;
            std::mem::take(&mut state.waiting)
        };
        self.ended.send_replace(true);
        self.crowded.send_replace(None);
        drop(waiting);
    }

    /// The store has refused a write, or has failed at it. What has been told of that write is not true
    /// then, so that this must not go on.
    fn store_failed(&self, error: &storage::Error) {
        // A store is closed when its node stops. All else is a disk that failed, or a bug here.
        if *error != storage::Error::Closed {
            let group = self.group.id().0;
            tracing::error!(group, %error, "a replica cannot write; this node stops");
            edge::end_process(storage::EXIT_CODE_FATAL);
        }
        self.end();
    }

    /// Whether nothing is under way, here or to others. A follower may wait for the word that the end
    /// of its log is committed; whoever has it for it opens it again.
    pub(super) fn is_at_rest(&self) -> bool {
        // Not waited for: the caller holds up the whole node, and what is locked is not at rest.
        let Ok(state) = self.state.try_lock() else {
            return false;
        };
        let is_done = !self.leads() || state.waiting.is_empty();
        state.under_way == 0 && !state.applying && is_done
    }

    /// As leader, whether whatever a follower may lack is on its way to it: it arrives, or whoever sent
    /// it finds that there is more to do.
    pub(super) fn is_replicating(&self) -> bool {
        let state = self.state();
        state.under_way > 0 && !state.left_out.iter().any(Peer::is_up)
    }

    /// As leader, whether a follower owes so many answers that nothing more should be proposed.
    pub(super) fn is_crowded(&self) -> bool {
        self.crowded.borrow().is_some()
    }

    /// Resolves when nothing is owed that should be waited for, or this has ended: true. Or when that
    /// has taken too long: false.
    pub(super) async fn relieved(&self) -> bool {
        let mut crowded = self.crowded.subscribe();
        loop {
            let Some(since) = *crowded.borrow_and_update() else {
                return true;
            };
            let changed = timeout_at(since + CROWDED_MAX, crowded.changed()).await;
            if changed.is_err() {
                return false;
            }
        }
    }

    /// Looks whether the followers keep up.
    fn look_at_windows(&self, state: &State) {
        let mut windows = state.followers.iter().map(|follower| &follower.window);
        let is_full = !state.ended && windows.clone().any(Window::is_full);
        let is_relieved = windows.all(Window::is_relieved);
        self.crowded.send_if_modified(|since| {
            let next = match *since {
                None if is_full => Some(Instant::now()),
                Some(_) if is_relieved => None,
                as_before => as_before,
            };
            std::mem::replace(since, next) != next
        });
    }

    /// As leader, goes on without a follower whose node is gone, if the others are enough: when it is
    /// back, openraft brings it level.
    fn leave_out(&self, node: NodeId) -> bool {
        let mut state = self.state();
        let is_gone = |follower: &Follower| follower.peer.node() == node && !follower.peer.is_up();
        if let Some(place) = state.followers.iter().position(is_gone) {
            let follower = state.followers.swap_remove(place);
            state.left_out.push(follower.peer);
            self.look_at_windows(&state);
        }
        // One that is back by now was perhaps looked for before it was left out.
        let is_out = |peer: &Peer| peer.node() == node && !peer.is_up();
        state.left_out.iter().any(is_out) && is_majority(state.followers.len(), self.voters.len())
    }

    /// As leader, the voters that it does not send entries to.
    pub(super) fn left_out(&self) -> Vec<NodeId> {
        self.state().left_out.iter().map(Peer::node).collect()
    }

    /// Appends a batch as leader and sends it off. Given back if that is for openraft to do: this has
    /// ended, or a node is back that is behind.
    pub(super) fn propose(
        self: &Arc<Self>,
        batch: Bytes,
        answer: Answer,
    ) -> Result<Replication, (Bytes, Answer)> {
        let mut state = self.state();
        let is_back = state.left_out.iter().any(Peer::is_up);
        let has_room = state.waiting.has_room(1, batch.len());
        if state.ended || !self.leads() || is_back || !has_room {
            return Err((batch, answer));
        }
        match self.append(&mut state, batch.clone()) {
            Ok(replication) => {
                state.waiting.answer_last(answer);
                Ok(replication)
            }
            Err(error) => {
                drop(state);
                self.store_failed(&error);
                Err((batch, answer))
            }
        }
    }

    /// Appends an entry as leader and sends it off.
    ///
    /// # Errors
    /// If the store takes nothing: nobody has been sent it then.
    fn append(
        self: &Arc<Self>,
        state: &mut State,
        payload: Bytes,
    ) -> Result<Replication, storage::Error> {
        let id = storage::LogId {
            term: state.term,
            index: state.last.index + 1,
        };
        let entry = storage::Entry {
            log_id: id,
            payload: payload.clone(),
        };
        let request = SteadyRequest {
            leader: self.node,
            term: state.term,
            prev: state.last,
            commit: state.committed,
            payloads: vec![payload],
        };
        let (done, written) = completion();
        // Before anybody is sent it: a place in the log that this node may give away again must not
        // be anywhere else.
        self.group.try_append(vec![entry.clone()], done)?;
        state.last = id;
        state.waiting.push(entry);
        let events: FuturesUnordered<_> = self.send(state, &request).collect();
        let own = async move { Event::Written(id.index, written.ended().await) };
        events.push(Box::pin(own));
        Ok(Replication::new(self, state, events))
    }

    /// Sends a request to all followers, in order of calls.
    fn send(
        &self,
        state: &mut State,
        request: &SteadyRequest,
    ) -> impl Iterator<Item = BoxFuture<'static, Event>> + use<> {
        let parts = wire::encode(self.group.id().0, request);
        let bytes = parts.iter().map(Bytes::len).sum();
        let entries = request.payloads.len() as u64;
        let upto = (entries > 0).then_some(request.prev.index + entries);
        let send = |follower: &mut Follower| {
            follower.told = request.commit.index;
            follower.window.sent(bytes);
            let node = follower.peer.node();
            let sent = Sent { node, bytes, upto };
            let call =
                follower
                    .peer
                    .call_parts(Kind::Steady.byte(), parts.clone(), APPEND_DEADLINE);
            let answered = async move { Event::Answered(sent, call.await.map(drop)) };
            Box::pin(answered) as BoxFuture<'static, _>
        };
        let calls: Vec<_> = state.followers.iter_mut().map(send).collect();
        self.look_at_windows(state);
        calls.into_iter()
    }

    /// Takes a leader's request as its follower: the entries are appended when this returns, and on
    /// the disk when what it returns is. `None` if it does not simply follow, or the store takes nothing.
    pub(super) fn accept(self: &Arc<Self>, request: &SteadyRequest) -> Option<Option<Written>> {
        let written = {
            let mut state = self.state();
            let bytes = request.payloads.iter().map(Bytes::len).sum();
            let follows = !state.ended
                && !self.leads()
                && (request.term, Some(request.leader)) == (state.term, state.leader)
                && request.prev == state.last
                && state.waiting.has_room(request.payloads.len(), bytes);
            if !follows {
                return None;
            }
            if std::mem::take(&mut state.pledged) {
                // It speaks as the leader of the term, so it has won.
                self.group.confirm_vote();
            }
            let entries: Vec<_> = request.entries().collect();
            let written = match entries.last().map(|entry| entry.log_id) {
                None => None,
                Some(last) => {
                    let (done, written) = completion();
                    if let Err(error) = self.group.try_append(entries.clone(), done) {
                        drop(state);
                        self.store_failed(&error);
                        return None;
                    }
                    state.last = last;
                    for entry in entries {
                        state.waiting.push(entry);
                    }
                    Some(written)
                }
            };
            if request.commit.index > state.committed.index {
                state.committed = request.commit;
            }
            written
        };
        self.settle();
        Some(written)
    }

    /// Applies what is committed. A stretch at a time: the next one begins when the rows of the one
    /// before can be read.
    fn settle(self: &Arc<Self>) {
        let mut state = self.state();
        let State {
            ended: false,
            applying: false,
            committed,
            waiting,
            applier,
            ..
        } = &mut *state
        else {
            return;
        };
        let due: io::Result<Vec<_>> = waiting
            .take(committed.index, ENTRIES_PER_WRITE_MAX)
            .map(|pending| Ok((types::entry(pending.entry)?, pending.answer)))
            .collect();
        // Under the lock: whoever ends this must find in the store whatever was told to anybody.
        let written = match due.and_then(|due| applier.apply_some(due)) {
            Ok(Some(written)) => written,
            Ok(None) => return,
            Err(error) => {
                // What it would answer from here on cannot be trusted.
                tracing::error!(group = self.group.id().0, %error, "a replica has failed; this node stops");
                edge::end_process(storage::EXIT_CODE_FATAL);
                return;
            }
        };
        state.applying = true;
        drop(state);
        let steady = Arc::clone(self);
        tokio::spawn(async move {
            if let Err(error) = written.ended().await {
                steady.store_failed(&error);
                return;
            }
            {
                let mut state = steady.state();
                if state.ended {
                    // Whoever took over has published this, and perhaps more.
                    return;
                }
                state.applying = false;
                state.applier.publish_progress();
                // Under the lock, too: nobody else may be purging.
                steady.purge();
            }
            steady.settle();
        });
    }

    /// Shortens the log once it holds much more than it should.
    fn purge(&self) {
        let purged = self.group.log_state().purged.map_or(0, |id| id.index);
        let Some(applied) = self.group.applied().map(|id| id.index) else {
            return;
        };
        if applied.saturating_sub(purged) < self.keep.entries.saturating_add(self.keep.slack) {
            return;
        }
        purge(&self.group, applied - self.keep.entries);
    }

    /// A follower has answered, whatever it said.
    fn answered(&self, sent: &Sent) {
        let mut state = self.state();
        let mut followers = state.followers.iter_mut();
        // One that was left out meanwhile is owed nothing more.
        let follower = followers.find(|follower| follower.peer.node() == sent.node);
        if let Some(follower) = follower {
            follower.window.answered(sent.bytes);
            self.look_at_windows(&state);
        }
    }

    fn holds(&self, node: NodeId, index: u64) {
        let mut state = self.state();
        state.tally.holds(node, index);
        // What this term's leader commits is in this term.
        if state.tally.committed() > state.committed.index {
            state.committed = storage::LogId {
                term: state.term,
                index: state.tally.committed(),
            };
        }
    }

    /// Tells the followers what is committed, unless they all have been told with an entry.
    fn tell_news(&self) -> Vec<BoxFuture<'static, Event>> {
        let mut state = self.state();
        let committed = state.committed;
        let is_behind = |follower: &Follower| follower.told < committed.index;
        if state.ended || !state.followers.iter().any(is_behind) {
            return Vec::new();
        }
        self.tell(&mut state)
    }

    /// Tells the followers who leads, and what is committed.
    fn tell(&self, state: &mut State) -> Vec<BoxFuture<'static, Event>> {
        let request = SteadyRequest {
            leader: self.node,
            term: state.term,
            prev: state.last,
            commit: state.committed,
            payloads: Vec::new(),
        };
        self.send(state, &request).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| {
            // The state machine panicked amid an entry: what is left of it must not be used.
            tracing::error!(
                group = self.group.id().0,
                "a replica has failed; this node stops"
            );
            edge::end_process(storage::EXIT_CODE_FATAL);
            poisoned.into_inner()
        })
    }
}

impl Replication {
    fn new(
        steady: &Arc<Steady>,
        state: &mut State,
        events: FuturesUnordered<BoxFuture<'static, Event>>,
    ) -> Replication {
        state.under_way += 1;
        Replication {
            steady: Arc::clone(steady),
            events,
        }
    }

    /// Resolves when all followers have answered, or with the first trouble.
    pub(super) async fn run(mut self) -> Result<(), Trouble> {
        let steady = Arc::clone(&self.steady);
        let mut ended = steady.ended.subscribe();
        loop {
            let event = tokio::select! {
                biased;
                _ = ended.wait_for(|ended| *ended) => return Ok(()),
                event = self.events.next() => event,
            };
            let (node, upto) = match event {
                None => return Ok(()),
                Some(Event::Written(index, Ok(()))) => (steady.node, Some(index)),
                Some(Event::Written(_, Err(error))) => {
                    steady.store_failed(&error);
                    return Ok(());
                }
                Some(Event::Answered(sent, answer)) => {
                    steady.answered(&sent);
                    match answer {
                        Ok(()) => (sent.node, sent.upto),
                        // What it was sent may be lost. It gets no more, so that it cannot find a gap
                        // either.
                        Err(CallError::Down | CallError::Lost) if steady.leave_out(sent.node) => {
                            continue;
                        }
                        Err(error) => {
                            let (group, node) = (steady.group.id().0, sent.node);
                            tracing::debug!(group, node, %error, "a follower does not simply follow");
                            return Err(Trouble);
                        }
                    }
                }
            };
            if let Some(index) = upto {
                steady.holds(node, index);
                steady.settle();
                self.events.extend(steady.tell_news());
            }
        }
    }
}

impl Drop for Replication {
    fn drop(&mut self) {
        self.steady.state().under_way -= 1;
    }
}

/// Whether this node and so many `others` are a majority.
fn is_majority(others: usize, voters: usize) -> bool {
    (others + 1) * 2 > voters
}

/// Most entries that a replica reads into memory when it is opened; one with more to apply leaves
/// that to openraft.
pub(super) const UNAPPLIED_MAX: u64 = 256;
/// And bytes of them, which a few large batches are soon.
pub(super) const UNAPPLIED_BYTES_MAX: usize = 16 * 1024 * 1024;

/// How long a read waits for entries that should be on their way before it has the leader send them
/// again.
pub(crate) const OVERDUE_AFTER: Duration = Duration::from_millis(250);
