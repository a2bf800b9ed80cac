//! Durable writes per second: 64 writers, one committer, a sync per group, every engine in one run.
//!
//! ```text
//! cargo bench --bench commit -- [SECONDS] [VALUE_BYTES] [DIRECTORY]
//! ```
//!
//! The directory should be on the disk in question; a temporary one in the working directory is
//! the default. A closed loop: each writer waits for its ticket before the next write.
//!
//! `memory` is the committer alone. `log` is the least that a commit log of our own in front of an
//! engine would cost: each group is framed, checksummed and written into a preallocated file that
//! is then synced, and nothing is kept to read from. `log, then …` also applies the group to that
//! engine without syncing it: what such a log could reach at best, with no checkpoints and no
//! replay.

#![allow(clippy::disallowed_methods, reason = "a measurement needs the real clock")]

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::{BufMut as _, Bytes, BytesMut};
use hdrhistogram::Histogram;
use henge::env::tokio_env;
use henge::storage::{
    Batch, BatchOp, Committer, CommitterOptions, Engine, EngineStats, FjallEngine, FjallOptions,
    KeyRange, MemEngine, ScanVisitor, SledEngine, SledOptions, StorageError,
};

const WRITERS: u64 = 64;

fn main() {
    // cargo passes `--bench` along.
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let number =
        |at: usize, default| args.get(at).and_then(|arg| arg.parse().ok()).unwrap_or(default);
    let (seconds, value_bytes) = (number(0, 5), number(1, 100));
    let root = match args.get(2) {
        Some(dir) => tempfile::tempdir_in(dir),
        None => tempfile::tempdir_in("."),
    };
    let root = root.expect("a directory to write to");
    println!("{WRITERS} writers, {value_bytes} B values, {seconds} s each");
    for name in ["memory", "sled", "fjall", "log", "log, then sled", "log, then fjall"] {
        let engine = open(name, &root.path().join(name.replace(", then ", "-")));
        measure(name, engine, Duration::from_secs(seconds), value_bytes as usize);
    }
}

fn open(name: &str, dir: &Path) -> Arc<dyn Engine> {
    match name {
        "sled" => Arc::new(SledEngine::open(dir, SledOptions::default()).expect("sled")),
        "fjall" => Arc::new(FjallEngine::open(dir, FjallOptions::default()).expect("fjall")),
        "log" => Arc::new(Log::open(dir, None)),
        "log, then sled" => Arc::new(Log::open(dir, Some(open("sled", &dir.join("sled"))))),
        "log, then fjall" => Arc::new(Log::open(dir, Some(open("fjall", &dir.join("fjall"))))),
        _ => Arc::new(MemEngine::new()),
    }
}

/// A log that is only ever written: a bound for what one can reach.
struct Log {
    file: File,
    end: AtomicU64,
    behind: Option<Arc<dyn Engine>>,
}

impl Log {
    /// Bytes that are written beforehand, so that a sync has no file metadata to write. When they
    /// are used up the log begins anew.
    const BYTES: u64 = 256 << 20;

    fn open(dir: &Path, behind: Option<Arc<dyn Engine>>) -> Self {
        std::fs::create_dir_all(dir).expect("a directory");
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(true);
        let file = options.open(dir.join("log")).expect("a file");
        for at in 0..Self::BYTES >> 20 {
            file.write_all_at(&[0; 1 << 20], at << 20).expect("space on the disk");
        }
        file.sync_all().expect("a sync");
        Self { file, end: AtomicU64::new(0), behind }
    }
}

impl Engine for Log {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        self.behind.as_ref().map_or(Ok(None), |engine| engine.get(key))
    }

    fn scan(&self, range: &KeyRange, visit: &mut ScanVisitor<'_>) -> Result<(), StorageError> {
        self.behind.as_ref().map_or(Ok(()), |engine| engine.scan(range, visit))
    }

    fn scan_back(&self, range: &KeyRange, visit: &mut ScanVisitor<'_>) -> Result<(), StorageError> {
        self.behind.as_ref().map_or(Ok(()), |engine| engine.scan_back(range, visit))
    }

    fn apply(&self, batch: &Batch) -> Result<(), StorageError> {
        let mut frame = vec![0; 16];
        for op in batch.ops() {
            let (key, value) = match op {
                BatchOp::Put { key, value } => (key, &value[..]),
                BatchOp::Delete { key } => (key, &[][..]),
            };
            frame.extend_from_slice(&(key.len() as u32).to_le_bytes());
            frame.extend_from_slice(&(value.len() as u32).to_le_bytes());
            frame.extend_from_slice(key);
            frame.extend_from_slice(value);
        }
        let sum = xxhash_rust::xxh3::xxh3_64(&frame[16..]);
        let length = frame.len() as u64;
        frame[..8].copy_from_slice(&length.to_le_bytes());
        frame[8..16].copy_from_slice(&sum.to_le_bytes());
        let at = match self.end.load(Ordering::Relaxed) {
            end if end + length > Self::BYTES => 0,
            end => end,
        };
        self.end.store(at + length, Ordering::Relaxed);
        let failed = |error| StorageError::io("writing the log", &error);
        self.file.write_all_at(&frame, at).map_err(failed)?;
        self.behind.as_ref().map_or(Ok(()), |engine| engine.apply(batch))
    }

    fn sync(&self) -> Result<(), StorageError> {
        self.file.sync_data().map_err(|error| StorageError::io("syncing the log", &error))
    }

    fn stats(&self) -> EngineStats {
        EngineStats { disk_bytes: Self::BYTES, syncs: 0 }
    }
}

fn measure(name: &str, engine: Arc<dyn Engine>, time: Duration, value_bytes: usize) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("tokio");
    let (latencies, elapsed, stats) = runtime.block_on(async {
        let committer = Committer::start(tokio_env(), engine.clone(), CommitterOptions::default());
        let stop = Arc::new(AtomicBool::new(false));
        let start = Instant::now();
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| tokio::spawn(write(committer.clone(), stop.clone(), writer, value_bytes)))
            .collect();
        tokio::time::sleep(time).await;
        stop.store(true, Ordering::Relaxed);
        let mut all = histogram();
        for writer in writers {
            all.add(writer.await.expect("a writer")).expect("one range");
        }
        (all, start.elapsed(), committer.stats())
    });
    println!(
        "{name:15} {:>8.0} writes/s   p50 {:>6} us   p99 {:>6} us   p99.9 {:>6} us   \
         {:.1} writes per group   {} MiB on disk",
        latencies.len() as f64 / elapsed.as_secs_f64(),
        latencies.value_at_quantile(0.5),
        latencies.value_at_quantile(0.99),
        latencies.value_at_quantile(0.999),
        stats.batches as f64 / stats.groups.max(1) as f64,
        engine.stats().disk_bytes >> 20,
    );
}

async fn write(
    committer: Committer,
    stop: Arc<AtomicBool>,
    writer: u64,
    value_bytes: usize,
) -> Histogram<u64> {
    let mut latencies = histogram();
    let mut word = writer + 1;
    while !stop.load(Ordering::Relaxed) {
        let mut batch = Batch::new();
        let mut key = BytesMut::with_capacity(24);
        // Keys are spread as tokens are.
        key.put_u64(next(&mut word));
        key.put_slice(b"key-of-16-bytes-");
        let value: Bytes = (0..value_bytes.div_ceil(8))
            .flat_map(|_| next(&mut word).to_le_bytes())
            .take(value_bytes)
            .collect();
        batch.put(key.freeze(), value);
        let start = Instant::now();
        let ticket = committer.submit(batch).expect("room in the queue");
        ticket.await.expect("a durable write");
        latencies.saturating_record(start.elapsed().as_micros() as u64);
    }
    latencies
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000, 3).expect("valid bounds")
}

/// xorshift64
fn next(word: &mut u64) -> u64 {
    *word ^= *word << 13;
    *word ^= *word >> 7;
    *word ^= *word << 17;
    *word
}
