//! What a history amounts to in numbers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::history::{ChannelIx, Nanos};

/// The numbers of a run. All times are nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figures {
    /// By action: `append`, `append_if`, `read`, `read_stale`, `create_server`, `create_channel`,
    /// `list_servers`, `list_channels`.
    pub operations: BTreeMap<String, Counts>,
    /// Acknowledged appends; acknowledgements of retries count too.
    pub appended_ok: u64,
    /// Messages in the final logs of all channels, each counted once.
    pub messages: u64,
    pub streams: u64,
    pub stream_events: u64,
    /// For each channel that was sent to, the longest time without an acknowledgement while
    /// appends were being attempted.
    pub write_gaps: Vec<Gap>,
    /// The longest of `write_gaps`.
    pub write_gap_longest: Option<Gap>,
    /// From the end of a fault that bit to the first acknowledgement of an append invoked after
    /// it, for each such fault and each channel that was sent to again.
    pub recovery: Spread,
    /// The same by kind of fault.
    pub recovery_by_fault: BTreeMap<String, Spread>,
    /// The longest write gap of each channel that overlaps a fault that bit, by kind of fault.
    pub gap_by_fault: BTreeMap<String, Spread>,
    /// By kind.
    pub faults: BTreeMap<String, FaultCounts>,
    /// Pairs of replicas whose state hashes were of the same log index, so that P14 compared them.
    pub state_hashes_compared: u64,
}

/// How operations ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    pub ok: u64,
    pub fail: u64,
    /// Operations that never returned among them.
    pub info: u64,
}

/// A time without an acknowledged append.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    pub channel: ChannelIx,
    pub from: Nanos,
    pub to: Nanos,
}

impl Gap {
    pub fn length(&self) -> Nanos {
        self.to - self.from
    }
}

/// How a set of times is spread. A percentile is the smallest of the times that at least so many
/// percent of them do not exceed; all are zero where `count` is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spread {
    pub count: u64,
    pub p50: Nanos,
    pub p99: Nanos,
    pub max: Nanos,
}

/// Faults of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultCounts {
    /// Those that took effect.
    pub bit: u64,
    /// Those that did not.
    pub missed: u64,
}
