//! Records against a naive model: long random histories over several replicas, with stale and
//! blind contexts, deletions, late and repeated packets, lost disks and operations minted twice.
//! No concurrent write is lost, no superseded value is kept, and merging is a semilattice join on
//! every state that can be reached.

mod record_world;

use henge::record::{Record, RecordKind};
use proptest::prelude::*;
use record_world::{Faults, Step, World, steps};

const CALM: Faults = Faults { retries: false, wipes: false };
const WIPES: Faults = Faults { retries: false, wipes: true };
const RETRIES: Faults = Faults { retries: true, wipes: false };

fn run(kind: RecordKind, replicas: usize, faults: Faults, steps: &[Step]) -> World {
    let mut world = World::new(kind, replicas, 3, faults);
    if let Err(breach) = world.run(steps) {
        panic!("{breach:?}");
    }
    world
}

fn join(a: &Record, b: &Record) -> Record {
    let mut joined = a.clone();
    joined.merge(b).expect("one kind");
    joined
}

/// The three laws, and what follows: a join is above both, and brings nothing the second time.
fn assert_join_laws(a: &Record, b: &Record, c: &Record) {
    let ab = join(a, b);
    assert_eq!(ab, join(b, a), "commutes");
    assert_eq!(join(&ab, c), join(a, &join(b, c)), "associates");
    assert_eq!(join(a, a), *a, "is idempotent");
    assert_eq!(join(&ab, b), ab, "absorbs");
    assert_eq!(join(a, &Record::empty(a.kind())), *a, "has a least element");
    assert!(ab.clone().merge(a).unwrap().incoming_dominated);
}

fn kinds() -> impl Strategy<Value = RecordKind> {
    prop_oneof![Just(RecordKind::Siblings), Just(RecordKind::Lww)]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 256,
        failure_persistence: None, // the failing steps are printed whole
        ..ProptestConfig::default()
    })]

    #[test]
    fn no_concurrent_write_is_lost_and_no_superseded_value_kept(
        replicas in 3usize..6, steps in steps(CALM, 20..160)
    ) {
        run(RecordKind::Siblings, replicas, CALM, &steps);
    }

    #[test]
    fn a_lost_disk_takes_only_what_no_other_replica_held(
        replicas in 3usize..6, steps in steps(WIPES, 20..160)
    ) {
        run(RecordKind::Siblings, replicas, WIPES, &steps);
    }

    #[test]
    fn an_operation_minted_twice_shows_once_and_dies_once(
        // Few enough writes that the operation log forgets none.
        replicas in 3usize..6, steps in steps(RETRIES, 10..30)
    ) {
        run(RecordKind::Siblings, replicas, RETRIES, &steps);
    }

    #[test]
    fn the_last_write_wins_by_stamp_then_deletion_then_bytes(
        replicas in 3usize..6, steps in steps(WIPES, 20..160)
    ) {
        run(RecordKind::Lww, replicas, WIPES, &steps);
    }

    #[test]
    fn merging_is_a_join_on_all_reachable_states(
        kind in kinds(),
        steps in steps(Faults { retries: true, wipes: true }, 30..200),
        picks in prop::collection::vec(any::<[prop::sample::Index; 3]>(), 40),
    ) {
        // With retries, wipes and a log that forgets, all at once, a false sibling may show for
        // good; the laws must hold all the same.
        let mut world = World::new(kind, 4, 3, RETRIES);
        world.wander(&steps);
        for [a, b, c] in picks {
            let state = |index: prop::sample::Index| index.get(&world.states);
            assert_join_laws(state(a), state(b), state(c));
        }
    }
}

/// The tests above would pass on histories in which nothing happens.
#[test]
fn the_histories_have_siblings_deletions_and_hidden_twins() {
    use proptest::strategy::ValueTree as _;
    use proptest::test_runner::TestRunner;

    let mut runner = TestRunner::deterministic();
    let (mut widest, mut tombstones, mut hidden, mut forgotten) = (0, 0, 0, 0);
    for _ in 0..40 {
        let faults = Faults { retries: true, wipes: false };
        let steps = steps(faults, 20..160).new_tree(&mut runner).unwrap().current();
        let mut world = World::new(RecordKind::Siblings, 4, 3, faults);
        world.wander(&steps);
        for state in &world.states {
            let view = state.view(henge::types::WallMicros(0));
            widest = widest.max(view.versions.len());
            tombstones += usize::from(view.tombstone);
            hidden += usize::from(state.value_count() > view.versions.len());
            forgotten += usize::from(state.op_entries().len() == henge::record::OP_LOG_LEN);
        }
    }
    assert!(widest >= 5, "at most {widest} siblings");
    assert!(tombstones > 20 && hidden > 20 && forgotten > 20, "{tombstones} {hidden} {forgotten}");
}
