//! Brings the groups of a rejoining node back, the directory first, then every group that the
//! directory places here, a few at a time.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use accord_storage as storage;
use accord_storage::GroupId;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;
use tokio::time::timeout;

use super::COMPLETE_FACT;
use super::SPARED_FACT;
use super::mark_of;
use super::rules;
use crate::api::Consistency;
use crate::api::ReadError;
use crate::edge;
use crate::group::Group;
use crate::group::Replica;
use crate::group::storage_error;
use crate::machine::directory;
use crate::peers::Kind;
use crate::peers::number;
use crate::remote::StatusAnswer;
use crate::shared::Shared;
use crate::transport::NodeId;

/// Groups that recover at the same time: enough to hide the way to the others, few enough that each
/// gets its snapshot soon.
const GROUPS_AT_ONCE_MAX: usize = 16;
/// How long another voter may take to tell its term, or who leads.
const INQUIRY_DEADLINE: Duration = Duration::from_secs(2);
/// Bounds of how long one try takes at reaching what a leader confirms; it doubles in between. The
/// first one is short: a leader that has been woken is heard in less, and if it was not, somebody else
/// is to be asked. A replica with much to fetch gets the time for it.
const CATCH_UP_MIN: Duration = Duration::from_secs(1);
const CATCH_UP_MAX: Duration = Duration::from_secs(5);
/// Tries of a group at a time, a dozen seconds; then others that wait go first.
const TRIES_MAX: usize = 4;
/// Between two tries at anything that another node must do first.
const TRY_AGAIN: Duration = Duration::from_millis(200);
/// How often the log says what is being waited for.
const SAY_AGAIN: Duration = Duration::from_secs(10);

/// Recovers everything; ends early only when the node stops.
pub(crate) async fn run(shared: Arc<Shared>) {
    let incarnation = shared.recovery.incarnation();
    tracing::warn!(
        incarnation,
        "this node has rejoined with an empty disk: it votes in no group before it has caught up"
    );
    let began = Instant::now();
    match recover_all(&shared).await {
        Ok(groups) => {
            let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
            tracing::info!(
                groups,
                took_ms,
                "all groups of this node have recovered: the rejoin is complete"
            );
        }
        Err(ReadError::Stopping) => {}
        Err(error) => tracing::error!(%error, "the recovery of this node cannot go on"),
    }
}

async fn recover_all(shared: &Arc<Shared>) -> Result<usize, ReadError> {
    let directory = shared.directory();
    let recovers = directory.is_recovering();
    let replica = loop {
        match catch_up(&directory).await {
            // Nothing else could be done meanwhile.
            Err(ReadError::Recovering) => {}
            other => break other?,
        }
    };
    if recovers {
        let spared_from = directory::next_group(&replica.rows).map_err(storage_error)?;
        set_fact(shared, SPARED_FACT.into(), spared_from.to_le_bytes().into()).await?;
        shared
            .recovery
            .spared_from
            .store(spared_from, Ordering::Release);
        become_ordinary(&directory, &replica);
    }
    let spared_from = shared.recovery.spared_from.load(Ordering::Acquire);
    let here = groups_here(shared, &replica, spared_from).await?;
    let total = here.len();
    let left = &shared.recovery.groups_left;
    left.store(total as u64, Ordering::Relaxed);
    tracing::info!(groups = total, "the directory has recovered");
    let mut waiting = VecDeque::from(here);
    let mut recovering = FuturesUnordered::new();
    let mut said = Instant::now();
    loop {
        while recovering.len() < GROUPS_AT_ONCE_MAX
            && let Some(id) = waiting.pop_front()
        {
            recovering.push(async move { (id, recover(shared, id).await) });
        }
        match recovering.next().await {
            None => break,
            // It waits for a node that may be away for long, and must not keep others from their turn.
            Some((id, Err(ReadError::Recovering))) => {
                waiting.push_back(id);
                continue;
            }
            Some((_, recovered)) => recovered?,
        }
        let left = left.fetch_sub(1, Ordering::Relaxed) - 1;
        if said.elapsed() >= SAY_AGAIN {
            said = Instant::now();
            tracing::info!(left, total, "groups are recovering");
        }
    }
    set_fact(shared, COMPLETE_FACT.into(), vec![1]).await?;
    shared.recovery.complete.store(true, Ordering::Release);
    Ok(total)
}

/// The groups of which this node may have forgotten something and has not recovered. Their numbers
/// only: there may be any number of them, and few are worked on at a time.
async fn groups_here(
    shared: &Arc<Shared>,
    replica: &Arc<Replica>,
    spared_from: u64,
) -> Result<Vec<GroupId>, ReadError> {
    let (shared, replica) = (Arc::clone(shared), Arc::clone(replica));
    let look = move || {
        let mut here = Vec::new();
        for id in 1..spared_from {
            let found = directory::channel_of_group(&replica.rows, id).map_err(storage_error)?;
            let is_here = found.is_some_and(|found| found.replicas.contains(&shared.node()));
            if is_here && !super::is_marked(&shared, GroupId(id)) {
                here.push(GroupId(id));
            }
        }
        Ok(here)
    };
    let looked = edge::blocking(look).await;
    looked.unwrap_or(Err(ReadError::Stopping))
}

async fn recover(shared: &Arc<Shared>, id: GroupId) -> Result<(), ReadError> {
    let group = &shared.group(id);
    shared.learn(group);
    let replica = catch_up(group).await?;
    set_fact(shared, mark_of(id), vec![1]).await?;
    become_ordinary(group, &replica);
    tracing::debug!(group = group.id.0, "a group has recovered");
    Ok(())
}

fn become_ordinary(group: &Arc<Group>, replica: &Replica) {
    group.set_recovered();
    replica.consensus.allow_elections();
    group.lane().look();
}

/// Opens the replica, which inquires first if it must, and brings it level with a leader.
///
/// # Errors
/// `Recovering` if the others do not do their part for now. It can be tried again; what it has promised
/// and what it has caught up with stays.
async fn catch_up(group: &Arc<Group>) -> Result<Arc<Replica>, ReadError> {
    let shared = &group.shared;
    let replica = match group.open_replica_once().await {
        Ok(replica) => replica,
        Err(ReadError::Stopping) => return Err(ReadError::Stopping),
        Err(error) => {
            if error != ReadError::Recovering && says(shared) {
                tracing::warn!(group = group.id.0, %error, "a group cannot recover yet");
            }
            pause(shared).await?;
            return Err(ReadError::Recovering);
        }
    };
    let mut confirmed = 0;
    let mut tries = 0;
    let mut within = CATCH_UP_MIN;
    if replica.consensus.leader().leader.is_none() {
        wake_leader(group).await;
    }
    while confirmed < rules::CONFIRMATIONS {
        let caught_up = group.caught_up(Consistency::Linearizable);
        let error = match timeout(within, caught_up).await {
            Ok(Ok(_)) => {
                confirmed += 1;
                continue;
            }
            Ok(Err(ReadError::Stopping)) => return Err(ReadError::Stopping),
            Ok(Err(error)) => error,
            Err(_) => ReadError::NoLeader,
        };
        tries += 1;
        within = (within * 2).min(CATCH_UP_MAX);
        if says(shared) {
            tracing::warn!(group = group.id.0, %error, "a group is still catching up");
        }
        if tries == TRIES_MAX {
            return Err(ReadError::Recovering);
        }
        wake_leader(group).await;
        pause(shared).await?;
    }
    Ok(replica)
}

/// What a replica without a memory does before it is opened: asks all other voters for their terms,
/// and saves the vote that keeps its forgotten promises.
///
/// # Errors
/// `Recovering` if not all have answered, `Stopping`, or `Storage` if the vote cannot be saved.
pub(crate) async fn promise(group: &Arc<Group>, stored: &storage::Group) -> Result<(), ReadError> {
    let this_node = group.shared.node();
    let others = others(group);
    let is_away = |node: &NodeId| !group.shared.is_up(*node);
    let away: Vec<NodeId> = others.iter().copied().filter(is_away).collect();
    if !away.is_empty() {
        // Being asked opens the group on the others, in vain as long as one of them is missing.
        return Err(waits_for(group, &away));
    }
    let told = inquire(group, &others).await;
    let term = match rules::promised_term(&others, |node| told.get(&node).copied()) {
        Ok(term) => term,
        Err(silent) => return Err(waits_for(group, &silent)),
    };
    let vote = storage::Vote {
        term,
        node: this_node,
        committed: false,
    };
    let (sender, saved) = tokio::sync::oneshot::channel();
    let done = move |result| {
        // A receiver that is gone belongs to a node that stops.
        let _ = sender.send(result);
    };
    stored.save_vote(vote, Box::new(done));
    match saved.await {
        Ok(result) => result.map_err(storage_error),
        Err(_) => Err(ReadError::Stopping),
    }
}

/// The terms of those that answer.
async fn inquire(group: &Group, others: &[NodeId]) -> BTreeMap<NodeId, u64> {
    let calls = others.iter().filter_map(|node| {
        let call = group.ask(*node, Kind::Inquire, INQUIRY_DEADLINE)?;
        Some(async move { (*node, call.await) })
    });
    let mut told = BTreeMap::new();
    for (node, answer) in futures_util::future::join_all(calls).await {
        match answer {
            Ok(body) => match number(&body) {
                Some(term) => drop(told.insert(node, term)),
                None => tracing::warn!(node, "an answer to an inquiry cannot be read"),
            },
            Err(error) => {
                tracing::debug!(group = group.id.0, node, %error, "an inquiry was not answered");
            }
        }
    }
    told
}

fn waits_for(group: &Group, nodes: &[NodeId]) -> ReadError {
    if !says(&group.shared) {
        return ReadError::Recovering;
    }
    if nodes.is_empty() {
        tracing::error!(
            group = group.id.0,
            "a group had its only replica on the disk that was lost; it cannot recover"
        );
    } else {
        tracing::warn!(
            group = group.id.0,
            waits_for = ?nodes,
            "a group cannot recover before these nodes answer"
        );
    }
    ReadError::Recovering
}

/// Has the leader bring this replica level. Where the group sleeps on the others, or they replicate it
/// without openraft, nobody would do so before somebody asks.
async fn wake_leader(group: &Group) {
    let mut asked = others(group);
    asked.retain(|node| group.shared.is_up(*node));
    if let Some(leader) = leader_by(group, &asked).await {
        asked = vec![leader];
    }
    // If none of them knows of one, all of them see to it that there is one.
    for node in asked {
        // Being asked is what opens it; nobody waits for the answer.
        drop(group.ask(node, Kind::Rouse, INQUIRY_DEADLINE));
    }
}

/// Which of the others leads, by the word of the one that knows the latest term.
async fn leader_by(group: &Group, others: &[NodeId]) -> Option<NodeId> {
    let calls = others.iter().filter_map(|node| {
        let call = group.ask(*node, Kind::Status, INQUIRY_DEADLINE)?;
        Some(async move { StatusAnswer::decode(&call.await.ok()?).ok() })
    });
    let answers = futures_util::future::join_all(calls).await;
    let answers = answers.into_iter().flatten().map(|answer| answer.status());
    let newest = answers.max_by_key(|status| (status.term, status.leader.is_some()))?;
    newest.leader.filter(|leader| others.contains(leader))
}

fn others(group: &Group) -> Vec<NodeId> {
    let mut others = group.replicas().unwrap_or_default();
    others.retain(|node| *node != group.shared.node());
    others
}

/// Setting a fact waits for an fsync, so a thread does it.
async fn set_fact(shared: &Arc<Shared>, name: String, value: Vec<u8>) -> Result<(), ReadError> {
    let store = shared.store.clone();
    let set = edge::blocking(move || store.set_fact(&name, &value)).await;
    set.map_or(Err(ReadError::Stopping), |set| set.map_err(storage_error))
}

#[expect(
    clippy::disallowed_methods,
    reason = "what other nodes do cannot be waited for otherwise"
)]
async fn pause(shared: &Shared) -> Result<(), ReadError> {
    tokio::time::sleep(TRY_AGAIN).await;
    if shared.is_stopping() {
        return Err(ReadError::Stopping);
    }
    Ok(())
}

/// Whether it is time to say again what is waited for: one line for all groups.
fn says(shared: &Shared) -> bool {
    let say_at = shared.recovery.say_at.lock();
    let mut say_at = say_at.unwrap_or_else(PoisonError::into_inner);
    let say_at = say_at.get_or_insert_with(|| Instant::now() + TRY_AGAIN * 5);
    let says = Instant::now() >= *say_at;
    if says {
        *say_at = Instant::now() + SAY_AGAIN;
    }
    says
}
