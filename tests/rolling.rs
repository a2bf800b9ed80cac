//! Every node is stopped and started again, one after another, under the load of a benchmark that
//! never repeats a request: none may fail.
//!
//! Longer: `HENGE_ROLLING_ROUNDS=10 cargo test --profile ci --features sim --test rolling`
#![allow(clippy::disallowed_methods, reason = "drives real processes")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use support::cluster::TestCluster;
use support::henge;

/// Waits until each node reads from all replicas: every node is up, and known to be.
async fn until_all_answer(cluster: &TestCluster) {
    for node in 0..cluster.len() {
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        loop {
            let args = ["get", "b", "key", "--level", "all"];
            let read = henge(&cluster.url(node), &args).await;
            if read.code == 0 {
                break;
            }
            assert!(std::time::Instant::now() < deadline, "{}", read.stderr);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_fails_no_quorum_request() {
    let rounds =
        std::env::var("HENGE_ROLLING_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    let mut cluster = TestCluster::start(3).await;
    let nodes = cluster.nodes();
    henge(&nodes, &["buckets", "create", "b"]).await.ok();
    henge(&nodes, &["put", "b", "key", "v"]).await.ok();
    until_all_answer(&cluster).await;

    let over = Arc::new(AtomicBool::new(false));
    let load = tokio::spawn({
        let over = over.clone();
        async move {
            let mut reports = Vec::new();
            while !over.load(Ordering::Acquire) {
                let args = [
                    "bench",
                    "--workload",
                    "a",
                    "--bucket",
                    "load",
                    "--records",
                    "500",
                    "--warmup",
                    "0",
                    "--seconds",
                    "10",
                    "--clients",
                    "16",
                    "--json",
                ];
                reports.push(henge(&nodes, &args).await.ok().json());
            }
            reports
        }
    });
    tokio::time::sleep(Duration::from_secs(3)).await;
    for _ in 0..rounds {
        for node in 0..3 {
            assert!(cluster.stop(node).unwrap().success());
            tokio::time::sleep(Duration::from_millis(300)).await;
            cluster.start_node(node).unwrap();
            cluster.wait_node_ready(node).await.unwrap();
            until_all_answer(&cluster).await;
        }
    }
    over.store(true, Ordering::Release);
    let (mut served, mut failed) = (0, Vec::new());
    for report in load.await.unwrap() {
        served += report["ops"].as_u64().expect("a count");
        failed.extend(report["errors"].as_object().expect("errors by kind").clone());
    }
    println!("{rounds} rolling restarts: {served} requests, failed: {failed:?}");
    assert!(failed.is_empty(), "{failed:?}");
    assert!(served > 500, "{served}");
}
