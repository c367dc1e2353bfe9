//! What becomes of a command.
//!
//! Invariant: whatever adds a message moves the head by one and is answered
//! [`Outcome::Posted`], not repeated; nothing else is.

use super::Head;
use super::agenda::{Agenda, Stage};
use super::command::{Call, Command, Deliver, Post, Reply, Schedule};
use super::window;
use crate::machine::{MachineError, Outcome, Overlay};

/// Decides about a command and, if it is accepted, changes the rows and moves the head.
pub(super) fn decide(
    overlay: &mut Overlay<'_>,
    head: &mut Head,
    agenda: &mut Agenda,
    command: &Command<'_>,
) -> Result<Outcome, MachineError> {
    let clock_ms = head.clock_ms;
    Ok(match command {
        Command::Post(post) => add(overlay, head, agenda, post, None)?,
        Command::Call(post, call) => add(overlay, head, agenda, post, Some(*call))?,
        Command::Schedule(schedule) => put_down(overlay, head, agenda, schedule)?,
        Command::Deliver(deliver) => take_up(overlay, head, agenda, deliver)?,
        Command::Unschedule { id } => match agenda.scheduled.find(overlay, id)? {
            Some(row) => {
                agenda.scheduled.remove(overlay, id, &row);
                Outcome::Done
            }
            None => Outcome::NotFound,
        },
        Command::Claim(claim) => agenda.jobs.claim(overlay, claim),
        Command::Reply(reply) => end(overlay, head, agenda, reply, None),
        Command::Fail { reply, reason } => end(overlay, head, agenda, reply, Some(reason)),
        Command::Retry {
            job,
            attempt,
            until_ms,
            reason,
        } => agenda.jobs.retry(overlay, job, *attempt, *until_ms, reason),
        Command::Cancel { job } => agenda.jobs.cancel(overlay, clock_ms, job),
    })
}

/// A message, and with a call its job.
///
/// The key comes first: a post that is sent again must get the answer of the
/// first one, although the head has moved past what it expects.
fn add(
    overlay: &mut Overlay<'_>,
    head: &mut Head,
    agenda: &mut Agenda,
    post: &Post<'_>,
    call: Option<Call<'_>>,
) -> Result<Outcome, MachineError> {
    let keyed = match post.key {
        Some(key) => {
            let slot = window::Slot::find(overlay, head, post.username, key)?;
            let fingerprint = window::fingerprint(post);
            if let Some(outcome) = slot.answer(fingerprint) {
                return Ok(outcome);
            }
            Some((slot, fingerprint))
        }
        None => None,
    };
    if post
        .expected_head
        .is_some_and(|expected| expected != head.seq)
    {
        return Ok(Outcome::HeadMismatch { head: head.seq });
    }
    if call.is_some_and(|call| agenda.jobs.is_full(call.is_outward)) {
        return Ok(Outcome::TooManyJobs);
    }
    let outcome = posted(head, post.id);
    if let Some((slot, fingerprint)) = keyed {
        slot.remember(overlay, head, post.id, fingerprint, None);
    }
    if let Some(call) = call {
        let place = (head.seq, head.clock_ms);
        agenda
            .jobs
            .create(overlay, place, post.id, post.username, call);
    }
    Ok(outcome)
}

fn put_down(
    overlay: &mut Overlay<'_>,
    head: &mut Head,
    agenda: &mut Agenda,
    schedule: &Schedule<'_>,
) -> Result<Outcome, MachineError> {
    let post = &schedule.post;
    let keyed = match post.key {
        Some(key) => {
            let slot = window::Slot::find(overlay, head, post.username, key)?;
            let fingerprint = window::fingerprint_of_scheduled(schedule);
            if let Some(outcome) = slot.answer(fingerprint) {
                return Ok(outcome);
            }
            Some((slot, fingerprint))
        }
        None => None,
    };
    if agenda.scheduled.is_full() {
        return Ok(Outcome::TooManyScheduled);
    }
    let outcome = agenda.scheduled.add(overlay, head.clock_ms, schedule)?;
    if let Some((slot, fingerprint)) = keyed {
        slot.remember(overlay, head, post.id, fingerprint, Some(schedule.due_ms));
    }
    Ok(outcome)
}

/// A scheduled message becomes part of the channel, once: whoever comes second finds nothing.
fn take_up(
    overlay: &mut Overlay<'_>,
    head: &mut Head,
    agenda: &mut Agenda,
    deliver: &Deliver<'_>,
) -> Result<Outcome, MachineError> {
    let Some(row) = agenda.scheduled.find(overlay, &deliver.id)? else {
        return Ok(Outcome::NotFound);
    };
    if row.due_ms > head.clock_ms {
        return Ok(Outcome::NotDue);
    }
    let call = row.call.as_ref();
    if call.is_some_and(|call| agenda.jobs.is_full(call.is_outward)) {
        // It stays, and is tried again when there is room.
        return Ok(Outcome::TooManyJobs);
    }
    agenda.scheduled.remove(overlay, &deliver.id, &row);
    let outcome = posted(head, deliver.id);
    if let Some(call) = call {
        let call = Call {
            agent: &call.agent,
            attempts_max: call.attempts_max,
            is_outward: call.is_outward,
        };
        let place = (head.seq, head.clock_ms);
        agenda
            .jobs
            .create(overlay, place, deliver.id, deliver.username, call);
    }
    Ok(outcome)
}

/// The message that ends a job, if the attempt that brings it is the one under way.
fn end(
    overlay: &mut Overlay<'_>,
    head: &mut Head,
    agenda: &mut Agenda,
    reply: &Reply<'_>,
    reason: Option<&str>,
) -> Outcome {
    if !agenda.jobs.runs(&reply.job, reply.attempt, reply.agent) {
        return agenda.jobs.refusal(&reply.job);
    }
    let outcome = posted(head, reply.id);
    let (reply_seq, ended_ms) = (head.seq, head.clock_ms);
    let stage = match reason {
        None => Stage::Done {
            reply: reply_seq,
            ended_ms,
        },
        Some(_) => Stage::Failed {
            reply: reply_seq,
            ended_ms,
        },
    };
    agenda.jobs.end(overlay, &reply.job, stage, reason);
    outcome
}

/// The head moves to the message with this id.
fn posted(head: &mut Head, id: [u8; 16]) -> Outcome {
    head.seq += 1;
    Outcome::Posted {
        seq: head.seq,
        timestamp_ms: head.clock_ms,
        id,
        repeated: false,
    }
}
