//! Every acknowledged write survives the loss of power, on the real kernel and the real engines.
//!
//! The test binary runs itself again as two other processes: a *writer*, which writes through the
//! committer and prints a line per acknowledged write, and a *checker*, which opens the store after
//! the cut and prints what it finds. The test itself cuts the power while the writer writes, kills
//! it, brings the disk back and compares.
//!
//! One write is one batch of two rows, `a…` and `b…`, with the same stamp: finding one without the
//! other means that a batch was torn. A trailer row holds the greatest stamp given out so far.
//!
//! More rounds: `HENGE_POWER_ROUNDS=100 cargo test --features sim --test power_loss`.

#![allow(clippy::disallowed_methods, reason = "threads and processes are this test's subject")]

use std::collections::BTreeMap;
use std::env;
use std::io::{BufRead as _, BufReader, Write as _};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use henge::env::tokio_env;
use henge::storage::{
    Batch, Committer, CommitterOptions, Durability, Engine, EngineStats, FjallEngine, FjallOptions,
    KeyRange, ScanVisitor, SledEngine, SledOptions, StorageError, TrailerRow,
};

#[path = "support/power.rs"]
mod power;

use power::PowerDisk;

const ROLE: &str = "HENGE_POWER_ROLE";
const DIR: &str = "HENGE_POWER_DIR";
const ENGINE: &str = "HENGE_POWER_ENGINE";
const LOAD: &str = "HENGE_POWER_LOAD";
const FIRST_STAMP: &str = "HENGE_POWER_FIRST_STAMP";
const PLANT: &str = "HENGE_PLANT";

/// Rows that overwrite each other.
const SLOTS: u64 = 200;

/// What the writer writes.
#[derive(Clone, Copy)]
struct Load {
    name: &'static str,
    writers: u64,
    /// Value sizes, used in turn; at least 16 bytes, for the stamp.
    sizes: &'static [usize],
    max_group_bytes: usize,
    /// Syncs are periodic (hourly, so never by themselves), and each writer asks for one, and
    /// counts its writes as acknowledged, after this many.
    flush_after: Option<usize>,
    /// How long the disk takes for a sync beside what it takes anyway.
    sync_takes: Duration,
}

const SMALL: Load = Load {
    name: "small",
    writers: 16,
    sizes: &[16, 100, 1_000],
    max_group_bytes: 4 << 20,
    flush_after: None,
    sync_takes: Duration::ZERO,
};

/// R45's sizes, those too small for a stamp apart: they go to rows of their own.
const LARGE: Load = Load {
    name: "large",
    writers: 8,
    sizes: &[
        100,
        4 << 10,
        16 << 10,
        64 << 10,
        (128 << 10) - 1,
        128 << 10,
        (128 << 10) + 1,
        256 << 10,
        1 << 20,
        8 << 20,
    ],
    max_group_bytes: 4 << 20,
    flush_after: None,
    sync_takes: Duration::ZERO,
};

/// Overwrites so much under one sync that sled takes old segments into use again before it.
const CHURN: Load = Load {
    name: "churn",
    writers: 64,
    sizes: &[100, 64 << 10, 1 << 20, 200 << 10],
    max_group_bytes: 64 << 20,
    flush_after: None,
    sync_takes: Duration::ZERO,
};

/// Overwrites many segments between two syncs. The loss of power may take what came after the last
/// sync, and nothing from before it.
const PERIODIC: Load = Load {
    name: "periodic",
    writers: 4,
    sizes: &[100, 2_000, 200_000, 16_000],
    max_group_bytes: 4 << 20,
    flush_after: Some(700),
    sync_takes: Duration::ZERO,
};

/// On a disk that is slow to sync, so that most cuts fall between a write and its sync.
const SLOW_SYNC: Load = Load { name: "slow sync", sync_takes: Duration::from_millis(100), ..SMALL };

const LOADS: [Load; 5] = [SMALL, LARGE, CHURN, PERIODIC, SLOW_SYNC];

// ------------------------------------------------------------------------- the other processes

/// Not a test: what this binary does when a test runs it as a writer or a checker.
#[test]
#[ignore = "run by the other tests as a process of its own"]
fn process() {
    let Ok(role) = env::var(ROLE) else { return };
    // The harness has begun a line.
    println!();
    stop_at_a_panic();
    plant();
    let dir = env::var(DIR).expect("a directory");
    let engine = match open(&env::var(ENGINE).expect("an engine"), Path::new(&dir)) {
        Ok(engine) => engine,
        Err(error) => {
            println!("open-failed {error}");
            return;
        }
    };
    match role.as_str() {
        "write" => write(engine, load_named(&env::var(LOAD).expect("a load"))),
        "check" => check(&*engine),
        other => panic!("unknown role {other}"),
    }
}

/// As the real program does: a panic that no engine call contains, in one of sled's own threads
/// for example, would otherwise leave a sync waiting for ever.
fn stop_at_a_panic() {
    std::panic::set_hook(Box::new(|panic| {
        if !henge::storage::panic_is_contained() {
            println!("wrong {}", panic.to_string().replace('\n', " "));
            std::process::exit(3);
        }
    }));
}

#[cfg(feature = "sim")]
fn plant() {
    if let Ok(name) = env::var(PLANT) {
        henge::plants::set_plant(henge::plants::plant_named(&name));
    }
}

#[cfg(not(feature = "sim"))]
fn plant() {}

fn open(engine: &str, dir: &Path) -> Result<Arc<dyn Engine>, StorageError> {
    let (cache_bytes, reserve_bytes) = (32 << 20, 32 << 20);
    Ok(match engine {
        "sled" => Arc::new(SledEngine::open(dir, SledOptions { cache_bytes, reserve_bytes })?),
        "fjall" => Arc::new(FjallEngine::open(dir, FjallOptions { cache_bytes, reserve_bytes })?),
        other => panic!("unknown engine {other}"),
    })
}

/// The bytes of the value with `stamp`, which begin with it.
fn value(stamp: u64, len: usize) -> Bytes {
    let mut out = BytesMut::with_capacity(len);
    out.put_u64(stamp);
    out.put_u64(len as u64);
    out.extend_from_slice(&henge_filler(stamp, len - 16));
    out.freeze()
}

/// Bytes that depend on `seed`.
fn henge_filler(seed: u64, len: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(len + 8);
    let mut word = seed;
    while out.len() < len {
        word = word.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
        out.extend_from_slice(&(word ^ (word >> 31)).to_le_bytes());
    }
    out.truncate(len);
    out
}

fn row(kind: char, slot: u64) -> Bytes {
    Bytes::from(format!("{kind}{slot:08}"))
}

fn load_named(name: &str) -> Load {
    LOADS.into_iter().find(|load| load.name == name).expect("a known load")
}

/// An engine on a disk of which each sync takes longer.
struct SlowToSync {
    engine: Arc<dyn Engine>,
    takes: Duration,
}

impl Engine for SlowToSync {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        self.engine.get(key)
    }

    fn scan(&self, range: &KeyRange, visit: &mut ScanVisitor<'_>) -> Result<(), StorageError> {
        self.engine.scan(range, visit)
    }

    fn scan_back(&self, range: &KeyRange, visit: &mut ScanVisitor<'_>) -> Result<(), StorageError> {
        self.engine.scan_back(range, visit)
    }

    fn apply(&self, batch: &Batch) -> Result<(), StorageError> {
        self.engine.apply(batch)
    }

    fn sync(&self) -> Result<(), StorageError> {
        std::thread::sleep(self.takes);
        self.engine.sync()
    }

    fn stats(&self) -> EngineStats {
        self.engine.stats()
    }
}

/// Writes until the disk fails or this process is killed.
fn write(engine: Arc<dyn Engine>, load: Load) {
    let engine = Arc::new(SlowToSync { engine, takes: load.sync_takes });
    let first: u64 = env::var(FIRST_STAMP).expect("a stamp").parse().expect("a number");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("tokio");
    runtime.block_on(async {
        let stamps = Arc::new(AtomicU64::new(first));
        let marks = stamps.clone();
        let durability = match load.flush_after {
            Some(_) => Durability::Periodic { interval: Duration::from_secs(3600) },
            None => Durability::GroupCommit,
        };
        let max_group_bytes = load.max_group_bytes;
        let options = CommitterOptions { durability, max_group_bytes, ..Default::default() };
        let committer =
            Committer::start(tokio_env(), engine, options).with_trailer(Box::new(move || {
                let mark = marks.load(Ordering::SeqCst);
                let value = Bytes::copy_from_slice(&mark.to_be_bytes());
                Some(TrailerRow { key: Bytes::from_static(b"mark"), value, mark })
            }));
        let writers: Vec<_> = (0..load.writers)
            .map(|writer| {
                tokio::spawn(write_slots(committer.clone(), load, stamps.clone(), writer))
            })
            .collect();
        for writer in writers {
            let _ = writer.await;
        }
    });
}

/// One writer owns the slots that are its number modulo the number of writers.
async fn write_slots(committer: Committer, load: Load, stamps: Arc<AtomicU64>, writer: u64) {
    let mut slot = writer;
    let mut unsynced = Vec::new();
    loop {
        let stamp = stamps.fetch_add(1, Ordering::SeqCst) + 1;
        let len = load.sizes[(stamp % load.sizes.len() as u64) as usize];
        let mut batch = Batch::new();
        batch.put(row('a', slot), value(stamp, len));
        batch.put(row('b', slot), value(stamp, 16));
        // Values too small for a stamp are written once, to rows that name it.
        batch.put(format!("e{stamp}"), Bytes::new()).put(format!("o{stamp}"), "1");
        let Ok(ticket) = committer.submit(batch) else { return };
        if ticket.await.is_err() {
            return;
        }
        unsynced.push((slot, stamp));
        if load.flush_after.is_some() {
            println!("wrote");
        }
        if unsynced.len() >= load.flush_after.unwrap_or(1) {
            if load.flush_after.is_some() && committer.flush().await.is_err() {
                return;
            }
            let mut out = std::io::stdout().lock();
            for (slot, stamp) in unsynced.drain(..) {
                let _ = writeln!(out, "ack {slot} {stamp}");
            }
        }
        slot = (slot + load.writers) % (SLOTS / load.writers * load.writers);
    }
}

/// Prints every slot's stamps, or what is wrong with them.
fn check(engine: &dyn Engine) {
    let mut failed = false;
    for kind in ["a", "b"] {
        let outcome = engine.scan(&KeyRange::prefix(kind.as_bytes()), &mut |key, found| {
            let slot: u64 = std::str::from_utf8(&key[1..]).expect("text").parse().expect("a slot");
            let found = match found {
                Ok(found) => found,
                Err(error) => {
                    println!("wrong {kind}{slot}: {error}");
                    failed = true;
                    return ControlFlow::Continue(());
                }
            };
            let stamp = found
                .get(..8)
                .map_or(0, |stamp| u64::from_be_bytes(stamp.try_into().expect("eight bytes")));
            if found.len() < 16 || found != value(stamp, found.len()) {
                println!("wrong {kind}{slot}: {} bytes that nobody wrote", found.len());
                failed = true;
            }
            println!("found {kind} {slot} {stamp}");
            ControlFlow::Continue(())
        });
        if let Err(error) = outcome {
            println!("wrong scan of {kind}: {error}");
        }
    }
    for (kind, wanted) in [("e", &b""[..]), ("o", b"1")] {
        let outcome = engine.scan(&KeyRange::prefix(kind.as_bytes()), &mut |key, found| {
            if found == Ok(wanted) {
                println!("found {kind} {} 0", String::from_utf8_lossy(&key[1..]));
            }
            ControlFlow::Continue(())
        });
        if let Err(error) = outcome {
            println!("wrong scan of {kind}: {error}");
        }
    }
    match engine.get(b"mark") {
        Ok(Some(mark)) if mark.len() == 8 => {
            let mark = u64::from_be_bytes(mark[..].try_into().expect("eight bytes"));
            println!("found mark 0 {mark}");
        }
        other => println!("wrong mark: {other:?}"),
    }
    println!("checked");
}

// ----------------------------------------------------------------------------------- the test

fn spawn(role: &str, disk: &PowerDisk, engine: &str, extra: &[(&str, String)]) -> Child {
    Command::new(env::current_exe().expect("this test binary"))
        .args(["--exact", "process", "--ignored", "--nocapture", "--test-threads=1"])
        .env(ROLE, role)
        .env(DIR, disk.path().join("store"))
        .env(ENGINE, engine)
        .envs(extra.iter().map(|(name, value)| (*name, value.as_str())))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("a process")
}

/// The lines that `child` prints, as they come.
fn read_lines(child: &mut Child) -> (JoinHandle<()>, Receiver<String>) {
    let stdout = child.stdout.take().expect("a pipe");
    let (sender, lines) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    (reader, lines)
}

/// A process that says nothing for so long waits for something that will not come.
const STUCK_AFTER: Duration = Duration::from_secs(60);

/// Ends a stuck process, and shows where its threads are if gdb is there.
fn give_up(child: &mut Child) -> String {
    let pid = child.id().to_string();
    let stacks =
        Command::new("gdb").args(["-p", &pid, "-batch", "-ex", "thread apply all bt 30"]).output();
    if let Ok(stacks) = stacks {
        eprintln!("{}", String::from_utf8_lossy(&stacks.stdout));
    }
    let _ = child.kill();
    let _ = child.wait();
    "a process is stuck".to_owned()
}

/// What the test knows about a store over all rounds.
#[derive(Default)]
struct Ledger {
    /// Slot → the newest acknowledged stamp.
    slots: BTreeMap<u64, u64>,
    /// All acknowledged stamps.
    stamps: Vec<u64>,
    last_stamp: u64,
    has_been_stuck: bool,
}

/// Lets a writer write until `acks` writes are acknowledged, then cuts the power.
fn write_and_cut(
    disk: &mut PowerDisk,
    engine: &str,
    load: Load,
    acks: usize,
    plant: &str,
    ledger: &mut Ledger,
) -> Result<usize, String> {
    let extra = [
        (LOAD, load.name.to_owned()),
        (FIRST_STAMP, ledger.last_stamp.to_string()),
        (PLANT, plant.to_owned()),
    ];
    let mut child = spawn("write", disk, engine, &extra);
    let (reader, lines) = read_lines(&mut child);
    let mut seen = 0;
    let mut failed = None;
    let mut take = |line: String, cut: bool, ledger: &mut Ledger| {
        let mut words = line.split(' ');
        match words.next() {
            Some("ack") => {
                let mut number = || words.next().and_then(|word| word.parse::<u64>().ok());
                // A line may be cut short by the kill; it was then not acknowledged.
                if let (Some(slot), Some(stamp)) = (number(), number()) {
                    let newest = ledger.slots.entry(slot).or_default();
                    *newest = stamp.max(*newest);
                    ledger.stamps.push(stamp);
                    ledger.last_stamp = ledger.last_stamp.max(stamp);
                    return 1;
                }
                0
            }
            // Once the disk is gone a panic is as good as an error.
            Some("open-failed" | "wrong") if !cut => {
                failed = Some(line);
                0
            }
            _ => 0,
        }
    };
    let mut unsynced = 0;
    while seen < acks || (load.flush_after.is_some() && unsynced < 1_500) {
        let line = match lines.recv_timeout(STUCK_AFTER) {
            Ok(line) => line,
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                let stuck = give_up(&mut child);
                // Once in a great while sled's own flush never returns, with all of its threads
                // idle. What it acknowledged before must still be there.
                if engine != "sled" || std::mem::replace(&mut ledger.has_been_stuck, true) {
                    return Err(stuck);
                }
                eprintln!("sled's flush does not return; the power is cut here");
                break;
            }
        };
        unsynced = if line == "wrote" { unsynced + 1 } else { 0 };
        seen += take(line, false, ledger);
    }
    // Straight after an acknowledgement the cut would always fall between two groups.
    std::thread::sleep(Duration::from_micros(ledger.last_stamp * 7_919 % 25_000));
    if matches!(child.try_wait(), Ok(None)) {
        power::freeze(&[child.id()]);
    }
    disk.cut();
    let _ = child.kill();
    let _ = child.wait();
    let _ = reader.join();
    // The last line may be cut short in the middle of a number: it has no newline, and `lines`
    // shows it all the same. A shorter number is a smaller stamp of another slot at worst, so it
    // is dropped.
    let mut rest: Vec<String> = lines.try_iter().collect();
    rest.pop();
    for line in rest {
        seen += take(line, true, ledger);
    }
    // Stamps given out and not acknowledged may be on the disk too.
    ledger.last_stamp += 10_000;
    disk.restore();
    failed.map_or(Ok(seen), Err)
}

/// What is wrong with the store after a cut; empty when all is well.
fn losses(disk: &PowerDisk, engine: &str, ledger: &Ledger) -> Vec<String> {
    let mut child = spawn("check", disk, engine, &[]);
    let (_reader, lines) = read_lines(&mut child);
    let mut text = Vec::new();
    loop {
        match lines.recv_timeout(STUCK_AFTER) {
            Ok(line) => text.push(line),
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => return vec![give_up(&mut child)],
        }
    }
    let _ = child.wait();
    let mut wrong = Vec::new();
    let mut found: BTreeMap<(&str, u64), u64> = BTreeMap::new();
    for line in &text {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["found", kind, slot, stamp] => {
                let slot = slot.parse().unwrap_or(0);
                found.insert((kind, slot), stamp.parse().unwrap_or(0));
            }
            ["wrong" | "open-failed", ..] => wrong.push(line.clone()),
            _ => {}
        }
    }
    if !text.iter().any(|line| line == "checked") && wrong.is_empty() {
        wrong.push("the checker ended early".to_owned());
    }
    for (slot, acked) in &ledger.slots {
        let stamp = found.get(&("a", *slot)).copied().unwrap_or(0);
        if stamp < *acked {
            wrong.push(format!("slot {slot}: {acked} was acknowledged, {stamp} is there"));
        }
    }
    let lost = ledger.stamps.iter();
    let lost = lost.filter(|stamp| {
        !found.contains_key(&("e", **stamp)) || !found.contains_key(&("o", **stamp))
    });
    let lost = lost.count();
    if lost > 0 {
        wrong.push(format!("{lost} of {} acknowledged writes lost", ledger.stamps.len()));
    }
    let mark = found.get(&("mark", 0)).copied().unwrap_or(0);
    for ((kind, slot), stamp) in &found {
        if *kind == "a" && found.get(&("b", *slot)) != Some(stamp) {
            wrong.push(format!("slot {slot}: a batch was torn"));
        }
        if *stamp > mark {
            wrong.push(format!("slot {slot}: {stamp} is above the trailer's mark {mark}"));
        }
    }
    wrong
}

fn rounds(default: usize) -> usize {
    env::var("HENGE_POWER_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Runs `rounds` cuts, with a fresh disk every few rounds, and returns what was wrong first.
fn survive(engine: &str, load: Load, rounds: usize, plant: &str) -> Option<Vec<String>> {
    const ROUNDS_PER_DISK: usize = 5;
    let mut checked = 0;
    for round in 0..rounds {
        // One disk after another: each begins empty, so young and old stores are both cut.
        if round % ROUNDS_PER_DISK != 0 {
            continue;
        }
        let mut disk = PowerDisk::new(512)?;
        let mut ledger = Ledger::default();
        for turn in 0..ROUNDS_PER_DISK.min(rounds - round) {
            let acks = [5, 400, 90, 900, 33][(round / ROUNDS_PER_DISK + turn) % 5];
            let acks = match load.flush_after {
                Some(writes) => acks * writes / 100 + 1,
                None if load.sync_takes > Duration::ZERO => acks / 20 + 1,
                None if load.writers == 16 => acks,
                None => acks / 4 + 1,
            };
            match write_and_cut(&mut disk, engine, load, acks, plant, &mut ledger) {
                Ok(seen) => checked += seen,
                Err(failed) => return Some(vec![failed]),
            }
            let wrong = losses(&disk, engine, &ledger);
            if !wrong.is_empty() {
                return Some(wrong);
            }
        }
    }
    eprintln!("{engine}, {} values: {rounds} cuts, {checked} acknowledged writes", load.name);
    (checked == 0).then(|| vec!["nothing was acknowledged, so nothing was tested".to_owned()])
}

/// R44 and F1: sled's own `flush` issues `sync_file_range` and nothing else (spacejam/sled#1452,
/// #1351); after a cut every write that it "flushed" was gone.
#[test]
fn r44_sled_flush_without_barrier() {
    assert_eq!(survive("sled", SMALL, rounds(3), ""), None);
}

/// R45 and F2: sled moves large log items to files that no sync covers, and panics when it opens
/// a store with half of them.
#[test]
fn r45_large_values_survive_power_loss() {
    assert_eq!(survive("sled", LARGE, rounds(3), ""), None);
}

#[test]
fn sled_survives_cuts_while_it_reuses_segments() {
    assert_eq!(survive("sled", CHURN, rounds(3), ""), None);
}

/// A sync covers all that came before it, and what follows it unsynced, however much, takes none
/// of that along: sled takes segments into use again as soon as their replacement was *written*.
#[test]
fn sled_keeps_what_was_synced_while_much_is_unsynced() {
    assert_eq!(survive("sled", PERIODIC, rounds(2), ""), None);
}

#[test]
fn fjall_small_values_survive_power_loss() {
    assert_eq!(survive("fjall", SMALL, rounds(3), ""), None);
}

#[test]
fn fjall_large_values_survive_power_loss() {
    assert_eq!(survive("fjall", LARGE, rounds(3), ""), None);
}

#[test]
fn fjall_keeps_what_was_synced_while_much_is_unsynced() {
    assert_eq!(survive("fjall", PERIODIC, rounds(2), ""), None);
}

#[test]
fn a_disk_that_is_slow_to_sync_loses_nothing() {
    assert_eq!(survive("fjall", SLOW_SYNC, rounds(2), ""), None);
}

/// The test can fail: without the true barrier, acknowledged writes are lost.
#[cfg(feature = "sim")]
#[test]
fn the_missing_barrier_of_sled_is_noticed() {
    let Some(disk) = PowerDisk::new(64) else { return };
    drop(disk);
    let wrong = survive("sled", SMALL, 5, "SledSync").expect("losses without the barrier");
    eprintln!("without the barrier: {}", wrong.join("; ").chars().take(300).collect::<String>());
}

/// The test can fail: acknowledgements before the sync are lost.
#[cfg(feature = "sim")]
#[test]
fn an_early_acknowledgement_is_noticed() {
    let Some(disk) = PowerDisk::new(64) else { return };
    drop(disk);
    let wrong = survive("fjall", SLOW_SYNC, 20, "P11").expect("losses with early acknowledgements");
    eprintln!("acknowledged early: {}", wrong.join("; ").chars().take(300).collect::<String>());
}
