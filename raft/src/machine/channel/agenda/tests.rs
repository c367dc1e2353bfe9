//! The agenda against a simple model, and at its bounds.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::machine::batch::Batch;
use crate::machine::channel::command::{Call, Claim, Command, Deliver, Post, Reply, Schedule};
use crate::machine::channel::{Committed, committed, index_from};
use crate::machine::testing::Replicas;
use crate::machine::{Kind, Outcome, SessionId, encode_part};

const SESSION: SessionId = SessionId {
    node: 1,
    sequence: 1,
};
const CALL: Call<'_> = Call {
    agent: "ask",
    attempts_max: 3,
    is_outward: false,
};

/// A channel to which one session sends commands, with all that it was told.
struct Sender {
    replicas: Replicas,
    sent: u64,
    log: BTreeMap<u64, Bytes>,
    told: Vec<Committed>,
    cancelled: Vec<[u8; 16]>,
}

impl Sender {
    fn new() -> Self {
        Self {
            replicas: Replicas::new(Kind::Channel),
            sent: 0,
            log: BTreeMap::new(),
            told: Vec::new(),
            cancelled: Vec::new(),
        }
    }

    fn send(&mut self, now_ms: u64, commands: &[Command<'_>]) -> Vec<Outcome> {
        let part = encode_part(SESSION, self.sent + 1, commands).unwrap();
        self.sent += commands.len() as u64;
        let payload = Batch::concat(now_ms, &[part]).unwrap();
        let applied = self.replicas.apply(&payload);
        self.log.insert(self.replicas.applied(), payload);
        self.told.extend(applied.committed);
        self.cancelled.extend(applied.cancelled);
        applied.outcomes
    }

    fn one(&mut self, now_ms: u64, command: Command<'_>) -> Outcome {
        self.send(now_ms, &[command]).pop().unwrap()
    }

    fn jobs(&self) -> Vec<(u64, JobRow)> {
        jobs(self.replicas.rows(), 0, usize::MAX).unwrap()
    }

    fn scheduled(&self) -> Vec<([u8; 16], ScheduledRow)> {
        scheduled_after(self.replicas.rows(), None, usize::MAX).unwrap()
    }

    /// Everything that was told is found again from the rows and the log.
    fn check_history(&self) {
        let rows = index_from(self.replicas.rows(), 1, usize::MAX).unwrap();
        let found: Vec<_> = rows
            .iter()
            .map(|(first, row)| committed(*first, row, &self.log[&row.log_index]).unwrap())
            .collect();
        assert_eq!(found, self.told);
    }
}

fn post(id: u8, key: Option<&str>) -> Post<'_> {
    Post {
        id: [id; 16],
        username: "ada",
        body: "/ask why",
        key,
        expected_head: None,
        reply_to: None,
    }
}

fn claim(id: u8, attempt: u32, term: u64) -> Command<'static> {
    Command::Claim(Claim {
        job: [id; 16],
        attempt,
        term,
        node: 1,
    })
}

fn reply(id: u8, attempt: u32) -> Reply<'static> {
    Reply {
        job: [id; 16],
        attempt,
        id: [100; 16],
        agent: "ask",
        body: "because",
    }
}

fn schedule(id: u8, due_ms: u64, key: Option<&str>, call: bool) -> Command<'_> {
    Command::Schedule(Schedule {
        post: post(id, key),
        due_ms,
        call: call.then_some(CALL),
    })
}

fn deliver(id: u8) -> Command<'static> {
    Command::Deliver(Deliver {
        id: [id; 16],
        username: "ada",
        body: "/ask why",
        reply_to: None,
    })
}

fn posted(seq: u64, timestamp_ms: u64, id: u8) -> Outcome {
    Outcome::Posted {
        seq,
        timestamp_ms,
        id: [id; 16],
        repeated: false,
    }
}

#[test]
fn a_command_is_answered_once() {
    let mut sender = Sender::new();
    assert_eq!(
        sender.one(5, Command::Call(post(1, None), CALL)),
        posted(1, 5, 1)
    );
    let [(1, job)] = &sender.jobs()[..] else {
        panic!("one job: {:?}", sender.jobs());
    };
    assert_eq!((job.stage, job.due_ms, job.attempt), (Stage::Pending, 0, 0));

    assert_eq!(
        sender.one(6, Command::Reply(reply(1, 1))),
        Outcome::Superseded
    );
    assert_eq!(
        sender.one(6, claim(1, 2, 7)),
        Outcome::Superseded,
        "not the next"
    );
    assert_eq!(sender.one(6, claim(1, 1, 7)), Outcome::Done);
    assert_eq!(
        sender.one(6, claim(1, 2, 7)),
        Outcome::Superseded,
        "it runs"
    );
    assert_eq!(sender.one(7, claim(1, 2, 8)), Outcome::Done, "a later term");
    let late = sender.one(8, Command::Reply(reply(1, 1)));
    assert_eq!(late, Outcome::Superseded, "the deposed one is late");
    let stranger = Reply {
        agent: "other",
        ..reply(1, 2)
    };
    assert_eq!(sender.one(8, Command::Reply(stranger)), Outcome::Superseded);

    let both = [Command::Reply(reply(1, 2)), Command::Reply(reply(1, 2))];
    let outcomes = sender.send(9, &both);
    assert_eq!(outcomes, [posted(2, 9, 100), Outcome::Superseded]);
    let message = &sender.told[1].messages[0];
    assert_eq!(message.username, "ask");
    assert_eq!(message.agent.as_deref(), Some("ask"));
    assert_eq!(message.reply_to, Some([1; 16]));
    let ended = Stage::Done {
        reply: 2,
        ended_ms: 9,
    };
    assert_eq!(sender.jobs()[0].1.stage, ended);
    assert_eq!(sender.one(10, claim(1, 3, 9)), Outcome::Superseded);
    let cancel = Command::Cancel { job: [1; 16] };
    assert_eq!(sender.one(10, cancel), Outcome::Superseded);
    assert_eq!(sender.one(10, claim(2, 1, 9)), Outcome::NotFound);
    sender.check_history();
}

#[test]
fn a_job_waits_fails_or_is_cancelled() {
    let mut sender = Sender::new();
    let calls = [1, 2].map(|id| Command::Call(post(id, None), CALL));
    sender.send(5, &calls);
    sender.one(5, claim(1, 1, 1));
    let retry = |attempt| Command::Retry {
        job: [1; 16],
        attempt,
        until_ms: 50,
        reason: "it was busy",
    };
    assert_eq!(sender.one(6, retry(2)), Outcome::Superseded);
    assert_eq!(sender.one(6, retry(1)), Outcome::Done);
    assert_eq!(sender.one(6, retry(1)), Outcome::Superseded);
    let (_, waiting) = &sender.jobs()[0];
    assert_eq!((waiting.stage, waiting.due_ms), (Stage::Waiting, 50));
    assert_eq!(waiting.last_error.as_deref(), Some("it was busy"));

    sender.one(7, claim(1, 2, 1));
    let fail = Command::Fail {
        reply: reply(1, 2),
        reason: "it was rude",
    };
    assert_eq!(sender.one(8, fail), posted(3, 8, 100));
    assert_eq!(
        sender.jobs()[0].1.last_error.as_deref(),
        Some("it was rude")
    );

    let cancel = Command::Cancel { job: [2; 16] };
    for _ in 0..2 {
        assert_eq!(
            sender.one(9, cancel.clone()),
            Outcome::Done,
            "twice is once"
        );
    }
    assert_eq!(sender.cancelled, [[2; 16]]);
    assert_eq!(sender.one(9, claim(2, 1, 1)), Outcome::Superseded);
    sender.check_history();
}

#[test]
fn a_scheduled_message_comes_once_and_not_before_its_time() {
    let mut sender = Sender::new();
    let down = |repeated| Outcome::Scheduled {
        id: [1; 16],
        due_ms: 50,
        repeated,
    };
    assert_eq!(sender.one(5, schedule(1, 50, Some("k"), true)), down(false));
    assert_eq!(sender.one(5, schedule(2, 50, Some("k"), true)), down(true));
    let other = sender.one(5, schedule(2, 51, Some("k"), true));
    assert_eq!(other, Outcome::KeyReused);
    let as_post = sender.one(5, Command::Post(post(2, Some("k"))));
    assert_eq!(as_post, Outcome::KeyReused);
    assert_eq!(sender.one(49, deliver(1)), Outcome::NotDue);
    let outcomes = sender.send(50, &[deliver(1), deliver(1)]);
    assert_eq!(outcomes, [posted(1, 50, 1), Outcome::NotFound]);
    let (seq, job) = &sender.jobs()[0];
    assert_eq!(
        (*seq, job.id, job.due_ms),
        (1, [1; 16], 0),
        "it was a command"
    );
    assert_eq!(sender.one(51, schedule(2, 50, Some("k"), true)), down(true));
    assert!(sender.scheduled().is_empty());

    sender.one(52, schedule(3, 60, None, false));
    let unschedule = Command::Unschedule { id: [3; 16] };
    assert_eq!(sender.one(53, unschedule.clone()), Outcome::Done);
    assert_eq!(sender.one(53, unschedule), Outcome::NotFound);
    assert_eq!(sender.one(99, deliver(3)), Outcome::NotFound);
    sender.check_history();
}

#[test]
fn bounds() {
    let mut sender = Sender::new();
    let id = |number: usize| {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&(number as u64).to_be_bytes());
        id
    };
    let call = |number| {
        let post = Post {
            id: id(number),
            ..post(0, None)
        };
        Command::Call(post, CALL)
    };
    let calls: Vec<_> = (1..=JOBS_LIVE_MAX).map(call).collect();
    sender.send(5, &calls);
    assert_eq!(sender.one(5, call(0)), Outcome::TooManyJobs);
    sender.one(5, schedule(200, 6, None, true));
    assert_eq!(sender.one(6, deliver(200)), Outcome::TooManyJobs);
    assert_eq!(sender.scheduled().len(), 1, "it waits for room");
    for round in 0..2 {
        let number = |it| round * JOBS_LIVE_MAX + it;
        let cancel = |it| Command::Cancel {
            job: id(number(it)),
        };
        let cancels: Vec<_> = (1..=JOBS_LIVE_MAX).map(cancel).collect();
        sender.send(7, &cancels);
        let more = |it| call(number(JOBS_LIVE_MAX + it));
        let calls: Vec<_> = (1..=JOBS_LIVE_MAX).map(more).collect();
        sender.send(8, &calls);
        assert_eq!(sender.jobs().len(), JOBS_LIVE_MAX + JOBS_ENDED_MAX);
    }
    let long_after = 8 + JOBS_ENDED_AGE_MS_MAX;
    sender.one(long_after, Command::Post(post(1, None)));
    assert_eq!(
        sender.jobs().len(),
        JOBS_LIVE_MAX,
        "the old ones are forgotten"
    );

    let later = |number| {
        Command::Schedule(Schedule {
            post: Post {
                id: id(number),
                ..post(0, None)
            },
            due_ms: u64::MAX,
            call: None,
        })
    };
    let schedules: Vec<_> = (1..SCHEDULED_MAX).map(later).collect();
    sender.send(long_after, &schedules);
    let one_more = sender.one(long_after, later(0));
    assert_eq!(one_more, Outcome::TooManyScheduled);
    sender.check_history();
}

#[test]
fn those_outside_leave_some_room() {
    let mut sender = Sender::new();
    let id = |number: usize| {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&(number as u64).to_be_bytes());
        id
    };
    let call = |number, is_outward| {
        let post = Post {
            id: id(number),
            ..post(0, None)
        };
        Command::Call(post, Call { is_outward, ..CALL })
    };
    let calls: Vec<_> = (1..=JOBS_OUTWARD_MAX).map(|it| call(it, true)).collect();
    sender.send(5, &calls);
    assert_eq!(sender.one(5, call(999, true)), Outcome::TooManyJobs);
    let later = |first: u8, is_outward| {
        let call = Some(Call { is_outward, ..CALL });
        let post = post(first, None);
        Command::Schedule(Schedule {
            post,
            due_ms: 6,
            call,
        })
    };
    sender.send(5, &[later(200, true), later(201, false)]);
    assert_eq!(sender.one(6, deliver(200)), Outcome::TooManyJobs);
    let told = sender.told.len();
    sender.one(6, deliver(201));
    assert_eq!(sender.told.len(), told + 1, "it had room");

    let rest = JOBS_OUTWARD_MAX + 1..JOBS_LIVE_MAX;
    let calls: Vec<_> = rest.map(|it| call(it, false)).collect();
    sender.send(7, &calls);
    assert_eq!(sender.jobs().len(), JOBS_LIVE_MAX);
    assert_eq!(sender.one(7, call(998, false)), Outcome::TooManyJobs);
    // Two that end make room for one of those who need little.
    for number in [1, 2] {
        let job = id(number);
        sender.one(8, Command::Cancel { job });
    }
    assert_eq!(sender.one(8, call(997, true)), Outcome::TooManyJobs);
    let told = sender.told.len();
    sender.one(8, call(996, false));
    assert_eq!(sender.told.len(), told + 1);
    sender.check_history();
}

#[test]
fn a_channel_without_an_agenda_has_the_rows_that_it_always_had() {
    let mut sender = Sender::new();
    sender.one(5, schedule(1, 6, None, true));
    sender.one(6, deliver(1));
    sender.one(6, Command::Cancel { job: [1; 16] });
    sender.one(7 + JOBS_ENDED_AGE_MS_MAX, Command::Post(post(2, None)));
    assert_eq!(sender.replicas.rows().state.len(), 2, "head and session");
    assert_eq!(
        sender.replicas.rows().state[&vec![1]][0],
        1,
        "of the first version"
    );
}

/// One command of a random history, about things that are few.
#[derive(Debug, Clone)]
enum Step {
    Post,
    Call {
        id: u8,
        keyed: bool,
    },
    Schedule {
        id: u8,
        in_ms: u64,
        call: bool,
        keyed: bool,
    },
    Deliver {
        id: u8,
    },
    Unschedule {
        id: u8,
    },
    Claim {
        id: u8,
        attempt: u32,
        term: u64,
    },
    Reply {
        id: u8,
        attempt: u32,
    },
    Retry {
        id: u8,
        attempt: u32,
        until_ms: u64,
    },
    Fail {
        id: u8,
        attempt: u32,
    },
    Cancel {
        id: u8,
    },
    Join,
}

fn step() -> impl Strategy<Value = Step> {
    let id = || 0..4_u8;
    let attempt = || 0..4_u32;
    prop_oneof![
        Just(Step::Post),
        (id(), any::<bool>()).prop_map(|(id, keyed)| Step::Call { id, keyed }),
        (id(), 0..20_u64, any::<bool>(), any::<bool>()).prop_map(|(id, in_ms, call, keyed)| {
            Step::Schedule {
                id,
                in_ms,
                call,
                keyed,
            }
        }),
        id().prop_map(|id| Step::Deliver { id }),
        id().prop_map(|id| Step::Unschedule { id }),
        (id(), attempt(), 1..4_u64).prop_map(|(id, attempt, term)| Step::Claim {
            id,
            attempt,
            term
        }),
        (id(), attempt(), 1..4_u64).prop_map(|(id, attempt, term)| Step::Claim {
            id,
            attempt,
            term
        }),
        (id(), attempt()).prop_map(|(id, attempt)| Step::Reply { id, attempt }),
        (id(), attempt(), 0..200_u64).prop_map(|(id, attempt, until_ms)| Step::Retry {
            id,
            attempt,
            until_ms
        }),
        (id(), attempt()).prop_map(|(id, attempt)| Step::Fail { id, attempt }),
        id().prop_map(|id| Step::Cancel { id }),
        Just(Step::Join),
    ]
}

/// Jobs and scheduled messages as one would write them down without thinking of rows. Things are called
/// by the first byte of their ids.
#[derive(Default)]
struct Model {
    head: u64,
    clock_ms: u64,
    /// The first posts and the first schedules under each key, and what they were answered.
    keys: BTreeMap<String, (bool, u64, Outcome)>,
    jobs: BTreeMap<u8, ModelJob>,
    scheduled: BTreeMap<u8, (u64, bool)>,
}

#[derive(Debug, Clone, PartialEq)]
struct ModelJob {
    seq: u64,
    attempt: u32,
    due_ms: u64,
    state: ModelState,
    replies: u32,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum ModelState {
    Free,
    Running(u64),
    Over,
    Cancelled,
}

impl Model {
    fn posted(&mut self, id: u8) -> Outcome {
        self.head += 1;
        posted(self.head, self.clock_ms, id)
    }

    fn begin(&mut self, id: u8) {
        let job = ModelJob {
            seq: self.head,
            attempt: 0,
            due_ms: 0,
            state: ModelState::Free,
            replies: 0,
        };
        self.jobs.entry(id).or_insert(job);
    }

    /// A key is used for the same thing again, or for another; the id is no part of that.
    fn keyed(&self, key: &str, scheduled: bool, due_ms: u64) -> Option<Outcome> {
        let (was_scheduled, was_due_ms, outcome) = self.keys.get(key)?;
        if (*was_scheduled, *was_due_ms) != (scheduled, due_ms) {
            return Some(Outcome::KeyReused);
        }
        Some(match outcome.clone() {
            Outcome::Posted {
                seq,
                timestamp_ms,
                id,
                ..
            } => Outcome::Posted {
                seq,
                timestamp_ms,
                id,
                repeated: true,
            },
            Outcome::Scheduled { id, due_ms, .. } => Outcome::Scheduled {
                id,
                due_ms,
                repeated: true,
            },
            other => other,
        })
    }

    fn ends(&mut self, id: u8, attempt: u32, state: ModelState) -> Option<Outcome> {
        let Some(job) = self.jobs.get_mut(&id) else {
            return Some(Outcome::NotFound);
        };
        if job.attempt != attempt || !matches!(job.state, ModelState::Running(_)) {
            return Some(Outcome::Superseded);
        }
        job.state = state;
        job.replies += u32::from(state == ModelState::Over);
        None
    }

    fn decide(&mut self, step: &Step) -> Outcome {
        match *step {
            Step::Post => self.posted(90),
            Step::Call { id, keyed } => {
                if keyed && let Some(outcome) = self.keyed("k", false, 0) {
                    return outcome;
                }
                let outcome = self.posted(id);
                if keyed {
                    self.keys
                        .insert("k".to_owned(), (false, 0, outcome.clone()));
                }
                self.begin(id);
                outcome
            }
            Step::Schedule {
                id,
                in_ms,
                call,
                keyed,
            } => {
                let due_ms = in_ms * 10;
                if keyed && let Some(outcome) = self.keyed("k", true, due_ms) {
                    return outcome;
                }
                let known = self.scheduled.get(&id).copied();
                let outcome = Outcome::Scheduled {
                    id: [id; 16],
                    due_ms: known.map_or(due_ms, |(due_ms, _)| due_ms),
                    repeated: known.is_some(),
                };
                self.scheduled.entry(id).or_insert((due_ms, call));
                if keyed {
                    let answer = Outcome::Scheduled {
                        id: [id; 16],
                        due_ms,
                        repeated: false,
                    };
                    self.keys.insert("k".to_owned(), (true, due_ms, answer));
                }
                outcome
            }
            Step::Deliver { id } => match self.scheduled.get(&id).copied() {
                None => Outcome::NotFound,
                Some((due_ms, _)) if due_ms > self.clock_ms => Outcome::NotDue,
                Some((_, call)) => {
                    self.scheduled.remove(&id);
                    let outcome = self.posted(id);
                    if call {
                        self.begin(id);
                    }
                    outcome
                }
            },
            Step::Unschedule { id } => match self.scheduled.remove(&id) {
                Some(_) => Outcome::Done,
                None => Outcome::NotFound,
            },
            Step::Claim { id, attempt, term } => {
                let Some(job) = self.jobs.get_mut(&id) else {
                    return Outcome::NotFound;
                };
                let free = match job.state {
                    ModelState::Free => true,
                    ModelState::Running(before) => term > before,
                    ModelState::Over | ModelState::Cancelled => false,
                };
                if !free || attempt != job.attempt + 1 {
                    return Outcome::Superseded;
                }
                job.state = ModelState::Running(term);
                (job.attempt, job.due_ms) = (attempt, 0);
                Outcome::Done
            }
            Step::Reply { id, attempt } | Step::Fail { id, attempt } => {
                match self.ends(id, attempt, ModelState::Over) {
                    Some(refusal) => refusal,
                    None => self.posted(100),
                }
            }
            Step::Retry {
                id,
                attempt,
                until_ms,
            } => {
                if let Some(refusal) = self.ends(id, attempt, ModelState::Free) {
                    return refusal;
                }
                if let Some(job) = self.jobs.get_mut(&id) {
                    job.due_ms = until_ms;
                }
                Outcome::Done
            }
            Step::Cancel { id } => match self.jobs.get_mut(&id) {
                None => Outcome::NotFound,
                Some(job) if job.state == ModelState::Over => Outcome::Superseded,
                Some(job) => {
                    job.state = ModelState::Cancelled;
                    Outcome::Done
                }
            },
            Step::Join => Outcome::Done,
        }
    }

    fn next_job(&self) -> Option<u64> {
        let is_live =
            |job: &&ModelJob| matches!(job.state, ModelState::Free | ModelState::Running(_));
        let jobs = self.jobs.values().filter(is_live);
        jobs.map(|job| job.due_ms).min()
    }

    fn next_due(&self) -> Option<u64> {
        let jobs = self.next_job().into_iter();
        jobs.chain(self.scheduled.values().map(|(due_ms, _)| *due_ms))
            .min()
    }
}

fn command(step: &Step) -> Option<Command<'static>> {
    let key = |keyed: bool| keyed.then_some("k");
    Some(match *step {
        Step::Post => Command::Post(post(90, None)),
        Step::Call { id, keyed } => Command::Call(post(id, key(keyed)), CALL),
        Step::Schedule {
            id,
            in_ms,
            call,
            keyed,
        } => schedule(id, in_ms * 10, key(keyed), call),
        Step::Deliver { id } => deliver(id),
        Step::Unschedule { id } => Command::Unschedule { id: [id; 16] },
        Step::Claim { id, attempt, term } => claim(id, attempt, term),
        Step::Reply { id, attempt } => Command::Reply(reply(id, attempt)),
        Step::Retry {
            id,
            attempt,
            until_ms,
        } => Command::Retry {
            job: [id; 16],
            attempt,
            until_ms,
            reason: "r",
        },
        Step::Fail { id, attempt } => Command::Fail {
            reply: reply(id, attempt),
            reason: "r",
        },
        Step::Cancel { id } => Command::Cancel { job: [id; 16] },
        Step::Join => return None,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Claims, settlements, cancellations and deliveries in any order and batches: replicas that live
    /// differently agree with each other and with the model, no job has two replies, no reply is
    /// without a job, and every message is found again as it was committed.
    #[test]
    fn like_the_model(batches in proptest::collection::vec(
        (0..200_u64, proptest::collection::vec(step(), 1..6)), 1..25)
    ) {
        let mut sender = Sender::new();
        let mut model = Model::default();
        for (now_ms, steps) in batches {
            if steps.iter().any(|step| matches!(step, Step::Join)) {
                sender.replicas.join();
            }
            let steps: Vec<_> = steps.iter().filter(|step| !matches!(step, Step::Join)).collect();
            let commands: Vec<_> = steps.iter().filter_map(|step| command(step)).collect();
            if commands.is_empty() {
                continue;
            }
            model.clock_ms = model.clock_ms.max(now_ms);
            let expected: Vec<_> = steps.iter().map(|step| model.decide(step)).collect();
            prop_assert_eq!(sender.send(now_ms, &commands), expected);
            let outlook = sender.replicas.outlook();
            prop_assert_eq!(outlook.due_ms, model.next_due());
            prop_assert_eq!(outlook.jobs_due_ms, model.next_job());
            let runs = |job: &ModelJob| matches!(job.state, ModelState::Running(_));
            prop_assert_eq!(outlook.runs, model.jobs.values().any(runs));
        }
        sender.replicas.catch_up();
        sender.check_history();
        let messages: Vec<_> = sender.told.iter().flat_map(|batch| &batch.messages).collect();
        let jobs: BTreeMap<_, _> = sender.jobs().into_iter().map(|(seq, row)| (row.id[0], (seq, row))).collect();
        for (id, job) in &model.jobs {
            let (seq, row) = &jobs[id];
            prop_assert_eq!((*seq, row.attempt), (job.seq, job.attempt));
            let replies = messages.iter().filter(|message| {
                message.agent.is_some() && message.reply_to == Some([*id; 16])
            });
            prop_assert_eq!(replies.count(), job.replies as usize);
            prop_assert!(job.replies <= 1);
        }
        prop_assert_eq!(jobs.len(), model.jobs.len());
        let replies = messages.iter().filter(|message| message.agent.is_some());
        prop_assert!(replies.clone().all(|reply| model.jobs.contains_key(&reply.reply_to.unwrap()[0])));
        let scheduled: Vec<_> = sender.scheduled().into_iter().map(|(id, row)| (row.due_ms, id[0])).collect();
        let mut expected: Vec<_> = model.scheduled.iter().map(|(id, (due_ms, _))| (*due_ms, *id)).collect();
        expected.sort_unstable();
        prop_assert_eq!(scheduled, expected);
    }
}
