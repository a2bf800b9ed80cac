//! An operation on its way to the node that orders its key, and what that node says of it, as
//! bytes. (Writes of rows do not travel: what judges them is a door's.)

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::binary;
use crate::causality::Context;
use crate::coordinator::lwt::judge::{After, Ask, Seen, Told, Verdict};
use crate::coordinator::lwt::lease::LeaseOutcome;
use crate::coordinator::{Condition, Fate, OpError, WriteAction};
use crate::recipes;
use crate::record::{self, Record};
use crate::types::{Consistency, Dot, Key, OpId, TableId, WallMicros};

/// Format byte of both messages. Predecessors: none.
const FORMAT: u8 = 1;

/// Bytes that are no such message; what is wrong with them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct NotOne(String);

/// What goes with an operation wherever it is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct About {
    pub(super) op: OpId,
    /// The client chose the id, and may send it again.
    pub(super) named: bool,
    /// Digest of the request.
    pub(super) request: u64,
    /// The operation's one "now" (rule 8).
    pub(super) now: WallMicros,
}

#[derive(Serialize, Deserialize)]
enum Wanted {
    Read,
    Settle,
    Write {
        action: WriteAction,
        condition: Condition,
        fence: Option<u64>,
        seen: Option<(Context, u32)>,
    },
    Lease(recipes::Request),
    Verdict(OpId),
}

#[derive(Serialize, Deserialize)]
enum Said {
    Applied { dot: Option<Dot>, created: bool, replayed: bool, after: After },
    Refused { current: Bytes, replayed: bool },
    Fenced { fence: u64, highest: u64, replayed: bool },
    Leased(LeaseOutcome),
    Shown(Bytes),
    Told(Told),
    Failed(Failure),
    NotRun { why: String },
}

/// Errors that are an operation's outcome.
#[derive(Serialize, Deserialize)]
enum Failure {
    NotSupported(String),
    Invalid(String),
    TooManySiblings {
        siblings: u32,
        max: u32,
    },
    RecordTooLarge {
        max: u64,
        got: u64,
    },
    Reused,
    Expired,
    /// It may have taken effect, or may yet.
    Unknown {
        rounds: u32,
        timeout: Duration,
        why: String,
    },
}

/// What the other node says.
#[derive(Debug)]
pub(super) enum Answer {
    /// What became of it.
    Decided(Result<Verdict, OpError>),
    /// Nothing, and nothing will: it was not proposed.
    NotRun { why: String },
}

/// The operation in bytes, with the number of this sending. `None`: it is of a sort that does not
/// travel.
pub(super) fn put_operation(ask: &Ask, about: &About, sending: OpId) -> Option<Bytes> {
    let wanted = match ask {
        Ask::Read => Wanted::Read,
        Ask::Settle => Wanted::Settle,
        Ask::Write { action, condition, fence, seen } => Wanted::Write {
            action: action.clone(),
            condition: condition.clone(),
            fence: *fence,
            seen: seen.as_ref().map(|seen| (seen.context.clone(), seen.max_siblings)),
        },
        Ask::Lease(request) => Wanted::Lease(request.clone()),
        Ask::Verdict(op) => Wanted::Verdict(*op),
        Ask::Rows { .. } => return None,
    };
    Some(binary::pack(FORMAT, &(about, sending, wanted)).into())
}

/// Reads what [`put_operation`] wrote.
pub(super) fn read_operation(bytes: &Bytes) -> Result<(Ask, About, OpId), NotOne> {
    let read = binary::unpack("an operation", FORMAT, bytes);
    let (about, sending, wanted) = read.map_err(|error| NotOne(error.to_string()))?;
    let ask = match wanted {
        Wanted::Read => Ask::Read,
        Wanted::Settle => Ask::Settle,
        Wanted::Write { action, condition, fence, seen } => Ask::Write {
            action,
            condition,
            fence,
            seen: seen.map(|(context, max_siblings)| Seen { context, max_siblings }),
        },
        Wanted::Lease(request) => Ask::Lease(request),
        Wanted::Verdict(op) => Ask::Verdict(op),
    };
    Ok((ask, about, sending))
}

/// What became of an operation on `key`, in bytes; and whether others were at work on the key when
/// it came.
pub(super) fn put_answer(
    table: TableId,
    key: &Key,
    result: Result<Verdict, OpError>,
    busy: bool,
) -> Bytes {
    let bytes = |record: &Record| record.encode(&record::address(table, key));
    let said = match result {
        Ok(Verdict::Applied { dot, created, replayed, after }) => {
            Said::Applied { dot, created, replayed, after }
        }
        Ok(Verdict::Refused { current, replayed }) => {
            Said::Refused { current: bytes(&current), replayed }
        }
        Ok(Verdict::Fenced { fence, highest, replayed }) => {
            Said::Fenced { fence, highest, replayed }
        }
        Ok(Verdict::Leased(outcome)) => Said::Leased(outcome),
        Ok(Verdict::Shown(record)) => Said::Shown(bytes(&record)),
        Ok(Verdict::Told(told)) => Said::Told(told),
        Ok(Verdict::Failed(error)) | Err(error) => failed(error),
        Ok(Verdict::Rows { .. } | Verdict::Rename(_) | Verdict::Elsewhere(_)) => {
            // None of these leaves a lane as the answer to an operation that travels.
            failed(OpError::Stopped)
        }
    };
    binary::pack(FORMAT, &(said, busy)).into()
}

fn failed(error: OpError) -> Said {
    let why = error.to_string();
    Said::Failed(match error {
        OpError::NotSupported(what) => Failure::NotSupported(what),
        OpError::Invalid(what) => Failure::Invalid(what),
        OpError::TooManySiblings { siblings, max } => Failure::TooManySiblings { siblings, max },
        OpError::RecordTooLarge { max, got } => Failure::RecordTooLarge { max, got },
        OpError::OperationReused => Failure::Reused,
        OpError::OperationExpired => Failure::Expired,
        OpError::Contended { rounds, timeout_ms, fate: Fate::Unknown } => {
            Failure::Unknown { rounds, timeout: Duration::from_millis(timeout_ms), why }
        }
        error if error.fate() == Fate::Unknown => {
            Failure::Unknown { rounds: 0, timeout: Duration::ZERO, why }
        }
        // The other errors are about the node and not the operation.
        _ => return Said::NotRun { why },
    })
}

/// Reads what [`put_answer`] wrote.
pub(super) fn read_answer(
    table: TableId,
    key: &Key,
    bytes: &Bytes,
) -> Result<(Answer, bool), NotOne> {
    let read = binary::unpack("an operation's answer", FORMAT, bytes);
    let (said, busy) = read.map_err(|error| NotOne(error.to_string()))?;
    let address = record::address(table, key);
    let record =
        |bytes: &Bytes| Record::decode(bytes, &address).map_err(|error| NotOne(error.to_string()));
    let verdict = match said {
        Said::Applied { dot, created, replayed, after } => {
            Verdict::Applied { dot, created, replayed, after }
        }
        Said::Refused { current, replayed } => {
            Verdict::Refused { current: record(&current)?, replayed }
        }
        Said::Fenced { fence, highest, replayed } => Verdict::Fenced { fence, highest, replayed },
        Said::Leased(outcome) => Verdict::Leased(outcome),
        Said::Shown(bytes) => Verdict::Shown(record(&bytes)?),
        Said::Told(told) => Verdict::Told(told),
        Said::Failed(failure) => return Ok((Answer::Decided(Err(error_of(failure))), busy)),
        Said::NotRun { why } => return Ok((Answer::NotRun { why }, busy)),
    };
    Ok((Answer::Decided(Ok(verdict)), busy))
}

fn error_of(failure: Failure) -> OpError {
    match failure {
        Failure::NotSupported(what) => OpError::NotSupported(what),
        Failure::Invalid(what) => OpError::Invalid(what),
        Failure::TooManySiblings { siblings, max } => OpError::TooManySiblings { siblings, max },
        Failure::RecordTooLarge { max, got } => OpError::RecordTooLarge { max, got },
        Failure::Reused => OpError::OperationReused,
        Failure::Expired => OpError::OperationExpired,
        Failure::Unknown { rounds: 0, why, .. } => unknown(why),
        Failure::Unknown { rounds, timeout, .. } => {
            let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
            OpError::Contended { rounds, timeout_ms, fate: Fate::Unknown }
        }
    }
}

/// That an operation may have taken effect, or may yet.
pub(super) fn unknown(reasons: String) -> OpError {
    OpError::TooFewReplicas {
        level: Consistency::Serial,
        required: 0,
        received: 0,
        failed: 0,
        reasons,
        who: Vec::new(),
        fate: Fate::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::RecordKind;
    use crate::types::Hlc;

    const TABLE: TableId = TableId(3);

    #[test]
    fn operations_and_answers_come_out_as_they_went_in() {
        let about =
            About { op: OpId::from_parts(7, 8), named: true, request: 9, now: WallMicros(3) };
        let seen = Some(Seen { context: Context::default(), max_siblings: 4 });
        let action = WriteAction::Put {
            body: Bytes::from_static(b"body"),
            content_type: Some("text/plain".to_owned()),
            meta: vec![("a".to_owned(), "b".to_owned())],
            ttl: Some(Duration::from_secs(5)),
        };
        let condition = Condition::Matches(vec!["\"x\"".to_owned()]);
        let asks = [
            Ask::Read,
            Ask::Settle,
            Ask::Write { action, condition, fence: Some(3), seen },
            Ask::Lease(recipes::Request::Renew { fence: 3, ttl_ms: 1_000 }),
            Ask::Verdict(OpId::from_parts(1, 2)),
        ];
        for ask in asks {
            let sending = OpId::from_parts(10, 11);
            let bytes = put_operation(&ask, &about, sending).unwrap();
            let (read, same, number) = read_operation(&bytes).unwrap();
            assert_eq!(number, sending);
            assert_eq!(format!("{read:?}"), format!("{ask:?}"));
            assert_eq!(same, about);
            for end in 0..bytes.len() {
                assert!(read_operation(&bytes.slice(..end)).is_err(), "cut at {end}: {ask:?}");
            }
        }
        let key = Key::new(Bytes::from_static(b"k")).unwrap();
        let record = Record::empty(RecordKind::Siblings);
        let after = After { siblings: 1, context: Context::default(), stamp: Hlc(5) };
        let verdicts = [
            Verdict::Applied { dot: None, created: true, replayed: false, after },
            Verdict::Refused { current: record.clone(), replayed: true },
            Verdict::Fenced { fence: 1, highest: 2, replayed: false },
            Verdict::Leased(LeaseOutcome::Freed { replayed: true }),
            Verdict::Shown(record),
            Verdict::Told(Told::Never),
        ];
        for verdict in verdicts {
            let wanted = format!("{verdict:?}");
            let bytes = put_answer(TABLE, &key, Ok(verdict), true);
            let (Answer::Decided(Ok(read)), true) = read_answer(TABLE, &key, &bytes).unwrap()
            else {
                panic!("{wanted}")
            };
            assert_eq!(format!("{read:?}"), wanted);
        }
    }

    #[test]
    fn errors_keep_what_they_say_of_the_outcome() {
        let key = Key::new(Bytes::from_static(b"k")).unwrap();
        let through = |error: OpError| {
            let bytes = put_answer(TABLE, &key, Err(error), false);
            read_answer(TABLE, &key, &bytes).unwrap().0
        };
        let contended = OpError::Contended { rounds: 3, timeout_ms: 100, fate: Fate::Unknown };
        for error in [
            contended,
            OpError::OperationExpired,
            OpError::OperationReused,
            OpError::TooManySiblings { siblings: 1, max: 2 },
            OpError::RecordTooLarge { max: 1, got: 2 },
            OpError::Invalid("no".to_owned()),
        ] {
            let Answer::Decided(Err(read)) = through(error.clone()) else { panic!("{error}") };
            assert_eq!(read, error);
        }
        let Answer::Decided(Err(stopped)) = through(OpError::Stopped) else { panic!() };
        assert_eq!(stopped.fate(), Fate::Unknown);
        for error in [
            OpError::ShuttingDown,
            OpError::Overloaded { what: "x".to_owned() },
            OpError::Contended { rounds: 3, timeout_ms: 100, fate: Fate::NotApplied },
        ] {
            assert!(matches!(through(error), Answer::NotRun { .. }), "it may run somewhere else");
        }
    }
}
