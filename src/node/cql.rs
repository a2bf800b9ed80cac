//! A node as its CQL door sees it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::Duration;

use crate::causality::ContextCodec;
use crate::coordinator::{
    BatchError, BatchOp, ConditionalOp, ConditionalOutcome, CountOp, OpError, PartitionRows,
    ReadOp, ReadOutcome, Receipts, RowsOp, ScanOp, ScanPage, WriteOp, WriteOutcome, log_table,
};
use crate::env::BoxFuture;
use crate::gossip::Liveness;
use crate::meta::{ClusterState, Command, Table, TableSettings, Verdict};
use crate::node::{Node, NodeBackend};
use crate::overload::Gate;
use crate::server::cql::{PeerView, Store};
use crate::server::http::backend::{Backend as _, Creation};
use crate::types::{Consistency, Epoch, WallMicros};

/// How long records of batches that are done are kept at least, in seconds. Nobody repeats their
/// writes under the same key.
const BATCH_GRACE_S: u64 = 60;

/// The one real implementation of [`Store`].
#[derive(Debug)]
pub struct NodeStore {
    node: Node,
    backend: NodeBackend,
    /// No operation takes longer.
    limit: Duration,
}

impl NodeStore {
    /// `node` as the store of a CQL door.
    #[must_use]
    pub fn new(node: Node) -> Self {
        Self::with_limit(node, Duration::MAX)
    }

    /// One whose operations end after `limit`, if the door would give them longer.
    #[must_use]
    pub fn with_limit(node: Node, limit: Duration) -> Self {
        let backend = NodeBackend::new(node.clone());
        Self { node, backend, limit }
    }
}

impl NodeStore {
    /// The table of batches under way, made by whoever needs it first.
    async fn batch_log(&self) -> Result<Arc<Table>, OpError> {
        let nodes = self.backend.node_count() as usize;
        let settings = TableSettings { grace_s: BATCH_GRACE_S, ..TableSettings::bucket(nodes) };
        match self.backend.create_table(log_table(), settings, None).await? {
            Creation::Created(table) | Creation::Exists(table) => Ok(table),
        }
    }
}

/// Where a member serves CQL, by what it said of itself. Addresses are published as numbers: a
/// name is looked up as this machine does.
fn address_of(published: &str) -> (IpAddr, u16) {
    let parsed = published.parse::<SocketAddr>().ok();
    let found = parsed.or_else(|| published.to_socket_addrs().ok()?.next());
    found.map_or((IpAddr::V4(Ipv4Addr::LOCALHOST), 9042), |found| (found.ip(), found.port()))
}

impl Store for NodeStore {
    fn gate(&self) -> Option<&Arc<Gate>> {
        Some(&self.node.gates().clients)
    }

    fn state(&self) -> Arc<ClusterState> {
        self.node.cluster().state()
    }

    fn members(&self) -> Vec<PeerView> {
        let state = self.state();
        let ring = state.ring();
        let view = |status: crate::cluster::MemberStatus| {
            let member = &status.member.member;
            let (address, port) = address_of(&status.member.addresses.cql);
            PeerView {
                id: member.id,
                address,
                port,
                datacenter: member.datacenter.clone(),
                rack: member.rack.clone(),
                tokens: ring.owned_by(member.id).map(|p| ring.map().end_token(p)).collect(),
                epoch: status.epoch.unwrap_or(Epoch(0)),
                up: matches!(status.liveness, Liveness::Live | Liveness::Suspect),
            }
        };
        let mut all: Vec<PeerView> = self.node.cluster().members().into_iter().map(view).collect();
        all.sort_by_key(|peer| (peer.id != self.node.id(), peer.id));
        all
    }

    fn wall(&self) -> WallMicros {
        self.node.env().wall()
    }

    fn stamp(&self) -> u64 {
        self.node.coordinator().row_stamp()
    }

    fn random(&self) -> u128 {
        let env = self.node.env();
        u128::from(env.random("cql")) << 64 | u128::from(env.random("cql"))
    }

    fn read(&self, mut op: ReadOp) -> BoxFuture<'_, Result<ReadOutcome, OpError>> {
        op.timeout = op.timeout.min(self.limit);
        Box::pin(self.node.coordinator().read(op))
    }

    fn read_at_once(&self, op: &ReadOp) -> Option<Result<ReadOutcome, OpError>> {
        self.node.coordinator().read_at_once(op)
    }

    fn scan(&self, mut op: ScanOp) -> BoxFuture<'_, Result<ScanPage, OpError>> {
        op.timeout = op.timeout.min(self.limit);
        Box::pin(self.node.coordinator().scan(op))
    }

    fn write(&self, mut op: RowsOp) -> BoxFuture<'_, Result<(), OpError>> {
        op.timeout = op.timeout.min(self.limit);
        Box::pin(self.node.coordinator().write_rows(op))
    }

    fn scan_noting(
        &self,
        mut op: ScanOp,
        receipts: Arc<Receipts>,
    ) -> BoxFuture<'_, Result<ScanPage, OpError>> {
        op.timeout = op.timeout.min(self.limit);
        Box::pin(self.node.coordinator().scan_noting(op, Some(receipts)))
    }

    fn write_noting(
        &self,
        mut op: RowsOp,
        receipts: Arc<Receipts>,
    ) -> BoxFuture<'_, Result<(), OpError>> {
        op.timeout = op.timeout.min(self.limit);
        Box::pin(self.node.coordinator().write_rows_noting(op, Some(receipts)))
    }

    fn write_batch(
        &self,
        parts: Vec<PartitionRows>,
        level: Consistency,
        timeout: Duration,
    ) -> BoxFuture<'_, Result<(), BatchError>> {
        let timeout = timeout.min(self.limit);
        Box::pin(async move {
            let log = self.batch_log().await.map_err(BatchError::NotKept)?;
            self.node.coordinator().write_batch(BatchOp { log, parts, level, timeout }).await
        })
    }

    fn put(&self, mut op: WriteOp) -> BoxFuture<'_, Result<WriteOutcome, OpError>> {
        op.timeout = op.timeout.min(self.limit);
        Box::pin(self.node.coordinator().write(op))
    }

    fn codec(&self) -> &ContextCodec {
        self.backend.codec()
    }

    fn count(&self, mut op: CountOp) -> BoxFuture<'_, Result<(), OpError>> {
        op.timeout = op.timeout.min(self.limit);
        Box::pin(self.node.coordinator().count(op))
    }

    fn write_if(
        &self,
        mut op: ConditionalOp,
    ) -> BoxFuture<'_, Result<ConditionalOutcome, OpError>> {
        op.timeout = op.timeout.min(self.limit);
        Box::pin(self.node.coordinator().write_rows_if(op))
    }

    fn append(&self, command: Command) -> BoxFuture<'_, Result<Verdict, OpError>> {
        Box::pin(self.backend.append(command))
    }

    fn ready(&self) -> Result<(), String> {
        self.backend.ready().map_err(|why| why.0)
    }
}
