//! The second half of a write: the version goes to all replicas, and W of them hold it.
//!
//! A replica that does not say that it holds the version gets a hint ([`crate::repair::hints`]),
//! whatever became of the write itself and whether or not anybody still waits for it: the calls are
//! driven to their end by tasks of the node, not by the client's request.
//!
//! In a sloppy table other nodes stand in for replicas that are away
//! ([`crate::coordinator::stand_in`]).

use std::sync::atomic::Ordering;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;

use crate::coordinator::WriteOutcome;
use crate::coordinator::failure::Failure;
use crate::coordinator::generations::Dated;
use crate::coordinator::heal::{heal_if_damaged, still_good};
use crate::coordinator::read::Stop;
use crate::coordinator::stand_in::StandIns;
use crate::coordinator::write::{Version, Writing};
use crate::env::BoxFuture;
use crate::meta::ConflictMode;
use crate::net::messages::{Apply, Keep};
use crate::net::{CallError, Refusal, Request, Response};
use crate::plants::{Plant, planted};
use crate::quorum::{Progress, Tally};
use crate::types::{Hlc, NodeId};

/// What a node said to a version.
struct Answer {
    node: NodeId,
    /// The replica in whose place it was asked, if it is none itself.
    stands_for: Option<NodeId>,
    result: Result<Response, CallError>,
}

type Answers = FuturesUnordered<BoxFuture<'static, Answer>>;

/// What the replicas said to a version.
struct Spread {
    /// Answers that count.
    received: usize,
    /// The greatest stamp of a version that wins over it.
    newer: Option<Hlc>,
}

/// Whether a replica may have missed the record, so that it is kept for it. Not after a refusal
/// that says "no replica of this key": those who are get the record by another plan.
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

impl Writing<'_> {
    /// Brings the version to the other replicas until W hold it. A last-write-wins version that is
    /// found to have lost is minted again, once: above all that a majority shows, and so above all
    /// that was acknowledged before this write began. What wins over it after that is concurrent.
    pub(super) async fn finish(&mut self, mut version: Version) -> Result<WriteOutcome, Stop> {
        self.may_exist = true;
        let lww = self.plan.table.settings.conflict == ConflictMode::Lww;
        let mut may_rise = lww && !self.is_repeatable() && !planted(Plant::P15);
        loop {
            let mut lost_to = version.lost_to.filter(|_| may_rise);
            let mut received = 0;
            if lost_to.is_none() {
                let spread = self.spread(&version).await?;
                still_good(version.asked, self.inner.env.mono())?;
                lost_to = spread.newer.filter(|_| may_rise);
                received = spread.received;
            }
            let Some(lost_to) = lost_to else {
                return Ok(self.outcome(&version, received));
            };
            may_rise = false;
            self.inner.counters.restamps.fetch_add(1, Ordering::Relaxed);
            let seen = self.majority().await?;
            // As an operation of its own: nobody else knows the first one's id, and replicas that
            // remember it would take this one for a repeat.
            let newest = seen.merged.op_entries().last().map(|entry| entry.op);
            self.id = self.inner.new_op_id(newest);
            let first = (version.created, version.replayed);
            let attempt = self.attempt_above(lost_to.max(seen.merged.max_stamp()));
            version = self.mint(attempt).await?;
            (version.created, version.replayed) = first;
        }
    }

    /// Sends the record to every replica that is not known to hold it, and waits until W do. The
    /// calls that have not answered by then go on in the background, whatever the outcome.
    async fn spread(&mut self, version: &Version) -> Result<Spread, Stop> {
        let mut tally = Tally::new(self.plan.requirement.clone(), self.inner.peers.me());
        tally.on_hint(false);
        for &node in &version.holders {
            tally.on_ack(node);
        }
        let mut calls = Answers::new();
        for at in 0..self.plan.order.len() {
            let node = self.plan.order[at];
            if !version.holders.contains(&node) {
                calls.push(self.apply_at(node, version));
                self.note_asked(node, "apply");
            }
        }
        let result = self.gather(version, &mut tally, &mut calls).await;
        self.inner.finish_later("replicate-rest", calls);
        result
    }

    fn apply_at(&self, node: NodeId, version: &Version) -> BoxFuture<'static, Answer> {
        let (record, generation) = (version.record.clone(), version.generation);
        let (mut dated, source) = (Dated { record, generation }, version.holders.first().copied());
        let (inner, started) = (self.inner.clone(), self.inner.env.mono());
        let (plan, key) = (self.plan.clone(), self.op.key.clone());
        let owed = inner.hints.owe();
        Box::pin(async move {
            let result = inner.apply_dated(&plan, &key, node, source, &mut dated).await;
            inner.took(node, started, &result);
            if has_missed(&result) {
                // In a task of its own: the answer to the client does not wait for it.
                let (hints, table, key) = (inner.hints.clone(), plan.table.id, key.clone());
                inner.env.spawn("hint", async move {
                    let Dated { record, generation } = dated;
                    hints.leave(node, table, &key, &record, generation).await;
                    drop(owed);
                });
            }
            // Here, so that damage is met too by those who answer when nobody waits any more.
            if let Ok(Response::Refused(refusal)) = &result {
                heal_if_damaged(&inner, &plan, &key, node, refusal);
            }
            Answer { node, stands_for: None, result }
        })
    }

    /// Counts answers until W are in.
    async fn gather(
        &mut self,
        version: &Version,
        tally: &mut Tally,
        calls: &mut Answers,
    ) -> Result<Spread, Stop> {
        let mut newer: Option<Hlc> = None;
        let mut stand_ins = self.inner.stand_ins(&self.plan);
        let (begun, patience) = (self.inner.env.mono(), self.plan.stand_in_after());
        loop {
            let waited = self.inner.env.mono().since(begun);
            self.stand_in(version, tally, &mut stand_ins, waited >= patience, calls);
            match tally.progress() {
                Progress::Reached => break,
                Progress::OutOfReach if !stand_ins.may_help() => {
                    return Err(Stop::Error(self.too_few(tally.received())));
                }
                Progress::OutOfReach | Progress::Pending => {}
            }
            let left = self.plan.left(self.inner.env.mono());
            let until_late = (self.plan.is_sloppy() && waited < patience)
                .then(|| patience - waited)
                .filter(|wait| *wait < left);
            tokio::select! {
                biased;
                Some(answer) = calls.next() => {
                    self.count(answer, tally, &mut stand_ins, &mut newer).await?;
                }
                () = self.inner.env.sleep(until_late.unwrap_or(left)) => {
                    if until_late.is_none() {
                        return Err(Stop::Error(self.timed_out(tally.received())));
                    }
                }
            }
        }
        self.stood_in = stand_ins.kept().clone();
        Ok(Spread { received: tally.acked().len(), newer })
    }

    /// Counts one answer.
    async fn count(
        &mut self,
        answer: Answer,
        tally: &mut Tally,
        stand_ins: &mut StandIns,
        newer: &mut Option<Hlc>,
    ) -> Result<(), Stop> {
        let Answer { node, stands_for, result } = answer;
        if let Some(replica) = stands_for {
            return self.count_keeper(node, replica, result, tally, stand_ins).await;
        }
        match self.judge(result).await? {
            Ok(stamp) => {
                tally.on_ack(node);
                self.failed.remove(&node);
                *newer = (*newer).max(stamp);
                // In a second round the receipt still shows what made it needed.
                let before = self.log.get(&node).map(|entry| entry.answer.as_str());
                let said = match (before, stamp) {
                    (Some("dominated"), None) => "dominated; ok",
                    (_, Some(_)) => "dominated",
                    (_, None) => "ok",
                };
                self.note(node, "apply", said.to_owned());
            }
            Err(failure) => {
                tally.on_fail(node);
                self.note_failure(node, "apply", failure);
            }
        }
        Ok(())
    }

    /// The same for one that was to stand in for `replica`.
    async fn count_keeper(
        &mut self,
        keeper: NodeId,
        replica: NodeId,
        result: Result<Response, CallError>,
        tally: &mut Tally,
        stand_ins: &mut StandIns,
    ) -> Result<(), Stop> {
        let kept = matches!(result, Ok(Response::Kept));
        stand_ins.answered(replica, kept);
        if kept {
            self.inner.counters.stand_ins.fetch_add(1, Ordering::Relaxed);
            tally.on_ack(replica);
            self.note(keeper, "keep", "ok".to_owned());
        } else if let Err(failure) = self.judge(result).await? {
            self.note(keeper, "keep", failure.said);
        }
        Ok(())
    }

    /// Asks other nodes to stand in for replicas, as far as the level cannot be reached without
    /// them. `late`: a replica that has not answered by now counts as one that is away.
    fn stand_in(
        &mut self,
        version: &Version,
        tally: &Tally,
        stand_ins: &mut StandIns,
        late: bool,
        calls: &mut Answers,
    ) {
        if !self.plan.is_sloppy() {
            return;
        }
        let is_expected = |node: NodeId| {
            !late && !tally.failed().contains(&node) && self.plan.live.contains(&node)
        };
        let (mut counted, mut away) = (Vec::new(), Vec::new());
        for &node in &self.plan.replicas {
            let counts = tally.acked().contains(&node) || stand_ins.stands_for(node);
            if counts || is_expected(node) {
                counted.push(node);
            } else {
                away.push(node);
            }
        }
        for replica in away {
            if self.plan.requirement.alive_suffices(&counted) {
                return;
            }
            let datacenter = self.inner.datacenter_of(replica);
            let Some(keeper) = stand_ins.pick(replica, &datacenter) else { continue };
            counted.push(replica);
            calls.push(self.keep_at(keeper, replica, version));
            self.note_asked(keeper, "keep");
        }
    }

    fn keep_at(
        &self,
        keeper: NodeId,
        replica: NodeId,
        version: &Version,
    ) -> BoxFuture<'static, Answer> {
        let apply = Apply {
            table: self.plan.table.id,
            key: self.op.key.clone(),
            record: version.record.clone(),
            generation: version.generation,
            heals: false,
        };
        let request = Request::Keep(Keep { replica, apply });
        let (epoch, deadline) = (self.plan.epoch, self.plan.deadline);
        let call = self.inner.peers.call_at(epoch, keeper, request, deadline);
        Box::pin(
            async move { Answer { node: keeper, stands_for: Some(replica), result: call.await } },
        )
    }

    /// Whether a replica holds the version now; with the stamp of what wins over it, if it says
    /// that something does.
    async fn judge(
        &self,
        result: Result<Response, CallError>,
    ) -> Result<Result<Option<Hlc>, Failure>, Stop> {
        Ok(match result {
            Ok(Response::Applied { dominated: false, .. }) => Ok(None),
            Ok(Response::Applied { dominated: true, stamp, .. }) => Ok(Some(stamp)),
            Ok(Response::Refused(refusal)) => {
                self.inner.follow(&self.plan, &refusal).await?;
                Err(Failure::from(&refusal))
            }
            Ok(Response::Failed { why }) => Err(why.into()),
            Ok(_) => Err("it answered something else".to_owned().into()),
            Err(error) => Err(error.to_string().into()),
        })
    }
}
