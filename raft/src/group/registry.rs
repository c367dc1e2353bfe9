//! The groups that are awake on this node. One that sleeps has no entry here and costs nothing.
//!
//! Invariants: a group is retired only under the lock under which everybody gets hold of groups, and
//! only when nobody holds it, so nobody can be using it; a group that is asked for again while it
//! closes is a new one, whose replica is opened when the old one is gone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::sync::atomic::fence;

use accord_storage::GroupId;
use tokio::sync::watch;

use super::Group;
use crate::transport::NodeId;

/// Bits in a word of [`Ids`].
const WORD_BITS: u64 = 64;

#[derive(Default)]
pub(crate) struct Registry {
    slots: Mutex<BTreeMap<GroupId, Slot>>,
    led: Mutex<Ids>,
}

enum Slot {
    Awake(Arc<Group>),
    Closing(Closing),
}

/// Resolves when a retired group has let go of everything.
#[derive(Clone)]
pub(crate) struct Closing(watch::Receiver<()>);

impl Closing {
    pub(crate) async fn ended(mut self) {
        // Nothing is sent: the end of the sender is the sign.
        while self.0.changed().await.is_ok() {}
    }
}

/// A group that nobody can get hold of any more, and that is to be closed.
pub(crate) struct Retired {
    pub(crate) group: Arc<Group>,
    closed: watch::Sender<()>,
}

impl Registry {
    /// The group, made by `make` if it sleeps.
    pub(crate) fn get(
        &self,
        id: GroupId,
        make: impl FnOnce(Option<Closing>) -> Arc<Group>,
    ) -> Arc<Group> {
        let mut slots = self.slots();
        let before = match slots.get(&id) {
            Some(Slot::Awake(group)) => return Arc::clone(group),
            Some(Slot::Closing(closing)) => Some(closing.clone()),
            None => None,
        };
        let group = make(before);
        slots.insert(id, Slot::Awake(Arc::clone(&group)));
        group
    }

    pub(crate) fn all_awake(&self) -> Vec<Arc<Group>> {
        let slots = self.slots();
        let awake = slots.values().filter_map(|slot| match slot {
            Slot::Awake(group) => Some(Arc::clone(group)),
            Slot::Closing(_) => None,
        });
        awake.collect()
    }

    /// Looks at every group that is awake, without getting hold of any.
    pub(crate) fn survey<T>(&self, mut look: impl FnMut(&Group) -> T) -> Vec<T> {
        let slots = self.slots();
        let awake = slots.values().filter_map(|slot| match slot {
            Slot::Awake(group) => Some(look(group)),
            Slot::Closing(_) => None,
        });
        awake.collect()
    }

    /// Looks at one group, without getting hold of it.
    pub(crate) fn look<T>(&self, id: GroupId, look: impl FnOnce(&Group) -> T) -> Option<T> {
        match self.slots().get(&id) {
            Some(Slot::Awake(group)) => Some(look(group)),
            Some(Slot::Closing(_)) | None => None,
        }
    }

    /// Takes a group out if nobody holds it, nothing waits in it, and `may` agrees: one critical
    /// section, since whoever wants the group needs this lock.
    pub(crate) fn retire(&self, id: GroupId, may: impl FnOnce(&Group) -> bool) -> Option<Retired> {
        let mut slots = self.slots();
        let slot = slots.get_mut(&id)?;
        let Slot::Awake(group) = slot else {
            return None;
        };
        if Arc::strong_count(group) > 1 {
            return None;
        }
        // The count itself is read without an order: whatever those did who held it last, such as
        // putting something into it, is to be seen from here on.
        fence(Ordering::Acquire);
        if !group.is_quiet() || !may(group) {
            return None;
        }
        group.set_retired();
        let (closed, closing) = watch::channel(());
        let group = Arc::clone(group);
        *slot = Slot::Closing(Closing(closing));
        Some(Retired { group, closed })
    }

    /// Says that a retired group has let go of everything.
    pub(crate) fn closed(&self, id: GroupId, closed: watch::Sender<()>) {
        let mut slots = self.slots();
        if let Some(Slot::Closing(Closing(closing))) = slots.get(&id)
            && closing.same_channel(&closed.subscribe())
        {
            slots.remove(&id);
        }
        // The receivers hear of it by the drop.
        drop(closed);
    }

    /// Forgets all groups: the node is stopping. Those that are closing are to be waited for.
    pub(crate) fn take_all(&self) -> (Vec<Arc<Group>>, Vec<Closing>) {
        let mut awake = Vec::new();
        let mut closing = Vec::new();
        for slot in std::mem::take(&mut *self.slots()).into_values() {
            match slot {
                Slot::Awake(group) => awake.push(group),
                Slot::Closing(it) => closing.push(it),
            }
        }
        (awake, closing)
    }

    /// The group's replica was closed as its leader, with its whole log.
    pub(crate) fn note_led(&self, id: GroupId) {
        let mut led = self.led.lock().unwrap_or_else(PoisonError::into_inner);
        led.insert(id.0);
    }

    /// Whether this process closed the group's replica as its leader. True once: it is being opened.
    pub(crate) fn take_led(&self, id: GroupId) -> bool {
        let mut led = self.led.lock().unwrap_or_else(PoisonError::into_inner);
        led.remove(id.0)
    }

    fn slots(&self) -> MutexGuard<'_, BTreeMap<GroupId, Slot>> {
        // Nothing under this lock can leave it half changed.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Retired {
    /// The voters that its leader, if this node led it steadily, sent nothing to.
    pub(crate) fn left_out(&self) -> Vec<NodeId> {
        let replica = self.group.open_replica();
        replica.map_or_else(Vec::new, |replica| replica.consensus.left_out())
    }

    pub(crate) fn into_parts(self) -> (Arc<Group>, watch::Sender<()>) {
        (self.group, self.closed)
    }
}

/// A set of group ids, one bit each: ids are given in turn, so the words are full.
#[derive(Default)]
struct Ids {
    words: BTreeMap<u64, u64>,
}

impl Ids {
    fn insert(&mut self, id: u64) {
        *self.words.entry(id / WORD_BITS).or_default() |= 1 << (id % WORD_BITS);
    }

    /// Whether it was there.
    fn remove(&mut self, id: u64) -> bool {
        let Some(word) = self.words.get_mut(&(id / WORD_BITS)) else {
            return false;
        };
        let bit = 1 << (id % WORD_BITS);
        let was_there = *word & bit != 0;
        *word &= !bit;
        if *word == 0 {
            self.words.remove(&(id / WORD_BITS));
        }
        was_there
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_of_ids_gives_each_back_once() {
        let mut ids = Ids::default();
        let some = [0, 1, 63, 64, 1_000_000, u64::MAX];
        some.iter().for_each(|id| ids.insert(*id));
        assert!(!ids.remove(65) && !ids.remove(2));
        for id in some {
            assert!(ids.remove(id) && !ids.remove(id));
        }
        assert!(ids.words.is_empty());
    }
}
