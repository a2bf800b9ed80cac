//! The hash trees of a replica, one per partition of a table, current with every settled write.
//!
//! # Only what is durable
//!
//! A version changes its tree when the overlay settles it, never before (rule 6): a tree that
//! showed a write before its sync would claim, after a crash, what the store has lost. The change
//! itself (old digest ^ new digest) was computed when the version was staged, under its row's lock;
//! a version that a full disk takes back takes its change with it.
//!
//! # Across restarts
//!
//! A stored tree is a row of its own, and it is there only while it is true: the first write after
//! it was stored removes it *in the same batch* ([`Trees::stage`]). So whatever a crash leaves, a
//! stored tree that is found at a start describes the data that is found beside it; where there is
//! none, the tree is built from the data. A tree is stored only while none of its writes is under
//! way, and its row travels through the same committer as the writes, so their order is theirs.
//!
//! # Built beside writes
//!
//! Leaves are built from a scan while writes go on ([`crate::replica::Replica::survey`]). For the
//! time of the scan, every row that settles is noted with the digest that it settled at. What the
//! scan saw of such a row may be old or new; the note overrides it. All other rows did not change,
//! so what the scan saw of them is what is there. At the end, in one step under the lock, the leaf
//! gets the XOR of both. No write waits, and nothing is compared "under quiescence".
//!
//! Locks: a shard's lock may be held when the trees' lock is taken, never the other way round.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;

use crate::merkle::{Cut, GROUP, GROUPS, Leaf, LeafSet, Tree};
use crate::plants::{Plant, planted};
use crate::ring::PartitionMap;
use crate::storage::keys;
use crate::storage::{Batch, CommitTicket, Committer, Pace, SubmitError};
use crate::types::{PartitionId, TableId, Token};

/// Rows that may settle in a tree during one survey; past it, the survey is given up and begun
/// again. A survey looks at some thousand rows and lasts milliseconds.
const MAX_NOTED: usize = 65_536;

/// A partition of a table: what one tree describes.
pub(crate) type TreeId = (TableId, PartitionId);

/// Where a row's digest goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LeafAt {
    pub(super) tree: TreeId,
    pub(super) leaf: Leaf,
}

/// What a version does to its leaf once it is settled.
#[derive(Clone, Copy, Debug)]
pub(super) struct LeafChange {
    pub(super) at: LeafAt,
    /// Old digest ^ new digest. `None`: the version took the place of a damaged one, whose digest
    /// nobody knows any more; the leaf is then built anew.
    pub(super) change: Option<u128>,
    /// The new digest.
    pub(super) value: u128,
}

/// A survey under way.
#[derive(Debug)]
struct Survey {
    first: Leaf,
    /// Rows that settled since it began, with what they settled at.
    settled: BTreeMap<Bytes, (Leaf, u128)>,
    overrun: bool,
}

/// What is known of the stored tree on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stored {
    /// There is none.
    No,
    /// There may be one: the next write must remove it.
    Maybe,
    /// There is one, and it is this tree: the next write must remove it.
    Yes,
}

#[derive(Debug)]
struct Live {
    tree: Tree,
    /// Leaves whose values mean nothing yet.
    unbuilt: LeafSet,
    /// Versions staged and not settled.
    under_way: usize,
    stored: Stored,
    /// Written to since somebody last looked.
    restless: bool,
    survey: Option<Survey>,
}

impl Live {
    fn unbuilt() -> Self {
        Self {
            tree: Tree::default(),
            unbuilt: LeafSet::ALL,
            under_way: 0,
            stored: Stored::Maybe,
            restless: false,
            survey: None,
        }
    }

    fn is_built(&self) -> bool {
        self.unbuilt.is_empty()
    }
}

/// All trees of a replica.
#[derive(Debug, Default)]
pub(crate) struct Trees {
    cut: OnceLock<Cut>,
    live: Mutex<BTreeMap<TreeId, Live>>,
}

/// How far the trees of a node are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TreeCounts {
    /// Trees.
    pub trees: usize,
    /// Of them, those that are still being built from the data.
    pub unbuilt: usize,
}

impl Trees {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<TreeId, Live>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells how the ring is cut, before the first row comes. Only the first call counts: the cut
    /// is for ever.
    pub(super) fn set_cut(&self, map: PartitionMap) {
        self.cut.get_or_init(|| Cut::new(map));
    }

    pub(super) fn cut(&self) -> Cut {
        self.cut.get().copied().unwrap_or(Cut::new(PartitionMap::WHOLE))
    }

    pub(super) fn at(&self, table: TableId, token: Token) -> LeafAt {
        let (partition, leaf) = self.cut().place(token);
        LeafAt { tree: (table, partition), leaf }
    }

    /// Submits a write of a row at `at`, together with the removal of the stored tree that it makes
    /// untrue.
    pub(super) fn stage(
        &self,
        at: LeafAt,
        batch: Batch,
        (committer, pace): (&Committer, Pace),
    ) -> Result<CommitTicket, SubmitError> {
        self.stage_many(at.tree, 1, batch, (committer, pace))
    }

    /// The same for one write of `rows` rows of a tree.
    pub(super) fn stage_many(
        &self,
        tree: TreeId,
        rows: usize,
        mut batch: Batch,
        (committer, pace): (&Committer, Pace),
    ) -> Result<CommitTicket, SubmitError> {
        if planted(Plant::NoTrees) {
            return committer.submit_at(pace, batch);
        }
        let mut trees = self.lock();
        let live = trees.entry(tree).or_insert_with(Live::unbuilt);
        if live.stored != Stored::No {
            batch.delete(keys::tree_row(tree.0, tree.1));
        }
        let ticket = committer.submit_at(pace, batch)?;
        live.stored = Stored::No;
        live.restless = true;
        live.under_way += rows;
        Ok(ticket)
    }

    /// A staged version of `row` is acknowledged.
    pub(super) fn settle(&self, row: &Bytes, change: &LeafChange) {
        if planted(Plant::NoTrees) {
            return;
        }
        let mut trees = self.lock();
        let Some(live) = trees.get_mut(&change.at.tree) else { return };
        live.under_way = live.under_way.saturating_sub(1);
        let leaf = change.at.leaf;
        match change.change {
            Some(change) => live.tree.fold(leaf, change),
            None => live.unbuilt.insert(leaf),
        }
        if let Some(survey) = &mut live.survey
            && leaf >= survey.first
        {
            survey.settled.insert(row.clone(), (leaf, change.value));
            survey.overrun |= survey.settled.len() > MAX_NOTED;
        }
    }

    /// A staged version was refused.
    pub(super) fn forget(&self, change: &LeafChange) {
        if let Some(live) = self.lock().get_mut(&change.at.tree) {
            live.under_way = live.under_way.saturating_sub(1);
        }
    }

    /// A full disk has refused batches, and with them, it may be, removals of stored trees.
    pub(super) fn rolled_back(&self) {
        self.lock().values_mut().for_each(|live| live.stored = Stored::Maybe);
    }

    /// True when the tree is known here, built or not.
    pub(super) fn knows(&self, id: TreeId) -> bool {
        self.lock().contains_key(&id)
    }

    /// Adds a tree that was found stored, unless a write was staged in it since the start. `None`:
    /// none was found, so it is to be built.
    pub(super) fn add(&self, id: TreeId, stored: Option<Tree>) {
        self.lock().entry(id).or_insert_with(|| match stored {
            Some(tree) => {
                Live { tree, unbuilt: LeafSet::NONE, stored: Stored::Yes, ..Live::unbuilt() }
            }
            None => Live::unbuilt(),
        });
    }

    /// Forgets the trees of which `keep` is false.
    pub(crate) fn retain(&self, keep: impl Fn(TreeId) -> bool) {
        self.lock().retain(|&id, live| live.under_way > 0 || keep(id));
    }

    /// The root of a tree; `None` until it is built.
    pub(crate) fn root(&self, id: TreeId) -> Option<u128> {
        self.lock().get(&id).filter(|live| live.is_built()).map(|live| live.tree.root())
    }

    /// The roots of many trees, in one step.
    pub(crate) fn roots(&self, ids: &[TreeId]) -> Vec<Option<u128>> {
        let trees = self.lock();
        let root = |id| trees.get(id).filter(|live| live.is_built()).map(|live| live.tree.root());
        ids.iter().map(root).collect()
    }

    /// The groups of a tree; `None` until it is built.
    pub(crate) fn groups(&self, id: TreeId) -> Option<[u128; GROUPS]> {
        self.lock().get(&id).filter(|live| live.is_built()).map(|live| live.tree.groups())
    }

    /// The leaves of one group of a tree; `None` until it is built.
    pub(crate) fn leaves_of(&self, id: TreeId, group: usize) -> Option<[u128; GROUP]> {
        self.lock().get(&id).filter(|live| live.is_built()).map(|live| live.tree.leaves_of(group))
    }

    /// A tree that is not built, and the first of its leaves that are not.
    pub(crate) fn next_unbuilt(&self) -> Option<(TreeId, Leaf)> {
        let trees = self.lock();
        trees.iter().find_map(|(&id, live)| Some((id, live.unbuilt.first_run()?.0)))
    }

    /// The first tree after `after`, round and round.
    pub(crate) fn next_after(&self, after: Option<TreeId>) -> Option<TreeId> {
        let trees = self.lock();
        let next = after.and_then(|after| trees.keys().find(|id| **id > after));
        next.or_else(|| trees.keys().next()).copied()
    }

    /// How many there are.
    pub(crate) fn counts(&self) -> TreeCounts {
        let trees = self.lock();
        let unbuilt = trees.values().filter(|live| !live.is_built()).count();
        TreeCounts { trees: trees.len(), unbuilt }
    }

    /// Begins a survey of the leaves from `first` on. One at a time per tree: a second one takes
    /// over.
    pub(super) fn begin_survey(&self, id: TreeId, first: Leaf) {
        let survey = Survey { first, settled: BTreeMap::new(), overrun: false };
        self.lock().entry(id).or_insert_with(Live::unbuilt).survey = Some(survey);
    }

    /// Ends a survey whose scan failed.
    pub(super) fn give_up_survey(&self, id: TreeId) {
        if let Some(live) = self.lock().get_mut(&id) {
            live.survey = None;
        }
    }

    /// Ends a survey that saw `seen` in the leaves up to `last`; gives them the values that they
    /// must have. Returns how many leaves were wrong although they were taken for built, those
    /// with `damaged` rows aside; `None` if too much happened meanwhile.
    pub(super) fn end_survey(
        &self,
        id: TreeId,
        last: Leaf,
        mut seen: BTreeMap<Bytes, (Leaf, u128)>,
        damaged: &LeafSet,
    ) -> Option<u32> {
        let mut trees = self.lock();
        let live = trees.get_mut(&id)?;
        let Survey { first, settled, overrun } = live.survey.take()?;
        if overrun {
            return None;
        }
        seen.extend(settled);
        let mut values: BTreeMap<Leaf, u128> = BTreeMap::new();
        for (leaf, value) in seen.into_values() {
            *values.entry(leaf).or_default() ^= value;
        }
        let mut wrong = 0;
        for leaf in first.to(last) {
            let value = values.get(&leaf).copied().unwrap_or_default();
            let built = !live.unbuilt.contains(leaf) && !damaged.contains(leaf);
            wrong += u32::from(built && live.tree.leaf(leaf) != value);
            if live.tree.leaf(leaf) != value && live.stored == Stored::Yes {
                live.stored = Stored::Maybe;
            }
            live.tree.set(leaf, value);
            live.unbuilt.remove(leaf);
        }
        Some(wrong)
    }

    /// Submits up to `max` trees to be stored: built ones that are not stored and have no write
    /// under way; with `quiet`, only those that nobody wrote to since the last
    /// such call. `None`: there are none.
    pub(super) fn store(
        &self,
        max: usize,
        quiet: bool,
        committer: &Committer,
    ) -> Option<Result<CommitTicket, SubmitError>> {
        let mut trees = self.lock();
        let (mut batch, mut stored) = (Batch::new(), Vec::new());
        for (&id, live) in trees.iter_mut() {
            let may = live.is_built() && live.stored != Stored::Yes && live.under_way == 0;
            let restless = quiet && std::mem::take(&mut live.restless);
            if may && !restless && stored.len() < max {
                batch.put(keys::tree_row(id.0, id.1), live.tree.encode(place(id)));
                stored.push(id);
            }
        }
        if stored.is_empty() {
            return None;
        }
        let ticket = committer.submit(batch);
        if ticket.is_ok() {
            for id in stored {
                trees.entry(id).and_modify(|live| live.stored = Stored::Yes);
            }
        }
        Some(ticket)
    }
}

/// What a stored tree is bound to.
pub(super) fn place((table, partition): TreeId) -> u64 {
    u64::from(table.0) << 32 | u64::from(partition.0)
}
