//! Bugs that lost data in other systems, told with our nodes: disks that fail, fill up, forget or
//! put things in wrong places, and nodes that come back. By the numbers of the project's test plan.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::town::{ABC, Fate, SECOND, Town, Write, id, is_apply, key_of, values_of};
use crate::coordinator::{self, OpError};
use crate::meta::{ConflictMode, Table};
use crate::net::{Refusal, Response};
use crate::repair::Options;
use crate::ring::Replication;
use crate::sim::disk::DiskFaults;
use crate::types::{Consistency, Dot};

/// Riak 679: the coordinating replica could not read its own copy, began the key's counter anew,
/// and the others took its new version for an old one.
#[test]
fn r11_a_replica_that_cannot_read_its_copy_begins_no_counter_anew() {
    let (mut town, table) = Town::with_table(11, ConflictMode::Siblings);
    let mut dots = Vec::new();
    let mut context = None;
    for value in ["v1", "v2", "v3"] {
        let written = town.put("a", &table, "k", value, Write::at(Consistency::All)).unwrap();
        dots.push(written.dot.unwrap());
        context = Some(written.context);
    }
    town.rot("a", &table, "k");
    let blind = town.put("a", &table, "k", "blind", Write::default()).unwrap();
    let knowing = Write::seen(&context.unwrap());
    let knowing = town.put("a", &table, "k", "knowing", knowing).unwrap();
    dots.extend([blind.dot.unwrap(), knowing.dot.unwrap()]);
    // Only v3 was seen by the one who knew.
    for name in ABC {
        assert_eq!(town.values(name, &table, "k"), ["blind", "knowing", "v1", "v2"], "at {name}");
    }
    let distinct: BTreeSet<Dot> = dots.iter().copied().collect();
    assert_eq!(distinct.len(), dots.len());
    town.run(12 * SECOND);
    assert_eq!(town.record("a", &table, "k"), town.record("b", &table, "k"), "a was healed");
}

/// riak_test kv679_uid: two partitions of one node shared an actor id.
#[test]
fn r14_a_node_is_one_replica_of_a_key_and_counts_over_all_its_partitions() {
    let mut town = Town::founded(14, &["a", "b"]);
    // More replicas than nodes: none keeps a key twice.
    let table = town.create("t", |settings| {
        settings.replication = Replication::Simple { factor: 3 };
    });
    let mut dots = BTreeSet::new();
    let mut partitions = BTreeSet::new();
    for n in 0..40 {
        let key = format!("k{n}");
        let at = town.life("a").node.coordinator().locate(&table, &key_of(&key));
        let distinct: BTreeSet<_> = at.replicas.iter().collect();
        assert_eq!((distinct.len(), at.replicas.len()), (2, 2), "{key}");
        partitions.insert(at.partition);
        let written = town.put("a", &table, &key, "v", Write::at(Consistency::All)).unwrap();
        assert!(dots.insert(written.dot.unwrap()), "a dot names one event in all partitions");
    }
    assert!(partitions.len() > 4, "{partitions:?}");
}

/// A comment on Riak 127: an owner that was away goes on from its old counter. (That ownership
/// leaves and comes back waits for membership.)
#[test]
fn r15_a_node_that_was_away_mints_at_once_and_uses_no_dot_again() {
    let (mut town, table) = Town::with_table(15, ConflictMode::Siblings);
    let mut dots = BTreeSet::new();
    let mut values = Vec::new();
    for round in 0..4 {
        for name in ["a", "b"] {
            let value = format!("{name}{round}");
            let written = town.put(name, &table, "k", &value, Write::default()).unwrap();
            assert!(dots.insert(written.dot.unwrap()), "{value}");
            values.push(value);
        }
        town.lose_power("a");
        let while_away = format!("c{round}");
        let written = town.put("c", &table, "k", &while_away, Write::default()).unwrap();
        assert!(dots.insert(written.dot.unwrap()));
        values.push(while_away);
        town.start("a");
        town.until(30, "a serves", |town| town.serves("a"));
    }
    values.sort();
    assert_eq!(town.values("a", &table, "k"), values);
}

/// Riak's sibling explosion: clients that take turns, each with the context before last.
#[test]
fn r16_clients_that_take_turns_with_stale_contexts_keep_two_siblings_at_most() {
    let (mut town, table) = Town::with_table(16, ConflictMode::Siblings);
    let mut contexts = [None, None];
    for turn in 0..100 {
        let client = turn % 2;
        let how = contexts[client].as_ref().map_or_else(Write::default, Write::seen);
        let at = ABC[turn % 3];
        let written = town.put(at, &table, "k", &format!("v{turn}"), how).unwrap();
        contexts[client] = Some(written.context);
        let found = town.read(at, &table, "k", Consistency::Quorum).unwrap();
        assert!(values_of(&found).len() <= 2, "turn {turn}: {:?}", values_of(&found));
    }
}

/// Cassandra 9765 and 10134: a wiped node began under its old name and answered "nothing here".
#[test]
fn r25_a_wiped_or_restored_node_answers_nothing_rather_than_absent() {
    for restored in [false, true] {
        let (mut town, table) = Town::with_table(25, ConflictMode::Siblings);
        let old_copy = town.disk("c").image();
        town.kill("c");
        town.start("c");
        town.until(30, "c serves", |town| town.serves("c"));
        let old = town.life("c").node.identity().actor;
        // b hears nothing of the write.
        town.script
            .add(Fate::LoseRequest, u32::MAX, |_, to, request| to == id("b") && is_apply(request));
        town.put("a", &table, "k", "v", Write::default()).unwrap();
        town.run(SECOND);
        assert!(town.record("c", &table, "k").is_some(), "acknowledged by a and c");
        town.kill("c");
        // a stops before c can ask it for anything.
        town.kill("a");
        if restored {
            town.disk("c").restore(&old_copy);
        } else {
            town.wipe("c");
        }
        town.start("c");
        town.run(10 * SECOND);
        if town.life("c").node.must_restart().borrow().is_some() {
            town.renew("c");
            town.run(10 * SECOND);
        }
        let refused = town.own("c", &table, "k");
        assert!(matches!(refused, Response::Refused(_)), "restored {restored}: {refused:?}");
        let read = town.read("b", &table, "k", Consistency::Quorum);
        assert!(read.is_err(), "restored {restored}: of b and c nobody knows: {read:?}");
        town.script.clear();
        town.start("a");
        town.until(120, "c is told or refilled", |town| {
            town.serves("c") || town.life("c").node.must_restart().borrow().is_some()
        });
        if town.life("c").node.must_restart().borrow().is_some() {
            town.renew("c");
        }
        town.until(120, "all serve", |town| ABC.iter().all(|name| town.serves(name)));
        assert_ne!(town.life("c").node.identity().actor, old, "restored {restored}");
        town.kill("a");
        assert_eq!(town.values("b", &table, "k"), ["v"], "restored {restored}");
    }
}

/// Cassandra's monotonic quorum reads: a repair after the answer, or of fewer replicas than were
/// read, lets the next read go back.
#[test]
fn r41_a_later_quorum_read_is_never_older() {
    for mode in [ConflictMode::Siblings, ConflictMode::Lww] {
        let (mut town, table) = Town::with_table(41, mode);
        town.put("b", &table, "k", "old", Write::at(Consistency::All)).unwrap();
        let seen = town.read("a", &table, "k", Consistency::All).unwrap().record.context();
        // The write reaches a alone, and its client hears nothing.
        town.script
            .add(Fate::LoseRequest, u32::MAX, |_, to, request| to != id("a") && is_apply(request));
        town.put("a", &table, "k", "new", Write::seen(&seen)).unwrap_err();
        town.script.clear();
        town.isolate("c");
        town.run(SECOND);
        assert_eq!(town.values("a", &table, "k"), ["new"], "{mode}: of a and b");
        town.heal();
        town.kill("a");
        town.run(SECOND);
        assert_eq!(town.values("c", &table, "k"), ["new"], "{mode}: of b and c");
    }
}

/// The town of three, which compares its trees and scrubs.
fn mending(seed: u64) -> (Town, Arc<Table>) {
    let mut town = Town::new(seed, &ABC);
    town.repair = Options {
        interval: Some(2 * SECOND),
        scrub_percent: 50,
        scrub_pause: SECOND / 20,
        ..Options::default()
    };
    for name in ABC {
        town.start(name);
    }
    town.until(30, "all serve", |town| ABC.iter().all(|name| town.serves(name)));
    let table = town.create("t", |_| {});
    (town, table)
}

/// TigerBeetle 2711: a misdirected write misled the recovery of the log. The same for one that was
/// reported as done and never made.
#[test]
fn r47_a_write_that_went_astray_is_found_and_healed_never_served() {
    for (seed, lost) in [(47, false), (48, true), (49, false), (50, true)] {
        let (mut town, table) = mending(seed);
        for n in 0..10 {
            let how = Write::at(Consistency::All);
            town.put("a", &table, &format!("before{n}"), "v", how).unwrap();
        }
        town.disk("c").set_faults(DiskFaults {
            misdirect_next_write: !lost,
            lose_next_write: lost,
            ..DiskFaults::default()
        });
        for n in 0..10 {
            let how = Write::at(Consistency::All);
            town.put("a", &table, &format!("after{n}"), "v", how).unwrap();
        }
        assert_eq!(town.disk("c").effects().strayed, 1);
        town.lose_power("c");
        if let Err(why) = town.try_start("c") {
            // Where its own rows are among what cannot be read it says so, and the operator gives
            // it an empty directory.
            assert!(why.contains("damaged") || why.contains("unreadable"), "{why}");
            town.wipe("c");
            town.start("c");
        }
        let keys: Vec<String> =
            (0..10).flat_map(|n| [format!("before{n}"), format!("after{n}")]).collect();
        for key in &keys {
            let answer = town.own("c", &table, key);
            let is_known = matches!(answer, Response::Record(Some(_), _) | Response::Refused(_));
            assert!(is_known, "seed {seed}: c shows {answer:?} of {key}");
            assert_eq!(town.values("a", &table, key), ["v"], "seed {seed}: {key}");
        }
        town.until(120, "c holds everything again", |town| town.serves("c"));
        for key in &keys {
            let mut waited = 0;
            while !matches!(town.own("c", &table, key), Response::Record(Some(_), _)) {
                assert!(waited < 120, "seed {seed}: {key} is not healed");
                town.run(SECOND);
                waited += 1;
            }
            assert_eq!(town.record("c", &table, key), town.record("a", &table, key));
        }
    }
}

/// After a failed sync the kernel drops the pages and lets the next sync succeed: a node that
/// tries again acknowledges what is nowhere (I23).
#[test]
fn r48_after_one_failed_sync_a_node_acknowledges_nothing_until_it_is_started_anew() {
    let (mut town, table) = Town::with_table(48, ConflictMode::Siblings);
    town.put("a", &table, "k", "v1", Write::at(Consistency::All)).unwrap();
    let faulty = DiskFaults { sync_error: crate::sim::rng::Ppm::ALWAYS, ..DiskFaults::default() };
    town.disk("c").set_faults(faulty);
    let error = town.put("a", &table, "k", "v2", Write::at(Consistency::All)).unwrap_err();
    assert_eq!(error.fate(), coordinator::Fate::Unknown, "{error:?}");
    town.disk("c").set_faults(DiskFaults::default());
    // The disk is well again, and c has still lost something it does not know of.
    for n in 0..5 {
        let how = Write::at(Consistency::All);
        town.put("b", &table, &format!("k{n}"), "v", how).unwrap_err();
        town.put("b", &table, &format!("k{n}"), "w", Write::default()).unwrap();
    }
    // It mints nothing, and a client of it is served by the others.
    let through_c = town.put("c", &table, "k", "v3", Write::default()).unwrap();
    assert_ne!(through_c.dot.unwrap().actor, town.life("c").node.identity().actor);
    town.lose_power("c");
    town.start("c");
    town.until(60, "c serves", |town| town.serves("c"));
    town.put("a", &table, "k", "v4", Write::at(Consistency::All)).unwrap();
    assert_eq!(town.values("c", &table, "k"), ["v1", "v2", "v3", "v4"]);
}

/// A full disk: a batch that is written in half, a log whose end is broken.
#[test]
fn r49_with_full_disks_reads_go_on_and_writes_are_refused_until_there_is_room() {
    let (mut town, table) = Town::with_table(49, ConflictMode::Siblings);
    town.put("a", &table, "k", "v", Write::at(Consistency::All)).unwrap();
    for name in ABC {
        let full = DiskFaults { full: true, ..DiskFaults::default() };
        town.disk(name).set_faults(full);
    }
    for name in ABC {
        let error = town.put(name, &table, "k", "w", Write::default()).unwrap_err();
        assert_eq!(error, OpError::DiskFull, "through {name}");
        assert_eq!(error.fate(), coordinator::Fate::NotApplied);
        assert_eq!(town.values(name, &table, "k"), ["v"], "reads go on at {name}");
    }
    // One has room again, without being started anew: a write at ONE succeeds there.
    town.disk("b").set_faults(DiskFaults::default());
    town.run(5 * SECOND);
    town.put("b", &table, "k", "x", Write::at(Consistency::One)).unwrap();
    // The others lose power while they are full.
    for name in ["a", "c"] {
        town.lose_power(name);
        town.disk(name).set_faults(DiskFaults::default());
        town.start(name);
    }
    town.until(60, "all serve", |town| ABC.iter().all(|name| town.serves(name)));
    town.put("a", &table, "k", "y", Write::at(Consistency::All)).unwrap();
    for name in ABC {
        assert_eq!(town.values(name, &table, "k"), ["v", "x", "y"], "recovered at {name}");
    }
}

/// Seed 12452: the pause between two attempts to heal had doubled while another replica was away,
/// and went on when that one was back.
#[test]
fn a_damaged_copy_is_healed_soon_after_the_last_replica_is_back() {
    let (mut town, table) = mending(12_452);
    town.put("a", &table, "k", "v", Write::at(Consistency::All)).unwrap();
    town.kill("c");
    town.rot("b", &table, "k");
    town.run(150 * SECOND);
    assert_eq!(town.own("b", &table, "k"), Response::Refused(Refusal::Damaged), "a alone: no");
    town.start("c");
    let mut waited = 0;
    while town.own("b", &table, "k") == Response::Refused(Refusal::Damaged) {
        assert!(waited < 30, "it is not tried");
        town.run(SECOND);
        waited += 1;
    }
    assert_eq!(town.record("b", &table, "k"), town.record("a", &table, "k"));
}
