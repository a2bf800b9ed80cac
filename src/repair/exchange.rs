//! Anti-entropy: replicas compare their hash trees every few seconds and move only what differs.
//!
//! Of each two replicas the one with the lower id asks. A round with one peer:
//!
//! 1. One number for all shared trees. If it is the peer's too, the round is over: that is all an
//!    idle cluster ever sends.
//! 2. The roots of all shared trees; those that are still being built are left out.
//! 3. Of each tree that differs, one after the other in random order (so that two peers that bring
//!    up a third seldom bring the same): its groups, the leaves of the groups that differ, and
//!    then the keys and digests of the leaves that differ.
//! 4. The records of the keys that differ, both ways ([`super::mend`]).
//!
//! Then the round is repeated as long as it moved anything, a few times, which also notices that
//! all is equal now. Writes on their way make trees differ for moments; that needs no special
//! case: leaves are fine, the next look finds them equal, and a record that is moved once too
//! often changes nothing.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::merkle::{GROUP, GROUPS, Leaf};
use crate::meta::ClusterState;
use crate::net::purge::{PurgeAction, PurgeRequest};
use crate::net::trees::{TreeAnswer, TreeRequest};
use crate::net::{Request, Response};
use crate::repair::shared::{shared, sum};
use crate::repair::status::RepairCounters;
use crate::repair::{Inner, mend};
use crate::replica::TreeId;
use crate::types::{Generation, NodeId};

/// Time for one answer.
pub(super) const CALL_TIME: Duration = Duration::from_secs(5);

/// Rounds in a row with one peer, while they move anything.
const MAX_ROUNDS: u32 = 4;

/// Leaves whose rows are compared at a time.
const LEAVES_AT_ONCE: usize = 64;

/// The peer did not answer, or not what was asked; the next round tries again.
pub(super) type Failed = String;

/// Compares with every other replica, every `interval` or so, for ever.
pub(super) async fn run(inner: Inner, interval: Duration) {
    loop {
        let nanos = u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX).max(1);
        let jitter = Duration::from_nanos(inner.env.random_below("tree-exchange", nanos));
        inner.env.sleep(interval / 2 + jitter).await;
        let me = inner.cluster.me();
        let peers: Vec<NodeId> =
            inner.cluster.state().members().keys().copied().filter(|&peer| peer > me).collect();
        for peer in peers {
            if inner.cluster.is_live(peer) {
                with(&inner, peer).await;
            }
        }
    }
}

async fn with(inner: &Inner, peer: NodeId) {
    for _ in 0..MAX_ROUNDS {
        let state = inner.cluster.state();
        if !inner.cluster.may_serve(&state) || inner.replica.has_forgotten() {
            return;
        }
        let counters = inner.repair.counters();
        counters.rounds.fetch_add(1, Ordering::Relaxed);
        match round(inner, &state, peer).await {
            Ok(0) => return,
            Ok(moved) => tracing::debug!(%peer, moved, "moved what differed"),
            Err(why) => {
                counters.failed.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(%peer, why, "could not compare");
                return;
            }
        }
    }
}

/// Asks `peer` about trees.
pub(super) async fn ask(
    inner: &Inner,
    state: &ClusterState,
    peer: NodeId,
    request: TreeRequest,
) -> Result<TreeAnswer, Failed> {
    let deadline = inner.env.mono() + CALL_TIME;
    let request = Request::Tree(request);
    match inner.peers.call_at(state.epoch(), peer, request, deadline).await {
        Ok(Response::Tree(answer)) => Ok(answer),
        Ok(Response::Refused(refusal)) => Err(refusal.to_string()),
        Ok(_) => Err("it answered something else".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// One round; returns how many records were moved.
async fn round(inner: &Inner, state: &ClusterState, peer: NodeId) -> Result<u64, Failed> {
    let trees = shared(state, inner.cluster.me(), peer);
    let sum = sum(&inner.replica, &trees);
    match ask(inner, state, peer, TreeRequest::Sum { sum }).await? {
        TreeAnswer::Same => {
            inner.repair.all_same(peer);
            return Ok(0);
        }
        TreeAnswer::Differs => {}
        _ => return Err("it answered something else about all trees".to_owned()),
    }
    let mut differ = differing(inner, state, peer).await?;
    let mut moved = 0;
    while !differ.is_empty() {
        let at = inner.env.random_below("tree-order", differ.len() as u64) as usize;
        moved += tree(inner, state, peer, differ.swap_remove(at)).await?;
    }
    Ok(moved)
}

/// The trees whose roots differ from `peer`'s.
async fn differing(
    inner: &Inner,
    state: &ClusterState,
    peer: NodeId,
) -> Result<Vec<TreeId>, Failed> {
    let (mut after, mut differ) = (None, Vec::new());
    loop {
        let answer = ask(inner, state, peer, TreeRequest::Roots { after }).await?;
        let TreeAnswer::Roots { roots, more } = answer else {
            return Err("it answered something else about roots".to_owned());
        };
        let last = roots.last().map(|root| (root.table, root.partition));
        inner.replica.settle_all();
        for root in roots {
            let id = (root.table, root.partition);
            if !of_one_generation(inner, state, peer, id, root.generation).await {
                continue;
            }
            match (inner.replica.trees().root(id), root.root) {
                (Some(mine), Some(theirs)) if mine == theirs => inner.repair.same(id, peer),
                (Some(_), Some(_)) => differ.push(id),
                _ => {}
            }
        }
        if !more || last <= after {
            return Ok(differ);
        }
        after = last;
    }
}

/// Whether both are at one purge generation. If not, whoever is behind catches up, and the trees are
/// left to the next round.
async fn of_one_generation(
    inner: &Inner,
    state: &ClusterState,
    peer: NodeId,
    id: TreeId,
    theirs: Generation,
) -> bool {
    let Ok(mine) = inner.replica.generation(id) else { return false };
    let deadline = inner.env.mono() + CALL_TIME;
    if mine < theirs {
        let caught = inner.purge.catch_up(state, id, theirs, Some(peer), deadline).await;
        tracing::debug!(?id, ?caught, "was behind with a purge");
    } else if mine > theirs {
        let (table, partition) = id;
        let what = PurgeAction::Advance { generation: mine };
        let request = Request::Purge(PurgeRequest { table, partition, what });
        let told = inner.peers.call_at(state.epoch(), peer, request, deadline).await;
        tracing::debug!(?id, ?told, "a peer is behind with a purge");
    }
    mine == theirs
}

/// Brings one tree together; returns how many records were moved.
async fn tree(
    inner: &Inner,
    state: &ClusterState,
    peer: NodeId,
    id: TreeId,
) -> Result<u64, Failed> {
    inner.replica.settle_all();
    let Some(groups) = inner.replica.trees().groups(id) else { return Ok(0) };
    let (table, partition) = id;
    let request = TreeRequest::Groups { table, partition, groups: groups.to_vec() };
    let theirs = match ask(inner, state, peer, request).await? {
        TreeAnswer::Groups(groups) => groups,
        TreeAnswer::Same => {
            inner.repair.same(id, peer);
            return Ok(0);
        }
        TreeAnswer::NotBuilt => return Ok(0),
        _ => return Err("it answered something else about groups".to_owned()),
    };
    let mut leaves = Vec::new();
    for theirs in theirs {
        let group = usize::from(theirs.group);
        if group >= GROUPS || theirs.leaves.len() != GROUP {
            return Err("it has trees of another shape".to_owned());
        }
        let Some(mine) = inner.replica.trees().leaves_of(id, group) else { return Ok(0) };
        let differ = (0..GROUP).filter(|&at| mine[at] != theirs.leaves[at]);
        leaves.extend(differ.filter_map(|at| Leaf::new((group * GROUP + at) as u16)));
    }
    leaves.sort_unstable();
    leaves.dedup();
    inner.repair.differ(id, peer, leaves.len() as u32);
    RepairCounters::add(&inner.repair.counters().trees, 1);
    let mut moved = 0;
    for leaves in leaves.chunks(LEAVES_AT_ONCE) {
        moved += mend::leaves(inner, state, peer, id, leaves).await?;
    }
    Ok(moved)
}
