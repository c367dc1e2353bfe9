//! The frames of both kinds of socket as JSON, apart from the message frame, which all share.

use bytes::Bytes;
use serde::Deserialize;
use serde::Serialize;
use uuid::Uuid;

use crate::api::extract;
use crate::api::problem::Problem;
use crate::delivery::encode::MessageView;
use crate::delivery::encode::write_json;

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    Send {
        message: String,
        reply_to: Option<Uuid>,
    },
    Typing,
    Ping,
}

/// Why a frame cannot be used; each is a sentence for the client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("{0}")]
    Malformed(String),
    #[error("The field \"reply_to\" must be the id of a message.")]
    BadReplyTo,
    #[error("The field \"type\" must be \"send\", \"typing\" or \"ping\".")]
    UnknownType,
    #[error("Binary frames are not understood here; send text.")]
    Binary,
}

/// A frame and the nonce that its answer goes back with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed {
    pub nonce: Option<String>,
    pub request: Result<Request, FrameError>,
}

#[derive(Debug, Deserialize)]
struct ClientFrame {
    r#type: String,
    nonce: Option<String>,
    message: Option<String>,
    reply_to: Option<String>,
}

#[derive(Debug, Deserialize)]
struct OnlyNonce {
    nonce: Option<String>,
}

/// Reads a frame of the subprotocol `accord.v1`. Fields that are not known are ignored.
pub fn parse(text: &str) -> Parsed {
    match extract::object::<ClientFrame>(text.as_bytes()) {
        Ok(frame) => Parsed {
            request: request(frame.r#type, frame.message, frame.reply_to),
            nonce: frame.nonce,
        },
        Err(reason) => Parsed {
            // The client can match the error to its frame if that much of it makes sense.
            nonce: extract::object::<OnlyNonce>(text.as_bytes())
                .ok()
                .and_then(|only| only.nonce),
            request: Err(FrameError::Malformed(reason)),
        },
    }
}

fn request(
    kind: String,
    message: Option<String>,
    reply_to: Option<String>,
) -> Result<Request, FrameError> {
    match kind.as_str() {
        "send" => {
            let missing = || FrameError::Malformed("The field \"message\" is missing.".to_owned());
            let reply_to = reply_to
                .map(|text| extract::parse_id(&text).ok_or(FrameError::BadReplyTo))
                .transpose()?;
            Ok(Request::Send {
                message: message.ok_or_else(missing)?,
                reply_to,
            })
        }
        "typing" => Ok(Request::Typing),
        "ping" => Ok(Request::Ping),
        _ => Err(FrameError::UnknownType),
    }
}

/// The first frame of a rich socket: what it begins after, where, and under which name in logs.
pub fn hello(seq: u64, node: u64, session: Uuid) -> Bytes {
    #[derive(Serialize)]
    struct Hello {
        r#type: &'static str,
        seq: u64,
        node: u64,
        session: Uuid,
    }
    encode(&Hello {
        r#type: "hello",
        seq,
        node,
        session,
    })
}

/// The message is durable on a majority.
pub fn ack(nonce: Option<&str>, view: &MessageView<'_>) -> Bytes {
    let mut out = Vec::with_capacity(256 + view.message.len());
    out.extend_from_slice(b"{\"type\":\"ack\",");
    if let Some(nonce) = nonce {
        out.extend_from_slice(b"\"nonce\":");
        write_json(&mut out, nonce);
        out.push(b',');
    }
    view.write_fields(&mut out);
    out.push(b'}');
    out.into()
}

/// The frame was refused.
pub fn error(nonce: Option<&str>, problem: &Problem) -> Bytes {
    #[derive(Serialize)]
    struct ErrorFrame<'a> {
        r#type: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        nonce: Option<&'a str>,
        #[serde(flatten)]
        problem: crate::api::problem::FrameFields<'a>,
    }
    encode(&ErrorFrame {
        r#type: "error",
        nonce,
        problem: problem.frame_fields(),
    })
}

pub fn pong() -> Bytes {
    Bytes::from_static(b"{\"type\":\"pong\"}")
}

pub fn typing(username: &str) -> Bytes {
    #[derive(Serialize)]
    struct Typing<'a> {
        r#type: &'static str,
        username: &'a str,
    }
    encode(&Typing {
        r#type: "typing",
        username,
    })
}

/// Whether a user came or went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Presence {
    Join,
    Leave,
}

pub fn presence(username: &str, event: Presence) -> Bytes {
    #[derive(Serialize)]
    struct PresenceFrame<'a> {
        r#type: &'static str,
        username: &'a str,
        event: Presence,
    }
    encode(&PresenceFrame {
        r#type: "presence",
        username,
        event,
    })
}

fn encode<T: Serialize>(value: &T) -> Bytes {
    let mut out = Vec::with_capacity(128);
    write_json(&mut out, value);
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ID: Uuid = Uuid::from_u128(7);

    #[track_caller]
    fn golden(frame: &Bytes, expected: &str) {
        assert_eq!(std::str::from_utf8(frame).unwrap(), expected);
    }

    #[test]
    fn server_frames() {
        golden(
            &hello(7, 2, ID),
            "{\"type\":\"hello\",\"seq\":7,\"node\":2,\
             \"session\":\"00000000-0000-0000-0000-000000000007\"}",
        );
        let view = MessageView {
            id: ID,
            timestamp_ms: 5,
            username: "ann",
            message: "hi",
            seq: 8,
            reply_to: None,
            agent: None,
        };
        golden(
            &ack(Some("n\"1"), &view),
            "{\"type\":\"ack\",\"nonce\":\"n\\\"1\",\
             \"id\":\"00000000-0000-0000-0000-000000000007\",\"timestamp\":5,\
             \"username\":\"ann\",\"message\":\"hi\",\"seq\":8}",
        );
        golden(
            &ack(None, &view),
            "{\"type\":\"ack\",\"id\":\"00000000-0000-0000-0000-000000000007\",\
             \"timestamp\":5,\"username\":\"ann\",\"message\":\"hi\",\"seq\":8}",
        );
        golden(
            &error(Some("n"), &Problem::bad_request("No.")),
            "{\"type\":\"error\",\"nonce\":\"n\",\"problem\":\"/problems/bad-request\",\
             \"title\":\"Bad request\",\"status\":400,\"detail\":\"No.\",\"message\":\"No.\"}",
        );
        golden(&typing("ann"), "{\"type\":\"typing\",\"username\":\"ann\"}");
        golden(
            &presence("ann", Presence::Join),
            "{\"type\":\"presence\",\"username\":\"ann\",\"event\":\"join\"}",
        );
        golden(&pong(), "{\"type\":\"pong\"}");
    }

    #[test]
    fn client_frames() {
        let send = parse(r#"{"type":"send","nonce":"n1","message":"hi","x":[1]}"#);
        assert_eq!(send.nonce.as_deref(), Some("n1"));
        let hi = |reply_to| Request::Send {
            message: "hi".to_owned(),
            reply_to,
        };
        assert_eq!(send.request, Ok(hi(None)));
        let reply = format!(r#"{{"type":"send","message":"hi","reply_to":"{ID}"}}"#);
        assert_eq!(parse(&reply).request, Ok(hi(Some(ID))));
        assert_eq!(parse(r#"{"type":"typing"}"#).request, Ok(Request::Typing));
        assert_eq!(parse(r#"{"type":"ping","n":1}"#).request, Ok(Request::Ping));
    }

    #[test]
    fn bad_frames_keep_their_nonce() {
        for bad in [
            r#"{"type":"send","nonce":"n1"}"#,
            r#"{"type":"send","nonce":"n1","message":3}"#,
            r#"{"type":"send","nonce":"n1","message":"a","reply_to":"b"}"#,
            r#"{"type":"message","nonce":"n1","message":"a"}"#,
            r#"{"nonce":"n1"}"#,
        ] {
            let parsed = parse(bad);
            assert_eq!(parsed.nonce.as_deref(), Some("n1"), "{bad}");
            assert!(parsed.request.is_err(), "{bad}");
        }
        for bad in [
            "",
            "hi",
            "[]",
            r#"["send","n","hi"]"#,
            "{",
            r#"{"type":"send","nonce":1}"#,
        ] {
            let parsed = parse(bad);
            assert_eq!(parsed.nonce, None, "{bad}");
            assert!(parsed.request.is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in any::<String>()) {
            let _ = parse(&text);
        }
    }
}
