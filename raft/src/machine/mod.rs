//! The state machines of the two kinds of group, as pure functions.
//!
//! A machine takes the batches of its group in log order and turns each into
//! row changes and outcomes: `(rows, batch) -> (writes, outcomes)`. Time and ids
//! come inside the commands; there is no clock, no dice and no I/O here. The
//! shell hands it entries, gives the changes to storage as one atomic write
//! with the applied mark, and sends the outcomes to whoever waits for them. An
//! entry that is blank or changes the membership is not given to a machine.
//!
//! Invariants:
//! - The same batches in the same order give byte-equal rows and equal
//!   outcomes on every replica, whether it applied them one by one, all at
//!   once, or began from a copy of the rows. Everything that decides an outcome
//!   is in the rows; what a machine keeps in memory is a copy of some of them,
//!   and [`Machine::load`] may be called again after any batch.
//! - Bytes that cannot be understood are answered [`Outcome::Malformed`], the
//!   same everywhere. A [`MachineError`] means that this replica's own rows
//!   cannot be read: the node must stop, for going on would make it diverge.

mod batch;
pub mod channel;
mod codec;
pub mod directory;
mod outcome;
mod overlay;
mod part;
mod session;
#[cfg(any(test, feature = "fuzzing"))]
#[allow(
    clippy::unwrap_used,
    reason = "replicas that do not agree must end the run"
)]
pub(crate) mod testing;
mod text;

use std::error::Error as StdError;
use std::ops::{Bound, Range};

use accord_storage::{Order, Table};
use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use thiserror::Error;

pub use batch::{
    BATCH_BYTES_MAX, BATCH_HEADER_BYTES, Batch, BatchBuilder, COMMANDS_PER_BATCH_MAX,
    PART_LENGTH_BYTES, PARTS_MAX,
};
pub use channel::{ChannelMachine, Committed, IndexRow, Message, Outlook, Post};
pub use codec::DecodeError;
pub use directory::{Channel, DirectoryMachine, Node, Server};
pub use outcome::{Outcome, decode_outcomes, encode_outcomes};
pub use overlay::Overlay;
pub use part::{
    BatchError, COMMANDS_PER_PART_MAX, EncodedCommand, PART_BYTES_MAX, PART_HEADER_BYTES, Part,
    PartBuilder, PartHeader, PartRef, SessionId, encode_part,
};
pub use text::Text;

/// Rows read by [`digest`] at a time.
const DIGEST_PAGE_ROWS: usize = 1024;

/// A key and its value.
pub type Row = (Vec<u8>, Vec<u8>);

/// Reading the rows of one group. Storage provides it over its own rows,
/// [`Overlay`] over those and the changes not yet written.
pub trait View {
    /// The value of a key.
    ///
    /// # Errors
    /// When the rows cannot be read.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, ViewError>;

    /// At most `limit` rows between two keys, in the order asked for.
    ///
    /// # Errors
    /// When the rows cannot be read.
    fn scan(
        &self,
        table: Table,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        order: Order,
        limit: usize,
    ) -> Result<Vec<Row>, ViewError>;
}

/// The rows below could not be read, for the reason that storage gives.
#[derive(Debug, Error)]
#[error("the rows of the group cannot be read")]
pub struct ViewError(#[source] Box<dyn StdError + Send + Sync>);

impl ViewError {
    /// Wraps the error of whatever holds the rows.
    pub fn new(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self(source.into())
    }
}

/// This replica's own rows or entries are unreadable: the node must stop.
#[derive(Debug, Error)]
pub enum MachineError {
    /// Storage could not answer.
    #[error(transparent)]
    View(#[from] ViewError),
    /// A row does not hold what its key promises.
    #[error("a row of the group is damaged: {0}")]
    Row(&'static str),
    /// An entry does not hold the messages that its index row promises.
    #[error("log entry {log_index} does not hold the messages that its index row promises")]
    Entry {
        /// Which entry of the group's log.
        log_index: u64,
    },
}

/// What applying one batch gave.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// One outcome for each command slot, in order over all parts.
    pub outcomes: Vec<Outcome>,
    /// One for each part of the batch, in order, splitting the outcomes. A batch
    /// whose frame cannot be read counts as a single part without a header.
    pub parts: Vec<PartOutcomes>,
    /// The messages that became part of the channel, if any.
    pub committed: Option<Committed>,
    /// The jobs that were cancelled, if any: whoever runs them is to stop.
    pub cancelled: Vec<[u8; 16]>,
}

/// Which outcomes belong to a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartOutcomes {
    /// The part's header, unless it could not be read.
    pub header: Option<PartHeader>,
    /// Where in [`Applied::outcomes`] its outcomes are; never empty.
    pub slots: Range<usize>,
}

impl Applied {
    /// The parts in order, each with its outcomes.
    pub fn by_part(&self) -> impl Iterator<Item = (Option<PartHeader>, &[Outcome])> {
        self.parts
            .iter()
            .map(|part| (part.header, &self.outcomes[part.slots.clone()]))
    }

    /// What every replica answers to a payload that is no batch.
    fn malformed() -> Self {
        Self {
            outcomes: vec![Outcome::Malformed],
            parts: vec![PartOutcomes {
                header: None,
                slots: 0..1,
            }],
            committed: None,
            cancelled: Vec::new(),
        }
    }
}

/// Which machine a group runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Servers, channels and where their replicas are: group 0.
    Directory,
    /// The messages of one channel: every other group.
    Channel,
}

/// The machine of one group, for a shell that treats all groups alike.
#[derive(Debug)]
pub enum Machine {
    /// Group 0.
    Directory(DirectoryMachine),
    /// Every other group.
    Channel(ChannelMachine),
}

impl Machine {
    /// Begins from the rows of a group, also from none.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn load(kind: Kind, view: &dyn View) -> Result<Self, MachineError> {
        Ok(match kind {
            Kind::Directory => Self::Directory(DirectoryMachine::load(view)?),
            Kind::Channel => Self::Channel(ChannelMachine::load(view)?),
        })
    }

    /// Applies the next entry. The changes are in `overlay` afterwards; several
    /// entries may be applied over one overlay and written together.
    ///
    /// # Errors
    /// When this replica's rows cannot be read. The machine and the overlay are
    /// then of no use any more.
    pub fn apply(
        &mut self,
        overlay: &mut Overlay<'_>,
        log_index: u64,
        payload: &Bytes,
    ) -> Result<Applied, MachineError> {
        match self {
            Self::Directory(machine) => machine.apply(overlay, payload),
            Self::Channel(machine) => machine.apply(overlay, log_index, payload),
        }
    }

    /// What the group has yet to do.
    #[must_use]
    pub fn outlook(&self) -> Outlook {
        match self {
            Self::Directory(_) => Outlook::default(),
            Self::Channel(machine) => machine.outlook(),
        }
    }
}

/// SHA-256 over all rows of a group, the same on all replicas that have applied
/// the same entries. Reads everything: for tests and for an operator's check.
///
/// # Errors
/// When the rows cannot be read.
pub fn digest(view: &dyn View) -> Result<[u8; 32], MachineError> {
    let mut hash = Sha256::new();
    for (tag, table) in [(0_u8, Table::State), (1, Table::Index)] {
        let mut last: Option<Vec<u8>> = None;
        loop {
            let from = last.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
            let to = Bound::Unbounded;
            let mut rows = view.scan(table, from, to, Order::Ascending, DIGEST_PAGE_ROWS)?;
            for (key, value) in &rows {
                // Lengths keep a key from running into its value.
                hash.update([tag]);
                for bytes in [key, value] {
                    hash.update((bytes.len() as u64).to_le_bytes());
                    hash.update(bytes);
                }
            }
            match rows.pop() {
                Some((key, _)) => last = Some(key),
                None => break,
            }
        }
    }
    Ok(hash.finalize().into())
}
