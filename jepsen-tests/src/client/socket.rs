//! A WebSocket client, plain or rich (`accord.v1`).
//!
//! It answers pings, and otherwise does nothing on its own: every frame that
//! the server sends is given to the test. Waiting for a frame has a bound.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::frame::Frame as RawFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::{Error as WsError, Message as WsMessage};

use super::api::percent_encode;
use super::wire::{ChannelRef, Frame, Kind, Message, Problem};

/// The name of the rich protocol.
const RICH: &str = "accord.v1";
/// A node acknowledges or refuses within 5 s; this leaves room for a slow
/// machine and an election.
const FRAME_MAX: Duration = Duration::from_secs(20);
const CONNECT_MAX: Duration = Duration::from_secs(15);

/// Query and protocol of a connection.
#[derive(Debug, Clone)]
pub struct ConnectOptions {
    pub username: String,
    pub rich: bool,
    pub after: Option<u64>,
    /// `receive=false`: publish only.
    pub publish_only: bool,
}

impl ConnectOptions {
    pub fn plain(username: &str) -> Self {
        Self {
            username: username.to_owned(),
            rich: false,
            after: None,
            publish_only: false,
        }
    }

    pub fn rich(username: &str) -> Self {
        Self {
            rich: true,
            ..Self::plain(username)
        }
    }

    pub fn after(self, seq: u64) -> Self {
        Self {
            after: Some(seq),
            ..self
        }
    }

    pub fn publish_only(self) -> Self {
        Self {
            publish_only: true,
            ..self
        }
    }

    /// Path and query.
    pub fn target(&self, channel: &ChannelRef) -> String {
        let mut target = format!(
            "{}?username={}",
            channel.connect(),
            percent_encode(&self.username)
        );
        if let Some(seq) = self.after {
            target.push_str(&format!("&after={seq}"));
        }
        if self.publish_only {
            target.push_str("&receive=false");
        }
        target
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("no connection: {0}")]
    Connection(String),
    /// The server answered the upgrade with something else than 101.
    #[error("the upgrade was refused with {status}: {body}")]
    Refused { status: u16, body: String },
}

#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    #[error("no frame within {FRAME_MAX:?}")]
    Silent,
    #[error("the socket is still open after {FRAME_MAX:?}")]
    Open,
    #[error("the socket closed ({0}) while frames were expected")]
    Closed(Close),
    #[error("the server sent what the contract does not know: {0}")]
    Foreign(String),
    #[error("unexpected frame: {0}")]
    Unexpected(String),
    #[error("the server refused a message: {} {}", .0.status, .0.detail)]
    Refused(Problem),
    #[error("sending failed: {0}")]
    Send(String),
}

/// How a socket ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Close {
    /// `None` when the connection ended without a closing frame, or with one
    /// that holds no code.
    pub code: Option<u16>,
    pub reason: String,
}

impl std::fmt::Display for Close {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.code {
            Some(code) => write!(f, "code {code} {:?}", self.reason),
            None => write!(f, "without a code: {}", self.reason),
        }
    }
}

#[derive(Debug)]
pub enum Event {
    Frame(Box<Frame>),
    Closed(Close),
}

pub struct Socket {
    stream: WebSocketStream<TcpStream>,
    /// Frames that were read while looking for another one.
    waiting: VecDeque<Frame>,
}

impl Socket {
    /// Opens a socket at `target` (path and query, as they are).
    pub async fn connect(
        address: SocketAddr,
        target: &str,
        rich: bool,
    ) -> Result<Self, ConnectError> {
        let connection = |error: String| ConnectError::Connection(error);
        let mut request = format!("ws://{address}{target}")
            .into_client_request()
            .map_err(|error| connection(error.to_string()))?;
        if rich {
            let name = RICH.parse().expect("the protocol's name is a header value");
            request.headers_mut().insert("sec-websocket-protocol", name);
        }
        let handshake = Box::pin(async {
            let stream = TcpStream::connect(address)
                .await
                .map_err(|error| connection(error.to_string()))?;
            stream
                .set_nodelay(true)
                .map_err(|error| connection(error.to_string()))?;
            match tokio_tungstenite::client_async(request, stream).await {
                Ok((stream, _)) => Ok(Self {
                    stream,
                    waiting: VecDeque::new(),
                }),
                Err(WsError::Http(answer)) => Err(ConnectError::Refused {
                    status: answer.status().as_u16(),
                    body: String::from_utf8_lossy(answer.body().as_deref().unwrap_or_default())
                        .into_owned(),
                }),
                Err(error) => Err(connection(error.to_string())),
            }
        });
        tokio::time::timeout(CONNECT_MAX, handshake)
            .await
            .unwrap_or_else(|_| Err(connection(format!("nothing within {CONNECT_MAX:?}"))))
    }

    pub async fn send_text(&mut self, text: &str) -> Result<(), SocketError> {
        self.send_message(WsMessage::text(text)).await
    }

    pub async fn send_binary(&mut self, bytes: &[u8]) -> Result<(), SocketError> {
        self.send_message(WsMessage::binary(Bytes::copy_from_slice(bytes)))
            .await
    }

    /// A text frame that may hold anything, also what is not UTF-8.
    pub async fn send_text_bytes(&mut self, bytes: &[u8]) -> Result<(), SocketError> {
        self.send_piece(OpCode::Data(Data::Text), bytes, true).await
    }

    /// One text message in several frames.
    pub async fn send_in_pieces(&mut self, pieces: &[&[u8]]) -> Result<(), SocketError> {
        for (position, piece) in pieces.iter().enumerate() {
            let opcode = if position == 0 {
                Data::Text
            } else {
                Data::Continue
            };
            let last = position + 1 == pieces.len();
            self.send_piece(OpCode::Data(opcode), piece, last).await?;
        }
        Ok(())
    }

    pub async fn send_json(&mut self, value: &Value) -> Result<(), SocketError> {
        self.send_text(&value.to_string()).await
    }

    /// A rich `send`.
    pub async fn send_rich(&mut self, nonce: &str, text: &str) -> Result<(), SocketError> {
        self.send_json(&json!({ "type": "send", "nonce": nonce, "message": text }))
            .await
    }

    /// Says goodbye; the server's answer comes as `Event::Closed`.
    pub async fn close(&mut self) -> Result<(), SocketError> {
        self.stream
            .close(None)
            .await
            .map_err(|error| SocketError::Send(error.to_string()))
    }

    /// The next frame, or the end.
    pub async fn event(&mut self) -> Result<Event, SocketError> {
        if let Some(frame) = self.waiting.pop_front() {
            return Ok(Event::Frame(Box::new(frame)));
        }
        tokio::time::timeout(FRAME_MAX, self.read_event())
            .await
            .unwrap_or(Err(SocketError::Silent))
    }

    /// The next frame; an end is an error.
    pub async fn frame(&mut self) -> Result<Frame, SocketError> {
        match self.event().await? {
            Event::Frame(frame) => Ok(*frame),
            Event::Closed(close) => Err(SocketError::Closed(close)),
        }
    }

    /// The next frame that `pick` takes; those before it are given to later
    /// calls, in their order.
    pub async fn find<T>(
        &mut self,
        mut pick: impl FnMut(&Frame) -> Option<T>,
    ) -> Result<T, SocketError> {
        for position in 0..self.waiting.len() {
            if let Some(found) = pick(&self.waiting[position]) {
                self.waiting.remove(position);
                return Ok(found);
            }
        }
        loop {
            let read = tokio::time::timeout(FRAME_MAX, self.read_event())
                .await
                .unwrap_or(Err(SocketError::Silent))?;
            match read {
                Event::Frame(frame) => match pick(&frame) {
                    Some(found) => return Ok(found),
                    None => self.waiting.push_back(*frame),
                },
                Event::Closed(close) => return Err(SocketError::Closed(close)),
            }
        }
    }

    /// The next `message` frame; other frames wait for other calls.
    pub async fn message(&mut self) -> Result<Message, SocketError> {
        self.find(|frame| match &frame.kind {
            Kind::Message(message) => Some(message.clone()),
            _ => None,
        })
        .await
    }

    /// The next `message` frames.
    pub async fn messages(&mut self, count: usize) -> Result<Vec<Message>, SocketError> {
        let mut messages = Vec::with_capacity(count);
        while messages.len() < count {
            messages.push(self.message().await?);
        }
        Ok(messages)
    }

    /// The next answer to a send: its message, or the problem as an error.
    pub async fn ack(&mut self) -> Result<Message, SocketError> {
        self.answer()
            .await?
            .map_err(|(_, problem)| SocketError::Refused(problem))
    }

    /// The next `error` frame: its nonce and problem. An ack is an error here.
    pub async fn refusal(&mut self) -> Result<(Option<String>, Problem), SocketError> {
        match self.answer().await? {
            Err(refusal) => Ok(refusal),
            Ok(message) => Err(SocketError::Unexpected(format!(
                "an ack where a refusal was due: {message:?}"
            ))),
        }
    }

    /// The next `ack` or `error` frame.
    pub async fn answer(
        &mut self,
    ) -> Result<Result<Message, (Option<String>, Problem)>, SocketError> {
        self.find(|frame| match &frame.kind {
            Kind::Ack { message, .. } => Some(Ok(message.clone())),
            Kind::Error { nonce, problem } => Some(Err((nonce.clone(), problem.clone()))),
            _ => None,
        })
        .await
    }

    /// Reads to the end, whatever comes before it. The bound holds for all of
    /// it: a socket that goes on talking has not closed.
    pub async fn until_closed(&mut self) -> Result<Close, SocketError> {
        let reading = async {
            loop {
                if let Event::Closed(close) = self.event().await? {
                    return Ok(close);
                }
            }
        };
        tokio::time::timeout(FRAME_MAX, reading)
            .await
            .unwrap_or(Err(SocketError::Open))
    }

    async fn send_piece(
        &mut self,
        opcode: OpCode,
        bytes: &[u8],
        last: bool,
    ) -> Result<(), SocketError> {
        let frame = RawFrame::message(Bytes::copy_from_slice(bytes), opcode, last);
        self.send_message(WsMessage::Frame(frame)).await
    }

    async fn send_message(&mut self, message: WsMessage) -> Result<(), SocketError> {
        tokio::time::timeout(FRAME_MAX, self.stream.send(message))
            .await
            .map_err(|_| SocketError::Silent)?
            .map_err(|error| SocketError::Send(error.to_string()))
    }

    async fn read_event(&mut self) -> Result<Event, SocketError> {
        loop {
            match self.stream.next().await {
                Some(Ok(WsMessage::Text(text))) => {
                    let frame = Frame::parse(text.as_str()).map_err(SocketError::Foreign)?;
                    return Ok(Event::Frame(Box::new(frame)));
                }
                Some(Ok(WsMessage::Close(frame))) => {
                    return Ok(Event::Closed(Close {
                        code: frame.as_ref().map(|frame| u16::from(frame.code)),
                        reason: frame
                            .map(|frame| frame.reason.to_string())
                            .unwrap_or_default(),
                    }));
                }
                // tungstenite answers pings by itself.
                Some(Ok(WsMessage::Ping(_) | WsMessage::Pong(_))) => {}
                Some(Ok(other)) => return Err(SocketError::Foreign(format!("{other:?}"))),
                Some(Err(error)) => return Ok(ended(&error.to_string())),
                None => return Ok(ended("the connection ended")),
            }
        }
    }
}

fn ended(reason: &str) -> Event {
    Event::Closed(Close {
        code: None,
        reason: reason.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// Sends `frames` to one client, then gives back what the client sent until
    /// it says goodbye.
    async fn serving(
        frames: Vec<WsMessage>,
    ) -> (SocketAddr, tokio::task::JoinHandle<Vec<WsMessage>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
            for frame in frames {
                socket.send(frame).await.unwrap();
            }
            let mut seen = Vec::new();
            while let Some(Ok(message)) = socket.next().await {
                seen.push(message);
            }
            seen
        });
        (address, server)
    }

    const MESSAGE: &str =
        r#"{"type":"message","id":"i","seq":1,"timestamp":1,"username":"u","message":"m"}"#;

    #[tokio::test]
    async fn frames_wait_for_the_call_that_wants_them() {
        let ack = MESSAGE.replace("\"message\",\"id\"", "\"ack\",\"id\"");
        let (address, _server) = serving(vec![
            WsMessage::text(MESSAGE),
            WsMessage::text(ack),
            WsMessage::text(r#"{"type":"pong"}"#),
        ])
        .await;
        let mut socket = Socket::connect(address, "/", false).await.unwrap();
        assert_eq!(socket.ack().await.unwrap().seq, 1);
        assert_eq!(socket.message().await.unwrap().seq, 1);
        assert!(matches!(socket.frame().await.unwrap().kind, Kind::Pong));
    }

    #[tokio::test]
    async fn what_is_sent_arrives_as_it_was_meant() {
        let (address, server) = serving(Vec::new()).await;
        let mut socket = Socket::connect(address, "/", false).await.unwrap();
        socket.send_text("one").await.unwrap();
        socket.send_binary(b"two").await.unwrap();
        socket.send_in_pieces(&[b"th", b"re", b"e"]).await.unwrap();
        socket.close().await.unwrap();
        assert_eq!(socket.until_closed().await.unwrap().code, None);
        let seen = server.await.unwrap();
        assert_eq!(seen[0], WsMessage::text("one"));
        assert_eq!(seen[1], WsMessage::binary(b"two".to_vec()));
        assert_eq!(seen[2], WsMessage::text("three"));
    }

    #[tokio::test]
    async fn a_frame_that_is_not_text_leaves_as_it_is() {
        let (address, server) = serving(Vec::new()).await;
        let mut socket = Socket::connect(address, "/", false).await.unwrap();
        socket.send_text_bytes(b"\xff\xfe").await.unwrap();
        // The fake server's tungstenite refuses it, and ends.
        assert!(server.await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_refused_upgrade_shows_status_and_body() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut buffer = [0; 4096];
            assert!(stream.read(&mut buffer).await.unwrap() > 0);
            let answer = b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno";
            stream.write_all(answer).await.unwrap();
        });
        let refused = Socket::connect(address, "/x", true).await.err().unwrap();
        assert!(
            matches!(&refused, ConnectError::Refused { status: 404, .. }),
            "{refused}"
        );
    }

    #[test]
    fn targets_carry_what_was_asked_for() {
        let channel = ChannelRef {
            server: "s".to_owned(),
            channel: "c".to_owned(),
        };
        let options = ConnectOptions::rich("ann é").after(3).publish_only();
        assert_eq!(
            options.target(&channel),
            "/api/servers/s/channels/c/connect?username=ann%20%C3%A9&after=3&receive=false"
        );
    }
}
