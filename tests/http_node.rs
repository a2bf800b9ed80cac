//! The HTTP contract over a cluster of three real processes: what needs more than one node to be
//! seen.

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use henge::env::tokio_env;
use serde_json::{Value, json};
use support::cluster::TestCluster;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

#[derive(Debug)]
struct Reply {
    status: u16,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Reply {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no {name}: {self:?}"))
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// One request on a connection of its own.
async fn send(url: &str, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
    let address = url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let request = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    let split = bytes.windows(4).position(|w| w == b"\r\n\r\n").expect("a head");
    let head = String::from_utf8(bytes[..split].to_vec()).unwrap();
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers: BTreeMap<String, String> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let mut body = bytes[split + 4..].to_vec();
    if headers.get("transfer-encoding").is_some_and(|coding| coding == "chunked") {
        body = unchunk(&body);
    }
    Reply { status, headers, body }
}

fn unchunk(mut bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let end = bytes.windows(2).position(|w| w == b"\r\n").expect("a chunk's size");
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[..end]).unwrap(), 16).unwrap();
        if size == 0 {
            return out;
        }
        out.extend_from_slice(&bytes[end + 2..end + 2 + size]);
        bytes = &bytes[end + 2 + size + 2..];
    }
}

/// Asks again until `good`, for twenty seconds at most.
async fn eventually(url: &str, path: &str, good: impl Fn(&Reply) -> bool) -> Reply {
    let env = tokio_env();
    let end = env.mono() + Duration::from_secs(20);
    loop {
        let reply = send(url, "GET", path, &[], "").await;
        if good(&reply) {
            return reply;
        }
        assert!(env.mono() < end, "{path} never came to be as it should: {reply:?}");
        env.sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_are_one_store() {
    let mut cluster = TestCluster::start(3).await;
    let url: Vec<String> = cluster.layout().urls();

    // A bucket made at one node exists at all when the answer is there, and only once.
    let (one, two) = tokio::join!(
        send(&url[0], "PUT", "/v1/buckets/b", &[], "{}"),
        send(&url[1], "PUT", "/v1/buckets/b", &[], "{}")
    );
    let mut statuses = [one.status, two.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 201], "{one:?} {two:?}");
    for node in &url {
        assert_eq!(send(node, "GET", "/v1/buckets/b", &[], "").await.status, 200);
    }
    assert_eq!(one.json()["replication_factor"], 3);

    // Any node serves any key; contexts made by one are good at another.
    let put = send(&url[0], "PUT", "/v1/kv/b/k", &[("content-type", "text/x")], "one").await;
    assert_eq!(put.status, 201, "{put:?}");
    let got = send(&url[1], "GET", "/v1/kv/b/k", &[], "").await;
    assert_eq!((got.status, &got.body[..]), (200, &b"one"[..]));
    assert_eq!((got.header("etag"), got.header("content-type")), (put.header("etag"), "text/x"));
    let context = [("henge-context", got.header("henge-context"))];
    let put = send(&url[2], "PUT", "/v1/kv/b/k", &context, "two").await;
    assert_eq!((put.status, put.header("henge-siblings")), (204, "1"));

    // Blind writes at two nodes: two siblings, merged at the third.
    let blind = send(&url[1], "PUT", "/v1/kv/b/k", &[], "other").await;
    assert_eq!((blind.status, blind.header("henge-siblings")), (204, "2"));
    let both = send(&url[0], "GET", "/v1/kv/b/k", &[], "").await;
    assert_eq!((both.status, both.json()["siblings"].as_array().unwrap().len()), (300, 2));
    let context = [("henge-context", both.header("henge-context"))];
    let merged = send(&url[0], "PUT", "/v1/kv/b/k", &context, "merged").await;
    assert_eq!(merged.header("henge-siblings"), "1");

    // An operation that is sent again, through another node, is not run again.
    let id = [("idempotency-key", "0190a6f4-7c00-7000-8000-000000000001")];
    let first = send(&url[0], "PUT", "/v1/kv/b/once", &id, "x").await;
    let again = send(&url[1], "PUT", "/v1/kv/b/once", &id, "x").await;
    assert_eq!((first.status, again.status), (201, 201), "{again:?}");
    assert_eq!(again.header("henge-replayed"), "true");
    assert_eq!(again.header("etag"), first.header("etag"));
    let other = send(&url[2], "PUT", "/v1/kv/b/once", &id, "y").await;
    assert_eq!((other.status, &other.json()["outcome"]), (422, &json!("not_applied")));

    // The receipt tells who was asked and which rule was met.
    let asked = send(&url[0], "GET", "/v1/kv/b/k?r=2", &[("henge-receipt", "true")], "").await;
    let receipt: Value = serde_json::from_str(asked.header("henge-receipt")).unwrap();
    assert_eq!((&receipt["n"], &receipt["required"]), (&json!(3), &json!(2)), "{receipt}");
    assert_eq!(receipt["overlap"], true);

    // Deleted is deleted everywhere.
    assert_eq!(send(&url[2], "DELETE", "/v1/kv/b/once", &[], "").await.status, 204);
    assert_eq!(send(&url[0], "GET", "/v1/kv/b/once", &[], "").await.status, 404);

    batches_and_listings(&url).await;
    places_and_digests(&url).await;
    one_node_down(&mut cluster, &url).await;
}

async fn batches_and_listings(url: &[String]) {
    let items: String = (0..300)
        .map(|n| {
            format!("{}\n", json!({"op": "put", "key": format!("n{n:03}"), "value": n.to_string()}))
        })
        .collect();
    let batch = send(&url[1], "POST", "/v1/kv/b/batch?w=3", &[], &items).await;
    let text = String::from_utf8(batch.body).unwrap();
    assert_eq!(text.lines().filter(|line| line.contains("\"status\":201")).count(), 300, "{text}");

    let ndjson = [("accept", "application/x-ndjson")];
    let mut orders = Vec::new();
    for node in url {
        let listed = send(node, "GET", "/v1/kv/b?prefix=n", &ndjson, "").await;
        let keys: Vec<String> = String::from_utf8(listed.body)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap()["key"].to_string())
            .collect();
        assert_eq!(keys.len(), 300);
        orders.push(keys);
    }
    assert!(orders.windows(2).all(|pair| pair[0] == pair[1]), "the same order at every node");

    let mut start = String::new();
    let mut paged = Vec::new();
    for page in 0.. {
        // A cursor of one node goes on at another.
        let path = format!("/v1/kv/b?prefix=n&limit=77&start={start}");
        let json = send(&url[page % 3], "GET", &path, &[], "").await.json();
        paged.extend(json["keys"].as_array().unwrap().iter().map(|key| key["key"].to_string()));
        match json["next"].as_str() {
            Some(next) => start = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(paged, orders[0]);
}

async fn places_and_digests(url: &[String]) {
    let place = send(&url[0], "GET", "/v1/where/b/k", &[], "").await.json();
    assert_eq!(place, send(&url[2], "GET", "/v1/where/b/k", &[], "").await.json());
    assert_eq!(place["replicas"].as_array().unwrap().len(), 3);
    let partition = place["partition"].as_u64().unwrap();
    let path = format!("/v1/partitions/{partition}/digest?bucket=b");
    let wanted = send(&url[0], "GET", &path, &[], "").await.json();
    assert!(wanted["records"].as_u64().unwrap() > 0, "{wanted}");
    for node in &url[1..] {
        // A write at W=2 may still be on its way to the third.
        eventually(node, &path, |reply| reply.json() == wanted).await;
    }

    let made =
        send(&url[0], "PUT", "/v1/buckets/single", &[], r#"{"replication_factor": 1}"#).await;
    assert_eq!(made.status, 201, "{made:?}");
    send(&url[0], "PUT", "/v1/kv/single/k", &[], "x").await;
    let mut statuses = Vec::new();
    for node in url {
        statuses.push(send(node, "GET", "/v1/kv/single/k?local=true", &[], "").await.status);
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 421, 421], "only its replica shows its own copy");
    let two = send(&url[0], "PUT", "/v1/kv/single/k?w=2", &[], "x").await;
    assert_eq!((two.status, &two.json()["replication_factor"]), (400, &json!(1)));
}

async fn one_node_down(cluster: &mut TestCluster, url: &[String]) {
    cluster.kill(2).unwrap();
    let put = send(&url[0], "PUT", "/v1/kv/b/after", &[], "x").await;
    assert_eq!(put.status, 201, "two of three are a quorum: {put:?}");
    assert_eq!(send(&url[1], "GET", "/v1/kv/b/after", &[], "").await.status, 200);
    assert_eq!(send(&url[1], "GET", "/readyz", &[], "").await.status, 200);

    // Once it is known to be down, what needs it is refused before anything is sent.
    let all =
        eventually(&url[0], "/v1/kv/b/after?level=all&timeout=500ms", |r| r.status == 503).await;
    let json = all.json();
    assert_eq!(json["type"], "/problems/unavailable");
    assert_eq!((&json["required"], &json["alive"]), (&json!(3), &json!(2)), "{json}");
    let put = send(&url[0], "PUT", "/v1/kv/b/never?level=all", &[], "x").await;
    assert_eq!((put.status, &put.json()["outcome"]), (503, &json!("not_applied")));
    assert_eq!(send(&url[0], "GET", "/v1/kv/b/never", &[], "").await.status, 404);

    cluster.start_node(2).unwrap();
    cluster.wait_node_ready(2).await.unwrap();
    let back = send(&url[2], "GET", "/v1/kv/b/after", &[], "").await;
    assert_eq!((back.status, &back.body[..]), (200, &b"x"[..]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conditions_hold_across_nodes_and_refusals_show_what_stands() {
    let cluster = TestCluster::start(3).await;
    let url: Vec<String> = cluster.layout().urls();
    for (bucket, settings) in
        [("s", r#"{"conflict": "strong"}"#), ("b", "{}"), ("l", r#"{"conflict": "lww"}"#)]
    {
        let made = send(&url[0], "PUT", &format!("/v1/buckets/{bucket}"), &[], settings).await;
        assert_eq!(made.status, 201, "{made:?}");
        let key = format!("/v1/kv/{bucket}/k");
        // Of many creators one wins, and the others are shown its value.
        let creators = (0..6).map(|n| {
            let (url, key) = (url[n % 3].clone(), key.clone());
            async move {
                send(&url, "PUT", &key, &[("if-none-match", "*")], &format!("v{n}")).await
            }
        });
        let answers = futures_util::future::join_all(creators).await;
        let (won, lost): (Vec<_>, Vec<_>) = answers.iter().partition(|reply| reply.status == 201);
        assert_eq!(won.len(), 1, "{answers:?}");
        let etag = won[0].header("etag").to_owned();
        for reply in lost {
            assert_eq!(reply.status, 412, "{reply:?}");
            let json = reply.json();
            assert_eq!(
                (&json["outcome"], &json["current"]["etag"]),
                (&json!("not_applied"), &json!(etag))
            );
        }
        // Compare and set, and its repetition under the same id.
        let id = uuid::Uuid::now_v7().to_string();
        let set = [("if-match", &*etag), ("idempotency-key", &*id)];
        let first = send(&url[1], "PUT", &key, &set, "two").await;
        assert_eq!(first.status, 204, "{first:?}");
        let again = send(&url[2], "PUT", &key, &set, "two").await;
        assert_eq!((again.status, again.header("henge-replayed")), (204, "true"));
        assert_eq!(again.header("etag"), first.header("etag"));
        let late = send(&url[0], "PUT", &key, &[("if-match", &etag)], "late").await;
        assert_eq!((late.status, &late.json()["current"]["value"]), (412, &json!("two")));
        let ops = send(&url[0], "GET", &format!("/v1/ops/{bucket}/k/{id}"), &[], "").await;
        assert_eq!((ops.status, &ops.json()["outcome"]), (200, &json!("applied")));
        let never = uuid::Uuid::now_v7().to_string();
        let ops = send(&url[0], "GET", &format!("/v1/ops/{bucket}/k/{never}"), &[], "").await;
        assert_eq!(ops.json()["outcome"], "never");
        // Serial reads; in a strong bucket without being asked.
        let level = if bucket == "s" { "" } else { "?level=serial" };
        let read = send(&url[2], "GET", &format!("{key}{level}"), &[], "").await;
        assert_eq!((read.status, &read.body[..]), (200, &b"two"[..]));
        let gone = [("if-match", first.header("etag"))];
        assert_eq!(send(&url[1], "DELETE", &key, &gone, "").await.status, 204);
        assert_eq!(send(&url[0], "GET", &format!("{key}{level}"), &[], "").await.status, 404);
        let refused = send(&url[2], "DELETE", &key, &gone, "").await;
        assert_eq!((refused.status, &refused.json()["current"]), (412, &Value::Null));
    }
}
