//! Counting the answers of one operation.

use super::Requirement;
use crate::plants::{Plant, planted};
use crate::types::NodeId;

/// Where an operation stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// Neither yet: some answer still to come decides.
    Pending,
    /// The requirement is met. Stays so.
    Reached,
    /// The requirement can no longer be met by answers still to come.
    OutOfReach,
}

/// The count of one operation against its [`Requirement`].
///
/// Invariants:
/// - a node counts once, however often it answers, and only in the quotas that name it;
/// - an acknowledgement stands, whatever the same node says before or after (a retry may succeed
///   where the first attempt failed; a late failure of a retry undoes nothing).
#[derive(Clone, Debug)]
pub struct Tally {
    requirement: Requirement,
    coordinator: NodeId,
    acked: Vec<NodeId>,
    /// Disjoint from `acked`.
    failed: Vec<NodeId>,
    hint: Hint,
}

/// Whether a hint was kept; matters at level ANY only.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Hint {
    Undecided,
    Kept,
    Failed,
}

impl Tally {
    /// Begins to count. `coordinator` is the node that runs the operation; if it is a replica,
    /// its own copy counts once, like any other.
    #[must_use]
    pub fn new(requirement: Requirement, coordinator: NodeId) -> Self {
        Self {
            requirement,
            coordinator,
            acked: Vec::new(),
            failed: Vec::new(),
            hint: Hint::Undecided,
        }
    }

    /// `node` has done what was asked. A node that no quota names changes nothing.
    pub fn on_ack(&mut self, node: NodeId) -> Progress {
        if self.names(node) && !self.acked.contains(&node) {
            self.acked.push(node);
            self.failed.retain(|&failed| failed != node);
        }
        self.progress()
    }

    /// `node` will not do what was asked (it refused, or nobody waits for it any longer).
    pub fn on_fail(&mut self, node: NodeId) -> Progress {
        if self.names(node) && !self.acked.contains(&node) && !self.failed.contains(&node) {
            self.failed.push(node);
        }
        self.progress()
    }

    /// A hint is on stable storage (`kept`), or could not be stored. At level ANY a kept hint is
    /// enough, and the operation is not out of reach before the hint has failed too; at any other
    /// level this changes nothing.
    pub fn on_hint(&mut self, kept: bool) -> Progress {
        if self.hint != Hint::Kept {
            self.hint = if kept { Hint::Kept } else { Hint::Failed };
        }
        self.progress()
    }

    /// Where the operation stands.
    #[must_use]
    pub fn progress(&self) -> Progress {
        if self.requirement.hint_suffices() && self.hint == Hint::Kept {
            return Progress::Reached;
        }
        if self.received() >= self.requirement.required() {
            return Progress::Reached;
        }
        let possible = self.requirement.count(|node| !self.failed.contains(&node));
        let hint_may_come = self.requirement.hint_suffices() && self.hint == Hint::Undecided;
        if possible < self.requirement.required() && !hint_may_come {
            return Progress::OutOfReach;
        }
        Progress::Pending
    }

    /// How many of the needed answers are in, summed over the quotas; what one quota has beyond
    /// its need is not counted, so this is below [`required`](Self::required) exactly while the
    /// requirement is not met.
    #[must_use]
    pub fn received(&self) -> usize {
        let received = self.requirement.count(|node| self.acked.contains(&node));
        if planted(Plant::P12)
            && self.requirement.is_write()
            && self.acked.contains(&self.coordinator)
        {
            return (received + 1).min(self.requirement.required());
        }
        received
    }

    /// How many answers are needed, summed over the quotas.
    #[must_use]
    pub fn required(&self) -> usize {
        self.requirement.required()
    }

    /// The requirement that is counted against.
    #[must_use]
    pub fn requirement(&self) -> &Requirement {
        &self.requirement
    }

    /// The replicas that have acknowledged, in the order in which they did.
    #[must_use]
    pub fn acked(&self) -> &[NodeId] {
        &self.acked
    }

    /// The replicas that have failed and not acknowledged since.
    #[must_use]
    pub fn failed(&self) -> &[NodeId] {
        &self.failed
    }

    /// The counted replicas that have said nothing yet; one that two quotas name comes twice.
    pub fn silent(&self) -> impl Iterator<Item = NodeId> {
        let nodes = self.requirement.quotas().iter().flat_map(|quota| quota.nodes());
        nodes.copied().filter(|node| !self.acked.contains(node) && !self.failed.contains(node))
    }

    /// True when the requirement could be met by `alive` nodes: the question to ask before
    /// anything is sent.
    #[must_use]
    pub fn alive_suffices(&self, alive: &[NodeId]) -> bool {
        self.requirement.alive_suffices(alive)
    }

    fn names(&self, node: NodeId) -> bool {
        self.requirement.quotas().iter().any(|quota| quota.nodes().contains(&node))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::quorum::ReplicaInfo;
    use crate::types::Consistency;

    const EAST: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];
    const WEST: [NodeId; 3] = [NodeId(4), NodeId(5), NodeId(6)];

    fn replicas(n: usize) -> Vec<ReplicaInfo<'static>> {
        let east = EAST.map(|node| ReplicaInfo { node, datacenter: "east" });
        let west = WEST.map(|node| ReplicaInfo { node, datacenter: "west" });
        east.into_iter().chain(west).take(n).collect()
    }

    fn write(level: Consistency, n: usize) -> Tally {
        let requirement = Requirement::for_write(level, &replicas(n), "east").expect("sound");
        Tally::new(requirement, EAST[0])
    }

    #[test]
    fn two_acks_of_three_reach_a_quorum_and_two_failures_put_it_out_of_reach() {
        let mut tally = write(Consistency::Quorum, 3);
        assert_eq!(tally.on_ack(EAST[1]), Progress::Pending);
        assert_eq!((tally.received(), tally.required()), (1, 2));
        assert_eq!(tally.on_fail(EAST[0]), Progress::Pending);
        assert_eq!(tally.silent().collect::<Vec<_>>(), [EAST[2]]);
        assert_eq!(tally.clone().on_ack(EAST[2]), Progress::Reached);
        assert_eq!(tally.on_fail(EAST[2]), Progress::OutOfReach);
    }

    #[test]
    fn the_coordinators_own_copy_counts_once() {
        let mut tally = write(Consistency::Two, 3);
        assert_eq!(tally.on_ack(EAST[0]), Progress::Pending);
        assert_eq!(tally.on_ack(EAST[0]), Progress::Pending);
        assert_eq!(tally.received(), 1);
    }

    #[test]
    fn a_node_that_is_no_replica_counts_for_nothing() {
        let mut tally = write(Consistency::Two, 3);
        for stranger in 50..60 {
            assert_eq!(tally.on_ack(NodeId(stranger)), Progress::Pending);
            assert_eq!(tally.on_fail(NodeId(stranger)), Progress::Pending);
        }
        assert_eq!(tally.received(), 0);
    }

    #[test]
    fn a_remote_replica_counts_for_no_local_level() {
        let mut tally = write(Consistency::LocalQuorum, 6);
        for remote in WEST {
            assert_eq!(tally.on_ack(remote), Progress::Pending);
        }
        assert_eq!(tally.on_ack(EAST[0]), Progress::Pending);
        assert_eq!(tally.on_ack(EAST[1]), Progress::Reached);
    }

    #[test]
    fn each_datacentre_needs_its_own_quorum() {
        let mut tally = write(Consistency::EachQuorum, 6);
        for node in EAST {
            tally.on_ack(node);
        }
        assert_eq!(tally.on_ack(WEST[0]), Progress::Pending);
        assert_eq!((tally.received(), tally.required()), (3, 4), "the third of east is no help");
        tally.on_fail(WEST[1]);
        assert_eq!(tally.on_fail(WEST[2]), Progress::OutOfReach);
    }

    #[test]
    fn an_ack_stands_and_a_retry_may_turn_a_failure_into_one() {
        let mut tally = write(Consistency::All, 2);
        assert_eq!(tally.on_fail(EAST[0]), Progress::OutOfReach);
        assert_eq!(tally.on_ack(EAST[0]), Progress::Pending);
        assert_eq!(tally.on_ack(EAST[1]), Progress::Reached);
        assert_eq!(tally.on_fail(EAST[1]), Progress::Reached);
    }

    #[test]
    fn a_hint_is_enough_for_any_and_for_nothing_else() {
        assert_eq!(write(Consistency::Any, 3).on_hint(true), Progress::Reached);
        assert_eq!(write(Consistency::One, 3).on_hint(true), Progress::Pending);

        let mut tally = write(Consistency::Any, 2);
        tally.on_fail(EAST[0]);
        assert_eq!(tally.on_fail(EAST[1]), Progress::Pending, "a hint may still be kept");
        assert_eq!(tally.on_hint(false), Progress::OutOfReach);
    }

    #[test]
    fn old_and_new_set_of_a_moving_partition_are_counted_apart() {
        // Read set 1 2 3; the write set has 4 in the place of 3.
        let old = replicas(3);
        let mut new = replicas(4);
        new.remove(2);
        let both = Requirement::for_write(Consistency::Quorum, &old, "east")
            .expect("sound")
            .and(Requirement::for_write(Consistency::Quorum, &new, "east").expect("sound"));
        let mut tally = Tally::new(both, EAST[0]);
        tally.on_ack(EAST[1]);
        assert_eq!(tally.on_ack(EAST[2]), Progress::Pending, "two of the old set, one of the new");
        assert_eq!(tally.on_ack(WEST[0]), Progress::Reached);
    }

    fn levels() -> impl Strategy<Value = Consistency> {
        use Consistency as C;
        prop_oneof![
            Just(C::One),
            Just(C::Two),
            Just(C::Three),
            Just(C::Quorum),
            Just(C::All),
            Just(C::LocalOne),
            Just(C::LocalQuorum),
            Just(C::EachQuorum),
            (1u8..=6).prop_map(C::Count),
        ]
    }

    /// The levels' definition once more, from the set of nodes that have answered.
    fn meets(level: Consistency, n: usize, answered: &BTreeSet<NodeId>) -> bool {
        use Consistency as C;
        let all: Vec<NodeId> = EAST.into_iter().chain(WEST).take(n).collect();
        let (east, west) = all.split_at(n.min(3));
        let have = |of: &[NodeId]| of.iter().filter(|node| answered.contains(node)).count();
        let more_than_half = |of: &[NodeId]| have(of) * 2 > of.len();
        match level {
            C::One => have(&all) >= 1,
            C::Two => have(&all) >= 2,
            C::Three => have(&all) >= 3,
            C::Count(c) => have(&all) >= usize::from(c),
            C::Quorum => more_than_half(&all),
            C::All => have(&all) == n,
            C::LocalOne => have(east) >= 1,
            C::LocalQuorum => more_than_half(east),
            C::EachQuorum => more_than_half(east) && (west.is_empty() || more_than_half(west)),
            C::Any | C::Serial | C::LocalSerial => unreachable!("not generated"),
        }
    }

    proptest! {
        /// Whatever comes, in whatever order and however often: reached means exactly that those
        /// who have acknowledged meet the level, and out of reach exactly that they would not even
        /// with all who have not failed.
        #[test]
        fn progress_is_what_the_sets_of_nodes_say(
            level in levels(),
            n in 1usize..=6,
            coordinator in 1u128..=8,
            events in prop::collection::vec((1u128..=8, any::<bool>()), 0..24),
        ) {
            let Ok(requirement) = Requirement::for_read(level, &replicas(n), "east") else {
                return Ok(());
            };
            let mut tally = Tally::new(requirement, NodeId(coordinator));
            let mut acked = BTreeSet::new();
            let mut failed = BTreeSet::new();
            for (node, ack) in events {
                let node = NodeId(node);
                let progress = if ack { tally.on_ack(node) } else { tally.on_fail(node) };
                if ack { acked.insert(node) } else { failed.insert(node) };

                let possible = (1..=6)
                    .map(NodeId)
                    .filter(|node| acked.contains(node) || !failed.contains(node))
                    .collect();
                let expected = if meets(level, n, &acked) {
                    Progress::Reached
                } else if meets(level, n, &possible) {
                    Progress::Pending
                } else {
                    Progress::OutOfReach
                };
                prop_assert_eq!(progress, expected);
                prop_assert_eq!(tally.received() == tally.required(), expected == Progress::Reached);
            }
        }

        #[test]
        fn the_living_suffice_exactly_when_their_acks_would(
            level in levels(),
            n in 1usize..=6,
            alive in prop::collection::btree_set((1u128..=8).prop_map(NodeId), 0..8),
        ) {
            if let Ok(requirement) = Requirement::for_write(level, &replicas(n), "east") {
                let list: Vec<NodeId> = alive.iter().copied().collect();
                prop_assert_eq!(requirement.alive_suffices(&list), meets(level, n, &alive));
            }
        }
    }
}
