//! Copies that fail their checksums.

use std::time::Duration;

use super::town::{ABC, Fate, SECOND, Town, Write, id, is_apply, is_read, values_of};
use crate::coordinator::OpError;
use crate::meta::ConflictMode;
use crate::net::{Refusal, Response};
use crate::types::Consistency;

/// Until a damaged copy that somebody has met is healed.
const HEALING: Duration = Duration::from_secs(12);

#[test]
fn a_damaged_copy_is_not_absence_and_is_healed_from_all_others() {
    let (mut town, table) = Town::with_table(1, ConflictMode::Siblings);
    town.put("a", &table, "k", "v", Write::at(Consistency::All)).unwrap();
    town.rot("b", &table, "k");
    assert_eq!(town.own("b", &table, "k"), Response::Refused(Refusal::Damaged));
    let found = town.read("b", &table, "k", Consistency::Quorum).unwrap();
    assert_eq!(values_of(&found), ["v"]);
    town.run(HEALING);
    assert_eq!(town.record("b", &table, "k"), town.record("a", &table, "k"));
}

#[test]
fn a_damaged_copy_waits_until_every_other_replica_answers() {
    let (mut town, table) = Town::with_table(2, ConflictMode::Siblings);
    town.put("a", &table, "k", "v", Write::at(Consistency::All)).unwrap();
    town.rot("b", &table, "k");
    town.pause("c", true);
    let error = town.read("a", &table, "k", Consistency::Quorum).unwrap_err();
    assert!(matches!(error, OpError::Timeout { .. } | OpError::TooFewReplicas { .. }), "{error:?}");
    town.run(SECOND);
    assert_eq!(town.own("b", &table, "k"), Response::Refused(Refusal::Damaged), "a alone: no");
    town.pause("c", false);
    town.run(15 * SECOND);
    town.values("a", &table, "k");
    town.read("b", &table, "k", Consistency::Two).unwrap();
    town.run(HEALING);
    assert!(town.record("b", &table, "k").is_some());
}

/// A key that is written and never read is healed too.
#[test]
fn a_write_that_meets_damage_has_it_healed() {
    for coordinator in ABC {
        let (mut town, table) = Town::with_table(3, ConflictMode::Siblings);
        town.put("a", &table, "k", "v", Write::at(Consistency::All)).unwrap();
        town.rot("b", &table, "k");
        town.put(coordinator, &table, "k", "w", Write::default()).unwrap();
        town.run(HEALING);
        assert!(town.record("b", &table, "k").is_some(), "through {coordinator}");
    }
}

/// A copy that a write counts is damaged under it and healed from those whom the write has yet to
/// reach: an acknowledged write would then be on one replica only.
#[test]
fn healing_takes_nothing_from_a_write_that_is_under_way() {
    let long = 20 * SECOND;
    for (delay, seed) in [(2 * SECOND, 4), (14 * SECOND, 5)] {
        let (mut town, table) = Town::with_table(seed, ConflictMode::Siblings);
        town.put("a", &table, "k", "v", Write::at(Consistency::All)).unwrap();
        town.run(SECOND);
        let context = town.read("a", &table, "k", Consistency::All).unwrap().record.context();
        town.script.add(Fate::LoseRequest, u32::MAX, |from, to, request| {
            from == id("a") && to == id("c") && is_apply(request)
        });
        town.script.add(Fate::Delay(delay), 1, |from, to, request| {
            from == id("a") && to == id("b") && is_apply(request)
        });
        let how = Write { timeout: Some(long), ..Write::seen(&context) };
        let write = town.begin_put("a", &table, "k", "w", how);
        town.run(SECOND);
        town.rot("a", &table, "k");
        let found = town.read("a", &table, "k", Consistency::Quorum).unwrap();
        assert_eq!(values_of(&found), ["v"], "of b and c");
        let written = town.wait(&write);
        town.run(HEALING);
        written.unwrap_or_else(|error| panic!("after {delay:?}: {error}"));
        // Of b, the only one that it reached, nothing is heard.
        town.script
            .add(Fate::LoseRequest, u32::MAX, |_, to, request| to == id("b") && is_read(request));
        let found = town.read("c", &table, "k", Consistency::Quorum).unwrap();
        assert_eq!(values_of(&found), ["w"], "after {delay:?}");
    }
}
