//! `…/channels/{channel}/jobs`: what agents were asked to do, and how far that is.

use std::sync::Arc;

use accord_raft::Channel;
use accord_raft::Job;
use accord_raft::JobKind;
use accord_raft::JobState;
use axum::extract::RawQuery;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use uuid::Uuid;

use super::extract::ChannelIds;
use super::extract::JobIds;
use super::json_of;
use super::paging::PageQuery;
use super::problem::Kind;
use super::problem::Problem;
use super::problem::Subject;
use super::query::Query;
use super::query::QueryError;
use crate::app::App;

#[derive(Debug, Serialize)]
struct View<'a> {
    id: Uuid,
    seq: u64,
    agent: &'a str,
    username: &'a str,
    message: &'a str,
    state: &'static str,
    attempt: u32,
    attempts_max: u32,
    created_at: u64,
    /// When the next attempt comes; only while it waits for that.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_attempt_at: Option<u64>,
    /// Which node attempts it; only while one does.
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<u64>,
    /// The seq of the answer, or of the message that says why there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    reply_seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Option<&'a str>,
}

pub async fn list(
    State(app): State<Arc<App>>,
    ids: ChannelIds,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let page = PageQuery::parse(query.as_deref())?;
    let query = Query::parse(query.as_deref())?;
    let state = query.text("state")?.map(kind).transpose()?;
    let channel = channel(&app, ids.server, ids.channel).await?;
    let found = app
        .node
        .jobs(&channel, state, page.consistency, page.after, page.limit);
    let found = found
        .await
        .map_err(|error| Problem::of_read(error, Subject::Channel))?;
    let ChannelIds { server, channel } = ids;
    let path = format!("/api/servers/{server}/channels/{channel}/jobs");
    Ok(
        page.answer_with(&path, &found, view, |next| match query.text("state") {
            Ok(Some(state)) => format!("{next}&state={state}"),
            _ => next,
        }),
    )
}

pub async fn show(
    State(app): State<Arc<App>>,
    ids: JobIds,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let consistency = Query::parse(query.as_deref())?.consistency()?;
    let channel = channel(&app, ids.server, ids.channel).await?;
    let found = app.node.job(&channel, ids.job, consistency).await;
    match found.map_err(|error| Problem::of_read(error, Subject::Channel))? {
        Some(job) => Ok(json_of(&view(&job))),
        None => Err(unknown()),
    }
}

pub async fn cancel(State(app): State<Arc<App>>, ids: JobIds) -> Result<Response, Problem> {
    let channel = channel(&app, ids.server, ids.channel).await?;
    app.node
        .cancel_job(&channel, ids.job)
        .await
        .map_err(|error| Problem::of_cancel(error, unknown()))?;
    let mut response = Response::default();
    *response.status_mut() = StatusCode::NO_CONTENT;
    Ok(response)
}

fn unknown() -> Problem {
    Problem::new(
        Kind::UnknownJob,
        "There is no such job in this channel, or it ended so long ago that it is forgotten.",
    )
}

async fn channel(app: &App, server: Uuid, channel: Uuid) -> Result<Arc<Channel>, Problem> {
    let found = app.node.channel(server, channel).await;
    found.map_err(|error| Problem::of_read(error, Subject::Channel))
}

fn view(job: &Job) -> View<'_> {
    let (mut next_attempt_at, mut running_on, mut reply_seq) = (None, None, None);
    match job.state {
        JobState::Pending | JobState::Cancelled => {}
        JobState::Running { node, .. } => running_on = Some(node),
        JobState::Waiting { until_ms } => next_attempt_at = Some(until_ms),
        JobState::Done { reply } | JobState::Failed { reply } => reply_seq = Some(reply),
    }
    View {
        id: job.id,
        seq: job.seq,
        agent: job.agent.as_str(),
        username: &job.username,
        message: &job.command,
        state: name(job.state.kind()),
        // One more is begun to say that no attempt was finished; it asks nobody.
        attempt: job.attempt.min(job.attempts_max),
        attempts_max: job.attempts_max,
        created_at: job.created_ms,
        next_attempt_at,
        node: running_on,
        reply_seq,
        last_error: job.last_error.as_deref(),
    }
}

fn name(kind: JobKind) -> &'static str {
    match kind {
        JobKind::Pending => "pending",
        JobKind::Running => "running",
        JobKind::Waiting => "waiting",
        JobKind::Done => "done",
        JobKind::Failed => "failed",
        JobKind::Cancelled => "cancelled",
    }
}

fn kind(text: &str) -> Result<JobKind, QueryError> {
    let all = [
        JobKind::Pending,
        JobKind::Running,
        JobKind::Waiting,
        JobKind::Done,
        JobKind::Failed,
        JobKind::Cancelled,
    ];
    let found = all.into_iter().find(|kind| name(*kind) == text);
    found.ok_or(QueryError::Invalid {
        name: "state",
        expected: "pending, running, waiting, done, failed or cancelled".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use accord_raft::names::AgentName;

    use super::*;

    #[test]
    fn golden() {
        let job = Job {
            id: Uuid::from_u128(7),
            seq: 3,
            agent: AgentName::parse("ask").unwrap(),
            username: "ann".to_owned(),
            command: "/ask why".to_owned(),
            state: JobState::Waiting { until_ms: 9 },
            attempt: 2,
            attempts_max: 8,
            due_ms: 9,
            created_ms: 5,
            last_error: Some("refused".to_owned()),
        };
        let json = |job: &Job| serde_json::to_string(&view(job)).unwrap();
        let begin = "{\"id\":\"00000000-0000-0000-0000-000000000007\",\"seq\":3,\"agent\":\"ask\",\
                     \"username\":\"ann\",\"message\":\"/ask why\",";
        assert_eq!(
            json(&job),
            format!(
                "{begin}\"state\":\"waiting\",\"attempt\":2,\"attempts_max\":8,\"created_at\":5,\
                 \"next_attempt_at\":9,\"last_error\":\"refused\"}}"
            )
        );
        let done = Job {
            state: JobState::Done { reply: 4 },
            last_error: None,
            ..job
        };
        let beyond = Job {
            attempt: 9,
            ..done.clone()
        };
        assert!(json(&beyond).contains("\"attempt\":8,\"attempts_max\":8"));
        assert_eq!(
            json(&done),
            format!(
                "{begin}\"state\":\"done\",\"attempt\":2,\"attempts_max\":8,\"created_at\":5,\
                 \"reply_seq\":4}}"
            )
        );
    }

    #[test]
    fn states_are_told_by_their_names() {
        for text in [
            "pending",
            "running",
            "waiting",
            "done",
            "failed",
            "cancelled",
        ] {
            assert_eq!(name(kind(text).unwrap()), text);
        }
        assert!(kind("Pending").is_err() && kind("").is_err());
    }
}
