//! Reading a channel's messages back from the store: index rows say where, log entries say what.

use accord_storage as storage;

use crate::api::Messages;
use crate::api::Range;
use crate::api::ReadError;
use crate::group::Replica;
use crate::group::storage_error;
use crate::machine::Committed;
use crate::machine::Message;
use crate::machine::channel;
use crate::machine::channel::IndexRow;
use crate::rows::GroupRows;

/// Most messages of one read.
pub(crate) const MESSAGES_MAX: usize = 1_000;
/// Index rows fetched at a time.
const ROWS_PER_PAGE: usize = 64;
/// Bytes of bodies after which a read is cut short; a reader asks again from where it ended.
const BYTES_MAX: usize = 4 * 1024 * 1024;

/// The stretch of messages that `range` names, as far as this replica has them.
///
/// # Errors
/// `Storage` if rows or entries cannot be read.
pub(crate) fn read(replica: &Replica, range: Range) -> Result<Messages, ReadError> {
    let group = replica.consensus.group();
    let head = replica.consensus.progress().borrow().head;
    let messages = match range {
        Range::Latest { limit } => newest_first(&replica.rows, group, head, limit)?,
        Range::Before { seq, limit } => {
            newest_first(&replica.rows, group, seq.saturating_sub(1).min(head), limit)?
        }
        Range::After { seq, limit } => oldest_first(&replica.rows, group, seq, head, limit)?,
    };
    Ok(Messages { messages, head })
}

fn newest_first(
    rows: &GroupRows,
    group: &storage::Group,
    mut up_to: u64,
    limit: usize,
) -> Result<Vec<Message>, ReadError> {
    let mut found: Vec<Message> = Vec::new();
    let mut bytes = 0;
    while up_to > 0 {
        let page = channel::index_up_to(rows, up_to, ROWS_PER_PAGE).map_err(storage_error)?;
        if page.is_empty() {
            break;
        }
        for (first_seq, row) in page {
            let batch = batch(group, first_seq, &row)?;
            for message in batch
                .messages
                .into_iter()
                .rev()
                .skip_while(|message| message.seq > up_to)
            {
                bytes += message.body.as_str().len();
                found.push(message);
                if found.len() >= limit.min(MESSAGES_MAX) || bytes > BYTES_MAX {
                    return Ok(found);
                }
            }
            up_to = first_seq.saturating_sub(1);
        }
    }
    Ok(found)
}

fn oldest_first(
    rows: &GroupRows,
    group: &storage::Group,
    after: u64,
    head: u64,
    limit: usize,
) -> Result<Vec<Message>, ReadError> {
    let mut found: Vec<Message> = Vec::new();
    let mut bytes = 0;
    let mut next = after.saturating_add(1);
    while next <= head {
        let page = channel::index_from(rows, next, ROWS_PER_PAGE).map_err(storage_error)?;
        if page.is_empty() {
            break;
        }
        for (first_seq, row) in page {
            next = row.last_seq(first_seq).saturating_add(1);
            let batch = batch(group, first_seq, &row)?;
            let wanted = batch
                .messages
                .into_iter()
                .filter(|message| message.seq > after && message.seq <= head);
            for message in wanted {
                bytes += message.body.as_str().len();
                found.push(message);
                if found.len() >= limit.min(MESSAGES_MAX) || bytes > BYTES_MAX {
                    return Ok(found);
                }
            }
        }
    }
    Ok(found)
}

fn batch(group: &storage::Group, first_seq: u64, row: &IndexRow) -> Result<Committed, ReadError> {
    let entry = group.history(row.log_index).map_err(storage_error)?;
    let index = row.log_index;
    let Some(entry) = entry else {
        // An index row is written only for an applied entry, and both are kept for good.
        return Err(storage_error(group.damaged(index, "the entry is missing")));
    };
    let committed = channel::committed(first_seq, row, &entry.payload);
    committed.map_err(|error| storage_error(group.damaged(index, error.to_string())))
}
