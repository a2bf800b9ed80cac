//! Which replicas reads go to.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::town::{Fate, SECOND, Town, Write, id, is_read};
use crate::meta::ConflictMode;
use crate::types::Consistency;

/// Hedged reads of `a` so far.
fn hedges(town: &Town) -> u64 {
    town.life("a").node.coordinator().counters().hedges.load(Ordering::Relaxed)
}

#[test]
fn a_replica_that_stands_still_costs_a_hedge_a_second_at_most_and_fails_no_read() {
    let (mut town, table) = Town::with_table(1, ConflictMode::Siblings);
    let keys: Vec<String> = (0..30).map(|n| format!("k{n}")).collect();
    for key in &keys {
        town.put("a", &table, key, "v", Write::at(Consistency::All)).unwrap();
    }
    for key in keys.iter().cycle().take(90) {
        assert_eq!(town.values("a", &table, key), ["v"]);
    }
    // Of the two others, whichever the reads go to.
    for still in ["b", "c"] {
        let before = hedges(&town);
        let begun = town.life("a").env.mono();
        town.pause(still, true);
        for key in keys.iter().cycle().take(90) {
            assert_eq!(town.values("a", &table, key), ["v"], "while {still} stands still");
        }
        let seconds = town.life("a").env.mono().since(begun).as_secs();
        let spent = hedges(&town) - before;
        assert!(spent <= 2 + seconds, "{spent} hedges in {seconds} s while {still} stood still");
        town.pause(still, false);
        town.run(5 * SECOND);
    }
    assert!(hedges(&town) > 0, "reads went to one of them");
}

#[test]
fn reads_go_to_the_faster_replica() {
    for (slow, fast) in [("b", "c"), ("c", "b")] {
        let (mut town, table) = Town::with_table(2, ConflictMode::Siblings);
        town.put("a", &table, "k", "v", Write::at(Consistency::All)).unwrap();
        let reads = |town: &Town, name: &str| {
            town.life(name).node.replica().counters().reads.load(Ordering::Relaxed)
        };
        town.script.add(Fate::Delay(Duration::from_millis(80)), u32::MAX, move |_, to, request| {
            to == id(slow) && is_read(request)
        });
        // It has to be found out first.
        (0..20).for_each(|_| assert_eq!(town.values("a", &table, "k"), ["v"]));
        let before = (reads(&town, slow), reads(&town, fast));
        (0..20).for_each(|_| assert_eq!(town.values("a", &table, "k"), ["v"]));
        let asked = (reads(&town, slow) - before.0, reads(&town, fast) - before.1);
        assert!(asked.0 <= 3 && asked.1 >= 17, "{asked:?} of {slow} and {fast}");
    }
}
