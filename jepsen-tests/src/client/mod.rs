//! What users and their programs have: HTTP and WebSocket, and what both carry.

pub mod api;
pub mod events;
pub mod http;
pub mod raw;
pub mod socket;
pub mod wire;
