//! One number for all that a replica has applied, so that replicas can be compared (the model is
//! etcd's `HashKV`).
//!
//! It covers what a snapshot for an empty follower would carry, from one consistent view: every log
//! entry up to the applied one, with its messages, and every row that the state machine made of them.
//! All of it is the same on all replicas with the same applied index: what only this node knows (its
//! vote, its purge mark, the generations of its rows) is no part of a snapshot.

use std::sync::Arc;

use accord_storage as storage;
use sha2::Digest as _;
use sha2::Sha256;

use crate::api::ReadError;
use crate::api::StateHash;
use crate::edge;
use crate::group::Replica;
use crate::group::storage_error;
use crate::shared::Shared;

/// Bytes read at a time. Part of what is hashed, since chunks have headers: all replicas must cut
/// alike.
const CHUNK_BYTES: usize = 256 * 1024;

/// # Errors
/// `Busy` while too many are being made, `Storage` if the state cannot be read.
pub(crate) async fn of(
    shared: &Shared,
    replica: &Arc<Replica>,
) -> Result<Option<StateHash>, ReadError> {
    let Ok(permit) = Arc::clone(&shared.hashing).try_acquire_owned() else {
        return Err(ReadError::Busy);
    };
    let view = replica
        .consensus
        .group()
        .snapshot()
        .map_err(storage_error)?;
    let hashed = edge::blocking(move || {
        // Held until the work is done, whether or not anybody still waits for it.
        let _permit = permit;
        hash(view)
    });
    let hashed = hashed.await;
    hashed.unwrap_or(Err(ReadError::Stopping))
}

fn hash(view: storage::Snapshot) -> Result<Option<StateHash>, ReadError> {
    let Some(applied) = view.applied() else {
        return Ok(None);
    };
    let mut hash = Sha256::new();
    for chunk in view.chunks(storage::Have::default(), CHUNK_BYTES) {
        hash.update(chunk.map_err(storage_error)?);
    }
    Ok(Some(StateHash {
        applied: applied.index,
        hash: hash.finalize().into(),
    }))
}
