//! A node in memory behind the real HTTP door, and a client that needs no socket.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, Request};
use bytes::Bytes;
use henge::causality::ContextCodec;
use henge::coordinator::{
    LeaseOp, LeaseOutcome, ListOp, ListPage, ListedKey, OpError, PartitionDigest, ReadOp,
    ReadOutcome, Receipt, Told, Whereabouts, WriteAction, WriteOp, WriteOutcome,
};
use henge::env::{BoxFuture, Env, tokio_env};
use henge::meta::{ClusterState, ConflictMode, Table, TableName, TableSettings};
use henge::metrics::Registry;
use henge::overload::{Busy, Gate, Place, Settings};
use henge::recipes::{Change, State};
use henge::record::{Action, Mint, Mutation, OpMemory, Record, RecordKind, Value};
use henge::ring::token_of;
use henge::server::auth;
use henge::server::http::backend::{
    Alteration, ClusterView, Creation, LoadView, NodeView, NotReady, PartitionView, RepairView,
    RingView,
};
use henge::server::http::{Backend, Door, HttpLimits};
use henge::types::{
    ActorId, Dot, Epoch, Hlc, Key, Mono, NodeId, OpId, PartitionId, TableId, Token, WallMicros,
};
use http_body_util::BodyExt as _;
use tower::ServiceExt as _;

type Rows = BTreeMap<(TableId, Token, Key), Record>;

/// One node that keeps everything in memory and answers at once.
pub struct Fake {
    env: Env,
    codec: ContextCodec,
    tables: Mutex<BTreeMap<TableName, Arc<Table>>>,
    rows: Mutex<Rows>,
    counter: AtomicU64,
    epoch: AtomicU64,
    pub nodes: AtomicU32,
    /// What the next operation answers instead.
    pub next_error: Mutex<Option<OpError>>,
    /// The last operations, as the coordinator would have got them.
    pub last_read: Mutex<Option<ReadOp>>,
    pub last_write: Mutex<Option<WriteOp>>,
    pub not_ready: Mutex<Option<String>>,
    /// Writes wait until this many permits are given.
    pub gate: Option<tokio::sync::Semaphore>,
    /// Lets operations in.
    pub admission: Arc<Gate>,
    /// A listing's pages hold at most this many keys, whatever was asked.
    pub page_keys: AtomicU32,
    pub writes: AtomicU64,
    /// Settings that somebody else gives a table just before the next changes of it.
    pub others_changes: Mutex<VecDeque<TableSettings>>,
    /// Who is let in.
    pub entrance: auth::Gate,
    /// What the cluster has agreed on; each page of a listing goes on to the next of them.
    pub agreed: Mutex<VecDeque<Arc<ClusterState>>>,
}

impl Fake {
    pub fn new() -> Self {
        Self::in_world(tokio_env())
    }

    pub fn in_world(env: Env) -> Self {
        Self {
            env,
            codec: ContextCodec::new([7; 32]),
            tables: Mutex::default(),
            rows: Mutex::default(),
            counter: AtomicU64::new(0),
            epoch: AtomicU64::new(1),
            nodes: AtomicU32::new(3),
            admission: wide_open(),
            next_error: Mutex::default(),
            last_read: Mutex::default(),
            last_write: Mutex::default(),
            not_ready: Mutex::default(),
            gate: None,
            page_keys: AtomicU32::new(u32::MAX),
            writes: AtomicU64::new(0),
            others_changes: Mutex::default(),
            entrance: auth::Gate::open(),
            agreed: Mutex::default(),
        }
    }

    pub fn fail_next(&self, error: OpError) {
        *self.next_error.lock().unwrap() = Some(error);
    }

    fn failure(&self) -> Result<(), OpError> {
        self.next_error.lock().unwrap().take().map_or(Ok(()), Err)
    }

    fn kind(table: &Table) -> RecordKind {
        match table.settings.conflict {
            ConflictMode::Siblings | ConflictMode::Strong => RecordKind::Siblings,
            ConflictMode::Lww => RecordKind::Lww,
        }
    }

    fn do_write(&self, op: &WriteOp) -> Result<WriteOutcome, OpError> {
        *self.last_write.lock().unwrap() = Some(op.clone());
        self.failure()?;
        self.writes.fetch_add(1, Ordering::SeqCst);
        let now = self.env.wall();
        let mut rows = self.rows.lock().unwrap();
        let row = (op.table.id, token_of(op.key.as_bytes()), op.key.clone());
        let record = rows.entry(row).or_insert_with(|| Record::empty(Self::kind(&op.table)));
        let digest = xxhash_rust::xxh3::xxh3_64(format!("{:?}", op.action).as_bytes());
        let receipt = op.receipt.then(|| Receipt { operation: "write", ..Receipt::default() });
        if let Some(id) = op.op {
            match record.find_op(id, digest) {
                OpMemory::Applied(entry) => {
                    let mut context = op.context.clone().unwrap_or_default();
                    context.insert(entry.dot);
                    return Ok(WriteOutcome {
                        dot: Some(entry.dot),
                        created: entry.created,
                        siblings: record.view(now).versions.len() as u32,
                        context,
                        replayed: true,
                        receipt,
                    });
                }
                OpMemory::Reused | OpMemory::Refused(_) => return Err(OpError::OperationReused),
                OpMemory::Forgotten | OpMemory::Barred => return Err(OpError::OperationExpired),
                OpMemory::Unknown => {}
            }
        }
        if let Some(fence) = op.fence.filter(|fence| *fence < record.fence()) {
            let highest = record.fence();
            return Err(OpError::FenceTooOld { fence, highest, replayed: false });
        }
        let view = record.view(now);
        let (siblings, created) = (view.versions.len() as u32, view.versions.is_empty());
        let (action, context) = match &op.action {
            WriteAction::Put { body, content_type, meta, ttl } => {
                let context = op.context.clone().unwrap_or_default();
                let standing =
                    view.versions.iter().filter(|v| !context.covers(v.dot)).count() as u32;
                if standing >= op.table.settings.max_siblings {
                    return Err(OpError::TooManySiblings {
                        siblings,
                        max: op.table.settings.max_siblings,
                    });
                }
                let expires_at = ttl.map(|ttl| WallMicros(now.0 + ttl.as_micros() as u64));
                let value = Value {
                    body: body.clone(),
                    content_type: content_type.clone(),
                    meta: meta.clone(),
                    expires_at,
                    written_at: Hlc(0),
                };
                (Action::Put(value), context)
            }
            WriteAction::Delete if created && op.context.is_none() => {
                return Ok(WriteOutcome {
                    dot: None,
                    created: true,
                    siblings: 0,
                    context: view.context,
                    replayed: false,
                    receipt,
                });
            }
            WriteAction::Delete => {
                (Action::Delete, op.context.clone().unwrap_or_else(|| view.context.clone()))
            }
        };
        let counter = self.counter.fetch_add(1, Ordering::SeqCst) + 1;
        let dot = Dot { actor: ActorId(0xA), counter };
        let id = op.op.unwrap_or_else(|| OpId::from_parts(counter, u128::from(counter)));
        let mutation = Mutation { op: id, request: digest, context, action };
        let minted = record
            .mint(mutation, Mint { dot, stamp: Hlc(now.0 + counter), now })
            .expect("the fake mints fresh dots");
        record.raise_fence(op.fence.unwrap_or(0));
        Ok(WriteOutcome {
            dot: Some(dot),
            created: minted.created,
            siblings: minted.siblings as u32,
            context: minted.writer_context,
            replayed: false,
            receipt,
        })
    }

    fn do_lease(&self, op: &LeaseOp) -> Result<LeaseOutcome, OpError> {
        self.failure()?;
        let now = self.env.wall();
        let mut rows = self.rows.lock().unwrap();
        let row = (op.table.id, token_of(op.key.as_bytes()), op.key.clone());
        let record = rows.entry(row).or_insert_with(|| Record::empty(Self::kind(&op.table)));
        let state = State::of(record, now).expect("only leases are written here");
        let counter = self.counter.fetch_add(1, Ordering::SeqCst) + 1;
        let id = op.op.unwrap_or_else(|| OpId::from_parts(counter, u128::from(counter)));
        let change = match state.judge(&op.request, id) {
            Ok(change) => change,
            Err(why) => return Ok(LeaseOutcome::Refused { why, state, now, replayed: false }),
        };
        let action = match &change {
            Change::Held(holding) => Action::Put(Value {
                body: holding.encode().into(),
                expires_at: Some(WallMicros(now.0 + holding.ttl_ms * 1_000)),
                ..Value::default()
            }),
            Change::Freed => Action::Delete,
        };
        let mutation = Mutation { op: id, request: 0, context: record.context(), action };
        let dot = Dot { actor: ActorId(0xA), counter };
        let mint = Mint { dot, stamp: Hlc(now.0 + counter), now };
        record.mint(mutation, mint).expect("the fake mints fresh dots");
        Ok(match change {
            Change::Held(holding) => {
                record.raise_fence(holding.fence);
                let remaining = Duration::from_millis(holding.ttl_ms);
                LeaseOutcome::Held { holding, remaining, replayed: false }
            }
            Change::Freed => LeaseOutcome::Freed { replayed: false },
        })
    }

    fn do_read(&self, op: &ReadOp) -> Result<ReadOutcome, OpError> {
        *self.last_read.lock().unwrap() = Some(op.clone());
        self.failure()?;
        let rows = self.rows.lock().unwrap();
        let row = (op.table.id, token_of(op.key.as_bytes()), op.key.clone());
        let record =
            rows.get(&row).cloned().unwrap_or_else(|| Record::empty(Self::kind(&op.table)));
        let receipt = op.receipt.then(|| Receipt { operation: "read", ..Receipt::default() });
        Ok(ReadOutcome { record, now: self.env.wall(), receipt })
    }

    fn do_list(&self, op: &ListOp) -> Result<ListPage, OpError> {
        self.failure()?;
        let mut agreed = self.agreed.lock().unwrap();
        if agreed.len() > 1 {
            agreed.pop_front();
        }
        let now = self.env.wall();
        let most = op.limit.min(self.page_keys.load(Ordering::SeqCst)) as usize;
        let rows = self.rows.lock().unwrap();
        let mut keys = Vec::new();
        let mut next = None;
        for ((_, token, key), record) in
            rows.iter().filter(|((table, ..), _)| *table == op.table.id)
        {
            let place = (*token, key.clone());
            if op.after.as_ref().is_some_and(|after| place <= *after)
                || !key.as_bytes().starts_with(&op.prefix)
            {
                continue;
            }
            let live = record.view(now).versions.len();
            if live == 0 || (op.conflicts && live < 2) {
                continue;
            }
            if keys.len() == most {
                next = keys.last().map(|k: &ListedKey| (k.token, k.key.clone()));
                break;
            }
            keys.push(ListedKey { token: *token, key: key.clone(), record: record.clone() });
        }
        Ok(ListPage { keys, now, next })
    }
}

/// A gate that nothing narrows.
fn wide_open() -> Arc<Gate> {
    let (target, interval) = (Duration::ZERO, Duration::ZERO);
    Gate::new(Settings { target, interval, floor: 1, max: usize::MAX }, Mono(0))
}

impl Backend for Fake {
    fn enter(&self) -> Result<Place, Busy> {
        self.admission.enter()
    }

    fn table(&self, keyspace: &str, table: &str) -> Option<Arc<Table>> {
        let name = TableName { keyspace: keyspace.to_owned(), table: table.to_owned() };
        self.tables.lock().unwrap().get(&name).cloned()
    }

    fn tables(&self) -> Vec<Arc<Table>> {
        self.tables.lock().unwrap().values().cloned().collect()
    }

    fn codec(&self) -> &ContextCodec {
        &self.codec
    }

    fn read(&self, op: ReadOp) -> BoxFuture<'_, Result<ReadOutcome, OpError>> {
        Box::pin(async move { self.do_read(&op) })
    }

    fn write(&self, op: WriteOp) -> BoxFuture<'_, Result<WriteOutcome, OpError>> {
        Box::pin(async move {
            if let Some(gate) = &self.gate {
                gate.acquire().await.unwrap().forget();
            }
            // Lets items of a batch interleave.
            tokio::task::yield_now().await;
            self.do_write(&op)
        })
    }

    fn lease(&self, op: LeaseOp) -> BoxFuture<'_, Result<LeaseOutcome, OpError>> {
        Box::pin(async move { self.do_lease(&op) })
    }

    fn list(&self, op: ListOp) -> BoxFuture<'_, Result<ListPage, OpError>> {
        Box::pin(async move { self.do_list(&op) })
    }

    fn tell(
        &self,
        _: Arc<Table>,
        _: Key,
        _: OpId,
        _: Duration,
    ) -> BoxFuture<'_, Result<Told, OpError>> {
        Box::pin(async { Ok(Told::Never) })
    }

    fn locate(&self, _: &Table, key: &Key) -> Whereabouts {
        Whereabouts {
            token: token_of(key.as_bytes()),
            partition: PartitionId(5),
            replicas: vec![NodeId::derive("c", "n2"), NodeId::derive("c", "n1")],
            epoch: Epoch(4),
        }
    }

    fn partition_digest(
        &self,
        table: Arc<Table>,
        partition: PartitionId,
    ) -> BoxFuture<'_, Result<PartitionDigest, OpError>> {
        Box::pin(async move {
            if partition.0 == 3 {
                return Err(OpError::NotAReplica { replicas: "n2, n3".to_owned() });
            }
            Ok(PartitionDigest { epoch: Epoch(4), table: table.id, records: 2, root: 0xABC })
        })
    }

    fn create_table(
        &self,
        name: TableName,
        settings: TableSettings,
        _: Option<String>,
    ) -> BoxFuture<'_, Result<Creation, OpError>> {
        Box::pin(async move {
            self.failure()?;
            let mut tables = self.tables.lock().unwrap();
            if let Some(table) = tables.get(&name) {
                return Ok(Creation::Exists(table.clone()));
            }
            let epoch = self.epoch.fetch_add(1, Ordering::SeqCst) + 1;
            let id = TableId(epoch as u32);
            let table = Arc::new(Table {
                id,
                name: name.clone(),
                settings,
                version: Epoch(epoch),
                rows: None,
            });
            tables.insert(name, table.clone());
            Ok(Creation::Created(table))
        })
    }

    fn alter_table(
        &self,
        table: Arc<Table>,
        settings: TableSettings,
    ) -> BoxFuture<'_, Result<Alteration, OpError>> {
        Box::pin(async move {
            self.failure()?;
            let mut tables = self.tables.lock().unwrap();
            if let Some(other) = self.others_changes.lock().unwrap().pop_front() {
                let altered = Arc::new(Table { settings: other, ..Table::clone(&table) });
                tables.insert(table.name.clone(), altered.clone());
                return Ok(Alteration::Overtaken(altered));
            }
            let altered = Arc::new(Table { settings, ..Table::clone(&table) });
            tables.insert(table.name.clone(), altered.clone());
            Ok(Alteration::Done(altered))
        })
    }

    fn drop_table(&self, table: Arc<Table>) -> BoxFuture<'_, Result<(), OpError>> {
        Box::pin(async move {
            self.failure()?;
            self.tables.lock().unwrap().remove(&table.name);
            Ok(())
        })
    }

    fn gate(&self) -> auth::Gate {
        self.entrance.clone()
    }

    fn agreed(&self) -> Option<Arc<ClusterState>> {
        self.agreed.lock().unwrap().front().cloned()
    }

    fn node_count(&self) -> u32 {
        self.nodes.load(Ordering::SeqCst)
    }

    fn cluster(&self) -> ClusterView {
        ClusterView {
            cluster: "c".to_owned(),
            cluster_id: "00".to_owned(),
            node: NodeId::derive("c", "n1").to_string(),
            epoch: 4,
            nodes: vec![node_view()],
            hints: Vec::new(),
            repair: RepairView::default(),
            load: LoadView::default(),
        }
    }

    fn ring(&self) -> RingView {
        let partitions = (0..8)
            .map(|p| PartitionView {
                partition: p,
                end_token: i64::MIN.wrapping_add(i64::from(p) << 61),
                owner: NodeId::derive("c", "n1").to_string(),
            })
            .collect();
        RingView { epoch: 4, partitions, nodes: vec![node_view()] }
    }

    fn ready(&self) -> Result<(), NotReady> {
        self.not_ready.lock().unwrap().clone().map_or(Ok(()), |why| Err(NotReady(why)))
    }
}

fn node_view() -> NodeView {
    NodeView {
        id: NodeId::derive("c", "n1").to_string(),
        name: "n1".to_owned(),
        status: "up".to_owned(),
        address: "127.0.0.1:7000".to_owned(),
        datacenter: "dc1".to_owned(),
        rack: "r1".to_owned(),
        capacity: 1,
        partitions: 8,
        epoch: Some(4),
    }
}

/// An answer.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Reply {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no {name} in {self:?}")).to_str().unwrap()
    }

    pub fn has(&self, name: &str) -> bool {
        self.headers.contains_key(name)
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {:?}", String::from_utf8_lossy(&self.body)))
    }

    pub fn lines(&self) -> Vec<serde_json::Value> {
        let text = std::str::from_utf8(&self.body).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Checks that this is a whole problem document called `name`, and gives its members.
    #[track_caller]
    pub fn problem(&self, name: &str) -> serde_json::Value {
        let json = self.json();
        assert_eq!(self.header("content-type"), "application/problem+json", "{json}");
        assert_eq!(json["type"], format!("/problems/{name}"), "{json}");
        assert_eq!(json["status"], self.status, "{json}");
        assert!(json["title"].is_string() && json["detail"].is_string(), "{json}");
        assert_eq!(self.status == 503, self.has("retry-after"));
        json
    }

    /// Like [`Reply::problem`], of a write that did not take effect.
    #[track_caller]
    pub fn refused(&self, name: &str) -> serde_json::Value {
        let json = self.problem(name);
        assert_eq!(json["outcome"], "not_applied", "{json}");
        json
    }
}

/// The door with its fake node.
pub struct World {
    pub fake: Arc<Fake>,
    pub door: Door,
}

pub type Headers<'a> = &'a [(&'a str, &'a str)];

impl World {
    pub fn new() -> Self {
        Self::with(Fake::new(), HttpLimits::default())
    }

    pub fn with(fake: Fake, limits: HttpLimits) -> Self {
        let fake = Arc::new(fake);
        let door = Door::new(fake.clone(), fake.env.clone(), limits, Registry::new());
        Self { fake, door }
    }

    /// A world with a bucket `b` of three replicas.
    pub async fn with_bucket() -> Self {
        let world = Self::new();
        assert_eq!(world.put("/v1/buckets/b", &[], "").await.status, 201);
        world
    }

    pub async fn send(
        &self,
        method: &str,
        path: &str,
        headers: Headers<'_>,
        body: impl Into<Body>,
    ) -> Reply {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(body.into()).unwrap();
        let response = self.door.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Reply { status: parts.status.as_u16(), headers: parts.headers, body }
    }

    pub async fn get(&self, path: &str, headers: Headers<'_>) -> Reply {
        self.send("GET", path, headers, "").await
    }

    pub async fn put(&self, path: &str, headers: Headers<'_>, body: impl Into<Body>) -> Reply {
        self.send("PUT", path, headers, body).await
    }

    pub async fn delete(&self, path: &str, headers: Headers<'_>) -> Reply {
        self.send("DELETE", path, headers, "").await
    }

    pub async fn post(&self, path: &str, headers: Headers<'_>, body: impl Into<Body>) -> Reply {
        self.send("POST", path, headers, body).await
    }
}

/// Waits for `done` to hold, by looking again and again, for ten seconds at most.
pub async fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let env = tokio_env();
    for _ in 0..2000 {
        if done() {
            return;
        }
        env.sleep(Duration::from_millis(5)).await;
    }
    panic!("never came true: {what}");
}
