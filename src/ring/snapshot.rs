//! The ring at one epoch.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::{PartitionMap, Placement, ReplicaSet, Replication, RingError};
use crate::types::{Epoch, NodeId, PartitionId, Token};

/// The most placements that one snapshot remembers. Each keyspace asks for one, and most share a
/// handful; past this many, a placement is computed anew each time it is asked for.
const MAX_CACHED_PLACEMENTS: usize = 64;

/// A node in the ring.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Member {
    /// Its identity.
    pub id: NodeId,
    /// What its operator calls it; unique in the cluster.
    pub name: String,
    /// Its datacentre.
    pub datacenter: String,
    /// Its rack: what may fail together. Two datacentres may use one rack name for two racks.
    pub rack: String,
    /// How many partitions it should own, relative to the other members. 0 owns none.
    pub capacity: u32,
}

/// The ring at one epoch: the members, and who owns each partition. Never changes once built.
///
/// Invariants, checked when it is built and by [`check`](Self::check):
/// - Q is a power of two within bounds, and each of the Q partitions has exactly one owner;
/// - each owner is a member;
/// - no two members share an id or a name.
#[derive(Debug)]
pub struct RingSnapshot {
    epoch: Epoch,
    map: PartitionMap,
    /// Ordered by id.
    members: Vec<Member>,
    owners: Vec<NodeId>,
    /// Filled on demand; a function of the fields above, so it never makes two readers disagree.
    placements: Mutex<BTreeMap<Replication, Arc<Placement>>>,
}

impl RingSnapshot {
    /// The ring of `members` at `epoch`, cut into `q` partitions, where `owners[p]` owns
    /// partition p.
    ///
    /// # Errors
    /// The first breach of the invariants above.
    pub fn new(
        epoch: Epoch,
        q: u32,
        mut members: Vec<Member>,
        owners: Vec<NodeId>,
    ) -> Result<Self, RingError> {
        members.sort_by_key(|member| member.id);
        let ring = Self {
            epoch,
            map: PartitionMap::new(q)?,
            members,
            owners,
            placements: Mutex::new(BTreeMap::new()),
        };
        ring.check()?;
        Ok(ring)
    }

    /// Walks all invariants.
    ///
    /// # Errors
    /// The first one that does not hold.
    pub fn check(&self) -> Result<(), RingError> {
        if self.owners.len() != self.map.q() as usize {
            return Err(RingError::OwnerCount { expected: self.map.q(), got: self.owners.len() });
        }
        if let Some(pair) = self.members.windows(2).find(|pair| pair[0].id == pair[1].id) {
            return Err(RingError::DuplicateMember { id: pair[0].id });
        }
        let mut names = BTreeSet::new();
        if let Some(twice) = self.members.iter().find(|member| !names.insert(&member.name)) {
            return Err(RingError::DuplicateName { name: twice.name.clone() });
        }
        for (partition, &owner) in self.map.partitions().zip(&self.owners) {
            if self.member(owner).is_none() {
                return Err(RingError::UnknownOwner { partition, owner });
            }
        }
        Ok(())
    }

    /// The length of the metadata log that this ring follows from.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The cut of the token space.
    #[must_use]
    pub fn map(&self) -> PartitionMap {
        self.map
    }

    /// All members, ordered by id.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The member `id`.
    #[must_use]
    pub fn member(&self, id: NodeId) -> Option<&Member> {
        let at = self.members.binary_search_by_key(&id, |member| member.id).ok()?;
        self.members.get(at)
    }

    /// The datacentre of the member `id`.
    #[must_use]
    pub fn datacenter_of(&self, id: NodeId) -> Option<&str> {
        self.member(id).map(|member| member.datacenter.as_str())
    }

    /// The owner of partition `p`; `None` when there is no such partition.
    #[must_use]
    pub fn owner(&self, p: PartitionId) -> Option<NodeId> {
        self.owners.get(p.0 as usize).copied()
    }

    /// The owner of each partition, from partition 0.
    #[must_use]
    pub fn owners(&self) -> &[NodeId] {
        &self.owners
    }

    /// The partition that holds `token`.
    #[must_use]
    pub fn partition_of(&self, token: Token) -> PartitionId {
        self.map.partition_of(token)
    }

    /// The partitions that `node` owns, in order. (What it *keeps* as a replica is more:
    /// [`Placement`].)
    pub fn owned_by(&self, node: NodeId) -> impl Iterator<Item = PartitionId> {
        self.map.partitions().zip(&self.owners).filter(move |(_, o)| **o == node).map(|(p, _)| p)
    }

    /// The replicas of partition `p`, found by walking the ring. For one request;
    /// [`placement`](Self::placement) is the table for many.
    #[must_use]
    pub fn replicas(&self, replication: &Replication, p: PartitionId) -> ReplicaSet {
        replication.walk(self).replicas(p)
    }

    /// The replicas of every partition under `replication`; computed when first asked for.
    #[must_use]
    pub fn placement(&self, replication: &Replication) -> Arc<Placement> {
        let mut known = self.placements.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(placement) = known.get(replication) {
            return Arc::clone(placement);
        }
        let placement = Arc::new(Placement::compute(self, replication));
        if known.len() < MAX_CACHED_PLACEMENTS {
            known.insert(replication.clone(), Arc::clone(&placement));
        }
        placement
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::claim;

    fn members(n: u128) -> Vec<Member> {
        let member = |i: u128| Member {
            id: NodeId(i),
            name: format!("n{i}"),
            datacenter: "dc1".to_owned(),
            rack: "r1".to_owned(),
            capacity: 1,
        };
        (1..=n).rev().map(member).collect()
    }

    fn ring(q: u32, members: Vec<Member>, owners: Vec<NodeId>) -> Result<RingSnapshot, RingError> {
        RingSnapshot::new(Epoch(7), q, members, owners)
    }

    #[test]
    fn a_claimed_ring_is_sound_and_answers_for_itself() {
        let owners = claim(16, &members(3), None);
        let ring = ring(16, members(3), owners.clone()).expect("a sound ring");
        assert_eq!(ring.check(), Ok(()));
        assert_eq!(ring.epoch(), Epoch(7));
        assert_eq!(ring.owners(), owners);
        assert!(ring.members().is_sorted_by_key(|member| member.id));
        assert_eq!(ring.member(NodeId(2)).map(|m| m.name.as_str()), Some("n2"));
        assert_eq!(ring.member(NodeId(4)), None);
        assert_eq!(ring.datacenter_of(NodeId(1)), Some("dc1"));
        for p in ring.owned_by(NodeId(1)) {
            assert_eq!(ring.owner(p), Some(NodeId(1)));
        }
        let owned: usize = (1..=3).map(|i| ring.owned_by(NodeId(i)).count()).sum();
        assert_eq!(owned, 16);
    }

    #[test]
    fn each_breach_is_refused_by_name() {
        let all = |n| vec![NodeId(1); n];
        let refused = |q, members, owners| ring(q, members, owners).expect_err("a breach");
        assert_eq!(refused(3, members(1), all(3)), RingError::PartitionCount { q: 3 });
        assert_eq!(refused(4, members(1), all(3)), RingError::OwnerCount { expected: 4, got: 3 });
        assert_eq!(
            refused(2, members(1), vec![NodeId(1), NodeId(9)]),
            RingError::UnknownOwner { partition: PartitionId(1), owner: NodeId(9) }
        );
        assert_eq!(
            refused(1, Vec::new(), all(1)),
            RingError::UnknownOwner { partition: PartitionId(0), owner: NodeId(1) }
        );
        let twice = [members(2), members(1)].concat();
        assert_eq!(refused(1, twice, all(1)), RingError::DuplicateMember { id: NodeId(1) });
        let mut namesakes = members(2);
        namesakes[0].name = "n1".to_owned();
        assert_eq!(
            refused(1, namesakes, all(1)),
            RingError::DuplicateName { name: "n1".to_owned() }
        );
    }

    #[test]
    fn a_placement_is_computed_once_and_the_memory_of_them_is_bounded() {
        let owners = claim(8, &members(3), None);
        let ring = ring(8, members(3), owners).expect("a sound ring");
        let simple = Replication::Simple { factor: 2 };
        assert!(Arc::ptr_eq(&ring.placement(&simple), &ring.placement(&simple)));

        for factor in 0..=u8::MAX {
            let _ = ring.placement(&Replication::Simple { factor });
        }
        assert_eq!(ring.placements.lock().expect("no panic").len(), MAX_CACHED_PLACEMENTS);
        let late = Replication::Simple { factor: u8::MAX };
        assert_eq!(ring.placement(&late), ring.placement(&late), "not kept, and still right");
    }
}
