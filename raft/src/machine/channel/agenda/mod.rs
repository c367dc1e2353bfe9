//! What the channel has yet to do: jobs, and messages for later.
//!
//! Time decides nothing here but by the channel's clock, which is that of its leaders: a scheduled
//! message is refused before its time. When something is due, the shell is told by [`Agenda::outlook`]
//! and comes back with a command.
//!
//! Invariants:
//! - What is in memory is a copy of the rows. The head says how many there are of each kind, so a
//!   channel without any reads nothing.
//! - Everything is bounded in number, and so is what a replica reads when it opens.

mod jobs;
mod scheduled;
#[cfg(test)]
mod tests;

pub(super) use jobs::Jobs;
pub use jobs::{
    JOBS_ENDED_AGE_MS_MAX, JOBS_ENDED_MAX, JOBS_LIVE_MAX, JOBS_OUTWARD_MAX, JobRow,
    REASON_BYTES_MAX, Stage, job, jobs,
};
pub(super) use scheduled::Schedules;
pub use scheduled::{
    CallRow, SCHEDULED_MAX, ScheduledRow, first_scheduled, scheduled, scheduled_after,
    scheduled_until,
};

use super::Head;
use crate::machine::{MachineError, View};

/// What a channel has yet to do, in short.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Outlook {
    /// When the first of it is due, or was: Unix milliseconds. A function of the rows.
    pub due_ms: Option<u64>,
    /// When the first of the jobs is. A function of the rows.
    pub jobs_due_ms: Option<u64>,
    /// Whether an attempt at a job is under way. A function of the rows.
    pub runs: bool,
    /// Rises with every change of what there is to do, from wherever the replica began.
    pub revision: u64,
}

/// All of it, as the rows have it.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    pub(super) jobs: Jobs,
    pub(super) scheduled: Schedules,
}

impl Agenda {
    /// Reads it, as far as the head says that there is anything.
    pub(super) fn load(view: &dyn View, head: &Head) -> Result<Self, MachineError> {
        Ok(Self {
            jobs: Jobs::load(view, head.jobs)?,
            scheduled: Schedules::load(view, head.scheduled)?,
        })
    }

    pub(super) fn outlook(&self) -> Outlook {
        let (jobs, scheduled) = (self.jobs.next_due(), self.scheduled.next_due());
        Outlook {
            due_ms: jobs.into_iter().chain(scheduled).min(),
            jobs_due_ms: jobs,
            runs: self.jobs.runs_any(),
            revision: self.jobs.revision() + self.scheduled.revision(),
        }
    }
}
