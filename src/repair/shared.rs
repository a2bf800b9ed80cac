//! Which trees a node keeps, and which of them two nodes have to agree on.

use crate::meta::ClusterState;
use crate::replica::{Replica, TreeId, root_share};
use crate::types::NodeId;

/// The trees that `node` keeps, in order.
pub(super) fn kept(state: &ClusterState, node: NodeId) -> Vec<TreeId> {
    let mut trees = Vec::new();
    for table in state.tables().values() {
        let placement = state.ring().placement(&table.settings.replication);
        trees.extend(placement.kept_by(node).map(|partition| (table.id, partition)));
    }
    trees.sort_unstable();
    trees
}

/// The trees that both nodes keep as replicas, in order.
pub(super) fn shared(state: &ClusterState, me: NodeId, peer: NodeId) -> Vec<TreeId> {
    let mut trees = Vec::new();
    for table in state.tables().values() {
        let placement = state.ring().placement(&table.settings.replication);
        let both = placement.kept_by(me).filter(|&partition| {
            let replicas = &placement.of(partition).write;
            replicas.contains(&me) && replicas.contains(&peer)
        });
        trees.extend(both.map(|partition| (table.id, partition)));
    }
    trees.sort_unstable();
    trees
}

/// One number for many trees: equal where all of them are, and their purge generations. Trees that are not built are left out,
/// so that the numbers differ and the roots are looked at one by one.
pub(super) fn sum(replica: &Replica, trees: &[TreeId]) -> u128 {
    replica.settle_all();
    let roots = replica.trees().roots(trees);
    let share = |(&id, root): (&TreeId, Option<u128>)| {
        Some(root_share(id, root?, replica.generation(id).ok()?))
    };
    trees.iter().zip(roots).filter_map(share).fold(0, |sum: u128, share: u128| sum ^ share)
}
