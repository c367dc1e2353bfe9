//! Reads and feeds for nodes that hold no replica of a channel: what is asked and what comes back.

use bincode::Decode;
use bincode::Encode;
use bytes::Bytes;

use crate::api::Consistency;
use crate::api::GroupStatus;
use crate::api::Messages;
use crate::api::Range;
use crate::api::ReadError;
use crate::codec;
use crate::codec::Malformed;
use crate::machine::Message;
use crate::machine::Text;

/// Most bytes that an answer may claim to hold: a page of messages with generous room for names.
const ANSWER_BYTES_MAX: usize = 8 * 1024 * 1024;
const REQUEST_BYTES_MAX: usize = 1_024;

/// A read of messages, answered by [`ReadAnswer`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub(crate) struct ReadRequest {
    pub(crate) group: u64,
    linearizable: bool,
    stretch: Stretch,
    seq: u64,
    limit: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
enum Stretch {
    Latest,
    Before,
    After,
    /// No messages: only the head.
    Head,
}

impl ReadRequest {
    pub(crate) fn messages(group: u64, range: Range, consistency: Consistency) -> Self {
        let (stretch, seq, limit) = match range {
            Range::Latest { limit } => (Stretch::Latest, 0, limit),
            Range::Before { seq, limit } => (Stretch::Before, seq, limit),
            Range::After { seq, limit } => (Stretch::After, seq, limit),
        };
        ReadRequest {
            group,
            linearizable: consistency == Consistency::Linearizable,
            stretch,
            seq,
            limit: u32::try_from(limit).unwrap_or(u32::MAX),
        }
    }

    pub(crate) fn head(group: u64, consistency: Consistency) -> Self {
        ReadRequest {
            group,
            linearizable: consistency == Consistency::Linearizable,
            stretch: Stretch::Head,
            seq: 0,
            limit: 0,
        }
    }

    pub(crate) fn consistency(&self) -> Consistency {
        if self.linearizable {
            Consistency::Linearizable
        } else {
            Consistency::Stale
        }
    }

    /// `None` if only the head is asked for.
    pub(crate) fn range(&self) -> Option<Range> {
        let limit = self.limit as usize;
        match self.stretch {
            Stretch::Latest => Some(Range::Latest { limit }),
            Stretch::Before => Some(Range::Before {
                seq: self.seq,
                limit,
            }),
            Stretch::After => Some(Range::After {
                seq: self.seq,
                limit,
            }),
            Stretch::Head => None,
        }
    }

    pub(crate) fn encode(&self) -> Bytes {
        codec::encode(self).into()
    }

    pub(crate) fn decode(body: &[u8]) -> Result<Self, Malformed> {
        codec::decode::<_, REQUEST_BYTES_MAX>(body)
    }
}

/// Asks for whatever is committed after `after`, as soon as there is anything, or for nothing after
/// `wait_ms`. Answered by [`ReadAnswer`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub(crate) struct FeedRequest {
    pub(crate) group: u64,
    pub(crate) after: u64,
    pub(crate) wait_ms: u32,
}

impl FeedRequest {
    pub(crate) fn encode(&self) -> Bytes {
        codec::encode(self).into()
    }

    pub(crate) fn decode(body: &[u8]) -> Result<Self, Malformed> {
        codec::decode::<_, REQUEST_BYTES_MAX>(body)
    }
}

#[derive(Encode, Decode)]
enum ReadAnswer {
    Messages {
        head: u64,
        messages: Vec<WireMessage>,
    },
    Error(WireError),
}

#[derive(Encode, Decode)]
struct WireMessage {
    seq: u64,
    id: [u8; 16],
    timestamp_ms: u64,
    username: String,
    body: String,
    reply_to: Option<[u8; 16]>,
    agent: Option<String>,
}

#[derive(Encode, Decode)]
pub(crate) enum WireError {
    NotFound,
    NoLeader,
    Busy,
    Stopping,
    Storage(String),
    Recovering,
}

impl From<ReadError> for WireError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::NotFound => WireError::NotFound,
            ReadError::NoLeader => WireError::NoLeader,
            ReadError::Busy => WireError::Busy,
            ReadError::Stopping => WireError::Stopping,
            ReadError::Storage(text) => WireError::Storage(text),
            ReadError::Recovering => WireError::Recovering,
        }
    }
}

impl From<WireError> for ReadError {
    fn from(error: WireError) -> Self {
        match error {
            WireError::NotFound => ReadError::NotFound,
            WireError::NoLeader => ReadError::NoLeader,
            WireError::Busy => ReadError::Busy,
            WireError::Stopping => ReadError::Stopping,
            WireError::Storage(text) => ReadError::Storage(text),
            WireError::Recovering => ReadError::Recovering,
        }
    }
}

pub(crate) fn encode_answer(result: Result<Messages, ReadError>) -> Bytes {
    let answer = match result {
        Ok(found) => ReadAnswer::Messages {
            head: found.head,
            messages: found.messages.iter().map(wire_message).collect(),
        },
        Err(error) => ReadAnswer::Error(error.into()),
    };
    codec::encode(&answer).into()
}

/// # Errors
/// What the other node answered; `NoLeader` for bytes that are no answer.
pub(crate) fn decode_answer(body: &[u8]) -> Result<Messages, ReadError> {
    match codec::decode::<ReadAnswer, ANSWER_BYTES_MAX>(body) {
        Ok(ReadAnswer::Messages { head, messages }) => Ok(Messages {
            head,
            messages: messages.into_iter().map(message).collect(),
        }),
        Ok(ReadAnswer::Error(error)) => Err(error.into()),
        Err(Malformed { .. }) => Err(ReadError::NoLeader),
    }
}

fn wire_message(message: &Message) -> WireMessage {
    WireMessage {
        seq: message.seq,
        id: message.id,
        timestamp_ms: message.timestamp_ms,
        username: message.username.as_str().to_owned(),
        body: message.body.as_str().to_owned(),
        reply_to: message.reply_to,
        agent: message
            .agent
            .as_ref()
            .map(|agent| agent.as_str().to_owned()),
    }
}

fn message(wire: WireMessage) -> Message {
    let text = |string: String| Text::from_utf8(string.into()).expect("a string is UTF-8");
    Message {
        seq: wire.seq,
        id: wire.id,
        timestamp_ms: wire.timestamp_ms,
        username: text(wire.username),
        body: text(wire.body),
        reply_to: wire.reply_to,
        agent: wire.agent.map(text),
    }
}

/// Asks how a group stands on the answering node.
#[derive(Encode, Decode)]
pub(crate) struct StatusAnswer {
    leader: Option<u64>,
    term: u64,
    applied: u64,
    last: u64,
    last_term: u64,
    pub(crate) head: u64,
    /// Whether the node stands for election in this group.
    pub(crate) standing: bool,
}

impl StatusAnswer {
    pub(crate) fn new(status: &GroupStatus, head: u64, standing: bool) -> Self {
        StatusAnswer {
            leader: status.leader,
            term: status.term,
            applied: status.applied,
            last: status.last,
            last_term: status.last_term,
            head,
            standing,
        }
    }

    pub(crate) fn status(&self) -> GroupStatus {
        GroupStatus {
            leader: self.leader,
            term: self.term,
            applied: self.applied,
            last: self.last,
            last_term: self.last_term,
        }
    }

    pub(crate) fn encode(&self) -> Bytes {
        codec::encode(self).into()
    }

    pub(crate) fn decode(body: &[u8]) -> Result<Self, Malformed> {
        codec::decode::<_, REQUEST_BYTES_MAX>(body)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn requests_and_answers_survive_the_wire() {
        let request =
            ReadRequest::messages(7, Range::Before { seq: 9, limit: 50 }, Consistency::Stale);
        assert_eq!(ReadRequest::decode(&request.encode()).unwrap(), request);
        assert_eq!(request.range(), Some(Range::Before { seq: 9, limit: 50 }));
        let found = Messages {
            head: 3,
            messages: vec![message(WireMessage {
                seq: 3,
                id: [1; 16],
                timestamp_ms: 5,
                username: "ü".into(),
                body: "b".into(),
                reply_to: Some([2; 16]),
                agent: Some("ask".into()),
            })],
        };
        let back = decode_answer(&encode_answer(Ok(found.clone()))).unwrap();
        assert_eq!((back.head, back.messages), (found.head, found.messages));
        assert_eq!(
            decode_answer(&encode_answer(Err(ReadError::Busy))).unwrap_err(),
            ReadError::Busy
        );
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = ReadRequest::decode(&bytes);
            let _ = FeedRequest::decode(&bytes);
            let _ = StatusAnswer::decode(&bytes);
            let _ = decode_answer(&bytes);
        }
    }
}
