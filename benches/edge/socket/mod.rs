//! Stands around the node's WebSocket writer as its own folder does.

#[path = "../../../src/socket/close.rs"]
pub mod close;
#[path = "../../../src/socket/wire.rs"]
pub mod wire;

pub mod session {
    /// As much as a session hands over at once (src/socket/session.rs).
    pub const FLUSH_BYTES_MAX: usize = 32 << 10;
}
