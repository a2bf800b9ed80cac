use super::{DiskFaults, PowerLoss, SECTOR, SimDisk};
use crate::sim::rng::{Ppm, Rng};

fn disk(seed: u64) -> SimDisk {
    SimDisk::new(Rng::new(seed))
}

fn content(disk: &SimDisk, name: &str) -> Option<Vec<u8>> {
    disk.find(name).map(|file| disk.read(file, 0, usize::MAX).unwrap())
}

#[test]
fn synced_bytes_and_names_survive_every_loss_of_power() {
    for policy in PowerLoss::ALL {
        for seed in 0..20 {
            let disk = disk(seed);
            let file = disk.open("log").unwrap();
            disk.write(file, 0, &[7; 3 * SECTOR]).unwrap();
            disk.sync(file).unwrap();
            disk.sync_dir().unwrap();
            disk.write(file, 3 * SECTOR, &[8; 3 * SECTOR]).unwrap();
            disk.lose_power(policy);
            let kept = content(&disk, "log").unwrap();
            assert_eq!(kept[..3 * SECTOR], [7; 3 * SECTOR], "{policy:?}");
        }
    }
}

#[test]
fn unsynced_bytes_and_unsynced_names_are_lost() {
    let disk = disk(1);
    let file = disk.open("a").unwrap();
    disk.write(file, 0, b"hello").unwrap();
    disk.sync(file).unwrap();
    disk.lose_power(PowerLoss::LoseAll);
    assert_eq!(content(&disk, "a"), None, "the name was not synced");

    let file = disk.open("b").unwrap();
    disk.sync_dir().unwrap();
    disk.write(file, 0, b"hello").unwrap();
    assert_eq!(content(&disk, "b").unwrap(), b"hello", "a running program sees its writes");
    disk.lose_power(PowerLoss::LoseAll);
    assert_eq!(content(&disk, "b").unwrap(), b"");
    assert!(disk.effects().lost > 0);
}

#[test]
fn a_subset_can_keep_a_later_sector_and_lose_an_earlier_one() {
    let outcome = |seed| {
        let disk = disk(seed);
        let file = disk.open("a").unwrap();
        disk.sync_dir().unwrap();
        disk.write(file, 0, &[1; SECTOR]).unwrap();
        disk.write(file, SECTOR, &[2; SECTOR]).unwrap();
        disk.lose_power(PowerLoss::Subset);
        let kept = content(&disk, "a").unwrap();
        (kept.first() == Some(&1), kept.get(SECTOR) == Some(&2))
    };
    let outcomes: std::collections::BTreeSet<_> = (0..50).map(outcome).collect();
    assert_eq!(outcomes.len(), 4);
}

#[test]
fn a_torn_write_keeps_only_leading_sectors() {
    let mut torn = false;
    for seed in 0..50 {
        let disk = disk(seed);
        let file = disk.open("a").unwrap();
        disk.sync_dir().unwrap();
        disk.write(file, 0, &[1; 4 * SECTOR]).unwrap();
        disk.lose_power(PowerLoss::Torn);
        let kept = content(&disk, "a").unwrap();
        assert!(kept.len().is_multiple_of(SECTOR) && kept.iter().all(|b| *b == 1));
        torn |= !kept.is_empty() && kept.len() < 4 * SECTOR;
    }
    assert!(torn);
}

#[test]
fn a_failed_sync_loses_the_bytes_although_the_next_one_succeeds() {
    let disk = disk(1);
    let file = disk.open("a").unwrap();
    disk.sync_dir().unwrap();
    disk.write(file, 0, b"hello").unwrap();
    disk.set_faults(DiskFaults { sync_error: Ppm::ALWAYS, ..DiskFaults::default() });
    disk.sync(file).unwrap_err();
    disk.set_faults(DiskFaults::default());
    disk.sync(file).unwrap();
    assert_eq!(content(&disk, "a").unwrap(), b"hello");
    assert!(disk.has_lost_syncs(), "it shows what it does not hold");
    disk.lose_power(PowerLoss::DataWithoutNames);
    assert_eq!(content(&disk, "a").unwrap(), b"");
    assert_eq!(disk.effects().sync_errors, 1);
    assert!(!disk.has_lost_syncs());
}

#[test]
fn a_full_disk_refuses_growth_but_not_overwriting() {
    let disk = disk(1);
    let file = disk.open("a").unwrap();
    disk.write(file, 0, b"hello").unwrap();
    disk.set_faults(DiskFaults { full: true, ..DiskFaults::default() });
    let error = disk.write(file, 3, b"lo world").unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    disk.write(file, 0, b"J").unwrap();
    assert_eq!(content(&disk, "a").unwrap(), b"Jello");
}

#[test]
fn a_rename_replaces_its_target_at_once_and_durably_after_the_directory_sync() {
    let disk = disk(1);
    for (name, bytes) in [("new", b"new"), ("cur", b"old")] {
        let file = disk.open(name).unwrap();
        disk.write(file, 0, bytes).unwrap();
        disk.sync(file).unwrap();
    }
    disk.sync_dir().unwrap();
    disk.rename("new", "cur").unwrap();
    assert_eq!(content(&disk, "cur").unwrap(), b"new");
    disk.lose_power(PowerLoss::LoseAll);
    assert_eq!(content(&disk, "cur").unwrap(), b"old");
    disk.rename("new", "cur").unwrap();
    disk.sync_dir().unwrap();
    disk.lose_power(PowerLoss::LoseAll);
    assert_eq!(
        (content(&disk, "cur").unwrap(), disk.list()),
        (b"new".to_vec(), vec!["cur".into()])
    );
}

#[test]
fn rot_lost_and_misdirected_writes_change_durable_bytes_silently() {
    let disk = disk(5);
    let file = disk.open("a").unwrap();
    disk.sync_dir().unwrap();
    disk.write(file, 0, &[1; 20 * SECTOR]).unwrap();
    disk.sync(file).unwrap();
    disk.set_faults(DiskFaults { lose_next_write: true, ..DiskFaults::default() });
    disk.write(file, 0, &[2; 10]).unwrap();
    disk.sync(file).unwrap();
    disk.lose_power(PowerLoss::Prefix);
    assert_eq!(content(&disk, "a").unwrap()[0], 1, "the write was lost");

    disk.set_faults(DiskFaults { misdirect_next_write: true, ..DiskFaults::default() });
    disk.write(file, 10 * SECTOR, &[3; 10]).unwrap();
    disk.sync(file).unwrap();
    disk.lose_power(PowerLoss::Prefix);
    let kept = content(&disk, "a").unwrap();
    assert_eq!((kept[10 * SECTOR], kept.iter().filter(|b| **b == 3).count()), (1, 10));

    assert!(disk.rot("a"));
    let rotten = content(&disk, "a").unwrap().iter().zip(&kept).filter(|(a, b)| a != b).count();
    assert_eq!(rotten, 1);
    assert_eq!((disk.effects().strayed, disk.effects().rotten), (2, 1));
}

#[test]
fn an_image_brings_back_the_past_and_a_wipe_brings_nothing() {
    let disk = disk(1);
    let file = disk.open("a").unwrap();
    disk.write(file, 0, b"past").unwrap();
    disk.sync(file).unwrap();
    disk.sync_dir().unwrap();
    let image = disk.image();
    disk.write(file, 0, b"now!").unwrap();
    disk.sync(file).unwrap();
    disk.restore(&image);
    assert_eq!(content(&disk, "a").unwrap(), b"past");
    disk.wipe();
    assert!(disk.list().is_empty());
    assert_eq!(disk.generation(), 2);
}

#[test]
fn slow_disks_charge_more() {
    let cost = |slow| {
        let disk = disk(1);
        let file = disk.open("a").unwrap();
        disk.set_faults(DiskFaults { slow, ..DiskFaults::default() });
        disk.write(file, 0, b"x").unwrap();
        disk.sync(file).unwrap();
        disk.cost_meter().load(std::sync::atomic::Ordering::Relaxed)
    };
    assert_eq!(cost(10), 10 * cost(1));
}
