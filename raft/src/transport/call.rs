//! The two ends of a request: the [`Call`] of who asks, the [`Reply`] of who answers.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::frame::BODY_BYTES_MAX;
use super::hello;
use super::lane::Lane;

pub(super) type Answer = Result<Bytes, CallError>;

/// The statuses of an answer; a refusal's body is its text.
const OK: u8 = 0;
const REFUSED: u8 = 1;
/// There was an answer, but too much waited already to be written to the caller.
pub(super) const LOST: u8 = 2;

/// A refusal's text is cut to this, so that it never crowds out answers.
const REFUSAL_BYTES_MAX: usize = 1_024;

/// Why a call brought no answer, and what is known of the request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Certainly not sent.
    #[error("the link to the node is down")]
    Down,
    /// Not sent: as many bytes, frames or calls wait for this node as may.
    #[error("too much waits for the node already")]
    Full,
    /// It was sent or may have been, and the link broke, or the answer found no room in the queue
    /// back to us; whether the request was carried out is unknown.
    #[error("the answer was lost on its way")]
    Lost,
    /// It was sent or may have been; whether it was or will be carried out is unknown.
    #[error("no answer came in time")]
    TimedOut,
    /// The answer is a refusal, or the request is larger than
    /// [`BODY_BYTES_MAX`] and was not sent.
    #[error("refused: {0}")]
    Refused(String),
}

/// The answer to come. The request is on its way whether or not this is polled, or kept.
#[derive(Debug)]
pub struct Call(State);

#[derive(Debug)]
enum State {
    Ended(Option<Answer>),
    Waiting(oneshot::Receiver<Answer>),
}

impl Call {
    pub(super) fn waiting(answer: oneshot::Receiver<Answer>) -> Self {
        Self(State::Waiting(answer))
    }

    pub(super) fn failed(error: CallError) -> Self {
        Self(State::Ended(Some(Err(error))))
    }
}

impl Future for Call {
    type Output = Result<Bytes, CallError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            State::Ended(answer) => {
                Poll::Ready(answer.take().expect("not polled after it has ended"))
            }
            // A sender that is gone without a word was lost with its link.
            State::Waiting(answer) => Pin::new(answer)
                .poll(context)
                .map(|answer| answer.unwrap_or(Err(CallError::Lost))),
        }
    }
}

/// The duty to answer one request. Dropped without an answer, it refuses with "dropped".
#[derive(Debug)]
pub struct Reply(Option<To>);

#[derive(Debug)]
enum To {
    Lane { lane: Arc<Lane>, id: u64 },
    Local(oneshot::Sender<Answer>),
}

impl Reply {
    /// A request of a node to itself: the answer goes to the call without any connection.
    pub fn local() -> (Self, Call) {
        let (sender, receiver) = oneshot::channel();
        (Self(Some(To::Local(sender))), Call::waiting(receiver))
    }

    pub(super) fn over(lane: Arc<Lane>, id: u64) -> Self {
        Self(Some(To::Lane { lane, id }))
    }

    pub fn ok(self, body: Bytes) {
        self.answer(std::slice::from_ref(&body));
    }

    /// The body in parts, which are written one after the other without being copied together.
    pub fn ok_parts(self, parts: Vec<Bytes>) {
        self.answer(&parts);
    }

    pub fn refuse(mut self, why: &str) {
        self.end_with_refusal(why);
    }

    fn answer(mut self, parts: &[Bytes]) {
        let bytes: usize = parts.iter().map(Bytes::len).sum();
        if bytes > BODY_BYTES_MAX {
            return self.end_with_refusal(&format!(
                "an answer of {bytes} bytes is larger than {BODY_BYTES_MAX}"
            ));
        }
        match self.0.take() {
            Some(To::Lane { lane, id }) => lane.answer(id, OK, parts),
            // The caller may have lost interest.
            Some(To::Local(sender)) => drop(sender.send(Ok(joined(parts)))),
            None => {}
        }
    }

    fn end_with_refusal(&mut self, why: &str) {
        let why = hello::shortened(why, REFUSAL_BYTES_MAX);
        match self.0.take() {
            Some(To::Lane { lane, id }) => {
                lane.answer(id, REFUSED, &[Bytes::copy_from_slice(why.as_bytes())])
            }
            Some(To::Local(sender)) => drop(sender.send(Err(CallError::Refused(why.to_owned())))),
            None => {}
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.end_with_refusal("dropped");
    }
}

/// The answer that a frame carries.
pub(super) fn read_answer(status: u8, body: Bytes) -> Answer {
    match status {
        OK => Ok(body),
        REFUSED => Err(CallError::Refused(
            String::from_utf8_lossy(&body).into_owned(),
        )),
        LOST => Err(CallError::Lost),
        other => Err(CallError::Refused(format!(
            "an answer of the unknown status {other}"
        ))),
    }
}

fn joined(parts: &[Bytes]) -> Bytes {
    match parts {
        [part] => part.clone(),
        parts => parts.concat().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn local_calls_are_answered() {
        let (reply, call) = Reply::local();
        reply.ok_parts(vec![Bytes::from_static(b"a"), Bytes::from_static(b"b")]);
        assert_eq!(call.await, Ok(Bytes::from_static(b"ab")));

        let (reply, call) = Reply::local();
        reply.refuse("no");
        assert_eq!(call.await, Err(CallError::Refused("no".into())));

        let (reply, call) = Reply::local();
        drop(reply);
        assert_eq!(call.await, Err(CallError::Refused("dropped".into())));

        let (reply, call) = Reply::local();
        reply.ok(vec![0; BODY_BYTES_MAX + 1].into());
        assert!(matches!(call.await, Err(CallError::Refused(why)) if why.contains("larger than")));
    }

    #[test]
    fn any_status_and_body_is_an_answer() {
        assert_eq!(
            read_answer(OK, Bytes::from_static(b"x")),
            Ok(Bytes::from_static(b"x"))
        );
        assert_eq!(
            read_answer(REFUSED, Bytes::from_static(b"\xff")),
            Err(CallError::Refused("\u{fffd}".into()))
        );
        assert_eq!(read_answer(LOST, Bytes::new()), Err(CallError::Lost));
        assert!(matches!(
            read_answer(9, Bytes::new()),
            Err(CallError::Refused(_))
        ));
    }
}
