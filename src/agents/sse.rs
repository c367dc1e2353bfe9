//! Server-sent events as they come in, in pieces of any size. No I/O.
//!
//! Only what a stream of chat completions uses: the data of each event. Names, ids and retry times
//! are skipped. Lines end with CR, LF or both, wherever the pieces were cut.
//!
//! Invariants: what is given out depends on the bytes alone, not on how they were cut; a line and an
//! event are bounded, and whoever sends more is an error, not a growing buffer.

/// Most bytes of a line, and of the data of an event.
pub const EVENT_BYTES_MAX: usize = 256 << 10;

/// See the module.
#[derive(Debug, Default)]
pub struct Parser {
    line: Vec<u8>,
    data: Vec<u8>,
    /// The event has at least one line of data, be it empty.
    has_data: bool,
    /// The last byte was a CR: an LF that follows is part of the same line end.
    after_cr: bool,
    /// A first line has been read; before it there may be a byte order mark.
    begun: bool,
}

/// Why a stream cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    #[error("an event has more than {EVENT_BYTES_MAX} bytes")]
    TooLong,
    #[error("an event is not valid UTF-8")]
    NotUtf8,
}

impl Parser {
    /// Takes the next bytes and appends the data of each event that they complete.
    pub fn feed(&mut self, bytes: &[u8], events: &mut Vec<String>) -> Result<(), ParseError> {
        for &byte in bytes {
            let ended_by_cr = std::mem::replace(&mut self.after_cr, byte == b'\r');
            match byte {
                b'\n' if ended_by_cr => {}
                b'\r' | b'\n' => self.end_line(events)?,
                _ if self.line.len() == EVENT_BYTES_MAX => return Err(ParseError::TooLong),
                _ => self.line.push(byte),
            }
        }
        Ok(())
    }

    fn end_line(&mut self, events: &mut Vec<String>) -> Result<(), ParseError> {
        let mut line = self.line.as_slice();
        if !std::mem::replace(&mut self.begun, true) {
            line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
        }
        if line.is_empty() {
            self.end_event(events)?;
        } else if let Some(value) = field(line, b"data") {
            if self.data.len() + value.len() >= EVENT_BYTES_MAX {
                return Err(ParseError::TooLong);
            }
            if self.has_data {
                self.data.push(b'\n');
            }
            self.data.extend_from_slice(value);
            self.has_data = true;
        }
        self.line.clear();
        Ok(())
    }

    /// An event without data is none.
    fn end_event(&mut self, events: &mut Vec<String>) -> Result<(), ParseError> {
        if std::mem::take(&mut self.has_data) {
            let data = std::mem::take(&mut self.data);
            events.push(String::from_utf8(data).map_err(|_| ParseError::NotUtf8)?);
        }
        Ok(())
    }
}

/// The value of a line's field if the line is of that field.
fn field<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let rest = line.strip_prefix(name)?;
    let Some(value) = rest.strip_prefix(b":") else {
        return rest.is_empty().then_some(rest);
    };
    Some(value.strip_prefix(b" ").unwrap_or(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(bytes: &[u8]) -> Result<Vec<String>, ParseError> {
        let mut events = Vec::new();
        Parser::default().feed(bytes, &mut events)?;
        Ok(events)
    }

    #[track_caller]
    fn check(text: &str, expected: &[&str]) {
        assert_eq!(parse(text.as_bytes()).unwrap(), expected, "{text:?}");
    }

    #[test]
    fn events_end_with_an_empty_line() {
        check("data: a\n\ndata:b\r\n\r\ndata:  c\r\r", &["a", "b", " c"]);
        check("data: a\ndata: b\n\n", &["a\nb"]);
        check("data: unfinished\n", &[]);
        check("\u{feff}data: a\n\n\u{feff}data: b\n\n", &["a"]);
        check(": comment\nevent: x\nid: 7\nretry: 1\n\n", &[]);
        check("data\n\n", &[""]);
        check("database: x\n\n", &[]);
        check("\n\n\r\n", &[]);
    }

    #[test]
    fn lines_and_events_are_bounded() {
        let endless = vec![b'x'; EVENT_BYTES_MAX + 1];
        assert_eq!(parse(&endless), Err(ParseError::TooLong));
        let line = format!("data: {}\n", "x".repeat(EVENT_BYTES_MAX / 2));
        assert_eq!(parse(line.repeat(3).as_bytes()), Err(ParseError::TooLong));
        assert_eq!(parse(b"data: \xff\n\n"), Err(ParseError::NotUtf8));
    }

    /// Texts that look like event streams more often than chance would have it.
    fn stream() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            Just("data: ".to_owned()),
            Just("data".to_owned()),
            Just(":".to_owned()),
            Just("\n".to_owned()),
            Just("\r".to_owned()),
            Just("\r\n".to_owned()),
            Just("\u{feff}".to_owned()),
            "[a-zé{}]{0,6}",
        ];
        prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat().into_bytes())
    }

    proptest! {
        #[test]
        fn it_does_not_matter_how_the_bytes_were_cut(
            bytes in stream(),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..10),
        ) {
            let whole = parse(&bytes);
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.sort_unstable();
            let mut parser = Parser::default();
            let mut events = Vec::new();
            let mut from = 0;
            let mut fed = Ok(());
            for to in cuts.into_iter().chain([bytes.len()]) {
                fed = fed.and_then(|()| parser.feed(&bytes[from..to], &mut events));
                from = to;
            }
            prop_assert_eq!(fed.map(|()| events), whole);
        }

        #[test]
        fn what_was_written_comes_back(
            datas in prop::collection::vec("[^\r\n]{0,20}(\n[^\r\n]{0,20}){0,2}", 0..6),
        ) {
            let text: String = datas
                .iter()
                .map(|data| format!("data: {}\n\n", data.replace('\n', "\ndata: ")))
                .collect();
            prop_assert_eq!(parse(text.as_bytes()).unwrap(), datas);
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }
    }
}
