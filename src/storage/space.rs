//! The free-space reserve: a write is refused while the disk still has room.
//!
//! No engine survives a full disk well: sled and fjall both stop for good when a log write meets
//! ENOSPC, and then cannot even be told to delete something. So the wrapper asks the file system
//! before each batch and refuses with [`StorageError::Full`] once less than a reserve is free.
//! One `statvfs` per batch costs about a microsecond; a batch is a whole commit group.

use std::io;
use std::path::{Path, PathBuf};

use crate::storage::{Batch, BatchOp, StorageError};

/// Free bytes that an engine keeps back unless told otherwise: room for the log segment that sled
/// begins (16 MiB), the pages that one batch rewrites, and a compaction step.
pub const DEFAULT_RESERVE_BYTES: u64 = 64 << 20;

/// A batch may grow on its way to the disk: pages are rewritten around it, an LSM tree writes it
/// twice. This many times its size must be free beyond the reserve.
const GROWTH: u64 = 4;

/// Watches the free space of one directory's file system.
#[derive(Debug)]
pub(super) struct SpaceGuard {
    dir: PathBuf,
    reserve_bytes: u64,
}

impl SpaceGuard {
    pub(super) fn new(dir: &Path, reserve_bytes: u64) -> Self {
        Self { dir: dir.to_owned(), reserve_bytes }
    }

    /// `Ok` if `batch` may be written. A batch of deletes alone may use half of the reserve, so
    /// that a full store can be emptied.
    pub(super) fn admit(&self, batch: &Batch) -> Result<(), StorageError> {
        let frees = batch.ops().iter().all(|op| matches!(op, BatchOp::Delete { .. }));
        let reserve = if frees { self.reserve_bytes / 2 } else { self.reserve_bytes };
        let growth = (batch.bytes() as u64).saturating_mul(GROWTH);
        if self.free_bytes()? < reserve.saturating_add(growth) {
            return Err(StorageError::Full);
        }
        Ok(())
    }

    fn free_bytes(&self) -> Result<u64, StorageError> {
        let found = rustix::fs::statvfs(&self.dir)
            .map_err(|errno| StorageError::io("asking for free space", &io::Error::from(errno)))?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn below_the_reserve_puts_are_refused_before_deletes() {
        let dir = tempfile::tempdir().unwrap();
        let free = SpaceGuard::new(dir.path(), 0).free_bytes().unwrap();
        let (mut put, mut delete) = (Batch::new(), Batch::new());
        put.put("k", "v");
        delete.delete("k");
        let tight = SpaceGuard::new(dir.path(), free + free / 2);
        assert_eq!(tight.admit(&put), Err(StorageError::Full));
        assert_eq!(tight.admit(&delete), Ok(()));
        assert_eq!(SpaceGuard::new(dir.path(), u64::MAX).admit(&delete), Err(StorageError::Full));
        assert_eq!(SpaceGuard::new(dir.path(), free / 4).admit(&put), Ok(()));
    }

    #[test]
    fn a_batch_much_larger_than_what_is_left_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let free = SpaceGuard::new(dir.path(), 0).free_bytes().unwrap();
        let mut batch = Batch::new();
        batch.put("k", vec![0; 1 << 20]);
        let guard = SpaceGuard::new(dir.path(), free.saturating_sub(1 << 20));
        assert_eq!(guard.admit(&batch), Err(StorageError::Full));
    }
}
