//! What one connection shares with its users: the outgoing queue and the calls under way.
//!
//! Callers and answerers put frames in; the connection's link task takes them out. One short lock
//! guards both sides, so that the order of calls is the order of frames. A lane lives as long as its
//! connection: once closed it stays closed, and every call in it has ended.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::task::Waker;
use std::time::Duration;

use tokio::time::Instant;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::call::{self, Answer, Call, CallError};
use super::calls::Calls;
use super::frame::{BODY_BYTES_MAX, FrameType, Header};
use super::locked;
use super::outbox::{Chunk, Outbox};

pub use super::calls::CALLS_MAX;

type Waiter = oneshot::Sender<Answer>;

#[derive(Debug)]
pub(super) struct Lane(Mutex<State>);

#[derive(Debug)]
struct State {
    status: LaneStatus,
    outbox: Outbox,
    calls: Calls<Waiter>,
    /// The link task, from its first look until it is woken.
    waker: Option<Waker>,
    /// The link task found nothing to write: the next frame must wake it.
    asleep: bool,
    /// When the link task will look by itself: an earlier deadline must wake it.
    armed: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LaneStatus {
    Open,
    Closed,
    /// The other end asks but does not read the answers.
    Overflowed,
}

/// What the link task learns from one look.
pub(super) struct Look {
    pub(super) status: LaneStatus,
    pub(super) is_pressed: bool,
    /// When to look again if nothing happens.
    pub(super) due: Instant,
}

impl Lane {
    pub(super) fn new() -> Self {
        Self(Mutex::new(State {
            status: LaneStatus::Open,
            outbox: Outbox::default(),
            calls: Calls::default(),
            waker: None,
            asleep: false,
            armed: Instant::now(),
        }))
    }

    pub(super) fn call(&self, kind: u8, parts: &[Bytes], deadline: Duration) -> Call {
        let body_bytes = parts.iter().map(Bytes::len).sum();
        if body_bytes > BODY_BYTES_MAX {
            let why = format!("a request of {body_bytes} bytes is larger than {BODY_BYTES_MAX}");
            return Call::failed(CallError::Refused(why));
        }
        let now = Instant::now();
        // A deadline beyond what a clock can tell is none; a year is.
        let deadline = now
            .checked_add(deadline)
            .unwrap_or(now + Duration::from_secs(365 * 86_400));
        let (waiter, answer) = oneshot::channel();
        let mut state = locked(&self.0);
        if state.status != LaneStatus::Open {
            return Call::failed(CallError::Down);
        }
        if !state.outbox.has_room(body_bytes) {
            return Call::failed(CallError::Full);
        }
        let Ok(id) = state.calls.insert(waiter, deadline) else {
            return Call::failed(CallError::Full);
        };
        state.outbox.push(
            Header {
                frame_type: FrameType::Request,
                id,
                tag: kind,
            },
            parts,
        );
        let waker = if state.asleep || deadline < state.armed {
            state.rouse()
        } else {
            None
        };
        drop(state);
        wake(waker);
        Call::waiting(answer)
    }

    /// The parts have at most `BODY_BYTES_MAX` bytes together. On a closed lane nobody waits. An answer
    /// that finds no room is replaced by the word that it was lost: cutting the link instead would
    /// hurt calls that have nothing to do with it.
    pub(super) fn answer(&self, id: u64, status: u8, parts: &[Bytes]) {
        let header = |tag| Header {
            frame_type: FrameType::Answer,
            id,
            tag,
        };
        let mut state = locked(&self.0);
        if state.status != LaneStatus::Open {
            return;
        }
        let waker = if state.outbox.has_room(parts.iter().map(Bytes::len).sum()) {
            state.outbox.push(header(status), parts);
            if state.asleep { state.rouse() } else { None }
        } else if state.outbox.has_room_for_a_word() {
            state.outbox.push(header(call::LOST), &[]);
            None
        } else {
            state.status = LaneStatus::Overflowed;
            state.rouse()
        };
        drop(state);
        wake(waker);
    }

    /// From now on calls find the lane down; the link task ends.
    pub(super) fn close(&self) {
        let mut state = locked(&self.0);
        if state.status == LaneStatus::Open {
            state.status = LaneStatus::Closed;
        }
        let waker = state.rouse();
        drop(state);
        wake(waker);
    }

    pub(super) fn is_open(&self) -> bool {
        locked(&self.0).status == LaneStatus::Open
    }

    /// Makes the link task look.
    pub(super) fn nudge(&self) {
        let waker = locked(&self.0).rouse();
        wake(waker);
    }

    /// For the link task: it will look before it sleeps, so nobody needs to wake it until then.
    pub(super) fn stay_awake(&self) {
        locked(&self.0).asleep = false;
    }

    /// For the link task: reports what was written, queues a ping, takes frames if `out` is empty,
    /// and agrees on who wakes it. It sleeps until `due` unless a call's deadline is earlier.
    pub(super) fn look(
        &self,
        out: &mut VecDeque<Chunk>,
        written: Written,
        ping: Option<Bytes>,
        due: Instant,
        waker: &Waker,
    ) -> Look {
        let mut state = locked(&self.0);
        state.outbox.written(written.bytes, written.frames);
        if let Some(body) = ping {
            state.outbox.push(
                Header {
                    frame_type: FrameType::Ping,
                    id: 0,
                    tag: 0,
                },
                &[body],
            );
        }
        if out.is_empty() {
            state.outbox.take(out);
        }
        state.asleep = out.is_empty();
        state.armed = state.calls.due().map_or(due, |deadline| deadline.min(due));
        if !state
            .waker
            .as_ref()
            .is_some_and(|known| known.will_wake(waker))
        {
            state.waker = Some(waker.clone());
        }
        Look {
            status: state.status,
            is_pressed: state.outbox.is_pressed(),
            due: state.armed,
        }
    }

    /// Ends the calls that are answered; answers to calls that have ended are dropped.
    pub(super) fn complete(
        &self,
        answers: &mut Vec<(u64, Answer)>,
        found: &mut Vec<(Waiter, Answer)>,
    ) {
        let mut state = locked(&self.0);
        let waiters = answers
            .drain(..)
            .filter_map(|(id, answer)| Some((state.calls.remove(id)?, answer)));
        found.extend(waiters);
        drop(state);
        for (waiter, answer) in found.drain(..) {
            // The caller may have lost interest.
            let _ = waiter.send(answer);
        }
    }

    /// Ends the calls whose deadline has passed.
    pub(super) fn expire(&self, now: Instant) {
        let late = locked(&self.0).calls.expire(now);
        for waiter in late {
            let _ = waiter.send(Err(CallError::TimedOut));
        }
    }

    /// Closes the lane and ends every call in it. The link task does this last.
    pub(super) fn shut(&self) {
        let mut state = locked(&self.0);
        state.status = LaneStatus::Closed;
        state.outbox = Outbox::default();
        state.waker = None;
        let waiters = state.calls.drain();
        drop(state);
        for waiter in waiters {
            let _ = waiter.send(Err(CallError::Lost));
        }
    }
}

/// What has left for the socket since the last look.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Written {
    pub(super) bytes: usize,
    pub(super) frames: usize,
}

impl State {
    fn rouse(&mut self) -> Option<Waker> {
        self.asleep = false;
        self.waker.take()
    }
}

/// After the lock is released, so that the woken task does not meet it.
fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}
