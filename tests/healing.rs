//! Replicas that have drifted apart come together by themselves: whole processes, real disks.
//!
//! - *By hash trees alone*: hints are off, a node is stopped, keys are changed and deleted, the
//!   node is started again. Nobody reads a changed key until all are equal.
//! - *After the loss of a data directory*: a node's directory is deleted, and it is started again
//!   while clients write and read at quorum through the others.
//!
//! Both print what they moved and how long it took. More keys:
//! `HENGE_HEAL_KEYS=1000000 cargo test --profile ci --features sim --test healing -- --nocapture`
#![allow(clippy::disallowed_methods, reason = "drives real processes on the real clock")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use henge::client::{
    BucketSettings, Call, Client, FoundValue, OpMode, ReadOptions, Repeat, WriteOptions,
};
use henge::config::Config;
use hyper::Method;

use support::cluster::TestCluster;

const SECOND: Duration = Duration::from_secs(1);
const BUCKET: &str = "healing";
const VALUE: usize = 100;
/// Writes under way at once.
const WRITERS: usize = 64;
/// What a record holds beside its value: vector, dot, operation, checksum. Measured once, for the
/// bound on what may be moved.
const OVERHEAD: u64 = 120;

fn keys(usual: u64) -> u64 {
    std::env::var("HENGE_HEAL_KEYS").ok().and_then(|n| n.parse().ok()).unwrap_or(usual)
}

fn key(n: u64) -> Vec<u8> {
    format!("key-{n:08}").into_bytes()
}

fn value(n: u64, version: u64) -> String {
    format!("{n}/{version}/{}", "x".repeat(VALUE))
}

fn at(level: &str) -> WriteOptions {
    WriteOptions { level: Some(level.to_owned()), op: OpMode::None, ..WriteOptions::default() }
}

/// Values of `/metrics` by name and labels.
async fn metrics(cluster: &TestCluster, node: usize) -> Vec<(String, f64)> {
    let client = Client::new([cluster.url(node)]).unwrap();
    let call = Call::new(Method::GET, "/metrics");
    let reply = client.ask(&call, Repeat::Always).await.unwrap();
    let text = String::from_utf8(reply.body.to_vec()).unwrap();
    let line = |line: &str| {
        let (name, number) = line.rsplit_once(' ')?;
        Some((name.to_owned(), number.parse().ok()?))
    };
    text.lines().filter(|text| !text.starts_with('#')).filter_map(line).collect()
}

async fn sum(cluster: &TestCluster, name: &str) -> f64 {
    let mut total = 0.0;
    for node in 0..cluster.len() {
        total += sum_of(cluster, node, name).await;
    }
    total
}

async fn sum_of(cluster: &TestCluster, node: usize, name: &str) -> f64 {
    let all = metrics(cluster, node).await;
    let of_name = |(full, _): &&(String, f64)| full.split('{').next() == Some(name);
    all.iter().filter(of_name).map(|(_, number)| number).sum()
}

/// Waits until no two nodes differ in any hash tree: comparisons that began after the call have
/// found all of them built and equal. Returns how long that took.
async fn until_equal(cluster: &TestCluster, limit: Duration) -> Duration {
    let begun = Instant::now();
    loop {
        let pairs = (cluster.len() * (cluster.len() - 1) / 2) as f64;
        let (rounds, found) = (
            sum(cluster, "henge_repair_rounds_total").await,
            sum(cluster, "henge_repair_trees_total").await,
        );
        let so_far = begun.elapsed();
        // Two whole rounds of each pair that find nothing to differ.
        while sum(cluster, "henge_repair_rounds_total").await < rounds + 2.0 * pairs {
            assert!(begun.elapsed() < limit, "the nodes do not compare their trees");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let quiet = sum(cluster, "henge_repair_trees_total").await == found;
        let apart = sum(cluster, "henge_ranges_apart").await;
        let unbuilt = sum(cluster, "henge_trees_unbuilt").await;
        if quiet && apart == 0.0 && unbuilt == 0.0 {
            return so_far;
        }
        assert!(begun.elapsed() < limit, "{apart} ranges apart, {unbuilt} trees not built");
    }
}

/// Waits until `nodes` believe that one member is down and hold no write for it: a write is sent
/// again for a while, and a node that starts in that time is brought up by it and not by trees.
async fn until_given_up(cluster: &TestCluster, nodes: &[usize]) {
    let begun = Instant::now();
    for &node in nodes {
        let up = (cluster.len() - 1) as f64;
        while sum_of(cluster, node, "henge_member_up").await > up
            // Less than one write: heartbeats wait there too.
            || sum_of(cluster, node, "henge_peer_queued_bytes").await >= VALUE as f64
        {
            assert!(begun.elapsed() < Duration::from_secs(60), "writes wait for ever");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

async fn put_all(client: &Client, numbers: impl Iterator<Item = u64>, version: u64, level: &str) {
    let options = at(level);
    futures_util::stream::iter(numbers)
        .for_each_concurrent(WRITERS, |n| {
            let options = &options;
            async move {
                let found = if version > 0 {
                    client.get(BUCKET, &key(n), &ReadOptions::default()).await.unwrap().context
                } else {
                    None
                };
                let options = WriteOptions { context: found, ..options.clone() };
                client.put(BUCKET, &key(n), value(n, version), &options).await.unwrap();
            }
        })
        .await;
}

/// What `node` itself holds of each key is what is expected: `None` for a deleted one.
async fn check_own(
    cluster: &TestCluster,
    node: usize,
    all: u64,
    expected: impl Fn(u64) -> Option<u64>,
) {
    let client = Client::new([cluster.url(node)]).unwrap();
    let own = ReadOptions { local: true, ..ReadOptions::default() };
    futures_util::stream::iter(0..all)
        .for_each_concurrent(WRITERS, |n| {
            let (client, own, want) = (&client, &own, expected(n));
            async move {
                let found = client.get(BUCKET, &key(n), own).await.unwrap().value;
                let same = match (&found, want) {
                    (FoundValue::Absent, None) => true,
                    (FoundValue::One(one), Some(version)) => one.value == value(n, version),
                    _ => false,
                };
                assert!(same, "node {node}, key {n}: {found:?}, not version {want:?}");
            }
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_missed_writes_are_brought_up_by_hash_trees_alone() {
    let all = keys(3_000);
    let (changed, deleted) = (all / 2, all / 10);
    let mut base = Config::default();
    base.hints.enabled = false;
    base.repair.interval_ms = 1_000;
    let mut cluster = TestCluster::start_with(3, &base).await;
    let client = Client::new([cluster.url(0), cluster.url(1)]).unwrap();
    client.create_bucket(BUCKET, &BucketSettings::default()).await.unwrap();
    put_all(&client, 0..all, 0, "all").await;
    until_equal(&cluster, Duration::from_secs(120)).await;

    cluster.stop(2).unwrap();
    put_all(&client, 0..changed, 1, "quorum").await;
    futures_util::stream::iter(changed..changed + deleted)
        .for_each_concurrent(WRITERS, |n| {
            let client = &client;
            async move { drop(client.delete(BUCKET, &key(n), &at("quorum")).await.unwrap()) }
        })
        .await;
    until_given_up(&cluster, &[0, 1]).await;
    let before = bytes_moved(&cluster, &[0, 1]).await;
    cluster.start_node(2).unwrap();
    cluster.wait_node_ready(2).await.unwrap();
    let took = until_equal(&cluster, Duration::from_secs(240)).await;

    check_own(&cluster, 2, all, |n| match n {
        n if n < changed => Some(1),
        n if n < changed + deleted => None,
        _ => Some(0),
    })
    .await;
    let bytes = bytes_moved(&cluster, &[0, 1, 2]).await - before;
    let value = value(0, 1).len() as u64;
    let differ = changed * (value + OVERHEAD) + deleted * OVERHEAD;
    println!(
        "by trees alone: {changed} keys changed and {deleted} deleted of {all}, equal {:.1} s after \
         the node was ready; {bytes:.0} bytes moved, {differ} differed",
        took.as_secs_f64(),
    );
    assert!(bytes < 3.0 * differ as f64, "{bytes} bytes moved for {differ} that differ");
    assert!(bytes >= (changed * value) as f64, "nothing but repair can have moved them: {bytes}");
}

async fn bytes_moved(cluster: &TestCluster, nodes: &[usize]) -> f64 {
    let mut total = 0.0;
    for &node in nodes {
        for (name, number) in metrics(cluster, node).await {
            let counts = ["henge_repair_pulled_bytes_total", "henge_repair_pushed_bytes_total"];
            if counts.contains(&name.split('{').next().unwrap_or_default()) {
                total += number;
            }
        }
    }
    total
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_lost_its_data_directory_is_filled_again_under_load() {
    let all = keys(3_000);
    let mut base = Config::default();
    base.repair.interval_ms = 1_000;
    let mut cluster = TestCluster::start_with(3, &base).await;
    let client = Client::new([cluster.url(0), cluster.url(1)]).unwrap();
    client.create_bucket(BUCKET, &BucketSettings::default()).await.unwrap();
    put_all(&client, 0..all, 0, "quorum").await;
    until_equal(&cluster, Duration::from_secs(240)).await;

    // One client after another through the two nodes that stay; none of its requests may fail.
    let over = Arc::new(AtomicBool::new(false));
    let served = Arc::new(AtomicU64::new(0));
    let mut load = Vec::new();
    for writer in 0..4u64 {
        let (over, served) = (over.clone(), served.clone());
        // No repeats: a request that fails once has failed.
        let client =
            Client::new([cluster.url(writer as usize % 2)]).unwrap().with_patience(Duration::ZERO);
        load.push(tokio::spawn(async move {
            let mut n = 0;
            while !over.load(Ordering::Acquire) {
                let name = format!("load-{writer}-{n}").into_bytes();
                client.put(BUCKET, &name, "v", &at("quorum")).await.expect("a quorum write");
                let old = key((n * 7 + writer) % all);
                let read = client.get(BUCKET, &old, &ReadOptions::default()).await;
                let found = read.expect("a quorum read").value;
                assert!(matches!(found, FoundValue::One(_)), "{found:?}");
                served.fetch_add(2, Ordering::Relaxed);
                n += 1;
            }
        }));
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    cluster.kill(2).unwrap();
    std::fs::remove_dir_all(cluster.data_dir(2)).unwrap();
    let began = Instant::now();
    cluster.start_node(2).unwrap();
    let node = Client::new([cluster.url(2)]).unwrap();
    let ready = Call::new(Method::GET, "/readyz");
    while !node.nodes()[0].send(&ready, SECOND).await.is_ok_and(|reply| reply.status == 200) {
        assert!(cluster.ended(2).unwrap().is_none(), "{}", cluster.log(2));
        assert!(began.elapsed() < Duration::from_secs(600), "{}", cluster.log(2));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let ready = began.elapsed();
    tokio::time::sleep(SECOND).await;
    over.store(true, Ordering::Release);
    for client in load {
        client.await.expect("no request failed");
    }
    let served = served.load(Ordering::Relaxed);
    let copied = sum_of(&cluster, 2, "henge_refill_bytes_total").await;
    until_equal(&cluster, Duration::from_secs(600)).await;
    let took = began.elapsed();
    check_own(&cluster, 2, all, |_| Some(0)).await;
    println!(
        "a data directory with {all} keys lost: served again after {:.1} s ({copied:.0} bytes copied), \
         all equal after {:.1} s, {served} quorum requests meanwhile, none failed",
        ready.as_secs_f64(),
        took.as_secs_f64(),
    );
    assert!(served > 20, "{served}");
    assert!(copied >= (all * value(0, 0).len() as u64) as f64, "{copied} bytes");
}
