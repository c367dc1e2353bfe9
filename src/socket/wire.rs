//! A WebSocket as the session sees it: text in, encoded frames out, and an end that the client gets
//! to see. The only place that names tungstenite.
//!
//! Invariants: everything handed to [`Wire::send_all`] goes out in one flush; what is read and
//! written is bounded by the sizes below and those of the configuration; a closed socket's client
//! always has the chance to read the close code, since what it still sends is read and thrown away
//! for a moment instead of resetting the connection.

use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::Sink;
use futures_util::SinkExt as _;
use futures_util::StreamExt as _;
use tokio::io::AsyncRead;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWrite;
use tokio::io::AsyncWriteExt as _;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::Utf8Bytes;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::frame::coding::Data;
use tokio_tungstenite::tungstenite::protocol::frame::coding::OpCode;

use super::close::Close;

/// Bytes read at a time. Each idle socket keeps a buffer of this size, and it is zeroed before each read.
const READ_BUFFER_BYTES: usize = 2 << 10;
/// Bytes of frames gathered before they are written without being flushed: above what a session
/// hands over at once, so that one hand-over is one write.
const WRITE_BUFFER_BYTES: usize = 2 * super::session::FLUSH_BYTES_MAX;
/// How long closing may take, the client's part included.
const CLOSE_MAX: Duration = Duration::from_secs(1);
/// Bytes that are read at a time while closing.
const CLOSE_BUFFER_BYTES: usize = 4 << 10;
/// Bytes of a client that are still read and thrown away while closing.
const CLOSE_DISCARD_BYTES_MAX: usize = 4 << 20;

/// See the module.
#[derive(Debug)]
pub struct Wire<S> {
    stream: WebSocketStream<S>,
}

/// What came from the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incoming {
    Text(Text),
    Binary,
    /// A ping, which is answered already, or a pong.
    Sign,
    Closed,
}

/// Valid UTF-8, in the buffer that it arrived in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text(Utf8Bytes);

impl Text {
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

/// Why nothing more can be read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The connection has ended.
    Gone,
    /// What came is not the WebSocket protocol.
    Protocol,
    NotUtf8,
    TooBig,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    /// Takes over a connection on which the upgrade is done and `read` was read beyond it.
    pub async fn new(io: S, read: Vec<u8>, frame_bytes_max: usize) -> Wire<S> {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .write_buffer_size(WRITE_BUFFER_BYTES)
            .max_frame_size(Some(frame_bytes_max))
            .max_message_size(Some(frame_bytes_max));
        let stream = WebSocketStream::from_partially_read(io, read, Role::Server, Some(config));
        Wire {
            stream: stream.await,
        }
    }

    /// The next thing that comes. May be dropped and called again at will.
    pub async fn recv(&mut self) -> Result<Incoming, Fault> {
        match self.stream.next().await {
            Some(Ok(Message::Text(text))) => Ok(Incoming::Text(Text(text))),
            Some(Ok(Message::Binary(_))) => Ok(Incoming::Binary),
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => Ok(Incoming::Sign),
            Some(Ok(Message::Close(_))) | None => Ok(Incoming::Closed),
            Some(Err(error)) => Err(fault(error)),
        }
    }

    /// The next thing if it has come already. Wakes nobody later.
    pub fn try_recv(&mut self) -> Option<Result<Incoming, Fault>> {
        self.recv().now_or_never()
    }

    /// Writes text frames, all in one flush.
    pub async fn send_all(&mut self, frames: &[Bytes]) -> Result<(), Fault> {
        for frame in frames {
            // The bytes are known to be UTF-8: they are JSON that was encoded here, or checked when
            // another node sent them. Saying so as a raw frame saves checking them per socket.
            let text = Frame::message(frame.clone(), OpCode::Data(Data::Text), true);
            self.feed(Message::Frame(text)).await?;
        }
        self.stream.flush().await.map_err(fault)
    }

    /// Asks the client for a sign of life.
    pub async fn ping(&mut self) -> Result<(), Fault> {
        self.feed(Message::Ping(Bytes::new())).await?;
        self.stream.flush().await.map_err(fault)
    }

    /// Finishes a handshake that the client began. Nothing can be sent after it.
    pub async fn closed(&mut self) {
        // Either way the connection is over.
        let _ = tokio::time::timeout(CLOSE_MAX, self.stream.flush()).await;
    }

    /// Tells the client why, and waits a moment for it to go. Nothing can be sent after it.
    pub async fn close(&mut self, close: &Close) {
        let frame = CloseFrame {
            code: CloseCode::from(close.code),
            reason: Utf8Bytes::from(close.reason()),
        };
        let goodbye = async {
            self.stream.send(Message::Close(Some(frame))).await.ok()?;
            let io = self.stream.get_mut();
            // With the end of our direction the client knows that it has everything.
            io.shutdown().await.ok()?;
            // Not in this future: it would be a part of the session's, for as long as that lives.
            let mut buffer = vec![0; CLOSE_BUFFER_BYTES];
            let mut discarded = 0;
            while discarded < CLOSE_DISCARD_BYTES_MAX {
                match io.read(&mut buffer).await {
                    Ok(0) | Err(_) => break,
                    Ok(bytes) => discarded += bytes,
                }
            }
            Some(())
        };
        // Either way the connection is over.
        let _ = tokio::time::timeout(CLOSE_MAX, goodbye).await;
    }

    async fn feed(&mut self, message: Message) -> Result<(), Fault> {
        poll_fn(|context| Pin::new(&mut self.stream).poll_ready(context))
            .await
            .map_err(fault)?;
        Pin::new(&mut self.stream)
            .start_send(message)
            .map_err(fault)
    }
}

fn fault(error: Error) -> Fault {
    match error {
        Error::Utf8(_) => Fault::NotUtf8,
        Error::Capacity(_) => Fault::TooBig,
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => Fault::Gone,
        Error::Protocol(_) => Fault::Protocol,
        _ => Fault::Gone,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::DuplexStream;

    const FRAME_BYTES_MAX: usize = 1_000;

    async fn pair() -> (Wire<DuplexStream>, WebSocketStream<DuplexStream>) {
        let (server, client) = tokio::io::duplex(1 << 16);
        let client = WebSocketStream::from_raw_socket(client, Role::Client, None);
        let server = Wire::new(server, Vec::new(), FRAME_BYTES_MAX);
        tokio::join!(server, client)
    }

    fn code(message: Option<Result<Message, Error>>) -> u16 {
        match message {
            Some(Ok(Message::Close(Some(frame)))) => frame.code.into(),
            other => panic!("no close frame but {other:?}"),
        }
    }

    #[tokio::test]
    async fn text_goes_both_ways() {
        let (mut server, mut client) = pair().await;
        client.send(Message::text("hé")).await.unwrap();
        let Ok(Incoming::Text(text)) = server.recv().await else {
            panic!("no text");
        };
        assert_eq!(text.as_str(), "hé");
        assert_eq!(server.try_recv(), None);
        let frames = [Bytes::from("a"), Bytes::from("b")];
        server.send_all(&frames).await.unwrap();
        assert_eq!(client.next().await.unwrap().unwrap(), Message::text("a"));
        assert_eq!(client.next().await.unwrap().unwrap(), Message::text("b"));
    }

    #[tokio::test]
    async fn a_client_that_sends_on_still_sees_the_close_code() {
        let (mut server, mut client) = pair().await;
        let long = Message::text("x".repeat(FRAME_BYTES_MAX + 1));
        client.send(long).await.unwrap();
        assert_eq!(server.recv().await, Err(Fault::TooBig));
        let closing = tokio::spawn(async move { server.close(&Close::TOO_BIG).await });
        assert_eq!(code(client.next().await), 1009);
        drop(client);
        closing.await.unwrap();
    }

    #[tokio::test]
    async fn invalid_utf8_is_a_fault() {
        let (mut server, mut client) = pair().await;
        let bytes = Bytes::from_static(b"a\xff");
        let frame = Frame::message(bytes, OpCode::Data(Data::Text), true);
        client.send(Message::Frame(frame)).await.unwrap();
        assert_eq!(server.recv().await, Err(Fault::NotUtf8));
        let closing = tokio::spawn(async move { server.close(&Close::NOT_UTF8).await });
        assert_eq!(code(client.next().await), 1007);
        drop(client);
        closing.await.unwrap();
    }

    #[tokio::test]
    async fn a_client_that_leaves_is_answered() {
        let (mut server, mut client) = pair().await;
        client.close(None).await.unwrap();
        assert_eq!(server.recv().await, Ok(Incoming::Closed));
        server.closed().await;
        assert!(matches!(
            client.next().await,
            Some(Ok(Message::Close(_))) | None
        ));
        let (mut server, client) = pair().await;
        drop(client);
        assert_eq!(server.recv().await, Err(Fault::Gone));
    }
}
