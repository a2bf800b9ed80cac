//! Hinted handoff: what a replica misses is kept for it and handed over, whatever happens in
//! between. (Invariants I15 and I16 are also watched in every simulated run.)

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::town::{ABC, Fate, SECOND, Town, Write, address, id, is_apply, key_of, values_of};
use crate::coordinator::{Condition, WriteAction, WriteOp};
use crate::meta::{Command, ConflictMode, Table};
use crate::net::messages::Apply;
use crate::net::{Request, Response};
use crate::repair::hints::{HintCounters, HintSettings, TargetHints};
use crate::sim::disk::DiskFaults;
use crate::sim::hang_up::until_await;
use crate::storage::keys;
use crate::types::{Consistency, Generation};

fn pending(town: &Town, holder: &str) -> Vec<TargetHints> {
    town.life(holder).node.hints().targets()
}

fn count(town: &Town, holder: &str) -> u64 {
    pending(town, holder).iter().map(|target| target.count).sum()
}

fn counted(
    town: &Town,
    holder: &str,
    of: fn(&HintCounters) -> &std::sync::atomic::AtomicU64,
) -> u64 {
    of(town.life(holder).node.hints().counters()).load(Ordering::Relaxed)
}

fn drained(town: &mut Town, holder: &str) {
    town.until(60, "all hints are handed over", |town| count(town, holder) == 0);
}

/// The town of three with `c` down, and what it misses noted at `a`.
fn c_misses(seed: u64, keys: &[&str]) -> (Town, Arc<Table>) {
    let (mut town, table) = Town::with_table(seed, ConflictMode::Siblings);
    town.kill("c");
    for key in keys {
        town.put("a", &table, key, "v", Write::default()).unwrap();
    }
    let wanted = keys.len() as u64;
    town.until(10, "a keeps hints", |town| count(town, "a") == wanted);
    (town, table)
}

#[test]
fn what_a_replica_missed_reaches_it_when_it_is_back() {
    let (mut town, table) = c_misses(1, &["k1", "k2", "k3"]);
    assert_eq!(pending(&town, "a")[0].target, id("c"));
    town.run(2 * SECOND);
    assert!(pending(&town, "a")[0].oldest >= 2 * SECOND);
    town.start("c");
    drained(&mut town, "a");
    for key in ["k1", "k2", "k3"] {
        assert_eq!(town.record("c", &table, key), town.record("a", &table, key));
        assert!(town.record("c", &table, key).is_some());
    }
    assert_eq!(counted(&town, "a", |c| &c.delivered), 3);
    assert_eq!(town.life("a").node.hints().bytes(), 0);
}

#[test]
fn writes_of_one_key_are_one_hint_however_many_they_are() {
    let (mut town, table) = c_misses(2, &["k"]);
    let one = pending(&town, "a")[0];
    for n in 0..20 {
        let seen = town.read("a", &table, "k", Consistency::Quorum).unwrap().record.context();
        town.put("a", &table, "k", &format!("v{n}"), Write::seen(&seen)).unwrap();
    }
    // Each is kept when its call has failed; one that comes after a later one brings nothing new.
    town.run(10 * SECOND);
    assert!(counted(&town, "a", |c| &c.stored) > 1);
    let many = pending(&town, "a")[0];
    assert_eq!(many.count, 1);
    assert!(many.bytes < one.bytes * 20 && many.oldest >= one.oldest, "{many:?} {one:?}");
    town.start("c");
    drained(&mut town, "a");
    assert_eq!(town.record("c", &table, "k"), town.record("a", &table, "k"));
}

/// Riak 679's "doomstone": the tombstone that a fallback kept dominates what was written anew.
/// (The collecting of the tombstone in between is the purge's story.)
#[test]
fn r12_a_hint_with_a_delete_does_not_kill_what_was_written_since() {
    let mut town = Town::founded(3, &["a", "b", "c", "d"]);
    let table = town.create("t", |_| {});
    let on_abc = |town: &Town, key: &str| {
        let at = town.life("a").node.coordinator().locate(&table, &key_of(key));
        !at.replicas.contains(&id("d"))
    };
    let key = (0..200).map(|n| format!("k{n}")).find(|key| on_abc(&town, key)).unwrap();
    town.put("d", &table, &key, "old", Write::at(Consistency::All)).unwrap();
    town.kill("c");
    town.delete("d", &table, &key, Write::default()).unwrap();
    town.until(10, "d keeps the delete for c", |town| count(town, "d") == 1);
    // c is back, and d cannot tell it yet; the key is written anew, on c too.
    town.net.block(id("d"), id("c"));
    town.start("c");
    town.until(30, "c serves", |town| town.serves("c"));
    town.run(5 * SECOND);
    town.put("a", &table, &key, "new", Write::at(Consistency::All)).unwrap();
    assert_eq!(count(&town, "d"), 1, "the old hint still waits");
    town.heal();
    drained(&mut town, "d");
    for name in ABC {
        let record = town.record(name, &table, &key).unwrap();
        let view = record.view(town.life("a").env.wall());
        assert_eq!(view.versions.len(), 1, "at {name}");
        assert_eq!(&view.versions[0].value.body[..], b"new", "at {name}");
    }
}

/// Cassandra 14309 and 14215: each flap began the window anew, and hints grew without bound.
#[test]
fn r32_a_target_that_comes_and_goes_stays_within_the_bounds_of_bytes_and_age() {
    let mut town = Town::new(4, &ABC);
    let max_age = 30 * SECOND;
    town.hints = HintSettings { max_bytes: 4_000, max_target_bytes: 3_000, max_age, ..town.hints };
    for name in ABC {
        town.start(name);
    }
    town.until(30, "all serve", |town| ABC.iter().all(|name| town.serves(name)));
    let table = town.create("t", |_| {});
    // Alive for moments only, and never for long enough to be handed anything.
    town.script
        .add(Fate::LoseRequest, u32::MAX, |_, to, request| to == id("c") && is_apply(request));
    for flap in 0..20 {
        town.kill("c");
        for n in 0..5 {
            // The same key always, and others once.
            let key = if n == 0 { "hot".to_owned() } else { format!("k{flap}-{n}") };
            town.put("a", &table, &key, "v", Write::default()).unwrap();
        }
        if flap == 10 {
            town.kill("a");
            town.start("a");
            town.until(30, "a serves", |town| town.serves("a"));
        }
        town.start("c");
        town.run(SECOND);
        for target in pending(&town, "a") {
            assert!(target.bytes <= 3_000, "{target:?}");
            assert!(target.oldest <= max_age + 2 * SECOND, "{target:?}");
        }
    }
    assert!(counted(&town, "a", |c| &c.no_room) > 0, "the bound was met");
    assert!(count(&town, "a") > 0);
    town.until(60, "all are too old", |town| count(town, "a") == 0);
    assert_eq!(counted(&town, "a", |c| &c.delivered), 0);
    assert!(counted(&town, "a", |c| &c.expired) > 0);
    // The rest is anti-entropy's, or a reader's.
    town.script.clear();
    assert_eq!(town.values("a", &table, "hot").len(), 20);
}

/// riak_core 154: a hand-off that was cut off by a restart never went on.
#[test]
fn r33_a_holder_that_is_restarted_hands_over_what_it_kept() {
    let (mut town, table) = c_misses(5, &["k1", "k2"]);
    let before = pending(&town, "a")[0];
    town.lose_power("a");
    town.start("a");
    town.until(30, "a serves", |town| town.serves("a"));
    let after = pending(&town, "a")[0];
    assert_eq!((after.count, after.bytes), (before.count, before.bytes));
    assert!(after.oldest >= before.oldest);
    town.start("c");
    drained(&mut town, "a");
    for key in ["k1", "k2"] {
        assert_eq!(town.record("c", &table, key), town.record("a", &table, key));
    }
    // And nothing comes back with the next start.
    town.lose_power("a");
    town.start("a");
    assert_eq!(count(&town, "a"), 0);
}

/// Neon 4216, Oxide 798: the HTTP server drops the handler of a client that hangs up.
#[test]
fn r50_a_client_that_hangs_up_at_any_await_leaves_no_write_in_half() {
    for c_is_down in [false, true] {
        let (mut town, table) = Town::with_table(6, ConflictMode::Siblings);
        if c_is_down {
            town.kill("c");
        }
        let mut dropped = 0;
        for awaits in 1.. {
            let key = format!("k{awaits}");
            let op = WriteOp {
                condition: Condition::None,
                fence: None,
                table: table.clone(),
                key: key_of(&key),
                action: put_action("v"),
                context: None,
                level: Consistency::Quorum,
                timeout: 2 * SECOND,
                op: None,
                receipt: false,
            };
            let coordinator = town.life("a").node.coordinator().clone();
            let request = async move { until_await(coordinator.write(op), awaits).await };
            let slot = town.begin("a", request);
            if town.wait(&slot).is_some() {
                break;
            }
            dropped += 1;
        }
        assert!(dropped > 0, "the request waits for something");
        town.run(5 * SECOND);
        if c_is_down {
            assert!(count(&town, "a") >= dropped, "what c missed is kept for it");
            town.start("c");
            drained(&mut town, "a");
        }
        for awaits in 1..=dropped {
            let key = format!("k{awaits}");
            let at_a = town.record("a", &table, &key);
            assert!(at_a.is_some(), "the write went on");
            assert_eq!(town.record("b", &table, &key), at_a);
            assert_eq!(town.record("c", &table, &key), at_a);
        }
    }
}

fn put_action(value: &'static str) -> WriteAction {
    WriteAction::Put {
        body: value.as_bytes().into(),
        content_type: None,
        meta: Vec::new(),
        ttl: None,
    }
}

#[test]
fn a_call_that_fails_after_the_answer_leaves_a_hint_and_the_answer_does_not_wait_for_it() {
    let (mut town, table) = Town::with_table(7, ConflictMode::Siblings);
    let rule =
        town.script.add(Fate::LoseRequest, 1, |_, to, request| to == id("c") && is_apply(request));
    let begun = town.life("a").env.mono();
    town.put("a", &table, "k", "v", Write::default()).unwrap();
    let took = town.life("a").env.mono().since(begun);
    assert!(took < SECOND, "c's silence costs the client nothing: {took:?}");
    assert_eq!((town.script.hits(rule), count(&town, "a")), (1, 0));
    town.until(10, "c has it", |town| counted(town, "a", |c| &c.delivered) == 1);
    assert_eq!(town.record("c", &table, "k"), town.record("a", &table, "k"));
}

#[test]
fn a_write_that_fails_its_level_leaves_hints_too() {
    let (mut town, table) = Town::with_table(8, ConflictMode::Siblings);
    town.script.add(Fate::LoseRequest, 2, |_, _, request| is_apply(request));
    town.put("a", &table, "k", "v", Write::default()).unwrap_err();
    town.until(20, "both have it", |town| counted(town, "a", |c| &c.delivered) == 2);
    let at_a = town.record("a", &table, "k").unwrap();
    assert_eq!(town.record("b", &table, "k"), Some(at_a.clone()));
    assert_eq!(town.record("c", &table, "k"), Some(at_a));
}

#[test]
fn a_level_of_any_is_met_by_the_minter_alone() {
    let (mut town, table) = Town::with_table(9, ConflictMode::Siblings);
    town.kill("b");
    town.kill("c");
    town.until(30, "a knows", |town| {
        let cluster = town.life("a").node.cluster();
        !cluster.is_live(id("b")) && !cluster.is_live(id("c"))
    });
    town.put("a", &table, "k", "v", Write::at(Consistency::Any)).unwrap();
    town.until(10, "two hints", |town| count(town, "a") == 2);
}

#[test]
fn a_full_disk_at_the_target_is_waited_for() {
    let (mut town, table) = c_misses(10, &["k"]);
    town.disk("c").set_faults(DiskFaults::default());
    town.start("c");
    town.disk("c").set_faults(DiskFaults { full: true, ..DiskFaults::default() });
    town.run(10 * SECOND);
    assert_eq!(count(&town, "a"), 1);
    town.disk("c").set_faults(DiskFaults::default());
    town.until(90, "c has room again", |town| count(town, "a") == 0);
    assert!(town.record("c", &table, "k").is_some());
}

#[test]
fn a_full_disk_at_the_holder_costs_the_hint_and_nothing_else() {
    let (mut town, table) = Town::with_table(11, ConflictMode::Siblings);
    town.kill("c");
    town.disk("a").set_faults(DiskFaults { full: true, ..DiskFaults::default() });
    // a mints nothing itself now; b does.
    town.put("a", &table, "k", "v", Write::at(Consistency::One)).unwrap();
    town.run(5 * SECOND);
    assert_eq!(count(&town, "a"), 0);
    assert!(counted(&town, "a", |c| &c.not_stored) > 0);
    assert_eq!(town.life("a").node.hints().bytes(), 0);
    town.disk("a").set_faults(DiskFaults::default());
    assert_eq!(town.values("b", &table, "k"), ["v"]);
}

#[test]
fn damaged_rows_are_dropped_and_the_others_delivered() {
    let (mut town, table) = c_misses(12, &["k1", "k2", "k3"]);
    let rows = keys::hint_rows(id("c"));
    assert!(town.life("a").engine.rot_value(&rows, 1));
    town.start("c");
    drained(&mut town, "a");
    assert_eq!(counted(&town, "a", |c| &c.delivered), 2);
    assert!(counted(&town, "a", |c| &c.damaged) > 0);
    assert_eq!(town.life("a").node.hints().bytes(), 0, "damage takes no room");
    let arrived = ["k1", "k2", "k3"].map(|key| town.record("c", &table, key).is_some());
    assert_eq!(arrived.into_iter().filter(|&arrived| arrived).count(), 2);
}

#[test]
fn a_damaged_copy_at_the_target_is_healed_and_then_takes_the_hint() {
    let (mut town, table) = Town::with_table(13, ConflictMode::Siblings);
    town.put("a", &table, "k", "v1", Write::at(Consistency::All)).unwrap();
    town.kill("c");
    town.put("a", &table, "k", "v2", Write::default()).unwrap();
    town.until(10, "a keeps it", |town| count(town, "a") == 1);
    town.start("c");
    town.rot("c", &table, "k");
    drained(&mut town, "a");
    assert_eq!(town.record("c", &table, "k"), town.record("a", &table, "k"));
}

#[test]
fn hints_of_a_dropped_table_are_dropped() {
    let (mut town, table) = c_misses(14, &["k1", "k2"]);
    let life = town.life("a");
    let (cluster, deadline) = (life.node.cluster().clone(), life.env.mono() + 10 * SECOND);
    let command = Command::DropTable { id: table.id };
    let slot = town.begin("a", async move { cluster.append(command, deadline).await });
    town.wait(&slot).unwrap();
    town.start("c");
    drained(&mut town, "a");
    assert_eq!(counted(&town, "a", |c| &c.moot), 2);
    assert_eq!(counted(&town, "a", |c| &c.delivered), 0);
}

#[test]
fn a_graceful_stop_keeps_what_is_owed_to_a_silent_replica() {
    let (mut town, table) = Town::with_table(15, ConflictMode::Siblings);
    town.pause("c", true);
    town.put("a", &table, "k", "v", Write::default()).unwrap();
    assert_eq!(count(&town, "a"), 0, "the call to c is still under way");
    let node = town.life("a").node.clone();
    let slot = town.begin("a", async move { node.stop().await });
    town.wait(&slot).unwrap();
    town.lose_power("a");
    town.start("a");
    assert_eq!(count(&town, "a"), 1);
    town.pause("c", false);
    town.until(30, "a serves", |town| town.serves("a"));
    drained(&mut town, "a");
    assert_eq!(town.record("c", &table, "k"), town.record("a", &table, "k"));
}

#[test]
fn switched_off_nothing_is_kept_and_what_was_kept_is_still_delivered() {
    let (mut town, table) = c_misses(16, &["k1"]);
    town.kill("a");
    town.hints.enabled = false;
    town.start("a");
    town.until(30, "a serves", |town| town.serves("a"));
    town.put("a", &table, "k2", "v", Write::default()).unwrap();
    town.run(5 * SECOND);
    assert_eq!(count(&town, "a"), 1);
    town.start("c");
    drained(&mut town, "a");
    assert!(town.record("c", &table, "k1").is_some());
    assert!(town.record("c", &table, "k2").is_none());
}

#[test]
fn an_old_hint_changes_nothing_where_all_of_it_is_known() {
    let (mut town, table) = c_misses(17, &["k"]);
    town.start("c");
    // A reader repairs c before the hint comes.
    town.script
        .add(Fate::Delay(5 * SECOND), 1, |_, _, request| matches!(request, Request::Handoff(_)));
    town.until(30, "c serves", |town| town.serves("c"));
    let found = town.read("b", &table, "k", Consistency::All).unwrap();
    assert_eq!(values_of(&found), ["v"]);
    let seen = found.record.context();
    town.put("b", &table, "k", "w", Write { level: Some(Consistency::All), ..Write::seen(&seen) })
        .unwrap();
    drained(&mut town, "a");
    assert_eq!(town.values("c", &table, "k"), ["w"]);
}

#[test]
fn a_hint_with_a_bent_record_is_refused_and_harms_nobody() {
    let (mut town, table) = Town::with_table(18, ConflictMode::Siblings);
    town.put("a", &table, "k", "v", Write::at(Consistency::All)).unwrap();
    let mut record = town.record("a", &table, "k").unwrap().encode(&address(&table, "k")).to_vec();
    *record.last_mut().unwrap() ^= 1;
    let (key, generation) = (key_of("k"), Generation::default());
    let apply = Apply { table: table.id, key, record: record.into(), generation, heals: false };
    let response = town.ask("a", "b", Request::Handoff(apply));
    assert!(matches!(response, Response::Refused(_)), "{response:?}");
    assert_eq!(town.record("b", &table, "k"), town.record("a", &table, "k"));
}
