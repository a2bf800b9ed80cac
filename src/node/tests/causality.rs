//! Rules 1 to 4: dots, retries, contexts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::town::{Fate, SECOND, Town, Write, id, is_apply, is_mint, is_read, op_id, values_of};
use crate::coordinator::OpError;
use crate::meta::{ConflictMode, Table};
use crate::types::{ActorId, Consistency, Dot, NodeId};

const ABCD: [&str; 4] = ["a", "b", "c", "d"];

/// Four nodes; the returned name is of one that is no replica of `key`, so that whoever mints is
/// another node.
fn with_stranger(seed: u64, key: &str) -> (Town, Arc<Table>, &'static str) {
    with_stranger_to(seed, key, ConflictMode::Siblings)
}

fn with_stranger_to(
    seed: u64,
    key: &str,
    conflict: ConflictMode,
) -> (Town, Arc<Table>, &'static str) {
    let mut town = Town::founded(seed, &ABCD);
    let table = town.create("t", |settings| settings.conflict = conflict);
    let place = town.life("a").node.coordinator().locate(&table, &super::town::key_of(key));
    let stranger = ABCD.into_iter().find(|name| !place.replicas.contains(&id(name))).unwrap();
    (town, table, stranger)
}

fn actor(town: &Town, name: &str) -> ActorId {
    town.life(name).node.identity().actor
}

#[test]
fn rule01_one_counter_never_restarts() {
    let (mut town, table) = Town::with_table(1, ConflictMode::Siblings);
    let mut latest: BTreeMap<ActorId, u64> = BTreeMap::new();
    for round in 0..4 {
        for (n, name) in ["a", "b", "a", "c", "a"].into_iter().enumerate() {
            let key = format!("key {}", (round + n) % 3);
            let Dot { actor, counter } =
                town.put(name, &table, &key, "v", Write::default()).unwrap().dot.unwrap();
            let before = latest.insert(actor, counter).unwrap_or(0);
            assert!(counter > before, "{actor} went from {before} to {counter}");
        }
        town.lose_power("a");
        town.start("a");
        town.until(30, "a serves again", |town| town.serves("a"));
    }
    assert_eq!(latest.len(), 3, "a loss of power begins no new actor");
}

#[test]
fn rule02_a_damaged_copy_mints_nothing() {
    let (mut town, table) = Town::with_table(2, ConflictMode::Siblings);
    let first = town.put("a", &table, "k", "v1", Write::default()).unwrap();
    town.run(SECOND);
    town.rot("a", &table, "k");
    let second = town.put("a", &table, "k", "v2", Write::seen(&first.context)).unwrap();
    assert_ne!(second.dot.unwrap().actor, actor(&town, "a"));
    assert_eq!(town.values("a", &table, "k"), ["v2"]);
    // Whoever met the damage has it healed from all others.
    town.run(12 * SECOND);
    assert_eq!(town.record("a", &table, "k"), town.record("b", &table, "k"));
}

#[test]
fn rule03_an_operation_whose_answer_was_lost_shows_once() {
    for seed in 0..8 {
        let (mut town, table, stranger) = with_stranger(seed, "k");
        let rule = town.script.add(Fate::LoseAnswer, 1, |_, _, request| is_mint(request));
        let outcome = town.put(stranger, &table, "k", "v", Write::default()).unwrap();
        assert_eq!(town.script.hits(rule), 1);
        assert_eq!((outcome.siblings, outcome.created), (1, true), "seed {seed}");
        for name in ABCD {
            assert_eq!(town.values(name, &table, "k"), ["v"], "seed {seed}");
        }
        // Whoever replaces what it read has replaced the operation, whichever minting it saw.
        let seen = town.read("a", &table, "k", Consistency::Quorum).unwrap();
        let context = seen.record.context();
        town.put(stranger, &table, "k", "w", Write::seen(&context)).unwrap();
        town.run(SECOND);
        assert_eq!(town.values("a", &table, "k"), ["w"], "seed {seed}");
    }
}

#[test]
fn rule03_the_first_minter_that_comes_back_makes_no_second_version() {
    for seed in 0..8 {
        let (mut town, table, stranger) = with_stranger(seed, "k");
        let late = Fate::Delay(Duration::from_secs(30));
        town.script.add(late, 1, |_, _, request| is_mint(request));
        let first = town.put(stranger, &table, "k", "v1", Write::default()).unwrap();
        let next = Write::seen(&first.context);
        town.put(stranger, &table, "k", "v2", next).unwrap();
        town.run(Duration::from_secs(40));
        for name in ABCD {
            assert_eq!(town.values(name, &table, "k"), ["v2"], "seed {seed}: it came too late");
        }
    }
}

/// Even where the first minter had heard nothing of the second one's version.
#[test]
fn rule03_a_late_mint_where_nothing_was_heard_is_hidden_by_its_twin() {
    let (mut town, table, stranger) = with_stranger(5, "k");
    let first = Arc::new(std::sync::Mutex::new(None::<NodeId>));
    let picked = first.clone();
    town.script.add(Fate::Delay(20 * SECOND), 1, move |_, to, request| {
        let mint = is_mint(request);
        if mint {
            *picked.lock().unwrap() = Some(to);
        }
        mint
    });
    let deaf = first.clone();
    town.script.add(Fate::LoseRequest, u32::MAX, move |_, to, request| {
        is_apply(request) && *deaf.lock().unwrap() == Some(to)
    });
    town.put(stranger, &table, "k", "v1", Write::default()).unwrap();
    town.run(Duration::from_secs(25));
    town.script.clear();
    for name in ABCD {
        assert_eq!(town.values(name, &table, "k"), ["v1"], "two mintings, one operation");
    }
}

/// In a last-write-wins table a mint that was given up on, and is carried out when others have
/// written since, is no later write than it was (seed 138 of the simulator).
#[test]
fn rule03_a_late_mint_is_no_later_write() {
    for seed in 0..8 {
        let (mut town, table, stranger) = with_stranger_to(seed, "k", ConflictMode::Lww);
        let first = Arc::new(std::sync::Mutex::new(None::<NodeId>));
        let picked = first.clone();
        town.script.add(Fate::Delay(2 * SECOND), 1, move |_, to, request| {
            let mint = is_mint(request);
            if mint {
                *picked.lock().unwrap() = Some(to);
            }
            mint
        });
        let deaf = first.clone();
        town.script.add(Fate::LoseRequest, u32::MAX, move |_, to, request| {
            is_apply(request) && *deaf.lock().unwrap() == Some(to)
        });
        town.put(stranger, &table, "k", "v1", Write::default()).unwrap();
        let minter = first.lock().unwrap().expect("a first minter");
        let other = ABCD.into_iter().find(|name| *name != stranger && id(name) != minter);
        town.put(other.unwrap(), &table, "k", "v2", Write::default()).unwrap();
        town.run(3 * SECOND);
        town.script.clear();
        for name in ABCD {
            assert_eq!(town.values(name, &table, "k"), ["v2"], "seed {seed}, read at {name}");
        }
    }
}

/// A mint whose answer is lost made a version that had lost from the start: to one that was
/// acknowledged before, by a clock that is ahead. The majority that is read then shows both, and the
/// write must not end there (seed 11714 of the simulator).
#[test]
fn rule03_a_write_found_again_wins_over_what_came_before_it() {
    for seed in 0..4 {
        let (mut town, table, stranger) = with_stranger_to(seed, "k", ConflictMode::Lww);
        let replicas: Vec<&str> = ABCD.into_iter().filter(|name| *name != stranger).collect();
        let [minter, ahead, third] = replicas[..] else { panic!("three replicas") };
        town.world.jump_wall(town.machine(ahead), 5_000_000);
        town.script.add(Fate::LoseRequest, u32::MAX, move |_, to, request| {
            is_apply(request) && to == id(minter)
        });
        town.put(ahead, &table, "k", "first", Write::default()).unwrap();
        town.script.clear();
        let others_cannot_mint = move |_, to, request: &_| is_mint(request) && to != id(minter);
        town.script.add(Fate::NotSent, u32::MAX, others_cannot_mint);
        let lost = town.script.add(Fate::LoseAnswer, 1, |_, _, request| is_mint(request));
        town.script.add(Fate::LoseRequest, u32::MAX, move |_, to, request| {
            is_read(request) && to == id(third)
        });
        town.put(stranger, &table, "k", "second", Write::default()).unwrap();
        assert_eq!(town.script.hits(lost), 1);
        town.script.clear();
        for name in ABCD {
            assert_eq!(town.values(name, &table, "k"), ["second"], "seed {seed}, read at {name}");
        }
    }
}

#[test]
fn rule03_a_mint_that_comes_again_after_a_minute_changes_nothing() {
    let (mut town, table, stranger) = with_stranger(6, "k");
    town.script.add(Fate::Repeat(60 * SECOND), 1, |_, _, request| is_mint(request));
    let mut context = town.put(stranger, &table, "k", "v0", Write::default()).unwrap().context;
    for n in 1..=3 {
        let how = Write::seen(&context);
        context = town.put(stranger, &table, "k", &format!("v{n}"), how).unwrap().context;
    }
    town.run(Duration::from_secs(70));
    assert_eq!(town.values("a", &table, "k"), ["v3"]);

    // Nor when so much has happened since that the record has forgotten the operation.
    town.script.add(Fate::Repeat(60 * SECOND), 1, |_, _, request| is_mint(request));
    for n in 4..=44 {
        let how = Write::seen(&context);
        context = town.put(stranger, &table, "k", &format!("v{n}"), how).unwrap().context;
    }
    town.run(Duration::from_secs(70));
    assert_eq!(town.values("a", &table, "k"), ["v44"]);
}

#[test]
fn rule03_a_named_operation_runs_once_whoever_is_asked_again() {
    let (mut town, table) = Town::with_table(7, ConflictMode::Siblings);
    let op = op_id(&town, 1);
    let first = town.put("a", &table, "k", "v", Write::named(op)).unwrap();
    assert!(!first.replayed);
    let between = Write::seen(&first.context);
    town.put("c", &table, "k", "w", between).unwrap();
    let again = town.put("b", &table, "k", "v", Write::named(op)).unwrap();
    assert!(again.replayed);
    assert_eq!((again.dot, again.created), (first.dot, first.created));
    assert_eq!(town.values("a", &table, "k"), ["w"]);

    let other = town.put("b", &table, "k", "something else", Write::named(op)).unwrap_err();
    assert_eq!(other, OpError::OperationReused);

    for n in 2..=40 {
        let op = op_id(&town, n);
        town.put("a", &table, "k", "x", Write::named(op)).unwrap();
    }
    let expired = town.put("b", &table, "k", "v", Write::named(op)).unwrap_err();
    assert_eq!(expired, OpError::OperationExpired);
}

#[test]
fn rule03_a_named_deletion_of_nothing_does_not_delete_what_comes_later() {
    let (mut town, table) = Town::with_table(8, ConflictMode::Siblings);
    let op = op_id(&town, 1);
    town.delete("a", &table, "k", Write::named(op)).unwrap();
    town.put("b", &table, "k", "v", Write::default()).unwrap();
    let again = town.delete("c", &table, "k", Write::named(op)).unwrap();
    assert!(again.replayed);
    assert_eq!(town.values("a", &table, "k"), ["v"]);
}

/// Clients name operations by their own clocks, which may be fast.
#[test]
fn rule03_operations_named_ahead_of_time_do_not_lock_others_out() {
    let (mut town, table) = Town::with_table(9, ConflictMode::Siblings);
    let hour = 3_600_000;
    for n in 0..40 {
        let op = op_id(&town, hour + n);
        town.put("a", &table, "k", "v", Write::named(op)).unwrap();
    }
    town.put("b", &table, "k", "unnamed", Write::default()).unwrap();
    assert!(town.values("c", &table, "k").contains(&"unnamed".to_owned()));

    let far = op_id(&town, 48 * hour);
    let refused = town.put("a", &table, "k", "v", Write::named(far)).unwrap_err();
    assert!(matches!(refused, OpError::BadOperationId(_)), "{refused}");
}

#[test]
fn rule04_a_deletion_without_context_deletes_what_a_quorum_shows() {
    let (mut town, table) = Town::with_table(10, ConflictMode::Siblings);
    let lost = town.script.add(Fate::LoseRequest, 1, |from, to, request| {
        is_apply(request) && from == id("a") && to == id("c")
    });
    town.put("a", &table, "k", "v1", Write::default()).unwrap();
    assert_eq!(town.script.hits(lost), 1, "c has not heard of it");
    town.put("b", &table, "k", "v2", Write::default()).unwrap();
    town.delete("c", &table, "k", Write::default()).unwrap();
    for name in super::town::ABC {
        assert_eq!(town.values(name, &table, "k"), [""; 0]);
    }
}

#[test]
fn rule04_a_value_written_beside_a_deletion_lives_on() {
    let (mut town, table) = Town::with_table(11, ConflictMode::Siblings);
    let first = town.put("a", &table, "k", "v1", Write::default()).unwrap();
    town.put("b", &table, "k", "v2", Write::default()).unwrap();
    let deleted = town.delete("c", &table, "k", Write::seen(&first.context)).unwrap();
    assert_eq!(deleted.siblings, 1);
    assert_eq!(town.values("a", &table, "k"), ["v2"]);
}

/// A read in the middle of a write must not let it be counted twice: what a majority shows of an
/// operation is its first outcome.
#[test]
fn rule03_a_write_that_was_lost_halfway_is_found_by_its_repeat() {
    let (mut town, table) = Town::with_table(12, ConflictMode::Siblings);
    let op = op_id(&town, 1);
    town.script
        .add(Fate::LoseRequest, u32::MAX, |from, _, request| from == id("a") && is_apply(request));
    let how = Write { timeout: Some(SECOND), ..Write::named(op) };
    let error = town.put("a", &table, "k", "v", how).unwrap_err();
    assert_eq!(error.fate(), crate::coordinator::Fate::Unknown, "{error}");
    town.script.clear();
    // The repeat asks a majority without a, which knows nothing; then a's copy comes to light.
    town.script.add(Fate::LoseRequest, 1, |from, to, request| {
        from == id("b") && to == id("a") && is_read(request)
    });
    town.put("b", &table, "k", "v", Write::named(op)).unwrap();
    town.script.clear();
    let found = town.read("c", &table, "k", Consistency::All).unwrap();
    assert_eq!(values_of(&found), ["v"]);
}
