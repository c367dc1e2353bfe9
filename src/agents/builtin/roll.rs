//! Dice from a seed.
//!
//! The numbers are taken from SHA-256 of the seed and a counter, four bytes at a time; values above
//! the largest multiple of the die's sides are thrown away, so that every face is equally likely.

use std::fmt::Write as _;

use sha2::Digest as _;
use sha2::Sha256;

const DICE_MAX: u32 = 100;
const SIDES_MAX: u32 = 1_000;
const MODIFIER_MAX: i64 = 10_000;

pub const USAGE: &str = "Usage: /roll 2d6, with 1 to 100 dice of 2 to 1000 sides; \
                         /roll d20+3 adds 3. /roll alone throws one die of six sides.";

/// What to throw, within the bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dice {
    count: u32,
    sides: u32,
    modifier: i64,
}

impl Dice {
    /// `2d6`, `d20`, `3d8-2`, or nothing, which is one die of six sides.
    pub fn parse(text: &str) -> Option<Dice> {
        let compact: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        let compact = compact.to_ascii_lowercase();
        if compact.is_empty() {
            return Some(Dice {
                count: 1,
                sides: 6,
                modifier: 0,
            });
        }
        let (count, rest) = compact.split_once('d')?;
        let (sides, modifier) = match rest.find(['+', '-']) {
            Some(at) => (&rest[..at], signed(&rest[at..])?),
            None => (rest, 0),
        };
        let dice = Dice {
            count: match count {
                "" => 1,
                digits => unsigned(digits)?,
            },
            sides: unsigned(sides)?,
            modifier,
        };
        let good = (1..=DICE_MAX).contains(&dice.count) && (2..=SIDES_MAX).contains(&dice.sides);
        good.then_some(dice)
    }

    /// Throws them; the same seed gives the same result.
    pub fn roll(&self, seed: &[u8]) -> String {
        let mut numbers = Numbers::new(seed);
        let thrown: Vec<u32> = (0..self.count)
            .map(|_| numbers.below(self.sides) + 1)
            .collect();
        let sum: i64 = thrown.iter().map(|face| i64::from(*face)).sum::<i64>() + self.modifier;
        let mut text = format!("{}d{}", self.count, self.sides);
        if self.modifier != 0 {
            write!(text, "{:+}", self.modifier).expect("a String takes any text");
        }
        if self.count == 1 && self.modifier == 0 {
            write!(text, ": {sum}").expect("a String takes any text");
            return text;
        }
        let faces: Vec<String> = thrown.iter().map(u32::to_string).collect();
        write!(text, ": {}", faces.join(" + ")).expect("a String takes any text");
        if self.modifier != 0 {
            let sign = if self.modifier < 0 { '-' } else { '+' };
            write!(text, " {sign} {}", self.modifier.abs()).expect("a String takes any text");
        }
        write!(text, " = {sum}").expect("a String takes any text");
        text
    }
}

fn unsigned(digits: &str) -> Option<u32> {
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| digits.parse().ok()).flatten()
}

fn signed(text: &str) -> Option<i64> {
    let size = i64::from(unsigned(text.get(1..)?)?);
    let value = if text.starts_with('-') { -size } else { size };
    (-MODIFIER_MAX..=MODIFIER_MAX)
        .contains(&value)
        .then_some(value)
}

/// A stream of numbers that depends on the seed alone.
struct Numbers<'a> {
    seed: &'a [u8],
    block: [u8; 32],
    taken: usize,
    counter: u64,
}

impl<'a> Numbers<'a> {
    fn new(seed: &'a [u8]) -> Numbers<'a> {
        Numbers {
            seed,
            block: [0; 32],
            taken: 32,
            counter: 0,
        }
    }

    fn below(&mut self, bound: u32) -> u32 {
        let usable = u32::MAX - u32::MAX % bound;
        loop {
            let number = self.next();
            // Thrown away less than once in a million times, so this ends.
            if number < usable {
                return number % bound;
            }
        }
    }

    fn next(&mut self) -> u32 {
        if self.taken == self.block.len() {
            let mut hash = Sha256::new();
            hash.update(b"accord roll 1");
            hash.update(self.seed);
            hash.update(self.counter.to_be_bytes());
            self.block = hash.finalize().into();
            self.counter += 1;
            self.taken = 0;
        }
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&self.block[self.taken..self.taken + 4]);
        self.taken += 4;
        u32::from_be_bytes(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn notation() {
        let dice = |count, sides, modifier| {
            Some(Dice {
                count,
                sides,
                modifier,
            })
        };
        assert_eq!(Dice::parse(""), dice(1, 6, 0));
        assert_eq!(Dice::parse("2d6"), dice(2, 6, 0));
        assert_eq!(Dice::parse("D20 + 3"), dice(1, 20, 3));
        assert_eq!(Dice::parse("100d1000-10000"), dice(100, 1_000, -10_000));
        for bad in [
            "6",
            "d",
            "0d6",
            "101d6",
            "2d1",
            "2d1001",
            "2d6+",
            "2d6+x",
            "-1d6",
            "2d6+10001",
            "2d+6",
            "2d6+1+1",
            "9999999999d6",
        ] {
            assert_eq!(Dice::parse(bad), None, "{bad}");
        }
    }

    /// Replies are in logs for good; another attempt after an update must not give another one.
    #[test]
    fn golden() {
        let text = |notation| Dice::parse(notation).unwrap().roll(b"seed");
        assert_eq!(text("d6"), "1d6: 4");
        assert_eq!(text("3d6+2"), "3d6+2: 4 + 2 + 5 + 2 = 13");
    }

    proptest! {
        #[test]
        fn faces_are_within_the_sides(
            count in 1..=DICE_MAX,
            sides in 2..=SIDES_MAX,
            seed in any::<[u8; 16]>(),
        ) {
            let mut numbers = Numbers::new(&seed);
            for _ in 0..count {
                prop_assert!(numbers.below(sides) < sides);
            }
        }
    }

    #[test]
    fn all_faces_come_up() {
        let mut numbers = Numbers::new(b"any");
        let mut seen = [0; 6];
        for _ in 0..6_000 {
            seen[numbers.below(6) as usize] += 1;
        }
        assert!(
            seen.iter().all(|count| (800..1_200).contains(count)),
            "{seen:?}"
        );
    }
}
