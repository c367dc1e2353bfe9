//! Feeds a fuzz target on stable, as an ordinary test: every file of its corpus, and a few hundred
//! changed copies of each. Included by the tests of each crate that has targets; the changes are
//! the same in every run.

use std::fs;
use std::path::{Path, PathBuf};

/// Changed copies of each file; `ACCORD_FUZZ_COPIES` asks for more.
const COPIES: u64 = 300;
/// The corpus stays small: what fuzzing finds is minimised before it is kept.
const FILE_BYTES_MAX: usize = 4096;

/// Calls `target` with every file in `fuzz/corpus/{name}` and with changed copies.
pub fn feed(name: &str, target: impl Fn(&[u8])) {
    let files = files(name);
    assert!(!files.is_empty(), "the target {name} has no corpus");
    let copies = std::env::var("ACCORD_FUZZ_COPIES").map_or(COPIES, |copies| {
        copies.parse().expect("ACCORD_FUZZ_COPIES is a number")
    });
    for (path, bytes) in files {
        assert!(
            bytes.len() <= FILE_BYTES_MAX,
            "{} is too large to be kept",
            path.display()
        );
        target(&bytes);
        let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ bytes.len() as u64);
        for _ in 0..copies {
            target(&changed(&bytes, &mut random));
        }
    }
}

/// Writes the seeds of a target: real encodings, made by its crate.
pub fn keep(name: &str, seeds: &[(&str, Vec<u8>)]) {
    for (label, bytes) in seeds {
        fs::create_dir_all(folder(name)).expect("the checkout can be written");
        fs::write(folder(name).join(label), bytes).expect("the checkout can be written");
    }
}

fn folder(name: &str) -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = if here.join("fuzz").is_dir() {
        here
    } else {
        here.parent().expect("crates lie below the workspace")
    };
    root.join("fuzz/corpus").join(name)
}

fn files(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let listed = fs::read_dir(folder(name)).map(|files| files.flatten().collect::<Vec<_>>());
    let mut files: Vec<_> = listed
        .unwrap_or_default()
        .into_iter()
        .map(|file| file.path())
        .map(|path| {
            let bytes = fs::read(&path).expect("a file of the corpus can be read");
            (path, bytes)
        })
        .collect();
    files.sort();
    files
}

/// A copy with up to four changes: flipped bits, other bytes, pieces left out, doubled or moved.
fn changed(bytes: &[u8], random: &mut Random) -> Vec<u8> {
    let mut copy = bytes.to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(copy.len() + 1);
        let end = at + random.below(copy.len() - at + 1).min(16);
        match random.below(7) {
            0 if at < copy.len() => copy[at] ^= 1 << random.below(8),
            1 if at < copy.len() => {
                copy[at] = [0, 1, 0x7f, 0x80, 251, 252, 253, 255][random.below(8)]
            }
            2 => drop(copy.drain(at..end)),
            3 => copy.truncate(at),
            4 => {
                let piece = copy[at..end].to_vec();
                let to = random.below(copy.len() + 1);
                copy.splice(to..to, piece);
            }
            5 => copy.insert(at, random.next() as u8),
            _ => copy.extend_from_slice(&random.next().to_le_bytes()[..random.below(9)]),
        }
    }
    copy
}

/// SplitMix64: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }
}
