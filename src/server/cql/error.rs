//! Errors as the protocol has them.

use std::net::IpAddr;

use crate::coordinator::{BatchError, Cause, Fate, OpError};
use crate::cql::SyntaxError;
use crate::cql::value;
use crate::overload::Busy;
use crate::server::cql::frame::Version;
use crate::server::cql::store::Store;
use crate::server::cql::wire::{BadBody, Writer};
use crate::types::{Consistency, NodeId};

/// An ERROR: code, message, and the fields that belong to the code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CqlError {
    code: i32,
    message: String,
    fields: Vec<u8>,
    /// What version 5 has instead, where that differs.
    newer: Option<Box<Newer>>,
    /// What it is about, for a door that says it in another form.
    cause: Option<Box<OpError>>,
    /// Line (from 1) and column (from 0) in the statement.
    place: Option<(usize, usize)>,
}

/// Code and fields on version 5.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Newer {
    code: i32,
    head: Vec<u8>,
    /// Who failed and why comes between head and tail.
    failed: Option<Vec<Failed>>,
    tail: Vec<u8>,
}

/// A replica that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Failed {
    node: NodeId,
    /// Where clients reach it, once somebody has looked that up.
    address: Option<IpAddr>,
    reason: u16,
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

    /// A statement that is not CQL, or of a kind that is refused.
    pub(super) fn syntax(error: &SyntaxError) -> Self {
        let place = Some((error.line, error.column));
        let code = if error.is_refusal { INVALID } else { SYNTAX };
        Self { place, ..Self::new(code, error.to_string()) }
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

    /// There is no room for this one now, and nothing was done for it.
    pub(super) fn busy(busy: Busy) -> Self {
        Self::new(OVERLOADED, busy.to_string())
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
        let mut out = Writer::default();
        out.int(i64::from(newer.map_or(self.code, |newer| newer.code)));
        out.string(&self.message);
        let Some(newer) = newer else {
            out.0.extend_from_slice(&self.fields);
            return out.0;
        };
        out.0.extend_from_slice(&newer.head);
        if let Some(failed) = &newer.failed {
            let known =
                || failed.iter().filter_map(|failed| Some((failed.address?, failed.reason)));
            out.int(i64::try_from(known().count()).unwrap_or(i64::MAX));
            for (address, reason) in known() {
                let address = value::inet_bytes(address);
                out.byte(u8::try_from(address.len()).unwrap_or(u8::MAX));
                out.0.extend_from_slice(&address);
                out.short(usize::from(reason));
            }
        }
        out.0.extend_from_slice(&newer.tail);
        out.0
    }

    /// Looks up where the replicas are that have failed, for clients that are told so.
    pub(super) fn with_addresses(mut self, store: &dyn Store) -> Self {
        let failed = self.newer.as_mut().and_then(|newer| newer.failed.as_mut());
        if let Some(failed) = failed.filter(|failed| !failed.is_empty()) {
            let members = store.members();
            for failed in failed {
                let member = members.iter().find(|member| member.id == failed.node);
                failed.address = member.map(|member| member.address);
            }
        }
        self
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
            OpError::TooFewReplicas { level, required, received, failed, who, fate, .. } => {
                if *fate == Fate::NotApplied && write.is_some() {
                    return Self::new(OVERLOADED, message);
                }
                put_counts(&mut fields, *level, *received, *required);
                // Version 5 has who failed and why, instead of how many.
                let head = fields.0.clone();
                fields.int(i64::from(*failed));
                let mut tail = Writer::default();
                let code = match timeout_tail(&mut tail, write) {
                    0x1100 => 0x1500,
                    _ => READ_FAILURE,
                };
                fields.0.extend_from_slice(&tail.0);
                let newer = match write {
                    Some(CAS) => Newer { code: CAS_UNKNOWN, head, failed: None, tail: Vec::new() },
                    _ => {
                        let failed = who.iter().map(|&(node, cause)| Failed {
                            node,
                            address: None,
                            reason: reason_of(cause),
                        });
                        Newer { code, head, failed: Some(failed.collect()), tail: tail.0 }
                    }
                };
                let newer = Some(Box::new(newer));
                Self { fields: fields.0, newer, ..Self::new(code, message) }
            }
            OpError::IndexBuilding { level, required, received, failed } => {
                put_counts(&mut fields, *level, *received, *required);
                let (code, head, tail) = (READ_FAILURE, fields.0.clone(), vec![0]);
                fields.int(i64::from(*failed));
                fields.byte(0);
                let newer = Newer { code, head, failed: Some(Vec::new()), tail };
                Self { fields: fields.0, newer: Some(Box::new(newer)), ..Self::new(code, message) }
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
fn contended(head: Vec<u8>, rounds: u32) -> Box<Newer> {
    let mut out = Writer(head);
    out.string(CAS);
    out.short(usize::try_from(rounds).unwrap_or(usize::MAX).min(usize::from(u16::MAX)));
    Box::new(Newer { code: 0x1100, head: out.0, failed: None, tail: Vec::new() })
}

/// Cassandra's number for why a replica failed; zero where it has none.
fn reason_of(cause: Cause) -> u16 {
    match cause {
        Cause::Silent => 2,
        Cause::Unreachable => 5,
        Cause::Full | Cause::Busy | Cause::Damaged | Cause::Other => 0,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::tokio_env;
    use crate::server::cql::tests::mem::MemStore;

    #[tokio::test]
    async fn version_5_is_told_which_replicas_failed_and_why() {
        let store = MemStore::new(tokio_env(), 9042);
        let (known, gone) = (store.members()[0].id, NodeId::derive("c", "gone"));
        let error = |who| OpError::TooFewReplicas {
            level: Consistency::Quorum,
            required: 2,
            received: 1,
            failed: 2,
            reasons: "why".to_owned(),
            who,
            fate: Fate::Unknown,
        };
        let tail = |error: &OpError, write, version| {
            let error = CqlError::of_operation(error, write).with_addresses(&*store);
            let (body, head) = (error.body(version), 4 + 2 + error.message().len());
            (body[..4].to_vec(), body[head..].to_vec())
        };
        // Level, received, required.
        let counts = [&[0, 4][..], &[0, 0, 0, 1], &[0, 0, 0, 2]].concat();
        // One that has no address any more is left out.
        let both = error(vec![(known, Cause::Silent), (gone, Cause::Other)]);
        let named = [&[0, 0, 0, 1][..], &[4, 127, 0, 0, 1], &[0, 2]].concat();
        let (code, fields) = tail(&both, None, Version::V5);
        assert_eq!((code, fields), (vec![0, 0, 0x13, 0], [&counts[..], &named, &[0]].concat()));
        let (code, fields) = tail(&both, Some("SIMPLE"), Version::V5);
        let kind = b"\0\x06SIMPLE";
        assert_eq!((code, fields), (vec![0, 0, 0x15, 0], [&counts[..], &named, kind].concat()));
        let (code, fields) = tail(&both, None, Version::V4);
        assert_eq!(
            (code, fields),
            (vec![0, 0, 0x13, 0], [&counts[..], &[0, 0, 0, 2], &[0]].concat()),
            "version 4 is told how many"
        );
        let down = error(vec![(known, Cause::Unreachable)]);
        let named = [&[0, 0, 0, 1][..], &[4, 127, 0, 0, 1], &[0, 5]].concat();
        assert_eq!(tail(&down, None, Version::V5).1, [&counts[..], &named, &[0]].concat());
        let nobody = error(Vec::new());
        assert_eq!(tail(&nobody, None, Version::V5).1, [&counts[..], &[0; 4], &[0]].concat());
    }
}
