//! Going on with logged batches that nobody has finished (see [`crate::coordinator::log_table`]).
//!
//! Each node looks now and then through the records of batches that it holds. One that was there
//! at the last look too has been left: whoever coordinated it has stopped, or too few replicas
//! answered. The first live replica of the record goes on with it. If two do, or if its
//! coordinator is only slow, rows are written twice, which changes nothing more.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::cluster::Cluster;
use crate::coordinator::{Coordinator, log_table};
use crate::env::Env;
use crate::replica::Replica;
use crate::types::Key;

/// Between two looks.
const PACE: Duration = Duration::from_secs(10);

/// The most records of one look; the next one goes on from there.
const MAX_RECORDS: usize = 4_096;

/// Time for one batch.
const TIME: Duration = Duration::from_secs(5);

/// Looks for ever.
pub(super) async fn run(
    env: Env,
    cluster: Arc<Cluster>,
    replica: Arc<Replica>,
    coordinator: Coordinator,
) {
    let (mut seen, mut now_seen) = (BTreeSet::<Key>::new(), BTreeSet::new());
    let mut after: Option<Bytes> = None;
    loop {
        env.sleep(PACE).await;
        let state = cluster.state();
        let Some(table) = state.table_named(&log_table()) else { continue };
        let (reader, log, from, now) = (replica.clone(), table.id, after.take(), env.wall());
        let look = move || reader.batches(log, from.as_ref(), MAX_RECORDS, now);
        let page = match env.blocking("batches", look).await {
            Some(Ok(page)) => page,
            Some(Err(error)) => {
                tracing::warn!(%error, "cannot look for batches that were left");
                continue;
            }
            None => return,
        };
        for key in &page.keys {
            let replicas = coordinator.locate(table, key).replicas;
            let first = replicas.into_iter().find(|&node| cluster.is_live(node));
            if seen.contains(key) && first == Some(cluster.me()) {
                let done = coordinator.resume_batch(table, key, TIME).await;
                tracing::debug!(?done, "went on with a batch");
            }
        }
        now_seen.extend(page.keys);
        after = page.next;
        // A round through all of them may take several looks.
        if after.is_none() {
            seen = std::mem::take(&mut now_seen);
        }
    }
}
