//! Which groups are open.
//!
//! Invariant: a group's memory is loaded only when every write of an earlier
//! memory of it has been written, so it can never be behind the queue. Each
//! queued write keeps its group's memory alive; a group that is opened again
//! meanwhile gets that memory back, whatever the disk says by then.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::core::Core;
use crate::error::Error;
use crate::group::{Group, Shared};
use crate::types::GroupId;

#[derive(Default)]
pub struct Registry {
    slots: Arc<Mutex<Slots>>,
}

#[derive(Default)]
struct Slots {
    by_group: BTreeMap<u64, Slot>,
    tokens: u64,
}

struct Slot {
    /// Tells this use of the slot from later ones.
    token: u64,
    state: State,
}

enum State {
    Loading,
    Open(Weak<Shared>),
    /// No handle is left, but writes may be.
    Released(Weak<Shared>),
}

/// The right to be the memory of a group. Dropped together with it.
pub struct Claim {
    id: GroupId,
    token: u64,
    slots: Arc<Mutex<Slots>>,
}

impl Registry {
    pub fn open(&self, core: &Arc<Core>, id: GroupId) -> Result<Group, Error> {
        let claim = {
            let mut slots = lock(&self.slots);
            match slots.by_group.get_mut(&id.0) {
                None => {}
                Some(slot) => match &slot.state {
                    State::Loading | State::Open(_) => return Err(Error::GroupOpen(id)),
                    State::Released(memory) => {
                        if let Some(shared) = memory.upgrade() {
                            slot.state = State::Open(Arc::downgrade(&shared));
                            return Ok(Group::new(shared));
                        }
                    }
                },
            }
            slots.tokens += 1;
            let token = slots.tokens;
            let state = State::Loading;
            slots.by_group.insert(id.0, Slot { token, state });
            Claim {
                id,
                token,
                slots: self.slots.clone(),
            }
        };
        let shared = Arc::new(Shared::load(core, claim)?);
        shared.claim.set(State::Open(Arc::downgrade(&shared)));
        Ok(Group::new(shared))
    }

    /// The last handle of `shared` is gone.
    pub fn release(&self, shared: &Arc<Shared>) {
        shared.claim.set(State::Released(Arc::downgrade(shared)));
    }

    /// The memory of a group, if it is open or has writes in the queue.
    pub fn memory(&self, id: GroupId) -> Option<Arc<Shared>> {
        match &lock(&self.slots).by_group.get(&id.0)?.state {
            State::Loading => None,
            State::Open(memory) | State::Released(memory) => memory.upgrade(),
        }
    }

    /// How many groups have a handle.
    pub fn open_count(&self) -> usize {
        lock(&self.slots)
            .by_group
            .values()
            .filter(|slot| matches!(slot.state, State::Open(_)))
            .count()
    }
}

impl Claim {
    pub fn id(&self) -> GroupId {
        self.id
    }

    fn set(&self, state: State) {
        let mut slots = lock(&self.slots);
        if let Some(slot) = slots.by_group.get_mut(&self.id.0)
            && slot.token == self.token
        {
            slot.state = state;
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut slots = lock(&self.slots);
        let is_ours = |slot: &Slot| slot.token == self.token;
        if slots.by_group.get(&self.id.0).is_some_and(is_ours) {
            slots.by_group.remove(&self.id.0);
        }
    }
}

fn lock(slots: &Mutex<Slots>) -> MutexGuard<'_, Slots> {
    // Nothing under this lock can leave it half changed.
    slots.lock().unwrap_or_else(PoisonError::into_inner)
}
