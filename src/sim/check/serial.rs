//! W1: keys that only lightweight transactions write are linearizable registers: serial reads,
//! writes, compare-and-set, and refusals, which show what stood there and are part of the order.
//!
//! A write that was answered "did not happen" is left out; should it show, no order is found (and
//! I2 names it). One without an answer whose value nobody has seen is left out as well: it may
//! never have happened, and any order with it is one without it.

use std::collections::BTreeSet;

use crate::sim::check::linear::{self, Call, Verdict};
use crate::sim::check::{Check, KeyHistory, Violation};
use crate::sim::history::{Action, Operation, Outcome, WriteId};

/// Steps of the search for one key.
const BUDGET: u64 = 400_000;

/// What stands under a key.
type State = Option<WriteId>;

/// An operation and its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Did {
    Read(State),
    Wrote(State),
    Swapped { expected: State, new: State },
    Refused { expected: State, shown: State },
}

fn step(state: &State, did: &Did) -> Option<State> {
    match did {
        Did::Read(shown) => (state == shown).then_some(*state),
        Did::Wrote(new) => Some(*new),
        Did::Swapped { expected, new } => (state == expected).then_some(*new),
        Did::Refused { expected, shown } => (state != expected && state == shown).then_some(*state),
    }
}

/// The one value shown, or nothing; `None` if there are several, or bytes that nobody wrote.
fn shown(operation: &Operation) -> Option<State> {
    match operation.shown()? {
        [] => Some(None),
        [one] => one.value.as_ref().ok().map(|id| Some(*id)),
        _ => None,
    }
}

fn did(operation: &Operation) -> Option<Did> {
    let written = |id: WriteId, delete: bool| if delete { None } else { Some(id) };
    match (&operation.action, &operation.outcome) {
        (_, Outcome::NotApplied) | (Action::Read, Outcome::Unknown) => None,
        (Action::Read, _) => shown(operation).map(Did::Read),
        (Action::Put { id, .. }, _) => Some(Did::Wrote(Some(*id))),
        (Action::Delete { .. }, _) => Some(Did::Wrote(None)),
        (Action::Cas { expected, .. }, Outcome::Refused(_)) => {
            shown(operation).map(|shown| Did::Refused { expected: *expected, shown })
        }
        (Action::Cas { id, expected, delete }, _) => {
            Some(Did::Swapped { expected: *expected, new: written(*id, *delete) })
        }
    }
}

pub(super) fn check(key: &KeyHistory<'_>) -> Vec<Violation> {
    let operations = || key.operations.iter().map(|(_, operation)| *operation);
    for (at, operation) in operations().enumerate() {
        if operation.shown().is_some_and(|shown| shown.len() > 1) {
            let what = "several values stand where only Paxos writes".to_owned();
            return vec![key.breach(Check::W1, what, &[at])];
        }
    }
    let mut seen: BTreeSet<WriteId> = BTreeSet::new();
    seen.extend(operations().filter_map(shown).flatten());
    seen.extend(operations().filter_map(|operation| {
        match (&operation.action, operation.acked()) {
            (Action::Cas { expected, .. }, true) => *expected,
            _ => None,
        }
    }));
    let mut places = Vec::new();
    let mut calls = Vec::new();
    for (at, operation) in operations().enumerate() {
        let Some(did) = did(operation) else { continue };
        let is_open = operation.outcome == Outcome::Unknown;
        let new = match did {
            Did::Wrote(new) | Did::Swapped { new, .. } => new,
            Did::Read(_) | Did::Refused { .. } => None,
        };
        if is_open && new.is_some_and(|id| !seen.contains(&id)) {
            continue;
        }
        places.push(at);
        calls.push(Call {
            begun: operation.call.i,
            ended: operation.ret.filter(|_| !is_open).map(|ret| ret.i),
            what: did,
        });
    }
    match linear::check(&calls, None, step, BUDGET) {
        Verdict::Linearizable | Verdict::Unknown => Vec::new(),
        Verdict::Broken { longest, stuck } => {
            let last = longest.last().map(|&at| format!("{:?}", calls[at].what));
            let next: Vec<String> =
                stuck.iter().map(|&at| format!("{:?}", calls[at].what)).collect();
            let what = format!(
                "no order explains the answers: after {} of {} operations, the last {last:?}, none \
                 of {next:?} can come next",
                longest.len(),
                calls.len()
            );
            let proof: Vec<usize> =
                longest.last().into_iter().chain(&stuck).map(|&at| places[at]).collect();
            vec![key.breach(Check::W1, what, &proof)]
        }
    }
}
