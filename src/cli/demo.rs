//! `henge demo flights`: the main job on real data, with a node killed in the middle of it.
//!
//! Three nodes run as processes of their own. All flights are imported at W=2 while one node is
//! killed (`kill -9`) when a third of them is through and started again after two thirds. Then
//! every key is read at R=2 and compared with the file: nothing may be missing or changed.
#![allow(
    clippy::disallowed_methods,
    reason = "a command lives outside of the simulated node, on the real clock and runtime"
)]

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::{Args, Subcommand};

use super::args::{ClientArgs, WriteArgs};
use super::exit::{Exit, Failure};
use super::local::{Layout, LocalCluster, LocalError};
use super::output;
use super::transfer::{self, FileArgs, ImportArgs, Imported, Verified};
use crate::client::{Client, ReadOptions};
use crate::config::Config;

/// The node that is killed, counted from 0.
const VICTIM: usize = 1;

/// Arguments of `henge demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    #[command(subcommand)]
    pub demo: Demo,
}

/// What to show.
#[derive(Debug, Subcommand)]
pub enum Demo {
    /// Import flights into three processes while one is killed, then compare every row.
    Flights(FlightsArgs),
}

/// Arguments of `henge demo flights`.
#[derive(Debug, Args)]
pub struct FlightsArgs {
    /// The flights, CSV, with columns time_hour, carrier, flight and origin; `.gz` is fine.
    #[arg(long, value_name = "FILE")]
    pub file: PathBuf,
    /// Where nodes keep their data and logs; without it, a directory that is removed at the end.
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Requests under way at once.
    #[arg(long, default_value_t = 64)]
    pub concurrency: u32,
    /// Only this many rows.
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,
    /// Leave all nodes alive.
    #[arg(long)]
    pub no_kill: bool,
}

/// What the demo came to.
#[derive(Debug, serde::Serialize)]
struct Shown {
    imported: Imported,
    verified: Verified,
    killed: bool,
}

/// `henge demo`.
pub async fn demo(client: &ClientArgs, args: DemoArgs) -> Result<(), Failure> {
    let Demo::Flights(args) = args.demo;
    let (directory, kept) = match &args.data {
        Some(path) => (path.clone(), true),
        None => {
            let name = format!("henge-demo-{}", Client::new_op_id());
            (std::env::temp_dir().join(name), false)
        }
    };
    let result = flights(client.json, &args, &directory).await;
    if result.is_err() {
        output::note(format!("logs and data stay in {}", directory.display()));
    } else if !kept {
        drop(std::fs::remove_dir_all(&directory));
    }
    result
}

fn local(error: LocalError) -> Failure {
    Failure::new(Exit::Failure, error.0)
}

async fn flights(json: bool, args: &FlightsArgs, directory: &Path) -> Result<(), Failure> {
    let file = file_args(args);
    let total = count_rows(&file).await?;
    let program = std::env::current_exe()?;
    let mut base = Config::default();
    base.cluster.name = "demo".to_owned();
    let layout = Layout::usual(3).map_err(Failure::usage)?;
    output::note(format!("starting three nodes: {}", layout.urls().join(", ")));
    let mut cluster = LocalCluster::start(&program, &base, layout, directory).map_err(local)?;
    cluster.wait_ready().await.map_err(local)?;
    let client = cluster.client().map_err(|error| Failure::read(&error))?;

    let imported = import(&client, args, &file, total, &mut cluster, directory).await?;
    cluster.wait_ready().await.map_err(local)?;
    output::note(format!("reading {total} keys at R=2 and comparing"));
    let options = ReadOptions { r: Some(2), ..ReadOptions::default() };
    let verified = transfer::verify_rows(&client, &file, options).await?;
    let clean = verified.is_clean() && verified.rows == total && imported.refused == 0;
    let shown = Shown { imported, verified, killed: !args.no_kill };
    if json {
        output::json(&shown)?;
    } else {
        transfer::print(&shown.verified)?;
        output::line(format!(
            "written: {} rows, {} rows/s; read: {} rows, {} rows/s",
            shown.imported.rows,
            shown.imported.rows_per_s,
            shown.verified.rows,
            shown.verified.rows_per_s
        ))?;
    }
    if clean {
        return if json { Ok(()) } else { output::line("nothing missing, nothing changed") };
    }
    Err(Failure::new(Exit::Partial, "the cluster does not hold what the file says"))
}

fn file_args(args: &FlightsArgs) -> FileArgs {
    FileArgs {
        file: args.file.clone(),
        bucket: "flights".to_owned(),
        format: None,
        key_template: Some("{time_hour}/{carrier}/{flight}/{origin}".to_owned()),
        key_columns: Vec::new(),
        concurrency: args.concurrency,
        limit: args.limit,
        patience: Duration::from_secs(60),
    }
}

async fn count_rows(file: &FileArgs) -> Result<u64, Failure> {
    let mut rows = transfer::open(file, 0)?;
    let mut count = 0;
    while let Some(row) = rows.rows.recv().await {
        row.map_err(Failure::usage)?;
        count += 1;
    }
    Ok(count)
}

async fn import(
    client: &Client,
    args: &FlightsArgs,
    file: &FileArgs,
    total: u64,
    cluster: &mut LocalCluster,
    directory: &Path,
) -> Result<Imported, Failure> {
    let import = ImportArgs {
        file: file.clone(),
        write: WriteArgs { w: Some(2), ..WriteArgs::default() },
        resume_file: None,
        rejects: directory.join("refused-rows.ndjson"),
        no_create: false,
    };
    output::note(format!("importing {total} flights at W=2"));
    let (written, over) = (AtomicU64::new(0), Cell::new(false));
    let work = transfer::import_counted(client, &import, &written);
    let harm = async {
        if args.no_kill {
            return Ok(());
        }
        reach(total / 3, &written, &over).await;
        cluster.kill(VICTIM)?;
        let at = written.load(Ordering::Relaxed);
        output::note(format!("killed node {} (kill -9) after {at} rows", VICTIM + 1));
        reach(total * 2 / 3, &written, &over).await;
        cluster.start_node(VICTIM)?;
        let at = written.load(Ordering::Relaxed);
        output::note(format!("started node {} again after {at} rows", VICTIM + 1));
        Ok::<_, LocalError>(())
    };
    tokio::pin!(work, harm);
    let imported = tokio::select! {
        biased;
        imported = &mut work => {
            over.set(true);
            harm.await.map_err(local)?;
            imported?
        }
        harmed = &mut harm => {
            harmed.map_err(local)?;
            work.await?
        }
    };
    Ok(imported)
}

/// Waits until `count` rows are written, or the import is over.
async fn reach(count: u64, written: &AtomicU64, over: &Cell<bool>) {
    while written.load(Ordering::Relaxed) < count && !over.get() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
