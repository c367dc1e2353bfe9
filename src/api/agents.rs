//! `/api/agents`: who can be called, as this node knows them.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde::Serialize;

use super::json_of;
use crate::agents::command::WORDS;
use crate::app::App;

/// Nothing of where an agent is or of its secrets.
#[derive(Debug, Serialize)]
struct AgentView<'a> {
    name: &'a str,
    kind: &'static str,
    description: &'a str,
    /// What a message begins with to call it.
    commands: Vec<String>,
}

pub async fn list(State(app): State<Arc<App>>) -> Response {
    let views: Vec<AgentView<'_>> = app
        .agents
        .all
        .iter()
        .map(|agent| {
            let own = format!("/{}", agent.config.name);
            let words = WORDS.iter().filter(|_| agent.is_builtin());
            AgentView {
                name: &agent.config.name,
                kind: agent.config.kind.name(),
                description: &agent.config.description,
                commands: [own]
                    .into_iter()
                    .chain(words.map(|word| format!("/{word}")))
                    .collect(),
            }
        })
        .collect();
    json_of(&views)
}
