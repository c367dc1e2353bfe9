//! `/api/servers/{server}/channels/{channel}/events`: the stream of a rich socket, for clients
//! without WebSockets, as server-sent events.
//!
//! Each event's data is a frame as a rich socket gets it. Messages have their seq as the event's id,
//! so that a browser which reconnects asks for what follows by itself (`Last-Event-ID`); everything
//! else has none.
//!
//! Invariants: the connection is a cursor on the channel's tail and has no queue; the next piece is
//! made when the last one has been written, so a slow reader holds up only itself, and one that
//! does not read is ended by the listener; at most [`EVENT_STREAMS_MAX`] run.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use accord_raft::Channel;
use accord_raft::ReadError;
use accord_raft::machine::Message;
use axum::body::Body;
use axum::extract::RawQuery;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::HeaderValue;
use axum::http::header;
use axum::response::Response;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream;
use tokio::sync::OwnedSemaphorePermit;
use uuid::Uuid;

use super::extract;
use super::extract::ChannelIds;
use super::problem::Kind;
use super::problem::Problem;
use super::problem::Subject;
use super::query::Query;
use crate::app::App;
use crate::app::Phase;
use crate::delivery::PageRead;
use crate::delivery::Reading;
use crate::delivery::Subscription;
use crate::delivery::encode;
use crate::delivery::gapless;
use crate::delivery::read_page;
use crate::socket;
use crate::socket::frames;

/// Most event streams on this node: half of the connections that may be open besides sockets.
pub const EVENT_STREAMS_MAX: usize = 2_048;
/// Bytes of frames in one piece of the answer, if one frame alone is not larger.
const PIECE_BYTES_MAX: usize = 32 << 10;
/// A comment is sent when nothing else was for so long: below what proxies wait.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// What a browser is told to wait before it reconnects, in milliseconds.
const RETRY_MS: u32 = 1_000;

/// `GET …/events?after=`, or with `Last-Event-ID`, which wins: a browser repeats the query of its
/// first request, but the header says what it has seen since.
pub async fn stream(
    State(app): State<Arc<App>>,
    ids: ChannelIds,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let asked = Query::parse(query.as_deref())?.seq("after")?;
    let after = extract::last_event_id(&headers)?.or(asked);
    if app.phase() != Phase::Running {
        return Err(Problem::stopping());
    }
    let of_read = |error| Problem::of_read(error, Subject::Channel);
    let channel = app.node.channel(ids.server, ids.channel).await;
    let channel = channel.map_err(of_read)?;
    let place = app.event_streams.clone().try_acquire_owned().map_err(|_| {
        let detail = "This node has as many event streams as it may. Try another node.";
        Problem::new(Kind::Overloaded, detail)
    })?;
    let (mut subscription, head) = socket::subscribe(&app, &channel, after).await?;
    let mut out = Out::default();
    out.begin(&frames::hello(head, app.node.id(), Uuid::now_v7()));
    for said in app.hub.with_events(&mut subscription) {
        out.event(&said, None);
    }
    let mut events = Events {
        app,
        channel,
        subscription,
        page: None,
        out,
        is_over: false,
        _place: place,
    };
    // What retention has removed can still be said with a status now.
    events.first_page().await?;
    let pieces = stream::unfold(events, |mut events| async {
        let piece = events.next_piece().await?;
        Some((Ok::<_, std::convert::Infallible>(piece), events))
    });
    let mut response = Response::new(Body::from_stream(pieces.boxed()));
    let headers = response.headers_mut();
    let media_type = HeaderValue::from_static("text/event-stream");
    headers.insert(header::CONTENT_TYPE, media_type);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// One client's stream.
struct Events {
    app: Arc<App>,
    channel: Arc<Channel>,
    subscription: Subscription,
    /// History on its way while the stream is behind what its tail keeps.
    page: Option<PageRead>,
    out: Out,
    is_over: bool,
    _place: OwnedSemaphorePermit,
}

impl Events {
    /// Begins with history if that is needed.
    async fn first_page(&mut self) -> Result<(), Problem> {
        if self.read() != Reading::Behind {
            return Ok(());
        }
        let of_read = |error| Problem::of_read(error, Subject::Channel);
        let messages = self.ask_page().await.map_err(of_read)?;
        self.take_page(&messages).map_err(|oldest| {
            let detail =
                format!("The messages after this one are gone; the oldest kept is {oldest}.");
            Problem::new(Kind::Gone, detail)
        })
    }

    /// What is sent next: everything that is there, up to a bound. `None` at the end.
    async fn next_piece(&mut self) -> Option<Bytes> {
        let mut phase = self.app.phase.clone();
        while self.out.is_empty() && !self.is_over {
            self.events();
            if self.page.is_none() && self.read() == Reading::Behind {
                self.page = Some(self.ask_page());
            }
            if !self.out.is_empty() {
                break;
            }
            let mut came = Vec::new();
            tokio::select! {
                biased;
                _ = phase.wait_for(|phase| *phase >= Phase::Closing) => self.is_over = true,
                page = ready(&mut self.page) => self.took_page(page),
                () = self.subscription.changed(&mut came) => {}
                () = pause(KEEP_ALIVE) => self.out.comment(),
            }
            for event in came {
                self.out.event(&event, None);
            }
        }
        self.out.take()
    }

    /// Events that wait.
    fn events(&mut self) {
        let mut events = Vec::new();
        self.subscription.read_events(&mut events);
        for event in events {
            self.out.event(&event, None);
        }
    }

    /// Messages that the tail still has.
    fn read(&mut self) -> Reading {
        let mut frames = Vec::new();
        let before = self.subscription.cursor();
        let reading = self.subscription.read(PIECE_BYTES_MAX, &mut frames);
        self.out.messages(before, frames);
        reading
    }

    fn ask_page(&mut self) -> PageRead {
        self.app.counters.catch_up_pages.one();
        read_page(&self.app, &self.channel, self.subscription.cursor())
    }

    fn took_page(&mut self, page: Result<Vec<Message>, ReadError>) {
        self.page = None;
        let problem = match page {
            Ok(messages) => match self.take_page(&messages) {
                Ok(()) => return,
                Err(oldest) => {
                    let detail = format!("The oldest message kept is {oldest}.");
                    Problem::new(Kind::Gone, detail)
                }
            },
            Err(error) => Problem::of_read(error, Subject::Channel),
        };
        self.out.event(&frames::error(None, &problem), None);
        self.is_over = true;
    }

    /// `Err` with the oldest seq that is kept if what follows the cursor is not.
    fn take_page(&mut self, messages: &[Message]) -> Result<(), u64> {
        let cursor = self.subscription.cursor();
        let Some(first) = messages.first() else {
            return Ok(());
        };
        if first.seq != cursor + 1 {
            return Err(first.seq);
        }
        let frames = encode::frames_of(gapless(messages));
        self.subscription.set_cursor(cursor + frames.len() as u64);
        self.out.messages(cursor, frames);
        Ok(())
    }
}

/// The page when it has come; for ever if none was asked for.
async fn ready(page: &mut Option<PageRead>) -> Result<Vec<Message>, ReadError> {
    match page {
        Some(page) => page.await,
        None => std::future::pending().await,
    }
}

#[expect(clippy::disallowed_methods, reason = "silence is what it waits for")]
async fn pause(time: Duration) {
    tokio::time::sleep(time).await;
}

/// Frames as server-sent events, in pieces.
#[derive(Debug, Default)]
struct Out(VecDeque<Bytes>);

impl Out {
    fn begin(&mut self, hello: &Bytes) {
        self.0.push_back(format!("retry: {RETRY_MS}\n\n").into());
        self.event(hello, None);
    }

    /// Frames are JSON on one line, as the format needs.
    fn event(&mut self, frame: &Bytes, seq: Option<u64>) {
        let mut event = Vec::with_capacity(frame.len() + 32);
        if let Some(seq) = seq {
            event.extend_from_slice(format!("id: {seq}\n").as_bytes());
        }
        event.extend_from_slice(b"data: ");
        event.extend_from_slice(frame);
        event.extend_from_slice(b"\n\n");
        self.0.push_back(event.into());
    }

    fn messages(&mut self, before: u64, frames: Vec<Bytes>) {
        for (seq, frame) in (before + 1..).zip(frames) {
            self.event(&frame, Some(seq));
        }
    }

    fn comment(&mut self) {
        self.0.push_back(Bytes::from_static(b":\n\n"));
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// At least one event if there is any, then up to the bound.
    fn take(&mut self) -> Option<Bytes> {
        let mut piece = Vec::new();
        while let Some(event) = self.0.front() {
            if !piece.is_empty() && piece.len() + event.len() > PIECE_BYTES_MAX {
                break;
            }
            piece.extend_from_slice(event);
            self.0.pop_front();
        }
        (!piece.is_empty()).then(|| piece.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden() {
        let mut out = Out::default();
        out.begin(&Bytes::from("{\"type\":\"hello\"}"));
        out.event(&Bytes::from("{\"type\":\"typing\"}"), None);
        out.messages(6, vec![Bytes::from("{\"a\":1}"), Bytes::from("{\"b\":2}")]);
        out.comment();
        let text = out.take().unwrap();
        assert_eq!(
            std::str::from_utf8(&text).unwrap(),
            "retry: 1000\n\ndata: {\"type\":\"hello\"}\n\ndata: {\"type\":\"typing\"}\n\n\
             id: 7\ndata: {\"a\":1}\n\nid: 8\ndata: {\"b\":2}\n\n:\n\n"
        );
        assert!(out.is_empty() && out.take().is_none());
    }

    #[test]
    fn pieces_are_bounded_but_never_empty() {
        let mut out = Out::default();
        let large = Bytes::from(vec![b'x'; PIECE_BYTES_MAX]);
        out.messages(0, vec![large.clone(), large]);
        assert!(out.take().unwrap().starts_with(b"id: 1\n"));
        assert!(out.take().unwrap().starts_with(b"id: 2\n"));
        assert!(out.take().is_none());
    }
}
