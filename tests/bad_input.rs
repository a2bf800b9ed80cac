//! Bad input to whole processes: bytes, connections and configurations. In every case the node
//! goes on, which a write and a read show, or does not start and names the cure.
//!
//! What is bad about disks and data directories is in `bad_disk.rs`. What a narrower test shows as
//! well is not repeated here:
//!
//! | bad input | test |
//! |---|---|
//! | malformed JSON, unknown settings | `http/buckets.rs`, `http/many.rs` |
//! | unknown bucket, wrong keys, oversize values and heads | `http/errors.rs` |
//! | misspelt headers and parameters, absurd R and W | `http/errors.rs`, `http/keys.rs` |
//! | tampered contexts, contexts of another key | `http/keys.rs` |
//! | truncated bodies and batches, one at a time | `http/errors.rs`, `http/many.rs` |
//! | pauses, slow heads, slow readers, one at a time | `http/wire.rs` |
//! | too many requests, bodies beyond the memory for them | `http/errors.rs` |
//! | frames with a wrong bit, cut short, too large | `net::codec::tests` |
//! | strangers, misfits and older starts on the peer port | `net::tcp::tests` |
//! | typos in a configuration, a door that strangers reach | `cli.rs`, `config::tests` |
//! | founders that list other founders | `cluster::tests` |
#![allow(clippy::disallowed_methods, reason = "drives real processes on the real clock")]

mod support;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use henge::client::{BucketSettings, Client, FoundValue, ReadOptions, WriteOptions};
use henge::config::Config;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use support::cluster::TestCluster;
use support::{henge_in, raw};

const BUCKET: &str = "b";

/// A stream of bytes that is the same in each run.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
        self.0 ^ (self.0 >> 29)
    }

    fn bytes(&mut self, most: u64) -> Vec<u8> {
        let len = self.next() % most;
        (0..len).map(|_| (self.next() >> 13) as u8).collect()
    }
}

/// A cluster with a bucket.
async fn start(nodes: u8) -> TestCluster {
    let cluster = TestCluster::start(nodes).await;
    let client = cluster.client().expect("addresses");
    client.create_bucket(BUCKET, &BucketSettings::default()).await.expect("a bucket");
    cluster
}

/// Writes and reads at all replicas through one node, on connections of its own.
async fn check_alive(cluster: &TestCluster, node: usize, key: &str) {
    let client = Client::new([cluster.url(node)]).expect("an address");
    let all = Some("all".to_owned());
    let options = WriteOptions { level: all.clone(), ..WriteOptions::default() };
    client.put(BUCKET, key.as_bytes(), key.to_owned(), &options).await.expect("a write");
    let options = ReadOptions { level: all, ..ReadOptions::default() };
    let found = client.get(BUCKET, key.as_bytes(), &options).await.expect("a read");
    let FoundValue::One(stored) = found.value else { panic!("{key}: {:?}", found.value) };
    assert_eq!(stored.value, key.as_bytes());
}

/// Memory that the process holds, in KiB.
fn resident(cluster: &TestCluster, node: usize) -> u64 {
    let pid = cluster.pid(node).expect("it runs");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// What a stranger might say first, before the noise.
const OPENINGS: &[&[u8]] = &[
    b"",
    b"GET /v1/kv/b/k HTTP/1.1\r\n",
    b"PUT /v1/kv/b/noise HTTP/1.1\r\nhost: h\r\ncontent-length: 100000\r\n\r\n",
    b"PUT /v1/kv/b/noise HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\nffffffffffff\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    // A TLS client hello.
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    // Frames between nodes: a hello, a request, and one of 4 GiB.
    b"HNG\x01\x01\0\0\0\x40\0\0\0\0\0\0\0\0\0\0\0",
    b"HNG\x01\x04\0\0\0\x40\0\0\0\x01\0\0\0\0\0\0\0",
    b"HNG\x01\x04\0\0\0\xff\xff\xff\xff\x01\0\0\0\0\0\0\0",
];

#[tokio::test(flavor = "multi_thread")]
async fn random_bytes_on_any_port_harm_nobody() {
    let cluster = start(3).await;
    check_alive(&cluster, 0, "before").await;
    let place = cluster.layout().places[0];
    let before = resident(&cluster, 0);
    let mut noise = Noise(7);
    for port in [place.http, place.peer] {
        for _ in 0..20 {
            let attempts = OPENINGS.iter().map(|opening| {
                let mut bytes = opening.to_vec();
                bytes.extend(noise.bytes(4_096));
                async move { raw::send_and_end(port, &bytes).await }
            });
            for answer in join_all(attempts).await {
                assert!(answer.status == 0 || answer.status >= 400, "{answer:?}");
            }
        }
    }
    for node in 0..3 {
        check_alive(&cluster, node, &format!("after {node}")).await;
    }
    let log = cluster.log(0);
    assert!(log.contains("garbage on the peer port"), "{log}");
    let grown = resident(&cluster, 0).saturating_sub(before);
    assert!(grown < 64 << 10, "{grown} KiB more than before");
    let options = ReadOptions::default();
    let client = cluster.client().expect("addresses");
    let found = client.get(BUCKET, b"noise", &options).await.expect("a read");
    assert!(matches!(found.value, FoundValue::Absent), "half a body was written: {found:?}");
}

/// Slow senders of all kinds, in numbers: they are told or cut off in the end, write nothing, and
/// hold nobody up meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn slow_senders_and_truncated_bodies_hold_nobody_up() {
    let cluster = start(1).await;
    let address = cluster.layout().places[0].http;
    let paused: &[(&[u8], bool)] = &[
        // A head that never ends, and a body that never comes.
        (b"GET /v1/kv/b/k HTTP/1.1\r\nhost: h\r\n", false),
        (b"PUT /v1/kv/b/slow HTTP/1.1\r\nhost: h\r\ncontent-length: 9\r\n\r\nabc", true),
        (
            b"PUT /v1/kv/b/slow HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n9\r\nab",
            true,
        ),
        (
            b"POST /v1/batch/b HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n9\r\n{\"op",
            false,
        ),
    ];
    let mut senders = Vec::new();
    for (bytes, told) in paused {
        for _ in 0..100 {
            let mut stream = raw::connect(address).await;
            stream.write_all(bytes).await.expect("the node reads");
            senders.push((stream, *told));
        }
    }
    check_alive(&cluster, 0, "while they wait").await;
    // A body that breaks off.
    for (bytes, _) in paused {
        raw::send_and_end(address, bytes).await;
    }
    let endings = join_all(senders.into_iter().map(|(mut stream, told)| async move {
        let answer = String::from_utf8_lossy(&raw::rest(&mut stream).await).into_owned();
        assert!(!told || answer.starts_with("HTTP/1.1 408 "), "{answer}");
    }));
    endings.await;
    check_alive(&cluster, 0, "after they have gone").await;
    let client = cluster.client().expect("addresses");
    let found = client.get(BUCKET, b"slow", &ReadOptions::default()).await.expect("a read");
    assert!(matches!(found.value, FoundValue::Absent), "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_idle_connections_on_both_ports_harm_nobody() {
    let cluster = start(3).await;
    let place = cluster.layout().places[0];
    let mut idle = Vec::new();
    for port in [place.http, place.peer] {
        for _ in 0..30 {
            let opening = (0..100).map(|_| TcpStream::connect(port));
            idle.extend(join_all(opening).await.into_iter().flatten());
        }
    }
    assert!(idle.len() > 3_000, "{} connections", idle.len());
    for node in 0..3 {
        check_alive(&cluster, node, &format!("beside them {node}")).await;
    }
    drop(idle);
    check_alive(&cluster, 0, "after them").await;
}

/// A node that has no file descriptors left takes no new connections, and goes on.
#[tokio::test(flavor = "multi_thread")]
async fn running_out_of_file_descriptors_passes() {
    let cluster = start(1).await;
    check_alive(&cluster, 0, "before").await;
    let pid = cluster.pid(0).expect("it runs").to_string();
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs").count();
    let limited = std::process::Command::new("prlimit")
        .args(["--pid", &pid, &format!("--nofile={}", open + 20)])
        .status();
    if !limited.is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: needs prlimit");
        return;
    }
    let address = cluster.layout().places[0].http;
    // More than it may have; the system takes them, the node cannot.
    let waiting = join_all((0..60).map(|_| TcpStream::connect(address))).await;
    let deadline = Instant::now() + Duration::from_secs(60);
    while !cluster.log(0).contains("cannot take a connection") {
        assert!(Instant::now() < deadline, "it never ran out:\n{}", cluster.log(0));
        tokio::task::yield_now().await;
    }
    drop(waiting);
    let client = cluster.client().expect("addresses").with_patience(Duration::from_secs(60));
    client.put(BUCKET, b"k", "v", &WriteOptions::default()).await.expect("a write");
    check_alive(&cluster, 0, "after").await;
}

/// What a node says that does not start.
async fn refusal(cluster: &TestCluster, node: usize, code: i32) -> String {
    let config = cluster.config_file(node).display().to_string();
    let args = ["start", "--config", &config];
    henge_in(cluster.directory(), "", &args, b"").await.code(code).stderr
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_taken_is_named_with_its_setting() {
    let cluster = TestCluster::prepare(1, &Config::default());
    let place = cluster.layout().places[0];
    for (address, setting) in [(place.http, "listen.http"), (place.peer, "listen.peer")] {
        let _holder = std::net::TcpListener::bind::<SocketAddr>(address).expect("it is free");
        let said = refusal(&cluster, 0, 1).await;
        assert!(said.contains(setting) && said.contains(&address.to_string()), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_is_none_is_refused_whole() {
    let cluster = TestCluster::prepare(1, &Config::default());
    let file = cluster.config_file(0);
    std::fs::write(&file, b"[node]\nname = \"\xff\xfe\"\n").expect("a file");
    let said = refusal(&cluster, 0, 2).await;
    assert!(said.contains("UTF-8"), "{said}");
    std::fs::write(&file, Noise(3).bytes(100_000)).expect("a file");
    refusal(&cluster, 0, 2).await;
    std::fs::write(&file, "[").expect("a file");
    let said = refusal(&cluster, 0, 2).await;
    assert!(said.contains("line 1"), "{said}");
    std::fs::remove_file(&file).expect("removed");
    std::fs::create_dir(&file).expect("a directory");
    let said = refusal(&cluster, 0, 2).await;
    assert!(said.contains(&file.display().to_string()), "{said}");
}
