//! Statements through the whole door, over a node in memory.

use std::sync::Arc;

use super::mem::MemStore;
use crate::cql::ast::BatchKind;
use crate::cql::schema::MAX_COLUMNS;
use crate::cql::types::CqlType;
use crate::cql::value;
use crate::env::tokio_env;
use crate::server::cql::CqlService;
use crate::server::cql::frame::Version;
use crate::server::cql::request::{BatchItem, BatchRequest, Parameters, Request};
use crate::server::cql::response::{Answer, Rows};
use crate::server::cql::service::{Origin, Session, Wanted};
use crate::server::cql::wire::Value;
use crate::types::Consistency;

pub(super) struct Client {
    pub(super) service: CqlService,
    session: Session,
}

pub(super) fn parameters(values: Vec<Value>) -> Parameters {
    Parameters {
        level: Consistency::Quorum,
        values,
        names: None,
        skip_metadata: false,
        page_size: None,
        paging_state: None,
        serial: Consistency::Serial,
        timestamp: None,
        keyspace: None,
        now: None,
    }
}

impl Client {
    pub(super) async fn new() -> Self {
        Self::of(MemStore::new(tokio_env(), 9042)).await
    }

    pub(super) async fn of(store: Arc<MemStore>) -> Self {
        let client = Self { service: CqlService::new(store), session: Session::default() };
        client.run("CREATE KEYSPACE shop WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}").await;
        client.run("USE shop").await;
        client
    }

    pub(super) async fn ask(&self, text: &str, parameters: Parameters) -> Answer {
        let request = Request::Query { text: text.to_owned(), parameters };
        self.answer(request).await
    }

    async fn answer(&self, request: Request) -> Answer {
        let origin = Origin { client: None };
        self.service.answer(&self.session, request, origin, Wanted::default()).await.answer
    }

    pub(super) async fn prepare(&self, text: &str) -> Answer {
        self.answer(Request::Prepare { text: text.to_owned(), keyspace: None }).await
    }

    pub(super) async fn run(&self, text: &str) {
        let answer = self.ask(text, parameters(Vec::new())).await;
        assert!(!matches!(answer, Answer::Error(_)), "{text}: {answer:?}");
    }

    /// The error's code.
    pub(super) async fn refused(&self, text: &str) -> i32 {
        let answer = self.ask(text, parameters(Vec::new())).await;
        let Answer::Error(error) = answer else { panic!("{text}: {answer:?}") };
        error.body(Version::V4).first_chunk::<4>().copied().map_or(-1, i32::from_be_bytes)
    }

    pub(super) async fn rows(&self, text: &str, parameters: Parameters) -> Rows {
        match self.ask(text, parameters).await {
            Answer::Rows(rows) => rows,
            other => panic!("{text}: {other:?}"),
        }
    }

    /// Rows as text, values with blanks between.
    pub(super) async fn show(&self, text: &str) -> Vec<String> {
        let rows = self.rows(text, parameters(Vec::new())).await;
        shown(&rows)
    }
}

pub(super) fn shown(rows: &Rows) -> Vec<String> {
    let show = |kind: &CqlType, value: &Option<bytes::Bytes>| {
        value.as_ref().map_or_else(|| "null".to_owned(), |bytes| value::text(kind, bytes))
    };
    let line = |row: &Vec<Option<bytes::Bytes>>| {
        let columns = rows.metadata.columns.iter().zip(row);
        columns.map(|(column, value)| show(&column.kind, value)).collect::<Vec<_>>().join(" ")
    };
    rows.rows.iter().map(line).collect()
}

#[tokio::test]
async fn rows_are_written_read_changed_and_deleted() {
    let client = Client::new().await;
    client.run("CREATE TABLE t (p int, c int, s text static, v text, PRIMARY KEY (p, c)) WITH CLUSTERING ORDER BY (c DESC)").await;
    for c in 0..5 {
        client.run(&format!("INSERT INTO t (p, c, v) VALUES (1, {c}, 'v{c}')")).await;
    }
    client.run("UPDATE t SET s = 'all' WHERE p = 1").await;
    assert_eq!(
        client.show("SELECT c, v, s FROM t WHERE p = 1 AND c > 1 AND c <= 3").await,
        ["3 v3 all", "2 v2 all"]
    );
    assert_eq!(client.show("SELECT c FROM t WHERE p = 1 ORDER BY c ASC LIMIT 2").await, ["0", "1"]);
    assert_eq!(client.show("SELECT count(*), max(c) FROM t").await, ["5 4"]);
    client.run("DELETE FROM t WHERE p = 1 AND c >= 1 AND c < 3").await;
    client.run("DELETE v FROM t WHERE p = 1 AND c = 4").await;
    assert_eq!(client.show("SELECT c, v FROM t WHERE p = 1").await, ["4 null", "3 v3", "0 v0"]);
    client.run("DELETE FROM t WHERE p = 1").await;
    assert!(client.show("SELECT * FROM t").await.is_empty());
    client.run("UPDATE t SET s = 'alone' WHERE p = 2").await;
    assert_eq!(client.show("SELECT p, c, s FROM t").await, ["2 null alone"]);
}

/// Once showed the beginning of one group more, with a count of one row.
#[tokio::test]
async fn a_limit_on_groups_shows_whole_groups_only() {
    let client = Client::new().await;
    client.run("CREATE TABLE t (p int, c int, d int, PRIMARY KEY (p, c, d))").await;
    for at in 0..9 {
        client.run(&format!("INSERT INTO t (p, c, d) VALUES (1, {}, {at})", at / 3)).await;
    }
    for (limit, shown) in [(1, &["0 3"][..]), (2, &["0 3", "1 3"]), (3, &["0 3", "1 3", "2 3"])] {
        let text = format!("SELECT c, count(*) FROM t WHERE p = 1 GROUP BY p, c LIMIT {limit}");
        assert_eq!(client.show(&text).await, shown, "{limit}");
    }
}

/// However many rows there are, counting them holds no more than a scan brings at a time.
#[tokio::test]
async fn rows_are_counted_and_summed_up_as_they_come() {
    let store = MemStore::new(tokio_env(), 9042);
    let client = Client::of(store.clone()).await;
    client.run("CREATE TABLE t (p int, c int, v text, PRIMARY KEY (p, c))").await;
    for p in 0..40 {
        let row = |c| format!("INSERT INTO t (p, c, v) VALUES ({p}, {c}, 'a value')");
        let rows: Vec<String> = (0..100).map(row).collect();
        client.run(&format!("BEGIN UNLOGGED BATCH {} APPLY BATCH", rows.join("; "))).await;
    }
    for (text, shown) in [
        ("SELECT count(*) FROM t", "4000"),
        ("SELECT count(*), min(c), max(v), sum(c) FROM t", "4000 0 a value 198000"),
        ("SELECT count(*) FROM t WHERE v = 'a value' ALLOW FILTERING", "4000"),
    ] {
        store.take_most_scanned();
        assert_eq!(client.show(text).await, [shown], "{text}");
        let most = store.take_most_scanned();
        assert!((1..=1_000).contains(&most), "{text}: {most} rows in memory at a time");
    }
    assert_eq!(client.show("SELECT p, count(*) FROM t GROUP BY p").await.len(), 40);
    let most = store.take_most_scanned();
    assert!(most <= 1_000, "{most} rows in memory at a time");
    // Which it would be seen to do: rows that are shown are all there at the end.
    assert_eq!(client.show("SELECT * FROM t").await.len(), 4_000);
    assert!(store.take_most_scanned() >= 4_000);
}

#[tokio::test]
async fn an_older_stamp_loses_whatever_the_order() {
    let client = Client::new().await;
    client.run("CREATE TABLE t (k int PRIMARY KEY, a text, b text)").await;
    client.run("INSERT INTO t (k, a, b) VALUES (1, 'new', 'new') USING TIMESTAMP 20").await;
    client.run("UPDATE t USING TIMESTAMP 10 SET a = 'old' WHERE k = 1").await;
    client.run("DELETE FROM t USING TIMESTAMP 15 WHERE k = 1").await;
    assert_eq!(client.show("SELECT a, b, writetime(a) FROM t").await, ["new new 20"]);
    client.run("DELETE b FROM t USING TIMESTAMP 20 WHERE k = 1").await;
    assert_eq!(client.show("SELECT a, b FROM t").await, ["new null"], "a tie: the deletion wins");
}

#[tokio::test]
async fn collections_change_by_their_elements() {
    let client = Client::new().await;
    client
        .run("CREATE TABLE t (k int PRIMARY KEY, l list<int>, m map<text, int>, s set<int>)")
        .await;
    client.run("INSERT INTO t (k, l, m, s) VALUES (1, [1, 2], {'a': 1}, {2, 1})").await;
    client.run("UPDATE t SET l = l + [3], m['b'] = 2, s = s - {1} WHERE k = 1").await;
    client.run("UPDATE t SET l = [0] + l WHERE k = 1").await;
    client.run("UPDATE t SET l[1] = 7 WHERE k = 1").await;
    assert_eq!(client.show("SELECT l, m, s FROM t").await, ["[0, 7, 2, 3] {'a': 1, 'b': 2} {2}"]);
    client.run("UPDATE t SET l = l - [7, 2], m = {'z': 9}, s = {} WHERE k = 1").await;
    assert_eq!(client.show("SELECT l, m, s FROM t").await, ["[0, 3] {'z': 9} null"]);
}

#[tokio::test]
async fn pages_end_where_the_next_one_begins_and_none_is_empty() {
    let client = Client::new().await;
    client.run("CREATE TABLE t (p int, c int, PRIMARY KEY (p, c))").await;
    for p in 0..7 {
        for c in 0..6 {
            client.run(&format!("INSERT INTO t (p, c) VALUES ({p}, {c})")).await;
        }
    }
    for (text, all) in [
        ("SELECT p, c FROM t", 42),
        ("SELECT p, c FROM t LIMIT 20", 20),
        ("SELECT p, c FROM t PER PARTITION LIMIT 4", 28),
        ("SELECT p, c FROM t WHERE p IN (1, 2, 3)", 18),
        ("SELECT p, c FROM t WHERE p = 1 ORDER BY c DESC", 6),
        ("SELECT p, c FROM t WHERE p = 1 AND c > 0 AND c < 5 ORDER BY c DESC", 4),
        ("SELECT p, c FROM t WHERE p = 1 AND c IN (4, 0, 2) ORDER BY c DESC", 3),
        ("SELECT p, c FROM t WHERE p = 1 ORDER BY c DESC LIMIT 4", 4),
        ("SELECT p, c FROM t WHERE p = 1 ORDER BY c DESC PER PARTITION LIMIT 5", 5),
        ("SELECT p, c FROM t WHERE p IN (1, 2) PER PARTITION LIMIT 2", 4),
        ("SELECT DISTINCT p FROM t", 7),
    ] {
        let whole = client.show(text).await;
        assert_eq!(whole.len(), all, "{text}");
        for size in [1, 3, 6, 7, 42] {
            let (mut paged, mut state, mut sizes) = (Vec::new(), None, Vec::new());
            loop {
                let asked = Parameters {
                    page_size: Some(size),
                    paging_state: state,
                    ..parameters(Vec::new())
                };
                let page = client.rows(text, asked).await;
                paged.extend(shown(&page));
                sizes.push(page.rows.len());
                state = page.paging_state;
                if state.is_none() {
                    break;
                }
            }
            assert_eq!(paged, whole, "{text} by {size}");
            let (last, full) = sizes.split_last().unwrap();
            assert!(full.iter().all(|len| *len == size as usize) && *last > 0, "{text}: {sizes:?}");
        }
    }
}

#[tokio::test]
async fn a_prepared_statement_is_dropped_when_its_table_changes() {
    let client = Client::new().await;
    client.run("CREATE TABLE t (a int, b int, v text, PRIMARY KEY ((a, b)))").await;
    let prepare = || Request::Prepare {
        text: "SELECT * FROM t WHERE b = ? AND a = ?".to_owned(),
        keyspace: None,
    };
    let Answer::Prepared { id, key, binds, .. } = client.answer(prepare()).await else {
        panic!("prepared");
    };
    assert_eq!(key, [1, 0], "markers in the order of the key");
    assert_eq!(binds.columns[0].name, "b");
    let values = || vec![Value::Bytes(vec![0, 0, 0, 1]), Value::Bytes(vec![0, 0, 0, 2])];
    let execute =
        || Request::Execute { id: id.to_vec(), result: None, parameters: parameters(values()) };
    let answer = client.answer(execute()).await;
    assert!(matches!(answer, Answer::Rows(_)), "{answer:?}");
    client.run("ALTER TABLE t ADD more int").await;
    let answer = client.answer(execute()).await;
    let Answer::Error(error) = answer else { panic!("{answer:?}") };
    assert_eq!(error.body(Version::V4)[..4], 0x2500i32.to_be_bytes());
    let again = client.answer(prepare()).await;
    assert!(matches!(again, Answer::Prepared { id: same, .. } if same == id), "the same id");
}

#[tokio::test]
async fn batches_are_of_one_partition_or_of_many() {
    let client = Client::new().await;
    client.run("CREATE TABLE t (p int, c int, PRIMARY KEY (p, c))").await;
    let insert =
        |p, c| BatchItem::Text(format!("INSERT INTO t (p, c) VALUES ({p}, {c})"), Vec::new());
    let batch = |kind, items| {
        let (level, serial) = (Consistency::Quorum, Consistency::Serial);
        Request::Batch(BatchRequest {
            kind,
            items,
            level,
            serial,
            timestamp: None,
            keyspace: None,
            now: None,
        })
    };
    let one = batch(BatchKind::Logged, vec![insert(1, 1), insert(1, 2)]);
    assert_eq!(client.answer(one).await, Answer::Void);
    let two = batch(BatchKind::Logged, vec![insert(2, 1), insert(3, 1)]);
    assert_eq!(client.answer(two).await, Answer::Void);
    let unlogged = batch(BatchKind::Unlogged, vec![insert(4, 1), insert(5, 1)]);
    assert_eq!(client.answer(unlogged).await, Answer::Void);
    assert_eq!(client.show("SELECT count(*) FROM t").await, ["6"]);
}

#[tokio::test]
async fn a_write_of_which_a_part_took_effect_is_never_told_as_refused() {
    let store = MemStore::new(tokio_env(), 9042);
    let client = Client::of(store.clone()).await;
    client.run("CREATE TABLE t (p int PRIMARY KEY, v int)").await;
    client.run("CREATE TABLE a (p int PRIMARY KEY, n counter)").await;
    client.run("CREATE TABLE b (p int PRIMARY KEY, n counter)").await;
    store.cut_off(&1_i32.to_be_bytes());
    let (unavailable, timeout) = (0x1000, 0x1100);
    for (text, code) in [
        ("INSERT INTO t (p, v) VALUES (1, 1)", unavailable),
        (
            "BEGIN UNLOGGED BATCH INSERT INTO t (p, v) VALUES (1, 1); \
             INSERT INTO t (p, v) VALUES (2, 1); APPLY BATCH",
            timeout,
        ),
        ("UPDATE a SET n += 1 WHERE p = 1", unavailable),
        (
            "BEGIN COUNTER BATCH UPDATE a SET n += 1 WHERE p = 1; \
             UPDATE b SET n += 1 WHERE p = 1; APPLY BATCH",
            unavailable,
        ),
        (
            "BEGIN COUNTER BATCH UPDATE a SET n += 1 WHERE p = 1; \
             UPDATE b SET n += 1 WHERE p = 2; APPLY BATCH",
            timeout,
        ),
    ] {
        assert_eq!(client.refused(text).await, code, "{text}");
    }
    assert_eq!(client.show("SELECT n FROM b WHERE p = 2").await, ["1"]);
}

/// Those beyond the bound were left out of the table, and nothing was said.
#[tokio::test]
async fn a_table_has_all_the_columns_that_it_was_made_with_or_is_not_made() {
    let client = Client::new().await;
    let create = |name: &str, values: usize| {
        let columns = (0..values).map(|n| format!(", c{n} int")).collect::<String>();
        format!("CREATE TABLE {name} (k int PRIMARY KEY{columns})")
    };
    client.run(&create("most", MAX_COLUMNS - 1)).await;
    let last = MAX_COLUMNS - 2;
    client.run(&format!("INSERT INTO most (k, c{last}) VALUES (1, 2)")).await;
    assert_eq!(client.show(&format!("SELECT c{last} FROM most")).await, ["2"]);
    assert_eq!(client.refused(&create("more", MAX_COLUMNS)).await, 0x2200);
}

#[tokio::test]
async fn what_is_wrong_is_told_by_its_code() {
    let client = Client::new().await;
    client.run("CREATE TABLE t (k int PRIMARY KEY, v text)").await;
    for (text, code) in [
        ("SELEC", 0x2000),
        ("SELECT * FROM nope", 0x2200),
        ("SELECT * FROM t WHERE v = 'x'", 0x2200),
        ("INSERT INTO t (k) VALUES ('x')", 0x2200),
        ("INSERT INTO t (k) VALUES (1) IF NOT EXISTS USING TIMESTAMP 5", 0x2200),
        ("UPDATE t SET v = 'x' WHERE k IN (1, 2) IF EXISTS", 0x2200),
        ("UPDATE t SET v = 'x' WHERE k = 1 IF NOT EXISTS", 0x2200),
        ("UPDATE t SET v = 'x' WHERE k = 1 IF k = 1", 0x2200),
        ("INSERT INTO t (k) VALUES (1) USING TIMESTAMP 9000000000000000", 0x2200),
        ("CREATE TABLE t (k int PRIMARY KEY)", 0x2400),
        ("CREATE TABLE system.x (k int PRIMARY KEY)", 0x2100),
        ("INSERT INTO system.local (key) VALUES ('x')", 0x2100),
        ("CREATE TABLE u (k int PRIMARY KEY) WITH nonsense = 1", 0x2000),
        ("CREATE KEYSPACE z WITH replication = {'class': 'Nope'}", 0x2300),
        ("CREATE INDEX ON t (nothing)", 0x2200),
    ] {
        assert_eq!(client.refused(text).await, code, "{text}");
    }
}

#[tokio::test]
async fn drivers_find_the_schema_in_the_tables_of_the_system() {
    let client = Client::new().await;
    client.run("CREATE TYPE addr (street text)").await;
    client.run("CREATE TABLE t (k int PRIMARY KEY, a frozen<addr>)").await;
    assert_eq!(
        client.show("SELECT column_name, kind, position, type FROM system_schema.columns WHERE keyspace_name = 'shop' AND table_name = 't'").await,
        ["a regular -1 frozen<addr>", "k partition_key 0 int"]
    );
    assert_eq!(
        client
            .show("SELECT type_name FROM system_schema.types WHERE keyspace_name IN ('shop')")
            .await,
        ["addr"]
    );
    let local = client
        .show("SELECT cluster_name, partitioner, data_center FROM system.local WHERE key = 'local'")
        .await;
    assert_eq!(local, ["c org.apache.cassandra.dht.Murmur3Partitioner dc1"]);
    assert!(client.show("SELECT * FROM system.peers_v2").await.is_empty());
}

#[tokio::test]
async fn a_dropped_column_that_is_added_again_starts_empty() {
    let client = Client::new().await;
    client.run("CREATE TABLE t (k int PRIMARY KEY, v text)").await;
    client.run("INSERT INTO t (k, v) VALUES (1, 'old')").await;
    client.run("ALTER TABLE t DROP v").await;
    client.run("ALTER TABLE t ADD v int").await;
    assert_eq!(client.show("SELECT k, v FROM t").await, ["1 null"]);
    client.run("TRUNCATE t").await;
    assert!(client.show("SELECT k FROM t").await.is_empty());
}

#[tokio::test]
async fn counters_are_added_to_and_nothing_else_is_done_to_them() {
    let client = Client::new().await;
    client
        .run("CREATE TABLE n (k int, c int, a counter, s counter static, PRIMARY KEY (k, c))")
        .await;
    client.run("UPDATE n SET a = a + 5 WHERE k = 1 AND c = 1").await;
    client.run("UPDATE n SET a = a - 7, s += 2 WHERE k = 1 AND c = 1").await;
    client
        .run(
            "BEGIN COUNTER BATCH UPDATE n SET a += 1 WHERE k = 1 AND c = 1; \
             UPDATE n SET a -= 1 WHERE k = 1 AND c = 2; APPLY BATCH",
        )
        .await;
    assert_eq!(client.show("SELECT c, a, s FROM n WHERE k = 1").await, ["1 -1 2", "2 -1 2"]);
    client.run("DELETE a FROM n WHERE k = 1 AND c = 2").await;
    client.run("DELETE FROM n WHERE k = 1 AND c = 1").await;
    assert_eq!(client.show("SELECT c, a FROM n WHERE k = 1 AND c > 0").await, Vec::<String>::new());
    client.run("CREATE TABLE v (k int PRIMARY KEY, v int)").await;
    for text in [
        "INSERT INTO n (k, c, a) VALUES (1, 1, 1)",
        "UPDATE n SET a = 1 WHERE k = 1 AND c = 1",
        "UPDATE n USING TTL 5 SET a = a + 1 WHERE k = 1 AND c = 1",
        "UPDATE n USING TIMESTAMP 5 SET a = a + 1 WHERE k = 1 AND c = 1",
        "UPDATE n SET a = a + 1 WHERE k = 1 AND c = 1 IF a = 1",
        "UPDATE n SET a = a + null WHERE k = 1 AND c = 1",
        "UPDATE v SET v = v + 1 WHERE k = 1",
        "BEGIN BATCH UPDATE n SET a += 1 WHERE k = 1 AND c = 1; APPLY BATCH",
        "BEGIN COUNTER BATCH INSERT INTO v (k, v) VALUES (1, 1); APPLY BATCH",
        "BEGIN UNLOGGED BATCH INSERT INTO v (k, v) VALUES (1, 1); \
         UPDATE n SET a += 1 WHERE k = 1 AND c = 1; APPLY BATCH",
        "CREATE TABLE x (k int PRIMARY KEY, v int, a counter)",
        "CREATE TABLE x (k counter PRIMARY KEY, v counter)",
        "ALTER TABLE v ADD a counter",
        "ALTER TABLE n ADD v int",
    ] {
        assert_eq!(client.refused(text).await, 0x2200, "{text}");
    }
}

#[tokio::test]
async fn a_conditional_write_says_whether_it_took_effect_and_if_not_what_stands_there() {
    let client = Client::new().await;
    client.run("CREATE TABLE t (k int, c int, v text, s int static, PRIMARY KEY (k, c))").await;
    let insert = "INSERT INTO t (k, c, v) VALUES (1, 1, 'x') IF NOT EXISTS";
    assert_eq!(client.show(insert).await, ["true"]);
    assert_eq!(client.show(insert).await, ["false 1 1 null x"]);
    let update = "UPDATE t SET v = 'y' WHERE k = 1 AND c = 1 IF v = 'x'";
    assert_eq!(client.show(update).await, ["true"]);
    assert_eq!(client.show(update).await, ["false y"]);
    let absent = "UPDATE t SET v = 'y' WHERE k = 1 AND c = 2 IF v = 'x'";
    assert_eq!(client.show(absent).await, ["false"]);
    assert_eq!(client.show("DELETE FROM t WHERE k = 1 AND c = 2 IF EXISTS").await, ["false"]);
    assert_eq!(client.show("UPDATE t SET s = 1 WHERE k = 1 IF s = null").await, ["true"]);
    assert_eq!(client.show("UPDATE t SET s = 9 WHERE k = 1 IF s = 7").await, ["false 1"]);
    assert_eq!(client.show("DELETE FROM t WHERE k = 1 AND c = 1 IF v IN ('y')").await, ["true"]);
    assert_eq!(client.show("SELECT v FROM t WHERE k = 1 AND c = 1").await, Vec::<String>::new());
}

#[tokio::test]
async fn a_conditional_batch_takes_effect_whole_or_not_at_all() {
    let client = Client::new().await;
    client.run("CREATE TABLE t (k int, c int, v int, s int static, PRIMARY KEY (k, c))").await;
    let batch = |version: i32, c: i32| {
        format!(
            "BEGIN BATCH UPDATE t SET s = {} WHERE k = 1 IF s = {version} \
             INSERT INTO t (k, c, v) VALUES (1, {c}, {c}) IF NOT EXISTS APPLY BATCH",
            version + 1
        )
    };
    client.run("INSERT INTO t (k, s) VALUES (1, 0)").await;
    assert_eq!(client.show(&batch(0, 5)).await, ["true"]);
    assert_eq!(client.show(&batch(0, 6)).await, ["false 1 null 1 null"]);
    assert_eq!(client.show(&batch(1, 5)).await, ["false 1 null 1 null", "false 1 5 null 5"]);
    assert_eq!(client.show("SELECT c, v, s FROM t WHERE k = 1").await, ["5 5 1"]);
    let two = "BEGIN BATCH UPDATE t SET v = 1 WHERE k = 1 AND c = 5 IF v = 5 \
               UPDATE t SET v = 1 WHERE k = 2 AND c = 5 APPLY BATCH";
    assert_eq!(client.refused(two).await, 0x2200);
}
