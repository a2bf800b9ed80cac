//! Going on with logged batches that nobody has finished (see [`crate::coordinator::log_table`]).
//!
//! Each node goes now and then through the records of batches that it holds. One that was there
//! in the round before too has been left: whoever coordinated it has stopped, or too few replicas
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

/// Between two rounds through all records.
const PACE: Duration = Duration::from_secs(10);

/// The most records of one look; the next one goes on from there. Records of batches that are done
/// are among them until they are purged: a busy node may have millions, as long as another is away.
const MAX_RECORDS: usize = 1_024;

/// Between two looks of a round: others use the disk too.
const PAUSE: Duration = Duration::from_millis(20);

/// Time for one step of a batch.
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
        env.sleep(if after.is_some() { PAUSE } else { PACE }).await;
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
                match coordinator.resume_batch(table, key, TIME).await {
                    Ok(resumed) => tracing::debug!(resumed, "went on with a batch"),
                    Err(error) => tracing::warn!(%error, "a batch cannot be finished yet"),
                }
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
