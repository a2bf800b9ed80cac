//! JSON in the language: SELECT JSON, INSERT JSON, toJson, fromJson.

use super::door::{Client, parameters, shown};
use crate::server::cql::response::Answer;
use crate::server::cql::wire::Value;

async fn shop() -> Client {
    let client = Client::new().await;
    client.run("CREATE TYPE maker (name text, \"Since\" int)").await;
    client
        .run(
            "CREATE TABLE stock (item text, \"Size\" int, price decimal, tags set<text>, made \
             frozen<maker>, at timestamp, note text, PRIMARY KEY (item, \"Size\"))",
        )
        .await;
    client
}

const SHIRT: &str = r#"{"item": "shirt", "\"Size\"": 42, "price": 12.34567890123456789, "tags": ["x", "y"], "made": {"name": "it's", "\"Since\"": 1901}, "at": "2024-01-02 03:04:05.006Z", "note": null}"#;

fn insert(row: &str, rest: &str) -> String {
    format!("INSERT INTO stock JSON '{}'{rest}", row.replace('\'', "''"))
}

#[tokio::test]
async fn a_row_comes_back_as_the_json_that_it_was_written_as() {
    let client = shop().await;
    client.run(&insert(SHIRT, "")).await;
    let columns = "item, \"Size\", price, tags, made, at, note";
    assert_eq!(client.show(&format!("SELECT JSON {columns} FROM stock")).await, [SHIRT]);
    let all = client.rows("SELECT JSON * FROM stock", parameters(Vec::new())).await;
    assert_eq!(all.metadata.columns[0].name, "[json]");
    let show = |text: &'static str| client.show(text);
    assert_eq!(
        show("SELECT JSON item AS \"What\", count(*) AS n FROM stock GROUP BY item").await,
        [r#"{"\"What\"": "shirt", "n": 1}"#]
    );
    assert_eq!(
        show("SELECT toJson(made), to_json(note), toJson(at) FROM stock").await,
        [r#"{"name": "it's", "\"Since\"": 1901} null "2024-01-02 03:04:05.006Z""#]
    );
    assert_eq!(show("SELECT JSON DISTINCT item FROM stock").await, [r#"{"item": "shirt"}"#]);
}

#[tokio::test]
async fn columns_that_the_json_does_not_have_are_null_or_left_alone() {
    let client = shop().await;
    client.run(&insert(SHIRT, "")).await;
    let short = r#"{"ITEM": "shirt", "\"Size\"": 42, "note": "new"}"#;
    client.run(&insert(short, " DEFAULT UNSET")).await;
    let show = "SELECT price, tags, note FROM stock";
    assert_eq!(client.show(show).await, ["12.34567890123456789 {'x', 'y'} new"]);
    client.run(&insert(short, " DEFAULT NULL IF NOT EXISTS")).await;
    assert_eq!(client.show(show).await, ["12.34567890123456789 {'x', 'y'} new"]);
    client.run(&insert(short, " USING TTL 1000")).await;
    assert_eq!(client.show(show).await, ["null null new"]);
}

#[tokio::test]
async fn the_json_may_be_bound_and_stand_in_a_batch() {
    let client = shop().await;
    let text = |text: &str| Value::Bytes(text.as_bytes().to_vec());
    let number = |number: i32| Value::Bytes(number.to_be_bytes().to_vec());
    let batch = "BEGIN BATCH INSERT INTO stock JSON ?; INSERT INTO stock (item, \"Size\", tags) \
                 VALUES ('shirt', ?, fromJson(?)); INSERT INTO stock JSON :last DEFAULT UNSET; \
                 APPLY BATCH";
    let values = vec![
        text(SHIRT),
        number(43),
        text(r#"["z"]"#),
        text(r#"{"item": "shirt", "\"Size\"": 44}"#),
    ];
    let answer = client.ask(batch, parameters(values)).await;
    assert!(matches!(answer, Answer::Void), "{answer:?}");
    assert_eq!(
        client.show("SELECT \"Size\", tags FROM stock").await,
        ["42 {'x', 'y'}", "43 {'z'}", "44 null"]
    );
    let update = "UPDATE stock SET made = fromJson(:made) WHERE item = 'shirt' AND \"Size\" = 44";
    let answer = client.ask(update, parameters(vec![text(r#"{"\"Since\"": 7}"#)])).await;
    assert!(matches!(answer, Answer::Void), "{answer:?}");
    let rows = client.rows(
        "SELECT made FROM stock WHERE item = 'shirt' AND \"Size\" = 44",
        parameters(Vec::new()),
    );
    assert_eq!(shown(&rows.await), ["{name: null, \"Since\": 7}"]);
    for bad in [Value::Null, Value::Unset, text("[1]"), text("{"), text(r#"{"item": "x"}"#)] {
        let answer = client.ask("INSERT INTO stock JSON ?", parameters(vec![bad.clone()])).await;
        assert!(matches!(answer, Answer::Error(_)), "{bad:?}: {answer:?}");
    }
}

#[tokio::test]
async fn json_that_is_no_row_is_refused() {
    let client = shop().await;
    for (row, why) in [
        (r#"{"item": "x", "\"Size\"": 1, "size": 2}"#, "a column that there is not"),
        (r#"{"item": "x", "\"Size\"": "many"}"#, "no number"),
        (r#"{"item": 7, "\"Size\"": 1}"#, "no text"),
        (r#"{"item": "x"}"#, "a part of the key is missing"),
        ("nothing", "no JSON"),
        ("{} {}", "two of them"),
    ] {
        assert_eq!(client.refused(&insert(row, "")).await, 0x2200, "{why}");
    }
    for (text, code) in [
        ("INSERT INTO stock JSON 7", 0x2000),
        ("INSERT INTO stock JSON '{}' DEFAULT 7", 0x2000),
        ("SELECT fromJson(note) FROM stock", 0x2200),
        ("SELECT toJson(note, item) FROM stock", 0x2200),
        ("INSERT INTO stock (item, \"Size\") VALUES (fromJson('7'), 1)", 0x2200),
    ] {
        assert_eq!(client.refused(text).await, code, "{text}");
    }
}
