//! What is asked of a cluster, as data: crews of channels with users that send and receive.

use std::time::Duration;

use super::stamp::STAMP_BYTES;

/// Length of a message, if nothing else is said.
pub const BODY_BYTES: usize = 128;
/// The bound of the server, which is also below what a frame of ours can hold.
pub const BODY_BYTES_MAX: usize = 16_384;
pub const BODY_BYTES_MIN: usize = STAMP_BYTES;

/// When a sender sends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// Whenever fewer than so many of its messages are unacknowledged.
    Closed { window: u32 },
    /// So many messages a second in each channel, evenly over its senders. Latency counts from when
    /// a message was due, so that a stall is seen by all who would have sent in it.
    Rate { per_second: f64 },
}

/// Channels that are used alike.
#[derive(Clone, Debug, PartialEq)]
pub struct Crew {
    pub channels: usize,
    /// Sockets on each.
    pub users: usize,
    /// So many of these send.
    pub senders: usize,
    /// Senders do not receive.
    pub publish_only: bool,
    pub pace: Pace,
}

/// Crews that work side by side, and for how long.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    pub crews: Vec<Crew>,
    pub body_bytes: usize,
    /// Load before anything is measured.
    pub warm_up: Duration,
    pub measured: Duration,
    /// How long to wait afterwards for what is on its way.
    pub drain_max: Duration,
}

impl Crew {
    /// Everybody in one channel sends and receives, one message at a time.
    pub fn talkers(channels: usize, users: usize) -> Crew {
        Crew {
            channels,
            users,
            senders: users,
            publish_only: false,
            pace: Pace::Closed { window: 1 },
        }
    }

    pub fn sending(self, senders: usize) -> Crew {
        Crew { senders, ..self }
    }

    pub fn with_window(self, window: u32) -> Crew {
        let pace = Pace::Closed { window };
        Crew { pace, ..self }
    }

    pub fn at_rate(self, per_second: f64) -> Crew {
        let pace = Pace::Rate { per_second };
        Crew { pace, ..self }
    }

    pub fn publish_only(self) -> Crew {
        Crew {
            publish_only: true,
            ..self
        }
    }

    pub fn receives(&self, user: usize) -> bool {
        !self.publish_only || user >= self.senders
    }

    /// Between two messages of one sender, and from the start to its first, if it has a rate. The
    /// senders of a channel take turns, and the channels do not all begin at once.
    pub fn period_and_phase_ns(&self, room: usize, user: usize) -> Option<(u64, u64)> {
        /// Part of a turn by which each channel begins later than the one before: of the golden
        /// ratio, whose multiples keep away from each other.
        const ROOM_SHIFT: f64 = 0.382;
        let Pace::Rate { per_second } = self.pace else {
            return None;
        };
        let period = self.senders as f64 / per_second;
        let turn = (user as f64 + ROOM_SHIFT * room as f64) / self.senders as f64;
        let nanos = |seconds: f64| (seconds * 1e9) as u64;
        Some((nanos(period).max(1), nanos(turn.fract() * period)))
    }
}

impl Workload {
    pub fn new(crew: Crew) -> Workload {
        Workload {
            crews: vec![crew],
            body_bytes: BODY_BYTES,
            warm_up: Duration::from_secs(2),
            measured: Duration::from_secs(10),
            drain_max: Duration::from_secs(5),
        }
    }

    pub fn measured(self, seconds: u64) -> Workload {
        let measured = Duration::from_secs(seconds);
        Workload { measured, ..self }
    }

    /// About how long it takes.
    pub fn estimate(&self) -> Duration {
        /// Making channels and opening sockets, and what is on its way at the end.
        const AROUND: Duration = Duration::from_secs(1);
        self.warm_up + self.measured + AROUND
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn senders_of_a_channel_take_turns() {
        let crew = Crew::talkers(2, 4).at_rate(2.0);
        let at = |room, user| crew.period_and_phase_ns(room, user).unwrap();
        let turns = [0, 1, 2, 3].map(|user| at(0, user));
        let expected = [0, 500_000_000, 1_000_000_000, 1_500_000_000];
        assert_eq!(turns, expected.map(|phase| (2_000_000_000, phase)));
        assert_eq!(at(1, 0).1, 191_000_000);
        assert_eq!(Crew::talkers(1, 1).period_and_phase_ns(0, 0), None);
    }

    #[test]
    fn who_receives() {
        let crew = Crew::talkers(1, 3).sending(2);
        assert!((0..3).all(|user| crew.receives(user)));
        let crew = crew.publish_only();
        assert_eq!(
            [0, 1, 2].map(|user| crew.receives(user)),
            [false, false, true]
        );
    }
}
