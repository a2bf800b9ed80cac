//! COPY FROM: batches over several connections, each sent again until it is answered.
//!
//! An INSERT may run twice and change nothing, so a batch whose answer was lost, with its node or
//! its connection, is sent again, to another node. A batch that the server finds fault with is
//! sent again row by row, so that only the rows at fault are refused: they go to a file of their
//! own, as they were and below the same head, to be mended and copied by the same command. When no
//! row can be written any more, the copy ends: it may be run again.

use std::cell::RefCell;
use std::time::Duration;

use super::source::{Line, Refused, Source};
use super::{Copy, Options};
use crate::cli::cql::nodes::Nodes;
use crate::cli::transfer::progress::{Progress, grouped, rate};
use crate::client::{CqlColumn, CqlConnection, CqlFailure, CqlRow};
use crate::cql::types::{CqlType, quote};

/// The longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// What became of a copy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Copied {
    /// Rows written or read.
    pub rows: u64,
    /// Rows refused.
    pub refused: u64,
}

/// Rows that were refused, in a file that exists only if there are any.
struct Errors {
    path: String,
    delimiter: u8,
    /// The first line of the file that is copied, if it names the columns.
    head: Option<csv::StringRecord>,
    out: Option<csv::Writer<std::fs::File>>,
    count: u64,
    shown: u64,
}

impl Errors {
    fn put(&mut self, refused: &Refused) -> Result<(), String> {
        let failed = |path: &str, error: &dyn std::fmt::Display| format!("{path}: {error}");
        let out = match &mut self.out {
            Some(out) => out,
            None => {
                let file = std::fs::File::create(&self.path);
                let file = file.map_err(|error| failed(&self.path, &error))?;
                let mut builder = csv::WriterBuilder::new();
                builder.flexible(true).delimiter(self.delimiter);
                let out = self.out.insert(builder.from_writer(file));
                if let Some(head) = &self.head {
                    out.write_record(head).map_err(|error| failed(&self.path, &error))?;
                }
                out
            }
        };
        out.write_record(&refused.fields).map_err(|error| failed(&self.path, &error))?;
        self.count += 1;
        // The first ones say enough of what is wrong.
        if self.shown < 10 {
            self.shown += 1;
            crate::cli::output::note(format!("row {}: {}", refused.number, refused.why));
        }
        Ok(())
    }
}

/// What the workers of one copy share.
struct Work<'a> {
    source: RefCell<Source>,
    errors: RefCell<Errors>,
    progress: RefCell<Progress>,
    rows: RefCell<u64>,
    nodes: &'a Nodes,
    insert: String,
    level: u16,
    options: &'a Options,
}

/// Copies a file into `keyspace.table`, whose `columns` these are.
///
/// # Errors
/// Why it ended before the end of the file. Rows that were refused are no error.
pub async fn run(
    nodes: &Nodes,
    keyspace: &str,
    copy: &Copy,
    columns: Vec<CqlColumn>,
    level: u16,
) -> Result<Copied, String> {
    if columns.iter().any(|column| column.kind == CqlType::Counter) {
        return Err("a table of counters cannot be copied into: a counter can only be added to, \
                    and a batch that is sent again would add twice"
            .to_owned());
    }
    let names: Vec<String> = columns.iter().map(|column| quote(&column.name)).collect();
    let marks = vec!["?"; names.len()].join(", ");
    let table = format!("{}.{}", quote(keyspace), quote(&copy.table));
    let insert = format!("INSERT INTO {table} ({}) VALUES ({marks})", names.join(", "));
    let mut source = Source::open(copy.file.as_deref(), columns, &copy.options)?;
    let errors = Errors {
        path: copy
            .options
            .errors
            .clone()
            .unwrap_or_else(|| format!("{keyspace}.{}.refused.csv", copy.table)),
        delimiter: copy.options.delimiter,
        head: source.head(),
        out: None,
        count: 0,
        shown: 0,
    };
    let plain = copy.file.as_deref().filter(|path| !path.ends_with(".gz"));
    let length = plain.and_then(|path| std::fs::metadata(path).ok()).map(|file| file.len());
    let work = Work {
        source: RefCell::new(source),
        errors: RefCell::new(errors),
        progress: RefCell::new(Progress::new("copying", length)),
        rows: RefCell::new(0),
        nodes,
        insert,
        level,
        options: &copy.options,
    };
    let workers = (0..copy.options.parallel).map(|at| worker(&work, at));
    let ended = futures_util::future::try_join_all(workers).await;
    work.progress.borrow().end();
    let copied = Copied { rows: *work.rows.borrow(), refused: work.errors.borrow().count };
    let time = work.progress.borrow().elapsed();
    let mut errors = work.errors.borrow_mut();
    if let Some(out) = &mut errors.out {
        out.flush().map_err(|error| format!("{}: {error}", errors.path))?;
        crate::cli::output::note(format!("Refused rows: {}", errors.path));
    }
    ended?;
    crate::cli::output::note(format!(
        "{} rows written in {:.1} s ({}/s)",
        grouped(copied.rows),
        time.as_secs_f64(),
        grouped(rate(copied.rows, time))
    ));
    Ok(copied)
}

async fn worker(work: &Work<'_>, at: usize) -> Result<(), String> {
    let mut link = Link { nodes: work.nodes, at, open: None };
    loop {
        let (lines, refused) = work.source.borrow_mut().next_batch(work.options.batch)?;
        if lines.is_empty() && refused.is_empty() {
            return Ok(());
        }
        for one in &refused {
            work.refuse(one)?;
        }
        work.write(&mut link, lines).await?;
        let (rows, position) = (*work.rows.borrow(), work.source.borrow().position());
        work.progress.borrow_mut().show(rows, position, "");
    }
}

impl Work<'_> {
    fn refuse(&self, refused: &Refused) -> Result<(), String> {
        let mut errors = self.errors.borrow_mut();
        errors.put(refused)?;
        if errors.count > self.options.refused {
            return Err(format!("more than {} rows are refused", self.options.refused));
        }
        Ok(())
    }

    async fn write(&self, link: &mut Link<'_>, lines: Vec<Line>) -> Result<(), String> {
        if lines.is_empty() {
            return Ok(());
        }
        let many = lines.len() > 1;
        if many {
            let rows: Vec<CqlRow> = lines.iter().map(|line| line.row.clone()).collect();
            if self.send(link, &rows).await.is_ok() {
                *self.rows.borrow_mut() += lines.len() as u64;
                return Ok(());
            }
        }
        for Line { number, fields, row } in lines {
            let before = *self.rows.borrow();
            let why = match self.send(link, std::slice::from_ref(&row)).await {
                Ok(()) => {
                    *self.rows.borrow_mut() += 1;
                    continue;
                }
                // It is not this row: nobody has written anything in all that time.
                Err(Unsent::NoAnswer(why)) if *self.rows.borrow() == before => {
                    return Err(format!(
                        "row {number} cannot be written, and no other one can: {why}. COPY may be \
                         run again: a row that is written twice is one row"
                    ));
                }
                Err(Unsent::NoAnswer(why) | Unsent::Refused(why)) => why,
            };
            self.refuse(&Refused { number, fields, why })?;
        }
        Ok(())
    }

    /// Sends rows until there is an answer.
    async fn send(&self, link: &mut Link<'_>, rows: &[CqlRow]) -> Result<(), Unsent> {
        let mut last = String::new();
        for attempt in 0..self.options.attempts {
            if attempt > 0 {
                pause(attempt).await;
            }
            let done = async {
                let (connection, id) = link.open(&self.insert).await?;
                connection.batch(UNLOGGED, id, rows, self.level).await
            };
            match done.await {
                Ok(_) => return Ok(()),
                Err(CqlFailure::Refused { code, message }) if is_final(code) => {
                    return Err(Unsent::Refused(message));
                }
                Err(failure) => {
                    last = failure.to_string();
                    // Another node, or the same statement prepared anew.
                    link.next();
                }
            }
        }
        let attempts = self.options.attempts;
        Err(Unsent::NoAnswer(format!("given up after {attempts} attempts: {last}")))
    }
}

/// Why rows are not known to be written.
enum Unsent {
    /// The server finds this wrong with them, and will always.
    Refused(String),
    /// Nobody has answered well.
    NoAnswer(String),
}

/// An unlogged batch: rows of several partitions need not be atomic.
const UNLOGGED: u8 = 1;

/// True of an error that the same request meets again.
pub(super) fn is_final(code: i32) -> bool {
    matches!(code, 0x000A | 0x0100 | 0x2000 | 0x2100 | 0x2200 | 0x2300 | 0x2400)
}

/// A little longer each time.
#[allow(clippy::disallowed_methods, reason = "a command lives on the real clock")]
pub(super) async fn pause(attempt: u32) {
    tokio::time::sleep((Duration::from_millis(50) * attempt).min(LONGEST_PAUSE)).await;
}

/// One connection, opened when it is needed, to one of the nodes in turn.
struct Link<'a> {
    nodes: &'a Nodes,
    at: usize,
    open: Option<(CqlConnection, Vec<u8>)>,
}

impl Link<'_> {
    async fn open(&mut self, insert: &str) -> Result<(&mut CqlConnection, &[u8]), CqlFailure> {
        if self.open.is_none() {
            let mut connection = self.nodes.open(self.at).await?;
            let prepared = connection.prepare_whole(insert).await?;
            self.open = Some((connection, prepared.id));
        }
        match &mut self.open {
            Some((connection, id)) => Ok((connection, id)),
            None => Err(std::io::Error::from(std::io::ErrorKind::NotConnected).into()),
        }
    }

    fn next(&mut self) {
        self.open = None;
        self.at += 1;
    }
}
