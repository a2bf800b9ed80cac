//! The bytes of a record: the same on disk, between nodes, and on every replica.
//!
//! ```text
//! format  u8     1, or 2: with a fence
//! kind    u8     RecordKind
//! digest  [16]   xxh3-128 of the payload, seeded with format and kind
//! place   [8]    xxh3-64 of the record's address, seeded with the digest
//! payload
//! ```
//!
//! The *digest* is what replicas and hash trees compare. It depends on the record alone, and the
//! payload is canonical (the decoder refuses any other form), so equal digests mean equal records.
//! The *place* ties the bytes to the key that they belong to: a disk that writes a good record to
//! the wrong place is found out, whereas its digest alone would look right.
//!
//! Payloads use LEB128 varints ([`crate::causality::wire`]); a dot is (place in the list of actors,
//! counter), an op id 16 bytes, big-endian:
//!
//! ```text
//! siblings: seen set (it lists the actors), values, ops
//! lww:      actors, cell (0 none | 1 version | 2 dot op stamp), ops
//! fence:    varint, not 0; after the payload of either kind, in format 2 only
//! version:  dot, op, flags (1 content type, 2 expiry), written_at, [expires_at], [content type],
//!           meta, body
//! op:       op, dot, request [8], flags (1 created, 2 delete, 4 refused, 8 barred)
//! row:      see [`crate::record::rows`], and if it remembers operations: actors, ops
//! ```
//!
//! Numbers are for ever: a new kind takes a new kind byte, a new form a new format byte, and
//! `tests/data/records` keeps samples of each. There is no fixed bound on counts: what a merge may
//! produce must be readable, so the bound is what can be in the bytes that are there.

use std::str;

use bytes::Bytes;
use xxhash_rust::xxh3::{xxh3_64_with_seed, xxh3_128_with_seed};

use crate::causality::wire::{Reader, WireError, put_bytes, put_len, put_varint};
use crate::causality::{CausalSet, put_dot, read_dot};
use crate::plants::{Plant, planted};
use crate::record::lww::{Lww, LwwCell};
use crate::record::ops::{OpEntry, OpLog, OpVerdict};
use crate::record::rows::{put_row, read_row};
use crate::record::siblings::Siblings;
use crate::record::value::{Value, Version};
use crate::record::{Body, Record, RecordKind};
use crate::types::{ActorId, Digest, Hlc, Key, OpId, TableId, WallMicros};

/// Without a fence. Almost all records: those of before there were fences read on.
const FORMAT: u8 = 1;
/// A fence follows the payload.
const FENCED: u8 = 2;
const HEADER_BYTES: usize = 26;
/// A version's least size: dot 2, op 16, flags, written_at, meta count and body length.
const MIN_VERSION_BYTES: usize = 22;
/// An op entry's least size: op 16, dot 2, request 8, flags.
const MIN_OP_BYTES: usize = 27;

const HAS_CONTENT_TYPE: u8 = 1;
const HAS_EXPIRY: u8 = 2;
const OP_CREATED: u8 = 1;
const OP_DELETE: u8 = 2;
const OP_REFUSED: u8 = 4;
const OP_BARRED: u8 = 8;

/// Bytes that are not a sound record. Never to be read as "no record": the replica's copy is
/// damaged, and is to be healed from the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The bytes end too early.
    #[error("the record is cut short")]
    Truncated,
    /// Written by a newer Henge.
    #[error("the record has format {0}, which this node does not know")]
    Format(u8),
    /// Of a kind that this node does not know.
    #[error("the record is of kind {0}, which this node does not know")]
    Kind(u8),
    /// The bytes have changed since they were written.
    #[error("the record's checksum does not match")]
    Checksum,
    /// A sound record of another key.
    #[error("the record belongs to another key")]
    Misplaced,
    /// A right checksum over what no encoder writes.
    #[error("the record breaks its format: {0}")]
    Malformed(&'static str),
}

impl From<WireError> for RecordError {
    fn from(error: WireError) -> Self {
        match error {
            WireError::Truncated => Self::Truncated,
            WireError::Malformed(what) => Self::Malformed(what),
        }
    }
}

/// The address to encode and decode the record of `key` in `table` with.
#[must_use]
pub fn address(table: TableId, key: &Key) -> Bytes {
    let mut out = Vec::with_capacity(4 + key.as_bytes().len());
    out.extend_from_slice(&table.0.to_be_bytes());
    out.extend_from_slice(key.as_bytes());
    out.into()
}

fn digest_of(format: u8, kind: u8, payload: &[u8]) -> u128 {
    xxh3_128_with_seed(payload, u64::from(format) << 8 | u64::from(kind))
}

fn place_of(digest: u128, address: &[u8]) -> [u8; 8] {
    xxh3_64_with_seed(address, (digest >> 64) as u64 ^ digest as u64).to_be_bytes()
}

/// Fills in the header before a payload.
fn seal(out: &mut [u8], format: u8, kind: u8, address: &[u8]) {
    let (header, payload) = out.split_at_mut(HEADER_BYTES);
    let digest = digest_of(format, kind, payload);
    header[0] = format;
    header[1] = kind;
    header[2..18].copy_from_slice(&digest.to_be_bytes());
    header[18..].copy_from_slice(&place_of(digest, address));
}

/// Any payload under a right header.
#[cfg(test)]
pub(super) fn reseal(format: u8, kind: u8, payload: &[u8], address: &[u8]) -> Bytes {
    let mut out = vec![0; HEADER_BYTES];
    out.extend_from_slice(payload);
    seal(&mut out, format, kind, address);
    out.into()
}

impl Record {
    /// The record's canonical bytes for the place `address` (see [`address`]). Equal records have
    /// equal bytes, and unequal ones unequal bytes.
    #[must_use]
    pub fn encode(&self, address: &[u8]) -> Bytes {
        let mut out = Vec::with_capacity(HEADER_BYTES + self.size_hint());
        out.extend_from_slice(&[0; HEADER_BYTES]);
        match &self.body {
            Body::Siblings(siblings) => put_siblings(&mut out, siblings),
            Body::Lww(lww) => put_lww(&mut out, lww),
            Body::Row(row, ops) => {
                put_row(&mut out, row);
                put_row_ops(&mut out, ops, self.fence > 0);
            }
        }
        if self.fence > 0 {
            put_varint(&mut out, self.fence);
        }
        let format = if self.fence > 0 { FENCED } else { FORMAT };
        seal(&mut out, format, self.kind() as u8, address);
        out.into()
    }

    /// The digest of the record: what [`stored_digest`] reads from its bytes. Encodes the record;
    /// where bytes are at hand, read it from them.
    #[must_use]
    pub fn digest(&self) -> Digest {
        stored_digest(&self.encode(&[])).unwrap_or_default()
    }

    /// Reads what [`Record::encode`] wrote for `address`. Values are slices of `bytes`, not
    /// copies. Memory beyond `bytes` itself is bounded by a small multiple of its length.
    ///
    /// # Errors
    /// [`RecordError`]: damaged, misplaced or unknown bytes.
    pub fn decode(bytes: &Bytes, address: &[u8]) -> Result<Self, RecordError> {
        verify(bytes, address)?;
        let mut reader = Reader::new(bytes);
        let header = reader.bytes(HEADER_BYTES)?;
        let body = match RecordKind::from_byte(header[1])? {
            RecordKind::Siblings => Body::Siblings(read_siblings(&mut reader, bytes)?),
            RecordKind::Lww => Body::Lww(read_lww(&mut reader, bytes)?),
            RecordKind::Row => {
                let row = read_row(&mut reader, bytes)?;
                Body::Row(Box::new(row), read_row_ops(&mut reader, header[0] == FENCED)?)
            }
        };
        let fence = if header[0] == FENCED { reader.varint()? } else { 0 };
        reader.end()?;
        let record = Self { body, fence };
        if header[0] == FENCED && (fence == 0 || record.is_blank()) {
            return Err(RecordError::Malformed("a fence without a write that brought it"));
        }
        Ok(record)
    }

    /// Bytes of payload, roughly.
    fn size_hint(&self) -> usize {
        let (values, ops) = match &self.body {
            Body::Siblings(s) => (s.values.iter().map(|v| &v.value).collect(), &s.ops),
            Body::Lww(Lww { cell: Some(LwwCell::Live(v)), ops }) => (vec![&v.value], ops),
            Body::Lww(Lww { ops, .. }) => (Vec::new(), ops),
            Body::Row(_, ops) => (Vec::new(), ops),
        };
        let values: usize = values.iter().map(|v| v.body.len() + 96).sum();
        128 + values + ops.entries().len() * 32
    }
}

/// The digest that the bytes carry, unchecked: cheap. [`verify`] says whether it is true.
///
/// # Errors
/// [`RecordError`] when there is no whole header of a known format.
pub fn stored_digest(bytes: &[u8]) -> Result<Digest, RecordError> {
    let header = bytes.get(..HEADER_BYTES).ok_or(RecordError::Truncated)?;
    if !matches!(header[0], FORMAT | FENCED) {
        return Err(RecordError::Format(header[0]));
    }
    let mut digest = [0; 16];
    digest.copy_from_slice(&header[2..18]);
    Ok(Digest(u128::from_be_bytes(digest)))
}

/// Checks format, checksum and place without decoding, and returns the digest.
///
/// # Errors
/// [`RecordError`]: damaged, misplaced or unknown bytes.
pub fn verify(bytes: &[u8], address: &[u8]) -> Result<Digest, RecordError> {
    let digest = stored_digest(bytes)?;
    let (header, payload) = bytes.split_at(HEADER_BYTES);
    if digest.0 != digest_of(header[0], header[1], payload) && !planted(Plant::P30) {
        return Err(RecordError::Checksum);
    }
    if header[18..] != place_of(digest.0, address) {
        return Err(RecordError::Misplaced);
    }
    RecordKind::from_byte(header[1])?;
    Ok(digest)
}

fn put_siblings(out: &mut Vec<u8>, siblings: &Siblings) {
    let actors = siblings.seen.actors();
    siblings.seen.encode(&actors, out);
    put_len(out, siblings.values.len());
    for version in &siblings.values {
        put_version(out, &actors, version);
    }
    put_ops(out, &actors, &siblings.ops);
}

fn read_siblings(reader: &mut Reader<'_>, bytes: &Bytes) -> Result<Siblings, RecordError> {
    let (seen, actors) = CausalSet::decode(reader)?;
    let count = reader.count(MIN_VERSION_BYTES)?;
    let mut values = Vec::with_capacity(count);
    for _ in 0..count {
        values.push(read_version(reader, bytes, &actors)?);
    }
    let ops = read_ops(reader, &actors)?;
    let siblings = Siblings { seen, values, ops };
    siblings.check().map_err(RecordError::Malformed)?;
    Ok(siblings)
}

fn lww_actors(lww: &Lww) -> Vec<ActorId> {
    let mut actors: Vec<_> = lww.dots().map(|dot| dot.actor).collect();
    actors.sort_unstable();
    actors.dedup();
    actors
}

fn put_lww(out: &mut Vec<u8>, lww: &Lww) {
    let actors = lww_actors(lww);
    put_actors(out, &actors);
    match &lww.cell {
        None => out.push(0),
        Some(LwwCell::Live(version)) => {
            out.push(1);
            put_version(out, &actors, version);
        }
        Some(LwwCell::Tombstone { stamp, dot, op }) => {
            out.push(2);
            put_dot(out, &actors, *dot);
            out.extend_from_slice(&op.0.to_be_bytes());
            put_varint(out, stamp.0);
        }
    }
    put_ops(out, &actors, &lww.ops);
}

fn read_lww(reader: &mut Reader<'_>, bytes: &Bytes) -> Result<Lww, RecordError> {
    let actors = read_actors(reader)?;
    let cell = match reader.byte()? {
        0 => None,
        1 => Some(LwwCell::Live(read_version(reader, bytes, &actors)?)),
        2 => {
            let dot = read_dot(reader, &actors)?;
            let op = OpId(u128::from_be_bytes(reader.array()?));
            Some(LwwCell::Tombstone { stamp: Hlc(reader.varint()?), dot, op })
        }
        _ => return Err(RecordError::Malformed("unknown sort of cell")),
    };
    let lww = Lww { cell, ops: read_ops(reader, &actors)? };
    if lww_actors(&lww) != actors {
        return Err(RecordError::Malformed("actors are not exactly those of the dots, in order"));
    }
    Ok(lww)
}

fn op_actors(ops: &OpLog) -> Vec<ActorId> {
    let mut actors: Vec<_> = ops.entries().iter().map(|entry| entry.dot.actor).collect();
    actors.sort_unstable();
    actors.dedup();
    actors
}

/// Few rows remember operations: those that do not have no byte for them, unless something follows.
fn put_row_ops(out: &mut Vec<u8>, ops: &OpLog, fenced: bool) {
    if ops.is_empty() && !fenced {
        return;
    }
    let actors = op_actors(ops);
    put_actors(out, &actors);
    put_ops(out, &actors, ops);
}

fn read_row_ops(reader: &mut Reader<'_>, fenced: bool) -> Result<OpLog, RecordError> {
    if reader.remaining() == 0 && !fenced {
        return Ok(OpLog::default());
    }
    let actors = read_actors(reader)?;
    let ops = read_ops(reader, &actors)?;
    if (ops.is_empty() && !fenced) || op_actors(&ops) != actors {
        return Err(RecordError::Malformed("actors are not exactly those of the operations"));
    }
    Ok(ops)
}

fn put_actors(out: &mut Vec<u8>, actors: &[ActorId]) {
    put_len(out, actors.len());
    for actor in actors {
        out.extend_from_slice(&actor.0.to_be_bytes());
    }
}

fn read_actors(reader: &mut Reader<'_>) -> Result<Vec<ActorId>, RecordError> {
    let count = reader.count(8)?;
    let mut actors = Vec::with_capacity(count);
    for _ in 0..count {
        actors.push(ActorId(u64::from_be_bytes(reader.array()?)));
    }
    Ok(actors)
}

fn put_version(out: &mut Vec<u8>, actors: &[ActorId], version: &Version) {
    put_dot(out, actors, version.dot);
    out.extend_from_slice(&version.op.0.to_be_bytes());
    let value = &version.value;
    let mut flags = 0;
    flags |= if value.content_type.is_some() { HAS_CONTENT_TYPE } else { 0 };
    flags |= if value.expires_at.is_some() { HAS_EXPIRY } else { 0 };
    out.push(flags);
    put_varint(out, value.written_at.0);
    if let Some(at) = value.expires_at {
        put_varint(out, at.0);
    }
    if let Some(content_type) = &value.content_type {
        put_bytes(out, content_type.as_bytes());
    }
    put_len(out, value.meta.len());
    for (name, text) in &value.meta {
        put_bytes(out, name.as_bytes());
        put_bytes(out, text.as_bytes());
    }
    put_bytes(out, &value.body);
}

fn read_version(
    reader: &mut Reader<'_>,
    bytes: &Bytes,
    actors: &[ActorId],
) -> Result<Version, RecordError> {
    let dot = read_dot(reader, actors)?;
    let op = OpId(u128::from_be_bytes(reader.array()?));
    let flags = reader.byte()?;
    if flags & !(HAS_CONTENT_TYPE | HAS_EXPIRY) != 0 {
        return Err(RecordError::Malformed("unknown value flags"));
    }
    let written_at = Hlc(reader.varint()?);
    let expires_at = match flags & HAS_EXPIRY {
        0 => None,
        _ => Some(WallMicros(reader.varint()?)),
    };
    let content_type = match flags & HAS_CONTENT_TYPE {
        0 => None,
        _ => Some(read_text(reader)?),
    };
    let count = reader.count(2)?;
    let mut meta = Vec::with_capacity(count);
    for _ in 0..count {
        meta.push((read_text(reader)?, read_text(reader)?));
    }
    let len = reader.len()?;
    let body = bytes.slice(reader.range(len)?);
    Ok(Version { dot, op, value: Value { body, content_type, meta, expires_at, written_at } })
}

fn read_text(reader: &mut Reader<'_>) -> Result<String, RecordError> {
    let len = reader.len()?;
    let text = str::from_utf8(reader.bytes(len)?);
    text.map(str::to_owned).map_err(|_| RecordError::Malformed("text that is not UTF-8"))
}

fn put_ops(out: &mut Vec<u8>, actors: &[ActorId], ops: &OpLog) {
    put_len(out, ops.entries().len());
    for entry in ops.entries() {
        out.extend_from_slice(&entry.op.0.to_be_bytes());
        put_dot(out, actors, entry.dot);
        out.extend_from_slice(&entry.request.to_be_bytes());
        let created = if entry.created { OP_CREATED } else { 0 };
        let verdict = match entry.verdict {
            OpVerdict::Applied => 0,
            OpVerdict::Refused => OP_REFUSED,
            OpVerdict::Barred => OP_BARRED,
        };
        out.push(created | verdict | if entry.delete { OP_DELETE } else { 0 });
    }
}

fn read_ops(reader: &mut Reader<'_>, actors: &[ActorId]) -> Result<OpLog, RecordError> {
    let count = reader.count(MIN_OP_BYTES)?;
    let mut entries = Vec::with_capacity(count);
    for _ in 0..count {
        let op = OpId(u128::from_be_bytes(reader.array()?));
        let dot = read_dot(reader, actors)?;
        let request = u64::from_be_bytes(reader.array()?);
        let flags = reader.byte()?;
        let verdict = match flags & !(OP_CREATED | OP_DELETE) {
            0 => OpVerdict::Applied,
            OP_REFUSED => OpVerdict::Refused,
            OP_BARRED => OpVerdict::Barred,
            _ => return Err(RecordError::Malformed("unknown operation flags")),
        };
        let (created, delete) = (flags & OP_CREATED != 0, flags & OP_DELETE != 0);
        entries.push(OpEntry { op, dot, request, created, delete, verdict });
    }
    OpLog::from_sorted(entries).ok_or(RecordError::Malformed("operations out of order"))
}
