//! Drives real Accord clusters from outside: one process per node, real
//! sockets, real signals.
//!
//! The library knows the product only as its users and operators do: by its
//! command line, its configuration file, its HTTP and WebSocket interface and
//! its log. It links none of the product's crates, so a test that passes here
//! says something about the binary, and a client's bug cannot hide the same bug
//! in the server.
//!
//! Invariants:
//! - nothing waits without a bound: every request, frame and condition has a
//!   deadline, and its error says what was waited for;
//! - no process outlives the test process, however that one ends (`cluster::guard`);
//! - a node's data and log are kept, and their path is printed, when a test
//!   fails.

pub mod agents;
pub mod checker;
mod client;
mod cluster;
pub mod history;
pub mod nemesis;
pub mod report;
mod rng;
pub mod run;
pub mod wait;
pub mod workload;
pub mod world;

pub use client::api::{
    Api, ApiError, Consistency, link_next, percent_encode, post_until_acknowledged,
};
pub use client::events::{Events, SseEvent};
pub use client::http::{Http, HttpError, Response};
pub use client::raw;
pub use client::socket::{Close, ConnectError, ConnectOptions, Event, Socket, SocketError};
pub use client::wire::{
    AgentDelta, Channel, ChannelRef, ChannelView, ClusterView, Frame, Kind, Message, NodeView,
    Problem, Server,
};
pub use cluster::config::{ConfigFile, LimitOptions, NodeEntry, RaftOptions};
pub use cluster::process::{Launch, NodeProcess, Stopped};
pub use cluster::{Cluster, ClusterError, ClusterOptions, NodePlace, Oddity, sweep_abandoned};
pub use rng::Rng;
pub use wait::{TimedOut, wait_until};
