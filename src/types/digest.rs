//! 128-bit fingerprints of stored bytes.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::types::{Epoch, TableId};

/// xxh3-128 of some canonical bytes. Equal bytes have equal digests; no value is reserved for
/// "absent" (OpenRiak's bug with hash 0): absence is an `Option`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Digest(pub u128);

impl Digest {
    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(xxhash_rust::xxh3::xxh3_128(bytes))
    }
}

/// One replica's digest of all records of one partition of a table, at one epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionDigest {
    /// The replica's epoch.
    pub epoch: Epoch,
    /// The table.
    pub table: TableId,
    /// Records held.
    pub records: u64,
    /// XOR of the records' digests (with their keys): equal sets have equal roots.
    pub root: u128,
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{:08x}", self.0 >> 96)
    }
}
