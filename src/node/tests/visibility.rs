//! Rules 6 to 9: what readers see, expiry, and clocks that disagree.

use std::time::Duration;

use super::town::{
    ABC, Fate, SECOND, Town, Write, id, is_apply, is_mint, is_read, op_id, row, values_of,
};
use crate::coordinator::{self, OpError};
use crate::meta::ConflictMode;
use crate::net::{Request, Response};
use crate::sim::rng::Ppm;
use crate::storage::Durability;
use crate::types::{Consistency, NodeId};

/// Lets only `to` hear of the next writes that `from` coordinates.
fn tell_only(town: &Town, from: &str, to: &[&str]) {
    let (from, to): (NodeId, Vec<NodeId>) = (id(from), to.iter().map(|name| id(name)).collect());
    town.script.add(Fate::LoseRequest, u32::MAX, move |sender, receiver, request| {
        sender == from && is_apply(request) && !to.contains(&receiver)
    });
}

fn slow_disk(town: &Town, name: &str, by: Duration) {
    town.world.set_blocking(town.machine(name), by, by, (Ppm::NEVER, Duration::ZERO));
}

#[test]
fn rule06_a_replica_shows_only_what_survives_a_loss_of_power() {
    let (mut town, table) = Town::with_table(1, ConflictMode::Siblings);
    slow_disk(&town, "a", SECOND);
    let slot = town.begin_put("a", &table, "k", "v", Write::at(Consistency::One));
    let mut shown_before = 0;
    while !slot.is_done() {
        town.run(Duration::from_millis(20));
        let durable = town.life("a").engine.durable(&row(&table, "k")).unwrap().is_some();
        let shown = matches!(town.own("a", &table, "k"), Response::Record(Some(_), _));
        assert!(durable || !shown, "shown before it was durable");
        shown_before += u32::from(!shown);
    }
    assert!(shown_before > 10, "the disk was slow");
    town.wait(&slot).unwrap();
    town.lose_power("a");
    town.start("a");
    town.until(30, "a serves", |town| town.serves("a"));
    assert!(town.record("a", &table, "k").is_some());
}

/// With periodic syncs an acknowledgement promises less, and what was acknowledged is shown.
#[test]
fn rule06_what_was_acknowledged_with_periodic_syncs_is_shown() {
    let mut town = Town::new(2, &ABC);
    for name in ABC {
        town.set_durability(name, Durability::Periodic { interval: 60 * SECOND });
        town.start(name);
    }
    town.until(30, "all serve", |town| ABC.iter().all(|name| town.serves(name)));
    let table = town.create("t", |_| {});
    for n in 0..5 {
        let value = format!("v{n}");
        let context = town.read("b", &table, "k", Consistency::Quorum).unwrap().record.context();
        town.put("a", &table, "k", &value, Write::seen(&context)).unwrap();
        assert_eq!(town.values("c", &table, "k"), [value]);
    }
}

#[test]
fn rule07_a_read_repairs_before_it_answers() {
    let (mut town, table) = Town::with_table(3, ConflictMode::Siblings);
    tell_only(&town, "a", &["a"]);
    town.put("a", &table, "k", "v", Write::at(Consistency::One)).unwrap();
    town.script.clear();
    let slow = town.script.add(Fate::Delay(SECOND), u32::MAX, |from, _, request| {
        from == id("a") && is_apply(request)
    });
    let slot = town.begin_read("a", &table, "k", Consistency::Quorum);
    town.run(Duration::from_millis(900));
    assert!(!slot.is_done(), "it has seen the value, and a quorum does not hold it yet");
    let found = town.wait(&slot).unwrap();
    assert_eq!(values_of(&found), ["v"]);
    assert!(town.script.hits(slow) >= 1);
    let receipt = found.receipt.unwrap();
    assert_eq!(receipt.repaired.len(), 1, "{receipt:?}");
    // The one that had it first is gone, and the value is still there.
    town.kill("a");
    assert_eq!(town.values("c", &table, "k"), ["v"]);
}

/// The same for deletions: a tombstone is repaired like a value.
#[test]
fn rule07_a_deletion_that_was_read_is_not_taken_back() {
    let (mut town, table) = Town::with_table(4, ConflictMode::Siblings);
    town.put("a", &table, "k", "v", Write::at(Consistency::All)).unwrap();
    tell_only(&town, "a", &["a"]);
    town.delete("a", &table, "k", Write::at(Consistency::One)).unwrap();
    town.script.clear();
    assert_eq!(town.values("a", &table, "k"), [""; 0]);
    town.kill("a");
    assert_eq!(town.values("b", &table, "k"), [""; 0]);
}

#[test]
fn rule07_hedges_count_distinct_replicas() {
    let (mut town, table) = Town::with_table(5, ConflictMode::Siblings);
    town.put("a", &table, "k", "v", Write::at(Consistency::All)).unwrap();
    // The replica that is asked answers slowly: another one is asked too, and counts instead.
    let mut hedged = 0;
    for _ in 0..4 {
        town.script.add(Fate::Delay(2 * SECOND), 1, |from, _, request| {
            from == id("a") && is_read(request)
        });
        let before = town.world.now();
        let found = town.read("a", &table, "k", Consistency::Quorum).unwrap();
        assert_eq!(values_of(&found), ["v"]);
        assert!(town.world.now() - before < 1_000_000_000, "it waited for the slow one");
        hedged += found.receipt.unwrap().hedged;
    }
    assert!(hedged >= 1);
    town.script.clear();
    // But no replica counts twice, however often it is asked.
    town.pause("c", true);
    let error = town.read("a", &table, "k", Consistency::All).unwrap_err();
    // The call and the read end at one instant, and either may be seen first.
    let two_of_three = matches!(
        error,
        OpError::Timeout { required: 3, received: 2, .. }
            | OpError::TooFewReplicas { required: 3, received: 2, .. }
    );
    assert!(two_of_three, "{error:?}");
    town.pause("c", false);
}

/// The coordinator's one "now" decides, and the instant of expiry is the same on all replicas.
#[test]
fn rule08_expiry_is_fixed_at_the_write_and_judged_by_the_coordinator() {
    let (mut town, table) = Town::with_table(6, ConflictMode::Siblings);
    town.world.jump_wall(town.machine("b"), 8_000_000);
    let how = Write { ttl: Some(5 * SECOND), level: Some(Consistency::All), ..Write::default() };
    let first = town.put("a", &table, "k", "v", how).unwrap();
    let records: Vec<_> = ABC.iter().map(|name| town.record(name, &table, "k")).collect();
    assert!(records.windows(2).all(|pair| pair[0] == pair[1]), "byte for byte");
    assert_eq!(town.values("a", &table, "k"), ["v"], "five seconds by a's clock");
    assert_eq!(town.values("b", &table, "k"), [""; 0], "over by b's, though a and c hold it");
    town.run(6 * SECOND);
    assert_eq!(town.values("a", &table, "k"), [""; 0]);
    // Its dot stays covered: a late copy of it brings nothing back, and the next write is alone.
    let next = town.put("c", &table, "k", "w", Write::default()).unwrap();
    assert_eq!((next.created, next.siblings), (true, 1));
    assert!(!next.context.covers(first.dot.unwrap()), "it was blind");
    assert_eq!(town.values("a", &table, "k"), ["w"]);
}

#[test]
fn rule08_stamps_from_the_far_future_are_refused() {
    let (mut town, table) = Town::with_table(7, ConflictMode::Lww);
    town.world.jump_wall(town.machine("c"), 3_600_000_000);
    let error = town.put("c", &table, "k", "from the future", Write::default()).unwrap_err();
    assert_eq!(error.fate(), coordinator::Fate::Unknown, "c itself holds it: {error}");
    for name in ["a", "b"] {
        assert!(town.record(name, &table, "k").is_none(), "{name} refused it");
    }
    let now = town.life("a").env.wall().0;
    let stamp = town.life("a").node.cluster().stamps().clock.now().0;
    assert!(stamp < now + 11_000_000, "and was not dragged along");
    town.put("a", &table, "other", "v", Write::default()).unwrap();
}

/// R20: a chain of writes through nodes whose clocks disagree by seconds. Each begins after the
/// one before it was acknowledged, so each wins.
#[test]
fn rule09_the_later_write_wins_whatever_the_clocks_say() {
    for seed in 0..6 {
        let (mut town, table) = Town::with_table(seed, ConflictMode::Lww);
        town.world.jump_wall(town.machine("a"), 4_000_000);
        town.world.jump_wall(town.machine("c"), -4_000_000);
        for n in 0..9u32 {
            let name = ABC[(n as usize * 2) % 3];
            // Each is acknowledged by two; the third hears nothing.
            let deaf = ABC[(n as usize * 2 + 1) % 3];
            let hears: Vec<&str> = ABC.into_iter().filter(|other| *other != deaf).collect();
            tell_only(&town, name, &hears);
            let value = format!("v{n}");
            let expected = if n % 3 == 2 {
                town.delete(name, &table, "k", Write::default()).unwrap();
                vec![]
            } else {
                town.put(name, &table, "k", &value, Write::default()).unwrap();
                vec![value]
            };
            town.script.clear();
            for reader in ABC {
                assert_eq!(town.values(reader, &table, "k"), expected, "seed {seed}, step {n}");
            }
        }
    }
}

#[test]
fn rule09_a_dominated_write_is_reported() {
    let (mut town, table) = Town::with_table(9, ConflictMode::Lww);
    town.world.jump_wall(town.machine("a"), 5_000_000);
    tell_only(&town, "a", &["a", "b"]);
    town.put("a", &table, "k", "first", Write::default()).unwrap();
    town.script.clear();
    let second = town.put("c", &table, "k", "second", Write::default()).unwrap();
    let receipt = second.receipt.unwrap();
    let dominated = receipt.replicas.iter().filter(|r| r.answer.contains("dominated")).count();
    assert!(dominated >= 1, "{receipt:?}");
    assert_eq!(town.values("b", &table, "k"), ["second"]);
    assert!(
        town.life("c")
            .node
            .coordinator()
            .counters()
            .restamps
            .load(std::sync::atomic::Ordering::Relaxed)
            >= 1
    );
}

/// Writers of one key at one time outrun each other again and again. That is no failure of any.
#[test]
fn rule09_no_write_fails_because_others_write_at_the_same_time() {
    let (mut town, table) = Town::with_table(15, ConflictMode::Lww);
    town.world.jump_wall(town.machine("a"), 3_000_000);
    for round in 0..8 {
        let slots: Vec<_> = (0..24)
            .map(|n| {
                let value = format!("{round}-{n}");
                town.begin_put(ABC[n % 3], &table, "k", &value, Write::default())
            })
            .collect();
        for slot in slots {
            town.wait(&slot).unwrap();
        }
    }
}

/// What a writer gets back says how late its own write was, so that its next one comes after it
/// even on a replica that has not heard of it and whose clock is behind.
#[test]
fn rule09_a_writers_next_write_comes_after_its_last() {
    let (mut town, table) = Town::with_table(10, ConflictMode::Lww);
    town.world.jump_wall(town.machine("a"), 5_000_000);
    tell_only(&town, "a", &["a"]);
    tell_only(&town, "b", &["b"]);
    let one = Write::at(Consistency::One);
    let first = town.put("a", &table, "k", "first", one).unwrap();
    let next = Write { level: Some(Consistency::One), ..Write::seen(&first.context) };
    town.put("b", &table, "k", "second", next).unwrap();
    town.script.clear();
    assert_eq!(values_of(&town.read("c", &table, "k", Consistency::All).unwrap()), ["second"]);
}

/// A repeat answers with the first outcome; it must not put its value above what came since.
#[test]
fn rule09_a_repeated_operation_is_not_minted_above_later_ones() {
    let (mut town, table) = Town::with_table(11, ConflictMode::Lww);
    let op = op_id(&town, 1);
    town.put(
        "a",
        &table,
        "k",
        "first",
        Write { level: Some(Consistency::All), ..Write::named(op) },
    )
    .unwrap();
    tell_only(&town, "c", &["c"]);
    town.put("c", &table, "k", "second", Write::at(Consistency::One)).unwrap();
    town.script.clear();
    // The repeat's first read does not meet the second write; its replicas do.
    town.script.add(Fate::LoseRequest, 1, |from, to, request| {
        from == id("a") && to == id("c") && is_read(request)
    });
    let again = Write { level: Some(Consistency::All), ..Write::named(op) };
    assert!(town.put("a", &table, "k", "first", again).unwrap().replayed);
    town.script.clear();
    assert_eq!(values_of(&town.read("a", &table, "k", Consistency::All).unwrap()), ["second"]);
}

/// The client hangs up on a write through `a` that has yet to reach all, repeats it through `b`, and
/// is told that it is done. What `a` still does of it must not come after what was written since
/// (seeds 11457 and 13004 of the simulator).
#[test]
fn rule09_an_abandoned_attempt_does_not_rise_above_what_followed_its_repeat() {
    let (mut town, table) = Town::with_table(13, ConflictMode::Lww);
    let op = op_id(&town, 1);
    let from_a = |to: &'static str| {
        move |from: NodeId, at: NodeId, request: &Request| {
            from == id("a") && at == id(to) && is_apply(request)
        }
    };
    town.script.add(Fate::Delay(3 * SECOND), 1, from_a("c"));
    let timeout = Some(9 * SECOND);
    let all = Write { level: Some(Consistency::All), timeout, ..Write::named(op) };
    let abandoned = town.begin_put("a", &table, "k", "first", all);
    town.run(SECOND);
    assert!(!abandoned.is_done());
    let again = town.put("b", &table, "k", "first", Write::named(op)).unwrap();
    assert!(again.replayed);
    tell_only(&town, "c", &["b", "c"]);
    town.put("c", &table, "k", "second", Write::default()).unwrap();
    assert!(town.wait(&abandoned).unwrap().dot.is_some(), "it is done, and was long before");
    town.script.clear();
    for reader in ABC {
        assert_eq!(town.values(reader, &table, "k"), ["second"], "{reader}");
    }
}

/// The same with an attempt that has made nothing yet, through a node whose clock is fast.
#[test]
fn rule09_an_attempt_that_is_carried_out_late_loses_to_what_followed_its_repeat() {
    let (mut town, table) = Town::with_table(14, ConflictMode::Lww);
    town.world.jump_wall(town.machine("a"), 4_000_000);
    let op = op_id(&town, 1);
    town.script.add(Fate::Delay(2 * SECOND), u32::MAX, |from, _, request| {
        from == id("a") && is_mint(request)
    });
    let how = Write { timeout: Some(9 * SECOND), ..Write::named(op) };
    let abandoned = town.begin_put("a", &table, "k", "first", how);
    town.run(SECOND / 2);
    let again = town.put("b", &table, "k", "first", Write::named(op)).unwrap();
    let second = town.put("b", &table, "k", "second", Write::default()).unwrap();
    assert_ne!(again.dot, second.dot);
    let _ = town.wait(&abandoned);
    town.run(3 * SECOND);
    town.script.clear();
    for reader in ABC {
        assert_eq!(town.values(reader, &table, "k"), ["second"], "{reader}");
    }
}

/// The receipt does not promise what the levels do not give.
#[test]
fn a_receipt_says_whether_reads_and_writes_overlap() {
    let (mut town, table) = Town::with_table(12, ConflictMode::Siblings);
    let overlap = |level, town: &mut Town| {
        let written = town.put("a", &table, "k", "v", Write::at(level)).unwrap().receipt.unwrap();
        let read = town.read("a", &table, "k", level).unwrap().receipt.unwrap();
        assert!(written.received >= written.required && read.received >= read.required);
        assert_eq!((written.n, read.n), (3, 3));
        (written.overlap, read.overlap)
    };
    assert_eq!(overlap(Consistency::One, &mut town), (false, false), "the other side is at 2");
    assert_eq!(overlap(Consistency::Quorum, &mut town), (true, true));
    assert_eq!(overlap(Consistency::All, &mut town), (true, true));

    let weak = town.create("weak", |settings| settings.read_level = Consistency::One);
    let written = town.put("a", &weak, "k", "v", Write::at(Consistency::Quorum)).unwrap();
    assert!(!written.receipt.unwrap().overlap, "two written, one read, of three");
}
