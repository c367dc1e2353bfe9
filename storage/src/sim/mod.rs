//! What a simulation of a node needs of its store: a disk that belongs to the test and outlives the
//! node, and seeded dice.
//!
//! Everything here belongs to the thread that simulates: a simulation is one thread, and two of them
//! never share anything.

mod disk;
mod durable;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(crate) use disk::Maps;
pub use disk::{Disk, Fsync, Loss};
pub use durable::DurableGroup;

/// SplitMix64's constants: an additive step and two multipliers.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
const MIX: (u64, u64) = (0xbf58_476d_1ce4_e5b9, 0x94d0_49bb_1331_11eb);

thread_local! {
    static DICE: Cell<u64> = const { Cell::new(0) };
    static MOUNTS: RefCell<BTreeMap<PathBuf, Disk>> = const { RefCell::new(BTreeMap::new()) };
}

/// Begins a simulation on this thread: no disk is mounted, and the dice fall as `seed` says.
pub fn begin(seed: u64) {
    DICE.set(seed);
    MOUNTS.with_borrow_mut(BTreeMap::clear);
}

/// The next number of this simulation (SplitMix64).
pub fn random() -> u64 {
    let state = DICE.get().wrapping_add(STEP);
    DICE.set(state);
    let mixed = (state ^ (state >> 30)).wrapping_mul(MIX.0);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(MIX.1);
    mixed ^ (mixed >> 31)
}

/// A store that is opened in `dir` from now on finds `disk`.
pub fn mount(dir: impl Into<PathBuf>, disk: &Disk) {
    MOUNTS.with_borrow_mut(|mounts| mounts.insert(dir.into(), disk.clone()));
}

pub(crate) fn mounted(dir: &Path) -> Option<Disk> {
    MOUNTS.with_borrow(|mounts| mounts.get(dir).cloned())
}

/// Passes the time of one fsync of `disk`.
#[expect(
    clippy::disallowed_methods,
    reason = "the time that a simulated disk takes is simulated"
)]
pub(crate) async fn fsync_time(disk: &Disk) {
    match disk.fsync_ms() {
        0 => tokio::task::yield_now().await,
        ms => tokio::time::sleep(Duration::from_millis(ms)).await,
    }
}
