//! One node's share of the data: answers other nodes' (and its own coordinator's) reads and
//! writes of the keys that it holds. Knows no client.
//!
//! Every change of a record is *read, merge, stage, commit*: under the lock of the key's shard the
//! newest version is read (staged ones included), changed, and handed to the committer; then,
//! outside the lock, the answer waits for the group commit. So
//! - a dot is on stable storage before it leaves the node (law L2), and so is everything that an
//!   acknowledgement promises (law L7);
//! - readers see only what is durable (rule 6; see [`overlay`]);
//! - no lock is held across an await.
//!
//! A copy that fails its checksum is refused as [`Refusal::Damaged`], never taken for absent: the
//! key mints nothing here until the merge of all other replicas has replaced it (rule 2).

mod identity;
mod overlay;
mod page;
mod service;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::causality::Context;
use crate::env::Env;
use crate::meta::{ConflictMode, Table};
use crate::net::messages::{Action, Apply, Mint, Minted, Read, Want};
use crate::net::{NodeStamps, Refusal, Response};
use crate::plants::{Plant, planted};
use crate::record::{self, Merged, Mutation, OpMemory, Record, RecordKind, Value};
use crate::storage::keys::{self, Kind};
use crate::storage::{Batch, CommitTicket, Committer, Engine, StorageError, SubmitError};
use crate::types::{Hlc, Key, Token};

pub use identity::{Actor, Identity, IdentityError, Opening};
use overlay::Overlay;
pub use service::{NodeService, SharedService};

/// The most bytes that one record, all siblings together, may have. It must fit into a frame.
pub const MAX_RECORD_BYTES: usize = 24 << 20;

/// Locks over the key space. More than cores and tasks under way, few enough to be cheap.
const SHARDS: usize = 256;

/// Counts of what a replica has met; for `/metrics`.
#[derive(Debug, Default)]
pub struct ReplicaCounters {
    /// Records shown (whole or as digests).
    pub reads: AtomicU64,
    /// Dots minted.
    pub mints: AtomicU64,
    /// Records merged in from other nodes.
    pub applies: AtomicU64,
    /// Of these, those that brought nothing new.
    pub dominated: AtomicU64,
    /// Copies that failed their checksum.
    pub damaged: AtomicU64,
    /// Damaged copies replaced.
    pub healed: AtomicU64,
}

/// The data of one node. See the module's essay.
pub struct Replica {
    env: Env,
    engine: Arc<dyn Engine>,
    committer: Committer,
    actor: Arc<Actor>,
    stamps: Arc<NodeStamps>,
    shards: Vec<Mutex<Overlay>>,
    counters: ReplicaCounters,
}

impl std::fmt::Debug for Replica {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replica").field("actor", &self.actor.id()).finish_non_exhaustive()
    }
}

/// Where a record is stored.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    kind: RecordKind,
    row: Bytes,
    /// What the stored bytes are bound to, so that a misdirected write is seen.
    address: Bytes,
    shard: usize,
}

/// What a change of a record decided.
enum Change<T> {
    /// Store the changed record, then answer.
    Store(T),
    /// Nothing changed: answer once what was seen is durable.
    Keep(T),
}

impl Replica {
    /// A replica over `engine`, whose writes go through `committer`.
    #[must_use]
    pub fn new(
        env: Env,
        engine: Arc<dyn Engine>,
        committer: Committer,
        actor: Arc<Actor>,
        stamps: Arc<NodeStamps>,
    ) -> Self {
        Self {
            env,
            engine,
            committer,
            actor,
            stamps,
            shards: (0..SHARDS).map(|_| Mutex::new(Overlay::default())).collect(),
            counters: ReplicaCounters::default(),
        }
    }

    /// What the replica has met so far.
    #[must_use]
    pub fn counters(&self) -> &ReplicaCounters {
        &self.counters
    }

    /// The actor that mints here.
    #[must_use]
    pub fn actor(&self) -> &Arc<Actor> {
        &self.actor
    }

    fn place(&self, table: &Table, token: Token, key: &Key) -> Place {
        let row = keys::row(Kind::Record, table.id, token, key, b"");
        let address = record::address(table.id, key);
        Place { kind: kind_of(table), row, address, shard: shard_of(token) }
    }

    fn lock(&self, shard: usize) -> MutexGuard<'_, Overlay> {
        self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The durable bytes of a row.
    fn shown(&self, place: &Place) -> Result<Option<Bytes>, StorageError> {
        // Engine first, overlay second: if the engine already shows an unsynced version, the
        // overlay still has the row and knows better; if the overlay has settled it by now, what
        // the engine showed was durable, or older than that.
        let stored = self.engine.get(&place.row)?;
        let mut overlay = self.lock(place.shard);
        Ok(overlay.shown(&place.row, self.committer.durable_seq()).unwrap_or(stored))
    }

    /// Answers [`Read`]: only what is on stable storage, and only if it passes its checksum.
    pub fn read(&self, table: &Table, token: Token, read: &Read) -> Result<Response, Refusal> {
        self.counters.reads.fetch_add(1, Ordering::Relaxed);
        let place = self.place(table, token, &read.key);
        let bytes = self.shown(&place).map_err(|e| self.refuse_storage(&e))?;
        if let Some(bytes) = &bytes {
            record::verify(bytes, &place.address)
                .map_err(|e| self.refuse_damaged(&place.row, &e))?;
        }
        Ok(match read.want {
            Want::Record => Response::Record(bytes),
            Want::Digest => Response::Digest(
                bytes
                    .map(|b| record::stored_digest(&b))
                    .transpose()
                    .map_err(|e| self.refuse_damaged(&place.row, &e))?,
            ),
        })
    }

    /// Answers [`Mint`]: makes the operation's version under a fresh dot, or finds the one that it
    /// made before; durable on return (law L2).
    ///
    /// # Errors
    /// A [`Refusal`]; nothing was changed.
    pub async fn mint(&self, table: &Table, token: Token, mint: Mint) -> Result<Response, Refusal> {
        let bad = |what: String| Refusal::BadRequest { what };
        let context = if mint.context.is_empty() {
            Context::default()
        } else {
            Context::decode(&mint.context).map_err(|e| bad(format!("context: {e}")))?
        };
        let place = self.place(table, token, &mint.key);
        let known = if mint.known.is_empty() {
            None
        } else {
            let known = Record::decode(&mint.known, &place.address);
            Some(known.map_err(|e| bad(format!("known record: {e}")))?)
        };
        let outcome = self
            .update(&place, false, |record| {
                let mut fed = false;
                if let Some(known) = &known {
                    self.observe(known)?;
                    fed = merge(record, known)?.changed;
                }
                self.mint_on(record, &mint, context.clone()).map(|minted| {
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

    /// The pure part of a mint, under the row's lock.
    fn mint_on(
        &self,
        record: &mut Record,
        mint: &Mint,
        context: Context,
    ) -> Result<Minted, Refusal> {
        match record.find_op(mint.op, mint.request) {
            OpMemory::Reused => return Err(Refusal::OperationReused),
            OpMemory::Forgotten => return Err(Refusal::OperationForgotten),
            OpMemory::Applied(entry) => {
                // Another replica holds a greater stamp. If this one does too by now, whatever
                // carries it was minted here after this operation, hence beside it: let it stand.
                let must_rise = record.kind() == RecordKind::Lww
                    && mint.above > Hlc(0)
                    && record.max_stamp() <= mint.above;
                if !must_rise {
                    let siblings = record.view(mint.now).versions.len();
                    return Ok(Minted {
                        record: Bytes::new(),
                        dot: entry.dot,
                        created: entry.created,
                        siblings: u32::try_from(siblings).unwrap_or(u32::MAX),
                        replayed: true,
                    });
                }
            }
            OpMemory::Unknown => {}
        }
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
        let at = record::Mint {
            dot: self.actor.next_dot(),
            stamp: self.next_stamp(record.max_stamp().max(mint.above)),
            now: mint.now,
        };
        // The record knows later events of this actor: its directory has forgotten some. Minting
        // here would let the new value be taken for an old one.
        let minted = record.mint(mutation, at).map_err(|error| {
            tracing::error!(%error, "this node's history has a gap; it mints nothing for the key");
            Refusal::Damaged
        })?;
        // The stamp was accepted with the record that bore it; see `next_stamp`.
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
            created: minted.created,
            siblings,
            replayed: false,
        })
    }

    /// A stamp above everything seen, and above `floor`.
    fn next_stamp(&self, floor: Hlc) -> Hlc {
        if planted(Plant::P15) {
            return Hlc(self.env.wall().0);
        }
        // The floor was accepted when it came in; a clock that lags behind it is no reason to
        // lose the write.
        Hlc(self.stamps.clock.tick().0.max(floor.0 + 1))
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
        self.observe(&incoming)?;
        let outcome = self
            .update(&place, apply.heals, |record| {
                let merged = merge(record, &incoming)?;
                let answer = (merged.incoming_dominated && !merged.equal, record.max_stamp());
                Ok(if merged.changed { Change::Store(answer) } else { Change::Keep(answer) })
            })
            .await;
        self.counters.applies.fetch_add(1, Ordering::Relaxed);
        if let Ok(((true, _), _)) = outcome {
            self.counters.dominated.fetch_add(1, Ordering::Relaxed);
        }
        answer(outcome.map(|((dominated, stamp), _)| Response::Applied { dominated, stamp }))
    }

    /// Takes note of a record's stamps; one too far in the future is refused, so that a single
    /// broken clock cannot make a value that no later write can replace.
    fn observe(&self, record: &Record) -> Result<(), Refusal> {
        self.stamps
            .clock
            .observe(record.max_stamp())
            .map_err(|ahead| Refusal::BadRequest { what: ahead.to_string() })
    }

    /// Read, change, stage, commit: the one way to change a record.
    async fn update<T>(
        &self,
        place: &Place,
        heals: bool,
        change: impl FnOnce(&mut Record) -> Result<Change<T>, Refusal>,
    ) -> Result<(T, Bytes), Stop> {
        let (answer, bytes, wait) = self.stage(place, heals, change)?;
        match wait {
            Wait::Nothing => {}
            Wait::Ticket(ticket) if planted(Plant::P17) => drop(ticket),
            Wait::Ticket(ticket) => {
                let result = ticket.await;
                self.lock(place.shard).settle(&place.row, self.committer.durable_seq());
                result.map_err(Stop::Failed)?;
            }
            Wait::All => self.committer.flush().await.map_err(Stop::Failed)?,
        }
        Ok((answer, bytes))
    }

    /// The synchronous part of [`Replica::update`], under the shard's lock.
    fn stage<T>(
        &self,
        place: &Place,
        heals: bool,
        change: impl FnOnce(&mut Record) -> Result<Change<T>, Refusal>,
    ) -> Result<(T, Bytes, Wait), Refusal> {
        let mut overlay = self.lock(place.shard);
        let staged = overlay.newest(&place.row);
        let (under_way, base, durable) = match staged {
            Some((seq, bytes)) => (Some(seq), Some(bytes), None),
            None => {
                let stored = self.engine.get(&place.row).map_err(|e| self.refuse_storage(&e))?;
                (None, stored.clone(), stored)
            }
        };
        let decoded = match &base {
            None => Ok(None),
            Some(bytes) => Record::decode(bytes, &place.address).map(Some),
        };
        let mut record = match decoded {
            Ok(Some(record)) if record.kind() == place.kind => record,
            Ok(None) => Record::empty(place.kind),
            Ok(Some(_)) => return Err(Refusal::Damaged),
            Err(error) => {
                let refusal = self.refuse_damaged(&place.row, &error);
                if !heals {
                    return Err(refusal);
                }
                self.counters.healed.fetch_add(1, Ordering::Relaxed);
                Record::empty(place.kind)
            }
        };
        match change(&mut record)? {
            Change::Keep(answer) => {
                let wait = match under_way {
                    Some(seq) if seq > self.committer.durable_seq() => Wait::All,
                    _ => Wait::Nothing,
                };
                Ok((answer, base.unwrap_or_default(), wait))
            }
            Change::Store(answer) => {
                let bytes = record.encode(&place.address);
                if bytes.len() > MAX_RECORD_BYTES {
                    return Err(Refusal::RecordTooLarge {
                        max: MAX_RECORD_BYTES as u64,
                        got: bytes.len() as u64,
                    });
                }
                let mut batch = Batch::new();
                batch.put(place.row.clone(), bytes.clone());
                let ticket = self.committer.submit(batch).map_err(|e| refuse_submit(&e))?;
                overlay.stage(place.row.clone(), ticket.seq, bytes.clone(), durable);
                Ok((answer, bytes, Wait::Ticket(ticket)))
            }
        }
    }

    fn refuse_storage(&self, error: &StorageError) -> Refusal {
        match error {
            StorageError::Full => Refusal::DiskFull,
            StorageError::Corrupt { .. } => {
                self.counters.damaged.fetch_add(1, Ordering::Relaxed);
                tracing::error!(%error, "stored data is damaged");
                Refusal::Damaged
            }
            _ => Refusal::Storage { message: error.to_string() },
        }
    }

    fn refuse_damaged(&self, row: &[u8], error: &record::RecordError) -> Refusal {
        self.counters.damaged.fetch_add(1, Ordering::Relaxed);
        let row_hash = xxhash_rust::xxh3::xxh3_64(row);
        tracing::error!(row_hash, %error, "a stored record is damaged; it will be healed from the other replicas");
        Refusal::Damaged
    }
}

/// The lock that guards a token's rows.
fn shard_of(token: Token) -> usize {
    (token.0 as u64 >> 32) as usize % SHARDS
}

/// What an update's answer waits for.
enum Wait {
    Nothing,
    /// The commit of its own change.
    Ticket(CommitTicket),
    /// The commit of a change that it saw, and so of all that was submitted by now.
    All,
}

/// Why an update has no answer.
enum Stop {
    /// Nothing was changed.
    Refused(Refusal),
    /// The change was submitted and its commit failed: nobody knows what is on the disk.
    Failed(StorageError),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// What an update says to its caller.
fn answer(result: Result<Response, Stop>) -> Result<Response, Refusal> {
    match result {
        Ok(response) => Ok(response),
        Err(Stop::Refused(refusal)) => Err(refusal),
        Err(Stop::Failed(error)) => {
            tracing::error!(%error, "a write could not be committed");
            Ok(Response::Failed { why: error.to_string() })
        }
    }
}

fn refuse_submit(error: &SubmitError) -> Refusal {
    match error {
        SubmitError::Overloaded { .. } => Refusal::Overloaded { what: error.to_string() },
        SubmitError::Refused(StorageError::Full) => Refusal::DiskFull,
        _ => Refusal::Storage { message: error.to_string() },
    }
}

/// The kind of record that a table's rows are.
#[must_use]
pub fn kind_of(table: &Table) -> RecordKind {
    match table.settings.conflict {
        ConflictMode::Siblings | ConflictMode::Strong => RecordKind::Siblings,
        ConflictMode::Lww => RecordKind::Lww,
    }
}

fn merge(record: &mut Record, other: &Record) -> Result<Merged, Refusal> {
    record
        .merge(other)
        .map_err(|_| Refusal::BadRequest { what: "a record of another kind".to_owned() })
}
