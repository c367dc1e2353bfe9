//! A small HTTP/1.1 client with a deadline on every request.
//!
//! Paths are sent as they are given, as far as a request line allows: lone
//! percent signs and malformed escapes pass through. For anything that is not
//! HTTP at all there is `raw`.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::de::DeserializeOwned;

/// The product answers or refuses within 5 s; this leaves room for a slow
/// machine and still ends a test that waits for a dead node.
const REQUEST_MAX: Duration = Duration::from_secs(15);

#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    #[error("{method} {url} cannot be sent: {why}")]
    Unsendable {
        method: String,
        url: String,
        why: String,
    },
    #[error("{method} {url} had no answer within {REQUEST_MAX:?}")]
    Late { method: String, url: String },
    /// There was no connection, or it failed, perhaps after the server had acted.
    #[error("{method} {url} failed: {why}")]
    Connection {
        method: String,
        url: String,
        why: String,
        /// False when no connection came about, so that nothing of the request left this machine.
        connected: bool,
    },
    #[error(
        "the body of an answer with status {status} is not what it should be: {why}; it is: {body}"
    )]
    Body {
        status: u16,
        why: String,
        body: String,
    },
}

/// A complete answer.
#[derive(Debug, Clone)]
pub struct Response {
    pub status: u16,
    /// Names in lower case, in the order of arrival.
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
}

impl Response {
    /// The first header of this name (given in lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// The body for a person to read.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json<T: DeserializeOwned>(&self) -> Result<T, HttpError> {
        serde_json::from_slice(&self.body).map_err(|error| HttpError::Body {
            status: self.status,
            why: error.to_string(),
            body: self.text(),
        })
    }
}

/// Cheap to clone; clones share their connections. Belongs to one runtime.
#[derive(Debug, Clone)]
pub struct Http {
    client: Client<HttpConnector, Full<Bytes>>,
}

impl Default for Http {
    fn default() -> Self {
        Self::new()
    }
}

impl Http {
    pub fn new() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Self {
            client: Client::builder(TokioExecutor::new()).build(connector),
        }
    }

    pub async fn send(
        &self,
        method: &str,
        url: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<Response, HttpError> {
        let request = build(method, url, headers, body.into())?;
        let exchange = Box::pin(async {
            let answer = self
                .client
                .request(request)
                .await
                .map_err(|error| connection_error(method, url, &error, !error.is_connect()))?;
            let (head, body) = answer.into_parts();
            let body = body
                .collect()
                .await
                .map_err(|error| connection_error(method, url, &error, true))?
                .to_bytes();
            Ok(Response {
                status: head.status.as_u16(),
                headers: head
                    .headers
                    .iter()
                    .map(|(name, value)| {
                        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
                        (name.as_str().to_owned(), value)
                    })
                    .collect(),
                body,
            })
        });
        tokio::time::timeout(REQUEST_MAX, exchange)
            .await
            .unwrap_or_else(|_| {
                Err(HttpError::Late {
                    method: method.to_owned(),
                    url: url.to_owned(),
                })
            })
    }
}

fn build(
    method: &str,
    url: &str,
    headers: &[(&str, &str)],
    body: Bytes,
) -> Result<Request<Full<Bytes>>, HttpError> {
    let unsendable = |why: String| HttpError::Unsendable {
        method: method.to_owned(),
        url: url.to_owned(),
        why,
    };
    let parsed = Method::from_bytes(method.as_bytes()).map_err(|e| unsendable(e.to_string()))?;
    let mut request = Request::builder().method(parsed).uri(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request
        .body(Full::new(body))
        .map_err(|error| unsendable(error.to_string()))
}

/// The chain of causes, since the outermost error says little.
fn connection_error(
    method: &str,
    url: &str,
    error: &dyn std::error::Error,
    connected: bool,
) -> HttpError {
    let mut why = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        why.push_str(": ");
        why.push_str(&inner.to_string());
        cause = inner.source();
    }
    HttpError::Connection {
        method: method.to_owned(),
        url: url.to_owned(),
        why,
        connected,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// Answers one request with `answer`; gives what was asked.
    async fn one_answer(answer: &'static [u8]) -> (String, tokio::task::JoinHandle<Vec<u8>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut seen = Vec::new();
            while !seen.windows(4).any(|window| window == b"\r\n\r\n") {
                let mut buffer = [0; 1024];
                let read = stream.read(&mut buffer).await.unwrap();
                assert!(read > 0, "the client went away");
                seen.extend_from_slice(&buffer[..read]);
            }
            stream.write_all(answer).await.unwrap();
            seen
        });
        (url, server)
    }

    #[tokio::test]
    async fn odd_escapes_travel_unchanged() {
        let (url, server) = one_answer(b"HTTP/1.1 204 No Content\r\n\r\n").await;
        let path = "/connect?username=100%%20me&x=%zz&y=%";
        let response = Http::new()
            .send("GET", &format!("{url}{path}"), &[("if-match", "\"3\"")], "")
            .await
            .unwrap();
        assert_eq!(response.status, 204);
        let asked = String::from_utf8(server.await.unwrap()).unwrap();
        assert!(
            asked.starts_with(&format!("GET {path} HTTP/1.1\r\n")),
            "{asked}"
        );
        assert!(asked.contains("if-match: \"3\""), "{asked}");
    }

    #[tokio::test]
    async fn headers_and_chunked_bodies_are_read() {
        let (url, _server) = one_answer(
            b"HTTP/1.1 201 Created\r\nLocation: /x\r\nTransfer-Encoding: chunked\r\n\r\n\
              4\r\n[1,2\r\n1\r\n]\r\n0\r\n\r\n",
        )
        .await;
        let response = Http::new().send("POST", &url, &[], "{}").await.unwrap();
        assert_eq!(response.header("location"), Some("/x"));
        assert_eq!(response.json::<Vec<u32>>().unwrap(), [1, 2]);
        assert!(response.json::<String>().is_err());
    }

    #[tokio::test]
    async fn a_connection_that_ends_early_is_an_error() {
        let (url, _server) = one_answer(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc").await;
        let error = Http::new().send("GET", &url, &[], "").await.unwrap_err();
        assert!(
            matches!(
                error,
                HttpError::Connection {
                    connected: true,
                    ..
                }
            ),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_refused_connection_is_told_from_a_broken_one() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let error = Http::new().send("GET", &url, &[], "").await.unwrap_err();
        assert!(
            matches!(
                error,
                HttpError::Connection {
                    connected: false,
                    ..
                }
            ),
            "{error}"
        );
    }
}
