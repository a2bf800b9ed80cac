//! Conditional writes of rows: one register a partition, and rows that are decided together.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;

use super::town::{ABC, Fate, SECOND, Slot, Town, id};
use crate::coordinator::{
    ConditionalOp, ConditionalOutcome, Fate as Outcome, OpError, ReadOp, RowsJudge, RowsOp,
};
use crate::meta::Table;
use crate::net::Request;
use crate::net::paxos::{PaxosRequest, PaxosStep};
use crate::record::{Cell, Column, Content, Record, Row};
use crate::types::{Consistency, Key, WallMicros};

/// The column that all of these tests write.
const COLUMN: u16 = 7;

fn key(clustering: &[u8]) -> Key {
    Key::of_row(b"p", clustering).unwrap()
}

fn number(row: &Row) -> u64 {
    match row.column(COLUMN) {
        Some(Column::Cell(Cell { content: Content::Value { bytes, .. }, .. })) => {
            std::str::from_utf8(bytes).unwrap().parse().unwrap()
        }
        _ => 0,
    }
}

fn row_of(number: u64, stamp: i64) -> Row {
    let bytes = Bytes::from(number.to_string());
    let mut row = Row::default();
    row.write(COLUMN, Cell { stamp, content: Content::Value { bytes, expiry: None } });
    row
}

/// Adds one to each of its rows, if the first holds less than `below`.
#[derive(Debug)]
struct AddOne {
    rows: Vec<Key>,
    below: u64,
}

impl RowsJudge for AddOne {
    fn judge(
        &self,
        rows: &BTreeMap<Key, Row>,
        stamp: i64,
        _: WallMicros,
    ) -> Result<Option<Vec<(Key, Row)>>, String> {
        if number(&rows[&self.rows[0]]) >= self.below {
            return Ok(None);
        }
        let more = |key: &Key| (key.clone(), row_of(number(&rows[key]) + 1, stamp));
        Ok(Some(self.rows.iter().map(more).collect()))
    }
}

fn begin(
    town: &Town,
    name: &str,
    table: &Arc<Table>,
    rows: &[&[u8]],
    below: u64,
) -> Slot<Result<ConditionalOutcome, OpError>> {
    let coordinator = town.coordinator(name);
    let rows: Vec<Key> = rows.iter().map(|clustering| key(clustering)).collect();
    let op = ConditionalOp {
        table: table.clone(),
        head: key(b""),
        rows: rows.clone(),
        judge: Arc::new(AddOne { rows, below }),
        level: Consistency::Serial,
        timeout: 5 * SECOND,
    };
    town.begin(name, async move { coordinator.write_rows_if(op).await })
}

fn add(
    town: &mut Town,
    name: &str,
    table: &Arc<Table>,
    rows: &[&[u8]],
    below: u64,
) -> Result<ConditionalOutcome, OpError> {
    let slot = begin(town, name, table, rows, below);
    town.wait(&slot)
}

fn read(town: &mut Town, name: &str, table: &Arc<Table>, clustering: &[u8], serial: bool) -> u64 {
    let coordinator = town.coordinator(name);
    let op = |clustering: &[u8], level| ReadOp {
        table: table.clone(),
        key: key(clustering),
        level,
        timeout: 5 * SECOND,
        receipt: false,
        local: false,
    };
    let settle = op(b"", Consistency::Serial);
    let quorum = op(clustering, Consistency::Quorum);
    let slot = town.begin(name, async move {
        if serial {
            coordinator.read(settle).await?;
        }
        coordinator.read(quorum).await
    });
    number(town.wait(&slot).unwrap().record.row().unwrap())
}

fn is(request: &Request, which: fn(&PaxosStep) -> bool) -> bool {
    matches!(request, Request::Paxos(PaxosRequest { step, .. }) if which(step))
}

fn is_accept(step: &PaxosStep) -> bool {
    matches!(step, PaxosStep::Accept { .. })
}

fn is_commit(step: &PaxosStep) -> bool {
    matches!(step, PaxosStep::Commit { .. })
}

#[test]
fn a_condition_sees_what_any_node_has_decided_and_shows_it_when_it_refuses() {
    let (mut town, table) = Town::with_rows(600);
    for (name, below) in [("a", 1), ("b", 2), ("c", 3)] {
        assert!(add(&mut town, name, &table, &[b"x"], below).unwrap().applied);
    }
    let refused = add(&mut town, "a", &table, &[b"x"], 3).unwrap();
    assert!(!refused.applied);
    assert_eq!(number(&refused.rows[&key(b"x")]), 3);
    for name in ABC {
        assert_eq!(read(&mut town, name, &table, b"x", false), 3, "a quorum read sees it too");
    }
}

#[test]
fn a_plain_write_with_a_stamp_ahead_does_not_hide_a_later_conditional_one() {
    let (mut town, table) = Town::with_rows(601);
    let ahead = i64::try_from(town.life("a").env.wall().0).unwrap() + 3_600_000_000;
    let rows = vec![(key(b"x"), Record::of_row(row_of(5, ahead)))];
    let op = RowsOp { table: table.clone(), rows, level: Consistency::Quorum, timeout: SECOND };
    let coordinator = town.coordinator("b");
    let slot = town.begin("b", async move { coordinator.write_rows(op).await });
    town.wait(&slot).unwrap();
    assert!(add(&mut town, "c", &table, &[b"x"], 6).unwrap().applied);
    assert_eq!(read(&mut town, "a", &table, b"x", false), 6);
}

#[test]
fn increments_through_all_nodes_at_once_count_exactly_once_each() {
    for seed in 610..616 {
        let (mut town, table) = Town::with_rows(seed);
        // Answers go missing, so rounds are repeated with operations that may have been chosen.
        for (every, which) in [(4, is_accept as fn(&PaxosStep) -> bool), (5, is_commit)] {
            let calls = AtomicU32::new(u32::try_from(seed).unwrap());
            town.script.add(Fate::LoseAnswer, 20, move |from, to, request| {
                let counts = from != to && is(request, which);
                counts && calls.fetch_add(1, Ordering::Relaxed).is_multiple_of(every)
            });
        }
        let other = |n: usize| if n.is_multiple_of(2) { b"y" } else { b"z" };
        let slots: Vec<_> =
            (0..24).map(|n| begin(&town, ABC[n % 3], &table, &[b"x", other(n)], 99)).collect();
        let (mut applied, mut unknown) = (0, 0);
        for slot in slots {
            match town.wait(&slot) {
                Ok(outcome) => applied += u64::from(outcome.applied),
                Err(error) if error.fate() == Outcome::Unknown => unknown += 1,
                Err(_) => {}
            }
        }
        town.script.clear();
        let [x, y, z] =
            [b"x", b"y", b"z"].map(|clustering| read(&mut town, "a", &table, clustering, true));
        assert!((applied..=applied + unknown).contains(&x), "{seed}: {x}, {applied}, {unknown}");
        assert_eq!(x, y + z, "{seed}: rows that are written together");
        assert!(applied > 0, "{seed}");
    }
}

#[test]
fn rows_that_one_replica_voted_for_are_finished_together_by_whoever_meets_them() {
    let (mut town, table) = Town::with_rows(620);
    town.script
        .add(Fate::LoseRequest, u32::MAX, |_, to, request| is(request, is_accept) && to != id("a"));
    let error = add(&mut town, "a", &table, &[b"x", b"y"], 1).unwrap_err();
    assert_eq!(error.fate(), Outcome::Unknown, "an accept has left");
    town.script.clear();
    // Meets the vote of a, and is about another row of the partition.
    town.script.add(Fate::LoseRequest, u32::MAX, |_, to, request| {
        to == id("c") && matches!(request, Request::Paxos(_))
    });
    assert!(add(&mut town, "b", &table, &[b"z"], 1).unwrap().applied);
    town.script.clear();
    town.kill("a");
    town.until(30, "a is missed", |town| !town.life("b").node.cluster().is_live(id("a")));
    for clustering in [b"x", b"y", b"z"] {
        assert_eq!(read(&mut town, "c", &table, clustering, true), 1);
    }
}

#[test]
fn a_serial_read_finishes_what_is_undecided_and_a_refused_condition_does_too() {
    for (seed, refuse) in [(630, false), (631, true)] {
        let (mut town, table) = Town::with_rows(seed);
        town.script.add(Fate::LoseRequest, u32::MAX, |_, to, request| {
            is(request, is_accept) && to != id("a") || is(request, is_commit)
        });
        add(&mut town, "a", &table, &[b"x"], 1).unwrap_err();
        town.script.clear();
        town.script.add(Fate::LoseRequest, u32::MAX, |_, to, request| {
            to == id("c") && matches!(request, Request::Paxos(_))
        });
        if refuse {
            assert!(!add(&mut town, "b", &table, &[b"x"], 1).unwrap().applied);
        } else {
            assert_eq!(read(&mut town, "b", &table, b"x", true), 1);
        }
        town.script.clear();
        town.kill("a");
        town.until(30, "a is missed", |town| !town.life("b").node.cluster().is_live(id("a")));
        assert_eq!(read(&mut town, "c", &table, b"x", false), 1, "it is on a majority");
    }
}

#[test]
fn a_row_whose_key_no_replica_takes_is_refused_before_a_round_begins() {
    let (mut town, table) = Town::with_rows(640);
    let told = add(&mut town, "a", &table, &[b"x", &[b'y'; 12_000]], 1).unwrap_err();
    assert!(matches!(&told, OpError::Invalid(why) if why.contains("Key too long")), "{told:?}");
    assert_eq!(read(&mut town, "b", &table, b"x", true), 0);
}
