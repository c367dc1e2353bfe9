//! Receiving a snapshot: staged beside what is served, then switched to.
//!
//! Chunks go under a generation that nothing refers to yet. The generation is
//! recorded before its first row, so that a crash leaves rows that are known
//! to be garbage; the next install of the group deletes them. `finish` switches
//! in one synced batch, together with the deletion of what was replaced.

use std::sync::Arc;

use crate::chunk::{Begun, Item, Progress};
use crate::due::{DUE_KEY, DueChange};
use crate::engine::{Family, Step};
use crate::error::Error;
use crate::group::{Change, Group, Mem, Shared, put_mark};
use crate::keys;
use crate::layout::Garbage;
use crate::queue::Then;
use crate::records;
use crate::types::{Done, GroupId, LogId, Table};

/// A snapshot that is being received. Dropping it discards what came so far.
pub struct Install {
    shared: Arc<Shared>,
    generation: u32,
    progress: Progress,
    /// The due time that came among the rows.
    due_ms: Option<u64>,
    finished: bool,
}

impl Group {
    /// Begins to receive a snapshot that was made for what [`have`](Self::have)
    /// answered. The group goes on meanwhile.
    ///
    /// # Errors
    /// [`Error::Installing`] when another install of the group is under way.
    pub fn install(&self) -> Result<Install, Error> {
        let shared = self.shared();
        let mut generation = 0;
        shared
            .try_change(Box::new(|_| ()), |mem| {
                if mem.installing {
                    return Err(Error::Installing(shared.id));
                }
                generation = mem.meta.layout.next_generation;
                let next = generation.checked_add(1);
                mem.meta.layout.next_generation = next.ok_or_else(|| {
                    Error::Misuse(format!("group {} has used up its generations", shared.id))
                })?;
                let mut steps = mem
                    .meta
                    .staged
                    .replace(generation)
                    .map_or(Vec::new(), |left| discard(shared.id, left));
                steps.push(mem.put_meta(shared.id));
                mem.installing = true;
                Ok(Change::unsynced(steps))
            })
            .map_err(|(error, _)| error)?;
        Ok(Install {
            shared: shared.clone(),
            generation,
            progress: Progress::default(),
            due_ms: None,
            finished: false,
        })
    }
}

impl Install {
    /// Stages the next chunk, unsynced; `done` is called when it is written.
    ///
    /// # Errors
    /// `done` gets [`Error::Chunk`] when it is malformed, out of order or does
    /// not fit this replica. Nothing of it is staged then, and the right chunk
    /// may follow.
    pub fn chunk(&mut self, chunk: &[u8], done: Done) {
        match self.stage(chunk) {
            Ok((steps, progress, due_ms)) => {
                self.progress = progress;
                self.due_ms = due_ms.or(self.due_ms);
                self.shared.change(done, |_| Ok(Change::unsynced(steps)));
            }
            Err(detail) => done(Err(detail)),
        }
    }

    /// The position that the snapshot covers, once all of it is here.
    pub fn covers(&self) -> Option<LogId> {
        self.progress.complete().ok().map(|begun| begun.applied)
    }

    /// Switches to the snapshot, which must cover exactly up to `applied`.
    /// `done` is called when that is on the disk. From this call on the log
    /// state is that of the snapshot: purged up to `applied`, followed by the
    /// entries that were already held above it if the log agrees there. Rows
    /// change when `done` is called, and the group's place among due times, which is
    /// at `due_before` by the rows that are replaced. If the group has applied as much by other
    /// means, the snapshot is discarded, which is no error.
    ///
    /// # Errors
    /// `done` gets [`Error::Chunk`] when chunks are missing or `applied` is
    /// another position; the snapshot is discarded then.
    pub fn finish(mut self, applied: LogId, due_before: Option<u64>, done: Done) {
        let shared = self.shared.clone();
        let mut finished = false;
        shared.change(done, |mem| {
            let begun = self.progress.complete().map_err(Error::Chunk)?;
            if begun.applied != applied {
                let covered = begun.applied;
                return Err(Error::Chunk(format!(
                    "it ends at {covered}, not at {applied}"
                )));
            }
            if mem.applied.is_some_and(|held| held.index >= applied.index) {
                return Ok(Change::unsynced(Vec::new()));
            }
            let mut change = self.plan_switch(mem, begun)?;
            let due = DueChange {
                was: due_before,
                is: self.due_ms,
            };
            change.steps.extend(due.steps(shared.id));
            finished = true;
            Ok(change)
        });
        self.finished = finished;
    }

    /// Checks a chunk and turns it into rows of the staged generation.
    fn stage(&self, chunk: &[u8]) -> Result<(Vec<Step>, Progress, Option<u64>), Error> {
        let mut progress = self.progress.clone();
        let items = progress.accept(chunk).map_err(Error::Chunk)?;
        if self.progress.begun().is_none()
            && let Some(begun) = progress.begun()
        {
            self.check_fit(begun)?;
        }
        let due = items.iter().find_map(|item| match item {
            Item::State { key, value } if *key == DUE_KEY => Some(records::decode_due(value)),
            _ => None,
        });
        let due_ms = due.transpose().map_err(Error::Chunk)?;
        let (id, generation) = (self.shared.id, self.generation);
        let row = |table, key: &[u8], value: &[u8]| Step::Put {
            family: Family::Rows,
            key: keys::row(id, table, generation, key),
            value: value.to_vec(),
        };
        #[cfg(feature = "planted-bugs")]
        let items = crate::planted::without_forgotten(id, items);
        let steps = items
            .iter()
            .filter_map(|item| match item {
                Item::Begin(_) | Item::End(_) => None,
                Item::Entry { index, record } => Some(Step::Put {
                    family: Family::Log,
                    key: keys::entry(id, generation, *index).to_vec(),
                    value: record.to_vec(),
                }),
                Item::State { key, value } => Some(row(Table::State, key, value)),
                Item::Index { key, value } => Some(row(Table::Index, key, value)),
            })
            .collect();
        Ok((steps, progress, due_ms))
    }

    /// A snapshot for another replica would leave holes here.
    fn check_fit(&self, begun: &Begun) -> Result<(), Error> {
        let applied = self.shared.applied();
        let joins = applied.is_none_or(|held| begun.first <= held.index.saturating_add(1));
        if !joins {
            let detail = format!("entries before {} are missing here", begun.first);
            return Err(Error::Chunk(detail));
        }
        if let Some(key) = &begun.index_after
            && self.shared.get(Table::Index, key)?.is_none()
        {
            return Err(Error::Chunk("index rows before it are missing here".into()));
        }
        Ok(())
    }

    fn plan_switch(&self, mem: &mut Mem, begun: &Begun) -> Result<Change, Error> {
        let id = self.shared.id;
        let end = begun.applied;
        if mem
            .meta
            .purged
            .is_some_and(|purged| purged.index > end.index)
        {
            let detail = format!("group {id} was purged beyond a snapshot that it needs");
            return Err(Error::Misuse(detail));
        }
        let agrees = self.shared.term_at(mem, end.index)? == Some(end.term);
        let keep_tail = agrees && mem.last.is_some_and(|last| last.index > end.index);
        let staged = begun.staged(self.generation);
        let (layout, garbage) = mem.meta.layout.install(&staged, keep_tail);
        if !keep_tail {
            mem.tail.clear();
            mem.last = Some(end);
        }
        mem.meta.layout = layout.clone();
        mem.meta.purged = Some(end);
        mem.meta.staged = None;
        mem.applied = Some(end);
        mem.installing = false;
        let mut steps = vec![mem.put_meta(id), put_mark(id, end)];
        steps.extend(garbage.iter().map(|part| delete(id, part)));
        Ok(Change {
            then: Then::Switched(layout, end),
            ..Change::synced(steps)
        })
    }
}

impl Drop for Install {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        let (id, generation) = (self.shared.id, self.generation);
        self.shared.change(Box::new(|_| ()), |mem| {
            mem.installing = false;
            mem.meta.staged = None;
            let mut steps = discard(id, generation);
            steps.push(mem.put_meta(id));
            Ok(Change::unsynced(steps))
        });
    }
}

impl Shared {
    /// The term of the entry at `index` of the raft log, as queued.
    fn term_at(&self, mem: &Mem, index: u64) -> Result<Option<u64>, Error> {
        if mem.last.is_none_or(|last| last.index < index) {
            return Ok(None);
        }
        if let Some(entry) = mem.tail.get(index) {
            return Ok(Some(entry.log_id.term));
        }
        let Some(generation) = mem.meta.layout.log_generation(index) else {
            return Ok(None);
        };
        // Not in the tail, so it is written.
        let key = keys::entry(self.id, generation, index);
        self.core
            .engine
            .get_pinned(Family::Log, &key)?
            .map(|record| records::entry_term(&record))
            .transpose()
            .map_err(|detail| Error::Corrupt {
                group: self.id,
                index,
                detail,
            })
    }
}

/// Deletes everything under a generation that was only staged.
fn discard(id: GroupId, generation: u32) -> Vec<Step> {
    let log = Garbage::Log {
        generation,
        first: 0,
        end: None,
    };
    let index = Garbage::Index {
        generation,
        after: None,
    };
    [log, index, Garbage::State { generation }]
        .iter()
        .map(|part| delete(id, part))
        .collect()
}

fn delete(id: GroupId, garbage: &Garbage) -> Step {
    match garbage {
        Garbage::Log {
            generation,
            first,
            end,
        } => Step::DeleteRange {
            family: Family::Log,
            from: keys::entry(id, *generation, *first).to_vec(),
            to: end.map_or_else(
                || keys::generation_end(id, *generation),
                |end| keys::entry(id, *generation, end).to_vec(),
            ),
        },
        Garbage::Index { generation, after } => Step::DeleteRange {
            family: Family::Rows,
            from: match after {
                Some(key) => keys::after(&keys::row(id, Table::Index, *generation, key)),
                None => keys::row(id, Table::Index, *generation, &[]),
            },
            to: keys::rows_end(id, Table::Index, *generation),
        },
        Garbage::State { generation } => Step::DeleteRange {
            family: Family::Rows,
            from: keys::row(id, Table::State, *generation, &[]),
            to: keys::rows_end(id, Table::State, *generation),
        },
    }
}
