//! One other node: a handle for calls, and the state behind it that outlives connections.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;

use super::call::{Call, CallError};
use super::lane::Lane;
use super::{NodeId, PeerAddress, locked};

/// A handle for calls to one other node; cheap to clone, valid across reconnects.
#[derive(Clone)]
pub struct Peer(Arc<PeerState>);

impl Peer {
    pub(super) fn new(state: Arc<PeerState>) -> Self {
        Self(state)
    }

    /// A node that takes whatever it is asked and answers nothing.
    #[cfg(test)]
    pub(crate) fn silent(node: NodeId) -> Self {
        let state = PeerState::new(&PeerAddress {
            node,
            addr: String::new(),
        });
        state.went_up(Arc::new(Lane::new()));
        Self(Arc::new(state))
    }

    /// Ends the link to a node that was silent.
    #[cfg(test)]
    pub(crate) fn lose(&self) {
        self.0.went_down("a test".into());
    }

    pub fn node(&self) -> NodeId {
        self.0.node
    }

    /// Can calls be made now?
    pub fn is_up(&self) -> bool {
        self.0.is_up()
    }

    /// Enqueues a request at once: the order of calls is the order in which the other node gets
    /// them, also across reconnects. The call ends at most 20 ms after `deadline` if not before. A
    /// body has at most [`BODY_BYTES_MAX`](super::BODY_BYTES_MAX) bytes.
    pub fn call(&self, kind: u8, body: Bytes, deadline: Duration) -> Call {
        self.call_slice(kind, std::slice::from_ref(&body), deadline)
    }

    /// As [`Peer::call`], with the body in parts, which are written one after the other without
    /// being copied together.
    pub fn call_parts(&self, kind: u8, parts: Vec<Bytes>, deadline: Duration) -> Call {
        self.call_slice(kind, &parts, deadline)
    }

    /// Why the last dial failed, or the last link was lost; `None` while the link is up.
    pub fn trouble(&self) -> Option<String> {
        locked(&self.0.trouble).clone()
    }

    fn call_slice(&self, kind: u8, parts: &[Bytes], deadline: Duration) -> Call {
        let lane = self.0.lane.read().unwrap_or_else(PoisonError::into_inner);
        match &*lane {
            Some(lane) => lane.call(kind, parts, deadline),
            None => Call::failed(CallError::Down),
        }
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Peer({})", self.0.node)
    }
}

pub(super) struct PeerState {
    pub(super) node: NodeId,
    pub(super) addr: String,
    /// Cuts the dialling task's pause short: the other node was just heard of.
    pub(super) redial: Notify,
    /// Of the outgoing connection, while it is up.
    lane: RwLock<Option<Arc<Lane>>>,
    /// What the node said that it sees, on this connection.
    sees: Mutex<Option<Arc<[NodeId]>>>,
    trouble: Mutex<Option<String>>,
}

impl PeerState {
    pub(super) fn new(peer: &PeerAddress) -> Self {
        Self {
            node: peer.node,
            addr: peer.addr.clone(),
            redial: Notify::new(),
            lane: RwLock::default(),
            sees: Mutex::default(),
            trouble: Mutex::default(),
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.lane().is_some_and(|lane| lane.is_open())
    }

    pub(super) fn lane(&self) -> Option<Arc<Lane>> {
        self.lane
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) fn went_up(&self, lane: Arc<Lane>) {
        *locked(&self.trouble) = None;
        *self.lane.write().unwrap_or_else(PoisonError::into_inner) = Some(lane);
    }

    pub(super) fn went_down(&self, trouble: String) {
        *self.lane.write().unwrap_or_else(PoisonError::into_inner) = None;
        *locked(&self.sees) = None;
        self.failed(trouble);
    }

    pub(super) fn failed(&self, trouble: String) {
        *locked(&self.trouble) = Some(trouble);
    }

    pub(super) fn sees(&self) -> Option<Arc<[NodeId]>> {
        locked(&self.sees).clone()
    }

    /// True if that is news.
    pub(super) fn said(&self, sees: Arc<[NodeId]>) -> bool {
        let mut known = locked(&self.sees);
        let is_news = known.as_ref() != Some(&sees);
        *known = Some(sees);
        is_news
    }
}
