//! The HTTP API: paths, methods, and what all answers have in common.
//!
//! Any node answers any request; forwarding happens below, in the store. Everything that is not a
//! success is a [`problem::Problem`].

mod agents;
mod channels;
mod cluster;
mod events;
pub mod extract;
mod health;
mod jobs;
mod messages;
mod metrics;
mod paging;
pub mod problem;
pub mod query;
mod scheduled;
mod servers;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::extract::State;
use axum::http::HeaderValue;
use axum::http::header;
use axum::middleware;
use axum::middleware::Next;
use axum::response::Response;
use axum::routing::get;

use crate::app::App;
use crate::socket;
pub use events::EVENT_STREAMS_MAX;
use problem::Kind;
use problem::Problem;

/// All paths of the node.
pub fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/api", get(root))
        .route("/api/", get(root))
        .route("/api/servers", get(servers::list).post(servers::create))
        .route(
            "/api/servers/{server}/channels",
            get(channels::list).post(channels::create),
        )
        .route(
            "/api/servers/{server}/channels/{channel}/messages",
            get(messages::list).post(messages::post),
        )
        .route(
            "/api/servers/{server}/channels/{channel}/connect",
            get(socket::connect),
        )
        .route(
            "/api/servers/{server}/channels/{channel}/events",
            get(events::stream),
        )
        .route("/api/agents", get(agents::list))
        .route(
            "/api/servers/{server}/channels/{channel}/jobs",
            get(jobs::list),
        )
        .route(
            "/api/servers/{server}/channels/{channel}/jobs/{job}",
            get(jobs::show).delete(jobs::cancel),
        )
        .route(
            "/api/servers/{server}/channels/{channel}/scheduled",
            get(scheduled::list),
        )
        .route(
            "/api/servers/{server}/channels/{channel}/scheduled/{scheduled}",
            get(scheduled::show).delete(scheduled::cancel),
        )
        .route("/api/cluster", get(cluster::overview))
        .route("/api/cluster/channels/{channel}", get(cluster::channel))
        .route("/livez", get(health::live))
        .route("/readyz", get(health::ready))
        .route("/metrics", get(metrics::show))
        .fallback(unknown_path)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(middleware::from_fn_with_state(app.clone(), count))
        .with_state(app)
}

async fn root() -> Response {
    json(b"{\"api\":true}".to_vec())
}

async fn unknown_path() -> Problem {
    Problem::new(Kind::UnknownPath, "There is nothing at this path.")
}

/// The router adds `Allow`.
async fn method_not_allowed() -> Problem {
    Problem::new(
        Kind::MethodNotAllowed,
        "This path exists, but not for this method; see the header Allow.",
    )
}

async fn count(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    app.counters.http_answered(response.status().as_u16());
    response
}

/// An answer of JSON that is encoded already.
fn json(bytes: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(bytes));
    let value = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, value);
    response
}

/// An answer of a value that has a JSON form.
fn json_of<T: serde::Serialize>(value: &T) -> Response {
    let mut out = Vec::with_capacity(256);
    crate::delivery::encode::write_json(&mut out, value);
    json(out)
}

/// Adds `Link: <path?…>; rel="next"`.
fn link_next(response: &mut Response, path: &str, query: &str) {
    // Paths have come through the parser of HTTP and queries are numbers and words of ours.
    if let Ok(value) = HeaderValue::try_from(format!("<{path}?{query}>; rel=\"next\"")) {
        response.headers_mut().insert(header::LINK, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links() {
        let mut response = json(Vec::new());
        link_next(&mut response, "/api/servers", "cursor=7&limit=2");
        assert_eq!(
            response.headers()["link"],
            "</api/servers?cursor=7&limit=2>; rel=\"next\""
        );
    }
}
