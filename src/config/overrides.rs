//! Flags and environment variables that replace single keys of `cluster.toml`.
//!
//! A flag wins over a variable, a variable over the file. Keys of a `[[node]]` are replaced for the
//! node that the process runs; what other nodes are called stays in the file.

use std::path::PathBuf;

use super::file::File;
use super::file::NodeSection;

/// One optional value per key.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Replacing keys of the configuration file")]
pub struct Overrides {
    /// cluster.name
    #[arg(long, env = "ACCORD_CLUSTER_NAME", value_name = "NAME")]
    cluster_name: Option<String>,
    /// cluster.replication: replicas of each channel
    #[arg(long, env = "ACCORD_REPLICATION", value_name = "COUNT")]
    replication: Option<usize>,
    /// api of this node: where clients connect
    #[arg(long, env = "ACCORD_API", value_name = "HOST:PORT")]
    api: Option<String>,
    /// peer of this node: where other nodes connect
    #[arg(long, env = "ACCORD_PEER", value_name = "HOST:PORT")]
    peer: Option<String>,
    /// data_dir of this node
    #[arg(long, env = "ACCORD_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// zone of this node
    #[arg(long, env = "ACCORD_ZONE", value_name = "NAME")]
    zone: Option<String>,
    /// limits.message_bytes_max
    #[arg(long, env = "ACCORD_MESSAGE_BYTES_MAX", value_name = "BYTES")]
    message_bytes_max: Option<usize>,
    /// limits.request_bytes_max
    #[arg(long, env = "ACCORD_REQUEST_BYTES_MAX", value_name = "BYTES")]
    request_bytes_max: Option<usize>,
    /// limits.socket_unacked_max
    #[arg(long, env = "ACCORD_SOCKET_UNACKED_MAX", value_name = "COUNT")]
    socket_unacked_max: Option<usize>,
    /// limits.sockets_max
    #[arg(long, env = "ACCORD_SOCKETS_MAX", value_name = "COUNT")]
    sockets_max: Option<usize>,
    /// timing.election_timeout_ms
    #[arg(long, env = "ACCORD_ELECTION_TIMEOUT_MS", value_name = "MS")]
    election_timeout_ms: Option<u64>,
    /// timing.heartbeat_ms
    #[arg(long, env = "ACCORD_HEARTBEAT_MS", value_name = "MS")]
    heartbeat_ms: Option<u64>,
    /// timing.request_timeout_ms
    #[arg(long, env = "ACCORD_REQUEST_TIMEOUT_MS", value_name = "MS")]
    request_timeout_ms: Option<u64>,
    /// snapshots.after_entries
    #[arg(long, env = "ACCORD_SNAPSHOT_AFTER_ENTRIES", value_name = "COUNT")]
    snapshot_after_entries: Option<u64>,
    /// snapshots.keep_entries
    #[arg(long, env = "ACCORD_SNAPSHOT_KEEP_ENTRIES", value_name = "COUNT")]
    snapshot_keep_entries: Option<u64>,
    /// hibernation.idle_ms
    #[arg(long, env = "ACCORD_IDLE_MS", value_name = "MS")]
    idle_ms: Option<u64>,
    /// hibernation.channels_awake_max
    #[arg(long, env = "ACCORD_CHANNELS_AWAKE_MAX", value_name = "COUNT")]
    channels_awake_max: Option<usize>,
    /// storage.block_cache_bytes
    #[arg(long, env = "ACCORD_BLOCK_CACHE_BYTES", value_name = "BYTES")]
    block_cache_bytes: Option<usize>,
    /// storage.free_bytes_min: below this, new messages are refused
    #[arg(long, env = "ACCORD_FREE_BYTES_MIN", value_name = "BYTES")]
    free_bytes_min: Option<u64>,
    /// runtime.worker_threads: threads that serve clients and peers
    #[arg(long, env = "ACCORD_WORKER_THREADS", value_name = "COUNT")]
    worker_threads: Option<usize>,
}

impl Overrides {
    pub(super) fn apply(&self, file: &mut File) {
        replace(&mut file.cluster.name, &self.cluster_name);
        if self.replication.is_some() {
            file.cluster.replication = self.replication;
        }
        let limits = &mut file.limits;
        replace(&mut limits.message_bytes_max, &self.message_bytes_max);
        replace(&mut limits.request_bytes_max, &self.request_bytes_max);
        replace(&mut limits.socket_unacked_max, &self.socket_unacked_max);
        replace(&mut limits.sockets_max, &self.sockets_max);
        let timing = &mut file.timing;
        replace(&mut timing.election_timeout_ms, &self.election_timeout_ms);
        replace(&mut timing.heartbeat_ms, &self.heartbeat_ms);
        replace(&mut timing.request_timeout_ms, &self.request_timeout_ms);
        let snapshots = &mut file.snapshots;
        replace(&mut snapshots.after_entries, &self.snapshot_after_entries);
        replace(&mut snapshots.keep_entries, &self.snapshot_keep_entries);
        let hibernation = &mut file.hibernation;
        replace(&mut hibernation.idle_ms, &self.idle_ms);
        replace(
            &mut hibernation.channels_awake_max,
            &self.channels_awake_max,
        );
        let storage = &mut file.storage;
        replace(&mut storage.block_cache_bytes, &self.block_cache_bytes);
        replace(&mut storage.free_bytes_min, &self.free_bytes_min);
        if self.worker_threads.is_some() {
            file.runtime.worker_threads = self.worker_threads;
        }
    }

    pub(super) fn apply_to_node(&self, node: &mut NodeSection) {
        replace(&mut node.api, &self.api);
        replace(&mut node.peer, &self.peer);
        replace(&mut node.data_dir, &self.data_dir);
        if self.zone.is_some() {
            node.zone.clone_from(&self.zone);
        }
    }
}

fn replace<T: Clone>(value: &mut T, with: &Option<T>) {
    if let Some(with) = with {
        value.clone_from(with);
    }
}
