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
//! - Last-write-wins: if a replica reports a newer stamp, the new version might lose to a write
//!   that was acknowledged before this one began (clocks differ). It is then minted again above
//!   that stamp before it is acknowledged, so that the later write wins whatever the clocks say.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;

use crate::causality::Context;
use crate::coordinator::plan::{Plan, Purpose};
use crate::coordinator::read::{Reading, Stop};
use crate::coordinator::{
    Fate, Inner, OpError, ReplicaReceipt, WriteAction, WriteOp, WriteOutcome,
};
use crate::meta::ConflictMode;
use crate::net::messages::{Action, Apply, Mint, Minted};
use crate::net::{CallError, Refusal, Request, Response};
use crate::plants::{Plant, planted};
use crate::quorum::{Progress, Tally};
use crate::record::OpMemory;
use crate::types::{Consistency, Dot, Hlc, NodeId, OpId, WallMicros};

/// How often one write is planned anew because the ring moved under it.
const MAX_PLANS: u32 = 4;

/// How often a last-write-wins version is minted again above a newer stamp.
const MAX_RESTAMPS: u32 = 4;

/// A mint is given up on, and sent to a second replica, no sooner than this.
const MIN_MINT_WAIT: Duration = Duration::from_millis(100);

/// Writes a key for a client.
pub(super) async fn write(inner: &Arc<Inner>, op: &WriteOp) -> Result<WriteOutcome, OpError> {
    check(op)?;
    let started = inner.env.mono();
    let request = request_digest(op);
    let mut id = op.op.unwrap_or_else(|| inner.new_op_id());
    let mut may_exist = false;
    for _ in 0..MAX_PLANS {
        let plan = inner.plan(Purpose::Write, &op.table, &op.key, op.level, started, op.timeout)?;
        inner.must_be_possible(&plan)?;
        let mut writing = Writing::new(inner, plan, op, id, request);
        writing.may_exist = may_exist;
        let result = writing.run().await;
        match result {
            Ok(outcome) => return Ok(outcome),
            Err(Stop::Error(error)) => return Err(writing.with_fate(error)),
            Err(Stop::Replan) => {}
        }
        may_exist = writing.may_exist;
        if op.op.is_none() && !may_exist {
            // Nothing was made under this id and nothing ever will be, so a new one is as good;
            // and if a record found it too old (our clock was behind), it is better.
            id = inner.new_op_id();
        }
    }
    let reasons = "the ring keeps changing".to_owned();
    let fate = if may_exist { Fate::Unknown } else { Fate::NotApplied };
    let (level, required, received, failed) = (op.level, 0, 0, 0);
    Err(OpError::TooFewReplicas { level, required, received, failed, reasons, fate })
}

fn check(op: &WriteOp) -> Result<(), OpError> {
    if matches!(op.level, Consistency::Serial | Consistency::LocalSerial) {
        return Err(OpError::BadLevel(format!("{} is not a level for writes", op.level)));
    }
    if op.table.settings.conflict == ConflictMode::Strong {
        return Err(OpError::NotSupported(
            "strong tables come with lightweight transactions".to_owned(),
        ));
    }
    Ok(())
}

/// Fingerprint of what a client asked for: an operation id that returns with another is misused.
fn request_digest(op: &WriteOp) -> u64 {
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
    log: BTreeMap<NodeId, ReplicaReceipt>,
    failed: BTreeMap<NodeId, String>,
}

/// What the first step left: a version made now, or the operation's first outcome.
struct Version {
    record: Bytes,
    dot: Dot,
    created: bool,
    siblings: u32,
    replayed: bool,
    holders: Vec<NodeId>,
}

impl<'a> Writing<'a> {
    fn new(inner: &'a Arc<Inner>, plan: Plan, op: &'a WriteOp, id: OpId, request: u64) -> Self {
        Self {
            inner,
            id,
            now: inner.env.wall(),
            context: op.context.clone().unwrap_or_default(),
            plan,
            op,
            request,
            may_exist: false,
            log: BTreeMap::new(),
            failed: BTreeMap::new(),
        }
    }

    async fn run(&mut self) -> Result<WriteOutcome, Stop> {
        let mut known = Bytes::new();
        let blind_delete =
            matches!(self.op.action, WriteAction::Delete) && self.op.context.is_none();
        let may_have_run = self.op.op.is_some() || self.may_exist;
        if may_have_run || blind_delete {
            // The client's own id may have run before, and so may one of an earlier plan; a
            // delete without context deletes what a quorum shows. All begin with a read.
            let seen = self.majority().await?;
            if let Some(first) = self.remembered(&seen)? {
                return self.finish(first).await;
            }
            if blind_delete {
                if seen.merged.view(self.now).versions.is_empty() {
                    return Ok(self.nothing_to_delete());
                }
                self.context = seen.merged.context();
            }
            if may_have_run {
                known = seen.bytes;
            }
        }
        let version = self.mint(known, Hlc(0)).await?;
        self.finish(version).await
    }

    fn nothing_to_delete(&self) -> WriteOutcome {
        WriteOutcome {
            dot: None,
            created: false,
            siblings: 0,
            context: self.context.clone(),
            replayed: false,
            receipt: self.op.receipt.then(|| self.receipt(0)),
        }
    }

    /// Reads a quorum of the key, repairing as reads do.
    async fn majority(&self) -> Result<crate::coordinator::read::Done, Stop> {
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
    fn remembered(&self, seen: &crate::coordinator::read::Done) -> Result<Option<Version>, Stop> {
        match seen.merged.find_op(self.id, self.request) {
            OpMemory::Unknown => Ok(None),
            OpMemory::Reused => Err(Stop::Error(OpError::OperationReused)),
            OpMemory::Forgotten => Err(Stop::Error(OpError::OperationExpired)),
            OpMemory::Applied(entry) => Ok(Some(Version {
                record: seen.bytes.clone(),
                dot: entry.dot,
                created: entry.created,
                siblings: u32::try_from(seen.merged.view(self.now).versions.len())
                    .unwrap_or(u32::MAX),
                replayed: true,
                holders: seen.holders.clone(),
            })),
        }
    }

    /// Has one replica make the version, going on to the next while that is safe.
    async fn mint(&mut self, mut known: Bytes, above: Hlc) -> Result<Version, Stop> {
        let mut lost = false;
        for at in 0..self.plan.order.len() {
            let node = self.plan.order[at];
            if !self.plan.live.contains(&node) {
                continue;
            }
            if lost {
                // Rule 3: what was sent before may have happened.
                self.inner.counters.second_mints.fetch_add(1, Ordering::Relaxed);
                let seen = self.majority().await?;
                if let Some(first) = self.remembered(&seen)? {
                    return Ok(first);
                }
                known = seen.bytes;
                lost = false;
            }
            match self.mint_at(node, known.clone(), above).await? {
                MintAnswer::Made(minted) => {
                    return Ok(Version {
                        record: minted.record,
                        dot: minted.dot,
                        created: minted.created,
                        siblings: minted.siblings,
                        replayed: minted.replayed,
                        holders: vec![node],
                    });
                }
                MintAnswer::Refused => {}
                MintAnswer::Lost => lost = true,
            }
        }
        Err(Stop::Error(if self.inner.env.mono() >= self.plan.deadline {
            self.timed_out(0)
        } else {
            self.too_few(0)
        }))
    }

    async fn mint_at(
        &mut self,
        node: NodeId,
        known: Bytes,
        above: Hlc,
    ) -> Result<MintAnswer, Stop> {
        let now = self.inner.env.mono();
        let left = self.plan.left(now);
        let patience = (self.inner.latencies.hedge_after(node) * 4).max(MIN_MINT_WAIT);
        let deadline = now + left.min(patience.max(left / 3));
        let request = Request::Mint(Mint {
            table: self.plan.table.id,
            key: self.op.key.clone(),
            op: self.id,
            request: self.request,
            context: self.context.encode(),
            action: self.action(),
            now: self.now,
            max_siblings: self.plan.table.settings.max_siblings,
            known,
            above,
        });
        let result = self.inner.peers.call_at(self.plan.epoch, node, request, deadline).await;
        let answered = self.inner.env.mono();
        self.inner.latencies.record(node, answered.since(now));
        let said = match result {
            Ok(Response::Minted(minted)) => {
                self.may_exist = true;
                self.note(node, "mint", "ok".to_owned());
                return Ok(MintAnswer::Made(minted));
            }
            Ok(Response::Refused(refusal)) => {
                self.fatal(&refusal)?;
                self.inner.follow(&self.plan, &refusal).await?;
                format!("refused: {refusal}")
            }
            Err(error @ CallError::NotSent { .. }) => error.to_string(),
            Ok(Response::Failed { why }) => return Ok(self.lost(node, why)),
            Ok(_) => return Ok(self.lost(node, "it answered something else".to_owned())),
            Err(error @ CallError::Lost { .. }) => return Ok(self.lost(node, error.to_string())),
        };
        self.note(node, "mint", said.clone());
        self.failed.insert(node, said);
        Ok(MintAnswer::Refused)
    }

    /// A mint that may have happened.
    fn lost(&mut self, node: NodeId, why: String) -> MintAnswer {
        self.may_exist = true;
        self.note(node, "mint", why.clone());
        self.failed.insert(node, why);
        MintAnswer::Lost
    }

    /// Refusals that no other replica would answer differently.
    fn fatal(&self, refusal: &Refusal) -> Result<(), Stop> {
        Err(Stop::Error(match refusal {
            Refusal::OperationReused => OpError::OperationReused,
            Refusal::OperationForgotten if self.op.op.is_some() => OpError::OperationExpired,
            Refusal::OperationForgotten => return Err(Stop::Replan),
            Refusal::TooManySiblings { siblings, max } => {
                OpError::TooManySiblings { siblings: *siblings, max: *max }
            }
            Refusal::RecordTooLarge { max, got } => {
                OpError::RecordTooLarge { max: *max, got: *got }
            }
            _ => return Ok(()),
        }))
    }

    fn action(&self) -> Action {
        match &self.op.action {
            WriteAction::Put { body, content_type, meta, ttl } => {
                let table_ttl = self.plan.table.settings.ttl_s;
                let ttl = ttl.or((table_ttl > 0).then(|| Duration::from_secs(table_ttl)));
                Action::Put {
                    body: body.clone(),
                    content_type: content_type.clone(),
                    meta: meta.clone(),
                    expires_at: ttl.map(|ttl| {
                        let micros = u64::try_from(ttl.as_micros()).unwrap_or(u64::MAX);
                        WallMicros(self.now.0.saturating_add(micros))
                    }),
                }
            }
            WriteAction::Delete => Action::Delete,
        }
    }

    /// Brings the version to the other replicas until W hold it.
    async fn finish(&mut self, mut version: Version) -> Result<WriteOutcome, Stop> {
        self.may_exist = true;
        let lww = self.plan.table.settings.conflict == ConflictMode::Lww;
        for _ in 0..MAX_RESTAMPS {
            let newer = self.replicate(&version).await?;
            let Some(stamp) = newer.filter(|_| lww && !planted(Plant::P15)) else {
                return Ok(self.outcome(&version));
            };
            self.inner.counters.restamps.fetch_add(1, Ordering::Relaxed);
            let first = (version.created, version.replayed);
            version = self.mint(version.record.clone(), stamp).await?;
            (version.created, version.replayed) = first;
        }
        Err(Stop::Error(self.too_few(1)))
    }

    fn outcome(&self, version: &Version) -> WriteOutcome {
        let mut context = self.context.clone();
        context.insert(version.dot);
        WriteOutcome {
            dot: Some(version.dot),
            created: version.created,
            siblings: version.siblings,
            context,
            replayed: version.replayed,
            receipt: self.op.receipt.then(|| self.receipt(self.acks())),
        }
    }

    fn acks(&self) -> usize {
        self.log.values().filter(|entry| entry.answer == "ok").count()
    }

    /// Sends the record to every replica that is not known to hold it, and waits until W do.
    /// Returns the greatest newer stamp that one of them reported. The calls that have not
    /// answered by then go on in the background.
    async fn replicate(&mut self, version: &Version) -> Result<Option<Hlc>, Stop> {
        let mut tally = Tally::new(self.plan.requirement.clone(), self.inner.peers.me());
        for &node in &version.holders {
            tally.on_ack(node);
        }
        let mut calls = FuturesUnordered::new();
        for at in 0..self.plan.order.len() {
            let node = self.plan.order[at];
            if version.holders.contains(&node) {
                continue;
            }
            let request = Request::Apply(Apply {
                table: self.plan.table.id,
                key: self.op.key.clone(),
                record: version.record.clone(),
                heals: false,
            });
            let call = self.inner.peers.call_at(self.plan.epoch, node, request, self.plan.deadline);
            let (inner, started) = (self.inner.clone(), self.inner.env.mono());
            calls.push(async move {
                let result = call.await;
                inner.latencies.record(node, inner.env.mono().since(started));
                (node, result)
            });
            self.note_pending(node);
        }
        let mut newer: Option<Hlc> = None;
        while tally.progress() == Progress::Pending {
            let left = self.plan.left(self.inner.env.mono());
            tokio::select! {
                biased;
                Some((node, result)) = calls.next() => {
                    let (said, stamp) = self.judge(result).await?;
                    if said == "ok" || said == "dominated" {
                        tally.on_ack(node);
                        self.failed.remove(&node);
                        newer = newer.max(stamp);
                    } else {
                        tally.on_fail(node);
                        self.failed.insert(node, said.clone());
                    }
                    self.note(node, "apply", said);
                }
                () = self.inner.env.sleep(left) => {
                    return Err(Stop::Error(self.timed_out(tally.received())));
                }
            }
        }
        if tally.progress() == Progress::OutOfReach {
            return Err(Stop::Error(self.too_few(tally.received())));
        }
        if !calls.is_empty() {
            self.inner
                .env
                .spawn("replicate-rest", async move { while calls.next().await.is_some() {} });
        }
        Ok(newer)
    }

    async fn judge(
        &self,
        result: Result<Response, CallError>,
    ) -> Result<(String, Option<Hlc>), Stop> {
        Ok(match result {
            Ok(Response::Applied { dominated: false, .. }) => ("ok".to_owned(), None),
            Ok(Response::Applied { dominated: true, stamp }) => {
                ("dominated".to_owned(), Some(stamp))
            }
            Ok(Response::Refused(refusal)) => {
                self.inner.follow(&self.plan, &refusal).await?;
                (format!("refused: {refusal}"), None)
            }
            Ok(Response::Failed { why }) => (why, None),
            Ok(_) => ("it answered something else".to_owned(), None),
            Err(error) => (error.to_string(), None),
        })
    }

    fn note(&mut self, node: NodeId, role: &'static str, answer: String) {
        let took = self.inner.env.mono().since(self.plan.started);
        let entry = self.log.entry(node).or_default();
        if entry.role.is_empty() {
            entry.role = role;
        }
        entry.answer = answer;
        entry.answered_us = Some(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }

    fn note_pending(&mut self, node: NodeId) {
        let entry = self.log.entry(node).or_default();
        if entry.role.is_empty() {
            entry.role = "apply";
        }
        "pending".clone_into(&mut entry.answer);
    }

    fn receipt(&self, received: usize) -> crate::coordinator::Receipt {
        self.inner.receipt("write", &self.plan, received, &self.log, &[], 0)
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
        let all = |needle: &str| {
            !self.may_exist
                && !self.failed.is_empty()
                && self.failed.values().all(|why| why.contains(needle))
        };
        if all("no space left") {
            return OpError::DiskFull;
        }
        if all("overloaded") {
            return OpError::Overloaded { what: self.inner.reasons(&self.failed) };
        }
        OpError::TooFewReplicas {
            level: self.plan.level,
            required: self.plan.required(),
            received: u32::try_from(received).unwrap_or(u32::MAX),
            failed: u32::try_from(self.failed.len()).unwrap_or(u32::MAX),
            reasons: self.inner.reasons(&self.failed),
            fate: Fate::NotApplied,
        }
    }

    /// Says of an error what is true of this write: if a version may exist, its fate is unknown,
    /// whatever the step that failed last would say of itself.
    fn with_fate(&self, error: OpError) -> OpError {
        if !self.may_exist || error.fate() == Fate::Unknown {
            return error;
        }
        match error {
            OpError::Timeout { level, required, received, timeout_ms, .. } => {
                OpError::Timeout { level, required, received, timeout_ms, fate: Fate::Unknown }
            }
            OpError::TooFewReplicas { level, required, received, failed, reasons, .. } => {
                OpError::TooFewReplicas {
                    level,
                    required,
                    received,
                    failed,
                    reasons,
                    fate: Fate::Unknown,
                }
            }
            other => OpError::TooFewReplicas {
                level: self.plan.level,
                required: self.plan.required(),
                received: 0,
                failed: u32::try_from(self.failed.len()).unwrap_or(u32::MAX),
                reasons: other.to_string(),
                fate: Fate::Unknown,
            },
        }
    }
}

enum MintAnswer {
    Made(Minted),
    Refused,
    Lost,
}
