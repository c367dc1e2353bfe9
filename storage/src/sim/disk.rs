//! A disk that loses what was not synced.
//!
//! It holds what survives a loss of power, the batches that were written since and are not synced, in
//! their order, and the one that is being written. A write-ahead log is sequential, so a loss of power
//! takes a suffix of those batches and nothing else; a killed process loses at most the last of them.

use std::collections::BTreeMap;
use std::collections::btree_map;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::engine::{Batch, Change};
use crate::sim::{DurableGroup, random};
use crate::step::Family;
use crate::types::GroupId;

/// The three families.
#[derive(Debug, Clone, Default)]
pub(crate) struct Maps([BTreeMap<Bytes, Bytes>; 3]);

impl Maps {
    pub fn family(&self, family: Family) -> &BTreeMap<Bytes, Bytes> {
        &self.0[family as usize]
    }

    pub fn get(&self, family: Family, key: &[u8]) -> Option<Bytes> {
        self.family(family).get(key).cloned()
    }

    /// None for an empty range, which an ordered map does not take.
    pub fn range(
        &self,
        family: Family,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
    ) -> Option<btree_map::Range<'_, Bytes, Bytes>> {
        let (Bound::Included(low) | Bound::Excluded(low)) = from else {
            return Some(self.family(family).range::<[u8], _>((from, to)));
        };
        let (Bound::Included(high) | Bound::Excluded(high)) = to else {
            return Some(self.family(family).range::<[u8], _>((from, to)));
        };
        (low < high).then(|| self.family(family).range::<[u8], _>((from, to)))
    }

    fn apply(&mut self, batch: &Batch) {
        for change in &batch.changes {
            match change {
                Change::Put(family, key, value) => {
                    self.0[*family as usize].insert(key.clone(), value.clone());
                }
                Change::Delete(family, key) => {
                    self.0[*family as usize].remove(key);
                }
                Change::DeleteRange(family, from, to) => {
                    let bounds = (Bound::Included(&from[..]), Bound::Excluded(&to[..]));
                    let range = self.range(*family, bounds.0, bounds.1);
                    let keys: Vec<Bytes> = range
                        .into_iter()
                        .flatten()
                        .map(|(key, _)| key.clone())
                        .collect();
                    for key in keys {
                        self.0[*family as usize].remove(&key);
                    }
                }
            }
        }
    }
}

/// How long an fsync takes.
#[derive(Debug, Clone, Copy)]
pub struct Fsync {
    /// Most take from this, in milliseconds.
    pub usual_ms_min: u64,
    /// To this.
    pub usual_ms_max: u64,
    /// One in this many takes long; 0 for none.
    pub long_one_in: u64,
    /// How long at most, in milliseconds.
    pub long_ms_max: u64,
}

impl Default for Fsync {
    fn default() -> Self {
        Self {
            usual_ms_min: 0,
            usual_ms_max: 5,
            long_one_in: 300,
            long_ms_max: 200,
        }
    }
}

/// What a crash takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// A killed process: what it wrote is in the system's hands.
    Nothing,
    /// A loss of power: every batch that was not synced.
    Unsynced,
    /// A loss of power: as many of the last unsynced batches as the dice say.
    SomeUnsynced,
}

/// One disk; clones share it.
#[derive(Clone, Default)]
pub struct Disk(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// What a loss of power leaves.
    durable: Arc<Maps>,
    /// What a reader sees: `durable` with all of `unsynced`.
    visible: Arc<Maps>,
    unsynced: Vec<Batch>,
    /// Being written: not visible yet, and may survive a crash all the same.
    begun: Option<Batch>,
    use_number: u64,
    /// Changes ever written, those in `durable` alone and those in `visible`.
    durable_sequence: u64,
    visible_sequence: u64,
    /// The acknowledged mark. A real one may be older after a loss of power; this one is held to
    /// what it says, since it is written only after the fsync of what it counts.
    mark: Option<u64>,
    fsync: Fsync,
    /// Changes whenever `durable` does.
    version: u64,
    /// Batches that a crash took.
    lost: u64,
    /// It says "synced" and has not.
    lies: bool,
}

impl Disk {
    pub fn set_fsync(&self, fsync: Fsync) {
        self.lock().fsync = fsync;
    }

    /// From now on a sync is acknowledged without being made.
    pub fn lie(&self) {
        self.lock().lies = true;
    }

    /// The machine or the process ends; the next store that is opened finds what is left. Returns how
    /// many batches were lost.
    pub fn crash(&self, loss: Loss) -> u64 {
        let mut state = self.lock();
        state.use_number += 1;
        let mut written = std::mem::take(&mut state.unsynced);
        written.extend(state.begun.take());
        let all = written.len();
        let kept = match loss {
            Loss::Nothing => all,
            Loss::Unsynced => 0,
            Loss::SomeUnsynced => {
                let sizes = u64::try_from(all + 1).unwrap_or(u64::MAX);
                usize::try_from(random() % sizes).unwrap_or(0)
            }
        };
        written.truncate(kept);
        let lost = (all - kept) as u64;
        state.lost += lost;
        state.visible = state.durable.clone();
        let sequence: usize = written.iter().map(|batch| batch.changes.len()).sum();
        state.visible_sequence = state.durable_sequence + sequence as u64;
        if loss == Loss::Nothing {
            // Still only in the system's hands.
            for batch in &written {
                Arc::make_mut(&mut state.visible).apply(batch);
            }
            state.unsynced = written;
        } else {
            for batch in &written {
                Arc::make_mut(&mut state.durable).apply(batch);
            }
            state.visible = state.durable.clone();
            state.durable_sequence = state.visible_sequence;
        }
        state.version += 1;
        lost
    }

    /// Changes whenever what would survive a loss of power does.
    pub fn version(&self) -> u64 {
        self.lock().version
    }

    /// Batches lost in all crashes so far.
    pub fn lost(&self) -> u64 {
        self.lock().lost
    }

    /// What would survive a loss of power of one group.
    ///
    /// # Errors
    /// When a record cannot be decoded.
    pub fn durable(&self, group: GroupId) -> Result<DurableGroup, String> {
        let maps = self.lock().durable.clone();
        DurableGroup::new(maps, group)
    }

    /// What the process that has the disk reads of one group, synced or not.
    ///
    /// # Errors
    /// When a record cannot be decoded.
    pub fn held(&self, group: GroupId) -> Result<DurableGroup, String> {
        let maps = self.lock().visible.clone();
        DurableGroup::new(maps, group)
    }

    /// A store is opened. What a killed process left in the system's hands is durable from here on:
    /// RocksDB flushes to synced files whatever it replays from its log, unless told not to
    /// (`avoid_flush_during_recovery`).
    pub(crate) fn begin_use(&self) -> u64 {
        let mut state = self.lock();
        state.use_number += 1;
        state.begun = None;
        state.unsynced.clear();
        state.durable = state.visible.clone();
        state.durable_sequence = state.visible_sequence;
        state.version += 1;
        state.use_number
    }

    pub(crate) fn visible(&self) -> Arc<Maps> {
        self.lock().visible.clone()
    }

    pub(crate) fn begin_write(&self, use_number: u64, batch: Batch) {
        let mut state = self.lock();
        if state.use_number == use_number {
            state.begun = Some(batch);
        }
    }

    pub(crate) fn write(&self, use_number: u64, batch: Batch, sync: bool) -> Result<(), String> {
        let mut state = self.lock();
        if state.use_number != use_number {
            return Err("this disk is in use by a later process".into());
        }
        state.begun = None;
        Arc::make_mut(&mut state.visible).apply(&batch);
        state.visible_sequence += batch.changes.len() as u64;
        if !batch.is_empty() {
            state.unsynced.push(batch);
        }
        if sync && !state.lies && !state.unsynced.is_empty() {
            let unsynced = std::mem::take(&mut state.unsynced);
            let durable = Arc::make_mut(&mut state.durable);
            for batch in &unsynced {
                durable.apply(batch);
            }
            state.durable_sequence = state.visible_sequence;
            state.version += 1;
        }
        Ok(())
    }

    pub(crate) fn sequence(&self) -> u64 {
        self.lock().visible_sequence
    }

    pub(crate) fn mark(&self) -> Option<u64> {
        self.lock().mark
    }

    pub(crate) fn set_mark(&self, mark: u64) {
        self.lock().mark = Some(mark);
    }

    pub(crate) fn fsync_ms(&self) -> u64 {
        let fsync = self.lock().fsync;
        let is_long = fsync.long_one_in > 0 && random().is_multiple_of(fsync.long_one_in);
        if is_long {
            return random() % (fsync.long_ms_max + 1);
        }
        let span = fsync.usual_ms_max.saturating_sub(fsync.usual_ms_min);
        fsync.usual_ms_min + random() % (span + 1)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
