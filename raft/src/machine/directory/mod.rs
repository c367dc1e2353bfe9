//! The machine of the directory: servers, channels, where the replicas of each
//! channel are, and the nodes.
//!
//! Invariants:
//! - Ordinals and group numbers are given once each, in log order; a list in
//!   order of ordinal is in order of creation, and new things come at its end.
//! - An id names one thing for ever: creating it again answers what is there.
//! - How many channels a node holds, and how many it prefers to lead, is what
//!   the channel records say, also for nodes that are gone.

mod keys;
mod placement;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use accord_storage::{Order, Table};
use bincode::{BorrowDecode, Decode, Encode};
use bytes::Bytes;

use super::batch::Batch;
use super::session::Sessions;
use super::{Applied, MachineError, Outcome, Overlay, View, codec};
use keys::Place;

/// Most nodes that the directory ever takes in, with those that are gone, for a
/// number is not used twice: more than any cluster of ours sees, few enough to
/// be looked through for each new channel.
pub const NODES_MAX: usize = 1024;
/// Most replicas of a channel.
pub const REPLICATION_MAX: u32 = 31;
/// Most bytes in the name of a server or channel: what the longest valid name
/// can have. The edge checks names; this keeps rows and outcomes small anyhow.
pub const NAME_BYTES_MAX: usize = 4 * crate::names::NAME_CHARS_MAX;
/// Most bytes in the name of a zone.
pub const ZONE_BYTES_MAX: usize = 255;

const HEAD_VERSION: u8 = 1;
const SERVER_VERSION: u8 = 1;
const CHANNEL_VERSION: u8 = 1;
const NODE_VERSION: u8 = 1;
const POINTER_VERSION: u8 = 1;

/// What can be asked of the directory. New kinds are added at the end, because
/// the position is what is encoded.
#[derive(Debug, Clone, PartialEq, Eq, Encode, BorrowDecode)]
pub enum Command<'a> {
    /// Make a server. Answered [`Outcome::ServerCreated`].
    CreateServer {
        /// Its id, minted by whoever asks.
        id: [u8; 16],
        /// Its name.
        name: &'a str,
    },
    /// Make a channel and choose its replicas. Answered
    /// [`Outcome::ChannelCreated`], [`Outcome::NoSuchServer`] or
    /// [`Outcome::NoNodes`].
    CreateChannel {
        /// Its id, minted by whoever asks.
        id: [u8; 16],
        /// The server that it belongs to.
        server: [u8; 16],
        /// Its name.
        name: &'a str,
    },
    /// Say which nodes there are, by number, with their zones, and how many
    /// replicas a new channel gets. Answered [`Outcome::Done`], also if nothing
    /// changes.
    SetNodes {
        /// Replicas of a new channel, 1 to [`REPLICATION_MAX`].
        replication: u32,
        /// All nodes. If one is named twice, the last counts.
        nodes: Vec<(u64, Option<&'a str>)>,
    },
}

/// A server.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Server {
    /// Its id.
    pub id: [u8; 16],
    /// Its name.
    pub name: String,
}

/// A channel.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Channel {
    /// Its id.
    pub id: [u8; 16],
    /// The server that it belongs to.
    pub server: [u8; 16],
    /// Its name.
    pub name: String,
    /// Number of its Raft group, from 1.
    pub group: u64,
    /// Nodes that hold it at first, the preferred leader first.
    pub replicas: Vec<u64>,
    /// When, Unix milliseconds of the directory's clock.
    pub created_ms: u64,
}

/// A node, and what was given to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its number.
    pub id: u64,
    /// What may fail together with it.
    pub zone: Option<String>,
    /// How many channels have it among their replicas.
    pub channels: u64,
    /// How many of those it should lead.
    pub preferred: u64,
}

/// Where the directory stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
struct Head {
    next_ordinal: u64,
    next_group: u64,
    clock_ms: u64,
    /// Replicas of a new channel, 0 before the first `SetNodes`.
    replication: u32,
}

impl Default for Head {
    fn default() -> Self {
        Self {
            next_ordinal: 1,
            next_group: 1,
            clock_ms: 0,
            replication: 0,
        }
    }
}

/// The row of a node. Rows of nodes that are gone stay, with `member` false, so
/// that their counts are right if they return.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
struct NodeRow {
    member: bool,
    zone: Option<String>,
    channels: u64,
    preferred: u64,
}

/// The state machine of the directory.
#[derive(Debug)]
pub struct DirectoryMachine {
    head: Head,
    sessions: Sessions,
}

impl DirectoryMachine {
    /// Begins from the rows of the directory, also from none.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn load(view: &dyn View) -> Result<Self, MachineError> {
        let row = get(view, &keys::head(), HEAD_VERSION, "directory head")?;
        Ok(Self {
            head: row.unwrap_or_default(),
            sessions: Sessions::load(view)?,
        })
    }

    /// Applies the next entry; see [`super::Machine::apply`].
    ///
    /// # Errors
    /// When this replica's rows cannot be read. The machine and the overlay are
    /// then of no use any more.
    pub fn apply(
        &mut self,
        overlay: &mut Overlay<'_>,
        payload: &Bytes,
    ) -> Result<Applied, MachineError> {
        let Ok(batch) = Batch::read(payload) else {
            return Ok(Applied::malformed());
        };
        let head = &mut self.head;
        head.clock_ms = head.clock_ms.max(batch.timestamp_ms());
        let applied = self.sessions.take(overlay, &batch, |overlay, command| {
            decide(overlay, head, command)
        })?;
        put(overlay, keys::head(), HEAD_VERSION, head);
        Ok(applied)
    }
}

/// A server by its id.
///
/// # Errors
/// When the rows cannot be read.
pub fn server(view: &dyn View, id: &[u8; 16]) -> Result<Option<Server>, MachineError> {
    match get(view, &keys::server_id(id), POINTER_VERSION, "server id")? {
        Some(ordinal) => get(view, &keys::server(ordinal), SERVER_VERSION, "server"),
        None => Ok(None),
    }
}

/// At most `limit` servers in order of creation, each with its ordinal; `after`
/// an ordinal, or from the beginning.
///
/// # Errors
/// When the rows cannot be read.
pub fn servers(
    view: &dyn View,
    after: Option<u64>,
    limit: usize,
) -> Result<Vec<(u64, Server)>, MachineError> {
    let range = keys::servers_after(after);
    scan(
        view,
        &range,
        limit,
        keys::parse_server,
        SERVER_VERSION,
        "server",
    )
}

/// A channel by its id.
///
/// # Errors
/// When the rows cannot be read.
pub fn channel(view: &dyn View, id: &[u8; 16]) -> Result<Option<Channel>, MachineError> {
    let place = get(view, &keys::channel_id(id), POINTER_VERSION, "channel id")?;
    channel_at(view, place)
}

/// The channel whose messages a group holds.
///
/// # Errors
/// When the rows cannot be read.
pub fn channel_of_group(view: &dyn View, group: u64) -> Result<Option<Channel>, MachineError> {
    let place = get(view, &keys::group(group), POINTER_VERSION, "group")?;
    channel_at(view, place)
}

/// At most `limit` channels of a server in order of creation, each with its
/// ordinal; `after` an ordinal, or from the beginning. None of an unknown
/// server.
///
/// # Errors
/// When the rows cannot be read.
pub fn channels(
    view: &dyn View,
    server: &[u8; 16],
    after: Option<u64>,
    limit: usize,
) -> Result<Vec<(u64, Channel)>, MachineError> {
    let range = keys::channels_after(server, after);
    let parse = |key: &[u8]| keys::parse_channel(server, key);
    scan(view, &range, limit, parse, CHANNEL_VERSION, "channel")
}

/// The nodes that belong to the cluster, in order of number.
///
/// # Errors
/// When the rows cannot be read.
pub fn nodes(view: &dyn View) -> Result<Vec<Node>, MachineError> {
    let rows = node_rows(view)?.into_iter();
    let members = rows.filter(|(_, row)| row.member).map(|(id, row)| Node {
        id,
        zone: row.zone,
        channels: row.channels,
        preferred: row.preferred,
    });
    Ok(members.collect())
}

/// Replicas that a new channel gets; 0 before the first `SetNodes`.
///
/// # Errors
/// When the rows cannot be read.
pub fn replication(view: &dyn View) -> Result<u32, MachineError> {
    let head: Option<Head> = get(view, &keys::head(), HEAD_VERSION, "directory head")?;
    Ok(head.unwrap_or_default().replication)
}

/// The number that the next channel's group gets.
///
/// # Errors
/// When the rows cannot be read.
pub fn next_group(view: &dyn View) -> Result<u64, MachineError> {
    let head: Option<Head> = get(view, &keys::head(), HEAD_VERSION, "directory head")?;
    Ok(head.unwrap_or_default().next_group)
}

fn decide(
    overlay: &mut Overlay<'_>,
    head: &mut Head,
    command: Command<'_>,
) -> Result<Outcome, MachineError> {
    match command {
        Command::CreateServer { name, .. } | Command::CreateChannel { name, .. }
            if name.len() > NAME_BYTES_MAX =>
        {
            Ok(Outcome::Malformed)
        }
        Command::CreateServer { id, name } => create_server(overlay, head, id, name),
        Command::CreateChannel { id, server, name } => {
            create_channel(overlay, head, id, server, name)
        }
        Command::SetNodes { replication, nodes } => set_nodes(overlay, head, replication, &nodes),
    }
}

fn create_server(
    overlay: &mut Overlay<'_>,
    head: &mut Head,
    id: [u8; 16],
    name: &str,
) -> Result<Outcome, MachineError> {
    if let Some(existing) = server(overlay, &id)? {
        return Ok(Outcome::ServerCreated(existing));
    }
    let ordinal = take_number(&mut head.next_ordinal);
    let server = Server {
        id,
        name: name.to_owned(),
    };
    put(overlay, keys::server_id(&id), POINTER_VERSION, &ordinal);
    put(overlay, keys::server(ordinal), SERVER_VERSION, &server);
    Ok(Outcome::ServerCreated(server))
}

fn create_channel(
    overlay: &mut Overlay<'_>,
    head: &mut Head,
    id: [u8; 16],
    of_server: [u8; 16],
    name: &str,
) -> Result<Outcome, MachineError> {
    if let Some(existing) = channel(overlay, &id)? {
        return Ok(Outcome::ChannelCreated(existing));
    }
    if server(overlay, &of_server)?.is_none() {
        return Ok(Outcome::NoSuchServer);
    }
    let replicas = placement::choose(&nodes(overlay)?, head.replication);
    if replicas.is_empty() {
        return Ok(Outcome::NoNodes);
    }
    let place = Place {
        server: of_server,
        ordinal: take_number(&mut head.next_ordinal),
    };
    let channel = Channel {
        id,
        server: of_server,
        name: name.to_owned(),
        group: take_number(&mut head.next_group),
        replicas,
        created_ms: head.clock_ms,
    };
    count_replicas(overlay, &channel.replicas)?;
    put(overlay, keys::channel(&place), CHANNEL_VERSION, &channel);
    put(overlay, keys::channel_id(&id), POINTER_VERSION, &place);
    put(overlay, keys::group(channel.group), POINTER_VERSION, &place);
    Ok(Outcome::ChannelCreated(channel))
}

/// Adds a channel with these replicas to what the nodes hold.
fn count_replicas(overlay: &mut Overlay<'_>, replicas: &[u64]) -> Result<(), MachineError> {
    for (place, id) in replicas.iter().enumerate() {
        let row: Option<NodeRow> = get(overlay, &keys::node(*id), NODE_VERSION, "node")?;
        let mut row = row.ok_or(MachineError::Row("node"))?;
        row.channels += 1;
        row.preferred += u64::from(place == 0);
        put(overlay, keys::node(*id), NODE_VERSION, &row);
    }
    Ok(())
}

fn set_nodes(
    overlay: &mut Overlay<'_>,
    head: &mut Head,
    replication: u32,
    nodes: &[(u64, Option<&str>)],
) -> Result<Outcome, MachineError> {
    let is_zone_long = |zone: &&str| zone.len() > ZONE_BYTES_MAX;
    let fits = (1..=REPLICATION_MAX).contains(&replication)
        && !nodes
            .iter()
            .any(|(_, zone)| zone.as_ref().is_some_and(is_zone_long));
    if !fits {
        return Ok(Outcome::Malformed);
    }
    let wanted: BTreeMap<u64, Option<&str>> = nodes.iter().copied().collect();
    let mut rows = node_rows(overlay)?;
    for id in wanted.keys() {
        rows.entry(*id).or_default();
    }
    if rows.len() > NODES_MAX {
        return Ok(Outcome::Malformed);
    }
    head.replication = replication;
    for (id, old) in rows {
        let mut new = old.clone();
        new.member = wanted.contains_key(&id);
        if let Some(zone) = wanted.get(&id) {
            new.zone = zone.map(str::to_owned);
        }
        if new != old {
            put(overlay, keys::node(id), NODE_VERSION, &new);
        }
    }
    Ok(Outcome::Done)
}

/// The rows of all nodes that there ever were.
fn node_rows(view: &dyn View) -> Result<BTreeMap<u64, NodeRow>, MachineError> {
    let rows = scan(
        view,
        &keys::nodes(),
        NODES_MAX,
        keys::parse_node,
        NODE_VERSION,
        "node",
    )?;
    Ok(rows.into_iter().collect())
}

fn channel_at(view: &dyn View, place: Option<Place>) -> Result<Option<Channel>, MachineError> {
    match place {
        Some(place) => get(view, &keys::channel(&place), CHANNEL_VERSION, "channel"),
        None => Ok(None),
    }
}

fn take_number(next: &mut u64) -> u64 {
    let number = *next;
    *next += 1;
    number
}

fn get<T: Decode<()>>(
    view: &dyn View,
    key: &[u8],
    version: u8,
    what: &'static str,
) -> Result<Option<T>, MachineError> {
    let Some(row) = view.get(Table::State, key)? else {
        return Ok(None);
    };
    let row = codec::decode_record(version, &row).map_err(|_| MachineError::Row(what))?;
    Ok(Some(row))
}

fn scan<T: Decode<()>>(
    view: &dyn View,
    range: &keys::KeyRange,
    limit: usize,
    parse: impl Fn(&[u8]) -> Option<u64>,
    version: u8,
    what: &'static str,
) -> Result<Vec<(u64, T)>, MachineError> {
    let (from, to) = range.bounds();
    let rows = view.scan(Table::State, from, to, Order::Ascending, limit)?;
    let decode = |(key, row): (Vec<u8>, Vec<u8>)| {
        Some((parse(&key)?, codec::decode_record(version, &row).ok()?))
    };
    let rows: Option<Vec<_>> = rows.into_iter().map(decode).collect();
    rows.ok_or(MachineError::Row(what))
}

fn put(overlay: &mut Overlay<'_>, key: Vec<u8>, version: u8, value: &impl Encode) {
    overlay.put(Table::State, key, codec::encode_record(version, value));
}
