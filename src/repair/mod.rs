//! What a node does in the background so that replicas come together again without an operator.
//!
//! - [`hints`] delivers writes that missed a replica, as soon as it is back.
//! - [`exchange`] compares the hash trees of replicas every few seconds, and moves what differs,
//!   both ways (law L12: after faults stop, all replicas become equal without any client request).
//! - [`purge`] removes tombstones once every replica holds them.
//! - [`keeper`] keeps a node's own trees: builds those that are not known after a start, stores
//!   those that rest, and reads all data through, slowly, for damage (scrubbing).
//!
//! What was found is in the [`Repair`] handle: how far this node and each other replica are apart,
//! and since when.

mod answer;
mod exchange;
pub mod hints;
mod keeper;
mod mend;
pub mod purge;
mod shared;
mod status;

use std::sync::Arc;
use std::time::Duration;

use crate::cluster::Cluster;
use crate::coordinator::Coordinator;
use crate::env::Env;
use crate::net::Peers;
use crate::repair::purge::{Purge, PurgeOptions};
use crate::replica::Replica;

pub use status::{Apart, Repair, RepairCounters};

/// How a node repairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// How often the hash trees are compared with each other replica's, about; `None`: never.
    pub interval: Option<Duration>,
    /// How often a node looks after its own trees.
    pub upkeep: Duration,
    /// Of a core and of the disk's time, how much scrubbing may take, in percent; 0: none.
    pub scrub_percent: u32,
    /// The least pause between two steps of scrubbing.
    pub scrub_pause: Duration,
    /// How tombstones are purged.
    pub purge: PurgeOptions,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            interval: Some(Duration::from_secs(5)),
            upkeep: Duration::from_millis(500),
            scrub_percent: 1,
            scrub_pause: Duration::from_millis(500),
            purge: PurgeOptions::default(),
        }
    }
}

/// What the background tasks share.
#[derive(Clone)]
struct Inner {
    env: Env,
    cluster: Arc<Cluster>,
    peers: Peers,
    replica: Arc<Replica>,
    coordinator: Coordinator,
    repair: Arc<Repair>,
    purge: Arc<Purge>,
    options: Options,
}

/// Begins to keep the trees that this node should have, as far as it knows yet; blocks on the
/// disk. Before the first request is served, so that trees that were stored need not be built.
pub(crate) fn load_trees(cluster: &Cluster, replica: &Replica) {
    let state = cluster.state();
    if state.is_founded() {
        replica.set_cut(state.ring().map());
        shared::kept(&state, cluster.me()).into_iter().for_each(|id| replica.keep_tree(id));
    }
}

/// Starts the background tasks of a node.
#[expect(clippy::too_many_arguments, reason = "what a node is made of, each once")]
pub(crate) fn start(
    env: Env,
    cluster: Arc<Cluster>,
    peers: Peers,
    replica: Arc<Replica>,
    coordinator: Coordinator,
    repair: Arc<Repair>,
    purge: Arc<Purge>,
    options: Options,
) {
    purge.start();
    let inner =
        Inner { env: env.clone(), cluster, peers, replica, coordinator, repair, purge, options };
    env.spawn("tree-keeper", keeper::Keeper::new(inner.clone()).run());
    if let Some(interval) = options.interval {
        env.spawn("tree-exchange", exchange::run(inner, interval));
    }
}

pub(crate) use answer::answer;
