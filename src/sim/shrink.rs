//! Cutting a failing plan down to what still fails in the same way.
//!
//! Delta debugging (Zeller): leave out a part, run, keep the smaller plan if it still breaks the
//! *same* check; parts get smaller as that succeeds less. Faults first, as they are fewest and tell
//! most; then whole clients and keys; then single operations; then durations.

use std::time::Duration;

use crate::sim::check::Check;
use crate::sim::plan::Plan;
use crate::sim::run::run;

/// A budget of real time.
#[allow(clippy::disallowed_methods, reason = "bounds how long a person waits; outside of any run")]
fn clock() -> impl Fn() -> Duration {
    let begun = std::time::Instant::now();
    move || begun.elapsed()
}

/// The smallest plan found within about `limit` of real time that still breaks `check`.
#[must_use]
pub fn shrink(plan: Plan, check: Check, limit: Duration) -> Plan {
    let elapsed = clock();
    let fails = |plan: &Plan| run(plan.clone()).names(check);
    let mut best = plan;
    loop {
        let before = (best.faults.len(), best.script.len());
        best = shrink_list(best, &elapsed, limit, &fails, |plan| &mut plan.faults);
        best = shrink_groups(best, &elapsed, limit, &fails);
        best = shrink_list(best, &elapsed, limit, &fails, |plan| &mut plan.script);
        if (best.faults.len(), best.script.len()) == before || elapsed() > limit {
            break;
        }
    }
    for at in 0..best.faults.len() {
        let mut next = best.clone();
        next.faults[at].for_ms /= 2;
        if elapsed() < limit && fails(&next) {
            best = next;
        }
    }
    best
}

/// Leaves out all steps of one client, or on one key, at a time.
fn shrink_groups(
    mut best: Plan,
    elapsed: &impl Fn() -> Duration,
    limit: Duration,
    fails: &impl Fn(&Plan) -> bool,
) -> Plan {
    let mut clients: Vec<u32> = best.script.iter().map(|step| step.client).collect();
    clients.sort_unstable();
    clients.dedup();
    let mut keys: Vec<String> = best.script.iter().map(|step| step.key_name()).collect();
    keys.sort_unstable();
    keys.dedup();
    for key in keys {
        let mut next = best.clone();
        next.script.retain(|step| step.key_name() != key);
        if elapsed() < limit && fails(&next) {
            best = next;
        }
    }
    for client in clients {
        let mut next = best.clone();
        next.script.retain(|step| step.client != client);
        if elapsed() < limit && fails(&next) {
            best = next;
        }
    }
    best
}

/// Leaves out parts of a list: halves, then quarters, and so on.
fn shrink_list<T: Clone>(
    mut best: Plan,
    elapsed: &impl Fn() -> Duration,
    limit: Duration,
    fails: &impl Fn(&Plan) -> bool,
    list: impl Fn(&mut Plan) -> &mut Vec<T>,
) -> Plan {
    let mut part = list(&mut best).len().div_ceil(2);
    while part > 0 {
        let mut at = 0;
        while at < list(&mut best).len() {
            if elapsed() > limit {
                return best;
            }
            let mut next = best.clone();
            let items = list(&mut next);
            let end = (at + part).min(items.len());
            items.drain(at..end);
            if fails(&next) {
                best = next;
            } else {
                at = end;
            }
        }
        part = if part == 1 { 0 } else { part.div_ceil(2) };
    }
    best
}
