//! The first half of a write: one replica makes the version.
//!
//! # Stamps
//!
//! In a last-write-wins table the stamp is chosen here. All attempts to mint carry one stamp, until
//! it is known that none of them has made, or will make, a version that counts:
//! - the replica refused it as outranked, and no earlier attempt is without an answer; or
//! - a majority, read after an attempt without an answer, holds a greater stamp: whatever that
//!   attempt may yet do, it has lost already.
//!
//! Then the coordinator chooses again, above what it was told of. (The other case is a version that
//! was made and is found to have lost, on a replica or in what a majority shows:
//! [`Writing::finish`].) So of the attempts that
//! may still be under way when a write is acknowledged, none has a greater stamp than the write
//! itself, and a write that begins after that wins over them all.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;

use crate::coordinator::again;
use crate::coordinator::heal::heal_if_damaged;
use crate::coordinator::read::Stop;
use crate::coordinator::write::{Failure, Version, Writing};
use crate::coordinator::{OpError, WriteAction};
use crate::meta::ConflictMode;
use crate::net::messages::{Action, Mint, Minted};
use crate::net::{CallError, Refusal, Request, Response};
use crate::plants::{Plant, planted};
use crate::types::{Hlc, NodeId, WallMicros};

/// A mint is given up on, and sent to a second replica, no sooner than this.
const MIN_MINT_WAIT: Duration = Duration::from_millis(100);

/// How often one replica is asked again under a greater stamp. Each time it is because another
/// write of the key came first.
const MAX_CHOICES: u32 = 32;

enum MintAnswer {
    Made(Minted),
    /// It did not happen there and will not.
    Refused,
    /// The same: nothing of it has left this node.
    NotSent,
    /// The same; a version with this stamp stands in its way.
    Outranked(Hlc),
    /// It may have happened.
    Lost,
}

/// What an attempt to mint carries beside the operation.
#[derive(Clone)]
struct Attempt {
    /// What a majority holds, where that was asked.
    known: Bytes,
    stamp: Hlc,
    rises: bool,
}

impl Writing<'_> {
    /// Has one replica make the version, going on to the next while that is safe. `known` is what
    /// a majority holds, where that was asked; `lost_to` the stamp of a version that wins over the
    /// operation's first one.
    pub(super) async fn mint(
        &mut self,
        known: Bytes,
        lost_to: Option<Hlc>,
    ) -> Result<Version, Stop> {
        let stamp = self.choose_stamp(lost_to.unwrap_or_default());
        let mut attempt = Attempt { known, stamp, rises: lost_to.is_some() };
        // The last attempt has brought no answer; some attempt with the present stamp has not.
        let (mut lost, mut open) = (false, false);
        let live = |node: &NodeId| self.plan.live.contains(node);
        let mut to_ask: Vec<NodeId> = self.plan.order.iter().copied().filter(live).collect();
        let begun = self.inner.env.mono();
        while !to_ask.is_empty() {
            let mut unsent = Vec::new();
            for node in to_ask {
                if lost {
                    // Rule 3: what was sent before may have happened.
                    self.inner.counters.second_mints.fetch_add(1, Ordering::Relaxed);
                    let seen = self.majority().await?;
                    if let Some(first) = self.remembered(&seen)? {
                        return Ok(first);
                    }
                    let held = seen.merged.max_stamp();
                    if held >= attempt.stamp {
                        attempt.stamp = self.choose_stamp(held);
                        open = false;
                    }
                    attempt.known = seen.bytes;
                    lost = false;
                }
                let (asked, is_first) = (self.inner.env.mono(), !self.may_exist);
                match self.mint_here(node, &mut attempt, open).await? {
                    MintAnswer::Made(minted) => {
                        return Ok(Version {
                            record: minted.record,
                            dot: minted.dot,
                            stamp: minted.stamp,
                            created: minted.created,
                            siblings: minted.siblings,
                            replayed: minted.replayed,
                            // Not one of this request's own attempts made it.
                            settled: minted.replayed && is_first,
                            lost_to: (minted.stamp == Hlc(0)).then_some(Hlc(0)),
                            holders: vec![node],
                            asked,
                        });
                    }
                    MintAnswer::Refused | MintAnswer::Outranked(_) => {}
                    MintAnswer::NotSent => unsent.push(node),
                    MintAnswer::Lost => (lost, open) = (true, true),
                }
            }
            unsent.retain(|&node| self.inner.may_try_again(&self.plan, node, begun));
            if !unsent.is_empty() {
                self.inner.env.sleep(again::PAUSE).await;
            }
            to_ask = unsent;
        }
        Err(Stop::Error(if self.inner.env.mono() >= self.plan.deadline {
            self.timed_out(0)
        } else {
            self.too_few(0)
        }))
    }

    /// Asks one replica; again under a greater stamp where that is safe.
    async fn mint_here(
        &mut self,
        node: NodeId,
        attempt: &mut Attempt,
        open: bool,
    ) -> Result<MintAnswer, Stop> {
        for _ in 0..MAX_CHOICES {
            match self.mint_at(node, attempt).await? {
                MintAnswer::Outranked(held) if !open => {
                    self.inner.counters.restamps.fetch_add(1, Ordering::Relaxed);
                    attempt.stamp = self.choose_stamp(held);
                }
                answer => return Ok(answer),
            }
        }
        Ok(MintAnswer::Refused)
    }

    /// A stamp above `floor`, above what the writer has read, and above all that this node has
    /// seen.
    fn choose_stamp(&self, floor: Hlc) -> Hlc {
        if self.plan.table.settings.conflict != ConflictMode::Lww {
            return Hlc(0);
        }
        if planted(Plant::P15) {
            return Hlc(self.inner.env.wall().0);
        }
        let clock = &self.inner.peers.stamps().clock;
        let floor = floor.max(self.context.stamp());
        let stamp = Hlc(clock.tick().0.max(floor.0.saturating_add(1)));
        // Too far ahead: then the replicas refuse it, and say so.
        let _ = clock.observe(stamp);
        stamp
    }

    async fn mint_at(&mut self, node: NodeId, attempt: &Attempt) -> Result<MintAnswer, Stop> {
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
            known: attempt.known.clone(),
            stamp: attempt.stamp,
            rises: attempt.rises,
        });
        let result = self.inner.peers.call_at(self.plan.epoch, node, request, deadline).await;
        self.inner.took(node, now, &result);
        match result {
            Ok(Response::Minted(minted)) => {
                self.may_exist = true;
                self.failed.remove(&node);
                self.note(node, "mint", "ok".to_owned());
                Ok(MintAnswer::Made(minted))
            }
            Ok(Response::Refused(refusal)) => {
                heal_if_damaged(self.inner, &self.plan, &self.op.key, node, &refusal);
                self.note_failure(node, "mint", Failure::from(&refusal));
                self.give_up_on(&refusal)?;
                self.inner.follow(&self.plan, &refusal).await?;
                Ok(match refusal {
                    Refusal::Outranked { stamp } => MintAnswer::Outranked(stamp),
                    _ => MintAnswer::Refused,
                })
            }
            Err(error @ CallError::NotSent { .. }) => {
                self.note_failure(node, "mint", error.to_string().into());
                Ok(MintAnswer::NotSent)
            }
            Ok(Response::Failed { why }) => Ok(self.lost(node, why)),
            Ok(_) => Ok(self.lost(node, "it answered something else".to_owned())),
            Err(error @ CallError::Lost { .. }) => Ok(self.lost(node, error.to_string())),
        }
    }

    /// A mint that may have happened.
    fn lost(&mut self, node: NodeId, why: String) -> MintAnswer {
        self.may_exist = true;
        self.note_failure(node, "mint", why.into());
        MintAnswer::Lost
    }

    /// Refusals that no other replica would answer differently.
    fn give_up_on(&mut self, refusal: &Refusal) -> Result<(), Stop> {
        Err(Stop::Error(match refusal {
            Refusal::OperationReused => OpError::OperationReused,
            Refusal::OperationForgotten { .. } if self.op.op.is_some() => OpError::OperationExpired,
            Refusal::OperationForgotten { oldest } => {
                self.id_floor = Some(*oldest);
                return Err(Stop::Replan);
            }
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
}
