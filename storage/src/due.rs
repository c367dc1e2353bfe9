//! When groups have something to do: an index over all groups of the node, in the order of time.
//!
//! A group that sleeps keeps no timer. What it has to do next is in a row of its own, [`DUE_KEY`], which
//! a snapshot carries with the others, and in this index, which is read from the front. What is to be
//! done then is not known here.
//!
//! Invariant: a group is in the index once, at the time that its row holds, or neither has one. Both
//! change with the rows that they follow from, in one batch.

use crate::engine::{Family, Step};
use crate::error::Error;
use crate::group::Group;
use crate::keys;
use crate::records;
use crate::store::Store;
use crate::types::{Done, GroupId, LogId, Table, Vote, Write};

/// The row of [`Table::State`] in which the store keeps a group's due time. Callers' own keys must differ.
pub const DUE_KEY: &[u8] = b"\0due";

/// How a group's due time changes with what is applied: Unix milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DueChange {
    /// What it was by the rows before.
    pub was: Option<u64>,
    /// What it is by the rows after.
    pub is: Option<u64>,
}

impl DueChange {
    /// The change of the group's own row.
    fn write(&self) -> Option<Write> {
        if self.was == self.is {
            return None;
        }
        let (table, key) = (Table::State, DUE_KEY.to_vec());
        Some(match self.is {
            Some(due_ms) => Write::Put {
                table,
                key,
                value: records::encode_due(due_ms),
            },
            None => Write::Delete { table, key },
        })
    }

    /// The change of the index.
    pub fn steps(&self, group: GroupId) -> Vec<Step> {
        if self.was == self.is {
            return Vec::new();
        }
        let family = Family::Facts;
        let key = |due_ms| keys::due(due_ms, group).to_vec();
        let gone = self.was.map(|due_ms| Step::Delete {
            family,
            key: key(due_ms),
        });
        let new = self.is.map(|due_ms| Step::Put {
            family,
            key: key(due_ms),
            value: vec![records::DUE_VERSION],
        });
        gone.into_iter().chain(new).collect()
    }
}

impl Group {
    /// As [`apply`](Self::apply), and moves the group in the index of due times, in the same batch.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    pub fn apply_with_due(
        &self,
        applied: LogId,
        mut writes: Vec<Write>,
        due: DueChange,
        done: Done,
    ) {
        let shared = self.shared();
        shared.change(done, |mem| {
            writes.extend(due.write());
            let mut change = shared.plan_apply(mem, applied, writes)?;
            change.steps.extend(due.steps(shared.id));
            Ok(change)
        });
    }
}

impl Store {
    /// At most `limit` groups that are due until `until_ms`, this moment included, the first ones first;
    /// with `after`, those that come after that one. As written.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn due(
        &self,
        after: Option<(u64, GroupId)>,
        until_ms: u64,
        limit: usize,
    ) -> Result<Vec<(u64, GroupId)>, Error> {
        let core = self.core();
        core.queue.check()?;
        let from = match after {
            Some((due_ms, group)) => keys::after(&keys::due(due_ms, group)),
            None => keys::due(0, GroupId(0)).to_vec(),
        };
        let to = keys::after(&keys::due(until_ms, GroupId(u64::MAX)));
        let mut rows = core.engine.iterate(Family::Facts, from, to);
        rows.seek_to_first();
        let mut found = Vec::new();
        while found.len() < limit
            && let Some((key, _)) = rows.item()?
        {
            found.extend(keys::parse_due(key));
            rows.step(true);
        }
        Ok(found)
    }

    /// The vote of a group, without opening it: as saved if it is open already, otherwise as it lies on
    /// the disk.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn vote(&self, group: GroupId) -> Result<Option<Vote>, Error> {
        let core = self.core();
        core.queue.check()?;
        if let Some(shared) = core.groups.memory(group) {
            return Ok(shared.mem().vote);
        }
        let found = core.engine.get(Family::Rows, &keys::vote(group))?;
        let vote = found.map(|bytes| records::decode_vote(&bytes)).transpose();
        let vote = vote.map_err(|detail| Error::Corrupt {
            group,
            index: 0,
            detail: format!("the vote: {detail}"),
        });
        vote.inspect_err(|error| core.alarm.check(error))
    }
}
