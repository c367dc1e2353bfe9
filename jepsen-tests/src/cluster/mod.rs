//! A whole cluster: one process per node, a directory for their data and logs,
//! and the faults that a test wants to see survived.
//!
//! All methods take `&self`, so that a test can strike while its other tasks go
//! on talking to the nodes. Everything is killed on drop; the directory is
//! removed then, unless the thread is panicking or `ACCORD_KEEP` is set.

pub(crate) mod config;
mod guard;
pub(crate) mod ports;
pub(crate) mod process;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::client::api::Api;
use crate::client::http::Http;
use crate::wait::wait_until;
use config::{ConfigFile, LimitOptions, NodeEntry, RaftOptions};
use guard::Guard;
use ports::free_port;
use process::{Launch, NodeProcess, Stopped};

/// The environment variable that keeps the data of successful tests too.
pub(crate) const KEEP_VARIABLE: &str = "ACCORD_KEEP";
/// The environment variable that names the binary under test.
const BINARY_VARIABLE: &str = "ACCORD_BIN";

/// How a cluster is started. `..ClusterOptions::new(3)` gives the rest.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// Number of nodes; their ids are 1 to this.
    pub nodes: u64,
    pub replication: u64,
    /// The cluster's name.
    pub name: String,
    pub raft: RaftOptions,
    pub limits: LimitOptions,
    /// Zones of the nodes, in their order; may be shorter than `nodes`.
    pub zones: Vec<String>,
    /// The product. `None` means the file that `ACCORD_BIN` names.
    pub binary: Option<PathBuf>,
    pub environment: Vec<(String, String)>,
    /// Appended to every cluster file.
    pub extra: String,
    /// Where and how nodes run, in their order; may be shorter than `nodes`.
    pub places: Vec<NodePlace>,
    /// How long a node may take until `/readyz` answers 200.
    pub ready_within: Duration,
    /// Remove the directory on drop when the thread is not panicking. A cluster
    /// in a static is never dropped; see `sweep_abandoned`.
    pub directory_prefix: String,
    /// Where the directory is made; the temporary directory if none.
    pub parent: Option<PathBuf>,
}

impl ClusterOptions {
    /// Replication is 3, or 1 for a single node.
    pub fn new(nodes: u64) -> Self {
        Self {
            nodes,
            replication: nodes.min(3),
            name: "accord-test".to_owned(),
            raft: RaftOptions::default(),
            limits: LimitOptions::default(),
            zones: Vec::new(),
            binary: None,
            environment: Vec::new(),
            extra: String::new(),
            places: Vec::new(),
            ready_within: Duration::from_secs(60),
            directory_prefix: "accord-test-".to_owned(),
            parent: None,
        }
    }
}

/// Where and how one node runs; what is `None` or empty is as usual: free ports of loopback, a
/// directory beside the others', no prefix.
#[derive(Debug, Clone, Default)]
pub struct NodePlace {
    pub api: Option<SocketAddr>,
    pub peer: Option<SocketAddr>,
    /// Where this node believes its peers to be, by their ids, where that is not where they are:
    /// there stands something between them.
    pub peers_seen: Vec<(u64, SocketAddr)>,
    pub data_dir: Option<PathBuf>,
    /// See [`Launch::prefix`].
    pub prefix: Vec<String>,
    /// For this node only, besides [`ClusterOptions::environment`].
    pub environment: Vec<(String, String)>,
}

/// How a node's own cluster file differs from that of the others: for nodes
/// that must be refused.
#[derive(Debug, Clone, Default)]
pub struct Oddity {
    pub cluster: Option<String>,
    pub replication: Option<u64>,
    /// Start it on this data directory instead of its own.
    pub data_dir: Option<PathBuf>,
    /// Appended to its file.
    pub extra: String,
}

#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    #[error("no binary to test: set {BINARY_VARIABLE} or ClusterOptions::binary")]
    NoBinary,
    #[error("no free port on loopback")]
    NoPort,
    #[error("{what}: {source}")]
    Io {
        what: String,
        #[source]
        source: io::Error,
    },
    #[error("node {node} {why}; the end of its log ({log}):\n{tail}")]
    Node {
        node: u64,
        why: String,
        log: String,
        tail: String,
    },
}

struct NodeSlot {
    entry: NodeEntry,
    peers_seen: Vec<(u64, SocketAddr)>,
    launch: Launch,
    process: Mutex<Option<NodeProcess>>,
}

/// A running cluster.
pub struct Cluster {
    options: ClusterOptions,
    binary: PathBuf,
    nodes: Vec<NodeSlot>,
    guard: Guard,
    directory: PathBuf,
}

impl Cluster {
    /// Starts every node and waits until all are ready.
    pub async fn start(options: ClusterOptions) -> Result<Self, ClusterError> {
        let cluster = Self::launch(options)?;
        cluster.wait_all_ready().await?;
        Ok(cluster)
    }

    /// Starts every node and does not wait.
    pub fn launch(options: ClusterOptions) -> Result<Self, ClusterError> {
        let cluster = Self::prepare(options)?;
        for node in cluster.ids() {
            cluster.start_node(node)?;
        }
        Ok(cluster)
    }

    /// Makes directories and files, and starts nothing.
    pub fn prepare(options: ClusterOptions) -> Result<Self, ClusterError> {
        let binary = options
            .binary
            .clone()
            .or_else(|| std::env::var_os(BINARY_VARIABLE).map(PathBuf::from))
            .ok_or(ClusterError::NoBinary)?;
        let directory = tempfile::Builder::new()
            .prefix(&options.directory_prefix)
            .tempdir_in(options.parent.clone().unwrap_or_else(std::env::temp_dir))
            .map_err(|source| io_error("making a directory for a cluster", source))?
            .keep();
        let guard = Guard::start().map_err(|source| io_error("starting the guard", source))?;
        let nodes = (1..=options.nodes)
            .map(|id| node_slot(&directory, &binary, id, &options))
            .collect::<Result<Vec<_>, _>>()?;
        let cluster = Self {
            options,
            binary,
            nodes,
            guard,
            directory,
        };
        for slot in &cluster.nodes {
            cluster.write_config(slot, &Oddity::default())?;
        }
        Ok(cluster)
    }

    /// The ids of all nodes, running or not.
    pub fn ids(&self) -> Vec<u64> {
        self.nodes.iter().map(|slot| slot.entry.id).collect()
    }

    /// All ids but `node`.
    pub fn others(&self, node: u64) -> Vec<u64> {
        self.ids().into_iter().filter(|id| *id != node).collect()
    }

    /// A client of this node, with connections of its own. Made for one
    /// runtime: do not keep it in a static.
    pub fn api(&self, node: u64) -> Api {
        Api::new(Http::new(), node, self.slot(node).entry.api)
    }

    /// Clients of these nodes.
    pub fn apis(&self, nodes: &[u64]) -> Vec<Api> {
        nodes.iter().map(|node| self.api(*node)).collect()
    }

    pub fn api_url(&self, node: u64) -> String {
        format!("http://{}", self.slot(node).entry.api)
    }

    pub fn api_addr(&self, node: u64) -> SocketAddr {
        self.slot(node).entry.api
    }

    pub fn peer_addr(&self, node: u64) -> SocketAddr {
        self.slot(node).entry.peer
    }

    pub fn data_dir(&self, node: u64) -> &Path {
        &self.slot(node).entry.data_dir
    }

    /// Where data, logs and cluster files lie.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Everything that this node wrote so far, over all its starts.
    pub fn log(&self, node: u64) -> String {
        process::read_log(self.log_path(node))
    }

    pub fn log_path(&self, node: u64) -> &Path {
        &self.slot(node).launch.log
    }

    /// The product under test.
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// The cluster file that this node is started with.
    pub fn config_path(&self, node: u64) -> &Path {
        &self.slot(node).launch.config
    }

    /// How the node's last process ended; none while it runs, or if it was never started.
    pub fn exit_status(&self, node: u64) -> Option<ExitStatus> {
        let mut process = lock(&self.slot(node).process);
        process.as_mut().and_then(|process| process.ended().ok()?)
    }

    /// Runs another command of the product on this node's configuration to its end, such as
    /// `rejoin`; not in the node's network, and without its own environment.
    ///
    /// Blocks; meant for commands that take moments.
    pub fn run_command(&self, node: u64, subcommand: &str) -> Result<Output, ClusterError> {
        let launch = Launch {
            prefix: Vec::new(),
            environment: self.options.environment.clone(),
            ..self.slot(node).launch.clone()
        };
        launch
            .command(subcommand)
            .output()
            .map_err(|source| io_error(&format!("running {subcommand}"), source))
    }

    pub fn is_running(&self, node: u64) -> bool {
        lock(&self.slot(node).process)
            .as_mut()
            .is_some_and(|process| matches!(process.ended(), Ok(None)))
    }

    pub fn pid(&self, node: u64) -> Option<u32> {
        lock(&self.slot(node).process)
            .as_ref()
            .map(NodeProcess::pid)
    }

    /// Starts a node that is not running; does not wait until it is ready.
    pub fn start_node(&self, node: u64) -> Result<(), ClusterError> {
        let slot = self.slot(node);
        let mut process = lock(&slot.process);
        if process
            .as_mut()
            .is_some_and(|old| matches!(old.ended(), Ok(None)))
        {
            return Err(self.node_error(node, "is already running"));
        }
        let started = NodeProcess::start(&slot.launch, &self.guard)
            .map_err(|source| io_error(&format!("starting node {node}"), source))?;
        *process = Some(started);
        Ok(())
    }

    /// Starts a node with a cluster file that differs from the others'. The
    /// next `start_odd` with `Oddity::default()` puts the right file back.
    pub fn start_odd(&self, node: u64, oddity: &Oddity) -> Result<(), ClusterError> {
        self.write_config(self.slot(node), oddity)?;
        self.start_node(node)
    }

    /// SIGKILL; returns when the process is gone. A node that does not run is
    /// left alone.
    pub fn kill(&self, node: u64) -> Result<(), ClusterError> {
        match lock(&self.slot(node).process).as_mut() {
            Some(process) => process
                .kill()
                .map_err(|source| io_error(&format!("killing node {node}"), source)),
            None => Ok(()),
        }
    }

    /// SIGKILL to all at once, as a power failure would.
    pub fn kill_all(&self) -> Result<(), ClusterError> {
        // Paused first, so that no node notices that another one died.
        for slot in &self.nodes {
            if let Some(process) = lock(&slot.process).as_mut()
                && matches!(process.ended(), Ok(None))
            {
                process
                    .pause()
                    .map_err(|source| io_error("pausing before the kill", source))?;
            }
        }
        self.ids().into_iter().try_for_each(|node| self.kill(node))
    }

    /// SIGTERM without waiting for the end.
    pub fn terminate(&self, node: u64) -> Result<(), ClusterError> {
        self.signal(node, "stopping", NodeProcess::terminate)
    }

    /// SIGTERM, then waits for the end, at most for `within`.
    pub async fn stop(&self, node: u64, within: Duration) -> Result<Stopped, ClusterError> {
        let started = Instant::now();
        self.terminate(node)?;
        self.wait_ended(node, started, within).await
    }

    /// Waits for the end of a node that was told to stop or that should refuse
    /// to start; `started` is where `Stopped::took` begins.
    pub async fn wait_ended(
        &self,
        node: u64,
        started: Instant,
        within: Duration,
    ) -> Result<Stopped, ClusterError> {
        let ended = wait_until("the end of a process", within, || {
            let ended = lock(&self.slot(node).process)
                .as_mut()
                .map(|process| process.ended());
            async move {
                match ended {
                    Some(Ok(Some(status))) => Ok(status),
                    Some(Ok(None)) => Err("it still runs".to_owned()),
                    Some(Err(error)) => Err(error.to_string()),
                    None => Err("it was never started".to_owned()),
                }
            }
        })
        .await
        .map_err(|error| self.node_error(node, &error.to_string()))?;
        Ok(Stopped {
            status: ended,
            took: started.elapsed(),
        })
    }

    /// SIGSTOP: the node keeps its connections and answers nothing.
    pub fn pause(&self, node: u64) -> Result<(), ClusterError> {
        self.signal(node, "pausing", NodeProcess::pause)
    }

    /// SIGCONT.
    pub fn resume(&self, node: u64) -> Result<(), ClusterError> {
        self.signal(node, "resuming", NodeProcess::resume)
    }

    /// Kills the node if it runs, starts it, and waits until it is ready.
    pub async fn restart(&self, node: u64) -> Result<(), ClusterError> {
        self.kill(node)?;
        self.start_node(node)?;
        self.wait_ready(node).await
    }

    /// Waits until `/readyz` of this node answers 200.
    pub async fn wait_ready(&self, node: u64) -> Result<(), ClusterError> {
        let api = self.api(node);
        let watched = wait_until("readiness", self.options.ready_within, || {
            let api = api.clone();
            // A process that has ended will never be ready: stop waiting.
            let running = self.is_running(node);
            async move {
                if !running {
                    return Ok(Err("ended before it was ready".to_owned()));
                }
                match api.get("/readyz").await {
                    Ok(response) if response.status == 200 => Ok(Ok(())),
                    Ok(response) => Err(format!("/readyz answers {}", response.status)),
                    Err(error) => Err(error.to_string()),
                }
            }
        })
        .await;
        match watched {
            Ok(Ok(())) => Ok(()),
            Ok(Err(why)) => Err(self.node_error(node, &why)),
            Err(timed_out) => Err(self.node_error(node, &format!("is not ready: {timed_out}"))),
        }
    }

    /// Waits until every node that runs is ready.
    pub async fn wait_all_ready(&self) -> Result<(), ClusterError> {
        for node in self.ids() {
            self.wait_ready(node).await?;
        }
        Ok(())
    }

    fn signal(
        &self,
        node: u64,
        what: &str,
        send: impl FnOnce(&mut NodeProcess) -> io::Result<()>,
    ) -> Result<(), ClusterError> {
        match lock(&self.slot(node).process).as_mut() {
            Some(process) => {
                send(process).map_err(|source| io_error(&format!("{what} node {node}"), source))
            }
            None => Err(self.node_error(node, "was never started")),
        }
    }

    fn write_config(&self, slot: &NodeSlot, oddity: &Oddity) -> Result<(), ClusterError> {
        let mut nodes: Vec<NodeEntry> = self.nodes.iter().map(|s| s.entry.clone()).collect();
        for (id, seen) in &slot.peers_seen {
            for node in nodes.iter_mut().filter(|node| node.id == *id) {
                node.peer = *seen;
            }
        }
        if let Some(data_dir) = &oddity.data_dir {
            for node in nodes.iter_mut().filter(|node| node.id == slot.entry.id) {
                node.data_dir.clone_from(data_dir);
            }
        }
        let file = ConfigFile {
            cluster: oddity
                .cluster
                .clone()
                .unwrap_or_else(|| self.options.name.clone()),
            replication: oddity.replication.unwrap_or(self.options.replication),
            nodes,
            raft: self.options.raft.clone(),
            limits: self.options.limits.clone(),
            extra: format!("{}{}", self.options.extra, oddity.extra),
        };
        std::fs::write(&slot.launch.config, file.to_toml())
            .map_err(|source| io_error("writing a cluster file", source))
    }

    fn slot(&self, node: u64) -> &NodeSlot {
        self.nodes
            .iter()
            .find(|slot| slot.entry.id == node)
            .unwrap_or_else(|| panic!("a test asked for node {node}, which this cluster lacks"))
    }

    fn node_error(&self, node: u64, why: &str) -> ClusterError {
        let log = self.log_path(node);
        ClusterError::Node {
            node,
            why: why.to_owned(),
            log: log.display().to_string(),
            tail: process::log_tail(log),
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for slot in &self.nodes {
            lock(&slot.process).take();
        }
        if std::thread::panicking() || std::env::var_os(KEEP_VARIABLE).is_some() {
            eprintln!(
                "data and logs of this cluster are kept in {}",
                self.directory.display()
            );
        } else if let Err(error) = std::fs::remove_dir_all(&self.directory) {
            eprintln!("{} could not be removed: {error}", self.directory.display());
        }
    }
}

/// Removes directories of clusters that lived in a static of a test process
/// that has ended. Such a cluster is never dropped; its processes die by the
/// guard, its directory stays until the next run sweeps it.
///
/// The directories are `{prefix}{process id}-…` in the temporary directory.
pub fn sweep_abandoned(prefix: &str) {
    let Ok(entries) = std::fs::read_dir(std::env::temp_dir()) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name
            .strip_prefix(prefix)
            .and_then(|rest| rest.split('-').next())
            .and_then(|digits| digits.parse::<u32>().ok());
        if let Some(pid) = owner
            && !Path::new(&format!("/proc/{pid}")).exists()
            && let Err(error) = std::fs::remove_dir_all(entry.path())
        {
            eprintln!("{} could not be removed: {error}", entry.path().display());
        }
    }
}

fn node_slot(
    directory: &Path,
    binary: &Path,
    id: u64,
    options: &ClusterOptions,
) -> Result<NodeSlot, ClusterError> {
    let address = |given: Option<SocketAddr>| match given {
        Some(address) => Ok(address),
        None => free_port()
            .map(|port| SocketAddr::from(([127, 0, 0, 1], port)))
            .ok_or(ClusterError::NoPort),
    };
    let position = usize::try_from(id - 1).unwrap_or(usize::MAX);
    let place = options.places.get(position).cloned().unwrap_or_default();
    let environment = [options.environment.clone(), place.environment].concat();
    Ok(NodeSlot {
        entry: NodeEntry {
            id,
            api: address(place.api)?,
            peer: address(place.peer)?,
            data_dir: place
                .data_dir
                .unwrap_or_else(|| directory.join(format!("node-{id}"))),
            zone: options.zones.get(position).cloned(),
        },
        peers_seen: place.peers_seen,
        launch: Launch {
            binary: binary.to_owned(),
            prefix: place.prefix,
            config: directory.join(format!("cluster-{id}.toml")),
            node: id,
            log: directory.join(format!("node-{id}.log")),
            environment,
        },
        process: Mutex::new(None),
    })
}

fn io_error(what: &str, source: io::Error) -> ClusterError {
    ClusterError::Io {
        what: what.to_owned(),
        source,
    }
}

/// A test that panicked while it held the lock left a process handle, which is
/// as good as before.
fn lock(process: &Mutex<Option<NodeProcess>>) -> MutexGuard<'_, Option<NodeProcess>> {
    process.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// A stand-in for the product: a shell script.
    fn scripted(script: &str) -> (tempfile::TempDir, ClusterOptions) {
        let directory = tempfile::tempdir().unwrap();
        let binary = directory.path().join("fake");
        std::fs::write(&binary, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&binary, std::fs::Permissions::from_mode(0o755)).unwrap();
        let options = ClusterOptions {
            binary: Some(binary),
            ready_within: Duration::from_millis(400),
            ..ClusterOptions::new(3)
        };
        (directory, options)
    }

    #[tokio::test]
    async fn a_node_that_ends_at_once_is_reported_with_its_log() {
        let (_kept, options) = scripted("echo \"bad key in $3\" >&2; exit 3");
        let error = Cluster::start(options).await.err().unwrap().to_string();
        assert!(error.contains("ended before it was ready"), "{error}");
        assert!(error.contains("bad key in"), "{error}");
    }

    #[tokio::test]
    async fn a_node_that_never_gets_ready_is_reported_and_nothing_stays() {
        let (_kept, options) = scripted("echo waiting; exec sleep 600");
        let cluster = Cluster::launch(options).unwrap();
        let error = cluster.wait_all_ready().await.unwrap_err().to_string();
        assert!(error.contains("is not ready"), "{error}");
        assert!(error.contains("waiting"), "{error}");
        let directory = cluster.directory().to_owned();
        let pids: Vec<u32> = cluster
            .ids()
            .iter()
            .map(|n| cluster.pid(*n).unwrap())
            .collect();
        drop(cluster);
        assert!(!directory.exists());
        assert!(
            pids.iter()
                .all(|pid| !Path::new(&format!("/proc/{pid}")).exists())
        );
    }

    #[tokio::test]
    async fn stopping_gives_the_status_and_killing_needs_no_consent() {
        let (_kept, options) =
            scripted("trap 'echo bye; exit 7' TERM; echo up; while :; do sleep 0.02; done");
        let cluster = Cluster::launch(options).unwrap();
        wait_until("the trap", Duration::from_secs(10), || async {
            if cluster.log(1).contains("up") {
                Ok(())
            } else {
                Err(cluster.log(1))
            }
        })
        .await
        .unwrap();
        let stopped = cluster.stop(1, Duration::from_secs(10)).await.unwrap();
        assert_eq!(stopped.status.code(), Some(7));
        assert!(cluster.log(1).contains("bye"));
        assert!(!cluster.is_running(1));

        cluster.pause(2).unwrap();
        assert!(cluster.is_running(2));
        cluster.resume(2).unwrap();
        cluster.pause(2).unwrap();
        cluster.kill(2).unwrap();
        assert!(!cluster.is_running(2));
        assert!(cluster.pause(2).is_err(), "a dead process gets no signals");

        let before = cluster.pid(3).unwrap();
        cluster.kill_all().unwrap();
        cluster.start_node(3).unwrap();
        assert_ne!(cluster.pid(3).unwrap(), before);
        assert!(cluster.start_node(3).is_err(), "it runs already");
    }

    #[test]
    fn every_node_has_its_own_addresses_and_the_same_view_of_the_cluster() {
        let (_kept, options) = scripted("exit 0");
        let cluster = Cluster::prepare(options).unwrap();
        let texts: Vec<String> = (1..=3)
            .map(|id| {
                std::fs::read_to_string(cluster.directory().join(format!("cluster-{id}.toml")))
                    .unwrap()
            })
            .collect();
        assert!(texts.iter().all(|text| *text == texts[0]));
        for node in cluster.ids() {
            assert!(texts[0].contains(&cluster.api_addr(node).to_string()));
            assert!(texts[0].contains(&cluster.peer_addr(node).to_string()));
        }
        assert_eq!(cluster.others(2), [1, 3]);
    }

    #[test]
    fn an_odd_node_differs_only_in_its_own_file() {
        let (_kept, options) = scripted("exit 0");
        let cluster = Cluster::prepare(options).unwrap();
        let oddity = Oddity {
            cluster: Some("tuesday".to_owned()),
            ..Oddity::default()
        };
        cluster.start_odd(3, &oddity).unwrap();
        let read = |id: u64| {
            std::fs::read_to_string(cluster.directory().join(format!("cluster-{id}.toml"))).unwrap()
        };
        assert!(read(3).contains("name = \"tuesday\""));
        assert!(!read(1).contains("tuesday"));
    }
}
