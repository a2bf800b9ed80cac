//! Drives one client operation: plan, contact, tally, repair, answer. Any node coordinates any
//! key. Knows no socket, no disk and no door: replicas, its own node's included, are reached
//! through [`Peers`].
//!
//! The rules it keeps:
//! - The plan (replicas, required answers, epoch) is fixed once per operation ([`plan`]). A replica
//!   that has moved on says so, the node catches up, and the operation is planned again.
//! - A read answers when enough replicas hold what it answers: replicas that were behind are
//!   brought up first, so that reads never go back ([`read`]; rule 7).
//! - Where a table is sloppy, other nodes may stand in for replicas that are away ([`stand_in`]).
//! - A write is minted by one replica and merged by the others ([`write`]; law L2). It runs in a
//!   task of its own: a client that hangs up cannot leave half of it behind.
//! - Errors tell *did not happen* from *may have happened* ([`OpError::fate`]; law L8).

mod again;
mod batches;
mod count;
mod failure;
mod generations;
mod heal;
mod latency;
mod list;
mod lwt;
mod ops;
mod plan;
mod read;
mod rows;
mod snitch;
mod stand_in;
mod write;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;

use crate::cluster::Cluster;
use crate::env::Env;
use crate::meta::Table;
use crate::net::{Peers, Refusal};
use crate::plants::{Plant, planted};
use crate::repair::hints::HintStore;
use crate::ring::token_in;
use crate::types::{Key, NodeId, OpId};

pub use crate::types::PartitionDigest;
pub(crate) use batches::left_behind;
pub use batches::log_table;
pub use count::{CountOp, CountRow};
pub use failure::Cause;
use heal::Healing;
use latency::Latencies;
pub use lwt::{LeaseOutcome, LwtCounters, Told};
pub use ops::{
    BatchError, BatchOp, Condition, ConditionalOp, ConditionalOutcome, Fate, LeaseOp, ListOp,
    ListPage, ListedKey, OpError, PartitionRows, ReadOp, ReadOutcome, Receipt, Receipts,
    ReplicaReceipt, RowsJudge, RowsOp, ScanOp, ScanPage, StoodIn, Whereabouts, WriteAction,
    WriteOp, WriteOutcome,
};
use snitch::Snitch;

/// Counts of what a coordinator has done; for `/metrics`.
#[derive(Debug, Default)]
pub struct CoordinatorCounters {
    /// Reads driven.
    pub reads: AtomicU64,
    /// Writes driven.
    pub writes: AtomicU64,
    /// Reads that found replicas in disagreement.
    pub mismatches: AtomicU64,
    /// Records sent to replicas that were behind.
    pub repairs: AtomicU64,
    /// Replicas asked because another was slow.
    pub hedges: AtomicU64,
    /// Operations on keys of which this node holds no copy: a client that knows the ring would have
    /// asked another.
    pub forwards: AtomicU64,
    /// Hedges put off because they had used up their share of the reads.
    pub hedges_put_off: AtomicU64,
    /// Mints sent again to a second replica.
    pub second_mints: AtomicU64,
    /// Last-write-wins versions minted again above a newer stamp.
    pub restamps: AtomicU64,
    /// Records that another node keeps in a replica's place (sloppy quorums).
    pub stand_ins: AtomicU64,
    /// Damaged copies replaced by the merge of all others.
    pub heals: AtomicU64,
    /// Logged batches that another node had left unfinished.
    pub resumed_batches: AtomicU64,
}

/// How many kinds of stamps for rows there are that never meet: one of each member, up to one less
/// than this, and one of what is decided by Paxos. A stamp is up to so many microseconds further than it
/// had to be.
const STAMP_SLOTS: u64 = 16;

/// The slot of conditional writes. Those of one row are in order anyway: each is above what it saw.
const DECIDED: u64 = STAMP_SLOTS - 1;

/// The slot of the member that stands at `place` among all.
fn slot_of(place: usize) -> u64 {
    place as u64 % DECIDED
}

/// The coordinator of one node. Cheap to clone.
#[derive(Clone)]
pub struct Coordinator {
    inner: Arc<Inner>,
}

struct Inner {
    env: Env,
    cluster: Arc<Cluster>,
    peers: Peers,
    latencies: Latencies,
    snitch: Snitch,
    counters: CoordinatorCounters,
    healing: Healing,
    hints: Arc<HintStore>,
    lwt: lwt::Lwt,
    purged: generations::Purged,
    stopping: AtomicBool,
    under_way: AtomicUsize,
    max_under_way: usize,
}

impl std::fmt::Debug for Coordinator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Coordinator").field("me", &self.inner.peers.me()).finish_non_exhaustive()
    }
}

/// Counts an operation under way until it is dropped.
struct UnderWay(Arc<Inner>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Coordinator {
    /// A coordinator that drives at most `max_under_way` operations at once and refuses more. What
    /// a write's replicas miss goes into `hints`.
    #[must_use]
    pub fn new(
        env: Env,
        cluster: Arc<Cluster>,
        peers: Peers,
        hints: Arc<HintStore>,
        max_under_way: usize,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                lwt: lwt::Lwt::new(&env),
                env,
                cluster,
                peers,
                latencies: Latencies::default(),
                purged: generations::Purged::default(),
                snitch: Snitch::default(),
                counters: CoordinatorCounters::default(),
                healing: Healing::default(),
                hints,
                stopping: AtomicBool::new(false),
                under_way: AtomicUsize::new(0),
                max_under_way,
            }),
        }
    }

    /// What this coordinator has done so far.
    #[must_use]
    pub fn counters(&self) -> &CoordinatorCounters {
        &self.inner.counters
    }

    /// Operations under way now.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.inner.under_way.load(Ordering::Acquire)
    }

    /// Refuses new operations from now on, and waits until the writes under way have reached each
    /// replica or left a hint for it; `patience` at most.
    pub async fn stop(&self, patience: Duration) {
        self.inner.stopping.store(true, Ordering::Release);
        self.inner.hints.settle(patience).await;
    }

    fn admit(&self) -> Result<UnderWay, OpError> {
        if self.inner.stopping.load(Ordering::Acquire) {
            return Err(OpError::ShuttingDown);
        }
        let before = self.inner.under_way.fetch_add(1, Ordering::AcqRel);
        let guard = UnderWay(self.inner.clone());
        if before >= self.inner.max_under_way {
            return Err(OpError::Overloaded {
                what: format!("{} operations are under way", self.inner.max_under_way),
            });
        }
        Ok(guard)
    }

    /// Reads a key.
    ///
    /// # Errors
    /// See [`OpError`].
    pub async fn read(&self, op: ReadOp) -> Result<ReadOutcome, OpError> {
        let _under_way = self.admit()?;
        self.inner.counters.reads.fetch_add(1, Ordering::Relaxed);
        read::read(&self.inner, &op).await
    }

    /// Reads a key, if this node alone can say what there is, and at once. `None`: it cannot, and
    /// nothing was done ([`Coordinator::read`] waits for others).
    ///
    /// # Errors
    /// See [`OpError`].
    #[must_use]
    pub fn read_at_once(&self, op: &ReadOp) -> Option<Result<ReadOutcome, OpError>> {
        let _under_way = match self.admit() {
            Ok(under_way) => under_way,
            Err(error) => return Some(Err(error)),
        };
        let outcome = read::at_once(&self.inner, op)?;
        self.inner.counters.reads.fetch_add(1, Ordering::Relaxed);
        Some(Ok(outcome))
    }

    /// What its proposer has met.
    #[must_use]
    pub fn lwt_counters(&self) -> &LwtCounters {
        &self.inner.lwt.counters
    }

    /// What became of the operation `op` on `key`. If it has not run, then it never will: it is
    /// barred for good, among all operations that go through Paxos.
    ///
    /// # Errors
    /// See [`OpError`].
    pub async fn tell(
        &self,
        table: &Arc<Table>,
        key: &Key,
        op: OpId,
        timeout: Duration,
    ) -> Result<Told, OpError> {
        let _under_way = self.admit()?;
        lwt::tell(&self.inner, table, key, op, timeout).await
    }

    /// Decides on an operation that another node has sent, in that node's form, together with those
    /// that wait for its key here; `patience` at most. Goes on if the returned future is dropped.
    ///
    /// # Errors
    /// A [`Refusal`]: it was not begun.
    pub async fn propose(
        &self,
        table: &Arc<Table>,
        key: &Key,
        operation: Bytes,
        patience: Duration,
    ) -> Result<Bytes, Refusal> {
        let under_way = self.admit().map_err(|error| match error {
            OpError::Overloaded { what } => Refusal::Overloaded { what },
            _ => Refusal::Stopping,
        })?;
        let (inner, owed) = (self.inner.clone(), self.inner.hints.owe());
        let (table, key) = (table.clone(), key.clone());
        let drive = async move {
            let _guards = (under_way, owed);
            inner.take_in(&table, &key, &operation, patience).await
        };
        match self.inner.env.run("propose", drive).await {
            Some(answer) => answer,
            // It may have been proposed by then: no answer, rather than that one.
            None => std::future::pending().await,
        }
    }

    /// Finishes what is undecided on `key`, if anything is.
    ///
    /// # Errors
    /// See [`OpError`].
    pub async fn settle(
        &self,
        table: &Arc<Table>,
        key: &Key,
        timeout: Duration,
    ) -> Result<(), OpError> {
        lwt::settle(&self.inner, table, key, timeout).await
    }

    /// Writes a key. The write goes on if the returned future is dropped.
    ///
    /// # Errors
    /// See [`OpError`]; [`OpError::fate`] tells what became of the write.
    pub async fn write(&self, op: WriteOp) -> Result<WriteOutcome, OpError> {
        let under_way = self.admit()?;
        self.inner.counters.writes.fetch_add(1, Ordering::Relaxed);
        let (inner, owed) = (self.inner.clone(), self.inner.hints.owe());
        let drive = async move {
            let _guards = (under_way, owed);
            write::write(&inner, &op).await
        };
        if planted(Plant::P33) {
            return drive.await;
        }
        let driven = self.inner.env.run("write", drive);
        // The task is gone only when the node is: what it had done by then is not known.
        driven.await.unwrap_or(Err(OpError::Stopped))
    }

    /// Changes a lock. The change goes on if the returned future is dropped.
    ///
    /// # Errors
    /// See [`OpError`]. That it is refused is no error.
    pub async fn lease(&self, op: LeaseOp) -> Result<LeaseOutcome, OpError> {
        let under_way = self.admit()?;
        write::check_id(&self.inner, op.op)?;
        let (inner, owed) = (self.inner.clone(), self.inner.hints.owe());
        let drive = async move {
            let _guards = (under_way, owed);
            lwt::lease(&inner, &op).await
        };
        self.inner.env.run("lease", drive).await.unwrap_or(Err(OpError::Stopped))
    }

    /// Lists keys in (token, key) order.
    ///
    /// # Errors
    /// See [`OpError`].
    pub async fn list(&self, op: ListOp) -> Result<ListPage, OpError> {
        let _under_way = self.admit()?;
        list::list(&self.inner, &op).await
    }

    /// Reads stored rows in (token, key) order, for a door that knows what they mean.
    ///
    /// # Errors
    /// See [`OpError`].
    pub async fn scan(&self, op: ScanOp) -> Result<ScanPage, OpError> {
        self.scan_noting(op, None).await
    }

    /// As [`Coordinator::scan`], and notes how it went.
    ///
    /// # Errors
    /// See [`OpError`].
    pub async fn scan_noting(
        &self,
        op: ScanOp,
        receipts: Option<Arc<Receipts>>,
    ) -> Result<ScanPage, OpError> {
        let _under_way = self.admit()?;
        self.inner.counters.reads.fetch_add(1, Ordering::Relaxed);
        list::scan(&self.inner, &op, receipts).await
    }

    /// Merges rows of one partition in. Goes on if the returned future is dropped.
    ///
    /// # Errors
    /// See [`OpError`].
    pub async fn write_rows(&self, op: RowsOp) -> Result<(), OpError> {
        self.write_rows_noting(op, None).await
    }

    /// As [`Coordinator::write_rows`], and notes how it went.
    ///
    /// # Errors
    /// See [`OpError`].
    pub async fn write_rows_noting(
        &self,
        op: RowsOp,
        receipts: Option<Arc<Receipts>>,
    ) -> Result<(), OpError> {
        let under_way = self.admit()?;
        self.inner.counters.writes.fetch_add(1, Ordering::Relaxed);
        let (inner, owed) = (self.inner.clone(), self.inner.hints.owe());
        let drive = async move {
            let _guards = (under_way, owed);
            rows::write(&inner, &op, receipts).await
        };
        let driven = self.inner.env.run("write-rows", drive);
        driven.await.unwrap_or(Err(OpError::Stopped))
    }

    /// Writes rows of several partitions, in the end all or none. Goes on if the returned future is
    /// dropped.
    ///
    /// # Errors
    /// See [`BatchError`].
    pub async fn write_batch(&self, op: BatchOp) -> Result<(), BatchError> {
        let under_way = self.admit().map_err(BatchError::NotKept)?;
        self.inner.counters.writes.fetch_add(1, Ordering::Relaxed);
        let (inner, owed) = (self.inner.clone(), self.inner.hints.owe());
        let drive = async move {
            let _guards = (under_way, owed);
            batches::write(&inner, op).await
        };
        let driven = self.inner.env.run("write-batch", drive);
        driven.await.unwrap_or(Err(BatchError::NotKept(OpError::Stopped)))
    }

    /// Goes on with a batch that its coordinator has left. `false`: it is done.
    ///
    /// # Errors
    /// See [`OpError`]; it may be tried again.
    pub(crate) async fn resume_batch(
        &self,
        log: &Arc<Table>,
        key: &Key,
        timeout: Duration,
    ) -> Result<bool, OpError> {
        let _under_way = self.admit()?;
        let resumed = batches::resume(&self.inner, log, key, timeout).await?;
        self.inner.counters.resumed_batches.fetch_add(u64::from(resumed), Ordering::Relaxed);
        Ok(resumed)
    }

    /// Changes rows of one partition if they are as they must be. Goes on if the returned future is
    /// dropped.
    ///
    /// # Errors
    /// See [`OpError`]; [`OpError::fate`] tells what became of the write.
    pub async fn write_rows_if(&self, op: ConditionalOp) -> Result<ConditionalOutcome, OpError> {
        let under_way = self.admit()?;
        self.inner.counters.writes.fetch_add(1, Ordering::Relaxed);
        let (inner, owed) = (self.inner.clone(), self.inner.hints.owe());
        let drive = async move {
            let _guards = (under_way, owed);
            lwt::write_rows(&inner, &op).await
        };
        let driven = self.inner.env.run("write-rows-if", drive);
        driven.await.unwrap_or(Err(OpError::Stopped))
    }

    /// Adds to counters. Goes on if the returned future is dropped.
    ///
    /// # Errors
    /// See [`OpError`]; where rows differ in their outcome, the first failure.
    pub async fn count(&self, op: CountOp) -> Result<(), OpError> {
        let under_way = self.admit()?;
        self.inner.counters.writes.fetch_add(1, Ordering::Relaxed);
        let (inner, owed) = (self.inner.clone(), self.inner.hints.owe());
        let drive = async move {
            let _guards = (under_way, owed);
            count::count(&inner, &op).await
        };
        let driven = self.inner.env.run("count", drive);
        driven.await.unwrap_or(Err(OpError::Stopped))
    }

    /// A stamp for rows, in microseconds: above every stamp that this node has given or seen, and
    /// (among fewer than [`STAMP_SLOTS`] members) given by no other node, nor to a conditional write.
    /// Two writes of one stamp would be told apart cell by cell, and a row could show half of each.
    #[must_use]
    pub fn row_stamp(&self) -> u64 {
        let (state, me) = (self.inner.cluster.state(), self.inner.peers.me());
        let place = state.members().keys().position(|&node| node == me).unwrap_or(0);
        self.inner.peers.stamps().clock.tick_in(slot_of(place), STAMP_SLOTS).0
    }

    /// Where a key lives, by this node's present epoch.
    #[must_use]
    pub fn locate(&self, table: &Table, key: &Key) -> Whereabouts {
        let state = self.inner.cluster.state();
        let token = token_in(table.id, key);
        let partition = state.ring().partition_of(token);
        let placement = state.ring().placement(&table.settings.replication);
        Whereabouts {
            token,
            partition,
            replicas: placement.of(partition).read.clone(),
            epoch: state.epoch(),
        }
    }
}

impl Inner {
    /// A fresh operation id, greater than `floor`. Its time comes from the hybrid clock, so that
    /// it is newer than every operation that was named by a node whose effects this node has
    /// seen, whatever its wall clock says. (Clients name operations by their own clocks: hence
    /// the floor.)
    fn new_op_id(&self, floor: Option<OpId>) -> OpId {
        let after = floor.map_or(0, |floor| floor.unix_millis() + 1);
        let millis = (self.peers.stamps().clock.tick().0 / 1000).max(after);
        let random =
            (u128::from(self.env.random("op-id")) << 64) | u128::from(self.env.random("op-id"));
        OpId::from_parts(millis, random)
    }

    /// A node's name, for receipts and messages.
    fn name_of(&self, node: NodeId) -> String {
        let state = self.cluster.state();
        state.ring().member(node).map_or_else(|| node.to_string(), |member| member.name.clone())
    }
}
