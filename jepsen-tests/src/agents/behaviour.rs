//! What the endpoint does with one call. Pure.

use crate::rng::Rng;

/// One way to answer, or not to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Behaviour {
    /// A whole answer, in pieces if that was asked for.
    Answer,
    /// A whole answer in one piece, whatever was asked for.
    Whole,
    /// A piece every few milliseconds, byte by byte.
    Drip,
    /// Pieces up to the middle, then nothing until the endpoint is released, then the rest.
    Hold,
    /// The connection is closed before anything is answered.
    Refuse,
    /// Nothing is ever answered.
    Hang,
    /// Status 500.
    Broken,
    /// Status 429 with `Retry-After: 1`.
    Busy,
    /// Status 400.
    Rejected,
    /// The stream ends in the middle.
    Cut,
    /// Something that is no chat completion.
    Garbage,
    /// Something that is no HTTP.
    Noise,
}

impl Behaviour {
    const ALL: [(Behaviour, &'static str); 12] = [
        (Behaviour::Answer, "ok"),
        (Behaviour::Whole, "whole"),
        (Behaviour::Drip, "drip"),
        (Behaviour::Hold, "hold"),
        (Behaviour::Refuse, "refuse"),
        (Behaviour::Hang, "hang"),
        (Behaviour::Broken, "500"),
        (Behaviour::Busy, "429"),
        (Behaviour::Rejected, "400"),
        (Behaviour::Cut, "cut"),
        (Behaviour::Garbage, "garbage"),
        (Behaviour::Noise, "noise"),
    ];

    fn parse(word: &str) -> Option<Self> {
        let mut all = Self::ALL.iter();
        all.find(|(_, name)| *name == word).map(|(it, _)| *it)
    }
}

/// How calls are answered of whose command nothing is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Script {
    /// All are answered well.
    Kind,
    /// So many of a hundred calls fail, in ways that the seed and the call decide.
    Seeded { seed: u64, failing: u64 },
}

/// Ways to fail that pass, for [`Script::Seeded`].
const PASSING: [Behaviour; 7] = [
    Behaviour::Refuse,
    Behaviour::Hang,
    Behaviour::Broken,
    Behaviour::Busy,
    Behaviour::Cut,
    Behaviour::Garbage,
    Behaviour::Noise,
];
/// Ways to answer.
const ANSWERING: [Behaviour; 3] = [Behaviour::Answer, Behaviour::Whole, Behaviour::Drip];

impl Script {
    /// What to do with the `call`th call, from 0, of this key. A command can say so itself:
    /// `/ask 500,429,ok: why?` is answered with 500 first, and from the third call on well.
    pub fn behaviour(self, command: &str, key: &str, call: u64) -> Behaviour {
        if let Some(told) = told(command) {
            let last = told.len() - 1;
            let place = usize::try_from(call).unwrap_or(last).min(last);
            return told[place];
        }
        match self {
            Script::Kind => Behaviour::Answer,
            Script::Seeded { seed, failing } => {
                let start = key.bytes().fold(seed ^ call, |mixed, byte| {
                    mixed.wrapping_mul(0x0100_0000_01b3) ^ u64::from(byte)
                });
                let mut rng = Rng::new(start);
                match rng.below(100) < failing {
                    true => *rng.pick(&PASSING),
                    false => *rng.pick(&ANSWERING),
                }
            }
        }
    }
}

fn told(command: &str) -> Option<Vec<Behaviour>> {
    let (_, text) = command.split_once(' ')?;
    let (words, _) = text.split_once(':')?;
    words.split(',').map(Behaviour::parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_says_what_comes() {
        let of = |command, call| Script::Kind.behaviour(command, "k", call);
        assert_eq!(of("/ask 500,429,ok: why?", 0), Behaviour::Broken);
        assert_eq!(of("/ask 500,429,ok: why?", 1), Behaviour::Busy);
        assert_eq!(of("/ask 500,429,ok: why?", 9), Behaviour::Answer);
        assert_eq!(of("/ask hang: x", 0), Behaviour::Hang);
        assert_eq!(of("/ask why: x", 0), Behaviour::Answer);
        assert_eq!(of("/ask", 0), Behaviour::Answer);
    }

    #[test]
    fn a_seed_gives_the_same_again_and_every_kind() {
        let script = Script::Seeded {
            seed: 7,
            failing: 50,
        };
        let run = || -> Vec<Behaviour> {
            (0..300)
                .map(|key| script.behaviour("/ask x", &key.to_string(), 0))
                .collect()
        };
        assert_eq!(run(), run());
        for kind in PASSING.iter().chain(&ANSWERING) {
            assert!(run().contains(kind), "{kind:?}");
        }
        let failing = run().iter().filter(|it| PASSING.contains(it)).count();
        assert!((100..200).contains(&failing), "{failing}");
    }
}
