//! Statements made ready: parsed, looked up in the schema, their bind markers typed.

use std::borrow::Cow;
use std::sync::Arc;

use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use crate::cql::ast::{BatchKind, InsertJson, Name, Statement, Term, Using};
use crate::cql::modify::Modify;
use crate::cql::relations::MarkerType;
use crate::cql::schema::Schema;
use crate::cql::select::Query;
use crate::cql::term::Bound;
use crate::cql::types::{CqlType, UdtType};
use crate::cql::{self, json, value};
use crate::meta::{ClusterState, Table};
use crate::server::cql::buckets;
use crate::server::cql::error::CqlError;
use crate::server::cql::point::Point;
use crate::server::cql::response::{ColumnSpec, Metadata};
use crate::server::cql::system;
use crate::server::cql::wire::Value;

/// The table that a statement is about.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) keyspace: String,
    pub(super) name: String,
    pub(super) schema: Arc<Schema>,
    /// `None`: a table of the system, which this node answers by itself.
    pub(super) table: Option<Arc<Table>>,
}

/// What a statement does.
#[derive(Debug, Clone)]
pub(super) enum Work {
    Select(Target, Query),
    Modify(Target, Modify),
    Batch {
        kind: BatchKind,
        using: Using,
        writes: Vec<(Target, Modify)>,
    },
    /// DDL, USE and so on: looked up when it runs.
    Other(Statement),
}

/// A statement made ready.
#[derive(Debug, Clone)]
pub(super) struct Ready {
    pub(super) id: [u8; 16],
    pub(super) work: Work,
    /// The keyspace that was in use.
    pub(super) keyspace: Option<String>,
    pub(super) binds: Metadata,
    /// Of a SELECT that names one row by its key.
    pub(super) point: Option<Point>,
    /// Markers of the partition key's columns, in key order; empty unless all are bound.
    pub(super) key: Vec<u16>,
    pub(super) result: Option<Arc<Metadata>>,
    /// The id of `result`.
    pub(super) result_id: Option<[u8; 16]>,
    pub(super) text: String,
    /// A digest of the text.
    pub(super) digest: u64,
    /// Rows of its INSERT JSON.
    json: Vec<JsonRow>,
}

/// The row of an INSERT JSON. Its columns follow the bind markers' values, and those of the rows
/// before it, as if each were bound by itself.
#[derive(Debug, Clone)]
struct JsonRow {
    schema: Arc<Schema>,
    given: InsertJson,
}

impl JsonRow {
    /// The values of its columns.
    fn columns(&self, values: &[Bound]) -> Result<Vec<Bound>, CqlError> {
        let text = match &self.given.row {
            Term::Text(text) => Cow::Borrowed(text.as_str()),
            Term::Bind(at) => match values.get(*at) {
                Some(Bound::Value(bytes)) => String::from_utf8_lossy(bytes),
                Some(Bound::Unset) => {
                    return Err(CqlError::invalid(
                        "Invalid unset value for argument 0 of INSERT JSON",
                    ));
                }
                Some(Bound::Null) | None => {
                    return Err(CqlError::invalid("Got null for INSERT JSON values"));
                }
            },
            _ => return Err(CqlError::invalid("the row of an INSERT JSON is a text")),
        };
        json::columns(&self.schema, &text, self.given.unset).map_err(CqlError::invalid)
    }
}

/// Numbers the columns of JSON rows after `binds` bind markers, in the order of the writes.
fn spread<'a>(
    writes: impl Iterator<Item = &'a mut (Target, Modify)>,
    binds: usize,
) -> Vec<JsonRow> {
    let (mut rows, mut next) = (Vec::new(), binds);
    for (target, modify) in writes {
        if let Some(given) = modify.json().cloned() {
            modify.spread_json(&target.schema, next);
            next += target.schema.columns().len();
            rows.push(JsonRow { schema: target.schema.clone(), given });
        }
    }
    rows
}

/// Finds a table or says why not.
pub(super) fn target(
    state: &ClusterState,
    keyspace: Option<&str>,
    name: &Name,
) -> Result<Target, CqlError> {
    let Some(keyspace) = name.keyspace.as_deref().or(keyspace) else {
        return Err(CqlError::invalid(
            "No keyspace has been specified. USE a keyspace, or explicitly specify keyspace.tablename",
        ));
    };
    // Traces are rows like others once there are any; until then their tables are empty.
    let table = state.table_of(keyspace, &name.name);
    if table.is_none()
        && let Some(schema) = system::schema(keyspace, &name.name)
    {
        let (keyspace, name) = (keyspace.to_owned(), name.name.clone());
        return Ok(Target { keyspace, name, schema, table: None });
    }
    if !has_keyspace(state, keyspace) {
        return Err(CqlError::invalid(format!("keyspace {keyspace} does not exist")));
    }
    let Some(table) = table else {
        return Err(CqlError::invalid(format!("unconfigured table {}", name.name)));
    };
    let schema = buckets::schema_of(table);
    let (keyspace, name) = (keyspace.to_owned(), name.name.clone());
    Ok(Target { keyspace, name, schema, table: Some(table.clone()) })
}

/// True of a keyspace that CQL has made, of the system's, and of those that buckets are in.
pub(super) fn has_keyspace(state: &ClusterState, keyspace: &str) -> bool {
    let is_buckets = || state.tables().values().any(|table| table.name.keyspace == keyspace);
    state.keyspaces().contains_key(keyspace) || system::is_keyspace(keyspace) || is_buckets()
}

impl Target {
    /// True of a table of rows that are written by Paxos only.
    pub(super) fn is_strong(&self) -> bool {
        buckets::is_strong(&self.schema)
    }

    fn label(&self) -> String {
        format!("{}.{}", self.keyspace, self.name)
    }

    /// True when the table is still what it was.
    fn is_current(&self, state: &ClusterState) -> bool {
        match &self.table {
            None => state.table_of(&self.keyspace, &self.name).is_none(),
            Some(table) => state.table(table.id).is_some_and(|now| now.version == table.version),
        }
    }
}

impl Ready {
    /// Makes `text` ready.
    pub(super) fn new(
        state: &ClusterState,
        keyspace: Option<&str>,
        text: &str,
    ) -> Result<Self, CqlError> {
        let parsed = cql::parse(text).map_err(|error| CqlError::syntax(&error))?;
        let mut markers: Vec<MarkerType> = Vec::new();
        let mut json = Vec::new();
        let (work, result) = match parsed.statement {
            Statement::Select(select) => {
                let target = target(state, keyspace, &select.table)?;
                let find = |in_keyspace: Option<&str>, name: &str| {
                    udt(state, in_keyspace.unwrap_or(&target.keyspace), name)
                };
                let query = Query::resolve(&target.schema, &target.label(), &select, &find)
                    .map_err(CqlError::invalid)?;
                markers.extend(query.bind_types(&target.schema));
                let result = result_of(&target, &query);
                (Work::Select(target, query), Some(Arc::new(result)))
            }
            Statement::Batch(batch) => {
                let mut writes = Vec::new();
                for statement in &batch.statements {
                    let write = modify(state, keyspace, statement)?;
                    markers.extend(write.1.bind_types(&write.0.schema));
                    writes.push(write);
                }
                for (term, name, kind) in [
                    (&batch.using.ttl, "[ttl]", CqlType::Int),
                    (&batch.using.timestamp, "[timestamp]", CqlType::Bigint),
                ] {
                    if let Some(term) = term {
                        cql::relations::markers(term, name, &kind, None, &mut markers);
                    }
                }
                json = spread(writes.iter_mut(), parsed.binds.len());
                (Work::Batch { kind: batch.kind, using: batch.using, writes }, None)
            }
            statement @ (Statement::Insert(_) | Statement::Update(_) | Statement::Delete(_)) => {
                let mut write = modify(state, keyspace, &statement)?;
                markers.extend(write.1.bind_types(&write.0.schema));
                json = spread(std::iter::once(&mut write), parsed.binds.len());
                (Work::Modify(write.0, write.1), None)
            }
            Statement::Refused(why) => return Err(CqlError::invalid(why)),
            other => (Work::Other(other), None),
        };
        markers.sort_by_key(|(at, ..)| *at);
        markers.dedup_by_key(|(at, ..)| *at);
        if markers.len() != parsed.binds.len() {
            return Err(CqlError::invalid(
                "a bind marker stands where its type cannot be told: write a cast before it",
            ));
        }
        let key = routing(&work, &markers);
        let point = Point::of(&work);
        let columns = markers
            .into_iter()
            .zip(&parsed.binds)
            .map(|((_, name, kind, _), given)| ColumnSpec {
                name: given.clone().unwrap_or(name),
                kind,
            })
            .collect();
        let about = match &work {
            Work::Select(target, _) | Work::Modify(target, _) => Some(target),
            Work::Batch { writes, .. } => writes.first().map(|(target, _)| target),
            Work::Other(_) => None,
        };
        let binds = Metadata {
            keyspace: about.map(|target| target.keyspace.clone()).unwrap_or_default(),
            table: about.map(|target| target.name.clone()).unwrap_or_default(),
            columns,
        };
        Ok(Self {
            id: id_of(keyspace, text),
            work,
            point,
            keyspace: keyspace.map(str::to_owned),
            binds,
            key,
            result_id: result.as_ref().map(|result| result.id()),
            result,
            text: text.to_owned(),
            digest: xxh3_64(text.as_bytes()),
            json,
        })
    }

    /// The id of its result metadata, for a client that has others (`known` is their id).
    pub(super) fn news_for(&self, known: Option<&[u8]>) -> Option<[u8; 16]> {
        self.result_id.filter(|id| known.is_some_and(|known| known != id))
    }

    /// True when the tables that it names are still what they were.
    pub(super) fn is_current(&self, state: &ClusterState) -> bool {
        match &self.work {
            Work::Select(target, _) | Work::Modify(target, _) => target.is_current(state),
            Work::Batch { writes, .. } => writes.iter().all(|(target, _)| target.is_current(state)),
            Work::Other(_) => true,
        }
    }

    /// The values of its markers, checked.
    pub(super) fn bind(
        &self,
        values: Vec<Value>,
        names: Option<&[String]>,
    ) -> Result<Vec<Bound>, CqlError> {
        let markers = &self.binds.columns;
        let ordered: Vec<Value> = match names {
            None => values,
            Some(names) => {
                let find = |marker: &ColumnSpec| {
                    let at = names.iter().position(|name| *name == marker.name);
                    at.and_then(|at| values.get(at)).cloned().ok_or_else(|| {
                        CqlError::invalid(format!("no value for the bind marker {}", marker.name))
                    })
                };
                markers.iter().map(find).collect::<Result<_, _>>()?
            }
        };
        if ordered.len() != markers.len() {
            return Err(CqlError::invalid(format!(
                "Invalid amount of bind variables: {} are needed, {} were given",
                markers.len(),
                ordered.len()
            )));
        }
        let mut out = Vec::with_capacity(markers.len());
        for (marker, given) in markers.iter().zip(ordered) {
            out.push(match given {
                Value::Null => Bound::Null,
                Value::Unset => Bound::Unset,
                Value::Bytes(bytes) => {
                    value::validate(&marker.kind, &bytes).map_err(|error| {
                        CqlError::invalid(format!("Invalid value for {}: {error}", marker.name))
                    })?;
                    Bound::Value(bytes)
                }
            });
        }
        for row in &self.json {
            let columns = row.columns(&out)?;
            out.extend(columns);
        }
        Ok(out)
    }
}

/// The id of a statement: the same on every node, and after a restart.
fn id_of(keyspace: Option<&str>, text: &str) -> [u8; 16] {
    let mut bytes = keyspace.unwrap_or_default().as_bytes().to_vec();
    bytes.push(0);
    bytes.extend_from_slice(text.as_bytes());
    xxh3_128(&bytes).to_be_bytes()
}

pub(super) fn udt(state: &ClusterState, keyspace: &str, name: &str) -> Option<Arc<UdtType>> {
    state.keyspaces().get(keyspace)?.types.get(name).cloned()
}

fn modify(
    state: &ClusterState,
    keyspace: Option<&str>,
    statement: &Statement,
) -> Result<(Target, Modify), CqlError> {
    let name = match statement {
        Statement::Insert(insert) => &insert.table,
        Statement::Update(update) => &update.table,
        Statement::Delete(delete) => &delete.table,
        Statement::Refused(why) => return Err(CqlError::invalid(*why)),
        _ => return Err(CqlError::invalid("only INSERT, UPDATE and DELETE can be batched")),
    };
    let target = target(state, keyspace, name)?;
    if target.table.is_none() {
        return Err(system::read_only(&target.keyspace));
    }
    let modify =
        Modify::resolve(&target.schema, &target.label(), statement).map_err(CqlError::invalid)?;
    Ok((target, modify))
}

fn result_of(target: &Target, query: &Query) -> Metadata {
    let columns = query
        .outputs
        .iter()
        .map(|output| ColumnSpec { name: output.name.clone(), kind: output.kind.clone() });
    Metadata {
        keyspace: target.keyspace.clone(),
        table: target.name.clone(),
        columns: columns.collect(),
    }
}

/// Which markers are the partition key.
fn routing(work: &Work, markers: &[MarkerType]) -> Vec<u16> {
    let target = match work {
        Work::Select(target, _) | Work::Modify(target, _) => target,
        Work::Batch { .. } | Work::Other(_) => return Vec::new(),
    };
    let marker_of = |place: usize| {
        let at = markers.iter().position(|(.., column)| *column == Some(place))?;
        u16::try_from(at).ok()
    };
    let all: Option<Vec<u16>> = (0..target.schema.partition_key().len()).map(marker_of).collect();
    all.unwrap_or_default()
}
