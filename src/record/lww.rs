//! The record that keeps one value: the last write wins.

use std::cmp::Ordering;

use crate::record::Merged;
use crate::record::ops::{OpEntry, OpLog, OpVerdict};
use crate::record::value::{Action, Mint, MintError, Minted, Mutation, Version};
use crate::types::{ActorId, Dot, Hlc, OpId, WallMicros};

/// The one write that won so far.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum LwwCell {
    /// A value; its stamp is its `written_at`.
    Live(Version),
    /// A deletion.
    Tombstone { stamp: Hlc, dot: Dot, op: OpId },
}

impl LwwCell {
    pub(crate) fn stamp(&self) -> Hlc {
        match self {
            Self::Live(version) => version.value.written_at,
            Self::Tombstone { stamp, .. } => *stamp,
        }
    }

    pub(crate) fn dot(&self) -> Dot {
        match self {
            Self::Live(version) => version.dot,
            Self::Tombstone { dot, .. } => *dot,
        }
    }

    pub(crate) fn op(&self) -> OpId {
        match self {
            Self::Live(version) => version.op,
            Self::Tombstone { op, .. } => *op,
        }
    }
}

impl Ord for LwwCell {
    /// Stamp; then a deletion beats a value; then the greater bytes: as Cassandra's cells. Then
    /// everything else, so that two cells compare equal only when they are.
    fn cmp(&self, other: &Self) -> Ordering {
        self.stamp().cmp(&other.stamp()).then_with(|| match (self, other) {
            (Self::Live(_), Self::Tombstone { .. }) => Ordering::Less,
            (Self::Tombstone { .. }, Self::Live(_)) => Ordering::Greater,
            (Self::Live(a), Self::Live(b)) => {
                a.value.body.cmp(&b.value.body).then_with(|| a.cmp(b))
            }
            (Self::Tombstone { dot, op, .. }, Self::Tombstone { dot: dot_b, op: op_b, .. }) => {
                (dot, op).cmp(&(dot_b, op_b))
            }
        })
    }
}

impl PartialOrd for LwwCell {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A last-write-wins register: merging keeps the greater cell.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Lww {
    /// None: nothing was ever written.
    pub(crate) cell: Option<LwwCell>,
    pub(crate) ops: OpLog,
}

impl Lww {
    pub(crate) fn shown(&self, now: WallMicros) -> Option<&Version> {
        match &self.cell {
            Some(LwwCell::Live(version)) if !version.value.expired(now) => Some(version),
            Some(LwwCell::Live(_) | LwwCell::Tombstone { .. }) | None => None,
        }
    }

    /// Every dot in the record, in no order.
    pub(crate) fn dots(&self) -> impl Iterator<Item = Dot> + '_ {
        let logged = self.ops.entries().iter().map(|entry| entry.dot);
        self.cell.iter().map(LwwCell::dot).chain(logged)
    }

    pub(crate) fn max_counter(&self, actor: ActorId) -> u64 {
        let own = self.dots().filter(|dot| dot.actor == actor);
        own.map(|dot| dot.counter).max().unwrap_or(0)
    }

    /// The dots of the context decide nothing here, stamps do. A write that comes after another
    /// one, because it meets it on this replica or because its writer has read it, must win over
    /// it; so it gets a stamp above both, whatever this replica's own clock says.
    pub(crate) fn mint(&mut self, m: Mutation, at: Mint) -> Result<Minted, MintError> {
        let known = self.max_counter(at.dot.actor);
        let known = known.max(m.context.seen().max_counter(at.dot.actor));
        if at.dot.counter <= known {
            return Err(MintError::DotReused { dot: at.dot, known });
        }
        let met = self.cell.as_ref().map_or(Hlc(0), LwwCell::stamp).max(m.context.stamp());
        let above = met.0.checked_add(1).ok_or(MintError::StampExhausted)?;
        let stamp = at.stamp.max(Hlc(above));
        let created = self.shown(at.now).is_none();
        let superseded = usize::from(matches!(self.cell, Some(LwwCell::Live(_))));
        let delete = matches!(m.action, Action::Delete);
        self.cell = Some(match m.action {
            Action::Put(mut value) => {
                value.written_at = stamp;
                LwwCell::Live(Version { dot: at.dot, op: m.op, value })
            }
            Action::Delete => LwwCell::Tombstone { stamp, dot: at.dot, op: m.op },
        });
        self.ops.add(OpEntry {
            op: m.op,
            dot: at.dot,
            request: m.request,
            created,
            delete,
            verdict: OpVerdict::Applied,
        });

        let mut writer_context = m.context;
        writer_context.insert(at.dot);
        writer_context.meet(stamp);
        let siblings = usize::from(self.shown(at.now).is_some());
        Ok(Minted { dot: at.dot, stamp, created, siblings, writer_context, superseded })
    }

    pub(crate) fn merge(&mut self, other: &Self) -> Merged {
        if self == other {
            return Merged { equal: true, incoming_dominated: true, ..Merged::default() };
        }
        let mut merged = Merged::default();
        if let (Some(a), Some(b)) = (&self.cell, &other.cell)
            && a.dot() == b.dot()
            && a != b
        {
            merged.dot_reused = Some(a.dot());
        }
        merged.outranked = other.cell.is_some() && other.cell < self.cell;
        if other.cell > self.cell {
            self.cell.clone_from(&other.cell);
            merged.changed = true;
        }
        merged.changed |= self.ops.join(&other.ops);
        merged.incoming_dominated = !merged.changed;
        merged
    }
}
