//! A group's rows in memory, as a machine reads and writes them: also for the test that counts.

use std::collections::BTreeMap;
use std::ops::Bound;

use accord_raft::machine::channel::{Command, Post};
use accord_raft::machine::{
    Applied, Batch, Kind, Machine, Overlay, Row, SessionId, View, ViewError, encode_part,
};
use accord_storage::{Order, Table, Write};
use bytes::Bytes;

/// What one node sends for one channel under load, more or less.
pub const POSTS: u64 = 64;
pub const BODY_BYTES: usize = 128;

#[derive(Debug, Default)]
pub struct Rows {
    state: BTreeMap<Vec<u8>, Vec<u8>>,
    index: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Rows {
    fn table(&self, table: Table) -> &BTreeMap<Vec<u8>, Vec<u8>> {
        match table {
            Table::State => &self.state,
            Table::Index => &self.index,
        }
    }

    fn write(&mut self, write: Write) {
        let (Write::Put { table, .. } | Write::Delete { table, .. }) = &write;
        let rows = match table {
            Table::State => &mut self.state,
            Table::Index => &mut self.index,
        };
        match write {
            Write::Put { key, value, .. } => rows.insert(key, value),
            Write::Delete { key, .. } => rows.remove(&key),
        };
    }
}

impl View for Rows {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, ViewError> {
        Ok(self.table(table).get(key).cloned())
    }

    fn scan(
        &self,
        table: Table,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        order: Order,
        limit: usize,
    ) -> Result<Vec<Row>, ViewError> {
        let rows = self.table(table).range::<[u8], _>((from, to));
        let owned = |(key, value): (&Vec<u8>, &Vec<u8>)| (key.clone(), value.clone());
        Ok(match order {
            Order::Ascending => rows.take(limit).map(owned).collect(),
            Order::Descending => rows.rev().take(limit).map(owned).collect(),
        })
    }
}

/// A channel that one session posts to, batch after batch.
pub struct Channel {
    machine: Machine,
    rows: Rows,
    body: String,
    posted: u64,
    log_index: u64,
}

impl Channel {
    pub fn new() -> Channel {
        let rows = Rows::default();
        Channel {
            machine: Machine::load(Kind::Channel, &rows).expect("no rows can be read"),
            rows,
            body: "x".repeat(BODY_BYTES),
            posted: 0,
            log_index: 0,
        }
    }

    pub fn commands(&self) -> Vec<Command<'_>> {
        let post = |number: u64| Post {
            id: u128::from(self.posted + number).to_be_bytes(),
            username: "user",
            body: &self.body,
            key: None,
            expected_head: None,
            reply_to: None,
        };
        (0..POSTS)
            .map(|number| Command::Post(post(number)))
            .collect()
    }

    /// As a node encodes its part and the leader its batch.
    pub fn encode(&self, commands: &[Command<'_>]) -> Bytes {
        let session = SessionId {
            node: 1,
            sequence: 1,
        };
        let part = encode_part(session, self.posted + 1, commands).expect("it is within bounds");
        Batch::concat(1_700_000_000_000, &[part]).expect("it is within bounds")
    }

    /// As each replica applies it; what is to be written is handed back to [`Channel::keep`].
    pub fn apply(&mut self, payload: &Bytes) -> (Applied, Vec<Write>) {
        self.log_index += 1;
        let mut overlay = Overlay::new(&self.rows);
        let applied = self.machine.apply(&mut overlay, self.log_index, payload);
        let applied = applied.expect("rows in memory can be read");
        (applied, overlay.into_writes())
    }

    pub fn keep(&mut self, applied: &Applied, writes: Vec<Write>) {
        let committed = applied.committed.as_ref();
        let messages = committed.map_or(0, |committed| committed.messages.len());
        assert_eq!(messages as u64, POSTS, "every post became a message");
        self.posted += POSTS;
        for write in writes {
            self.rows.write(write);
        }
    }
}
