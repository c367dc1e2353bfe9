//! What is done for a group in which something is due.
//!
//! The node that leads the group does it, or led it last: only it knows without a word to anybody that
//! it is the one, and a group that sleeps wakes on it without an election. The others look again a
//! little later, and step in if nothing has happened.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use accord_storage::GroupId;
use tokio::time::Instant;
use uuid::Uuid;

use super::read;
use super::timetable::Attended;
use super::waits;
use crate::api::Consistency;
use crate::api::ReadError;
use crate::clock;
use crate::group::Group;
use crate::group::Replica;
use crate::group::outbox::Verdict;
use crate::group::storage_error;
use crate::machine::EncodedCommand;
use crate::machine::Outcome;
use crate::machine::channel;
use crate::machine::channel::Command;
use crate::machine::channel::Deliver;
use crate::machine::channel::JobRow;
use crate::machine::channel::ScheduledRow;
use crate::machine::channel::Stage;
use crate::room;
use crate::shared::Shared;
use crate::transport::NodeId;

/// Scheduled messages that are delivered in one go; with their bodies in memory.
const DELIVERIES_MAX: usize = 64;
/// How long after this node's start others that are not there yet are waited for.
const START_GRACE_MS: u64 = 10_000;
/// How long a group may take to know who leads it.
const LED_WITHIN: Duration = Duration::from_secs(4);
/// More jobs than a channel keeps.
const JOBS_MAX: usize = channel::JOBS_LIVE_MAX + channel::JOBS_ENDED_MAX + 1;

/// Sees to what is due in a group. `is_late`: others had their chance.
pub(super) async fn attend(shared: &Arc<Shared>, id: GroupId, is_late: bool) -> Attended {
    if !is_late && !is_ours(shared, id) {
        return Attended::Elsewhere;
    }
    let group = shared.group(id);
    shared.learn(&group);
    if group.is_recovering() || !group.is_here() {
        return Attended::Elsewhere;
    }
    match serve(&group).await {
        Ok(attended) => attended,
        Err(error) => {
            tracing::debug!(group = id.0, %error, "what is due in a group could not be seen to");
            Attended::Failed
        }
    }
}

/// Whether this node is the one to do it, as far as can be told without opening the group.
fn is_ours(shared: &Arc<Shared>, id: GroupId) -> bool {
    let open = shared.groups.look(id, Group::open_replica).flatten();
    let likely = open.and_then(|replica| replica.consensus.leader().likely());
    let voted = || {
        let vote = shared.store.vote(id).ok().flatten();
        vote.map(|vote| vote.node)
    };
    match likely.or_else(voted) {
        Some(leader) if leader == shared.node() => true,
        Some(leader) if shared.is_up(leader) => false,
        // Nodes that start at the same time do not see each other at once.
        _ if shared.now_ms() < START_GRACE_MS => false,
        // Somebody has to begin: the first of those that are up, and the others when it is late.
        Some(_) | None => {
            let group = shared.group(id);
            shared.learn(&group);
            group.up(0) == Some(shared.node())
        }
    }
}

async fn serve(group: &Arc<Group>) -> Result<Attended, ReadError> {
    let replica = group.replica().await?;
    let (leader, term) = led(group, &replica).await.ok_or(ReadError::NoLeader)?;
    if leader != group.shared.node() {
        if is_forgotten(&replica, leader, term)? {
            // Whoever leads is awake from here on, and hears what there is to do.
            group.caught_up(Consistency::Linearizable).await?;
            if !deliver(group, &replica).await?.is_all {
                return Ok(Attended::Failed);
            }
        }
        return Ok(Attended::Elsewhere);
    }
    let delivered = deliver(group, &replica).await?;
    let handed = hand_over(group, &replica)?;
    let next_ms = next_due(&replica, delivered.up_to, clock::now_ms())?;
    Ok(match (delivered.is_all, handed) {
        (false, _) => Attended::Failed,
        (true, Handed::All) => Attended::InCare { next_ms },
        (true, Handed::NotAll) => Attended::Refused { next_ms },
        (true, Handed::Nothing) => Attended::Served { next_ms },
    })
}

/// Who leads the group, and in which term: this node for certain, another one as far as is known.
pub(super) async fn led(group: &Group, replica: &Replica) -> Option<(NodeId, u64)> {
    let shared = &group.shared;
    let mut changes = replica.consensus.leader_changes();
    let leader = async {
        loop {
            let view = changes.leader();
            let is_there = |node: &NodeId| *node != shared.node() && shared.is_up(*node);
            let remembered = view.remembered.filter(is_there);
            if let Some(leader) = view.leader.or(remembered) {
                return Some((leader, view.term));
            }
            if !changes.changed().await {
                return None;
            }
        }
    };
    tokio::time::timeout(LED_WITHIN, leader)
        .await
        .ok()
        .flatten()
}

/// Whether something is due that the leader, which is another node, should have seen to.
fn is_forgotten(replica: &Replica, leader: NodeId, term: u64) -> Result<bool, ReadError> {
    let now_ms = clock::now_ms();
    let first = channel::first_scheduled(&replica.rows, None).map_err(storage_error)?;
    if first.is_some_and(|due_ms| due_ms <= now_ms) {
        return Ok(true);
    }
    let jobs = channel::jobs(&replica.rows, 0, JOBS_MAX).map_err(storage_error)?;
    let is_left = |row: &JobRow| match row.stage {
        Stage::Pending | Stage::Waiting => waits::is_over(row.due_ms, now_ms),
        // Whether the leader still makes one that it has begun only its own executor knows.
        Stage::Running { term: of, node } => (of, node) != (term, leader),
        Stage::Done { .. } | Stage::Failed { .. } | Stage::Cancelled { .. } => false,
    };
    Ok(jobs.iter().any(|(_, row)| is_left(row)))
}

/// A place in the order of scheduled messages: a time and an id.
type Appointed = (u64, [u8; 16]);

/// How far the scheduled messages of a group have been seen to.
#[derive(Default)]
struct Delivered {
    up_to: Option<Appointed>,
    /// Nothing is left up to there that is to be tried again before there are news.
    is_all: bool,
}

/// Delivers the messages whose time has come, in the order of their times. Commands for which there is no
/// room stay behind, and hold up nothing that comes after them: when a job ends, there are news.
async fn deliver(group: &Arc<Group>, replica: &Arc<Replica>) -> Result<Delivered, ReadError> {
    let mut delivered = Delivered::default();
    let mut full = Full::default();
    let mut is_known = true;
    loop {
        let now_ms = clock::now_ms();
        let after = delivered.up_to;
        let due = channel::scheduled_until(&replica.rows, after, now_ms, DELIVERIES_MAX);
        let mut due = due.map_err(storage_error)?;
        let Some((id, last)) = due.last() else {
            delivered.is_all = is_known;
            return Ok(delivered);
        };
        delivered.up_to = Some((last.due_ms, *id));
        due.retain(|(_, row)| full.may_have_room(row));
        if due.is_empty() {
            continue;
        }
        if !room::for_writes(group) {
            return Ok(delivered);
        }
        group.touch();
        let deadline = Instant::now() + group.shared.options.timing.request_timeout;
        let answers: Vec<_> = due
            .iter()
            .map(|(id, row)| group.lane().submit(command(*id, row), deadline))
            .collect();
        for ((_, row), answer) in due.iter().zip(answers) {
            let verdict = match answer {
                Some(answer) => answer.await.unwrap_or(Verdict::Unknown),
                None => return Ok(delivered),
            };
            match verdict {
                Verdict::Outcome(Outcome::Posted { .. }) => {
                    let late_ms = clock::now_ms().saturating_sub(row.due_ms);
                    group.shared.timers.delivered(late_ms);
                }
                // Somebody else has delivered or cancelled it.
                Verdict::Outcome(Outcome::NotFound) => {}
                // It is gone, or was refused; the next look shows it.
                Verdict::Repeated => is_known = false,
                Verdict::Outcome(Outcome::TooManyJobs) => full.refused(row),
                verdict => {
                    tracing::debug!(group = group.id.0, ?verdict, "a message was not delivered");
                    return Ok(delivered);
                }
            }
        }
        // What was just delivered is to be gone from the rows that are read after this.
        group.caught_up(Consistency::Stale).await?;
    }
}

/// For which commands a channel has no room, as far as one look at it has shown.
#[derive(Default)]
struct Full {
    for_outward: bool,
    for_all: bool,
}

impl Full {
    fn may_have_room(&self, row: &ScheduledRow) -> bool {
        match &row.call {
            None => true,
            Some(call) => !(self.for_all || (call.is_outward && self.for_outward)),
        }
    }

    fn refused(&mut self, row: &ScheduledRow) {
        match &row.call {
            // Others have more room than these.
            Some(call) if call.is_outward => self.for_outward = true,
            Some(_) | None => self.for_all = true,
        }
    }
}

fn command(id: [u8; 16], row: &ScheduledRow) -> EncodedCommand {
    EncodedCommand::new(&Command::Deliver(Deliver {
        id,
        username: &row.username,
        body: &row.body,
        reply_to: row.reply_to,
    }))
}

/// What became of the jobs that are due, or are being attempted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Handed {
    /// There are none.
    Nothing,
    /// The executor has them.
    All,
    /// It had no place for some.
    NotAll,
}

/// Tells the executor of the jobs that are due.
fn hand_over(group: &Arc<Group>, replica: &Replica) -> Result<Handed, ReadError> {
    let shared = &group.shared;
    let rows = channel::jobs(&replica.rows, 0, JOBS_MAX).map_err(storage_error)?;
    let live: Vec<_> = rows.into_iter().filter(|(_, row)| is_live(row)).collect();
    let ids: BTreeSet<Uuid> = live
        .iter()
        .map(|(_, row)| Uuid::from_bytes(row.id))
        .collect();
    shared.timers.keep_live(group.id, &ids);
    if live.is_empty() {
        return Ok(Handed::Nothing);
    }
    // It has been looked up; it is there unless the directory lags, and comes soon then.
    let channel = group.record().ok_or(ReadError::NoLeader)?;
    let now_ms = clock::now_ms();
    let mut handed = Handed::Nothing;
    for (seq, row) in live.into_iter().filter(|(_, row)| is_offered(row, now_ms)) {
        let job = read::job(replica, seq, row)?;
        match (shared.timers.hand(group.id, channel, job), handed) {
            (true, Handed::Nothing | Handed::All) => handed = Handed::All,
            (true, Handed::NotAll) | (false, _) => handed = Handed::NotAll,
        }
    }
    Ok(handed)
}

/// Whether the executor of the leader is to hear of a job. Of each attempt that was begun, too: in an
/// older term, whose leader is gone, or by this executor, which may have given it up meanwhile. No other
/// node would ever take that one up, since this one leads.
fn is_offered(row: &JobRow, now_ms: u64) -> bool {
    match row.stage {
        Stage::Pending | Stage::Waiting => waits::is_over(row.due_ms, now_ms),
        Stage::Running { .. } => true,
        Stage::Done { .. } | Stage::Failed { .. } | Stage::Cancelled { .. } => false,
    }
}

fn is_live(row: &JobRow) -> bool {
    !read::state_of(row).is_over()
}

/// When the next thing is due that is not yet, of the scheduled messages of those after `after`.
fn next_due(
    replica: &Replica,
    after: Option<Appointed>,
    now_ms: u64,
) -> Result<Option<u64>, ReadError> {
    let scheduled = channel::first_scheduled(&replica.rows, after).map_err(storage_error)?;
    let jobs = channel::jobs(&replica.rows, 0, JOBS_MAX).map_err(storage_error)?;
    let jobs = jobs
        .into_iter()
        .filter(|(_, row)| matches!(row.stage, Stage::Waiting))
        .map(|(_, row)| row.due_ms)
        .filter(|due_ms| !waits::is_over(*due_ms, now_ms));
    Ok(jobs.chain(scheduled).min())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::channel::CallRow;

    fn job(stage: Stage, due_ms: u64) -> JobRow {
        JobRow {
            id: [1; 16],
            agent: "ask".to_owned(),
            username: "ada".to_owned(),
            attempt: 1,
            attempts_max: 8,
            created_ms: 5,
            due_ms,
            stage,
            last_error: None,
        }
    }

    #[test]
    fn an_attempt_that_was_begun_is_offered_whoever_has_begun_it() {
        let now_ms = 1_000;
        for (term, node) in [(1, 1), (1, 2), (7, 1)] {
            assert!(is_offered(&job(Stage::Running { term, node }, 0), now_ms));
        }
        assert!(is_offered(&job(Stage::Pending, 0), now_ms));
        assert!(is_offered(&job(Stage::Waiting, now_ms), now_ms));
        assert!(!is_offered(&job(Stage::Waiting, now_ms + 1), now_ms));
        let ended_ms = 3;
        for over in [
            Stage::Done { reply: 2, ended_ms },
            Stage::Failed { reply: 2, ended_ms },
            Stage::Cancelled { ended_ms },
        ] {
            assert!(!is_offered(&job(over, 0), now_ms));
        }
    }

    #[test]
    fn only_commands_wait_for_room_and_those_outward_more_than_others() {
        let row = |call: Option<bool>| ScheduledRow {
            due_ms: 1,
            created_ms: 1,
            username: "ada".to_owned(),
            body: "/x".to_owned(),
            reply_to: None,
            call: call.map(|is_outward| CallRow {
                agent: "ask".to_owned(),
                attempts_max: 1,
                is_outward,
            }),
        };
        let [message, inward, outward] = [None, Some(false), Some(true)].map(row);
        let mut full = Full::default();
        let may = |full: &Full| [&message, &inward, &outward].map(|row| full.may_have_room(row));
        assert_eq!(may(&full), [true, true, true]);
        full.refused(&outward);
        assert_eq!(may(&full), [true, true, false]);
        full.refused(&inward);
        assert_eq!(may(&full), [true, false, false]);
    }
}
