//! Sloppy quorums: nodes that stand in for replicas which cannot be reached (Dynamo, §4.6).
//!
//! An option of the table, off by default. A write that cannot get W answers out of the key's
//! replicas goes on along the ring: the next live node that is no replica of the key, a *keeper*,
//! takes the record as a durable hint for one replica that is away, and counts in its place. When
//! the replica is back, the keeper hands the record over as it does any hint
//! ([`crate::repair::hints`]).
//!
//! ```text
//! ring:   A ── B ── C ── D ── E       replicas of k: A, B, C;  B and C are away;  W = 2
//! write:  A mints and holds it;  D keeps it for B  →  two durable copies: acknowledged
//! ```
//!
//! What still holds, and what does not:
//! - A replica of the key mints (rule 21): with none of them alive the write is refused, and a
//!   keeper never makes a version. A write thus has one true copy at least.
//! - Each keeper stands in for one replica, each replica has one keeper at a time, in the same
//!   datacentre: levels that count by datacentre mean what they say.
//! - Reads ask replicas alone. So a read at R need not meet a write at W, even where R + W > N: the
//!   receipt says that they do not overlap, and names the nodes that stood in.
//! - A kept record is bounded like every hint, in age and bytes. A keeper without room for it
//!   refuses, and does not count; one that drops it because it has grown too old leaves it to
//!   anti-entropy to bring the replica what the minter has.
//! - Only as many keepers are asked as the level needs.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::coordinator::plan::{Plan, Purpose};
use crate::coordinator::{Inner, OpError};
use crate::ring::RingSnapshot;
use crate::types::{NodeId, PartitionId};

/// How long a replica that is believed alive may keep silent before somebody stands in for it: a
/// share of the time that the operation has left, since a mere delay costs nothing but patience.
const PATIENCE_SHARE: u32 = 4;

/// The nodes after the replicas of partition `p`, in the order in which a walk along the ring meets
/// them.
fn beyond(ring: &RingSnapshot, p: PartitionId, replicas: &[NodeId]) -> Vec<NodeId> {
    let owners = ring.owners();
    let (before, from) = owners.split_at((p.0 as usize).min(owners.len()));
    let mut nodes: Vec<NodeId> = Vec::new();
    for &node in from.iter().chain(before) {
        if !replicas.contains(&node) && !nodes.contains(&node) {
            nodes.push(node);
        }
    }
    nodes
}

/// Who stands in for whom in one write.
#[derive(Debug, Default)]
pub(super) struct StandIns {
    /// Nodes that may still be asked, with their datacentres, the nearest along the ring first.
    free: Vec<(NodeId, String)>,
    /// By replica: the keeper that was asked and has not answered.
    asked: BTreeMap<NodeId, NodeId>,
    /// By replica: the keeper that holds the record.
    kept: BTreeMap<NodeId, NodeId>,
}

impl StandIns {
    /// Picks a keeper for `replica`, which stands in `datacenter`.
    pub(super) fn pick(&mut self, replica: NodeId, datacenter: &str) -> Option<NodeId> {
        let at = self.free.iter().position(|(_, dc)| dc == datacenter)?;
        let (keeper, _) = self.free.remove(at);
        self.asked.insert(replica, keeper);
        Some(keeper)
    }

    /// True while somebody stands in for `replica`, or has been asked to.
    pub(super) fn stands_for(&self, replica: NodeId) -> bool {
        self.asked.contains_key(&replica) || self.kept.contains_key(&replica)
    }

    /// A keeper has answered for `replica`.
    pub(super) fn answered(&mut self, replica: NodeId, kept: bool) {
        if let Some(keeper) = self.asked.remove(&replica)
            && kept
        {
            self.kept.insert(replica, keeper);
        }
    }

    /// True while a keeper's answer may still help.
    pub(super) fn may_help(&self) -> bool {
        !self.asked.is_empty()
    }

    /// By replica: who holds the record in its place.
    pub(super) fn kept(&self) -> &BTreeMap<NodeId, NodeId> {
        &self.kept
    }
}

impl Plan {
    /// True when other nodes may stand in for replicas.
    pub(super) fn is_sloppy(&self) -> bool {
        self.purpose == Purpose::Write && self.table.settings.sloppy
    }

    /// How long replicas that are believed alive may keep silent before others stand in for them.
    pub(super) fn stand_in_after(&self) -> Duration {
        self.timeout / PATIENCE_SHARE
    }
}

impl Inner {
    /// The nodes that may stand in for replicas of `plan`; none unless the table is sloppy.
    pub(super) fn stand_ins(&self, plan: &Plan) -> StandIns {
        if !plan.is_sloppy() {
            return StandIns::default();
        }
        let state = self.cluster.state();
        if state.epoch() != plan.epoch {
            // Who is beyond the replicas now is not who was. Only replicas are asked.
            return StandIns::default();
        }
        let ring = state.ring();
        let free = beyond(ring, plan.partition, &plan.replicas)
            .into_iter()
            .filter(|&node| self.cluster.is_live(node))
            .map(|node| (node, ring.datacenter_of(node).unwrap_or("").to_owned()))
            .collect();
        StandIns { free, ..StandIns::default() }
    }

    /// The datacentre of a node; empty if it is not known.
    pub(super) fn datacenter_of(&self, node: NodeId) -> String {
        self.cluster.state().ring().datacenter_of(node).unwrap_or("").to_owned()
    }

    /// Refuses, before anything is sent, an operation that too few live nodes could serve.
    pub(super) fn must_be_possible(&self, plan: &Plan) -> Result<(), OpError> {
        if plan.requirement.alive_suffices(&plan.live) {
            return Ok(());
        }
        let mut counted = plan.live.clone();
        if !plan.live.is_empty() {
            let mut stand_ins = self.stand_ins(plan);
            let away = plan.replicas.iter().filter(|node| !plan.live.contains(node));
            for &replica in away {
                if stand_ins.pick(replica, &self.datacenter_of(replica)).is_some() {
                    counted.push(replica);
                }
            }
            if plan.requirement.alive_suffices(&counted) {
                return Ok(());
            }
        }
        Err(OpError::Unavailable {
            level: plan.level,
            required: plan.required(),
            alive: u32::try_from(plan.requirement.available(&counted)).unwrap_or(u32::MAX),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::Member;
    use crate::types::Epoch;

    fn ring(owners: &[u128]) -> RingSnapshot {
        let mut ids: Vec<u128> = owners.to_vec();
        ids.sort_unstable();
        ids.dedup();
        let member = |id: u128| Member {
            id: NodeId(id),
            name: format!("n{id}"),
            datacenter: "dc1".to_owned(),
            rack: "r1".to_owned(),
            capacity: 1,
        };
        let owners = owners.iter().map(|&id| NodeId(id)).collect::<Vec<_>>();
        let members = ids.into_iter().map(member).collect();
        RingSnapshot::new(Epoch(1), owners.len() as u32, members, owners).expect("a sound ring")
    }

    #[test]
    fn keepers_are_the_next_nodes_along_the_ring_each_once() {
        let ring = ring(&[1, 2, 3, 4, 5, 4, 1, 2]);
        let ids = |p, replicas: &[u128]| {
            let replicas: Vec<NodeId> = replicas.iter().map(|&id| NodeId(id)).collect();
            let nodes = beyond(&ring, PartitionId(p), &replicas);
            nodes.into_iter().map(|node| node.0).collect::<Vec<_>>()
        };
        assert_eq!(ids(0, &[1, 2, 3]), [4, 5]);
        assert_eq!(ids(5, &[4, 1, 2]), [3, 5], "round the end of the ring");
        assert_eq!(ids(0, &[1, 2, 3, 4, 5]), [0; 0]);
        assert_eq!(ids(99, &[1, 2, 3]), [4, 5], "a partition that is not there harms nobody");
    }

    #[test]
    fn a_keeper_stands_in_for_one_replica_in_its_own_datacentre() {
        let free = [(7, "east"), (8, "west"), (9, "east")];
        let free = free.map(|(node, dc)| (NodeId(node), dc.to_owned())).to_vec();
        let mut stand_ins = StandIns { free, ..StandIns::default() };
        assert_eq!(stand_ins.pick(NodeId(1), "east"), Some(NodeId(7)));
        assert_eq!(stand_ins.pick(NodeId(2), "east"), Some(NodeId(9)));
        assert_eq!(stand_ins.pick(NodeId(3), "east"), None);
        assert!(stand_ins.stands_for(NodeId(1)) && stand_ins.may_help());
        stand_ins.answered(NodeId(1), true);
        stand_ins.answered(NodeId(2), false);
        assert!(!stand_ins.may_help() && !stand_ins.stands_for(NodeId(2)));
        assert_eq!(stand_ins.kept().iter().collect::<Vec<_>>(), [(&NodeId(1), &NodeId(7))]);
    }
}
