//! Builds indexes and deletes what dropped ones have left (see [`crate::replica`]), in the
//! background. Each node does so for its own rows; an index that a node has not built yet is not
//! answered by it.

use std::sync::Arc;
use std::time::Duration;

use crate::cluster::Cluster;
use crate::env::Env;
use crate::meta::ClusterState;
use crate::replica::{Progress, Replica};
use crate::types::{IndexId, TableId};

/// Between two rounds when something could not be done.
const PACE: Duration = Duration::from_secs(10);

/// Between two steps: others use the disk too.
const PAUSE: Duration = Duration::from_millis(2);

/// Steps of a build after which it is noted how far it is.
const NOTED_STEPS: usize = 16;

/// Looks whenever the cluster has agreed on something new.
pub(super) async fn run(env: Env, cluster: Arc<Cluster>, replica: Arc<Replica>) {
    let mut epochs = cluster.epochs();
    loop {
        epochs.borrow_and_update();
        let state = cluster.state();
        let Some(done) = round(&env, &cluster, &state, &replica).await else { return };
        if cluster.state().epoch() != state.epoch() {
            continue;
        }
        if done {
            if epochs.changed().await.is_err() {
                return;
            }
        } else {
            // Sooner, if there is news.
            if let Ok(Err(_)) = env.timeout(PACE, epochs.changed()).await {
                return;
            }
        }
    }
}

/// True when nothing is left to be done; `None`: the node is stopping.
async fn round(
    env: &Env,
    cluster: &Cluster,
    state: &Arc<ClusterState>,
    replica: &Arc<Replica>,
) -> Option<bool> {
    let (keeper, known) = (replica.clone(), state.clone());
    let look = move || Ok((keeper.keep_indexes(&known)?, keeper.dropped_indexes(&known)?));
    let (unbuilt, dropped) = match env.blocking("indexes", look).await? {
        Ok(found) => found,
        Err(error) => {
            let error: crate::storage::StorageError = error;
            tracing::warn!(%error, "cannot look for indexes");
            return Some(false);
        }
    };
    let mut done = true;
    for at in dropped {
        done &= delete(env, state, replica, at).await?;
    }
    for at in unbuilt {
        let built = build(env, cluster, state, replica, at).await?;
        if built {
            tracing::info!(table = %at.0, index = %at.1, "an index is built");
        }
        done &= built;
    }
    Some(done)
}

/// True when nothing of the index is left.
async fn delete(
    env: &Env,
    state: &Arc<ClusterState>,
    replica: &Arc<Replica>,
    at: (TableId, IndexId),
) -> Option<bool> {
    loop {
        let (deleter, known) = (replica.clone(), state.clone());
        let step = env.blocking("delete-index", move || deleter.delete_index(&known, at)).await?;
        match step {
            Ok(Some(ticket)) => match ticket.await {
                Ok(()) => env.sleep(PAUSE).await,
                Err(_) => return Some(false),
            },
            Ok(None) => return Some(true),
            Err(_) => return Some(false),
        }
    }
}

/// True when the index is built. Ends early when the cluster has agreed on something else: the
/// index may be dropped.
async fn build(
    env: &Env,
    cluster: &Cluster,
    state: &ClusterState,
    replica: &Arc<Replica>,
    at: (TableId, IndexId),
) -> Option<bool> {
    let reader = replica.clone();
    let noted = env.blocking("index-progress", move || reader.index_progress(at)).await?;
    let Ok(mut progress) = noted else { return Some(false) };
    if replica.settle_rows().await.is_err() {
        return Some(false);
    }
    let (mut steps, mut damaged) = (0, 0);
    loop {
        let (builder, after) = (replica.clone(), progress.after.clone());
        let walk = move || builder.build_index(at, after.as_ref());
        let Ok(step) = env.blocking("build-index", walk).await? else { return Some(false) };
        for ticket in step.tickets {
            if ticket.await.is_err() {
                return Some(false);
            }
        }
        damaged += step.damaged;
        steps += 1;
        let Some(next) = step.next else { break };
        progress.after = Some(next);
        if steps % NOTED_STEPS == 0 {
            // What was passed by must be looked at again, so it is not noted as done.
            if damaged == 0 && replica.note_index(at, &progress).await.is_err() {
                return Some(false);
            }
            if cluster.state().epoch() != state.epoch() {
                return Some(false);
            }
        }
        env.sleep(PAUSE).await;
    }
    if damaged > 0 {
        tracing::warn!(
            table = %at.0, index = %at.1, damaged,
            "an index waits for damaged rows to be healed"
        );
        return Some(false);
    }
    let built = Progress { built: true, after: None };
    Some(replica.note_index(at, &built).await.is_ok())
}
