//! Partition keys.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// The most bytes a partition key may ever have, whatever the configuration says (CQL's own
/// limit). The HTTP door's limit is configured and lower.
pub const MAX_KEY_BYTES: usize = 65_535;

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
