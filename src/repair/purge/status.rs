//! What purges have done, and who blocks them.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::env::Env;
use crate::replica::TreeId;
use crate::types::{Mono, NodeId, PartitionId, TableId};

/// Counts of what purges have done; for `/metrics`.
#[derive(Debug, Default)]
pub struct PurgeCounters {
    /// Looks through partitions for dead records.
    pub looks: AtomicU64,
    /// Purges that all replicas agreed to, led by this node.
    pub purges: AtomicU64,
    /// Records that they removed, from each replica.
    pub rows: AtomicU64,
    /// Purges that were put off because of somebody.
    pub blocked: AtomicU64,
    /// Purges that this node's replica had missed and caught up with.
    pub caught_up: AtomicU64,
}

/// Why dead records stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// The node is away or does not answer.
    Away,
    /// It keeps hints about some of the keys for other nodes.
    Hints,
    /// Its replica does not hold the same records (yet), or cannot read them.
    Differs,
    /// It is being refilled, cannot write, or refuses for another reason.
    Refuses,
    /// Its replica has purged less, or more, and has to catch up first.
    OtherGeneration,
}

impl Obstacle {
    /// A word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Away => "away",
            Self::Hints => "hints",
            Self::Differs => "differs",
            Self::Refuses => "refuses",
            Self::OtherGeneration => "other_generation",
        }
    }
}

/// Dead records of a range that cannot be purged, as the node that leads its purges knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// The table.
    pub table: TableId,
    /// The partition.
    pub partition: PartitionId,
    /// Who blocks it.
    pub node: NodeId,
    /// Why.
    pub why: Obstacle,
    /// How many records were to go when it was tried last.
    pub rows: u32,
    /// For how long it has been blocked.
    pub since: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Found {
    why: Obstacle,
    rows: u32,
    since: Mono,
}

/// See [`Blocked`].
#[derive(Debug)]
pub(super) struct Obstacles {
    env: Env,
    found: Mutex<BTreeMap<(TreeId, NodeId), Found>>,
}

impl Obstacles {
    pub(super) fn new(env: Env) -> Self {
        Self { env, found: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(TreeId, NodeId), Found>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A look through a partition ended, and these stood in the way.
    pub(super) fn replace(&self, id: TreeId, now: &BTreeMap<NodeId, (Obstacle, u32)>) {
        let mono = self.env.mono();
        let mut found = self.lock();
        found.retain(|(of, node), _| *of != id || now.contains_key(node));
        for (&node, &(why, rows)) in now {
            let entry = found.entry((id, node)).or_insert(Found { why, rows, since: mono });
            (entry.why, entry.rows) = (why, rows);
        }
    }

    /// Forgets ranges whose purges this node does not lead any more.
    pub(super) fn retain(&self, keep: impl Fn(TreeId) -> bool) {
        self.lock().retain(|(id, _), _| keep(*id));
    }

    pub(super) fn list(&self) -> Vec<Blocked> {
        let now = self.env.mono();
        let one = |(&((table, partition), node), found): (&(TreeId, NodeId), &Found)| Blocked {
            table,
            partition,
            node,
            why: found.why,
            rows: found.rows,
            since: now.since(found.since),
        };
        self.lock().iter().map(one).collect()
    }
}
