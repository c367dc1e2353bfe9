//! What the node sees of the replicated store: plain values, no Raft.
//!
//! Every error says whether a write certainly did not happen or may have happened; nothing here
//! leaves that open.

mod agenda;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use uuid::Uuid;

use crate::machine::Committed;
use crate::machine::Message;
use crate::names::IdempotencyKey;
use crate::names::MessageBody;
use crate::names::Username;
use crate::transport::NodeId;

pub use agenda::*;

pub use crate::machine::directory::Channel;
pub use crate::machine::directory::Server;

/// How one node takes part in the cluster. Everything under "must agree" is compared by the peers'
/// handshake.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// Name of the cluster; must agree.
    pub cluster: String,
    /// This node.
    pub node: NodeId,
    /// All nodes of the cluster, this one included; ids must agree.
    pub members: Vec<Member>,
    /// Replicas of each channel; must agree.
    pub replication: usize,
    /// Where this node keeps its data.
    pub data_dir: PathBuf,
    /// Where this node listens for its peers.
    pub listen: SocketAddr,
    pub timing: Timing,
    pub snapshots: SnapshotPolicy,
    pub hibernation: Hibernation,
    /// Bytes of RocksDB's block cache.
    pub block_cache_bytes: usize,
    /// Free disk space, in bytes, under which new messages are refused.
    pub free_bytes_min: u64,
}

/// One node of the cluster as the configuration names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub node: NodeId,
    /// `host:port` of its peer listener, resolved at each dial.
    pub peer: String,
    /// Where it stands; replicas of one channel are spread over zones.
    pub zone: Option<String>,
}

/// Raft's timers. They only decide how soon a silent failure is noticed, never correctness. A node's
/// death is noticed by its links, so these are long: each open group pays for them.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Lower bound of the election timeout; the upper bound is twice that.
    pub election_timeout: Duration,
    pub heartbeat: Duration,
    /// How long a write or a linearizable read may wait for a leader before it is refused.
    pub request_timeout: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Timing {
            election_timeout: Duration::from_millis(6_000),
            heartbeat: Duration::from_millis(2_000),
            request_timeout: Duration::from_millis(4_500),
        }
    }
}

/// When a channel falls asleep on this node. It wakes by itself at the next request.
#[derive(Clone, Copy, Debug)]
pub struct Hibernation {
    /// How long nobody has used it.
    pub idle: Duration,
    /// More channels than this are not kept awake for `idle`: the least recently used ones fall asleep
    /// first.
    pub awake_max: usize,
}

impl Default for Hibernation {
    fn default() -> Self {
        Hibernation {
            idle: Duration::from_secs(10),
            awake_max: 2_000,
        }
    }
}

/// When a group's log is cut.
#[derive(Clone, Copy, Debug)]
pub struct SnapshotPolicy {
    /// Entries since the last snapshot that lead to the next one.
    pub after_entries: u64,
    /// Entries below the snapshot that stay readable for followers that lag a little.
    pub keep_entries: u64,
}

impl Default for SnapshotPolicy {
    fn default() -> Self {
        SnapshotPolicy {
            after_entries: 10_000,
            keep_entries: 1_000,
        }
    }
}

/// What a read may miss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// Sees every write that was acknowledged, through any node, before the read began.
    Linearizable,
    /// Sees what this node has applied.
    Stale,
}

/// A message on its way in. The id is minted by the node that took it, and makes it recognisable
/// through retries.
#[derive(Clone, Debug)]
pub struct Draft {
    pub id: Uuid,
    pub username: Username,
    pub body: MessageBody,
    pub key: Option<IdempotencyKey>,
    /// The message is refused unless the channel's head is this.
    pub expected_head: Option<u64>,
    pub reply_to: Option<Uuid>,
    /// It is a command, and makes a job.
    pub call: Option<Call>,
}

/// Where a message stands in its channel for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// 1, 2, 3 …, gapless within the channel.
    pub seq: u64,
    /// Unix time in milliseconds, never decreasing within the channel.
    pub timestamp_ms: u64,
    pub id: Uuid,
    /// An earlier message with the same idempotency key is the answer.
    pub repeated: bool,
}

/// Which stretch of a channel to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Range {
    /// The newest `limit`, newest first.
    Latest { limit: usize },
    /// Those below `seq`, newest first.
    Before { seq: u64, limit: usize },
    /// Those above `seq`, oldest first.
    After { seq: u64, limit: usize },
}

#[derive(Clone, Debug)]
pub struct Messages {
    /// In the order that the range asked for.
    pub messages: Vec<Message>,
    /// The channel's head as the answering node had applied it.
    pub head: u64,
}

/// One page of a list in order of creation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// Pass it as `after` to go on; `None` at the end.
    pub next: Option<u64>,
}

/// Why a write did not give an answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    #[error("the channel's head is {head}")]
    HeadMismatch { head: u64 },
    #[error("this idempotency key was used for another message")]
    KeyReused,
    #[error("no such server")]
    NoSuchServer,
    /// Certainly not written: as many jobs of the channel have not ended as it may have.
    #[error("the channel has too many jobs that have not ended; nothing was written")]
    TooManyJobs,
    /// Certainly not written: as many messages are scheduled in the channel as may be.
    #[error("the channel has too many scheduled messages; nothing was written")]
    TooManyScheduled,
    /// Certainly not written: no leader took it in time.
    #[error("no leader could be reached in time; nothing was written")]
    NoLeader,
    /// May have been written, or may yet be.
    #[error("the write may or may not have happened")]
    OutcomeUnknown,
    /// Certainly not written: too much is waiting already.
    #[error("too many writes are waiting; nothing was written")]
    Busy,
    /// Certainly not written: the disk is nearly full.
    #[error("the disk is nearly full; nothing was written")]
    NoRoom,
    /// Certainly not written: this node is stopping.
    #[error("this node is stopping; nothing was written")]
    Stopping,
}

/// Why a read did not give an answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    #[error("no such server or channel")]
    NotFound,
    #[error("no leader could be reached in time")]
    NoLeader,
    #[error("too many reads are waiting")]
    Busy,
    #[error("this node is stopping")]
    Stopping,
    /// This node lost its disk and has not caught up with the group again.
    #[error("this node's replica is recovering after a lost disk")]
    Recovering,
    #[error("the stored data could not be read: {0}")]
    Storage(String),
}

/// Where committed messages go on this node. Called by the group's applying task in commit order,
/// so it must be quick and must not block.
pub trait Delivery: Send + Sync + 'static {
    /// `batch` follows without a gap on what was delivered before for this channel, from
    /// [`Attachment::head`] on. Batches of channels without an attachment may come too.
    fn committed(&self, channel: Uuid, batch: &Arc<Committed>);

    /// This node caught up by a snapshot: the channel's head is now `head`, and the messages between
    /// what was delivered and `head` are read with `messages` only.
    fn skipped(&self, channel: Uuid, head: u64);

    /// Something that a node broadcast to all: unreplicated, best effort, unordered.
    fn ephemeral(&self, channel: Uuid, event: &Bytes);

    /// The channels whose messages somebody on this node waits for.
    fn followed(&self) -> Vec<Uuid>;
}

/// This node's standing wish to be told of a channel's messages; ends when dropped.
#[derive(Debug)]
pub struct Attachment {
    /// Messages above this seq are delivered; those up to it are read with `messages`.
    pub head: u64,
    /// Ends a feed when dropped.
    pub(crate) _hold: Option<tokio::sync::oneshot::Sender<()>>,
}

/// The cluster as this node sees it.
#[derive(Clone, Debug)]
pub struct Status {
    pub cluster: String,
    pub node: NodeId,
    pub members: Vec<MemberStatus>,
    pub groups_open: usize,
    pub groups_leading: usize,
    pub directory: GroupStatus,
    /// Why this node is not ready, if it is not.
    pub not_ready: Option<String>,
}

#[derive(Clone, Debug)]
pub struct MemberStatus {
    pub member: Member,
    pub up: bool,
}

#[derive(Clone, Debug, Default)]
pub struct GroupStatus {
    pub leader: Option<NodeId>,
    pub term: u64,
    /// Index of the last applied log entry here.
    pub applied: u64,
    /// Index of the last log entry here.
    pub last: u64,
    /// Term of that entry.
    pub last_term: u64,
}

#[derive(Clone, Debug)]
pub struct ChannelStatus {
    pub channel: Arc<Channel>,
    pub raft: GroupStatus,
    /// Newest seq applied here.
    pub head: u64,
}

/// What a replica's applied state comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateHash {
    /// Index of the last log entry that it covers.
    pub applied: u64,
    /// SHA-256; equal on all replicas with equal `applied`.
    pub hash: [u8; 32],
}

/// Counters for `/metrics`, all since the process started.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// `(name without prefix, help, kind is counter, value)`; base units.
    pub values: Vec<(&'static str, &'static str, bool, f64)>,
    /// Refused peer connections by reason.
    pub peer_refused: Vec<(&'static str, u64)>,
    /// fsync latency: upper bounds in seconds and cumulative counts, then sum in seconds.
    pub fsync_seconds: (Vec<(f64, u64)>, f64),
}
