//! Listings and batches over the HTTP door.

use std::sync::atomic::Ordering;

use crate::support::{Fake, World};
use base64::Engine as _;
use henge::coordinator::{OpError, WriteAction};
use henge::server::http::HttpLimits;
use henge::types::Consistency;
use serde_json::{Value, json};

async fn with_keys(count: usize) -> World {
    let w = World::with_bucket().await;
    for at in 0..count {
        w.put(&format!("/v1/kv/b/k{at:03}"), &[], "x").await;
    }
    w
}

fn keys(page: &Value) -> Vec<String> {
    let keys = page["keys"].as_array().unwrap();
    keys.iter().map(|key| key["key"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn pages_follow_each_other_and_hold_every_key_once() {
    let w = with_keys(25).await;
    let mut all = Vec::new();
    let mut start = String::new();
    loop {
        let page = w.get(&format!("/v1/kv/b?limit=10&start={start}"), &[]).await;
        assert_eq!((page.status, page.header("content-type")), (200, "application/json"));
        let json = page.json();
        all.extend(keys(&json));
        match json["next"].as_str() {
            Some(next) => start = next.to_owned(),
            None => break,
        }
    }
    let mut sorted = all.clone();
    sorted.sort();
    sorted.dedup();
    assert_eq!((all.len(), sorted.len()), (25, 25));
    let first = &w.get("/v1/kv/b?limit=1", &[]).await.json()["keys"][0];
    let etag = w.get(&format!("/v1/kv/b/{}", first["key"].as_str().unwrap()), &[]).await;
    assert_eq!(first["etag"], etag.header("etag"));
    assert_eq!((&first["siblings"], &first["encoding"]), (&json!(1), &json!("utf8")));
    assert!(first.get("next").is_none(), "a page has one cursor");
}

#[tokio::test]
async fn a_page_is_filled_over_short_answers() {
    let w = with_keys(25).await;
    w.fake.page_keys.store(3, Ordering::SeqCst);
    let json = w.get("/v1/kv/b?limit=10", &[]).await.json();
    assert_eq!(keys(&json).len(), 10);
    assert!(json["next"].is_string());
}

#[tokio::test]
async fn prefixes_are_bytes_and_conflicts_filter() {
    let w = with_keys(3).await;
    w.put("/v1/kv/b/%FFa", &[], "x").await;
    w.put("/v1/kv/b/k001", &[], "another").await;
    let raw = w.get("/v1/kv/b?prefix=%FF", &[]).await.json();
    let base64 = base64::engine::general_purpose::STANDARD.encode(b"\xFFa");
    assert_eq!(
        (&raw["keys"][0]["key"], &raw["keys"][0]["encoding"]),
        (&json!(base64), &json!("base64"))
    );
    assert_eq!(keys(&raw).len(), 1);
    let torn = w.get("/v1/kv/b?conflicts=true", &[]).await.json();
    assert_eq!((keys(&torn), &torn["keys"][0]["siblings"]), (vec!["k001".to_owned()], &json!(2)));
    for none in ["conflicts=false", "prefix=&start=&limit=&conflicts="] {
        assert_eq!(keys(&w.get(&format!("/v1/kv/b?{none}"), &[]).await.json()).len(), 4, "{none}");
    }
    assert_eq!(keys(&w.get("/v1/kv/b?conflicts", &[]).await.json()).len(), 1);
}

#[tokio::test]
async fn a_stream_has_one_key_per_line_and_goes_on_after_any_of_them() {
    let w = with_keys(600).await;
    let ndjson = [("accept", "application/x-ndjson")];
    let stream = w.get("/v1/kv/b", &ndjson).await;
    assert_eq!((stream.status, stream.header("content-type")), (200, "application/x-ndjson"));
    let lines = stream.lines();
    assert_eq!(lines.len(), 600);
    let next = lines[399]["next"].as_str().unwrap();
    let rest = w.get(&format!("/v1/kv/b?start={next}"), &ndjson).await.lines();
    assert_eq!(rest, lines[400..]);
    assert_eq!(w.get("/v1/kv/b?limit=7", &ndjson).await.lines().len(), 7);
}

#[tokio::test]
async fn a_listing_that_cannot_begin_has_its_own_status() {
    let w = with_keys(1).await;
    for accept in ["application/json", "application/x-ndjson"] {
        let accept = [("accept", accept)];
        // A stream tries a page again before it gives up.
        for bad in ["limit=0", "limit=x", "start=zzzz", "r=9", "conflicts=maybe", "prefx=a"] {
            w.get(&format!("/v1/kv/b?{bad}"), &accept).await.problem("bad-request");
        }
    }
    w.get("/v1/kv/b?limit=1001", &[]).await.problem("bad-request");
    w.fake.fail_next(OpError::Unavailable { level: Consistency::Quorum, required: 2, alive: 0 });
    let json = w.get("/v1/kv/b", &[]).await.problem("unavailable");
    assert!(json.get("outcome").is_none());
}

#[tokio::test]
async fn a_cursor_of_another_bucket_is_refused() {
    let w = with_keys(3).await;
    w.put("/v1/buckets/c", &[], "").await;
    let next = w.get("/v1/kv/b?limit=1", &[]).await.json()["next"].as_str().unwrap().to_owned();
    w.get(&format!("/v1/kv/c?start={next}"), &[]).await.problem("bad-request");
}

fn lines(items: &[Value]) -> String {
    items.iter().map(|item| format!("{item}\n")).collect()
}

async fn batch(w: &World, items: &[Value]) -> Vec<Value> {
    let reply = w.post("/v1/kv/b/batch", &[], lines(items)).await;
    assert_eq!((reply.status, reply.header("content-type")), (200, "application/x-ndjson"));
    reply.lines()
}

#[tokio::test]
async fn a_batch_answers_each_item_in_order() {
    let w = World::with_bucket().await;
    let answers = batch(
        &w,
        &[
            json!({"op": "put", "key": "a", "value": "1", "content_type": "text/plain"}),
            json!({"op": "put", "key": "/wA=", "key_encoding": "base64", "value": "AAE=", "encoding": "base64"}),
            json!({"op": "get", "key": "a"}),
            json!({"op": "get", "key": "none"}),
            json!({"op": "delete", "key": "a"}),
            json!({"op": "get", "key": "a"}),
        ],
    )
    .await;
    let statuses: Vec<u64> = answers.iter().map(|a| a["status"].as_u64().unwrap()).collect();
    assert_eq!(statuses, [201, 201, 200, 404, 204, 404]);
    assert!(answers[0]["etag"].is_string() && answers[0]["context"].is_string());
    assert_eq!(answers[0]["siblings"], 1);
    let read = &answers[2];
    assert_eq!((&read["value"], &read["encoding"]), (&json!("1"), &json!("utf8")));
    assert_eq!((&read["content_type"], &read["etag"]), (&json!("text/plain"), &answers[0]["etag"]));
    assert_eq!(answers[3]["type"], "/problems/key-not-found");
    assert!(answers[3].get("outcome").is_none());
    let raw = w.get("/v1/kv/b/%FF%00", &[]).await;
    assert_eq!(raw.body, &b"\x00\x01"[..]);
}

#[tokio::test]
async fn items_of_one_key_supersede_each_other_in_order() {
    let w = World::with_bucket().await;
    w.put("/v1/kv/b/k", &[], "before").await;
    let items: Vec<Value> =
        (0..50).map(|n| json!({"op": "put", "key": "k", "value": n.to_string()})).collect();
    let answers = batch(&w, &items).await;
    assert_eq!(answers.len(), 50);
    // The first is blind and stands beside what was there; each later one replaces the last.
    assert!(answers.iter().all(|answer| answer["siblings"] == 2), "{answers:?}");
    let both = w.get("/v1/kv/b/k", &[]).await.json();
    let values: Vec<&Value> =
        both["siblings"].as_array().unwrap().iter().map(|s| &s["value"]).collect();
    assert!(values.contains(&&json!("49")) && values.contains(&&json!("before")), "{both}");
}

#[tokio::test]
async fn an_items_own_context_counts_as_well() {
    let w = World::with_bucket().await;
    w.put("/v1/kv/b/k", &[], "a").await;
    let context = w.get("/v1/kv/b/k", &[]).await.header("henge-context").to_owned();
    let answers = batch(
        &w,
        &[
            json!({"op": "put", "key": "k", "value": "b", "context": context}),
            json!({"op": "put", "key": "k", "value": "c"}),
        ],
    )
    .await;
    assert_eq!(answers[1]["siblings"], 1);
    let context = answers[1]["context"].as_str().unwrap();
    let merged = w.put("/v1/kv/b/k", &[("henge-context", context)], "d").await;
    assert_eq!(merged.header("henge-siblings"), "1", "the answer's context covers its value");
    let wrong = json!({"op": "put", "key": "other", "value": "b", "context": context});
    assert_eq!(batch(&w, &[wrong]).await[0]["type"], "/problems/bad-context");
}

#[tokio::test]
async fn an_item_sent_again_under_its_id_does_not_write_twice() {
    let w = World::with_bucket().await;
    let item = json!({"op": "put", "key": "k", "value": "1", "id": "0190a6f4-7c00-7000-8000-000000000001"});
    let first = &batch(&w, std::slice::from_ref(&item)).await[0];
    assert_eq!((&first["status"], &first["id"]), (&json!(201), &item["id"]));
    let again = &batch(&w, std::slice::from_ref(&item)).await[0];
    assert_eq!((&again["replayed"], &again["etag"]), (&json!(true), &first["etag"]));
    assert_eq!(again["siblings"], 1);
}

#[tokio::test]
async fn wrong_items_are_answered_in_their_place() {
    let w = World::with_bucket().await;
    let good = r#"{"op":"put","key":"good","value":"x"}"#;
    for (bad, word) in [
        ("{", "valid JSON"),
        ("[1]", "valid JSON"),
        (r#"{"op":"put","value":"x"}"#, "key"),
        (r#"{"op":"put","key":"","value":"x"}"#, "at least one byte"),
        (r#"{"op":"put","key":"a"}"#, "value"),
        (r#"{"op":"put","key":"a","value":1}"#, "valid JSON"),
        (r#"{"op":"post","key":"a","value":"x"}"#, "op"),
        (r#"{"op":"put","key":"a","vlaue":"x"}"#, "did you mean \"value\""),
        (r#"{"op":"put","key":"a","value":"!","encoding":"base64"}"#, "base64"),
        (r#"{"op":"put","key":"a","value":"x","encoding":"hex"}"#, "neither"),
        (r#"{"op":"put","key":"a","value":"x","id":"7"}"#, "UUIDv7"),
        (r#"{"op":"put","key":"a","value":"x","ttl":0}"#, "ttl"),
        (r#"{"op":"put","key":"a","value":"x","content_type":"a\nb"}"#, "header"),
        (r#"{"op":"put","key":"a","value":"x","meta":{"a b":"c"}}"#, "header"),
        ("\u{0}", "valid JSON"),
    ] {
        let body = format!("{good}\n{bad}\n\n  \n{good}");
        let answers = w.post("/v1/kv/b/batch", &[], body).await.lines();
        assert_eq!(answers.len(), 3, "{bad}");
        assert_eq!(answers[1]["status"], 400, "{bad}: {}", answers[1]);
        assert_eq!(answers[1]["outcome"], "not_applied", "{bad}");
        let detail = answers[1]["detail"].as_str().unwrap();
        assert!(detail.contains(word), "{bad}: {detail}");
        assert_eq!(answers[2]["status"], 204, "{bad}");
    }
    let not_utf8 = [good.as_bytes(), b"\n{\"op\":\"get\",\"key\":\"\xFF\"}\n"].concat();
    let answers = w.post("/v1/kv/b/batch", &[], not_utf8).await.lines();
    assert_eq!(answers[1]["status"], 400);
}

#[tokio::test]
async fn a_failed_item_says_what_became_of_it_and_the_next_one_runs() {
    let w = World::with_bucket().await;
    w.fake.fail_next(OpError::OperationExpired);
    let item = json!({"op": "put", "key": "k", "value": "1"});
    let answers = batch(&w, &[item.clone(), item]).await;
    assert_eq!((&answers[0]["status"], &answers[0]["outcome"]), (&json!(410), &json!("unknown")));
    assert_eq!(answers[1]["status"], 201);
}

#[tokio::test]
async fn an_item_that_is_too_long_is_read_past_and_refused() {
    let limits = HttpLimits { max_value_bytes: 1000, ..HttpLimits::default() };
    let w = World::with(Fake::new(), limits);
    w.put("/v1/buckets/b", &[], "").await;
    let put = |key, size| json!({"op": "put", "key": key, "value": "x".repeat(size)});
    let answers = batch(&w, &[put("a", 10), put("b", 1001), put("c", 500_000), put("d", 10)]).await;
    let statuses: Vec<u64> = answers.iter().map(|a| a["status"].as_u64().unwrap()).collect();
    assert_eq!(statuses, [201, 413, 413, 201]);
    assert_eq!(answers[2]["outcome"], "not_applied");
}

#[tokio::test]
async fn a_batch_that_breaks_off_says_where_and_ends() {
    let w = World::with_bucket().await;
    let good = json!({"op": "put", "key": "k", "value": "x"});
    let parts = [Ok(format!("{good}\n{{\"op\":")), Err(std::io::Error::other("reset"))];
    let body = axum::body::Body::from_stream(futures_util::stream::iter(parts));
    let answers = w.post("/v1/kv/b/batch", &[], body).await.lines();
    assert_eq!(answers.len(), 2);
    assert_eq!(answers[0]["status"], 201);
    assert_eq!((&answers[1]["status"], &answers[1]["index"]), (&json!(400), &json!(1)));
    assert_eq!(answers[1]["outcome"], "not_applied");
}

#[tokio::test]
async fn a_batch_has_a_bounded_number_of_items() {
    let limits = HttpLimits { max_batch_items: 3, ..HttpLimits::default() };
    let w = World::with(Fake::new(), limits);
    w.put("/v1/buckets/b", &[], "").await;
    let items: Vec<Value> =
        (0..9).map(|n| json!({"op": "put", "key": n.to_string(), "value": ""})).collect();
    let answers = batch(&w, &items).await;
    assert_eq!(answers.len(), 4);
    assert_eq!((&answers[3]["status"], &answers[3]["max"]), (&json!(400), &json!(3)));
    assert_eq!(w.get("/v1/kv/b/3", &[]).await.status, 404);
}

#[tokio::test]
async fn a_batch_as_a_whole_can_be_refused() {
    let w = World::with_bucket().await;
    w.post("/v1/kv/none/batch", &[], "").await.refused("bucket-not-found");
    w.post("/v1/kv/b/batch?w=9", &[], "").await.refused("bad-request");
    w.post("/v1/kv/b/batch", &[("if-match", "*")], "").await.refused("bad-request");
    assert!(batch(&w, &[]).await.is_empty());
    w.post(
        "/v1/kv/b/batch?w=3&timeout=1s",
        &[],
        lines(&[json!({"op": "put", "key": "k", "value": "1", "ttl": 9})]),
    )
    .await;
    let op = w.fake.last_write.lock().unwrap().clone().unwrap();
    assert_eq!(op.level, Consistency::Count(3));
    assert!(matches!(op.action, WriteAction::Put { ttl: Some(_), .. }));
}
