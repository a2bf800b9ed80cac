//! What each statement is answered, form by form: the list of what applications written for
//! Cassandra send. Each table here is a script, run from its top.
//!
//! An expectation is `void`, `none` (no rows), rows with ` | ` between, `CREATED TABLE ks.t` and
//! the like, `use ks`, or an error as its code in hex and a part of its message.

mod functions;
mod reads;
mod schema;
mod types;
mod writes;

use super::client::Server;
use super::door::{Client, parameters, shown};
use crate::server::cql::frame::{Version, opcode};
use crate::server::cql::response::Answer;
use crate::server::cql::wire::Writer;

/// A statement and what it is answered.
type Line = (&'static str, &'static str);

/// All scripts, by their names.
const SCRIPTS: &[(&str, &[Line])] = &[
    ("rows that are read", reads::ROWS),
    ("which rows are refused", reads::REFUSED),
    ("how a statement may be written", reads::FORMS),
    ("rows that are written", writes::ROWS),
    ("writes that are refused", writes::REFUSED),
    ("batches", writes::BATCHES),
    ("conditional writes", writes::CONDITIONS),
    ("keyspaces", schema::KEYSPACES),
    ("tables", schema::TABLES),
    ("types of users", schema::TYPES),
    ("what there is not", schema::ABSENT),
    ("native types", types::NATIVE),
    ("collections, tuples and types of users", types::COMPOSED),
    ("dates and times", types::TIMES),
    ("functions", functions::SCALAR),
    ("aggregates", functions::AGGREGATES),
    ("tokens", functions::TOKENS),
];

/// An answer as the tables have it.
fn outcome(answer: &Answer) -> String {
    match answer {
        Answer::Void => "void".to_owned(),
        Answer::SetKeyspace(name) => format!("use {name}"),
        Answer::SchemaChange(change) => {
            let (keyspace, name) = (&change.keyspace, &change.name);
            let name = if name.is_empty() { keyspace } else { &format!("{keyspace}.{name}") };
            format!("{} {} {name}", change.change, change.target)
        }
        Answer::Rows(rows) if rows.rows.is_empty() => "none".to_owned(),
        Answer::Rows(rows) => shown(rows).join(" | "),
        Answer::Error(error) => format!("{:04x} {}", error.code(), error.message()),
        other => format!("{other:?}"),
    }
}

/// The code of an expected error.
fn code_of(expected: &str) -> Option<i32> {
    let code = expected.get(..4).filter(|_| expected.get(4..5).is_none_or(|next| next == " "))?;
    i32::from_str_radix(code, 16).ok().filter(|_| code.chars().all(|c| c.is_ascii_hexdigit()))
}

fn is_as_expected(got: &str, expected: &str) -> bool {
    match code_of(expected).filter(|_| expected != "none") {
        Some(_) => {
            let (code, part) = expected.split_at(4);
            got.starts_with(code) && got.contains(part.trim_start())
        }
        None => got == expected,
    }
}

#[tokio::test]
async fn every_statement_is_answered_as_cassandra_answers_it() {
    let mut wrong = Vec::new();
    for (script, lines) in SCRIPTS {
        let client = Client::new().await;
        for (text, expected) in *lines {
            let got = outcome(&client.ask(text, parameters(Vec::new())).await);
            if !is_as_expected(&got, expected) {
                wrong.push(format!("{script}: {text}\n    wanted {expected}\n    got    {got}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// Prepared or not, on either version: whatever a statement is answered, the next one is answered
/// too.
#[tokio::test]
async fn no_statement_ends_its_connection() {
    for version in [Version::V4, Version::V5] {
        for (script, lines) in SCRIPTS {
            let server = Server::start(64 << 20).await;
            let mut client = server.client(version, false).await;
            client.good("CREATE KEYSPACE shop WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}").await;
            client.good("USE shop").await;
            for (text, expected) in *lines {
                let mut prepare = Writer::default();
                prepare.int(text.len() as i64);
                prepare.0.extend_from_slice(text.as_bytes());
                if version == Version::V5 {
                    prepare.int(0);
                }
                let prepared = client.ask(opcode::PREPARE, &prepare.0).await;
                assert_ne!(prepared.code(), 0x000A, "{script}: {text}");
                let answer = client.run(text).await;
                let code = code_of(expected).filter(|_| answer.opcode == opcode::ERROR);
                let is_right = match code {
                    Some(code) => answer.code() == code,
                    None => answer.opcode == opcode::RESULT,
                };
                assert!(is_right, "{script}: {text}: {answer:?}");
            }
        }
    }
}

/// Columns of results are called as Cassandra calls them.
#[tokio::test]
async fn columns_of_results_have_their_names() {
    let client = Client::new().await;
    client.run("CREATE TYPE a (street text, zip int)").await;
    client
        .run(
            "CREATE TABLE t (p int, c timeuuid, v int, m map<text, int>, a frozen<a>, \
             PRIMARY KEY (p, c))",
        )
        .await;
    for (selectors, names) in [
        ("*", "p c a m v"),
        ("v, p AS key, \"v\" AS \"Value\"", "v key Value"),
        ("count(*), count(1), count(v)", "count count system.count(v)"),
        (
            "min(v), max(v), sum(v), avg(v)",
            "system.min(v) system.max(v) system.sum(v) system.avg(v)",
        ),
        ("writetime(v), ttl(v), token(p)", "writetime(v) ttl(v) system.token(p)"),
        ("toTimestamp(c), intAsBlob(v)", "system.totimestamp(c) system.intasblob(v)"),
        ("cast(v AS text)", "cast(v as text)"),
        ("a.zip, m['k']", "a.zip m['k']"),
        ("JSON *", "[json]"),
    ] {
        let text = format!("SELECT {selectors} FROM t");
        let rows = client.rows(&text, parameters(Vec::new())).await;
        let got: Vec<&str> = rows.metadata.columns.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(got.join(" "), names, "{text}");
    }
}

/// Drivers send values by the names and types of bind markers, and route by those that are the
/// partition key's.
#[tokio::test]
async fn bind_markers_have_their_names_and_types_and_the_key_its_places() {
    let client = Client::new().await;
    client.run("CREATE TYPE a (street text, zip int)").await;
    client.run("CREATE TABLE t (a int, b text, c int, d int, v text, l list<int>, m map<text, int>, s set<int>, u a, n varint, PRIMARY KEY ((a, b), c, d))").await;
    client.run("CREATE TABLE n (k int PRIMARY KEY, c counter)").await;
    let here = "a = ? AND b = ? AND c = ? AND d = ?";
    for (text, markers, key) in [
        ("SELECT * FROM t WHERE b = ? AND a = ?", "b text, a int", &[1u16, 0][..]),
        ("SELECT * FROM t WHERE a = :x AND b = :y", "x int, y text", &[0, 1]),
        ("SELECT * FROM t WHERE a = 1 AND b = ?", "b text", &[]),
        ("SELECT * FROM t WHERE a IN ? AND b = ?", "in(a) list<int>, b text", &[]),
        ("SELECT * FROM t WHERE a IN (?, ?) AND b = ?", "in(a) int, in(a) int, b text", &[]),
        (
            "SELECT * FROM t WHERE a = ? AND b = ? AND c > ? LIMIT ?",
            "a int, b text, c int, [limit] int",
            &[0, 1],
        ),
        (
            "SELECT * FROM t WHERE a = ? AND b = ? AND (c, d) > ?",
            "a int, b text, (c,d) frozen<tuple<int, int>>",
            &[0, 1],
        ),
        (
            "SELECT * FROM t WHERE a = ? AND b = ? AND (c, d) > (?, ?)",
            "a int, b text, (c,d) int, (c,d) int",
            &[0, 1],
        ),
        (
            "SELECT * FROM t WHERE token(a, b) > ? AND token(a, b) <= ?",
            "partition key token bigint, partition key token bigint",
            &[],
        ),
        ("SELECT * FROM t WHERE token(a, b) > token(?, ?)", "a int, b text", &[]),
        ("SELECT * FROM t PER PARTITION LIMIT ?", "[per_partition_limit] int", &[]),
        (
            "SELECT * FROM t WHERE a = ? AND b = ? AND m CONTAINS KEY ? AND m CONTAINS ? ALLOW FILTERING",
            "a int, b text, key(m) text, value(m) int",
            &[0, 1],
        ),
        (
            "INSERT INTO t (b, a, c, d, l) VALUES (?, ?, 1, 1, [?, 2]) USING TTL ? AND TIMESTAMP ?",
            "b text, a int, l int, [ttl] int, [timestamp] bigint",
            &[1, 0],
        ),
        (
            "INSERT INTO t (a, b, c, d, v) VALUES (:a, :b, :c, :d, :value)",
            "a int, b text, c int, d int, value text",
            &[0, 1],
        ),
        ("INSERT INTO t JSON ?", "[json] text", &[]),
        (
            "UPDATE t USING TTL ? SET v = ? WHERE <row>",
            "[ttl] int, v text, a int, b text, c int, d int",
            &[2, 3],
        ),
        (
            "UPDATE t SET m[?] = ?, l[?] = ? WHERE <row>",
            "key(m) text, value(m) int, idx(l) int, value(l) int, a int, b text, c int, d int",
            &[4, 5],
        ),
        (
            "UPDATE t SET l = l + ?, s = s - ?, m = m + ? WHERE <row>",
            "l list<int>, s set<int>, m map<text, int>, a int, b text, c int, d int",
            &[3, 4],
        ),
        (
            "UPDATE t SET m = m - ?, u.zip = ? WHERE <row>",
            "m set<text>, u.zip int, a int, b text, c int, d int",
            &[2, 3],
        ),
        (
            "UPDATE t SET v = ? WHERE <row> IF v = ?",
            "v text, a int, b text, c int, d int, v text",
            &[1, 2],
        ),
        (
            "DELETE m[?] FROM t USING TIMESTAMP ? WHERE <row>",
            "key(m) text, [timestamp] bigint, a int, b text, c int, d int",
            &[2, 3],
        ),
        ("DELETE FROM t WHERE a = ? AND b = ?", "a int, b text", &[0, 1]),
        ("UPDATE n SET c = c + ? WHERE k = ?", "c counter, k int", &[1]),
        (
            "BEGIN BATCH INSERT INTO t (a, b, c, d) VALUES (?, ?, ?, ?); DELETE FROM t WHERE a = ? AND b = ? APPLY BATCH",
            "a int, b text, c int, d int, a int, b text",
            &[],
        ),
    ] {
        let text = text.replace("<row>", here);
        let answer = client.prepare(&text).await;
        let Answer::Prepared { binds, key: places, .. } = answer else {
            panic!("{text}: {answer:?}");
        };
        let got: Vec<String> =
            binds.columns.iter().map(|column| format!("{} {}", column.name, column.kind)).collect();
        assert_eq!(got.join(", "), markers, "{text}");
        assert_eq!(places, key, "{text}");
    }
}
