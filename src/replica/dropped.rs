//! Data of tables that are no more.
//!
//! A table's id is the number of the metadata entry that created it and is never used again
//! (TRUNCATE gives a table a new one). So once a node has applied that entry and knows no
//! table of the id, nobody will ever ask for its rows: they are deleted, some at a time. Whatever
//! interrupts that, the next look finds what is left; a write that was under way while its table was
//! dropped is found so too.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use bytes::Bytes;

use crate::meta::ClusterState;
use crate::net::Refusal;
use crate::replica::Replica;
use crate::replica::update::refuse_submit;
use crate::storage::keys::{self, Kind};
use crate::storage::{Batch, CommitTicket, KeyRange, StorageError};
use crate::types::TableId;

/// What a table has on a disk; its hints go where they would be delivered.
const KINDS: [Kind; 6] =
    [Kind::Record, Kind::Paxos, Kind::Tree, Kind::Purge, Kind::Index, Kind::IndexBuild];

/// Rows of one batch.
const MAX_ROWS: usize = 512;

/// True when the table was created by an entry that `state` has applied, and is no more.
fn is_dropped(state: &ClusterState, table: TableId) -> bool {
    table.entry() <= state.epoch().0 && state.table(table).is_none()
}

impl Replica {
    /// The dropped tables of which something is left on this disk. Blocks on the disk.
    ///
    /// # Errors
    /// Any [`StorageError`].
    pub(crate) fn dropped_tables(
        &self,
        state: &ClusterState,
    ) -> Result<BTreeSet<TableId>, StorageError> {
        let mut found = BTreeSet::new();
        for kind in KINDS {
            let mut range = KeyRange::prefix(&[kind as u8]);
            // From one table's rows to the next table's.
            while let Some(table) = self.first_table(&range)? {
                if is_dropped(state, table) {
                    found.insert(table);
                }
                let Some(next) = keys::table_rows(kind, table).end else { break };
                range.start = next;
                if range.is_empty() {
                    break;
                }
            }
        }
        Ok(found)
    }

    fn first_table(&self, range: &KeyRange) -> Result<Option<TableId>, StorageError> {
        let mut first = None;
        self.engine.scan(range, &mut |row, _| {
            let table = row.get(1..5).and_then(|id| <[u8; 4]>::try_from(id).ok());
            first = table.map(|id| TableId(u32::from_be_bytes(id)));
            ControlFlow::Break(())
        })?;
        Ok(first)
    }

    /// Deletes some of what a dropped table has left; nothing, if it is not dropped, or nothing is
    /// left. Blocks on the disk.
    ///
    /// # Errors
    /// A [`Refusal`]; nothing was deleted.
    pub(crate) fn delete_dropped(
        &self,
        state: &ClusterState,
        table: TableId,
    ) -> Result<Option<CommitTicket>, Refusal> {
        if !is_dropped(state, table) {
            return Ok(None);
        }
        self.delete_some(KINDS.map(|kind| keys::table_rows(kind, table)))
    }

    /// Deletes the first [`MAX_ROWS`] keys of these ranges; `None`: there are none. Blocks on the
    /// disk.
    ///
    /// # Errors
    /// A [`Refusal`]; nothing was deleted.
    pub(super) fn delete_some(
        &self,
        ranges: impl IntoIterator<Item = KeyRange>,
    ) -> Result<Option<CommitTicket>, Refusal> {
        let mut batch = Batch::new();
        let mut rows = 0;
        for range in ranges {
            let mut visit = |row: &[u8], _: Result<&[u8], StorageError>| {
                if rows >= MAX_ROWS {
                    return ControlFlow::Break(());
                }
                rows += 1;
                batch.delete(Bytes::copy_from_slice(row));
                ControlFlow::Continue(())
            };
            self.engine.scan(&range, &mut visit).map_err(|e| self.refuse_storage(&e))?;
        }
        if rows == 0 {
            return Ok(None);
        }
        self.committer.submit(batch).map(Some).map_err(|e| refuse_submit(&e))
    }
}
