//! Deletes the data of dropped and truncated tables (see [`crate::replica`]), in the background.

use std::sync::Arc;
use std::time::Duration;

use crate::cluster::Cluster;
use crate::env::Env;
use crate::replica::Replica;

/// Between two looks.
const PACE: Duration = Duration::from_secs(10);

/// Between two batches: others use the disk too.
const PAUSE: Duration = Duration::from_millis(20);

/// Looks for ever.
pub(super) async fn run(env: Env, cluster: Arc<Cluster>, replica: Arc<Replica>) {
    loop {
        env.sleep(PACE).await;
        let (state, reader) = (cluster.state(), replica.clone());
        let look = {
            let state = state.clone();
            move || reader.dropped_tables(&state)
        };
        let tables = match env.blocking("dropped-tables", look).await {
            Some(Ok(tables)) => tables,
            Some(Err(error)) => {
                tracing::warn!(%error, "cannot look for data of dropped tables");
                continue;
            }
            None => return,
        };
        for table in tables {
            loop {
                let (state, deleter) = (state.clone(), replica.clone());
                let delete = move || deleter.delete_dropped(&state, table);
                match env.blocking("delete-dropped", delete).await {
                    Some(Ok(Some(ticket))) => match ticket.await {
                        Ok(()) => env.sleep(PAUSE).await,
                        Err(_) => break,
                    },
                    Some(Ok(None)) => {
                        tracing::info!(%table, "the data of a dropped table is deleted");
                        break;
                    }
                    // A full or failing disk: the next look goes on.
                    Some(Err(_)) => break,
                    None => return,
                }
            }
        }
    }
}
