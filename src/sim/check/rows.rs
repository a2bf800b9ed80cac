//! W14: every cell of a row shows the greatest write that it must, or one that it may; and a write
//! that shows in one cell of a row shows in all of them, or is covered there by a greater one.
//!
//! Clients choose the stamps, so the order of all writes to a cell is known: by stamp; at one stamp
//! a value, then a deletion of the cell, then of what the cell lies in; of values the greater bytes.
//! A read *must* know what was acknowledged before it began, and what an earlier read has shown; it
//! *may* know all that was begun before it ended and not answered "did not happen".

use std::collections::BTreeSet;

use crate::sim::check::{Check, Violation};
use crate::sim::rows::{Cell, ELEMENTS, Effect, Fate, Increment, Read, RowLog, ShownRow, Write};

mod search;

/// How long after its end a value may still be shown: clocks are set wrong and run fast.
const SLACK_S: u64 = 30;

/// A place: a row (none: the head of its partition) and a cell.
type Place = (Option<i32>, Cell);

/// The order of writes to one cell: stamp, rank, bytes.
type Order = (i64, u8, [u8; 4]);

const VALUE: u8 = 0;
const DELETION: u8 = 1;
const COVER: u8 = 2;

/// What `write` does to a cell: of several effects the greatest.
fn order(write: &Write, place: Place) -> Option<Order> {
    let (row, cell) = place;
    let of = |effect: &Effect| match *effect {
        Effect::Cell { row: own, cell: which, value } if (own, which) == place => {
            Some(match value {
                Some(value) => (write.stamp, VALUE, value.to_be_bytes()),
                None => (write.stamp, DELETION, [0; 4]),
            })
        }
        Effect::Map { row: own, replaced } => (row == Some(own) && matches!(cell, Cell::M(_)))
            .then_some((write.stamp - i64::from(replaced), COVER, [0; 4])),
        Effect::Rows { from, to } => {
            row.is_some_and(|row| (from..to).contains(&row)).then_some((write.stamp, COVER, [0; 4]))
        }
        Effect::Partition => Some((write.stamp, COVER, [0; 4])),
        Effect::Cell { .. } => None,
    };
    write.effects.iter().filter_map(of).max()
}

/// The greatest of what must be known of a cell, and whose it is.
fn floor<'a>(must: impl Iterator<Item = &'a Write>, place: Place) -> Option<(Order, &'a Write)> {
    must.filter_map(|write| Some((order(write, place)?, write)))
        .max_by_key(|(order, write)| (*order, write.ttl_s.is_none()))
}

fn shown_at(row: Option<&ShownRow>, cell: Cell) -> Option<i32> {
    let row = row?;
    match cell {
        Cell::A => row.a,
        Cell::B => row.b,
        Cell::M(k) => row.m.get(&k).copied(),
        Cell::Liveness | Cell::S => None,
    }
}

fn cells_of(row: Option<i32>) -> Vec<Place> {
    if row.is_none() {
        return vec![(None, Cell::S)];
    }
    let map = (0..ELEMENTS).map(Cell::M);
    [Cell::A, Cell::B].into_iter().chain(map).map(|cell| (row, cell)).collect()
}

struct Judge<'a> {
    read: &'a Read,
    /// Names what an index has shown, in place of what a read has.
    by_index: bool,
    /// What it may know.
    may: Vec<&'a Write>,
    /// What it must know, as numbers of `may`.
    must: BTreeSet<usize>,
    found: Vec<Violation>,
}

/// Which rows were shown with which values, before.
type Seen = BTreeSet<(Option<i32>, i32)>;

/// That a read has shown a value in a row.
struct Sighting {
    ended: u64,
    partition: i32,
    row: Option<i32>,
    value: i32,
}

/// What had been shown before a read began.
fn seen_before(read: &Read, sightings: &[Sighting]) -> Seen {
    let earlier =
        sightings.iter().filter(|s| s.partition == read.partition && s.ended < read.begun);
    earlier.map(|sighting| (sighting.row, sighting.value)).collect()
}

/// W6: what a counter shows lies between the sum of what was acknowledged before and the sum of what
/// may have been counted.
fn counters(log: &RowLog) -> Vec<Violation> {
    let mut found = Vec::new();
    for read in &log.counts {
        let own = || log.increments.iter().filter(|increment| increment.key == read.key);
        let sum = |counts: &dyn Fn(&Increment) -> bool| -> i64 {
            own().filter(|increment| counts(increment)).map(|increment| increment.add).sum()
        };
        let least = sum(&|one| one.fate == Fate::Acknowledged && one.ended < read.begun);
        let most = sum(&|one| one.fate != Fate::NotApplied && one.begun < read.ended);
        if !(least..=most).contains(&read.value) {
            found.push(Violation {
                check: Check::W6,
                key: format!("counter {}", read.key),
                what: format!("it shows {}, not {least} to {most}", read.value),
                operations: Vec::new(),
            });
        }
    }
    found
}

/// Judges all reads.
#[must_use]
pub fn check(log: &RowLog) -> Vec<Violation> {
    let mut found = counters(log);
    let sightings = search::sightings(log);
    for read in &log.reads {
        found.extend(Judge::new(log, read, false).judged(&sightings));
    }
    found.extend(search::check(log, &sightings));
    found
}

/// The values in a row.
fn shown_in(c: i32, row: &ShownRow) -> impl Iterator<Item = (Option<i32>, i32)> {
    let cells = cells_of(Some(c)).into_iter();
    cells.filter_map(|(at, cell)| Some((at, shown_at(Some(row), cell)?.abs())))
}

/// The values in each row of a read.
fn shown_by(read: &Read) -> impl Iterator<Item = (Option<i32>, i32)> {
    let rows = read.rows.iter().flat_map(|(c, row)| shown_in(*c, row));
    rows.chain(read.statics.flatten().map(|value| (None, value)))
}

impl<'a> Judge<'a> {
    fn new(log: &'a RowLog, read: &'a Read, by_index: bool) -> Self {
        let may = |write: &&Write| {
            write.partition == read.partition
                && write.fate != Fate::NotApplied
                && write.begun < read.ended
        };
        let may: Vec<&Write> = log.writes.iter().filter(may).collect();
        let acknowledged =
            |write: &Write| write.fate == Fate::Acknowledged && write.ended < read.begun;
        let must = (0..may.len()).filter(|&n| acknowledged(may[n])).collect();
        Self { read, by_index, may, must, found: Vec::new() }
    }

    fn judged(mut self, sightings: &[Sighting]) -> Vec<Violation> {
        if !self.read.in_order {
            let rows = self.read.from..self.read.to;
            self.breach(Check::W14, format!("rows {rows:?} come in another order, or twice"));
        }
        let is_strange = |c: &i32| !(self.read.from..self.read.to).contains(c);
        if self.read.rows.keys().any(is_strange) {
            self.breach(Check::W14, format!("{:?} shows rows that were not asked for", self.read));
        }
        self.all(&seen_before(self.read, sightings));
        self.found
    }

    fn breach(&mut self, check: Check, what: String) {
        let (check, what) = match self.by_index {
            true => (Check::W19, format!("{what}, by an index")),
            false => (check, what),
        };
        let key = format!("cells {}", self.read.partition);
        self.found.push(Violation { check, key, what, operations: Vec::new() });
    }

    /// Of what may be known, the writes of these values.
    fn writers(&self, seen: &Seen, row: Option<i32>, whole: bool) -> BTreeSet<usize> {
        let values: BTreeSet<i32> =
            seen.iter().filter(|(own, _)| whole || *own == row).map(|(_, value)| *value).collect();
        (0..self.may.len()).filter(|&n| values.contains(&self.may[n].value)).collect()
    }

    fn all(&mut self, seen: &Seen) {
        let here: Seen = shown_by(self.read).collect();
        let rows = (self.read.from..self.read.to).map(Some);
        let head = self.read.statics.map(|_| None);
        let places: Vec<Option<i32>> = rows.chain(head).collect();
        // Once all has settled, a batch has reached all rows of its partition.
        let must: Vec<BTreeSet<usize>> = places
            .iter()
            .map(|&row| {
                let mut must = self.writers(seen, row, false);
                must.extend(self.writers(&here, row, self.read.last));
                must.extend(&self.must);
                must
            })
            .collect();
        for (row, must) in places.into_iter().zip(must) {
            self.row(row, &must);
        }
    }

    fn row(&mut self, row: Option<i32>, must: &BTreeSet<usize>) {
        let read = self.read;
        let shown = row.and_then(|c| read.rows.get(&c));
        for place in cells_of(row) {
            let value = match place {
                (None, _) => read.statics.flatten(),
                (_, cell) => shown_at(shown, cell),
            };
            let known = must.iter().map(|&n| self.may[n]);
            let floor = floor(known, place);
            match value {
                Some(value) => self.value(place, value, floor.map(|(order, _)| order)),
                None => self.nothing(place, floor),
            }
        }
        if row.is_some() && shown.is_none() {
            let known = must.iter().map(|&n| self.may[n]);
            self.nothing((row, Cell::Liveness), floor(known, (row, Cell::Liveness)));
        }
    }

    /// A cell shows `value`.
    fn value(&mut self, place: Place, value: i32, floor: Option<Order>) {
        let writer = self.may.iter().find(|write| {
            write.value == value.abs()
                && order(write, place)
                    .is_some_and(|(_, rank, bytes)| rank == VALUE && bytes == value.to_be_bytes())
        });
        let Some(&writer) = writer else {
            let what = format!("{place:?} shows {value}, which nobody may have written there");
            return self.breach(Check::W14, what);
        };
        let own = order(writer, place);
        if own < floor {
            let what = format!("{place:?} shows {value} {own:?}, below {floor:?}: torn, or lost");
            self.breach(Check::W14, what);
        }
        let gone = writer
            .ttl_s
            .map(|ttl| writer.ended_at.saturating_add((u64::from(ttl) + SLACK_S) * 1_000_000_000));
        if gone.is_some_and(|gone| gone < self.read.begun_at) {
            let what = format!("{place:?} shows {value}, whose life has ended");
            self.breach(Check::W11, what);
        }
    }

    /// A cell shows nothing.
    fn nothing(&mut self, place: Place, floor: Option<(Order, &Write)>) {
        let Some((floor, writer)) = floor.filter(|((_, rank, _), _)| *rank == VALUE) else {
            return;
        };
        let hides = |write: &&Write| {
            order(write, place)
                .is_some_and(|order| order >= floor && (order.1 != VALUE || write.ttl_s.is_some()))
        };
        if !self.may.iter().any(hides) {
            let what = format!(
                "{place:?} shows nothing, where write {} {floor:?} must be seen",
                writer.value
            );
            self.breach(Check::W14, what);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn write(log: &mut RowLog, stamp: i64, effects: &[Effect], fate: Fate) -> i32 {
        let (value, begun) = (log.new_value(), log.mark());
        let ended = log.mark();
        let effects = effects.to_vec();
        let (partition, ttl_s, ended_at) = (0, None, 0);
        log.writes.push(Write {
            value,
            partition,
            stamp,
            ttl_s,
            effects,
            begun,
            ended,
            ended_at,
            fate,
        });
        value
    }

    fn pair(value: i32) -> [Effect; 2] {
        [(Cell::A, value), (Cell::B, -value)].map(|(cell, value)| Effect::Cell {
            row: Some(0),
            cell,
            value: Some(value),
        })
    }

    fn read(log: &mut RowLog, a: Option<i32>, b: Option<i32>) -> Vec<Check> {
        let begun = log.mark();
        let ended = log.mark();
        let mut rows = BTreeMap::new();
        if a.or(b).is_some() {
            rows.insert(0, ShownRow { a, b, m: BTreeMap::new() });
        }
        let (partition, from, to, begun_at, last) = (0, 0, 1, u64::MAX, false);
        let (statics, in_order) = (None, true);
        let shown =
            Read { partition, from, to, begun, ended, begun_at, last, statics, rows, in_order };
        log.reads.push(shown);
        let found = check(log).into_iter().map(|violation| violation.check).collect();
        log.reads.pop();
        found
    }

    #[test]
    fn the_greatest_write_shows_and_ties_go_cell_by_cell() {
        let mut log = RowLog::default();
        write(&mut log, 5, &pair(1), Fate::Acknowledged);
        assert_eq!(read(&mut log, Some(1), Some(-1)), []);
        write(&mut log, 5, &pair(2), Fate::Acknowledged);
        assert_eq!(read(&mut log, Some(2), Some(-1)), [], "the greater bytes of each");
        assert_eq!(read(&mut log, Some(2), Some(-2)), [Check::W14]);
        assert_eq!(read(&mut log, Some(1), Some(-1)), [Check::W14]);
        assert_eq!(read(&mut log, None, None), [Check::W14, Check::W14]);
        assert_eq!(read(&mut log, Some(7), Some(-1)), [Check::W14]);
    }

    #[test]
    fn a_write_without_an_answer_shows_whole_or_not_at_all() {
        let mut log = RowLog::default();
        write(&mut log, 5, &pair(1), Fate::Acknowledged);
        write(&mut log, 6, &pair(2), Fate::Unknown);
        assert_eq!(read(&mut log, Some(1), Some(-1)), []);
        assert_eq!(read(&mut log, Some(2), Some(-2)), []);
        assert_eq!(read(&mut log, Some(2), Some(-1)), [Check::W14]);
        log.writes[1].fate = Fate::NotApplied;
        assert!(read(&mut log, Some(2), Some(-2)).contains(&Check::W14));
    }

    #[test]
    fn deletions_hide_what_they_cover_and_nothing_else() {
        let mut log = RowLog::default();
        write(&mut log, 5, &pair(1), Fate::Acknowledged);
        write(&mut log, 5, &[Effect::Rows { from: 0, to: 1 }], Fate::Acknowledged);
        assert_eq!(read(&mut log, None, None), []);
        assert_eq!(read(&mut log, Some(1), Some(-1)), [Check::W14, Check::W14]);
        write(&mut log, 6, &pair(3), Fate::Acknowledged);
        assert_eq!(read(&mut log, Some(3), Some(-3)), []);
        assert_eq!(read(&mut log, None, None), [Check::W14, Check::W14]);
    }

    #[test]
    fn what_one_read_has_shown_the_next_one_shows_too() {
        let mut log = RowLog::default();
        write(&mut log, 5, &pair(1), Fate::Unknown);
        assert_eq!(read(&mut log, Some(1), Some(-1)), []);
        let (begun, ended) = (log.mark(), log.mark());
        let rows = [(0, ShownRow { a: Some(1), b: Some(-1), m: BTreeMap::new() })].into();
        let (partition, from, to, begun_at, last, statics) = (0, 0, 1, 0, false, None);
        let in_order = true;
        let shown =
            Read { partition, from, to, begun, ended, begun_at, last, statics, rows, in_order };
        log.reads.push(shown);
        assert_eq!(read(&mut log, None, None), [Check::W14, Check::W14]);
        assert_eq!(check(&log), []);
        // Pages that overlap, and a slice that is too long.
        log.reads[0].in_order = false;
        assert_eq!(check(&log)[0].check, Check::W14);
        (log.reads[0].in_order, log.reads[0].to) = (true, 0);
        assert_eq!(check(&log)[0].check, Check::W14);
    }

    #[test]
    fn rows_in_another_order_are_named() {
        let mut log = RowLog::default();
        assert_eq!(read(&mut log, None, None), []);
        let (begun, ended, rows) = (log.mark(), log.mark(), BTreeMap::new());
        let (partition, from, to, begun_at, last, statics) = (0, 0, 1, 0, false, None);
        let in_order = false;
        let shown =
            Read { partition, from, to, begun, ended, begun_at, last, statics, rows, in_order };
        log.reads.push(shown);
        assert!(matches!(&check(&log)[..], [Violation { check: Check::W14, .. }]));
    }

    #[test]
    fn a_counter_shows_what_was_acknowledged_and_no_more_than_was_sent() {
        let mut log = RowLog::default();
        for (add, fate) in [(1, Fate::Acknowledged), (2, Fate::Unknown), (4, Fate::NotApplied)] {
            let (begun, ended) = (log.mark(), log.mark());
            log.increments.push(Increment { key: 0, add, begun, ended, fate });
        }
        for (value, ok) in [(0, false), (1, true), (3, true), (4, false), (5, false)] {
            let (begun, ended) = (log.mark(), log.mark());
            log.counts = vec![crate::sim::rows::CountRead { key: 0, value, begun, ended }];
            assert_eq!(check(&log).is_empty(), ok, "{value}");
        }
    }

    #[test]
    fn a_value_shown_long_after_its_life_is_named() {
        let mut log = RowLog::default();
        write(&mut log, 5, &pair(1), Fate::Acknowledged);
        log.writes[0].ttl_s = Some(2);
        assert_eq!(read(&mut log, Some(1), Some(-1)), [Check::W11, Check::W11]);
        assert_eq!(read(&mut log, None, None), []);
    }
}
