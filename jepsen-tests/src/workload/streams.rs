//! Subscribers: each follows one channel for the whole run, over one connection after the other.
//!
//! Those that stay leave a connection only when it breaks; those that hop leave it at seeded times
//! and resume on another node. All resume after the last message that they saw, and all of them
//! are still there when the cluster has been healed, so that it shows whether they reach the head.

use std::time::Duration;

use tokio::time::Instant;

use super::context::{Context, NodeAddress};
use super::rest::seen;
use super::{Client, Phase, run_done};
use crate::client::socket::{Close, ConnectError, ConnectOptions, Event, Socket, SocketError};
use crate::client::wire::{Kind, Message};
use crate::history::recorder::Opening;
use crate::history::{ChannelIx, Recorder, StreamEnd, Via};
use crate::rng::Rng;

/// How long an upgrade may take before the client tries elsewhere.
const CONNECT_WITHIN: Duration = Duration::from_secs(6);
/// Pause before a new attempt after a failed connection.
const RECONNECT_PAUSE: Duration = Duration::from_millis(250);
/// Shortest and longest stay of a hopper on one node.
const STAY_MS: (u64, u64) = (800, 6_000);

/// What kind of subscriber a client is, by its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Habit {
    via: Via,
    hops: bool,
    /// Whether it asks for the channel from its beginning, rather than for what is new.
    from_start: bool,
}

impl Habit {
    fn of(index: u32) -> Self {
        let via = match index % 2 {
            0 => Via::PlainSocket,
            _ => Via::RichSocket,
        };
        Self {
            via,
            hops: index % 4 >= 2,
            from_start: index % 8 >= 3,
        }
    }
}

pub async fn run(mut client: Client) {
    let context = client.context.clone();
    let habit = Habit::of(client.index);
    let subscriber = context.recorder.new_subscriber();
    let channel = context.pick_channel(&mut client.rng);
    let mut after = habit.from_start.then_some(0);
    let mut node = context.pick_node(&mut client.rng);
    let mut phase = context.phase.clone();
    while *phase.borrow() != Phase::Done {
        let options = options(&client.name, habit.via, after);
        let opening = Opening {
            subscriber,
            node: node.id,
            channel,
            via: habit.via,
            after,
        };
        let mut log = StreamLog::open(&context.recorder, opening);
        let end = match connect(&context, node, channel, &options).await {
            Ok(socket) => {
                let leave_at = habit.hops.then(|| Instant::now() + stay(&mut client.rng));
                follow(&context, &mut log, socket, leave_at).await
            }
            Err(why) => StreamEnd::Broken { why },
        };
        after = log.resume_after();
        log.end(end);
        node = context.pick_other(&mut client.rng, node.id);
        tokio::select! {
            () = run_done(&mut phase) => {}
            () = tokio::time::sleep_until(Instant::now() + RECONNECT_PAUSE) => {}
        }
    }
}

/// Reads until the client leaves, the connection ends, or the run does.
async fn follow(
    context: &Context,
    log: &mut StreamLog,
    mut socket: Socket,
    leave_at: Option<Instant>,
) -> StreamEnd {
    log.connected();
    let mut phase = context.phase.clone();
    loop {
        // Once the load has ended it stays where it is.
        let hops = *phase.borrow() == Phase::Running;
        let hop = async {
            match leave_at {
                Some(at) if hops => tokio::time::sleep_until(at).await,
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = run_done(&mut phase) => return StreamEnd::Open,
            event = socket.event() => match event {
                Ok(Event::Frame(frame)) => match frame.kind {
                    Kind::Message(message) => {
                        context.reached(log.opening.subscriber, log.opening.channel, message.seq);
                        log.event(message);
                    }
                    Kind::Hello { seq } => {
                        if !log.hello(seq) {
                            context.odd("a socket was greeted twice".to_owned());
                        }
                    }
                    Kind::Presence | Kind::Typing | Kind::Pong | Kind::AgentDelta(_) => {}
                    Kind::Ack { .. } | Kind::Error { .. } | Kind::Other(_) => {
                        context.odd(format!("a subscriber got {}", frame.raw));
                    }
                },
                Ok(Event::Closed(close)) => return ended(close),
                Err(SocketError::Silent) => {}
                Err(error) => {
                    context.odd(format!("a subscriber on node {}: {error}", log.opening.node));
                    return StreamEnd::Broken { why: error.to_string() };
                }
            },
            () = hop => return StreamEnd::Left,
        }
    }
}

/// Opens a socket; an error says why there is none.
pub async fn connect(
    context: &Context,
    node: NodeAddress,
    channel: ChannelIx,
    options: &ConnectOptions,
) -> Result<Socket, String> {
    let target = options.target(context.channel(channel));
    let opening = Socket::connect(node.api, &target, options.rich);
    match tokio::time::timeout(CONNECT_WITHIN, opening).await {
        Ok(Ok(socket)) => Ok(socket),
        Ok(Err(error)) => {
            // A node that is busy or alone may refuse. That the channel is unknown or shorter
            // than what the client has seen is news of a loss.
            if let ConnectError::Refused { status, .. } = &error
                && !matches!(status, 429 | 503)
            {
                context.odd(format!("node {}: {target}: {error}", node.id));
            }
            Err(error.to_string())
        }
        Err(_) => {
            context.shun(node.id);
            Err(format!("no upgrade within {CONNECT_WITHIN:?}"))
        }
    }
}

pub fn options(user: &str, via: Via, after: Option<u64>) -> ConnectOptions {
    let options = match via {
        Via::RichSocket => ConnectOptions::rich(user),
        Via::PlainSocket | Via::Rest => ConnectOptions::plain(user),
    };
    match after {
        Some(seq) => options.after(seq),
        None => options,
    }
}

/// How the history says it.
pub fn ended(close: Close) -> StreamEnd {
    match close.code {
        Some(_) => StreamEnd::Closed {
            code: close.code,
            reason: close.reason,
        },
        None => StreamEnd::Broken { why: close.reason },
    }
}

fn stay(rng: &mut Rng) -> Duration {
    Duration::from_millis(STAY_MS.0 + rng.below(STAY_MS.1 - STAY_MS.0))
}

/// One connection's place in the record.
pub struct StreamLog {
    recorder: Recorder,
    opening: Opening,
    id: u64,
    greeted: bool,
    last_seen: Option<u64>,
}

impl StreamLog {
    pub fn open(recorder: &Recorder, opening: Opening) -> Self {
        Self {
            recorder: recorder.clone(),
            opening,
            id: recorder.open(opening),
            greeted: false,
            last_seen: None,
        }
    }

    pub fn connected(&self) {
        self.recorder.connected(self.id);
    }

    /// False if this is not the first one.
    pub fn hello(&mut self, seq: u64) -> bool {
        self.recorder.hello(self.id, seq);
        !std::mem::replace(&mut self.greeted, true)
    }

    pub fn event(&mut self, message: Message) {
        self.last_seen = Some(message.seq);
        self.recorder.event(self.id, seen(message));
    }

    /// Where to go on: after the last message, or where this stream began.
    pub fn resume_after(&self) -> Option<u64> {
        self.last_seen.or(self.opening.after)
    }

    /// A stream that is open when the run ends has no end.
    pub fn end(self, end: StreamEnd) {
        if end != StreamEnd::Open {
            self.recorder.end(self.id, end);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn eight_subscribers_cover_the_habits() {
        let habits: Vec<Habit> = (0..8).map(Habit::of).collect();
        let kinds: HashSet<(bool, bool)> = habits.iter().map(|h| (h.hops, h.from_start)).collect();
        assert_eq!(kinds.len(), 4);
        for via in [Via::PlainSocket, Via::RichSocket] {
            assert!(habits.iter().any(|h| h.via == via && h.hops));
            assert!(habits.iter().any(|h| h.via == via && !h.hops));
        }
    }

    #[test]
    fn an_end_without_a_code_is_a_broken_connection() {
        let close = |code| Close {
            code,
            reason: "r".to_owned(),
        };
        assert!(matches!(ended(close(None)), StreamEnd::Broken { .. }));
        assert!(matches!(
            ended(close(Some(4410))),
            StreamEnd::Closed {
                code: Some(4410),
                ..
            }
        ));
    }
}
