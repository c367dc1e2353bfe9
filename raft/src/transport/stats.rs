//! Counters of one transport: what went over the wire, and what was refused.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::hello::{Reason, Refusal};
use super::locked;

/// All links of one transport together, since its start. Handshakes are not counted as frames.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TransportStats {
    pub frames_in: u64,
    pub frames_out: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// Outgoing connections that came up, and how many of them replaced a lost one.
    pub connects: u64,
    pub reconnects: u64,
    /// Incoming connections that were agreed.
    pub accepts: u64,
    /// Connections that we or the other end refused, by reason.
    pub refused: Refused,
    /// The sentence that went with the latest of them.
    pub last_refusal: Option<String>,
}

/// Numbers of refused connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refused([u64; Reason::ALL.len()]);

impl Refused {
    pub fn of(&self, reason: Reason) -> u64 {
        self.0[usize::from(reason.code())]
    }

    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) frames_in: Counter,
    pub(super) frames_out: Counter,
    pub(super) bytes_in: Counter,
    pub(super) bytes_out: Counter,
    pub(super) connects: Counter,
    pub(super) reconnects: Counter,
    pub(super) accepts: Counter,
    refused: [Counter; Reason::ALL.len()],
    last_refusal: Mutex<Option<String>>,
}

impl Counters {
    pub(super) fn refused(&self, refusal: &Refusal) {
        self.refused[usize::from(refusal.reason.code())].add(1);
        *locked(&self.last_refusal) = Some(refusal.text.clone());
    }

    pub(super) fn read(&self) -> TransportStats {
        TransportStats {
            frames_in: self.frames_in.get(),
            frames_out: self.frames_out.get(),
            bytes_in: self.bytes_in.get(),
            bytes_out: self.bytes_out.get(),
            connects: self.connects.get(),
            reconnects: self.reconnects.get(),
            accepts: self.accepts.get(),
            refused: Refused(self.refused.each_ref().map(Counter::get)),
            last_refusal: locked(&self.last_refusal).clone(),
        }
    }
}

/// Only ever read as a number of its own, so no order with other memory is needed.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, more: usize) {
        self.0.fetch_add(more as u64, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
