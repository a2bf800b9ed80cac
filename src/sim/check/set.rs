//! W4: every acknowledged element is in every quorum read that begins later; one that was
//! acknowledged at less, or by nodes that stood in for replicas, in the last ones at least.

use crate::sim::check::{Check, KeyHistory, Violation};

pub(super) fn check(key: &KeyHistory<'_>) -> Vec<Violation> {
    let mut found = Vec::new();
    for &added_at in key.writes.values() {
        let added = key.operations[added_at].1;
        let Some(id) = added.action.write_id().filter(|_| added.acked()) else {
            continue;
        };
        let misses = |read: &crate::sim::history::Operation| {
            let shown = read.shown();
            shown.is_some_and(|shown| !shown.iter().any(|s| s.value == Ok(id)))
        };
        let mut later = key.operations.iter().enumerate().filter(|(_, (_, read))| {
            let meets = read.strong && (added.strong || read.last);
            meets && added.before(read) && read.shown().is_some()
        });
        let missing = later.find(|(_, (_, read))| misses(read));
        let Some((at, (_, read))) = missing else { continue };
        let recovered = later.any(|(_, (_, read))| !misses(read));
        let fate = match (recovered, read.last) {
            (true, _) => "was missing for a while (stale)",
            (false, true) => "is missing at the end (lost)",
            (false, false) => "is missing and did not come back (lost)",
        };
        let what = format!("element {} was acknowledged and {fate}", id.0);
        found.push(key.breach(Check::W4, what, &[added_at, at]));
    }
    found
}
