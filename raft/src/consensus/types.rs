//! The types that one Raft group is made of, and their form on disk.
//!
//! Leader ids are standard Raft's: at most one leader in a term, so that a log id is (term, index).
//! A log entry's payload begins with a byte that says what it is; a batch of commands carries its
//! own version byte there, so a batch is stored and sent as the very bytes that the leader's lane
//! put together.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt;
use std::io;

use accord_storage as storage;
use bincode::Decode;
use bincode::Encode;
use bytes::Bytes;
use openraft::EntryPayload;
use openraft::RaftTypeConfig;
use openraft::impls::EmptyNode;
use openraft::vote::RaftLeaderId;

use super::runtime::Runtime;
use crate::machine::Outcome;
use crate::machine::PartOutcomes;

/// First byte of the payload of an entry that only marks a leader's first log index.
const KIND_BLANK: u8 = 0;
/// First byte of a membership's payload. (1 is the first version of a batch of commands.)
const KIND_MEMBERSHIP: u8 = 255;
/// The payload of an entry that changes nothing: a leader commits with it what came before its term.
pub(crate) const BLANK: Bytes = Bytes::from_static(&[KIND_BLANK]);
/// More bytes than any membership needs: 1,000 voters of 9 bytes each, twice, and learners.
const MEMBERSHIP_BYTES_MAX: usize = 64 * 1024;

/// The parameters of openraft.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TypeConfig;

impl RaftTypeConfig for TypeConfig {
    type D = BatchBytes;
    type R = Reply;
    type NodeId = u64;
    type Node = EmptyNode;
    type Term = u64;
    type LeaderId = openraft::impls::leader_id_std::LeaderId<u64, u64>;
    type Vote = openraft::impls::Vote<Self::LeaderId>;
    type Payload = EntryPayload<Self::D, Self::NodeId, Self::Node>;
    type Entry = openraft::impls::Entry<<Self::LeaderId as RaftLeaderId>::Committed, Self::Payload>;
    type AsyncRuntime = Runtime;
    type Responder<T>
        = Callback<T>
    where
        T: Send + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: Send + 'static;
    type ErrorSource = anyerror::AnyError;
}

pub(crate) type LogId = openraft::type_config::alias::LogIdOf<TypeConfig>;
pub(crate) type Vote = openraft::type_config::alias::VoteOf<TypeConfig>;
pub(crate) type Entry = openraft::type_config::alias::EntryOf<TypeConfig>;
pub(crate) type Membership = openraft::Membership<u64, EmptyNode>;
pub(crate) type StoredMembership = openraft::type_config::alias::StoredMembershipOf<TypeConfig>;
pub(crate) type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<TypeConfig>;

/// An encoded batch of commands, shared by reference from the lane to the log, the peers and the
/// state machine.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct BatchBytes(pub(crate) Bytes);

impl fmt::Debug for BatchBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "batch of {} bytes", self.0.len())
    }
}

impl fmt::Display for BatchBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What a batch's commands came to, in order, and which of them belong to which part.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reply {
    pub(crate) outcomes: Vec<Outcome>,
    pub(crate) parts: Vec<PartOutcomes>,
}

impl Reply {
    /// One list of outcomes for each part.
    pub(crate) fn by_part(&self) -> Vec<Vec<Outcome>> {
        let slots = self.parts.iter().map(|part| part.slots.clone());
        slots.map(|slots| self.outcomes[slots].to_vec()).collect()
    }
}

/// Hands a proposal's result over from whichever task has it, without waking another in between.
pub(crate) struct Callback<T>(Box<dyn FnOnce(T) + Send>);

impl<T> Callback<T> {
    pub(crate) fn new(call: impl FnOnce(T) + Send + 'static) -> Self {
        Callback(Box::new(call))
    }
}

impl<T: Send + 'static> openraft::raft::responder::Responder<TypeConfig, T> for Callback<T> {
    fn on_complete(self, result: T) {
        (self.0)(result);
    }
}

pub(crate) fn log_id(id: storage::LogId) -> LogId {
    LogId::new(committed(id.term), id.index)
}

pub(crate) fn stored_log_id(id: &LogId) -> storage::LogId {
    storage::LogId {
        term: id.committed_leader_id().term,
        index: id.index(),
    }
}

fn committed(term: u64) -> openraft::type_config::alias::CommittedLeaderIdOf<TypeConfig> {
    // The voted-for node is no part of a committed leader's id in standard Raft.
    openraft::impls::leader_id_std::LeaderId::new(term, 0).to_committed()
}

pub(crate) fn vote(vote: storage::Vote) -> Vote {
    let leader_id = openraft::impls::leader_id_std::LeaderId::new(vote.term, vote.node);
    Vote {
        leader_id,
        committed: vote.committed,
    }
}

pub(crate) fn stored_vote(vote: &Vote) -> storage::Vote {
    storage::Vote {
        term: vote.leader_id.term,
        node: vote.leader_id.voted_for,
        committed: vote.committed,
    }
}

pub(crate) fn stored_entry(entry: Entry) -> storage::Entry {
    let log_id = stored_log_id(&entry.log_id);
    let payload = match entry.payload {
        EntryPayload::Blank => BLANK,
        EntryPayload::Normal(batch) => batch.0,
        EntryPayload::Membership(membership) => {
            let mut bytes = vec![KIND_MEMBERSHIP];
            bytes.extend(encode_membership(&membership));
            bytes.into()
        }
    };
    storage::Entry { log_id, payload }
}

/// Whether it changes nothing but the machine's state: no membership.
pub(crate) fn is_plain(payload: &[u8]) -> bool {
    payload.first().is_some_and(|kind| *kind != KIND_MEMBERSHIP)
}

/// # Errors
/// `InvalidData` if the payload is not what this version writes: the disk or a peer is at fault.
pub(crate) fn entry(stored: storage::Entry) -> io::Result<Entry> {
    let payload = match stored.payload.first() {
        Some(&KIND_BLANK) => EntryPayload::Blank,
        Some(&KIND_MEMBERSHIP) => {
            EntryPayload::Membership(decode_membership(&stored.payload[1..])?)
        }
        Some(_) => EntryPayload::Normal(BatchBytes(stored.payload)),
        None => return Err(invalid("an entry without a payload")),
    };
    Ok(Entry {
        log_id: log_id(stored.log_id),
        payload,
    })
}

#[derive(Encode, Decode)]
struct MembershipRecord {
    version: u8,
    configs: Vec<BTreeSet<u64>>,
    nodes: BTreeSet<u64>,
}

const MEMBERSHIP_VERSION: u8 = 1;

pub(crate) fn encode_membership(membership: &Membership) -> Vec<u8> {
    let record = MembershipRecord {
        version: MEMBERSHIP_VERSION,
        configs: membership.get_joint_config().clone(),
        nodes: membership.nodes().map(|(id, _)| *id).collect(),
    };
    crate::codec::encode(&record)
}

/// Whether one set of voters decides: none that is about to be replaced by another.
pub(crate) fn is_single(membership: &Membership) -> bool {
    membership.get_joint_config().len() == 1
}

pub(crate) fn decode_membership(bytes: &[u8]) -> io::Result<Membership> {
    let record: MembershipRecord = crate::codec::decode::<_, MEMBERSHIP_BYTES_MAX>(bytes)
        .map_err(|error| invalid(&error.to_string()))?;
    if record.version != MEMBERSHIP_VERSION {
        return Err(invalid("a membership of an unknown version"));
    }
    let nodes: BTreeMap<u64, EmptyNode> = record
        .nodes
        .into_iter()
        .map(|id| (id, EmptyNode {}))
        .collect();
    Membership::new(record.configs, nodes).map_err(|error| invalid(&error.to_string()))
}

#[derive(Encode, Decode)]
struct StoredMembershipRecord {
    term_and_index: Option<(u64, u64)>,
    membership: Vec<u8>,
}

pub(crate) fn encode_stored_membership(membership: &StoredMembership) -> Vec<u8> {
    crate::codec::encode(&StoredMembershipRecord {
        term_and_index: membership.log_id().as_ref().map(|id| {
            let id = stored_log_id(id);
            (id.term, id.index)
        }),
        membership: encode_membership(membership.membership()),
    })
}

pub(crate) fn decode_stored_membership(bytes: &[u8]) -> io::Result<StoredMembership> {
    let record: StoredMembershipRecord = crate::codec::decode::<_, MEMBERSHIP_BYTES_MAX>(bytes)
        .map_err(|error| invalid(&error.to_string()))?;
    let id = record
        .term_and_index
        .map(|(term, index)| log_id(storage::LogId { term, index }));
    Ok(StoredMembership::new(
        id,
        decode_membership(&record.membership)?,
    ))
}

pub(crate) fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_joint_membership_is_not_single() {
        let membership = |configs: &[&[u64]]| {
            let configs: Vec<BTreeSet<u64>> = configs
                .iter()
                .map(|config| config.iter().copied().collect())
                .collect();
            let nodes = configs.iter().flatten().map(|node| (*node, EmptyNode {}));
            let nodes: BTreeMap<_, _> = nodes.collect();
            Membership::new(configs, nodes).unwrap()
        };
        assert!(is_single(&membership(&[&[1, 2, 3]])));
        assert!(!is_single(&membership(&[&[1, 2, 3], &[2, 3, 4]])));
        assert!(!is_single(
            &StoredMembership::default().membership().clone()
        ));
    }
}
