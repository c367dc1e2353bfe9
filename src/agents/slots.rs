//! Who may run and who waits. No I/O, no tasks.
//!
//! Each agent has a queue of its own, in which channels take turns: one that never answers holds up
//! neither other agents nor, since a channel has at most half of its slots, other channels.
//!
//! Invariants: at most as many attempts of an agent run as its `concurrency` says, of those at most
//! half, rounded up, and [`ATTEMPTS_PER_CHANNEL_MAX`] in a channel; of all that call somebody outside
//! at most [`ATTEMPTS_MAX`] on the node, which holds up no agent that does not; at most
//! [`WAITING_MAX`] jobs of an agent wait; a job runs once at a time, and waits once.

use std::collections::HashMap;
use std::collections::VecDeque;

use uuid::Uuid;

/// Most attempts of a node that call somebody outside: each has a connection and a text.
const ATTEMPTS_MAX: usize = 256;
/// Most attempts of an agent in one channel.
const ATTEMPTS_PER_CHANNEL_MAX: usize = 8;
/// Most jobs of an agent that wait for a slot: as many as sixteen full channels have. Others are
/// refused, and offered again.
const WAITING_MAX: usize = 4_096;

/// A job's place; `J` is what is kept of it meanwhile.
#[derive(Debug)]
pub struct Slots<J> {
    queues: Vec<Queue<J>>,
    /// Which queue is looked at first, so that none is always the last one.
    turn: usize,
    running: HashMap<Uuid, Running<J>>,
    running_outward: usize,
    /// All jobs that wait.
    waiting: HashMap<Uuid, Place>,
}

/// Where a job belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub channel: Uuid,
    /// The agent's place among all.
    pub agent: usize,
}

/// What an agent may do, and who waits for it.
#[derive(Debug)]
struct Queue<J> {
    /// Attempts that may run.
    concurrency: usize,
    /// Whether the agent asks somebody outside.
    is_outward: bool,
    running: usize,
    running_in: HashMap<Uuid, usize>,
    waiting: HashMap<Uuid, VecDeque<Waiting<J>>>,
    /// The channels in which somebody waits, in the order of their turns.
    turns: VecDeque<Uuid>,
    waiting_count: usize,
}

#[derive(Debug)]
struct Waiting<J> {
    job: Uuid,
    attempt: u32,
    kept: J,
}

#[derive(Debug)]
struct Running<J> {
    place: Place,
    /// The attempt that it is about. Zero once it is given up: whatever comes is newer then.
    attempt: u32,
    /// What is to be done when this has ended.
    then: Option<(u32, J)>,
}

impl<J> Slots<J> {
    /// For agents with these bounds, and whether each asks somebody outside.
    pub fn new(agents: impl IntoIterator<Item = (usize, bool)>) -> Slots<J> {
        let queues = agents.into_iter().map(|(concurrency, is_outward)| Queue {
            concurrency,
            is_outward,
            running: 0,
            running_in: HashMap::new(),
            waiting: HashMap::new(),
            turns: VecDeque::new(),
            waiting_count: 0,
        });
        Slots {
            queues: queues.collect(),
            turn: 0,
            running: HashMap::new(),
            running_outward: 0,
            waiting: HashMap::new(),
        }
    }

    /// A job is due, for this attempt. It waits from now on, unless the attempt runs already; one that
    /// runs for an earlier attempt waits for its end. False if there is no place for it.
    pub fn due(&mut self, job: Uuid, place: Place, attempt: u32, kept: J) -> bool {
        if let Some(running) = self.running.get_mut(&job) {
            if attempt > running.attempt {
                running.then = Some((attempt, kept));
            }
            return true;
        }
        let waiting = Waiting { job, attempt, kept };
        let queue = &mut self.queues[place.agent];
        if self.waiting.contains_key(&job) {
            // What is known of it may have changed.
            queue.replace(place.channel, waiting);
            return true;
        }
        if queue.waiting_count >= WAITING_MAX {
            return false;
        }
        self.waiting.insert(job, place);
        queue.push(place.channel, waiting);
        true
    }

    /// Takes out a job that may run, which runs from now on: of each agent the oldest one of the
    /// channel whose turn it is.
    pub fn next(&mut self) -> Option<(Uuid, J)> {
        let count = self.queues.len();
        let outward_may = self.running_outward < ATTEMPTS_MAX;
        for step in 0..count {
            let agent = (self.turn + step) % count;
            let queue = &mut self.queues[agent];
            if queue.is_outward && !outward_may {
                continue;
            }
            if let Some((channel, waiting)) = queue.next() {
                self.turn = agent + 1;
                self.running_outward += usize::from(queue.is_outward);
                let Waiting { job, attempt, kept } = waiting;
                self.waiting.remove(&job);
                let running = Running {
                    place: Place { channel, agent },
                    attempt,
                    then: None,
                };
                self.running.insert(job, running);
                return Some((job, kept));
            }
        }
        None
    }

    /// A job does not run any more. If it became due meanwhile it waits from now on.
    pub fn ended(&mut self, job: Uuid) {
        let Some(running) = self.running.remove(&job) else {
            return;
        };
        let Running { place, then, .. } = running;
        let queue = &mut self.queues[place.agent];
        queue.ended(place.channel);
        self.running_outward -= usize::from(queue.is_outward);
        if let Some((attempt, kept)) = then {
            self.due(job, place, attempt, kept);
        }
    }

    /// A job is none of this node's business any more: it waits no longer, and if it runs it is given up.
    pub fn forget(&mut self, job: Uuid) {
        if let Some(running) = self.running.get_mut(&job) {
            (running.attempt, running.then) = (0, None);
        }
        if let Some(place) = self.waiting.remove(&job) {
            self.queues[place.agent].remove(place.channel, job);
        }
    }

    /// How many attempts of an agent run.
    pub fn running_of(&self, agent: usize) -> usize {
        self.queues.get(agent).map_or(0, |queue| queue.running)
    }

    /// How many jobs wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }
}

impl<J> Queue<J> {
    fn push(&mut self, channel: Uuid, waiting: Waiting<J>) {
        let jobs = self.waiting.entry(channel).or_default();
        if jobs.is_empty() {
            self.turns.push_back(channel);
        }
        jobs.push_back(waiting);
        self.waiting_count += 1;
    }

    fn replace(&mut self, channel: Uuid, waiting: Waiting<J>) {
        let jobs = self.waiting.get_mut(&channel);
        let known = jobs.and_then(|jobs| jobs.iter_mut().find(|known| known.job == waiting.job));
        if let Some(known) = known {
            *known = waiting;
        }
    }

    /// The next one, with its channel, which has its next turn after all others that wait.
    fn next(&mut self) -> Option<(Uuid, Waiting<J>)> {
        if self.running >= self.concurrency {
            return None;
        }
        let most = self.per_channel_max();
        let runs_in = |channel: &Uuid| self.running_in.get(channel).copied().unwrap_or(0);
        // Channels that have all that they may are passed over and keep their turn; since each has
        // something running they are no more than the agent's concurrency.
        let index = self
            .turns
            .iter()
            .position(|channel| runs_in(channel) < most)?;
        let channel = self.turns.remove(index)?;
        let jobs = self.waiting.get_mut(&channel)?;
        let waiting = jobs.pop_front()?;
        match jobs.is_empty() {
            true => drop(self.waiting.remove(&channel)),
            false => self.turns.push_back(channel),
        }
        self.waiting_count -= 1;
        self.running += 1;
        *self.running_in.entry(channel).or_insert(0) += 1;
        Some((channel, waiting))
    }

    fn ended(&mut self, channel: Uuid) {
        self.running -= 1;
        if let Some(count) = self.running_in.get_mut(&channel) {
            *count -= 1;
            if *count == 0 {
                self.running_in.remove(&channel);
            }
        }
    }

    fn remove(&mut self, channel: Uuid, job: Uuid) {
        let Some(jobs) = self.waiting.get_mut(&channel) else {
            return;
        };
        let before = jobs.len();
        jobs.retain(|known| known.job != job);
        self.waiting_count -= before - jobs.len();
        if jobs.is_empty() {
            self.waiting.remove(&channel);
            self.turns.retain(|turn| *turn != channel);
        }
    }

    /// Half of the slots: the other half is for the other channels, if there is more than one slot.
    fn per_channel_max(&self) -> usize {
        self.concurrency.div_ceil(2).min(ATTEMPTS_PER_CHANNEL_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn id(id: usize) -> Uuid {
        Uuid::from_u128(id as u128)
    }

    fn place(channel: usize, agent: usize) -> Place {
        Place {
            channel: id(channel),
            agent,
        }
    }

    /// All that may start now.
    fn started<J>(slots: &mut Slots<J>) -> Vec<Uuid> {
        std::iter::from_fn(|| slots.next())
            .map(|(job, _)| job)
            .collect()
    }

    #[test]
    fn an_agent_that_hangs_holds_up_only_itself() {
        let mut slots = Slots::new([(4, true), (2, true), (1, false)]);
        for job in 0..5 {
            assert!(slots.due(id(job), place(1, 0), 1, ()));
        }
        slots.due(id(5), place(1, 1), 1, ());
        slots.due(id(6), place(1, 2), 1, ());
        let all = started(&mut slots);
        assert_eq!(all, [id(0), id(5), id(6), id(1)]);
        assert_eq!((slots.running_of(0), slots.waiting()), (2, 3));
        slots.ended(id(1));
        assert_eq!(slots.next(), Some((id(2), ())));
        assert_eq!(slots.next(), None);
    }

    #[test]
    fn a_queue_that_is_full_is_that_of_one_agent() {
        let mut slots = Slots::new([(1, true), (1, false)]);
        for job in 0..WAITING_MAX {
            assert!(slots.due(id(job), place(job / 200, 0), 1, ()));
        }
        let more = id(WAITING_MAX);
        assert!(!slots.due(more, place(0, 0), 1, ()), "there is no place");
        assert!(slots.due(id(7), place(0, 0), 1, ()), "it has one");
        assert!(slots.due(more, place(0, 1), 1, ()));
        assert_eq!(started(&mut slots), [id(0), more]);
    }

    #[test]
    fn one_channel_does_not_take_all() {
        let mut slots = Slots::new([(100, true), (5, false), (1, true)]);
        for job in 0..20 {
            slots.due(id(job), place(job / 19, 0), 1, ());
            slots.due(id(100 + job), place(job / 19, 1), 1, ());
            slots.due(id(200 + job), place(job / 19, 2), 1, ());
        }
        started(&mut slots);
        let running = [0, 1, 2].map(|agent| slots.running_of(agent));
        assert_eq!(running, [ATTEMPTS_PER_CHANNEL_MAX + 1, 3 + 1, 1]);
    }

    #[test]
    fn channels_take_turns() {
        let mut slots = Slots::new([(2, true)]);
        for job in 0..3 {
            slots.due(id(job), place(1, 0), 1, ());
        }
        slots.due(id(3), place(2, 0), 1, ());
        assert_eq!(started(&mut slots), [id(0), id(3)]);
        slots.due(id(4), place(3, 0), 1, ());
        // It was the first one's turn before the third came, but its half is taken.
        slots.ended(id(3));
        assert_eq!(started(&mut slots), [id(4)]);
        slots.ended(id(0));
        assert_eq!(started(&mut slots), [id(1)]);
    }

    #[test]
    fn a_job_is_in_here_once() {
        let mut slots = Slots::new([(1, true)]);
        slots.due(id(1), place(1, 0), 1, "first");
        slots.due(id(1), place(1, 0), 1, "second");
        assert_eq!(slots.next(), Some((id(1), "second")));
        slots.due(id(1), place(1, 0), 1, "third");
        assert_eq!(slots.waiting(), 0);
        slots.due(id(2), place(1, 0), 1, "other");
        slots.forget(id(2));
        slots.ended(id(1));
        assert_eq!(slots.next(), None);
    }

    #[test]
    fn what_is_due_again_before_it_has_ended_is_not_forgotten() {
        let mut slots = Slots::new([(1, true)]);
        slots.due(id(1), place(1, 0), 3, "the third");
        assert_eq!(slots.next(), Some((id(1), "the third")));
        assert!(slots.due(id(1), place(1, 0), 2, "from a look before it"));
        assert!(slots.due(id(1), place(1, 0), 4, "the fourth"));
        assert_eq!(slots.next(), None, "it runs");
        slots.ended(id(1));
        assert_eq!(slots.next(), Some((id(1), "the fourth")));
        // Given up, which takes a moment; meanwhile the leader is this node again.
        slots.forget(id(1));
        slots.due(id(1), place(1, 0), 4, "the fourth was left");
        slots.ended(id(1));
        assert_eq!(slots.next(), Some((id(1), "the fourth was left")));
        slots.due(id(1), place(1, 0), 5, "of a job that is over soon");
        slots.forget(id(1));
        slots.ended(id(1));
        assert_eq!(slots.next(), None);
    }

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Due {
            job: usize,
            channel: usize,
            agent: usize,
            attempt: u32,
        },
        Next,
        Ended {
            job: usize,
        },
        Forget {
            job: usize,
        },
    }

    fn step() -> impl Strategy<Value = Step> {
        let due = (0..60_usize, 0..4_usize, 0..3_usize, 1..4_u32);
        let due = due.prop_map(|(job, channel, agent, attempt)| Step::Due {
            job,
            channel,
            agent,
            attempt,
        });
        prop_oneof![
            3 => due,
            3 => Just(Step::Next),
            2 => (0..60_usize).prop_map(|job| Step::Ended { job }),
            1 => (0..60_usize).prop_map(|job| Step::Forget { job }),
        ]
    }

    proptest! {
        #[test]
        fn the_bounds_hold(steps in prop::collection::vec(step(), 0..200)) {
            let concurrency = [10, 30, 3];
            let mut slots = Slots::new([(10, true), (30, true), (3, false)]);
            let mut running: HashMap<Uuid, Place> = HashMap::new();
            let mut places: HashMap<Uuid, Place> = HashMap::new();
            for step in steps {
                match step {
                    Step::Due { job, channel, agent, attempt } => {
                        let place = *places.entry(id(job)).or_insert(place(channel, agent));
                        prop_assert!(slots.due(id(job), place, attempt, id(job)));
                    }
                    Step::Next => {
                        if let Some((job, kept)) = slots.next() {
                            prop_assert_eq!(job, kept);
                            prop_assert!(running.insert(job, places[&job]).is_none());
                        }
                    }
                    Step::Ended { job } => {
                        slots.ended(id(job));
                        running.remove(&id(job));
                    }
                    Step::Forget { job } => slots.forget(id(job)),
                }
                for (agent, most) in concurrency.iter().enumerate() {
                    let of_agent = running.values().filter(|place| place.agent == agent);
                    let count = of_agent.clone().count();
                    prop_assert_eq!(count, slots.running_of(agent));
                    prop_assert!(count <= *most);
                    for channel in 0..4 {
                        let here = of_agent.clone().filter(|place| place.channel == id(channel));
                        prop_assert!(here.count() <= most.div_ceil(2).min(ATTEMPTS_PER_CHANNEL_MAX));
                    }
                }
                let waiting: usize = slots.queues.iter().map(|queue| queue.waiting_count).sum();
                prop_assert_eq!(slots.waiting(), waiting);
                for queue in &slots.queues {
                    prop_assert_eq!(queue.turns.len(), queue.waiting.len());
                    let jobs: usize = queue.waiting.values().map(VecDeque::len).sum();
                    prop_assert_eq!(jobs, queue.waiting_count);
                }
            }
            // Nobody is left behind: all that wait run in the end.
            for job in running.into_keys() {
                slots.ended(job);
            }
            while let Some((job, _)) = slots.next() {
                slots.ended(job);
            }
            prop_assert_eq!(slots.waiting(), 0);
        }

        /// What one agent is asked and how slow it is does not change what another one does.
        #[test]
        fn agents_are_nothing_to_each_other(steps in prop::collection::vec(step(), 0..150)) {
            let bounds = [(5, true), (2, true), (3, false)];
            let mut all = Slots::new(bounds);
            let mut alone = Slots::new(bounds);
            let mut running = [HashSet::new(), HashSet::new()];
            for step in steps {
                let [both, one] = &mut running;
                for (slots, running, is_alone) in [(&mut all, both, false), (&mut alone, one, true)] {
                    match step {
                        // Jobs of three agents, told apart by their numbers; the last never answers.
                        Step::Due { job, attempt, .. } if !is_alone || job % 3 != 2 => {
                            slots.due(id(job), place(job / 3 % 4, job % 3), attempt, job);
                        }
                        Step::Ended { job } if job % 3 != 2 => {
                            slots.ended(id(job));
                            running.remove(&job);
                        }
                        Step::Forget { job } => slots.forget(id(job)),
                        Step::Due { .. } | Step::Ended { .. } | Step::Next => {}
                    }
                    while let Some((_, job)) = slots.next() {
                        running.insert(job);
                    }
                }
                let of_others: HashSet<_> =
                    running[0].iter().copied().filter(|job| job % 3 != 2).collect();
                prop_assert_eq!(&of_others, &running[1]);
            }
        }

        /// Between two turns of a channel every other one that waits has one.
        #[test]
        fn no_channel_is_passed_over(counts in prop::collection::vec(1..9_usize, 1..9)) {
            let mut slots = Slots::new([(1, true)]);
            for (channel, count) in counts.iter().enumerate() {
                for job in 0..*count {
                    slots.due(id(channel * 100 + job), place(channel, 0), 1, channel);
                }
            }
            let mut left = counts.clone();
            while slots.waiting() > 0 {
                let mut round = Vec::new();
                for _ in 0..left.iter().filter(|left| **left > 0).count() {
                    let (job, channel) = slots.next().unwrap();
                    slots.ended(job);
                    left[channel] -= 1;
                    round.push(channel);
                }
                prop_assert!(round.is_sorted_by(|a, b| a < b), "{:?}", round);
            }
        }
    }
}
