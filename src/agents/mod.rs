//! Agents: who answers commands, and how they are called.
//!
//! ```text
//! message "/ask why?" ─▶ command: whose? ─▶ job, in the channel's replicated state (accord_raft)
//!                                             │ due, on the leader
//!                                             ▼
//!                        executor: a slot ─▶ claim ─▶ runner: built-in, openai, webhook ─▶ settle
//!                                             │ what it says meanwhile
//!                                             ▼
//!                                   deltas to all nodes, unreplicated ─▶ rich sockets, event streams
//! ```
//!
//! Whatever is called outside may be called more than once; what comes of it enters the channel
//! once, because claims and settlements are fenced by job and attempt (docs/agents.md).
//!
//! Invariants: nothing here runs in a channel's own task; an agent that hangs costs a slot, a task
//! and a connection; URLs come from the configuration alone; no secret is ever shown.

mod builtin;
pub mod command;
pub mod config;
pub mod counters;
pub mod delta;
mod endpoint;
mod executor;
mod http;
pub mod openai;
pub mod partial;
mod question;
mod retry;
mod runner;
mod secret;
mod slots;
mod sse;
mod webhook;

use std::sync::Arc;

use accord_raft::Call;
use accord_raft::names::AgentName;
use tokio::sync::Semaphore;

pub use executor::Executor;
pub use retry::FailureKind;
pub use runner::Agent;

use config::AgentConfig;
use http::Client;
use secret::SecretError;

/// Why an agent cannot be called; a sentence.
#[derive(Debug, thiserror::Error)]
#[error("agent \"{agent}\": {source}")]
pub struct AgentError {
    agent: String,
    source: SecretError,
}

/// All agents that this node knows.
pub struct Agents {
    /// In the order of the configuration.
    pub all: Vec<Agent>,
    configs: Vec<AgentConfig>,
    client: Client,
    /// Summaries are work, not waiting: one at a time, so that one core at most is busy with them.
    summaries: Arc<Semaphore>,
}

impl Agents {
    /// Reads the secrets.
    ///
    /// # Errors
    /// If one of them is not there, or can be none.
    pub fn start(configs: Vec<AgentConfig>) -> Result<Arc<Agents>, AgentError> {
        let all = configs.iter().map(|config| {
            Agent::start(config.clone()).map_err(|source| AgentError {
                agent: config.name.clone(),
                source,
            })
        });
        Ok(Arc::new(Agents {
            all: all.collect::<Result<_, _>>()?,
            configs,
            client: Client::new(),
            summaries: Arc::new(Semaphore::new(1)),
        }))
    }

    /// What a message calls for, if it is a command.
    pub fn call(&self, body: &str) -> Option<Call> {
        let agent = command::called(&self.configs, body)?;
        Some(Call {
            agent: AgentName::parse(agent.name.clone()).ok()?,
            attempts_max: agent.retry.attempts_max,
            is_outward: agent.kind.is_outward(),
        })
    }

    /// The agent of this name, and its place among all.
    fn find(&self, name: &str) -> Option<(usize, &Agent)> {
        let mut all = self.all.iter().enumerate();
        all.find(|(_, agent)| agent.config.name == name)
    }
}
