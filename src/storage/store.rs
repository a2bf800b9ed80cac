//! What sled and fjall have in common: the [`Engine`] contract on top of a plain ordered store.
//!
//! A [`RawStore`] gives an atomic write of small entries and a true sync. [`Store`] adds what the
//! contract asks beyond that: large values, the free-space reserve, and a full stop after a sync
//! that failed.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::{Bytes, BytesMut};

use crate::storage::rows::{self, Manifest, RowValue, damaged};
use crate::storage::space::SpaceGuard;
use crate::storage::{
    Batch, BatchOp, Engine, EngineStats, KeyRange, ScanVisitor, StorageError, check_batch,
};

/// An entry to write: its new value, or `None` to remove it.
pub(super) type RawOp = (Bytes, Option<Bytes>);

/// Called for each raw entry, in the scan's order; `Break` ends it.
pub(super) type RawVisitor<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// An ordered store of entries up to some ten KiB.
pub(super) trait RawStore: Send + Sync + 'static {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StorageError>;

    /// Shows the entries `from ≤ key < to` in order. `visit` may call the store.
    fn scan(&self, from: &[u8], to: &[u8], visit: &mut RawVisitor<'_>) -> Result<(), StorageError>;

    /// As [`RawStore::scan`], from the greatest key to the least.
    fn scan_back(
        &self,
        from: &[u8],
        to: &[u8],
        visit: &mut RawVisitor<'_>,
    ) -> Result<(), StorageError>;

    /// The greatest key with `from ≤ key < to`.
    fn last_key(&self, from: &[u8], to: &[u8]) -> Result<Option<Bytes>, StorageError>;

    /// Writes all of `ops`, whose keys differ, or none of them.
    fn write(&self, ops: Vec<RawOp>) -> Result<(), StorageError>;

    /// Makes everything written so far survive the loss of power.
    fn sync(&self) -> Result<(), StorageError>;

    fn disk_bytes(&self) -> u64;
}

/// An [`Engine`] over a [`RawStore`].
///
/// - One writer at a time: the chunks of a value that is overwritten are found and removed in the
///   batch that overwrites it.
/// - Once `broken` is set it stays; every later `apply` and `sync` gives it as `Poisoned`.
#[derive(Debug)]
pub(super) struct Store<R> {
    raw: R,
    space: SpaceGuard,
    writer: Mutex<()>,
    next_blob: AtomicU64,
    /// False while no large value can exist: overwrites then need not look at what they replace.
    has_chunks: AtomicBool,
    broken: OnceLock<String>,
    syncs: AtomicU64,
}

impl<R: RawStore> Store<R> {
    pub(super) fn new(raw: R, space: SpaceGuard) -> Result<Self, StorageError> {
        let newest = raw.last_key(rows::CHUNKS.0, rows::CHUNKS.1)?;
        let next_blob = match &newest {
            Some(key) => rows::blob_of(key)?
                .checked_add(1)
                .ok_or_else(|| damaged("a chunk key has a number that is never given"))?,
            None => 0,
        };
        Ok(Self {
            raw,
            space,
            writer: Mutex::new(()),
            next_blob: AtomicU64::new(next_blob),
            has_chunks: AtomicBool::new(newest.is_some()),
            broken: OnceLock::new(),
            syncs: AtomicU64::new(0),
        })
    }

    fn check_alive(&self) -> Result<(), StorageError> {
        match self.broken.get() {
            Some(cause) => Err(StorageError::Poisoned { cause: cause.clone() }),
            None => Ok(()),
        }
    }

    /// Stops all writing: what the store holds on disk is no longer known.
    fn break_down(&self, error: &StorageError) -> StorageError {
        let cause = match error {
            // The reserve should prevent this; the engine is now in an unknown state.
            StorageError::Full => "the disk filled up beyond its reserve".to_owned(),
            other => other.to_string(),
        };
        tracing::error!(cause, "storage stopped: no write is acknowledged until the next start");
        StorageError::Poisoned { cause: self.broken.get_or_init(|| cause).clone() }
    }

    fn lock_writer(&self) -> MutexGuard<'_, ()> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `batch` as raw entries: the last change of each key, large values cut up, the chunks of
    /// replaced values removed.
    fn raw_ops(&self, batch: &Batch) -> Result<Vec<RawOp>, StorageError> {
        let mut last: BTreeMap<&Bytes, Option<&Bytes>> = BTreeMap::new();
        for op in batch.ops() {
            match op {
                BatchOp::Put { key, value } => last.insert(key, Some(value)),
                BatchOp::Delete { key } => last.insert(key, None),
            };
        }
        let mut ops = Vec::with_capacity(last.len());
        for (key, value) in last {
            let key = rows::row_key(key);
            if self.has_chunks.load(Ordering::Acquire) {
                self.remove_chunks_of(&key, &mut ops)?;
            }
            match value {
                None => ops.push((key, None)),
                Some(value) if value.len() <= rows::CHUNK_BYTES => {
                    ops.push((key, Some(rows::inline(value))));
                }
                Some(value) => self.put_chunked(key, value, &mut ops),
            }
        }
        Ok(ops)
    }

    fn remove_chunks_of(&self, row: &[u8], ops: &mut Vec<RawOp>) -> Result<(), StorageError> {
        let Some(old) = self.raw.get(row)? else { return Ok(()) };
        // A row that cannot be read may be overwritten; its chunks are then left behind.
        if let Ok(RowValue::Chunked(manifest)) = RowValue::decode(&old) {
            ops.extend(manifest.chunk_keys().map(|key| (key, None)));
        }
        Ok(())
    }

    fn put_chunked(&self, row: Bytes, value: &Bytes, ops: &mut Vec<RawOp>) {
        self.has_chunks.store(true, Ordering::Release);
        let manifest = Manifest::of(self.next_blob.fetch_add(1, Ordering::Relaxed), value);
        for (no, key) in manifest.chunk_keys().enumerate() {
            let from = no * rows::CHUNK_BYTES;
            let to = value.len().min(from + rows::CHUNK_BYTES);
            ops.push((key, Some(value.slice(from..to))));
        }
        ops.push((row, Some(manifest.encode())));
    }

    /// The value of the raw row `row` whose stored form is `stored`; `None` if it was replaced or
    /// removed before all its chunks could be read.
    fn assemble(&self, stored: &[u8]) -> Result<Option<Bytes>, StorageError> {
        let manifest = match RowValue::decode(stored)? {
            RowValue::Inline(value) => return Ok(Some(Bytes::copy_from_slice(value))),
            RowValue::Chunked(manifest) => manifest,
        };
        let mut value = BytesMut::with_capacity(manifest.len());
        for key in manifest.chunk_keys() {
            match self.raw.get(&key)? {
                Some(chunk) => value.extend_from_slice(&chunk),
                None => return Ok(None),
            }
        }
        manifest.verify(value).map(Some)
    }

    fn get_row(&self, row: &[u8]) -> Result<Option<Bytes>, StorageError> {
        let Some(stored) = self.raw.get(row)? else { return Ok(None) };
        if let Some(value) = self.assemble(&stored)? {
            return Ok(Some(value));
        }
        // A chunk is missing: the row was overwritten meanwhile, or it is damaged. While no writer
        // runs, only damage is left as an explanation.
        let _writer = self.lock_writer();
        let Some(stored) = self.raw.get(row)? else { return Ok(None) };
        let value = self.assemble(&stored)?;
        value.map(Some).ok_or_else(|| damaged("a chunk of a large value is missing"))
    }

    /// Shows a raw row as what it stands for.
    fn show(&self, row: &[u8], stored: &[u8], visit: &mut ScanVisitor<'_>) -> ControlFlow<()> {
        let key = row.get(1..).unwrap_or_default();
        let shown = match RowValue::decode(stored) {
            Ok(RowValue::Inline(value)) => return visit(key, Ok(value)),
            Ok(RowValue::Chunked(_)) => self.get_row(row),
            Err(error) => Err(error),
        };
        match shown {
            Ok(Some(value)) => visit(key, Ok(&value)),
            Ok(None) => ControlFlow::Continue(()),
            Err(error) => visit(key, Err(error)),
        }
    }
}

/// The raw rows of `range`: from, and bound after.
fn raw_range(range: &KeyRange) -> (Bytes, Bytes) {
    let end = match &range.end {
        Some(end) => rows::row_key(end),
        None => Bytes::from_static(rows::ROWS_END),
    };
    (rows::row_key(&range.start), end)
}

impl<R: RawStore> Engine for Store<R> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        self.get_row(&rows::row_key(key))
    }

    fn scan(&self, range: &KeyRange, visit: &mut ScanVisitor<'_>) -> Result<(), StorageError> {
        if range.is_empty() {
            return Ok(());
        }
        let (from, to) = raw_range(range);
        self.raw.scan(&from, &to, &mut |row, stored| self.show(row, stored, visit))
    }

    fn scan_back(&self, range: &KeyRange, visit: &mut ScanVisitor<'_>) -> Result<(), StorageError> {
        if range.is_empty() {
            return Ok(());
        }
        let (from, to) = raw_range(range);
        self.raw.scan_back(&from, &to, &mut |row, stored| self.show(row, stored, visit))
    }

    fn apply(&self, batch: &Batch) -> Result<(), StorageError> {
        check_batch(batch)?;
        self.check_alive()?;
        if batch.is_empty() {
            return Ok(());
        }
        self.space.admit(batch)?;
        let _writer = self.lock_writer();
        let ops = self.raw_ops(batch)?;
        self.raw.write(ops).map_err(|error| self.break_down(&error))
    }

    fn sync(&self) -> Result<(), StorageError> {
        self.check_alive()?;
        self.raw.sync().map_err(|error| self.break_down(&error))?;
        self.syncs.fetch_add(1, Ordering::Relaxed);
        // Another thread's failure may have come while this one waited.
        self.check_alive()
    }

    fn stats(&self) -> EngineStats {
        EngineStats { disk_bytes: self.raw.disk_bytes(), syncs: self.syncs.load(Ordering::Relaxed) }
    }
}
