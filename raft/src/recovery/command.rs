//! `accord rejoin`: replaces a node's damaged directory by an empty one that is marked as such.

use std::path::PathBuf;

use accord_storage as storage;
use accord_storage::Store;

use super::REJOIN_FACT;
use crate::clock;
use crate::transport::NodeId;

/// Which directory to replace.
#[derive(Clone, Debug)]
pub struct RejoinOptions {
    pub cluster: String,
    pub node: NodeId,
    pub data_dir: PathBuf,
    /// Delete what is in the directory instead of keeping it for inspection.
    pub delete: bool,
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejoined {
    pub old: OldData,
    /// Unix milliseconds; the other nodes accept the new directory because this is higher than what
    /// they know.
    pub incarnation: u64,
}

/// What became of the old directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OldData {
    /// There was none.
    Nothing,
    MovedTo(PathBuf),
    Deleted,
}

/// Sets the directory aside and makes an empty one that the other nodes will take for this node's.
/// The node must not run, here or anywhere else.
///
/// # Errors
/// `Locked` while the node runs on this machine, or why the files cannot be changed. Nothing is lost
/// then, and the command can be given again.
pub fn rejoin(options: &RejoinOptions) -> Result<Rejoined, storage::OpenError> {
    let incarnation = clock::now_ms();
    let dir = &options.data_dir;
    let old = storage::set_aside(dir, incarnation, options.delete)?;
    let store = Store::open(storage::Options::new(dir, &options.cluster, options.node))?;
    let marked = store.set_fact(REJOIN_FACT, &incarnation.to_le_bytes());
    drop(store);
    marked.map_err(|error| storage::OpenError::Engine {
        dir: dir.clone(),
        detail: error.to_string(),
    })?;
    Ok(Rejoined {
        old: match old {
            storage::Aside::Nothing => OldData::Nothing,
            storage::Aside::Moved(path) => OldData::MovedTo(path),
            storage::Aside::Deleted => OldData::Deleted,
        },
        incarnation,
    })
}
