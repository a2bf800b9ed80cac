use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bytes::Bytes;

use super::SimEngine;
use crate::sim::disk::{DiskFaults, PowerLoss, SimDisk};
use crate::sim::rng::{Ppm, Rng};
use crate::storage::{Batch, Engine, KeyRange, StorageError};

fn put(key: &str, value: impl Into<Bytes>) -> Batch {
    let mut batch = Batch::new();
    batch.put(Bytes::copy_from_slice(key.as_bytes()), value);
    batch
}

fn all() -> KeyRange {
    KeyRange { start: Bytes::new(), end: None }
}

fn contents(engine: &SimEngine) -> BTreeMap<Bytes, Bytes> {
    let mut found = BTreeMap::new();
    engine
        .scan(&all(), &mut |key, value| {
            let value = Bytes::copy_from_slice(value.unwrap());
            found.insert(Bytes::copy_from_slice(key), value);
            ControlFlow::Continue(())
        })
        .unwrap();
    found
}

/// Random batches with syncs in between, then the power goes. What is left must be the state
/// after some batch not earlier than the last one that was synced; and again after the next loss.
#[test]
fn power_loss_leaves_a_prefix_that_holds_all_that_was_synced() {
    for seed in 0..300 {
        let mut rng = Rng::new(seed);
        let disk = SimDisk::new(Rng::stream(seed, 0, "disk"));
        let mut survived = BTreeMap::new();
        for _ in 0..3 {
            let engine = SimEngine::open(&disk).unwrap();
            assert_eq!(contents(&engine), survived, "seed {seed}");
            let mut states = vec![survived.clone()];
            let mut synced = 0;
            for _ in 0..rng.below(30) {
                let mut batch = Batch::new();
                let mut next = states.last().unwrap().clone();
                for _ in 0..rng.between(1, 4) {
                    let key = Bytes::from(format!("k{}", rng.below(8)));
                    if rng.below(4) == 0 {
                        batch.delete(key.clone());
                        next.remove(&key);
                    } else {
                        let size = rng.magnitude(1, 40_000) as usize;
                        let value = Bytes::from(vec![rng.next_u64() as u8; size]);
                        batch.put(key.clone(), value.clone());
                        next.insert(key, value);
                    }
                }
                engine.apply(&batch).unwrap();
                states.push(next);
                if rng.below(3) == 0 {
                    engine.sync().unwrap();
                    synced = states.len() - 1;
                }
            }
            let oracle: BTreeMap<Bytes, Bytes> = (0..8)
                .map(|n| Bytes::from(format!("k{n}")))
                .filter_map(|key| Some((key.clone(), engine.durable(&key).unwrap()?)))
                .collect();
            assert_eq!(oracle, states[synced], "the oracle knows what is durable");
            drop(engine);
            disk.lose_power(*rng.pick(&PowerLoss::ALL));
            let engine = SimEngine::open(&disk).unwrap();
            survived = contents(&engine);
            let position = states.iter().rposition(|state| *state == survived);
            assert!(position.is_some_and(|at| at >= synced), "seed {seed}: not such a prefix");
        }
    }
}

#[test]
fn a_kill_without_power_loss_keeps_everything_and_makes_it_durable_before_showing_it() {
    let disk = SimDisk::new(Rng::new(1));
    SimEngine::open(&disk).unwrap().apply(&put("k", "v")).unwrap();
    let engine = SimEngine::open(&disk).unwrap();
    assert_eq!(engine.get(b"k").unwrap().unwrap(), "v");
    disk.lose_power(PowerLoss::LoseAll);
    assert_eq!(SimEngine::open(&disk).unwrap().get(b"k").unwrap().unwrap(), "v");
}

#[test]
fn after_a_failed_sync_nothing_is_acknowledged_and_reads_go_on() {
    let disk = SimDisk::new(Rng::new(1));
    let engine = SimEngine::open(&disk).unwrap();
    engine.apply(&put("k", "v")).unwrap();
    disk.set_faults(DiskFaults { sync_error: Ppm::ALWAYS, ..DiskFaults::default() });
    engine.sync().unwrap_err();
    disk.set_faults(DiskFaults::default());
    assert!(matches!(engine.sync(), Err(StorageError::Poisoned { .. })));
    assert!(matches!(engine.apply(&put("l", "v")), Err(StorageError::Poisoned { .. })));
    assert!(engine.get(b"k").unwrap().is_some());
}

/// R48: the page cache goes on showing what a failed sync dropped, and calls it clean.
#[test]
fn a_process_that_starts_after_a_failed_sync_makes_durable_what_it_shows() {
    for seed in 0..30 {
        let disk = SimDisk::new(Rng::new(seed));
        let engine = SimEngine::open(&disk).unwrap();
        engine.apply(&put("k", vec![1; 2_000])).unwrap();
        disk.set_faults(DiskFaults { sync_error: Ppm::ALWAYS, ..DiskFaults::default() });
        engine.sync().unwrap_err();
        disk.set_faults(DiskFaults::default());
        let engine = SimEngine::open(&disk).unwrap();
        let shown = engine.get(b"k").unwrap();
        engine.apply(&put("l", "v")).unwrap();
        engine.sync().unwrap();
        disk.lose_power(PowerLoss::LoseAll);
        let engine = SimEngine::open(&disk).unwrap();
        assert_eq!(engine.get(b"k").unwrap(), shown);
        assert!(engine.get(b"l").unwrap().is_some());
    }
}

#[test]
fn a_full_disk_applies_nothing_of_a_batch_and_recovers() {
    let disk = SimDisk::new(Rng::new(1));
    let engine = SimEngine::open(&disk).unwrap();
    engine.apply(&put("k", "v")).unwrap();
    disk.set_faults(DiskFaults { full: true, ..DiskFaults::default() });
    assert_eq!(engine.apply(&put("l", "v")), Err(StorageError::Full));
    assert_eq!(engine.get(b"l").unwrap(), None);
    disk.set_faults(DiskFaults::default());
    engine.apply(&put("m", "v")).unwrap();
    engine.sync().unwrap();
    disk.lose_power(PowerLoss::LoseAll);
    let keys: Vec<Bytes> = contents(&SimEngine::open(&disk).unwrap()).into_keys().collect();
    assert_eq!(keys, ["k", "m"]);
}

#[test]
fn a_failed_write_leaves_no_half_batch_behind() {
    for seed in 0..50 {
        let disk = SimDisk::new(Rng::new(seed));
        let engine = SimEngine::open(&disk).unwrap();
        engine.apply(&put("a", vec![1; 900])).unwrap();
        disk.set_faults(DiskFaults { write_error: Ppm::ALWAYS, ..DiskFaults::default() });
        engine.apply(&put("b", vec![2; 3_000])).unwrap_err();
        disk.set_faults(DiskFaults::default());
        engine.apply(&put("c", vec![3; 10])).unwrap();
        engine.sync().unwrap();
        drop(engine);
        let keys: Vec<Bytes> = contents(&SimEngine::open(&disk).unwrap()).into_keys().collect();
        assert_eq!(keys, ["a", "c"]);
    }
}

#[test]
fn a_rotten_value_is_corrupt_and_the_others_are_not() {
    let disk = SimDisk::new(Rng::new(1));
    let engine = SimEngine::open(&disk).unwrap();
    for key in ["a", "b", "c"] {
        engine.apply(&put(key, vec![7; 100])).unwrap();
    }
    engine.sync().unwrap();
    assert!(engine.rot_value(&KeyRange::prefix(b"b"), 0));
    for engine in [engine, SimEngine::open(&disk).unwrap()] {
        assert!(matches!(engine.get(b"b"), Err(StorageError::Corrupt { .. })));
        assert!(engine.get(b"a").unwrap().is_some() && engine.get(b"c").unwrap().is_some());
        assert!(engine.get(b"d").unwrap().is_none());
    }
}

/// Wherever a synced byte rots, no key shows a wrong value and none turns into an absent one.
#[test]
fn rot_anywhere_is_never_a_wrong_value_and_never_absence() {
    for seed in 0..400 {
        let disk = SimDisk::new(Rng::new(seed));
        let engine = SimEngine::open(&disk).unwrap();
        for n in 0..20u8 {
            engine.apply(&put(&format!("k{}", n % 7), vec![n; 50])).unwrap();
        }
        engine.sync().unwrap();
        drop(engine);
        assert!(disk.rot(if seed % 4 == 0 { "frontier" } else { "segment" }));
        let Ok(engine) = SimEngine::open(&disk) else { continue };
        for n in 13..20u8 {
            match engine.get(format!("k{}", n % 7).as_bytes()) {
                Ok(value) => assert_eq!(value.unwrap(), vec![n; 50]),
                Err(error) => assert!(matches!(error, StorageError::Corrupt { .. })),
            }
        }
        engine.apply(&put("k0", "healed")).unwrap();
        assert_eq!(engine.get(b"k0").unwrap().unwrap(), "healed");
    }
}

#[test]
fn lost_and_misdirected_writes_are_seen_as_damage() {
    for seed in 0..100 {
        for lose in [true, false] {
            let disk = SimDisk::new(Rng::new(seed));
            let engine = SimEngine::open(&disk).unwrap();
            for n in 0..20u8 {
                if n == 10 {
                    disk.set_faults(DiskFaults {
                        lose_next_write: lose,
                        misdirect_next_write: !lose,
                        ..DiskFaults::default()
                    });
                }
                engine.apply(&put(&format!("k{n}"), vec![n; 700])).unwrap();
                engine.sync().unwrap();
            }
            drop(engine);
            disk.lose_power(PowerLoss::LoseAll);
            let Ok(engine) = SimEngine::open(&disk) else { continue };
            for n in 0..20u8 {
                if let Ok(value) = engine.get(format!("k{n}").as_bytes()) {
                    assert_eq!(value.unwrap(), vec![n; 700]);
                }
            }
        }
    }
}

#[test]
fn a_long_log_is_compacted_and_loses_nothing() {
    let disk = SimDisk::new(Rng::new(1));
    let engine = SimEngine::open(&disk).unwrap();
    for n in 0..2_000u32 {
        engine.apply(&put(&format!("k{}", n % 100), format!("{n:0>400}"))).unwrap();
        if n % 10 == 9 {
            engine.sync().unwrap();
        }
    }
    assert!(engine.stats().disk_bytes < 400_000);
    disk.lose_power(PowerLoss::LoseAll);
    let engine = SimEngine::open(&disk).unwrap();
    let kept = contents(&engine);
    assert_eq!(kept.len(), 100);
    assert_eq!(kept[&b"k99"[..]], format!("{:0>400}", 1_999));
}

#[test]
fn an_engine_does_not_touch_a_disk_that_was_replaced() {
    let disk = SimDisk::new(Rng::new(1));
    let engine = SimEngine::open(&disk).unwrap();
    disk.wipe();
    assert!(matches!(engine.apply(&put("k", "v")), Err(StorageError::Io { .. })));
    assert!(contents(&SimEngine::open(&disk).unwrap()).is_empty());
}

#[test]
fn the_engine_passes_the_suite_that_all_engines_pass() {
    use std::cell::RefCell;
    use std::sync::Arc;
    let disk = RefCell::new(SimDisk::new(Rng::new(1)));
    crate::storage::conformance::run(&|| Arc::new(SimEngine::open(&disk.borrow()).unwrap()));
}
