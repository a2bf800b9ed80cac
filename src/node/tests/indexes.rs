//! Indexes of whole nodes: built from what is there, kept with every change, and never short.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;

use super::town::{ABC, Fate, SECOND, Town, id};
use crate::coordinator::{OpError, RowsOp, ScanOp};
use crate::cql::index::{IndexPart, hash_of, terms};
use crate::cql::types::CqlType;
use crate::meta::{Command, Table};
use crate::net::Request;
use crate::record::{Cell, Content, Expiry, Liveness, Record, Row, address};
use crate::storage::keys::{self, Kind};
use crate::storage::{Engine as _, KeyRange};
use crate::types::{
    Consistency, IndexId, IndexTerm, Key, MAX_STORED_KEY_BYTES, ScanOrder, Token, WallMicros,
};

/// The column `v` of the town's table.
const COLUMN: u16 = 2;

fn key(n: u8) -> Key {
    let column = [2, n, 0, 0];
    Key::of_row(&[b'p', n / 4], &column).unwrap()
}

fn row(v: Option<i32>, stamp: i64) -> Row {
    let mut row = Row::default();
    let content = match v {
        Some(v) => Content::Value { bytes: Bytes::copy_from_slice(&v.to_be_bytes()), expiry: None },
        None => Content::Deleted,
    };
    row.write(COLUMN, Cell { stamp, content });
    row.insert(Liveness { stamp, expiry: None });
    row
}

fn write(town: &mut Town, at: &str, table: &Arc<Table>, n: u8, row: Row, level: Consistency) {
    let rows = vec![(key(n), Record::of_row(row))];
    let op = RowsOp { table: table.clone(), rows, level, timeout: 3 * SECOND };
    let coordinator = town.coordinator(at);
    let slot = town.begin(at, async move { coordinator.write_rows(op).await });
    town.wait(&slot).unwrap();
}

fn append(town: &mut Town, command: Command) {
    let life = town.life("a");
    let (cluster, deadline) = (life.node.cluster().clone(), life.env.mono() + 10 * SECOND);
    let slot = town.begin("a", async move { cluster.append(command, deadline).await });
    town.wait(&slot).expect("a majority is there");
}

/// Makes an index of `v`.
fn create_index(town: &mut Town, table: &Arc<Table>, name: &str) -> IndexId {
    let state = town.life("a").node.cluster().state();
    let now = state.table(table.id).unwrap();
    assert_eq!(now.rows.as_ref().unwrap().column("v").unwrap().id, COLUMN);
    let command = Command::CreateIndex {
        table: table.id,
        expected: now.version,
        name: name.to_owned(),
        column: COLUMN,
        part: IndexPart::Value,
        class: None,
    };
    append(town, command);
    let state = town.life("a").node.cluster().state();
    let schema = state.table(table.id).unwrap().rows.clone().unwrap();
    schema.indexes().iter().find(|index| index.name == name).unwrap().id
}

fn is_built(town: &Town, name: &str, table: &Arc<Table>, index: IndexId) -> bool {
    town.life(name).node.replica().has_built(table.id, index)
}

fn until_built(town: &mut Town, table: &Arc<Table>, index: IndexId) {
    town.until(60, "the index is built", |town| {
        ABC.iter().all(|name| is_built(town, name, table, index))
    });
}

/// The rows that the index shows for `v`, by their numbers, in pages of `limit`, tested again as a
/// door does; the same from either end.
fn find(
    town: &mut Town,
    at: &str,
    table: &Arc<Table>,
    index: IndexId,
    v: i32,
    limit: u32,
) -> Result<BTreeSet<u8>, OpError> {
    let term = IndexTerm { index, hash: hash_of(&CqlType::Int, &v.to_be_bytes()) };
    let up = find_in(town, at, table, (term, v), limit, ScanOrder::Ascending)?;
    let down = find_in(town, at, table, (term, v), limit, ScanOrder::Descending)?;
    assert_eq!(up, down, "from the end");
    Ok(up)
}

fn find_in(
    town: &mut Town,
    at: &str,
    table: &Arc<Table>,
    (term, v): (IndexTerm, i32),
    limit: u32,
    order: ScanOrder,
) -> Result<BTreeSet<u8>, OpError> {
    let (mut out, mut next) = (BTreeSet::new(), None);
    let mut last: Option<(Token, Key)> = None;
    loop {
        let (after, before) = match order {
            ScanOrder::Ascending => (next.take(), None),
            ScanOrder::Descending => (None, next.take()),
        };
        let op = ScanOp {
            table: table.clone(),
            after,
            before,
            term: Some(term),
            order,
            limit,
            level: Consistency::Quorum,
            timeout: 10 * SECOND,
        };
        let coordinator = town.coordinator(at);
        let slot = town.begin(at, async move { coordinator.scan(op).await });
        let page = town.wait(&slot)?;
        for (token, key, record) in page.rows {
            let place = (token, key.clone());
            let on = last.as_ref().is_none_or(|last| order.compare(last, &place).is_lt());
            assert!(on, "a page goes back");
            last = Some(place);
            let stands = match record.row().and_then(|row| row.column(COLUMN)) {
                Some(crate::record::Column::Cell(cell)) => {
                    cell.live(page.now).is_some_and(|bytes| bytes[..] == v.to_be_bytes())
                }
                _ => false,
            };
            if stands {
                assert!(out.insert(key.row_parts().unwrap().1[1]), "shown twice");
            }
        }
        next = page.next;
        if next.is_none() {
            return Ok(out);
        }
    }
}

/// Asserts that the entries on the disk of `name` are those of its rows.
fn audit(town: &Town, name: &str, table: &Arc<Table>) {
    let life = town.life(name);
    let state = life.node.cluster().state();
    let schema = state.table(table.id).unwrap().rows.clone().unwrap();
    let mut expected = BTreeSet::new();
    let rows = keys::table_rows(Kind::Record, table.id);
    life.engine
        .scan(&rows, &mut |stored, bytes| {
            let at = keys::parse_row(stored).unwrap();
            let bytes = Bytes::copy_from_slice(bytes.unwrap());
            let record = Record::decode(&bytes, &address(table.id, &at.key)).unwrap();
            for term in terms(&schema, &at.key, record.row().unwrap()) {
                expected.insert(keys::index_row(table.id, term, at.token, &at.key));
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    let mut found = BTreeSet::new();
    let entries = keys::table_rows(Kind::Index, table.id);
    life.engine
        .scan(&entries, &mut |entry, _| {
            found.insert(Bytes::copy_from_slice(entry));
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(found, expected, "at {name}");
}

#[test]
fn an_index_finds_what_was_there_before_it_and_what_came_after() {
    let (mut town, table) = Town::with_rows(1);
    for n in 0..20 {
        write(&mut town, "a", &table, n, row(Some(i32::from(n % 3)), 1), Consistency::All);
    }
    let index = create_index(&mut town, &table, "i");
    until_built(&mut town, &table, index);
    let thirds = |rest: u8| (0..20).filter(|n| n % 3 == rest).collect::<BTreeSet<u8>>();
    for at in ABC {
        for limit in [1, 3, 100] {
            let found = find(&mut town, at, &table, index, 1, limit).unwrap();
            assert_eq!(found, thirds(1), "at {at}, {limit} at a time");
        }
    }
    // Written by what was planned before the index was made: `table` does not know of it.
    write(&mut town, "b", &table, 1, row(Some(7), 2), Consistency::Quorum);
    write(&mut town, "c", &table, 4, row(None, 2), Consistency::Quorum);
    let mut gone = row(None, 2);
    gone.delete(3);
    write(&mut town, "a", &table, 7, gone, Consistency::Quorum);
    write(&mut town, "a", &table, 30, row(Some(1), 2), Consistency::Quorum);
    let expected: BTreeSet<u8> =
        thirds(1).into_iter().filter(|n| ![1, 4, 7].contains(n)).chain([30]).collect();
    for at in ABC {
        assert_eq!(find(&mut town, at, &table, index, 1, 3).unwrap(), expected, "at {at}");
        assert_eq!(find(&mut town, at, &table, index, 7, 3).unwrap(), BTreeSet::from([1]));
    }
    town.run(5 * SECOND);
    ABC.iter().for_each(|name| audit(&town, name, &table));
}

/// Of each row one replica has missed the newest value. Of any two replicas, the index shows what
/// quorum reads of the rows show.
#[test]
fn of_replicas_that_differ_an_index_shows_what_a_read_shows() {
    for (seed, (at, other)) in
        [("a", "b"), ("a", "c"), ("b", "a"), ("c", "b")].into_iter().enumerate()
    {
        let (mut town, table) = Town::with_rows(20 + seed as u64);
        let index = create_index(&mut town, &table, "i");
        until_built(&mut town, &table, index);
        town.script.add(Fate::LoseRequest, u32::MAX, |_, _, request| {
            matches!(request, Request::Handoff(_))
        });
        for (n, missing) in [(0u8, "a"), (1, "b"), (2, "c")] {
            write(&mut town, "a", &table, n, row(Some(1), 1), Consistency::All);
            let away = id(missing);
            let lost = town.script.add(Fate::LoseRequest, 2, move |_, to, request| {
                to == away && matches!(request, Request::ApplyRows(_))
            });
            let coordinator = if missing == "a" { "b" } else { "a" };
            write(&mut town, coordinator, &table, n, row(Some(2), 2), Consistency::Quorum);
            write(&mut town, coordinator, &table, n + 10, row(Some(1), 2), Consistency::Quorum);
            assert_eq!(town.script.hits(lost), 2);
        }
        let away = id(other);
        town.script.add(Fate::NotSent, u32::MAX, move |_, to, request| {
            to == away && matches!(request, Request::Page(_) | Request::Read(_))
        });
        let found = find(&mut town, at, &table, index, 1, 100).unwrap();
        assert_eq!(found, BTreeSet::from([10, 11, 12]), "at {at} without {other}");
        let found = find(&mut town, at, &table, index, 2, 100).unwrap();
        assert_eq!(found, BTreeSet::from([0, 1, 2]), "at {at} without {other}");
    }
}

/// Rule 22. A row that cannot be read may have any value: until it is healed, the index of that
/// replica is not complete, and says so.
#[test]
fn rule22_an_index_that_is_not_built_refuses_to_answer() {
    let (mut town, table) = Town::with_rows(3);
    for n in 0..8 {
        write(&mut town, "a", &table, n, row(Some(1), 1), Consistency::All);
    }
    for (nth, name) in ["b", "c"].into_iter().enumerate() {
        let all = keys::table_rows(Kind::Record, table.id);
        assert!(town.life(name).engine.rot_value(&all, nth));
    }
    let index = create_index(&mut town, &table, "i");
    town.until(60, "a has built it", |town| is_built(town, "a", &table, index));
    town.run(5 * SECOND);
    assert!(!is_built(&town, "b", &table, index) && !is_built(&town, "c", &table, index));
    let refused = find(&mut town, "a", &table, index, 1, 100);
    assert!(matches!(refused, Err(OpError::IndexBuilding { failed: 2, .. })), "{refused:?}");
    // Whoever reads the rows has them healed.
    for n in 0..8 {
        let coordinator = town.coordinator("a");
        let op = crate::coordinator::ReadOp {
            table: table.clone(),
            key: key(n),
            level: Consistency::All,
            timeout: 3 * SECOND,
            receipt: false,
            local: false,
        };
        let slot = town.begin("a", async move { coordinator.read(op).await });
        let _ = town.wait(&slot);
    }
    until_built(&mut town, &table, index);
    let found = find(&mut town, "a", &table, index, 1, 100).unwrap();
    assert_eq!(found, (0..8).collect());
}

/// Whatever of a write a power loss takes, it takes of the row and of its entries.
#[test]
fn after_a_power_loss_entries_are_those_of_the_rows() {
    for seed in 10..14 {
        let (mut town, table) = Town::with_rows(seed);
        let index = create_index(&mut town, &table, "i");
        until_built(&mut town, &table, index);
        for n in 0..6 {
            write(&mut town, "a", &table, n, row(Some(1), 1), Consistency::All);
        }
        for n in 0..6 {
            let rows = vec![(key(n), Record::of_row(row(Some(2), 2)))];
            let op =
                RowsOp { table: table.clone(), rows, level: Consistency::All, timeout: 3 * SECOND };
            let coordinator = town.coordinator("a");
            let _begun = town.begin("a", async move { coordinator.write_rows(op).await });
        }
        town.run(std::time::Duration::from_millis(seed - 9));
        town.lose_power("b");
        town.run(5 * SECOND);
        town.start("b");
        town.until(30, "b serves", |town| town.serves("b"));
        audit(&town, "b", &table);
        assert!(is_built(&town, "b", &table, index), "that it is built is known still");
        town.run(20 * SECOND);
        let found = find(&mut town, "b", &table, index, 2, 2).unwrap();
        assert_eq!(found, (0..6).collect(), "seed {seed}");
        ABC.iter().for_each(|name| audit(&town, name, &table));
    }
}

/// A node that learns of an index only after others have built it, and after it took writes.
#[test]
fn a_node_that_was_away_builds_the_index_when_it_is_back() {
    let (mut town, table) = Town::with_rows(4);
    for n in 0..8 {
        write(&mut town, "a", &table, n, row(Some(1), 1), Consistency::All);
    }
    town.kill("c");
    let index = create_index(&mut town, &table, "i");
    town.until(60, "two have built it", |town| {
        ["a", "b"].iter().all(|name| is_built(town, name, &table, index))
    });
    write(&mut town, "a", &table, 0, row(Some(5), 2), Consistency::Quorum);
    assert_eq!(find(&mut town, "a", &table, index, 1, 100).unwrap(), (1..8).collect());
    town.start("c");
    until_built(&mut town, &table, index);
    town.run(20 * SECOND);
    audit(&town, "c", &table);
    assert_eq!(find(&mut town, "c", &table, index, 5, 100).unwrap(), BTreeSet::from([0]));
}

#[test]
fn what_a_dropped_index_leaves_is_deleted_and_never_shown_again() {
    let (mut town, table) = Town::with_rows(5);
    let index = create_index(&mut town, &table, "i");
    until_built(&mut town, &table, index);
    for n in 0..8 {
        write(&mut town, "a", &table, n, row(Some(1), 1), Consistency::All);
    }
    append(&mut town, Command::DropIndex { table: table.id, name: "i".to_owned() });
    let left = |town: &Town| {
        ABC.iter().any(|name| {
            let mut any = false;
            for kind in [Kind::Index, Kind::IndexBuild] {
                let range = KeyRange::prefix(&[kind as u8]);
                let engine = &town.life(name).engine;
                engine
                    .scan(&range, &mut |_, _| {
                        any = true;
                        ControlFlow::Break(())
                    })
                    .unwrap();
            }
            any
        })
    };
    town.until(60, "nothing is left", |town| !left(town));
    let refused = find(&mut town, "a", &table, index, 1, 100);
    assert!(matches!(refused, Err(OpError::IndexBuilding { .. })), "{refused:?}");
    write(&mut town, "a", &table, 0, row(Some(2), 2), Consistency::All);
    let again = create_index(&mut town, &table, "i");
    assert_ne!(index, again);
    until_built(&mut town, &table, again);
    assert_eq!(find(&mut town, "b", &table, again, 1, 100).unwrap(), (1..8).collect());
    ABC.iter().for_each(|name| audit(&town, name, &table));
}

/// An expired value keeps its entry, which shows nothing, until its row is purged: then both go.
#[test]
fn an_expired_row_is_not_found_though_its_entry_stands() {
    let (mut town, table) = Town::with_rows(6);
    let index = create_index(&mut town, &table, "i");
    until_built(&mut town, &table, index);
    let now = town.life("a").env.wall();
    let expiry = Some(Expiry { at: WallMicros(now.0 + 5_000_000), ttl_s: 5 });
    let bytes = Bytes::copy_from_slice(&1i32.to_be_bytes());
    let mut short = Row::default();
    short.write(COLUMN, Cell { stamp: 1, content: Content::Value { bytes, expiry } });
    write(&mut town, "a", &table, 0, short, Consistency::All);
    assert_eq!(find(&mut town, "b", &table, index, 1, 100).unwrap(), BTreeSet::from([0]));
    town.run(10 * SECOND);
    assert!(find(&mut town, "b", &table, index, 1, 100).unwrap().is_empty());
    ABC.iter().for_each(|name| audit(&town, name, &table));
}

/// Of the longest keys, hints and entries of indexes found no room: rows were taken that no index
/// could ever be built of.
#[test]
fn a_key_is_refused_if_there_is_no_room_for_its_entries() {
    let (mut town, table) = Town::with_rows(7);
    let index = create_index(&mut town, &table, "i");
    until_built(&mut town, &table, index);
    let long = |len: usize| Key::of_row(b"p", &vec![2; len - 3]).unwrap();
    // It has a zero byte, in the length of its partition key.
    for (len, fits) in [(MAX_STORED_KEY_BYTES - 1, true), (MAX_STORED_KEY_BYTES, false)] {
        let rows = vec![(long(len), Record::of_row(row(Some(1), 1)))];
        let (level, timeout) = (Consistency::All, 3 * SECOND);
        let op = RowsOp { table: table.clone(), rows, level, timeout };
        let coordinator = town.coordinator("a");
        let slot = town.begin("a", async move { coordinator.write_rows(op).await });
        let told = town.wait(&slot);
        match fits {
            true => assert_eq!(told, Ok(()), "{len} bytes"),
            false => assert!(matches!(told, Err(OpError::Invalid(_))), "{told:?}"),
        }
    }
    // Nor does anything beside it go out.
    let rows = [long(10), long(MAX_STORED_KEY_BYTES)];
    let rows = rows.map(|key| (key, Record::of_row(row(Some(1), 1)))).to_vec();
    let (level, timeout) = (Consistency::All, 3 * SECOND);
    let op = RowsOp { table: table.clone(), rows, level, timeout };
    let coordinator = town.coordinator("a");
    let slot = town.begin("a", async move { coordinator.write_rows(op).await });
    let told = town.wait(&slot);
    assert!(matches!(told, Err(OpError::Invalid(_))), "{told:?}");
    assert_eq!(find(&mut town, "b", &table, index, 1, 100).unwrap(), BTreeSet::from([2]));
    ABC.iter().for_each(|name| audit(&town, name, &table));
}
