//! The driver of ScyllaDB for Rust, unmodified, against a running cluster.
//!
//! ```text
//! tests/clients/install
//! target/drivers/scylla/debug/scylla-driver HOST:PORT[,HOST:PORT...]
//! ```
//!
//! Says `ok NAME` after each test and `OK` at the end. With --drive, it asks for nodes to die: it
//! prints `@kill N` or `@start N` (nodes from 0) and goes on after a line on standard input. With
//! HENGE_NODES (the nodes' HTTP addresses) it compares the driver's picture with the nodes' own.

use std::collections::{BTreeSet, HashMap};
use std::error::Error;
use std::future::Future;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use futures_util::TryStreamExt as _;
use futures_util::future::try_join_all;
use scylla::client::Compression;
use scylla::client::execution_profile::ExecutionProfile;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::policies::retry::DefaultRetryPolicy;
use scylla::statement::batch::{Batch, BatchType};
use scylla::statement::prepared::PreparedStatement;
use scylla::statement::unprepared::Statement;
use scylla::statement::{Consistency, SerialConsistency};
use scylla::value::{
    CqlDate, CqlDecimal, CqlDuration, CqlTime, CqlTimestamp, CqlTimeuuid, CqlVarint,
};

type Done = Result<(), Box<dyn Error + Send + Sync>>;

/// What all tests share.
struct World {
    session: Session,
    nodes: usize,
}

async fn connect(endpoints: &[String], lz4: bool) -> Result<Session, Box<dyn Error + Send + Sync>> {
    let profile = ExecutionProfile::builder()
        .consistency(Consistency::Quorum)
        .serial_consistency(Some(SerialConsistency::Serial))
        .request_timeout(Some(Duration::from_secs(20)))
        .retry_policy(Arc::new(DefaultRetryPolicy::new()))
        .build();
    let session = SessionBuilder::new()
        .known_nodes(endpoints)
        .default_execution_profile_handle(profile.into_handle())
        .compression(lz4.then_some(Compression::Lz4))
        .connection_timeout(Duration::from_secs(20))
        .build()
        .await?;
    Ok(session)
}

/// What a careful application does when the nodes say that they have too much to do, and have done
/// nothing of it: the same again, a little later.
async fn patient<T, E: std::fmt::Display, F: Future<Output = Result<T, E>>>(
    begin: impl Fn() -> F,
) -> Result<T, E> {
    let began = Instant::now();
    loop {
        match begin().await {
            Err(error)
                if error.to_string().contains("overloaded")
                    && began.elapsed() < Duration::from_secs(60) => {}
            result => return result,
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn prepared(
    session: &Session,
    text: &str,
) -> Result<PreparedStatement, Box<dyn Error + Send + Sync>> {
    let mut statement = session.prepare(text).await?;
    statement.set_is_idempotent(true);
    Ok(statement)
}

/// The driver's picture: members, keys, and the token of a key as the server sees it.
async fn metadata(world: &World) -> Done {
    let session = &world.session;
    let insert = prepared(session, "INSERT INTO rusty.t (k) VALUES (?)").await?;
    let state = session.get_cluster_state();
    assert_eq!(state.get_nodes_info().len(), world.nodes);
    for k in [0, 1, -7, 123_456] {
        session.execute_unpaged(&insert, (k,)).await?;
        let text = format!("SELECT token(k) FROM rusty.t WHERE k = {k}");
        let rows = session.query_unpaged(text, ()).await?.into_rows_result()?;
        let (token,) = rows.first_row::<(i64,)>()?;
        assert_eq!(state.compute_token("rusty", "t", &(k,))?.value(), token, "token of {k}");
        let replicas = state.get_endpoints("rusty", "t", &(k,))?;
        assert_eq!(replicas.len(), world.nodes.min(3));
    }
    Ok(())
}

async fn types(world: &World) -> Done {
    let session = &world.session;
    session
        .query_unpaged(
            "CREATE TABLE rusty.ty (k int PRIMARY KEY, c_bigint bigint, c_blob blob, \
             c_boolean boolean, c_date date, c_decimal decimal, c_double double, \
             c_duration duration, c_float float, c_inet inet, c_smallint smallint, c_text text, \
             c_time time)",
            (),
        )
        .await?;
    session
        .query_unpaged(
            "CREATE TABLE rusty.ty2 (k int PRIMARY KEY, c_tinyint tinyint, c_uuid uuid, \
             c_varint varint, c_list list<int>, c_map map<text, int>, c_set set<text>, \
             c_tuple tuple<int, text>, c_timestamp timestamp, c_timeuuid timeuuid)",
            (),
        )
        .await?;
    type One = (
        i64,
        Vec<u8>,
        bool,
        CqlDate,
        CqlDecimal,
        f64,
        CqlDuration,
        f32,
        IpAddr,
        i16,
        String,
        CqlTime,
    );
    let one: One = (
        -(1 << 60),
        vec![0, 255],
        true,
        CqlDate((1 << 31) + 19_782),
        CqlDecimal::from_signed_be_bytes_and_exponent(vec![0xFB, 0x1E], 2),
        1.5,
        CqlDuration { months: 1, days: 2, nanoseconds: 3 },
        0.5,
        "::1".parse()?,
        -300,
        "é".to_owned(),
        CqlTime(3_723_000_000_004),
    );
    let insert = session
        .prepare(
            "INSERT INTO rusty.ty (k, c_bigint, c_blob, c_boolean, c_date, c_decimal, c_double, \
             c_duration, c_float, c_inet, c_smallint, c_text, c_time) \
             VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .await?;
    session.execute_unpaged(&insert, &one).await?;
    let rows = session
        .query_unpaged(
            "SELECT c_bigint, c_blob, c_boolean, c_date, c_decimal, c_double, c_duration, \
             c_float, c_inet, c_smallint, c_text, c_time FROM rusty.ty",
            (),
        )
        .await?
        .into_rows_result()?;
    assert_eq!(rows.first_row::<One>()?, one);
    type Two = (
        i8,
        uuid::Uuid,
        CqlVarint,
        Vec<i32>,
        HashMap<String, i32>,
        BTreeSet<String>,
        (i32, String),
        CqlTimestamp,
        CqlTimeuuid,
    );
    let two: Two = (
        -3,
        uuid::Uuid::from_u128(7),
        CqlVarint::from_signed_bytes_be(vec![0xF0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        vec![1, 2, 3],
        HashMap::from([("a".to_owned(), 1), ("b".to_owned(), 2)]),
        BTreeSet::from(["x".to_owned(), "y".to_owned()]),
        (1, "two".to_owned()),
        CqlTimestamp(1_709_168_523_004),
        "8e14e760-7fa8-11eb-bc66-000000000001".parse()?,
    );
    let insert = session
        .prepare(
            "INSERT INTO rusty.ty2 (k, c_tinyint, c_uuid, c_varint, c_list, c_map, c_set, \
             c_tuple, c_timestamp, c_timeuuid) VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .await?;
    session.execute_unpaged(&insert, &two).await?;
    let rows = session
        .query_unpaged(
            "SELECT c_tinyint, c_uuid, c_varint, c_list, c_map, c_set, c_tuple, c_timestamp, \
             c_timeuuid FROM rusty.ty2",
            (),
        )
        .await?
        .into_rows_result()?;
    assert_eq!(rows.first_row::<Two>()?, two);
    Ok(())
}

/// 10,000 rows, 200 requests at a time, and pages of them.
async fn in_flight(world: &World) -> Done {
    let session = &world.session;
    let insert = prepared(session, "INSERT INTO rusty.t (k, v) VALUES (?, ?)").await?;
    let next = AtomicI32::new(0);
    let writer = || async {
        loop {
            let k = next.fetch_add(1, Ordering::Relaxed);
            if k >= 10_000 {
                return Ok::<_, Box<dyn Error + Send + Sync>>(());
            }
            patient(|| session.execute_unpaged(&insert, (k, format!("v{k}")))).await?;
        }
    };
    try_join_all((0..200).map(|_| writer())).await?;
    let mut select = prepared(session, "SELECT k, v FROM rusty.t").await?;
    select.set_page_size(1_000);
    let rows = patient(|| async {
        let pages = session.execute_iter(select.clone(), ()).await?;
        let stream = pages.rows_stream::<(i32, Option<String>)>()?;
        let rows: Vec<(i32, Option<String>)> = stream.try_collect().await?;
        Ok::<_, Box<dyn Error + Send + Sync>>(rows)
    })
    .await?;
    let ours = rows.iter().filter(|(k, v)| v.as_ref() == Some(&format!("v{k}")));
    let seen: BTreeSet<i32> = ours.map(|(k, _)| *k).collect();
    assert_eq!(seen.len(), 10_000);
    Ok(())
}

async fn batches(world: &World) -> Done {
    let session = &world.session;
    let insert = prepared(session, "INSERT INTO rusty.w (a, b, c) VALUES (?, ?, ?)").await?;
    let mut one = Batch::new(BatchType::Logged);
    let mut values = Vec::new();
    for c in 0..10 {
        one.append_statement(insert.clone());
        values.push((1, "b", c));
    }
    session.batch(&one, values).await?;
    let count = "SELECT count(*) FROM rusty.w WHERE a = 1 AND b = 'b'";
    let rows = session.query_unpaged(count, ()).await?.into_rows_result()?;
    assert_eq!(rows.first_row::<(i64,)>()?, (10,));
    let mut many = Batch::new(BatchType::Unlogged);
    let mut values = Vec::new();
    for a in 20..25 {
        many.append_statement(insert.clone());
        values.push((a, "b", 0));
    }
    session.batch(&many, values).await?;
    Ok(())
}

/// The body of a node's answer to a GET. (Small and rare: it may block.)
fn get(node: &str, path: &str) -> Result<String, Box<dyn Error + Send + Sync>> {
    let address = node.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address)?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("no answer")?;
    if !head.starts_with("HTTP/1.1 200") {
        return Err(format!("{path}: {answer}").into());
    }
    Ok(body.to_owned())
}

/// Operations so far whose coordinators hold no copy of the key.
fn forwards(nodes: &[String]) -> Result<u64, Box<dyn Error + Send + Sync>> {
    let mut total = 0;
    for node in nodes {
        let metrics = get(node, "/metrics")?;
        let count =
            |line: &str| line.strip_prefix("henge_coordinator_forwards_total ")?.parse().ok();
        total += metrics.lines().find_map(count).unwrap_or(0_u64);
    }
    Ok(total)
}

/// The driver knows who holds a key, and asks nobody else. With HENGE_NODES.
async fn routing(world: &World) -> Done {
    let nodes = std::env::var("HENGE_NODES").unwrap_or_default();
    let nodes: Vec<String> =
        nodes.split(',').filter(|node| !node.is_empty()).map(str::to_owned).collect();
    let Some(any) = nodes.first() else { return Ok(()) };
    let session = &world.session;
    session
        .query_unpaged(
            "CREATE KEYSPACE rusty1 WITH replication = {'class': 'SimpleStrategy', \
             'replication_factor': 1}",
            (),
        )
        .await?;
    session.query_unpaged("CREATE TABLE rusty1.t (k int PRIMARY KEY, v text)", ()).await?;
    session.refresh_metadata().await?;
    let state = session.get_cluster_state();
    for k in 0..50_i32 {
        let own: Vec<String> = state
            .get_endpoints("rusty1", "t", &(k,))?
            .iter()
            .map(|(node, _)| node.host_id.simple().to_string())
            .collect();
        let key: String = k.to_be_bytes().iter().map(|byte| format!("%{byte:02X}")).collect();
        let place = get(any, &format!("/v1/where/rusty1.t/{key}"))?.replace('-', "");
        let list = place.split("\"replicas\":[").nth(1).and_then(|rest| rest.split(']').next());
        let list = list.ok_or("no replicas")?;
        assert_eq!(list, format!("\"{}\"", own.join("\",\"")), "replicas of {k}");
    }
    let mut select = prepared(session, "SELECT v FROM rusty1.t WHERE k = ?").await?;
    select.set_consistency(Consistency::One);
    let before = forwards(&nodes)?;
    let next = AtomicI32::new(0);
    let reader = || async {
        loop {
            let k = next.fetch_add(1, Ordering::Relaxed);
            if k >= 10_000 {
                return Ok::<_, Box<dyn Error + Send + Sync>>(());
            }
            patient(|| session.execute_unpaged(&select, (k,))).await?;
        }
    };
    try_join_all((0..50).map(|_| reader())).await?;
    let after = forwards(&nodes)?;
    assert_eq!(after, before, "reads that went to a node without the key");
    session.query_unpaged("DROP KEYSPACE rusty1", ()).await?;
    Ok(())
}

async fn counters(world: &World) -> Done {
    let session = &world.session;
    session.query_unpaged("CREATE TABLE rusty.hits (k text PRIMARY KEY, n counter)", ()).await?;
    // Not idempotent: the driver does not send it again, as nobody knows whether it has counted.
    let add = session.prepare("UPDATE rusty.hits SET n = n + ? WHERE k = ?").await?;
    let count = async |k: &str| -> Result<i64, Box<dyn Error + Send + Sync>> {
        let text = format!("SELECT n FROM rusty.hits WHERE k = '{k}'");
        let rows = session.query_unpaged(text, ()).await?.into_rows_result()?;
        let (scylla::value::Counter(n),) = rows.first_row()?;
        Ok(n)
    };
    let two = scylla::value::Counter(2);
    try_join_all((0..100).map(|_| patient(|| session.execute_unpaged(&add, (two, "page")))))
        .await?;
    assert_eq!(count("page").await?, 200);
    let mut both = Batch::new(BatchType::Counter);
    both.append_statement(add.clone());
    both.append_statement(add.clone());
    let adds = ((scylla::value::Counter(-1), "page"), (scylla::value::Counter(5), "other"));
    session.batch(&both, adds).await?;
    assert_eq!((count("page").await?, count("other").await?), (199, 5));
    let set = "INSERT INTO rusty.hits (k, n) VALUES ('page', 1)";
    assert!(session.query_unpaged(set, ()).await.is_err(), "counters are not set");
    Ok(())
}

/// Of sixteen that begin at once one wins.
async fn conditional(world: &World) -> Done {
    let session = &world.session;
    let insert = session.prepare("INSERT INTO rusty.t (k, v) VALUES (?, ?) IF NOT EXISTS").await?;
    for k in 100_000..100_005 {
        let insert = &insert;
        let ask = |writer: i32| async move {
            let ask = || session.execute_unpaged(insert, (k, format!("w{writer}")));
            let asked = patient(ask).await?;
            let rows = asked.into_rows_result()?;
            // The columns differ: only the first is there always.
            let applied = match rows.column_specs().len() {
                1 => rows.first_row::<(bool,)>()?.0,
                _ => rows.first_row::<(bool, Option<i32>, Option<String>)>()?.0,
            };
            Ok::<bool, Box<dyn Error + Send + Sync>>(applied)
        };
        let answers = try_join_all((0..16).map(ask)).await?;
        assert_eq!(answers.iter().filter(|applied| **applied).count(), 1, "{answers:?}");
    }
    Ok(())
}

async fn time_to_live(world: &World) -> Done {
    let session = &world.session;
    session.query_unpaged("INSERT INTO rusty.t (k, v) VALUES (-2, 'x') USING TTL 2", ()).await?;
    let began = Instant::now();
    loop {
        let text = "SELECT v FROM rusty.t WHERE k = -2";
        let rows = session.query_unpaged(text, ()).await?.into_rows_result()?;
        if rows.rows_num() == 0 {
            return Ok(());
        }
        assert!(began.elapsed() < Duration::from_secs(30), "it stays");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn traces(world: &World) -> Done {
    let mut statement = Statement::new("SELECT * FROM rusty.t WHERE k = 1");
    statement.set_tracing(true);
    let result = world.session.query_unpaged(statement, ()).await?;
    let id = result.tracing_id().ok_or("no trace")?;
    let trace = world.session.get_tracing_info(&id).await?;
    assert!(trace.events.len() >= 3 && trace.duration.is_some(), "{trace:?}");
    Ok(())
}

/// A prepared statement goes on after its table has got another column.
async fn altered_tables(world: &World) -> Done {
    let session = &world.session;
    let select = prepared(session, "SELECT k, v FROM rusty.t WHERE k = ?").await?;
    session.query_unpaged("ALTER TABLE rusty.t ADD extra int", ()).await?;
    session.query_unpaged("INSERT INTO rusty.t (k, v, extra) VALUES (5, 'x', 7)", ()).await?;
    let rows = session.execute_unpaged(&select, (5,)).await?.into_rows_result()?;
    assert_eq!(rows.first_row::<(i32, String)>()?, (5, "x".to_owned()));
    Ok(())
}

fn ask(command: &str) {
    println!("@{command}");
    let mut line = String::new();
    let _ = std::io::stdin().read_line(&mut line);
    assert_eq!(line.trim(), "done");
}

/// Quorum goes on while each node in turn is killed, and prepared statements survive it.
async fn dying_nodes(world: &World) -> Done {
    let session = &world.session;
    let insert = prepared(session, "INSERT INTO rusty.t (k, v) VALUES (?, 'd')").await?;
    let select = prepared(session, "SELECT v FROM rusty.t WHERE k = ?").await?;
    let mut written = 0;
    for node in 0..world.nodes {
        for (count, command) in [(10, "kill"), (20, "start"), (10, "")] {
            for _ in 0..count {
                let keys: Vec<i32> = (0..10).map(|i| 200_000 + written + i).collect();
                let (insert, session) = (&insert, &session);
                let write =
                    |k: i32| async move { patient(|| session.execute_unpaged(insert, (k,))).await };
                try_join_all(keys.into_iter().map(write)).await?;
                written += 10;
            }
            if !command.is_empty() {
                ask(&format!("{command} {node}"));
            }
        }
        // The driver itself takes a while to come back to a node that is up again.
        let began = Instant::now();
        while !session.get_cluster_state().get_nodes_info().iter().all(|node| node.is_connected()) {
            assert!(began.elapsed() < Duration::from_secs(60), "a node stays down");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    for k in 200_000..200_000 + written {
        let rows = patient(|| session.execute_unpaged(&select, (k,))).await?.into_rows_result()?;
        assert_eq!(rows.rows_num(), 1, "{k} is lost");
    }
    Ok(())
}

async fn test(name: &str, done: impl Future<Output = Done>) -> bool {
    let began = Instant::now();
    let result = done.await;
    match &result {
        Ok(()) => println!("ok {name} ({:.1} s)", began.elapsed().as_secs_f64()),
        Err(error) => println!("FAILED {name}: {error}"),
    }
    result.is_ok()
}

#[tokio::main]
async fn main() -> Done {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let list = arguments.iter().find(|argument| !argument.starts_with("--"));
    let endpoints: Vec<String> =
        list.ok_or("HOST:PORT[,HOST:PORT...]")?.split(',').map(str::to_owned).collect();
    let plain = connect(&endpoints, false).await?;
    let factor = endpoints.len().min(3);
    plain.query_unpaged("DROP KEYSPACE IF EXISTS rusty", ()).await?;
    for text in [
        format!(
            "CREATE KEYSPACE rusty WITH replication = {{'class': 'NetworkTopologyStrategy', \
             'replication_factor': {factor}}}"
        ),
        "CREATE TABLE rusty.t (k int PRIMARY KEY, v text)".to_owned(),
        "CREATE TABLE rusty.w (a int, b text, c int, PRIMARY KEY ((a, b), c))".to_owned(),
    ] {
        plain.query_unpaged(text, ()).await?;
    }
    let world = World { session: connect(&endpoints, true).await?, nodes: endpoints.len() };
    world.session.refresh_metadata().await?;
    let mut good = test("metadata", metadata(&world)).await;
    good &= test("types", types(&world)).await;
    good &= test("in_flight", in_flight(&world)).await;
    good &= test("batches", batches(&world)).await;
    good &= test("conditional", conditional(&world)).await;
    good &= test("counters", counters(&world)).await;
    good &= test("routing", routing(&world)).await;
    good &= test("time_to_live", time_to_live(&world)).await;
    good &= test("traces", traces(&world)).await;
    good &= test("altered_tables", altered_tables(&world)).await;
    if arguments.iter().any(|argument| argument == "--drive") {
        good &= test("dying_nodes", dying_nodes(&world)).await;
    }
    if !good {
        return Err("some tests failed".into());
    }
    println!("OK");
    Ok(())
}
