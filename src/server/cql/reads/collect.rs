//! What a SELECT takes of the rows that are read: those that its WHERE admits, sorted, counted or
//! cut to a page.

use bytes::Bytes;

use super::nearest::Nearest;
use super::{Ask, CHUNK, MAX_SORTED, Page};
use crate::cql::ast::Term;
use crate::cql::relations::Tests;
use crate::cql::rows::RowView;
use crate::cql::schema::Schema;
use crate::cql::select::Accumulator;
use crate::cql::term::{Binds, Bound, evaluate};
use crate::cql::types::CqlType;
use crate::cql::value;
use crate::server::cql::error::CqlError;
use crate::server::cql::paging::PagingState;

/// The most bytes of values on a page, but for its last row. A page that would be longer ends
/// early, whatever number of rows was asked for; without pages there is only one, and an error.
const MAX_PAGE: usize = 16 << 20;

/// The most bytes of an answer without pages.
pub(super) const MAX_UNPAGED: usize = 64 << 20;

/// What a value takes beside its own bytes, in an answer.
const CELL: usize = 4;

fn limit(term: Option<&Term>, binds: Binds<'_>) -> Result<Option<u32>, CqlError> {
    let Some(term) = term else { return Ok(None) };
    match evaluate(term, &CqlType::Int, binds).map_err(CqlError::invalid)? {
        Bound::Value(bytes) => {
            let limit = value::integer(&bytes).and_then(|limit| u32::try_from(limit).ok());
            match limit {
                Some(limit) if limit > 0 => Ok(Some(limit)),
                _ => Err(CqlError::invalid("LIMIT must be strictly positive")),
            }
        }
        Bound::Null => Err(CqlError::invalid("Invalid null value of limit")),
        Bound::Unset => Ok(None),
    }
}

/// Takes rows in order, and knows when there are enough.
pub(super) struct Collector<'a> {
    ask: &'a Ask<'a>,
    pub(super) tests: Tests,
    page: Page,
    accumulator: Option<Accumulator<'a>>,
    /// Kept back to be sorted.
    unsorted: Option<Vec<RowView>>,
    nearest: Option<Nearest<'a>>,
    remaining: Option<u32>,
    per_partition: Option<u32>,
    pub(super) page_size: Option<usize>,
    /// Bytes of the values on the page.
    bytes: usize,
    /// The last row that was taken.
    last: Option<(Vec<u8>, Vec<u8>)>,
    in_partition: u32,
}

impl<'a> Collector<'a> {
    pub(super) fn new(
        ask: &'a Ask<'a>,
        tests: Tests,
        resumed: Option<&PagingState>,
    ) -> Result<Self, CqlError> {
        let query = ask.query;
        let whole = query.is_aggregate();
        let remaining = limit(query.limit.as_ref(), ask.binds)?;
        let sorts = !query.order_by.is_empty() && query.wheres.has_many_partitions(ask.schema);
        let nearest = Nearest::new(ask, remaining)?;
        let whole_answer = whole || sorts || nearest.is_some();
        let per_partition = limit(query.per_partition.as_ref(), ask.binds)?;
        Ok(Self {
            ask,
            tests,
            page: Page::default(),
            accumulator: whole.then(|| query.accumulator()),
            unsorted: sorts.then(Vec::new),
            nearest,
            remaining: resumed.map_or(remaining, |state| state.remaining),
            per_partition: if query.distinct { Some(1) } else { per_partition },
            page_size: ask.page_size.filter(|_| !whole_answer).map(|size| size as usize),
            bytes: 0,
            last: resumed.map(|state| (state.partition.clone(), state.clustering.clone())),
            in_partition: resumed.and_then(|state| state.in_partition).unwrap_or(0),
        })
    }

    /// Takes a row. False: there are enough.
    pub(super) fn offer(
        &mut self,
        view: RowView,
        partition: &[u8],
        clustering: &[u8],
    ) -> Result<bool, CqlError> {
        if !self.tests.admit(self.ask.schema, &view.values, view.token) {
            return Ok(true);
        }
        let same = self.last.as_ref().is_some_and(|(last, _)| last == partition);
        let in_partition = if same { self.in_partition } else { 0 };
        if self.per_partition.is_some_and(|limit| in_partition >= limit) {
            return Ok(true);
        }
        if self.remaining == Some(0) {
            return Ok(false);
        }
        let is_full = |size| self.page.rows.len() >= size || self.bytes >= MAX_PAGE;
        if self.page_size.is_some_and(is_full) {
            // There is one more row, so there is one more page.
            self.close_page();
            return Ok(false);
        }
        self.in_partition = in_partition + 1;
        self.last = Some((partition.to_vec(), clustering.to_vec()));
        let binds = self.ask.binds;
        if let Some(accumulator) = &mut self.accumulator {
            if let Some(row) = accumulator.push(&view, binds).map_err(CqlError::invalid)? {
                self.put(row)?;
            }
            return Ok(self.remaining != Some(0));
        }
        if let Some(nearest) = &mut self.nearest {
            return nearest.offer(view).map(|()| true);
        }
        if let Some(unsorted) = &mut self.unsorted {
            if unsorted.len() >= MAX_SORTED {
                return Err(CqlError::invalid(
                    "too many rows to sort: page through the partitions",
                ));
            }
            unsorted.push(view);
            return Ok(true);
        }
        let row = self.ask.query.show(&view, binds).map_err(CqlError::invalid)?;
        self.put(row)?;
        Ok(self.remaining != Some(0))
    }

    /// How many rows to read at first: those that have a place, and one that tells whether there
    /// are more.
    pub(super) fn wants(&self) -> u32 {
        if self.accumulator.is_some() || self.nearest.is_some() || self.unsorted.is_some() {
            return CHUNK;
        }
        let page = self.page_size.map(|size| size.saturating_sub(self.page.rows.len()));
        let page = page.map(|left| u32::try_from(left).unwrap_or(CHUNK));
        let least = [page, self.remaining, self.per_partition].into_iter().flatten().min();
        least.unwrap_or(CHUNK).clamp(1, CHUNK - 1) + 1
    }

    /// True once no more rows of a partition are taken.
    pub(super) fn has_enough_of(&self, partition: &[u8]) -> bool {
        let is_last = self.last.as_ref().is_some_and(|(last, _)| last == partition);
        is_last && self.per_partition.is_some_and(|limit| self.in_partition >= limit)
    }

    /// Puts a row of the result onto the page.
    fn put(&mut self, row: Vec<Option<Bytes>>) -> Result<(), CqlError> {
        self.bytes +=
            row.iter().map(|value| CELL + value.as_ref().map_or(0, Bytes::len)).sum::<usize>();
        if self.bytes > MAX_UNPAGED && self.page_size.is_none() {
            return Err(CqlError::invalid(
                "the answer is too long to be sent as a whole: ask for pages",
            ));
        }
        self.page.rows.push(row);
        self.remaining = self.remaining.map(|left| left.saturating_sub(1));
        Ok(())
    }

    fn close_page(&mut self) {
        let Some((partition, clustering)) = self.last.clone() else { return };
        let in_partition = self.per_partition.map(|_| self.in_partition);
        let state = PagingState { partition, clustering, remaining: self.remaining, in_partition };
        self.page.paging_state = Some(state.encode(self.ask.digest));
    }

    pub(super) fn finish(mut self) -> Result<Page, CqlError> {
        let (schema, binds) = (self.ask.schema, self.ask.binds);
        // The group that had begun when there were enough is not a whole one.
        if self.remaining != Some(0)
            && let Some(accumulator) = self.accumulator.take()
            && let Some(row) = accumulator.finish().map_err(CqlError::invalid)?
        {
            self.page.rows.push(row);
        }
        for view in self.nearest.take().into_iter().flat_map(Nearest::finish) {
            self.page.rows.push(self.ask.query.show(&view, binds).map_err(CqlError::invalid)?);
        }
        if let Some(mut unsorted) = self.unsorted.take() {
            let order = &self.ask.query.order_by;
            unsorted.sort_by(|a, b| compare(schema, order, a, b));
            unsorted.truncate(self.remaining.map_or(usize::MAX, |left| left as usize));
            for view in &unsorted {
                let row = self.ask.query.show(view, binds).map_err(CqlError::invalid)?;
                self.page.rows.push(row);
            }
        }
        Ok(self.page)
    }
}

fn compare(
    schema: &Schema,
    order: &[(usize, bool)],
    a: &RowView,
    b: &RowView,
) -> std::cmp::Ordering {
    for (place, descending) in order {
        let kind = &schema.columns()[*place].kind;
        let order = match (&a.values[*place], &b.values[*place]) {
            (Some(a), Some(b)) => value::compare(kind, a, b),
            (a, b) => a.is_some().cmp(&b.is_some()),
        };
        if order.is_ne() {
            return if *descending { order.reverse() } else { order };
        }
    }
    std::cmp::Ordering::Equal
}
