//! The record that keeps every concurrent value.

use crate::causality::CausalSet;
use crate::plants::{Plant, planted};
use crate::record::ops::{OpEntry, OpLog, OpVerdict};
use crate::record::value::{Action, Mint, MintError, Minted, Mutation, Version};
use crate::record::{MAX_VALUES, Merged};
use crate::types::{Dot, WallMicros};

/// A dotted causal container.
///
/// Invariants, walked by [`Siblings::check`]:
/// - `values` is strictly ascending by dot;
/// - every dot of `values` and of `ops` is in `seen`.
///
/// Read as a lattice element it is a map from dots to *live with this value* or *dead*: a dot in
/// `seen` that no value has is dead. Dead wins over live, and merging joins dot by dot.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Siblings {
    pub(crate) seen: CausalSet,
    pub(crate) values: Vec<Version>,
    pub(crate) ops: OpLog,
}

impl Siblings {
    /// The first broken invariant.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        if !self.values.is_sorted_by(|a, b| a.dot < b.dot) {
            return Err("values out of order");
        }
        if !self.values.iter().all(|version| self.seen.covers(version.dot)) {
            return Err("a value that was never seen");
        }
        if !self.ops.entries().iter().all(|entry| self.seen.covers(entry.dot)) {
            return Err("an operation that was never seen");
        }
        Ok(())
    }

    pub(crate) fn is_live(&self, dot: Dot) -> bool {
        self.values.binary_search_by_key(&dot, |version| version.dot).is_ok()
    }

    /// The versions that a client is shown at `now`, by dot. A function of the state alone, so
    /// that merging need not know of it.
    pub(crate) fn shown(&self, now: WallMicros) -> Vec<&Version> {
        let mut shown: Vec<&Version> = Vec::with_capacity(self.values.len());
        for version in &self.values {
            let hidden = version.value.expired(now)
                || shown.iter().any(|other| self.twins(other, version))
                || self.twin_is_dead(version);
            if !hidden {
                shown.push(version);
            }
        }
        shown
    }

    /// True when both are events of one operation.
    fn twins(&self, a: &Version, b: &Version) -> bool {
        a.op == b.op && self.ops.same_request(a.op, a.dot, b.dot)
    }

    /// True when the operation behind `version` was minted as another event too, and that event
    /// has been superseded. Whoever did that had read the operation's value; its twin here is that
    /// same value, and must not come back as a sibling.
    fn twin_is_dead(&self, version: &Version) -> bool {
        self.ops.of(version.op).any(|entry| {
            !entry.delete
                && entry.verdict == OpVerdict::Applied
                && entry.dot != version.dot
                && !self.is_live(entry.dot)
                && self.ops.same_request(version.op, version.dot, entry.dot)
        })
    }

    pub(crate) fn mint(&mut self, m: Mutation, at: Mint) -> Result<Minted, MintError> {
        let known = self.seen.max_counter(at.dot.actor);
        let known = known.max(m.context.seen().max_counter(at.dot.actor));
        if at.dot.counter <= known {
            return Err(MintError::DotReused { dot: at.dot, known });
        }
        let created = self.shown(at.now).is_empty();
        let survivors = self.survivors(&m);
        let superseded = self.values.len() - survivors.len();
        let delete = matches!(m.action, Action::Delete);
        if !delete && survivors.len() >= MAX_VALUES {
            return Err(MintError::TooManyValues { got: survivors.len(), max: MAX_VALUES });
        }

        self.values = survivors;
        self.seen.union(m.context.seen());
        self.seen.advance(at.dot);
        if let Action::Put(mut value) = m.action {
            value.written_at = at.stamp;
            let place = self.values.partition_point(|version| version.dot < at.dot);
            self.values.insert(place, Version { dot: at.dot, op: m.op, value });
        }
        self.ops.add(OpEntry {
            op: m.op,
            dot: at.dot,
            request: m.request,
            created,
            delete,
            verdict: OpVerdict::Applied,
        });
        debug_assert_eq!(self.check(), Ok(()));

        let mut writer_context = m.context;
        writer_context.insert(at.dot);
        let siblings = self.shown(at.now).len();
        Ok(Minted { dot: at.dot, stamp: at.stamp, created, siblings, writer_context, superseded })
    }

    /// The values that `m` leaves: those whose dot its context does not cover. The twins of a
    /// covered value go with it (its writer has read what they hold), and so does what is hidden
    /// because its twin was superseded before: the log that hides it is bounded, this is not.
    fn survivors(&self, m: &Mutation) -> Vec<Version> {
        if planted(Plant::P18) && matches!(m.action, Action::Put(_)) {
            return Vec::new();
        }
        let read: Vec<&Version> =
            self.values.iter().filter(|version| m.context.covers(version.dot)).collect();
        let superseded = |version: &&Version| {
            read.iter().any(|other| self.twins(other, version)) || self.twin_is_dead(version)
        };
        self.values.iter().filter(|version| !superseded(version)).cloned().collect()
    }

    pub(crate) fn merge(&mut self, other: &Self) -> Merged {
        if self == other {
            return Merged { equal: true, incoming_dominated: true, ..Merged::default() };
        }
        if planted(Plant::P19) {
            let weight = |side: &Self| side.seen.vector().iter().map(|entry| entry.1).sum::<u64>();
            let changed = weight(other) > weight(self);
            if changed {
                self.clone_from(other);
            }
            return Merged { changed, incoming_dominated: !changed, ..Merged::default() };
        }
        let mut merged = Merged::default();
        let mine = std::mem::take(&mut self.values);
        let mut values = Vec::with_capacity(mine.len().max(other.values.len()));
        let (mut mine, mut theirs) = (mine.into_iter().peekable(), other.values.iter().peekable());
        loop {
            let order = match (mine.peek(), theirs.peek()) {
                (Some(a), Some(b)) => a.dot.cmp(&b.dot),
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (None, None) => break,
            };
            // Exactly the sides that hold the smallest dot take a step.
            let a = if order.is_le() { mine.next() } else { None };
            let b = if order.is_ge() { theirs.next() } else { None };
            match (a, b) {
                (Some(a), None) if other.seen.covers(a.dot) => merged.changed = true,
                (Some(a), None) => values.push(a),
                (None, Some(b)) if self.seen.covers(b.dot) => {}
                (None, Some(b)) => {
                    merged.changed = true;
                    values.push(b.clone());
                }
                (Some(a), Some(b)) if a == *b => values.push(a),
                (Some(a), Some(b)) => {
                    merged.dot_reused = Some(a.dot);
                    merged.changed |= *b > a;
                    values.push(a.max(b.clone()));
                }
                (None, None) => {}
            }
        }
        self.values = values;
        merged.changed |= self.seen.union(&other.seen);
        merged.changed |= self.ops.join(&other.ops);
        merged.incoming_dominated = !merged.changed;
        debug_assert_eq!(self.check(), Ok(()));
        merged
    }
}
