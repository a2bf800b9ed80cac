//! What the CQL door needs of its node.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::causality::ContextCodec;
use crate::coordinator::{
    BatchError, ConditionalOp, ConditionalOutcome, CountOp, OpError, PartitionRows, ReadOp,
    ReadOutcome, Receipts, RowsOp, ScanOp, ScanPage, WriteOp, WriteOutcome,
};
use crate::env::BoxFuture;
use crate::meta::{ClusterState, Command, Verdict};
use crate::overload::Gate;
use crate::types::{Consistency, Epoch, NodeId, Token, WallMicros};

/// A member as clients see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerView {
    /// Its id.
    pub id: NodeId,
    /// Where it serves CQL.
    pub address: IpAddr,
    /// On which port.
    pub port: u16,
    /// Its datacentre.
    pub datacenter: String,
    /// Its rack.
    pub rack: String,
    /// The end tokens of its partitions.
    pub tokens: Vec<Token>,
    /// The epoch that it was last heard to be at.
    pub epoch: Epoch,
    /// This node believes it to be up.
    pub up: bool,
}

/// The node behind the door.
pub trait Store: Send + Sync + std::fmt::Debug {
    /// What lets statements and batches in, where that is judged.
    fn gate(&self) -> Option<&Arc<Gate>> {
        None
    }
    /// What the cluster has agreed on.
    fn state(&self) -> Arc<ClusterState>;
    /// All members, this node first.
    fn members(&self) -> Vec<PeerView>;
    /// The wall clock.
    fn wall(&self) -> WallMicros;
    /// A fresh stamp, in microseconds.
    fn stamp(&self) -> u64;
    /// Random bits.
    fn random(&self) -> u128;
    /// Reads one stored row.
    fn read(&self, op: ReadOp) -> BoxFuture<'_, Result<ReadOutcome, OpError>>;
    /// As [`Store::read`], where nobody else has to be asked. `None`: somebody has to, or it would
    /// have to wait; nothing was done.
    fn read_at_once(&self, op: &ReadOp) -> Option<Result<ReadOutcome, OpError>> {
        let _ = op;
        None
    }
    /// Reads stored rows in order.
    fn scan(&self, op: ScanOp) -> BoxFuture<'_, Result<ScanPage, OpError>>;
    /// Merges rows of one partition.
    fn write(&self, op: RowsOp) -> BoxFuture<'_, Result<(), OpError>>;
    /// As [`Store::scan`], and notes how it went, where that is known.
    fn scan_noting(
        &self,
        op: ScanOp,
        receipts: Arc<Receipts>,
    ) -> BoxFuture<'_, Result<ScanPage, OpError>> {
        drop(receipts);
        self.scan(op)
    }
    /// As [`Store::write`], and notes how it went, where that is known.
    fn write_noting(
        &self,
        op: RowsOp,
        receipts: Arc<Receipts>,
    ) -> BoxFuture<'_, Result<(), OpError>> {
        drop(receipts);
        self.write(op)
    }
    /// Writes rows of several partitions, each at `level`, in the end all or none.
    fn write_batch(
        &self,
        parts: Vec<PartitionRows>,
        level: Consistency,
        timeout: Duration,
    ) -> BoxFuture<'_, Result<(), BatchError>>;
    /// Writes a value of a bucket.
    fn put(&self, op: WriteOp) -> BoxFuture<'_, Result<WriteOutcome, OpError>>;
    /// Seals and opens contexts of buckets' values.
    fn codec(&self) -> &ContextCodec;
    /// Adds to counters.
    fn count(&self, op: CountOp) -> BoxFuture<'_, Result<(), OpError>>;
    /// Changes rows of one partition if they are as they must be.
    fn write_if(&self, op: ConditionalOp) -> BoxFuture<'_, Result<ConditionalOutcome, OpError>>;
    /// Changes the metadata; done when every live node knows of it.
    fn append(&self, command: Command) -> BoxFuture<'_, Result<Verdict, OpError>>;
    /// `Err`: why this node does not serve yet.
    fn ready(&self) -> Result<(), String>;
}
