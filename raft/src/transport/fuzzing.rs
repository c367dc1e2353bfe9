//! Entries for the fuzz targets of what comes in on a connection between nodes: see
//! [`crate::fuzzing`].

use bytes::BytesMut;

use super::disk::Disk;
use super::frame::{self, Frame, FrameError, FrameType};
use super::hello::{self, Hello, Message, PREFIX_BYTES, Refusal};
use super::liveness;

/// What follows the handshake, in two pieces: the first byte says where they are cut.
pub fn peer_frame(bytes: &[u8]) {
    let Some((cut, bytes)) = bytes.split_first() else {
        return;
    };
    let (first, second) = bytes.split_at(usize::from(*cut).min(bytes.len()));
    let whole = frames(&[bytes]);
    assert_eq!(frames(&[first, second]), whole, "splits do not matter");
    let Ok(whole) = whole else {
        return;
    };
    let mut written = Vec::new();
    for frame in &whole {
        written.extend_from_slice(&frame.header.encode(frame.body.len()));
        written.extend_from_slice(&frame.body);
        if frame.header.frame_type == FrameType::Ping
            && let Some(nodes) = liveness::decode_nodes(&frame.body)
        {
            let again = liveness::encode_nodes(nodes.iter().copied());
            assert_eq!(again, frame.body);
        }
    }
    assert!(bytes.starts_with(&written), "a frame is what was sent");
}

fn frames(pieces: &[&[u8]]) -> Result<Vec<Frame>, FrameError> {
    let (mut buffer, mut frames) = (BytesMut::new(), Vec::new());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        while let Some(frame) = frame::decode(&mut buffer)? {
            frames.push(frame);
        }
        assert!(frame::missing(&buffer) <= frame::FRAME_BYTES_MAX + 4);
    }
    Ok(frames)
}

/// A message of the handshake, and what both ends think of it.
pub fn peer_hello(bytes: &[u8]) {
    let Ok(message) = read(bytes) else {
        return;
    };
    let canonical = hello::encode(&message);
    assert!(canonical.len() <= PREFIX_BYTES + hello::BODY_BYTES_MAX);
    assert_eq!(read(&canonical), Ok(message.clone()));
    if let Message::Hello(said) | Message::Welcome(said) = message {
        let own = own();
        if hello::judge_dialler(&own, |node| node < 10, &said).is_ok() {
            assert_eq!(said.cluster, own.cluster);
            assert_eq!(said.target, own.node);
        }
        if let Err(refusal) = hello::judge_acceptor(&own, &said) {
            assert!(!refusal.text.chars().any(char::is_control));
        }
    }
}

fn read(bytes: &[u8]) -> Result<Message, Refusal> {
    let (prefix, body) = bytes
        .split_first_chunk::<PREFIX_BYTES>()
        .ok_or_else(hello::bad_magic)?;
    let prefix = hello::decode_prefix(prefix)?;
    // The shell reads as many bytes as the prefix announces.
    let body = body.get(..prefix.body_bytes).unwrap_or(body);
    hello::decode_body(prefix, body)
}

fn own() -> Hello {
    Hello {
        cluster: "accord".into(),
        node: 1,
        target: 2,
        disk: Disk {
            identity: [7; 16],
            incarnation: 0,
        },
        fingerprint: "replication=3".into(),
    }
}

#[cfg(test)]
pub(crate) fn write_seeds() {
    use super::frame::Header;
    use crate::fuzzing::corpus;

    let framed = |frame_type, body: &[u8]| {
        let header = Header {
            frame_type,
            id: 9,
            tag: 1,
        };
        [&header.encode(body.len())[..], body].concat()
    };
    let request = framed(FrameType::Request, b"body");
    let answer = framed(FrameType::Answer, b"");
    let ping = framed(FrameType::Ping, &[1, 0, 0, 0, 0, 0, 0, 0]);
    let seed = |bytes: &[&[u8]]| [&[9][..], &bytes.concat()].concat();
    corpus::keep(
        "peer_frame",
        &[
            ("request", seed(&[&request])),
            ("several", seed(&[&request, &ping, &answer, &request[..7]])),
        ],
    );
    let dialler = Hello {
        node: 2,
        target: 1,
        ..own()
    };
    let refusal = Refusal::new(hello::Reason::OtherCluster, "another cluster");
    corpus::keep(
        "peer_hello",
        &[
            ("hello", hello::encode(&Message::Hello(dialler.clone()))),
            ("welcome", hello::encode(&Message::Welcome(dialler))),
            ("ready", hello::encode(&Message::Ready)),
            ("refused", hello::encode(&Message::Refused(refusal))),
        ],
    );
}
