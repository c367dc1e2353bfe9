//! Waiting for a condition, with a deadline and a reason.
//!
//! Nothing here waits "long enough": a caller names a condition, and gets
//! either its value or an error that says what was still missing.

use std::future::Future;
use std::time::{Duration, Instant};

/// Pause between two looks at a condition. Short against everything that a
/// cluster does (an election, a start), long against the cost of a look.
const POLL_PAUSE: Duration = Duration::from_millis(20);

/// A condition did not come true before its deadline.
#[derive(Debug, thiserror::Error)]
#[error("waited {waited_ms} ms for {what}; last seen: {last}")]
pub struct TimedOut {
    pub what: String,
    pub waited_ms: u128,
    /// Why the last look was not enough.
    pub last: String,
}

/// Looks at `condition` until it answers `Ok`, at most for `deadline`.
///
/// The condition answers `Err(why not yet)`. It is cancelled when it hangs
/// beyond the deadline.
pub async fn wait_until<T, F, Fut>(
    what: &str,
    deadline: Duration,
    mut condition: F,
) -> Result<T, TimedOut>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, String>>,
{
    let started = Instant::now();
    let mut last = "nothing yet".to_owned();
    let looked = tokio::time::timeout(deadline, async {
        loop {
            match condition().await {
                Ok(value) => return value,
                Err(reason) => last = reason,
            }
            pause(POLL_PAUSE).await;
        }
    })
    .await;
    looked.map_err(|_| TimedOut {
        what: what.to_owned(),
        waited_ms: started.elapsed().as_millis(),
        last,
    })
}

/// Lets a randomly chosen moment pass before a fault strikes.
///
/// This is for the time *of a fault*, never for hoping that something is done
/// by then: a test that uses it must hold whatever the moment was.
pub async fn moment(length: Duration) {
    pause(length).await;
}

#[expect(
    clippy::disallowed_methods,
    reason = "other processes cannot wake us: between two looks at them there is a pause"
)]
async fn pause(length: Duration) {
    tokio::time::sleep(length).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_condition_that_comes_true_gives_its_value() {
        let mut looks = 0;
        let value = wait_until("three looks", Duration::from_secs(5), || {
            looks += 1;
            let seen = looks;
            async move {
                if seen == 3 {
                    Ok(seen)
                } else {
                    Err(format!("{seen} looks"))
                }
            }
        })
        .await;
        assert_eq!(value.unwrap(), 3);
    }

    #[tokio::test]
    async fn a_timeout_says_what_was_missing() {
        let error = wait_until("the moon", Duration::from_millis(60), || async {
            Err::<(), _>("still dark".to_owned())
        })
        .await
        .unwrap_err();
        assert_eq!(error.what, "the moon");
        assert_eq!(error.last, "still dark");
    }

    #[tokio::test]
    async fn a_condition_that_hangs_is_cut_off() {
        let hung = wait_until("an answer", Duration::from_millis(30), || async {
            std::future::pending::<Result<(), String>>().await
        })
        .await;
        assert!(hung.is_err());
    }
}
