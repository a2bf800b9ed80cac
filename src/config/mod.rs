//! The settings of one node: typed, checked as a whole, and shown when the node starts.
//!
//! Every setting is one line in [`keys::KEYS`]: its place, its meaning, how it is read, checked and
//! written. The file reader, the `HENGE_SECTION_KEY` environment overrides, the check of unknown
//! keys, the effective configuration in the log and the commented `config/henge.toml` all walk that
//! one table, so they cannot disagree.
//!
//! Order of precedence: built-in default, then the file, then the environment.
//!
//! All problems are reported at once ([`ConfigError`]), each with its line and the cure.

mod keys;
mod load;
mod render;
mod value;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::telemetry::LogFormat;
use crate::types::NodeId;

pub use keys::{Agree, KEYS, KeySpec};
pub use load::{ConfigError, Loaded, Problem, Source};

/// All settings of a node. See `config/henge.toml` for what each one means.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Who this node is.
    pub node: Node,
    /// What all nodes of the cluster agree on.
    pub cluster: Cluster,
    /// Where this node stands.
    pub topology: Topology,
    /// Where this node can be reached.
    pub listen: Listen,
    /// Who may use it.
    pub auth: Auth,
    /// How data is kept.
    pub storage: Storage,
    /// What is kept for nodes that missed a write.
    pub hints: Hints,
    /// Bounds on what clients and peers can make this node hold.
    pub limits: Limits,
    /// How replicas are brought together.
    pub repair: Repair,
    /// What is logged.
    pub log: Log,
}

/// `[node]`: who this node is.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// The node's name, unique in the cluster, for ever.
    pub name: String,
    /// The directory that holds all its data.
    pub data_dir: PathBuf,
}

/// `[cluster]`: what all nodes agree on.
#[derive(Debug, Clone, PartialEq)]
pub struct Cluster {
    /// The cluster's name.
    pub name: String,
    /// The nodes that found the cluster together.
    pub founders: Vec<Founder>,
    /// Number of partitions of the ring, a power of two.
    pub partitions: u32,
    /// How far ahead of this node's clock a stamp may be, in milliseconds.
    pub max_clock_skew_ms: u64,
    /// Time between two rounds of gossip, in milliseconds.
    pub gossip_interval_ms: u64,
    /// Suspicion (phi) above which a silent node counts as down.
    pub suspect_phi: f64,
}

/// A node that takes part in founding the cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Founder {
    /// Its name.
    pub name: String,
    /// Where it listens for peers, `host:port`.
    pub address: String,
}

impl fmt::Display for Founder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.address)
    }
}

/// `[topology]`: where this node stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Topology {
    /// The datacentre.
    pub datacenter: String,
    /// The rack: what fails together.
    pub rack: String,
    /// Its share of the data relative to other nodes.
    pub capacity: u32,
}

/// `[listen]`: where this node can be reached.
#[derive(Debug, Clone, PartialEq)]
pub struct Listen {
    /// Where HTTP clients connect.
    pub http: SocketAddr,
    /// Where other nodes connect.
    pub peer: SocketAddr,
    /// Where CQL drivers connect.
    pub cql: SocketAddr,
    /// Where other nodes find this one, `host:port`, if not at `peer`.
    pub advertise_address: Option<String>,
    /// Where HTTP clients find this node, `host:port`, if not at `http`.
    pub advertise_http: Option<String>,
    /// Consent to listen beyond this machine without authentication.
    pub insecure: bool,
}

/// `[auth]`: who may use the cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct Auth {
    /// Ask clients who they are, and let them do what their role may.
    pub enabled: bool,
    /// The first superuser.
    pub superuser: String,
    /// The file with its first password; `None`: a random one in the data directory.
    pub first_password_file: Option<String>,
}

/// A storage engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineKind {
    /// sled, the embedded default.
    Sled,
    /// fjall, a log-structured tree.
    Fjall,
    /// Nothing on disk: gone when the process ends.
    Memory,
}

/// When a write is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// After a sync shared with other writers.
    Group,
    /// At once; synced later.
    Periodic,
}

/// `[storage]`: how data is kept.
#[derive(Debug, Clone, PartialEq)]
pub struct Storage {
    /// The engine.
    pub engine: EngineKind,
    /// Memory for cached data, in MiB.
    pub cache_mb: u64,
    /// When a write is acknowledged.
    pub durability: Durability,
    /// With `periodic` durability: time between syncs, in milliseconds.
    pub periodic_sync_ms: u64,
    /// Disk space that is kept free, in MiB.
    pub reserve_mb: u64,
    /// How long one write or sync may take before the node ends itself, in seconds; 0: for ever.
    pub stuck_after_s: u64,
}

/// `[hints]`: what is kept for nodes that missed a write.
#[derive(Debug, Clone, PartialEq)]
pub struct Hints {
    /// Keep hints at all.
    pub enabled: bool,
    /// Bytes of all hints, in MiB.
    pub max_mb: u64,
    /// Bytes of one node's hints, in MiB.
    pub max_target_mb: u64,
    /// Age at which a hint is dropped, in seconds.
    pub max_age_s: u64,
    /// Hints under way to one node at a time.
    pub max_calls: u32,
}

/// `[limits]`: bounds on what clients and peers can make this node hold.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Longest key over HTTP, in bytes.
    pub max_key_bytes: usize,
    /// Largest value, in bytes.
    pub max_value_bytes: usize,
    /// Time for a request that names none, in milliseconds.
    pub request_timeout_ms: u64,
    /// Requests of clients under way at once.
    pub max_inflight_requests: usize,
    /// Wait for its turn from which new work is refused, in milliseconds; 0: none is.
    pub shed_wait_ms: u64,
    /// Requests that are let in however long work waits.
    pub shed_floor: usize,
    /// Memory for bodies of all requests under way, in MiB.
    pub max_body_memory_mb: u64,
    /// Open connections of clients.
    pub max_connections: usize,
    /// Calls under way to one peer.
    pub peer_inflight: usize,
    /// Bytes of calls under way to one peer, in MiB.
    pub peer_queue_mb: u64,
    /// Largest message between nodes, in MiB.
    pub max_frame_mb: u64,
}

/// `[repair]`: how replicas are brought together in the background.
#[derive(Debug, Clone, PartialEq)]
pub struct Repair {
    /// Time between two comparisons with each other replica, in milliseconds; 0: never.
    pub interval_ms: u64,
    /// Of a core, how much scrubbing may take, in percent.
    pub scrub_percent: u32,
}

/// `[log]`: what is logged.
#[derive(Debug, Clone, PartialEq)]
pub struct Log {
    /// A level, or filter directives as `tracing` knows them.
    pub level: String,
    /// The form of the lines.
    pub format: LogFormat,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            node: Node { name: "n1".to_owned(), data_dir: PathBuf::from("data") },
            cluster: Cluster {
                name: "henge".to_owned(),
                founders: vec![Founder {
                    name: "n1".to_owned(),
                    address: "127.0.0.1:7000".to_owned(),
                }],
                partitions: 256,
                max_clock_skew_ms: 5_000,
                gossip_interval_ms: 200,
                suspect_phi: 8.0,
            },
            topology: Topology { datacenter: "dc1".to_owned(), rack: "r1".to_owned(), capacity: 1 },
            listen: Listen {
                http: SocketAddr::from(([127, 0, 0, 1], 8098)),
                peer: SocketAddr::from(([127, 0, 0, 1], 7000)),
                cql: SocketAddr::from(([127, 0, 0, 1], 9042)),
                advertise_address: None,
                advertise_http: None,
                insecure: false,
            },
            auth: Auth { enabled: false, superuser: "admin".to_owned(), first_password_file: None },
            storage: Storage {
                engine: EngineKind::Sled,
                cache_mb: 128,
                durability: Durability::Group,
                periodic_sync_ms: 1_000,
                reserve_mb: 64,
                stuck_after_s: 60,
            },
            hints: Hints {
                enabled: true,
                max_mb: 1_024,
                max_target_mb: 512,
                max_age_s: 10_800,
                max_calls: 64,
            },
            limits: Limits {
                max_key_bytes: 1_024,
                max_value_bytes: 8 << 20,
                request_timeout_ms: 5_000,
                max_inflight_requests: 4_096,
                shed_wait_ms: 20,
                shed_floor: 64,
                max_body_memory_mb: 256,
                max_connections: 10_000,
                peer_inflight: 4_096,
                peer_queue_mb: 64,
                max_frame_mb: 32,
            },
            repair: Repair { interval_ms: 5_000, scrub_percent: 1 },
            log: Log { level: "info".to_owned(), format: LogFormat::Text },
        }
    }
}

impl Config {
    /// This node's id, derived from the cluster's and its own name.
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        NodeId::derive(&self.cluster.name, &self.node.name)
    }

    /// The address under which other nodes reach this one, `host:port`.
    #[must_use]
    pub fn peer_address(&self) -> String {
        self.listen.advertise_address.clone().unwrap_or_else(|| self.listen.peer.to_string())
    }

    /// The address under which HTTP clients reach this node, whose door is bound to `bound`. A
    /// door on all of the machine's addresses is told by the host of
    /// [`Config::peer_address`].
    #[must_use]
    pub fn http_address(&self, bound: SocketAddr) -> String {
        match &self.listen.advertise_http {
            Some(address) => address.clone(),
            None => self.dialable(bound),
        }
    }

    /// The address under which CQL drivers would reach this node.
    #[must_use]
    pub fn cql_address(&self, bound: SocketAddr) -> String {
        self.dialable(bound)
    }

    /// `bound` as others can dial it.
    fn dialable(&self, bound: SocketAddr) -> String {
        let peer = self.peer_address();
        match peer.rsplit_once(':') {
            Some((host, _)) if bound.ip().is_unspecified() => format!("{host}:{}", bound.port()),
            _ => bound.to_string(),
        }
    }

    /// True if this node is one of the cluster's founders.
    #[must_use]
    pub fn is_founder(&self) -> bool {
        self.cluster.founders.iter().any(|founder| founder.name == self.node.name)
    }

    /// How far ahead of this node's clock a stamp may be.
    #[must_use]
    pub fn max_clock_skew(&self) -> Duration {
        Duration::from_millis(self.cluster.max_clock_skew_ms)
    }

    /// Time for a request that names none.
    #[must_use]
    pub fn request_timeout(&self) -> Duration {
        Duration::from_millis(self.limits.request_timeout_ms)
    }
}

#[cfg(test)]
mod tests;
