//! What a measured message carries, so that whoever receives it can tell which one it is and how
//! long it took: channel, sender, number, and when it was due. All of one width, so that it is
//! written and read without a parser, and in characters that JSON leaves as they are.
//!
//! ```text
//! "~" | room, 4 digits | user, 4 | number, 8 | due in nanoseconds, 12      all hexadecimal
//! ```

use serde_json::Value;

/// Digits of each field.
const WIDTHS: [usize; 4] = [4, 4, 8, 12];
/// Bytes of a stamp, and so of the shortest message.
pub const STAMP_BYTES: usize = 1 + 4 + 4 + 8 + 12;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    pub room: u16,
    pub user: u16,
    /// Counts from 0 for each sender.
    pub number: u32,
    /// Since the clock of this run began.
    pub due_ns: u64,
}

/// What a frame of the server says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    Ack(Stamp),
    Message(Stamp),
    /// A message was refused. Answers come in the order of sends, so which one is known.
    Refused,
    /// Nothing that a server should have said.
    Nonsense,
}

impl Stamp {
    /// Writes over the beginning of `body`, which must have room for it.
    pub fn write(&self, body: &mut [u8]) {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let fields = [
            self.room.into(),
            self.user.into(),
            self.number.into(),
            self.due_ns,
        ];
        body[0] = b'~';
        let mut at = 1;
        for (field, width) in fields.into_iter().zip(WIDTHS) {
            for place in 0..width {
                let digit = field >> (4 * (width - 1 - place)) & 0xf;
                body[at + place] = DIGITS[digit as usize];
            }
            at += width;
        }
    }

    /// Reads the beginning of a body.
    pub fn read(body: &[u8]) -> Option<Stamp> {
        let mut rest = body.strip_prefix(b"~")?;
        let mut fields = [0_u64; 4];
        for (field, width) in fields.iter_mut().zip(WIDTHS) {
            let (digits, after) = rest.split_at_checked(width)?;
            for digit in digits {
                *field = *field << 4 | u64::from(char::from(*digit).to_digit(16)?);
            }
            rest = after;
        }
        Some(Stamp {
            room: fields[0] as u16,
            user: fields[1] as u16,
            number: fields[2] as u32,
            due_ns: fields[3],
        })
    }
}

/// Understands a text frame. Those of this server are recognised by how they begin; of another
/// order of fields, or spaces, JSON makes sense all the same.
pub fn understand(frame: &[u8]) -> Said {
    let said: fn(Stamp) -> Said = if frame.starts_with(b"{\"type\":\"message\",") {
        Said::Message
    } else if frame.starts_with(b"{\"type\":\"ack\",") {
        Said::Ack
    } else {
        return understand_json(frame);
    };
    let stamp = memchr::memchr(b'~', frame)
        .filter(|at| frame[..*at].ends_with(b"\"message\":\""))
        .and_then(|at| Stamp::read(&frame[at..]));
    stamp.map_or_else(|| understand_json(frame), said)
}

fn understand_json(frame: &[u8]) -> Said {
    let Ok(value) = serde_json::from_slice::<Value>(frame) else {
        return Said::Nonsense;
    };
    let body = value["message"].as_str().unwrap_or_default();
    match (value["type"].as_str(), Stamp::read(body.as_bytes())) {
        (Some("error"), _) => Said::Refused,
        (Some("ack"), Some(stamp)) => Said::Ack(stamp),
        (Some("message"), Some(stamp)) => Said::Message(stamp),
        _ => Said::Nonsense,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STAMP: Stamp = Stamp {
        room: 1,
        user: 0xabc,
        number: 77,
        due_ns: 123_456_789,
    };

    fn body(stamp: &Stamp) -> String {
        let mut body = vec![b'.'; STAMP_BYTES + 3];
        stamp.write(&mut body);
        String::from_utf8(body).unwrap()
    }

    #[test]
    fn golden() {
        assert_eq!(body(&STAMP), "~00010abc0000004d0000075bcd15...");
        assert_eq!(Stamp::read(b"~00010abc0000004d0000075bcd1"), None);
        assert_eq!(Stamp::read(b"~0001 abc0000004d0000075bcd15"), None);
    }

    #[test]
    fn frames_are_understood_however_they_are_written() {
        let body = body(&STAMP);
        for (frame, said) in [
            (
                format!("{{\"type\":\"ack\",\"id\":\"x\",\"message\":\"{body}\",\"seq\":1}}"),
                Said::Ack(STAMP),
            ),
            (
                format!("{{\"type\":\"message\",\"username\":\"~\",\"message\":\"{body}\"}}"),
                Said::Message(STAMP),
            ),
            (
                format!("{{ \"message\": \"{body}\", \"type\": \"message\" }}"),
                Said::Message(STAMP),
            ),
            (
                "{\"type\":\"error\",\"message\":\"no\"}".to_owned(),
                Said::Refused,
            ),
            (
                "{\"type\":\"ack\",\"message\":\"~12\"}".to_owned(),
                Said::Nonsense,
            ),
            ("{\"type\":\"ack\",".to_owned(), Said::Nonsense),
            (String::new(), Said::Nonsense),
        ] {
            assert_eq!(understand(frame.as_bytes()), said, "{frame}");
        }
    }

    proptest! {
        #[test]
        fn round_trip(room: u16, user: u16, number: u32, due_ns in 0..1_u64 << 48) {
            let stamp = Stamp { room, user, number, due_ns };
            prop_assert_eq!(Stamp::read(body(&stamp).as_bytes()), Some(stamp));
        }

        #[test]
        fn any_bytes_are_understood_somehow(frame: Vec<u8>) {
            understand(&frame);
        }
    }
}
