//! Counters: a replica's own share of a count is the only one that it changes.
//!
//! A counter is a column of elements ([`crate::record::rows`]) with one element for each actor that
//! has counted: the sum of all that it was asked to add, under a stamp that only grows. Whoever
//! merges keeps the newest share of each actor, and the counter is the sum of the shares. So an
//! increment is carried out by one replica, which adds to its share what it holds of it on its own
//! disk, and then is data that merges like any other.
//!
//! Sent twice, it is carried out once: the row remembers its operations, as records of buckets do.
//! A directory that lost data counts as another actor, beside its old share, which the other
//! replicas still hold.

use bytes::Bytes;

use crate::meta::Table;
use crate::net::messages::Count;
use crate::net::{Refusal, Response};
use crate::record::{Cell, Column, Content, OpEntry, OpMemory, OpVerdict, Record, RecordKind, Row};
use crate::replica::Replica;
use crate::replica::update::{Change, MAX_MINTED_BYTES, Terms, answer};
use crate::storage::Pace;
use crate::types::{Mono, Token};

impl Replica {
    /// Answers [`Count`]: adds to this node's shares of a row's counters, once; durable on return.
    /// Nothing is begun after `deadline`.
    ///
    /// # Errors
    /// A [`Refusal`]; nothing was changed.
    pub async fn count(
        &self,
        table: &Table,
        token: Token,
        count: Count,
        deadline: Mono,
    ) -> Result<Response, Refusal> {
        let place = self.place(table, token, &count.key);
        if place.kind != RecordKind::Row {
            return Err(Refusal::BadRequest { what: "a table without counters".to_owned() });
        }
        if self.has_forgotten() {
            return Err(Refusal::Refilling);
        }
        let terms =
            Terms { heals: false, max_bytes: MAX_MINTED_BYTES, generation: None, pace: Pace::Now };
        // Before the row is looked at.
        let generation = self.generation(place.leaf.tree).map_err(|e| self.refuse_storage(&e))?;
        let outcome = self
            .update(&place, terms, |record| {
                if self.env.mono() + self.committer.wait() >= deadline {
                    return Err(Refusal::Late);
                }
                self.count_on(record, &count)
            })
            .await;
        answer(outcome.map(|((), record)| Response::Counted(record, generation)))
    }

    /// The pure part, under the row's lock.
    fn count_on(&self, record: &mut Record, count: &Count) -> Result<Change<()>, Refusal> {
        match record.find_op(count.op, 0) {
            OpMemory::Applied(_) => return Ok(Change::Keep(())),
            OpMemory::Unknown => {}
            OpMemory::Reused | OpMemory::Refused(_) | OpMemory::Barred | OpMemory::Forgotten => {
                let oldest = record.op_entries().first().map_or(count.op, |entry| entry.op);
                return Err(Refusal::OperationForgotten { oldest });
            }
        }
        let held = record.row().cloned().unwrap_or_default();
        let above = held.max_stamp().unwrap_or(0).saturating_add(1);
        let stamp = i64::try_from(self.stamps.clock.tick().0).unwrap_or(i64::MAX).max(above);
        let dot = self.actor.next_dot();
        let path = Bytes::copy_from_slice(&dot.actor.0.to_be_bytes());
        let mut change = Row::default();
        for (column, add) in &count.adds {
            let share = share_of(&held, *column, &path).wrapping_add(*add);
            let bytes = Bytes::copy_from_slice(&share.to_be_bytes());
            let content = Content::Value { bytes, expiry: None };
            change.write_element(*column, path.clone(), Cell { stamp, content });
        }
        record.merge_row(&change);
        let (op, verdict) = (count.op, OpVerdict::Applied);
        let entry = OpEntry { op, dot, request: 0, created: false, delete: false, verdict };
        record.note(entry).map_err(|error| self.not_minted(error))?;
        Ok(Change::Store(()))
    }
}

/// What an actor has counted so far.
fn share_of(row: &Row, column: u16, path: &Bytes) -> i64 {
    let Some(Column::Elements { cells, .. }) = row.column(column) else { return 0 };
    let Some(Content::Value { bytes, .. }) = cells.get(path).map(|cell| &cell.content) else {
        return 0;
    };
    <[u8; 8]>::try_from(&bytes[..]).map_or(0, i64::from_be_bytes)
}
