//! Tracing: what was done for one request, for clients to read.
//!
//! A traced request goes through a [`Traced`] store, which notes every call with its time and its
//! end. What it has noted becomes rows of `system_traces`, which is a keyspace like any other once
//! somebody has traced: replicated, so that any node can show them, and gone after a day. They are
//! written before the request is answered: events first, so that whoever sees a session sees all
//! of it.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::causality::ContextCodec;
use crate::coordinator::{
    BatchError, ConditionalOp, ConditionalOutcome, CountOp, OpError, PartitionRows, ReadOp,
    ReadOutcome, Receipt, Receipts, RowsOp, ScanOp, ScanPage, WriteOp, WriteOutcome,
};
use crate::cql::ast::BatchKind;
use crate::cql::functions::Now;
use crate::cql::roles::masked;
use crate::cql::value;
use crate::env::BoxFuture;
use crate::meta::{ClusterState, Command, Keyspace, TableName, Verdict};
use crate::overload::Gate;
use crate::ring::Replication;
use crate::server::cql::request::{BatchItem, BatchRequest, Parameters, Request};
use crate::server::cql::store::{PeerView, Store};
use crate::server::cql::system;
use crate::server::cql::wire::Value;
use crate::types::{Consistency, WallMicros};

/// Where traces are kept.
pub(super) const KEYSPACE: &str = "system_traces";

/// Steps of one request that are kept.
const MAX_STEPS: usize = 200;

/// Copies of a trace, where there are so many nodes.
const COPIES: usize = 3;

/// How much of a statement's text is kept, in bytes.
const MAX_TEXT: usize = 1_000;

const EVENT: &str = "INSERT INTO system_traces.events (session_id, event_id, activity, source, \
                     source_elapsed, source_port, thread) VALUES (?, ?, ?, ?, ?, ?, ?) \
                     USING TTL 86400";

const SESSION: &str = "INSERT INTO system_traces.sessions (session_id, client, command, \
                       coordinator, coordinator_port, duration, parameters, request, started_at) \
                       VALUES (?, ?, 'QUERY', ?, ?, ?, ?, ?, ?) USING TTL 86400";

/// A store that notes what it is asked, and collects receipts, if they are wanted.
#[derive(Debug)]
pub(super) struct Traced {
    inner: Arc<dyn Store>,
    receipts: Option<Arc<Receipts>>,
    began: WallMicros,
    steps: Mutex<Vec<(u64, String)>>,
}

/// A level as Cassandra writes it.
fn level_name(level: Consistency) -> String {
    level.to_string().to_uppercase().replace('-', "_")
}

fn at(level: Consistency) -> String {
    format!("at {}", level_name(level))
}

impl Traced {
    pub(super) fn new(inner: Arc<dyn Store>, receipts: Option<Arc<Receipts>>) -> Self {
        Self { began: inner.wall(), inner, receipts, steps: Mutex::default() }
    }

    fn keep(&self, receipt: Option<Receipt>) {
        if let (Some(receipts), Some(receipt)) = (&self.receipts, receipt) {
            receipts.add(receipt);
        }
    }

    /// Microseconds since the request came.
    fn elapsed(&self) -> u64 {
        self.inner.wall().0.saturating_sub(self.began.0)
    }

    pub(super) fn note(&self, activity: impl Into<String>) {
        let elapsed = self.elapsed();
        let mut steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        if steps.len() < MAX_STEPS {
            steps.push((elapsed, activity.into()));
        }
    }

    async fn noted<T>(
        &self,
        what: String,
        done: impl Future<Output = Result<T, OpError>>,
        tell: impl FnOnce(&T) -> String,
    ) -> Result<T, OpError> {
        self.note(what);
        let result = done.await;
        match &result {
            Ok(value) => self.note(tell(value)),
            Err(error) => self.note(format!("failed: {error}")),
        }
        result
    }
}

impl Store for Traced {
    fn gate(&self) -> Option<&Arc<Gate>> {
        self.inner.gate()
    }

    fn state(&self) -> Arc<ClusterState> {
        self.inner.state()
    }

    fn members(&self) -> Vec<PeerView> {
        self.inner.members()
    }

    fn wall(&self) -> WallMicros {
        self.inner.wall()
    }

    fn stamp(&self) -> u64 {
        self.inner.stamp()
    }

    fn random(&self) -> u128 {
        self.inner.random()
    }

    fn read(&self, op: ReadOp) -> BoxFuture<'_, Result<ReadOutcome, OpError>> {
        let what = format!("Reading one row of {} {}", op.table.name, at(op.level));
        let op = ReadOp { receipt: self.receipts.is_some(), ..op };
        let tell = |found: &ReadOutcome| {
            self.keep(found.receipt.clone());
            "Enough replicas have shown the row".to_owned()
        };
        Box::pin(self.noted(what, self.inner.read(op), tell))
    }

    fn scan(&self, op: ScanOp) -> BoxFuture<'_, Result<ScanPage, OpError>> {
        let what = format!("Reading rows of {} in order {}", op.table.name, at(op.level));
        let tell = |page: &ScanPage| format!("{} rows were shown", page.rows.len());
        let page = match self.receipts.clone() {
            Some(receipts) => self.inner.scan_noting(op, receipts),
            None => self.inner.scan(op),
        };
        Box::pin(self.noted(what, page, tell))
    }

    fn write(&self, op: RowsOp) -> BoxFuture<'_, Result<(), OpError>> {
        let count = op.rows.len();
        let what =
            format!("Writing {count} rows of a partition of {} {}", op.table.name, at(op.level));
        let tell = |(): &()| "Enough replicas have stored them".to_owned();
        let written = match self.receipts.clone() {
            Some(receipts) => self.inner.write_noting(op, receipts),
            None => self.inner.write(op),
        };
        Box::pin(self.noted(what, written, tell))
    }

    fn write_batch(
        &self,
        parts: Vec<PartitionRows>,
        level: Consistency,
        timeout: Duration,
    ) -> BoxFuture<'_, Result<(), BatchError>> {
        self.note(format!("Writing {} partitions as one batch {}", parts.len(), at(level)));
        Box::pin(async move {
            let done = self.inner.write_batch(parts, level, timeout).await;
            match &done {
                Ok(()) => self.note("Enough replicas hold all of the batch"),
                Err(error) => self.note(format!("failed: {error}")),
            }
            done
        })
    }

    fn put(&self, op: WriteOp) -> BoxFuture<'_, Result<WriteOutcome, OpError>> {
        let what = format!("Writing a value of {} {}", op.table.name, at(op.level));
        let op = WriteOp { receipt: self.receipts.is_some(), ..op };
        let tell = |done: &WriteOutcome| {
            self.keep(done.receipt.clone());
            "Enough replicas have stored it".to_owned()
        };
        Box::pin(self.noted(what, self.inner.put(op), tell))
    }

    fn codec(&self) -> &ContextCodec {
        self.inner.codec()
    }

    fn count(&self, op: CountOp) -> BoxFuture<'_, Result<(), OpError>> {
        let count = op.rows.len();
        let what =
            format!("Adding to counters in {count} rows of {} {}", op.table.name, at(op.level));
        let tell = |(): &()| "Counted, and enough replicas have stored it".to_owned();
        Box::pin(self.noted(what, self.inner.count(op), tell))
    }

    fn write_if(&self, op: ConditionalOp) -> BoxFuture<'_, Result<ConditionalOutcome, OpError>> {
        let what = format!(
            "Deciding about {} rows of a partition of {} by Paxos {}",
            op.rows.len() + 1,
            op.table.name,
            at(op.level)
        );
        let level = op.level;
        let tell = move |outcome: &ConditionalOutcome| {
            // Who has voted is the rounds' own affair: what is decided, a majority has decided.
            self.keep(Some(Receipt {
                operation: "write",
                level: level.to_string(),
                overlap: true,
                total_us: self.elapsed(),
                ..Receipt::default()
            }));
            match outcome.applied {
                true => "Decided and applied".to_owned(),
                false => "Decided: the conditions are not met".to_owned(),
            }
        };
        Box::pin(self.noted(what, self.inner.write_if(op), tell))
    }

    fn append(&self, command: Command) -> BoxFuture<'_, Result<Verdict, OpError>> {
        let tell = |_: &Verdict| "Every live node knows of it".to_owned();
        let what = "Changing the cluster's metadata".to_owned();
        Box::pin(self.noted(what, self.inner.append(command), tell))
    }

    fn ready(&self) -> Result<(), String> {
        self.inner.ready()
    }
}

/// What a request is, in a trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct About {
    request: &'static str,
    parameters: Vec<(&'static str, String)>,
}

/// The start of a statement's text, without passwords.
fn cut(text: &str) -> String {
    let text = masked(text);
    let end = (0..=text.len().min(MAX_TEXT)).rev().find(|at| text.is_char_boundary(*at));
    text[..end.unwrap_or(0)].to_owned()
}

impl About {
    /// `None`: this kind is not traced. `text_of`: the text of a prepared statement.
    pub(super) fn new(request: &Request, text_of: impl Fn(&[u8]) -> String) -> Option<Self> {
        let with = |request, text: &str, parameters: &Parameters| {
            let mut all = vec![
                ("query", cut(text)),
                ("consistency_level", level_name(parameters.level)),
                ("serial_consistency_level", level_name(parameters.serial)),
            ];
            if let Some(size) = parameters.page_size {
                all.push(("page_size", size.to_string()));
            }
            Self { request, parameters: all }
        };
        Some(match request {
            Request::Query { text, parameters } => with("Execute CQL3 query", text, parameters),
            Request::Execute { id, parameters, .. } => {
                with("Execute CQL3 prepared query", &text_of(id), parameters)
            }
            Request::Prepare { text, .. } => {
                let parameters = vec![("query", cut(text))];
                Self { request: "Preparing CQL3 query", parameters }
            }
            Request::Batch(batch) => {
                let level = ("consistency_level", level_name(batch.level));
                let count = ("statements", batch.items.len().to_string());
                Self { request: "Execute batch of CQL3 queries", parameters: vec![level, count] }
            }
            _ => return None,
        })
    }
}

fn int(n: u64) -> Value {
    Value::Bytes(i32::try_from(n).unwrap_or(i32::MAX).to_be_bytes().to_vec())
}

fn text(text: impl AsRef<str>) -> Value {
    Value::Bytes(text.as_ref().as_bytes().to_vec())
}

/// A trace's rows, as batches to be run in order.
pub(super) fn rows(
    traced: &Traced,
    id: [u8; 16],
    about: &About,
    client: Option<IpAddr>,
) -> [BatchRequest; 2] {
    let store = &traced.inner;
    let me = store.members().into_iter().next();
    let inet = |address: Option<IpAddr>| match address {
        Some(address) => Value::Bytes(value::inet_bytes(address)),
        None => Value::Null,
    };
    let (source, port) = (inet(me.as_ref().map(|me| me.address)), me.map_or(0, |me| me.port));
    let steps = std::mem::take(&mut *traced.steps.lock().unwrap_or_else(PoisonError::into_inner));
    let mut last = 0;
    let event = |(elapsed, activity): (u64, String)| {
        // No two at one time, so that they stay in order.
        last = (traced.began.0 + elapsed).max(last + 1);
        let event_id = Now::new(last, store.random()).timeuuid().to_vec();
        let values = vec![
            Value::Bytes(id.to_vec()),
            Value::Bytes(event_id),
            text(activity),
            source.clone(),
            int(elapsed),
            int(u64::from(port)),
            text("coordinator"),
        ];
        BatchItem::Text(EVENT.to_owned(), values)
    };
    let events = steps.into_iter().map(event).collect();
    let flat: Vec<&[u8]> = about
        .parameters
        .iter()
        .flat_map(|(name, value)| [name.as_bytes(), value.as_bytes()])
        .collect();
    let began_ms = i64::try_from(traced.began.0 / 1_000).unwrap_or(i64::MAX);
    let session = vec![
        Value::Bytes(id.to_vec()),
        inet(client),
        source.clone(),
        int(u64::from(port)),
        int(traced.elapsed()),
        Value::Bytes(value::collection(&flat, 2)),
        text(about.request),
        Value::Bytes(began_ms.to_be_bytes().to_vec()),
    ];
    let batch = |items| BatchRequest {
        kind: BatchKind::Unlogged,
        items,
        level: Consistency::Quorum,
        serial: Consistency::Serial,
        timestamp: None,
        keyspace: None,
        now: None,
    };
    [batch(events), batch(vec![BatchItem::Text(SESSION.to_owned(), session)])]
}

/// Sees to it that traces have somewhere to go. Of several nodes that do so at once one is faster,
/// which is as well.
pub(super) async fn prepare(store: &dyn Store) -> Result<(), OpError> {
    if !store.state().keyspaces().contains_key(KEYSPACE) {
        let copies = u8::try_from(store.members().len().min(COPIES)).unwrap_or(1);
        let keyspace = Keyspace {
            name: KEYSPACE.to_owned(),
            replication: Replication::Simple { factor: copies.max(1) },
            durable_writes: true,
            types: std::collections::BTreeMap::new(),
        };
        store.append(Command::CreateKeyspace(Arc::new(keyspace))).await?;
    }
    for table in ["events", "sessions"] {
        if store.state().table_of(KEYSPACE, table).is_none()
            && let Some(schema) = system::schema(KEYSPACE, table)
        {
            let name = TableName { keyspace: KEYSPACE.to_owned(), table: table.to_owned() };
            store.append(Command::CreateRows { name, schema }).await?;
        }
    }
    Ok(())
}
