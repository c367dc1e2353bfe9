//! The frames that wait for the writer of one connection.
//!
//! Small pieces are copied together into one buffer as they come, so that a wake-up of the writer
//! needs few system calls and no allocation per frame; large ones are kept as they are, without
//! being copied. Order is that of [`Outbox::push`]. A frame counts until it is wholly written.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use super::frame::{HEADER_BYTES, Header};

/// What one peer that reads slowly can cost in memory.
pub const QUEUE_BYTES_MAX: usize = 64 << 20;
/// As the bytes, for small frames: each has callers that wait and some memory elsewhere.
pub const QUEUE_FRAMES_MAX: usize = 65_536;

/// A larger piece is cheaper to point at than to copy.
const COPY_BYTES_MAX: usize = 1_024;
/// Copied pieces are gathered in buffers of this size.
const GATHER_BYTES: usize = 64 << 10;
/// What the writer takes at once. Small enough for a bounded amount to be counted twice, large
/// enough for the socket to be the limit.
const TAKE_BYTES_MAX: usize = 1 << 20;

/// Consecutive bytes of the stream.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) bytes: Bytes,
    /// How many frames end in it.
    pub(super) frames: usize,
}

#[derive(Debug, Default)]
pub(super) struct Outbox {
    sealed: VecDeque<Chunk>,
    gathering: BytesMut,
    gathering_frames: usize,
    /// Pushed and not yet reported as written.
    bytes: usize,
    frames: usize,
}

impl Outbox {
    /// So much waits that whoever makes more of it should pause.
    pub(super) fn is_pressed(&self) -> bool {
        self.bytes > QUEUE_BYTES_MAX / 4 || self.frames > QUEUE_FRAMES_MAX / 4
    }

    pub(super) fn has_room(&self, body_bytes: usize) -> bool {
        self.has_room_for_a_word() && self.bytes + HEADER_BYTES + body_bytes <= QUEUE_BYTES_MAX
    }

    /// An empty frame is let in where only bytes are short.
    pub(super) fn has_room_for_a_word(&self) -> bool {
        self.frames < QUEUE_FRAMES_MAX
    }

    /// `parts` are the pieces of the body, which together have at most `BODY_BYTES_MAX` bytes.
    pub(super) fn push(&mut self, header: Header, parts: &[Bytes]) {
        let body_bytes = parts.iter().map(Bytes::len).sum();
        self.gather(&header.encode(body_bytes));
        for part in parts {
            if part.len() <= COPY_BYTES_MAX {
                self.gather(part);
            } else {
                self.seal();
                self.sealed.push_back(Chunk {
                    bytes: part.clone(),
                    frames: 0,
                });
            }
        }
        self.bytes += HEADER_BYTES + body_bytes;
        self.frames += 1;
        match self.sealed.back_mut() {
            Some(last) if self.gathering.is_empty() => last.frames += 1,
            _ => self.gathering_frames += 1,
        }
    }

    /// Moves what waits, or a bounded part of it, to the end of `out`.
    pub(super) fn take(&mut self, out: &mut VecDeque<Chunk>) {
        let mut taken = 0;
        while taken < TAKE_BYTES_MAX {
            let Some(chunk) = self.sealed.pop_front() else {
                self.seal();
                out.extend(self.sealed.pop_front());
                return;
            };
            taken += chunk.bytes.len();
            out.push_back(chunk);
        }
    }

    /// What was taken and has left for the socket makes room for more.
    pub(super) fn written(&mut self, bytes: usize, frames: usize) {
        self.bytes -= bytes;
        self.frames -= frames;
    }

    fn gather(&mut self, bytes: &[u8]) {
        if self.gathering.len() + bytes.len() > GATHER_BYTES {
            self.seal();
        }
        if self.gathering.capacity() - self.gathering.len() < bytes.len() {
            // Nothing of a frame may stay behind in the old buffer's spare end, and a new one is
            // taken whole: a buffer whose chunks have all been written is used again.
            self.gathering
                .reserve(GATHER_BYTES.saturating_sub(self.gathering.len()));
        }
        self.gathering.extend_from_slice(bytes);
    }

    fn seal(&mut self) {
        if !self.gathering.is_empty() {
            let bytes = self.gathering.split().freeze();
            let frames = std::mem::take(&mut self.gathering_frames);
            self.sealed.push_back(Chunk { bytes, frames });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame::{self, Frame, FrameType};
    use super::*;
    use proptest::prelude::*;

    fn header(id: u64) -> Header {
        Header {
            frame_type: FrameType::Request,
            id,
            tag: 0,
        }
    }

    fn any_part() -> impl Strategy<Value = Bytes> {
        let sizes = prop_oneof![0..300_usize, 1_020..1_030_usize, 60_000..70_000_usize];
        (sizes, any::<u8>()).prop_map(|(size, byte)| vec![byte; size].into())
    }

    #[derive(Clone, Debug)]
    enum Step {
        Push(Vec<Bytes>),
        Take,
        Written,
    }

    fn any_step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => prop::collection::vec(any_part(), 0..5).prop_map(Step::Push),
            1 => Just(Step::Take),
            1 => Just(Step::Written),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn what_is_pushed_comes_out_in_order_and_is_counted(steps in prop::collection::vec(any_step(), 0..60)) {
            let (mut outbox, mut out, mut stream) = (Outbox::default(), VecDeque::new(), BytesMut::new());
            let (mut expected, mut waiting_bytes, mut waiting_frames) = (Vec::new(), 0, 0);
            for step in steps.into_iter().chain([Step::Take, Step::Written, Step::Take, Step::Written]) {
                match step {
                    Step::Push(parts) => {
                        let id = expected.len() as u64;
                        outbox.push(header(id), &parts);
                        let body = Bytes::from(parts.concat());
                        waiting_bytes += HEADER_BYTES + body.len();
                        waiting_frames += 1;
                        expected.push(Frame { header: header(id), body });
                    }
                    Step::Take => loop {
                        let before = out.len();
                        outbox.take(&mut out);
                        if out.len() == before { break }
                    },
                    Step::Written => for chunk in out.drain(..) {
                        prop_assert!(!chunk.bytes.is_empty());
                        outbox.written(chunk.bytes.len(), chunk.frames);
                        waiting_bytes -= chunk.bytes.len();
                        waiting_frames -= chunk.frames;
                        stream.extend_from_slice(&chunk.bytes);
                    },
                }
                prop_assert_eq!((outbox.bytes, outbox.frames), (waiting_bytes, waiting_frames));
            }
            let mut frames = Vec::new();
            while let Some(frame) = frame::decode(&mut stream).unwrap() {
                frames.push(frame);
            }
            prop_assert_eq!(frames, expected);
            prop_assert_eq!((outbox.bytes, outbox.frames), (0, 0));
        }
    }

    #[test]
    fn large_parts_are_not_copied() {
        let (mut outbox, mut out) = (Outbox::default(), VecDeque::new());
        let large = Bytes::from(vec![7; COPY_BYTES_MAX + 1]);
        outbox.push(header(0), &[Bytes::from_static(b"small"), large.clone()]);
        outbox.take(&mut out);
        assert_eq!(out.len(), 2);
        assert_eq!(out[1].bytes.as_ptr(), large.as_ptr());
        assert_eq!((out[0].frames, out[1].frames), (0, 1));
    }

    #[test]
    fn both_bounds_hold() {
        let mut outbox = Outbox::default();
        for id in 0..QUEUE_FRAMES_MAX as u64 {
            assert!(outbox.has_room(0));
            outbox.push(header(id), &[]);
        }
        assert!(!outbox.has_room(0));

        let (mut outbox, mut out) = (Outbox::default(), VecDeque::new());
        let body = Bytes::from(vec![0; (1 << 20) - HEADER_BYTES]);
        for id in 0..64 {
            assert!(outbox.has_room(body.len()));
            outbox.push(header(id), std::slice::from_ref(&body));
        }
        assert!(!outbox.has_room(0));
        outbox.take(&mut out);
        assert!(!outbox.has_room(0), "taken is not yet written");
        let chunk = out.pop_front().unwrap();
        outbox.written(chunk.bytes.len(), chunk.frames);
        assert!(outbox.has_room(0));
    }
}
