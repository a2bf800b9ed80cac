//! Refilling an emptied data directory (rule 17).
//!
//! A node whose directory began anew has forgotten writes that it acknowledged. If it answered
//! "absent" in a quorum, those writes could be missed. So it takes writes but shows nothing and
//! mints nothing until it has copied, of every partition that it keeps, what *all* other replicas
//! hold: each acknowledged write is on at least one of them (unless it was acknowledged by the
//! lost copy alone). Then an entry of the metadata log says that it counts again.
//!
//! Copying is merging: it may be cut off and begun again at any point, beside any writes. What was
//! copied once need not be copied again, however often a replica fails to answer in between: all
//! that this node acknowledges after its start is on its disk.
//!
//! Votes on lightweight transactions are no data, and a vote that was lost is lost. Every round that
//! the lost copy may have been part of ended with the epoch in which this directory began: voters
//! answer at their own epoch only. So what the other replicas have voted for and not seen decided
//! is *settled* first, by Paxos among them; then it is data, and is copied like all data. This node
//! votes from the next epoch on, whose majorities all meet those of this one.
//!
//! A record that a source cannot read is passed over, and said so in the log: waiting for it would
//! wait for ever, since the source is healed by the merge of all other replicas, of which this one
//! is. What other sources hold of it is copied from them.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;

use crate::cluster::Cluster;
use crate::coordinator::Coordinator;
use crate::env::Env;
use crate::meta::{ClusterState, Command, Table};
use crate::net::messages::{Apply, PageRequest, Row, Want};
use crate::net::paxos::{OpenRequest, PaxosAnswer};
use crate::net::purge::{PurgeAction, PurgeRequest};
use crate::net::{Peers, Request, Response};
use crate::repair::Repair;
use crate::repair::purge::Purge;
use crate::types::{Generation, Key, NodeId, PartitionId, ScanOrder, TableId, Token};

/// Time for one page of records.
const PAGE_TIME: Duration = Duration::from_secs(10);

/// Rows asked for at a time.
const PAGE_ROWS: u32 = 500;

/// Records that are stored at a time.
const STORED_AT_ONCE: usize = 32;

/// Sources that are asked at a time: small partitions cost a round trip each.
const SOURCES_AT_ONCE: usize = 4;

/// Pause before another try when a replica did not answer.
const PAUSE: Duration = Duration::from_millis(500);

/// One other replica's share of what is to be copied.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Source {
    table: TableId,
    partition: PartitionId,
    node: NodeId,
}

/// How much of a source is copied.
#[derive(Clone, Default)]
struct Copied {
    /// The purge generation of this node's replica at the time. What it catches up with later may
    /// take away what was copied before.
    generation: Generation,
    /// Everything up to here.
    after: Option<(Token, Key)>,
    /// Everything.
    whole: bool,
}

/// Replicas that have failed in this round, and why: nothing more is asked of them until the next.
#[derive(Default)]
struct Failures(Mutex<BTreeMap<NodeId, String>>);

impl Failures {
    /// Does `work` unless `node` has failed before; true if it was done.
    async fn unless(&self, node: NodeId, work: impl Future<Output = Result<(), String>>) -> bool {
        if self.lock().contains_key(&node) {
            return false;
        }
        let done = work.await;
        if let Err(why) = done {
            self.lock().entry(node).or_insert(why);
            return false;
        }
        true
    }

    /// # Errors
    /// Why one of them has failed.
    fn first(&self) -> Result<(), String> {
        self.lock().values().next().map_or(Ok(()), |why| Err(why.clone()))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Work<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Does all of `work`, a few at a time.
async fn several_at_once<T: Send>(work: Vec<Work<'_, T>>) -> Vec<T> {
    futures_util::stream::iter(work).buffer_unordered(SOURCES_AT_ONCE).collect().await
}

/// The task that refills a node.
pub(super) struct Refill {
    env: Env,
    cluster: Arc<Cluster>,
    peers: Peers,
    purge: Arc<Purge>,
    coordinator: Coordinator,
    copied: BTreeMap<Source, Copied>,
    settled: BTreeSet<Source>,
    /// Whose counters tell how far it is.
    repair: Arc<Repair>,
}

impl Refill {
    pub(super) fn new(
        env: Env,
        cluster: Arc<Cluster>,
        peers: Peers,
        (purge, coordinator): (Arc<Purge>, Coordinator),
        repair: Arc<Repair>,
    ) -> Self {
        let (copied, settled) = (BTreeMap::new(), BTreeSet::new());
        Self { env, cluster, peers, purge, coordinator, copied, settled, repair }
    }

    /// Waits until this start is on record; refills the node if the log says that it must be.
    pub(super) async fn run(mut self) {
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
                    Ok(()) => {
                        let records = self.repair.counters().refilled.load(Ordering::Relaxed);
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

    /// Settles and copies all that is not copied yet. Leaves a replica that fails until the next
    /// round and goes on with the others.
    async fn refill(&mut self, state: &ClusterState) -> Result<(), String> {
        let sources = self.sources(state);
        let failures = Failures::default();
        let mut settling: Vec<Work<'_, Option<Source>>> = Vec::new();
        for (table, source) in &sources {
            if !self.settled.contains(source) {
                let settle = failures.unless(source.node, self.settle(table, *source));
                settling.push(Box::pin(async { settle.await.then_some(*source) }));
            }
        }
        let settled = several_at_once(settling).await;
        self.settled.extend(settled.into_iter().flatten());
        // A decision of votes that one source shows may come to be in the data of another one.
        failures.first()?;
        let mut copying: Vec<Work<'_, (Source, Copied)>> = Vec::new();
        for (table, source) in &sources {
            let (this, failures) = (&*self, &failures);
            let mut copied = self.copied.get(source).cloned().unwrap_or_default();
            copying.push(Box::pin(async move {
                let copy = this.copy(state, table, *source, &mut copied);
                failures.unless(source.node, copy).await;
                (*source, copied)
            }));
        }
        let copied = several_at_once(copying).await;
        self.copied.extend(copied);
        failures.first()?;
        for (source, copied) in &self.copied {
            if copied.generation != self.generation(*source)? {
                return Err("tombstones were purged meanwhile".to_owned());
            }
        }
        Ok(())
    }

    /// Every partition of every table that this node keeps, at every other replica.
    fn sources(&self, state: &ClusterState) -> Vec<(Arc<Table>, Source)> {
        let me = self.cluster.me();
        let mut sources = Vec::new();
        for table in state.tables().values() {
            let placement = state.ring().placement(&table.settings.replication);
            for partition in placement.kept_by(me) {
                for &node in placement.of(partition).write.iter().filter(|&&node| node != me) {
                    sources.push((table.clone(), Source { table: table.id, partition, node }));
                }
            }
        }
        sources
    }

    /// Has everything decided that a source has voted for.
    async fn settle(&self, table: &Arc<Table>, source: Source) -> Result<(), String> {
        let mut after = None;
        loop {
            let (node, deadline) = (source.node, self.env.mono() + PAGE_TIME);
            let request = OpenRequest { table: source.table, partition: source.partition, after };
            let answer = self.peers.call(node, Request::Open(request), deadline).await;
            let (keys, more) = match answer {
                Ok(Response::Paxos(PaxosAnswer::Open { keys, more })) => (keys, more),
                Ok(Response::Refused(refusal)) => return Err(format!("{node}: {refusal}")),
                Ok(_) => return Err(format!("{node} answered something else")),
                Err(error) => return Err(format!("{node}: {error}")),
            };
            for key in &keys {
                let settled = self.coordinator.settle(table, key, PAGE_TIME).await;
                settled.map_err(|error| format!("an undecided vote cannot be settled: {error}"))?;
            }
            after = keys.into_iter().next_back();
            if !more || after.is_none() {
                return Ok(());
            }
        }
    }

    /// The purge generation of this node's own replica of a source's partition.
    fn generation(&self, source: Source) -> Result<Generation, String> {
        self.purge.generation((source.table, source.partition)).map_err(|error| error.to_string())
    }

    /// A source is at another purge generation than this node: whoever is behind catches up.
    async fn level(
        &self,
        state: &ClusterState,
        source: Source,
        theirs: Generation,
    ) -> Result<(), String> {
        let (id, mine) = ((source.table, source.partition), self.generation(source)?);
        let deadline = self.env.mono() + PAGE_TIME;
        if theirs > mine {
            let caught = self.purge.catch_up(state, id, theirs, Some(source.node), deadline).await;
            return caught.map_err(|refusal| refusal.to_string());
        }
        if theirs < mine {
            let (table, partition) = id;
            let what = PurgeAction::Advance { generation: mine };
            let request = Request::Purge(PurgeRequest { table, partition, what });
            let told = self.peers.call(source.node, request, deadline).await;
            return Err(format!("{} is behind with a purge: {told:?}", source.node));
        }
        Ok(())
    }

    /// Merges in what a source holds, from where it was left; `copied` says how far that is.
    async fn copy(
        &self,
        state: &ClusterState,
        table: &Table,
        source: Source,
        copied: &mut Copied,
    ) -> Result<(), String> {
        let mut generation = self.generation(source)?;
        if copied.generation != generation {
            *copied = Copied { generation, ..Copied::default() };
        }
        while !copied.whole {
            let (rows, next, theirs) = self.page(source, copied.after.clone()).await?;
            if theirs != generation {
                self.level(state, source, theirs).await?;
                generation = self.generation(source)?;
                *copied = Copied { generation, ..Copied::default() };
                continue;
            }
            let damaged = rows.iter().filter(|row| row.digest.is_none()).count();
            if damaged > 0 {
                tracing::warn!(
                    source = %source.node, damaged,
                    "passed over records that a replica cannot read; the others' copies count"
                );
            }
            self.store(table, rows, generation).await?;
            *copied = Copied { whole: next.is_none(), after: next, generation };
        }
        Ok(())
    }

    async fn page(
        &self,
        source: Source,
        after: Option<(Token, Key)>,
    ) -> Result<(Vec<Row>, Option<(Token, Key)>, Generation), String> {
        let node = source.node;
        let request = Request::Page(PageRequest {
            table: source.table,
            partition: source.partition,
            after,
            before: None,
            prefix: Bytes::new(),
            limit: PAGE_ROWS,
            want: Want::Record,
            refill: true,
            term: None,
            order: ScanOrder::Ascending,
        });
        let deadline = self.env.mono() + PAGE_TIME;
        match self.peers.call(node, request, deadline).await {
            Ok(Response::Page { rows, next, generation }) => Ok((rows, next, generation)),
            Ok(Response::Refused(refusal)) => Err(format!("{node}: {refusal}")),
            Ok(_) => Err(format!("{node} answered something else")),
            Err(error) => Err(format!("{node}: {error}")),
        }
    }

    async fn store(
        &self,
        table: &Table,
        rows: Vec<Row>,
        generation: Generation,
    ) -> Result<(), String> {
        let (peers, me) = (self.peers.clone(), self.cluster.me());
        let deadline = self.env.mono() + PAGE_TIME;
        let merges = rows.into_iter().filter(|row| row.digest.is_some()).map(|row| {
            let (table, key, record) = (table.id, row.key, row.record);
            let bytes = record.len() as u64;
            let apply = Apply { table, key, record, generation, heals: false };
            let applied = peers.call(me, Request::Apply(apply), deadline);
            async move { (applied.await, bytes) }
        });
        let mut merges = futures_util::stream::iter(merges).buffer_unordered(STORED_AT_ONCE);
        while let Some((merged, bytes)) = merges.next().await {
            match merged {
                Ok(Response::Applied { .. }) => {
                    let counters = self.repair.counters();
                    counters.refilled.fetch_add(1, Ordering::Relaxed);
                    counters.refilled_bytes.fetch_add(bytes, Ordering::Relaxed);
                }
                Ok(Response::Refused(refusal)) => return Err(refusal.to_string()),
                _ => return Err("a record could not be stored".to_owned()),
            }
        }
        Ok(())
    }
}
