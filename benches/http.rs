//! What the HTTP door costs: GETs of 100-byte values from a bare axum handler, from the door over
//! a backend that does nothing, and from a whole node (N=1, values in memory), with one client and
//! in one run, each in turn several times. Then the ratios.
//!
//! `cargo bench --bench http [-- SECONDS-PER-SLICE [TARGET]]`. Server and client have one thread each, so
//! that on two cores neither takes the other's.
#![allow(clippy::disallowed_methods, reason = "measures on the real clock, with real tasks")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::extract::{Path, State};
use bytes::Bytes;
use henge::causality::{Context, ContextCodec};
use henge::config::{Config, EngineKind, Founder};
use henge::coordinator::{
    ListOp, ListPage, OpError, PartitionDigest, ReadOp, ReadOutcome, Whereabouts, WriteOp,
    WriteOutcome,
};
use henge::env::{BoxFuture, tokio_env};
use henge::meta::{Table, TableName, TableSettings};
use henge::metrics::Registry;
use henge::node::run;
use henge::record::{Action, Mint, Mutation, Record, RecordKind, Value};
use henge::server::http::backend::{
    Alteration, Backend, ClusterView, Creation, NotReady, RingView,
};
use henge::server::http::listen::Listener;
use henge::server::http::{Door, HttpLimits};
use henge::types::{ActorId, Dot, Epoch, Hlc, Key, OpId, PartitionId, TableId, WallMicros};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const CONNECTIONS: usize = 32;
const ROUNDS: usize = 3;
const VALUE: usize = 100;

fn main() {
    let seconds = std::env::args().filter_map(|arg| arg.parse().ok()).next().unwrap_or(2);
    let only = std::env::args().find(|arg| ["axum", "door", "node"].contains(&arg.as_str()));
    let server = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let client = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("one");
    let targets = server.block_on(async {
        [("axum", axum_bare().await), ("door", door_alone().await), ("node", node().await)]
    });
    let mut rates = [[0.0f64; ROUNDS]; 3];
    #[expect(clippy::needless_range_loop, reason = "the rounds are the outer loop")]
    for round in 0..ROUNDS {
        for (at, (name, address)) in targets.iter().enumerate() {
            if only.as_deref().is_some_and(|only| only != *name) {
                continue;
            }
            let rate = client.block_on(measure(*address, Duration::from_secs(seconds)));
            println!("{name:5} {rate:9.0} requests/s");
            rates[at][round] = rate;
        }
    }
    let best = |at: usize| rates[at].iter().copied().fold(0.0, f64::max);
    println!("door/axum {:.2}   node/axum {:.2}", best(1) / best(0), best(2) / best(0));
}

/// Closed loop over kept connections; requests per second.
async fn measure(address: SocketAddr, span: Duration) -> f64 {
    let count = Arc::new(AtomicU64::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    let started = Instant::now();
    let clients: Vec<_> = (0..CONNECTIONS)
        .map(|n| {
            let (count, stop) = (count.clone(), stop.clone());
            tokio::spawn(async move {
                let mut stream = TcpStream::connect(address).await.expect("the server listens");
                stream.set_nodelay(true).expect("a socket");
                let request =
                    format!("GET /v1/kv/b/key{:03} HTTP/1.1\r\nhost: bench\r\n\r\n", n % 10);
                let mut buffer = vec![0u8; 4096];
                while !stop.load(Ordering::Relaxed) {
                    stream.write_all(request.as_bytes()).await.expect("it takes requests");
                    let mut have = 0;
                    loop {
                        have += stream.read(&mut buffer[have..]).await.expect("it answers");
                        assert!(have > 0, "the server closed the connection");
                        if whole(&buffer[..have]) {
                            break;
                        }
                    }
                    count.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    tokio::time::sleep(span).await;
    let (done, took) = (count.load(Ordering::Relaxed), started.elapsed());
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.expect("no client fails");
    }
    done as f64 / took.as_secs_f64()
}

fn whole(answer: &[u8]) -> bool {
    assert!(
        answer.len() < 12 || answer.starts_with(b"HTTP/1.1 200"),
        "{:?}",
        std::str::from_utf8(answer)
    );
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n");
    end.is_some_and(|end| answer.len() >= end + 4 + VALUE)
}

async fn axum_bare() -> SocketAddr {
    async fn get(State(value): State<Bytes>, Path((_, _)): Path<(String, String)>) -> Bytes {
        value.clone()
    }
    let router = axum::Router::new()
        .route("/v1/kv/{bucket}/{key}", axum::routing::get(get))
        .with_state(Bytes::from(vec![b'x'; VALUE]));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        use axum::serve::ListenerExt as _;
        let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
        axum::serve(listener, router).await
    });
    address
}

async fn door_alone() -> SocketAddr {
    let table = Arc::new(Table {
        id: TableId(1),
        name: "b".parse().expect("a name"),
        settings: TableSettings::bucket(1),
        version: Epoch(1),
    });
    let mut record = Record::empty(RecordKind::Siblings);
    let mutation = Mutation {
        op: OpId::from_parts(1, 1),
        request: 0,
        context: Context::default(),
        action: Action::Put(Value {
            body: Bytes::from(vec![b'x'; VALUE]),
            content_type: Some("text/plain".to_owned()),
            ..Value::default()
        }),
    };
    let dot = Dot { actor: ActorId(7), counter: 1 };
    let mint = Mint { dot, stamp: Hlc(1), now: WallMicros(1) };
    record.mint(mutation, mint).expect("a fresh dot");
    let backend = Constant { table, record, codec: ContextCodec::new([1; 32]) };
    let door = Door::new(Arc::new(backend), tokio_env(), HttpLimits::default(), Registry::new());
    let listener = Listener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("a port");
    let address = listener.local_address().expect("an address");
    tokio::spawn(listener.serve(door, std::future::pending()));
    address
}

async fn node() -> SocketAddr {
    let mut config = Config::default();
    config.storage.engine = EngineKind::Memory;
    config.listen.http = SocketAddr::from(([127, 0, 0, 1], 0));
    config.listen.peer = SocketAddr::from(([127, 0, 0, 1], 0));
    config.cluster.founders =
        vec![Founder { name: "n1".to_owned(), address: "127.0.0.1:1".to_owned() }];
    let node = run::start(&config, tokio_env()).await.expect("the node starts");
    while !node.is_ready() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let address = node.http_address();
    let call = async |request: String| {
        let mut stream = TcpStream::connect(address).await.expect("the node listens");
        stream.write_all(request.as_bytes()).await.expect("it takes requests");
        let mut out = Vec::new();
        stream.read_to_end(&mut out).await.expect("it answers");
        assert!(out.starts_with(b"HTTP/1.1 201"), "{:?}", std::str::from_utf8(&out));
    };
    let head = "host: bench\r\nconnection: close";
    call(format!("PUT /v1/buckets/b HTTP/1.1\r\n{head}\r\ncontent-length: 0\r\n\r\n")).await;
    for n in 0..10 {
        let value = "x".repeat(VALUE);
        call(format!(
            "PUT /v1/kv/b/key{n:03} HTTP/1.1\r\n{head}\r\ncontent-type: text/plain\r\n\
             content-length: {VALUE}\r\n\r\n{value}"
        ))
        .await;
    }
    // Lives as long as the process.
    std::mem::forget(node);
    address
}

/// Has one value under every key, and nothing else.
struct Constant {
    table: Arc<Table>,
    record: Record,
    codec: ContextCodec,
}

impl Backend for Constant {
    fn table(&self, _: &str, _: &str) -> Option<Arc<Table>> {
        Some(self.table.clone())
    }
    fn tables(&self) -> Vec<Arc<Table>> {
        vec![self.table.clone()]
    }
    fn codec(&self) -> &ContextCodec {
        &self.codec
    }
    fn read(&self, _: ReadOp) -> BoxFuture<'_, Result<ReadOutcome, OpError>> {
        let record = self.record.clone();
        Box::pin(async { Ok(ReadOutcome { record, now: WallMicros(2), receipt: None }) })
    }
    fn write(&self, _: WriteOp) -> BoxFuture<'_, Result<WriteOutcome, OpError>> {
        Box::pin(async { Err(OpError::NoSuchTable) })
    }
    fn list(&self, _: ListOp) -> BoxFuture<'_, Result<ListPage, OpError>> {
        Box::pin(async { Err(OpError::NoSuchTable) })
    }
    fn locate(&self, _: &Table, _: &Key) -> Whereabouts {
        unreachable!("not asked")
    }
    fn partition_digest(
        &self,
        _: Arc<Table>,
        _: PartitionId,
    ) -> BoxFuture<'_, Result<PartitionDigest, OpError>> {
        Box::pin(async { Err(OpError::NoSuchTable) })
    }
    fn create_table(
        &self,
        _: TableName,
        _: TableSettings,
    ) -> BoxFuture<'_, Result<Creation, OpError>> {
        Box::pin(async { Err(OpError::NoSuchTable) })
    }
    fn alter_table(
        &self,
        _: Arc<Table>,
        _: TableSettings,
    ) -> BoxFuture<'_, Result<Alteration, OpError>> {
        Box::pin(async { Err(OpError::NoSuchTable) })
    }
    fn drop_table(&self, _: Arc<Table>) -> BoxFuture<'_, Result<(), OpError>> {
        Box::pin(async { Err(OpError::NoSuchTable) })
    }
    fn node_count(&self) -> u32 {
        1
    }
    fn cluster(&self) -> ClusterView {
        unreachable!("not asked")
    }
    fn ring(&self) -> RingView {
        unreachable!("not asked")
    }
    fn ready(&self) -> Result<(), NotReady> {
        Ok(())
    }
}
