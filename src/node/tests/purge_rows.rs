//! Tombstones of rows that go by proof.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::purge::{leader, town_with};
use super::town::{ABC, Fate, SECOND, Slot, Town, id, is_apply};
use crate::coordinator::{BatchOp, OpError, RowsOp, log_table};
use crate::meta::Table;
use crate::net::Request;
use crate::record::{Cell, Content, RangeDeletion, Record, Row};
use crate::ring::token_in;
use crate::storage::Engine as _;
use crate::storage::keys::{self, Kind};
use crate::types::{Consistency, Key};

/// Long after the grace time of the table, and after all that follows from it.
const LONG: u64 = 60;

/// A town that keeps no hints and compares its trees every two seconds.
fn town(seed: u64) -> (Town, Arc<Table>) {
    let (mut town, _) = town_with(seed, Some(2 * SECOND), false);
    let table = town.create_rows(Some(3));
    (town, table)
}

fn key(partition: &str, clustering: &str) -> Key {
    Key::of_row(partition.as_bytes(), clustering.as_bytes()).unwrap()
}

fn is_gone(town: &Town, name: &str, table: &Arc<Table>, key: &Key) -> bool {
    let row = keys::row(Kind::Record, table.id, token_in(table.id, key), key, b"");
    matches!(town.life(name).engine.get(&row), Ok(None))
}

fn gone(town: &Town, table: &Arc<Table>, key: &Key) -> bool {
    ABC.iter().all(|name| is_gone(town, name, table, key))
}

fn cell(stamp: i64, value: Option<&'static str>) -> Row {
    let content = value.map_or(Content::Deleted, |value| Content::Value {
        bytes: Bytes::from_static(value.as_bytes()),
        expiry: None,
    });
    let mut row = Row::default();
    row.write(3, Cell { stamp, content });
    row
}

fn deleted(stamp: i64) -> Row {
    let mut row = Row::default();
    row.delete(stamp);
    row
}

fn begin(
    town: &Town,
    name: &str,
    table: &Arc<Table>,
    rows: Vec<(Key, Row)>,
    (level, timeout): (Consistency, Duration),
) -> Slot<Result<(), OpError>> {
    let coordinator = town.coordinator(name);
    let rows = rows.into_iter().map(|(key, row)| (key, Record::of_row(row))).collect();
    let op = RowsOp { table: table.clone(), rows, level, timeout };
    town.begin(name, async move { coordinator.write_rows(op).await })
}

fn write(town: &mut Town, table: &Arc<Table>, key: &Key, row: Row) {
    let how = (Consistency::All, 5 * SECOND);
    let slot = begin(town, "a", table, vec![(key.clone(), row)], how);
    town.wait(&slot).unwrap();
}

#[test]
fn dead_rows_go_and_what_deletes_other_rows_stays() {
    let (mut town, table) = town(700);
    let all = ["cell", "row", "ranged", "swept", "lives"];
    for clustering in all {
        write(&mut town, &table, &key("p", clustering), cell(5, Some("v")));
        write(&mut town, &table, &key("q", clustering), cell(5, Some("v")));
    }
    let (start, end) = (Bytes::from_static(b"ranged"), Bytes::from_static(b"rangee"));
    let mut range = Row::default();
    range.delete_range(RangeDeletion { start, end, stamp: 6 });
    write(&mut town, &table, &key("p", "cell"), cell(6, None));
    write(&mut town, &table, &key("p", "row"), deleted(6));
    write(&mut town, &table, &key("p", ""), range);
    write(&mut town, &table, &key("q", ""), deleted(6));
    write(&mut town, &table, &key("q", "lives"), cell(7, Some("v")));
    town.run(SECOND);
    assert!(!gone(&town, &table, &key("p", "row")), "its grace time is not over");
    let dead = [("p", "cell"), ("p", "row"), ("q", "cell"), ("q", "row"), ("q", "ranged")];
    for (partition, clustering) in dead {
        let what = format!("{partition} {clustering} is purged");
        town.until(LONG, &what, |town| gone(town, &table, &key(partition, clustering)));
    }
    town.run(Duration::from_secs(LONG));
    let kept = [("p", ""), ("q", ""), ("p", "swept"), ("p", "lives"), ("q", "lives")];
    for (partition, clustering) in kept {
        let key = key(partition, clustering);
        for name in ABC {
            assert!(!is_gone(&town, name, &table, &key), "{partition} {clustering} at {name}");
        }
    }
}

/// The first row is brought to A and B, and by hash trees to C, where the packet for it is stuck.
/// It is deleted, and purged. Then the packet comes to C, which refuses it, and the coordinator
/// still waits: it must not bring the row once more, as it was.
#[test]
fn rows_that_a_replica_refuses_after_a_purge_do_not_return() {
    for rows in [1, 2] {
        let (mut town, table) = town(710 + rows);
        let name = |n| format!("row {n}");
        let keys: Vec<Key> = (0..rows).map(|n| key("p", &name(n))).collect();
        let late = town.script.add(Fate::Delay(40 * SECOND), 1, |_, to, request| {
            let applies = is_apply(request) || matches!(request, Request::ApplyRows(_));
            to == id("c") && applies
        });
        let old = keys.iter().map(|key| (key.clone(), cell(5, Some("old")))).collect();
        let slot = begin(&town, "a", &table, old, (Consistency::Quorum, 50 * SECOND));
        town.wait(&slot).unwrap();
        assert_eq!(town.script.hits(late), 1);
        let arrived = |town: &Town| keys.iter().all(|key| !is_gone(town, "c", &table, key));
        town.until(20, "it came by the trees", arrived);
        for key in &keys {
            write(&mut town, &table, key, deleted(6));
        }
        town.until(15, "purged", |town| keys.iter().all(|key| gone(town, &table, key)));
        town.run(Duration::from_secs(LONG));
        for key in &keys {
            assert!(gone(&town, &table, key), "{rows} rows: it has come back");
        }
    }
}

/// What no replica has taken is news, whatever was purged under its key.
#[test]
fn rows_are_written_after_a_purge_by_coordinators_that_know_nothing_of_it() {
    let (mut town, table) = town(720);
    let key = key("p", "x");
    write(&mut town, &table, &key, cell(5, Some("old")));
    write(&mut town, &table, &key, deleted(6));
    town.until(LONG, "it is purged", |town| gone(town, &table, &key));
    for (name, stamp) in [("b", 7), ("c", 8)] {
        let how = (Consistency::All, 5 * SECOND);
        let slot = begin(&town, name, &table, vec![(key.clone(), cell(stamp, Some("new")))], how);
        town.wait(&slot).unwrap();
    }
    assert!(ABC.iter().all(|name| !is_gone(&town, name, &table, &key)));
}

/// What only the leader of a purge knows to be deleted is no reason for the others to let go of it:
/// its disk may be lost before they hear of the deletion.
#[test]
fn rows_that_a_head_deletes_stay_until_all_replicas_hold_that_head() {
    let (mut town, _) = town_with(730, None, false);
    let table = town.create_rows(Some(3));
    let (head, row) = (key("p", ""), key("p", "x"));
    write(&mut town, &table, &row, cell(5, Some("v")));
    let lost = town.script.add(Fate::LoseRequest, 2, |_, to, request| {
        let applies = is_apply(request) || matches!(request, Request::ApplyRows(_));
        to != id(leader()) && applies
    });
    let how = (Consistency::One, 5 * SECOND);
    let slot = begin(&town, leader(), &table, vec![(head.clone(), deleted(6))], how);
    town.wait(&slot).unwrap();
    town.run(Duration::from_secs(LONG));
    assert_eq!(town.script.hits(lost), 2);
    assert!(ABC.iter().all(|name| !is_gone(&town, name, &table, &row)), "two replicas show it");
    write(&mut town, &table, &head, deleted(6));
    town.until(LONG, "all hold its deletion", |town| gone(town, &table, &row));
    assert!(ABC.iter().all(|name| !is_gone(&town, name, &table, &head)));
}

/// Gone on with, a batch writes rows as they were when it was put on record: those may have been
/// deleted since. While one is that old, no deletion of any row goes.
#[test]
fn a_logged_batch_that_nobody_could_finish_keeps_the_tombstones_of_rows() {
    let (mut town, table) = town(740);
    let log = town.create(&log_table().to_string(), |_| {});
    let (stuck, row) = (key("stuck", ""), key("p", "row"));
    let of_stuck = stuck.clone();
    let lost = town.script.add(Fate::LoseRequest, u32::MAX, move |_, _, request| match request {
        Request::Apply(apply) => apply.key == of_stuck,
        Request::ApplyRows(apply) => apply.rows.iter().any(|(key, _)| *key == of_stuck),
        _ => false,
    });
    let part =
        |key: &Key| (table.clone(), vec![(key.clone(), Record::of_row(cell(5, Some("batch"))))]);
    let parts = vec![part(&stuck), part(&key("q", ""))];
    let op = BatchOp { log, parts, level: Consistency::All, timeout: 2 * SECOND };
    let coordinator = town.coordinator("a");
    let slot = town.begin("a", async move { coordinator.write_batch(op).await });
    assert!(town.wait(&slot).is_err(), "its replicas do not answer");
    write(&mut town, &table, &row, cell(5, Some("v")));
    write(&mut town, &table, &row, deleted(6));
    town.run(Duration::from_secs(LONG));
    assert!(ABC.iter().all(|name| !is_gone(&town, name, &table, &row)), "a batch is on record");
    assert!(town.script.hits(lost) > 4, "it was gone on with, in vain");
    town.script.clear();
    town.until(LONG, "the batch is written, and the row goes", |town| gone(town, &table, &row));
}
