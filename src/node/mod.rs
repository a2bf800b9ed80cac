//! One node, wired: identity, storage, metadata, replica and coordinator, in the order in which
//! each needs the others. The same wiring runs in production (over TCP and sled, see [`run`]) and
//! in the simulator (over its own network and disk).

mod admission;
mod backend;
mod batches;
mod cql;
mod dropped;
mod high_water;
mod indexes;
mod numbers;
mod pressure;
mod refill;
pub mod run;
mod service;
pub mod superuser;
mod sweep;
#[cfg(all(test, feature = "sim"))]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::cluster::{Cluster, ClusterConfig, FounderName, MustRestart};
use crate::coordinator::Coordinator;
use crate::env::{Env, HlcClock};
use crate::gossip;
use crate::net::{NodeStamps, PeerService, Peers, Transport};
use crate::repair::hints::{Delivery, HintSettings, HintStore};
use crate::repair::purge::Purge;
use crate::repair::{self, Repair};
use crate::replica::{Actor, Identity, IdentityError, Opening, Replica};
use crate::ring::Member;
use crate::storage::{
    Committer, CommitterOptions, Durability, Engine, HighWater, HighWaterStore, StorageError,
};
use crate::types::{Addresses, NodeId};

pub use admission::NodeAdmission;
pub use backend::NodeBackend;
pub use cql::NodeStore;
pub use pressure::{Gates, Shedding};
pub use service::{NodeService, SharedService};

/// How long a graceful stop waits for writes under way.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// What a node needs to know, whatever world it runs in.
#[derive(Clone, Debug)]
pub struct NodeSettings {
    /// The cluster's name.
    pub cluster: String,
    /// The node's name.
    pub name: String,
    /// Its datacentre.
    pub datacenter: String,
    /// Its rack.
    pub rack: String,
    /// Its weight when partitions are shared out.
    pub capacity: u32,
    /// Where it can be reached.
    pub addresses: Addresses,
    /// The founding list.
    pub founders: Vec<FounderName>,
    /// Partitions of the ring, used at the founding only.
    pub partitions: u32,
    /// How far ahead of this node's clock another's stamp may be.
    pub max_clock_skew: Duration,
    /// Gossip's pace.
    pub gossip: gossip::Options,
    /// How writes are committed.
    pub commit: CommitterOptions,
    /// Bounds of the hints that it keeps for others.
    pub hints: HintSettings,
    /// Client operations that may be under way at once.
    pub max_operations: usize,
    /// Requests of peers that may be under way at once.
    pub max_peer_requests: usize,
    /// When new work is refused for the sake of what is under way; `None`: never.
    pub shedding: Option<Shedding>,
    /// Where the note beside the store is kept, if there is one.
    pub high_water: Option<Arc<dyn HighWaterStore>>,
    /// How replicas are brought together.
    pub repair: repair::Options,
}

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its data directory is not its own, or cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Its storage fails.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// A data directory that was opened: the node has an identity and a clock, but no peers yet.
pub struct Opened {
    env: Env,
    settings: NodeSettings,
    engine: Arc<dyn Engine>,
    identity: Identity,
    note: HighWater,
    stamps: Arc<NodeStamps>,
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opened").field("identity", &self.identity).finish_non_exhaustive()
    }
}

/// Opens a data directory for a node. Blocks on the disk.
///
/// # Errors
/// [`StartError`].
pub fn open(
    env: Env,
    engine: Arc<dyn Engine>,
    settings: NodeSettings,
) -> Result<Opened, StartError> {
    let note = high_water::load(settings.high_water.as_ref());
    let opening = Opening {
        cluster: settings.cluster.clone(),
        name: settings.name.clone(),
        acks_before_sync: matches!(settings.commit.durability, Durability::Periodic { .. }),
        high_water: note.mark,
    };
    let identity = Identity::open(engine.as_ref(), &env, &opening)?;
    let clock = HlcClock::new(env.clone(), identity.hlc, settings.max_clock_skew);
    let stamps = Arc::new(NodeStamps::new(clock));
    Ok(Opened { env, settings, engine, identity, note, stamps })
}

impl Opened {
    /// Who this node is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The node's epoch and clock, which its transport shares.
    #[must_use]
    pub fn stamps(&self) -> &Arc<NodeStamps> {
        &self.stamps
    }

    /// Starts the node over `transport`, which must then be given [`Node::service`].
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start(self, transport: Arc<dyn Transport>) -> Result<Node, StartError> {
        let Self { env, settings, engine, identity, note, stamps } = self;
        let actor = Arc::new(Actor::new(&identity, stamps.clone()));
        let row = actor.clone();
        let committer = Committer::start(env.clone(), engine.clone(), settings.commit)
            .with_trailer(Box::new(move || Some(row.row())));
        let peers = Peers::new(identity.node, env.clone(), stamps.clone(), transport);
        let config = ClusterConfig {
            cluster: settings.cluster.clone(),
            member: Member {
                id: identity.node,
                name: settings.name.clone(),
                datacenter: settings.datacenter.clone(),
                rack: settings.rack.clone(),
                capacity: settings.capacity,
            },
            addresses: settings.addresses.clone(),
            actor: identity.actor,
            voter: identity.voter,
            incarnation: identity.incarnation,
            nonce: identity.nonce,
            starts: identity.starts().iter().copied().collect(),
            mark: identity.held,
            heard: high_water::heard(&note),
            founders: settings.founders.clone(),
            partitions: settings.partitions,
            gossip: settings.gossip,
        };
        let replica =
            Arc::new(Replica::new(env.clone(), engine.clone(), committer.clone(), actor, stamps));
        let cluster =
            Cluster::start(env.clone(), &engine, committer.clone(), peers.clone(), config)?;
        repair::load_trees(&cluster, &replica);
        // Before the first change of a row.
        replica.keep_indexes(&cluster.state())?;
        let repair = Arc::new(Repair::new(env.clone()));
        let hints = HintStore::open(env.clone(), engine.clone(), committer.clone(), settings.hints);
        let purge = Purge::new(
            env.clone(),
            cluster.clone(),
            peers.clone(),
            replica.clone(),
            hints.clone(),
            settings.repair.purge,
        );
        let gates = Gates::new(
            settings.shedding,
            settings.max_operations,
            settings.max_peer_requests,
            env.mono(),
        );
        if settings.shedding.is_some() {
            env.spawn("pressure", pressure::watch(env.clone(), committer.clone(), gates.clone()));
        }
        let service = Arc::new(NodeService::new(
            env.clone(),
            identity.node,
            cluster.clone(),
            replica.clone(),
            repair.clone(),
            hints.clone(),
            purge.clone(),
            gates.peers.clone(),
            settings.max_peer_requests,
        ));
        let answers: Arc<dyn PeerService> = Arc::new(SharedService(service.clone()));
        peers.set_local(&answers);
        let coordinator = Coordinator::new(
            env.clone(),
            cluster.clone(),
            peers.clone(),
            hints.clone(),
            settings.max_operations,
        );
        service.set_coordinator(coordinator.clone());
        let delivery = Delivery::new(
            env.clone(),
            cluster.clone(),
            peers.clone(),
            coordinator.clone(),
            hints.clone(),
        );
        env.spawn("deliver hints", delivery.run());
        let refill = refill::Refill::new(
            env.clone(),
            cluster.clone(),
            peers.clone(),
            (purge.clone(), coordinator.clone()),
            repair.clone(),
        );
        env.spawn("refill", refill.run());
        let sweeper =
            sweep::sweep(env.clone(), cluster.clone(), replica.clone(), coordinator.clone());
        env.spawn("sweep votes", sweeper);
        let batches =
            batches::run(env.clone(), cluster.clone(), replica.clone(), coordinator.clone());
        env.spawn("batches", batches);
        let deleter = dropped::run(env.clone(), cluster.clone(), replica.clone());
        env.spawn("delete dropped tables", deleter);
        let indexer = indexes::run(env.clone(), cluster.clone(), replica.clone());
        env.spawn("build indexes", indexer);
        let high_water = settings.high_water;
        if let Some(store) = high_water.clone() {
            env.spawn("high-water", high_water::keep(env.clone(), cluster.clone(), store));
        }
        repair::start(
            env.clone(),
            cluster.clone(),
            peers,
            replica.clone(),
            coordinator.clone(),
            repair.clone(),
            purge.clone(),
            settings.repair,
        );
        Ok(Node {
            env,
            engine,
            identity,
            committer,
            cluster,
            replica,
            repair,
            purge,
            service,
            answers,
            coordinator,
            hints,
            gates,
            high_water,
        })
    }
}

/// A running node. Its tasks live in its [`Env`]; dropping this handle does not stop them.
#[derive(Clone)]
pub struct Node {
    env: Env,
    engine: Arc<dyn Engine>,
    identity: Identity,
    committer: Committer,
    cluster: Arc<Cluster>,
    replica: Arc<Replica>,
    repair: Arc<Repair>,
    purge: Arc<Purge>,
    service: Arc<NodeService>,
    /// The same, as peers see it.
    answers: Arc<dyn PeerService>,
    coordinator: Coordinator,
    hints: Arc<HintStore>,
    gates: Gates,
    high_water: Option<Arc<dyn HighWaterStore>>,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("identity", &self.identity).finish_non_exhaustive()
    }
}

impl Node {
    /// This node.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.identity.node
    }

    /// Who this node is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The world it runs in.
    #[must_use]
    pub fn env(&self) -> &Env {
        &self.env
    }

    /// What answers peers; for the transport.
    #[must_use]
    pub fn service(&self) -> Arc<dyn PeerService> {
        self.answers.clone()
    }

    /// The node's own answers about its data.
    #[must_use]
    pub fn local(&self) -> &Arc<NodeService> {
        &self.service
    }

    /// Drives client operations.
    #[must_use]
    pub fn coordinator(&self) -> &Coordinator {
        &self.coordinator
    }

    /// What the node keeps for others.
    #[must_use]
    pub fn hints(&self) -> &Arc<HintStore> {
        &self.hints
    }

    /// What lets new work in, of clients and of peers.
    #[must_use]
    pub fn gates(&self) -> &Gates {
        &self.gates
    }

    /// The node's part in the cluster.
    #[must_use]
    pub fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }

    /// The node's data.
    #[must_use]
    pub fn replica(&self) -> &Arc<Replica> {
        &self.replica
    }

    /// What repair has found and done.
    #[must_use]
    pub fn repair(&self) -> &Arc<Repair> {
        &self.repair
    }

    /// Its part in purges of tombstones.
    #[must_use]
    pub fn purge(&self) -> &Arc<Purge> {
        &self.purge
    }

    /// The node's group commit.
    #[must_use]
    pub fn committer(&self) -> &Committer {
        &self.committer
    }

    /// The node's storage.
    #[must_use]
    pub fn engine(&self) -> &Arc<dyn Engine> {
        &self.engine
    }

    /// Becomes `Some` when the node has to be opened and started anew, after [`Node::renew`].
    #[must_use]
    pub fn must_restart(&self) -> watch::Receiver<Option<MustRestart>> {
        self.cluster.must_restart()
    }

    /// Begins a new history in the node's directory, which turned out to be an older copy. The
    /// node must then be opened and started anew. Blocks on the disk.
    ///
    /// # Errors
    /// Any [`StorageError`].
    pub fn renew(&self) -> Result<(), StorageError> {
        self.identity.clone().renew(self.engine.as_ref(), &self.env)
    }

    /// Lets the writes under way reach every replica or leave a hint for it (for a few seconds at
    /// most), makes everything durable, hash trees included, and marks the stop as clean. Doors must have been closed
    /// before; with the transport closed too, what is under way ends at once.
    ///
    /// # Errors
    /// Any [`StorageError`]; the stop is then not marked as clean.
    pub async fn stop(&self) -> Result<(), StorageError> {
        self.coordinator.stop(STOP_PATIENCE).await;
        self.committer.flush().await?;
        if self.must_restart().borrow().is_some() {
            // This history is over; its clean end would be put in the place of the new one.
            return Ok(());
        }
        if let Err(error) = self.replica.store_trees(false).await {
            tracing::warn!(%error, "hash trees were not stored, and will be built anew");
        }
        let (engine, batch) = (self.engine.clone(), self.identity.clean_stop());
        let stopped = self.env.blocking("clean-stop", move || {
            engine.apply(&batch)?;
            engine.sync()
        });
        stopped.await.unwrap_or(Ok(()))?;
        if let Some(store) = &self.high_water {
            high_water::last(&self.env, &self.cluster, store).await;
        }
        Ok(())
    }
}
