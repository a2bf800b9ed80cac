//! Writing rows of one partition.
//!
//! A row's cells have their stamps when they leave the coordinator, so there is nothing to mint:
//! the same records go to all replicas, each merges them in one commit, and the write is
//! acknowledged when W hold them. Sent twice or late, they change nothing more. A replica that does
//! not say that it holds them gets a hint for each row, whatever becomes of the write.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;

use crate::coordinator::heal::heal_if_damaged;
use crate::coordinator::plan::{Plan, Purpose};
use crate::coordinator::read::Stop;
use crate::coordinator::{Fate, Inner, OpError, Receipts, ReplicaReceipt, RowsOp};
use crate::env::BoxFuture;
use crate::meta::Table;
use crate::net::messages::{Apply, ApplyRows};
use crate::net::{CallError, Refusal, Request, Response};
use crate::quorum::{Progress, Tally};
use crate::record::{self, Record};
use crate::types::{Consistency, Generation, Key, Mono, NodeId};

/// How often one write is planned anew because the ring moved under it.
const MAX_PLANS: u32 = 4;

type Answer = (NodeId, Result<Response, CallError>);

/// Writes rows for a client.
pub(super) async fn write(
    inner: &Arc<Inner>,
    op: &RowsOp,
    receipts: Option<Arc<Receipts>>,
) -> Result<(), OpError> {
    if matches!(op.level, Consistency::Serial | Consistency::LocalSerial) {
        return Err(OpError::BadLevel(format!("{} is not a level for writes", op.level)));
    }
    if op.rows.is_empty() {
        return Ok(());
    }
    let stored = |(key, record): &(Key, Record)| {
        (key.clone(), record.encode(&record::address(op.table.id, key)))
    };
    let written = Written {
        table: op.table.clone(),
        rows: op.rows.iter().map(stored).collect(),
        level: op.level,
        started: inner.env.mono(),
        timeout: op.timeout,
        holder: None,
        receipts,
    };
    spread_all(inner, &written).await
}

/// Rows of one partition on their way to all replicas, as stored.
pub(super) struct Written {
    pub(super) table: Arc<Table>,
    pub(super) rows: Vec<(Key, Bytes)>,
    pub(super) level: Consistency,
    pub(super) started: Mono,
    pub(super) timeout: Duration,
    /// A replica that holds them already.
    pub(super) holder: Option<NodeId>,
    /// Where to note how it went.
    pub(super) receipts: Option<Arc<Receipts>>,
}

/// What each replica has said, if somebody wants to know.
type Log = Option<BTreeMap<NodeId, ReplicaReceipt>>;

fn note(inner: &Inner, plan: &Plan, log: &mut Log, node: NodeId, answer: impl FnOnce() -> String) {
    let Some(entry) = log.as_mut().map(|log| log.entry(node).or_default()) else { return };
    let took = inner.env.mono().since(plan.started);
    entry.answer = answer();
    entry.answered_us = Some(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
}

/// Has rows merged by every replica, and returns when W hold them.
pub(super) async fn spread_all(inner: &Arc<Inner>, written: &Written) -> Result<(), OpError> {
    let Some((first, _)) = written.rows.first() else { return Ok(()) };
    let (table, level) = (&written.table, written.level);
    let mut sent: Option<Plan> = None;
    for _ in 0..MAX_PLANS {
        let plan = inner
            .plan(Purpose::Write, table, first, level, written.started, written.timeout)
            .and_then(|plan| inner.must_be_possible(&plan).map(|()| plan));
        let plan = match (plan, &sent) {
            (Ok(plan), _) => plan,
            // By an earlier plan some replicas may hold the rows already.
            (Err(error), Some(earlier)) => return Err(unknown(earlier, 0, &error.to_string())),
            (Err(error), None) if written.holder.is_none() => return Err(error),
            (Err(error), None) => return Err(unheard(level, &error.to_string())),
        };
        match spread(inner, &plan, written).await {
            Ok(()) => return Ok(()),
            Err(Stop::Replan) => sent = Some(plan),
            Err(Stop::Error(error)) => return Err(error),
        }
    }
    let what = "the ring keeps changing";
    Err(match sent {
        Some(plan) => unknown(&plan, 0, what),
        None => unheard(level, what),
    })
}

/// One replica holds the rows, and nobody else was asked.
fn unheard(level: Consistency, reasons: &str) -> OpError {
    let (reasons, fate) = (reasons.to_owned(), Fate::Unknown);
    OpError::TooFewReplicas { level, required: 1, received: 0, failed: 0, reasons, fate }
}

/// Sends the rows to every replica, and waits until W hold them. The calls that have not answered
/// by then go on in the background, whatever the outcome.
async fn spread(inner: &Arc<Inner>, plan: &Plan, written: &Written) -> Result<(), Stop> {
    let mut tally = Tally::new(plan.requirement.clone(), inner.peers.me());
    tally.on_hint(false);
    let mut calls: FuturesUnordered<BoxFuture<'static, Answer>> = FuturesUnordered::new();
    if let Some(holder) = written.holder {
        tally.on_ack(holder);
    }
    let mut log = written.receipts.as_ref().map(|_| BTreeMap::new());
    for &node in plan.order.iter().filter(|node| Some(**node) != written.holder) {
        let pending = || ReplicaReceipt {
            role: "apply",
            answer: "pending".to_owned(),
            ..ReplicaReceipt::default()
        };
        log.as_mut().map(|log| log.insert(node, pending()));
        calls.push(apply_at(inner, plan, node, written.rows.clone()));
    }
    let result = gather(inner, plan, &mut tally, &mut calls, &mut log).await;
    if let (Some(receipts), Some(log)) = (&written.receipts, &log) {
        receipts.add(inner.receipt("write", plan, tally.received(), log, &[], 0));
    }
    inner.finish_later("replicate-rest", calls);
    result
}

fn request(plan: &Plan, rows: &[(Key, Bytes)]) -> Request {
    match rows {
        [(key, record)] => Request::Apply(Apply {
            table: plan.table.id,
            key: key.clone(),
            record: record.clone(),
            generation: Generation::default(),
            heals: false,
        }),
        rows => Request::ApplyRows(ApplyRows { table: plan.table.id, rows: rows.to_vec() }),
    }
}

fn apply_at(
    inner: &Arc<Inner>,
    plan: &Plan,
    node: NodeId,
    rows: Vec<(Key, Bytes)>,
) -> BoxFuture<'static, Answer> {
    let request = request(plan, &rows);
    let (inner, plan, started) = (inner.clone(), plan.clone(), inner.env.mono());
    let owed = inner.hints.owe();
    Box::pin(async move {
        let result = inner.call_until_sent(&plan, node, request).await;
        inner.took(node, started, &result);
        if let Ok(Response::Refused(refusal)) = &result {
            for (key, _) in &rows {
                heal_if_damaged(&inner, &plan, key, node, refusal);
            }
        }
        if has_missed(&result) {
            let (hints, table) = (inner.hints.clone(), plan.table.id);
            inner.env.spawn("hint", async move {
                for (key, record) in &rows {
                    hints.leave(node, table, key, record, Generation::default()).await;
                }
                drop(owed);
            });
        }
        (node, result)
    })
}

/// Whether a replica may have missed the rows. Not after a refusal that says "no replica of this
/// key": those who are get the rows by another plan.
fn has_missed(result: &Result<Response, CallError>) -> bool {
    match result {
        Ok(Response::Applied { .. }) => false,
        Ok(Response::Refused(refusal)) => !matches!(
            refusal,
            Refusal::StaleEpoch { .. } | Refusal::NotReplica { .. } | Refusal::NoSuchTable { .. }
        ),
        Ok(_) | Err(_) => true,
    }
}

async fn gather(
    inner: &Arc<Inner>,
    plan: &Plan,
    tally: &mut Tally,
    calls: &mut FuturesUnordered<BoxFuture<'static, Answer>>,
    log: &mut Log,
) -> Result<(), Stop> {
    let mut reasons = Vec::new();
    while tally.progress() == Progress::Pending {
        let left = plan.left(inner.env.mono());
        tokio::select! {
            biased;
            Some((node, result)) = calls.next() => match result {
                Ok(Response::Applied { .. }) => {
                    note(inner, plan, log, node, || "ok".to_owned());
                    tally.on_ack(node);
                }
                Ok(Response::Refused(refusal)) => {
                    note(inner, plan, log, node, || format!("refused: {refusal}"));
                    inner.follow(plan, &refusal).await?;
                    tally.on_fail(node);
                    reasons.push(format!("{}: {refusal}", inner.name_of(node)));
                }
                Ok(_) => {
                    tally.on_fail(node);
                }
                Err(error) => {
                    note(inner, plan, log, node, || error.to_string());
                    tally.on_fail(node);
                    reasons.push(format!("{}: {error}", inner.name_of(node)));
                }
            },
            () = inner.env.sleep(left) => {
                return Err(Stop::Error(OpError::Timeout {
                    level: plan.level,
                    required: plan.required(),
                    received: u32::try_from(tally.received()).unwrap_or(u32::MAX),
                    timeout_ms: u64::try_from(plan.timeout.as_millis()).unwrap_or(u64::MAX),
                    fate: Fate::Unknown,
                }));
            }
        }
    }
    if tally.progress() == Progress::OutOfReach {
        return Err(Stop::Error(unknown(plan, tally.received(), &reasons.join("; "))));
    }
    Ok(())
}

/// Too few replicas hold the rows. Those that do will pass them on, so they may yet be everywhere.
fn unknown(plan: &Plan, received: usize, reasons: &str) -> OpError {
    OpError::TooFewReplicas {
        level: plan.level,
        required: plan.required(),
        received: u32::try_from(received).unwrap_or(u32::MAX),
        failed: plan.n().saturating_sub(u32::try_from(received).unwrap_or(u32::MAX)),
        reasons: reasons.to_owned(),
        fate: Fate::Unknown,
    }
}
