//! Runs jobs on the channel's leader: a slot, a claim, an attempt, a settlement.
//!
//! The store says which jobs are due and which are no longer ours; the slots say who may run; each
//! attempt is a task of its own. Whatever ends a task, its slot is free again and the next one
//! begins. A claim or a settlement whose outcome is not known is asked for again, a bounded number
//! of times, a claim fewer times: while it cannot succeed it is in others' way, and the store offers
//! the job again. An attempt that could not be settled is left behind. The store offers it as one that
//! runs here; since no task has it, it is settled as one to be made again, by its number, so that an
//! offer that comes late does nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::OnceLock;
use std::sync::Weak;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use std::time::SystemTime;

use accord_raft::Channel;
use accord_raft::Job;
use accord_raft::JobError;
use accord_raft::JobState;
use accord_raft::Node;
use accord_raft::Settlement;
use accord_raft::WriteError;
use accord_raft::names::MessageBody;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::Instant;
use uuid::Uuid;

use super::Agent;
use super::Agents;
use super::delta::Delta;
use super::delta::Ended;
use super::http::now;
use super::partial::Partial;
use super::retry::Failure;
use super::retry::FailureKind;
use super::retry::Next;
use super::retry::RetryPolicy;
use super::runner::About;
use super::runner::Surroundings;
use super::slots::Place;
use super::slots::Slots;

/// Between two deltas of a job: often enough for the eye, and a bound on what nodes send each other.
const DELTA_PAUSE: Duration = Duration::from_millis(30);
/// How often a settlement is asked for, and how far apart at first. The pause doubles, so this is most of
/// a minute: an election takes less.
const SETTLE_TRIES_MAX: u32 = 8;
const ASK_PAUSE: Duration = Duration::from_millis(200);
/// How often a claim is asked for, if it may have been taken: nothing is lost yet if it was not.
const CLAIM_TRIES_MAX: u32 = 3;
/// How long an attempt that nobody here can make waits for another node or configuration.
const UNKNOWN_AGENT_BACKOFF: Duration = Duration::from_secs(5);
/// Attempts at jobs of agents that this node does not know, at a time.
const UNKNOWN_AGENT_CONCURRENCY: usize = 8;

/// See the module. A cheap handle.
#[derive(Clone)]
pub struct Executor {
    shared: Arc<Shared>,
}

struct Shared {
    agents: Arc<Agents>,
    this_node: u64,
    message_bytes_max: usize,
    /// Set once the node has started; nothing runs before.
    node: OnceLock<Node>,
    runtime: Handle,
    state: Mutex<State>,
    /// For jitter only.
    random: AtomicU64,
}

struct State {
    slots: Slots<(Arc<Channel>, Errand)>,
    tasks: HashMap<Uuid, Task>,
    /// Somebody begins what may run, and will look again before it is done.
    is_starting: bool,
}

/// What is kept of a job until it runs. Not its command, which may be long and is in the channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Errand {
    job: Uuid,
    seq: u64,
    /// Its place among all, or behind them if it is not known here.
    agent: usize,
    /// The one to make, or to give up.
    attempt: u32,
    attempts_max: u32,
    /// It was begun by this node, and nobody makes it any more.
    is_left: bool,
}

impl Errand {
    /// What there is to do about a job on this node.
    fn of(job: &Job, agent: usize, this_node: u64) -> Errand {
        let is_left = matches!(job.state, JobState::Running { node, .. } if node == this_node);
        Errand {
            job: job.id,
            seq: job.seq,
            agent,
            attempt: job.attempt + u32::from(!is_left),
            attempts_max: job.attempts_max,
            is_left,
        }
    }
}

/// An attempt that runs, as others see it.
struct Task {
    stop: Arc<Notify>,
    /// It is being settled, which nobody needs to stop: if it is not welcome it is refused, and the
    /// store may say that a job has ended before the settlement that has ended it is answered.
    is_settling: bool,
}

/// An attempt that runs; whatever ends it, its place is free again.
struct Running {
    shared: Weak<Shared>,
    channel: Arc<Channel>,
    job: Uuid,
    /// The store need not offer it again soon.
    is_done: bool,
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.upgrade() {
            shared.freed(&self.channel, self.job, self.is_done);
        }
    }
}

impl Executor {
    /// Of the node with this id. Must be called within a runtime, on which attempts then run.
    pub fn new(agents: Arc<Agents>, this_node: u64, message_bytes_max: usize) -> Executor {
        let mut bounds: Vec<(usize, bool)> = agents
            .all
            .iter()
            .map(|agent| (agent.config.concurrency, !agent.is_builtin()))
            .collect();
        // The last place is that of agents that only other nodes know.
        bounds.push((UNKNOWN_AGENT_CONCURRENCY, true));
        Executor {
            shared: Arc::new(Shared {
                agents,
                this_node,
                message_bytes_max,
                node: OnceLock::new(),
                runtime: Handle::current(),
                state: Mutex::new(State {
                    slots: Slots::new(bounds),
                    tasks: HashMap::new(),
                    is_starting: false,
                }),
                random: AtomicU64::new(Uuid::now_v7().as_u128() as u64),
            }),
        }
    }

    /// The node is up: what waits may run.
    pub fn started(&self, node: Node) {
        // A second node of one executor would be a mistake of ours; the first stays.
        let _ = self.shared.node.set(node);
        self.shared.start_waiting();
    }

    /// Attempts of an agent that run, by its place among all, and jobs that wait for a slot.
    pub fn load(&self) -> (Vec<usize>, usize) {
        let state = self.shared.state();
        let all = 0..self.shared.agents.all.len();
        let running = all.map(|agent| state.slots.running_of(agent)).collect();
        (running, state.slots.waiting())
    }
}

impl accord_raft::Executor for Executor {
    fn due(&self, channel: &Arc<Channel>, job: Job) -> bool {
        let agents = &self.shared.agents;
        let found = agents.find(job.agent.as_str()).map(|(index, _)| index);
        let agent = found.unwrap_or(agents.all.len());
        let place = Place {
            channel: Uuid::from_bytes(channel.id),
            agent,
        };
        let errand = Errand::of(&job, agent, self.shared.this_node);
        let kept = (Arc::clone(channel), errand);
        let mut state = self.shared.state();
        let has_place = state.slots.due(job.id, place, errand.attempt, kept);
        drop(state);
        self.shared.start_waiting();
        has_place
    }

    fn ended(&self, _channel: Uuid, job: Uuid) {
        let mut state = self.shared.state();
        state.slots.forget(job);
        // Its slot is freed by the task's end.
        if state.tasks.get(&job).is_some_and(|task| !task.is_settling)
            && let Some(task) = state.tasks.remove(&job)
        {
            task.stop.notify_one();
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while holding it; if something did, the slots would still be whole.
        self.state.lock().unwrap_or_else(|error| error.into_inner())
    }

    /// Begins what may run. Tasks are spawned without the lock, since one that a runtime does not take
    /// any more is dropped at once and frees its slot; whoever comes meanwhile leaves the rest to the one
    /// who is here already.
    fn start_waiting(self: &Arc<Self>) {
        let Some(node) = self.node.get() else {
            return;
        };
        if std::mem::replace(&mut self.state().is_starting, true) {
            return;
        }
        loop {
            let mut state = self.state();
            let Some((job, (channel, errand))) = state.slots.next() else {
                state.is_starting = false;
                return;
            };
            let stop = Arc::new(Notify::new());
            let task = Task {
                stop: Arc::clone(&stop),
                is_settling: false,
            };
            state.tasks.insert(job, task);
            drop(state);
            let running = Running {
                shared: Arc::downgrade(self),
                channel: Arc::clone(&channel),
                job,
                is_done: false,
            };
            let (shared, node) = (Arc::clone(self), node.clone());
            self.runtime.spawn(async move {
                // All of it, whose end is to be that of the task.
                let mut running = running;
                let run = Box::pin(shared.run(&node, &channel, &errand));
                tokio::select! {
                    biased;
                    () = stop.notified() => {}
                    is_done = run => running.is_done = is_done,
                }
            });
        }
    }

    fn freed(self: &Arc<Self>, channel: &Channel, job: Uuid, is_done: bool) {
        let was_stopped = {
            let mut state = self.state();
            state.slots.ended(job);
            state.tasks.remove(&job).is_none()
        };
        if !is_done
            && !was_stopped
            && let Some(node) = self.node.get()
        {
            node.left(channel);
        }
        self.start_waiting();
    }

    /// One attempt from its claim to its settlement. False if it was left, and the job is to be offered
    /// again.
    async fn run(&self, node: &Node, channel: &Arc<Channel>, errand: &Errand) -> bool {
        if errand.is_left {
            return self.give_up(node, channel, errand).await;
        }
        let (job, attempt) = (errand.job, errand.attempt);
        let claimed = ask_again(Asked::Claim, || node.claim(channel, job, attempt)).await;
        if let Err(error) = claimed {
            tracing::debug!(%job, attempt, %error, "an attempt was not claimed");
            return !may_be_offered(&error);
        }
        let agent = self.agents.all.get(errand.agent);
        let log = Log::begin(channel, errand, agent);
        let mut stream = Stream::new(node, channel, errand, agent);
        let counting = agent.map(|agent| Counting::begin(agent, log.began));
        let result = match agent {
            // Left behind often enough by nodes that died meanwhile, perhaps of it.
            _ if attempt > errand.attempts_max => Err(Failure::new(
                FailureKind::Internal,
                "no attempt was finished by the node that made it",
            )),
            None => Err(Failure::new(
                FailureKind::Internal,
                format!("node {} has no agent of this name", node.id()),
            )),
            Some(agent) => {
                self.attempt(agent, node, channel, errand, &mut stream)
                    .await
            }
        };
        let settlement = self.settlement(agent, errand, &result);
        let ended = match &settlement {
            Settlement::Retry { .. } => Ended::Retry,
            Settlement::Reply { .. } | Settlement::Fail { .. } => Ended::Done,
        };
        let settled = self.settle(node, channel, errand, &settlement).await;
        if let Some(counting) = counting {
            counting.end(&settlement, result.as_ref().err(), settled.is_ok());
        }
        log.end(&settlement, &settled);
        match settled {
            Ok(_) => stream.end(ended),
            Err(_) => stream.end(Ended::Stopped),
        }
        settled.map_or_else(|error| !may_be_offered(&error), |_| true)
    }

    /// Makes a job free whose attempt was begun by this node and not settled: its outcome could not be
    /// written, or its claim was taken after all.
    async fn give_up(&self, node: &Node, channel: &Arc<Channel>, errand: &Errand) -> bool {
        let settlement = Settlement::Retry {
            until_ms: unix_ms(),
            reason: "what came of the attempt could not be written".to_owned(),
        };
        let (job, attempt) = (errand.job, errand.attempt);
        match self.settle(node, channel, errand, &settlement).await {
            Ok(_) => {
                tracing::info!(%job, attempt, "an attempt that was left is to be made again");
                true
            }
            Err(error) => {
                tracing::debug!(%job, attempt, %error, "an attempt that was left still is");
                !may_be_offered(&error)
            }
        }
    }

    async fn settle(
        &self,
        node: &Node,
        channel: &Arc<Channel>,
        errand: &Errand,
        settlement: &Settlement,
    ) -> Result<(), JobError> {
        if let Some(task) = self.state().tasks.get_mut(&errand.job) {
            task.is_settling = true;
        }
        let settle = || node.settle(channel, errand.job, errand.attempt, settlement.clone());
        ask_again(Asked::Settlement, settle).await.map(|_| ())
    }

    /// Asks the agent and streams what it says meanwhile.
    async fn attempt(
        &self,
        agent: &Agent,
        node: &Node,
        channel: &Arc<Channel>,
        errand: &Errand,
        stream: &mut Stream<'_>,
    ) -> Result<MessageBody, Failure> {
        let around = Surroundings {
            agents: &self.agents,
            node,
            channel,
        };
        let partial = Partial::new(self.message_bytes_max);
        let result = {
            let about = About {
                job: errand.job,
                seq: errand.seq,
                attempt: errand.attempt,
            };
            let asking = agent.attempt(&around, about, &partial);
            tokio::select! {
                result = asking => result,
                never = stream.follow(&partial) => match never {},
            }
        };
        result?;
        MessageBody::parse(partial.into_text(), self.message_bytes_max)
            .map_err(|_| Failure::new(FailureKind::Garbage, "the answer was empty"))
    }

    fn settlement(
        &self,
        agent: Option<&Agent>,
        errand: &Errand,
        result: &Result<MessageBody, Failure>,
    ) -> Settlement {
        let failure = match result {
            Ok(body) => return Settlement::Reply { body: body.clone() },
            Err(failure) => failure,
        };
        let policy = RetryPolicy {
            attempts_max: errand.attempts_max,
            ..agent.map_or(UNKNOWN_AGENT, |agent| agent.config.retry)
        };
        match policy.next(errand.attempt, failure, self.random()) {
            Next::RetryAfter(pause) => Settlement::Retry {
                until_ms: unix_ms().saturating_add(pause.as_millis() as u64),
                reason: failure.detail.clone(),
            },
            Next::GiveUp => Settlement::Fail {
                // One more was begun to say so, if it was the last one that was left.
                body: self.failed(errand.attempt.min(errand.attempts_max), failure),
                reason: failure.detail.clone(),
            },
        }
    }

    /// What is said in the channel when nothing comes of a command.
    fn failed(&self, attempt: u32, failure: &Failure) -> MessageBody {
        let times = match attempt {
            1 => "1 attempt".to_owned(),
            attempt => format!("{attempt} attempts"),
        };
        let text = format!("No answer after {times}: {}.", failure.detail);
        MessageBody::parse(text, self.message_bytes_max)
            // Where messages may be very short.
            .or_else(|_| MessageBody::parse("!", self.message_bytes_max))
            .expect("a message may have one byte at least")
    }

    /// Numbers that differ between nodes and calls, nothing more (splitmix64).
    fn random(&self) -> u64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut mixed = self.random.fetch_add(STEP, Relaxed);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

const UNKNOWN_AGENT: RetryPolicy = RetryPolicy {
    attempts_max: 1,
    backoff: UNKNOWN_AGENT_BACKOFF,
    backoff_max: UNKNOWN_AGENT_BACKOFF,
};

/// Whether the store offers a job again although an attempt at it could not be begun or settled: it is
/// still this node's business as far as is known.
fn may_be_offered(error: &JobError) -> bool {
    match error {
        JobError::Superseded | JobError::NotFound => false,
        JobError::Write(_) => true,
    }
}

/// An attempt in the log.
struct Log<'a> {
    channel: Uuid,
    errand: &'a Errand,
    agent: &'a str,
    began: Instant,
}

impl<'a> Log<'a> {
    fn begin(channel: &Channel, errand: &'a Errand, agent: Option<&'a Agent>) -> Log<'a> {
        let log = Log {
            channel: Uuid::from_bytes(channel.id),
            errand,
            agent: name_of(agent),
            began: Instant::now(),
        };
        let (channel, job, attempt) = (log.channel, errand.job, errand.attempt);
        tracing::info!(%channel, %job, agent = log.agent, attempt, "an attempt begins");
        log
    }

    fn end(&self, settlement: &Settlement, settled: &Result<(), JobError>) {
        let took_ms = self.began.elapsed().as_millis() as u64;
        let (channel, agent) = (self.channel, self.agent);
        let (job, attempt) = (self.errand.job, self.errand.attempt);
        match (settled, settlement) {
            (Err(error), _) => {
                tracing::info!(%channel, %job, agent, attempt, took_ms, %error, "an attempt was left");
            }
            (Ok(()), Settlement::Reply { .. }) => {
                tracing::info!(%channel, %job, agent, attempt, took_ms, "answered");
            }
            (Ok(()), Settlement::Retry { reason, until_ms }) => {
                tracing::info!(%channel, %job, agent, attempt, took_ms, %reason, until_ms, "to be tried again");
            }
            (Ok(()), Settlement::Fail { reason, .. }) => {
                tracing::info!(%channel, %job, agent, attempt, took_ms, %reason, "given up");
            }
        }
    }
}

/// As in the configuration; of an agent that is not there nobody says anything.
fn name_of(agent: Option<&Agent>) -> &str {
    agent.map_or("unknown", |agent| agent.config.name.as_str())
}

/// The deltas of one attempt on their way to all nodes.
struct Stream<'a> {
    node: &'a Node,
    channel: &'a Arc<Channel>,
    job: Uuid,
    agent: &'a str,
    attempt: u32,
    /// Something went out, so an end has to.
    is_begun: bool,
    is_ended: bool,
}

impl<'a> Stream<'a> {
    fn new(
        node: &'a Node,
        channel: &'a Arc<Channel>,
        errand: &Errand,
        agent: Option<&'a Agent>,
    ) -> Stream<'a> {
        Stream {
            node,
            channel,
            job: errand.job,
            agent: name_of(agent),
            attempt: errand.attempt,
            is_begun: false,
            is_ended: false,
        }
    }

    /// Broadcasts what is said, for as long as this is polled.
    async fn follow(&mut self, partial: &Partial) -> std::convert::Infallible {
        loop {
            partial.grown().await;
            while let Some(piece) = partial.take() {
                let delta = Delta::of(self.job, self.agent, self.attempt, piece);
                self.is_begun = true;
                self.node.broadcast(self.channel, delta.frame());
                #[expect(clippy::disallowed_methods, reason = "this is what bounds the rate")]
                tokio::time::sleep(DELTA_PAUSE).await;
            }
        }
    }

    fn end(&mut self, ended: Ended) {
        if self.is_begun && !std::mem::replace(&mut self.is_ended, true) {
            let delta = Delta::end(self.job, self.agent, self.attempt, 0, ended);
            self.node.broadcast(self.channel, delta.frame());
        }
    }
}

impl Drop for Stream<'_> {
    /// The attempt was given up.
    fn drop(&mut self) {
        self.end(Ended::Stopped);
    }
}

/// An attempt as the counters see it.
struct Counting<'a> {
    agent: &'a Agent,
    began: Instant,
    is_ended: bool,
}

impl<'a> Counting<'a> {
    fn begin(agent: &'a Agent, began: Instant) -> Counting<'a> {
        agent.counters.attempts.one();
        Counting {
            agent,
            began,
            is_ended: false,
        }
    }

    fn end(mut self, settlement: &Settlement, failure: Option<&Failure>, settled: bool) {
        self.is_ended = true;
        let counters = &self.agent.counters;
        counters.took(self.began.elapsed());
        if let Some(failure) = failure {
            counters.failed(failure.kind);
        }
        match settlement {
            _ if !settled => counters.stopped.one(),
            Settlement::Reply { .. } => counters.replies.one(),
            Settlement::Fail { .. } => counters.given_up.one(),
            Settlement::Retry { .. } => {}
        }
    }
}

impl Drop for Counting<'_> {
    fn drop(&mut self) {
        if !self.is_ended {
            self.agent.counters.stopped.one();
        }
    }
}

/// What is asked of the store about an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Claim,
    Settlement,
}

impl Asked {
    /// How often it is asked for if this is the answer. A claim that was certainly not taken is left to
    /// the store, which offers the job again when it can be taken; of a settlement an answer depends.
    fn tries_max(self, error: &JobError) -> u32 {
        let JobError::Write(error) = error else {
            return 1;
        };
        match (self, error) {
            (Asked::Claim, WriteError::OutcomeUnknown | WriteError::Busy) => CLAIM_TRIES_MAX,
            (Asked::Claim, WriteError::NoLeader | WriteError::NoRoom) => 1,
            (
                Asked::Settlement,
                WriteError::OutcomeUnknown
                | WriteError::Busy
                | WriteError::NoLeader
                | WriteError::NoRoom,
            ) => SETTLE_TRIES_MAX,
            // Another node goes on with it; what else there is says no to something else.
            (
                Asked::Claim | Asked::Settlement,
                WriteError::Stopping
                | WriteError::HeadMismatch { .. }
                | WriteError::KeyReused
                | WriteError::NoSuchServer
                | WriteError::TooManyJobs
                | WriteError::TooManyScheduled,
            ) => 1,
        }
    }
}

/// Asks until the answer is one, a bounded number of times.
async fn ask_again<T, F>(asked: Asked, ask: impl Fn() -> F) -> Result<T, JobError>
where
    F: Future<Output = Result<T, JobError>>,
{
    let mut pause = ASK_PAUSE;
    let mut tries = 1;
    loop {
        match ask().await {
            Err(error) if tries < asked.tries_max(&error) => {}
            answer => return answer,
        }
        #[expect(clippy::disallowed_methods, reason = "a refused write says no when")]
        tokio::time::sleep(pause).await;
        pause *= 2;
        tries += 1;
    }
}

/// For the time of the next attempt, which the store compares with its own clock.
fn unix_ms() -> u64 {
    let since = now().duration_since(SystemTime::UNIX_EPOCH);
    u64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use accord_raft::names::AgentName;
    use std::cell::RefCell;

    fn job(state: JobState, attempt: u32) -> Job {
        Job {
            id: Uuid::from_u128(1),
            seq: 7,
            agent: AgentName::parse("ask").unwrap(),
            username: "ann".to_owned(),
            command: "/ask why".to_owned(),
            state,
            attempt,
            attempts_max: 8,
            due_ms: 0,
            created_ms: 0,
            last_error: None,
        }
    }

    #[test]
    fn an_attempt_of_this_node_that_nobody_makes_is_given_up_and_others_are_followed() {
        let errand = |state, attempt| {
            let errand = Errand::of(&job(state, attempt), 0, 2);
            (errand.attempt, errand.is_left)
        };
        assert_eq!(errand(JobState::Pending, 0), (1, false));
        assert_eq!(errand(JobState::Waiting { until_ms: 5 }, 3), (4, false));
        let running = |node| JobState::Running { term: 9, node };
        assert_eq!(errand(running(1), 3), (4, false), "its node led before");
        assert_eq!(errand(running(2), 3), (3, true));
    }

    /// How often it is asked for if the answers are these, and what comes of it.
    async fn asked(
        asked: Asked,
        answers: &[Result<(), WriteError>],
    ) -> (usize, Result<(), JobError>) {
        let left = RefCell::new(answers.iter().cloned());
        let answer = ask_again(asked, || {
            let next = left.borrow_mut().next().expect("it is asked for too often");
            std::future::ready(next.map_err(JobError::from))
        });
        let answer = answer.await;
        (answers.len() - left.borrow().len(), answer)
    }

    #[tokio::test(start_paused = true)]
    async fn a_settlement_is_asked_for_until_there_is_a_leader_and_room() {
        let no = [
            WriteError::NoRoom,
            WriteError::NoLeader,
            WriteError::OutcomeUnknown,
            WriteError::Busy,
        ];
        let answers: Vec<_> = no.into_iter().map(Err).chain([Ok(())]).collect();
        assert_eq!(asked(Asked::Settlement, &answers).await, (5, Ok(())));
        let never = vec![Err(WriteError::NoRoom); 20];
        let (times, answer) = asked(Asked::Settlement, &never).await;
        assert_eq!(times, SETTLE_TRIES_MAX as usize);
        assert!(may_be_offered(&answer.unwrap_err()));
        let stopping = [Err(WriteError::Stopping)];
        assert_eq!(asked(Asked::Settlement, &stopping).await.0, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_claim_that_cannot_succeed_frees_its_slot() {
        for not_taken in [
            WriteError::NoLeader,
            WriteError::NoRoom,
            WriteError::Stopping,
        ] {
            let answers = [Err(not_taken)];
            assert_eq!(asked(Asked::Claim, &answers).await.0, 1);
        }
        let unknown = vec![Err(WriteError::OutcomeUnknown); 20];
        let (times, _) = asked(Asked::Claim, &unknown).await;
        assert_eq!(times, CLAIM_TRIES_MAX as usize);
        let superseded = ask_again(Asked::Claim, || {
            std::future::ready(Err::<(), _>(JobError::Superseded))
        });
        assert!(!may_be_offered(&superseded.await.unwrap_err()));
    }
}
