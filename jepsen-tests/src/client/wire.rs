//! What travels between clients and nodes, as the contract describes it.
//!
//! Unknown fields are ignored here, as clients must; a test that cares about
//! exact fields looks at `Frame::raw`.

use serde::Deserialize;
use serde_json::Value;

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Server {
    pub id: String,
    pub name: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Channel {
    pub id: String,
    pub name: String,
    pub server_id: String,
}

/// A channel as URLs name it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ChannelRef {
    pub server: String,
    pub channel: String,
}

impl ChannelRef {
    pub fn path(&self) -> String {
        format!("/api/servers/{}/channels/{}", self.server, self.channel)
    }

    pub fn messages(&self) -> String {
        format!("{}/messages", self.path())
    }

    pub fn connect(&self) -> String {
        format!("{}/connect", self.path())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Message {
    pub id: String,
    pub seq: u64,
    /// Unix time in milliseconds.
    pub timestamp: u64,
    pub username: String,
    pub message: String,
    #[serde(default)]
    pub reply_to: Option<String>,
    /// The agent whose answer it is.
    #[serde(default)]
    pub agent: Option<String>,
}

/// RFC 9457, with the text repeated in `message`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Problem {
    /// A URI; on a socket this place holds the frame's type, `error`.
    #[serde(rename = "type")]
    pub kind: String,
    pub title: String,
    pub status: u16,
    pub detail: String,
    pub message: String,
    /// `unknown` when the write may or may not have happened.
    #[serde(default)]
    pub outcome: Option<String>,
}

impl Problem {
    pub fn outcome_unknown(&self) -> bool {
        self.outcome.as_deref() == Some("unknown")
    }
}

/// `GET /api/cluster`.
#[derive(Debug, Clone, Deserialize)]
pub struct ClusterView {
    pub cluster: String,
    /// The node that answers.
    pub node: u64,
    pub nodes: Vec<NodeView>,
    pub groups: GroupCounts,
    pub directory: DirectoryView,
}

#[derive(Debug, Clone, Deserialize)]
pub struct NodeView {
    pub id: u64,
    pub api: String,
    pub peer: String,
    pub zone: Option<String>,
    pub up: bool,
}

#[derive(Debug, Clone, Deserialize)]
pub struct GroupCounts {
    pub open: u64,
    pub leading: u64,
}

#[derive(Debug, Clone, Deserialize)]
pub struct DirectoryView {
    pub leader: Option<u64>,
    pub term: u64,
    pub applied: u64,
}

/// `GET /api/cluster/channels/{channel}`.
#[derive(Debug, Clone, Deserialize)]
pub struct ChannelView {
    pub channel: String,
    pub group: u64,
    pub replicas: Vec<u64>,
    pub leader: Option<u64>,
    pub term: u64,
    pub head: u64,
    /// Log index of the last entry applied on the answering node.
    pub applied: u64,
    /// Log index of the last entry there.
    #[serde(default)]
    pub last: u64,
    /// Hash of all that is applied up to `applied`, when it was asked for with `?hash=true`.
    #[serde(default)]
    pub state_hash: Option<String>,
}

/// A piece of an agent's answer that is not committed yet.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct AgentDelta {
    /// The id of the command.
    pub job: String,
    pub agent: String,
    pub attempt: u64,
    /// In UTF-16 code units.
    pub offset: u64,
    pub text: String,
    #[serde(default)]
    pub ended: Option<String>,
}

/// A text frame from the server.
#[derive(Debug, Clone)]
pub struct Frame {
    pub raw: Value,
    pub kind: Kind,
}

/// What a frame is. A plain socket carries only the first three.
#[derive(Debug, Clone)]
pub enum Kind {
    Ack {
        nonce: Option<String>,
        message: Message,
    },
    Message(Message),
    Error {
        nonce: Option<String>,
        problem: Problem,
    },
    Hello {
        seq: u64,
    },
    Presence,
    Typing,
    Pong,
    AgentDelta(AgentDelta),
    /// Any other type, by its name.
    Other(String),
}

impl Frame {
    /// An error says what is wrong with the frame.
    pub fn parse(text: &str) -> Result<Self, String> {
        let raw: Value = serde_json::from_str(text).map_err(|e| format!("{e} in {text}"))?;
        let kind = kind(&raw).map_err(|error| format!("{error} in {text}"))?;
        Ok(Self { raw, kind })
    }
}

fn kind(raw: &Value) -> Result<Kind, serde_json::Error> {
    let nonce = || raw.get("nonce").and_then(Value::as_str).map(str::to_owned);
    #[derive(Deserialize)]
    struct Hello {
        seq: u64,
    }
    Ok(
        match raw.get("type").and_then(Value::as_str).unwrap_or("") {
            "ack" => Kind::Ack {
                nonce: nonce(),
                message: Message::deserialize(raw)?,
            },
            "message" => Kind::Message(Message::deserialize(raw)?),
            "error" => Kind::Error {
                nonce: nonce(),
                problem: Problem::deserialize(raw)?,
            },
            "hello" => Kind::Hello {
                seq: Hello::deserialize(raw)?.seq,
            },
            "presence" => Kind::Presence,
            "typing" => Kind::Typing,
            "pong" => Kind::Pong,
            "agent_delta" => Kind::AgentDelta(AgentDelta::deserialize(raw)?),
            other => Kind::Other(other.to_owned()),
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_told_apart_by_their_type() {
        let ack = Frame::parse(
            r#"{"type":"ack","nonce":"n","id":"i","seq":1,"timestamp":2,"username":"u","message":"m","new":0}"#,
        )
        .unwrap();
        assert!(
            matches!(&ack.kind, Kind::Ack { nonce: Some(n), message } if n == "n" && message.seq == 1)
        );
        let error = Frame::parse(
            r#"{"type":"error","title":"t","status":503,"detail":"d","message":"d","outcome":"unknown"}"#,
        )
        .unwrap();
        assert!(
            matches!(&error.kind, Kind::Error { nonce: None, problem } if problem.outcome_unknown())
        );
        assert!(matches!(
            Frame::parse(r#"{"type":"hello","seq":4,"node":1,"session":"s"}"#)
                .unwrap()
                .kind,
            Kind::Hello { seq: 4 }
        ));
        assert!(matches!(
            Frame::parse(r#"{"type":"something new"}"#).unwrap().kind,
            Kind::Other(_)
        ));
    }

    #[test]
    fn a_frame_that_breaks_the_contract_is_an_error_that_shows_it() {
        let missing = Frame::parse(r#"{"type":"message","id":"i"}"#).unwrap_err();
        assert!(
            missing.contains("seq") && missing.contains(r#""id":"i""#),
            "{missing}"
        );
        assert!(Frame::parse("no json").is_err());
    }
}
