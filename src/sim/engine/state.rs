//! The engine's rows and what it does to its files.

use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;

use bytes::Bytes;

use super::frontier::Frontier;
use super::log::{self, Found, ValueAt};
use super::{corrupt, segment_name};
use crate::plants::{Plant, planted};
use crate::sim::disk::{FileId, SimDisk};
use crate::storage::{Batch, StorageError};

/// A log longer than this, and twice as long as what all rows hold, is compacted.
const COMPACT_ABOVE: usize = 256 << 10;
/// Rows in one record of a compacted segment.
const COMPACT_BATCH: usize = 64;

/// A place in the order of all records: base before log, then by offset.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Place {
    in_log: bool,
    pub(super) at: usize,
}

/// The newest thing known of a key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    pub(super) place: Place,
    /// `None`: deleted. Kept only while there is damage that a deletion must outlive.
    pub(super) value: Option<ValueAt>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) rows: BTreeMap<Bytes, Row>,
    /// For keys that were changed since the last sync: what stood there at that sync.
    pub(super) synced_rows: BTreeMap<Bytes, Option<Row>>,
    pub(super) syncs: u64,
    frontier_file: FileId,
    frontier: Frontier,
    base: Option<FileId>,
    log: FileId,
    /// Where the next record goes.
    tail: usize,
    /// Damage of unknown extent: keys last written before this place are not to be trusted.
    damage: Option<Place>,
    poisoned: Option<String>,
    /// An apply or a sync has failed for a reason other than a full disk.
    failed: bool,
}

/// An entry of a scan; the error is that of reading its value.
pub(super) type Entry = (Bytes, Result<Bytes, StorageError>);

impl State {
    /// Reads the segments that the frontier names.
    pub(super) fn load(
        disk: &SimDisk,
        frontier_file: FileId,
        frontier: Frontier,
        base: Option<FileId>,
        log: FileId,
    ) -> Result<Self, StorageError> {
        let mut state = Self {
            rows: BTreeMap::new(),
            synced_rows: BTreeMap::new(),
            syncs: 0,
            frontier_file,
            frontier,
            base,
            log,
            tail: 0,
            damage: None,
            poisoned: None,
            failed: false,
        };
        if let Some(base) = base {
            let promised = frontier.base_len as usize;
            state.load_segment(disk, base, false, frontier.base, promised)?;
        }
        let promised = frontier.synced as usize;
        state.tail = state.load_segment(disk, log, true, frontier.log, promised)?;
        if state.damage.is_none() {
            state.rows.retain(|_, row| row.value.is_some());
        }
        Ok(state)
    }

    /// Reads a segment's records into the rows and says where it ends. The first `promised` bytes
    /// were synced: there, damage is damage. Beyond, it is the end.
    fn load_segment(
        &mut self,
        disk: &SimDisk,
        file: FileId,
        in_log: bool,
        number: u64,
        promised: usize,
    ) -> Result<usize, StorageError> {
        let bytes = disk
            .read(file, 0, usize::MAX)
            .map_err(|error| StorageError::io("reading a segment", &error))?;
        let mut at = 0;
        loop {
            let place = Place { in_log, at };
            match log::read(number, at, &bytes) {
                Found::Record(table)
                    if at < promised || log::values_are_whole(at, &bytes, &table) =>
                {
                    for (key, value) in table.entries {
                        self.rows.insert(key, Row { place, value });
                    }
                    at += table.len;
                }
                Found::DamagedTable(len) if at < promised => {
                    self.damage = Some(place);
                    at += len;
                }
                Found::Nothing if at < promised => {
                    self.damage = Some(place);
                    let next = (at + 1..bytes.len())
                        .find(|&next| !matches!(log::read(number, next, &bytes), Found::Nothing));
                    at = next.unwrap_or(promised);
                }
                Found::Record(_) | Found::DamagedTable(_) | Found::Nothing => {
                    return Ok(at.max(promised));
                }
            }
        }
    }

    /// Makes what was found durable before anyone is shown it, and sees to it that what was cut
    /// off does not come back.
    ///
    /// The tail is written again, not only synced: if the sync of an earlier process failed, the
    /// page cache shows bytes that it takes for clean and will never write. For the same reason
    /// the frontier is stored anew.
    pub(super) fn settle(&mut self, disk: &SimDisk) -> io::Result<()> {
        let synced = self.frontier.synced as usize;
        let tail = disk.read(self.log, synced, self.tail.saturating_sub(synced))?;
        disk.set_len(self.log, synced)?;
        disk.write(self.log, synced, &tail)?;
        disk.sync(self.log)?;
        disk.sync_dir()?;
        let next = Frontier { synced: self.tail as u64, ..self.frontier };
        self.frontier = next.store(disk, self.frontier_file)?;
        Ok(())
    }

    pub(super) fn file(&self, place: Place) -> Option<FileId> {
        if place.in_log { Some(self.log) } else { self.base }
    }

    /// Notes that the log is synced up to its tail.
    pub(super) fn move_frontier(&mut self, disk: &SimDisk) -> io::Result<()> {
        if self.frontier.synced != self.tail as u64 {
            let next = Frontier { synced: self.tail as u64, ..self.frontier };
            self.frontier = next.store(disk, self.frontier_file)?;
        }
        self.synced_rows.clear();
        Ok(())
    }

    pub(super) fn value_of(
        &self,
        disk: &SimDisk,
        key: &[u8],
        row: Option<&Row>,
    ) -> Result<Option<Bytes>, StorageError> {
        self.value_with(key, row, |file, at, len| {
            disk.read(file, at, len).map_err(|error| StorageError::io("reading a value", &error))
        })
    }

    /// The value of `key`, whose newest row is `row`, read by `read`.
    pub(super) fn value_with(
        &self,
        key: &[u8],
        row: Option<&Row>,
        read: impl FnOnce(FileId, usize, usize) -> Result<Vec<u8>, StorageError>,
    ) -> Result<Option<Bytes>, StorageError> {
        if self.damage.is_some_and(|damage| row.is_none_or(|row| row.place < damage)) {
            return Err(corrupt("part of the log is unreadable and may have held this key"));
        }
        let Some((row, value)) = row.and_then(|row| Some((row, row.value?))) else {
            return Ok(None);
        };
        let file = self.file(row.place).ok_or_else(|| corrupt("a segment is gone"))?;
        let bytes = read(file, row.place.at + value.offset, value.len)?;
        // With the planted bug, damage passes here as it does in the record's own check.
        let is_sound = log::value_checksum(key, &bytes) == value.checksum || planted(Plant::P30);
        if bytes.len() != value.len || !is_sound {
            return Err(corrupt("a value does not match its checksum"));
        }
        Ok(Some(bytes.into()))
    }

    /// The first `limit` entries within `bounds`.
    pub(super) fn page(
        &self,
        disk: &SimDisk,
        bounds: (Bound<Bytes>, Bound<Bytes>),
        limit: usize,
    ) -> Result<Vec<Entry>, StorageError> {
        self.entries(disk, self.rows.range::<Bytes, _>(bounds), limit)
    }

    /// The last `limit` entries within `bounds`, the last one first.
    pub(super) fn last_page(
        &self,
        disk: &SimDisk,
        bounds: (Bound<Bytes>, Bound<Bytes>),
        limit: usize,
    ) -> Result<Vec<Entry>, StorageError> {
        self.entries(disk, self.rows.range::<Bytes, _>(bounds).rev(), limit)
    }

    fn entries<'a>(
        &self,
        disk: &SimDisk,
        rows: impl Iterator<Item = (&'a Bytes, &'a Row)>,
        limit: usize,
    ) -> Result<Vec<Entry>, StorageError> {
        if self.damage.is_some() {
            return Err(corrupt("part of the log is unreadable and may have held such keys"));
        }
        let entry = |(key, row): (&Bytes, &Row)| {
            let value = self.value_of(disk, key, Some(row)).transpose()?;
            Some((key.clone(), value))
        };
        Ok(rows.filter_map(entry).take(limit).collect())
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failed
    }

    /// Keeps in mind that a write went wrong.
    pub(super) fn note(&mut self, result: &Result<(), StorageError>) {
        self.failed |= matches!(result, Err(error) if *error != StorageError::Full);
    }

    pub(super) fn is_poisoned(&self) -> bool {
        self.poisoned.is_some()
    }

    fn check_poison(&self) -> Result<(), StorageError> {
        match &self.poisoned {
            Some(cause) => Err(StorageError::Poisoned { cause: cause.clone() }),
            None => Ok(()),
        }
    }

    pub(super) fn apply(&mut self, disk: &SimDisk, batch: &Batch) -> Result<(), StorageError> {
        self.check_poison()?;
        if batch.is_empty() {
            return Ok(());
        }
        let (record, entries) = log::encode(self.frontier.log, self.tail, batch);
        // What a failed write leaves lies beyond the tail, where the next record goes.
        disk.write(self.log, self.tail, &record)
            .map_err(|error| StorageError::io("appending a batch", &error))?;
        let place = Place { in_log: true, at: self.tail };
        for (key, value) in entries {
            let row = Row { place, value };
            let before = if value.is_none() && self.damage.is_none() {
                self.rows.remove(&key)
            } else {
                self.rows.insert(key.clone(), row)
            };
            self.synced_rows.entry(key).or_insert(before);
        }
        self.tail += record.len();
        Ok(())
    }

    pub(super) fn sync(&mut self, disk: &SimDisk) -> Result<(), StorageError> {
        self.check_poison()?;
        self.syncs += 1;
        if self.frontier.synced == self.tail as u64 {
            return Ok(());
        }
        if let Err(error) = disk.sync(self.log).and_then(|()| self.move_frontier(disk)) {
            self.poisoned = Some(error.to_string());
            return Err(StorageError::io("syncing the log", &error));
        }
        if self.tail > COMPACT_ABOVE && self.damage.is_none() && self.tail > 2 * self.live_bytes() {
            self.compact(disk)?;
        }
        Ok(())
    }

    fn live_bytes(&self) -> usize {
        let size = |(key, row): (&Bytes, &Row)| key.len() + row.value.map_or(0, |v| v.len) + 64;
        self.rows.iter().map(size).sum()
    }

    /// Writes all rows into a fresh base segment and begins a fresh log. Any failure before the
    /// frontier moves leaves everything as it was; a failure to move it poisons, since nobody
    /// knows then which of the two counts.
    fn compact(&mut self, disk: &SimDisk) -> Result<(), StorageError> {
        let number = self.frontier.base.max(self.frontier.log) + 1;
        let Ok((base, base_len, rows)) = self.write_base(disk, number) else {
            let _ = disk.remove(&segment_name(number));
            return Ok(());
        };
        let (log_name, old) = (segment_name(number + 1), (self.frontier.base, self.frontier.log));
        let Ok(log) = disk.open(&log_name).and_then(|log| disk.sync_dir().map(|()| log)) else {
            let _ = disk.remove(&segment_name(number));
            let _ = disk.remove(&log_name);
            return Ok(());
        };
        let next = Frontier {
            base: number,
            base_len: base_len as u64,
            log: number + 1,
            synced: 0,
            ..self.frontier
        };
        match next.store(disk, self.frontier_file) {
            Ok(stored) => self.frontier = stored,
            Err(error) => {
                self.poisoned = Some(error.to_string());
                return Err(StorageError::io("moving the frontier", &error));
            }
        }
        (self.base, self.log, self.tail, self.rows) = (Some(base), log, 0, rows);
        for number in [old.0, old.1] {
            // What stays behind is removed at the next start.
            let _ = disk.remove(&segment_name(number));
        }
        Ok(())
    }

    fn write_base(
        &self,
        disk: &SimDisk,
        number: u64,
    ) -> Result<(FileId, usize, BTreeMap<Bytes, Row>), StorageError> {
        let failed = |error: io::Error| StorageError::io("compacting", &error);
        let file = disk.open(&segment_name(number)).map_err(failed)?;
        let mut rows = BTreeMap::new();
        let mut at = 0;
        let mut flush = |batch: &mut Batch, at: &mut usize| {
            let (record, entries) = log::encode(number, *at, batch);
            disk.write(file, *at, &record).map_err(failed)?;
            let place = Place { in_log: false, at: *at };
            rows.extend(entries.into_iter().map(|(key, value)| (key, Row { place, value })));
            *at += record.len();
            *batch = Batch::new();
            Ok(())
        };
        let mut batch = Batch::new();
        for (key, row) in &self.rows {
            if let Some(value) = self.value_of(disk, key, Some(row))? {
                batch.put(key.clone(), value);
            }
            if batch.ops().len() == COMPACT_BATCH {
                flush(&mut batch, &mut at)?;
            }
        }
        if !batch.is_empty() {
            flush(&mut batch, &mut at)?;
        }
        disk.sync(file).map_err(failed)?;
        Ok((file, at, rows))
    }
}
