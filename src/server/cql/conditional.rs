//! Writes with IF: judged by the coordinator's Paxos on the rows as they are.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::coordinator::{ConditionalOp, ConditionalOutcome, RowsJudge};
use crate::cql::functions::Now;
use crate::cql::modify::{Modify, Moment, RowKey};
use crate::cql::rows::{Reader, RowView, carry_deletions};
use crate::cql::schema::{Role, Schema};
use crate::cql::term::{Binds, Bound};
use crate::cql::types::CqlType;
use crate::meta::Table;
use crate::record::Row;
use crate::server::cql::direct::APPLIED;
use crate::server::cql::error::CqlError;
use crate::server::cql::reads::TIMEOUT;
use crate::server::cql::response::{ColumnSpec, Metadata, Rows};
use crate::server::cql::statement::Target;
use crate::types::{Consistency, Key, WallMicros};

/// One statement with its values and its moment.
#[derive(Debug, Clone)]
pub(super) struct Write {
    pub(super) modify: Modify,
    pub(super) values: Vec<Bound>,
    /// When it was asked for, and its share of chance: it must say the same each time it is judged.
    pub(super) at: (WallMicros, u128),
}

/// Statements of one partition of which some have conditions: all take effect, or none.
#[derive(Debug)]
pub(super) struct Conditional {
    schema: Arc<Schema>,
    table: Arc<Table>,
    /// Of the result.
    names: (String, String),
    partition: Vec<u8>,
    is_batch: bool,
    writes: Vec<Write>,
}

/// Heads and rows by key.
type Current = BTreeMap<RowKey, (Row, Row)>;

fn key_of(partition: &[u8], clustering: &[u8]) -> Result<Key, String> {
    Key::of_row(partition, clustering).map_err(|error| error.to_string())
}

impl Conditional {
    /// Puts statements together, each with the table that it is about.
    ///
    /// # Errors
    /// They are of several partitions, or a condition names no single rows.
    pub(super) fn new(writes: Vec<(Target, Write)>, is_batch: bool) -> Result<Self, CqlError> {
        let invalid = |what: &str| CqlError::invalid(what);
        let Some((target, _)) = writes.first() else {
            return Err(invalid("an empty batch has no conditions"));
        };
        let Some(table) = target.table.clone() else {
            return Err(crate::server::cql::system::read_only(&target.keyspace));
        };
        let target_is_strong = target.is_strong();
        let (schema, names) =
            (target.schema.clone(), (target.keyspace.clone(), target.name.clone()));
        let mut partitions: Vec<Vec<u8>> = Vec::new();
        for (target, write) in &writes {
            if target.table.as_ref().is_none_or(|own| own.id != table.id) {
                return Err(invalid("Batch with conditions cannot span multiple tables"));
            }
            let now = write.now();
            let own = write.modify.partitions(&schema, write.binds(&now));
            partitions.extend(own.map_err(CqlError::invalid)?);
        }
        partitions.sort_unstable();
        partitions.dedup();
        let Some(partition) = partitions.pop().filter(|_| partitions.is_empty()) else {
            return Err(invalid(if is_batch {
                "Batch with conditions cannot span multiple partitions"
            } else {
                "IN on the partition key is not supported with conditional updates"
            }));
        };
        let writes = writes.into_iter().map(|(_, write)| write).collect();
        let all = Self { schema, table, names, partition, is_batch, writes };
        for write in &all.writes {
            let keys = all.keys(write).map_err(CqlError::invalid)?;
            if target_is_strong && (keys.is_empty() || write.modify.has_timestamp()) {
                return Err(invalid(
                    "a write of a table WITH conflict = 'strong' names whole rows, and no timestamp",
                ));
            }
            if write.modify.condition().is_some() && keys.is_empty() {
                return Err(invalid(
                    "DELETE statements must restrict all PRIMARY KEY columns with equality \
                     relations in order to use IF conditions on regular columns",
                ));
            }
        }
        Ok(all)
    }

    /// Whether any of them has conditions. (All writes of a strong table come this way.)
    pub(super) fn has_conditions(&self) -> bool {
        self.writes.iter().any(|write| write.modify.condition().is_some())
    }

    fn keys(&self, write: &Write) -> Result<Vec<RowKey>, String> {
        let now = write.now();
        write.modify.keys(&self.schema, write.binds(&now))
    }

    /// The operation that decides it at `level`.
    pub(super) fn operation(
        self: &Arc<Self>,
        level: Consistency,
    ) -> Result<ConditionalOp, CqlError> {
        let head = key_of(&self.partition, &[]).map_err(CqlError::invalid)?;
        let mut rows = Vec::new();
        for write in &self.writes {
            for (_, clustering) in self.keys(write).map_err(CqlError::invalid)? {
                if !clustering.is_empty() {
                    rows.push(key_of(&self.partition, &clustering).map_err(CqlError::invalid)?);
                }
            }
        }
        let (table, judge) = (self.table.clone(), self.clone());
        Ok(ConditionalOp { table, head, rows, judge, level, timeout: TIMEOUT })
    }

    fn current(&self, rows: &BTreeMap<Key, Row>) -> Result<Current, String> {
        let row_of = |key: &Key| rows.get(key).cloned().unwrap_or_default();
        let head = row_of(&key_of(&self.partition, &[])?);
        let mut current = Current::new();
        for write in &self.writes {
            for key in self.keys(write)? {
                let row = match key.1.is_empty() {
                    true => head.clone(),
                    false => row_of(&key_of(&self.partition, &key.1)?),
                };
                current.insert(key, (head.clone(), row));
            }
        }
        Ok(current)
    }

    /// What stands at `key`: the row, or the static columns of its partition; and whether it is
    /// what the statement is about.
    fn view(&self, key: &RowKey, current: &Current, now: WallMicros) -> (Option<RowView>, bool) {
        let reader = Reader { schema: &self.schema, now };
        let Some((head, row)) = current.get(key) else { return (None, false) };
        if self.schema.clustering_key().is_empty() {
            let view = reader.row(&key.0, &[], None, row);
            let exists = view.is_some();
            return (view, exists);
        }
        let statics = || reader.static_row(&key.0, head);
        if key.1.is_empty() {
            let view = statics();
            let exists = view.is_some();
            return (view, exists);
        }
        match reader.row(&key.0, &key.1, Some(head), row) {
            Some(view) => (Some(view), true),
            None => (statics(), false),
        }
    }

    /// The answer to one that did not take effect.
    pub(super) fn refusal(&self, outcome: &ConditionalOutcome) -> Result<Rows, CqlError> {
        let current = self.current(&outcome.rows).map_err(CqlError::invalid)?;
        let (mut shown, mut places) = (Vec::new(), Vec::new());
        for write in &self.writes {
            let condition = write.modify.condition();
            if !condition.is_some() {
                continue;
            }
            if condition.is_not_exists() || (self.is_batch && condition.is_about_existence()) {
                places.extend(0..self.schema.columns().len());
            }
            places.extend(condition.places(&self.schema));
            for key in self.keys(write).map_err(CqlError::invalid)? {
                let (view, exists) = self.view(&key, &current, outcome.now);
                let Some(mut view) =
                    view.filter(|_| exists || condition.is_about_statics(&self.schema))
                else {
                    continue;
                };
                if condition.is_not_exists() && !write.modify.writes_static(&self.schema) {
                    for (place, column) in self.schema.columns().iter().enumerate() {
                        if column.role == Role::Static {
                            view.values[place] = None;
                        }
                    }
                }
                shown.push(view);
            }
        }
        if self.is_batch {
            places
                .extend(0..self.schema.partition_key().len() + self.schema.clustering_key().len());
        }
        if shown.is_empty() {
            places.clear();
        }
        places.sort_unstable();
        places.dedup();
        let applied = Some(Bytes::from_static(&[0]));
        let mut rows: Vec<Vec<Option<Bytes>>> = shown
            .into_iter()
            .map(|view| {
                let values = places.iter().map(|at| view.values[*at].clone());
                std::iter::once(applied.clone()).chain(values).collect()
            })
            .collect();
        if rows.is_empty() {
            rows.push(vec![applied]);
        }
        Ok(self.rows(&places, rows))
    }

    /// The answer to one that took effect.
    pub(super) fn applied(&self) -> Rows {
        self.rows(&[], vec![vec![Some(Bytes::from_static(&[1]))]])
    }

    fn rows(&self, places: &[usize], rows: Vec<Vec<Option<Bytes>>>) -> Rows {
        let column = |at: &usize| {
            let column = &self.schema.columns()[*at];
            ColumnSpec { name: column.name.clone(), kind: column.kind.clone() }
        };
        let applied = ColumnSpec { name: APPLIED.to_owned(), kind: CqlType::Boolean };
        let (keyspace, table) = self.names.clone();
        let columns = std::iter::once(applied).chain(places.iter().map(column)).collect();
        // PREPARE could not announce these columns, so they are never left out.
        let metadata = Arc::new(Metadata { keyspace, table, columns });
        Rows { metadata, rows, ..Rows::default() }
    }
}

impl Write {
    /// Its moment, as new.
    pub(super) fn now(&self) -> Now {
        Now::new(self.at.0.0, self.at.1)
    }

    /// Its values at `now`.
    pub(super) fn binds<'a>(&'a self, now: &'a Now) -> Binds<'a> {
        Binds { values: &self.values, now }
    }
}

impl RowsJudge for Conditional {
    fn judge(
        &self,
        rows: &BTreeMap<Key, Row>,
        stamp: i64,
        now: WallMicros,
    ) -> Result<Option<Vec<(Key, Row)>>, String> {
        let current = self.current(rows)?;
        for write in &self.writes {
            let moment = write.now();
            for key in self.keys(write)? {
                let (view, exists) = self.view(&key, &current, now);
                let condition = write.modify.condition();
                let binds = write.binds(&moment);
                if !condition.holds(&self.schema, view.as_ref(), exists, binds)? {
                    return Ok(None);
                }
            }
        }
        let mut changed: BTreeMap<Vec<u8>, Row> = BTreeMap::new();
        for write in &self.writes {
            let own = write.now();
            // Its stamp is the round's own.
            let clock = WallMicros(u64::MAX);
            // Lists grow in the order in which rounds decide, not in which requests came.
            let order = u64::try_from(stamp).unwrap_or(0);
            let moment = Moment { stamp, now, clock, order, current: &current };
            let mutations = write.modify.mutations(&self.schema, write.binds(&own), &moment)?;
            for (clustering, row) in mutations.into_iter().flat_map(|mutation| mutation.rows) {
                changed.entry(clustering).or_default().join(&row);
            }
        }
        carry_deletions(&mut changed);
        let keyed =
            |(clustering, row): (Vec<u8>, Row)| Ok((key_of(&self.partition, &clustering)?, row));
        changed.into_iter().map(keyed).collect::<Result<_, String>>().map(Some)
    }
}
