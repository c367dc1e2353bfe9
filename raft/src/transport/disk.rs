//! Which disk a node comes with, and whether it may. Pure.

use bincode::{Decode, Encode};

use super::NodeId;

const IDENTITY_BYTES: usize = 16;

/// What tells one storage of a node from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Disk {
    /// Random, made when the storage was created.
    pub identity: [u8; IDENTITY_BYTES],
    /// 0 for a node's first storage. An operator who replaces a lost one gives a higher number, which
    /// is what tells that from a disk that was emptied by mistake.
    pub incarnation: u64,
}

/// A disk that is welcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admitted {
    /// The one that is known.
    Known,
    /// The first one, or one that replaces it: to be remembered before anything else is said.
    New,
}

impl Disk {
    /// Judges the disk that `node` comes with by the one it is known with.
    ///
    /// # Errors
    /// A sentence for the operators of both nodes.
    pub fn judged(self, node: NodeId, known: Option<Disk>) -> Result<Admitted, String> {
        match known {
            None => Ok(Admitted::New),
            Some(known) if known == self => Ok(Admitted::Known),
            Some(known) if known.incarnation < self.incarnation => Ok(Admitted::New),
            Some(known) if known.incarnation > self.incarnation => Err(format!(
                "node {node} has rejoined with another disk since this one was made: its data \
                 directory is an old copy or was emptied once more, or the clock stood wrong when \
                 `accord rejoin` was run. Put the newer directory back, or stop the node, run `accord \
                 rejoin --config FILE --node {node}`, and start it again"
            )),
            Some(_) => Err(format!(
                "node {node}'s disk is not the one this cluster knows: its data directory was emptied \
                 or replaced by another. If its data is lost, stop it and run `accord rejoin --config \
                 FILE --node {node}`, then start it again"
            )),
        }
    }

    /// For the disk: the identity, then the incarnation, little-endian.
    pub fn encode(self) -> Vec<u8> {
        [&self.identity[..], &self.incarnation.to_le_bytes()].concat()
    }

    /// # Errors
    /// If the bytes are none; before there were incarnations they were an identity alone.
    pub fn decode(bytes: &[u8]) -> Result<Disk, String> {
        let invalid = || "what is remembered of the node's disk cannot be read".to_owned();
        let (identity, rest) = bytes
            .split_first_chunk::<IDENTITY_BYTES>()
            .ok_or_else(invalid)?;
        let incarnation = match rest {
            [] => 0,
            rest => u64::from_le_bytes(rest.try_into().map_err(|_| invalid())?),
        };
        Ok(Disk {
            identity: *identity,
            incarnation,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn disk(identity: u8, incarnation: u64) -> Disk {
        Disk {
            identity: [identity; 16],
            incarnation,
        }
    }

    #[test]
    fn only_a_higher_incarnation_replaces_a_known_disk() {
        let judged = |new: Disk, known| new.judged(3, known);
        assert_eq!(judged(disk(1, 0), None), Ok(Admitted::New));
        assert_eq!(judged(disk(1, 0), Some(disk(1, 0))), Ok(Admitted::Known));
        assert_eq!(judged(disk(2, 5), Some(disk(1, 0))), Ok(Admitted::New));
        assert_eq!(judged(disk(2, 5), Some(disk(2, 5))), Ok(Admitted::Known));
        assert_eq!(judged(disk(3, 6), Some(disk(2, 5))), Ok(Admitted::New));
        for (new, known, text) in [
            (disk(2, 0), disk(1, 0), "was emptied or replaced"),
            (disk(2, 5), disk(3, 5), "was emptied or replaced"),
            (disk(1, 0), disk(2, 5), "old copy"),
            (disk(2, 5), disk(3, 6), "old copy"),
        ] {
            let refused = judged(new, Some(known)).unwrap_err();
            assert!(refused.contains(text), "{refused}");
            assert!(
                refused.contains("rejoin --config FILE --node 3"),
                "{refused}"
            );
        }
    }

    #[test]
    fn a_fact_of_before_there_were_incarnations_is_read() {
        assert_eq!(Disk::decode(&[4; 16]), Ok(disk(4, 0)));
        assert!(Disk::decode(&[4; 15]).is_err() && Disk::decode(&[4; 20]).is_err());
    }

    proptest! {
        #[test]
        fn a_disk_comes_back_as_it_went(identity: [u8; 16], incarnation: u64) {
            let disk = Disk { identity, incarnation };
            prop_assert_eq!(Disk::decode(&disk.encode()), Ok(disk));
        }
    }
}
