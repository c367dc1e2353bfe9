//! What the edge and the executor ask of a channel's agenda.

use std::sync::Arc;

use uuid::Uuid;

use crate::api::Appointment;
use crate::api::CancelError;
use crate::api::Channel;
use crate::api::Consistency;
use crate::api::Draft;
use crate::api::Job;
use crate::api::JobError;
use crate::api::JobKind;
use crate::api::Page;
use crate::api::Position;
use crate::api::ReadError;
use crate::api::Scheduled;
use crate::api::ScheduledCursor;
use crate::api::Settlement;
use crate::api::WriteError;
use crate::node::Node;

impl Node {
    /// Begins an attempt at a job, for the term that this node leads the channel in. Attempts count
    /// from 1, and each is begun by one node only.
    ///
    /// # Errors
    /// [`JobError::Superseded`] unless `attempt` is the next one of a job that has not ended, whose last
    /// one has come to nothing or was left behind by an older term; see [`JobError`].
    pub async fn claim(
        &self,
        _channel: &Arc<Channel>,
        _job: Uuid,
        _attempt: u32,
    ) -> Result<(), JobError> {
        Err(WriteError::NoLeader.into())
    }

    /// Ends an attempt that this node has claimed. Answers where the message is that it brought, unless
    /// it is to be tried again.
    ///
    /// # Errors
    /// [`JobError::Superseded`] if that attempt is not under way any more; see [`JobError`].
    pub async fn settle(
        &self,
        _channel: &Arc<Channel>,
        _job: Uuid,
        _attempt: u32,
        _settlement: Settlement,
    ) -> Result<Option<Position>, JobError> {
        Err(WriteError::NoLeader.into())
    }

    /// Jobs in the order of their commands, those above seq `after` that are in the state `kind`. Ended
    /// ones are forgotten after a while.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn jobs(
        &self,
        _channel: &Arc<Channel>,
        _kind: Option<JobKind>,
        _consistency: Consistency,
        _after: Option<u64>,
        _limit: usize,
    ) -> Result<Page<Job>, ReadError> {
        Err(ReadError::NoLeader)
    }

    /// One job; `None` if it never was or is forgotten.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn job(
        &self,
        _channel: &Arc<Channel>,
        _id: Uuid,
        _consistency: Consistency,
    ) -> Result<Option<Job>, ReadError> {
        Err(ReadError::NoLeader)
    }

    /// Ends a job without an answer; its executor is told. Cancelling it again is no error.
    ///
    /// # Errors
    /// See [`CancelError`].
    pub async fn cancel_job(&self, _channel: &Arc<Channel>, _id: Uuid) -> Result<(), CancelError> {
        Err(WriteError::NoLeader.into())
    }

    /// Puts a message down for later. `draft.expected_head` is not looked at: what it would be compared
    /// with lies in the future. If it is a command, its job begins when it is delivered.
    ///
    /// # Errors
    /// See [`WriteError`].
    pub async fn schedule(
        &self,
        _channel: &Arc<Channel>,
        _draft: Draft,
        _deliver_at_ms: u64,
    ) -> Result<Appointment, WriteError> {
        Err(WriteError::NoLeader)
    }

    /// Scheduled messages in the order in which they will be delivered, those after `after`; with them
    /// where the next page begins.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn scheduled(
        &self,
        _channel: &Arc<Channel>,
        _consistency: Consistency,
        _after: Option<ScheduledCursor>,
        _limit: usize,
    ) -> Result<(Vec<Scheduled>, Option<ScheduledCursor>), ReadError> {
        Err(ReadError::NoLeader)
    }

    /// Cancels a scheduled message.
    ///
    /// # Errors
    /// See [`CancelError`].
    pub async fn unschedule(&self, _channel: &Arc<Channel>, _id: Uuid) -> Result<(), CancelError> {
        Err(WriteError::NoLeader.into())
    }
}
