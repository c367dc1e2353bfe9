//! The one task through which everything passes that this node has to say to a group: its own
//! clients' commands, and, while it leads, the parts that other nodes send.
//!
//! A lane drains what waits, never waiting for more: its own commands become numbered parts, and
//! with the others' parts they become one log entry while an earlier one is being written, or they
//! go to the leader over the peer link. Commands leave in the order in which they came.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;
use std::time::Instant;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tokio::sync::oneshot;

use super::Group;
use super::Replica;
use super::outbox::Answers;
use super::outbox::Draft;
use super::outbox::Outbox;
use super::outbox::Settlement;
use super::outbox::Ticket;
use super::outbox::Verdict;
use super::submit::Submitted;
use crate::clock;
use crate::consensus::LeaderChanges;
use crate::consensus::Proposal;
use crate::consensus::ProposeError;
use crate::machine::BATCH_BYTES_MAX;
use crate::machine::BatchBuilder;
use crate::machine::COMMANDS_PER_BATCH_MAX;
use crate::machine::COMMANDS_PER_PART_MAX;
use crate::machine::EncodedCommand;
use crate::machine::Outcome;
use crate::machine::PART_BYTES_MAX;
use crate::machine::PART_LENGTH_BYTES;
use crate::machine::PARTS_MAX;
use crate::peers::Kind;
use crate::transport::Call;
use crate::transport::CallError;
use crate::transport::NodeId;
use crate::transport::Reply;

/// Commands that may wait in one lane: what a client sends beyond that is refused at once.
const COMMANDS_WAITING_MAX: usize = 65_536;
/// Bytes of commands that may wait in one lane.
const BYTES_WAITING_MAX: usize = 64 * 1024 * 1024;
/// Entries of one group proposed and not yet applied. One is being written while the next gathers;
/// a few more cover the way through the followers' disks.
const PROPOSALS_MAX: usize = 4;
/// Messages taken from the queue at a time.
const DRAIN_MAX: usize = 1_024;
/// How long the leader may take to answer a part before it is sent again.
const SUBMIT_DEADLINE: Duration = Duration::from_secs(5);
/// Bounds of the pause before a refused part is sent again; it doubles in between.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(160);

/// What a command came to, as the facade sees it.
pub(crate) type Answer = oneshot::Sender<Verdict>;

enum Message {
    Command(Draft<Answer>),
    /// Another node's part; it takes this node for the leader.
    Part {
        part: Bytes,
        reply: Reply,
    },
    /// A local proposal has been applied, or refused.
    Proposed {
        own: Vec<(Ticket, Settlement)>,
    },
    /// This node has become a replica, or knows something new of the leader.
    Look,
}

/// The way into a lane.
#[derive(Clone)]
pub(crate) struct LaneHandle {
    messages: mpsc::UnboundedSender<Message>,
    waiting: Arc<Waiting>,
}

#[derive(Default)]
struct Waiting {
    commands: AtomicUsize,
    bytes: AtomicUsize,
}

impl LaneHandle {
    /// Enqueues a command; commands leave in the order of calls. `None` if too many wait.
    pub(crate) fn submit(
        &self,
        command: EncodedCommand,
        deadline: Instant,
    ) -> Option<oneshot::Receiver<Verdict>> {
        let bytes = command.bytes_len();
        if !self.waiting.enter(bytes) {
            return None;
        }
        let (reply, answer) = oneshot::channel();
        let draft = Draft {
            command,
            deadline,
            reply,
        };
        // A lane ends with the node only; the dropped sender answers then.
        let _ = self.messages.send(Message::Command(draft));
        Some(answer)
    }

    /// Enqueues another node's part.
    pub(crate) fn part(&self, part: Bytes, reply: Reply) {
        if !self.waiting.enter(part.len()) {
            reply.ok(Submitted::Busy.encode());
            return;
        }
        let _ = self.messages.send(Message::Part { part, reply });
    }

    /// Has the lane look for the leader again.
    pub(crate) fn look(&self) {
        let _ = self.messages.send(Message::Look);
    }
}

impl Waiting {
    fn enter(&self, bytes: usize) -> bool {
        let commands = self.commands.fetch_add(1, Ordering::Relaxed);
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let fits = commands < COMMANDS_WAITING_MAX && before < BYTES_WAITING_MAX;
        if !fits {
            self.leave(1, bytes);
        }
        fits
    }

    fn leave(&self, commands: usize, bytes: usize) {
        self.commands.fetch_sub(commands, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Starts the lane of `group`. It ends when the last handle is dropped or the node stops.
#[expect(
    clippy::disallowed_methods,
    reason = "what waits is counted and bounded by `Waiting`"
)]
pub(crate) fn start(
    group: std::sync::Weak<Group>,
    stopping: tokio::sync::watch::Receiver<bool>,
) -> LaneHandle {
    let (sender, receiver) = mpsc::unbounded_channel();
    let handle = LaneHandle {
        messages: sender.clone(),
        waiting: Arc::default(),
    };
    let lane = Lane {
        group,
        messages: receiver,
        to_self: sender.downgrade(),
        waiting: Arc::clone(&handle.waiting),
        outbox: Outbox::new(rand::random()),
        parts: VecDeque::new(),
        calls: FuturesUnordered::new(),
        proposals: 0,
        replica: None,
        leader_changes: None,
        hint: None,
        pause: PAUSE_MIN,
        resume_at: None,
    };
    tokio::spawn(lane.run(stopping));
    handle
}

struct Lane {
    group: std::sync::Weak<Group>,
    messages: mpsc::UnboundedReceiver<Message>,
    to_self: mpsc::WeakUnboundedSender<Message>,
    waiting: Arc<Waiting>,
    outbox: Outbox<Answer>,
    /// Other nodes' parts that wait for the next entry.
    parts: VecDeque<(Bytes, Reply)>,
    /// Parts on their way to the leader.
    calls: FuturesUnordered<Sent>,
    /// Entries proposed here and not yet applied.
    proposals: usize,
    replica: Option<Arc<Replica>>,
    leader_changes: Option<LeaderChanges>,
    /// Who leads, by the last answer of another node; forgotten once it proves wrong.
    hint: Option<NodeId>,
    pause: Duration,
    resume_at: Option<Instant>,
}

impl Lane {
    async fn run(mut self, mut stopping: tokio::sync::watch::Receiver<bool>) {
        let mut drained = Vec::with_capacity(64);
        loop {
            let wake_at = self.wake_at();
            tokio::select! {
                biased;
                count = self.messages.recv_many(&mut drained, DRAIN_MAX) => {
                    if count == 0 {
                        break;
                    }
                    for message in drained.drain(..) {
                        self.take(message);
                    }
                }
                Some((ticket, answer)) = self.calls.next(), if !self.calls.is_empty() => self.answered(ticket, answer),
                alive = changed(&mut self.leader_changes) => {
                    if !alive {
                        self.leader_changes = None;
                    }
                }
                () = sleep_until(wake_at) => self.wake(Instant::now()),
                _ = stopping.wait_for(|stopping| *stopping) => break,
            }
            let Some(group) = self.group.upgrade() else {
                break;
            };
            self.pump(&group).await;
        }
        let answers = self.outbox.close();
        self.answer(answers);
        for (_, reply) in self.parts.drain(..) {
            reply.ok(Submitted::NotLeader(None).encode());
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Command(draft) => {
                self.waiting.leave(1, draft.command.bytes_len());
                self.outbox.push(draft);
            }
            Message::Part { part, reply } => {
                self.waiting.leave(1, part.len());
                self.parts.push_back((part, reply));
            }
            Message::Proposed { own } => {
                self.proposals -= 1;
                for (ticket, settlement) in own {
                    self.settle(ticket, settlement);
                }
            }
            Message::Look => self.resume_at = self.resume_at.map(|_| Instant::now()),
        }
    }

    /// Sends whatever can be sent now.
    async fn pump(&mut self, group: &Arc<Group>) {
        if self.replica.is_none() {
            self.replica = group.open_replica();
            self.leader_changes = self
                .replica
                .as_ref()
                .map(|replica| replica.consensus.leader_changes());
        }
        let this_node = group.shared.node();
        let towards = self.towards(group);
        if let Towards::Leader(other) | Towards::Guess(other) = towards
            && other != this_node
        {
            for (_, reply) in self.parts.drain(..) {
                reply.ok(Submitted::NotLeader(Some(other)).encode());
            }
        }
        match towards {
            Towards::Leader(leader) if leader == this_node => self.propose().await,
            Towards::Leader(other) => self.send(group, other),
            Towards::Guess(other) if other != this_node => self.send(group, other),
            // This node will stand for election, or hear of a leader: either is a change that wakes
            // the lane.
            Towards::Guess(_) | Towards::Nobody => {}
        }
        if self.outbox.is_stalled() && self.resume_at.is_none() {
            self.resume_at = Some(Instant::now() + self.pause);
            self.pause = (self.pause * 2).min(PAUSE_MAX);
        }
    }

    fn towards(&self, group: &Group) -> Towards {
        let up = |node: &NodeId| group.shared.is_up(*node);
        let known = self
            .leader_changes
            .as_ref()
            .and_then(|changes| changes.leader().leader);
        if let Some(leader) = known.filter(up) {
            return Towards::Leader(leader);
        }
        // A replica hears of a new leader by itself; another node's word is for those who do not.
        let hint = self.hint.filter(up).filter(|_| self.replica.is_none());
        match hint.or_else(|| group.first_up()) {
            Some(node) => Towards::Guess(node),
            None => Towards::Nobody,
        }
    }

    async fn propose(&mut self) {
        let Some(replica) = self.replica.clone() else {
            return;
        };
        while self.proposals < PROPOSALS_MAX {
            let mut batch = BatchBuilder::new();
            let mut replies = Vec::new();
            let mut own = Vec::new();
            while has_room(&batch)
                && let Some((part, reply)) = self.parts.pop_front()
            {
                match batch.push(part) {
                    Ok(()) => replies.push(reply),
                    Err(error) => reply.refuse(&error.to_string()),
                }
            }
            while has_room(&batch)
                && let Some(sending) = self.outbox.next(Instant::now())
            {
                batch
                    .push(sending.part)
                    .expect("an outbox makes parts that fit where there is room");
                own.push(sending.ticket);
            }
            // An empty batch is refused: nothing waits.
            let Ok(payload) = batch.finish(clock::now_ms()) else {
                return;
            };
            self.proposals += 1;
            let to_self = self.to_self.clone();
            let done = move |proposal| {
                let own = distribute(proposal, replies, own);
                if let Some(to_self) = to_self.upgrade() {
                    // Where the lane has ended, so has the node.
                    let _ = to_self.send(Message::Proposed { own });
                }
            };
            replica.consensus.propose(payload, done).await;
        }
    }

    fn send(&mut self, group: &Group, leader: NodeId) {
        let Some(peer) = group.shared.peer(leader) else {
            return;
        };
        while let Some(sending) = self.outbox.next(Instant::now()) {
            let header = Bytes::copy_from_slice(&group.id.0.to_le_bytes());
            let call = peer.call_parts(
                Kind::Submit.byte(),
                vec![header, sending.part],
                SUBMIT_DEADLINE,
            );
            self.calls.push(Sent {
                call,
                ticket: sending.ticket,
            });
        }
    }

    /// The leader has answered a part of ours.
    fn answered(&mut self, ticket: Ticket, answer: Result<Bytes, CallError>) {
        let settlement = match answer {
            Ok(body) => match Submitted::decode(&body) {
                Some(Submitted::Outcomes(outcomes)) => {
                    self.pause = PAUSE_MIN;
                    Settlement::Outcomes(outcomes)
                }
                Some(Submitted::NotLeader(leader)) => {
                    self.hint = leader;
                    Settlement::Rejected
                }
                Some(Submitted::Busy) => Settlement::Rejected,
                Some(Submitted::NoRoom) => Settlement::NoRoom,
                Some(Submitted::Unknown) | None => Settlement::Unknown,
            },
            Err(CallError::Down | CallError::Full) => {
                self.hint = None;
                Settlement::Rejected
            }
            Err(CallError::Lost | CallError::TimedOut | CallError::Refused(_)) => {
                self.hint = None;
                Settlement::Unknown
            }
        };
        self.settle(ticket, settlement);
    }

    fn settle(&mut self, ticket: Ticket, settlement: Settlement) {
        if matches!(settlement, Settlement::Outcomes(_)) {
            self.pause = PAUSE_MIN;
        }
        let answers = self.outbox.settle(ticket, settlement, rand::random());
        self.answer(answers);
    }

    fn wake_at(&self) -> Option<Instant> {
        self.resume_at
            .into_iter()
            .chain(self.outbox.next_deadline())
            .min()
    }

    fn wake(&mut self, now: Instant) {
        if self.resume_at.is_some_and(|at| at <= now) {
            self.resume_at = None;
            if self.outbox.is_stalled() {
                self.outbox.resume();
            }
        }
        let answers = self.outbox.expire(now, rand::random());
        self.answer(answers);
    }

    fn answer(&self, answers: Answers<Answer>) {
        for (reply, verdict) in answers {
            // Whoever asked may have gone away.
            let _ = reply.send(verdict);
        }
    }
}

/// Where commands go now.
#[derive(Clone, Copy)]
enum Towards {
    /// This node's replica knows the leader.
    Leader(NodeId),
    /// Who is most likely to lead, or to know who does.
    Guess(NodeId),
    Nobody,
}

/// Whether any part fits.
fn has_room(batch: &BatchBuilder) -> bool {
    batch.bytes_len() + PART_LENGTH_BYTES + PART_BYTES_MAX <= BATCH_BYTES_MAX
        && batch.commands() + COMMANDS_PER_PART_MAX <= COMMANDS_PER_BATCH_MAX
        && batch.len() < PARTS_MAX
}

/// Tells other nodes what their parts of an entry came to, and returns what our own did.
fn distribute(
    proposal: Proposal,
    replies: Vec<Reply>,
    own: Vec<Ticket>,
) -> Vec<(Ticket, Settlement)> {
    match proposal {
        Ok(parts) => {
            let mut parts = parts.into_iter();
            for reply in replies {
                let answer = parts.next().map_or(Submitted::Unknown, Submitted::Outcomes);
                reply.ok(answer.encode());
            }
            let settled = own.into_iter().map(|ticket| {
                let outcomes: Option<Vec<Outcome>> = parts.next();
                (
                    ticket,
                    outcomes.map_or(Settlement::Unknown, Settlement::Outcomes),
                )
            });
            settled.collect()
        }
        Err(ProposeError::NotLeader { leader }) => {
            for reply in replies {
                reply.ok(Submitted::NotLeader(leader).encode());
            }
            own.into_iter()
                .map(|ticket| (ticket, Settlement::Rejected))
                .collect()
        }
        Err(ProposeError::Unknown) => {
            for reply in replies {
                reply.ok(Submitted::Unknown.encode());
            }
            own.into_iter()
                .map(|ticket| (ticket, Settlement::Unknown))
                .collect()
        }
    }
}

/// A part on its way to the leader.
struct Sent {
    call: Call,
    ticket: Ticket,
}

impl Future for Sent {
    type Output = (Ticket, Result<Bytes, CallError>);

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let ticket = self.ticket;
        Pin::new(&mut self.call)
            .poll(context)
            .map(|answer| (ticket, answer))
    }
}

async fn changed(changes: &mut Option<LeaderChanges>) -> bool {
    match changes {
        Some(changes) => changes.changed().await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
