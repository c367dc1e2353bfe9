//! `…/channels/{channel}/scheduled`: messages for later, and `POST …/messages` with `deliver_at`.

use std::sync::Arc;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use accord_raft::Channel;
use accord_raft::Draft;
use accord_raft::Scheduled;
use accord_raft::ScheduledCursor;
use axum::extract::RawQuery;
use axum::extract::State;
use axum::http::HeaderValue;
use axum::http::StatusCode;
use axum::http::header;
use axum::response::Response;
use serde::Serialize;
use uuid::Uuid;

use super::extract;
use super::extract::ChannelIds;
use super::extract::ScheduledIds;
use super::json_of;
use super::link_next;
use super::paging::ITEMS_MAX;
use super::problem::Kind;
use super::problem::Problem;
use super::problem::Subject;
use super::query::Query;
use super::query::QueryError;
use crate::app::App;

/// How far ahead a message may be scheduled: a year and some, so that whatever comes once a year can be
/// put down a little before it does.
const AHEAD_DAYS_MAX: u64 = 400;
const AHEAD_MS_MAX: u64 = AHEAD_DAYS_MAX * 24 * 60 * 60 * 1_000;
/// Messages on a page without `limit`.
const LIMIT_DEFAULT: usize = 50;

/// A message that is to come.
#[derive(Debug, Serialize)]
struct View<'a> {
    id: Uuid,
    deliver_at: u64,
    username: &'a str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reply_to: Option<Uuid>,
}

/// Schedules a message for `deliver_at`, Unix milliseconds. One that has passed is as good as now.
pub async fn post(
    app: &App,
    ids: ChannelIds,
    channel: &Arc<Channel>,
    draft: Draft,
    deliver_at: u64,
) -> Result<Response, Problem> {
    if draft.expected_head.is_some() {
        return Err(Problem::bad_request(
            "A message with \"deliver_at\" cannot have If-Match: what the channel's head will be then is \
             not known.",
        ));
    }
    if deliver_at > now_ms().saturating_add(AHEAD_MS_MAX) {
        return Err(Problem::bad_request(format!(
            "The field \"deliver_at\" must not be more than {AHEAD_DAYS_MAX} days ahead."
        )));
    }
    let (username, body, reply_to) = (draft.username.clone(), draft.body.clone(), draft.reply_to);
    let made = app.node.schedule(channel, draft, deliver_at).await?;
    // A repeated one gets the same answer as the first, to the byte.
    let mut response = json_of(&View {
        id: made.id,
        deliver_at: made.deliver_at_ms,
        username: username.as_str(),
        message: body.as_str(),
        reply_to,
    });
    *response.status_mut() = StatusCode::ACCEPTED;
    let location =
        HeaderValue::try_from(format!("{}/{}", path(ids), made.id)).expect("ids are visible ASCII");
    response.headers_mut().insert(header::LOCATION, location);
    Ok(response)
}

pub async fn list(
    State(app): State<Arc<App>>,
    ids: ChannelIds,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let query = Query::parse(query.as_deref())?;
    let limit = query
        .number("limit", 1..=ITEMS_MAX)?
        .unwrap_or(LIMIT_DEFAULT);
    let after = query.text("cursor")?.map(cursor).transpose()?;
    let consistency = query.consistency()?;
    let channel = channel(&app, ids.server, ids.channel).await?;
    let found = app.node.scheduled(&channel, consistency, after, limit);
    let (messages, next) = found
        .await
        .map_err(|error| Problem::of_read(error, Subject::Channel))?;
    let views: Vec<_> = messages.iter().map(view).collect();
    let mut response = json_of(&views);
    if let Some(next) = next {
        let ScheduledCursor { deliver_at_ms, id } = next;
        let query = format!("cursor={deliver_at_ms}.{id}&limit={limit}");
        link_next(&mut response, &path(ids), &query);
    }
    Ok(response)
}

pub async fn show(
    State(app): State<Arc<App>>,
    ids: ScheduledIds,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let consistency = Query::parse(query.as_deref())?.consistency()?;
    let channel = channel(&app, ids.server, ids.channel).await?;
    let found = app
        .node
        .scheduled_message(&channel, ids.scheduled, consistency);
    let found = found
        .await
        .map_err(|error| Problem::of_read(error, Subject::Channel))?;
    match found {
        Some(message) => Ok(json_of(&view(&message))),
        None => Err(unknown()),
    }
}

pub async fn cancel(State(app): State<Arc<App>>, ids: ScheduledIds) -> Result<Response, Problem> {
    let channel = channel(&app, ids.server, ids.channel).await?;
    app.node
        .unschedule(&channel, ids.scheduled)
        .await
        .map_err(|error| Problem::of_cancel(error, unknown()))?;
    let mut response = Response::default();
    *response.status_mut() = StatusCode::NO_CONTENT;
    Ok(response)
}

fn unknown() -> Problem {
    Problem::new(
        Kind::UnknownScheduled,
        "There is no such scheduled message, or it has been delivered.",
    )
}

async fn channel(app: &App, server: Uuid, channel: Uuid) -> Result<Arc<Channel>, Problem> {
    let found = app.node.channel(server, channel).await;
    found.map_err(|error| Problem::of_read(error, Subject::Channel))
}

fn view(message: &Scheduled) -> View<'_> {
    View {
        id: message.id,
        deliver_at: message.deliver_at_ms,
        username: &message.username,
        message: &message.body,
        reply_to: message.reply_to,
    }
}

fn path(ids: ChannelIds) -> String {
    let ChannelIds { server, channel } = ids;
    format!("/api/servers/{server}/channels/{channel}/scheduled")
}

/// What `Link` has given: a time and the id of the last message before.
fn cursor(text: &str) -> Result<ScheduledCursor, QueryError> {
    let parse = |text: &str| {
        let (time, id) = text.split_once('.')?;
        let digits = time.bytes().all(|byte| byte.is_ascii_digit());
        Some(ScheduledCursor {
            deliver_at_ms: time.parse().ok().filter(|_| digits)?,
            id: extract::parse_id(id)?,
        })
    };
    parse(text).ok_or(QueryError::Invalid {
        name: "cursor",
        expected: "taken from the header Link of the page before".to_owned(),
    })
}

#[expect(
    clippy::disallowed_methods,
    reason = "how far ahead a time lies is a question to the clock"
)]
fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden() {
        let id = Uuid::from_u128(7);
        let message = Scheduled {
            id,
            deliver_at_ms: 1_700_000_000_000,
            created_ms: 5,
            username: "ann".to_owned(),
            body: "hi".to_owned(),
            reply_to: None,
        };
        let json = serde_json::to_string(&view(&message)).unwrap();
        assert_eq!(
            json,
            "{\"id\":\"00000000-0000-0000-0000-000000000007\",\"deliver_at\":1700000000000,\
             \"username\":\"ann\",\"message\":\"hi\"}"
        );
    }

    #[test]
    fn cursors() {
        let id = Uuid::from_u128(7);
        let found = cursor(&format!("12.{id}")).unwrap();
        assert_eq!((found.deliver_at_ms, found.id), (12, id));
        for bad in ["", "12", &format!("+1.{id}"), "1.2", &format!("x.{id}")] {
            assert!(cursor(bad).is_err(), "{bad}");
        }
    }
}
