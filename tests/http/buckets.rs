//! Buckets over the HTTP door.

use std::sync::atomic::Ordering;

use crate::support::World;
use henge::meta::TableSettings;
use serde_json::json;

#[tokio::test]
async fn a_new_bucket_has_the_documented_defaults() {
    let w = World::new();
    let made = w.put("/v1/buckets/flights", &[], "{}").await;
    assert_eq!(made.status, 201);
    let expected = json!({
        "name": "flights", "replication_factor": 3, "conflict": "siblings", "r": "quorum",
        "w": "quorum", "ttl_s": 0, "max_siblings": 64, "sloppy": false,
        "grace_s": 864_000,
    });
    assert_eq!(made.json(), expected);
    assert_eq!(w.get("/v1/buckets/flights", &[]).await.json(), expected);
    assert_eq!(w.get("/v1/buckets", &[]).await.json(), json!({"buckets": [expected]}));
}

#[tokio::test]
async fn a_small_cluster_has_as_many_replicas_as_nodes_by_default() {
    let w = World::new();
    w.fake.nodes.store(1, Ordering::SeqCst);
    assert_eq!(w.put("/v1/buckets/b", &[], "").await.json()["replication_factor"], 1);
    let refused = w.put("/v1/buckets/c", &[], r#"{"replication_factor": 3}"#).await;
    assert_eq!(refused.refused("bad-request")["nodes"], 1);
    w.fake.nodes.store(3, Ordering::SeqCst);
    assert_eq!(
        w.put("/v1/buckets/b", &[], "").await.status,
        200,
        "the default is no other setting"
    );
}

#[tokio::test]
async fn creation_is_idempotent_and_other_settings_are_a_conflict() {
    let w = World::new();
    let body = r#"{"conflict": "lww", "w": 2, "ttl_s": 60}"#;
    assert_eq!(w.put("/v1/buckets/b", &[], body).await.status, 201);
    assert_eq!(w.put("/v1/buckets/b", &[], body).await.status, 200);
    let refused = w.put("/v1/buckets/b", &[], r#"{"conflict": "lww"}"#).await;
    let json = refused.refused("bucket-exists");
    assert_eq!((&json["settings"]["w"], &json["settings"]["ttl_s"]), (&json!(2), &json!(60)));
}

#[tokio::test]
async fn patch_changes_what_may_change() {
    let w = World::new();
    w.put("/v1/buckets/b", &[], "").await;
    let changed = w
        .send("PATCH", "/v1/buckets/b", &[], r#"{"r": "one", "w": "all", "max_siblings": 5}"#)
        .await;
    assert_eq!(changed.status, 200);
    assert_eq!(w.get("/v1/buckets/b", &[]).await.json()["w"], "all");
    assert_eq!(w.get("/v1/buckets/b", &[]).await.json()["max_siblings"], 5);
    for fixed in [r#"{"conflict": "lww"}"#, r#"{"replication_factor": 2}"#] {
        w.send("PATCH", "/v1/buckets/b", &[], fixed).await.refused("bad-request");
    }
    let same = r#"{"conflict": "siblings", "replication_factor": 3}"#;
    assert_eq!(w.send("PATCH", "/v1/buckets/b", &[], same).await.status, 200);
    w.send("PATCH", "/v1/buckets/none", &[], "{}").await.refused("bucket-not-found");
}

/// Two nodes, or two clients, change one bucket at the same time: neither undoes the other.
#[tokio::test]
async fn changes_at_the_same_time_are_merged() {
    let w = World::with_bucket().await;
    let others = |ttl_s| TableSettings { ttl_s, ..TableSettings::bucket(3) };
    w.fake.others_changes.lock().unwrap().push_back(others(60));
    let reply = w.send("PATCH", "/v1/buckets/b", &[], r#"{"max_siblings": 5}"#).await;
    assert_eq!(reply.status, 200);
    let json = w.get("/v1/buckets/b", &[]).await.json();
    assert_eq!((&json["ttl_s"], &json["max_siblings"]), (&json!(60), &json!(5)));
    // Whoever is always overtaken is told so in the end.
    w.fake.others_changes.lock().unwrap().extend((0..100).map(others));
    let refused = w.send("PATCH", "/v1/buckets/b", &[], r#"{"max_siblings": 6}"#).await;
    let json = refused.refused("overloaded");
    assert!(json["detail"].as_str().unwrap().contains("nothing was changed"), "{json}");
}

#[tokio::test]
async fn a_deleted_bucket_is_gone() {
    let w = World::with_bucket().await;
    w.put("/v1/kv/b/k", &[], "x").await;
    assert_eq!(w.delete("/v1/buckets/b", &[]).await.status, 204);
    w.get("/v1/kv/b/k", &[]).await.problem("bucket-not-found");
    w.delete("/v1/buckets/b", &[]).await.refused("bucket-not-found");
    w.put("/v1/buckets/b", &[], "").await;
    assert_eq!(w.get("/v1/kv/b/k", &[]).await.json()["type"], "/problems/key-not-found");
}

#[tokio::test]
async fn a_bucket_may_let_others_stand_in_for_replicas_and_no_more() {
    let w = World::new();
    let made = w.put("/v1/buckets/b", &[], r#"{"sloppy": true}"#).await;
    assert_eq!((made.status, made.json()["sloppy"].as_bool()), (201, Some(true)));
    let strict = w.send("PATCH", "/v1/buckets/b", &[], r#"{"sloppy": false}"#).await;
    assert_eq!((strict.status, strict.json()["sloppy"].as_bool()), (200, Some(false)));
}

#[tokio::test]
async fn settings_that_make_no_sense_are_refused_by_name() {
    let w = World::new();
    for (body, word) in [
        ("{", "no valid JSON"),
        ("[]", "JSON object"),
        ("\"x\"", "JSON object"),
        (r#"{"conflcit": "lww"}"#, "did you mean \"conflict\""),
        (r#"{"conflict": "crdt"}"#, "none of"),
        (r#"{"replication_factor": 0}"#, "from 1 to 3"),
        (r#"{"replication_factor": 4}"#, "from 1 to 3"),
        (r#"{"replication_factor": "3"}"#, "from 1 to 3"),
        (r#"{"r": 4}"#, "from 1 to 3"),
        (r#"{"r": "any"}"#, "for writes"),
        (r#"{"w": "most"}"#, "no consistency level"),
        (r#"{"w": true}"#, "name or a count"),
        (r#"{"w": "three", "replication_factor": 2}"#, "2 replicas"),
        (r#"{"ttl_s": -1}"#, "whole number"),
        (r#"{"ttl_s": 1e99}"#, "whole number"),
        (r#"{"max_siblings": 99999}"#, "from 0 to 10000"),
        (r#"{"grace_s": "a week"}"#, "whole number"),
        (r#"{"sloppy": 1}"#, "true or false"),
    ] {
        let json = w.put("/v1/buckets/b", &[], body).await.refused("bad-request");
        let detail = json["detail"].as_str().unwrap();
        assert!(detail.contains(word), "{body}: {detail}");
    }
    for (body, why) in [(r#"{"r": "serial"}"#, "serial")] {
        let json = w.put("/v1/buckets/b", &[], body).await.refused("not-supported");
        assert!(json["detail"].as_str().unwrap().contains(why));
    }
    let deep = "[".repeat(10_000);
    w.put("/v1/buckets/b", &[], deep).await.refused("bad-request");
    let large = " ".repeat(100_000);
    w.put("/v1/buckets/b", &[], large).await.refused("value-too-large");
    assert_eq!(w.get("/v1/buckets", &[]).await.json(), json!({"buckets": []}));
}

#[tokio::test]
async fn names_that_no_bucket_may_have_are_refused() {
    let w = World::new();
    let long = "b".repeat(49);
    for bad in ["B", "1b", "a-b", "a.b", "%20", "%", long.as_str()] {
        w.put(&format!("/v1/buckets/{bad}"), &[], "").await.refused("bad-request");
    }
    assert_eq!(w.put(&format!("/v1/buckets/{}", &long[1..]), &[], "").await.status, 201);
    w.put("/v1/buckets/b?replication=3", &[], "").await.refused("bad-request");
}
