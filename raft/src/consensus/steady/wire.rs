//! The requests of steady replication: entries, and the ballot before them.

use accord_storage as storage;
use bincode::Decode;
use bincode::Encode;
use bytes::Bytes;
use openraft::raft::AppendEntriesRequest;

use super::super::types;
use super::super::types::TypeConfig;
use super::super::wire::Malformed;
use super::super::wire::WireLogId;
use super::super::wire::own;
use super::super::wire::split_header;
use super::super::wire::with_length;
use crate::codec;
use crate::transport::NodeId;

/// What a leader asks of a follower: to hold these entries after `prev`, and to know what is
/// committed. Its term is that of the entries.
#[derive(Clone, Debug)]
pub(crate) struct SteadyRequest {
    pub(in super::super) leader: NodeId,
    pub(in super::super) term: u64,
    pub(in super::super) prev: storage::LogId,
    pub(in super::super) commit: storage::LogId,
    pub(in super::super) payloads: Vec<Bytes>,
}

/// What a candidate asks of those whose logs end where its own does: to have it as the leader of a
/// later term. It is their leader that was restarted, or one of them whose leader is dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ballot {
    pub(in super::super) candidate: NodeId,
    pub(in super::super) term: u64,
    /// The end of its log.
    pub(in super::super) last: storage::LogId,
    /// What it knows to be committed.
    pub(in super::super) commit: storage::LogId,
}

#[derive(Encode, Decode)]
struct BallotBody {
    group: u64,
    term: u64,
    last: WireLogId,
    commit: WireLogId,
}

impl Ballot {
    pub(in super::super) fn encode(&self, group: u64) -> Bytes {
        let body = BallotBody {
            group,
            term: self.term,
            last: self.last.into(),
            commit: self.commit.into(),
        };
        codec::encode(&body).into()
    }

    /// # Errors
    /// If the body is not a ballot that anybody can hold.
    pub(crate) fn decode(candidate: NodeId, body: &[u8]) -> Result<(u64, Ballot), Malformed> {
        let body: BallotBody = super::super::wire::decode(body)?;
        let (last, commit): (storage::LogId, storage::LogId) =
            (body.last.into(), body.commit.into());
        if last.term >= body.term {
            return Err(Malformed::new("a ballot for a term that has entries"));
        }
        if commit.index > last.index {
            return Err(Malformed::new("more is committed than the log holds"));
        }
        let ballot = Ballot {
            candidate,
            term: body.term,
            last,
            commit,
        };
        Ok((body.group, ballot))
    }
}

#[derive(Encode, Decode)]
struct Header {
    group: u64,
    term: u64,
    prev: WireLogId,
    commit: WireLogId,
    bytes: Vec<u32>,
}

impl SteadyRequest {
    /// It says nothing but what is committed.
    pub(crate) fn is_empty(&self) -> bool {
        self.payloads.is_empty()
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = storage::Entry> + '_ {
        let entries = (self.prev.index + 1..).zip(&self.payloads);
        entries.map(|(index, payload)| storage::Entry {
            log_id: storage::LogId {
                term: self.term,
                index,
            },
            payload: payload.clone(),
        })
    }

    /// The same request in openraft's words.
    pub(in super::super) fn elective(&self) -> std::io::Result<AppendEntriesRequest<TypeConfig>> {
        let entries: std::io::Result<_> = self.entries().map(types::entry).collect();
        Ok(AppendEntriesRequest {
            vote: types::vote(storage::Vote {
                term: self.term,
                node: self.leader,
                committed: true,
            }),
            prev_log_id: Some(types::log_id(self.prev)),
            leader_commit: Some(types::log_id(self.commit)),
            entries: entries?,
        })
    }
}

/// The parts of the request, to be written one after the other. The bytes of entries are shared.
pub(in super::super) fn encode(group: u64, request: &SteadyRequest) -> Vec<Bytes> {
    let lengths = request
        .payloads
        .iter()
        .map(|payload| u32::try_from(payload.len()).expect("an entry is bounded far below 4 GiB"));
    let header = codec::encode(&Header {
        group,
        term: request.term,
        prev: request.prev.into(),
        commit: request.commit.into(),
        bytes: lengths.collect(),
    });
    let mut parts = vec![with_length(&header)];
    parts.extend(request.payloads.iter().cloned());
    parts
}

/// # Errors
/// If the request is not one that a leader can make; nothing of it is taken then.
pub(crate) fn decode(leader: NodeId, mut body: Bytes) -> Result<(u64, SteadyRequest), Malformed> {
    let header: Header = split_header(&mut body)?;
    let (prev, commit): (storage::LogId, storage::LogId) =
        (header.prev.into(), header.commit.into());
    let last = prev.index.checked_add(header.bytes.len() as u64);
    if prev.term > header.term || last.is_none_or(|last| last == u64::MAX || commit.index > last) {
        return Err(Malformed::new("the entries do not follow each other"));
    }
    let mut payloads = Vec::with_capacity(header.bytes.len());
    for bytes in header.bytes {
        let bytes = bytes as usize;
        if bytes > body.len() {
            return Err(Malformed::new("an entry is cut off"));
        }
        let payload = own(body.split_to(bytes));
        // A leader's first entry may be blank. Memberships are openraft's.
        if !types::is_plain(&payload) {
            return Err(Malformed::new(
                "an entry that is not for steady replication",
            ));
        }
        payloads.push(payload);
    }
    if !body.is_empty() {
        return Err(Malformed::new("bytes after the last entry"));
    }
    let request = SteadyRequest {
        leader,
        term: header.term,
        prev,
        commit,
        payloads,
    };
    Ok((header.group, request))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn joined(parts: Vec<Bytes>) -> Bytes {
        parts.concat().into()
    }

    fn request(payloads: Vec<Bytes>) -> SteadyRequest {
        let id = |term, index| storage::LogId { term, index };
        SteadyRequest {
            leader: 2,
            term: 5,
            prev: id(4, 10),
            commit: id(4, 9),
            payloads,
        }
    }

    #[test]
    fn a_request_comes_out_as_it_went_in() {
        let sent = request(vec![
            Bytes::from_static(b"\x01one"),
            Bytes::from_static(b"\x01"),
        ]);
        let (group, got) = decode(2, joined(encode(77, &sent))).unwrap();
        assert_eq!(group, 77);
        assert_eq!(
            (got.leader, got.term, got.prev, got.commit),
            (2, 5, sent.prev, sent.commit)
        );
        assert_eq!(got.payloads, sent.payloads);
        let ids: Vec<_> = got.entries().map(|entry| entry.log_id.index).collect();
        assert_eq!(ids, [11, 12]);
    }

    #[test]
    fn what_no_leader_sends_is_refused() {
        let refused = |request: &SteadyRequest| decode(2, joined(encode(1, request))).is_err();
        let sound = request(vec![Bytes::from_static(b"\x01x")]);
        assert!(!refused(&sound));
        assert!(!refused(&request(vec![types::BLANK])));
        for payload in [&b""[..], b"\xff\x01"] {
            assert!(refused(&request(vec![Bytes::copy_from_slice(payload)])));
        }
        let mut ahead = sound.clone();
        ahead.commit.index = 12;
        assert!(refused(&ahead), "committed beyond the log");
        let mut backwards = sound.clone();
        backwards.prev.term = 6;
        assert!(refused(&backwards), "a term that falls");
        let mut endless = sound;
        endless.prev.index = u64::MAX - 1;
        assert!(refused(&endless));
        let mut longer = encode(1, &request(Vec::new()));
        longer.push(Bytes::from_static(b"more"));
        assert!(decode(2, joined(longer)).is_err());
    }

    #[test]
    fn a_ballot_comes_out_as_it_went_in() {
        let mut ballot = Ballot {
            candidate: 3,
            term: 6,
            last: storage::LogId { term: 5, index: 9 },
            commit: storage::LogId { term: 4, index: 8 },
        };
        let body = ballot.encode(77);
        assert_eq!(Ballot::decode(3, &body).unwrap(), (77, ballot));
        assert!(Ballot::decode(3, &body[1..]).is_err());
        ballot.term = 5;
        assert!(
            Ballot::decode(3, &ballot.encode(77)).is_err(),
            "a used term"
        );
        ballot.term = 6;
        ballot.commit.index = 10;
        assert!(
            Ballot::decode(3, &ballot.encode(77)).is_err(),
            "committed beyond the log"
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Ballot::decode(1, &bytes);
            let _ = decode(1, bytes.into());
        }
    }
}
