//! Partitions, loss and delay: which links a fault breaks, and the counters that prove it.

use std::time::Duration;

use crate::wait::moment;
use crate::world::rules::{Counts, Link, Rule};

use super::FaultKind;
use super::strike::{Strike, StrikeError, Struck, judged, listed};

/// With fewer nodes there is no ring in which each reaches a majority and no two the same.
const RING_NODES_MIN: usize = 5;
/// A flapping link is cut and whole again this long, at least and at most.
const FLAP_MS: (u64, u64) = (100, 1_200);
const LOSS_PERCENT: (u64, u64) = (5, 30);
const DELAY_MS: (u64, u64) = (20, 200);

/// Which links are cut, and what a reader wants to know of it.
#[derive(Debug, PartialEq, Eq)]
struct Shape {
    links: Vec<Link>,
    nodes: Vec<u64>,
    detail: String,
}

/// Cuts links for the whole length of the step.
pub async fn partition(strike: &mut Strike<'_>) -> Result<Struck, StrikeError> {
    let shape = shape_of(strike).await?;
    // A proxy can also end connections, which is another way for a link to be gone.
    let reset = strike.rng.below(3) == 0;
    let rule = Rule { reset, ..Rule::CUT };
    let before = counts(strike, &shape.links);
    strike.begin();
    strike.break_links(on(&shape.links, rule));
    strike.last(strike.step.lasts).await;
    strike.mend_links();
    let cut = counts(strike, &shape.links).cut - before.cut;
    Ok(Struck {
        detail: shape.detail,
        nodes: shape.nodes,
        bite: judged(
            cut > 0,
            format!("{cut} frames or chunks were cut on {}", shown(&shape.links)),
        ),
    })
}

/// Cuts and mends the links of one node again and again.
pub async fn flap(strike: &mut Strike<'_>) -> Result<Struck, StrikeError> {
    let node = strike.shuffled()[0];
    let shape = isolation(&strike.ids(), node);
    let before = counts(strike, &shape.links);
    strike.begin();
    let mut left = strike.step.lasts;
    let mut cuts = 0;
    while !left.is_zero() {
        strike.break_links(on(&shape.links, Rule::CUT));
        cuts += 1;
        for mend in [true, false] {
            let drawn = Duration::from_millis(within(strike, FLAP_MS)).min(left);
            moment(drawn).await;
            left -= drawn;
            if mend {
                strike.mend_links();
            }
        }
    }
    let cut = counts(strike, &shape.links).cut - before.cut;
    Ok(Struck {
        detail: format!("node {node} was cut off {cuts} times"),
        nodes: vec![node],
        bite: judged(cut > 0, format!("{cut} frames or chunks were cut")),
    })
}

/// Loses or delays what travels between all nodes.
pub async fn worsen(strike: &mut Strike<'_>) -> Result<Struck, StrikeError> {
    let links = strike.world.rules().links();
    let (rule, detail) = if strike.step.kind == FaultKind::Loss {
        let loss = within(strike, LOSS_PERCENT);
        let rule = Rule {
            loss_percent: u8::try_from(loss).expect("a percentage"),
            ..Rule::default()
        };
        (rule, format!("{loss} % loss between all nodes"))
    } else {
        let delay = within(strike, DELAY_MS);
        let jitter = strike.rng.below(delay + 1);
        let rule = Rule {
            delay: Duration::from_millis(delay),
            jitter: Duration::from_millis(jitter),
            ..Rule::default()
        };
        let detail = format!(
            "{delay} to {} ms of delay between all nodes",
            delay + jitter
        );
        (rule, detail)
    };
    let before = counts(strike, &links);
    strike.begin();
    strike.break_links(on(&links, rule));
    strike.last(strike.step.lasts).await;
    strike.mend_links();
    let after = counts(strike, &links);
    let (lost, late) = (after.lost - before.lost, after.late - before.late);
    let hit = if strike.step.kind == FaultKind::Loss {
        lost
    } else {
        late
    };
    Ok(Struck {
        detail,
        nodes: strike.ids(),
        bite: judged(
            hit > 0,
            format!("{lost} frames or chunks were lost, {late} were late"),
        ),
    })
}

async fn shape_of(strike: &mut Strike<'_>) -> Result<Shape, StrikeError> {
    let nodes = strike.shuffled();
    Ok(match strike.step.kind {
        FaultKind::PartitionLeader => {
            let leader = strike.leader().await?;
            isolation(&nodes, leader)
        }
        FaultKind::PartitionRing if nodes.len() >= RING_NODES_MIN => ring(&nodes),
        FaultKind::PartitionRing | FaultKind::PartitionBridge => bridge(&nodes),
        FaultKind::PartitionOneWay => one_way(&nodes, nodes[0], strike.rng.below(2) == 0),
        _ => isolation(&nodes, nodes[0]),
    })
}

/// Nobody hears this node or is heard by it.
fn isolation(nodes: &[u64], alone: u64) -> Shape {
    let links = nodes
        .iter()
        .filter(|node| **node != alone)
        .flat_map(|node| [(alone, *node), (*node, alone)])
        .collect();
    Shape {
        links,
        nodes: vec![alone],
        detail: format!("node {alone} alone"),
    }
}

fn one_way(nodes: &[u64], node: u64, deaf: bool) -> Shape {
    let links = nodes
        .iter()
        .filter(|other| **other != node)
        .map(|other| if deaf { (*other, node) } else { (node, *other) })
        .collect();
    let how = if deaf {
        "does not hear"
    } else {
        "is not heard"
    };
    Shape {
        links,
        nodes: vec![node],
        detail: format!("node {node} {how}"),
    }
}

/// The first half and the second half do not reach each other; whoever is between reaches both.
/// With an even number of nodes the second half is the larger one.
fn bridge(nodes: &[u64]) -> Shape {
    let half = (nodes.len().saturating_sub(1)) / 2;
    let (one, rest) = nodes.split_at(half);
    let (middle, other) = rest.split_at(rest.len().min(1));
    let links = one
        .iter()
        .flat_map(|a| other.iter().flat_map(|b| [(*a, *b), (*b, *a)]))
        .collect();
    Shape {
        links,
        nodes: nodes.to_vec(),
        detail: format!(
            "{} and {} reach each other only through {}",
            listed(one),
            listed(other),
            listed(middle)
        ),
    }
}

/// In a circle, each node reaches its nearest neighbours: as many as make a majority with it.
fn ring(nodes: &[u64]) -> Shape {
    let count = nodes.len();
    let reach = (count / 2).div_ceil(2);
    let mut links = Vec::new();
    for (at, from) in nodes.iter().enumerate() {
        for (other, to) in nodes.iter().enumerate() {
            let apart = at.abs_diff(other);
            if apart.min(count - apart) > reach {
                links.push((*from, *to));
            }
        }
    }
    Shape {
        links,
        nodes: nodes.to_vec(),
        detail: format!(
            "a ring of {}, each with {reach} on either side",
            listed(nodes)
        ),
    }
}

fn on(links: &[Link], rule: Rule) -> Vec<(Link, Rule)> {
    links.iter().map(|link| (*link, rule)).collect()
}

fn counts(strike: &Strike<'_>, links: &[Link]) -> Counts {
    strike.world.rules().counts(links)
}

fn within(strike: &mut Strike<'_>, (least, most): (u64, u64)) -> u64 {
    least + strike.rng.below(most - least + 1)
}

fn shown(links: &[Link]) -> String {
    let texts: Vec<String> = links
        .iter()
        .map(|(from, to)| format!("{from}>{to}"))
        .collect();
    texts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Whom each node reaches in both directions, itself included.
    fn reached(nodes: &[u64], shape: &Shape) -> Vec<BTreeSet<u64>> {
        let cut = |link: Link| shape.links.contains(&link);
        nodes
            .iter()
            .map(|a| {
                let reach = |b: &&u64| !cut((*a, **b)) && !cut((**b, *a));
                nodes.iter().filter(reach).copied().collect()
            })
            .collect()
    }

    #[test]
    fn an_isolated_node_reaches_only_itself() {
        let nodes = [1, 2, 3];
        let sets = reached(&nodes, &isolation(&nodes, 2));
        assert_eq!(sets[1], BTreeSet::from([2]));
        assert_eq!(sets[0], BTreeSet::from([1, 3]));
    }

    #[test]
    fn in_a_ring_everybody_reaches_another_majority() {
        for count in [5, 6, 7, 9] {
            let nodes: Vec<u64> = (1..=count).collect();
            let sets = reached(&nodes, &ring(&nodes));
            let majority = nodes.len() / 2 + 1;
            assert!(sets.iter().all(|set| set.len() >= majority), "{sets:?}");
            assert!(sets.iter().all(|set| set.len() < nodes.len()), "{sets:?}");
            let distinct: BTreeSet<_> = sets.iter().collect();
            assert_eq!(distinct.len(), nodes.len());
        }
    }

    #[test]
    fn over_a_bridge_the_halves_meet_in_one_node() {
        for count in 3..=7 {
            let nodes: Vec<u64> = (1..=count).collect();
            let sets = reached(&nodes, &bridge(&nodes));
            let complete = sets.iter().filter(|set| set.len() == nodes.len()).count();
            assert_eq!(complete, 1, "{sets:?}");
        }
    }

    #[test]
    fn one_way_cuts_one_direction() {
        let shape = one_way(&[1, 2, 3], 1, true);
        assert_eq!(shape.links, [(2, 1), (3, 1)]);
        assert_eq!(one_way(&[1, 2, 3], 1, false).links, [(1, 2), (1, 3)]);
    }
}
