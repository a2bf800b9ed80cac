//! What the door needs from its node. The node's wiring is the one real implementation; tests
//! have a small one in memory.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use utoipa::ToSchema;

use crate::causality::ContextCodec;
use crate::coordinator::{
    LeaseOp, LeaseOutcome, ListOp, ListPage, OpError, PartitionDigest, ReadOp, ReadOutcome, Told,
    Whereabouts, WriteOp, WriteOutcome,
};
use crate::env::BoxFuture;
use crate::meta::{ClusterState, Table, TableName, TableSettings};
use crate::overload::{Busy, Place};
use crate::server::auth::Gate;
use crate::server::cql;
use crate::types::{Key, OpId, PartitionId};

/// Why a node is not ready to serve.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotReady(pub String);

/// What came of asking for a table.
#[derive(Debug, Clone)]
pub enum Creation {
    /// It was made.
    Created(Arc<Table>),
    /// One of that name exists, with these or with other settings.
    Exists(Arc<Table>),
}

/// What came of changing a table's settings.
#[derive(Debug, Clone)]
pub enum Alteration {
    /// They are changed.
    Done(Arc<Table>),
    /// Somebody else has changed them since the given table was read. It is now this one.
    Overtaken(Arc<Table>),
}

/// A node, as `/v1/cluster` shows it.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct NodeView {
    /// Its id, a UUID.
    pub id: String,
    /// Its name.
    pub name: String,
    /// `up`, or `down` as far as this node knows.
    pub status: String,
    /// Where peers reach it.
    pub address: String,
    /// Its datacentre.
    pub datacenter: String,
    /// Its rack.
    pub rack: String,
    /// Its weight in the share-out of partitions.
    pub capacity: u32,
    /// Partitions that it owns.
    pub partitions: u32,
    /// The epoch that it was last heard to be at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
}

/// The cluster, as this node sees it.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ClusterView {
    /// The cluster's name.
    pub cluster: String,
    /// The cluster's id.
    pub cluster_id: String,
    /// The node that answers, by id.
    pub node: String,
    /// Length of the metadata log that the node has applied.
    pub epoch: u64,
    /// All members.
    pub nodes: Vec<NodeView>,
    /// What the node that answers keeps for others that missed a write, and hands over when they
    /// are back. Empty: nothing.
    pub hints: Vec<HintsView>,
    /// How far the data of the node that answers is from other replicas'.
    pub repair: RepairView,
    /// How much work the node that answers has, and what it refuses for that.
    pub load: LoadView,
}

/// How much a node has to do.
#[derive(Debug, Clone, Default, PartialEq, Serialize, ToSchema)]
pub struct LoadView {
    /// How long work was last seen to wait for its turn, in milliseconds: for the processor, or for
    /// the disk.
    pub wait_ms: f64,
    /// True while new requests are refused so that those under way are answered in time.
    pub shedding: bool,
    /// Requests of clients under way.
    pub under_way: u64,
    /// Requests of clients that may be under way now.
    pub limit: u64,
    /// Requests of clients refused because work waits too long, since the start.
    pub shed: u64,
    /// Requests of peers refused for the same reason, since the start.
    pub shed_of_peers: u64,
}

/// What a node keeps for one other.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct HintsView {
    /// For whom, by name.
    pub target: String,
    /// Keys with a missed write.
    pub count: u64,
    /// Bytes that they take on the disk.
    pub bytes: u64,
    /// Age of the oldest, in seconds.
    pub oldest_s: u64,
    /// Handed over per second now; zero while the other node does not take them.
    pub rate_per_s: f64,
    /// Seconds until all are handed over, at that rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eta_s: Option<u64>,
}

/// How far a node's data is from that of the other replicas, as it last saw it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, ToSchema)]
pub struct RepairView {
    /// Hash trees that the node keeps: one per partition and table.
    pub trees: u64,
    /// Of them, those that are still being built from the data, and cannot be compared yet.
    pub trees_unbuilt: u64,
    /// Ranges in which the node and another replica differ, the longest apart first; at most 1,000
    /// of them. Under writes, a few are here for a moment.
    pub apart: Vec<ApartView>,
    /// Damaged records that scrubbing has met since the node's start.
    pub scrub_damaged: u64,
    /// Times that scrubbing has read all of the node's data since its start.
    pub scrub_passes: u64,
    /// Tombstones and expired records that purges led by this node have removed since its start.
    pub purged: u64,
    /// Ranges in which tombstones are past their grace time and stay, because somebody is in the
    /// way, the longest blocked first; at most 1,000 of them. Of each range one node knows: the
    /// replica that leads its purges.
    pub blocked: Vec<BlockedView>,
}

/// Tombstones that cannot be purged yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct BlockedView {
    /// The table.
    pub table: String,
    /// The partition.
    pub partition: u32,
    /// Who is in the way, by name.
    pub node: String,
    /// Why: `away` (it does not answer), `hints` (it keeps hints about them), `differs` (its
    /// replica does not hold the same yet), `refuses`, or `other_generation` (it has to catch up
    /// with an earlier purge).
    pub why: &'static str,
    /// Tombstones that were to go when it was last tried.
    pub rows: u32,
    /// For how long, in milliseconds.
    pub since_ms: u64,
}

/// A range in which two replicas differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ApartView {
    /// The table.
    pub table: String,
    /// The partition.
    pub partition: u32,
    /// The other replica, by name.
    pub peer: String,
    /// 1,024ths of the range that differ.
    pub leaves: u32,
    /// For how long, in milliseconds.
    pub since_ms: u64,
}

/// One partition, as `/v1/ring` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct PartitionView {
    /// Its number.
    pub partition: u32,
    /// Its last token, inclusive.
    pub end_token: i64,
    /// Its owner, by id.
    pub owner: String,
}

/// The ring, as this node sees it.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct RingView {
    /// By which epoch.
    pub epoch: u64,
    /// All partitions, in token order.
    pub partitions: Vec<PartitionView>,
    /// All members.
    pub nodes: Vec<NodeView>,
}

/// A node's services to its doors. Writes go on when the returned future is dropped.
pub trait Backend: Send + Sync + 'static {
    /// A place for one more operation among those under way, if the node can take it on. On the
    /// path of every operation, before anything is done for it.
    ///
    /// # Errors
    /// [`Busy`]: it has more to do than it can do in time.
    fn enter(&self) -> Result<Place, Busy>;
    /// The table `table` of `keyspace`. On the path of every request: no IO, no lock held.
    fn table(&self, keyspace: &str, table: &str) -> Option<Arc<Table>>;
    /// The table, also one of rows, which is no bucket: for saying where its keys live.
    fn any_table(&self, keyspace: &str, table: &str) -> Option<Arc<Table>> {
        self.table(keyspace, table)
    }
    /// All tables, by name.
    fn tables(&self) -> Vec<Arc<Table>>;
    /// Seals and opens contexts.
    fn codec(&self) -> &ContextCodec;
    /// Reads a key.
    fn read(&self, op: ReadOp) -> BoxFuture<'_, Result<ReadOutcome, OpError>>;
    /// Writes a key.
    fn write(&self, op: WriteOp) -> BoxFuture<'_, Result<WriteOutcome, OpError>>;
    /// Changes a lock. That it is refused is no error.
    fn lease(&self, op: LeaseOp) -> BoxFuture<'_, Result<LeaseOutcome, OpError>>;
    /// What became of an operation that went through Paxos; see [`Coordinator::tell`].
    ///
    /// [`Coordinator::tell`]: crate::coordinator::Coordinator::tell
    fn tell(
        &self,
        table: Arc<Table>,
        key: Key,
        op: OpId,
        timeout: Duration,
    ) -> BoxFuture<'_, Result<Told, OpError>>;
    /// Lists keys.
    fn list(&self, op: ListOp) -> BoxFuture<'_, Result<ListPage, OpError>>;
    /// Where a key lives.
    fn locate(&self, table: &Table, key: &Key) -> Whereabouts;
    /// This node's own digest of one partition.
    fn partition_digest(
        &self,
        table: Arc<Table>,
        partition: PartitionId,
    ) -> BoxFuture<'_, Result<PartitionDigest, OpError>>;
    /// Makes a table, unless one of that name exists. Completes when every live node knows it.
    /// `owner`: the role that gets all rights on it.
    fn create_table(
        &self,
        name: TableName,
        settings: TableSettings,
        owner: Option<String>,
    ) -> BoxFuture<'_, Result<Creation, OpError>>;
    /// Changes a table's settings, made from those of `table`, unless somebody has changed them
    /// since. Completes when every live node knows them.
    fn alter_table(
        &self,
        table: Arc<Table>,
        settings: TableSettings,
    ) -> BoxFuture<'_, Result<Alteration, OpError>>;
    /// Drops a table. Completes when every live node knows it.
    fn drop_table(&self, table: Arc<Table>) -> BoxFuture<'_, Result<(), OpError>>;
    /// The store of CQL's tables, if the node has that door.
    fn cql(&self) -> Option<Arc<dyn cql::Store>> {
        None
    }
    /// Who is let in.
    fn gate(&self) -> Gate {
        Gate::open()
    }
    /// What the cluster has agreed on, by which it is judged what somebody may do. Behind a closed
    /// gate it has to be there.
    fn agreed(&self) -> Option<Arc<ClusterState>> {
        None
    }
    /// Members of the cluster.
    fn node_count(&self) -> u32;
    /// The cluster.
    fn cluster(&self) -> ClusterView;
    /// The ring.
    fn ring(&self) -> RingView;
    /// Whether this node can serve a quorum read now.
    ///
    /// # Errors
    /// [`NotReady`] says why not.
    fn ready(&self) -> Result<(), NotReady>;
}
