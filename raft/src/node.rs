//! This process's part in the cluster: one handle for everything that the edge asks of it.

use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

use accord_storage as storage;
use accord_storage::GroupId;
use accord_storage::Store;
use bytes::Bytes;
use uuid::Uuid;

use crate::agenda;
use crate::api::Attachment;
use crate::api::Channel;
use crate::api::ChannelStatus;
use crate::api::Consistency;
use crate::api::Delivery;
use crate::api::Draft;
use crate::api::Executor;
use crate::api::MemberStatus;
use crate::api::Messages;
use crate::api::Metrics;
use crate::api::NodeOptions;
use crate::api::Page;
use crate::api::Range;
use crate::api::ReadError;
use crate::api::Server;
use crate::api::StateHash;
use crate::api::Status;
use crate::api::WriteError;
use crate::beat::Beat;
use crate::edge;
use crate::feed;
use crate::group::Group;
use crate::group::outbox::Verdict;
use crate::group::storage_error;
use crate::hibernation;
use crate::history;
use crate::machine::EncodedCommand;
use crate::machine::Outcome;
use crate::machine::directory::Command;
use crate::metrics;
use crate::names::ChannelName;
use crate::names::ServerName;
use crate::peers::APPEND_DEADLINE;
use crate::peers::Kind;
use crate::pending;
use crate::pending::Pending;
use crate::recovery;
use crate::recovery::Recovery;
use crate::remote;
use crate::remote::ReadRequest;
use crate::remote::StatusAnswer;
use crate::room;
use crate::sequence::Sequences;
use crate::service::PeerService;
use crate::shared::Shared;
use crate::state_hash;
use crate::transport;
use crate::transport::NodeId;
use crate::transport::PeerAddress;
use crate::transport::Transport;

/// How often, and how long apart, a node that stops asks others to take its groups over.
const HANDOVER_TRIES: usize = 8;
const HANDOVER_PAUSE: Duration = Duration::from_millis(100);
/// Between two looks at something that another node is about to change.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// How far a replica of the directory may lag, in entries, and the node still be ready.
const READY_LAG_MAX: u64 = 10_000;
/// A read from another node is tried this often on different replicas.
const REMOTE_TRIES_MAX: usize = 3;
/// How long a new subscriber waits for the leader's word on the head before it takes this node's.
const ATTACH_WAIT: Duration = Duration::from_secs(2);

/// Why a node could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the node {0} is not among the cluster's nodes")]
    NotAMember(NodeId),
    #[error("{0}")]
    Storage(#[from] storage::OpenError),
    #[error("the peer address could not be used: {0}")]
    Listen(#[from] std::io::Error),
    #[error("the directory could not be opened: {0}")]
    Directory(#[from] ReadError),
}

/// A cheap handle to this process's part in the cluster.
#[derive(Clone)]
pub struct Node {
    shared: Arc<Shared>,
}

impl Node {
    /// Opens the store, listens for peers and joins the directory. The first start of a new cluster
    /// needs nothing else; a restart finds what is on the disk and never founds a cluster again.
    ///
    /// # Errors
    /// See [`StartError`]; each text is a sentence for an operator.
    pub async fn start(
        options: NodeOptions,
        delivery: Arc<dyn Delivery>,
        executor: Arc<dyn Executor>,
    ) -> Result<Node, StartError> {
        if !options
            .members
            .iter()
            .any(|member| member.node == options.node)
        {
            return Err(StartError::NotAMember(options.node));
        }
        let mut stored = storage::Options::new(&options.data_dir, &options.cluster, options.node);
        stored.block_cache_bytes = options.block_cache_bytes;
        stored.free_bytes_min = options.free_bytes_min;
        let store = Store::open(stored)?;
        let recovery = Recovery::load(&store).map_err(storage_error)?;
        let sequences = Sequences::begin(&store).map_err(storage_error)?;
        let disk = transport::Disk {
            identity: store.identity(),
            incarnation: recovery.incarnation(),
        };
        let shared = Shared::new(options, store, recovery, sequences, delivery, executor);
        let links = transport_config(&shared.options, disk, shared.beat());
        let service = Arc::new(PeerService::new(Arc::clone(&shared)));
        shared.set_transport(Transport::start(links, service).await?);
        let node = Node { shared };
        if node.shared.recovery.is_complete() {
            node.shared.directory().replica().await?;
        } else {
            tokio::spawn(recovery::run(Arc::clone(&node.shared)));
        }
        tokio::spawn(introduce_nodes(Arc::clone(&node.shared)));
        tokio::spawn(room::run(Arc::clone(&node.shared)));
        tokio::spawn(hibernation::run(Arc::clone(&node.shared)));
        tokio::spawn(agenda::run(Arc::clone(&node.shared)));
        Ok(node)
    }

    pub fn id(&self) -> NodeId {
        self.shared.node()
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// # Errors
    /// See [`WriteError`].
    pub async fn create_server(&self, name: ServerName) -> Result<Server, WriteError> {
        let id = edge::fresh_id();
        let command = EncodedCommand::new(&Command::CreateServer {
            id: id.into_bytes(),
            name: name.as_str(),
        });
        match self.command(command).await? {
            Verdict::Outcome(Outcome::ServerCreated(server)) => Ok(server),
            Verdict::Repeated => {
                let found = self.shared.find_server(id).await;
                found.ok().flatten().ok_or(WriteError::OutcomeUnknown)
            }
            other => Err(pending::error_of(&other)),
        }
    }

    /// # Errors
    /// See [`WriteError`].
    pub async fn create_channel(
        &self,
        server: Uuid,
        name: ChannelName,
    ) -> Result<Channel, WriteError> {
        let id = edge::fresh_id();
        let command = EncodedCommand::new(&Command::CreateChannel {
            id: id.into_bytes(),
            server: server.into_bytes(),
            name: name.as_str(),
        });
        let deadline = self.deadline();
        loop {
            return match self.command(command.clone()).await? {
                Verdict::Outcome(Outcome::ChannelCreated(channel)) => Ok(channel),
                // The first leader has not told the directory of the nodes yet.
                Verdict::Outcome(Outcome::NoNodes) if Instant::now() < deadline => {
                    pause(LOOK_AGAIN).await;
                    continue;
                }
                Verdict::Repeated => match self.shared.find_channel(id).await {
                    Ok(channel) => Ok(Channel::clone(&channel)),
                    Err(ReadError::NotFound) => Err(WriteError::NoSuchServer),
                    Err(_) => Err(WriteError::OutcomeUnknown),
                },
                other => Err(pending::error_of(&other)),
            };
        }
    }

    async fn command(&self, command: EncodedCommand) -> Result<Verdict, WriteError> {
        let directory = self.shared.directory();
        self.admit(&directory)?;
        let Some(answer) = directory.lane().submit(command, self.deadline()) else {
            return Err(WriteError::Busy);
        };
        Ok(answer.await.unwrap_or(Verdict::Unknown))
    }

    /// # Errors
    /// See [`ReadError`].
    pub async fn servers(
        &self,
        consistency: Consistency,
        after: Option<u64>,
        limit: usize,
    ) -> Result<Page<Server>, ReadError> {
        self.shared.servers(consistency, after, limit).await
    }

    /// # Errors
    /// `NotFound` for an unknown server; see [`ReadError`].
    pub async fn channels(
        &self,
        server: Uuid,
        consistency: Consistency,
        after: Option<u64>,
        limit: usize,
    ) -> Result<Page<Channel>, ReadError> {
        self.shared
            .channels(server, consistency, after, limit)
            .await
    }

    /// # Errors
    /// `NotFound` for an unknown channel and for one of another server; see [`ReadError`].
    pub async fn channel(&self, server: Uuid, channel: Uuid) -> Result<Arc<Channel>, ReadError> {
        let found = self.shared.find_channel(channel).await?;
        if found.server == *server.as_bytes() {
            Ok(found)
        } else {
            Err(ReadError::NotFound)
        }
    }

    /// # Errors
    /// `NotFound` for an unknown channel; see [`ReadError`].
    pub async fn find_channel(&self, channel: Uuid) -> Result<Arc<Channel>, ReadError> {
        self.shared.find_channel(channel).await
    }

    /// Sends a message on its way. It has its place behind all that this node sent to the channel
    /// before when this returns.
    pub fn submit(&self, channel: &Arc<Channel>, draft: Draft) -> Pending {
        let group = self.group(channel);
        if let Err(error) = self.admit(&group) {
            return Pending::refused(error);
        }
        if group.has_to_wait() {
            return Pending::refused(WriteError::Busy);
        }
        group.wake();
        let head = group.open_replica().map_or(0, |replica| replica.tap.head());
        match group
            .lane()
            .submit(pending::encode(&draft), self.deadline())
        {
            Some(answer) => Pending::new(self.clone(), Arc::clone(channel), &draft, head, answer),
            None => Pending::refused(WriteError::Busy),
        }
    }

    /// The channel's group, awake or on its way to that.
    pub(crate) fn woken(&self, channel: &Arc<Channel>) -> Arc<Group> {
        let group = self.group(channel);
        group.wake();
        group
    }

    /// # Errors
    /// See [`ReadError`].
    pub async fn messages(
        &self,
        channel: &Arc<Channel>,
        range: Range,
        consistency: Consistency,
    ) -> Result<Messages, ReadError> {
        let group = self.group(channel);
        if group.has_to_wait() {
            return Err(ReadError::Busy);
        }
        if group.serves_here() {
            let replica = group.caught_up(consistency).await?;
            return history::read(&replica, range);
        }
        self.read_elsewhere(
            channel,
            ReadRequest::messages(channel.group, range, consistency),
        )
        .await
    }

    /// The channel's head.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn head(
        &self,
        channel: &Arc<Channel>,
        consistency: Consistency,
    ) -> Result<u64, ReadError> {
        let group = self.group(channel);
        if group.serves_here() {
            let replica = group.caught_up(consistency).await?;
            return Ok(replica.tap.head());
        }
        let request = ReadRequest::head(channel.group, consistency);
        self.read_elsewhere(channel, request)
            .await
            .map(|found| found.head)
    }

    /// Asks the replicas in turn. What this node has answered once is the least that it answers from
    /// then on, whichever replica it asks: a session on one node never sees a channel go back.
    async fn read_elsewhere(
        &self,
        channel: &Arc<Channel>,
        request: ReadRequest,
    ) -> Result<Messages, ReadError> {
        let deadline = self.deadline();
        let least = self.shared.head_seen(GroupId(channel.group));
        let mut tries = 0;
        loop {
            let up: Vec<_> = channel
                .replicas
                .iter()
                .filter(|node| self.shared.is_up(**node))
                .collect();
            let peer = up
                .get(tries % up.len().max(1))
                .and_then(|node| self.shared.peer(**node));
            if let Some(peer) = peer {
                let call = peer.call(Kind::Read.byte(), request.encode(), APPEND_DEADLINE);
                match call.await {
                    Ok(answer) => match remote::decode_answer(&answer) {
                        Err(
                            error @ (ReadError::NoLeader
                            | ReadError::Busy
                            | ReadError::Stopping
                            | ReadError::Recovering
                            | ReadError::Storage(_)),
                        ) => {
                            tracing::debug!(node = peer.node(), %error, "a read failed on another node")
                        }
                        Ok(found) if found.head < least => {
                            tracing::debug!(node = peer.node(), "a replica is behind the last read")
                        }
                        Ok(found) => {
                            self.shared.see_head(GroupId(channel.group), found.head);
                            return Ok(found);
                        }
                        Err(ReadError::NotFound) => return Err(ReadError::NotFound),
                    },
                    Err(error) => {
                        tracing::debug!(node = peer.node(), %error, "a read failed on another node")
                    }
                }
            }
            tries += 1;
            if tries >= REMOTE_TRIES_MAX && Instant::now() >= deadline {
                return Err(ReadError::NoLeader);
            }
            pause(LOOK_AGAIN).await;
        }
    }

    /// From now on the channel's messages are delivered on this node.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn attach(&self, channel: &Arc<Channel>) -> Result<Attachment, ReadError> {
        let group = self.group(channel);
        let (hold, held) = tokio::sync::oneshot::channel();
        if group.serves_here() {
            // It delivers as the channel that its record names, now and whenever it wakes.
            let replica = group.replica().await?;
            // A socket must not be shown as new what was acknowledged before it connected; without a
            // leader this node's own word has to do.
            let level = group.caught_up(Consistency::Linearizable);
            let _ = tokio::time::timeout(ATTACH_WAIT, level).await;
            return Ok(Attachment {
                head: replica.tap.head(),
                _hold: None,
            });
        }
        let head =
            match tokio::time::timeout(ATTACH_WAIT, self.head(channel, Consistency::Linearizable))
                .await
            {
                Ok(Ok(head)) => head,
                Ok(Err(_)) | Err(_) => self.head(channel, Consistency::Stale).await?,
            };
        tokio::spawn(feed::run(
            Arc::clone(&self.shared),
            Arc::clone(channel),
            head,
            held,
        ));
        Ok(Attachment {
            head,
            _hold: Some(hold),
        })
    }

    /// Tells every node's [`Delivery::ephemeral`], this one's too. Best effort.
    pub fn broadcast(&self, channel: &Arc<Channel>, event: Bytes) {
        self.shared.broadcast(Uuid::from_bytes(channel.id), &event);
    }

    pub fn status(&self) -> Status {
        let open = self.open_groups();
        let leading = open
            .iter()
            .filter(|group| group.status().leader == Some(self.id()));
        let members = self.shared.options.members.iter();
        Status {
            cluster: self.shared.options.cluster.clone(),
            node: self.id(),
            members: members
                .map(|member| MemberStatus {
                    member: member.clone(),
                    up: self.shared.is_up(member.node),
                })
                .collect(),
            groups_leading: leading.count(),
            groups_open: open.len(),
            directory: self.shared.directory().status(),
            not_ready: self.ready().err(),
        }
    }

    /// Whether this node can serve everything: it is not stopping, sees a quorum and a leader of the
    /// directory, and its own copy is not far behind.
    ///
    /// # Errors
    /// A sentence that says what is missing.
    pub fn ready(&self) -> Result<(), String> {
        if self.shared.is_draining() {
            return Err("this node is stopping".into());
        }
        let nodes = self.shared.nodes();
        let up = nodes
            .iter()
            .filter(|node| self.shared.is_up(**node))
            .count();
        if up <= nodes.len() / 2 {
            return Err(format!(
                "{up} of {} nodes are up, which is no majority",
                nodes.len()
            ));
        }
        let directory = self.shared.directory().status();
        let Some(leader) = directory.leader else {
            return Err("the directory has no leader yet".into());
        };
        if !self.shared.is_up(leader) {
            return Err(format!("node {leader}, which led the directory, is down"));
        }
        if directory.last.saturating_sub(directory.applied) > READY_LAG_MAX {
            return Err("this node is still catching up".into());
        }
        if !self.shared.recovery.is_complete() {
            return Err(format!(
                "this node has rejoined with an empty disk; {} groups have not recovered",
                self.shared.recovery.groups_left()
            ));
        }
        if !self.shared.knows_nodes() {
            return Err("the directory does not know the nodes yet".into());
        }
        Ok(())
    }

    /// # Errors
    /// See [`ReadError`].
    pub async fn channel_status(&self, channel: &Arc<Channel>) -> Result<ChannelStatus, ReadError> {
        let group = self.group(channel);
        if group.serves_here() {
            let replica = group.replica().await?;
            return Ok(ChannelStatus {
                channel: Arc::clone(channel),
                raft: group.status(),
                head: replica.tap.head(),
            });
        }
        let up = channel
            .replicas
            .iter()
            .find(|node| **node != self.id() && self.shared.is_up(**node));
        let call = up
            .and_then(|node| group.ask(*node, Kind::Status, APPEND_DEADLINE))
            .ok_or(ReadError::NoLeader)?;
        let answer = call.await.map_err(|_| ReadError::NoLeader)?;
        let answer = StatusAnswer::decode(&answer).map_err(|_| ReadError::NoLeader)?;
        Ok(ChannelStatus {
            channel: Arc::clone(channel),
            raft: answer.status(),
            head: answer.head,
        })
    }

    /// The hash of the channel's applied state and history on this node; `None` where there is no
    /// open replica. It reads all of it, which takes a while for a long history.
    ///
    /// # Errors
    /// `Busy` while others are being made, `Storage` if the state cannot be read.
    pub async fn state_hash(&self, channel: &Arc<Channel>) -> Result<Option<StateHash>, ReadError> {
        match self.group(channel).open_replica() {
            Some(replica) => state_hash::of(&self.shared, &replica).await,
            None => Ok(None),
        }
    }

    pub fn has_room(&self) -> bool {
        self.shared.store.has_room()
    }

    pub fn metrics(&self) -> Metrics {
        metrics::gather(&self.shared, &self.open_groups())
    }

    /// Refuses new writes and hands this node's groups to others, for 0.8 seconds at most. What is
    /// under way is finished.
    pub async fn drain(&self) {
        self.shared.draining.send_replace(true);
        // Where all nodes stop at once nobody takes over; a few tries tell.
        for _ in 0..HANDOVER_TRIES {
            let mut left = 0;
            for group in self.open_groups() {
                left += usize::from(self.hand_over(&group).await);
            }
            if left == 0 {
                return;
            }
            pause(HANDOVER_PAUSE).await;
        }
        tracing::warn!(
            "stopping although this node still leads groups: nobody took them over in time"
        );
    }

    /// Asks the next replica that is up to lead; false if there is nothing to hand over, or nobody.
    async fn hand_over(&self, group: &Arc<Group>) -> bool {
        let Some(replica) = group.open_replica() else {
            return false;
        };
        // In office also before a quorum has confirmed it, as one that has just turned to openraft is.
        if !replica.consensus.is_in_office() {
            return false;
        }
        let voters = replica.consensus.voters();
        let others = voters
            .into_iter()
            .filter(|node| *node != self.id() && self.shared.is_up(*node));
        let others: Vec<_> = others.collect();
        // Spread over the others.
        let index = usize::try_from(group.id.0).unwrap_or(0) % others.len().max(1);
        let Some(successor) = others.get(index) else {
            return false;
        };
        replica.consensus.transfer_leader(*successor).await;
        true
    }

    /// Ends everything, in the order in which it depends on each other.
    pub async fn stop(&self) {
        self.shared.stopping.send_replace(true);
        let (groups, closing) = self.shared.take_groups();
        // Those that were asked for again while they closed have a place of their own in the registry.
        let before = groups.iter().filter_map(|group| group.before());
        for closing in closing.into_iter().chain(before) {
            closing.ended().await;
        }
        let stops =
            groups
                .iter()
                .filter_map(|group| group.open_replica())
                .map(|replica| async move {
                    replica.consensus.stop().await;
                });
        futures_util::future::join_all(stops).await;
        if let Some(transport) = self.shared.transport() {
            transport.stop().await;
        }
        drop(groups);
        if let Err(error) = self.shared.store.clone().close().await {
            tracing::error!(%error, "the store did not close cleanly");
        }
    }

    pub(crate) fn admit(&self, group: &Group) -> Result<(), WriteError> {
        if self.shared.is_draining() {
            return Err(WriteError::Stopping);
        }
        if !room::for_writes(group) {
            return Err(WriteError::NoRoom);
        }
        Ok(())
    }

    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.shared.options.timing.request_timeout
    }

    pub(crate) fn group(&self, channel: &Arc<Channel>) -> Arc<Group> {
        let group = self.shared.group(GroupId(channel.group));
        group.set_record(channel);
        group.touch();
        group
    }

    fn open_groups(&self) -> Vec<Arc<Group>> {
        let groups = self.shared.groups().into_iter();
        groups
            .filter(|group| group.open_replica().is_some())
            .collect()
    }
}

/// Tells the directory which nodes there are, if it does not know yet. Every node offers to: the
/// command changes nothing the second time.
async fn introduce_nodes(shared: Arc<Shared>) {
    let directory = shared.directory();
    while !shared.is_draining() {
        let level = directory.caught_up(Consistency::Linearizable).await;
        if level.is_ok() {
            if shared.knows_nodes() {
                return;
            }
            let deadline = Instant::now() + shared.options.timing.request_timeout;
            if let Some(answer) = directory.lane().submit(shared.set_nodes(), deadline) {
                // Whatever came of it shows in the next look.
                let _ = answer.await;
            }
        }
        pause(LOOK_AGAIN).await;
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "what another node does cannot be waited for otherwise"
)]
async fn pause(duration: Duration) {
    tokio::time::sleep(duration).await;
}

fn transport_config(options: &NodeOptions, disk: transport::Disk, beat: Beat) -> transport::Config {
    let mut nodes: Vec<_> = options.members.iter().map(|member| member.node).collect();
    nodes.sort_unstable();
    let nodes: Vec<_> = nodes.iter().map(u64::to_string).collect();
    let peers = options.members.iter().map(|member| PeerAddress {
        node: member.node,
        addr: member.peer.clone(),
    });
    transport::Config {
        cluster: options.cluster.clone(),
        node: options.node,
        disk,
        fingerprint: format!(
            "replication={} nodes={}",
            options.replication,
            nodes.join(",")
        ),
        listen: options.listen,
        peers: peers.collect(),
        timing: transport::Timing::default(),
        beat,
    }
}
