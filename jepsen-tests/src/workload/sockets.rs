//! Sends on plain and rich sockets, several in flight on each.
//!
//! Answers come in the order of the sends; the oldest unanswered send is what an answer is held
//! against. When a socket ends, what was not answered is unknown; a rich client sends it again on
//! its next socket with the same nonce, a plain one has no nonce and leaves it at that. Clients
//! that receive record what they get as a stream.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::context::{Context, NodeAddress};
use super::outcome;
use super::pace::Pace;
use super::rest::seen;
use super::streams::{StreamLog, connect, ended, options};
use super::{Bodies, Client, Phase, load_ended, rest_over};
use crate::client::socket::{Event, Socket, SocketError};
use crate::client::wire::{Frame, Kind, Message, Problem};
use crate::history::recorder::Opening;
use crate::history::{Action, ChannelIx, Outcome, StreamEnd, Value, Via};

/// Most unanswered sends of one client; the product allows 100.
const WINDOW: usize = 4;
/// How long a client waits for an answer before it drops the socket.
const ANSWER_WITHIN: Duration = Duration::from_secs(7);
/// A send that the socket's buffer does not take in this time.
const SEND_WITHIN: Duration = Duration::from_secs(4);
/// Attempts per second to get a socket.
const CONNECTS_PER_SECOND: f64 = 4.0;
/// Shortest and longest life of a socket that nothing breaks.
const LIFE_MS: (u64, u64) = (2_000, 12_000);

/// A message, and its nonce on a rich socket.
#[derive(Debug, Clone)]
struct Draft {
    body: String,
    nonce: Option<String>,
}

struct Sent {
    operation: u64,
    process: u32,
    at: Instant,
    draft: Draft,
}

struct Sender {
    context: Arc<Context>,
    user: String,
    via: Via,
    receives: bool,
    subscriber: u32,
    channel: ChannelIx,
    /// In the order of sending.
    unanswered: VecDeque<Sent>,
    /// Process numbers that have no operation under way.
    idle: Vec<u32>,
    /// To be sent again, oldest first; at most [`WINDOW`].
    again: VecDeque<Draft>,
    last_seen: Option<u64>,
}

pub async fn run(mut client: Client) {
    let context = client.context.clone();
    let mut phase = context.phase.clone();
    let mut sender = Sender {
        user: client.name.clone(),
        via: match client.index % 2 {
            0 => Via::PlainSocket,
            _ => Via::RichSocket,
        },
        receives: !client.index.is_multiple_of(3),
        subscriber: context.recorder.new_subscriber(),
        channel: context.pick_channel(&mut client.rng),
        unanswered: VecDeque::new(),
        idle: (0..WINDOW)
            .map(|_| context.recorder.new_process())
            .collect(),
        again: VecDeque::new(),
        last_seen: None,
        context,
    };
    let mut bodies = Bodies::new(&client.name);
    let share = client.rng.below(1_000) as f64 / 1_000.0;
    let mut pace = Pace::new(client.per_second, share, Instant::now());
    let mut connects = Pace::new(CONNECTS_PER_SECOND, 0.0, Instant::now());
    while connects.wait(&mut phase).await {
        let node = client.context.pick_node(&mut client.rng);
        let life = LIFE_MS.0 + client.rng.below(LIFE_MS.1 - LIFE_MS.0);
        let leave_at = Instant::now() + Duration::from_millis(life);
        sender
            .connection(node, leave_at, &mut pace, || bodies.next(&mut client.rng))
            .await;
    }
}

/// Resolves when something is due and clients need not rest.
async fn turn(due: Instant, phase: &mut watch::Receiver<Phase>) {
    tokio::time::sleep_until(due).await;
    rest_over(phase).await;
}

impl Sender {
    /// One socket, from its opening to its end.
    async fn connection(
        &mut self,
        node: NodeAddress,
        leave_at: Instant,
        pace: &mut Pace,
        mut new_body: impl FnMut() -> String,
    ) {
        let mut ask = options(&self.user, self.via, self.last_seen);
        if !self.receives {
            ask.after = None;
            ask = ask.publish_only();
        }
        let mut log = self.receives.then(|| {
            let opening = Opening {
                subscriber: self.subscriber,
                node: node.id,
                channel: self.channel,
                via: self.via,
                after: self.last_seen,
            };
            StreamLog::open(&self.context.recorder, opening)
        });
        let end = match connect(&self.context, node, self.channel, &ask).await {
            Ok(socket) => {
                if let Some(log) = &mut log {
                    log.connected();
                }
                self.talk(node, socket, &mut log, leave_at, pace, &mut new_body)
                    .await
            }
            Err(why) => StreamEnd::Broken { why },
        };
        self.forget_unanswered();
        if let Some(log) = log {
            self.last_seen = log.resume_after();
            log.end(end);
        }
    }

    /// Sends and listens until the socket ends or it is time to leave and all is answered.
    async fn talk(
        &mut self,
        node: NodeAddress,
        mut socket: Socket,
        log: &mut Option<StreamLog>,
        leave_at: Instant,
        pace: &mut Pace,
        new_body: &mut impl FnMut() -> String,
    ) -> StreamEnd {
        let mut phase = self.context.phase.clone();
        let mut resting = self.context.phase.clone();
        let mut leaving = false;
        loop {
            if leaving && self.unanswered.is_empty() {
                // The other side may be gone already; there is nothing more to say either way.
                let _ = tokio::time::timeout(SEND_WITHIN, socket.close()).await;
                return StreamEnd::Left;
            }
            let has_room = !leaving && self.unanswered.len() < WINDOW;
            let due = if self.again.is_empty() {
                pace.due()
            } else {
                Instant::now()
            };
            let answer_by = self.unanswered.front().map(|sent| sent.at + ANSWER_WITHIN);
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(answer_by.unwrap_or(leave_at)), if answer_by.is_some() => {
                    self.context.shun(node.id);
                    return StreamEnd::Broken { why: "the client gave up waiting".to_owned() };
                }
                () = load_ended(&mut phase), if !leaving => leaving = true,
                () = tokio::time::sleep_until(leave_at), if !leaving => leaving = true,
                event = socket.event() => match event {
                    Ok(Event::Frame(frame)) => self.take(*frame, log),
                    Ok(Event::Closed(close)) => return ended(close),
                    Err(SocketError::Silent) => {}
                    Err(error) => {
                        self.context.odd(format!("a sender on node {}: {error}", node.id));
                        return StreamEnd::Broken { why: error.to_string() };
                    }
                },
                () = turn(due, &mut resting), if has_room => {
                    let draft = match self.again.pop_front() {
                        Some(draft) => draft,
                        None => {
                            pace.take_due(Instant::now());
                            self.draft(new_body())
                        }
                    };
                    if let Err(why) = self.send(node, &mut socket, draft).await {
                        return StreamEnd::Broken { why };
                    }
                }
            }
        }
    }

    fn draft(&self, body: String) -> Draft {
        // The body is unique in the run, so a nonce made of its beginning is unique as well.
        let nonce = matches!(self.via, Via::RichSocket)
            .then(|| body.chars().take_while(|c| c.is_ascii()).take(60).collect());
        Draft { body, nonce }
    }

    async fn send(
        &mut self,
        node: NodeAddress,
        socket: &mut Socket,
        draft: Draft,
    ) -> Result<(), String> {
        let process = self
            .idle
            .pop()
            .expect("as many numbers as the window allows sends");
        let action = Action::Append {
            channel: self.channel,
            user: self.user.clone(),
            body: draft.body.clone(),
            key: draft.nonce.clone(),
            if_head: None,
            via: self.via,
        };
        let operation = self.context.recorder.invoke(process, node.id, action);
        self.unanswered.push_back(Sent {
            operation,
            process,
            at: Instant::now(),
            draft: draft.clone(),
        });
        let sending = async {
            match &draft.nonce {
                Some(nonce) => socket.send_rich(nonce, &draft.body).await,
                None => socket.send_text(&draft.body).await,
            }
        };
        match tokio::time::timeout(SEND_WITHIN, sending).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("not taken within {SEND_WITHIN:?}")),
        }
    }

    fn take(&mut self, frame: Frame, log: &mut Option<StreamLog>) {
        match (frame.kind, log) {
            (Kind::Ack { nonce, message }, _) => self.acknowledged(nonce, message),
            (Kind::Error { nonce, problem }, _) => self.refused(nonce, &problem),
            (Kind::Message(message), Some(log)) => log.event(message),
            (Kind::Hello { seq }, Some(log)) => {
                if !log.hello(seq) {
                    self.context.odd("a socket was greeted twice".to_owned());
                }
            }
            (
                Kind::Hello { .. }
                | Kind::Presence
                | Kind::Typing
                | Kind::Pong
                | Kind::AgentDelta(_),
                _,
            ) => {}
            (Kind::Message(_) | Kind::Other(_), _) => {
                self.context.odd(format!("a sender got {}", frame.raw));
            }
        }
    }

    fn acknowledged(&mut self, nonce: Option<String>, message: Message) {
        let Some(sent) = self.unanswered.pop_front() else {
            self.context.odd(format!("an ack for nothing: {message:?}"));
            return;
        };
        let fits = message.message == sent.draft.body
            && message.username == self.user
            && nonce == sent.draft.nonce;
        let outcome = if fits {
            Outcome::Ok {
                value: Value::Appended(seen(message)),
            }
        } else {
            let what = format!("sent {:?}, and the ack is {message:?}", sent.draft.body);
            self.context.odd(what.clone());
            outcome::info(None, what)
        };
        self.finish(sent, outcome);
    }

    fn refused(&mut self, nonce: Option<String>, problem: &Problem) {
        match self.unanswered.pop_front() {
            Some(sent) if nonce == sent.draft.nonce => {
                let outcome = outcome::refused(problem.status, Some(problem), &problem.detail);
                self.finish(sent, outcome);
            }
            Some(sent) => {
                let what = format!("a refusal of another send: {problem:?}");
                self.context.odd(what.clone());
                self.finish(sent, outcome::info(Some(problem.status), what));
            }
            None => self
                .context
                .odd(format!("a refusal of nothing: {problem:?}")),
        }
    }

    fn finish(&mut self, sent: Sent, outcome: Outcome) {
        let unknown = matches!(outcome, Outcome::Info { .. });
        self.idle.push(if unknown {
            self.context.recorder.new_process()
        } else {
            sent.process
        });
        if unknown && sent.draft.nonce.is_some() && self.again.len() < WINDOW {
            self.again.push_back(sent.draft);
        }
        self.context.recorder.finish(sent.operation, outcome);
    }

    /// The socket is gone: whatever it did not answer may have happened.
    fn forget_unanswered(&mut self) {
        while let Some(sent) = self.unanswered.pop_front() {
            self.finish(
                sent,
                outcome::info(None, "the socket ended before the answer"),
            );
        }
    }
}
