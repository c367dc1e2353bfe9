//! The one clock of a run.
//!
//! Every client, stream and fault of a run stamps its times from clones of one `RunClock`, so that
//! two times can be compared whoever took them. It is monotonic and belongs to the harness: faults
//! that bend the clocks of nodes do not reach it.

use std::time::Instant;

use super::Nanos;

/// Counts from the moment at which it was made; clones count from the same moment.
#[derive(Debug, Clone, Copy)]
pub struct RunClock {
    began: Instant,
}

impl RunClock {
    /// A clock that reads zero now.
    pub fn start() -> RunClock {
        RunClock {
            began: Instant::now(),
        }
    }

    /// Nanoseconds since the run began. Never decreases; two readings may be equal.
    pub fn now(&self) -> Nanos {
        self.began
            .elapsed()
            .as_nanos()
            .try_into()
            .expect("a run ends within the 584 years that 64 bits of nanoseconds count")
    }
}

#[cfg(test)]
mod tests {
    use super::RunClock;

    #[test]
    fn clones_read_the_same_clock() {
        let clock = RunClock::start();
        let before = clock.now();
        let between = { clock }.now();
        let after = clock.now();
        assert!(before <= between && between <= after);
    }
}
