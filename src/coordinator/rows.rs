//! Writing rows of one partition.
//!
//! A row's cells have their stamps when they leave the coordinator, so there is nothing to mint:
//! the same records go to all replicas, each merges them in one commit, and the write is
//! acknowledged when W hold them. Sent twice or late, they change nothing more. A replica that does
//! not say that it holds them gets a hint for each row, whatever becomes of the write.
//!
//! # Purges
//!
//! The rows carry the purge generation that this coordinator knew of before it sent them to anyone.
//! A replica that has purged one of their keys since refuses them ([`crate::replica`]). Then they
//! are either on no replica, and may begin anew at the later generation; or some replica may have
//! merged them before the purge, which has then removed what became of them with the consent of all:
//! whoever lacks them is to get what a replica that took them holds *now*, and not the rows as they
//! were. (Sent again as they were, rows that a deletion covers would come back without it.)
//!
//! A replica that is being refilled takes no such rows: it may be behind purges that neither it nor
//! this coordinator has heard of, and would remove the rows when it hears of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;

use crate::coordinator::failure::{Cause, Failure, Failures, causes};
use crate::coordinator::heal::heal_if_damaged;
use crate::coordinator::plan::{Plan, Purpose, must_be_storable};
use crate::coordinator::read::Stop;
use crate::coordinator::{Fate, Inner, OpError, Receipts, ReplicaReceipt, RowsOp};
use crate::env::BoxFuture;
use crate::meta::Table;
use crate::net::messages::ApplyRows;
use crate::net::{CallError, Refusal, Request, Response};
use crate::quorum::{Progress, Tally};
use crate::record::{self, Record};
use crate::types::{Consistency, Generation, Key, Mono, NodeId};

/// How often one write is planned anew because the ring moved under it.
const MAX_PLANS: u32 = 4;

/// How often rows that are nowhere begin anew because of purges.
const MAX_PURGES: u32 = 4;

struct Answer {
    node: NodeId,
    result: Result<Response, CallError>,
    /// To the rows as they were written, not to what became of them elsewhere.
    first: bool,
}

type Calls = FuturesUnordered<BoxFuture<'static, Answer>>;

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
    op.rows.iter().try_for_each(|(key, _)| must_be_storable(key))?;
    let written = Written {
        table: op.table.clone(),
        rows: stored(inner, &op.table, &op.rows),
        level: op.level,
        started: inner.env.mono(),
        timeout: op.timeout,
        holder: None,
        generation: None,
        receipts,
    };
    spread_all(inner, written).await
}

/// Rows as they are stored, with the time of their deletions.
pub(super) fn stored(inner: &Inner, table: &Table, rows: &[(Key, Record)]) -> Vec<(Key, Bytes)> {
    let now = inner.env.wall();
    let stored = |(key, record): &(Key, Record)| {
        let address = record::address(table.id, key);
        let deleting = record.row().filter(|row| row.deletes()).map(|_| {
            let mut record = record.clone();
            record.date_deletions(now);
            record
        });
        (key.clone(), deleting.as_ref().unwrap_or(record).encode(&address))
    };
    rows.iter().map(stored).collect()
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
    /// The purge generation that they are of; `None`: the latest that is known when they are sent
    /// first.
    pub(super) generation: Option<Generation>,
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
pub(super) async fn spread_all(inner: &Arc<Inner>, mut written: Written) -> Result<(), OpError> {
    let Some((first, _)) = written.rows.first().cloned() else { return Ok(()) };
    let (table, level) = (&written.table.clone(), written.level);
    let mut sent: Option<Plan> = None;
    for _ in 0..MAX_PLANS {
        let plan = inner
            .plan(Purpose::Write, table, &first, level, written.started, written.timeout)
            .and_then(|plan| inner.must_be_possible(&plan).map(|()| plan));
        let plan = match (plan, &sent) {
            (Ok(plan), _) => plan,
            // By an earlier plan some replicas may hold the rows already.
            (Err(error), Some(earlier)) => {
                return Err(unknown(earlier, 0, error.to_string(), Vec::new()));
            }
            (Err(error), None) if written.holder.is_none() => return Err(error),
            (Err(error), None) => return Err(unheard(level, &error.to_string())),
        };
        match spread(inner, &plan, &mut written, sent.is_some()).await {
            Ok(()) => return Ok(()),
            Err(Stop::Replan) => sent = Some(plan),
            Err(Stop::Error(error)) => return Err(error),
        }
    }
    let what = "the ring keeps changing";
    Err(match sent {
        Some(plan) => unknown(&plan, 0, what.to_owned(), Vec::new()),
        None => unheard(level, what),
    })
}

/// One replica holds the rows, and nobody else was asked.
fn unheard(level: Consistency, reasons: &str) -> OpError {
    let (reasons, who, fate) = (reasons.to_owned(), Vec::new(), Fate::Unknown);
    OpError::TooFewReplicas { level, required: 1, received: 0, failed: 0, reasons, who, fate }
}

/// Sends the rows to every replica, and waits until W hold them. The calls that have not answered
/// by then go on in the background, whatever the outcome. `arrived`: an earlier plan may have
/// brought the rows to some replica.
async fn spread(
    inner: &Arc<Inner>,
    plan: &Plan,
    written: &mut Written,
    arrived: bool,
) -> Result<(), Stop> {
    let mut tally = Tally::new(plan.requirement.clone(), inner.peers.me());
    tally.on_hint(false);
    if let Some(holder) = written.holder {
        tally.on_ack(holder);
    }
    let generation = *written.generation.get_or_insert_with(|| inner.purged.of(plan));
    let (rows, holder) = (written.rows.clone(), written.holder);
    let mut effort = Effort {
        inner,
        plan,
        rows,
        generation,
        tally,
        calls: FuturesUnordered::new(),
        holder,
        arrived,
        open: 0,
        behind: Vec::new(),
        begun: 0,
        failed: Failures::new(),
        log: written.receipts.as_ref().map(|_| BTreeMap::new()),
    };
    let others: Vec<NodeId> =
        plan.order.iter().copied().filter(|node| Some(*node) != holder).collect();
    effort.send(&others);
    let result = effort.gather().await;
    written.generation = Some(effort.generation);
    if let (Some(receipts), Some(log)) = (&written.receipts, &effort.log) {
        receipts.add(inner.receipt("write", plan, effort.tally.received(), log, &[], 0));
    }
    inner.finish_later("replicate-rest", effort.calls);
    result
}

fn request(plan: &Plan, rows: &[(Key, Bytes)], generation: Generation) -> Request {
    let (table, rows) = (plan.table.id, rows.to_vec());
    Request::ApplyRows(ApplyRows { table, rows, generation })
}

fn apply_at(
    inner: &Arc<Inner>,
    plan: &Plan,
    node: NodeId,
    rows: Vec<(Key, Bytes)>,
    generation: Generation,
) -> BoxFuture<'static, Answer> {
    let request = request(plan, &rows, generation);
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
                    hints.leave(node, table, key, record, generation).await;
                }
                drop(owed);
            });
        }
        Answer { node, result, first: true }
    })
}

/// Brings to `node`, which has purged one of the rows' keys to make `at`, what `source` holds of
/// them since. Of a row that is gone there too nobody can tell whether all replicas have agreed to
/// that, or `source` has lost its data since: it does not count as written.
fn bring(
    inner: &Arc<Inner>,
    plan: &Plan,
    (node, at): (NodeId, Generation),
    source: NodeId,
    keys: Vec<Key>,
) -> BoxFuture<'static, Answer> {
    let (inner, plan) = (inner.clone(), plan.clone());
    Box::pin(async move {
        let since = inner.rows_since(&plan, source, keys.iter(), at).await;
        let result = match since {
            Some((rows, generation)) => {
                let whole = rows.len() == keys.len();
                let brought = match rows.is_empty() {
                    true => None,
                    false => {
                        let request = request(&plan, &rows, generation);
                        Some(inner.call_until_sent(&plan, node, request).await)
                    }
                };
                let gone = || CallError::Lost { why: "its key was purged meanwhile".to_owned() };
                brought.filter(|_| whole).unwrap_or_else(|| Err(gone()))
            }
            None => Err(CallError::Lost { why: "nobody tells what a purge left".to_owned() }),
        };
        Answer { node, result, first: false }
    })
}

/// Whether a replica may have missed the rows. Not after a refusal that says "no replica of this
/// key": those who are get the rows by another plan.
fn has_missed(result: &Result<Response, CallError>) -> bool {
    match result {
        Ok(Response::Applied { .. }) => false,
        Ok(Response::Refused(refusal)) => !matches!(
            refusal,
            Refusal::StaleEpoch { .. }
                | Refusal::NotReplica { .. }
                | Refusal::NoSuchTable { .. }
                // It would refuse a hint as well.
                | Refusal::OtherGeneration { .. }
        ),
        Ok(_) | Err(_) => true,
    }
}

/// Rows on their way by one plan.
struct Effort<'a> {
    inner: &'a Arc<Inner>,
    plan: &'a Plan,
    rows: Vec<(Key, Bytes)>,
    /// The purge generation that they are of.
    generation: Generation,
    tally: Tally,
    calls: Calls,
    /// A replica that has merged them.
    holder: Option<NodeId>,
    /// Some replica may have, without saying so.
    arrived: bool,
    /// Calls with the rows that have not answered.
    open: usize,
    /// Replicas that refused them, and the generation that they have reached.
    behind: Vec<(NodeId, Generation)>,
    /// How often they have begun anew.
    begun: u32,
    failed: Failures,
    log: Log,
}

impl Effort<'_> {
    fn send(&mut self, nodes: &[NodeId]) {
        self.open += nodes.len();
        for &node in nodes {
            if let Some(log) = &mut self.log {
                let (role, answer) = ("apply", "pending".to_owned());
                log.insert(node, ReplicaReceipt { role, answer, ..ReplicaReceipt::default() });
            }
            let rows = self.rows.clone();
            self.calls.push(apply_at(self.inner, self.plan, node, rows, self.generation));
        }
    }

    async fn gather(&mut self) -> Result<(), Stop> {
        while self.tally.progress() == Progress::Pending {
            let left = self.plan.left(self.inner.env.mono());
            tokio::select! {
                biased;
                Some(answer) = self.calls.next() => self.take(answer).await?,
                () = self.inner.env.sleep(left) => {
                    let plan = self.plan;
                    return Err(Stop::Error(OpError::Timeout {
                        level: plan.level,
                        required: plan.required(),
                        received: u32::try_from(self.tally.received()).unwrap_or(u32::MAX),
                        timeout_ms: u64::try_from(plan.timeout.as_millis()).unwrap_or(u64::MAX),
                        fate: Fate::Unknown,
                    }));
                }
            }
        }
        if self.tally.progress() == Progress::OutOfReach {
            let (received, reasons) = (self.tally.received(), self.inner.reasons(&self.failed));
            let who = causes(&self.failed);
            return Err(Stop::Error(unknown(self.plan, received, reasons, who)));
        }
        Ok(())
    }

    async fn take(&mut self, Answer { node, result, first }: Answer) -> Result<(), Stop> {
        self.open -= usize::from(first);
        match result {
            Ok(Response::Applied { generation, .. }) => {
                self.inner.purged.learn(self.plan, generation);
                self.holder.get_or_insert(node);
                note(self.inner, self.plan, &mut self.log, node, || "ok".to_owned());
                self.tally.on_ack(node);
            }
            Ok(Response::Refused(Refusal::OtherGeneration { generation: at }))
                if first && at > self.generation =>
            {
                self.inner.purged.learn(self.plan, at);
                self.behind.push((node, at));
            }
            Ok(Response::Refused(refusal)) => {
                self.inner.follow(self.plan, &refusal).await?;
                self.fail(node, Failure::from(&refusal));
            }
            Ok(_) => {
                self.arrived = true;
                self.fail(node, Failure::from("its storage failed".to_owned()));
            }
            Err(error) => {
                self.arrived |= matches!(error, CallError::Lost { .. });
                self.fail(node, Failure::from(&error));
            }
        }
        self.bring_up();
        Ok(())
    }

    fn fail(&mut self, node: NodeId, failure: Failure) {
        note(self.inner, self.plan, &mut self.log, node, || failure.said.clone());
        self.tally.on_fail(node);
        self.failed.insert(node, failure);
    }

    /// Sees to those that refused the rows because of a purge: see the module.
    fn bring_up(&mut self) {
        if let Some(source) = self.holder {
            for behind in std::mem::take(&mut self.behind) {
                let keys = self.rows.iter().map(|(key, _)| key.clone()).collect();
                self.calls.push(bring(self.inner, self.plan, behind, source, keys));
            }
        }
        let newest = self.behind.iter().map(|(_, at)| *at).max();
        let Some(newest) = newest.filter(|_| self.open == 0) else {
            return;
        };
        let nodes: Vec<NodeId> =
            std::mem::take(&mut self.behind).into_iter().map(|(node, _)| node).collect();
        if !self.arrived && self.begun < MAX_PURGES {
            (self.generation, self.begun) = (newest, self.begun + 1);
            self.send(&nodes);
        } else {
            for node in nodes {
                self.fail(node, Failure::from("its key was purged".to_owned()));
            }
        }
    }
}

/// Too few replicas hold the rows. Those that do will pass them on, so they may yet be everywhere.
fn unknown(plan: &Plan, received: usize, reasons: String, who: Vec<(NodeId, Cause)>) -> OpError {
    OpError::TooFewReplicas {
        level: plan.level,
        required: plan.required(),
        received: u32::try_from(received).unwrap_or(u32::MAX),
        failed: plan.n().saturating_sub(u32::try_from(received).unwrap_or(u32::MAX)),
        reasons,
        who,
        fate: Fate::Unknown,
    }
}
