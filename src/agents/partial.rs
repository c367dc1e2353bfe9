//! What an agent has said so far in one attempt: it grows, is cut into deltas, and becomes the reply.
//!
//! Invariants: never more than a message may hold; the deltas, one behind the other, are the text;
//! each has at most [`DELTA_BYTES_MAX`] bytes once it is JSON, so that it fits into one event.

use std::sync::Mutex;
use std::sync::MutexGuard;

use tokio::sync::Notify;

/// Most bytes of a delta's text as JSON. With what surrounds it, it is below what nodes pass on.
pub const DELTA_BYTES_MAX: usize = 2_048;
/// What a reply that was too long ends with.
const CUT_MARK: &str = " …";

/// See the module.
#[derive(Debug)]
pub struct Partial {
    text: Mutex<Said>,
    more: Notify,
    bytes_max: usize,
}

#[derive(Debug, Default)]
struct Said {
    text: String,
    /// Bytes of it that went out as deltas, and the same in the units that offsets count in.
    taken: usize,
    taken_units: u64,
    /// Something was left out at the end.
    is_cut: bool,
}

/// A piece of the text and where it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// In UTF-16 code units, which is how JavaScript counts.
    pub offset: u64,
    pub text: String,
}

impl Partial {
    /// For a reply of at most so many bytes.
    pub fn new(bytes_max: usize) -> Partial {
        Partial {
            text: Mutex::default(),
            more: Notify::new(),
            bytes_max,
        }
    }

    /// The agent went on.
    pub fn push(&self, text: &str) {
        if text.is_empty() {
            return;
        }
        let mut said = self.said();
        let room = self
            .bytes_max
            .saturating_sub(CUT_MARK.len() + said.text.len());
        let end = floor_char_boundary(text, room);
        if !said.is_cut {
            said.text.push_str(&text[..end]);
            said.is_cut = end < text.len();
        }
        drop(said);
        self.more.notify_one();
    }

    /// Nothing more would be taken.
    pub fn is_full(&self) -> bool {
        self.said().is_cut
    }

    /// Returns when there may be a piece that was not taken.
    pub async fn grown(&self) {
        self.more.notified().await;
    }

    /// The next piece that was not taken yet.
    pub fn take(&self) -> Option<Piece> {
        let mut said = self.said();
        let rest = &said.text[said.taken..];
        let mut bytes = 0;
        let fits = |(_, character): &(usize, char)| {
            bytes += json_bytes(*character);
            bytes <= DELTA_BYTES_MAX
        };
        let end = rest.char_indices().take_while(fits).last();
        let end = end.map_or(0, |(at, character)| at + character.len_utf8());
        if end == 0 {
            return None;
        }
        let piece = Piece {
            offset: said.taken_units,
            text: rest[..end].to_owned(),
        };
        said.taken += end;
        said.taken_units += units_of(&piece.text);
        Some(piece)
    }

    /// The reply: all of the text, marked if it was cut.
    pub fn into_text(self) -> String {
        let said = self.text.into_inner();
        let mut said = said.unwrap_or_else(|error| error.into_inner());
        if said.is_cut {
            said.text.push_str(CUT_MARK);
        }
        said.text
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        // Nothing panics while holding it.
        self.text.lock().unwrap_or_else(|error| error.into_inner())
    }
}

/// Length in UTF-16 code units.
pub fn units_of(text: &str) -> u64 {
    text.encode_utf16().count() as u64
}

/// Bytes of a character in a JSON text.
fn json_bytes(character: char) -> usize {
    match character {
        '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
        control if u32::from(control) < 0x20 => 6,
        other => other.len_utf8(),
    }
}

fn floor_char_boundary(text: &str, most: usize) -> usize {
    let mut end = most.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[tokio::test]
    async fn a_piece_is_waited_for() {
        let partial = Partial::new(100);
        assert_eq!(partial.take(), None);
        partial.push("a🦀");
        partial.grown().await;
        let piece = |offset, text: &str| {
            Some(Piece {
                offset,
                text: text.to_owned(),
            })
        };
        assert_eq!(partial.take(), piece(0, "a🦀"));
        partial.push("b");
        assert_eq!(partial.take(), piece(3, "b"));
        assert_eq!(partial.into_text(), "a🦀b");
    }

    #[test]
    fn what_does_not_fit_is_left_out_and_marked() {
        let partial = Partial::new(10);
        partial.push("123");
        assert!(!partial.is_full());
        partial.push("456é");
        assert!(partial.is_full());
        partial.push("7");
        assert_eq!(partial.into_text(), "123456 …");
    }

    proptest! {
        #[test]
        fn deltas_are_the_text_and_fit(
            pushed in prop::collection::vec(
                prop_oneof![any::<String>(), "\u{1}{0,900}", "[\"\\\\é🦀]{0,2000}"],
                0..8,
            ),
            bytes_max in 20..20_000_usize,
        ) {
            let partial = Partial::new(bytes_max);
            let mut joined = String::new();
            for (index, text) in pushed.iter().enumerate() {
                partial.push(text);
                // Some wait until more has gathered.
                if index % 3 == 2 {
                    continue;
                }
                while let Some(piece) = partial.take() {
                    prop_assert_eq!(piece.offset, units_of(&joined));
                    let json = serde_json::to_string(&piece.text).unwrap();
                    prop_assert!(json.len() <= DELTA_BYTES_MAX + 2);
                    joined.push_str(&piece.text);
                }
            }
            while let Some(piece) = partial.take() {
                joined.push_str(&piece.text);
            }
            let whole: String = pushed.concat();
            let reply = partial.into_text();
            prop_assert!(reply.len() <= bytes_max);
            prop_assert!(whole.starts_with(&joined));
            let marked = joined.clone() + CUT_MARK;
            prop_assert!(reply == whole || reply == marked);
        }
    }
}
