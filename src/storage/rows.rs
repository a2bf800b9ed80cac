//! How rows lie in an engine: small values inline, large ones cut into chunks.
//!
//! One ordered space holds two kinds of entry, told apart by their first byte:
//!
//! ```text
//! 'r' key                →  00 value                        (inline)
//!                           01 blob:u64 len:u64 xxh3:u64    (a large value: see its chunks)
//! 'c' blob:u64 no:u32    →  CHUNK_BYTES of the value (the last one may be shorter)
//! ```
//!
//! Everything is in one space so that one engine batch, which is atomic, covers a row and its
//! chunks. A blob number belongs to one write of one value and is not used twice.

use bytes::{BufMut as _, Bytes, BytesMut};
use xxhash_rust::xxh3::xxh3_64;

use crate::storage::{MAX_STORAGE_VALUE_BYTES, StorageError};

/// Largest value that stays in its row, and the size of a chunk.
///
/// sled rewrites a leaf of up to about 17 entries as one log item when one of them changes. An
/// item above a quarter of the segment (4 MiB) becomes a side file that no sync covers, and large
/// leaves are costly to rewrite: 16 KiB keeps them below 600 KiB, long keys included.
pub(super) const CHUNK_BYTES: usize = 16 << 10;

const ROW: u8 = b'r';
const CHUNK: u8 = b'c';
/// The first byte after all chunk keys.
const AFTER_CHUNKS: u8 = CHUNK + 1;
/// The first byte after all row keys.
const AFTER_ROWS: u8 = ROW + 1;
const INLINE: u8 = 0;
const CHUNKED: u8 = 1;

/// A large value's row: where its chunks are and what they must add up to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Manifest {
    blob: u64,
    len: u64,
    sum: u64,
}

/// A stored row value.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum RowValue<'a> {
    Inline(&'a [u8]),
    Chunked(Manifest),
}

impl<'a> RowValue<'a> {
    pub(super) fn decode(stored: &'a [u8]) -> Result<Self, StorageError> {
        match stored.split_first() {
            Some((&INLINE, value)) => Ok(Self::Inline(value)),
            Some((&CHUNKED, rest)) if rest.len() == 24 => {
                let word = |at: usize| {
                    rest[at..at + 8].iter().fold(0, |word, &byte| (word << 8) | u64::from(byte))
                };
                let manifest = Manifest { blob: word(0), len: word(8), sum: word(16) };
                if manifest.len > MAX_STORAGE_VALUE_BYTES as u64 {
                    return Err(damaged("a chunked value claims more bytes than a value may have"));
                }
                Ok(Self::Chunked(manifest))
            }
            _ => Err(damaged("a stored value has an unknown form")),
        }
    }
}

impl Manifest {
    pub(super) fn of(blob: u64, value: &[u8]) -> Self {
        Self { blob, len: value.len() as u64, sum: xxh3_64(value) }
    }

    pub(super) fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(25);
        out.put_u8(CHUNKED);
        out.put_u64(self.blob);
        out.put_u64(self.len);
        out.put_u64(self.sum);
        out.freeze()
    }

    pub(super) fn len(&self) -> usize {
        // Bounded by MAX_STORAGE_VALUE_BYTES in `decode`.
        self.len as usize
    }

    /// The keys of the chunks, in order.
    pub(super) fn chunk_keys(self) -> impl Iterator<Item = Bytes> {
        (0..self.len().div_ceil(CHUNK_BYTES)).map(move |no| chunk_key(self.blob, no as u32))
    }

    /// `value` if it is what was written.
    pub(super) fn verify(&self, value: BytesMut) -> Result<Bytes, StorageError> {
        if value.len() != self.len() || xxh3_64(&value) != self.sum {
            return Err(damaged("a chunked value does not match its checksum"));
        }
        Ok(value.freeze())
    }
}

/// `value` as it is stored in its row.
pub(super) fn inline(value: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(1 + value.len());
    out.put_u8(INLINE);
    out.put_slice(value);
    out.freeze()
}

pub(super) fn row_key(key: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(1 + key.len());
    out.put_u8(ROW);
    out.put_slice(key);
    out.freeze()
}

/// The bound after the last row.
pub(super) const ROWS_END: &[u8] = &[AFTER_ROWS];

/// All chunks: from, and bound after.
pub(super) const CHUNKS: (&[u8], &[u8]) = (&[CHUNK], &[AFTER_CHUNKS]);

fn chunk_key(blob: u64, no: u32) -> Bytes {
    let mut out = BytesMut::with_capacity(13);
    out.put_u8(CHUNK);
    out.put_u64(blob);
    out.put_u32(no);
    out.freeze()
}

/// The blob number in a chunk's key.
pub(super) fn blob_of(chunk_key: &[u8]) -> Result<u64, StorageError> {
    match chunk_key {
        [CHUNK, rest @ ..] if rest.len() == 12 => {
            Ok(rest[..8].iter().fold(0, |word, &byte| (word << 8) | u64::from(byte)))
        }
        _ => Err(damaged("a chunk key has an unknown form")),
    }
}

pub(super) fn damaged(what: &str) -> StorageError {
    StorageError::Corrupt { what: what.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_values_read_back() {
        assert_eq!(RowValue::decode(&inline(b"")).unwrap(), RowValue::Inline(b""));
        assert_eq!(RowValue::decode(&inline(b"v")).unwrap(), RowValue::Inline(b"v"));
        let manifest = Manifest::of(u64::MAX - 1, &[7; 40_000]);
        assert_eq!(RowValue::decode(&manifest.encode()).unwrap(), RowValue::Chunked(manifest));
        let keys: Vec<Bytes> = manifest.chunk_keys().collect();
        assert_eq!(keys.len(), 3);
        assert!(keys.is_sorted() && keys.iter().all(|key| blob_of(key).unwrap() == manifest.blob));
        assert!(keys.iter().all(|key| CHUNKS.0 <= &key[..] && &key[..] < CHUNKS.1));
    }

    #[test]
    fn damaged_row_values_are_reported() {
        let mut oversized = Manifest::of(1, b"");
        oversized.len = MAX_STORAGE_VALUE_BYTES as u64 + 1;
        let stored: [&[u8]; 5] = [b"", b"\x01", b"\x02v", &[1; 26], &oversized.encode()];
        for bytes in stored {
            assert!(RowValue::decode(bytes).is_err(), "{bytes:?}");
        }
        assert!(blob_of(b"c1234567").is_err());
    }

    #[test]
    fn a_value_that_is_not_the_written_one_is_refused() {
        let manifest = Manifest::of(1, &[7; 40_000]);
        assert!(manifest.verify(BytesMut::from(&[7; 40_000][..])).is_ok());
        assert!(manifest.verify(BytesMut::from(&[7; 39_999][..])).is_err());
        assert!(manifest.verify(BytesMut::from(&[8; 40_000][..])).is_err());
    }
}
