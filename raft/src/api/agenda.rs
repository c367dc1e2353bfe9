//! What a channel has yet to do: jobs of agents, and messages for later.

use std::sync::Arc;

use uuid::Uuid;

use crate::api::Channel;
use crate::api::WriteError;
use crate::names::AgentName;
use crate::names::MessageBody;

/// A message is a command: it makes a job in the commit that adds it to the channel. The node decides
/// what is one, since the state machine knows no configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    pub agent: AgentName,
    /// Attempts that the executor makes before it lets the job fail. Kept with the job, so that all
    /// nodes mean the same number; the state machine does not count.
    pub attempts_max: u32,
    /// Whether the agent asks somebody outside. Such jobs may hang, so they are refused a little before
    /// the channel is full: the others, with which people see to that, still have room then.
    pub is_outward: bool,
}

/// What an agent was asked to do, and how far that is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// That of the message that is the command.
    pub id: Uuid,
    /// Of that message.
    pub seq: u64,
    pub agent: AgentName,
    /// Who wrote the command.
    pub username: String,
    /// The whole message, with the agent's name.
    pub command: String,
    pub state: JobState,
    /// The number of the attempt that runs or ran last, 0 before the first.
    pub attempt: u32,
    pub attempts_max: u32,
    /// When it became due, or becomes so: Unix milliseconds, as all times here.
    pub due_ms: u64,
    pub created_ms: u64,
    /// Why the last attempt came to nothing.
    pub last_error: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobState {
    /// Nobody has tried it yet.
    Pending,
    /// An attempt is under way, begun by this node when it led the channel in this term.
    Running {
        term: u64,
        node: u64,
    },
    /// The next attempt comes at this time.
    Waiting {
        until_ms: u64,
    },
    /// The message with this seq is the answer.
    Done {
        reply: u64,
    },
    /// The message with this seq says why.
    Failed {
        reply: u64,
    },
    Cancelled,
}

/// The states without what they hold, for choosing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobKind {
    Pending,
    Running,
    Waiting,
    Done,
    Failed,
    Cancelled,
}

impl JobState {
    pub fn kind(&self) -> JobKind {
        match self {
            JobState::Pending => JobKind::Pending,
            JobState::Running { .. } => JobKind::Running,
            JobState::Waiting { .. } => JobKind::Waiting,
            JobState::Done { .. } => JobKind::Done,
            JobState::Failed { .. } => JobKind::Failed,
            JobState::Cancelled => JobKind::Cancelled,
        }
    }

    /// Whether nothing will happen to it any more.
    pub fn is_over(&self) -> bool {
        match self {
            JobState::Pending | JobState::Running { .. } | JobState::Waiting { .. } => false,
            JobState::Done { .. } | JobState::Failed { .. } | JobState::Cancelled => true,
        }
    }
}

/// What an attempt came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// The answer: one message of the agent, in the commit that ends the job.
    Reply { body: MessageBody },
    /// Nothing yet; the job is due again at this time, at most [`RETRY_MS_MAX`] from now.
    Retry { until_ms: u64, reason: String },
    /// Given up: one message of the agent that says so, in the commit that ends the job.
    Fail { body: MessageBody, reason: String },
}

/// Why a job is not what was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JobError {
    /// The job has ended, or another attempt has begun. Nothing was changed, and whoever asked is to
    /// leave the job alone.
    #[error("another attempt has begun, or the job has ended")]
    Superseded,
    /// It never was, or ended so long ago that it is forgotten. Nothing was changed.
    #[error("no such job")]
    NotFound,
    /// See [`WriteError`]. After `OutcomeUnknown` ask again: a repeated claim or settlement of the same
    /// attempt by the same node is answered as the first one was.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Why something that was still to come was not cancelled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CancelError {
    /// It never was, or is forgotten; a scheduled message also once it was delivered.
    #[error("there is no such thing to cancel")]
    NotFound,
    /// The job has ended by itself.
    #[error("the job has ended already")]
    Over,
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// A message that becomes part of the channel at its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scheduled {
    /// It keeps it as a message.
    pub id: Uuid,
    /// Not before this time by the clock of whoever leads the channel then, Unix milliseconds.
    pub deliver_at_ms: u64,
    pub created_ms: u64,
    pub username: String,
    pub body: String,
    pub reply_to: Option<Uuid>,
}

/// Where a list of scheduled messages goes on, which is in the order of their times: after this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ScheduledCursor {
    pub deliver_at_ms: u64,
    pub id: Uuid,
}

/// That a message was put down for later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appointment {
    /// That of an earlier one with the same idempotency key, if `repeated`.
    pub id: Uuid,
    pub deliver_at_ms: u64,
    pub repeated: bool,
}

/// The longest that an executor puts a job off. What waits for a time that is further away waits by a
/// clock that was ahead, and is taken for due.
pub const RETRY_MS_MAX: u64 = 60 * 60 * 1000;

/// Who runs jobs on this node. All of it is called from tasks that others wait for: quick, without
/// blocking, and with a bound on what it keeps.
pub trait Executor: Send + Sync + 'static {
    /// This node leads the channel, and the job is to be attempted: it is pending, its waiting time is
    /// over, or an attempt at it was begun. The executor claims attempt `job.attempt + 1` when it begins
    /// ([`Node::claim`](crate::Node::claim)) and settles it in the end.
    ///
    /// A job that is `Running` on this node may be the executor's own, whose attempt is under way. If it
    /// is not, the attempt was given up without a settlement; the executor then settles it as one to be
    /// made again ([`Settlement::Retry`]), or the job has no reply for as long as this node leads.
    ///
    /// Answers whether the executor has the job now, or had it already. Called again while the job is
    /// due: every few seconds if not, and about once a minute if so, in case that it was dropped after
    /// all. Whoever drops one says so with [`Node::left`](crate::Node::left).
    fn due(&self, channel: &Arc<Channel>, job: Job) -> bool;

    /// A job that [`Executor::due`] was called for is none of this node's business any more: it has
    /// ended, or another node leads the channel. What is under way is to be given up, since its
    /// settlement would be refused; but an executor may hear of a job that its own settlement, whose
    /// answer is still on its way, has ended.
    fn ended(&self, channel: Uuid, job: Uuid);
}

/// Runs no jobs: they stay pending.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoExecutor;

impl Executor for NoExecutor {
    fn due(&self, _: &Arc<Channel>, _: Job) -> bool {
        // Offering it again would change nothing.
        true
    }

    fn ended(&self, _: Uuid, _: Uuid) {}
}
