//! What happened, in order, as one number: two runs of one seed must have the same.

use std::fmt;

/// FNV-1a's constants for 64 bits.
const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0000_0100_0000_01b3;

/// Set it to see every event on standard error.
const SHOW: &str = "ACCORD_SIM_TRACE";

/// The hash of all events so far, each with its time.
pub struct Trace {
    hash: u64,
    events: u64,
    now_ms: u64,
    shows: bool,
}

impl Trace {
    pub fn new() -> Self {
        Trace {
            hash: OFFSET,
            events: 0,
            now_ms: 0,
            shows: std::env::var_os(SHOW).is_some(),
        }
    }

    pub fn at(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
    }

    pub fn now_ms(&self) -> u64 {
        self.now_ms
    }

    pub fn note(&mut self, event: fmt::Arguments<'_>) {
        let line = format!("{} {event}", self.now_ms);
        if self.shows {
            let thread = std::thread::current();
            eprintln!("{}: {line}", thread.name().unwrap_or("?"));
        }
        self.hash = hash_from(self.hash, line.as_bytes());
        self.events += 1;
    }

    /// The hash and how many events are in it.
    pub fn sum(&self) -> (u64, u64) {
        (self.hash, self.events)
    }
}

/// FNV-1a of `bytes`.
pub fn hash(bytes: &[u8]) -> u64 {
    hash_from(OFFSET, bytes)
}

fn hash_from(start: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(start, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(PRIME)
    })
}
