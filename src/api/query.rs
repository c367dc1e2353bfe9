//! Query strings: tolerant of odd percent-encoding, strict about UTF-8.
//!
//! A `%` that two hexadecimal digits do not follow stands for itself, because the front end does
//! not encode usernames fully (`?username=100%%20me` is "100% me"). A `+` is a space: of the two
//! ways in which browsers build queries, `URLSearchParams` writes a space so, and
//! `encodeURIComponent` writes neither a space nor a plus as `+`; both write a plus as `%2B`.
//! Decoded bytes that are not UTF-8 are refused, never replaced.
//!
//! Parameters that are not known are ignored; a known one given twice is refused, since either
//! choice could be the wrong one. Nothing here panics, whatever the text.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use accord_raft::Consistency;
use percent_encoding::percent_decode;

/// A decoded query string. Its length is bounded by that of the request's head.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Query {
    pairs: Vec<(String, String)>,
}

/// Why a query string cannot be used; each is a sentence for the client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    #[error("The query string is not valid UTF-8.")]
    NotUtf8,
    #[error("The query parameter \"{name}\" is given more than once.")]
    Repeated { name: &'static str },
    #[error("The query parameter \"{name}\" is missing.")]
    Missing { name: &'static str },
    #[error("The query parameter \"{name}\" must be {expected}.")]
    Invalid {
        name: &'static str,
        expected: String,
    },
    #[error("The query parameters \"{one}\" and \"{other}\" exclude each other.")]
    Exclusive {
        one: &'static str,
        other: &'static str,
    },
}

impl Query {
    /// Decodes what follows the question mark.
    pub fn parse(raw: Option<&str>) -> Result<Query, QueryError> {
        let raw = raw.unwrap_or_default();
        let pairs = raw.split('&').filter(|pair| !pair.is_empty());
        let pairs = pairs.map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decode(name)?, decode(value)?))
        });
        Ok(Query {
            pairs: pairs.collect::<Result<_, _>>()?,
        })
    }

    /// The value of a parameter that may be given once.
    pub fn text(&self, name: &'static str) -> Result<Option<&str>, QueryError> {
        let mut values = self.pairs.iter().filter(|(known, _)| known == name);
        let first = values.next().map(|(_, value)| value.as_str());
        if values.next().is_some() {
            return Err(QueryError::Repeated { name });
        }
        Ok(first)
    }

    /// The value of a parameter that must be given once.
    pub fn required(&self, name: &'static str) -> Result<&str, QueryError> {
        self.text(name)?.ok_or(QueryError::Missing { name })
    }

    /// A whole number within a range.
    pub fn number<T>(
        &self,
        name: &'static str,
        range: RangeInclusive<T>,
    ) -> Result<Option<T>, QueryError>
    where
        T: FromStr + PartialOrd + Display,
    {
        let Some(text) = self.text(name)? else {
            return Ok(None);
        };
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        let value = text.parse().ok().filter(|value| range.contains(value));
        match value {
            Some(value) if digits => Ok(Some(value)),
            _ => {
                let (least, most) = (range.start(), range.end());
                let expected = format!("a whole number from {least} to {most}");
                Err(QueryError::Invalid { name, expected })
            }
        }
    }

    /// The seq of a message, or 0 for the beginning.
    pub fn seq(&self, name: &'static str) -> Result<Option<u64>, QueryError> {
        self.number(name, 0..=u64::MAX)
    }

    /// `true` or `false`.
    pub fn flag(&self, name: &'static str, default: bool) -> Result<bool, QueryError> {
        match self.text(name)? {
            None => Ok(default),
            Some("true") => Ok(true),
            Some("false") => Ok(false),
            Some(_) => Err(QueryError::Invalid {
                name,
                expected: "true or false".to_owned(),
            }),
        }
    }

    /// What the read may miss; nothing unless the client says otherwise.
    pub fn consistency(&self) -> Result<Consistency, QueryError> {
        match self.text("consistency")? {
            None | Some("linearizable") => Ok(Consistency::Linearizable),
            Some("stale") => Ok(Consistency::Stale),
            Some(_) => Err(QueryError::Invalid {
                name: "consistency",
                expected: "linearizable or stale".to_owned(),
            }),
        }
    }
}

fn decode(text: &str) -> Result<String, QueryError> {
    // Before percent-decoding, so that an encoded plus stays one.
    let spaced = text.replace('+', " ");
    let bytes: Vec<u8> = percent_decode(spaced.as_bytes()).collect();
    String::from_utf8(bytes).map_err(|_| QueryError::NotUtf8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn username(raw: &str, expected: Result<&str, QueryError>) {
        let found = Query::parse(Some(raw));
        let found = found.and_then(|query| query.required("username").map(str::to_owned));
        assert_eq!(found, expected.map(str::to_owned));
    }

    #[test]
    fn usernames_are_taken_as_best_understood() {
        username("username=100%%20me", Ok("100% me"));
        username("username=100%", Ok("100%"));
        username("username=%zz%2", Ok("%zz%2"));
        username("username=a+b%2Bc", Ok("a b+c"));
        username("username=%F0%9F%A6%80&x", Ok("\u{1f980}"));
        username("username=\u{1f980}", Ok("\u{1f980}"));
        username("user%6Eame=a=b", Ok("a=b"));
        username("username=", Ok(""));
        username("username", Ok(""));
    }

    #[test]
    fn bad_queries_are_refused() {
        username("username=%ff", Err(QueryError::NotUtf8));
        username("username=a&x=%c3%28", Err(QueryError::NotUtf8));
        username("username=%ed%a0%80", Err(QueryError::NotUtf8));
        username("", Err(QueryError::Missing { name: "username" }));
        username(
            "username=a&username=a",
            Err(QueryError::Repeated { name: "username" }),
        );
    }

    #[test]
    fn numbers_have_ranges() {
        let query = Query::parse(Some("a=7&b=-1&c=18446744073709551616&d=+7&e=0&f=")).unwrap();
        assert_eq!(query.number("a", 1..=9_u64), Ok(Some(7)));
        assert!(query.number("a", 8..=9_u64).is_err());
        assert_eq!(query.seq("e"), Ok(Some(0)));
        assert_eq!(query.seq("none"), Ok(None));
        for bad in ["b", "c", "d", "f"] {
            assert!(query.seq(bad).is_err(), "{bad}");
        }
        assert_eq!(
            query.number("a", 1..=3_u64).unwrap_err().to_string(),
            "The query parameter \"a\" must be a whole number from 1 to 3."
        );
    }

    #[test]
    fn choices_are_closed() {
        let query = Query::parse(Some("receive=false&consistency=stale&x=1")).unwrap();
        assert_eq!(query.flag("receive", true), Ok(false));
        assert_eq!(query.flag("none", true), Ok(true));
        assert!(query.flag("x", true).is_err());
        assert_eq!(query.consistency(), Ok(Consistency::Stale));
        let query = Query::parse(Some("consistency=eventual")).unwrap();
        assert!(query.consistency().is_err());
    }

    fn encode_uri_component(text: &str) -> String {
        text.bytes().map(|byte| format!("%{byte:02X}")).collect()
    }

    proptest! {
        #[test]
        fn nothing_panics(raw in any::<String>()) {
            if let Ok(query) = Query::parse(Some(&raw)) {
                let _ = query.text("username");
                let _ = query.seq("after");
                let _ = query.number("limit", 1..=1_000_usize);
            }
        }

        #[test]
        fn encoded_bytes_are_text_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..32)) {
            let raw: String = bytes.iter().map(|byte| format!("%{byte:02x}")).collect();
            let decoded = decode(&raw);
            prop_assert_eq!(decoded.ok(), String::from_utf8(bytes).ok());
        }

        #[test]
        fn what_is_encoded_comes_back(name in any::<String>()) {
            let raw = format!("username={}", encode_uri_component(&name));
            let query = Query::parse(Some(&raw)).unwrap();
            prop_assert_eq!(query.required("username").unwrap(), name);
        }
    }
}
