//! The two ways in which a record changes: a *mint* makes an operation's version here, an *apply*
//! merges in what another replica made.
//!
//! # Sent twice, or late
//!
//! A mint that arrives again finds its operation in the record and hands out the first outcome;
//! one that is older than all that the record remembers is refused, since nobody can tell any more
//! whether it ran (rule 3). An apply is a merge: again changes nothing.
//!
//! A mint may be carried out long after its coordinator gave up on it and had another replica do
//! it. Among siblings the operation id makes the two one. In a last-write-wins record the stamp is
//! the coordinator's, so that the late one is no later *version*: everything that was written since
//! wins over it. A replica that chose the stamp by its own clock would put a write of long ago over
//! all that came after it.
//!
//! A mint whose time has run out before it begins is dropped, as no one waits for it. (A merge is
//! not: it carries what is on another disk already.) What is *not* guarded here is a second copy of
//! a mint that was refused: nothing of it is remembered, so the copy would be carried out. It rests
//! on the transport that there is none: a request is written to one connection, once.
//!
//! # An actor that has forgotten
//!
//! If a peer's record (or a context that this cluster gave out) knows a later event of this node's
//! actor than the node itself, then its directory is an older copy, and the next dot that it mints
//! would be taken for one that was superseded long ago (Riak's kv679 family). The metadata log
//! notices most copies by their incarnation, but not one that was taken and put back within one
//! start. So every record that comes in is looked at: whoever finds such an event mints no more.

use std::sync::atomic::Ordering;

use bytes::Bytes;

use crate::causality::Context;
use crate::meta::Table;
use crate::net::messages::{Action, Apply, Mint, Minted};
use crate::net::{Refusal, Response};
use crate::plants::{Plant, planted};
use crate::record::{
    self, Merged, MintError, Mutation, OpEntry, OpMemory, Record, RecordKind, Value,
};
use crate::replica::update::{Change, MAX_MINTED_BYTES, MAX_RECORD_BYTES, Terms, answer};
use crate::replica::{Place, Replica};
use crate::storage::Pace;
use crate::types::{Generation, Hlc, Mono, Token, WallMicros};

impl Replica {
    /// Answers [`Mint`]: makes the operation's version under a fresh dot, or finds the one that it
    /// made before; durable on return (law L2). Nothing is begun after `deadline`, nor what the
    /// disk cannot be expected to have stored by then: nobody would wait for it any more.
    ///
    /// # Errors
    /// A [`Refusal`]; nothing was changed.
    pub async fn mint(
        &self,
        table: &Table,
        token: Token,
        mint: Mint,
        deadline: Mono,
    ) -> Result<Response, Refusal> {
        let place = self.place(table, token, &mint.key);
        let (context, known) = self.check(&place, &mint)?;
        let generation = known.is_some().then_some(mint.known_generation);
        let terms =
            Terms { heals: false, max_bytes: MAX_MINTED_BYTES, generation, pace: Pace::Now };
        let outcome = self
            .update(&place, terms, |record| {
                if self.env.mono() + self.committer.wait() >= deadline {
                    return Err(Refusal::Late);
                }
                let fed = match &known {
                    Some(known) => merge(record, known)?.changed,
                    None => false,
                };
                let generation = self
                    .newest_generation(place.leaf.tree)
                    .map_err(|error| self.refuse_storage(&error))?;
                self.mint_on(record, &mint, context.clone()).map(|minted| {
                    let minted = Minted { generation, ..minted };
                    if minted.replayed && !fed {
                        Change::Keep(minted)
                    } else {
                        Change::Store(minted)
                    }
                })
            })
            .await;
        self.counters.mints.fetch_add(1, Ordering::Relaxed);
        answer(outcome.map(|(minted, record)| Response::Minted(Minted { record, ..minted })))
    }

    /// Reads what came with a mint, and refuses what must not be built on.
    fn check(&self, place: &Place, mint: &Mint) -> Result<(Context, Option<Record>), Refusal> {
        let bad = |what: String| Refusal::BadRequest { what };
        let context = if mint.context.is_empty() {
            Context::default()
        } else {
            Context::decode(&mint.context).map_err(|e| bad(format!("context: {e}")))?
        };
        let known = if mint.known.is_empty() {
            None
        } else {
            let known = Record::decode(&mint.known, &place.address);
            Some(known.map_err(|e| bad(format!("known record: {e}")))?)
        };
        self.observe(context.stamp().max(mint.stamp))?;
        self.compare_memory(context.seen().max_counter(self.actor.id()));
        if let Some(known) = &known {
            self.take_in(known)?;
        }
        if self.has_forgotten() {
            return Err(Refusal::Refilling);
        }
        Ok((context, known))
    }

    /// The pure part of a mint, under the row's lock.
    fn mint_on(
        &self,
        record: &mut Record,
        mint: &Mint,
        context: Context,
    ) -> Result<Minted, Refusal> {
        match record.find_op(mint.op, mint.request) {
            // A request that carries no condition is another one than that which was refused.
            OpMemory::Reused | OpMemory::Refused(_) => return Err(Refusal::OperationReused),
            OpMemory::Barred => return Err(Refusal::OperationForgotten { oldest: mint.op }),
            OpMemory::Forgotten => {
                let oldest = record.op_entries().first().map_or(mint.op, |entry| entry.op);
                return Err(Refusal::OperationForgotten { oldest });
            }
            OpMemory::Applied(entry) => {
                return Ok(first_outcome(record, entry, mint.now));
            }
            OpMemory::Unknown => {}
        }
        let stamp = self.stamp_for(record, mint, &context)?;
        let before = record.view(mint.now).versions.len();
        let action = match &mint.action {
            Action::Put { body, content_type, meta, expires_at } => record::Action::Put(Value {
                body: body.clone(),
                content_type: content_type.clone(),
                meta: meta.clone(),
                expires_at: *expires_at,
                written_at: Hlc(0),
            }),
            Action::Delete => record::Action::Delete,
        };
        let mutation = Mutation { op: mint.op, request: mint.request, context, action };
        let at = record::Mint { dot: self.actor.next_dot(), stamp, now: mint.now };
        let minted = record.mint(mutation, at).map_err(|error| self.not_minted(error))?;
        // The stamp was accepted with what it came in; see `stamp_for`.
        let _ = self.stamps.clock.observe(minted.stamp);
        let siblings = u32::try_from(minted.siblings).unwrap_or(u32::MAX);
        let bounded = mint.max_siblings > 0 && minted.siblings > before;
        if bounded && siblings > mint.max_siblings {
            return Err(Refusal::TooManySiblings {
                siblings: u32::try_from(before).unwrap_or(u32::MAX),
                max: mint.max_siblings,
            });
        }
        Ok(Minted {
            record: Bytes::new(),
            dot: minted.dot,
            stamp: minted.stamp,
            created: minted.created,
            siblings,
            replayed: false,
            generation: Generation::default(),
        })
    }

    pub(super) fn not_minted(&self, error: MintError) -> Refusal {
        match error {
            // The record knows later events of this actor than the actor itself.
            MintError::DotReused { known, .. } => {
                self.compare_memory(known);
                Refusal::Refilling
            }
            MintError::TooManyValues { got, max } => Refusal::TooManySiblings {
                siblings: u32::try_from(got).unwrap_or(u32::MAX),
                max: u32::try_from(max).unwrap_or(u32::MAX),
            },
            MintError::StampExhausted | MintError::NotMinted => {
                Refusal::BadRequest { what: error.to_string() }
            }
        }
    }

    /// The stamp of a new version: the coordinator's in a last-write-wins record; among siblings,
    /// where it decides nothing, one above everything seen.
    fn stamp_for(&self, record: &Record, mint: &Mint, context: &Context) -> Result<Hlc, Refusal> {
        if planted(Plant::P15) {
            return Ok(Hlc(self.env.wall().0));
        }
        match record.kind() {
            RecordKind::Lww => {
                let held = record.max_stamp().max(context.stamp());
                if mint.stamp > held {
                    Ok(mint.stamp)
                } else {
                    Err(Refusal::Outranked { stamp: held })
                }
            }
            // The record's stamps were accepted when they came in; a clock that lags behind them
            // is no reason to lose the write.
            RecordKind::Siblings | RecordKind::Row => {
                let above = record.max_stamp().0.saturating_add(1);
                Ok(Hlc(self.stamps.clock.tick().0.max(above)))
            }
        }
    }

    /// Answers [`Apply`]: merges a whole record in; durable on return.
    ///
    /// # Errors
    /// A [`Refusal`]; nothing was changed.
    pub async fn apply(
        &self,
        table: &Table,
        token: Token,
        apply: Apply,
    ) -> Result<Response, Refusal> {
        let place = self.place(table, token, &apply.key);
        let incoming = Record::decode(&apply.record, &place.address)
            .map_err(|e| Refusal::BadRequest { what: format!("record: {e}") })?;
        if incoming.kind() != place.kind {
            return Err(Refusal::BadRequest { what: "a record of another kind".to_owned() });
        }
        self.take_in(&incoming)?;
        #[cfg(feature = "sim")]
        let incoming = self.arrived(incoming);
        let generation = Some(apply.generation);
        let terms =
            Terms { heals: apply.heals, max_bytes: MAX_RECORD_BYTES, generation, pace: Pace::Now };
        let outcome = self
            .update(&place, terms, |record| {
                let merged = merge(record, &incoming)?;
                let brought_nothing = merged.incoming_dominated && !merged.equal;
                let answer = (brought_nothing || merged.outranked, record.max_stamp());
                Ok(if merged.changed { Change::Store(answer) } else { Change::Keep(answer) })
            })
            .await;
        self.counters.applies.fetch_add(1, Ordering::Relaxed);
        if let Ok(((true, _), _)) = outcome {
            self.counters.dominated.fetch_add(1, Ordering::Relaxed);
        }
        answer(outcome.map(|((dominated, stamp), _)| self.applied(&place, dominated, stamp)))
    }

    /// That a record has been merged in.
    pub(super) fn applied(&self, place: &Place, dominated: bool, stamp: Hlc) -> Response {
        let generation = self.newest_generation(place.leaf.tree).unwrap_or_default();
        Response::Applied { dominated, stamp, generation }
    }

    /// For a planted bug.
    #[cfg(feature = "sim")]
    fn arrived(&self, mut record: Record) -> Record {
        if planted(Plant::Ttl) {
            record.live_on_from(self.env.wall());
        }
        record
    }

    /// Looks at a record that comes in before anything is done with it.
    pub(super) fn take_in(&self, record: &Record) -> Result<(), Refusal> {
        self.compare_memory(record.max_counter(self.actor.id()));
        self.observe(record.max_stamp())
    }

    /// Takes note of a stamp; one too far in the future is refused, so that a single broken clock
    /// cannot make a value that no later write can replace.
    fn observe(&self, stamp: Hlc) -> Result<(), Refusal> {
        self.stamps
            .clock
            .observe(stamp)
            .map_err(|ahead| Refusal::BadRequest { what: ahead.to_string() })
    }

    /// `known` is the latest event of this node's actor that somebody has met. See the essay.
    fn compare_memory(&self, known: u64) {
        let minted = self.actor.minted();
        // The plants that forget on purpose are for other checks to find.
        let forgets_on_purpose = planted(Plant::P16) || planted(Plant::P17);
        if known <= minted || forgets_on_purpose {
            return;
        }
        if !self.forgot.swap(true, Ordering::AcqRel) {
            tracing::error!(
                known,
                minted,
                "peers have met later events of this node than it knows itself: its data \
                 directory is an older copy, and it goes on as a new actor"
            );
        }
    }
}

/// What an operation did when it first ran.
fn first_outcome(record: &Record, entry: OpEntry, now: WallMicros) -> Minted {
    let siblings = record.view(now).versions.len();
    Minted {
        record: Bytes::new(),
        dot: entry.dot,
        stamp: record.standing_stamp(entry.op).unwrap_or_default(),
        created: entry.created,
        siblings: u32::try_from(siblings).unwrap_or(u32::MAX),
        replayed: true,
        generation: Generation::default(),
    }
}

fn merge(record: &mut Record, other: &Record) -> Result<Merged, Refusal> {
    record
        .merge(other)
        .map_err(|_| Refusal::BadRequest { what: "a record of another kind".to_owned() })
}
