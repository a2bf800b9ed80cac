//! Indexes through the whole door.

use super::door::{Client, parameters};
use super::mem::MemStore;
use crate::env::tokio_env;
use crate::server::cql::response::Answer;

const INVALID: i32 = 0x2200;

async fn shop() -> Client {
    shop_of(Client::new().await).await
}

async fn shop_of(client: Client) -> Client {
    client
        .run(
            "CREATE TABLE t (p int, q int, c int, s text static, v text, w int, m map<text, int>, \
             l list<int>, e set<text>, f frozen<list<int>>, PRIMARY KEY ((p, q), c))",
        )
        .await;
    for n in 0..12 {
        client
            .run(&format!(
                "INSERT INTO t (p, q, c, v, w, m, l, e, f) VALUES ({}, {}, {n}, 'v{}', {n}, \
                 {{'k{}': {n}}}, [{n}, 100], {{'e{}'}}, [{}])",
                n / 4,
                n / 2,
                n % 3,
                n % 2,
                n % 4,
                n % 3
            ))
            .await;
    }
    client
}

impl Client {
    async fn sorted(&self, text: &str) -> Vec<i32> {
        let shown = self.show(text).await;
        let mut all: Vec<i32> = shown.iter().map(|row| row.parse().unwrap()).collect();
        all.sort_unstable();
        all
    }
}

#[tokio::test]
async fn each_kind_of_index_answers_its_restriction_without_filtering() {
    let client = shop().await;
    for (restriction, index, found) in [
        ("v = 'v1'", "v", vec![1, 4, 7, 10]),
        ("c = 5", "c", vec![5]),
        ("q = 3", "q", vec![6, 7]),
        ("m CONTAINS 7", "m", vec![7]),
        ("m CONTAINS KEY 'k1'", "keys(m)", vec![1, 3, 5, 7, 9, 11]),
        ("m['k0'] = 4", "entries(m)", vec![4]),
        ("l CONTAINS 100", "values(l)", (0..12).collect()),
        ("e CONTAINS 'e3'", "e", vec![3, 7, 11]),
        ("f = [2]", "full(f)", vec![2, 5, 8, 11]),
    ] {
        let text = format!("SELECT w FROM t WHERE {restriction}");
        assert_eq!(client.refused(&text).await, INVALID, "{restriction} needs filtering");
        client.run(&format!("CREATE INDEX ON t ({index})")).await;
        assert_eq!(client.sorted(&text).await, found, "{restriction}");
    }
    assert_eq!(
        client.sorted("SELECT w FROM t WHERE v = 'v1' AND e CONTAINS 'e3'").await,
        [7],
        "two that have an index each"
    );
    assert_eq!(client.refused("SELECT w FROM t WHERE v = 'v1' AND w = 1").await, INVALID);
    let text = "SELECT w FROM t WHERE v = 'v1' AND w = 1 ALLOW FILTERING";
    assert_eq!(client.sorted(text).await, [1]);
    assert_eq!(client.sorted("SELECT w FROM t WHERE p = 1 AND q = 3 AND v = 'v1'").await, [7]);
    assert_eq!(client.show("SELECT count(*) FROM t WHERE v = 'v1'").await, ["4"]);
    assert_eq!(client.show("SELECT w FROM t WHERE v = 'v1' LIMIT 2").await.len(), 2);
    assert_eq!(client.refused("DELETE FROM t WHERE v = 'v1'").await, INVALID);
}

/// Rows that an index finds come without the head of their partition.
#[tokio::test]
async fn rows_of_an_index_have_their_static_columns_and_what_deletes_them() {
    let client = shop().await;
    client.run("CREATE INDEX ON t (v)").await;
    client.run("UPDATE t SET s = 'here' WHERE p = 1 AND q = 2").await;
    let all = client.show("SELECT w, s FROM t WHERE v = 'v1'").await;
    assert!(all.contains(&"4 here".to_owned()), "{all:?}");
    assert!(all.contains(&"7 null".to_owned()), "{all:?}");
    client.run("DELETE FROM t WHERE p = 1 AND q = 2").await;
    client.run("DELETE FROM t WHERE p = 1 AND q = 3 AND c > 6").await;
    assert_eq!(client.sorted("SELECT w FROM t WHERE v = 'v1'").await, [1, 10]);
    client.run("DELETE v FROM t WHERE p = 0 AND q = 0 AND c = 1").await;
    assert_eq!(client.sorted("SELECT w FROM t WHERE v = 'v1'").await, [10]);
}

#[tokio::test]
async fn an_index_is_paged_through() {
    let client = shop().await;
    client.run("CREATE INDEX ON t (values(l))").await;
    let mut found = Vec::new();
    let mut state = None;
    loop {
        let mut asked = parameters(Vec::new());
        (asked.page_size, asked.paging_state) = (Some(5), state.take());
        let rows = client.rows("SELECT w FROM t WHERE l CONTAINS 100", asked).await;
        assert!(rows.rows.len() <= 5);
        found.extend(super::door::shown(&rows));
        state = rows.paging_state.clone();
        if state.is_none() {
            break;
        }
    }
    assert_eq!(found.len(), 12, "{found:?}");
    found.sort();
    found.dedup();
    assert_eq!(found.len(), 12, "{found:?}");
}

#[tokio::test]
async fn indexes_are_named_listed_described_and_dropped() {
    let client = shop().await;
    client.run("CREATE INDEX ON t (v)").await;
    assert_eq!(client.refused("CREATE INDEX \"By K\" ON t (keys(m))").await, INVALID, "a blank");
    assert_eq!(client.refused("CREATE INDEX by_e ON t (v)").await, INVALID, "a duplicate");
    client.run("CREATE INDEX IF NOT EXISTS by_e ON t (v)").await;
    assert_eq!(client.refused("CREATE INDEX t_v_idx ON t (w)").await, INVALID, "the name");
    client.run("CREATE CUSTOM INDEX sai_w ON t (w) USING 'StorageAttachedIndex'").await;
    assert_eq!(
        client
            .show("SELECT table_name, index_name, kind, options FROM system_schema.indexes WHERE keyspace_name = 'shop'")
            .await,
        [
            "t sai_w CUSTOM {'class_name': 'StorageAttachedIndex', 'target': 'w'}",
            "t t_v_idx COMPOSITES {'target': 'v'}",
        ]
    );
    assert_eq!(
        client.show("DESCRIBE INDEX sai_w").await,
        ["shop index sai_w CREATE CUSTOM INDEX sai_w ON shop.t (w) USING 'StorageAttachedIndex';"]
    );
    let table = client.show("DESCRIBE TABLE t").await.remove(0);
    assert!(table.ends_with(
        "\n\nCREATE CUSTOM INDEX sai_w ON shop.t (w) USING 'StorageAttachedIndex';\n\n\
         CREATE INDEX t_v_idx ON shop.t (v);"
    ));
    assert_eq!(client.refused("ALTER TABLE t DROP v").await, INVALID);
    client.run("ALTER TABLE t ADD x int").await;
    assert_eq!(client.sorted("SELECT w FROM t WHERE w = 3").await, [3], "it is there still");
    client.run("DROP INDEX t_v_idx").await;
    assert_eq!(client.refused("DROP INDEX shop.t_v_idx").await, INVALID);
    client.run("DROP INDEX IF EXISTS shop.t_v_idx").await;
    assert_eq!(client.refused("SELECT w FROM t WHERE v = 'v1'").await, INVALID);
    client.run("ALTER TABLE t DROP v").await;
}

#[tokio::test]
async fn what_cannot_be_indexed_is_refused() {
    let client = shop().await;
    client.run("CREATE TABLE n (k int PRIMARY KEY, c counter)").await;
    for text in [
        "CREATE INDEX ON t (s)",
        "CREATE INDEX ON t (nothing)",
        "CREATE INDEX ON t (f)",
        "CREATE INDEX ON t (keys(l))",
        "CREATE INDEX ON t (full(m))",
        "CREATE INDEX ON n (k)",
        "CREATE INDEX ON n (c)",
        "CREATE INDEX ON nowhere (c)",
        "CREATE CUSTOM INDEX ON t (v)",
        "CREATE CUSTOM INDEX ON t (v) USING 'org.apache.cassandra.index.sasi.SASIIndex'",
        "CREATE CUSTOM INDEX ON t (v) USING 'sai' WITH OPTIONS = {'case_sensitive': 'false'}",
        "CREATE INDEX ON system_schema.tables (comment)",
    ] {
        let answer = client.ask(text, parameters(Vec::new())).await;
        assert!(matches!(answer, Answer::Error(_)), "{text}: {answer:?}");
    }
}

/// Who allows that all rows are read need not wait for the index.
#[tokio::test]
async fn filtering_reads_all_rows_while_an_index_is_being_built() {
    const READ_FAILURE: i32 = 0x1300;
    let store = MemStore::new(tokio_env(), 9042);
    let client = shop_of(Client::of(store.clone()).await).await;
    client.run("CREATE INDEX ON t (v)").await;
    client.run("UPDATE t SET s = 'here' WHERE p = 1 AND q = 2").await;
    let text = "SELECT w, s FROM t WHERE v = 'v1'";
    let mut found = client.show(text).await;
    found.sort();
    assert_eq!(found, ["1 null", "10 null", "4 here", "7 null"]);
    store.set_building(true);
    assert_eq!(client.refused(text).await, READ_FAILURE);
    let text = format!("{text} ALLOW FILTERING");
    let mut shown = Vec::new();
    let mut state = None;
    loop {
        let mut asked = parameters(Vec::new());
        (asked.page_size, asked.paging_state) = (Some(1), state.take());
        let rows = client.rows(&text, asked).await;
        shown.extend(super::door::shown(&rows));
        // It is done between two pages.
        store.set_building(shown.len() < 2);
        state = rows.paging_state.clone();
        if state.is_none() {
            break;
        }
    }
    shown.sort();
    assert_eq!(shown, found);
}

/// An entry and a clustering key are made from a value, and found again by one that is equal: also
/// when its type has got a field since.
#[tokio::test]
async fn a_type_that_gets_a_field_hides_no_row() {
    let client = Client::new().await;
    client.run("CREATE TYPE u (a int)").await;
    client.run("CREATE TABLE t (p int, c frozen<u>, v int, PRIMARY KEY (p, c))").await;
    client.run("CREATE TABLE k (p frozen<u> PRIMARY KEY, v int)").await;
    client.run("INSERT INTO t (p, c, v) VALUES (1, {a: 1}, 1)").await;
    let refused = client.refused("ALTER TYPE u ADD b int").await;
    assert_eq!(refused, INVALID, "it is in a partition key");
    client.run("DROP TABLE k").await;
    client.run("ALTER TYPE u ADD b int").await;
    assert_eq!(client.sorted("SELECT v FROM t WHERE p = 1 AND c = {a: 1}").await, [1]);
    client.run("INSERT INTO t (p, c, v) VALUES (1, {a: 1}, 2)").await;
    client.run("INSERT INTO t (p, c, v) VALUES (1, {a: 1, b: 0}, 3)").await;
    assert_eq!(client.sorted("SELECT v FROM t WHERE p = 1").await, [2, 3]);
}
