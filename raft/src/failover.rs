//! Who stands for election, and when, without waiting for a group's election timeout.
//!
//! Links carry a pulse, so a node's death is known within milliseconds (its sockets close) or about
//! a second (it falls silent), and groups' own timers may be long. A leader that a majority of its
//! group sees dead is replaced without waiting for its lease, and without openraft where all logs end
//! alike (`consensus/steady/ballot.rs`); one that only a single node has lost sight of is left alone.
//! A group that was just opened and knows no leader asks for a pre-vote, the preferred leader first.
//!
//! When a node dies, every group that it led loses its leader at the same moment. Two things keep
//! that from becoming a storm: a node runs only a few campaigns at a time, and a candidate stands
//! back while one that goes before it is still waiting for its own turn. Without them, 1,000 groups
//! on two cores outbid each other's terms for up to 24 s; fixed delays cannot be right for one group
//! and for a thousand.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::sync::SemaphorePermit;

use crate::group::Group;
use crate::group::Replica;
use crate::peers::Kind;
use crate::remote::StatusAnswer;
use crate::shared::Shared;
use crate::transport::NodeId;
use crate::transport::View;

/// Between the first candidate's try and the next one's, so that they do not split the votes.
const STAGGER: Duration = Duration::from_millis(120);
/// Between two tries of one candidate: the others may not have seen the death yet.
const AGAIN_AFTER: Duration = Duration::from_millis(250);
/// How long a leader that is awake may take to be heard by a replica that was just opened.
const HEARD_WITHIN: Duration = Duration::from_millis(60);
/// How long another voter may take to say how long its log is.
const STATUS_DEADLINE: Duration = Duration::from_millis(500);
/// Tries before the election timeout is left to do the rest.
const TRIES_MAX: usize = 20;
/// Of these, how many a candidate gives away to one that goes before it and says that it stands.
const YIELDS_MAX: usize = 12;
/// Campaigns of one node at a time in each line: enough to share fsyncs and frames, few enough for each
/// to end within milliseconds.
const CAMPAIGNS_MAX: usize = 16;

/// In which line a group stands for this node's campaigns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// Somebody has asked for the group just now, a client most often.
    Asked,
    /// It has lost its leader, with hundreds of others maybe.
    Lost,
}

/// Permits for the elections that this node stands for.
pub(crate) struct Campaigns {
    asked: Semaphore,
    lost: Semaphore,
}

impl Campaigns {
    pub(crate) fn new() -> Self {
        Self {
            asked: Semaphore::new(CAMPAIGNS_MAX),
            lost: Semaphore::new(CAMPAIGNS_MAX),
        }
    }

    pub(crate) async fn turn(&self, line: Line) -> SemaphorePermit<'_> {
        let turns = match line {
            Line::Asked => &self.asked,
            Line::Lost => &self.lost,
        };
        let turn = turns.acquire().await;
        turn.expect("nobody closes the semaphores")
    }
}

/// Finds who leads a group that was just opened, or sees to it that somebody does.
pub(crate) async fn waken(group: Arc<Group>, line: Line) {
    let Some(replica) = group.open_replica() else {
        return;
    };
    let shared = Arc::clone(&group.shared);
    if replica.consensus.resumes() || is_led(&replica, &shared, None) {
        return;
    }
    let remembered = replica.consensus.leader().remembered;
    if let Some(leader) = remembered.filter(|leader| shared.is_up(*leader)) {
        // Most often it is the leader's message that opened the group.
        led_within(HEARD_WITHIN, &replica, &shared, None).await;
        if !is_led(&replica, &shared, None) {
            // The leader sleeps; being asked wakes it.
            if others(&group, &[leader])
                .await
                .iter()
                .any(|other| other.leads)
            {
                replica.consensus.note_heard();
            }
            led_within(AGAIN_AFTER, &replica, &shared, None).await;
        }
    }
    if !is_led(&replica, &shared, None) {
        first_leader(group, line).await;
    }
}

/// Finds a leader for a group that has none.
pub(crate) async fn first_leader(group: Arc<Group>, line: Line) {
    campaign_in_turn(group, line, None).await;
}

/// Replaces the leader `dead` if it stays dead and nobody else takes over.
pub(crate) async fn replace_leader(group: Arc<Group>, dead: NodeId) {
    campaign_in_turn(group, Line::Lost, Some(dead)).await;
}

/// Campaigns when this node's turn has come, and again until there is a leader.
async fn campaign_in_turn(group: Arc<Group>, line: Line, mut dead: Option<NodeId>) {
    let shared = Arc::clone(&group.shared);
    let Some(replica) = group.open_replica() else {
        return;
    };
    let Some(before) = before(&group, dead) else {
        return;
    };
    let stagger = STAGGER.saturating_mul(u32::try_from(before.len()).unwrap_or(u32::MAX));
    let standing = group.stand();
    if !before.is_empty() {
        // Nobody may have opened the group there yet, and then nobody stands before this node.
        drop(others(&group, &before).await);
        led_within(stagger, &replica, &shared, dead).await;
    }
    for tries in 0..TRIES_MAX {
        if let Some(dead) = dead
            && !seen_dead(&replica, &shared, dead).await
        {
            // It waits without a turn: where a majority has died there is nothing to take one for.
            if is_led(&replica, &shared, Some(dead)) || shared.is_up(dead) || shared.is_draining() {
                return;
            }
            pause(AGAIN_AFTER + stagger).await;
            continue;
        }
        let permit = shared.campaigns.turn(line).await;
        dead = dead.or_else(|| heard_too_late(&replica, &shared));
        if dead.is_none()
            && let Some(gone) = remembered_dead(&replica, &shared)
            && seen_dead(&replica, &shared, gone).await
        {
            // Another replica may still hold its lease, which protects nobody.
            dead = Some(gone);
        }
        // Looked up anew: who waits for another must mean the same turns.
        let Some(before) = self::before(&group, dead) else {
            return;
        };
        let returned = dead.is_some_and(|dead| shared.is_up(dead));
        let recovering = group.is_recovering();
        // A node that hands its groups over must not take one back.
        if is_led(&replica, &shared, dead) || returned || recovering || shared.is_draining() {
            return;
        }
        if before.is_empty()
            && let Some(dead) = dead
            && seen_dead(&replica, &shared, dead).await
            && replica.consensus.succeed(dead).await
        {
            return;
        }
        // The first of a fresh group has nobody to ask: a pre-vote harms nobody.
        let others = match dead.is_none() && before.is_empty() {
            true => Vec::new(),
            false => others(&group, &replica.consensus.voters()).await,
        };
        if is_led(&replica, &shared, dead) || shared.is_draining() {
            // Elected while this node asked: a campaign now would depose it, and both would then
            // wait for its lease.
            return;
        }
        let yields = tries < YIELDS_MAX && others.iter().any(|other| other.goes_before(&before));
        match dead {
            // A candidate that cannot win must not raise the term again and again against one that
            // can.
            Some(_) if others.iter().any(|other| other.is_further(&group)) => standing.step_back(),
            _ if yields => {}
            None => {
                replica.consensus.campaign(true).await;
                led_within(AGAIN_AFTER, &replica, &shared, dead).await;
            }
            Some(dead) => {
                standing.step_forward();
                if seen_dead(&replica, &shared, dead).await {
                    if !replica.consensus.succeed(dead).await {
                        replica.consensus.campaign(false).await;
                    }
                    led_within(AGAIN_AFTER, &replica, &shared, Some(dead)).await;
                }
            }
        }
        drop(permit);
        // Different pauses, so that two candidates do not meet again and again.
        pause(AGAIN_AFTER + stagger).await;
    }
}

/// Whether a living leader is known. After a restart a replica takes the leader of its last vote for
/// one, dead or alive.
fn is_led(replica: &Replica, shared: &Shared, dead: Option<NodeId>) -> bool {
    let leader = replica.consensus.leader().leader;
    leader.is_some_and(|leader| Some(leader) != dead && shared.is_up(leader))
}

/// A leader whose word came after its death was seen, so that nobody was told to replace it. Its lease
/// would refuse every pre-vote.
fn heard_too_late(replica: &Replica, shared: &Shared) -> Option<NodeId> {
    let leader = replica.consensus.leader().leader;
    leader.filter(|leader| !shared.is_up(*leader))
}

/// The leader of the vote on the disk, if its process is dead.
fn remembered_dead(replica: &Replica, shared: &Shared) -> Option<NodeId> {
    let leader = replica.consensus.leader().remembered;
    leader.filter(|leader| !shared.is_up(*leader))
}

/// Whether a majority sees the leader dead. The others' word of it may be a moment away.
async fn seen_dead(replica: &Replica, shared: &Shared, dead: NodeId) -> bool {
    let Some(links) = shared.transport() else {
        return false;
    };
    let mut changes = links.alive_changes();
    let voters = replica.consensus.voters();
    let seen = async {
        while !majority_sees_dead(&links.alive(), &voters, dead) && !shared.is_up(dead) {
            if changes.changed().await.is_err() {
                return;
            }
        }
    };
    // Another try is due then.
    let _ = tokio::time::timeout(AGAIN_AFTER, seen).await;
    majority_sees_dead(&links.alive(), &voters, dead)
}

/// Resolves when there is a leader, or when that has taken too long.
async fn led_within(time: Duration, replica: &Replica, shared: &Shared, dead: Option<NodeId>) {
    let mut changes = replica.consensus.leader_changes();
    let led = async { while !is_led(replica, shared, dead) && changes.changed().await {} };
    // Another try is due then.
    let _ = tokio::time::timeout(time, led).await;
}

/// What another voter says of a group.
struct Other {
    node: NodeId,
    standing: bool,
    last: (u64, u64),
    leads: bool,
}

impl Other {
    fn goes_before(&self, before: &[NodeId]) -> bool {
        self.standing && before.contains(&self.node)
    }

    /// Whether its log is longer than this node's, so that it would refuse its vote.
    fn is_further(&self, group: &Group) -> bool {
        let own = group.status();
        self.last > (own.last_term, own.last)
    }
}

/// Asks the other voters that are up; those that do not answer in time are left out.
async fn others(group: &Arc<Group>, voters: &[NodeId]) -> Vec<Other> {
    let shared = &group.shared;
    let asked = voters
        .iter()
        .filter(|node| **node != shared.node() && shared.is_up(**node));
    let calls = asked.filter_map(|node| {
        let call = group.ask(*node, Kind::Status, STATUS_DEADLINE)?;
        Some(async move {
            let answer = StatusAnswer::decode(&call.await.ok()?).ok()?;
            let status = answer.status();
            Some(Other {
                node: *node,
                standing: answer.standing,
                last: (status.last_term, status.last),
                leads: status.leader == Some(*node),
            })
        })
    });
    let answers = futures_util::future::join_all(calls).await;
    answers.into_iter().flatten().collect()
}

#[expect(clippy::disallowed_methods, reason = "candidates take turns in time")]
async fn pause(duration: Duration) {
    tokio::time::sleep(duration).await;
}

/// Whose turn comes before this node's; `None` if it has none. Two that each wait for the other would
/// give their tries away, so all have one order: with the preferred leader first as long as every replica
/// is up, and otherwise as if it had died.
fn before(group: &Group, dead: Option<NodeId>) -> Option<Vec<NodeId>> {
    let replicas = group.replicas()?;
    let is_up = |node: &NodeId| Some(*node) != dead && group.shared.is_up(*node);
    let up: Vec<NodeId> = replicas.iter().copied().filter(is_up).collect();
    let mut order = match up.len() == replicas.len() {
        true => up,
        false => order(up, group.id.0),
    };
    let this_node = group.shared.node();
    let place = order.iter().position(|node| *node == this_node)?;
    order.truncate(place);
    Some(order)
}

/// Who goes first once a leader has died. Groups begin with different candidates, so that the dead
/// node's groups are spread over the living.
fn order(mut candidates: Vec<NodeId>, group: u64) -> Vec<NodeId> {
    candidates.sort_unstable();
    if let Some(first) = group.checked_rem(candidates.len() as u64) {
        // Less than the length, which is a usize.
        candidates.rotate_left(usize::try_from(first).unwrap_or(0));
    }
    candidates
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
            let mut order = order(vec![9, 4, 7], group);
            order.sort_unstable();
            assert_eq!(order, [4, 7, 9], "group {group}");
        }
        assert_eq!(order(vec![9, 4, 7], 1), [7, 9, 4]);
        assert_eq!(order(vec![], 1), []);
        assert_ne!(order(vec![4, 7], 0), order(vec![4, 7], 1));
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
