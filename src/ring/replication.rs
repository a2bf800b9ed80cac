//! Which nodes keep a partition: Cassandra's two placement strategies.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::RingSnapshot;
use crate::types::{NodeId, PartitionId};

/// How many replicas a keyspace has, and where.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Replication {
    /// The owner and the next distinct nodes clockwise, wherever they stand.
    Simple {
        /// Number of replicas.
        factor: u8,
    },
    /// In each datacentre so many, on distinct racks first.
    NetworkTopology {
        /// Number of replicas by datacentre. A datacentre that is not named has none.
        factors: BTreeMap<String, u8>,
    },
}

/// A replication under which nothing would be kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a replication factor of 0 keeps nothing: ask for at least one replica")]
pub struct ReplicationError;

impl Replication {
    /// Refuses a replication without any replica. (One that asks for more than the ring has
    /// nodes is allowed, as in Cassandra: they may join later.)
    ///
    /// # Errors
    /// [`ReplicationError`].
    pub fn check(&self) -> Result<(), ReplicationError> {
        if self.total() == 0 { Err(ReplicationError) } else { Ok(()) }
    }

    /// How many replicas are asked for, over all datacentres.
    #[must_use]
    pub fn total(&self) -> u32 {
        match self {
            Self::Simple { factor } => u32::from(*factor),
            Self::NetworkTopology { factors } => factors.values().map(|&f| u32::from(f)).sum(),
        }
    }

    /// Prepares to walk `ring`.
    pub(super) fn walk<'a>(&'a self, ring: &'a RingSnapshot) -> Walk<'a> {
        match self {
            Self::Simple { factor } => {
                // No more than there are, or each walk would go round the whole ring in vain.
                let owning = ring.owners().iter().collect::<BTreeSet<_>>().len();
                Walk { ring, rule: Rule::Simple { nodes: owning.min(usize::from(*factor)) } }
            }
            Self::NetworkTopology { factors } => {
                Walk { ring, rule: Rule::NetworkTopology(budgets(ring, factors)) }
            }
        }
    }
}

impl fmt::Display for Replication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Simple { factor } => write!(f, "simple: {factor}"),
            Self::NetworkTopology { factors } => {
                f.write_str("network topology:")?;
                for (i, (datacenter, factor)) in factors.iter().enumerate() {
                    write!(f, "{} {datacenter} {factor}", if i > 0 { "," } else { "" })?;
                }
                Ok(())
            }
        }
    }
}

/// The replicas of one partition, most preferred first. Read set and write set are equal unless
/// the partition is moving; whoever counts answers counts each set apart.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct ReplicaSet {
    /// Whom a read asks.
    pub read: Vec<NodeId>,
    /// To whom a write goes.
    pub write: Vec<NodeId>,
}

impl ReplicaSet {
    /// One set for both reads and writes.
    #[must_use]
    pub fn settled(nodes: Vec<NodeId>) -> Self {
        Self { read: nodes.clone(), write: nodes }
    }

    /// True when `node` is in either set.
    #[must_use]
    pub fn contains(&self, node: NodeId) -> bool {
        self.read.contains(&node) || self.write.contains(&node)
    }
}

/// What a partition that does not exist has.
static NO_REPLICAS: ReplicaSet = ReplicaSet { read: Vec::new(), write: Vec::new() };

/// The replicas of every partition of one ring under one replication.
#[derive(Debug, PartialEq, Eq)]
pub struct Placement {
    /// By partition. Equal sets are one: Q partitions have few different ones.
    sets: Vec<Arc<ReplicaSet>>,
}

impl Placement {
    /// Walks the ring from every partition.
    pub(super) fn compute(ring: &RingSnapshot, replication: &Replication) -> Self {
        let walk = replication.walk(ring);
        let mut known: BTreeSet<Arc<ReplicaSet>> = BTreeSet::new();
        let sets = ring.map().partitions().map(|p| {
            let set = Arc::new(walk.replicas(p));
            if let Some(same) = known.get(&set) {
                return Arc::clone(same);
            }
            known.insert(Arc::clone(&set));
            set
        });
        Self { sets: sets.collect() }
    }

    /// The replicas of partition `p`. A partition that does not exist has none.
    #[must_use]
    pub fn of(&self, p: PartitionId) -> &ReplicaSet {
        self.sets.get(p.0 as usize).map_or(&NO_REPLICAS, |set| set)
    }

    /// The replicas of partition `p`, to be kept beyond the placement's life.
    #[must_use]
    pub fn shared(&self, p: PartitionId) -> Option<Arc<ReplicaSet>> {
        self.sets.get(p.0 as usize).cloned()
    }

    /// The partitions that `node` keeps, in either set, in order.
    pub fn kept_by(&self, node: NodeId) -> impl Iterator<Item = PartitionId> {
        let kept = self.sets.iter().enumerate().filter(move |(_, set)| set.contains(node));
        kept.map(|(p, _)| PartitionId(p as u32))
    }
}

/// A strategy made ready for one ring.
pub(super) struct Walk<'a> {
    ring: &'a RingSnapshot,
    rule: Rule<'a>,
}

enum Rule<'a> {
    Simple { nodes: usize },
    NetworkTopology(BTreeMap<&'a str, Budget>),
}

/// What a datacentre may still contribute to one partition.
#[derive(Clone, Copy)]
struct Budget {
    /// Replicas still wanted.
    nodes: usize,
    /// How many of them may stand in a rack that already has one: the factor less the number of
    /// racks. While it is 0 or less, a node in a used rack is passed over, since a fresh rack is
    /// sure to come.
    repeats: isize,
}

impl Budget {
    /// Takes one node if it fits; says whether it did.
    fn take(&mut self, fresh_rack: bool) -> bool {
        if self.nodes == 0 || (!fresh_rack && self.repeats <= 0) {
            return false;
        }
        self.nodes -= 1;
        self.repeats -= isize::from(!fresh_rack);
        true
    }
}

/// The budget of each datacentre that is to have replicas and can. As in Cassandra, only nodes
/// with a place on the ring count: a member that owns no partition adds no node and no rack.
fn budgets<'a>(
    ring: &'a RingSnapshot,
    factors: &BTreeMap<String, u8>,
) -> BTreeMap<&'a str, Budget> {
    let owning: BTreeSet<NodeId> = ring.owners().iter().copied().collect();
    let mut nodes: BTreeMap<&str, usize> = BTreeMap::new();
    let mut racks: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for member in ring.members().iter().filter(|member| owning.contains(&member.id)) {
        *nodes.entry(&member.datacenter).or_default() += 1;
        racks.entry(&member.datacenter).or_default().insert(&member.rack);
    }
    let budget = |(datacenter, nodes): (&'a str, usize)| {
        let factor = usize::from(*factors.get(datacenter).filter(|f| **f > 0)?);
        let racks = racks.get(datacenter).map_or(0, BTreeSet::len);
        let repeats = factor as isize - racks as isize;
        Some((datacenter, Budget { nodes: nodes.min(factor), repeats }))
    };
    nodes.into_iter().filter_map(budget).collect()
}

impl Walk<'_> {
    /// The replicas of partition `p`, in the order in which the walk meets them.
    pub(super) fn replicas(&self, p: PartitionId) -> ReplicaSet {
        let owners = self.ring.owners();
        if p.0 as usize >= owners.len() {
            return ReplicaSet::default();
        }
        let (before, from) = owners.split_at(p.0 as usize);
        let clockwise = from.iter().chain(before).copied();
        ReplicaSet::settled(match &self.rule {
            Rule::Simple { nodes } => simple(clockwise, *nodes),
            Rule::NetworkTopology(budgets) => self.network_topology(clockwise, budgets.clone()),
        })
    }

    /// One pass over the ring for all datacentres together, so that the order is the walk's: the
    /// owner of the partition comes first if its datacentre has replicas at all.
    fn network_topology(
        &self,
        clockwise: impl Iterator<Item = NodeId>,
        mut budgets: BTreeMap<&str, Budget>,
    ) -> Vec<NodeId> {
        let mut wanted: usize = budgets.values().map(|budget| budget.nodes).sum();
        let mut chosen = Vec::with_capacity(wanted);
        let mut used_racks: Vec<(&str, &str)> = Vec::with_capacity(wanted);
        for node in clockwise {
            if wanted == 0 {
                break;
            }
            if chosen.contains(&node) {
                continue;
            }
            let Some(member) = self.ring.member(node) else { continue };
            let Some(budget) = budgets.get_mut(member.datacenter.as_str()) else { continue };
            let rack = (member.datacenter.as_str(), member.rack.as_str());
            let fresh = !used_racks.contains(&rack);
            if budget.take(fresh) {
                chosen.push(node);
                wanted -= 1;
                if fresh {
                    used_racks.push(rack);
                }
            }
        }
        chosen
    }
}

/// The first `wanted` distinct nodes.
fn simple(clockwise: impl Iterator<Item = NodeId>, wanted: usize) -> Vec<NodeId> {
    let mut chosen = Vec::with_capacity(wanted);
    for node in clockwise {
        if chosen.len() == wanted {
            break;
        }
        if !chosen.contains(&node) {
            chosen.push(node);
        }
    }
    chosen
}

#[cfg(test)]
mod tests;
