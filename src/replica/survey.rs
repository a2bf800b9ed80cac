//! Reading a replica's own data through: to build hash trees, and to check them and the rows'
//! checksums again and again (scrubbing).

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bytes::Bytes;

use crate::merkle::{self, Leaf, LeafSet, Tree};
use crate::net::Refusal;
use crate::record;
use crate::replica::trees::{TreeId, place};
use crate::replica::{Replica, shard_of, tree_digest};
use crate::storage::keys::{self, Kind, RowKey};
use crate::storage::{StorageError, SubmitError};
use crate::types::{Digest, Generation, Key, TableId, Token};

/// A survey ends with the leaf in which it has seen this many rows…
const MAX_ROWS: usize = 4_096;

/// …or this many bytes.
const MAX_BYTES: usize = 8 << 20;

/// Damaged keys that one survey names; it counts all.
const MAX_DAMAGED: usize = 256;

/// Trees that are stored in one batch: at most 17 KiB each.
const STORED_AT_ONCE: usize = 64;

/// A row as a replica may show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sound {
    /// Its checksum is right.
    Yes(Digest),
    /// It is damaged.
    No,
}

/// What a survey saw.
#[derive(Debug, Default)]
pub(crate) struct Surveyed {
    /// Where to go on; `None`: the tree is done.
    pub(crate) next: Option<Leaf>,
    /// Rows.
    pub(crate) rows: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
    /// Leaves that were wrong although they were taken for built and all their rows are sound: a
    /// bug, or rows that the disk has lost.
    pub(crate) wrong: u32,
    /// Damaged rows.
    pub(crate) damaged_rows: u64,
    /// The keys of the first of them.
    pub(crate) damaged: Vec<Key>,
}

impl Replica {
    /// Reads the rows of some leaves of a tree, from `first` on, and gives the leaves the values
    /// that they must have. Blocks on the disk: call it through `Env::blocking`.
    ///
    /// # Errors
    /// Any [`StorageError`]; the leaves are then what they were.
    pub(crate) fn survey(&self, id: TreeId, first: Leaf) -> Result<Surveyed, StorageError> {
        self.trees.begin_survey(id, first);
        let surveyed = self.survey_rows(id, first);
        if surveyed.is_err() {
            self.trees.give_up_survey(id);
        }
        surveyed
    }

    fn survey_rows(&self, id: TreeId, first: Leaf) -> Result<Surveyed, StorageError> {
        let (start, end) = self.trees.cut().tokens(id.1, first, Leaf::LAST);
        let range = keys::token_rows(Kind::Record, id.0, start, end);
        let mut seen: BTreeMap<Bytes, (Leaf, u128)> = BTreeMap::new();
        let mut out = Surveyed::default();
        let mut ill = LeafSet::NONE;
        let (mut last, mut size, mut failed) = (first, 0, None);
        self.engine.scan(&range, &mut |row, stored| {
            // A row that could not be read this time is not damaged: a leaf that was built without
            // it would be wrong as soon as it can be read again.
            if let Err(error) = &stored
                && !matches!(error, StorageError::Corrupt { .. })
            {
                failed = Some(error.clone());
                return ControlFlow::Break(());
            }
            let Ok(parsed) = keys::parse_row(row) else {
                out.damaged_rows += 1;
                return ControlFlow::Continue(());
            };
            let leaf = self.trees.at(id.0, parsed.token).leaf;
            if leaf != last && (out.rows as usize >= MAX_ROWS || size >= MAX_BYTES) {
                out.next = last.next();
                return ControlFlow::Break(());
            }
            last = leaf;
            out.rows += 1;
            size += stored.as_ref().map_or(0, |stored| stored.len());
            match self.look_at(id.0, row, &parsed, stored) {
                Some((Sound::Yes(_), value)) => {
                    seen.insert(Bytes::copy_from_slice(row), (leaf, value));
                }
                Some((Sound::No, _)) => {
                    out.damaged_rows += 1;
                    ill.insert(leaf);
                    if out.damaged.len() < MAX_DAMAGED {
                        out.damaged.push(parsed.key);
                    }
                }
                None => {}
            }
            ControlFlow::Continue(())
        })?;
        failed.map_or(Ok(()), Err)?;
        out.bytes = size as u64;
        let last = if out.next.is_some() { last } else { Leaf::LAST };
        self.see_removals(id, (first, last), &mut seen);
        match self.trees.end_survey(id, last, seen, &ill) {
            Some(wrong) => out.wrong = wrong,
            None => out.next = Some(first),
        }
        Ok(out)
    }

    /// Adds the rows that are being removed: the engine has none of them any more, and readers see
    /// them until the removal is acknowledged. (What is acknowledged by now is settled here, and so
    /// noted by the survey.)
    fn see_removals(
        &self,
        id: TreeId,
        (first, last): (Leaf, Leaf),
        seen: &mut BTreeMap<Bytes, (Leaf, u128)>,
    ) {
        for shard in 0..self.shards.len() {
            let mut overlay = self.lock(shard);
            for (row, shown) in overlay.shown_rows(self.committer.acked_seq()) {
                let Ok(parsed) = keys::parse_row(row) else { continue };
                let at = self.trees.at(parsed.table, parsed.token);
                if at.tree != id || at.leaf < first || at.leaf > last || seen.contains_key(row) {
                    continue;
                }
                let address = record::address(id.0, &parsed.key);
                if let Ok(digest) = record::verify(shown, &address) {
                    seen.insert(row.clone(), (at.leaf, tree_digest(&address, shown, digest)));
                }
            }
        }
    }

    /// A row of a scan as readers may see it, with its digest in the tree; `None`: they may not
    /// see it yet.
    pub(super) fn look_at(
        &self,
        table: TableId,
        row: &[u8],
        parsed: &RowKey,
        stored: Result<&[u8], StorageError>,
    ) -> Option<(Sound, u128)> {
        let shown = self.lock(shard_of(parsed.token)).shown(row, self.committer.acked_seq());
        let address = record::address(table, &parsed.key);
        let check = |bytes: &[u8]| match record::verify(bytes, &address) {
            Ok(digest) => (Sound::Yes(digest), tree_digest(&address, bytes, digest)),
            Err(_) => (Sound::No, 0),
        };
        match (shown, stored) {
            (Some(shown), _) => shown.map(|bytes| check(&bytes)),
            (None, Ok(stored)) => Some(check(stored)),
            (None, Err(_)) => Some((Sound::No, 0)),
        }
    }

    /// Tells the replica how the ring is cut, before the first row comes.
    pub(crate) fn set_cut(&self, map: crate::ring::PartitionMap) {
        self.trees.set_cut(map);
    }

    /// Lets the trees show all that is acknowledged by now.
    pub(crate) fn settle_all(&self) {
        let acked = self.committer.acked_seq();
        for shard in 0..self.shards.len() {
            self.lock(shard).settle(acked);
        }
    }

    /// Begins to keep a tree: the stored one if there is one that is sound, else one that is to be
    /// built. Blocks on the disk.
    pub(crate) fn keep_tree(&self, id: TreeId) {
        if self.trees.knows(id) {
            return;
        }
        let stored = match self.engine.get(&keys::tree_row(id.0, id.1)) {
            Ok(Some(stored)) => Tree::decode(&stored, place(id)).or_else(|| {
                tracing::warn!(table = id.0.0, partition = id.1.0, "a stored hash tree is damaged");
                None
            }),
            Ok(None) => None,
            Err(error) => {
                tracing::warn!(%error, "a stored hash tree cannot be read");
                None
            }
        };
        self.trees.add(id, stored);
    }

    /// Stores the trees that have changed since they were stored, as far as no write of theirs is
    /// under way; with `quiet`, at most one batch of those that rest.
    ///
    /// # Errors
    /// Any [`StorageError`]; what is not stored is built anew after the next start.
    pub(crate) async fn store_trees(&self, quiet: bool) -> Result<(), StorageError> {
        loop {
            self.settle_all();
            match self.trees.store(STORED_AT_ONCE, quiet, &self.committer) {
                None => return Ok(()),
                Some(Ok(ticket)) => ticket.await?,
                Some(Err(SubmitError::Refused(error) | SubmitError::Stopped(error))) => {
                    return Err(error);
                }
                Some(Err(_)) => return Err(StorageError::Full),
            }
            if quiet {
                return Ok(());
            }
        }
    }

    /// Answers for some leaves of a tree, in token order: the keys and digests of a page of their
    /// rows after `after`, damaged ones included. Blocks on the disk.
    ///
    /// # Errors
    /// A [`Refusal`].
    pub(crate) fn leaf_rows(
        &self,
        id: TreeId,
        leaves: &[Leaf],
        after: Option<&(Token, Key)>,
        limit: usize,
    ) -> Result<LeafPage, Refusal> {
        let mut page = LeafPage::default();
        let mut looked_at = 0;
        for run in leaves.chunk_by(|a, b| a.next() == Some(*b)) {
            let [first, .., last] = run else {
                self.leaf_run(id, (run[0], run[0]), after, limit, &mut looked_at, &mut page)?;
                continue;
            };
            self.leaf_run(id, (*first, *last), after, limit, &mut looked_at, &mut page)?;
        }
        Ok(page)
    }

    fn leaf_run(
        &self,
        id: TreeId,
        (first, last): (Leaf, Leaf),
        after: Option<&(Token, Key)>,
        limit: usize,
        looked_at: &mut usize,
        page: &mut LeafPage,
    ) -> Result<(), Refusal> {
        let (start, end) = self.trees.cut().tokens(id.1, first, last);
        let mut range = keys::token_rows(Kind::Record, id.0, start, end);
        if let Some((token, key)) = after {
            let mut bound = keys::row(Kind::Record, id.0, *token, key, b"").to_vec();
            bound.push(0);
            range.start = range.start.max(bound.into());
        }
        if page.next.is_some() || range.end.as_ref().is_some_and(|end| *end <= range.start) {
            return Ok(());
        }
        let mut failed = None;
        let scanned = self.engine.scan(&range, &mut |row, stored| {
            if let Err(error) = &stored
                && !matches!(error, StorageError::Corrupt { .. })
            {
                failed = Some(error.clone());
                return ControlFlow::Break(());
            }
            if *looked_at >= limit {
                page.next = page.last.take();
                return ControlFlow::Break(());
            }
            *looked_at += 1;
            let Ok(parsed) = keys::parse_row(row) else { return ControlFlow::Continue(()) };
            page.last = Some((parsed.token, parsed.key.clone()));
            if let Some((sound, _)) = self.look_at(id.0, row, &parsed, stored) {
                page.rows.push(LeafEntry { token: parsed.token, key: parsed.key, sound });
            }
            ControlFlow::Continue(())
        });
        let scanned = scanned.and_then(|()| failed.map_or(Ok(()), Err));
        scanned.map_err(|error| self.refuse_storage(&error))
    }
}

/// Some rows of some leaves.
#[derive(Debug, Default)]
pub(crate) struct LeafPage {
    /// The rows, in (token, key) order.
    pub(crate) rows: Vec<LeafEntry>,
    /// Where to go on, strictly after this place; `None`: that was all.
    pub(crate) next: Option<(Token, Key)>,
    last: Option<(Token, Key)>,
}

/// A row of a leaf.
#[derive(Clone, Debug)]
pub(crate) struct LeafEntry {
    pub(crate) token: Token,
    pub(crate) key: Key,
    pub(crate) sound: Sound,
}

/// For comparing replicas at a glance: the share of a tree in the sum over many.
pub(crate) fn root_share((table, partition): TreeId, root: u128, generation: Generation) -> u128 {
    let mut place = [0; 16];
    place[..4].copy_from_slice(&table.0.to_be_bytes());
    place[4..8].copy_from_slice(&partition.0.to_be_bytes());
    place[8..].copy_from_slice(&generation.0.to_be_bytes());
    merkle::digest(&place, Digest(root))
}
