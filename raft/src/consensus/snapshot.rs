//! Snapshots between nodes: the sender asks what the follower has and streams the rest, in bounded
//! chunks, from a consistent view of its store; the follower stages them and openraft has them
//! switched in atomically.

use std::io;

use accord_storage as storage;
use bytes::Bytes;
use openraft::type_config::alias::SnapshotOf;
use tokio::sync::mpsc;

use super::log_store::completion;
use super::types;
use super::types::SnapshotMeta;
use super::types::TypeConfig;
use super::types::Vote;
use super::wire;
use crate::edge;
use crate::peers::Kind;
use crate::peers::SNAPSHOT_DEADLINE;
use crate::transport::CallError;
use crate::transport::Peer;

/// Bytes of one chunk: large enough to keep the follower's disk busy, small enough that frames of
/// other groups on the same link wait a few milliseconds at most.
const CHUNK_BYTES_MAX: usize = 512 * 1024;
/// Chunks read ahead of the link.
const CHUNKS_AHEAD_MAX: usize = 2;

/// What openraft passes around as "the snapshot".
pub(crate) enum SnapshotData {
    /// The sender's consistent view.
    View(storage::Snapshot),
    /// The follower's staged rows, complete and ready to be switched in.
    Staged(storage::Install),
}

/// Why a snapshot did not arrive.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    #[error("the follower could not be reached: {0}")]
    Link(#[from] CallError),
    #[error(transparent)]
    Malformed(#[from] wire::Malformed),
    #[error("the snapshot could not be read: {0}")]
    Storage(String),
}

/// Streams `snapshot` to `peer`; answers the peer's vote.
pub(crate) async fn send_snapshot(
    peer: Peer,
    group: u64,
    vote: Vote,
    snapshot: SnapshotOf<TypeConfig, SnapshotData>,
) -> Result<Vote, SendError> {
    let SnapshotData::View(view) = snapshot.snapshot else {
        return Err(SendError::Storage(
            "a staged snapshot cannot be sent on".into(),
        ));
    };
    let begin = wire::encode(&wire::SnapshotBegin {
        group,
        vote: (&vote).into(),
    });
    let answer = peer
        .call(Kind::SnapshotBegin.byte(), begin, SNAPSHOT_DEADLINE)
        .await?;
    let have: wire::SnapshotHave = wire::decode(&answer)?;
    let transfer = have.transfer;
    let mut chunks = read_chunks(
        view,
        storage::Have {
            applied_index: have.applied_index,
            index_after: have.index_after,
        },
    );
    let mut number = 0;
    while let Some(chunk) = chunks.recv().await {
        let chunk = chunk.map_err(|error| SendError::Storage(error.to_string()))?;
        let header = wire::SnapshotChunk {
            group,
            transfer,
            number,
        };
        let parts = wire::encode_parts(&header, chunk);
        peer.call_parts(Kind::SnapshotChunk.byte(), parts, SNAPSHOT_DEADLINE)
            .await?;
        number += 1;
    }
    let end = wire::encode(&wire::SnapshotEnd {
        group,
        transfer,
        chunks: number,
        vote: (&vote).into(),
        last: snapshot.meta.last_log_id.as_ref().map(Into::into),
        membership: types::encode_stored_membership(&snapshot.meta.last_membership),
    });
    let answer = peer
        .call(Kind::SnapshotEnd.byte(), end, SNAPSHOT_DEADLINE)
        .await?;
    let vote: wire::WireVote = wire::decode(&answer)?;
    tracing::info!(group, to = peer.node(), chunks = number, "sent a snapshot");
    Ok(vote.into())
}

/// Reads on a thread of its own: the rows may have to come from the disk.
fn read_chunks(
    view: storage::Snapshot,
    have: storage::Have,
) -> mpsc::Receiver<Result<Bytes, storage::Error>> {
    let (sender, receiver) = mpsc::channel(CHUNKS_AHEAD_MAX);
    edge::feed(sender, view.chunks(have, CHUNK_BYTES_MAX));
    receiver
}

pub(crate) fn meta(last: Option<types::LogId>, membership: &[u8]) -> io::Result<SnapshotMeta> {
    Ok(SnapshotMeta {
        last_log_id: last,
        last_membership: types::decode_stored_membership(membership)?,
    })
}

/// Brings a view of another store in, row for row: what a follower does with a stream of chunks,
/// without the network.
pub(crate) async fn stage(
    group: &storage::Group,
    view: storage::Snapshot,
) -> io::Result<storage::Install> {
    let mut install = group.install().map_err(io::Error::other)?;
    let mut chunks = read_chunks(view, group.have().map_err(io::Error::other)?);
    while let Some(chunk) = chunks.recv().await {
        let (done, written) = completion();
        install.chunk(&chunk.map_err(io::Error::other)?, done);
        written.wait().await?;
    }
    Ok(install)
}
