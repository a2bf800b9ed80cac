//! Rules 2, 3 (law L3) and 17: directories that lost something, and what they may do.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::town::{ABC, Fate, SECOND, Town, Write, id, is_apply, values_of};
use crate::coordinator::OpError;
use crate::gossip::Liveness;
use crate::meta::ConflictMode;
use crate::net::{Refusal, Request, Response};
use crate::storage::Durability;
use crate::types::Consistency;

fn is_page(request: &Request) -> bool {
    matches!(request, Request::Page(_))
}

#[test]
fn rule17_an_emptied_directory_counts_for_nothing_until_refilled() {
    let (mut town, table) = Town::with_table(1, ConflictMode::Siblings);
    town.script.add(Fate::LoseRequest, u32::MAX, |from, to, request| {
        from == id("a") && to == id("c") && is_apply(request)
    });
    let keys: Vec<String> = (0..20).map(|n| format!("key {n}")).collect();
    for key in &keys {
        town.put("a", &table, key, "v", Write::default()).unwrap();
    }
    town.script.clear();
    let old = town.life("a").node.identity().actor;
    // a and b acknowledged; a loses everything, and cannot copy from b yet.
    town.wipe("a");
    town.script.add(Fate::LoseRequest, u32::MAX, |from, to, request| {
        from == id("a") && to == id("b") && is_page(request)
    });
    town.start("a");
    town.until(30, "its new actor is on record", |town| town.member("a").actor != old);
    town.run(5 * SECOND);
    assert!(!town.serves("a") && !town.member("a").filled);

    // It does not say "absent": it refuses, and others answer in its place.
    let refused = town.own("a", &table, &keys[0]);
    assert_eq!(refused, Response::Refused(Refusal::Refilling));
    assert_eq!(town.values("a", &table, &keys[0]), ["v"]);
    // It mints nothing, and takes what others mint.
    let written = town.put("a", &table, "new", "v", Write::at(Consistency::All)).unwrap();
    assert_ne!(written.dot.unwrap().actor, town.life("a").node.identity().actor);
    // Without b, who has what a has lost, no quorum answers: c alone knows nothing.
    town.pause("b", true);
    let read = town.read("c", &table, &keys[0], Consistency::Quorum);
    assert!(read.is_err(), "{read:?}");
    town.pause("b", false);
    town.run(SECOND);

    town.script.clear();
    town.until(60, "a is refilled", |town| town.serves("a"));
    assert!(town.member("a").filled);
    town.kill("b");
    for key in keys.iter().chain([&"new".to_owned()]) {
        assert_eq!(town.values("c", &table, key), ["v"], "{key}");
    }
}

/// What was copied before a replica went away is not copied again.
#[test]
fn rule17_a_refill_goes_on_where_it_was_cut_off() {
    let (mut town, table) = Town::with_table(2, ConflictMode::Siblings);
    for n in 0..40 {
        town.put("b", &table, &format!("key {n}"), "v", Write::at(Consistency::All)).unwrap();
    }
    town.wipe("a");
    // b shows a third of its pages at a time.
    let cut = town.script.add(Fate::LoseRequest, 2, |from, to, request| {
        from == id("a") && to == id("b") && is_page(request)
    });
    town.start("a");
    town.until(120, "a is refilled", |town| town.serves("a"));
    assert_eq!(town.script.hits(cut), 2);
    let shown = |town: &Town, name: &str| {
        town.life(name).node.replica().counters().applies.load(Ordering::Relaxed)
    };
    assert!(shown(&town, "a") <= 2 * 40 + 8, "each record once from each, not once a try");
    for n in 0..40 {
        assert!(town.record("a", &table, &format!("key {n}")).is_some());
    }
}

#[test]
fn rule17_an_older_copy_of_a_directory_goes_on_as_a_new_actor() {
    let (mut town, table) = Town::with_table(3, ConflictMode::Siblings);
    town.put("a", &table, "k", "v1", Write::at(Consistency::All)).unwrap();
    let backup = town.disk("a").image();
    town.kill("a");
    town.start("a");
    town.until(30, "a serves", |town| town.serves("a"));
    let old = town.life("a").node.identity().actor;
    let context = town.read("a", &table, "k", Consistency::Quorum).unwrap().record.context();
    town.put("a", &table, "k", "v2", Write::seen(&context)).unwrap();

    town.kill("a");
    town.disk("a").restore(&backup);
    town.start("a");
    town.until(30, "it is told", |town| town.life("a").node.must_restart().borrow().is_some());
    assert!(!town.serves("a"), "it was not allowed to serve meanwhile");
    town.renew("a");
    town.until(60, "it serves as a new actor", |town| town.serves("a"));
    assert_ne!(town.life("a").node.identity().actor, old);
    assert_eq!(town.values("a", &table, "k"), ["v2"]);
    assert_eq!(town.record("a", &table, "k"), town.record("b", &table, "k"));
}

/// The gap that the simulator found: each start counted in the directory, on record or not, so a
/// copy that was killed a few times counted beyond the one on record and passed for the newest.
#[test]
fn rule17_an_older_copy_stays_one_however_often_it_is_killed_before_it_is_on_record() {
    let (mut town, table) = Town::with_table(11, ConflictMode::Siblings);
    town.put("a", &table, "k", "v1", Write::at(Consistency::All)).unwrap();
    let backup = town.disk("a").image();
    town.kill("a");
    town.start("a");
    town.until(30, "a serves", |town| town.serves("a"));
    let old = town.life("a").node.identity().actor;
    town.put("a", &table, "k", "v2", Write::at(Consistency::All)).unwrap();

    town.kill("a");
    town.disk("a").restore(&backup);
    town.isolate("a");
    for _ in 0..5 {
        town.start("a");
        town.run(SECOND);
        town.kill("a");
    }
    let known = town.member("a").incarnation;
    town.start("a");
    assert!(town.life("a").node.identity().incarnation > known, "by number it is the newest");
    town.heal();
    town.until(30, "it is told", |town| town.life("a").node.must_restart().borrow().is_some());
    assert!(!town.serves("a"));
    town.renew("a");
    town.until(60, "it serves as a new actor", |town| town.serves("a"));
    assert_ne!(town.life("a").node.identity().actor, old);
    assert_eq!(town.record("a", &table, "k"), town.record("b", &table, "k"));
}

/// Killed between the entry that puts it on record and its hearing of it, a start is still one that
/// its directory knows of.
#[test]
fn rule17_a_start_that_was_killed_as_it_got_on_record_is_followed_by_the_next() {
    let mut town = Town::founded(12, &ABC);
    let actor = town.life("a").node.identity().actor;
    for round in 0..20 {
        town.kill("a");
        town.start("a");
        town.run(Duration::from_millis(round * 3));
    }
    town.kill("a");
    town.start("a");
    town.until(30, "a serves", |town| town.serves("a"));
    assert_eq!(town.life("a").node.identity().actor, actor);
    assert!(town.member("a").filled);
}

/// L3, where neither the log nor gossip can notice: the copy was taken and put back within one
/// start, and of what came in between only a record tells.
#[test]
fn l03_a_node_that_finds_its_own_forgotten_dots_mints_no_more() {
    let (mut town, table) = Town::with_table(4, ConflictMode::Siblings);
    town.put("a", &table, "k", "v1", Write::at(Consistency::All)).unwrap();
    let backup = town.disk("a").image();
    let context = town.read("a", &table, "k", Consistency::Quorum).unwrap().record.context();
    let lost = town.put("a", &table, "k", "v2", Write::seen(&context)).unwrap().dot.unwrap();
    town.kill("a");
    town.disk("a").restore(&backup);
    town.start("a");
    town.until(30, "the log sees nothing wrong", |town| town.serves("a"));
    assert_eq!(town.life("a").node.identity().actor, lost.actor);

    // The first record that it is shown tells it.
    assert_eq!(town.values("a", &table, "k"), ["v2"]);
    let blind = town.put("a", &table, "k", "v3", Write::default()).unwrap();
    assert_ne!(blind.dot.unwrap().actor, lost.actor, "a dot of it would be taken for an old one");
    assert_eq!(town.values("b", &table, "k"), ["v2", "v3"], "nothing vanished");
    assert!(town.life("a").node.must_restart().borrow().is_some());
    town.renew("a");
    town.until(60, "it serves as a new actor", |town| town.serves("a"));
    town.put("a", &table, "k", "v4", Write::default()).unwrap();
    assert_eq!(town.values("c", &table, "k"), ["v2", "v3", "v4"]);
}

/// A copy of the present start, put back: the log knows no later one. What is missing was minted by
/// others, so that no dot tells either. The others have heard how far the directory was.
#[test]
fn rule17_a_copy_of_the_present_start_is_told_by_those_who_have_heard_more_of_it() {
    let (mut town, table) = Town::with_table(13, ConflictMode::Siblings);
    town.put("b", &table, "k0", "v", Write::at(Consistency::All)).unwrap();
    let backup = town.disk("a").image();
    let old = town.life("a").node.identity().actor;
    for n in 1..20 {
        town.put("b", &table, &format!("k{n}"), "v", Write::at(Consistency::All)).unwrap();
    }
    town.run(5 * SECOND);
    town.kill("a");
    town.disk("a").restore(&backup);
    town.start("a");
    town.until(30, "it is told", |town| town.life("a").node.must_restart().borrow().is_some());
    assert!(!town.serves("a"), "it was not allowed to serve meanwhile");
    town.renew("a");
    town.until(60, "it serves as a new actor", |town| town.serves("a"));
    assert_ne!(town.life("a").node.identity().actor, old);
    assert_eq!(town.record("a", &table, "k19"), town.record("b", &table, "k19"));
}

/// As before, but those who know are away when it starts, and tell it when they are back. One of
/// them was started anew meanwhile, and knows by its note.
#[test]
fn rule17_who_was_away_when_a_copy_started_tells_it_later() {
    for restarts in [false, true] {
        let mut town = Town::new(14, &ABC);
        town.keep_notes();
        for name in ABC {
            town.start(name);
        }
        town.until(30, "all serve", |town| ABC.iter().all(|name| town.serves(name)));
        let table = town.create("t", |_| {});
        // Nobody but a and b is there when it matters.
        town.kill("c");
        town.put("b", &table, "k0", "v", Write::default()).unwrap();
        let (backup, note) = (town.disk("a").image(), town.note("a"));
        town.put("b", &table, "k1", "v", Write::default()).unwrap();
        town.run(5 * SECOND);
        town.kill("a");
        town.kill("b");
        town.disk("a").restore(&backup);
        town.set_note("a", note);
        town.start("c");
        town.start("a");
        town.until(30, "a serves, with c alone", |town| town.serves("a"));
        town.start("b");
        if restarts {
            town.run(SECOND / 4);
            town.kill("b");
            town.start("b");
        }
        town.until(30, "b tells it", |town| town.life("a").node.must_restart().borrow().is_some());
        town.renew("a");
        town.until(60, "it serves as a new actor", |town| town.serves("a"));
        assert!(town.record("a", &table, "k1").is_some());
    }
}

/// Ordinary stops and crashes are never taken for copies, whatever the others have heard.
#[test]
fn rule17_a_directory_that_was_only_killed_stays_what_it_is() {
    for seed in 20..26 {
        let mut town = Town::new(seed, &ABC);
        town.keep_notes();
        for name in ABC {
            town.start(name);
        }
        town.until(30, "all serve", |town| ABC.iter().all(|name| town.serves(name)));
        let table = town.create("t", |_| {});
        let actors = ABC.map(|name| town.life(name).node.identity().actor);
        for round in 0..12_u32 {
            let name = ABC[(round % 3) as usize];
            let through = ABC[(round / 3 % 3) as usize];
            let _ = town.put(through, &table, &format!("k{round}"), "v", Write::default());
            town.run(SECOND * (round % 4) / 2);
            if round % 2 == 0 {
                town.lose_power(name)
            } else {
                town.kill(name)
            }
            town.start(name);
        }
        town.until(60, "all serve", |town| ABC.iter().all(|name| town.serves(name)));
        town.run(10 * SECOND);
        assert_eq!(ABC.map(|name| town.life(name).node.identity().actor), actors, "seed {seed}");
        assert!(ABC.iter().all(|name| town.life(name).node.must_restart().borrow().is_none()));
    }
}

/// An engine that took lost records for a torn tail: the store is older than the note beside it.
#[test]
fn rule17_a_store_below_its_own_note_goes_on_as_a_new_actor_at_once() {
    let mut town = Town::new(15, &ABC);
    town.keep_notes();
    for name in ABC {
        town.start(name);
    }
    town.until(30, "all serve", |town| ABC.iter().all(|name| town.serves(name)));
    let table = town.create("t", |_| {});
    let old = town.life("a").node.identity().actor;
    let store = town.disk("a").image();
    town.put("b", &table, "k", "v", Write::at(Consistency::All)).unwrap();
    town.run(3 * SECOND);
    town.kill("a");
    town.disk("a").restore(&store);
    // Nobody else is asked: its own note tells.
    town.isolate("a");
    town.start("a");
    assert_ne!(town.life("a").node.identity().actor, old);
    town.heal();
    town.until(60, "a serves", |town| town.serves("a"));
    assert!(town.record("a", &table, "k").is_some(), "refilled");
    let now = town.life("a").node.identity().actor;
    town.kill("a");
    town.start("a");
    town.until(60, "a serves", |town| town.serves("a"));
    assert_eq!(town.life("a").node.identity().actor, now, "once is enough");
}

/// Votes are synced even where writes are not, so those who vote are who they were.
#[test]
fn l09_a_cluster_with_periodic_syncs_goes_on_after_all_its_nodes_have_lost_power_at_once() {
    let mut town = Town::new(16, &ABC);
    for name in ABC {
        town.set_durability(name, Durability::Periodic { interval: 60 * SECOND });
        town.start(name);
    }
    town.until(30, "all serve", |town| ABC.iter().all(|name| town.serves(name)));
    let table = town.create("t", |_| {});
    for n in 0..10 {
        town.put("a", &table, &format!("key {n}"), "v", Write::at(Consistency::All)).unwrap();
    }
    let ids = |town: &Town| {
        ABC.map(|name| town.life(name).node.identity().clone()).map(|id| (id.actor, id.voter))
    };
    let before = ids(&town);
    for name in ABC {
        town.lose_power(name);
    }
    for name in ABC {
        town.start(name);
    }
    town.until(120, "all serve", |town| ABC.iter().all(|name| town.serves(name)));
    for ((actor, voter), (new_actor, same_voter)) in before.into_iter().zip(ids(&town)) {
        assert_ne!(actor, new_actor);
        assert_eq!(voter, same_voter);
    }
    let again = town.create("u", |_| {});
    for table in [&table, &again] {
        town.put("b", table, "new", "v", Write::at(Consistency::All)).unwrap();
        assert_eq!(town.values("c", table, "new"), ["v"]);
    }
}

/// An unclean stop with periodic syncs may have lost dots: a new actor, refilled by the others.
#[test]
fn l03_an_unclean_stop_with_periodic_syncs_begins_a_new_actor() {
    let mut town = Town::new(5, &ABC);
    for name in ABC {
        town.set_durability(name, Durability::Periodic { interval: 60 * SECOND });
        town.start(name);
    }
    town.until(30, "all serve", |town| ABC.iter().all(|name| town.serves(name)));
    let table = town.create("t", |_| {});
    for n in 0..10 {
        town.put("a", &table, &format!("key {n}"), "v", Write::default()).unwrap();
    }
    let old = town.life("a").node.identity().actor;
    town.lose_power("a");
    town.start("a");
    town.until(60, "a serves", |town| town.serves("a"));
    assert_ne!(town.life("a").node.identity().actor, old);
    for n in 0..10 {
        let found = town.read("a", &table, &format!("key {n}"), Consistency::All).unwrap();
        assert_eq!(values_of(&found), ["v"]);
    }
}

#[test]
fn a_node_that_has_lost_its_majority_refuses_to_coordinate_what_needs_one() {
    let (mut town, table) = Town::with_table(6, ConflictMode::Siblings);
    town.kill("b");
    town.kill("c");
    town.run(30 * SECOND);
    let error = town.put("a", &table, "k", "v", Write::default()).unwrap_err();
    assert!(matches!(error, OpError::Unavailable { required: 2, alive: 1, .. }), "{error:?}");
    assert!(town.record("a", &table, "k").is_none(), "not tried");
}

/// R36 of the test plan, on whole nodes: a node that is restarted five times in a row is one member,
/// alive once, under its latest start; and none of its earlier lives keeps it alive.
#[test]
fn r36_a_node_restarted_five_times_fast_is_one_live_node() {
    for seed in 0..5 {
        let (mut town, table) = Town::with_table(seed, ConflictMode::Siblings);
        let begun = town.life("b").node.identity().clone();
        for n in 0..5 {
            town.kill("b");
            town.run(Duration::from_millis(7 * (n + seed)));
            town.start("b");
            town.run(Duration::from_millis(11 * n));
        }
        town.until(30, "b serves", |town| town.serves("b"));
        town.run(5 * SECOND);
        let latest = town.life("b").node.identity().clone();
        assert_eq!(latest.actor, begun.actor, "a restart is no new history");
        assert!(latest.incarnation > begun.incarnation);
        for by in ABC {
            let members = town.life(by).node.cluster().members();
            let of_b: Vec<_> = members.iter().filter(|m| m.member.member.name == "b").collect();
            assert_eq!((members.len(), of_b.len()), (3, 1), "as {by} sees it");
            assert_eq!(of_b[0].member.incarnation, latest.incarnation);
            assert_eq!(of_b[0].liveness, Liveness::Live);
        }
        town.put("b", &table, "k", "v", Write::at(Consistency::All)).unwrap();
        town.kill("b");
        town.until(60, "its silence is noticed", |town| {
            ["a", "c"]
                .iter()
                .all(|by| town.life(by).node.cluster().liveness(id("b")) == Liveness::Dead)
        });
    }
}
