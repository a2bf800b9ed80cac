//! The end of a reading: one answer out of all that was shown, and replicas that were behind brought
//! up to it.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;

use crate::coordinator::OpError;
use crate::coordinator::failure::Failure;
use crate::coordinator::heal::{heal_if_damaged, still_good};
use crate::coordinator::read::{Done, Reading, Shown, Stop};
use crate::env::BoxFuture;
use crate::net::messages::Apply;
use crate::net::{Refusal, Request, Response};
use crate::plants::{Plant, planted};
use crate::record::{self, Record};
use crate::types::{Generation, NodeId};

/// Of the planted bug that answers first: when it comes to repairing.
const LATE_REPAIR: Duration = Duration::from_millis(500);

impl Reading<'_> {
    /// Merges what was shown, brings up who was behind, and is done.
    pub(super) async fn conclude(mut self) -> Result<Done, Stop> {
        let (begun, received) = (self.begun, self.shown.len());
        if self.is_agreed() {
            self.must_still_be_good()?;
            let (merged, bytes) = self.the_one()?;
            let holders = self.shown.iter().map(|(node, _)| *node).collect();
            let receipt = self.receipt(&[]);
            let generation = self.generation();
            return Ok(Done { merged, bytes, generation, holders, begun, received, receipt });
        }
        // Boxed, as it is rare and needs much room.
        Box::pin(self.make_agree()).await
    }

    /// The same, where replicas have shown different things.
    async fn make_agree(mut self) -> Result<Done, Stop> {
        let (begun, received) = (self.begun, self.shown.len());
        self.bring_together().await?;
        let merged = self.merged()?;
        let bytes = merged.encode(&self.address);
        let target = record::stored_digest(&bytes).ok();
        let is_holder = |shown: &Shown| shown.digest() == target;
        let nodes = |holds: bool| {
            let nodes = self.shown.iter().filter(|(_, shown)| is_holder(shown) == holds);
            nodes.map(|(node, _)| *node).collect::<Vec<_>>()
        };
        let (mut holders, behind) = (nodes(true), nodes(false));
        let mut repaired = Vec::new();
        if !behind.is_empty() && !merged.is_blank() {
            self.inner.counters.mismatches.fetch_add(1, Ordering::Relaxed);
            if self.plan.is_quorum() && !planted(Plant::P23) {
                let done = self.repair(&bytes, behind, holders).await?;
                (holders, repaired) = done;
            } else {
                self.repair_later(&bytes, &behind);
                repaired = behind;
            }
        }
        self.must_still_be_good()?;
        let receipt = self.receipt(&repaired);
        let generation = self.generation();
        Ok(Done { merged, bytes, generation, holders, begun, received, receipt })
    }

    /// The least purge generation of those that were shown.
    fn generation(&self) -> Generation {
        let of = |(node, _): &(NodeId, Shown)| self.generations.get(node).copied();
        self.shown.iter().filter_map(of).min().unwrap_or_default()
    }

    /// Replicas differ: perhaps because one of them has purged the key and another has yet to do
    /// so. Then that one is told to, and all are asked again.
    async fn bring_together(&mut self) -> Result<(), Stop> {
        let newest = self.generations.values().max().copied().unwrap_or_default();
        let behind = self.shown.iter().map(|(node, _)| *node).filter(|node| {
            self.generations.get(node).is_some_and(|generation| *generation < newest)
        });
        let behind: Vec<NodeId> = behind.collect();
        if behind.is_empty() {
            return Ok(());
        }
        for node in behind {
            self.inner.advance(&self.plan, self.key, node, newest).await;
        }
        Err(Stop::Replan)
    }

    /// Refuses to answer by a quorum that was asked too long ago.
    fn must_still_be_good(&self) -> Result<(), Stop> {
        if !self.plan.is_quorum() {
            return Ok(());
        }
        still_good(self.begun, self.inner.env.mono())
    }

    /// What all have shown, as it is stored: an equal digest means equal bytes.
    fn the_one(&mut self) -> Result<(Record, Bytes), Stop> {
        let kind = self.plan.table.record_kind();
        let found = self.shown.iter_mut().find_map(|(_, shown)| match shown {
            Shown::Record(digest, ..) => {
                let digest = Some(*digest);
                Some(std::mem::replace(shown, Shown::Digest(digest)))
            }
            Shown::Digest(_) | Shown::Absent => None,
        });
        match found {
            Some(Shown::Record(_, record, bytes)) if record.kind() == kind => Ok((*record, bytes)),
            Some(_) => Err(of_different_kinds()),
            None => Ok((Record::empty(kind), Bytes::new())),
        }
    }

    fn merged(&self) -> Result<Record, Stop> {
        let mut merged = Record::empty(self.plan.table.record_kind());
        for (_, shown) in &self.shown {
            if let Shown::Record(_, record, _) = shown {
                merged.merge(record).map_err(|_| of_different_kinds())?;
            }
        }
        Ok(merged)
    }

    fn apply(&self, bytes: &Bytes) -> Request {
        Request::Apply(Apply {
            table: self.plan.table.id,
            key: self.key.clone(),
            record: bytes.clone(),
            generation: self.generation(),
            heals: false,
        })
    }

    fn repair_later(&self, bytes: &Bytes, behind: &[NodeId]) {
        for &node in behind {
            self.inner.counters.repairs.fetch_add(1, Ordering::Relaxed);
            let call = self.inner.peers.call_at(
                self.plan.epoch,
                node,
                self.apply(bytes),
                self.plan.deadline,
            );
            let env = self.inner.env.clone();
            self.inner.env.spawn("read-repair", async move {
                if planted(Plant::P23) {
                    env.sleep(LATE_REPAIR).await;
                }
                drop(call.await);
            });
        }
    }

    /// Sends the merge to those `behind` until enough replicas hold it. A replica that fails is
    /// replaced by one that had not been asked, and one that is slow gets company as reads do. What
    /// is still under way then goes on by itself.
    async fn repair(
        &mut self,
        bytes: &Bytes,
        behind: Vec<NodeId>,
        mut holders: Vec<NodeId>,
    ) -> Result<(Vec<NodeId>, Vec<NodeId>), Stop> {
        let mut calls: FuturesUnordered<BoxFuture<'static, _>> = FuturesUnordered::new();
        let mut repaired = Vec::new();
        let mut spare: Vec<NodeId> =
            self.plan.order.iter().rev().copied().filter(|&node| !self.has_shown(node)).collect();
        let of = |node: &NodeId| self.inner.latencies.slowest(*node);
        let slowest = behind.iter().map(of).max().unwrap_or_default();
        let mut wanted = behind;
        let outcome = loop {
            for node in wanted.drain(..) {
                self.inner.counters.repairs.fetch_add(1, Ordering::Relaxed);
                let call = self.inner.peers.call_at(
                    self.plan.epoch,
                    node,
                    self.apply(bytes),
                    self.plan.deadline,
                );
                calls.push(Box::pin(async move { (node, call.await) }));
            }
            if self.plan.requirement.alive_suffices(&holders) {
                break Ok(());
            }
            if calls.is_empty() {
                break Err(self.too_few());
            }
            let left = self.plan.left(self.inner.env.mono());
            let hedge = (!spare.is_empty()).then_some(slowest).filter(|slowest| *slowest < left);
            let (node, result) = tokio::select! {
                biased;
                Some(answer) = calls.next() => answer,
                () = self.inner.env.sleep(hedge.unwrap_or(left)) => {
                    if hedge.is_none() {
                        break Err(self.timed_out());
                    }
                    wanted.extend(spare.pop());
                    continue;
                }
            };
            match result {
                Ok(Response::Applied { .. }) => {
                    holders.push(node);
                    repaired.push(node);
                }
                Ok(Response::Refused(refusal)) => {
                    heal_if_damaged(self.inner, &self.plan, self.key, node, &refusal);
                    self.inner.follow(&self.plan, &refusal).await?;
                    if matches!(refusal, Refusal::OtherGeneration { .. }) {
                        return Err(Stop::Replan);
                    }
                    self.failed.insert(node, Failure::from(&refusal));
                    wanted.extend(spare.pop());
                }
                Ok(_) => wanted.extend(spare.pop()),
                Err(error) => {
                    self.failed.insert(node, Failure::from(&error));
                    wanted.extend(spare.pop());
                }
            }
        };
        self.inner.finish_later("read-repair", calls);
        outcome.map(|()| (holders, repaired)).map_err(Stop::Error)
    }
}

fn of_different_kinds() -> Stop {
    let why = "replicas hold records of different kinds".to_owned();
    Stop::Error(OpError::NotSupported(why))
}
