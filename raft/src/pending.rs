//! A message on its way: resolves to its place in the channel, or to why it has none.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use tokio::time::Instant;

use tokio::sync::oneshot;
use uuid::Uuid;

use crate::api;
use crate::api::Channel;
use crate::api::Consistency;
use crate::api::Draft;
use crate::api::Position;
use crate::api::Range;
use crate::api::ReadError;
use crate::api::WriteError;
use crate::group::outbox::Verdict;
use crate::machine::EncodedCommand;
use crate::machine::Outcome;
use crate::machine::channel::Call;
use crate::machine::channel::Command;
use crate::machine::channel::Post;
use crate::node::Node;

/// How far back a message is looked for whose first try was taken while its answer was lost. A search
/// ends sooner where the channel stood when the message was sent.
const SEARCH_MESSAGES_MAX: usize = 50_000;
const SEARCH_PAGE: usize = 1_000;

/// See [`Node::submit`].
pub struct Pending {
    state: State,
}

enum State {
    Refused(Option<WriteError>),
    Waiting {
        answer: oneshot::Receiver<Verdict>,
        /// What it takes to find the message again.
        origin: Option<Box<Origin>>,
    },
    Searching(Pin<Box<dyn Future<Output = Result<Position, WriteError>> + Send>>),
}

struct Origin {
    node: Node,
    channel: Arc<Channel>,
    id: Uuid,
    keyed: Option<Draft>,
    conditional: bool,
    /// The channel's head, as far as this node knew, when the message was sent.
    head_before: u64,
}

impl Pending {
    pub(crate) fn refused(error: WriteError) -> Self {
        Pending {
            state: State::Refused(Some(error)),
        }
    }

    pub(crate) fn new(
        node: Node,
        channel: Arc<Channel>,
        draft: &Draft,
        head_before: u64,
        answer: oneshot::Receiver<Verdict>,
    ) -> Self {
        let origin = Box::new(Origin {
            node,
            channel,
            id: draft.id,
            keyed: draft.key.is_some().then(|| draft.clone()),
            conditional: draft.expected_head.is_some(),
            head_before,
        });
        Pending {
            state: State::Waiting {
                answer,
                origin: Some(origin),
            },
        }
    }
}

pub(crate) fn encode(draft: &Draft) -> EncodedCommand {
    let post = post(draft);
    EncodedCommand::new(&match &draft.call {
        None => Command::Post(post),
        Some(call) => Command::Call(post, self::call(call)),
    })
}

/// The message of a draft as a command has it.
pub(crate) fn post(draft: &Draft) -> Post<'_> {
    Post {
        id: draft.id.into_bytes(),
        username: draft.username.as_str(),
        body: draft.body.as_str(),
        key: draft.key.as_ref().map(|key| key.as_str()),
        expected_head: draft.expected_head,
        reply_to: draft.reply_to.map(Uuid::into_bytes),
    }
}

pub(crate) fn call(call: &api::Call) -> Call<'_> {
    Call {
        agent: call.agent.as_str(),
        attempts_max: call.attempts_max,
        is_outward: call.is_outward,
    }
}

impl Future for Pending {
    type Output = Result<Position, WriteError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            match &mut self.state {
                State::Refused(error) => {
                    return Poll::Ready(Err(error.take().unwrap_or(WriteError::OutcomeUnknown)));
                }
                State::Searching(search) => return search.as_mut().poll(context),
                State::Waiting { answer, origin } => {
                    let Poll::Ready(verdict) = Pin::new(answer).poll(context) else {
                        return Poll::Pending;
                    };
                    // A lane that ends answers what it holds; a lost answer says nothing.
                    match judge(verdict.unwrap_or(Verdict::Unknown)) {
                        Some(result) => return Poll::Ready(result),
                        None => match origin.take() {
                            Some(origin) => self.state = State::Searching(Box::pin(origin.find())),
                            None => return Poll::Ready(Err(WriteError::OutcomeUnknown)),
                        },
                    }
                }
            }
        }
    }
}

/// `None` if the message was taken at an earlier try and has to be looked for.
fn judge(verdict: Verdict) -> Option<Result<Position, WriteError>> {
    Some(match verdict {
        Verdict::Outcome(Outcome::Posted {
            seq,
            timestamp_ms,
            id,
            repeated,
        }) => Ok(Position {
            seq,
            timestamp_ms,
            id: Uuid::from_bytes(id),
            repeated,
        }),
        Verdict::Outcome(Outcome::HeadMismatch { head }) => Err(WriteError::HeadMismatch { head }),
        Verdict::Outcome(Outcome::KeyReused | Outcome::Scheduled { .. }) => {
            Err(WriteError::KeyReused)
        }
        Verdict::Outcome(Outcome::TooManyJobs) => Err(WriteError::TooManyJobs),
        Verdict::Repeated => return None,
        other => Err(error_of(&other)),
    })
}

/// The error of a verdict that holds no answer of its own kind.
pub(crate) fn error_of(verdict: &Verdict) -> WriteError {
    match verdict {
        Verdict::NoLeader => WriteError::NoLeader,
        Verdict::NoRoom => WriteError::NoRoom,
        Verdict::Outcome(Outcome::NoNodes) => WriteError::NoLeader,
        Verdict::Outcome(Outcome::NoSuchServer) => WriteError::NoSuchServer,
        Verdict::Unknown | Verdict::Repeated => WriteError::OutcomeUnknown,
        Verdict::Outcome(outcome) => {
            tracing::error!(?outcome, "a command had an outcome that is not of its kind");
            WriteError::OutcomeUnknown
        }
    }
}

impl Origin {
    /// The first try was taken and its answer lost. What it came to can be seen.
    async fn find(self: Box<Self>) -> Result<Position, WriteError> {
        match &self.keyed {
            Some(draft) => self.ask_again(draft).await,
            None => self.search().await,
        }
    }

    /// The key answers what it answered then.
    async fn ask_again(&self, draft: &Draft) -> Result<Position, WriteError> {
        let deadline = Instant::now() + self.node.shared().options.timing.request_timeout;
        let answer = self
            .node
            .woken(&self.channel)
            .lane()
            .submit(encode(draft), deadline);
        let verdict = match answer {
            Some(answer) => answer.await.unwrap_or(Verdict::Unknown),
            None => Verdict::Unknown,
        };
        let position = judge(verdict).unwrap_or(Err(WriteError::OutcomeUnknown))?;
        Ok(Position {
            repeated: position.id != self.id,
            ..position
        })
    }

    /// Looks for the message among the latest.
    async fn search(&self) -> Result<Position, WriteError> {
        let lost = |_: ReadError| WriteError::OutcomeUnknown;
        let mut range = Range::Latest { limit: SEARCH_PAGE };
        let mut searched = 0;
        let mut consistency = Consistency::Linearizable;
        let mut head = None;
        while searched < SEARCH_MESSAGES_MAX {
            let page = self
                .node
                .messages(&self.channel, range, consistency)
                .await
                .map_err(lost)?;
            head.get_or_insert(page.head);
            let found = page
                .messages
                .iter()
                .find(|message| message.id == *self.id.as_bytes());
            if let Some(message) = found {
                return Ok(Position {
                    seq: message.seq,
                    timestamp_ms: message.timestamp_ms,
                    id: self.id,
                    repeated: false,
                });
            }
            // What was there before the message was sent cannot be it.
            let older = page
                .messages
                .last()
                .filter(|message| message.seq > self.head_before);
            let Some(older) = older else {
                return Err(match head {
                    Some(head) if self.conditional => WriteError::HeadMismatch { head },
                    // Nothing but a condition refuses a message without a key.
                    _ => WriteError::OutcomeUnknown,
                });
            };
            searched += page.messages.len();
            consistency = Consistency::Stale;
            range = Range::Before {
                seq: older.seq,
                limit: SEARCH_PAGE,
            };
        }
        Err(WriteError::OutcomeUnknown)
    }
}
