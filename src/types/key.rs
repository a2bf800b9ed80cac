//! Partition keys.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// The most bytes a partition key may ever have, whatever the configuration says (CQL's own
/// limit). The HTTP door's limit is configured and lower.
pub const MAX_KEY_BYTES: usize = 65_535;

/// The most bytes of a key that can be stored, a zero byte counted twice (it is escaped): what a
/// storage key may have, less what the longest of those that name a key (a hint's, an index
/// entry's) has besides it. `storage::keys` has the test.
pub const MAX_STORED_KEY_BYTES: usize = 11_969;

/// A key that is empty or too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a key has 1 to {max} bytes, this one has {got}")]
pub struct KeyError {
    /// The bound that was broken.
    pub max: usize,
    /// The length that was given.
    pub got: usize,
}

/// A partition key: any bytes, 1 to [`MAX_KEY_BYTES`] of them. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Bytes", into = "Bytes")]
pub struct Key(Bytes);

impl Key {
    /// Takes `bytes` as a key.
    ///
    /// # Errors
    /// [`KeyError`] when it is empty or longer than [`MAX_KEY_BYTES`].
    pub fn new(bytes: impl Into<Bytes>) -> Result<Self, KeyError> {
        let bytes = bytes.into();
        if bytes.is_empty() || bytes.len() > MAX_KEY_BYTES {
            return Err(KeyError { max: MAX_KEY_BYTES, got: bytes.len() });
        }
        Ok(Self(bytes))
    }

    /// The key of a row: its partition key and, in order-preserving form, its clustering key. All
    /// rows of a partition are neighbours, in the order of their clustering bytes; the row without
    /// clustering bytes, which comes first, is the partition's *head*.
    ///
    /// # Errors
    /// [`KeyError`] when the partition key is empty, or both are too long together.
    pub fn of_row(partition: &[u8], clustering: &[u8]) -> Result<Self, KeyError> {
        let got = partition.len() + clustering.len() + 2;
        let error = KeyError { max: MAX_KEY_BYTES, got };
        let len = u16::try_from(partition.len()).map_err(|_| error)?;
        if len == 0 {
            return Err(KeyError { max: MAX_KEY_BYTES, got: 0 });
        }
        let mut bytes = Vec::with_capacity(got);
        bytes.extend_from_slice(&len.to_be_bytes());
        bytes.extend_from_slice(partition);
        bytes.extend_from_slice(clustering);
        Self::new(bytes)
    }

    /// The partition key and clustering bytes of a row's key; `None` if this is no such key.
    #[must_use]
    pub fn row_parts(&self) -> Option<(&[u8], &[u8])> {
        let (len, rest) = self.0.split_first_chunk::<2>()?;
        let len = usize::from(u16::from_be_bytes(*len));
        if len == 0 { None } else { rest.split_at_checked(len) }
    }

    /// True if something can be stored under it: see [`MAX_STORED_KEY_BYTES`].
    #[must_use]
    pub fn is_storable(&self) -> bool {
        let zeros = self.0.iter().filter(|byte| **byte == 0).count();
        self.0.len() + zeros <= MAX_STORED_KEY_BYTES
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for Key {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl TryFrom<Bytes> for Key {
    type Error = KeyError;

    fn try_from(bytes: Bytes) -> Result<Self, KeyError> {
        Self::new(bytes)
    }
}

impl From<Key> for Bytes {
    fn from(key: Key) -> Self {
        key.0
    }
}

impl fmt::Debug for Key {
    /// A fingerprint, never the user's bytes: keys end up in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key:{:08x}", xxhash_rust::xxh3::xxh3_64(&self.0) >> 32)
    }
}
