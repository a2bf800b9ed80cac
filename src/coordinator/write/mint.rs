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
//! Then the coordinator chooses again, above what it was told of. So of the attempts that may still
//! be under way when a write is acknowledged, none has a greater stamp than the write itself, and a
//! write that begins after that wins over them all. (A version that was made, and is then found to
//! have lost on a replica or in what a majority shows, is followed by one more, an operation of its
//! own: [`Writing::finish`].)
//!
//! # Operations that a client repeats
//!
//! One with the client's own id may be under way through several coordinators at once: the client
//! hangs up on one and asks another. What the first still does must not come after what was
//! acknowledged to the client since. So each attempt *first* chooses its stamp and *then* reads a
//! majority (as it must anyhow, to see whether the operation has run), and chooses and reads again
//! while that shows a stamp as great. Two things follow.
//! - A write that was acknowledged before the attempt has a smaller stamp, as a majority shows it.
//!   Whatever wins over the version is concurrent with it, and the version is never minted again
//!   above that: an attempt that did so late would put the operation over all that came since.
//! - Every message carries its sender's clock, so a majority's clocks are above the stamp before
//!   anything is minted with it. A later attempt reads a majority too, hears from one of those, and
//!   chooses a greater stamp: an earlier attempt that is carried out late has lost to it.
//!
//! The second rests on the clock of a replica that both majorities share. It is as durable as the
//! records are, not more: should exactly that replica restart between the two attempts, it is back
//! at the clock on its wall, and a late attempt of a coordinator whose clock is fast by more than
//! the time that the restart took may win over what follows the repeat.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;

use crate::coordinator::again;
use crate::coordinator::failure::Failure;
use crate::coordinator::heal::heal_if_damaged;
use crate::coordinator::read::{Done, Stop};
use crate::coordinator::write::{Version, Writing};
use crate::coordinator::{OpError, WriteAction};
use crate::meta::ConflictMode;
use crate::net::messages::{Action, Mint, Minted};
use crate::net::{CallError, Refusal, Request, Response};
use crate::plants::{Plant, planted};
use crate::types::{Generation, Hlc, NodeId, WallMicros};

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
    /// Another attempt has, meanwhile.
    Ran(Box<Version>),
}

/// What an attempt to mint carries beside the operation.
pub(super) struct Attempt {
    /// What a majority holds, where that was asked, and the purge generation of that.
    pub(super) known: (Bytes, Generation),
    /// The version's stamp, where stamps decide.
    pub(super) stamp: Hlc,
}

/// What a majority showed before an attempt to mint.
pub(super) enum Before {
    /// The operation has run: its first outcome.
    Ran(Version),
    /// It has not, and nothing there has as great a stamp as the attempt.
    Not(Box<Done>),
}

impl Writing<'_> {
    /// An attempt with a stamp above `floor`.
    pub(super) fn attempt_above(&self, floor: Hlc) -> Attempt {
        let known = (Bytes::new(), Generation::default());
        Attempt { known, stamp: self.choose_stamp(floor) }
    }

    /// Whether somebody else may attempt the same operation at the same time, through another
    /// node: a client that repeats it.
    pub(super) fn is_repeatable(&self) -> bool {
        self.op.op.is_some()
    }

    /// Reads a majority for the operation, until the attempt's stamp is above all that it holds.
    /// A new stamp is one that the majority must hear of too, where others may attempt the same.
    pub(super) async fn look_before(&self, attempt: &mut Attempt) -> Result<Before, Stop> {
        for _ in 0..MAX_CHOICES {
            let seen = self.majority().await?;
            if let Some(first) = self.remembered(&seen)? {
                return Ok(Before::Ran(first));
            }
            let held = seen.merged.max_stamp();
            if !self.is_lww() || held < attempt.stamp {
                return Ok(Before::Not(Box::new(seen)));
            }
            attempt.stamp = self.choose_stamp(held);
            if !self.is_repeatable() {
                return Ok(Before::Not(Box::new(seen)));
            }
        }
        Err(Stop::Error(self.too_few(0)))
    }

    /// Has one replica make the version, going on to the next while that is safe.
    pub(super) async fn mint(&mut self, mut attempt: Attempt) -> Result<Version, Stop> {
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
                    let before = attempt.stamp;
                    match self.look_before(&mut attempt).await? {
                        Before::Ran(first) => return Ok(first),
                        Before::Not(seen) => attempt.known = (seen.bytes, seen.generation),
                    }
                    open &= attempt.stamp == before;
                    lost = false;
                }
                let asked = self.inner.env.mono();
                match self.mint_here(node, &mut attempt, open).await? {
                    MintAnswer::Made(minted) => {
                        return Ok(Version {
                            record: minted.record,
                            generation: minted.generation,
                            dot: minted.dot,
                            stamp: minted.stamp,
                            created: minted.created,
                            siblings: minted.siblings,
                            replayed: minted.replayed,
                            lost_to: (minted.stamp == Hlc(0)).then_some(Hlc(0)),
                            holders: vec![node],
                            asked,
                        });
                    }
                    MintAnswer::Ran(first) => return Ok(*first),
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
                    if self.is_repeatable() {
                        match self.look_before(attempt).await? {
                            Before::Ran(first) => return Ok(MintAnswer::Ran(Box::new(first))),
                            Before::Not(seen) => attempt.known = (seen.bytes, seen.generation),
                        }
                    }
                }
                answer => return Ok(answer),
            }
        }
        Ok(MintAnswer::Refused)
    }

    fn is_lww(&self) -> bool {
        self.plan.table.settings.conflict == ConflictMode::Lww
    }

    /// A stamp above `floor`, above what the writer has read, and above all that this node has
    /// seen.
    fn choose_stamp(&self, floor: Hlc) -> Hlc {
        if !self.is_lww() {
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
        let patience = (self.inner.latencies.slowest(node) * 4).max(MIN_MINT_WAIT);
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
            known: attempt.known.0.clone(),
            known_generation: attempt.known.1,
            stamp: attempt.stamp,
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
                    // What a majority held has been purged there.
                    Refusal::OtherGeneration { .. } => return Err(Stop::Replan),
                    Refusal::Outranked { stamp } => MintAnswer::Outranked(stamp),
                    _ => MintAnswer::Refused,
                })
            }
            Err(error @ CallError::NotSent { unreachable, .. }) => {
                self.note_failure(node, "mint", Failure::from(&error));
                Ok(if unreachable { MintAnswer::NotSent } else { MintAnswer::Refused })
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
