//! A replica of a group, and the adapter to openraft: the only folder of the product that names it.
//!
//! Everything else in this crate speaks of groups, batches and outcomes; this folder turns those
//! into openraft's log store, state machine and network, and keeps the pinned alpha's moving API
//! from leaking. While a term is settled a replica does without openraft: `engine` is what has it
//! take over from `steady` (docs/adr/0017).

mod engine;
mod founding;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod leadership;
mod log_store;
mod network;
mod raft;
mod runtime;
mod snapshot;
mod state_machine;
mod steady;
mod types;
pub(crate) mod wire;

#[cfg(test)]
mod forgetful;
#[cfg(test)]
mod suite;

pub(crate) use leadership::LeaderChanges;
pub(crate) use log_store::purge;
pub(crate) use raft::Consensus;
pub(crate) use raft::ConsensusOptions;
pub(crate) use raft::Opening;
pub(crate) use raft::Place;
pub(crate) use raft::Proposal;
pub(crate) use raft::ProposeError;
pub(crate) use state_machine::Commits;
pub(crate) use steady::Ballot;
pub(crate) use steady::OVERDUE_AFTER;
pub(crate) use steady::SteadyRequest;
pub(crate) use steady::decode as decode_steady;

/// An append request of a leader, opaque outside this folder.
pub(crate) type AppendRequest = openraft::raft::AppendEntriesRequest<types::TypeConfig>;
