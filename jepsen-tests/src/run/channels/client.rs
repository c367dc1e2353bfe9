//! An HTTP client that costs little, for one kind of request: a POST with a JSON body.
//!
//! The load program shares its processors with the nodes that it measures. This client keeps
//! connections open, writes each request in one piece, and reads nothing of an answer but its
//! status, its length and its body. It does not repeat anything by itself.

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// A node closes a connection on which nothing comes for 30 s; one that lay idle for nearly as long
/// is not used again, because its end could cross with the request.
const IDLE_MAX: Duration = Duration::from_secs(20);
/// Idle connections that are kept; as many as can be in use at once.
const IDLE_CONNECTIONS_MAX: usize = super::schedule::IN_FLIGHT_MAX;
/// Answers to posts are short; a longer one is none.
const ANSWER_BYTES_MAX: usize = 1 << 20;
const READ_BYTES: usize = 2_048;
/// The product answers or refuses within 5 s; this leaves room for a slow machine.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(15);

/// Why a request was not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Nothing was sent.
    #[error("no connection: {0}")]
    NotConnected(String),
    /// It may have happened.
    #[error("the connection failed: {0}")]
    Broken(String),
    /// It may have happened.
    #[error("no answer in time")]
    Late,
    #[error("refused with {status}: {body}")]
    Refused { status: u16, body: String },
}

impl Failure {
    /// What it is counted as.
    pub fn label(&self) -> String {
        match self {
            Self::NotConnected(_) => "no connection".to_owned(),
            Self::Broken(_) => "broken connection".to_owned(),
            Self::Late => "late".to_owned(),
            Self::Refused { status, .. } => status.to_string(),
        }
    }

    /// Whether another attempt, perhaps at another node, may succeed.
    pub fn is_curable(&self) -> bool {
        match self {
            Self::NotConnected(_) | Self::Broken(_) | Self::Late => true,
            Self::Refused { status, .. } => matches!(status, 429 | 503),
        }
    }
}

/// One node. Shared by everybody who posts to it.
#[derive(Debug)]
pub struct Client {
    node: u64,
    address: SocketAddr,
    idle: Mutex<Vec<(Connection, Instant)>>,
}

impl Client {
    pub fn new(node: u64, address: SocketAddr) -> Self {
        Self {
            node,
            address,
            idle: Mutex::default(),
        }
    }

    pub fn node(&self) -> u64 {
        self.node
    }

    /// The body of the answer, if its status is 2xx.
    pub async fn post(
        &self,
        target: &str,
        body: &str,
        key: Option<&str>,
        within: Duration,
    ) -> Result<Vec<u8>, Failure> {
        let request = self.request(target, body, key);
        tokio::time::timeout(within, self.exchange(&request))
            .await
            .unwrap_or(Err(Failure::Late))
    }

    async fn exchange(&self, request: &[u8]) -> Result<Vec<u8>, Failure> {
        let mut connection = match self.take_idle() {
            Some(connection) => connection,
            None => Connection::open(self.address).await?,
        };
        let answer = connection.exchange(request).await?;
        if answer.keeps_open {
            self.put_back(connection);
        }
        match answer.status {
            200..=299 => Ok(answer.body),
            status => Err(Failure::Refused {
                status,
                body: String::from_utf8_lossy(&answer.body).into_owned(),
            }),
        }
    }

    fn request(&self, target: &str, body: &str, key: Option<&str>) -> Vec<u8> {
        let key = key.map_or_else(String::new, |key| format!("Idempotency-Key: {key}\r\n"));
        format!(
            "POST {target} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n{key}\r\n{body}",
            self.address,
            body.len()
        )
        .into_bytes()
    }

    /// The one that was used last: the others may then grow old and go.
    fn take_idle(&self) -> Option<Connection> {
        let mut idle = self.idle();
        let (connection, since) = idle.pop()?;
        if since.elapsed() > IDLE_MAX {
            idle.clear();
            return None;
        }
        Some(connection)
    }

    fn put_back(&self, connection: Connection) {
        let mut idle = self.idle();
        if idle.len() < IDLE_CONNECTIONS_MAX {
            idle.push((connection, Instant::now()));
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<(Connection, Instant)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
}

struct Answer {
    status: u16,
    body: Vec<u8>,
    keeps_open: bool,
}

impl Connection {
    async fn open(address: SocketAddr) -> Result<Self, Failure> {
        let stream = TcpStream::connect(address).await;
        let stream = stream.map_err(|error| Failure::NotConnected(error.to_string()))?;
        let set = stream.set_nodelay(true);
        set.map_err(|error| Failure::NotConnected(error.to_string()))?;
        Ok(Self {
            stream,
            received: Vec::with_capacity(READ_BYTES),
        })
    }

    async fn exchange(&mut self, request: &[u8]) -> Result<Answer, Failure> {
        let broken = |error: std::io::Error| Failure::Broken(error.to_string());
        self.received.clear();
        self.stream.write_all(request).await.map_err(broken)?;
        loop {
            if let Some(head) = Head::parse(&self.received).map_err(Failure::Broken)? {
                let end = head.bytes + head.body_bytes;
                if self.received.len() >= end {
                    return Ok(Answer {
                        status: head.status,
                        body: self.received[head.bytes..end].to_vec(),
                        keeps_open: head.keeps_open && self.received.len() == end,
                    });
                }
            }
            if self.received.len() > ANSWER_BYTES_MAX {
                return Err(Failure::Broken("the answer has no end".to_owned()));
            }
            self.received.reserve(READ_BYTES);
            let read = self.stream.read_buf(&mut self.received);
            if read.await.map_err(broken)? == 0 {
                return Err(Failure::Broken("it ended before the answer did".to_owned()));
            }
        }
    }
}

/// What matters of an answer's head.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    /// Of the head, its blank line included.
    bytes: usize,
    body_bytes: usize,
    status: u16,
    keeps_open: bool,
}

impl Head {
    /// None while it is not complete.
    fn parse(received: &[u8]) -> Result<Option<Self>, String> {
        let Some(end) = received.windows(4).position(|four| four == b"\r\n\r\n") else {
            return Ok(None);
        };
        let text = std::str::from_utf8(&received[..end]).map_err(|error| error.to_string())?;
        let mut lines = text.split("\r\n");
        let status = lines.next().and_then(status_of);
        let status = status.ok_or_else(|| format!("not the head of an answer: {text}"))?;
        let mut body_bytes = (status == 204).then_some(0);
        let mut keeps_open = true;
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            if name.eq_ignore_ascii_case("content-length") {
                body_bytes = value.trim().parse().ok();
            } else if name.eq_ignore_ascii_case("connection") {
                keeps_open = !value.trim().eq_ignore_ascii_case("close");
            }
        }
        let body_bytes = body_bytes.ok_or_else(|| format!("an answer without length: {text}"))?;
        Ok(Some(Self {
            bytes: end + 4,
            body_bytes,
            status,
            keeps_open,
        }))
    }
}

fn status_of(line: &str) -> Option<u16> {
    line.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    /// Gives each connection its list of answers, one for each request, then ends it; what was asked
    /// comes back.
    async fn scripted(
        connections: Vec<Vec<&'static str>>,
    ) -> (Client, tokio::task::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = Client::new(1, listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            let mut asked = Vec::new();
            for answers in connections {
                let (mut stream, _) = listener.accept().await.unwrap();
                for answer in answers {
                    let mut request = vec![0; 4_096];
                    let read = stream.read(&mut request).await.unwrap();
                    asked.push(String::from_utf8_lossy(&request[..read]).into_owned());
                    // In two pieces, as a network may deliver it.
                    let (one, two) = answer.split_at(answer.len() / 2);
                    stream.write_all(one.as_bytes()).await.unwrap();
                    stream.flush().await.unwrap();
                    tokio::task::yield_now().await;
                    stream.write_all(two.as_bytes()).await.unwrap();
                }
            }
            asked
        });
        (client, server)
    }

    const CREATED: &str = "HTTP/1.1 201 Created\r\ncontent-length: 2\r\n\r\n{}";

    async fn post(client: &Client) -> Result<Vec<u8>, Failure> {
        client
            .post("/x", "{\"a\":1}", Some("k"), ANSWER_WITHIN)
            .await
    }

    #[tokio::test]
    async fn a_connection_serves_many_requests() {
        let (client, server) = scripted(vec![vec![CREATED, CREATED]]).await;
        assert_eq!(post(&client).await.unwrap(), b"{}");
        post(&client).await.unwrap();
        let asked = server.await.unwrap();
        assert!(asked[0].starts_with("POST /x HTTP/1.1\r\n"), "{}", asked[0]);
        assert!(asked[0].contains("Content-Length: 7\r\n"));
        assert!(asked[0].ends_with("Idempotency-Key: k\r\n\r\n{\"a\":1}"));
        assert_eq!(asked.len(), 2);
    }

    #[tokio::test]
    async fn a_closing_connection_is_not_used_again() {
        let closing = "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\n\
                       Content-Length: 4\r\n\r\nbusy";
        let (client, _server) = scripted(vec![vec![closing], vec![CREATED]]).await;
        let refused = post(&client).await.unwrap_err();
        assert!(refused.is_curable());
        assert_eq!(refused.label(), "503");
        post(&client).await.unwrap();
    }

    #[tokio::test]
    async fn an_end_without_an_answer_is_told_from_no_connection() {
        let (client, server) =
            scripted(vec![vec!["HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"]]).await;
        assert_eq!(
            post(&client).await.unwrap_err().label(),
            "broken connection"
        );
        server.await.unwrap();
        assert_eq!(post(&client).await.unwrap_err().label(), "no connection");
    }

    #[test]
    fn heads_are_read_for_what_matters() {
        let head = |text: &str| Head::parse(text.as_bytes());
        assert_eq!(head("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n"), Ok(None));
        let whole = head("HTTP/1.1 204 No Content\r\nX: y\r\n\r\n").unwrap();
        let whole = whole.unwrap();
        assert_eq!((whole.status, whole.body_bytes), (204, 0));
        assert!(head("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").is_err());
        assert!(head("SSH-2.0\r\n\r\n").is_err());
    }
}
