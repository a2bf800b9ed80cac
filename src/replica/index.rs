//! Secondary indexes of this replica's own rows.
//!
//! An entry says that a row has a term ([`crate::cql::index`]), and is a key of its own beside the
//! rows. Whoever changes a row puts and deletes its entries in the row's own batch, under the row's
//! lock, so that row and entries never disagree on the disk: what a crash or a full disk takes, it
//! takes of both.
//!
//! Which tables have indexes is kept here, and looked up under the row's lock: a write that was
//! planned before an index was made and is staged after its build went past would otherwise be
//! missing for ever. A build therefore
//! 1. has the index kept from now on ([`Replica::keep_indexes`], which waits for every lock once);
//! 2. waits for what was staged before ([`super::Committer::barrier`]);
//! 3. walks over all rows and puts the entries of each one's newest version, under its lock;
//! 4. notes durably that the index is built, and only then lets it answer.
//!
//! The note lies on the same disk as the rows and goes where they go. A row that cannot be read
//! while the index is built may have any term: the index is not built before it is healed. (One
//! that is damaged later keeps its entries.)
//!
//! What is shown of an index is a page of rows, as [`super::page`] shows them, and as with those
//! only what is on stable storage: of rows with writes under way, what readers may see decides.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::binary;
use crate::cql::index::terms;
use crate::cql::schema::Schema;
use crate::meta::ClusterState;
use crate::net::messages::PageRequest;
use crate::net::{Refusal, Response};
use crate::plants::{Plant, planted};
use crate::record::{self, Record, RecordKind};
use crate::replica::page::{MAX_PAGE_BYTES, MAX_PAGE_ROWS, TokenSpan};
use crate::replica::update::refuse_submit;
use crate::replica::{Replica, shard_of};
use crate::storage::keys::{self, Kind, RowKey};
use crate::storage::{Batch, CommitTicket, KeyRange, StorageError};
use crate::types::{IndexId, IndexTerm, Key, TableId, Token};

/// Rows of one step of a build.
const STEP_ROWS: usize = 256;

/// Format of [`Progress`]. What was built under an earlier one is built anew: it had other hashes of
/// tuples that end in nulls.
const FORMAT: u8 = 2;

type IndexAt = (TableId, IndexId);
type Position = (Token, Key);

/// The indexes that are kept, and those of them that may answer.
#[derive(Debug, Default)]
pub(super) struct Indexes {
    /// Tables that have any.
    kept: RwLock<BTreeMap<TableId, Arc<Schema>>>,
    built: RwLock<BTreeSet<IndexAt>>,
}

/// How far an index is built, as it is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// It may answer.
    pub(crate) built: bool,
    /// Up to here its entries are there.
    pub(crate) after: Option<Position>,
}

/// A step of a build.
#[derive(Debug)]
pub(crate) struct Step {
    /// What is to be waited for before the step counts.
    pub(crate) tickets: Vec<CommitTicket>,
    /// Where to go on, strictly after this place; `None`: those were all rows.
    pub(crate) next: Option<Position>,
    /// Rows that could not be read.
    pub(crate) damaged: usize,
}

/// The terms of a row that is about to change.
pub(super) struct Before {
    schema: Arc<Schema>,
    at: RowKey,
    terms: BTreeSet<IndexTerm>,
}

fn terms_of(schema: &Schema, key: &Key, record: &Record) -> BTreeSet<IndexTerm> {
    record.row().map(|row| terms(schema, key, row)).unwrap_or_default()
}

impl Indexes {
    fn schema(&self, table: TableId) -> Option<Arc<Schema>> {
        self.kept.read().unwrap_or_else(PoisonError::into_inner).get(&table).cloned()
    }

    fn built_mut(&self) -> RwLockWriteGuard<'_, BTreeSet<IndexAt>> {
        self.built.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_built(&self, at: IndexAt) -> bool {
        self.built.read().unwrap_or_else(PoisonError::into_inner).contains(&at)
    }

    /// The terms of `record`, which stands under the storage key `row` and is about to change;
    /// `None`: its table has no index. The caller holds the row's lock until the change is staged.
    pub(super) fn before(&self, table: TableId, row: &[u8], record: &Record) -> Option<Before> {
        let schema = self.schema(table)?;
        let at = keys::parse_row(row).ok()?;
        let terms = terms_of(&schema, &at.key, record);
        Some(Before { schema, at, terms })
    }
}

impl Before {
    /// Adds to `batch` what the change to `record` (`None`: the row's end) does to the entries.
    pub(super) fn change(&self, batch: &mut Batch, record: Option<&Record>) {
        let at = &self.at;
        let after = record.map(|record| terms_of(&self.schema, &at.key, record));
        let after = after.unwrap_or_default();
        let entry = |term| keys::index_row(at.table, term, at.token, &at.key);
        for term in self.terms.difference(&after).filter(|_| !planted(Plant::P40)) {
            batch.delete(entry(*term));
        }
        for term in after.difference(&self.terms) {
            batch.put(entry(*term), Bytes::new());
        }
    }
}

/// True of an index that was made by an entry that `state` has applied, and is no more.
fn is_dropped(state: &ClusterState, (table, index): IndexAt) -> bool {
    let schema = state.table(table).and_then(|table| table.rows.as_ref());
    let stands = schema.is_some_and(|schema| schema.indexes().iter().any(|i| i.id == index));
    index.0 <= state.epoch().0 && !stands
}

impl Replica {
    /// Has exactly the indexes of `state` looked after by every change of a row that is staged
    /// after this. To be called before the first change of a row, and whenever indexes come or go.
    /// Blocks on the disk. With the indexes that are yet to be built.
    ///
    /// # Errors
    /// Any [`StorageError`].
    pub(crate) fn keep_indexes(&self, state: &ClusterState) -> Result<Vec<IndexAt>, StorageError> {
        let mut kept = BTreeMap::new();
        for (id, table) in state.tables() {
            if let Some(schema) = table.rows.as_ref().filter(|schema| !schema.indexes().is_empty())
            {
                kept.insert(*id, schema.clone());
            }
        }
        let all: BTreeSet<IndexAt> = kept
            .iter()
            .flat_map(|(table, schema)| schema.indexes().iter().map(|i| (*table, i.id)))
            .collect();
        // Before they are no longer looked after, they answer no more.
        self.indexes.built_mut().retain(|at| all.contains(at));
        *self.indexes.kept.write().unwrap_or_else(PoisonError::into_inner) = kept;
        // Whoever staged a row by what was kept before has given its lock back after this.
        self.shards.iter().for_each(|shard| {
            drop(shard.lock().unwrap_or_else(PoisonError::into_inner));
        });
        let mut unbuilt = Vec::new();
        for at in &all {
            if self.indexes.is_built(*at) {
                continue;
            }
            if self.index_progress(*at)?.built {
                self.indexes.built_mut().insert(*at);
            } else {
                unbuilt.push(*at);
            }
        }
        Ok(unbuilt)
    }

    /// True once the index answers here.
    #[must_use]
    pub fn has_built(&self, table: TableId, index: IndexId) -> bool {
        self.indexes.is_built((table, index))
    }

    /// How far an index is built. A note that cannot be read is none.
    ///
    /// # Errors
    /// Any [`StorageError`].
    pub(crate) fn index_progress(&self, at: IndexAt) -> Result<Progress, StorageError> {
        match self.engine.get(&keys::index_build_row(at.0, at.1)) {
            Ok(Some(bytes)) => {
                Ok(binary::unseal("an index's progress", FORMAT, &bytes).unwrap_or_default())
            }
            Ok(None) | Err(StorageError::Corrupt { .. }) => Ok(Progress::default()),
            Err(error) => Err(error),
        }
    }

    /// Notes how far an index is built; durable on return, and it answers from then on if it is
    /// built. What it is built of is durable already.
    ///
    /// # Errors
    /// Any [`StorageError`].
    pub(crate) async fn note_index(
        &self,
        at: IndexAt,
        progress: &Progress,
    ) -> Result<(), StorageError> {
        let mut batch = Batch::new();
        batch.put(keys::index_build_row(at.0, at.1), binary::seal(FORMAT, progress));
        let ticket = self.committer.submit(batch).map_err(|error| StorageError::Io {
            during: "noting an index's progress",
            message: error.to_string(),
        })?;
        self.committer.flush().await?;
        ticket.await?;
        if progress.built {
            self.indexes.built_mut().insert(at);
        }
        Ok(())
    }

    /// Waits until all rows that are staged now are in the engine, where a build walks over them.
    ///
    /// # Errors
    /// A [`Refusal`], or a storage error's words in one.
    pub(crate) async fn settle_rows(&self) -> Result<(), Refusal> {
        let barrier = self.committer.barrier().map_err(|error| refuse_submit(&error))?;
        barrier.await.map_err(|error| self.refuse_storage(&error))
    }

    /// One step of a build: puts the entries of the next rows after `after`. Blocks on the disk.
    ///
    /// # Errors
    /// A [`Refusal`]; part of the step may have been done.
    pub(crate) fn build_index(
        &self,
        at: IndexAt,
        after: Option<&Position>,
    ) -> Result<Step, Refusal> {
        let mut range = keys::table_rows(Kind::Record, at.0);
        if let Some((token, key)) = after {
            let mut bound = keys::row(Kind::Record, at.0, *token, key, b"").to_vec();
            bound.push(0);
            range.start = range.start.max(bound.into());
        }
        let mut rows: Vec<Bytes> = Vec::new();
        let mut more = false;
        self.engine
            .scan(&range, &mut |row, _| {
                more = rows.len() >= STEP_ROWS;
                if more {
                    return ControlFlow::Break(());
                }
                rows.push(Bytes::copy_from_slice(row));
                ControlFlow::Continue(())
            })
            .map_err(|error| self.refuse_storage(&error))?;
        let mut step = Step { tickets: Vec::new(), next: None, damaged: 0 };
        if planted(Plant::P42) {
            return Ok(step);
        }
        let Some(schema) = self.indexes.schema(at.0) else { return Ok(step) };
        for row in &rows {
            let parsed = keys::parse_row(row).map_err(|error| self.refuse_storage(&error))?;
            match self.index_one(at, &schema, row, &parsed)? {
                Some(ticket) => step.tickets.extend(ticket),
                None => step.damaged += 1,
            }
            step.next = Some((parsed.token, parsed.key)).filter(|_| more);
        }
        Ok(step)
    }

    /// Puts a row's entries in one index. `None`: the row cannot be read.
    #[allow(clippy::option_option, reason = "outer: unreadable; inner: nothing to wait for")]
    fn index_one(
        &self,
        at: IndexAt,
        schema: &Schema,
        row: &Bytes,
        parsed: &RowKey,
    ) -> Result<Option<Option<CommitTicket>>, Refusal> {
        let mut overlay = self.lock(shard_of(parsed.token));
        let newest = match overlay.newest(row, self.committer.acked_seq()) {
            Some(newest) => newest,
            None => match self.engine.get(row) {
                Ok(stored) => stored,
                Err(StorageError::Corrupt { .. }) => return Ok(None),
                Err(error) => return Err(self.refuse_storage(&error)),
            },
        };
        let Some(bytes) = newest else { return Ok(Some(None)) };
        let address = record::address(at.0, &parsed.key);
        let Ok(record) = Record::decode(&bytes, &address) else { return Ok(None) };
        let mut batch = Batch::new();
        for term in terms_of(schema, &parsed.key, &record) {
            if term.index == at.1 {
                batch.put(keys::index_row(at.0, term, parsed.token, &parsed.key), Bytes::new());
            }
        }
        if batch.is_empty() {
            return Ok(Some(None));
        }
        let ticket = self.committer.submit(batch).map_err(|error| refuse_submit(&error))?;
        Ok(Some(Some(ticket)))
    }

    /// The dropped indexes of which something is left on this disk. Blocks on the disk.
    ///
    /// # Errors
    /// Any [`StorageError`].
    pub(crate) fn dropped_indexes(
        &self,
        state: &ClusterState,
    ) -> Result<BTreeSet<IndexAt>, StorageError> {
        let mut found = BTreeSet::new();
        for kind in [Kind::Index, Kind::IndexBuild] {
            let mut range = KeyRange::prefix(&[kind as u8]);
            // From one index's entries to the next one's.
            loop {
                let mut first = None;
                self.engine.scan(&range, &mut |row, _| {
                    first = keys::parse_index(row).ok();
                    ControlFlow::Break(())
                })?;
                let Some(at) = first else { break };
                if is_dropped(state, at) {
                    found.insert(at);
                }
                let next = keys::index_keys(kind, at.0, at.1).end;
                let Some(next) = next.filter(|next| *next > range.start) else { break };
                range.start = next;
            }
        }
        Ok(found)
    }

    /// Deletes some of what a dropped index has left; nothing, if it is not dropped, or nothing is
    /// left. Blocks on the disk.
    ///
    /// # Errors
    /// A [`Refusal`]; nothing was deleted.
    pub(crate) fn delete_index(
        &self,
        state: &ClusterState,
        at: IndexAt,
    ) -> Result<Option<CommitTicket>, Refusal> {
        if !is_dropped(state, at) || self.indexes_of(at.0).contains(&at.1) {
            return Ok(None);
        }
        let kinds = [Kind::Index, Kind::IndexBuild];
        self.delete_some(kinds.map(|kind| keys::index_keys(kind, at.0, at.1)))
    }

    fn indexes_of(&self, table: TableId) -> Vec<IndexId> {
        let schema = self.indexes.schema(table);
        schema.map_or_else(Vec::new, |schema| schema.indexes().iter().map(|i| i.id).collect())
    }

    /// Answers [`PageRequest`] with a term: the rows that have it, or had it a moment ago. Blocks on
    /// the disk: call it through `Env::blocking`.
    ///
    /// # Errors
    /// [`Refusal::IndexBuilding`]; else as [`Replica::page`].
    pub(super) fn index_page(
        &self,
        span: TokenSpan,
        page: &PageRequest,
        term: IndexTerm,
    ) -> Result<Response, Refusal> {
        if !self.indexes.is_built((page.table, term.index)) {
            return Err(Refusal::IndexBuilding);
        }
        let id = (page.table, page.partition);
        let generation = self.generation(id).map_err(|e| self.refuse_storage(&e))?;
        let limit = (page.limit as usize).clamp(1, MAX_PAGE_ROWS);
        let (mut places, end) = self.entries(span, page, term, limit)?;
        // The engine first, rows under way second, as in `shown`: an entry that a staged write has
        // deleted in the engine is found here, unless the write is durable by now.
        self.under_way_with(span, page, term, end.as_ref(), &mut places);
        let mut places: Vec<Position> = places.into_iter().collect();
        places.sort_by(|a, b| page.order.compare(a, b));
        let (mut rows, mut bytes, mut last) = (Vec::new(), 0, None);
        let mut next = end;
        for (token, key) in places {
            if rows.len() >= limit || bytes >= MAX_PAGE_BYTES {
                next = last;
                break;
            }
            let row = keys::row(Kind::Record, page.table, token, &key, b"");
            let stored = self.engine.get(&row);
            let shown = self.lock(shard_of(token)).shown(&row, self.committer.acked_seq());
            let found = shown.map_or(stored, Ok);
            last = Some((token, key.clone()));
            if let Some(found) = found.transpose() {
                let row = self.page_row(page, &row, (token, key), found)?;
                bytes += row.record.len() + row.key.as_bytes().len();
                rows.push(row);
            }
        }
        // Dropped meanwhile, its entries may have been left to themselves.
        if !self.indexes.is_built((page.table, term.index)) {
            return Err(Refusal::IndexBuilding);
        }
        Ok(Response::Page { rows, next, generation })
    }

    /// The places of a term's entries, and the last one if there are more than `limit`.
    fn entries(
        &self,
        span: TokenSpan,
        page: &PageRequest,
        term: IndexTerm,
        limit: usize,
    ) -> Result<(BTreeSet<Position>, Option<Position>), Refusal> {
        let mut range = keys::index_rows(page.table, term, span.first, span.last);
        if let Some((token, key)) = &page.after {
            let mut after = keys::index_row(page.table, term, *token, key).to_vec();
            after.push(0);
            range.start = range.start.max(after.into());
        }
        if let Some((token, key)) = &page.before {
            let before = keys::index_row(page.table, term, *token, key);
            range.end = Some(range.end.map_or(before.clone(), |end| end.min(before)));
        }
        let mut places = BTreeSet::new();
        if range.is_empty() {
            return Ok((places, None));
        }
        let (mut full, mut failed) = (false, None);
        let mut visit = |entry: &[u8], _: Result<&[u8], StorageError>| {
            full = places.len() >= limit;
            if full {
                return ControlFlow::Break(());
            }
            match keys::parse_index_row(entry) {
                Ok(at) => {
                    places.insert((at.token, at.key));
                    ControlFlow::Continue(())
                }
                Err(error) => {
                    failed = Some(error);
                    ControlFlow::Break(())
                }
            }
        };
        self.scan(&range, page.order, &mut visit).map_err(|error| self.refuse_storage(&error))?;
        if let Some(error) = failed {
            return Err(self.refuse_storage(&error));
        }
        let last = places.iter().max_by(|a, b| page.order.compare(a, b));
        let end = if full { last.cloned() } else { None };
        Ok((places, end))
    }

    /// Adds the rows under way that readers see with the term, up to `end`.
    fn under_way_with(
        &self,
        span: TokenSpan,
        page: &PageRequest,
        term: IndexTerm,
        end: Option<&Position>,
        places: &mut BTreeSet<Position>,
    ) {
        let Some(schema) = self.indexes.schema(page.table) else { return };
        let range = keys::token_rows(Kind::Record, page.table, span.first, span.last);
        let is_in_range =
            |row: &Bytes| range.start <= *row && range.end.as_ref().is_none_or(|end| row < end);
        let is_asked = |place: &Position| {
            page.after.as_ref().is_none_or(|after| place > after)
                && page.before.as_ref().is_none_or(|before| place < before)
                && end.is_none_or(|end| page.order.compare(place, end).is_le())
        };
        for shard in self.shards.iter() {
            let mut overlay = shard.lock().unwrap_or_else(PoisonError::into_inner);
            for (row, shown) in overlay.shown_rows(self.committer.acked_seq()) {
                if !is_in_range(row) {
                    continue;
                }
                let Ok(parsed) = keys::parse_row(row) else { continue };
                let place = (parsed.token, parsed.key);
                let address = record::address(page.table, &place.1);
                // What cannot be read may have the term: it is shown, as what it is.
                let has = Record::decode(shown, &address).map_or(true, |record| {
                    record.kind() == RecordKind::Row
                        && terms_of(&schema, &place.1, &record).contains(&term)
                });
                if is_asked(&place) && has {
                    places.insert(place);
                }
            }
        }
    }
}
