//! The HTTP door on byte streams: both protocol versions, garbage, clients that are slow in every
//! way, and the orderly end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::support::{Fake, World, eventually};
use axum::http::Request;
use bytes::Bytes;
use henge::env::tokio_env;
use henge::server::http::HttpLimits;
use henge::server::http::listen::{Listener, serve_stream};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::net::TcpStream;
use tokio::sync::{oneshot, watch};

/// Bounds that are over soon.
fn hasty() -> HttpLimits {
    HttpLimits {
        header_timeout_ms: 120,
        body_pause_ms: 120,
        body_timeout_ms: 1000,
        idle_timeout_ms: 200,
        stall_timeout_ms: 200,
        drain_timeout_ms: 5000,
        ..HttpLimits::default()
    }
}

/// A connection to the world's door, and what stops it.
fn connect(w: &World, buffer: usize) -> (DuplexStream, watch::Sender<bool>) {
    let (near, far) = duplex(buffer);
    let (stop, stopped) = watch::channel(false);
    let door = w.door.clone();
    tokio_env().spawn("connection", async move { serve_stream(far, &door, stopped, true).await });
    (near, stop)
}

/// Everything that comes until the connection ends.
async fn rest(stream: &mut DuplexStream) -> String {
    let mut out = Vec::new();
    let _ = stream.read_to_end(&mut out).await;
    String::from_utf8_lossy(&out).into_owned()
}

async fn world(limits: HttpLimits) -> World {
    let w = World::with(Fake::new(), limits);
    assert_eq!(w.put("/v1/buckets/b", &[], "").await.status, 201);
    w
}

#[tokio::test]
async fn requests_follow_each_other_on_one_connection() {
    let w = world(HttpLimits::default()).await;
    let (mut stream, _stop) = connect(&w, 4096);
    let requests = "PUT /v1/kv/b/k HTTP/1.1\r\nhost: h\r\ncontent-length: 3\r\n\r\none\
                    GET /v1/kv/b/k HTTP/1.1\r\nhost: h\r\n\r\n\
                    HEAD /v1/kv/b/k HTTP/1.1\r\nhost: h\r\n\r\n\
                    GET /v1/kv/b/k HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n";
    stream.write_all(requests.as_bytes()).await.unwrap();
    let text = rest(&mut stream).await;
    let statuses: Vec<&str> =
        text.match_indices("HTTP/1.1 ").map(|(at, _)| &text[at + 9..at + 12]).collect();
    assert_eq!(statuses, ["201", "200", "200", "200"], "{text}");
    assert!(text.ends_with("\r\n\r\none"), "{text}");
}

#[tokio::test]
async fn http_2_is_served_on_the_same_port() {
    let w = world(HttpLimits::default()).await;
    let (stream, _stop) = connect(&w, 64 * 1024);
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio_env().spawn("client", async move {
        let _ = connection.await;
    });
    let call = |method: &str, body: &'static str| {
        Request::builder()
            .method(method)
            .uri("http://h/v1/kv/b/k")
            .body(Full::new(Bytes::from_static(body.as_bytes())))
            .unwrap()
    };
    let put = client.send_request(call("PUT", "two")).await.unwrap();
    assert_eq!(put.status(), 201);
    let mut answers = Vec::new();
    for _ in 0..20 {
        answers.push(client.send_request(call("GET", "")));
    }
    for answer in answers {
        let body = answer.await.unwrap().into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "two");
    }
}

#[tokio::test]
async fn what_is_no_http_gets_a_problem_and_the_connection_ends() {
    let w = world(HttpLimits::default()).await;
    let garbage = [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"[..],
        b"GARBAGE\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\n\r\n",
        b"PUT /v1/kv/b/k HTTP/1.1\r\nhost: h\r\ncontent-length: x\r\n\r\n",
    ];
    for bytes in garbage {
        let (mut stream, _stop) = connect(&w, 4096);
        stream.write_all(bytes).await.unwrap();
        let text = rest(&mut stream).await;
        assert!(text.starts_with("HTTP/1.1 400 "), "{bytes:?}: {text}");
        assert!(text.contains("application/problem+json"), "{bytes:?}: {text}");
        assert!(text.contains("/problems/bad-request") && text.contains("not_applied"), "{text}");
    }
    assert_eq!(w.get("/healthz", &[]).await.status, 200);
}

#[tokio::test]
async fn heads_beyond_all_measure_get_a_problem_too() {
    let w = world(HttpLimits::default()).await;
    let long = "x".repeat(70_000);
    let many: String = (0..300).map(|n| format!("x-{n}: 1\r\n")).collect();
    let large = "y".repeat(500_000);
    for (head, status, name) in [
        (format!("GET /{long} HTTP/1.1\r\nhost: h\r\n\r\n"), "414", "uri-too-long"),
        (format!("GET / HTTP/1.1\r\nhost: h\r\n{many}\r\n"), "431", "headers-too-large"),
        (format!("GET / HTTP/1.1\r\nhost: h\r\nx: {large}\r\n\r\n"), "431", "headers-too-large"),
        (
            format!("GET / HTTP/1.1\r\nconnection: close\r\nx: {long}\r\n\r\n"),
            "431",
            "headers-too-large",
        ),
    ] {
        let (mut stream, _stop) = connect(&w, 1 << 20);
        stream.write_all(head.as_bytes()).await.unwrap();
        let text = rest(&mut stream).await;
        assert!(
            text.starts_with(&format!("HTTP/1.1 {status} ")),
            "{name}, {} bytes: {text}",
            head.len()
        );
        assert!(text.contains(name), "{text}");
    }
}

#[tokio::test]
async fn a_body_that_pauses_too_long_is_408_and_not_applied() {
    let w = world(hasty()).await;
    let (mut stream, _stop) = connect(&w, 4096);
    stream
        .write_all(b"PUT /v1/kv/b/k HTTP/1.1\r\nhost: h\r\ncontent-length: 9\r\n\r\nhalf")
        .await
        .unwrap();
    let text = rest(&mut stream).await;
    assert!(text.starts_with("HTTP/1.1 408 "), "{text}");
    assert!(text.contains("/problems/request-timeout") && text.contains("not_applied"), "{text}");
    assert_eq!(w.fake.writes.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_connection_that_is_closed_within_a_body_writes_nothing() {
    let w = world(HttpLimits::default()).await;
    let (mut stream, _stop) = connect(&w, 4096);
    stream
        .write_all(b"PUT /v1/kv/b/k HTTP/1.1\r\nhost: h\r\ncontent-length: 9\r\n\r\nhalf")
        .await
        .unwrap();
    stream.shutdown().await.unwrap();
    let text = rest(&mut stream).await;
    assert!(text.is_empty() || text.starts_with("HTTP/1.1 400 "), "{text}");
    eventually("the request has ended", || w.door.under_way() == 0).await;
    assert_eq!(w.fake.writes.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn an_idle_connection_and_one_that_stammers_are_closed() {
    let w = world(hasty()).await;
    for said in ["", "GET /healthz HT", "PRI * HTTP/2.0"] {
        let (mut stream, _stop) = connect(&w, 4096);
        stream.write_all(said.as_bytes()).await.unwrap();
        assert_eq!(rest(&mut stream).await, "", "{said:?}");
    }
    // Between requests it may rest longer, and not for ever.
    let (mut stream, _stop) = connect(&w, 4096);
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: h\r\n\r\n").await.unwrap();
    assert!(rest(&mut stream).await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn a_client_that_takes_no_bytes_is_cut_and_its_memory_comes_back() {
    let w = world(hasty()).await;
    assert_eq!(w.put("/v1/kv/b/k", &[], vec![1; 1 << 20]).await.status, 201);
    let (mut stream, _stop) = connect(&w, 1024);
    stream.write_all(b"GET /v1/kv/b/k HTTP/1.1\r\nhost: h\r\n\r\n").await.unwrap();
    eventually("the answer lies there", || w.door.under_way() == 1).await;
    eventually("it is given up", || w.door.under_way() == 0).await;
    let text = rest(&mut stream).await;
    assert!(text.len() < 1 << 20);
    let numbers = w.get("/metrics", &[]).await;
    let numbers = std::str::from_utf8(&numbers.body).unwrap();
    assert!(numbers.contains("henge_http_body_bytes_held 0\n"), "{numbers}");
    assert!(numbers.contains("henge_http_connections 0\n"), "{numbers}");
}

/// Serves `limits` on a real port; gives the address and what stops it.
async fn listening(w: &World) -> (SocketAddr, oneshot::Sender<()>, oneshot::Receiver<()>) {
    let listener = Listener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let address = listener.local_address().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let (ended, end) = oneshot::channel();
    let door = w.door.clone();
    tokio_env().spawn("listener", async move {
        listener.serve(door, async move { drop(stopped.await) }).await;
        let _ = ended.send(());
    });
    (address, stop, end)
}

#[tokio::test]
async fn a_client_that_is_still_sending_a_value_too_large_sees_the_answer() {
    let limits = HttpLimits { max_value_bytes: 1 << 20, ..HttpLimits::default() };
    let w = world(limits).await;
    let (address, _stop, _end) = listening(&w).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let size = 2_000_000;
    let head = format!(
        "PUT /v1/kv/b/k HTTP/1.1\r\nhost: h\r\nconnection: close\r\ncontent-length: {size}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&vec![b'x'; size]).await.unwrap();
    let mut out = Vec::new();
    stream.read_to_end(&mut out).await.unwrap();
    let text = String::from_utf8(out).unwrap();
    assert!(text.starts_with("HTTP/1.1 413 ") && text.contains("value-too-large"), "{text}");
}

#[tokio::test]
async fn a_value_of_the_largest_size_goes_in_and_out() {
    let w = world(HttpLimits::default()).await;
    let (address, _stop, _end) = listening(&w).await;
    let value: Vec<u8> = (0..8u32 << 20).map(|n| (n % 251) as u8).collect();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head =
        format!("PUT /v1/kv/b/k HTTP/1.1\r\nhost: h\r\ncontent-length: {}\r\n\r\n", value.len());
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&value).await.unwrap();
    stream
        .write_all(b"GET /v1/kv/b/k HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut out = Vec::new();
    stream.read_to_end(&mut out).await.unwrap();
    assert!(out.starts_with(b"HTTP/1.1 201 "));
    assert!(out.ends_with(&value));
}

#[tokio::test]
async fn beyond_the_most_connections_a_client_is_told_and_the_others_go_on() {
    let w = world(HttpLimits { max_connections: 2, ..HttpLimits::default() }).await;
    let (address, _stop, _end) = listening(&w).await;
    let mut first = TcpStream::connect(address).await.unwrap();
    let _second = TcpStream::connect(address).await.unwrap();
    let mut out = Vec::new();
    let mut third = TcpStream::connect(address).await.unwrap();
    third.read_to_end(&mut out).await.unwrap();
    let text = String::from_utf8(out).unwrap();
    assert!(text.starts_with("HTTP/1.1 503 ") && text.contains("/problems/overloaded"), "{text}");
    assert!(text.contains("retry-after: 1\r\n"));
    first
        .write_all(b"GET /healthz HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut out = String::new();
    first.read_to_string(&mut out).await.unwrap();
    assert!(out.starts_with("HTTP/1.1 200 "), "{out}");
}

#[tokio::test]
async fn thousands_of_idle_connections_leave_the_node_alive() {
    let w = world(HttpLimits::default()).await;
    let (address, _stop, _end) = listening(&w).await;
    let mut idle = Vec::new();
    for _ in 0..2000 {
        match TcpStream::connect(address).await {
            Ok(stream) => idle.push(stream),
            Err(_) => break, // this process may open no more
        }
    }
    drop(idle.pop());
    drop(idle.pop());
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream
        .write_all(b"GET /v1/kv/b/k HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut out = String::new();
    stream.read_to_string(&mut out).await.unwrap();
    assert!(out.starts_with("HTTP/1.1 404 "), "{out}");
}

#[tokio::test]
async fn the_end_is_orderly() {
    let mut fake = Fake::new();
    fake.gate = Some(tokio::sync::Semaphore::new(0));
    let w = Arc::new(World::with(fake, hasty()));
    w.put("/v1/buckets/b", &[], "").await;
    let (address, stop, end) = listening(&w).await;
    let mut idle = TcpStream::connect(address).await.unwrap();
    let mut busy = TcpStream::connect(address).await.unwrap();
    busy.write_all(b"PUT /v1/kv/b/k HTTP/1.1\r\nhost: h\r\ncontent-length: 1\r\n\r\nx")
        .await
        .unwrap();
    eventually("the write waits", || w.door.under_way() == 1).await;
    stop.send(()).unwrap();
    let mut out = Vec::new();
    idle.read_to_end(&mut out).await.unwrap();
    assert!(out.is_empty(), "an idle connection is closed");
    eventually("no new connection", || std::net::TcpStream::connect(address).is_err()).await;
    w.fake.gate.as_ref().unwrap().add_permits(1);
    busy.read_to_end(&mut out).await.unwrap();
    let text = String::from_utf8(out).unwrap();
    assert!(text.starts_with("HTTP/1.1 201 "), "what was under way is answered: {text}");
    tokio_env().timeout(Duration::from_secs(10), end).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_batch_is_answered_while_it_is_sent() {
    let w = world(HttpLimits::default()).await;
    let (address, _stop, _end) = listening(&w).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream
        .write_all(b"POST /v1/kv/b/batch HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n")
        .await
        .unwrap();
    let mut seen = String::new();
    for n in 0..3 {
        let item = format!("{{\"op\":\"put\",\"key\":\"{n}\",\"value\":\"x\"}}\n");
        stream.write_all(format!("{:x}\r\n{item}\r\n", item.len()).as_bytes()).await.unwrap();
        while seen.matches("\"status\":201").count() <= n {
            let mut buffer = [0; 4096];
            let read = stream.read(&mut buffer).await.unwrap();
            assert!(read > 0, "{seen}");
            seen.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
        }
    }
}

#[cfg(feature = "sim")]
mod simulated {
    use super::*;
    use henge::sim::executor::{Executor, Schedule};

    fn run(seed: u64) -> (String, u64) {
        let mut executor = Executor::new(seed, Schedule::Uniform);
        let world = executor.world();
        let machine = world.add_machine();
        let (_group, env) = world.start(machine);
        let text = executor
            .block_on(machine, Duration::from_secs(60), async move {
                let w = World::with(Fake::in_world(env.clone()), HttpLimits::default());
                w.put("/v1/buckets/b", &[], "").await;
                let (mut near, far) = duplex(64);
                let (_stop, stopped) = watch::channel(false);
                let door = w.door.clone();
                env.spawn("door", async move { serve_stream(far, &door, stopped, false).await });
                let mut requests = String::new();
                for n in 0..20 {
                    requests.push_str(&format!(
                        "PUT /v1/kv/b/{n} HTTP/1.1\r\nhost: h\r\ncontent-length: 1\r\n\r\nx"
                    ));
                }
                requests
                    .push_str("GET /v1/kv/b/7 HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n");
                let (mut reader, mut writer) = tokio::io::split(&mut near);
                let mut out = String::new();
                let (sent, read) = tokio::join!(
                    writer.write_all(requests.as_bytes()),
                    reader.read_to_string(&mut out)
                );
                sent.unwrap();
                read.unwrap();
                out
            })
            .unwrap()
            .expect("it ends in time");
        (text, executor.trace_hash())
    }

    #[test]
    fn the_door_runs_without_a_runtime_and_the_same_each_time() {
        let (text, hash) = run(7);
        assert_eq!(text.matches("HTTP/1.1 201 ").count(), 20, "{text}");
        assert!(text.ends_with("\r\n\r\nx"));
        assert_eq!((text, hash), run(7));
    }
}
