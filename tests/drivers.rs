//! Cassandra's own drivers, unmodified, against three processes.
//!
//! `tests/clients/install` fetches them from the package registries; without them these tests say
//! SKIPPED, unless `HENGE_DRIVERS=required`. The drivers for Go and Java need toolchains of their
//! own, and are asked for by name (`tests/clients/more`).
#![allow(clippy::disallowed_methods, reason = "drives real processes")]

mod support;

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use support::cluster::TestCluster;
use support::henge_in;
use tokio::sync::Mutex;

/// One driver at a time: three processes and a client are enough for a small machine.
static TURN: Mutex<()> = Mutex::const_new(());

/// A file below the project's directory.
fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// True if `tests/clients/install` has put `path` there. It must have, if `HENGE_DRIVERS` is `word`
/// or `all`.
fn is_there(path: &str, word: &str) -> bool {
    let there = file(path).exists();
    let asked = std::env::var("HENGE_DRIVERS").unwrap_or_default();
    assert!(there || asked != word && asked != "all", "no {path}: run tests/clients/install");
    if !there {
        println!("SKIPPED: no {path}: run tests/clients/install");
    }
    there
}

/// One of the drivers that are always there in a gate.
fn is_installed(path: &str) -> bool {
    is_there(path, "required")
}

/// Runs `program` on a cluster, does to the nodes what it asks for, and returns what it has said.
async fn drive(program: &mut Command, cluster: &mut TestCluster) -> String {
    let endpoints: Vec<String> =
        cluster.layout().places.iter().map(|place| place.cql.to_string()).collect();
    let mut child = program
        .arg(endpoints.join(","))
        .arg("--drive")
        .env("HENGE_NODES", cluster.nodes())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the driver's program");
    let mut answers = child.stdin.take().expect("a pipe");
    let mut said = String::new();
    for line in BufReader::new(child.stdout.take().expect("a pipe")).lines() {
        let line = line.expect("text");
        println!("{line}");
        said.push_str(&line);
        said.push('\n');
        let Some(command) = line.strip_prefix('@') else { continue };
        let (verb, node) = command.split_once(' ').expect("a verb and a node");
        let node: usize = node.parse().expect("a number");
        match verb {
            "kill" => {
                cluster.kill(node).expect("a running node");
            }
            "start" => {
                cluster.start_node(node).expect("a node that starts");
                cluster.wait_node_ready(node).await.expect("a node that serves");
            }
            other => panic!("the script asks to {other}"),
        }
        writeln!(answers, "done").expect("the script listens");
    }
    assert!(child.wait().expect("an exit code").success(), "{said}");
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_driver_works() {
    let python = "target/drivers/python/bin/python";
    if !is_installed("target/drivers/python/installed") {
        return;
    }
    let _turn = TURN.lock().await;
    let mut cluster = TestCluster::start_apart(3).await;
    let mut program = Command::new(file(python));
    let said = drive(program.arg(file("tests/clients/python_driver.py")), &mut cluster).await;
    assert!(said.ends_with("OK\n"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn cassandras_own_shell_works() {
    let cqlsh = "target/drivers/python/bin/cqlsh";
    if !is_installed(cqlsh) {
        return;
    }
    let _turn = TURN.lock().await;
    let mut cluster = TestCluster::start_apart(3).await;
    let mut program = Command::new(file("target/drivers/python/bin/python"));
    program.arg(file("tests/clients/cqlsh.py")).arg(file(cqlsh));
    let said = drive(&mut program, &mut cluster).await;
    assert!(said.ends_with("OK\n"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_driver_and_cassandras_own_shell_log_in() {
    let cqlsh = "target/drivers/python/bin/cqlsh";
    if !is_installed(cqlsh) {
        return;
    }
    let _turn = TURN.lock().await;
    let password = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(password.path(), "open sesame\n").expect("written");
    let mut base = henge::config::Config::default();
    base.auth.enabled = true;
    base.auth.first_password_file = Some(password.path().display().to_string());
    let cluster = TestCluster::start_with(1, &base).await;
    let admin = henge::client::Credentials::new("admin", "open sesame");
    let client = cluster.client().expect("an address").with_credentials(&admin);
    let began = std::time::Instant::now();
    while client.json("/v1/cluster").await.is_err() {
        assert!(began.elapsed().as_secs() < 30, "no superuser: {}", cluster.log(0));
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let output = Command::new(file("target/drivers/python/bin/python"))
        .arg(file("tests/clients/roles.py"))
        .arg(file(cqlsh))
        .arg(cluster.layout().places[0].cql.to_string())
        .env("PASSWORD", "open sesame")
        .output()
        .expect("the driver's program");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    println!("{said}");
    assert!(output.status.success() && said.ends_with("OK\n"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_driver_works() {
    if !is_installed("target/drivers/node/installed") {
        return;
    }
    let _turn = TURN.lock().await;
    let mut cluster = TestCluster::start_apart(3).await;
    let mut program = Command::new("node");
    program.env("NODE_PATH", file("target/drivers/node/node_modules"));
    let said = drive(program.arg(file("tests/clients/node_driver.js")), &mut cluster).await;
    assert!(said.ends_with("OK\n"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_scylla_driver_works() {
    let program = "target/drivers/scylla/debug/scylla-driver";
    if !is_installed(program) {
        return;
    }
    let _turn = TURN.lock().await;
    let mut cluster = TestCluster::start_apart(3).await;
    let said = drive(&mut Command::new(file(program)), &mut cluster).await;
    assert!(said.ends_with("OK\n"), "{said}");
}

/// The example programs in Rust and in Python, on the flights that are here.
#[tokio::test(flavor = "multi_thread")]
async fn the_departure_boards_show_what_the_file_has() {
    let (board, python) = ("target/drivers/scylla/debug/board", "target/drivers/python/bin/python");
    if !is_installed(board) || !is_installed("target/drivers/python/installed") {
        return;
    }
    let _turn = TURN.lock().await;
    let cluster = TestCluster::start_apart(3).await;
    let hosts: Vec<String> =
        cluster.layout().places.iter().map(|place| place.cql.to_string()).collect();
    let hosts = hosts.join(",");
    let flights = file("tests/data/flights-5000.csv");
    let copy =
        format!("COPY air.flights FROM '{}' WITH HEADER = true AND NULL = 'NA'", flights.display());
    let schema = std::fs::read_to_string(file("examples/flights/schema.cql")).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let load = format!("{schema}\n{copy}");
    let args = ["cql", &hosts, "-e", &load];
    henge_in(directory.path(), "http://127.0.0.1:1", &args, b"").await.ok();

    let day = ["JFK", "2013-01-02"];
    let shown = |program: &mut Command| {
        let ended = program.arg(&hosts).args(day).output().expect("the program runs");
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(ended.status.success(), "{said}");
        String::from_utf8(ended.stdout).expect("text")
    };
    let by_rust = shown(&mut Command::new(file(board)));
    let by_python = shown(
        Command::new(file(python))
            .arg(file("examples/board/board.py"))
            .env("PYTHONWARNINGS", "ignore"),
    );
    assert_eq!(by_rust, by_python);
    let file = std::fs::read_to_string(&flights).unwrap();
    let on_that_day = |line: &&str| {
        let columns: Vec<&str> = line.split(',').collect();
        columns[..3] == ["2013", "1", "2"] && columns[12] == day[0]
    };
    let wanted = file.lines().filter(on_that_day).count();
    assert!(wanted > 100);
    assert_eq!(by_rust.lines().count(), wanted + 1, "{by_rust}");
    assert!(by_rust.ends_with(&format!("\n{wanted} flights\n")), "{by_rust}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_go_driver_works() {
    let program = "target/drivers/go/go-driver";
    if !is_there(program, "more") {
        return;
    }
    let _turn = TURN.lock().await;
    let mut cluster = TestCluster::start_apart(3).await;
    let said = drive(&mut Command::new(file(program)), &mut cluster).await;
    assert!(said.ends_with("OK\n"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_java_driver_works() {
    let program = "target/drivers/java/build/java-driver.jar";
    if !is_there(program, "more") {
        return;
    }
    let _turn = TURN.lock().await;
    let mut cluster = TestCluster::start_apart(3).await;
    let mut java = Command::new("java");
    let libraries = file("target/drivers/java/lib/*");
    java.arg("-cp").arg(format!("{}:{}", libraries.display(), file(program).display()));
    let said = drive(java.arg("Driver"), &mut cluster).await;
    assert!(said.ends_with("OK\n"), "{said}");
}
