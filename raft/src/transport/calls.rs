//! The calls of one connection that wait for an answer, and their deadlines.
//!
//! A slab: an id is a place and the number of times that the place was used before, so that a late
//! answer to a call that has ended finds nobody. Deadlines cost a call nothing but the note: the
//! slab keeps a lower bound of the earliest one and is searched only when that has passed, at most
//! once per [`DEADLINE_GRAIN`]. Pure: time is an argument.

use std::time::Duration;

use tokio::time::Instant;

/// Most calls that wait for answers on one connection; the callee's queues are bounded by it too.
pub const CALLS_MAX: usize = 65_536;
/// A call ends at most this much after its deadline, if the machine keeps up.
pub(super) const DEADLINE_GRAIN: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub(super) struct Calls<W> {
    slots: Vec<Slot<W>>,
    free: Vec<u32>,
    /// No live call's deadline is before this; `None` if there are no live calls.
    earliest: Option<Instant>,
    searched_at: Option<Instant>,
}

#[derive(Debug)]
struct Slot<W> {
    uses: u32,
    live: Option<(W, Instant)>,
}

impl<W> Calls<W> {
    pub(super) const fn new() -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            earliest: None,
            searched_at: None,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// The new call's id, or the waiter back if there are too many.
    pub(super) fn insert(&mut self, waiter: W, deadline: Instant) -> Result<u64, W> {
        let place = match self.free.pop() {
            Some(place) => place,
            None if self.slots.len() == CALLS_MAX => return Err(waiter),
            None => {
                self.slots.push(Slot {
                    uses: 0,
                    live: None,
                });
                u32::try_from(self.slots.len() - 1).expect("fewer than CALLS_MAX")
            }
        };
        let slot = &mut self.slots[place as usize];
        slot.live = Some((waiter, deadline));
        self.earliest = Some(
            self.earliest
                .map_or(deadline, |earliest| earliest.min(deadline)),
        );
        Ok(u64::from(slot.uses) << 32 | u64::from(place))
    }

    pub(super) fn remove(&mut self, id: u64) -> Option<W> {
        let place = u32::try_from(id & u64::from(u32::MAX)).expect("masked");
        let slot = self.slots.get_mut(place as usize)?;
        if u64::from(slot.uses) != id >> 32 {
            return None;
        }
        let (waiter, _) = slot.live.take()?;
        slot.uses = slot.uses.wrapping_add(1);
        self.free.push(place);
        if self.len() == 0 {
            self.earliest = None;
        }
        Some(waiter)
    }

    /// When to call [`Calls::expire`]; never too late, sometimes for nothing.
    pub(super) fn due(&self) -> Option<Instant> {
        let soonest = self.searched_at.map(|at| at + DEADLINE_GRAIN);
        self.earliest
            .map(|earliest| soonest.map_or(earliest, |soonest| earliest.max(soonest)))
    }

    /// Removes the calls whose deadline has passed.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<W> {
        if self.due().is_none_or(|due| due > now) {
            return Vec::new();
        }
        let places = self.slots.iter().zip(0_u32..);
        let late = |slot: &Slot<W>| {
            slot.live
                .as_ref()
                .is_some_and(|(_, deadline)| *deadline <= now)
        };
        let late: Vec<u64> = places
            .filter(|(slot, _)| late(slot))
            .map(|(slot, place)| u64::from(slot.uses) << 32 | u64::from(place))
            .collect();
        let expired = late.into_iter().filter_map(|id| self.remove(id)).collect();
        let deadlines = self.slots.iter().filter_map(|slot| slot.live.as_ref());
        self.earliest = deadlines.map(|(_, deadline)| *deadline).min();
        self.searched_at = Some(now);
        expired
    }

    /// Removes all calls.
    pub(super) fn drain(&mut self) -> Vec<W> {
        let slots = std::mem::take(self).slots;
        slots
            .into_iter()
            .filter_map(|slot| slot.live)
            .map(|(waiter, _)| waiter)
            .collect()
    }
}

impl<W> Default for Calls<W> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Step {
        Insert { deadline_ms: u64 },
        Answer(prop::sample::Index),
        Wait { ms: u64 },
    }

    fn any_step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0_u64..500).prop_map(|deadline_ms| Step::Insert { deadline_ms }),
            any::<prop::sample::Index>().prop_map(Step::Answer),
            (0_u64..100).prop_map(|ms| Step::Wait { ms }),
        ]
    }

    proptest! {
        /// Against a map that is searched at every step.
        #[test]
        fn every_call_ends_once_and_in_time(steps in prop::collection::vec(any_step(), 0..200)) {
            let mut now = Instant::now();
            let (mut calls, mut model, mut ids) = (Calls::new(), BTreeMap::new(), Vec::new());
            for (name, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Insert { deadline_ms } => {
                        let deadline = now + Duration::from_millis(deadline_ms);
                        let id = calls.insert(name, deadline).unwrap();
                        prop_assert!(!ids.iter().any(|(other, _)| *other == id), "ids are not used again");
                        ids.push((id, name));
                        model.insert(name, deadline);
                    }
                    // Also answers that come twice, or after the deadline.
                    Step::Answer(which) if !ids.is_empty() => {
                        let (id, name) = ids[which.index(ids.len())];
                        let expected = model.remove(&name).map(|_| name);
                        prop_assert_eq!(calls.remove(id), expected);
                    }
                    Step::Answer(_) => {}
                    Step::Wait { ms } => {
                        now += Duration::from_millis(ms);
                        if calls.due().is_some_and(|due| due <= now) {
                            for name in calls.expire(now) {
                                let deadline = model.remove(&name);
                                prop_assert!(deadline.is_some_and(|deadline| deadline <= now));
                            }
                        }
                    }
                }
                prop_assert_eq!(calls.len(), model.len());
                prop_assert_eq!(calls.due().is_some(), !model.is_empty());
                if let Some((due, earliest)) = calls.due().zip(model.values().min()) {
                    prop_assert!(due <= (*earliest).max(now) + DEADLINE_GRAIN);
                }
            }
            let mut left = calls.drain();
            left.sort_unstable();
            prop_assert_eq!(left, model.into_keys().collect::<Vec<_>>());
        }

        #[test]
        fn foreign_ids_find_nobody(id in any::<u64>()) {
            let mut calls = Calls::new();
            let known = calls.insert((), Instant::now()).unwrap();
            prop_assert_eq!(calls.remove(id).is_some(), id == known);
        }
    }

    #[test]
    fn the_bound_holds() {
        let mut calls = Calls::new();
        let now = Instant::now();
        for _ in 0..CALLS_MAX {
            calls.insert((), now).unwrap();
        }
        assert!(calls.insert((), now).is_err());
        calls.remove(5).unwrap();
        assert!(calls.insert((), now).is_ok());
    }
}
