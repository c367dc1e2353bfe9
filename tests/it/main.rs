//! Accord's promises, tested from outside: real processes, real sockets.
//!
//! One binary, so that all of it links once and the tests that harm nobody share
//! one three-node cluster. Tests that kill, pause or mislead nodes start a
//! cluster of their own. Every test has a hard deadline and waits on
//! conditions only. `ACCORD_BIN` tests another binary, `ACCORD_SEED` replays a
//! randomised test, `ACCORD_KEEP` keeps data and logs.

// Tests may unwrap: a panic is how they fail.
#![allow(clippy::unwrap_used, clippy::large_futures)]

mod support;

mod any_node;
mod bad_requests;
mod bench;
mod bodies;
mod configuration;
mod connecting;
mod costs;
mod crowd;
mod disk;
mod hibernation;
mod http_manners;
mod idempotency;
mod leader_loss;
mod lists;
mod names;
mod operating;
mod paging;
mod peer_port;
mod plain_socket;
#[cfg(feature = "planted-bugs")]
mod planted;
mod posting;
mod read_your_writes;
mod reads;
mod rejoin;
mod restart;
mod rich_socket;
mod sizes;
mod snapshots;
mod socket_survival;
mod steady;
mod stopping;
mod writer;
