//! Channels that nobody uses cost nothing: their replicas are closed, on all nodes, until somebody
//! uses them again (docs/adr/0016).
//!
//! ```text
//! sweep ─ policy ─▶ ask the followers ─ level ─▶ retire ─▶ close ─▶ tell the followers to rest
//! ```
//!
//! A group that sleeps has no entry in memory but, where it was led, one bit. It wakes when anybody
//! asks for it: a client, or a peer's message.

mod close;
mod policy;
mod rouse;
mod sweep;
mod wire;

pub(crate) use rouse::Absences;
pub(crate) use rouse::returned;
pub(crate) use rouse::standing;
pub(crate) use sweep::run;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use wire::fuzzing;

use std::sync::Arc;

use accord_storage::GroupId;
use bytes::Bytes;

use crate::codec::Malformed;
use crate::consensus::Place;
use crate::group::DIRECTORY;
use crate::group::Group;
use crate::shared::Shared;
use wire::Levelness;

/// For each group of the request, whether this node's replica is where its leader is, and when it was
/// last used here.
///
/// # Errors
/// If the request is malformed.
pub(crate) fn is_level(shared: &Shared, body: &[u8]) -> Result<Bytes, Malformed> {
    let now_ms = shared.now_ms();
    let asleep = Levelness {
        is_level: false,
        unused_ms: now_ms,
    };
    let answers = wire::decode(body)?.into_iter().map(|idle| {
        let look = |group: &Group| Levelness {
            is_level: stands_at(group, idle.place()),
            unused_ms: now_ms.saturating_sub(group.used_ms()),
        };
        let found = shared.groups.look(GroupId(idle.group), look);
        found.unwrap_or(asleep)
    });
    Ok(wire::encode_levels(&answers.collect()))
}

/// The leader of these groups has closed them: this node's replicas may close, too. One that was used
/// since it was asked does so all the same: only its leader could keep it awake, and it wakes both.
///
/// # Errors
/// If the request is malformed.
pub(crate) fn rest(shared: &Arc<Shared>, body: &[u8]) -> Result<(), Malformed> {
    for idle in wire::decode(body)? {
        let id = GroupId(idle.group);
        let may = |group: &Group| stands_at(group, idle.place());
        if id != DIRECTORY
            && let Some(retired) = shared.groups.retire(id, may)
        {
            tokio::spawn(close::close(Arc::clone(shared), retired, close::Log::Kept));
        }
    }
    Ok(())
}

/// Whether the replica follows that leader, and has all of its log and has applied it.
fn stands_at(group: &Group, place: Place) -> bool {
    !group.is_recovering()
        && group.open_replica().is_some_and(|replica| {
            let consensus = &replica.consensus;
            consensus.place() == Some(place) && consensus.is_settled()
        })
}
