//! A node as a process runs it: its directory locked, its engine opened, its ports bound.

use std::fs::{File, TryLockError};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::cluster::{FounderName, MustRestart};
use crate::config::{Config, Durability as ConfiguredDurability, EngineKind};
use crate::env::Env;
use crate::gossip;
use crate::metrics::Registry;
use crate::net::{TcpOptions, TcpTransport, TransportError};
use crate::node::admission::NodeAdmission;
use crate::node::backend::NodeBackend;
use crate::node::cql::NodeStore;
use crate::node::numbers;
use crate::node::superuser::FirstRole;
use crate::node::{Node, NodeSettings, Shedding, StartError};
use crate::repair;
use crate::repair::hints::HintSettings;
use crate::replica::IdentityError;
use crate::server::auth::Gate;
use crate::server::cql::CqlService;
use crate::server::cql::listen::CqlListener;
use crate::server::http::listen::{LINGER, Listener};
use crate::server::http::{Door, HttpLimits};
use crate::storage::{
    CommitterOptions, Durability, Engine, FjallEngine, FjallOptions, HighWaterFile, HighWaterStore,
    MemEngine, SledEngine, SledOptions, StorageError,
};
use crate::types::{Addresses, NodeId};

/// How often the storage is looked at.
const STORAGE_WATCH: Duration = Duration::from_millis(500);

/// How often the same directory is opened anew within one start.
const MAX_RENEWALS: u32 = 3;

/// Why a node process does not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The data directory cannot be made or used.
    #[error("the data directory {path} cannot be used: {error} (see node.data_dir)")]
    DataDir {
        /// The directory.
        path: PathBuf,
        /// The system's error.
        error: std::io::Error,
    },
    /// Another process runs on this directory.
    #[error(
        "another process is running on the data directory {path}: stop it, or give this node a \
         directory of its own (node.data_dir)"
    )]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// The engine cannot open its store.
    #[error("the store in {path} cannot be opened: {error}{}", cure(error))]
    Store {
        /// The engine's directory.
        path: PathBuf,
        /// The engine's error.
        error: StorageError,
    },
    /// The directory was written by another engine.
    #[error(
        "the data directory {path} was written by the {found} engine and the configuration asks \
         for {asked}: set storage.engine = \"{found}\", or export the data and import it anew"
    )]
    OtherEngine {
        /// The data directory.
        path: PathBuf,
        /// The engine that wrote it.
        found: &'static str,
        /// The engine that is configured.
        asked: &'static str,
    },
    /// The node's identity or metadata.
    #[error("{error}{}", cure_of_start(error))]
    Start {
        /// What is wrong with it.
        #[from]
        error: StartError,
    },
    /// The peer port.
    #[error(transparent)]
    Peer(#[from] TransportError),
    /// The HTTP port.
    #[error("cannot listen for HTTP on {address}: {error} (see listen.http)")]
    Http {
        /// What was asked for.
        address: SocketAddr,
        /// The system's error.
        error: std::io::Error,
    },
    /// The CQL port.
    #[error("cannot listen for CQL on {address}: {error} (see listen.cql)")]
    Cql {
        /// What was asked for.
        address: SocketAddr,
        /// The system's error.
        error: std::io::Error,
    },
    /// The node found its directory to be an older copy again and again.
    #[error("the data directory is an older copy, and a new history could not be begun: {0}")]
    OlderCopy(String),
}

/// What to do about a store that cannot be read, for the end of a message.
fn cure(error: &StorageError) -> &'static str {
    match error {
        StorageError::Corrupt { .. } => {
            "; move the data directory away and start again: the node is refilled from the other \
             replicas (where there are none, put a backup in its place)"
        }
        StorageError::Full => {
            "; a start has to be put on record: make room there (storage.reserve_mb is kept free)"
        }
        _ => "",
    }
}

fn cure_of_start(error: &StartError) -> &'static str {
    match error {
        StartError::Storage(error) | StartError::Identity(IdentityError::Storage(error)) => {
            cure(error)
        }
        StartError::Identity(IdentityError::Foreign { .. }) => "",
    }
}

/// A node with its ports open.
#[derive(Debug)]
pub struct NodeProcess {
    env: Env,
    node: Node,
    transport: Arc<TcpTransport>,
    door: Door,
    stop_http: watch::Sender<bool>,
    http_stopped: watch::Receiver<bool>,
    http_address: SocketAddr,
    cql_address: SocketAddr,
    /// Held open, and so locked, as long as the node runs.
    _lock: Option<File>,
}

/// Starts a node by `config`. When it returns, the ports are open; the node serves as soon as the
/// cluster is founded and its start is on record.
///
/// # Errors
/// [`RunError`], which names the setting to look at.
pub async fn start(config: &Config, env: Env) -> Result<NodeProcess, RunError> {
    let lock = lock(config)?;
    let engine = open_engine(config)?;
    let http = Listener::bind(config.listen.http)
        .await
        .and_then(|listener| Ok((listener.local_address()?, listener)))
        .map_err(|error| RunError::Http { address: config.listen.http, error })?;
    let (http_address, listener) = http;
    let (cql_address, cql) = CqlListener::bind(config.listen.cql)
        .await
        .and_then(|listener| Ok((listener.local_address()?, listener)))
        .map_err(|error| RunError::Cql { address: config.listen.cql, error })?;
    let doors = (http_address, cql_address);
    let mut renewals = 0;
    let (node, transport) = loop {
        let (node, transport) = start_node(config, &env, engine.clone(), doors).await?;
        match until_entered(&node).await {
            None => break (node, transport),
            Some(why) if renewals == MAX_RENEWALS => return Err(RunError::OlderCopy(why)),
            Some(_) => {
                renewals += 1;
                node.renew().map_err(StartError::from)?;
                transport.shutdown(env.mono()).await;
            }
        }
    };
    let registry = Registry::new();
    numbers::register(&registry, &node, &transport);
    let gate = if config.auth.enabled { Gate::closed(env.clone()) } else { Gate::open() };
    if gate.is_closed() {
        env.spawn("first-role", FirstRole::of(config).make(node.clone(), gate.clone()));
    }
    let door = Door::new(
        Arc::new(NodeBackend::new(node.clone()).with_gate(gate.clone())),
        env.clone(),
        HttpLimits::from(&config.limits),
        registry,
    );
    let (stop_http, stopping) = watch::channel(false);
    let (stopped, http_stopped) = watch::channel(false);
    let store = Arc::new(NodeStore::new(node.clone()));
    let service = Arc::new(CqlService::new(store).with_gate(gate));
    let (epochs, stop_cql) = (node.cluster().epochs(), stopping.clone());
    let memory = door.bodies().clone();
    env.spawn("cql", cql.serve(service, env.clone(), memory, epochs, stop_cql));
    let served = door.clone();
    env.spawn("http", async move {
        let mut stopping = stopping;
        listener
            .serve(served, async move {
                let _ = stopping.wait_for(|stop| *stop).await;
            })
            .await;
        stopped.send_replace(true);
    });
    Ok(NodeProcess {
        env,
        node,
        transport,
        door,
        stop_http,
        http_stopped,
        http_address,
        cql_address,
        _lock: lock,
    })
}

impl NodeProcess {
    /// The node.
    #[must_use]
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Where it serves HTTP.
    #[must_use]
    pub fn http_address(&self) -> SocketAddr {
        self.http_address
    }

    /// Where it serves CQL.
    #[must_use]
    pub fn cql_address(&self) -> SocketAddr {
        self.cql_address
    }

    /// Where it serves peers.
    #[must_use]
    pub fn peer_address(&self) -> SocketAddr {
        self.transport.local_addr()
    }

    /// True once the node can serve a quorum read.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        use crate::server::http::Backend as _;
        NodeBackend::new(self.node.clone()).ready().is_ok()
    }

    /// Completes when the node's directory turns out to be an older copy, and a new history has
    /// been begun in it: the process must then be stopped and started again. Never completes
    /// otherwise.
    pub async fn must_restart(&self) -> String {
        let mut restart = self.node.must_restart();
        let why = match restart.wait_for(Option::is_some).await {
            Ok(why) => match &*why {
                Some(MustRestart::OlderCopy(why)) => why.clone(),
                None => String::new(),
            },
            Err(_) => std::future::pending().await,
        };
        if let Err(error) = self.node.renew() {
            tracing::error!(%error, "a new history could not be begun");
        }
        why
    }

    /// Completes when the node's storage has failed for good. It acknowledges nothing any more;
    /// the process should end with an error, so that whoever watches it starts it anew.
    pub async fn storage_failed(&self) -> StorageError {
        loop {
            if let Some(error) = self.node.committer().failure() {
                return error;
            }
            self.env.sleep(STORAGE_WATCH).await;
        }
    }

    /// Stops in order: sends clients elsewhere, lets open requests finish, closes the peers'
    /// connections, syncs, and marks the stop as clean. Takes at most about `patience` per step.
    ///
    /// # Errors
    /// Any [`StorageError`]: the stop is then not marked as clean, and nothing acknowledged is
    /// lost.
    pub async fn stop(&self, patience: Duration) -> Result<(), StorageError> {
        self.stop_http.send_replace(true);
        let mut stopped = self.http_stopped.clone();
        let _ = self.env.timeout(LINGER + patience, stopped.wait_for(|stopped| *stopped)).await;
        self.door.begin_shutdown();
        self.transport.shutdown(self.env.mono() + patience).await;
        self.node.stop().await
    }
}

fn lock(config: &Config) -> Result<Option<File>, RunError> {
    if config.storage.engine == EngineKind::Memory {
        return Ok(None);
    }
    let path = config.node.data_dir.clone();
    let failed = |error| RunError::DataDir { path: path.clone(), error };
    std::fs::create_dir_all(&path).map_err(failed)?;
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path.join("LOCK"))
        .map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Err(RunError::Locked { path }),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

fn name_of(engine: EngineKind) -> &'static str {
    match engine {
        EngineKind::Sled => "sled",
        EngineKind::Fjall => "fjall",
        EngineKind::Memory => "memory",
    }
}

fn open_engine(config: &Config) -> Result<Arc<dyn Engine>, RunError> {
    let kind = config.storage.engine;
    let data_dir = &config.node.data_dir;
    let path = data_dir.join(name_of(kind));
    for other in [EngineKind::Sled, EngineKind::Fjall] {
        if kind != EngineKind::Memory && other != kind && data_dir.join(name_of(other)).exists() {
            let (found, asked) = (name_of(other), name_of(kind));
            return Err(RunError::OtherEngine { path: data_dir.clone(), found, asked });
        }
    }
    let cache_bytes = config.storage.cache_mb << 20;
    let reserve_bytes = config.storage.reserve_mb << 20;
    let opened: Result<Arc<dyn Engine>, StorageError> = match kind {
        EngineKind::Memory => Ok(Arc::new(MemEngine::new())),
        EngineKind::Sled => open_sled(&path, SledOptions { cache_bytes, reserve_bytes }),
        EngineKind::Fjall => FjallEngine::open(&path, FjallOptions { cache_bytes, reserve_bytes })
            .map(|engine| Arc::new(engine) as Arc<dyn Engine>),
    };
    opened.map_err(|error| RunError::Store { path, error })
}

fn open_sled(path: &Path, options: SledOptions) -> Result<Arc<dyn Engine>, StorageError> {
    SledEngine::open(path, options).map(|engine| Arc::new(engine) as Arc<dyn Engine>)
}

fn settings(config: &Config, doors: (SocketAddr, SocketAddr)) -> NodeSettings {
    let durability = match config.storage.durability {
        ConfiguredDurability::Group => Durability::GroupCommit,
        ConfiguredDurability::Periodic => Durability::Periodic {
            interval: Duration::from_millis(config.storage.periodic_sync_ms),
        },
    };
    let interval = Duration::from_millis(config.cluster.gossip_interval_ms);
    NodeSettings {
        cluster: config.cluster.name.clone(),
        name: config.node.name.clone(),
        datacenter: config.topology.datacenter.clone(),
        rack: config.topology.rack.clone(),
        capacity: config.topology.capacity,
        addresses: Addresses {
            peer: config.peer_address(),
            http: config.http_address(doors.0),
            cql: config.cql_address(doors.1),
        },
        founders: config
            .cluster
            .founders
            .iter()
            .map(|f| FounderName { name: f.name.clone(), address: f.address.clone() })
            .collect(),
        partitions: config.cluster.partitions,
        max_clock_skew: config.max_clock_skew(),
        gossip: gossip::Options {
            interval,
            suspect_phi: config.cluster.suspect_phi / 2.0,
            dead_phi: config.cluster.suspect_phi,
        },
        commit: CommitterOptions {
            durability,
            patience: Duration::from_secs(config.storage.stuck_after_s),
            ..CommitterOptions::default()
        },
        hints: HintSettings {
            enabled: config.hints.enabled,
            max_bytes: config.hints.max_mb << 20,
            max_target_bytes: config.hints.max_target_mb << 20,
            max_age: Duration::from_secs(config.hints.max_age_s),
            max_calls: config.hints.max_calls,
        },
        max_operations: config.limits.max_inflight_requests,
        max_peer_requests: config.limits.peer_inflight,
        shedding: (config.limits.shed_wait_ms > 0).then(|| Shedding {
            target: Duration::from_millis(config.limits.shed_wait_ms),
            floor: config.limits.shed_floor,
        }),
        high_water: (config.storage.engine != EngineKind::Memory).then(|| {
            Arc::new(HighWaterFile::new(&config.node.data_dir)) as Arc<dyn HighWaterStore>
        }),
        repair: repair::Options {
            interval: match config.repair.interval_ms {
                0 => None,
                millis => Some(Duration::from_millis(millis)),
            },
            scrub_percent: config.repair.scrub_percent,
            ..repair::Options::default()
        },
    }
}

async fn start_node(
    config: &Config,
    env: &Env,
    engine: Arc<dyn Engine>,
    doors: (SocketAddr, SocketAddr),
) -> Result<(Node, Arc<TcpTransport>), RunError> {
    let settings = settings(config, doors);
    let founders = settings
        .founders
        .iter()
        .map(|founder| NodeId::derive(&config.cluster.name, &founder.name))
        .collect();
    let opened = super::open(env.clone(), engine, settings)?;
    let admission = Arc::new(NodeAdmission::new(
        config.cluster.name.clone(),
        opened.identity().clone(),
        founders,
    ));
    let mib = |n: u64| usize::try_from(n << 20).unwrap_or(usize::MAX);
    let options = TcpOptions {
        listen: config.listen.peer.to_string(),
        max_frame_bytes: mib(config.limits.max_frame_mb),
        max_inflight_per_peer: config.limits.peer_inflight,
        max_queued_bytes_per_peer: mib(config.limits.peer_queue_mb),
        ..TcpOptions::default()
    };
    let stamps = opened.stamps().clone();
    let transport = TcpTransport::start(env.clone(), options, stamps, admission.clone()).await?;
    let node = opened.start(transport.clone())?;
    admission.set_cluster(node.cluster().clone());
    transport.set_service(node.service());
    Ok((node, transport))
}

/// Gives the node a moment to learn whether its directory is an older copy: `Some` if it is. A
/// node that cannot learn it yet goes on, and serves nothing until it has.
async fn until_entered(node: &Node) -> Option<String> {
    let mut restart = node.must_restart();
    let mut epochs = node.cluster().epochs();
    let moment = node.env().sleep(Duration::from_secs(2));
    tokio::pin!(moment);
    loop {
        if let Some(MustRestart::OlderCopy(why)) = restart.borrow().clone() {
            return Some(why);
        }
        let cluster = node.cluster();
        if cluster.may_serve(&cluster.state()) {
            return None;
        }
        tokio::select! {
            biased;
            Ok(()) = restart.changed() => {}
            Ok(()) = epochs.changed() => {}
            () = &mut moment => return None,
        }
    }
}
