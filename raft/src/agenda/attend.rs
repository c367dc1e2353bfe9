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
            deliver(group, &replica).await?;
        }
        return Ok(Attended::Elsewhere);
    }
    let all = deliver(group, &replica).await?;
    let in_care = hand_over(group, &replica, term)?;
    let next_ms = next_due(&replica, clock::now_ms())?;
    Ok(match (all, in_care) {
        (false, _) => Attended::Failed,
        (true, true) => Attended::InCare { next_ms },
        (true, false) => Attended::Served { next_ms },
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
    let first = channel::first_scheduled(&replica.rows).map_err(storage_error)?;
    if first.is_some_and(|due_ms| due_ms <= now_ms) {
        return Ok(true);
    }
    let jobs = channel::jobs(&replica.rows, 0, JOBS_MAX).map_err(storage_error)?;
    let is_left = |row: &JobRow| match row.stage {
        Stage::Pending | Stage::Waiting => row.due_ms <= now_ms,
        Stage::Running { term: of, node } => (of, node) != (term, leader),
        Stage::Done { .. } | Stage::Failed { .. } | Stage::Cancelled { .. } => false,
    };
    Ok(jobs.iter().any(|(_, row)| is_left(row)))
}

/// Delivers the messages whose time has come, in the order of their times. False if something is left
/// that is to be tried again.
async fn deliver(group: &Arc<Group>, replica: &Arc<Replica>) -> Result<bool, ReadError> {
    loop {
        let now_ms = clock::now_ms();
        let due = channel::scheduled_until(&replica.rows, now_ms, DELIVERIES_MAX);
        let due = due.map_err(storage_error)?;
        if due.is_empty() {
            return Ok(true);
        }
        if !room::for_writes(group) {
            return Ok(false);
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
                None => return Ok(false),
            };
            match verdict {
                Verdict::Outcome(Outcome::Posted { .. }) => {
                    let late_ms = clock::now_ms().saturating_sub(row.due_ms);
                    group.shared.timers.delivered(late_ms);
                }
                // Somebody else has delivered or cancelled it.
                Verdict::Outcome(Outcome::NotFound) | Verdict::Repeated => {}
                verdict => {
                    tracing::debug!(group = group.id.0, ?verdict, "a message was not delivered");
                    return Ok(false);
                }
            }
        }
        // What was just delivered is to be gone from the rows that are read next.
        group.caught_up(Consistency::Stale).await?;
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

/// Tells the executor of the jobs that are due. Answers whether any are, or are being attempted.
fn hand_over(group: &Arc<Group>, replica: &Replica, term: u64) -> Result<bool, ReadError> {
    let shared = &group.shared;
    let rows = channel::jobs(&replica.rows, 0, JOBS_MAX).map_err(storage_error)?;
    let live: Vec<_> = rows.into_iter().filter(|(_, row)| is_live(row)).collect();
    let ids: BTreeSet<Uuid> = live
        .iter()
        .map(|(_, row)| Uuid::from_bytes(row.id))
        .collect();
    shared.timers.keep_live(group.id, &ids);
    if live.is_empty() {
        return Ok(false);
    }
    // It has been looked up; it is there unless the directory lags, and comes soon then.
    let channel = group.record().ok_or(ReadError::NoLeader)?;
    let (now_ms, this_node) = (clock::now_ms(), shared.node());
    let mut in_care = false;
    for (seq, row) in live {
        let is_due = match row.stage {
            Stage::Pending | Stage::Waiting => row.due_ms <= now_ms,
            // One that was begun in an older term was left behind.
            Stage::Running { term: of, node } => (of, node) != (term, this_node),
            Stage::Done { .. } | Stage::Failed { .. } | Stage::Cancelled { .. } => false,
        };
        in_care |= is_due || matches!(row.stage, Stage::Running { .. });
        if is_due {
            let job = read::job(replica, seq, row)?;
            shared.timers.hand(group.id, channel, job);
        }
    }
    Ok(in_care)
}

fn is_live(row: &JobRow) -> bool {
    !read::state_of(row).is_over()
}

/// When the next thing is due that is not yet.
fn next_due(replica: &Replica, now_ms: u64) -> Result<Option<u64>, ReadError> {
    let scheduled = channel::first_scheduled(&replica.rows).map_err(storage_error)?;
    let jobs = channel::jobs(&replica.rows, 0, JOBS_MAX).map_err(storage_error)?;
    let jobs = jobs
        .into_iter()
        .filter(|(_, row)| matches!(row.stage, Stage::Waiting))
        .map(|(_, row)| row.due_ms)
        .filter(|due_ms| *due_ms > now_ms);
    Ok(jobs.chain(scheduled).min())
}
