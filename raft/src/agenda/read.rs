//! A replica's agenda as the edge and the executor see it.

use uuid::Uuid;

use super::wire::Found;
use super::wire::What;
use crate::api::Job;
use crate::api::JobState;
use crate::api::Page;
use crate::api::Range;
use crate::api::ReadError;
use crate::api::Scheduled;
use crate::api::ScheduledCursor;
use crate::group::Replica;
use crate::group::storage_error;
use crate::history;
use crate::machine::channel;
use crate::machine::channel::JobRow;
use crate::machine::channel::ScheduledRow;
use crate::machine::channel::Stage;
use crate::names::AgentName;

/// Most items of one page.
const ITEMS_MAX: usize = 1_000;
/// Bytes of texts after which a page ends; a reader asks again from there.
const BYTES_MAX: usize = 4 * 1024 * 1024;
/// More jobs than a channel keeps.
const JOBS_MAX: usize = channel::JOBS_LIVE_MAX + channel::JOBS_ENDED_MAX + 1;

/// What is asked for, as far as this replica has it.
///
/// # Errors
/// `Storage` if rows or entries cannot be read.
pub(crate) fn find(replica: &Replica, what: &What) -> Result<Found, ReadError> {
    match what {
        What::Jobs { kind, after, limit } => {
            let is_wanted =
                |row: &JobRow| kind.is_none_or(|kind| kind == state_of(row).kind().into());
            let found = page_of_jobs(replica, is_wanted, after.unwrap_or(0), *limit as usize);
            found.map(Found::Jobs)
        }
        What::Job { id } => {
            let found = channel::job(&replica.rows, id).map_err(storage_error)?;
            let found = found.map(|(seq, row)| job(replica, seq, row)).transpose()?;
            Ok(Found::Jobs(Page {
                items: found.into_iter().collect(),
                next: None,
            }))
        }
        What::Scheduled { after, limit } => page_of_scheduled(replica, *after, *limit as usize),
        What::ScheduledOne { id } => {
            let found = channel::scheduled(&replica.rows, id).map_err(storage_error)?;
            let found = found.map(|row| scheduled(*id, row));
            Ok(Found::Scheduled(found.into_iter().collect(), None))
        }
    }
}

fn page_of_jobs(
    replica: &Replica,
    is_wanted: impl Fn(&JobRow) -> bool,
    after: u64,
    limit: usize,
) -> Result<Page<Job>, ReadError> {
    let limit = limit.clamp(1, ITEMS_MAX);
    let rows = channel::jobs(&replica.rows, after, JOBS_MAX).map_err(storage_error)?;
    let mut items: Vec<Job> = Vec::new();
    let mut bytes = 0;
    for (seq, row) in rows.into_iter().filter(|(_, row)| is_wanted(row)) {
        if items.len() >= limit || bytes > BYTES_MAX {
            let next = items.last().map(|job| job.seq);
            return Ok(Page { items, next });
        }
        let job = job(replica, seq, row)?;
        bytes += job.command.len();
        items.push(job);
    }
    Ok(Page { items, next: None })
}

fn page_of_scheduled(
    replica: &Replica,
    after: Option<(u64, [u8; 16])>,
    limit: usize,
) -> Result<Found, ReadError> {
    let limit = limit.clamp(1, ITEMS_MAX);
    let rows = channel::scheduled_after(&replica.rows, after, limit + 1).map_err(storage_error)?;
    let mut items: Vec<Scheduled> = Vec::new();
    let mut bytes = 0;
    for (id, row) in rows {
        if items.len() >= limit || bytes > BYTES_MAX {
            let next = items.last().map(|last| ScheduledCursor {
                deliver_at_ms: last.deliver_at_ms,
                id: last.id,
            });
            return Ok(Found::Scheduled(items, next));
        }
        bytes += row.body.len();
        items.push(scheduled(id, row));
    }
    Ok(Found::Scheduled(items, None))
}

/// A job with its command, which is in the channel's history.
///
/// # Errors
/// `Storage` if that cannot be read.
pub(super) fn job(replica: &Replica, seq: u64, row: JobRow) -> Result<Job, ReadError> {
    let range = Range::After {
        seq: seq.saturating_sub(1),
        limit: 1,
    };
    let found = history::read(replica, range)?;
    let command = found
        .messages
        .into_iter()
        .find(|message| message.seq == seq);
    let state = state_of(&row);
    Ok(Job {
        id: Uuid::from_bytes(row.id),
        seq,
        agent: AgentName::parse(row.agent).map_err(storage_error)?,
        username: row.username,
        // A message that retention has removed has nothing to say any more.
        command: command.map_or_else(String::new, |message| message.body.as_str().to_owned()),
        state,
        attempt: row.attempt,
        attempts_max: row.attempts_max,
        // Unless it waits it is due since it is there.
        due_ms: row.due_ms.max(row.created_ms),
        created_ms: row.created_ms,
        last_error: row.last_error,
    })
}

pub(super) fn state_of(row: &JobRow) -> JobState {
    match row.stage {
        Stage::Pending => JobState::Pending,
        Stage::Running { term, node } => JobState::Running { term, node },
        Stage::Waiting => JobState::Waiting {
            until_ms: row.due_ms,
        },
        Stage::Done { reply, .. } => JobState::Done { reply },
        Stage::Failed { reply, .. } => JobState::Failed { reply },
        Stage::Cancelled { .. } => JobState::Cancelled,
    }
}

fn scheduled(id: [u8; 16], row: ScheduledRow) -> Scheduled {
    Scheduled {
        id: Uuid::from_bytes(id),
        deliver_at_ms: row.due_ms,
        created_ms: row.created_ms,
        username: row.username,
        body: row.body,
        reply_to: row.reply_to.map(Uuid::from_bytes),
    }
}
