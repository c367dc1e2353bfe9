//! How a channel's group begins: without an election.
//!
//! The directory, which is replicated itself, says which nodes hold a channel, in an order. So all of
//! them can write the same first state by themselves: the membership as entry 0, applied, and the
//! vote of a leader of term 1, which is the first of them. Nobody else ever stands in that term,
//! since whoever has a membership has that vote as well. A quorum's promise not to elect another
//! leader in it is thus given by the directory's entry (docs/adr/0018).

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::io;

use accord_storage as storage;
use accord_storage::Table;
use accord_storage::Write;
use openraft::EmptyNode;
use openraft::EntryPayload;

use super::log_store::completion;
use super::state_machine::MEMBERSHIP_KEY;
use super::types;
use super::types::Entry;
use super::types::Membership;
use super::types::StoredMembership;
use crate::transport::NodeId;

/// The term that nobody is elected for.
const FIRST_TERM: u64 = 1;
const FIRST_ENTRY: storage::LogId = storage::LogId { term: 0, index: 0 };

/// Founds a group that holds nothing. True on the node that leads it now.
///
/// # Errors
/// If the store fails, or `replicas` is empty.
pub(super) async fn found(
    node: NodeId,
    group: &storage::Group,
    replicas: &[NodeId],
) -> io::Result<bool> {
    let Some(leader) = replicas.first().copied() else {
        return Err(types::invalid("a group without replicas"));
    };
    let voters: BTreeSet<NodeId> = replicas.iter().copied().collect();
    let nodes: BTreeMap<_, _> = voters.iter().map(|node| (*node, EmptyNode {})).collect();
    let membership = Membership::new(vec![voters], nodes).map_err(io::Error::other)?;
    let log_id = types::log_id(FIRST_ENTRY);
    let row = Write::Put {
        table: Table::State,
        key: MEMBERSHIP_KEY.to_vec(),
        value: types::encode_stored_membership(&StoredMembership::new(
            Some(log_id),
            membership.clone(),
        )),
    };
    let entry = types::stored_entry(Entry {
        log_id,
        payload: EntryPayload::Membership(membership),
    });
    let vote = storage::Vote {
        term: FIRST_TERM,
        node: leader,
        committed: true,
    };
    let (done, written) = completion();
    group.found(vote, entry, vec![row], done);
    if leader != node {
        // Not on the disk yet, but ordered before whatever this replica promises to anybody.
        written.wait().await?;
        return Ok(false);
    }
    // On the disk before anything is appended by it: a node that lost this would found the group
    // again, and give the places of its first entries to others.
    let (done, durable) = completion();
    group.save_vote(vote, done);
    durable.wait().await?;
    Ok(true)
}
