//! What the node counts about its clients, for `/metrics`.
//!
//! Plain atomics without labels that grow with use: a counter exists from the start and there is
//! none per channel, user or address.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

/// All since the process started.
#[derive(Debug, Default)]
pub struct Counters {
    /// HTTP answers by the first digit of their status, 1 to 5.
    pub http_answers: [Counter; 5],
    /// Connections closed because what came was no HTTP/1.1 request.
    pub http_rejected_malformed: Counter,
    /// Connections closed because no whole request head came in time.
    pub http_rejected_slow: Counter,
    /// Connections that ended in the middle of a request.
    pub http_rejected_incomplete: Counter,
    /// WebSockets opened.
    pub sockets_opened: Counter,
    /// WebSockets refused because there were too many.
    pub sockets_refused: Counter,
    /// Sockets closed because their client did not read.
    pub slow_readers: Counter,
    /// Sockets closed because their client did not answer pings.
    pub silent_sockets: Counter,
    /// Messages that clients asked to be written, over REST and sockets.
    pub messages_in: Counter,
    /// Message frames written to sockets.
    pub messages_out: Counter,
    /// Acknowledgements written to sockets.
    pub acks: Counter,
    /// Error frames written to sockets.
    pub errors: Counter,
    /// Pages read from storage for sockets that had fallen behind, or resumed.
    pub catch_up_pages: Counter,
    /// Ephemeral events that were not passed on: too fast, too large, or not text.
    pub ephemeral_dropped: Counter,
}

#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Relaxed);
    }

    pub fn one(&self) {
        self.add(1);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

impl Counters {
    pub fn http_answered(&self, status: u16) {
        let class = usize::from(status / 100).clamp(1, 5) - 1;
        self.http_answers[class].one();
    }
}
