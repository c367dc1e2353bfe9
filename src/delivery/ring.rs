//! The most recent messages of a channel, and where a cursor stands among them. No I/O, no locks.
//!
//! Invariants: the frames kept have consecutive seqs and end at the head; the head never falls. A
//! cursor is the seq of the last message that a connection has sent. [`Ring::read`] only ever hands
//! out the message that follows the cursor, and then the next: so whatever is pushed, dropped or
//! skipped meanwhile, a connection that adds what it got to its cursor sends each message once and
//! in order.

use std::collections::VecDeque;

use bytes::Bytes;

/// Most messages kept: what a reader that is a little slow still finds without asking storage.
pub const RING_MESSAGES_MAX: usize = 1_024;
/// Most bytes of frames kept, whatever their number.
pub const RING_BYTES_MAX: usize = 1 << 20;

/// See the module.
#[derive(Debug, Default)]
pub struct Ring {
    /// Frames of the messages up to and including `head`.
    frames: VecDeque<Bytes>,
    frames_bytes: usize,
    head: u64,
}

/// What a cursor found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// Nothing follows the cursor yet.
    Level,
    /// Frames were handed out; the cursor now stands here.
    Advanced(u64),
    /// What follows the cursor is no longer here; storage has it.
    Behind,
}

impl Ring {
    /// Newest seq that is known of.
    pub fn head(&self) -> u64 {
        self.head
    }

    /// Learns that the channel had reached `head`, from elsewhere than its frames.
    pub fn reach(&mut self, head: u64) {
        if head > self.head {
            self.clear();
            self.head = head;
        }
    }

    /// Takes the frames of consecutive messages beginning with `first_seq`. Those known already are
    /// skipped; if some are missing in between, the ring begins anew and cursors find the missing
    /// ones in storage.
    pub fn push(&mut self, first_seq: u64, frames: Vec<Bytes>) {
        let Some(before) = first_seq.checked_sub(1) else {
            return;
        };
        self.reach(before);
        let known = usize::try_from(self.head - before).unwrap_or(usize::MAX);
        for frame in frames.into_iter().skip(known) {
            self.frames_bytes += frame.len();
            self.frames.push_back(frame);
            self.head += 1;
        }
        while self.frames.len() > RING_MESSAGES_MAX || self.frames_bytes > RING_BYTES_MAX {
            match self.frames.pop_front() {
                Some(frame) => self.frames_bytes -= frame.len(),
                None => break,
            }
        }
    }

    /// Appends to `out` what follows `cursor`, at least one frame if there is any, then up to about
    /// `bytes_max`.
    pub fn read(&self, cursor: u64, bytes_max: usize, out: &mut Vec<Bytes>) -> Reading {
        if cursor >= self.head {
            return Reading::Level;
        }
        let missing = self.head - cursor;
        let kept = self.frames.len();
        let Some(start) = usize::try_from(missing)
            .ok()
            .and_then(|missing| kept.checked_sub(missing))
        else {
            return Reading::Behind;
        };
        let mut bytes = 0;
        let mut reached = cursor;
        for frame in self.frames.range(start..) {
            if bytes > 0 && bytes + frame.len() > bytes_max {
                break;
            }
            bytes += frame.len();
            reached += 1;
            out.push(frame.clone());
        }
        Reading::Advanced(reached)
    }

    fn clear(&mut self) {
        self.frames.clear();
        self.frames_bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Stands for a frame: its seq, filled up to a size.
    fn frame(seq: u64, bytes: usize) -> Bytes {
        let mut filled = vec![0; bytes.max(8)];
        filled[..8].copy_from_slice(&seq.to_be_bytes());
        Bytes::from(filled)
    }

    fn seq_of(frame: &Bytes) -> u64 {
        u64::from_be_bytes(frame[..8].try_into().unwrap())
    }

    fn frames(from: u64, count: u64) -> Vec<Bytes> {
        (from..from + count).map(|seq| frame(seq, 1)).collect()
    }

    fn read(ring: &Ring, cursor: u64) -> (Reading, Vec<u64>) {
        let mut out = Vec::new();
        let reading = ring.read(cursor, usize::MAX, &mut out);
        (reading, out.iter().map(seq_of).collect())
    }

    #[test]
    fn a_cursor_gets_what_follows_it() {
        let mut ring = Ring::default();
        ring.reach(4);
        assert_eq!(read(&ring, 4), (Reading::Level, vec![]));
        assert_eq!(read(&ring, 3), (Reading::Behind, vec![]));
        ring.push(5, frames(5, 3));
        assert_eq!(read(&ring, 4), (Reading::Advanced(7), vec![5, 6, 7]));
        assert_eq!(read(&ring, 6), (Reading::Advanced(7), vec![7]));
        assert_eq!(read(&ring, 7), (Reading::Level, vec![]));
        // A cursor from a node that is ahead of this one waits.
        assert_eq!(read(&ring, 9), (Reading::Level, vec![]));
    }

    #[test]
    fn repetitions_are_skipped_and_gaps_begin_anew() {
        let mut ring = Ring::default();
        ring.push(1, frames(1, 3));
        ring.push(2, frames(2, 4));
        assert_eq!(read(&ring, 0), (Reading::Advanced(5), vec![1, 2, 3, 4, 5]));
        ring.push(1, frames(1, 2));
        assert_eq!(ring.head(), 5);
        ring.push(9, frames(9, 1));
        assert_eq!(read(&ring, 5), (Reading::Behind, vec![]));
        assert_eq!(read(&ring, 8), (Reading::Advanced(9), vec![9]));
        ring.reach(7);
        assert_eq!(ring.head(), 9);
    }

    #[test]
    fn count_and_bytes_are_bounded() {
        let mut ring = Ring::default();
        let many = RING_MESSAGES_MAX as u64 + 10;
        ring.push(1, frames(1, many));
        assert_eq!(ring.frames.len(), RING_MESSAGES_MAX);
        assert_eq!(read(&ring, 9), (Reading::Behind, vec![]));
        assert_eq!(read(&ring, 10).1.len(), RING_MESSAGES_MAX);
        ring.push(many + 1, vec![frame(many + 1, RING_BYTES_MAX)]);
        assert_eq!(ring.frames.len(), 1);
        ring.push(many + 2, vec![frame(many + 2, RING_BYTES_MAX + 1)]);
        assert_eq!((ring.frames.len(), ring.frames_bytes), (0, 0));
        assert_eq!(read(&ring, many + 1), (Reading::Behind, vec![]));
    }

    #[test]
    fn one_read_is_bounded_but_never_empty() {
        let mut ring = Ring::default();
        ring.push(1, vec![frame(1, 100), frame(2, 100), frame(3, 100)]);
        let mut out = Vec::new();
        assert_eq!(ring.read(0, 10, &mut out), Reading::Advanced(1));
        assert_eq!(ring.read(1, 200, &mut out), Reading::Advanced(3));
        assert_eq!(out.len(), 3);
    }

    #[derive(Clone, Debug)]
    enum Step {
        /// The channel grows and the node is told of all of it.
        Commit { count: u64, bytes: usize },
        /// The channel grows without this node being told.
        Miss { count: u64 },
        /// A feed begins again a little earlier.
        Repeat { back: u64 },
        /// The head is learned from an attachment.
        Reach,
        /// A connection reads once.
        Read { who: usize, bytes_max: usize },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (1..40_u64, prop_oneof![Just(1_usize), Just(3_000), Just(40_000)])
                .prop_map(|(count, bytes)| Step::Commit { count, bytes }),
            1 => (1..10_u64).prop_map(|count| Step::Miss { count }),
            1 => (1..30_u64).prop_map(|back| Step::Repeat { back }),
            1 => Just(Step::Reach),
            6 => (0..3_usize, 1..100_000_usize)
                .prop_map(|(who, bytes_max)| Step::Read { who, bytes_max }),
        ]
    }

    proptest! {
        /// Whatever happens, each of several connections sends 1, 2, 3 … up to the head.
        #[test]
        fn every_connection_sends_every_message_once(
            steps in prop::collection::vec(step(), 1..60),
        ) {
            let mut ring = Ring::default();
            let mut channel = 0_u64;
            let mut sent: [Vec<u64>; 3] = Default::default();
            // What a connection does: from the ring, else from storage, which has all up to `channel`.
            let turn = |ring: &Ring, channel: u64, sent: &mut Vec<u64>, bytes_max: usize| {
                let cursor = sent.last().copied().unwrap_or(0);
                let mut out = Vec::new();
                match ring.read(cursor, bytes_max, &mut out) {
                    Reading::Level => false,
                    Reading::Advanced(to) => {
                        sent.extend(out.iter().map(seq_of));
                        assert_eq!(sent.last(), Some(&to));
                        true
                    }
                    Reading::Behind => {
                        sent.extend((cursor + 1..=channel).take(5));
                        true
                    }
                }
            };
            for step in steps {
                match step {
                    Step::Commit { count, bytes } => {
                        let frames = (channel + 1..=channel + count).map(|s| frame(s, bytes));
                        ring.push(channel + 1, frames.collect());
                        channel += count;
                    }
                    Step::Miss { count } => channel += count,
                    Step::Repeat { back } => {
                        let from = channel.saturating_sub(back) + 1;
                        ring.push(from, (from..=channel).map(|s| frame(s, 1)).collect());
                    }
                    Step::Reach => ring.reach(channel),
                    Step::Read { who, bytes_max } => {
                        turn(&ring, channel, &mut sent[who], bytes_max);
                    }
                }
                prop_assert!(ring.frames.len() <= RING_MESSAGES_MAX);
                prop_assert!(ring.frames_bytes <= RING_BYTES_MAX);
                prop_assert!(ring.head() <= channel);
            }
            ring.reach(channel);
            for sent in &mut sent {
                while turn(&ring, channel, sent, 50_000) {}
                let expected: Vec<u64> = (1..=channel).collect();
                prop_assert_eq!(&*sent, &expected);
            }
        }
    }
}
