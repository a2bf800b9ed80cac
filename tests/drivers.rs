//! Cassandra's own drivers, unmodified, against three processes.
//!
//! `tests/clients/install` fetches them from the package index; without them these tests say
//! SKIPPED, unless `HENGE_DRIVERS=required`.
#![allow(clippy::disallowed_methods, reason = "drives real processes")]

mod support;

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use support::cluster::TestCluster;

/// Where `tests/clients/install` puts Python and its driver, if it has.
fn python() -> Option<PathBuf> {
    let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/drivers/python");
    if home.join("installed").exists() {
        return Some(home.join("bin/python"));
    }
    assert!(
        std::env::var("HENGE_DRIVERS").as_deref() != Ok("required"),
        "no driver in {}: run tests/clients/install",
        home.display()
    );
    println!("SKIPPED: no driver in {}: run tests/clients/install", home.display());
    None
}

/// Runs the script, does to the nodes what it asks for, and returns what it has said.
async fn drive(cluster: &mut TestCluster, python: &Path, script: &str) -> String {
    let endpoints: Vec<String> =
        cluster.layout().places.iter().map(|place| place.cql.to_string()).collect();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(script);
    let mut child = Command::new(python)
        .arg(script)
        .arg(endpoints.join(","))
        .arg("--drive")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the driver's interpreter");
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
    let Some(python) = python() else { return };
    let mut cluster = TestCluster::start(3).await;
    let said = drive(&mut cluster, &python, "python_driver.py").await;
    assert!(said.ends_with("OK\n"), "{said}");
}
