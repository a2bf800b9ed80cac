//! `henge verify`: is what a file says what the cluster holds?
#![allow(
    clippy::disallowed_methods,
    reason = "a command lives outside of the simulated node, on the real clock and runtime"
)]

use std::cell::{Cell, RefCell};
use std::sync::atomic::Ordering;
use std::time::Duration;

use clap::Args;
use futures_util::future::try_join_all;
use tokio::sync::{Mutex, mpsc};

use super::progress::{Progress, grouped, rate};
use super::rows::{self, FileArgs, Numbered, Row};
use crate::cli::args::{ClientArgs, ReadArgs};
use crate::cli::exit::{Exit, Failure};
use crate::cli::output;
use crate::client::{Client, FoundValue, ReadOptions, key_text};

/// Differences that are listed; the rest is only counted.
const LISTED: usize = 20;

/// Arguments of `henge verify`.
#[derive(Debug, Clone, Args)]
pub struct VerifyArgs {
    #[command(flatten)]
    pub file: FileArgs,
    #[command(flatten)]
    pub read: ReadArgs,
}

/// What a comparison came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Verified {
    /// Rows compared.
    pub rows: u64,
    /// Rows that the cluster holds as they are.
    pub same: u64,
    /// Rows whose key has no value.
    pub missing: u64,
    /// Rows whose key has another value.
    pub changed: u64,
    /// Rows whose key has several values.
    pub siblings: u64,
    /// Rows of the file that cannot be rows.
    pub unreadable: u64,
    /// The first differences.
    pub differences: Vec<String>,
    /// Milliseconds.
    pub ms: u64,
    /// Rows compared per second.
    pub rows_per_s: u64,
}

impl Verified {
    /// True if every row is there as it is.
    pub fn is_clean(&self) -> bool {
        self.same == self.rows
    }
}

/// `henge verify`.
pub async fn verify(client: &ClientArgs, args: VerifyArgs) -> Result<(), Failure> {
    let json = client.json;
    let client = client.client()?;
    let done = verify_rows(&client, &args.file, args.read.options()).await?;
    if json {
        output::json(&done)?;
    } else {
        print(&done)?;
    }
    if done.is_clean() {
        return Ok(());
    }
    let differing = grouped(done.rows - done.same);
    Err(Failure::new(Exit::Partial, format!("{differing} rows differ")))
}

/// Prints what a comparison came to.
pub fn print(done: &Verified) -> Result<(), Failure> {
    for difference in &done.differences {
        output::line(difference)?;
    }
    output::line(format!(
        "compared {} rows in {:.1} s ({} rows/s): {} missing, {} changed, {} with siblings",
        grouped(done.rows),
        done.ms as f64 / 1e3,
        grouped(done.rows_per_s),
        grouped(done.missing),
        grouped(done.changed),
        grouped(done.siblings)
    ))
}

/// Compares every row of the file with the cluster, showing progress on stderr.
pub async fn verify_rows(
    client: &Client,
    file: &FileArgs,
    options: ReadOptions,
) -> Result<Verified, Failure> {
    let rows = rows::open(file, 0)?;
    let run = Run {
        client: client.clone().with_patience(file.patience),
        bucket: &file.bucket,
        options,
        rows: Mutex::new(rows.rows),
        found: RefCell::default(),
        count: Cell::new(0),
    };
    let mut progress = Progress::new("verify", Some(rows.length));
    let workers = try_join_all((0..file.concurrency).map(|_| run.work()));
    tokio::pin!(workers);
    let ended = loop {
        tokio::select! {
            biased;
            result = &mut workers => break result,
            _ = tokio::signal::ctrl_c() => break Err(Failure::new(Exit::Interrupted, "interrupted")),
            () = tokio::time::sleep(Duration::from_millis(500)) => {
                progress.show(run.count.get(), rows.position.load(Ordering::Relaxed), "");
            }
        }
    };
    progress.end();
    ended?;
    let mut found = run.found.take();
    found.rows = run.count.get();
    found.ms = u64::try_from(progress.elapsed().as_millis()).unwrap_or(u64::MAX);
    found.rows_per_s = rate(found.rows, progress.elapsed());
    Ok(found)
}

struct Run<'a> {
    client: Client,
    bucket: &'a str,
    options: ReadOptions,
    rows: Mutex<mpsc::Receiver<Result<Numbered, String>>>,
    found: RefCell<Verified>,
    count: Cell<u64>,
}

impl Run<'_> {
    async fn work(&self) -> Result<(), Failure> {
        loop {
            let next = self.rows.lock().await.recv().await;
            let Numbered { number, row } = match next {
                None => return Ok(()),
                Some(Err(message)) => return Err(Failure::usage(message)),
                Some(Ok(numbered)) => numbered,
            };
            match row {
                Ok(row) => self.compare(number, &row).await?,
                Err(reason) => {
                    self.found.borrow_mut().unreadable += 1;
                    self.differs(number, &reason, b"");
                }
            }
            self.count.set(self.count.get() + 1);
        }
    }

    async fn compare(&self, number: u64, row: &Row) -> Result<(), Failure> {
        let found = self
            .client
            .get(self.bucket, &row.key, &self.options)
            .await
            .map_err(|error| Failure::read(&error))?;
        match found.value {
            FoundValue::One(stored) if stored.value == row.value => {
                self.found.borrow_mut().same += 1;
            }
            FoundValue::One(_) => {
                self.found.borrow_mut().changed += 1;
                self.differs(number, "changed", &row.key);
            }
            FoundValue::Absent => {
                self.found.borrow_mut().missing += 1;
                self.differs(number, "missing", &row.key);
            }
            FoundValue::Siblings(siblings) => {
                self.found.borrow_mut().siblings += 1;
                self.differs(number, &format!("{} values", siblings.len()), &row.key);
            }
        }
        Ok(())
    }

    fn differs(&self, number: u64, how: &str, key: &[u8]) {
        let mut found = self.found.borrow_mut();
        if found.differences.len() < LISTED {
            found.differences.push(format!("row {}: {how}: {}", number + 1, key_text(key)));
        }
    }
}
