//! `henge import`.
#![allow(
    clippy::disallowed_methods,
    reason = "a command lives outside of the simulated node, on the real clock and runtime"
)]

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::Args;
use futures_util::future::try_join_all;
use tokio::sync::{Mutex, mpsc};

use super::checkpoint::Checkpoint;
use super::progress::{Progress, grouped, rate};
use super::rows::{self, FileArgs, Numbered, Row};
use crate::cli::args::{ClientArgs, WriteArgs};
use crate::cli::exit::{Exit, Failure};
use crate::cli::output;
use crate::client::{BucketSettings, Client, ClientError, OpMode, encode_text};

/// Time between two updates of progress and checkpoint.
const TICK: Duration = Duration::from_millis(500);

/// Arguments of `henge import`.
#[derive(Debug, Clone, Args)]
pub struct ImportArgs {
    #[command(flatten)]
    pub file: FileArgs,
    #[command(flatten)]
    pub write: WriteArgs,
    /// Remember in this file how far the import has come: the same command again goes on there.
    #[arg(long, value_name = "FILE")]
    pub resume_file: Option<PathBuf>,
    /// Where refused rows go, with the reason; made when there is the first.
    #[arg(long, value_name = "FILE", default_value = "henge-refused-rows.ndjson")]
    pub rejects: PathBuf,
    /// Do not create the bucket where it does not exist.
    #[arg(long)]
    pub no_create: bool,
}

/// What an import came to.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Imported {
    /// Rows written now.
    pub rows: u64,
    /// Rows that an earlier run had done.
    pub skipped: u64,
    /// Rows refused for good.
    pub refused: u64,
    /// Rows whose key now has several values.
    pub siblings: u64,
    /// Bytes of values written.
    pub bytes: u64,
    /// Milliseconds.
    pub ms: u64,
    /// Rows written per second.
    pub rows_per_s: u64,
}

/// `henge import`.
pub async fn import(client: &ClientArgs, args: ImportArgs) -> Result<(), Failure> {
    let json = client.json;
    let client = client.client()?;
    let done = import_counted(&client, &args, &AtomicU64::new(0)).await?;
    if json {
        output::json(&done)?;
    } else {
        output::line(format!(
            "imported {} rows into {} in {:.1} s: {} rows/s",
            grouped(done.rows),
            args.file.bucket,
            done.ms as f64 / 1e3,
            grouped(done.rows_per_s)
        ))?;
        if done.skipped > 0 {
            output::line(format!("{} rows were done before", grouped(done.skipped)))?;
        }
        if done.siblings > 0 {
            output::line(format!(
                "{} rows met another value at their key: both are kept (henge ls {} --conflicts)",
                grouped(done.siblings),
                args.file.bucket
            ))?;
        }
    }
    if done.refused == 0 {
        return Ok(());
    }
    let place = args.rejects.display();
    Err(Failure::new(
        Exit::Partial,
        format!("{} rows were refused: see {place}", grouped(done.refused)),
    ))
}

/// Imports the file, showing progress on stderr.
/// `written` counts the rows as they are acknowledged.
pub async fn import_counted(
    client: &Client,
    args: &ImportArgs,
    written: &AtomicU64,
) -> Result<Imported, Failure> {
    let client = client.clone().with_patience(args.file.patience);
    if !args.no_create {
        create_bucket(&client, &args.file.bucket).await?;
    }
    let checkpoint = Checkpoint::open(&args.file, args.resume_file.as_deref())?;
    let skipped = checkpoint.import().rows_done();
    let rows = rows::open(&args.file, skipped)?;
    let (position, length) = (rows.position.clone(), rows.length);
    let run = Run {
        client,
        args,
        rows: Mutex::new(rows.rows),
        checkpoint: RefCell::new(checkpoint),
        rejects: RefCell::new(None),
        written,
        refused: Cell::new(0),
        siblings: Cell::new(0),
        bytes: Cell::new(0),
    };
    let mut progress = Progress::new("import", Some(length));
    let workers = try_join_all((0..args.file.concurrency).map(|_| run.work()));
    tokio::pin!(workers);
    let ended: Result<(), Failure> = loop {
        tokio::select! {
            biased;
            result = &mut workers => break result.map(|_| ()),
            _ = tokio::signal::ctrl_c() => break Err(Failure::new(Exit::Interrupted, "interrupted")),
            () = tokio::time::sleep(TICK) => {
                run.checkpoint.borrow_mut().save()?;
                let extra = match run.refused.get() {
                    0 => String::new(),
                    count => format!(", {} refused", grouped(count)),
                };
                let read = position.load(Ordering::Relaxed);
                progress.show(written.load(Ordering::Relaxed), read, &extra);
            }
        }
    };
    progress.end();
    let time = progress.elapsed();
    let mut checkpoint = run.checkpoint.borrow_mut();
    checkpoint.save()?;
    if let Err(failure) = ended {
        let so_far = grouped(written.load(Ordering::Relaxed));
        output::note(if checkpoint.is_kept() {
            format!("{so_far} rows were written; the same command again goes on from there")
        } else {
            format!("{so_far} rows were written; with --resume-file an import can be continued")
        });
        return Err(failure);
    }
    checkpoint.finish()?;
    Ok(Imported {
        rows: written.load(Ordering::Relaxed),
        skipped,
        refused: run.refused.get(),
        siblings: run.siblings.get(),
        bytes: run.bytes.get(),
        ms: u64::try_from(time.as_millis()).unwrap_or(u64::MAX),
        rows_per_s: rate(written.load(Ordering::Relaxed), time),
    })
}

/// Creates `bucket` with the defaults unless it is there, with whatever settings.
async fn create_bucket(client: &Client, bucket: &str) -> Result<(), Failure> {
    match client.create_bucket(bucket, &BucketSettings::default()).await {
        Ok(_) => Ok(()),
        Err(error) if error.problem().is_some_and(|problem| problem.status == 409) => Ok(()),
        Err(error) => Err(Failure::write(&error)),
    }
}

/// What the workers of one import share. One thread: cells are enough.
struct Run<'a> {
    client: Client,
    args: &'a ImportArgs,
    rows: Mutex<mpsc::Receiver<Result<Numbered, String>>>,
    checkpoint: RefCell<Checkpoint>,
    rejects: RefCell<Option<File>>,
    written: &'a AtomicU64,
    refused: Cell<u64>,
    siblings: Cell<u64>,
    bytes: Cell<u64>,
}

fn add(cell: &Cell<u64>, more: u64) {
    cell.set(cell.get() + more);
}

impl Run<'_> {
    /// Carries rows until there are no more. An error stops the whole import.
    async fn work(&self) -> Result<(), Failure> {
        loop {
            let next = self.rows.lock().await.recv().await;
            let numbered = match next {
                None => return Ok(()),
                Some(Err(message)) => return Err(Failure::usage(message)),
                Some(Ok(numbered)) => numbered,
            };
            match &numbered.row {
                Err(reason) => self.reject(numbered.number, None, reason, None)?,
                Ok(row) => self.write(numbered.number, row).await?,
            }
            self.checkpoint.borrow_mut().row_done(numbered.number);
        }
    }

    /// Writes one row. What the cluster refuses for good is set aside; what it could not do for
    /// lack of replicas, after all patience, stops the import: the next row would fare no better.
    async fn write(&self, number: u64, row: &Row) -> Result<(), Failure> {
        let mut options = self.args.write.options();
        options.content_type.clone_from(&row.content_type);
        options.op = OpMode::Given(self.checkpoint.borrow().import().op_id(number));
        let bucket = &self.args.file.bucket;
        match self.client.put(bucket, &row.key, row.value.clone(), &options).await {
            Ok(written) => {
                self.written.fetch_add(1, Ordering::Relaxed);
                add(&self.bytes, row.value.len() as u64);
                add(&self.siblings, u64::from(written.siblings.is_some_and(|count| count > 1)));
                Ok(())
            }
            Err(error) if is_fatal(&error) => Err(Failure::write(&error)),
            Err(error) => {
                let outcome = Some(error.outcome().to_string());
                self.reject(number, Some(row), &error.to_string(), outcome)
            }
        }
    }

    fn reject(
        &self,
        number: u64,
        row: Option<&Row>,
        reason: &str,
        outcome: Option<String>,
    ) -> Result<(), Failure> {
        add(&self.refused, 1);
        let text = |bytes: &[u8]| encode_text(bytes).0;
        let line = serde_json::json!({
            "row": number + 1,
            "reason": reason,
            "outcome": outcome.as_deref().unwrap_or("not_applied"),
            "key": row.map(|row| text(&row.key)),
            "value": row.map(|row| text(&row.value)),
        });
        let mut rejects = self.rejects.borrow_mut();
        let file = match rejects.as_mut() {
            Some(file) => file,
            None => rejects.insert(File::create(&self.args.rejects).map_err(|error| {
                let place = self.args.rejects.display();
                Failure::usage(format!("cannot write refused rows to {place}: {error}"))
            })?),
        };
        writeln!(file, "{line}")?;
        Ok(())
    }
}

/// True if no other row would fare better.
fn is_fatal(error: &ClientError) -> bool {
    let name = error.problem().map(|problem| problem.name.as_str());
    error.is_transient() || matches!(name, Some("bucket-not-found" | "disk-full"))
}
