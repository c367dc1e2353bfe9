//! Nothing, unless the feature `fuzzing` is on: fuzz targets need a library, and the node is a
//! program. Then it holds the modules that decode what clients and operators write.
#![cfg(feature = "fuzzing")]
#![allow(dead_code, reason = "the rest of each module serves the program")]

mod agents;
mod api;
mod app;
mod config;
mod counters;
mod delivery;
pub mod fuzzing;
mod listen;
#[cfg(feature = "planted-bugs")]
mod planted;
mod process;
mod socket;
