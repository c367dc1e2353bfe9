//! Runs: one *episode* is a cluster, a load, a plan of faults, the healing, the last look at every
//! node, and the verdict. A *campaign* is many of them.
//!
//! Besides, what is measured rather than judged: write gaps, what many channels cost, and how punctual
//! scheduled messages are.

pub mod artifacts;
pub mod campaign;
pub mod channels;
pub mod ending;
pub mod episode;
pub mod gap;
pub mod settings;
pub mod timers;
pub mod totals;

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a run proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Passed,
    /// Some promise was broken.
    Failed,
    /// No promise was seen to be broken, but something that should have been proven was not: a
    /// fault did not bite, or a property could not be checked.
    Unknown,
}

impl Verdict {
    /// The program's exit code.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Passed => 0,
            Self::Failed => 1,
            Self::Unknown => 2,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Passed => "passed",
            Self::Failed => "FAILED",
            Self::Unknown => "unknown",
        })
    }
}

/// Where a run tells of its progress: one line at a time.
pub type Say<'a> = &'a (dyn Fn(&str) + Send + Sync);
