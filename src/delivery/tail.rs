//! One channel's recent messages on this node, and the connections that follow it.
//!
//! A connection holds a [`Subscription`]: a cursor, a way to be woken, nothing that can grow. All
//! subscribers of a channel share one [`Tail`]; the shared parts are locked for a few loads and
//! stores only.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::OnceLock;

use accord_raft::Attachment;
use accord_raft::Channel;
use accord_raft::Node;
use accord_raft::ReadError;
use bytes::Bytes;
use tokio::sync::OnceCell;
use tokio::sync::broadcast;
use tokio::sync::watch;
use uuid::Uuid;

use super::Hub;
use super::ring::Reading;
use super::ring::Ring;

/// Ephemeral events kept for connections that are about to take them. Whoever is slower misses
/// some, which is what ephemeral means.
const EPHEMERAL_EVENTS_MAX: usize = 64;

/// See the module.
#[derive(Debug)]
pub struct Tail {
    ring: Mutex<Ring>,
    /// The ring's head, published after the ring has it.
    head: watch::Sender<u64>,
    /// Made when the first connection wants events: its places take 5 KiB, and most channels of a node
    /// that keeps many plain sockets have one of these and nobody else.
    events: OnceLock<broadcast::Sender<Bytes>>,
    attachment: OnceCell<Attachment>,
}

impl Tail {
    pub fn new() -> Tail {
        Tail {
            ring: Mutex::default(),
            head: watch::Sender::new(0),
            events: OnceLock::new(),
            attachment: OnceCell::new(),
        }
    }

    /// Takes a batch's frames and wakes all subscribers at once.
    pub fn push(&self, first_seq: u64, frames: Vec<Bytes>) {
        let head = {
            let mut ring = self.ring();
            ring.push(first_seq, frames);
            ring.head()
        };
        self.publish(head);
    }

    /// Passes an event on to those who want events.
    pub fn event(&self, event: &Bytes) {
        if let Some(events) = self.events.get() {
            // No receiver is no error: then nobody wants it.
            let _ = events.send(event.clone());
        }
    }

    /// Asks the store, once for all subscribers, to be told of new messages.
    ///
    /// The tail is in the hub's map before this is called. So every batch after the attachment's
    /// head reaches the ring, whether it comes before or after the answer; and if batches around
    /// the head were missed, the ring shows it as a gap and cursors read from storage there.
    pub async fn attach(&self, node: &Node, channel: &Arc<Channel>) -> Result<(), ReadError> {
        let attachment = self
            .attachment
            .get_or_try_init(|| node.attach(channel))
            .await?;
        self.reach(attachment.head);
        Ok(())
    }

    /// Learns that the channel has reached `head`, whether or not its messages came here.
    pub fn reach(&self, head: u64) {
        let head = {
            let mut ring = self.ring();
            ring.reach(head);
            ring.head()
        };
        self.publish(head);
    }

    pub fn head(&self) -> u64 {
        self.ring().head()
    }

    fn publish(&self, head: u64) {
        self.head.send_if_modified(|published| {
            let newer = head > *published;
            if newer {
                *published = head;
            }
            newer
        });
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        // Nothing panics while holding it; if it ever did, the ring's state would still be whole.
        self.ring.lock().unwrap_or_else(|error| error.into_inner())
    }
}

/// A connection's place in a channel. Ends its share of the tail when dropped.
#[derive(Debug)]
pub struct Subscription {
    hub: Arc<Hub>,
    channel: Uuid,
    tail: Arc<Tail>,
    woken: watch::Receiver<u64>,
    events: Option<broadcast::Receiver<Bytes>>,
    cursor: u64,
}

impl Subscription {
    /// For [`Hub`], which counts it.
    pub(super) fn new(hub: Arc<Hub>, channel: Uuid, tail: Arc<Tail>) -> Subscription {
        let woken = tail.head.subscribe();
        Subscription {
            hub,
            channel,
            tail,
            woken,
            events: None,
            cursor: 0,
        }
    }

    pub(super) fn tail(&self) -> &Tail {
        &self.tail
    }

    /// Newest seq that this node knows of.
    pub fn head(&self) -> u64 {
        self.tail.head()
    }

    /// Seq of the last message sent.
    pub fn cursor(&self) -> u64 {
        self.cursor
    }

    /// Says that everything up to `seq` was sent, or is not wanted.
    pub fn set_cursor(&mut self, seq: u64) {
        self.cursor = seq;
    }

    pub(super) fn channel(&self) -> Uuid {
        self.channel
    }

    /// From now on takes ephemeral events too; for [`Hub::with_events`], which tells what came
    /// before.
    pub(super) fn with_events(&mut self) {
        let events = &self.tail.events;
        let events = events.get_or_init(|| broadcast::Sender::new(EPHEMERAL_EVENTS_MAX));
        self.events = Some(events.subscribe());
    }

    /// Appends the frames that follow the cursor and advances it.
    pub fn read(&mut self, bytes_max: usize, out: &mut Vec<Bytes>) -> Reading {
        let reading = self.tail.ring().read(self.cursor, bytes_max, out);
        if let Reading::Advanced(to) = reading {
            self.cursor = to;
        }
        reading
    }

    /// Appends the events that wait, at most as many as are kept.
    pub fn read_events(&mut self, out: &mut Vec<Bytes>) {
        let Some(events) = &mut self.events else {
            return;
        };
        for _ in 0..EPHEMERAL_EVENTS_MAX {
            match events.try_recv() {
                Ok(event) => out.push(event),
                // Goes on with the oldest that is still kept.
                Err(broadcast::error::TryRecvError::Lagged(_)) => {}
                Err(_) => return,
            }
        }
    }

    /// Returns when there may be something new. May be dropped and called again at will.
    pub async fn changed(&mut self, out: &mut Vec<Bytes>) {
        let event = async {
            match &mut self.events {
                Some(events) => events.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // The sender lives in the tail that this holds, so it cannot have gone.
            _ = self.woken.changed() => {}
            event = event => {
                if let Ok(event) = event {
                    out.push(event);
                }
            }
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.hub.unsubscribed(self.channel);
    }
}
