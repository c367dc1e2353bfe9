//! One node's life: start, ready, stop.
//!
//! Stopping takes at most [`STOP_MAX`] and goes in this order: no new connections and not ready
//! any more; leadership moved away; what sockets have sent is answered and they are closed with
//! 1001; the store is closed. A second signal ends the process at once.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use accord_raft::Node;
use tokio::net::TcpListener;
use tokio::signal::unix::Signal;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;
use tokio::sync::Semaphore;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::agents::AgentError;
use crate::agents::Agents;
use crate::agents::Executor;
use crate::api;
use crate::app::App;
use crate::app::Open;
use crate::app::Phase;
use crate::app::Slots;
use crate::config::Config;
use crate::config::NodeConfig;
use crate::counters::Counters;
use crate::delivery::Hub;
use crate::listen;
use crate::process;

/// All of stopping, measured from the signal.
const STOP_MAX: Duration = Duration::from_millis(4_500);
/// Moving leadership away, at most.
const DRAIN_MAX: Duration = Duration::from_millis(2_000);
/// Kept of the whole for closing the store.
const STORE_CLOSE_MIN: Duration = Duration::from_millis(1_000);
/// How often readiness is looked at until there is some, and afterwards.
const READY_CHECK_FIRST: Duration = Duration::from_millis(20);
const READY_CHECK: Duration = Duration::from_secs(1);
/// Files that the store, peers and plain requests may need besides sockets.
const FILES_BESIDES_SOCKETS: u64 = 5_000;

/// Why a node could not start; each is a sentence.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("cannot resolve {key} = \"{address}\": {source}")]
    Resolve {
        key: &'static str,
        address: String,
        source: io::Error,
    },
    #[error("cannot listen on {address} for clients: {source}")]
    Listen { address: String, source: io::Error },
    #[error("cannot handle signals: {0}")]
    Signals(io::Error),
    #[error("{0}")]
    Agent(#[from] AgentError),
    #[error("{0}")]
    Start(#[from] accord_raft::StartError),
}

/// Runs a node until it is told to stop.
pub async fn serve(
    config: Config,
    own: NodeConfig,
    exit_with_parent: bool,
) -> Result<(), ServeError> {
    let mut signals = Signals::new()?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        cluster = %config.cluster,
        node = own.id,
        nodes = config.nodes.len(),
        api = %own.api,
        peer = %own.peer,
        data_dir = %own.data_dir.display(),
        "starting"
    );
    let agents = Agents::start(config.agents.clone())?;
    let sockets_max = sockets_within_open_files(config.limits.sockets_max);
    // Before anything else is opened, so that a second process on the same address fails early.
    let listener = TcpListener::bind(&own.api)
        .await
        .map_err(|source| ServeError::Listen {
            address: own.api.clone(),
            source,
        })?;
    let listen = resolve("peer", &own.peer).await?;
    let hub = Hub::new();
    let options = config.node_options(&own, listen);
    let executor = Executor::new(agents.clone(), own.id, config.limits.message_bytes_max);
    let (phase, phase_seen) = watch::channel(Phase::Running);
    let node = tokio::select! {
        node = Node::start(options, hub.clone(), Arc::new(executor.clone())) => node?,
        // Nothing is open yet that would have to be closed.
        () = told_to_stop(&mut signals, exit_with_parent) => return Ok(()),
    };
    executor.started(node.clone());
    let app = Arc::new(App {
        node: node.clone(),
        hub,
        agents,
        executor,
        counters: Counters::default(),
        limits: config.limits,
        nodes: config.nodes,
        sockets: Slots::new(sockets_max),
        event_streams: Arc::new(Semaphore::new(api::EVENT_STREAMS_MAX)),
        open: Open::new(),
        phase: phase_seen,
    });
    let router = api::router(app.clone());
    let accepting = tokio::spawn(listen::serve(listener, app.clone(), router));
    let readiness = tokio::spawn(report_readiness(app.clone(), own.api.clone()));
    told_to_stop(&mut signals, exit_with_parent).await;
    tokio::spawn(async move {
        signals.next().await;
        tracing::warn!("a second signal: exiting at once");
        std::process::exit(1);
    });
    readiness.abort();
    stop(&app, &phase).await;
    accepting.abort();
    Ok(())
}

async fn stop(app: &App, phase: &watch::Sender<Phase>) {
    let began = Instant::now();
    let end = began + STOP_MAX;
    tracing::info!(connections = app.open.count(), "stopping");
    phase.send_replace(Phase::Draining);
    if tokio::time::timeout(DRAIN_MAX, app.node.drain())
        .await
        .is_err()
    {
        tracing::warn!("leadership could not be moved away in time");
    }
    phase.send_replace(Phase::Closing);
    let connections_end = end - STORE_CLOSE_MIN;
    if tokio::time::timeout_at(connections_end, app.open.none())
        .await
        .is_err()
    {
        tracing::warn!(connections = app.open.count(), "connections are cut off");
    }
    if tokio::time::timeout_at(end, app.node.stop()).await.is_err() {
        // Whatever was acknowledged is synced; the next start replays the rest.
        tracing::warn!("the store could not be closed in time");
    }
    let took_ms = began.elapsed().as_millis() as u64;
    tracing::info!(took_ms, "stopped");
}

/// Says when the node becomes able to serve, and when it no longer is.
async fn report_readiness(app: Arc<App>, api: String) {
    let mut was: Option<Result<(), String>> = None;
    loop {
        let is = app.ready();
        if was.as_ref() != Some(&is) {
            match &is {
                Ok(()) => tracing::info!(url = %format_args!("http://{api}"), "ready"),
                Err(reason) if was == Some(Ok(())) => tracing::warn!(%reason, "cannot serve"),
                Err(reason) => tracing::info!(%reason, "waiting"),
            }
        }
        let pause = match &is {
            Ok(()) => READY_CHECK,
            Err(_) => READY_CHECK_FIRST,
        };
        was = Some(is);
        #[expect(
            clippy::disallowed_methods,
            reason = "readiness is asked for, it does not tell"
        )]
        tokio::time::sleep(pause).await;
    }
}

/// Each socket is a file. Where the system allows fewer than `sockets_max`, that is the bound:
/// refusing a socket is better than a store that cannot open a file.
fn sockets_within_open_files(sockets_max: usize) -> usize {
    let Some(open_files) = process::raise_open_files() else {
        return sockets_max;
    };
    let rest = open_files
        .saturating_sub(FILES_BESIDES_SOCKETS)
        .max(open_files / 2);
    let within = usize::try_from(rest).unwrap_or(usize::MAX).min(sockets_max);
    if within < sockets_max {
        tracing::info!(
            open_files,
            sockets = within,
            "sockets are bounded by the limit of open files"
        );
    }
    within
}

async fn resolve(key: &'static str, address: &str) -> Result<SocketAddr, ServeError> {
    let error = |source| ServeError::Resolve {
        key,
        address: address.to_owned(),
        source,
    };
    let mut found = tokio::net::lookup_host(address).await.map_err(error)?;
    found
        .next()
        .ok_or_else(|| error(io::Error::other("it has no address")))
}

/// The two signals that mean the same: stop, please.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Signals, ServeError> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate()).map_err(ServeError::Signals)?,
            interrupt: signal(SignalKind::interrupt()).map_err(ServeError::Signals)?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

async fn told_to_stop(signals: &mut Signals, exit_with_parent: bool) {
    let parent_gone = async {
        match exit_with_parent {
            true => parent_gone().await,
            false => std::future::pending().await,
        }
    };
    tokio::select! {
        () = signals.next() => {}
        () = parent_gone => tracing::warn!("the supervisor has gone"),
    }
}

/// Returns when standard input ends, which is a pipe that the supervisor holds open while it lives.
async fn parent_gone() {
    // A thread of its own: reading standard input cannot be cancelled, and a runtime's blocking
    // thread would keep the process from ending.
    let (gone, seen) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        let _ = gone.send(());
    });
    let _ = seen.await;
}
