//! Answers.

use std::sync::Arc;

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_128;

use crate::cql::types::CqlType;
use crate::server::cql::compress;
use crate::server::cql::error::CqlError;
use crate::server::cql::frame::{self, Version, flag, opcode};
use crate::server::cql::request::RECEIPT;
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

impl Metadata {
    /// A digest: version 5's id of result metadata.
    pub(super) fn id(&self) -> [u8; 16] {
        let mut out = Writer::default();
        put_specs(&mut out, self);
        xxh3_128(&out.0).to_be_bytes()
    }
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
    pub(super) metadata: Arc<Metadata>,
    pub(super) skip_metadata: bool,
    /// The metadata's id, for a client that has others (version 5).
    pub(super) changed: Option<[u8; 16]>,
    pub(super) rows: Vec<Vec<Option<Bytes>>>,
    pub(super) paging_state: Option<Vec<u8>>,
    /// What the client should know of its statement.
    pub(super) warning: Option<&'static str>,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    Ready,
    /// Who are you? The class of the authenticator.
    Authenticate(&'static str),
    AuthSuccess,
    Supported,
    Void,
    Rows(Rows),
    SetKeyspace(String),
    Prepared {
        id: [u8; 16],
        binds: Metadata,
        key: Vec<u16>,
        result: Option<Arc<Metadata>>,
    },
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
const METADATA_CHANGED: i64 = 8;

fn put_rows_metadata(
    out: &mut Writer,
    metadata: &Metadata,
    paging_state: Option<&[u8]>,
    changed: Option<[u8; 16]>,
    skip: bool,
) {
    let skip = skip && changed.is_none();
    let more = if paging_state.is_some() { MORE_PAGES } else { 0 };
    let news = if changed.is_some() { METADATA_CHANGED } else { 0 };
    out.int(more | news | if skip { NO_METADATA } else { GLOBAL_TABLE });
    out.int(metadata.columns.len() as i64);
    if paging_state.is_some() {
        out.bytes(paging_state);
    }
    if let Some(id) = changed {
        out.short_bytes(&id);
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

fn empty_id() -> [u8; 16] {
    Metadata::default().id()
}

/// An answer with what stands before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) answer: Answer,
    pub(super) warnings: Vec<String>,
    /// The id of the trace that was asked for.
    pub(super) trace: Option<[u8; 16]>,
    /// The receipts that were asked for, as JSON: for the answer's custom payload.
    pub(super) receipts: Option<Vec<u8>>,
}

impl From<Answer> for Reply {
    fn from(answer: Answer) -> Self {
        let warnings = match &answer {
            Answer::Rows(rows) => rows.warning.map(str::to_owned).into_iter().collect(),
            _ => Vec::new(),
        };
        Self { answer, warnings, trace: None, receipts: None }
    }
}

impl Reply {
    /// The whole frame. `deflate`: its body may be compressed (version 4).
    pub(super) fn encode(&self, version: Version, stream: i16, deflate: bool) -> Vec<u8> {
        let mut out = Writer(Vec::with_capacity(256));
        out.0.extend_from_slice(&[0; frame::HEADER]);
        let mut flags = 0;
        if let Some(id) = &self.trace {
            flags |= flag::TRACING;
            out.0.extend_from_slice(id);
        }
        if !self.warnings.is_empty() {
            flags |= flag::WARNINGS;
            out.string_list(&self.warnings);
        }
        if let Some(receipts) = &self.receipts {
            flags |= flag::PAYLOAD;
            out.short(1);
            out.string(RECEIPT);
            out.bytes(Some(receipts));
        }
        let opcode = self.answer.put(version, &mut out);
        let mut out = out.0;
        if let Some(small) =
            deflate.then(|| compress::deflate_body(&out[frame::HEADER..])).flatten()
        {
            flags |= flag::COMPRESSED;
            out.truncate(frame::HEADER);
            out.extend_from_slice(&small);
        }
        frame::seal(&mut out, version, flags, stream, opcode);
        out
    }
}

/// Tells who has asked for it what happened. `kind`: `SCHEMA_CHANGE` and so on.
pub(super) fn event(version: Version, kind: &str, put: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut out = Writer(vec![0; frame::HEADER]);
    out.string(kind);
    put(&mut out);
    frame::seal(&mut out.0, version, 0, -1, opcode::EVENT);
    out.0
}

impl Answer {
    /// Appends the message; its opcode.
    fn put(&self, version: Version, out: &mut Writer) -> u8 {
        match self {
            Self::Ready => return opcode::READY,
            Self::Authenticate(class) => {
                out.string(class);
                return opcode::AUTHENTICATE;
            }
            Self::AuthSuccess => {
                out.bytes(None);
                return opcode::AUTH_SUCCESS;
            }
            Self::Error(error) => {
                out.0.extend_from_slice(&error.body(version));
                return opcode::ERROR;
            }
            Self::Supported => {
                out.short(3);
                for (key, values) in [
                    ("CQL_VERSION", ["3.4.6"].as_slice()),
                    ("COMPRESSION", &["lz4"]),
                    ("PROTOCOL_VERSIONS", &["4/v4", "5/v5"]),
                ] {
                    out.string(key);
                    out.string_list(values);
                }
                return opcode::SUPPORTED;
            }
            Self::Void => out.int(1),
            Self::Rows(page) => {
                out.int(2);
                let state = page.paging_state.as_deref();
                let changed = page.changed.filter(|_| version >= Version::V5);
                put_rows_metadata(out, &page.metadata, state, changed, page.skip_metadata);
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
                if version >= Version::V5 {
                    // A statement without a result has the id of no columns.
                    out.short_bytes(&result.as_ref().map_or_else(empty_id, |result| result.id()));
                }
                out.int(if binds.columns.is_empty() { 0 } else { GLOBAL_TABLE });
                out.int(binds.columns.len() as i64);
                out.int(key.len() as i64);
                key.iter().for_each(|at| out.short(usize::from(*at)));
                if !binds.columns.is_empty() {
                    put_specs(out, binds);
                }
                match result {
                    Some(result) => put_rows_metadata(out, result, None, None, false),
                    None => put_rows_metadata(out, &Metadata::default(), None, None, true),
                }
            }
            Self::SchemaChange(change) => {
                out.int(5);
                change.put(out);
            }
        }
        opcode::RESULT
    }
}
