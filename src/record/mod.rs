//! Records: everything replicated is one, and every record merges. Pure.
//!
//! # The idea
//!
//! The machinery of replication (quorums, hints, read repair, anti-entropy, streaming) knows three
//! things about data: a record [merges](Record::merge), has [bytes](Record::encode) and a
//! [digest](stored_digest). Merging is a semilattice join (law L1): order, grouping and repetition
//! change nothing, so any copy may be sent to anyone, late or twice. What a record *means* lives
//! in this module and is a special case nowhere else.
//!
//! # The kinds
//!
//! - **Siblings** keeps every value until a writer who has read it replaces it. It holds the set
//!   of all dots seen and the live values, each under its own dot. Merging keeps a value when both
//!   sides have it, or when the side that lacks it has not seen its dot. ([`crate::causality`]
//!   has the argument why this loses no write and keeps no superseded one.)
//! - **Lww** keeps the greatest write by (stamp, deletions first, greater bytes). Of two concurrent
//!   writes one is lost silently: that is what its user asked for. A write that meets another one
//!   where it is minted, or carries the context of a read that met it, is not concurrent with it:
//!   it wins.
//! - **Row** is a row of a CQL table: a map of cells, each of which keeps its greatest write
//!   ([`Row`]). Its writes are records already when they leave the coordinator; nothing is minted.
//!
//! # Writing
//!
//! A write becomes an event on one replica, under that record's lock: [`Record::mint`]. Everyone
//! else merges the record that came out of it. The caller must uphold law L2: the record is on
//! stable storage before its dot leaves the node; and L3: an actor that may have forgotten any of
//! its events mints no more. The second is checked as far as one record can show it
//! ([`MintError::DotReused`]).
//!
//! # Deletions and expiry
//!
//! A deletion is an event too. It leaves no value, only its dot in the seen set, so a record whose
//! values are all gone is a tombstone and may not be dropped for looking empty (law L4). An
//! expired value stays in the record, and its dot stays covered; [`Record::view`] does not show it.
//! Nothing here reads a clock: *now* is an argument, and a value's expiry is part of the value.
//!
//! # Fences
//!
//! A record remembers the highest *fence* that a write has brought ([`Record::raise_fence`]): the
//! number by which a writer shows that it holds a lock. Merging keeps the greater one, so that no
//! repair, hint or late copy lowers it, and a record with a fence never counts as dead: a purge
//! would forget the fence, and let a writer who has lost the lock long ago write again. The fence
//! only rises together with an event. Who is refused for it is judged inside a Paxos round, on the
//! newest state; judged by each replica alone, a refused write could live on one of them and be
//! repaired outwards.
//!
//! # One operation, minted twice
//!
//! A coordinator that times out on one minter may ask another. Then one operation X has two dots,
//! d1 and d2, and two equal values. A record remembers its newest 32 operations, so that most such
//! retries find the first outcome ([`Record::find_op`]); for the rest, a view shows an operation
//! once, under its smallest dot. And if a client supersedes d2, having been shown it, while d1 is
//! still on its way, then d1 must not reappear: the log tells that d2 was X and is dead, so the
//! view hides d1, and the next write that is minted buries it. This is done in views and in
//! minting, never in merging, which stays a plain join.
//!
//! Limits of this: 32 operations later the log has forgotten, and if d1 arrives only then, it shows
//! as a sibling: an old value too many, never one too few.
//!
//! # What a new kind needs
//!
//! A kind byte in [`RecordKind`], a body with merge, mint and check, a payload form in `codec`, a
//! view; and the law tests over it. Callers match on nothing but [`Record::kind`].

mod codec;
mod lww;
mod ops;
mod rows;
mod siblings;
#[cfg(test)]
mod tests;
mod value;
mod view;

use crate::causality::Context;
use crate::types::{ActorId, Dot, Hlc, OpId, WallMicros};

pub use codec::{RecordError, address, stored_digest, verify};
use lww::Lww;
use ops::OpLog;
pub use ops::{OP_LOG_LEN, OpEntry, OpMemory, OpVerdict};
pub use rows::{Cell, Column, Content, Expiry, Liveness, RangeDeletion, Row};
use siblings::Siblings;
pub use value::{Action, Mint, MintError, Minted, Mutation, Value, Version};
pub use view::{View, etag, version_etag};

/// The most values that minting lets a record grow to. A bucket's own bound (`max_siblings`) is
/// far lower; this one keeps a record from becoming a burden to its readers if that is set wildly.
pub const MAX_VALUES: usize = 4096;

/// How a record's concurrent writes meet.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum RecordKind {
    /// All are kept until a reader resolves them. Strong tables use this form too: there, no
    /// writes are concurrent.
    Siblings = 1,
    /// The last one wins.
    Lww = 2,
    /// A row of cells, each of which the last write wins.
    Row = 3,
}

impl RecordKind {
    fn from_byte(byte: u8) -> Result<Self, RecordError> {
        match byte {
            1 => Ok(Self::Siblings),
            2 => Ok(Self::Lww),
            3 => Ok(Self::Row),
            _ => Err(RecordError::Kind(byte)),
        }
    }
}

/// All that one replica knows about one key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    body: Body,
    /// The highest fence that a write has brought; 0: none.
    fence: u64,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Body {
    Siblings(Siblings),
    Lww(Lww),
    /// A row, and the conditional writes that a partition's head remembers.
    Row(Box<Row>, OpLog),
}

/// What a merge did.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Merged {
    /// This record is not what it was.
    pub changed: bool,
    /// The other one brought nothing new: this record held all of it already, or more.
    pub incoming_dominated: bool,
    /// Both were the same before.
    pub equal: bool,
    /// Last-write-wins only: the other's version has lost against a greater one that was here.
    pub outranked: bool,
    /// One dot named two different values: an actor has minted it twice (law L3 is broken
    /// somewhere), and the lesser value is lost. An alarm.
    pub dot_reused: Option<Dot>,
}

/// Two records of one key are of different kinds: of two generations of a table, or a wrong frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a {other:?} record cannot be merged into a {this:?} record")]
pub struct KindMismatch {
    /// The kind of the record merged into.
    pub this: RecordKind,
    /// The kind of the other.
    pub other: RecordKind,
}

impl Record {
    /// The record of a key that nobody has written: the least element.
    #[must_use]
    pub fn empty(kind: RecordKind) -> Self {
        let body = match kind {
            RecordKind::Siblings => Body::Siblings(Siblings::default()),
            RecordKind::Lww => Body::Lww(Lww::default()),
            RecordKind::Row => Body::Row(Box::default(), OpLog::default()),
        };
        Self { body, fence: 0 }
    }

    /// The highest fence that a write has brought; 0: none.
    #[must_use]
    pub fn fence(&self) -> u64 {
        self.fence
    }

    /// Takes note of the fence that a write has brought; a lower one changes nothing. Only beside
    /// an event of the same write, so that no two records differ under the same events.
    pub fn raise_fence(&mut self, fence: u64) {
        self.fence = self.fence.max(fence);
    }

    /// The record that a row is.
    #[must_use]
    pub fn of_row(row: Row) -> Self {
        Self { body: Body::Row(Box::new(row), OpLog::default()), fence: 0 }
    }

    /// Joins `row` into the row that this record is; nothing if it is none.
    pub fn merge_row(&mut self, row: &Row) {
        if let Body::Row(own, _) = &mut self.body {
            own.join(row);
        }
    }

    /// See [`Row::date_deletions`]; nothing if it is no row.
    pub fn date_deletions(&mut self, at: WallMicros) {
        if let Body::Row(own, _) = &mut self.body {
            own.date_deletions(at);
        }
    }

    /// The row that this record is, if it is one.
    #[must_use]
    pub fn row(&self) -> Option<&Row> {
        match &self.body {
            Body::Row(row, _) => Some(row),
            Body::Siblings(_) | Body::Lww(_) => None,
        }
    }

    /// The same, taken out of it.
    #[must_use]
    pub fn into_row(self) -> Option<Row> {
        match self.body {
            Body::Row(row, _) => Some(*row),
            Body::Siblings(_) | Body::Lww(_) => None,
        }
    }

    /// The kind.
    #[must_use]
    pub fn kind(&self) -> RecordKind {
        match self.body {
            Body::Siblings(_) => RecordKind::Siblings,
            Body::Lww(_) => RecordKind::Lww,
            Body::Row(..) => RecordKind::Row,
        }
    }

    /// True when nothing at all is known, not even a deletion.
    #[must_use]
    pub fn is_blank(&self) -> bool {
        match &self.body {
            Body::Siblings(siblings) => siblings.seen.is_empty(),
            Body::Lww(lww) => lww.cell.is_none() && lww.ops.is_empty(),
            Body::Row(row, ops) => row.is_blank() && ops.is_empty(),
        }
    }

    /// Makes `m` an event of this record. Only for a replica of the key, under the record's lock,
    /// from its own whole copy. On an error nothing has changed.
    ///
    /// A PUT removes exactly the values that its context covers and adds its own; a DELETE removes
    /// those that its context covers (a blind one removes nothing). In a last-write-wins record
    /// either replaces what is there, with a stamp above it and above what its writer has read.
    ///
    /// # Errors
    /// [`MintError`]: the dot cannot be new, or the record is full.
    pub fn mint(&mut self, m: Mutation, at: Mint) -> Result<Minted, MintError> {
        match &mut self.body {
            Body::Siblings(siblings) => siblings.mint(m, at),
            Body::Lww(lww) => lww.mint(m, at),
            Body::Row(..) => Err(MintError::NotMinted),
        }
    }

    /// Notes a verdict that changes no value: an operation that was refused, or barred. The dot is
    /// an event of its own, so that no two records differ under the same events.
    ///
    /// # Errors
    /// [`MintError::DotReused`].
    pub fn note(&mut self, entry: OpEntry) -> Result<(), MintError> {
        let known = self.max_counter(entry.dot.actor);
        if entry.dot.counter <= known {
            return Err(MintError::DotReused { dot: entry.dot, known });
        }
        match &mut self.body {
            Body::Siblings(siblings) => {
                siblings.seen.advance(entry.dot);
                siblings.ops.add(entry);
            }
            Body::Lww(lww) => {
                lww.ops.add(entry);
            }
            Body::Row(_, ops) => {
                ops.add(entry);
            }
        }
        Ok(())
    }

    /// Joins `other` in.
    ///
    /// # Errors
    /// [`KindMismatch`]; nothing has changed then.
    pub fn merge(&mut self, other: &Self) -> Result<Merged, KindMismatch> {
        let mut merged = match (&mut self.body, &other.body) {
            (Body::Siblings(this), Body::Siblings(other)) => this.merge(other),
            (Body::Lww(this), Body::Lww(other)) => this.merge(other),
            (Body::Row(this, ops), Body::Row(other, other_ops)) => {
                let equal = ops == other_ops;
                let remembers = ops.join(other_ops);
                let rows = this.merge(other);
                let changed = rows.changed || remembers;
                let (incoming_dominated, equal) = (!changed, rows.equal && equal);
                Merged { changed, incoming_dominated, equal, ..rows }
            }
            (Body::Siblings(_) | Body::Lww(_) | Body::Row(..), _) => {
                return Err(KindMismatch { this: self.kind(), other: other.kind() });
            }
        };
        if other.fence > self.fence {
            (merged.changed, merged.incoming_dominated) = (true, false);
        }
        merged.equal &= self.fence == other.fence;
        self.fence = self.fence.max(other.fence);
        Ok(merged)
    }

    /// What a client is shown at `now`.
    #[must_use]
    pub fn view(&self, now: WallMicros) -> View<'_> {
        let versions = match &self.body {
            Body::Siblings(siblings) => siblings.shown(now),
            Body::Lww(lww) => lww.shown(now).into_iter().collect(),
            // Rows have no versions: their own door reads them ([`Record::row`]).
            Body::Row(..) => Vec::new(),
        };
        let tombstone = versions.is_empty() && !self.is_blank();
        View { versions, context: self.context(), tombstone }
    }

    /// The values stored, shown or not, in no order.
    pub fn versions(&self) -> impl Iterator<Item = &Version> {
        let (many, one) = match &self.body {
            Body::Siblings(siblings) => (&siblings.values[..], None),
            Body::Lww(Lww { cell: Some(lww::LwwCell::Live(version)), .. }) => {
                (&[][..], Some(version))
            }
            // Rows have no versions: their own door reads them ([`Record::row`]).
            Body::Lww(_) | Body::Row(..) => (&[][..], None),
        };
        many.iter().chain(one)
    }

    /// All that the record has seen, as a client's context.
    #[must_use]
    pub fn context(&self) -> Context {
        match &self.body {
            Body::Siblings(siblings) => siblings.seen.clone().into(),
            // The stamp decides in this kind; the dot only names the write that was read.
            Body::Lww(lww) => lww.cell.iter().fold(Context::default(), |mut context, cell| {
                context.insert(cell.dot());
                context.meet(cell.stamp());
                context
            }),
            Body::Row(..) => Context::default(),
        }
    }

    /// What is known about operation `op`, which came with a request of digest `request`.
    #[must_use]
    pub fn find_op(&self, op: OpId, request: u64) -> OpMemory {
        self.ops().find(op, request)
    }

    /// The operations remembered, by (op, dot).
    #[must_use]
    pub fn op_entries(&self) -> &[OpEntry] {
        self.ops().entries()
    }

    fn ops(&self) -> &OpLog {
        match &self.body {
            Body::Siblings(siblings) => &siblings.ops,
            Body::Lww(lww) => &lww.ops,
            Body::Row(_, ops) => ops,
        }
    }

    /// Values stored, shown or not (expired ones and hidden twins included).
    #[must_use]
    pub fn value_count(&self) -> usize {
        match &self.body {
            Body::Siblings(siblings) => siblings.values.len(),
            Body::Lww(lww) => usize::from(matches!(lww.cell, Some(lww::LwwCell::Live(_)))),
            Body::Row(row, _) => row.value_count(),
        }
    }

    /// From when on nothing of the record lives: when its last value expires, or the newest of its
    /// writes if none is left. By the clocks of those who wrote, so good for waiting, and for
    /// nothing that must be right. `None`: it holds a value without expiry, or a fence.
    #[must_use]
    pub fn dead_at(&self) -> Option<WallMicros> {
        let of_value = |version: &Version| version.value.expires_at;
        let expiry = match &self.body {
            Body::Siblings(siblings) => siblings.values.iter().map(of_value).max(),
            Body::Lww(Lww { cell: Some(lww::LwwCell::Live(version)), .. }) => {
                Some(of_value(version))
            }
            Body::Row(row, _) => row.dead_at().map(Some),
            Body::Lww(_) => None,
        };
        let written = self.op_entries().iter().map(|entry| entry.op.unix_millis());
        let written = WallMicros(written.max().unwrap_or(0).saturating_mul(1_000));
        let written = written.max(WallMicros(self.max_stamp().0));
        match (expiry, self.lives_for_ever()) {
            _ if self.fence > 0 => None,
            (_, true) => None,
            (Some(Some(at)), false) => Some(at.max(written)),
            (_, false) => Some(written),
        }
    }

    /// For a planted bug: has every value that expires live on from `arrival` for as long as it had
    /// been given when it was written.
    #[cfg(feature = "sim")]
    pub fn live_on_from(&mut self, arrival: WallMicros) {
        let values: Vec<&mut Version> = match &mut self.body {
            Body::Siblings(siblings) => siblings.values.iter_mut().collect(),
            Body::Lww(Lww { cell: Some(lww::LwwCell::Live(version)), .. }) => vec![version],
            Body::Lww(_) | Body::Row(..) => Vec::new(),
        };
        for version in values {
            if let Some(at) = &mut version.value.expires_at {
                let ttl = at.0.saturating_sub(version.value.written_at.0);
                *at = WallMicros(arrival.0.saturating_add(ttl)).max(*at);
            }
        }
    }

    /// True when it holds a value without expiry.
    fn lives_for_ever(&self) -> bool {
        match &self.body {
            Body::Siblings(siblings) => {
                siblings.values.iter().any(|version| version.value.expires_at.is_none())
            }
            Body::Lww(Lww { cell: Some(lww::LwwCell::Live(version)), .. }) => {
                version.value.expires_at.is_none()
            }
            Body::Lww(_) => false,
            Body::Row(row, _) => row.dead_at().is_none(),
        }
    }

    /// The greatest stamp inside, for a hybrid clock to observe; zero for none.
    #[must_use]
    pub fn max_stamp(&self) -> Hlc {
        let stamp = match &self.body {
            Body::Siblings(s) => s.values.iter().map(|version| version.value.written_at).max(),
            Body::Lww(lww) => lww.cell.as_ref().map(lww::LwwCell::stamp),
            // Cells' stamps may be the clients' own: no clock follows them.
            Body::Row(..) => None,
        };
        stamp.unwrap_or_default()
    }

    /// The stamp of the version that operation `op` made, if the record still holds it.
    #[must_use]
    pub fn standing_stamp(&self, op: OpId) -> Option<Hlc> {
        match &self.body {
            Body::Siblings(s) => {
                let own = s.values.iter().filter(|version| version.op == op);
                own.map(|version| version.value.written_at).max()
            }
            Body::Lww(lww) => {
                lww.cell.as_ref().filter(|cell| cell.op() == op).map(lww::LwwCell::stamp)
            }
            Body::Row(..) => None,
        }
    }

    /// The greatest counter of `actor` known here; 0 for none. A replica that finds more of its
    /// own actor in a peer's record than in its own has forgotten something.
    #[must_use]
    pub fn max_counter(&self, actor: ActorId) -> u64 {
        match &self.body {
            Body::Siblings(siblings) => siblings.seen.max_counter(actor),
            Body::Lww(lww) => lww.max_counter(actor),
            Body::Row(_, ops) => {
                let own = ops.entries().iter().filter(|entry| entry.dot.actor == actor);
                own.map(|entry| entry.dot.counter).max().unwrap_or(0)
            }
        }
    }
}
