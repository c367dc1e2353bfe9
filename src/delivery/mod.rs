//! From the store's commits to this node's connections.
//!
//! ```text
//! applied batch ─▶ Hub ─ one lookup ─▶ Tail: encode once, ring, head ─ one wake-up ─▶ cursors
//! ```
//!
//! Invariants: a channel without local subscribers costs one lookup per batch and no memory; a
//! message is encoded once per node; a connection has a cursor and no queue, so a slow one holds up
//! nobody and nothing grows with it.

mod catch_up;
pub mod encode;
mod ring;
mod streams;
mod tail;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::time::Duration;

use accord_raft::Channel;
use accord_raft::Delivery;
use accord_raft::Node;
use accord_raft::ReadError;
use accord_raft::machine::Committed;
use bytes::Bytes;
use tokio::time::Instant;
use uuid::Uuid;

pub use catch_up::PageRead;
pub use catch_up::gapless;
pub use catch_up::read_page;
pub use ring::Reading;
pub use tail::Subscription;

use crate::agents::delta::Delta;
use streams::Streams;
use tail::Tail;

/// Channels are spread over this many locks, so that busy ones rarely meet.
const SHARDS: usize = 64;
/// How long a tail outlives its last subscriber: a browser that reloads finds it still there.
const TAIL_GRACE: Duration = Duration::from_secs(10);
/// Most bytes of an ephemeral event; more is no frame of ours.
pub const EVENT_BYTES_MAX: usize = 4_096;

/// All tails of this node.
#[derive(Debug)]
pub struct Hub {
    shards: [Mutex<Shard>; SHARDS],
    /// What agents are saying. Held while a delta is passed on, so that whoever connects meanwhile
    /// gets it once: with the text so far, or behind it.
    streams: Mutex<Streams>,
}

type Shard = HashMap<Uuid, Followed>;

/// A tail and what keeps it.
#[derive(Debug)]
struct Followed {
    tail: Arc<Tail>,
    subscribers: usize,
    /// A task waits to remove the tail if it is still without subscribers then.
    retiring: bool,
}

impl Hub {
    pub fn new() -> Arc<Hub> {
        Arc::new(Hub {
            shards: std::array::from_fn(|_| Mutex::default()),
            streams: Mutex::default(),
        })
    }

    /// Follows a channel. The cursor stands at 0 until it is set.
    ///
    /// # Errors
    /// When the store cannot deliver the channel's messages here.
    pub async fn subscribe(
        self: &Arc<Self>,
        node: &Node,
        channel: &Arc<Channel>,
    ) -> Result<Subscription, ReadError> {
        let id = Uuid::from_bytes(channel.id);
        // Counted from here on by the subscription's drop, also if attaching fails or is given up.
        let subscription = self.join(id);
        subscription.tail().attach(node, channel).await?;
        Ok(subscription)
    }

    /// Channels followed and connections following them.
    pub fn size(&self) -> (usize, usize) {
        let mut size = (0, 0);
        for shard in &self.shards {
            let shard = lock(shard);
            size.0 += shard.len();
            size.1 += shard.values().map(|f| f.subscribers).sum::<usize>();
        }
        size
    }

    /// From now on the subscription takes ephemeral events too. Answers with frames that tell what
    /// agents have said so far.
    pub fn with_events(&self, subscription: &mut Subscription) -> Vec<Bytes> {
        let streams = lock(&self.streams);
        subscription.with_events();
        let said = streams.of(subscription.channel(), Instant::now());
        said.iter().map(Delta::frame).collect()
    }

    fn join(self: &Arc<Self>, channel: Uuid) -> Subscription {
        let tail = {
            let mut shard = self.shard(channel);
            let followed = shard.entry(channel).or_insert_with(|| Followed {
                tail: Arc::new(Tail::new()),
                subscribers: 0,
                retiring: false,
            });
            followed.subscribers += 1;
            followed.tail.clone()
        };
        Subscription::new(self.clone(), channel, tail)
    }

    fn unsubscribed(self: &Arc<Self>, channel: Uuid) {
        {
            let mut shard = self.shard(channel);
            let Some(followed) = shard.get_mut(&channel) else {
                return;
            };
            followed.subscribers -= 1;
            if followed.subscribers > 0 || followed.retiring {
                return;
            }
            followed.retiring = true;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            // The process is on its way out.
            self.retire(channel);
            return;
        };
        let hub = Arc::downgrade(self);
        runtime.spawn(async move {
            #[expect(
                clippy::disallowed_methods,
                reason = "there is no event for nobody coming back"
            )]
            tokio::time::sleep(TAIL_GRACE).await;
            if let Some(hub) = hub.upgrade() {
                hub.retire(channel);
            }
        });
    }

    /// Removes the tail unless somebody came back.
    fn retire(&self, channel: Uuid) {
        let mut shard = self.shard(channel);
        if let Some(followed) = shard.get_mut(&channel) {
            followed.retiring = false;
            if followed.subscribers == 0 {
                shard.remove(&channel);
            }
        }
    }

    fn tail(&self, channel: Uuid) -> Option<Arc<Tail>> {
        let shard = self.shard(channel);
        shard.get(&channel).map(|followed| followed.tail.clone())
    }

    fn shard(&self, channel: Uuid) -> MutexGuard<'_, Shard> {
        // The last byte of a version 7 id is random, unlike the first ones.
        let index = usize::from(channel.as_bytes()[15]) % SHARDS;
        lock(&self.shards[index])
    }
}

impl Delivery for Hub {
    fn committed(&self, channel: Uuid, batch: &Arc<Committed>) {
        let replies = batch.messages.iter().filter(|m| m.agent.is_some());
        for answered in replies.filter_map(|reply| reply.reply_to) {
            lock(&self.streams).end(Uuid::from_bytes(answered));
        }
        if let Some(tail) = self.tail(channel) {
            tail.push(batch.first_seq, encode::frames(batch));
        }
    }

    fn skipped(&self, channel: Uuid, head: u64) {
        if let Some(tail) = self.tail(channel) {
            tail.reach(head);
        }
    }

    fn followed(&self) -> Vec<Uuid> {
        let shards = self.shards.iter();
        shards
            .flat_map(|shard| lock(shard).keys().copied().collect::<Vec<_>>())
            .collect()
    }

    fn ephemeral(&self, channel: Uuid, event: &Bytes) {
        // It goes out as a text frame, and clients were promised valid UTF-8.
        if event.len() > EVENT_BYTES_MAX || std::str::from_utf8(event).is_err() {
            return;
        }
        // Also without subscribers: somebody may connect before the answer is whole.
        let _streams = match Delta::parse(event) {
            Some(delta) => {
                let mut streams = lock(&self.streams);
                if !streams.take(channel, &delta, Instant::now()) {
                    return;
                }
                Some(streams)
            }
            None => None,
        };
        if let Some(tail) = self.tail(channel) {
            tail.event(event);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while holding it; a map that a panic left behind would still be whole.
    mutex.lock().unwrap_or_else(|error| error.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHANNEL: Uuid = Uuid::from_u128(7);

    fn texts(out: &[Bytes]) -> Vec<&str> {
        out.iter()
            .map(|frame| std::str::from_utf8(frame).unwrap())
            .collect()
    }

    #[tokio::test]
    async fn subscribers_are_woken_and_read_the_same_frames() {
        let hub = Hub::new();
        let mut one = hub.join(CHANNEL);
        let mut two = hub.join(CHANNEL);
        let tail = hub.tail(CHANNEL).unwrap();
        tail.push(1, vec![Bytes::from("a"), Bytes::from("b")]);
        for subscription in [&mut one, &mut two] {
            let mut out = Vec::new();
            subscription.changed(&mut out).await;
            assert_eq!(subscription.read(100, &mut out), Reading::Advanced(2));
            assert_eq!(texts(&out), ["a", "b"]);
        }
        assert_eq!(hub.size(), (1, 2));
    }

    #[tokio::test]
    async fn what_was_skipped_is_left_to_storage() {
        let hub = Hub::new();
        let mut subscription = hub.join(CHANNEL);
        hub.skipped(CHANNEL, 5);
        let mut out = Vec::new();
        subscription.changed(&mut out).await;
        assert_eq!(subscription.read(100, &mut out), Reading::Behind);
        assert_eq!(subscription.head(), 5);
    }

    #[tokio::test]
    async fn events_go_to_those_who_want_them() {
        let hub = Hub::new();
        let mut rich = hub.join(CHANNEL);
        assert!(hub.with_events(&mut rich).is_empty());
        let mut plain = hub.join(CHANNEL);
        hub.ephemeral(CHANNEL, &Bytes::from("{}"));
        hub.ephemeral(CHANNEL, &Bytes::from_static(b"\xff"));
        hub.ephemeral(CHANNEL, &Bytes::from(vec![b' '; EVENT_BYTES_MAX + 1]));
        hub.ephemeral(Uuid::from_u128(8), &Bytes::from("[]"));
        let mut out = Vec::new();
        rich.changed(&mut out).await;
        rich.read_events(&mut out);
        plain.read_events(&mut out);
        assert_eq!(texts(&out), ["{}"]);
    }

    #[tokio::test]
    async fn a_late_joiner_gets_an_answer_s_beginning_and_then_the_rest() {
        let hub = Hub::new();
        let delta = |offset, text: &str| Delta {
            job: Uuid::from_u128(9),
            agent: "ask".to_owned(),
            attempt: 1,
            offset,
            text: text.to_owned(),
            ended: None,
        };
        // Nobody follows the channel yet.
        hub.ephemeral(CHANNEL, &delta(0, "one ").frame());
        hub.ephemeral(CHANNEL, &delta(4, "two ").frame());
        let mut late = hub.join(CHANNEL);
        assert_eq!(hub.with_events(&mut late), [delta(0, "one two ").frame()]);
        hub.ephemeral(CHANNEL, &delta(8, "three").frame());
        let mut out = Vec::new();
        late.read_events(&mut out);
        assert_eq!(out, [delta(8, "three").frame()]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_tail_outlives_its_last_subscriber_for_a_while() {
        let hub = Hub::new();
        drop(hub.join(CHANNEL));
        assert_eq!(hub.size(), (1, 0));
        pass(TAIL_GRACE / 2).await;
        let back = hub.join(CHANNEL);
        pass(TAIL_GRACE).await;
        assert_eq!(hub.size(), (1, 1));
        drop(back);
        pass(TAIL_GRACE + Duration::from_millis(1)).await;
        assert_eq!(hub.size(), (0, 0));
    }

    /// Moves the paused clock on; whatever becomes due meanwhile has run when this returns.
    async fn pass(time: Duration) {
        let end = tokio::time::Instant::now() + time;
        tokio::time::sleep_until(end).await;
        tokio::task::yield_now().await;
    }
}
