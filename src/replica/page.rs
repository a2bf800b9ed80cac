//! Pages of a partition: what listings, refills and comparisons read.

use std::ops::ControlFlow;

use bytes::Bytes;

use crate::merkle;
use crate::meta::Table;
use crate::net::messages::{PageRequest, Row, Want};
use crate::net::{Refusal, Response};
use crate::record;
use crate::replica::{Replica, shard_of};
use crate::storage::keys::{self, Kind};
use crate::storage::{KeyRange, ScanVisitor, StorageError};
use crate::types::{Digest, Epoch, Key, PartitionDigest, PartitionId, ScanOrder, Token};

/// The most rows that a page holds, whatever was asked.
pub(super) const MAX_PAGE_ROWS: usize = 1_000;

/// A page ends once its records have this many bytes.
pub(super) const MAX_PAGE_BYTES: usize = 4 << 20;

/// A page ends once this many rows were looked at, so that a rare prefix cannot hold up a node.
const MAX_PAGE_SCAN: usize = 10_000;

/// The tokens of a partition, both ends inclusive.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TokenSpan {
    pub(crate) first: Token,
    pub(crate) last: Token,
}

struct PageBuilder {
    rows: Vec<Row>,
    bytes: usize,
    looked_at: usize,
    last: Option<(Token, Key)>,
    refusal: Option<Refusal>,
    full: bool,
}

impl Replica {
    /// Answers [`PageRequest`]. Blocks on the disk: call it through `Env::blocking`.
    ///
    /// A row that cannot be read, by the engine or by its checksum, is counted and stands in the
    /// page with neither digest nor record: left out, it would be taken for absent by a listing
    /// whose other replicas never had it.
    ///
    /// # Errors
    /// A [`Refusal`]. [`Refusal::Damaged`] for the whole page only when the engine cannot say which
    /// rows there are (a damaged index, or a storage key that is none).
    pub(crate) fn page(&self, span: TokenSpan, page: &PageRequest) -> Result<Response, Refusal> {
        if let Some(term) = page.term {
            return self.index_page(span, page, term);
        }
        let id = (page.table, page.partition);
        let generation = self.generation(id).map_err(|e| self.refuse_storage(&e))?;
        let mut range = keys::token_rows(Kind::Record, page.table, span.first, span.last);
        if let Some((token, key)) = &page.after {
            let mut after = keys::row(Kind::Record, page.table, *token, key, b"").to_vec();
            after.push(0);
            range.start = range.start.max(after.into());
        }
        if let Some((token, key)) = &page.before {
            let before = keys::row(Kind::Record, page.table, *token, key, b"");
            range.end = Some(range.end.map_or(before.clone(), |end| end.min(before)));
        }
        if range.end.as_ref().is_some_and(|end| *end <= range.start) {
            return Ok(Response::Page { rows: Vec::new(), next: None, generation });
        }
        let limit = (page.limit as usize).clamp(1, MAX_PAGE_ROWS);
        let mut out = PageBuilder {
            rows: Vec::new(),
            bytes: 0,
            looked_at: 0,
            last: None,
            refusal: None,
            full: false,
        };
        let mut visit = |row: &[u8], stored: Result<&[u8], StorageError>| {
            self.visit(page, limit, &mut out, row, stored)
        };
        self.scan(&range, page.order, &mut visit).map_err(|e| self.refuse_storage(&e))?;
        if let Some(refusal) = out.refusal {
            return Err(refusal);
        }
        let next = if out.full { out.last } else { None };
        Ok(Response::Page { rows: out.rows, next, generation })
    }

    /// Shows what the engine holds in `range`.
    pub(super) fn scan(
        &self,
        range: &KeyRange,
        order: ScanOrder,
        visit: &mut ScanVisitor<'_>,
    ) -> Result<(), StorageError> {
        match order {
            ScanOrder::Ascending => self.engine.scan(range, visit),
            ScanOrder::Descending => self.engine.scan_back(range, visit),
        }
    }

    fn visit(
        &self,
        page: &PageRequest,
        limit: usize,
        out: &mut PageBuilder,
        row: &[u8],
        stored: Result<&[u8], StorageError>,
    ) -> ControlFlow<()> {
        if out.rows.len() >= limit || out.bytes >= MAX_PAGE_BYTES || out.looked_at >= MAX_PAGE_SCAN
        {
            out.full = true;
            return ControlFlow::Break(());
        }
        out.looked_at += 1;
        let parsed = match keys::parse_row(row) {
            Ok(parsed) => parsed,
            Err(error) => {
                out.refusal = Some(self.refuse_storage(&error));
                return ControlFlow::Break(());
            }
        };
        out.last = Some((parsed.token, parsed.key.clone()));
        if !parsed.key.as_bytes().starts_with(&page.prefix) {
            return ControlFlow::Continue(());
        }
        let shown = {
            let mut overlay = self.lock(shard_of(parsed.token));
            overlay.shown(row, self.committer.acked_seq())
        };
        let bytes = match shown {
            None => stored.map(Bytes::copy_from_slice),
            Some(Some(bytes)) => Ok(bytes),
            Some(None) => return ControlFlow::Continue(()),
        };
        match self.page_row(page, row, (parsed.token, parsed.key), bytes) {
            Ok(row) => {
                out.bytes += row.record.len() + row.key.as_bytes().len();
                out.rows.push(row);
                ControlFlow::Continue(())
            }
            Err(refusal) => {
                out.refusal = Some(refusal);
                ControlFlow::Break(())
            }
        }
    }

    /// The row under the storage key `row` as it stands in a page.
    pub(super) fn page_row(
        &self,
        page: &PageRequest,
        row: &[u8],
        (token, key): (Token, Key),
        bytes: Result<Bytes, StorageError>,
    ) -> Result<Row, Refusal> {
        let checked = bytes.map_err(|error| self.refuse_storage(&error)).and_then(|bytes| {
            let digest = record::verify(&bytes, &record::address(page.table, &key))
                .map_err(|error| self.refuse_damaged(row, &error))?;
            Ok((digest, bytes))
        });
        let (digest, record) = match checked {
            Ok((digest, bytes)) if page.want == Want::Record => (Some(digest), bytes),
            Ok((digest, _)) => (Some(digest), Bytes::new()),
            Err(Refusal::Damaged) => (None, Bytes::new()),
            Err(refusal) => return Err(refusal),
        };
        Ok(Row { token, key, digest, record })
    }

    /// This node's own digest of one partition of a table: for comparing replicas from outside.
    /// Blocks on the disk: call it through `Env::blocking`.
    ///
    /// # Errors
    /// A [`Refusal`].
    pub(crate) fn partition_digest(
        &self,
        epoch: Epoch,
        table: &Table,
        partition: PartitionId,
        span: TokenSpan,
    ) -> Result<PartitionDigest, Refusal> {
        let _ = partition;
        let mut digest = PartitionDigest { epoch, table: table.id, records: 0, root: 0 };
        let mut request = PageRequest {
            table: table.id,
            partition,
            after: None,
            before: None,
            prefix: Bytes::new(),
            limit: u32::MAX,
            want: Want::Digest,
            refill: false,
            term: None,
            order: ScanOrder::Ascending,
        };
        loop {
            let Response::Page { rows, next, .. } = self.page(span, &request)? else { break };
            for row in rows {
                digest.records += 1;
                // A row that cannot be read is like none of another replica's.
                let held = row.digest.unwrap_or(Digest(u128::MAX));
                digest.root ^= merkle::digest(&record::address(table.id, &row.key), held);
            }
            match next {
                Some(next) => request.after = Some(next),
                None => break,
            }
        }
        Ok(digest)
    }
}
