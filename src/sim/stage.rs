//! A cluster without faults of its own, for scenarios that are told step by step: cut this node
//! off, write that, look at the disks.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::node::{Node, NodeStore};
use crate::server::cql::direct::{self, Class, PageOfRows, Reply, Terms};
use crate::sim::cluster::SimCluster;
use crate::sim::executor::{Executor, Schedule};
use crate::sim::generate::{Size, generate};
use crate::sim::net::LinkProfile;
use crate::storage::keys::Kind;
use crate::storage::{Engine as _, KeyRange};
use crate::types::Consistency;

/// Virtual time for founding, and for one statement.
const PATIENCE: Duration = Duration::from_secs(60);

/// See the module.
pub struct Stage {
    executor: Executor,
    cluster: SimCluster,
}

impl std::fmt::Debug for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Stage")
    }
}

impl Stage {
    /// Three nodes, which all keep everything. With `repairs` false nothing is brought together in
    /// the background: neither by hints nor by hash trees.
    ///
    /// # Errors
    /// The cluster was not founded.
    pub fn new(seed: u64, repairs: bool) -> Result<Self, String> {
        let mut plan = generate(seed, Size { operations: 0, faults: 0 });
        (plan.nodes, plan.replication, plan.sloppy) = (3, 3, false);
        plan.link = LinkProfile::default();
        plan.timeout_ms = 1_000;
        plan.hints_only = !repairs;
        if !repairs {
            plan.hint_max_bytes = 0;
        }
        let mut executor = Executor::new(seed, Schedule::Uniform);
        let cluster = SimCluster::new(&executor.world(), Arc::new(plan));
        for node in 0..3 {
            cluster.start(node);
        }
        executor
            .run_while(PATIENCE, |_| !cluster.all_serve())
            .map_err(|stuck| stuck.to_string())?;
        if !cluster.all_serve() {
            return Err(format!("not founded:{}", cluster.describe()));
        }
        Ok(Self { executor, cluster })
    }

    /// The cluster.
    #[must_use]
    pub fn cluster(&self) -> &SimCluster {
        &self.cluster
    }

    /// Lets virtual time pass.
    ///
    /// # Errors
    /// Time stood still.
    pub fn run_for(&mut self, span: Duration) -> Result<(), String> {
        self.executor.run_for(span).map_err(|stuck| stuck.to_string())
    }

    /// Cuts a node off from both others.
    pub fn isolate(&self, node: u32) {
        let me = self.cluster.id(node);
        for other in (0..3).filter(|other| *other != node).map(|other| self.cluster.id(other)) {
            self.cluster.net().block(me, other);
            self.cluster.net().block(other, me);
        }
    }

    /// Lets all nodes hear each other again.
    pub fn heal(&self) {
        self.cluster.net().heal();
    }

    /// Executes a statement through `node`.
    pub fn cql(&mut self, node: u32, level: Consistency, text: &str) -> Reply {
        self.page(node, text, Terms::at(level))
    }

    /// Executes a statement through `node`, and gives a page of what it shows.
    pub fn page(&mut self, node: u32, text: &str, terms: Terms) -> Reply {
        let limit = Duration::from_millis(self.cluster.plan().timeout_ms);
        let text = text.to_owned();
        let reply = self.run(node, |node| async move {
            direct::execute(Arc::new(NodeStore::with_limit(node, limit)), text, terms).await
        });
        reply.unwrap_or_else(|message| Reply::Failed {
            not_applied: false,
            class: Class::Other,
            message,
            code: 0,
            place: None,
            cause: None,
        })
    }

    /// Runs something on `node`.
    ///
    /// # Errors
    /// It is down, or does not end.
    pub fn run<T, F>(&mut self, node: u32, what: impl FnOnce(Node) -> F) -> Result<T, String>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let life = self.cluster.life(node).ok_or("it is down")?;
        let machine = self.cluster.nodes()[node as usize].machine;
        match self.executor.block_on(machine, PATIENCE, what(life.node)) {
            Ok(Some(result)) => Ok(result),
            Ok(None) => Err("no answer".to_owned()),
            Err(stuck) => Err(stuck.to_string()),
        }
    }

    /// Begins a statement through `node`, whose answer nobody waits for.
    pub fn begin(&mut self, node: u32, level: Consistency, text: &str) {
        let Some(life) = self.cluster.life(node) else { return };
        let limit = Duration::from_millis(self.cluster.plan().timeout_ms);
        let terms = Terms::at(level);
        let (text, store) = (text.to_owned(), Arc::new(NodeStore::with_limit(life.node, limit)));
        life.env.spawn("statement", async move {
            let reply = direct::execute(store, text, terms).await;
            tracing::debug!(?reply, "nobody waits for it");
        });
    }

    /// Lets time pass in very small steps until something is so; false if it does not come about.
    ///
    /// # Errors
    /// Time stood still.
    pub fn step_until(&mut self, is_so: impl Fn(&Self) -> bool) -> Result<bool, String> {
        for _ in 0..100_000 {
            if is_so(self) {
                return Ok(true);
            }
            self.run_for(Duration::from_micros(10))?;
        }
        Ok(false)
    }

    /// Waits until every node runs and serves.
    ///
    /// # Errors
    /// It does not come about.
    pub fn wait_until_all_serve(&mut self) -> Result<(), String> {
        for _ in 0..600 {
            if self.cluster.all_serve() {
                return Ok(());
            }
            self.run_for(Duration::from_millis(100))?;
        }
        Err(self.cluster.describe())
    }

    /// Nothing gets from one node to another any more.
    pub fn cut(&self, from: u32, to: u32) {
        self.cluster.net().block(self.cluster.id(from), self.cluster.id(to));
    }

    /// Breaks the connections between two nodes: what a cut holds back, to deliver it once it is
    /// healed, is lost.
    pub fn break_connections(&self, a: u32, b: u32) {
        self.cluster.net().cut(self.cluster.id(a), self.cluster.id(b));
    }

    /// Bytes of votes on a node's disk.
    #[must_use]
    pub fn votes(&self, node: u32) -> usize {
        let mut bytes = 0;
        if let Some(life) = self.cluster.life(node) {
            let _ = life.engine.scan(&KeyRange::prefix(&[Kind::Paxos as u8]), &mut |_, value| {
                bytes += value.map_or(0, <[u8]>::len);
                ControlFlow::Continue(())
            });
        }
        bytes
    }

    /// The rows that a statement gives.
    ///
    /// # Errors
    /// It failed.
    pub fn rows(
        &mut self,
        node: u32,
        level: Consistency,
        text: &str,
    ) -> Result<PageOfRows, String> {
        match self.cql(node, level, text) {
            Reply::Rows(page) => Ok(page),
            Reply::Done => Ok(PageOfRows::default()),
            Reply::Failed { message, .. } => Err(format!("{text}: {message}")),
        }
    }

    /// All records on a node's disk.
    #[must_use]
    pub fn records(&self, node: u32) -> BTreeMap<Bytes, Bytes> {
        let mut records = BTreeMap::new();
        if let Some(life) = self.cluster.life(node) {
            let _ =
                life.engine.scan(&KeyRange::prefix(&[Kind::Record as u8]), &mut |row, value| {
                    let value = Bytes::copy_from_slice(value.unwrap_or_default());
                    records.insert(Bytes::copy_from_slice(row), value);
                    ControlFlow::Continue(())
                });
        }
        records
    }
}

impl Drop for Stage {
    /// Nodes and their network hold each other.
    fn drop(&mut self) {
        for node in 0..3 {
            self.cluster.kill(node, false);
        }
    }
}
