//! openraft's own storage tests, on this crate's log store and state machine over the real store.
//!
//! A second group lives in the same store and writes between the first one's operations, so that
//! whatever one group could do to another shows.

use std::io;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::OnceLock;

use accord_storage as storage;
use accord_storage::GroupId;
use accord_storage::Options;
use accord_storage::Store;
use futures_util::Stream;
use futures_util::StreamExt;
use openraft::EntryPayload;
use openraft::StorageError;
use openraft::storage::EntryResponder;
use openraft::storage::RaftStateMachine;
use openraft::testing::log::StoreBuilder;
use openraft::testing::log::Suite;
use openraft::type_config::alias::SnapshotOf;
use tokio::sync::mpsc;
use tokio::sync::watch;

use super::log_store::LogStore;
use super::log_store::completion;
use super::snapshot::SnapshotData;
use super::state_machine;
use super::state_machine::Applier;
use super::state_machine::Commits;
use super::state_machine::Nobody;
use super::state_machine::Progress;
use super::state_machine::Published;
use super::types;
use super::types::BatchBytes;
use super::types::Entry;
use super::types::LogId;
use super::types::SnapshotMeta;
use super::types::StoredMembership;
use super::types::TypeConfig;
use super::types::stored_entry;
use crate::machine::Batch;
use crate::machine::Committed;
use crate::machine::Kind;
use crate::machine::Outlook;
use crate::machine::Post;
use crate::machine::SessionId;
use crate::machine::channel::Command;
use crate::machine::encode_part;

/// Keeps a store's directory, and a neighbour that writes until this is dropped.
struct Guard {
    _dir: tempfile::TempDir,
    _busy: mpsc::Sender<()>,
}

/// The state machine, with the log that the suite's snapshot test leaves out: it applies entries that
/// were never appended, and a snapshot here carries the messages' bodies, which are in the log.
struct Machine {
    applier: Applier,
    group: storage::Group,
    applied: Vec<Entry>,
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = state_machine::Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        self.applier.applied_state().await
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + Send,
    {
        let mut items = Vec::new();
        while let Some(item) = entries.next().await {
            self.applied
                .extend(item.as_ref().ok().map(|(entry, _)| entry.clone()));
            items.push(item);
        }
        self.applier.apply(futures_util::stream::iter(items)).await
    }

    async fn get_snapshot_builder(&mut self) -> Self::SnapshotBuilder {
        if self.group.log_state().last.is_none() {
            let (done, written) = completion();
            let missing = self.applied.drain(..).map(stored_entry);
            self.group.append(missing.collect(), done);
            written.wait().await.unwrap();
        }
        self.applier.get_snapshot_builder().await
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotData,
    ) -> Result<(), io::Error> {
        self.applier.install_snapshot(meta, snapshot).await
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<SnapshotOf<TypeConfig, SnapshotData>>, io::Error> {
        self.applier.get_current_snapshot().await
    }
}

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, Machine, Guard> for Builder {
    async fn build(&self) -> Result<(Guard, LogStore, Machine), StorageError<TypeConfig>> {
        let (guard, group) =
            open().map_err(|error| StorageError::read(anyerror::AnyError::new(&error)))?;
        let applier = Applier::load(
            Kind::Channel,
            group.clone(),
            Arc::new(Nobody),
            Arc::default(),
        )
        .map_err(|error| StorageError::read(anyerror::AnyError::new(&error)))?;
        let machine = Machine {
            applier,
            group: group.clone(),
            applied: Vec::new(),
        };
        Ok((guard, LogStore::new(group), machine))
    }
}

fn open() -> io::Result<(Guard, storage::Group)> {
    let dir = tempfile::tempdir()?;
    let store = Store::open(Options::new(dir.path(), "suite", 1)).map_err(io::Error::other)?;
    let group = store.group(GroupId(7)).map_err(io::Error::other)?;
    let neighbour = store.group(GroupId(8)).map_err(io::Error::other)?;
    let (busy, stop) = mpsc::channel(1);
    tokio::spawn(disturb(store, neighbour, stop));
    let guard = Guard {
        _dir: dir,
        _busy: busy,
    };
    Ok((guard, group))
}

/// Appends, votes, truncates and purges in a group of its own until the test is over, and checks that
/// it finds there what it wrote.
/// The store closes behind its last handle, which this holds.
async fn disturb(_store: Store, group: storage::Group, mut stop: mpsc::Receiver<()>) {
    let id = |index| storage::LogId { term: 1, index };
    for round in 0u64.. {
        let first = round * 4;
        let entries = (first..first + 6).map(|index| storage::Entry {
            log_id: id(index),
            payload: vec![1; 10].into(),
        });
        let (done, written) = completion();
        group.append(entries.collect(), done);
        let vote = storage::Vote {
            term: round + 1,
            node: 1,
            committed: true,
        };
        group.save_vote(vote, Box::new(|_| {}));
        group.truncate_after(Some(id(first + 3)), Box::new(|_| {}));
        if round > 3 {
            group.purge(id(first - 8), Box::new(|_| {}));
        }
        written.wait().await.unwrap();
        assert_eq!(group.log_state().last, Some(id(first + 3)));
        assert_eq!(group.vote(), Some(vote));
        assert_eq!(
            group.entries(first..first + 9, usize::MAX).unwrap().len(),
            4
        );
        match stop.try_recv() {
            Err(mpsc::error::TryRecvError::Empty) => tokio::task::yield_now().await,
            Ok(()) | Err(mpsc::error::TryRecvError::Disconnected) => return,
        }
    }
}

#[test]
fn openrafts_own_storage_suite_passes_beside_a_busy_neighbour() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let suite = runtime.block_on(Suite::test_all(Builder));
    suite.expect("openraft's suite passes");
}

/// Compares, whenever a snapshot moves the head, how far the progress says that the rows are.
struct HeadFirst {
    progress: OnceLock<watch::Receiver<Progress>>,
    skips: Mutex<Vec<(u64, u64)>>,
}

impl Commits for HeadFirst {
    fn committed(&self, _: &Arc<Committed>) {}

    fn skipped(&self, head: u64) {
        let told = self.progress.get().unwrap().borrow().head;
        self.skips.lock().unwrap().push((head, told));
    }

    fn outlook(&self, _: &Outlook) {}

    fn cancelled(&self, _: &[[u8; 16]]) {}
}

/// A read waits for the progress and then takes the head, so the head must not come second. Found by
/// the fault tests (seed 359979506): a socket that resumed on a node which had just installed a
/// snapshot was told that the channel ended before the message that it had seen last.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_moves_the_head_before_it_is_progress() {
    let (_source_guard, source) = open().unwrap();
    let mut ahead = Applier::load(
        Kind::Channel,
        source.clone(),
        Arc::new(Nobody),
        Arc::default(),
    )
    .unwrap();
    let post = Command::Post(Post {
        id: [9; 16],
        username: "ann",
        body: "hello",
        key: None,
        expected_head: None,
        reply_to: None,
    });
    let session = SessionId {
        node: 1,
        sequence: 1,
    };
    let part = encode_part(session, 1, &[post]).unwrap();
    let entry = Entry {
        log_id: types::log_id(storage::LogId { term: 1, index: 0 }),
        payload: EntryPayload::Normal(BatchBytes(Batch::concat(5, &[part]).unwrap())),
    };
    let (done, written) = completion();
    source.append(vec![stored_entry(entry.clone())], done);
    written.wait().await.unwrap();
    let entries = futures_util::stream::iter([Ok((entry, None))]);
    ahead.apply(entries).await.unwrap();
    let snapshot = ahead.get_current_snapshot().await.unwrap().unwrap();

    let (_guard, group) = open().unwrap();
    let watcher = Arc::new(HeadFirst {
        progress: OnceLock::new(),
        skips: Mutex::default(),
    });
    let commits = Arc::clone(&watcher) as Arc<dyn Commits>;
    let published = Arc::new(Published::default());
    let mut behind = Applier::load(Kind::Channel, group, commits, Arc::clone(&published)).unwrap();
    assert!(watcher.progress.set(published.progress()).is_ok());
    behind
        .install_snapshot(&snapshot.meta, snapshot.snapshot)
        .await
        .unwrap();
    assert_eq!(*watcher.skips.lock().unwrap(), [(1, 0)]);
    assert_eq!(published.progress().borrow().head, 1);
}
