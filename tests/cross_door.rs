//! One store, two doors: what is written over HTTP is read over CQL, and the other way round,
//! against a process and through its sockets.
#![allow(clippy::disallowed_methods, reason = "drives real processes")]

mod support;

use std::net::SocketAddr;

use henge::client::{CqlConnection, CqlFailure};
use serde_json::{Value, json};
use support::cluster::TestCluster;
use support::raw::{self, Raw};

struct Doors {
    http: SocketAddr,
    cql: CqlConnection,
    _cluster: TestCluster,
}

impl Doors {
    async fn open() -> Self {
        let cluster = TestCluster::start(1).await;
        let place = &cluster.layout().places[0];
        let (http, cql) = (place.http, place.cql);
        let cql = CqlConnection::open(&cql.to_string()).await.expect("it listens");
        Self { http, cql, _cluster: cluster }
    }

    /// Runs a statement; the number of rows that a SELECT shows.
    async fn cql(&mut self, text: &str) -> u32 {
        if !text.starts_with("SELECT") {
            self.cql.query(text).await.unwrap_or_else(|error| panic!("{text}: {error}"));
            return 0;
        }
        let id = self.cql.prepare(text).await.unwrap_or_else(|error| panic!("{text}: {error}"));
        let quorum = 4;
        let result = self.cql.execute(&id, quorum, &[]).await;
        result.unwrap_or_else(|error| panic!("{text}: {error}")).rows
    }

    async fn refused(&mut self, text: &str) -> (i32, String) {
        match self.cql.query(text).await {
            Err(CqlFailure::Refused { code, message }) => (code, message),
            other => panic!("{text}: {other:?}"),
        }
    }

    async fn http(&self, method: &str, path: &str, body: &str) -> Raw {
        raw::request(self.http, method, path, &[], body.as_bytes()).await
    }

    async fn rows(&self, path: &str) -> Value {
        let answer = self.http("GET", path, "").await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        answer.json()["rows"].clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_a_cql_table_are_read_and_written_with_curl() {
    let mut doors = Doors::open().await;
    let strategy = "{'class': 'SimpleStrategy', 'replication_factor': 1}";
    doors.cql(&format!("CREATE KEYSPACE shop WITH replication = {strategy}")).await;
    doors
        .cql(
            "CREATE TABLE shop.orders (city text, at int, total int, tags set<text>, \
             PRIMARY KEY (city, at))",
        )
        .await;
    doors.cql("INSERT INTO shop.orders (city, at, total) VALUES ('Graz', 1, 7)").await;
    let put = r#"{"total": 9, "tags": ["b", "it's"]}"#;
    let path = "/v1/kv/shop.orders/[%22Graz%22,2]";
    assert_eq!(doors.http("PUT", path, put).await.status, 204);
    let first = json!({"city": "Graz", "at": 1, "total": 7, "tags": null});
    let second = json!({"city": "Graz", "at": 2, "total": 9, "tags": ["b", "it's"]});
    assert_eq!(doors.rows("/v1/kv/shop.orders/Graz").await, json!([first, second]));
    assert_eq!(doors.rows(path).await, json!([second]));
    assert_eq!(doors.rows("/v1/kv/shop.orders").await, json!([first, second]));
    assert_eq!(doors.cql("SELECT * FROM shop.orders WHERE city = 'Graz' AND at = 2").await, 1);

    // Columns that a PUT does not name stay; null deletes one.
    assert_eq!(doors.http("PUT", path, r#"{"tags": null}"#).await.status, 204);
    let third = json!({"city": "Graz", "at": 2, "total": 9, "tags": null});
    assert_eq!(doors.rows(path).await, json!([third]));
    let create = raw::request(doors.http, "PUT", path, &[("if-none-match", "*")], b"{}").await;
    assert_eq!(create.status, 412, "{}", create.text());
    assert_eq!(create.json()["current"], json!([third]));

    let page = doors.http("GET", "/v1/kv/shop.orders?limit=1", "").await.json();
    assert_eq!(page["rows"], json!([first]));
    let next = page["next"].as_str().expect("there is more");
    let rest = format!("/v1/kv/shop.orders?limit=1&start={next}");
    assert_eq!(doors.rows(&rest).await, json!([third]));

    assert_eq!(doors.http("DELETE", path, "").await.status, 204);
    assert_eq!(doors.http("GET", path, "").await.problem(), "key-not-found");
    assert_eq!(doors.cql("SELECT * FROM shop.orders").await, 1);
    for (method, path, body, problem) in [
        ("PUT", "/v1/kv/shop.orders/Graz", "{}", "bad-request"),
        ("PUT", path, r#"{"nothing": 1}"#, "bad-request"),
        ("PUT", path, r#"{"total": "1) IF NOT EXISTS"}"#, "bad-request"),
        ("PUT", path, "[1]", "bad-request"),
        ("GET", "/v1/kv/shop.orders/[]", "", "bad-request"),
        ("GET", "/v1/kv/shop.none/x", "", "bucket-not-found"),
        ("POST", "/v1/kv/shop.orders", "x", "not-supported"),
    ] {
        let answer = doors.http(method, path, body).await;
        assert_eq!(answer.problem(), problem, "{method} {path} {body}: {}", answer.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_is_a_table_and_siblings_are_its_rows() {
    let mut doors = Doors::open().await;
    assert_eq!(doors.http("PUT", "/v1/buckets/cart", "{}").await.status, 201);
    for value in ["one", "two"] {
        assert!(doors.http("PUT", "/v1/kv/cart/k", value).await.status < 300);
    }
    assert_eq!(doors.cql("SELECT * FROM cart.kv WHERE key = 0x6b").await, 2);
    let listed = "SELECT * FROM system_schema.keyspaces WHERE keyspace_name = 'cart'";
    assert_eq!(doors.cql(listed).await, 1);
    let context = doors.http("GET", "/v1/kv/cart/k", "").await;
    assert_eq!(context.status, 300);
    // A header's name is lower case in the answer's head, and so would its value be.
    let context = context.json()["context"].as_str().expect("of the siblings").to_owned();
    let merge = format!(
        "INSERT INTO cart.kv (key, value, context) VALUES (0x6b, textAsBlob('both'), '{context}')"
    );
    doors.cql(&merge).await;
    let merged = doors.http("GET", "/v1/kv/cart/k", "").await;
    assert_eq!((merged.status, merged.text().as_str()), (200, "both"));
    let (code, why) = doors
        .refused("INSERT INTO cart.kv (key, value) VALUES (0x6b, 0x00) USING TIMESTAMP 1")
        .await;
    assert_eq!(code, 0x2200, "{why}");
    doors.cql("DELETE FROM cart.kv WHERE key = 0x6b").await;
    assert_eq!(doors.http("GET", "/v1/kv/cart/k", "").await.status, 404);
    doors.cql("DROP TABLE cart.kv").await;
    assert_eq!(doors.http("GET", "/v1/buckets/cart", "").await.status, 404);
}
