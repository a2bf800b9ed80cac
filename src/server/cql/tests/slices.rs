//! Slices against their clustering order: how much is read for them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::mem::MemStore;
use crate::coordinator::RowsOp;
use crate::cql::order;
use crate::cql::types::CqlType;
use crate::env::tokio_env;
use crate::record::{Liveness, Record, Row};
use crate::server::cql::Store as _;
use crate::server::cql::direct::{self, Reply, Terms};
use crate::types::{Consistency, Key};

async fn rows(store: &Arc<MemStore>, text: &str, page_size: Option<u32>) -> Vec<Option<Bytes>> {
    let terms = Terms { page_size, ..Terms::at(Consistency::One) };
    match direct::execute(store.clone(), text.to_owned(), terms).await {
        Reply::Rows(page) => page.rows.into_iter().map(|mut row| row.remove(0)).collect(),
        Reply::Done => Vec::new(),
        Reply::Failed { message, .. } => panic!("{text}: {message}"),
    }
}

/// A table with one partition of so many rows, by ascending `at`.
async fn filled(count: i64) -> Arc<MemStore> {
    let store = MemStore::new(tokio_env(), 9042);
    for text in [
        "CREATE KEYSPACE k WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}",
        "CREATE TABLE k.readings (sensor int, at bigint, v int, PRIMARY KEY (sensor, at))",
    ] {
        rows(&store, text, None).await;
    }
    let state = store.state();
    let table = state.table_named(&"k.readings".parse().unwrap()).unwrap().clone();
    let written = (0..count).map(|at| {
        let mut clustering = Vec::new();
        order::put_component(&mut clustering, &CqlType::Bigint, false, &at.to_be_bytes());
        let mut row = Row::default();
        row.insert(Liveness { stamp: 1, expiry: None });
        (Key::of_row(&1_i32.to_be_bytes(), &clustering).unwrap(), Record::of_row(row))
    });
    let (rows, level, timeout) = (written.collect(), Consistency::One, Duration::from_secs(9));
    store.write(RowsOp { table, rows, level, timeout }).await.unwrap();
    store
}

fn numbers(ends: impl Iterator<Item = i64>) -> Vec<Option<Bytes>> {
    ends.map(|at| Some(Bytes::copy_from_slice(&at.to_be_bytes()))).collect()
}

/// "The last reading" was refused when there were more than 100,000 of them.
#[tokio::test]
async fn the_last_of_many_rows_is_read_alone() {
    const COUNT: i64 = 150_000;
    let store = filled(COUNT).await;
    let select = "SELECT at FROM k.readings WHERE sensor = 1";
    for (text, page_size, wanted, most) in [
        ("ORDER BY at DESC LIMIT 1", None, numbers([COUNT - 1].into_iter()), 2),
        ("ORDER BY at DESC LIMIT 1", Some(5_000), numbers([COUNT - 1].into_iter()), 2),
        ("AND at < 1000 ORDER BY at DESC LIMIT 3", None, numbers((997..1000).rev()), 4),
        ("ORDER BY at DESC PER PARTITION LIMIT 2", None, numbers((COUNT - 2..COUNT).rev()), 3),
        ("ORDER BY at DESC", Some(10), numbers((COUNT - 10..COUNT).rev()), 11),
        ("LIMIT 1", None, numbers(0..1), 2),
        ("PER PARTITION LIMIT 1", None, numbers(0..1), 2),
        ("ORDER BY at DESC", None, numbers((0..COUNT).rev()), 501),
    ] {
        store.take_most_scanned();
        let shown = rows(&store, &format!("{select} {text}"), page_size).await;
        assert!(shown == wanted, "{text}: {} rows", shown.len());
        let read = store.take_most_scanned();
        assert!(read <= most, "{text}: {read} rows in memory");
    }
}

#[tokio::test]
async fn deleted_rows_at_the_end_are_passed_over() {
    let store = filled(3_000).await;
    rows(&store, "DELETE FROM k.readings WHERE sensor = 1 AND at > 400", None).await;
    let last = "SELECT at FROM k.readings WHERE sensor = 1 ORDER BY at DESC LIMIT 1";
    assert_eq!(rows(&store, last, None).await, numbers([400].into_iter()));
}
