//! EXECUTE of a SELECT that names one row by its key: what applications do most.
//!
//! It gives what the way of all SELECTs would ([`crate::server::cql::reads`]), but what can be
//! known when the statement is prepared is worked out then. Whatever is not quite as it should be
//! (a value of the wrong type, a page in the middle, a level of the conditional kind) is left to
//! that other way, which has the right words for it.

use std::sync::Arc;

use crate::coordinator::ReadOp;
use crate::cql::relations::{component, partition_bytes};
use crate::cql::rows::{Reader, RowView};
use crate::cql::schema::Schema;
use crate::cql::value;
use crate::meta::Table;
use crate::record::Row;
use crate::server::cql::error::CqlError;
use crate::server::cql::reads::TIMEOUT;
use crate::server::cql::request::Parameters;
use crate::server::cql::response::Rows;
use crate::server::cql::statement::{Ready, Target, Work};
use crate::server::cql::store::Store;
use crate::server::cql::wire::Value;
use crate::types::{Consistency, Key, WallMicros};

/// How a statement names its one row, and what it shows of it.
#[derive(Debug, Clone)]
pub(super) struct Point {
    /// The bind markers of the columns of the key, in its order.
    key: Vec<usize>,
    /// The places of the columns that are shown.
    shown: Vec<usize>,
}

impl Point {
    /// `None`: this is no such statement. Nor is one about a bucket, whose keys and values are
    /// others, or about a strong table, which is read by way of what was decided on it.
    pub(super) fn of(work: &Work) -> Option<Self> {
        let Work::Select(target, query) = work else { return None };
        let holds_rows = target.table.as_ref().is_some_and(|table| table.rows.is_some());
        if !holds_rows || target.is_strong() {
            return None;
        }
        let schema = &target.schema;
        let (key, shown) = (query.wheres.key_markers(schema)?, query.plain_columns()?);
        Some(Self { key, shown })
    }

    /// The partition's key and the row's place in it; `None`: these values are no key.
    fn place(&self, schema: &Schema, values: &[Value]) -> Option<(Vec<u8>, Vec<u8>)> {
        let mut parts = Vec::with_capacity(self.key.len());
        for (marker, column) in self.key.iter().zip(schema.columns()) {
            let Some(Value::Bytes(bytes)) = values.get(*marker) else { return None };
            value::validate(&column.kind, bytes).ok()?;
            parts.push(bytes);
        }
        let (partition, clustering) = parts.split_at_checked(schema.partition_key().len())?;
        if partition.iter().any(|part| part.len() > usize::from(u16::MAX)) {
            return None;
        }
        let columns = schema.clustering_key().iter().zip(clustering);
        let clustering = columns.flat_map(|(column, part)| component(column, part)).collect();
        Some((partition_bytes(partition), clustering))
    }
}

/// A read of one row.
#[derive(Debug)]
pub(super) struct PointRead {
    ready: Arc<Ready>,
    /// The id of the result metadata that the client has.
    known: Option<Vec<u8>>,
    partition: Vec<u8>,
    clustering: Vec<u8>,
    /// Of the row that stands for the whole partition, if that is another.
    head: Option<Key>,
    key: Key,
    level: Consistency,
    now: Option<WallMicros>,
    skip_metadata: bool,
}

impl PointRead {
    /// `None`: the statement is no such read, or not with these parameters. `known`: the id of the
    /// result metadata that the client has.
    pub(super) fn new(
        ready: Arc<Ready>,
        known: Option<&[u8]>,
        parameters: &Parameters,
    ) -> Option<Self> {
        let (Some(point), Work::Select(target, _)) = (&ready.point, &ready.work) else {
            return None;
        };
        let plain = parameters.paging_state.is_none()
            && parameters.names.is_none()
            && parameters.values.len() == ready.binds.columns.len()
            && !matches!(parameters.level, Consistency::Serial | Consistency::LocalSerial);
        if !plain {
            return None;
        }
        let (partition, clustering) = point.place(&target.schema, &parameters.values)?;
        let key = Key::of_row(&partition, &clustering).ok()?;
        let head = if target.schema.clustering_key().is_empty() {
            None
        } else {
            Some(Key::of_row(&partition, &[]).ok()?)
        };
        let known = known.map(<[u8]>::to_vec);
        let (level, now) = (parameters.level, parameters.now);
        let skip_metadata = parameters.skip_metadata;
        Some(Self { ready, known, partition, clustering, head, key, level, now, skip_metadata })
    }

    /// Reads the row from `store`.
    ///
    /// # Errors
    /// As any SELECT.
    pub(super) async fn run(&self, store: &dyn Store) -> Result<Rows, CqlError> {
        let now = self.now.unwrap_or_else(|| store.wall());
        let (Some(point), Work::Select(Target { schema, table: Some(table), .. }, _)) =
            (&self.ready.point, &self.ready.work)
        else {
            return Ok(Rows::default());
        };
        let head = match &self.head {
            Some(head) => Some(self.row(store, table, head).await?),
            None => None,
        };
        let row = self.row(store, table, &self.key).await?;
        let reader = Reader { schema, now };
        let view = reader.row(&self.partition, &self.clustering, head.as_ref(), &row);
        let show = |view: RowView| point.shown.iter().map(|at| view.values[*at].clone()).collect();
        Ok(Rows {
            metadata: self.ready.result.clone().unwrap_or_default(),
            skip_metadata: self.skip_metadata,
            changed: self.ready.news_for(self.known.as_deref()),
            rows: view.map(show).into_iter().collect(),
            ..Rows::default()
        })
    }

    async fn row(&self, store: &dyn Store, table: &Arc<Table>, key: &Key) -> Result<Row, CqlError> {
        let op = ReadOp {
            table: table.clone(),
            key: key.clone(),
            level: self.level,
            timeout: TIMEOUT,
            receipt: false,
            local: false,
        };
        let outcome = store.read(op).await.map_err(|e| CqlError::of_operation(&e, None))?;
        Ok(outcome.record.into_row().unwrap_or_default())
    }
}
