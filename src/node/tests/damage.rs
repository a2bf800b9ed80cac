//! Copies that fail their checksums.

use super::town::{ABC, SECOND, Town, Write, values_of};
use crate::coordinator::OpError;
use crate::meta::ConflictMode;
use crate::net::{Refusal, Response};
use crate::types::Consistency;

#[test]
fn a_damaged_copy_is_not_absence_and_is_healed_from_all_others() {
    let (mut town, table) = Town::with_table(1, ConflictMode::Siblings);
    town.put("a", &table, "k", "v", Write::at(Consistency::All)).unwrap();
    town.rot("b", &table, "k");
    assert_eq!(town.own("b", &table, "k"), Response::Refused(Refusal::Damaged));
    let found = town.read("b", &table, "k", Consistency::Quorum).unwrap();
    assert_eq!(values_of(&found), ["v"]);
    town.run(SECOND);
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
    town.run(SECOND);
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
        town.run(SECOND);
        // Healed with what stood then; the rest comes with the next read.
        assert!(town.record("b", &table, "k").is_some(), "through {coordinator}");
    }
}
