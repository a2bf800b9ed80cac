//! Rule 17 and law L3 on whole processes: a data directory that is an older copy of itself, whose
//! store is cut short, or that is empty, comes back as a new actor, is refilled from the others, and
//! counts for nothing before.
#![allow(clippy::disallowed_methods, reason = "drives real processes on the real clock")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use henge::client::{BucketSettings, Client, FoundValue, ReadOptions, WriteOptions};
use henge::config::{Config, Durability};

use support::cluster::TestCluster;

const BUCKET: &str = "b";

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    for entry in fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("a copy");
        }
    }
}

/// A cluster of three, and what was written to it.
struct World {
    cluster: TestCluster,
    written: BTreeMap<String, String>,
    prefix: &'static str,
}

impl World {
    async fn start() -> Self {
        Self::start_with(&Config::default()).await
    }

    async fn start_with(base: &Config) -> Self {
        let cluster = TestCluster::start_with(3, base).await;
        let client = cluster.client().expect("addresses");
        client.create_bucket(BUCKET, &BucketSettings::default()).await.expect("a bucket");
        Self { cluster, written: BTreeMap::new(), prefix: "k" }
    }

    fn all(&self) -> Client {
        self.cluster.client().expect("addresses").with_patience(Duration::from_secs(60))
    }

    fn one(&self, node: usize) -> Client {
        Client::new([self.cluster.url(node)]).expect("an address")
    }

    /// Writes 50 new keys through `client` at `level`.
    async fn write(&mut self, client: &Client, level: &str) {
        let options = WriteOptions { level: Some(level.to_owned()), ..WriteOptions::default() };
        for _ in 0..50 {
            let key = format!("{}{}", self.prefix, self.written.len());
            let value = format!("value of {key}");
            client.put(BUCKET, key.as_bytes(), value.clone(), &options).await.expect("a write");
            self.written.insert(key, value);
        }
    }

    /// The actors that minted what stands there now, by a quorum read through each node in turn.
    async fn check_all(&self) -> BTreeSet<String> {
        let client = self.all();
        let mut actors = BTreeSet::new();
        for (key, value) in &self.written {
            let found = client.get(BUCKET, key.as_bytes(), &ReadOptions::default()).await;
            let FoundValue::One(stored) = found.expect("a read").value else {
                panic!("{key} is not there, or not alone");
            };
            assert_eq!(stored.value, value.as_bytes(), "{key}");
            let dot = stored.dot.expect("a dot");
            actors.insert(dot.split_once(':').expect("actor:counter").0.to_owned());
        }
        actors
    }

    /// How many of the keys a node holds itself; an answer must be right or an error.
    async fn held_by(&self, node: usize) -> usize {
        let client = self.one(node);
        let mut held = 0;
        for (key, value) in &self.written {
            let options = ReadOptions { local: true, ..ReadOptions::default() };
            match client.get(BUCKET, key.as_bytes(), &options).await {
                Ok(found) => match found.value {
                    FoundValue::One(stored) => {
                        assert_eq!(stored.value, value.as_bytes(), "{key}");
                        held += 1;
                    }
                    FoundValue::Absent => {}
                    FoundValue::Siblings(_) => panic!("{key} has siblings"),
                },
                Err(error) => panic!("node {node} cannot show its copy of {key}: {error}"),
            }
        }
        held
    }
}

/// What a node that may not vote says: an error, never "absent".
async fn shows_nothing(world: &World, node: usize) {
    let client = world.one(node);
    for key in world.written.keys() {
        for options in [
            ReadOptions { local: true, ..ReadOptions::default() },
            ReadOptions { timeout: Some("300ms".to_owned()), ..ReadOptions::default() },
        ] {
            let found = client.get(BUCKET, key.as_bytes(), &options).await;
            assert!(found.is_err(), "{key} through node {node} with {options:?}: {found:?}");
        }
    }
}

/// Waits until a node answers HTTP at all.
async fn wait_up(world: &World, node: usize) {
    let client = world.one(node).with_patience(Duration::from_secs(60));
    client.json("/v1/cluster").await.expect("an answer");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_copy_of_a_directory_goes_on_as_a_new_actor_and_loses_nothing() {
    let mut world = World::start().await;
    let every = world.all();
    world.write(&every, "all").await;
    let before = world.check_all().await;
    let copy = world.cluster.directory().join("copy");
    let data = world.cluster.data_dir(0);

    world.cluster.stop(0).expect("a clean stop");
    copy_dir(&data, &copy);
    world.cluster.start_node(0).expect("a start");
    world.cluster.wait_ready().await.expect("ready");
    // All through node 1, and so minted by it, as far as it is asked first.
    let first = world.one(0);
    world.write(&first, "all").await;
    let minted = world.check_all().await;
    assert_eq!(minted, before, "a restart alone makes no new actor");
    world.cluster.stop(0).expect("a clean stop");

    fs::remove_dir_all(&data).expect("removed");
    copy_dir(&copy, &data);
    world.cluster.start_node(0).expect("a start");
    world.cluster.wait_ready().await.expect("ready");
    let log = world.cluster.log(0);
    assert!(log.contains("going on as a new actor"), "{log}");
    assert!(log.contains("refilled from the other replicas"), "{log}");
    assert_eq!(world.held_by(0).await, world.written.len(), "refilled");

    let first = world.one(0);
    world.write(&first, "quorum").await;
    let after = world.check_all().await;
    assert!(after.is_superset(&minted), "nothing lost");
    assert!(after.len() > minted.len(), "new writes have a new actor: {after:?}");
}

/// The copy is noticed only when the others can be reached; the node serves nothing until then,
/// and then starts anew by itself.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_copy_that_starts_alone_serves_nothing_until_it_has_learnt_what_it_is() {
    let mut world = World::start().await;
    let every = world.all();
    world.write(&every, "all").await;
    let copy = world.cluster.directory().join("copy");
    let data = world.cluster.data_dir(0);
    world.cluster.stop(0).expect("a clean stop");
    copy_dir(&data, &copy);
    world.cluster.start_node(0).expect("a start");
    world.cluster.wait_ready().await.expect("ready");
    let first = world.one(0);
    world.write(&first, "all").await;
    world.cluster.stop(0).expect("a clean stop");
    fs::remove_dir_all(&data).expect("removed");
    copy_dir(&copy, &data);

    for other in [1, 2] {
        world.cluster.signal(other, "STOP").expect("a pause");
    }
    world.cluster.start_node(0).expect("a start");
    wait_up(&world, 0).await;
    shows_nothing(&world, 0).await;
    for other in [1, 2] {
        world.cluster.signal(other, "CONT").expect("an end of the pause");
    }
    world.cluster.wait_ready().await.expect("ready");
    assert!(world.cluster.log(0).contains("starting anew"), "{}", world.cluster.log(0));
    assert_eq!(world.held_by(0).await, world.written.len(), "refilled");
    world.check_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_emptied_directory_counts_for_nothing_until_it_is_refilled_from_all_others() {
    let mut world = World::start().await;
    let every = world.all();
    world.write(&every, "all").await;
    let before = world.check_all().await;
    world.cluster.stop(0).expect("a clean stop");
    // What node 1 misses is on the two others alone: were its "absent" to count, quorums of it
    // and one other that lost the write would be possible.
    let second = world.one(1);
    world.write(&second, "quorum").await;
    fs::remove_dir_all(world.cluster.data_dir(0)).expect("removed");

    world.cluster.signal(2, "STOP").expect("a pause");
    world.cluster.start_node(0).expect("a start");
    wait_up(&world, 0).await;
    shows_nothing(&world, 0).await;
    // Nor is it counted when the only other one that answers asks for a quorum.
    let second = world.one(1);
    let options = ReadOptions { timeout: Some("300ms".to_owned()), ..ReadOptions::default() };
    for key in world.written.keys() {
        let found = second.get(BUCKET, key.as_bytes(), &options).await;
        assert!(found.is_err(), "{key}: one copy is no quorum: {found:?}");
    }
    world.cluster.signal(2, "CONT").expect("an end of the pause");
    world.cluster.wait_ready().await.expect("ready");
    let log = world.cluster.log(0);
    assert!(log.contains("refilled from the other replicas"), "{log}");
    assert_eq!(world.held_by(0).await, world.written.len(), "refilled");
    let first = world.one(0);
    world.write(&first, "quorum").await;
    let after = world.check_all().await;
    assert!(after.len() > before.len(), "new writes have a new actor: {before:?} {after:?}");
}

/// Starts counted in the directory, on record or not: killed a few times, a copy counted beyond the
/// start on record.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_copy_that_is_killed_again_and_again_is_told_all_the_same() {
    let mut world = World::start().await;
    let every = world.all();
    world.write(&every, "all").await;
    let copy = world.cluster.directory().join("copy");
    let data = world.cluster.data_dir(0);
    world.cluster.stop(0).expect("a clean stop");
    copy_dir(&data, &copy);
    for _ in 0..2 {
        world.cluster.start_node(0).expect("a start");
        world.cluster.wait_ready().await.expect("ready");
        world.write(&every, "all").await;
        world.cluster.stop(0).expect("a clean stop");
    }
    fs::remove_dir_all(&data).expect("removed");
    copy_dir(&copy, &data);

    for other in [1, 2] {
        world.cluster.signal(other, "STOP").expect("a pause");
    }
    for _ in 0..4 {
        world.cluster.start_node(0).expect("a start");
        wait_up(&world, 0).await;
        world.cluster.kill(0).expect("killed");
    }
    for other in [1, 2] {
        world.cluster.signal(other, "CONT").expect("an end of the pause");
    }
    world.cluster.start_node(0).expect("a start");
    world.cluster.wait_ready().await.expect("ready");
    let log = world.cluster.log(0);
    assert!(log.contains("going on as a new actor"), "{log}");
    assert_eq!(world.held_by(0).await, world.written.len(), "refilled");
    world.check_all().await;
}

/// A majority that may have lost writes is still a majority of voters.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_with_periodic_durability_goes_on_after_all_its_nodes_were_killed_at_once() {
    let mut base = Config::default();
    base.storage.durability = Durability::Periodic;
    let mut world = World::start_with(&base).await;
    let every = world.all();
    world.write(&every, "all").await;
    let before = world.check_all().await;
    for node in 0..3 {
        world.cluster.kill(node).expect("killed");
    }
    for node in 0..3 {
        world.cluster.start_node(node).expect("a start");
    }
    world.cluster.wait_ready().await.expect("ready");
    every.create_bucket("another", &BucketSettings::default()).await.expect("the log goes on");
    // What was acknowledged may be lost; what is written now is not.
    world.written.clear();
    world.prefix = "after";
    world.write(&every, "all").await;
    let after = world.check_all().await;
    assert!(after.is_disjoint(&before), "new actors: {before:?} {after:?}");
}

fn note(world: &World, node: usize) -> Vec<u8> {
    fs::read(world.cluster.data_dir(node).join("HIGH-WATER")).unwrap_or_default()
}

/// Waits until a node has written another note than `before`.
async fn wait_noted(world: &World, node: usize, before: &[u8]) {
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while note(world, node) == before {
        assert!(std::time::Instant::now() < deadline, "no note was written");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// sled takes a log that was cut short for the torn tail of a crash, and opens with the state
/// before it.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_was_cut_short_is_told_by_the_note_beside_it() {
    let mut world = World::start().await;
    let every = world.all();
    let first = note(&world, 0);
    world.write(&every, "all").await;
    wait_noted(&world, 0, &first).await;
    let second = note(&world, 0);
    world.write(&every, "all").await;
    wait_noted(&world, 0, &second).await;
    let before = world.check_all().await;
    world.cluster.kill(0).expect("killed");

    let path = world.cluster.data_dir(0).join("sled").join("db");
    let log = fs::read(&path).expect("a log");
    let end = log.iter().rposition(|byte| *byte != 0).expect("not empty");
    let file = fs::File::options().write(true).open(&path).expect("a log");
    file.set_len(end as u64 / 2).expect("cut");
    drop(file);

    world.cluster.start_node(0).expect("a start");
    world.cluster.wait_ready().await.expect("ready");
    let log = world.cluster.log(0);
    assert!(log.contains("the store has recovered an older state than it had"), "{log}");
    assert!(log.contains("refilled from the other replicas"), "{log}");
    assert_eq!(world.held_by(0).await, world.written.len(), "refilled");
    let first = world.one(0);
    world.write(&first, "quorum").await;
    let after = world.check_all().await;
    assert!(after.is_superset(&before), "nothing lost");
    assert!(after.len() > before.len(), "new writes have a new actor: {after:?}");
}
