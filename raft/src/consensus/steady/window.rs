//! How much a leader sends a follower before it has heard of what it sent earlier. Pure.
//!
//! Without a bound a follower whose disk is slow would make the leader's queue to it, and its own to
//! its disk, as long as a busy channel likes, since the others commit without it.

use std::time::Duration;

/// Requests without an answer from which on a leader waits: those of a tenth of a second of a busy
/// channel, in which an fsync may take that long, and a quarter of what a follower lets wait.
pub(super) const REQUESTS_MAX: usize = 64;
/// Bytes of them: two of the largest batches.
const BYTES_MAX: usize = 8 * 1024 * 1024;
/// How long a leader waits for a follower that owes it so much to answer half of it. That holds up
/// everybody who writes, so after that openraft takes over, which lets a follower lag behind.
pub(super) const CROWDED_MAX: Duration = Duration::from_secs(1);

/// What a follower has been sent and has not answered.
#[derive(Default)]
pub(super) struct Window {
    requests: usize,
    bytes: usize,
}

impl Window {
    pub(super) fn sent(&mut self, bytes: usize) {
        self.requests += 1;
        self.bytes += bytes;
    }

    /// A request of so many bytes that was sent before.
    pub(super) fn answered(&mut self, bytes: usize) {
        self.requests -= 1;
        self.bytes -= bytes;
    }

    #[cfg(test)]
    pub(super) fn requests(&self) -> usize {
        self.requests
    }

    pub(super) fn is_full(&self) -> bool {
        self.requests >= REQUESTS_MAX || self.bytes >= BYTES_MAX
    }

    /// Whether a leader that waited goes on: not for one answer at a time.
    pub(super) fn is_relieved(&self) -> bool {
        self.requests <= REQUESTS_MAX / 2 && self.bytes <= BYTES_MAX / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_full_by_requests_or_by_bytes_and_relieved_by_both() {
        let mut window = Window::default();
        assert!(window.is_relieved());
        (0..REQUESTS_MAX - 1).for_each(|_| window.sent(1));
        assert!(!window.is_full());
        window.sent(1);
        assert!(window.is_full());
        (0..REQUESTS_MAX / 2 - 1).for_each(|_| window.answered(1));
        assert!(!window.is_full() && !window.is_relieved());
        window.answered(1);
        assert!(window.is_relieved());
        window.sent(BYTES_MAX);
        assert!(window.is_full());
        window.answered(BYTES_MAX);
        assert!(!window.is_full() && window.is_relieved());
    }
}
