//! DESCRIBE through the whole door.

use super::door::{Client, parameters};
use crate::server::cql::response::Answer;

const MADE: &[&str] = &[
    "CREATE KEYSPACE \"Other\" WITH replication = {'class': 'NetworkTopologyStrategy', 'dc1': 1} AND durable_writes = false",
    "CREATE TYPE zip (code int, \"Place\" text)",
    "CREATE TYPE address (street text, zips frozen<list<frozen<zip>>>)",
    "CREATE TABLE lone (k uuid PRIMARY KEY)",
    "CREATE TABLE \"Wide\" (a int, b text, c timeuuid, d int, s int static, sm map<text, int> static, \
     v vector<float, 3>, l list<int>, u address, f frozen<address>, t tuple<int, text>, \
     PRIMARY KEY ((a, b), c, d)) WITH CLUSTERING ORDER BY (c DESC, d ASC) AND comment = 'it''s wide' \
     AND default_time_to_live = 60 AND gc_grace_seconds = 10 \
     AND compaction = {'class': 'LeveledCompactionStrategy'}",
    "CREATE TABLE counted (k int PRIMARY KEY, n counter)",
    "CREATE TABLE \"Other\".t (a int, b int, PRIMARY KEY ((a, b)))",
    "CREATE TABLE \"Other\".decided (a int PRIMARY KEY, b int) WITH conflict = 'strong'",
    "CREATE TABLE notes (key blob PRIMARY KEY, value blob) WITH conflict = 'siblings' \
     AND default_time_to_live = 7 AND gc_grace_seconds = 20",
];

impl Client {
    /// The statements of a DESCRIBE.
    async fn statements(&self, text: &str) -> Vec<String> {
        let rows = self.rows(text, parameters(Vec::new())).await;
        let names: Vec<&str> = rows.metadata.columns.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(names, ["keyspace_name", "type", "name", "create_statement"], "{text}");
        let text = |row: &Vec<Option<bytes::Bytes>>| {
            String::from_utf8(row[3].as_ref().expect("a statement").to_vec()).expect("text")
        };
        rows.rows.iter().map(text).collect()
    }

    async fn message(&self, text: &str) -> String {
        match self.ask(text, parameters(Vec::new())).await {
            Answer::Error(error) => format!("{error:?}"),
            other => panic!("{text}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn what_describe_writes_makes_the_same_schema_elsewhere() {
    let client = Client::new().await;
    for statement in MADE {
        client.run(statement).await;
    }
    let made = client.statements("DESCRIBE SCHEMA").await;
    assert_eq!(made.len(), MADE.len() + 1, "{made:#?}");
    let elsewhere = Client::new().await;
    elsewhere.run("DROP KEYSPACE shop").await;
    for statement in &made {
        elsewhere.run(statement).await;
    }
    assert_eq!(elsewhere.statements("DESCRIBE SCHEMA").await, made);
    let full = client.statements("DESCRIBE FULL SCHEMA").await;
    assert!(full.iter().any(|text| text.starts_with("CREATE TABLE system.local (")));
    assert!(full.ends_with(&made[1..]) || made.iter().all(|text| full.contains(text)));
}

#[tokio::test]
async fn each_form_of_describe_shows_what_it_names() {
    let client = Client::new().await;
    for statement in MADE {
        client.run(statement).await;
    }
    let shown = client.show("DESC KEYSPACES").await;
    assert!(shown.contains(&"shop keyspace shop".to_owned()), "{shown:?}");
    assert!(shown.contains(&"system_schema keyspace system_schema".to_owned()), "{shown:?}");
    assert_eq!(
        client.show("DESCRIBE TABLES").await,
        ["shop table Wide", "shop table counted", "shop table lone", "shop table notes"]
    );
    assert_eq!(client.show("DESCRIBE TYPES").await, ["shop type address", "shop type zip"]);
    assert!(client.show("DESCRIBE FUNCTIONS").await.is_empty());
    assert!(client.show("DESCRIBE AGGREGATES").await.is_empty());
    let keyspace = client.statements("DESCRIBE KEYSPACE").await;
    let order: Vec<&str> = keyspace.iter().filter_map(|text| text.split(' ').nth(2)).collect();
    assert_eq!(
        order,
        [
            "shop",
            "shop.zip",
            "shop.address",
            "shop.\"Wide\"",
            "shop.counted",
            "shop.lone",
            "shop.notes"
        ]
    );
    assert_eq!(client.statements("DESCRIBE ONLY KEYSPACE shop").await, keyspace[..1]);
    assert_eq!(client.statements("DESCRIBE shop").await, keyspace);
    for text in ["DESCRIBE TABLE lone", "DESC lone", "DESCRIBE shop.lone WITH INTERNALS"] {
        assert_eq!(client.statements(text).await, keyspace[5..6], "{text}");
    }
    assert_eq!(client.statements("DESCRIBE TYPE zip").await, keyspace[1..2]);
    assert_eq!(client.statements("DESCRIBE zip").await, keyspace[1..2]);
    let cluster = client.show("DESCRIBE CLUSTER").await;
    assert!(cluster[0].starts_with("c Murmur3Partitioner "), "{cluster:?}");
    assert!(cluster[0].contains("'9223372036854775807': ['"), "{cluster:?}");
}

#[tokio::test]
async fn what_there_is_not_is_not_described() {
    let client = Client::new().await;
    for (text, part) in [
        ("DESCRIBE KEYSPACE nope", "'nope' not found in keyspaces"),
        ("DESCRIBE TABLE nope", "Table 'nope' not found in keyspace 'shop'"),
        ("DESCRIBE TABLE nope.t", "'nope' not found in keyspaces"),
        ("DESCRIBE TYPE nope", "User defined type 'nope' not found in 'shop'"),
        ("DESCRIBE INDEX i", "Index 'i' not found in keyspace 'shop'"),
        ("DESCRIBE MATERIALIZED VIEW v", "Materialized view 'v' not found in keyspace 'shop'"),
        ("DESCRIBE nope", "'nope' not found in keyspace 'shop'"),
        ("DESCRIBE 'x'", "expected what to describe: KEYSPACES"),
    ] {
        let message = client.message(text).await;
        assert!(message.contains(part), "{text}: {message}");
    }
}

#[tokio::test]
async fn a_description_comes_in_pages_that_end_when_the_schema_changes() {
    let client = Client::new().await;
    for statement in MADE {
        client.run(statement).await;
    }
    let all = client.show("DESCRIBE SCHEMA").await;
    let mut pages = Vec::new();
    let mut state = None;
    loop {
        let mut terms = parameters(Vec::new());
        (terms.page_size, terms.paging_state) = (Some(3), state.take());
        let page = client.rows("DESCRIBE SCHEMA", terms).await;
        pages.extend(super::door::shown(&page));
        state = page.paging_state;
        if state.is_none() {
            break;
        }
        assert_eq!(page.rows.len(), 3);
    }
    assert_eq!(pages, all);
    let mut terms = parameters(Vec::new());
    terms.page_size = Some(1);
    let page = client.rows("DESCRIBE SCHEMA", terms.clone()).await;
    client.run("CREATE TABLE more (k int PRIMARY KEY)").await;
    terms.paging_state = page.paging_state;
    let late = client.ask("DESCRIBE SCHEMA", terms.clone()).await;
    assert!(format!("{late:?}").contains("schema has changed"), "{late:?}");
    terms.paging_state = Some(vec![1, 2, 3]);
    let bad = client.ask("DESCRIBE SCHEMA", terms).await;
    assert!(format!("{bad:?}").contains("paging state"), "{bad:?}");
}
