//! W5: siblings are exactly those that the causal history allows; and I18, W9 on such keys.
//!
//! Each write w has *past(w)*: the writes that its client had read when it got the context that w
//! carried, and their pasts. Such a write supersedes its past and nothing else. Two pasts are
//! kept. *Must*: what w has to supersede. *May*: what it could supersede; the two differ only for
//! a deletion without a context, which deletes what a quorum read shows inside the server, so it
//! may cover any write that began before it ended.
//!
//! - Lost (1): an acknowledged write that nothing may have superseded is missing at the end.
//! - False sibling (2): a quorum read shows w though an acknowledged write before the read must
//!   have superseded it.
//!   (W11, resurrection, if that write was a deletion.)
//! - Backwards (4): a quorum read neither shows nor covers a write that had been acknowledged at
//!   a quorum, or shown to its own process (W5.4) or any other (I18), before it began.
//! - Bound (6): one read shows w and a write that must have superseded it. Correct siblings are an
//!   antichain, so there are never more than clients with stale contexts.

use std::collections::BTreeMap;

use super::bits::Bits;
use crate::sim::check::{Check, KeyHistory, Violation};
use crate::sim::history::{Action, Operation, WriteId};

/// Pasts of all writes of a key, by their positions among the key's operations.
struct Pasts {
    must: Vec<Option<Bits>>,
    may: Vec<Option<Bits>>,
}

impl Pasts {
    /// Contexts name only writes that began earlier, so one pass in order of calls is enough.
    fn new(key: &KeyHistory<'_>) -> Self {
        let count = key.operations.len();
        let mut pasts = Self { must: vec![None; count], may: vec![None; count] };
        for (at, (_, write)) in key.operations.iter().enumerate() {
            let seen = match &write.action {
                Action::Read | Action::Cas { .. } => continue,
                Action::Put { seen, .. } => Some(seen),
                Action::Delete { seen, .. } => seen.as_ref(),
            };
            let seen = seen.map_or(&[][..], Vec::as_slice);
            let (mut must, mut may) = (Bits::new(count), Bits::new(count));
            for past in seen.iter().filter_map(|id| key.writes.get(id).copied()) {
                must.insert(past);
                may.insert(past);
                if let (Some(its_must), Some(its_may)) = (&pasts.must[past], &pasts.may[past]) {
                    must.union(its_must);
                    may.union(its_may);
                }
            }
            if matches!(write.action, Action::Delete { seen: None, .. }) {
                for (other_at, (_, other)) in key.operations.iter().enumerate() {
                    if other_at != at && other.action.write_id().is_some() && !write.before(other) {
                        may.insert(other_at);
                    }
                }
            }
            (pasts.must[at], pasts.may[at]) = (Some(must), Some(may));
        }
        pasts
    }

    fn must_supersede(&self, newer: usize, older: usize) -> bool {
        self.must[newer].as_ref().is_some_and(|past| past.contains(older))
    }

    fn may_supersede(&self, newer: usize, older: usize) -> bool {
        self.may[newer].as_ref().is_some_and(|past| past.contains(older))
    }
}

fn is_put(operation: &Operation) -> bool {
    matches!(operation.action, Action::Put { .. })
}

/// Positions of the writes that a read showed.
fn shown_at(key: &KeyHistory<'_>, read: &Operation) -> Vec<usize> {
    let ids = read.shown().unwrap_or_default().iter().filter_map(|s| s.value.as_ref().ok());
    ids.filter_map(|id: &WriteId| key.writes.get(id).copied()).collect()
}

pub(super) fn check(key: &KeyHistory<'_>) -> Vec<Violation> {
    let pasts = Pasts::new(key);
    let mut found = lost(key, &pasts);
    found.extend(false_siblings(key, &pasts));
    found.extend(backwards(key, &pasts));
    found
}

fn lost(key: &KeyHistory<'_>, pasts: &Pasts) -> Vec<Violation> {
    let mut found = Vec::new();
    let last_reads = key
        .operations
        .iter()
        .enumerate()
        .filter(|(_, (_, read))| read.last && read.strong && read.shown().is_some());
    for (read_at, (_, read)) in last_reads {
        let shown = shown_at(key, read);
        for &at in key.writes.values() {
            let write = key.operations[at].1;
            let expected = write.acked() && is_put(write) && write.before(read);
            if !expected || shown.contains(&at) {
                continue;
            }
            let excused = key.writes.values().any(|&newer| {
                key.operations[newer].1.may_have_happened() && pasts.may_supersede(newer, at)
            });
            if !excused {
                let id = write.action.write_id().map_or(0, |id| id.0);
                let what = format!(
                    "write {id} was acknowledged, nothing superseded it, and it is gone at the end"
                );
                found.push(key.breach(Check::W5Lost, what, &[at, read_at]));
            }
        }
    }
    found
}

fn false_siblings(key: &KeyHistory<'_>, pasts: &Pasts) -> Vec<Violation> {
    let mut found = Vec::new();
    for (read_at, (_, read)) in key.operations.iter().enumerate() {
        let shown = shown_at(key, read);
        for &older in &shown {
            let id = key.operations[older].1.action.write_id().map_or(0, |id| id.0);
            if let Some(&newer) = shown.iter().find(|&&newer| pasts.must_supersede(newer, older)) {
                let what = format!("a read shows write {id} together with one that superseded it");
                found.push(key.breach(Check::W5Bound, what, &[older, newer, read_at]));
                continue;
            }
            let newer = key.writes.values().find(|&&newer| {
                let write = key.operations[newer].1;
                let settled = write.acked() && write.strong && read.strong && write.before(read);
                settled && pasts.must_supersede(newer, older)
            });
            if let Some(&newer) = newer {
                let (check, fate) = match is_put(key.operations[newer].1) {
                    true => (Check::W5FalseSibling, "superseded"),
                    false => (Check::W11, "deleted"),
                };
                let what = format!("write {id} is shown although it was {fate}");
                found.push(key.breach(check, what, &[older, newer, read_at]));
            }
        }
    }
    found
}

/// What must be shown or covered from some moment on, and by whom it was learnt.
struct Known {
    all: Bits,
    by_process: BTreeMap<u32, Bits>,
    acknowledged: Bits,
    own_writes: BTreeMap<u32, Bits>,
}

fn backwards(key: &KeyHistory<'_>, pasts: &Pasts) -> Vec<Violation> {
    let count = key.operations.len();
    let mut known = Known {
        all: Bits::new(count),
        by_process: BTreeMap::new(),
        acknowledged: Bits::new(count),
        own_writes: BTreeMap::new(),
    };
    // (when, ends first at equal times, position): ends teach, beginnings take a snapshot.
    let mut events: Vec<(u64, bool, usize)> = Vec::new();
    for (at, (_, operation)) in key.operations.iter().enumerate().filter(|(_, (_, o))| o.strong) {
        if let Some(ret) = operation.ret {
            events.push((ret.i, false, at));
        }
        if operation.shown().is_some() {
            events.push((operation.call.i, true, at));
        }
    }
    events.sort_unstable();
    let mut found = Vec::new();
    for (_, begins, at) in events {
        let operation = key.operations[at].1;
        if begins {
            found.extend(judge(key, pasts, &known, at));
            continue;
        }
        for write in shown_at(key, operation) {
            known.all.insert(write);
            let own = known.by_process.entry(operation.process);
            own.or_insert_with(|| Bits::new(count)).insert(write);
        }
        if operation.acked() && is_put(operation) {
            known.acknowledged.insert(at);
            let own = known.own_writes.entry(operation.process);
            own.or_insert_with(|| Bits::new(count)).insert(at);
        }
    }
    found
}

/// At most one breach per read: the gravest.
fn judge(key: &KeyHistory<'_>, pasts: &Pasts, known: &Known, read_at: usize) -> Option<Violation> {
    let read = key.operations[read_at].1;
    let mut covered = Bits::new(key.operations.len());
    let deletes = key.writes.values().copied().filter(|&at| {
        let write = key.operations[at].1;
        !is_put(write) && write.may_have_happened() && !read.before(write)
    });
    for newer in shown_at(key, read).into_iter().chain(deletes) {
        covered.insert(newer);
        if let Some(past) = &pasts.may[newer] {
            covered.union(past);
        }
    }
    let own_reads = known.by_process.get(&read.process);
    let own_writes = known.own_writes.get(&read.process);
    let causes = [
        (own_writes, Check::W9, "its own process had been told that it is stored"),
        (Some(&known.acknowledged), Check::W5Backwards, "it had been acknowledged before"),
        (own_reads, Check::W5Backwards, "its own process had read it before"),
        (Some(&known.all), Check::I18, "an earlier read had shown it"),
    ];
    causes.into_iter().find_map(|(known, check, why)| {
        let missing = known?.first_beyond(&covered)?;
        let id = key.operations[missing].1.action.write_id().map_or(0, |id| id.0);
        let what = format!("a read neither shows nor covers write {id}, although {why}");
        Some(key.breach(check, what, &[missing, read_at]))
    })
}
