//! Looking through a partition for records that are dead: tombstones, and records whose values have
//! all expired.
//!
//! Of a CQL partition, a row is dead too if the head deletes all that is in it: it may go while the
//! head stays, and late copies of it are fenced as those of any purged record. The head itself stays
//! once it deletes rows. To let it go, no replica may hold, or yet take in, any row that it covers;
//! and what is refused for a purged key is known by that key, not by a range.

use std::ops::ControlFlow;

use bytes::Bytes;

use crate::merkle::Leaf;
use crate::net::purge::MAX_SET_ROWS;
use crate::record::{self, Record, Row};
use crate::replica::{Replica, TreeId, shard_of};
use crate::storage::keys::{self, Kind};
use crate::storage::{KeyRange, StorageError};
use crate::types::{Digest, Key, Token, WallMicros};

/// A look ends once it has seen this many rows…
const MAX_ROWS: usize = 2_048;

/// …or this many bytes.
const MAX_BYTES: usize = 4 << 20;

/// …or has found so many bytes of keys: they go into a message.
const MAX_KEY_BYTES: usize = 256 << 10;

/// A dead record.
#[derive(Clone, Debug)]
pub(crate) struct Dead {
    pub(crate) key: Key,
    pub(crate) digest: Digest,
}

/// Part of a look through a partition.
#[derive(Debug, Default)]
pub(crate) struct DeadPage {
    /// Dead since before the instant asked for; at most [`MAX_SET_ROWS`].
    pub(crate) dead: Vec<Dead>,
    /// When the first of the others died or will die.
    pub(crate) later: Option<WallMicros>,
    /// Where to go on, strictly after this place; `None`: that was all.
    pub(crate) next: Option<(Token, Key)>,
}

/// The heads met while rows are looked through, in their order.
#[derive(Default)]
struct Heads {
    /// Rows have heads.
    clustered: bool,
    /// The latest one, by its partition key.
    head: Option<(Bytes, Row)>,
}

impl Heads {
    /// From when on nothing of a record lives; `None`: it does, or is to stay.
    fn dead_at(&mut self, key: &Key, record: Record) -> Option<WallMicros> {
        let parts = key.row_parts().filter(|_| self.clustered);
        let Some((partition, clustering)) = parts else { return record.dead_at() };
        if clustering.is_empty() {
            let (dead_at, row) = (record.dead_at(), record.row().cloned()?);
            let covers = row.deleted().is_some() || !row.ranges().is_empty();
            self.head = covers.then(|| (Bytes::copy_from_slice(partition), row));
            return dead_at.filter(|_| !covers);
        }
        let head = self.head.as_ref().filter(|(own, _)| own.as_ref() == partition);
        let under = || record.row()?.dead_under(&head?.1, clustering);
        record.dead_at().or_else(under)
    }
}

impl Replica {
    fn rows_of(&self, id: TreeId, after: Option<&(Token, Key)>) -> KeyRange {
        let (first, last) = self.trees.cut().tokens(id.1, Leaf::FIRST, Leaf::LAST);
        let mut range = keys::token_rows(Kind::Record, id.0, first, last);
        if let Some((token, key)) = after {
            let mut bound = keys::row(Kind::Record, id.0, *token, key, b"").to_vec();
            bound.push(0);
            range.start = range.start.max(bound.into());
        }
        range
    }

    /// Looks through part of a partition for records of which nothing has lived since `before`: by
    /// themselves, or, rows of a partition with a head (`clustered`), by what the head deletes. A
    /// head that deletes rows is never among them, as it covers what lies in other records. Rows
    /// with writes under way, and rows that cannot be read, are passed by. Blocks on the disk.
    ///
    /// # Errors
    /// Any [`StorageError`].
    pub(crate) fn dead_rows(
        &self,
        id: TreeId,
        after: Option<&(Token, Key)>,
        before: WallMicros,
        clustered: bool,
    ) -> Result<DeadPage, StorageError> {
        let mut page = DeadPage::default();
        let (mut rows, mut bytes, mut key_bytes) = (0, 0, 0);
        let mut last = None;
        let range = self.rows_of(id, after);
        if range.is_empty() {
            return Ok(page);
        }
        let mut heads = Heads { clustered, ..Heads::default() };
        if let Some((token, key)) = after.filter(|_| clustered) {
            heads.head = self.head_of(id, *token, key)?;
        }
        let mut failed = None;
        self.engine.scan(&range, &mut |row, stored| {
            let full = rows >= MAX_ROWS || bytes >= MAX_BYTES;
            if full || page.dead.len() >= MAX_SET_ROWS || key_bytes >= MAX_KEY_BYTES {
                page.next = last.take();
                return ControlFlow::Break(());
            }
            rows += 1;
            let Ok(parsed) = keys::parse_row(row) else { return ControlFlow::Continue(()) };
            last = Some((parsed.token, parsed.key.clone()));
            let stored = match stored {
                Ok(stored) => stored,
                Err(StorageError::Corrupt { .. }) => return ControlFlow::Continue(()),
                Err(error) => {
                    failed = Some(error);
                    return ControlFlow::Break(());
                }
            };
            bytes += stored.len();
            let acked = self.committer.acked_seq();
            if self.lock(shard_of(parsed.token)).newest(row, acked).is_some() {
                // It notes itself when it dies, and when that is looked for again.
                page.later = Some(WallMicros(0));
                return ControlFlow::Continue(());
            }
            let address = record::address(id.0, &parsed.key);
            let Ok(record) = Record::decode(&Bytes::copy_from_slice(stored), &address) else {
                return ControlFlow::Continue(());
            };
            let Some(dead_at) = heads.dead_at(&parsed.key, record) else {
                return ControlFlow::Continue(());
            };
            if dead_at > before {
                page.later = Some(page.later.map_or(dead_at, |later| later.min(dead_at)));
            } else if let Ok(digest) = record::stored_digest(stored) {
                key_bytes += parsed.key.as_bytes().len();
                page.dead.push(Dead { key: parsed.key, digest });
            }
            ControlFlow::Continue(())
        })?;
        failed.map_or(Ok(page), Err)
    }

    /// The head of the partition of a row, if it can be read: what it deletes is on the disk.
    pub(super) fn head_of(
        &self,
        id: TreeId,
        token: Token,
        key: &Key,
    ) -> Result<Option<(Bytes, Row)>, StorageError> {
        let Some((partition, _)) = key.row_parts() else { return Ok(None) };
        let Ok(head) = Key::of_row(partition, b"") else { return Ok(None) };
        let stored = match self.engine.get(&keys::row(Kind::Record, id.0, token, &head, b"")) {
            Ok(stored) => stored,
            Err(StorageError::Corrupt { .. }) => None,
            Err(error) => return Err(error),
        };
        let address = record::address(id.0, &head);
        let record = stored.and_then(|stored| Record::decode(&stored, &address).ok());
        let row = record.and_then(|record| record.row().cloned());
        Ok(row.map(|row| (Bytes::copy_from_slice(partition), row)))
    }

    /// The first keys of a partition, at most [`MAX_SET_ROWS`]; with no digests, since the rows are
    /// to go whatever they are.
    pub(super) fn first_rows(&self, id: TreeId) -> Result<Vec<(Key, Digest)>, StorageError> {
        let mut rows = Vec::new();
        self.engine.scan(&self.rows_of(id, None), &mut |row, _| {
            if let Ok(parsed) = keys::parse_row(row) {
                let acked = self.committer.acked_seq();
                let newest = self.lock(shard_of(parsed.token)).newest(row, acked);
                if newest != Some(None) {
                    rows.push((parsed.key, Digest::default()));
                }
            }
            match rows.len() < MAX_SET_ROWS {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        })?;
        Ok(rows)
    }
}
