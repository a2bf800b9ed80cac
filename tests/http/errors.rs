//! What the HTTP door says when something is wrong: every problem, its numbers, and the outcome
//! of every write that was not a success.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::support::{Fake, World};
use henge::coordinator::{Fate, OpError};
use henge::server::http::HttpLimits;
use henge::server::http::problem::CATALOGUE;
use henge::types::{Consistency, Mono};

const L: Consistency = Consistency::Quorum;

/// Each coordinator error with the name, status and outcome that the contract gives it.
fn table() -> Vec<(OpError, &'static str, u16, &'static str)> {
    let text = String::new;
    vec![
        (
            OpError::Unavailable { level: L, required: 2, alive: 1 },
            "unavailable",
            503,
            "not_applied",
        ),
        (
            OpError::Timeout {
                level: L,
                required: 2,
                received: 1,
                timeout_ms: 9,
                fate: Fate::Unknown,
            },
            "timeout",
            504,
            "unknown",
        ),
        (
            OpError::TooFewReplicas {
                level: L,
                required: 2,
                received: 1,
                failed: 2,
                reasons: text(),
                who: Vec::new(),
                fate: Fate::Unknown,
            },
            "too-few-replicas-answered",
            504,
            "unknown",
        ),
        (OpError::BadLevel(text()), "bad-request", 400, "not_applied"),
        (OpError::NotSupported(text()), "not-supported", 501, "not_applied"),
        (OpError::NotAReplica { replicas: text() }, "not-a-replica", 421, "not_applied"),
        (OpError::Overloaded { what: text() }, "overloaded", 503, "not_applied"),
        (
            OpError::TooManySiblings { siblings: 64, max: 64 },
            "too-many-siblings",
            409,
            "not_applied",
        ),
        (OpError::RecordTooLarge { max: 1, got: 2 }, "value-too-large", 413, "not_applied"),
        (OpError::OperationReused, "operation-id-reused", 422, "not_applied"),
        (OpError::OperationExpired, "operation-expired", 410, "unknown"),
        (
            OpError::Contended { rounds: 9, timeout_ms: 50, fate: Fate::Unknown },
            "contended",
            503,
            "unknown",
        ),
        (OpError::DiskFull, "disk-full", 507, "not_applied"),
        (OpError::ShuttingDown, "shutting-down", 503, "not_applied"),
        (OpError::NoSuchTable, "bucket-not-found", 404, "not_applied"),
    ]
}

#[tokio::test]
async fn every_failed_write_says_what_became_of_it_and_a_read_has_no_outcome() {
    let w = World::with_bucket().await;
    for (error, name, status, outcome) in table() {
        for method in ["PUT", "DELETE"] {
            w.fake.fail_next(error.clone());
            let reply = w.send(method, "/v1/kv/b/k", &[], "x").await;
            let json = reply.problem(name);
            assert_eq!((reply.status, &json["outcome"]), (status, &outcome.into()), "{json}");
        }
        w.fake.fail_next(error);
        let json = w.get("/v1/kv/b/k", &[]).await.problem(name);
        assert!(json.get("outcome").is_none(), "{json}");
    }
}

#[tokio::test]
async fn errors_carry_their_numbers() {
    let w = World::with_bucket().await;
    w.fake.fail_next(OpError::Unavailable { level: L, required: 2, alive: 1 });
    let json = w.put("/v1/kv/b/k", &[], "x").await.problem("unavailable");
    assert_eq!(
        (&json["level"], &json["required"], &json["alive"]),
        (&"quorum".into(), &2.into(), &1.into())
    );
    w.fake.fail_next(OpError::Timeout {
        level: L,
        required: 2,
        received: 1,
        timeout_ms: 9,
        fate: Fate::NotApplied,
    });
    let json = w.put("/v1/kv/b/k", &[], "x").await.problem("timeout");
    assert_eq!((&json["required"], &json["received"]), (&2.into(), &1.into()));
    assert_eq!(json["outcome"], "not_applied", "the coordinator knows better");
}

#[tokio::test]
async fn every_problem_has_a_page_that_explains_cause_and_cure() {
    let w = World::new();
    let all = String::from_utf8(w.get("/problems", &[]).await.body.to_vec()).unwrap();
    for entry in CATALOGUE {
        let page = w.get(&format!("/problems/{}", entry.name), &[]).await;
        assert_eq!((page.status, page.header("content-type")), (200, "text/html; charset=utf-8"));
        let html = String::from_utf8(page.body.to_vec()).unwrap();
        for needed in [entry.name, "Cause", "Cure", "If it was a write"] {
            assert!(html.contains(needed), "{}: {needed}", entry.name);
        }
        assert!(all.contains(&format!("/problems/{}", entry.name)));
    }
    w.get("/problems/none", &[]).await.problem("not-found");
}

#[tokio::test]
async fn an_unknown_address_and_a_wrong_method_are_problems_too() {
    let w = World::with_bucket().await;
    let lost = w.get("/v1/bucket", &[]).await.problem("not-found");
    assert!(lost["detail"].as_str().unwrap().contains("did you mean /v1/buckets?"), "{lost}");
    w.put("/nowhere", &[], "x").await.refused("not-found");
    w.get("/v1/kv/", &[]).await.problem("bucket-not-found");
    for (method, path, allow) in [
        ("PATCH", "/v1/kv/b/k", "GET, HEAD, PUT, DELETE"),
        ("POST", "/v1/kv/b/k", "GET, HEAD, PUT, DELETE"),
        ("DELETE", "/v1/kv/b", "GET, HEAD, POST"),
        ("POST", "/v1/buckets/b", "GET, HEAD, PUT, PATCH, DELETE"),
        ("POST", "/v1/ring", "GET, HEAD"),
        ("DELETE", "/healthz", "GET, HEAD"),
    ] {
        let reply = w.send(method, path, &[], "x").await;
        assert_eq!(reply.status, 405, "{method} {path}");
        reply.refused("method-not-allowed");
        assert_eq!(reply.header("allow"), allow);
    }
}

#[tokio::test]
async fn an_unknown_bucket_is_named_with_the_nearest_knownoccupant() {
    let w = World::new();
    w.put("/v1/buckets/flights", &[], "").await;
    let json = w.put("/v1/kv/fligths/k", &[], "x").await.refused("bucket-not-found");
    assert!(json["detail"].as_str().unwrap().contains("did you mean \"flights\"?"), "{json}");
    for bad in ["Flights", "a-b", "%FF", "%", "1"] {
        w.get(&format!("/v1/kv/{bad}/k"), &[]).await.problem("bucket-not-found");
    }
    assert_eq!(w.get("/v1/kv/%66lights/k", &[]).await.json()["type"], "/problems/key-not-found");
}

#[tokio::test]
async fn keys_that_are_none() {
    let w = World::with_bucket().await;
    let fits = "k".repeat(1024);
    assert_eq!(w.put(&format!("/v1/kv/b/{fits}"), &[], "x").await.status, 201);
    let json = w.put(&format!("/v1/kv/b/{fits}k"), &[], "x").await.refused("key-too-long");
    assert_eq!((&json["max"], &json["got"]), (&1024.into(), &1025.into()));
    let escaped = "%41".repeat(1024);
    assert_eq!(
        w.get(&format!("/v1/kv/b/{escaped}"), &[]).await.status,
        404,
        "bytes are counted decoded"
    );
    for bad in ["", "%", "%4", "%GG"] {
        w.put(&format!("/v1/kv/b/{bad}"), &[], "x").await.refused("bad-request");
    }
}

#[tokio::test]
async fn a_value_over_the_limit_is_refused_by_its_announcement_or_when_it_passes_it() {
    let limits = HttpLimits { max_value_bytes: 1000, ..HttpLimits::default() };
    let w = World::with(Fake::new(), limits);
    w.put("/v1/buckets/b", &[], "").await;
    assert_eq!(w.put("/v1/kv/b/k", &[], vec![1; 1000]).await.status, 201);
    let announced = [("content-length", "1001")];
    let json = w.put("/v1/kv/b/k", &announced, vec![1; 1001]).await.refused("value-too-large");
    assert_eq!((&json["max"], &json["got"]), (&1000.into(), &1001.into()));
    let chunks = (0..3).map(|_| Ok::<_, std::io::Error>(vec![1u8; 400]));
    let body = axum::body::Body::from_stream(futures_util::stream::iter(chunks));
    w.put("/v1/kv/b/k", &[], body).await.refused("value-too-large");
    assert_eq!(w.get("/v1/kv/b/k", &[]).await.body.len(), 1000, "nothing was written");
}

#[tokio::test]
async fn a_body_that_breaks_off_or_lies_about_its_length_is_not_written() {
    let w = World::with_bucket().await;
    let parts = [Ok("half"), Err(std::io::Error::other("connection reset"))];
    let body = axum::body::Body::from_stream(futures_util::stream::iter(parts));
    w.put("/v1/kv/b/k", &[("content-length", "8")], body).await.refused("bad-request");
    w.put("/v1/kv/b/k", &[("content-length", "8")], "short").await.refused("bad-request");
    w.put("/v1/kv/b/k", &[("content-length", "eight")], "x").await.refused("bad-request");
    assert_eq!(w.fake.writes.load(std::sync::atomic::Ordering::SeqCst), 0);
}

#[tokio::test]
async fn headers_that_would_change_what_the_bytes_mean_are_refused() {
    let w = World::with_bucket().await;
    for header in [("content-encoding", "gzip"), ("content-range", "bytes 0-1/2")] {
        w.put("/v1/kv/b/k", &[header], "x").await.refused("bad-request");
    }
    assert_eq!(w.put("/v1/kv/b/k", &[("content-encoding", "identity")], "x").await.status, 201);
}

#[tokio::test]
async fn long_targets_and_many_headers_are_refused() {
    let w = World::with_bucket().await;
    let long = "x".repeat(9000);
    w.put(&format!("/v1/kv/b/k?level={long}"), &[], "x").await.refused("uri-too-long");
    let names: Vec<String> = (0..200).map(|n| format!("x-{n}")).collect();
    let many: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "1")).collect();
    w.put("/v1/kv/b/k", &many, "x").await.refused("headers-too-large");
    let long = "x".repeat(70_000);
    w.put("/v1/kv/b/k", &[("x-long", &long)], "x").await.refused("headers-too-large");
}

#[tokio::test]
async fn a_misspelt_header_of_ours_is_refused_with_the_nearest_name() {
    let w = World::with_bucket().await;
    let json = w.put("/v1/kv/b/k", &[("henge-contxt", "x")], "x").await.refused("bad-request");
    assert_eq!(json["nearest"], "henge-context");
    let sent_back = [("henge-siblings", "1"), ("henge-dot", "x"), ("x-other", "y")];
    assert_eq!(w.put("/v1/kv/b/k", &sent_back, "x").await.status, 201);
}

#[tokio::test]
async fn a_header_that_is_no_text_or_comes_twice_is_refused() {
    let w = World::with_bucket().await;
    let twice = [("idempotency-key", "a"), ("idempotency-key", "b")];
    w.put("/v1/kv/b/k", &twice, "x").await.refused("bad-request");
    w.put("/v1/kv/b/k", &[("henge-context", "\u{e4}")], "x").await.refused("bad-request");
}

#[tokio::test]
async fn too_many_requests_at_once_are_refused_and_the_node_stays_observable() {
    let mut fake = Fake::new();
    fake.gate = Some(tokio::sync::Semaphore::new(0));
    let limits = HttpLimits { max_requests: 2, ..HttpLimits::default() };
    let w = World::with(fake, limits);
    w.put("/v1/buckets/b", &[], "").await;
    let writes = async {
        let both = tokio::join!(w.put("/v1/kv/b/1", &[], "x"), w.put("/v1/kv/b/2", &[], "x"));
        (both.0.status, both.1.status)
    };
    let others = async {
        crate::support::eventually("two under way", || w.door.under_way() == 2).await;
        w.put("/v1/kv/b/3", &[], "x").await.refused("overloaded");
        assert_eq!(w.get("/healthz", &[]).await.status, 200);
        assert_eq!(w.get("/metrics", &[]).await.status, 200);
        w.fake.gate.as_ref().unwrap().add_permits(2);
    };
    assert_eq!(tokio::join!(writes, others).0, (201, 201));
    assert_eq!(w.door.under_way(), 0);
}

#[tokio::test]
async fn a_node_with_too_much_to_do_refuses_operations_and_stays_observable() {
    let w = World::with_bucket().await;
    let busy = Duration::from_millis(30);
    for ms in [1, 2, 3] {
        w.fake.admission.observe(Mono(ms * 1_000_000), busy);
    }
    let occupant = w.fake.admission.enter().unwrap();
    let refused = w.put("/v1/kv/b/k", &[], "x").await;
    let problem = refused.refused("overloaded");
    assert_eq!((&problem["limit"], &problem["wait_ms"]), (&1.into(), &30.into()));
    assert_eq!(refused.headers["retry-after"], "1");
    w.get("/v1/kv/b/k", &[]).await.problem("overloaded");
    for path in ["/healthz", "/metrics", "/v1/cluster", "/v1/buckets/b"] {
        assert_eq!(w.get(path, &[]).await.status, 200, "{path}");
    }
    drop(occupant);
    assert_eq!(w.put("/v1/kv/b/k", &[], "x").await.status, 201);
    assert_eq!(w.fake.writes.load(Ordering::SeqCst), 1, "what was refused was not begun");
}

#[tokio::test]
async fn bodies_beyond_the_memory_for_them_are_refused_at_once() {
    let mut fake = Fake::new();
    fake.gate = Some(tokio::sync::Semaphore::new(0));
    let limits = HttpLimits {
        max_value_bytes: 1000,
        max_body_bytes_in_flight: 1500,
        ..HttpLimits::default()
    };
    let w = World::with(fake, limits);
    w.put("/v1/buckets/b", &[], "").await;
    let first = w.put("/v1/kv/b/1", &[], vec![1; 1000]);
    let second = async {
        crate::support::eventually("one under way", || w.door.under_way() == 1).await;
        let refused = w.put("/v1/kv/b/2", &[], vec![1; 1000]).await;
        refused.refused("overloaded");
        w.fake.gate.as_ref().unwrap().add_permits(9);
    };
    assert_eq!(tokio::join!(first, second).0.status, 201);
    assert_eq!(w.put("/v1/kv/b/2", &[], vec![1; 1000]).await.status, 201, "it came back");
}

/// Any page may have a browser POST to any address, 127.0.0.1 too, without asking.
#[tokio::test]
async fn a_page_of_another_site_writes_nothing() {
    let w = World::with_bucket().await;
    let from = |site| [("sec-fetch-site", site)];
    w.post("/v1/kv/b", &from("cross-site"), "x").await.refused("forbidden");
    assert_eq!(w.fake.writes.load(Ordering::SeqCst), 0);
    assert_eq!(w.post("/v1/kv/b", &from("same-origin"), "x").await.status, 201);
    assert_eq!(w.get("/v1/buckets/b", &from("cross-site")).await.status, 200, "a link to it");
}

#[tokio::test]
async fn a_door_that_shuts_takes_nothing_new() {
    let w = World::with_bucket().await;
    w.door.begin_shutdown();
    w.put("/v1/kv/b/k", &[], "x").await.refused("shutting-down");
    w.get("/v1/kv/b/k", &[]).await.problem("shutting-down");
    assert_eq!(w.get("/healthz", &[]).await.status, 200);
    w.get("/readyz", &[]).await.problem("shutting-down");
}
