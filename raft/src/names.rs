//! What people call things, as types that cannot hold a bad value.
//!
//! A text from outside becomes one of these through `parse` and is never
//! checked again. Nothing is trimmed or normalised: what was sent is what is
//! stored and shown. Lengths of names are counted in Unicode code points, as
//! the contract does, lengths of bodies and keys in bytes.
//!
//! Invariant: every value of these types obeys the bounds named here. Each
//! error is a sentence that tells the sender what to change.

use std::fmt;

use thiserror::Error;

/// Fewest code points in the name of a server or a channel.
pub const NAME_CHARS_MIN: usize = 3;
/// Most code points in the name of a server or a channel.
pub const NAME_CHARS_MAX: usize = 100;
/// Most code points in a username.
pub const USERNAME_CHARS_MAX: usize = 64;
/// Most bytes in an idempotency key: it is hashed for each post that has one.
pub const KEY_BYTES_MAX: usize = 255;
/// Most bytes in an agent's name.
pub const AGENT_BYTES_MAX: usize = 32;
/// Most bytes in a message body, unless the cluster is configured otherwise.
pub const BODY_BYTES_MAX_DEFAULT: usize = 16_384;

/// Why a text is not what it was meant to be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NameError {
    /// Fewer or more code points than allowed.
    #[error("{what} must have {min} to {max} characters, but this one has {found}.")]
    Characters {
        /// What was being read, as the beginning of a sentence.
        what: &'static str,
        /// Fewest code points allowed.
        min: usize,
        /// Most code points allowed.
        max: usize,
        /// Code points found.
        found: usize,
    },
    /// Fewer or more bytes than allowed.
    #[error("{what} must have {min} to {max} bytes, but this one has {found}.")]
    Bytes {
        /// What was being read, as the beginning of a sentence.
        what: &'static str,
        /// Fewest bytes allowed.
        min: usize,
        /// Most bytes allowed.
        max: usize,
        /// Bytes found.
        found: usize,
    },
    /// A line break, tab, NUL or another control character.
    #[error("{what} must not contain control characters such as line breaks, tabs or NUL.")]
    Control {
        /// What was being read, as the beginning of a sentence.
        what: &'static str,
    },
    /// Something other than what an agent may be called.
    #[error(
        "An agent's name must have 1 to {AGENT_BYTES_MAX} characters, lower-case letters of a to z, digits, \
         \"-\" and \"_\", the first of them a letter."
    )]
    Agent,
    /// A message of nothing but white space.
    #[error("A message must not be blank: write at least one visible character.")]
    Blank,
}

/// The name of a server: 3 to 100 code points without control characters.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerName(String);

/// The name of a channel: 3 to 100 code points without control characters.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelName(String);

/// Who wrote a message: 1 to 64 code points of any kind. Control characters
/// are allowed, since the front end lets people choose freely and every output
/// of ours escapes them.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Username(String);

/// What an agent is called, and called by: 1 to 32 lower-case letters, digits, `-` and `_`, the first
/// a letter.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AgentName(String);

/// The text of a message: not blank, and no longer than the cluster's limit.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageBody(String);

/// The key under which a post is done once: 1 to 255 bytes of UTF-8 without control characters.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdempotencyKey(String);

impl ServerName {
    /// Takes a text as the name of a server.
    ///
    /// # Errors
    /// [`NameError::Characters`] or [`NameError::Control`].
    pub fn parse(text: impl Into<String>) -> Result<Self, NameError> {
        plain_name("A server name", text.into()).map(Self)
    }
}

impl ChannelName {
    /// Takes a text as the name of a channel.
    ///
    /// # Errors
    /// [`NameError::Characters`] or [`NameError::Control`].
    pub fn parse(text: impl Into<String>) -> Result<Self, NameError> {
        plain_name("A channel name", text.into()).map(Self)
    }
}

impl Username {
    /// Takes a text as a username.
    ///
    /// # Errors
    /// [`NameError::Characters`].
    pub fn parse(text: impl Into<String>) -> Result<Self, NameError> {
        let text = text.into();
        characters("A username", &text, 1, USERNAME_CHARS_MAX)?;
        Ok(Self(text))
    }
}

impl AgentName {
    /// Takes a text as the name of an agent.
    ///
    /// # Errors
    /// [`NameError::Agent`].
    pub fn parse(text: impl Into<String>) -> Result<Self, NameError> {
        let text = text.into();
        let fits = (1..=AGENT_BYTES_MAX).contains(&text.len())
            && text.starts_with(|first: char| first.is_ascii_lowercase())
            && text
                .bytes()
                .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'));
        match fits {
            true => Ok(Self(text)),
            false => Err(NameError::Agent),
        }
    }
}

impl MessageBody {
    /// Takes a text as a message of at most `bytes_max` bytes.
    ///
    /// # Errors
    /// [`NameError::Bytes`] when it is empty or too long, [`NameError::Blank`]
    /// when it is nothing but white space.
    pub fn parse(text: impl Into<String>, bytes_max: usize) -> Result<Self, NameError> {
        let text = text.into();
        bytes("A message", &text, bytes_max)?;
        if text.trim().is_empty() {
            return Err(NameError::Blank);
        }
        Ok(Self(text))
    }
}

impl IdempotencyKey {
    /// Takes a text as an idempotency key (a header) or a nonce (a frame).
    ///
    /// # Errors
    /// [`NameError::Bytes`] or [`NameError::Control`].
    pub fn parse(text: impl Into<String>) -> Result<Self, NameError> {
        let text = text.into();
        bytes("An idempotency key", &text, KEY_BYTES_MAX)?;
        no_control_characters("An idempotency key", &text)?;
        Ok(Self(text))
    }
}

/// What all of them can do: be read, be shown, and give their text away.
macro_rules! readable {
    ($($name:ident),+) => {$(
        impl $name {
            /// The text as it was sent.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// Gives the text away.
            #[must_use]
            pub fn into_string(self) -> String {
                self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        // Escaped, so that a name cannot forge a line in a log.
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    )+};
}

readable!(
    ServerName,
    ChannelName,
    Username,
    AgentName,
    MessageBody,
    IdempotencyKey
);

fn plain_name(what: &'static str, text: String) -> Result<String, NameError> {
    characters(what, &text, NAME_CHARS_MIN, NAME_CHARS_MAX)?;
    no_control_characters(what, &text)?;
    Ok(text)
}

fn no_control_characters(what: &'static str, text: &str) -> Result<(), NameError> {
    if text.chars().any(char::is_control) {
        return Err(NameError::Control { what });
    }
    Ok(())
}

fn characters(what: &'static str, text: &str, min: usize, max: usize) -> Result<(), NameError> {
    let found = text.chars().count();
    if (min..=max).contains(&found) {
        return Ok(());
    }
    Err(NameError::Characters {
        what,
        min,
        max,
        found,
    })
}

fn bytes(what: &'static str, text: &str, max: usize) -> Result<(), NameError> {
    let found = text.len();
    if (1..=max).contains(&found) {
        return Ok(());
    }
    Err(NameError::Bytes {
        what,
        min: 1,
        max,
        found,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// One, two, three and four bytes each: code points count, bytes do not.
    const LETTERS: [&str; 4] = ["a", "é", "話", "🦀"];

    #[test]
    fn names_are_counted_in_code_points() {
        for letter in LETTERS {
            for (count, fits) in [(0, false), (2, false), (3, true), (100, true), (101, false)] {
                let text = letter.repeat(count);
                assert_eq!(
                    ServerName::parse(&*text).is_ok(),
                    fits,
                    "{letter} x {count}"
                );
                assert_eq!(
                    ChannelName::parse(&*text).is_ok(),
                    fits,
                    "{letter} x {count}"
                );
            }
            for (count, fits) in [(0, false), (1, true), (64, true), (65, false)] {
                let text = letter.repeat(count);
                assert_eq!(Username::parse(&*text).is_ok(), fits, "{letter} x {count}");
            }
        }
    }

    #[test]
    fn nothing_is_trimmed() {
        assert_eq!(ServerName::parse(" a ").unwrap().as_str(), " a ");
        assert_eq!(MessageBody::parse(" a\n", 3).unwrap().as_str(), " a\n");
        assert!(ServerName::parse("   ").is_ok());
    }

    #[test]
    fn control_characters_are_refused_in_names_only() {
        for control in ['\0', '\n', '\t', '\r', '\u{7f}', '\u{85}', '\u{1b}'] {
            let text = format!("abc{control}");
            assert_eq!(
                ServerName::parse(&*text),
                Err(NameError::Control {
                    what: "A server name"
                })
            );
            assert!(ChannelName::parse(&*text).is_err());
            assert!(Username::parse(&*text).is_ok());
            assert!(MessageBody::parse(&*text, 100).is_ok());
        }
    }

    #[test]
    fn bodies_have_a_limit_in_bytes_and_are_not_blank() {
        assert!(MessageBody::parse("é", 2).is_ok());
        assert!(MessageBody::parse("é", 1).is_err());
        assert!(MessageBody::parse("", 10).is_err());
        for blank in [" ", "\n", "\t \r\n", "\u{a0}\u{2003}", "\u{3000}"] {
            assert_eq!(MessageBody::parse(blank, 100), Err(NameError::Blank));
        }
        let most = "x".repeat(BODY_BYTES_MAX_DEFAULT);
        assert!(MessageBody::parse(&*most, BODY_BYTES_MAX_DEFAULT).is_ok());
        assert!(MessageBody::parse(most + "x", BODY_BYTES_MAX_DEFAULT).is_err());
    }

    #[test]
    fn keys_are_bytes_without_control_characters() {
        for good in ["k", "~!\"#", "a b", "é", &"x".repeat(255)] {
            assert!(IdempotencyKey::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "a\0", "\n", &"x".repeat(256)] {
            assert!(IdempotencyKey::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn agents_are_called_by_words_that_can_follow_a_slash() {
        for good in ["a", "ask", "gpt-4_1", &"x".repeat(32)] {
            assert_eq!(AgentName::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", "Ask", "1a", "-a", "a b", "a/b", "é", &"x".repeat(33)] {
            assert_eq!(AgentName::parse(bad), Err(NameError::Agent), "{bad}");
        }
    }

    #[test]
    fn errors_are_sentences() {
        let check = |error: NameError, text: &str| assert_eq!(error.to_string(), text);
        check(
            ServerName::parse("ab").unwrap_err(),
            "A server name must have 3 to 100 characters, but this one has 2.",
        );
        check(
            ChannelName::parse("a\0bc").unwrap_err(),
            "A channel name must not contain control characters such as line breaks, tabs or NUL.",
        );
        check(
            MessageBody::parse("abc", 2).unwrap_err(),
            "A message must have 1 to 2 bytes, but this one has 3.",
        );
        check(
            MessageBody::parse(" ", 2).unwrap_err(),
            "A message must not be blank: write at least one visible character.",
        );
        check(
            IdempotencyKey::parse("a\nb").unwrap_err(),
            "An idempotency key must not contain control characters such as line breaks, tabs or NUL.",
        );
    }

    #[test]
    fn debug_escapes() {
        assert_eq!(
            format!("{:?}", Username::parse("a\nb").unwrap()),
            "\"a\\nb\""
        );
    }

    proptest! {
        #[test]
        fn what_is_accepted_is_kept_as_it_was(text in ".{0,120}") {
            let count = text.chars().count();
            if let Ok(name) = ServerName::parse(&*text) {
                prop_assert!((3..=100).contains(&count));
                prop_assert_eq!(name.as_str(), &text);
            }
            prop_assert_eq!(Username::parse(&*text).is_ok(), (1..=64).contains(&count));
            if let Ok(body) = MessageBody::parse(&*text, 200) {
                prop_assert_eq!(body.into_string(), text);
            }
        }
    }
}
