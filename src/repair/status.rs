//! What repair has found and done: for operators, metrics and tests.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::env::Env;
use crate::replica::TreeId;
use crate::types::{Mono, NodeId, PartitionId, TableId};

/// Counts of what repair has done; for `/metrics`.
#[derive(Debug, Default)]
pub struct RepairCounters {
    /// Comparisons with another replica.
    pub rounds: AtomicU64,
    /// Of them, those that could not be ended, because the other did not answer.
    pub failed: AtomicU64,
    /// Trees that were found to differ.
    pub trees: AtomicU64,
    /// Rows whose digests were compared.
    pub rows: AtomicU64,
    /// Records copied to refill a directory that began anew.
    pub refilled: AtomicU64,
    /// Their bytes.
    pub refilled_bytes: AtomicU64,
    /// Records fetched.
    pub pulled: AtomicU64,
    /// Their bytes.
    pub pulled_bytes: AtomicU64,
    /// Records sent.
    pub pushed: AtomicU64,
    /// Their bytes.
    pub pushed_bytes: AtomicU64,
    /// Damaged copies that were met, here or there.
    pub damaged: AtomicU64,
    /// Leaves built from the data.
    pub surveys: AtomicU64,
    /// Rows that scrubbing has read.
    pub scrubbed_rows: AtomicU64,
    /// Their bytes.
    pub scrubbed_bytes: AtomicU64,
    /// Damaged rows that scrubbing has met.
    pub scrub_damaged: AtomicU64,
    /// Leaves that scrubbing has found wrong and put right.
    pub scrub_wrong_leaves: AtomicU64,
    /// Times that scrubbing has read everything.
    pub scrub_passes: AtomicU64,
}

impl RepairCounters {
    pub(super) fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }
}

/// This node and another replica are apart in a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Apart {
    /// The table.
    pub table: TableId,
    /// The partition.
    pub partition: PartitionId,
    /// The other replica.
    pub peer: NodeId,
    /// Leaves of the hash tree (1/1024 of the range each) in which they differed when last
    /// compared.
    pub leaves: u32,
    /// For how long they have differed, as far as this node knows.
    pub since: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Found {
    leaves: u32,
    since: Mono,
}

/// What repair knows.
#[derive(Debug)]
pub struct Repair {
    env: Env,
    apart: Mutex<BTreeMap<(TreeId, NodeId), Found>>,
    counters: RepairCounters,
}

impl Repair {
    /// Nothing known yet.
    #[must_use]
    pub fn new(env: Env) -> Self {
        Self { env, apart: Mutex::default(), counters: RepairCounters::default() }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(TreeId, NodeId), Found>> {
        self.apart.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts of what was done.
    #[must_use]
    pub fn counters(&self) -> &RepairCounters {
        &self.counters
    }

    /// The ranges in which this node and another replica were found to differ, and have not been
    /// found equal since. Under writes, a few are here for a moment.
    #[must_use]
    pub fn apart(&self) -> Vec<Apart> {
        let now = self.env.mono();
        let found = self.lock();
        let one = |(&((table, partition), peer), found): (&(TreeId, NodeId), &Found)| Apart {
            table,
            partition,
            peer,
            leaves: found.leaves,
            since: now.since(found.since),
        };
        found.iter().map(one).collect()
    }

    /// This node and `peer` differ in so many leaves of `tree`.
    pub(super) fn differ(&self, tree: TreeId, peer: NodeId, leaves: u32) {
        let since = self.env.mono();
        self.lock().entry((tree, peer)).or_insert(Found { leaves, since }).leaves = leaves;
    }

    /// This node and `peer` are equal in `tree`.
    pub(super) fn same(&self, tree: TreeId, peer: NodeId) {
        self.lock().remove(&(tree, peer));
    }

    /// This node and `peer` are equal in all trees.
    pub(super) fn all_same(&self, peer: NodeId) {
        self.lock().retain(|(_, with), _| *with != peer);
    }

    /// Forgets what is not to be compared any more.
    pub(super) fn retain(&self, keep: impl Fn(TreeId) -> bool) {
        self.lock().retain(|(tree, _), _| keep(*tree));
    }
}
