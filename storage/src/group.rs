//! One replicated group: its vote, its log, its rows.
//!
//! What is *queued* and what is *written* differ for a moment after every
//! write, and each reader needs one of the two. The raft log and the vote are
//! read as queued: `Mem` changes under its lock together with the push into
//! the queue, so memory and the order of writes always agree. Rows are read as
//! written: `layout` changes only when a switch reaches the disk.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockWriteGuard};

use tokio::sync::oneshot;

use crate::core::Core;
use crate::engine::{Family, Step};
use crate::error::Error;
use crate::keys;
use crate::layout::Layout;
use crate::queue::{Op, Then};
use crate::records::{self, Meta};
use crate::registry::Claim;
use crate::tail::Tail;
use crate::types::{Done, Entry, GroupId, LogId, LogState, Table, Vote, Write};

/// No key of a row is longer.
pub const KEY_BYTES_MAX: usize = 4 << 10;
/// Fewer entries are deleted one by one: every range deletion slows later
/// reads down until it is compacted away.
const TRUNCATE_SINGLY_MAX: u64 = 64;

/// A handle of one group. Clones share it; while one lives, the group cannot
/// be opened again. Calls that write return at once and are written in the
/// order of the calls; calls that read may wait for the disk.
#[derive(Clone)]
pub struct Group {
    handle: Arc<Handle>,
}

/// Gives the group free when the last clone is dropped.
struct Handle {
    shared: Arc<Shared>,
    /// Dropped with it, which is what they wait for.
    waiting: Mutex<Vec<oneshot::Sender<Never>>>,
}

/// What nobody sends.
enum Never {}

/// What a group keeps in memory while it is open or has writes in the queue.
pub struct Shared {
    pub id: GroupId,
    pub core: Arc<Core>,
    pub mem: Mutex<Mem>,
    /// As written. Held for reading while rows are read.
    pub layout: RwLock<Layout>,
    /// As written.
    applied: Mutex<Option<LogId>>,
    pub claim: Claim,
}

/// The group as it will be when the queue is written.
pub struct Mem {
    pub vote: Option<Vote>,
    pub meta: Meta,
    /// The last entry, or the purge mark when none is left above it.
    pub last: Option<LogId>,
    pub applied: Option<LogId>,
    pub tail: Tail,
    pub installing: bool,
}

/// One write of a group, planned under the lock of its memory.
pub struct Change {
    pub steps: Vec<Step>,
    pub sync: bool,
    pub then: Then,
    /// Entries that become the end of the log.
    pub appended: Vec<Entry>,
}

impl Change {
    pub fn unsynced(steps: Vec<Step>) -> Self {
        Self {
            steps,
            sync: false,
            then: Then::Nothing,
            appended: Vec::new(),
        }
    }

    pub fn synced(steps: Vec<Step>) -> Self {
        Self {
            sync: true,
            ..Self::unsynced(steps)
        }
    }
}

impl Group {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            handle: Arc::new(Handle {
                shared,
                waiting: Mutex::default(),
            }),
        }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.handle.shared
    }

    pub fn id(&self) -> GroupId {
        self.shared().id
    }

    /// Whether it never voted, has no log and has applied nothing.
    pub fn is_pristine(&self) -> bool {
        self.shared().mem().is_pristine()
    }

    /// Gives a pristine group its first state, all of it or nothing: a vote, a
    /// log of one entry, and the rows of that entry, which is applied thereby.
    /// It is written without an fsync of its own: whatever is synced later is
    /// ordered behind it. `done` is called when reads see it.
    ///
    /// # Errors
    /// `done` gets [`Error::Misuse`] when the group holds anything, or a key is
    /// longer than [`KEY_BYTES_MAX`].
    pub fn found(&self, vote: Vote, entry: Entry, writes: Vec<Write>, done: Done) {
        let shared = self.shared();
        shared.change(done, |mem| {
            if !mem.is_pristine() {
                return Err(Error::Misuse(format!(
                    "group {} holds something and cannot be founded",
                    shared.id
                )));
            }
            let applied = entry.log_id;
            // Refused, if at all, before anything in memory is changed.
            let mut change = shared.plan_apply(mem, applied, writes)?;
            let log = shared.plan_append(mem, vec![entry])?;
            mem.vote = Some(vote);
            change.steps.push(put_vote(shared.id, vote));
            change.steps.extend(log.steps);
            change.appended = log.appended;
            Ok(change)
        });
    }

    /// The vote that was saved last, perhaps not on the disk yet.
    pub fn vote(&self) -> Option<Vote> {
        self.shared().mem().vote
    }

    /// Saves `vote`; `done` is called when it is on the disk.
    pub fn save_vote(&self, vote: Vote, done: Done) {
        let id = self.id();
        self.shared().change(done, |mem| {
            mem.vote = Some(vote);
            Ok(Change::synced(vec![put_vote(id, vote)]))
        });
    }

    /// Notes that a quorum gave the saved vote to its node. It is written without
    /// an fsync of its own: whatever is synced later is ordered behind it.
    pub fn confirm_vote(&self) {
        let id = self.id();
        let done: Done = Box::new(|_| {});
        self.shared().change(done, |mem| {
            let steps = match &mut mem.vote {
                Some(vote) if !vote.committed => {
                    vote.committed = true;
                    vec![put_vote(id, *vote)]
                }
                Some(_) | None => Vec::new(),
            };
            Ok(Change::unsynced(steps))
        });
    }

    /// The ends of the log, what is queued included.
    pub fn log_state(&self) -> LogState {
        let mem = self.shared().mem();
        LogState {
            purged: mem.meta.purged,
            last: mem.last,
        }
    }

    /// Appends `entries`, which must follow the last one without a gap and with
    /// terms that never decrease; an empty log begins wherever they do. They
    /// are readable when this returns; `done` is called when they are on the
    /// disk.
    ///
    /// # Errors
    /// `done` gets [`Error::Misuse`] when they do not follow.
    pub fn append(&self, entries: Vec<Entry>, done: Done) {
        if let Err((error, done)) = self.offer(entries, done) {
            done(Err(error));
        }
    }

    /// As [`append`](Self::append), for whoever must know at once whether they were
    /// taken: a refusal is returned, and `done` is not called then.
    ///
    /// # Errors
    /// [`Error::Misuse`] when they do not follow, or why nothing is accepted.
    pub fn try_append(&self, entries: Vec<Entry>, done: Done) -> Result<(), Error> {
        self.offer(entries, done).map_err(|(error, _)| error)
    }

    fn offer(&self, entries: Vec<Entry>, done: Done) -> Result<(), (Error, Done)> {
        let shared = self.shared();
        shared.try_change(done, |mem| shared.plan_append(mem, entries))
    }

    /// Removes the entries after `last`, or all when it is none; purged ones
    /// stay. `done` is called when that is written, without an fsync of its
    /// own: whatever is synced later is ordered behind it.
    ///
    /// # Errors
    /// `done` gets [`Error::Misuse`] when the log holds another entry in the
    /// place of `last`.
    pub fn truncate_after(&self, last: Option<LogId>, done: Done) {
        let shared = self.shared();
        shared.change(done, |mem| shared.plan_truncate(mem, last));
    }

    /// Moves the purge mark: entries up to `upto` are no longer part of the raft
    /// log. Their bodies stay for [`history`](Self::history). `done` is called
    /// when that is written, without an fsync of its own.
    pub fn purge(&self, upto: LogId, done: Done) {
        let id = self.id();
        self.shared().change(done, |mem| {
            if mem
                .meta
                .purged
                .is_some_and(|purged| upto.index <= purged.index)
            {
                return Ok(Change::unsynced(Vec::new()));
            }
            if mem.last.is_none_or(|last| last.index < upto.index) {
                mem.tail.clear();
                mem.last = Some(upto);
            }
            mem.meta.purged = Some(upto);
            Ok(Change::unsynced(vec![mem.put_meta(id)]))
        });
    }

    /// How far rows were applied, as written.
    pub fn applied(&self) -> Option<LogId> {
        self.shared().applied()
    }

    /// Changes rows and moves the applied position to `applied`, atomically.
    /// It is written without an fsync of its own, riding on whatever batch is
    /// next: being behind the log in order, it can never be ahead of it on the
    /// disk, and raft applies again what a crash took. `done` is called when
    /// [`get`](Self::get), [`scan`](Self::scan) and [`applied`](Self::applied)
    /// see it.
    ///
    /// # Errors
    /// `done` gets [`Error::Misuse`] when `applied` is not above the position
    /// before, or a key is longer than [`KEY_BYTES_MAX`].
    pub fn apply(&self, applied: LogId, writes: Vec<Write>, done: Done) {
        let shared = self.shared();
        shared.change(done, |mem| shared.plan_apply(mem, applied, writes));
    }

    /// Gives this clone back, and resolves when the last one is gone: the group
    /// can be opened again then.
    pub fn released(self) -> impl Future<Output = ()> + Send + 'static {
        let (sender, receiver) = oneshot::channel();
        let waiting = self.handle.waiting.lock();
        waiting.unwrap_or_else(PoisonError::into_inner).push(sender);
        drop(self);
        async move {
            // Nothing is ever sent: the sender is dropped with the handle.
            drop(receiver.await);
        }
    }

    /// Resolves when everything that was queued for any group before this call
    /// is done.
    pub fn drained(&self) -> impl Future<Output = ()> + Send + 'static {
        let (sender, receiver) = oneshot::channel();
        self.shared().change(
            Box::new(move |_| {
                // A caller that dropped the future no longer waits.
                let _ = sender.send(());
            }),
            |_| Ok(Change::unsynced(Vec::new())),
        );
        async move {
            // A dropped sender means that nothing waits any more either.
            drop(receiver.await);
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // Before those who wait are told: fields are dropped after this.
        self.shared.core.groups.release(&self.shared);
    }
}

impl Shared {
    /// Loads a group: three point reads and one seek.
    pub fn load(core: &Arc<Core>, claim: Claim) -> Result<Self, Error> {
        let id = claim.id();
        let state = HardState::load(core, id)?;
        let (applied, last) = (state.applied, state.last);
        if let Some(applied) = applied.filter(|applied| last.is_none_or(|last| last < *applied)) {
            let end = last.map_or("nowhere".into(), |last| last.to_string());
            let detail = format!("rows are applied up to {applied}, but the log ends {end}");
            return Err(Error::Corrupt {
                group: id,
                index: applied.index,
                detail,
            });
        }
        Ok(Self {
            id,
            core: core.clone(),
            layout: RwLock::new(state.meta.layout.clone()),
            applied: Mutex::new(applied),
            mem: Mutex::new(Mem {
                vote: state.vote,
                meta: state.meta,
                last,
                applied,
                tail: Tail::default(),
                installing: false,
            }),
            claim,
        })
    }

    pub fn mem(&self) -> MutexGuard<'_, Mem> {
        // Plans change memory only after their last check.
        self.mem.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn applied(&self) -> Option<LogId> {
        *self.applied.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn set_applied(&self, applied: LogId) {
        *self.applied.lock().unwrap_or_else(PoisonError::into_inner) = Some(applied);
    }

    pub fn layout_for_switch(&self) -> RwLockWriteGuard<'_, Layout> {
        self.layout.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets written entries leave memory.
    pub fn trim(&self) {
        let written = self.core.queue.written_ticket();
        self.mem().tail.trim(written);
    }

    /// Plans a write and queues it under one lock. A refusal is told to `done`.
    pub fn change(
        self: &Arc<Self>,
        done: Done,
        plan: impl FnOnce(&mut Mem) -> Result<Change, Error>,
    ) {
        if let Err((error, done)) = self.try_change(done, plan) {
            done(Err(error));
        }
    }

    /// Like [`change`](Self::change), but gives `done` back with a refusal.
    pub fn try_change(
        self: &Arc<Self>,
        done: Done,
        plan: impl FnOnce(&mut Mem) -> Result<Change, Error>,
    ) -> Result<(), (Error, Done)> {
        let mut mem = self.mem();
        // Memory must not run ahead of a disk that is gone.
        if let Err(error) = self.core.queue.check() {
            return Err((error, done));
        }
        let change = match plan(&mut mem) {
            Ok(change) => change,
            Err(error) => return Err((error, done)),
        };
        let ticket = self.core.queue.push(Op {
            group: Some(self.clone()),
            steps: change.steps,
            sync: change.sync,
            then: change.then,
            done,
        })?;
        mem.tail.append(change.appended, ticket);
        Ok(())
    }

    fn plan_append(&self, mem: &mut Mem, entries: Vec<Entry>) -> Result<Change, Error> {
        let Some(first) = entries.first() else {
            return Ok(Change::synced(Vec::new()));
        };
        let mut previous = mem.last;
        for entry in &entries {
            let id = entry.log_id;
            let follows = previous.is_none_or(|last| {
                last.index.checked_add(1) == Some(id.index) && last.term <= id.term
            });
            if !follows {
                let end = previous.map_or("an empty log".into(), |last| last.to_string());
                return Err(Error::Misuse(format!(
                    "entry {id} of group {} does not follow {end}",
                    self.id
                )));
            }
            previous = Some(id);
        }
        let mut steps = Vec::with_capacity(entries.len() + 1);
        let begins = first.log_id.index;
        if mem.last.is_none() && begins != mem.meta.layout.first() {
            mem.meta.layout.restart_log(begins);
            steps.push(mem.put_meta(self.id));
        }
        let generation = mem.meta.layout.last_segment().generation;
        steps.extend(entries.iter().map(|entry| Step::Entry {
            key: keys::entry(self.id, generation, entry.log_id.index),
            term: entry.log_id.term,
            payload: entry.payload.clone(),
        }));
        mem.last = previous;
        Ok(Change {
            then: Then::Appended,
            appended: entries,
            ..Change::synced(steps)
        })
    }

    fn plan_truncate(&self, mem: &mut Mem, last: Option<LogId>) -> Result<Change, Error> {
        let keep = last.max_by_index(mem.meta.purged);
        let Some(end) = mem
            .last
            .filter(|end| keep.is_none_or(|keep| keep.index < end.index))
        else {
            return Ok(Change::unsynced(Vec::new()));
        };
        if let (Some(wanted), Some(held)) = (keep, keep.and_then(|keep| mem.tail.get(keep.index)))
            && held.log_id != wanted
        {
            return Err(Error::Misuse(format!(
                "the log of group {} holds {} where it shall end with {wanted}",
                self.id, held.log_id
            )));
        }
        let generation = mem.meta.layout.last_segment().generation;
        let first = keep.map_or(mem.meta.layout.first(), |keep| keep.index + 1);
        let key = |index| keys::entry(self.id, generation, index).to_vec();
        let steps = if end.index - first < TRUNCATE_SINGLY_MAX {
            (first..=end.index)
                .map(|index| Step::Delete {
                    family: Family::Log,
                    key: key(index),
                })
                .collect()
        } else {
            vec![Step::DeleteRange {
                family: Family::Log,
                from: key(first),
                to: keys::after(&key(end.index)),
            }]
        };
        match keep {
            Some(keep) => mem.tail.truncate_after(keep.index),
            None => mem.tail.clear(),
        }
        mem.last = keep;
        Ok(Change::unsynced(steps))
    }

    pub fn plan_apply(
        &self,
        mem: &mut Mem,
        applied: LogId,
        writes: Vec<Write>,
    ) -> Result<Change, Error> {
        if let Some(before) = mem.applied.filter(|before| applied.index <= before.index) {
            return Err(Error::Misuse(format!(
                "group {} has applied {before} and cannot apply {applied} after it",
                self.id
            )));
        }
        let longest = writes.iter().map(|write| write.key().len()).max();
        if let Some(bytes) = longest.filter(|bytes| *bytes > KEY_BYTES_MAX) {
            return Err(Error::Misuse(format!(
                "a key of {bytes} bytes is longer than {KEY_BYTES_MAX}"
            )));
        }
        let layout = &mem.meta.layout;
        let row = |table, key: &[u8]| {
            let generation = match table {
                Table::State => layout.state_generation,
                Table::Index => layout.index_generation(key),
            };
            keys::row(self.id, table, generation, key)
        };
        let mut steps: Vec<Step> = writes
            .into_iter()
            .map(|write| match write {
                Write::Put { table, key, value } => Step::Put {
                    family: Family::Rows,
                    key: row(table, &key),
                    value,
                },
                Write::Delete { table, key } => Step::Delete {
                    family: Family::Rows,
                    key: row(table, &key),
                },
            })
            .collect();
        steps.push(put_mark(self.id, applied));
        mem.applied = Some(applied);
        Ok(Change {
            then: Then::Applied(applied),
            ..Change::unsynced(steps)
        })
    }
}

/// What is on the disk of a group besides its entries and rows.
pub struct HardState {
    pub vote: Option<Vote>,
    pub meta: Meta,
    pub applied: Option<LogId>,
    /// The last entry, or the purge mark when none is left above it.
    pub last: Option<LogId>,
}

impl HardState {
    pub fn load(core: &Core, id: GroupId) -> Result<Self, Error> {
        let engine = &core.engine;
        let corrupt = |what: &'static str| {
            move |detail: String| Error::Corrupt {
                group: id,
                index: 0,
                detail: format!("{what}: {detail}"),
            }
        };
        // The applied mark before the log: of a group that is being written to, it must not be the
        // later of the two.
        let applied = engine
            .get_pinned(Family::Rows, &keys::applied(id))?
            .map(|bytes| records::decode_mark(&bytes))
            .transpose()
            .map_err(corrupt("the applied mark"))?;
        let vote = engine
            .get_pinned(Family::Rows, &keys::vote(id))?
            .map(|bytes| records::decode_vote(&bytes))
            .transpose()
            .map_err(corrupt("the vote"))?;
        let meta = engine
            .get_pinned(Family::Rows, &keys::meta(id))?
            .map(|bytes| records::decode_meta(&bytes))
            .transpose()
            .map_err(corrupt("the meta record"))?
            .unwrap_or_default();
        let last = last_entry(core, id, &meta)?.max(meta.purged);
        Ok(HardState {
            vote,
            meta,
            applied,
            last,
        })
    }
}

impl Mem {
    fn is_pristine(&self) -> bool {
        self.vote.is_none() && self.last.is_none() && self.applied.is_none()
    }

    pub fn put_meta(&self, id: GroupId) -> Step {
        Step::Put {
            family: Family::Rows,
            key: keys::meta(id).to_vec(),
            value: records::encode_meta(&self.meta),
        }
    }
}

fn put_vote(id: GroupId, vote: Vote) -> Step {
    Step::Put {
        family: Family::Rows,
        key: keys::vote(id).to_vec(),
        value: records::encode_vote(vote),
    }
}

pub fn put_mark(id: GroupId, applied: LogId) -> Step {
    Step::Put {
        family: Family::Rows,
        key: keys::applied(id).to_vec(),
        value: records::encode_mark(applied),
    }
}

impl Write {
    fn key(&self) -> &[u8] {
        match self {
            Self::Put { key, .. } | Self::Delete { key, .. } => key,
        }
    }
}

/// The later of two positions by index alone: an entry that raft has purged
/// counts, whatever term the caller names.
trait MaxByIndex {
    fn max_by_index(self, other: Self) -> Self;
}

impl MaxByIndex for Option<LogId> {
    fn max_by_index(self, other: Self) -> Self {
        match (self, other) {
            (Some(a), Some(b)) if a.index > b.index => Some(a),
            (Some(_), Some(b)) => Some(b),
            (one, None) | (None, one) => one,
        }
    }
}

/// The entry with the highest index that is on the disk, if it is above the
/// purge mark.
fn last_entry(core: &Core, id: GroupId, meta: &Meta) -> Result<Option<LogId>, Error> {
    let segment = meta.layout.last_segment();
    let lower = keys::entry(id, segment.generation, segment.first).to_vec();
    let upper = keys::generation_end(id, segment.generation);
    let mut rows = core.engine.iterate(Family::Log, lower, upper);
    rows.seek_to_last();
    let Some((key, record)) = rows.item()? else {
        return Ok(None);
    };
    let index = keys::entry_index(key).unwrap_or_default();
    let term = records::entry_term(record).map_err(|detail| Error::Corrupt {
        group: id,
        index,
        detail: format!("the entry: {detail}"),
    })?;
    let above = meta.purged.is_none_or(|purged| index > purged.index);
    Ok(above.then_some(LogId { term, index }))
}
