//! W14: clients that write and read rows by CQL, below the socket.
//!
//! Two tables. `cells` is written blindly, under stamps that the clients choose, so that many writes
//! have the same: inserts, updates, static cells, elements of a map, lives that end, deletions of
//! cells, rows, ranges and whole partitions, batches. The checker (`sim::check`, rows) knows every
//! cell's order from the stamps alone. `pairs` is written under conditions only, in rows that hold
//! (v, −v), one or two of a partition at a time: what is read there is in the run's history, as
//! registers that are linearizable, and a pair that nobody wrote is an invented value.
//!
//! `counts` holds counters, to which small numbers are added, each once: what a read shows lies
//! between all that was acknowledged and all that was sent.
//!
//! A write of cells without an answer is sent again as it was: same stamp, same cells.

mod draw;
mod rower;

pub use rower::{create_tables, finale, run};

use std::collections::BTreeMap;

/// Partitions of `cells`.
pub const PARTITIONS: i32 = 3;
/// Rows of a partition of `cells`.
pub const ROWS: i32 = 4;
/// Keys of the map of a row.
pub const ELEMENTS: i32 = 3;

/// Counters.
pub const COUNTERS: i32 = 2;

/// What a row of `cells` has.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Cell {
    /// That it was inserted.
    Liveness,
    /// The static column (of no row).
    S,
    /// A column, which holds v.
    A,
    /// A column, which holds −v.
    B,
    /// An element of the map.
    M(i32),
}

/// What a statement does to one partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// A cell gets a value, or is deleted.
    Cell {
        /// Its row; none: it is static.
        row: Option<i32>,
        /// Which.
        cell: Cell,
        /// The value, if it is no deletion.
        value: Option<i32>,
    },
    /// All elements of the map up to a stamp are deleted; with `replaced`, one below the write's.
    Map {
        /// Of this row.
        row: i32,
        /// The write sets the map anew.
        replaced: bool,
    },
    /// Rows `from ≤ c < to` are deleted.
    Rows {
        /// First.
        from: i32,
        /// After the last.
        to: i32,
    },
    /// The partition is deleted.
    Partition,
}

/// How a write ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It was acknowledged at a quorum.
    Acknowledged,
    /// It was said not to have taken effect.
    NotApplied,
    /// Nothing is known.
    Unknown,
}

/// A statement or batch on one partition of `cells`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Write {
    /// The value that it writes, unique in the run.
    pub value: i32,
    /// The partition.
    pub partition: i32,
    /// Microseconds.
    pub stamp: i64,
    /// Seconds that its values live.
    pub ttl_s: Option<u32>,
    /// What it does.
    pub effects: Vec<Effect>,
    /// Place of its first sending in the order of all beginnings and ends.
    pub begun: u64,
    /// Place of the end of its last attempt.
    pub ended: u64,
    /// Virtual nanoseconds at its end.
    pub ended_at: u64,
    /// How it ended; `Unknown` until then.
    pub fate: Fate,
}

/// What a read showed of a row.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct ShownRow {
    /// Column a.
    pub a: Option<i32>,
    /// Column b.
    pub b: Option<i32>,
    /// The map.
    pub m: BTreeMap<i32, i32>,
}

/// A read at a quorum of a slice of `cells`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Read {
    /// The partition.
    pub partition: i32,
    /// First row asked for.
    pub from: i32,
    /// After the last.
    pub to: i32,
    /// Place of its beginning.
    pub begun: u64,
    /// Place of its end.
    pub ended: u64,
    /// Virtual nanoseconds at its beginning.
    pub begun_at: u64,
    /// It came when all had settled.
    pub last: bool,
    /// The static column, if the read shows whether there is one.
    pub statics: Option<Option<i32>>,
    /// The rows.
    pub rows: BTreeMap<i32, ShownRow>,
}

/// An increment of a counter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Increment {
    /// Which counter.
    pub key: i32,
    /// What was added.
    pub add: i64,
    /// Place of its beginning.
    pub begun: u64,
    /// Place of its end.
    pub ended: u64,
    /// How it ended; `Unknown` until then.
    pub fate: Fate,
}

/// A read of a counter at a quorum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CountRead {
    /// Which counter.
    pub key: i32,
    /// What it showed.
    pub value: i64,
    /// Place of its beginning.
    pub begun: u64,
    /// Place of its end.
    pub ended: u64,
}

/// Everything that was done to `cells` and `counts`.
#[derive(Clone, Debug, Default)]
pub struct RowLog {
    /// In order of their beginnings.
    pub writes: Vec<Write>,
    /// In order of their ends.
    pub reads: Vec<Read>,
    /// In order of their beginnings.
    pub increments: Vec<Increment>,
    /// In order of their ends.
    pub counts: Vec<CountRead>,
    marks: u64,
    values: i32,
}

impl RowLog {
    /// The next place in the order of beginnings and ends.
    pub fn mark(&mut self) -> u64 {
        self.marks += 1;
        self.marks
    }

    /// A value that no write has had.
    pub fn new_value(&mut self) -> i32 {
        self.values += 1;
        self.values
    }

    /// Operations so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.writes.len() + self.reads.len() + self.increments.len() + self.counts.len()
    }

    /// Operations that succeeded. (Of reads, only those are here.)
    #[must_use]
    pub fn succeeded(&self) -> usize {
        self.with_fate(Fate::Acknowledged) + self.reads.len() + self.counts.len()
    }

    /// Writes and increments that ended like this.
    #[must_use]
    pub fn with_fate(&self, fate: Fate) -> usize {
        self.writes.iter().filter(|write| write.fate == fate).count()
            + self.increments.iter().filter(|increment| increment.fate == fate).count()
    }

    /// True of a log of nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
