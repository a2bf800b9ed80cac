//! Reading and writing single keys over the HTTP door: the contract's table, row by row.

use std::time::Duration;

use crate::support::World;
use henge::coordinator::WriteAction;
use henge::types::Consistency;

#[tokio::test]
async fn a_value_is_written_read_replaced_and_deleted() {
    let w = World::with_bucket().await;
    let put = w.put("/v1/kv/b/k", &[("content-type", "text/x")], "one").await;
    assert_eq!((put.status, put.header("henge-siblings")), (201, "1"));

    let got = w.get("/v1/kv/b/k", &[]).await;
    assert_eq!((got.status, &got.body[..]), (200, &b"one"[..]));
    assert_eq!(got.header("content-type"), "text/x");
    assert_eq!(got.header("etag"), put.header("etag"), "the answer to a PUT names its version");
    assert_eq!(got.header("henge-dot"), "000000000000000a:1");
    assert_eq!(got.header("content-length"), "3");

    let context = got.header("henge-context");
    let again = w.put("/v1/kv/b/k", &[("henge-context", context)], "two").await;
    assert_eq!((again.status, again.header("henge-siblings")), (204, "1"));
    assert_ne!(again.header("etag"), put.header("etag"));
    assert_eq!(w.get("/v1/kv/b/k", &[]).await.body, "two");

    let deleted = w.delete("/v1/kv/b/k", &[]).await;
    assert_eq!(deleted.status, 204);
    assert!(deleted.has("henge-context") && deleted.body.is_empty());
    let gone = w.get("/v1/kv/b/k", &[]).await;
    gone.problem("key-not-found");
    assert!(gone.json().get("outcome").is_none(), "a read has no outcome");
    assert!(gone.has("etag") && gone.has("henge-context"), "a tombstone stands there");
}

#[tokio::test]
async fn a_key_never_written_has_neither_etag_nor_context() {
    let w = World::with_bucket().await;
    let gone = w.get("/v1/kv/b/nothing", &[]).await;
    gone.problem("key-not-found");
    assert!(!gone.has("etag") && !gone.has("henge-context"));
    assert_eq!(w.delete("/v1/kv/b/nothing", &[]).await.status, 204);
}

#[tokio::test]
async fn the_same_bytes_written_again_have_another_etag() {
    let w = World::with_bucket().await;
    let first = w.put("/v1/kv/b/k", &[], "x").await;
    let context = first.header("henge-context");
    let second = w.put("/v1/kv/b/k", &[("henge-context", context)], "x").await;
    assert_eq!(second.status, 204);
    assert_ne!(first.header("etag"), second.header("etag"));
    assert!(second.header("etag").starts_with('"'), "strong");
}

#[tokio::test]
async fn blind_writes_make_siblings_and_their_context_resolves_them() {
    let w = World::with_bucket().await;
    w.put("/v1/kv/b/k", &[("content-type", "text/plain"), ("henge-meta-who", "ann")], "one").await;
    let second = w.put("/v1/kv/b/k", &[], &b"\xFF\x00"[..]).await;
    assert_eq!((second.status, second.header("henge-siblings")), (204, "2"));

    let both = w.get("/v1/kv/b/k", &[]).await;
    assert_eq!((both.status, both.header("content-type")), (300, "application/json"));
    let json = both.json();
    assert_eq!(json["context"], both.header("henge-context"));
    let siblings = json["siblings"].as_array().unwrap();
    let find = |encoding| siblings.iter().find(|s| s["encoding"] == encoding).unwrap();
    let (text, raw) = (find("utf8"), find("base64"));
    assert_eq!(text["value"], "one");
    assert_eq!(text["content_type"], "text/plain");
    assert_eq!(text["meta"]["who"], "ann");
    assert_eq!(text["dot"], serde_json::json!({"actor": "000000000000000a", "counter": 1}));
    assert_eq!(raw["value"], "/wA=");
    assert_eq!(raw["content_type"], serde_json::Value::Null);
    assert_eq!(raw["etag"], second.header("etag"));
    assert_ne!(both.header("etag"), second.header("etag"), "of the set, not of one");

    let context = json["context"].as_str().unwrap();
    let merged = w.put("/v1/kv/b/k", &[("henge-context", context)], "merged").await;
    assert_eq!((merged.status, merged.header("henge-siblings")), (204, "1"));
    assert_eq!(w.get("/v1/kv/b/k", &[]).await.body, "merged");
}

#[tokio::test]
async fn a_writers_context_covers_its_own_value_and_no_sibling_that_it_has_not_read() {
    let w = World::with_bucket().await;
    w.put("/v1/kv/b/k", &[], "theirs").await;
    let mine = w.put("/v1/kv/b/k", &[], "mine").await;
    let context = mine.header("henge-context");
    let again = w.put("/v1/kv/b/k", &[("henge-context", context)], "mine 2").await;
    assert_eq!(again.header("henge-siblings"), "2");
    let siblings = w.get("/v1/kv/b/k", &[]).await.json();
    let values: Vec<_> =
        siblings["siblings"].as_array().unwrap().iter().map(|s| &s["value"]).collect();
    assert!(values.contains(&&"theirs".into()) && values.contains(&&"mine 2".into()));
}

#[tokio::test]
async fn siblings_come_as_multipart_if_asked_for() {
    let w = World::with_bucket().await;
    w.put("/v1/kv/b/k", &[("content-type", "text/plain"), ("henge-meta-a", "1")], "one").await;
    w.put("/v1/kv/b/k", &[], "two\r\n--").await;
    let both = w.get("/v1/kv/b/k", &[("accept", "multipart/mixed")]).await;
    assert_eq!(both.status, 300);
    let boundary = both.header("content-type").strip_prefix("multipart/mixed; boundary=").unwrap();
    let text = String::from_utf8(both.body.to_vec()).unwrap();
    let parts: Vec<&str> = text.split(&format!("--{boundary}")).collect();
    assert_eq!(parts.len(), 4, "{text}");
    assert_eq!((parts[0], parts[3]), ("", "--\r\n"));
    let one = parts.iter().find(|part| part.contains("text/plain")).unwrap();
    assert!(one.contains("\r\nHenge-Meta-a: 1\r\n") && one.ends_with("\r\n\r\none\r\n"), "{one:?}");
    assert!(one.contains("Henge-Dot: 000000000000000a:1\r\n") && one.contains("ETag: \""));
    assert!(parts.iter().any(|part| part.ends_with("\r\n\r\ntwo\r\n--\r\n")));
    assert_eq!(both.header("content-length"), text.len().to_string());
}

#[tokio::test]
async fn one_value_comes_raw_whatever_accept_says() {
    let w = World::with_bucket().await;
    w.put("/v1/kv/b/k", &[("content-type", "image/png")], "png").await;
    let got = w.get("/v1/kv/b/k", &[("accept", "application/json")]).await;
    assert_eq!((got.status, got.header("content-type")), (200, "image/png"));
}

#[tokio::test]
async fn an_unchanged_value_is_304_with_etag_and_context() {
    let w = World::with_bucket().await;
    w.put("/v1/kv/b/k", &[], "x").await;
    let got = w.get("/v1/kv/b/k", &[]).await;
    let etag = got.header("etag");
    for tags in [etag, "*", &format!("\"a\", W/{etag}")] {
        let same = w.get("/v1/kv/b/k", &[("if-none-match", tags)]).await;
        assert_eq!((same.status, same.body.len()), (304, 0), "{tags}");
        assert_eq!(same.header("etag"), etag);
        assert_eq!(same.header("henge-context"), got.header("henge-context"));
    }
    assert_eq!(w.get("/v1/kv/b/k", &[("if-none-match", "\"other\"")]).await.status, 200);
    w.put("/v1/kv/b/k", &[], "y").await;
    assert_eq!(w.get("/v1/kv/b/k", &[("if-none-match", etag)]).await.status, 300);
}

#[tokio::test]
async fn head_is_get_without_the_body() {
    let w = World::with_bucket().await;
    w.put("/v1/kv/b/k", &[("henge-meta-a", "1")], "four").await;
    let (head, get) = (w.send("HEAD", "/v1/kv/b/k", &[], "").await, w.get("/v1/kv/b/k", &[]).await);
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(head.headers, get.headers);
    assert_eq!(w.send("HEAD", "/v1/kv/b/none", &[], "").await.status, 404);
}

#[tokio::test]
async fn post_makes_a_key_and_names_it() {
    let w = World::with_bucket().await;
    let made = w.post("/v1/kv/b", &[], "x").await;
    assert_eq!(made.status, 201);
    assert!(made.has("etag") && made.has("henge-context"));
    assert_eq!(w.get(made.header("location"), &[]).await.body, "x");
    let other = w.post("/v1/kv/b", &[], "x").await;
    assert_ne!(made.header("location"), other.header("location"));
}

const ID: &str = "0190a6f4-7c00-7000-8000-000000000001";

#[tokio::test]
async fn a_repeated_operation_gets_the_first_answer_and_writes_once() {
    let w = World::with_bucket().await;
    let headers = [("idempotency-key", ID)];
    let first = w.put("/v1/kv/b/k", &headers, "x").await;
    assert!(!first.has("henge-replayed"));
    let again = w.put("/v1/kv/b/k", &headers, "x").await;
    assert_eq!((again.status, again.header("henge-replayed")), (201, "true"));
    assert_eq!(again.header("etag"), first.header("etag"));
    assert_eq!(again.header("henge-siblings"), "1");
    w.put("/v1/kv/b/k", &headers, "y").await.refused("operation-id-reused");

    let first = w.post("/v1/kv/b", &headers, "x").await;
    let again = w.post("/v1/kv/b", &headers, "x").await;
    assert_eq!(first.header("location"), again.header("location"), "one operation, one key");
    assert_eq!(again.header("henge-replayed"), "true");
}

#[tokio::test]
async fn an_operation_id_must_be_a_uuid_of_version_7() {
    let w = World::with_bucket().await;
    for bad in ["1", "6ba7b810-9dad-11d1-80b4-00c04fd430c8", ""] {
        let refused = w.put("/v1/kv/b/k", &[("idempotency-key", bad)], "x").await;
        let json = refused.refused("bad-request");
        assert!(json["detail"].as_str().unwrap().contains("UUIDv7"), "{json}");
    }
    let quoted = format!("\"{ID}\"");
    assert_eq!(w.put("/v1/kv/b/k", &[("idempotency-key", &quoted)], "x").await.status, 201);
    w.put("/v1/kv/b/k", &[("henge-client", "me")], "x").await.refused("bad-request");
}

#[tokio::test]
async fn keys_are_any_bytes() {
    let w = World::with_bucket().await;
    let keys = ["%FF%00%2F", "a%2Fb", "batch", "%2E%2E", "ä%20", "k%25", "a+b"];
    for (at, key) in keys.iter().enumerate() {
        let path = format!("/v1/kv/b/{}", key.replace('ä', "%C3%A4"));
        assert_eq!(w.put(&path, &[], at.to_string()).await.status, 201, "{key}");
        assert_eq!(w.get(&path, &[]).await.body, at.to_string());
    }
    assert_eq!(w.get("/v1/kv/b/a/b", &[]).await.body, "1", "a slash needs no escape");
    let last = w.fake.last_read.lock().unwrap().clone().unwrap();
    assert_eq!(last.key.as_bytes(), b"a/b");
    w.get("/v1/kv/b/%FF%00%2F", &[]).await;
    let last = w.fake.last_read.lock().unwrap().clone().unwrap();
    assert_eq!(last.key.as_bytes(), b"\xFF\x00/");
}

#[tokio::test]
async fn levels_counts_and_times_reach_the_coordinator() {
    let w = World::with_bucket().await;
    let read = || w.fake.last_read.lock().unwrap().clone().unwrap();
    for (query, level) in [
        ("", Consistency::Quorum),
        ("?level=ONE", Consistency::One),
        ("?level=Local_Quorum", Consistency::LocalQuorum),
        ("?r=2", Consistency::Count(2)),
        ("?r=3&w=1", Consistency::Count(3)),
        ("?w=1", Consistency::Quorum),
    ] {
        w.get(&format!("/v1/kv/b/k{query}"), &[]).await;
        assert_eq!(read().level, level, "{query}");
    }
    assert_eq!(read().timeout, Duration::from_secs(5), "the default");
    w.get("/v1/kv/b/k?timeout=250ms&local=true", &[]).await;
    assert_eq!((read().timeout, read().local), (Duration::from_millis(250), true));

    let write = || w.fake.last_write.lock().unwrap().clone().unwrap();
    w.put("/v1/kv/b/k?w=3&timeout=2s&ttl=60", &[], "x").await;
    assert_eq!((write().level, write().timeout), (Consistency::Count(3), Duration::from_secs(2)));
    let WriteAction::Put { ttl, .. } = write().action else { panic!("a put") };
    assert_eq!(ttl, Some(Duration::from_secs(60)));

    w.put("/v1/buckets/tuned", &[], r#"{"r": 1, "w": "all"}"#).await;
    w.put("/v1/kv/tuned/k", &[], "x").await;
    assert_eq!(write().level, Consistency::All, "the bucket's own");
    w.get("/v1/kv/tuned/k", &[]).await;
    assert_eq!(read().level, Consistency::Count(1));
}

#[tokio::test]
async fn levels_that_make_no_sense_are_refused_with_the_reason() {
    let w = World::with_bucket().await;
    for (query, word) in [
        ("level=most", "no consistency level"),
        ("r=4", "keeps 3"),
        ("w=300", "keeps 3"),
        ("r=0", "at least one"),
        ("r=-1", "no valid number"),
        ("r=two", "no valid number"),
        ("level=one&r=1", "either level"),
        ("level=one&w=1", "either level"),
        ("timeout=5", "500ms"),
        ("timeout=0ms", "between"),
        ("timeout=99999s", "between"),
        ("timeout=99999999999999999999s", "no time"),
        ("levl=one", "did you mean \"level\""),
        ("r=1&r=1", "more than once"),
    ] {
        let read = w.get(&format!("/v1/kv/b/k?{query}"), &[]).await;
        let detail = read.problem("bad-request")["detail"].to_string().replace("\\\"", "\"");
        assert!(detail.contains(word), "{query}: {detail}");
        assert!(read.json()["parameter"].is_string());
        w.put(&format!("/v1/kv/b/k?{query}"), &[], "x").await.refused("bad-request");
        w.delete(&format!("/v1/kv/b/k?{query}"), &[]).await.refused("bad-request");
    }
    for bad in ["ttl=0", "ttl=1s", "ttl=999999999999"] {
        w.put(&format!("/v1/kv/b/k?{bad}"), &[], "x").await.refused("bad-request");
    }
    w.delete("/v1/kv/b/k?ttl=5", &[]).await.refused("bad-request");
    assert_eq!(w.fake.writes.load(std::sync::atomic::Ordering::SeqCst), 0);
}

#[tokio::test]
async fn what_is_no_condition_is_refused_and_not_applied() {
    let w = World::with_bucket().await;
    for header in [("if-match", "x"), ("if-match", "W/\"x\""), ("if-none-match", "*, \"x\"")] {
        w.put("/v1/kv/b/k", &[header], "x").await.refused("bad-request");
        w.delete("/v1/kv/b/k", &[header]).await.refused("bad-request");
    }
    for fence in ["x", "0", "-1", "9007199254740992"] {
        w.put("/v1/kv/b/k", &[("if-fence", fence)], "x").await.refused("bad-request");
        w.delete("/v1/kv/b/k", &[("if-fence", fence)]).await.refused("bad-request");
    }
    assert_eq!(w.get("/v1/kv/b/k", &[]).await.status, 404);
}

#[tokio::test]
async fn metadata_comes_back_as_sent() {
    let w = World::with_bucket().await;
    let sent = [("henge-meta-a", "1"), ("Henge-Meta-B", "zwei"), ("henge-meta-a", "3")];
    w.put("/v1/kv/b/k", &sent, "x").await;
    let got = w.get("/v1/kv/b/k", &[]).await;
    assert_eq!((got.header("henge-meta-a"), got.header("henge-meta-b")), ("1, 3", "zwei"));
    let long = "x".repeat(9000);
    w.put("/v1/kv/b/k", &[("henge-meta-a", &long)], "x").await.refused("headers-too-large");
    w.put("/v1/kv/b/k", &[("henge-meta-", "x")], "x").await.refused("bad-request");
}

#[tokio::test]
async fn a_receipt_comes_when_asked_for() {
    let w = World::with_bucket().await;
    let yes = [("henge-receipt", "true")];
    let put = w.put("/v1/kv/b/k", &yes, "x").await;
    let receipt: serde_json::Value = serde_json::from_str(put.header("henge-receipt")).unwrap();
    assert_eq!(receipt["operation"], "write");
    let got = w.get("/v1/kv/b/k", &yes).await;
    assert!(got.header("henge-receipt").contains("\"operation\":\"read\""));
    assert_eq!(w.get("/v1/kv/b/none", &yes).await.json()["receipt"]["operation"], "read");
    assert!(!w.get("/v1/kv/b/k", &[]).await.has("henge-receipt"));
    w.get("/v1/kv/b/k", &[("henge-receipt", "please")]).await.problem("bad-request");
}

#[tokio::test]
async fn a_context_of_another_key_or_a_tampered_one_is_refused() {
    let w = World::with_bucket().await;
    let put = w.put("/v1/kv/b/k", &[], "x").await;
    let context = put.header("henge-context");
    w.put("/v1/kv/b/other", &[("henge-context", context)], "x").await.refused("bad-context");
    let mut tampered = context.to_owned();
    let last = if tampered.pop() == Some('A') { 'B' } else { 'A' };
    tampered.push(last);
    let cut = &context[..context.len() - 2];
    let long = "A".repeat(20_000);
    for bad in [tampered.as_str(), cut, "", "%%%", &long] {
        w.put("/v1/kv/b/k", &[("henge-context", bad)], "y").await.refused("bad-context");
        w.delete("/v1/kv/b/k", &[("henge-context", bad)]).await.refused("bad-context");
    }
    assert_eq!(w.get("/v1/kv/b/k", &[]).await.body, "x");
}

#[tokio::test]
async fn an_empty_value_is_a_value() {
    let w = World::with_bucket().await;
    assert_eq!(w.put("/v1/kv/b/k", &[], "").await.status, 201);
    let got = w.get("/v1/kv/b/k", &[]).await;
    assert_eq!((got.status, got.header("content-length")), (200, "0"));
}

#[tokio::test]
async fn any_table_is_a_bucket_called_keyspace_dot_table() {
    let w = World::with_bucket().await;
    assert_eq!(w.put("/v1/kv/b.kv/k", &[], "x").await.status, 201);
    assert_eq!(w.get("/v1/kv/b/k", &[]).await.body, "x");
    w.get("/v1/kv/b.other/k", &[]).await.problem("bucket-not-found");
}
