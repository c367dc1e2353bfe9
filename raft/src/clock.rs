//! The wall clock, for stamping what a leader proposes. Nothing else depends on it.

#[cfg(not(feature = "sim"))]
use std::time::SystemTime;
#[cfg(not(feature = "sim"))]
use std::time::UNIX_EPOCH;

/// Unix time in milliseconds; 0 if the clock stands before 1970.
#[cfg(feature = "sim")]
pub(crate) fn now_ms() -> u64 {
    crate::sim::wall_ms()
}

/// Unix time in milliseconds; 0 if the clock stands before 1970.
#[cfg(not(feature = "sim"))]
#[expect(
    clippy::disallowed_methods,
    reason = "the one place where the wall clock enters a command"
)]
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
