//! One run: a cluster, one kind of fault, and one or more workloads beside each other, each with
//! its own bucket, clients, history and verdict.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use henge::client::BucketSettings;

use crate::history::{Header, Recorder};
use crate::hosts::cluster::{Cluster, Settings};
use crate::nemesis::{Effect, Fault, Nemesis, PROBE_BUCKET};
use crate::report;
use crate::session::{Session, Stage};
use crate::verdict::{Result as CellResult, judge};
use crate::workload::Kind;

/// How long after the last fault the cluster is left alone before the final reads: longer than any
/// request may take, so that what is still under way has ended.
const SETTLE: Duration = Duration::from_millis(3_500);

/// What to run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The `henge` binary.
    pub binary: PathBuf,
    /// What the clients do.
    pub workloads: Vec<Kind>,
    /// What is done to the nodes.
    pub nemesis: Fault,
    /// For how long.
    pub time: Duration,
    /// For all draws.
    pub seed: u64,
    /// Number of nodes.
    pub nodes: usize,
    /// Copies of everything.
    pub replicas: usize,
    /// How long an episode of the fault lasts, if not as long as it usually does.
    pub lasts: Option<Duration>,
    /// A planted bug.
    pub plant: Option<String>,
    /// Settings of the nodes that differ, as the environment's variables for them.
    pub set: Vec<(String, String)>,
    /// On loopback, for want of a network of its own.
    pub on_loopback: bool,
    /// Where everything goes.
    pub directory: PathBuf,
    /// Keep the nodes' data.
    pub keep: bool,
}

/// Runs a plan; one result for each workload, in files too.
///
/// # Errors
/// What kept it from starting.
pub async fn run(plan: &Plan) -> Result<Vec<CellResult>, String> {
    if plan.on_loopback && plan.nemesis.needs_own_disks() {
        return Err(format!("{} needs disks, and thus mounts, of its own", plan.nemesis.name()));
    }
    drop(std::fs::remove_dir_all(&plan.directory));
    std::fs::create_dir_all(&plan.directory)
        .map_err(|error| format!("{}: {error}", plan.directory.display()))?;
    let settings = Settings {
        binary: plan.binary.clone(),
        directory: plan.directory.clone(),
        nodes: plan.nodes,
        plant: plan.plant.clone(),
        set: plan.set.clone(),
        own_disks: plan.nemesis.needs_own_disks(),
        on_loopback: plan.on_loopback,
        seed: plan.seed,
    };
    let mut cluster = tokio::task::block_in_place(|| Cluster::start(settings))?;
    cluster.wait_ready().await?;
    let began = Instant::now();
    let stages = stages(plan, &cluster, began)?;
    prepare(&stages).await?;
    let mut clients = Vec::new();
    for stage in &stages {
        for number in 0..stage.kind.clients() {
            clients.push(tokio::spawn(Session::new(stage, number).run()));
        }
    }
    let mut nemesis = Nemesis::new(&mut cluster, &stages, plan.seed, plan.lasts);
    let mut trouble = nemesis.run(plan.nemesis, Instant::now() + plan.time).await.err();
    for stage in &stages {
        stage.stop.store(true, Relaxed);
    }
    for client in clients {
        if let Err(error) = client.await {
            trouble = trouble.or(Some(format!("a client: {error}")));
        }
    }
    if let Err(why) = nemesis.heal().await {
        trouble = trouble.or(Some(why));
    }
    let (effects, mut notes) = (nemesis.effects, nemesis.notes);
    if plan.on_loopback {
        notes.push("on loopback: streams were held and delayed, no packets lost".to_owned());
    }
    tokio::time::sleep(SETTLE).await;
    // A cluster that did not come back is asked nothing more.
    let finals = match trouble {
        Some(_) => vec![false; stages.len()],
        None => finish(&stages).await,
    };
    let panics = cluster.panics();
    drop(cluster);
    let mut results = Vec::new();
    for (stage, complete) in stages.iter().zip(finals) {
        let history = stage.recorder.history();
        let run = Ended {
            effects: &effects,
            notes: &notes,
            panics: &panics,
            trouble: trouble.as_deref(),
            complete,
        };
        let result = judge(stage.kind, &history, &run, plan.time);
        report::write(&plan.directory, stage.kind, &history, &result)
            .map_err(|error| format!("{}: {error}", plan.directory.display()))?;
        results.push(result);
    }
    let failed = results.iter().any(|result| result.verdict != crate::verdict::Verdict::Ok);
    if !plan.keep && !failed {
        drop_data(&plan.directory, plan.nodes);
    }
    Ok(results)
}

/// What else is known about a run, beside a workload's history.
#[derive(Debug)]
pub struct Ended<'a> {
    /// What the faults did.
    pub effects: &'a [Effect],
    /// What is worth knowing.
    pub notes: &'a [String],
    /// Panics in the nodes' logs.
    pub panics: &'a [String],
    /// Why the harness gave up.
    pub trouble: Option<&'a str>,
    /// All final reads succeeded.
    pub complete: bool,
}

/// A fingerprint of the node's program, for the history.
fn fingerprint(path: &Path) -> String {
    let bytes = std::fs::read(path).unwrap_or_default();
    format!("{:016x}", henge::types::Digest::of(&bytes).0 as u64)
}

fn stages(plan: &Plan, cluster: &Cluster, began: Instant) -> Result<Vec<Arc<Stage>>, String> {
    let urls: Vec<String> = (0..cluster.len()).map(|node| cluster.url(node)).collect();
    let cql: Vec<String> = (0..cluster.len()).map(|node| cluster.cql(node)).collect();
    let binary = fingerprint(&plan.binary);
    let phases = plan.workloads.len().min(3) as u64;
    let mut stages = Vec::new();
    for (at, &kind) in plan.workloads.iter().enumerate() {
        let header = Header {
            henge_history: 1,
            workload: kind.name().to_owned(),
            nemesis: plan.nemesis.name().to_owned(),
            seed: plan.seed,
            nodes: plan.nodes,
            binary: binary.clone(),
            plant: plan.plant.clone(),
        };
        let path = plan.directory.join(format!("{}.ndjson", kind.name()));
        let recorder = Recorder::new(&path, header, began)
            .map_err(|error| format!("{}: {error}", path.display()))?;
        let turn = (at as u64, phases);
        let nodes = (&urls[..], &cql[..], plan.replicas);
        stages.push(Arc::new(Stage::new(kind, recorder, nodes, began, plan.seed, turn)?));
    }
    Ok(stages)
}

async fn prepare(stages: &[Arc<Stage>]) -> Result<(), String> {
    for stage in stages {
        stage.kind.prepare(stage).await?;
    }
    let Some(stage) = stages.first() else { return Err("no workload is named".to_owned()) };
    let settings = BucketSettings {
        replication_factor: u32::try_from(stage.replicas).ok(),
        conflict: Some("lww".to_owned()),
        ..BucketSettings::default()
    };
    let made = stage.nodes[0].create_bucket(PROBE_BUCKET, &settings).await;
    made.map(drop).map_err(|error| error.to_string())
}

/// The final reads of all workloads, at once.
async fn finish(stages: &[Arc<Stage>]) -> Vec<bool> {
    let mut tasks = Vec::new();
    for stage in stages {
        let stage = Arc::clone(stage);
        tasks.push(tokio::spawn(async move { stage.kind.finish(&stage).await }));
    }
    let mut all = Vec::new();
    for task in tasks {
        all.push(task.await.unwrap_or(false));
    }
    all
}

fn drop_data(directory: &Path, nodes: usize) {
    for node in 1..=nodes {
        drop(std::fs::remove_dir_all(directory.join(format!("n{node}"))));
    }
}
