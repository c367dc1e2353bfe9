//! From accepted connections to requests.
//!
//! Invariants: the number of connections that are not WebSockets is bounded, and so are the bytes
//! and the time that each may take before it has sent a whole request head, and the time that it may
//! leave an answer unread. What is no HTTP is counted and closed, and nothing else.

mod stall;

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::rt::TokioTimer;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::app::App;
use crate::app::Phase;
use stall::StallGuard;

/// A connection as hyper has it, and gives it back when it is upgraded.
pub type Accepted = StallGuard<TcpStream>;

/// Most connections that are not, or not yet, WebSockets; more wait in the kernel. Sockets have a
/// bound of their own (`sockets_max`) and free their place here when they are upgraded.
const CONNECTIONS_MAX: usize = 4_096;
/// Most bytes of a request line and headers, which bounds paths and queries too.
const REQUEST_HEAD_BYTES_MAX: usize = 16 << 10;
/// How long a connection may take for a request head, idle time before it included.
const REQUEST_HEAD_MAX: Duration = Duration::from_secs(30);
/// Pause after a failed accept: out of file descriptors, most likely, and trying at once would only
/// burn time until somebody closes.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// How long an answer may make no progress because its client does not read.
const STALL_MAX: Duration = Duration::from_secs(30);

/// Serves until the phase is no longer [`Phase::Running`]; connections that are open then go on.
pub async fn serve(listener: TcpListener, app: Arc<App>, router: Router) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut phase = app.phase.clone();
    let mut stopping = pin!(phase.wait_for(|phase| *phase != Phase::Running));
    loop {
        let accepted = async {
            let place = places.clone().acquire_owned().await;
            let place = place.expect("the semaphore is never closed");
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            biased;
            _ = &mut stopping => return,
            accepted = accepted => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let (app, router) = (app.clone(), router.clone());
                tokio::spawn(async move {
                    let _open = app.open.enter();
                    serve_connection(stream, &app, router).await;
                    drop(place);
                });
            }
            Err(error) if belongs_to_the_connection(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections");
                #[expect(clippy::disallowed_methods, reason = "the system says no sooner")]
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

async fn serve_connection(stream: TcpStream, app: &App, router: Router) {
    // Frames are small and go out whole; waiting for more would only delay them. If it cannot be
    // set the connection is ending anyway.
    let _ = stream.set_nodelay(true);
    let guarded: Accepted = StallGuard::new(stream, STALL_MAX);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_HEAD_MAX)
        .max_buf_size(REQUEST_HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(guarded), TowerToHyperService::new(router))
        .with_upgrades();
    let mut connection = pin!(connection);
    let mut phase = app.phase.clone();
    let stopping = async {
        // It cannot fail while the process lives; what it answers is a lock, not to be kept.
        let _ = phase.wait_for(|phase| *phase >= Phase::Closing).await;
    };
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = stopping => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        count(app, &error);
    }
}

fn count(app: &App, error: &hyper::Error) {
    let counters = &app.counters;
    if error.is_parse() {
        counters.http_rejected_malformed.one();
    } else if error.is_timeout() {
        counters.http_rejected_slow.one();
    } else if error.is_incomplete_message() {
        counters.http_rejected_incomplete.one();
    }
    tracing::debug!(%error, "a connection of a client ended");
}

/// Whether a failed accept says something about that connection only.
fn belongs_to_the_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}
