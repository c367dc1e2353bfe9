//! What peers say to each other inside the transport's frames.
//!
//! Every body begins with what it is about in bincode; the bytes of log entries follow unchanged,
//! so that a batch travels from the lane that made it to the followers' disks without another copy
//! or decoding.

use bincode::Decode;
use bincode::Encode;
use bytes::Buf;
use bytes::Bytes;

use accord_storage as storage;
use openraft::raft::AppendEntriesRequest;
use openraft::raft::AppendEntriesResponse;
use openraft::raft::VoteRequest;
use openraft::raft::VoteResponse;

use super::types;
use super::types::TypeConfig;
use crate::codec;

/// Headers are small: the largest lists the entries of one append request.
const HEADER_BYTES_MAX: usize = 1024 * 1024;

/// From this size on a payload shares the link's read buffer (64 KiB, or the frame itself if larger).
const SHARED_BYTES_MIN: usize = 32 * 1024;

/// A body that is not what its kind promises. The request is refused; the link stays.
#[derive(Debug, thiserror::Error)]
#[error("malformed peer message: {0}")]
pub(crate) struct Malformed(String);

impl Malformed {
    pub(super) fn new(what: &str) -> Self {
        Malformed(what.into())
    }
}

impl From<codec::Malformed> for Malformed {
    fn from(error: codec::Malformed) -> Self {
        Malformed(error.to_string())
    }
}

impl From<std::io::Error> for Malformed {
    fn from(error: std::io::Error) -> Self {
        Malformed(error.to_string())
    }
}

#[derive(Encode, Decode, Clone, Copy)]
pub(crate) struct WireVote {
    term: u64,
    node: u64,
    committed: bool,
}

impl From<&types::Vote> for WireVote {
    fn from(vote: &types::Vote) -> Self {
        let stored = types::stored_vote(vote);
        WireVote {
            term: stored.term,
            node: stored.node,
            committed: stored.committed,
        }
    }
}

impl From<WireVote> for types::Vote {
    fn from(vote: WireVote) -> Self {
        types::vote(storage::Vote {
            term: vote.term,
            node: vote.node,
            committed: vote.committed,
        })
    }
}

#[derive(Encode, Decode, Clone, Copy)]
pub(crate) struct WireLogId {
    term: u64,
    index: u64,
}

impl From<storage::LogId> for WireLogId {
    fn from(id: storage::LogId) -> Self {
        WireLogId {
            term: id.term,
            index: id.index,
        }
    }
}

impl From<WireLogId> for storage::LogId {
    fn from(id: WireLogId) -> Self {
        storage::LogId {
            term: id.term,
            index: id.index,
        }
    }
}

impl From<&types::LogId> for WireLogId {
    fn from(id: &types::LogId) -> Self {
        let stored = types::stored_log_id(id);
        WireLogId {
            term: stored.term,
            index: stored.index,
        }
    }
}

impl From<WireLogId> for types::LogId {
    fn from(id: WireLogId) -> Self {
        types::log_id(id.into())
    }
}

#[derive(Encode, Decode)]
struct AppendHeader {
    group: u64,
    vote: WireVote,
    prev: Option<WireLogId>,
    commit: Option<WireLogId>,
    entries: Vec<EntryHeader>,
}

#[derive(Encode, Decode)]
struct EntryHeader {
    id: WireLogId,
    bytes: u32,
}

/// The parts of an append request, to be written one after the other.
pub(crate) fn encode_append(group: u64, request: AppendEntriesRequest<TypeConfig>) -> Vec<Bytes> {
    let mut headers = Vec::with_capacity(request.entries.len());
    let mut parts = Vec::with_capacity(request.entries.len() + 1);
    parts.push(Bytes::new());
    for entry in request.entries {
        let id = WireLogId::from(&entry.log_id);
        let stored = types::stored_entry(entry);
        let bytes =
            u32::try_from(stored.payload.len()).expect("an entry is bounded far below 4 GiB");
        headers.push(EntryHeader { id, bytes });
        parts.push(stored.payload);
    }
    let header = codec::encode(&AppendHeader {
        group,
        vote: (&request.vote).into(),
        prev: request.prev_log_id.as_ref().map(Into::into),
        commit: request.leader_commit.as_ref().map(Into::into),
        entries: headers,
    });
    parts[0] = with_length(&header);
    parts
}

pub(crate) fn decode_append(
    mut body: Bytes,
) -> Result<(u64, AppendEntriesRequest<TypeConfig>), Malformed> {
    let header: AppendHeader = split_header(&mut body)?;
    check_order(&header)?;
    let mut entries = Vec::with_capacity(header.entries.len());
    for entry in header.entries {
        let bytes = entry.bytes as usize;
        if bytes > body.len() {
            return Err(Malformed("an entry is cut off".into()));
        }
        let id: types::LogId = entry.id.into();
        entries.push(types::entry(storage::Entry {
            log_id: types::stored_log_id(&id),
            payload: own(body.split_to(bytes)),
        })?);
    }
    if !body.is_empty() {
        return Err(Malformed("bytes after the last entry".into()));
    }
    let request = AppendEntriesRequest {
        vote: header.vote.into(),
        prev_log_id: header.prev.map(Into::into),
        leader_commit: header.commit.map(Into::into),
        entries,
    };
    Ok((header.group, request))
}

/// A log without holes, and terms that only rise: what Raft takes for granted of a leader, and a
/// broken one must not bring this node down by.
fn check_order(header: &AppendHeader) -> Result<(), Malformed> {
    let mut next = match header.prev {
        Some(prev) => prev.index.checked_add(1),
        None => header
            .entries
            .first()
            .map(|entry| entry.id.index)
            .or(Some(0)),
    };
    let mut term = header.prev.map_or(0, |prev| prev.term);
    for entry in &header.entries {
        let follows = Some(entry.id.index) == next && entry.id.term >= term;
        if !follows || entry.id.term > header.vote.term || entry.id.index == u64::MAX {
            return Err(Malformed("the entries do not follow each other".into()));
        }
        (next, term) = (entry.id.index.checked_add(1), entry.id.term);
    }
    Ok(())
}

/// Small payloads are copied out of the link's read buffer, which they would keep in memory for as
/// long as the log's tail holds them.
pub(super) fn own(payload: Bytes) -> Bytes {
    if payload.len() < SHARED_BYTES_MIN {
        Bytes::copy_from_slice(&payload)
    } else {
        payload
    }
}

#[derive(Encode, Decode)]
enum WireAppended {
    Success,
    Partial(Option<WireLogId>),
    Conflict,
    HigherVote(WireVote),
}

pub(crate) fn encode_appended(response: &AppendEntriesResponse<TypeConfig>) -> Bytes {
    let wire = match response {
        AppendEntriesResponse::Success => WireAppended::Success,
        AppendEntriesResponse::PartialSuccess(id) => {
            WireAppended::Partial(id.as_ref().map(Into::into))
        }
        AppendEntriesResponse::Conflict => WireAppended::Conflict,
        AppendEntriesResponse::HigherVote(vote) => WireAppended::HigherVote(vote.into()),
    };
    codec::encode(&wire).into()
}

pub(crate) fn decode_appended(body: &[u8]) -> Result<AppendEntriesResponse<TypeConfig>, Malformed> {
    Ok(
        match codec::decode::<WireAppended, HEADER_BYTES_MAX>(body)? {
            WireAppended::Success => AppendEntriesResponse::Success,
            WireAppended::Partial(id) => AppendEntriesResponse::PartialSuccess(id.map(Into::into)),
            WireAppended::Conflict => AppendEntriesResponse::Conflict,
            WireAppended::HigherVote(vote) => AppendEntriesResponse::HigherVote(vote.into()),
        },
    )
}

#[derive(Encode, Decode)]
struct WireVoteRequest {
    group: u64,
    vote: WireVote,
    last: Option<WireLogId>,
    transfer: bool,
}

pub(crate) fn encode_vote_request(group: u64, request: &VoteRequest<TypeConfig>) -> Bytes {
    codec::encode(&WireVoteRequest {
        group,
        vote: (&request.vote).into(),
        last: request.last_log_id.as_ref().map(Into::into),
        transfer: request.leadership_transfer,
    })
    .into()
}

pub(crate) fn decode_vote_request(
    body: &[u8],
) -> Result<(u64, VoteRequest<TypeConfig>), Malformed> {
    let wire: WireVoteRequest = codec::decode::<_, HEADER_BYTES_MAX>(body)?;
    let mut request = VoteRequest::new(wire.vote.into(), wire.last.map(Into::into));
    request.leadership_transfer = wire.transfer;
    Ok((wire.group, request))
}

#[derive(Encode, Decode)]
struct WireVoteResponse {
    vote: WireVote,
    last: Option<WireLogId>,
    granted: bool,
}

pub(crate) fn encode_vote_response(response: &VoteResponse<TypeConfig>) -> Bytes {
    codec::encode(&WireVoteResponse {
        vote: (&response.vote).into(),
        last: response.last_log_id.as_ref().map(Into::into),
        granted: response.vote_granted,
    })
    .into()
}

pub(crate) fn decode_vote_response(body: &[u8]) -> Result<VoteResponse<TypeConfig>, Malformed> {
    let wire: WireVoteResponse = codec::decode::<_, HEADER_BYTES_MAX>(body)?;
    let vote: types::Vote = wire.vote.into();
    Ok(VoteResponse::new(
        vote,
        wire.last.map(Into::into),
        wire.granted,
    ))
}

/// Asks the receiver to take over as leader.
#[derive(Encode, Decode)]
pub(crate) struct Transfer {
    pub(crate) group: u64,
    pub(crate) from: WireVote,
    pub(crate) to: u64,
    pub(crate) last: Option<WireLogId>,
}

/// Announces a snapshot; answered by [`SnapshotHave`].
#[derive(Encode, Decode)]
pub(crate) struct SnapshotBegin {
    pub(crate) group: u64,
    pub(crate) vote: WireVote,
}

/// What the follower has of the group already, so that only the rest is sent.
#[derive(Encode, Decode)]
pub(crate) struct SnapshotHave {
    pub(crate) transfer: u64,
    pub(crate) applied_index: Option<u64>,
    pub(crate) index_after: Option<Vec<u8>>,
}

/// Precedes the bytes of one chunk.
#[derive(Encode, Decode)]
pub(crate) struct SnapshotChunk {
    pub(crate) group: u64,
    pub(crate) transfer: u64,
    /// 0, 1, 2 …
    pub(crate) number: u64,
}

/// Asks for the snapshot to be installed; answered by the receiver's vote.
#[derive(Encode, Decode)]
pub(crate) struct SnapshotEnd {
    pub(crate) group: u64,
    pub(crate) transfer: u64,
    pub(crate) chunks: u64,
    pub(crate) vote: WireVote,
    pub(crate) last: Option<WireLogId>,
    pub(crate) membership: Vec<u8>,
}

pub(crate) fn encode_parts<T: Encode>(header: &T, rest: Bytes) -> Vec<Bytes> {
    vec![with_length(&codec::encode(header)), rest]
}

pub(crate) fn decode_parts<T: Decode<()>>(mut body: Bytes) -> Result<(T, Bytes), Malformed> {
    let header = split_header(&mut body)?;
    Ok((header, body))
}

pub(crate) fn encode<T: Encode>(value: &T) -> Bytes {
    codec::encode(value).into()
}

pub(crate) fn decode<T: Decode<()>>(body: &[u8]) -> Result<T, Malformed> {
    Ok(codec::decode::<T, HEADER_BYTES_MAX>(body)?)
}

pub(super) fn with_length(header: &[u8]) -> Bytes {
    let length = u32::try_from(header.len()).expect("a header is bounded far below 4 GiB");
    let mut bytes = Vec::with_capacity(4 + header.len());
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(header);
    bytes.into()
}

pub(super) fn split_header<T: Decode<()>>(body: &mut Bytes) -> Result<T, Malformed> {
    if body.len() < 4 {
        return Err(Malformed("a header is cut off".into()));
    }
    let length = body.get_u32_le() as usize;
    if length > body.len() {
        return Err(Malformed("a header is cut off".into()));
    }
    let header = body.split_to(length);
    Ok(codec::decode::<T, HEADER_BYTES_MAX>(&header)?)
}

#[cfg(test)]
mod tests {
    use openraft::EntryPayload;
    use proptest::prelude::*;

    use super::*;
    use crate::consensus::types::BatchBytes;
    use crate::consensus::types::Entry;

    fn concatenated(parts: Vec<Bytes>) -> Bytes {
        parts.concat().into()
    }

    #[test]
    fn an_append_request_survives_the_wire() {
        let id = |term, index| types::log_id(storage::LogId { term, index });
        let request = AppendEntriesRequest::<TypeConfig> {
            vote: types::vote(storage::Vote {
                term: 3,
                node: 2,
                committed: true,
            }),
            prev_log_id: Some(id(2, 9)),
            leader_commit: Some(id(2, 8)),
            entries: vec![
                Entry {
                    log_id: id(3, 10),
                    payload: EntryPayload::Blank,
                },
                Entry {
                    log_id: id(3, 11),
                    payload: EntryPayload::Normal(BatchBytes(Bytes::from_static(b"\x01abc"))),
                },
            ],
        };
        let (group, back) = decode_append(concatenated(encode_append(7, request.clone()))).unwrap();
        assert_eq!(group, 7);
        assert_eq!(back.vote, request.vote);
        assert_eq!(back.prev_log_id, request.prev_log_id);
        assert_eq!(back.leader_commit, request.leader_commit);
        assert_eq!(back.entries, request.entries);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode_append(bytes.clone().into());
            let _ = decode_appended(&bytes);
            let _ = decode_vote_request(&bytes);
            let _ = decode_vote_response(&bytes);
            let _ = decode_parts::<SnapshotChunk>(bytes.clone().into());
            let _ = decode::<SnapshotHave>(&bytes);
        }

        #[test]
        fn entries_that_do_not_follow_each_other_are_refused(
            prev in proptest::option::of((0u64..4, 0u64..6)),
            entries in proptest::collection::vec((0u64..4, prop_oneof![0u64..8, Just(u64::MAX)]), 0..4),
        ) {
            let id = |(term, index)| types::log_id(storage::LogId { term, index });
            let request = AppendEntriesRequest::<TypeConfig> {
                vote: types::vote(storage::Vote { term: 2, node: 2, committed: true }),
                prev_log_id: prev.map(id),
                leader_commit: None,
                entries: entries.iter().map(|entry| Entry { log_id: id(*entry), payload: EntryPayload::Blank }).collect(),
            };
            let all: Vec<_> = prev.into_iter().chain(entries.iter().copied()).collect();
            let follow = all.windows(2).all(|two| two[0].1.checked_add(1) == Some(two[1].1) && two[0].0 <= two[1].0);
            let bounded = entries.iter().all(|(term, index)| *term <= 2 && *index < u64::MAX);
            let decoded = decode_append(concatenated(encode_append(7, request)));
            prop_assert_eq!(decoded.is_ok(), follow && bounded);
        }

        #[test]
        fn a_cut_append_request_is_refused(cut in 0usize..60) {
            let request = AppendEntriesRequest::<TypeConfig> {
                vote: types::vote(storage::Vote { term: 3, node: 2, committed: true }),
                prev_log_id: None,
                leader_commit: None,
                entries: vec![Entry {
                    log_id: types::log_id(storage::LogId { term: 3, index: 0 }),
                    payload: EntryPayload::Normal(BatchBytes(Bytes::from_static(&[1; 100]))),
                }],
            };
            let whole = concatenated(encode_append(7, request));
            prop_assert!(decode_append(whole.slice(..whole.len() - 1 - cut)).is_err());
        }
    }
}
