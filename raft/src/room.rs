//! Which nodes are short of disk space, so that a write is refused before a replica that it needs
//! runs full.
//!
//! - A node below `free_bytes_min` refuses its own clients' writes and, as a leader, everybody's. It
//!   goes on as a follower, so that it does not fall behind for nothing, and tells the others.
//! - A group in which fewer than a majority of the replicas have room refuses writes on every node:
//!   they could be appended, but committed only by filling a disk.
//! - Below half of `free_bytes_min` a follower refuses entries too. What is left then is for what the
//!   store writes by itself: flushes, compactions, votes. A majority that has room goes on without it.
//!
//! A node's word counts for a few seconds and is renewed while it holds, so one that died or was cut
//! off while short of room does not keep the others from writing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::group::Group;
use crate::peers::Kind;
use crate::shared::Shared;
use crate::transport::NodeId;

/// How often a node that is short of room says so: with every other ping of its links.
const TELL_EVERY: Duration = Duration::from_millis(660);
/// How long that counts.
const WORD_COUNTS: Duration = Duration::from_secs(2);
/// How long telling may take.
const TELL_DEADLINE: Duration = Duration::from_secs(1);

/// When the other nodes last said that they are short of room.
#[derive(Default)]
pub(crate) struct Shortage {
    told: Mutex<BTreeMap<NodeId, Instant>>,
}

impl Shortage {
    pub(crate) fn told(&self, node: NodeId, is_short: bool, now: Instant) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if is_short {
            told.insert(node, now);
        } else {
            told.remove(&node);
        }
    }

    fn is_short(&self, node: NodeId, now: Instant) -> bool {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let since = told
            .get(&node)
            .map(|told| now.saturating_duration_since(*told));
        since.is_some_and(|since| since < WORD_COUNTS)
    }
}

/// Whether the group may take writes: this node has room, and so has a majority of the replicas.
pub(crate) fn for_writes(group: &Group) -> bool {
    let shared = &group.shared;
    if !shared.store.has_room() {
        return false;
    }
    let now = Instant::now();
    let replicas = group.replicas().unwrap_or_default();
    majority_has_room(&replicas, |node| shared.shortage.is_short(node, now))
}

fn majority_has_room(replicas: &[NodeId], is_short: impl Fn(NodeId) -> bool) -> bool {
    let short = replicas.iter().filter(|node| is_short(**node)).count();
    // Without replicas there is nobody known to be short.
    replicas.is_empty() || replicas.len() - short > replicas.len() / 2
}

/// Tells the others while this node is short of room, and once when it no longer is, until the node
/// stops.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut was_short = false;
    while !shared.is_stopping() {
        let is_short = !shared.store.has_room();
        if is_short || was_short {
            for node in shared.nodes() {
                if let Some(peer) = shared.peer(node).filter(|peer| peer.is_up()) {
                    // Nobody waits for an answer: a shortage is told again, and forgotten by itself.
                    let body = Bytes::copy_from_slice(&[u8::from(is_short)]);
                    drop(peer.call(Kind::NoRoom.byte(), body, TELL_DEADLINE));
                }
            }
        }
        was_short = is_short;
        tokio::time::sleep_until(shared.next_beat(TELL_EVERY)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_counts_for_a_while() {
        let (shortage, now) = (Shortage::default(), Instant::now());
        assert!(!shortage.is_short(2, now));
        shortage.told(2, true, now);
        assert!(shortage.is_short(2, now) && !shortage.is_short(3, now));
        assert!(!shortage.is_short(2, now + WORD_COUNTS));
        shortage.told(2, true, now + WORD_COUNTS);
        assert!(shortage.is_short(2, now + WORD_COUNTS));
        shortage.told(2, false, now + WORD_COUNTS);
        assert!(!shortage.is_short(2, now + WORD_COUNTS));
    }

    #[test]
    fn a_majority_with_room_is_enough() {
        let short = |nodes: &'static [NodeId]| move |node| nodes.contains(&node);
        assert!(majority_has_room(&[1, 2, 3], short(&[])));
        assert!(majority_has_room(&[1, 2, 3], short(&[3])));
        assert!(!majority_has_room(&[1, 2, 3], short(&[2, 3])));
        assert!(!majority_has_room(&[1, 2], short(&[2])));
        assert!(majority_has_room(&[1, 2, 3, 4, 5], short(&[4, 5, 6])));
        assert!(majority_has_room(&[], short(&[1])));
    }
}
