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
//! Half of the reads of a slice of `cells` go against the clustering order.
//!
//! A write of cells without an answer is sent again as it was: same stamp, same cells.
//!
//! Two columns of `cells` are indexed: `a` from the beginning, the values of `m` by an index that is
//! dropped and made anew in the run. What an index finds is judged like any read, and what it does
//! not find must not have to be there.
//!
//! `twins` is written by logged batches: some rows in as many partitions, which have one number of
//! their own, and nothing else ever happens to them. In the end all of a batch are there or none.

mod draw;
mod rower;
mod search;

pub use rower::{create_tables, finale, run};

use std::collections::{BTreeMap, BTreeSet};

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
    /// They came in the order that was asked for, each once.
    pub in_order: bool,
}

/// Which rows of `cells` an index is asked for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Wanted {
    /// Those with this value in column a.
    A(i32),
    /// Those with this value in their map.
    M(i32),
}

/// What an index has found at a quorum.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Search {
    /// What it was asked for.
    pub wanted: Wanted,
    /// Place of its beginning.
    pub begun: u64,
    /// Place of its end.
    pub ended: u64,
    /// Virtual nanoseconds at its beginning.
    pub begun_at: u64,
    /// It came when all had settled.
    pub last: bool,
    /// The rows, by partition and c.
    pub rows: BTreeMap<(i32, i32), ShownRow>,
    /// Some row was shown more than once.
    pub twice: bool,
}

/// A logged batch of rows of `twins`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Twins {
    /// The number that its rows hold; unique in the run.
    pub number: i32,
    /// Its partitions.
    pub partitions: BTreeSet<i32>,
    /// Place of its beginning.
    pub begun: u64,
    /// Place of its end.
    pub ended: u64,
    /// How it ended; `Unknown` until then.
    pub fate: Fate,
}

/// A read at a quorum of the rows of `twins` that hold a number.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TwinsRead {
    /// The number.
    pub number: i32,
    /// An index was asked; else the whole table was read.
    pub by_index: bool,
    /// Place of its beginning.
    pub begun: u64,
    /// Place of its end.
    pub ended: u64,
    /// It came when all had settled.
    pub last: bool,
    /// The partitions shown.
    pub partitions: BTreeSet<i32>,
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
    /// In order of their ends.
    pub searches: Vec<Search>,
    /// In order of their beginnings.
    pub twins: Vec<Twins>,
    /// In order of their ends.
    pub twins_reads: Vec<TwinsRead>,
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
        let written = self.writes.len() + self.increments.len() + self.twins.len();
        written + self.shown()
    }

    /// Reads that succeeded: no others are here.
    fn shown(&self) -> usize {
        self.reads.len() + self.counts.len() + self.searches.len() + self.twins_reads.len()
    }

    /// Operations that succeeded.
    #[must_use]
    pub fn succeeded(&self) -> usize {
        self.with_fate(Fate::Acknowledged) + self.shown()
    }

    /// Writes, increments and logged batches that ended like this.
    #[must_use]
    pub fn with_fate(&self, fate: Fate) -> usize {
        let writes = self.writes.iter().map(|write| write.fate);
        let increments = self.increments.iter().map(|increment| increment.fate);
        let twins = self.twins.iter().map(|twins| twins.fate);
        writes.chain(increments).chain(twins).filter(|own| *own == fate).count()
    }

    /// True of a log of nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
