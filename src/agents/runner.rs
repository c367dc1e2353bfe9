//! One agent, ready to be asked, and one attempt at asking it.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use accord_raft::CancelError;
use accord_raft::Channel;
use accord_raft::Consistency;
use accord_raft::Node;
use accord_raft::Range;
use accord_raft::machine::Message;
use futures_util::FutureExt as _;
use hyper::http::HeaderName;
use hyper::http::HeaderValue;
use uuid::Uuid;

use super::Agents;
use super::builtin;
use super::builtin::Request;
use super::config::AgentConfig;
use super::config::AgentKind;
use super::counters::AgentCounters;
use super::openai::OpenAi;
use super::partial::Partial;
use super::question::Line;
use super::question::Question;
use super::retry::Failure;
use super::retry::FailureKind;
use super::secret::SecretError;
use super::webhook::Webhook;

/// What the built-in agent may take: it waits for nobody but the channel itself.
const BUILTIN_MAX: Duration = Duration::from_secs(10);
/// Jobs looked through for those that a `/cancel` is about.
const CANCEL_JOBS_MAX: usize = 1_000;
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// See the module.
pub struct Agent {
    pub config: AgentConfig,
    pub counters: AgentCounters,
    runner: Runner,
}

enum Runner {
    Builtin,
    OpenAi(Box<OpenAi>),
    Webhook(Box<Webhook>),
}

/// What an attempt works with besides the agent.
pub struct Surroundings<'a> {
    pub agents: &'a Agents,
    pub node: &'a Node,
    pub channel: &'a Arc<Channel>,
}

/// Which attempt it is, at which job.
#[derive(Clone, Copy, Debug)]
pub struct About {
    pub job: Uuid,
    /// Of the command.
    pub seq: u64,
    pub attempt: u32,
}

impl Agent {
    pub fn start(config: AgentConfig) -> Result<Agent, SecretError> {
        let runner = match &config.kind {
            AgentKind::Builtin => Runner::Builtin,
            AgentKind::OpenAi(openai) => {
                let key = openai.api_key.as_ref().map(|key| key.read()).transpose()?;
                let plain = !openai.endpoint.tls && !openai.endpoint.is_loopback();
                if plain && key.is_some() {
                    tracing::warn!(agent = %config.name, "its key goes over the network without TLS");
                }
                Runner::OpenAi(Box::new(OpenAi::new(openai.clone(), key.as_ref())))
            }
            AgentKind::Webhook(webhook) => {
                let secret = webhook.secret.read()?;
                Runner::Webhook(Box::new(Webhook::new(webhook.clone(), secret)))
            }
        };
        Ok(Agent {
            config,
            counters: AgentCounters::default(),
            runner,
        })
    }

    /// Whether it works without asking anybody outside.
    pub fn is_builtin(&self) -> bool {
        self.config.kind == AgentKind::Builtin
    }

    /// One attempt, bounded in time; a panic inside is a failure like others.
    pub async fn attempt(
        &self,
        around: &Surroundings<'_>,
        about: About,
        partial: &Partial,
    ) -> Result<(), Failure> {
        let (most, history_max) = match &self.config.kind {
            // What it reads besides the command depends on what that says.
            AgentKind::Builtin => (BUILTIN_MAX, 0),
            AgentKind::OpenAi(config) => (config.timeouts.total, config.context.messages_max),
            AgentKind::Webhook(config) => (config.timeouts.total, config.context.messages_max),
        };
        let asking = async {
            let question = self.question(around, about, history_max).await?;
            self.ask(around, about, &question, partial).await
        };
        let caught = AssertUnwindSafe(asking).catch_unwind();
        match tokio::time::timeout(most, caught).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => {
                // The panic itself was logged where it happened.
                tracing::error!(agent = %self.config.name, job = %about.job, "an attempt panicked");
                Err(internal("something went wrong inside this node"))
            }
            Err(_) => {
                let detail = format!("no whole answer within {} ms", most.as_millis());
                Err(Failure::new(FailureKind::Timeout, detail))
            }
        }
    }

    async fn ask(
        &self,
        around: &Surroundings<'_>,
        about: About,
        question: &Question,
        partial: &Partial,
    ) -> Result<(), Failure> {
        let client = &around.agents.client;
        match &self.runner {
            Runner::OpenAi(openai) => openai.ask(client, question, partial).await,
            Runner::Webhook(webhook) => webhook.ask(client, question, partial).await,
            Runner::Builtin => {
                let name = &self.config.name;
                let text = match Request::parse(&question.command.body, name) {
                    Request::Help => builtin::help(&around.agents.configs),
                    Request::Summary { messages } => {
                        let question = self.question(around, about, messages).await?;
                        summarize(around.agents, question, messages).await?
                    }
                    Request::Roll(dice) => builtin::roll(question, &dice),
                    Request::Cancel => cancel(around, question).await?,
                    Request::Usage(usage) => usage.to_owned(),
                };
                partial.push(&text);
                Ok(())
            }
        }
    }

    async fn question(
        &self,
        around: &Surroundings<'_>,
        about: About,
        history_max: usize,
    ) -> Result<Question, Failure> {
        // The command itself is one of them. This node leads, so it has applied the command.
        let range = Range::Before {
            seq: about.seq + 1,
            limit: history_max + 1,
        };
        let page = around
            .node
            .messages(around.channel, range, Consistency::Stale)
            .await
            .map_err(|_| internal("this node could not read the channel"))?;
        let mut lines = page.messages.iter().map(line);
        let command = lines.next().filter(|line| line.seq == about.seq);
        let command = command.ok_or_else(|| internal("this node does not have the command"))?;
        let mut history: Vec<Line> = lines.collect();
        history.reverse();
        Ok(Question {
            job: about.job,
            attempt: about.attempt,
            channel: Uuid::from_bytes(around.channel.id),
            agent: self.config.name.clone(),
            command,
            history,
        })
    }
}

/// What tells the other side that attempts are one job.
pub fn idempotency(question: &Question) -> (HeaderName, HeaderValue) {
    let value = HeaderValue::try_from(question.job.to_string()).expect("an id is visible ASCII");
    (IDEMPOTENCY_KEY, value)
}

/// Works off the threads that serve sockets, one summary at a time. One that takes too long goes on to its
/// end there, and the next one begins only then.
async fn summarize(
    agents: &Agents,
    question: Question,
    messages: usize,
) -> Result<String, Failure> {
    let failed = || internal("something went wrong inside this node");
    let permit = Arc::clone(&agents.summaries).acquire_owned().await;
    let permit = permit.map_err(|_| failed())?;
    let summing = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        builtin::summarize(&question, messages)
    });
    summing.await.map_err(|_| failed())
}

/// Ends the command that this one replies to, or all earlier ones of the same user that have not
/// been answered. Either may be done again without doing more, as an attempt after a failover does.
async fn cancel(around: &Surroundings<'_>, question: &Question) -> Result<String, Failure> {
    let unreadable = |_| internal("this node could not read the channel's jobs");
    let (node, channel) = (around.node, around.channel);
    let (asker, before) = (&question.command.username, question.command.seq);
    let listed = node.jobs(channel, None, Consistency::Stale, None, CANCEL_JOBS_MAX);
    let mut jobs = listed.await.map_err(unreadable)?.items;
    jobs.retain(|job| !job.state.is_over() && job.seq < before);
    match question.command.reply_to {
        Some(command) => jobs.retain(|job| job.id == command),
        None => jobs.retain(|job| job.username == *asker),
    }
    let mut ended = Vec::new();
    // The newest first: an older one that ends would only let it begin.
    for job in jobs.into_iter().rev() {
        match node.cancel_job(channel, job.id).await {
            Ok(()) => ended.push(format!("/{} (message {})", job.agent, job.seq)),
            Err(CancelError::NotFound | CancelError::Over) => {}
            Err(CancelError::Write(_)) => {
                return Err(internal("the command could not be cancelled"));
            }
        }
    }
    match ended.as_slice() {
        [] => Ok("Nothing that you asked before waits for an answer.".to_owned()),
        ended => Ok(format!("Cancelled: {}.", ended.join(", "))),
    }
}

fn line(message: &Message) -> Line {
    Line {
        id: Uuid::from_bytes(message.id),
        seq: message.seq,
        timestamp_ms: message.timestamp_ms,
        username: message.username.to_string(),
        body: message.body.to_string(),
        agent: message.agent.as_ref().map(ToString::to_string),
        reply_to: message.reply_to.map(Uuid::from_bytes),
    }
}

fn internal(detail: &str) -> Failure {
    Failure::new(FailureKind::Internal, detail)
}
