//! Whole requests over HTTP and CQL, against bare servers with the same client in the same run.
//!
//! ```text
//! cargo bench --bench http -- get   [SECONDS [ROUNDS]]   reads of values in memory
//! cargo bench --bench http -- put   [SECONDS [ROUNDS]]   durable writes
//! cargo bench --bench http -- syncs [SECONDS [ROUNDS]]   one sync before the answer, and two
//! cargo bench --bench http -- cql   [SECONDS [ROUNDS]]   reads by key over CQL, beside an echo and HTTP
//! ```
//!
//! Servers and clients are two runtimes of one process; the servers have one worker thread, so that
//! on two cores neither takes the other's. All targets are there from the start and are measured
//! in turn, round after round: what disturbs the machine disturbs all of them, and the ratios of
//! the medians hold.
#![allow(clippy::disallowed_methods, reason = "measures on the real clock, with real tasks")]

mod bare;
mod constant;
mod cql;
mod load;
mod nodes;

use henge::config::EngineKind;
use load::{Load, Medians, Target};

/// Bytes of every value.
const VALUE: usize = 100;

fn main() {
    // cargo passes `--bench` along.
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    let what = args.next().unwrap_or_else(|| "get".to_owned());
    let mut number = |default| args.next().and_then(|arg| arg.parse().ok()).unwrap_or(default);
    let (seconds, rounds) = (number(3), number(5) as usize);
    match what.as_str() {
        "get" => get(seconds, rounds),
        "put" => put(seconds, rounds),
        "syncs" => syncs(seconds, rounds),
        "cql" => cql(seconds, rounds),
        other => eprintln!("get, put, syncs or cql, not {other:?}"),
    }
}

/// Reads of 100-byte values: bare axum, the door over a backend that does nothing, one node (N=1),
/// three nodes (N=3, R=2). All data in memory.
fn get(seconds: u64, rounds: usize) {
    let server = nodes::runtime();
    let targets = server.block_on(async {
        let (one, _) = nodes::start(1, EngineKind::Memory, None).await;
        let (three, _) = nodes::start(3, EngineKind::Memory, None).await;
        for (all, n, r) in [(&one, 1, 1), (&three, 3, 2)] {
            let settings = format!(r#"{{"replication_factor":{n},"r":{r},"w":{n}}}"#);
            load::call(all[0], "PUT", "/v1/buckets/b", &settings).await;
            for key in 0..KEYS {
                load::call(all[0], "PUT", &path(key), &"x".repeat(VALUE)).await;
            }
        }
        [
            Target::new("bare axum", vec![bare::get().await]),
            Target::new("the door alone", vec![constant::door().await]),
            Target::new("one node, N=1", one),
            Target::new("three nodes, N=3 R=2", three),
        ]
    });
    println!("GET of {VALUE} bytes, 32 clients, {rounds} rounds of {seconds} s each");
    let load = Load { clients: 32, seconds, awake: false, request: get_request };
    print_ratios(&load.compare(&targets, rounds), &targets);
}

fn get_request(c: usize, _: u64) -> Vec<u8> {
    let path = path(c as u64 % KEYS);
    format!("GET {path} HTTP/1.1\r\nhost: bench\r\n\r\n").into_bytes()
}

/// Prepared reads of one row of 100 bytes over CQL's frames: a server that answers each frame with
/// one of the right length, one node (N=1), three nodes (N=3, QUORUM); and the same rows over HTTP.
/// All data in memory.
fn cql(seconds: u64, rounds: usize) {
    let server = nodes::runtime();
    let targets = server.block_on(async {
        let (one, one_cql) = nodes::start(1, EngineKind::Memory, None).await;
        let (three, three_cql) = nodes::start(3, EngineKind::Memory, None).await;
        let one_frames = cql::fill(&one_cql, KEYS).await;
        let three_frames = cql::fill(&three_cql, KEYS).await;
        for (all, n, r) in [(&one, 1, 1), (&three, 3, 2)] {
            let settings =
                format!(r#"{{"conflict":"lww","replication_factor":{n},"r":{r},"w":{n}}}"#);
            load::call(all[0], "PUT", "/v1/buckets/b", &settings).await;
            for key in 0..KEYS {
                load::call(all[0], "PUT", &path(key), &"x".repeat(VALUE)).await;
            }
        }
        [
            Target::over_cql("an echo of frames", vec![cql::echo().await], one_frames.clone()),
            Target::over_cql("CQL, one node, N=1", one_cql, one_frames),
            Target::new("HTTP, one node, N=1", one),
            Target::over_cql("CQL, three, QUORUM", three_cql, three_frames),
            Target::new("HTTP, three, R=2", three),
        ]
    });
    println!("reads of {VALUE} bytes by key, 64 clients, {rounds} rounds of {seconds} s each");
    for (awake, how) in [(false, "as they come"), (true, "their thread kept awake")] {
        println!("the clients {how}:");
        let load = Load { clients: 64, seconds, awake, request: get_request };
        print_ratios(&load.compare(&targets, rounds), &targets);
    }
}

const KEYS: u64 = 10;

fn path(key: u64) -> String {
    format!("/v1/kv/b/key{key:03}")
}

/// A PUT of a key that was never written before, at `level`.
fn put_request(c: usize, n: u64, query: &str) -> Vec<u8> {
    let body = "x".repeat(VALUE);
    format!(
        "PUT /v1/kv/b/client{c:02}:{n:08}{query} HTTP/1.1\r\nhost: bench\r\n\
         content-type: text/plain\r\ncontent-length: {VALUE}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// Durable PUTs by 64 clients: bare axum over the engine and its group commit, and one node.
fn put(seconds: u64, rounds: usize) {
    for (name, engine) in [("sled", EngineKind::Sled), ("fjall", EngineKind::Fjall)] {
        let dir = tempfile::tempdir_in(".").expect("a directory to write to");
        let server = nodes::runtime();
        let targets = server.block_on(async {
            let (one, _) = nodes::start(1, engine, Some(&dir.path().join("nodes"))).await;
            load::call(one[0], "PUT", "/v1/buckets/b", r#"{"replication_factor":1}"#).await;
            let bare = bare::put(nodes::engine(engine, &dir.path().join("bare"))).await;
            [Target::new("bare axum", vec![bare]), Target::new("one node, N=1", one)]
        });
        println!(
            "durable PUT of {VALUE} bytes over {name}, 64 clients, {rounds} rounds of {seconds} s"
        );
        let load =
            Load { clients: 64, seconds, awake: false, request: |c, n| put_request(c, n, "") };
        print_ratios(&load.compare(&targets, rounds), &targets);
        // The engine's files go with the directory; its threads must not outlive them.
        server.shutdown_background();
    }
}

/// Three nodes, N=3. At W=1 the answer waits for the minter's sync alone, at W=2 for that and then
/// for a second replica's: the work is the same. What lies between the two is what it costs that a
/// dot is on disk before it leaves its node.
fn syncs(seconds: u64, rounds: usize) {
    let dir = tempfile::tempdir_in(".").expect("a directory to write to");
    let server = nodes::runtime();
    let three = server.block_on(async {
        let (three, _) = nodes::start(3, EngineKind::Sled, Some(dir.path())).await;
        load::call(three[0], "PUT", "/v1/buckets/b", r#"{"replication_factor":3}"#).await;
        three
    });
    for clients in [1, 64] {
        println!("durable PUT over three nodes, N=3, {clients} clients");
        let targets = [Target::new("three nodes", three.clone())];
        let one =
            Load { clients, seconds, awake: false, request: |c, n| put_request(c, n, "?w=1") };
        let two =
            Load { clients, seconds, awake: false, request: |c, n| put_request(c, n, "?w=2") };
        for _ in 0..rounds {
            for (name, load) in [("W=1, one sync", &one), ("W=2, two syncs in a row", &two)] {
                print!("{name:26}");
                load.compare(&targets, 1);
            }
        }
    }
}

/// Each target's rate and the server's time for a request, as parts of the first one's.
fn print_ratios(found: &[Medians], targets: &[Target]) {
    for (own, target) in found.iter().zip(targets).skip(1) {
        let (rate, time) = (own.rate / found[0].rate, own.server_us / found[0].server_us);
        println!("{} / {}: rate {rate:.2}, server's time {time:.2}", target.name, targets[0].name);
    }
}
