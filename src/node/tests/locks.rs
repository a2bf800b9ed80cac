//! Fences and locks: who has lost a lock writes no more, whatever became of the clocks. Scenario
//! R52 of the project's test plan is here by name.

use std::sync::Arc;
use std::time::Duration;

use super::town::{ABC, SECOND, Slot, Town, Write, key_of, op_id, values_of};
use crate::coordinator::{LeaseOp, LeaseOutcome, OpError};
use crate::meta::{ConflictMode, Table};
use crate::recipes::{Refusal, Request};
use crate::repair;
use crate::repair::purge::PurgeOptions;
use crate::types::{Consistency, OpId};

const MODES: [ConflictMode; 3] = [ConflictMode::Siblings, ConflictMode::Lww, ConflictMode::Strong];

fn fenced(fence: u64) -> Write {
    Write { fence: Some(fence), ..Write::default() }
}

fn with_locks(seed: u64) -> (Town, Arc<Table>, Arc<Table>) {
    let (mut town, table) = Town::with_table(seed, ConflictMode::Siblings);
    let locks = town.create("locks", |settings| settings.conflict = ConflictMode::Strong);
    (town, table, locks)
}

fn begin(
    town: &Town,
    name: &str,
    locks: &Arc<Table>,
    request: Request,
    op: Option<OpId>,
) -> Slot<Result<LeaseOutcome, OpError>> {
    let coordinator = town.life(name).node.coordinator().clone();
    let op = LeaseOp { table: locks.clone(), key: key_of("l"), request, timeout: 3 * SECOND, op };
    town.begin(name, async move { coordinator.lease(op).await })
}

fn lease(town: &mut Town, name: &str, locks: &Arc<Table>, request: Request) -> LeaseOutcome {
    let slot = begin(town, name, locks, request, None);
    town.wait(&slot).unwrap()
}

fn acquire(owner: &str) -> Request {
    Request::Acquire { owner: owner.to_owned(), ttl_ms: 2_000, stands: false }
}

/// The number of a grant; `None`: there was none.
fn fence(outcome: &LeaseOutcome) -> Option<u64> {
    match outcome {
        LeaseOutcome::Held { holding, .. } => Some(holding.fence),
        LeaseOutcome::Freed { .. } | LeaseOutcome::Refused { .. } => None,
    }
}

fn is_ended(outcome: &LeaseOutcome) -> bool {
    matches!(outcome, LeaseOutcome::Refused { why: Refusal::Ended, .. })
}

#[test]
fn r16_a_write_with_an_older_fence_is_refused_in_every_mode_and_lives_on_no_replica() {
    for (seed, mode) in (1..).zip(MODES) {
        let (mut town, table) = Town::with_table(seed, mode);
        town.put("a", &table, "k", "by 7", fenced(7)).unwrap();
        town.put("b", &table, "k", "by 8", fenced(8)).unwrap();
        town.put("b", &table, "k", "by 8 again", fenced(8)).unwrap();
        for name in ABC {
            let refused = town.put(name, &table, "k", "late", fenced(7)).unwrap_err();
            let why = OpError::FenceTooOld { fence: 7, highest: 8, replayed: false };
            assert_eq!(refused, why, "{mode} through {name}");
            assert!(town.delete(name, &table, "k", fenced(7)).is_err());
        }
        town.run(5 * SECOND);
        for name in ABC {
            let record = town.record(name, &table, "k").unwrap();
            assert_eq!(record.fence(), 8, "{mode} at {name}");
            assert!(record.versions().all(|version| version.value.body == "by 8 again"));
        }
        // Who says nothing of a fence is not held to one.
        town.put("c", &table, "k", "plain", Write::default()).unwrap();
        assert!(town.put("c", &table, "k", "late", fenced(7)).is_err());
    }
}

#[test]
fn a_fence_and_a_condition_must_both_hold() {
    let (mut town, table) = Town::with_table(5, ConflictMode::Siblings);
    let create =
        |fence| Write { condition: crate::coordinator::Condition::Absent, ..fenced(fence) };
    town.put("a", &table, "k", "v", create(3)).unwrap();
    let refused = town.put("b", &table, "k", "w", create(9)).unwrap_err();
    assert!(matches!(refused, OpError::ConditionFailed { .. }), "{refused:?}");
    town.put("c", &table, "k", "w", fenced(4)).expect("9 was refused, and is not remembered");
    town.delete("a", &table, "k", fenced(4)).unwrap();
    let refused = town.put("b", &table, "k", "x", create(3)).unwrap_err();
    assert_eq!(refused, OpError::FenceTooOld { fence: 3, highest: 4, replayed: false });
}

#[test]
fn a_fenced_write_that_says_what_it_has_read_replaces_nothing_else() {
    let (mut town, _) = Town::with_table(8, ConflictMode::Lww);
    let table = town.create("s", |settings| settings.max_siblings = 2);
    town.put("a", &table, "k", "read", Write::default()).unwrap();
    let seen = town.read("a", &table, "k", Consistency::Quorum).unwrap().record.context();
    town.put("b", &table, "k", "unread", Write::default()).unwrap();
    let how = Write { context: Some(seen.clone()), ..fenced(1) };
    let outcome = town.put("c", &table, "k", "mine", how.clone()).unwrap();
    let mut values = town.values("a", &table, "k");
    values.sort();
    assert_eq!(values, ["mine", "unread"]);
    let unread = town.record("a", &table, "k").unwrap();
    let unread = unread.versions().find(|version| version.value.body == "unread").unwrap().dot;
    assert!(!outcome.context.covers(unread), "it has not read it");
    let too_many = town.put("c", &table, "k", "again", how).unwrap_err();
    assert!(matches!(too_many, OpError::TooManySiblings { .. }), "{too_many:?}");
    // Who holds the lock and says nothing of what it has read replaces what stands.
    town.put("a", &table, "k", "all mine", fenced(2)).unwrap();
    assert_eq!(town.values("b", &table, "k"), ["all mine"]);
}

/// A deletion of nothing is remembered if it brings a fence: the older holder may still be about
/// to write.
#[test]
fn a_fence_is_remembered_even_by_a_delete_that_finds_nothing() {
    for (seed, mode) in (6..).zip(MODES) {
        let (mut town, table) = Town::with_table(seed, mode);
        town.delete("a", &table, "k", fenced(5)).unwrap();
        let late = town.put("b", &table, "k", "late", fenced(4)).unwrap_err();
        assert!(matches!(late, OpError::FenceTooOld { .. }), "{mode}: {late:?}");
    }
}

#[test]
fn a_repeated_write_that_its_fence_refused_is_refused_again_and_says_so() {
    let (mut town, table) = Town::with_table(9, ConflictMode::Lww);
    town.put("a", &table, "k", "by 8", fenced(8)).unwrap();
    let op = Some(op_id(&town, 1));
    for replayed in [false, true] {
        let how = Write { op, ..fenced(7) };
        let refused = town.put("b", &table, "k", "late", how).unwrap_err();
        assert_eq!(refused, OpError::FenceTooOld { fence: 7, highest: 8, replayed });
    }
    let other = town.put("b", &table, "k", "late", Write { op, ..fenced(9) }).unwrap_err();
    assert_eq!(other, OpError::OperationReused, "the fence is part of the request");
}

/// A purge that forgot the fence would let the older holder in again. The neighbour shows that
/// purges do run.
#[test]
fn a_fence_outlives_deletion_purges_hints_and_repair() {
    for (seed, mode) in (10..).zip([ConflictMode::Siblings, ConflictMode::Lww]) {
        let mut town = Town::new(seed, &ABC);
        let purge = PurgeOptions {
            interval: Duration::from_millis(200),
            percent: 50,
            longest_pause: Duration::from_millis(400),
        };
        let interval = Some(2 * SECOND);
        town.repair = repair::Options { interval, scrub_percent: 0, purge, ..Default::default() };
        for name in ABC {
            town.start(name);
        }
        town.until(30, "all serve", |town| ABC.iter().all(|name| town.serves(name)));
        let table = town.create("t", |settings| {
            settings.conflict = mode;
            settings.grace_s = 3;
        });
        // C hears of the fence by a hint or by repair alone.
        town.kill("c");
        town.put("a", &table, "k", "by 8", fenced(8)).unwrap();
        town.delete("b", &table, "k", fenced(8)).unwrap();
        town.put("a", &table, "neighbour", "v", Write::default()).unwrap();
        town.delete("b", &table, "neighbour", Write::default()).unwrap();
        town.start("c");
        let gone =
            |town: &mut Town, key| ABC.iter().all(|name| town.record(name, &table, key).is_none());
        for _ in 0..60 {
            town.run(SECOND);
            if gone(&mut town, "neighbour") {
                break;
            }
        }
        assert!(gone(&mut town, "neighbour"), "purges run");
        for name in ABC {
            let record = town.record(name, &table, "k").expect("a fence is never purged");
            assert_eq!(record.fence(), 8, "{mode} at {name}");
            assert!(town.put(name, &table, "k", "late", fenced(7)).is_err());
        }
        // A replica that has lost its disk learns it from the others before it counts.
        town.kill("a");
        town.wipe("a");
        town.start("a");
        town.until(60, "a serves again", |town| town.serves("a"));
        town.kill("b");
        town.run(10 * SECOND);
        assert!(town.put("c", &table, "k", "late", fenced(7)).is_err(), "{mode}");
        town.put("a", &table, "k", "by 9", fenced(9)).unwrap();
    }
}

#[test]
fn of_many_who_want_a_lock_at_once_one_gets_it_and_the_next_a_higher_fence() {
    let (mut town, _, locks) = with_locks(20);
    let mut last = 0;
    for round in 0..4 {
        let slots: Vec<_> = (0..12)
            .map(|n| begin(&town, ABC[n % 3], &locks, acquire(&format!("{round}-{n}")), None))
            .collect();
        let outcomes: Vec<_> = slots.iter().map(|slot| town.wait(slot)).collect();
        let granted: Vec<u64> = outcomes.iter().filter_map(|o| fence(o.as_ref().ok()?)).collect();
        assert_eq!(granted.len(), 1, "round {round}: {outcomes:?}");
        assert!(granted[0] > last, "{granted:?} after {last}");
        last = granted[0];
        if round % 2 == 0 {
            let release = Request::Release { fence: last };
            let freed = lease(&mut town, "b", &locks, release.clone());
            assert_eq!(freed, LeaseOutcome::Freed { replayed: false });
            assert!(is_ended(&lease(&mut town, "c", &locks, release)));
        } else {
            town.run(3 * SECOND);
        }
    }
}

#[test]
fn a_lease_is_kept_by_renewing_it_and_ends_without() {
    let (mut town, _, locks) = with_locks(21);
    let first = fence(&lease(&mut town, "a", &locks, acquire("x"))).unwrap();
    for _ in 0..4 {
        town.run(Duration::from_millis(1_500));
        let renew = Request::Renew { fence: first, ttl_ms: 2_000 };
        assert_eq!(fence(&lease(&mut town, "b", &locks, renew)), Some(first));
        let other = lease(&mut town, "c", &locks, acquire("y"));
        assert!(matches!(other, LeaseOutcome::Refused { why: Refusal::Held, .. }), "{other:?}");
    }
    town.run(2 * SECOND);
    let renew = Request::Renew { fence: first, ttl_ms: 2_000 };
    assert!(is_ended(&lease(&mut town, "a", &locks, renew)), "its time is over");
    assert!(fence(&lease(&mut town, "c", &locks, acquire("y"))).unwrap() > first);
}

/// etcd's locks (Jepsen, 3.4.3): a holder that stands still for longer than its lease goes on to
/// write, beside the one that has the lock now.
#[test]
fn r52_a_holder_that_slept_through_its_lease_writes_no_more() {
    let (mut town, table, locks) = with_locks(22);
    let slept = fence(&lease(&mut town, "a", &locks, acquire("slept"))).unwrap();
    town.put("a", &table, "k", "slept", fenced(slept)).unwrap();
    town.run(3 * SECOND);
    let holds = fence(&lease(&mut town, "b", &locks, acquire("holds"))).unwrap();
    let seen = town.read("b", &table, "k", Consistency::Quorum).unwrap().record.context();
    let how = Write { context: Some(seen), ..fenced(holds) };
    town.put("b", &table, "k", "holds", how).unwrap();
    for name in ABC {
        let late = town.put(name, &table, "k", "slept on", fenced(slept)).unwrap_err();
        let why = OpError::FenceTooOld { fence: slept, highest: holds, replayed: false };
        assert_eq!(late, why);
        assert_eq!(late.fate(), crate::coordinator::Fate::NotApplied);
    }
    assert_eq!(town.values("c", &table, "k"), ["holds"]);
}

/// Aerospike 3.99: clocks apart by more than a lease. Two then think that they hold the lock, and
/// the fence alone decides.
#[test]
fn clocks_that_are_apart_by_more_than_a_lease_cost_no_fence_its_meaning() {
    let (mut town, table, locks) = with_locks(23);
    town.world.jump_wall(town.machine("b"), 5_000_000);
    let slow = fence(&lease(&mut town, "a", &locks, acquire("slow"))).unwrap();
    let fast = fence(&lease(&mut town, "b", &locks, acquire("fast"))).unwrap();
    assert!(fast > slow, "b's clock says that a's time is over");
    town.put("b", &table, "k", "fast", fenced(fast)).unwrap();
    assert!(town.put("a", &table, "k", "slow", fenced(slow)).is_err());
    // And by a's clock, b's time lasts long; but b can end it.
    let refused = lease(&mut town, "a", &locks, acquire("slow"));
    assert!(matches!(refused, LeaseOutcome::Refused { why: Refusal::Held, .. }));
    lease(&mut town, "b", &locks, Request::Release { fence: fast });
    assert!(fence(&lease(&mut town, "a", &locks, acquire("slow"))).unwrap() > fast);
}

#[test]
fn a_repeated_request_gets_its_first_answer_or_none_but_never_a_second_grant() {
    let (mut town, _, locks) = with_locks(24);
    let op = Some(op_id(&town, 1));
    let slot = begin(&town, "a", &locks, acquire("x"), op);
    let first = fence(&town.wait(&slot).unwrap()).unwrap();
    let slot = begin(&town, "b", &locks, acquire("x"), op);
    let again = town.wait(&slot).unwrap();
    assert!(matches!(again, LeaseOutcome::Held { replayed: true, .. }), "{again:?}");
    assert_eq!(fence(&again), Some(first));
    town.run(3 * SECOND);
    let slot = begin(&town, "c", &locks, acquire("x"), op);
    assert_eq!(town.wait(&slot).unwrap_err(), OpError::OperationExpired, "it held, and is over");
    let slot = begin(&town, "c", &locks, acquire("y"), op);
    assert_eq!(town.wait(&slot).unwrap_err(), OpError::OperationReused);
}

#[test]
fn a_leader_goes_on_and_another_follows_when_it_has_gone() {
    let (mut town, _, locks) = with_locks(25);
    let stand = |candidate: &str| Request::Acquire {
        owner: candidate.to_owned(),
        ttl_ms: 2_000,
        stands: true,
    };
    let first = fence(&lease(&mut town, "a", &locks, stand("x"))).unwrap();
    for _ in 0..3 {
        town.run(SECOND);
        assert_eq!(fence(&lease(&mut town, "b", &locks, stand("x"))), Some(first));
        assert_eq!(fence(&lease(&mut town, "c", &locks, stand("y"))), None);
    }
    town.run(3 * SECOND);
    assert!(fence(&lease(&mut town, "c", &locks, stand("y"))).unwrap() > first);
}

/// The grants of a lock whose replicas all lose power are not forgotten.
#[test]
fn no_fence_is_granted_twice_over_a_loss_of_power_on_all_machines() {
    let (mut town, table, locks) = with_locks(26);
    let first = fence(&lease(&mut town, "a", &locks, acquire("x"))).unwrap();
    town.put("a", &table, "k", "x", fenced(first)).unwrap();
    for name in ABC {
        town.lose_power(name);
    }
    for name in ABC {
        town.start(name);
    }
    town.until(30, "all serve", |town| ABC.iter().all(|name| town.serves(name)));
    town.run(3 * SECOND);
    let second = fence(&lease(&mut town, "c", &locks, acquire("y"))).unwrap();
    assert_eq!(second, first + 1);
    let found = town.read("b", &table, "k", Consistency::Quorum).unwrap();
    assert_eq!((values_of(&found).len(), found.record.fence()), (1, first));
}
