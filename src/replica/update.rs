//! Read, change, stage, commit: the one way to change a record.

use bytes::Bytes;

use crate::net::{Refusal, Response};
use crate::plants::{Plant, planted};
use crate::record::{self, Record};
use crate::replica::trees::LeafChange;
use crate::replica::{Place, Replica, tree_digest};
use crate::storage::{Batch, CommitTicket, Pace, StorageError, SubmitError};
use crate::types::Generation;

/// The most bytes that a record may have, all siblings together: it must fit into a frame, with
/// room around it, and into a storage value.
pub const MAX_RECORD_BYTES: usize = 60 << 20;

/// The most bytes that a record may have after a mint. Less than [`MAX_RECORD_BYTES`], because
/// each replica of a key may fill its own record apart from the others, in a partition, and what
/// they then merge to must still be stored: a third of it, for the usual three.
pub const MAX_MINTED_BYTES: usize = MAX_RECORD_BYTES / 3;

/// What a change of a record decided.
pub(super) enum Change<T> {
    /// Store the changed record, then answer.
    Store(T),
    /// Nothing changed: answer once what was seen is durable.
    Keep(T),
}

/// How a change is to be made.
#[derive(Clone, Copy)]
pub(super) struct Terms {
    /// The change may take the place of a damaged copy.
    pub(super) heals: bool,
    /// The record may have so many bytes afterwards.
    pub(super) max_bytes: usize,
    /// The purge generation of what is merged in, if anything is.
    pub(super) generation: Option<Generation>,
    /// How soon the change is to be durable.
    pub(super) pace: Pace,
}

/// Why an update has no answer.
#[derive(Debug)]
pub(super) enum Stop {
    /// Nothing was changed.
    Refused(Refusal),
    /// The change, or the one that the answer rests on, was submitted and its commit failed:
    /// nobody knows what is on the disk.
    Failed(StorageError),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// What a staged update waits for; `None`: for nothing.
type Wait = Option<CommitTicket>;

impl Replica {
    /// Changes one record. Returns `change`'s answer and the record's stored bytes, both durable.
    /// A caller that stops waiting does not stop the change.
    pub(super) async fn update<T>(
        &self,
        place: &Place,
        terms: Terms,
        change: impl FnOnce(&mut Record) -> Result<Change<T>, Refusal>,
    ) -> Result<(T, Bytes), Stop> {
        let (answer, bytes, wait) = self.stage(place, terms, change)?;
        if let Some(ticket) = wait
            && !planted(Plant::P17)
        {
            ticket.await.map_err(|error| match error {
                // Refused as a whole, and forgotten by now.
                StorageError::Full => Stop::Refused(Refusal::DiskFull),
                error => Stop::Failed(error),
            })?;
            self.lock(place.shard).settle(self.committer.acked_seq());
        }
        Ok((answer, bytes))
    }

    /// The synchronous part of [`Replica::update`], under the shard's lock.
    fn stage<T>(
        &self,
        place: &Place,
        terms: Terms,
        change: impl FnOnce(&mut Record) -> Result<Change<T>, Refusal>,
    ) -> Result<(T, Bytes, Wait), Stop> {
        let mut overlay = self.lock(place.shard);
        if let Some(generation) = terms.generation {
            self.judge_generation(place, generation)?;
        }
        let newest = overlay.newest(&place.row, self.committer.acked_seq());
        let under_way = newest.is_some();
        let base = match newest {
            Some(bytes) => bytes,
            None => self.stored(place, terms)?,
        };
        let (mut record, old) = self.decode_base(place, terms, base.as_ref())?;
        let indexed = self.indexes.before(place.leaf.tree.0, &place.row, &record);
        match change(&mut record)? {
            Change::Keep(answer) => {
                if let Some(error) = self.committer.failure() {
                    return Err(Stop::Failed(error));
                }
                // The barrier takes its place in the order before the lock is given back: should
                // the version seen here be refused, the barrier is too.
                let wait = under_way.then(|| self.committer.barrier()).transpose();
                let wait = wait.map_err(|error| match error {
                    SubmitError::Stopped(error) => Stop::Failed(error),
                    error => Stop::Refused(refuse_submit(&error)),
                })?;
                Ok((answer, base.unwrap_or_default(), wait))
            }
            Change::Store(answer) => {
                let bytes = record.encode(&place.address);
                if bytes.len() > terms.max_bytes {
                    let (max, got) = (terms.max_bytes as u64, bytes.len() as u64);
                    return Err(Refusal::RecordTooLarge { max, got }.into());
                }
                let change = leaf_change(place, old, &record, &bytes);
                let mut batch = Batch::new();
                batch.put(place.row.clone(), bytes.clone());
                if let Some(indexed) = indexed.filter(|_| !planted(Plant::P43)) {
                    indexed.change(&mut batch, Some(&record));
                }
                let ticket = self.trees.stage(place.leaf, batch, (&self.committer, terms.pace));
                let ticket = ticket.map_err(|e| refuse_submit(&e))?;
                overlay.stage(place.row.clone(), ticket.seq, Some(bytes.clone()), base, change);
                if let Some(at) = record.dead_at() {
                    self.purges.note_dead(place.leaf.tree, at);
                }
                Ok((answer, bytes, Some(ticket)))
            }
        }
    }

    /// The row's bytes in the engine. What the engine cannot read is no bytes at all to one who
    /// may replace it, which no reader takes for a record, nor for absence.
    pub(super) fn stored(&self, place: &Place, terms: Terms) -> Result<Option<Bytes>, Refusal> {
        match self.engine.get(&place.row) {
            Ok(stored) => Ok(stored),
            Err(StorageError::Corrupt { .. }) if planted(Plant::P31) => Ok(None),
            Err(StorageError::Corrupt { .. }) if terms.heals => Ok(Some(Bytes::new())),
            Err(error) => Err(self.refuse_storage(&error)),
        }
    }

    /// The record to start from, and its digest in the hash tree: `None` if it took the place of a
    /// damaged copy.
    pub(super) fn decode_base(
        &self,
        place: &Place,
        terms: Terms,
        base: Option<&Bytes>,
    ) -> Result<(Record, Option<u128>), Refusal> {
        let Some(bytes) = base else { return Ok((Record::empty(place.kind), Some(0))) };
        match Record::decode(bytes, &place.address) {
            Ok(record) if record.kind() == place.kind => {
                let digest = record::stored_digest(bytes).unwrap_or_default();
                Ok((record, Some(tree_digest(&place.address, bytes, digest))))
            }
            Ok(_) => Err(Refusal::Damaged),
            Err(_) if planted(Plant::P31) => Ok((Record::empty(place.kind), None)),
            Err(_) if terms.heals => {
                self.counters.healed.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                Ok((Record::empty(place.kind), None))
            }
            Err(error) => Err(self.refuse_damaged(&place.row, &error)),
        }
    }
}

/// What the version `bytes` of `record` does to its hash tree, where the one before it has the
/// digest `old`.
pub(super) fn leaf_change(
    place: &Place,
    old: Option<u128>,
    record: &Record,
    bytes: &Bytes,
) -> LeafChange {
    if planted(Plant::NoTrees) {
        return LeafChange { at: place.leaf, change: Some(0), value: 0 };
    }
    let digest = record::stored_digest(bytes).unwrap_or_default();
    let value = tree_digest(&place.address, bytes, digest);
    let change = match old {
        Some(old) if planted(Plant::P25) && record.value_count() == 0 => {
            return LeafChange { at: place.leaf, change: Some(0), value: old };
        }
        old => old.map(|old| old ^ value),
    };
    LeafChange { at: place.leaf, change, value }
}

/// What an update says to its caller.
pub(super) fn answer(result: Result<Response, Stop>) -> Result<Response, Refusal> {
    match result {
        Ok(response) => Ok(response),
        Err(Stop::Refused(refusal)) => Err(refusal),
        Err(Stop::Failed(error)) => {
            tracing::error!(%error, "a write could not be committed");
            Ok(Response::Failed { why: error.to_string() })
        }
    }
}

pub(super) fn refuse_submit(error: &SubmitError) -> Refusal {
    match error {
        SubmitError::Overloaded { .. } => Refusal::Overloaded { what: error.to_string() },
        SubmitError::Full => Refusal::DiskFull,
        _ => Refusal::Storage { message: error.to_string() },
    }
}
