//! Lightweight transactions: the histories that have broken others (by the numbers of the project's
//! test plan), and what they cost.

use std::sync::Arc;

use super::town::{ABC, Fate, SECOND, Town, Write, id, op_id, values_of};
use crate::coordinator::{Condition, OpError, Told, WriteOutcome};
use crate::meta::{ConflictMode, Table};
use crate::net::Request;
use crate::net::paxos::{PaxosRequest, PaxosStep};
use crate::record::version_etag;
use crate::types::{Consistency, NodeId};

fn step_of(request: &Request) -> Option<&PaxosStep> {
    match request {
        Request::Paxos(PaxosRequest { step, .. }) => Some(step),
        _ => None,
    }
}

fn is_accept(request: &Request) -> bool {
    matches!(step_of(request), Some(PaxosStep::Accept { .. }))
}

fn is_prepare(request: &Request) -> bool {
    matches!(step_of(request), Some(PaxosStep::Prepare { .. }))
}

fn is_commit(request: &Request) -> bool {
    matches!(step_of(request), Some(PaxosStep::Commit { .. }))
}

fn serial(town: &mut Town, name: &str, table: &Arc<Table>) -> Result<Vec<String>, OpError> {
    town.read(name, table, "k", Consistency::Serial).map(|found| values_of(&found))
}

fn create() -> Write {
    Write::on(Condition::Absent)
}

fn matching(outcome: &WriteOutcome) -> Write {
    Write::on(Condition::Matches(vec![version_etag(outcome.dot.unwrap())]))
}

const MODES: [ConflictMode; 3] = [ConflictMode::Siblings, ConflictMode::Lww, ConflictMode::Strong];

#[test]
fn create_compare_and_set_and_delete_through_any_node_in_every_mode() {
    for (seed, mode) in (1..).zip(MODES) {
        let (mut town, table) = Town::with_table(seed, mode);
        let one = town.put("a", &table, "k", "one", create()).unwrap();
        assert!(one.created);
        let refused = town.put("b", &table, "k", "other", create()).unwrap_err();
        let OpError::ConditionFailed { current, now, .. } = refused else { panic!("{refused:?}") };
        assert_eq!(
            current.view(now).versions[0].value.body,
            "one",
            "the loser is shown the winner"
        );
        let two = town.put("c", &table, "k", "two", matching(&one)).unwrap();
        assert!(town.put("a", &table, "k", "late", matching(&one)).is_err());
        assert_eq!(serial(&mut town, "b", &table).unwrap(), ["two"], "{mode}");
        assert!(town.delete("b", &table, "k", matching(&one)).is_err());
        town.delete("b", &table, "k", matching(&two)).unwrap();
        assert!(serial(&mut town, "a", &table).unwrap().is_empty());
        assert!(town.put("c", &table, "k", "three", create()).unwrap().created, "a tombstone");
        if mode != ConflictMode::Strong {
            assert_eq!(town.values("b", &table, "k"), ["three"], "quorum reads see it too");
        }
    }
}

/// Leaves "v" voted for by `only` alone, its proposer gone.
fn minority_vote(town: &mut Town, table: &Arc<Table>, only: NodeId) {
    let rule = town
        .script
        .add(Fate::LoseRequest, u32::MAX, move |_, to, request| is_accept(request) && to != only);
    let error = town.put("a", table, "k", "v", create()).unwrap_err();
    assert_eq!(error.fate(), crate::coordinator::Fate::Unknown, "an accept has left");
    assert!(town.script.hits(rule) > 0);
    town.script.clear();
}

#[test]
fn r01_a_value_that_one_replica_accepted_is_seen_by_all_later_reads_or_by_none() {
    for (seed, order) in [["b", "c", "a"], ["a", "b", "c"], ["c", "a", "b"]].iter().enumerate() {
        let (mut town, table) = Town::with_table(10 + seed as u64, ConflictMode::Strong);
        minority_vote(&mut town, &table, id("a"));
        let mut seen = false;
        for reader in order {
            // A majority without the replica that holds the vote, and then with it.
            for missing in ["a", "b", "c"] {
                let missing = id(missing);
                town.script.add(Fate::LoseRequest, u32::MAX, move |_, to, request| {
                    step_of(request).is_some() && to == missing
                });
                let shown = serial(&mut town, reader, &table);
                town.script.clear();
                let Ok(shown) = shown else { continue };
                assert!(!seen || shown == ["v"], "seen once, and then not");
                seen |= shown == ["v"];
            }
        }
        assert!(seen, "some majority had the vote in it, and settled it");
    }
}

#[test]
fn r02_a_refusal_and_an_older_proposal_have_one_order() {
    let (mut town, table) = Town::with_table(20, ConflictMode::Strong);
    minority_vote(&mut town, &table, id("a"));
    // Refused on b and c, which know nothing of it.
    town.script.add(Fate::LoseRequest, u32::MAX, |_, to, request| {
        step_of(request).is_some() && to == id("a")
    });
    let refused = town.put("b", &table, "k", "x", Write::on(Condition::Exists)).unwrap_err();
    assert!(matches!(refused, OpError::ConditionFailed { .. }), "{refused:?}");
    // Something is decided without it: from here on it is dead.
    town.put("c", &table, "k", "w", create()).unwrap();
    town.script.clear();
    for name in ABC {
        assert_eq!(serial(&mut town, name, &table).unwrap(), ["w"]);
    }
}

#[test]
fn r06_once_an_accept_has_left_nothing_is_called_failed() {
    for (seed, answers_lost) in [(30, false), (31, true)] {
        let (mut town, table) = Town::with_table(seed, ConflictMode::Siblings);
        let fate = if answers_lost { Fate::LoseAnswer } else { Fate::LoseRequest };
        town.script.add(fate, u32::MAX, |from, to, request| is_accept(request) && from != to);
        let error = town.put("a", &table, "k", "v", create()).unwrap_err();
        assert_eq!(error.fate(), crate::coordinator::Fate::Unknown, "{error:?}");
        town.script.clear();
        let shown = serial(&mut town, "b", &table).unwrap();
        if answers_lost {
            assert_eq!(shown, ["v"], "a majority had voted");
        }
        assert_eq!(serial(&mut town, "c", &table).unwrap(), shown, "settled once and for all");
    }
}

#[test]
fn r08_a_repeated_compare_and_set_gets_its_first_verdict() {
    let (mut town, table) = Town::with_table(40, ConflictMode::Siblings);
    let one = town.put("a", &table, "k", "1", create()).unwrap();
    let op = op_id(&town, 1);
    let cas = || Write { op: Some(op), ..matching(&one) };
    let four = town.put("a", &table, "k", "4", cas()).unwrap();
    town.put("b", &table, "k", "2", matching(&four)).unwrap();
    let again = town.put("c", &table, "k", "4", cas()).unwrap();
    assert!(again.replayed);
    assert_eq!(again.dot, four.dot);
    assert_eq!(serial(&mut town, "a", &table).unwrap(), ["2"], "and nothing happened");
    let other = town.put("c", &table, "k", "5", cas()).unwrap_err();
    assert_eq!(other, OpError::OperationReused);
}

#[test]
fn r09_one_of_three_replicas_down_stops_nothing() {
    for (seed, mode) in (50..).zip(MODES) {
        let (mut town, table) = Town::with_table(seed, mode);
        town.kill("c");
        let one = town.put("a", &table, "k", "one", create()).unwrap();
        town.put("b", &table, "k", "two", matching(&one)).unwrap();
        assert_eq!(serial(&mut town, "a", &table).unwrap(), ["two"]);
    }
}

#[test]
fn r51_a_transaction_whose_time_was_over_in_the_queue_is_never_carried_out() {
    let (mut town, table) = Town::with_table(55, ConflictMode::Strong);
    // The first is under way for seconds; what comes meanwhile waits behind it.
    town.script.add(Fate::Delay(2 * SECOND), u32::MAX, |from, to, request| {
        step_of(request).is_some() && from != to
    });
    let patient = Write { timeout: Some(20 * SECOND), ..Write::default() };
    let first = town.begin_put("a", &table, "k", "first", patient);
    town.run(SECOND / 4);
    let hasty = Write { timeout: Some(SECOND), ..Write::default() };
    let error = town.put("a", &table, "k", "late", hasty).unwrap_err();
    assert_eq!(error.fate(), crate::coordinator::Fate::NotApplied, "{error:?}");
    assert!(!first.is_done(), "it waited in the queue for all of its time");
    town.script.clear();
    town.wait(&first).unwrap();
    town.run(5 * SECOND);
    assert_eq!(serial(&mut town, "b", &table).unwrap(), ["first"]);
}

#[test]
fn who_asks_about_a_lost_operation_settles_it_for_good() {
    let (mut town, table) = Town::with_table(60, ConflictMode::Strong);
    let op = op_id(&town, 1);
    // Nothing of it reaches anybody but its own node.
    town.script.add(Fate::LoseRequest, u32::MAX, |from, to, request| {
        step_of(request).is_some() && from != to
    });
    town.put("a", &table, "k", "v", Write { op: Some(op), ..create() }).unwrap_err();
    town.script.clear();
    let coordinator = town.life("b").node.coordinator().clone();
    let asked = table.clone();
    let slot = town.begin("b", async move {
        coordinator.tell(&asked, &super::town::key_of("k"), op, 3 * SECOND).await
    });
    assert_eq!(town.wait(&slot).unwrap(), Told::Never);
    let late = town.put("c", &table, "k", "v", Write { op: Some(op), ..create() }).unwrap_err();
    assert_eq!(late, OpError::OperationExpired);
    assert!(serial(&mut town, "a", &table).unwrap().is_empty());
}

#[test]
fn a_wiped_replica_votes_only_after_open_votes_are_settled() {
    let (mut town, table) = Town::with_table(70, ConflictMode::Strong);
    // Chosen by a and b, and committed nowhere.
    town.script.add(Fate::LoseRequest, u32::MAX, |_, to, request| {
        is_commit(request) || (is_accept(request) && to == id("c"))
    });
    town.put("a", &table, "k", "v", create()).unwrap();
    town.kill("a");
    town.wipe("a");
    town.script.clear();
    town.start("a");
    town.until(60, "a serves again", |town| town.serves("a"));
    town.kill("b");
    town.until(30, "b is missed", |town| !town.life("a").node.cluster().is_live(id("b")));
    assert_eq!(serial(&mut town, "c", &table).unwrap(), ["v"], "by a and c, who had not voted");
}

#[test]
fn rows_of_votes_go_when_every_replica_has_the_decision() {
    for (seed, mode) in (80..).zip(MODES) {
        let (mut town, table) = Town::with_table(seed, mode);
        let one = town.put("a", &table, "k", "one", create()).unwrap();
        town.put("b", &table, "k", "two", matching(&one)).unwrap();
        town.run(10 * SECOND);
        for name in ABC {
            let rows =
                crate::storage::keys::table_rows(crate::storage::keys::Kind::Paxos, table.id);
            let mut count = 0;
            let count_it = &mut |_: &[u8], _: Result<&[u8], _>| {
                count += 1;
                std::ops::ControlFlow::Continue(())
            };
            crate::storage::Engine::scan(&*town.life(name).engine, &rows, count_it).unwrap();
            assert_eq!(count, 0, "{name}, {mode}");
        }
        // And what was promised still holds.
        assert!(town.put("c", &table, "k", "late", matching(&one)).is_err());
    }
}

/// Message steps of one operation: (prepares, accepts) that left for another node.
fn cost(town: &mut Town, run: impl FnOnce(&mut Town)) -> (u32, u32) {
    town.script.clear();
    let none = Fate::Delay(std::time::Duration::ZERO);
    let prepares = town.script.add(none, u32::MAX, |from, to, r| is_prepare(r) && from != to);
    let accepts = town.script.add(none, u32::MAX, |from, to, r| is_accept(r) && from != to);
    run(town);
    (town.script.hits(prepares), town.script.hits(accepts))
}

#[test]
fn a_cold_write_takes_two_round_trips_and_an_uncontended_serial_read_one() {
    let (mut town, table) = Town::with_table(90, ConflictMode::Strong);
    let write = cost(&mut town, |town| {
        town.put("a", &table, "k", "one", create()).unwrap();
    });
    assert_eq!(write, (2, 2), "one prepare and one accept to each of two others");
    town.run(5 * SECOND);
    let read = cost(&mut town, |town| {
        assert_eq!(serial(town, "b", &table).unwrap(), ["one"]);
    });
    assert_eq!(read, (0, 0), "nothing was promised");
}

#[test]
fn a_repeated_write_on_a_standing_promise_takes_one_round_trip() {
    let (mut town, table) = Town::with_table(91, ConflictMode::Strong);
    let first = town.put("a", &table, "k", "one", create()).unwrap();
    let again = cost(&mut town, |town| {
        let second = town.put("a", &table, "k", "two", matching(&first)).unwrap();
        town.put("a", &table, "k", "three", matching(&second)).unwrap();
    });
    assert_eq!(again, (0, 4), "two writes, each one accept to each of two others");
    // Another proposer is not kept out by it.
    town.put("b", &table, "k", "four", Write::default()).unwrap();
    assert_eq!(serial(&mut town, "a", &table).unwrap(), ["four"]);
}

/// The commit, the end of the vote and its removal wait for no disk and take none from others: they
/// ride with the syncs of what comes next.
#[test]
fn each_of_many_creations_takes_two_syncs_of_a_voter() {
    const CREATIONS: u64 = 40;
    let (mut town, table) = Town::with_table(92, ConflictMode::Strong);
    let groups = |town: &Town, name: &str| town.life(name).node.committer().stats().groups;
    let before = ABC.map(|name| groups(&town, name));
    for n in 0..CREATIONS {
        town.put("a", &table, &format!("k{n}"), "v", create()).unwrap();
    }
    for (name, before) in ABC.into_iter().zip(before) {
        let took = groups(&town, name) - before;
        assert!(took <= CREATIONS * 5 / 2, "{name}: {took} groups");
    }
}

#[test]
fn what_voters_write_lazily_may_be_lost_at_any_moment() {
    let (mut town, table) = Town::with_table(93, ConflictMode::Strong);
    for (round, after_ms) in
        [0, 3, 8, 15, 19, 22, 30, 45, 90, 115, 130, 160].into_iter().enumerate()
    {
        let key = format!("k{after_ms}");
        let one = town.put(ABC[round % 3], &table, &key, "one", create()).unwrap();
        if round % 2 == 0 {
            town.put(ABC[round % 3], &table, &key, "two", matching(&one)).unwrap();
        }
        town.run(std::time::Duration::from_millis(after_ms));
        ABC.iter().for_each(|name| town.lose_power(name));
        ABC.iter().for_each(|name| town.start(name));
        town.until(30, "all serve", |town| ABC.iter().all(|name| town.serves(name)));
        let name = ABC[(round + 1) % 3];
        assert!(town.put(name, &table, &key, "late", create()).is_err(), "after {after_ms} ms");
        let outcome = town.read(name, &table, &key, Consistency::Serial).unwrap();
        let expected = if round % 2 == 0 { "two" } else { "one" };
        assert_eq!(values_of(&outcome), [expected], "after {after_ms} ms");
    }
}

#[test]
fn many_operations_on_one_key_share_rounds() {
    let (mut town, table) = Town::with_table(95, ConflictMode::Strong);
    let (prepares, accepts) = cost(&mut town, |town| {
        let how = Write::default;
        let slots: Vec<_> =
            (0..40).map(|n| town.begin_put("a", &table, "k", &format!("{n}"), how())).collect();
        for slot in &slots {
            town.wait(slot).unwrap();
        }
    });
    assert!(prepares <= 4 && accepts <= 8, "{prepares} prepares, {accepts} accepts");
}

/// Aerospike 3.99: "did not succeed" though it had; requests that the network repeats make dirty
/// reads.
#[test]
fn r07_lost_answers_are_never_called_failures_and_repeated_requests_change_nothing() {
    for (seed, mode) in (100..).zip(MODES) {
        let (mut town, table) = Town::with_table(seed, mode);
        let op = op_id(&town, 1);
        let all_lost = |_: NodeId, _: NodeId, request: &Request| is_accept(request);
        town.script.add(Fate::LoseAnswer, u32::MAX, all_lost);
        let lost = Write { op: Some(op), ..create() };
        let error = town.put("a", &table, "k", "v", lost.clone()).unwrap_err();
        assert_eq!(error.fate(), crate::coordinator::Fate::Unknown, "{mode}: {error:?}");
        town.script.clear();
        // Everything arrives twice from here on, the second time late.
        let later = Fate::Repeat(SECOND);
        let twice = town.script.add(later, u32::MAX, |_, _, request| step_of(request).is_some());
        let again = town.put("b", &table, "k", "v", lost).unwrap();
        assert!(again.created, "{mode}: its first and only outcome");
        let next = town.put("c", &table, "k", "w", matching(&again)).unwrap();
        assert!(town.put("a", &table, "k", "late", matching(&again)).is_err());
        town.run(3 * SECOND);
        assert!(town.script.hits(twice) > 0);
        for name in ABC {
            assert_eq!(serial(&mut town, name, &table).unwrap(), ["w"], "{mode} through {name}");
        }
        assert!(town.put("b", &table, "k", "x", matching(&next)).is_ok(), "one version of each");
    }
}

/// Cassandra: an insert by a transaction and a plain delete have two clocks, and the delete of a
/// node that is behind is ignored.
#[test]
fn r10_a_plain_delete_from_a_node_that_is_behind_deletes_what_a_transaction_wrote() {
    for (seed, mode) in (110..).zip(MODES) {
        for behind_ms in [500, 5_000] {
            let (mut town, table) = Town::with_table(seed + behind_ms as u64, mode);
            town.world.jump_wall(town.machine("b"), -behind_ms * 1_000);
            town.put("a", &table, "k", "inserted", create()).unwrap();
            town.delete("b", &table, "k", Write::default()).unwrap();
            for name in ABC {
                assert!(serial(&mut town, name, &table).unwrap().is_empty(), "{mode}: {name}");
            }
            // And the other way round: a transaction after a plain write from a node that is ahead.
            town.world.jump_wall(town.machine("c"), behind_ms * 1_000);
            town.put("c", &table, "k", "plain", Write::default()).unwrap();
            let replace = Write::on(Condition::Exists);
            town.put("b", &table, "k", "replaced", replace).unwrap();
            for name in ABC {
                assert_eq!(serial(&mut town, name, &table).unwrap(), ["replaced"], "{mode}");
            }
        }
    }
}

/// NATS 2.12.1, Scylla 1222, etcd 14370: acknowledged before it was synced.
#[test]
fn r43_no_acknowledged_transaction_is_lost_with_the_power_of_all_machines() {
    for (seed, mode) in (120..).zip(MODES) {
        let (mut town, table) = Town::with_table(seed, mode);
        let mut last = town.put("a", &table, "k", "0", create()).unwrap();
        for round in 1..6 {
            let body = round.to_string();
            let name = ABC[round % 3];
            last = town.put(name, &table, "k", &body, matching(&last)).unwrap();
            // At the very moment of the acknowledgement.
            for name in ABC {
                town.lose_power(name);
            }
            for name in ABC {
                town.start(name);
            }
            town.until(30, "all serve", |town| ABC.iter().all(|name| town.serves(name)));
            let reader = ABC[(round + 1) % 3];
            assert_eq!(serial(&mut town, reader, &table).unwrap(), [body], "{mode}");
        }
    }
}
