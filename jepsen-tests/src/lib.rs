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
//! - no process outlives the test process, however that one ends (`guard`);
//! - a node's data and log are kept, and their path is printed, when a test
//!   fails.

mod api;
pub mod checker;
mod cluster;
mod config;
mod guard;
pub mod history;
mod http;
pub mod nemesis;
mod ports;
mod process;
pub mod raw;
pub mod report;
mod rng;
pub mod run;
mod socket;
pub mod wait;
mod wire;
pub mod workload;
pub mod world;

pub use api::{Api, ApiError, Consistency, link_next, percent_encode, post_until_acknowledged};
pub use cluster::{Cluster, ClusterError, ClusterOptions, NodePlace, Oddity, sweep_abandoned};
pub use config::{ConfigFile, LimitOptions, NodeEntry, RaftOptions};
pub use http::{Http, HttpError, Response};
pub use process::{Launch, NodeProcess, Stopped};
pub use rng::Rng;
pub use socket::{Close, ConnectError, ConnectOptions, Event, Socket, SocketError};
pub use wait::{TimedOut, wait_until};
pub use wire::{
    Channel, ChannelRef, ChannelView, ClusterView, Frame, Kind, Message, NodeView, Problem, Server,
};
