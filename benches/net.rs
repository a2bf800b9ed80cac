//! Peer messages: their codec, and calls over TCP on loopback.
//!
//! `cargo bench --bench net`
#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use futures_util::future::join_all;
use henge::env::{BoxFuture, Env, HlcClock, tokio_env};
use henge::net::codec::{self, decode_request, decode_response, encode_request, encode_response};
use henge::net::handshake::PROTOCOL;
use henge::net::messages::{Apply, Header, Read, Request, Response, Want};
use henge::net::{Admission, Hello, NodeStamps, PeerService, TcpOptions, TcpTransport, Transport};
use henge::types::{ActorId, Epoch, Generation, Hlc, Incarnation, Key, NodeId, TableId};

const MAX: usize = codec::DEFAULT_MAX_PAYLOAD_BYTES;

fn header() -> Header {
    Header { epoch: Epoch(12), hlc: Hlc(1_760_000_000_000_000), budget_ms: 2000 }
}

fn key() -> Key {
    Key::new(&b"flight:2013-01-01:UA:1545"[..]).expect("a short key")
}

fn read() -> Request {
    Request::Read(Read { table: TableId(7), key: key(), want: Want::Record })
}

fn apply(bytes: usize) -> Request {
    let record = Bytes::from(vec![0x5a; bytes]);
    Request::Apply(Apply {
        table: TableId(7),
        key: key(),
        record,
        generation: Generation::default(),
        heals: false,
    })
}

fn codec_costs(c: &mut Criterion) {
    let mut group = c.benchmark_group("codec");
    let requests = [("read", read()), ("apply/100", apply(100)), ("apply/8192", apply(8192))];
    for (name, request) in &requests {
        let frame = encode_request(1, &header(), request, MAX).expect("below the bound");
        group.throughput(Throughput::Bytes(frame.len() as u64));
        group.bench_function(BenchmarkId::new("encode", name), |b| {
            b.iter(|| encode_request(1, &header(), black_box(request), MAX));
        });
        group.bench_function(BenchmarkId::new("decode", name), |b| {
            b.iter(|| decode_request(black_box(&frame), MAX));
        });
    }
    for bytes in [100, 8192] {
        let response =
            Response::Record(Some(Bytes::from(vec![0x5a; bytes])), Generation::default());
        let frame = encode_response(1, &header(), &response, MAX).expect("below the bound");
        group.throughput(Throughput::Bytes(frame.len() as u64));
        group.bench_function(BenchmarkId::new("encode/record", bytes), |b| {
            b.iter(|| encode_response(1, &header(), black_box(&response), MAX));
        });
        group.bench_function(BenchmarkId::new("decode/record", bytes), |b| {
            b.iter(|| decode_response(black_box(&frame), MAX));
        });
    }
    group.finish();
}

/// Answers every read with a record of 100 bytes, at once.
struct Memory(Bytes);

impl PeerService for Memory {
    fn serve(&self, _: NodeId, _: Header, _: Request) -> BoxFuture<'static, Response> {
        let record = self.0.clone();
        Box::pin(async move { Response::Record(Some(record), Generation::default()) })
    }
}

struct Everyone(NodeId);

impl Admission for Everyone {
    fn hello(&self) -> Hello {
        Hello {
            protocol: PROTOCOL,
            cluster_name: "bench".to_owned(),
            cluster_id: None,
            node: self.0,
            actor: ActorId(1),
            incarnation: Incarnation(1),
            epoch: Epoch(0),
        }
    }

    fn admit(&self, _: &Hello) -> Result<(), String> {
        Ok(())
    }
}

async fn node(env: &Env, id: u128) -> Arc<TcpTransport> {
    let clock = HlcClock::new(env.clone(), Hlc(0), Duration::from_secs(1));
    let options = TcpOptions { listen: "127.0.0.1:0".to_owned(), ..TcpOptions::default() };
    let stamps = Arc::new(NodeStamps::new(clock));
    let node = TcpTransport::start(env.clone(), options, stamps, Arc::new(Everyone(NodeId(id))))
        .await
        .expect("a free port on loopback");
    node.set_service(Arc::new(Memory(Bytes::from(vec![0x5a; 100]))));
    node
}

/// Reads of 100 bytes from a peer in the same process, with so many calls under way.
fn loopback_calls(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let mut group = c.benchmark_group("loopback");
    group.throughput(Throughput::Elements(1));
    for in_flight in [1, 64, 512] {
        group.bench_function(BenchmarkId::new("read/100", in_flight), |b| {
            b.iter_custom(|calls| runtime.block_on(measure(calls, in_flight)));
        });
    }
    group.finish();
}

#[allow(clippy::disallowed_methods, reason = "a benchmark measures real time")]
async fn measure(calls: u64, in_flight: u64) -> Duration {
    let env = tokio_env();
    let (a, b) = (node(&env, 1).await, node(&env, 2).await);
    a.set_address(NodeId(2), &b.local_addr().to_string());
    let call = {
        let (env, a) = (env.clone(), a.clone());
        move || a.call(NodeId(2), header(), read(), env.mono() + Duration::from_secs(60))
    };
    call().await.expect("an answer");
    let begin = Instant::now();
    let workers = (0..in_flight).map(|worker| {
        let call = call.clone();
        let share = calls / in_flight + u64::from(worker < calls % in_flight);
        tokio::spawn(async move {
            for _ in 0..share {
                call().await.expect("an answer");
            }
        })
    });
    join_all(workers).await;
    begin.elapsed()
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .sample_size(20);
    targets = codec_costs, loopback_calls
}
criterion_main!(benches);
