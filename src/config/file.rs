//! The text of `cluster.toml` as serde sees it, and the checks that make a [`Config`] of it.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::Config;
use super::ConfigError;
use super::Limits;
use super::NODES_MAX;
use super::NodeConfig;
use super::Place;
use super::REPLICATION_MAX;
use super::WORKER_THREADS_MAX;
use crate::agents::config::AgentSection;
use crate::agents::config::check_agents;

/// The file as a whole. Defaults are the values that a section has when nothing sets them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    #[serde(default)]
    pub cluster: ClusterSection,
    #[serde(default)]
    pub node: Vec<NodeSection>,
    #[serde(default)]
    pub agent: Vec<AgentSection>,
    #[serde(default)]
    pub limits: LimitsSection,
    #[serde(default)]
    pub timing: TimingSection,
    #[serde(default)]
    pub snapshots: SnapshotsSection,
    #[serde(default)]
    pub hibernation: HibernationSection,
    #[serde(default)]
    pub storage: StorageSection,
    #[serde(default)]
    pub runtime: RuntimeSection,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClusterSection {
    pub name: String,
    /// Three, or the number of nodes if there are fewer.
    pub replication: Option<usize>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeSection {
    pub id: u64,
    pub api: String,
    pub peer: String,
    pub data_dir: PathBuf,
    pub zone: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsSection {
    pub message_bytes_max: usize,
    pub request_bytes_max: usize,
    pub socket_unacked_max: usize,
    pub sockets_max: usize,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TimingSection {
    pub election_timeout_ms: u64,
    pub heartbeat_ms: u64,
    pub request_timeout_ms: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SnapshotsSection {
    pub after_entries: u64,
    pub keep_entries: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HibernationSection {
    pub idle_ms: u64,
    pub channels_awake_max: usize,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StorageSection {
    pub block_cache_bytes: usize,
    pub free_bytes_min: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RuntimeSection {
    /// This node's share of the machine's cores, if it is left out.
    pub worker_threads: Option<usize>,
}

impl Default for ClusterSection {
    fn default() -> Self {
        ClusterSection {
            name: "accord".to_owned(),
            replication: None,
        }
    }
}

impl Default for LimitsSection {
    fn default() -> Self {
        let limits = Limits::default();
        LimitsSection {
            message_bytes_max: limits.message_bytes_max,
            request_bytes_max: limits.request_bytes_max,
            socket_unacked_max: limits.socket_unacked_max,
            sockets_max: limits.sockets_max,
        }
    }
}

impl Default for TimingSection {
    fn default() -> Self {
        TimingSection {
            election_timeout_ms: 6_000,
            heartbeat_ms: 2_000,
            // A client is to hear within five seconds that a write was refused.
            request_timeout_ms: 4_500,
        }
    }
}

impl Default for SnapshotsSection {
    fn default() -> Self {
        SnapshotsSection {
            after_entries: 10_000,
            keep_entries: 1_000,
        }
    }
}

impl Default for HibernationSection {
    fn default() -> Self {
        HibernationSection {
            idle_ms: 10_000,
            channels_awake_max: 2_000,
        }
    }
}

impl Default for StorageSection {
    fn default() -> Self {
        StorageSection {
            block_cache_bytes: 64 << 20,
            // RocksDB was seen not to reopen on a full disk; compaction needs room as well.
            free_bytes_min: 512 << 20,
        }
    }
}

/// Every key of the file but `node.id`, which `--node` selects instead of replacing, and those of
/// `[[agent]]`: which of several agents would a flag be about?
#[cfg(test)]
pub const KEYS: [&str; 20] = [
    "cluster.name",
    "cluster.replication",
    "node.api",
    "node.peer",
    "node.data_dir",
    "node.zone",
    "limits.message_bytes_max",
    "limits.request_bytes_max",
    "limits.socket_unacked_max",
    "limits.sockets_max",
    "timing.election_timeout_ms",
    "timing.heartbeat_ms",
    "timing.request_timeout_ms",
    "snapshots.after_entries",
    "snapshots.keep_entries",
    "hibernation.idle_ms",
    "hibernation.channels_awake_max",
    "storage.block_cache_bytes",
    "storage.free_bytes_min",
    "runtime.worker_threads",
];

/// The flag that replaces a key: its own name, with the section's where it says too little alone.
#[cfg(test)]
pub fn flag_of(key: &str) -> String {
    let (section, name) = key.split_once('.').expect("keys have a section");
    let flag = match (section, name) {
        ("cluster", "name") => "cluster-name".to_owned(),
        ("snapshots", name) => format!("snapshot-{name}"),
        (_, name) => name.to_owned(),
    };
    flag.replace('_', "-")
}

impl File {
    pub fn parse(text: &str, origin: &str) -> Result<File, ConfigError> {
        toml::from_str(text).map_err(|error: toml::de::Error| ConfigError::Syntax {
            origin: origin.to_owned(),
            place: Place(error.span().map(|span| place(text, span.start))),
            message: without_value(error.message()),
        })
    }

    /// Checks everything that types alone cannot.
    pub fn check(self) -> Result<Config, ConfigError> {
        let nodes = check_nodes(self.node)?;
        let replication = match self.cluster.replication {
            Some(replication) => replication,
            None => nodes.len().min(3),
        };
        let most = nodes.len().min(REPLICATION_MAX);
        within("cluster.replication", replication, 1..=most)?;
        check_name("cluster.name", &self.cluster.name)?;
        let limits = check_limits(&self.limits)?;
        let timing = &self.timing;
        within(
            "timing.election_timeout_ms",
            timing.election_timeout_ms,
            50..=60_000,
        )?;
        // Two heartbeats must fit, or one lost frame would cost a leader its office.
        let heartbeat_most = timing.election_timeout_ms / 2;
        within(
            "timing.heartbeat_ms",
            timing.heartbeat_ms,
            5..=heartbeat_most,
        )?;
        within(
            "timing.request_timeout_ms",
            timing.request_timeout_ms,
            100..=60_000,
        )?;
        let snapshots = &self.snapshots;
        within(
            "snapshots.after_entries",
            snapshots.after_entries,
            1..=10_000_000,
        )?;
        within(
            "snapshots.keep_entries",
            snapshots.keep_entries,
            0..=10_000_000,
        )?;
        let hibernation = &self.hibernation;
        within("hibernation.idle_ms", hibernation.idle_ms, 100..=86_400_000)?;
        within(
            "hibernation.channels_awake_max",
            hibernation.channels_awake_max,
            1..=10_000_000,
        )?;
        let storage = &self.storage;
        within(
            "storage.block_cache_bytes",
            storage.block_cache_bytes,
            1 << 20..=1 << 40,
        )?;
        within(
            "storage.free_bytes_min",
            storage.free_bytes_min,
            0..=1 << 50,
        )?;
        let worker_threads = self.runtime.worker_threads;
        if let Some(threads) = worker_threads {
            within("runtime.worker_threads", threads, 1..=WORKER_THREADS_MAX)?;
        }
        Ok(Config {
            cluster: self.cluster.name,
            replication,
            nodes,
            agents: check_agents(self.agent)?,
            limits,
            election_timeout: Duration::from_millis(timing.election_timeout_ms),
            heartbeat: Duration::from_millis(timing.heartbeat_ms),
            request_timeout: Duration::from_millis(timing.request_timeout_ms),
            snapshot_after_entries: snapshots.after_entries,
            snapshot_keep_entries: snapshots.keep_entries,
            idle: Duration::from_millis(hibernation.idle_ms),
            channels_awake_max: hibernation.channels_awake_max,
            block_cache_bytes: storage.block_cache_bytes,
            free_bytes_min: storage.free_bytes_min,
            worker_threads,
        })
    }
}

/// Line and column of a byte, both from 1, columns in characters.
fn place(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let line = before.matches('\n').count() + 1;
    (line, before[line_start..].chars().count() + 1)
}

/// What is wrong with a value, without the value, which serde shows in quotes of either kind.
fn without_value(message: &str) -> String {
    let is_about_one = ["invalid type: ", "invalid value: "]
        .iter()
        .any(|begin| message.starts_with(begin));
    let (quote, end) = (message.find(['"', '`']), message.rfind(", expected "));
    match (quote, end) {
        (Some(quote), Some(end)) if is_about_one && quote < end => {
            format!("{}{}", message[..quote].trim_end(), &message[end..])
        }
        _ => message.to_owned(),
    }
}

fn check_limits(limits: &LimitsSection) -> Result<Limits, ConfigError> {
    // A message travels in one part between nodes, which holds a megabyte at most.
    let message = limits.message_bytes_max;
    within("limits.message_bytes_max", message, 1..=256 << 10)?;
    let request = limits.request_bytes_max;
    within(
        "limits.request_bytes_max",
        request,
        message.max(1_024)..=16 << 20,
    )?;
    within(
        "limits.socket_unacked_max",
        limits.socket_unacked_max,
        1..=10_000,
    )?;
    within("limits.sockets_max", limits.sockets_max, 1..=1_000_000)?;
    Ok(Limits {
        message_bytes_max: message,
        request_bytes_max: request,
        socket_unacked_max: limits.socket_unacked_max,
        sockets_max: limits.sockets_max,
    })
}

fn check_nodes(sections: Vec<NodeSection>) -> Result<Vec<NodeConfig>, ConfigError> {
    if sections.len() > NODES_MAX {
        return Err(invalid(
            "node",
            format!("may appear {NODES_MAX} times at most"),
        ));
    }
    let mut nodes: Vec<NodeConfig> = Vec::with_capacity(sections.len());
    let mut addresses: Vec<String> = Vec::with_capacity(2 * sections.len());
    for section in sections {
        within("node.id", section.id, 1..=u64::from(u32::MAX))?;
        if nodes.iter().any(|node| node.id == section.id) {
            return Err(invalid("node", format!("has id {} twice", section.id)));
        }
        for (key, address) in [("node.api", &section.api), ("node.peer", &section.peer)] {
            check_address(key, address)?;
            if addresses.contains(address) {
                return Err(invalid(key, format!("uses {address} a second time")));
            }
            addresses.push(address.clone());
        }
        if section.data_dir.as_os_str().is_empty() {
            return Err(invalid("node.data_dir", "must not be empty"));
        }
        if let Some(zone) = &section.zone {
            check_name("node.zone", zone)?;
        }
        nodes.push(NodeConfig {
            id: section.id,
            api: section.api,
            peer: section.peer,
            data_dir: section.data_dir,
            zone: section.zone,
        });
    }
    Ok(nodes)
}

fn check_address(key: &str, address: &str) -> Result<(), ConfigError> {
    let parts = address.rsplit_once(':');
    let good = parts.is_some_and(|(host, port)| {
        !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    if good {
        return Ok(());
    }
    let reason = format!("must be host:port with a port of 1 to 65535, not \"{address}\"");
    Err(invalid(key, reason))
}

fn check_name(key: &str, name: &str) -> Result<(), ConfigError> {
    let visible = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if (1..=64).contains(&name.len()) && name.chars().all(visible) {
        return Ok(());
    }
    let reason = "must be 1 to 64 letters, digits, dots, hyphens or underscores";
    Err(invalid(key, reason))
}

pub fn within<T: PartialOrd + Display>(
    key: &str,
    value: T,
    range: RangeInclusive<T>,
) -> Result<(), ConfigError> {
    if range.contains(&value) {
        return Ok(());
    }
    let (least, most) = (range.start(), range.end());
    Err(invalid(
        key,
        format!("must be {least} to {most}, not {value}"),
    ))
}

pub fn invalid(key: &str, reason: impl Into<String>) -> ConfigError {
    ConfigError::Invalid {
        key: key.to_owned(),
        reason: reason.into(),
    }
}
