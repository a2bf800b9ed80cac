//! The bytes of a row: see [`crate::record`]'s codec for what stands around them.
//!
//! ```text
//! row:    flags (1 deleted, 2 liveness, 4 dated), [stamp], [liveness], [date], columns, ranges
//! column: id, sort (0 cell | 1 elements | 2 elements with a deletion), …
//! cell:   flags (1 deleted, 2 expiry), stamp, [at, ttl], [bytes]
//! range:  start, end, stamp
//! ```

use bytes::Bytes;

use crate::causality::wire::{Reader, WireError, put_bytes, put_len, put_varint};
use crate::record::rows::{Cell, Column, Content, Expiry, Liveness, RangeDeletion, Row};
use crate::types::WallMicros;

const DELETED: u8 = 1;
const LIVENESS: u8 = 2;
const DATED: u8 = 4;
const EXPIRY: u8 = 2;
/// A cell's least size: flags, stamp.
const MIN_CELL: usize = 2;

fn put_stamp(out: &mut Vec<u8>, stamp: i64) {
    put_varint(out, ((stamp << 1) ^ (stamp >> 63)) as u64);
}

fn read_stamp(reader: &mut Reader<'_>) -> Result<i64, WireError> {
    let raw = reader.varint()?;
    Ok((raw >> 1) as i64 ^ -((raw & 1) as i64))
}

fn put_expiry(out: &mut Vec<u8>, expiry: Option<Expiry>) {
    if let Some(expiry) = expiry {
        put_varint(out, expiry.at.0);
        put_varint(out, u64::from(expiry.ttl_s));
    }
}

fn read_expiry(reader: &mut Reader<'_>, flags: u8) -> Result<Option<Expiry>, WireError> {
    if flags & EXPIRY == 0 {
        return Ok(None);
    }
    let at = WallMicros(reader.varint()?);
    let ttl_s = u32::try_from(reader.varint()?);
    let ttl_s = ttl_s.map_err(|_| WireError::Malformed("a time to live out of range"))?;
    Ok(Some(Expiry { at, ttl_s }))
}

fn put_cell(out: &mut Vec<u8>, cell: &Cell) {
    let expiry = if cell.expiry().is_some() { EXPIRY } else { 0 };
    match &cell.content {
        Content::Deleted => {
            out.push(DELETED);
            put_stamp(out, cell.stamp);
        }
        Content::Value { bytes, .. } => {
            out.push(expiry);
            put_stamp(out, cell.stamp);
            put_expiry(out, cell.expiry());
            put_bytes(out, bytes);
        }
    }
}

fn read_bytes(reader: &mut Reader<'_>, bytes: &Bytes) -> Result<Bytes, WireError> {
    let len = reader.len()?;
    Ok(bytes.slice(reader.range(len)?))
}

fn read_cell(reader: &mut Reader<'_>, bytes: &Bytes) -> Result<Cell, WireError> {
    let flags = reader.byte()?;
    let stamp = read_stamp(reader)?;
    let content = match flags {
        DELETED => Content::Deleted,
        0 | EXPIRY => Content::Value {
            expiry: read_expiry(reader, flags)?,
            bytes: read_bytes(reader, bytes)?,
        },
        _ => return Err(WireError::Malformed("unknown cell flags")),
    };
    Ok(Cell { stamp, content })
}

pub(crate) fn put_row(out: &mut Vec<u8>, row: &Row) {
    let deleted = if row.deleted.is_some() { DELETED } else { 0 };
    let liveness = if row.liveness.is_some() { LIVENESS } else { 0 };
    let dated = if row.dated == WallMicros(0) { 0 } else { DATED };
    out.push(deleted | liveness | dated);
    if let Some(stamp) = row.deleted {
        put_stamp(out, stamp);
    }
    if let Some(liveness) = row.liveness {
        out.push(if liveness.expiry.is_some() { EXPIRY } else { 0 });
        put_stamp(out, liveness.stamp);
        put_expiry(out, liveness.expiry);
    }
    if dated != 0 {
        put_varint(out, row.dated.0);
    }
    put_len(out, row.columns.len());
    for (id, column) in &row.columns {
        put_varint(out, u64::from(*id));
        match column {
            Column::Cell(cell) => {
                out.push(0);
                put_cell(out, cell);
            }
            Column::Elements { deleted, cells } => {
                out.push(if deleted.is_some() { 2 } else { 1 });
                if let Some(stamp) = deleted {
                    put_stamp(out, *stamp);
                }
                put_len(out, cells.len());
                for (path, cell) in cells {
                    put_bytes(out, path);
                    put_cell(out, cell);
                }
            }
        }
    }
    put_len(out, row.ranges.len());
    for range in &row.ranges {
        put_bytes(out, &range.start);
        put_bytes(out, &range.end);
        put_stamp(out, range.stamp);
    }
}

/// Reads a row by writing all that it says into an empty one: whatever the order, what comes
/// out is sound. Bytes that were not canonical are noticed, as they would be written otherwise.
pub(crate) fn read_row(reader: &mut Reader<'_>, bytes: &Bytes) -> Result<Row, WireError> {
    let mut row = Row::default();
    let mut changed = true;
    let flags = reader.byte()?;
    if flags & !(DELETED | LIVENESS | DATED) != 0 {
        return Err(WireError::Malformed("unknown row flags"));
    }
    if flags & DELETED != 0 {
        row.deleted = Some(read_stamp(reader)?);
    }
    if flags & LIVENESS != 0 {
        let flags = reader.byte()?;
        if flags & !EXPIRY != 0 {
            return Err(WireError::Malformed("unknown liveness flags"));
        }
        let stamp = read_stamp(reader)?;
        let liveness = Liveness { stamp, expiry: read_expiry(reader, flags)? };
        changed &= row.join_liveness(Some(&liveness));
    }
    if flags & DATED != 0 {
        row.dated = WallMicros(reader.varint()?);
        changed &= row.dated != WallMicros(0);
    }
    let mut last = None;
    for _ in 0..reader.count(MIN_CELL + 2)? {
        let id = u16::try_from(reader.varint()?);
        let id = id.map_err(|_| WireError::Malformed("a column's id out of range"))?;
        changed &= last.is_none_or(|last| last < id);
        last = Some(id);
        match reader.byte()? {
            0 => changed &= row.join_cell(id, &read_cell(reader, bytes)?),
            sort @ (1 | 2) => {
                if sort == 2 {
                    let stamp = read_stamp(reader)?;
                    changed &= row.join_elements_deleted(id, Some(&stamp));
                }
                let count = reader.count(MIN_CELL + 1)?;
                changed &= count > 0 || sort == 2;
                let mut before: Option<Bytes> = None;
                for _ in 0..count {
                    let path = read_bytes(reader, bytes)?;
                    changed &= before.is_none_or(|before| before < path);
                    changed &= row.join_element(id, &path, &read_cell(reader, bytes)?);
                    before = Some(path);
                }
            }
            _ => return Err(WireError::Malformed("unknown sort of column")),
        }
    }
    let count = reader.count(3)?;
    for _ in 0..count {
        let (start, end) = (read_bytes(reader, bytes)?, read_bytes(reader, bytes)?);
        let range = RangeDeletion { start, end, stamp: read_stamp(reader)? };
        changed &= row.ranges.last().is_none_or(|last| *last < range);
        changed &= row.join_range(&range);
    }
    if !changed || row.ranges.len() != count {
        return Err(WireError::Malformed("a row that is not in its canonical form"));
    }
    Ok(row)
}
