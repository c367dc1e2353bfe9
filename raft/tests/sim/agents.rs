//! An agent on each node that takes its time, fails, and answers in the end. It gives up soon where it
//! gets no answer, as the product does later: what it leaves behind must come to it again.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use accord_raft::Channel;
use accord_raft::Executor;
use accord_raft::Job;
use accord_raft::JobError;
use accord_raft::JobState;
use accord_raft::Node;
use accord_raft::Settlement;
use accord_raft::WriteError;
use accord_raft::names::MessageBody;
use accord_storage::sim::random;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use uuid::Uuid;

/// How long an attempt takes, at most.
const ATTEMPT_MS_MAX: u64 = 3_000;
/// How long a job waits after a failed attempt, at most.
const WAIT_MS_MAX: u64 = 4_000;
/// Tries to begin an attempt, or to say what came of one, and the pause between two.
const TRIES_MAX: usize = 3;
const AGAIN_MS: u64 = 100;
const BODY_BYTES_MAX: usize = 100;

/// Takes every job that is due, until it is told that it has ended.
#[derive(Default)]
pub struct Agent {
    state: Mutex<State>,
    arrived: Notify,
}

#[derive(Default)]
struct State {
    due: Vec<(Arc<Channel>, Job)>,
    ended: Vec<Uuid>,
}

impl Agent {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Executor for Agent {
    fn due(&self, channel: &Arc<Channel>, job: Job) -> bool {
        self.state().due.push((Arc::clone(channel), job));
        self.arrived.notify_one();
        true
    }

    fn ended(&self, _: Uuid, job: Uuid) {
        self.state().ended.push(job);
        self.arrived.notify_one();
    }
}

/// Runs what the agent has been given, until the node ends.
pub async fn run(node: Node, agent: Arc<Agent>) {
    let busy: Rc<RefCell<BTreeSet<Uuid>>> = Rc::default();
    let mut attempts: BTreeMap<Uuid, AbortHandle> = BTreeMap::new();
    loop {
        agent.arrived.notified().await;
        let State { due, ended } = std::mem::take(&mut *agent.state());
        for job in ended {
            if let Some(attempt) = attempts.remove(&job) {
                attempt.abort();
                busy.borrow_mut().remove(&job);
            }
        }
        for (channel, job) in due {
            // It is told again and again of what it has already.
            if !busy.borrow_mut().insert(job.id) {
                continue;
            }
            let (node, busy) = (node.clone(), Rc::clone(&busy));
            let id = job.id;
            let attempt = tokio::task::spawn_local(async move {
                attempt(&node, &channel, &job).await;
                busy.borrow_mut().remove(&job.id);
                // It may be left, or have come again in between.
                node.left(&channel);
            });
            attempts.insert(id, attempt.abort_handle());
        }
    }
}

async fn attempt(node: &Node, channel: &Arc<Channel>, job: &Job) {
    if matches!(job.state, JobState::Running { node: of, .. } if of == node.id()) {
        // Nobody makes that attempt any more, or it would not have come to be this one.
        let settlement = Settlement::Retry {
            until_ms: accord_raft::sim::true_ms(),
            reason: "it was left".to_owned(),
        };
        settle(node, channel, job.id, job.attempt, settlement).await;
        return;
    }
    let number = job.attempt + 1;
    for tries in 1.. {
        match node.claim(channel, job.id, number).await {
            Ok(()) => break,
            Err(JobError::Write(WriteError::OutcomeUnknown)) if tries < TRIES_MAX => {
                pause(AGAIN_MS).await;
            }
            Err(_) => return,
        }
    }
    pause(random() % ATTEMPT_MS_MAX).await;
    let body = MessageBody::parse(format!("attempt {number}"), BODY_BYTES_MAX);
    let body = body.expect("it is short and not blank");
    let reason = "the dice".to_owned();
    let settlement = match random() % 4 {
        0 if number < job.attempts_max => Settlement::Retry {
            until_ms: accord_raft::sim::true_ms() + random() % WAIT_MS_MAX,
            reason,
        },
        1 => Settlement::Fail { body, reason },
        _ => Settlement::Reply { body },
    };
    settle(node, channel, job.id, number, settlement).await;
}

async fn settle(
    node: &Node,
    channel: &Arc<Channel>,
    job: Uuid,
    attempt: u32,
    settlement: Settlement,
) {
    for _ in 0..TRIES_MAX {
        let settled = node.settle(channel, job, attempt, settlement.clone());
        match settled.await {
            Ok(_) | Err(JobError::Superseded | JobError::NotFound) => return,
            Err(JobError::Write(_)) => pause(AGAIN_MS).await,
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "an attempt takes time, which is simulated"
)]
async fn pause(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}
