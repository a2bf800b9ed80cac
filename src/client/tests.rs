//! The client against scripted nodes.
#![allow(clippy::disallowed_methods, reason = "scripted servers on the real runtime")]

use std::sync::Mutex;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};

use super::*;

type Seen = Arc<Mutex<Vec<(String, HeaderMap, Bytes)>>>;

/// A node that gives the same answer to everything and remembers what it was asked.
async fn node(answer: fn() -> Response) -> (String, Seen) {
    let seen = Seen::default();
    let app = Router::new()
        .fallback(move |State(seen): State<Seen>, uri: Uri, headers: HeaderMap, body: Bytes| {
            seen.lock().unwrap().push((uri.to_string(), headers, body));
            async move { answer() }
        })
        .with_state(seen.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move { axum::serve(listener, app).await });
    (address, seen)
}

/// An address where nobody listens.
async fn nobody() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().to_string()
}

fn unavailable() -> Response {
    let body = r#"{"type":"/problems/unavailable","title":"Unavailable","status":503,
        "detail":"1 of 2 replicas alive","outcome":"not_applied","required":2,"alive":1}"#;
    (StatusCode::SERVICE_UNAVAILABLE, [("retry-after", "3")], body).into_response()
}

fn timeout() -> Response {
    let body = r#"{"type":"/problems/timeout","status":504,"detail":"x","outcome":"unknown"}"#;
    (StatusCode::GATEWAY_TIMEOUT, body).into_response()
}

fn created() -> Response {
    let headers = [("etag", "\"1\""), ("henge-context", "ctx"), ("henge-siblings", "2")];
    (StatusCode::CREATED, headers).into_response()
}

fn client(nodes: &[&str]) -> Client {
    Client::new(nodes).unwrap().with_timeout(Duration::from_secs(20))
}

#[tokio::test]
async fn a_write_goes_on_to_the_next_node_under_the_same_operation_id() {
    let (slow, slow_saw) = node(timeout).await;
    let (good, good_saw) = node(created).await;
    let gone = nobody().await;
    let written = client(&[&slow, &gone, &good])
        .put("b", b"a/\xff k", "v", &WriteOptions { w: Some(2), ..WriteOptions::default() })
        .await
        .unwrap();
    assert!(written.created);
    assert_eq!(written.siblings, Some(2));
    assert_eq!(written.context.as_deref(), Some("ctx"));
    let (uri, first, _) = slow_saw.lock().unwrap()[0].clone();
    let (_, second, body) = good_saw.lock().unwrap()[0].clone();
    assert_eq!(uri, "/v1/kv/b/a%2F%FF%20k?w=2");
    assert_eq!(&body[..], b"v");
    assert_eq!(first["idempotency-key"], second["idempotency-key"]);
    assert!(first["idempotency-key"].to_str().unwrap().parse::<OpId>().is_ok());
}

#[tokio::test]
async fn a_write_without_operation_id_is_not_repeated_when_its_outcome_is_open() {
    let (slow, _) = node(timeout).await;
    let (good, good_saw) = node(created).await;
    let options = WriteOptions { op: OpMode::None, ..WriteOptions::default() };
    let error = client(&[&slow, &good]).put("b", b"k", "v", &options).await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::Unknown);
    assert_eq!(good_saw.lock().unwrap().len(), 0);
    // What was refused before it began may go on.
    let (refusing, _) = node(unavailable).await;
    assert!(client(&[&refusing, &good]).put("b", b"k", "v", &options).await.is_ok());
}

#[tokio::test]
async fn an_open_outcome_is_not_hidden_by_a_later_refusal() {
    let (slow, _) = node(timeout).await;
    let (refusing, _) = node(unavailable).await;
    let error = client(&[&slow, &refusing])
        .put("b", b"k", "v", &WriteOptions::default())
        .await
        .unwrap_err();
    assert_eq!(error.outcome(), Outcome::Unknown);
    assert_eq!(error.problem().unwrap().name, "timeout");
}

#[tokio::test]
async fn a_problem_document_is_read_with_its_numbers() {
    let (refusing, _) = node(unavailable).await;
    let error = client(&[&refusing]).json("/v1/cluster").await.unwrap_err();
    let problem = error.problem().unwrap();
    assert_eq!(problem.name, "unavailable");
    assert_eq!(problem.outcome, Some(Outcome::NotApplied));
    assert_eq!(problem.retry_after, Some(Duration::from_secs(3)));
    assert_eq!(problem.document["required"], 2);
    assert!(error.is_transient());
}

#[tokio::test]
async fn siblings_are_a_success_and_an_absent_bucket_is_not_an_absent_key() {
    let (several, _) = node(|| {
        let body = r#"{"context":"c","siblings":[{"value":"a","encoding":"utf8"},
            {"value":"/w==","encoding":"base64","dot":{"actor":"x","counter":7}}]}"#;
        (StatusCode::MULTIPLE_CHOICES, [("henge-context", "c")], body).into_response()
    })
    .await;
    let found = client(&[&several]).get("b", b"k", &ReadOptions::default()).await.unwrap();
    let FoundValue::Siblings(siblings) = found.value else { panic!("{found:?}") };
    assert_eq!(text_bytes(&siblings[1].value, siblings[1].encoding).unwrap()[..], [0xff]);

    let (absent, _) = node(|| {
        let body = r#"{"type":"/problems/key-not-found","status":404}"#;
        (StatusCode::NOT_FOUND, [("henge-context", "t")], body).into_response()
    })
    .await;
    let found = client(&[&absent]).get("b", b"k", &ReadOptions::default()).await.unwrap();
    assert_eq!((found.value, found.context.as_deref()), (FoundValue::Absent, Some("t")));

    let (no_bucket, _) = node(|| {
        (StatusCode::NOT_FOUND, r#"{"type":"/problems/bucket-not-found","status":404}"#)
            .into_response()
    })
    .await;
    assert!(client(&[&no_bucket]).get("b", b"k", &ReadOptions::default()).await.is_err());
}

#[tokio::test]
async fn nobody_there_is_not_applied_and_names_the_address() {
    let gone = nobody().await;
    let error = client(&[&gone]).put("b", b"k", "v", &WriteOptions::default()).await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::NotApplied);
    assert!(error.to_string().contains(&gone), "{error}");
}

#[tokio::test]
async fn a_broken_answer_is_unknown() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut buffer = [0; 4096];
        let _ = stream.read(&mut buffer).await;
        let _ = stream.write_all(b"HTTP/1.1 201 Created\r\ncontent-length: 99\r\n\r\nab").await;
    });
    let error =
        client(&[&address]).put("b", b"k", "v", &WriteOptions::default()).await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::Unknown);
}

#[test]
fn addresses_are_checked() {
    for good in ["http://127.0.0.1:8098", "localhost", "h:1/", "[::1]:8098", "[::1]"] {
        assert!(Node::new(good).is_ok(), "{good}");
    }
    assert_eq!(Node::new("localhost").unwrap().authority(), "localhost:8098");
    for bad in ["", "https://h:1", "h:x", "h:0", "http://h/path", "a b"] {
        assert!(Node::new(bad).is_err(), "{bad}");
    }
}
