//! Reading one key.
//!
//! One replica is asked for the record and the others for its digest. When enough have answered:
//! - all digests equal: that is the answer, with nothing to merge;
//! - else the differing records are fetched and merged, and the replicas that were behind are sent
//!   the merge. At quorum levels (R > N/2) the answer waits until R replicas hold what it says, so
//!   that no later quorum read can return less (rule 7 of the design; P23 of the test plan is the
//!   mistake of answering first). At lower levels the repair goes on in the background.
//!
//! A replica that fails or refuses is replaced by the next of the plan; one that is slower than 99 in
//! 100 of its answers gets company (a *hedge*): the next replica is asked too, and whoever answers
//! first counts. Each replica counts once. Who is asked first, and how many hedges there may be, is
//! told by [`crate::coordinator::snitch`].

mod alone;
mod calls;
mod conclude;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;

pub(super) use self::alone::at_once;
use self::calls::{Answer, Asked, Calls};
use crate::coordinator::again;
use crate::coordinator::failure::{Cause, Failure, Failures, all_are, causes};
use crate::coordinator::heal::heal_later;
use crate::coordinator::lwt;
use crate::coordinator::plan::{Plan, Purpose};
use crate::coordinator::{Fate, Inner, OpError, ReadOp, ReadOutcome, Receipt, ReplicaReceipt};
use crate::env::BoxFuture;
use crate::net::messages::{Read, Want};
use crate::net::{CallError, Refusal, Request, Response};
use crate::quorum::{ReplicaInfo, Requirement};
use crate::record::{self, Record};
use crate::types::{Consistency, Digest, Generation, Key, Mono, NodeId};

/// How long a hedge is put off that there is no room for.
const PUT_OFF: Duration = Duration::from_millis(100);

/// How often one operation is planned anew because the ring moved under it.
const MAX_PLANS: u32 = 4;

/// Reads a key for a client.
pub(super) async fn read(inner: &Arc<Inner>, op: &ReadOp) -> Result<ReadOutcome, OpError> {
    if matches!(op.level, Consistency::Serial | Consistency::LocalSerial) && !op.local {
        // Boxed: most reads are of the other kind, and should not carry the room for this.
        return Box::pin(lwt::read(inner, op)).await;
    }
    plain(inner, op).await
}

/// Reads a key at a level that is a number of replicas.
pub(super) async fn plain(inner: &Arc<Inner>, op: &ReadOp) -> Result<ReadOutcome, OpError> {
    inner.snitch.begin_read();
    // One "now" for the whole operation (rule 8), however often it is planned.
    let (started, now) = (inner.env.mono(), inner.env.wall());
    let mut plans = 0;
    loop {
        plans += 1;
        let mut plan =
            inner.plan(Purpose::Read, &op.table, &op.key, op.level, started, op.timeout)?;
        if op.local {
            plan = local_plan(inner, plan)?;
        }
        inner.must_be_possible(&plan)?;
        let mut reading = Reading::new(inner, plan, &op.key);
        if op.receipt {
            reading.log = Some(BTreeMap::new());
        }
        match reading.run().await {
            Ok(Done { merged: record, receipt, .. }) => {
                return Ok(ReadOutcome { record, now, receipt });
            }
            Err(Stop::Replan) if plans < MAX_PLANS => {}
            Err(Stop::Replan) => {
                return Err(OpError::Overloaded { what: "the ring keeps changing".to_owned() });
            }
            Err(Stop::Error(error)) => return Err(error),
        }
    }
}

/// A plan of this node's own copy alone.
fn local_plan(inner: &Inner, mut plan: Plan) -> Result<Plan, OpError> {
    let me = inner.peers.me();
    if !plan.order.contains(&me) {
        let names: Vec<String> = plan.order.iter().map(|&node| inner.name_of(node)).collect();
        return Err(OpError::NotAReplica { replicas: names.join(", ") });
    }
    plan.order = vec![me];
    plan.live = vec![me];
    let alone = [ReplicaInfo { node: me, datacenter: "" }];
    plan.requirement = Requirement::for_read(Consistency::One, &alone, "")
        .map_err(|error| OpError::BadLevel(error.to_string()))?;
    Ok(plan)
}

/// Why a reading ended without a result.
pub(super) enum Stop {
    /// The plan was made by an old epoch; this node has caught up by now.
    Replan,
    /// For good.
    Error(OpError),
}

/// What a replica showed.
#[derive(Debug)]
enum Shown {
    Digest(Option<Digest>),
    /// It knows nothing of the key.
    Absent,
    /// The record, and its stored form.
    Record(Digest, Box<Record>, Bytes),
}

impl Shown {
    fn digest(&self) -> Option<Digest> {
        match self {
            Self::Digest(digest) => *digest,
            Self::Absent => None,
            Self::Record(digest, ..) => Some(*digest),
        }
    }
}

/// A finished reading.
pub(super) struct Done {
    pub(super) merged: Record,
    /// The merged record's stored form; empty when nothing is known of the key.
    pub(super) bytes: Bytes,
    /// The least purge generation of what it was merged from.
    pub(super) generation: Generation,
    /// Replicas that hold at least the merge now.
    pub(super) holders: Vec<NodeId>,
    /// When the first of them was asked.
    pub(super) begun: Mono,
    /// Replicas that answered.
    pub(super) received: usize,
    /// How it went, if somebody asked.
    receipt: Option<Receipt>,
}

/// One reading under way.
pub(super) struct Reading<'a> {
    inner: &'a Arc<Inner>,
    plan: Plan,
    key: &'a Key,
    begun: Mono,
    address: Bytes,
    asked: usize,
    /// What each replica has shown; each is here once. They are few: a list costs less than a map.
    shown: Vec<(NodeId, Shown)>,
    /// The purge generations that they were read at.
    generations: BTreeMap<NodeId, Generation>,
    failed: Failures,
    /// What the receipt will say, if one is wanted.
    log: Option<BTreeMap<NodeId, ReplicaReceipt>>,
    hedged: u32,
    /// The last hedge was put off.
    put_off: bool,
    /// Answers that came without waiting.
    ready: VecDeque<Answer>,
    calls: Calls,
}

impl<'a> Reading<'a> {
    pub(super) fn new(inner: &'a Arc<Inner>, plan: Plan, key: &'a Key) -> Self {
        let address = record::address(plan.table.id, key);
        Self {
            inner,
            plan,
            key,
            begun: inner.env.mono(),
            address,
            asked: 0,
            shown: Vec::new(),
            generations: BTreeMap::new(),
            failed: BTreeMap::new(),
            log: None,
            hedged: 0,
            put_off: false,
            ready: VecDeque::new(),
            calls: Calls::default(),
        }
    }

    /// Contacts, waits, merges, repairs.
    pub(super) async fn run(mut self) -> Result<Done, Stop> {
        for at in 0..self.plan.first_contacts() {
            self.ask_next(if at == 0 { Want::Record } else { Want::Digest });
        }
        loop {
            self.gather().await?;
            // A merge needs a record for each digest that was shown.
            let missing = self.undisclosed();
            if missing.is_empty() {
                break;
            }
            for node in missing {
                self.ask(node, Want::Record);
            }
            self.disclose().await?;
        }
        self.conclude().await
    }

    fn ask_next(&mut self, want: Want) -> bool {
        let Some(&node) = self.plan.order.get(self.asked) else { return false };
        self.asked += 1;
        self.ask(node, want);
        true
    }

    fn ask(&mut self, node: NodeId, want: Want) {
        if let Some(log) = &mut self.log {
            let entry = log.entry(node).or_default();
            entry.role = if want == Want::Record { "data" } else { "digest" };
            "pending".clone_into(&mut entry.answer);
        }
        let (peers, epoch, deadline) = (&self.inner.peers, self.plan.epoch, self.plan.deadline);
        let request =
            Request::Read(Read { table: self.plan.table.id, key: self.key.clone(), want });
        let request = match peers.call_here_at(epoch, node, request, deadline) {
            Ok(response) => return self.ready.push_back((node, want, Ok(response))),
            Err(request) => request,
        };
        let call = peers.call_at(epoch, node, request, deadline);
        let asked = Asked::new(self.inner, node);
        self.calls.push(Box::pin(async move {
            let result = call.await;
            asked.end(&result);
            (node, want, result)
        }));
    }

    fn has_shown(&self, node: NodeId) -> bool {
        self.shown.iter().any(|(other, _)| *other == node)
    }

    fn is_waiting(&self) -> bool {
        !self.ready.is_empty() || !self.calls.is_empty()
    }

    /// Waits until enough replicas have shown what they hold.
    async fn gather(&mut self) -> Result<(), Stop> {
        while !self.plan.requirement.suffices(|node| self.has_shown(node)) {
            if !self.is_waiting() && !self.ask_next(Want::Record) {
                return Err(Stop::Error(self.too_few()));
            }
            let hedge = if self.ready.is_empty() { self.hedge_after() } else { None };
            match self.next_answer(hedge).await {
                Next::Answer(answer) => self.take(answer).await?,
                Next::Hedge => self.hedge(),
                Next::Deadline => return Err(Stop::Error(self.timed_out())),
            }
        }
        Ok(())
    }

    /// Asks one more replica, if the hedges' share of the reads allows that.
    fn hedge(&mut self) {
        let counters = &self.inner.counters;
        self.put_off = !self.inner.snitch.may_hedge(self.inner.env.mono(), self.late());
        if self.put_off {
            counters.hedges_put_off.fetch_add(1, Ordering::Relaxed);
        } else if self.ask_next(Want::Record) {
            self.hedged += 1;
            counters.hedges.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Replicas that were asked and have said nothing yet.
    fn late(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.plan.order[..self.asked]
            .iter()
            .copied()
            .filter(|node| !self.has_shown(*node) && !self.failed.contains_key(node))
    }

    /// Waits until the records asked for by [`Reading::undisclosed`] have come, or their replicas
    /// have failed (and no longer count).
    async fn disclose(&mut self) -> Result<(), Stop> {
        while !self.undisclosed().is_empty() && self.is_waiting() {
            match self.next_answer(None).await {
                Next::Answer(answer) => self.take(answer).await?,
                Next::Hedge => {}
                Next::Deadline => return Err(Stop::Error(self.timed_out())),
            }
        }
        Ok(())
    }

    /// Replicas whose digest no record at hand accounts for; one per digest. Empty when a single
    /// digest, or absence, is all that was shown and its record is there.
    fn undisclosed(&self) -> Vec<NodeId> {
        let is_record = |shown: &Shown| matches!(shown, Shown::Record(..));
        let mut missing: Vec<(Digest, NodeId)> = Vec::new();
        for (node, shown) in &self.shown {
            let Shown::Digest(Some(digest)) = *shown else { continue };
            let at_hand = |other: &Shown| is_record(other) && other.digest() == Some(digest);
            if !self.shown.iter().any(|(_, other)| at_hand(other))
                && !missing.iter().any(|(other, _)| *other == digest)
            {
                missing.push((digest, *node));
            }
        }
        missing.into_iter().map(|(_, node)| node).collect()
    }

    /// True when all that have answered hold the same.
    fn is_agreed(&self) -> bool {
        let mut digests = self.shown.iter().map(|(_, shown)| shown.digest());
        let first = digests.next();
        digests.all(|digest| Some(digest) == first)
    }

    fn hedge_after(&self) -> Option<Duration> {
        if self.asked >= self.plan.order.len() {
            return None;
        }
        let wait = self.late().map(|node| self.inner.snitch.hedge_after(node)).max()?;
        Some(if self.put_off { wait.max(PUT_OFF) } else { wait })
    }

    async fn next_answer(&mut self, hedge: Option<Duration>) -> Next {
        if let Some(answer) = self.ready.pop_front() {
            return Next::Answer(answer);
        }
        let left = self.plan.left(self.inner.env.mono());
        if left.is_zero() {
            return Next::Deadline;
        }
        let (wait, then) = match hedge {
            Some(hedge) if hedge < left => (hedge, Next::Hedge),
            _ => (left, Next::Deadline),
        };
        tokio::select! {
            biased;
            Some(answer) = self.calls.next() => Next::Answer(answer),
            () = self.inner.env.sleep(wait) => then,
        }
    }

    async fn take(&mut self, answer: Answer) -> Result<(), Stop> {
        let (node, want, result) = answer;
        let unsent = again::is_worth_another(&result);
        if let Ok(Response::Record(_, generation) | Response::Digest(_, generation)) = &result {
            let known = self.generations.entry(node).or_insert(*generation);
            // Of a digest and a record, the one that is kept may be the older.
            *known = (*known).min(*generation);
        }
        let failure = match self.understand(want, result).await? {
            Ok(shown) => {
                self.failed.remove(&node);
                self.note(node, "ok", Some(shown.digest()));
                // Late data replaces a digest; a late digest never replaces data.
                match self.shown.iter_mut().find(|(other, _)| *other == node) {
                    None => self.shown.push((node, shown)),
                    Some(_) if matches!(shown, Shown::Digest(_)) => {}
                    Some((_, before)) => *before = shown,
                }
                return Ok(());
            }
            Err(failure) => failure,
        };
        if failure.cause == Cause::Damaged {
            heal_later(self.inner, &self.plan, self.key, node);
        }
        self.shown.retain(|(other, _)| *other != node);
        self.note(node, &failure.said, None);
        self.failed.insert(node, failure);
        self.ask_next(Want::Record);
        if unsent && self.inner.may_try_again(&self.plan, node, self.begun) {
            self.ask_again(node);
        }
        Ok(())
    }

    /// Asks a replica to which nothing was sent once more, in a moment.
    fn ask_again(&mut self, node: NodeId) {
        let (inner, key) = (self.inner.clone(), self.key.clone());
        let (table, epoch, deadline) = (self.plan.table.id, self.plan.epoch, self.plan.deadline);
        self.calls.push(Box::pin(async move {
            inner.env.sleep(again::PAUSE).await;
            let (asked, want) = (Asked::new(&inner, node), Want::Record);
            let request = Request::Read(Read { table, key, want });
            let result = inner.peers.call_at(epoch, node, request, deadline).await;
            asked.end(&result);
            (node, want, result)
        }));
    }

    /// Notes for the receipt, if one is wanted, what a replica said, and what it held.
    fn note(&mut self, node: NodeId, answer: &str, held: Option<Option<Digest>>) {
        let Some(log) = &mut self.log else { return };
        let took = self.inner.env.mono().since(self.plan.started);
        let entry = log.entry(node).or_default();
        answer.clone_into(&mut entry.answer);
        entry.answered_us = Some(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        if let Some(digest) = held {
            entry.digest = digest.map(|digest| digest.to_string());
        }
    }

    /// What an answer shows, or why it shows nothing.
    async fn understand(
        &mut self,
        want: Want,
        result: Result<Response, CallError>,
    ) -> Result<Result<Shown, Failure>, Stop> {
        let response = match result {
            Ok(response) => response,
            Err(error) => return Ok(Err(Failure::from(&error))),
        };
        Ok(match (want, response) {
            (Want::Digest, Response::Digest(digest, _)) => Ok(Shown::Digest(digest)),
            (Want::Record, Response::Record(None, _)) => Ok(Shown::Absent),
            (Want::Record, Response::Record(Some(bytes), _)) => {
                let digest = record::stored_digest(&bytes);
                match digest.and_then(|d| Ok((d, Record::decode(&bytes, &self.address)?))) {
                    Ok((digest, record)) => Ok(Shown::Record(digest, Box::new(record), bytes)),
                    Err(error) => {
                        let said = format!("refused: its record is damaged: {error}");
                        Err(Failure { said, cause: Cause::Damaged })
                    }
                }
            }
            (_, Response::Refused(refusal)) => {
                Box::pin(self.inner.follow(&self.plan, &refusal)).await?;
                Err(Failure::from(&refusal))
            }
            (_, Response::Failed { why }) => Err(Failure::from(why)),
            _ => Err(Failure::from("refused: it answered something else".to_owned())),
        })
    }

    fn receipt(&self, repaired: &[NodeId]) -> Option<Receipt> {
        let (received, hedged) = (self.shown.len(), self.hedged);
        let log = self.log.as_ref()?;
        Some(self.inner.receipt("read", &self.plan, received, log, repaired, hedged))
    }

    fn received(&self) -> u32 {
        u32::try_from(self.shown.len()).unwrap_or(u32::MAX)
    }

    fn timed_out(&self) -> OpError {
        OpError::Timeout {
            level: self.plan.level,
            required: self.plan.required(),
            received: self.received().min(self.plan.required()),
            timeout_ms: u64::try_from(self.plan.timeout.as_millis()).unwrap_or(u64::MAX),
            fate: Fate::NotApplied,
        }
    }

    fn too_few(&self) -> OpError {
        if all_are(&self.failed, Cause::Busy) {
            return OpError::Overloaded { what: self.inner.reasons(&self.failed) };
        }
        OpError::TooFewReplicas {
            level: self.plan.level,
            required: self.plan.required(),
            received: self.received(),
            failed: u32::try_from(self.failed.len()).unwrap_or(u32::MAX),
            reasons: self.inner.reasons(&self.failed),
            who: causes(&self.failed),
            fate: Fate::NotApplied,
        }
    }
}

enum Next {
    Answer(Answer),
    Hedge,
    Deadline,
}

impl Inner {
    /// A refusal that shows a newer epoch: catch up with it and plan again.
    pub(super) async fn follow(&self, plan: &Plan, refusal: &Refusal) -> Result<(), Stop> {
        let (Refusal::StaleEpoch { epoch }
        | Refusal::NotReplica { epoch }
        | Refusal::NoSuchTable { epoch }) = *refusal
        else {
            return Ok(());
        };
        if epoch <= plan.epoch {
            return Ok(());
        }
        if self.cluster.catch_up(epoch, plan.deadline).await {
            return Err(Stop::Replan);
        }
        Ok(())
    }

    /// Who said what, by name, for an error message.
    pub(super) fn reasons(&self, failed: &Failures) -> String {
        let reason =
            |(&node, failure): (_, &Failure)| format!("{}: {}", self.name_of(node), failure.said);
        failed.iter().map(reason).collect::<Vec<_>>().join("; ")
    }

    pub(super) fn receipt(
        &self,
        operation: &'static str,
        plan: &Plan,
        received: usize,
        log: &BTreeMap<NodeId, ReplicaReceipt>,
        repaired: &[NodeId],
        hedged: u32,
    ) -> Receipt {
        let replicas = log
            .iter()
            .map(|(&node, entry)| ReplicaReceipt { node: self.name_of(node), ..entry.clone() })
            .collect();
        let total = self.env.mono().since(plan.started);
        Receipt {
            operation,
            epoch: plan.epoch.0,
            level: plan.level.to_string(),
            n: plan.n(),
            required: plan.required(),
            received: u32::try_from(received).unwrap_or(u32::MAX),
            overlap: self.overlaps(plan),
            stood_in: Vec::new(),
            repaired: repaired.iter().map(|&node| self.name_of(node)).collect(),
            hedged,
            replicas,
            total_us: u64::try_from(total.as_micros()).unwrap_or(u64::MAX),
        }
    }

    /// Notes how fast `node` answered. A refusal says nothing of its speed: a node that refuses
    /// everything at once must not look like the best one to ask.
    pub(super) fn took(&self, node: NodeId, started: Mono, result: &Result<Response, CallError>) {
        if !matches!(result, Ok(Response::Refused(_)) | Err(CallError::NotSent { .. })) {
            self.latencies.record(node, self.env.mono().since(started));
        }
        let now = self.env.mono();
        match result {
            Ok(_) => self.snitch.heard(node),
            Err(CallError::Lost { .. }) => self.snitch.missed(now, node, now.since(started)),
            Err(CallError::NotSent { .. }) => {}
        }
    }

    /// Lets calls under way come to their end by themselves.
    pub(super) fn finish_later<T: Send + 'static>(
        &self,
        name: &'static str,
        mut calls: FuturesUnordered<BoxFuture<'static, T>>,
    ) {
        if !calls.is_empty() {
            self.env.spawn(name, async move { while calls.next().await.is_some() {} });
        }
    }
}
