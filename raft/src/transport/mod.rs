//! The links between the nodes of one cluster: requests and answers over long-lived TCP connections.
//!
//! It knows nothing of Raft, of storage, or of what a body means. What it promises:
//!
//! - **One connection per ordered pair.** A dials B for A's requests; B answers on that connection.
//! - **Order.** Frames leave in the order of [`Peer::call`] and [`Service::request`] is called in that
//!   order, one call at a time per connection. A newer connection of the same node is served only
//!   after the reading of the older one has ended, so the order also holds across reconnects.
//! - **Every call ends**, and its error says whether the request can have happened ([`CallError`]).
//! - **Nobody talks to a stranger.** A connection carries requests only after both ends have agreed
//!   on protocol, cluster, node ids, settings and storage identity. A refusal is a sentence, logged
//!   on both ends.
//! - **Nothing grows without bound**: queues, frames, handshakes and log lines have named limits.
//!
//! Layout: `frame`, `hello`, `outbox`, `calls`, `liveness` are pure (bytes and time go in, decisions
//! come out); `lane` is what a connection shares with its users; `link`, `handshake`, `dial` and
//! `accept` are the shell that does the sockets.

mod accept;
mod call;
mod calls;
mod dial;
mod disk;
mod frame;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod handshake;
mod hello;
mod lane;
mod link;
mod liveness;
mod outbox;
mod peer;
mod stats;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::task::JoinSet;

use accept::Incoming;
use liveness::{LogLimit, Sightings};

use crate::beat::Beat;
use peer::PeerState;
use stats::Counters;

use crate::edge::TcpListener;

pub use call::{Call, CallError, Reply};
pub use disk::{Admitted, Disk};
pub use frame::{BODY_BYTES_MAX, FRAME_BYTES_MAX};
pub use hello::Reason;
pub use lane::CALLS_MAX;
pub use liveness::{Sighting, View};
pub use outbox::{QUEUE_BYTES_MAX, QUEUE_FRAMES_MAX};
pub use peer::Peer;
pub use stats::{Refused, TransportStats};

/// The number of a node, the same in every node's configuration.
pub type NodeId = u64;

/// What one node must know to talk to the others.
#[derive(Clone, Debug)]
pub struct Config {
    /// The cluster's name; both ends of a connection must have the same one (at most 255 bytes).
    pub cluster: String,
    pub node: NodeId,
    pub disk: Disk,
    /// The settings that must agree, as an operator would read them, for example
    /// `replication=3 nodes=1,2,3` (at most 4,096 bytes).
    pub fingerprint: String,
    /// Port 0 picks a free port; see [`Transport::local_addr`].
    pub listen: SocketAddr,
    /// The other nodes. An entry for `node` itself is ignored.
    pub peers: Vec<PeerAddress>,
    pub timing: Timing,
    /// The moments at which all links do what they do in time.
    pub beat: Beat,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAddress {
    pub node: NodeId,
    /// `host:port`, resolved anew at each dial.
    pub addr: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Each connection carries a ping of the node that accepted it at least this often, all of them at the
    /// same moments; the one that dialled it may be silent ten times as long.
    pub ping_every: Duration,
    /// A connection from which nothing came for so long is closed by the node that dialled it; at least
    /// three `ping_every`.
    pub silent_after: Duration,
    /// Bounds of the pause between two dials; it doubles from one failure to the next, with jitter.
    pub redial_min: Duration,
    pub redial_max: Duration,
    /// Connecting and agreeing must be done within this time, on either side.
    pub handshake_timeout: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            ping_every: Duration::from_millis(330),
            silent_after: Duration::from_secs(1),
            redial_min: Duration::from_millis(50),
            redial_max: Duration::from_secs(1),
            handshake_timeout: Duration::from_secs(3),
        }
    }
}

/// What the transport asks of its user.
pub trait Service: Send + Sync + 'static {
    /// A request came. Called in frame order, one call at a time per connection, on the task that
    /// reads the connection: it must only enqueue, never block.
    ///
    /// The body shares its buffer (at most 64 KiB, or the frame itself if larger) with the frames
    /// that came with it: copy what you keep for long.
    fn request(&self, from: NodeId, kind: u8, body: Bytes, reply: Reply);

    /// Is `disk` the one that the cluster knows as `node`'s? Trust on first use belongs here; an
    /// error refuses the connection with that text, on both sides. May block for a disk write: it is
    /// called on a thread made for that, once per handshake, possibly for one node twice at once.
    fn admit(&self, node: NodeId, disk: Disk) -> Result<(), String>;

    /// Calls to this node can be made from now on. Must not block.
    fn peer_up(&self, node: NodeId);

    /// The outgoing link was lost or fell silent; every call that was under way has ended with
    /// [`CallError::Lost`]. One call per transition. Must not block.
    fn peer_down(&self, node: NodeId);
}

/// One node's end of all its links. Dropping it stops it too, without waiting.
pub struct Transport {
    shared: Arc<Shared>,
    local_addr: SocketAddr,
    tasks: Mutex<Option<JoinSet<()>>>,
}

impl Transport {
    /// Binds, listens, and dials every peer for ever, with back-off. Must be called on a tokio
    /// runtime.
    ///
    /// # Errors
    /// The address cannot be bound, or the configuration contradicts itself (`InvalidInput`).
    pub async fn start(config: Config, service: Arc<dyn Service>) -> io::Result<Self> {
        check(&config).map_err(|text| io::Error::new(io::ErrorKind::InvalidInput, text))?;
        let listener = TcpListener::bind(config.listen).await?;
        let local_addr = listener.local_addr()?;
        let shared = Arc::new(Shared::new(config, service));
        let mut tasks = JoinSet::new();
        tasks.spawn(accept::run(Arc::clone(&shared), listener));
        for peer in shared.peers.values() {
            tasks.spawn(dial::run(Arc::clone(&shared), Arc::clone(peer)));
        }
        Ok(Self {
            shared,
            local_addr,
            tasks: Mutex::new(Some(tasks)),
        })
    }

    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// A handle for calls to this node; `None` if it is not in the configuration.
    pub fn peer(&self, node: NodeId) -> Option<Peer> {
        self.shared
            .peers
            .get(&node)
            .map(|state| Peer::new(Arc::clone(state)))
    }

    /// Which nodes we see now (their outgoing link is up), and which nodes each of them said in its
    /// last ping that it sees. A change is told to the others at once, not with the next due ping.
    pub fn alive(&self) -> View {
        let sightings = self.shared.peers.values().filter_map(|peer| {
            let (node, sees) = (peer.node, peer.sees());
            peer.is_up().then_some(Sighting { node, sees })
        });
        View {
            node: self.shared.config.node,
            sightings: sightings.collect(),
        }
    }

    /// Changes whenever [`Transport::alive`] would answer something new.
    pub fn alive_changes(&self) -> watch::Receiver<u64> {
        self.shared.alive_changes.subscribe()
    }

    pub fn stats(&self) -> TransportStats {
        self.shared.counters.read()
    }

    /// Closes every link and waits until no task of the transport runs. Calls under way end with
    /// [`CallError::Lost`], later ones with [`CallError::Down`]. Can be called again.
    pub async fn stop(&self) {
        self.shared.stop();
        let tasks = locked(&self.tasks).take();
        if let Some(mut tasks) = tasks {
            while tasks.join_next().await.is_some() {}
        }
    }
}

impl Drop for Transport {
    fn drop(&mut self) {
        self.shared.stop();
    }
}

/// What all tasks of one transport share.
struct Shared {
    config: Config,
    service: Arc<dyn Service>,
    peers: BTreeMap<NodeId, Arc<PeerState>>,
    /// The connection that serves each dialling node; a newer one replaces it.
    incoming: Mutex<BTreeMap<NodeId, Incoming>>,
    /// What our pings say.
    sightings: Sightings,
    alive_changes: watch::Sender<u64>,
    counters: Counters,
    warnings: Mutex<LogLimit>,
    stopped: watch::Sender<bool>,
}

impl Shared {
    fn new(config: Config, service: Arc<dyn Service>) -> Self {
        let others = config.peers.iter().filter(|peer| peer.node != config.node);
        let peers = others
            .map(|peer| (peer.node, Arc::new(PeerState::new(peer))))
            .collect();
        Self {
            config,
            service,
            peers,
            incoming: Mutex::default(),
            sightings: Sightings::default(),
            alive_changes: watch::Sender::new(0),
            counters: Counters::default(),
            warnings: Mutex::default(),
            stopped: watch::Sender::new(false),
        }
    }

    fn is_stopped(&self) -> bool {
        *self.stopped.borrow()
    }

    async fn until_stopped(&self) {
        // The sender lives as long as `self`; were it gone, that would be the end too.
        let _ = self.stopped.subscribe().wait_for(|stopped| *stopped).await;
    }

    /// The flag first, then the lanes: whoever registers a lane later looks at the flag after that.
    fn stop(&self) {
        self.stopped.send_replace(true);
        self.each_lane(|lane| lane.close());
    }

    /// The set of nodes that we see has changed: tell it on every link now. The set is read while it
    /// is being replaced, under a lock, so that of two changes at once none is undone.
    fn sightings_changed(&self) {
        let up = self
            .peers
            .values()
            .filter(|peer| peer.is_up())
            .map(|peer| peer.node);
        self.sightings.set(up);
        self.each_lane(|lane| lane.nudge());
        self.alive_changed();
    }

    fn alive_changed(&self) {
        self.alive_changes.send_modify(|version| *version += 1);
    }

    fn each_lane(&self, act: impl Fn(&lane::Lane)) {
        self.peers
            .values()
            .filter_map(|peer| peer.lane())
            .for_each(|lane| act(&lane));
        locked(&self.incoming)
            .values()
            .for_each(|incoming| act(&incoming.lane));
    }

    /// Should this be logged, or was it said just now?
    fn may_warn(&self, text: &str) -> bool {
        locked(&self.warnings).allows(text, Instant::now())
    }
}

/// A panic while a lock was held leaves counters and queues that are still whole: every critical
/// section here changes its data in steps that each leave it valid.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Most nodes of one cluster: bounds a ping (8 KiB) and the tasks of one transport.
pub const NODES_MAX: usize = 1_024;

fn check(config: &Config) -> Result<(), String> {
    let timing = &config.timing;
    if config.cluster.len() > hello::CLUSTER_BYTES_MAX {
        return Err(format!(
            "the cluster's name is longer than {} bytes",
            hello::CLUSTER_BYTES_MAX
        ));
    }
    if config.fingerprint.len() > hello::FINGERPRINT_BYTES_MAX {
        return Err(format!(
            "the fingerprint is longer than {} bytes",
            hello::FINGERPRINT_BYTES_MAX
        ));
    }
    if config.peers.len() > NODES_MAX {
        return Err(format!("a cluster has at most {NODES_MAX} nodes"));
    }
    let mut nodes: Vec<NodeId> = config.peers.iter().map(|peer| peer.node).collect();
    nodes.sort_unstable();
    if let Some(twice) = nodes.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(format!("node {} is named twice among the peers", twice[0]));
    }
    if timing.ping_every.is_zero() || timing.silent_after < timing.ping_every * 3 {
        return Err("silent_after must be at least three times ping_every".to_owned());
    }
    if timing.redial_min.is_zero() || timing.redial_max < timing.redial_min {
        return Err(
            "redial_max must be at least redial_min, and that more than nothing".to_owned(),
        );
    }
    Ok(())
}
