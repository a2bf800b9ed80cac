//! The form of one batch in a segment file.
//!
//! ```text
//! header   magic, ops, bytes of the table, bytes of the values, checksum      28 bytes
//! table    per op: kind, key length, value length, value checksum, key; then a checksum
//! values   one after the other
//! ```
//!
//! The header's checksum covers the segment's number and the place in it, so that bytes which
//! land at a wrong place, or are left over from another time, are never taken for a record. The
//! three parts are checked apart from each other, so that damage to a value is the loss of that
//! value and of nothing else.

use bytes::{Buf as _, BufMut as _, Bytes};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::storage::{Batch, BatchOp};

/// Bytes of a record's header.
pub(super) const HEADER: usize = 4 + 4 + 4 + 8 + 8;

const MAGIC: u32 = 0x4E47_4548;
/// Bytes of a table entry besides its key.
const ENTRY: usize = 1 + 4 + 4 + 8;
const PUT: u8 = 1;
const DELETE: u8 = 2;

/// Where a value lies within its record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ValueAt {
    /// From the start of the record.
    pub(super) offset: usize,
    pub(super) len: usize,
    pub(super) checksum: u64,
}

/// A record's table: what it does, without the values.
pub(super) struct Table {
    /// Key and, for a put, where its value is.
    pub(super) entries: Entries,
    /// Bytes of the whole record.
    pub(super) len: usize,
}

/// The checksum of `key`'s `value`: bound to the key, so that another key's value does not pass.
pub(super) fn value_checksum(key: &[u8], value: &[u8]) -> u64 {
    xxh3_64_with_seed(value, xxh3_64_with_seed(key, 0))
}

fn header_checksum(segment: u64, at: usize, fields: &[u8]) -> u64 {
    xxh3_64_with_seed(fields, xxh3_64_with_seed(&segment.to_le_bytes(), at as u64))
}

/// Keys of a batch and, for puts, where their values are.
pub(super) type Entries = Vec<(Bytes, Option<ValueAt>)>;

/// Encodes `batch` as the record at `at` of segment `segment`.
pub(super) fn encode(segment: u64, at: usize, batch: &Batch) -> (Vec<u8>, Entries) {
    let table_len: usize =
        batch.ops().iter().map(|op| ENTRY + op_parts(op).0.len()).sum::<usize>() + 8;
    let values_len: usize = batch.ops().iter().map(|op| op_parts(op).1.map_or(0, Bytes::len)).sum();
    let mut entries = Entries::with_capacity(batch.ops().len());
    let mut out = Vec::with_capacity(HEADER + table_len + values_len);
    out.put_u32_le(MAGIC);
    out.put_u32_le(batch.ops().len() as u32);
    out.put_u32_le(table_len as u32);
    out.put_u64_le(values_len as u64);
    out.put_u64_le(header_checksum(segment, at, &out));
    let mut offset = HEADER + table_len;
    for op in batch.ops() {
        let (key, value) = op_parts(op);
        let len = value.map_or(0, Bytes::len);
        let checksum = value.map_or(0, |value| value_checksum(key, value));
        out.put_u8(if value.is_some() { PUT } else { DELETE });
        out.put_u32_le(key.len() as u32);
        out.put_u32_le(len as u32);
        out.put_u64_le(checksum);
        out.put_slice(key);
        entries.push((key.clone(), value.map(|_| ValueAt { offset, len, checksum })));
        offset += len;
    }
    out.put_u64_le(xxh3_64_with_seed(&out[HEADER..], at as u64));
    for op in batch.ops() {
        if let (_, Some(value)) = op_parts(op) {
            out.put_slice(value);
        }
    }
    (out, entries)
}

fn op_parts(op: &BatchOp) -> (&Bytes, Option<&Bytes>) {
    match op {
        BatchOp::Put { key, value } => (key, Some(value)),
        BatchOp::Delete { key } => (key, None),
    }
}

/// What stands at a place of a segment.
pub(super) enum Found {
    /// A record whose table is whole. Its values may still be damaged or cut off.
    Record(Table),
    /// A record of this length, whose table is damaged.
    DamagedTable(usize),
    /// No record.
    Nothing,
}

/// Looks at `segment_bytes[at..]`.
pub(super) fn read(segment: u64, at: usize, segment_bytes: &[u8]) -> Found {
    let Some(header) = segment_bytes.get(at..at + HEADER) else { return Found::Nothing };
    let mut fields = header;
    let (magic, ops) = (fields.get_u32_le(), fields.get_u32_le());
    let (table_len, values_len) = (fields.get_u32_le() as usize, fields.get_u64_le() as usize);
    if magic != MAGIC || fields.get_u64_le() != header_checksum(segment, at, &header[..HEADER - 8])
    {
        return Found::Nothing;
    }
    let len = HEADER + table_len + values_len;
    let table = segment_bytes.get(at + HEADER..at + HEADER + table_len);
    match table.and_then(|table| read_table(at, ops, table)) {
        Some(entries) => Found::Record(Table { entries, len }),
        None => Found::DamagedTable(len),
    }
}

fn read_table(at: usize, ops: u32, table: &[u8]) -> Option<Entries> {
    let (mut rest, mut checksum) = table.split_at_checked(table.len().checked_sub(8)?)?;
    if checksum.get_u64_le() != xxh3_64_with_seed(rest, at as u64) {
        return None;
    }
    let mut offset = HEADER + table.len();
    let mut entries = Entries::new();
    for _ in 0..ops {
        if rest.remaining() < ENTRY {
            return None;
        }
        let kind = rest.get_u8();
        let (key_len, len) = (rest.get_u32_le() as usize, rest.get_u32_le() as usize);
        let checksum = rest.get_u64_le();
        let key = Bytes::copy_from_slice(rest.get(..key_len)?);
        rest.advance(key_len);
        let value = (kind == PUT).then_some(ValueAt { offset, len, checksum });
        offset += len;
        entries.push((key, value));
    }
    Some(entries)
}

/// True when the values of the record at `at` are all there and whole.
pub(super) fn values_are_whole(at: usize, segment_bytes: &[u8], table: &Table) -> bool {
    segment_bytes.len() >= at + table.len
        && table.entries.iter().all(|(key, value)| {
            value.is_none_or(|v| {
                let bytes = segment_bytes.get(at + v.offset..at + v.offset + v.len);
                bytes.is_some_and(|bytes| value_checksum(key, bytes) == v.checksum)
            })
        })
}
