//! What is woken when a node is back.
//!
//! While a node cannot be reached, the others go on and fall asleep without it. When it is back, two
//! things must not wait for the next message: its replicas are to hold what they missed, and sockets
//! on either side of the cut are to get it.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use accord_storage::GroupId;
use futures_util::StreamExt;

use crate::api::Consistency;
use crate::shared::Shared;
use crate::transport::NodeId;

/// Groups that are woken at the same time: a node that returns finds others at work.
const AT_ONCE_MAX: usize = 32;

/// For each node that is away, the groups that their leader here has closed without it. A number for
/// each channel that was used meanwhile.
#[derive(Default)]
pub(crate) struct Lagging {
    groups: Mutex<BTreeMap<NodeId, BTreeSet<GroupId>>>,
}

impl Lagging {
    pub(super) fn note(&self, group: GroupId, nodes: &[NodeId]) {
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        for node in nodes {
            groups.entry(*node).or_default().insert(group);
        }
    }

    fn take(&self, node: NodeId) -> BTreeSet<GroupId> {
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        groups.remove(&node).unwrap_or_default()
    }
}

/// Brings level what slept while `node` was away: the groups that were closed here without it, and the
/// channels that this node has sockets for, since it may be this node that was cut off.
pub(crate) async fn after_absence(shared: Arc<Shared>, node: NodeId) {
    let lagging = shared.lagging.take(node);
    if !lagging.is_empty() {
        let groups = lagging.len();
        tracing::info!(
            node,
            groups,
            "waking groups that a returned node has missed"
        );
    }
    let mut all = lagging;
    for channel in shared.delivery.followed() {
        if let Ok(channel) = shared.find_channel(channel).await {
            all.insert(GroupId(channel.group));
        }
    }
    let wake = |id| {
        let group = shared.group(id);
        async move {
            if !group.shared.is_stopping() && group.serves_here() {
                // As the leader it opens; as a follower it hears from whoever leads. One that cannot
                // is tried again when the next node returns, or somebody writes.
                let _ = group.caught_up(Consistency::Linearizable).await;
            }
        }
    };
    futures_util::stream::iter(all)
        .map(wake)
        .buffer_unordered(AT_ONCE_MAX)
        .collect::<()>()
        .await;
}
