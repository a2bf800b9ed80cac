//! `henge cql` as its users meet it: scripts, files, copies and a terminal, against real nodes.
#![allow(clippy::disallowed_methods, reason = "drives real processes")]

mod support;

use std::io::Write as _;
use std::path::Path;

use support::cluster::TestCluster;
use support::{Ended, henge_in};
use tempfile::tempdir;

/// The addresses of CQL of all nodes.
fn hosts(cluster: &TestCluster) -> String {
    let places = cluster.layout().places.iter();
    places.map(|place| place.cql.to_string()).collect::<Vec<_>>().join(",")
}

/// Runs the shell in `directory`.
async fn cql(directory: &Path, hosts: &str, args: &[&str]) -> Ended {
    let all = [&["cql", hosts][..], args].concat();
    henge_in(directory, "http://127.0.0.1:1", &all, b"").await
}

const SHOP: &str = "\
CREATE KEYSPACE shop WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1};
USE shop;
CREATE TYPE maker (name text, \"Since\" int);
-- a comment; with a semicolon
CREATE TABLE stock (
    item text, size int, left int, made frozen<maker>, tags set<text>, at timestamp, raw blob,
    PRIMARY KEY (item, size)
) WITH CLUSTERING ORDER BY (size DESC) AND comment = 'it''s; here';
BEGIN BATCH
    INSERT INTO stock (item, size, left, made, tags, at, raw) VALUES
        ('shirt', 42, 7, {name: 'a, \"b\"', \"Since\": 1901}, {'x', 'y'}, '2024-01-02T03:04:05.006Z', 0x00ff);
    INSERT INTO stock (item, size) VALUES ('shirt', 40);
APPLY BATCH;
";

#[tokio::test(flavor = "multi_thread")]
async fn scripts_get_plain_rows_and_exit_codes() {
    let cluster = TestCluster::start(1).await;
    let (hosts, folder) = (hosts(&cluster), tempdir().unwrap());
    let run = |args: &'static [&'static str]| cql(folder.path(), &hosts, args);
    std::fs::write(folder.path().join("shop.cql"), SHOP).unwrap();
    assert_eq!(run(&["-f", "shop.cql"]).await.ok().text(), "");

    let rows = run(&["-k", "shop", "-e", "SELECT item, size, left FROM stock"]).await.ok();
    assert_eq!(
        rows.text(),
        " item  | size | left\n-------+------+------\n shirt |   42 |    7\n shirt |   40 | null\n\n(2 rows)\n"
    );
    let rows = run(&["--json", "-e", "SELECT item, tags, made, at, raw FROM shop.stock LIMIT 1"]);
    assert_eq!(
        rows.await.ok().json(),
        serde_json::json!({
            "item": "shirt", "tags": ["x", "y"], "made": {"name": "a, \"b\"", "Since": 1901},
            "at": "2024-01-02T03:04:05.006Z", "raw": "0x00ff",
        })
    );
    let rows = run(&["--csv", "-e", "PAGING 1; SELECT item, size FROM shop.stock;"]).await.ok();
    assert_eq!(rows.text(), "item,size\nshirt,42\nshirt,40\n");
    let rows = run(&["-e", "EXPAND ON\nSELECT size, left FROM shop.stock LIMIT 1"]).await.ok();
    assert_eq!(rows.text(), "@ Row 1\n------+----\n size | 42\n left | 7\n\n(1 row)\n");
    let traced = run(&["-e", "TRACING ON; TIMING ON; SELECT size FROM shop.stock"]).await.ok();
    assert!(traced.text().contains("Request complete"), "{}", traced.text());
    assert!(traced.text().contains("\nTime: "), "{}", traced.text());
    let shown = run(&["-e", "CONSISTENCY one; CONSISTENCY; SERIAL CONSISTENCY; HELP copy"]).await;
    let shown = shown.ok();
    assert!(shown.text().starts_with("Consistency level: ONE\nSerial consistency level: SERIAL\n"));
    run(&["-e", "CAPTURE 'seen'; SELECT size FROM shop.stock; CAPTURE OFF"]).await.ok();
    let seen = std::fs::read_to_string(folder.path().join("seen")).unwrap();
    assert!(seen.contains("(2 rows)"), "{seen}");

    // Errors: where, what was meant, and which code.
    let odd = run(&["-e", "SELECT itm FROM shop.stock"]).await.code(1);
    assert!(odd.stderr.contains("SELECT itm FROM shop.stock\n       ^"), "{}", odd.stderr);
    assert!(odd.stderr.contains("did you mean item?"), "{}", odd.stderr);
    std::fs::write(folder.path().join("bad.cql"), "USE shop;\n\nSELECT *\n FORM stock;\nUSE x;")
        .unwrap();
    let odd = run(&["-e", "SOURCE 'bad.cql'"]).await.code(1);
    let place = "bad.cql:3: line 2:1 no viable alternative";
    assert!(odd.stderr.contains(place) && odd.stderr.contains("expected FROM"), "{}", odd.stderr);
    assert!(odd.stderr.contains("\n FORM stock\n ^"), "{}", odd.stderr);
    run(&["-e", "CONSISTENCY most"]).await.code(2);
    run(&["-f", "absent.cql"]).await.code(2);
    run(&["--consistency", "two", "-e", "SELECT * FROM shop.stock"]).await.code(1);
    let nobody = cql(folder.path(), "127.0.0.1:1", &["-e", "SELECT 1"]).await.code(4);
    assert!(nobody.stderr.contains("henge dev"), "{}", nobody.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_shell_describes_it_can_run_elsewhere() {
    let (one, other) = (TestCluster::start(1).await, TestCluster::start(1).await);
    let (from, to, folder) = (hosts(&one), hosts(&other), tempdir().unwrap());
    std::fs::write(folder.path().join("shop.cql"), SHOP).unwrap();
    cql(folder.path(), &from, &["-f", "shop.cql"]).await.ok();
    let made = cql(folder.path(), &from, &["-e", "DESCRIBE SCHEMA"]).await.ok();
    std::fs::write(folder.path().join("made.cql"), &made.stdout).unwrap();
    cql(folder.path(), &to, &["-f", "made.cql"]).await.ok();
    let again = cql(folder.path(), &to, &["-e", "DESC SCHEMA"]).await.ok();
    assert_eq!(again.text(), made.text());
    let names = cql(folder.path(), &to, &["-k", "shop", "-e", "DESC TABLES\nDESC TYPES"]).await;
    assert_eq!(names.ok().text(), "stock\nmaker\n");
    let missing = cql(folder.path(), &to, &["-k", "shop", "-e", "DESC TABLE stok"]).await.code(1);
    assert!(missing.stderr.contains("Table 'stok' not found in keyspace 'shop'"));
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_come_back_as_they_went_and_bad_rows_are_put_aside() {
    let cluster = TestCluster::start(1).await;
    let (hosts, folder) = (hosts(&cluster), tempdir().unwrap());
    let run = |args: &'static [&'static str]| cql(folder.path(), &hosts, args);
    std::fs::write(folder.path().join("shop.cql"), SHOP).unwrap();
    run(&["-f", "shop.cql"]).await.ok();
    run(&["-e", "COPY shop.stock TO 'out.csv' WITH HEADER = true"]).await.ok();
    let all = "SELECT * FROM shop.stock";
    let before = cql(folder.path(), &hosts, &["--json", "-e", all]).await.ok();
    run(&["-e", "TRUNCATE shop.stock; COPY shop.stock FROM 'out.csv' WITH HEADER = true"])
        .await
        .ok();
    assert_eq!(cql(folder.path(), &hosts, &["--json", "-e", all]).await.ok().text(), before.text());

    // Columns by their names, in any order; what is no row goes to a file, as it was.
    let rows = "left,item,size,more\n1,cap,1,x\nmany,cap,2,y\n3,cap,3,z\n4,cap\n,cap,5,\n6,,7,\n8,cap,blue,8,\n";
    std::fs::write(folder.path().join("in.csv"), rows).unwrap();
    let copied =
        run(&["-e", "COPY shop.stock (item, size, left) FROM 'in.csv' WITH HEADER = true"]);
    let copied = copied.await.code(7);
    assert!(copied.stderr.contains("row 2: left: 'many' is no int"), "{}", copied.stderr);
    let refused = std::fs::read_to_string(folder.path().join("shop.stock.refused.csv")).unwrap();
    let mut aside: Vec<&str> = refused.lines().collect();
    assert_eq!(aside.remove(0), "left,item,size,more");
    // What the server refuses comes after what is no row to begin with.
    aside.sort_unstable();
    assert_eq!(aside, ["4,cap", "6,,7,", "8,cap,blue,8,", "many,cap,2,y"]);
    // Mended, they are copied by the same command.
    let mended = refused.replace("many,", "2,").replace("4,cap\n", "4,cap,4,\n");
    let mended = mended.replace("6,,7,\n", "").replace("8,cap,blue,8,\n", "");
    std::fs::write(folder.path().join("mended.csv"), mended).unwrap();
    run(&["-e", "COPY shop.stock (item, size, left) FROM 'mended.csv' WITH HEADER = true"])
        .await
        .ok();
    let caps = run(&["--csv", "-e", "SELECT size, left FROM shop.stock WHERE item = 'cap'"]).await;
    assert_eq!(caps.ok().text(), "size,left\n5,\n4,4\n3,3\n2,2\n1,1\n");
    run(&["-e", "COPY shop.nope FROM 'in.csv'"]).await.code(1);
    run(&["-e", "COPY shop.stock FROM 'absent.csv'"]).await.code(1);
}

/// The five thousand flights, with a node of three killed when the copy is under way.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_goes_on_when_a_node_is_killed() {
    let mut cluster = TestCluster::start(3).await;
    let (hosts, folder) = (hosts(&cluster), tempdir().unwrap());
    let make = "CREATE KEYSPACE air WITH replication = {'class': 'SimpleStrategy', \
                'replication_factor': 3}; CREATE TABLE air.flights (year int, month int, day int, \
                carrier text, flight int, origin text, dest text, time_hour timestamp, \
                dep_delay int, PRIMARY KEY ((origin, month, day), time_hour, carrier, flight))";
    cql(folder.path(), &hosts, &["-e", make]).await.ok();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/flights-5000.csv");
    let flights = std::fs::read_to_string(&file).unwrap();
    // Fed by hand, so that the copy is certainly under way when the node goes.
    let cut = flights[..flights.len() / 2].rfind('\n').unwrap() + 1;
    let copy = "COPY air.flights (origin, month, day, time_hour, carrier, flight, dest, dep_delay) \
                FROM STDIN WITH HEADER = true AND NULL = 'NA' AND MAXBATCHSIZE = 20";
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_henge"))
        .args(["cql", &hosts, "-e", copy])
        .current_dir(folder.path())
        .stdin(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(&flights.as_bytes()[..cut]).unwrap();
    cluster.kill(0).unwrap();
    input.write_all(&flights.as_bytes()[cut..]).unwrap();
    drop(input);
    let ended = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(ended.status.success(), "{said}");
    let left = hosts.split_once(',').unwrap().1;
    let count = "SELECT count(*) FROM air.flights";
    let found = cql(folder.path(), left, &["--json", "-e", count]).await.ok().json();
    let rows = flights.lines().count() - 1;
    assert_eq!(found["count"], rows, "{said}");
    // And back, through the nodes that are left.
    cql(folder.path(), &hosts, &["-e", "COPY air.flights TO 'out.csv'"]).await.ok();
    let out = std::fs::read_to_string(folder.path().join("out.csv")).unwrap();
    assert_eq!(out.lines().count(), rows);
}

/// Passes bytes on to `node`, and cuts every connection after a while.
async fn unreliable(node: std::net::SocketAddr, bytes: u64) -> std::net::SocketAddr {
    use tokio::io::{AsyncReadExt as _, copy};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let Ok(server) = tokio::net::TcpStream::connect(node).await else { return };
                let (client, server) = (client.into_split(), server.into_split());
                let (mut requests, mut answers) = (client.0.take(bytes), server.0);
                let (mut to_server, mut to_client) = (server.1, client.1);
                // Whichever way ends first ends both, with requests and answers under way.
                tokio::select! {
                    biased;
                    _ = copy(&mut requests, &mut to_server) => {}
                    _ = copy(&mut answers, &mut to_client) => {}
                }
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_loses_nothing_when_its_connections_break() {
    let cluster = TestCluster::start(1).await;
    let (hosts, folder) = (hosts(&cluster), tempdir().unwrap());
    cql(folder.path(), &hosts, &["-f", &flights("schema.cql")]).await.ok();
    let between = unreliable(cluster.layout().places[0].cql, 50_000).await.to_string();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/flights-5000.csv");
    let copy = format!(
        "COPY air.flights FROM '{}' WITH HEADER = true AND NULL = 'NA' AND MAXBATCHSIZE = 20",
        file.display()
    );
    cql(folder.path(), &between, &["-e", &copy]).await.ok();
    let count = "SELECT count(*) FROM air.flights";
    let found = cql(folder.path(), &hosts, &["--json", "-e", count]).await.ok().json();
    assert_eq!(found["count"], 5_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_whose_nodes_are_all_gone_says_that_it_is_not_done() {
    let mut cluster = TestCluster::start(1).await;
    let (hosts, folder) = (hosts(&cluster), tempdir().unwrap());
    let make = "CREATE KEYSPACE k WITH replication = {'class': 'SimpleStrategy', \
                'replication_factor': 1}; CREATE TABLE k.t (k int PRIMARY KEY)";
    cql(folder.path(), &hosts, &["-e", make]).await.ok();
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_henge"))
        .args(["cql", &hosts, "-e", "COPY k.t FROM STDIN WITH MAXATTEMPTS = 2"])
        .current_dir(folder.path())
        .stdin(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let rows =
        |range: std::ops::Range<u32>| range.map(|row| format!("{row}\n")).collect::<String>();
    // More than a pipe holds, so that the copy is under way when the node goes.
    input.write_all(rows(0..40_000).as_bytes()).unwrap();
    cluster.kill(0).unwrap();
    // It may have ended already, and not read them.
    drop(input.write_all(rows(40_000..80_000).as_bytes()));
    drop(input);
    let ended = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(said.contains("COPY may be run again"), "{said}");
}

/// False if there is no Python: what needs it is left out then, unless `HENGE_DRIVERS=required`.
fn may_run_python() -> bool {
    let python = std::process::Command::new("python3").arg("--version").output();
    let may = python.is_ok() || std::env::var("HENGE_DRIVERS").as_deref() == Ok("required");
    if !may {
        println!("SKIPPED: no python3");
    }
    may
}

/// A file of the example.
fn flights(name: &str) -> String {
    format!("{}/examples/flights/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// The example as its chapter in the README has it, with the part of the file that is here, or all
/// of it: `FLIGHTS_FILE=…/flights.csv.gz`.
#[tokio::test(flavor = "multi_thread")]
async fn questions_about_flights_have_the_answers_that_the_file_has() {
    if !may_run_python() {
        return;
    }
    let cluster = TestCluster::start(3).await;
    let (hosts, folder) = (hosts(&cluster), tempdir().unwrap());
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/flights-5000.csv");
    let file = std::env::var("FLIGHTS_FILE").unwrap_or_else(|_| own.display().to_string());
    cql(folder.path(), &hosts, &["-f", &flights("schema.cql")]).await.ok();
    let load = std::fs::read_to_string(flights("load.cql")).unwrap();
    let load = load.replace("'flights.csv.gz'", &format!("'{file}'"));
    // It begins with a comment, as a file may, and what is given by -e.
    println!("{}", cql(folder.path(), &hosts, &["-e", &load]).await.ok().stderr);
    let mut questions = std::process::Command::new("python3");
    questions.arg(flights("questions.py")).args(["--file", &file, "--node"]);
    let ended = questions.arg(&cluster.layout().urls()[0]).output().unwrap();
    let said = String::from_utf8_lossy(&ended.stdout) + String::from_utf8_lossy(&ended.stderr);
    println!("{said}");
    assert!(ended.status.success() && said.ends_with("OK\n"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn receipts_show_who_was_asked() {
    let cluster = TestCluster::start(3).await;
    let (hosts, folder) = (hosts(&cluster), tempdir().unwrap());
    let run = |args: &'static [&'static str]| cql(folder.path(), &hosts, args);
    run(&["-e", "CREATE KEYSPACE k WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 3}; CREATE TABLE k.t (p int, c int, v int, PRIMARY KEY (p, c))"])
        .await
        .ok();
    let write = run(&["-e", "RECEIPT ON; INSERT INTO k.t (p, c, v) VALUES (1, 2, 3)"]).await.ok();
    assert!(
        write.text().contains("Receipt: write at QUORUM, 2 of 2 needed answers, 3 replicas"),
        "{}",
        write.text()
    );
    assert_eq!(write.text().matches("  apply   ").count(), 3, "{}", write.text());
    let read = run(&[
        "-e",
        "RECEIPT ON; SELECT v FROM k.t WHERE p = 1 AND c = 2; RECEIPT OFF; SELECT v FROM k.t",
    ])
    .await
    .ok();
    let text = read.text();
    let (with, without) = text
        .split_once("(1 row)")
        .and_then(|(_, rest)| rest.split_once("(1 row)"))
        .expect("two results");
    assert!(with.contains("Receipt: ") && !without.contains("Receipt: "), "{text}");
    assert!(text.contains(" at QUORUM, 2 of 2 needed answers, 3 replicas"), "{text}");
    assert!(text.contains("  data    ok") && text.contains("  digest  ok"), "{text}");
    let scan = run(&["-e", "CONSISTENCY ONE; RECEIPT ON; SELECT count(*) FROM k.t"]).await.ok();
    assert!(scan.text().contains("Receipt: scan at ONE, 1 of 1 needed answers"), "{}", scan.text());
    assert!(scan.text().contains("may miss what others wrote"), "{}", scan.text());
    let decided = run(&["-e", "RECEIPT ON; UPDATE k.t SET v = 4 WHERE p = 1 AND c = 2 IF v = 3"]);
    let decided = decided.await.ok();
    assert!(
        decided.text().contains("Receipt: write at SERIAL, decided by a majority"),
        "{}",
        decided.text()
    );
    let made = run(&["-e", "RECEIPT ON; RECEIPT; DESCRIBE KEYSPACES"]).await.ok();
    assert!(made.text().starts_with("Receipts: on\n"), "{}", made.text());
    assert!(made.text().contains("No receipt: no replica was asked"), "{}", made.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_at_a_terminal_is_helped() {
    if !may_run_python() {
        return;
    }
    let cluster = TestCluster::start(1).await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/shell_terminal.py");
    let mut program = std::process::Command::new("python3");
    program.arg(script).args([env!("CARGO_BIN_EXE_henge"), &hosts(&cluster)]);
    let ended = program.output().unwrap();
    let said = String::from_utf8_lossy(&ended.stdout) + String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success() && said.ends_with("OK\n"), "{said}");
}
