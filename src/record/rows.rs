//! The record that a row of cells is: CQL's data model.
//!
//! Every cell is a last-write-wins register of its own, ordered as Cassandra's are: by stamp, then
//! a deletion beats a value, then the greater bytes win. Stamps are microseconds that the
//! *coordinator* fixed (or the client), so a write is the same record wherever it goes: nothing is
//! minted, replicas only merge (rule 9 of law L1 is all there is).
//!
//! Three deletions cover cells by stamp: the row's (and where the row is the head of a partition,
//! the partition's), a collection's, and ranges of rows, which only a partition's head holds. A
//! cell with a stamp at or below that of a deletion over it in the same record is dropped: the
//! deletion stands for it. Since deletions only grow, dropping early or late gives the same record,
//! and merging stays a join. (What a head deletes in *other* records is dropped by nobody: readers
//! leave it out.)
//!
//! Expiry changes nothing here: an expired cell is a cell until somebody writes over it.
//!
//! A row notes when its latest deletion was made. Deletions are kept for a time that clients know of
//! (`gc_grace_seconds`), and a stamp, which a client may choose, does not tell how long ago that was.

mod wire;
mod without;

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::record::Merged;
use crate::types::WallMicros;

/// When a cell ends, and what its writer had asked for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Expiry {
    /// First instant at which it is gone; the same on all replicas.
    pub at: WallMicros,
    /// The time to live that was asked for, in seconds.
    pub ttl_s: u32,
}

/// A cell's content. A deletion is greater than any value.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Content {
    /// A value.
    Value {
        /// Its bytes.
        bytes: Bytes,
        /// When it ends, if ever.
        expiry: Option<Expiry>,
    },
    /// A deletion.
    Deleted,
}

/// A cell: of two, the greater one wins.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Cell {
    /// Microseconds, by whoever wrote it.
    pub stamp: i64,
    /// What it holds.
    pub content: Content,
}

impl Cell {
    /// The value at `now`.
    #[must_use]
    pub fn live(&self, now: WallMicros) -> Option<&Bytes> {
        match &self.content {
            Content::Value { expiry: Some(expiry), .. } if expiry.at <= now => None,
            Content::Value { bytes, .. } => Some(bytes),
            Content::Deleted => None,
        }
    }

    /// When it ends.
    #[must_use]
    pub fn expiry(&self) -> Option<Expiry> {
        match &self.content {
            Content::Value { expiry, .. } => *expiry,
            Content::Deleted => None,
        }
    }
}

/// That a row was inserted: it exists though all its cells be null.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Liveness {
    /// Microseconds.
    pub stamp: i64,
    /// When it ends, if ever.
    pub expiry: Option<Expiry>,
}

/// What a row holds of one column.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Column {
    /// One value.
    Cell(Cell),
    /// A value of elements.
    Elements {
        /// All elements up to this stamp are deleted.
        deleted: Option<i64>,
        /// The elements by path: a set's element, a map's key, a list's place, a field's number.
        cells: BTreeMap<Bytes, Cell>,
    },
}

/// Rows `start ≤ clustering < end` are deleted up to a stamp.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct RangeDeletion {
    /// First clustering bytes.
    pub start: Bytes,
    /// The clustering bytes after the last ones.
    pub end: Bytes,
    /// Microseconds.
    pub stamp: i64,
}

impl RangeDeletion {
    fn covers(&self, other: &Self) -> bool {
        self.stamp >= other.stamp && self.start <= other.start && self.end >= other.end
    }
}

/// A row, or the head of a partition: see the module.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Row {
    deleted: Option<i64>,
    liveness: Option<Liveness>,
    columns: BTreeMap<u16, Column>,
    /// None covers another; in order.
    ranges: Vec<RangeDeletion>,
    /// When the latest of its deletions was made; zero: they tell by their stamps.
    dated: WallMicros,
}

/// Raises `this` to `other`. True if it changed.
fn raise<T: PartialOrd + Clone>(this: &mut Option<T>, other: Option<&T>) -> bool {
    match (&this, other) {
        (_, None) => false,
        (Some(mine), Some(other)) if mine >= other => false,
        (_, Some(other)) => {
            *this = Some(other.clone());
            true
        }
    }
}

impl Row {
    /// All up to this stamp is deleted.
    #[must_use]
    pub fn deleted(&self) -> Option<i64> {
        self.deleted
    }

    /// Whether the row was inserted.
    #[must_use]
    pub fn liveness(&self) -> Option<Liveness> {
        self.liveness
    }

    /// What it holds of the column with this id.
    #[must_use]
    pub fn column(&self, id: u16) -> Option<&Column> {
        self.columns.get(&id)
    }

    /// Ranges deleted: only the head of a partition has any.
    #[must_use]
    pub fn ranges(&self) -> &[RangeDeletion] {
        &self.ranges
    }

    /// True when nothing at all is known.
    #[must_use]
    pub fn is_blank(&self) -> bool {
        *self == Self::default()
    }

    /// Deletes all up to `stamp`.
    pub fn delete(&mut self, stamp: i64) {
        if raise(&mut self.deleted, Some(&stamp)) {
            self.sweep();
        }
    }

    /// Says that the row was inserted.
    pub fn insert(&mut self, liveness: Liveness) {
        self.join_liveness(Some(&liveness));
    }

    /// Writes a cell.
    pub fn write(&mut self, column: u16, cell: Cell) {
        self.join_cell(column, &cell);
    }

    /// Writes an element.
    pub fn write_element(&mut self, column: u16, path: Bytes, cell: Cell) {
        self.join_element(column, &path, &cell);
    }

    /// Deletes all elements of a column up to `stamp`.
    pub fn delete_elements(&mut self, column: u16, stamp: i64) {
        self.join_elements_deleted(column, Some(&stamp));
    }

    /// Deletes a range of rows.
    pub fn delete_range(&mut self, range: RangeDeletion) {
        self.join_range(&range);
    }

    fn is_swept(&self, stamp: i64) -> bool {
        self.deleted.is_some_and(|deleted| stamp <= deleted)
    }

    /// Drops what the row's deletion covers.
    fn sweep(&mut self) {
        let Some(deleted) = self.deleted else { return };
        self.liveness = self.liveness.filter(|liveness| liveness.stamp > deleted);
        self.ranges.retain(|range| range.stamp > deleted);
        self.columns.retain(|_, column| match column {
            Column::Cell(cell) => cell.stamp > deleted,
            Column::Elements { deleted: own, cells } => {
                *own = own.filter(|own| *own > deleted);
                cells.retain(|_, cell| cell.stamp > deleted);
                own.is_some() || !cells.is_empty()
            }
        });
    }

    fn join_liveness(&mut self, other: Option<&Liveness>) -> bool {
        let other = other.filter(|other| !self.is_swept(other.stamp));
        raise(&mut self.liveness, other)
    }

    fn join_cell(&mut self, id: u16, cell: &Cell) -> bool {
        if self.is_swept(cell.stamp) {
            return false;
        }
        match self.columns.get_mut(&id) {
            Some(Column::Cell(mine)) if *mine >= *cell => false,
            // A column's type never changes, so its form does not: should peers differ, whoever
            // has elements wins, on all replicas alike.
            Some(Column::Elements { .. }) => false,
            Some(Column::Cell(mine)) => {
                *mine = cell.clone();
                true
            }
            None => {
                self.columns.insert(id, Column::Cell(cell.clone()));
                true
            }
        }
    }

    fn elements(&mut self, id: u16) -> (&mut Option<i64>, &mut BTreeMap<Bytes, Cell>) {
        let entry = self
            .columns
            .entry(id)
            .or_insert(Column::Elements { deleted: None, cells: BTreeMap::new() });
        if matches!(entry, Column::Cell(_)) {
            *entry = Column::Elements { deleted: None, cells: BTreeMap::new() };
        }
        match entry {
            Column::Elements { deleted, cells } => (deleted, cells),
            Column::Cell(_) => unreachable!("it was made elements just above"),
        }
    }

    fn join_elements_deleted(&mut self, id: u16, stamp: Option<&i64>) -> bool {
        let Some(stamp) = stamp.filter(|stamp| !self.is_swept(**stamp)) else { return false };
        let (deleted, cells) = self.elements(id);
        let changed = raise(deleted, Some(stamp));
        if changed {
            cells.retain(|_, cell| cell.stamp > *stamp);
        }
        changed
    }

    fn join_element(&mut self, id: u16, path: &Bytes, cell: &Cell) -> bool {
        if self.is_swept(cell.stamp) {
            return false;
        }
        let (deleted, cells) = self.elements(id);
        if deleted.is_some_and(|deleted| cell.stamp <= deleted) {
            return false;
        }
        match cells.get_mut(path) {
            Some(mine) if *mine >= *cell => false,
            Some(mine) => {
                *mine = cell.clone();
                true
            }
            None => {
                cells.insert(path.clone(), cell.clone());
                true
            }
        }
    }

    fn join_range(&mut self, range: &RangeDeletion) -> bool {
        let void = range.start >= range.end || self.is_swept(range.stamp);
        if void || self.ranges.iter().any(|mine| mine.covers(range)) {
            return false;
        }
        self.ranges.retain(|mine| !range.covers(mine));
        let at = self.ranges.partition_point(|mine| mine < range);
        self.ranges.insert(at, range.clone());
        true
    }

    /// Joins `other` in.
    pub fn join(&mut self, other: &Self) {
        self.merge(other);
    }

    /// Joins `other` in, and says what that did.
    pub(crate) fn merge(&mut self, other: &Self) -> Merged {
        if self == other {
            return Merged { equal: true, incoming_dominated: true, ..Merged::default() };
        }
        let mut changed = raise(&mut self.deleted, other.deleted.as_ref());
        if changed {
            self.sweep();
        }
        changed |= other.dated > self.dated;
        self.dated = self.dated.max(other.dated);
        changed |= self.join_liveness(other.liveness.as_ref());
        for (id, column) in &other.columns {
            match column {
                Column::Cell(cell) => changed |= self.join_cell(*id, cell),
                Column::Elements { deleted, cells } => {
                    changed |= self.join_elements_deleted(*id, deleted.as_ref());
                    for (path, cell) in cells {
                        changed |= self.join_element(*id, path, cell);
                    }
                }
            }
        }
        for range in &other.ranges {
            changed |= self.join_range(range);
        }
        Merged { changed, incoming_dominated: !changed, ..Merged::default() }
    }

    /// The greatest stamp inside, in microseconds; `None` of a blank row. A write that is to win
    /// over all that is here needs a greater one.
    #[must_use]
    pub fn max_stamp(&self) -> Option<i64> {
        let column = |column: &Column| match column {
            Column::Cell(cell) => Some(cell.stamp),
            Column::Elements { deleted, cells } => {
                cells.values().map(|cell| cell.stamp).max().max(*deleted)
            }
        };
        let columns = self.columns.values().filter_map(column).max();
        let ranges = self.ranges.iter().map(|range| range.stamp).max();
        columns.max(ranges).max(self.deleted).max(self.liveness.map(|liveness| liveness.stamp))
    }

    /// True if it deletes anything.
    #[must_use]
    pub fn deletes(&self) -> bool {
        let is_deletion = |cell: &Cell| cell.content == Content::Deleted;
        let column = |column: &Column| match column {
            Column::Cell(cell) => is_deletion(cell),
            Column::Elements { deleted, cells } => {
                deleted.is_some() || cells.values().any(is_deletion)
            }
        };
        self.deleted.is_some() || !self.ranges.is_empty() || self.columns.values().any(column)
    }

    /// Says when its deletions were made, by the clock of who made them: their stamps do not tell,
    /// if a client chose them.
    pub fn date_deletions(&mut self, at: WallMicros) {
        self.dated = self.dated.max(at);
    }

    /// The stamp up to which this head of a partition deletes the row at `clustering`.
    #[must_use]
    pub fn shadow(&self, clustering: &[u8]) -> Option<i64> {
        let covers = |range: &&RangeDeletion| {
            range.start.as_ref() <= clustering && clustering < range.end.as_ref()
        };
        let ranges = self.ranges.iter().filter(covers).map(|range| range.stamp);
        ranges.max().max(self.deleted)
    }

    /// From when on nothing of it lives: when its last value ends, or when it was deleted, if that is
    /// later. By the clocks of those who wrote, so good for waiting, and for nothing that must be
    /// right. `None`: a value lives for ever.
    #[must_use]
    pub fn dead_at(&self) -> Option<WallMicros> {
        let stamped = self.max_stamp().and_then(|stamp| u64::try_from(stamp).ok());
        let mut at = self.dated.max(WallMicros(stamped.unwrap_or(0)));
        if let Some(liveness) = self.liveness {
            at = at.max(liveness.expiry?.at);
        }
        for column in self.columns.values() {
            let (one, many) = match column {
                Column::Cell(cell) => (Some(cell), None),
                Column::Elements { cells, .. } => (None, Some(cells.values())),
            };
            for cell in one.into_iter().chain(many.into_iter().flatten()) {
                if matches!(cell.content, Content::Value { .. }) {
                    at = at.max(cell.expiry()?.at);
                }
            }
        }
        Some(at)
    }

    /// As [`Row::dead_at`], for the row at `clustering` of the partition with this head, whose
    /// deletions cover it though they are not in it.
    #[must_use]
    pub fn dead_under(&self, head: &Self, clustering: &[u8]) -> Option<WallMicros> {
        let mut row = self.clone();
        row.delete(head.shadow(clustering)?);
        row.date_deletions(head.dated);
        row.dead_at()
    }

    /// Values stored, expired ones included.
    pub(crate) fn value_count(&self) -> usize {
        let is_value = |cell: &&Cell| matches!(cell.content, Content::Value { .. });
        let count = |column: &Column| match column {
            Column::Cell(cell) => usize::from(is_value(&cell)),
            Column::Elements { cells, .. } => cells.values().filter(is_value).count(),
        };
        usize::from(self.liveness.is_some()) + self.columns.values().map(count).sum::<usize>()
    }
}

pub(crate) use wire::{put_row, read_row};

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::record::{Record, RecordKind};

    fn content() -> impl Strategy<Value = Content> {
        prop_oneof![
            3 => (0u8..3, prop::option::of(0u64..3)).prop_map(|(byte, at)| Content::Value {
                bytes: Bytes::from(vec![byte]),
                expiry: at.map(|at| Expiry { at: WallMicros(at), ttl_s: 1 }),
            }),
            1 => Just(Content::Deleted),
        ]
    }

    /// One thing that can be done to a row.
    #[derive(Clone, Debug)]
    enum Step {
        Delete(i64),
        Insert(i64),
        Write(u16, Cell),
        Element(u16, u8, Cell),
        Clear(u16, i64),
        Range(u8, u8, i64),
        Date(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let stamp = -2i64..4;
        let cell = || (-2i64..4, content()).prop_map(|(stamp, content)| Cell { stamp, content });
        prop_oneof![
            1 => stamp.clone().prop_map(Step::Delete),
            1 => stamp.clone().prop_map(Step::Insert),
            4 => (0u16..3, cell()).prop_map(|(id, cell)| Step::Write(id, cell)),
            4 => (3u16..5, 0u8..3, cell()).prop_map(|(id, path, cell)| Step::Element(id, path, cell)),
            1 => (3u16..5, stamp.clone()).prop_map(|(id, stamp)| Step::Clear(id, stamp)),
            2 => (0u8..4, 0u8..4, stamp).prop_map(|(a, b, stamp)| Step::Range(a, b, stamp)),
            1 => (0u64..4).prop_map(Step::Date),
        ]
    }

    fn carry_out(row: &mut Row, step: &Step) {
        match step.clone() {
            Step::Delete(stamp) => row.delete(stamp),
            Step::Insert(stamp) => row.insert(Liveness { stamp, expiry: None }),
            Step::Write(id, cell) => row.write(id, cell),
            Step::Element(id, path, cell) => row.write_element(id, Bytes::from(vec![path]), cell),
            Step::Clear(id, stamp) => row.delete_elements(id, stamp),
            Step::Range(a, b, stamp) => row.delete_range(RangeDeletion {
                start: Bytes::from(vec![a]),
                end: Bytes::from(vec![b]),
                stamp,
            }),
            Step::Date(at) => row.date_deletions(WallMicros(at)),
        }
    }

    fn row_of(steps: &[Step]) -> Row {
        let mut row = Row::default();
        steps.iter().for_each(|step| carry_out(&mut row, step));
        row
    }

    /// What the steps mean, by the book: no order, no merging, every step kept.
    fn by_the_book(steps: &[Step]) -> impl Fn(u16, Option<u8>) -> Option<Cell> {
        let steps = steps.to_vec();
        move |column, path| {
            let deleted = steps.iter().filter_map(|step| match step {
                Step::Delete(stamp) => Some(*stamp),
                Step::Clear(id, stamp) if *id == column => Some(*stamp),
                _ => None,
            });
            let deleted = deleted.max();
            let cells = steps.iter().filter_map(|step| match step {
                Step::Write(id, cell) if *id == column && path.is_none() => Some(cell),
                Step::Element(id, at, cell) if *id == column && path == Some(*at) => Some(cell),
                _ => None,
            });
            cells.filter(|cell| deleted.is_none_or(|d| cell.stamp > d)).max().cloned()
        }
    }

    fn rows() -> impl Strategy<Value = Row> {
        prop::collection::vec(step(), 0..8).prop_map(|steps| row_of(&steps))
    }

    fn merged(a: &Row, b: &Row) -> Row {
        let mut out = a.clone();
        let merged = out.merge(b);
        assert_eq!(merged.changed, out != *a);
        out
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        /// Law L1.
        #[test]
        fn merging_is_a_join(a in rows(), b in rows(), c in rows()) {
            prop_assert_eq!(merged(&a, &a), a.clone());
            prop_assert_eq!(merged(&a, &b), merged(&b, &a));
            prop_assert_eq!(merged(&merged(&a, &b), &c), merged(&a, &merged(&b, &c)));
            prop_assert_eq!(merged(&merged(&a, &b), &b), merged(&a, &b));
        }

        /// However the steps are spread over replicas, and in whatever order they are merged.
        #[test]
        fn any_spread_of_writes_ends_as_the_book_says(
            steps in prop::collection::vec((step(), 0usize..3), 0..12),
            backwards: bool,
        ) {
            let all: Vec<Step> = steps.iter().map(|(step, _)| step.clone()).collect();
            let mut replicas: Vec<Row> = (0..3)
                .map(|replica| {
                    let own: Vec<Step> =
                        steps.iter().filter(|(_, at)| *at == replica).map(|(s, _)| s.clone()).collect();
                    row_of(&own)
                })
                .collect();
            if backwards {
                replicas.reverse();
            }
            let whole = merged(&merged(&replicas[0], &replicas[1]), &replicas[2]);
            prop_assert_eq!(&whole, &row_of(&all));
            let book = by_the_book(&all);
            for id in 0..3 {
                let cell = match whole.column(id) {
                    Some(Column::Cell(cell)) => Some(cell.clone()),
                    _ => None,
                };
                prop_assert_eq!(cell, book(id, None));
            }
            for id in 3..5 {
                for path in 0..3 {
                    let cell = match whole.column(id) {
                        Some(Column::Elements { cells, .. }) => cells.get(&[path][..]).cloned(),
                        _ => None,
                    };
                    prop_assert_eq!(cell, book(id, Some(path)));
                }
            }
        }

        #[test]
        fn rows_read_back_and_other_bytes_do_not(row in rows(), at: prop::sample::Index, byte: u8) {
            let record = Record::of_row(row);
            let bytes = record.encode(b"place");
            prop_assert_eq!(Record::decode(&bytes, b"place"), Ok(record.clone()));
            prop_assert_eq!(record.kind(), RecordKind::Row);
            let payload = &bytes[26..];
            let mut changed = payload.to_vec();
            let at = at.index(changed.len());
            changed[at] = byte;
            let sealed = crate::record::codec::reseal(1, 3, &changed, b"place");
            if let Ok(other) = Record::decode(&sealed, b"place") {
                prop_assert_eq!(other.encode(b"place"), sealed, "one record, one form");
            }
        }
    }
}
