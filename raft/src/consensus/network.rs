//! openraft's network over the node's links to its peers.
//!
//! Append requests are enqueued on the link as they come and their answers are handed back in
//! order, so a follower's fsync overlaps the next request's way.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use openraft::AnyError;
use openraft::RaftNetworkFactory;
use openraft::errors::NetworkError;
use openraft::errors::RPCError;
use openraft::errors::ReplicationClosed;
use openraft::errors::StreamingError;
use openraft::errors::Unreachable;
use openraft::impls::EmptyNode;
use openraft::network::Backoff;
use openraft::network::RPCOption;
use openraft::network::v2::RaftNetworkV2;
use openraft::raft::AppendEntriesRequest;
use openraft::raft::AppendEntriesResponse;
use openraft::raft::SnapshotResponse;
use openraft::raft::StreamAppendError;
use openraft::raft::StreamAppendResult;
use openraft::raft::TransferLeaderRequest;
use openraft::raft::TransferLeaderResponse;
use openraft::raft::VoteRequest;
use openraft::raft::VoteResponse;
use openraft::type_config::alias::SnapshotOf;

use super::snapshot::SnapshotData;
use super::snapshot::send_snapshot;
use super::types::LogId;
use super::types::TypeConfig;
use super::types::Vote;
use super::wire;
use crate::peers::APPEND_DEADLINE;
use crate::peers::Kind;
use crate::transport::Call;
use crate::transport::CallError;
use crate::transport::NodeId;
use crate::transport::Peer;

/// Append requests under way to one follower: enough to cover a disk's and a network's delay, few
/// enough to bound what a broken link makes the leader send again.
const PIPELINE_MAX: usize = 32;

/// Makes the clients of one group.
pub(crate) struct Network {
    group: u64,
    peer: Box<dyn Fn(NodeId) -> Option<Peer> + Send + Sync>,
}

impl Network {
    pub(crate) fn new(
        group: u64,
        peer: impl Fn(NodeId) -> Option<Peer> + Send + Sync + 'static,
    ) -> Self {
        Network {
            group,
            peer: Box::new(peer),
        }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Client;

    async fn new_client(&mut self, target: NodeId, _node: &EmptyNode) -> Client {
        Client {
            group: self.group,
            peer: (self.peer)(target),
        }
    }
}

/// One group's way to one other node.
pub(crate) struct Client {
    group: u64,
    peer: Option<Peer>,
}

impl Client {
    fn append(&self, request: AppendEntriesRequest<TypeConfig>, deadline: Duration) -> Sent {
        let prev = request.prev_log_id;
        let last = request.entries.last().map(|entry| entry.log_id).or(prev);
        let call = self.peer.as_ref().map(|peer| {
            let parts = wire::encode_append(self.group, request);
            peer.call_parts(Kind::Append.byte(), parts, deadline)
        });
        Sent { call, prev, last }
    }

    async fn call(
        &self,
        kind: Kind,
        body: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, RPCError<TypeConfig>> {
        let Some(peer) = &self.peer else {
            return Err(unreachable("no such node in the configuration"));
        };
        peer.call(kind.byte(), body, deadline)
            .await
            .map_err(rpc_error)
    }
}

/// An append request on its way.
struct Sent {
    call: Option<Call>,
    prev: Option<LogId>,
    last: Option<LogId>,
}

impl Future for Sent {
    type Output = Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut std::task::Context<'_>) -> Poll<Self::Output> {
        let Some(call) = &mut self.call else {
            return Poll::Ready(Err(unreachable("no such node in the configuration")));
        };
        let Poll::Ready(answer) = Pin::new(call).poll(context) else {
            return Poll::Pending;
        };
        Poll::Ready(match answer {
            Ok(body) => wire::decode_appended(&body)
                .map_err(|error| unreachable(&error.to_string()))
                .and_then(|response| self.result(response)),
            Err(error) => Err(rpc_error(error)),
        })
    }
}

impl Sent {
    fn result(
        &self,
        response: AppendEntriesResponse<TypeConfig>,
    ) -> Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>> {
        match response {
            AppendEntriesResponse::Success => Ok(Ok(self.last)),
            AppendEntriesResponse::PartialSuccess(matching) => Ok(Ok(matching)),
            AppendEntriesResponse::HigherVote(vote) => Ok(Err(StreamAppendError::HigherVote(vote))),
            AppendEntriesResponse::Conflict => match self.prev {
                Some(prev) => Ok(Err(StreamAppendError::Conflict(prev))),
                // Nothing conflicts with the beginning of the log.
                None => Err(unreachable("a conflict where none can be")),
            },
        }
    }
}

impl RaftNetworkV2<TypeConfig> for Client {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.append(request, APPEND_DEADLINE).await.map(Into::into)
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _option: RPCOption,
    ) -> BoxFuture<
        's,
        Result<
            BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>>,
            RPCError<TypeConfig>,
        >,
    >
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
    {
        // No error before the input is polled: back-off happens only inside the request stream, and
        // an early error would be retried without a pause.
        let pipeline = Pipeline {
            client: self,
            input: Some(input),
            sent: VecDeque::new(),
        };
        Box::pin(async move { Ok(pipeline.answers().boxed()) })
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let body = wire::encode_vote_request(self.group, &request);
        let answer = self.call(Kind::Vote, body, option.soft_ttl()).await?;
        wire::decode_vote_response(&answer).map_err(|error| unreachable(&error.to_string()))
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let body = wire::encode_vote_request(self.group, &request);
        let answer = self.call(Kind::PreVote, body, option.soft_ttl()).await?;
        wire::decode_vote_response(&answer).map_err(|error| unreachable(&error.to_string()))
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: SnapshotOf<TypeConfig, SnapshotData>,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let Some(peer) = self.peer.clone() else {
            return Err(unreachable("no such node in the configuration").into());
        };
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            result = send_snapshot(peer, self.group, vote, snapshot) => match result {
                Ok(vote) => Ok(SnapshotResponse::new(vote)),
                Err(error) => {
                    tracing::warn!(group = self.group, %error, "a snapshot was not taken");
                    Err(unreachable(&error.to_string()).into())
                }
            },
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        let body = wire::encode(&wire::Transfer {
            group: self.group,
            from: request.from_leader().into(),
            to: *request.to_node_id(),
            last: request.last_log_id().map(Into::into),
        });
        self.call(Kind::TransferLeader, body, option.soft_ttl())
            .await?;
        Ok(Ok(()))
    }

    fn backoff(&self) -> Option<Backoff> {
        // A dead peer costs three tries a second; a link that comes up again is noticed as soon.
        Some(Backoff::new(std::iter::repeat(Duration::from_millis(300))))
    }
}

/// Requests go out as they come, answers come back in the same order; the stream ends at the first
/// that is not a full success, since what was sent behind it no longer fits.
struct Pipeline<'s, S> {
    client: &'s Client,
    input: Option<S>,
    sent: VecDeque<Sent>,
}

impl<'s, S> Pipeline<'s, S>
where
    S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
{
    fn answers(
        mut self,
    ) -> impl Stream<Item = Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>> + 's {
        let mut ended = false;
        futures_util::stream::poll_fn(move |context| {
            if ended {
                return Poll::Ready(None);
            }
            self.send(context);
            let Some(first) = self.sent.front_mut() else {
                ended = self.input.is_none();
                return if ended {
                    Poll::Ready(None)
                } else {
                    Poll::Pending
                };
            };
            let last = first.last;
            let Poll::Ready(answer) = Pin::new(first).poll(context) else {
                return Poll::Pending;
            };
            self.sent.pop_front();
            ended = !matches!(&answer, Ok(Ok(matching)) if *matching == last);
            Poll::Ready(Some(answer))
        })
    }

    fn send(&mut self, context: &mut std::task::Context<'_>) {
        while self.sent.len() < PIPELINE_MAX {
            let Some(input) = &mut self.input else {
                return;
            };
            match input.poll_next_unpin(context) {
                Poll::Ready(Some(request)) => self
                    .sent
                    .push_back(self.client.append(request, APPEND_DEADLINE)),
                Poll::Ready(None) => self.input = None,
                Poll::Pending => return,
            }
        }
    }
}

fn rpc_error(error: CallError) -> RPCError<TypeConfig> {
    match error {
        // Tried again at once, a few times: the follower is there and only this request went wrong.
        CallError::Lost | CallError::TimedOut => {
            RPCError::Network(NetworkError::new(&AnyError::error(error)))
        }
        CallError::Down | CallError::Full | CallError::Refused(_) => {
            unreachable(&error.to_string())
        }
    }
}

/// Makes openraft wait before it tries again.
fn unreachable(why: &str) -> RPCError<TypeConfig> {
    RPCError::Unreachable(Unreachable::new(&AnyError::error(why)))
}
