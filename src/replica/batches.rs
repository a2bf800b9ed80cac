//! Finding batches that are on record here.

use std::ops::ControlFlow;

use bytes::Bytes;

use crate::plants::{Plant, planted};
use crate::record::{self, Record};
use crate::replica::Replica;
use crate::storage::StorageError;
use crate::storage::keys::{self, Kind};
use crate::types::{Key, TableId, WallMicros};

/// What one look has found.
#[derive(Debug, Default)]
pub(crate) struct BatchPage {
    /// Keys under which a batch stands.
    pub(crate) keys: Vec<Key>,
    /// The storage key to go on after, if there are more.
    pub(crate) next: Option<Bytes>,
}

impl Replica {
    /// Keys of the table `log` that are not deleted, of the first `limit` behind `after`. Blocks on the
    /// disk: call it through `Env::blocking`.
    ///
    /// # Errors
    /// The engine's. A damaged record is left out: others hold it too.
    pub(crate) fn batches(
        &self,
        log: TableId,
        after: Option<&Bytes>,
        limit: usize,
        now: WallMicros,
    ) -> Result<BatchPage, StorageError> {
        let mut range = keys::table_rows(Kind::Record, log);
        if let Some(after) = after {
            range.start = [&after[..], &[0]].concat().into();
        }
        let (mut page, mut seen) = (BatchPage::default(), 0);
        if planted(Plant::P45) {
            return Ok(page);
        }
        self.engine.scan(&range, &mut |row, stored| {
            if let (Ok(parsed), Ok(bytes)) = (keys::parse_row(row), stored) {
                let address = record::address(log, &parsed.key);
                let found = Record::decode(&Bytes::copy_from_slice(bytes), &address);
                if found.is_ok_and(|record| !record.view(now).versions.is_empty()) {
                    page.keys.push(parsed.key);
                }
            }
            seen += 1;
            if seen < limit {
                return ControlFlow::Continue(());
            }
            page.next = Some(Bytes::copy_from_slice(row));
            ControlFlow::Break(())
        })?;
        Ok(page)
    }
}
