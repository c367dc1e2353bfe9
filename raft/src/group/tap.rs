//! Where a replica's committed messages leave for this node's sockets and for other nodes' feeds.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::OnceLock;
use std::sync::PoisonError;

use accord_storage::GroupId;
use tokio::sync::watch;
use uuid::Uuid;

use crate::agenda;
use crate::agenda::Timers;
use crate::api::Delivery;
use crate::clock;
use crate::consensus::Commits;
use crate::machine::Committed;
use crate::machine::Outlook;

/// Batches kept for feeds that are a little behind, and the bytes of their bodies; what is older
/// comes from the store.
const RECENT_MAX: usize = 64;
const RECENT_BYTES_MAX: usize = 512 * 1024;

pub(crate) struct Tap {
    delivery: Arc<dyn Delivery>,
    /// The group's: set once this node knows which channel the group is, most often before the
    /// replica is opened. Messages are delivered from then on; those up to [`Tap::head`], read after
    /// that, may not be.
    channel: Arc<OnceLock<Uuid>>,
    group: GroupId,
    timers: Arc<Timers>,
    recent: Mutex<Recent>,
    heads: Arc<watch::Sender<u64>>,
}

#[derive(Default)]
struct Recent {
    batches: VecDeque<Arc<Committed>>,
    bytes: usize,
}

impl Recent {
    fn push(&mut self, batch: Arc<Committed>) {
        self.bytes += bytes_of(&batch);
        self.batches.push_back(batch);
        while self.batches.len() > RECENT_MAX || self.bytes > RECENT_BYTES_MAX {
            let Some(oldest) = self.batches.pop_front() else {
                return;
            };
            self.bytes -= bytes_of(&oldest);
        }
    }

    fn clear(&mut self) {
        *self = Recent::default();
    }
}

fn bytes_of(batch: &Committed) -> usize {
    let bodies = batch
        .messages
        .iter()
        .map(|message| message.body.as_str().len());
    bodies.sum()
}

impl Tap {
    /// `heads` outlives the replica where a feed waits for it.
    pub(crate) fn new(
        delivery: Arc<dyn Delivery>,
        channel: Arc<OnceLock<Uuid>>,
        heads: Arc<watch::Sender<u64>>,
        (group, timers): (GroupId, Arc<Timers>),
    ) -> Self {
        Tap {
            delivery,
            channel,
            group,
            timers,
            recent: Mutex::default(),
            heads,
        }
    }

    /// Newest seq committed here, whether its row is written yet or not.
    pub(crate) fn head(&self) -> u64 {
        *self.heads.borrow()
    }

    pub(crate) fn heads(&self) -> &Arc<watch::Sender<u64>> {
        &self.heads
    }

    /// Sets the head when the replica is opened.
    pub(crate) fn begin(&self, head: u64) {
        // The replica is running already and may be further.
        self.heads
            .send_modify(|current| *current = head.max(*current));
    }

    /// All batches after `seq`, if they are still at hand.
    pub(crate) fn recent_after(&self, seq: u64) -> Option<Vec<Arc<Committed>>> {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = recent.batches.front()?.first_seq;
        if seq.saturating_add(1) < oldest {
            return None;
        }
        let after = recent.batches.iter().filter(|batch| last_seq(batch) > seq);
        Some(after.cloned().collect())
    }
}

impl Commits for Tap {
    fn committed(&self, batch: &Arc<Committed>) {
        {
            let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
            recent.push(Arc::clone(batch));
        }
        if let Some(channel) = self.channel.get() {
            self.delivery.committed(*channel, batch);
        }
        // Last: whoever sees the head finds the batch.
        self.heads.send_replace(last_seq(batch));
    }

    fn skipped(&self, head: u64) {
        self.recent
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
        if let Some(channel) = self.channel.get() {
            self.delivery.skipped(*channel, head);
        }
        self.heads.send_replace(head);
    }

    fn outlook(&self, outlook: &Outlook) {
        let due_ms = agenda::due(outlook, clock::now_ms());
        self.timers.note(self.group, due_ms);
    }

    fn cancelled(&self, jobs: &[[u8; 16]]) {
        self.timers.cancelled(self.group, jobs);
    }
}

pub(crate) fn last_seq(batch: &Committed) -> u64 {
    batch.first_seq + batch.messages.len() as u64 - 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::NoExecutor;
    use crate::machine::Message;
    use crate::machine::Text;

    fn batch(seq: u64, bytes: usize) -> Arc<Committed> {
        let message = Message {
            seq,
            id: [0; 16],
            timestamp_ms: 0,
            username: Text::from("ann"),
            body: Text::from("x".repeat(bytes)),
            reply_to: None,
            agent: None,
        };
        Arc::new(Committed {
            first_seq: seq,
            timestamp_ms: 0,
            messages: vec![message],
        })
    }

    #[derive(Default)]
    struct Ear(Mutex<Vec<(Uuid, u64)>>);

    impl Delivery for Ear {
        fn committed(&self, channel: Uuid, batch: &Arc<Committed>) {
            self.0.lock().unwrap().push((channel, batch.first_seq));
        }

        fn skipped(&self, channel: Uuid, head: u64) {
            self.0.lock().unwrap().push((channel, head));
        }

        fn ephemeral(&self, _: Uuid, _: &bytes::Bytes) {}

        fn followed(&self) -> Vec<Uuid> {
            Vec::new()
        }
    }

    #[test]
    fn what_is_committed_is_delivered_as_soon_as_its_channel_is_known() {
        let (ear, channel) = (Arc::new(Ear::default()), Arc::new(OnceLock::new()));
        let heads = Arc::new(watch::Sender::new(0));
        let delivery = Arc::clone(&ear) as Arc<dyn Delivery>;
        let timers = (GroupId(1), Arc::new(Timers::new(Arc::new(NoExecutor))));
        let tap = Tap::new(delivery, Arc::clone(&channel), heads, timers);
        tap.committed(&batch(1, 1));
        channel.set(Uuid::from_u128(7)).unwrap();
        // Nobody has told the tap: a replica that opens knows it before it applies anything.
        tap.committed(&batch(2, 1));
        tap.skipped(9);
        let heard = ear.0.lock().unwrap();
        assert_eq!(*heard, [(Uuid::from_u128(7), 2), (Uuid::from_u128(7), 9)]);
    }

    #[test]
    fn what_is_kept_for_feeds_is_bounded_in_number_and_bytes() {
        let mut recent = Recent::default();
        (1..=200).for_each(|seq| recent.push(batch(seq, 10)));
        assert_eq!(recent.batches.len(), RECENT_MAX);
        (201..=210).for_each(|seq| recent.push(batch(seq, RECENT_BYTES_MAX / 4)));
        assert_eq!(recent.batches.len(), 4);
        recent.push(batch(211, RECENT_BYTES_MAX + 1));
        assert_eq!((recent.batches.len(), recent.bytes), (0, 0));
    }
}
