//! Increments of counters.
//!
//! One replica, the *leader*, adds to its own share ([`crate::net::messages::Count`]); the row that
//! it then holds is written to all others like any row. An increment has an id, under which the
//! leader carries it out once, however often it is sent. Another leader would not know of it: so
//! as soon as it *may* have arrived at one, it goes to that one only, until time is up; its outcome
//! is then unknown. Before that, leaders that refuse or cannot be reached are passed by.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;

use crate::coordinator::failure::{Failure, Failures, causes};
use crate::coordinator::plan::Purpose;
use crate::coordinator::read::Stop;
use crate::coordinator::rows::{self, Written};
use crate::coordinator::{Fate, Inner, OpError};
use crate::meta::Table;
use crate::net::messages::Count;
use crate::net::{CallError, Refusal, Request, Response};
use crate::plants::{Plant, planted};
use crate::types::{Consistency, Generation, Key, Mono, NodeId};

use std::time::Duration;

/// How often an increment is sent.
const MAX_ATTEMPTS: usize = 12;

/// Pause before it is sent again to a leader that may have carried it out.
const PAUSE: Duration = Duration::from_millis(20);

/// Increments of one row's counters.
#[derive(Debug, Clone)]
pub struct CountRow {
    /// The row.
    pub key: Key,
    /// What to add, by the id of the column.
    pub adds: Vec<(u16, i64)>,
}

/// Increments of counters. Rows are counted each by itself.
#[derive(Debug, Clone)]
pub struct CountOp {
    /// The table.
    pub table: Arc<Table>,
    /// The rows, in any partitions.
    pub rows: Vec<CountRow>,
    /// How many replicas must hold each before it is acknowledged.
    pub level: Consistency,
    /// Time for all of it.
    pub timeout: Duration,
}

/// Counts for a client.
pub(super) async fn count(inner: &Arc<Inner>, op: &CountOp) -> Result<(), OpError> {
    if matches!(op.level, Consistency::Serial | Consistency::LocalSerial) {
        return Err(OpError::BadLevel(format!("{} is not a level for writes", op.level)));
    }
    let started = inner.env.mono();
    let all = op.rows.iter().map(|row| count_row(inner, op, row, started));
    OpError::of_parts(op.level, join_all(all).await)
}

async fn count_row(
    inner: &Arc<Inner>,
    op: &CountOp,
    row: &CountRow,
    started: Mono,
) -> Result<(), OpError> {
    let (leader, record, generation) = lead(inner, op, row, started).await?;
    let written = Written {
        table: op.table.clone(),
        rows: vec![(row.key.clone(), record)],
        level: op.level,
        started,
        timeout: op.timeout,
        holder: Some(leader),
        generation: Some(generation),
        receipts: None,
    };
    rows::spread_all(inner, written).await
}

/// Has the increment carried out by a replica: which one, the row that it then holds, and a purge
/// generation that it is not older than.
async fn lead(
    inner: &Arc<Inner>,
    op: &CountOp,
    row: &CountRow,
    started: Mono,
) -> Result<(NodeId, Bytes, Generation), OpError> {
    let mut id = inner.new_op_id(None);
    // Where it may have arrived; where it has not.
    let (mut arrived, mut passed) = (None::<NodeId>, Failures::new());
    let mut why = "no replica was reached".to_owned();
    let mut level = (op.level, 1);
    for _ in 0..MAX_ATTEMPTS {
        let plan = inner
            .plan(Purpose::Write, &op.table, &row.key, op.level, started, op.timeout)
            .and_then(|plan| inner.must_be_possible(&plan).map(|()| plan));
        let plan = match plan {
            Ok(plan) => plan,
            Err(error) if arrived.is_none() => return Err(error),
            Err(error) => {
                why = error.to_string();
                break;
            }
        };
        level = (plan.level, plan.required());
        let left = plan.left(inner.env.mono());
        let next = plan.order.iter().copied().find(|node| !passed.contains_key(node));
        let Some(leader) = arrived.or(next).filter(|_| !left.is_zero()) else { break };
        if planted(Plant::P35) {
            id = inner.new_op_id(None);
        }
        let request = Request::Count(Count {
            table: op.table.id,
            key: row.key.clone(),
            op: id,
            adds: row.adds.clone(),
        });
        let deadline = inner.env.mono() + (op.timeout / 4).min(left);
        let result = inner.peers.call_at(plan.epoch, leader, request, deadline).await;
        match result {
            Ok(Response::Counted(record, at)) => return Ok((leader, record, at)),
            // Many newer ones have been counted since this one was named. It was not: it may have
            // another name.
            Ok(Response::Refused(Refusal::OperationForgotten { oldest })) if arrived.is_none() => {
                why = "too many increments at once".to_owned();
                id = inner.new_op_id(Some(oldest));
            }
            Ok(Response::Refused(refusal)) => {
                why = refusal.to_string();
                match inner.follow(&plan, &refusal).await {
                    Err(Stop::Replan) => {}
                    Err(Stop::Error(error)) if arrived.is_none() => return Err(error),
                    // What it refuses now it may have carried out before.
                    _ if arrived.is_some() => inner.env.sleep(PAUSE).await,
                    _ => drop(passed.insert(leader, Failure::from(&refusal))),
                }
            }
            Err(error @ CallError::NotSent { .. }) => {
                why = error.to_string();
                match arrived {
                    Some(_) => inner.env.sleep(PAUSE).await,
                    None => drop(passed.insert(leader, Failure::from(&error))),
                }
            }
            Ok(_) => (arrived, why) = (Some(leader), "its storage failed".to_owned()),
            Err(CallError::Lost { why: what }) => (arrived, why) = (Some(leader), what),
        }
    }
    let (level, required) = level;
    let fate = if arrived.is_some() { Fate::Unknown } else { Fate::NotApplied };
    let failed = u32::try_from(passed.len()).unwrap_or(u32::MAX);
    let (reasons, who) = (why, causes(&passed));
    Err(OpError::TooFewReplicas { level, required, received: 0, failed, reasons, who, fate })
}
