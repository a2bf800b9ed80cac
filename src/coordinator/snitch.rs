//! Which replica to read from, and when to ask one more: by how each has answered this coordinator
//! of late. Pure: time is told to it.
//!
//! - **Order.** A replica's *cost* is the running mean of its answer times, and more with each
//!   answer that it owes. A replica that was asked and has said nothing since counts with the time
//!   of that silence, if that is longer: so one that stands still is passed over from its first
//!   unanswered read on, long before the failure detector is sure of it. What is known is forgotten
//!   by halves, so that a replica that was slow is tried again.
//! - **Hedges.** A read that has waited for a replica for longer than 99 in 100 of its answers took
//!   asks the next one too. Hedges make work when there is too much of it already; so they have a
//!   budget, a tenth of the reads. One that goes around a replica which answers nothing at all is
//!   free: the silent one is doing no work.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::net::LatencyTracker;
use crate::types::{Mono, NodeId};

/// A hedge never fires sooner than this: below it, the second request costs more than it saves.
const MIN_HEDGE: Duration = Duration::from_millis(2);

/// Nor later than this, however slow a replica has been.
const MAX_HEDGE: Duration = Duration::from_millis(500);

/// What is assumed of a replica that has not answered often enough yet.
const UNKNOWN: Duration = Duration::from_millis(20);

/// A replica that says for this long nothing, though it was asked, counts as standing still.
const SILENT: Duration = Duration::from_millis(200);

/// A replica that has not been asked for this long is tried again, silent or not.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// The mean of a replica that gives no answers counts half after this long, and so on.
const HALF_LIFE: Duration = Duration::from_secs(10);

/// What an answer "too much to do" adds to the time that it took: others are asked for a while.
const BUSY: Duration = Duration::from_millis(20);

/// Tenths of a hedge that each read adds to the budget.
const SHARE: u32 = 1;

/// Tenths of a hedge that the budget holds at most.
const MAX_BUDGET: u32 = 10 * 256;

/// The longest answer time that is told apart: a minute.
const MAX_US: u64 = 60_000_000;

/// How one replica has been answering.
#[derive(Clone, Copy, Debug)]
struct View {
    /// Running mean; of nothing: zero, so that everybody is tried.
    mean_us: u64,
    /// When that last changed.
    changed: Mono,
    /// Reads that it owes an answer.
    owes: u32,
    asked: Mono,
    /// The first time that it was asked since its last answer.
    silent_since: Option<Mono>,
}

impl View {
    fn new(now: Mono) -> Self {
        Self { mean_us: 0, changed: now, owes: 0, asked: now, silent_since: None }
    }

    fn mean_us(&self, now: Mono) -> u64 {
        let halvings = now.since(self.changed).as_nanos() / HALF_LIFE.as_nanos();
        self.mean_us >> halvings.min(63)
    }

    fn took(&mut self, now: Mono, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).min(MAX_US);
        let mean = self.mean_us(now);
        self.mean_us = if mean == 0 { us } else { (mean * 7 + us) / 8 };
        self.changed = now;
    }

    fn silence(&self, now: Mono) -> Duration {
        match self.silent_since {
            Some(since) if now.since(self.asked) < ASK_AGAIN => now.since(since),
            _ => Duration::ZERO,
        }
    }
}

/// What this coordinator knows of all replicas. Each call takes a lock for a few nanoseconds.
#[derive(Debug, Default)]
pub(super) struct Snitch {
    state: Mutex<State>,
    answers: LatencyTracker,
}

#[derive(Debug, Default)]
struct State {
    nodes: BTreeMap<NodeId, View>,
    /// In tenths of a hedge.
    budget: u32,
}

/// How a read that was sent to a replica has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// With an answer.
    Answered,
    /// It has too much to do.
    Busy,
    /// With nothing, or with an answer that says nothing of its speed: a node that refuses all must
    /// not look like the best one to ask.
    Refused,
    /// Nothing was sent; or it was lost, and [`Snitch::missed`] has told so.
    NotSent,
    /// No answer came in time, or nobody waited for it any longer.
    Unanswered,
}

impl Snitch {
    /// A read begins: it pays for a part of a hedge.
    pub(super) fn begin_read(&self) {
        let mut state = self.lock();
        state.budget = (state.budget + SHARE).min(MAX_BUDGET);
    }

    /// `node` is being asked. [`Snitch::end`] must follow.
    pub(super) fn ask(&self, now: Mono, node: NodeId) {
        let mut state = self.lock();
        let view = state.nodes.entry(node).or_insert_with(|| View::new(now));
        view.owes += 1;
        if view.silence(now).is_zero() {
            view.silent_since = Some(now);
        }
        view.asked = now;
    }

    /// What `node` was asked `took` ago has come to its end.
    pub(super) fn end(&self, now: Mono, node: NodeId, took: Duration, end: End) {
        if end == End::Answered {
            self.answers.record(node, took);
        }
        let mut state = self.lock();
        let view = state.nodes.entry(node).or_insert_with(|| View::new(now));
        view.owes = view.owes.saturating_sub(1);
        match end {
            End::Answered => view.took(now, took),
            End::Busy => view.took(now, took + BUSY),
            // It would have taken at least this long.
            End::Unanswered if took.as_micros() > u128::from(view.mean_us(now)) => {
                view.took(now, took);
            }
            End::Unanswered | End::Refused | End::NotSent => {}
        }
        if matches!(end, End::Answered | End::Busy | End::Refused) {
            view.silent_since = None;
        }
    }

    /// `node` has not answered something else than a read for so long: it would not answer a read
    /// any sooner.
    pub(super) fn missed(&self, now: Mono, node: NodeId, took: Duration) {
        let mut state = self.lock();
        state.nodes.entry(node).or_insert_with(|| View::new(now)).took(now, took);
    }

    /// `node` has answered something else than a read.
    pub(super) fn heard(&self, node: NodeId) {
        if let Some(view) = self.lock().nodes.get_mut(&node) {
            view.silent_since = None;
        }
    }

    /// What asking `node` costs, in steps of a power of two so that small differences do not
    /// reorder replicas from one read to the next.
    pub(super) fn cost(&self, now: Mono, node: NodeId) -> Duration {
        let state = self.lock();
        let Some(view) = state.nodes.get(&node) else { return Duration::ZERO };
        let silence = u64::try_from(view.silence(now).as_micros()).unwrap_or(u64::MAX).min(MAX_US);
        let us = view.mean_us(now).max(silence) * (4 + u64::from(view.owes)) / 4;
        Duration::from_micros(us.next_power_of_two())
    }

    /// How long to wait for `node` before another replica is asked too.
    pub(super) fn hedge_after(&self, node: NodeId) -> Duration {
        self.answers.p99(node).unwrap_or(UNKNOWN).clamp(MIN_HEDGE, MAX_HEDGE)
    }

    /// Whether another replica may be asked because `late` ones have not answered; takes what that
    /// costs from the budget, unless all of them stand still.
    pub(super) fn may_hedge(&self, now: Mono, late: impl IntoIterator<Item = NodeId>) -> bool {
        let mut state = self.lock();
        let is_silent =
            |node: NodeId| state.nodes.get(&node).is_some_and(|view| view.silence(now) >= SILENT);
        if late.into_iter().all(is_silent) {
            return true;
        }
        let affordable = state.budget >= 10;
        if affordable {
            state.budget -= 10;
        }
        affordable
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);
    const MS: Duration = Duration::from_millis(1);

    fn at(ms: u64) -> Mono {
        Mono(ms * 1_000_000)
    }

    /// `count` reads of `node`, one per millisecond from `ms` on, each of which takes `took`.
    fn reads(snitch: &Snitch, node: NodeId, ms: u64, count: u64, took: Duration) {
        for step in 0..count {
            snitch.begin_read();
            snitch.ask(at(ms + step), node);
            snitch.end(at(ms + step) + took, node, took, End::Answered);
        }
    }

    #[test]
    fn the_faster_replica_costs_less_and_a_small_difference_is_none() {
        let snitch = Snitch::default();
        reads(&snitch, A, 0, 50, MS);
        reads(&snitch, B, 0, 50, 4 * MS);
        assert!(snitch.cost(at(60), A) < snitch.cost(at(60), B));
        reads(&snitch, B, 60, 50, MS + MS / 50);
        assert_eq!(snitch.cost(at(110), A), snitch.cost(at(110), B));
    }

    #[test]
    fn what_a_replica_owes_makes_it_dearer() {
        let snitch = Snitch::default();
        reads(&snitch, A, 0, 50, MS);
        let idle = snitch.cost(at(50), A);
        (0..8).for_each(|_| snitch.ask(at(50), A));
        assert!(snitch.cost(at(50), A) >= idle * 2);
    }

    #[test]
    fn a_replica_that_stands_still_is_passed_over_after_its_first_unanswered_read() {
        let snitch = Snitch::default();
        reads(&snitch, A, 0, 50, MS);
        reads(&snitch, B, 0, 50, MS);
        snitch.ask(at(60), A);
        // The hedge is answered, and nobody waits for A.
        snitch.end(at(64), A, 4 * MS, End::Unanswered);
        assert!(snitch.cost(at(64), A) > snitch.cost(at(64), B));
        assert!(snitch.cost(at(500), A) > snitch.cost(at(500), B) * 100);
        // It is tried again once a second, and an answer of any kind ends the suspicion.
        assert!(snitch.cost(at(1_100), A) <= snitch.cost(at(1_100), B) * 2);
        snitch.ask(at(1_100), A);
        snitch.heard(A);
        assert!(snitch.cost(at(1_400), A) <= snitch.cost(at(1_400), B) * 2);
    }

    #[test]
    fn one_that_was_slow_is_forgotten_by_halves() {
        let snitch = Snitch::default();
        reads(&snitch, A, 0, 50, 64 * MS);
        let slow = snitch.cost(at(50), A);
        assert!(snitch.cost(at(100_000), A) < slow / 100);
    }

    #[test]
    fn hedges_wait_for_the_99th_percentile_of_the_replica() {
        let snitch = Snitch::default();
        assert_eq!(snitch.hedge_after(A), UNKNOWN);
        reads(&snitch, A, 0, 500, 8 * MS);
        let wait = snitch.hedge_after(A);
        assert!(wait >= 8 * MS && wait <= 10 * MS, "{wait:?}");
        // Reads that bring no answer do not move it: they would let hedges wait for ever longer.
        for step in 0..500 {
            snitch.ask(at(600 + step), A);
            snitch.end(at(600 + step), A, 5_000 * MS, End::Unanswered);
        }
        assert_eq!(snitch.hedge_after(A), wait);
    }

    #[test]
    fn hedges_are_a_tenth_of_the_reads_but_free_around_one_that_answers_nothing() {
        let snitch = Snitch::default();
        reads(&snitch, A, 0, 1_000, MS);
        snitch.ask(at(1_000), A);
        let hedges = (0..1_000).filter(|_| snitch.may_hedge(at(1_001), [A])).count();
        assert_eq!(hedges, 100);
        assert!(snitch.may_hedge(at(1_000) + SILENT, [A]));
        assert!(!snitch.may_hedge(at(1_000) + SILENT, [A, B]), "B may be slow, not still");
    }

    #[test]
    fn a_replica_that_sheds_is_asked_less() {
        let snitch = Snitch::default();
        reads(&snitch, A, 0, 50, MS);
        reads(&snitch, B, 0, 50, MS);
        snitch.ask(at(60), A);
        snitch.end(at(60), A, MS / 10, End::Busy);
        assert!(snitch.cost(at(61), A) > snitch.cost(at(61), B));
    }
}
