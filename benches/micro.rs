//! Micro-benchmarks of the pure steps that every request takes. `cargo bench --bench micro`, or
//! `cargo bench --bench micro -- token` for one group. One function per module, listed at the end.

#![allow(missing_docs, reason = "criterion's macros make undocumented items")]

use std::collections::BTreeMap;
use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use henge::quorum::{ReplicaInfo, Requirement, Tally};
use henge::ring::{Member, Replication, RingSnapshot, claim, token_of};
use henge::types::{Consistency, Epoch, NodeId, PartitionId};

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

criterion_group!(benches, token, ring, quorum);
criterion_main!(benches);
