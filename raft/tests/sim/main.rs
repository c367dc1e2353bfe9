//! Many years of a cluster's life in a minute: whole nodes in one thread, on simulated time, disks and
//! network (docs/adr/0013). `make sim` runs it; `SEEDS=from..to` says which lives.

#[cfg(not(tokio_unstable))]
compile_error!("the simulation seeds tokio's own dice: build it with `make sim`");

mod agents;
mod asleep;
mod check;
mod clients;
mod elections;
mod nemesis;
mod planted;
mod run;
mod trace;
mod world;

use std::ops::Range;

use world::Naps;

/// Which seeds to run, as `from..to`.
const SEEDS: &str = "ACCORD_SIM_SEEDS";
/// Those that always run.
const USUAL: Range<u64> = 0..24;
/// Those that are run twice.
const TWICE: Range<u64> = 0..4;

#[test]
fn every_promise_holds_whatever_goes_wrong() {
    let mut failures = Vec::new();
    let (mut simulated_ms, mut real_ms) = (0, 0);
    let mut naps = Naps::default();
    for seed in seeds() {
        match run::run(seed) {
            Ok(outcome) => {
                simulated_ms += outcome.simulated_ms;
                real_ms += outcome.real_ms;
                naps = naps.and(outcome.naps);
                eprintln!("seed {seed}: {outcome}");
            }
            Err(what) => {
                eprintln!("{what}");
                failures.push(what);
            }
        }
    }
    eprintln!("{simulated_ms} ms simulated in {real_ms} ms");
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
    if seeds().any(|seed| run::shape(seed).dozes()) {
        assert!(naps.sleeps > 0 && naps.wakes > 0, "nothing slept: {naps:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_life() {
    let mut traces = Vec::new();
    for seed in TWICE {
        let outcomes = [run::run(seed), run::run(seed)].map(|outcome| outcome.map(|it| it.trace));
        assert_eq!(outcomes[0], outcomes[1], "seed {seed}");
        traces.push(outcomes[0].clone());
    }
    traces.dedup();
    assert_eq!(traces.len() as u64, TWICE.end, "other seeds, other lives");
}

fn seeds() -> Range<u64> {
    let Ok(text) = std::env::var(SEEDS) else {
        return USUAL;
    };
    let parsed = text
        .split_once("..")
        .and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    parsed.unwrap_or_else(|| panic!("{SEEDS}={text} is not from..to"))
}
