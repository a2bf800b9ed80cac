//! Micro-benchmarks of the pure steps that every request takes. `cargo bench --bench micro`, or
//! `cargo bench --bench micro -- token` for one group. One function per module, listed at the end.

#![allow(missing_docs, reason = "criterion's macros make undocumented items")]

use std::collections::BTreeMap;
use std::hint::black_box;

use bytes::Bytes;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use henge::causality::{Context, ContextCodec};
use henge::quorum::{ReplicaInfo, Requirement, Tally};
use henge::record::{self, Action, Mint, Mutation, Record, RecordKind, Value};
use henge::ring::{Member, Replication, RingSnapshot, claim, token_of};
use henge::types::{
    ActorId, Consistency, Dot, Epoch, Hlc, Key, NodeId, OpId, PartitionId, TableId, WallMicros,
};

/// Partition key to token.
fn token(c: &mut Criterion) {
    let mut group = c.benchmark_group("token");
    for len in [8, 16, 24, 100, 1024] {
        let key = vec![b'k'; len];
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_with_input(BenchmarkId::from_parameter(len), &key, |b, key| {
            b.iter(|| token_of(black_box(key)));
        });
    }
}

fn nine_nodes(q: u32) -> RingSnapshot {
    let member = |i: u128| Member {
        id: NodeId(i),
        name: format!("n{i}"),
        datacenter: "dc1".to_owned(),
        rack: format!("r{}", i % 3),
        capacity: 1,
    };
    let members: Vec<Member> = (1..=9).map(member).collect();
    let owners = claim(q, &members, None);
    RingSnapshot::new(Epoch(1), q, members, owners).expect("a claimed ring is sound")
}

/// Key to replicas, as a request does it; and what a new epoch costs once.
fn ring(c: &mut Criterion) {
    let snapshot = nine_nodes(256);
    let replication =
        Replication::NetworkTopology { factors: BTreeMap::from([("dc1".to_owned(), 3)]) };
    let placement = snapshot.placement(&replication);
    let key = b"user:0000012345".as_slice();

    let mut group = c.benchmark_group("ring");
    group.bench_function("lookup, placement at hand", |b| {
        b.iter(|| placement.of(snapshot.partition_of(token_of(black_box(key)))));
    });
    group.bench_function("lookup, placement by name", |b| {
        b.iter(|| {
            let p = snapshot.partition_of(token_of(black_box(key)));
            snapshot.placement(black_box(&replication)).shared(p)
        });
    });
    group.bench_function("walk for one partition", |b| {
        b.iter(|| snapshot.replicas(&replication, black_box(PartitionId(17))));
    });
    group.bench_function("claim, 9 nodes, Q = 256", |b| b.iter(|| nine_nodes(256)));
}

/// Planning and counting a quorum write of three.
fn quorum(c: &mut Criterion) {
    let replicas = [1, 2, 3].map(|i| ReplicaInfo { node: NodeId(i), datacenter: "dc1" });
    c.bench_function("quorum/requirement and tally", |b| {
        b.iter(|| {
            let requirement =
                Requirement::for_write(Consistency::Quorum, black_box(&replicas), "dc1")
                    .expect("a sound level");
            let mut tally = Tally::new(requirement, NodeId(1));
            tally.on_ack(NodeId(1));
            tally.on_ack(black_box(NodeId(3)))
        });
    });
}

/// A record with this many siblings of 100 bytes, each of another actor.
fn record_of(siblings: u64) -> Record {
    let mut record = Record::empty(RecordKind::Siblings);
    for n in 1..=siblings {
        let value = Value {
            body: Bytes::from(vec![b'x'; 100]),
            content_type: Some("text/plain".to_owned()),
            ..Value::default()
        };
        let (op, action) = (OpId::from_parts(n, u128::from(n)), Action::Put(value));
        let mutation = Mutation { op, request: n, context: Context::default(), action };
        let dot = Dot { actor: ActorId(n), counter: n };
        let mint = Mint { dot, stamp: Hlc(n), now: WallMicros(1) };
        record.mint(mutation, mint).expect("a fresh dot");
    }
    record
}

/// Records: to bytes and back, checked without decoding, and merged.
fn records(c: &mut Criterion) {
    let key = Key::new(&b"user:0000012345"[..]).expect("a short key");
    let address = record::address(TableId(7), &key);
    let mut group = c.benchmark_group("record");
    for siblings in [1, 3] {
        let whole = record_of(siblings);
        let bytes = whole.encode(&address);
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        let id = |what| BenchmarkId::new(what, siblings);
        group.bench_function(id("encode"), |b| b.iter(|| black_box(&whole).encode(&address)));
        group.bench_function(id("decode"), |b| {
            b.iter(|| Record::decode(black_box(&bytes), &address));
        });
        group.bench_function(id("verify"), |b| {
            b.iter(|| record::verify(black_box(&bytes), &address));
        });
        let one = record_of(1);
        group.bench_function(id("merge of one more"), |b| {
            b.iter_batched(
                || one.clone(),
                |mut merged| merged.merge(black_box(&whole)).map(|_| merged),
                BatchSize::SmallInput,
            );
        });
    }
    let codec = ContextCodec::new([7; 32]);
    let context = record_of(3).context();
    let token = codec.seal(TableId(7), &key, &context);
    group.bench_function("context, sealed", |b| {
        b.iter(|| codec.seal(TableId(7), &key, black_box(&context)));
    });
    group.bench_function("context, opened", |b| {
        b.iter(|| codec.open(TableId(7), &key, black_box(&token)));
    });
    group.finish();
}

criterion_group!(benches, token, ring, quorum, records);
criterion_main!(benches);
