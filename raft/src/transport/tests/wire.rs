//! A relay between one dialler and one listener, with hands on it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::super::locked;

pub(super) struct Wire {
    pub(super) addr: SocketAddr,
    state: Arc<State>,
    _accepting: JoinSet<()>,
}

#[derive(Default)]
struct State {
    /// Where it leads; nowhere: connections are closed at once.
    target: Mutex<Option<SocketAddr>>,
    relays: Mutex<JoinSet<()>>,
    is_still: watch::Sender<bool>,
}

impl Wire {
    pub(super) async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, Arc::clone(&state)));
        Self {
            addr,
            state,
            _accepting: accepting,
        }
    }

    pub(super) fn lead_to(&self, target: SocketAddr) {
        *locked(&self.state.target) = Some(target);
    }

    pub(super) fn lead_nowhere(&self) {
        *locked(&self.state.target) = None;
    }

    /// Breaks what goes through it now.
    pub(super) fn cut(&self) {
        locked(&self.state.relays).abort_all();
    }

    /// While still, nothing passes and nothing is closed.
    pub(super) fn hold_still(&self, still: bool) {
        self.state.is_still.send_replace(still);
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    while let Ok((near, _)) = listener.accept().await {
        let Some(target) = *locked(&state.target) else {
            continue;
        };
        let Ok(far) = TcpStream::connect(target).await else {
            continue;
        };
        let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
        let is_still = state.is_still.subscribe();
        locked(&state.relays).spawn(async move {
            tokio::select! {
                () = relay(near_in, far_out, is_still.clone()) => {}
                () = relay(far_in, near_out, is_still) => {}
            }
        });
    }
}

/// Until either end is gone.
async fn relay(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut is_still: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(bytes @ 1..) = from.read(&mut buffer).await {
        if is_still.wait_for(|still| !still).await.is_err()
            || to.write_all(&buffer[..bytes]).await.is_err()
        {
            return;
        }
    }
}
