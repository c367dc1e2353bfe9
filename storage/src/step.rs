//! What a write is made of: changes of one key or of a range, each in one family.

use bytes::Bytes;

/// The column families.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    Facts,
    Log,
    Rows,
}

/// One change of the disk.
#[derive(Debug)]
pub enum Step {
    Put {
        family: Family,
        key: Vec<u8>,
        value: Vec<u8>,
    },
    /// An entry; its record is put together only when the batch is, so that a
    /// waiting entry is held once.
    Entry {
        key: [u8; 20],
        term: u64,
        payload: Bytes,
    },
    Delete {
        family: Family,
        key: Vec<u8>,
    },
    /// Deletes the keys from `from` to just before `to`.
    DeleteRange {
        family: Family,
        from: Vec<u8>,
        to: Vec<u8>,
    },
}

impl Step {
    /// About how many bytes it keeps in memory while it waits.
    pub fn bytes(&self) -> usize {
        size_of::<Self>()
            + match self {
                Self::Put { key, value, .. } => key.len() + value.len(),
                Self::Entry { payload, .. } => payload.len(),
                Self::Delete { key, .. } => key.len(),
                Self::DeleteRange { from, to, .. } => from.len() + to.len(),
            }
    }
}
