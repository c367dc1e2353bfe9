//! `/api/servers/{server}/channels`.

use std::sync::Arc;

use accord_raft::Channel;
use accord_raft::names::ChannelName;
use axum::extract::RawQuery;
use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use serde::Serialize;
use uuid::Uuid;

use super::extract::Json;
use super::extract::ServerId;
use super::json_of;
use super::paging::PageQuery;
use super::problem::Problem;
use super::problem::Subject;
use crate::app::App;

#[derive(Debug, Deserialize)]
pub struct Create {
    name: String,
}

#[derive(Debug, Serialize)]
struct ChannelView<'a> {
    id: Uuid,
    name: &'a str,
    server_id: Uuid,
}

pub async fn list(
    State(app): State<Arc<App>>,
    ServerId(server): ServerId,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let query = PageQuery::parse(query.as_deref())?;
    let page = app
        .node
        .channels(server, query.consistency, query.after, query.limit)
        .await
        .map_err(|error| Problem::of_read(error, Subject::Server))?;
    let path = format!("/api/servers/{server}/channels");
    Ok(query.answer(&path, &page, view))
}

pub async fn create(
    State(app): State<Arc<App>>,
    ServerId(server): ServerId,
    Json(create): Json<Create>,
) -> Result<Response, Problem> {
    let name = ChannelName::parse(create.name)?;
    let channel = app.node.create_channel(server, name).await?;
    Ok(json_of(&view(&channel)))
}

fn view(channel: &Channel) -> ChannelView<'_> {
    ChannelView {
        id: Uuid::from_bytes(channel.id),
        name: &channel.name,
        server_id: Uuid::from_bytes(channel.server),
    }
}
