//! Simulated clusters under faults, as part of the ordinary tests: some whole runs, and the gate
//! that one seed is one history, in any process. Longer hunts: `henge-sim --help`.
#![cfg(feature = "sim")]

use std::process::Command;

use henge::sim::generate::{Size, generate};
use henge::sim::plan::Plan;
use henge::sim::run::run;

/// The first of the seeds that are run in this test process.
const FIRST: u64 = 0;
/// How many; `HENGE_SIM_SEEDS` takes more.
const SEEDS: u64 = 16;

fn seeds() -> u64 {
    std::env::var("HENGE_SIM_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(SEEDS)
}

#[test]
fn promises_hold_under_faults() {
    for seed in FIRST..FIRST + seeds() {
        let report = run(generate(seed, Size { operations: 2_000, faults: 44 }));
        assert!(report.passed(), "henge-sim --seed {seed}: {:#?}", report.violations);
        assert!(report.operations >= 2_000, "seed {seed}: {} operations", report.operations);
        assert!(report.effects.len() >= 20, "seed {seed} proves too little: {:?}", report.effects);
    }
}

/// A create that a key's home had refused came a second time, seconds later, when the key was gone,
/// and took effect.
#[test]
fn seed_429_an_operation_that_was_sent_to_another_node_is_taken_in_once() {
    let report = run(generate(429, Size { operations: 2_000, faults: 44 }));
    assert!(report.passed(), "{:#?}", report.violations);
}

/// Plans that once broke a promise, cut down. Their names say which seed, and what went wrong.
#[test]
fn what_went_wrong_once_does_not_go_wrong_again() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/plans");
    let mut plans = 0;
    for entry in std::fs::read_dir(folder).expect("the plans are there") {
        let path = entry.expect("a file").path();
        let text = std::fs::read_to_string(&path).expect("a readable file");
        let report = run(Plan::from_json(&text).expect("a plan"));
        assert!(report.passed(), "{}: {:#?}", path.display(), report.violations);
        plans += 1;
    }
    assert!(plans > 0);
}

#[test]
fn one_seed_is_one_history_in_two_processes() {
    let hashes = || {
        let done = Command::new(env!("CARGO_BIN_EXE_henge-sim"))
            .args(["--seeds", "0..8", "--ops", "500", "--min-effects", "0", "--hash-only"])
            .output()
            .expect("henge-sim runs");
        let mut lines: Vec<String> =
            String::from_utf8_lossy(&done.stdout).lines().map(str::to_owned).collect();
        // Runs go on side by side and end in any order.
        lines.sort();
        lines
    };
    let (first, second) = (hashes(), hashes());
    assert_eq!(first.len(), 8, "{first:?}");
    assert_eq!(first, second);
}
