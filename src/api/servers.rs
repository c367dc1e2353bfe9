//! `/api/servers`.

use std::sync::Arc;

use accord_raft::Server;
use accord_raft::names::ServerName;
use axum::extract::RawQuery;
use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use serde::Serialize;
use uuid::Uuid;

use super::extract::Json;
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
struct ServerView<'a> {
    id: Uuid,
    name: &'a str,
}

pub async fn list(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let query = PageQuery::parse(query.as_deref())?;
    let page = app
        .node
        .servers(query.consistency, query.after, query.limit)
        .await
        .map_err(|error| Problem::of_read(error, Subject::Server))?;
    Ok(query.answer("/api/servers", &page, view))
}

pub async fn create(
    State(app): State<Arc<App>>,
    Json(create): Json<Create>,
) -> Result<Response, Problem> {
    let name = ServerName::parse(create.name)?;
    let server = app.node.create_server(name).await?;
    Ok(json_of(&view(&server)))
}

fn view(server: &Server) -> ServerView<'_> {
    ServerView {
        id: Uuid::from_bytes(server.id),
        name: &server.name,
    }
}
