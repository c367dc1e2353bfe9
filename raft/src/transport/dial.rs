//! The outgoing side: one task per peer dials it for ever, and tends the link while it is up.

use std::io;
use std::sync::Arc;
use tokio::time::Instant;

use tracing::{info, warn};

use super::Shared;
use super::handshake::{self, Failure};
use super::lane::Lane;
use super::link::{End, Link, Role};
use super::liveness::Backoff;
use super::peer::PeerState;
use crate::edge::{self, TcpStream};

/// Ends when the transport is stopped; a link that is up then is closed by whoever stops it, and
/// ends here in its own order.
pub(super) async fn run(shared: Arc<Shared>, peer: Arc<PeerState>) {
    let timing = &shared.config.timing;
    let mut backoff = Backoff::new(timing);
    let mut ups = 0;
    loop {
        let attempt = tokio::select! {
            () = shared.until_stopped() => return,
            attempt = connect(&shared, &peer) => attempt,
        };
        match attempt {
            Ok(stream) => {
                let up_at = Instant::now();
                tend(&shared, &peer, stream, ups > 0).await;
                ups += 1;
                // A link that breaks as soon as it is up is no better than a failed dial.
                if up_at.elapsed() >= timing.redial_max {
                    backoff.reset();
                }
            }
            Err(failure) => note(&shared, &peer, &failure),
        }
        let pause = backoff.pause(edge::random());
        tokio::select! {
            () = shared.until_stopped() => return,
            _ = tokio::time::timeout(pause, peer.redial.notified()) => {}
        }
    }
}

async fn connect(shared: &Arc<Shared>, peer: &PeerState) -> Result<TcpStream, Failure> {
    let attempt = async {
        let mut stream = TcpStream::connect(&peer.addr).await?;
        if stream.local_addr()? == stream.peer_addr()? {
            // A port of this machine where nobody listens can, by chance, be connected to itself.
            return Err(io::Error::from(io::ErrorKind::ConnectionRefused).into());
        }
        stream.set_nodelay(true)?;
        handshake::dial(shared, peer.node, &mut stream).await?;
        Ok(stream)
    };
    match tokio::time::timeout(shared.config.timing.handshake_timeout, attempt).await {
        Ok(result) => result,
        Err(_) => Err(Failure::Broken(io::ErrorKind::TimedOut.into())),
    }
}

/// From up to down. The order matters: calls can be made when `peer_up` is called, and have all ended
/// when `peer_down` is.
async fn tend(shared: &Arc<Shared>, peer: &Arc<PeerState>, stream: TcpStream, again: bool) {
    let lane = Arc::new(Lane::new());
    peer.went_up(Arc::clone(&lane));
    if shared.is_stopped() {
        lane.close();
    }
    shared.counters.connects.add(1);
    shared.counters.reconnects.add(usize::from(again));
    info!(peer = peer.node, addr = %peer.addr, "link to peer is up");
    shared.sightings_changed();
    shared.service.peer_up(peer.node);

    let end = Link::new(
        Arc::clone(shared),
        Role::Dialled(Arc::clone(peer)),
        lane,
        stream,
    )
    .await;

    peer.went_down(end.to_string());
    if let Some(refusal) = end.refusal() {
        shared.counters.refused(&refusal);
    }
    let text = format!("link to node {} is lost: {end}", peer.node);
    if matches!(end, End::Closed) {
        info!(peer = peer.node, "{text}");
    } else if shared.may_warn(&text) {
        warn!(peer = peer.node, "{text}");
    }
    shared.sightings_changed();
    shared.service.peer_down(peer.node);
}

fn note(shared: &Shared, peer: &PeerState, failure: &Failure) {
    let text = match failure {
        Failure::Broken(error) => {
            format!("cannot reach node {} at {}: {error}", peer.node, peer.addr)
        }
        Failure::Ours(refusal) => {
            format!("refusing node {} at {}: {refusal}", peer.node, peer.addr)
        }
        Failure::Theirs(refusal) => {
            format!("node {} at {} refuses: {refusal}", peer.node, peer.addr)
        }
    };
    if let Some(refusal) = failure.refusal() {
        shared.counters.refused(refusal);
    }
    if shared.may_warn(&text) {
        warn!(peer = peer.node, "{text}");
    }
    peer.failed(text);
}
