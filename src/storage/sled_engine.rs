//! sled 0.34.7, the embedded default.
//!
//! sled's own promises do not survive the loss of power, so this wrapper makes them true:
//!
//! - `flush` issues `sync_file_range`, which neither commits file metadata nor flushes the disk's
//!   cache: every write that it "flushed" can be lost (spacejam/sled#1452, #1351), and whole
//!   stores with it. [`sled_barrier`] puts `fdatasync` in its place.
//! - New files are synced with their directories once, after the open that created them.
//! - Log items above a quarter of a segment go to side files that no sync covers. Segments are as
//!   large as sled allows (16 MiB) and no entry is above [`CHUNK_BYTES`], so there are none.
//! - The built-in flusher is off: it once lost a whole store, and the committer owns the sync.
//! - `flush_async` can deadlock with itself (spacejam/sled#1308) and is not used.
//! - Its iterator does not find the way back over a border `p x` of two of its pages when whole pages
//!   lie between `p (x-1) FF FF FF FF` and there, as those of small negative numbers do; it then
//!   looks a million times and panics. Rows are read backwards by [`backwards`].
//! - Damage makes it panic, mostly while opening: see [`contain`].
//!
//! What it cannot see: a log file that was cut short, or whose last segment is damaged, looks like
//! a torn tail to sled, which then quietly recovers the state before it. Pages in older segments
//! carry checksums.

use std::fs::File;
use std::ops::ControlFlow;
use std::path::Path;

use bytes::Bytes;

use crate::storage::backwards;
use crate::storage::contain::contain;
use crate::storage::dirs::{create_durable_dir, named, sync_tree};
use crate::storage::lock_wait::{LOCK_TRIES, pause};
#[cfg(doc)]
use crate::storage::rows::CHUNK_BYTES;
use crate::storage::sled_barrier;
use crate::storage::space::{DEFAULT_RESERVE_BYTES, SpaceGuard};
use crate::storage::store::{RawOp, RawStore, RawVisitor, Store};
use crate::storage::{Batch, Engine, EngineStats, KeyRange, ScanVisitor, StorageError};

/// sled refuses more; see the module's head for why it must not be less.
const SEGMENT_BYTES: usize = 16 << 20;

/// Settings of a [`SledEngine`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SledOptions {
    /// Bytes of pages kept in memory. sled uses about 1.6 times as much in all. At least 1 MiB.
    pub cache_bytes: u64,
    /// Free bytes of the file system below which writes are refused with
    /// [`StorageError::Full`].
    pub reserve_bytes: u64,
}

impl Default for SledOptions {
    fn default() -> Self {
        Self { cache_bytes: 128 << 20, reserve_bytes: DEFAULT_RESERVE_BYTES }
    }
}

/// A sled store in a directory of its own.
#[derive(Debug)]
pub struct SledEngine {
    store: Store<SledStore>,
}

impl SledEngine {
    /// Opens the store in `dir`, which is created if need be and must hold nothing else.
    ///
    /// Reads the whole store: about 1.3 s per GB. Blocks for up to 3 s while the store is open
    /// elsewhere.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] when sled cannot recover it; [`StorageError::Io`] when the
    /// directory cannot be used or another process has the store open.
    pub fn open(dir: &Path, options: SledOptions) -> Result<Self, StorageError> {
        if !sled_barrier::in_place() {
            let error = std::io::Error::other("this program was linked without sled's barrier");
            return Err(named("opening the store", dir, &error));
        }
        create_durable_dir(dir)?;
        let db = open_unlocked(dir, options)?;
        flush(&db)?;
        let log_path = dir.join("db");
        let log = File::open(&log_path).map_err(|e| named("opening sled's log", &log_path, &e))?;
        sync_tree(dir)?;
        let space = SpaceGuard::new(dir, options.reserve_bytes);
        Ok(Self { store: Store::new(SledStore { db, log }, space)? })
    }
}

impl Engine for SledEngine {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        self.store.get(key)
    }

    fn scan(&self, range: &KeyRange, visit: &mut ScanVisitor<'_>) -> Result<(), StorageError> {
        self.store.scan(range, visit)
    }

    fn scan_back(&self, range: &KeyRange, visit: &mut ScanVisitor<'_>) -> Result<(), StorageError> {
        self.store.scan_back(range, visit)
    }

    fn apply(&self, batch: &Batch) -> Result<(), StorageError> {
        self.store.apply(batch)
    }

    fn sync(&self) -> Result<(), StorageError> {
        self.store.sync()
    }

    fn stats(&self) -> EngineStats {
        self.store.stats()
    }
}

struct SledStore {
    db: sled::Db,
    /// A second handle on the log, for its size.
    log: File,
}

impl std::fmt::Debug for SledStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // sled's own form prints every row.
        f.write_str("SledStore")
    }
}

fn open_unlocked(dir: &Path, options: SledOptions) -> Result<sled::Db, StorageError> {
    let config = sled::Config::new()
        .path(dir)
        .cache_capacity(options.cache_bytes.max(1 << 20))
        .segment_size(SEGMENT_BYTES)
        .flush_every_ms(None)
        .use_compression(false);
    for _ in 0..LOCK_TRIES {
        match contain(|| config.open()) {
            Ok(Ok(db)) => return Ok(db),
            Ok(Err(error)) if is_locked(&error) => pause(),
            Ok(Err(error)) => return Err(broken("opening the store", &error)),
            Err(panic) => return Err(StorageError::Corrupt { what: in_dir(dir, &panic) }),
        }
    }
    let held = std::io::Error::other("another process has this store open");
    Err(named("opening the store", dir, &held))
}

fn in_dir(dir: &Path, what: &str) -> String {
    format!("the sled store in {}: {what}", dir.display())
}

fn is_locked(error: &sled::Error) -> bool {
    matches!(error, sled::Error::Io(io) if io.to_string().contains("could not acquire lock"))
}

fn flush(db: &sled::Db) -> Result<(), StorageError> {
    match contain(|| db.flush()) {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(broken("flushing sled's log", &error)),
        Err(panic) => Err(StorageError::Corrupt { what: panic }),
    }
}

fn broken(during: &'static str, error: &sled::Error) -> StorageError {
    match error {
        sled::Error::Io(io) if io.kind() == std::io::ErrorKind::InvalidData => {
            StorageError::Corrupt { what: format!("{during}: {io}") }
        }
        sled::Error::Io(io) => StorageError::io(during, io),
        other => StorageError::Corrupt { what: format!("{during}: {other}") },
    }
}

/// Runs a call into sled and brings its two ways of failing together.
fn call<T>(
    during: &'static str,
    work: impl FnOnce() -> sled::Result<T>,
) -> Result<T, StorageError> {
    match contain(work) {
        Ok(outcome) => outcome.map_err(|error| broken(during, &error)),
        Err(panic) => Err(StorageError::Corrupt { what: format!("{during}: {panic}") }),
    }
}

impl RawStore for SledStore {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        let found = call("reading a row", || self.db.get(key))?;
        Ok(found.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut RawVisitor<'_>) -> Result<(), StorageError> {
        let mut rows = self.db.range(from..to);
        while let Some((key, value)) = call("scanning rows", || rows.next().transpose())? {
            if visit(&key, &value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn scan_back(
        &self,
        from: &[u8],
        to: &[u8],
        visit: &mut RawVisitor<'_>,
    ) -> Result<(), StorageError> {
        backwards::scan(self, from, to, visit)
    }

    fn last_key(&self, from: &[u8], to: &[u8]) -> Result<Option<Bytes>, StorageError> {
        let mut last = None;
        backwards::scan(self, from, to, &mut |key, _| {
            last = Some(Bytes::copy_from_slice(key));
            ControlFlow::Break(())
        })?;
        Ok(last)
    }

    fn write(&self, ops: Vec<RawOp>) -> Result<(), StorageError> {
        let mut batch = sled::Batch::default();
        for (key, value) in ops {
            match value {
                Some(value) => batch.insert(&key[..], &value[..]),
                None => batch.remove(&key[..]),
            }
        }
        call("writing a batch", || self.db.apply_batch(batch))
    }

    fn sync(&self) -> Result<(), StorageError> {
        // True by `sled_barrier`.
        flush(&self.db)
    }

    fn disk_bytes(&self) -> u64 {
        self.log.metadata().map_or(0, |found| found.len())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Arc;

    use super::*;
    use crate::storage::{Batch, conformance};

    fn options() -> SledOptions {
        SledOptions { cache_bytes: 4 << 20, reserve_bytes: 0 }
    }

    fn put(engine: &SledEngine, key: &str, value: &[u8]) {
        let mut batch = Batch::new();
        batch.put(key.to_owned(), value.to_vec());
        engine.apply(&batch).unwrap();
    }

    #[test]
    fn conforms() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("sled");
        conformance::run(&|| Arc::new(SledEngine::open(&dir, options()).unwrap()));
        let side_files = fs::read_dir(dir.join("blobs")).unwrap().count();
        assert_eq!(side_files, 0, "an item left the log for a file that no sync covers");
    }

    #[test]
    fn a_batch_far_larger_than_the_cache_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let options = SledOptions { cache_bytes: 0, reserve_bytes: 0 };
        let engine = SledEngine::open(dir.path(), options).unwrap();
        let mut batch = Batch::new();
        for n in 0..40_u32 {
            batch.put(n.to_be_bytes().to_vec(), conformance::filler(n.into(), 1 << 20));
        }
        engine.apply(&batch).unwrap();
        engine.apply(&batch).unwrap();
        engine.sync().unwrap();
        assert_eq!(
            engine.get(&7_u32.to_be_bytes()).unwrap(),
            Some(conformance::filler(7, 1 << 20))
        );
    }

    #[test]
    fn a_full_disk_refuses_writes_and_reads_go_on() {
        let dir = tempfile::tempdir().unwrap();
        put(&SledEngine::open(dir.path(), options()).unwrap(), "k", b"v");
        let full = SledOptions { reserve_bytes: u64::MAX, ..options() };
        let engine = SledEngine::open(dir.path(), full).unwrap();
        let mut batch = Batch::new();
        batch.put("k", "w");
        assert_eq!(engine.apply(&batch), Err(StorageError::Full));
        engine.sync().unwrap();
        assert_eq!(engine.get(b"k").unwrap().as_deref(), Some(&b"v"[..]));
    }

    #[test]
    fn a_missing_chunk_is_damage_and_not_absence() {
        let dir = tempfile::tempdir().unwrap();
        let engine = SledEngine::open(dir.path(), options()).unwrap();
        put(&engine, "k", &conformance::filler(1, 100_000));
        let raw = open_raw(engine, dir.path());
        let (chunk, _) = raw.range(&b"c"[..]..&b"d"[..]).next().unwrap().unwrap();
        raw.remove(chunk).unwrap();
        raw.flush().unwrap();
        drop(raw);
        let engine = SledEngine::open(dir.path(), options()).unwrap();
        assert!(matches!(engine.get(b"k"), Err(StorageError::Corrupt { .. })));
        put(&engine, "l", b"after it");
        let mut shown = Vec::new();
        let scanned = engine.scan(&KeyRange::prefix(b""), &mut |key, value| {
            shown.push((key.to_vec(), value.map(<[u8]>::to_vec)));
            ControlFlow::Continue(())
        });
        assert_eq!(scanned, Ok(()), "one damaged value does not end a scan");
        assert!(matches!(&shown[0], (key, Err(StorageError::Corrupt { .. })) if key == b"k"));
        assert_eq!(shown[1], (b"l".to_vec(), Ok(b"after it".to_vec())));
        put(&engine, "k", b"a new value heals it");
        assert!(engine.get(b"k").unwrap().is_some());
    }

    fn open_raw(engine: SledEngine, dir: &Path) -> sled::Db {
        drop(engine);
        open_unlocked(dir, options()).unwrap()
    }

    #[test]
    fn a_file_in_place_of_the_directory_is_a_clear_error() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, b"x").unwrap();
        let error = SledEngine::open(&file, options()).unwrap_err();
        assert!(error.to_string().contains("not a directory"), "{error}");
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_a_clear_error() {
        // Not even root can create a directory here.
        let error = SledEngine::open(Path::new("/proc/henge-test"), options()).unwrap_err();
        assert!(error.to_string().contains("/proc/henge-test"), "{error}");
    }

    #[test]
    fn a_store_that_is_open_elsewhere_is_a_clear_error() {
        let dir = tempfile::tempdir().unwrap();
        let _held = SledEngine::open(dir.path(), options()).unwrap();
        let error = SledEngine::open(dir.path(), options()).unwrap_err();
        assert!(error.to_string().contains("another process"), "{error}");
    }

    fn filled(dir: &Path) {
        let engine = SledEngine::open(dir, options()).unwrap();
        for n in 0..500 {
            put(&engine, &format!("key-{n}"), &conformance::filler(n, 2_000));
        }
        engine.sync().unwrap();
    }

    #[test]
    fn damaged_settings_and_snapshots_are_reported() {
        for pattern in ["conf", "snap."] {
            let dir = tempfile::tempdir().unwrap();
            filled(dir.path());
            drop(SledEngine::open(dir.path(), options()).unwrap());
            let file = fs::read_dir(dir.path())
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .find(|path| path.file_name().unwrap().to_str().unwrap().starts_with(pattern))
                .unwrap();
            fs::write(&file, [0x5A; 40]).unwrap();
            let error = SledEngine::open(dir.path(), options()).unwrap_err();
            assert!(matches!(error, StorageError::Corrupt { .. }), "{pattern}: {error}");
        }
    }

    /// Wherever the log is damaged, nothing panics and no value is shown that was not written.
    #[test]
    fn a_damaged_log_never_panics_and_never_shows_wrong_values() {
        let dir = tempfile::tempdir().unwrap();
        filled(dir.path());
        let log = fs::read(dir.path().join("db")).unwrap();
        for (n, at) in
            [0, 5, 30, 1_000, log.len() / 3, log.len() / 2, log.len() - 9].into_iter().enumerate()
        {
            let mut damaged = log.clone();
            if n % 2 == 0 {
                damaged[at] ^= 0x20;
            } else {
                damaged.truncate(at);
            }
            fs::write(dir.path().join("db"), &damaged).unwrap();
            let Ok(engine) = SledEngine::open(dir.path(), options()) else { continue };
            let _ = engine.scan(&KeyRange::prefix(b"key-"), &mut |key, value| {
                let n: u64 = std::str::from_utf8(&key[4..]).unwrap().parse().unwrap();
                if let Ok(value) = value {
                    assert_eq!(value, conformance::filler(n, 2_000));
                }
                ControlFlow::Continue(())
            });
        }
    }
}
