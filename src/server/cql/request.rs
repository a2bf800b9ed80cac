//! Requests: frames' bodies read into what they ask.

use std::collections::BTreeMap;

use crate::cql::ast::BatchKind;
use crate::server::cql::error::{CqlError, PROTOCOL, level_of};
use crate::server::cql::frame::{COMPRESSED, Frame, PAYLOAD, opcode};
use crate::server::cql::wire::{Read, Reader, Value};
use crate::types::Consistency;

/// What a client asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Request {
    Startup(BTreeMap<String, String>),
    Options,
    Register(Vec<String>),
    Query { text: String, parameters: Parameters },
    Prepare { text: String },
    Execute { id: Vec<u8>, parameters: Parameters },
    Batch(BatchRequest),
    AuthResponse,
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
}

mod flag {
    pub(super) const VALUES: u8 = 0x01;
    pub(super) const SKIP_METADATA: u8 = 0x02;
    pub(super) const PAGE_SIZE: u8 = 0x04;
    pub(super) const PAGING_STATE: u8 = 0x08;
    pub(super) const SERIAL: u8 = 0x10;
    pub(super) const TIMESTAMP: u8 = 0x20;
    pub(super) const NAMES: u8 = 0x40;
}

/// Reads a frame's body.
///
/// # Errors
/// [`CqlError`], with which it is to be answered.
pub(super) fn decode(frame: &Frame) -> Result<Request, CqlError> {
    if frame.flags & COMPRESSED != 0 {
        return Err(CqlError::new(
            PROTOCOL,
            "a compressed frame on a connection without compression",
        ));
    }
    let mut reader = Reader::new(&frame.body);
    if frame.flags & PAYLOAD != 0 {
        reader.skip_bytes_map()?;
    }
    Ok(match frame.opcode {
        opcode::STARTUP => Request::Startup(reader.string_map()?),
        opcode::OPTIONS => Request::Options,
        opcode::REGISTER => Request::Register(reader.string_list()?),
        opcode::QUERY => {
            Request::Query { text: reader.long_string()?, parameters: parameters(&mut reader)? }
        }
        opcode::PREPARE => Request::Prepare { text: reader.long_string()? },
        opcode::EXECUTE => Request::Execute {
            id: reader.short_bytes()?.to_vec(),
            parameters: parameters(&mut reader)?,
        },
        opcode::BATCH => Request::Batch(batch(&mut reader)?),
        opcode::AUTH_RESPONSE => Request::AuthResponse,
        other => return Err(CqlError::new(PROTOCOL, format!("Unknown opcode {other}"))),
    })
}

fn values(reader: &mut Reader<'_>) -> Read<Vec<Value>> {
    (0..reader.short()?).map(|_| reader.value()).collect()
}

fn parameters(reader: &mut Reader<'_>) -> Result<Parameters, CqlError> {
    let level = level_of(reader.short()?)?;
    let flags = reader.byte()?;
    let mut out = Parameters {
        level,
        values: Vec::new(),
        names: None,
        skip_metadata: flags & flag::SKIP_METADATA != 0,
        page_size: None,
        paging_state: None,
        serial: Consistency::Serial,
        timestamp: None,
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

fn batch(reader: &mut Reader<'_>) -> Result<BatchRequest, CqlError> {
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
    let flags = reader.byte()?;
    if flags & flag::NAMES != 0 {
        return Err(CqlError::new(PROTOCOL, "values of a batch cannot be bound by name"));
    }
    let serial = if flags & flag::SERIAL != 0 { serial(reader)? } else { Consistency::Serial };
    let timestamp = if flags & flag::TIMESTAMP != 0 { Some(stamp(reader)?) } else { None };
    Ok(BatchRequest { kind, items, level, serial, timestamp })
}
