//! What a replica without a memory may conclude from what the others tell. Pure.

use crate::transport::NodeId;

/// How often in a row a recovering replica must reach a confirmed read index.
///
/// Once is not enough: the leader may still count an acknowledgement that was given before the loss,
/// and commit with it an entry above the first index. By the time that the first index is applied
/// here, a leader has found out how short this log is, and counts only what is here; so the second
/// index covers all that was ever committed with forgotten help.
pub(crate) const CONFIRMATIONS: usize = 2;

/// The term M up to which everything is promised already, or who has not told its term.
///
/// All other voters must have answered, not only a majority: the only one that knows of a vote that
/// was forgotten may be the candidate that it was given to, and the only one that knows of an
/// acknowledgement the leader.
pub(crate) fn promised_term(
    others: &[NodeId],
    told: impl Fn(NodeId) -> Option<u64>,
) -> Result<u64, Vec<NodeId>> {
    let silent = others.iter().copied().filter(|node| told(*node).is_none());
    let silent: Vec<NodeId> = silent.collect();
    if others.is_empty() || !silent.is_empty() {
        return Err(silent);
    }
    let terms = others.iter().filter_map(|node| told(*node));
    Ok(terms.max().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_term_counts_once_all_have_told() {
        let told = |node| match node {
            1 => Some(4),
            2 => Some(9),
            _ => None,
        };
        assert_eq!(promised_term(&[1, 2], told), Ok(9));
        assert_eq!(promised_term(&[1, 2, 3], told), Err(vec![3]));
        // Nobody else had a copy: what is lost is lost, and must not look recovered.
        assert_eq!(promised_term(&[], told), Err(vec![]));
    }
}
