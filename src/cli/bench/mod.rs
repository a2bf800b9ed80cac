//! `henge bench`: YCSB workloads over HTTP, or over CQL (`--cql`).
//!
//! **Closed loop** (the default): each of N clients sends its next request when the last one is
//! answered. It shows throughput, and hides stalls: while a server stands still, nobody asks.
//!
//! **Open loop** (`--rate`): requests have intended starting times that do not wait for answers,
//! and latency counts from the *intended* start. A stall of one second then shows as a second of
//! late requests, as users would see it (Tene's "coordinated omission").
//!
//! The client shares the machine with the servers that it measures, so it is written to be cheap:
//! own HTTP/1.1 connections without a pool or header maps ([`wire`]), one task each, all state of
//! a thread its own. What it costs is part of the report.

mod chooser;
mod etcd;
mod report;
mod rows;
mod runner;
mod wire;
mod workload;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::args::ClientArgs;
use super::exit::{Exit, Failure};
use super::output;
use crate::client::{BucketSettings, Client, FoundValue, ListOptions, ReadOptions};
use chooser::Choose;
use report::Report;
use workload::{Keys, Workload};

/// Arguments of `henge bench`.
#[derive(Debug, Clone, Args)]
pub struct BenchArgs {
    /// What to do: YCSB's a to f, or only reads, inserts or conditional writes.
    #[arg(long, value_enum, default_value = "a")]
    pub workload: Workload,
    /// Seconds to measure.
    #[arg(long, default_value_t = 20)]
    pub seconds: u64,
    /// Seconds before measuring begins.
    #[arg(long, default_value_t = 3)]
    pub warmup: u64,
    /// Clients, each with one request under way and a connection of its own (see
    /// `--per-connection`).
    #[arg(long, short, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub clients: u32,
    /// Threads of the client.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub threads: u32,
    /// Open loop: requests per second in all; latency counts from the intended start.
    #[arg(long, value_name = "PER_SECOND")]
    pub rate: Option<u64>,
    /// Records that are there before measuring begins.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub records: u64,
    /// Bytes of a value.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(0..=8 << 20))]
    pub value_size: u64,
    /// How keys are chosen; without it, as the workload says.
    #[arg(long, value_enum)]
    pub choose: Option<Choose>,
    /// The bucket; it is created where it does not exist.
    #[arg(long, short, default_value = "bench")]
    pub bucket: String,
    /// How concurrent writes meet in a bucket that is created. With siblings an update reads
    /// first, so that it replaces what is there.
    #[arg(long, default_value = "lww")]
    pub conflict: String,
    /// Copies of each value in a bucket that is created.
    #[arg(long, short = 'n', value_name = "N")]
    pub replication_factor: Option<u32>,
    /// Consistency level of reads and writes.
    #[arg(long, conflicts_with_all = ["r", "w"])]
    pub level: Option<String>,
    /// Replicas that must answer a read.
    #[arg(long, short = 'r', value_name = "N")]
    pub r: Option<u32>,
    /// Replicas that must acknowledge a write.
    #[arg(long, short = 'w', value_name = "N")]
    pub w: Option<u32>,
    /// Seed of the choices.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Write all records again, even where they seem to be there.
    #[arg(long)]
    pub reload: bool,
    /// Over CQL instead of HTTP, to the nodes at these addresses: prepared statements on a table
    /// `bench.BUCKET`, which is created where it does not exist.
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', conflicts_with_all = ["r", "w"])]
    pub cql: Vec<String>,
    /// Over CQL: so many clients share a connection, as the threads of an application share the one
    /// of their driver.
    #[arg(long, default_value_t = 1, requires = "cql", value_parser = clap::value_parser!(u32).range(1..=2_000))]
    pub per_connection: u32,
    /// All clients work on one key.
    #[arg(long)]
    pub hot: bool,
    /// Not against Henge: against etcd, by the JSON gateway at these client addresses, for
    /// comparison. Workloads read, insert, create and cas.
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', conflicts_with_all = ["r", "w", "level", "cql"])]
    pub etcd: Vec<String>,
    /// Over CQL: every write is an INSERT with IF NOT EXISTS.
    #[arg(long, requires = "cql")]
    pub lwt: bool,
    /// Also write the report, as JSON, to this file.
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
}

/// `henge bench`.
pub async fn bench(client: &ClientArgs, args: BenchArgs) -> Result<(), Failure> {
    let json = client.json;
    if args.rate == Some(0) {
        return Err(Failure::usage("--rate must be at least 1"));
    }
    let credentials = client.login.credentials()?;
    if !args.cql.is_empty() {
        return rows::bench(args, credentials, json).await;
    }
    if !args.etcd.is_empty() {
        return etcd::bench(args, json).await;
    }
    let client = client.client_as(credentials.as_ref())?.with_patience(Duration::from_secs(10));
    let siblings = prepare(&client, &args).await?;
    let keys = Keys::new(args.records, args.seed);
    let cursors = match args.workload {
        Workload::E => cursors(&client, &args.bucket).await?,
        _ => Vec::new(),
    };
    let job = runner::Job {
        authorities: client.nodes().iter().map(|node| node.authority().to_owned()).collect(),
        args: args.clone(),
        keys,
        cursors,
        read_first: siblings,
        level: None,
        credentials,
    };
    let loaded = args.workload.brings_its_own()
        || !args.reload && is_loaded(&client, &args, &job.keys).await?;
    measure(&job, loaded, json).await
}

/// Loads what is not there, measures, and reports.
async fn measure(job: &runner::Job, loaded: bool, json: bool) -> Result<(), Failure> {
    let args = &job.args;
    if !loaded {
        output::note(format!("loading {} records", args.records));
        let report = runner::run(job.load()).await?;
        if report.errors() > 0 {
            let message = format!("loading failed: {}", report.first_error());
            return Err(Failure::new(Exit::Failure, message));
        }
        output::note(format!("loaded at {} records/s", report.ops_per_s()));
    }
    let report = runner::run(job.measure()).await?;
    finish(&report, json, args.report.as_deref())
}

fn finish(report: &Report, json: bool, file: Option<&std::path::Path>) -> Result<(), Failure> {
    let document = report.to_json();
    if let Some(path) = file {
        std::fs::write(path, format!("{document:#}\n"))
            .map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
    }
    if json { output::json(&document) } else { report.print() }
}

/// Creates the bucket; true if its values can have siblings.
async fn prepare(client: &Client, args: &BenchArgs) -> Result<bool, Failure> {
    let settings = BucketSettings {
        conflict: Some(args.conflict.clone()),
        replication_factor: args.replication_factor,
        ..BucketSettings::default()
    };
    match client.create_bucket(&args.bucket, &settings).await {
        Ok(_) => Ok(args.conflict == "siblings"),
        Err(error) if error.problem().is_some_and(|problem| problem.status == 409) => {
            let path = format!("/v1/buckets/{}", args.bucket);
            let found = client.json(&path).await.map_err(|error| Failure::read(&error))?;
            output::note(format!("bucket {} is there with settings of its own", args.bucket));
            Ok(found.get("conflict").and_then(|mode| mode.as_str()) == Some("siblings"))
        }
        Err(error) => Err(Failure::write(&error)),
    }
}

/// True if the first and the last record are there with values of this size.
async fn is_loaded(client: &Client, args: &BenchArgs, keys: &Keys) -> Result<bool, Failure> {
    let options = ReadOptions::default();
    for index in [0, args.records / 2, args.records - 1] {
        let mut key = Vec::new();
        keys.write(index, &mut key);
        let found = client
            .get(&args.bucket, &key, &options)
            .await
            .map_err(|error| Failure::read(&error))?;
        match found.value {
            FoundValue::One(stored) if stored.value.len() as u64 == args.value_size => {}
            _ => return Ok(false),
        }
    }
    Ok(true)
}

/// Places where scans can start.
async fn cursors(client: &Client, bucket: &str) -> Result<Vec<String>, Failure> {
    const PLACES: usize = 500;
    let mut options = ListOptions { limit: Some(100), ..ListOptions::default() };
    let mut cursors = Vec::new();
    while cursors.len() < PLACES {
        let page = client.list(bucket, &options).await.map_err(|error| Failure::read(&error))?;
        let Some(next) = page.next else { break };
        cursors.push(next.clone());
        options.start = Some(next);
    }
    Ok(cursors)
}
