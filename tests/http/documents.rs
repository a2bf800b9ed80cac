//! The OpenAPI document and the door hold the same routes; the pages need no network.

use std::collections::BTreeSet;

use crate::support::World;
use henge::server::http::routes::ROUTES;
use serde_json::Value;

/// A path of a template that reaches a handler.
fn filled(template: &str) -> String {
    template
        .replace("{bucket}", "b")
        .replace("{key}", "k")
        .replace("{partition}", "1")
        .replace("{name}", "timeout")
        .replace("{id}", "01890a5d-ac96-774b-bcce-b302099a8057")
}

async fn document(w: &World) -> Value {
    let reply = w.get("/openapi.json", &[]).await;
    assert_eq!((reply.status, reply.header("content-type")), (200, "application/json"));
    reply.json()
}

fn documented(document: &Value) -> BTreeSet<(String, String)> {
    let paths = document["paths"].as_object().unwrap();
    paths
        .iter()
        .flat_map(|(path, item)| {
            item.as_object().unwrap().keys().map(|m| (m.to_uppercase(), path.clone()))
        })
        .collect()
}

#[tokio::test]
async fn the_document_names_exactly_the_routes() {
    let w = World::new();
    let routes: BTreeSet<(String, String)> =
        ROUTES.iter().map(|(m, t)| ((*m).to_owned(), (*t).to_owned())).collect();
    let document = document(&w).await;
    assert_eq!(documented(&document), routes);
    assert_eq!(document["openapi"], "3.1.0");
}

#[tokio::test]
async fn the_door_takes_exactly_the_documented_methods() {
    let w = World::with_bucket().await;
    let routes = documented(&document(&w).await);
    let templates: BTreeSet<&String> = routes.iter().map(|(_, template)| template).collect();
    for template in templates {
        for method in ["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS"] {
            w.put("/v1/buckets/b", &[], "").await;
            let reply = w.send(method, &filled(template), &[], "").await;
            // A `batch` below a bucket is also a key; what a POST of it does is the batch's.
            let same_place = |other: &str| {
                filled(other) == filled(template)
                    || (template.as_str() == "/v1/kv/{bucket}/batch"
                        && other == "/v1/kv/{bucket}/{key}")
            };
            let wanted = if method == "HEAD" { "GET" } else { method };
            let known = routes.iter().any(|(m, t)| m == wanted && same_place(t));
            let missing = reply.status == 405
                || (reply.status == 404
                    && method != "HEAD"
                    && reply.json()["type"] == "/problems/not-found");
            assert_eq!(!missing, known, "{method} {template}: {}", reply.status);
        }
    }
}

#[tokio::test]
async fn every_reference_in_the_document_leads_somewhere() {
    fn walk(value: &Value, out: &mut Vec<String>) {
        match value {
            Value::Object(members) => {
                if let Some(Value::String(reference)) = members.get("$ref") {
                    out.push(reference.clone());
                }
                members.values().for_each(|value| walk(value, out));
            }
            Value::Array(values) => values.iter().for_each(|value| walk(value, out)),
            _ => {}
        }
    }
    let w = World::new();
    let document = document(&w).await;
    let mut references = Vec::new();
    walk(&document, &mut references);
    assert!(references.len() > 20);
    for reference in references {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
    let ids: Vec<&Value> = document["paths"]
        .as_object()
        .unwrap()
        .values()
        .flat_map(|item| item.as_object().unwrap().values())
        .map(|operation| &operation["operationId"])
        .collect();
    let distinct: BTreeSet<String> = ids.iter().map(|id| id.to_string()).collect();
    assert_eq!(ids.len(), distinct.len(), "operation ids are unique: {ids:?}");
}

#[tokio::test]
async fn the_readable_page_covers_every_route_and_loads_nothing() {
    let w = World::new();
    let page = w.get("/docs", &[]).await;
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
    let html = String::from_utf8(page.body.to_vec()).unwrap();
    for (_, template) in ROUTES {
        assert!(html.contains(&format!("<code>{template}</code>")), "{template}");
    }
    for outside in ["http://", "https://", "<script", "src=", "@import", "<link"] {
        assert!(!html.contains(outside), "{outside}");
    }
    let root = w.get("/", &[]).await;
    assert_eq!((root.status, root.header("location")), (303, "/docs"));
}

#[tokio::test]
async fn the_nodes_pages_have_the_documented_members() {
    let w = World::with_bucket().await;
    assert_eq!(w.get("/healthz", &[]).await.status, 200);
    assert_eq!(w.get("/readyz", &[]).await.status, 200);
    *w.fake.not_ready.lock().unwrap() = Some("2 of 3 replicas are down".to_owned());
    let json = w.get("/readyz", &[]).await.problem("unavailable");
    assert!(json["detail"].as_str().unwrap().contains("2 of 3"));

    let place = w.get("/v1/where/b/a%2Fb", &[]).await.json();
    assert_eq!(place["token"], henge::ring::token_of(b"a/b").0);
    assert_eq!(place["partition"], 5);
    assert_eq!(place["replicas"].as_array().unwrap().len(), 2);
    assert_eq!(w.get("/v1/where/b/a/b", &[]).await.json(), place);
    w.get("/v1/where/none/a", &[]).await.problem("bucket-not-found");

    let ring = w.get("/v1/ring", &[]).await.json();
    assert_eq!((&ring["epoch"], &ring["partitions"][0]["partition"]), (&4.into(), &0.into()));
    assert!(
        ring["partitions"][0]["end_token"].is_i64() && ring["partitions"][0]["owner"].is_string()
    );
    assert!(ring["nodes"].is_array());
    assert_eq!(w.get("/v1/cluster", &[]).await.json()["nodes"][0]["name"], "n1");

    let digest = w.get("/v1/partitions/2/digest?bucket=b", &[]).await.json();
    let expected = serde_json::json!(
        {"epoch": 4, "records": 2, "root": "00000000000000000000000000000abc"});
    assert_eq!(digest, expected);
    let other = w.get("/v1/partitions/3/digest?bucket=b", &[]).await;
    assert_eq!(other.status, 421);
    other.problem("not-a-replica");
    for bad in ["8/digest?bucket=b", "x/digest?bucket=b", "-1/digest?bucket=b", "1/digest"] {
        w.get(&format!("/v1/partitions/{bad}"), &[]).await.problem("bad-request");
    }
}

#[tokio::test]
async fn numbers_count_requests_by_route_and_status() {
    let w = World::with_bucket().await;
    w.put("/v1/kv/b/k", &[], "x").await;
    w.get("/v1/kv/b/k", &[]).await;
    w.get("/v1/kv/b/none", &[]).await;
    w.get("/v1/kv/b/k", &[]).await;
    let text = String::from_utf8(w.get("/metrics", &[]).await.body.to_vec()).unwrap();
    for line in [
        "henge_http_requests_total{route=\"GET /v1/kv/{bucket}/{key}\",status=\"200\"} 2",
        "henge_http_requests_total{route=\"GET /v1/kv/{bucket}/{key}\",status=\"404\"} 1",
        "henge_http_requests_total{route=\"PUT /v1/kv/{bucket}/{key}\",status=\"201\"} 1",
        "henge_http_request_seconds_count{route=\"GET /v1/kv/{bucket}/{key}\"} 3",
        "henge_http_requests_under_way 0",
        "henge_http_body_bytes_held 0",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
}
