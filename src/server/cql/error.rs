//! Errors as the protocol has them.

use crate::coordinator::{BatchError, Fate, OpError};
use crate::cql::SyntaxError;
use crate::server::cql::frame::Version;
use crate::server::cql::wire::{BadBody, Writer};
use crate::types::Consistency;

/// An ERROR: code, message, and the fields that belong to the code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CqlError {
    code: i32,
    message: String,
    fields: Vec<u8>,
    /// Code and fields on version 5, where they differ.
    newer: Option<Box<(i32, Vec<u8>)>>,
    /// What it is about, for a door that says it in another form.
    cause: Option<Box<OpError>>,
    /// Line (from 1) and column (from 0) in the statement.
    place: Option<(usize, usize)>,
}

/// Codes.
pub(super) const SERVER: i32 = 0x0000;
pub(super) const PROTOCOL: i32 = 0x000A;
pub(super) const BAD_CREDENTIALS: i32 = 0x0100;
pub(super) const UNAVAILABLE: i32 = 0x1000;
pub(super) const OVERLOADED: i32 = 0x1001;
pub(super) const BOOTSTRAPPING: i32 = 0x1002;
const READ_FAILURE: i32 = 0x1300;
pub(super) const SYNTAX: i32 = 0x2000;
pub(super) const UNAUTHORIZED: i32 = 0x2100;
pub(super) const INVALID: i32 = 0x2200;
pub(super) const CONFIG: i32 = 0x2300;

impl CqlError {
    pub(super) fn new(code: i32, message: impl Into<String>) -> Self {
        let (fields, newer, cause, place) = (Vec::new(), None, None, None);
        Self { code, message: message.into(), fields, newer, cause, place }
    }

    /// A statement that is not CQL.
    pub(super) fn syntax(error: &SyntaxError) -> Self {
        let place = Some((error.line, error.column));
        Self { place, ..Self::new(SYNTAX, error.to_string()) }
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
        Self { fields: fields.0, ..Self::new(0x2400, message) }
    }

    pub(super) fn unprepared(id: &[u8]) -> Self {
        let mut fields = Writer::default();
        fields.short_bytes(id);
        let message =
            "the statement is not prepared on this node, or its table was changed".to_owned();
        Self { fields: fields.0, ..Self::new(0x2500, message) }
    }

    pub(super) fn code(&self) -> i32 {
        self.code
    }

    pub(super) fn message(&self) -> &str {
        &self.message
    }

    /// The operation's own error, if an operation has failed.
    pub(super) fn cause(&self) -> Option<&OpError> {
        self.cause.as_deref()
    }

    /// Line (from 1) and column (from 0) in the statement, of an error of its syntax.
    pub(super) fn place(&self) -> Option<(usize, usize)> {
        self.place
    }

    pub(super) fn body(&self, version: Version) -> Vec<u8> {
        let newer = self.newer.as_deref().filter(|_| version >= Version::V5);
        let (code, fields) = newer.map_or((self.code, &self.fields), |(code, own)| (*code, own));
        let mut out = Writer::default();
        out.int(i64::from(code));
        out.string(&self.message);
        out.0.extend_from_slice(fields);
        out.0
    }

    /// What became of an operation. `write`: its write type; `None` for a read.
    pub(super) fn of_operation(error: &OpError, write: Option<&str>) -> Self {
        Self { cause: Some(Box::new(error.clone())), ..Self::coded(error, write) }
    }

    fn coded(error: &OpError, write: Option<&str>) -> Self {
        let message = error.to_string();
        let mut fields = Writer::default();
        match error {
            OpError::Unavailable { level, required, alive } => {
                fields.short(usize::from(level_code(*level)));
                fields.int(i64::from(*required));
                fields.int(i64::from(*alive));
                Self { fields: fields.0, ..Self::new(UNAVAILABLE, message) }
            }
            OpError::Timeout { level, required, received, .. } => {
                put_counts(&mut fields, *level, *received, *required);
                let head = fields.0.clone();
                let code = timeout_tail(&mut fields, write);
                let newer = (write == Some(CAS)).then(|| contended(head, 0));
                Self { fields: fields.0, newer, ..Self::new(code, message) }
            }
            OpError::TooFewReplicas { level, required, received, failed, fate, .. } => {
                if *fate == Fate::NotApplied && write.is_some() {
                    return Self::new(OVERLOADED, message);
                }
                put_counts(&mut fields, *level, *received, *required);
                // Version 5 has who failed and why, instead of how many: nobody is named.
                let unknown = fields.0.clone();
                let mut named = Writer(fields.0.clone());
                named.int(0);
                fields.int(i64::from(*failed));
                let code = match timeout_tail(&mut fields, write) {
                    0x1100 => 0x1500,
                    _ => READ_FAILURE,
                };
                timeout_tail(&mut named, write);
                let newer = match write {
                    Some(CAS) => Box::new((CAS_UNKNOWN, unknown)),
                    _ => Box::new((code, named.0)),
                };
                let newer = Some(newer);
                Self { fields: fields.0, newer, ..Self::new(code, message) }
            }
            OpError::IndexBuilding { level, required, received, failed } => {
                put_counts(&mut fields, *level, *received, *required);
                let mut named = Writer(fields.0.clone());
                named.int(0);
                fields.int(i64::from(*failed));
                let code = READ_FAILURE;
                named.byte(0);
                fields.byte(0);
                let newer = Some(Box::new((code, named.0)));
                Self { fields: fields.0, newer, ..Self::new(code, message) }
            }
            OpError::Contended { fate: Fate::Unknown, rounds, .. } => {
                put_counts(&mut fields, Consistency::Serial, 0u8, 1u8);
                let head = fields.0.clone();
                let code = timeout_tail(&mut fields, write);
                let newer = write.is_some().then(|| contended(head, *rounds));
                Self { fields: fields.0, newer, ..Self::new(code, message) }
            }
            // A driver must not take it for refused, and send all of it again.
            OpError::Partly { done, parts, level, .. } => {
                put_counts(&mut fields, *level, *done, *parts);
                let code = timeout_tail(&mut fields, write);
                Self { fields: fields.0, ..Self::new(code, message) }
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

impl CqlError {
    /// Why a logged batch is not written yet. Clients need not repeat one whose write type is `BATCH`.
    pub(super) fn of_batch(error: &BatchError) -> Self {
        match error {
            BatchError::NotKept(error) => Self::of_operation(error, Some("BATCH_LOG")),
            BatchError::Late { done, parts, level, .. } => {
                let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
                let mut fields = Writer::default();
                put_counts(&mut fields, *level, count(*done), count(*parts));
                let code = timeout_tail(&mut fields, Some("BATCH"));
                Self { fields: fields.0, ..Self::new(code, error.to_string()) }
            }
        }
    }
}

/// The write type of conditional writes.
pub(super) const CAS: &str = "CAS";

/// Version 5's name for a conditional write that may have taken effect.
const CAS_UNKNOWN: i32 = 0x1700;

fn put_counts(
    out: &mut Writer,
    level: Consistency,
    received: impl Into<i64>,
    required: impl Into<i64>,
) {
    out.short(usize::from(level_code(level)));
    out.int(received.into());
    out.int(required.into());
}

/// A write timeout of version 5, which says how often others came in between.
fn contended(head: Vec<u8>, rounds: u32) -> Box<(i32, Vec<u8>)> {
    let mut out = Writer(head);
    out.string(CAS);
    out.short(usize::try_from(rounds).unwrap_or(usize::MAX).min(usize::from(u16::MAX)));
    Box::new((0x1100, out.0))
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
