//! What a check found.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::figures::Figures;
use crate::history::{ChannelIx, Nanos, Operation};

/// How many anomalies of one property a report describes. A broken run breaks a promise thousands
/// of times over; the first ones tell what happened, and all are counted.
pub const ANOMALIES_KEPT_MAX: usize = 20;

/// How many operations or streams an anomaly names.
pub const WITNESSES_MAX: usize = 10;

/// What a check found in a history.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// At most [`ANOMALIES_KEPT_MAX`] of each property, by property, then as they were found.
    pub anomalies: Vec<Anomaly>,
    /// How often each property was broken, those left out of `anomalies` included. A property that
    /// held is absent.
    pub counts: BTreeMap<Property, u64>,
    /// Properties that the history says too little about to be checked in full, and why. A run
    /// with any of these has not passed: it is unknown.
    pub unchecked: Vec<(Property, String)>,
    pub figures: Figures,
}

impl Report {
    /// Whether every property held, as far as it could be checked.
    pub fn is_clean(&self) -> bool {
        self.counts.is_empty()
    }

    pub(super) fn add(&mut self, anomaly: Anomaly) {
        let count = self.counts.entry(anomaly.property).or_default();
        *count += 1;
        if *count <= ANOMALIES_KEPT_MAX as u64 {
            self.anomalies.push(anomaly);
        }
    }
}

/// One broken promise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anomaly {
    pub property: Property,
    /// One sentence for a reader, with the ids, seqs and nodes that matter.
    pub what: String,
    /// The stretch of the run in which it shows. Beginning and end are the same for what is seen
    /// at one moment, and both zero where only the final logs show it.
    pub at: (Nanos, Nanos),
    /// The channel of the messages; none for what concerns the directory or a whole node.
    pub channel: Option<ChannelIx>,
    /// Operations that prove it, by [`crate::history::Operation::id`]; at most [`WITNESSES_MAX`].
    pub operations: Vec<u64>,
    /// Streams that prove it, by [`crate::history::Stream::id`]; at most [`WITNESSES_MAX`].
    pub streams: Vec<u64>,
}

impl Anomaly {
    pub(super) fn new(property: Property, what: String) -> Anomaly {
        Anomaly {
            property,
            what,
            at: (0, 0),
            channel: None,
            operations: Vec::new(),
            streams: Vec::new(),
        }
    }

    pub(super) fn channel(mut self, channel: ChannelIx) -> Anomaly {
        self.channel = Some(channel);
        self
    }

    pub(super) fn at(mut self, from: Nanos, to: Nanos) -> Anomaly {
        self.at = (from.min(to), from.max(to));
        self
    }

    /// While the operation ran; one that never returned counts by its beginning.
    pub(super) fn during(self, operation: &Operation) -> Anomaly {
        let returned = operation.returned.unwrap_or(operation.invoked);
        self.at(operation.invoked, returned)
    }

    pub(super) fn operations(mut self, ids: impl IntoIterator<Item = u64>) -> Anomaly {
        self.operations.extend(ids);
        self.operations.truncate(WITNESSES_MAX);
        self
    }

    pub(super) fn streams(mut self, ids: impl IntoIterator<Item = u64>) -> Anomaly {
        self.streams.extend(ids);
        self.streams.truncate(WITNESSES_MAX);
        self
    }
}

impl fmt::Display for Anomaly {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.property, self.what)
    }
}

/// The promises that are checked. F stands for the final log of a channel, as read from every node
/// after healing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Property {
    P1,
    P2,
    P3,
    P4,
    P5,
    P6,
    P7,
    P8,
    P9,
    P10,
    P11,
    P12,
    P13,
    P14,
    P15,
    P16,
}

impl Property {
    pub const ALL: [Property; 16] = [
        Property::P1,
        Property::P2,
        Property::P3,
        Property::P4,
        Property::P5,
        Property::P6,
        Property::P7,
        Property::P8,
        Property::P9,
        Property::P10,
        Property::P11,
        Property::P12,
        Property::P13,
        Property::P14,
        Property::P15,
        Property::P16,
    ];

    /// The promise in words.
    pub fn statement(self) -> &'static str {
        match self {
            Property::P1 => "every acknowledged append is in F on every node",
            Property::P2 => "an acknowledged seq is the place in F, and all nodes hold the same F",
            Property::P3 => "F holds nothing twice",
            Property::P4 => "F holds nothing that nobody sent and nothing that failed",
            Property::P5 => "what was sent after something was seen comes after it",
            Property::P6 => "every read is the contiguous stretch of F that it asked for",
            Property::P7 => "a linearizable read sees all that was seen before it began",
            Property::P8 => "what one session sees on one node never goes back",
            Property::P9 => "a linearizable read on any node sees the reader's own writes",
            Property::P10 => "a stream is gapless, ordered, without repeats, and all in F",
            Property::P11 => "a resumed stream goes on at the next seq",
            Property::P12 => "after healing every stream reaches the head",
            Property::P13 => "one key is one message and one answer",
            Property::P14 => {
                "after healing every node is ready, every channel writable within 30 s, and all \
                 replicas agree"
            }
            Property::P15 => {
                "every command in F has one reply, after it, by the agent that it calls"
            }
            Property::P16 => "every reply in F answers a command in F",
        }
    }
}

impl fmt::Display for Property {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, out)
    }
}
