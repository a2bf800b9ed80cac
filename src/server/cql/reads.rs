//! SELECT: which rows are read, in which order, and where a page ends.

mod collect;
mod indexed;
mod nearest;
mod versions;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use self::collect::Collector;
use crate::coordinator::{OpError, ReadOp, ScanOp};
use crate::cql::relations::Slice;
use crate::cql::rows::{Reader, RowView};
use crate::cql::schema::Schema;
use crate::cql::select::Query;
use crate::cql::term::Binds;
use crate::meta::Table;
use crate::record::Row;
use crate::ring::token_of;
use crate::server::cql::buckets;
use crate::server::cql::error::{CqlError, PROTOCOL};
use crate::server::cql::paging::PagingState;
use crate::server::cql::store::Store;
use crate::types::{Consistency, Key, ScanOrder, Token, WallMicros};
use std::sync::Arc;

/// Time for one read of the store.
pub(super) const TIMEOUT: Duration = Duration::from_secs(10);

/// The most rows that are sorted in memory.
const MAX_SORTED: usize = 100_000;

/// Rows asked of the store at a time.
const CHUNK: u32 = 500;

/// What a SELECT is asked with.
pub(super) struct Ask<'a> {
    pub(super) query: &'a Query,
    pub(super) schema: &'a Schema,
    pub(super) binds: Binds<'a>,
    pub(super) page_size: Option<u32>,
    pub(super) paging_state: Option<&'a [u8]>,
    pub(super) digest: u64,
    pub(super) level: Consistency,
    pub(super) now: WallMicros,
}

/// A page of results.
#[derive(Debug, Default)]
pub(super) struct Page {
    pub(super) rows: Vec<Vec<Option<Bytes>>>,
    pub(super) paging_state: Option<Vec<u8>>,
    pub(super) warning: Option<&'static str>,
}

fn resumed(ask: &Ask<'_>) -> Result<Option<PagingState>, CqlError> {
    let Some(bytes) = ask.paging_state else { return Ok(None) };
    let state = PagingState::decode(bytes, ask.digest);
    state.map(Some).ok_or_else(|| CqlError::new(PROTOCOL, "Invalid value for the paging state"))
}

/// Answers from rows that are all at hand, as system tables' are.
pub(super) fn select_from(ask: &Ask<'_>, rows: Vec<Vec<Option<Bytes>>>) -> Result<Page, CqlError> {
    let tests = ask.query.wheres.bind(ask.schema, ask.binds).map_err(CqlError::invalid)?;
    let mut collector = Collector::new(ask, tests, None)?;
    collector.page_size = None;
    for values in rows {
        let partition = values.first().cloned().flatten().unwrap_or_default();
        if !collector.offer(RowView::of_values(values), &partition, &[])? {
            break;
        }
    }
    collector.finish()
}

/// The level at which a serial read reads what has been decided; `None`: it is no serial read.
fn serial(level: Consistency) -> Option<Consistency> {
    match level {
        Consistency::Serial => Some(Consistency::Quorum),
        Consistency::LocalSerial => Some(Consistency::LocalQuorum),
        _ => None,
    }
}

/// Finishes what is undecided on a partition. Every decision up to now is then on a majority of
/// its replicas, where a quorum read finds it.
async fn settle(
    level: Consistency,
    store: &dyn Store,
    table: &Arc<Table>,
    partition: &[u8],
) -> Result<(), CqlError> {
    let op = ReadOp {
        table: table.clone(),
        key: key_of(partition, &[])?,
        level,
        timeout: TIMEOUT,
        receipt: false,
        local: false,
    };
    store.read(op).await.map(|_| ()).map_err(|error| CqlError::of_operation(&error, None))
}

/// Answers from the store.
pub(super) async fn select(
    ask: &Ask<'_>,
    store: &dyn Store,
    table: &Arc<Table>,
) -> Result<Page, CqlError> {
    let tests = ask.query.wheres.bind(ask.schema, ask.binds).map_err(CqlError::invalid)?;
    let resumed = resumed(ask)?;
    let partitions = tests.partitions(ask.schema).map_err(CqlError::invalid)?;
    let plain;
    // Of a strong table, what was decided last may not be on a quorum yet.
    let level = match partitions.as_deref() {
        Some([_]) if buckets::is_strong(ask.schema) => buckets::serially(ask.level),
        _ => ask.level,
    };
    let ask = match serial(level) {
        None => ask,
        Some(_)
            if table.rows.is_none() && partitions.as_ref().is_some_and(|all| all.len() == 1) =>
        {
            ask
        }
        Some(quorum) => {
            let Some([partition]) = partitions.as_deref() else {
                return Err(CqlError::invalid(
                    "SERIAL/LOCAL_SERIAL consistency may only be requested for one partition at a \
                     time",
                ));
            };
            settle(level, store, table, partition).await?;
            plain = Ask { level: quorum, ..*ask };
            &plain
        }
    };
    let many = partitions.as_ref().is_some_and(|all| all.len() > 1);
    let warning = match &partitions {
        _ if !ask.query.is_aggregate() => None,
        None => Some("Aggregation query used without partition key"),
        Some(_) if many => {
            Some("Aggregation query used on multiple partition keys (IN restriction)")
        }
        Some(_) => None,
    };
    if many && !ask.query.order_by.is_empty() && ask.page_size.is_some() {
        return Err(CqlError::invalid(
            "Cannot page queries with both ORDER BY and a IN restriction on the partition key; you \
             must either remove the ORDER BY or the IN and sort client side, or disable paging for \
             this query",
        ));
    }
    let mut collector = Collector::new(ask, tests, resumed.as_ref())?;
    let reading =
        Reading { ask, store, table, reader: Reader { schema: ask.schema, now: ask.now } };
    match partitions {
        Some(mut partitions) => {
            partitions.sort_by_cached_key(|key| (token_of(key), key.clone()));
            let place = |key: &Vec<u8>| (token_of(key), key.clone());
            for partition in &partitions {
                let from = match &resumed {
                    Some(state) if place(partition) < place(&state.partition) => continue,
                    Some(state) if *partition == state.partition => Some(&state.clustering[..]),
                    _ => None,
                };
                if !reading.partition(&mut collector, partition, from).await? {
                    break;
                }
            }
        }
        None => reading.scan(&mut collector, resumed.as_ref()).await?,
    }
    Ok(Page { warning, ..collector.finish()? })
}

/// Reads of one SELECT.
struct Reading<'a> {
    ask: &'a Ask<'a>,
    store: &'a dyn Store,
    table: &'a Arc<Table>,
    reader: Reader<'a>,
}

fn key_of(partition: &[u8], clustering: &[u8]) -> Result<Key, CqlError> {
    Key::of_row(partition, clustering).map_err(|error| CqlError::invalid(error.to_string()))
}

/// A place just before `key`: no row of its partition lies between, or only such as are looked at
/// once more.
fn before(key: &Key) -> Option<Key> {
    let (last, rest) = key.as_bytes().split_last()?;
    let mut bytes = rest.to_vec();
    if *last > 0 {
        bytes.extend_from_slice(&[last - 1, 0xFF, 0xFF]);
    }
    Key::new(bytes).ok()
}

impl Reading<'_> {
    async fn row(&self, key: Key) -> Result<Row, CqlError> {
        let op = ReadOp {
            table: self.table.clone(),
            key,
            level: self.ask.level,
            timeout: TIMEOUT,
            receipt: false,
            local: false,
        };
        let outcome = self.store.read(op).await.map_err(|e| CqlError::of_operation(&e, None))?;
        Ok(outcome.record.row().cloned().unwrap_or_default())
    }

    /// Reads one partition's rows after `from`. False: there are enough rows.
    async fn partition(
        &self,
        collector: &mut Collector<'_>,
        partition: &[u8],
        from: Option<&[u8]>,
    ) -> Result<bool, CqlError> {
        if self.table.rows.is_none() {
            return self.versions(collector, partition, from).await;
        }
        let schema = self.ask.schema;
        let key = key_of(partition, &[])?;
        if schema.clustering_key().is_empty() {
            if from.is_some() {
                return Ok(true);
            }
            let row = self.row(key).await?;
            return match self.reader.row(partition, &[], None, &row) {
                Some(view) => collector.offer(view, partition, &[]),
                None => Ok(true),
            };
        }
        let head = self.row(key).await?;
        let mut slices = collector.tests.slices(schema).map_err(CqlError::invalid)?;
        let single = collector.tests.names_rows(schema);
        if self.ask.query.reversed {
            slices.reverse();
        }
        let mut any = from.is_some();
        for slice in &slices {
            if !single {
                if !self.slice(collector, partition, &head, slice, from, &mut any).await? {
                    return Ok(false);
                }
                continue;
            }
            for (clustering, view) in self.single(partition, &head, slice, from).await? {
                any = true;
                if !collector.offer(view, partition, &clustering)? {
                    return Ok(false);
                }
            }
        }
        if !any
            && !self.ask.query.wheres.restricts_clustering(schema)
            && let Some(view) = self.reader.static_row(partition, &head)
        {
            return collector.offer(view, partition, &[]);
        }
        Ok(true)
    }

    async fn single(
        &self,
        partition: &[u8],
        head: &Row,
        slice: &Slice,
        from: Option<&[u8]>,
    ) -> Result<Vec<(Vec<u8>, RowView)>, CqlError> {
        let done = from.is_some_and(|from| {
            if self.ask.query.reversed {
                slice.start[..] >= *from
            } else {
                slice.start[..] <= *from
            }
        });
        if done {
            return Ok(Vec::new());
        }
        let row = self.row(key_of(partition, &slice.start)?).await?;
        let view = self.reader.row(partition, &slice.start, Some(head), &row);
        Ok(view.map(|view| (slice.start.clone(), view)).into_iter().collect())
    }

    /// Stored rows of a partition in a slice, a chunk at a time; with where to go on. `span`: only
    /// those between.
    async fn chunk(
        &self,
        partition: &[u8],
        slice: &Slice,
        (after, before): (Key, Key),
        limit: u32,
    ) -> Result<(Vec<(Vec<u8>, Row)>, Option<Key>), CqlError> {
        let token = token_of(partition);
        let op = ScanOp {
            table: self.table.clone(),
            after: Some((token, after)),
            before: Some((token, before)),
            term: None,
            order: self.order(),
            limit,
            level: self.ask.level,
            timeout: TIMEOUT,
        };
        let page = self.store.scan(op).await.map_err(|e| CqlError::of_operation(&e, None))?;
        let mut rows = Vec::with_capacity(page.rows.len());
        for (_, key, record) in page.rows {
            let Some((own, clustering)) = key.row_parts() else { continue };
            if own == partition && !clustering.is_empty() && *clustering >= slice.start[..] {
                rows.push((clustering.to_vec(), record.row().cloned().unwrap_or_default()));
            }
        }
        Ok((rows, page.next.filter(|(at, _)| *at == token).map(|(_, key)| key)))
    }

    /// From which end slices are read.
    fn order(&self) -> ScanOrder {
        if self.ask.query.reversed { ScanOrder::Descending } else { ScanOrder::Ascending }
    }

    /// What is left of a slice after the row `from`: all between two keys.
    fn span(
        &self,
        partition: &[u8],
        slice: &Slice,
        from: Option<&[u8]>,
    ) -> Result<Option<(Key, Key)>, CqlError> {
        let (mut after, mut end) = (None, &slice.end[..]);
        match (self.order(), from) {
            (_, None) => {}
            (ScanOrder::Ascending, Some(from)) => {
                after = (*from >= slice.start[..]).then_some(from);
            }
            (ScanOrder::Descending, Some(from)) => end = end.min(from),
        }
        if *after.unwrap_or(&slice.start) >= *end {
            return Ok(None);
        }
        let after = match after {
            Some(after) => Some(key_of(partition, after)?),
            None => before(&key_of(partition, &slice.start)?),
        };
        after.map(|after| Ok((after, key_of(partition, end)?))).transpose()
    }

    /// Reads a slice's rows after `from`, in the order that is asked for. Sets `any` if there are.
    /// False: there are enough rows.
    async fn slice(
        &self,
        collector: &mut Collector<'_>,
        partition: &[u8],
        head: &Row,
        slice: &Slice,
        from: Option<&[u8]>,
        any: &mut bool,
    ) -> Result<bool, CqlError> {
        let mut place = self.span(partition, slice, from)?;
        let mut limit = collector.wants();
        while let Some((after, before)) = place
            && !collector.has_enough_of(partition)
        {
            let span = (after.clone(), before.clone());
            let (rows, next) = self.chunk(partition, slice, span, limit).await?;
            for (clustering, row) in rows {
                if let Some(view) = self.reader.row(partition, &clustering, Some(head), &row) {
                    *any = true;
                    if !collector.offer(view, partition, &clustering)? {
                        return Ok(false);
                    }
                }
            }
            place = next.map(|next| match self.order() {
                ScanOrder::Ascending => (next, before),
                ScanOrder::Descending => (after, next),
            });
            // Not all rows are shown: some are deleted, others not asked for.
            limit = (limit * 2).min(CHUNK);
        }
        Ok(true)
    }

    /// Reads partitions in the order of their tokens.
    async fn scan(
        &self,
        collector: &mut Collector<'_>,
        resumed: Option<&PagingState>,
    ) -> Result<(), CqlError> {
        if self.table.rows.is_none() {
            return self.scan_versions(collector, resumed).await;
        }
        let Some((first, last)) = collector.tests.token_range() else { return Ok(()) };
        let least = || Key::new(vec![0]).map_err(|error| CqlError::invalid(error.to_string()));
        let before = match last.checked_add(1) {
            Some(token) => Some((Token(token), least()?)),
            None => None,
        };
        let mut term = collector.tests.index_term(self.ask.schema);
        let mut current = Current::default();
        let mut after = match resumed {
            None if first == i64::MIN => None,
            None => Some((Token(first), least()?)),
            Some(state) => {
                current.partition.clone_from(&state.partition);
                current.any = true;
                current.head = self.row(key_of(&state.partition, &[])?).await?;
                let key = key_of(&state.partition, &state.clustering)?;
                Some((token_of(&state.partition), key))
            }
        };
        let mut is_first = true;
        loop {
            let op = ScanOp {
                table: self.table.clone(),
                after: after.clone(),
                before: before.clone(),
                term,
                order: ScanOrder::Ascending,
                limit: self.ask.page_size.map_or(CHUNK, |size| size.clamp(1, CHUNK - 1) + 1),
                level: self.ask.level,
                timeout: TIMEOUT,
            };
            let page = match self.store.scan(op).await {
                // All rows may be looked at, so this need not wait for the index. (Not on the way:
                // what was read of a partition by then came without its head.)
                Err(OpError::IndexBuilding { .. })
                    if term.is_some() && is_first && self.ask.query.allows_filtering =>
                {
                    term = None;
                    continue;
                }
                page => page.map_err(|error| CqlError::of_operation(&error, None))?,
            };
            is_first = false;
            let heads = match term {
                Some(_) => self.heads(&current, &page.rows).await?,
                None => BTreeMap::new(),
            };
            for (_, key, record) in &page.rows {
                let (Some((partition, clustering)), Some(row)) = (key.row_parts(), record.row())
                else {
                    continue;
                };
                let again = self.beneath(heads.get(partition), key).await?;
                let (row, place) = (again.as_ref().unwrap_or(row), (partition, clustering));
                if !self.scanned(collector, &mut current, &heads, place, row)? {
                    return Ok(());
                }
            }
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        self.end_partition(collector, &current)?;
        Ok(())
    }

    /// Takes in a row of a scan. `heads`: of partitions, where the scan does not show them before
    /// their rows.
    fn scanned(
        &self,
        collector: &mut Collector<'_>,
        current: &mut Current,
        heads: &BTreeMap<Vec<u8>, Row>,
        (partition, clustering): (&[u8], &[u8]),
        row: &Row,
    ) -> Result<bool, CqlError> {
        if current.partition != partition {
            if !self.end_partition(collector, current)? {
                return Ok(false);
            }
            let head = heads.get(partition).cloned().unwrap_or_default();
            *current = Current { partition: partition.to_vec(), head, any: false };
        }
        let clustered = !self.ask.schema.clustering_key().is_empty();
        if clustered && clustering.is_empty() {
            current.head = row.clone();
            return Ok(true);
        }
        let head = clustered.then_some(&current.head);
        match self.reader.row(partition, clustering, head, row) {
            Some(view) => {
                current.any = true;
                collector.offer(view, partition, clustering)
            }
            None => Ok(true),
        }
    }

    /// Of a partition without rows, its static columns are shown.
    fn end_partition(
        &self,
        collector: &mut Collector<'_>,
        current: &Current,
    ) -> Result<bool, CqlError> {
        let silent = current.any
            || current.partition.is_empty()
            || self.ask.query.wheres.restricts_clustering(self.ask.schema);
        if silent {
            return Ok(true);
        }
        match self.reader.static_row(&current.partition, &current.head) {
            Some(view) => collector.offer(view, &current.partition, &[]),
            None => Ok(true),
        }
    }
}

/// The partition that a scan is in.
#[derive(Default)]
struct Current {
    partition: Vec<u8>,
    head: Row,
    /// A row of it was shown.
    any: bool,
}
