//! Buckets as CQL tables, below the socket: what is written at one door is read at the other.
#![cfg(feature = "sim")]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use henge::coordinator::{Condition, ReadOp, WriteAction, WriteOp, WriteOutcome};
use henge::meta::{Command, ConflictMode, Table, TableSettings};
use henge::node::NodeBackend;
use henge::server::cql::direct::{PageOfRows, Reply, Terms};
use henge::server::http::backend::Backend as _;
use henge::sim::stage::Stage;
use henge::types::Consistency::{self, One, Quorum};
use henge::types::Key;

const TIME: Duration = Duration::from_secs(1);

fn ok(stage: &mut Stage, text: &str) -> PageOfRows {
    stage.rows(0, Quorum, text).unwrap_or_else(|why| panic!("{why}"))
}

fn refused(stage: &mut Stage, text: &str) -> String {
    match stage.cql(0, Quorum, text) {
        Reply::Failed { not_applied: true, message, .. } => message,
        other => panic!("{text}: {other:?}"),
    }
}

/// The bucket `name`, made as the HTTP door makes it.
fn bucket(stage: &mut Stage, name: &str, conflict: ConflictMode) -> Arc<Table> {
    let settings = TableSettings { conflict, ..TableSettings::bucket(3) };
    let command = Command::CreateTable { name: name.parse().unwrap(), settings };
    let made = stage.run(0, |node| async move {
        let deadline = node.env().mono() + 10 * TIME;
        node.cluster().append(command, deadline).await.map(|_| ())
    });
    made.unwrap().unwrap();
    table(stage, name)
}

fn table(stage: &Stage, name: &str) -> Arc<Table> {
    let life = stage.cluster().life(0).expect("it runs");
    let state = life.node.cluster().state();
    state.table_named(&name.parse().unwrap()).expect("it was made").clone()
}

/// A PUT (or, without a value, a DELETE) of the HTTP door, with a `Henge-Context`.
fn put(
    stage: &mut Stage,
    table: &Arc<Table>,
    key: &str,
    value: Option<&str>,
    context: Option<&str>,
) -> WriteOutcome {
    let (table, key) = (table.clone(), Key::new(key.as_bytes().to_vec()).unwrap());
    let body = value.map(|value| Bytes::copy_from_slice(value.as_bytes()));
    let (context, meta) = (context.map(str::to_owned), vec![("a".to_owned(), "b".to_owned())]);
    let written = stage.run(1, |node| async move {
        let open = |token: String| {
            let backend = NodeBackend::new(node.clone());
            backend.codec().open(table.id, &key, &token).expect("its own")
        };
        let action = match body {
            Some(body) => WriteAction::Put { body, content_type: None, meta, ttl: None },
            None => WriteAction::Delete,
        };
        let op = WriteOp {
            context: context.map(open),
            table,
            key,
            action,
            condition: Condition::None,
            fence: None,
            level: Quorum,
            timeout: TIME,
            op: None,
            receipt: false,
        };
        node.coordinator().write(op).await
    });
    written.unwrap().unwrap()
}

/// The values that a GET of the HTTP door shows.
fn get(stage: &mut Stage, table: &Arc<Table>, key: &str) -> Vec<String> {
    let (table, key) = (table.clone(), Key::new(key.as_bytes().to_vec()).unwrap());
    let level = match table.settings.conflict {
        ConflictMode::Strong => Consistency::Serial,
        ConflictMode::Siblings | ConflictMode::Lww => Quorum,
    };
    let read = stage.run(2, move |node| async move {
        let op = ReadOp { table, key, level, timeout: TIME, receipt: false, local: false };
        node.coordinator().read(op).await
    });
    let found = read.unwrap().unwrap();
    let view = found.record.view(found.now);
    let text = |body: &Bytes| String::from_utf8_lossy(body).into_owned();
    let mut values: Vec<String> = view.versions.iter().map(|v| text(&v.value.body)).collect();
    values.sort();
    values
}

fn column(page: &PageOfRows, name: &str) -> Vec<String> {
    let text = |row: &Vec<Option<Bytes>>| match page.value(row, name) {
        Some(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        None => "null".to_owned(),
    };
    let mut all: Vec<String> = page.rows.iter().map(text).collect();
    all.sort();
    all
}

fn blob(text: &str) -> String {
    text.bytes().fold("0x".to_owned(), |out, byte| out + &format!("{byte:02x}"))
}

fn select(stage: &mut Stage, table: &str, key: &str) -> PageOfRows {
    ok(stage, &format!("SELECT * FROM {table} WHERE key = {}", blob(key)))
}

#[test]
fn a_bucket_is_read_and_written_as_table_kv_of_its_keyspace() {
    let mut stage = Stage::new(1, true).expect("a cluster");
    let cart = bucket(&mut stage, "cart", ConflictMode::Siblings);
    put(&mut stage, &cart, "k", Some("one"), None);
    put(&mut stage, &cart, "k", Some("two"), None);
    let page = select(&mut stage, "cart.kv", "k");
    assert_eq!(column(&page, "value"), ["one", "two"], "a row for each sibling");
    let contexts = column(&page, "context");
    assert_eq!(contexts[0], contexts[1], "which covers both");
    let etags = column(&page, "etag");
    assert_ne!(etags[0], etags[1]);
    let meta = page.value(&page.rows[0], "meta").expect("as it was sent");
    assert_eq!(meta[..], [0, 0, 0, 1, 0, 0, 0, 1, b'a', 0, 0, 0, 1, b'b']);

    let key = blob("k");
    let insert = |value: &str, context: &str| {
        format!(
            "INSERT INTO cart.kv (key, value, context) VALUES ({key}, {}, '{context}')",
            blob(value)
        )
    };
    ok(&mut stage, &insert("merged", &contexts[0]));
    assert_eq!(get(&mut stage, &cart, "k"), ["merged"]);
    // What was read before that write covers no more than it did.
    ok(&mut stage, &insert("late", &contexts[0]));
    assert_eq!(get(&mut stage, &cart, "k"), ["late", "merged"]);
    let forged = refused(&mut stage, &insert("x", &contexts[0].replace('A', "B")));
    assert!(forged.contains("context"), "{forged}");

    let context = column(&select(&mut stage, "cart.kv", "k"), "context")[0].clone();
    put(&mut stage, &cart, "k", Some("from http"), Some(&context));
    assert_eq!(column(&select(&mut stage, "cart.kv", "k"), "value"), ["from http"]);
    ok(&mut stage, &format!("DELETE FROM cart.kv WHERE key = {key}"));
    assert_eq!(get(&mut stage, &cart, "k"), [""; 0]);
    assert!(select(&mut stage, "cart.kv", "k").rows.is_empty());
    let blind = format!("UPDATE cart.kv SET value = {} WHERE key = {key}", blob("new"));
    ok(&mut stage, &blind);
    let deleted = "INSERT INTO cart.kv (key, value, context)";
    let context = column(&select(&mut stage, "cart.kv", "k"), "context")[0].clone();
    ok(&mut stage, &format!("{deleted} VALUES ({key}, null, '{context}')"));
    assert_eq!(get(&mut stage, &cart, "k"), [""; 0]);
    let tables = "SELECT column_name FROM system_schema.columns WHERE keyspace_name = 'cart'";
    let names = ["content_type", "context", "etag", "key", "meta", "value"];
    assert_eq!(column(&ok(&mut stage, tables), "column_name"), names);
}

#[test]
fn conditions_on_a_bucket_are_those_of_http() {
    let mut stage = Stage::new(2, true).expect("a cluster");
    for (name, conflict) in [("s", ConflictMode::Siblings), ("t", ConflictMode::Strong)] {
        let table = bucket(&mut stage, name, conflict);
        let key = blob("k");
        let create = format!(
            "INSERT INTO {name}.kv (key, value) VALUES ({key}, {}) IF NOT EXISTS",
            blob("one")
        );
        let applied = |page: &PageOfRows| page.value(&page.rows[0], "[applied]").unwrap()[0] == 1;
        assert!(applied(&ok(&mut stage, &create)));
        let lost = ok(&mut stage, &create);
        assert!(!applied(&lost), "{name}");
        assert_eq!(column(&lost, "value"), ["one"], "what stands there");
        let etag = column(&lost, "etag")[0].clone();
        let swap = |value: &str| {
            let value = blob(value);
            format!("UPDATE {name}.kv SET value = {value} WHERE key = {key} IF etag = '{etag}'")
        };
        assert!(applied(&ok(&mut stage, &swap("two"))));
        assert!(!applied(&ok(&mut stage, &swap("three"))), "it is another version by now");
        assert_eq!(get(&mut stage, &table, "k"), ["two"]);
        let gone = format!("DELETE FROM {name}.kv WHERE key = {key} IF EXISTS");
        assert!(applied(&ok(&mut stage, &gone)));
        assert!(!applied(&ok(&mut stage, &gone)));
        for bad in [
            format!("UPDATE {name}.kv SET value = 0x00 WHERE key = {key} IF value = 0x01"),
            format!("INSERT INTO {name}.kv (key, value) VALUES (0x01, 0x02) USING TIMESTAMP 5"),
            format!("INSERT INTO {name}.kv (key, value, etag) VALUES (0x01, 0x02, 'x')"),
            format!("INSERT INTO {name}.kv (key, content_type) VALUES (0x01, 'x')"),
            format!("ALTER TABLE {name}.kv ADD a int"),
        ] {
            refused(&mut stage, &bad);
        }
    }
}

#[test]
fn a_bucket_is_truncated_and_its_settings_are_changed_by_statements() {
    let mut stage = Stage::new(5, true).expect("a cluster");
    let old = bucket(&mut stage, "b", ConflictMode::Siblings);
    put(&mut stage, &old, "k", Some("old"), None);
    let context = column(&select(&mut stage, "b.kv", "k"), "context")[0].clone();
    ok(&mut stage, "TRUNCATE b.kv");
    assert!(select(&mut stage, "b.kv", "k").rows.is_empty());
    let new = table(&stage, "b");
    assert_ne!(new.id, old.id);
    assert_eq!(new.settings, old.settings);
    let late = format!("INSERT INTO b.kv (key, value, context) VALUES (0x6b, 0x00, '{context}')");
    assert!(refused(&mut stage, &late).contains("context"), "of what is not there any more");
    put(&mut stage, &new, "k", Some("new"), None);
    assert_eq!(get(&mut stage, &new, "k"), ["new"]);

    ok(&mut stage, "ALTER TABLE b.kv WITH default_time_to_live = 60 AND gc_grace_seconds = 7200");
    let altered = table(&stage, "b");
    assert_eq!((altered.settings.ttl_s, altered.settings.grace_s), (60, 7_200));
    let shown = "SELECT default_time_to_live, gc_grace_seconds FROM system_schema.tables \
                 WHERE keyspace_name = 'b' AND table_name = 'kv'";
    let page = ok(&mut stage, shown);
    let number = |name| page.value(&page.rows[0], name).map(|bytes| bytes[..].to_vec());
    assert_eq!(number("default_time_to_live"), Some(60_i32.to_be_bytes().to_vec()));
    assert_eq!(number("gc_grace_seconds"), Some(7_200_i32.to_be_bytes().to_vec()));
    for bad in [
        "ALTER TABLE b.kv WITH comment = 'x'",
        "ALTER TABLE b.kv WITH gc_grace_seconds = 'soon'",
        "ALTER TABLE b.kv WITH default_time_to_live = -1",
        "ALTER TABLE b.kv WITH conflict = 'strong'",
        "ALTER TABLE b.kv DROP meta",
        "TRUNCATE b.none",
    ] {
        refused(&mut stage, bad);
    }
    assert_eq!(table(&stage, "b").settings, altered.settings);
}

/// Siblings of one key are told apart by their names, so that a page may end between them.
#[test]
fn pages_end_between_siblings_and_show_each_once() {
    let mut stage = Stage::new(3, true).expect("a cluster");
    let table = bucket(&mut stage, "b", ConflictMode::Siblings);
    let mut expected = Vec::new();
    for (key, values) in [("x", 3), ("y", 1), ("z", 4)] {
        for number in 0..values {
            let value = format!("{key}{number}");
            put(&mut stage, &table, key, Some(&value), None);
            expected.push(value);
        }
    }
    let keys = [blob("x"), blob("y"), blob("z")].join(", ");
    for text in
        ["SELECT * FROM b.kv".to_owned(), format!("SELECT * FROM b.kv WHERE key IN ({keys})")]
    {
        for size in 1..5 {
            let (mut found, mut state) = (Vec::new(), None);
            loop {
                let page_size = Some(size);
                let terms = Terms { page_size, paging_state: state.take(), ..Terms::at(Quorum) };
                let Reply::Rows(page) = stage.page(1, &text, terms) else { panic!("{text}") };
                assert!(page.rows.len() <= size as usize);
                found.extend(column(&page, "value"));
                state.clone_from(&page.paging_state);
                if state.is_none() {
                    break;
                }
            }
            found.sort();
            assert_eq!(found, expected, "{text}, {size} at a time");
        }
    }
    let one = ok(&mut stage, "SELECT value FROM b.kv PER PARTITION LIMIT 1");
    assert_eq!(one.rows.len(), 3);
    let count = ok(&mut stage, "SELECT COUNT(*) FROM b.kv");
    assert_eq!(count.rows[0][0].as_deref(), Some(&8_i64.to_be_bytes()[..]));
}

#[test]
fn a_table_made_by_cql_may_keep_siblings_or_be_strong() {
    let mut stage = Stage::new(4, true).expect("a cluster");
    let strategy = "{'class': 'SimpleStrategy', 'replication_factor': 3}";
    ok(&mut stage, &format!("CREATE KEYSPACE k WITH replication = {strategy}"));
    ok(
        &mut stage,
        "CREATE TABLE k.notes (key blob PRIMARY KEY, value blob) WITH conflict = 'siblings'",
    );
    let notes = table(&stage, "k.notes");
    for value in ["a", "b"] {
        let value = blob(value);
        ok(&mut stage, &format!("INSERT INTO k.notes (key, value) VALUES (0x6b, {value})"));
    }
    assert_eq!(get(&mut stage, &notes, "k"), ["a", "b"]);
    for misfit in [
        "CREATE TABLE k.x (key text PRIMARY KEY, value blob) WITH conflict = 'siblings'",
        "CREATE TABLE k.x (key blob PRIMARY KEY, a int) WITH conflict = 'siblings'",
        "CREATE TABLE k.x (key blob, c int, value blob, PRIMARY KEY (key, c)) \
         WITH conflict = 'siblings'",
    ] {
        let why = refused(&mut stage, misfit);
        assert!(why.contains("conflict = 'strong'"), "it says what to use: {why}");
    }
    refused(&mut stage, "CREATE TABLE k.x (p int PRIMARY KEY) WITH conflict = 'newest'");

    ok(
        &mut stage,
        "CREATE TABLE k.strong (p int, c int, v int, PRIMARY KEY (p, c)) WITH conflict = 'strong'",
    );
    let write = "INSERT INTO k.strong (p, c, v) VALUES (1, 1, 7)";
    ok(&mut stage, write);
    let shown = ok(&mut stage, "SELECT v FROM k.strong WHERE p = 1");
    assert_eq!(shown.rows.len(), 1);
    for bad in [
        "UPDATE k.strong USING TIMESTAMP 5 SET v = 1 WHERE p = 1 AND c = 1",
        "DELETE FROM k.strong WHERE p = 1",
        "ALTER TABLE k.strong WITH conflict = 'lww'",
    ] {
        refused(&mut stage, bad);
    }
    // One replica alone stores a plain write; what Paxos decides, it cannot.
    stage.isolate(0);
    let level: Consistency = One;
    assert!(matches!(stage.cql(0, level, write), Reply::Failed { .. }));
    stage.heal();
    stage.run_for(5 * TIME).expect("time passes");
    ok(&mut stage, "DROP KEYSPACE k");
    let state = stage.cluster().life(0).expect("it runs").node.cluster().state();
    assert!(state.table_named(&"k.notes".parse().unwrap()).is_none());
}

#[test]
fn a_bucket_is_described_with_what_makes_it_again() {
    let mut stage = Stage::new(5, true).expect("a cluster");
    bucket(&mut stage, "cart", ConflictMode::Siblings);
    bucket(&mut stage, "decided", ConflictMode::Strong);
    let statements = |stage: &mut Stage, what: &str| {
        let page = ok(stage, &format!("DESCRIBE KEYSPACE {what}"));
        let text = |row: &Vec<Option<Bytes>>| match page.value(row, "create_statement") {
            Some(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            None => panic!("no statement"),
        };
        page.rows.iter().map(text).collect::<Vec<String>>()
    };
    let cart = statements(&mut stage, "cart");
    assert_eq!(cart.len(), 2, "{cart:?}");
    let mut other = Stage::new(6, true).expect("a cluster");
    for statement in &cart {
        ok(&mut other, statement);
    }
    assert_eq!(table(&other, "cart").settings.conflict, ConflictMode::Siblings);
    assert_eq!(statements(&mut other, "cart"), cart);
    let decided = statements(&mut stage, "decided");
    assert!(decided[1].starts_with("/*") && decided[1].ends_with("*/"), "{decided:?}");
}

#[test]
fn a_statement_on_two_keys_of_which_one_was_written_is_not_told_as_refused() {
    let mut stage = Stage::new(7, true).expect("a cluster");
    let cart = bucket(&mut stage, "cart", ConflictMode::Siblings);
    // So many siblings that the next is refused.
    let siblings = stage.cluster().life(0).expect("it runs").node.cluster().state();
    let most = siblings.table_named(&cart.name).expect("it is there").settings.max_siblings;
    for n in 0..most {
        put(&mut stage, &cart, "full", Some(&n.to_string()), None);
    }
    let insert =
        |key: &str| format!("INSERT INTO cart.kv (key, value) VALUES ({}, 0x01)", blob(key));
    refused(&mut stage, &insert("full"));
    let batch = |first: &str, second: &str| {
        format!("BEGIN UNLOGGED BATCH {}; {}; APPLY BATCH", insert(first), insert(second))
    };
    refused(&mut stage, &batch("full", "free"));
    assert_eq!(get(&mut stage, &cart, "free"), [""; 0], "nothing behind a refused one is sent");
    match stage.cql(0, Quorum, &batch("free", "full")) {
        Reply::Failed { not_applied: false, message, .. } => {
            assert!(message.contains("1 of 2 parts took effect"), "{message}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(get(&mut stage, &cart, "free").len(), 1);
    // What is wrong in itself is seen before anything is sent.
    let wrong = format!("INSERT INTO cart.kv (key, etag) VALUES ({}, 'x')", blob("free"));
    refused(&mut stage, &format!("BEGIN UNLOGGED BATCH {}; {wrong}; APPLY BATCH", insert("new")));
    assert_eq!(get(&mut stage, &cart, "new"), [""; 0]);
}

#[test]
fn what_the_nodes_keep_for_themselves_is_not_made_dropped_or_emptied() {
    let mut stage = Stage::new(8, true).expect("a cluster");
    bucket(&mut stage, "henge.locks", ConflictMode::Strong);
    let strategy = "{'class': 'SimpleStrategy', 'replication_factor': 3}";
    for text in [
        &format!("CREATE KEYSPACE henge WITH replication = {strategy}"),
        "DROP KEYSPACE henge",
        "DROP TABLE henge.locks",
        "TRUNCATE henge.locks",
        "ALTER TABLE henge.locks WITH gc_grace_seconds = 1",
        "INSERT INTO henge.locks (key, value) VALUES (0x6b, 0x01)",
    ] {
        let reply = stage.cql(0, Quorum, text);
        assert!(matches!(reply, Reply::Failed { .. }), "{text}: {reply:?}");
    }
    assert_eq!(table(&stage, "henge.locks").settings.conflict, ConflictMode::Strong);
    let schema = ok(&mut stage, "DESCRIBE SCHEMA");
    assert!(schema.rows.is_empty(), "no client can make it again: {schema:?}");
}
