//! Ends the process when the disk can no longer be trusted.
//!
//! A write that failed and bytes that do not read back are the same kind of
//! news: what this node would answer from here on cannot be relied upon, while
//! the other replicas can. So both end the process, once, with a reason.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::Error;

#[derive(Clone)]
pub struct Alarm {
    inner: Arc<Inner>,
}

struct Inner {
    on_fatal: Arc<dyn Fn(&str) + Send + Sync>,
    /// While the store is being opened a flaw is an error that names the file.
    open: AtomicBool,
    sounded: AtomicBool,
}

impl Alarm {
    pub fn new(on_fatal: Arc<dyn Fn(&str) + Send + Sync>) -> Self {
        let inner = Inner {
            on_fatal,
            open: AtomicBool::new(false),
            sounded: AtomicBool::new(false),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// From now on unreadable data is fatal.
    pub fn store_is_open(&self) {
        self.inner.open.store(true, Ordering::Relaxed);
    }

    /// Tells the owner of the store, the first time.
    pub fn sound(&self, reason: &str) {
        if !self.inner.sounded.swap(true, Ordering::SeqCst) {
            (self.inner.on_fatal)(reason);
        }
    }

    /// Sounds if `error` means that stored data is unreadable.
    pub fn check(&self, error: &Error) {
        let unreadable = matches!(error, Error::Read(_) | Error::Corrupt { .. });
        if unreadable && self.inner.open.load(Ordering::Relaxed) {
            tracing::error!(%error, "stored data is damaged");
            self.sound(&format!(
                "stored data is damaged, so this node must not serve: {error}. Run `accord rejoin` \
                 for it and start it again"
            ));
        }
    }
}
