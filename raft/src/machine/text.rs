//! The texts of a message, without copying them.
//!
//! Invariant: what a [`Text`] holds is UTF-8; it was checked when the text was
//! made and nothing can change it.

use std::fmt;
use std::ops::Deref;

use bytes::Bytes;

/// UTF-8 text that shares the memory of the log entry it came in. Cloning it
/// counts a reference; the whole entry stays in memory as long as any text of
/// it does.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Text(Bytes);

impl Text {
    /// `text`, which must lie inside `entry`, as a slice of it.
    pub(super) fn within(entry: &Bytes, text: &str) -> Self {
        Self(entry.slice_ref(text.as_bytes()))
    }

    /// Takes bytes as text, without copying.
    ///
    /// # Errors
    /// When they are not UTF-8.
    pub fn from_utf8(bytes: Bytes) -> Result<Self, std::str::Utf8Error> {
        std::str::from_utf8(&bytes)?;
        Ok(Self(bytes))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // Looked through again on each call because the workspace forbids
        // `unsafe`; it is a few nanoseconds for a message.
        std::str::from_utf8(&self.0).expect("checked when this text was made")
    }

    /// The text as shared bytes, for writing it out without a copy.
    #[must_use]
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl AsRef<str> for Text {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self(text.into_bytes().into())
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self(Bytes::copy_from_slice(text.as_bytes()))
    }
}

impl PartialEq<str> for Text {
    fn eq(&self, other: &str) -> bool {
        self.0 == other.as_bytes()
    }
}

impl PartialEq<&str> for Text {
    fn eq(&self, other: &&str) -> bool {
        self.0 == other.as_bytes()
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_text_shares_the_entry() {
        let entry = Bytes::from("before wörld after");
        let within = std::str::from_utf8(&entry).unwrap().get(7..13).unwrap();
        let text = Text::within(&entry, within);
        assert_eq!(text, "wörld");
        assert_eq!(text.as_bytes().as_ptr(), entry[7..].as_ptr());
        assert_eq!(Text::within(&entry, &within[1..1]), "");
    }

    proptest! {
        #[test]
        fn only_utf8(bytes in proptest::collection::vec(any::<u8>(), 0..8)) {
            let expected = String::from_utf8(bytes.clone());
            match Text::from_utf8(bytes.into()) {
                Ok(text) => prop_assert_eq!(text.as_str(), expected.unwrap()),
                Err(_) => prop_assert!(expected.is_err()),
            }
        }

        #[test]
        fn like_the_string_it_came_from(string: String) {
            let text = Text::from(string.clone());
            prop_assert_eq!(&text, &Text::from(&*string));
            prop_assert_eq!(format!("{text} {text:?}"), format!("{string} {string:?}"));
            prop_assert_eq!(text, &*string);
        }
    }
}
