//! One run: found a cluster, let clients and faults loose on it, heal it, read everything, judge.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;

use crate::env::Env;
use crate::meta::{Command, ConflictMode, Table, TableName, TableSettings};
use crate::ring::Replication;
use crate::sim::check::{self, Check, Violation};
use crate::sim::client::{Bench, Client};
use crate::sim::cluster::SimCluster;
use crate::sim::converge;
use crate::sim::executor::{Executor, MachineId, Schedule, Stuck};
use crate::sim::handoff::HintWatch;
use crate::sim::history::{History, Outcome, Workload};
use crate::sim::inject::{self, Effects};
use crate::sim::lockers;
use crate::sim::plan::{Picking, Plan, Step};
use crate::sim::rows::{self, Fate};
use crate::sim::trace::{TraceEvent, TraceKind};

/// Virtual time for founding, and again for healing.
const PATIENCE: Duration = Duration::from_secs(120);
/// Virtual time for the clients' scripts.
const LONGEST_RUN: Duration = Duration::from_secs(7_200);
/// Virtual time in which everything under way ends, after healing.
const SETTLE: Duration = Duration::from_secs(5);
/// Virtual time in which replicas become equal once the faults are over.
const CONVERGE: Duration = Duration::from_secs(60);
/// Tombstones with a longer grace time are not waited for.
const LONGEST_GRACE: Duration = Duration::from_secs(120);
/// Pace of the oracle's rounds.
const ROUND: Duration = Duration::from_millis(50);

/// How a run went.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The plan's seed.
    pub seed: u64,
    /// What was wrong; nothing, if all is well.
    pub violations: Vec<Violation>,
    /// Folds every event of the run and its history.
    pub trace_hash: u64,
    /// Events.
    pub events: u64,
    /// Task wake-ups.
    pub polls: u64,
    /// Client operations.
    pub operations: u64,
    /// Of them, those that succeeded.
    pub ok: u64,
    /// … those whose outcome is not known.
    pub unknown: u64,
    /// Faults that took effect, by name.
    pub effects: Vec<&'static str>,
    /// Virtual time.
    pub virtual_ms: u64,
    /// Lives of all nodes.
    pub lives: u32,
    /// Times that a node began a new history in an older directory.
    pub renewals: u64,
    /// Records of deleted and expired keys that nodes have removed.
    pub purged: u64,
    /// What clients did and saw.
    #[serde(skip)]
    pub history: History,
    /// The latest events.
    #[serde(skip)]
    pub recent: Vec<TraceEvent>,
}

impl Report {
    /// True if nothing was wrong.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.violations.is_empty()
    }

    /// True if one of the breaches is of this kind.
    #[must_use]
    pub fn names(&self, check: Check) -> bool {
        self.violations.iter().any(|violation| violation.check == check)
    }
}

/// Runs a plan.
#[must_use]
pub fn run(plan: Plan) -> Report {
    run_with(plan, false)
}

/// Runs a plan; with `keep_all`, [`Report::recent`] holds every event.
#[must_use]
pub fn run_with(plan: Plan, keep_all: bool) -> Report {
    let mut running = Running::new(plan);
    if keep_all {
        running.executor.keep_all_events();
    }
    let stuck = running.phases().err();
    running.report(stuck)
}

/// Process numbers of lockers begin here: above those of clients and below the last readers'.
const FIRST_LOCKER: u32 = 800;
/// Those of clients that write rows.
const FIRST_ROWER: u32 = 850;

struct Running {
    executor: Executor,
    cluster: SimCluster,
    clients: (MachineId, Env),
    bench: Option<Arc<Bench>>,
    effects: Effects,
}

/// The run cannot go on.
enum Halt {
    Stuck(Stuck),
    /// Noted as a breach already.
    Noted,
}

impl From<Stuck> for Halt {
    fn from(stuck: Stuck) -> Self {
        Self::Stuck(stuck)
    }
}

impl Running {
    fn new(plan: Plan) -> Self {
        let mut executor = Executor::new(plan.seed, Schedule::Uniform);
        let world = executor.world();
        let cluster = SimCluster::new(&world, Arc::new(plan));
        let schedule = match cluster.plan().picking {
            Picking::Uniform => Schedule::Uniform,
            Picking::Priorities => Schedule::Priorities,
            Picking::Starve(n) => Schedule::Starve(
                cluster.nodes().get(n as usize).map_or(MachineId(0), |node| node.machine),
            ),
        };
        executor.set_schedule(schedule);
        let machine = world.add_machine();
        let (_, env) = world.start(machine);
        Self {
            executor,
            cluster,
            clients: (machine, env),
            bench: None,
            effects: Effects::default(),
        }
    }

    fn phases(&mut self) -> Result<(), Halt> {
        self.found()?;
        let [siblings, registers, strong] = self.create_buckets()?;
        let plan = self.cluster.plan().clone();
        let history = History::new(plan.seed, plan.nodes, plan.fault_names());
        let bench = Arc::new(Bench {
            cluster: self.cluster.clone(),
            siblings,
            registers,
            strong,
            history: Mutex::new(history),
            locks: Mutex::default(),
            rows: Mutex::default(),
            done: AtomicU32::new(0),
        });
        self.bench = Some(bench.clone());
        self.create_rows()?;
        self.let_loose(&bench)?;
        self.heal()?;
        self.converge()?;
        self.purge()?;
        self.converge()?;
        self.read_everything(&bench)?;
        Ok(())
    }

    fn found(&mut self) -> Result<(), Halt> {
        for n in 0..self.cluster.plan().nodes {
            self.cluster.start(n);
        }
        self.wait_until_all_serve("the cluster was not founded")?;
        rounds(&self.cluster, Arc::default());
        Ok(())
    }

    fn wait_until_all_serve(&mut self, otherwise: &str) -> Result<(), Halt> {
        let begun = self.cluster.world().now();
        while !self.cluster.all_serve() {
            self.executor.run_for(ROUND)?;
            let waited = self.cluster.world().now() - begun;
            if u128::from(waited) > PATIENCE.as_nanos() {
                let what = format!("{otherwise} within {PATIENCE:?}:{}", self.cluster.describe());
                self.cluster.oracle().breach(&self.cluster, Check::Liveness, "", what);
                return Err(Halt::Noted);
            }
        }
        Ok(())
    }

    /// The three buckets, the first one from two nodes at once: that must give one bucket.
    fn create_buckets(&mut self) -> Result<[Arc<Table>; 3], Halt> {
        for (node, name, conflict) in [
            (0, "siblings", ConflictMode::Siblings),
            (1, "siblings", ConflictMode::Siblings),
            (2, "registers", ConflictMode::Lww),
            (0, "strong", ConflictMode::Strong),
        ] {
            let node = node % self.cluster.plan().nodes;
            let Some(life) = self.cluster.life(node) else { continue };
            let factor = self.cluster.plan().replication;
            let settings = TableSettings {
                replication: Replication::Simple { factor },
                conflict,
                sloppy: self.cluster.plan().sloppy,
                grace_s: self.cluster.plan().grace_s,
                ..TableSettings::bucket(self.cluster.plan().nodes as usize)
            };
            let Ok(name) = name.parse::<TableName>() else { continue };
            let cluster = life.node.cluster().clone();
            let env = life.env.clone();
            life.env.spawn("create bucket", async move {
                let deadline = env.mono() + PATIENCE;
                let verdict =
                    cluster.append(Command::CreateTable { name, settings }, deadline).await;
                tracing::info!(?verdict, "bucket");
            });
        }
        let find = |cluster: &SimCluster, name: &str| cluster.table(&name.parse().ok()?);
        for _ in 0..200 {
            self.executor.run_for(ROUND)?;
            let siblings = find(&self.cluster, "siblings");
            let registers = find(&self.cluster, "registers");
            let strong = find(&self.cluster, "strong");
            if let (Some(siblings), Some(registers), Some(strong)) = (siblings, registers, strong) {
                self.executor.run_for(Duration::from_secs(1))?;
                return Ok([siblings, registers, strong]);
            }
        }
        let what = "the buckets were not created".to_owned();
        self.cluster.oracle().breach(&self.cluster, Check::Liveness, "", what);
        Err(Halt::Noted)
    }

    /// The tables of clients that write rows.
    fn create_rows(&mut self) -> Result<(), Halt> {
        let plan = self.cluster.plan().clone();
        let Some(life) = self.cluster.life(0).filter(|_| plan.rowers > 0) else { return Ok(()) };
        let machine = self.cluster.nodes()[0].machine;
        let create = rows::create_tables(life.node, plan.replication, plan.grace_s);
        let created = self.executor.block_on(machine, PATIENCE, create)?;
        if let Err(what) = created.unwrap_or_else(|| Err("no answer".to_owned())) {
            let what = format!("tables of rows were not created: {what}");
            self.cluster.oracle().breach(&self.cluster, Check::Liveness, "", what);
            return Err(Halt::Noted);
        }
        Ok(())
    }

    /// The safety phase.
    fn let_loose(&mut self, bench: &Arc<Bench>) -> Result<(), Halt> {
        inject::schedule(bench, &self.effects);
        let script = &self.cluster.plan().script;
        let count = script.iter().map(|step| step.client + 1).max().unwrap_or(0);
        for number in 0..count {
            let steps: Vec<Step> =
                script.iter().filter(|step| step.client == number).cloned().collect();
            let client = Client::new(bench.clone(), self.clients.1.clone(), number);
            self.clients.1.spawn("client", client.run(steps));
        }
        let lockers = self.cluster.plan().lockers;
        for number in 0..lockers {
            let (bench, env) = (bench.clone(), self.clients.1.clone());
            self.clients.1.spawn("locker", lockers::run(bench, env, FIRST_LOCKER + number));
        }
        let rowers = self.cluster.plan().rowers;
        for number in 0..rowers {
            let (bench, env) = (bench.clone(), self.clients.1.clone());
            self.clients.1.spawn("rower", rows::run(bench, env, FIRST_ROWER + number));
        }
        let count = count + lockers + rowers;
        self.executor.run_while(LONGEST_RUN, |_| bench.done.load(Ordering::Relaxed) < count)?;
        if bench.done.load(Ordering::Relaxed) < count {
            let what = "clients still wait and nothing happens any more".to_owned();
            self.cluster.oracle().breach(&self.cluster, Check::I17, "", what);
        }
        Ok(())
    }

    /// Faults that were to begin or end later find a healed cluster: they are left to end first.
    fn heal(&mut self) -> Result<(), Halt> {
        let faults = &self.cluster.plan().faults;
        let end_ms = faults.iter().map(|f| f.at_ms + f.for_ms).max().unwrap_or(0);
        let longest = end_ms + self.cluster.plan().timeout_ms + 2_000;
        let begun = self.bench.as_ref().map_or(0, |bench| {
            bench.history().operations.first().map_or(0, |operation| operation.call.t)
        });
        let over = begun + longest * 1_000_000;
        let left = over.saturating_sub(self.cluster.world().now());
        self.executor.run_for(Duration::from_nanos(left))?;
        inject::heal(&self.cluster);
        self.wait_until_all_serve("after healing, not all nodes served")?;
        self.executor.run_for(SETTLE)?;
        Ok(())
    }

    /// Law L12: no client asks for anything, and all copies become equal.
    fn converge(&mut self) -> Result<(), Halt> {
        let over = self.cluster.world().now() + CONVERGE.as_nanos() as u64;
        while let Some((check, what)) = converge::apart(&self.cluster) {
            if self.cluster.world().now() >= over {
                let what = format!("{CONVERGE:?} after the last fault: {what}");
                self.cluster.oracle().breach(&self.cluster, check, "", what);
                return Ok(());
            }
            self.executor.run_for(Duration::from_millis(500))?;
        }
        Ok(())
    }

    /// Everybody is there, so tombstones go once their grace time is over, and nobody is in the way
    /// for long.
    fn purge(&mut self) -> Result<(), Halt> {
        let grace = Duration::from_secs(self.cluster.plan().grace_s);
        if grace > LONGEST_GRACE {
            return Ok(());
        }
        self.executor.run_for(grace + SETTLE)?;
        let over = self.cluster.world().now() + CONVERGE.as_nanos() as u64;
        loop {
            let lives: Vec<_> =
                self.cluster.nodes().iter().filter_map(|node| node.life.clone()).collect();
            let blocked: Vec<_> = lives.iter().flat_map(|l| l.node.purge().blocked()).collect();
            let Some(first) = blocked.first() else { return Ok(()) };
            if self.cluster.world().now() >= over {
                let what = format!("{CONVERGE:?} after grace, tombstones stay: {first:?}");
                self.cluster.oracle().breach(&self.cluster, Check::Liveness, "", what);
                return Ok(());
            }
            self.executor.run_for(Duration::from_millis(500))?;
        }
    }

    fn read_everything(&mut self, bench: &Arc<Bench>) -> Result<(), Halt> {
        let mut keys: Vec<(Workload, u32)> =
            self.cluster.plan().script.iter().map(|step| (step.workload, step.key)).collect();
        keys.sort_unstable();
        keys.dedup();
        let reader = Client::new(bench.clone(), self.clients.1.clone(), 900);
        let unread =
            self.executor.block_on(self.clients.0, PATIENCE * 10, reader.read_all(keys))?;
        for key in unread.unwrap_or_else(|| vec!["all".to_owned()]) {
            let what = "cannot be read at a quorum after healing".to_owned();
            self.cluster.oracle().breach(&self.cluster, Check::Liveness, &key, what);
        }
        if self.cluster.plan().rowers > 0 {
            let reads = rows::finale(bench.clone(), self.clients.1.clone(), 901);
            let unread = self.executor.block_on(self.clients.0, PATIENCE * 10, reads)?;
            for key in unread.unwrap_or_else(|| vec!["all rows".to_owned()]) {
                let what = "cannot be read at a quorum after healing".to_owned();
                self.cluster.oracle().breach(&self.cluster, Check::Liveness, &key, what);
            }
        }
        self.cluster.oracle().checkpoint(&self.cluster);
        Ok(())
    }

    fn report(self, halt: Option<Halt>) -> Report {
        let Self { executor, cluster, bench, effects, .. } = self;
        let locks = bench.as_ref().map(|bench| lockers::check(bench.locks().events()));
        let locks = locks.unwrap_or_default();
        let rows = bench.as_ref().map(|bench| bench.rows().clone()).unwrap_or_default();
        let history = bench.map_or_else(History::default, |bench| bench.history().clone());
        let mut violations = cluster.oracle().violations();
        violations.extend(locks);
        violations.extend(check::rows::check(&rows));
        if let Some(Halt::Stuck(stuck)) = halt {
            let (check, what) = (Check::Livelock, stuck.to_string());
            violations.push(Violation { check, key: String::new(), what, operations: vec![] });
        }
        for panic in executor.world().take_panics() {
            let what = format!("task {:?}: {}", panic.task, panic.message);
            let check = Check::Panic;
            violations.push(Violation { check, key: String::new(), what, operations: vec![] });
        }
        if cluster.net().stats().undetected > 0 {
            let what = "a damaged frame was taken for a whole one".to_owned();
            let check = Check::I2;
            violations.push(Violation { check, key: String::new(), what, operations: vec![] });
        }
        violations.extend(check::check(&history));
        let digest = xxhash_rust::xxh3::xxh3_64(history.to_ndjson().as_bytes());
        let world = executor.world();
        world.record(None, TraceKind::State, digest);
        let count = |wanted: fn(&Outcome) -> bool| {
            history.operations.iter().filter(|o| wanted(&o.outcome)).count() as u64
        };
        let report = Report {
            seed: cluster.plan().seed,
            violations,
            trace_hash: executor.trace_hash(),
            events: executor.events(),
            polls: executor.polls(),
            operations: (history.operations.len() + rows.len()) as u64,
            ok: rows.succeeded() as u64
                + count(|o| {
                    matches!(o, Outcome::Read(_) | Outcome::Written(_) | Outcome::Refused(_))
                }),
            unknown: rows.with_fate(Fate::Unknown) as u64
                + count(|o| matches!(o, Outcome::Unknown)),
            effects: effects.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            virtual_ms: world.now() / 1_000_000,
            lives: cluster.nodes().iter().map(|node| node.lives).sum(),
            renewals: cluster.oracle().renewals(),
            purged: cluster.oracle().purged(),
            recent: executor.recent_events(),
            history,
        };
        // Nodes and their network hold each other: without this, each run would stay in memory.
        for n in 0..cluster.plan().nodes {
            cluster.kill(n, false);
        }
        report
    }
}

/// Lets the oracle look around every now and then, as long as the world lasts.
fn rounds(cluster: &SimCluster, hints: Arc<HintWatch>) {
    let again = cluster.clone();
    cluster.world().call_after(ROUND, move |_| {
        again.oracle().checkpoint(&again);
        hints.look(&again);
        rounds(&again, hints);
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::generate::{Size, generate};

    #[test]
    fn a_quiet_cluster_answers_everything_and_keeps_every_promise() {
        for seed in 0..3 {
            let mut plan = generate(seed, Size { operations: 200, faults: 0 });
            plan.link = crate::sim::net::LinkProfile::default();
            for step in &mut plan.script {
                (step.hang_up_us, step.hang_up_awaits) = (None, None);
            }
            let report = run(plan);
            assert!(report.passed(), "seed {seed}: {:#?}", report.violations);
            assert_eq!(report.ok, report.operations, "seed {seed}");
        }
    }

    #[test]
    fn tombstones_are_purged_in_most_runs() {
        let purged = |seed| run(generate(seed, Size { operations: 200, faults: 10 })).purged;
        let with_purges = (0..6).filter(|&seed| purged(seed) > 0).count();
        assert!(with_purges >= 4, "in {with_purges} of 6");
    }

    #[test]
    fn one_plan_is_one_run() {
        let plan = generate(11, Size { operations: 150, faults: 10 });
        assert_eq!(run(plan.clone()).trace_hash, run(plan).trace_hash);
    }
}
