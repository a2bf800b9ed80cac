//! Of [`Rower`]: what goes by an index, and logged batches.

use std::collections::{BTreeMap, BTreeSet};

use crate::server::cql::direct::{PageOfRows, Terms};
use crate::sim::rows::rower::{Last, Rower, fate_of, int, shown_row};
use crate::sim::rows::{Fate, Search, Twins, TwinsRead, Wanted};
use crate::types::Consistency;

/// The index that comes and goes.
pub(super) const MAP_INDEX: &str = "CREATE INDEX IF NOT EXISTS cells_m ON w.cells (values(m))";

/// The table of batches is made by the first one: while the cluster is whole, like the others.
pub(super) const FIRST_BATCH: &str = "BEGIN BATCH DELETE FROM w.twins WHERE p = -1; \
    DELETE FROM w.twins WHERE p = -2; APPLY BATCH";

/// A change of the schema has a limit of its own: ten seconds, and so of the shortest requests…
const CHANGE_LIMITS: u32 = 25;

/// Of so many of the latest writes one is searched for: others are written over.
const LATEST: usize = 24;

/// The most partitions of a logged batch.
const MAX_TWINS: u64 = 5;

impl Rower {
    /// Asks an index of `cells` for something that was written lately.
    pub(super) async fn search_for_some(&mut self) {
        let value = {
            let log = self.bench.rows();
            let latest = log.writes.iter().rev().take(LATEST).map(|write| write.value);
            latest.collect::<Vec<_>>()
        };
        let Some(&value) = value.get(self.below(value.len().max(1) as u64) as usize) else {
            return;
        };
        let wanted = if self.below(3) == 0 { Wanted::M(value) } else { Wanted::A(value) };
        self.search(wanted, false).await;
    }

    pub(super) async fn search(&mut self, wanted: Wanted, last: bool) -> bool {
        let (begun, begun_at) = (self.bench.rows().mark(), self.now());
        let relation = match wanted {
            Wanted::A(value) => format!("a = {value}"),
            Wanted::M(value) => format!("m CONTAINS {value}"),
        };
        let text = format!("SELECT p, c, a, b, m FROM w.cells WHERE {relation}");
        let Some(pages) = self.pages(text).await else { return false };
        let (mut rows, mut twice) = (BTreeMap::new(), false);
        for page in &pages {
            for row in &page.rows {
                let at = (int(page.value(row, "p")), int(page.value(row, "c")));
                let (Some(p), Some(c)) = at else { continue };
                twice |= rows.insert((p, c), shown_row(page, row)).is_some();
            }
        }
        let mut log = self.bench.rows();
        let ended = log.mark();
        log.searches.push(Search { wanted, begun, ended, begun_at, last, rows, twice });
        true
    }

    /// Has an index built while rows are written and nodes fail.
    pub(super) async fn make_index_anew(&mut self) {
        for text in ["DROP INDEX IF EXISTS w.cells_m", MAP_INDEX] {
            let terms = Terms::at(Consistency::Quorum);
            let _ = self.execute(self.node(), text.to_owned(), terms, CHANGE_LIMITS).await;
        }
    }

    /// Writes a logged batch. It is not sent again: that would end what others are to go on with.
    pub(super) async fn write_twins(&mut self) {
        let (at, number, partitions) = {
            let mut log = self.bench.rows();
            let number = log.new_value();
            let first = number * 8;
            let count = i32::try_from(2 + self.below(MAX_TWINS - 1)).unwrap_or(2);
            let partitions: BTreeSet<i32> = (first..first + count).collect();
            let begun = log.mark();
            let (ended, fate) = (u64::MAX, Fate::Unknown);
            log.twins.push(Twins { number, partitions: partitions.clone(), begun, ended, fate });
            (log.twins.len() - 1, number, partitions)
        };
        let insert = |p| format!("INSERT INTO w.twins (p, v) VALUES ({p}, {number});");
        let inserts: String = partitions.into_iter().map(insert).collect();
        let text = format!("BEGIN BATCH {inserts} APPLY BATCH");
        let terms = Terms::at(Consistency::Quorum);
        // One limit for the record, one for the rows.
        let fate = fate_of(&self.execute(self.node(), text, terms, 2).await);
        let mut log = self.bench.rows();
        let ended = log.mark();
        let twins = &mut log.twins[at];
        (twins.ended, twins.fate) = (ended, fate);
    }

    /// Asks the index of `twins` for a batch that was begun lately.
    pub(super) async fn search_for_twins(&mut self) {
        let numbers: Vec<i32> =
            self.bench.rows().twins.iter().rev().take(4).map(|twins| twins.number).collect();
        let at = self.below(numbers.len().max(1) as u64) as usize;
        if let Some(&number) = numbers.get(at) {
            self.search_twins(number, false).await;
        }
    }

    pub(super) async fn search_twins(&mut self, number: i32, last: bool) -> bool {
        let begun = self.bench.rows().mark();
        let text = format!("SELECT p, v FROM w.twins WHERE v = {number}");
        let Some(pages) = self.pages(text).await else { return false };
        let mut found = twins_in(&pages);
        let mut log = self.bench.rows();
        let ended = log.mark();
        let mut partitions = found.remove(&number).unwrap_or_default();
        // What was not asked for is no part of the batch, and judged so.
        partitions.extend(found.into_values().flatten());
        let read = TwinsRead { number, by_index: true, begun, ended, last, partitions };
        log.twins_reads.push(read);
        true
    }

    /// Reads all of `twins` when all has settled.
    pub(super) async fn read_twins(&mut self) -> bool {
        let begun = self.bench.rows().mark();
        let Some(pages) = self.pages("SELECT p, v FROM w.twins".to_owned()).await else {
            return false;
        };
        let mut found = twins_in(&pages);
        let mut log = self.bench.rows();
        let ended = log.mark();
        let written = log.twins.iter().map(|twins| twins.number);
        let numbers: BTreeSet<i32> = written.chain(found.keys().copied()).collect();
        for number in numbers {
            let partitions = found.remove(&number).unwrap_or_default();
            let (by_index, last) = (false, true);
            let read = TwinsRead { number, by_index, begun, ended, last, partitions };
            log.twins_reads.push(read);
        }
        true
    }

    /// Asks the indexes for some of what is there, and of what is not. Gives what could not be
    /// read. (What the disks hold of indexes is compared besides: `sim::converge`.)
    pub(super) async fn last_searches(&mut self) -> Vec<String> {
        // It may be the drop that came last.
        let terms = Terms::at(Consistency::Quorum);
        let _ = self.execute(self.node(), MAP_INDEX.to_owned(), terms, CHANGE_LIMITS).await;
        let (wanted, twins) = {
            let log = self.bench.rows();
            let latest = log.writes.iter().rev().take(2).map(|write| Wanted::A(write.value));
            let mut wanted: BTreeSet<Wanted> = latest.collect();
            let rows = log.reads.iter().filter(|read| read.last).flat_map(|r| r.rows.values());
            let (mut of_a, mut of_m) = (BTreeSet::new(), BTreeSet::new());
            for row in rows {
                of_a.extend(row.a);
                of_m.extend(row.m.values().copied());
            }
            wanted.extend(of_a.into_iter().rev().take(4).map(Wanted::A));
            wanted.extend(of_m.into_iter().rev().take(3).map(Wanted::M));
            let twins: Vec<i32> = log.twins.iter().rev().take(6).map(|t| t.number).collect();
            (wanted, twins)
        };
        let searches = wanted.into_iter().map(Last::Search);
        let twins = twins.into_iter().map(Last::Twins);
        let mut unread = Vec::new();
        for last in searches.chain([Last::AllTwins]).chain(twins) {
            if !self.insist(last).await {
                unread.push(format!("by an index: {last:?}"));
            }
        }
        unread
    }
}

/// The partitions shown, by the number that they hold.
fn twins_in(pages: &[PageOfRows]) -> BTreeMap<i32, BTreeSet<i32>> {
    let mut found: BTreeMap<i32, BTreeSet<i32>> = BTreeMap::new();
    for page in pages {
        for row in &page.rows {
            if let (Some(p), Some(v)) = (int(page.value(row, "p")), int(page.value(row, "v"))) {
                found.entry(v).or_default().insert(p);
            }
        }
    }
    found
}
