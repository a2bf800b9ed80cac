//! What has to be read besides the rows that an index has found.
//!
//! An index shows single rows. What their partition's head deletes of them, and what it holds in
//! static columns, is read apart, and after them. So a row could be seen as it was before a batch
//! that deletes its partition and writes it anew, and the head as it is after: the row would be
//! nowhere. A row whose head deletes anything is therefore read once more, after its head.

use std::collections::BTreeMap;

use futures_util::future::join_all;

use super::{Current, Reading, key_of};
use crate::record::{Record, Row};
use crate::server::cql::error::CqlError;
use crate::types::{Key, Token};

/// Heads that are read at once.
const AT_ONCE: usize = 16;

impl Reading<'_> {
    /// The heads of the partitions that begin in `rows`, which an index has found.
    pub(super) async fn heads(
        &self,
        current: &Current,
        rows: &[(Token, Key, Record)],
    ) -> Result<BTreeMap<Vec<u8>, Row>, CqlError> {
        let mut heads = BTreeMap::new();
        if self.ask.schema.clustering_key().is_empty() {
            return Ok(heads);
        }
        let partitions = rows.iter().filter_map(|(_, key, _)| Some(key.row_parts()?.0));
        let mut partitions: Vec<&[u8]> = partitions.collect();
        partitions.dedup();
        partitions.retain(|partition| *partition != current.partition);
        for some in partitions.chunks(AT_ONCE) {
            let reads = some.iter().map(|partition| async move {
                let head = self.row(key_of(partition, &[])?).await?;
                Ok::<_, CqlError>((partition.to_vec(), head))
            });
            for head in join_all(reads).await {
                heads.extend([head?]);
            }
        }
        Ok(heads)
    }

    /// The row at `key` as it is now, if its head, which was read after it, deletes anything.
    pub(super) async fn beneath(
        &self,
        head: Option<&Row>,
        key: &Key,
    ) -> Result<Option<Row>, CqlError> {
        match head {
            Some(head) if head.deleted().is_some() || !head.ranges().is_empty() => {
                self.row(key.clone()).await.map(Some)
            }
            _ => Ok(None),
        }
    }
}
