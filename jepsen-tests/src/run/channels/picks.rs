//! Which channels are asked: seeded, and no channel twice before all others.

use crate::Rng;

use super::BenchError;

/// Channel numbers in an order of chance.
#[derive(Debug)]
pub struct Picks {
    order: Vec<u32>,
    next: usize,
}

impl Picks {
    pub fn new(channels: u64, rng: &mut Rng) -> Result<Self, BenchError> {
        let count = match u32::try_from(channels) {
            Ok(0) => Err(BenchError::Unfit(
                "there is no channel to measure".to_owned(),
            )),
            Ok(count) => Ok(count),
            Err(_) => Err(BenchError::Unfit(format!(
                "{channels} channels are too many"
            ))),
        }?;
        let mut order: Vec<u32> = (0..count).collect();
        for place in (1..order.len()).rev() {
            let other = rng.below(place as u64 + 1);
            order.swap(place, usize::try_from(other).unwrap_or(0));
        }
        Ok(Self { order, next: 0 })
    }

    pub fn channels(&self) -> u64 {
        self.order.len() as u64
    }

    /// Distinct channels: as many as were asked for, or all that there are.
    pub fn take(&mut self, count: u64) -> Vec<u64> {
        let count = count.min(self.channels());
        let taken = (0..count).map(|_| self.take_one());
        taken.collect()
    }

    fn take_one(&mut self) -> u64 {
        let place = self.next % self.order.len();
        self.next = place + 1;
        u64::from(self.order[place])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn all_come_before_any_comes_again() {
        let mut picks = Picks::new(10, &mut Rng::new(1)).unwrap();
        let mut first = picks.take(7);
        first.extend(picks.take(3));
        assert_eq!(first.iter().collect::<BTreeSet<_>>().len(), 10);
        assert_ne!(first, (0..10).collect::<Vec<_>>());
        assert_eq!(picks.take(10), first);
    }

    #[test]
    fn no_more_are_taken_than_there_are() {
        let mut picks = Picks::new(3, &mut Rng::new(1)).unwrap();
        picks.take(2);
        let all: BTreeSet<u64> = picks.take(100).into_iter().collect();
        assert_eq!(all.len(), 3);
        assert!(Picks::new(0, &mut Rng::new(1)).is_err());
    }

    #[test]
    fn the_seed_decides() {
        let taken = |seed| Picks::new(100, &mut Rng::new(seed)).unwrap().take(100);
        assert_eq!(taken(5), taken(5));
        assert_ne!(taken(5), taken(6));
    }
}
