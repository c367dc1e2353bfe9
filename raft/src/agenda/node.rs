//! What the edge and the executor ask of a channel's agenda.

use std::sync::Arc;
use std::time::Duration;

use accord_storage::GroupId;
use tokio::time::Instant;
use uuid::Uuid;

use super::attend;
use super::wire;
use super::wire::Found;
use super::wire::Request;
use super::wire::What;
use crate::api::Appointment;
use crate::api::CancelError;
use crate::api::Channel;
use crate::api::Consistency;
use crate::api::Draft;
use crate::api::Job;
use crate::api::JobError;
use crate::api::JobKind;
use crate::api::JobState;
use crate::api::Page;
use crate::api::Position;
use crate::api::RETRY_MS_MAX;
use crate::api::Range;
use crate::api::ReadError;
use crate::api::Scheduled;
use crate::api::ScheduledCursor;
use crate::api::Settlement;
use crate::api::WriteError;
use crate::clock;
use crate::edge;
use crate::group::Group;
use crate::group::outbox::Verdict;
use crate::machine::EncodedCommand;
use crate::machine::Outcome;
use crate::machine::channel::Claim;
use crate::machine::channel::Command;
use crate::machine::channel::Reply;
use crate::machine::channel::Schedule;
use crate::node::Node;
use crate::peers::APPEND_DEADLINE;
use crate::peers::Kind;
use crate::pending;
use crate::room;

/// Between two tries at reading from another node.
const READ_AGAIN: Duration = Duration::from_millis(20);

impl Node {
    /// Begins an attempt at a job, for the term that this node leads the channel in. Attempts count
    /// from 1, and each is begun by one node only; the same node may say so again, if it could not
    /// tell what came of the first time.
    ///
    /// # Errors
    /// [`JobError::Superseded`] unless `attempt` is the next one of a job that has not ended, whose last
    /// one has come to nothing or was left behind by an older term; see [`JobError`].
    pub async fn claim(
        &self,
        channel: &Arc<Channel>,
        job: Uuid,
        attempt: u32,
    ) -> Result<(), JobError> {
        let group = self.group(channel);
        let replica = group.replica().await.map_err(|_| WriteError::NoLeader)?;
        // One that has just woken may have to be confirmed first.
        let led = attend::led(&group, &replica).await;
        let (node, term) = led
            .filter(|(leader, _)| *leader == self.id())
            .ok_or(WriteError::NoLeader)?;
        let command = Command::Claim(Claim {
            job: job.into_bytes(),
            attempt,
            term,
            node,
        });
        self.admit(&group)?;
        match self.order(&group, &command).await? {
            Verdict::Outcome(Outcome::Done) => Ok(()),
            verdict => {
                let found = self.stands(channel, job, &verdict).await?;
                let ours = JobState::Running { term, node };
                match found.attempt == attempt && found.state == ours {
                    true => Ok(()),
                    false => Err(JobError::Superseded),
                }
            }
        }
    }

    /// Ends an attempt that this node has claimed. Answers where the message is that it brought, unless
    /// it is to be tried again.
    ///
    /// # Errors
    /// [`JobError::Superseded`] if that attempt is not under way any more; see [`JobError`].
    pub async fn settle(
        &self,
        channel: &Arc<Channel>,
        job: Uuid,
        attempt: u32,
        settlement: Settlement,
    ) -> Result<Option<Position>, JobError> {
        let group = self.group(channel);
        if !room::for_writes(&group) {
            return Err(WriteError::NoRoom.into());
        }
        // In whose name the message is; this node has claimed the job, so it has heard of it.
        let known = self.job(channel, job, Consistency::Stale).await;
        let known = known.map_err(|_| WriteError::NoLeader)?;
        let agent = known.ok_or(JobError::NotFound)?.agent;
        let id = edge::fresh_id();
        let reply = |body| Reply {
            job: job.into_bytes(),
            attempt,
            id: id.into_bytes(),
            agent: agent.as_str(),
            body,
        };
        let command = match &settlement {
            Settlement::Reply { body } => Command::Reply(reply(body.as_str())),
            Settlement::Fail { body, reason } => Command::Fail {
                reply: reply(body.as_str()),
                reason,
            },
            Settlement::Retry { until_ms, reason } => Command::Retry {
                job: job.into_bytes(),
                attempt,
                until_ms: (*until_ms).min(clock::now_ms().saturating_add(RETRY_MS_MAX)),
                reason,
            },
        };
        let verdict = self.order(&group, &command).await?;
        match (verdict, &settlement) {
            (Verdict::Outcome(Outcome::Done), Settlement::Retry { .. }) => Ok(None),
            (
                Verdict::Outcome(Outcome::Posted {
                    seq,
                    timestamp_ms,
                    id,
                    ..
                }),
                Settlement::Reply { .. } | Settlement::Fail { .. },
            ) => Ok(Some(Position {
                seq,
                timestamp_ms,
                id: Uuid::from_bytes(id),
                repeated: false,
            })),
            (verdict, settlement) => {
                // Only the claimant ends an attempt, and that is this node.
                let found = self.stands(channel, job, &verdict).await?;
                match (found.state, settlement) {
                    _ if found.attempt != attempt => Err(JobError::Superseded),
                    (JobState::Waiting { .. }, Settlement::Retry { .. }) => Ok(None),
                    (JobState::Done { reply }, Settlement::Reply { .. })
                    | (JobState::Failed { reply }, Settlement::Fail { .. }) => {
                        self.position(channel, reply).await.map(Some)
                    }
                    _ => Err(JobError::Superseded),
                }
            }
        }
    }

    /// The executor has dropped a job of this channel that it had, and wants to be offered it again soon,
    /// though not at once.
    pub fn left(&self, channel: &Channel) {
        self.shared().timers.left(GroupId(channel.group));
    }

    /// Jobs in the order of their commands, those above seq `after` that are in the state `kind`. Ended
    /// ones are forgotten after a while.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn jobs(
        &self,
        channel: &Arc<Channel>,
        kind: Option<JobKind>,
        consistency: Consistency,
        after: Option<u64>,
        limit: usize,
    ) -> Result<Page<Job>, ReadError> {
        let what = What::Jobs {
            kind: kind.map(Into::into),
            after,
            limit: u32::try_from(limit).unwrap_or(u32::MAX),
        };
        match self.agenda(channel, consistency, what).await? {
            Found::Jobs(page) => Ok(page),
            Found::Scheduled(..) => Err(ReadError::NoLeader),
        }
    }

    /// One job; `None` if it never was or is forgotten.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn job(
        &self,
        channel: &Arc<Channel>,
        id: Uuid,
        consistency: Consistency,
    ) -> Result<Option<Job>, ReadError> {
        let what = What::Job {
            id: id.into_bytes(),
        };
        match self.agenda(channel, consistency, what).await? {
            Found::Jobs(page) => Ok(page.items.into_iter().next()),
            Found::Scheduled(..) => Err(ReadError::NoLeader),
        }
    }

    /// Ends a job without an answer; its executor is told. Cancelling it again is no error.
    ///
    /// # Errors
    /// See [`CancelError`].
    pub async fn cancel_job(&self, channel: &Arc<Channel>, id: Uuid) -> Result<(), CancelError> {
        let group = self.group(channel);
        self.admit(&group)?;
        let job = id.into_bytes();
        match self.order(&group, &Command::Cancel { job }).await? {
            Verdict::Outcome(Outcome::Done) => Ok(()),
            Verdict::Outcome(Outcome::NotFound) => Err(CancelError::NotFound),
            Verdict::Outcome(Outcome::Superseded) => Err(CancelError::Over),
            Verdict::Repeated => match self.job(channel, id, Consistency::Linearizable).await {
                Ok(Some(job)) if job.state == JobState::Cancelled => Ok(()),
                Ok(Some(_)) => Err(CancelError::Over),
                Ok(None) => Err(CancelError::NotFound),
                Err(_) => Err(WriteError::OutcomeUnknown.into()),
            },
            verdict => Err(pending::error_of(&verdict).into()),
        }
    }

    /// Puts a message down for later. `draft.expected_head` is not looked at: what it would be compared
    /// with lies in the future. If it is a command, its job begins when it is delivered.
    ///
    /// # Errors
    /// See [`WriteError`].
    pub async fn schedule(
        &self,
        channel: &Arc<Channel>,
        draft: Draft,
        deliver_at_ms: u64,
    ) -> Result<Appointment, WriteError> {
        let group = self.group(channel);
        self.admit(&group)?;
        let command = Command::Schedule(Schedule {
            post: pending::post(&draft),
            due_ms: deliver_at_ms,
            call: draft.call.as_ref().map(pending::call),
        });
        let mut verdict = self.order(&group, &command).await?;
        if verdict == Verdict::Repeated && draft.key.is_some() {
            // The key answers what it answered then.
            verdict = self.order(&group, &command).await?;
        }
        match verdict {
            Verdict::Outcome(Outcome::Scheduled {
                id,
                due_ms,
                repeated,
            }) => Ok(Appointment {
                id: Uuid::from_bytes(id),
                deliver_at_ms: due_ms,
                repeated: repeated && id != *draft.id.as_bytes(),
            }),
            Verdict::Outcome(Outcome::TooManyScheduled) => Err(WriteError::TooManyScheduled),
            Verdict::Outcome(Outcome::KeyReused | Outcome::Posted { .. }) => {
                Err(WriteError::KeyReused)
            }
            Verdict::Repeated => self.find_appointment(channel, draft.id).await,
            verdict => Err(pending::error_of(&verdict)),
        }
    }

    /// Scheduled messages in the order in which they will be delivered, those after `after`; with them
    /// where the next page begins.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn scheduled(
        &self,
        channel: &Arc<Channel>,
        consistency: Consistency,
        after: Option<ScheduledCursor>,
        limit: usize,
    ) -> Result<(Vec<Scheduled>, Option<ScheduledCursor>), ReadError> {
        let what = What::Scheduled {
            after: after.map(|after| (after.deliver_at_ms, after.id.into_bytes())),
            limit: u32::try_from(limit).unwrap_or(u32::MAX),
        };
        match self.agenda(channel, consistency, what).await? {
            Found::Scheduled(messages, next) => Ok((messages, next)),
            Found::Jobs(_) => Err(ReadError::NoLeader),
        }
    }

    /// One scheduled message; `None` if it never was, was cancelled, or has been delivered.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn scheduled_message(
        &self,
        channel: &Arc<Channel>,
        id: Uuid,
        consistency: Consistency,
    ) -> Result<Option<Scheduled>, ReadError> {
        let what = What::ScheduledOne {
            id: id.into_bytes(),
        };
        match self.agenda(channel, consistency, what).await? {
            Found::Scheduled(messages, _) => Ok(messages.into_iter().next()),
            Found::Jobs(_) => Err(ReadError::NoLeader),
        }
    }

    /// Cancels a scheduled message.
    ///
    /// # Errors
    /// See [`CancelError`].
    pub async fn unschedule(&self, channel: &Arc<Channel>, id: Uuid) -> Result<(), CancelError> {
        let group = self.group(channel);
        self.admit(&group)?;
        let command = Command::Unschedule {
            id: id.into_bytes(),
        };
        match self.order(&group, &command).await? {
            Verdict::Outcome(Outcome::Done) => Ok(()),
            Verdict::Outcome(Outcome::NotFound) => Err(CancelError::NotFound),
            // The first try has cancelled it, or there was nothing; its answer is lost.
            Verdict::Repeated => Err(WriteError::OutcomeUnknown.into()),
            verdict => Err(pending::error_of(&verdict).into()),
        }
    }

    /// Has the channel's leader decide about a command.
    async fn order(
        &self,
        group: &Arc<Group>,
        command: &Command<'_>,
    ) -> Result<Verdict, WriteError> {
        group.wake();
        let command = EncodedCommand::new(command);
        let Some(answer) = group.lane().submit(command, self.deadline()) else {
            return Err(WriteError::Busy);
        };
        Ok(answer.await.unwrap_or(Verdict::Unknown))
    }

    /// How a job stands after a command about it that was refused, or whose fate is not known: it may
    /// have been taken at an earlier try.
    async fn stands(
        &self,
        channel: &Arc<Channel>,
        job: Uuid,
        verdict: &Verdict,
    ) -> Result<Job, JobError> {
        match verdict {
            Verdict::Outcome(Outcome::NotFound) => return Err(JobError::NotFound),
            Verdict::Outcome(Outcome::Superseded) | Verdict::Repeated => {}
            verdict => return Err(pending::error_of(verdict).into()),
        }
        match self.job(channel, job, Consistency::Linearizable).await {
            Ok(Some(job)) => Ok(job),
            Ok(None) => Err(JobError::NotFound),
            Err(_) => Err(WriteError::OutcomeUnknown.into()),
        }
    }

    /// Where the message with this seq is, which is there.
    async fn position(&self, channel: &Arc<Channel>, seq: u64) -> Result<Position, JobError> {
        let range = Range::After {
            seq: seq.saturating_sub(1),
            limit: 1,
        };
        let unknown = |_| WriteError::OutcomeUnknown;
        let found = self.messages(channel, range, Consistency::Stale).await;
        let found = found.map_err(unknown)?.messages.into_iter().next();
        let message = found.filter(|message| message.seq == seq);
        let message = message.ok_or(WriteError::OutcomeUnknown)?;
        Ok(Position {
            seq,
            timestamp_ms: message.timestamp_ms,
            id: Uuid::from_bytes(message.id),
            repeated: true,
        })
    }

    /// A message without a key that was taken at an earlier try: it is there, unless its time has come.
    async fn find_appointment(
        &self,
        channel: &Arc<Channel>,
        id: Uuid,
    ) -> Result<Appointment, WriteError> {
        let found = self.scheduled_message(channel, id, Consistency::Linearizable);
        match found.await {
            Ok(Some(message)) => Ok(Appointment {
                id,
                deliver_at_ms: message.deliver_at_ms,
                repeated: false,
            }),
            Ok(None) | Err(_) => Err(WriteError::OutcomeUnknown),
        }
    }

    /// Reads of the agenda, here or from a replica elsewhere.
    async fn agenda(
        &self,
        channel: &Arc<Channel>,
        consistency: Consistency,
        what: What,
    ) -> Result<Found, ReadError> {
        let group = self.group(channel);
        if group.serves_here() {
            let replica = group.caught_up(consistency).await?;
            return super::find(&replica, &what);
        }
        let request = Request::new(channel.group, consistency, what);
        let deadline = self.deadline();
        let mut turn = 0;
        loop {
            if let Some(found) = self
                .ask(GroupId(channel.group), &group, &request, turn)
                .await
            {
                return found;
            }
            if Instant::now() >= deadline {
                return Err(ReadError::NoLeader);
            }
            turn += 1;
            pause().await;
        }
    }

    /// Asks one of the replicas; `None` if another one is to be asked.
    async fn ask(
        &self,
        id: GroupId,
        group: &Group,
        request: &Request,
        turn: usize,
    ) -> Option<Result<Found, ReadError>> {
        let peer = self.shared().peer(group.up(turn)?)?;
        let call = peer.call(Kind::Agenda.byte(), request.encode(), APPEND_DEADLINE);
        match wire::decode_answer(&call.await.ok()?) {
            Ok(found) => Some(Ok(found)),
            Err(ReadError::NotFound) => Some(Err(ReadError::NotFound)),
            Err(error) => {
                tracing::debug!(group = id.0, node = peer.node(), %error, "a read failed on another node");
                None
            }
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "what another node can answer cannot be waited for otherwise"
)]
async fn pause() {
    tokio::time::sleep(READ_AGAIN).await;
}
