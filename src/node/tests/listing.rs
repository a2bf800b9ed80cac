//! Listings: complete, in order, resumable, whoever is slow.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::town::{ABC, Fate, SECOND, Slot, Town, Write, id, is_apply};
use crate::coordinator::{ListOp, ListPage, OpError};
use crate::meta::{ConflictMode, Table};
use crate::net::Request;
use crate::types::{Consistency, Key, Token};

fn op(table: &Arc<Table>, limit: u32) -> ListOp {
    ListOp {
        table: table.clone(),
        prefix: Bytes::new(),
        after: None,
        limit,
        conflicts: false,
        level: Consistency::Quorum,
        timeout: 5 * SECOND,
    }
}

fn begin(town: &Town, name: &str, op: ListOp) -> Slot<Result<ListPage, OpError>> {
    let coordinator = town.life(name).node.coordinator().clone();
    town.begin(name, async move { coordinator.list(op).await })
}

/// Follows the cursors to the end; the keys in order.
fn all(town: &mut Town, name: &str, mut op: ListOp) -> Vec<(Token, Key)> {
    let mut keys: Vec<(Token, Key)> = Vec::new();
    for _ in 0..500 {
        let slot = begin(town, name, op.clone());
        let page = town.wait(&slot).unwrap();
        keys.extend(page.keys.into_iter().map(|listed| (listed.token, listed.key)));
        match page.next {
            Some(next) => {
                assert!(op.after.as_ref().is_none_or(|after| next > *after), "it goes forward");
                op.after = Some(next);
            }
            None => {
                assert!(keys.is_sorted() && keys.windows(2).all(|pair| pair[0] != pair[1]));
                return keys;
            }
        }
    }
    panic!("the listing has no end");
}

fn fill(town: &mut Town, table: &Arc<Table>, count: usize) -> BTreeSet<Vec<u8>> {
    let keys: Vec<String> = (0..count).map(|n| format!("{}/{n}", ["a", "b"][n % 2])).collect();
    for (n, key) in keys.iter().enumerate() {
        town.put(ABC[n % 3], table, key, "v", Write::default()).unwrap();
    }
    keys.into_iter().map(String::into_bytes).collect()
}

fn names(keys: &[(Token, Key)]) -> BTreeSet<Vec<u8>> {
    keys.iter().map(|(_, key)| key.as_bytes().to_vec()).collect()
}

#[test]
fn every_key_is_listed_once_whatever_the_pages() {
    let (mut town, table) = Town::with_table(1, ConflictMode::Siblings);
    let expected = fill(&mut town, &table, 60);
    town.run(SECOND);
    for limit in [1, 7, 60, 1000] {
        assert_eq!(names(&all(&mut town, "b", op(&table, limit))), expected, "limit {limit}");
    }
    let with_prefix = ListOp { prefix: Bytes::from_static(b"a/"), ..op(&table, 7) };
    assert_eq!(all(&mut town, "c", with_prefix).len(), 30);
    let conflicts = ListOp { conflicts: true, ..op(&table, 7) };
    assert_eq!(all(&mut town, "c", conflicts).len(), 0);
}

#[test]
fn keys_that_one_replica_misses_are_listed_and_deleted_ones_are_not() {
    let (mut town, table) = Town::with_table(2, ConflictMode::Siblings);
    let mut expected = fill(&mut town, &table, 30);
    // Of what follows c hears nothing, and it is c that lists.
    town.script
        .add(Fate::LoseRequest, u32::MAX, |_, to, request| to == id("c") && is_apply(request));
    for n in 0..10 {
        town.put("a", &table, &format!("late {n}"), "v", Write::default()).unwrap();
        expected.insert(format!("late {n}").into_bytes());
        let gone = format!("a/{}", n * 2);
        town.delete("b", &table, &gone, Write::default()).unwrap();
        expected.remove(gone.as_bytes());
    }
    town.script.clear();
    assert_eq!(names(&all(&mut town, "c", op(&table, 9))), expected);
}

#[test]
fn a_replica_that_stands_still_does_not_hold_up_a_listing() {
    let (mut town, table) = Town::with_table(3, ConflictMode::Siblings);
    let expected = fill(&mut town, &table, 30);
    town.run(SECOND);
    town.pause("b", true);
    assert_eq!(names(&all(&mut town, "a", op(&table, 1000))), expected);
    town.pause("b", false);
}

/// A caller gets what there is when half of its time is over, also when that is nothing yet.
#[test]
fn a_slow_listing_gives_what_it_has_and_goes_on_from_there() {
    let (mut town, table) = Town::with_table(4, ConflictMode::Siblings);
    let expected = fill(&mut town, &table, 20);
    town.run(SECOND);
    town.script.add(Fate::Delay(Duration::from_millis(200)), u32::MAX, |_, _, request| {
        matches!(request, Request::Page(_))
    });
    let short = ListOp { timeout: SECOND, ..op(&table, 1000) };
    let before = town.world.now();
    let slot = begin(&town, "a", short.clone());
    let page = town.wait(&slot).unwrap();
    assert!(page.next.is_some() && town.world.now() - before < 1_000_000_000);
    assert_eq!(names(&all(&mut town, "a", short.clone())), expected);
    let rare = ListOp { prefix: Bytes::from_static(b"b/19"), ..short };
    assert_eq!(all(&mut town, "a", rare).len(), 1, "through empty pages");
}
