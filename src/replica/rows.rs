//! Several rows of one partition, merged in by one commit: all of them are on the disk, or none.
//!
//! They share a token, and so a shard's lock and a leaf of the hash tree. Nothing else is new: each
//! row is read, merged and staged as a single one would be.

use std::sync::atomic::Ordering;

use bytes::Bytes;

use crate::meta::Table;
use crate::net::messages::ApplyRows;
use crate::net::{Refusal, Response};
use crate::record::Record;
use crate::replica::trees::LeafChange;
use crate::replica::update::{MAX_RECORD_BYTES, Stop, Terms, answer, leaf_change, refuse_submit};
use crate::replica::{Place, Replica};
use crate::storage::{Batch, CommitTicket, Pace, StorageError, SubmitError};
use crate::types::{Generation, Hlc, Token};

/// A row that has changed.
struct Changed {
    row: Bytes,
    bytes: Bytes,
    base: Option<Bytes>,
    change: LeafChange,
}

impl Replica {
    /// Answers [`ApplyRows`]: merges all rows in; durable on return. The caller has checked that
    /// all keys have the token.
    ///
    /// # Errors
    /// A [`Refusal`]; nothing was changed.
    pub async fn apply_rows(
        &self,
        table: &Table,
        token: Token,
        apply: ApplyRows,
    ) -> Result<Response, Refusal> {
        let mut incoming = Vec::with_capacity(apply.rows.len());
        for (key, bytes) in &apply.rows {
            let place = self.place(table, token, key);
            let record = Record::decode(bytes, &place.address)
                .map_err(|e| Refusal::BadRequest { what: format!("record: {e}") })?;
            if record.kind() != place.kind {
                return Err(Refusal::BadRequest { what: "a record of another kind".to_owned() });
            }
            incoming.push((place, record));
        }
        self.counters.applies.fetch_add(incoming.len() as u64, Ordering::Relaxed);
        let merged = self.merge_rows(&incoming, apply.generation, Pace::Now).await;
        let Some((first, _)) = incoming.first() else {
            return Err(Refusal::BadRequest { what: "no rows".to_owned() });
        };
        answer(merged.map(|dominated| self.applied(first, dominated, Hlc(0))))
    }

    /// Merges all rows in, which are of this purge generation; durable on return. True if they
    /// brought nothing new.
    pub(super) async fn merge_rows(
        &self,
        incoming: &[(Place, Record)],
        generation: Generation,
        pace: Pace,
    ) -> Result<bool, Stop> {
        let Some((first, _)) = incoming.first() else { return Ok(true) };
        let (dominated, wait) = self.stage_rows(first, incoming, (generation, pace))?;
        if let Some(ticket) = wait {
            ticket.await.map_err(|error| match error {
                StorageError::Full => Stop::Refused(Refusal::DiskFull),
                error => Stop::Failed(error),
            })?;
            self.lock(first.shard).settle(self.committer.acked_seq());
        }
        Ok(dominated)
    }

    /// The synchronous part, under the shard's lock.
    fn stage_rows(
        &self,
        first: &Place,
        incoming: &[(Place, Record)],
        (generation, pace): (Generation, Pace),
    ) -> Result<(bool, Option<CommitTicket>), Stop> {
        let terms = Terms { heals: false, max_bytes: MAX_RECORD_BYTES, generation: None, pace };
        let mut overlay = self.lock(first.shard);
        let (mut changed, mut under_way) = (Vec::new(), false);
        let mut batch = Batch::new();
        for (place, record) in incoming {
            self.judge_generation(place, generation)?;
            let newest = overlay.newest(&place.row, self.committer.acked_seq());
            under_way |= newest.is_some();
            let base = match newest {
                Some(bytes) => bytes,
                None => self.stored(place, terms)?,
            };
            let (mut own, old) = self.decode_base(place, terms, base.as_ref())?;
            let indexed = self.indexes.before(place.leaf.tree.0, &place.row, &own);
            let merged = own
                .merge(record)
                .map_err(|_| Refusal::BadRequest { what: "a record of another kind".to_owned() })?;
            if !merged.changed {
                continue;
            }
            let bytes = own.encode(&place.address);
            if bytes.len() > terms.max_bytes {
                let (max, got) = (terms.max_bytes as u64, bytes.len() as u64);
                return Err(Refusal::RecordTooLarge { max, got }.into());
            }
            if let Some(at) = own.dead_at() {
                self.purges.note_dead(place.leaf.tree, at);
            }
            let change = leaf_change(place, old, &own, &bytes);
            batch.put(place.row.clone(), bytes.clone());
            if let Some(indexed) = indexed {
                indexed.change(&mut batch, Some(&own));
            }
            changed.push(Changed { row: place.row.clone(), bytes, base, change });
        }
        if changed.is_empty() {
            if let Some(error) = self.committer.failure() {
                return Err(Stop::Failed(error));
            }
            let wait = under_way.then(|| self.committer.barrier()).transpose();
            let wait = wait.map_err(|error| match error {
                SubmitError::Stopped(error) => Stop::Failed(error),
                error => Stop::Refused(refuse_submit(&error)),
            })?;
            return Ok((true, wait));
        }
        let (tree, through) = (first.leaf.tree, (&self.committer, pace));
        let ticket = self.trees.stage_many(tree, changed.len(), batch, through);
        let ticket = ticket.map_err(|e| refuse_submit(&e))?;
        for row in changed {
            overlay.stage(row.row, ticket.seq, Some(row.bytes), row.base, row.change);
        }
        Ok((false, Some(ticket)))
    }
}
