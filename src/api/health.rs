//! `/livez` and `/readyz`, for whoever decides where requests go and what is restarted.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;

use super::json;
use super::problem::Kind;
use super::problem::Problem;
use crate::app::App;

/// The process answers. Nothing else is asked: restarting a node because its peers are away would
/// not help.
pub async fn live() -> Response {
    json(b"{\"live\":true}".to_vec())
}

/// This node can serve writes and fresh reads now.
pub async fn ready(State(app): State<Arc<App>>) -> Result<Response, Problem> {
    match app.ready() {
        Ok(()) => Ok(json(b"{\"ready\":true}".to_vec())),
        Err(reason) => Err(Problem::new(Kind::NotReady, reason)),
    }
}
