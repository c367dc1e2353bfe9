//! Who may run and who waits. No I/O, no tasks.
//!
//! Invariants: at most as many attempts of an agent run as its `concurrency` says; of all that call
//! somebody outside at most [`ATTEMPTS_MAX`] on the node and [`ATTEMPTS_PER_CHANNEL_MAX`] in a
//! channel, so that one that never answers holds up neither the node nor other channels; the
//! built-in agent is held up by nobody else; at most [`WAITING_MAX`] jobs wait, and a job is in here
//! once.

use std::collections::HashMap;
use std::collections::VecDeque;

use uuid::Uuid;

/// Most attempts of a node that call somebody outside: each has a connection and a text.
const ATTEMPTS_MAX: usize = 256;
/// Most of them in one channel.
const ATTEMPTS_PER_CHANNEL_MAX: usize = 8;
/// Most jobs that wait for a slot. Those that find no place come again by themselves.
const WAITING_MAX: usize = 4_096;

/// A job's place; `J` is what is kept of it meanwhile.
#[derive(Debug)]
pub struct Slots<J> {
    /// Attempts that an agent may run, by its place among all.
    concurrency: Vec<usize>,
    /// Whether an agent asks somebody outside.
    is_outward: Vec<bool>,
    running: HashMap<Uuid, Place>,
    running_of: Vec<usize>,
    running_outward: usize,
    running_in: HashMap<Uuid, usize>,
    waiting: VecDeque<(Uuid, Place, J)>,
}

/// Where a job belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub channel: Uuid,
    /// The agent's place among all.
    pub agent: usize,
}

impl<J> Slots<J> {
    /// For agents with these bounds, and whether each asks somebody outside.
    pub fn new(agents: impl IntoIterator<Item = (usize, bool)>) -> Slots<J> {
        let (concurrency, is_outward): (Vec<usize>, Vec<bool>) = agents.into_iter().unzip();
        Slots {
            running_of: vec![0; concurrency.len()],
            concurrency,
            is_outward,
            running: HashMap::new(),
            running_outward: 0,
            running_in: HashMap::new(),
            waiting: VecDeque::new(),
        }
    }

    /// A job is due. It waits from now on, unless it is here already or there is no place.
    pub fn due(&mut self, job: Uuid, place: Place, kept: J) {
        if self.running.contains_key(&job) {
            return;
        }
        if let Some(known) = self.waiting.iter_mut().find(|(known, ..)| *known == job) {
            // What is known of it may have changed.
            known.2 = kept;
            return;
        }
        if self.waiting.len() < WAITING_MAX {
            self.waiting.push_back((job, place, kept));
        }
    }

    /// Takes out the job that has waited longest among those that may run, which runs from now on.
    pub fn next(&mut self) -> Option<(Uuid, J)> {
        let index = self
            .waiting
            .iter()
            .position(|(_, place, _)| self.admits(place))?;
        let (job, place, kept) = self.waiting.remove(index)?;
        self.running_of[place.agent] += 1;
        if self.is_outward[place.agent] {
            self.running_outward += 1;
            *self.running_in.entry(place.channel).or_insert(0) += 1;
        }
        self.running.insert(job, place);
        Some((job, kept))
    }

    /// A job does not run any more.
    pub fn ended(&mut self, job: Uuid) {
        let Some(place) = self.running.remove(&job) else {
            return;
        };
        self.running_of[place.agent] -= 1;
        if !self.is_outward[place.agent] {
            return;
        }
        self.running_outward -= 1;
        if let Some(count) = self.running_in.get_mut(&place.channel) {
            *count -= 1;
            if *count == 0 {
                self.running_in.remove(&place.channel);
            }
        }
    }

    /// A job is none of this node's business any more: it waits no longer.
    pub fn forget(&mut self, job: Uuid) {
        self.waiting.retain(|(known, ..)| *known != job);
    }

    /// How many attempts of an agent run.
    pub fn running_of(&self, agent: usize) -> usize {
        self.running_of.get(agent).copied().unwrap_or(0)
    }

    /// How many jobs wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    fn admits(&self, place: &Place) -> bool {
        if self.running_of[place.agent] >= self.concurrency[place.agent] {
            return false;
        }
        let in_channel = self.running_in.get(&place.channel).copied().unwrap_or(0);
        !self.is_outward[place.agent]
            || (self.running_outward < ATTEMPTS_MAX && in_channel < ATTEMPTS_PER_CHANNEL_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(id: usize) -> Uuid {
        Uuid::from_u128(id as u128)
    }

    fn place(channel: usize, agent: usize) -> Place {
        Place {
            channel: id(channel),
            agent,
        }
    }

    #[test]
    fn an_agent_that_hangs_holds_up_only_itself() {
        let mut slots = Slots::new([(2, true), (2, true), (1, false)]);
        for job in 0..5 {
            slots.due(id(job), place(1, 0), ());
        }
        slots.due(id(5), place(1, 1), ());
        slots.due(id(6), place(1, 2), ());
        let started: Vec<Uuid> = std::iter::from_fn(|| slots.next())
            .map(|(job, ())| job)
            .collect();
        assert_eq!(started, [id(0), id(1), id(5), id(6)]);
        assert_eq!((slots.running_of(0), slots.waiting()), (2, 3));
        slots.ended(id(1));
        assert_eq!(slots.next(), Some((id(2), ())));
        assert_eq!(slots.next(), None);
    }

    #[test]
    fn one_channel_does_not_take_all() {
        let mut slots = Slots::new([(100, true)]);
        for job in 0..20 {
            slots.due(id(job), place(job / 19, 0), ());
        }
        let started = std::iter::from_fn(|| slots.next()).count();
        assert_eq!(started, ATTEMPTS_PER_CHANNEL_MAX + 1);
    }

    #[test]
    fn a_job_is_in_here_once() {
        let mut slots = Slots::new([(1, true)]);
        slots.due(id(1), place(1, 0), "first");
        slots.due(id(1), place(1, 0), "second");
        assert_eq!(slots.next(), Some((id(1), "second")));
        slots.due(id(1), place(1, 0), "third");
        assert_eq!(slots.waiting(), 0);
        slots.due(id(2), place(1, 0), "other");
        slots.forget(id(2));
        slots.ended(id(1));
        assert_eq!(slots.next(), None);
    }

    proptest! {
        #[test]
        fn the_bounds_hold(
            steps in prop::collection::vec((0..3_u8, 0..60_usize, 0..4_usize, 0..3_usize), 0..200),
        ) {
            let concurrency = [10, 30, 2];
            let mut slots = Slots::new([(10, true), (30, true), (2, false)]);
            let mut running: HashMap<Uuid, Place> = HashMap::new();
            let mut places: HashMap<Uuid, Place> = HashMap::new();
            for (step, job, channel, agent) in steps {
                match step {
                    0 => {
                        let place = *places.entry(id(job)).or_insert(place(channel, agent));
                        slots.due(id(job), place, id(job));
                    }
                    1 => {
                        if let Some((job, kept)) = slots.next() {
                            prop_assert_eq!(job, kept);
                            prop_assert!(running.insert(job, places[&job]).is_none());
                        }
                    }
                    _ => {
                        slots.ended(id(job));
                        running.remove(&id(job));
                    }
                }
                for (agent, most) in concurrency.iter().enumerate() {
                    let count = running.values().filter(|place| place.agent == agent).count();
                    prop_assert_eq!(count, slots.running_of(agent));
                    prop_assert!(count <= *most);
                }
                for channel in 0..4 {
                    let here = running.values().filter(|place| place.channel == id(channel));
                    let outward = here.filter(|place| place.agent < 2).count();
                    prop_assert!(outward <= ATTEMPTS_PER_CHANNEL_MAX);
                }
            }
            // Nobody is left behind: once nobody runs, somebody who waits may.
            for job in running.into_keys() {
                slots.ended(job);
            }
            prop_assert!(slots.waiting() == 0 || slots.next().is_some());
        }
    }
}
