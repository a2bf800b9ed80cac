//! Sweeping up votes that nobody has finished with.
//!
//! A proposer that dies leaves votes behind; a replica that was down when a decision was stored keeps
//! the others from dropping theirs. The next operation on the key would settle it, but may never
//! come. So each node looks through its rows of votes now and then. A row that has not changed between
//! two looks is nobody's present business (a repair that interrupts live rounds only harms), and
//! - if it is a bare promise, it goes into the floor;
//! - if all replicas of its key are live, what it holds is decided again, stored on all of them, and
//!   dropped by that proof.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::cluster::Cluster;
use crate::coordinator::Coordinator;
use crate::env::Env;
use crate::replica::{Replica, VoteRow};

/// Between two looks.
const PACE: Duration = Duration::from_secs(10);

/// The most rows of one look; the next one goes on from there.
const MAX_ROWS: usize = 512;

/// Time for one key.
const TIME: Duration = Duration::from_secs(5);

/// Looks for ever.
pub(super) async fn sweep(
    env: Env,
    cluster: Arc<Cluster>,
    replica: Arc<Replica>,
    coordinator: Coordinator,
) {
    let mut seen: BTreeMap<Bytes, u64> = BTreeMap::new();
    let mut after: Option<Bytes> = None;
    loop {
        env.sleep(PACE).await;
        let (from, reader) = (after.take(), replica.clone());
        let rows =
            env.blocking("vote-rows", move || reader.vote_rows(from.as_ref(), MAX_ROWS)).await;
        let Some(rows) = rows else { return };
        if rows.len() == MAX_ROWS {
            after = rows.last().map(|row| row.row.clone());
        }
        let mut unchanged = Vec::new();
        let mut now_seen = BTreeMap::new();
        for row in rows {
            now_seen.insert(row.row.clone(), row.version);
            if seen.get(&row.row) == Some(&row.version) {
                unchanged.push(row);
            }
        }
        // Of a table with many rows, only the part that is looked at is remembered.
        seen = now_seen;
        for row in unchanged {
            finish(&cluster, &replica, &coordinator, &row).await;
        }
    }
}

async fn finish(cluster: &Cluster, replica: &Replica, coordinator: &Coordinator, row: &VoteRow) {
    if row.is_bare {
        return replica.drop_promise(row);
    }
    let state = cluster.state();
    let Some(table) = state.table(row.table) else { return };
    let replicas = coordinator.locate(table, &row.key).replicas;
    if replicas.iter().all(|&node| cluster.is_live(node)) {
        let settled = coordinator.settle(table, &row.key, TIME).await;
        tracing::debug!(?settled, "swept a key's votes");
    }
}
