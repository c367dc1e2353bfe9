//! What a client has sent on one socket and was not answered yet.
//!
//! Invariant: answers leave in the order in which the sends came, refusals included. A plain socket
//! has no nonces, so the order is the only thing by which a client can tell which answer is whose.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;

use accord_raft::Position;
use accord_raft::WriteError;
use uuid::Uuid;

use crate::api::problem::Problem;

/// The queue; `P` is what the store answers through.
#[derive(Debug)]
pub struct Unacked<P> {
    sends: VecDeque<Unanswered<P>>,
}

#[derive(Debug)]
struct Unanswered<P> {
    nonce: Option<String>,
    state: State<P>,
}

#[derive(Debug)]
enum State<P> {
    Refused(Problem),
    Waiting { sent: Sent, pending: P },
}

/// A message on its way, as far as the acknowledgement repeats it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    pub message: String,
    pub reply_to: Option<Uuid>,
}

/// The answer to one send.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub nonce: Option<String>,
    pub outcome: Result<(Position, Sent), Problem>,
}

impl<P> Unacked<P>
where
    P: Future<Output = Result<Position, WriteError>> + Unpin,
{
    pub fn new() -> Unacked<P> {
        Unacked {
            sends: VecDeque::new(),
        }
    }

    pub fn len(&self) -> usize {
        self.sends.len()
    }

    pub fn is_empty(&self) -> bool {
        self.sends.is_empty()
    }

    pub fn waiting(&mut self, nonce: Option<String>, sent: Sent, pending: P) {
        self.sends.push_back(Unanswered {
            nonce,
            state: State::Waiting { sent, pending },
        });
    }

    pub fn refused(&mut self, nonce: Option<String>, problem: Problem) {
        self.sends.push_back(Unanswered {
            nonce,
            state: State::Refused(problem),
        });
    }

    /// The next answer in order; pending for ever while nothing was sent. May be dropped and called
    /// again at will.
    pub async fn next(&mut self) -> Answer {
        std::future::poll_fn(|context| self.poll_next(context)).await
    }

    /// The next answer if it is there. Wakes nobody later.
    pub fn try_next(&mut self) -> Option<Answer> {
        match self.poll_next(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(answer) => Some(answer),
            Poll::Pending => None,
        }
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Answer> {
        let Some(first) = self.sends.front_mut() else {
            return Poll::Pending;
        };
        let result = match &mut first.state {
            State::Refused(_) => None,
            State::Waiting { pending, .. } => match Pin::new(pending).poll(context) {
                Poll::Ready(result) => Some(result),
                Poll::Pending => return Poll::Pending,
            },
        };
        let Some(Unanswered { nonce, state }) = self.sends.pop_front() else {
            return Poll::Pending;
        };
        let outcome = match (state, result) {
            (State::Refused(problem), _) => Err(problem),
            (State::Waiting { sent, .. }, Some(Ok(position))) => Ok((position, sent)),
            (State::Waiting { .. }, Some(Err(error))) => Err(Problem::from(error)),
            (State::Waiting { .. }, None) => Err(Problem::from(WriteError::OutcomeUnknown)),
        };
        Poll::Ready(Answer { nonce, outcome })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;
    use futures_util::future::BoxFuture;
    use tokio::sync::oneshot;

    type Pending = BoxFuture<'static, Result<Position, WriteError>>;

    fn pending() -> (oneshot::Sender<Result<Position, WriteError>>, Pending) {
        let (answer, answered) = oneshot::channel();
        (answer, answered.map(|result| result.unwrap()).boxed())
    }

    fn sent(message: &str) -> Sent {
        Sent {
            message: message.to_owned(),
            reply_to: None,
        }
    }

    const POSITION: Position = Position {
        seq: 1,
        timestamp_ms: 2,
        id: Uuid::from_u128(3),
        repeated: false,
    };

    #[tokio::test]
    async fn answers_keep_the_order_of_sends() {
        let mut unacked: Unacked<Pending> = Unacked::new();
        let (one, first) = pending();
        let (two, second) = pending();
        unacked.waiting(None, sent("a"), first);
        unacked.refused(Some("n".to_owned()), Problem::bad_request("No."));
        unacked.waiting(None, sent("b"), second);
        two.send(Err(WriteError::NoLeader)).unwrap();
        assert_eq!(unacked.try_next(), None);
        one.send(Ok(POSITION)).unwrap();
        let answer = unacked.next().await;
        assert_eq!(answer.outcome, Ok((POSITION, sent("a"))));
        let answer = unacked.try_next().unwrap();
        assert_eq!(answer.nonce.as_deref(), Some("n"));
        assert_eq!(answer.outcome, Err(Problem::bad_request("No.")));
        let answer = unacked.try_next().unwrap();
        assert_eq!(answer.outcome, Err(Problem::from(WriteError::NoLeader)));
        assert!(unacked.is_empty() && unacked.try_next().is_none());
    }
}
