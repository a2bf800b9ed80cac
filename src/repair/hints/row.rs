//! A hint's row: `(hint, target, table, token, key) → format, since, generation, record, sum`.
//!
//! The record inside has its own checksum; the sum here covers the rest and binds the value to its
//! row, so that a misdirected write is no hint for somebody else.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::ring::token_in;
use crate::storage::StorageError;
use crate::storage::keys;
use crate::types::{Key, NodeId, TableId, WallMicros};

/// Version of the value's layout.
const FORMAT: u8 = 1;

/// Bytes before the record.
const HEAD_BYTES: usize = 1 + 8 + 8;

/// Bytes after it.
const SUM_BYTES: usize = 8;

/// What a replica missed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hint {
    /// Who missed it.
    pub target: NodeId,
    /// In which table.
    pub table: TableId,
    /// Under which key.
    pub key: Key,
    /// When the oldest write in it was missed, by the holder's wall clock.
    pub since: WallMicros,
    /// The purge generation of the partition at the record's source. Always 0 until partitions
    /// have one.
    pub generation: u64,
    /// The record to merge in ([`crate::record`]'s encoding).
    pub record: Bytes,
}

impl Hint {
    /// The row in which it is kept.
    #[must_use]
    pub(super) fn row(&self) -> Bytes {
        keys::hint_row(self.target, self.table, token_in(self.table, &self.key), &self.key)
    }

    /// The value of that row.
    pub(super) fn value(&self, row: &[u8]) -> Bytes {
        let mut out = BytesMut::with_capacity(HEAD_BYTES + self.record.len() + SUM_BYTES);
        out.put_u8(FORMAT);
        out.put_u64(self.since.0);
        out.put_u64(self.generation);
        out.put_slice(&self.record);
        let sum = checksum(row, &out);
        out.put_u64(sum);
        out.freeze()
    }

    /// Reads a row back.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] when it is not what was written.
    pub(crate) fn read(row: &[u8], value: &Bytes) -> Result<Self, StorageError> {
        let corrupt = |what: &str| StorageError::Corrupt { what: format!("a hint {what}") };
        let (target, at) = keys::parse_hint_row(row)?;
        let length = value.len().checked_sub(HEAD_BYTES + SUM_BYTES);
        let length = length.ok_or_else(|| corrupt("is too short"))?;
        let (body, mut sum) = value.split_at(HEAD_BYTES + length);
        if checksum(row, body) != sum.get_u64() {
            return Err(corrupt("does not match its checksum"));
        }
        let mut head = body;
        if head.get_u8() != FORMAT {
            return Err(corrupt("has an unknown format"));
        }
        let (since, generation) = (WallMicros(head.get_u64()), head.get_u64());
        let record = value.slice(HEAD_BYTES..HEAD_BYTES + length);
        Ok(Self { target, table: at.table, key: at.key, since, generation, record })
    }
}

fn checksum(row: &[u8], body: &[u8]) -> u64 {
    xxh3_64_with_seed(body, xxh3_64(row))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hint() -> Hint {
        Hint {
            target: NodeId(7 << 100),
            table: TableId(3),
            key: Key::new(&b"k\0ey"[..]).unwrap(),
            since: WallMicros(1_700_000_000_000_000),
            generation: 5,
            record: Bytes::from_static(b"a record"),
        }
    }

    #[test]
    fn a_hint_reads_back_from_its_row() {
        let hint = hint();
        let row = hint.row();
        assert_eq!(Hint::read(&row, &hint.value(&row)).unwrap(), hint);
    }

    #[test]
    fn no_bent_byte_and_no_other_row_passes() {
        let hint = hint();
        let (row, other) = (hint.row(), Hint { target: NodeId(1), ..hint.clone() }.row());
        let value = hint.value(&row);
        assert!(Hint::read(&other, &value).is_err());
        for at in 0..value.len() {
            let mut bent = value.to_vec();
            bent[at] ^= 1;
            assert!(Hint::read(&row, &bent.into()).is_err(), "byte {at}");
            assert!(Hint::read(&row, &value.slice(..at)).is_err(), "cut at {at}");
        }
        assert!(Hint::read(&row[..9], &value).is_err());
    }
}
