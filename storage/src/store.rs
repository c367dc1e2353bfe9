//! Opening and closing the store of one node.

#[cfg(test)]
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};

use crate::alarm::Alarm;
use crate::core::Core;
use crate::edge::{self, Threads};
use crate::engine::{Engine, Family, Step};
use crate::error::{Error, OpenError};
use crate::group::{Group, HardState};
use crate::keys;
use crate::mark::{self, Found, Mark};
use crate::options::Options;
use crate::queue::{Op, Queue, Then};
use crate::registry::Registry;
use crate::space::Stop;
use crate::stats::{Counters, Stats};
use crate::types::{GroupId, Standing};
use crate::watchdog::Work;

/// Where RocksDB keeps its files, below the node's directory.
const DATABASE: &str = "db";
/// Facts are small: names, addresses, fingerprints.
const FACT_BYTES_MAX: usize = 64 << 10;

/// The store of one node. Clones share it. When the last one is dropped, or
/// [`close`](Self::close) is called, what waits is written and its threads end;
/// the directory is free again when no group and no snapshot is held either.
#[derive(Clone)]
pub struct Store {
    handle: Arc<Handle>,
}

struct Handle {
    core: Arc<Core>,
    identity: [u8; 16],
    threads: Threads,
}

impl Store {
    /// Opens the store in `options.dir`, which is made when missing. Reads what
    /// was written since the last flush, so it may take a second; the time does
    /// not grow with history.
    pub fn open(options: Options) -> Result<Store, OpenError> {
        let dir = &options.dir;
        let io = |source| OpenError::Io {
            path: dir.clone(),
            source,
        };
        let database = dir.join(DATABASE);
        let lock = edge::claim(dir, &database)?;
        let alarm = Alarm::new(options.on_fatal.clone());
        let engine = Engine::open(&database, &options, &alarm)?;
        let found = mark::find(dir).map_err(io)?;
        let before = engine.sequence();
        let identity = settle(&engine, found, &options)?;
        // What a crash left behind unsynced was read again, but is acknowledged
        // only when later writes are.
        let acknowledged = match found {
            Found::Upto(acknowledged) if before > 0 => acknowledged,
            _ => engine.sequence(),
        };
        let mark = Mark::open(dir, acknowledged).map_err(io)?;
        let core = Arc::new(Core {
            engine,
            mark,
            _lock: lock,
            queue: Queue::new(options.queue_bytes_max),
            counters: Counters::default(),
            groups: Registry::default(),
            has_room: AtomicBool::new(true),
            has_reserve: AtomicBool::new(true),
            stop: Stop::default(),
            alarm: alarm.clone(),
            work: Work::default(),
            #[cfg(test)]
            fault: AtomicBool::new(false),
            #[cfg(test)]
            hang: Mutex::default(),
        });
        let threads = Threads::start(&core, database, options.free_bytes_min).map_err(io)?;
        let handle = Arc::new(Handle {
            core,
            identity,
            threads,
        });
        alarm.store_is_open();
        Ok(Store { handle })
    }

    /// Random, made when the directory was: tells an emptied disk from the old.
    pub fn identity(&self) -> [u8; 16] {
        self.handle.identity
    }

    /// A fact about this node that was set before.
    pub fn fact(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        let core = self.core();
        core.queue.check()?;
        core.engine.get(Family::Facts, &keys::fact(name))
    }

    /// Keeps a small fact about this node, on the disk when this returns. It
    /// waits for an fsync, so call it at start, and never from a `Done`.
    ///
    /// # Errors
    /// [`Error::Misuse`] when it is larger than 64 KiB.
    pub fn set_fact(&self, name: &str, value: &[u8]) -> Result<(), Error> {
        if name.len() + value.len() > FACT_BYTES_MAX {
            let detail = format!("the fact \"{name}\" is larger than {FACT_BYTES_MAX} bytes");
            return Err(Error::Misuse(detail));
        }
        let (sender, receiver) = mpsc::sync_channel(1);
        let op = Op {
            group: None,
            steps: vec![Step::Put {
                family: Family::Facts,
                key: keys::fact(name),
                value: value.to_vec(),
            }],
            sync: true,
            then: Then::Nothing,
            // A receiver that is gone no longer wants to know.
            done: Box::new(move |result| drop(sender.send(result))),
        };
        edge::write_through(self.core(), op, &receiver)
    }

    /// Opens a group, which may be new; nothing is written until it is. Takes
    /// three point reads and a seek, however long its history.
    ///
    /// # Errors
    /// [`Error::GroupOpen`] while another handle of it lives.
    pub fn group(&self, id: GroupId) -> Result<Group, Error> {
        let core = self.core();
        core.queue.check()?;
        let opened = core.groups.open(core, id);
        opened.inspect_err(|error| core.alarm.check(error))
    }

    /// Where a group stands, without opening it: as queued if it is open
    /// already, otherwise as it lies on the disk, by three point reads and a
    /// seek. A group that is being written to meanwhile may be further.
    ///
    /// # Errors
    /// When a record cannot be read.
    pub fn standing(&self, id: GroupId) -> Result<Standing, Error> {
        let core = self.core();
        if let Some(shared) = core.groups.memory(id) {
            // The applied mark first: it must not be the later of the two.
            let applied = shared.applied();
            let last = shared.mem().last;
            return Ok(Standing { last, applied });
        }
        let found = HardState::load(core, id).map(|state| Standing {
            last: state.last,
            applied: state.applied,
        });
        found.inspect_err(|error| core.alarm.check(error))
    }

    /// Whether the disk has room for new messages. A cheap read of what was
    /// found at most a second ago.
    pub fn has_room(&self) -> bool {
        self.core().has_room.load(Ordering::Relaxed)
    }

    /// Whether it has room at least for what others have decided: half of what
    /// [`has_room`](Self::has_room) asks for. The rest is for flushes and
    /// compactions.
    pub fn has_reserve(&self) -> bool {
        self.core().has_reserve.load(Ordering::Relaxed)
    }

    /// Whether more waits to be written than the disk keeps up with. Producers
    /// should then hold back until [`ready`](Self::ready).
    pub fn pressure(&self) -> bool {
        self.core().queue.pressure()
    }

    /// Whether so many times more waits than [`pressure`](Self::pressure) begins at
    /// that entries of others must be refused.
    pub fn is_swamped(&self) -> bool {
        self.core().queue.is_swamped()
    }

    /// Resolves when there is no [`pressure`](Self::pressure), or when the store
    /// has closed or failed and the next write will say so.
    pub async fn ready(&self) {
        self.core().queue.ready().await;
    }

    /// The counters as of now.
    pub fn stats(&self) -> Stats {
        let core = self.core();
        Stats {
            queue_length: core.queue.length(),
            queue_bytes: core.queue.bytes(),
            groups_open: core.groups.open_count(),
            ..core.counters.read()
        }
    }

    /// Writes what waits, brings it to the disk, ends the threads. All clones
    /// and groups refuse writes from now on. The directory is free again when
    /// this resolves, unless a clone, a group or a snapshot is still held: then
    /// when that is dropped.
    ///
    /// # Errors
    /// [`Error::Failed`] when the store failed, now or before.
    pub async fn close(self) -> Result<(), Error> {
        edge::close(self, |store| store.handle.shut_down()).await
    }

    #[cfg(feature = "sim")]
    pub(crate) fn threads(&self) -> &Threads {
        &self.handle.threads
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.handle.core
    }

    #[cfg(test)]
    pub(crate) fn plant_fault(&self) {
        self.core().fault.store(true, Ordering::SeqCst);
    }
}

impl Handle {
    /// Ends the threads once what waits is written.
    fn shut_down(&self) -> Result<(), Error> {
        self.core.queue.close();
        self.core.stop.stop();
        self.threads.join();
        self.core.queue.check()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // A failure was told when it happened.
        let _ = self.shut_down();
    }
}

/// Makes the facts of a new directory, or checks those of an old one. Returns
/// its identity.
fn settle(engine: &Engine, found: Found, options: &Options) -> Result<[u8; 16], OpenError> {
    let dir = &options.dir;
    let damaged = |detail: &str| OpenError::Damaged {
        file: dir.join(DATABASE),
        detail: detail.into(),
    };
    let sequence = engine.sequence();
    if let Found::Upto(acknowledged) = found
        && sequence < acknowledged
    {
        return Err(damaged(&format!(
            "it ends at write {sequence}, but writes up to {acknowledged} were acknowledged: the end \
             of its write-ahead log or of its manifest is missing"
        )));
    }
    if sequence == 0 {
        return make_facts(engine, options);
    }
    let fact = |key: &[u8]| match engine.get(Family::Facts, key) {
        Ok(Some(value)) => Ok(value),
        Ok(None) => Err(damaged("the facts about the directory are missing")),
        Err(error) => Err(damaged(&error.to_string())),
    };
    let format = <[u8; 4]>::try_from(fact(keys::FORMAT_FACT)?)
        .map(u32::from_be_bytes)
        .map_err(|_| damaged("its format version is not a number"))?;
    if format != keys::FORMAT {
        return Err(OpenError::OtherFormat {
            dir: dir.clone(),
            found: format,
            supported: keys::FORMAT,
        });
    }
    // A directory of this format has one before its first fact.
    let lost = match found {
        Found::Upto(_) => None,
        Found::Missing => Some("is missing"),
        Found::Unreadable => Some("cannot be read"),
    };
    if let Some(how) = lost {
        return Err(OpenError::Damaged {
            file: dir.join(mark::NAME),
            detail: format!("the mark of what was acknowledged {how}"),
        });
    }
    let cluster = fact(keys::CLUSTER_FACT)?;
    if cluster != options.cluster.as_bytes() {
        return Err(OpenError::OtherCluster {
            dir: dir.clone(),
            found: String::from_utf8_lossy(&cluster).into_owned(),
            wanted: options.cluster.clone(),
        });
    }
    let node = <[u8; 8]>::try_from(fact(keys::NODE_FACT)?)
        .map(u64::from_be_bytes)
        .map_err(|_| damaged("its node id is not a number"))?;
    if node != options.node {
        return Err(OpenError::OtherNode {
            dir: dir.clone(),
            found: node,
            wanted: options.node,
        });
    }
    fact(keys::IDENTITY_FACT)?
        .try_into()
        .map_err(|_| damaged("its identity has another length"))
}

fn make_facts(engine: &Engine, options: &Options) -> Result<[u8; 16], OpenError> {
    let failed = |detail: String| OpenError::Engine {
        dir: options.dir.clone(),
        detail,
    };
    mark::create(&options.dir).map_err(|source| OpenError::Io {
        path: options.dir.join(mark::NAME),
        source,
    })?;
    let mut identity = [0; 16];
    edge::fill_random(&mut identity)
        .map_err(|error| failed(format!("the system has no randomness: {error}")))?;
    let facts = [
        (keys::FORMAT_FACT, keys::FORMAT.to_be_bytes().to_vec()),
        (keys::CLUSTER_FACT, options.cluster.clone().into_bytes()),
        (keys::NODE_FACT, options.node.to_be_bytes().to_vec()),
        (keys::IDENTITY_FACT, identity.to_vec()),
    ];
    let steps = facts.map(|(key, value)| Step::Put {
        family: Family::Facts,
        key: key.to_vec(),
        value,
    });
    engine.write_steps(&steps).map_err(failed)?;
    Ok(identity)
}
