//! Locks as operations of a lane: [`crate::recipes`] judges, this stores.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::coordinator::lwt::judge::{Case, Events, Verdict, note};
use crate::coordinator::lwt::{Ask, Errand, strange};
use crate::coordinator::{Inner, LeaseOp, OpError};
use crate::recipes::{self, Change, Holding, Refusal, Request, State};
use crate::record::{Action, Mint, Mutation, OpMemory, OpVerdict, Record, Value};
use crate::types::{Hlc, WallMicros};

/// What became of a request for a lock.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum LeaseOutcome {
    /// It is held so.
    Held {
        /// By whom, and under which number.
        holding: Holding,
        /// Time left, by the clock of the node that judged.
        remaining: Duration,
        /// The operation had run before.
        replayed: bool,
    },
    /// It is free.
    Freed {
        /// The operation had run before.
        replayed: bool,
    },
    /// Nothing changed.
    Refused {
        /// Why.
        why: Refusal,
        /// What stands there: part of the linearizable answer.
        state: State,
        /// The instant that decides whose time is over.
        now: WallMicros,
        /// The operation had been refused before; `state` is of now.
        replayed: bool,
    },
}

/// Drives a request for a lock.
pub(in crate::coordinator) async fn lease(
    inner: &Arc<Inner>,
    op: &LeaseOp,
) -> Result<LeaseOutcome, OpError> {
    let started = inner.env.mono();
    let errand = Errand { table: &op.table, key: &op.key, timeout: op.timeout, started };
    let request = xxhash_rust::xxh3::xxh3_64(format!("{:?}", op.request).as_bytes());
    match inner.decide(&errand, Ask::Lease(op.request.clone()), (op.op, request)).await? {
        Verdict::Leased(outcome) => Ok(outcome),
        other => Err(strange(&other)),
    }
}

/// Judges a request for the lock whose record this is, and changes it if it is granted.
pub(super) fn judge(
    record: &mut Record,
    case: &Case<'_>,
    request: &Request,
    events: &mut Events,
) -> Verdict {
    let state = match State::of(record, case.now) {
        Ok(state) => state,
        Err(unreadable) => return Verdict::Failed(OpError::NotSupported(unreadable.to_string())),
    };
    match record.find_op(case.op, case.request) {
        OpMemory::Applied(_) => return replay(state, case, request),
        OpMemory::Refused(_) => return refuse(state, case, why(request), case.named),
        OpMemory::Reused => return Verdict::Failed(OpError::OperationReused),
        OpMemory::Barred => return Verdict::Failed(OpError::OperationExpired),
        OpMemory::Forgotten if case.named => return Verdict::Failed(OpError::OperationExpired),
        OpMemory::Forgotten => {
            let oldest = record.op_entries().first().map_or(case.op, |entry| entry.op);
            return Verdict::Rename(oldest);
        }
        OpMemory::Unknown => {}
    }
    let change = match state.judge(request, case.op) {
        Ok(change) => change,
        Err(refusal) => {
            if case.named {
                // Full only of its own kind: a lock's record has room for every verdict.
                let _ = note(record, case, OpVerdict::Refused, events);
            }
            return refuse(state, case, refusal, false);
        }
    };
    let action = match &change {
        Change::Held(holding) => Action::Put(Value {
            body: Bytes::from(holding.encode()),
            content_type: Some("application/json".to_owned()),
            meta: Vec::new(),
            expires_at: Some(WallMicros(case.now.0.saturating_add(micros(holding.ttl_ms)))),
            written_at: Hlc(0),
        }),
        Change::Freed => Action::Delete,
    };
    let mutation =
        Mutation { op: case.op, request: case.request, context: record.context(), action };
    let at = Mint { dot: events.dot(), stamp: events.stamp_above(record), now: case.now };
    if let Err(error) = record.mint(mutation, at) {
        return Verdict::Failed(OpError::NotSupported(error.to_string()));
    }
    Verdict::Leased(match change {
        Change::Held(holding) => {
            record.raise_fence(holding.fence);
            let remaining = Duration::from_millis(holding.ttl_ms);
            LeaseOutcome::Held { holding, remaining, replayed: false }
        }
        Change::Freed => LeaseOutcome::Freed { replayed: false },
    })
}

fn micros(ms: u64) -> u64 {
    ms.saturating_mul(1_000)
}

/// The answer to a request that had been granted before, as far as it still holds.
fn replay(state: State, case: &Case<'_>, request: &Request) -> Verdict {
    let remaining = Duration::from_millis(state.remaining_ms(case.now));
    let stands = match (request, &state.held) {
        (Request::Release { .. }, _) => {
            return Verdict::Leased(LeaseOutcome::Freed { replayed: case.named });
        }
        (Request::Acquire { stands: false, .. }, Some((holding, _))) => holding.granted == case.op,
        (Request::Acquire { owner, .. }, Some((holding, _))) => holding.owner == *owner,
        (Request::Renew { fence, .. }, Some((holding, _))) => holding.fence == *fence,
        (Request::Acquire { .. } | Request::Renew { .. }, None) => false,
    };
    match (stands, state.held.clone(), request) {
        (true, Some((holding, _)), _) => {
            Verdict::Leased(LeaseOutcome::Held { holding, remaining, replayed: case.named })
        }
        // It was granted, and the grant has ended since: to say "granted" now would be a lie, and
        // so would "it did not happen".
        (_, _, Request::Acquire { .. }) => Verdict::Failed(OpError::OperationExpired),
        _ => refuse(state, case, Refusal::Ended, case.named),
    }
}

/// Why such a request is refused, if it is.
fn why(request: &Request) -> Refusal {
    match request {
        Request::Acquire { .. } => Refusal::Held,
        Request::Renew { .. } | Request::Release { .. } => Refusal::Ended,
    }
}

fn refuse(state: State, case: &Case<'_>, why: recipes::Refusal, replayed: bool) -> Verdict {
    Verdict::Leased(LeaseOutcome::Refused { why, state, now: case.now, replayed })
}
