//! A node that is none: the part of the HTTP door that the command line needs, over a map in
//! memory, with faults on demand. It keeps what the real one must keep: an operation id takes
//! effect once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use percent_encoding::percent_decode_str;
use serde_json::json;

/// What the next writes meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing: they succeed.
    None,
    /// 503, not applied.
    Unavailable,
    /// 504, applied all the same.
    AppliedButTimedOut,
    /// 413, for good.
    TooLarge,
}

#[derive(Debug, Default)]
struct Inner {
    /// Values by bucket and key; several are siblings.
    values: BTreeMap<(String, Vec<u8>), Vec<Bytes>>,
    buckets: BTreeSet<String>,
    operations: BTreeSet<(Vec<u8>, String)>,
    writes: u64,
    faults: VecDeque<Fault>,
    /// After so many writes all others are refused as unavailable.
    writes_left: Option<u64>,
}

/// The fake node.
#[derive(Debug, Clone, Default)]
pub struct Fake(Arc<Mutex<Inner>>);

impl Fake {
    /// Starts to listen; the address comes with it.
    pub async fn start() -> (Self, String) {
        let fake = Self::default();
        let app = Router::new().fallback(handle).with_state(fake.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = format!("http://{}", listener.local_addr().expect("bound"));
        tokio::spawn(async move { axum::serve(listener, app).await });
        (fake, address)
    }

    /// The next writes meet these, in turn; those after them succeed.
    pub fn faults(&self, faults: impl IntoIterator<Item = Fault>) {
        self.0.lock().unwrap().faults.extend(faults);
    }

    /// Only so many writes more succeed.
    pub fn limit_writes(&self, left: Option<u64>) {
        self.0.lock().unwrap().writes_left = left;
    }

    /// The values at a key.
    pub fn values(&self, bucket: &str, key: &[u8]) -> Vec<Bytes> {
        let at = (bucket.to_owned(), key.to_owned());
        self.0.lock().unwrap().values.get(&at).cloned().unwrap_or_default()
    }

    /// Sets the values at a key.
    pub fn set(&self, bucket: &str, key: &[u8], values: &[&[u8]]) {
        let values = values.iter().map(|value| Bytes::copy_from_slice(value)).collect();
        let mut inner = self.0.lock().unwrap();
        inner.buckets.insert(bucket.to_owned());
        inner.values.insert((bucket.to_owned(), key.to_owned()), values);
    }

    /// Number of keys with values.
    pub fn keys(&self) -> usize {
        self.0.lock().unwrap().values.values().filter(|values| !values.is_empty()).count()
    }

    /// Number of values over all keys.
    pub fn all_values(&self) -> usize {
        self.0.lock().unwrap().values.values().map(Vec::len).sum()
    }

    /// Writes that took effect.
    pub fn writes(&self) -> u64 {
        self.0.lock().unwrap().writes
    }
}

fn problem(status: u16, name: &str, outcome: Option<&str>) -> Response {
    let mut document = json!({
        "type": format!("/problems/{name}"), "title": name, "status": status,
        "detail": format!("a fake {name}"),
    });
    if let Some(outcome) = outcome {
        document["outcome"] = json!(outcome);
    }
    let status = StatusCode::from_u16(status).expect("a status");
    (status, [("content-type", "application/problem+json")], document.to_string()).into_response()
}

async fn handle(
    State(fake): State<Fake>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let parts: Vec<Vec<u8>> =
        uri.path().split('/').skip(1).map(|part| percent_decode_str(part).collect()).collect();
    let text = |part: &[u8]| String::from_utf8_lossy(part).into_owned();
    let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
    let mut inner = fake.0.lock().unwrap();
    match parts[..] {
        [b"v1", b"buckets", name] if method == Method::PUT => {
            let new = inner.buckets.insert(text(name));
            if new { StatusCode::CREATED } else { StatusCode::OK }.into_response()
        }
        [b"v1", b"buckets", name] if method == Method::DELETE => {
            inner.buckets.remove(&text(name));
            inner.values.retain(|(bucket, _), _| *bucket != text(name));
            StatusCode::NO_CONTENT.into_response()
        }
        [b"v1", b"buckets"] => {
            let rows: Vec<_> = inner.buckets.iter().map(|name| json!({ "name": name })).collect();
            axum::Json(json!({ "buckets": rows })).into_response()
        }
        [b"v1", b"cluster"] => axum::Json(json!({
            "cluster": "fake", "epoch": 3,
            "nodes": [{ "id": "id-1", "name": "n1", "status": "up" }],
        }))
        .into_response(),
        [b"v1", b"where", _, _] => {
            axum::Json(json!({ "token": 7, "partition": 1, "replicas": ["id-1"] })).into_response()
        }
        [b"v1", b"ring"] => axum::Json(json!({
            "epoch": 3, "nodes": [{ "id": "id-1", "name": "n1" }],
            "partitions": [
                { "partition": 0, "end_token": -1, "owner": "id-1" },
                { "partition": 1, "end_token": i64::MAX, "owner": "id-1" },
            ],
        }))
        .into_response(),
        [b"v1", b"kv", bucket, ..] if !inner.buckets.contains(&text(bucket)) => {
            problem(404, "bucket-not-found", Some("not_applied"))
        }
        [b"v1", b"kv", bucket] => list(&inner, &text(bucket), uri.query().unwrap_or_default()),
        [b"v1", b"kv", bucket, key] => {
            let at = (text(bucket), key.to_vec());
            match method {
                Method::GET => read(&inner, &at),
                Method::PUT | Method::DELETE => write(&mut inner, at, &method, &headers, body),
                _ => problem(405, "bad-request", None),
            }
        }
        _ => problem(404, "key-not-found", None),
    }
}

fn read(inner: &Inner, at: &(String, Vec<u8>)) -> Response {
    let values = inner.values.get(at).map(Vec::as_slice).unwrap_or_default();
    let context = [("henge-context", "ctx"), ("etag", "\"e\"")];
    match values {
        [] => problem(404, "key-not-found", None),
        [value] => (context, value.clone()).into_response(),
        several => {
            let siblings: Vec<_> = several
                .iter()
                .map(|value| {
                    let (value, encoding) = henge::client::encode_text(value);
                    json!({ "value": value, "encoding": encoding, "etag": "\"s\"" })
                })
                .collect();
            let body = json!({ "context": "ctx", "siblings": siblings }).to_string();
            (StatusCode::MULTIPLE_CHOICES, context, body).into_response()
        }
    }
}

fn write(
    inner: &mut Inner,
    at: (String, Vec<u8>),
    method: &Method,
    headers: &HeaderMap,
    body: Bytes,
) -> Response {
    let fault = inner.faults.pop_front().unwrap_or(Fault::None);
    if fault == Fault::Unavailable || inner.writes_left == Some(0) {
        return problem(503, "unavailable", Some("not_applied"));
    }
    if fault == Fault::TooLarge {
        return problem(413, "value-too-large", Some("not_applied"));
    }
    let operation = headers.get("idempotency-key").and_then(|id| id.to_str().ok());
    let repeat = operation.is_some_and(|id| !inner.operations.insert((at.1.clone(), id.into())));
    let values = inner.values.entry(at).or_default();
    let created = values.is_empty();
    if !repeat {
        if method == Method::DELETE || headers.contains_key("henge-context") {
            values.clear();
        }
        if method == Method::PUT {
            values.push(body);
        }
    }
    let count = values.len().to_string();
    if !repeat {
        inner.writes += 1;
        inner.writes_left = inner.writes_left.map(|left| left - 1);
    }
    if fault == Fault::AppliedButTimedOut {
        return problem(504, "timeout", Some("unknown"));
    }
    let status =
        if method == Method::PUT && created { StatusCode::CREATED } else { StatusCode::NO_CONTENT };
    let replayed = if repeat { "true" } else { "false" };
    let headers = [("henge-siblings", count.as_str()), ("henge-replayed", replayed)];
    (status, headers).into_response()
}

/// A page: the cursor is the number of keys before it.
fn list(inner: &Inner, bucket: &str, query: &str) -> Response {
    let parameter = |name: &str| {
        let pair = query.split('&').find_map(|pair| pair.strip_prefix(&format!("{name}=")))?;
        Some(percent_decode_str(pair).decode_utf8_lossy().into_owned())
    };
    let number = |name: &str| parameter(name).and_then(|text| text.parse().ok());
    let (start, limit): (usize, usize) =
        (number("start").unwrap_or(0), number("limit").unwrap_or(100));
    let prefix = parameter("prefix").unwrap_or_default();
    let keys: Vec<_> = inner
        .values
        .iter()
        .filter(|((of, key), values)| {
            of == bucket && key.starts_with(prefix.as_bytes()) && !values.is_empty()
        })
        .map(|((_, key), values)| {
            let (key, encoding) = henge::client::encode_text(key);
            json!({ "key": key, "encoding": encoding, "siblings": values.len() })
        })
        .collect();
    let page: Vec<_> = keys.iter().skip(start).take(limit).collect();
    let end = start + page.len();
    let next = (end < keys.len()).then(|| end.to_string());
    axum::Json(json!({ "keys": page, "next": next })).into_response()
}
