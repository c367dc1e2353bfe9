//! The cluster that is measured, and how many of its channels are awake.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::client::Client;
use super::figures::Sleep;
use super::usage::{self, Memory};
use super::{BenchError, Settings};
use crate::run::Say;
use crate::{Api, Cluster, ClusterOptions, NodePlace};

/// A data directory belongs to the cluster of this name for good.
const CLUSTER_NAME: &str = "accord-channels";
/// A node with a million channels may take its time to start.
const READY_WITHIN: Duration = Duration::from_secs(600);
const STOP_WITHIN: Duration = Duration::from_secs(60);
/// Between two looks at what is open: a look costs the node what it has open.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Between two lines about a wait.
const TELL_EVERY: Duration = Duration::from_secs(10);

pub struct Bench {
    cluster: Cluster,
    apis: Vec<Api>,
    clients: Vec<Arc<Client>>,
    /// Groups that a node has open without any channel: the directory, if it is counted.
    always_open: u64,
    sleep_within: Duration,
}

impl Bench {
    pub async fn start(settings: &Settings, data: &Path) -> Result<Self, BenchError> {
        let options = options(settings, data);
        let nodes = 1..=options.nodes;
        let cluster = Box::pin(Cluster::start(options)).await?;
        let clients = nodes.map(|node| Arc::new(Client::new(node, cluster.api_addr(node))));
        let mut bench = Self {
            clients: clients.collect(),
            apis: cluster.apis(&cluster.ids()),
            cluster,
            always_open: 0,
            sleep_within: settings.sleep_within,
        };
        // Nobody has asked for a channel yet.
        bench.always_open = bench.open().await?.into_iter().min().unwrap_or(0);
        Ok(bench)
    }

    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    pub fn ids(&self) -> Vec<u64> {
        self.cluster.ids()
    }

    pub fn clients(&self) -> &[Arc<Client>] {
        &self.clients
    }

    pub fn api(&self, node: u64) -> &Api {
        let found = self.apis.iter().find(|api| api.node() == node);
        found.expect("only nodes of this cluster are asked for")
    }

    pub fn pid(&self, node: u64) -> Result<u32, BenchError> {
        let pid = self.cluster.pid(node);
        pid.ok_or_else(|| BenchError::Unfit(format!("node {node} does not run")))
    }

    /// Channels that each running node has open.
    pub async fn open(&self) -> Result<Vec<u64>, BenchError> {
        let mut open = Vec::new();
        for api in &self.apis {
            if self.cluster.is_running(api.node()) {
                let view = api.cluster().await;
                let view = view.map_err(|error| BenchError::request("GET /api/cluster", &error))?;
                open.push(view.groups.open.saturating_sub(self.always_open));
            }
        }
        Ok(open)
    }

    pub fn memory(&self, node: u64) -> Result<Memory, BenchError> {
        let memory = Memory::of(self.pid(node)?);
        memory.map_err(|error| BenchError::io_of("reading /proc", error))
    }

    pub fn resident_bytes(&self) -> Result<Vec<u64>, BenchError> {
        let nodes = self.ids().into_iter();
        nodes
            .map(|node| Ok(self.memory(node)?.resident_bytes))
            .collect()
    }

    /// Processor time of each node so far.
    pub fn cpu_times(&self) -> Result<Vec<Duration>, BenchError> {
        let nodes = self.ids().into_iter();
        nodes
            .map(|node| {
                let time = usage::cpu_time(self.pid(node)?);
                time.map_err(|error| BenchError::io_of("reading /proc", error))
            })
            .collect()
    }

    /// Waits until no node has more than `most` channels open, as long as the settings allow.
    pub async fn sleep(&self, most: u64, say: Say<'_>) -> Result<Sleep, BenchError> {
        let started = Instant::now();
        let mut told = started;
        loop {
            let open = self.open().await?;
            let reached = open.iter().all(|open| *open <= most);
            if reached || started.elapsed() >= self.sleep_within {
                let sleep = Sleep {
                    reached,
                    waited_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
                    open,
                };
                say(&told_of(&sleep, most));
                return Ok(sleep);
            }
            if told.elapsed() >= TELL_EVERY {
                told = Instant::now();
                say(&format!("open on the nodes: {}", listed(&open)));
            }
            tokio::time::sleep_until(Instant::now() + LOOK_EVERY).await;
        }
    }

    /// SIGTERM, and waits for the end.
    pub async fn stop_node(&self, node: u64) -> Result<Duration, BenchError> {
        Ok(self.cluster.stop(node, STOP_WITHIN).await?.took)
    }

    /// Starts a node that does not run; how long it takes until `/readyz` says 200.
    pub async fn start_node(&self, node: u64) -> Result<Duration, BenchError> {
        let started = Instant::now();
        self.cluster.start_node(node)?;
        self.cluster.wait_ready(node).await?;
        Ok(started.elapsed())
    }

    /// All nodes at once: one that stops later must not wait for those that are gone.
    pub async fn stop(&self) -> Result<(), BenchError> {
        for node in self.ids() {
            self.cluster.terminate(node)?;
        }
        let started = std::time::Instant::now();
        for node in self.ids() {
            let ended = self.cluster.wait_ended(node, started, STOP_WITHIN);
            ended.await?;
        }
        Ok(())
    }
}

fn options(settings: &Settings, data: &Path) -> ClusterOptions {
    let places = (1..=settings.nodes).map(|node| NodePlace {
        data_dir: Some(data_dir(data, node)),
        ..NodePlace::default()
    });
    ClusterOptions {
        name: CLUSTER_NAME.to_owned(),
        binary: Some(settings.binary.clone()),
        environment: settings.environment.clone(),
        places: places.collect(),
        ready_within: READY_WITHIN,
        directory_prefix: format!("accord-run-{}-", std::process::id()),
        ..ClusterOptions::new(settings.nodes)
    }
}

fn data_dir(data: &Path, node: u64) -> PathBuf {
    data.join(format!("node-{node}"))
}

fn told_of(sleep: &Sleep, most: u64) -> String {
    let waited_s = sleep.waited_ms as f64 / 1_000.0;
    let open = listed(&sleep.open);
    match (sleep.reached, most) {
        (true, 0) => format!("asleep after {waited_s:.1} s"),
        (true, _) => format!("open after {waited_s:.1} s: {open}"),
        (false, 0) => format!("NOT asleep after {waited_s:.1} s; open: {open}. Going on awake"),
        (false, _) => format!("more than {most} open after {waited_s:.1} s: {open}. Going on"),
    }
}

fn listed(open: &[u64]) -> String {
    let open: Vec<String> = open.iter().map(ToString::to_string).collect();
    open.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_that_failed_is_told_as_such() {
        let sleep = |reached| Sleep {
            reached,
            waited_ms: 1_500,
            open: vec![7, 0, 2],
        };
        assert_eq!(told_of(&sleep(true), 0), "asleep after 1.5 s");
        assert!(told_of(&sleep(false), 0).starts_with("NOT asleep after 1.5 s; open: 7, 0, 2"));
        assert!(told_of(&sleep(false), 3).starts_with("more than 3 open"));
    }

    #[test]
    fn data_lies_where_it_was_asked_for() {
        let settings = Settings::new(1, 1, PathBuf::from("accord"));
        let options = options(&settings, Path::new("/d"));
        let places: Vec<_> = options
            .places
            .into_iter()
            .map(|place| place.data_dir)
            .collect();
        assert_eq!(places[2].as_deref(), Some(Path::new("/d/node-3")));
        assert_eq!(places.len(), 3);
    }
}
