//! The client's side of a WebSocket, as little of it as a measurement needs: frames are read where
//! they arrived and written where they wait. The load program shares its cores with the nodes that
//! it measures, so what it spends is missing there.

use std::io;
use std::io::Read as _;
use std::io::Write as _;
use std::net::TcpStream;
use std::time::Duration;

/// How long a handshake may take.
const HANDSHAKE_MAX: Duration = Duration::from_secs(20);
/// Bytes of an answer to the handshake.
const HEAD_BYTES_MAX: usize = 8 << 10;
/// Bytes of a frame: messages of a measurement are far below.
pub const FRAME_BYTES_MAX: usize = 64 << 10;

/// Any key does; with this one the answer is known (RFC 6455, section 1.3).
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

const FINAL: u8 = 0x80;
const MASKED: u8 = 0x80;
const TEXT: u8 = 0x1;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xa;

/// The first frame of some bytes, and what follows it.
#[derive(Debug, PartialEq, Eq)]
pub enum Split<'a> {
    Text(&'a [u8], &'a [u8]),
    Ping(&'a [u8], &'a [u8]),
    Pong(&'a [u8]),
    Close,
    /// It has not all come yet.
    Partial,
    /// Nothing that our server sends.
    Wrong,
}

/// Opens a socket. What came beyond the handshake is returned with it.
pub fn open(address: &str, target: &str) -> io::Result<(TcpStream, Vec<u8>)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(HANDSHAKE_MAX))?;
    let request = format!(
        "GET {target} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
    );
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    let mut buffer = [0; 1 << 10];
    let end = loop {
        if let Some(end) = find(&answer, b"\r\n\r\n") {
            break end + 4;
        }
        let read = stream.read(&mut buffer)?;
        if read == 0 || answer.len() > HEAD_BYTES_MAX {
            return Err(io::Error::other("no whole answer to the handshake"));
        }
        answer.extend_from_slice(&buffer[..read]);
    };
    let head = &answer[..end];
    if !head.starts_with(b"HTTP/1.1 101 ") || find(head, ACCEPT.as_bytes()).is_none() {
        let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
        let line = String::from_utf8_lossy(line);
        return Err(io::Error::other(format!("the upgrade was refused: {line}")));
    }
    stream.set_nonblocking(true)?;
    Ok((stream, answer.split_off(end)))
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    memchr::memmem::find(bytes, wanted)
}

pub fn split(bytes: &[u8]) -> Split<'_> {
    let [first, second, rest @ ..] = bytes else {
        return Split::Partial;
    };
    let (length, rest) = match (*second, rest) {
        (short @ 0..=125, rest) => (usize::from(short), rest),
        (126, [high, low, rest @ ..]) => (usize::from(u16::from_be_bytes([*high, *low])), rest),
        (126, _) => return Split::Partial,
        // Masked, or longer than any frame of ours.
        _ => return Split::Wrong,
    };
    if length > FRAME_BYTES_MAX {
        return Split::Wrong;
    }
    let Some((payload, after)) = rest.split_at_checked(length) else {
        return Split::Partial;
    };
    const TEXT_WHOLE: u8 = FINAL | TEXT;
    const PING_WHOLE: u8 = FINAL | PING;
    const PONG_WHOLE: u8 = FINAL | PONG;
    const CLOSE_WHOLE: u8 = FINAL | CLOSE;
    match *first {
        TEXT_WHOLE => Split::Text(payload, after),
        PING_WHOLE => Split::Ping(payload, after),
        PONG_WHOLE => Split::Pong(after),
        CLOSE_WHOLE => Split::Close,
        _ => Split::Wrong,
    }
}

pub fn write_text(out: &mut Vec<u8>, mask: u32, text: &[u8]) {
    write(out, TEXT, mask, text);
}

pub fn write_pong(out: &mut Vec<u8>, mask: u32, payload: &[u8]) {
    write(out, PONG, mask, payload);
}

pub fn write_close(out: &mut Vec<u8>, mask: u32) {
    write(out, CLOSE, mask, &[]);
}

/// Clients mask what they send; the server has to take the mask off again, whatever it is.
fn write(out: &mut Vec<u8>, opcode: u8, mask: u32, payload: &[u8]) {
    let mask = mask.to_ne_bytes();
    out.push(FINAL | opcode);
    match u8::try_from(payload.len()) {
        Ok(short @ 0..=125) => out.push(MASKED | short),
        _ => {
            let length = u16::try_from(payload.len()).expect("messages are bounded by 16 KiB");
            out.push(MASKED | 126);
            out.extend_from_slice(&length.to_be_bytes());
        }
    }
    out.extend_from_slice(&mask);
    let start = out.len();
    out.extend_from_slice(payload);
    for chunk in out[start..].chunks_mut(mask.len()) {
        for (byte, mask) in chunk.iter_mut().zip(mask) {
            *byte ^= mask;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn golden() {
        let mut out = Vec::new();
        write_text(&mut out, u32::from_ne_bytes([1, 2, 3, 4]), b"hello");
        let masked = [b'h' ^ 1, b'e' ^ 2, b'l' ^ 3, b'l' ^ 4, b'o' ^ 1];
        assert_eq!(out, [&[0x81, 0x85, 1, 2, 3, 4], &masked[..]].concat());
        assert_eq!(split(b"\x81\x02hi\x89"), Split::Text(b"hi", b"\x89"));
        assert_eq!(split(b"\x89\x01a"), Split::Ping(b"a", b""));
        assert_eq!(split(b"\x88\x00"), Split::Close);
        assert_eq!(split(b"\x82\x00"), Split::Wrong);
        assert_eq!(split(b"\x81\x7f"), Split::Wrong);
        assert_eq!(split(b"\x81\x80"), Split::Wrong);
    }

    proptest! {
        #[test]
        fn frames_come_apart_where_they_were_joined(
            texts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..5),
            cut: prop::sample::Index,
        ) {
            let mut bytes = Vec::new();
            for text in &texts {
                // As the server does it: without a mask.
                let mut frame = Vec::new();
                write_text(&mut frame, 0, text);
                let length_bytes = if text.len() > 125 { 4 } else { 2 };
                frame[1] &= !MASKED;
                bytes.extend_from_slice(&frame[..length_bytes]);
                bytes.extend_from_slice(text);
            }
            let whole = bytes.len();
            let mut rest = &bytes[..cut.index(whole + 1)];
            let mut found = 0;
            while let Split::Text(text, after) = split(rest) {
                prop_assert_eq!(text, &texts[found]);
                found += 1;
                rest = after;
            }
            prop_assert_eq!(split(rest), Split::Partial);
        }

        #[test]
        fn any_bytes_are_split_somehow(bytes: Vec<u8>) {
            split(&bytes);
        }
    }
}
