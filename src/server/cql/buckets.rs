//! Buckets as tables, so that what is written at one door is read at the other.
//!
//! The bucket `b` is the table `kv` of the keyspace `b`; any other table of values is
//! `keyspace.table` at both doors. Its columns are the same for all:
//!
//! | Column | |
//! | --- | --- |
//! | `key blob PRIMARY KEY` | the key's bytes |
//! | `value blob` | a version's bytes |
//! | `content_type text`, `meta frozen<map<text, text>>` | as its writer sent them |
//! | `etag text` | the version's name; read-only |
//! | `context text` | what has been read with it: the `Henge-Context` of the HTTP door |
//!
//! A SELECT shows one row for each sibling, all with the same context. A write is a PUT: with a
//! context it supersedes what that covers, without one it stands beside what is there. `value =
//! null` and DELETE delete: with a context what that covers, else what a quorum read shows. `IF NOT
//! EXISTS`, `IF EXISTS` and `IF etag = …` are `If-None-Match: *`, `If-Match: *` and `If-Match`.
//!
//! Versions are ordered by what their writers had read (or by the servers' clocks, in `lww`), so
//! no statement may bring a timestamp; those that drivers send with every request are not used.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::causality::ContextCodec;
use crate::coordinator::{Condition, Fate, OpError, WriteAction, WriteOp};
use crate::cql::modify::{Modify, Moment};
use crate::cql::rows::RowView;
use crate::cql::schema::{Role, Schema};
use crate::cql::term::Binds;
use crate::cql::types::CqlType;
use crate::cql::value;
use crate::meta::{ClusterState, ConflictMode, Table};
use crate::record::{Column, Content, Record, Row, Version, version_etag};
use crate::ring::{Replication, token_of};
use crate::server::cql::direct::APPLIED;
use crate::server::cql::error::{CAS, CqlError};
use crate::server::cql::reads::TIMEOUT;
use crate::server::cql::response::{ColumnSpec, Metadata, Rows};
use crate::server::cql::statement::Target;
use crate::server::cql::store::Store;
use crate::types::{Consistency, Key, WallMicros};

const KEY: &str = "key";
const VALUE: &str = "value";
const CONTENT_TYPE: &str = "content_type";
const META: &str = "meta";
const ETAG: &str = "etag";
const CONTEXT: &str = "context";

/// The columns of a table of values.
fn columns() -> Vec<(String, CqlType, Role)> {
    let texts = CqlType::Map(Box::new(CqlType::Text), Box::new(CqlType::Text));
    [
        (KEY, CqlType::Blob, Role::Partition(0)),
        (VALUE, CqlType::Blob, Role::Regular),
        (CONTENT_TYPE, CqlType::Text, Role::Regular),
        (META, CqlType::Frozen(Box::new(texts)), Role::Regular),
        (ETAG, CqlType::Text, Role::Regular),
        (CONTEXT, CqlType::Text, Role::Regular),
    ]
    .map(|(name, kind, role)| (name.to_owned(), kind, role))
    .into()
}

/// Why a table of these columns cannot keep siblings; nothing if it can.
pub(super) fn misfit(given: &[(String, CqlType, Role)]) -> Option<String> {
    let own = columns();
    let has = |name: &str| given.iter().any(|(given, ..)| given == name);
    let fits = |column: &(String, CqlType, Role)| own.contains(column);
    if given.iter().all(fits) && has(KEY) && has(VALUE) {
        return None;
    }
    Some(
        "a table WITH conflict = 'siblings' keeps whole values under keys: its columns are key blob \
         PRIMARY KEY and value blob (content_type, meta, etag and context come with them). For \
         columns of your own leave the option out (of concurrent writes the last one wins, cell by \
         cell), or use conflict = 'strong'"
            .to_owned(),
    )
}

/// How a table looks to CQL: its columns, or those of all tables of values.
pub(super) fn schema_of(table: &Table) -> Arc<Schema> {
    if let Some(schema) = &table.rows {
        return schema.clone();
    }
    let mut uuid = [0x68; 16];
    uuid[8..].copy_from_slice(&u64::from(table.id.0).to_be_bytes());
    (uuid[6], uuid[8]) = (0x40, 0x80);
    let mut schema = Schema::new(columns(), uuid);
    let settings = &table.settings;
    schema.default_ttl_s = u32::try_from(settings.ttl_s).unwrap_or(u32::MAX);
    schema.options.insert("gc_grace_seconds".to_owned(), settings.grace_s.to_string());
    schema.options.insert("comment".to_owned(), format!("conflict = '{}'", settings.conflict));
    // The only sort of bucket that CREATE TABLE makes.
    if settings.conflict == ConflictMode::Siblings {
        schema.options.insert("conflict".to_owned(), settings.conflict.to_string());
    }
    Arc::new(schema)
}

/// The keyspaces that there are for their tables of values alone, by name, and how these are
/// replicated.
pub(super) fn keyspaces(state: &ClusterState) -> BTreeMap<&str, &Replication> {
    let tables = state.tables().values().filter(|table| table.rows.is_none());
    tables
        .filter(|table| !state.keyspaces().contains_key(&table.name.keyspace))
        .map(|table| (table.name.keyspace.as_str(), &table.settings.replication))
        .collect()
}

/// True of a table of rows that are written by Paxos only.
pub(super) fn is_strong(schema: &Schema) -> bool {
    schema.options.get("conflict").is_some_and(|mode| mode == "strong")
}

/// True of a table of values.
pub(super) fn is_bucket(target: &Target) -> bool {
    target.table.as_ref().is_some_and(|table| table.rows.is_none())
}

/// The level at which a key is read: a quorum of a `strong` table may not have heard yet of what
/// was decided last, so it is asked for that.
pub(super) fn read_level(table: &Table, level: Consistency) -> Consistency {
    if table.settings.conflict == ConflictMode::Strong { serially(level) } else { level }
}

/// The serial level in the place of one that means "what was acknowledged".
pub(super) fn serially(level: Consistency) -> Consistency {
    match level {
        Consistency::Quorum | Consistency::EachQuorum | Consistency::All => Consistency::Serial,
        Consistency::LocalQuorum => Consistency::LocalSerial,
        level => level,
    }
}

fn key_of(partition: &[u8]) -> Result<Key, CqlError> {
    let key = Key::new(partition.to_vec());
    key.map_err(|error| CqlError::invalid(error.to_string()))
}

/// Shows the versions of a key: each after a name that orders them, for paging.
pub(super) struct Shower<'a> {
    pub(super) table: &'a Table,
    pub(super) schema: &'a Schema,
    pub(super) codec: &'a ContextCodec,
    pub(super) now: WallMicros,
}

impl Shower<'_> {
    pub(super) fn rows(&self, key: &Key, record: &Record) -> Vec<(Vec<u8>, RowView)> {
        let view = record.view(self.now);
        if view.versions.is_empty() {
            return Vec::new();
        }
        let context: Bytes = self.codec.seal(self.table.id, key, &view.context).into();
        let name = |version: &Version| {
            let dot = version.dot;
            [&dot.actor.0.to_be_bytes()[..], &dot.counter.to_be_bytes()[..]].concat()
        };
        let mut rows: Vec<_> = view
            .versions
            .iter()
            .map(|&version| (name(version), self.row(key, version, context.clone())))
            .collect();
        rows.sort_by(|a, b| a.0.cmp(&b.0));
        rows
    }

    fn row(&self, key: &Key, version: &Version, context: Bytes) -> RowView {
        let columns = self.schema.columns();
        let mut view = RowView::of_values(vec![None; columns.len()]);
        view.token = token_of(key.as_bytes()).0;
        let value = &version.value;
        let stamp = i64::try_from(value.written_at.0).ok();
        let ttl = value.expires_at.map(|at| {
            let left = at.0.saturating_sub(self.now.0).div_ceil(1_000_000);
            i32::try_from(left).unwrap_or(i32::MAX)
        });
        for (place, column) in columns.iter().enumerate() {
            view.values[place] = match column.name.as_str() {
                KEY => Some(Bytes::copy_from_slice(key.as_bytes())),
                VALUE => Some(value.body.clone()),
                CONTENT_TYPE => value.content_type.as_ref().map(|text| text.clone().into()),
                META if value.meta.is_empty() => None,
                META => {
                    let flat: Vec<&[u8]> = value
                        .meta
                        .iter()
                        .flat_map(|(name, text)| [name.as_bytes(), text.as_bytes()])
                        .collect();
                    Some(value::collection(&flat, 2).into())
                }
                ETAG => Some(version_etag(version.dot).into()),
                CONTEXT => Some(context.clone()),
                _ => None,
            };
            if column.role == Role::Regular {
                (view.stamps[place], view.ttls[place]) = (stamp, ttl);
            }
        }
        view
    }
}

/// What a statement puts under a key.
struct Put {
    action: WriteAction,
    context: Option<String>,
}

fn text_of(bytes: &Bytes) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Pairs of a map, as the protocol has it.
fn pairs(bytes: &Bytes) -> Vec<(String, String)> {
    let items = value::elements(bytes, 2).unwrap_or_default();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    items.chunks_exact(2).map(|pair| (text(pair[0]), text(pair[1]))).collect()
}

fn put_of(schema: &Schema, row: &Row) -> Result<Put, CqlError> {
    let cell = |name: &str| {
        let id = schema.column(name)?.id;
        match row.column(id)? {
            Column::Cell(cell) => Some(&cell.content),
            Column::Elements { .. } => None,
        }
    };
    let given = |name: &str| match cell(name) {
        Some(Content::Value { bytes, .. }) => Some(bytes),
        Some(Content::Deleted) | None => None,
    };
    if cell(ETAG).is_some() {
        return Err(CqlError::invalid("etag is given by the server: compare it, in IF etag = …"));
    }
    let context = given(CONTEXT).map(text_of);
    let action = match cell(VALUE) {
        Some(Content::Value { bytes, expiry }) => WriteAction::Put {
            body: bytes.clone(),
            content_type: given(CONTENT_TYPE).map(text_of),
            meta: given(META).map(pairs).unwrap_or_default(),
            ttl: expiry.map(|expiry| Duration::from_secs(expiry.ttl_s.into())),
        },
        Some(Content::Deleted) => WriteAction::Delete,
        None if row.deleted().is_some() => WriteAction::Delete,
        None => {
            return Err(CqlError::invalid(
                "a write of a bucket gives its value: versions are replaced whole",
            ));
        }
    };
    Ok(Put { action, context })
}

/// A statement's conditions, as the HTTP door has them.
fn condition(schema: &Schema, modify: &Modify, binds: Binds<'_>) -> Result<Condition, CqlError> {
    let condition = modify.condition();
    if !condition.is_some() {
        return Ok(Condition::None);
    }
    if condition.is_not_exists() {
        return Ok(Condition::Absent);
    }
    if condition.is_about_existence() {
        return Ok(Condition::Exists);
    }
    let etag = schema.place(ETAG).unwrap_or_default();
    let tag = condition.equals(etag, binds).map_err(CqlError::invalid)?.ok_or_else(|| {
        CqlError::invalid(
            "a bucket's conditions are IF NOT EXISTS, IF EXISTS and IF etag = '…', with the etag \
             of what was read",
        )
    })?;
    Ok(Condition::Matches(vec![String::from_utf8_lossy(&tag).into_owned()]))
}

/// What a statement, or a batch of them, writes: parts, each of them atomic by itself.
#[derive(Default)]
pub(super) struct Parts<'a>(Vec<(&'a Target, WriteOp)>);

impl<'a> Parts<'a> {
    /// Adds what a statement says.
    ///
    /// # Errors
    /// If a bucket cannot be written so. Nothing has been sent then.
    pub(super) fn add(
        &mut self,
        store: &dyn Store,
        target: &'a Target,
        (modify, binds): (&Modify, Binds<'_>),
        (level, now): (Consistency, WallMicros),
    ) -> Result<(), CqlError> {
        let Some(table) = &target.table else {
            return Err(crate::server::cql::system::read_only(&target.keyspace));
        };
        if modify.has_timestamp() {
            return Err(CqlError::invalid(
                "a bucket's versions are not ordered by their writers' clocks: leave USING \
                 TIMESTAMP out, and give the context that was read",
            ));
        }
        let schema = &*target.schema;
        let moment = Moment { stamp: 0, now, clock: now, order: now.0, current: &BTreeMap::new() };
        let mutations = modify.mutations(schema, binds, &moment).map_err(CqlError::invalid)?;
        let condition = condition(schema, modify, binds)?;
        if mutations.len() > 1 && condition != Condition::None {
            return Err(CqlError::invalid(
                "IN on the partition key is not supported with conditional updates",
            ));
        }
        for mutation in mutations {
            let row = mutation.rows.into_values().next().unwrap_or_default();
            let (key, put) = (key_of(&mutation.partition)?, put_of(schema, &row)?);
            let open = |token: String| {
                let opened = store.codec().open(table.id, &key, &token);
                opened.map_err(|error| CqlError::invalid(format!("context: {error}")))
            };
            let op = WriteOp {
                context: put.context.map(open).transpose()?,
                table: table.clone(),
                action: put.action,
                condition: condition.clone(),
                fence: None,
                level,
                timeout: TIMEOUT,
                op: None,
                receipt: false,
                key,
            };
            self.0.push((target, op));
        }
        Ok(())
    }

    /// Writes all parts, one after the other. The rows of the answer, if there are conditions.
    ///
    /// # Errors
    /// That of the first part that fails. If an earlier one took effect, the error does not say
    /// that nothing did: a client would send all of it again, and make siblings of its own values.
    pub(super) async fn write(
        self,
        store: &dyn Store,
        kind: &str,
    ) -> Result<Option<Rows>, CqlError> {
        let parts = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        let mut answer = None;
        for (done, (target, op)) in (0..parts).zip(self.0) {
            let (condition, key, level) = (op.condition.clone(), op.key.clone(), op.level);
            let kind = if op.by_paxos() { CAS } else { kind };
            let table = op.table.clone();
            answer = match store.put(op).await {
                Ok(_) if condition == Condition::None => None,
                Ok(_) => Some(judged(target, true, Vec::new())),
                Err(OpError::ConditionFailed { current, now, .. }) => {
                    let schema = &target.schema;
                    let shower = Shower { table: &table, schema, codec: store.codec(), now };
                    let shown = shower.rows(&key, &current).into_iter();
                    Some(judged(target, false, shown.map(|(_, view)| view).collect()))
                }
                Err(error) if done > 0 && error.fate() == Fate::NotApplied => {
                    let why = error.to_string();
                    let partly = OpError::Partly { done, parts, level, why };
                    return Err(CqlError::of_operation(&partly, Some(kind)));
                }
                Err(error @ (OpError::TooManySiblings { .. } | OpError::Reserved(_))) => {
                    return Err(CqlError::invalid(error.to_string()));
                }
                Err(error) => return Err(CqlError::of_operation(&error, Some(kind))),
            };
        }
        Ok(answer)
    }
}

/// The answer to a statement with conditions: with what stands there, if they do not hold.
fn judged(target: &Target, applied: bool, shown: Vec<RowView>) -> Rows {
    let word = Some(Bytes::from_static(if applied { &[1] } else { &[0] }));
    let mut columns = vec![ColumnSpec { name: APPLIED.to_owned(), kind: CqlType::Boolean }];
    let mut rows: Vec<Vec<Option<Bytes>>> = shown
        .into_iter()
        .map(|view| std::iter::once(word.clone()).chain(view.values).collect())
        .collect();
    if rows.is_empty() {
        rows.push(vec![word]);
    } else {
        columns.extend(
            target
                .schema
                .columns()
                .iter()
                .map(|column| ColumnSpec { name: column.name.clone(), kind: column.kind.clone() }),
        );
    }
    let (keyspace, table) = (target.keyspace.clone(), target.name.clone());
    let metadata = Arc::new(Metadata { keyspace, table, columns });
    Rows { metadata, rows, ..Rows::default() }
}
