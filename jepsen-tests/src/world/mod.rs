//! A cluster of real processes whose network, disks and clocks can be broken.
//!
//! What a world can break depends on the machine: links with root through network namespaces and a
//! switch of our own, otherwise through proxies; disks with root through loop-mounted file systems;
//! system calls through a preloaded library, if there is a C compiler. What it cannot break it says
//! ([`World::cannot`]); it never pretends.
//!
//! Invariants:
//! - clients reach every node's API however its links are broken, since API and peers use different
//!   paths;
//! - nothing is left on the machine: a world undoes everything on drop, and the next one removes
//!   what a killed harness left (`sweep`);
//! - [`World::heal`] ends every fault, whatever state a cancelled nemesis left behind.

mod command;
pub(crate) mod damage;
pub(crate) mod disk;
mod ioctl;
mod namespaces;
mod network;
pub(crate) mod proc;
mod proxy;
pub(crate) mod rules;
pub(crate) mod shim;
mod sweep;
mod switch;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::client::api::Api;
use crate::client::wire::ChannelRef;
use crate::cluster::config::RaftOptions;
use crate::cluster::{Cluster, ClusterError, ClusterOptions, KEEP_VARIABLE};
use crate::nemesis::FaultKind;
use crate::nemesis::Need;
use crate::wait::wait_until;

use disk::Disk;
use network::Network;
use rules::{Rule, Rules};
use shim::Shim;

/// Each disk is a sparse file of this size. Room for an hour's messages, and small enough that
/// filling it is a matter of one call.
const DISK_BYTES: u64 = 2 << 30;
/// What the nodes are told to keep free on such a disk. The product's default is a quarter of it.
pub(crate) const DISK_FREE_BYTES_MIN: u64 = 128 << 20;
/// The name of the server that the nemesis makes for its own channel.
pub const PROBE_SERVER: &str = "nemesis";
/// What the nodes call it that a replica was closed because nobody used it.
const SLEPT: &str = "accord_groups_slept_total";
/// A look at a node that may be dead or cut off.
pub(crate) const LOOK_MAX: Duration = Duration::from_millis(500);

/// How a world is started. `..WorldOptions::new(3)` gives the rest.
#[derive(Debug, Clone)]
pub struct WorldOptions {
    /// Number of nodes; their ids are 1 to this. At most 60.
    pub nodes: u64,
    pub replication: u64,
    /// Decides which frames are lost and how late they are.
    pub seed: u64,
    /// The product. `None` means the file that `ACCORD_BIN` names.
    pub binary: Option<PathBuf>,
    pub network: NetworkKind,
    /// Each node's data on a file system of its own, if we are root.
    pub own_disks: bool,
    /// Preload the library that bends clocks and breaks syncs, if there is gcc.
    pub shim: bool,
    pub raft: RaftOptions,
    /// Appended to every cluster file. With own disks and without a `[storage]` section in it,
    /// the world adds one that fits their size.
    pub extra: String,
    pub environment: Vec<(String, String)>,
}

impl WorldOptions {
    /// Everything that can be broken.
    pub fn new(nodes: u64) -> Self {
        Self {
            nodes,
            replication: nodes.min(3),
            seed: 0,
            binary: None,
            network: NetworkKind::Best,
            own_disks: true,
            shim: true,
            raft: RaftOptions::default(),
            extra: String::new(),
            environment: Vec::new(),
        }
    }
}

/// What lies between the nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkKind {
    /// Namespaces where root allows, else proxies.
    Best,
    /// A network namespace for each node, and a switch of ours between them: faults of packets.
    Namespaces,
    /// A TCP proxy for each ordered pair of nodes: faults of connections.
    Proxy,
    /// Loopback, which cannot be broken.
    Plain,
}

#[derive(Debug, thiserror::Error)]
pub enum WorldError {
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error("{what}: {source}")]
    Io {
        what: String,
        #[source]
        source: io::Error,
    },
    /// A tool of the system failed.
    #[error("{command}: {why}")]
    Command { command: String, why: String },
    #[error("{0}")]
    Impossible(String),
}

/// What holds a node down or still, and what it suffers.
#[derive(Debug, Clone, Copy, Default)]
struct NodeState {
    /// Faults that want it dead. It is started when the last of them ends.
    downs: u32,
    /// Faults that want it paused.
    pauses: u32,
    /// Its data was damaged; it must rejoin before it may serve.
    damaged: bool,
    /// It has rejoined and was not seen to be ready since: it may lack what only it and one other
    /// node had.
    catching_up: bool,
}

/// A running cluster with everything around it.
pub struct World {
    // In this order: processes end before what they stand on is taken away.
    cluster: Cluster,
    network: Network,
    disks: Vec<Disk>,
    shim: Option<Shim>,
    nodes: Mutex<Vec<NodeState>>,
    cannot: Vec<(FaultKind, String)>,
    /// Held by a fault that leaves a disk less than honest.
    disk_turn: tokio::sync::Mutex<()>,
    probe: tokio::sync::Mutex<Option<ChannelRef>>,
    /// Images, mount points, the library and its control files, and the cluster's directory.
    home: Home,
}

/// The world's directory, removed last.
struct Home(PathBuf);

impl World {
    /// Makes the network, the disks and the library, starts every node, and waits until all are
    /// ready. What harnesses left behind that were killed is removed before.
    pub async fn start(options: WorldOptions) -> Result<Self, WorldError> {
        sweep::sweep();
        let home = Home::create()?;
        let (network, mut places) =
            Network::start(options.network, options.nodes, options.seed).await?;
        let mut cannot = Cannot::default();
        let disks = if cannot.lacks(Need::Disks, options.own_disks, Disk::missing()) {
            Vec::new()
        } else {
            (1..=options.nodes)
                .map(|node| Disk::create(&home.0, node, DISK_BYTES))
                .collect::<Result<Vec<_>, _>>()?
        };
        let shim = if cannot.lacks(Need::Shim, options.shim, Shim::missing()) {
            None
        } else {
            Some(Shim::build(&home.0, options.nodes)?)
        };
        for (place, node) in places.iter_mut().zip(1..) {
            let data_dir = match disks.get(place_of(node)) {
                Some(disk) => disk.data_dir(),
                None => home.0.join(format!("data-{node}")),
            };
            if let Some(shim) = &shim {
                place.environment = shim.environment(node, &data_dir);
            }
            place.data_dir = Some(data_dir);
        }
        if network.kind() == NetworkKind::Plain {
            cannot.add(Need::Links, "the network is plain loopback");
        } else if options.nodes < 2 {
            cannot.add(Need::Links, "one node has no links");
        }
        let extra = with_storage(&options.extra, !disks.is_empty());
        let cluster = Cluster::prepare(ClusterOptions {
            replication: options.replication,
            raft: options.raft,
            binary: options.binary,
            environment: options.environment,
            extra,
            places,
            directory_prefix: "cluster-".to_owned(),
            parent: Some(home.0.clone()),
            ..ClusterOptions::new(options.nodes)
        })?;
        if options.nodes < 3 {
            cannot.add(Need::Rejoin, "fewer than three nodes have no minority");
        } else if let Some(why) = lacks_rejoin(&cluster) {
            cannot.add(Need::Rejoin, &why);
        }
        let world = Self {
            nodes: Mutex::new(vec![NodeState::default(); cluster.ids().len()]),
            cluster,
            network,
            disks,
            shim,
            cannot: cannot.0,
            disk_turn: tokio::sync::Mutex::new(()),
            probe: tokio::sync::Mutex::new(None),
            home,
        };
        for node in world.cluster.ids() {
            world.cluster.start_node(node)?;
        }
        world.cluster.wait_all_ready().await?;
        Ok(world)
    }

    /// The nodes, reachable by the harness whatever the network between them does.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The faults that this world cannot inject, and why.
    pub fn cannot(&self) -> Vec<(FaultKind, String)> {
        self.cannot.clone()
    }

    /// What the network turned out to be; never [`NetworkKind::Best`].
    pub fn network_kind(&self) -> NetworkKind {
        self.network.kind()
    }

    /// Whether nodes have disks of their own.
    pub fn own_disks(&self) -> bool {
        !self.disks.is_empty()
    }

    /// How many replicas each node has closed because nobody used them. One that is down or that
    /// stands still tells nothing.
    pub async fn slept(&self) -> BTreeMap<u64, f64> {
        let cluster = self.cluster();
        let mut told = BTreeMap::new();
        for api in cluster.apis(&cluster.ids()) {
            let asked = tokio::time::timeout(LOOK_MAX, Box::pin(api.metric(SLEPT))).await;
            if let Ok(Ok(count)) = asked {
                told.insert(api.node(), count);
            }
        }
        told
    }

    /// The leader of a channel's group, or of the directory if no channel is given: the one that a
    /// node names which believes to lead itself, otherwise the one that most nodes name. None if
    /// no node answers or knows.
    pub async fn leader(&self, channel: Option<&str>) -> Option<u64> {
        let apis = self.cluster.apis(&self.cluster.ids());
        let looks = apis.iter().map(|api| leader_seen_by(api, channel));
        let named: Vec<(u64, u64)> = futures_util::future::join_all(looks)
            .await
            .into_iter()
            .flatten()
            .collect();
        let votes = |leader: u64| named.iter().filter(|(_, named)| *named == leader).count();
        named
            .iter()
            .map(|(node, leader)| (node == leader, votes(*leader), *leader))
            .max()
            .map(|(_, _, leader)| leader)
    }

    /// From now on nothing travels between this node and the others, until [`World::heal`].
    pub fn cut_off(&self, node: u64) {
        let links = self.rules().links().into_iter();
        let own = links.filter(|(from, to)| *from == node || *to == node);
        self.rules()
            .add(own.map(|link| (link, Rule::CUT)).collect());
    }

    /// Ends every fault still on: links are whole, clocks right, disks fast, empty and mounted;
    /// what is paused goes on, what was damaged rejoins, what is dead is started. Does not wait
    /// until the nodes are ready. Calling it again does nothing more.
    ///
    /// Not while a nemesis runs.
    pub async fn heal(&self) -> Result<(), WorldError> {
        self.network.rules().clear();
        if let Some(shim) = &self.shim {
            shim.reset().map_err(|source| WorldError::Io {
                what: "resetting the shim".to_owned(),
                source,
            })?;
        }
        for node in self.cluster.ids() {
            self.with_state(node, |state| {
                state.downs = 0;
                state.pauses = 0;
            });
            if self.cluster.is_running(node) {
                self.cluster.resume(node)?;
            }
            if let Some(disk) = self.disk(node) {
                self.revive_disk(node, disk)?;
                disk.empty()?;
            }
            if self.state(node).damaged {
                self.rejoin(node)?;
            }
            if !self.cluster.is_running(node) {
                self.cluster.start_node(node)?;
            }
        }
        Ok(())
    }

    pub(crate) fn rules(&self) -> &Rules {
        self.network.rules()
    }

    pub(crate) fn disk(&self, node: u64) -> Option<&Disk> {
        self.disks.get(place_of(node))
    }

    pub(crate) fn shim(&self) -> Option<&Shim> {
        self.shim.as_ref()
    }

    /// The right to make disks less than honest, until the guard is dropped. An error says why
    /// there is none within `patience`: another such fault is on, or a node that rejoined has not
    /// caught up.
    pub(crate) async fn disk_turn(
        &self,
        patience: Duration,
    ) -> Result<tokio::sync::MutexGuard<'_, ()>, WorldError> {
        let turn = tokio::time::timeout(patience, self.disk_turn.lock()).await;
        let turn = turn.map_err(|_| {
            WorldError::Impossible("another fault of a disk was still on".to_owned())
        })?;
        for node in self.cluster.ids() {
            if self.state(node).damaged {
                return Err(WorldError::Impossible(format!(
                    "node {node} is damaged and has not rejoined"
                )));
            }
            if self.state(node).catching_up && !self.caught_up(node, LOOK_MAX).await {
                return Err(WorldError::Impossible(format!(
                    "node {node} rejoined and has not caught up"
                )));
            }
        }
        Ok(turn)
    }

    /// Waits until a node that rejoined is ready, at most for `within`; whether it is.
    pub(crate) async fn caught_up(&self, node: u64, within: Duration) -> bool {
        let api = self.cluster.api(node);
        let ready = wait_until("a rejoined node to be ready", within, || async {
            match tokio::time::timeout(LOOK_MAX, Box::pin(api.get("/readyz"))).await {
                Ok(Ok(response)) if response.status == 200 => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await
        .is_ok();
        if ready {
            self.with_state(node, |state| state.catching_up = false);
        }
        ready
    }

    /// A channel that belongs to the nemesis, to see whether a node takes writes. Made when it is
    /// first needed, so a run whose plan fills disks lists one server more.
    pub(crate) async fn probe_channel(&self) -> Result<ChannelRef, WorldError> {
        let mut made = self.probe.lock().await;
        if let Some(channel) = &*made {
            return Ok(channel.clone());
        }
        let apis = self.cluster.apis(&self.cluster.ids());
        for api in &apis {
            let create = async {
                let server = api.create_server(PROBE_SERVER).await?;
                let channel = api.create_channel(&server.id, "probe").await?;
                Ok::<_, crate::client::api::ApiError>(ChannelRef {
                    server: server.id,
                    channel: channel.id,
                })
            };
            if let Ok(channel) = Box::pin(create).await {
                return Ok(made.insert(channel).clone());
            }
        }
        Err(WorldError::Impossible(
            "no node made a channel for the nemesis".to_owned(),
        ))
    }

    /// SIGKILL; the node stays down until `let_up` was called as often as this.
    pub(crate) fn hold_down(&self, node: u64) -> Result<(), WorldError> {
        self.with_state(node, |state| state.downs += 1);
        Ok(self.cluster.kill(node)?)
    }

    /// Starts the node unless another fault wants it down.
    pub(crate) fn let_up(&self, node: u64) -> Result<(), WorldError> {
        let free = self.with_state(node, |state| {
            state.downs = state.downs.saturating_sub(1);
            state.downs == 0
        });
        if free && !self.cluster.is_running(node) {
            self.cluster.start_node(node)?;
        }
        Ok(())
    }

    /// The node may end by itself: whether it stays down is as after `hold_down`.
    pub(crate) fn expect_end(&self, node: u64) {
        self.with_state(node, |state| state.downs += 1);
    }

    /// Starts nodes that ended without a fault that wanted it, as a supervisor would; says which.
    pub(crate) fn raise_ended(&self) -> Result<Vec<String>, WorldError> {
        let mut raised = Vec::new();
        for node in self.cluster.ids() {
            if self.state(node).downs == 0 && !self.cluster.is_running(node) {
                let status = self.cluster.exit_status(node);
                let how = status.map_or_else(|| "unknown".to_owned(), |s| s.to_string());
                self.cluster.start_node(node)?;
                raised.push(format!("node {node} had ENDED BY ITSELF ({how})"));
            }
        }
        Ok(raised)
    }

    /// SIGSTOP; an error if the node does not run.
    pub(crate) fn hold_still(&self, node: u64) -> Result<(), WorldError> {
        self.cluster.pause(node)?;
        self.with_state(node, |state| state.pauses += 1);
        Ok(())
    }

    /// SIGCONT unless another fault wants the node paused. A node that ended meanwhile is fine.
    pub(crate) fn let_go(&self, node: u64) -> Result<(), WorldError> {
        let free = self.with_state(node, |state| {
            state.pauses = state.pauses.saturating_sub(1);
            state.pauses == 0
        });
        if free && self.cluster.is_running(node) {
            self.cluster.resume(node)?;
        }
        Ok(())
    }

    /// The node's data is not to be trusted until it has rejoined.
    pub(crate) fn mark_damaged(&self, node: u64) {
        self.with_state(node, |state| state.damaged = true);
    }

    /// Runs the product's command for a damaged node, which must not run; then removes the data
    /// that the command moved aside.
    pub(crate) fn rejoin(&self, node: u64) -> Result<String, WorldError> {
        let output = self.cluster.run_command(node, "rejoin")?;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).trim().to_owned();
        if !output.status.success() {
            return Err(WorldError::Command {
                command: format!("accord rejoin --node {node}"),
                why: format!("{}: {said}", output.status),
            });
        }
        self.with_state(node, |state| {
            state.damaged = false;
            state.catching_up = true;
        });
        remove_damaged(self.cluster.data_dir(node));
        Ok(said)
    }

    /// Kills a node whose disk is dead, and mounts the disk anew.
    pub(crate) fn revive_disk(&self, node: u64, disk: &Disk) -> Result<(), WorldError> {
        if disk.is_dead() {
            self.cluster.kill(node)?;
            disk.unmount()?;
            disk.mount()?;
        }
        Ok(())
    }

    fn state(&self, node: u64) -> NodeState {
        self.with_state(node, |state| *state)
    }

    fn with_state<T>(&self, node: u64, use_it: impl FnOnce(&mut NodeState) -> T) -> T {
        use_it(&mut self.states()[place_of(node)])
    }

    /// Every use leaves whole values, so a panic elsewhere does not matter.
    fn states(&self) -> MutexGuard<'_, Vec<NodeState>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reports what a world left running could not undo by itself: nothing, unless a tool failed.
impl std::fmt::Debug for World {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("World")
            .field("home", &self.home.0)
            .field("network", &self.network.kind())
            .finish_non_exhaustive()
    }
}

impl Home {
    fn create() -> Result<Self, WorldError> {
        tempfile::Builder::new()
            .prefix(&format!("{}{}-", sweep::HOME_PREFIX, std::process::id()))
            .tempdir()
            .map(|directory| Self(directory.keep()))
            .map_err(|source| WorldError::Io {
                what: "making a directory for a world".to_owned(),
                source,
            })
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        sweep::unmount_below(&self.0);
        let kept = std::thread::panicking() || std::env::var_os(KEEP_VARIABLE).is_some();
        let done = if kept {
            eprintln!("the disks of this world are kept in {}", self.0.display());
            std::fs::write(self.0.join(sweep::KEPT), "")
        } else {
            std::fs::remove_dir_all(&self.0)
        };
        if let Err(error) = done {
            eprintln!("{}: {error}", self.0.display());
        }
    }
}

/// Collects the faults that there cannot be.
#[derive(Debug, Default)]
struct Cannot(Vec<(FaultKind, String)>);

impl Cannot {
    fn add(&mut self, need: Need, why: &str) {
        let kinds = FaultKind::ALL
            .into_iter()
            .filter(|kind| kind.need() == need);
        self.0.extend(kinds.map(|kind| (kind, why.to_owned())));
    }

    /// Whether something was not asked for or is not to be had; notes so.
    fn lacks(&mut self, need: Need, wanted: bool, missing: Option<String>) -> bool {
        let why = if wanted {
            missing
        } else {
            Some("this world was started without".to_owned())
        };
        if let Some(why) = &why {
            self.add(need, why);
        }
        why.is_some()
    }
}

fn place_of(node: u64) -> usize {
    usize::try_from(node - 1).expect("a node's place fits in memory")
}

/// The product's default minimum of free space is a large part of our small disks.
fn with_storage(extra: &str, own_disks: bool) -> String {
    if own_disks && !extra.contains("[storage]") {
        format!("{extra}\n[storage]\nfree_bytes_min = {DISK_FREE_BYTES_MIN}\n")
    } else {
        extra.to_owned()
    }
}

/// Why a damaged node could not come back.
fn lacks_rejoin(cluster: &Cluster) -> Option<String> {
    let asked = std::process::Command::new(cluster.binary())
        .args(["rejoin", "--help"])
        .output();
    match asked {
        Ok(output) if output.status.success() => None,
        Ok(_) => Some("this program has no `rejoin` command".to_owned()),
        Err(error) => Some(format!("`rejoin --help` cannot be run: {error}")),
    }
}

/// The node, and whom it believes to lead.
async fn leader_seen_by(api: &Api, channel: Option<&str>) -> Option<(u64, u64)> {
    let look = async {
        match channel {
            Some(channel) => api.channel_view(channel).await.ok()?.leader,
            None => api.cluster().await.ok()?.directory.leader,
        }
    };
    let leader = tokio::time::timeout(LOOK_MAX, Box::pin(look))
        .await
        .ok()??;
    Some((api.node(), leader))
}

/// What `rejoin` moved aside has served its purpose, and disks here are small.
fn remove_damaged(data_dir: &Path) {
    let (Some(parent), Some(name)) = (data_dir.parent(), data_dir.file_name()) else {
        return;
    };
    let prefix = format!("{}.damaged-", name.to_string_lossy());
    let Ok(entries) = std::fs::read_dir(parent) else {
        return;
    };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(&prefix)
            && let Err(error) = std::fs::remove_dir_all(entry.path())
        {
            eprintln!("{} stays: {error}", entry.path().display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lacking_is_said_for_each_kind_that_needs_it() {
        let mut cannot = Cannot::default();
        assert!(!cannot.lacks(Need::Shim, true, None));
        assert!(cannot.lacks(Need::Disks, true, Some("no root".to_owned())));
        assert!(
            cannot
                .0
                .contains(&(FaultKind::PowerLossAll, "no root".to_owned()))
        );
        assert!(
            !cannot
                .0
                .iter()
                .any(|(kind, _)| *kind == FaultKind::ClockJump)
        );
    }

    #[test]
    fn small_disks_get_a_small_minimum_unless_somebody_says_otherwise() {
        assert_eq!(with_storage("", false), "");
        assert!(with_storage("", true).contains("free_bytes_min = 134217728"));
        let own = "[storage]\nfree_bytes_min = 1\n";
        assert_eq!(with_storage(own, true), own);
    }

    #[test]
    fn what_rejoin_moved_aside_is_removed_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["data", "data.damaged-17", "data.old"] {
            std::fs::create_dir(directory.path().join(name)).unwrap();
        }
        remove_damaged(&directory.path().join("data"));
        assert!(directory.path().join("data").exists());
        assert!(directory.path().join("data.old").exists());
        assert!(!directory.path().join("data.damaged-17").exists());
    }
}
