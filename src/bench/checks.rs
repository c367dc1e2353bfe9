//! What a socket that receives must have seen at the end: every message once, each sender's in the
//! order of its numbers, and all messages in one order, the same at every receiver.

use std::collections::HashSet;
use std::ops::AddAssign;

use serde::Serialize;

/// Numbers that a receiver remembers as missing; more are lost for good, and counted.
const MISSING_MAX: usize = 100_000;

/// All zero in a sound run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Faults {
    /// Sent, and neither acknowledged nor refused.
    pub unacked: u64,
    /// Refused by an error frame.
    pub refused: u64,
    /// Connections that ended by themselves.
    pub lost_connections: u64,
    /// Not understood, out of place, or an acknowledgement out of turn.
    pub odd_frames: u64,
    /// Messages on sockets that only publish.
    pub unasked: u64,
    pub duplicates: u64,
    /// Acknowledged, and not received.
    pub gaps: u64,
    pub out_of_order: u64,
    /// Receivers that saw another order than the first one of their channel.
    pub order_mismatches: u64,
}

impl Faults {
    pub fn total(&self) -> u64 {
        let Faults {
            unacked,
            refused,
            lost_connections,
            odd_frames,
            unasked,
            duplicates,
            gaps,
            out_of_order,
            order_mismatches,
        } = self;
        unacked
            + refused
            + lost_connections
            + odd_frames
            + unasked
            + duplicates
            + gaps
            + out_of_order
            + order_mismatches
    }
}

impl AddAssign for Faults {
    fn add_assign(&mut self, other: Faults) {
        self.unacked += other.unacked;
        self.refused += other.refused;
        self.lost_connections += other.lost_connections;
        self.odd_frames += other.odd_frames;
        self.unasked += other.unasked;
        self.duplicates += other.duplicates;
        self.gaps += other.gaps;
        self.out_of_order += other.out_of_order;
        self.order_mismatches += other.order_mismatches;
    }
}

/// Where a message stands among those of its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    Next,
    /// A later one came before it.
    Late,
    Repeated,
}

/// What one receiver has seen of its channel.
#[derive(Debug)]
pub struct Seen {
    /// Of each sender, the number after its highest.
    next: Vec<u32>,
    missing: HashSet<(u16, u32)>,
    lost: u64,
    received: u64,
    order: u64,
}

impl Seen {
    pub fn new(senders: usize) -> Seen {
        Seen {
            next: vec![0; senders],
            missing: HashSet::new(),
            lost: 0,
            received: 0,
            order: 0,
        }
    }

    /// Takes what was received; nothing for a sender that there is not.
    pub fn take(&mut self, sender: u16, number: u32) -> Option<Turn> {
        let next = self.next.get_mut(usize::from(sender))?;
        let turn = if number >= *next {
            for skipped in *next..number {
                if self.missing.len() == MISSING_MAX {
                    self.lost += u64::from(number - skipped);
                    break;
                }
                self.missing.insert((sender, skipped));
            }
            *next = number.saturating_add(1);
            Turn::Next
        } else if self.missing.remove(&(sender, number)) {
            Turn::Late
        } else {
            return Some(Turn::Repeated);
        };
        self.received += 1;
        // Any change of order changes this; the multiplier is an odd number without a pattern.
        let which = u64::from(sender) << 32 | u64::from(number);
        self.order = (self.order.rotate_left(7) ^ which).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Some(turn)
    }

    pub fn received(&self) -> u64 {
        self.received
    }

    /// Equal for receivers that saw the same messages in the same order.
    pub fn order(&self) -> u64 {
        self.order
    }

    /// How many are missing, if so many of each sender's were acknowledged.
    pub fn gaps(&self, acked: &[u32]) -> u64 {
        let after = acked
            .iter()
            .zip(&self.next)
            .map(|(acked, next)| u64::from(acked.saturating_sub(*next)));
        self.missing.len() as u64 + self.lost + after.sum::<u64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns() {
        let mut seen = Seen::new(2);
        let turns = [0, 3, 1, 1, 3, 4].map(|number| seen.take(1, number).unwrap());
        use Turn::*;
        assert_eq!(turns, [Next, Next, Late, Repeated, Repeated, Next]);
        assert_eq!(seen.take(2, 0), None);
        assert_eq!(seen.received(), 4);
        assert_eq!(seen.gaps(&[0, 5]), 1);
        assert_eq!(seen.gaps(&[2, 7]), 5);
    }

    #[test]
    fn what_is_missing_is_bounded() {
        let mut seen = Seen::new(1);
        seen.take(0, u32::MAX);
        assert_eq!(seen.missing.len(), MISSING_MAX);
        assert_eq!(seen.gaps(&[0]), u64::from(u32::MAX));
    }

    #[test]
    fn orders_differ() {
        let order = |numbers: &[(u16, u32)]| {
            let mut seen = Seen::new(2);
            for (sender, number) in numbers {
                seen.take(*sender, *number);
            }
            seen.order()
        };
        assert_eq!(order(&[(0, 0), (1, 0)]), order(&[(0, 0), (1, 0)]));
        assert_ne!(order(&[(0, 0), (1, 0)]), order(&[(1, 0), (0, 0)]));
    }
}
