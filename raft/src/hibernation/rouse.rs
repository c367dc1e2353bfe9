//! What is woken when a node is back.
//!
//! While a node cannot be reached, the others go on and fall asleep without it. When it is back, two
//! things must not wait for the next message: its replicas are to hold what they missed, and sockets
//! on either side of the cut are to get it.
//!
//! So a node asks one that is back how far it is, in the groups that were closed here without it, and
//! in the channels that this node has sockets for, since it may be this node that was cut off. Neither
//! opens anything for that. Only where the two differ is the group woken. There is one such task for
//! each other node, and it rests as long as it works, so a link that comes and goes makes no storm.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use accord_storage::GroupId;
use accord_storage::Standing;
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::StreamExt;
use tokio::sync::Notify;
use tokio::time::Instant;
use uuid::Uuid;

use super::wire;
use crate::api::Consistency;
use crate::api::ReadError;
use crate::edge;
use crate::group::storage_error;
use crate::machine::directory;
use crate::peers::Kind;
use crate::shared::Shared;
use crate::transport::NodeId;

/// Groups that are woken at the same time: a node that returns finds others at work.
const AT_ONCE_MAX: usize = 32;
/// How long the other node may take to look up as many groups as one request names.
const STANDING_DEADLINE: Duration = Duration::from_secs(10);
/// Bounds of the pause before the next try, if something could not be asked or woken; it doubles in
/// between.
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(15);

/// What this node remembers of others that were away.
#[derive(Default)]
pub(crate) struct Absences {
    /// For each node, the groups that were closed here without its word that it is level: a number for
    /// each channel that was used while it was away.
    lagging: Mutex<BTreeMap<NodeId, BTreeSet<GroupId>>>,
    /// Nodes that are being asked. A permit says that one was lost and came back meanwhile.
    asking: Mutex<BTreeMap<NodeId, Arc<Notify>>>,
}

impl Absences {
    fn note(&self, group: GroupId, node: NodeId) {
        lock(&self.lagging).entry(node).or_default().insert(group);
    }

    fn take(&self, node: NodeId) -> BTreeSet<GroupId> {
        lock(&self.lagging).remove(&node).unwrap_or_default()
    }

    /// `None` if a task for this node is under way: it goes round once more then.
    fn begin(&self, node: NodeId) -> Option<Arc<Notify>> {
        let mut asking = lock(&self.asking);
        if let Some(again) = asking.get(&node) {
            again.notify_one();
            return None;
        }
        let again = Arc::new(Notify::new());
        asking.insert(node, Arc::clone(&again));
        Some(again)
    }

    /// Whether the task may end: false if it is to go round once more.
    fn end(&self, node: NodeId, again: &Notify) -> bool {
        let mut asking = lock(&self.asking);
        let ends = again.notified().now_or_never().is_none();
        if ends {
            asking.remove(&node);
        }
        ends
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each critical section leaves its map whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Remembers that a group was closed here without these nodes.
pub(super) fn note(shared: &Arc<Shared>, group: GroupId, nodes: &[NodeId]) {
    for node in nodes {
        shared.absences.note(group, *node);
        // One that came back before this was noted has been asked without it.
        if shared.is_up(*node) {
            returned(shared, *node);
        }
    }
}

/// A node can be reached again: brings level what slept while it was away.
pub(crate) fn returned(shared: &Arc<Shared>, node: NodeId) {
    if let Some(again) = shared.absences.begin(node) {
        tokio::spawn(run(Arc::clone(shared), node, again));
    }
}

async fn run(shared: Arc<Shared>, node: NodeId, again: Arc<Notify>) {
    let mut stopping = shared.stopping.subscribe();
    let mut next_pause = PAUSE_MIN;
    loop {
        let began = Instant::now();
        let all = tokio::select! {
            _ = stopping.wait_for(|stopping| *stopping) => return,
            all = bring_level(&shared, node) => all,
        };
        let took = began.elapsed();
        // One that is down again is asked when it is back.
        if (all || !shared.is_up(node)) && shared.absences.end(node, &again) {
            return;
        }
        let fails = !all && shared.is_up(node);
        tokio::select! {
            _ = stopping.wait_for(|stopping| *stopping) => return,
            () = pause(took.max(PAUSE_MIN)) => {}
        }
        if fails {
            tokio::select! {
                _ = stopping.wait_for(|stopping| *stopping) => return,
                () = again.notified() => next_pause = PAUSE_MIN,
                () = pause(next_pause) => next_pause = PAUSE_MAX.min(next_pause * 2),
            }
        }
    }
}

/// Asks `node` about everything that it may have missed, or this node, and wakes what differs. False
/// if that is to be tried again.
async fn bring_level(shared: &Arc<Shared>, node: NodeId) -> bool {
    let lagging: Vec<_> = shared.absences.take(node).into_iter().collect();
    let mut all = true;
    for some in lagging.chunks(wire::STANDINGS_MAX) {
        let uneven = match uneven(shared, node, some.to_vec()).await {
            Ok(uneven) => uneven,
            Err(error) => {
                tracing::debug!(node, %error, "could not ask what a node has missed");
                all = false;
                for id in some {
                    shared.absences.note(*id, node);
                }
                continue;
            }
        };
        all &= wake(shared, node, uneven).await;
    }
    for some in shared.delivery.followed().chunks(wire::STANDINGS_MAX) {
        let groups = match held_by_both(shared, node, some.to_vec()).await {
            Ok(groups) => uneven(shared, node, groups).await,
            Err(error) => Err(error),
        };
        match groups {
            Ok(uneven) => all &= wake(shared, node, uneven).await,
            Err(error) => {
                tracing::debug!(node, %error, "could not ask how far a node is");
                all = false;
            }
        }
    }
    all
}

/// The groups of these channels, as far as both nodes have replicas of them.
async fn held_by_both(
    shared: &Arc<Shared>,
    node: NodeId,
    channels: Vec<Uuid>,
) -> Result<Vec<GroupId>, ReadError> {
    let replica = shared.directory().open_replica();
    let replica = replica.ok_or(ReadError::NoLeader)?;
    let this_node = shared.node();
    let look = move || {
        let mut groups = Vec::new();
        for channel in channels {
            // Somebody on this node has found it there before, and nothing is deleted.
            let found = directory::channel(&replica.rows, channel.as_bytes());
            let found = found.map_err(storage_error)?.filter(|channel| {
                channel.replicas.contains(&this_node) && channel.replicas.contains(&node)
            });
            groups.extend(found.map(|channel| GroupId(channel.group)));
        }
        Ok(groups)
    };
    let looked = edge::blocking(look).await;
    looked.unwrap_or(Err(ReadError::Stopping))
}

/// Those of the groups in which this node and the other do not stand at the same place.
async fn uneven(
    shared: &Arc<Shared>,
    node: NodeId,
    groups: Vec<GroupId>,
) -> Result<Vec<GroupId>, ReadError> {
    if groups.is_empty() {
        return Ok(groups);
    }
    let peer = shared.peer(node).ok_or(ReadError::NoLeader)?;
    let question = wire::encode_groups(groups.iter().copied());
    let answer = peer
        .call(Kind::Standing.byte(), question, STANDING_DEADLINE)
        .await;
    let answer = answer.map_err(|_| ReadError::NoLeader)?;
    let theirs = wire::decode_standings(&answer).map_err(storage_error)?;
    // After the other's: what came here meanwhile is no reason to wake anything.
    let (groups, ours) = standings(shared, groups).await?;
    if theirs.len() != ours.len() {
        return Err(ReadError::NoLeader);
    }
    let both = ours.iter().zip(&theirs);
    let differ = groups.iter().zip(both).filter(|(_, (ours, theirs))| {
        // An entry that one of them has and the other has not applied, committed or not.
        theirs.last > ours.applied || ours.last > theirs.applied
    });
    Ok(differ.map(|(group, _)| *group).collect())
}

/// Where this node's replicas stand, whether they are open or not.
async fn standings(
    shared: &Arc<Shared>,
    groups: Vec<GroupId>,
) -> Result<(Vec<GroupId>, Vec<Standing>), ReadError> {
    let store = shared.store.clone();
    let look = move || {
        let standings: Result<Vec<_>, _> =
            groups.iter().map(|group| store.standing(*group)).collect();
        Ok((groups, standings.map_err(storage_error)?))
    };
    let looked = edge::blocking(look).await;
    looked.unwrap_or(Err(ReadError::Stopping))
}

/// Answers another node's question how far this one is in some groups.
///
/// # Errors
/// If the request is malformed, or the groups cannot be read.
pub(crate) async fn standing(shared: &Arc<Shared>, body: &[u8]) -> Result<Bytes, ReadError> {
    let groups = wire::decode_groups(body).map_err(storage_error)?;
    let (_, standings) = standings(shared, groups).await?;
    Ok(wire::encode_standings(&standings))
}

/// Wakes groups in which `node` and this one differ. Those that cannot be woken now are noted again;
/// false if there are any.
async fn wake(shared: &Arc<Shared>, node: NodeId, groups: Vec<GroupId>) -> bool {
    if !groups.is_empty() {
        let groups = groups.len();
        tracing::info!(
            node,
            groups,
            "waking groups in which a returned node differs"
        );
    }
    let woken = futures_util::stream::iter(groups)
        .map(|id| async move { (id, is_woken(shared, id).await) })
        .buffer_unordered(AT_ONCE_MAX);
    let failed = woken.filter_map(|(id, is_woken)| async move { (!is_woken).then_some(id) });
    let failed: Vec<GroupId> = failed.collect().await;
    for id in &failed {
        shared.absences.note(*id, node);
    }
    failed.is_empty()
}

/// Has this node's replica reach what its leader has, and the leader bring all others there that can
/// be reached: it does not sleep before.
async fn is_woken(shared: &Arc<Shared>, id: GroupId) -> bool {
    let group = shared.group(id);
    // One that slept knows nothing of where its replicas are.
    shared.learn(&group);
    if group.replicas().is_none() {
        return false;
    }
    // What recovers does so by itself.
    if !group.serves_here() {
        return true;
    }
    match group.caught_up(Consistency::Linearizable).await {
        Ok(replica) => group.rouse_leader(&replica).await,
        Err(_) => false,
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "what other nodes can do cannot be waited for otherwise"
)]
async fn pause(duration: Duration) {
    tokio::time::sleep(duration).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_returns_while_it_is_asked_is_asked_once_more() {
        let absences = Absences::default();
        let again = absences.begin(2).expect("nobody asks it");
        assert!(absences.begin(3).is_some(), "another node is another task");
        for _ in 0..3 {
            assert!(absences.begin(2).is_none(), "one task for each node");
        }
        assert!(!absences.end(2, &again), "it was back again");
        assert!(absences.end(2, &again), "once");
        assert!(absences.begin(2).is_some());
    }

    #[test]
    fn what_a_node_missed_is_kept_until_it_is_taken() {
        let absences = Absences::default();
        for id in [7, 8, 7] {
            absences.note(GroupId(id), 2);
        }
        absences.note(GroupId(9), 3);
        assert_eq!(absences.take(2).len(), 2);
        assert!(absences.take(2).is_empty());
        assert_eq!(absences.take(3).into_iter().next(), Some(GroupId(9)));
    }
}
