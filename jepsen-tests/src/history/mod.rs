//! What clients did and saw during a run, and what was done to the cluster meanwhile.
//!
//! A history is plain data: workloads write it, checkers read it, and nothing in it depends on how
//! either works. Times are nanoseconds of the harness's monotonic clock since the run began; all
//! clients share that clock, so "returned before it was invoked" means what it says.

pub mod clock;
pub mod edn;
pub mod jsonl;
pub mod recorder;
#[cfg(test)]
mod sample;

use serde::{Deserialize, Serialize};

pub use clock::RunClock;
pub use recorder::Recorder;

/// Nanoseconds since the run began.
pub type Nanos = u64;

/// One channel of the run, by its place in [`History::channels`].
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct ChannelIx(pub u32);

/// A whole run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    pub seed: u64,
    pub nodes: Vec<u64>,
    /// Channels that messages are sent to, as `server/channel` ids.
    pub channels: Vec<String>,
    /// In order of their invocation.
    pub operations: Vec<Operation>,
    /// In order of their opening.
    pub streams: Vec<Stream>,
    /// In order of their beginning.
    pub faults: Vec<FaultRecord>,
    /// What every node holds after everything was healed; absent if the run ended before.
    pub ending: Option<Ending>,
}

/// One request of one client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Unique in the run.
    pub id: u64,
    /// The client, Jepsen's process: at most one operation of it is under way at a time. A client
    /// whose operation ended as [`Outcome::Info`] goes on under a new number.
    pub process: u32,
    /// The node that was asked.
    pub node: u64,
    pub invoked: Nanos,
    /// None if nothing came back before the run ended.
    pub returned: Option<Nanos>,
    pub action: Action,
    pub outcome: Outcome,
}

/// Which interface an append went through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Via {
    Rest,
    PlainSocket,
    RichSocket,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "f", rename_all = "snake_case")]
pub enum Action {
    /// Sends one message. Every body of a run is unique but for retries, which repeat `key` and
    /// body of an earlier append by the same user.
    Append {
        channel: ChannelIx,
        user: String,
        body: String,
        /// `Idempotency-Key`, or `nonce` on a rich socket.
        key: Option<String>,
        /// `If-Match`: only if the channel's head is this.
        if_head: Option<u64>,
        via: Via,
    },
    /// Reads messages.
    Read {
        channel: ChannelIx,
        linearizable: bool,
        range: Range,
    },
    /// Names are unique in the run, so that a failed creation is known by its name.
    CreateServer { name: String },
    /// As with servers; `server` is an id.
    CreateChannel { server: String, name: String },
    /// Lists all servers, linearizably, all pages.
    ListServers,
    /// Lists all channels of a server, linearizably, all pages.
    ListChannels { server: String },
}

/// Which stretch of a channel a read asks for; seqs are exclusive bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Range {
    /// The newest `limit`.
    Latest { limit: u32 },
    /// The oldest `limit` after `seq`.
    After { seq: u64, limit: u32 },
    /// The newest `limit` before `seq`.
    Before { seq: u64, limit: u32 },
}

/// How an operation ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Outcome {
    /// It happened.
    Ok { value: Value },
    /// It certainly did not happen and never will.
    Fail { status: Option<u16>, why: String },
    /// It may have happened, or may still happen.
    Info { status: Option<u16>, why: String },
}

/// What a successful operation answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Value {
    Appended(Seen),
    Read {
        /// Oldest first, whatever the range.
        messages: Vec<Seen>,
        /// `Accord-Seq`: up to where the answer's state goes.
        head: u64,
    },
    /// The id of a new server or channel.
    Created(String),
    /// Servers or channels, in the order listed.
    Listed(Vec<Listed>),
}

/// One server or channel in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    pub id: String,
    pub name: String,
}

/// One message as somebody saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    pub seq: u64,
    pub id: String,
    pub user: String,
    pub body: String,
    /// Unix time in milliseconds, as stamped by the leader.
    pub timestamp: u64,
    /// Whose answer it is, and to what; none for what clients send.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply: Option<Reply>,
}

/// What makes a message an agent's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    pub agent: String,
    /// The id of the command.
    pub to: Option<String>,
}

impl Seen {
    /// The agent that the message calls. In a run a message of a client begins with a slash if, and
    /// only if, it is a command.
    pub fn command(&self) -> Option<&str> {
        let word = self.body.strip_prefix('/')?.split(' ').next()?;
        self.reply.is_none().then_some(word)
    }
}

/// One connection that receives a channel's messages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stream {
    /// Unique in the run.
    pub id: u64,
    /// The subscriber; it may go on with another stream, on another node.
    pub subscriber: u32,
    pub node: u64,
    pub channel: ChannelIx,
    pub via: Via,
    /// The seq that it asked to go on after; none for live messages only.
    pub after: Option<u64>,
    pub opened: Nanos,
    /// When the upgrade was answered; none if it never was (then `events` is empty).
    pub connected: Option<Nanos>,
    /// The seq in the `hello` of a rich socket.
    pub hello: Option<u64>,
    /// In order of arrival.
    pub events: Vec<StreamEvent>,
    pub ended: Option<Nanos>,
    pub end: StreamEnd,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamEvent {
    pub at: Nanos,
    pub seen: Seen,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "how", rename_all = "snake_case")]
pub enum StreamEnd {
    /// Still open when the run ended, after every node was healed and had time to send.
    Open,
    /// The client left on purpose.
    Left,
    /// The server closed it.
    Closed { code: Option<u16>, reason: String },
    /// The connection broke, or was never made.
    Broken { why: String },
}

/// One fault that was injected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultRecord {
    /// Its name, such as `kill` or `power_loss`.
    pub kind: String,
    /// What exactly, for a reader.
    pub detail: String,
    pub nodes: Vec<u64>,
    pub began: Nanos,
    /// When it was undone; none if the run ended first.
    pub ended: Option<Nanos>,
    /// Whether it took effect, and by what that was seen.
    pub bite: Bite,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "bit", rename_all = "snake_case")]
pub enum Bite {
    /// It took effect; the evidence says how that is known.
    Yes { evidence: String },
    /// It did not, so the run proves nothing about it.
    No { evidence: String },
}

/// The end of a run, read after healing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    /// When healing began, and when each node was ready after it (none: never in the time given).
    pub healed: Nanos,
    pub ready: Vec<(u64, Option<Nanos>)>,
    /// When a write to each channel was first acknowledged after healing. These writes are
    /// operations of the history too.
    pub writable: Vec<(ChannelIx, Option<Nanos>)>,
    /// The nodes that hold a replica of each channel, and so owe a state hash.
    #[serde(default)]
    pub replicas: Vec<(ChannelIx, Vec<u64>)>,
    /// Each channel's whole log as each node holds it, by stale reads of that node's own state.
    pub logs: Vec<FinalLog>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FinalLog {
    pub channel: ChannelIx,
    pub node: u64,
    /// Oldest first, from seq 1.
    pub messages: Vec<Seen>,
    /// Hash of the replica's applied state, and the log index that it is of; none on a node that
    /// holds no replica.
    pub state_hash: Option<(u64, String)>,
}
