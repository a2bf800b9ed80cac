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
    cluster: TestCluster,
}

impl Doors {
    async fn open() -> Self {
        Self::open_of(1).await
    }

    /// The first node's, of so many.
    async fn open_of(nodes: u8) -> Self {
        let cluster = TestCluster::start(nodes).await;
        let place = &cluster.layout().places[0];
        let (http, cql) = (place.http, place.cql);
        let cql = CqlConnection::open(&cql.to_string()).await.expect("it listens");
        Self { http, cql, cluster }
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
async fn rows_are_compared_and_set_by_their_entity_tags() {
    let mut doors = Doors::open().await;
    let strategy = "{'class': 'SimpleStrategy', 'replication_factor': 1}";
    doors.cql(&format!("CREATE KEYSPACE shop WITH replication = {strategy}")).await;
    doors
        .cql(
            "CREATE TABLE shop.stock (item text, size int, note text static, left int, \
             tags set<text>, PRIMARY KEY (item, size))",
        )
        .await;
    let path = "/v1/kv/shop.stock/[%22shirt%22,42]";
    let http = doors.http;
    let with = async |method: &str, header: &str, tag: &str, body: &str| {
        raw::request(http, method, path, &[(header, tag)], body.as_bytes()).await
    };
    let tag = async || {
        let answer = raw::request(http, "GET", path, &[], b"").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.header("etag").expect("of one row").to_owned()
    };
    assert_eq!(with("PUT", "if-match", "*", r#"{"left": 1}"#).await.status, 412, "no row");
    doors.cql("INSERT INTO shop.stock (item, size, note) VALUES ('shirt', 41, 'n')").await;
    let other = with("PUT", "if-match", "*", r#"{"left": 1}"#).await;
    assert_eq!((other.status, other.json()["current"].clone()), (412, json!([])), "another row");
    doors.cql("INSERT INTO shop.stock (item, size, left) VALUES ('shirt', 42, 7)").await;

    let first = tag().await;
    assert_eq!(with("GET", "if-none-match", &first, "").await.status, 304);
    assert_eq!(with("PUT", "if-match", &first, r#"{"left": 6}"#).await.status, 204);
    let late = with("PUT", "if-match", &first, r#"{"left": 5}"#).await;
    assert_eq!(late.status, 412, "{}", late.text());
    assert_eq!(late.json()["current"][0]["left"], json!(6));
    let second = tag().await;
    assert_eq!(late.header("etag"), Some(second.as_str()), "the tag of what stands there");
    // Whatever changes what the row shows changes its tag; the same content has the same again.
    let mut seen = vec![first.clone(), second];
    for text in [
        "UPDATE shop.stock SET tags = {'a'} WHERE item = 'shirt' AND size = 42",
        "UPDATE shop.stock SET tags = tags + {'b'} WHERE item = 'shirt' AND size = 42",
        "UPDATE shop.stock SET note = 'm' WHERE item = 'shirt'",
        "DELETE left FROM shop.stock WHERE item = 'shirt' AND size = 42",
    ] {
        doors.cql(text).await;
        let now = tag().await;
        assert!(!seen.contains(&now), "{text}");
        seen.push(now);
    }
    doors.cql("UPDATE shop.stock SET note = 'n' WHERE item = 'shirt'").await;
    doors.cql("UPDATE shop.stock SET tags = {}, left = 7 WHERE item = 'shirt' AND size = 42").await;
    assert_eq!(tag().await, first);

    for (method, header, value) in [
        ("DELETE", "if-match", "\"35addf82b6e565909ddabfd9a7fd0136\""),
        ("DELETE", "if-match", "\"x\""),
        ("PUT", "if-match", &seen[1]),
    ] {
        assert_eq!(with(method, header, value, "{}").await.status, 412, "{method} {value}");
    }
    assert_eq!(with("PUT", "if-none-match", &first, "{}").await.problem(), "not-supported");
    assert_eq!(with("PUT", "if-match", "x", "{}").await.problem(), "bad-request");
    assert_eq!(with("DELETE", "if-match", &first, "").await.status, 204);
    assert_eq!(doors.http("GET", path, "").await.status, 404);
    assert_eq!(with("DELETE", "if-match", &first, "").await.status, 412);

    // Nobody's update is lost.
    assert_eq!(doors.http("PUT", path, r#"{"left": 0}"#).await.status, 204);
    let add = async || {
        for _ in 0..10 {
            loop {
                let found =
                    raw::request(http, "GET", &format!("{path}?level=serial"), &[], b"").await;
                let left = found.json()["rows"][0]["left"].as_i64().expect("a number");
                let tag = found.header("etag").expect("of one row");
                let body = json!({ "left": left + 1 }).to_string();
                let put =
                    raw::request(http, "PUT", path, &[("if-match", tag)], body.as_bytes()).await;
                if put.status == 204 {
                    break;
                }
                assert_eq!(put.status, 412, "{}", put.text());
            }
        }
    };
    tokio::join!(add(), add(), add());
    assert_eq!(doors.rows(path).await[0]["left"], json!(30));
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

/// A statement over HTTP.
async fn post(doors: &Doors, body: Value) -> Raw {
    doors.http("POST", "/v1/cql", &body.to_string()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_run_over_http_as_over_cql() {
    let doors = Doors::open().await;
    let run = |body: Value| post(&doors, body);
    let strategy = "{'class': 'SimpleStrategy', 'replication_factor': 1}";
    let nothing = json!({"columns": [], "rows": [], "next": null});
    for body in [
        json!({"query": format!("CREATE KEYSPACE shop WITH replication = {strategy}")}),
        json!({
            "query": "CREATE TABLE orders (city text, at int, total varint, tags set<text>, \
                      PRIMARY KEY (city, at))",
            "keyspace": "shop",
        }),
        json!({
            "query": "INSERT INTO orders (city, at, total, tags) VALUES (?, ?, ?, ?)",
            "params": ["Graz", 1, "123456789012345678901234567890", ["a", "it's"]],
            "keyspace": "shop",
            "consistency": "all",
        }),
        json!({
            "query": "INSERT INTO shop.orders JSON :row",
            "params": {"row": "{\"city\": \"Graz\", \"at\": 2, \"total\": 7}"},
            "timestamp": 1_000,
        }),
    ] {
        let answer = run(body.clone()).await;
        assert_eq!(
            (answer.status, answer.json()),
            (200, nothing.clone()),
            "{body}: {}",
            answer.text()
        );
    }
    let select =
        "SELECT at, total, tags, writetime(total) AS written FROM shop.orders WHERE city = :c";
    let first = json!({"query": select, "params": {"c": "Graz"}, "page_size": 1});
    let page = run(first.clone()).await.json();
    let types: Vec<&str> =
        page["columns"].as_array().unwrap().iter().map(|c| c["type"].as_str().unwrap()).collect();
    assert_eq!(types, ["int", "varint", "set<text>", "bigint"]);
    assert_eq!(page["rows"][0]["total"], "123456789012345678901234567890");
    assert_eq!(page["rows"][0]["tags"], json!(["a", "it's"]));
    let mut second = first.clone();
    second["paging_state"] = page["next"].clone();
    let page = run(second).await.json();
    assert_eq!(page["rows"], json!([{"at": 2, "total": 7, "tags": null, "written": 1_000}]));
    let insert = "INSERT INTO shop.orders (city, at) VALUES ('Graz', 2) IF NOT EXISTS";
    let refused = run(json!({"query": insert, "serial_consistency": "local_serial"})).await.json();
    assert_eq!(refused["rows"][0]["[applied]"], false);
    assert_eq!(refused["rows"][0]["total"], 7);
    let names = run(json!({"query": "DESCRIBE TABLES", "keyspace": "shop"})).await.json();
    assert_eq!(names["rows"][0]["name"], "orders");

    // All rows as lines, several pages of them; a wrong statement has its own status all the same.
    let lines = json!({"query": "SELECT at FROM shop.orders", "page_size": 1}).to_string();
    let accept = [("accept", "application/x-ndjson")];
    let answer = raw::request(doors.http, "POST", "/v1/cql", &accept, lines.as_bytes()).await;
    let text = answer.text();
    let rows: Vec<&str> = text.lines().filter(|line| line.starts_with('{')).collect();
    assert_eq!((answer.status, rows), (200, vec!["{\"at\":1}", "{\"at\":2}"]), "{text}");
    let odd = json!({"query": "SELECT a FROM shop.orders"}).to_string();
    let answer = raw::request(doors.http, "POST", "/v1/cql", &accept, odd.as_bytes()).await;
    assert_eq!(answer.problem(), "bad-request");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_statement_over_http_says_where_and_what_became_of_it() {
    let mut doors = Doors::open_of(3).await;
    doors.cluster.kill(2).expect("it runs");
    let doors = doors;
    let run = |body: Value| post(&doors, body);
    let strategy = "{'class': 'SimpleStrategy', 'replication_factor': 3}";
    for text in [
        &format!("CREATE KEYSPACE shop WITH replication = {strategy}"),
        "CREATE TABLE shop.t (k int PRIMARY KEY, v text)",
    ] {
        assert_eq!(run(json!({"query": text})).await.status, 200, "{text}");
    }
    let syntax = run(json!({"query": "SELECT *\n FORM t"})).await.json();
    assert_eq!((&syntax["line"], &syntax["column"]), (&json!(2), &json!(1)), "{syntax}");
    assert_eq!(syntax["code"], "0x2000");
    assert_eq!(syntax["outcome"], "not_applied");
    // Once it is known to be down, the problem is the one that every request would get.
    let all = json!({"query": "SELECT * FROM shop.t", "consistency": "all"});
    let mut read = run(all.clone()).await;
    for _ in 0..600 {
        if read.status == 503 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        read = run(all.clone()).await;
    }
    assert_eq!((read.status, read.problem().as_str()), (503, "unavailable"), "{}", read.text());
    let read = read.json();
    assert_eq!((&read["required"], &read["alive"]), (&json!(3), &json!(2)), "{read}");
    assert_eq!((&read["code"], read.get("outcome")), (&json!("0x1000"), None), "{read}");
    let insert = "INSERT INTO shop.t (k) VALUES (1)";
    let write = run(json!({"query": insert, "consistency": "all"})).await.json();
    assert_eq!((&write["level"], &write["outcome"]), (&json!("all"), &json!("not_applied")));
    for (body, code) in [
        (json!({"query": "SELECT k, k FROM shop.t", "consistency": "one"}), None),
        (json!({"query": "USE shop"}), Some("0x2200")),
        (json!({"query": "CREATE TABLE shop.t (k int PRIMARY KEY)"}), Some("0x2400")),
        (json!({"query": "INSERT INTO shop.t (k) VALUES (?)"}), Some("0x2200")),
        (json!({"query": "INSERT INTO shop.t (k) VALUES (?)", "params": ["x"]}), Some("0x2200")),
        (json!({"query": "INSERT INTO shop.t (k) VALUES (?)", "params": [1, 2]}), Some("0x2200")),
        (
            json!({"query": "INSERT INTO shop.t (k) VALUES (:a)", "params": {"b": 1}}),
            Some("0x2200"),
        ),
        (json!({"query": "SELECT * FROM shop.t", "paging_state": "AAAA"}), Some("0x000a")),
        (json!({"query": "SELECT * FROM shop.t", "paging_state": "?"}), None),
        (json!({"query": "SELECT * FROM shop.t", "page_size": 0}), None),
        (json!({"query": "SELECT * FROM shop.t", "consistency": "most"}), None),
        (json!({"query": "SELECT * FROM shop.t", "serial_consistency": "one"}), None),
        (json!({"query": "SELECT * FROM shop.t", "params": 7}), None),
        (json!({"query": "SELECT * FROM shop.t", "parms": []}), None),
        (json!({}), None),
    ] {
        let answer = run(body.clone()).await;
        assert_eq!(answer.problem(), "bad-request", "{body}: {}", answer.text());
        assert_eq!(answer.json()["code"].as_str(), code, "{body}: {}", answer.text());
    }
    let answer = doors.http("GET", "/v1/cql", "").await;
    assert_eq!((answer.status, answer.header("allow")), (405, Some("post")));
    assert_eq!(doors.http("POST", "/v1/cql?level=one", "{}").await.problem(), "bad-request");
}
