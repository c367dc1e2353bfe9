//! When a job that waits need not wait any longer. Pure.
//!
//! The time of its next attempt was told by the clock of whoever led the channel then. If that was ahead
//! and has been set right, the job would wait for as long as it was wrong. No executor puts a job off
//! for more than [`RETRY_MS_MAX`], so what seems to wait longer waits for nothing.

use crate::api::RETRY_MS_MAX;
use crate::machine::channel::Outlook;

/// How far the clocks of two nodes may be apart before one of them is taken for wrong.
const APART_MS_MAX: u64 = 60_000;

/// Whether the time of an attempt has come, or cannot be right.
pub(super) fn is_over(due_ms: u64, now_ms: u64) -> bool {
    due_ms.saturating_sub(now_ms) > RETRY_MS_MAX + APART_MS_MAX || due_ms <= now_ms
}

/// When a group has something to do, if jobs that wait for nothing are due now. It is found when news of
/// the group come or it is opened; while nobody uses it, the index on the disk has what its rows say.
pub(crate) fn due(outlook: &Outlook, now_ms: u64) -> Option<u64> {
    match outlook.jobs_due_ms {
        Some(due_ms) if is_over(due_ms, now_ms) => outlook.due_ms.min(Some(now_ms)),
        Some(_) | None => outlook.due_ms,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: u64 = 1_700_000_000_000;

    #[test]
    fn a_time_that_is_too_far_away_is_over() {
        for over in [0, NOW_MS - 1, NOW_MS, NOW_MS + 2 * RETRY_MS_MAX, u64::MAX] {
            assert!(is_over(over, NOW_MS), "{over}");
        }
        for ahead in [NOW_MS + 1, NOW_MS + RETRY_MS_MAX] {
            assert!(!is_over(ahead, NOW_MS), "{ahead}");
        }
    }

    #[test]
    fn messages_may_be_scheduled_for_any_time() {
        let far = NOW_MS + 100 * RETRY_MS_MAX;
        let outlook = |due_ms, jobs_due_ms| Outlook {
            due_ms,
            jobs_due_ms,
            ..Outlook::default()
        };
        let check = |outlook: Outlook, expected| assert_eq!(due(&outlook, NOW_MS), expected);
        check(outlook(None, None), None);
        check(outlook(Some(far), None), Some(far));
        check(outlook(Some(far), Some(far)), Some(NOW_MS));
        check(outlook(Some(0), Some(0)), Some(0));
        check(outlook(Some(NOW_MS + 5), Some(far)), Some(NOW_MS));
        check(
            outlook(Some(NOW_MS + 5), Some(NOW_MS + 5)),
            Some(NOW_MS + 5),
        );
    }
}
