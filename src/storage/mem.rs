//! An engine in memory, for tests: nothing of it survives the process.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::sync::{PoisonError, RwLock};

use bytes::Bytes;

use crate::storage::engine::check_batch;
use crate::storage::{Batch, BatchOp, Engine, EngineStats, KeyRange, ScanVisitor, StorageError};

/// Entries that a scan reads at a time, so that a visitor may itself use the engine and a long scan
/// does not hold writers up.
const PAGE: usize = 64;

/// A `BTreeMap` under a lock. `sync` does nothing, as there is nothing to make durable.
///
/// Shared by `Arc`: a "restart" of a test node that keeps its `Arc<MemEngine>` keeps its data,
/// as a clean stop would.
#[derive(Debug, Default)]
pub struct MemEngine {
    rows: RwLock<BTreeMap<Bytes, Bytes>>,
}

impl MemEngine {
    /// An empty engine.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl Engine for MemEngine {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        let rows = self.rows.read().unwrap_or_else(PoisonError::into_inner);
        Ok(rows.get(key).cloned())
    }

    fn scan(&self, range: &KeyRange, visit: &mut ScanVisitor<'_>) -> Result<(), StorageError> {
        if range.is_empty() {
            return Ok(());
        }
        let mut from = Bound::Included(range.start.clone());
        loop {
            let to = range.end.clone().map_or(Bound::Unbounded, Bound::Excluded);
            let page: Vec<(Bytes, Bytes)> = {
                let rows = self.rows.read().unwrap_or_else(PoisonError::into_inner);
                let page = rows.range((from, to)).take(PAGE);
                page.map(|(key, value)| (key.clone(), value.clone())).collect()
            };
            for (key, value) in &page {
                if visit(key, Ok(value)) == ControlFlow::Break(()) {
                    return Ok(());
                }
            }
            match page.last() {
                Some((last, _)) if page.len() == PAGE => from = Bound::Excluded(last.clone()),
                _ => return Ok(()),
            }
        }
    }

    fn scan_back(&self, range: &KeyRange, visit: &mut ScanVisitor<'_>) -> Result<(), StorageError> {
        let mut range = range.clone();
        while !range.is_empty() {
            let page: Vec<(Bytes, Bytes)> = {
                let to = range.end.clone().map_or(Bound::Unbounded, Bound::Excluded);
                let rows = self.rows.read().unwrap_or_else(PoisonError::into_inner);
                let page = rows.range((Bound::Included(range.start.clone()), to));
                page.rev().take(PAGE).map(|(key, value)| (key.clone(), value.clone())).collect()
            };
            for (key, value) in &page {
                if visit(key, Ok(value)) == ControlFlow::Break(()) {
                    return Ok(());
                }
            }
            match page.last() {
                Some((last, _)) if page.len() == PAGE => range.end = Some(last.clone()),
                _ => return Ok(()),
            }
        }
        Ok(())
    }

    fn apply(&self, batch: &Batch) -> Result<(), StorageError> {
        check_batch(batch)?;
        let mut rows = self.rows.write().unwrap_or_else(PoisonError::into_inner);
        for op in batch.ops() {
            match op {
                BatchOp::Put { key, value } => rows.insert(key.clone(), value.clone()),
                BatchOp::Delete { key } => rows.remove(key),
            };
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), StorageError> {
        Ok(())
    }

    fn stats(&self) -> EngineStats {
        EngineStats::default()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::storage::conformance;

    #[test]
    fn conforms() {
        let engine = Arc::new(MemEngine::new());
        conformance::run(&|| engine.clone());
    }
}
