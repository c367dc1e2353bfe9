//! The directory as this node reads and writes it. Every node holds a replica, so what exists is
//! found without asking anybody; only "it does not exist" needs the leader's word.

use std::sync::Arc;

use bytes::Bytes;
use uuid::Uuid;

use crate::api::Channel;
use crate::api::Consistency;
use crate::api::Page;
use crate::api::ReadError;
use crate::api::Server;
use crate::group::DIRECTORY;
use crate::group::Group;
use crate::group::storage_error;
use crate::machine::EncodedCommand;
use crate::machine::directory;
use crate::shared::Shared;

/// Most entries of one page of a list.
const PAGE_MAX: usize = 1_000;

impl Shared {
    pub(crate) fn directory(self: &Arc<Self>) -> Arc<Group> {
        self.group(DIRECTORY)
    }

    /// Sets a group's record from this node's replica of the directory, if it is known there.
    pub(crate) fn learn(self: &Arc<Self>, group: &Arc<Group>) {
        if group.id == DIRECTORY || group.has_record() {
            return;
        }
        let Some(directory) = self.directory().open_replica() else {
            return;
        };
        match directory::channel_of_group(&directory.rows, group.id.0) {
            Ok(Some(channel)) => group.set_record(&Arc::new(channel)),
            // Its creation has not come here yet.
            Ok(None) => {}
            Err(error) => tracing::error!(%error, "the directory cannot be read"),
        }
    }

    /// # Errors
    /// `NotFound`, or why the directory could not be read.
    pub(crate) async fn find_channel(
        self: &Arc<Self>,
        id: Uuid,
    ) -> Result<Arc<Channel>, ReadError> {
        let found = self
            .find(|rows| directory::channel(rows, id.as_bytes()).map_err(storage_error))
            .await?;
        found.map(Arc::new).ok_or(ReadError::NotFound)
    }

    /// # Errors
    /// Why the directory could not be read.
    pub(crate) async fn find_server(
        self: &Arc<Self>,
        id: Uuid,
    ) -> Result<Option<Server>, ReadError> {
        self.find(|rows| directory::server(rows, id.as_bytes()).map_err(storage_error))
            .await
    }

    /// Nothing is ever deleted from the directory, so what this node finds is there; what it does not
    /// find may have been created elsewhere just now.
    async fn find<T>(
        self: &Arc<Self>,
        get: impl Fn(&crate::rows::GroupRows) -> Result<Option<T>, ReadError>,
    ) -> Result<Option<T>, ReadError> {
        let directory = self.directory();
        if let Some(replica) = directory.open_replica()
            && let Some(found) = get(&replica.rows)?
        {
            return Ok(Some(found));
        }
        let replica = directory.caught_up(Consistency::Linearizable).await?;
        get(&replica.rows)
    }

    /// # Errors
    /// Why the directory could not be read.
    pub(crate) async fn servers(
        self: &Arc<Self>,
        consistency: Consistency,
        after: Option<u64>,
        limit: usize,
    ) -> Result<Page<Server>, ReadError> {
        let limit = limit.min(PAGE_MAX);
        let replica = self.directory().caught_up(consistency).await?;
        let found = directory::servers(&replica.rows, after, limit + 1).map_err(storage_error)?;
        Ok(page(found, limit))
    }

    /// # Errors
    /// `NotFound` for an unknown server, or why the directory could not be read.
    pub(crate) async fn channels(
        self: &Arc<Self>,
        server: Uuid,
        consistency: Consistency,
        after: Option<u64>,
        limit: usize,
    ) -> Result<Page<Channel>, ReadError> {
        let limit = limit.min(PAGE_MAX);
        let replica = self.directory().caught_up(consistency).await?;
        let known = directory::server(&replica.rows, server.as_bytes()).map_err(storage_error)?;
        if known.is_none() {
            return Err(ReadError::NotFound);
        }
        let found = directory::channels(&replica.rows, server.as_bytes(), after, limit + 1)
            .map_err(storage_error)?;
        Ok(page(found, limit))
    }

    /// Whether the directory knows the configured nodes already.
    pub(crate) fn knows_nodes(self: &Arc<Self>) -> bool {
        let Some(replica) = self.directory().open_replica() else {
            return false;
        };
        let wanted = u32::try_from(self.options.replication).ok();
        let replication = directory::replication(&replica.rows).ok();
        let nodes = directory::nodes(&replica.rows).unwrap_or_default();
        let mut known: Vec<_> = nodes.into_iter().map(|node| (node.id, node.zone)).collect();
        let members = self.options.members.iter();
        let mut configured: Vec<_> = members
            .map(|member| (member.node, member.zone.clone()))
            .collect();
        known.sort();
        configured.sort();
        replication == wanted && known == configured
    }

    /// The command that tells the directory of the configured nodes.
    pub(crate) fn set_nodes(&self) -> EncodedCommand {
        let members = self.options.members.iter();
        EncodedCommand::new(&directory::Command::SetNodes {
            replication: u32::try_from(self.options.replication).unwrap_or(u32::MAX),
            nodes: members
                .map(|member| (member.node, member.zone.as_deref()))
                .collect(),
        })
    }

    /// Best effort, to every node's [`Delivery::ephemeral`](crate::api::Delivery::ephemeral).
    pub(crate) fn broadcast(&self, channel: Uuid, event: &Bytes) {
        use crate::peers::Kind;
        self.delivery.ephemeral(channel, event);
        for node in self.nodes() {
            if let Some(peer) = self.peer(node).filter(|peer| peer.is_up()) {
                let id = Bytes::copy_from_slice(channel.as_bytes());
                // Nobody waits for the answer.
                drop(peer.call_parts(
                    Kind::Ephemeral.byte(),
                    vec![id, event.clone()],
                    crate::peers::APPEND_DEADLINE,
                ));
            }
        }
    }
}

fn page<T>(mut found: Vec<(u64, T)>, limit: usize) -> Page<T> {
    let more = found.len() > limit;
    found.truncate(limit);
    Page {
        next: found.last().filter(|_| more).map(|(ordinal, _)| *ordinal),
        items: found.into_iter().map(|(_, item)| item).collect(),
    }
}
