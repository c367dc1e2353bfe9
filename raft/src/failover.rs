//! Who stands for election, and when, without waiting for a group's election timeout.
//!
//! Links carry a pulse, so a node's death is known within milliseconds (its sockets close) or about
//! a second (it falls silent), and groups' own timers may be long. A leader that a majority of its
//! group sees dead is replaced without waiting for its lease; one that only a single node has lost
//! sight of is left alone. A group that was just opened and knows no leader asks for a pre-vote, the
//! preferred leader first.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::group::Group;
use crate::peers::Kind;
use crate::remote::StatusAnswer;
use crate::transport::NodeId;
use crate::transport::View;

/// Between the first candidate's try and the next one's, so that they do not split the votes.
const STAGGER: Duration = Duration::from_millis(120);
/// Between two tries of one candidate: the others may not have seen the death yet.
const AGAIN_AFTER: Duration = Duration::from_millis(250);
/// How long another voter may take to say how long its log is.
const STATUS_DEADLINE: Duration = Duration::from_millis(500);
/// Tries before the election timeout is left to do the rest.
const TRIES_MAX: usize = 20;

/// Finds a leader for a group that was just opened.
pub(crate) async fn first_leader(group: Arc<Group>) {
    let Some(replicas) = group.replicas() else {
        return;
    };
    let up = replicas
        .into_iter()
        .filter(|node| group.shared.is_up(*node));
    let this_node = group.shared.node();
    if let Some(turn) = up.into_iter().position(|node| node == this_node) {
        campaign_in_turn(group, u32::try_from(turn).unwrap_or(u32::MAX), None).await;
    }
}

/// Replaces the leader `dead` if it stays dead and nobody else takes over.
pub(crate) async fn replace_leader(group: Arc<Group>, dead: NodeId) {
    let Some(replica) = group.open_replica() else {
        return;
    };
    let voters = replica.consensus.voters().into_iter();
    let candidates = voters.filter(|node| group.shared.is_up(*node)).collect();
    if let Some(turn) = turn(candidates, group.shared.node(), group.id.0) {
        campaign_in_turn(group, turn, Some(dead)).await;
    }
}

async fn campaign_in_turn(group: Arc<Group>, turn: u32, dead: Option<NodeId>) {
    let Some(replica) = group.open_replica() else {
        return;
    };
    let shared = &group.shared;
    pause(STAGGER.saturating_mul(turn)).await;
    for _ in 0..TRIES_MAX {
        let leader = replica.consensus.leader().leader;
        // After a restart a replica takes the leader of its last vote for one, dead or alive.
        let led = leader.is_some_and(|leader| Some(leader) != dead && shared.is_up(leader));
        let returned = dead.is_some_and(|dead| shared.is_up(dead));
        if led || returned || group.is_recovering() || shared.is_stopping() {
            return;
        }
        match dead {
            None => replica.consensus.campaign(true).await,
            Some(dead) => {
                let view = shared.transport().map(|links| links.alive());
                let voters = replica.consensus.voters();
                let seen_dead = view.is_some_and(|view| majority_sees_dead(&view, &voters, dead));
                if seen_dead && !somebody_is_further(&group, &voters).await {
                    replica.consensus.campaign(false).await;
                }
            }
        }
        pause(AGAIN_AFTER).await;
    }
}

/// Whether another voter's log is longer than this one's, so that it would refuse its vote. A
/// candidate that cannot win must not raise the term again and again against one that can.
async fn somebody_is_further(group: &Arc<Group>, voters: &[NodeId]) -> bool {
    let shared = &group.shared;
    let others = voters
        .iter()
        .filter(|node| **node != shared.node() && shared.is_up(**node));
    let calls = others.filter_map(|node| shared.peer(*node)).map(|peer| {
        let body = Bytes::copy_from_slice(&group.id.0.to_le_bytes());
        peer.call(Kind::Status.byte(), body, STATUS_DEADLINE)
    });
    let answers = futures_util::future::join_all(calls).await;
    let own = group.status();
    let further = |answer: &StatusAnswer| {
        let status = answer.status();
        (status.last_term, status.last) > (own.last_term, own.last)
    };
    let told = answers.into_iter().flatten();
    told.filter_map(|body| StatusAnswer::decode(&body).ok())
        .any(|answer| further(&answer))
}

#[expect(clippy::disallowed_methods, reason = "candidates take turns in time")]
async fn pause(duration: Duration) {
    tokio::time::sleep(duration).await;
}

/// How many others go first. Groups begin with different candidates, so that the dead node's groups
/// are spread over the living.
fn turn(mut candidates: Vec<NodeId>, this_node: NodeId, group: u64) -> Option<u32> {
    candidates.sort_unstable();
    let position = candidates.iter().position(|node| *node == this_node)?;
    let count = candidates.len();
    let offset = usize::try_from(group % count as u64).ok()?;
    u32::try_from((position + count - offset) % count).ok()
}

/// Whether a majority of `voters`, this node included, has no sight of `dead`.
fn majority_sees_dead(view: &View, voters: &[NodeId], dead: NodeId) -> bool {
    let misses = |voter: NodeId| {
        if voter == dead {
            return false;
        }
        if voter == view.node {
            return !view.sees(dead);
        }
        let sighting = view
            .sightings
            .iter()
            .find(|sighting| sighting.node == voter);
        let sees = sighting.and_then(|sighting| sighting.sees.as_ref());
        sees.is_some_and(|sees| !sees.contains(&dead))
    };
    let missing = voters.iter().filter(|voter| misses(**voter)).count();
    missing > voters.len() / 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::Sighting;

    fn view(node: NodeId, sightings: &[(NodeId, &[NodeId])]) -> View {
        let sightings = sightings.iter().map(|(node, sees)| Sighting {
            node: *node,
            sees: Some(Arc::from(*sees)),
        });
        View {
            node,
            sightings: sightings.collect(),
        }
    }

    #[test]
    fn candidates_take_turns_that_differ_from_group_to_group() {
        for group in 0..6 {
            let turns: Vec<_> = [4, 7, 9]
                .map(|node| turn(vec![9, 4, 7], node, group).unwrap())
                .into();
            let mut sorted = turns.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, [0, 1, 2], "group {group}: {turns:?}");
        }
        assert_eq!(turn(vec![4, 7], 9, 0), None);
        assert_ne!(turn(vec![4, 7], 4, 0), turn(vec![4, 7], 4, 1));
    }

    #[test]
    fn a_leader_is_dead_when_a_majority_has_no_sight_of_it() {
        let voters = [1, 2, 3];
        assert!(majority_sees_dead(&view(2, &[(3, &[2])]), &voters, 1));
        assert!(
            !majority_sees_dead(&view(2, &[(3, &[1, 2])]), &voters, 1),
            "node 3 sees it"
        );
        assert!(
            !majority_sees_dead(&view(2, &[(1, &[2]), (3, &[2])]), &voters, 1),
            "we see it"
        );
        assert!(
            !majority_sees_dead(&view(2, &[]), &voters, 1),
            "we see nobody"
        );
    }
}
