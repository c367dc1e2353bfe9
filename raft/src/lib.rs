//! Accord's replicated part: a Raft group for the directory and one for each channel.
//!
//! A message's way through it: [`Node::submit`] → the group's *lane* (numbered parts, one log entry
//! for all that waits) → `consensus` (openraft: log, replication, commit) → `machine` (pure: rows and
//! outcomes) → [`Delivery`] on every replica, and `feed` on the nodes that hold none.
//!
//! Only the `consensus` folder names openraft. The `machine` folder names no clock, no randomness
//! and no I/O. Links between nodes are in `transport`, which knows nothing of Raft.

mod agenda;
mod api;
mod beat;
mod clock;
mod codec;
mod consensus;
mod directory;
mod edge;
mod failover;
mod feed;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod group;
mod hibernation;
mod history;
pub mod machine;
mod metrics;
pub mod names;
mod node;
mod peers;
mod pending;
#[cfg(feature = "planted-bugs")]
pub mod planted;
mod recovery;
mod remote;
mod room;
mod rows;
mod sequence;
mod service;
mod shared;
#[cfg(feature = "sim")]
pub mod sim;
mod state_hash;
pub mod transport;

pub use api::*;
pub use node::Node;
pub use node::StartError;
pub use pending::Pending;
pub use recovery::command::OldData;
pub use recovery::command::RejoinOptions;
pub use recovery::command::Rejoined;
pub use recovery::command::rejoin;
pub use transport::NodeId;
