//! Whole processes: killed, stopped, started again; and `henge dev`.
#![allow(clippy::disallowed_methods, reason = "drives real processes")]

mod support;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use support::cluster::TestCluster;
use support::{henge, henge_in, raw};

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_answers_while_a_node_is_dead_or_frozen_and_takes_it_back() {
    let mut cluster = TestCluster::start(3).await;
    let (first, last) = (cluster.url(0), cluster.url(2));
    henge(&first, &["buckets", "create", "b"]).await.ok();
    henge(&first, &["put", "b", "before", "1"]).await.ok();

    cluster.kill(1).unwrap();
    assert_eq!(henge(&last, &["get", "b", "before"]).await.ok().text(), "1");
    henge(&last, &["put", "b", "during", "2"]).await.ok();
    cluster.start_node(1).unwrap();
    cluster.wait_node_ready(1).await.unwrap();
    let second = cluster.url(1);
    assert_eq!(henge(&second, &["get", "b", "during"]).await.ok().text(), "2");

    // Node 1 is ready; the others may still have to notice.
    all_replicas_answer(&first, "during").await;
    cluster.signal(2, "STOP").unwrap();
    assert_eq!(henge(&first, &["get", "b", "during"]).await.ok().text(), "2");
    henge(&first, &["put", "b", "frozen", "3"]).await.ok();
    cluster.signal(2, "CONT").unwrap();
    cluster.wait_node_ready(2).await.unwrap();
    assert_eq!(henge(&last, &["get", "b", "frozen"]).await.ok().text(), "3");
}

/// Waits until a read of all three replicas through `node` succeeds.
async fn all_replicas_answer(node: &str, key: &str) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    loop {
        let read = henge(node, &["get", "b", key, "--level", "all"]).await;
        if read.code == 0 {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "{}", read.stderr);
    }
}

/// Reads that a node has driven, and hedges among them.
async fn reads_and_hedges(node: &str) -> (u64, u64) {
    let address = node.trim_start_matches("http://").parse().expect("an address");
    let answer = raw::request(address, "GET", "/metrics", &[], b"").await;
    let number = |name: &str| {
        let line = answer.text().lines().find(|line| line.starts_with(name)).map(str::to_owned);
        let value = line.and_then(|line| line.split(' ').nth(1)?.parse::<f64>().ok());
        value.unwrap_or_else(|| panic!("{name} is missing")) as u64
    };
    (number("henge_coordinator_reads_total "), number("henge_coordinator_hedges_total "))
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_go_around_a_frozen_node_by_a_bounded_number_of_hedges() {
    let cluster = TestCluster::start(3).await;
    let others = format!("{},{}", cluster.url(0), cluster.url(1));
    let bench = |seconds: &'static str| {
        let args = [
            "bench",
            "--workload",
            "read",
            "--records",
            "200",
            "--warmup",
            "0",
            "--seconds",
            seconds,
            "--clients",
            "8",
            "--json",
        ];
        let others = others.clone();
        async move { henge(&others, &args).await.ok().json() }
    };
    bench("1").await;
    let before = [reads_and_hedges(&cluster.url(0)).await, reads_and_hedges(&cluster.url(1)).await];
    cluster.signal(2, "STOP").unwrap();
    let report = bench("4").await;
    let after = [reads_and_hedges(&cluster.url(0)).await, reads_and_hedges(&cluster.url(1)).await];
    cluster.signal(2, "CONT").unwrap();
    assert_eq!(report["errors"], serde_json::json!({}), "no read fails");
    for (before, after) in before.iter().zip(&after) {
        let (reads, hedges) = (after.0 - before.0, after.1 - before.1);
        println!("{hedges} hedges in {reads} reads");
        assert!(reads > 100, "{reads}");
        // A tenth of the reads, what was saved up before, and those around the frozen one.
        assert!(hedges <= reads / 10 + 256 + 64, "{hedges} hedges in {reads} reads");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_nodes_killed_at_once_come_back_with_what_they_acknowledged() {
    let mut cluster = TestCluster::start(3).await;
    let nodes = cluster.nodes();
    henge(&nodes, &["buckets", "create", "b"]).await.ok();
    for i in 0..20 {
        henge(&nodes, &["put", "b", &format!("k{i}"), &i.to_string()]).await.ok();
    }
    for node in 0..3 {
        cluster.kill(node).unwrap();
    }
    for node in 0..3 {
        cluster.start_node(node).unwrap();
    }
    cluster.wait_ready().await.unwrap();
    for i in 0..20 {
        let key = format!("k{i}");
        assert_eq!(henge(&nodes, &["get", "b", &key]).await.ok().text(), i.to_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_stops_when_asked_and_a_directory_is_held_by_one_process() {
    let mut cluster = TestCluster::start(1).await;
    let config = cluster.config_file(0).display().to_string();
    let second = henge_in(cluster.directory(), "", &["start", "--config", &config], b"").await;
    let second = second.code(1);
    assert!(second.stderr.contains("another process"), "{}", second.stderr);

    assert!(cluster.stop(0).unwrap().success());
    let log = std::fs::read_to_string(cluster.log_file(0)).unwrap();
    assert!(log.contains("effective configuration") && log.contains("partitions = 256"));
    assert!(log.trim_end().ends_with("stopped"), "{log}");

    // The same directory under another name belongs to somebody else.
    let text = std::fs::read_to_string(&config).unwrap();
    let renamed = text.replace("name = \"n1\"", "name = \"n7\"").replace("\"n1=", "\"n7=");
    std::fs::write(&config, renamed).unwrap();
    let other = henge_in(cluster.directory(), "", &["start", "--config", &config], b"").await;
    let other = other.code(1);
    assert!(other.stderr.contains("n1") || other.stderr.contains("belongs"), "{}", other.stderr);
}

/// A running `henge dev` with its first words.
struct Dev {
    child: Child,
    nodes: String,
}

impl Drop for Dev {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// One at a time: between two starts on the same data, another could take its ports.
static ONE_DEV: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

impl Dev {
    fn start(directory: &Path, extra: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_henge"))
            .args(["dev", "--json"])
            .args(extra)
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let mut text = String::new();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        for line in stdout.lines() {
            text.push_str(&line.unwrap());
            if text.ends_with('}') {
                break;
            }
        }
        let ready: serde_json::Value = serde_json::from_str(&text).expect("it became ready");
        let nodes = ready["nodes"].as_array().unwrap();
        let nodes: Vec<_> = nodes.iter().map(|node| node.as_str().unwrap()).collect();
        Self { child, nodes: nodes.join(",") }
    }

    /// Ctrl-C.
    fn interrupt(mut self) -> bool {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
        self.child.wait().unwrap().success()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dev_goes_on_with_the_same_data_after_ctrl_c() {
    let _one = ONE_DEV.lock().await;
    let directory = tempfile::tempdir().unwrap();
    let dev = Dev::start(directory.path(), &["--data", "d"]);
    henge(&dev.nodes, &["buckets", "create", "b"]).await.ok();
    henge(&dev.nodes, &["put", "b", "k", "kept"]).await.ok();
    let nodes = dev.nodes.clone();
    // The addresses are its own as long as it runs.
    let twice = henge_in(directory.path(), "", &["dev", "--data", "d"], b"").await.code(2);
    assert!(twice.stderr.contains("already listens"), "{}", twice.stderr);
    assert!(dev.interrupt(), "Ctrl-C is a good end");

    let dev = Dev::start(directory.path(), &["--data", "d"]);
    assert_eq!(dev.nodes, nodes);
    for node in nodes.split(',') {
        assert_eq!(henge(node, &["get", "b", "k"]).await.ok().text(), "kept");
    }
    assert!(dev.interrupt());
    let other = ["dev", "--data", "d", "--nodes", "5"];
    let refused = henge_in(directory.path(), "", &other, b"").await.code(2);
    assert!(refused.stderr.contains("--nodes 3"), "{}", refused.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn dev_without_data_leaves_nothing_behind() {
    let _one = ONE_DEV.lock().await;
    let directory = tempfile::tempdir().unwrap();
    let dev = Dev::start(directory.path(), &["--nodes", "1"]);
    henge(&dev.nodes, &["buckets", "create", "b"]).await.ok();
    assert!(dev.interrupt());
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

/// The hints that `node` keeps, as `henge status` shows them.
async fn hints_kept(node: &str) -> u64 {
    let status = henge(node, &["status", "--json"]).await.ok().json();
    let hints = status["hints"].as_array().expect("a list").clone();
    hints.iter().map(|target| target["count"].as_u64().expect("a number")).sum()
}

async fn eventually<F: Future<Output = bool>>(what: &str, done: impl Fn() -> F) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !done().await {
        assert!(std::time::Instant::now() < deadline, "{what}");
    }
}

/// A node's own copy of a key: status and version.
async fn own_copy(node: &str, key: &str) -> (u16, Option<String>) {
    let address = node.trim_start_matches("http://").parse().expect("an address");
    let target = format!("/v1/kv/b/{key}?local=true");
    let answer = raw::request(address, "GET", &target, &[], b"").await;
    (answer.status, answer.header("etag").map(str::to_owned))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_dead_is_handed_what_it_missed() {
    let mut cluster = TestCluster::start(3).await;
    let (first, last) = (cluster.url(0), cluster.url(2));
    henge(&first, &["buckets", "create", "b"]).await.ok();
    cluster.kill(2).unwrap();
    for i in 0..10 {
        henge(&first, &["put", "b", &format!("k{i}"), "v"]).await.ok();
    }
    eventually("the first node keeps what the last one missed", async || {
        hints_kept(&first).await == 10
    })
    .await;
    let shown = henge(&first, &["status"]).await.ok();
    assert!(shown.text().contains("hints kept here for other nodes: 10"), "{}", shown.text());

    // The holder is stopped and killed meanwhile: what it keeps is on its disk.
    assert!(cluster.stop(0).unwrap().success());
    cluster.start_node(0).unwrap();
    cluster.wait_node_ready(0).await.unwrap();
    assert_eq!(hints_kept(&first).await, 10);
    cluster.kill(0).unwrap();
    cluster.start_node(0).unwrap();
    cluster.start_node(2).unwrap();
    cluster.wait_ready().await.unwrap();
    eventually("all is handed over", async || hints_kept(&first).await == 0).await;
    for i in 0..10 {
        let key = format!("k{i}");
        let copy = own_copy(&last, &key).await;
        assert_eq!((copy.0, &copy.1), (200, &own_copy(&first, &key).await.1), "{key}");
    }
}

/// The node may have read the whole request, or part of it, when its client goes.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_hangs_up_leaves_no_write_in_half() {
    use tokio::io::AsyncWriteExt as _;
    let cluster = TestCluster::start(3).await;
    let urls: Vec<String> = (0..3).map(|node| cluster.url(node)).collect();
    henge(&urls[0], &["buckets", "create", "b"]).await.ok();
    let address = urls[0].trim_start_matches("http://").parse().expect("an address");
    let keys: Vec<String> = (0..40).map(|n| format!("k{n}")).collect();
    for (n, key) in keys.iter().enumerate() {
        let body = "v".repeat(1 + n * 500);
        let head = format!("PUT /v1/kv/b/{key} HTTP/1.1\r\nhost: henge\r\n");
        let request = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
        let mut stream = raw::connect(address).await;
        // One in four is cut off in the middle.
        let sent = if n % 4 == 0 { request.len() / 2 } else { request.len() };
        stream.write_all(&request.as_bytes()[..sent]).await.unwrap();
        drop(stream);
    }
    let equal = async |key: &str| {
        let copies = [
            own_copy(&urls[0], key).await,
            own_copy(&urls[1], key).await,
            own_copy(&urls[2], key).await,
        ];
        copies[0] == copies[1] && copies[1] == copies[2]
    };
    for (n, key) in keys.iter().enumerate() {
        eventually("all replicas hold the same", async || equal(key).await).await;
        if n % 4 == 0 {
            assert_eq!(own_copy(&urls[0], key).await.0, 404, "half a request is none");
        }
    }
    assert_eq!(hints_kept(&urls[0]).await, 0);
}

/// Four nodes, three replicas, two of them dead: the fourth node stands in for one.
#[tokio::test(flavor = "multi_thread")]
async fn a_sloppy_bucket_takes_writes_while_two_of_three_replicas_are_dead() {
    let mut cluster = TestCluster::start(4).await;
    let urls: Vec<String> = (0..4).map(|node| cluster.url(node)).collect();
    for (bucket, flags) in [("b", &["--sloppy"][..]), ("strict", &[])] {
        henge(&urls[0], &[&["buckets", "create", bucket], flags].concat()).await.ok();
    }
    let addresses: Vec<std::net::SocketAddr> =
        urls.iter().map(|url| url.trim_start_matches("http://").parse().unwrap()).collect();
    let put = async |node: usize, bucket: &str, level: &str| {
        let target = format!("/v1/kv/{bucket}/k?level={level}");
        raw::request(addresses[node], "PUT", &target, &[("henge-receipt", "true")], b"v").await
    };
    assert_eq!(put(0, "b", "all").await.status, 201);
    let mut replicas = Vec::new();
    for (node, url) in urls.iter().enumerate() {
        if own_copy(url, "k").await.0 == 200 {
            replicas.push(node);
        }
    }
    let [alive, dead, gone] = replicas[..] else { panic!("three replicas: {replicas:?}") };
    cluster.kill(dead).unwrap();
    cluster.kill(gone).unwrap();

    let written = put(alive, "b", "quorum").await;
    assert_eq!(written.status, 204, "{}", written.text());
    let receipt = written.header("henge-receipt").expect("it was asked for");
    let receipt: serde_json::Value = serde_json::from_str(receipt).unwrap();
    assert_eq!(receipt["stood_in"].as_array().map(Vec::len), Some(1), "{receipt}");
    assert_eq!(receipt["overlap"], false, "{receipt}");
    assert!(put(alive, "strict", "quorum").await.status >= 500, "nobody stands in there");

    for node in [dead, gone] {
        cluster.start_node(node).unwrap();
    }
    cluster.wait_ready().await.unwrap();
    for url in &urls {
        eventually("all is handed over", async || hints_kept(url).await == 0).await;
    }
    let copies = [
        own_copy(&urls[alive], "k").await,
        own_copy(&urls[dead], "k").await,
        own_copy(&urls[gone], "k").await,
    ];
    assert_eq!(copies[0].0, 300, "both values stand");
    assert!(copies[0] == copies[1] && copies[1] == copies[2], "{copies:?}");
}
