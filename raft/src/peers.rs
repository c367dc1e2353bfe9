//! The kinds of request that nodes make of each other.

use std::time::Duration;

/// The byte in a frame's header. Numbers are part of the protocol: add, never reuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Append = 1,
    Vote = 2,
    PreVote = 3,
    TransferLeader = 4,
    SnapshotBegin = 5,
    SnapshotChunk = 6,
    SnapshotEnd = 7,
    Submit = 8,
    ReadIndex = 9,
    Read = 10,
    Feed = 11,
    Ephemeral = 12,
    Status = 13,
    /// Asks a voter for the highest term that it knows: for one that has lost its memory, or for a
    /// leader that wants to know whether it still is.
    Inquire = 14,
    /// Whether the sender is short of disk space: a byte, 1 or 0.
    NoRoom = 15,
    /// Asks a follower which of a leader's idle groups it is level in, and when they were used there.
    Level = 16,
    /// Tells it which of them the leader has closed.
    Rest = 17,
    /// Asks how far the replicas of some groups are, without opening those that sleep.
    Standing = 18,
    /// A steady leader's entries, or what is committed.
    Steady = 19,
    /// Tells a leader that the sender lacks entries that should be on their way.
    Rouse = 20,
    /// Asks a follower for its vote, of the leader that it has, after a restart.
    Ballot = 21,
    /// A read of jobs or scheduled messages.
    Agenda = 22,
}

impl Kind {
    pub(crate) fn from_byte(byte: u8) -> Option<Kind> {
        Some(match byte {
            1 => Kind::Append,
            2 => Kind::Vote,
            3 => Kind::PreVote,
            4 => Kind::TransferLeader,
            5 => Kind::SnapshotBegin,
            6 => Kind::SnapshotChunk,
            7 => Kind::SnapshotEnd,
            8 => Kind::Submit,
            9 => Kind::ReadIndex,
            10 => Kind::Read,
            11 => Kind::Feed,
            12 => Kind::Ephemeral,
            13 => Kind::Status,
            14 => Kind::Inquire,
            15 => Kind::NoRoom,
            16 => Kind::Level,
            17 => Kind::Rest,
            18 => Kind::Standing,
            19 => Kind::Steady,
            20 => Kind::Rouse,
            21 => Kind::Ballot,
            22 => Kind::Agenda,
            _ => return None,
        })
    }

    pub(crate) fn byte(self) -> u8 {
        self as u8
    }
}

/// An answer that is one number, such as a log index or a term.
pub(crate) fn number(answer: &[u8]) -> Option<u64> {
    answer.try_into().ok().map(u64::from_le_bytes)
}

/// How long an append request may wait for its answer. A follower answers after its fsync, which a
/// busy disk may take long for; a dead link ends the request sooner by itself.
pub(crate) const APPEND_DEADLINE: Duration = Duration::from_secs(5);

/// How long one chunk of a snapshot may take.
pub(crate) const SNAPSHOT_DEADLINE: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::Kind;

    #[test]
    fn a_kind_is_its_byte_and_back() {
        let known = (0..=255u8).filter_map(Kind::from_byte);
        assert_eq!(
            known.map(Kind::byte).collect::<Vec<_>>(),
            (1..=22).collect::<Vec<_>>()
        );
    }
}
