//! Keeps the note beside the store up to date (see [`crate::storage::HighWater`]).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::cluster::Cluster;
use crate::env::Env;
use crate::gossip::Heard;
use crate::storage::{HighWater, HighWaterStore, StorageError};
use crate::types::ActorId;

/// How often the note is written, if it has changed. What a store may lose without being noticed is
/// at most what it committed in so long a time before an unclean stop.
const PACE: Duration = Duration::from_secs(2);

/// Reads the note. One that cannot be read is no reason not to start: it guards what the engine
/// should not lose in the first place.
pub(super) fn load(store: Option<&Arc<dyn HighWaterStore>>) -> HighWater {
    match store.map(|store| store.load()) {
        Some(Ok(Some(note))) => note,
        Some(Err(error)) => {
            tracing::warn!(
                %error,
                "the note beside the store is ignored: should the store have lost acknowledged \
                 writes, this start does not notice it"
            );
            HighWater::default()
        }
        Some(Ok(None)) | None => HighWater::default(),
    }
}

/// What the note says of others.
pub(super) fn heard(note: &HighWater) -> BTreeMap<ActorId, Heard> {
    let heard = |[start, mark, before]: [u64; 3]| Heard { start, mark, before };
    note.heard.iter().map(|(&actor, &told)| (ActorId(actor), heard(told))).collect()
}

fn note(cluster: &Cluster) -> HighWater {
    let (mark, heard) = cluster.marks();
    let heard = heard.iter().map(|(actor, h)| (actor.0, [h.start, h.mark, h.before])).collect();
    HighWater { mark, heard }
}

/// Writes the note at its pace, for ever.
pub(super) async fn keep(env: Env, cluster: Arc<Cluster>, store: Arc<dyn HighWaterStore>) {
    let mut last = None;
    let mut failing = false;
    loop {
        let now = note(&cluster);
        if last.as_ref() != Some(&now) {
            match save(&env, &store, now.clone()).await {
                Ok(()) => (last, failing) = (Some(now), false),
                Err(error) if !failing => {
                    failing = true;
                    tracing::warn!(%error, "the note beside the store cannot be written");
                }
                Err(_) => {}
            }
        }
        env.sleep(PACE).await;
    }
}

/// Writes the note once, at a clean stop.
pub(super) async fn last(env: &Env, cluster: &Cluster, store: &Arc<dyn HighWaterStore>) {
    if let Err(error) = save(env, store, note(cluster)).await {
        tracing::warn!(%error, "the note beside the store cannot be written");
    }
}

async fn save(
    env: &Env,
    store: &Arc<dyn HighWaterStore>,
    note: HighWater,
) -> Result<(), StorageError> {
    let store = store.clone();
    env.blocking("high-water", move || store.save(&note)).await.unwrap_or(Ok(()))
}
