//! Lightweight transactions: conditional writes and serial reads of one key, by Paxos
//! ([`crate::paxos::Round`]).
//!
//! ```text
//! proposer                         voters (the key's replicas)
//!    │── prepare b ────────────────▶│ promise, sync
//!    │◀── vote, last decision, record
//!  newest state → judge the waiting operations → next record
//!    │── accept b, record ─────────▶│ vote, sync
//!    │◀── a majority has voted: chosen
//!    │── commit b, record ─────────▶│ merge it in, as any write
//! ```
//!
//! - The state that is agreed on is the key's **whole record**. Records merge, so a decision comes
//!   to the data path as any write does, and every decision contains all that came before it.
//! - A version made here has the dot (`PAXOS`, time of the ballot), so that whoever finishes a
//!   round makes the same version (rule 10). Its stamp lies above all that the round has seen.
//! - In a table of rows one register stands for a partition ([`state`]): operations on its rows are
//!   one queue, and see each other.
//! - *Lanes*: operations on one key wait in one queue, and all that wait are judged in order inside
//!   one round (at most [`MAX_COMBINED`]). No answer leaves before what it rests on is decided.
//!   Where proposers of several nodes meet on one key, its operations go to one of them ([`route`]).
//! - In a `strong` table nothing but Paxos writes, so the state that this proposer had chosen last
//!   is the newest one as long as its standing promise holds: with each vote it asks for the
//!   promise of its next ballot, and saves the *prepare* (rule 11). An answer leaves once a state is
//!   chosen, and the commit follows. Elsewhere the commit is on a majority first, so that quorum
//!   reads, which know nothing of votes, see what was acknowledged (rule 12).
//! - *Outcomes*: from the moment that an *accept* with an operation in it leaves, the operation is
//!   never called failed: it is applied, refused by a state that rules it out, or unknown.
//!
//! Proposers are named by a number drawn at each start: no two starts, of whatever node, share a
//! ballot, whatever became of any clock (invariant I7).

mod judge;
mod lane;
mod lease;
mod peek;
mod round;
mod route;
mod state;
mod wire;

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::{Notify, oneshot};

use crate::causality::Context;
use crate::coordinator::plan::{Plan, must_be_storable};
use crate::coordinator::{
    Condition, ConditionalOp, ConditionalOutcome, Inner, OpError, ReadOp, ReadOutcome, Receipt,
    WriteOp, WriteOutcome, write,
};
use crate::env::Env;
use crate::meta::{ConflictMode, Table};
use crate::net::paxos::{MAX_OPERATION_ROWS, PaxosAnswer, PaxosRequest, PaxosStep};
use crate::net::{Request, Response};
use crate::plants::{Plant, planted};
use crate::types::{ActorId, Ballot, Consistency, Dot, Hlc, Key, Mono, NodeId, OpId, TableId};

pub use judge::Told;
use judge::{After, Ask, Seen, Verdict};
pub use lease::LeaseOutcome;
pub(super) use lease::lease;
use route::{Contended, Taken};
use wire::About;

/// The most operations in one round. Ballots are at least this far apart in time.
pub(super) const MAX_COMBINED: usize = 64;

/// The most operations that wait for one key.
const MAX_WAITING: usize = 1_024;

/// Counts of what proposers have met; for `/metrics`.
#[derive(Debug, Default)]
pub struct LwtCounters {
    /// Rounds begun.
    pub rounds: AtomicU64,
    /// Of these, those that began with a standing promise.
    pub standing: AtomicU64,
    /// Rounds that another proposer interrupted.
    pub interrupted: AtomicU64,
    /// Undecided votes of others that a round has finished.
    pub finished: AtomicU64,
    /// Operations judged.
    pub judged: AtomicU64,
    /// Conditions that did not hold.
    pub refused: AtomicU64,
    /// Serial reads answered after one round trip that promised nothing.
    pub peeks: AtomicU64,
    /// Operations sent to the node that orders their key.
    pub forwarded: AtomicU64,
}

/// The proposer of one node.
#[derive(Debug)]
pub(super) struct Lwt {
    proposer: ActorId,
    lanes: Mutex<BTreeMap<(TableId, Key), Arc<Lane>>>,
    contended: Contended,
    taken: Taken,
    ballots: AtomicU64,
    pub(super) counters: LwtCounters,
}

/// The operations that wait for one key. A task works through them as long as there are any.
#[derive(Debug, Default)]
struct Lane {
    waiting: Mutex<VecDeque<Job>>,
    /// Somebody has come.
    wake: Notify,
    /// A round is under way.
    at_work: AtomicBool,
}

impl Lane {
    fn waiting(&self) -> MutexGuard<'_, VecDeque<Job>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Nothing of the operation has left this node.
const WAITING: u8 = 0;
/// It is part of a proposal that may be chosen at any time.
const PROPOSED: u8 = 1;
/// Nobody waits for it any more, and it is not to be proposed.
const ABANDONED: u8 = 2;

/// A waiting operation.
#[derive(Debug)]
struct Job {
    ask: Ask,
    about: About,
    /// Another node may be the one to propose it.
    moves: bool,
    deadline: Mono,
    state: Arc<AtomicU8>,
    /// Rounds with it in them that other proposers interrupted.
    interrupted: Arc<AtomicU32>,
    reply: oneshot::Sender<Result<Verdict, OpError>>,
}

impl Job {
    /// Takes the operation into a proposal, unless its client has been told that it did not run.
    fn propose(&self) -> bool {
        let state = &self.state;
        let taken = state.compare_exchange(WAITING, PROPOSED, Ordering::AcqRel, Ordering::Acquire);
        taken.is_ok() || taken == Err(PROPOSED)
    }

    fn is_proposed(&self) -> bool {
        self.state.load(Ordering::Acquire) == PROPOSED
    }
}

impl Lwt {
    pub(super) fn new(env: &Env) -> Self {
        Self {
            proposer: ActorId(env.random("proposer")),
            lanes: Mutex::default(),
            contended: Contended::default(),
            taken: Taken::default(),
            ballots: AtomicU64::new(0),
            counters: LwtCounters::default(),
        }
    }

    fn lanes(&self) -> MutexGuard<'_, BTreeMap<(TableId, Key), Arc<Lane>>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether operations on the key wait here, or are being decided.
    fn is_at_work(&self, table: &Table, key: &Key) -> bool {
        let lanes = self.lanes();
        let lane = lanes.get(&(table.id, key.clone()));
        lane.is_some_and(|lane| lane.at_work.load(Ordering::Acquire) || !lane.waiting().is_empty())
    }
}

/// What an operation is about, and how long it may take.
struct Errand<'a> {
    table: &'a Arc<Table>,
    key: &'a Key,
    timeout: Duration,
    started: Mono,
}

impl Inner {
    /// A ballot above `above`, and by [`MAX_COMBINED`] above all that this proposer has used.
    fn next_ballot(&self, above: Ballot) -> Ballot {
        let step = MAX_COMBINED as u64;
        if planted(Plant::P04) {
            let last = self.lwt.ballots.fetch_add(step, Ordering::AcqRel);
            let actor = ActorId(self.peers.me().0 as u64);
            return Ballot { time: (last + step).max(above.time.saturating_add(step)), actor };
        }
        let now = self.peers.stamps().clock.tick().0.max(above.time.saturating_add(step));
        let next = |last: u64| Some(now.max(last.saturating_add(step)));
        let last = self.lwt.ballots.fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
        let time = next(last.unwrap_or_else(|last| last)).unwrap_or(now);
        Ballot { time, actor: self.lwt.proposer }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// A serial read.
pub(super) async fn read(inner: &Arc<Inner>, op: &ReadOp) -> Result<ReadOutcome, OpError> {
    only_one_serial_domain(inner, op.level)?;
    let (started, now) = (inner.env.mono(), inner.env.wall());
    let errand = Errand { table: &op.table, key: &op.key, timeout: op.timeout, started };
    let receipt = op.receipt.then(|| receipt("read"));
    // Where others are at work all the time, a look finds something undecided.
    if !inner.is_contended(&op.table, &op.key)
        && let Some(record) = peek::peek(inner, &errand).await?
    {
        return Ok(ReadOutcome { record, now, receipt });
    }
    match inner.decide(&errand, Ask::Read, (None, 0)).await? {
        Verdict::Shown(record) => Ok(ReadOutcome { record, now, receipt }),
        other => Err(strange(&other)),
    }
}

/// `LOCAL_SERIAL` is serial as long as there is one datacentre; with more, two majorities of one
/// key would not meet.
fn only_one_serial_domain(inner: &Inner, level: Consistency) -> Result<(), OpError> {
    let state = inner.cluster.state();
    let mut centres = state.members().values().map(|m| &m.member.datacenter);
    let first = centres.next();
    if level == Consistency::LocalSerial && centres.any(|centre| Some(centre) != first) {
        return Err(OpError::BadLevel(
            "local_serial and serial of several datacentres do not meet: use serial".to_owned(),
        ));
    }
    Ok(())
}

/// A write that goes through Paxos.
pub(super) async fn write(inner: &Arc<Inner>, op: &WriteOp) -> Result<WriteOutcome, OpError> {
    let started = inner.env.mono();
    let errand = Errand { table: &op.table, key: &op.key, timeout: op.timeout, started };
    let condition = op.condition.clone();
    let request = request_digest(op);
    let settings = &op.table.settings;
    let mut action = op.action.clone();
    if let super::WriteAction::Put { ttl, .. } = &mut action {
        let table_ttl = settings.ttl_s;
        *ttl = ttl.or((table_ttl > 0).then(|| Duration::from_secs(table_ttl)));
    }
    let seen = seen(op);
    let ask = Ask::Write { action, condition, fence: op.fence, seen: seen.clone() };
    match inner.decide(&errand, ask, (op.op, request)).await? {
        Verdict::Applied { dot, created, replayed, after } => Ok(WriteOutcome {
            dot,
            created,
            siblings: after.siblings,
            context: seen_after(seen, dot, after),
            replayed,
            receipt: op.receipt.then(|| receipt("write")),
        }),
        Verdict::Refused { current, replayed } => {
            inner.lwt.counters.refused.fetch_add(1, Ordering::Relaxed);
            let now = inner.env.wall();
            Err(OpError::ConditionFailed { current: Box::new(current), now, replayed })
        }
        Verdict::Fenced { fence, highest, replayed } => {
            inner.lwt.counters.refused.fetch_add(1, Ordering::Relaxed);
            Err(OpError::FenceTooOld { fence, highest, replayed })
        }
        other => Err(strange(&other)),
    }
}

/// What a fenced write is to replace, if it says what it has read: nothing else then, as with any
/// plain write. In a `strong` table there is never anything else; and a condition says itself what
/// it is about.
fn seen(op: &WriteOp) -> Option<Seen> {
    let settings = &op.table.settings;
    let says = settings.conflict != ConflictMode::Strong && op.condition == Condition::None;
    let context = op.context.clone().filter(|_| says)?;
    Some(Seen { context, max_siblings: settings.max_siblings })
}

/// What a writer has seen after its write: never a value that it has not read.
fn seen_after(seen: Option<Seen>, dot: Option<Dot>, after: After) -> Context {
    let Some(Seen { mut context, .. }) = seen else { return after.context };
    if let Some(dot) = dot {
        context.insert(dot);
    }
    context.meet(after.stamp);
    context
}

/// A conditional write of rows of one partition.
pub(super) async fn write_rows(
    inner: &Arc<Inner>,
    op: &ConditionalOp,
) -> Result<ConditionalOutcome, OpError> {
    only_one_serial_domain(inner, op.level)?;
    if op.rows.len() > MAX_OPERATION_ROWS {
        let (max, got) = (MAX_OPERATION_ROWS, op.rows.len());
        return Err(OpError::Invalid(format!(
            "a conditional write may name {max} rows at most, and this one names {got}"
        )));
    }
    op.rows.iter().try_for_each(must_be_storable)?;
    let (started, now) = (inner.env.mono(), inner.env.wall());
    let errand = Errand { table: &op.table, key: &op.head, timeout: op.timeout, started };
    let ask = Ask::Rows { rows: op.rows.clone(), judge: op.judge.clone() };
    match inner.decide(&errand, ask, (None, 0)).await? {
        Verdict::Rows { applied, seen } => {
            if !applied {
                inner.lwt.counters.refused.fetch_add(1, Ordering::Relaxed);
            }
            Ok(ConditionalOutcome { applied, rows: seen, now })
        }
        other => Err(strange(&other)),
    }
}

/// What became of an operation that went through Paxos. If it has not run, it never will.
pub(super) async fn tell(
    inner: &Arc<Inner>,
    table: &Arc<Table>,
    key: &Key,
    op: OpId,
    timeout: Duration,
) -> Result<Told, OpError> {
    let errand = Errand { table, key, timeout, started: inner.env.mono() };
    match inner.decide(&errand, Ask::Verdict(op), (None, 0)).await? {
        Verdict::Told(told) => Ok(told),
        other => Err(strange(&other)),
    }
}

/// Finishes what is undecided on a key: a serial read that leaves a decision on a majority.
pub(super) async fn settle(
    inner: &Arc<Inner>,
    table: &Arc<Table>,
    key: &Key,
    timeout: Duration,
) -> Result<(), OpError> {
    let errand = Errand { table, key, timeout, started: inner.env.mono() };
    inner.decide(&errand, Ask::Settle, (None, 0)).await.map(|_| ())
}

/// Finishes what `nodes`, all of them, have voted for and not seen decided. `None`: one of them did
/// not answer, or it cannot be finished now.
pub(super) async fn settle_votes(
    inner: &Arc<Inner>,
    plan: &Plan,
    key: &Key,
    nodes: &[NodeId],
    deadline: Mono,
) -> Option<()> {
    let calls = nodes.iter().map(|&node| {
        let (table, key, step) = (plan.table.id, key.clone(), PaxosStep::Peek);
        let request = Request::Paxos(PaxosRequest { table, key, step });
        inner.peers.call_at(plan.epoch, node, request, deadline)
    });
    let mut is_open = false;
    for answer in join_all(calls).await {
        let Ok(Response::Paxos(PaxosAnswer::Shown { accepted, .. })) = answer else { return None };
        is_open |= accepted.is_some();
    }
    if !is_open {
        return Some(());
    }
    settle(inner, &plan.table, key, deadline.since(inner.env.mono())).await.ok()
}

fn strange(verdict: &Verdict) -> OpError {
    match verdict {
        Verdict::Failed(error) => error.clone(),
        _ => OpError::NotSupported("the lane answered something else".to_owned()),
    }
}

fn receipt(operation: &'static str) -> Receipt {
    Receipt {
        operation,
        level: Consistency::Serial.to_string(),
        overlap: true,
        ..Receipt::default()
    }
}

/// The digest of a conditional request: condition and fence are part of it.
fn request_digest(op: &WriteOp) -> u64 {
    let mut digest = write::request_digest(op);
    if op.condition != Condition::None {
        let words = format!("{:?}", op.condition);
        digest = xxhash_rust::xxh3::xxh3_64_with_seed(words.as_bytes(), digest);
    }
    if let Some(fence) = op.fence {
        digest = xxhash_rust::xxh3::xxh3_64_with_seed(&fence.to_be_bytes(), digest);
    }
    digest
}

/// A stamp for the versions of a round.
fn stamp(inner: &Inner) -> Hlc {
    inner.peers.stamps().clock.tick()
}
