//! openraft's state machine: hands committed batches to the group's pure machine, writes the rows
//! that come out, and tells whoever waits.
//!
//! A batch's outcomes and messages go out as soon as they are computed, since the entry is
//! committed and nothing can change them any more. Its rows ride on the store's next batch; the
//! progress that reads wait for moves only once they can be seen.

use std::io;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use accord_storage as storage;
use accord_storage::Table;
use accord_storage::Write;
use bytes::Bytes;
use futures_util::Stream;
use futures_util::StreamExt;
use openraft::EntryPayload;
use openraft::RaftSnapshotBuilder;
use openraft::storage::ApplyResponder;
use openraft::storage::EntryResponder;
use openraft::storage::RaftStateMachine;
use openraft::type_config::alias::SnapshotOf;
use tokio::sync::watch;

use super::log_store::Written;
use super::log_store::completion;
use super::snapshot::SnapshotData;
use super::snapshot::stage;
use super::types;
use super::types::Entry;
use super::types::LogId;
use super::types::Reply;
use super::types::SnapshotMeta;
use super::types::StoredMembership;
use super::types::TypeConfig;
use crate::machine::Committed;
use crate::machine::Kind;
use crate::machine::Machine;
use crate::machine::Outlook;
use crate::machine::Overlay;
use crate::rows::GroupRows;

/// The row that holds the membership. Machines' own keys never begin with 0.
pub(super) const MEMBERSHIP_KEY: &[u8] = b"\0membership";

/// Entries applied before their rows are handed to the store: bounds the memory of one write.
pub(super) const ENTRIES_PER_WRITE_MAX: usize = 256;

/// How far this replica has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Index of the last entry whose rows can be read, plus one; 0 before the first.
    pub(crate) applied_next: u64,
    /// Newest seq of the channel whose row can be read.
    pub(crate) head: u64,
}

/// What others on this node see of a replica's progress. It outlives the state machine, which openraft
/// takes with it when it starts.
#[derive(Default)]
pub(crate) struct Published {
    progress: watch::Sender<Progress>,
    /// Entries below this index have been handed to [`Commits`]; their rows follow.
    computed_next: AtomicU64,
    outlook: Mutex<Outlook>,
}

impl Published {
    pub(crate) fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    pub(crate) fn computed_next(&self) -> &AtomicU64 {
        &self.computed_next
    }

    /// What the group has yet to do, by rows that can be read.
    pub(crate) fn outlook(&self) -> Outlook {
        *self.outlook.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_outlook(&self, outlook: Outlook) {
        *self.outlook.lock().unwrap_or_else(PoisonError::into_inner) = outlook;
    }

    /// A state machine that is being replaced may be late with its last word, so only news count.
    fn publish(&self, progress: Progress) {
        self.computed_next
            .fetch_max(progress.applied_next, Ordering::AcqRel);
        self.progress.send_if_modified(|current| {
            let is_news = progress.applied_next > current.applied_next;
            if is_news {
                *current = progress;
            }
            is_news
        });
    }
}

/// Whoever waits for what an entry came to.
pub(super) trait Tell {
    fn tell(self, reply: Reply);
}

impl Tell for ApplyResponder<TypeConfig> {
    fn tell(self, reply: Reply) {
        self.send(reply);
    }
}

/// Where committed messages go.
pub(crate) trait Commits: Send + Sync + 'static {
    /// In commit order, without gaps. Must be quick.
    fn committed(&self, batch: &Arc<Committed>);
    /// A snapshot brought the channel to `head`: what lies between was not handed over.
    fn skipped(&self, head: u64);
    /// What the group has yet to do has changed, in rows that can be read; or there is something to do
    /// in a group that was just opened.
    fn outlook(&self, outlook: &Outlook);
    /// These jobs will not be done.
    fn cancelled(&self, jobs: &[[u8; 16]]);
}

/// For tests in which nobody listens.
#[cfg(test)]
pub(super) struct Nobody;

#[cfg(test)]
impl Commits for Nobody {
    fn committed(&self, _: &Arc<Committed>) {}
    fn skipped(&self, _: u64) {}
    fn outlook(&self, _: &Outlook) {}
    fn cancelled(&self, _: &[[u8; 16]]) {}
}

/// One group's machine with its rows.
pub(crate) struct Applier {
    kind: Kind,
    group: storage::Group,
    rows: GroupRows,
    machine: Machine,
    /// By the rows that were handed to the store last.
    outlook: Outlook,
    /// Of the outlook that was told last.
    told_revision: u64,
    membership: StoredMembership,
    commits: Arc<dyn Commits>,
    published: Arc<Published>,
}

impl Applier {
    /// # Errors
    /// If the group's rows cannot be read.
    pub(crate) fn load(
        kind: Kind,
        group: storage::Group,
        commits: Arc<dyn Commits>,
        published: Arc<Published>,
    ) -> io::Result<Self> {
        let rows = GroupRows::new(group.clone());
        let machine = Machine::load(kind, &rows).map_err(io::Error::other)?;
        let membership = load_membership(&group)?;
        let outlook = machine.outlook();
        published.publish(progress_of(&group, &machine));
        published.set_outlook(outlook);
        if outlook.due_ms.is_some() {
            commits.outlook(&outlook);
        }
        Ok(Applier {
            kind,
            rows,
            machine,
            outlook,
            told_revision: outlook.revision,
            membership,
            commits,
            published,
            group,
        })
    }

    pub(super) fn membership(&self) -> &StoredMembership {
        &self.membership
    }

    /// Applies a stretch of entries, tells their outcomes, and hands their rows to the store. The
    /// next stretch must wait until these can be read, and [`Applier::publish_progress`] then.
    pub(super) fn apply_some<T: Tell>(
        &mut self,
        entries: Vec<(Entry, Option<T>)>,
    ) -> io::Result<Option<Written>> {
        let Some(last) = entries.last().map(|(entry, _)| entry.log_id) else {
            return Ok(None);
        };
        let rows = self.rows.clone();
        let mut overlay = Overlay::new(&rows);
        let mut extra = Vec::new();
        for (entry, responder) in entries {
            let log_id = entry.log_id;
            // Before anybody hears of it: a read that begins then waits for its rows.
            self.published
                .computed_next
                .store(log_id.index() + 1, Ordering::Release);
            let mut reply = Reply::default();
            match entry.payload {
                EntryPayload::Blank => {}
                EntryPayload::Membership(membership) => {
                    self.membership = StoredMembership::new(Some(log_id), membership);
                    extra = vec![Write::Put {
                        table: Table::State,
                        key: MEMBERSHIP_KEY.to_vec(),
                        value: types::encode_stored_membership(&self.membership),
                    }];
                }
                EntryPayload::Normal(batch) => {
                    reply = self.apply_batch(&mut overlay, log_id.index(), &batch.0)?
                }
            }
            if let Some(responder) = responder {
                responder.tell(reply);
            }
        }
        let mut writes = overlay.into_writes();
        writes.extend(extra);
        let (done, written) = completion();
        let due = storage::DueChange {
            was: self.outlook.due_ms,
            is: self.machine.outlook().due_ms,
        };
        self.outlook = self.machine.outlook();
        self.group
            .apply_with_due(types::stored_log_id(&last), writes, due, done);
        Ok(Some(written))
    }

    fn apply_batch(
        &mut self,
        overlay: &mut Overlay<'_>,
        index: u64,
        batch: &Bytes,
    ) -> io::Result<Reply> {
        let applied = self
            .machine
            .apply(overlay, index, batch)
            .map_err(io::Error::other)?;
        if let Some(committed) = applied.committed {
            self.commits.committed(&Arc::new(committed));
        }
        if !applied.cancelled.is_empty() {
            self.commits.cancelled(&applied.cancelled);
        }
        Ok(Reply {
            outcomes: applied.outcomes,
            parts: applied.parts,
        })
    }

    pub(super) fn publish_progress(&mut self) {
        self.published
            .publish(progress_of(&self.group, &self.machine));
        if self.told_revision != self.outlook.revision {
            self.told_revision = self.outlook.revision;
            self.published.set_outlook(self.outlook);
            self.commits.outlook(&self.outlook);
        }
    }

    fn view(&self) -> io::Result<Snapshot> {
        let view = self.group.snapshot().map_err(io::Error::other)?;
        let meta = SnapshotMeta {
            last_log_id: view.applied().map(types::log_id),
            last_membership: self.membership.clone(),
        };
        Ok(Snapshot {
            meta,
            snapshot: SnapshotData::View(view),
        })
    }
}

fn progress_of(group: &storage::Group, machine: &Machine) -> Progress {
    Progress {
        applied_next: group.applied().map_or(0, |id| id.index + 1),
        head: match machine {
            Machine::Directory(_) => 0,
            Machine::Channel(channel) => channel.head().seq,
        },
    }
}

fn load_membership(group: &storage::Group) -> io::Result<StoredMembership> {
    match group
        .get(Table::State, MEMBERSHIP_KEY)
        .map_err(io::Error::other)?
    {
        Some(bytes) => types::decode_stored_membership(&bytes),
        None => Ok(StoredMembership::default()),
    }
}

impl RaftStateMachine<TypeConfig> for Applier {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((
            self.group.applied().map(types::log_id),
            self.membership.clone(),
        ))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + Send,
    {
        let mut ended = false;
        while !ended {
            let mut some = Vec::new();
            while !ended && some.len() < ENTRIES_PER_WRITE_MAX {
                let next = entries.next().await.transpose()?;
                ended = next.is_none();
                some.extend(next);
            }
            // The machine reads rows from the store, so the next stretch must find these there.
            if let Some(written) = self.apply_some(some)? {
                written.wait().await?;
                self.publish_progress();
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder(Some(self.view()))
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotData,
    ) -> Result<(), io::Error> {
        let install = match snapshot {
            SnapshotData::Staged(install) => install,
            SnapshotData::View(view) => stage(&self.group, view).await?,
        };
        let Some(last) = meta.last_log_id else {
            return Ok(());
        };
        let (done, written) = completion();
        install.finish(types::stored_log_id(&last), self.outlook.due_ms, done);
        written.wait().await?;
        self.machine = Machine::load(self.kind, &self.rows).map_err(io::Error::other)?;
        self.outlook = self.machine.outlook();
        // Another machine counts from elsewhere, so this is news in any case.
        self.told_revision = self.outlook.revision.wrapping_add(1);
        self.membership = meta.last_membership.clone();
        // Before the progress: whoever waited for it takes the head from there.
        self.commits
            .skipped(progress_of(&self.group, &self.machine).head);
        self.publish_progress();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        // The rows are the snapshot: whatever was applied can be sent, so that there is always one
        // once anything was applied, however far the log is purged.
        if self.group.applied().is_none() {
            return Ok(None);
        }
        self.view().map(Some)
    }
}

/// "Building" is taking a view of the rows, which the state machine's own task has done between two
/// applies, when the membership and the applied mark belong to each other.
pub(crate) struct Builder(Option<io::Result<Snapshot>>);

type Snapshot = SnapshotOf<TypeConfig, SnapshotData>;

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        self.0
            .take()
            .unwrap_or_else(|| Err(io::Error::other("a snapshot is built once")))
    }
}
