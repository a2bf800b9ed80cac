//! Threads and clients.
#![allow(
    clippy::disallowed_methods,
    reason = "a command lives outside of the simulated node, on the real clock and threads"
)]

mod pipeline;

use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use super::BenchArgs;
use super::chooser::{Chooser, Random, mix};
use super::etcd;
use super::report::{Report, Stats, cpu_time};
use super::rows;
use super::wire::{Answer, Connection, Want};
use super::workload::{Keys, Kind};
use crate::cli::exit::{Exit, Failure};
use crate::cli::output;
use crate::cli::transfer::grouped;
use crate::client::{Credentials, encode_key};

/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Pause after an error, so that a dead node does not make a busy loop.
const PAUSE: Duration = Duration::from_millis(20);

/// What is to be done.
#[derive(Debug, Clone)]
pub struct Job {
    /// The nodes, `host:port`.
    pub authorities: Vec<String>,
    /// What was asked for.
    pub args: BenchArgs,
    /// The names of records.
    pub keys: Keys,
    /// Where scans can start.
    pub cursors: Vec<String>,
    /// An update must read first, or it makes a sibling.
    pub read_first: bool,
    /// Over CQL: the protocol's number of the level. `None`: over HTTP.
    pub level: Option<u16>,
    /// Who to be, on nodes that ask.
    pub credentials: Option<Credentials>,
}

impl Job {
    /// Writing all records once.
    pub fn load(&self) -> Task {
        Task { job: self.clone(), loading: true }
    }

    /// The workload.
    pub fn measure(&self) -> Task {
        Task { job: self.clone(), loading: false }
    }
}

/// A job, or the load that comes before it.
#[derive(Debug, Clone)]
pub struct Task {
    job: Job,
    loading: bool,
}

/// What all threads share.
struct Shared {
    task: Task,
    chooser: Chooser,
    /// `?r=2` and the like.
    read_query: String,
    write_query: String,
    /// The next record to be inserted (or loaded).
    next: AtomicU64,
    over: AtomicBool,
    began: Instant,
    stats: Vec<Mutex<Stats>>,
}

/// Does the job and reports; progress goes to stderr.
pub async fn run(task: Task) -> Result<Report, Failure> {
    let args = task.job.args.clone();
    let threads = args.threads.min(args.clients);
    let loading = task.loading;
    let query = |name: &str, number: Option<u32>| match (&args.level, number) {
        (Some(level), _) => format!("?level={}", encode_key(level.as_bytes())),
        (None, Some(number)) => format!("?{name}={number}"),
        (None, None) => String::new(),
    };
    let shared = Arc::new(Shared {
        chooser: Chooser::new(args.choose.unwrap_or(args.workload.choose()), args.records),
        read_query: query("r", args.r),
        write_query: query("w", args.w),
        next: AtomicU64::new(if loading { 0 } else { args.records }),
        over: AtomicBool::new(false),
        began: Instant::now(),
        stats: (0..threads).map(|_| Mutex::new(Stats::new())).collect(),
        task,
    });
    let handles: Vec<_> = (0..threads)
        .map(|thread| {
            let shared = shared.clone();
            std::thread::Builder::new()
                .name("henge-bench".to_owned())
                .spawn(move || run_thread(&shared, thread, threads))
        })
        .collect::<Result<_, _>>()?;
    let (time, cpu) =
        if loading { watch_load(&shared, args.records).await } else { watch(&shared, &args).await };
    shared.over.store(true, Ordering::Relaxed);
    let stats = shared.collect();
    for handle in handles {
        let joined = tokio::task::spawn_blocking(move || handle.join()).await;
        if !matches!(joined, Ok(Ok(Ok(())))) {
            return Err(Failure::new(Exit::Failure, "a thread of the benchmark failed"));
        }
    }
    Ok(Report { settings: settings(&args), stats, time, client_cpu: cpu })
}

fn settings(args: &BenchArgs) -> serde_json::Value {
    serde_json::json!({
        "workload": format!("{:?}", args.workload).to_lowercase(),
        "loop": if args.rate.is_some() { "open" } else { "closed" },
        "rate": args.rate, "clients": args.clients, "threads": args.threads,
        "records": args.records, "value_bytes": args.value_size, "bucket": args.bucket,
        "level": args.level, "r": args.r, "w": args.w, "seed": args.seed,
        "door": door(args), "per_connection": args.per_connection, "lwt": args.lwt, "hot": args.hot,
        "choose": format!("{:?}", args.choose.unwrap_or(args.workload.choose())).to_lowercase(),
    })
}

fn door(args: &BenchArgs) -> &'static str {
    match (args.cql.is_empty(), args.etcd.is_empty()) {
        (false, _) => "cql",
        (_, false) => "etcd",
        (true, true) => "http",
    }
}

/// Waits until all records are loaded.
async fn watch_load(shared: &Shared, records: u64) -> (Duration, Option<Duration>) {
    let mut last = Instant::now();
    loop {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let now = shared.collect();
        let finished = now.successes() + now.failures();
        if finished >= records || now.failures() > 1_000 {
            return (shared.began.elapsed(), None);
        }
        if last.elapsed() > Duration::from_secs(2) {
            last = Instant::now();
            output::note(format!("  {} of {}", grouped(finished), grouped(records)));
        }
    }
}

/// Watches warm-up and measurement.
async fn watch(shared: &Shared, args: &BenchArgs) -> (Duration, Option<Duration>) {
    tokio::time::sleep(Duration::from_secs(args.warmup)).await;
    shared.clear();
    let (began, cpu_before) = (Instant::now(), cpu_time());
    let mut before = Stats::new();
    for second in 1..=args.seconds {
        tokio::time::sleep_until((began + Duration::from_secs(second)).into()).await;
        let now = shared.collect();
        let latency = now.all();
        let at = |quantile| latency.value_at_quantile(quantile) as f64 / 1000.0;
        output::note(format!(
            "{second:4} s  {:>9}/s  p50 {:.2} ms  p99 {:.2} ms  p99.9 {:.2} ms  errors {}",
            grouped(now.successes() - before.successes()),
            at(0.5),
            at(0.99),
            at(0.999),
            grouped(now.failures())
        ));
        before = now;
    }
    let cpu = cpu_time().zip(cpu_before).map(|(after, before)| after.saturating_sub(before));
    (began.elapsed(), cpu)
}

impl Shared {
    fn stats(&self, thread: usize) -> std::sync::MutexGuard<'_, Stats> {
        self.stats[thread].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn collect(&self) -> Stats {
        let mut all = Stats::new();
        for thread in 0..self.stats.len() {
            all.add(&self.stats(thread));
        }
        all
    }

    fn clear(&self) {
        for thread in 0..self.stats.len() {
            *self.stats(thread) = Stats::new();
        }
    }
}

fn run_thread(shared: &Arc<Shared>, thread: u32, threads: u32) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let clients = shared.task.job.args.clients;
    let mine = (0..clients).filter(|client| client % threads == thread);
    runtime.block_on(async {
        let new = |number| Client::new(shared, thread as usize, number);
        let mut clients: Vec<Client<'_>> = mine.map(new).collect();
        // Spawned locally would be one allocation each; joined, each wake-up polls only its own.
        match shared.task.job.args.per_connection as usize {
            1 => drop(join_all(clients.into_iter().map(Client::run)).await),
            many => drop(join_all(clients.chunks_mut(many).map(pipeline::run)).await),
        }
    });
    Ok(())
}

/// One client: a connection and its choices.
struct Client<'a> {
    shared: &'a Shared,
    thread: usize,
    number: u32,
    random: Random,
    connection: Option<Connection>,
    rows: Option<rows::Connection>,
    attempts: usize,
    request: Vec<u8>,
    value: Vec<u8>,
    /// The version that stands under this client's key, as far as it knows.
    version: Option<String>,
    /// When the last request was sent.
    sent: Instant,
}

impl<'a> Client<'a> {
    fn new(shared: &'a Shared, thread: usize, number: u32) -> Self {
        let args = &shared.task.job.args;
        let mut random = Random::new(args.seed, u64::from(number));
        // Letters that do not compress to nothing, fresh enough for each write (see `put`).
        let value = (0..args.value_size).map(|_| b'a' + (random.below(26) as u8)).collect();
        Self {
            shared,
            thread,
            number,
            random,
            connection: None,
            rows: None,
            attempts: 0,
            request: Vec::with_capacity(512),
            value,
            version: None,
            sent: Instant::now(),
        }
    }

    async fn run(mut self) {
        if self.shared.task.loading {
            return self.load().await;
        }
        let args = &self.shared.task.job.args;
        // Intended starts of this client are this far apart, and those of all clients interleave.
        let spacing = args.rate.map(|rate| {
            let seconds = f64::from(args.clients) / rate as f64;
            Duration::from_secs_f64(seconds)
        });
        let offset = spacing.map(|spacing| spacing * self.number / args.clients);
        let mut intended = self.shared.began + offset.unwrap_or_default();
        while !self.shared.over.load(Ordering::Relaxed) {
            let began = match spacing {
                None => Instant::now(),
                Some(spacing) => {
                    let start = intended;
                    intended += spacing;
                    if start > Instant::now() {
                        tokio::time::sleep_until(start.into()).await;
                    }
                    start
                }
            };
            let kind = args.workload.next(&mut self.random);
            self.operate(kind, began).await;
        }
    }

    async fn load(&mut self) {
        let records = self.shared.task.job.args.records;
        while !self.shared.over.load(Ordering::Relaxed) {
            let index = self.shared.next.fetch_add(1, Ordering::Relaxed);
            if index >= records {
                return;
            }
            let began = Instant::now();
            let outcome = self.put(index, String::new()).await;
            self.record(Kind::Insert, began, outcome).await;
        }
    }

    async fn operate(&mut self, kind: Kind, began: Instant) {
        let args = &self.shared.task.job.args;
        let outcome = match kind {
            Kind::Insert => {
                let index = self.fresh();
                self.put(index, String::new()).await
            }
            Kind::Create => {
                let index = self.fresh();
                self.replace(index, None).await
            }
            Kind::Cas => {
                let own = if args.hot { 0 } else { u64::from(self.number) };
                let known = self.version.take();
                let done = self.replace(args.records + own, known.as_deref()).await;
                // Whatever became of it: the next one will tell.
                self.version = done.as_ref().ok().and_then(|done| done.kept.clone()).or(known);
                done
            }
            Kind::Read => {
                let index = self.choose();
                self.get(index, false).await
            }
            Kind::Update if !self.shared.task.job.read_first => {
                let index = self.choose();
                self.put(index, String::new()).await
            }
            Kind::Update | Kind::ReadModifyWrite => {
                let index = self.choose();
                match self.get(index, true).await {
                    Ok(answer) if answer.status < 400 || answer.status == 404 => {
                        let context = answer.kept.map(|seen| format!("henge-context: {seen}\r\n"));
                        self.put(index, context.unwrap_or_default()).await
                    }
                    failed => failed,
                }
            }
            Kind::Scan => self.scan().await,
        };
        self.record(kind, began, outcome).await;
    }

    /// A key that is new; with `--hot` the same one each time.
    fn fresh(&self) -> u64 {
        let args = &self.shared.task.job.args;
        if args.hot { args.records } else { self.shared.next.fetch_add(1, Ordering::Relaxed) }
    }

    fn choose(&mut self) -> u64 {
        if self.shared.task.job.args.hot {
            return 0;
        }
        let count = self.shared.next.load(Ordering::Relaxed);
        self.shared.chooser.next(&mut self.random, count)
    }

    async fn record(&mut self, kind: Kind, began: Instant, outcome: std::io::Result<Answer>) {
        let (failure, broken) = match outcome {
            Ok(answer) if answer.status < 400 => (None, answer.closes),
            Ok(answer) if answer.status == 404 && kind == Kind::Read => {
                self.shared.stats(self.thread).absent += 1;
                (None, answer.closes)
            }
            Ok(answer) if answer.status == 412 && matches!(kind, Kind::Create | Kind::Cas) => {
                self.shared.stats(self.thread).declined += 1;
                (None, answer.closes)
            }
            Ok(answer) => {
                let name = answer.problem.as_deref().and_then(problem_name);
                let what = format!("{} {}", answer.status, name.unwrap_or_default());
                (Some((what.trim_end().to_owned(), answer.problem)), answer.closes)
            }
            Err(error) => (Some((error.kind().to_string(), Some(error.to_string()))), true),
        };
        if broken {
            (self.connection, self.rows) = (None, None);
        }
        match failure {
            None => self.shared.stats(self.thread).success(kind, began.elapsed()),
            Some((what, said)) => {
                let refused = what.ends_with(" overloaded");
                {
                    let mut stats = self.shared.stats(self.thread);
                    if refused {
                        stats.refused(self.sent.elapsed());
                    }
                    stats.failure(what, said);
                }
                // An open loop asks at its rate, whatever it is told.
                if broken || self.shared.task.job.args.rate.is_none() {
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    async fn get(&mut self, index: u64, context: bool) -> std::io::Result<Answer> {
        if let Some(level) = self.shared.task.job.level {
            return self.over_rows(index, level, true).await;
        }
        if !self.shared.task.job.args.etcd.is_empty() {
            return self.over_etcd(index, etcd::Call::Get).await;
        }
        self.begin("GET");
        self.key(index);
        self.request.extend_from_slice(self.shared.read_query.as_bytes());
        let want = if context { Want::Context } else { Want::Nothing };
        self.send(want, None).await
    }

    /// Writes a record, with these headers.
    async fn put(&mut self, index: u64, headers: String) -> std::io::Result<Answer> {
        self.renew_value(index);
        if let Some(level) = self.shared.task.job.level {
            return self.over_rows(index, level, false).await;
        }
        if !self.shared.task.job.args.etcd.is_empty() {
            return self.over_etcd(index, etcd::Call::Put).await;
        }
        self.begin("PUT");
        self.key(index);
        self.request.extend_from_slice(self.shared.write_query.as_bytes());
        self.send(Want::Nothing, Some(headers)).await
    }

    /// Writes a record if it has this version; `None`: if it is absent. The answer tells the version
    /// that stands there then.
    async fn replace(&mut self, index: u64, known: Option<&str>) -> std::io::Result<Answer> {
        self.renew_value(index);
        if !self.shared.task.job.args.etcd.is_empty() {
            let call = known.map_or(etcd::Call::Create, etcd::Call::Replace);
            return self.over_etcd(index, call).await;
        }
        self.begin("PUT");
        self.key(index);
        self.request.extend_from_slice(self.shared.write_query.as_bytes());
        let headers = match known {
            None => "if-none-match: *\r\n".to_owned(),
            Some(version) => format!("if-match: {version}\r\n"),
        };
        self.send(Want::Etag, Some(headers)).await
    }

    async fn over_etcd(&mut self, index: u64, call: etcd::Call<'_>) -> std::io::Result<Answer> {
        let mut key = Vec::with_capacity(32);
        self.shared.task.job.keys.write(index, &mut key);
        etcd::request(&mut self.request, &key, &self.value, &call);
        let answer = self.exchange(Want::Body).await?;
        Ok(etcd::answer(&call, answer))
    }

    /// Each value differs from the last one.
    fn renew_value(&mut self, index: u64) {
        let stamp = mix(index ^ self.random.next()).to_le_bytes();
        for (byte, random) in self.value.iter_mut().zip(stamp) {
            *byte = b'a' + random % 26;
        }
    }

    /// A read or a write over CQL.
    async fn over_rows(&mut self, index: u64, level: u16, reads: bool) -> std::io::Result<Answer> {
        self.request.clear();
        self.key(index);
        let rows = match &mut self.rows {
            Some(rows) => rows,
            none => none.insert(open_rows(self.shared, self.number, &mut self.attempts).await?),
        };
        self.sent = Instant::now();
        let value = (!reads).then_some(&self.value[..]);
        tokio::time::timeout(PATIENCE, rows.exchange(level, &self.request, value)).await?
    }

    async fn scan(&mut self) -> std::io::Result<Answer> {
        let limit = 1 + self.random.below(100);
        let shared = self.shared;
        let cursors = &shared.task.job.cursors;
        self.request.clear();
        let bucket = &shared.task.job.args.bucket;
        write!(self.request, "GET /v1/kv/{bucket}?limit={limit}")?;
        if !cursors.is_empty() {
            let index = self.random.below(cursors.len() as u64) as usize;
            write!(self.request, "&start={}", encode_key(cursors[index].as_bytes()))?;
        }
        self.send(Want::Nothing, None).await
    }

    fn begin(&mut self, method: &str) {
        self.request.clear();
        self.request.extend_from_slice(method.as_bytes());
        self.request.extend_from_slice(b" /v1/kv/");
        self.request.extend_from_slice(self.shared.task.job.args.bucket.as_bytes());
        self.request.push(b'/');
    }

    fn key(&mut self, index: u64) {
        self.shared.task.job.keys.write(index, &mut self.request);
    }

    /// Ends the request that was begun and sends it; `headers` is given for a write.
    async fn send(&mut self, want: Want, headers: Option<String>) -> std::io::Result<Answer> {
        self.request.extend_from_slice(b" HTTP/1.1\r\nhost: henge\r\n");
        if let Some(credentials) = &self.shared.task.job.credentials {
            write!(self.request, "authorization: {}\r\n", credentials.basic())?;
        }
        if let Some(headers) = headers {
            self.request.extend_from_slice(headers.as_bytes());
            write!(self.request, "content-length: {}\r\n\r\n", self.value.len())?;
            self.request.extend_from_slice(&self.value);
        } else {
            self.request.extend_from_slice(b"\r\n");
        }
        self.exchange(want).await
    }

    async fn exchange(&mut self, want: Want) -> std::io::Result<Answer> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => {
                let opened = open_any(self.shared, self.number, &mut self.attempts).await?;
                none.insert(opened)
            }
        };
        self.sent = Instant::now();
        tokio::time::timeout(PATIENCE, connection.exchange(&self.request, want)).await?
    }
}

/// A connection to the CQL door of the next node.
async fn open_rows(
    shared: &Shared,
    number: u32,
    attempts: &mut usize,
) -> std::io::Result<rows::Connection> {
    let Job { args, authorities, credentials, .. } = &shared.task.job;
    // Records that are loaded again are there already.
    let lwt = args.lwt && !shared.task.loading;
    let at = (number as usize + *attempts) % authorities.len();
    *attempts += 1;
    let credentials = credentials.as_ref();
    let opened = rows::Connection::open(&authorities[at], credentials, &args.bucket, lwt);
    tokio::time::timeout(PATIENCE, opened).await?
}

/// A connection to the next node that takes one. A node that takes none has been sent nothing, so
/// going on to the next is no repeat of a request.
async fn open_any(
    shared: &Shared,
    number: u32,
    attempts: &mut usize,
) -> std::io::Result<Connection> {
    let authorities = &shared.task.job.authorities;
    let mut last = std::io::Error::other("no node");
    for _ in 0..authorities.len() {
        let node = (number as usize + *attempts) % authorities.len();
        *attempts += 1;
        match tokio::time::timeout(PATIENCE, Connection::open(&authorities[node])).await? {
            Ok(connection) => return Ok(connection),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// The last part of a problem's `type`.
fn problem_name(text: &str) -> Option<&str> {
    let rest = text.split_once("/problems/")?.1;
    rest.split(['"', '?', '#']).next()
}
