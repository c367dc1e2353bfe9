//! From a seed to a plan. Pure.
//!
//! Each lane is planned on its own. A lane deals its kinds in a shuffled round, then in another one,
//! until its time is used; so every kind comes before any comes twice. Each fault has a slot: a
//! calm before it, its length, and a calm after it that the undoing may take. Slots of one lane do
//! not overlap, and that is the whole safety argument for disks: all faults of processes and disks
//! share one lane.

use std::time::Duration;

use crate::rng::Rng;

use super::{FaultKind, Lane, Step};

/// The steps that strike within `time`, in the order of their times. Every kind occurs if the time
/// allows; of a time too short for all, the seed chooses which do.
pub fn plan(kinds: &[FaultKind], time: Duration, seed: u64) -> Vec<Step> {
    let mut steps = Vec::new();
    for (lane, salt) in [
        (Lane::Nodes, 1),
        (Lane::Network, 2),
        (Lane::Clocks, 3),
        (Lane::Clients, 4),
    ] {
        let mut dealt: Vec<FaultKind> = kinds
            .iter()
            .copied()
            .filter(|kind| kind.lane() == lane)
            .collect();
        dealt.sort_unstable();
        dealt.dedup();
        let mut rng = Rng::new(seed ^ u64::wrapping_mul(salt, 0x9e37_79b9_7f4a_7c15));
        plan_lane(&dealt, millis(time), &mut rng, &mut steps);
    }
    steps.sort_by_key(|step| (step.at, step.kind));
    steps
}

/// All in milliseconds.
#[derive(Debug, Clone, Copy)]
struct Slot {
    before: u64,
    lasts: u64,
    after: u64,
}

impl Slot {
    fn length(self) -> u64 {
        self.before + self.lasts + self.after
    }
}

/// The shortest slot that the kind makes sense in.
fn shortest(kind: FaultKind) -> Slot {
    let (lasts, after) = bounds(kind).0;
    Slot {
        before: 200,
        lasts,
        after,
    }
}

/// The longest slot that a plan gives to it.
fn longest(kind: FaultKind) -> Slot {
    let (lasts, after) = bounds(kind).1;
    Slot {
        before: 3_000,
        lasts,
        after,
    }
}

/// How long a fault lasts and the calm after it, at least and at most, in milliseconds.
///
/// The calm after a corruption has room for a fresh replica to catch up; the run waits longer where
/// that takes longer.
fn bounds(kind: FaultKind) -> ((u64, u64), (u64, u64)) {
    use FaultKind as F;
    match kind {
        F::Kill | F::KillLeader => ((200, 800), (8_000, 5_000)),
        F::KillMajority | F::KillAll => ((200, 1_500), (5_000, 8_000)),
        F::Pause | F::PauseLeader => ((1_000, 500), (30_000, 4_000)),
        F::PauseMajority => ((1_000, 800), (10_000, 5_000)),
        F::PartitionLeader | F::PartitionOne | F::PartitionRing | F::PartitionBridge => {
            ((2_000, 500), (20_000, 6_000))
        }
        F::PartitionOneWay | F::Loss | F::Delay => ((2_000, 500), (20_000, 6_000)),
        F::PartitionFlapping => ((2_500, 500), (20_000, 6_000)),
        F::ClockJump | F::ClockSkew => ((1_500, 200), (20_000, 4_000)),
        F::PowerLoss => ((300, 1_500), (6_000, 6_000)),
        F::PowerLossMajority | F::PowerLossAll => ((300, 2_500), (4_000, 8_000)),
        F::Nats => ((3_000, 2_000), (12_000, 6_000)),
        F::CorruptWal | F::CorruptSst | F::CorruptManifest | F::CutWal => {
            ((2_000, 4_000), (6_000, 20_000))
        }
        F::DiskFull => ((3_000, 1_500), (15_000, 6_000)),
        F::SlowDisk => ((1_500, 500), (15_000, 4_000)),
        F::FsyncError => ((2_000, 1_500), (5_000, 6_000)),
        // The calm after it has room for waiting until something sleeps.
        F::Lull => ((500, 4_000), (3_000, 6_000)),
    }
}

fn plan_lane(kinds: &[FaultKind], time: u64, rng: &mut Rng, steps: &mut Vec<Step>) {
    let mut now = 0;
    let mut first_round = true;
    while !kinds.is_empty() {
        let mut round = shuffled(kinds, rng);
        // What the kinds still to come in the first round need at least.
        let mut reserved: u64 = if first_round {
            round.iter().map(|kind| shortest(*kind).length()).sum()
        } else {
            0
        };
        let mut any = false;
        while let Some(kind) = round.pop() {
            let least = shortest(kind);
            let left = time.saturating_sub(now);
            if left < least.length() {
                reserved = reserved.saturating_sub(least.length());
                continue;
            }
            let after_it = reserved.saturating_sub(least.length());
            let spare = left - least.length();
            // Spread what is to spare over the rest of the round, and take no more than half a
            // round's share at once from later rounds.
            let share = if first_round {
                spare.saturating_sub(after_it) / (round.len() as u64 + 1)
            } else {
                spare
            };
            let slot = drawn(kind, share, rng);
            steps.push(Step {
                at: Duration::from_millis(now + slot.before),
                lasts: Duration::from_millis(slot.lasts),
                kind,
                seed: rng.next_u64(),
            });
            now += slot.length();
            reserved = after_it;
            any = true;
        }
        if !any {
            return;
        }
        first_round = false;
    }
}

/// A slot at least as long as the shortest, and longer by at most `spare`.
fn drawn(kind: FaultKind, spare: u64, rng: &mut Rng) -> Slot {
    let (least, most) = (shortest(kind), longest(kind));
    let mut spare = spare;
    let mut between = |least: u64, most: u64| {
        // The lesser of two draws: more short faults, and so more faults, than long ones.
        let bound = most.saturating_sub(least).min(spare) + 1;
        let extra = rng.below(bound).min(rng.below(bound));
        spare -= extra;
        least + extra
    };
    let lasts = between(least.lasts, most.lasts);
    let after = between(least.after, most.after);
    let before = between(least.before, most.before);
    Slot {
        before,
        lasts,
        after,
    }
}

fn shuffled(kinds: &[FaultKind], rng: &mut Rng) -> Vec<FaultKind> {
    let mut left = kinds.to_vec();
    let mut dealt = Vec::with_capacity(left.len());
    while !left.is_empty() {
        let at = usize::try_from(rng.below(left.len() as u64)).expect("below a length");
        dealt.push(left.swap_remove(at));
    }
    dealt
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    fn needed_ms(kinds: &[FaultKind], lane: Lane) -> u64 {
        let mut kinds: Vec<_> = kinds.iter().filter(|kind| kind.lane() == lane).collect();
        kinds.sort();
        kinds.dedup();
        kinds.iter().map(|kind| shortest(**kind).length()).sum()
    }

    proptest! {
        #[test]
        fn a_plan_keeps_its_promises(
            kinds in vec(select(FaultKind::ALL.to_vec()), 0..40),
            time_ms in 0u64..900_000,
            seed: u64,
        ) {
            let time = Duration::from_millis(time_ms);
            let steps = plan(&kinds, time, seed);
            prop_assert_eq!(&steps, &plan(&kinds, time, seed));
            prop_assert!(steps.is_sorted_by_key(|step| step.at));
            for step in &steps {
                prop_assert!(kinds.contains(&step.kind));
                prop_assert!(step.at + step.lasts <= time, "{step:?}");
                let (least, most) = (shortest(step.kind).lasts, longest(step.kind).lasts);
                prop_assert!((least..=most).contains(&millis(step.lasts)), "{step:?}");
            }
            for lane in [Lane::Nodes, Lane::Network, Lane::Clocks, Lane::Clients] {
                let own: Vec<_> = steps.iter().filter(|step| step.kind.lane() == lane).collect();
                for pair in own.windows(2) {
                    let calm = shortest(pair[0].kind).after + shortest(pair[1].kind).before;
                    let free = pair[1].at.saturating_sub(pair[0].at + pair[0].lasts);
                    prop_assert!(millis(free) >= calm, "{:?} then {:?}", pair[0], pair[1]);
                }
                if needed_ms(&kinds, lane) <= time_ms {
                    for kind in kinds.iter().filter(|kind| kind.lane() == lane) {
                        prop_assert!(own.iter().any(|step| step.kind == *kind), "no {kind}");
                    }
                }
            }
            // Whatever a fault does to a disk, no other fault of a disk or process is on meanwhile.
            let disks: Vec<_> = steps.iter().filter(|step| step.kind.lane() == Lane::Nodes).collect();
            for pair in disks.windows(2) {
                prop_assert!(pair[0].at + pair[0].lasts <= pair[1].at);
            }
        }
    }

    #[test]
    fn a_long_plan_deals_every_kind_again_and_again() {
        let steps = plan(&FaultKind::ALL, Duration::from_secs(3600), 1);
        for kind in FaultKind::ALL {
            let times = steps.iter().filter(|step| step.kind == kind).count();
            assert!(times >= 4, "{kind} comes {times} times in an hour");
        }
    }

    #[test]
    fn other_seeds_give_other_plans() {
        let time = Duration::from_secs(60);
        let one = plan(&FaultKind::ALL, time, 1);
        assert_ne!(one, plan(&FaultKind::ALL, time, 2));
    }
}
