//! Every error that a client can meet, and how it is told: RFC 9457 over HTTP, the same text in an
//! error frame on a socket, a close code where the socket cannot go on.
//!
//! This is the one place where errors become statuses and codes. Each mapping is exhaustive, so
//! that a new kind of error cannot be forgotten here.

use std::borrow::Cow;

use accord_raft::CancelError;
use accord_raft::ReadError;
use accord_raft::WriteError;
use accord_raft::names::NameError;
use axum::body::Body;
use axum::http::HeaderValue;
use axum::http::StatusCode;
use axum::http::header;
use axum::response::IntoResponse;
use axum::response::Response;
use serde::Serialize;

use super::extract::BodyError;
use super::extract::HeaderError;
use super::extract::IdError;
use super::query::QueryError;
use crate::socket::close::Close;
use crate::socket::frames::FrameError;
use crate::socket::upgrade::UpgradeError;
use crate::socket::wire::Fault;

/// What a client is asked to wait before it tries again: elections take about as long.
const RETRY_AFTER_S: u32 = 1;

/// What went wrong, as a client sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    kind: Kind,
    /// A sentence about this case.
    detail: Cow<'static, str>,
    /// The channel's head, where a condition on it failed.
    head: Option<u64>,
}

/// The kinds of problem. Their names are part of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    BadRequest,
    UnknownPath,
    UnknownServer,
    UnknownChannel,
    Gone,
    UnknownJob,
    UnknownScheduled,
    JobOver,
    MethodNotAllowed,
    TooSlow,
    HeadMismatch,
    TooLarge,
    UnsupportedMediaType,
    KeyReused,
    UpgradeRequired,
    StorageFailed,
    Unavailable,
    OutcomeUnknown,
    Overloaded,
    TooManyJobs,
    TooManyScheduled,
    DiskFull,
    NotReady,
}

impl Kind {
    /// The last part of the problem's `type`, its status and its title.
    fn describe(self) -> (&'static str, StatusCode, &'static str) {
        match self {
            Kind::BadRequest => ("bad-request", StatusCode::BAD_REQUEST, "Bad request"),
            Kind::UnknownPath => ("unknown-path", StatusCode::NOT_FOUND, "No such path"),
            Kind::UnknownServer => ("unknown-server", StatusCode::NOT_FOUND, "No such server"),
            Kind::UnknownChannel => ("unknown-channel", StatusCode::NOT_FOUND, "No such channel"),
            Kind::Gone => ("gone", StatusCode::GONE, "No longer kept"),
            Kind::UnknownJob => ("unknown-job", StatusCode::NOT_FOUND, "No such job"),
            Kind::UnknownScheduled => (
                "unknown-scheduled",
                StatusCode::NOT_FOUND,
                "No such scheduled message",
            ),
            Kind::JobOver => ("job-over", StatusCode::CONFLICT, "The job has ended"),
            Kind::MethodNotAllowed => (
                "method-not-allowed",
                StatusCode::METHOD_NOT_ALLOWED,
                "Method not allowed",
            ),
            Kind::TooSlow => ("too-slow", StatusCode::REQUEST_TIMEOUT, "Too slow"),
            Kind::HeadMismatch => (
                "head-mismatch",
                StatusCode::PRECONDITION_FAILED,
                "The channel has moved on",
            ),
            Kind::TooLarge => ("too-large", StatusCode::PAYLOAD_TOO_LARGE, "Too large"),
            Kind::UnsupportedMediaType => (
                "unsupported-media-type",
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "JSON is needed",
            ),
            Kind::KeyReused => (
                "key-reused",
                StatusCode::UNPROCESSABLE_ENTITY,
                "Idempotency key used before",
            ),
            Kind::UpgradeRequired => (
                "upgrade-required",
                StatusCode::UPGRADE_REQUIRED,
                "A WebSocket is needed",
            ),
            Kind::StorageFailed => (
                "storage-failed",
                StatusCode::INTERNAL_SERVER_ERROR,
                "Stored data could not be read",
            ),
            Kind::Unavailable => (
                "unavailable",
                StatusCode::SERVICE_UNAVAILABLE,
                "Unavailable for now",
            ),
            Kind::OutcomeUnknown => (
                "outcome-unknown",
                StatusCode::SERVICE_UNAVAILABLE,
                "The outcome is not known",
            ),
            Kind::Overloaded => (
                "overloaded",
                StatusCode::SERVICE_UNAVAILABLE,
                "Too much at once",
            ),
            Kind::TooManyJobs => (
                "too-many-jobs",
                StatusCode::TOO_MANY_REQUESTS,
                "Too many jobs",
            ),
            Kind::TooManyScheduled => (
                "too-many-scheduled",
                StatusCode::TOO_MANY_REQUESTS,
                "Too many scheduled messages",
            ),
            Kind::DiskFull => (
                "disk-full",
                StatusCode::INSUFFICIENT_STORAGE,
                "The disk is nearly full",
            ),
            Kind::NotReady => ("not-ready", StatusCode::SERVICE_UNAVAILABLE, "Not ready"),
        }
    }
}

/// What a read was about, for telling which of the two is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    Server,
    Channel,
}

impl Problem {
    pub fn new(kind: Kind, detail: impl Into<Cow<'static, str>>) -> Problem {
        Problem {
            kind,
            detail: detail.into(),
            head: None,
        }
    }

    pub fn bad_request(detail: impl Into<Cow<'static, str>>) -> Problem {
        Problem::new(Kind::BadRequest, detail)
    }

    /// A read that failed.
    pub fn of_read(error: ReadError, subject: Subject) -> Problem {
        match error {
            ReadError::NotFound => match subject {
                Subject::Server => Problem::new(Kind::UnknownServer, "There is no such server."),
                Subject::Channel => Problem::new(
                    Kind::UnknownChannel,
                    "There is no such channel under this server.",
                ),
            },
            ReadError::NoLeader => Problem::new(
                Kind::Unavailable,
                "No leader could be reached in time. Try again.",
            ),
            ReadError::Busy => Problem::new(
                Kind::Overloaded,
                "Too many reads are waiting. Try again a little later.",
            ),
            ReadError::Stopping => Problem::stopping(),
            ReadError::Recovering => Problem::new(
                Kind::Unavailable,
                "This node is recovering after the loss of its disk. Try again, best on another node.",
            ),
            ReadError::Storage(reason) => {
                // What exactly is for the operator; a client cannot do anything with it.
                tracing::error!(%reason, "stored data could not be read");
                Problem::new(Kind::StorageFailed, "The stored data could not be read.")
            }
        }
    }

    /// Something that was still to come was not cancelled; `unknown` if there is no such thing.
    pub fn of_cancel(error: CancelError, unknown: Problem) -> Problem {
        match error {
            CancelError::NotFound => unknown,
            CancelError::Over => Problem::new(
                Kind::JobOver,
                "The job has ended, and its message is in the channel.",
            ),
            CancelError::Write(error) => error.into(),
        }
    }

    pub fn stopping() -> Problem {
        Problem::new(
            Kind::Unavailable,
            "This node is stopping. Try again, best on another node.",
        )
    }

    /// The body of the answer.
    pub fn to_json(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        let kind = self.type_uri();
        crate::delivery::encode::write_json(
            &mut out,
            &Shown {
                kind,
                ..self.shown()
            },
        );
        out
    }

    /// The same for an error frame, whose own `type` is "error": there the problem's is `problem`.
    pub fn frame_fields(&self) -> FrameFields<'_> {
        FrameFields {
            problem: self.type_uri(),
            shown: self.shown(),
        }
    }

    pub fn status(&self) -> StatusCode {
        self.kind.describe().1
    }

    fn type_uri(&self) -> Option<String> {
        Some(format!("/problems/{}", self.kind.describe().0))
    }

    fn shown(&self) -> Shown<'_> {
        let (_, status, title) = self.kind.describe();
        Shown {
            kind: None,
            title,
            status: status.as_u16(),
            detail: &self.detail,
            message: &self.detail,
            outcome: (self.kind == Kind::OutcomeUnknown).then_some("unknown"),
            head: self.head,
        }
    }

    fn retry_after_s(&self) -> Option<u32> {
        let passes = matches!(
            self.status(),
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS
        );
        passes.then_some(RETRY_AFTER_S)
    }
}

/// Field order of a problem. The front end shows `message`.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
    title: &'static str,
    status: u16,
    detail: &'a str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    head: Option<u64>,
}

/// A problem inside an error frame.
#[derive(Debug, Serialize)]
pub struct FrameFields<'a> {
    problem: Option<String>,
    #[serde(flatten)]
    shown: Shown<'a>,
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.to_json()));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if let Some(seconds) = self.retry_after_s() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.kind == Kind::UpgradeRequired {
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        }
        response
    }
}

impl From<WriteError> for Problem {
    fn from(error: WriteError) -> Problem {
        match error {
            WriteError::HeadMismatch { head } => Problem {
                head: Some(head),
                ..Problem::new(
                    Kind::HeadMismatch,
                    format!("The channel's head is {head}; nothing was written."),
                )
            },
            WriteError::KeyReused => Problem::new(
                Kind::KeyReused,
                "This idempotency key was used for another message; nothing was written.",
            ),
            WriteError::NoSuchServer => {
                Problem::new(Kind::UnknownServer, "There is no such server.")
            }
            WriteError::TooManyJobs => Problem::new(
                Kind::TooManyJobs,
                "As many commands of this channel are under way as may be; nothing was written. Try again \
                 when one has been answered, or cancel one.",
            ),
            WriteError::TooManyScheduled => Problem::new(
                Kind::TooManyScheduled,
                "As many messages are scheduled in this channel as may be; nothing was written. Try again \
                 when one has been delivered, or cancel one.",
            ),
            WriteError::NoLeader => Problem::new(
                Kind::Unavailable,
                "No leader could be reached in time; nothing was written. Try again.",
            ),
            WriteError::OutcomeUnknown => Problem::new(
                Kind::OutcomeUnknown,
                "This may or may not have been written. Try again with the same idempotency key.",
            ),
            WriteError::Busy => Problem::new(
                Kind::Overloaded,
                "Too many writes are waiting; nothing was written. Try again a little later.",
            ),
            WriteError::NoRoom => Problem::new(
                Kind::DiskFull,
                "The disk is nearly full; nothing was written.",
            ),
            WriteError::Stopping => Problem::new(
                Kind::Unavailable,
                "This node is stopping; nothing was written. Try again, best on another node.",
            ),
        }
    }
}

impl From<NameError> for Problem {
    fn from(error: NameError) -> Problem {
        match error {
            NameError::Characters { .. }
            | NameError::Bytes { .. }
            | NameError::Control { .. }
            | NameError::Agent
            | NameError::Blank => Problem::bad_request(error.to_string()),
        }
    }
}

impl From<QueryError> for Problem {
    fn from(error: QueryError) -> Problem {
        match error {
            QueryError::NotUtf8
            | QueryError::Repeated { .. }
            | QueryError::Missing { .. }
            | QueryError::Invalid { .. }
            | QueryError::Exclusive { .. } => Problem::bad_request(error.to_string()),
        }
    }
}

impl From<IdError> for Problem {
    fn from(error: IdError) -> Problem {
        match error {
            IdError::Malformed { .. } | IdError::NotUtf8 => Problem::bad_request(error.to_string()),
        }
    }
}

impl From<HeaderError> for Problem {
    fn from(error: HeaderError) -> Problem {
        match error {
            HeaderError::Repeated { .. }
            | HeaderError::NotText { .. }
            | HeaderError::Malformed { .. } => Problem::bad_request(error.to_string()),
        }
    }
}

impl From<BodyError> for Problem {
    fn from(error: BodyError) -> Problem {
        let detail = error.to_string();
        match error {
            BodyError::NotJsonType => Problem::new(Kind::UnsupportedMediaType, detail),
            BodyError::TooLarge { .. } => Problem::new(Kind::TooLarge, detail),
            BodyError::TooSlow => Problem::new(Kind::TooSlow, detail),
            BodyError::CutOff | BodyError::Malformed(_) => Problem::bad_request(detail),
        }
    }
}

impl From<UpgradeError> for Problem {
    fn from(error: UpgradeError) -> Problem {
        let detail = error.to_string();
        match error {
            UpgradeError::NotAsked => Problem::new(Kind::UpgradeRequired, detail),
            UpgradeError::Malformed(_) => Problem::bad_request(detail),
            UpgradeError::TooManySockets => Problem::new(Kind::Overloaded, detail),
            UpgradeError::AfterHead { .. } => Problem::bad_request(detail),
        }
    }
}

impl From<FrameError> for Problem {
    fn from(error: FrameError) -> Problem {
        match error {
            FrameError::Malformed(_) | FrameError::BadReplyTo | FrameError::UnknownType => {
                Problem::bad_request(error.to_string())
            }
            FrameError::Binary => Problem::bad_request(error.to_string()),
        }
    }
}

impl From<ReadError> for Close {
    /// Why a socket that was reading history cannot go on.
    fn from(error: ReadError) -> Close {
        match error {
            ReadError::NotFound => Close::NO_SUCH_CHANNEL,
            ReadError::NoLeader | ReadError::Busy | ReadError::Recovering => Close::TRY_AGAIN,
            ReadError::Stopping => Close::GOING_AWAY,
            ReadError::Storage(reason) => {
                tracing::error!(%reason, "stored data could not be read");
                Close::TRY_AGAIN
            }
        }
    }
}

impl From<Fault> for Option<Close> {
    /// How a socket ends after what came, or did not come, from its client. `None`: there is nobody
    /// left to tell.
    fn from(fault: Fault) -> Option<Close> {
        match fault {
            Fault::Gone => None,
            Fault::Protocol => Some(Close::PROTOCOL),
            Fault::NotUtf8 => Some(Close::NOT_UTF8),
            Fault::TooBig => Some(Close::TOO_BIG),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(problem: &Problem) -> String {
        String::from_utf8(problem.to_json()).unwrap()
    }

    #[test]
    fn golden() {
        assert_eq!(
            text(&Problem::bad_request("The name is short.")),
            "{\"type\":\"/problems/bad-request\",\"title\":\"Bad request\",\"status\":400,\
             \"detail\":\"The name is short.\",\"message\":\"The name is short.\"}"
        );
        let unknown = Problem::from(WriteError::OutcomeUnknown);
        assert!(text(&unknown).ends_with(",\"outcome\":\"unknown\"}"));
        let mismatch = Problem::from(WriteError::HeadMismatch { head: 7 });
        assert!(text(&mismatch).ends_with(",\"head\":7}"));
    }

    #[track_caller]
    fn check(problem: Problem, status: u16, retry: bool) {
        let response = problem.into_response();
        assert_eq!(response.status().as_u16(), status);
        assert_eq!(response.headers().contains_key("retry-after"), retry);
        assert_eq!(
            response.headers()["content-type"],
            "application/problem+json"
        );
    }

    #[test]
    fn statuses() {
        check(WriteError::HeadMismatch { head: 1 }.into(), 412, false);
        check(WriteError::KeyReused.into(), 422, false);
        check(WriteError::NoSuchServer.into(), 404, false);
        check(WriteError::NoLeader.into(), 503, true);
        check(WriteError::OutcomeUnknown.into(), 503, true);
        check(WriteError::Busy.into(), 503, true);
        check(WriteError::NoRoom.into(), 507, false);
        check(WriteError::Stopping.into(), 503, true);
        let read = |error| Problem::of_read(error, Subject::Channel);
        check(read(ReadError::NotFound), 404, false);
        check(read(ReadError::NoLeader), 503, true);
        check(read(ReadError::Busy), 503, true);
        check(read(ReadError::Stopping), 503, true);
        check(read(ReadError::Storage(String::new())), 500, false);
        check(NameError::Blank.into(), 400, false);
        let of_cancel = |error| Problem::of_cancel(error, Problem::new(Kind::UnknownJob, "Gone."));
        check(of_cancel(CancelError::NotFound), 404, false);
        check(of_cancel(CancelError::Over), 409, false);
        check(of_cancel(WriteError::NoLeader.into()), 503, true);
        check(NameError::Agent.into(), 400, false);
        check(WriteError::TooManyJobs.into(), 429, true);
        check(WriteError::TooManyScheduled.into(), 429, true);
        check(BodyError::NotJsonType.into(), 415, false);
        check(BodyError::TooLarge { bytes_max: 1 }.into(), 413, false);
        check(UpgradeError::NotAsked.into(), 426, false);
        check(UpgradeError::TooManySockets.into(), 503, true);
    }
}
