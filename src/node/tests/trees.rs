//! Replicas that come together by themselves, through hash trees. Scenarios R42 and R46 of the
//! project's test plan are here by name.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::town::{ABC, SECOND, Town, Write, is_apply, is_read};
use crate::meta::{ConflictMode, Table};
use crate::net::{Refusal, Response};
use crate::repair::hints::HintSettings;
use crate::repair::{Options, RepairCounters};
use crate::types::Consistency;

fn town_with(seed: u64, repair: Options) -> (Town, Arc<Table>) {
    let mut town = Town::new(seed, &ABC);
    town.repair = repair;
    town.hints = HintSettings { enabled: false, ..HintSettings::default() };
    for name in ABC {
        town.start(name);
    }
    town.until(30, "all serve", |town| ABC.iter().all(|name| town.serves(name)));
    let table = town.create("t", |settings| settings.conflict = ConflictMode::Siblings);
    (town, table)
}

/// A town that compares its trees every two seconds; it does not scrub.
fn repairing(seed: u64) -> (Town, Arc<Table>) {
    let interval = Some(2 * SECOND);
    town_with(seed, Options { interval, scrub_percent: 0, ..Options::default() })
}

/// A town that scrubs, and does not compare.
fn scrubbing(seed: u64) -> (Town, Arc<Table>) {
    let scrub_pause = Duration::from_millis(50);
    town_with(
        seed,
        Options { interval: None, scrub_percent: 50, scrub_pause, ..Options::default() },
    )
}

fn counters<'a>(town: &'a Town, name: &str) -> &'a RepairCounters {
    town.life(name).node.repair().counters()
}

fn sum(town: &Town, of: fn(&RepairCounters) -> u64) -> u64 {
    ABC.iter().map(|name| of(counters(town, name))).sum()
}

fn moved(counters: &RepairCounters) -> u64 {
    counters.pulled.load(Ordering::Relaxed) + counters.pushed.load(Ordering::Relaxed)
}

fn unbuilt(town: &Town, name: &str) -> usize {
    town.life(name).node.replica().trees().counts().unbuilt
}

fn surveys(town: &Town, name: &str) -> u64 {
    counters(town, name).surveys.load(Ordering::Relaxed)
}

fn same(town: &mut Town, table: &Arc<Table>, keys: &[String]) -> bool {
    keys.iter().all(|key| {
        let copies: Vec<_> = ABC.iter().map(|name| town.record(name, table, key)).collect();
        copies[0] == copies[1] && copies[1] == copies[2]
    })
}

fn keys(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("key-{n}")).collect()
}

#[test]
fn a_replica_that_was_away_is_brought_up_without_any_request() {
    let (mut town, table) = repairing(1);
    let keys = keys(30);
    for key in &keys {
        town.put("a", &table, key, "old", Write::at(Consistency::All)).unwrap();
    }
    town.kill("c");
    for (n, key) in keys.iter().enumerate() {
        match n % 3 {
            0 => drop(town.put("a", &table, key, "new", Write::default()).unwrap()),
            1 => drop(town.delete("b", &table, key, Write::default()).unwrap()),
            _ => {}
        }
    }
    town.start("c");
    town.run(20 * SECOND);
    assert!(same(&mut town, &table, &keys));
    let known: Vec<_> = ABC.iter().map(|name| town.life(name).node.repair().apart()).collect();
    assert_eq!(known, [vec![], vec![], vec![]], "all is known to be equal");
}

/// Each of two replicas has what the other has not, and the third has neither.
#[test]
fn replicas_exchange_both_ways() {
    let (mut town, table) = repairing(2);
    town.isolate("a");
    let alone = |town: &mut Town, name: &str, key: &str| {
        town.put(name, &table, key, name, Write::at(Consistency::One)).unwrap();
    };
    alone(&mut town, "a", "from a");
    alone(&mut town, "a", "from both");
    alone(&mut town, "b", "from b");
    alone(&mut town, "c", "from both");
    town.heal();
    town.run(20 * SECOND);
    let keys = ["from a", "from b", "from both"].map(str::to_owned);
    assert!(same(&mut town, &table, &keys));
    assert_eq!(town.values("b", &table, "from both"), ["a", "c"]);
}

/// R42: an idle cluster repairs nothing and reads nothing, for ten minutes.
#[test]
fn r42_an_idle_cluster_repairs_nothing() {
    let (mut town, table) = repairing(3);
    for key in keys(20) {
        town.put("b", &table, &key, "v", Write::at(Consistency::All)).unwrap();
    }
    town.run(20 * SECOND);
    let of = |town: &Town| {
        let rows = sum(town, |c| c.rows.load(Ordering::Relaxed));
        let trees = sum(town, |c| c.trees.load(Ordering::Relaxed));
        let reads =
            |name: &&str| town.life(name).node.replica().counters().reads.load(Ordering::Relaxed);
        (rows, trees, sum(town, moved), ABC.iter().map(reads).sum::<u64>())
    };
    let before = (of(&town), sum(&town, |c| c.rounds.load(Ordering::Relaxed)));
    town.run(600 * SECOND);
    assert_eq!(of(&town), before.0);
    assert!(sum(&town, |c| c.rounds.load(Ordering::Relaxed)) > before.1 + 600, "it did compare");
}

/// R46: a damaged copy never spreads: it is never sent, never taken for absent, and is healed.
#[test]
fn r46_rot_on_one_replica_never_spreads() {
    for rotten in ABC {
        let (mut town, table) = repairing(4);
        let keys = keys(6);
        for key in &keys {
            town.put("a", &table, key, "v", Write::at(Consistency::All)).unwrap();
        }
        let whole = town.record("a", &table, &keys[0]);
        town.rot(rotten, &table, &keys[0]);
        assert_eq!(town.own(rotten, &table, &keys[0]), Response::Refused(Refusal::Damaged));
        // Its tree is built anew, and so without the damaged row; and another key of its replicas
        // differs, so that there is something to move.
        town.kill(rotten);
        let other = if rotten == "a" { "b" } else { "a" };
        town.put(other, &table, &keys[1], "w", Write::default()).unwrap();
        town.start(rotten);
        town.run(60 * SECOND);
        assert!(same(&mut town, &table, &keys), "rotten on {rotten}");
        assert_eq!(town.record(rotten, &table, &keys[0]), whole);
        // The other key, by one of its replicas or by both at once.
        assert!((1..=2).contains(&sum(&town, moved)), "the damaged copy was healed, not moved");
    }
}

/// Nobody reads the key and no tree differs: scrubbing finds the damage.
#[test]
fn scrubbing_finds_damage_and_has_it_healed() {
    let (mut town, table) = scrubbing(5);
    let keys = keys(6);
    for key in &keys {
        town.put("a", &table, key, "v", Write::at(Consistency::All)).unwrap();
    }
    town.rot("c", &table, &keys[3]);
    town.until(60, "the damage was met", |town| {
        counters(town, "c").scrub_damaged.load(Ordering::Relaxed) > 0
    });
    town.run(30 * SECOND);
    assert!(same(&mut town, &table, &keys));
    assert_eq!(sum(&town, |c| c.scrub_wrong_leaves.load(Ordering::Relaxed)), 0);
    assert!(counters(&town, "a").scrub_passes.load(Ordering::Relaxed) > 1);
}

#[test]
fn trees_are_stored_at_a_clean_stop_and_only_loaded_at_the_next_start() {
    let (mut town, table) = repairing(6);
    let keys = keys(20);
    for key in &keys {
        town.put("a", &table, key, "v", Write::at(Consistency::All)).unwrap();
    }
    town.until(30, "the trees are built", |town| {
        let counts = town.life("c").node.replica().trees().counts();
        counts.trees > 0 && counts.unbuilt == 0
    });
    let node = town.life("c").node.clone();
    let stopped = town.begin("c", async move { node.stop().await });
    town.wait(&stopped).unwrap();
    town.kill("c");
    town.start("c");
    assert_eq!(unbuilt(&town, "c"), 0, "before anything was read");
    town.run(20 * SECOND);
    assert_eq!(surveys(&town, "c"), 0);
    assert_eq!(sum(&town, moved), 0, "the stored trees are what the others have");
}

/// A stored tree is true as long as it is there: the first write removes it.
#[test]
fn a_tree_that_was_written_to_is_built_anew_after_a_loss_of_power() {
    let (mut town, table) = repairing(7);
    let keys = keys(20);
    for key in &keys {
        town.put("a", &table, key, "v", Write::at(Consistency::All)).unwrap();
    }
    town.until(30, "the trees are built", |town| {
        let counts = town.life("c").node.replica().trees().counts();
        counts.trees > 0 && counts.unbuilt == 0
    });
    let node = town.life("c").node.clone();
    let stopped = town.begin("c", async move { node.stop().await });
    town.wait(&stopped).unwrap();
    town.kill("c");
    town.start("c");
    town.until(30, "c serves", |town| town.serves("c"));
    town.put("a", &table, &keys[0], "w", Write::at(Consistency::All)).unwrap();
    town.lose_power("c");
    town.start("c");
    assert_eq!(unbuilt(&town, "c"), 1, "that of the key's partition alone");
    town.run(20 * SECOND);
    assert_eq!(unbuilt(&town, "c"), 0);
    assert_eq!(sum(&town, moved), 0);
    assert!(same(&mut town, &table, &keys));
}

/// Trees that rest are stored while the node runs, so that a crash costs little.
#[test]
fn resting_trees_are_stored() {
    let (mut town, table) = repairing(8);
    town.put("a", &table, "k", "v", Write::at(Consistency::All)).unwrap();
    town.run(100 * SECOND);
    town.lose_power("c");
    town.start("c");
    assert_eq!(unbuilt(&town, "c"), 0);
    town.run(10 * SECOND);
    assert_eq!(sum(&town, moved), 0);
}

/// An exchange whose messages are lost is taken up again.
#[test]
fn an_exchange_that_was_cut_off_is_taken_up_again() {
    let (mut town, table) = repairing(9);
    town.kill("c");
    let keys = keys(40);
    for key in &keys {
        town.put("a", &table, key, "v", Write::default()).unwrap();
    }
    town.start("c");
    town.until(30, "c serves", |town| town.serves("c"));
    let lost = super::town::Fate::LoseRequest;
    town.script.add(lost, 10, |_, _, request| is_apply(request) || is_read(request));
    town.run(60 * SECOND);
    assert!(same(&mut town, &table, &keys));
}
