//! The contract of a storage engine.

use std::fmt;
use std::io;
use std::ops::ControlFlow;
use std::time::Duration;

use bytes::Bytes;

/// What can go wrong on a disk.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// The stored bytes contradict their checksum or their form. Never to be read as "absent".
    #[error("stored data is damaged: {what}")]
    Corrupt {
        /// What was found, and where.
        what: String,
    },
    /// No space is left. Nothing of the batch was applied; reads go on.
    #[error("no space left on the data disk")]
    Full,
    /// The operating system reported an error.
    #[error("{during}: {message}")]
    Io {
        /// What was being done.
        during: &'static str,
        /// The system's own words.
        message: String,
    },
    /// A sync failed earlier. What it covered may be lost, and a later sync that succeeds proves
    /// nothing, so this engine acknowledges no more writes until it is opened again.
    #[error(
        "storage stopped after a failed sync ({cause}); restart the node once the disk is well"
    )]
    Poisoned {
        /// The error that the sync met.
        cause: String,
    },
    /// A write or a sync has not come back. Whether it will be, or was, carried out is unknown.
    #[error(
        "storage is stuck: a write or a sync has not come back for {} s (storage.stuck_after_s)",
        patience.as_secs()
    )]
    Stuck {
        /// How long was waited.
        patience: Duration,
    },
    /// The value or key is larger than the engine can hold.
    #[error("{got} bytes are more than the engine's limit of {max}")]
    TooLarge {
        /// The limit.
        max: usize,
        /// What was given.
        got: usize,
    },
}

impl StorageError {
    /// Wraps an I/O error met while `during`; a full disk becomes [`StorageError::Full`].
    #[must_use]
    pub fn io(during: &'static str, error: &io::Error) -> Self {
        if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            return Self::Full;
        }
        Self::Io { during, message: error.to_string() }
    }
}

/// One change of a [`Batch`].
#[derive(Clone, PartialEq, Eq)]
pub enum BatchOp {
    /// Set `key` to `value`.
    Put {
        /// The key.
        key: Bytes,
        /// Its new value.
        value: Bytes,
    },
    /// Remove `key`; absent is fine.
    Delete {
        /// The key.
        key: Bytes,
    },
}

impl fmt::Debug for BatchOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Put { key, value } => write!(f, "put({} B: {} B)", key.len(), value.len()),
            Self::Delete { key } => write!(f, "delete({} B)", key.len()),
        }
    }
}

/// Changes that happen together or not at all. Later changes of one key win over earlier ones.
#[derive(Clone, Default, Debug, PartialEq, Eq)]
pub struct Batch {
    ops: Vec<BatchOp>,
}

impl Batch {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds "set `key` to `value`".
    pub fn put(&mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> &mut Self {
        self.ops.push(BatchOp::Put { key: key.into(), value: value.into() });
        self
    }

    /// Adds "remove `key`".
    pub fn delete(&mut self, key: impl Into<Bytes>) -> &mut Self {
        self.ops.push(BatchOp::Delete { key: key.into() });
        self
    }

    /// Appends all changes of `other`, which come later than those already here.
    pub fn extend(&mut self, other: Self) {
        self.ops.extend(other.ops);
    }

    /// The changes, in order.
    #[must_use]
    pub fn ops(&self) -> &[BatchOp] {
        &self.ops
    }

    /// True when nothing would change.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// Bytes of keys and values together.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.ops
            .iter()
            .map(|op| match op {
                BatchOp::Put { key, value } => key.len() + value.len(),
                BatchOp::Delete { key } => key.len(),
            })
            .sum()
    }
}

/// The keys `start ≤ key < end`; no end means to the last key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRange {
    /// First key, inclusive.
    pub start: Bytes,
    /// Bound, exclusive.
    pub end: Option<Bytes>,
}

impl KeyRange {
    /// All keys that begin with `prefix`.
    #[must_use]
    pub fn prefix(prefix: &[u8]) -> Self {
        let mut end = prefix.to_vec();
        while let Some(last) = end.pop() {
            if last < u8::MAX {
                end.push(last + 1);
                return Self { start: Bytes::copy_from_slice(prefix), end: Some(end.into()) };
            }
        }
        Self { start: Bytes::copy_from_slice(prefix), end: None }
    }

    /// True when no key can lie in the range.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.end.as_ref().is_some_and(|end| *end <= self.start)
    }
}

/// Largest storage key, in bytes.
///
/// sled writes an index page of some 300 keys as one log item, and an item above 4 MiB leaves the
/// log for a side file that no sync covers; 12,000 B keeps every page below that. (fjall could
/// take 65,535.) Longer partition keys are refused before they come here, for this reason
/// ([`crate::types::MAX_STORED_KEY_BYTES`]).
pub const MAX_STORAGE_KEY_BYTES: usize = 12_000;

/// Largest value, in bytes.
pub const MAX_STORAGE_VALUE_BYTES: usize = 64 << 20;

/// Refuses a batch with a key or value that no engine takes. Every engine calls it first, so that
/// all of them draw the same line.
///
/// # Errors
/// [`StorageError::TooLarge`], for an empty key as well (`got` is then 0).
pub fn check_batch(batch: &Batch) -> Result<(), StorageError> {
    for op in batch.ops() {
        let (key, value) = match op {
            BatchOp::Put { key, value } => (key, value.len()),
            BatchOp::Delete { key } => (key, 0),
        };
        if key.is_empty() || key.len() > MAX_STORAGE_KEY_BYTES {
            return Err(StorageError::TooLarge { max: MAX_STORAGE_KEY_BYTES, got: key.len() });
        }
        if value > MAX_STORAGE_VALUE_BYTES {
            return Err(StorageError::TooLarge { max: MAX_STORAGE_VALUE_BYTES, got: value });
        }
    }
    Ok(())
}

/// What an engine tells about itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineStats {
    /// Bytes that the store takes on disk, as far as it knows.
    pub disk_bytes: u64,
    /// Syncs done since it was opened.
    pub syncs: u64,
}

/// Called for each entry of a scan, in its order, with its value or why that cannot be read;
/// `Break` ends the scan. One damaged value must not hide the entries after it.
pub type ScanVisitor<'a> = dyn FnMut(&[u8], Result<&[u8], StorageError>) -> ControlFlow<()> + 'a;

/// Ordered bytes with an atomic batch and a true sync.
///
/// Contract, which the conformance suite checks with real power loss:
/// - `apply` is atomic: after any crash all of the batch is there or none of it. It is visible to
///   `get` and scans when the call returns, and durable when a later `sync` returns.
/// - Batches become durable in the order of their `apply`: if one survived a crash, so did all
///   that were applied before it by the same thread.
/// - When `sync` returns `Ok`, every batch applied before the call survives the loss of power.
/// - After one failed `sync`, every later `apply` and `sync` fails with
///   [`StorageError::Poisoned`]; reads go on.
/// - [`StorageError::Full`] from `apply` means that nothing of the batch was or will be applied,
///   and the engine recovers by itself once there is space.
/// - Damage is reported as [`StorageError::Corrupt`] as far as the engine can see it, never as
///   absence. (Records carry checksums of their own above this.)
/// - Keys of 1 to [`MAX_STORAGE_KEY_BYTES`]; values of 0 bytes to [`MAX_STORAGE_VALUE_BYTES`];
///   wrappers cut large values as their engine needs.
/// - An empty or backward range scans as empty. A visitor may call the engine.
pub trait Engine: Send + Sync + 'static {
    /// The value of `key`, if it has one.
    ///
    /// # Errors
    /// Any [`StorageError`].
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StorageError>;

    /// Shows the entries of `range` to `visit`, in key order, from a view that need not be a
    /// snapshot: a concurrent batch may be seen in part. A value that cannot be read is shown as
    /// its error, and the scan goes on.
    ///
    /// # Errors
    /// Any [`StorageError`] of the store as a whole; entries before it may already have been
    /// shown.
    fn scan(&self, range: &KeyRange, visit: &mut ScanVisitor<'_>) -> Result<(), StorageError>;

    /// As [`Engine::scan`], from the end of `range` to its beginning.
    ///
    /// # Errors
    /// As [`Engine::scan`].
    fn scan_back(&self, range: &KeyRange, visit: &mut ScanVisitor<'_>) -> Result<(), StorageError>;

    /// Applies `batch` atomically.
    ///
    /// # Errors
    /// Any [`StorageError`]; the batch may then have been applied only for `Poisoned` and `Io`.
    fn apply(&self, batch: &Batch) -> Result<(), StorageError>;

    /// Makes all that was applied before this call durable.
    ///
    /// # Errors
    /// Any [`StorageError`]; the engine is then poisoned.
    fn sync(&self) -> Result<(), StorageError>;

    /// What the engine knows about itself. Cheap.
    fn stats(&self) -> EngineStats;
}
