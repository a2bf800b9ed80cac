//! R49: a disk that fills up refuses writes clearly, goes on reading, and recovers by itself.
//!
//! On a small real file system. Without the reserve, sled and fjall meet ENOSPC inside a log write
//! and stop for good.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use henge::storage::{
    Batch, Engine, FjallEngine, FjallOptions, SledEngine, SledOptions, StorageError,
};

#[path = "support/power.rs"]
mod power;

use power::PowerDisk;

type Open = fn(&Path) -> Result<Arc<dyn Engine>, StorageError>;

fn sled(dir: &Path) -> Result<Arc<dyn Engine>, StorageError> {
    let options = SledOptions { cache_bytes: 8 << 20, reserve_bytes: 48 << 20 };
    Ok(Arc::new(SledEngine::open(dir, options)?))
}

fn fjall(dir: &Path) -> Result<Arc<dyn Engine>, StorageError> {
    let options = FjallOptions { cache_bytes: 8 << 20, reserve_bytes: 48 << 20 };
    Ok(Arc::new(FjallEngine::open(dir, options)?))
}

fn value(n: u32) -> Vec<u8> {
    // Differs from value to value and does not compress.
    let mut word = u64::from(n) + 1;
    let next = || {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        word as u8
    };
    std::iter::repeat_with(next).take(60_000).collect()
}

fn put(engine: &dyn Engine, n: u32) -> Result<(), StorageError> {
    let mut batch = Batch::new();
    batch.put(n.to_be_bytes().to_vec(), value(n));
    engine.apply(&batch)?;
    engine.sync()
}

fn check(engine: &dyn Engine, count: u32) {
    for n in 0..count {
        let found = engine.get(&n.to_be_bytes()).expect("a read on a full disk");
        assert!(found.as_deref() == Some(&value(n)[..]), "value {n} of {count}");
    }
}

fn fill_and_free(open: Open) {
    let Some(disk) = PowerDisk::new(300) else { return };
    let ballast = disk.path().join("ballast");
    fs::write(&ballast, vec![1; 100 << 20]).expect("a large file");
    let dir = disk.path().join("store");
    let engine = open(&dir).expect("an empty store");
    let mut count = 0;
    let refused = loop {
        match put(&*engine, count) {
            Ok(()) => count += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(refused, StorageError::Full, "after {count} values");
    assert!(count > 100, "refused after only {count} values");
    check(&*engine, count);
    assert_eq!(engine.sync(), Ok(()), "a refused write does not stop the engine");
    drop(engine);

    let engine = open(&dir).expect("a full store opens");
    check(&*engine, count);
    fs::remove_file(&ballast).expect("room again");
    for n in count..count + 100 {
        assert_eq!(put(&*engine, n), Ok(()), "there is room again");
    }
    drop(engine);
    check(&*open(&dir).expect("the store opens"), count + 100);
}

#[test]
fn r49_sled_refuses_writes_on_a_full_disk_and_recovers() {
    fill_and_free(sled);
}

#[test]
fn r49_fjall_refuses_writes_on_a_full_disk_and_recovers() {
    fill_and_free(fjall);
}
