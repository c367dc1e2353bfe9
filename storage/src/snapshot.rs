//! Sending a snapshot: a view of one moment, cut into chunks for one receiver.

use std::sync::Arc;

use bytes::Bytes;
use self_cell::self_cell;

use crate::chunk::{Begin, Builder, Counts, Item};
use crate::core::Core;
use crate::engine::{Family, View};
use crate::error::Error;
use crate::group::Group;
use crate::keys;
use crate::layout::Layout;
use crate::records;
use crate::types::{GroupId, Have, LogId, Table};

self_cell!(
    /// The view together with the store that it is a view of.
    struct Held {
        owner: Arc<Core>,
        #[covariant]
        dependent: View,
    }
);

/// A consistent view of one group. It stays valid while writes go on, and keeps
/// the store's files open and its garbage on the disk until it is dropped.
#[derive(Clone)]
pub struct Snapshot {
    inner: Arc<Inner>,
}

struct Inner {
    id: GroupId,
    held: Held,
    layout: Layout,
    applied: Option<LogId>,
}

impl Group {
    /// A consistent view of what is written now.
    pub fn snapshot(&self) -> Result<Snapshot, Error> {
        let shared = self.shared();
        shared.core.queue.check()?;
        let held = Held::new(shared.core.clone(), |core| core.engine.view());
        // Read from the view itself, so that nothing can come in between.
        let read = |key: &[u8]| {
            let core = held.borrow_owner();
            core.engine
                .get_at(held.borrow_dependent(), Family::Rows, key)
        };
        let corrupt = |detail| {
            let error = Error::Corrupt {
                group: shared.id,
                index: 0,
                detail,
            };
            shared.core.alarm.check(&error);
            error
        };
        let meta = read(&keys::meta(shared.id))?
            .map(|bytes| records::decode_meta(&bytes))
            .transpose()
            .map_err(corrupt)?
            .unwrap_or_default();
        let applied = read(&keys::applied(shared.id))?
            .map(|bytes| records::decode_mark(&bytes))
            .transpose()
            .map_err(corrupt)?;
        Ok(Snapshot {
            inner: Arc::new(Inner {
                id: shared.id,
                layout: meta.layout,
                applied,
                held,
            }),
        })
    }
}

impl Snapshot {
    /// The position of the rows in this view. None means that there is nothing
    /// to send.
    pub fn applied(&self) -> Option<LogId> {
        self.inner.applied
    }

    /// What the owner of `have` is missing, in chunks of at most
    /// `chunk_bytes_max` bytes, or of one item that is larger. Each step reads
    /// from the disk. After an error there is nothing more.
    pub fn chunks(&self, have: Have, chunk_bytes_max: usize) -> Chunks {
        let inner = self.inner.clone();
        let phase = match inner.applied {
            None => Phase::Finished,
            Some(_) => Phase::Begin,
        };
        let first = have
            .applied_index
            .map_or(inner.layout.first(), |index| index.saturating_add(1));
        Chunks {
            inner,
            first,
            index_after: have.index_after,
            chunk_bytes_max,
            sequence: 0,
            phase,
            counts: Counts::default(),
        }
    }
}

/// The chunks of one snapshot for one receiver.
pub struct Chunks {
    inner: Arc<Inner>,
    first: u64,
    index_after: Option<Vec<u8>>,
    chunk_bytes_max: usize,
    sequence: u32,
    phase: Phase,
    counts: Counts,
}

/// What comes next. Keys are those of the family, not the caller's.
enum Phase {
    Begin,
    Entries {
        next: u64,
    },
    State {
        from: Vec<u8>,
    },
    Index {
        segment: usize,
        from: Option<Vec<u8>>,
    },
    End,
    Finished,
}

impl Iterator for Chunks {
    type Item = Result<Bytes, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let applied = self.inner.applied?;
        let mut chunk = Builder::new(self.sequence, self.chunk_bytes_max);
        loop {
            match self.advance(applied, &mut chunk) {
                Ok(true) => {}
                Ok(false) if chunk.is_empty() => return None,
                Ok(false) => break,
                Err(error) => {
                    self.inner.held.borrow_owner().alarm.check(&error);
                    self.phase = Phase::Finished;
                    return Some(Err(error));
                }
            }
        }
        // A sequence this long would be petabytes; the receiver refuses it.
        self.sequence = self.sequence.saturating_add(1);
        Some(Ok(chunk.finish()))
    }
}

impl Chunks {
    /// Fills `chunk` from the current phase. False when it is full or nothing
    /// is left.
    fn advance(&mut self, applied: LogId, chunk: &mut Builder) -> Result<bool, Error> {
        match &mut self.phase {
            Phase::Begin => {
                let begin = Begin {
                    applied: (applied.term, applied.index),
                    // A receiver that is ahead gets no entries.
                    first: self.first.min(applied.index.saturating_add(1)),
                    index_after: self.index_after.as_deref(),
                };
                if !chunk.add(&Item::Begin(begin)) {
                    return Ok(false);
                }
                self.phase = Phase::Entries { next: self.first };
            }
            Phase::Entries { next } if *next <= applied.index => {
                let (sent, full) = self.inner.entries(*next, applied.index, chunk)?;
                self.counts.entries += sent;
                *next += sent;
                return Ok(!full);
            }
            Phase::Entries { .. } => {
                let generation = self.inner.layout.state_generation;
                self.phase = Phase::State {
                    from: keys::row(self.inner.id, Table::State, generation, &[]),
                };
            }
            Phase::State { from } => {
                let generation = self.inner.layout.state_generation;
                let end = keys::rows_end(self.inner.id, Table::State, generation);
                let (sent, stop) = self.inner.rows(Table::State, from.clone(), end, chunk)?;
                self.counts.state += sent;
                if let Some(stop) = stop {
                    *from = stop;
                    return Ok(false);
                }
                self.phase = Phase::Index {
                    segment: 0,
                    from: None,
                };
            }
            Phase::Index { segment, .. } if *segment >= self.inner.layout.index.len() => {
                self.phase = Phase::End;
            }
            Phase::Index { segment, from } => {
                let (begin, end) = self.inner.index_part(*segment, self.index_after.as_deref());
                let begin = from.take().unwrap_or(begin);
                let (sent, stop) = self.inner.rows(Table::Index, begin, end, chunk)?;
                self.counts.index += sent;
                if let Some(stop) = stop {
                    *from = Some(stop);
                    return Ok(false);
                }
                *segment += 1;
            }
            Phase::End => {
                if !chunk.add(&Item::End(self.counts)) {
                    return Ok(false);
                }
                self.phase = Phase::Finished;
            }
            Phase::Finished => return Ok(false),
        }
        Ok(true)
    }
}

impl Inner {
    /// Adds entries from `next` on, of one segment at most. Returns how many,
    /// and whether the chunk is full.
    fn entries(&self, next: u64, last: u64, chunk: &mut Builder) -> Result<(u64, bool), Error> {
        let missing = |index| Error::Corrupt {
            group: self.id,
            index,
            detail: "an entry that a snapshot needs is missing".into(),
        };
        let (generation, end) = self.layout.log_run(next).ok_or_else(|| missing(next))?;
        let end = end.min(last.saturating_add(1));
        let key = |index| keys::entry(self.id, generation, index).to_vec();
        let core = self.held.borrow_owner();
        let view = self.held.borrow_dependent();
        let mut rows = core
            .engine
            .iterate_at(view, Family::Log, key(next), key(end));
        rows.seek_to_first();
        for index in next..end {
            let record = match rows.item()? {
                Some((key, record)) if keys::entry_index(key) == Some(index) => record,
                _ => return Err(missing(index)),
            };
            if !chunk.add(&Item::Entry { index, record }) {
                return Ok((index - next, true));
            }
            rows.step(true);
        }
        Ok((end - next, false))
    }

    /// Adds the rows from `from` to just before `end`. Returns how many, and
    /// the key that did not fit any more.
    fn rows(
        &self,
        table: Table,
        from: Vec<u8>,
        end: Vec<u8>,
        chunk: &mut Builder,
    ) -> Result<(u64, Option<Vec<u8>>), Error> {
        let core = self.held.borrow_owner();
        let view = self.held.borrow_dependent();
        let mut rows = core.engine.iterate_at(view, Family::Rows, from, end);
        rows.seek_to_first();
        let mut sent = 0;
        while let Some((full_key, value)) = rows.item()? {
            let key = keys::row_key(full_key).unwrap_or_default();
            let item = match table {
                Table::State => Item::State { key, value },
                Table::Index => Item::Index { key, value },
            };
            if !chunk.add(&item) {
                return Ok((sent, Some(full_key.to_vec())));
            }
            sent += 1;
            rows.step(true);
        }
        Ok((sent, None))
    }

    /// The keys of an index segment above `after`: the first, and the first
    /// behind them.
    fn index_part(&self, position: usize, after: Option<&[u8]>) -> (Vec<u8>, Vec<u8>) {
        let segment = &self.layout.index[position];
        let row = |key| keys::row(self.id, Table::Index, segment.generation, key);
        let begin = match segment.after.as_deref().max(after) {
            Some(after) => keys::after(&row(after)),
            None => row(&[]),
        };
        let end = match self.layout.index_end(position) {
            Some(end) => keys::after(&row(end)),
            None => keys::rows_end(self.id, Table::Index, segment.generation),
        };
        (begin, end)
    }
}
