//! What all requests and sockets of this node share.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use accord_raft::Node;
use tokio::sync::Semaphore;
use tokio::sync::watch;

use crate::agents::Agents;
use crate::agents::Executor;
use crate::config::Limits;
use crate::config::NodeConfig;
use crate::counters::Counters;
use crate::delivery::Hub;

/// See the module.
pub struct App {
    pub node: Node,
    pub hub: Arc<Hub>,
    pub agents: Arc<Agents>,
    pub executor: Executor,
    pub counters: Counters,
    pub limits: Limits,
    /// All nodes as the configuration names them, for showing.
    pub nodes: Vec<NodeConfig>,
    pub sockets: Slots,
    pub event_streams: Arc<Semaphore>,
    pub open: Open,
    pub phase: watch::Receiver<Phase>,
}

impl App {
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// `Err` with the reason when this node should get no traffic.
    pub fn ready(&self) -> Result<(), String> {
        if self.phase() != Phase::Running {
            return Err("this node is stopping".to_owned());
        }
        self.node.ready()
    }
}

/// Where the process is on its way to the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Running,
    /// No new connections or sockets; those that are open go on.
    Draining,
    /// What is under way is finished, then everything is closed.
    Closing,
}

/// The bound on WebSockets, and how many there are.
#[derive(Debug)]
pub struct Slots {
    most: usize,
    taken: AtomicUsize,
}

impl Slots {
    pub fn new(most: usize) -> Slots {
        Slots {
            most,
            taken: AtomicUsize::new(0),
        }
    }

    /// Takes a place unless all are taken.
    pub fn take(app: &Arc<App>) -> Option<Slot> {
        let slots = &app.sockets;
        let more = |taken: usize| (taken < slots.most).then_some(taken + 1);
        slots.taken.fetch_update(Relaxed, Relaxed, more).ok()?;
        Some(Slot { app: app.clone() })
    }

    pub fn taken(&self) -> usize {
        self.taken.load(Relaxed)
    }
}

/// One socket's place, free again when dropped.
pub struct Slot {
    app: Arc<App>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.app.sockets.taken.fetch_sub(1, Relaxed);
    }
}

/// Counts connections, so that stopping can wait for the last one.
#[derive(Clone, Debug)]
pub struct Open(Arc<watch::Sender<usize>>);

impl Open {
    pub fn new() -> Open {
        Open(Arc::new(watch::Sender::new(0)))
    }

    pub fn enter(&self) -> OpenGuard {
        self.0.send_modify(|count| *count += 1);
        OpenGuard(self.0.clone())
    }

    pub fn count(&self) -> usize {
        *self.0.borrow()
    }

    pub async fn none(&self) {
        // It cannot fail: the sender is right here.
        let _ = self.0.subscribe().wait_for(|count| *count == 0).await;
    }
}

/// One connection, until dropped.
#[derive(Debug)]
pub struct OpenGuard(Arc<watch::Sender<usize>>);

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waiting_ends_with_the_last_connection() {
        let open = Open::new();
        open.none().await;
        let (one, two) = (open.enter(), open.enter());
        assert_eq!(open.count(), 2);
        drop(one);
        let waiting = tokio::spawn({
            let open = open.clone();
            async move { open.none().await }
        });
        drop(two);
        waiting.await.unwrap();
    }

    #[test]
    fn phases_go_one_way() {
        assert!(Phase::Running < Phase::Draining && Phase::Draining < Phase::Closing);
    }
}
