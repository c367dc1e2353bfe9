//! The jobs of a channel.
//!
//! ```text
//! pending ─▶ running ─▶ done, failed          a claim begins the next attempt, and only the one that
//!               │ ▲                           runs can end the job or put it off
//!               ▼ │ (or a newer term)
//!            waiting                          from each of the three: cancelled
//! ```
//!
//! Invariants:
//! - A job ends once, and what adds a message ends it in the same commit: there is at most one reply.
//! - Each attempt has one claimant: its number is that of the last one plus one, and while one runs
//!   only a leader of a later term takes its place.
//! - At most [`JOBS_LIVE_MAX`] jobs have not ended, and [`JOBS_ENDED_MAX`] that have are kept.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use accord_storage::{Order, Table};
use bincode::{Decode, Encode};

use super::super::command::{Call, Claim};
use super::super::keys;
use crate::machine::{MachineError, Outcome, Overlay, Row, View, codec};

/// Jobs that have not ended. A command beyond them is refused: agents do not keep up.
pub const JOBS_LIVE_MAX: usize = 256;
/// So many, and one for somebody outside is refused. Those may hang, all of them; what is left of the room
/// is for the ones that answer at once, with which the others are cancelled.
pub const JOBS_OUTWARD_MAX: usize = 240;
/// Ended jobs that are kept for listing, the last ones.
pub const JOBS_ENDED_MAX: usize = 256;
/// An ended job is forgotten when it is this old by the channel's clock.
pub const JOBS_ENDED_AGE_MS_MAX: u64 = 7 * 24 * 60 * 60 * 1000;
/// What is kept of the reason that an attempt came to nothing.
pub const REASON_BYTES_MAX: usize = 512;

const JOB_VERSION: u8 = 1;
/// Due before all that has a time.
const AT_ONCE: u64 = 0;

/// A job. Its key is the seq of its command, which says what is to be done.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct JobRow {
    /// Id of the command.
    pub id: [u8; 16],
    /// Who is to do it.
    pub agent: String,
    /// Who wrote the command.
    pub username: String,
    /// The last attempt that was begun, 0 before the first.
    pub attempt: u32,
    /// After so many the executor gives up.
    pub attempts_max: u32,
    /// When it was made, Unix milliseconds of the channel's clock.
    pub created_ms: u64,
    /// When the next attempt is due; `AT_ONCE` unless it waits. A job that is new is due whatever a
    /// clock says: the channel's may be ahead of all others, if that of a former leader was.
    pub due_ms: u64,
    /// How far it is.
    pub stage: Stage,
    /// Why the last attempt came to nothing.
    pub last_error: Option<String>,
}

/// How far a job is. New kinds are added at the end, because the position is
/// what is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum Stage {
    /// Nobody has begun it.
    Pending,
    /// An attempt is under way.
    Running {
        /// The term in which its node began it.
        term: u64,
        /// Which node that is.
        node: u64,
    },
    /// The next attempt comes when it is due.
    Waiting,
    /// It was answered.
    Done {
        /// Seq of the answer.
        reply: u64,
        /// When, Unix milliseconds of the channel's clock.
        ended_ms: u64,
    },
    /// It was given up.
    Failed {
        /// Seq of the message that says so.
        reply: u64,
        /// When, Unix milliseconds of the channel's clock.
        ended_ms: u64,
    },
    /// Somebody did not want it any more.
    Cancelled {
        /// When, Unix milliseconds of the channel's clock.
        ended_ms: u64,
    },
}

impl Stage {
    fn ended_ms(&self) -> Option<u64> {
        match self {
            Stage::Pending | Stage::Running { .. } | Stage::Waiting => None,
            Stage::Done { ended_ms, .. }
            | Stage::Failed { ended_ms, .. }
            | Stage::Cancelled { ended_ms } => Some(*ended_ms),
        }
    }
}

/// All jobs that are kept, by the seq of their commands.
#[derive(Debug, Default)]
pub(in super::super) struct Jobs {
    rows: BTreeMap<u64, JobRow>,
    seqs: BTreeMap<[u8; 16], u64>,
    /// Those that have not ended, by when they are due.
    live: BTreeSet<(u64, u64)>,
    /// Those that have, by when.
    ended: BTreeSet<(u64, u64)>,
    /// How many of the first kind are being attempted.
    running: usize,
    revision: u64,
}

impl Jobs {
    pub(super) fn load(view: &dyn View, count: u32) -> Result<Self, MachineError> {
        let mut all = Self::default();
        if count > 0 {
            for (seq, row) in jobs(view, 0, JOBS_LIVE_MAX + JOBS_ENDED_MAX + 1)? {
                all.note(seq, row);
            }
        }
        match all.len() == count && all.live.len() <= JOBS_LIVE_MAX {
            true => Ok(all),
            false => Err(MachineError::Row("jobs")),
        }
    }

    /// How many are kept.
    pub(in super::super) fn len(&self) -> u32 {
        u32::try_from(self.rows.len()).unwrap_or(u32::MAX)
    }

    /// Whether there is no room for another job, of somebody outside or not.
    pub(in super::super) fn is_full(&self, is_outward: bool) -> bool {
        let most = if is_outward {
            JOBS_OUTWARD_MAX
        } else {
            JOBS_LIVE_MAX
        };
        self.live.len() >= most
    }

    pub(super) fn runs_any(&self) -> bool {
        self.running > 0
    }

    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    pub(super) fn next_due(&self) -> Option<u64> {
        self.live.first().map(|(due_ms, _)| *due_ms)
    }

    /// The job of a command that has just become the message `seq`. There is one job for each id, also if
    /// somebody gave two messages the same.
    pub(in super::super) fn create(
        &mut self,
        overlay: &mut Overlay<'_>,
        (seq, clock_ms): (u64, u64),
        id: [u8; 16],
        username: &str,
        call: Call<'_>,
    ) {
        if self.seqs.contains_key(&id) {
            return;
        }
        let row = JobRow {
            id,
            agent: call.agent.to_owned(),
            username: username.to_owned(),
            attempt: 0,
            attempts_max: call.attempts_max,
            created_ms: clock_ms,
            due_ms: AT_ONCE,
            stage: Stage::Pending,
            last_error: None,
        };
        self.set(overlay, seq, row);
    }

    pub(in super::super) fn claim(&mut self, overlay: &mut Overlay<'_>, claim: &Claim) -> Outcome {
        let Some((seq, row)) = self.find(&claim.job) else {
            return Outcome::NotFound;
        };
        let is_free = match row.stage {
            Stage::Pending | Stage::Waiting => true,
            // Whoever led then does not lead any more, and its settlement comes too late from here on.
            Stage::Running { term, .. } => claim.term > term,
            Stage::Done { .. } | Stage::Failed { .. } | Stage::Cancelled { .. } => false,
        };
        if !is_free || row.attempt.checked_add(1) != Some(claim.attempt) {
            return Outcome::Superseded;
        }
        let row = JobRow {
            attempt: claim.attempt,
            due_ms: AT_ONCE,
            stage: Stage::Running {
                term: claim.term,
                node: claim.node,
            },
            ..row.clone()
        };
        self.set(overlay, seq, row);
        Outcome::Done
    }

    /// Whether this very attempt is under way, for this agent: the fence of everything that ends one.
    pub(in super::super) fn runs(&self, job: &[u8; 16], attempt: u32, agent: &str) -> bool {
        self.running(job, attempt)
            .is_some_and(|(_, row)| row.agent == agent)
    }

    pub(in super::super) fn retry(
        &mut self,
        overlay: &mut Overlay<'_>,
        job: &[u8; 16],
        attempt: u32,
        until_ms: u64,
        reason: &str,
    ) -> Outcome {
        let Some((seq, row)) = self.running(job, attempt) else {
            return self.refusal(job);
        };
        let row = JobRow {
            due_ms: until_ms,
            stage: Stage::Waiting,
            last_error: Some(shortened(reason)),
            ..row.clone()
        };
        self.set(overlay, seq, row);
        Outcome::Done
    }

    /// Ends the attempt of which [`Jobs::runs`] is true.
    pub(in super::super) fn end(
        &mut self,
        overlay: &mut Overlay<'_>,
        job: &[u8; 16],
        stage: Stage,
        reason: Option<&str>,
    ) {
        if let Some((seq, row)) = self.find(job) {
            let last_error = reason.map(shortened).or_else(|| row.last_error.clone());
            let row = JobRow {
                stage,
                last_error,
                ..row.clone()
            };
            self.set(overlay, seq, row);
        }
    }

    pub(in super::super) fn cancel(
        &mut self,
        overlay: &mut Overlay<'_>,
        clock_ms: u64,
        job: &[u8; 16],
    ) -> Outcome {
        match self.find(job).map(|(_, row)| row.stage) {
            None => Outcome::NotFound,
            Some(Stage::Cancelled { .. }) => Outcome::Done,
            Some(Stage::Done { .. } | Stage::Failed { .. }) => Outcome::Superseded,
            Some(Stage::Pending | Stage::Running { .. } | Stage::Waiting) => {
                let ended_ms = clock_ms;
                self.end(overlay, job, Stage::Cancelled { ended_ms }, None);
                Outcome::Done
            }
        }
    }

    /// Whether a job was there and has not ended: whether [`Jobs::cancel`] will end it.
    pub(in super::super) fn is_live(&self, job: &[u8; 16]) -> bool {
        self.find(job)
            .is_some_and(|(_, row)| row.stage.ended_ms().is_none())
    }

    /// What somebody hears who comes with an attempt that is not under way.
    pub(in super::super) fn refusal(&self, job: &[u8; 16]) -> Outcome {
        match self.find(job) {
            Some(_) => Outcome::Superseded,
            None => Outcome::NotFound,
        }
    }

    /// Forgets ended jobs that are too old or too many; each batch does, and most have nothing to do.
    pub(in super::super) fn forget(&mut self, overlay: &mut Overlay<'_>, clock_ms: u64) {
        while let Some((ended_ms, seq)) = self.ended.first().copied()
            && (self.ended.len() > JOBS_ENDED_MAX
                || clock_ms.saturating_sub(ended_ms) >= JOBS_ENDED_AGE_MS_MAX)
        {
            self.ended.pop_first();
            if let Some(row) = self.rows.remove(&seq) {
                self.seqs.remove(&row.id);
            }
            overlay.delete(Table::State, keys::job(seq));
        }
    }

    fn find(&self, job: &[u8; 16]) -> Option<(u64, &JobRow)> {
        let seq = *self.seqs.get(job)?;
        Some((seq, self.rows.get(&seq)?))
    }

    fn running(&self, job: &[u8; 16], attempt: u32) -> Option<(u64, &JobRow)> {
        self.find(job)
            .filter(|(_, row)| row.attempt == attempt && matches!(row.stage, Stage::Running { .. }))
    }

    /// The one place where a job changes, in memory and in its row.
    fn set(&mut self, overlay: &mut Overlay<'_>, seq: u64, row: JobRow) {
        overlay.put(
            Table::State,
            keys::job(seq),
            codec::encode_record(JOB_VERSION, &row),
        );
        self.note(seq, row);
    }

    fn note(&mut self, seq: u64, row: JobRow) {
        let runs = |row: &JobRow| usize::from(matches!(row.stage, Stage::Running { .. }));
        if let Some(before) = self.rows.get(&seq) {
            self.live.remove(&(before.due_ms, seq));
            self.running -= runs(before);
        }
        self.running += runs(&row);
        self.revision += 1;
        match row.stage.ended_ms() {
            None => self.live.insert((row.due_ms, seq)),
            Some(ended_ms) => self.ended.insert((ended_ms, seq)),
        };
        self.seqs.insert(row.id, seq);
        self.rows.insert(seq, row);
    }
}

/// At most `limit` jobs, in the order of their commands, those above seq `after`.
///
/// # Errors
/// When the rows cannot be read.
pub fn jobs(view: &dyn View, after: u64, limit: usize) -> Result<Vec<(u64, JobRow)>, MachineError> {
    let from = keys::job(after);
    let (from, to) = (Bound::Excluded(&*from), keys::ALL_JOBS.1);
    let rows = view.scan(Table::State, from, to, Order::Ascending, limit)?;
    rows.into_iter().map(decode).collect()
}

/// The job of the command with this id. Looks through all of them.
///
/// # Errors
/// When the rows cannot be read.
pub fn job(view: &dyn View, id: &[u8; 16]) -> Result<Option<(u64, JobRow)>, MachineError> {
    let all = jobs(view, 0, JOBS_LIVE_MAX + JOBS_ENDED_MAX)?;
    Ok(all.into_iter().find(|(_, row)| row.id == *id))
}

fn decode((key, value): Row) -> Result<(u64, JobRow), MachineError> {
    let damaged = MachineError::Row("job");
    match (keys::parse_job(&key), decode_row(&value)) {
        (Some(seq), Some(row)) => Ok((seq, row)),
        _ => Err(damaged),
    }
}

fn decode_row(value: &[u8]) -> Option<JobRow> {
    codec::decode_record(JOB_VERSION, value).ok()
}

/// As much of a reason as is kept, cut between characters.
fn shortened(reason: &str) -> String {
    let mut end = reason.len().min(REASON_BYTES_MAX);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    reason[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn row(stage: Stage) -> JobRow {
        JobRow {
            id: [7; 16],
            agent: "ask".to_owned(),
            username: "ada".to_owned(),
            attempt: 2,
            attempts_max: 8,
            created_ms: 300,
            due_ms: 5,
            stage,
            last_error: Some("r".to_owned()),
        }
    }

    #[test]
    fn golden() {
        let check = |stage: Stage, expected: &[u8]| {
            let around = [
                &[1][..],
                &[7; 16],
                b"\x03ask\x03ada\x02\x08",
                &[251, 44, 1, 5],
                expected,
                b"\x01\x01r",
            ];
            assert_eq!(
                codec::encode_record(JOB_VERSION, &row(stage)),
                around.concat()
            );
        };
        check(Stage::Pending, &[0]);
        check(Stage::Running { term: 3, node: 4 }, &[1, 3, 4]);
        check(Stage::Waiting, &[2]);
        let (reply, ended_ms) = (6, 300);
        check(Stage::Done { reply, ended_ms }, &[3, 6, 251, 44, 1]);
        check(Stage::Failed { reply, ended_ms }, &[4, 6, 251, 44, 1]);
        check(Stage::Cancelled { ended_ms }, &[5, 251, 44, 1]);
    }

    #[test]
    fn reasons_are_cut_between_characters() {
        assert_eq!(shortened("why"), "why");
        let long = format!("{}é", "x".repeat(REASON_BYTES_MAX - 1));
        assert_eq!(shortened(&long), "x".repeat(REASON_BYTES_MAX - 1));
    }

    fn stage() -> impl Strategy<Value = Stage> {
        let numbers = || (any::<u64>(), any::<u64>());
        prop_oneof![
            Just(Stage::Pending),
            Just(Stage::Waiting),
            numbers().prop_map(|(term, node)| Stage::Running { term, node }),
            numbers().prop_map(|(reply, ended_ms)| Stage::Done { reply, ended_ms }),
            numbers().prop_map(|(reply, ended_ms)| Stage::Failed { reply, ended_ms }),
            any::<u64>().prop_map(|ended_ms| Stage::Cancelled { ended_ms }),
        ]
    }

    proptest! {
        #[test]
        fn rows_round_trip(stage in stage(), due_ms: u64, attempt: u32, agent in ".{0,9}", error in proptest::option::of(".{0,9}")) {
            let row = JobRow { due_ms, attempt, agent, last_error: error, ..row(stage) };
            let value = codec::encode_record(JOB_VERSION, &row);
            prop_assert_eq!(decode_row(&value), Some(row));
            prop_assert_eq!(decode_row(&value[..value.len() - 1]), None);
        }

        #[test]
        fn any_bytes_decode_or_fail(value in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = decode_row(&value);
            let _ = decode((value.clone(), value));
        }
    }
}
