//! Peers that fall silent, or do not read.

use super::*;

#[tokio::test]
async fn a_silent_connection_is_given_up() {
    let limits = TcpOptions { keepalive: Duration::from_millis(10), ..options() };
    let a = Node::start(hello(1), limits).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    a.transport.set_address(NodeId(2), &listener.local_addr().expect("bound").to_string());
    let call = a.env.run("call", a.call(NodeId(2), wait()));
    let (mut stream, _) = listener.accept().await.expect("it calls");
    let frame = encode_message(FrameKind::Welcome, 0, &hello(2), MAX_HELLO_BYTES).expect("small");
    stream.write_all(&frame).await.expect("it reads");
    assert_lost(call.await.expect("it ran"), "silent");
}

#[tokio::test]
async fn an_idle_connection_between_living_peers_stays() {
    let limits = TcpOptions { keepalive: Duration::from_millis(250), ..options() };
    let a = Node::start(hello(1), limits.clone()).await;
    let b = Node::start(hello(2), limits).await;
    a.knows(&b);
    assert_eq!(answer_of(a.call(b.id, Request::Ping).await), Response::Pong);
    let env = tokio_env();
    let until = env.mono() + Duration::from_millis(1500);
    eventually("six intervals are over", || env.mono() > until).await;
    assert_eq!(answer_of(a.call(b.id, Request::Ping).await), Response::Pong);
    assert_eq!(a.stats_of(b.id).connects, 1);
}

/// The peer asks for far more than it reads. What waits for it stays within the bound, and it
/// still gets all of it when it reads at last.
#[tokio::test]
async fn a_peer_that_does_not_read_costs_bounded_memory() {
    const CALLS: u64 = 2000;
    const ANSWER: u32 = 100_000;
    let limits = TcpOptions { max_queued_bytes_per_peer: 1 << 20, ..options() };
    let b = Node::start(hello(2), limits).await;
    let stream = raw_peer(&b, &hello(9)).await;
    let (read, mut write) = stream.into_split();
    let mut requests = Vec::new();
    for stream in 1..=CALLS {
        let request = page(ANSWER);
        requests.extend(encode_request(stream, &header(), &request, 1000).expect("small"));
    }
    let writer = b.env.run("write", async move {
        write.write_all(&requests).await.expect("it reads in the end");
        write
    });
    let waiting = || {
        let inbound = lock(&b.transport.shared.inbound);
        inbound.values().map(|entry| entry.caller.waiting_bytes()).max().unwrap_or(0)
    };
    let bound = (1 << 20) + 2 * ANSWER as usize;
    eventually("the bound is met", || waiting() > 1 << 20).await;
    assert!(waiting() <= bound, "{}", waiting());
    // The kernel's buffers hold some megabytes of the 200.
    assert!(b.inbound().requests < CALLS / 2, "{}", b.inbound().requests);

    let mut reader = FrameReader::new(read, 1 << 20);
    for stream in 1..=CALLS {
        reader.wait().await.expect("an answer");
        let (head, _) = reader.buffered().expect("sound").expect("whole");
        assert_eq!(head.stream, stream);
        assert!(waiting() <= bound, "{}", waiting());
        reader.consume(head);
    }
    drop(writer.await);
}

#[tokio::test]
async fn a_peer_that_does_not_read_is_given_up() {
    let limits = TcpOptions { keepalive: Duration::from_millis(50), ..options() };
    let b = Node::start(hello(2), limits).await;
    let mut stream = raw_peer(&b, &hello(9)).await;
    for id in 1..=20 {
        let request = page(10 << 20);
        let frame = encode_request(id, &header(), &request, 1000).expect("small");
        if stream.write_all(&frame).await.is_err() {
            break;
        }
    }
    eventually("it is given up", || b.inbound().connections == 0).await;
}
