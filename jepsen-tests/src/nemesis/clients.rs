//! What clients do together.

use std::collections::BTreeMap;
use std::time::Duration;

use super::strike::{Strike, StrikeError, Struck, judged};
use crate::wait::wait_until;

/// How much longer than planned it lasts, where other faults keep channels from sleeping: a group
/// that has no leader does not close, and a node that is down tells nothing.
const LONGER_MAX: Duration = Duration::from_secs(3);

/// Nobody asks for anything, and then everybody at once.
pub async fn lull(strike: &mut Strike<'_>) -> Result<Struck, StrikeError> {
    let before = strike.world.slept().await;
    strike.begin();
    strike.rest();
    strike.last(strike.step.lasts).await;
    // The first one that is closed is among others that are closing.
    let looking = wait_until("a replica to be closed", LONGER_MAX, || async {
        let closed = closed_since(&before, &strike.world.slept().await);
        match closed.is_empty() {
            true => Err("none".to_owned()),
            false => Ok(closed),
        }
    });
    let closed = looking.await.unwrap_or_default();
    strike.work();
    let told = closed
        .iter()
        .map(|(node, count)| format!("node {node} closed {count} replicas"));
    let told: Vec<String> = told.collect();
    Ok(Struck {
        detail: "no requests".to_owned(),
        nodes: strike.ids(),
        bite: judged(!closed.is_empty(), told.join(", ")),
    })
}

/// A node that was started meanwhile counts from zero, and is left out unless it shows.
fn closed_since(before: &BTreeMap<u64, f64>, now: &BTreeMap<u64, f64>) -> BTreeMap<u64, f64> {
    let grown = now.iter().filter_map(|(node, count)| {
        let closed = count - before.get(node)?;
        (closed > 0.0).then_some((*node, closed))
    });
    grown.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_count_that_grew_is_a_sign() {
        let before = BTreeMap::from([(1, 4.0), (2, 4.0), (3, 4.0)]);
        let now = BTreeMap::from([(1, 6.0), (2, 4.0), (3, 1.0), (4, 9.0)]);
        assert_eq!(closed_since(&before, &now), BTreeMap::from([(1, 2.0)]));
    }
}
