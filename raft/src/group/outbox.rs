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
use tokio::time::Instant;

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
        let again = self
            .flights
            .iter()
            .position(|flight| flight.under_way.is_none());
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
    pub(crate) fn settle(
        &mut self,
        ticket: Ticket,
        settlement: Settlement,
        fresh_session: u64,
    ) -> Answers<R> {
        let found = self
            .flights
            .iter()
            .position(|flight| flight.first == ticket.first);
        let Some(position) = found.filter(|_| ticket.session == self.session) else {
            return Vec::new();
        };
        let flight = &mut self.flights[position];
        if flight.under_way == Some(ticket.epoch) {
            flight.under_way = None;
        }
        match settlement {
            Settlement::Outcomes(outcomes) => {
                self.outcomes(position, ticket, outcomes, fresh_session)
            }
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
        while self
            .waiting
            .front()
            .is_some_and(|draft| draft.deadline <= now)
        {
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
            // Drafts of one part came in order, and all wait equally long.
            let first = flight
                .drafts
                .iter()
                .flatten()
                .next()
                .map(|draft| draft.deadline);
            first.into_iter().chain([flight.since + ABANDON_AFTER])
        });
        waiting.into_iter().chain(flying).min()
    }

    /// The node is stopping: everything is answered.
    pub(crate) fn close(&mut self) -> Answers<R> {
        let waiting = self
            .waiting
            .drain(..)
            .map(|draft| (draft.reply, Verdict::NoLeader));
        let mut answers: Answers<R> = waiting.collect();
        for flight in self.flights.drain(..) {
            let verdict = if flight.maybe || flight.under_way.is_some() {
                Verdict::Unknown
            } else {
                Verdict::NoLeader
            };
            answers.extend(
                flight
                    .drafts
                    .into_iter()
                    .flatten()
                    .map(|draft| (draft.reply, verdict.clone())),
            );
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
        while let Some(draft) = self.waiting.front() {
            match builder.push(&draft.command) {
                Ok(()) => {}
                // What is left goes with the next part. (A single command always fits: names and
                // bodies are bounded far below a part.)
                Err(
                    BatchError::Full
                    | BatchError::TooLarge
                    | BatchError::Empty
                    | BatchError::Malformed,
                ) => break,
            }
            let draft = self.waiting.pop_front().expect("there is a front");
            drafts.push(Some(draft));
        }
        let count = builder.len() as u64;
        let part = builder.finish().ok()?;
        self.next_number = first + count;
        self.flights.push_back(Flight {
            first,
            part,
            drafts,
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
        if outcomes
            .iter()
            .any(|outcome| matches!(outcome, Outcome::OutOfTurn { .. }))
        {
            // An earlier part is missing there. If it is not here to be sent again, the session
            // cannot go on.
            if position == 0 && !self.flights.iter().any(|flight| flight.maybe) {
                return self.new_session(fresh_session);
            }
            self.stall(ticket);
            return Vec::new();
        }
        if outcomes.contains(&Outcome::SessionUnknown) {
            // The part that opens the session may still be on its way, or lost and sent again.
            let opens = self.flights.front().is_some_and(|flight| flight.first == 1);
            if opens && position > 0 {
                self.stall(ticket);
                return Vec::new();
            }
            return self.new_session(fresh_session);
        }
        if outcomes.len() != flight.drafts.len() {
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
        answers.extend(
            self.waiting
                .drain(..)
                .map(|draft| (draft.reply, Verdict::NoRoom)),
        );
        answers
    }
}

fn answer_all<R>(flight: Flight<R>, verdict: &Verdict) -> Answers<R> {
    let drafts = flight.drafts.into_iter().flatten();
    drafts.map(|draft| (draft.reply, verdict.clone())).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::machine::Part;

    const WAIT: Duration = Duration::from_secs(5);

    fn command(number: u64) -> EncodedCommand {
        EncodedCommand::new(&crate::machine::directory::Command::CreateServer {
            id: u128::from(number).to_be_bytes(),
            name: "abc",
        })
    }

    fn draft(number: u64, deadline: Instant) -> Draft<u64> {
        Draft {
            command: command(number),
            deadline,
            reply: number,
        }
    }

    fn outbox(drafts: u64) -> (Outbox<u64>, Instant) {
        let now = Instant::now();
        let mut outbox = Outbox::new(1);
        for number in 0..drafts {
            outbox.push(draft(number, now + WAIT));
        }
        (outbox, now)
    }

    fn done(count: usize) -> Settlement {
        Settlement::Outcomes(vec![Outcome::Done; count])
    }

    #[test]
    fn what_waits_leaves_as_one_part() {
        let (mut outbox, now) = outbox(3);
        let sending = outbox.next(now).unwrap();
        assert_eq!(Part::peek(&sending.part).unwrap().count, 3);
        assert_eq!(outbox.next(now), None);
        let answers = outbox.settle(sending.ticket, done(3), 2);
        assert_eq!(answers.len(), 3);
        assert_eq!(outbox.next_deadline(), None);
    }

    #[test]
    fn a_lost_part_is_sent_again_with_the_same_numbers() {
        let (mut outbox, now) = outbox(2);
        let first = outbox.next(now).unwrap();
        outbox.push(draft(2, now + WAIT));
        let second = outbox.next(now).unwrap();
        assert!(
            outbox
                .settle(first.ticket, Settlement::Unknown, 9)
                .is_empty()
        );
        assert!(outbox.is_stalled());
        assert_eq!(outbox.next(now), None, "nothing overtakes what is lost");
        outbox.resume();
        assert_eq!(outbox.next(now).unwrap().part, first.part);
        assert_eq!(outbox.next(now).unwrap().part, second.part);
        let late = outbox.settle(first.ticket, done(2), 9);
        assert_eq!(late.len(), 2, "a late answer is an answer");
    }

    #[test]
    fn what_reached_no_log_is_refused_in_time_with_certainty() {
        let (mut outbox, now) = outbox(2);
        let sending = outbox.next(now).unwrap();
        outbox.settle(sending.ticket, Settlement::Rejected, 9);
        outbox.resume();
        let answers = outbox.expire(now + WAIT, 9);
        assert_eq!(answers, [(0, Verdict::NoLeader), (1, Verdict::NoLeader)]);
        outbox.push(draft(2, now + WAIT * 2));
        let sending = outbox.next(now + WAIT).unwrap();
        assert_eq!(
            Part::peek(&sending.part).unwrap().first,
            1,
            "the numbers were taken back"
        );
    }

    #[test]
    fn what_may_be_in_a_log_is_not_called_refused() {
        let (mut outbox, now) = outbox(1);
        let sending = outbox.next(now).unwrap();
        outbox.settle(sending.ticket, Settlement::Unknown, 9);
        outbox.resume();
        let again = outbox.next(now).unwrap();
        outbox.settle(again.ticket, Settlement::Rejected, 9);
        assert_eq!(outbox.expire(now + WAIT, 9), [(0, Verdict::Unknown)]);
    }

    #[test]
    fn a_forgotten_session_leaves_only_what_may_be_in_a_log_unknown() {
        let (mut outbox, now) = outbox(1);
        let first = outbox.next(now).unwrap();
        outbox.push(draft(1, now + WAIT));
        let second = outbox.next(now).unwrap();
        outbox.settle(second.ticket, Settlement::Rejected, 9);
        let unknown = Settlement::Outcomes(vec![Outcome::SessionUnknown]);
        let answers = outbox.settle(first.ticket, unknown, 9);
        assert!(answers.is_empty(), "{answers:?}");
        let header = Part::peek(&outbox.next(now).unwrap().part).unwrap();
        assert_eq!((header.session, header.first, header.count), (9, 1, 2));
    }

    #[test]
    fn a_session_that_is_not_known_yet_is_not_given_up() {
        let (mut outbox, now) = outbox(1);
        let first = outbox.next(now).unwrap();
        outbox.push(draft(1, now + WAIT));
        let second = outbox.next(now).unwrap();
        let unknown = Settlement::Outcomes(vec![Outcome::SessionUnknown]);
        assert!(outbox.settle(second.ticket, unknown, 9).is_empty());
        assert!(outbox.is_stalled());
        outbox.resume();
        assert_eq!(outbox.next(now).unwrap().part, first.part);
    }

    /// What can happen to a try.
    #[derive(Debug, Clone, Copy)]
    enum Fate {
        Applied,
        AppliedAnswerLost,
        Rejected,
        Lost,
        /// It stays on its way until a later step.
        Delayed,
    }

    fn fate() -> impl Strategy<Value = Fate> {
        prop_oneof![
            4 => Just(Fate::Applied),
            1 => Just(Fate::AppliedAnswerLost),
            1 => Just(Fate::Rejected),
            1 => Just(Fate::Lost),
            1 => Just(Fate::Delayed),
        ]
    }

    /// The state machine's rule for one session, and what was taken in order.
    #[derive(Default)]
    struct Taken {
        sessions: std::collections::HashMap<u64, u64>,
        log: Vec<(u64, u64)>,
    }

    impl Taken {
        fn take(&mut self, part: &Bytes) -> Vec<Outcome> {
            let header = Part::peek(part).unwrap();
            let last = self.sessions.entry(header.session).or_default();
            let numbers = header.first..=header.last();
            numbers
                .map(|number| {
                    if number <= *last {
                        Outcome::Repeated
                    } else if number == *last + 1 {
                        *last = number;
                        self.log.push((header.session, number));
                        Outcome::Done
                    } else {
                        Outcome::OutOfTurn { next: *last + 1 }
                    }
                })
                .collect()
        }
    }

    proptest! {
        /// Whatever is lost, delayed, refused or answered late: each command is answered once, and is
        /// taken once, in order, if it was answered as taken.
        #[test]
        fn commands_are_taken_once_and_in_order(
            steps in proptest::collection::vec((0u64..4, fate(), any::<bool>()), 1..80),
        ) {
            let now = Instant::now();
            let mut outbox: Outbox<u64> = Outbox::new(1);
            let mut taken = Taken::default();
            let mut delayed: Vec<Sending> = Vec::new();
            let mut answered = std::collections::BTreeMap::new();
            let (mut pushed, mut session) = (0, 1);
            let mut note = |answers: Answers<u64>| {
                for (number, verdict) in answers {
                    assert!(answered.insert(number, verdict).is_none(), "answered twice");
                }
            };
            for (drafts, fate, release) in steps {
                for _ in 0..drafts {
                    outbox.push(draft(pushed, now + WAIT));
                    pushed += 1;
                }
                if release {
                    for sending in delayed.drain(..) {
                        let outcomes = taken.take(&sending.part);
                        session += 1;
                        note(outbox.settle(sending.ticket, Settlement::Outcomes(outcomes), session));
                    }
                }
                if outbox.is_stalled() {
                    outbox.resume();
                }
                session += 1;
                if let Some(sending) = outbox.next(now) {
                    let settlement = match fate {
                        Fate::Applied => Settlement::Outcomes(taken.take(&sending.part)),
                        Fate::AppliedAnswerLost => {
                            taken.take(&sending.part);
                            Settlement::Unknown
                        }
                        Fate::Rejected => Settlement::Rejected,
                        Fate::Lost => Settlement::Unknown,
                        Fate::Delayed => {
                            delayed.push(sending);
                            continue;
                        }
                    };
                    note(outbox.settle(sending.ticket, settlement, session));
                }
            }
            delayed.clear();
            for _ in 0..1_000 {
                outbox.resume();
                while let Some(sending) = outbox.next(now) {
                    let outcomes = taken.take(&sending.part);
                    session += 1;
                    note(outbox.settle(sending.ticket, Settlement::Outcomes(outcomes), session));
                }
            }
            prop_assert_eq!(answered.len() as u64, pushed, "all are answered");
            prop_assert_eq!(answered.values().filter(|verdict| **verdict == Verdict::NoLeader).count(), 0);
            let mut unique = taken.log.clone();
            unique.sort_unstable();
            unique.dedup();
            prop_assert_eq!(unique.len(), taken.log.len(), "taken twice");
            prop_assert!(taken.log.len() as u64 >= answered.values().filter(|verdict| **verdict != Verdict::Unknown).count() as u64);
            prop_assert_eq!(taken.log.len() as u64, pushed, "with one session, all are taken in the end");
        }
    }
}
