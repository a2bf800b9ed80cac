//! Operations on a key that proposers of several nodes meet on: they go to one node, and what
//! becomes of one that is lost on the way.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::town::{ABC, Fate, SECOND, Town, Write, id, key_of, op_id, values_of};
use crate::coordinator::{self, Condition, LeaseOp, LeaseOutcome, OpError};
use crate::meta::{ConflictMode, Table};
use crate::net::Request;
use crate::net::paxos::{PaxosRequest, PaxosStep};
use crate::recipes;
use crate::types::Consistency;

fn is_proposal(request: &Request) -> bool {
    matches!(request, Request::Propose(_))
}

fn is_accept(request: &Request) -> bool {
    let Request::Paxos(PaxosRequest { step, .. }) = request else { return false };
    matches!(step, PaxosStep::Accept { .. })
}

fn forwarded(town: &Town, name: &str) -> u64 {
    town.coordinator(name).lwt_counters().forwarded.load(Ordering::Relaxed)
}

/// Has all nodes ask for "k" at once, until those that are not its home send operations there: the
/// home, and another node.
fn contend(town: &mut Town, table: &Arc<Table>) -> (&'static str, &'static str) {
    let replicas = town.coordinator("a").locate(table, &key_of("k")).replicas;
    let home = ABC.into_iter().find(|name| id(name) == replicas[0]).unwrap();
    let other = ABC.into_iter().find(|name| *name != home).unwrap();
    for round in 0..20 {
        let before = forwarded(town, other);
        let slots: Vec<_> = (0..12)
            .map(|n| {
                let value = format!("{round}-{n}");
                town.begin_put(ABC[n % 3], table, "k", &value, Write::on(Condition::Absent))
            })
            .collect();
        for slot in &slots {
            let _ = town.wait(slot);
        }
        if forwarded(town, other) > before {
            assert_eq!(forwarded(town, home), 0, "a home sends nothing on");
            return (home, other);
        }
    }
    panic!("nobody has met")
}

fn serial(town: &mut Town, table: &Arc<Table>) -> Vec<String> {
    values_of(&town.read("a", table, "k", Consistency::Serial).unwrap())
}

const MODES: [ConflictMode; 3] = [ConflictMode::Siblings, ConflictMode::Lww, ConflictMode::Strong];

#[test]
fn operations_of_all_nodes_on_one_key_are_decided_together() {
    for (seed, mode) in (1..).zip(MODES) {
        let (mut town, table) = Town::with_table(seed, mode);
        contend(&mut town, &table);
        let none = Fate::Delay(std::time::Duration::ZERO);
        let accepts = town.script.add(none, u32::MAX, |from, to, r| is_accept(r) && from != to);
        let slots: Vec<_> = (0..60)
            .map(|n| {
                let how = Write::on(Condition::Exists);
                town.begin_put(ABC[n % 3], &table, "k", &n.to_string(), how)
            })
            .collect();
        let mut values = Vec::new();
        for slot in &slots {
            values.push(town.wait(slot).unwrap().dot.unwrap());
        }
        values.sort();
        values.dedup();
        assert_eq!(values.len(), 60, "{mode}: each made a version of its own");
        let sent = town.script.hits(accepts);
        assert!(sent <= 24, "{mode}: {sent} accepts for sixty operations of three nodes");
        assert_eq!(serial(&mut town, &table).len(), 1);
    }
}

#[test]
fn reads_locks_and_questions_go_the_same_way_and_come_back_as_they_are() {
    let (mut town, table) = Town::with_table(5, ConflictMode::Strong);
    let (_, other) = contend(&mut town, &table);
    let before = forwarded(&town, other);
    let shown = town.read(other, &table, "k", Consistency::Serial).unwrap();
    assert_eq!(values_of(&shown).len(), 1);
    let refused = town.put(other, &table, "k", "x", Write::on(Condition::Absent)).unwrap_err();
    let OpError::ConditionFailed { current, now, .. } = refused else { panic!("{refused:?}") };
    assert_eq!(current.view(now).versions[0].value.body, values_of(&shown)[0]);
    let fenced = Write { fence: Some(7), ..Write::default() };
    let written = town.put(other, &table, "k", "fenced", fenced).unwrap();
    assert_eq!(written.siblings, 1);
    let late = Write { fence: Some(6), ..Write::default() };
    let refused = town.put(other, &table, "k", "late", late).unwrap_err();
    assert!(matches!(refused, OpError::FenceTooOld { fence: 6, highest: 7, .. }), "{refused:?}");
    assert_eq!(forwarded(&town, other) - before, 4, "all of them were sent");
    assert_eq!(serial(&mut town, &table), ["fenced"]);
}

#[test]
fn locks_that_many_nodes_ask_for_have_one_holder() {
    let (mut town, table) = Town::with_table(6, ConflictMode::Strong);
    let mut holders = Vec::new();
    for round in 0..6 {
        let slots: Vec<_> = (0..12)
            .map(|n: usize| {
                let request = recipes::Request::Acquire {
                    owner: format!("{round}-{n}"),
                    ttl_ms: 60_000,
                    stands: false,
                };
                let op = LeaseOp {
                    table: table.clone(),
                    key: key_of("lock"),
                    request,
                    timeout: 10 * SECOND,
                    op: None,
                };
                let coordinator = town.coordinator(ABC[n % 3]);
                town.begin(ABC[n % 3], async move { coordinator.lease(op).await })
            })
            .collect();
        for slot in &slots {
            if let LeaseOutcome::Held { holding, .. } = town.wait(slot).unwrap() {
                holders.push(holding.owner);
            }
        }
    }
    assert_eq!(holders.len(), 1, "{holders:?}");
    let sent: u64 = ABC.iter().map(|name| forwarded(&town, name)).sum();
    assert!(sent > 0, "proposers have met");
}

#[test]
fn a_lost_answer_of_the_home_is_unknown_and_the_operation_happens_once_at_most() {
    for (seed, mode) in (10..).zip(MODES) {
        for fate in [Fate::LoseAnswer, Fate::LoseRequest] {
            let (mut town, table) = Town::with_table(seed, mode);
            let (_, other) = contend(&mut town, &table);
            town.script.add(fate, u32::MAX, |_, _, request| is_proposal(request));
            let error = town.put(other, &table, "k", "v", Write::on(Condition::Exists));
            let error = error.unwrap_err();
            assert_eq!(error.fate(), coordinator::Fate::Unknown, "{mode}: {error:?}");
            town.script.clear();
            let shown = serial(&mut town, &table);
            assert_eq!(shown == ["v"], matches!(fate, Fate::LoseAnswer), "{mode}: {shown:?}");
            // The node no longer rests on it.
            let next = town.put(other, &table, "k", "next", Write::on(Condition::Exists));
            next.unwrap();
            assert_eq!(serial(&mut town, &table), ["next"]);
        }
    }
}

#[test]
fn a_named_operation_whose_answer_was_lost_gets_its_verdict_all_the_same() {
    for (seed, mode) in (20..).zip(MODES) {
        for fate in [Fate::LoseAnswer, Fate::LoseRequest, Fate::Delay(10 * SECOND)] {
            let (mut town, table) = Town::with_table(seed, mode);
            let (_, other) = contend(&mut town, &table);
            let rule = town.script.add(fate, 1, |_, _, request| is_proposal(request));
            let op = op_id(&town, 1);
            let named = Write { op: Some(op), ..Write::on(Condition::Exists) };
            let first = town.put(other, &table, "k", "v", named.clone()).unwrap();
            assert_eq!(town.script.hits(rule), 1, "it was sent");
            town.put("a", &table, "k", "later", Write::on(Condition::Exists)).unwrap();
            town.run(15 * SECOND);
            assert_eq!(serial(&mut town, &table), ["later"], "{mode}: it happened once");
            let again = town.put("b", &table, "k", "v", named).unwrap();
            assert!(again.replayed);
            assert_eq!(again.dot, first.dot);
        }
    }
}

#[test]
fn a_named_refusal_whose_answer_was_lost_stays_one() {
    for (seed, mode) in (30..).zip(MODES) {
        let (mut town, table) = Town::with_table(seed, mode);
        let (_, other) = contend(&mut town, &table);
        // It waits at the home for longer than its coordinator does.
        town.script.add(Fate::Delay(8 * SECOND), 1, |_, _, request| is_proposal(request));
        let named = Write { op: Some(op_id(&town, 1)), ..Write::on(Condition::Absent) };
        let refused = town.put(other, &table, "k", "v", named).unwrap_err();
        assert!(matches!(refused, OpError::ConditionFailed { .. }), "{mode}: {refused:?}");
        // What it was refused for goes away before the first copy of it is looked at.
        town.delete("a", &table, "k", Write::on(Condition::Exists)).unwrap();
        town.run(15 * SECOND);
        assert!(serial(&mut town, &table).is_empty(), "{mode}: refused is refused");
    }
}

#[test]
fn a_home_that_is_gone_or_full_stops_nobody() {
    for (seed, mode) in (40..).zip(MODES) {
        let (mut town, table) = Town::with_table(seed, mode);
        let (home, other) = contend(&mut town, &table);
        let rule = town.script.add(Fate::NotSent, u32::MAX, |_, _, request| is_proposal(request));
        town.put(other, &table, "k", "v", Write::on(Condition::Exists)).unwrap();
        assert!(town.script.hits(rule) > 0);
        town.script.clear();
        contend(&mut town, &table);
        town.kill(home);
        for _ in 0..3 {
            // Nothing of it was sent, or its answer was lost with the home.
            if let Err(error) = town.put(other, &table, "k", "w", Write::on(Condition::Exists)) {
                assert_eq!(error.fate(), coordinator::Fate::Unknown, "{mode}: {error:?}");
            }
        }
        town.put(other, &table, "k", "x", Write::on(Condition::Exists)).unwrap();
        let shown = town.read(other, &table, "k", Consistency::Serial).unwrap();
        assert_eq!(values_of(&shown), ["x"]);
    }
}

#[test]
fn once_nobody_meets_any_more_operations_are_proposed_where_they_come() {
    let (mut town, table) = Town::with_table(50, ConflictMode::Strong);
    let (_, other) = contend(&mut town, &table);
    town.run(3 * SECOND);
    let before = forwarded(&town, other);
    town.put(other, &table, "k", "v", Write::on(Condition::Exists)).unwrap();
    assert_eq!(forwarded(&town, other), before);
}
