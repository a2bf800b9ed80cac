//! Tombstones that go by proof, and deleted keys that stay deleted. Scenarios R12, R20, R25, R34 and
//! R37 to R40 of the project's test plan are here by name, as far as they are about deletes.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::town::{ABC, Fate, SECOND, Town, Write, id, is_apply, key_of, row, values_of};
use crate::meta::{ConflictMode, Table};
use crate::net::purge::{PurgeAction, PurgeRequest};
use crate::net::{Request, Response};
use crate::repair::Options;
use crate::repair::hints::HintSettings;
use crate::repair::purge::{Obstacle, PurgeOptions};
use crate::ring::token_of;
use crate::storage::Engine as _;
use crate::types::{Consistency, Generation, NodeId};

/// Long after the grace time of every table here, and after all that follows from it.
const LONG: u64 = 60;

pub(super) fn town_with(seed: u64, interval: Option<Duration>, hints: bool) -> (Town, Arc<Table>) {
    let mut town = Town::new(seed, &ABC);
    let purge = PurgeOptions {
        interval: Duration::from_millis(200),
        percent: 50,
        longest_pause: Duration::from_millis(400),
    };
    town.repair = Options { interval, scrub_percent: 0, purge, ..Options::default() };
    town.hints = HintSettings { enabled: hints, ..HintSettings::default() };
    for name in ABC {
        town.start(name);
    }
    town.until(30, "all serve", |town| ABC.iter().all(|name| town.serves(name)));
    let table = town.create("t", |settings| settings.grace_s = 3);
    (town, table)
}

/// A town that compares its trees every two seconds and keeps no hints.
fn repairing(seed: u64) -> (Town, Arc<Table>) {
    town_with(seed, Some(2 * SECOND), false)
}

/// No node has anything under the key, not even a tombstone.
fn gone(town: &Town, table: &Arc<Table>, key: &str) -> bool {
    ABC.iter().all(|name| is_gone(town, name, table, key))
}

fn is_gone(town: &Town, name: &str, table: &Arc<Table>, key: &str) -> bool {
    matches!(town.life(name).engine.get(&row(table, key)), Ok(None))
}

fn generation(town: &Town, name: &str, table: &Arc<Table>, key: &str) -> Generation {
    let node = &town.life(name).node;
    let partition = node.cluster().state().ring().partition_of(token_of(key.as_bytes()));
    node.replica().generation((table.id, partition)).unwrap()
}

/// The one whose id is the least: it leads all purges, since all three keep everything.
pub(super) fn leader() -> &'static str {
    ABC.into_iter().min_by_key(|name| id(name)).unwrap()
}

fn others() -> [&'static str; 2] {
    let mut others = ABC.into_iter().filter(|name| *name != leader());
    [others.next().unwrap(), others.next().unwrap()]
}

fn action(request: &Request) -> Option<&PurgeAction> {
    match request {
        Request::Purge(PurgeRequest { what, .. }) => Some(what),
        _ => None,
    }
}

fn is_commit(request: &Request) -> bool {
    matches!(action(request), Some(PurgeAction::Commit(_)))
}

fn is_advance(request: &Request) -> bool {
    matches!(action(request), Some(PurgeAction::Advance { .. }))
}

fn obstacles(town: &Town) -> Vec<(NodeId, Obstacle)> {
    let blocked = town.life(leader()).node.purge().blocked();
    blocked.into_iter().map(|blocked| (blocked.node, blocked.why)).collect()
}

fn written_and_deleted(town: &mut Town, table: &Arc<Table>, key: &str) {
    town.put("a", table, key, "old", Write::at(Consistency::All)).unwrap();
    town.delete("b", table, key, Write::at(Consistency::All)).unwrap();
}

fn is_absent(town: &mut Town, table: &Arc<Table>, key: &str) {
    for name in ABC {
        assert_eq!(town.values(name, table, key), [""; 0], "through {name}");
    }
}

#[test]
fn a_tombstone_goes_when_all_replicas_hold_it_and_a_key_is_born_again_after_it() {
    for conflict in [ConflictMode::Siblings, ConflictMode::Lww] {
        let (mut town, _) = town_with(1, None, true);
        let table = town.create("u", |settings| {
            settings.conflict = conflict;
            settings.grace_s = 3;
        });
        written_and_deleted(&mut town, &table, "k");
        town.run(2 * SECOND);
        assert!(!gone(&town, &table, "k"), "its grace time is not over");
        town.until(LONG, "it is purged", |town| gone(town, &table, "k"));
        for name in ABC {
            assert_eq!(generation(&town, name, &table, "k"), Generation(1), "at {name}");
        }
        is_absent(&mut town, &table, "k");
        town.put("c", &table, "k", "new", Write::default()).unwrap();
        town.run(10 * SECOND);
        for name in ABC {
            assert_eq!(town.values(name, &table, "k"), ["new"], "{conflict} through {name}");
        }
    }
}

/// A value without expiry beside one that has expired keeps the record; when all are gone it goes,
/// and what it covered stays covered until then.
#[test]
fn a_record_goes_when_its_last_value_has_expired() {
    let (mut town, table) = town_with(2, None, true);
    let short = Write { ttl: Some(2 * SECOND), ..Write::at(Consistency::All) };
    town.put("a", &table, "k", "short", short.clone()).unwrap();
    town.put("b", &table, "both", "short", short).unwrap();
    town.put("c", &table, "both", "for ever", Write::at(Consistency::All)).unwrap();
    town.until(LONG, "it is purged", |town| gone(town, &table, "k"));
    town.run(10 * SECOND);
    assert_eq!(town.values("a", &table, "both"), ["for ever"]);
    is_absent(&mut town, &table, "k");
}

/// Tombstones dropped by age: the delete misses C, grace is over, A and B drop it, C's value
/// returns.
#[test]
fn r34_a_delete_that_one_replica_missed_stays_however_long_that_one_is_away() {
    let (mut town, table) = repairing(3);
    let away = others()[1];
    town.put(leader(), &table, "k", "old", Write::at(Consistency::All)).unwrap();
    town.kill(away);
    town.delete(leader(), &table, "k", Write::default()).unwrap();
    town.run(Duration::from_secs(LONG));
    assert!(!is_gone(&town, leader(), &table, "k"), "one replica has not seen it");
    assert_eq!(obstacles(&town), [(id(away), Obstacle::Away)], "and it is known which");
    town.start(away);
    town.until(LONG, "it is purged", |town| gone(town, &table, "k"));
    is_absent(&mut town, &table, "k");
    town.run(Duration::from_secs(LONG));
    assert!(gone(&town, &table, "k"), "it has not come back");
    assert_eq!(obstacles(&town), []);
}

/// The same where anti-entropy began before the grace time was over and ended after it: C is there,
/// and takes nothing.
#[test]
fn r34_a_delete_that_a_replica_does_not_take_is_not_purged() {
    let (mut town, table) = repairing(4);
    let deaf = others()[0];
    town.put(leader(), &table, "k", "old", Write::at(Consistency::All)).unwrap();
    let rule = town.script.add(Fate::LoseRequest, u32::MAX, move |_, to, request| {
        to == id(deaf) && is_apply(request)
    });
    town.delete(leader(), &table, "k", Write::default()).unwrap();
    town.run(Duration::from_secs(LONG));
    assert!(town.script.hits(rule) > 1 && !is_gone(&town, leader(), &table, "k"));
    assert_eq!(obstacles(&town), [(id(deaf), Obstacle::Differs)]);
    town.script.clear();
    town.until(LONG, "it is purged", |town| gone(town, &table, "k"));
    is_absent(&mut town, &table, "k");
}

/// A packet with the deleted value was stuck in the network all the while.
#[test]
fn a_write_that_arrives_after_the_purge_of_its_key_is_refused() {
    for with_a_new_life in [false, true] {
        let (mut town, table) = repairing(5);
        let late = others()[0];
        let rule = town.script.add(Fate::Delay(40 * SECOND), 1, move |_, to, request| {
            to == id(late) && is_apply(request)
        });
        town.put(leader(), &table, "k", "old", Write::default()).unwrap();
        town.until(20, "it came by the trees", |town| !is_gone(town, late, &table, "k"));
        assert_eq!(town.script.hits(rule), 1);
        town.delete(leader(), &table, "k", Write::at(Consistency::All)).unwrap();
        town.until(25, "it is purged", |town| gone(town, &table, "k"));
        let mut expected: Vec<&str> = Vec::new();
        if with_a_new_life {
            // The packet meets a record, which knows nothing of what was deleted before it.
            town.put(leader(), &table, "k", "new", Write::at(Consistency::All)).unwrap();
            expected.push("new");
        }
        town.run(40 * SECOND);
        for name in ABC {
            assert_eq!(town.values(name, &table, "k"), expected, "through {name}");
        }
    }
}

/// Riak 679's "doomstone", with the purge in between: a tombstone that waits in a hint dominates
/// what is written after it was collected.
#[test]
fn r12_a_hint_blocks_the_purge_of_its_key_and_comes_to_no_harm() {
    let (mut town, table) = town_with(6, Some(2 * SECOND), true);
    let [deaf, _] = others();
    town.put(leader(), &table, "k", "old", Write::at(Consistency::All)).unwrap();
    town.script.add(Fate::LoseRequest, 1, move |_, to, request| {
        to == id(deaf) && matches!(request, Request::Apply(_))
    });
    town.script.add(Fate::LoseRequest, u32::MAX, move |_, to, request| {
        to == id(deaf) && matches!(request, Request::Handoff(_))
    });
    town.delete(leader(), &table, "k", Write::default()).unwrap();
    town.until(30, "it waits for the hint", |town| {
        obstacles(town).contains(&(id(leader()), Obstacle::Hints))
    });
    assert!(!is_gone(&town, leader(), &table, "k"));
    town.script.clear();
    town.until(LONG, "it is purged", |town| gone(town, &table, "k"));
    town.put(leader(), &table, "k", "new", Write::at(Consistency::All)).unwrap();
    town.run(20 * SECOND);
    assert_eq!(town.values(deaf, &table, "k"), ["new"]);
}

/// One replica hears nothing of the commit. Until it has caught up, reads and writes of the key go
/// on, also through it.
#[test]
fn a_replica_that_misses_the_commit_catches_up_with_whoever_meets_it() {
    let [behind, other] = others();
    for by_trees in [true, false] {
        let (mut town, table) = town_with(7, by_trees.then_some(10 * SECOND), true);
        town.script.add(Fate::LoseRequest, 1, move |_, to, request| {
            to == id(behind) && is_commit(request)
        });
        written_and_deleted(&mut town, &table, "k");
        town.until(LONG, "two have purged it", |town| {
            is_gone(town, leader(), &table, "k") && is_gone(town, other, &table, "k")
        });
        assert!(!is_gone(&town, behind, &table, "k"));
        if by_trees {
            town.until(LONG, "the third one too", |town| gone(town, &table, "k"));
        } else {
            // It mints on top of the tombstone, and the others have purged that.
            town.put(behind, &table, "k", "new", Write::at(Consistency::All)).unwrap();
            assert_eq!(generation(&town, behind, &table, "k"), Generation(1));
        }
        let expected: &[&str] = if by_trees { &[] } else { &["new"] };
        for name in ABC {
            let found = town.read(name, &table, "k", Consistency::All).unwrap();
            assert_eq!(values_of(&found), expected, "through {name}");
        }
    }
}

#[test]
fn a_read_of_a_key_that_is_half_purged_is_answered() {
    let [behind, other] = others();
    let (mut town, table) = town_with(8, None, false);
    town.script.add(Fate::LoseRequest, u32::MAX, move |from, to, request| {
        from == id(leader()) && to == id(behind) && (is_commit(request) || is_advance(request))
    });
    written_and_deleted(&mut town, &table, "k");
    town.until(LONG, "two have purged it", |town| {
        is_gone(town, leader(), &table, "k") && is_gone(town, other, &table, "k")
    });
    let found = town.read(behind, &table, "k", Consistency::All).unwrap();
    assert_eq!(values_of(&found), [""; 0]);
    assert!(gone(&town, &table, "k"), "whoever was behind has been told");
}

/// Nobody reads the key, no trees are compared, and the replica was away from before the end until
/// after the leader's restart.
#[test]
fn a_purge_is_ended_at_a_replica_that_missed_its_end() {
    for restart in [false, true] {
        let [behind, other] = others();
        let (mut town, table) = town_with(10, None, false);
        town.script.add(Fate::LoseRequest, u32::MAX, move |_, to, request| {
            to == id(behind) && (is_commit(request) || is_advance(request))
        });
        written_and_deleted(&mut town, &table, "k");
        town.until(LONG, "two have purged it", |town| {
            is_gone(town, leader(), &table, "k") && is_gone(town, other, &table, "k")
        });
        assert!(!is_gone(&town, behind, &table, "k"));
        if restart {
            town.kill(leader());
            town.start(leader());
        }
        town.script.clear();
        town.until(LONG, "all have", |town| gone(town, &table, "k"));
        assert_eq!(generation(&town, behind, &table, "k"), Generation(1));
    }
}

/// The leader's machine loses power at each step of a purge.
#[test]
fn a_purge_that_is_cut_off_at_any_step_is_ended_or_begun_again() {
    let steps: [fn(&PurgeAction) -> bool; 3] = [
        |action| matches!(action, PurgeAction::Pending { .. }),
        |action| matches!(action, PurgeAction::Prepare(_)),
        |action| matches!(action, PurgeAction::Commit(_)),
    ];
    for (step, is_step) in steps.into_iter().enumerate() {
        for victim in [leader(), others()[0]] {
            let (mut town, table) = repairing(9);
            let rule = town.script.add(Fate::LoseAnswer, 1, move |_, to, request| {
                to == id(others()[0]) && action(request).is_some_and(is_step)
            });
            written_and_deleted(&mut town, &table, "k");
            town.until(LONG, "it came to that", |town| town.script.hits(rule) == 1);
            town.lose_power(victim);
            town.run(5 * SECOND);
            town.start(victim);
            town.until(LONG, "it is purged", |town| gone(town, &table, "k"));
            is_absent(&mut town, &table, "k");
            let generations = ABC.map(|name| generation(&town, name, &table, "k"));
            assert!(generations.iter().all(|at| *at == generations[0]), "{step}: {generations:?}");
        }
    }
}

/// Cassandra 18507 and Scylla 14870: what is replayed after an unclean stop is older than what was
/// purged.
#[test]
fn r39_r40_a_purge_survives_the_loss_of_power_on_all_machines() {
    let (mut town, table) = repairing(10);
    let neighbour = town.create("v", |_| {});
    written_and_deleted(&mut town, &table, "k");
    town.put("a", &neighbour, "n", "kept", Write::at(Consistency::All)).unwrap();
    town.until(LONG, "it is purged", |town| gone(town, &table, "k"));
    for name in ABC {
        town.lose_power(name);
    }
    for name in ABC {
        town.start(name);
    }
    town.until(30, "all serve", |town| ABC.iter().all(|name| town.serves(name)));
    is_absent(&mut town, &table, "k");
    assert_eq!(town.values("b", &neighbour, "n"), ["kept"]);
    town.run(20 * SECOND);
    assert!(gone(&town, &table, "k"));
}

/// Scylla 8970 and Cassandra 11427: a tombstone past its time is hidden from repair, or purged on
/// one replica only, and is repaired for ever.
#[test]
fn r37_r38_a_tombstone_past_its_time_is_no_work_for_repair() {
    let (mut town, table) = repairing(11);
    let behind = others()[1];
    written_and_deleted(&mut town, &table, "k");
    let moved = |town: &Town| {
        let of = |name: &str| {
            let counters = town.life(name).node.repair().counters();
            counters.pulled.load(Ordering::Relaxed) + counters.pushed.load(Ordering::Relaxed)
        };
        ABC.iter().map(|name| of(name)).sum::<u64>()
    };
    // Past its time, and held by all: nothing is to be done about it, and a read does not show it.
    let rule =
        town.script.add(Fate::LoseRequest, u32::MAX, |_, _, request| action(request).is_some());
    town.run(20 * SECOND);
    assert_eq!(moved(&town), 0);
    is_absent(&mut town, &table, "k");
    assert!(town.script.hits(rule) > 0);
    town.script.clear();
    // Purged here and there, and not everywhere.
    town.script.add(Fate::LoseRequest, u32::MAX, move |_, to, request| {
        to == id(behind) && is_commit(request)
    });
    town.until(LONG, "it is purged", |town| gone(town, &table, "k"));
    town.run(20 * SECOND);
    assert_eq!(moved(&town), 0, "no tombstone was brought back");
}

/// An old copy of a directory, made before the delete, is put back after the purge.
#[test]
fn r25_a_copy_from_before_the_purge_does_not_bring_the_key_back() {
    let (mut town, table) = repairing(12);
    let restored = others()[0];
    town.put("a", &table, "k", "old", Write::at(Consistency::All)).unwrap();
    town.put("a", &table, "stays", "v", Write::at(Consistency::All)).unwrap();
    town.kill(restored);
    let copy = town.disk(restored).image();
    town.start(restored);
    town.until(30, "it serves", |town| town.serves(restored));
    town.delete("a", &table, "k", Write::at(Consistency::All)).unwrap();
    town.until(LONG, "it is purged", |town| gone(town, &table, "k"));
    town.kill(restored);
    town.disk(restored).restore(&copy);
    town.start(restored);
    town.until(30, "it is told", |town| town.life(restored).node.must_restart().borrow().is_some());
    town.renew(restored);
    town.until(60, "it serves again", |town| town.serves(restored));
    is_absent(&mut town, &table, "k");
    town.run(20 * SECOND);
    assert!(gone(&town, &table, "k"));
    assert_eq!(town.values(restored, &table, "stays"), ["v"]);
}

/// A directory that is behind the others' purges, to which it has not agreed, is an older copy,
/// though nothing else may tell.
#[test]
fn a_replica_that_has_not_agreed_to_a_purge_begins_anew() {
    let (mut town, table) = repairing(13);
    let [restored, other] = others();
    town.put("a", &table, "k", "old", Write::at(Consistency::All)).unwrap();
    written_and_deleted(&mut town, &table, "gone");
    town.until(LONG, "it is purged", |town| gone(town, &table, "gone"));
    // As if its state had been lost with nothing else.
    let node = town.life(restored).node.clone();
    let partition = node.cluster().state().ring().partition_of(token_of(b"gone"));
    town.kill(restored);
    town.start(restored);
    let engine = town.life(restored).engine.clone();
    let mut batch = crate::storage::Batch::new();
    batch.delete(crate::storage::keys::purge_row(table.id, partition));
    engine.apply(&batch).unwrap();
    engine.sync().unwrap();
    town.until(60, "it is told", |town| town.life(restored).node.must_restart().borrow().is_some());
    town.renew(restored);
    town.until(60, "it serves again", |town| town.serves(restored));
    assert_eq!(
        generation(&town, restored, &table, "gone"),
        generation(&town, other, &table, "gone")
    );
    assert_eq!(town.values(restored, &table, "k"), ["old"]);
    is_absent(&mut town, &table, "gone");
}

/// A node that lost its directory is refilled by others that have purged.
#[test]
fn r25_an_emptied_replica_takes_over_the_generation_of_the_others() {
    let (mut town, table) = repairing(14);
    let emptied = others()[1];
    for n in 0..20 {
        let key = format!("k{n}");
        town.put("a", &table, &key, "v", Write::at(Consistency::All)).unwrap();
        if n % 2 == 0 {
            town.delete("b", &table, &key, Write::at(Consistency::All)).unwrap();
        }
    }
    town.until(LONG, "they are purged", |town| {
        (0..20).step_by(2).all(|n| gone(town, &table, &format!("k{n}")))
    });
    town.wipe(emptied);
    town.start(emptied);
    town.until(60, "it is refilled", |town| town.serves(emptied));
    for n in 0..20 {
        let key = format!("k{n}");
        let expected: &[&str] = if n % 2 == 0 { &[] } else { &["v"] };
        assert_eq!(town.values(emptied, &table, &key), expected, "{key}");
        assert_eq!(
            generation(&town, emptied, &table, &key),
            generation(&town, leader(), &table, &key),
            "{key}"
        );
    }
    // It takes part again.
    written_and_deleted(&mut town, &table, "later");
    town.until(LONG, "it is purged", |town| gone(town, &table, "later"));
}

/// A copy that cannot be read may hold anything: nothing is purged past it until it is healed.
#[test]
fn a_damaged_copy_blocks_the_purge_until_it_is_healed() {
    let (mut town, table) = repairing(15);
    let damaged = others()[0];
    written_and_deleted(&mut town, &table, "k");
    town.rot(damaged, &table, "k");
    town.until(30, "it is in the way", |town| {
        obstacles(town).contains(&(id(damaged), Obstacle::Differs))
    });
    assert!(!is_gone(&town, leader(), &table, "k"));
    // Somebody meets it.
    town.read(damaged, &table, "k", Consistency::All).unwrap_err();
    town.until(LONG, "it is purged", |town| gone(town, &table, "k"));
    is_absent(&mut town, &table, "k");
}

/// Garage's object store: stamps by local clocks, and deletes by another rule than puts, let an old
/// value survive.
#[test]
fn r20_what_began_later_wins_through_nodes_whose_clocks_differ() {
    let (mut town, _) = town_with(16, None, true);
    let table = town.create("r", |settings| {
        settings.conflict = ConflictMode::Lww;
        settings.grace_s = 3;
    });
    for (name, offset_ms) in [("a", 4_000_i64), ("b", -4_000), ("c", 0)] {
        town.world.jump_wall(town.machine(name), offset_ms * 1_000);
    }
    for round in 0..6 {
        let [first, second, third] = [ABC[round % 3], ABC[(round + 1) % 3], ABC[(round + 2) % 3]];
        town.put(first, &table, "k", "one", Write::default()).unwrap();
        town.put(second, &table, "k", "two", Write::default()).unwrap();
        assert_eq!(town.values(third, &table, "k"), ["two"], "round {round}");
        town.delete(third, &table, "k", Write::default()).unwrap();
        is_absent(&mut town, &table, "k");
    }
    town.until(LONG, "it is purged", |town| gone(town, &table, "k"));
    is_absent(&mut town, &table, "k");
}

#[test]
fn purging_is_refused_to_those_who_ask_for_too_much() {
    let (mut town, table) = town_with(17, None, true);
    let keys = vec![key_of("k"); crate::net::purge::MAX_SET_ROWS + 1];
    let request = PurgeRequest {
        table: table.id,
        partition: crate::types::PartitionId(0),
        what: PurgeAction::Pending { keys },
    };
    let answer = town.ask("a", "b", Request::Purge(request));
    assert!(matches!(answer, Response::Refused(_)), "{answer:?}");
    let beyond = PurgeRequest {
        table: table.id,
        partition: crate::types::PartitionId(1_000),
        what: PurgeAction::Sets { after: Generation(0) },
    };
    let answer = town.ask("a", "b", Request::Purge(beyond));
    assert!(matches!(answer, Response::Refused(_)), "{answer:?}");
}
