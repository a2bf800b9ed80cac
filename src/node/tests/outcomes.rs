//! Laws L2, L5, L7 and L8: what is on disk before it is said, by which epoch, and what an error
//! says of a write.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;

use super::town::{
    ABC, Fate, SECOND, Town, Write, address, id, is_apply, is_mint, is_read, key_of, row,
};
use crate::coordinator::{self, Condition, OpError, WriteAction, WriteOp};
use crate::meta::{Command, ConflictMode};
use crate::net::Request;
use crate::record::Record;
use crate::sim::disk::DiskFaults;
use crate::sim::rng::Ppm;
use crate::types::Consistency;

fn full(town: &Town, name: &str, full: bool) {
    town.disk(name).set_faults(DiskFaults { full, ..DiskFaults::default() });
}

#[test]
fn l02_a_dot_is_durable_before_it_leaves() {
    let (mut town, table) = Town::with_table(1, ConflictMode::Siblings);
    let by = Duration::from_millis(30);
    town.world.set_blocking(town.machine("a"), by, by, (Ppm::NEVER, Duration::ZERO));
    let (engine, seen) = (town.life("a").engine.clone(), Arc::new(AtomicU32::new(0)));
    let (checked, place, stored) = (seen.clone(), row(&table, "k"), address(&table, "k"));
    town.script.add(Fate::LoseRequest, 1, move |from, _, request| {
        if let Request::Apply(apply) = request
            && from == id("a")
        {
            let durable = engine.durable(&place).unwrap().expect("it has left, so it is durable");
            let durable = Record::decode(&durable, &stored).unwrap();
            let sent = Record::decode(&apply.record, &stored).unwrap();
            let mut both = durable.clone();
            both.merge(&sent).unwrap();
            assert_eq!(both, durable, "all that left is durable");
            checked.fetch_add(1, Ordering::SeqCst);
        }
        false
    });
    // Several at once, so that versions are staged on top of each other.
    let slots: Vec<_> = (0..5)
        .map(|n| town.begin_put("a", &table, "k", &format!("v{n}"), Write::default()))
        .collect();
    for slot in &slots {
        town.wait(slot).unwrap();
    }
    assert!(seen.load(Ordering::SeqCst) >= 10);
}

#[test]
fn l05_a_replica_that_is_behind_catches_up_before_it_answers() {
    let mut town = Town::founded(2, &ABC);
    // c hears nothing of the metadata for a while.
    town.script.add(Fate::LoseRequest, u32::MAX, |from, to, request| {
        matches!(request, Request::Meta(_)) && (from == id("c") || to == id("c"))
    });
    let epoch = |town: &Town, name: &str| town.life(name).node.cluster().state().epoch();
    let before = epoch(&town, "c");
    let table = town.create("t", |_| {});
    assert_eq!(epoch(&town, "c"), before, "c does not know the table");
    town.script.clear();
    town.put("a", &table, "k", "v", Write::at(Consistency::All)).unwrap();
    assert_eq!(epoch(&town, "c"), epoch(&town, "a"), "c knew it when it answered");
}

#[test]
fn l05_an_operation_planned_by_an_older_epoch_is_planned_again() {
    let (mut town, table) = Town::with_table(3, ConflictMode::Siblings);
    town.script.add(Fate::LoseRequest, u32::MAX, |from, to, request| {
        matches!(request, Request::Meta(_)) && (from == id("c") || to == id("c"))
    });
    let life = town.life("a");
    let (cluster, deadline) = (life.node.cluster().clone(), life.env.mono() + 5 * SECOND);
    let drop_it = Command::DropTable { id: table.id };
    let slot = town.begin("a", async move { cluster.append(drop_it, deadline).await });
    town.wait(&slot).unwrap();
    town.script.clear();
    // c still has the table in its ring; a and b refuse with their epoch, and c follows.
    let error = town.read("c", &table, "k", Consistency::Quorum).unwrap_err();
    assert_eq!(error, OpError::NoSuchTable);
}

#[test]
fn l07_an_acknowledged_write_survives_the_loss_of_power_of_all_nodes() {
    let (mut town, table) = Town::with_table(4, ConflictMode::Siblings);
    for round in 0..3 {
        for n in 0..10 {
            let key = format!("key {round} {n}");
            town.put(ABC[n % 3], &table, &key, "v", Write::default()).unwrap();
            let durable = ABC.iter().filter(|name| {
                town.life(name).engine.durable(&row(&table, &key)).unwrap().is_some()
            });
            assert!(durable.count() >= 2, "at the instant of the answer");
        }
        for name in ABC {
            town.lose_power(name);
        }
        for name in ABC {
            town.start(name);
        }
        town.until(30, "all serve", |town| ABC.iter().all(|name| town.serves(name)));
    }
    for round in 0..3 {
        for n in 0..10 {
            assert_eq!(town.values("b", &table, &format!("key {round} {n}")), ["v"]);
        }
    }
}

#[test]
fn l08_unavailable_means_that_nothing_was_tried() {
    let (mut town, table) = Town::with_table(5, ConflictMode::Siblings);
    town.kill("b");
    town.kill("c");
    town.run(30 * SECOND);
    let error = town.put("a", &table, "k", "v", Write::default()).unwrap_err();
    assert!(matches!(error, OpError::Unavailable { .. }), "{error:?}");
    assert_eq!(error.fate(), coordinator::Fate::NotApplied);
    assert!(town.record("a", &table, "k").is_none());
    town.put("a", &table, "k", "v", Write::at(Consistency::One)).unwrap();
}

#[test]
fn l08_a_write_that_reached_one_replica_of_two_may_have_taken_effect() {
    let (mut town, table) = Town::with_table(6, ConflictMode::Siblings);
    town.isolate("a");
    let before = town.world.now();
    let how = Write { timeout: Some(SECOND), ..Write::default() };
    let error = town.put("a", &table, "k", "v", how).unwrap_err();
    assert_eq!(error.fate(), coordinator::Fate::Unknown, "{error}");
    assert!(town.world.now() - before < 1_200_000_000, "by its deadline");
    town.heal();
    town.run(10 * SECOND);
    assert_eq!(town.values("a", &table, "k"), ["v"], "and here it did");
}

/// With one replica frozen, another one to which nothing can be sent for a moment makes the quorum.
#[test]
fn l08_a_replica_that_cannot_be_reached_for_a_moment_is_asked_again() {
    let (mut town, table) = Town::with_table(11, ConflictMode::Siblings);
    town.put("a", &table, "k", "v", Write::at(Consistency::All)).unwrap();
    let context = town.read("a", &table, "k", Consistency::All).unwrap().record.context();
    town.pause("c", true);
    let unsent = |town: &Town, picks: fn(&Request) -> bool| {
        town.script.add(Fate::NotSent, 5, move |from, to, request| {
            from == id("a") && to == id("b") && picks(request)
        })
    };
    let rule = unsent(&town, is_read);
    assert_eq!(town.values("a", &table, "k"), ["v"]);
    assert_eq!(town.script.hits(rule), 5);
    let rule = unsent(&town, is_apply);
    let written = town.put("a", &table, "k", "w", Write::seen(&context)).unwrap();
    assert_eq!((town.script.hits(rule), written.siblings), (5, 1));
    assert_eq!(town.values("b", &table, "k"), ["w"]);
}

#[test]
fn l08_what_could_never_be_sent_has_not_happened() {
    let (mut town, table) = Town::with_table(12, ConflictMode::Siblings);
    // Of its own disk nothing is to be had either.
    full(&town, "a", true);
    let unsent = |town: &Town, count| {
        let out = |from, to, request: &Request| from == id("a") && to != from && is_mint(request);
        town.script.add(Fate::NotSent, count, out)
    };
    let rule = unsent(&town, 6);
    assert_eq!(town.put("a", &table, "k", "v", Write::default()).unwrap().siblings, 1);
    assert_eq!(town.script.hits(rule), 6);
    let context = town.read("b", &table, "k", Consistency::Quorum).unwrap().record.context();
    unsent(&town, u32::MAX);
    let before = town.world.now();
    let error = town.put("a", &table, "k", "w", Write::seen(&context)).unwrap_err();
    assert_eq!(error.fate(), coordinator::Fate::NotApplied, "{error}");
    assert!(town.world.now() - before < 2_500_000_000, "it is said soon");
    town.run(5 * SECOND);
    assert_eq!(town.values("b", &table, "k"), ["v"]);
}

/// A replica whose disk does not answer holds up no one beyond the deadline, the coordinator's own
/// replica included.
#[test]
fn l08_a_stuck_disk_ends_in_a_timeout_that_says_unknown() {
    let (mut town, table) = Town::with_table(7, ConflictMode::Siblings);
    let stuck = 60 * SECOND;
    for name in ABC {
        town.world.set_blocking(town.machine(name), stuck, stuck, (Ppm::NEVER, Duration::ZERO));
    }
    let before = town.world.now();
    let how = Write { timeout: Some(2 * SECOND), ..Write::at(Consistency::One) };
    let error = town.put("a", &table, "k", "v", how).unwrap_err();
    assert_eq!(error.fate(), coordinator::Fate::Unknown, "{error}");
    assert!(town.world.now() - before < 2_200_000_000, "by its deadline");
}

#[test]
fn l08_full_disks_refuse_writes_which_then_never_take_effect() {
    let (mut town, table) = Town::with_table(8, ConflictMode::Siblings);
    town.put("a", &table, "k", "v", Write::at(Consistency::All)).unwrap();
    for name in ABC {
        full(&town, name, true);
    }
    let context = town.read("a", &table, "k", Consistency::All).unwrap().record.context();
    // Many at once: versions are staged on top of others that are about to be refused.
    for round in 0..5 {
        let slots: Vec<_> = (0..8)
            .map(|n| {
                let value = format!("lost {round} {n}");
                town.begin_put(ABC[n % 3], &table, "k", &value, Write::seen(&context))
            })
            .collect();
        for slot in &slots {
            let error = town.wait(slot).unwrap_err();
            assert_eq!(error, OpError::DiskFull);
            assert_eq!(error.fate(), coordinator::Fate::NotApplied);
        }
        assert_eq!(town.values("b", &table, "k"), ["v"], "reads go on");
    }
    for name in ABC {
        full(&town, name, false);
    }
    town.put("a", &table, "k", "w", Write::seen(&context)).expect("without a restart");
    town.run(SECOND);
    for name in ABC {
        assert_eq!(town.values(name, &table, "k"), ["w"], "and nothing of what was refused");
    }
}

#[test]
fn l08_one_full_disk_of_three_is_no_trouble_and_two_are_said_to_be() {
    let (mut town, table) = Town::with_table(9, ConflictMode::Siblings);
    full(&town, "a", true);
    let written = town.put("a", &table, "k", "v", Write::default()).unwrap();
    assert_ne!(written.dot.unwrap().actor, town.life("a").node.identity().actor);
    full(&town, "b", true);
    let error = town.put("c", &table, "k", "w", Write::default()).unwrap_err();
    assert_eq!(error.fate(), coordinator::Fate::Unknown, "c has it: {error}");
    assert!(error.to_string().contains("no space left"), "{error}");
}

#[test]
fn l08_a_client_that_hangs_up_leaves_no_half_driven_write() {
    for seed in 0..5 {
        let (mut town, table) = Town::with_table(seed, ConflictMode::Siblings);
        let op = WriteOp {
            condition: Condition::None,
            fence: None,
            table: table.clone(),
            key: key_of("k"),
            action: WriteAction::Put {
                body: Bytes::from_static(b"v"),
                content_type: None,
                meta: Vec::new(),
                ttl: None,
            },
            context: None,
            level: Consistency::Quorum,
            timeout: 3 * SECOND,
            op: None,
            receipt: false,
        };
        let life = town.life("a").clone();
        let slot = town.begin("a", async move {
            let coordinator = life.node.coordinator();
            life.env.timeout(Duration::from_micros(10), coordinator.write(op)).await.is_err()
        });
        assert!(town.wait(&slot), "it hung up before the answer");
        town.run(SECOND);
        for name in ABC {
            assert!(town.record(name, &table, "k").is_some(), "seed {seed}: {name} has it");
        }
        assert_eq!(town.life("a").node.coordinator().under_way(), 0);
    }
}

/// What is left to do when W have answered is done all the same.
#[test]
fn a_write_goes_to_all_replicas_though_it_answers_at_one() {
    let (mut town, table) = Town::with_table(10, ConflictMode::Siblings);
    town.put("a", &table, "k", "v", Write::at(Consistency::One)).unwrap();
    town.run(SECOND);
    for name in ABC {
        assert!(town.record(name, &table, "k").is_some(), "{name}");
    }
    // Also after an error.
    town.script.add(Fate::LoseRequest, 1, |from, to, request| {
        from == id("a") && to == id("b") && is_apply(request)
    });
    let how = Write { timeout: Some(SECOND), ..Write::at(Consistency::All) };
    town.put("a", &table, "other", "v", how).unwrap_err();
    assert!(town.record("c", &table, "other").is_some());
}

/// A zero byte takes two in storage: the door's own bound does not see that.
#[test]
fn a_key_that_no_replica_takes_is_refused_before_anything_is_sent() {
    let (mut town, table) = Town::with_table(19, ConflictMode::Siblings);
    let told = town.put("a", &table, &"\0".repeat(6_000), "v", Write::default()).unwrap_err();
    assert!(matches!(&told, OpError::Invalid(why) if why.contains("Key too long")), "{told:?}");
    assert_eq!(told.fate(), coordinator::Fate::NotApplied);
    town.put("a", &table, &"\0".repeat(5_900), "v", Write::default()).unwrap();
}
