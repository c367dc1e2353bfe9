//! Asking a node of the local cluster something over HTTP.

use std::io;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

/// A local node answers at once or is not there.
const ANSWER_MAX: Duration = Duration::from_secs(1);
/// A write waits for a quorum, and the node itself gives up before this.
const WRITE_MAX: Duration = Duration::from_secs(10);
/// Most bytes of an answer that are looked at.
const ANSWER_BYTES_MAX: u64 = 256 << 10;

pub async fn is_ready(api: &str) -> bool {
    get(api, "/readyz")
        .await
        .is_ok_and(|(status, _)| status == 200)
}

/// The status and body of an answer that is not chunked, as none of ours is.
pub async fn get(api: &str, path: &str) -> io::Result<(u16, String)> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {api}\r\nConnection: close\r\n\r\n");
    ask(api, &request, ANSWER_MAX).await
}

/// The same of a request with a JSON body, which may take as long as a write does.
pub async fn post(api: &str, path: &str, body: &str) -> io::Result<(u16, String)> {
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: {api}\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    ask(api, &request, WRITE_MAX).await
}

async fn ask(api: &str, request: &str, within: Duration) -> io::Result<(u16, String)> {
    let answer = tokio::time::timeout(within, exchange(api, request)).await;
    let answer = answer.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    parse(&answer).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

async fn exchange(api: &str, request: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(api).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream
        .take(ANSWER_BYTES_MAX)
        .read_to_string(&mut answer)
        .await?;
    Ok(answer)
}

fn parse(answer: &str) -> Option<(u16, String)> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    Some((status, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
        assert_eq!(parse(answer), Some((200, "{}".to_owned())));
        assert_eq!(parse("HTTP/1.1 2"), None);
        assert_eq!(parse(""), None);
    }
}
