//! The second half of a write: the version goes to all replicas, and W of them hold it.
//!
//! A replica that does not say that it holds the version gets a hint ([`crate::repair::hints`]),
//! whatever became of the write itself and whether or not anybody still waits for it: the calls are
//! driven to their end by tasks of the node, not by the client's request.

use std::sync::atomic::Ordering;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;

use crate::coordinator::WriteOutcome;
use crate::coordinator::heal::{heal_if_damaged, still_good};
use crate::coordinator::read::Stop;
use crate::coordinator::write::mint::Attempt;
use crate::coordinator::write::{Failure, Version, Writing};
use crate::env::BoxFuture;
use crate::meta::ConflictMode;
use crate::net::messages::Apply;
use crate::net::{CallError, Refusal, Request, Response};
use crate::plants::{Plant, planted};
use crate::quorum::{Progress, Tally};
use crate::types::{Hlc, NodeId};

/// How often a last-write-wins version is minted again above a newer stamp.
const MAX_RESTAMPS: u32 = 4;

type Answer = (NodeId, Result<Response, CallError>);

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
    /// Brings the version to the other replicas until W hold it.
    pub(super) async fn finish(&mut self, mut version: Version) -> Result<WriteOutcome, Stop> {
        self.may_exist = true;
        let lww = self.plan.table.settings.conflict == ConflictMode::Lww;
        for _ in 0..MAX_RESTAMPS {
            let may_rise = lww && !self.is_repeatable() && !planted(Plant::P15);
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
            self.inner.counters.restamps.fetch_add(1, Ordering::Relaxed);
            let first = (version.created, version.replayed);
            let attempt = self.attempt_above(lost_to);
            let known = version.record.clone();
            version = self.mint(Attempt { known, rises: true, ..attempt }).await?;
            (version.created, version.replayed) = first;
        }
        Err(Stop::Error(self.too_few(1)))
    }

    /// Sends the record to every replica that is not known to hold it, and waits until W do. The
    /// calls that have not answered by then go on in the background, whatever the outcome.
    async fn spread(&mut self, version: &Version) -> Result<Spread, Stop> {
        let mut tally = Tally::new(self.plan.requirement.clone(), self.inner.peers.me());
        tally.on_hint(false);
        for &node in &version.holders {
            tally.on_ack(node);
        }
        let mut calls: FuturesUnordered<BoxFuture<'static, Answer>> = FuturesUnordered::new();
        for at in 0..self.plan.order.len() {
            let node = self.plan.order[at];
            if !version.holders.contains(&node) {
                calls.push(self.apply_at(node, version));
                self.note_pending(node);
            }
        }
        let result = self.gather(&mut tally, &mut calls).await;
        self.inner.finish_later("replicate-rest", calls);
        result
    }

    fn apply_at(&self, node: NodeId, version: &Version) -> BoxFuture<'static, Answer> {
        let request = Request::Apply(Apply {
            table: self.plan.table.id,
            key: self.op.key.clone(),
            record: version.record.clone(),
            heals: false,
        });
        let (inner, started) = (self.inner.clone(), self.inner.env.mono());
        let (plan, key) = (self.plan.clone(), self.op.key.clone());
        let (record, owed) = (version.record.clone(), inner.hints.owe());
        Box::pin(async move {
            let result = inner.call_until_sent(&plan, node, request).await;
            inner.took(node, started, &result);
            if has_missed(&result) {
                // In a task of its own: the answer to the client does not wait for it.
                let (hints, table, key) = (inner.hints.clone(), plan.table.id, key.clone());
                inner.env.spawn("hint", async move {
                    hints.leave(node, table, &key, &record).await;
                    drop(owed);
                });
            }
            // Here, so that damage is met too by those who answer when nobody waits any more.
            if let Ok(Response::Refused(refusal)) = &result {
                heal_if_damaged(&inner, &plan, &key, node, refusal);
            }
            (node, result)
        })
    }

    /// Counts answers until W are in.
    async fn gather(
        &mut self,
        tally: &mut Tally,
        calls: &mut FuturesUnordered<BoxFuture<'static, Answer>>,
    ) -> Result<Spread, Stop> {
        let mut newer: Option<Hlc> = None;
        while tally.progress() == Progress::Pending {
            let left = self.plan.left(self.inner.env.mono());
            tokio::select! {
                biased;
                Some((node, result)) = calls.next() => {
                    match self.judge(result).await? {
                        Ok(stamp) => {
                            tally.on_ack(node);
                            self.failed.remove(&node);
                            newer = newer.max(stamp);
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
                }
                () = self.inner.env.sleep(left) => {
                    return Err(Stop::Error(self.timed_out(tally.received())));
                }
            }
        }
        if tally.progress() == Progress::OutOfReach {
            return Err(Stop::Error(self.too_few(tally.received())));
        }
        Ok(Spread { received: tally.acked().len(), newer })
    }

    /// Whether a replica holds the version now; with the stamp of what wins over it, if it says
    /// that something does.
    async fn judge(
        &self,
        result: Result<Response, CallError>,
    ) -> Result<Result<Option<Hlc>, Failure>, Stop> {
        Ok(match result {
            Ok(Response::Applied { dominated: false, .. }) => Ok(None),
            Ok(Response::Applied { dominated: true, stamp }) => Ok(Some(stamp)),
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
