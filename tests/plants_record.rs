//! Planted bugs in records: the model must notice each. In a test program of its own, because a
//! plant holds for the whole process.
#![cfg(feature = "sim")]

mod record_world;

use henge::plants::{Plant, set_plant};
use henge::record::RecordKind;
use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::TestRunner;
use record_world::{Breach, Faults, World, steps};

const HISTORIES: usize = 50;

/// The breaches that the same histories show, every time.
fn breaches(plant: Option<Plant>) -> Vec<Breach> {
    let faults = Faults { retries: false, wipes: true };
    let mut runner = TestRunner::deterministic();
    set_plant(plant);
    let breaches = (0..HISTORIES).filter_map(|_| {
        let steps = steps(faults, 20..120).new_tree(&mut runner).expect("no filter").current();
        World::new(RecordKind::Siblings, 4, 3, faults).run(&steps).err()
    });
    let breaches = breaches.collect();
    set_plant(None);
    breaches
}

#[test]
fn ignored_contexts_and_merges_that_choose_a_side_are_caught_as_lost_writes() {
    assert_eq!(breaches(None), [], "clean code passes the same histories");
    for plant in [Plant::P18, Plant::P19] {
        let found = breaches(Some(plant));
        let lost = found.iter().filter(|breach| matches!(breach, Breach::Lost(_))).count();
        assert!(lost > HISTORIES / 5, "{plant:?}: {lost} lost of {found:?}");
    }
    assert_eq!(breaches(None), []);
}
