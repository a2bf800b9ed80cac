//! Reads of a bucket: a row for each version of a key.

use super::collect::Collector;
use super::{CHUNK, Reading, TIMEOUT};
use crate::coordinator::{ReadOp, ScanOp};
use crate::record::Record;
use crate::ring::token_of;
use crate::server::cql::buckets::{self, Shower};
use crate::server::cql::error::CqlError;
use crate::server::cql::paging::PagingState;
use crate::types::{Key, MAX_KEY_BYTES, ScanOrder, Token};

impl Reading<'_> {
    /// Reads the versions of a bucket's key after the one called `from`.
    pub(super) async fn versions(
        &self,
        collector: &mut Collector<'_>,
        partition: &[u8],
        from: Option<&[u8]>,
    ) -> Result<bool, CqlError> {
        let key = Key::new(partition.to_vec());
        let key = key.map_err(|error| CqlError::invalid(error.to_string()))?;
        let op = ReadOp {
            table: self.table.clone(),
            key: key.clone(),
            level: buckets::read_level(self.table, self.ask.level),
            timeout: TIMEOUT,
            receipt: false,
            local: false,
        };
        let outcome = self.store.read(op).await.map_err(|e| CqlError::of_operation(&e, None))?;
        self.show(collector, &key, &outcome.record, from)
    }

    fn show(
        &self,
        collector: &mut Collector<'_>,
        key: &Key,
        record: &Record,
        from: Option<&[u8]>,
    ) -> Result<bool, CqlError> {
        let (schema, codec, now) = (self.ask.schema, self.store.codec(), self.ask.now);
        let shower = Shower { table: self.table, schema, codec, now };
        for (name, view) in shower.rows(key, record) {
            let again = from.is_some_and(|from| *name <= *from);
            if !again && !collector.offer(view, key.as_bytes(), &name)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reads a bucket's keys in the order of their tokens.
    pub(super) async fn scan_versions(
        &self,
        collector: &mut Collector<'_>,
        resumed: Option<&PagingState>,
    ) -> Result<(), CqlError> {
        let Some((first, last)) = collector.tests.token_range() else { return Ok(()) };
        let bound =
            |bytes: Vec<u8>| Key::new(bytes).map_err(|error| CqlError::invalid(error.to_string()));
        let before = match last.checked_add(1) {
            Some(token) => Some((Token(token), bound(vec![0])?)),
            None => None,
        };
        let mut after = match (resumed, first.checked_sub(1)) {
            (None, None) => None,
            (None, Some(token)) => Some((Token(token), bound(vec![0xFF; MAX_KEY_BYTES])?)),
            (Some(state), _) => {
                let from = Some(&state.clustering[..]);
                if !self.versions(collector, &state.partition, from).await? {
                    return Ok(());
                }
                Some((token_of(&state.partition), bound(state.partition.clone())?))
            }
        };
        loop {
            let op = ScanOp {
                table: self.table.clone(),
                after: after.clone(),
                before: before.clone(),
                term: None,
                order: ScanOrder::Ascending,
                limit: self.ask.page_size.map_or(CHUNK, |size| size.clamp(1, CHUNK - 1) + 1),
                level: self.ask.level,
                timeout: TIMEOUT,
            };
            let page = self.store.scan(op).await.map_err(|e| CqlError::of_operation(&e, None))?;
            for (_, key, record) in &page.rows {
                if !self.show(collector, key, record, None)? {
                    return Ok(());
                }
            }
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(()),
            }
        }
    }
}
