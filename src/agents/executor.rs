//! Runs jobs on the channel's leader: a slot, a claim, an attempt, a settlement.
//!
//! The store says which jobs are due and which are no longer ours; the slots say who may run; each
//! attempt is a task of its own. Whatever ends a task, its slot is free again and the next one
//! begins. A claim or a settlement whose outcome is not known is asked for again, a bounded number
//! of times; an attempt that could not be settled is left behind, and the store brings the job again
//! when it may be made anew.

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
use accord_raft::Node;
use accord_raft::Settlement;
use accord_raft::WriteError;
use accord_raft::names::MessageBody;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;
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
use super::runner::Surroundings;
use super::slots::Place;
use super::slots::Slots;

/// Between two deltas of a job: often enough for the eye, and a bound on what nodes send each other.
const DELTA_PAUSE: Duration = Duration::from_millis(30);
/// How often a claim or a settlement is asked for, and how far apart at first. The pause doubles, so
/// this is most of a minute: an election takes less.
const ASK_MAX: u32 = 8;
const ASK_PAUSE: Duration = Duration::from_millis(200);
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
    message_bytes_max: usize,
    /// Set once the node has started; nothing runs before.
    node: OnceLock<Node>,
    runtime: Handle,
    state: Mutex<State>,
    /// For jitter only.
    random: AtomicU64,
}

struct State {
    slots: Slots<(Arc<Channel>, Job)>,
    tasks: HashMap<Uuid, AbortHandle>,
}

/// An attempt that runs; whatever ends it, its place is free again.
struct Running {
    shared: Weak<Shared>,
    job: Uuid,
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.upgrade() {
            shared.freed(self.job);
        }
    }
}

impl Executor {
    /// Must be called within a runtime, on which attempts then run.
    pub fn new(agents: Arc<Agents>, message_bytes_max: usize) -> Executor {
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
                message_bytes_max,
                node: OnceLock::new(),
                runtime: Handle::current(),
                state: Mutex::new(State {
                    slots: Slots::new(bounds),
                    tasks: HashMap::new(),
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
    fn due(&self, channel: &Arc<Channel>, job: Job) {
        let agents = &self.shared.agents;
        let found = agents.find(job.agent.as_str()).map(|(index, _)| index);
        let place = Place {
            channel: Uuid::from_bytes(channel.id),
            agent: found.unwrap_or(agents.all.len()),
        };
        let kept = (Arc::clone(channel), job);
        self.shared.state().slots.due(kept.1.id, place, kept);
        self.shared.start_waiting();
    }

    fn ended(&self, _channel: Uuid, job: Uuid) {
        let task = {
            let mut state = self.shared.state();
            state.slots.forget(job);
            state.tasks.remove(&job)
        };
        // Its slot is freed by the task's end.
        if let Some(task) = task {
            task.abort();
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while holding it; if something did, the slots would still be whole.
        self.state.lock().unwrap_or_else(|error| error.into_inner())
    }

    fn start_waiting(self: &Arc<Self>) {
        let Some(node) = self.node.get() else {
            return;
        };
        let mut state = self.state();
        while let Some((id, (channel, job))) = state.slots.next() {
            let running = Running {
                shared: Arc::downgrade(self),
                job: id,
            };
            let (shared, node) = (Arc::clone(self), node.clone());
            let task = self.runtime.spawn(async move {
                let _running = running;
                Box::pin(shared.run(&node, &channel, &job)).await;
            });
            state.tasks.insert(id, task.abort_handle());
        }
    }

    fn freed(self: &Arc<Self>, job: Uuid) {
        {
            let mut state = self.state();
            state.slots.ended(job);
            state.tasks.remove(&job);
        }
        self.start_waiting();
    }

    /// One attempt from its claim to its settlement.
    async fn run(&self, node: &Node, channel: &Arc<Channel>, job: &Job) {
        let attempt = job.attempt + 1;
        let claimed = ask_again(|| node.claim(channel, job.id, attempt)).await;
        if let Err(error) = claimed {
            tracing::debug!(job = %job.id, attempt, %error, "an attempt was not claimed");
            return;
        }
        let agent = self.agents.find(job.agent.as_str()).map(|(_, agent)| agent);
        tracing::info!(
            channel = %Uuid::from_bytes(channel.id),
            job = %job.id,
            agent = %job.agent,
            attempt,
            "an attempt begins"
        );
        let began = Instant::now();
        let mut stream = Stream::new(node, channel, job, attempt);
        let counting = agent.map(|agent| Counting::begin(agent, began));
        let result = match agent {
            // Left behind often enough by nodes that died meanwhile, perhaps of it.
            _ if attempt > job.attempts_max => Err(Failure::new(
                FailureKind::Internal,
                "no attempt was finished by the node that made it",
            )),
            None => Err(Failure::new(
                FailureKind::Internal,
                format!("node {} has no agent of this name", node.id()),
            )),
            Some(agent) => self.attempt(agent, node, channel, job, &mut stream).await,
        };
        let settlement = self.settlement(agent, job, attempt, &result);
        let ended = match &settlement {
            Settlement::Retry { .. } => Ended::Retry,
            Settlement::Reply { .. } | Settlement::Fail { .. } => Ended::Done,
        };
        let settle = || node.settle(channel, job.id, attempt, settlement.clone());
        let settled = ask_again(settle).await;
        if let Some(counting) = counting {
            counting.end(&settlement, result.as_ref().err(), settled.is_ok());
        }
        self.report(channel, job, attempt, &settlement, &settled, began);
        match settled {
            Ok(_) => stream.end(ended),
            Err(_) => stream.end(Ended::Stopped),
        }
    }

    /// Asks the agent and streams what it says meanwhile.
    async fn attempt(
        &self,
        agent: &Agent,
        node: &Node,
        channel: &Arc<Channel>,
        job: &Job,
        stream: &mut Stream<'_>,
    ) -> Result<MessageBody, Failure> {
        let around = Surroundings {
            agents: &self.agents,
            node,
            channel,
        };
        let partial = Partial::new(self.message_bytes_max);
        let result = {
            let asking = agent.attempt(&around, job, stream.attempt, &partial);
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
        job: &Job,
        attempt: u32,
        result: &Result<MessageBody, Failure>,
    ) -> Settlement {
        let failure = match result {
            Ok(body) => return Settlement::Reply { body: body.clone() },
            Err(failure) => failure,
        };
        let policy = RetryPolicy {
            attempts_max: job.attempts_max,
            ..agent.map_or(UNKNOWN_AGENT, |agent| agent.config.retry)
        };
        match policy.next(attempt, failure, self.random()) {
            Next::RetryAfter(pause) => Settlement::Retry {
                until_ms: unix_ms().saturating_add(pause.as_millis() as u64),
                reason: failure.detail.clone(),
            },
            Next::GiveUp => Settlement::Fail {
                body: self.failed(attempt, failure),
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

    fn report(
        &self,
        channel: &Arc<Channel>,
        job: &Job,
        attempt: u32,
        settlement: &Settlement,
        settled: &Result<Option<accord_raft::Position>, JobError>,
        began: Instant,
    ) {
        let took_ms = began.elapsed().as_millis() as u64;
        let (channel, id, agent) = (Uuid::from_bytes(channel.id), job.id, &job.agent);
        match (settled, settlement) {
            (Err(error), _) => {
                tracing::info!(%channel, job = %id, %agent, attempt, took_ms, %error, "an attempt was left");
            }
            (Ok(_), Settlement::Reply { .. }) => {
                tracing::info!(%channel, job = %id, %agent, attempt, took_ms, "answered");
            }
            (Ok(_), Settlement::Retry { reason, until_ms }) => {
                tracing::info!(%channel, job = %id, %agent, attempt, took_ms, %reason, until_ms, "to be tried again");
            }
            (Ok(_), Settlement::Fail { reason, .. }) => {
                tracing::info!(%channel, job = %id, %agent, attempt, took_ms, %reason, "given up");
            }
        }
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

/// The deltas of one attempt on their way to all nodes.
struct Stream<'a> {
    node: &'a Node,
    channel: &'a Arc<Channel>,
    job: &'a Job,
    attempt: u32,
    /// Something went out, so an end has to.
    is_begun: bool,
    is_ended: bool,
}

impl<'a> Stream<'a> {
    fn new(node: &'a Node, channel: &'a Arc<Channel>, job: &'a Job, attempt: u32) -> Stream<'a> {
        Stream {
            node,
            channel,
            job,
            attempt,
            is_begun: false,
            is_ended: false,
        }
    }

    /// Broadcasts what is said, for as long as this is polled.
    async fn follow(&mut self, partial: &Partial) -> std::convert::Infallible {
        loop {
            partial.grown().await;
            while let Some(piece) = partial.take() {
                let (id, agent) = (self.job.id, self.job.agent.as_str());
                let delta = Delta::of(id, agent, self.attempt, piece);
                self.is_begun = true;
                self.node.broadcast(self.channel, delta.frame());
                #[expect(clippy::disallowed_methods, reason = "this is what bounds the rate")]
                tokio::time::sleep(DELTA_PAUSE).await;
            }
        }
    }

    fn end(&mut self, ended: Ended) {
        if self.is_begun && !std::mem::replace(&mut self.is_ended, true) {
            let (id, agent) = (self.job.id, self.job.agent.as_str());
            let delta = Delta::end(id, agent, self.attempt, 0, ended);
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

/// Asks until the answer is one, a bounded number of times.
async fn ask_again<T, F>(ask: impl Fn() -> F) -> Result<T, JobError>
where
    F: Future<Output = Result<T, JobError>>,
{
    let mut pause = ASK_PAUSE;
    for _ in 1..ASK_MAX {
        match ask().await {
            Err(JobError::Write(
                WriteError::OutcomeUnknown | WriteError::NoLeader | WriteError::Busy,
            )) => {}
            answer => return answer,
        }
        #[expect(clippy::disallowed_methods, reason = "a refused write says no when")]
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
    ask().await
}

/// For the time of the next attempt, which the store compares with its own clock.
fn unix_ms() -> u64 {
    let since = now().duration_since(SystemTime::UNIX_EPOCH);
    u64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}
