//! The simulated cluster: machines, disks, and the lives of the nodes on them.
//!
//! Node code is the production code, whole: identity, storage, metadata log, gossip, replica,
//! coordinator. Only clock, tasks, network and disk are simulated.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::cluster::FounderName;
use crate::env::Env;
use crate::gossip;
use crate::meta::{Table, TableName};
use crate::node::{self, Node, NodeAdmission, NodeSettings};
use crate::repair;
use crate::repair::hints::HintSettings;
use crate::sim::disk::SimDisk;
use crate::sim::engine::SimEngine;
use crate::sim::executor::{GroupId, MachineId, World};
use crate::sim::net::SimNet;
use crate::sim::oracle::{Inspector, Oracle};
use crate::sim::plan::Plan;
use crate::storage::CommitterOptions;
use crate::types::{Addresses, NodeId};

/// The name of every simulated cluster.
pub const CLUSTER: &str = "sim";

/// How long a node that could not start waits before it tries again.
const START_AGAIN: Duration = Duration::from_millis(300);

/// One life of a node.
#[derive(Clone)]
pub struct Life {
    /// Its tasks.
    pub group: GroupId,
    /// Its world.
    pub env: Env,
    /// The node.
    pub node: Node,
    /// Its storage.
    pub engine: Arc<SimEngine>,
}

/// One machine and what runs on it.
pub struct SimNode {
    /// The node's name.
    pub name: String,
    /// Its id.
    pub id: NodeId,
    /// Its machine.
    pub machine: MachineId,
    /// Its disk, which outlives it.
    pub disk: SimDisk,
    /// The present life.
    pub life: Option<Life>,
    /// The engine of the present or the latest life: it still tells what is durable.
    pub last_engine: Option<Arc<SimEngine>>,
    /// Faults that keep it down now.
    pub held_down: u32,
    /// Times that synced data was taken from its disk.
    pub losses: u32,
    /// Starts that failed.
    pub failed_starts: u32,
    /// Lives so far.
    pub lives: u32,
}

/// The cluster. Clones are the same cluster.
#[derive(Clone)]
pub struct SimCluster {
    inner: Arc<Inner>,
}

struct Inner {
    world: World,
    net: SimNet,
    plan: Arc<Plan>,
    nodes: Mutex<Vec<SimNode>>,
    oracle: Oracle,
}

impl std::fmt::Debug for SimCluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SimCluster")
    }
}

impl SimCluster {
    /// Machines with empty disks; nothing runs yet.
    #[must_use]
    pub fn new(world: &World, plan: Arc<Plan>) -> Self {
        let net = SimNet::new(world, plan.delivery, plan.link);
        let nodes = (0..plan.nodes).map(|n| {
            let name = format!("n{}", n + 1);
            let disk = SimDisk::new(world.stream(u64::from(n), "disk"));
            let machine = world.add_machine();
            world.attach_disk(machine, disk.cost_meter());
            SimNode {
                id: NodeId::derive(CLUSTER, &name),
                name,
                machine,
                disk,
                life: None,
                last_engine: None,
                held_down: 0,
                losses: 0,
                failed_starts: 0,
                lives: 0,
            }
        });
        let nodes = Mutex::new(nodes.collect());
        let oracle = Oracle::default();
        Self { inner: Arc::new(Inner { world: world.clone(), net, plan, nodes, oracle }) }
    }

    /// The world.
    #[must_use]
    pub fn world(&self) -> &World {
        &self.inner.world
    }

    /// The network.
    #[must_use]
    pub fn net(&self) -> &SimNet {
        &self.inner.net
    }

    /// The plan of the run.
    #[must_use]
    pub fn plan(&self) -> &Arc<Plan> {
        &self.inner.plan
    }

    /// What judges the run from inside.
    #[must_use]
    pub fn oracle(&self) -> &Oracle {
        &self.inner.oracle
    }

    /// The machines. Nothing that may run node code is to be called while this is held.
    pub fn nodes(&self) -> MutexGuard<'_, Vec<SimNode>> {
        self.inner.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The present life of node `n`.
    #[must_use]
    pub fn life(&self, n: u32) -> Option<Life> {
        self.nodes().get(n as usize)?.life.clone()
    }

    /// The id of node `n`.
    #[must_use]
    pub fn id(&self, n: u32) -> NodeId {
        NodeId::derive(CLUSTER, &format!("n{}", n + 1))
    }

    /// The number of the node with this id.
    #[must_use]
    pub fn number(&self, id: NodeId) -> Option<u32> {
        (0..self.inner.plan.nodes).find(|&n| self.id(n) == id)
    }

    /// The table called `name`, as the first node that knows it has it.
    #[must_use]
    pub fn table(&self, name: &TableName) -> Option<Arc<Table>> {
        let lives: Vec<Life> = self.nodes().iter().filter_map(|node| node.life.clone()).collect();
        lives.iter().find_map(|life| life.node.cluster().state().table_named(name).cloned())
    }

    fn settings(&self, name: &str) -> NodeSettings {
        let plan = &self.inner.plan;
        let names = (1..=plan.nodes).map(|n| format!("n{n}"));
        NodeSettings {
            cluster: CLUSTER.to_owned(),
            name: name.to_owned(),
            datacenter: "dc1".to_owned(),
            rack: "r1".to_owned(),
            capacity: 1,
            addresses: Addresses { peer: format!("{name}:7000"), ..Addresses::default() },
            founders: names
                .map(|name| FounderName { address: format!("{name}:7000"), name })
                .collect(),
            partitions: plan.partitions,
            max_clock_skew: Duration::from_millis(plan.max_clock_skew_ms),
            gossip: gossip::Options {
                interval: Duration::from_millis(plan.gossip_ms),
                ..gossip::Options::default()
            },
            commit: CommitterOptions::default(),
            hints: HintSettings {
                max_bytes: plan.hint_max_bytes,
                max_target_bytes: plan.hint_max_bytes,
                max_age: Duration::from_millis(plan.hint_max_age_ms),
                ..HintSettings::default()
            },
            max_operations: 1_024,
            max_peer_requests: 4_096,
            shedding: None,
            high_water: None,
            repair: repair::Options {
                interval: (!plan.hints_only).then_some(Duration::from_secs(2)),
                // All data is read through in a part of the time in which replicas must be equal.
                upkeep: Duration::from_millis(100),
                scrub_percent: 20,
                scrub_pause: Duration::from_millis(100),
                purge: repair::purge::PurgeOptions {
                    interval: Duration::from_millis(500),
                    percent: 50,
                    longest_pause: Duration::from_secs(1),
                },
            },
        }
    }

    /// Starts node `n` unless it runs or is held down; tries again later if it cannot start.
    pub fn start(&self, n: u32) {
        let Some((name, id, machine, disk)) = self.startable(n) else { return };
        let (group, env) = self.inner.world.start(machine);
        let life = self.try_start(n, &name, id, machine, &disk, (group, &env));
        let mut nodes = self.nodes();
        let node = &mut nodes[n as usize];
        match life {
            Ok(life) => {
                node.lives += 1;
                node.last_engine = Some(life.engine.clone());
                node.life = Some(life.clone());
                drop(nodes);
                self.inner.oracle.started(self, n, &life);
                self.watch(n, &life);
            }
            Err(why) => {
                node.failed_starts += 1;
                drop(nodes);
                tracing::info!(node = name, why, "a node could not start");
                self.inner.net.detach(id, true);
                self.inner.world.kill(group);
                let again = self.clone();
                self.inner.world.call_after(START_AGAIN, move |_| again.start(n));
            }
        }
    }

    fn startable(&self, n: u32) -> Option<(String, NodeId, MachineId, SimDisk)> {
        let nodes = self.nodes();
        let node = nodes.get(n as usize)?;
        (node.life.is_none() && node.held_down == 0)
            .then(|| (node.name.clone(), node.id, node.machine, node.disk.clone()))
    }

    fn try_start(
        &self,
        n: u32,
        name: &str,
        id: NodeId,
        machine: MachineId,
        disk: &SimDisk,
        (group, env): (GroupId, &Env),
    ) -> Result<Life, String> {
        let engine = Arc::new(SimEngine::open(disk).map_err(|error| error.to_string())?);
        let weak = Arc::downgrade(&self.inner);
        engine.watch_removals(Box::new(move |row| {
            if let Some(inner) = weak.upgrade() {
                let cluster = Self { inner };
                cluster.oracle().removed(&cluster, n, row);
            }
        }));
        let opened = node::open(env.clone(), engine.clone(), self.settings(name))
            .map_err(|error| error.to_string())?;
        let founders = (0..self.inner.plan.nodes).map(|n| self.id(n)).collect();
        let identity = opened.identity().clone();
        let admission = Arc::new(NodeAdmission::new(CLUSTER.to_owned(), identity, founders));
        let stamps = opened.stamps().clone();
        let transport =
            self.inner.net.attach(id, machine, group, env.clone(), stamps, admission.clone());
        let node = opened.start(transport.clone()).map_err(|error| error.to_string())?;
        admission.set_cluster(node.cluster().clone());
        let service = Inspector::new(self.clone(), n, node.service(), engine.clone());
        transport.set_service(Arc::new(service));
        Ok(Life { group, env: env.clone(), node, engine })
    }

    /// Restarts the node when it finds that its directory is an older copy.
    fn watch(&self, n: u32, life: &Life) {
        let (cluster, node) = (self.clone(), life.node.clone());
        life.env.spawn("watch restart", async move {
            let mut restart = node.must_restart();
            while restart.borrow_and_update().is_none() {
                if restart.changed().await.is_err() {
                    return;
                }
            }
            cluster.oracle().renewed(n);
            // If the disk fails here, the next start finds out again.
            let renewed = node.renew();
            tracing::info!(node = n, ?renewed, "begins a new history");
            cluster.world().clone().call_after(Duration::ZERO, move |_| {
                cluster.kill(n, true);
                cluster.start(n);
            });
        });
    }

    /// Ends the life of node `n`. With `reset`, peers learn of it from the machine.
    pub fn kill(&self, n: u32, reset: bool) -> bool {
        let (id, life) = {
            let mut nodes = self.nodes();
            let node = &mut nodes[n as usize];
            (node.id, node.life.take())
        };
        let Some(life) = life else { return false };
        self.inner.net.detach(id, reset);
        self.inner.world.kill(life.group);
        drop(life);
        true
    }

    /// Where every node stands, for a report.
    #[must_use]
    pub fn describe(&self) -> String {
        let nodes: Vec<(String, Option<Life>, u32)> = {
            let nodes = self.nodes();
            nodes.iter().map(|n| (n.name.clone(), n.life.clone(), n.failed_starts)).collect()
        };
        let mut words = String::new();
        for (name, life, failed_starts) in nodes {
            let Some(life) = life else {
                words.push_str(&format!("\n    {name}: down, {failed_starts} failed starts"));
                continue;
            };
            let (identity, state) = (life.node.identity(), life.node.cluster().state());
            words.push_str(&format!(
                "\n    {name}: epoch {}, actor {}, incarnation {}, serves {}, poisoned {}; knows",
                state.epoch(),
                identity.actor,
                identity.incarnation.0,
                life.node.cluster().may_serve(&state),
                life.engine.is_poisoned(),
            ));
            for member in state.members().values() {
                let (actor, start) = (member.actor, member.incarnation.0);
                let filled = if member.filled { "" } else { " unfilled" };
                words.push_str(&format!(" {} {actor}/{start}{filled}", member.member.name));
            }
        }
        words
    }

    /// True when every node runs and serves.
    #[must_use]
    pub fn all_serve(&self) -> bool {
        let lives: Vec<Option<Life>> = self.nodes().iter().map(|node| node.life.clone()).collect();
        lives.iter().all(|life| {
            life.as_ref().is_some_and(|life| {
                let cluster = life.node.cluster();
                cluster.may_serve(&cluster.state())
            })
        })
    }
}
