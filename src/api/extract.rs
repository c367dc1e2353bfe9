//! From requests to values: ids in paths, headers, JSON bodies.
//!
//! Everything from a client is bounded in size and in the time that it may take, and becomes either
//! a value that is right or an error with a sentence.

use std::sync::Arc;
use std::time::Duration;

use accord_raft::names::IdempotencyKey;
use accord_raft::names::NameError;
use axum::body::Body;
use axum::extract::FromRequest;
use axum::extract::FromRequestParts;
use axum::extract::RawPathParams;
use axum::extract::Request;
use axum::http::HeaderMap;
use axum::http::header;
use axum::http::request::Parts;
use futures_util::StreamExt as _;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::problem::Problem;
use crate::app::App;

/// How long a client may take to send a body, all of it.
const BODY_READ_MAX: Duration = Duration::from_secs(10);
/// Bytes of a body that is too large which are still read, so that the client gets to see the
/// answer instead of a reset connection.
const BODY_DISCARD_BYTES_MAX: usize = 1 << 20;

/// Why an id in a path is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    #[error(
        "The {what} id in the path is not a UUID such as 01900000-0000-7000-8000-000000000000."
    )]
    Malformed { what: String },
    #[error("The path is not valid UTF-8.")]
    NotUtf8,
}

/// `{server}` of the path.
#[derive(Clone, Copy, Debug)]
pub struct ServerId(pub Uuid);

/// `{server}` and `{channel}` of the path.
#[derive(Clone, Copy, Debug)]
pub struct ChannelIds {
    pub server: Uuid,
    pub channel: Uuid,
}

/// `{server}`, `{channel}` and `{job}` of the path.
#[derive(Clone, Copy, Debug)]
pub struct JobIds {
    pub server: Uuid,
    pub channel: Uuid,
    pub job: Uuid,
}

/// `{server}`, `{channel}` and `{scheduled}` of the path.
#[derive(Clone, Copy, Debug)]
pub struct ScheduledIds {
    pub server: Uuid,
    pub channel: Uuid,
    pub scheduled: Uuid,
}

/// `{channel}` of a path without a server.
#[derive(Clone, Copy, Debug)]
pub struct ChannelId(pub Uuid);

impl<S: Send + Sync> FromRequestParts<S> for ServerId {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        Ok(ServerId(path_id(parts, state, "server").await?))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for ChannelIds {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        Ok(ChannelIds {
            server: path_id(parts, state, "server").await?,
            channel: path_id(parts, state, "channel").await?,
        })
    }
}

impl<S: Send + Sync> FromRequestParts<S> for JobIds {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        Ok(JobIds {
            server: path_id(parts, state, "server").await?,
            channel: path_id(parts, state, "channel").await?,
            job: path_id(parts, state, "job").await?,
        })
    }
}

impl<S: Send + Sync> FromRequestParts<S> for ScheduledIds {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        Ok(ScheduledIds {
            server: path_id(parts, state, "server").await?,
            channel: path_id(parts, state, "channel").await?,
            scheduled: path_id(parts, state, "scheduled").await?,
        })
    }
}

impl<S: Send + Sync> FromRequestParts<S> for ChannelId {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        Ok(ChannelId(path_id(parts, state, "channel").await?))
    }
}

async fn path_id<S: Send + Sync>(
    parts: &mut Parts,
    state: &S,
    what: &'static str,
) -> Result<Uuid, IdError> {
    let params = RawPathParams::from_request_parts(parts, state)
        .await
        .map_err(|_| IdError::NotUtf8)?;
    let found = params.iter().find(|(name, _)| *name == what);
    found
        .and_then(|(_, value)| parse_id(value))
        .ok_or_else(|| IdError::Malformed {
            what: what.to_owned(),
        })
}

/// The hyphenated form only: it is what we mint and show, and one thing has one name.
pub fn parse_id(text: &str) -> Option<Uuid> {
    let hyphenated = text.len() == uuid::fmt::Hyphenated::LENGTH;
    hyphenated.then(|| Uuid::try_parse(text).ok()).flatten()
}

/// Why a header cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    #[error("The header {name} is given more than once.")]
    Repeated { name: &'static str },
    #[error("The header {name} is not valid UTF-8.")]
    NotText { name: &'static str },
    #[error("The header {name} must be {expected}.")]
    Malformed {
        name: &'static str,
        expected: &'static str,
    },
}

/// `Idempotency-Key`, taken as it stands.
pub fn idempotency_key(headers: &HeaderMap) -> Result<Option<IdempotencyKey>, Problem> {
    let Some(text) = single(headers, "Idempotency-Key")? else {
        return Ok(None);
    };
    let key: Result<IdempotencyKey, NameError> = IdempotencyKey::parse(text);
    Ok(Some(key?))
}

/// `If-Match: "SEQ"`: the head that the channel must have. `*` asks for nothing, since a channel
/// that exists always has a head.
pub fn expected_head(headers: &HeaderMap) -> Result<Option<u64>, HeaderError> {
    const NAME: &str = "If-Match";
    let Some(text) = single(headers, NAME)? else {
        return Ok(None);
    };
    if text == "*" {
        return Ok(None);
    }
    let digits = text
        .strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'))
        .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let seq = digits.and_then(|digits| digits.parse().ok());
    seq.map(Some).ok_or(HeaderError::Malformed {
        name: NAME,
        expected: "one seq in double quotes, such as \"42\"",
    })
}

/// `Last-Event-ID`: the seq of the last message that the client got.
pub fn last_event_id(headers: &HeaderMap) -> Result<Option<u64>, HeaderError> {
    const NAME: &str = "Last-Event-ID";
    // A browser that has seen no message yet sends none, or an empty one.
    let Some(text) = single(headers, NAME)?.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let seq = digits.then(|| text.parse().ok()).flatten();
    seq.map(Some).ok_or(HeaderError::Malformed {
        name: NAME,
        expected: "the seq of a message",
    })
}

fn single<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<Option<&'a str>, HeaderError> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(HeaderError::Repeated { name });
    }
    let text = std::str::from_utf8(value.as_bytes()).map_err(|_| HeaderError::NotText { name })?;
    Ok(Some(text))
}

/// Why a request body cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    #[error("The body must be JSON, with the content type application/json.")]
    NotJsonType,
    #[error("The body must not have more than {bytes_max} bytes.")]
    TooLarge { bytes_max: usize },
    #[error("The body took too long to arrive.")]
    TooSlow,
    #[error("The body ended before it was whole.")]
    CutOff,
    #[error("{0}")]
    Malformed(String),
}

/// A JSON object as the request's body. Fields that are not known are ignored.
#[derive(Debug)]
pub struct Json<T>(pub T);

impl<T: DeserializeOwned> FromRequest<Arc<App>> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, Problem> {
        let bytes_max = app.limits.request_bytes_max;
        let is_json = is_json(request.headers());
        // Read in any case: a client that is still sending when the connection closes would see
        // the reset, not the answer.
        let body = tokio::time::timeout(BODY_READ_MAX, read(request.into_body(), bytes_max));
        let bytes = body.await.map_err(|_| BodyError::TooSlow)?;
        if !is_json {
            return Err(BodyError::NotJsonType.into());
        }
        let value = object(&bytes?).map_err(BodyError::Malformed)?;
        Ok(Json(value))
    }
}

/// Reads a JSON object. Errors are sentences that say what is wrong and where.
pub fn object<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    // Serde would also take an array as the fields in their order, which nobody was promised.
    let first = bytes.iter().find(|byte| !byte.is_ascii_whitespace());
    if first.is_some_and(|byte| *byte != b'{')
        && serde_json::from_slice::<serde::de::IgnoredAny>(bytes).is_ok()
    {
        return Err("A JSON object is needed.".to_owned());
    }
    if std::str::from_utf8(bytes).is_err() {
        return Err("The JSON is not valid UTF-8.".to_owned());
    }
    serde_json::from_slice(bytes).map_err(|error| {
        use serde_json::error::Category;
        match error.classify() {
            Category::Data => format!("The JSON object does not fit: {error}."),
            Category::Syntax | Category::Eof | Category::Io => {
                format!("This is not valid JSON: {error}.")
            }
        }
    })
}

fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE);
    let text = value.and_then(|value| value.to_str().ok()).unwrap_or("");
    let media_type = text.split(';').next().unwrap_or("").trim();
    media_type.eq_ignore_ascii_case("application/json")
}

async fn read(body: Body, bytes_max: usize) -> Result<Vec<u8>, BodyError> {
    let mut chunks = body.into_data_stream();
    let mut bytes = Vec::new();
    let mut discarded = 0;
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|_| BodyError::CutOff)?;
        if discarded > 0 || bytes.len() + chunk.len() > bytes_max {
            discarded += chunk.len();
            if discarded > BODY_DISCARD_BYTES_MAX {
                break;
            }
        } else {
            bytes.extend_from_slice(&chunk);
        }
    }
    if discarded > 0 {
        return Err(BodyError::TooLarge { bytes_max });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize, PartialEq)]
    struct Named {
        name: String,
    }

    #[track_caller]
    fn refused(text: &[u8], part: &str) {
        let error = object::<Named>(text).expect_err("it should be refused");
        assert!(error.contains(part), "{error:?} does not say {part:?}");
    }

    #[test]
    fn objects_are_strict_about_types_and_lax_about_the_rest() {
        let named = object::<Named>(br#" {"name":"a","more":{"x":[1,null]}} "#).unwrap();
        assert_eq!(named.name, "a");
        refused(b"", "not valid JSON");
        refused(b"{\"name\":\"a\"", "not valid JSON");
        refused(b"{\"name\":\"a\"} x", "not valid JSON");
        refused(b"[\"a\"]", "object is needed");
        refused(b"\"a\"", "object is needed");
        refused(b"{\"name\":3}", "invalid type");
        refused(b"{\"name\":null}", "invalid type");
        refused(b"{}", "missing field `name`");
        refused(b"{\"name\":\"a\",\"name\":\"b\"}", "duplicate field `name`");
        refused(b"{\"name\":\"\xff\"}", "UTF-8");
        refused(b"{\"name\":\"\\ud800\"}", "not valid JSON");
    }

    #[test]
    fn ids_have_one_form() {
        let id = "01900000-0000-7000-8000-00000000ABCD";
        assert!(parse_id(id).is_some());
        assert_eq!(parse_id(&id.replace('-', "")), None);
        assert_eq!(parse_id(&format!("{{{id}}}")), None);
        assert_eq!(parse_id(""), None);
        assert_eq!(parse_id("zzzzzzzz-0000-7000-8000-000000000000"), None);
    }

    fn headers(name: &'static str, values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn conditions() {
        let head = |values: &[&str]| expected_head(&headers("if-match", values));
        assert_eq!(head(&[]), Ok(None));
        assert_eq!(head(&["*"]), Ok(None));
        assert_eq!(head(&["\"42\""]), Ok(Some(42)));
        for bad in [
            "42",
            "\"\"",
            "\"",
            "\"-1\"",
            "W/\"4\"",
            "\"4\", \"5\"",
            "\"99999999999999999999\"",
        ] {
            assert!(head(&[bad]).is_err(), "{bad}");
        }
        assert!(head(&["\"1\"", "\"1\""]).is_err());
        let key = |values: &[&str]| idempotency_key(&headers("idempotency-key", values));
        assert_eq!(key(&[]).unwrap(), None);
        assert_eq!(key(&["k-1"]).unwrap().unwrap().as_str(), "k-1");
        for bad in [&[""][..], &["a\tb"], &["a", "a"]] {
            assert!(key(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn content_types() {
        let is = |value: &str| is_json(&headers("content-type", &[value]));
        assert!(is("application/json"));
        assert!(is("Application/JSON ; charset=utf-8"));
        assert!(!is("text/plain"));
        assert!(!is("application/jsonx"));
        assert!(!is_json(&HeaderMap::new()));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = object::<Named>(&bytes);
        }
    }
}
