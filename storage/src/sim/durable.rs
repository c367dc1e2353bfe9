//! What would survive a loss of power, read as a store would read it.

use std::ops::Bound;
use std::sync::Arc;

use crate::keys;
use crate::records::{self, Meta};
use crate::sim::Maps;
use crate::step::Family;
use crate::types::{Entry, GroupId, LogId, Vote};

/// One group as it lies on a disk. Drop it soon: while it lives, the next sync copies the disk.
pub struct DurableGroup {
    maps: Arc<Maps>,
    group: GroupId,
    meta: Meta,
    /// The vote, which must never be taken back.
    pub vote: Option<Vote>,
    /// How far rows are applied.
    pub applied: Option<LogId>,
}

impl DurableGroup {
    pub(crate) fn new(maps: Arc<Maps>, group: GroupId) -> Result<Self, String> {
        let meta = maps.get(Family::Rows, &keys::meta(group));
        let vote = maps.get(Family::Rows, &keys::vote(group));
        let applied = maps.get(Family::Rows, &keys::applied(group));
        Ok(Self {
            meta: meta
                .map(|bytes| records::decode_meta(&bytes))
                .transpose()?
                .unwrap_or_default(),
            vote: vote.map(|bytes| records::decode_vote(&bytes)).transpose()?,
            applied: applied
                .map(|bytes| records::decode_mark(&bytes))
                .transpose()?,
            maps,
            group,
        })
    }

    /// Everything up to here is no longer part of the raft log.
    pub fn purged(&self) -> Option<LogId> {
        self.meta.purged
    }

    /// The last entry of the raft log, or the purge mark.
    pub fn last(&self) -> Option<LogId> {
        let generation = self.meta.layout.last_segment().generation;
        let from = keys::entry(self.group, generation, 0);
        let to = keys::generation_end(self.group, generation);
        let range = self
            .maps
            .range(Family::Log, Bound::Included(&from), Bound::Excluded(&to));
        let last = range.and_then(|mut range| range.next_back());
        let entry = last.and_then(|(key, record)| {
            let index = keys::entry_index(key)?;
            let term = records::entry_term(record).ok()?;
            Some(LogId { term, index })
        });
        entry.max(self.meta.purged)
    }

    /// The entry at `index`, purged or not.
    pub fn entry(&self, index: u64) -> Option<Entry> {
        let generation = self.meta.layout.log_generation(index)?;
        let key = keys::entry(self.group, generation, index);
        let record = self.maps.get(Family::Log, &key)?;
        records::decode_entry(index, record).ok()
    }
}
