//! Entries for the fuzz targets of what nodes say to each other about groups: see
//! [`crate::fuzzing`].

use std::io;

use bytes::Bytes;

use super::Ballot;
use super::decode_steady;
use super::steady;
use super::types;
use super::wire;
use crate::agenda;
use crate::fuzzing::settles;
use crate::group::submit::Submitted;
use crate::hibernation;
use crate::remote::FeedRequest;
use crate::remote::ReadRequest;
use crate::remote::StatusAnswer;
use crate::remote::decode_answer;
use crate::remote::encode_answer;

/// The node whose frames they are taken for.
const SENDER: u64 = 2;

/// The body of a request or of an answer; the first byte says of which kind.
pub fn peer_body(bytes: &[u8]) {
    let Some((kind, body)) = bytes.split_first() else {
        return;
    };
    match kind % 32 {
        0 => settles(
            body,
            |bytes| wire::decode_append(Bytes::copy_from_slice(bytes)),
            |(group, request)| wire::encode_append(group, request).concat().into(),
        ),
        1 => settles(body, wire::decode_appended, |answer| {
            wire::encode_appended(&answer)
        }),
        2 => settles(body, wire::decode_vote_request, |(group, request)| {
            wire::encode_vote_request(group, &request)
        }),
        3 => settles(body, wire::decode_vote_response, |answer| {
            wire::encode_vote_response(&answer)
        }),
        4 => settles(body, wire::decode::<wire::Transfer>, |value| {
            wire::encode(&value)
        }),
        5 => settles(body, wire::decode::<wire::SnapshotBegin>, |value| {
            wire::encode(&value)
        }),
        6 => settles(body, wire::decode::<wire::SnapshotHave>, |value| {
            wire::encode(&value)
        }),
        7 => settles(
            body,
            |bytes| wire::decode_parts::<wire::SnapshotChunk>(Bytes::copy_from_slice(bytes)),
            |(header, rest)| wire::encode_parts(&header, rest).concat().into(),
        ),
        8 => settles(body, wire::decode::<wire::SnapshotEnd>, |value| {
            wire::encode(&value)
        }),
        9 => settles(
            body,
            |bytes| Submitted::decode(bytes).ok_or(()),
            |answer| answer.encode(),
        ),
        10 => settles(body, ReadRequest::decode, |request| request.encode()),
        11 => settles(body, FeedRequest::decode, |request| request.encode()),
        12 => settles(
            body,
            |bytes| Ok::<_, ()>(decode_answer(bytes)),
            encode_answer,
        ),
        13 => settles(body, StatusAnswer::decode, |answer| answer.encode()),
        14 => settles(body, types::decode_stored_membership, |membership| {
            types::encode_stored_membership(&membership).into()
        }),
        15 => settles(body, entry, |entry| types::stored_entry(entry).payload),
        16 => settles(
            body,
            |bytes| decode_steady(SENDER, Bytes::copy_from_slice(bytes)),
            |(group, request)| steady::encode(group, &request).concat().into(),
        ),
        17 => settles(
            body,
            |bytes| Ballot::decode(SENDER, bytes),
            |(group, ballot)| ballot.encode(group),
        ),
        18 => hibernation::fuzzing::idle(body),
        19 => hibernation::fuzzing::levels(body),
        20 => hibernation::fuzzing::groups(body),
        21 => hibernation::fuzzing::standings(body),
        22 => settles(body, agenda::Request::decode, |request| request.encode()),
        23 => settles(
            body,
            |bytes| Ok::<_, ()>(agenda::decode_answer(bytes)),
            agenda::encode_answer,
        ),
        _ => {}
    }
}

fn entry(payload: &[u8]) -> io::Result<types::Entry> {
    types::entry(accord_storage::Entry {
        log_id: accord_storage::LogId { term: 1, index: 1 },
        payload: Bytes::copy_from_slice(payload),
    })
}

#[cfg(test)]
pub(crate) fn write_seeds() {
    use accord_storage as storage;
    use openraft::EntryPayload;
    use openraft::raft::AppendEntriesRequest;
    use openraft::raft::AppendEntriesResponse;
    use openraft::raft::VoteRequest;
    use openraft::raft::VoteResponse;

    use super::types::TypeConfig;
    use crate::api::Consistency;
    use crate::api::GroupStatus;
    use crate::api::Messages;
    use crate::api::Range;
    use crate::api::ReadError;
    use crate::fuzzing::corpus;
    use crate::machine::Message;
    use crate::machine::Outcome;
    use crate::machine::Text;

    let id = |term, index| types::log_id(storage::LogId { term, index });
    let vote = types::vote(storage::Vote {
        term: 3,
        node: 2,
        committed: true,
    });
    let nodes = (1..4).map(|node| (node, openraft::EmptyNode {}));
    let membership = openraft::Membership::<_, _>::new(
        vec![(1..4).collect()],
        nodes.collect::<std::collections::BTreeMap<_, _>>(),
    )
    .unwrap();
    let entry = |index, payload| types::Entry {
        log_id: id(3, index),
        payload,
    };
    let batch = types::BatchBytes(Bytes::from_static(b"\x01abc"));
    let request = AppendEntriesRequest::<TypeConfig> {
        vote,
        prev_log_id: Some(id(2, 9)),
        leader_commit: Some(id(2, 8)),
        entries: vec![
            entry(10, EntryPayload::Blank),
            entry(11, EntryPayload::Normal(batch)),
            entry(12, EntryPayload::Membership(membership.clone())),
        ],
    };
    let membership_entry = entry(12, EntryPayload::Membership(membership.clone()));
    let stored = types::StoredMembership::new(Some(id(1, 0)), membership);
    let message = Message {
        seq: 7,
        id: [7; 16],
        timestamp_ms: 1_700_000_000_000,
        username: Text::from_utf8("ada".into()).unwrap(),
        body: Text::from_utf8("hello".into()).unwrap(),
        reply_to: Some([1; 16]),
        agent: None,
    };
    let posted = Outcome::Posted {
        seq: 7,
        timestamp_ms: 300,
        id: [7; 16],
        repeated: false,
    };
    let mut vote_request = VoteRequest::<TypeConfig>::new(vote, Some(id(2, 9)));
    vote_request.leadership_transfer = true;
    let last = Some((&id(2, 9)).into());
    let group = 7;
    let steady_request = steady::SteadyRequest {
        leader: SENDER,
        term: 3,
        prev: storage::LogId { term: 2, index: 9 },
        commit: storage::LogId { term: 2, index: 8 },
        payloads: vec![Bytes::from_static(b"\x01abc"), Bytes::from_static(b"\x01")],
    };
    let ballot = Ballot {
        candidate: SENDER,
        term: 4,
        last: storage::LogId { term: 2, index: 9 },
    };
    let [idle, levels, groups, standings] = hibernation::fuzzing::seeds();
    let bodies: [(&str, Bytes); 24] = [
        (
            "append",
            wire::encode_append(group, request).concat().into(),
        ),
        (
            "appended",
            wire::encode_appended(&AppendEntriesResponse::PartialSuccess(Some(id(3, 10)))),
        ),
        ("vote", wire::encode_vote_request(group, &vote_request)),
        (
            "voted",
            wire::encode_vote_response(&VoteResponse::new(vote, Some(id(2, 9)), true)),
        ),
        (
            "transfer",
            wire::encode(&wire::Transfer {
                group,
                from: (&vote).into(),
                to: 3,
                last,
            }),
        ),
        (
            "snapshot_begin",
            wire::encode(&wire::SnapshotBegin {
                group,
                vote: (&vote).into(),
            }),
        ),
        (
            "snapshot_have",
            wire::encode(&wire::SnapshotHave {
                transfer: 1,
                applied_index: Some(300),
                index_after: Some(vec![0, 9]),
            }),
        ),
        (
            "snapshot_chunk",
            wire::encode_parts(
                &wire::SnapshotChunk {
                    group,
                    transfer: 1,
                    number: 0,
                },
                Bytes::from_static(b"chunk"),
            )
            .concat()
            .into(),
        ),
        (
            "snapshot_end",
            wire::encode(&wire::SnapshotEnd {
                group,
                transfer: 1,
                chunks: 2,
                vote: (&vote).into(),
                last,
                membership: types::encode_stored_membership(&stored),
            }),
        ),
        (
            "submitted",
            Submitted::Outcomes(vec![posted, Outcome::KeyReused]).encode(),
        ),
        (
            "read",
            ReadRequest::messages(
                group,
                Range::After { seq: 9, limit: 50 },
                Consistency::Stale,
            )
            .encode(),
        ),
        (
            "feed",
            FeedRequest {
                group,
                after: 300,
                wait_ms: 1_000,
            }
            .encode(),
        ),
        (
            "messages",
            encode_answer(Ok(Messages {
                messages: vec![message],
                head: 7,
            })),
        ),
        (
            "status",
            StatusAnswer::new(&GroupStatus::default(), 7, true).encode(),
        ),
        (
            "membership",
            types::encode_stored_membership(&stored).into(),
        ),
        ("entry", types::stored_entry(membership_entry).payload),
        (
            "steady",
            steady::encode(group, &steady_request).concat().into(),
        ),
        ("ballot", ballot.encode(group)),
        ("idle", idle),
        ("levels", levels),
        ("groups", groups),
        ("standings", standings),
        (
            "agenda",
            agenda::Request::new(group, Consistency::Stale, agenda::What::Job { id: [7; 16] })
                .encode(),
        ),
        ("no_agenda", agenda::encode_answer(Err(ReadError::NoLeader))),
    ];
    for (kind, (label, body)) in (0u8..).zip(bodies) {
        corpus::keep("peer_body", &[(label, [&[kind][..], &body].concat())]);
    }
}
