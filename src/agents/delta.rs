//! The frame `agent_delta`: a piece of an answer that is not committed yet. It goes to all nodes as
//! an ephemeral event and from there to rich sockets and event streams, so it is text from outside
//! to the node that gets it.

use bytes::Bytes;
use serde::Deserialize;
use serde::Serialize;
use uuid::Uuid;

use super::partial::Piece;

/// What the frame begins with, so that other events need not be parsed.
const PREFIX: &[u8] = b"{\"type\":\"agent_delta\",";

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delta {
    /// The id of the command, which the reply's `reply_to` names.
    pub job: Uuid,
    pub agent: String,
    /// Counted from 1. A higher one than before means that the text begins anew.
    pub attempt: u32,
    /// Where the text goes, in UTF-16 code units from the beginning.
    pub offset: u64,
    pub text: String,
    /// Nothing more of this attempt comes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Ended>,
}

/// Why nothing more comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ended {
    /// The reply is in the channel.
    Done,
    /// There will be another attempt.
    Retry,
    /// It was cancelled, or its leader lost the channel.
    Stopped,
}

impl Delta {
    pub fn of(job: Uuid, agent: &str, attempt: u32, piece: Piece) -> Delta {
        Delta {
            job,
            agent: agent.to_owned(),
            attempt,
            offset: piece.offset,
            text: piece.text,
            ended: None,
        }
    }

    pub fn end(job: Uuid, agent: &str, attempt: u32, offset: u64, ended: Ended) -> Delta {
        Delta {
            job,
            agent: agent.to_owned(),
            attempt,
            offset,
            text: String::new(),
            ended: Some(ended),
        }
    }

    pub fn frame(&self) -> Bytes {
        #[derive(Serialize)]
        struct Frame<'a> {
            r#type: &'static str,
            #[serde(flatten)]
            delta: &'a Delta,
        }
        let frame = Frame {
            r#type: "agent_delta",
            delta: self,
        };
        serde_json::to_vec(&frame)
            .expect("texts and numbers have a JSON form")
            .into()
    }

    /// The delta in an event, if it is one.
    pub fn parse(event: &[u8]) -> Option<Delta> {
        if !event.starts_with(PREFIX) {
            return None;
        }
        serde_json::from_slice(event).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agents::partial::DELTA_BYTES_MAX;
    use proptest::prelude::*;

    fn delta(text: &str, ended: Option<Ended>) -> Delta {
        Delta {
            job: Uuid::from_u128(7),
            agent: "ask".to_owned(),
            attempt: 2,
            offset: 5,
            text: text.to_owned(),
            ended,
        }
    }

    #[test]
    fn golden() {
        let text = |delta: Delta| String::from_utf8(delta.frame().to_vec()).unwrap();
        assert_eq!(
            text(delta("a\"b", None)),
            "{\"type\":\"agent_delta\",\"job\":\"00000000-0000-0000-0000-000000000007\",\
             \"agent\":\"ask\",\"attempt\":2,\"offset\":5,\"text\":\"a\\\"b\"}"
        );
        assert!(
            text(delta("", Some(Ended::Retry))).ends_with(",\"text\":\"\",\"ended\":\"retry\"}")
        );
    }

    #[test]
    fn the_largest_one_is_passed_on() {
        let mut largest = delta(&"\"".repeat(DELTA_BYTES_MAX / 2), None);
        largest.agent = "x".repeat(32);
        largest.offset = u64::MAX;
        assert!(largest.frame().len() <= crate::delivery::EVENT_BYTES_MAX);
    }

    #[test]
    fn other_events_are_none() {
        for other in [
            "",
            "{}",
            "{\"type\":\"typing\"}",
            "{\"type\":\"agent_delta\",",
            "\u{0}",
        ] {
            assert_eq!(Delta::parse(other.as_bytes()), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn what_was_written_comes_back(text in any::<String>(), ended in any::<bool>()) {
            let delta = delta(&text, ended.then_some(Ended::Done));
            prop_assert_eq!(Delta::parse(&delta.frame()), Some(delta));
        }
    }
}
