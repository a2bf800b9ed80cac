//! The first half of a write: one replica makes the version.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;

use crate::coordinator::heal::heal_if_damaged;
use crate::coordinator::read::Stop;
use crate::coordinator::write::{Failure, Version, Writing};
use crate::coordinator::{OpError, WriteAction};
use crate::net::messages::{Action, Mint, Minted};
use crate::net::{CallError, Refusal, Request, Response};
use crate::types::{Hlc, NodeId, WallMicros};

/// A mint is given up on, and sent to a second replica, no sooner than this.
const MIN_MINT_WAIT: Duration = Duration::from_millis(100);

enum MintAnswer {
    Made(Minted),
    /// It did not happen there and will not.
    Refused,
    /// It may have happened.
    Lost,
}

impl Writing<'_> {
    /// Has one replica make the version, going on to the next while that is safe. `known` is what
    /// a majority holds, where that was asked; `above` a stamp that the version must exceed.
    pub(super) async fn mint(&mut self, mut known: Bytes, above: Hlc) -> Result<Version, Stop> {
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
                        stamp: minted.stamp,
                        created: minted.created,
                        siblings: minted.siblings,
                        replayed: minted.replayed,
                        settled: false,
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
        self.inner.took(node, now, &result);
        let refused = match result {
            Ok(Response::Minted(minted)) => {
                self.may_exist = true;
                self.failed.remove(&node);
                self.note(node, "mint", "ok".to_owned());
                return Ok(MintAnswer::Made(minted));
            }
            Ok(Response::Refused(refusal)) => {
                heal_if_damaged(self.inner, &self.plan, &self.op.key, node, &refusal);
                self.note_failure(node, "mint", Failure::from(&refusal));
                self.give_up_on(&refusal)?;
                self.inner.follow(&self.plan, &refusal).await?;
                return Ok(MintAnswer::Refused);
            }
            Err(error @ CallError::NotSent { .. }) => error.to_string(),
            Ok(Response::Failed { why }) => return Ok(self.lost(node, why)),
            Ok(_) => return Ok(self.lost(node, "it answered something else".to_owned())),
            Err(error @ CallError::Lost { .. }) => return Ok(self.lost(node, error.to_string())),
        };
        self.note_failure(node, "mint", refused.into());
        Ok(MintAnswer::Refused)
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
