//! What one node has to say to one group, in order and exactly once.
//!
//! Commands are numbered within a session and sent in parts, several under way at a time. The
//! group's state machine takes each number once and in turn, so a part whose fate is unknown is
//! simply sent again, to whoever leads now. (Sessions: Raft dissertation, section 6.3; the window of
//! numbered parts: Kafka's idempotent producer.)
//!
//! The group knows one session of each node, the newest. It refuses one that is older, as happens to
//! a node that has forgotten how far its sessions were ([`crate::sequence`]); the outbox then begins
//! anew above the one that the group knows. What may have been taken under the old session is
//! answered as unknown and not sent again; what cannot have been taken goes into the new one.
//!
//! Invariants:
//! - A command is answered once. "No leader" is answered only for what no leader can have taken.
//! - Numbers given away in a session have no holes: only a suffix that certainly never reached a
//!   log is taken back.
//! - This is a value: time is passed in, and so is what gives a sequence above another (0 for any).

use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::Instant;

use bytes::Bytes;

use crate::machine::BatchError;
use crate::machine::EncodedCommand;
use crate::machine::Outcome;
use crate::machine::PartBuilder;
use crate::machine::SessionId;

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
    session: SessionId,
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
    session: SessionId,
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
    pub(crate) fn new(session: SessionId) -> Self {
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
        above: impl FnOnce(u128) -> u128,
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
            Settlement::Outcomes(outcomes) => self.outcomes(position, ticket, outcomes, above),
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
    pub(crate) fn expire(&mut self, now: Instant, above: impl FnOnce(u128) -> u128) -> Answers<R> {
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
            answers.extend(self.new_session(above(0)));
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
        above: impl FnOnce(u128) -> u128,
    ) -> Answers<R> {
        let flight = &self.flights[position];
        if outcomes
            .iter()
            .any(|outcome| matches!(outcome, Outcome::OutOfTurn { .. }))
        {
            // An earlier part is missing there. If it is not here to be sent again, the session
            // cannot go on.
            if position == 0 && !self.flights.iter().any(|flight| flight.maybe) {
                return self.new_session(above(0));
            }
            self.stall(ticket);
            return Vec::new();
        }
        let newest = outcomes.iter().find_map(|outcome| match outcome {
            Outcome::SessionUnknown { newest } => Some(*newest),
            _ => None,
        });
        if let Some(newest) = newest {
            return self.refused(position, ticket, newest, above);
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

    /// The group does not know this session; the newest of this node that it knows is `newest`.
    fn refused(
        &mut self,
        position: usize,
        ticket: Ticket,
        newest: u128,
        above: impl FnOnce(u128) -> u128,
    ) -> Answers<R> {
        let is_over = newest > self.session.sequence;
        let opening = self.flights.front().filter(|flight| flight.first == 1);
        if !is_over && opening.is_some() && position > 0 {
            // The part that opens the session may still be on its way, or lost and sent again.
            self.stall(ticket);
            return Vec::new();
        }
        // From the refusal on, nothing of a session that is over is taken. Before it, nothing was
        // taken without the part that opens the session, and that one had no other try than this.
        let never_opened = position == 0 && opening.is_some_and(|flight| !flight.maybe);
        if is_over && never_opened {
            for flight in &mut self.flights {
                flight.maybe = false;
                flight.under_way = None;
            }
        }
        let answers = self.new_session(above(newest));
        // The next one may be refused again, and each refusal costs the group an entry, so it waits.
        self.stalled = true;
        answers
    }

    /// A late answer to an older try is no reason to send everything again.
    fn stall(&mut self, ticket: Ticket) {
        self.stalled |= ticket.epoch == self.epoch;
    }

    /// Gives the session up: what may be in a log is unknown for good, the rest waits again.
    fn new_session(&mut self, sequence: u128) -> Answers<R> {
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
        self.session.sequence = sequence;
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
    use crate::machine::Batch;
    use crate::machine::Kind;
    use crate::machine::Machine;
    use crate::machine::Overlay;
    use crate::machine::Part;
    use crate::machine::channel::Command;
    use crate::machine::channel::Post;
    use crate::machine::testing::Rows;
    use crate::sequence::Sequences;

    const WAIT: Duration = Duration::from_secs(5);
    const NODE: u64 = 1;

    fn command(number: u64) -> EncodedCommand {
        EncodedCommand::new(&Command::Post(Post {
            id: u128::from(number).to_be_bytes(),
            username: "ann",
            body: "hello",
            key: None,
            expected_head: None,
            reply_to: None,
        }))
    }

    fn session(sequence: u128) -> SessionId {
        SessionId {
            node: NODE,
            sequence,
        }
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
        let mut outbox = Outbox::new(session(1));
        for number in 0..drafts {
            outbox.push(draft(number, now + WAIT));
        }
        (outbox, now)
    }

    /// What gives sequences in tests that need one more at most.
    fn above(newest: u128) -> u128 {
        newest.max(1) + 8
    }

    fn unknown(newest: u128) -> Settlement {
        Settlement::Outcomes(vec![Outcome::SessionUnknown { newest }])
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
        let answers = outbox.settle(sending.ticket, done(3), above);
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
                .settle(first.ticket, Settlement::Unknown, above)
                .is_empty()
        );
        assert!(outbox.is_stalled());
        assert_eq!(outbox.next(now), None, "nothing overtakes what is lost");
        outbox.resume();
        assert_eq!(outbox.next(now).unwrap().part, first.part);
        assert_eq!(outbox.next(now).unwrap().part, second.part);
        let late = outbox.settle(first.ticket, done(2), above);
        assert_eq!(late.len(), 2, "a late answer is an answer");
    }

    #[test]
    fn what_reached_no_log_is_refused_in_time_with_certainty() {
        let (mut outbox, now) = outbox(2);
        let sending = outbox.next(now).unwrap();
        outbox.settle(sending.ticket, Settlement::Rejected, above);
        outbox.resume();
        let answers = outbox.expire(now + WAIT, above);
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
        outbox.settle(sending.ticket, Settlement::Unknown, above);
        outbox.resume();
        let again = outbox.next(now).unwrap();
        outbox.settle(again.ticket, Settlement::Rejected, above);
        assert_eq!(outbox.expire(now + WAIT, above), [(0, Verdict::Unknown)]);
    }

    #[test]
    fn a_lost_session_leaves_only_what_may_be_in_a_log_unknown() {
        let (mut outbox, now) = outbox(1);
        let first = outbox.next(now).unwrap();
        outbox.push(draft(1, now + WAIT));
        let second = outbox.next(now).unwrap();
        outbox.settle(second.ticket, Settlement::Rejected, above);
        let answers = outbox.settle(first.ticket, unknown(0), above);
        assert!(answers.is_empty(), "{answers:?}");
        assert!(outbox.is_stalled(), "the next try waits");
        outbox.resume();
        let header = Part::peek(&outbox.next(now).unwrap().part).unwrap();
        assert_eq!(
            (header.session, header.first, header.count),
            (session(9), 1, 2)
        );
    }

    #[test]
    fn a_session_that_is_not_known_yet_is_not_given_up() {
        let (mut outbox, now) = outbox(1);
        let first = outbox.next(now).unwrap();
        outbox.push(draft(1, now + WAIT));
        let second = outbox.next(now).unwrap();
        assert!(outbox.settle(second.ticket, unknown(0), above).is_empty());
        assert!(outbox.is_stalled());
        outbox.resume();
        assert_eq!(outbox.next(now).unwrap().part, first.part);
    }

    #[test]
    fn a_session_that_is_too_old_to_be_opened_loses_nothing() {
        let (mut outbox, now) = outbox(2);
        let first = outbox.next(now).unwrap();
        outbox.push(draft(2, now + WAIT));
        let second = outbox.next(now).unwrap();
        outbox.push(draft(3, now + WAIT));
        // Nothing can have been taken, whatever becomes of the second part.
        let refused = Settlement::Outcomes(vec![Outcome::SessionUnknown { newest: 40 }; 2]);
        assert_eq!(outbox.settle(first.ticket, refused, above), []);
        assert_eq!(outbox.settle(second.ticket, unknown(40), above), []);
        outbox.resume();
        let again = outbox.next(now).unwrap();
        let header = Part::peek(&again.part).unwrap();
        assert_eq!(
            (header.session, header.first, header.count),
            (session(48), 1, 4)
        );
        let answers = outbox.settle(again.ticket, done(4), above);
        let numbers: Vec<_> = answers.iter().map(|(number, _)| *number).collect();
        assert_eq!(numbers, [0, 1, 2, 3]);
    }

    #[test]
    fn what_an_old_session_may_have_done_is_unknown_and_not_sent_again() {
        let (mut outbox, now) = outbox(1);
        let first = outbox.next(now).unwrap();
        outbox.settle(first.ticket, Settlement::Unknown, above);
        outbox.resume();
        let first = outbox.next(now).unwrap();
        outbox.push(draft(1, now + WAIT));
        let second = outbox.next(now).unwrap();
        outbox.push(draft(2, now + WAIT));
        let answers = outbox.settle(first.ticket, unknown(40), above);
        assert_eq!(answers, [(0, Verdict::Unknown), (1, Verdict::Unknown)]);
        assert_eq!(outbox.settle(second.ticket, unknown(40), above), []);
        outbox.resume();
        let header = Part::peek(&outbox.next(now).unwrap().part).unwrap();
        assert_eq!(
            (header.session, header.first, header.count),
            (session(48), 1, 1)
        );
    }

    /// What a group knows of a node outlives the node's disk, and the node's clock may stand before
    /// the time when it knew how far its sessions were.
    #[test]
    fn a_node_that_lost_its_disk_and_its_time_writes_again_at_once() {
        let (start, now) = (1_767_225_600_000, Instant::now());
        let mut groups = [Group::new(), Group::new(), Group::new()];
        let before = Sequences::from_start(start);
        for (group, wakings) in groups.iter_mut().zip([3, 1, 9]) {
            for waking in 0..wakings {
                let mut outbox = Outbox::new(session(before.above(0)));
                outbox.push(draft(waking, now + WAIT));
                let sending = outbox.next(now).unwrap();
                group.take(&sending.part);
            }
            assert_eq!(group.posted.len() as u64, wakings);
        }
        let after = Sequences::from_start(start - 60_000);
        for group in &mut groups {
            let mut outbox = Outbox::new(session(after.above(0)));
            let mut answers = Vec::new();
            for number in 100..103 {
                outbox.push(draft(number, now + WAIT));
                outbox.resume();
                let sending = outbox.next(now).unwrap();
                let outcomes = Settlement::Outcomes(group.take(&sending.part));
                answers
                    .extend(outbox.settle(sending.ticket, outcomes, |newest| after.above(newest)));
            }
            let taken =
                |verdict: &Verdict| matches!(verdict, Verdict::Outcome(Outcome::Posted { .. }));
            assert!(
                answers.iter().all(|(_, verdict)| taken(verdict)),
                "{answers:?}"
            );
            assert_eq!(answers.len(), 3);
            assert!(group.posted.ends_with(&[100, 101, 102]));
        }
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

    /// A channel: its machine, and the numbers of the messages in it.
    struct Group {
        machine: Machine,
        rows: Rows,
        applied: u64,
        posted: Vec<u64>,
    }

    impl Group {
        fn new() -> Group {
            let rows = Rows::default();
            Group {
                machine: Machine::load(Kind::Channel, &rows).unwrap(),
                rows,
                applied: 0,
                posted: Vec::new(),
            }
        }

        fn take(&mut self, part: &Bytes) -> Vec<Outcome> {
            self.applied += 1;
            let batch = Batch::concat(1, std::slice::from_ref(part)).unwrap();
            let mut overlay = Overlay::new(&self.rows);
            let applied = self
                .machine
                .apply(&mut overlay, self.applied, &batch)
                .unwrap();
            let writes = overlay.into_writes();
            self.rows.apply(writes);
            let messages = applied.committed.into_iter().flat_map(|it| it.messages);
            let number = |id| u64::try_from(u128::from_be_bytes(id)).unwrap();
            self.posted
                .extend(messages.map(|message| number(message.id)));
            applied.outcomes
        }

        /// Another life of the node opens a session, which takes the place of all before it, unless it
        /// is older.
        fn open_elsewhere(&mut self, sequence: u128) {
            let other = Command::Post(Post {
                id: u128::from(u64::MAX).to_be_bytes(),
                username: "ann",
                body: "from another life",
                key: None,
                expected_head: None,
                reply_to: None,
            });
            let part = crate::machine::encode_part(session(sequence), 1, &[other]).unwrap();
            self.take(&part);
            self.posted.retain(|number| *number != u64::MAX);
        }
    }

    proptest! {
        /// Whatever is lost, delayed, refused or answered late, and whatever other lives of the node
        /// have opened sessions above this one: each command is answered once, is taken once at most
        /// and in order, and was taken if that is what was answered.
        #[test]
        fn commands_are_taken_once_and_in_order(
            steps in proptest::collection::vec(
                (0u64..4, fate(), any::<bool>(), proptest::option::weighted(0.04, 1..20_u128)), 1..80),
        ) {
            let now = Instant::now();
            let mut outbox: Outbox<u64> = Outbox::new(session(1));
            let mut group = Group::new();
            let mut delayed: Vec<Sending> = Vec::new();
            let mut answered = std::collections::BTreeMap::new();
            let (mut pushed, mut sequence, mut others) = (0, 1, false);
            let mut note = |answers: Answers<u64>| {
                for (number, verdict) in answers {
                    assert!(answered.insert(number, verdict).is_none(), "answered twice");
                }
            };
            let mut above = |newest: u128| {
                sequence = sequence.max(newest) + 1;
                sequence
            };
            for (drafts, fate, release, other) in steps {
                for _ in 0..drafts {
                    outbox.push(draft(pushed, now + WAIT));
                    pushed += 1;
                }
                if let Some(ahead) = other {
                    others = true;
                    group.open_elsewhere(outbox.session.sequence + ahead);
                }
                if release {
                    for sending in delayed.drain(..) {
                        let outcomes = group.take(&sending.part);
                        note(outbox.settle(sending.ticket, Settlement::Outcomes(outcomes), &mut above));
                    }
                }
                if outbox.is_stalled() {
                    outbox.resume();
                }
                if let Some(sending) = outbox.next(now) {
                    let settlement = match fate {
                        Fate::Applied => Settlement::Outcomes(group.take(&sending.part)),
                        Fate::AppliedAnswerLost => {
                            group.take(&sending.part);
                            Settlement::Unknown
                        }
                        Fate::Rejected => Settlement::Rejected,
                        Fate::Lost => Settlement::Unknown,
                        Fate::Delayed => {
                            delayed.push(sending);
                            continue;
                        }
                    };
                    note(outbox.settle(sending.ticket, settlement, &mut above));
                }
            }
            for _ in 0..1_000 {
                outbox.resume();
                while let Some(sending) = outbox.next(now) {
                    let outcomes = group.take(&sending.part);
                    note(outbox.settle(sending.ticket, Settlement::Outcomes(outcomes), &mut above));
                }
            }
            // What was on its way all the time comes last, and does nothing any more.
            let done = group.posted.len();
            for sending in delayed {
                group.take(&sending.part);
            }
            prop_assert_eq!(group.posted.len(), done);
            prop_assert_eq!(answered.len() as u64, pushed, "all are answered");
            prop_assert!(group.posted.is_sorted_by(|one, next| one < next), "once, and in order");
            for (number, verdict) in &answered {
                let taken = group.posted.binary_search(number).is_ok();
                match verdict {
                    Verdict::Outcome(Outcome::Posted { .. }) | Verdict::Repeated => prop_assert!(taken),
                    // With one session, all are taken in the end.
                    Verdict::Unknown => prop_assert!(taken || others),
                    verdict => prop_assert!(false, "{:?}", verdict),
                }
            }
        }
    }
}
