//! The life of one socket: one task, one loop, no queue that can grow.
//!
//! Each turn of the loop takes what has come, gathers what is to go out (answers in the order of
//! sends, messages in the order of the channel, events) and writes it in one flush. While as many
//! sends are unanswered as may be, nothing is read: the client's TCP connection fills up and it
//! waits. While the client does not read, nothing is gathered: its cursor stays where it is.
//!
//! Invariants: sends are submitted in the order in which they came; a message goes out only if it
//! follows the cursor; at most `socket_unacked_max` sends are unanswered.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use accord_raft::Channel;
use accord_raft::Draft;
use accord_raft::Pending;
use accord_raft::ReadError;
use accord_raft::machine::Message;
use accord_raft::names::IdempotencyKey;
use accord_raft::names::MessageBody;
use accord_raft::names::Username;
use bytes::Bytes;
use futures_util::FutureExt as _;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::time::Instant;
use uuid::Uuid;

use super::close::Close;
use super::frames;
use super::frames::FrameError;
use super::frames::Parsed;
use super::frames::Presence;
use super::frames::Request;
use super::liveness::Check;
use super::liveness::Liveness;
use super::liveness::RateLimit;
use super::unacked::Answer;
use super::unacked::Sent;
use super::unacked::Unacked;
use super::wire::Fault;
use super::wire::Incoming;
use super::wire::Wire;
use crate::api::problem::Problem;
use crate::app::App;
use crate::app::OpenGuard;
use crate::app::Phase;
use crate::app::Slot;
use crate::delivery::PageRead;
use crate::delivery::Reading;
use crate::delivery::Subscription;
use crate::delivery::encode;
use crate::delivery::encode::MessageView;
use crate::delivery::gapless;
use crate::delivery::read_page;

/// Bytes of frames that are gathered for one flush, if one frame alone is not larger. With the time
/// below it is also the slowest reading that is put up with: about a kilobyte a second.
pub const FLUSH_BYTES_MAX: usize = 32 << 10;
/// How long a flush may take before the client counts as not reading.
const FLUSH_MAX: Duration = Duration::from_secs(30);
/// How long a stopping node waits for the answers to what a socket has sent.
const FINISH_MAX: Duration = Duration::from_millis(1_000);
/// Typing events a second of one socket that are passed on.
const TYPING_PER_SECOND_MAX: u32 = 10;

/// Which frames the two sides speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Each text is a message body.
    Plain,
    /// `accord.v1`.
    Rich,
}

/// See the module.
pub struct Session {
    app: Arc<App>,
    channel: Arc<Channel>,
    username: Username,
    dialect: Dialect,
    /// What it receives; nothing on a socket that only publishes.
    subscription: Option<Subscription>,
    /// History that is being read while the socket is behind what its tail keeps.
    page: Option<PageRead>,
    unacked: Unacked<Pending>,
    out: Vec<Bytes>,
    liveness: Liveness,
    typing: RateLimit,
    _slot: Slot,
    _open: OpenGuard,
}

/// Why the loop ended.
#[derive(Debug)]
enum End {
    /// The client began to close.
    Closed,
    /// The connection is no more.
    Gone,
    Close(Close),
}

impl From<Fault> for End {
    fn from(fault: Fault) -> End {
        Option::from(fault).map_or(End::Gone, End::Close)
    }
}

/// What woke the loop.
enum Event {
    Stopping,
    Late,
    Answer(Answer),
    Page(Result<Vec<Message>, ReadError>),
    News,
    Incoming(Result<Incoming, Fault>),
    Timer,
}

impl Session {
    /// A session that has yet to run. `head` is what its hello says.
    pub fn new(
        app: Arc<App>,
        channel: Arc<Channel>,
        username: Username,
        dialect: Dialect,
        mut subscription: Option<Subscription>,
        head: u64,
        slot: Slot,
    ) -> Session {
        let mut out = Vec::new();
        if dialect == Dialect::Rich {
            out.push(frames::hello(head, app.node.id(), Uuid::now_v7()));
            if let Some(subscription) = &mut subscription {
                out.extend(app.hub.with_events(subscription));
            }
        }
        let now = Instant::now();
        Session {
            unacked: Unacked::new(),
            out,
            liveness: Liveness::new(now),
            typing: RateLimit::new(TYPING_PER_SECOND_MAX, now),
            _slot: slot,
            _open: app.open.enter(),
            app,
            channel,
            username,
            dialect,
            subscription,
            page: None,
        }
    }

    /// Most bytes of a frame from the client. Above the bound on message bodies, so that a message
    /// that is a little too long gets an error and not the end of its socket.
    pub fn frame_bytes_max(&self) -> usize {
        self.app.limits.request_bytes_max
    }

    /// Serves the socket until its end, to be called once. It borrows: what is handed to a future by
    /// value takes up its size twice there.
    pub async fn run<S: AsyncRead + AsyncWrite + Unpin>(&mut self, wire: &mut Wire<S>) {
        self.app.counters.sockets_opened.one();
        self.announce(Presence::Join);
        let end = match self.serve(wire).await {
            Ok(never) => match never {},
            Err(end) => end,
        };
        self.announce(Presence::Leave);
        match end {
            End::Closed => wire.closed().await,
            End::Gone => {}
            End::Close(close) => wire.close(&close).await,
        }
    }

    async fn serve<S>(&mut self, wire: &mut Wire<S>) -> Result<std::convert::Infallible, End>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let unacked_max = self.app.limits.socket_unacked_max;
        let mut phase = self.app.phase.clone();
        // Registered once, not at each turn. If the sender has gone the process is ending too.
        let stopping = phase.wait_for(|phase| *phase >= Phase::Closing).map(drop);
        let mut stopping = pin!(stopping.fuse());
        let mut timer = pin!(tokio::time::sleep_until(self.liveness.due()));
        let mut finish_by: Option<Instant> = None;
        loop {
            let more = self.gather();
            self.write(wire).await?;
            if finish_by.is_some() && self.unacked.is_empty() {
                return Err(End::Close(Close::GOING_AWAY));
            }
            let reading = finish_by.is_none() && self.unacked.len() < unacked_max;
            let event = {
                let (subscription, out) = (&mut self.subscription, &mut self.out);
                // Pinned here and lent from here on: a future that is moved into another one takes up its
                // size twice, and all of this is kept for every idle socket.
                let news = pin!(async {
                    match subscription {
                        Some(subscription) => subscription.changed(out).await,
                        None => std::future::pending().await,
                    }
                });
                let page = pin!(async {
                    match &mut self.page {
                        Some(page) => page.await,
                        None => std::future::pending().await,
                    }
                });
                let late = pin!(async {
                    match finish_by {
                        Some(finish_by) => tokio::time::sleep_until(finish_by).await,
                        None => std::future::pending().await,
                    }
                });
                let event = pin!(async {
                    tokio::select! {
                        biased;
                        () = &mut stopping, if finish_by.is_none() => Event::Stopping,
                        () = late => Event::Late,
                        answer = self.unacked.next() => Event::Answer(answer),
                        page = page => Event::Page(page),
                        () = news => Event::News,
                        incoming = wire.recv(), if reading => Event::Incoming(incoming),
                        () = &mut timer => Event::Timer,
                    }
                });
                // With more to send there is nothing to wait for.
                match more {
                    true => event.now_or_never(),
                    false => Some(event.await),
                }
            };
            match event {
                Some(Event::Stopping) => finish_by = Some(Instant::now() + FINISH_MAX),
                Some(Event::Late) => return Err(End::Close(Close::GOING_AWAY)),
                Some(Event::Answer(answer)) => self.answer(answer),
                Some(Event::Page(page)) => self.take_page(page)?,
                Some(Event::News) | None => {}
                Some(Event::Incoming(incoming)) => self.take(wire, incoming?).await?,
                Some(Event::Timer) => {
                    self.check(wire).await?;
                    timer.as_mut().reset(self.liveness.due());
                }
            }
            // Whatever else is there already goes into the same turn.
            while finish_by.is_none() && self.unacked.len() < unacked_max {
                match wire.try_recv() {
                    Some(incoming) => self.take(wire, incoming?).await?,
                    None => break,
                }
            }
            while let Some(answer) = self.unacked.try_next() {
                self.answer(answer);
            }
        }
    }

    /// Gathers what the client has not got yet, up to what one flush takes. Says whether there is
    /// more at once.
    fn gather(&mut self) -> bool {
        let Some(subscription) = &mut self.subscription else {
            return false;
        };
        subscription.read_events(&mut self.out);
        if self.page.is_some() {
            return false;
        }
        let before = self.out.len();
        let reading = subscription.read(FLUSH_BYTES_MAX, &mut self.out);
        let frames = self.out.len() - before;
        self.app.counters.messages_out.add(frames as u64);
        match reading {
            Reading::Level => false,
            Reading::Advanced(to) => to < subscription.head(),
            Reading::Behind => {
                let cursor = subscription.cursor();
                self.app.counters.catch_up_pages.one();
                self.page = Some(read_page(&self.app, &self.channel, cursor));
                false
            }
        }
    }

    fn take_page(&mut self, page: Result<Vec<Message>, ReadError>) -> Result<(), End> {
        self.page = None;
        let messages = page.map_err(|error| End::Close(error.into()))?;
        let (Some(subscription), Some(first)) = (&mut self.subscription, messages.first()) else {
            return Ok(());
        };
        let cursor = subscription.cursor();
        if first.seq != cursor + 1 {
            return Err(End::Close(Close::gone(first.seq)));
        }
        let frames = encode::frames_of(gapless(&messages));
        self.app.counters.messages_out.add(frames.len() as u64);
        subscription.set_cursor(cursor + frames.len() as u64);
        #[cfg(feature = "planted-bugs")]
        let frames = crate::planted::shifted(frames);
        self.out.extend(frames);
        Ok(())
    }

    async fn write<S>(&mut self, wire: &mut Wire<S>) -> Result<(), End>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        if self.out.is_empty() {
            return Ok(());
        }
        let mut from = 0;
        while from < self.out.len() {
            let to = flush_end(&self.out, from);
            let flushed = wire.send_all(&self.out[from..to]);
            match tokio::time::timeout(FLUSH_MAX, flushed).await {
                Ok(result) => result?,
                Err(_) => {
                    self.app.counters.slow_readers.one();
                    return Err(End::Close(Close::SLOW_READER));
                }
            }
            from = to;
        }
        self.out.clear();
        Ok(())
    }

    async fn take<S>(&mut self, wire: &mut Wire<S>, incoming: Incoming) -> Result<(), End>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        self.liveness.heard(Instant::now());
        match incoming {
            Incoming::Text(text) => {
                self.take_text(text.as_str());
                Ok(())
            }
            Incoming::Binary => {
                let problem = Problem::from(FrameError::Binary);
                self.out.push(frames::error(None, &problem));
                self.app.counters.errors.one();
                self.write(wire).await?;
                Err(End::Close(Close::BINARY))
            }
            Incoming::Sign => Ok(()),
            Incoming::Closed => Err(End::Closed),
        }
    }

    fn take_text(&mut self, text: &str) {
        let parsed = match self.dialect {
            Dialect::Plain => Parsed {
                nonce: None,
                request: Ok(Request::Send {
                    message: text.to_owned(),
                    reply_to: None,
                }),
            },
            Dialect::Rich => frames::parse(text),
        };
        match parsed.request {
            Ok(Request::Send { message, reply_to }) => {
                self.app.counters.messages_in.one();
                match self.draft(parsed.nonce.as_deref(), &message, reply_to) {
                    Ok(draft) => {
                        let pending = self.app.node.submit(&self.channel, draft);
                        let sent = Sent { message, reply_to };
                        self.unacked.waiting(parsed.nonce, sent, pending);
                    }
                    Err(problem) => self.unacked.refused(parsed.nonce, problem),
                }
            }
            Ok(Request::Typing) => self.typing(),
            Ok(Request::Ping) => self.out.push(frames::pong()),
            Err(error) => self.unacked.refused(parsed.nonce, error.into()),
        }
    }

    fn draft(
        &self,
        nonce: Option<&str>,
        message: &str,
        reply_to: Option<Uuid>,
    ) -> Result<Draft, Problem> {
        Ok(Draft {
            id: Uuid::now_v7(),
            username: self.username.clone(),
            body: MessageBody::parse(message, self.app.limits.message_bytes_max)?,
            key: nonce.map(IdempotencyKey::parse).transpose()?,
            expected_head: None,
            reply_to,
            call: self.app.agents.call(message),
        })
    }

    fn answer(&mut self, answer: Answer) {
        let nonce = answer.nonce.as_deref();
        let frame = match &answer.outcome {
            Ok((position, sent)) => {
                self.app.counters.acks.one();
                let view = MessageView {
                    id: position.id,
                    timestamp_ms: position.timestamp_ms,
                    username: self.username.as_str(),
                    message: &sent.message,
                    seq: position.seq,
                    reply_to: sent.reply_to,
                    agent: None,
                };
                frames::ack(nonce, &view)
            }
            Err(problem) => {
                self.app.counters.errors.one();
                frames::error(nonce, problem)
            }
        };
        self.out.push(frame);
    }

    fn typing(&mut self) {
        if self.typing.allows(Instant::now()) {
            let event = frames::typing(self.username.as_str());
            self.app.node.broadcast(&self.channel, event);
        } else {
            self.app.counters.ephemeral_dropped.one();
        }
    }

    /// Tells the others that this user came or went. Only of those who take part in both ways: a
    /// socket that only publishes is no presence, and plain sockets know none.
    fn announce(&self, event: Presence) {
        if self.dialect == Dialect::Rich && self.subscription.is_some() {
            let event = frames::presence(self.username.as_str(), event);
            self.app.node.broadcast(&self.channel, event);
        }
    }

    async fn check<S>(&mut self, wire: &mut Wire<S>) -> Result<(), End>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        match self.liveness.check(Instant::now()) {
            Check::Fine => Ok(()),
            Check::Ping => Ok(wire.ping().await?),
            Check::Silent => {
                self.app.counters.silent_sockets.one();
                Err(End::Close(Close::SILENT))
            }
        }
    }
}

/// Where to end the flush that begins at `from`: at least one frame, then up to the bound.
fn flush_end(frames: &[Bytes], from: usize) -> usize {
    let mut bytes = 0;
    for (index, frame) in frames.iter().enumerate().skip(from) {
        bytes += frame.len();
        if bytes > FLUSH_BYTES_MAX && index > from {
            return index;
        }
    }
    frames.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio::net::TcpStream;

    /// Most bytes of what lives as long as a socket: with tokio's part of a task, 2 KiB.
    const IDLE_BYTES_MAX: usize = 1_900;

    fn size_of_future<F>(
        _: impl FnOnce(&'static mut Session, &'static mut Wire<TcpStream>) -> F,
    ) -> usize {
        size_of::<F>()
    }

    #[test]
    fn an_idle_socket_is_small() {
        let run = size_of_future(|session, wire| session.run(wire));
        let bytes = run + size_of::<Session>() + size_of::<Wire<TcpStream>>();
        assert!(
            bytes <= IDLE_BYTES_MAX,
            "{bytes} bytes, {run} of them the loop"
        );
    }

    proptest! {
        #[test]
        fn flushes_take_everything_in_order_and_are_bounded(
            sizes in prop::collection::vec(0..50_000_usize, 0..20),
        ) {
            let frames: Vec<Bytes> = sizes.iter().map(|size| vec![0; *size].into()).collect();
            let mut from = 0;
            while from < frames.len() {
                let to = flush_end(&frames, from);
                prop_assert!(to > from);
                let bytes: usize = sizes[from..to].iter().sum();
                prop_assert!(bytes <= FLUSH_BYTES_MAX || to == from + 1);
                from = to;
            }
            prop_assert_eq!(from, frames.len());
        }
    }
}
