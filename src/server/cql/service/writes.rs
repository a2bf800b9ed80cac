//! Changes of several statements, gathered by table and partition, and written together.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::{join, join_all};

use super::CqlService;
use crate::coordinator::{CountOp, CountRow, OpError, PartitionRows, ReadOp, RowsOp};
use crate::cql::modify::{Counts, Modify, Moment, Mutation};
use crate::cql::rows::carry_deletions;
use crate::cql::term::Binds;
use crate::meta::Table;
use crate::record::{Record, Row};
use crate::server::cql::error::CqlError;
use crate::server::cql::reads::TIMEOUT;
use crate::server::cql::statement::Target;
use crate::server::cql::system;
use crate::types::{Consistency, Key, TableId, WallMicros};

/// How changes are written.
#[derive(Debug, Clone, Copy)]
pub(super) struct How {
    pub(super) stamp: Option<i64>,
    pub(super) level: Consistency,
    /// What time it is, if the request says so.
    pub(super) now: Option<WallMicros>,
}

impl CqlService {
    /// Adds a statement's changes to what is to be written.
    pub(super) async fn gather(
        &self,
        writes: &mut Writes,
        target: &Target,
        modify: &Modify,
        binds: Binds<'_>,
        how: How,
    ) -> Result<(), CqlError> {
        let Some(table) = &target.table else {
            return Err(system::read_only(&target.keyspace));
        };
        if modify.is_count(&target.schema) {
            let counts = modify.counts(&target.schema, binds).map_err(CqlError::invalid)?;
            writes.count(table, counts);
            return Ok(());
        }
        writes.values |= !target.schema.has_counters();
        let mut current = BTreeMap::new();
        if modify.needs_read(&target.schema) {
            for key in modify.keys(&target.schema, binds).map_err(CqlError::invalid)? {
                let level = match how.level {
                    Consistency::Any => Consistency::One,
                    other => other,
                };
                let head = self.row(table, &key.0, &[], level).await?;
                let row = if key.1.is_empty() {
                    head.clone()
                } else {
                    self.row(table, &key.0, &key.1, level).await?
                };
                current.insert(key, (head, row));
            }
        }
        let now = self.wall(how.now);
        let moment = Moment {
            stamp: how.stamp.unwrap_or_else(|| self.stamp()),
            now,
            clock: self.store.wall(),
            order: now.0,
            current: &current,
        };
        let mutations =
            modify.mutations(&target.schema, binds, &moment).map_err(CqlError::invalid)?;
        mutations.into_iter().for_each(|mutation| writes.add(table, mutation));
        Ok(())
    }

    async fn row(
        &self,
        table: &Arc<Table>,
        partition: &[u8],
        clustering: &[u8],
        level: Consistency,
    ) -> Result<Row, CqlError> {
        let key = Key::of_row(partition, clustering);
        let key = key.map_err(|error| CqlError::invalid(error.to_string()))?;
        let op = ReadOp {
            table: table.clone(),
            key,
            level,
            timeout: TIMEOUT,
            receipt: false,
            local: false,
        };
        let outcome = self.store.read(op).await.map_err(|e| CqlError::of_operation(&e, None))?;
        Ok(outcome.record.row().cloned().unwrap_or_default())
    }

    /// Writes all that was gathered, and waits for every part of it.
    pub(super) async fn write(
        &self,
        writes: Writes,
        level: Consistency,
        word: &str,
    ) -> Result<(), CqlError> {
        let operations = rows_of(writes.partitions)?.into_iter().map(|(table, rows)| RowsOp {
            table,
            rows,
            level,
            timeout: TIMEOUT,
        });
        let mut counts = Vec::with_capacity(writes.counts.len());
        for (table, rows) in writes.counts.into_values() {
            let rows = rows.into_iter().map(|((partition, clustering), adds)| {
                let key = Key::of_row(&partition, &clustering);
                let key = key.map_err(|error| CqlError::invalid(error.to_string()))?;
                Ok(CountRow { key, adds: adds.into_iter().collect() })
            });
            let rows = rows.collect::<Result<_, CqlError>>()?;
            counts.push(CountOp { table, rows, level, timeout: TIMEOUT });
        }
        let word = if counts.is_empty() { word } else { "COUNTER" };
        let written = join_all(operations.map(|op| self.store.write(op)));
        let counted = join_all(counts.into_iter().map(|op| self.store.count(op)));
        let (mut results, counted) = join(written, counted).await;
        results.extend(counted);
        OpError::of_parts(level, results)
            .map_err(|error| CqlError::of_operation(&error, Some(word)))
    }
}

/// Rows of one partition to write, by clustering bytes.
type PartitionWrites = (Arc<Table>, BTreeMap<Vec<u8>, Row>);

/// The same as records, a partition each.
pub(super) fn rows_of(
    partitions: BTreeMap<(TableId, Vec<u8>), PartitionWrites>,
) -> Result<Vec<PartitionRows>, CqlError> {
    let mut parts = Vec::with_capacity(partitions.len());
    for ((_, partition), (table, mut rows)) in partitions {
        carry_deletions(&mut rows);
        let mut keyed = Vec::with_capacity(rows.len());
        for (clustering, row) in rows {
            let key = Key::of_row(&partition, &clustering);
            let key = key.map_err(|error| CqlError::invalid(error.to_string()))?;
            keyed.push((key, Record::of_row(row)));
        }
        if !keyed.is_empty() {
            parts.push((table, keyed));
        }
    }
    Ok(parts)
}

/// Rows to write, by table and partition, then by clustering bytes.
#[derive(Default)]
pub(super) struct Writes {
    pub(super) partitions: BTreeMap<(TableId, Vec<u8>), PartitionWrites>,
    /// Increments of counters.
    pub(super) counts: BTreeMap<TableId, (Arc<Table>, Counts)>,
    /// A table without counters is written.
    pub(super) values: bool,
}

impl Writes {
    fn count(&mut self, table: &Arc<Table>, counts: Counts) {
        let (_, rows) =
            self.counts.entry(table.id).or_insert_with(|| (table.clone(), Counts::new()));
        for (row, adds) in counts {
            let own = rows.entry(row).or_default();
            for (column, add) in adds {
                let sum = own.entry(column).or_default();
                *sum = sum.wrapping_add(add);
            }
        }
    }

    fn add(&mut self, table: &Arc<Table>, mutation: Mutation) {
        let entry = self
            .partitions
            .entry((table.id, mutation.partition))
            .or_insert_with(|| (table.clone(), BTreeMap::new()));
        for (clustering, row) in mutation.rows {
            match entry.1.get_mut(&clustering) {
                Some(own) => own.join(&row),
                None => {
                    entry.1.insert(clustering, row);
                }
            }
        }
    }
}
