//! A model server that fails as it is told: chat completions over real HTTP on loopback.
//!
//! Agents of the nodes under test are pointed at it. What it does with a call is decided by the
//! command itself, or by a seed, so that a test and a replay know what comes; what it was asked it
//! keeps in a ledger by idempotency key, since at-least-once is what it is promised.

mod behaviour;
mod endpoint;
mod http;

pub use behaviour::{Behaviour, Script};
pub use endpoint::{Asked, Endpoint};
