//! Copies that fail their checksums.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::town::{ABC, Fate, SECOND, Town, Write, id, is_apply, is_read, values_of};
use crate::coordinator::{Cause, ListOp, OpError};
use crate::meta::{ConflictMode, Table};
use crate::net::{Refusal, Response};
use crate::types::{Consistency, Key};

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

/// Acknowledged by a and b, unknown to c, damaged at a: left out of a's page, the key would be
/// missing from the listing of c and a, as if it had never been.
#[test]
fn a_listing_never_takes_a_damaged_copy_for_absence() {
    let (mut town, table) = Town::with_table(4, ConflictMode::Siblings);
    town.put("a", &table, "l", "v", Write::at(Consistency::All)).unwrap();
    town.script
        .add(Fate::LoseRequest, u32::MAX, |_, to, request| to == id("c") && is_apply(request));
    town.put("a", &table, "k", "v", Write::default()).unwrap();
    town.rot("a", &table, "k");
    town.pause("b", true);
    for at in ["a", "c"] {
        match list(&mut town, at, &table) {
            Ok(keys) => panic!("one sound copy in reach is no quorum: {keys:?}"),
            Err(OpError::TooFewReplicas { reasons, who, .. }) => {
                assert!(reasons.contains("is damaged"), "{reasons}");
                assert!(who.contains(&(id("a"), Cause::Damaged)), "{who:?}");
            }
            Err(OpError::Timeout { .. }) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
    town.pause("b", false);
    town.run(15 * SECOND);
    for at in ABC {
        let keys = list(&mut town, at, &table).unwrap();
        assert_eq!(keys.len(), 2, "through {at}: {keys:?}");
    }
    town.script.clear();
    town.values("c", &table, "k");
    list(&mut town, "a", &table).unwrap();
    town.run(HEALING);
    assert!(town.record("a", &table, "k").is_some(), "healed by those who met it");
}

/// All keys, by as many pages as it takes.
fn list(town: &mut Town, at: &str, table: &Arc<Table>) -> Result<Vec<Key>, OpError> {
    let mut keys = Vec::new();
    let mut after = None;
    loop {
        let op = ListOp {
            table: table.clone(),
            prefix: Bytes::new(),
            after: after.take(),
            limit: 100,
            conflicts: false,
            level: Consistency::Quorum,
            timeout: 3 * SECOND,
        };
        let coordinator = town.life(at).node.coordinator().clone();
        let slot = town.begin(at, async move { coordinator.list(op).await });
        let page = town.wait(&slot)?;
        keys.extend(page.keys.into_iter().map(|listed| listed.key));
        after = page.next;
        if after.is_none() {
            return Ok(keys);
        }
    }
}

/// The damaged copy is healed from all others, of which the emptied node is one: a refill that
/// waited for it would wait for ever.
#[test]
fn rule17_a_damaged_record_does_not_hold_up_a_refill() {
    let (mut town, table) = Town::with_table(5, ConflictMode::Siblings);
    for key in ["k", "l", "m"] {
        town.put("b", &table, key, "v", Write::at(Consistency::All)).unwrap();
    }
    town.rot("b", &table, "k");
    town.wipe("a");
    town.start("a");
    town.until(60, "a is refilled", |town| town.serves("a"));
    for key in ["k", "l", "m"] {
        let record = town.record("a", &table, key);
        assert_eq!(record, town.record("c", &table, key), "{key} came from c");
        assert!(record.is_some());
    }
    town.read("b", &table, "k", Consistency::Quorum).unwrap();
    town.run(HEALING);
    assert_eq!(town.record("b", &table, "k"), town.record("a", &table, "k"), "and b is healed");
}
