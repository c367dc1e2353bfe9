//! Bugs planted on purpose, to show that the fault tests catch them. Compiled only with the feature
//! `planted-bugs`, which no build for use has; without it `ACCORD_PLANTED` means nothing.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use bytes::Bytes;

/// The environment variable that names the bug; empty means none.
const VARIABLE: &str = "ACCORD_PLANTED";
const STREAM_OFF_BY_ONE: &str = "stream_off_by_one";

static STREAMS_OFF_BY_ONE: AtomicBool = AtomicBool::new(false);

/// There is no such bug.
#[derive(Debug, thiserror::Error)]
#[error("{VARIABLE} is \"{name}\", which is not one of: {known}")]
pub struct UnknownBug {
    name: String,
    known: String,
}

/// Plants the bug that the environment names, and says so.
///
/// # Errors
/// When there is no bug of that name.
pub fn plant() -> Result<(), UnknownBug> {
    let name = std::env::var(VARIABLE).unwrap_or_default();
    match name.as_str() {
        "" => return Ok(()),
        STREAM_OFF_BY_ONE => STREAMS_OFF_BY_ONE.store(true, Ordering::SeqCst),
        other if accord_raft::planted::plant(other) => {}
        _ => {
            let known = [STREAM_OFF_BY_ONE].into_iter();
            let known: Vec<_> = known.chain(accord_raft::planted::names()).collect();
            return Err(UnknownBug {
                name,
                known: known.join(", "),
            });
        }
    }
    tracing::error!(
        bug = name,
        "A BUG IS PLANTED: this node breaks its promises on purpose"
    );
    Ok(())
}

/// What a socket sends of a page read from storage: all but its first message.
pub fn shifted(mut frames: Vec<Bytes>) -> Vec<Bytes> {
    if STREAMS_OFF_BY_ONE.load(Ordering::Relaxed) {
        frames.remove(0);
    }
    frames
}
