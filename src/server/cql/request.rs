//! Requests: frames' bodies read into what they ask.

use std::collections::BTreeMap;

use crate::cql::ast::BatchKind;
use crate::server::cql::error::{CqlError, PROTOCOL, level_of};
use crate::server::cql::frame::{Frame, Version, flag as frame_flag, opcode};
use crate::server::cql::wire::{Read, Reader, Value};
use crate::types::{Consistency, WallMicros};

/// What a client asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Request {
    Startup(BTreeMap<String, String>),
    Options,
    Register(Vec<String>),
    Query {
        text: String,
        parameters: Parameters,
    },
    /// `keyspace`: instead of the connection's.
    Prepare {
        text: String,
        keyspace: Option<String>,
    },
    /// `result`: the id of the result metadata that the client has (version 5).
    Execute {
        id: Vec<u8>,
        result: Option<Vec<u8>>,
        parameters: Parameters,
    },
    Batch(BatchRequest),
    AuthResponse(Vec<u8>),
}

/// What comes with a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parameters {
    pub(super) level: Consistency,
    pub(super) values: Vec<Value>,
    /// Names of the values, if they are bound by name.
    pub(super) names: Option<Vec<String>>,
    pub(super) skip_metadata: bool,
    /// Rows of a page; `None`: all.
    pub(super) page_size: Option<u32>,
    pub(super) paging_state: Option<Vec<u8>>,
    /// Of conditional writes.
    pub(super) serial: Consistency,
    /// The client's stamp, in microseconds.
    pub(super) timestamp: Option<i64>,
    /// The keyspace of names without one, instead of the connection's.
    pub(super) keyspace: Option<String>,
    /// What time it is, instead of what this node's clock says: for expiry.
    pub(super) now: Option<WallMicros>,
}

/// A statement of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum BatchItem {
    Text(String, Vec<Value>),
    Prepared(Vec<u8>, Vec<Value>),
}

/// BATCH.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BatchRequest {
    pub(super) kind: BatchKind,
    pub(super) items: Vec<BatchItem>,
    pub(super) level: Consistency,
    pub(super) serial: Consistency,
    pub(super) timestamp: Option<i64>,
    /// As in [`Parameters`].
    pub(super) keyspace: Option<String>,
    /// As in [`Parameters`].
    pub(super) now: Option<WallMicros>,
}

mod flag {
    pub(super) const VALUES: u32 = 0x01;
    pub(super) const SKIP_METADATA: u32 = 0x02;
    pub(super) const PAGE_SIZE: u32 = 0x04;
    pub(super) const PAGING_STATE: u32 = 0x08;
    pub(super) const SERIAL: u32 = 0x10;
    pub(super) const TIMESTAMP: u32 = 0x20;
    pub(super) const NAMES: u32 = 0x40;
    /// Version 5 only, as the next.
    pub(super) const KEYSPACE: u32 = 0x80;
    pub(super) const NOW: u32 = 0x100;
    /// Of PREPARE.
    pub(super) const PREPARE_KEYSPACE: i32 = 0x01;
}

/// Reads a frame's body, which is not compressed any more.
///
/// # Errors
/// [`CqlError`], with which it is to be answered.
pub(super) fn decode(frame: &Frame) -> Result<Request, CqlError> {
    let version = frame.version;
    let mut reader = Reader::new(&frame.body);
    // A custom payload asks for nothing that changes what is done ([`wants_receipt`]).
    if frame.flags & frame_flag::PAYLOAD != 0 {
        reader.skip_bytes_map()?;
    }
    Ok(match frame.opcode {
        opcode::STARTUP => Request::Startup(reader.string_map()?),
        opcode::OPTIONS => Request::Options,
        opcode::REGISTER => Request::Register(reader.string_list()?),
        opcode::QUERY => Request::Query {
            text: reader.long_string()?,
            parameters: parameters(&mut reader, version)?,
        },
        opcode::PREPARE => {
            let text = reader.long_string()?;
            let flags = if version >= Version::V5 { reader.int()? } else { 0 };
            let given = flags & flag::PREPARE_KEYSPACE != 0;
            Request::Prepare { text, keyspace: given.then(|| reader.string()).transpose()? }
        }
        opcode::EXECUTE => {
            let id = reader.short_bytes()?.to_vec();
            let result = match version {
                Version::V4 => None,
                Version::V5 => Some(reader.short_bytes()?.to_vec()),
            };
            Request::Execute { id, result, parameters: parameters(&mut reader, version)? }
        }
        opcode::BATCH => Request::Batch(batch(&mut reader, version)?),
        opcode::AUTH_RESPONSE => {
            Request::AuthResponse(reader.bytes()?.unwrap_or_default().to_vec())
        }
        other => return Err(CqlError::new(PROTOCOL, format!("Unknown opcode {other}"))),
    })
}

/// The name of receipts in custom payloads, of requests and of answers.
pub(super) const RECEIPT: &str = "henge-receipt";

/// Whether a request's custom payload asks for the receipts of what it does.
pub(super) fn wants_receipt(frame: &Frame) -> bool {
    if frame.flags & frame_flag::PAYLOAD == 0 {
        return false;
    }
    let mut reader = Reader::new(&frame.body);
    let mut names = move || -> Read<bool> {
        for _ in 0..reader.short()? {
            let (name, _) = (reader.string()?, reader.bytes()?);
            if name == RECEIPT {
                return Ok(true);
            }
        }
        Ok(false)
    };
    names().unwrap_or(false)
}

fn values(reader: &mut Reader<'_>) -> Read<Vec<Value>> {
    (0..reader.short()?).map(|_| reader.value()).collect()
}

/// The flags of parameters, which version 5 has made longer.
fn flags(reader: &mut Reader<'_>, version: Version) -> Read<u32> {
    match version {
        // Bits that only version 5 gives a meaning.
        Version::V4 => Ok(u32::from(reader.byte()?) & !flag::KEYSPACE),
        Version::V5 => Ok(reader.int()?.cast_unsigned()),
    }
}

/// What version 5 has added at the end.
fn additions(reader: &mut Reader<'_>, flags: u32) -> Read<(Option<String>, Option<WallMicros>)> {
    let keyspace = (flags & flag::KEYSPACE != 0).then(|| reader.string()).transpose()?;
    let seconds = (flags & flag::NOW != 0).then(|| reader.int()).transpose()?;
    let now = |seconds: i32| WallMicros(u64::try_from(seconds).unwrap_or(0) * 1_000_000);
    Ok((keyspace, seconds.map(now)))
}

fn parameters(reader: &mut Reader<'_>, version: Version) -> Result<Parameters, CqlError> {
    let level = level_of(reader.short()?)?;
    let flags = flags(reader, version)?;
    let mut out = Parameters {
        level,
        values: Vec::new(),
        names: None,
        skip_metadata: flags & flag::SKIP_METADATA != 0,
        page_size: None,
        paging_state: None,
        serial: Consistency::Serial,
        timestamp: None,
        keyspace: None,
        now: None,
    };
    if flags & flag::VALUES != 0 {
        if flags & flag::NAMES != 0 {
            let mut names = Vec::new();
            for _ in 0..reader.short()? {
                names.push(reader.string()?);
                out.values.push(reader.value()?);
            }
            out.names = Some(names);
        } else {
            out.values = values(reader)?;
        }
    }
    if flags & flag::PAGE_SIZE != 0 {
        let size = reader.int()?;
        if size == 0 {
            return Err(CqlError::new(PROTOCOL, "Invalid page size: 0"));
        }
        out.page_size = u32::try_from(size).ok();
    }
    if flags & flag::PAGING_STATE != 0 {
        out.paging_state = reader.bytes()?.map(<[u8]>::to_vec);
    }
    if flags & flag::SERIAL != 0 {
        out.serial = serial(reader)?;
    }
    if flags & flag::TIMESTAMP != 0 {
        out.timestamp = Some(stamp(reader)?);
    }
    (out.keyspace, out.now) = additions(reader, flags)?;
    Ok(out)
}

fn serial(reader: &mut Reader<'_>) -> Result<Consistency, CqlError> {
    match level_of(reader.short()?)? {
        level @ (Consistency::Serial | Consistency::LocalSerial) => Ok(level),
        other => Err(CqlError::invalid(format!(
            "Invalid consistency for conditional update: {other}. Must be one of SERIAL or LOCAL_SERIAL"
        ))),
    }
}

fn stamp(reader: &mut Reader<'_>) -> Result<i64, CqlError> {
    match reader.long()? {
        i64::MIN => Err(CqlError::new(PROTOCOL, "Out of bound timestamp")),
        stamp => Ok(stamp),
    }
}

fn batch(reader: &mut Reader<'_>, version: Version) -> Result<BatchRequest, CqlError> {
    let kind = match reader.byte()? {
        0 => BatchKind::Logged,
        1 => BatchKind::Unlogged,
        2 => BatchKind::Counter,
        other => return Err(CqlError::new(PROTOCOL, format!("Invalid batch type {other}"))),
    };
    let mut items = Vec::new();
    for _ in 0..reader.short()? {
        items.push(match reader.byte()? {
            0 => BatchItem::Text(reader.long_string()?, values(reader)?),
            1 => BatchItem::Prepared(reader.short_bytes()?.to_vec(), values(reader)?),
            other => {
                return Err(CqlError::new(
                    PROTOCOL,
                    format!("Invalid query kind {other} in a batch"),
                ));
            }
        });
    }
    let level = level_of(reader.short()?)?;
    let flags = flags(reader, version)?;
    if flags & flag::NAMES != 0 {
        return Err(CqlError::new(PROTOCOL, "values of a batch cannot be bound by name"));
    }
    let serial = if flags & flag::SERIAL != 0 { serial(reader)? } else { Consistency::Serial };
    let timestamp = if flags & flag::TIMESTAMP != 0 { Some(stamp(reader)?) } else { None };
    let (keyspace, now) = additions(reader, flags)?;
    Ok(BatchRequest { kind, items, level, serial, timestamp, keyspace, now })
}
