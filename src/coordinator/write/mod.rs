//! Writing one key.
//!
//! ```text
//! coordinator          minter (a replica)        other replicas
//!     │── Mint ───────────▶│ new dot, merge, sync
//!     │◀── whole record ───│
//!     │── Apply(record) ─────────────────────────────▶│ merge, sync
//!     │◀────────────────────────────── acks ──────────│
//!  W hold it: answer
//! ```
//!
//! - Only a replica mints, and its record is on disk before the dot leaves it (law L2). The whole
//!   record travels, never the new value alone: that is why one vector entry per actor is enough.
//! - A mint that brought no answer may have happened. It may be sent to a second replica only after
//!   a majority was read (rule 3): if that shows the operation, its first outcome stands; if not,
//!   the second mint carries the same operation id, and should both come to light, the record shows
//!   the operation once.
//! - Last-write-wins: the coordinator chooses the stamp, and a replica mints with that one or not
//!   at all, so that an attempt which is carried out late is no later version ([`mint`]). If a
//!   replica reports a version that wins over the new one, this write might lose to one that was
//!   acknowledged before it began (clocks differ). It is then written once more before it is
//!   acknowledged, as an operation of its own and above all that a majority shows, so that the
//!   later write wins whatever the clocks say. (Among levels that overlap. A write at ONE does not
//!   hear of all that was acknowledged.)
//!
//! What is said of a write's fate (law L8) rests on three things: a call that was not sent will
//! not happen; a replica that refuses has changed nothing; and a request arrives at most once, as
//! over TCP, so that no late copy of a refused one is carried out after all. From the first mint
//! that may have happened on, no error says "not applied".

mod mint;
mod spread;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::causality::Context;
use crate::coordinator::failure::{Cause, Failure, Failures, all_are, causes};
use crate::coordinator::lwt;
use crate::coordinator::plan::{Plan, Purpose};
use crate::coordinator::read::{Done, Reading, Stop};
use crate::coordinator::write::mint::Before;
use crate::coordinator::{
    Fate, Inner, OpError, Receipt, ReplicaReceipt, StoodIn, WriteAction, WriteOp, WriteOutcome,
};
use crate::meta::ConflictMode;
use crate::plants::{Plant, planted};
use crate::record::OpMemory;
use crate::types::{Consistency, Dot, Generation, Hlc, Mono, NodeId, OpId, WallMicros};

/// How often one write is planned anew because the ring moved under it.
const MAX_PLANS: u32 = 4;

/// How far in the future a client's operation id may be. Clients' clocks err; but an id from the
/// far future would make all that follow on its key look old.
const MAX_ID_AHEAD: Duration = Duration::from_secs(24 * 3600);

/// Writes a key for a client.
pub(super) async fn write(inner: &Arc<Inner>, op: &WriteOp) -> Result<WriteOutcome, OpError> {
    if op.table.name.is_system() {
        return Err(OpError::Reserved(op.table.name.clone()));
    }
    write_own(inner, op).await
}

/// Writes a key, of a table that the nodes keep for themselves too.
pub(super) async fn write_own(inner: &Arc<Inner>, op: &WriteOp) -> Result<WriteOutcome, OpError> {
    check(inner, op)?;
    if op.by_paxos() {
        return lwt::write(inner, op).await;
    }
    // One "now" for the whole operation (rule 8), however often it is planned: the value's expiry
    // rests on it.
    let (started, now) = (inner.env.mono(), inner.env.wall());
    let request = request_digest(op);
    let mut id = op.op.unwrap_or_else(|| inner.new_op_id(None));
    let mut may_exist = false;
    for _ in 0..MAX_PLANS {
        let plan = inner
            .plan(Purpose::Write, &op.table, &op.key, op.level, started, op.timeout)
            .and_then(|plan| inner.must_be_possible(&plan).map(|()| plan));
        let plan = match plan {
            Ok(plan) => plan,
            Err(error) => return Err(if may_exist { unknown(op, error) } else { error }),
        };
        let mut writing = Writing {
            inner,
            plan,
            op,
            id,
            request,
            now,
            context: op.context.clone().unwrap_or_default(),
            may_exist,
            id_floor: None,
            log: BTreeMap::new(),
            failed: Failures::new(),
            stood_in: BTreeMap::new(),
        };
        match writing.run().await {
            Ok(outcome) => return Ok(outcome),
            Err(Stop::Error(error)) if writing.may_exist && !planted(Plant::P32) => {
                return Err(unknown(op, error));
            }
            Err(Stop::Error(error)) => return Err(error),
            Err(Stop::Replan) => {}
        }
        may_exist = writing.may_exist;
        if op.op.is_none() && !may_exist {
            // Nothing was made under this id and nothing ever will be, so a new one is as good;
            // and if a record found it too old, a greater one is better.
            id = inner.new_op_id(writing.id_floor);
        }
    }
    let reasons = "the ring keeps changing".to_owned();
    let fate = if may_exist { Fate::Unknown } else { Fate::NotApplied };
    let (level, required, received, failed) = (op.level, 0, 0, 0);
    let who = Vec::new();
    Err(OpError::TooFewReplicas { level, required, received, failed, reasons, who, fate })
}

fn check(inner: &Inner, op: &WriteOp) -> Result<(), OpError> {
    let serial = matches!(op.level, Consistency::Serial | Consistency::LocalSerial);
    if serial && !op.by_paxos() {
        return Err(OpError::BadLevel(format!(
            "{} is a level for conditional writes and for strong tables",
            op.level
        )));
    }
    check_id(inner, op.op)
}

/// Refuses an operation's id that no clock can have made by now.
pub(super) fn check_id(inner: &Inner, id: Option<OpId>) -> Result<(), OpError> {
    let now_ms = inner.peers.stamps().clock.now().0 / 1000;
    let ahead_ms = id.map_or(0, |id| id.unix_millis().saturating_sub(now_ms));
    if u128::from(ahead_ms) > MAX_ID_AHEAD.as_millis() {
        return Err(OpError::BadOperationId(format!(
            "the operation id is from {} hours in the future: check the clock that made it",
            ahead_ms / 3_600_000
        )));
    }
    Ok(())
}

/// Fingerprint of what a client asked for: an operation id that returns with another is misused.
pub(super) fn request_digest(op: &WriteOp) -> u64 {
    let mut hash = xxhash_rust::xxh3::Xxh3::new();
    match &op.action {
        WriteAction::Put { body, content_type, meta, ttl } => {
            hash.update(b"put");
            hash.update(&(body.len() as u64).to_le_bytes());
            hash.update(body);
            hash.update(content_type.as_deref().unwrap_or("\0").as_bytes());
            for (name, value) in meta {
                hash.update(&[0xFF]);
                hash.update(name.as_bytes());
                hash.update(&[0xFE]);
                hash.update(value.as_bytes());
            }
            hash.update(&ttl.map_or(0, |ttl| ttl.as_millis() as u64).to_le_bytes());
        }
        WriteAction::Delete => hash.update(b"delete"),
    }
    hash.digest()
}

/// Says of an error what is true once a version may exist: the write's fate is unknown, whatever
/// the step that failed last would say of itself.
fn unknown(op: &WriteOp, error: OpError) -> OpError {
    let fate = Fate::Unknown;
    match error {
        error if error.fate() == Fate::Unknown => error,
        OpError::Timeout { level, required, received, timeout_ms, .. } => {
            OpError::Timeout { level, required, received, timeout_ms, fate }
        }
        OpError::TooFewReplicas { level, required, received, failed, reasons, who, .. } => {
            OpError::TooFewReplicas { level, required, received, failed, reasons, who, fate }
        }
        other => OpError::TooFewReplicas {
            level: op.level,
            required: 0,
            received: 0,
            failed: 0,
            reasons: other.to_string(),
            who: Vec::new(),
            fate,
        },
    }
}

/// One write under way.
struct Writing<'a> {
    inner: &'a Arc<Inner>,
    plan: Plan,
    op: &'a WriteOp,
    id: OpId,
    request: u64,
    now: WallMicros,
    context: Context,
    /// From here on "it did not happen" would be a lie.
    may_exist: bool,
    /// A replica remembers only operations from this one on.
    id_floor: Option<OpId>,
    log: BTreeMap<NodeId, ReplicaReceipt>,
    failed: Failures,
    /// By replica: who holds the version in its place.
    stood_in: BTreeMap<NodeId, NodeId>,
}

/// What the first step left: a version made now, or the operation's first outcome.
struct Version {
    record: Bytes,
    /// The purge generation that it was read at.
    generation: Generation,
    dot: Dot,
    stamp: Hlc,
    created: bool,
    siblings: u32,
    replayed: bool,
    /// Last-write-wins: another version has won over it already, with this stamp or a greater one.
    lost_to: Option<Hlc>,
    holders: Vec<NodeId>,
    /// When the first of them was asked.
    asked: Mono,
}

impl Writing<'_> {
    async fn run(&mut self) -> Result<WriteOutcome, Stop> {
        let mut attempt = self.attempt_above(Hlc(0));
        let blind_delete =
            matches!(self.op.action, WriteAction::Delete) && self.op.context.is_none();
        let may_have_run = self.op.op.is_some() || self.may_exist;
        if may_have_run || blind_delete {
            // The client's own id may have run before, and so may one of an earlier plan; a
            // delete without context deletes what a quorum shows. All begin with a read.
            let seen = match self.look_before(&mut attempt).await? {
                Before::Ran(first) => return self.finish(first).await,
                Before::Not(seen) => seen,
            };
            if blind_delete {
                self.context = seen.merged.context();
                let nothing = seen.merged.view(self.now).versions.is_empty();
                // An operation that its client may repeat leaves a trace all the same: the repeat
                // must not delete what came in between.
                if nothing && self.op.op.is_none() {
                    return Ok(self.nothing_to_delete(&seen));
                }
            }
            if may_have_run {
                attempt.known = (seen.bytes, seen.generation);
            }
        }
        let version = self.mint(attempt).await?;
        self.finish(version).await
    }

    fn nothing_to_delete(&self, seen: &Done) -> WriteOutcome {
        WriteOutcome {
            dot: None,
            created: false,
            siblings: 0,
            context: self.context.clone(),
            replayed: false,
            receipt: self.op.receipt.then(|| self.receipt(seen.received)),
        }
    }

    /// Reads a quorum of the key, repairing as reads do.
    async fn majority(&self) -> Result<Done, Stop> {
        let plan = self
            .inner
            .plan(
                Purpose::Read,
                &self.op.table,
                &self.op.key,
                Consistency::Quorum,
                self.plan.started,
                self.plan.timeout,
            )
            .map_err(Stop::Error)?;
        self.inner.must_be_possible(&plan).map_err(Stop::Error)?;
        Reading::new(self.inner, plan, &self.op.key).run().await
    }

    /// The operation's first outcome, if a majority remembers it.
    fn remembered(&self, seen: &Done) -> Result<Option<Version>, Stop> {
        match seen.merged.find_op(self.id, self.request) {
            OpMemory::Unknown => Ok(None),
            OpMemory::Reused | OpMemory::Refused(_) => Err(Stop::Error(OpError::OperationReused)),
            OpMemory::Forgotten | OpMemory::Barred => Err(Stop::Error(OpError::OperationExpired)),
            OpMemory::Applied(entry) => {
                let stands = seen.merged.standing_stamp(entry.op);
                Ok(Some(Version {
                    record: seen.bytes.clone(),
                    generation: seen.generation,
                    dot: entry.dot,
                    stamp: stands.unwrap_or_default(),
                    created: entry.created,
                    siblings: u32::try_from(seen.merged.view(self.now).versions.len())
                        .unwrap_or(u32::MAX),
                    replayed: true,
                    lost_to: stands.is_none().then(|| seen.merged.max_stamp()),
                    holders: seen.holders.clone(),
                    asked: seen.begun,
                }))
            }
        }
    }

    fn outcome(&self, version: &Version, received: usize) -> WriteOutcome {
        let mut context = self.context.clone();
        context.insert(version.dot);
        if self.plan.table.settings.conflict == ConflictMode::Lww {
            // In such a table stamps decide: the writer's next write must come after this one
            // even where it is minted by a replica that has neither it nor so fast a clock.
            context.meet(version.stamp);
        }
        WriteOutcome {
            dot: Some(version.dot),
            created: version.created,
            siblings: version.siblings,
            context,
            replayed: version.replayed,
            receipt: self.op.receipt.then(|| self.receipt(received)),
        }
    }

    /// Notes for the receipt, if one is wanted, what a replica has said.
    fn note(&mut self, node: NodeId, role: &'static str, answer: String) {
        if !self.op.receipt {
            return;
        }
        let took = self.inner.env.mono().since(self.plan.started);
        let entry = self.log.entry(node).or_default();
        if entry.role.is_empty() {
            entry.role = role;
        }
        entry.answer = answer;
        entry.answered_us = Some(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }

    /// Notes that a replica does not count, and why.
    fn note_failure(&mut self, node: NodeId, role: &'static str, failure: Failure) {
        self.note(node, role, failure.said.clone());
        self.failed.insert(node, failure);
    }

    /// Notes that a node was asked and has said nothing yet.
    fn note_asked(&mut self, node: NodeId, role: &'static str) {
        if !self.op.receipt {
            return;
        }
        let entry = self.log.entry(node).or_default();
        if entry.role.is_empty() {
            entry.role = role;
        }
        if entry.answer.is_empty() {
            "pending".clone_into(&mut entry.answer);
        }
    }

    fn receipt(&self, received: usize) -> Receipt {
        let receipt = self.inner.receipt("write", &self.plan, received, &self.log, &[], 0);
        let stood_in = |(&replica, &keeper): (&NodeId, &NodeId)| StoodIn {
            node: self.inner.name_of(keeper),
            replica: self.inner.name_of(replica),
        };
        Receipt { stood_in: self.stood_in.iter().map(stood_in).collect(), ..receipt }
    }

    fn timed_out(&self, received: usize) -> OpError {
        OpError::Timeout {
            level: self.plan.level,
            required: self.plan.required(),
            received: u32::try_from(received).unwrap_or(u32::MAX),
            timeout_ms: u64::try_from(self.plan.timeout.as_millis()).unwrap_or(u64::MAX),
            fate: Fate::NotApplied,
        }
    }

    /// All replicas failed: the reason that all share, if they share one, else the count.
    fn too_few(&self, received: usize) -> OpError {
        if !self.may_exist && all_are(&self.failed, Cause::Full) {
            return OpError::DiskFull;
        }
        if !self.may_exist && all_are(&self.failed, Cause::Busy) {
            return OpError::Overloaded { what: self.inner.reasons(&self.failed) };
        }
        OpError::TooFewReplicas {
            level: self.plan.level,
            required: self.plan.required(),
            received: u32::try_from(received).unwrap_or(u32::MAX),
            failed: u32::try_from(self.failed.len()).unwrap_or(u32::MAX),
            reasons: self.inner.reasons(&self.failed),
            who: causes(&self.failed),
            fate: Fate::NotApplied,
        }
    }
}
