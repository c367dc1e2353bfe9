//! What this node does for its peers. Requests come in frame order and are only enqueued here; those
//! that may take a while get a task of their own.

use std::sync::Arc;
use std::time::Duration;

use accord_storage::GroupId;
use bytes::Buf;
use bytes::Bytes;
use tokio::time::Instant;
use uuid::Uuid;

use crate::agenda;
use crate::api::Consistency;
use crate::api::Messages;
use crate::api::Range;
use crate::api::ReadError;
use crate::consensus::Ballot;
use crate::consensus::decode_steady;
use crate::consensus::wire;
use crate::consensus::wire::Malformed;
use crate::failover;
use crate::failover::Line;
use crate::group::Append;
use crate::group::DIRECTORY;
use crate::group::Group;
use crate::hibernation;
use crate::history;
use crate::machine::Part;
use crate::peers::Kind;
use crate::remote;
use crate::remote::FeedRequest;
use crate::remote::ReadRequest;
use crate::remote::StatusAnswer;
use crate::room;
use crate::shared::Shared;
use crate::transport::Admitted;
use crate::transport::Disk;
use crate::transport::NodeId;
use crate::transport::Reply;
use crate::transport::Service;

/// Longest that a feed may wait for news before it is answered with none.
pub(crate) const FEED_WAIT_MAX: Duration = Duration::from_secs(10);
/// Messages in one answer to a feed.
const FEED_MESSAGES_MAX: usize = 512;

pub(crate) struct PeerService {
    shared: Arc<Shared>,
}

impl PeerService {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        PeerService { shared }
    }

    fn dispatch(&self, from: NodeId, kind: Kind, body: Bytes, reply: Reply) -> Result<(), String> {
        match kind {
            Kind::Append => {
                let decoded = wire::decode_append(body);
                self.append(
                    decoded.map(|(group, it)| (group, Append::Elective(it))),
                    reply,
                )?;
            }
            Kind::Steady => {
                let decoded = decode_steady(from, body);
                self.append(
                    decoded.map(|(group, it)| (group, Append::Steady(it))),
                    reply,
                )?;
            }
            Kind::Submit => self.submit(from, body, reply),
            Kind::Ephemeral => {
                let mut event = body;
                if event.len() >= 16 {
                    let channel = Uuid::from_bytes(
                        event.split_to(16).as_ref().try_into().unwrap_or_default(),
                    );
                    self.shared.delivery.ephemeral(channel, &event);
                }
                reply.ok(Bytes::new());
            }
            Kind::NoRoom => {
                let is_short = body.first() != Some(&0);
                self.shared.shortage.told(from, is_short, Instant::now());
                reply.ok(Bytes::new());
            }
            Kind::Level => match hibernation::is_level(&self.shared, &body) {
                Ok(answer) => reply.ok(answer),
                Err(error) => reply.refuse(&error.to_string()),
            },
            Kind::Rest => {
                hibernation::rest(&self.shared, &body).map_err(|error| error.to_string())?;
                reply.ok(Bytes::new());
            }
            Kind::Ballot => {
                let (group, ballot) =
                    Ballot::decode(from, &body).map_err(|error| error.to_string())?;
                let group = self.shared.group(GroupId(group));
                tokio::spawn(async move {
                    match vote_for(&group, ballot).await {
                        Ok(body) => reply.ok(body),
                        Err(why) => reply.refuse(&why),
                    }
                });
            }
            Kind::Vote
            | Kind::PreVote
            | Kind::TransferLeader
            | Kind::SnapshotBegin
            | Kind::SnapshotChunk
            | Kind::SnapshotEnd
            | Kind::ReadIndex
            | Kind::Read
            | Kind::Feed
            | Kind::Status
            | Kind::Inquire
            | Kind::Rouse
            | Kind::Agenda
            | Kind::Standing => {
                let shared = Arc::clone(&self.shared);
                tokio::spawn(async move {
                    match answer(&shared, kind, body).await {
                        Ok(body) => reply.ok(body),
                        Err(why) => reply.refuse(&why),
                    }
                });
            }
        }
        Ok(())
    }

    fn append(
        &self,
        decoded: Result<(u64, Append), Malformed>,
        reply: Reply,
    ) -> Result<(), String> {
        let (group, request) = match decoded {
            Ok(decoded) => decoded,
            Err(error) => {
                reply.refuse(&error.to_string());
                return Err(error.to_string());
            }
        };
        // What says nothing but that there is a leader takes no room.
        if !request.is_empty() && !self.shared.store.has_reserve() {
            reply.refuse("this node's disk is too full for entries");
            return Ok(());
        }
        // A leader sees how far its own group is behind here, not what all of them come to.
        if !request.is_empty() && self.shared.store.is_swamped() {
            reply.refuse("too many entries wait for this node's disk");
            return Ok(());
        }
        self.shared.group(GroupId(group)).append(request, reply);
        Ok(())
    }

    fn submit(&self, from: NodeId, mut body: Bytes, reply: Reply) {
        if body.len() < 8 {
            return reply.refuse("a part without a group");
        }
        let group = GroupId(body.get_u64_le());
        if let Err(why) = is_part_of(from, &body) {
            return reply.refuse(&why);
        }
        let group = self.shared.group(group);
        if !room::for_writes(&group) {
            return reply.ok(crate::group::submit::Submitted::NoRoom.encode());
        }
        group.touch();
        wake(&group);
        group.lane().part(body, reply);
    }
}

/// A node sends its own parts only. So the sessions that a group remembers are those of members, and
/// none of them ends another's.
fn is_part_of(node: NodeId, bytes: &Bytes) -> Result<(), String> {
    match Part::peek(bytes) {
        Ok(header) if header.session.node == node => Ok(()),
        Ok(_) => Err("a part of another node's session".into()),
        Err(error) => Err(error.to_string()),
    }
}

/// Opens the replica of a group that a client's request at another node is about.
fn wake(group: &Arc<Group>) {
    // The directory has no record: every node replicates it.
    let knows = group.id == DIRECTORY || group.has_record();
    if (group.open_replica().is_none() || !knows) && !group.is_recovering() {
        let group = Arc::clone(group);
        tokio::spawn(async move {
            let opened = open(&group, Asks::Client).await;
            group.lane().look();
            opened.map(drop)
        });
    }
}

/// On whose behalf a group is opened.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asks {
    /// Its client knows the channel, so the directory holds it, if not yet here.
    Client,
    /// Raft's own messages must not wait for the directory, unless nothing is here without it.
    Peer,
}

async fn open(group: &Arc<Group>, asks: Asks) -> Result<Arc<crate::group::Replica>, ReadError> {
    let shared = &group.shared;
    shared.learn(group);
    if asks == Asks::Client && group.is_recovering() {
        return Err(ReadError::Recovering);
    }
    if asks == Asks::Client && !group.has_record() && group.id != DIRECTORY {
        shared
            .directory()
            .caught_up(Consistency::Linearizable)
            .await?;
        shared.learn(group);
        if !group.has_record() {
            return Err(ReadError::NotFound);
        }
    }
    group.replica().await
}

async fn vote_for(group: &Arc<Group>, ballot: Ballot) -> Result<Bytes, String> {
    group.touch();
    let text = |error: ReadError| error.to_string();
    if group.is_recovering() {
        return Err(text(ReadError::Recovering));
    }
    let replica = open(group, Asks::Peer).await.map_err(text)?;
    let is_dead = |leader| !group.shared.is_up(leader);
    replica.consensus.on_ballot(ballot, is_dead).await
}

async fn answer(shared: &Arc<Shared>, kind: Kind, body: Bytes) -> Result<Bytes, String> {
    if kind == Kind::Feed {
        // Not a hold on the group: it may sleep while a feed waits for its next message.
        let request = FeedRequest::decode(&body).map_err(|error| error.to_string())?;
        return Ok(remote::encode_answer(feed(shared, request).await));
    }
    if kind == Kind::Agenda {
        let request = agenda::Request::decode(&body).map_err(|error| error.to_string())?;
        return Ok(agenda::encode_answer(agenda_of(shared, &request).await));
    }
    if kind == Kind::Standing {
        let standing = hibernation::standing(shared, &body).await;
        return standing.map_err(|error| error.to_string());
    }
    let group = shared.group(group_of(kind, &body)?);
    if kind != Kind::Status {
        group.touch();
    }
    let text = |error: ReadError| error.to_string();
    let takes_memory = matches!(
        kind,
        Kind::Vote | Kind::PreVote | Kind::TransferLeader | Kind::Inquire
    );
    if takes_memory && group.is_recovering() {
        return Err(ReadError::Recovering.to_string());
    }
    if kind != Kind::Read {
        let asks = match kind {
            Kind::ReadIndex => Asks::Client,
            _ => Asks::Peer,
        };
        let replica = open(&group, asks).await.map_err(text)?;
        let consensus = &replica.consensus;
        return match kind {
            Kind::Vote => {
                // Also one that it only remembers: a replica that slept has heard nobody yet.
                let leader = consensus.leader().likely();
                let leader_dead = leader.is_some_and(|leader| !shared.is_up(leader));
                consensus.on_vote(&body, leader_dead).await
            }
            Kind::PreVote => consensus.on_pre_vote(&body).await,
            Kind::TransferLeader if shared.is_draining() => {
                Err("this node is stopping itself".into())
            }
            Kind::TransferLeader => consensus.on_transfer_leader(&body).await,
            Kind::SnapshotBegin => consensus.on_snapshot_begin(&body),
            Kind::SnapshotChunk => consensus.on_snapshot_chunk(body).await,
            Kind::SnapshotEnd => consensus.on_snapshot_end(&body).await,
            Kind::ReadIndex => {
                let index = group.confirm().await.map_err(text)?;
                Ok(Bytes::copy_from_slice(&index.to_le_bytes()))
            }
            Kind::Status => {
                let head = replica.tap.head();
                Ok(StatusAnswer::new(&group.status(), head, group.is_standing()).encode())
            }
            Kind::Inquire => Ok(Bytes::copy_from_slice(&consensus.term().to_le_bytes())),
            Kind::Rouse => {
                let roused = consensus.rouse_if_overdue().await;
                roused.map_err(|error| error.to_string())?;
                if !consensus.is_in_office() {
                    // It may be the leader who asks, and has forgotten that it was.
                    tokio::spawn(failover::first_leader(Arc::clone(&group), Line::Asked));
                }
                Ok(Bytes::new())
            }
            Kind::Append
            | Kind::Steady
            | Kind::Submit
            | Kind::Ephemeral
            | Kind::NoRoom
            | Kind::Level
            | Kind::Rest
            | Kind::Standing
            | Kind::Ballot
            | Kind::Agenda
            | Kind::Read
            | Kind::Feed => Err("not answered here".into()),
        };
    }
    let request = ReadRequest::decode(&body).map_err(|error| error.to_string())?;
    Ok(remote::encode_answer(read(&group, request).await))
}

/// Which group a request is about.
fn group_of(kind: Kind, body: &Bytes) -> Result<GroupId, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let group = match kind {
        Kind::Vote | Kind::PreVote => {
            wire::decode_vote_request(body)
                .map_err(|error| text(&error))?
                .0
        }
        Kind::TransferLeader => {
            wire::decode::<wire::Transfer>(body)
                .map_err(|error| text(&error))?
                .group
        }
        Kind::SnapshotBegin => {
            wire::decode::<wire::SnapshotBegin>(body)
                .map_err(|error| text(&error))?
                .group
        }
        Kind::SnapshotChunk => {
            let (header, _): (wire::SnapshotChunk, Bytes) =
                wire::decode_parts(body.clone()).map_err(|error| text(&error))?;
            header.group
        }
        Kind::SnapshotEnd => {
            wire::decode::<wire::SnapshotEnd>(body)
                .map_err(|error| text(&error))?
                .group
        }
        Kind::Read => {
            ReadRequest::decode(body)
                .map_err(|error| text(&error))?
                .group
        }
        Kind::ReadIndex | Kind::Status | Kind::Inquire | Kind::Rouse => {
            match body.as_ref().try_into() {
                Ok(bytes) => u64::from_le_bytes(bytes),
                Err(_) => return Err("a request without a group".into()),
            }
        }
        Kind::Append
        | Kind::Steady
        | Kind::Submit
        | Kind::Feed
        | Kind::Ephemeral
        | Kind::NoRoom
        | Kind::Level
        | Kind::Rest
        | Kind::Standing
        | Kind::Agenda
        | Kind::Ballot => {
            return Err("not answered here".into());
        }
    };
    Ok(GroupId(group))
}

async fn read(group: &Arc<Group>, request: ReadRequest) -> Result<Messages, ReadError> {
    open(group, Asks::Client).await?;
    let replica = group.caught_up(request.consistency()).await?;
    match request.range() {
        Some(range) => history::read(&replica, range),
        None => Ok(Messages {
            messages: Vec::new(),
            head: replica.tap.head(),
        }),
    }
}

async fn agenda_of(
    shared: &Arc<Shared>,
    request: &agenda::Request,
) -> Result<agenda::Found, ReadError> {
    let group = shared.group(GroupId(request.group));
    group.touch();
    open(&group, Asks::Client).await?;
    let replica = group.caught_up(request.consistency()).await?;
    agenda::find(&replica, &request.what)
}

async fn feed(shared: &Arc<Shared>, request: FeedRequest) -> Result<Messages, ReadError> {
    let id = GroupId(request.group);
    let heads = match shared.feeds.heads(id) {
        Some(heads) => heads,
        None => {
            let group = shared.group(id);
            group.touch();
            let replica = open(&group, Asks::Client).await?;
            Arc::clone(replica.tap.heads())
        }
    };
    shared.feeds.follow(id, &heads);
    let wait = Duration::from_millis(request.wait_ms.into()).min(FEED_WAIT_MAX);
    let mut heads = heads.subscribe();
    let newer = heads.wait_for(|head| *head > request.after);
    if tokio::time::timeout(wait, newer).await.is_err() {
        // Running out of time is an answer too: nothing new.
        return Ok(Messages {
            messages: Vec::new(),
            head: request.after,
        });
    }
    let group = shared.group(id);
    group.touch();
    let replica = open(&group, Asks::Client).await?;
    if let Some(recent) = replica.tap.recent_after(request.after) {
        // All that is at hand is bounded in bytes far below a frame.
        let messages = recent.iter().flat_map(|batch| batch.messages.iter());
        let after = messages.filter(|message| message.seq > request.after);
        return Ok(Messages {
            messages: after.take(FEED_MESSAGES_MAX).cloned().collect(),
            head: replica.tap.head(),
        });
    }
    let replica = group.caught_up(Consistency::Stale).await?;
    let range = Range::After {
        seq: request.after,
        limit: FEED_MESSAGES_MAX,
    };
    history::read(&replica, range)
}

impl Service for PeerService {
    fn request(&self, from: NodeId, kind: u8, body: Bytes, reply: Reply) {
        let Some(kind) = Kind::from_byte(kind) else {
            return reply.refuse("this node knows no such request");
        };
        if let Err(error) = self.dispatch(from, kind, body, reply) {
            tracing::warn!(from, ?kind, %error, "refused a peer's request");
        }
    }

    fn admit(&self, node: NodeId, disk: Disk) -> Result<(), String> {
        let name = format!("identity of node {node}");
        let known = self
            .shared
            .store
            .fact(&name)
            .map_err(|error| error.to_string())?;
        let known = known.as_deref().map(Disk::decode).transpose()?;
        match disk.judged(node, known)? {
            Admitted::Known => Ok(()),
            Admitted::New => {
                if known.is_some() {
                    tracing::warn!(
                        node,
                        "a node rejoins with an empty disk; its old one is refused from now on"
                    );
                }
                self.shared
                    .store
                    .set_fact(&name, &disk.encode())
                    .map_err(|error| error.to_string())
            }
        }
    }

    fn peer_up(&self, node: NodeId) {
        hibernation::returned(&self.shared, node);
        for group in self.shared.groups() {
            group.lane().look();
            let Some(replica) = group.open_replica() else {
                continue;
            };
            if replica.consensus.left_out().contains(&node) {
                // It is behind, and openraft can tell by how much. Not for all groups at once, any more
                // than elections are.
                tokio::spawn(async move {
                    let shared = Arc::clone(&group.shared);
                    let _turn = shared.campaigns.turn(Line::Lost).await;
                    // A replica that has stopped meanwhile has nothing to bring level.
                    let _ = replica.consensus.rouse().await;
                });
                continue;
            }
            let leader = replica.consensus.leader().leader;
            // There may be a majority again.
            if !leader.is_some_and(|leader| self.shared.is_up(leader)) {
                tokio::spawn(failover::waken(group, Line::Lost));
            }
        }
    }

    fn peer_down(&self, node: NodeId) {
        tracing::warn!(node, "lost a peer");
        for group in self.shared.groups() {
            group.lane().look();
            let led = group
                .open_replica()
                .is_some_and(|replica| replica.consensus.leader().likely() == Some(node));
            if led && !self.shared.is_stopping() {
                tokio::spawn(failover::replace_leader(group, node));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::SessionId;
    use crate::machine::encode_part;

    #[test]
    fn a_node_sends_parts_of_its_own_sessions_only() {
        let session = SessionId {
            node: 2,
            sequence: 1,
        };
        let part = encode_part(session, 1, &["a command"]).unwrap();
        assert_eq!(is_part_of(2, &part), Ok(()));
        assert!(is_part_of(1, &part).is_err());
        assert!(is_part_of(2, &part.slice(1..)).is_err());
    }
}
