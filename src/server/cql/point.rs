//! EXECUTE of a SELECT that names one row by its key: what applications do most.
//!
//! It gives what the way of all SELECTs would ([`crate::server::cql::reads`]), but what can be
//! known when the statement is prepared is worked out then. Whatever is not quite as it should be
//! (a value of the wrong type, a page in the middle, a level of the conditional kind) is left to
//! that other way, which has the right words for it.

use std::sync::Arc;

use bytes::Bytes;

use crate::coordinator::{OpError, ReadOp, ReadOutcome};
use crate::cql::relations::{component, partition_bytes};
use crate::cql::rows::Reader;
use crate::cql::schema::{Column, Schema};
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

    /// The keys of the row and of its partition's head, if that is another; `None`: these values are
    /// no key.
    fn keys(&self, schema: &Schema, values: &[Value]) -> Option<(Key, Option<Key>)> {
        let mut markers = self.key.iter();
        let joined;
        let partition = match schema.partition_key() {
            [only] => part(values, only, *markers.next()?)?,
            several => {
                let parts = several.iter().zip(markers.by_ref());
                let parts = parts.map(|(column, marker)| part(values, column, *marker));
                let parts = parts.collect::<Option<Vec<_>>>()?;
                if parts.iter().any(|part| part.len() > usize::from(u16::MAX)) {
                    return None;
                }
                joined = partition_bytes(&parts);
                &joined[..]
            }
        };
        let mut clustering = Vec::new();
        for (marker, column) in markers.zip(schema.clustering_key()) {
            clustering.extend(component(column, part(values, column, *marker)?));
        }
        let head = match schema.clustering_key() {
            [] => None,
            _ => Some(Key::of_row(partition, &[]).ok()?),
        };
        Some((Key::of_row(partition, &clustering).ok()?, head))
    }
}

/// The value of a column of a key; `None`: it is none.
fn part<'v>(values: &'v [Value], column: &Column, marker: usize) -> Option<&'v [u8]> {
    let Some(Value::Bytes(bytes)) = values.get(marker) else { return None };
    value::validate(&column.kind, bytes).ok()?;
    Some(bytes)
}

/// A read of one row.
#[derive(Debug)]
pub(super) struct PointRead {
    ready: Arc<Ready>,
    /// The id of the result metadata that the client has.
    known: Option<Vec<u8>>,
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
        let (key, head) = point.keys(&target.schema, &parameters.values)?;
        let known = known.map(<[u8]>::to_vec);
        let (level, now) = (parameters.level, parameters.now);
        let skip_metadata = parameters.skip_metadata;
        Some(Self { ready, known, head, key, level, now, skip_metadata })
    }

    /// Reads the row from `store`.
    ///
    /// # Errors
    /// As any SELECT.
    pub(super) async fn run(&self, store: &dyn Store) -> Result<Rows, CqlError> {
        let now = self.now.unwrap_or_else(|| store.wall());
        let Some((point, target, table)) = self.parts() else { return Ok(Rows::default()) };
        let head = match &self.head {
            Some(head) => Some(row_of(store.read(self.op(table, head)).await)?),
            None => None,
        };
        let row = row_of(store.read(self.op(table, &self.key)).await)?;
        Ok(self.shown(point, target, now, head.as_ref(), &row))
    }

    /// The same, where the node need not ask anybody nor wait. `None`: it has to.
    pub(super) fn run_at_once(&self, store: &dyn Store) -> Option<Result<Rows, CqlError>> {
        let now = self.now.unwrap_or_else(|| store.wall());
        let (point, target, table) = self.parts()?;
        let read = |key: &Key| store.read_at_once(&self.op(table, key)).map(row_of);
        let head = match &self.head {
            Some(head) => match read(head)? {
                Ok(head) => Some(head),
                Err(error) => return Some(Err(error)),
            },
            None => None,
        };
        let row = read(&self.key)?;
        Some(row.map(|row| self.shown(point, target, now, head.as_ref(), &row)))
    }

    /// How the row is named, and the table that it is in.
    fn parts(&self) -> Option<(&Point, &Target, &Arc<Table>)> {
        match (&self.ready.point, &self.ready.work) {
            (Some(point), Work::Select(target @ Target { table: Some(table), .. }, _)) => {
                Some((point, target, table))
            }
            _ => None,
        }
    }

    /// The read of one row of `table`.
    fn op(&self, table: &Arc<Table>, key: &Key) -> ReadOp {
        ReadOp {
            table: table.clone(),
            key: key.clone(),
            level: self.level,
            timeout: TIMEOUT,
            receipt: false,
            local: false,
        }
    }

    /// What the client is shown of a row.
    fn shown(
        &self,
        point: &Point,
        target: &Target,
        now: WallMicros,
        head: Option<&Row>,
        row: &Row,
    ) -> Rows {
        let reader = Reader { schema: &target.schema, now };
        let parts = self.key.row_parts();
        let values = parts.and_then(|(partition, clustering)| {
            reader.values_of_row(partition, clustering, head, row)
        });
        let show = |values: Vec<Option<Bytes>>| {
            point.shown.iter().map(|at| values[*at].clone()).collect::<Vec<_>>()
        };
        Rows {
            metadata: self.ready.result.clone().unwrap_or_default(),
            skip_metadata: self.skip_metadata,
            changed: self.ready.news_for(self.known.as_deref()),
            rows: values.map(show).into_iter().collect(),
            paging_state: None,
            warning: None,
        }
    }
}

fn row_of(outcome: Result<ReadOutcome, OpError>) -> Result<Row, CqlError> {
    let outcome = outcome.map_err(|error| CqlError::of_operation(&error, None))?;
    Ok(outcome.record.into_row().unwrap_or_default())
}
