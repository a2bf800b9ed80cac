//! Answers.

use bytes::Bytes;

use crate::cql::types::CqlType;
use crate::server::cql::error::CqlError;
use crate::server::cql::frame::opcode;
use crate::server::cql::wire::Writer;

/// A column as metadata names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ColumnSpec {
    pub(super) name: String,
    pub(super) kind: CqlType,
}

/// The keyspace, table and columns of a result, or of bind markers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Metadata {
    pub(super) keyspace: String,
    pub(super) table: String,
    pub(super) columns: Vec<ColumnSpec>,
}

/// What changed in the schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SchemaChange {
    /// `CREATED`, `UPDATED`, `DROPPED`.
    pub(super) change: &'static str,
    /// `KEYSPACE`, `TABLE`, `TYPE`.
    pub(super) target: &'static str,
    pub(super) keyspace: String,
    /// Empty for a keyspace.
    pub(super) name: String,
}

/// A page of rows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Rows {
    pub(super) metadata: Metadata,
    pub(super) skip_metadata: bool,
    pub(super) rows: Vec<Vec<Option<Bytes>>>,
    pub(super) paging_state: Option<Vec<u8>>,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    Ready,
    Supported,
    Void,
    Rows(Rows),
    SetKeyspace(String),
    Prepared { id: [u8; 16], binds: Metadata, key: Vec<u16>, result: Option<Metadata> },
    SchemaChange(SchemaChange),
    Error(CqlError),
}

impl From<CqlError> for Answer {
    fn from(error: CqlError) -> Self {
        Self::Error(error)
    }
}

/// Metadata without its flags.
fn put_specs(out: &mut Writer, metadata: &Metadata) {
    out.string(&metadata.keyspace);
    out.string(&metadata.table);
    for column in &metadata.columns {
        out.string(&column.name);
        out.kind(&column.kind);
    }
}

const GLOBAL_TABLE: i64 = 1;
const MORE_PAGES: i64 = 2;
const NO_METADATA: i64 = 4;

fn put_rows_metadata(
    out: &mut Writer,
    metadata: &Metadata,
    paging_state: Option<&[u8]>,
    skip: bool,
) {
    let more = if paging_state.is_some() { MORE_PAGES } else { 0 };
    out.int(more | if skip { NO_METADATA } else { GLOBAL_TABLE });
    out.int(metadata.columns.len() as i64);
    if paging_state.is_some() {
        out.bytes(paging_state);
    }
    if !skip {
        put_specs(out, metadata);
    }
}

impl SchemaChange {
    pub(super) fn put(&self, out: &mut Writer) {
        out.string(self.change);
        out.string(self.target);
        out.string(&self.keyspace);
        if self.target != "KEYSPACE" {
            out.string(&self.name);
        }
    }
}

impl Answer {
    /// Opcode and body.
    pub(super) fn encode(&self) -> (u8, Vec<u8>) {
        let mut out = Writer::default();
        match self {
            Self::Ready => return (opcode::READY, Vec::new()),
            Self::Error(error) => return (opcode::ERROR, error.body()),
            Self::Supported => {
                out.short(3);
                for (key, values) in [
                    ("CQL_VERSION", ["3.4.6"].as_slice()),
                    ("COMPRESSION", &[]),
                    ("PROTOCOL_VERSIONS", &["4/v4"]),
                ] {
                    out.string(key);
                    out.string_list(values);
                }
                return (opcode::SUPPORTED, out.0);
            }
            Self::Void => out.int(1),
            Self::Rows(page) => {
                out.int(2);
                let state = page.paging_state.as_deref();
                put_rows_metadata(&mut out, &page.metadata, state, page.skip_metadata);
                out.int(page.rows.len() as i64);
                for value in page.rows.iter().flatten() {
                    out.bytes(value.as_deref());
                }
            }
            Self::SetKeyspace(keyspace) => {
                out.int(3);
                out.string(keyspace);
            }
            Self::Prepared { id, binds, key, result } => {
                out.int(4);
                out.short_bytes(id);
                out.int(if binds.columns.is_empty() { 0 } else { GLOBAL_TABLE });
                out.int(binds.columns.len() as i64);
                out.int(key.len() as i64);
                key.iter().for_each(|at| out.short(usize::from(*at)));
                if !binds.columns.is_empty() {
                    put_specs(&mut out, binds);
                }
                match result {
                    Some(result) => put_rows_metadata(&mut out, result, None, false),
                    None => put_rows_metadata(&mut out, &Metadata::default(), None, true),
                }
            }
            Self::SchemaChange(change) => {
                out.int(5);
                change.put(&mut out);
            }
        }
        (opcode::RESULT, out.0)
    }
}
