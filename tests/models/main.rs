//! Model checks: all that can happen within small bounds, to the real code. (Names of the models by
//! the project's test plan.) The bounds are such that all states are seen in a minute;
//! `HENGE_MODELS=nightly` takes greater ones, which need hours or much memory.
//!
//! `cargo test --profile ci --features sim --test models -- --nocapture` prints how many states there
//! were.
#![cfg(feature = "sim")]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the checker's own threads and collections"
)]

mod causal;
mod founding;
mod lease;
mod metalog;
mod register;

use std::sync::{PoisonError, RwLock};
use std::time::Instant;

use henge::plants::{Plant, set_plant};
use stateright::{Checker, Expectation, HasDiscoveries, Model};

use causal::Causal;
use founding::Founding;
use lease::Lease;
use metalog::MetaLog;
use register::{Mistake, Op, Register};

/// Planted bugs are the whole process's: who plants one is alone.
static PLANTS: RwLock<()> = RwLock::new(());

fn nightly() -> bool {
    std::env::var("HENGE_MODELS").is_ok_and(|text| text == "nightly")
}

/// Looks at every state, and expects no counterexample.
fn holds<M>(name: &str, model: M)
where
    M: Model + Send + Sync + 'static,
    M::State: Send + Sync + std::hash::Hash + Clone + std::fmt::Debug + PartialEq + 'static,
    M::Action: Send + Sync + Clone + std::fmt::Debug + PartialEq,
{
    let _clean = PLANTS.read().unwrap_or_else(PoisonError::into_inner);
    let begun = Instant::now();
    let states = if nightly() {
        // In depth first: what waits to be looked at is then a path, and not a whole layer of states.
        seen(name, begun, model.checker().threads(2).spawn_dfs().join())
    } else {
        seen(name, begun, model.checker().threads(2).spawn_bfs().join())
    };
    assert!(states > 1_000, "only {states} states: the model does nothing");
}

/// How many states a finished checker has seen, without a counterexample.
fn seen<M: Model>(name: &str, begun: Instant, checker: impl Checker<M>) -> usize
where
    M::State: Clone + std::fmt::Debug + PartialEq,
    M::Action: Clone + std::fmt::Debug + PartialEq,
{
    let (states, depth) = (checker.unique_state_count(), checker.max_depth());
    println!("{name}: {states} states, depth {depth}, {:.1} s", begun.elapsed().as_secs_f64());
    assert!(checker.is_done());
    checker.assert_properties();
    states
}

/// The first property that has a counterexample, and the way there.
fn broken<M>(model: M) -> Option<(&'static str, Vec<M::Action>)>
where
    M: Model + Send + Sync + 'static,
    M::State: Send + Sync + std::hash::Hash + Clone + std::fmt::Debug + PartialEq + 'static,
    M::Action: Send + Sync + Clone + std::fmt::Debug + PartialEq,
{
    let checker =
        model.checker().threads(2).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let is_always = |name: &&'static str| {
        let mut all = checker.model().properties().into_iter();
        all.any(|p| p.name == *name && p.expectation == Expectation::Always)
    };
    let found = checker.discoveries().into_iter().find(|(name, _)| is_always(name));
    found.map(|(name, path)| (name, path.into_actions()))
}

fn noticed<M>(name: &str, model: M)
where
    M: Model + Send + Sync + 'static,
    M::State: Send + Sync + std::hash::Hash + Clone + std::fmt::Debug + PartialEq + 'static,
    M::Action: Send + Sync + Clone + std::fmt::Debug + PartialEq,
{
    let _clean = PLANTS.read().unwrap_or_else(PoisonError::into_inner);
    let found = broken(model);
    println!("{name}: {found:?}");
    assert!(found.is_some(), "{name} was not noticed");
}

fn with_mistake(name: &str, model: Register, mistake: Mistake) {
    noticed(name, Register { mistake, ..model });
}

fn planted<M>(plant: Plant, model: M)
where
    M: Model + Send + Sync + 'static,
    M::State: Send + Sync + std::hash::Hash + Clone + std::fmt::Debug + PartialEq + 'static,
    M::Action: Send + Sync + Clone + std::fmt::Debug + PartialEq,
{
    let _alone = PLANTS.write().unwrap_or_else(PoisonError::into_inner);
    set_plant(Some(plant));
    let found = broken(model);
    set_plant(None);
    println!("{plant:?}: {found:?}");
    assert!(found.is_some(), "{plant:?} was not noticed");
}

/// MC1: durable at once.
fn mc1() -> Register {
    let second =
        if nightly() { vec![Op::AddUnless(2, 1), Op::Read] } else { vec![Op::AddUnless(2, 1)] };
    Register {
        clients: vec![vec![Op::Add(1), Op::Peek], second],
        ballots: if nightly() { 3 } else { 2 },
        losses: 0,
        crashes: 0,
        syncs: false,
        committers: 0,
        forgets: false,
        doubles: false,
        mistake: Mistake::None,
    }
}

/// MC1 with answers that get lost, so that majorities differ more.
fn mc1_lossy() -> Register {
    let losses = if nightly() { 2 } else { 1 };
    Register {
        clients: vec![vec![Op::Add(1)], vec![Op::AddUnless(2, 1)]],
        ballots: 2,
        losses,
        ..mc1()
    }
}

/// MC1 with an attempt that is given up for a higher ballot.
fn mc1_again() -> Register {
    Register { clients: vec![vec![Op::Add(1)], vec![Op::AddUnless(2, 1)]], ballots: 3, ..mc1() }
}

/// MC1 with a read that may meet what only a minority voted for, and a write after it.
fn mc1_reads() -> Register {
    Register { clients: vec![vec![Op::Add(1)], vec![Op::Read, Op::Add(2)]], ballots: 3, ..mc1() }
}

/// MC2: what is not synced is lost in a crash.
fn mc2() -> Register {
    let ballots = if nightly() { 3 } else { 2 };
    let clients = vec![vec![Op::Add(1)], vec![Op::Add(2)]];
    Register { clients, ballots, crashes: 1, syncs: true, ..mc1() }
}

/// MC3: decisions go to the data, and votes are dropped.
fn mc3() -> Register {
    let ballots = if nightly() { 3 } else { 2 };
    let clients = vec![vec![Op::Add(1)], vec![Op::Add(2)]];
    let committers = if nightly() { 2 } else { 1 };
    Register { clients, ballots, committers, forgets: true, ..mc1() }
}

fn mc8() -> Lease {
    if nightly() {
        Lease { holders: 3, grants: 6, writes: 2 }
    } else {
        Lease { holders: 2, grants: 5, writes: 2 }
    }
}

/// MC5: two members append at once.
fn mc5() -> MetaLog {
    MetaLog { appenders: vec![0, 1], loses: None, attempts: 3, mistake: metalog::Mistake::None }
}

/// MC5: one member appends, and another one's disk is lost.
fn mc5_replaced() -> MetaLog {
    let attempts = if nightly() { 4 } else { 3 };
    MetaLog { appenders: vec![0], loses: Some(2), attempts, ..mc5() }
}

/// MC5: two members append, and the third one's disk is lost.
fn mc5_both() -> MetaLog {
    MetaLog { loses: Some(2), ..mc5() }
}

/// MC5: the first entry, while one founder's disk may be lost.
fn mc5_founding() -> Founding {
    Founding { loses: 2, attempts: if nightly() { 3 } else { 2 }, mistake: founding::Mistake::None }
}

/// MC6: sound disks.
fn mc6() -> Causal {
    Causal {
        clients: 2,
        writes: if nightly() { 4 } else { 3 },
        step: 2,
        losses: 0,
        restores: 0,
        crashes: 0,
        mistake: causal::Mistake::None,
    }
}

/// MC6 on a key that is its actors' only one.
fn mc6_dense() -> Causal {
    Causal { step: 1, ..mc6() }
}

/// MC6: a disk is lost, and an older copy of one is put back.
fn mc6_disks() -> Causal {
    Causal { writes: if nightly() { 3 } else { 2 }, losses: 1, restores: 1, ..mc6() }
}

/// MC6: what is not synced is lost in a crash.
fn mc6_crash() -> Causal {
    Causal { writes: if nightly() { 3 } else { 2 }, crashes: 1, ..mc6() }
}

#[test]
fn mc1_a_register_is_linearizable() {
    holds("MC1", mc1());
    holds("MC1, answers lost", mc1_lossy());
    if nightly() {
        holds("MC1, attempts given up", mc1_again());
        holds("MC1, reads", mc1_reads());
    }
}

#[test]
fn mc1_notices_each_mistake() {
    planted(Plant::P01, mc1());
    with_mistake("P04", mc1(), Mistake::SameBallots);
    with_mistake("P05", mc1(), Mistake::ReadData);
    with_mistake("P06", mc1_reads(), Mistake::SettleNothing);
}

#[test]
fn mc2_what_is_answered_is_durable() {
    holds("MC2", mc2());
}

#[test]
fn mc2_notices_answers_before_the_sync() {
    with_mistake("P02", mc2(), Mistake::PromiseEarly);
    with_mistake("P03", mc2(), Mistake::VoteEarly);
}

#[test]
fn mc3_dropped_votes_are_missed_by_nobody() {
    holds("MC3", mc3());
}

#[test]
fn mc3_notices_votes_that_are_dropped_too_early() {
    with_mistake("P07", mc3(), Mistake::DropEarly);
}

#[test]
fn mc8_who_has_lost_the_lock_writes_no_more() {
    holds("MC8", mc8());
}

#[test]
fn mc8_notices_numbers_that_begin_anew() {
    planted(Plant::P34, mc8());
}

#[test]
fn mc5_each_place_of_the_log_goes_to_one_entry() {
    holds("MC5", mc5());
    holds("MC5, a member replaced", mc5_replaced());
    if nightly() {
        holds("MC5, two append and one is replaced", mc5_both());
    }
}

#[test]
fn mc5_no_two_clusters_are_founded() {
    holds("MC5, founding", mc5_founding());
}

#[test]
fn mc5_notices_a_second_founding() {
    use founding::Mistake;

    noticed(
        "a second confirmation",
        Founding { mistake: Mistake::ConfirmsAgain, ..mc5_founding() },
    );
    noticed("a majority", Founding { mistake: Mistake::MajorityConfirms, ..mc5_founding() });
}

#[test]
fn mc5_notices_each_mistake() {
    use metalog::Mistake;

    noticed("P16", MetaLog { mistake: Mistake::SameVoter, ..mc5_replaced() });
    noticed("two sets of voters", MetaLog { mistake: Mistake::CountsEarly, ..mc5_replaced() });
    noticed("a vote kept", MetaLog { mistake: Mistake::KeepsVote, ..mc5() });
}

#[test]
fn mc6_a_value_ends_by_who_has_read_it_and_by_nothing_else() {
    holds("MC6", mc6());
    holds("MC6, one key", mc6_dense());
}

#[test]
fn mc6_who_has_lost_its_history_mints_under_another_name() {
    holds("MC6, disks", mc6_disks());
    holds("MC6, crash", mc6_crash());
}

#[test]
fn mc6_notices_each_mistake() {
    use causal::Mistake;

    let loses = Causal { losses: 1, ..mc6() };
    let restores = Causal { restores: 1, ..mc6() };
    planted(Plant::P18, mc6());
    planted(Plant::P19, mc6());
    noticed("P16", Causal { mistake: Mistake::SameActor, ..loses.clone() });
    noticed("P16, old disk", Causal { mistake: Mistake::SameActor, ..restores.clone() });
    noticed("P17", Causal { mistake: Mistake::SendEarly, ..mc6_crash() });
    noticed("R11", Causal { mistake: Mistake::KeepsCounter, ..loses });
    noticed("R13", Causal { mistake: Mistake::KeepsCounter, ..restores });
    noticed("R14", Causal { mistake: Mistake::OneActor, ..mc6() });
}
