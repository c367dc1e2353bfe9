//! When a failed attempt is made again. Pure: time and randomness are arguments.
//!
//! Whatever may get better is tried again, after a pause that doubles and has jitter, so that many
//! jobs that failed together do not come back together. What will not get better by itself, above
//! all an answer 4xx, is not.

use std::time::Duration;
use std::time::SystemTime;

/// Most of a `Retry-After` that is honoured: somebody waits for the answer in a chat.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(600);

/// How often and how soon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    pub attempts_max: u32,
    /// After the first attempt; doubles with each further one.
    pub backoff: Duration,
    pub backoff_max: Duration,
}

/// An attempt that gave no reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Failure {
    pub kind: FailureKind,
    /// For people, also in the channel: never with what the other side sent or a secret.
    pub detail: String,
    /// What the other side asked for.
    pub retry_after: Option<Duration>,
}

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// No connection, or none that TLS accepts.
    Connect,
    /// Something took too long.
    Timeout,
    /// An answer that is no success.
    Status(u16),
    /// The answer ended before it was whole.
    Cut,
    /// The answer makes no sense.
    Garbage,
    /// More than is read.
    TooLarge,
    /// This node: it does not know the agent, cannot read the channel, or has a bug.
    Internal,
}

/// What to do after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    RetryAfter(Duration),
    GiveUp,
}

impl Failure {
    pub fn new(kind: FailureKind, detail: impl Into<String>) -> Failure {
        Failure {
            kind,
            detail: detail.into(),
            retry_after: None,
        }
    }
}

impl FailureKind {
    /// All names, for metrics that are there from the start.
    pub const NAMES: [&'static str; 7] = [
        "connect",
        "timeout",
        "status",
        "cut",
        "garbage",
        "too_large",
        "internal",
    ];

    /// Place in [`FailureKind::NAMES`].
    pub fn index(self) -> usize {
        match self {
            FailureKind::Connect => 0,
            FailureKind::Timeout => 1,
            FailureKind::Status(_) => 2,
            FailureKind::Cut => 3,
            FailureKind::Garbage => 4,
            FailureKind::TooLarge => 5,
            FailureKind::Internal => 6,
        }
    }

    /// Whether the same request may yet succeed.
    pub fn is_passing(self) -> bool {
        match self {
            // Request Timeout, Too Early and Too Many Requests are 4xx only in name.
            FailureKind::Status(status) => matches!(status, 408 | 425 | 429 | 500..=599),
            // The same question would get as long an answer.
            FailureKind::TooLarge => false,
            FailureKind::Connect
            | FailureKind::Timeout
            | FailureKind::Cut
            | FailureKind::Garbage
            | FailureKind::Internal => true,
        }
    }
}

impl RetryPolicy {
    /// What follows on the failure of an attempt, counted from 1. `random` is any number.
    pub fn next(&self, attempt: u32, failure: &Failure, random: u64) -> Next {
        if attempt >= self.attempts_max || !failure.kind.is_passing() {
            return Next::GiveUp;
        }
        let pause = self.pause(attempt, random);
        let asked = failure.retry_after.unwrap_or_default().min(RETRY_AFTER_MAX);
        // Not before the time that was asked for, and not all at that very time.
        let pause = match asked > pause {
            true => asked.saturating_add(pause / 4),
            false => pause,
        };
        Next::RetryAfter(pause)
    }

    /// Between a half and the whole of the doubled pause.
    fn pause(&self, attempt: u32, random: u64) -> Duration {
        let doubled = 1_u32
            .checked_shl(attempt.saturating_sub(1))
            .unwrap_or(u32::MAX);
        let whole = self.backoff.saturating_mul(doubled).min(self.backoff_max);
        let half = whole / 2;
        let more = u64::try_from(half.as_micros()).unwrap_or(u64::MAX);
        half + Duration::from_micros(random % more.saturating_add(1))
    }
}

/// How long a `Retry-After` asks to wait: whole seconds or an HTTP date. `None` if it is neither.
pub fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than a number has is a very long time.
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let at = httpdate::parse_http_date(value).ok()?;
    Some(at.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const POLICY: RetryPolicy = RetryPolicy {
        attempts_max: 5,
        backoff: Duration::from_millis(100),
        backoff_max: Duration::from_secs(1),
    };

    fn failure(kind: FailureKind) -> Failure {
        Failure::new(kind, "it failed")
    }

    #[test]
    fn what_can_get_better_is_tried_again() {
        let retried = |kind: FailureKind| kind.is_passing();
        for kind in [
            FailureKind::Connect,
            FailureKind::Timeout,
            FailureKind::Cut,
            FailureKind::Garbage,
            FailureKind::Internal,
        ] {
            assert!(retried(kind), "{kind:?}");
        }
        for status in [408, 425, 429, 500, 502, 503, 504, 599] {
            assert!(retried(FailureKind::Status(status)), "{status}");
        }
        // Redirects too: they are not followed, so they are a mistake in the configuration.
        for status in [100, 204, 301, 307, 400, 401, 403, 404, 409, 413, 422, 600] {
            assert!(!retried(FailureKind::Status(status)), "{status}");
        }
        assert!(!retried(FailureKind::TooLarge));
    }

    #[test]
    fn retry_after_has_two_forms() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let after = |text| retry_after(text, now);
        assert_eq!(after("0"), Some(Duration::ZERO));
        assert_eq!(after(" 120 "), Some(Duration::from_secs(120)));
        assert_eq!(
            after("Sun, 06 Nov 1994 08:49:47 GMT"),
            Some(Duration::from_secs(10))
        );
        assert_eq!(after("Sat, 06 Nov 1993 08:49:47 GMT"), Some(Duration::ZERO));
        assert_eq!(
            after("99999999999999999999"),
            Some(Duration::from_secs(u64::MAX))
        );
        for bad in ["", "-1", "1.5", "soon", "1 s"] {
            assert_eq!(after(bad), None, "{bad}");
        }
    }

    #[test]
    fn every_kind_has_a_name_of_its_own() {
        let names = [
            FailureKind::Connect,
            FailureKind::Timeout,
            FailureKind::Status(500),
            FailureKind::Cut,
            FailureKind::Garbage,
            FailureKind::TooLarge,
            FailureKind::Internal,
        ]
        .map(|kind| FailureKind::NAMES[kind.index()]);
        assert_eq!(names, FailureKind::NAMES);
    }

    fn policy() -> impl Strategy<Value = RetryPolicy> {
        (1..100_u32, 1..10_000_u64, 1..100_000_u64).prop_map(|(attempts_max, first, more)| {
            RetryPolicy {
                attempts_max,
                backoff: Duration::from_millis(first),
                backoff_max: Duration::from_millis(first + more),
            }
        })
    }

    proptest! {
        #[test]
        fn pauses_grow_within_their_bounds(policy in policy(), random in any::<u64>()) {
            let mut whole = policy.backoff;
            for attempt in 1..policy.attempts_max {
                let next = policy.next(attempt, &failure(FailureKind::Connect), random);
                let Next::RetryAfter(pause) = next else {
                    panic!("given up at {attempt} of {}", policy.attempts_max);
                };
                prop_assert!(pause >= whole / 2 && pause <= whole, "{pause:?} of {whole:?}");
                whole = (whole * 2).min(policy.backoff_max);
            }
        }

        #[test]
        fn the_last_attempt_is_the_last(
            policy in policy(),
            over in 0..5_u32,
            random in any::<u64>(),
        ) {
            let attempt = policy.attempts_max + over;
            let next = policy.next(attempt, &failure(FailureKind::Connect), random);
            prop_assert_eq!(next, Next::GiveUp);
        }

        #[test]
        fn nobody_is_asked_sooner_than_it_said(
            asked in 0..2_000_u64,
            attempt in 1..5_u32,
            random in any::<u64>(),
        ) {
            let asked = Duration::from_secs(asked);
            let failure = Failure {
                retry_after: Some(asked),
                ..failure(FailureKind::Status(429))
            };
            let Next::RetryAfter(pause) = POLICY.next(attempt, &failure, random) else {
                panic!("given up at {attempt}");
            };
            prop_assert!(pause >= asked.min(RETRY_AFTER_MAX));
            prop_assert!(pause <= RETRY_AFTER_MAX + POLICY.backoff_max);
        }

        #[test]
        fn no_attempt_and_no_header_panics(
            attempt in any::<u32>(),
            random in any::<u64>(),
            text in any::<String>(),
        ) {
            let endless = RetryPolicy { attempts_max: u32::MAX, ..POLICY };
            let _ = endless.next(attempt, &failure(FailureKind::Timeout), random);
            let _ = retry_after(&text, SystemTime::UNIX_EPOCH);
        }
    }
}
