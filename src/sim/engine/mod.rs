//! A storage engine on a [`SimDisk`]: honours [`Engine`]'s contract, promises nothing beyond it.
//!
//! An ordered map of places in a log. `apply` appends one checksummed record and shows it at
//! once; `sync` syncs the log and moves the *frontier*, a small file that says how far; now and
//! then a sync also compacts. Values are read from the disk and checked at every `get`, so that
//! rot is met where a real engine would meet it.
//!
//! After a stop:
//! - beyond the frontier, the first record that is not whole ends the log (a torn tail): what is
//!   left is a prefix in order of `apply`;
//! - before it, damage to a value makes that key [`StorageError::Corrupt`]; damage that hides
//!   *which* keys it hit makes every key corrupt that was not written since, the absent ones
//!   included, because one of them may have been there.
//!
//! For the oracle, [`SimEngine::durable`] tells what would survive the loss of power right now.

mod frontier;
mod log;
mod state;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::{Bound, ControlFlow};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;

use self::frontier::{Frontier, FrontierState};
use self::state::{Row, State};
use crate::sim::disk::SimDisk;
use crate::storage::{
    Batch, BatchOp, Engine, EngineStats, KeyRange, ScanVisitor, StorageError, check_batch,
};

/// The engine. See the module's text.
pub struct SimEngine {
    disk: SimDisk,
    generation: u64,
    state: Mutex<State>,
    watcher: OnceLock<Watcher>,
}

/// Called with the key of each row that is about to be removed.
pub type Watcher = Box<dyn Fn(&[u8]) + Send + Sync>;

impl std::fmt::Debug for SimEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimEngine").field("disk", &self.disk).finish_non_exhaustive()
    }
}

fn segment_name(number: u64) -> String {
    format!("segment-{number:06}")
}

fn corrupt(what: impl Into<String>) -> StorageError {
    StorageError::Corrupt { what: what.into() }
}

impl SimEngine {
    /// Opens what is on `disk`, or begins anew on an empty one.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] when the frontier or a whole segment is gone; I/O errors.
    pub fn open(disk: &SimDisk) -> Result<Self, StorageError> {
        let failed = |error: io::Error| StorageError::io("opening the simulated store", &error);
        let generation = disk.generation();
        let (frontier_file, frontier) = match Frontier::load(disk).map_err(failed)? {
            FrontierState::Fresh => Frontier::create(disk).map_err(failed)?,
            FrontierState::Known(file, frontier) => (file, frontier),
            FrontierState::Damaged => return Err(corrupt("the frontier file is damaged or gone")),
        };
        let base = match frontier.base {
            0 => None,
            n => Some(disk.find(&segment_name(n)).ok_or_else(|| corrupt("a segment is gone"))?),
        };
        let log_name = segment_name(frontier.log);
        let log = match disk.find(&log_name) {
            Some(file) => file,
            None if frontier.synced == 0 => disk.open(&log_name).map_err(failed)?,
            None => return Err(corrupt("the log segment is gone")),
        };
        let mut state = State::load(disk, frontier_file, frontier, base, log)?;
        state.settle(disk).map_err(failed)?;
        for name in disk.list() {
            let kept = [segment_name(frontier.base), log_name.clone(), "frontier".to_owned()];
            if !kept.contains(&name) {
                disk.remove(&name).map_err(failed)?;
            }
        }
        let state = Mutex::new(state);
        Ok(Self { disk: disk.clone(), generation, state, watcher: OnceLock::new() })
    }

    /// Has `watcher` called before a row is removed. Only the first one counts.
    pub fn watch_removals(&self, watcher: Watcher) {
        let _ = self.watcher.set(watcher);
    }

    /// True once a sync has failed.
    #[must_use]
    pub fn is_poisoned(&self) -> bool {
        self.state().is_poisoned()
    }

    /// True once a write or a sync has failed for a reason other than a full disk: whoever commits
    /// through it has stopped, and goes on only in a new life.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.state().has_failed()
    }

    /// The disk below.
    #[must_use]
    pub fn disk(&self) -> &SimDisk {
        &self.disk
    }

    /// The value of `key` as it would be after a loss of power at this instant.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] as [`Engine::get`] would report it then.
    pub fn durable(&self, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        let state = self.state();
        let row = match state.synced_rows.get(key) {
            Some(before) => before.as_ref(),
            None => state.rows.get(key),
        };
        let peek = |file, at, len| Ok(self.disk.peek(file, at, len).unwrap_or_default());
        state.value_with(key, row, peek)
    }

    /// The rows of `range` as they would be after a loss of power at this instant; `None`: one that
    /// cannot be read.
    #[must_use]
    pub fn durable_rows(&self, range: &KeyRange) -> BTreeMap<Bytes, Option<Bytes>> {
        let keys: BTreeSet<Bytes> = {
            let (state, bounds) = (self.state(), bounds(range));
            let changed = state.synced_rows.range::<Bytes, _>(bounds.clone()).map(|(key, _)| key);
            changed
                .chain(state.rows.range::<Bytes, _>(bounds).map(|(key, _)| key))
                .cloned()
                .collect()
        };
        keys.into_iter()
            .filter_map(|key| match self.durable(&key) {
                Ok(None) => None,
                Ok(Some(value)) => Some((key, Some(value))),
                Err(_) => Some((key, None)),
            })
            .collect()
    }

    /// Flips a bit of the stored value of the `nth` key of `range` (counted round and round);
    /// false when no key there has a value.
    pub fn rot_value(&self, range: &KeyRange, nth: usize) -> bool {
        let state = self.state();
        let bounds = bounds(range);
        let values: Vec<&Row> = state
            .rows
            .range::<Bytes, _>(bounds)
            .map(|(_, row)| row)
            .filter(|row| row.value.is_some_and(|v| v.len > 0))
            .collect();
        let Some(row) = values.get(nth % values.len().max(1)) else { return false };
        let Some((file, value)) = row.value.zip(state.file(row.place)).map(|(v, f)| (f, v)) else {
            return false;
        };
        self.disk.rot_at(file, row.place.at + value.offset + nth % value.len)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False once the disk has other contents than the engine knows: it was wiped or restored.
    pub fn is_current(&self) -> bool {
        self.disk.generation() == self.generation
    }

    /// Refuses to touch a disk whose contents were replaced since it was opened.
    fn usable(&self) -> Result<(), StorageError> {
        if self.is_current() {
            return Ok(());
        }
        Err(StorageError::Io {
            during: "using the simulated store",
            message: "the disk was replaced under a running engine".to_owned(),
        })
    }
}

/// Entries that a scan reads at a time, so that a visitor may itself use the engine.
const PAGE: usize = 64;

fn bounds(range: &KeyRange) -> (Bound<Bytes>, Bound<Bytes>) {
    let end = range.end.clone().map_or(Bound::Unbounded, Bound::Excluded);
    (Bound::Included(range.start.clone()), end)
}

impl Engine for SimEngine {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        self.usable()?;
        let state = self.state();
        state.value_of(&self.disk, key, state.rows.get(key))
    }

    fn scan(&self, range: &KeyRange, visit: &mut ScanVisitor<'_>) -> Result<(), StorageError> {
        self.usable()?;
        if range.is_empty() {
            return Ok(());
        }
        let (mut from, to) = bounds(range);
        loop {
            let page = self.state().page(&self.disk, (from, to.clone()), PAGE)?;
            for (key, value) in &page {
                let value = value.as_ref().map(|value| &value[..]).map_err(StorageError::clone);
                if visit(key, value) == ControlFlow::Break(()) {
                    return Ok(());
                }
            }
            match page.into_iter().next_back() {
                Some((last, _)) => from = Bound::Excluded(last),
                None => return Ok(()),
            }
        }
    }

    fn scan_back(&self, range: &KeyRange, visit: &mut ScanVisitor<'_>) -> Result<(), StorageError> {
        self.usable()?;
        let mut range = range.clone();
        while !range.is_empty() {
            let page = self.state().last_page(&self.disk, bounds(&range), PAGE)?;
            for (key, value) in &page {
                let value = value.as_ref().map(|value| &value[..]).map_err(StorageError::clone);
                if visit(key, value) == ControlFlow::Break(()) {
                    return Ok(());
                }
            }
            match page.into_iter().next_back() {
                Some((last, _)) => range.end = Some(last),
                None => break,
            }
        }
        Ok(())
    }

    fn apply(&self, batch: &Batch) -> Result<(), StorageError> {
        check_batch(batch)?;
        self.usable()?;
        if let Some(watcher) = self.watcher.get() {
            for op in batch.ops() {
                if let BatchOp::Delete { key } = op {
                    watcher(key);
                }
            }
        }
        let mut state = self.state();
        let result = state.apply(&self.disk, batch);
        state.note(&result);
        result
    }

    fn sync(&self) -> Result<(), StorageError> {
        self.usable()?;
        let mut state = self.state();
        let result = state.sync(&self.disk);
        state.note(&result);
        result
    }

    fn stats(&self) -> EngineStats {
        EngineStats { disk_bytes: self.disk.used_bytes(), syncs: self.state().syncs }
    }
}
