//! Fences, locks and elections as the HTTP door has them.

use crate::support::World;
use henge::coordinator::{Condition, OpError};

const FREE: &str = "key-not-found";

async fn acquire(w: &World, name: &str, body: &str) -> crate::support::Reply {
    w.send("POST", &format!("/v1/locks/{name}"), &[], body.to_owned()).await
}

#[tokio::test]
async fn a_write_with_an_older_fence_is_refused_and_not_applied() {
    let w = World::with_bucket().await;
    assert_eq!(w.put("/v1/kv/b/k", &[("if-fence", "8")], "by 8").await.status, 201);
    let late = w.put("/v1/kv/b/k", &[("if-fence", "7")], "late").await;
    assert_eq!(late.status, 412);
    let problem = late.refused("fence-too-old");
    assert_eq!((&problem["fence"], &problem["highest"]), (&7.into(), &8.into()));
    let late = w.delete("/v1/kv/b/k", &[("if-fence", "7")]).await;
    late.refused("fence-too-old");
    assert_eq!(w.get("/v1/kv/b/k", &[]).await.status, 200);
    assert_eq!(w.delete("/v1/kv/b/k", &[("if-fence", "8")]).await.status, 204);
}

#[tokio::test]
async fn an_item_of_a_batch_has_conditions_of_its_own() {
    let w = World::with_bucket().await;
    let lines = concat!(
        r#"{"op":"put","key":"k","value":"1","if_none_match":"*","if_fence":8}"#,
        "\n",
        r#"{"op":"put","key":"k","value":"2","if_fence":7}"#,
        "\n",
        r#"{"op":"put","key":"k","value":"3","if_match":"\"a\", \"b\""}"#,
        "\n",
        r#"{"op":"get","key":"k","if_match":"*"}"#,
        "\n",
        r#"{"op":"put","key":"k","value":"4","if_match":"*","if_none_match":"*"}"#,
        "\n",
        r#"{"op":"put","key":"k","value":"5","if_match":"W/\"a\""}"#,
        "\n",
        r#"{"op":"put","key":"k","value":"6","if_fence":0}"#,
        "\n",
    );
    let answers = w.send("POST", "/v1/kv/b/batch", &[], lines).await.lines();
    let status: Vec<u64> = answers.iter().map(|a| a["status"].as_u64().unwrap()).collect();
    assert_eq!(status, [201, 412, 204, 400, 400, 400, 400], "{answers:?}");
    assert_eq!(answers[1]["type"], "/problems/fence-too-old");
    assert_eq!(answers[1]["outcome"], "not_applied");
    let last = w.fake.last_write.lock().unwrap().clone().unwrap();
    let tags = ["\"a\"", "\"b\""].map(str::to_owned).to_vec();
    assert_eq!((last.condition, last.fence), (Condition::Matches(tags), None));
}

#[tokio::test]
async fn a_batch_under_a_condition_is_one_operation_on_one_key() {
    let w = World::with_bucket().await;
    let lines = concat!(
        r#"{"op":"put","key":"k","value":"1"}"#,
        "\n",
        r#"{"op":"delete","key":"k"}"#,
        "\n",
        r#"{"op":"put","key":"k","value":"3","content_type":"text/plain"}"#,
        "\n",
    );
    let headers = [("if-none-match", "*"), ("if-fence", "8")];
    let done = w.send("POST", "/v1/kv/b/batch", &headers, lines).await;
    assert_eq!(done.status, 200);
    let answers = done.lines();
    let status: Vec<u64> = answers.iter().map(|a| a["status"].as_u64().unwrap()).collect();
    assert_eq!(status, [204, 204, 201], "{answers:?}");
    assert!(answers[2]["etag"].is_string() && answers[0]["etag"].is_null());
    let last = w.fake.last_write.lock().unwrap().clone().unwrap();
    assert_eq!((last.condition, last.fence), (Condition::Absent, Some(8)));
    assert_eq!(w.get("/v1/kv/b/k", &[]).await.body, "3", "and nothing of the others is seen");
    // None of it, and it says so once.
    let late = w.send("POST", "/v1/kv/b/batch", &[("if-fence", "7")], lines).await;
    assert_eq!(late.status, 412);
    late.refused("fence-too-old");
}

#[tokio::test]
async fn a_batch_under_a_condition_has_no_items_that_could_go_their_own_ways() {
    let w = World::with_bucket().await;
    let put = r#"{"op":"put","key":"k","value":"1"}"#;
    for other in [
        r#"{"op":"put","key":"other","value":"1"}"#,
        r#"{"op":"get","key":"k"}"#,
        r#"{"op":"put","key":"k","value":"2","if_none_match":"*"}"#,
        r#"{"op":"put","key":"k","value":"2","if_fence":3}"#,
        r#"{"op":"put","key":"k","value":"2","id":"01900000-0000-7000-8000-000000000001"}"#,
        r#"{"op":"put","key":"k"}"#,
        "{",
    ] {
        let lines = format!("{put}\n{other}\n");
        let refused = w.send("POST", "/v1/kv/b/batch", &[("if-match", "*")], lines).await;
        assert_eq!(refused.status, 400, "{other}");
        assert_eq!(refused.refused("bad-request")["index"], 1, "{other}");
    }
    let none = w.send("POST", "/v1/kv/b/batch", &[("if-match", "*")], "\n").await;
    none.refused("bad-request");
    assert!(w.fake.last_write.lock().unwrap().is_none(), "nothing was written");
}

#[tokio::test]
async fn a_lock_has_one_holder_and_every_holder_a_higher_fence() {
    let w = World::new();
    assert_eq!(w.get("/v1/locks/l", &[]).await.problem(FREE)["fence"], 0);
    let first = acquire(&w, "l", r#"{"owner":"a","ttl_ms":60000}"#).await;
    assert_eq!(first.status, 201);
    let first = first.json();
    assert_eq!((&first["fence"], &first["ttl_ms"]), (&1.into(), &60_000.into()));
    let held = acquire(&w, "l", r#"{"owner":"b"}"#).await;
    assert_eq!(held.status, 409);
    let held = held.refused("lock-held");
    assert_eq!((&held["owner"], &held["fence"]), (&"a".into(), &1.into()));
    assert!(held["remaining_ms"].as_u64().unwrap() > 50_000);
    let shown = w.get("/v1/locks/l", &[]).await.json();
    assert_eq!((&shown["owner"], &shown["fence"]), (&"a".into(), &1.into()));
    assert!(shown["remaining_ms"].as_u64().unwrap() <= 60_000);

    let renewed = w.put("/v1/locks/l", &[], r#"{"fence":1,"ttl_ms":70000}"#).await;
    assert_eq!((renewed.status, renewed.json()["ttl_ms"].as_u64()), (200, Some(70_000)));
    w.put("/v1/locks/l", &[], r#"{"fence":2}"#).await.refused("fence-too-old");
    w.delete("/v1/locks/l", &[("if-fence", "2")]).await.refused("fence-too-old");
    w.delete("/v1/locks/l", &[]).await.refused("bad-request");
    assert_eq!(w.delete("/v1/locks/l", &[("if-fence", "1")]).await.status, 204);
    assert_eq!(w.get("/v1/locks/l", &[]).await.problem(FREE)["fence"], 1);
    assert_eq!(w.delete("/v1/locks/l", &[("if-fence", "1")]).await.status, 412);
    let second = acquire(&w, "l", r#"{"owner":"b"}"#).await.json();
    assert_eq!((&second["fence"], &second["ttl_ms"]), (&2.into(), &10_000.into()));
    // Another name is another lock.
    assert_eq!(acquire(&w, "a%2Fb", r#"{"owner":"b"}"#).await.json()["fence"], 1);
}

#[tokio::test]
async fn what_is_no_request_for_a_lock_is_refused() {
    let w = World::new();
    for body in [
        "",
        "[]",
        r#"{"ttl_ms":1000}"#,
        r#"{"owner":""}"#,
        r#"{"owner":"a","ttl_ms":999}"#,
        r#"{"owner":"a","ttl_ms":86400001}"#,
        r#"{"owner":"a","ttl":5}"#,
        r#"{"owner":7}"#,
    ] {
        acquire(&w, "l", body).await.refused("bad-request");
        w.send("POST", "/v1/elections/l", &[], body.replace("owner", "candidate"))
            .await
            .refused("bad-request");
    }
    for body in ["", r#"{"ttl_ms":1000}"#, r#"{"fence":0}"#, r#"{"fence":1,"ttl_ms":1}"#] {
        w.put("/v1/locks/l", &[], body).await.refused("bad-request");
    }
    let long = format!(r#"{{"owner":"{}"}}"#, "x".repeat(257));
    acquire(&w, "l", &long).await.refused("bad-request");
    acquire(&w, &"x".repeat(1_025), r#"{"owner":"a"}"#).await.refused("key-too-long");
    let not_v7 = [("idempotency-key", "7")];
    w.send("POST", "/v1/locks/l", &not_v7, r#"{"owner":"a"}"#).await.refused("bad-request");
    assert_eq!(w.get("/v1/locks/l", &[]).await.problem(FREE)["fence"], 0, "nobody got it");
}

#[tokio::test]
async fn an_election_tells_each_candidate_who_leads() {
    let w = World::new();
    let stand = async |candidate: &str| {
        let body = format!(r#"{{"candidate":"{candidate}","ttl_ms":60000}}"#);
        w.send("POST", "/v1/elections/e", &[], body).await.json()
    };
    w.get("/v1/elections/e", &[]).await.problem(FREE);
    let a = stand("a").await;
    assert_eq!((&a["leader"], &a["fence"]), (&true.into(), &1.into()));
    let b = stand("b").await;
    assert_eq!((&b["leader"], &b["candidate"]), (&false.into(), &"a".into()));
    let again = stand("a").await;
    assert_eq!((&again["leader"], &again["fence"]), (&true.into(), &1.into()), "the same term");
    assert_eq!(w.get("/v1/elections/e", &[]).await.json()["candidate"], "a");
    w.delete("/v1/elections/e", &[("if-fence", "7")]).await.refused("fence-too-old");
    assert_eq!(w.delete("/v1/elections/e", &[("if-fence", "1")]).await.status, 204);
    let b = stand("b").await;
    assert_eq!((&b["leader"], &b["fence"]), (&true.into(), &2.into()));
    // A lock of the same name has nothing to do with it.
    assert_eq!(acquire(&w, "e", r#"{"owner":"a"}"#).await.json()["fence"], 1);
}

#[tokio::test]
async fn what_a_node_cannot_settle_is_an_error_that_says_so() {
    let w = World::new();
    w.fake.fail_next(OpError::Stopped);
    let lost = acquire(&w, "l", r#"{"owner":"a"}"#).await;
    assert_eq!((lost.status, &lost.json()["outcome"]), (504, &"unknown".into()));
    let reserved = OpError::Reserved("henge.locks".parse().unwrap());
    w.fake.fail_next(reserved);
    w.put("/v1/buckets/b", &[], "{}").await.refused("forbidden");
}
