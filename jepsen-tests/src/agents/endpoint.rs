//! The server, and its ledger.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::behaviour::{Behaviour, Script};
use super::http::{Request, answer, begin_stream, chunk, end_stream};
use crate::wait::moment;

/// Between two bytes of an answer that drips.
const DRIP: Duration = Duration::from_millis(2);
/// Most bytes that drip; the rest comes at once.
const DRIPPING_BYTES_MAX: usize = 200;

/// A running endpoint; it ends when dropped.
pub struct Endpoint {
    address: SocketAddr,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

struct Shared {
    script: Script,
    ledger: Mutex<BTreeMap<String, Asked>>,
    released: watch::Sender<bool>,
}

/// What came under one idempotency key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asked {
    pub calls: u64,
    /// When each of them came.
    pub at: Vec<Instant>,
    /// Calls that were answered in full.
    pub answered: u64,
    /// What was last asked: the text of the last message of the conversation.
    pub text: String,
    /// The whole conversation, as of the last call.
    pub messages: Vec<Value>,
    /// The header `Accord-Signature`, as of the last call.
    pub signature: Option<String>,
    /// The body, as of the last call.
    pub body: Vec<u8>,
    /// The header `Authorization`, as of the last call.
    pub authorization: Option<String>,
}

impl Endpoint {
    /// Listens on a port of loopback that the system chooses.
    pub async fn start(script: Script) -> io::Result<Endpoint> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            script,
            ledger: Mutex::default(),
            released: watch::Sender::new(false),
        });
        let mut tasks = JoinSet::new();
        let accepting = Arc::clone(&shared);
        tasks.spawn(async move {
            // Its connections end with it.
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                while connections.try_join_next().is_some() {}
                let shared = Arc::clone(&accepting);
                connections.spawn(async move {
                    // A client that gave up is not the endpoint's business.
                    let _ = shared.serve(stream).await;
                });
            }
        });
        Ok(Endpoint {
            address,
            shared,
            _tasks: tasks,
        })
    }

    /// As `base_url` of an agent.
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// Answers that are held go on, and later ones are not held any more.
    pub fn release(&self) {
        self.shared.released.send_replace(true);
    }

    /// All that was asked, by idempotency key.
    pub fn ledger(&self) -> BTreeMap<String, Asked> {
        self.shared.ledger().clone()
    }

    /// What the answer to a key says.
    pub fn answer_to(key: &str) -> String {
        format!("This is the answer to {key}, said in a few words.")
    }
}

impl Shared {
    fn ledger(&self) -> MutexGuard<'_, BTreeMap<String, Asked>> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn serve(&self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let request = Request::read(&mut stream).await?;
        let key = request.header("idempotency-key").unwrap_or_default();
        let key = key.to_owned();
        let asked: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        let is_webhook = request.header("accord-signature").is_some();
        let text = match is_webhook {
            true => asked["command"]["message"].as_str(),
            false => last_text(&asked),
        };
        let text = text.unwrap_or_default().to_owned();
        let call = self.enter(&key, &text, &asked, &request);
        let behaviour = self.script.behaviour(command_of(&text), &key, call);
        let reply = Endpoint::answer_to(&key);
        let streams = asked["stream"] == json!(true);
        let answered = match behaviour {
            Behaviour::Refuse => false,
            Behaviour::Hang => {
                // Until the client gives up.
                stream.readable().await?;
                let mut byte = [0];
                let _ = stream.peek(&mut byte).await?;
                false
            }
            Behaviour::Noise => {
                use tokio::io::AsyncWriteExt as _;
                stream.write_all(b"220 mail.example ESMTP\r\n").await?;
                false
            }
            Behaviour::Broken => {
                answer(&mut stream, "500 Oops", "text/plain", "", "oops").await?;
                false
            }
            Behaviour::Busy => {
                let after = "retry-after: 1\r\n";
                answer(&mut stream, "429 Slow Down", "text/plain", after, "").await?;
                false
            }
            Behaviour::Rejected => {
                let body = json!({ "error": { "message": "no such model" } }).to_string();
                answer(&mut stream, "400 No", "application/json", "", &body).await?;
                false
            }
            Behaviour::Garbage => {
                let body = "<html>hello</html>";
                answer(&mut stream, "200 OK", "application/json", "", body).await?;
                false
            }
            Behaviour::Whole | Behaviour::Answer | Behaviour::Drip | Behaviour::Hold
                if behaviour == Behaviour::Whole || !streams =>
            {
                let body = match is_webhook {
                    true => json!({ "message": reply }),
                    false => json!({ "choices": [{ "index": 0, "finish_reason": "stop",
                        "message": { "role": "assistant", "content": reply } }] }),
                };
                answer(
                    &mut stream,
                    "200 OK",
                    "application/json",
                    "",
                    &body.to_string(),
                )
                .await?;
                true
            }
            Behaviour::Whole | Behaviour::Answer => {
                begin_stream(&mut stream).await?;
                for piece in pieces(&reply) {
                    chunk(&mut stream, &piece).await?;
                }
                end_stream(&mut stream).await?;
                true
            }
            Behaviour::Drip => {
                begin_stream(&mut stream).await?;
                drip(&mut stream, &pieces(&reply).concat()).await?;
                end_stream(&mut stream).await?;
                true
            }
            Behaviour::Cut if !streams => {
                use tokio::io::AsyncWriteExt as _;
                let head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\
                             content-length: 1000\r\n\r\n{\"choices\":";
                stream.write_all(head).await?;
                false
            }
            Behaviour::Cut => {
                begin_stream(&mut stream).await?;
                let pieces = pieces(&reply);
                for piece in &pieces[..pieces.len() / 2] {
                    chunk(&mut stream, piece).await?;
                }
                false
            }
            Behaviour::Hold => {
                begin_stream(&mut stream).await?;
                let pieces = pieces(&reply);
                let (first, rest) = pieces.split_at(pieces.len() / 2);
                for piece in first {
                    chunk(&mut stream, piece).await?;
                }
                let mut released = self.released.subscribe();
                let _ = released.wait_for(|released| *released).await;
                for piece in rest {
                    chunk(&mut stream, piece).await?;
                }
                end_stream(&mut stream).await?;
                true
            }
        };
        if answered && let Some(asked) = self.ledger().get_mut(&key) {
            asked.answered += 1;
        }
        Ok(())
    }

    /// Notes a call; the number of those before it.
    fn enter(&self, key: &str, text: &str, body: &Value, request: &Request) -> u64 {
        let mut ledger = self.ledger();
        let asked = ledger.entry(key.to_owned()).or_default();
        asked.calls += 1;
        asked.at.push(Instant::now());
        asked.text = text.to_owned();
        asked.messages = body["messages"].as_array().cloned().unwrap_or_default();
        asked.signature = request.header("accord-signature").map(str::to_owned);
        asked.authorization = request.header("authorization").map(str::to_owned);
        asked.body.clone_from(&request.body);
        asked.calls - 1
    }
}

fn last_text(asked: &Value) -> Option<&str> {
    asked["messages"].as_array()?.last()?["content"].as_str()
}

/// Agents put who wrote it before a message.
fn command_of(text: &str) -> &str {
    text.split_once(": /").map_or(text, |(_, rest)| rest)
}

/// An answer as the events of a stream, a word each.
fn pieces(reply: &str) -> Vec<String> {
    let event = |value: Value| format!("data: {value}\n\n");
    let words = reply
        .split_inclusive(' ')
        .map(|word| event(json!({ "choices": [{ "index": 0, "delta": { "content": word } }] })));
    let last = json!({ "choices": [{ "index": 0, "delta": {}, "finish_reason": "stop" }] });
    let mut pieces: Vec<String> = words.collect();
    pieces.push(event(last));
    pieces.push("data: [DONE]\n\n".to_owned());
    pieces
}

async fn drip(stream: &mut TcpStream, text: &str) -> io::Result<()> {
    let split = text.len().min(DRIPPING_BYTES_MAX);
    let (slow, rest) = text.split_at(split);
    for byte in slow.chars() {
        chunk(stream, &byte.to_string()).await?;
        moment(DRIP).await;
    }
    chunk(stream, rest).await
}
