//! Bad disks and data directories under whole processes: full, read-only, dying, damaged, cut
//! short, another node's. The node goes on, or stops with a message that names the cure, and the
//! cure works.
//!
//! What a narrower test shows as well is not repeated here:
//!
//! | bad disk | test |
//! |---|---|
//! | a full disk, per engine | `full_disk.rs` |
//! | the loss of power | `power_loss.rs`, `power_cluster.rs` |
//! | a directory held by another process, or of another node | `processes.rs` |
//! | an emptied directory, an older copy of one | `identity.rs` |
//! | a damaged log at any place, per engine | `storage::sled_engine`, `storage::fjall_engine` |
//! | damaged records, and who heals them | `node::tests::damage`, `replica::tests` |
//! | a failed sync | `storage::committer::tests`, `replica::tests` |
#![allow(clippy::disallowed_methods, reason = "drives real processes on the real clock")]

#[path = "support/power.rs"]
mod power;
mod support;

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use henge::client::{BucketSettings, Client, FoundValue, ListOptions, ReadOptions, WriteOptions};
use henge::config::{Config, EngineKind};
use henge::storage::{Batch, Engine, KeyRange, SledEngine, SledOptions};

use power::PowerDisk;
use support::cluster::TestCluster;
use support::henge_in;

const BUCKET: &str = "b";

async fn create_bucket(cluster: &TestCluster) {
    let client = cluster.client().expect("addresses");
    client.create_bucket(BUCKET, &BucketSettings::default()).await.expect("a bucket");
}

/// Writes `count` keys to all replicas.
async fn write(cluster: &TestCluster, count: usize) {
    let client = cluster.client().expect("addresses");
    let options = WriteOptions { level: Some("all".to_owned()), ..WriteOptions::default() };
    for n in 0..count {
        client.put(BUCKET, key(n).as_bytes(), value(n), &options).await.expect("a write");
    }
}

fn key(n: usize) -> String {
    format!("key {n}")
}

fn value(n: usize) -> Vec<u8> {
    format!("the value of {n};").repeat(20 + n % 7).into_bytes()
}

/// A client of one node that tries again: right after a start, nodes may still have to connect.
fn patient(cluster: &TestCluster, node: usize) -> Client {
    let client = Client::new([cluster.url(node)]).expect("an address");
    client.with_patience(Duration::from_secs(60))
}

/// Reads them all at a quorum through one node.
async fn check(cluster: &TestCluster, node: usize, count: usize) {
    let client = patient(cluster, node);
    for n in 0..count {
        let found = client.get(BUCKET, key(n).as_bytes(), &ReadOptions::default()).await;
        match found.expect("a read").value {
            FoundValue::One(stored) => assert_eq!(stored.value, value(n), "key {n}"),
            other => panic!("key {n} through node {node}: {other:?}"),
        }
    }
}

/// What a node says that does not start.
async fn refusal(cluster: &TestCluster, node: usize) -> String {
    let config = cluster.config_file(node).display().to_string();
    let args = ["start", "--config", &config];
    henge_in(cluster.directory(), "", &args, b"").await.code(1).stderr
}

/// A node on a small disk of its own.
async fn on_a_disk(mib: u64) -> Option<(TestCluster, PowerDisk)> {
    let mut cluster = TestCluster::prepare(1, &Config::default());
    let disk = PowerDisk::at(&cluster.data_dir(0), mib)?;
    cluster.start_node(0).expect("a start");
    cluster.wait_ready().await.expect("ready");
    create_bucket(&cluster).await;
    Some((cluster, disk))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_writes_and_recovers_by_itself() {
    let Some((mut cluster, disk)) = on_a_disk(400).await else { return };
    write(&cluster, 20).await;
    let ballast = disk.fill(32);
    let client = cluster.client().expect("addresses");
    let usual = WriteOptions::default();
    let put = || client.put(BUCKET, b"new", "v", &usual);
    let refused = put().await.expect_err("below the reserve").to_string();
    assert!(refused.contains("full") && refused.contains("reserve"), "{refused}");
    check(&cluster, 0, 20).await;
    fs::remove_file(ballast).expect("room again");
    put().await.expect("there is room again");
    // It stops on a full disk too. A start has to be put on record, for which there is no room.
    let ballast = disk.fill(32);
    assert!(cluster.stop(0).expect("it runs").success());
    let said = refusal(&cluster, 0).await;
    assert!(said.contains("make room") && said.contains("storage.reserve_mb"), "{said}");
    fs::remove_file(ballast).expect("room again");
    cluster.start_node(0).expect("a start");
    cluster.wait_ready().await.expect("ready");
    check(&cluster, 0, 20).await;
    drop(cluster.stop(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_data_directory_stops_the_start_and_names_the_setting() {
    let Some((mut cluster, disk)) = on_a_disk(300).await else { return };
    write(&cluster, 5).await;
    cluster.stop(0).expect("it runs");
    disk.set_read_only(true);
    let said = refusal(&cluster, 0).await;
    let directory = cluster.data_dir(0).display().to_string();
    for part in ["Read-only", &directory, "node.data_dir"] {
        assert!(said.contains(part), "{part} in {said}");
    }
    disk.set_read_only(false);
    cluster.start_node(0).expect("a start");
    cluster.wait_ready().await.expect("ready");
    check(&cluster, 0, 5).await;
    drop(cluster.stop(0));
}

/// Every write and sync on the disk fails from one moment on: the node acknowledges nothing more
/// and ends by itself, and has everything it acknowledged when the disk is back.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_dies_stops_the_node_with_a_message() {
    let Some((mut cluster, mut disk)) = on_a_disk(300).await else { return };
    write(&cluster, 20).await;
    disk.cut();
    let client = cluster.client().expect("addresses");
    let put = client.put(BUCKET, b"lost", "v", &WriteOptions::default()).await;
    put.expect_err("nothing can be written");
    let deadline = Instant::now() + Duration::from_secs(60);
    let status = loop {
        if let Some(status) = cluster.ended(0).expect("it ran") {
            break status;
        }
        assert!(Instant::now() < deadline, "it still runs:\n{}", cluster.log(0));
        tokio::task::yield_now().await;
    };
    assert_eq!(status.code(), Some(1));
    let log = cluster.log(0);
    assert!(log.contains("start it again once the disk is well"), "{log}");
    disk.restore();
    cluster.start_node(0).expect("a start");
    cluster.wait_ready().await.expect("ready");
    check(&cluster, 0, 20).await;
    drop(cluster.stop(0));
}

/// Flips a bit in the stored record of `key`, checksums of the engine and all.
fn corrupt_record(store: &Path, value: &[u8]) {
    let engine = SledEngine::open(store, SledOptions::default()).expect("the store opens");
    let mut found = None;
    let scanned = engine.scan(&KeyRange::prefix(b""), &mut |key, stored| {
        let stored = stored.expect("it is sound so far");
        match stored.windows(value.len()).position(|part| part == value) {
            Some(at) => {
                let mut stored = stored.to_vec();
                stored[at] ^= 1;
                found = Some((key.to_vec(), stored));
                ControlFlow::Break(())
            }
            None => ControlFlow::Continue(()),
        }
    });
    scanned.expect("a scan");
    let (key, stored) = found.expect("the record is there");
    let mut batch = Batch::new();
    batch.put(key, stored);
    engine.apply(&batch).expect("a write");
    engine.sync().expect("a sync");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_corrupted_record_is_an_error_of_that_copy_and_is_healed() {
    let mut cluster = TestCluster::start(3).await;
    create_bucket(&cluster).await;
    write(&cluster, 30).await;
    cluster.stop(0).expect("it runs");
    corrupt_record(&cluster.data_dir(0).join("sled"), &value(7));
    cluster.start_node(0).expect("a start");
    cluster.wait_ready().await.expect("ready");

    let client = Client::new([cluster.url(0)]).expect("an address");
    let local = ReadOptions { local: true, ..ReadOptions::default() };
    let error = client.get(BUCKET, key(7).as_bytes(), &local).await.expect_err("not absence");
    assert!(error.to_string().contains("damaged"), "{error}");
    // Listings and quorums have it from the others.
    for node in 0..3 {
        let client = patient(&cluster, node);
        let page = client.list(BUCKET, &ListOptions::default()).await.expect("a page");
        assert_eq!(page.keys.len(), 30, "through node {node}");
    }
    check(&cluster, 0, 30).await;
    let deadline = Instant::now() + Duration::from_secs(60);
    while client.get(BUCKET, key(7).as_bytes(), &local).await.is_err() {
        assert!(Instant::now() < deadline, "not healed:\n{}", cluster.log(0));
        tokio::task::yield_now().await;
    }
    assert!(cluster.log(0).contains("a stored record is damaged"), "{}", cluster.log(0));
}

/// The largest file of a store: sled's log, or fjall's journal.
fn largest_file(directory: &Path) -> PathBuf {
    fn walk(directory: &Path, found: &mut Vec<(u64, PathBuf)>) {
        for entry in fs::read_dir(directory).expect("a directory").flatten() {
            let path = entry.path();
            if path.is_dir() {
                walk(&path, found);
            } else {
                found.push((entry.metadata().expect("a file").len(), path));
            }
        }
    }
    let mut found = Vec::new();
    walk(directory, &mut found);
    found.into_iter().max().expect("a file").1
}

/// Whatever is left of a node's log: it starts and the cluster shows what was acknowledged, or it
/// refuses with a cure, and the cure works.
async fn survives_a_log_cut_short(engine: EngineKind, keep: impl Fn(u64) -> u64) {
    let mut config = Config::default();
    config.storage.engine = engine;
    let mut cluster = TestCluster::start_with(3, &config).await;
    create_bucket(&cluster).await;
    write(&cluster, 60).await;
    cluster.stop(0).expect("it runs");
    let log = largest_file(&cluster.data_dir(0));
    let file = fs::File::options().write(true).open(&log).expect("the log");
    let len = file.metadata().expect("the log").len();
    file.set_len(keep(len)).expect("cut short");
    drop(file);

    cluster.start_node(0).expect("a start");
    match cluster.wait_node_ready(0).await {
        Ok(()) => check(&cluster, 0, 60).await,
        Err(error) => {
            let said = error.to_string();
            assert!(said.contains("move the data directory away"), "{said}");
            check(&cluster, 1, 60).await;
            let aside = cluster.directory().join("aside");
            fs::rename(cluster.data_dir(0), aside).expect("moved away");
            cluster.start_node(0).expect("a start");
            cluster.wait_ready().await.expect("ready");
        }
    }
    for node in 0..3 {
        check(&cluster, node, 60).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_log_of_sled_loses_nothing_that_others_have() {
    survives_a_log_cut_short(EngineKind::Sled, |len| len / 2).await;
    survives_a_log_cut_short(EngineKind::Sled, |_| 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_journal_of_fjall_loses_nothing_that_others_have() {
    survives_a_log_cut_short(EngineKind::Fjall, |_| 9_000).await;
    survives_a_log_cut_short(EngineKind::Fjall, |_| 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_cannot_be_read_at_all_stops_the_start_and_names_the_cure() {
    let mut cluster = TestCluster::start(1).await;
    create_bucket(&cluster).await;
    write(&cluster, 5).await;
    cluster.stop(0).expect("it runs");
    fs::write(cluster.data_dir(0).join("sled").join("conf"), [0x5A; 60]).expect("a file");
    let said = refusal(&cluster, 0).await;
    for part in ["cannot be opened", "move the data directory away", "backup"] {
        assert!(said.contains(part), "{part} in {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_of_another_cluster_or_a_file_in_its_place_is_refused() {
    let mut cluster = TestCluster::start(1).await;
    cluster.stop(0).expect("it runs");
    let file = cluster.config_file(0);
    let text = fs::read_to_string(&file).expect("a configuration");
    fs::write(&file, text.replace("name = \"test\"", "name = \"other\"")).expect("a file");
    let said = refusal(&cluster, 0).await;
    assert!(said.contains("test") && said.contains("other"), "{said}");
    assert!(said.contains("cluster.name"), "the cure: {said}");
    fs::write(&file, text).expect("a file");
    fs::remove_dir_all(cluster.data_dir(0)).expect("removed");
    fs::write(cluster.data_dir(0), "no directory").expect("a file");
    let said = refusal(&cluster, 0).await;
    assert!(said.contains("node.data_dir"), "{said}");
}
