//! Tombstones go by proof (law L4): when every replica is known to hold them, and never by age.
//!
//! # The problem
//!
//! A tombstone is what keeps a deleted value from coming back. If one replica drops it while a copy
//! of the value is left anywhere (on a replica that was away, in a hint, in a packet on its way, in
//! an old backup), that copy looks like news, and anti-entropy spreads it. Systems that drop
//! tombstones by age ("run repair more often than `gc_grace_seconds`") lose deletes so. The same
//! goes for records whose values have all expired: they cover the values that they replaced.
//!
//! # The idea
//!
//! 1. A partition's *leader*, its replica of the lowest id, looks for records that have been dead
//!    for the table's grace time. It asks *every member* whether it keeps hints about them, and
//!    *every replica* whether it holds them, byte for byte, on its disk. Each one that does notes
//!    durably that it agreed (*prepare*).
//! 2. What all of them hold, all remove (*commit*). Since records only grow by merging, a replica
//!    that held a record in 1 holds it, or more, in 2; what has become more by then stays.
//! 3. Removing raises the partition's *generation*, in the same batch. Every record that travels
//!    carries the generation that it was read at, so that any copy from before the purge is known
//!    for what it is, however late it comes: a replica refuses it ([`crate::replica`], rule 18 of
//!    the design). The purged keys themselves are remembered for some purges, so that nothing else
//!    is refused.
//!
//! Example: A, B and C hold tombstone T, generation 4. A packet with T's value, read from C at 4, is
//! stuck somewhere. A leads: all prepare T for 5; A and B remove it and are at 5. Now the packet
//! reaches A. 4 < 5, and the key is among those purged for 5: refused. C, which has not removed T
//! yet, mints a new value on top of T and sends it, at 4: refused by A too, and the coordinator has
//! C catch up. C's record is not T any more, so it stays; it is sent again, at 5, and taken.
//!
//! # When things fail
//!
//! - A replica, or the leader, dies after some have removed the rows: whoever meets a later
//!   generation, in a record, in a tree comparison, or told by a coordinator, asks the others what
//!   was purged, and does the same ([`Purge::catch_up`]). The leader tells every replica until it
//!   has, and again after its own restart: a deleted key that nobody touches is met by no record,
//!   and the purge is not to rest on tree comparisons. Whoever led before anyone committed leaves nothing but
//!   notes of agreement, which bind nobody: any replica at the old generation may agree to the next
//!   plan.
//! - A replica that has *not* agreed to what others have purged is an older copy of its directory,
//!   which did not tell in any other way. It ends its history and is refilled (rule 17); while it is
//!   refilled it removes what it has under the purged keys, or, if nobody remembers them, all rows
//!   of the partition.
//! - A row that cannot be read is not held: it blocks the purge until it is healed.
//!
//! Grace is liveness only: it keeps tombstones while clients may still repeat operations that they
//! deleted (an operation that is sent again after its record was purged is new to everyone). It is
//! reckoned by clocks that may be wrong; nothing else here is.
//!
//! Whoever blocks a purge is shown ([`Purge::blocked`]). Waiting is right, and costs space only.
//!
//! Source: the idea of agreeing before dropping is that of "safe" garbage collection with causal
//! stability (Baquero et al., pure op-based CRDTs); DottedDB (Gonçalves et al., 2017) has a vector
//! per partition in place of generations and needs no agreement, at the price of a dot per write.
//! Left out: Paxos state of purged keys; ownership that moves while a purge is prepared, since the
//! ring does not change yet (a new owner would take over the generation as a refilled one does).

mod answer;
mod catch_up;
mod rounds;
mod status;

use std::sync::Arc;
use std::time::Duration;

use crate::cluster::Cluster;
use crate::env::Env;
use crate::meta::ClusterState;
use crate::net::{Peers, Refusal};
use crate::repair::hints::HintStore;
use crate::replica::{Replica, TreeId};
use crate::storage::StorageError;
use crate::types::{Generation, NodeId};

pub use status::{Blocked, Obstacle, PurgeCounters};

/// How a node purges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PurgeOptions {
    /// How often it is looked which partitions may have something to purge.
    pub interval: Duration,
    /// Of the disk's time, how much looking through partitions may take, in percent.
    pub percent: u32,
    /// The longest pause between two looks through one partition that has dead records.
    pub longest_pause: Duration,
}

impl Default for PurgeOptions {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(10),
            percent: 5,
            longest_pause: Duration::from_secs(600),
        }
    }
}

/// A node's part in purges: leads those of some partitions, answers those of all.
pub struct Purge {
    env: Env,
    cluster: Arc<Cluster>,
    peers: Peers,
    replica: Arc<Replica>,
    hints: Arc<HintStore>,
    options: PurgeOptions,
    obstacles: status::Obstacles,
    counters: PurgeCounters,
}

impl std::fmt::Debug for Purge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Purge").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Purge {
    /// The part of the node behind `replica`.
    #[must_use]
    pub fn new(
        env: Env,
        cluster: Arc<Cluster>,
        peers: Peers,
        replica: Arc<Replica>,
        hints: Arc<HintStore>,
        options: PurgeOptions,
    ) -> Arc<Self> {
        let (obstacles, counters) = (status::Obstacles::new(env.clone()), PurgeCounters::default());
        Arc::new(Self { env, cluster, peers, replica, hints, options, obstacles, counters })
    }

    /// Starts the task that leads purges.
    pub(crate) fn start(self: &Arc<Self>) {
        self.env.spawn("purge", rounds::run(self.clone()));
    }

    /// The ranges, of those whose purges this node leads, in which dead records stay although their
    /// grace time is over, and who is in the way.
    #[must_use]
    pub fn blocked(&self) -> Vec<Blocked> {
        self.obstacles.list()
    }

    /// What was done so far.
    #[must_use]
    pub fn counters(&self) -> &PurgeCounters {
        &self.counters
    }

    /// The purge generation of this node's replica of a partition.
    ///
    /// # Errors
    /// Any [`StorageError`].
    pub(crate) fn generation(&self, id: TreeId) -> Result<Generation, StorageError> {
        self.replica.generation(id)
    }

    fn me(&self) -> NodeId {
        self.cluster.me()
    }

    fn replicas(&self, state: &ClusterState, (table, partition): TreeId) -> Vec<NodeId> {
        let Some(table) = state.table(table) else { return Vec::new() };
        let placement = state.ring().placement(&table.settings.replication);
        if partition.0 >= state.ring().map().q() {
            return Vec::new();
        }
        placement.of(partition).write.clone()
    }

    fn other_replicas(&self, state: &ClusterState, id: TreeId) -> Vec<NodeId> {
        let mut others = self.replicas(state, id);
        others.retain(|&node| node != self.me());
        others
    }
}

/// A failure of this node's storage, for whoever asked.
fn within(error: &StorageError) -> Refusal {
    match error {
        StorageError::Full => Refusal::DiskFull,
        error => Refusal::Storage { message: error.to_string() },
    }
}
