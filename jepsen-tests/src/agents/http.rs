//! As much of HTTP/1.1 as the endpoint needs, by hand: a library would not let it misbehave.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Most bytes of a request's head.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// Most bytes of its body.
const BODY_BYTES_MAX: usize = 16 << 20;

#[derive(Debug)]
pub struct Request {
    /// Names in lower case.
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        headers
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Request> {
        let mut bytes = Vec::new();
        let end = loop {
            if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                break at;
            }
            if bytes.len() > HEAD_BYTES_MAX || stream.read_buf(&mut bytes).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        };
        let mut body = bytes.split_off(end + 4);
        let head = String::from_utf8(bytes).map_err(io::Error::other)?;
        let headers: Vec<(String, String)> = head
            .lines()
            .skip(1)
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let mut request = Request {
            headers,
            body: Vec::new(),
        };
        let length = request.header("content-length");
        let length = length.and_then(|value| value.parse().ok()).unwrap_or(0);
        while body.len() < length && body.len() < BODY_BYTES_MAX {
            if stream.read_buf(&mut body).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        request.body = body;
        Ok(request)
    }
}

/// A whole answer; `more` are header lines, each with its line end.
pub async fn answer(
    stream: &mut (impl AsyncWrite + Unpin),
    status: &str,
    content_type: &str,
    more: &str,
    body: &str,
) -> io::Result<()> {
    let length = body.len();
    let text = format!(
        "HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {length}\r\n\
         connection: close\r\n{more}\r\n{body}"
    );
    stream.write_all(text.as_bytes()).await
}

/// The head of an answer that comes in pieces.
pub async fn begin_stream(stream: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\
                transfer-encoding: chunked\r\nconnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).await
}

/// One piece of it.
pub async fn chunk(stream: &mut (impl AsyncWrite + Unpin), text: &str) -> io::Result<()> {
    let chunk = format!("{:x}\r\n{text}\r\n", text.len());
    stream.write_all(chunk.as_bytes()).await?;
    stream.flush().await
}

/// Its proper end.
pub async fn end_stream(stream: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    stream.write_all(b"0\r\n\r\n").await
}
