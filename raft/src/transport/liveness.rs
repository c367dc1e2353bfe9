//! Decisions about time and sight: when a link must speak, when it counts as dead, when to dial
//! again, what to log again, and who sees whom. Pure: time and randomness are arguments; only
//! [`Sightings`], the shared copy of what our pings say, has a lock.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use bytes::Bytes;

use crate::beat::Beat;

use super::{NODES_MAX, NodeId, Timing, locked};

/// What the accepting end of a connection allows more of, in time: a caller that has gone is missed on
/// the connection to it, not on that from it. So callers may be silent for long, and an idle pair of
/// nodes need not say everything twice.
const CALLERS_SILENCE: u32 = 10;

/// One connection's silence, in both directions.
#[derive(Debug)]
pub(super) struct Liveness {
    ping_every: Duration,
    silent_after: Duration,
    look_every: Duration,
    beat: Beat,
    beat_every: Duration,
    sent_at: Instant,
    heard_at: Instant,
    looked_at: Instant,
}

impl Liveness {
    /// The end that accepted the connection. It speaks often, for the caller to know that it is there.
    pub(super) fn of_callee(timing: &Timing, beat: Beat, now: Instant) -> Self {
        Self {
            ping_every: timing.ping_every,
            silent_after: timing.silent_after * CALLERS_SILENCE,
            look_every: timing.ping_every,
            beat,
            beat_every: timing.ping_every,
            sent_at: now,
            heard_at: now,
            looked_at: now,
        }
    }

    /// The end that dialled.
    pub(super) fn of_caller(timing: &Timing, beat: Beat, now: Instant) -> Self {
        Self {
            ping_every: timing.ping_every * CALLERS_SILENCE,
            silent_after: timing.silent_after,
            // Less than half of `silent_after`, so that a longer gap between two looks means that we
            // were not running.
            look_every: timing.silent_after * 2 / 5,
            ..Self::of_callee(timing, beat, now)
        }
    }

    pub(super) fn sent(&mut self, now: Instant) {
        self.sent_at = now;
    }

    pub(super) fn heard(&mut self, now: Instant) {
        self.heard_at = now;
    }

    pub(super) fn must_ping(&self, now: Instant) -> bool {
        now >= self.ping_due()
    }

    /// On a beat, at most `ping_every` after something was sent; on a busy link that is each beat.
    fn ping_due(&self) -> Instant {
        self.beat
            .last(self.beat_every, self.sent_at + self.ping_every)
    }

    /// Has the other end been silent for too long? If we were not running ourselves (a suspended
    /// process, a starved runtime), what it sent may wait unread: then it gets another half of the
    /// time, counted from now.
    pub(super) fn is_silent(&mut self, now: Instant) -> bool {
        let grace = self.silent_after / 2;
        if now.saturating_duration_since(self.looked_at.max(self.heard_at)) >= grace {
            let forgiven = now.checked_sub(self.silent_after - grace).unwrap_or(now);
            self.heard_at = self.heard_at.max(forgiven);
        }
        self.looked_at = now;
        now.saturating_duration_since(self.heard_at) >= self.silent_after
    }

    /// When to look again: on a beat if there is one in time. At most `look_every` after the last look, or
    /// after we last heard anything, which is a sign of our own life too; and always after it: a ping that
    /// was due then and could not be sent, because nothing can be written, is not a reason to look at once.
    pub(super) fn due(&self) -> Instant {
        let ping = Some(self.ping_due()).filter(|ping| *ping > self.looked_at);
        let looked_at = self.looked_at.max(self.heard_at);
        let latest = (looked_at + self.look_every).min(self.heard_at + self.silent_after);
        let on_beat = Some(self.beat.last(self.beat_every, latest));
        let look = on_beat.filter(|beat| *beat > looked_at).unwrap_or(latest);
        ping.map_or(look, |ping| ping.min(look))
    }
}

/// The pause between two dials.
#[derive(Debug)]
pub(super) struct Backoff {
    min: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    pub(super) fn new(timing: &Timing) -> Self {
        Self {
            min: timing.redial_min,
            max: timing.redial_max,
            next: timing.redial_min,
        }
    }

    pub(super) fn reset(&mut self) {
        self.next = self.min;
    }

    /// Between half the step and the whole of it, so that nodes that lost each other at once do not
    /// dial at once for ever. `random` is any number.
    pub(super) fn pause(&mut self, random: u64) -> Duration {
        let step = self.next;
        self.next = (step * 2).min(self.max);
        let share = u32::try_from(random % 1_001).expect("at most 1,000");
        step / 2 + step / 2 * share / 1_000
    }
}

/// Lets a text through once in a while: a peer that cannot connect tries for ever.
#[derive(Debug, Default)]
pub(super) struct LogLimit {
    said: VecDeque<(String, Instant)>,
}

impl LogLimit {
    /// The same text is let through once in this time.
    const REPEAT_AFTER: Duration = Duration::from_secs(30);
    /// Different texts in that time, so that a stranger cannot fill the disk by variety.
    const TEXTS_MAX: usize = 64;

    pub(super) fn allows(&mut self, text: &str, now: Instant) -> bool {
        let is_old =
            |(_, at): &(String, Instant)| now.saturating_duration_since(*at) >= Self::REPEAT_AFTER;
        while self.said.front().is_some_and(is_old) {
            self.said.pop_front();
        }
        if self.said.len() == Self::TEXTS_MAX || self.said.iter().any(|(said, _)| said == text) {
            return false;
        }
        self.said.push_back((text.to_owned(), now));
        true
    }
}

/// Which nodes are seen, by us and by those that we see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Ourselves.
    pub node: NodeId,
    /// The nodes whose outgoing link is up, in the order of their ids.
    pub sightings: Vec<Sighting>,
}

/// A node that we see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    pub node: NodeId,
    /// The nodes that it said it sees when it last spoke of them; `None` if it has not yet.
    pub sees: Option<Arc<[NodeId]>>,
}

impl View {
    /// Do we see it?
    pub fn sees(&self, node: NodeId) -> bool {
        self.sightings.iter().any(|sighting| sighting.node == node)
    }

    /// How many nodes, ourselves included, say that they see `node`. Its own word does not count.
    pub fn seen_by(&self, node: NodeId) -> usize {
        let others = self
            .others(node)
            .filter(|sees| sees.contains(&node))
            .count();
        others + usize::from(self.sees(node))
    }

    /// How many nodes, ourselves included, say that they do not see `node`. Nodes that we do not
    /// see, or that have not spoken yet, count neither here nor in [`View::seen_by`].
    pub fn missed_by(&self, node: NodeId) -> usize {
        let others = self
            .others(node)
            .filter(|sees| !sees.contains(&node))
            .count();
        others + usize::from(!self.sees(node) && node != self.node)
    }

    fn others(&self, node: NodeId) -> impl Iterator<Item = &Arc<[NodeId]>> {
        let witnesses = self
            .sightings
            .iter()
            .filter(move |sighting| sighting.node != node);
        witnesses.filter_map(|sighting| sighting.sees.as_ref())
    }
}

/// What our own pings say, encoded once per change.
#[derive(Debug, Default)]
pub(super) struct Sightings {
    version: AtomicU64,
    body: Mutex<Bytes>,
}

impl Sightings {
    pub(super) fn set(&self, nodes: impl Iterator<Item = NodeId>) {
        let mut body = locked(&self.body);
        *body = encode_nodes(nodes);
        self.version.fetch_add(1, Ordering::Release);
    }

    /// A link that told an older version has something to say.
    pub(super) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    pub(super) fn ping_body(&self) -> Bytes {
        locked(&self.body).clone()
    }
}

pub(super) fn encode_nodes(nodes: impl Iterator<Item = NodeId>) -> Bytes {
    nodes.flat_map(u64::to_le_bytes).collect()
}

/// `None` if it is not a list of nodes.
pub(super) fn decode_nodes(body: &[u8]) -> Option<Arc<[NodeId]>> {
    let (nodes, rest) = body.as_chunks::<8>();
    let valid = rest.is_empty() && nodes.len() <= NODES_MAX;
    valid.then(|| {
        nodes
            .iter()
            .map(|bytes| u64::from_le_bytes(*bytes))
            .collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TIMING: Timing = Timing {
        ping_every: Duration::from_millis(200),
        silent_after: Duration::from_secs(1),
        redial_min: Duration::from_millis(50),
        redial_max: Duration::from_secs(1),
        handshake_timeout: Duration::from_secs(3),
    };

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn silence_is_noticed_in_time() {
        let start = Instant::now();
        let mut liveness = Liveness::of_caller(&TIMING, Beat::new(start), start);
        let mut now = start;
        // Nothing can be sent either.
        while !liveness.is_silent(now) {
            assert!(now < start + ms(1_000) && liveness.due() > now);
            now = liveness.due();
        }
        assert_eq!(now, start + ms(1_000));
    }

    #[test]
    fn our_own_absence_is_not_the_peers_silence() {
        let start = Instant::now();
        let mut liveness = Liveness::of_caller(&TIMING, Beat::new(start), start);
        let back = start + ms(60_000);
        assert!(!liveness.is_silent(back));
        assert!(!liveness.is_silent(back + ms(200)));
        assert!(!liveness.is_silent(back + ms(499)));
        assert!(liveness.is_silent(back + ms(500)));
    }

    #[test]
    fn a_ping_is_due_on_the_next_beat_after_anything_was_sent() {
        let start = Instant::now();
        let mut liveness = Liveness::of_callee(&TIMING, Beat::new(start), start);
        assert!(!liveness.must_ping(start + ms(199)));
        assert!(liveness.must_ping(start + ms(200)));
        liveness.sent(start + ms(201));
        assert!(!liveness.must_ping(start + ms(399)));
        assert!(liveness.must_ping(start + ms(400)));
    }

    #[test]
    fn links_that_have_nothing_to_say_wake_up_together() {
        let start = Instant::now();
        let beat = Beat::new(start);
        let mut callee = Liveness::of_callee(&TIMING, beat, start + ms(30));
        let mut caller = Liveness::of_caller(&TIMING, beat, start + ms(70));
        for round in 1..20 {
            let now = start + ms(200 * round);
            // What was sent a little late does not move the next beat.
            callee.sent(now + ms(3));
            assert!(!callee.is_silent(now));
            assert_eq!(callee.due(), now + ms(200));
            caller.sent(now);
            caller.heard(now + ms(110));
            assert!(!caller.is_silent(now + ms(110)));
            assert_eq!(caller.due(), now + ms(400));
        }
    }

    proptest! {
        /// Whatever happens in between, who looks when due never waits longer than it may, and a link
        /// that was heard of less than `silent_after` ago is not silent.
        #[test]
        fn looks_are_often_enough(
            is_caller: bool,
            offset in 0_u64..1_000,
            events in prop::collection::vec((0_u64..300, 0_u8..3), 0..100),
        ) {
            let beat = Beat::new(Instant::now());
            let mut now = Instant::now() + ms(offset);
            let (mut liveness, look_every) = match is_caller {
                true => (Liveness::of_caller(&TIMING, beat, now), ms(400)),
                false => (Liveness::of_callee(&TIMING, beat, now), ms(200)),
            };
            let mut heard_at = now;
            for (wait, event) in events {
                now += ms(wait);
                match event {
                    0 => liveness.sent(now),
                    1 => { liveness.heard(now); heard_at = now; }
                    _ => {
                        let silent = liveness.is_silent(now);
                        prop_assert!(!silent || now - heard_at >= TIMING.silent_after);
                        prop_assert!(liveness.due() <= now + look_every);
                        prop_assert!(silent || liveness.due() > now);
                    }
                }
            }
        }

        #[test]
        fn pauses_stay_in_bounds(randoms in prop::collection::vec(any::<u64>(), 1..20)) {
            let mut backoff = Backoff::new(&TIMING);
            let mut step = TIMING.redial_min;
            for random in randoms {
                let pause = backoff.pause(random);
                prop_assert!(step / 2 <= pause && pause <= step);
                step = (step * 2).min(TIMING.redial_max);
            }
            backoff.reset();
            prop_assert!(backoff.pause(0) <= TIMING.redial_min);
        }

        #[test]
        fn nodes_round_trip(nodes in prop::collection::vec(any::<u64>(), 0..20), odd in 1_usize..8) {
            let body = encode_nodes(nodes.iter().copied());
            let decoded = decode_nodes(&body);
            prop_assert_eq!(decoded.as_deref(), Some(nodes.as_slice()));
            prop_assert_eq!(decode_nodes(&[body.to_vec(), vec![0; odd]].concat()), None);
        }
    }

    #[test]
    fn too_many_nodes_are_no_list() {
        assert!(decode_nodes(&vec![0; NODES_MAX * 8]).is_some());
        assert!(decode_nodes(&vec![0; NODES_MAX * 8 + 8]).is_none());
    }

    #[test]
    fn a_log_line_is_repeated_only_after_a_while() {
        let (mut limit, start) = (LogLimit::default(), Instant::now());
        assert!(limit.allows("a", start));
        assert!(!limit.allows("a", start + ms(29_999)));
        assert!(limit.allows("b", start + ms(10_000)));
        assert!(limit.allows("a", start + ms(30_000)));
        let many = (0..1_000)
            .filter(|i| limit.allows(&i.to_string(), start + ms(30_000)))
            .count();
        assert_eq!(many, LogLimit::TEXTS_MAX - 2);
    }

    #[test]
    fn witnesses_are_counted() {
        let sighting = |node, sees: Option<&[NodeId]>| Sighting {
            node,
            sees: sees.map(Arc::from),
        };
        // Node 5 is down, node 4 is seen by us alone, node 3 has not spoken yet.
        let sightings = vec![
            sighting(2, Some(&[1, 3])),
            sighting(3, None),
            sighting(4, Some(&[1, 2, 3])),
        ];
        let view = View { node: 1, sightings };
        assert_eq!((view.seen_by(5), view.missed_by(5)), (0, 3));
        assert_eq!((view.seen_by(4), view.missed_by(4)), (1, 1));
        assert_eq!((view.seen_by(3), view.missed_by(3)), (3, 0));
        assert_eq!((view.seen_by(2), view.missed_by(2)), (2, 0));
        assert_eq!((view.seen_by(1), view.missed_by(1)), (2, 0));
    }
}
