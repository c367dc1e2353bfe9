//! A client of the server-sent events of a channel, written by hand as `EventSource` would read them.
//!
//! It asks in HTTP/1.0, so that the answer comes without a transfer encoding and ends with the
//! connection. Waiting for an event has a bound.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use super::wire::{ChannelRef, Frame, Kind, Message};

const EVENT_MAX: Duration = Duration::from_secs(20);

/// One event: its data as a frame, and its id if it has one.
#[derive(Debug, Clone)]
pub struct SseEvent {
    pub id: Option<u64>,
    pub frame: Frame,
}

/// An open stream.
pub struct Events {
    lines: BufReader<TcpStream>,
}

impl Events {
    /// Asks for what follows `last_event_id`, or for what is new.
    ///
    /// # Errors
    /// The status of an answer that is not 200, or 0 with the text of what failed.
    pub async fn open(
        address: SocketAddr,
        channel: &ChannelRef,
        last_event_id: Option<u64>,
    ) -> Result<Events, (u16, String)> {
        let opening = async {
            let mut stream = TcpStream::connect(address).await?;
            let path = channel.path();
            let last = last_event_id.map(|id| format!("Last-Event-ID: {id}\r\n"));
            let last = last.unwrap_or_default();
            let request = format!("GET {path}/events HTTP/1.0\r\nHost: {address}\r\n{last}\r\n");
            stream.write_all(request.as_bytes()).await?;
            let mut lines = BufReader::new(stream);
            let mut status = String::new();
            lines.read_line(&mut status).await?;
            let mut head = String::new();
            while lines.read_line(&mut head).await? > 2 {}
            Ok::<_, std::io::Error>((lines, status))
        };
        let opened = tokio::time::timeout(EVENT_MAX, opening).await;
        let opened = opened.map_err(|_| (0, "no answer".to_owned()))?;
        let (lines, status) = opened.map_err(|error| (0, error.to_string()))?;
        let code = status.split(' ').nth(1).and_then(|code| code.parse().ok());
        match code {
            Some(200) => Ok(Events { lines }),
            code => Err((code.unwrap_or(0), status)),
        }
    }

    /// The next event; comments are skipped.
    ///
    /// # Errors
    /// What is wrong with the stream, its end included.
    pub async fn next(&mut self) -> Result<SseEvent, String> {
        let reading = tokio::time::timeout(EVENT_MAX, self.read());
        reading.await.map_err(|_| "no event".to_owned())?
    }

    async fn read(&mut self) -> Result<SseEvent, String> {
        let (mut id, mut data) = (None, String::new());
        loop {
            let mut line = String::new();
            let read = self.lines.read_line(&mut line).await;
            if read.map_err(|error| error.to_string())? == 0 {
                return Err("the stream has ended".to_owned());
            }
            let line = line.trim_end_matches(['\r', '\n']);
            if let Some(value) = line.strip_prefix("id: ") {
                id = Some(value.parse().map_err(|_| format!("an odd id: {value}"))?);
            } else if let Some(value) = line.strip_prefix("data: ") {
                data.push_str(value);
            } else if line.is_empty() && !data.is_empty() {
                let frame = Frame::parse(&data)?;
                return Ok(SseEvent { id, frame });
            }
        }
    }

    /// The next message and its event's id; other events are skipped.
    ///
    /// # Errors
    /// See [`Events::next`].
    pub async fn message(&mut self) -> Result<(u64, Message), String> {
        loop {
            let event = self.next().await?;
            if let Kind::Message(message) = event.frame.kind {
                let id = event.id.ok_or("a message without an id")?;
                return Ok((id, message));
            }
        }
    }
}
