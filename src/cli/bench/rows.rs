//! The same workloads over CQL: rows of one value, prepared statements.
#![allow(
    clippy::disallowed_methods,
    reason = "a command lives outside of the simulated node, on the real clock and threads"
)]

use std::io;
use std::time::Duration;

use super::runner::Job;
use super::wire::Answer;
use super::workload::{Keys, Workload};
use super::{BenchArgs, measure};
use crate::cli::exit::{Exit, Failure};
use crate::client::{CqlConnection, CqlFailure, CqlPipe, CqlResult, Credentials, PreparedId};

/// The protocol's code of "too much to do".
const OVERLOADED: i32 = 0x1001;

const KEYSPACE: &str = "bench";

/// `henge bench --cql`.
pub async fn bench(
    args: BenchArgs,
    credentials: Option<Credentials>,
    json: bool,
) -> Result<(), Failure> {
    let level = match args.level.as_deref().map(str::to_ascii_lowercase).as_deref() {
        None | Some("quorum") => 4,
        Some("one") => 1,
        Some("two") => 2,
        Some("three") => 3,
        Some("all") => 5,
        Some("local-quorum" | "local_quorum") => 6,
        Some("local-one" | "local_one") => 10,
        Some(other) => return Err(Failure::usage(format!("no level of CQL is called {other}"))),
    };
    if args.rate.is_some() && args.per_connection > 1 {
        return Err(Failure::usage("--rate needs a connection for each client"));
    }
    if matches!(args.workload, Workload::E | Workload::F | Workload::Create | Workload::Cas) {
        return Err(Failure::usage("over CQL there are the workloads a, b, c, d, read and insert"));
    }
    let name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if args.bucket.is_empty() || !args.bucket.chars().all(name) {
        return Err(Failure::usage("over CQL --bucket is a table: a to z, 0 to 9 and _"));
    }
    let failed = |error: CqlFailure| Failure::new(Exit::Failure, error.to_string());
    let open = CqlConnection::open_as(&args.cql[0], credentials.as_ref());
    let mut client = open.await.map_err(failed)?;
    let factor = args.replication_factor.unwrap_or(u32::try_from(args.cql.len()).unwrap_or(1));
    let table = format!("{KEYSPACE}.{}", args.bucket);
    for text in [
        format!(
            "CREATE KEYSPACE IF NOT EXISTS {KEYSPACE} WITH replication = \
             {{'class': 'SimpleStrategy', 'replication_factor': {}}}",
            factor.min(3)
        ),
        format!("CREATE TABLE IF NOT EXISTS {table} (k blob PRIMARY KEY, v blob)"),
    ] {
        client.query(&text).await.map_err(failed)?;
    }
    let keys = Keys::new(args.records, args.seed);
    let select = client.prepare(&select(&args.bucket)).await.map_err(failed)?;
    let mut loaded = !args.reload;
    for index in [0, args.records / 2, args.records - 1] {
        let mut key = Vec::new();
        keys.write(index, &mut key);
        let found = client.execute(&select, level, &[&key[..]]).await.map_err(failed)?;
        loaded &= found.rows == 1;
    }
    let job = Job {
        authorities: args.cql.clone(),
        args,
        keys,
        cursors: Vec::new(),
        read_first: false,
        level: Some(level),
        credentials,
    };
    measure(&job, loaded, json).await
}

fn select(table: &str) -> String {
    format!("SELECT v FROM {KEYSPACE}.{table} WHERE k = ?")
}

/// A connection with its statements.
#[derive(Debug)]
pub struct Connection {
    inner: CqlConnection,
    select: PreparedId,
    insert: PreparedId,
}

fn other(error: CqlFailure) -> io::Error {
    match error {
        CqlFailure::Io(error) => error,
        refused @ CqlFailure::Refused { .. } => io::Error::other(refused.to_string()),
    }
}

impl Connection {
    /// Connects and prepares. `lwt`: inserts are conditional.
    pub async fn open(
        authority: &str,
        credentials: Option<&Credentials>,
        table: &str,
        lwt: bool,
    ) -> io::Result<Self> {
        let mut inner = CqlConnection::open_as(authority, credentials).await.map_err(other)?;
        let select = inner.prepare(&select(table)).await.map_err(other)?;
        let condition = if lwt { " IF NOT EXISTS" } else { "" };
        let insert = format!("INSERT INTO {KEYSPACE}.{table} (k, v) VALUES (?, ?){condition}");
        let insert = inner.prepare(&insert).await.map_err(other)?;
        Ok(Self { inner, select, insert })
    }

    /// Reads a row, or writes one, and tells it as the HTTP door would.
    pub async fn exchange(
        &mut self,
        level: u16,
        key: &[u8],
        value: Option<&[u8]>,
    ) -> io::Result<Answer> {
        let done = match value {
            None => self.inner.execute(&self.select, level, &[key]).await,
            Some(value) => self.inner.execute(&self.insert, level, &[key, value]).await,
        };
        answer(done, value.is_none())
    }

    /// Many requests at a time from now on.
    pub fn into_pipe(self) -> Pipe {
        Pipe { inner: self.inner.into_pipe(), select: self.select, insert: self.insert }
    }
}

/// A connection with many requests under way, each on a stream of its own.
#[derive(Debug)]
pub struct Pipe {
    inner: CqlPipe,
    select: PreparedId,
    insert: PreparedId,
}

impl Pipe {
    /// Puts a read, or a write, on `stream`. It goes out before the next answers are waited for.
    pub fn put(&mut self, stream: i16, level: u16, key: &[u8], value: Option<&[u8]>) {
        match value {
            None => self.inner.put(stream, &self.select, level, &[key]),
            Some(value) => self.inner.put(stream, &self.insert, level, &[key, value]),
        }
    }

    /// Sends what was put, and waits until something has come.
    pub async fn turn(&mut self, patience: Duration) -> io::Result<()> {
        self.inner.flush().await?;
        tokio::time::timeout(patience, self.inner.fill()).await?
    }

    /// The next answer that is here, and its stream. `reads`: whether a stream carries a read.
    pub fn next(&mut self, reads: impl Fn(i16) -> bool) -> io::Result<Option<(i16, Answer)>> {
        match self.inner.take_answer().map_err(other)? {
            Some((stream, done)) => Ok(Some((stream, answer(done, reads(stream))?))),
            None => Ok(None),
        }
    }
}

/// What became of a request, as the HTTP door would tell it.
fn answer(done: Result<CqlResult, CqlFailure>, reads: bool) -> io::Result<Answer> {
    let (status, problem) = match done {
        Ok(result) if reads && result.rows == 0 => (404, None),
        Ok(_) => (200, None),
        Err(CqlFailure::Refused { code, message }) => {
            // The runner tells problems by the end of their type.
            let name = if code == OVERLOADED { "overloaded" } else { "refused" };
            let status = if code == OVERLOADED { 503 } else { 500 };
            (status, Some(format!("/problems/{name}\" {message} (code {code:#06x})")))
        }
        Err(CqlFailure::Io(error)) => return Err(error),
    };
    Ok(Answer { status, kept: None, problem, closes: false })
}
