//! What one node has to say to one group, in order and exactly once.
//!
//! Commands are numbered within a session and sent in parts, several under way at a time. The
//! group's state machine takes each number once and in turn, so a part whose fate is unknown is
//! simply sent again, to whoever leads now. (Sessions: Raft dissertation, section 6.3; the window of
//! numbered parts: Kafka's idempotent producer.)
//!
//! Invariants:
//! - A command is answered once. "No leader" is answered only for what no leader can have taken.
//! - Numbers given away in a session have no holes: only a suffix that certainly never reached a
//!   log is taken back.
//! - This is a value: time, and the names of new sessions, are passed in.

use std::collections::VecDeque;
use std::time::Duration;
use std::time::Instant;

use bytes::Bytes;

use crate::machine::BatchError;
use crate::machine::EncodedCommand;
use crate::machine::Outcome;
use crate::machine::PartBuilder;

/// Parts under way: enough to cover the way to the leader and a commit there, few enough that what
/// waits behind them gathers into large parts.
pub(crate) const FLIGHTS_MAX: usize = 8;
/// How long a part of unknown fate is sent again before its session is given up.
pub(crate) const ABANDON_AFTER: Duration = Duration::from_secs(30);

/// A command on its way, with whoever waits for it.
#[derive(Debug)]
pub(crate) struct Draft<R> {
    pub(crate) command: EncodedCommand,
    /// Until when an answer is waited for.
    pub(crate) deadline: Instant,
    pub(crate) reply: R,
}

/// What a command came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    Outcome(Outcome),
    /// It was taken at an earlier try, whose answer was lost.
    Repeated,
    /// Certainly not taken.
    NoLeader,
    /// Certainly not taken: the leader's disk is nearly full.
    NoRoom,
    Unknown,
}

/// What one try at sending a part came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Settlement {
    Outcomes(Vec<Outcome>),
    /// This try certainly did not put it into a log.
    Rejected,
    /// As `Rejected`, for want of disk space.
    NoRoom,
    Unknown,
}

/// A part to be sent now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sending {
    pub(crate) ticket: Ticket,
    pub(crate) part: Bytes,
}

/// Names one try at one part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ticket {
    session: u64,
    first: u64,
    epoch: u64,
}

#[derive(Debug)]
struct Flight<R> {
    first: u64,
    part: Bytes,
    /// Answered ones are `None`.
    drafts: Vec<Option<Draft<R>>>,
    commands: Vec<EncodedCommand>,
    /// Some try may have put it into a log.
    maybe: bool,
    /// The epoch in which it is under way.
    under_way: Option<u64>,
    since: Instant,
}

#[derive(Debug)]
pub(crate) struct Outbox<R> {
    session: u64,
    next_number: u64,
    /// Rises whenever everything is sent anew; answers to older tries change nothing but the truth.
    epoch: u64,
    stalled: bool,
    waiting: VecDeque<Draft<R>>,
    flights: VecDeque<Flight<R>>,
}

/// Who is answered what.
pub(crate) type Answers<R> = Vec<(R, Verdict)>;

impl<R> Outbox<R> {
    pub(crate) fn new(session: u64) -> Self {
        Outbox {
            session,
            next_number: 1,
            epoch: 0,
            stalled: false,
            waiting: VecDeque::new(),
            flights: VecDeque::new(),
        }
    }

    pub(crate) fn push(&mut self, draft: Draft<R>) {
        self.waiting.push_back(draft);
    }

    /// Something went wrong with what was sent: [`Outbox::resume`] sends it again.
    pub(crate) fn is_stalled(&self) -> bool {
        self.stalled
    }

    /// Begins anew with everything of unknown fate; what certainly reached no log goes back to
    /// waiting, so that it is sent in larger parts or refused in time.
    pub(crate) fn resume(&mut self) {
        self.epoch += 1;
        self.stalled = false;
        for flight in &mut self.flights {
            flight.maybe |= flight.under_way.take().is_some();
        }
        while let Some(flight) = self.flights.pop_back() {
            if flight.maybe {
                self.flights.push_back(flight);
                break;
            }
            self.next_number = flight.first;
            for draft in flight.drafts.into_iter().rev().flatten() {
                self.waiting.push_front(draft);
            }
        }
    }

    /// The next part to send to the leader, in order; `None` while there is nothing, or enough is
    /// under way, or the outbox is stalled.
    pub(crate) fn next(&mut self, now: Instant) -> Option<Sending> {
        if self.stalled {
            return None;
        }
        let again = self.flights.iter().position(|flight| flight.under_way.is_none());
        let position = match again {
            Some(position) => position,
            None => self.take_off(now)?,
        };
        let flight = &mut self.flights[position];
        flight.under_way = Some(self.epoch);
        Some(Sending {
            ticket: Ticket {
                session: self.session,
                first: flight.first,
                epoch: self.epoch,
            },
            part: flight.part.clone(),
        })
    }

    /// Takes note of what a try came to.
    pub(crate) fn settle(&mut self, ticket: Ticket, settlement: Settlement, fresh_session: u64) -> Answers<R> {
        let found = self.flights.iter().position(|flight| flight.first == ticket.first);
        let Some(position) = found.filter(|_| ticket.session == self.session) else {
            return Vec::new();
        };
        let flight = &mut self.flights[position];
        if flight.under_way == Some(ticket.epoch) {
            flight.under_way = None;
        }
        match settlement {
            Settlement::Outcomes(outcomes) => self.outcomes(position, ticket, outcomes, fresh_session),
            Settlement::Rejected => {
                self.stall(ticket);
                Vec::new()
            }
            Settlement::NoRoom => {
                self.stall(ticket);
                self.refuse_what_never_left()
            }
            Settlement::Unknown => {
                self.flights[position].maybe = true;
                self.stall(ticket);
                Vec::new()
            }
        }
    }

    /// Answers what has waited for too long.
    pub(crate) fn expire(&mut self, now: Instant, fresh_session: u64) -> Answers<R> {
        let mut answers = Answers::new();
        // Drafts wait in order of arrival and all wait equally long.
        while self.waiting.front().is_some_and(|draft| draft.deadline <= now) {
            let draft = self.waiting.pop_front().expect("there is a front");
            answers.push((draft.reply, Verdict::NoLeader));
        }
        for flight in &mut self.flights {
            for slot in &mut flight.drafts {
                if let Some(draft) = slot.take_if(|draft| draft.deadline <= now) {
                    answers.push((draft.reply, Verdict::Unknown));
                }
            }
        }
        let oldest = self.flights.front().map(|flight| flight.since);
        if oldest.is_some_and(|since| since + ABANDON_AFTER <= now) {
            answers.extend(self.new_session(fresh_session));
        }
        answers
    }

    /// When [`Outbox::expire`] has something to do next.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let waiting = self.waiting.front().map(|draft| draft.deadline);
        let flying = self.flights.iter().flat_map(|flight| {
            let drafts = flight.drafts.iter().flatten().map(|draft| draft.deadline);
            drafts.chain([flight.since + ABANDON_AFTER])
        });
        waiting.into_iter().chain(flying).min()
    }

    /// The node is stopping: everything is answered.
    pub(crate) fn close(&mut self) -> Answers<R> {
        let waiting = self.waiting.drain(..).map(|draft| (draft.reply, Verdict::NoLeader));
        let mut answers: Answers<R> = waiting.collect();
        for flight in self.flights.drain(..) {
            let verdict = if flight.maybe || flight.under_way.is_some() {
                Verdict::Unknown
            } else {
                Verdict::NoLeader
            };
            answers.extend(flight.drafts.into_iter().flatten().map(|draft| (draft.reply, verdict.clone())));
        }
        answers
    }

    fn take_off(&mut self, now: Instant) -> Option<usize> {
        if self.flights.len() == FLIGHTS_MAX || self.waiting.is_empty() {
            return None;
        }
        let first = self.next_number;
        let mut builder = PartBuilder::new(self.session, first);
        let mut drafts = Vec::new();
        let mut commands = Vec::new();
        while let Some(draft) = self.waiting.front() {
            match builder.push(&draft.command) {
                Ok(()) => {}
                // Whoever made the draft has checked its size; a command that fits into no part
                // would block all behind it, so the part goes without it.
                Err(BatchError::Full | BatchError::TooLarge | BatchError::Empty | BatchError::Malformed) => break,
            }
            let draft = self.waiting.pop_front().expect("there is a front");
            commands.push(draft.command.clone());
            drafts.push(Some(draft));
        }
        let count = builder.len() as u64;
        let part = builder.finish().ok()?;
        self.next_number = first + count;
        self.flights.push_back(Flight {
            first,
            part,
            drafts,
            commands,
            maybe: false,
            under_way: None,
            since: now,
        });
        Some(self.flights.len() - 1)
    }

    fn outcomes(
        &mut self,
        position: usize,
        ticket: Ticket,
        outcomes: Vec<Outcome>,
        fresh_session: u64,
    ) -> Answers<R> {
        let flight = &self.flights[position];
        if outcomes.iter().any(|outcome| matches!(outcome, Outcome::OutOfTurn { .. })) {
            // An earlier part is missing there. If it is not here to be sent again, the session
            // cannot go on.
            if position == 0 && !self.flights.iter().any(|flight| flight.maybe) {
                return self.new_session(fresh_session);
            }
            self.stall(ticket);
            return Vec::new();
        }
        if outcomes.contains(&Outcome::SessionUnknown) {
            return self.new_session(fresh_session);
        }
        if outcomes.len() != flight.commands.len() {
            // The part could not be read there: the same part will not do better.
            let flight = self.flights.remove(position).expect("it was found");
            return answer_all(flight, &Verdict::Unknown);
        }
        let flight = self.flights.remove(position).expect("it was found");
        let drafts = flight.drafts.into_iter().zip(outcomes);
        let answered = drafts.filter_map(|(draft, outcome)| {
            let verdict = match outcome {
                Outcome::Repeated => Verdict::Repeated,
                other => Verdict::Outcome(other),
            };
            draft.map(|draft| (draft.reply, verdict))
        });
        answered.collect()
    }

    /// A late answer to an older try is no reason to send everything again.
    fn stall(&mut self, ticket: Ticket) {
        self.stalled |= ticket.epoch == self.epoch;
    }

    /// Gives the session up: what may be in a log is unknown for good, the rest waits again.
    fn new_session(&mut self, session: u64) -> Answers<R> {
        let mut answers = Answers::new();
        let mut again = VecDeque::new();
        for flight in self.flights.drain(..) {
            if flight.maybe || flight.under_way.is_some() {
                answers.extend(answer_all(flight, &Verdict::Unknown));
            } else {
                again.extend(flight.drafts.into_iter().flatten());
            }
        }
        again.append(&mut self.waiting);
        self.waiting = again;
        self.session = session;
        self.next_number = 1;
        self.epoch += 1;
        self.stalled = false;
        answers
    }

    fn refuse_what_never_left(&mut self) -> Answers<R> {
        let mut answers = Answers::new();
        while let Some(flight) = self.flights.pop_back() {
            if flight.maybe || flight.under_way.is_some() {
                self.flights.push_back(flight);
                break;
            }
            self.next_number = flight.first;
            answers.extend(answer_all(flight, &Verdict::NoRoom));
        }
        answers.extend(self.waiting.drain(..).map(|draft| (draft.reply, Verdict::NoRoom)));
        answers
    }
}

fn answer_all<R>(flight: Flight<R>, verdict: &Verdict) -> Answers<R> {
    let drafts = flight.drafts.into_iter().flatten();
    drafts.map(|draft| (draft.reply, verdict.clone())).collect()
}
