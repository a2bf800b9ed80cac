//! The program itself: histories that are judged again, and what it says about the machine.

use std::process::{Command, Output};

fn henge_jepsen(arguments: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_henge-jepsen");
    Command::new(program).args(arguments).output().expect("the program runs")
}

fn history(name: &str) -> String {
    format!("{}/tests/histories/{name}.ndjson", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn a_history_that_holds_is_green_and_one_that_goes_back_is_not() {
    let good = henge_jepsen(&["check", &history("register-linearizable")]);
    assert_eq!(good.status.code(), Some(0), "{good:?}");
    let bad = henge_jepsen(&["check", &history("register-goes-back")]);
    assert_eq!(bad.status.code(), Some(1), "{bad:?}");
    let told = String::from_utf8_lossy(&bad.stdout).into_owned();
    assert!(told.contains("r: not linearizable: 4 of 5 operations have an order"), "{told}");
}

#[test]
fn a_file_that_is_no_history_is_neither() {
    let none = henge_jepsen(&["check", "/dev/null"]);
    assert_eq!(none.status.code(), Some(3), "{none:?}");
}

#[test]
fn edn_is_one_map_per_event() {
    let edn = henge_jepsen(&["check", "--edn", &history("register-linearizable")]);
    let told = String::from_utf8_lossy(&edn.stdout).into_owned();
    assert_eq!(told.lines().count(), 11, "{told}");
    assert!(told.contains(":process 2, :type :info, :f :write"), "{told}");
}

#[test]
fn the_doctor_names_what_is_missing() {
    let doctor = henge_jepsen(&["doctor", "--henge", "/nowhere/henge"]);
    assert_eq!(doctor.status.code(), Some(1), "{doctor:?}");
    let told = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(told.contains("MISSING  henge"), "{told}");
}

/// From a real run (bridge, seed 100): the holder of fence 1 had slept through its lease, fence 2
/// had been given, and a write under fence 1 was still taken, because the holder of fence 2 had not
/// written yet.
#[test]
fn a_lease_is_no_mutual_exclusion_and_that_is_said() {
    let overlap = henge_jepsen(&["check", &history("lock-overlap")]);
    assert_eq!(overlap.status.code(), Some(0), "{overlap:?}");
    let told = String::from_utf8_lossy(&overlap.stdout).into_owned();
    assert!(told.contains("1 writes were taken after a newer grant"), "{told}");
}

/// From a real run (no fault, seed 400): two writes of a row had the same stamp, from two nodes, and
/// were told apart cell by cell.
#[test]
fn a_row_that_shows_half_of_each_of_two_writes_is_noticed() {
    let torn = henge_jepsen(&["check", &history("row-shape-tie")]);
    assert_eq!(torn.status.code(), Some(1), "{torn:?}");
    let told = String::from_utf8_lossy(&torn.stdout).into_owned();
    assert!(told.contains("half of one write and half of another"), "{told}");
}

/// From real runs (partition-one, seed 5), cut down to the operations that show it: one replica
/// was read that had missed a write; and a plain write that ran beside a conditional one was
/// acknowledged, and is gone although the condition held before it and the two had no other order.
#[test]
fn what_is_not_promised_is_shown_and_is_no_breach() {
    for (name, note) in [
        ("weak-stale-read", "1 reads of one replica were stale, as they may be"),
        ("mixed-write-undone", "1 keys have no one order of plain and conditional writes"),
    ] {
        let shown = henge_jepsen(&["check", &history(name)]);
        assert_eq!(shown.status.code(), Some(0), "{shown:?}");
        let told = String::from_utf8_lossy(&shown.stdout).into_owned();
        assert!(told.contains(note), "{told}");
    }
}

/// From a real run (clock-jump, seed 5): one writer's 128, through a node whose clock is right, loses
/// to its 127, through one whose clock is ahead. A column of CQL promises no more, so this workload
/// is in no matrix; that it notices is what plant P36 is caught by.
#[test]
fn a_column_whose_writers_clock_was_slower_shows_the_older_number() {
    let lost = henge_jepsen(&["check", &history("cql-slower-clock")]);
    assert_eq!(lost.status.code(), Some(1), "{lost:?}");
    let told = String::from_utf8_lossy(&lost.stdout).into_owned();
    assert!(told.contains("a read misses an acknowledged write"), "{told}");
}
