//! `cluster.toml`: what it may say, and the values that the node runs with.
//!
//! Reading goes through three steps: the text becomes a [`File`] (unknown keys are errors that name
//! the key), environment variables and flags replace single keys ([`Overrides`]), and the result is
//! checked as a whole and becomes a [`Config`]. A `Config` that exists is valid: addresses have
//! ports, numbers lie in their ranges, ids are unique.
//!
//! Paths are relative to the directory in which the process was started.

pub mod file;
mod overrides;

use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use accord_raft::Hibernation;
use accord_raft::Member;
use accord_raft::NodeOptions;
use accord_raft::SnapshotPolicy;
use accord_raft::Timing;

pub use overrides::Overrides;

use crate::agents::config::AgentConfig;
use file::File;

/// Most nodes of a cluster: each pair keeps a connection, and the directory group has them all.
pub const NODES_MAX: usize = 64;
/// Most replicas of a channel: more would only make every commit wait for more disks.
pub const REPLICATION_MAX: usize = 7;
/// Most threads that serve clients and peers.
pub const WORKER_THREADS_MAX: usize = 1_024;

/// Everything that one node needs to know.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Name of the cluster, the same on all nodes.
    pub cluster: String,
    /// Replicas of each channel, the same on all nodes.
    pub replication: usize,
    pub nodes: Vec<NodeConfig>,
    pub agents: Vec<AgentConfig>,
    pub limits: Limits,
    pub election_timeout: Duration,
    pub heartbeat: Duration,
    pub request_timeout: Duration,
    pub snapshot_after_entries: u64,
    pub snapshot_keep_entries: u64,
    pub idle: Duration,
    pub channels_awake_max: usize,
    pub block_cache_bytes: usize,
    pub free_bytes_min: u64,
    /// Threads that serve clients and peers; see [`Config::worker_threads`].
    pub worker_threads: Option<usize>,
}

/// One `[[node]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    pub id: u64,
    /// `host:port` for clients.
    pub api: String,
    /// `host:port` for the other nodes.
    pub peer: String,
    pub data_dir: PathBuf,
    pub zone: Option<String>,
}

/// What clients may ask of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes of UTF-8 in a message body.
    pub message_bytes_max: usize,
    /// Most bytes in a request body, and in a frame from a client.
    pub request_bytes_max: usize,
    /// Most sends of one socket that are not answered yet; more are left in its TCP connection.
    pub socket_unacked_max: usize,
    /// Most WebSockets on this node.
    pub sockets_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            message_bytes_max: 16_384,
            request_bytes_max: 65_536,
            socket_unacked_max: 100,
            sockets_max: 50_000,
        }
    }
}

/// Why a configuration cannot be used; each is a sentence that says what to change.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read {path}: {source}")]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    /// Not TOML, a key that does not exist, or a value of another type. The line itself is not shown:
    /// somebody may have put a secret there.
    #[error("{origin} is not a valid configuration: {place}{message}")]
    Syntax {
        origin: String,
        place: Place,
        message: String,
    },
    #[error("{key} {reason}")]
    Invalid { key: String, reason: String },
    #[error("there is no [[node]] with id {node}; the configuration has {known}")]
    NoSuchNode { node: u64, known: String },
}

/// Where in the file, as far as that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(pub Option<(usize, usize)>);

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some((line, column)) => write!(f, "line {line}, column {column}: "),
            None => Ok(()),
        }
    }
}

impl Config {
    /// Reads `path` and replaces what `overrides` sets; those that belong to a node are applied to
    /// `node`.
    pub fn load(path: &Path, node: u64, overrides: &Overrides) -> Result<Config, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        Config::parse(&text, &path.display().to_string(), node, overrides)
    }

    /// As [`Config::load`], from a text; `origin` names it in errors.
    pub fn parse(
        text: &str,
        origin: &str,
        node: u64,
        overrides: &Overrides,
    ) -> Result<Config, ConfigError> {
        let mut file = File::parse(text, origin)?;
        let Some(own) = file.node.iter_mut().find(|section| section.id == node) else {
            return Err(ConfigError::NoSuchNode {
                node,
                known: list(file.node.iter().map(|section| section.id)),
            });
        };
        overrides.apply_to_node(own);
        overrides.apply(&mut file);
        file.check()
    }

    /// The section of a node that [`Config::parse`] was asked for.
    pub fn node(&self, id: u64) -> Option<&NodeConfig> {
        self.nodes.iter().find(|node| node.id == id)
    }

    /// How many threads serve clients and peers on a machine with so many `cores`: unless it is set, the
    /// node's share of those that it has in common with the other nodes at its address. Threads
    /// that have no core of their own cost more in waking each other than they bring.
    pub fn worker_threads(&self, own: &NodeConfig, cores: usize) -> usize {
        let host = |node: &NodeConfig| node.peer.rsplit_once(':').map(|(host, _)| host.to_owned());
        let here = self.nodes.iter().filter(|node| host(node) == host(own));
        let share = cores / here.count().max(1);
        self.worker_threads.unwrap_or(share.max(1))
    }

    /// What the replicated store is started with. `listen` is the resolved peer address.
    pub fn node_options(&self, own: &NodeConfig, listen: std::net::SocketAddr) -> NodeOptions {
        NodeOptions {
            cluster: self.cluster.clone(),
            node: own.id,
            members: self.nodes.iter().map(member).collect(),
            replication: self.replication,
            data_dir: own.data_dir.clone(),
            listen,
            timing: Timing {
                election_timeout: self.election_timeout,
                heartbeat: self.heartbeat,
                request_timeout: self.request_timeout,
            },
            snapshots: SnapshotPolicy {
                after_entries: self.snapshot_after_entries,
                keep_entries: self.snapshot_keep_entries,
            },
            hibernation: Hibernation {
                idle: self.idle,
                awake_max: self.channels_awake_max,
            },
            block_cache_bytes: self.block_cache_bytes,
            free_bytes_min: self.free_bytes_min,
        }
    }
}

fn member(node: &NodeConfig) -> Member {
    Member {
        node: node.id,
        peer: node.peer.clone(),
        zone: node.zone.clone(),
    }
}

fn list(ids: impl Iterator<Item = u64>) -> String {
    let ids: Vec<String> = ids.map(|id| id.to_string()).collect();
    if ids.is_empty() {
        return "none".to_owned();
    }
    ids.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Args as _;
    use clap::Parser as _;

    const THREE: &str = r#"
[cluster]
name = "test"

[[node]]
id = 1
api = "127.0.0.1:8081"
peer = "127.0.0.1:9081"
data_dir = "data/node-1"
zone = "a"

[[node]]
id = 2
api = "127.0.0.1:8082"
peer = "127.0.0.1:9082"
data_dir = "data/node-2"

[[node]]
id = 3
api = "[::1]:8083"
peer = "peer-3.example:9083"
data_dir = "data/node-3"
"#;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text, "test.toml", 1, &Overrides::default()).map_err(|e| e.to_string())
    }

    #[track_caller]
    fn refused(text: &str, part: &str) {
        let error = parse(text).expect_err("it should be refused");
        assert!(error.contains(part), "{error:?} does not say {part:?}");
    }

    #[test]
    fn nodes_of_one_machine_share_its_cores() {
        let config = parse(THREE).unwrap();
        let threads = |node, cores| config.worker_threads(config.node(node).unwrap(), cores);
        assert_eq!((threads(1, 8), threads(2, 8)), (4, 4));
        assert_eq!(threads(3, 8), 8, "alone at its address");
        assert_eq!(threads(1, 1), 1);
        let set = parse(&format!("{THREE}\n[runtime]\nworker_threads = 3")).unwrap();
        assert_eq!(set.worker_threads(set.node(1).unwrap(), 8), 3);
        refused(
            &format!("{THREE}\n[runtime]\nworker_threads = 0"),
            "runtime.worker_threads",
        );
    }

    #[test]
    fn the_design_s_example_is_enough() {
        let config = parse(THREE).unwrap();
        assert_eq!(config.cluster, "test");
        assert_eq!(config.replication, 3);
        assert_eq!(config.limits, Limits::default());
        assert_eq!(config.node(1).unwrap().zone.as_deref(), Some("a"));
        assert_eq!(config.node(3).unwrap().api, "[::1]:8083");
    }

    #[test]
    fn a_single_node_replicates_to_itself() {
        let one = "[[node]]\nid = 1\napi = \"h:1\"\npeer = \"h:2\"\ndata_dir = \"d\"\n";
        let config = parse(one).unwrap();
        assert_eq!((config.replication, config.cluster.as_str()), (1, "accord"));
    }

    #[test]
    fn unknown_keys_are_named() {
        refused(&format!("{THREE}\nzona = \"a\"\n"), "zona");
        refused(
            &format!("{THREE}\n[limits]\nmessage_max = 1\n"),
            "message_max",
        );
        refused(&format!("{THREE}\n[clutser]\n"), "clutser");
        refused(
            "[cluster]\nname = 3\n",
            "line 2, column 8: invalid type: integer, expected a string",
        );
    }

    #[test]
    fn errors_say_where_they_are_and_nothing_of_the_line() {
        let error = parse("[cluster]\nname = \"ü\" zona = \"sk-secret\"\n").unwrap_err();
        assert!(error.contains("test.toml"), "{error}");
        assert!(error.contains("line 2, column 12: "), "{error}");
        assert!(!error.contains("secret"), "{error}");
        refused(
            "[cluster]\n\n  zona = 1\n",
            "line 3, column 3: unknown field `zona`",
        );
        for other_type in [
            "[limits]\nsockets_max = \"sk-secret\"\n",
            "[limits]\nsockets_max = \"sk-\\\"secret\"\n",
            "[cluster]\nname = [\"sk-secret\"]\n",
            "[cluster]\nname = \"sk-secret\n",
        ] {
            let error = parse(other_type).unwrap_err();
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn ranges_are_checked_and_named() {
        let with = |section: &str| format!("{THREE}\n{section}\n");
        refused(
            &with("[limits]\nmessage_bytes_max = 0"),
            "limits.message_bytes_max",
        );
        refused(
            &with("[limits]\nrequest_bytes_max = 10"),
            "limits.request_bytes_max",
        );
        refused(
            &with("[limits]\nsocket_unacked_max = 0"),
            "limits.socket_unacked_max",
        );
        refused(&with("[limits]\nsockets_max = 0"), "limits.sockets_max");
        refused(
            &with("[timing]\nheartbeat_ms = 3001"),
            "timing.heartbeat_ms",
        );
        refused(
            &with("[timing]\nelection_timeout_ms = 1"),
            "timing.election_timeout_ms",
        );
        refused(
            &with("[snapshots]\nafter_entries = 0"),
            "snapshots.after_entries",
        );
        refused(
            &with("[storage]\nblock_cache_bytes = 1"),
            "storage.block_cache_bytes",
        );
    }

    #[test]
    fn nodes_must_make_sense() {
        refused(&THREE.replace("id = 2", "id = 1"), "id 1 twice");
        refused(&THREE.replace("id = 2", "id = 0"), "node.id");
        refused(&THREE.replace("127.0.0.1:8082", "127.0.0.1"), "node.api");
        refused(
            &THREE.replace("127.0.0.1:9082", "127.0.0.1:8081"),
            "127.0.0.1:8081",
        );
        refused(&THREE.replace("127.0.0.1:9082", ":9082"), "node.peer");
        refused(&THREE.replace("data/node-2", ""), "node.data_dir");
        refused(
            &THREE.replace("name = \"test\"", "name = \"a b\""),
            "cluster.name",
        );
        refused(
            &THREE.replace("name = \"test\"", "replication = 4"),
            "cluster.replication",
        );
        refused("[cluster]\n", "there is no [[node]] with id 1");
        let error = Config::parse(THREE, "test.toml", 7, &Overrides::default()).unwrap_err();
        assert!(error.to_string().contains("1, 2, 3"), "{error}");
    }

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        overrides: Overrides,
    }

    #[test]
    fn flags_replace_keys() {
        let cli = Cli::try_parse_from([
            "test",
            "--cluster-name=other",
            "--api=0.0.0.0:80",
            "--zone=b",
            "--data-dir=/tmp/x",
            "--socket-unacked-max=7",
            "--snapshot-after-entries=50",
        ])
        .unwrap();
        let config = Config::parse(THREE, "test.toml", 2, &cli.overrides).unwrap();
        assert_eq!(config.cluster, "other");
        assert_eq!(config.limits.socket_unacked_max, 7);
        assert_eq!(config.snapshot_after_entries, 50);
        let own = config.node(2).unwrap();
        assert_eq!(
            (own.api.as_str(), own.zone.as_deref()),
            ("0.0.0.0:80", Some("b"))
        );
        assert_eq!(own.data_dir, PathBuf::from("/tmp/x"));
        assert_eq!(config.node(1).unwrap().api, "127.0.0.1:8081");
    }

    /// Each key of the file has a flag and an environment variable, and there are no others.
    #[test]
    fn every_key_has_a_flag_and_a_variable() {
        let command = Overrides::augment_args(clap::Command::new("test"));
        let flags: Vec<String> = command
            .get_arguments()
            .map(|arg| {
                let flag = arg
                    .get_long()
                    .expect("overrides have long flags")
                    .to_owned();
                let variable = arg.get_env().expect("overrides have variables");
                let expected = format!("ACCORD_{}", flag.to_uppercase().replace('-', "_"));
                assert_eq!(variable.to_str(), Some(expected.as_str()));
                flag
            })
            .collect();
        let mut expected: Vec<String> = file::KEYS.iter().map(|key| file::flag_of(key)).collect();
        expected.sort();
        let mut found = flags;
        found.sort();
        assert_eq!(found, expected);
    }
}
