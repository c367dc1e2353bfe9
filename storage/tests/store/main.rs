//! The store as its callers see it, on real files.
#![allow(clippy::unwrap_used)]

mod copy;
mod crash;
mod due;
mod groups;
mod model;
mod opening;
mod snapshots;
mod support;
