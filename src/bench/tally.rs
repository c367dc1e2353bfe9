//! What one thread counted; at the end that of all threads together.

use super::checks::Faults;
use super::histogram::Histogram;
use super::plan::Plan;

/// Of one crew, within the measured time.
#[derive(Clone, Debug, Default)]
pub struct CrewTally {
    pub acks: u64,
    pub deliveries: u64,
    pub ack: Histogram,
    /// From a sender on the receiver's node, and from one elsewhere.
    pub same_node: Histogram,
    pub other_node: Histogram,
}

#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub crews: Vec<CrewTally>,
    pub faults: Faults,
}

impl Tally {
    pub fn new(crews: usize) -> Tally {
        Tally {
            crews: vec![CrewTally::default(); crews],
            faults: Faults::default(),
        }
    }

    pub fn acked(&mut self, crew: usize, plan: &Plan, due_ns: u64, now_ns: u64) {
        let tally = &mut self.crews[crew];
        tally.acks += u64::from(plan.is_measured(now_ns));
        if plan.is_measured(due_ns) {
            tally.ack.record(now_ns.saturating_sub(due_ns));
        }
        plan.note_ack(due_ns, now_ns);
    }

    pub fn delivered(
        &mut self,
        crew: usize,
        plan: &Plan,
        same_node: bool,
        due_ns: u64,
        now_ns: u64,
    ) {
        let tally = &mut self.crews[crew];
        tally.deliveries += u64::from(plan.is_measured(now_ns));
        if plan.is_measured(due_ns) {
            let latencies = match same_node {
                true => &mut tally.same_node,
                false => &mut tally.other_node,
            };
            latencies.record(now_ns.saturating_sub(due_ns));
        }
    }

    pub fn add(&mut self, other: &Tally) {
        for (mine, others) in self.crews.iter_mut().zip(&other.crews) {
            mine.acks += others.acks;
            mine.deliveries += others.deliveries;
            mine.ack.add(&others.ack);
            mine.same_node.add(&others.same_node);
            mine.other_node.add(&others.other_node);
        }
        self.faults += other.faults;
    }
}
