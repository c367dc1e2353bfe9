//! The incoming side: the listener, and the connections on which we answer.
//!
//! A stranger costs one of a bounded number of places for a bounded time, and nothing else. Of each
//! node one connection is served: the newest, and only after the reading of the one before has ended.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use super::handshake::{self, Failure};
use super::hello::{Reason, Refusal};
use super::lane::Lane;
use super::link::{End, Link, Role};
use super::{NodeId, Shared, locked};
use crate::edge::{TcpListener, TcpStream};

/// Connections that have not agreed yet; each holds a socket and at most 8 KiB.
const HANDSHAKES_MAX: usize = 128;
/// After a failed accept (no file descriptors left, say), which would fail again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The connection that serves a node.
pub(super) struct Incoming {
    pub(super) lane: Arc<Lane>,
    /// Resolves when the connection is no longer read.
    ended: oneshot::Receiver<()>,
}

pub(super) async fn run(shared: Arc<Shared>, listener: TcpListener) {
    let mut connections = JoinSet::new();
    tokio::select! {
        () = shared.until_stopped() => {}
        () = accept_for_ever(&shared, &listener, &mut connections) => {}
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn accept_for_ever(
    shared: &Arc<Shared>,
    listener: &TcpListener,
    connections: &mut JoinSet<()>,
) {
    let places = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                let text = format!("cannot accept connections: {error}");
                if shared.may_warn(&text) {
                    warn!("{text}");
                }
                #[expect(
                    clippy::disallowed_methods,
                    reason = "nothing says when there are file descriptors again"
                )]
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            let text = format!("{HANDSHAKES_MAX} connections are in their handshake already");
            note(
                shared,
                from,
                &Failure::Ours(Refusal::new(Reason::TooMany, text)),
            );
            continue;
        };
        let shared = Arc::clone(shared);
        connections.spawn(async move {
            let agreed = agree(&shared, stream, from).await;
            drop(place);
            if let Some((node, stream)) = agreed {
                serve(&shared, node, stream).await;
            }
        });
    }
}

async fn agree(
    shared: &Arc<Shared>,
    mut stream: TcpStream,
    from: SocketAddr,
) -> Option<(NodeId, TcpStream)> {
    let attempt = async {
        stream.set_nodelay(true)?;
        handshake::accept(shared, &mut stream).await
    };
    let timeout = shared.config.timing.handshake_timeout;
    let agreed = tokio::select! {
        () = shared.until_stopped() => return None,
        agreed = tokio::time::timeout(timeout, attempt) => agreed,
    };
    let too_late = |_| {
        let text = format!(
            "the handshake was not done after {} ms",
            timeout.as_millis()
        );
        Err(Failure::Ours(Refusal::new(Reason::TimedOut, text)))
    };
    match agreed.unwrap_or_else(too_late) {
        Ok(node) => Some((node, stream)),
        Err(failure) => {
            note(shared, from, &failure);
            None
        }
    }
}

/// From agreed to ended. Each connection waits for the end of the one that it replaces, also if it has
/// been replaced itself by then: so the ends are in the order of the replacements.
async fn serve(shared: &Arc<Shared>, node: NodeId, stream: TcpStream) {
    let lane = Arc::new(Lane::new());
    let (has_ended, ended) = oneshot::channel();
    let replaced = locked(&shared.incoming).insert(
        node,
        Incoming {
            lane: Arc::clone(&lane),
            ended,
        },
    );
    if shared.is_stopped() {
        lane.close();
    }
    if let Some(replaced) = replaced {
        replaced.lane.close();
        // An error is an end too: the task is gone.
        let _ = replaced.ended.await;
    }
    shared.counters.accepts.add(1);
    debug!(peer = node, "serving a connection of peer");
    if let Some(peer) = shared.peers.get(&node).filter(|peer| !peer.is_up()) {
        // It is there: no need to sit out the pause between two dials.
        peer.redial.notify_one();
    }
    let end = Link::new(
        Arc::clone(shared),
        Role::Accepted(node),
        Arc::clone(&lane),
        stream,
    )
    .await;
    drop(has_ended);

    let mut incoming = locked(&shared.incoming);
    if incoming
        .get(&node)
        .is_some_and(|newest| Arc::ptr_eq(&newest.lane, &lane))
    {
        incoming.remove(&node);
    }
    drop(incoming);
    note_end(shared, node, &end);
}

fn note_end(shared: &Shared, node: NodeId, end: &End) {
    if let Some(refusal) = end.refusal() {
        shared.counters.refused(&refusal);
    }
    let text = format!("connection of node {node} ended: {end}");
    match end {
        End::Closed | End::HungUp => debug!(peer = node, "{text}"),
        End::Broken(_) | End::Silent => info!(peer = node, "{text}"),
        End::BadFrame(_) | End::Overflowed if shared.may_warn(&text) => {
            warn!(peer = node, "{text}")
        }
        End::BadFrame(_) | End::Overflowed => {}
    }
}

/// The address is logged but is not part of what is compared: every attempt has another port.
fn note(shared: &Shared, from: SocketAddr, failure: &Failure) {
    let text = match failure {
        // A port scan, or a node that stopped meanwhile.
        Failure::Broken(error) if error.kind() == io::ErrorKind::UnexpectedEof => return,
        Failure::Broken(error) => format!("a connection broke during its handshake: {error}"),
        Failure::Ours(refusal) => format!("refusing a connection: {refusal}"),
        Failure::Theirs(refusal) => format!("a node that dialled us refuses: {refusal}"),
    };
    if let Some(refusal) = failure.refusal() {
        shared.counters.refused(refusal);
    }
    if shared.may_warn(&text) {
        warn!(%from, "{text}");
    }
}
