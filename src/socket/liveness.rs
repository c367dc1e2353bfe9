//! Whether the client at the other end is still there. Time is an argument.

use std::time::Duration;

use tokio::time::Instant;

/// A socket from which nothing was heard for this long is pinged.
pub const IDLE_MAX: Duration = Duration::from_secs(30);
/// A socket that is then still silent after this long is closed.
pub const ANSWER_MAX: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Debug)]
pub struct Liveness {
    heard_at: Instant,
    pinged_at: Option<Instant>,
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    Fine,
    Ping,
    Silent,
}

impl Liveness {
    pub fn new(now: Instant) -> Liveness {
        Liveness {
            heard_at: now,
            pinged_at: None,
        }
    }

    /// Anything came from the client.
    pub fn heard(&mut self, now: Instant) {
        self.heard_at = now;
        self.pinged_at = None;
    }

    pub fn check(&mut self, now: Instant) -> Check {
        if now < self.due() {
            return Check::Fine;
        }
        if self.pinged_at.is_some() {
            return Check::Silent;
        }
        self.pinged_at = Some(now);
        Check::Ping
    }

    /// When to check next.
    pub fn due(&self) -> Instant {
        match self.pinged_at {
            Some(pinged_at) => pinged_at + ANSWER_MAX,
            None => self.heard_at + IDLE_MAX,
        }
    }
}

/// How many events a client may send: a bucket that fills with time.
#[derive(Debug)]
pub struct RateLimit {
    per_second: f64,
    tokens: f64,
    filled_at: Instant,
}

impl RateLimit {
    /// `per_second` events on average, as many at once.
    pub fn new(per_second: u32, now: Instant) -> RateLimit {
        RateLimit {
            per_second: per_second.into(),
            tokens: per_second.into(),
            filled_at: now,
        }
    }

    pub fn allows(&mut self, now: Instant) -> bool {
        let waited = now.saturating_duration_since(self.filled_at);
        self.filled_at = now;
        let filled = self.tokens + waited.as_secs_f64() * self.per_second;
        self.tokens = filled.min(self.per_second);
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_sockets_are_pinged_and_silent_ones_given_up() {
        let start = Instant::now();
        let mut liveness = Liveness::new(start);
        assert_eq!(liveness.check(start + IDLE_MAX / 2), Check::Fine);
        let pinged = start + IDLE_MAX;
        assert_eq!(liveness.check(pinged), Check::Ping);
        assert_eq!(liveness.due(), pinged + ANSWER_MAX);
        assert_eq!(liveness.check(pinged + ANSWER_MAX / 2), Check::Fine);
        let mut answered = Liveness { ..liveness };
        answered.heard(pinged + ANSWER_MAX / 2);
        assert_eq!(
            answered.check(pinged + ANSWER_MAX / 2 + IDLE_MAX),
            Check::Ping
        );
        let mut silent = Liveness {
            heard_at: start,
            pinged_at: Some(pinged),
        };
        assert_eq!(silent.check(pinged + ANSWER_MAX), Check::Silent);
    }

    #[test]
    fn a_bucket_fills_with_time() {
        let start = Instant::now();
        let mut limit = RateLimit::new(2, start);
        let at = |ms| start + Duration::from_millis(ms);
        assert!(limit.allows(at(0)) && limit.allows(at(0)));
        assert!(!limit.allows(at(100)));
        assert!(limit.allows(at(600)));
        assert!(!limit.allows(at(600)));
        assert!(limit.allows(at(60_000)) && limit.allows(at(60_000)));
        assert!(!limit.allows(at(60_000)));
    }
}
