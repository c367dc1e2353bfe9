//! Reads of jobs and scheduled messages for nodes without a replica: what is asked and what comes back.

use bincode::Decode;
use bincode::Encode;
use bytes::Bytes;
use uuid::Uuid;

use crate::api::Consistency;
use crate::api::Job;
use crate::api::JobKind;
use crate::api::JobState;
use crate::api::Page;
use crate::api::ReadError;
use crate::api::Scheduled;
use crate::api::ScheduledCursor;
use crate::codec;
use crate::codec::Malformed;
use crate::names::AgentName;
use crate::remote::WireError;

/// Most bytes that an answer may claim to hold: a page, with generous room for names.
const ANSWER_BYTES_MAX: usize = 8 * 1024 * 1024;
const REQUEST_BYTES_MAX: usize = 1_024;

/// A read of a channel's agenda.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Request {
    pub(crate) group: u64,
    linearizable: bool,
    pub(crate) what: What,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) enum What {
    Jobs {
        kind: Option<Kind>,
        after: Option<u64>,
        limit: u32,
    },
    Job {
        id: [u8; 16],
    },
    Scheduled {
        after: Option<(u64, [u8; 16])>,
        limit: u32,
    },
    ScheduledOne {
        id: [u8; 16],
    },
}

/// As [`JobKind`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub(crate) enum Kind {
    Pending,
    Running,
    Waiting,
    Done,
    Failed,
    Cancelled,
}

/// What a replica has of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found {
    Jobs(Page<Job>),
    Scheduled(Vec<Scheduled>, Option<ScheduledCursor>),
}

#[derive(Encode, Decode)]
enum Answer {
    Jobs {
        jobs: Vec<WireJob>,
        next: Option<u64>,
    },
    Scheduled {
        messages: Vec<WireScheduled>,
        next: Option<(u64, [u8; 16])>,
    },
    Error(WireError),
}

#[derive(Encode, Decode)]
struct WireJob {
    id: [u8; 16],
    seq: u64,
    agent: String,
    username: String,
    command: String,
    state: WireState,
    attempt: u32,
    attempts_max: u32,
    due_ms: u64,
    created_ms: u64,
    last_error: Option<String>,
}

#[derive(Encode, Decode)]
enum WireState {
    Pending,
    Running { term: u64, node: u64 },
    Waiting { until_ms: u64 },
    Done { reply: u64 },
    Failed { reply: u64 },
    Cancelled,
}

#[derive(Encode, Decode)]
struct WireScheduled {
    id: [u8; 16],
    deliver_at_ms: u64,
    created_ms: u64,
    username: String,
    body: String,
    reply_to: Option<[u8; 16]>,
}

impl Request {
    pub(crate) fn new(group: u64, consistency: Consistency, what: What) -> Self {
        Request {
            group,
            linearizable: consistency == Consistency::Linearizable,
            what,
        }
    }

    pub(crate) fn consistency(&self) -> Consistency {
        match self.linearizable {
            true => Consistency::Linearizable,
            false => Consistency::Stale,
        }
    }

    pub(crate) fn encode(&self) -> Bytes {
        codec::encode(self).into()
    }

    pub(crate) fn decode(body: &[u8]) -> Result<Self, Malformed> {
        codec::decode::<_, REQUEST_BYTES_MAX>(body)
    }
}

pub(crate) fn encode_answer(result: Result<Found, ReadError>) -> Bytes {
    let answer = match result {
        Ok(Found::Jobs(page)) => Answer::Jobs {
            jobs: page.items.into_iter().map(wire_job).collect(),
            next: page.next,
        },
        Ok(Found::Scheduled(messages, next)) => Answer::Scheduled {
            messages: messages.into_iter().map(wire_scheduled).collect(),
            next: next.map(|next| (next.deliver_at_ms, next.id.into_bytes())),
        },
        Err(error) => Answer::Error(error.into()),
    };
    codec::encode(&answer).into()
}

/// # Errors
/// What the other node answered; `NoLeader` for bytes that are no answer.
pub(crate) fn decode_answer(body: &[u8]) -> Result<Found, ReadError> {
    let answer = codec::decode::<Answer, ANSWER_BYTES_MAX>(body);
    match answer.map_err(|_| ReadError::NoLeader)? {
        Answer::Jobs { jobs, next } => {
            let items: Option<Vec<_>> = jobs.into_iter().map(job).collect();
            let items = items.ok_or(ReadError::NoLeader)?;
            Ok(Found::Jobs(Page { items, next }))
        }
        Answer::Scheduled { messages, next } => Ok(Found::Scheduled(
            messages.into_iter().map(scheduled).collect(),
            next.map(|(deliver_at_ms, id)| ScheduledCursor {
                deliver_at_ms,
                id: Uuid::from_bytes(id),
            }),
        )),
        Answer::Error(error) => Err(error.into()),
    }
}

fn wire_job(job: Job) -> WireJob {
    WireJob {
        id: job.id.into_bytes(),
        seq: job.seq,
        agent: job.agent.into_string(),
        username: job.username,
        command: job.command,
        state: match job.state {
            JobState::Pending => WireState::Pending,
            JobState::Running { term, node } => WireState::Running { term, node },
            JobState::Waiting { until_ms } => WireState::Waiting { until_ms },
            JobState::Done { reply } => WireState::Done { reply },
            JobState::Failed { reply } => WireState::Failed { reply },
            JobState::Cancelled => WireState::Cancelled,
        },
        attempt: job.attempt,
        attempts_max: job.attempts_max,
        due_ms: job.due_ms,
        created_ms: job.created_ms,
        last_error: job.last_error,
    }
}

fn job(wire: WireJob) -> Option<Job> {
    Some(Job {
        id: Uuid::from_bytes(wire.id),
        seq: wire.seq,
        agent: AgentName::parse(wire.agent).ok()?,
        username: wire.username,
        command: wire.command,
        state: match wire.state {
            WireState::Pending => JobState::Pending,
            WireState::Running { term, node } => JobState::Running { term, node },
            WireState::Waiting { until_ms } => JobState::Waiting { until_ms },
            WireState::Done { reply } => JobState::Done { reply },
            WireState::Failed { reply } => JobState::Failed { reply },
            WireState::Cancelled => JobState::Cancelled,
        },
        attempt: wire.attempt,
        attempts_max: wire.attempts_max,
        due_ms: wire.due_ms,
        created_ms: wire.created_ms,
        last_error: wire.last_error,
    })
}

fn wire_scheduled(scheduled: Scheduled) -> WireScheduled {
    WireScheduled {
        id: scheduled.id.into_bytes(),
        deliver_at_ms: scheduled.deliver_at_ms,
        created_ms: scheduled.created_ms,
        username: scheduled.username,
        body: scheduled.body,
        reply_to: scheduled.reply_to.map(Uuid::into_bytes),
    }
}

fn scheduled(wire: WireScheduled) -> Scheduled {
    Scheduled {
        id: Uuid::from_bytes(wire.id),
        deliver_at_ms: wire.deliver_at_ms,
        created_ms: wire.created_ms,
        username: wire.username,
        body: wire.body,
        reply_to: wire.reply_to.map(Uuid::from_bytes),
    }
}

impl From<JobKind> for Kind {
    fn from(kind: JobKind) -> Self {
        match kind {
            JobKind::Pending => Kind::Pending,
            JobKind::Running => Kind::Running,
            JobKind::Waiting => Kind::Waiting,
            JobKind::Done => Kind::Done,
            JobKind::Failed => Kind::Failed,
            JobKind::Cancelled => Kind::Cancelled,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn requests_and_answers_survive_the_wire() {
        let what = What::Jobs {
            kind: Some(JobKind::Waiting.into()),
            after: Some(7),
            limit: 5,
        };
        let request = Request::new(9, Consistency::Linearizable, what);
        assert_eq!(Request::decode(&request.encode()).unwrap(), request);
        let states = [
            JobState::Pending,
            JobState::Running { term: 1, node: 2 },
            JobState::Waiting { until_ms: 3 },
            JobState::Done { reply: 4 },
            JobState::Failed { reply: 5 },
            JobState::Cancelled,
        ];
        let jobs = states.map(|state| Job {
            id: Uuid::from_u128(1),
            seq: 2,
            agent: AgentName::parse("ask").unwrap(),
            username: "ü".to_owned(),
            command: "/ask".to_owned(),
            state,
            attempt: 3,
            attempts_max: 4,
            due_ms: 5,
            created_ms: 6,
            last_error: Some("e".to_owned()),
        });
        let id = Uuid::from_u128(9);
        let message = Scheduled {
            id,
            deliver_at_ms: 1,
            created_ms: 2,
            username: "u".to_owned(),
            body: "b".to_owned(),
            reply_to: Some(id),
        };
        let cursor = ScheduledCursor {
            deliver_at_ms: 1,
            id,
        };
        let page = Page {
            items: jobs.to_vec(),
            next: Some(2),
        };
        for found in [
            Found::Jobs(page),
            Found::Scheduled(vec![message], Some(cursor)),
        ] {
            assert_eq!(decode_answer(&encode_answer(Ok(found.clone()))), Ok(found));
        }
        let busy = encode_answer(Err(ReadError::Busy));
        assert_eq!(decode_answer(&busy), Err(ReadError::Busy));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Request::decode(&bytes);
            let _ = decode_answer(&bytes);
        }
    }
}
