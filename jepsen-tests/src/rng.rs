//! A small seeded random generator (SplitMix64), so that a randomised test can
//! be replayed from the seed that it printed.

use std::hash::{BuildHasher, Hasher};

/// The environment variable that replays a run.
const SEED_VARIABLE: &str = "ACCORD_SEED";

#[derive(Debug, Clone)]
pub struct Rng {
    state: u64,
}

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// A generator seeded from `ACCORD_SEED`, or freshly; prints the seed and
    /// how to use it again. `test` names the test in that line.
    pub fn announced(test: &str) -> Self {
        let seed = std::env::var(SEED_VARIABLE)
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or_else(fresh_seed);
        eprintln!("{test}: seed {seed} (replay with {SEED_VARIABLE}={seed} cargo test {test})");
        Self::new(seed)
    }

    /// A generator whose seed nobody chose.
    pub fn fresh() -> Self {
        Self::new(fresh_seed())
    }

    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which must not be 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "a caller asked for a number below 0");
        self.next_u64() % bound
    }

    /// One of `items`, which must not be empty.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len() as u64) as usize]
    }

    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next_u64() as u8).collect()
    }
}

/// The standard library seeds its hashers from the operating system.
fn fresh_seed() -> u64 {
    std::collections::hash_map::RandomState::new()
        .build_hasher()
        .finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_numbers() {
        let (mut one, mut two) = (Rng::new(7), Rng::new(7));
        assert_eq!(one.bytes(64), two.bytes(64));
        assert_eq!(one.below(10), two.below(10));
    }

    #[test]
    fn numbers_stay_below_their_bound() {
        let mut rng = Rng::new(1);
        assert!((0..1000).all(|_| rng.below(3) < 3));
    }
}
