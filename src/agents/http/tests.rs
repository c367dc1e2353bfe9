//! Against a server on loopback that says one thing and ends.

use std::net::SocketAddr;

use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use super::*;

/// Of 127.0.0.1 and localhost, signed by itself, until 2126; its key protects nothing.
const CERTIFICATE: &[u8] = include_bytes!("loopback.cert.der");
const KEY: &[u8] = include_bytes!("loopback.key.der");

const TIMEOUTS: Timeouts = Timeouts {
    total: Duration::from_secs(10),
    connect: Duration::from_secs(10),
    first_byte: Duration::from_secs(10),
    idle: Duration::from_secs(10),
};

fn without_roots() -> Client {
    Client::trusting(RootCertStore::empty())
}

fn with_roots() -> Client {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(CERTIFICATE)).unwrap();
    Client::trusting(roots)
}

/// Answers one connection with `text`, whatever it asks.
async fn server(text: &'static str, tls: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        if !tls {
            return say(stream, text).await;
        }
        let key = PrivateKeyDer::try_from(KEY).unwrap();
        let provider = Arc::new(ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![CertificateDer::from(CERTIFICATE)], key)
            .unwrap();
        // It fails where the client does not trust the certificate.
        if let Ok(stream) = TlsAcceptor::from(Arc::new(config)).accept(stream).await {
            say(stream, text).await;
        }
    });
    address
}

async fn say(mut stream: impl AsyncRead + AsyncWrite + Unpin, text: &str) {
    let mut request = Vec::new();
    while !request.ends_with(b"{}") {
        if stream.read_buf(&mut request).await.unwrap_or(0) == 0 {
            return;
        }
    }
    // A client that has seen enough may have gone.
    let _ = stream.write_all(text.as_bytes()).await;
    let _ = stream.shutdown().await;
}

async fn post(client: &Client, url: &str) -> Result<Answer, Failure> {
    let endpoint = Endpoint::parse(url).unwrap();
    client
        .post(&endpoint, &TIMEOUTS, Vec::new(), Bytes::from_static(b"{}"))
        .await
}

async fn failure(text: &'static str) -> Failure {
    let address = server(text, false).await;
    let answer = post(&without_roots(), &format!("http://{address}/")).await;
    match answer {
        Err(failure) => failure,
        Ok(mut answer) => answer.whole(10).await.expect_err("it should fail"),
    }
}

#[tokio::test]
async fn tls_is_spoken_with_those_who_are_trusted() {
    let text = "HTTP/1.1 200 OK\r\ncontent-type: Text/Plain; x=y\r\ncontent-length: 2\r\n\r\nhi";
    let address = server(text, true).await;
    let mut answer = post(&with_roots(), &format!("https://{address}/"))
        .await
        .unwrap();
    assert_eq!(answer.media_type(), "text/plain");
    assert_eq!(answer.whole(2).await.unwrap(), b"hi");

    let port = server(text, true).await.port();
    let named = post(&with_roots(), &format!("https://localhost:{port}/")).await;
    assert!(named.is_ok());

    let address = server(text, true).await;
    let untrusted = post(&without_roots(), &format!("https://{address}/")).await;
    assert_eq!(untrusted.unwrap_err().kind, FailureKind::Connect);
}

#[tokio::test]
async fn redirects_are_failures() {
    let found = failure("HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\n\r\n").await;
    assert_eq!(found.kind, FailureKind::Status(302));
    assert!(!found.kind.is_passing());
}

#[tokio::test]
async fn an_answer_that_is_none_is_final() {
    let found = failure("HTTP/1.1 204 No Content\r\n\r\n").await;
    assert_eq!(found.kind, FailureKind::Status(204));
    assert!(!found.kind.is_passing());
}

#[tokio::test]
async fn what_a_busy_server_asks_for_is_told() {
    let busy = failure("HTTP/1.1 503 Later\r\nretry-after: 7\r\n\r\n").await;
    assert_eq!(busy.kind, FailureKind::Status(503));
    assert_eq!(busy.retry_after, Some(Duration::from_secs(7)));
}

#[tokio::test]
async fn broken_answers_are_told_apart() {
    assert_eq!(failure("").await.kind, FailureKind::Cut);
    let noise = failure("220 mail\r\n\r\n").await;
    assert_eq!(noise.kind, FailureKind::Garbage);
    let cut = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nabc";
    assert_eq!(failure(cut).await.kind, FailureKind::Cut);
    let long = "HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\n01234567890";
    assert_eq!(failure(long).await.kind, FailureKind::TooLarge);
}
