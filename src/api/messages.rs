//! `/api/servers/{server}/channels/{channel}/messages`.

use std::sync::Arc;

use accord_raft::Consistency;
use accord_raft::Draft;
use accord_raft::Messages;
use accord_raft::Range;
use accord_raft::names::MessageBody;
use accord_raft::names::Username;
use axum::extract::RawQuery;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::HeaderName;
use axum::http::HeaderValue;
use axum::http::StatusCode;
use axum::http::header;
use axum::response::Response;
use serde::Deserialize;
use uuid::Uuid;

use super::extract;
use super::extract::ChannelIds;
use super::extract::Json;
use super::json;
use super::link_next;
use super::problem::Problem;
use super::problem::Subject;
use super::query::Query;
use super::query::QueryError;
use super::scheduled;
use crate::app::App;
use crate::delivery::encode;
use crate::delivery::encode::MessageView;

/// Messages on a page without `limit`.
const LIMIT_DEFAULT: usize = 50;
/// Most messages on a page.
const LIMIT_MAX: usize = 1_000;
/// How far the answering node had applied the channel.
const ACCORD_SEQ: HeaderName = HeaderName::from_static("accord-seq");

/// `{username,message}`, and what it answers to and when, if that is said.
#[derive(Debug, Deserialize)]
pub struct Post {
    username: String,
    message: String,
    reply_to: Option<String>,
    /// Not now, but at this time: Unix milliseconds.
    deliver_at: Option<u64>,
}

pub async fn list(
    State(app): State<Arc<App>>,
    ids: ChannelIds,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let query = MessagesQuery::parse(query.as_deref())?;
    let of_read = |error| Problem::of_read(error, Subject::Channel);
    let channel = app
        .node
        .channel(ids.server, ids.channel)
        .await
        .map_err(of_read)?;
    let page = app
        .node
        .messages(&channel, query.range, query.consistency)
        .await
        .map_err(of_read)?;
    let mut response = json(encode::array(&page.messages));
    let head = HeaderValue::from(page.head);
    response.headers_mut().insert(ACCORD_SEQ, head);
    if let Some(next) = query.next(&page) {
        link_next(&mut response, &messages_path(ids), &next);
    }
    Ok(response)
}

pub async fn post(
    State(app): State<Arc<App>>,
    ids: ChannelIds,
    headers: HeaderMap,
    Json(post): Json<Post>,
) -> Result<Response, Problem> {
    let username = Username::parse(post.username)?;
    let body = MessageBody::parse(post.message, app.limits.message_bytes_max)?;
    let call = app.agents.call(body.as_str());
    let key = extract::idempotency_key(&headers)?;
    let expected_head = extract::expected_head(&headers)?;
    let reply_to = post.reply_to.as_deref().map(reply_to).transpose()?;
    let channel = app
        .node
        .channel(ids.server, ids.channel)
        .await
        .map_err(|error| Problem::of_read(error, Subject::Channel))?;
    app.counters.messages_in.one();
    let draft = Draft {
        id: Uuid::now_v7(),
        username: username.clone(),
        body: body.clone(),
        key,
        expected_head,
        reply_to,
        call,
    };
    if let Some(deliver_at) = post.deliver_at {
        return scheduled::post(&app, ids, &channel, draft, deliver_at).await;
    }
    let position = app.node.submit(&channel, draft).await?;
    // A repeated post gets the same answer as the first one, to the byte.
    let view = MessageView {
        id: position.id,
        timestamp_ms: position.timestamp_ms,
        username: username.as_str(),
        message: body.as_str(),
        seq: position.seq,
        reply_to,
        agent: None,
    };
    let mut out = Vec::new();
    view.write_object(&mut out);
    let mut response = json(out);
    *response.status_mut() = StatusCode::CREATED;
    let location = location(ids, position.seq);
    response.headers_mut().insert(header::LOCATION, location);
    Ok(response)
}

fn reply_to(text: &str) -> Result<Uuid, Problem> {
    extract::parse_id(text)
        .ok_or_else(|| Problem::bad_request("The field \"reply_to\" must be the id of a message."))
}

fn messages_path(ids: ChannelIds) -> String {
    let ChannelIds { server, channel } = ids;
    format!("/api/servers/{server}/channels/{channel}/messages")
}

/// A message has no path of its own; the page that holds it alone always shows it.
fn location(ids: ChannelIds, seq: u64) -> HeaderValue {
    let before = seq.saturating_sub(1);
    let text = format!("{}?after={before}&limit=1", messages_path(ids));
    HeaderValue::try_from(text).expect("ids and numbers are visible ASCII")
}

/// Which messages are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct MessagesQuery {
    range: Range,
    consistency: Consistency,
}

impl MessagesQuery {
    fn parse(raw: Option<&str>) -> Result<MessagesQuery, QueryError> {
        let query = Query::parse(raw)?;
        let limit = query
            .number("limit", 1..=LIMIT_MAX)?
            .unwrap_or(LIMIT_DEFAULT);
        let range = match (query.seq("before")?, query.seq("after")?) {
            (None, None) => Range::Latest { limit },
            (Some(seq), None) => Range::Before { seq, limit },
            (None, Some(seq)) => Range::After { seq, limit },
            (Some(_), Some(_)) => {
                return Err(QueryError::Exclusive {
                    one: "before",
                    other: "after",
                });
            }
        };
        let consistency = query.consistency()?;
        Ok(MessagesQuery { range, consistency })
    }

    /// The query of the page that follows, going the same way.
    fn next(&self, page: &Messages) -> Option<String> {
        let last = page.messages.last()?.seq;
        let (more, limit, name) = match self.range {
            Range::Latest { limit } | Range::Before { limit, .. } => (last > 1, limit, "before"),
            Range::After { limit, .. } => (last < page.head, limit, "after"),
        };
        let consistency = match self.consistency {
            Consistency::Linearizable => "",
            Consistency::Stale => "&consistency=stale",
        };
        more.then(|| format!("{name}={last}&limit={limit}{consistency}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let range = |raw| MessagesQuery::parse(raw).unwrap().range;
        assert_eq!(range(None), Range::Latest { limit: 50 });
        assert_eq!(range(Some("limit=1000")), Range::Latest { limit: 1_000 });
        assert_eq!(range(Some("before=7")), Range::Before { seq: 7, limit: 50 });
        assert_eq!(
            range(Some("after=0&limit=3")),
            Range::After { seq: 0, limit: 3 }
        );
        for bad in [
            "limit=0",
            "limit=1001",
            "before=1&after=1",
            "after=-1",
            "before=",
        ] {
            assert!(MessagesQuery::parse(Some(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_location_is_the_page_of_one_message() {
        let ids = ChannelIds {
            server: Uuid::from_u128(1),
            channel: Uuid::from_u128(2),
        };
        assert_eq!(
            location(ids, 7),
            "/api/servers/00000000-0000-0000-0000-000000000001/channels/\
             00000000-0000-0000-0000-000000000002/messages?after=6&limit=1"
        );
    }
}
