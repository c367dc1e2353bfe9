//! A group's rows in the store, as the state machines see them.

use std::ops::Bound;

use accord_storage as storage;
use accord_storage::Order;
use accord_storage::Table;

use crate::machine::Row;
use crate::machine::View;
use crate::machine::ViewError;

#[derive(Clone)]
pub(crate) struct GroupRows(storage::Group);

impl GroupRows {
    pub(crate) fn new(group: storage::Group) -> Self {
        GroupRows(group)
    }
}

impl View for GroupRows {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, ViewError> {
        self.0.get(table, key).map_err(ViewError::new)
    }

    fn scan(
        &self,
        table: Table,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        order: Order,
        limit: usize,
    ) -> Result<Vec<Row>, ViewError> {
        self.0
            .scan(table, from, to, order, limit)
            .map_err(ViewError::new)
    }
}
