//! W19: an index shows a row if, and only if, a read would; W20: of a logged batch all is written in
//! the end, or nothing.
//!
//! A row that an index shows is judged as one that a read of it alone shows. One that it does not show
//! must not have to be there: the greatest write that must be known of the cell is another one, or
//! something greater may be known.

use std::collections::BTreeMap;

use super::{Cell, ELEMENTS, Fate, Judge, Read, RowLog, Sighting, VALUE, floor, order};
use super::{seen_before, shown_at, shown_by, shown_in};
use crate::sim::check::{Check, Violation};
use crate::sim::rows::{PARTITIONS, ROWS, Search, TwinsRead, Wanted};

/// All that reads of `cells` have shown.
pub(super) fn sightings(log: &RowLog) -> Vec<Sighting> {
    let reads = log.reads.iter().flat_map(|read| {
        let (ended, partition) = (read.ended, read.partition);
        shown_by(read).map(move |(row, value)| Sighting { ended, partition, row, value })
    });
    let searches = log.searches.iter().flat_map(|search| {
        let ended = search.ended;
        search.rows.iter().flat_map(move |(&(partition, c), row)| {
            shown_in(c, row).map(move |(row, value)| Sighting { ended, partition, row, value })
        })
    });
    reads.chain(searches).collect()
}

fn breach(check: Check, key: &str, what: String) -> Violation {
    Violation { check, key: key.to_owned(), what, operations: Vec::new() }
}

/// Judges what indexes have shown, and logged batches.
pub(super) fn check(log: &RowLog, sightings: &[Sighting]) -> Vec<Violation> {
    let mut found = Vec::new();
    for search in &log.searches {
        if search.twice {
            let what = format!("{:?} shows a row twice", search.wanted);
            found.push(breach(Check::W19, "cells", what));
        }
        if search.rows.keys().any(|(p, c)| !(0..PARTITIONS).contains(p) || !(0..ROWS).contains(c)) {
            let what = format!("{:?} shows rows that nobody wrote", search.wanted);
            found.push(breach(Check::W19, "cells", what));
        }
        for partition in 0..PARTITIONS {
            for c in 0..ROWS {
                found.extend(row(log, search, (partition, c), sightings));
            }
        }
    }
    found.extend(log.twins_reads.iter().flat_map(|read| twins(log, read)));
    found
}

/// Judges one row, shown or not.
fn row(
    log: &RowLog,
    search: &Search,
    (partition, c): (i32, i32),
    sightings: &[Sighting],
) -> Vec<Violation> {
    let Search { begun, ended, begun_at, last, .. } = *search;
    let shown = search.rows.get(&(partition, c));
    let rows: BTreeMap<_, _> = shown.map(|row| (c, row.clone())).into_iter().collect();
    let (from, to, statics, in_order) = (c, c + 1, None, true);
    let read = Read { partition, from, to, begun, ended, begun_at, last, statics, rows, in_order };
    let mut judge = Judge::new(log, &read, true);
    let (value, cells) = match search.wanted {
        Wanted::A(value) => (value, vec![Cell::A]),
        Wanted::M(value) => (value, (0..ELEMENTS).map(Cell::M).collect()),
    };
    if let Some(row) = shown {
        if !cells.iter().any(|cell| shown_at(Some(row), *cell) == Some(value)) {
            judge.breach(Check::W19, format!("row {c} is shown for {:?}", search.wanted));
        }
        return judge.judged(sightings);
    }
    let seen = seen_before(&read, sightings);
    let mut must = judge.writers(&seen, Some(c), false);
    must.extend(&judge.must);
    for cell in cells {
        let place = (Some(c), cell);
        let known = must.iter().map(|&n| judge.may[n]);
        let Some((least, writer)) = floor(known, place) else { continue };
        if (least.1, least.2) != (VALUE, value.to_be_bytes()) || writer.ttl_s.is_some() {
            continue;
        }
        let hides = |own| own > least;
        if !judge.may.iter().any(|write| order(write, place).is_some_and(hides)) {
            judge.breach(Check::W19, format!("{place:?} of write {value} is not found"));
        }
    }
    judge.found
}

/// Judges a read of the rows of one number.
fn twins(log: &RowLog, read: &TwinsRead) -> Vec<Violation> {
    let key = format!("twins {}", read.number);
    let check = if read.by_index { Check::W19 } else { Check::W20 };
    let Some(written) = log.twins.iter().find(|twins| twins.number == read.number) else {
        return vec![breach(check, &key, "nobody wrote it".to_owned())];
    };
    let mut found = Vec::new();
    if !read.partitions.is_subset(&written.partitions) {
        let what = format!("{:?} is shown of {:?}", read.partitions, written.partitions);
        found.push(breach(check, &key, what));
    }
    if written.fate == Fate::NotApplied && !read.partitions.is_empty() {
        let what = format!("{:?} is shown, and was said not to be written", read.partitions);
        found.push(breach(Check::W20, &key, what));
    }
    let part = || format!("{:?} is shown of {:?}", read.partitions, written.partitions);
    let is_whole = read.partitions == written.partitions;
    if written.fate == Fate::Acknowledged && written.ended < read.begun && !is_whole {
        found.push(breach(check, &key, format!("{}, which was acknowledged", part())));
    }
    let earlier = |other: &&TwinsRead| other.number == read.number && other.ended < read.begun;
    let seen = log.twins_reads.iter().filter(earlier).flat_map(|other| &other.partitions);
    if let Some(lost) = seen.into_iter().find(|p| !read.partitions.contains(p)) {
        found.push(breach(check, &key, format!("{}, and not {lost}, as before", part())));
    }
    if read.last && !read.partitions.is_empty() && !is_whole {
        found.push(breach(check, &key, format!("{} in the end", part())));
    }
    found
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::sim::check::rows::check;
    use crate::sim::rows::{Effect, ShownRow, Twins, Write};

    /// Acknowledged writes of row (0, 0): `a` is the value's number.
    fn log(stamps: &[i64]) -> RowLog {
        let mut log = RowLog::default();
        for &stamp in stamps {
            let (value, begun, ended) = (log.new_value(), log.mark(), log.mark());
            let cell = |cell, value| Effect::Cell { row: Some(0), cell, value: Some(value) };
            log.writes.push(Write {
                value,
                partition: 0,
                stamp,
                ttl_s: None,
                effects: vec![cell(Cell::A, value), cell(Cell::M(1), value)],
                begun,
                ended,
                ended_at: 0,
                fate: Fate::Acknowledged,
            });
        }
        log
    }

    fn found(log: &mut RowLog, wanted: Wanted, shows: Option<i32>) -> Vec<Check> {
        let (begun, ended) = (log.mark(), log.mark());
        let shown = |v| ((0, 0), ShownRow { a: Some(v), b: None, m: [(1, v)].into() });
        let rows = shows.map(shown).into_iter().collect();
        let (begun_at, last, twice) = (0, false, false);
        log.searches.push(Search { wanted, begun, ended, begun_at, last, rows, twice });
        let found = check(log).into_iter().map(|violation| violation.check).collect();
        log.searches.pop();
        found
    }

    #[test]
    fn an_index_shows_what_must_be_there_and_nothing_that_is_covered() {
        let mut log = log(&[5, 6]);
        for wanted in [Wanted::A, Wanted::M] {
            assert_eq!(found(&mut log, wanted(2), Some(2)), []);
            assert_eq!(found(&mut log, wanted(2), None), [Check::W19]);
            assert_eq!(found(&mut log, wanted(1), None), []);
            assert!(found(&mut log, wanted(1), Some(1)).contains(&Check::W19));
            assert!(found(&mut log, wanted(7), Some(2)).contains(&Check::W19));
        }
        log.writes[1].fate = Fate::Unknown;
        assert_eq!(found(&mut log, Wanted::A(2), None), []);
        assert_eq!(found(&mut log, Wanted::A(1), None), [], "write 2 may cover it");
        assert_eq!(found(&mut log, Wanted::A(2), Some(2)), []);
        log.writes[1].fate = Fate::NotApplied;
        assert_eq!(found(&mut log, Wanted::A(1), None), [Check::W19]);
    }

    fn twins(fate: Fate, reads: &[(bool, bool, &[i32])]) -> Vec<Check> {
        let mut log = RowLog::default();
        let (number, begun, ended) = (log.new_value(), log.mark(), log.mark());
        let partitions = BTreeSet::from([8, 9]);
        log.twins.push(Twins { number, partitions, begun, ended, fate });
        for (by_index, last, shown) in reads {
            let (begun, ended) = (log.mark(), log.mark());
            let (by_index, last) = (*by_index, *last);
            let partitions = shown.iter().copied().collect();
            log.twins_reads.push(TwinsRead { number, by_index, begun, ended, last, partitions });
        }
        check(&log).into_iter().map(|violation| violation.check).collect()
    }

    #[test]
    fn of_a_logged_batch_all_shows_in_the_end_or_nothing() {
        let (index, table) = (true, false);
        assert_eq!(twins(Fate::Unknown, &[(index, false, &[8]), (table, true, &[8, 9])]), []);
        assert_eq!(twins(Fate::Unknown, &[(table, true, &[])]), []);
        assert_eq!(twins(Fate::Unknown, &[(table, true, &[9])]), [Check::W20]);
        assert_eq!(twins(Fate::NotApplied, &[(table, true, &[8, 9])]), [Check::W20]);
        assert_eq!(twins(Fate::Unknown, &[(index, false, &[8]), (table, true, &[])]), [Check::W20]);
    }

    #[test]
    fn what_was_acknowledged_of_a_batch_an_index_finds_at_once() {
        assert_eq!(twins(Fate::Acknowledged, &[(true, false, &[8, 9])]), []);
        assert_eq!(twins(Fate::Acknowledged, &[(true, false, &[9])]), [Check::W19]);
        assert_eq!(twins(Fate::Unknown, &[(true, false, &[8, 10])]), [Check::W19]);
    }
}
