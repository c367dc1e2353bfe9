//! The one place that says what an answer, or its absence, proves about an operation.
//!
//! Invariant: *fail* is claimed only where the product promises that nothing happened or where
//! nothing was sent. Everything else that is not a success is *info*: to call an unknown outcome a
//! failure would make the checker report anomalies that are none.

use crate::client::http::{HttpError, Response};
use crate::client::wire::Problem;
use crate::history::Outcome;

/// What is known about an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Certainty {
    Ok,
    /// It did not happen, and never will.
    Fail,
    /// It may have happened, or may still happen.
    Info,
}

/// What a status proves; `problem` is the answer's body, if it was one.
pub fn of_answer(status: u16, problem: Option<&Problem>) -> Certainty {
    match status {
        200..=299 => Certainty::Ok,
        // Whatever the status: a node that says that it does not know is believed.
        _ if problem.is_some_and(Problem::outcome_unknown) => Certainty::Info,
        400 | 404 | 409 | 412 | 413 | 422 | 429 | 507 => Certainty::Fail,
        // Without a problem it is not the product that speaks, and nothing is promised.
        503 if problem.is_some() => Certainty::Fail,
        _ => Certainty::Info,
    }
}

/// What an exchange that brought no answer proves.
pub fn of_error(error: &HttpError) -> Certainty {
    match error {
        HttpError::Unsendable { .. }
        | HttpError::Connection {
            connected: false, ..
        } => Certainty::Fail,
        HttpError::Late { .. } | HttpError::Connection { .. } | HttpError::Body { .. } => {
            Certainty::Info
        }
    }
}

/// The outcome of an operation whose answer is no success.
pub fn refused(status: u16, problem: Option<&Problem>, text: &str) -> Outcome {
    let why = problem.map_or_else(|| text.to_owned(), |problem| problem.detail.clone());
    match of_answer(status, problem) {
        Certainty::Fail => Outcome::Fail {
            status: Some(status),
            why,
        },
        // A success whose content could not be read happened all the same, but cannot be used.
        Certainty::Ok | Certainty::Info => info(Some(status), why),
    }
}

/// As [`refused`], of an answer over HTTP.
pub fn refused_http(response: &Response) -> Outcome {
    let problem = response.json::<Problem>().ok();
    refused(response.status, problem.as_ref(), &response.text())
}

/// The outcome of an operation that brought no answer.
pub fn unanswered(error: &HttpError) -> Outcome {
    let why = error.to_string();
    match of_error(error) {
        Certainty::Fail => Outcome::Fail { status: None, why },
        Certainty::Ok | Certainty::Info => info(None, why),
    }
}

pub fn info(status: Option<u16>, why: impl Into<String>) -> Outcome {
    Outcome::Info {
        status,
        why: why.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(status: u16, outcome: Option<&str>) -> Problem {
        Problem {
            kind: "about:blank".to_owned(),
            title: "t".to_owned(),
            status,
            detail: "d".to_owned(),
            message: "d".to_owned(),
            outcome: outcome.map(str::to_owned),
        }
    }

    #[test]
    fn a_success_is_ok() {
        for status in [200, 201, 204] {
            assert_eq!(of_answer(status, None), Certainty::Ok);
        }
    }

    #[test]
    fn refusals_that_the_contract_knows_are_failures() {
        for status in [400, 404, 409, 412, 413, 422, 429, 507] {
            assert_eq!(of_answer(status, None), Certainty::Fail, "{status}");
            let body = problem(status, None);
            assert_eq!(of_answer(status, Some(&body)), Certainty::Fail, "{status}");
        }
        assert_eq!(of_answer(503, Some(&problem(503, None))), Certainty::Fail);
    }

    #[test]
    fn what_the_node_does_not_know_nobody_knows() {
        for status in [400, 409, 429, 503, 507] {
            let body = problem(status, Some("unknown"));
            assert_eq!(of_answer(status, Some(&body)), Certainty::Info, "{status}");
        }
    }

    #[test]
    fn statuses_that_promise_nothing_are_unknown() {
        for status in [100, 302, 401, 405, 408, 415, 500, 502, 503, 504] {
            assert_eq!(of_answer(status, None), Certainty::Info, "{status}");
        }
        assert_eq!(of_answer(500, Some(&problem(500, None))), Certainty::Info);
    }

    #[test]
    fn only_what_was_never_sent_failed_without_an_answer() {
        let (method, url, why) = (String::new(), String::new(), String::new());
        let connection = |connected| HttpError::Connection {
            method: method.clone(),
            url: url.clone(),
            why: why.clone(),
            connected,
        };
        assert_eq!(of_error(&connection(false)), Certainty::Fail);
        assert_eq!(of_error(&connection(true)), Certainty::Info);
        let late = HttpError::Late {
            method: method.clone(),
            url: url.clone(),
        };
        assert_eq!(of_error(&late), Certainty::Info);
        let body = HttpError::Body {
            status: 201,
            why: why.clone(),
            body: String::new(),
        };
        assert_eq!(of_error(&body), Certainty::Info);
    }

    #[test]
    fn an_unreadable_success_is_not_claimed_as_a_failure() {
        assert!(matches!(
            refused(201, None, "gibberish"),
            Outcome::Info {
                status: Some(201),
                ..
            }
        ));
    }
}
