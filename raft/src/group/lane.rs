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
use tokio::time::Instant;

use accord_storage::Store;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tokio::sync::oneshot;

use super::Group;
use super::Replica;
use super::outbox::Answers;
use super::outbox::Draft;
use super::outbox::FLIGHTS_MAX;
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
use crate::machine::PART_BYTES_MAX;
use crate::machine::PART_LENGTH_BYTES;
use crate::machine::PARTS_MAX;
use crate::machine::SessionId;
use crate::peers::Kind;
use crate::sequence::Sequences;
use crate::shared::Shared;
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
/// How long another node's part may wait here; it is told in time that it was not taken.
const VISIT_MAX: Duration = Duration::from_secs(3);
/// How long the leader may take to answer a part before it is sent again.
const SUBMIT_DEADLINE: Duration = Duration::from_secs(5);
/// Bounds of the pause before a refused part is sent again; it doubles in between.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(160);

/// Whoever waits for a command's outcome, and the place that the command takes up until then.
pub(crate) struct Answer {
    verdict: oneshot::Sender<Verdict>,
    _place: Place,
}

enum Message {
    Command(Draft<Answer>),
    /// Another node's part; it takes this node for the leader.
    Part(Visitor),
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

/// How much is in a lane, from the moment it is accepted until it is answered.
#[derive(Default)]
struct Waiting {
    commands: AtomicUsize,
    bytes: AtomicUsize,
}

/// One command's or part's place; given back when dropped.
struct Place {
    waiting: Arc<Waiting>,
    bytes: usize,
}

/// Another node's part, waiting for the next entry.
struct Visitor {
    part: Bytes,
    reply: Reply,
    since: Instant,
    place: Place,
}

impl LaneHandle {
    /// Enqueues a command; commands leave in the order of calls. `None` if too many wait.
    pub(crate) fn submit(
        &self,
        command: EncodedCommand,
        deadline: Instant,
    ) -> Option<oneshot::Receiver<Verdict>> {
        let place = Place::take(&self.waiting, command.bytes_len())?;
        let (verdict, answer) = oneshot::channel();
        let reply = Answer {
            verdict,
            _place: place,
        };
        // Whoever calls this holds the group, so its lane ends only with the node; the dropped sender
        // answers then.
        let _ = self.messages.send(Message::Command(Draft {
            command,
            deadline,
            reply,
        }));
        Some(answer)
    }

    /// Enqueues another node's part.
    pub(crate) fn part(&self, part: Bytes, reply: Reply) {
        let Some(place) = Place::take(&self.waiting, part.len()) else {
            reply.ok(Submitted::Busy.encode());
            return;
        };
        let since = Instant::now();
        let _ = self.messages.send(Message::Part(Visitor {
            part,
            reply,
            since,
            place,
        }));
    }

    /// Nothing waits for an answer.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.commands.load(Ordering::Acquire) == 0
    }

    /// Has the lane look for the leader again.
    pub(crate) fn look(&self) {
        let _ = self.messages.send(Message::Look);
    }
}

impl Place {
    /// `None` if the lane is full.
    fn take(waiting: &Arc<Waiting>, bytes: usize) -> Option<Place> {
        let commands = waiting.commands.fetch_add(1, Ordering::AcqRel);
        let before = waiting.bytes.fetch_add(bytes, Ordering::Relaxed);
        // Giving it back is the same for one that was never granted.
        let place = Place {
            waiting: Arc::clone(waiting),
            bytes,
        };
        (commands < COMMANDS_WAITING_MAX && before < BYTES_WAITING_MAX).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.waiting.commands.fetch_sub(1, Ordering::Release);
        self.waiting.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Starts the lane of `group`. It ends when the last handle is dropped or the node stops.
#[expect(
    clippy::disallowed_methods,
    reason = "what waits is counted and bounded by `Waiting`"
)]
pub(crate) fn start(group: std::sync::Weak<Group>, shared: &Shared) -> LaneHandle {
    let session = SessionId {
        node: shared.node(),
        sequence: shared.sequences.above(0),
    };
    let (sender, receiver) = mpsc::unbounded_channel();
    let handle = LaneHandle {
        messages: sender.clone(),
        waiting: Arc::default(),
    };
    let lane = Lane {
        group,
        messages: receiver,
        to_self: sender.downgrade(),
        outbox: Outbox::new(session),
        parts: VecDeque::new(),
        calls: FuturesUnordered::new(),
        proposals: 0,
        replica: None,
        leader_changes: None,
        hint: None,
        turn: 0,
        store: shared.store.clone(),
        sequences: Arc::clone(&shared.sequences),
        held: false,
        sent_to: None,
        pause: PAUSE_MIN,
        resume_at: None,
    };
    tokio::spawn(lane.run(shared.stopping.subscribe()));
    handle
}

struct Lane {
    group: std::sync::Weak<Group>,
    messages: mpsc::UnboundedReceiver<Message>,
    to_self: mpsc::WeakUnboundedSender<Message>,
    outbox: Outbox<Answer>,
    /// Other nodes' parts that wait for the next entry.
    parts: VecDeque<Visitor>,
    /// Parts on their way to the leader.
    calls: FuturesUnordered<Sent>,
    /// Entries proposed here and not yet applied.
    proposals: usize,
    replica: Option<Arc<Replica>>,
    leader_changes: Option<LeaderChanges>,
    /// Who leads, by the last answer of another node; forgotten once it proves wrong.
    hint: Option<NodeId>,
    /// Which of the replicas to try, where nobody is known to lead.
    turn: usize,
    store: Store,
    sequences: Arc<Sequences>,
    /// So much waits for this node's disk, or for another's, that nothing more is proposed for now.
    held: bool,
    /// Whom the parts under way were sent to.
    sent_to: Option<NodeId>,
    pause: Duration,
    resume_at: Option<Instant>,
}

impl Lane {
    async fn run(mut self, mut stopping: tokio::sync::watch::Receiver<bool>) {
        let mut drained = Vec::with_capacity(64);
        loop {
            let wake_at = self.wake_at();
            // New messages last, or a steady stream of them would keep all else waiting.
            tokio::select! {
                biased;
                _ = stopping.wait_for(|stopping| *stopping) => break,
                Some((ticket, answer)) = self.calls.next(), if !self.calls.is_empty() => self.answered(ticket, answer),
                () = sleep_until(wake_at) => self.wake(Instant::now()),
                () = ready(&self.store, self.replica.as_deref()), if self.held => self.held = false,
                alive = changed(&mut self.leader_changes) => {
                    if !alive {
                        self.leader_changes = None;
                    }
                }
                count = self.messages.recv_many(&mut drained, DRAIN_MAX) => {
                    if count == 0 {
                        break;
                    }
                    for message in drained.drain(..) {
                        self.take(message);
                    }
                }
            }
            let Some(group) = self.group.upgrade() else {
                break;
            };
            self.pump(&group).await;
        }
        let answers = self.outbox.close();
        self.answer(answers);
        self.turn_away(None);
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Command(draft) => self.outbox.push(draft),
            Message::Part(visitor) => self.parts.push_back(visitor),
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
        match towards {
            Towards::Leader(other) if other != this_node => self.turn_away(Some(other)),
            Towards::Guess(other) if other != this_node => self.turn_away(None),
            Towards::Leader(_) | Towards::Guess(_) | Towards::Nobody => {}
        }
        if let Towards::Leader(leader) | Towards::Guess(leader) = towards
            && self.sent_to != Some(leader)
        {
            // What is under way to the former leader may never be answered; sending it again is safe.
            // A mere guess that was just refused waits for its pause: replicas that all say "not me"
            // would otherwise be asked in turn as fast as they answer.
            let is_known = matches!(towards, Towards::Leader(_));
            if self.sent_to.is_some() && (is_known || !self.outbox.is_stalled()) {
                self.outbox.resume();
            }
            self.sent_to = Some(leader);
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
        if self.replica.is_none() && group.serves_here() {
            // It is being opened, and knows more than a guess then.
            return Towards::Nobody;
        }
        let up = |node: &NodeId| group.shared.is_up(*node);
        let view = self
            .leader_changes
            .as_ref()
            .map(LeaderChanges::leader)
            .unwrap_or_default();
        if let Some(leader) = view.leader.filter(up) {
            return Towards::Leader(leader);
        }
        // A replica hears of a new leader by itself; another node's word is for those who do not.
        let hint = self.hint.filter(up).filter(|_| self.replica.is_none());
        let remembered = view.remembered.filter(up).filter(|_| self.turn == 0);
        match hint.or(remembered).or_else(|| group.up(self.turn)) {
            Some(node) => Towards::Guess(node),
            None => Towards::Nobody,
        }
    }

    async fn propose(&mut self) {
        let Some(replica) = self.replica.clone() else {
            return;
        };
        while self.proposals < PROPOSALS_MAX {
            self.held = self.store.pressure() || !replica.consensus.has_room();
            if self.held {
                return;
            }
            let mut batch = BatchBuilder::new();
            let mut sources = Vec::new();
            // One part of our own first, so that a stream of others' parts does not keep ours waiting.
            self.add_own(&mut batch, &mut sources, 1);
            while has_room(&batch)
                && let Some(visitor) = self.parts.pop_front()
            {
                match batch.push(visitor.part) {
                    Ok(()) => sources.push(Source::Other {
                        reply: visitor.reply,
                        _place: visitor.place,
                    }),
                    Err(error) => visitor.reply.refuse(&error.to_string()),
                }
            }
            self.add_own(&mut batch, &mut sources, FLIGHTS_MAX);
            // An empty batch is refused: nothing waits.
            let Ok(payload) = batch.finish(clock::now_ms()) else {
                return;
            };
            self.proposals += 1;
            let to_self = self.to_self.clone();
            let done = move |proposal| {
                let own = distribute(proposal, sources);
                if let Some(to_self) = to_self.upgrade() {
                    // A lane ends with its node or with its group, which closes only when nothing in it
                    // waits for an answer.
                    let _ = to_self.send(Message::Proposed { own });
                }
            };
            replica.consensus.propose(payload, done).await;
        }
    }

    fn add_own(&mut self, batch: &mut BatchBuilder, sources: &mut Vec<Source>, parts_max: usize) {
        for _ in 0..parts_max {
            if !has_room(batch) {
                return;
            }
            let Some(sending) = self.outbox.next(Instant::now()) else {
                return;
            };
            batch
                .push(sending.part)
                .expect("an outbox makes parts that fit where there is room");
            sources.push(Source::Own(sending.ticket));
        }
    }

    /// Tells those who took this node for the leader that it is not.
    fn turn_away(&mut self, leader: Option<NodeId>) {
        for visitor in self.parts.drain(..) {
            visitor.reply.ok(Submitted::NotLeader(leader).encode());
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
            Ok(body) => {
                let answer = Submitted::decode(&body).unwrap_or(Submitted::Unknown);
                if let Submitted::NotLeader(leader) = answer {
                    self.hint = leader;
                }
                settlement(answer)
            }
            Err(CallError::Down | CallError::Full) => {
                self.hint = None;
                Settlement::Rejected
            }
            Err(CallError::Lost | CallError::TimedOut | CallError::Refused(_)) => {
                self.hint = None;
                Settlement::Unknown
            }
        };
        let is_refusal = !matches!(settlement, Settlement::Outcomes(_));
        let was_stalled = self.outbox.is_stalled();
        self.settle(ticket, settlement);
        // Once for all that was sent to one node, and not for late answers to older tries.
        if is_refusal && !was_stalled && self.outbox.is_stalled() {
            self.turn += 1;
            self.doubt();
        }
    }

    /// A replica that follows steadily has no timer that would tell it that its leader does not lead
    /// any more; a refusal does.
    fn doubt(&self) {
        if let Some(group) = self.group.upgrade() {
            group.doubt_leader();
        }
    }

    fn settle(&mut self, ticket: Ticket, settlement: Settlement) {
        if matches!(settlement, Settlement::Outcomes(_)) {
            self.pause = PAUSE_MIN;
        }
        let above = |newest| self.sequences.above(newest);
        let answers = self.outbox.settle(ticket, settlement, above);
        self.answer(answers);
    }

    fn wake_at(&self) -> Option<Instant> {
        let visit_ends = self.parts.front().map(|visitor| visitor.since + VISIT_MAX);
        let due = [self.resume_at, self.outbox.next_deadline(), visit_ends];
        due.into_iter().flatten().min()
    }

    fn wake(&mut self, now: Instant) {
        if self.resume_at.is_some_and(|at| at <= now) {
            self.resume_at = None;
            if self.outbox.is_stalled() {
                self.outbox.resume();
            }
        }
        while self
            .parts
            .front()
            .is_some_and(|visitor| visitor.since + VISIT_MAX <= now)
        {
            let visitor = self.parts.pop_front().expect("there is a front");
            visitor.reply.ok(Submitted::NotLeader(None).encode());
        }
        let above = |newest| self.sequences.above(newest);
        let answers = self.outbox.expire(now, above);
        self.answer(answers);
    }

    fn answer(&self, answers: Answers<Answer>) {
        for (reply, verdict) in answers {
            // Whoever asked may have gone away.
            let _ = reply.verdict.send(verdict);
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

/// Where a part of an entry came from.
enum Source {
    Own(Ticket),
    Other { reply: Reply, _place: Place },
}

/// Tells other nodes what their parts of an entry came to, and returns what our own did.
fn distribute(proposal: Proposal, sources: Vec<Source>) -> Vec<(Ticket, Settlement)> {
    let (mut outcomes, otherwise) = match proposal {
        Ok(parts) => (parts.into_iter(), Submitted::Unknown),
        Err(ProposeError::NotLeader { leader }) => {
            (Vec::new().into_iter(), Submitted::NotLeader(leader))
        }
        Err(ProposeError::Unknown) => (Vec::new().into_iter(), Submitted::Unknown),
    };
    let mut own = Vec::new();
    for source in sources {
        let answer = outcomes
            .next()
            .map_or_else(|| otherwise.clone(), Submitted::Outcomes);
        match source {
            Source::Own(ticket) => own.push((ticket, settlement(answer))),
            Source::Other { reply, .. } => reply.ok(answer.encode()),
        }
    }
    own
}

fn settlement(answer: Submitted) -> Settlement {
    match answer {
        Submitted::Outcomes(outcomes) => Settlement::Outcomes(outcomes),
        Submitted::NotLeader(_) | Submitted::Busy => Settlement::Rejected,
        Submitted::NoRoom => Settlement::NoRoom,
        Submitted::Unknown => Settlement::Unknown,
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

/// Resolves when neither this node's disk nor a follower's keeps proposals waiting.
async fn ready(store: &Store, replica: Option<&Replica>) {
    store.ready().await;
    if let Some(replica) = replica {
        replica.consensus.ready().await;
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
