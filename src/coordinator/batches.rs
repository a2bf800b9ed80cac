//! Logged batches: rows of several partitions, of which in the end all are written or none.
//!
//! Before the first row is sent, the whole batch is put on record at a quorum, under a key of its
//! own in a table that the nodes keep for themselves ([`log_table`]). When its rows are written, the
//! record is deleted. Whoever coordinates may stop anywhere in between: the replicas of the record
//! find it, and one of them writes what it says ([`resume`]). The rows have had their stamps since
//! before they were put on record, so to write them twice changes nothing more. (It would, if they had
//! been deleted and purged in between: a batch on record that is old keeps tombstones of rows on the
//! disks, see [`left_behind`].)
//!
//! This is atomicity and no isolation: a reader may see the rows of one partition before those of
//! another, as with Cassandra's logged batches.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};

use crate::binary::{self, SealError};
use crate::causality::Context;
use crate::coordinator::plan::{Purpose, must_be_storable};
use crate::coordinator::rows::{self, Written};
use crate::coordinator::{
    BatchError, BatchOp, Condition, Inner, OpError, ReadOp, WriteAction, WriteOp, WriteOutcome,
    read, write,
};
use crate::meta::{ClusterState, Table, TableName};
use crate::plants::{Plant, planted};
use crate::record::Record;
use crate::types::{Consistency, Key, Mono, OpId, TableId, WallMicros};

/// The form of a record.
const FORMAT: u8 = 1;

/// The most bytes of rows and their keys in one batch: it is kept whole under one key.
const MAX_BYTES: usize = 1 << 20;

/// Partitions of a batch that are written at once. A batch may have some ten thousand, and its
/// coordinator's queues room for fewer.
const AT_ONCE: usize = 256;

/// The table in which batches are kept while they are under way.
#[must_use]
pub fn log_table() -> TableName {
    TableName::system("batches")
}

/// Whether a batch under `key` was put on record so long ago that rows of it may have been deleted
/// for a table's `grace`: half of that, as clocks are apart.
#[must_use]
pub(crate) fn left_behind(key: &Key, now: WallMicros, grace: Duration) -> bool {
    let id = key.as_bytes().first_chunk().map(|bytes| OpId(u128::from_be_bytes(*bytes)));
    let made = id.map_or(0, OpId::unix_millis);
    u128::from((now.0 / 1_000).saturating_sub(made)) >= grace.as_millis() / 2
}

/// A batch on record.
#[derive(Debug, Serialize, Deserialize)]
struct Kept(Vec<Part>);

/// Rows of one partition, as they are stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Part {
    table: TableId,
    rows: Vec<(Key, Bytes)>,
}

impl Part {
    /// Its table; `None`: that was dropped.
    ///
    /// # Errors
    /// [`OpError::NoSuchTable`], if this node has not heard yet that it was created.
    fn table_in<'a>(&self, state: &'a ClusterState) -> Result<Option<&'a Arc<Table>>, OpError> {
        match state.table(self.table) {
            None if self.table.entry() > state.epoch().0 => Err(OpError::NoSuchTable),
            table => Ok(table),
        }
    }
}

/// Writes a batch for a client.
pub(super) async fn write(inner: &Arc<Inner>, op: BatchOp) -> Result<(), BatchError> {
    let kept = Kept(op.parts.iter().map(|(table, rows)| part(inner, table, rows)).collect());
    check(inner, &op, &kept).map_err(BatchError::NotKept)?;
    let key = inner.new_op_id(None).0.to_be_bytes();
    let key = Key::new(key.to_vec()).map_err(|error| OpError::Invalid(error.to_string()));
    let key = key.map_err(BatchError::NotKept)?;
    let body = binary::pack(FORMAT, &kept).into();
    let put = WriteAction::Put { body, content_type: None, meta: Vec::new(), ttl: None };
    let outcome = note(inner, &op.log, &key, put, None, op.timeout).await;
    let context = outcome.map_err(BatchError::NotKept)?.context;
    if planted(Plant::P44) {
        forget(inner, &op, &key, &context);
    }
    let parts: Vec<_> = kept.0.iter().zip(&op.parts).collect();
    let time = (inner.env.mono(), op.timeout);
    let (mut done, mut first) = (0, None);
    for some in parts.chunks(AT_ONCE) {
        let sent = some.iter().map(|(part, (table, _))| spread(inner, table, part, op.level, time));
        for result in join_all(sent).await {
            match result {
                Ok(()) => done += 1,
                Err(error) => first = first.or(Some(error)),
            }
        }
    }
    if let Some(error) = first {
        let (parts, why) = (parts.len(), error.to_string());
        return Err(BatchError::Late { done, parts, level: op.level, why });
    }
    forget(inner, &op, &key, &context);
    Ok(())
}

/// Has a batch's record deleted, later.
fn forget(inner: &Arc<Inner>, op: &BatchOp, key: &Key, context: &Context) {
    let (own, log, timeout) = (inner.clone(), op.log.clone(), op.timeout);
    let (key, context) = (key.clone(), Some(context.clone()));
    inner.env.spawn("forget-batch", async move {
        // If it fails, the batch is written once more.
        let forgotten = note(&own, &log, &key, WriteAction::Delete, context, timeout).await;
        tracing::trace!(ok = forgotten.is_ok(), "a batch is written");
    });
}

fn part(inner: &Inner, table: &Table, rows: &[(Key, Record)]) -> Part {
    Part { table: table.id, rows: rows::stored(inner, table, rows) }
}

/// Nothing is put on record of what cannot be done now.
fn check(inner: &Arc<Inner>, op: &BatchOp, kept: &Kept) -> Result<(), OpError> {
    if matches!(op.level, Consistency::Serial | Consistency::LocalSerial) {
        return Err(OpError::BadLevel(format!("{} is not a level for writes", op.level)));
    }
    let rows = || kept.0.iter().flat_map(|part| &part.rows);
    // Whatever cannot be written ever would stand on record for ever, and be in the way of purges.
    rows().try_for_each(|(key, _)| must_be_storable(key))?;
    let bytes: usize = rows().map(|(key, record)| key.as_bytes().len() + record.len()).sum();
    if bytes > MAX_BYTES {
        return Err(OpError::Invalid(format!(
            "Batch too large: {bytes} bytes of rows in a logged batch, {MAX_BYTES} are allowed; use \
             BEGIN UNLOGGED BATCH, or several"
        )));
    }
    let started = inner.env.mono();
    for (table, rows) in &op.parts {
        let Some((first, _)) = rows.first() else { continue };
        let plan = inner.plan(Purpose::Write, table, first, op.level, started, op.timeout)?;
        inner.must_be_possible(&plan)?;
    }
    Ok(())
}

/// Writes or deletes a batch's record.
async fn note(
    inner: &Arc<Inner>,
    log: &Arc<Table>,
    key: &Key,
    action: WriteAction,
    context: Option<Context>,
    timeout: Duration,
) -> Result<WriteOutcome, OpError> {
    let op = WriteOp {
        table: log.clone(),
        key: key.clone(),
        action,
        context,
        condition: Condition::None,
        fence: None,
        level: Consistency::Quorum,
        timeout,
        op: None,
        receipt: false,
    };
    write::write_own(inner, &op).await
}

async fn spread(
    inner: &Arc<Inner>,
    table: &Arc<Table>,
    part: &Part,
    level: Consistency,
    (started, timeout): (Mono, Duration),
) -> Result<(), OpError> {
    let written = Written {
        table: table.clone(),
        rows: part.rows.clone(),
        level,
        started,
        timeout,
        holder: None,
        generation: None,
        receipts: None,
    };
    rows::spread_all(inner, written).await
}

/// Writes what stands on record under `key` to quorums, and deletes the record. `false`: it is
/// deleted already. Parts of tables that have been dropped meanwhile are left out. `timeout` is for
/// each step of it.
///
/// # Errors
/// The first of its parts'; the record stays, and the next attempt may do better.
pub(super) async fn resume(
    inner: &Arc<Inner>,
    log: &Arc<Table>,
    key: &Key,
    timeout: Duration,
) -> Result<bool, OpError> {
    let level = Consistency::Quorum;
    let (table, key) = (log.clone(), key.clone());
    let ask = ReadOp { table, key: key.clone(), level, timeout, receipt: false, local: false };
    let found = read::read(inner, &ask).await?;
    let view = found.record.view(found.now);
    let Some(version) = view.versions.first() else { return Ok(false) };
    let kept: Result<Kept, SealError> = binary::unpack("a batch", FORMAT, &version.value.body);
    let kept = kept.map_err(|error| OpError::Invalid(error.to_string()))?;
    let (state, mut parts) = (inner.cluster.state(), Vec::with_capacity(kept.0.len()));
    for part in &kept.0 {
        if let Some(table) = part.table_in(&state)? {
            parts.push((table, part));
        }
    }
    for some in parts.chunks(AT_ONCE) {
        let time = (inner.env.mono(), timeout);
        let sent = some.iter().map(|(table, part)| spread(inner, table, part, level, time));
        for result in join_all(sent).await {
            result?;
        }
    }
    note(inner, log, &key, WriteAction::Delete, Some(view.context.clone()), timeout).await?;
    Ok(true)
}
