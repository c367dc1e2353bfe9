//! Which nodes hold a new channel, and which of them should lead it.
//!
//! Fewest channels first, ties by node number: over equal nodes this is a
//! rotation through all of them, `replication` at a time, and among those that
//! come up together the one that leads least takes the lead. Breaking ties in
//! a more varied way was simulated and makes leaders uneven.
//!
//! Invariants, for nodes that are alike (no zones, or zones of equal size): how
//! many channels two nodes hold, and how many they prefer to lead, differs by
//! at most one after any number of creations. No zone gets a second replica
//! before every zone has one. The answer depends on nothing but the arguments.

use std::collections::BTreeMap;

use super::Node;

/// Chooses `replication` of the nodes, or all if there are fewer, the preferred
/// leader first and the others in order of number. Nodes without a zone count
/// as a zone each.
pub(super) fn choose(nodes: &[Node], replication: u32) -> Vec<u64> {
    let mut left: Vec<&Node> = nodes.iter().collect();
    left.sort_unstable_by_key(|node| (node.channels, node.id));
    let mut used: BTreeMap<&str, u32> = BTreeMap::new();
    let mut chosen: Vec<&Node> = Vec::new();
    while chosen.len() < replication as usize {
        let crowd = |node: &Node| {
            let zone = node.zone.as_deref();
            zone.and_then(|zone| used.get(zone)).copied().unwrap_or(0)
        };
        // Of several that are equally good, the first is taken.
        let Some(best) = (0..left.len()).min_by_key(|place| crowd(left[*place])) else {
            break;
        };
        let node = left.remove(best);
        if let Some(zone) = &node.zone {
            *used.entry(zone).or_default() += 1;
        }
        chosen.push(node);
    }
    chosen.sort_unstable_by_key(|node| node.id);
    let lead = |place: &usize| (chosen[*place].preferred, chosen[*place].channels);
    if let Some(leader) = (0..chosen.len()).min_by_key(lead) {
        chosen[..=leader].rotate_right(1);
    }
    chosen.into_iter().map(|node| node.id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nodes(zones: &[Option<&str>]) -> Vec<Node> {
        let node = |(id, zone): (usize, &Option<&str>)| Node {
            id: id as u64 + 1,
            zone: zone.map(str::to_owned),
            channels: 0,
            preferred: 0,
        };
        zones.iter().enumerate().map(node).collect()
    }

    /// Places one channel, as the machine does.
    fn place(nodes: &mut [Node], replication: u32) -> Vec<u64> {
        let chosen = choose(nodes, replication);
        for node in nodes.iter_mut().filter(|node| chosen.contains(&node.id)) {
            node.channels += 1;
            node.preferred += u64::from(chosen[0] == node.id);
        }
        chosen
    }

    fn spread(counts: impl Iterator<Item = u64> + Clone) -> u64 {
        counts.clone().max().unwrap() - counts.min().unwrap()
    }

    fn check_even(nodes: &[Node], what: &str) {
        assert!(
            spread(nodes.iter().map(|n| n.channels)) <= 1,
            "channels {what} {nodes:?}"
        );
        assert!(
            spread(nodes.iter().map(|n| n.preferred)) <= 1,
            "leaders {what} {nodes:?}"
        );
    }

    #[test]
    fn equal_nodes_get_equal_shares_at_every_moment() {
        for count in 1..=9 {
            for replication in 1..=count as u32 {
                let mut nodes = nodes(&vec![None; count]);
                for channel in 1..=80 {
                    let chosen = place(&mut nodes, replication);
                    assert_eq!(chosen.len(), replication as usize);
                    check_even(&nodes, &format!("{replication} of {count}, {channel}"));
                }
            }
        }
    }

    #[test]
    fn zones_of_equal_size_get_equal_shares() {
        for zone_count in 2..=4 {
            for size in 1..=3 {
                for replication in 1..=(zone_count * size) as u32 {
                    let zones: Vec<_> = (0..zone_count * size)
                        .map(|place| Some(["a", "b", "c", "d"][place % zone_count]))
                        .collect();
                    let mut nodes = nodes(&zones);
                    for _ in 0..60 {
                        let chosen = place(&mut nodes, replication);
                        assert_eq!(chosen.len(), replication as usize);
                        check_even(
                            &nodes,
                            &format!("{replication}, {zone_count} zones of {size}"),
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn neighbours_change() {
        let mut nodes = nodes(&[None; 5]);
        let mut sets = std::collections::BTreeSet::new();
        for _ in 0..100 {
            let mut set = place(&mut nodes, 3);
            set.sort_unstable();
            sets.insert(set);
        }
        assert_eq!(sets.len(), 5, "{sets:?}");
    }

    #[test]
    fn fewer_nodes_than_replicas() {
        assert_eq!(choose(&[], 3), Vec::<u64>::new());
        assert_eq!(choose(&nodes(&[None]), 3), [1]);
        let mut two = choose(&nodes(&[None; 2]), 3);
        two.sort_unstable();
        assert_eq!(two, [1, 2]);
    }

    #[test]
    fn a_new_node_is_filled_first() {
        let mut nodes = nodes(&[None; 4]);
        for node in &mut nodes[..3] {
            node.channels = 10;
        }
        for _ in 0..5 {
            assert!(place(&mut nodes, 3).contains(&4));
        }
    }

    proptest! {
        #[test]
        fn chosen_are_distinct_and_spread_over_zones(
            given in proptest::collection::vec((proptest::option::of(0..4_usize), 0..5_u64, 0..5_u64), 0..10),
            replication in 0..8_u32,
        ) {
            let nodes: Vec<Node> = given
                .iter()
                .enumerate()
                .map(|(id, (zone, channels, preferred))| Node {
                    id: id as u64,
                    zone: zone.map(|zone| zone.to_string()),
                    channels: *channels,
                    preferred: *preferred,
                })
                .collect();
            let chosen = choose(&nodes, replication);
            prop_assert_eq!(&chosen, &choose(&nodes, replication));
            prop_assert_eq!(chosen.len(), nodes.len().min(replication as usize));
            let mut sorted = chosen.clone();
            sorted.sort_unstable();
            sorted.dedup();
            prop_assert_eq!(sorted.len(), chosen.len());
            // A zone is used twice only if no other zone was left unused.
            let zone = |id: &u64| nodes[*id as usize].zone.clone().unwrap_or(format!("node {id}"));
            let count = |name: &String| chosen.iter().filter(|id| zone(id) == *name).count();
            for name in chosen.iter().map(zone) {
                for other in nodes.iter().filter(|node| !chosen.contains(&node.id)) {
                    prop_assert!(count(&name) <= count(&zone(&other.id)) + 1);
                }
            }
        }
    }
}
