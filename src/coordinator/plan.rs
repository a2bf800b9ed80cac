//! The plan of one operation: which replicas, how many answers, until when, by which epoch.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::coordinator::{Inner, OpError};
use crate::meta::Table;
use crate::quorum::{LevelError, ReplicaInfo, Requirement};
use crate::ring::{RingSnapshot, token_in};
use crate::types::{Consistency, Epoch, Key, MAX_STORED_KEY_BYTES, Mono, NodeId, PartitionId};

/// Which of a partition's replica sets an operation is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Purpose {
    Read,
    Write,
}

/// A plan. Fixed once; never consults the cluster again.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) purpose: Purpose,
    pub(super) epoch: Epoch,
    pub(super) table: Arc<Table>,
    pub(super) partition: PartitionId,
    /// All replicas, in preference order.
    pub(super) replicas: Vec<NodeId>,
    /// Those to ask, the best first: this node, then live ones by what they cost (its own
    /// datacentre before others), then those believed dead.
    pub(super) order: Vec<NodeId>,
    pub(super) live: Vec<NodeId>,
    pub(super) level: Consistency,
    pub(super) requirement: Requirement,
    pub(super) started: Mono,
    pub(super) deadline: Mono,
    pub(super) timeout: Duration,
}

impl Plan {
    /// Replicas of the partition.
    pub(super) fn n(&self) -> u32 {
        u32::try_from(self.replicas.len()).unwrap_or(u32::MAX)
    }

    /// Answers needed in all.
    pub(super) fn required(&self) -> u32 {
        u32::try_from(self.requirement.required()).unwrap_or(u32::MAX)
    }

    /// The first replicas of the order that can satisfy the requirement together.
    pub(super) fn first_contacts(&self) -> usize {
        (1..=self.order.len())
            .find(|&count| self.requirement.alive_suffices(&self.order[..count]))
            .unwrap_or(self.order.len())
    }

    /// True when what R replicas agree on meets every other such quorum: more than half of all.
    pub(super) fn is_quorum(&self) -> bool {
        self.required() * 2 > self.n()
    }

    /// Time left.
    pub(super) fn left(&self, now: Mono) -> Duration {
        self.deadline.since(now)
    }
}

/// Nothing is begun under a key for which no replica has room.
pub(super) fn must_be_storable(key: &Key) -> Result<(), OpError> {
    if key.is_storable() {
        return Ok(());
    }
    Err(OpError::Invalid(format!(
        "Key too long: it has {} bytes, and {MAX_STORED_KEY_BYTES} are allowed (of which a zero byte \
         takes two)",
        key.as_bytes().len()
    )))
}

impl Inner {
    /// Plans an operation on `key`.
    pub(super) fn plan(
        &self,
        purpose: Purpose,
        table: &Arc<Table>,
        key: &Key,
        level: Consistency,
        started: Mono,
        timeout: Duration,
    ) -> Result<Plan, OpError> {
        if purpose == Purpose::Write {
            must_be_storable(key)?;
        }
        let token = token_in(table.id, key);
        let state = self.cluster.state();
        let partition = state.ring().partition_of(token);
        let plan = self.plan_partition(purpose, table, partition, level, started, timeout)?;
        if !plan.replicas.contains(&self.peers.me()) {
            self.counters.forwards.fetch_add(1, Ordering::Relaxed);
        }
        Ok(plan)
    }

    /// Plans an operation on a whole partition.
    pub(super) fn plan_partition(
        &self,
        purpose: Purpose,
        table: &Arc<Table>,
        partition: PartitionId,
        level: Consistency,
        started: Mono,
        timeout: Duration,
    ) -> Result<Plan, OpError> {
        let state = self.cluster.state();
        if state.table(table.id).is_none() {
            return Err(OpError::NoSuchTable);
        }
        let ring = state.ring();
        let placement = ring.placement(&table.settings.replication);
        let set = placement.of(partition);
        let replicas = match purpose {
            Purpose::Read => &set.read,
            Purpose::Write => &set.write,
        };
        let me = self.peers.me();
        let local_dc = ring.datacenter_of(me).unwrap_or("");
        let requirement = requirement(purpose, level, replicas, ring, local_dc)
            .map_err(|error| OpError::BadLevel(error.to_string()))?;

        let live: Vec<NodeId> =
            replicas.iter().copied().filter(|&node| self.cluster.is_live(node)).collect();
        let mut order = replicas.clone();
        if order.len() > 1 {
            let now = self.env.mono();
            // Stable: of equals the one that the ring prefers comes first.
            order.sort_by_cached_key(|&node| {
                let elsewhere = ring.datacenter_of(node).unwrap_or("") != local_dc;
                (!live.contains(&node), node != me, elsewhere, self.snitch.cost(now, node))
            });
        }
        Ok(Plan {
            purpose,
            epoch: state.epoch(),
            table: table.clone(),
            partition,
            replicas: replicas.clone(),
            order,
            live,
            level,
            requirement,
            started,
            deadline: started + timeout,
            timeout,
        })
    }

    /// Whether operations planned like this one always meet the table's operations of the other
    /// kind, at the level that those have by default: reads what writes leave, and writes what
    /// reads look at.
    pub(super) fn overlaps(&self, plan: &Plan) -> bool {
        let state = self.cluster.state();
        let ring = state.ring();
        let settings = &plan.table.settings;
        if settings.sloppy {
            // What stands in for a replica is asked by no read.
            return false;
        }
        let (purpose, level) = match plan.purpose {
            Purpose::Read => (Purpose::Write, settings.write_level),
            Purpose::Write => (Purpose::Read, settings.read_level),
        };
        let local_dc = ring.datacenter_of(self.peers.me()).unwrap_or("");
        requirement(purpose, level, &plan.replicas, ring, local_dc)
            .is_ok_and(|other| plan.requirement.always_meets(&other))
    }
}

fn requirement(
    purpose: Purpose,
    level: Consistency,
    replicas: &[NodeId],
    ring: &RingSnapshot,
    local_dc: &str,
) -> Result<Requirement, LevelError> {
    let infos: Vec<ReplicaInfo<'_>> = replicas
        .iter()
        .map(|&node| ReplicaInfo { node, datacenter: ring.datacenter_of(node).unwrap_or("") })
        .collect();
    match purpose {
        Purpose::Read => Requirement::for_read(level, &infos, local_dc),
        Purpose::Write => Requirement::for_write(level, &infos, local_dc),
    }
}
