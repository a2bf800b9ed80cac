//! A node as its HTTP door sees it.

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::causality::ContextCodec;
use crate::cluster::AppendError;
use crate::coordinator::{
    Fate, LeaseOp, LeaseOutcome, ListOp, ListPage, OpError, PartitionDigest, ReadOp, ReadOutcome,
    Told, Whereabouts, WriteOp, WriteOutcome,
};
use crate::env::BoxFuture;
use crate::gossip::Liveness;
use crate::meta::{ClusterState, Command, NotDone, Table, TableName, TableSettings, Verdict};
use crate::net::Refusal;
use crate::node::{Node, NodeStore};
use crate::overload::{Busy, Place};
use crate::repair::Apart;
use crate::repair::purge::Blocked;
use crate::server::auth::Gate;
use crate::server::cql;
use crate::server::http::backend::{
    Alteration, ApartView, Backend, BlockedView, ClusterView, Creation, HintsView, LoadView,
    NodeView, NotReady, PartitionView, RepairView, RingView,
};
use crate::types::{Consistency, Key, NodeId, OpId, PartitionId};

/// Time for a change of the metadata.
const CHANGE_TIME: Duration = Duration::from_secs(10);

/// Ranges that are shown as apart.
const MAX_APART_SHOWN: usize = 1_000;

/// The one real implementation of [`Backend`].
#[derive(Debug)]
pub struct NodeBackend {
    node: Node,
    gate: Gate,
    /// Sealed with the cluster's secret, which the founding fixes for ever.
    codec: OnceLock<ContextCodec>,
    /// Opens and seals nothing that counts: there is no table before the founding.
    unfounded: ContextCodec,
}

impl NodeBackend {
    /// `node` as a backend of doors.
    #[must_use]
    pub fn new(node: Node) -> Self {
        let (gate, unfounded) = (Gate::open(), ContextCodec::new([0; 32]));
        Self { node, gate, codec: OnceLock::new(), unfounded }
    }

    /// The same, for those only whom `gate` lets in.
    #[must_use]
    pub fn with_gate(self, gate: Gate) -> Self {
        Self { gate, ..self }
    }

    fn state(&self) -> Arc<ClusterState> {
        self.node.cluster().state()
    }

    pub(super) async fn append(&self, command: Command) -> Result<Verdict, OpError> {
        let deadline = self.node.env().mono() + CHANGE_TIME;
        self.node.cluster().append(command, deadline).await.map_err(|error| {
            let (level, timeout_ms) = (Consistency::Quorum, CHANGE_TIME.as_millis() as u64);
            match error {
                AppendError::Unavailable { members } => {
                    let required = u32::try_from(members / 2 + 1).unwrap_or(u32::MAX);
                    let alive = self.live_members();
                    OpError::Unavailable { level, required, alive: alive.min(required - 1) }
                }
                AppendError::Unknown => OpError::Timeout {
                    level,
                    required: self.node_count() / 2 + 1,
                    received: 0,
                    timeout_ms,
                    fate: Fate::Unknown,
                },
            }
        })
    }

    fn live_members(&self) -> u32 {
        let cluster = self.node.cluster();
        let live = cluster.members().iter().filter(|m| is_up(m.liveness)).count();
        u32::try_from(live).unwrap_or(u32::MAX)
    }

    fn nodes(&self) -> Vec<NodeView> {
        let state = self.state();
        self.node
            .cluster()
            .members()
            .into_iter()
            .map(|status| {
                let member = &status.member.member;
                NodeView {
                    id: member.id.to_string(),
                    name: member.name.clone(),
                    status: self.word(member.id, status.liveness, status.member.filled),
                    address: status.member.addresses.peer.clone(),
                    datacenter: member.datacenter.clone(),
                    rack: member.rack.clone(),
                    capacity: member.capacity,
                    partitions: u32::try_from(state.ring().owned_by(member.id).count())
                        .unwrap_or(u32::MAX),
                    epoch: status.epoch.map(|epoch| epoch.0),
                }
            })
            .collect()
    }

    fn hints(&self) -> Vec<HintsView> {
        let state = self.state();
        let name = |node: NodeId| {
            let member = state.member(node);
            member.map_or_else(|| node.to_string(), |member| member.member.name.clone())
        };
        let targets = self.node.hints().targets().into_iter();
        targets
            .map(|hints| HintsView {
                target: name(hints.target),
                count: hints.count,
                bytes: hints.bytes,
                oldest_s: hints.oldest.as_secs(),
                rate_per_s: (hints.rate * 10.0).round() / 10.0,
                eta_s: hints.eta().map(|eta| eta.as_secs()),
            })
            .collect()
    }

    fn repair(&self) -> RepairView {
        let state = self.state();
        let mut apart = self.node.repair().apart();
        apart.sort_by_key(|apart| std::cmp::Reverse(apart.since));
        apart.truncate(MAX_APART_SHOWN);
        let view = |apart: Apart| ApartView {
            table: state
                .table(apart.table)
                .map_or_else(|| apart.table.0.to_string(), |table| table.name.to_string()),
            partition: apart.partition.0,
            peer: state
                .ring()
                .member(apart.peer)
                .map_or_else(|| apart.peer.to_string(), |member| member.name.clone()),
            leaves: apart.leaves,
            since_ms: u64::try_from(apart.since.as_millis()).unwrap_or(u64::MAX),
        };
        let mut blocked = self.node.purge().blocked();
        blocked.sort_by_key(|blocked| std::cmp::Reverse(blocked.since));
        blocked.truncate(MAX_APART_SHOWN);
        let blocked_view = |blocked: Blocked| BlockedView {
            table: state
                .table(blocked.table)
                .map_or_else(|| blocked.table.0.to_string(), |table| table.name.to_string()),
            partition: blocked.partition.0,
            node: state
                .ring()
                .member(blocked.node)
                .map_or_else(|| blocked.node.to_string(), |member| member.name.clone()),
            why: blocked.why.name(),
            rows: blocked.rows,
            since_ms: u64::try_from(blocked.since.as_millis()).unwrap_or(u64::MAX),
        };
        let purged = self.node.purge().counters().rows.load(Ordering::Relaxed);
        let trees = self.node.replica().trees().counts();
        let counters = self.node.repair().counters();
        RepairView {
            trees: trees.trees as u64,
            trees_unbuilt: trees.unbuilt as u64,
            apart: apart.into_iter().map(view).collect(),
            scrub_damaged: counters.scrub_damaged.load(Ordering::Relaxed),
            scrub_passes: counters.scrub_passes.load(Ordering::Relaxed),
            purged,
            blocked: blocked.into_iter().map(blocked_view).collect(),
        }
    }

    fn load(&self) -> LoadView {
        let (clients, peers) = (&self.node.gates().clients, &self.node.gates().peers);
        LoadView {
            wait_ms: (clients.wait().as_secs_f64() * 10_000.0).round() / 10.0,
            shedding: clients.is_narrowed(),
            under_way: clients.under_way() as u64,
            limit: clients.limit() as u64,
            shed: clients.shed(),
            shed_of_peers: peers.shed(),
        }
    }

    fn word(&self, node: NodeId, liveness: Liveness, filled: bool) -> String {
        let up = node == self.node.id() || is_up(liveness);
        match (up, filled) {
            (true, true) => "up",
            (true, false) => "refilling",
            (false, _) => "down",
        }
        .to_owned()
    }
}

/// Refuses to change or drop what the nodes keep for themselves: with a table of locks, the numbers
/// of all grants would be gone.
fn may_change(table: &Table) -> Result<(), OpError> {
    if table.name.is_system() {
        return Err(OpError::Reserved(table.name.clone()));
    }
    Ok(())
}

fn is_up(liveness: Liveness) -> bool {
    matches!(liveness, Liveness::Live | Liveness::Suspect)
}

/// A refusal of the node itself, as an error of an operation on it alone.
fn refused(refusal: &Refusal) -> OpError {
    match refusal {
        Refusal::NotReplica { .. } => {
            OpError::NotAReplica { replicas: "shown by /v1/ring".to_owned() }
        }
        Refusal::NoSuchTable { .. } => OpError::NoSuchTable,
        Refusal::Stopping => OpError::ShuttingDown,
        other => OpError::Overloaded { what: other.to_string() },
    }
}

impl Backend for NodeBackend {
    fn enter(&self) -> Result<Place, Busy> {
        self.node.gates().clients.enter()
    }

    fn table(&self, keyspace: &str, table: &str) -> Option<Arc<Table>> {
        // Tables of rows are CQL's: here they are no buckets.
        self.state().table_of(keyspace, table).filter(|table| table.rows.is_none()).cloned()
    }

    fn any_table(&self, keyspace: &str, table: &str) -> Option<Arc<Table>> {
        self.state().table_of(keyspace, table).cloned()
    }

    fn tables(&self) -> Vec<Arc<Table>> {
        let state = self.state();
        let buckets = state.tables().values().filter(|table| table.rows.is_none());
        let mut tables: Vec<Arc<Table>> = buckets.cloned().collect();
        tables.sort_by(|a, b| a.name.cmp(&b.name));
        tables
    }

    fn gate(&self) -> Gate {
        self.gate.clone()
    }

    fn agreed(&self) -> Option<Arc<ClusterState>> {
        Some(self.state())
    }

    fn cql(&self) -> Option<Arc<dyn cql::Store>> {
        Some(Arc::new(NodeStore::new(self.node.clone())))
    }

    fn codec(&self) -> &ContextCodec {
        if let Some(codec) = self.codec.get() {
            return codec;
        }
        let state = self.state();
        if !state.is_founded() {
            return &self.unfounded;
        }
        self.codec.get_or_init(|| ContextCodec::new(state.secret()))
    }

    fn read(&self, op: ReadOp) -> BoxFuture<'_, Result<ReadOutcome, OpError>> {
        Box::pin(self.node.coordinator().read(op))
    }

    fn write(&self, op: WriteOp) -> BoxFuture<'_, Result<WriteOutcome, OpError>> {
        Box::pin(self.node.coordinator().write(op))
    }

    fn lease(&self, op: LeaseOp) -> BoxFuture<'_, Result<LeaseOutcome, OpError>> {
        Box::pin(self.node.coordinator().lease(op))
    }

    fn tell(
        &self,
        table: Arc<Table>,
        key: Key,
        op: OpId,
        timeout: Duration,
    ) -> BoxFuture<'_, Result<Told, OpError>> {
        let coordinator = self.node.coordinator();
        Box::pin(async move { coordinator.tell(&table, &key, op, timeout).await })
    }

    fn list(&self, op: ListOp) -> BoxFuture<'_, Result<ListPage, OpError>> {
        Box::pin(self.node.coordinator().list(op))
    }

    fn locate(&self, table: &Table, key: &Key) -> Whereabouts {
        self.node.coordinator().locate(table, key)
    }

    fn partition_digest(
        &self,
        table: Arc<Table>,
        partition: PartitionId,
    ) -> BoxFuture<'_, Result<PartitionDigest, OpError>> {
        Box::pin(async move {
            let digest = self.node.local().partition_digest(table, partition).await;
            digest.map_err(|refusal| refused(&refusal))
        })
    }

    fn create_table(
        &self,
        name: TableName,
        settings: TableSettings,
        owner: Option<String>,
    ) -> BoxFuture<'_, Result<Creation, OpError>> {
        Box::pin(async move {
            if let Some(table) = self.state().table_named(&name) {
                if table.rows.is_some() {
                    return Err(OpError::NotSupported(format!("{name} is a table of CQL")));
                }
                return Ok(Creation::Exists(table.clone()));
            }
            let command = Command::CreateTable { name: name.clone(), settings };
            let verdict = self.append(command.owned(owner)).await?;
            let table = |id| self.state().table(id).cloned().ok_or(OpError::NoSuchTable);
            match verdict {
                Verdict::Created(id) => Ok(Creation::Created(table(id)?)),
                Verdict::NotDone(NotDone::TableExists { id, .. }) => {
                    Ok(Creation::Exists(table(id)?))
                }
                Verdict::NotDone(why) => Err(OpError::NotSupported(why.to_string())),
                Verdict::Done => Err(OpError::NoSuchTable),
            }
        })
    }

    fn alter_table(
        &self,
        table: Arc<Table>,
        settings: TableSettings,
    ) -> BoxFuture<'_, Result<Alteration, OpError>> {
        Box::pin(async move {
            may_change(&table)?;
            let id = table.id;
            let command = Command::AlterTable { id, expected: table.version, settings };
            let verdict = self.append(command).await?;
            let now = || self.state().table(id).cloned().ok_or(OpError::NoSuchTable);
            match verdict {
                Verdict::NotDone(NotDone::NoSuchTable) => Err(OpError::NoSuchTable),
                Verdict::NotDone(NotDone::TableChanged { .. }) => Ok(Alteration::Overtaken(now()?)),
                Verdict::NotDone(why) => Err(OpError::NotSupported(why.to_string())),
                Verdict::Done | Verdict::Created(_) => Ok(Alteration::Done(now()?)),
            }
        })
    }

    fn drop_table(&self, table: Arc<Table>) -> BoxFuture<'_, Result<(), OpError>> {
        Box::pin(async move {
            may_change(&table)?;
            match self.append(Command::DropTable { id: table.id }).await? {
                Verdict::NotDone(NotDone::NoSuchTable) | Verdict::Done => Ok(()),
                Verdict::NotDone(why) => Err(OpError::NotSupported(why.to_string())),
                Verdict::Created(_) => Ok(()),
            }
        })
    }

    fn node_count(&self) -> u32 {
        u32::try_from(self.state().members().len()).unwrap_or(u32::MAX)
    }

    fn cluster(&self) -> ClusterView {
        let state = self.state();
        ClusterView {
            cluster: state.cluster_name().to_owned(),
            cluster_id: format!("{:032x}", state.cluster_id().unwrap_or(0)),
            node: self.node.id().to_string(),
            epoch: state.epoch().0,
            nodes: self.nodes(),
            hints: self.hints(),
            repair: self.repair(),
            load: self.load(),
        }
    }

    fn ring(&self) -> RingView {
        let state = self.state();
        let ring = state.ring();
        let partitions = ring
            .map()
            .partitions()
            .map(|p| PartitionView {
                partition: p.0,
                end_token: ring.map().end_token(p).0,
                owner: ring.owner(p).map(|node| node.to_string()).unwrap_or_default(),
            })
            .collect();
        RingView { epoch: state.epoch().0, partitions, nodes: self.nodes() }
    }

    fn ready(&self) -> Result<(), NotReady> {
        let state = self.state();
        let cluster = self.node.cluster();
        if !state.is_founded() {
            return Err(NotReady(
                "the cluster is not founded yet: every node of cluster.founders must be reachable"
                    .to_owned(),
            ));
        }
        if !cluster.may_serve(&state) {
            let refilling = state.member(self.node.id()).is_some_and(|member| !member.filled);
            return Err(NotReady(if refilling {
                "this node's data was lost and is being refilled from the other replicas".to_owned()
            } else {
                "this start is not in the metadata log yet: a majority of the members must be \
                 reachable"
                    .to_owned()
            }));
        }
        let members = self.node_count();
        let live = self.live_members();
        if live < members / 2 + 1 {
            return Err(NotReady(format!("{live} of {members} nodes are up: no quorum")));
        }
        Ok(())
    }
}
