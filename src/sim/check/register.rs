//! W9, W10 and I18 on last-write-wins registers.
//!
//! Quorums overlap, reads repair before they answer, and a write is stamped above what a quorum
//! held when it was minted. So a write that began after another one was acknowledged at a quorum
//! wins over it, for ever. Write b is *before* write a when b was acknowledged before a began;
//! "nothing yet" is before every write.
//!
//! - W9: a process does not find its own acknowledged write, nor anything that may be later.
//! - W10: the same for the write of another process; or a read shows what is before the answer of
//!   a read that had ended before it began (I18, if that was another process's).
//! - W11: the same where what was missed is a deletion: a deleted value is shown.
//!
//! A write without an answer may be stamped again, later than it began, so nothing is concluded
//! from its end; from its beginning, everything is. Nor from the end of one that was acknowledged
//! at less than a quorum: a later write need not hear of it, nor of how far ahead the clock was that
//! stamped it.

use crate::sim::check::{Check, KeyHistory, Violation};
use crate::sim::history::{Action, Operation};

/// What a read found: a put's position, or nothing.
type Answer = Option<usize>;

fn answer(key: &KeyHistory<'_>, read: &Operation) -> Option<Answer> {
    let shown = read.shown()?;
    match shown.first() {
        None => Some(None),
        Some(first) => {
            first.value.as_ref().ok().and_then(|id| key.writes.get(id)).map(|at| Some(*at))
        }
    }
}

/// Everything that `found` can stand for was over before `newer` began.
fn is_before(key: &KeyHistory<'_>, read: &Operation, found: Answer, newer: usize) -> bool {
    let newer_write = key.operations[newer].1;
    let over = |write: &Operation| write.acked() && write.strong && write.before(newer_write);
    match found {
        Some(at) => over(key.operations[at].1),
        // Nothing is shown: some deletion that may be later than `newer`, or the beginning.
        None => !key.writes.values().map(|at| key.operations[*at].1).any(|write| {
            let deletes = matches!(write.action, Action::Delete { .. });
            deletes && write.may_have_happened() && !read.before(write) && !over(write)
        }),
    }
}

pub(super) fn check(key: &KeyHistory<'_>) -> Vec<Violation> {
    let mut found = Vec::new();
    let strong: Vec<(usize, &Operation)> = key
        .operations
        .iter()
        .enumerate()
        .filter(|(_, (_, operation))| operation.strong)
        .map(|(at, (_, operation))| (at, *operation))
        .collect();
    for &(read_at, read) in &strong {
        let Some(answer_now) = answer(key, read) else { continue };
        let earlier = strong.iter().filter(|(_, operation)| operation.before(read));
        let mut worst: Option<Violation> = None;
        for &(at, operation) in earlier {
            let breach = if operation.acked() {
                stale(key, (read_at, read), answer_now, (at, operation))
            } else {
                went_back(key, (read_at, read), answer_now, (at, operation))
            };
            // One breach per read is enough, and its own writes weigh most.
            worst = match (worst, breach) {
                (Some(a), Some(b)) if b.check < a.check => Some(b),
                (None, b) => b,
                (a, _) => a,
            };
        }
        found.extend(worst);
    }
    found
}

fn stale(
    key: &KeyHistory<'_>,
    (read_at, read): (usize, &Operation),
    found: Answer,
    (write_at, write): (usize, &Operation),
) -> Option<Violation> {
    if !is_before(key, read, found, write_at) {
        return None;
    }
    let deletes = matches!(write.action, Action::Delete { .. });
    let (check, whose) = match write.process == read.process {
        _ if deletes && found.is_some() => (Check::W11, "an"),
        true => (Check::W9, "its own process's"),
        false => (Check::W10, "another process's"),
    };
    let id = write.action.write_id().map_or(0, |id| id.0);
    let what = format!("a read shows what is older than {whose} acknowledged write {id}");
    let mut proof = vec![write_at, read_at];
    proof.extend(found);
    Some(key.breach(check, what, &proof))
}

fn went_back(
    key: &KeyHistory<'_>,
    (read_at, read): (usize, &Operation),
    found: Answer,
    (earlier_at, earlier): (usize, &Operation),
) -> Option<Violation> {
    let newer = answer(key, earlier)??;
    if !is_before(key, read, found, newer) {
        return None;
    }
    let check = if earlier.process == read.process { Check::W10 } else { Check::I18 };
    let id = key.operations[newer].1.action.write_id().map_or(0, |id| id.0);
    let what = format!("a read shows what is older than write {id}, which an earlier read showed");
    let mut proof = vec![earlier_at, read_at];
    proof.extend(found);
    Some(key.breach(check, what, &proof))
}
