//! Requests to agents: HTTP/1.1, one connection for each, nothing beyond what was asked for.
//!
//! Invariants: a connection goes to the endpoint's host and nowhere else (no redirect is followed, no
//! proxy asked); each step has its time, and giving up a call closes its connection; the caller
//! takes the body in pieces, so how much is kept is its own bound; what the other side sends gets
//! into no log and no error.
//!
//! A connection each: an attempt costs the other side far more than a handshake, and one that was
//! kept open may have died in the meantime, which would be one more way to fail.

use std::sync::Arc;
use std::time::Duration;
use std::time::SystemTime;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use http_body_util::Full;
use hyper::HeaderMap;
use hyper::Request;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::http::HeaderName;
use hyper::http::HeaderValue;
use hyper::http::header;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::RootCertStore;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::ServerName;

use super::config::Timeouts;
use super::endpoint::Endpoint;
use super::retry::Failure;
use super::retry::FailureKind;
use super::retry::retry_after;

#[cfg(test)]
mod tests;

/// Most header lines of an answer.
const HEADERS_MAX: usize = 100;
/// Bytes read ahead; also the longest head of an answer.
const READ_BUFFER_BYTES: usize = 64 << 10;
const USER_AGENT: &str = concat!("accord/", env!("CARGO_PKG_VERSION"));

/// What all calls of a node share.
#[derive(Clone)]
pub struct Client {
    tls: Arc<ClientConfig>,
}

/// An answer that is a success and has a body, which is still to come.
#[derive(Debug)]
pub struct Answer {
    pub headers: HeaderMap,
    body: Incoming,
    idle: Duration,
    _connection: Connection,
}

/// Moves the bytes of one connection, until dropped.
#[derive(Debug)]
struct Connection(JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Client {
    /// Trusts the certificate authorities that this machine trusts.
    pub fn new() -> Client {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        let (known, _) = roots.add_parsable_certificates(found.certs);
        if known == 0 {
            tracing::info!(
                "this machine has no certificate authorities: https agents cannot be reached"
            );
        }
        Client::trusting(roots)
    }

    fn trusting(roots: RootCertStore) -> Client {
        let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider knows the versions that are compiled in")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Client { tls: Arc::new(tls) }
    }

    /// Posts JSON and returns when the head of a success has come. `timeouts.total` is the caller's.
    pub async fn post(
        &self,
        endpoint: &Endpoint,
        timeouts: &Timeouts,
        headers: Vec<(HeaderName, HeaderValue)>,
        body: Bytes,
    ) -> Result<Answer, Failure> {
        let connecting = tokio::time::timeout(timeouts.connect, self.connect(endpoint));
        let (mut sender, connection) = connecting
            .await
            .map_err(|_| timed_out("no connection", timeouts.connect))??;
        let mut request = Request::post(&endpoint.target)
            .header(header::HOST, &endpoint.authority)
            .header(header::USER_AGENT, USER_AGENT)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::CONNECTION, "close")
            .body(Full::new(body))
            .map_err(|_| Failure::new(FailureKind::Internal, "the request cannot be written"))?;
        request.headers_mut().extend(headers);
        let answering = tokio::time::timeout(timeouts.first_byte, sender.send_request(request));
        let response = answering
            .await
            .map_err(|_| timed_out("no answer", timeouts.first_byte))?
            .map_err(|error| broken(&error))?;
        let status = response.status().as_u16();
        let (parts, body) = response.into_parts();
        // 204 and 205 are successes that have nothing to say, and would have nothing the next time.
        if !parts.status.is_success() || matches!(status, 204 | 205) {
            let mut failure = Failure::new(
                FailureKind::Status(status),
                format!("the answer was the status {status}"),
            );
            let asked = parts.headers.get(header::RETRY_AFTER);
            failure.retry_after = asked
                .and_then(|value| value.to_str().ok())
                .and_then(|value| retry_after(value, now()));
            return Err(failure);
        }
        Ok(Answer {
            headers: parts.headers,
            body,
            idle: timeouts.idle,
            _connection: connection,
        })
    }

    async fn connect(
        &self,
        endpoint: &Endpoint,
    ) -> Result<(http1::SendRequest<Full<Bytes>>, Connection), Failure> {
        let unreachable =
            |reason: &str| Failure::new(FailureKind::Connect, format!("no connection: {reason}"));
        let address = (endpoint.host.as_str(), endpoint.port);
        let tcp = TcpStream::connect(address)
            .await
            .map_err(|error| unreachable(&error.kind().to_string()))?;
        // Small writes in both directions, and somebody waits for each.
        let _ = tcp.set_nodelay(true);
        if !endpoint.tls {
            return handshake(tcp).await;
        }
        let name = ServerName::try_from(endpoint.host.clone())
            .map_err(|_| unreachable("the host is no name that a certificate can have"))?;
        let tls = TlsConnector::from(Arc::clone(&self.tls));
        let tls = tls.connect(name, tcp).await.map_err(|error| {
            // Of certificates mostly, which an operator has to see.
            tracing::debug!(%error, host = %endpoint.host, "no TLS with an agent");
            unreachable("TLS failed")
        })?;
        handshake(tls).await
    }
}

async fn handshake<S>(stream: S) -> Result<(http1::SendRequest<Full<Bytes>>, Connection), Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::Builder::new()
        .max_headers(HEADERS_MAX)
        .max_buf_size(READ_BUFFER_BYTES)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| broken(&error))?;
    let moving = tokio::spawn(async move {
        // Its error is that of the request, too.
        let _ = connection.await;
    });
    Ok((sender, Connection(moving)))
}

impl Answer {
    /// The next piece of the body; `None` at its end.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            let frame = tokio::time::timeout(self.idle, self.body.frame());
            let frame = frame
                .await
                .map_err(|_| timed_out("the answer stopped", self.idle))?;
            match frame {
                None => return Ok(None),
                Some(Ok(frame)) => {
                    // Trailers are of no interest.
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
                Some(Err(_)) => {
                    let detail = "the answer was cut off";
                    return Err(Failure::new(FailureKind::Cut, detail));
                }
            }
        }
    }

    /// The whole body, if it has at most so many bytes.
    pub async fn whole(&mut self, bytes_max: usize) -> Result<Vec<u8>, Failure> {
        let mut whole = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            if whole.len() + chunk.len() > bytes_max {
                let detail = format!("the answer has more than {bytes_max} bytes");
                return Err(Failure::new(FailureKind::TooLarge, detail));
            }
            whole.extend_from_slice(&chunk);
        }
        Ok(whole)
    }

    /// The media type, without parameters, in lower case.
    pub fn media_type(&self) -> String {
        let value = self.headers.get(header::CONTENT_TYPE);
        let text = value.and_then(|value| value.to_str().ok()).unwrap_or("");
        let media_type = text.split(';').next().unwrap_or("").trim();
        media_type.to_ascii_lowercase()
    }
}

fn timed_out(what: &str, after: Duration) -> Failure {
    let detail = format!("{what} within {} ms", after.as_millis());
    Failure::new(FailureKind::Timeout, detail)
}

/// A connection that ended, or on which no HTTP is spoken.
fn broken(error: &hyper::Error) -> Failure {
    if error.is_parse() || error.is_parse_too_large() {
        return Failure::new(FailureKind::Garbage, "the answer is not HTTP");
    }
    Failure::new(FailureKind::Cut, "the connection ended before the answer")
}

/// For `Retry-After` with a date, and for signatures.
#[expect(
    clippy::disallowed_methods,
    reason = "the other side's clock is what it is compared with"
)]
pub fn now() -> SystemTime {
    SystemTime::now()
}
