//! Bytes on a TCP connection, for requests that no proper client would send:
//! malformed, cut off in the middle, or not HTTP at all.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::http::Response;

/// A bound on waiting for an answer or for the end of a connection.
const READ_MAX: Duration = Duration::from_secs(20);
/// A bound on what is read: an answer to a bad request is short.
const READ_BYTES_MAX: usize = 4 << 20;

/// What came back from bytes that were sent.
#[derive(Debug)]
pub struct Echo {
    pub received: Vec<u8>,
    /// The server closed or reset the connection, within the bound.
    pub closed: bool,
}

/// Sends `bytes` and reads until the server closes the connection (or the bound
/// is reached). A server that closes before it has read everything is fine.
pub async fn send_and_drain(address: SocketAddr, bytes: &[u8]) -> io::Result<Echo> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    // A reset while writing is an answer too: reading then finds the end.
    let written = stream.write_all(bytes).await;
    let mut received = Vec::new();
    let drained = tokio::time::timeout(READ_MAX, drain(&mut stream, &mut received)).await;
    Ok(Echo {
        received,
        closed: drained.is_ok() || written.is_err(),
    })
}

/// Sends `bytes` and drops the connection at once.
pub async fn send_and_vanish(address: SocketAddr, bytes: &[u8]) -> io::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    stream.write_all(bytes).await?;
    stream.flush().await
}

/// Sends a request as given and reads one answer: its head, and as much body as
/// `content-length` says (or until the end, without one). A 101 has no body.
pub async fn exchange(address: SocketAddr, request: &[u8]) -> io::Result<Response> {
    let work = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        // The server may refuse and close before it has read everything.
        let _ = stream.write_all(request).await;
        read_response(&mut stream).await
    };
    tokio::time::timeout(READ_MAX, work)
        .await
        .unwrap_or_else(|_| Err(io::Error::other("no complete answer in time")))
}

/// The request line and headers that open a WebSocket at `target`.
pub fn upgrade_request(host: SocketAddr, target: &[u8], extra_headers: &str) -> Vec<u8> {
    let mut request = b"GET ".to_vec();
    request.extend_from_slice(target);
    request.extend_from_slice(
        format!(
            " HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             {extra_headers}\r\n"
        )
        .as_bytes(),
    );
    request
}

async fn drain(stream: &mut TcpStream, received: &mut Vec<u8>) {
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(read) if received.len() < READ_BYTES_MAX => {
                received.extend_from_slice(&buffer[..read]);
            }
            Ok(_) => {}
        }
    }
}

async fn read_response(stream: &mut TcpStream) -> io::Result<Response> {
    let mut received = Vec::new();
    let head_end = loop {
        if let Some(at) = find(&received, b"\r\n\r\n") {
            break at;
        }
        if !read_more(stream, &mut received).await? {
            return Err(io::Error::other(format!(
                "the connection ended before an answer: {:?}",
                String::from_utf8_lossy(&received)
            )));
        }
    };
    let (status, headers) = parse_head(&received[..head_end])?;
    let length = headers
        .iter()
        .find(|(name, _)| name == "content-length")
        .and_then(|(_, value)| value.parse::<usize>().ok());
    let body_start = head_end + 4;
    let wanted = if status == 101 { Some(0) } else { length };
    while wanted.is_none_or(|wanted| received.len() < body_start + wanted) {
        if !read_more(stream, &mut received).await? {
            break;
        }
    }
    let body_end = wanted.map_or(received.len(), |wanted| {
        received.len().min(body_start + wanted)
    });
    Ok(Response {
        status,
        headers,
        body: Bytes::copy_from_slice(&received[body_start..body_end]),
    })
}

/// False at the end of the connection.
async fn read_more(stream: &mut TcpStream, received: &mut Vec<u8>) -> io::Result<bool> {
    if received.len() > READ_BYTES_MAX {
        return Err(io::Error::other("the answer is longer than any should be"));
    }
    let mut buffer = [0; 4096];
    let read = match stream.read(&mut buffer).await {
        Ok(read) => read,
        // What came before a reset is still the answer.
        Err(_) if !received.is_empty() => 0,
        Err(error) => return Err(error),
    };
    received.extend_from_slice(&buffer[..read]);
    Ok(read > 0)
}

type Head = (u16, Vec<(String, String)>);

fn parse_head(head: &[u8]) -> io::Result<Head> {
    let text = String::from_utf8_lossy(head);
    let mut lines = text.split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.strip_prefix("HTTP/1."))
        .and_then(|line| line.split(' ').nth(1))
        .and_then(|code| code.parse().ok())
        .ok_or_else(|| io::Error::other(format!("not an HTTP answer: {text:?}")))?;
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    Ok((status, headers))
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    async fn answering(answer: &'static [u8]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut buffer = [0; 4096];
            let read = stream.read(&mut buffer).await.unwrap();
            assert!(read > 0);
            stream.write_all(answer).await.unwrap();
        });
        address
    }

    #[tokio::test]
    async fn an_answer_is_read_up_to_its_length() {
        let address =
            answering(b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\nX-Y:  z \r\n\r\nabcd").await;
        let response = exchange(address, b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        assert_eq!((response.status, response.body.as_ref()), (404, &b"ab"[..]));
        assert_eq!(response.header("x-y"), Some("z"));
    }

    #[tokio::test]
    async fn a_switch_of_protocols_has_no_body() {
        let address = answering(b"HTTP/1.1 101 Switching Protocols\r\n\r\n\x81\x01a").await;
        let request = upgrade_request(address, b"/x?\xff", "");
        assert!(request.starts_with(b"GET /x?\xff HTTP/1.1\r\n"));
        let response = exchange(address, &request).await.unwrap();
        assert_eq!((response.status, response.body.len()), (101, 0));
    }

    #[tokio::test]
    async fn the_end_of_a_connection_is_seen() {
        let address = answering(b"no").await;
        let echo = send_and_drain(address, b"\x00\x01").await.unwrap();
        assert!(echo.closed);
        assert_eq!(echo.received, b"no");
        assert!(
            exchange(answering(b"junk\r\n\r\n").await, b"x")
                .await
                .is_err()
        );
    }
}
