//! Errors as the protocol has them.

use crate::coordinator::{Fate, OpError};
use crate::server::cql::wire::{BadBody, Writer};
use crate::types::Consistency;

/// An ERROR: code, message, and the fields that belong to the code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CqlError {
    code: i32,
    message: String,
    fields: Vec<u8>,
}

/// Codes without fields.
pub(super) const SERVER: i32 = 0x0000;
pub(super) const PROTOCOL: i32 = 0x000A;
pub(super) const OVERLOADED: i32 = 0x1001;
pub(super) const BOOTSTRAPPING: i32 = 0x1002;
pub(super) const SYNTAX: i32 = 0x2000;
pub(super) const UNAUTHORIZED: i32 = 0x2100;
pub(super) const INVALID: i32 = 0x2200;
pub(super) const CONFIG: i32 = 0x2300;

impl CqlError {
    pub(super) fn new(code: i32, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), fields: Vec::new() }
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(INVALID, message)
    }

    /// A keyspace or (with `table`) a table that exists.
    pub(super) fn exists(keyspace: &str, table: &str) -> Self {
        let message = if table.is_empty() {
            format!("Cannot add existing keyspace \"{keyspace}\"")
        } else {
            format!("Cannot add already existing table \"{table}\" to keyspace \"{keyspace}\"")
        };
        let mut fields = Writer::default();
        fields.string(keyspace);
        fields.string(table);
        Self { code: 0x2400, message, fields: fields.0 }
    }

    pub(super) fn unprepared(id: &[u8]) -> Self {
        let mut fields = Writer::default();
        fields.short_bytes(id);
        let message =
            "the statement is not prepared on this node, or its table was changed".to_owned();
        Self { code: 0x2500, message, fields: fields.0 }
    }

    pub(super) fn body(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.int(i64::from(self.code));
        out.string(&self.message);
        out.0.extend_from_slice(&self.fields);
        out.0
    }

    /// What became of an operation. `write`: its write type; `None` for a read.
    pub(super) fn of_operation(error: &OpError, write: Option<&str>) -> Self {
        let message = error.to_string();
        let mut fields = Writer::default();
        match error {
            OpError::Unavailable { level, required, alive } => {
                fields.short(usize::from(level_code(*level)));
                fields.int(i64::from(*required));
                fields.int(i64::from(*alive));
                Self { code: 0x1000, message, fields: fields.0 }
            }
            OpError::Timeout { level, required, received, .. } => {
                fields.short(usize::from(level_code(*level)));
                fields.int(i64::from(*received));
                fields.int(i64::from(*required));
                let code = timeout_tail(&mut fields, write);
                Self { code, message, fields: fields.0 }
            }
            OpError::TooFewReplicas { level, required, received, failed, fate, .. } => {
                if *fate == Fate::NotApplied && write.is_some() {
                    return Self::new(OVERLOADED, message);
                }
                fields.short(usize::from(level_code(*level)));
                fields.int(i64::from(*received));
                fields.int(i64::from(*required));
                fields.int(i64::from(*failed));
                let code = match timeout_tail(&mut fields, write) {
                    0x1100 => 0x1500,
                    _ => 0x1300,
                };
                Self { code, message, fields: fields.0 }
            }
            OpError::Contended { fate: Fate::Unknown, .. } => {
                fields.short(usize::from(level_code(Consistency::Serial)));
                fields.int(0);
                fields.int(1);
                let code = timeout_tail(&mut fields, write);
                Self { code, message, fields: fields.0 }
            }
            // Nothing has happened: another node may be asked.
            OpError::Contended { .. } => Self::new(OVERLOADED, message),
            OpError::Invalid(_) => Self::invalid(message),
            OpError::Overloaded { .. } | OpError::DiskFull => Self::new(OVERLOADED, message),
            OpError::ShuttingDown => Self::new(BOOTSTRAPPING, message),
            OpError::BadLevel(_) | OpError::NotSupported(_) => Self::invalid(message),
            OpError::NoSuchTable => Self::invalid("unconfigured table: it was dropped meanwhile"),
            _ => Self::new(SERVER, message),
        }
    }
}

fn timeout_tail(fields: &mut Writer, write: Option<&str>) -> i32 {
    match write {
        Some(kind) => {
            fields.string(kind);
            0x1100
        }
        None => {
            fields.byte(0);
            0x1200
        }
    }
}

impl From<BadBody> for CqlError {
    fn from(error: BadBody) -> Self {
        Self::new(PROTOCOL, error.0)
    }
}

/// The protocol's number of a level.
pub(super) fn level_code(level: Consistency) -> u16 {
    match level {
        Consistency::Any => 0,
        Consistency::One => 1,
        Consistency::Two => 2,
        Consistency::Three => 3,
        Consistency::Quorum => 4,
        Consistency::All => 5,
        Consistency::LocalQuorum => 6,
        Consistency::EachQuorum => 7,
        Consistency::Serial => 8,
        Consistency::LocalSerial => 9,
        Consistency::LocalOne => 10,
        Consistency::Count(_) => 4,
    }
}

/// The level of a number.
pub(super) fn level_of(code: u16) -> Result<Consistency, CqlError> {
    Ok(match code {
        0 => Consistency::Any,
        1 => Consistency::One,
        2 => Consistency::Two,
        3 => Consistency::Three,
        4 => Consistency::Quorum,
        5 => Consistency::All,
        6 => Consistency::LocalQuorum,
        7 => Consistency::EachQuorum,
        8 => Consistency::Serial,
        9 => Consistency::LocalSerial,
        10 => Consistency::LocalOne,
        other => {
            return Err(CqlError::new(
                PROTOCOL,
                format!("Unknown code {other} for a consistency level"),
            ));
        }
    })
}
