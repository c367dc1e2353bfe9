//! P6: every read, linearizable or stale, is the contiguous stretch of F that it asked for.
//!
//! With the head that it names, a read's range says exactly which messages of F it owes: all of
//! them, in order, and nothing else. O(messages read).

use super::facts::{Facts, Read};
use super::report::{Anomaly, Property, Report};
use crate::history::{Range, Seen};

pub fn check(facts: &Facts<'_>, report: &mut Report) {
    for (channel, _, log) in facts.with_log() {
        for read in &channel.reads {
            if let Some(what) = wrong(read, log) {
                report.add(
                    Anomaly::new(Property::P6, what)
                        .channel(channel.ix)
                        .at(read.operation.invoked, read.returned)
                        .operations([read.operation.id]),
                );
            }
        }
    }
}

fn wrong(read: &Read<'_>, log: &[Seen]) -> Option<String> {
    let node = read.operation.node;
    if read.head > log.len() as u64 {
        return Some(format!(
            "a read on node {node} says that the head is {}, and F ends at {}",
            read.head,
            log.len()
        ));
    }
    let (from, to) = owed(read.range, read.head);
    let owed = &log[from as usize..to as usize];
    if read.messages == owed {
        return None;
    }
    let pairs = read.messages.iter().zip(owed);
    let fits = pairs.take_while(|(seen, owed)| seen == owed).count();
    let show = |seen: Option<&Seen>| {
        seen.map_or("nothing".to_owned(), |seen| {
            format!("{:?} at seq {}", seen.body, seen.seq)
        })
    };
    Some(format!(
        "a read ({:?}) on node {node} with head {} shows {} messages where F has {}; after {fits} \
         of them it shows {}, and F has {}",
        read.range,
        read.head,
        read.messages.len(),
        owed.len(),
        show(read.messages.get(fits)),
        show(owed.get(fits)),
    ))
}

/// The places in F of what a read owes, from the first to before the last; both at most `head`.
fn owed(range: Range, head: u64) -> (u64, u64) {
    match range {
        Range::Latest { limit } => (head.saturating_sub(limit.into()), head),
        Range::After { seq, limit } => {
            let from = seq.min(head);
            (from, from.saturating_add(limit.into()).min(head))
        }
        Range::Before { seq, limit } => {
            let to = seq.saturating_sub(1).min(head);
            (to.saturating_sub(limit.into()), to)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_cut_at_both_ends() {
        let latest = |limit, head| owed(Range::Latest { limit }, head);
        let after = |seq, head| owed(Range::After { seq, limit: 3 }, head);
        let before = |seq, head| owed(Range::Before { seq, limit: 3 }, head);
        assert_eq!(
            (latest(3, 10), latest(3, 2), latest(3, 0)),
            ((7, 10), (0, 2), (0, 0))
        );
        assert_eq!(
            (after(0, 10), after(8, 10), after(12, 10)),
            ((0, 3), (8, 10), (10, 10))
        );
        assert_eq!(
            (before(6, 10), before(2, 10), before(0, 10)),
            ((2, 5), (0, 1), (0, 0))
        );
        assert_eq!(before(u64::MAX, 10), (7, 10));
        assert_eq!(after(u64::MAX, 10), (10, 10));
    }
}
