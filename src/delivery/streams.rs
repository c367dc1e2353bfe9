//! What agents have said so far in answers that are not committed, for those who connect later. No
//! I/O; time is an argument.
//!
//! Deltas come unordered with respect to commits, may be lost, and a node may come in the middle of
//! them. So a text is kept only while it is whole from its beginning, and a job whose reply was seen
//! is remembered for a while, so that what comes late does not revive it.
//!
//! Invariants: at most [`STREAMS_MAX`] texts and [`TEXTS_BYTES_MAX`] bytes; a text that is handed
//! out is what the agent said from the beginning of its newest known attempt.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use crate::agents::delta::Delta;
use crate::agents::delta::Ended;
use crate::agents::partial::units_of;

/// Most answers under way that are kept; of more the one that was silent longest is forgotten.
const STREAMS_MAX: usize = 1_024;
/// Most bytes of all texts.
const TEXTS_BYTES_MAX: usize = 8 << 20;
/// Most bytes of one text: what a message may have at the most.
const TEXT_BYTES_MAX: usize = 256 << 10;
/// A text that nothing came for is forgotten after this: its end was lost.
const SILENT_MAX: Duration = Duration::from_secs(120);
/// Jobs of which the end was seen that are remembered.
const ENDED_MAX: usize = 1_024;

/// See the module.
#[derive(Debug, Default)]
pub struct Streams {
    running: HashMap<Uuid, Stream>,
    bytes: usize,
    /// Oldest first.
    ended: VecDeque<Uuid>,
}

#[derive(Debug)]
struct Stream {
    channel: Uuid,
    agent: String,
    attempt: u32,
    text: String,
    units: u64,
    /// A piece is missing, so the text is of no use until another attempt begins.
    is_broken: bool,
    heard_at: Instant,
}

impl Streams {
    /// Takes a delta. Says whether it is worth passing on.
    pub fn take(&mut self, channel: Uuid, delta: &Delta, now: Instant) -> bool {
        if self.ended.contains(&delta.job) {
            return false;
        }
        let known = self.running.get(&delta.job);
        if known.is_some_and(|stream| stream.attempt > delta.attempt) {
            return false;
        }
        match delta.ended {
            Some(Ended::Done) => self.end(delta.job),
            Some(Ended::Retry | Ended::Stopped) => self.forget(delta.job),
            None => self.grow(channel, delta, now),
        }
        true
    }

    /// A reply to this message was committed.
    pub fn end(&mut self, job: Uuid) {
        self.forget(job);
        if self.ended.contains(&job) {
            return;
        }
        if self.ended.len() == ENDED_MAX {
            self.ended.pop_front();
        }
        self.ended.push_back(job);
    }

    /// One delta for each answer under way in the channel: all of its text so far.
    pub fn of(&self, channel: Uuid, now: Instant) -> Vec<Delta> {
        let running = self.running.iter();
        let here = running.filter(|(_, stream)| {
            stream.channel == channel && !stream.is_broken && stream.heard_at + SILENT_MAX > now
        });
        here.map(|(job, stream)| Delta {
            job: *job,
            agent: stream.agent.clone(),
            attempt: stream.attempt,
            offset: 0,
            text: stream.text.clone(),
            ended: None,
        })
        .collect()
    }

    fn grow(&mut self, channel: Uuid, delta: &Delta, now: Instant) {
        let known = self.running.get(&delta.job);
        if known.is_none_or(|stream| stream.attempt < delta.attempt) {
            self.begin(channel, delta, now);
        }
        let Some(stream) = self.running.get_mut(&delta.job) else {
            return;
        };
        stream.heard_at = now;
        // It came twice.
        if delta.offset < stream.units {
            return;
        }
        let fits = stream.text.len() + delta.text.len() <= TEXT_BYTES_MAX;
        if delta.offset > stream.units || !fits {
            stream.is_broken = true;
            self.bytes -= stream.text.len();
            stream.text = String::new();
        }
        if stream.is_broken {
            return;
        }
        stream.text.push_str(&delta.text);
        stream.units += units_of(&delta.text);
        self.bytes += delta.text.len();
        while self.bytes > TEXTS_BYTES_MAX {
            self.forget_most_silent();
        }
    }

    fn begin(&mut self, channel: Uuid, delta: &Delta, now: Instant) {
        self.forget(delta.job);
        if self.running.len() == STREAMS_MAX {
            self.forget_most_silent();
        }
        let stream = Stream {
            channel,
            agent: delta.agent.clone(),
            attempt: delta.attempt,
            text: String::new(),
            units: 0,
            is_broken: false,
            heard_at: now,
        };
        self.running.insert(delta.job, stream);
    }

    fn forget_most_silent(&mut self) {
        let running = self.running.iter();
        let most = running.min_by_key(|(job, stream)| (stream.heard_at, **job));
        if let Some(job) = most.map(|(job, _)| *job) {
            self.forget(job);
        }
    }

    fn forget(&mut self, job: Uuid) {
        if let Some(stream) = self.running.remove(&job) {
            self.bytes -= stream.text.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CHANNEL: Uuid = Uuid::from_u128(1);

    fn delta(job: u128, attempt: u32, offset: u64, text: &str) -> Delta {
        Delta {
            job: Uuid::from_u128(job),
            agent: "ask".to_owned(),
            attempt,
            offset,
            text: text.to_owned(),
            ended: None,
        }
    }

    fn ended(job: u128, attempt: u32, ended: Ended) -> Delta {
        Delta {
            ended: Some(ended),
            ..delta(job, attempt, 0, "")
        }
    }

    fn texts(streams: &Streams, now: Instant) -> Vec<(u32, String)> {
        let found = streams.of(CHANNEL, now).into_iter();
        found.map(|delta| (delta.attempt, delta.text)).collect()
    }

    #[test]
    fn a_late_joiner_gets_the_text_so_far() {
        let now = Instant::now();
        let mut streams = Streams::default();
        assert!(streams.take(CHANNEL, &delta(7, 1, 0, "a🦀"), now));
        assert!(streams.take(CHANNEL, &delta(7, 1, 3, "b"), now));
        assert!(streams.take(CHANNEL, &delta(7, 1, 0, "a🦀"), now));
        assert_eq!(texts(&streams, now), [(1, "a🦀b".to_owned())]);
        assert!(streams.of(Uuid::from_u128(2), now).is_empty());
        assert_eq!(texts(&streams, now + SILENT_MAX), []);
    }

    #[test]
    fn a_new_attempt_begins_anew_and_an_old_one_is_ignored() {
        let now = Instant::now();
        let mut streams = Streams::default();
        streams.take(CHANNEL, &delta(7, 1, 0, "old"), now);
        assert!(streams.take(CHANNEL, &delta(7, 2, 0, "new"), now));
        assert!(!streams.take(CHANNEL, &delta(7, 1, 3, "er"), now));
        assert!(!streams.take(CHANNEL, &ended(7, 1, Ended::Stopped), now));
        assert_eq!(texts(&streams, now), [(2, "new".to_owned())]);
        assert!(streams.take(CHANNEL, &ended(7, 2, Ended::Retry), now));
        assert!(streams.running.is_empty() && streams.bytes == 0);
    }

    #[test]
    fn a_text_with_a_hole_is_not_shown() {
        let now = Instant::now();
        let mut streams = Streams::default();
        streams.take(CHANNEL, &delta(7, 1, 3, "middle"), now);
        streams.take(CHANNEL, &delta(7, 1, 9, "end"), now);
        assert_eq!(texts(&streams, now), []);
        streams.take(CHANNEL, &delta(7, 2, 0, "whole"), now);
        assert_eq!(texts(&streams, now), [(2, "whole".to_owned())]);
    }

    #[test]
    fn what_comes_after_the_reply_is_nothing_any_more() {
        let now = Instant::now();
        let mut streams = Streams::default();
        streams.take(CHANNEL, &delta(7, 1, 0, "a"), now);
        streams.end(Uuid::from_u128(7));
        assert!(!streams.take(CHANNEL, &delta(7, 1, 1, "b"), now));
        assert!(!streams.take(CHANNEL, &delta(7, 2, 0, "b"), now));
        assert!(streams.running.is_empty());
        assert!(streams.take(CHANNEL, &ended(8, 1, Ended::Done), now));
        assert!(!streams.take(CHANNEL, &delta(8, 1, 0, "b"), now));
    }

    proptest! {
        #[test]
        fn the_bounds_hold(
            steps in prop::collection::vec(
                (0..1_200_u128, 1..3_u32, 0..4_u64, 0..3_usize, 0..20_u8),
                0..300,
            ),
        ) {
            let mut streams = Streams::default();
            let mut now = Instant::now();
            for (job, attempt, offset, size, kind) in steps {
                now += Duration::from_millis(1);
                let text = ["", "ab", &"x".repeat(TEXT_BYTES_MAX)][size].to_owned();
                match kind {
                    0 => streams.end(Uuid::from_u128(job)),
                    1 => {
                        streams.take(CHANNEL, &ended(job, attempt, Ended::Retry), now);
                    }
                    // Many have no hole.
                    2..10 => {
                        streams.take(CHANNEL, &delta(job, attempt, 0, &text), now);
                    }
                    _ => {
                        streams.take(CHANNEL, &delta(job, attempt, offset, &text), now);
                    }
                }
                prop_assert!(streams.running.len() <= STREAMS_MAX);
                prop_assert!(streams.bytes <= TEXTS_BYTES_MAX);
                let sum: usize = streams.running.values().map(|stream| stream.text.len()).sum();
                prop_assert_eq!(sum, streams.bytes);
                prop_assert!(streams.ended.len() <= ENDED_MAX);
            }
        }
    }
}
