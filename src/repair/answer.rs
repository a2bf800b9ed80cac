//! The side that is asked.

use std::sync::Arc;

use crate::env::Env;
use crate::merkle::{GROUPS, LEAVES, Leaf};
use crate::meta::ClusterState;
use crate::net::trees::{
    LeafRow, MAX_LEAF_ROWS, MAX_ROOTS, TreeAnswer, TreeGroup, TreeRequest, TreeRoot,
};
use crate::net::{Refusal, Response};
use crate::repair::Repair;
use crate::repair::shared::{shared, sum};
use crate::replica::{LeafEntry, Replica, Sound, TreeId};
use crate::ring::token_in;
use crate::storage::StorageError;
use crate::types::{Key, NodeId};

/// Answers `peer`'s question about the trees that it shares with this node, `me`.
///
/// # Errors
/// A [`Refusal`].
pub(crate) async fn answer(
    env: &Env,
    replica: &Arc<Replica>,
    repair: &Repair,
    state: &ClusterState,
    (me, peer): (NodeId, NodeId),
    request: TreeRequest,
) -> Result<Response, Refusal> {
    let shared = || shared(state, me, peer);
    let both_keep = |id: TreeId| {
        let table = state.table(id.0).ok_or(Refusal::NoSuchTable { epoch: state.epoch() })?;
        let placement = state.ring().placement(&table.settings.replication);
        let replicas = &placement.of(id.1).write;
        if replicas.contains(&me) && replicas.contains(&peer) {
            return Ok(id);
        }
        Err(Refusal::NotReplica { epoch: state.epoch() })
    };
    let answer = match request {
        TreeRequest::Sum { sum: theirs } => {
            if sum(replica, &shared()) == theirs {
                repair.all_same(peer);
                TreeAnswer::Same
            } else {
                TreeAnswer::Differs
            }
        }
        TreeRequest::Roots { after } => {
            let mut ids = shared();
            ids.retain(|id| after.is_none_or(|after| *id > after));
            let more = ids.len() > MAX_ROOTS;
            ids.truncate(MAX_ROOTS);
            replica.settle_all();
            let roots = ids.iter().zip(replica.trees().roots(&ids));
            let root = |(&id, root): (&TreeId, Option<u128>)| {
                let generation = replica.generation(id).map_err(|error| storage(&error))?;
                Ok(TreeRoot { table: id.0, partition: id.1, root, generation })
            };
            TreeAnswer::Roots { roots: roots.map(root).collect::<Result<_, Refusal>>()?, more }
        }
        TreeRequest::Groups { table, partition, groups } => {
            groups_of(replica, repair, both_keep((table, partition))?, peer, &groups)?
        }
        TreeRequest::Rows { table, partition, leaves, after } => {
            let id = both_keep((table, partition))?;
            let leaves = leaves_of(&leaves)?;
            let (rows, next) = rows_of(env, replica, id, leaves, after).await?;
            TreeAnswer::Rows { rows: rows.into_iter().map(on_the_wire).collect(), next }
        }
    };
    Ok(Response::Tree(answer))
}

fn storage(error: &StorageError) -> Refusal {
    Refusal::Storage { message: error.to_string() }
}

fn groups_of(
    replica: &Replica,
    repair: &Repair,
    id: TreeId,
    peer: NodeId,
    theirs: &[u128],
) -> Result<TreeAnswer, Refusal> {
    if theirs.len() != GROUPS {
        return Err(Refusal::BadRequest { what: format!("{} groups of a tree", theirs.len()) });
    }
    replica.settle_all();
    let Some(mine) = replica.trees().groups(id) else { return Ok(TreeAnswer::NotBuilt) };
    let differ = (0..GROUPS).filter(|&group| mine[group] != theirs[group]);
    let leaves = |group| {
        Some(TreeGroup {
            group: group as u8,
            leaves: replica.trees().leaves_of(id, group)?.to_vec(),
        })
    };
    let groups: Vec<TreeGroup> = differ.filter_map(leaves).collect();
    if groups.is_empty() {
        repair.same(id, peer);
        return Ok(TreeAnswer::Same);
    }
    repair.differ(id, peer, groups.len() as u32);
    Ok(TreeAnswer::Groups(groups))
}

fn leaves_of(numbers: &[u16]) -> Result<Vec<Leaf>, Refusal> {
    let bad = || Refusal::BadRequest { what: "the leaves are not those of a tree".to_owned() };
    if numbers.len() > LEAVES || !numbers.is_sorted_by(|a, b| a < b) {
        return Err(bad());
    }
    numbers.iter().map(|&number| Leaf::new(number).ok_or_else(bad)).collect()
}

/// A page of the rows of some leaves of this node's own tree, and where to go on.
pub(super) async fn rows_of(
    env: &Env,
    replica: &Arc<Replica>,
    id: TreeId,
    leaves: Vec<Leaf>,
    after: Option<Key>,
) -> Result<(Vec<LeafEntry>, Option<Key>), Refusal> {
    let replica = replica.clone();
    let after = after.map(|key| (token_in(id.0, &key), key));
    let page = env
        .blocking("leaf-rows", move || {
            replica.leaf_rows(id, &leaves, after.as_ref(), MAX_LEAF_ROWS)
        })
        .await
        .unwrap_or(Err(Refusal::Stopping))?;
    Ok((page.rows, page.next.map(|(_, key)| key)))
}

fn on_the_wire(entry: LeafEntry) -> LeafRow {
    let digest = match entry.sound {
        Sound::Yes(digest) => Some(digest),
        Sound::No => None,
    };
    LeafRow { key: entry.key, digest }
}
