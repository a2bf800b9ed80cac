//! Refilling an emptied data directory (rule 17).
//!
//! A node whose directory began anew has forgotten writes that it acknowledged. If it answered
//! "absent" in a quorum, those writes could be missed. So it takes writes but shows nothing and
//! mints nothing until it has copied, of every partition that it keeps, what *all* other replicas
//! hold: each acknowledged write is on at least one of them (unless it was acknowledged by the
//! lost copy alone). Then an entry of the metadata log says that it counts again.
//!
//! Copying is merging: it may be cut off and begun again at any point, beside any writes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::cluster::Cluster;
use crate::env::Env;
use crate::meta::{ClusterState, Command, Table};
use crate::net::messages::{Apply, PageRequest, Want};
use crate::net::{Peers, Request, Response};
use crate::types::{NodeId, PartitionId};

/// Time for one page of records.
const PAGE_TIME: Duration = Duration::from_secs(10);

/// Rows asked for at a time.
const PAGE_ROWS: u32 = 500;

/// Pause before another try when a replica did not answer.
const PAUSE: Duration = Duration::from_millis(500);

/// The task that refills a node.
pub(super) struct Refill {
    pub(super) env: Env,
    pub(super) cluster: Arc<Cluster>,
    pub(super) peers: Peers,
}

impl Refill {
    /// Waits until this start is on record; refills the node if the log says that it must be.
    pub(super) async fn run(self) {
        let mut epochs = self.cluster.epochs();
        loop {
            let state = self.cluster.state();
            let me = state.member(self.cluster.me());
            if self.cluster.may_serve(&state) {
                return;
            }
            let emptied = me.is_some_and(|member| {
                !member.filled && member.nonce == self.cluster.config().nonce
            });
            if emptied {
                match self.refill(&state).await {
                    Ok(records) => {
                        tracing::info!(records, "refilled from the other replicas");
                        let command = Command::Refilled {
                            node: self.cluster.me(),
                            actor: self.cluster.config().actor,
                        };
                        let deadline = self.env.mono() + PAGE_TIME;
                        let _ = self.cluster.append(command, deadline).await;
                    }
                    Err(why) => tracing::warn!(why, "cannot refill yet"),
                }
                self.env.sleep(PAUSE).await;
            } else if epochs.changed().await.is_err() {
                return;
            }
        }
    }

    async fn refill(&self, state: &ClusterState) -> Result<u64, String> {
        let mut records = 0;
        for table in state.tables().values() {
            let placement = state.ring().placement(&table.settings.replication);
            for partition in state.ring().map().partitions() {
                let replicas = placement.of(partition);
                if !replicas.contains(self.cluster.me()) {
                    continue;
                }
                let others = replicas.write.iter().filter(|&&node| node != self.cluster.me());
                for &node in others {
                    records += self.copy(table, partition, node).await?;
                }
            }
        }
        Ok(records)
    }

    /// Merges in what `node` holds of a partition.
    async fn copy(
        &self,
        table: &Table,
        partition: PartitionId,
        node: NodeId,
    ) -> Result<u64, String> {
        let mut records = 0;
        let mut after = None;
        loop {
            let request = Request::Page(PageRequest {
                table: table.id,
                partition,
                after,
                prefix: Bytes::new(),
                limit: PAGE_ROWS,
                want: Want::Record,
                refill: true,
            });
            let deadline = self.env.mono() + PAGE_TIME;
            let (rows, next) = match self.peers.call(node, request, deadline).await {
                Ok(Response::Page { rows, next }) => (rows, next),
                Ok(Response::Refused(refusal)) => return Err(format!("{node}: {refusal}")),
                Ok(_) => return Err(format!("{node} answered something else")),
                Err(error) => return Err(format!("{node}: {error}")),
            };
            let merges = rows.into_iter().map(|row| {
                let apply =
                    Apply { table: table.id, key: row.key, record: row.record, heals: false };
                self.peers.call(self.cluster.me(), Request::Apply(apply), deadline)
            });
            for merged in futures_util::future::join_all(merges).await {
                match merged {
                    Ok(Response::Applied { .. }) => records += 1,
                    Ok(Response::Refused(refusal)) => return Err(refusal.to_string()),
                    _ => return Err("a record could not be stored".to_owned()),
                }
            }
            match next {
                Some(next) => after = Some(next),
                None => return Ok(records),
            }
        }
    }
}
