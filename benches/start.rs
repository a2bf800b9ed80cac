//! How fast a node and a cluster start, and what an idle node takes of memory: whole processes of
//! the release binary, on a data directory each.
//!
//! ```text
//! cargo bench --bench start -- [ROUNDS]
//! ```
//!
//! *Ready* is the first `200` of `/readyz`, from the moment that the process was asked for. Memory
//! is `VmRSS` some seconds after that.
#![allow(clippy::disallowed_methods, reason = "a measurement needs the real clock and processes")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Time that a node is left alone before its memory is looked at.
const IDLE: Duration = Duration::from_secs(3);

/// Time that a start may take before the measurement gives up.
const PATIENCE: Duration = Duration::from_secs(30);

fn main() {
    // cargo passes `--bench` along.
    let rounds = std::env::args().filter_map(|arg| arg.parse().ok()).next().unwrap_or(5);
    for engine in ["sled", "fjall"] {
        let rounds: Vec<Start> = (0..rounds).map(|_| one_node(engine)).collect();
        println!(
            "one node over {engine}: an empty directory ready in {}, the same one again in {}, \
                  idle with {} KiB",
            spread(rounds.iter().map(|r| r.first_ms)),
            spread(rounds.iter().map(|r| r.again_ms)),
            spread(rounds.iter().map(|r| r.idle_kib))
        );
    }
    let dev = spread((0..rounds).map(|_| dev()));
    println!("henge dev, three nodes: all ready in {dev}");
}

struct Start {
    first_ms: u64,
    again_ms: u64,
    idle_kib: u64,
}

/// Median, least and most.
fn spread(numbers: impl Iterator<Item = u64>) -> String {
    let mut all: Vec<u64> = numbers.collect();
    all.sort_unstable();
    format!("{} ({} to {})", all[all.len() / 2], all[0], all[all.len() - 1])
}

fn one_node(engine: &str) -> Start {
    let dir = tempfile::tempdir_in(".").expect("a directory to write to");
    let (http, peer) = (free_port(), free_port());
    let config = dir.path().join("henge.toml");
    let text = format!(
        "[node]\nname = \"n1\"\ndata_dir = {:?}\n[cluster]\nfounders = \
         [\"n1={peer}\"]\n[listen]\nhttp = \"{http}\"\npeer = \"{peer}\"\n[storage]\nengine = \
         {engine:?}\n[log]\nlevel = \"error\"\n",
        dir.path().join("data")
    );
    std::fs::write(&config, text).expect("a file to write");
    let (mut node, first_ms) = start(&config, http);
    std::thread::sleep(IDLE);
    let idle_kib = resident_kib(&node);
    stop(&mut node);
    let (mut node, again_ms) = start(&config, http);
    stop(&mut node);
    Start { first_ms, again_ms, idle_kib }
}

fn henge() -> Command {
    Command::new(env!("CARGO_BIN_EXE_henge"))
}

fn start(config: &Path, http: SocketAddr) -> (Child, u64) {
    let began = Instant::now();
    let mut command = henge();
    command.arg("start").arg("--config").arg(config).stdout(Stdio::null());
    let node = command.spawn().expect("the binary starts");
    while !is_ready(http) {
        assert!(began.elapsed() < PATIENCE, "the node does not become ready");
        std::thread::sleep(Duration::from_millis(1));
    }
    (node, began.elapsed().as_millis() as u64)
}

fn is_ready(http: SocketAddr) -> bool {
    let ask = || {
        let mut stream = TcpStream::connect(http)?;
        stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        std::io::Result::Ok(answer.starts_with("HTTP/1.1 200"))
    };
    ask().unwrap_or(false)
}

fn resident_kib(node: &Child) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.id())).expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a process");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// The time until `henge dev` says that all its nodes are ready.
fn dev() -> u64 {
    let began = Instant::now();
    let mut command = henge();
    command.args(["dev", "--ephemeral"]).stdout(Stdio::piped());
    let mut cluster = command.spawn().expect("the binary starts");
    let mut lines = BufReader::new(cluster.stdout.take().expect("piped")).lines();
    let ready = lines.find_map(|line| line.ok().filter(|line| line.contains("is ready")));
    let took = began.elapsed().as_millis() as u64;
    assert!(ready.is_some(), "the cluster does not become ready");
    stop(&mut cluster);
    took
}

/// Asks a process to stop, as Ctrl-C does, and waits for it.
fn stop(process: &mut Child) {
    let pid = process.id().to_string();
    let asked = Command::new("kill").args(["-INT", &pid]).status().expect("kill");
    assert!(asked.success());
    process.wait().expect("it ends");
}

fn free_port() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address")
}
