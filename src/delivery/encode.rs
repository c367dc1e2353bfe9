//! How a message looks to clients, written once per node and shared by all that show it.
//!
//! This is the only place that knows the order and names of a message's fields; arrays over REST,
//! frames to subscribers and acknowledgements all begin with their own text and go on with
//! [`MessageView::write_fields`].

use std::ops::Range;

use accord_raft::machine::Committed;
use accord_raft::machine::Message;
use bytes::Bytes;
use uuid::Uuid;

/// What surrounds a message's text in JSON, more or less: a first guess for buffers.
const FIELDS_BYTES: usize = 192;

/// A message, wherever its parts are kept.
#[derive(Clone, Copy, Debug)]
pub struct MessageView<'a> {
    pub id: Uuid,
    pub timestamp_ms: u64,
    pub username: &'a str,
    pub message: &'a str,
    pub seq: u64,
    pub reply_to: Option<Uuid>,
    /// Which agent wrote it, if one did.
    pub agent: Option<&'a str>,
}

impl<'a> MessageView<'a> {
    pub fn of(message: &'a Message) -> Self {
        MessageView {
            id: Uuid::from_bytes(message.id),
            timestamp_ms: message.timestamp_ms,
            username: &message.username,
            message: &message.body,
            seq: message.seq,
            reply_to: message.reply_to.map(Uuid::from_bytes),
            agent: message.agent.as_deref(),
        }
    }

    /// Writes `"id":…,…,"seq":…` without braces.
    pub fn write_fields(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"\"id\":");
        write_json(out, &self.id);
        out.extend_from_slice(b",\"timestamp\":");
        write_json(out, &self.timestamp_ms);
        out.extend_from_slice(b",\"username\":");
        write_json(out, self.username);
        out.extend_from_slice(b",\"message\":");
        write_json(out, self.message);
        out.extend_from_slice(b",\"seq\":");
        write_json(out, &self.seq);
        if let Some(reply_to) = &self.reply_to {
            out.extend_from_slice(b",\"reply_to\":");
            write_json(out, reply_to);
        }
        if let Some(agent) = self.agent {
            out.extend_from_slice(b",\"agent\":");
            write_json(out, agent);
        }
    }

    /// Writes the message as a JSON object.
    pub fn write_object(&self, out: &mut Vec<u8>) {
        out.push(b'{');
        self.write_fields(out);
        out.push(b'}');
    }

    /// Writes the frame that every subscriber gets.
    pub fn write_frame(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"type\":\"message\",");
        self.write_fields(out);
        out.push(b'}');
    }

    fn bytes_guess(&self) -> usize {
        FIELDS_BYTES + self.username.len() + self.message.len()
    }
}

/// A JSON array of messages, in the order given.
pub fn array(messages: &[Message]) -> Vec<u8> {
    let views = || messages.iter().map(MessageView::of);
    let mut out = Vec::with_capacity(2 + views().map(|view| view.bytes_guess()).sum::<usize>());
    out.push(b'[');
    for (index, view) in views().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        view.write_object(&mut out);
    }
    out.push(b']');
    out
}

/// The message frames of a batch, all in one buffer.
pub fn frames(batch: &Committed) -> Vec<Bytes> {
    frames_of(&batch.messages)
}

/// The message frames of a page of history, all in one buffer.
pub fn frames_of(messages: &[Message]) -> Vec<Bytes> {
    let views = || messages.iter().map(MessageView::of);
    let mut out = Vec::with_capacity(views().map(|view| view.bytes_guess()).sum());
    let mut ranges: Vec<Range<usize>> = Vec::with_capacity(messages.len());
    for view in views() {
        let start = out.len();
        view.write_frame(&mut out);
        ranges.push(start..out.len());
    }
    let out = Bytes::from(out);
    ranges.into_iter().map(|range| out.slice(range)).collect()
}

/// Appends a value as JSON.
pub fn write_json<T: serde::Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(out, value)
        .expect("texts and numbers have a JSON form, and a Vec takes any of it");
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: Uuid = Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0001);

    fn view<'a>(message: &'a str, reply_to: Option<Uuid>) -> MessageView<'a> {
        MessageView {
            id: ID,
            timestamp_ms: 1_700_000_000_123,
            username: "ann \"a\"",
            message,
            seq: 7,
            reply_to,
            agent: None,
        }
    }

    fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn golden() {
        assert_eq!(
            text(|out| view("a\n\u{1f980}", None).write_frame(out)),
            "{\"type\":\"message\",\"id\":\"01900000-0000-7000-8000-000000000001\",\
             \"timestamp\":1700000000123,\"username\":\"ann \\\"a\\\"\",\
             \"message\":\"a\\n\u{1f980}\",\"seq\":7}"
        );
        assert_eq!(
            text(|out| view("b", Some(ID)).write_object(out)),
            "{\"id\":\"01900000-0000-7000-8000-000000000001\",\
             \"timestamp\":1700000000123,\"username\":\"ann \\\"a\\\"\",\
             \"message\":\"b\",\"seq\":7,\
             \"reply_to\":\"01900000-0000-7000-8000-000000000001\"}"
        );
        let reply = MessageView {
            username: "ask",
            agent: Some("ask"),
            ..view("c", Some(ID))
        };
        assert_eq!(
            text(|out| reply.write_object(out)),
            "{\"id\":\"01900000-0000-7000-8000-000000000001\",\
             \"timestamp\":1700000000123,\"username\":\"ask\",\
             \"message\":\"c\",\"seq\":7,\
             \"reply_to\":\"01900000-0000-7000-8000-000000000001\",\"agent\":\"ask\"}"
        );
        assert_eq!(array(&[]), b"[]");
    }
}
