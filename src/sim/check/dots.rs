//! Dot reuse (W5.5): one dot never names two writes, on any keys. It catches a reborn actor even
//! when nothing is lost yet. (One write may have two dots: it was minted twice after a timeout.)

use std::collections::BTreeMap;

use crate::sim::check::{Check, Violation};
use crate::sim::history::{History, Operation, Outcome, WriteId};
use crate::types::{ActorId, Dot};

/// The dots that an operation tells of, with what each names.
fn told(operation: &Operation) -> Vec<(Dot, WriteId)> {
    match &operation.outcome {
        Outcome::Written(Some(dot)) => {
            operation.action.write_id().map(|id| (*dot, id)).into_iter().collect()
        }
        Outcome::Read(shown) | Outcome::Refused(shown) => {
            shown.iter().filter_map(|s| Some((s.dot?, *s.value.as_ref().ok()?))).collect()
        }
        Outcome::Written(None) | Outcome::NotApplied | Outcome::Unknown => Vec::new(),
    }
}

pub(super) fn check(history: &History) -> Vec<Violation> {
    let mut names: BTreeMap<(Dot, &str), (WriteId, usize)> = BTreeMap::new();
    let mut found = Vec::new();
    for (number, operation) in history.operations.iter().enumerate() {
        for (dot, id) in told(operation) {
            // What Paxos agrees on is counted by the ballots of each key.
            let of = if dot.actor == ActorId::PAXOS { &*operation.key } else { "" };
            let (known, first) = *names.entry((dot, of)).or_insert((id, number));
            if known != id {
                let what = format!("dot {dot} names write {} and write {}", known.0, id.0);
                let key = operation.key.clone();
                let operations = vec![first, number];
                found.push(Violation { check: Check::W5DotReuse, key, what, operations });
            }
        }
    }
    found
}
