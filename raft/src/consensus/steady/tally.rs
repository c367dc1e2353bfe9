//! How far the voters are, and what that commits. Pure: no I/O, no clock.

use crate::transport::NodeId;

/// What each voter is known to have on its disk, in one term. Invariants: the committed index never
/// goes back, and a majority of the voters has everything up to it. The voters are those of one
/// configuration: a joint one, in which two majorities decide, is openraft's to see through.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    /// Every voter, this node included, with the index of the last entry that it holds.
    durable: Vec<(NodeId, u64)>,
    committed: u64,
}

impl Tally {
    /// All voters are counted as holding what is committed already: a majority does, and entries of
    /// this term are only counted once a voter has said so.
    pub(super) fn new(voters: &[NodeId], committed: u64) -> Self {
        Tally {
            durable: voters.iter().map(|node| (*node, committed)).collect(),
            committed,
        }
    }

    pub(super) fn committed(&self) -> u64 {
        self.committed
    }

    /// `node` holds all entries up to `index`, which is one of this term. Answers from nodes that do
    /// not vote count for nothing.
    pub(super) fn holds(&mut self, node: NodeId, index: u64) {
        let Some((_, durable)) = self.durable.iter_mut().find(|(voter, _)| *voter == node) else {
            return;
        };
        *durable = index.max(*durable);
        let mut sorted: Vec<u64> = self.durable.iter().map(|(_, durable)| *durable).collect();
        sorted.sort_unstable_by(|a, b| b.cmp(a));
        // With three voters the second highest: two hold it.
        if let Some(majority) = sorted.get(sorted.len() / 2) {
            self.committed = self.committed.max(*majority);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_majority_commits_and_a_stranger_does_not() {
        let mut tally = Tally::new(&[1, 2, 3], 7);
        tally.holds(1, 9);
        tally.holds(9, 9);
        assert_eq!(tally.committed(), 7, "one of three");
        tally.holds(3, 8);
        assert_eq!(tally.committed(), 8);
        tally.holds(2, 12);
        assert_eq!(tally.committed(), 9);
        let mut alone = Tally::new(&[4], 0);
        alone.holds(4, 5);
        assert_eq!(alone.committed(), 5);
    }

    proptest! {
        #[test]
        fn what_is_committed_is_on_a_majority_and_never_goes_back(
            voters in 1..6_u64,
            start in 0..10_u64,
            events in proptest::collection::vec((0..7_u64, 0..30_u64), 0..60),
        ) {
            let nodes: Vec<u64> = (0..voters).collect();
            let mut tally = Tally::new(&nodes, start);
            let mut held = vec![start; nodes.len()];
            let mut before = start;
            for (node, index) in events {
                tally.holds(node, index);
                if let Some(held) = usize::try_from(node).ok().and_then(|node| held.get_mut(node)) {
                    *held = index.max(*held);
                }
                prop_assert!(tally.committed() >= before);
                before = tally.committed();
                let holding = |wanted: u64| held.iter().filter(|held| **held >= wanted).count();
                prop_assert!(holding(before) > nodes.len() / 2);
                prop_assert!(holding(before + 1) <= nodes.len() / 2, "committed as soon as it can be");
            }
        }
    }
}
