//! R43: all nodes of a cluster lose their power at one instant, and no acknowledged write is lost.
//!
//! Three real processes, each with its data directory on a file system of its own, and clients
//! that write over HTTP. In the middle of it the processes are frozen, all three file systems
//! forced down without a log flush, the processes killed, the file systems mounted again (which
//! shows by a canary that unsynced data is really gone) and the nodes started again. Then every write that any client had
//! seen acknowledged since the cluster began must be there with exactly its bytes: at R=quorum,
//! and at R=all those that were written at W=1.
//!
//! Half of the clients write each key once, the other half write one key again and again with the
//! context of the last answer: of such a key exactly one value may be left, the last acknowledged
//! or the one that was under way.
//!
//! More rounds, or the other engine alone:
//! `HENGE_POWER_ROUNDS=100 HENGE_POWER_ENGINES=sled cargo test --features sim --test power_cluster`
#![allow(clippy::disallowed_methods, reason = "drives real processes on the real clock")]

#[path = "support/power.rs"]
mod power;
mod support;

use std::collections::BTreeMap;
use std::env;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use henge::cli::local::LocalError;
use henge::client::{
    BucketSettings, Client, FoundValue, OpMode, ReadOptions, WriteOptions, Written,
};
use henge::config::{Config, EngineKind};
use tokio::sync::mpsc;

use power::PowerDisk;
use support::cluster::TestCluster;

const BUCKET: &str = "power";
const NODES: usize = 3;
const WRITERS: u64 = 24;
/// New acknowledged writes of each round.
const ACKS: usize = 1_000;
/// A cluster begins anew after so many rounds: young and old stores are both cut.
const ROUNDS_PER_CLUSTER: usize = 5;

/// Bytes of values; most are small, as most values are.
const SIZES: [usize; 20] = [
    0,
    100,
    1,
    100,
    1 << 10,
    100,
    4 << 10,
    200,
    (16 << 10) - 1,
    100,
    16 << 10,
    100,
    (16 << 10) + 1,
    300,
    64 << 10,
    100,
    100,
    128 << 10,
    100,
    256 << 10,
];

/// Now and then one that is cut into very many pieces.
fn size_of(stamp: u64) -> usize {
    match stamp % 500 {
        250 => 8 << 20,
        77 | 177 | 377 => (1 << 20) + 7,
        _ => SIZES[(stamp % SIZES.len() as u64) as usize],
    }
}

/// The bytes of write number `stamp`.
fn value(stamp: u64) -> Vec<u8> {
    let len = size_of(stamp);
    let mut out = Vec::with_capacity(len + 8);
    let mut word = stamp.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    while out.len() < len {
        word = word.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
        out.extend_from_slice(&(word ^ (word >> 31)).to_le_bytes());
    }
    out.truncate(len);
    out
}

/// Write number `stamp` of `key` was acknowledged.
#[derive(Debug)]
struct Ack {
    key: String,
    stamp: u64,
    level: &'static str,
}

/// What must be there.
#[derive(Debug, Clone, Copy)]
struct Due {
    /// The newest acknowledged write.
    stamp: u64,
    /// The write of the same key that was under way when its client gave up.
    after: Option<u64>,
    level: &'static str,
}

/// What the test knows of a cluster over all its rounds.
type Ledger = BTreeMap<String, Due>;

/// What the writers of one round share.
struct Writers {
    client: Client,
    stamps: Arc<AtomicU64>,
    stop: AtomicBool,
    acks: mpsc::UnboundedSender<Ack>,
    given_up: mpsc::UnboundedSender<(String, u64)>,
}

fn level_of(stamp: u64) -> &'static str {
    match stamp % 10 {
        3 | 7 => "all",
        5 => "one",
        _ => "quorum",
    }
}

impl Writers {
    async fn put(&self, key: &str, stamp: u64, context: Option<String>) -> Option<Written> {
        let options = WriteOptions {
            level: Some(level_of(stamp).to_owned()),
            context,
            op: if stamp.is_multiple_of(4) { OpMode::Fresh } else { OpMode::None },
            ..WriteOptions::default()
        };
        self.client.put(BUCKET, key.as_bytes(), value(stamp), &options).await.ok()
    }

    fn acknowledged(&self, key: &str, stamp: u64) {
        let ack = Ack { key: key.to_owned(), stamp, level: level_of(stamp) };
        let _ = self.acks.send(ack);
    }

    fn next(&self) -> Option<u64> {
        let going_on = !self.stop.load(Ordering::Relaxed);
        going_on.then(|| self.stamps.fetch_add(1, Ordering::Relaxed))
    }

    /// Writes each key once.
    async fn write_once(self: Arc<Self>) {
        while let Some(stamp) = self.next() {
            let key = format!("once/{stamp}");
            if self.put(&key, stamp, None).await.is_some() {
                self.acknowledged(&key, stamp);
            }
        }
    }

    /// Writes a key again and again, until an answer is missing; then another one.
    async fn write_again(self: Arc<Self>) {
        while let Some(first) = self.next() {
            let key = format!("again/{first}");
            let (mut stamp, mut context) = (first, None);
            while let Some(written) = self.put(&key, stamp, context.take()).await {
                self.acknowledged(&key, stamp);
                context = written.context;
                match self.next() {
                    Some(next) if context.is_some() => stamp = next,
                    _ => return,
                }
            }
            let _ = self.given_up.send((key, stamp));
        }
    }
}

/// A cluster whose power can be cut.
struct PowerCluster {
    cluster: TestCluster,
    disks: Vec<PowerDisk>,
}

impl Drop for PowerCluster {
    fn drop(&mut self) {
        for node in 0..NODES {
            let _ = self.cluster.kill(node);
        }
        self.disks.clear();
    }
}

impl PowerCluster {
    /// `None` where power cannot be cut.
    async fn start(engine: EngineKind, plant: Option<&str>) -> Option<Self> {
        let mut config = Config::default();
        config.storage.engine = engine;
        let mut cluster = TestCluster::prepare(NODES as u8, &config);
        if let Some(plant) = plant {
            cluster.set_env("HENGE_PLANT", plant);
        }
        let disks: Option<Vec<PowerDisk>> =
            (0..NODES).map(|node| PowerDisk::at(&cluster.data_dir(node), 2_048)).collect();
        let mut this = Self { disks: disks?, cluster };
        this.start_nodes().await.unwrap_or_else(|error| panic!("{error}"));
        let settings = BucketSettings::default();
        this.client().create_bucket(BUCKET, &settings).await.expect("a bucket");
        Some(this)
    }

    fn client(&self) -> Client {
        self.cluster.client().expect("addresses")
    }

    async fn start_nodes(&mut self) -> Result<(), LocalError> {
        for node in 0..NODES {
            self.cluster.start_node(node)?;
        }
        self.cluster.wait_ready().await
    }

    /// Lets clients write until there are enough acknowledgements, and cuts all power while they
    /// go on. Returns the number of new acknowledgements.
    async fn write_and_cut(&mut self, stamps: &Arc<AtomicU64>, ledger: &mut Ledger) -> usize {
        let (acks, mut acknowledged) = mpsc::unbounded_channel();
        let (given_up, mut open) = mpsc::unbounded_channel();
        let writers = Arc::new(Writers {
            client: self.client(),
            stamps: stamps.clone(),
            stop: AtomicBool::new(false),
            acks,
            given_up,
        });
        let tasks: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let writers = writers.clone();
                if writer % 2 == 0 {
                    tokio::spawn(writers.write_once())
                } else {
                    tokio::spawn(writers.write_again())
                }
            })
            .collect();
        let mut count = 0;
        let mut note = |ack: Ack, ledger: &mut Ledger| {
            let Ack { key, stamp, level } = ack;
            ledger.insert(key, Due { stamp, after: None, level });
            count += 1;
            count
        };
        while let Some(ack) = acknowledged.recv().await {
            if note(ack, ledger) >= ACKS {
                break;
            }
        }
        tokio::task::block_in_place(|| {
            self.freeze();
            PowerDisk::cut_all(&mut self.disks);
        });
        for node in 0..NODES {
            self.cluster.kill(node).expect("the node ran until now");
        }
        writers.stop.store(true, Ordering::Relaxed);
        drop(writers);
        for task in tasks {
            task.await.expect("a writer");
        }
        while let Ok(ack) = acknowledged.try_recv() {
            note(ack, ledger);
        }
        while let Ok((key, stamp)) = open.try_recv() {
            if let Some(due) = ledger.get_mut(&key) {
                due.after = Some(stamp);
            }
        }
        count
    }

    /// A machine without power sends nothing either.
    fn freeze(&self) {
        let pids: Vec<u32> =
            (0..NODES).map(|node| self.cluster.pid(node).expect("the node runs")).collect();
        power::freeze(&pids);
    }

    fn restore_power(&mut self) {
        tokio::task::block_in_place(|| self.disks.iter_mut().for_each(PowerDisk::restore));
    }

    /// What is not as it was acknowledged.
    async fn losses(&self, ledger: &Ledger) -> Vec<String> {
        let client = self.client().with_patience(Duration::from_secs(60));
        let checks = ledger.iter().map(|(key, due)| check(&client, key, due));
        futures_util::stream::iter(checks)
            .buffer_unordered(32)
            .filter_map(|loss| async { loss })
            .collect()
            .await
    }
}

async fn check(client: &Client, key: &str, due: &Due) -> Option<String> {
    // A write at W=1 is met for certain by a read of all.
    let level = if due.level == "one" { "all" } else { "quorum" };
    let options = ReadOptions { level: Some(level.to_owned()), ..ReadOptions::default() };
    let found = match client.get(BUCKET, key.as_bytes(), &options).await {
        Ok(found) => found.value,
        Err(error) => return Some(format!("{key}: {error}")),
    };
    let wrong = match found {
        FoundValue::One(stored) => {
            let matches = |stamp: &u64| stored.value == value(*stamp);
            if matches(&due.stamp) || due.after.as_ref().is_some_and(matches) {
                return None;
            }
            format!("{} bytes that are not those that were acknowledged", stored.value.len())
        }
        FoundValue::Absent => "absent".to_owned(),
        FoundValue::Siblings(siblings) => format!("{} siblings of one value", siblings.len()),
    };
    Some(format!("{key}, write {} at {}: {wrong}", due.stamp, due.level))
}

fn rounds(default: usize) -> usize {
    env::var("HENGE_POWER_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// What came of some rounds.
#[derive(Debug)]
enum Came {
    /// Everything was there.
    Well { acks: usize },
    /// Something was lost.
    Loss(Vec<String>),
    /// This machine cannot cut the power.
    Skipped,
}

async fn survive(engine: EngineKind, rounds: usize, plant: Option<&str>) -> Came {
    let (mut cluster, mut ledger) = (None, Ledger::new());
    let stamps = Arc::new(AtomicU64::new(1));
    let mut acks = 0;
    for round in 0..rounds {
        if round % ROUNDS_PER_CLUSTER == 0 {
            drop(cluster.take());
            ledger.clear();
            cluster = PowerCluster::start(engine, plant).await;
        }
        let Some(cluster) = &mut cluster else { return Came::Skipped };
        let began = Instant::now();
        let new = cluster.write_and_cut(&stamps, &mut ledger).await;
        assert!(new >= ACKS, "only {new} new acknowledgements");
        acks += new;
        let written = began.elapsed();
        cluster.restore_power();
        if let Err(error) = cluster.start_nodes().await {
            return Came::Loss(vec![error.to_string()]);
        }
        let restarted = began.elapsed();
        let losses = cluster.losses(&ledger).await;
        if !losses.is_empty() {
            return Came::Loss(losses);
        }
        eprintln!(
            "{engine:?}, round {}: {new} acknowledged in {:.1} s, back after {:.1} s, all {} keys \
             right after {:.1} s more",
            round + 1,
            written.as_secs_f64(),
            (restarted - written).as_secs_f64(),
            ledger.len(),
            (began.elapsed() - restarted).as_secs_f64(),
        );
    }
    Came::Well { acks }
}

async fn survives(engine: EngineKind) {
    let name = format!("{engine:?}").to_lowercase();
    if env::var("HENGE_POWER_ENGINES").is_ok_and(|engines| !engines.contains(&name)) {
        return;
    }
    let rounds = rounds(2);
    match survive(engine, rounds, None).await {
        Came::Well { acks } => eprintln!("{name}: {rounds} rounds, {acks} acknowledged, 0 lost"),
        Came::Loss(losses) => {
            panic!("{} lost: {:#?}", losses.len(), &losses[..losses.len().min(20)])
        }
        Came::Skipped => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledged_write_is_lost_when_all_nodes_lose_their_power() {
    survives(EngineKind::Sled).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledged_write_is_lost_when_all_nodes_lose_their_power_on_fjall() {
    survives(EngineKind::Fjall).await;
}

/// The test can fail: with sled's own sync, acknowledged writes are lost.
#[cfg(feature = "sim")]
#[tokio::test(flavor = "multi_thread")]
async fn the_missing_barrier_of_sled_is_noticed() {
    match survive(EngineKind::Sled, 5, Some("SledSync")).await {
        Came::Well { acks } => panic!("{acks} writes without a barrier, and none was lost"),
        Came::Loss(losses) => eprintln!("without the barrier {} lost: {}", losses.len(), losses[0]),
        Came::Skipped => {}
    }
}
